//! The report, in Markdown.

use super::{
    Found, Plan,
    disk::{Contender, Line, MANY},
    memory::Lookup,
};
use crate::{
    machine,
    report::{self, shown},
    stats::Estimate,
};
use std::fmt::{self, Write};

/// How it is measured; written by people.
const NOTES: &str = include_str!("notes.md");
/// The least share of SQLite's rate.
const RATE_LEAST: f64 = 0.8;
/// The most syncs of 16 concurrent operations.
const SYNCS_MOST: f64 = 1.2;

pub(super) fn write(plan: &Plan, found: &Found, load: &(String, String)) -> String {
    let mut out = String::new();
    // Writing to a text does not fail.
    let _ = header(&mut out, plan, found, load)
        .and_then(|()| goals(&mut out, found))
        .and_then(|()| writes(&mut out, found))
        .and_then(|()| lookups(&mut out, plan, found))
        .and_then(|()| doors(&mut out, found))
        .and_then(|()| out.write_str(NOTES));
    out
}

fn header(out: &mut String, plan: &Plan, found: &Found, load: &(String, String)) -> fmt::Result {
    let libraries = ["rusqlite", "libsqlite3-sys", "honker-core", "tokio"];
    let tool = machine::says("strace", &["--version"]);
    let tool = tool.lines().next().unwrap_or_default();
    report::head(out, "Storage", "store", &libraries, tool, load)?;
    writeln!(
        out,
        "- {} rounds; in each, for each line, {} turns of {} ms, the contenders one after\n  \
         the other (A B A B …), on a file system of type `{}`.",
        plan.rounds,
        plan.turns,
        plan.turn.as_millis(),
        found.file_system,
    )?;
    writeln!(
        out,
        "- Every figure is a median, in brackets the 95 % interval of the median. A\n  \
         ratio and a difference are taken turn by turn, and their median is given.\n"
    )
}

fn what(line: Line) -> &'static str {
    match line {
        Line::Row => "one row, 1 writer",
        Line::Rows => "one row each, 16 writers",
        Line::Change => "change with audit row and event, 1 writer",
        Line::Changes => "change with audit row and event, 16 writers",
    }
}

fn rates(found: &Found, line: Line, contender: Contender) -> &[f64] {
    let rates = found.writes.get(&(line, contender));
    rates.map_or(&[], Vec::as_slice)
}

fn ratio(found: &Found, line: Line) -> Estimate {
    let ours = rates(found, line, Contender::Alknet).iter();
    let theirs = rates(found, line, Contender::Bare);
    Estimate::of(ours.zip(theirs).map(|(ours, theirs)| ours / theirs))
}

fn syncs(found: &Found, line: Line, contender: Contender) -> Option<f64> {
    *found.syncs.get(&(line, contender))?
}

fn goals(out: &mut String, found: &Found) -> fmt::Result {
    writeln!(out, "## Goals\n")?;
    writeln!(out, "| what | against | goal | measured | |")?;
    writeln!(out, "| --- | --- | --- | --- | --- |")?;
    let verdict = |is_met: bool| if is_met { "met" } else { "**missed**" };
    for line in Line::ALL {
        let share = ratio(found, line);
        writeln!(
            out,
            "| {} | bare SQLite, the same rows, {} a transaction | ≥ {RATE_LEAST} of its rate | {} | {} |",
            what(line),
            line.writers(),
            shown(share, 2),
            verdict(share.median >= RATE_LEAST)
        )?;
    }
    for line in [Line::Rows, Line::Changes] {
        let what = what(line);
        match syncs(found, line, Contender::Alknet) {
            Some(count) => writeln!(
                out,
                "| {what}: syncs of {MANY} operations | | ≤ {SYNCS_MOST} | {count:.2} | {} |",
                verdict(count <= SYNCS_MOST)
            )?,
            None => writeln!(
                out,
                "| {what}: syncs of {MANY} operations | | ≤ {SYNCS_MOST} | not counted: no strace | |"
            )?,
        }
    }
    writeln!(out)
}

fn writes(out: &mut String, found: &Found) -> fmt::Result {
    writeln!(out, "## Durable operations\n")?;
    writeln!(
        out,
        "| | alknet, a second | bare SQLite, a second | ratio | operations a transaction | syncs of 16, alknet | bare SQLite |"
    )?;
    writeln!(out, "| --- | --- | --- | --- | --- | --- | --- |")?;
    for line in Line::ALL {
        let rate = |contender| Estimate::of(rates(found, line, contender).iter().copied());
        let shared = found.shared.get(&line).map_or(&[][..], Vec::as_slice);
        let counted = |contender| {
            let count = syncs(found, line, contender);
            count.map_or_else(|| "–".to_owned(), |count| format!("{count:.2}"))
        };
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} |",
            what(line),
            shown(rate(Contender::Alknet), 0),
            shown(rate(Contender::Bare), 0),
            shown(ratio(found, line), 2),
            shown(Estimate::of(shared.iter().copied()), 1),
            counted(Contender::Alknet),
            counted(Contender::Bare)
        )?;
    }
    writeln!(out)
}

fn lookups(out: &mut String, plan: &Plan, found: &Found) -> fmt::Result {
    writeln!(out, "## Who is calling, of {} peers\n", plan.peers)?;
    writeln!(out, "| | ns |\n| --- | --- |")?;
    for lookup in Lookup::ALL {
        let what = match lookup {
            Lookup::Map => "a key in a `HashMap`, with its value cloned",
            Lookup::NodeKey => "node key",
            Lookup::ApiKey => "API key, parsed before",
            Lookup::ApiKeyText => "API key, from its text",
        };
        let took = found.lookups.get(&lookup).map_or(&[][..], Vec::as_slice);
        let took = Estimate::of(took.iter().copied());
        writeln!(out, "| {what} | {} |", shown(took, 1))?;
    }
    writeln!(out)
}

fn doors(out: &mut String, found: &Found) -> fmt::Result {
    let doors = || found.doors.iter();
    let plain = Estimate::of(doors().map(|turn| turn.plain_ns));
    let audited = Estimate::of(doors().map(|turn| turn.audited_ns));
    let added = Estimate::of(doors().map(|turn| turn.audited_ns - turn.plain_ns));
    let rows = Estimate::of(doors().map(|turn| turn.rows_per_second));
    writeln!(out, "## The audit log\n")?;
    writeln!(out, "| | |\n| --- | --- |")?;
    writeln!(
        out,
        "| a call that leaves no row, ns | {} |",
        shown(plain, 0)
    )?;
    writeln!(
        out,
        "| a call with its row in SQLite, ns | {} |",
        shown(audited, 0)
    )?;
    writeln!(out, "| added to a call, ns | {} |", shown(added, 0))?;
    writeln!(
        out,
        "| rows a second, until the last is durable | {} |\n",
        shown(rows, 0)
    )
}
