//! The matrix: what happens to links, and to what runs over them, behind every
//! kind of NAT and across every change of a network.
//!
//! Each [`Scenario`] makes a network of its own, starts the real `alknet` in it
//! (two nodes and their own relays), pairs the nodes, runs three workloads
//! across a change, and says what it saw as a [`Row`]. What is expected is part
//! of the scenario, and every deviation is listed in the row.
//!
//! Not here: networks ([`crate::Lab`]), and anything about the insides of
//! `alknet`: it is driven by its command line and `--json` only.

mod catalogue;
mod change;
mod command;
mod probe;
mod program;
mod run;
mod stage;
mod table;
mod workload;

pub use catalogue::all;
pub use change::Change;
pub use command::{MatrixArgs, MatrixError, matrix};
pub use probe::Path;
pub use run::{Row, run};
pub use table::{About, Results, page};
pub use workload::Outcome;

use crate::{LabError, Nat};
use std::{path::PathBuf, time::Duration};

/// Silence after which a node counts its peer as gone: the default of
/// `[limits] idle_ms`.
pub const IDLE: Duration = Duration::from_secs(15);
/// How much later than [`IDLE`] after the last packet a call may still end. A
/// keep-alive sent into silence starts the time once more (RFC 9000, 10.1), and
/// those go out every five seconds; the rest is for a loaded machine.
pub const MARGIN: Duration = Duration::from_secs(10);

/// What must become of the workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// All come to their ends, with nothing missing and nothing twice.
    Survive,
    /// The same after a stall of up to half a minute, in which small calls may
    /// run out of time.
    SurviveStalled,
    /// All end with `LOST`, at most [`IDLE`] and [`MARGIN`] after the change.
    EndLost,
}

/// One row of the matrix.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name: lower-case words with dashes.
    pub name: &'static str,
    /// What is special about it, in a sentence.
    pub about: &'static str,
    /// The NAT of the node that is called.
    pub home: Nat,
    /// The NAT of the node that calls.
    pub laptop: Nat,
    /// It is `home` that calls: the laptop, to which the change happens, is
    /// called.
    pub calls_back: bool,
    /// How many relays of their own the two have.
    pub relays: usize,
    /// How the laptop's network is before anything starts.
    pub before: Before,
    /// What changes while the workloads run.
    pub change: Change,
    /// The path once it has settled, before the change.
    pub path: Path,
    /// The path once it has settled, after the change.
    pub path_after: Path,
    /// What becomes of the workloads.
    pub expect: Expect,
    /// Bytes of the bulk workload in a whole run, 1 GiB where the network can
    /// carry that in minutes.
    pub bulk_bytes: u64,
}

/// How the laptop's network is from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// As its NAT makes it.
    Plain,
    /// Its router lets no UDP through, in neither direction.
    UdpBlocked,
    /// Its router forgets silent UDP flows after this many seconds.
    UdpTimeout(u32),
    /// Its clock is off by this many seconds.
    Clock(i64),
    /// All others have IPv4 and IPv6, it has only IPv4.
    OthersHaveIpv6,
}

impl Scenario {
    /// A program that it needs and that is not here, by its Debian package.
    #[must_use]
    pub fn missing(&self) -> Option<&'static str> {
        let skews = matches!(self.before, Before::Clock(_));
        (skews && stage::faketime().is_none()).then_some("faketime")
    }
}

/// How thorough a run is.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program under test.
    pub alknet: PathBuf,
    /// The bulk workload has its whole size, and "stays on the relay" is
    /// watched for longer.
    pub full: bool,
}

/// Why a scenario could not be run to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// The network could not be made or changed.
    #[error("the lab failed")]
    Lab(#[from] LabError),
    /// A command failed that must not.
    #[error("`{command}` at `{at}` failed: {said}")]
    Program {
        /// The command.
        command: String,
        /// The seat.
        at: String,
        /// What it said.
        said: String,
    },
    /// The scenario was not what it should be.
    #[error("{what}")]
    Premise {
        /// What was different.
        what: String,
    },
    /// Something did not happen.
    #[error("not within {seconds} s: {what}")]
    NotInTime {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
    },
    /// It failed with the nodes running.
    #[error("{source}\n{told}")]
    Staged {
        /// What the nodes said.
        told: String,
        /// What failed.
        source: Box<ScenarioError>,
    },
    /// The system refused something.
    #[error("failed to {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

impl ScenarioError {
    fn io(what: &'static str, source: std::io::Error) -> Self {
        Self::Io { what, source }
    }
}
