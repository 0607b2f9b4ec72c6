//! `alknet-lab`: the lab by hand. `./lab` builds and starts it.

mod by_hand;
mod report;

use clap::{Args, Parser, Subcommand};
use std::{
    io::{self, Write},
    process::ExitCode,
};

/// Networks with NATs, losses and delays on this machine, for trying things
///
/// It takes root, and the programs `ip`, `tc` and `nft`. Nothing of the machine's
/// own network is touched.
#[derive(Parser)]
#[command(name = "lab", max_term_width = 90, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  ./lab up --left cone --right symmetric
  ./lab enter relay -- target/debug/alknet relay --listen 203.0.113.60:443 --self-signed
  ./lab enter left                           a shell there
  ./lab set left delay 50ms                  while everything runs
  ./lab set right rebind
  ./lab down
  ./lab measure                              what is impaired, and by how much
  ./lab matrix --list                        whole scenarios with `alknet`";

#[derive(Subcommand)]
enum Command {
    /// Makes a relay host and two sites, and keeps them until `down`
    Up(by_hand::Up),
    /// Runs a command in a host, a shell if none is named
    Enter(by_hand::Enter),
    /// Changes a site while everything runs: `set left loss 10`
    #[command(after_help = by_hand::SETTINGS)]
    Set(by_hand::Set),
    /// Removes what `up` made, and ends what runs in it
    Down(by_hand::Down),
    /// Removes what killed processes left
    Clean,
    /// Makes a lab, and prints what is measured in it as a table
    Measure,
    /// Runs `alknet` through whole scenarios, and prints or writes their table
    Matrix(Box<alknet_lab::scenario::MatrixArgs>),
    /// Keeps a lab; `up` starts it
    #[command(hide = true)]
    Hold(Hold),
}

/// What `up` hands to the process that keeps the lab.
#[derive(Args)]
struct Hold {
    #[command(flatten)]
    up: by_hand::Up,
}

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            // Nobody can be told that standard error is closed.
            let _ = writeln!(io::stderr(), "error: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    let mut out = io::stdout().lock();
    match command {
        Command::Up(up) => by_hand::up(&up, &mut out)?,
        Command::Hold(hold) => by_hand::hold(&hold.up, &mut out)?,
        Command::Enter(enter) => return Err(by_hand::enter(&enter)?.into()),
        Command::Set(set) => by_hand::set(&set)?,
        Command::Down(down) => by_hand::down(&down)?,
        Command::Clean => {
            for name in alknet_lab::clean() {
                writeln!(out, "removed {name}")?;
            }
        }
        Command::Measure => report::measure(&mut out)?,
        Command::Matrix(args) => {
            if !alknet_lab::scenario::matrix(&args, &mut out)? {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
