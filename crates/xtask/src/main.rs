//! House rules, supply-chain checks and generated documents.
//!
//! `cargo xtask tidy` reads the tree and fails on what reviewers should not
//! have to look for; `licences` and `supply` look at what we depend on; `docs`
//! writes the reference pages that the `alknet` program describes itself.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people"
)]

mod arrows;
mod decisions;
mod docs;
mod finding;
mod licences;
mod links;
mod manifest;
mod mask;
mod metadata;
mod rust;
mod supply;
mod text;
mod tidy;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
usage: cargo xtask COMMAND

  tidy                      house rules over every tracked file and crate
  licences                  every dependency has an allowed licence
  supply                    one version where two would hurt, nothing banned
  docs [--check] [--bin F]  write docs/reference/*.md, or fail if they are stale";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(err) => {
            eprintln!("error: {err:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs one command; false means that it found something to report.
fn run(arguments: &[String]) -> Result<bool> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["tidy"] => Ok(finding::report(&tidy::run()?)),
        ["licences"] => Ok(finding::report(&licences::run()?)),
        ["supply"] => Ok(finding::report(&supply::run()?)),
        ["docs", options @ ..] => docs::run(&docs::Options::parse(options)?),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(true)
        }
        _ => bail!("unknown command `{}`\n{USAGE}", words.join(" ")),
    }
}
