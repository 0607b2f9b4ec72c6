//! Measures alknet against its peers: each area runs ours and theirs in turns
//! on one machine and writes medians, ratios and what they cost to
//! `docs/research/bench/AREA.md`.
//!
//! Every contender is two processes of this program, a server and a client,
//! which a third one gives orders to over their standard input; so CPU time and
//! memory belong to one contender and one side.

mod call;
mod files;
mod machine;
mod net;
mod report;
mod stats;
mod store;
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
    /// Files between two nodes beside `scp`, `rsync` and local copies.
    Files(Options),
    /// Meetings, calls and bulk through NATs and a relay; needs root on Linux.
    Net(Options),
    /// Durable operations, identities and the audit log.
    Store(Options),
    /// One side of one contender; started by the program itself.
    #[command(hide = true)]
    Worker(call::Role),
    /// One part of the area `net`; started by the program itself.
    #[command(hide = true)]
    NetWorker(net::Role),
    /// Writes whose syncs are counted; started by the program itself.
    #[command(hide = true)]
    StoreWorker(store::Role),
}

#[derive(clap::Args, Default)]
struct Options {
    /// Fewer and shorter turns, for development; prints the report.
    #[arg(long)]
    quick: bool,
    /// How many rounds; five if not said, and fewer for development.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
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
        None => {
            let calls = measure_calls(&Options::default())?;
            let store = measure_store(&Options::default())?;
            let files = measure_files(&Options::default())?;
            Ok(calls + &store + &files + &measure_net(&Options::default())?)
        }
        Some(Area::Call(options)) => measure_calls(&options),
        Some(Area::Files(options)) => measure_files(&options),
        Some(Area::Net(options)) => measure_net(&options),
        Some(Area::Store(options)) => measure_store(&options),
        Some(Area::StoreWorker(role)) => {
            worker::run(store::serve_role(role)).map(|()| String::new())
        }
        Some(Area::Worker(role)) => worker::run(call::serve_role(role)).map(|()| String::new()),
        Some(Area::NetWorker(role)) => worker::run(net::serve_role(role)).map(|()| String::new()),
    }
}

impl Options {
    /// The plan among these that was asked for.
    fn plan<P>(&self, smoke: P, quick: P, full: P) -> P {
        match (self.smoke, self.quick) {
            (true, _) => smoke,
            (false, true) => quick,
            (false, false) => full,
        }
    }

    /// Writes the report where it was asked for, or where it usually is; one
    /// for development is printed.
    fn keep(&self, area: &str, text: String) -> Result<String> {
        let is_development = self.quick || self.smoke || cfg!(debug_assertions);
        let usual = PathBuf::from(format!("docs/research/bench/{area}.md"));
        match self.out.clone().or((!is_development).then_some(usual)) {
            Some(path) => write(&path, &text).map(|()| format!("wrote {}\n", path.display())),
            None => Ok(text),
        }
    }
}

fn measure_calls(options: &Options) -> Result<String> {
    use call::Plan;
    let mut plan = options.plan(Plan::smoke(), Plan::quick(), Plan::full());
    plan.rounds = options.rounds.map_or(plan.rounds, usize::from);
    options.keep("call", call::measure(&plan)?)
}

fn measure_files(options: &Options) -> Result<String> {
    use files::Plan;
    let mut plan = options.plan(Plan::smoke(), Plan::quick(), Plan::full());
    plan.rounds = options.rounds.map_or(plan.rounds, usize::from);
    options.keep("files", files::measure(&plan)?)
}

fn measure_net(options: &Options) -> Result<String> {
    use net::Plan;
    let mut plan = options.plan(Plan::smoke(), Plan::quick(), Plan::full());
    plan.rounds = options.rounds.map_or(plan.rounds, usize::from);
    match net::measure(&plan)? {
        net::Outcome::Measured(text) => options.keep("net", text),
        net::Outcome::Skipped(reason) => Ok(format!("skipped: net: {reason}\n")),
    }
}

fn measure_store(options: &Options) -> Result<String> {
    use store::Plan;
    let mut plan = options.plan(Plan::smoke(), Plan::quick(), Plan::full());
    plan.rounds = options.rounds.map_or(plan.rounds, usize::from);
    options.keep("store", store::measure(&plan)?)
}

fn write(path: &Path, text: &str) -> Result<()> {
    let failed = || format!("failed to write `{}`", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(failed)?;
    }
    std::fs::write(path, text).with_context(failed)
}
