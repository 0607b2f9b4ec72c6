//! `alknet put`.

use crate::{
    app::App,
    copy::{self, COPY_HELP, CopyArgs, Request},
    failure::{Exit, Failure},
    files::{FilePlace, place::PLACES_HELP},
};
use clap::{Args, ValueHint};
use std::ffi::OsString;

const EXAMPLES: &str = "\
Examples:
  alknet put report.pdf nas:www/
  alknet put -r photos/ nas:www/
  alknet put *.log nas:logs/2026/ --parents
  pg_dump db | zstd | alknet put - nas:backups/db.dump";

#[derive(Debug, Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{COPY_HELP}\n\n{PLACES_HELP}"))]
pub(crate) struct PutArgs {
    /// Files of this machine, or `-` for standard input
    #[arg(value_name = "FILE", required = true, value_hint = ValueHint::AnyPath)]
    files: Vec<OsString>,
    /// Where they go: a name, or a directory of a bucket
    #[arg(value_name = "REMOTE", required = true)]
    to: OsString,
    #[command(flatten)]
    copy: CopyArgs,
}

pub(crate) async fn run(app: &App, args: PutArgs) -> Result<Exit, Failure> {
    let to = FilePlace::parse_remote(&args.to)?;
    if args.files.iter().any(|file| file == "-") {
        if args.files.len() > 1 {
            return Err(Failure::usage("`-` is put alone"));
        }
        return copy::stdin::put(app, &to, &args.copy).await;
    }
    let sources = args
        .files
        .iter()
        .map(|one| FilePlace::parse(one))
        .collect::<Result<Vec<_>, _>>()?;
    for source in &sources {
        if let FilePlace::Remote(place) = source {
            let message = format!("`{place}` is remote, and `put` sends files of this machine");
            return Err(Failure::usage(message).hint("alknet get, or alknet cp"));
        }
    }
    let request = Request {
        sources,
        destination: FilePlace::Remote(to),
        args: args.copy,
    };
    copy::run(app, request).await
}
