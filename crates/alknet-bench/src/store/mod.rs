//! What durability costs: changes through alknet's store beside a bare SQLite
//! loop that writes the same rows; and what identities and the audit log cost
//! each call.

mod disk;
mod memory;
mod report;

pub(crate) use disk::{Role, serve_role};

use crate::machine;
use anyhow::{Context, Result};
use disk::{Contender, Line};
use memory::{DoorTurn, Lookup};
use std::{collections::BTreeMap, path::Path, time::Duration};

/// How much is measured.
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    /// Turns of each contender in a round, for each line.
    turns: usize,
    /// How long a turn of writes or calls takes.
    turn: Duration,
    /// Operations of which the syncs are counted.
    counted: usize,
    /// Peers that are known, each with a node key and an API key.
    peers: usize,
    /// Look-ups of a turn.
    lookups: usize,
}

impl Plan {
    /// What the figures in the documents come from.
    pub(crate) fn full() -> Self {
        Self {
            rounds: 5,
            turns: 3,
            turn: Duration::from_millis(500),
            counted: 1_600,
            peers: 1_000,
            lookups: 1_000_000,
        }
    }

    /// A minute's work.
    pub(crate) fn quick() -> Self {
        Self {
            rounds: 2,
            turn: Duration::from_millis(200),
            ..Self::full()
        }
    }

    /// Says nothing about speed.
    pub(crate) fn smoke() -> Self {
        Self {
            rounds: 1,
            turns: 1,
            turn: Duration::from_millis(20),
            counted: 32,
            peers: 20,
            lookups: 1_000,
        }
    }
}

/// Everything that was found, turn by turn.
#[derive(Default)]
struct Found {
    /// Operations a second.
    writes: BTreeMap<(Line, Contender), Vec<f64>>,
    /// Operations for each transaction of ours.
    shared: BTreeMap<Line, Vec<f64>>,
    /// Syncs of 16 operations; `None` where they cannot be counted.
    syncs: BTreeMap<(Line, Contender), Option<f64>>,
    /// Nanoseconds of a look-up.
    lookups: BTreeMap<Lookup, Vec<f64>>,
    /// Calls through the door.
    doors: Vec<DoorTurn>,
    /// The file system that was written to.
    file_system: String,
}

/// Measures, and answers with the report.
///
/// # Errors
///
/// A store that cannot be made or written, or a worker that fails.
pub(crate) fn measure(plan: &Plan) -> Result<String> {
    let load_before = machine::load();
    // Beside this program, not below `/tmp`, which may be memory.
    let own = std::env::current_exe().context("this program is not found")?;
    let beside = own.parent().unwrap_or(Path::new("."));
    let folder = tempfile::tempdir_in(beside).context("failed to make a folder to write to")?;
    let runtime = tokio::runtime::Runtime::new()?;
    let mut found = Found {
        file_system: machine::says("stat", &["-f", "-c", "%T", &text(folder.path())?]),
        ..Found::default()
    };
    for line in Line::ALL {
        for contender in Contender::ALL {
            let syncs = disk::count_syncs(contender, line, plan.counted, folder.path())?;
            found.syncs.insert((line, contender), syncs);
        }
    }
    runtime.block_on(turns(plan, folder.path(), &mut found))?;
    let load = (load_before, machine::load());
    Ok(report::write(plan, &found, &load))
}

fn text(path: &Path) -> Result<String> {
    let text = path.to_str().map(str::to_owned);
    text.context("its path is text")
}

async fn turns(plan: &Plan, folder: &Path, found: &mut Found) -> Result<()> {
    let mut contenders = Vec::new();
    for contender in Contender::ALL {
        let path = folder.join(format!("{}.db", contender.word()));
        contenders.push((contender, disk::Writing::open(contender, &path)?));
    }
    let known = memory::known(plan.peers).await?;
    let audited = memory::Doors::open(&folder.join("audit.db"))?;
    for _ in 0..plan.rounds {
        for line in Line::ALL {
            for _ in 0..plan.turns {
                for (contender, writing) in &contenders {
                    let turn = writing.turn(line, plan.turn).await?;
                    let rates = found.writes.entry((line, *contender)).or_default();
                    rates.push(turn.rate);
                    if let Some(shared) = turn.shared {
                        found.shared.entry(line).or_default().push(shared);
                    }
                }
            }
        }
        for _ in 0..plan.turns {
            for lookup in Lookup::ALL {
                let took = known.turn(lookup, plan.lookups);
                found.lookups.entry(lookup).or_default().push(took);
            }
            found.doors.push(audited.turn(plan.turn).await?);
        }
    }
    for (_, writing) in contenders {
        writing.close().await;
    }
    audited.close().await
}
