//! The `alknet` program as a library: parse, call, print.
//!
//! [`run`] is the whole program but for the process around it: it reads the
//! words of a command line, talks to the node that runs on the data directory
//! (or, for `up`, becomes it), prints data on standard output and everything
//! said about it on standard error, and returns what the shell is told.
//!
//! Not here: anything that a node does. Commands call the built-in operations
//! of the running node, as any other caller with its owner's key could.

mod app;
mod channel;
mod cli;
mod commands;
mod copy;
mod descriptors;
mod duration;
mod escapes;
mod failure;
mod files;
#[doc(hidden)]
pub mod fuzz;
mod hardening;
mod hint;
mod input;
mod log_lines;
mod mask;
mod node_access;
mod output;
mod prompt;
mod raw_terminal;
mod signals;
mod table;
mod when;

pub use cli::definition;
pub use commands::docs::help_pages;
pub use failure::Exit;

use crate::{app::App, cli::Cli, failure::Failure, output::Out};
use clap::Parser;
use std::{borrow::Cow, ffi::OsString, path::PathBuf};

/// Runs one command line, the program's name first.
///
/// Reads the environment (`ALKNET_DATA_DIR`, `ALKNET_KEY_FILE`, `NO_COLOR`, the XDG directories)
/// and prints. Must be called within a tokio runtime with all drivers on.
pub async fn run(words: impl IntoIterator<Item = OsString>) -> Exit {
    let words: Vec<OsString> = words.into_iter().collect();
    let cli = match Cli::try_parse_from(&words) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error, &words),
    };
    let out = Out::new(cli.global.json, cli.global.quiet);
    let dir = match data_dir(cli.global.data_dir) {
        Ok(dir) => dir,
        Err(failure) => return report(out, Err(failure)),
    };
    let app = App::new(out, dir, cli.global.key_file, cli.global.verbose);
    let done = if cli.command.ends_on_interrupt() {
        commands::log_to_stderr(&app);
        tokio::select! {
            done = Box::pin(commands::run(&app, cli.command)) => done,
            exit = signals::ending() => exit.and_then(|exit| Err(Failure::interrupted(exit))),
        }
    } else {
        Box::pin(commands::run(&app, cli.command)).await
    };
    app.close().await;
    report(out, done)
}

/// Says what failed, and returns the exit code.
fn report(out: Out, done: Result<Exit, Failure>) -> Exit {
    match done {
        Ok(exit) => exit,
        Err(failure) => {
            out.failure(&failure);
            failure.exit
        }
    }
}

/// Help and version are data; anything else is wrong usage.
fn refuse(error: &clap::Error, words: &[OsString]) -> Exit {
    use clap::error::ErrorKind::{
        DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion,
    };
    let is_help = matches!(error.kind(), DisplayHelp | DisplayVersion);
    let shows_help = is_help || error.kind() == DisplayHelpOnMissingArgumentOrSubcommand;
    if !shows_help && words.iter().any(|word| word == "--json") {
        let text = error.render().to_string();
        let text = text.split("\n\n").next().unwrap_or_default();
        let text = text.trim().trim_start_matches("error: ").to_owned();
        return report(Out::new(true, false), Err(Failure::usage(text)));
    }
    let text = error.render().to_string();
    match mask::masked(&text) {
        // Whoever would read this has left if it cannot be printed.
        Cow::Borrowed(_) => drop(error.print()),
        Cow::Owned(text) => Out::new(false, false).tell(&text),
    }
    if is_help { Exit::FINE } else { Exit::USAGE }
}

/// `--data-dir`, or `alknet` in the user's data directory (XDG Base Directory
/// Specification).
fn data_dir(given: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let dir = given.or_else(default_data_dir).ok_or_else(|| {
        Failure::usage("there is no home directory to keep the node in").hint("--data-dir DIR")
    })?;
    // Absolute, since a detached node and the hints outlive this directory.
    std::path::absolute(&dir).map_err(|error| Failure::io("find", &dir, &error))
}

/// Where a node is kept when nobody says otherwise.
fn default_data_dir() -> Option<PathBuf> {
    dirs::data_dir().map(|dir| dir.join("alknet"))
}
