//! `alknet get`.

use crate::{
    app::App,
    commands::cat,
    copy::{self, COPY_HELP, CopyArgs, Request},
    failure::{Exit, Failure},
    files::{FilePlace, place::PLACES_HELP},
};
use clap::{Args, ValueHint};
use std::{ffi::OsString, path::PathBuf};

const EXAMPLES: &str = "\
Examples:
  alknet get nas:www/report.pdf
  alknet get -r nas:www/photos backup/
  alknet get 'nas:logs/2026-11-*.log' logs/
  alknet get nas:backups/db.dump - | zstd -d | psql";

#[derive(Debug, Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{COPY_HELP}\n\n{PLACES_HELP}"))]
pub(crate) struct GetArgs {
    /// Files of buckets, then where they go here: `.` if it is left out, `-` for
    /// standard output
    #[arg(value_name = "PLACE", required = true, value_hint = ValueHint::AnyPath)]
    places: Vec<OsString>,
    #[command(flatten)]
    copy: CopyArgs,
}

pub(crate) async fn run(app: &App, mut args: GetArgs) -> Result<Exit, Failure> {
    let is_stdout = args.places.len() > 1 && args.places.last().is_some_and(|last| last == "-");
    if is_stdout {
        args.places.pop();
        args.copy.for_stream()?;
        return cat::run(app, cat::CatArgs::whole(args.places)).await;
    }
    let mut sources = args
        .places
        .iter()
        .map(|one| FilePlace::parse(one))
        .collect::<Result<Vec<_>, _>>()?;
    let destination = match sources.last() {
        Some(FilePlace::Local(_)) if sources.len() > 1 => sources.pop(),
        _ => None,
    };
    for source in &sources {
        if let FilePlace::Local(path) = source {
            let message = format!(
                "`{}` is a local path, and `get` fetches remote files",
                path.display()
            );
            return Err(Failure::usage(message).hint("alknet put, or alknet cp"));
        }
    }
    let request = Request {
        sources,
        destination: destination.unwrap_or_else(|| FilePlace::Local(PathBuf::from("."))),
        args: args.copy,
    };
    copy::run(app, request).await
}
