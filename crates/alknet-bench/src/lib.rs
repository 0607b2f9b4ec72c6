//! Measures alknet against its peers: each area runs ours and theirs in turns
//! on one machine and writes medians, ratios and what they cost to
//! `docs/research/bench/AREA.md`.
//!
//! Every contender is two processes of this program, a server and a client,
//! which a third one gives orders to over their standard input; so CPU time and
//! memory belong to one contender and one side.

mod call;
mod machine;
mod stats;
mod worker;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};

/// Measures alknet beside its peers.
#[derive(Parser)]
#[command(name = "alknet-bench")]
struct Arguments {
    /// What to measure; everything if not said.
    #[command(subcommand)]
    area: Option<Area>,
}

#[derive(Subcommand)]
enum Area {
    /// The call protocol and the door.
    Call(Options),
    /// One side of one contender; started by the program itself.
    #[command(hide = true)]
    Worker(call::Role),
}

#[derive(clap::Args, Default)]
struct Options {
    /// Fewer and shorter turns, for development; prints the report.
    #[arg(long)]
    quick: bool,
    /// As little as possible: shows that the harness works, and no more.
    #[arg(long, hide = true)]
    smoke: bool,
    /// Writes the report here.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs what the command line asks for, and answers with what to print.
///
/// # Errors
///
/// What went wrong, with the contender and the order that it happened to.
pub fn run() -> Result<String> {
    match Arguments::parse().area {
        None => measure_calls(&Options::default()),
        Some(Area::Call(options)) => measure_calls(&options),
        Some(Area::Worker(role)) => worker::run(call::serve_role(role)).map(|()| String::new()),
    }
}

fn measure_calls(options: &Options) -> Result<String> {
    let plan = match (options.smoke, options.quick) {
        (true, _) => call::Plan::smoke(),
        (false, true) => call::Plan::quick(),
        (false, false) => call::Plan::full(),
    };
    let is_development = options.quick || options.smoke || cfg!(debug_assertions);
    let usual = (!is_development).then(|| PathBuf::from("docs/research/bench/call.md"));
    let text = call::measure(&plan)?;
    match options.out.clone().or(usual) {
        Some(path) => write(&path, &text).map(|()| format!("wrote {}\n", path.display())),
        None => Ok(text),
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    let failed = || format!("failed to write `{}`", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(failed)?;
    }
    std::fs::write(path, text).with_context(failed)
}
