//! Files between two nodes on one machine, beside what people use now: `scp`,
//! `sftp` and `rsync` of the same machine, and copies without any network.

mod cost;
mod ground;
mod library;
mod lines;
mod report;

use crate::machine;
use anyhow::{Context, Result};
use cost::Cost;
use ground::{Ground, write_bulk, write_many, write_small};
use library::Library;
use lines::{Contender, Line, small};
use std::{collections::BTreeMap, path::Path};

/// How much is measured.
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    /// Of the large file.
    bulk_bytes: u64,
    /// Of the large directory.
    entries: usize,
    /// How many small files there are, in each of these trees.
    small: Vec<usize>,
    /// Trees of more are copied by `scp`, one file after the other, in so many
    /// rounds only.
    scp_files_max: usize,
    scp_rounds: usize,
    /// Questions of one turn.
    questions: usize,
    /// Programs that are started in one turn.
    starts: usize,
}

impl Plan {
    /// What the figures in the documents come from.
    pub(crate) fn full() -> Self {
        Self {
            rounds: 5,
            bulk_bytes: 1 << 30,
            entries: 100_000,
            small: vec![10_000, 100_000],
            scp_files_max: 10_000,
            scp_rounds: 2,
            questions: 2_000,
            starts: 20,
        }
    }

    /// A few minutes' work.
    pub(crate) fn quick() -> Self {
        Self {
            rounds: 2,
            bulk_bytes: 128 << 20,
            entries: 10_000,
            small: vec![2_000],
            questions: 300,
            starts: 5,
            ..Self::full()
        }
    }

    /// Says nothing about speed.
    pub(crate) fn smoke() -> Self {
        Self {
            rounds: 1,
            bulk_bytes: 3 << 20,
            entries: 300,
            small: vec![120],
            questions: 5,
            starts: 1,
            ..Self::full()
        }
    }

    fn lines(&self) -> Vec<Line> {
        let mut lines = vec![
            Line::BulkGet,
            Line::BulkPut,
            Line::BulkCat,
            Line::List,
            Line::ListLong,
        ];
        for count in self.small.iter().copied() {
            lines.extend([
                Line::SmallPut(count),
                Line::SmallPutAgain(count),
                Line::SmallGet(count),
                Line::SmallGetAgain(count),
            ]);
        }
        lines
    }

    fn takes_part(&self, round: usize, line: Line, contender: Contender) -> bool {
        let files = match line {
            Line::SmallPut(count) | Line::SmallGet(count) => count,
            _ => 0,
        };
        contender != Contender::Ssh || files <= self.scp_files_max || round < self.scp_rounds
    }
}

/// Everything that was found, turn by turn.
#[derive(Default)]
struct Found {
    costs: BTreeMap<(Line, Contender), Vec<Cost>>,
    /// Microseconds of questions by the library, all turns.
    stats: Vec<u32>,
    reads: Vec<u32>,
    /// The file system that was written to.
    file_system: String,
    has_ssh: bool,
    has_rsync: bool,
}

/// Measures, and answers with the report.
///
/// # Errors
///
/// What does not start, and the first thing that was not copied.
pub(crate) fn measure(plan: &Plan) -> Result<String> {
    let load_before = machine::load();
    // Beside this program, not below `/tmp`, which may be memory.
    let own = std::env::current_exe().context("this program is not found")?;
    let ground = Ground::make(own.parent().unwrap_or(Path::new(".")))?;
    let library = Library::join(&ground, plan.bulk_bytes, plan.entries)?;
    fill(plan, &ground)?;
    let folder = ground.folder().to_string_lossy().into_owned();
    let mut found = Found {
        file_system: machine::says("stat", &["-f", "-c", "%T", &folder]),
        has_ssh: ground.ssh.is_some(),
        has_rsync: ground.ssh.is_some() && ground.has_rsync,
        ..Found::default()
    };
    for round in 0..plan.rounds {
        turns(plan, round, &ground, &library, &mut found)?;
    }
    let load = (load_before, machine::load());
    Ok(report::write(plan, &found, &load))
}

/// Writes what is copied; it is in the page cache then, for everybody.
fn fill(plan: &Plan, ground: &Ground) -> Result<()> {
    write_bulk(&ground.www("big"), plan.bulk_bytes)?;
    write_bulk(&ground.local("big"), plan.bulk_bytes)?;
    write_bulk(&ground.www("page"), 4_096)?;
    write_many(&ground.www("many"), plan.entries)?;
    for count in plan.small.iter().copied() {
        write_small(&ground.www(&small(count)), count)?;
        write_small(&ground.local(&small(count)), count)?;
    }
    Ok(())
}

fn turns(
    plan: &Plan,
    round: usize,
    ground: &Ground,
    library: &Library,
    found: &mut Found,
) -> Result<()> {
    let mut turn = |line: Line, contender: Contender| -> Result<()> {
        if plan.takes_part(round, line, contender) {
            let cost = lines::turn(ground, library, line, contender)?;
            let costs = found.costs.entry((line, contender)).or_default();
            costs.extend(cost);
        }
        Ok(())
    };
    for line in plan.lines() {
        for contender in Contender::ALL {
            turn(line, contender)?;
        }
    }
    for _ in 0..plan.starts {
        for line in [Line::OneStat, Line::OneCat] {
            for contender in Contender::ALL {
                turn(line, contender)?;
            }
        }
    }
    found.stats.extend(library.stats(plan.questions)?);
    found.reads.extend(library.reads(plan.questions)?);
    Ok(())
}
