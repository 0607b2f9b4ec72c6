//! `alknet cp`.

use crate::{
    app::App,
    copy::{self, COPY_HELP, CopyArgs, Request},
    failure::{Exit, Failure},
    files::{FilePlace, place::PLACES_HELP},
};
use clap::{Args, ValueHint};
use std::ffi::OsString;

const EXAMPLES: &str = "\
Between two buckets of one node, the node copies. Between two peers that know
each other, the bytes go from one to the other; otherwise they pass through here.

Examples:
  alknet cp -r nas:www/photos backup:archive/
  alknet cp nas:www/a.txt nas:www/b.txt
  alknet cp -r photos/ nas:www/";

#[derive(Debug, Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{COPY_HELP}\n\n{PLACES_HELP}"))]
pub(crate) struct CpArgs {
    /// What is copied: files of this machine, of buckets, or both
    #[arg(value_name = "SRC", required = true, value_hint = ValueHint::AnyPath)]
    sources: Vec<OsString>,
    /// Where it goes
    #[arg(value_name = "DST", required = true, value_hint = ValueHint::AnyPath)]
    to: OsString,
    #[command(flatten)]
    copy: CopyArgs,
}

pub(crate) async fn run(app: &App, args: CpArgs) -> Result<Exit, Failure> {
    let destination = FilePlace::parse(&args.to)?;
    let sources = args
        .sources
        .iter()
        .map(|one| FilePlace::parse(one))
        .collect::<Result<Vec<_>, _>>()?;
    let is_local = |place: &FilePlace| matches!(place, FilePlace::Local(_));
    if is_local(&destination) && sources.iter().any(is_local) {
        let message = "both are local paths: remote files have a colon, as in `nas:bucket/path`";
        return Err(Failure::usage(message).hint("cp copies on this machine"));
    }
    let request = Request {
        sources,
        destination,
        args: args.copy,
    };
    copy::run(app, request).await
}
