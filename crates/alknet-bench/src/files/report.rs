//! The report, in Markdown.

use super::{
    Found, Plan,
    cost::Cost,
    lines::{Contender, Line},
};
use crate::{
    machine,
    report::{self, shown},
    stats::{Estimate, quantile},
};
use std::{
    fmt::{self, Write},
    process::Command,
};

/// How it is measured; written by people.
const NOTES: &str = include_str!("notes.md");

pub(super) fn write(plan: &Plan, found: &Found, load: &(String, String)) -> String {
    let mut out = String::new();
    // Writing to a text does not fail.
    let _ = header(&mut out, plan, found, load)
        .and_then(|()| short(&mut out, plan, found))
        .and_then(|()| bulk(&mut out, plan, found))
        .and_then(|()| listings(&mut out, plan, found))
        .and_then(|()| small(&mut out, plan, found))
        .and_then(|()| single(&mut out, plan, found))
        .and_then(|()| out.write_str(NOTES));
    out
}

fn header(out: &mut String, plan: &Plan, found: &Found, load: &(String, String)) -> fmt::Result {
    let rsync = machine::says("rsync", &["--version"]);
    let rsync = rsync.lines().next().unwrap_or_default().to_owned();
    let cp = machine::says("cp", &["--version"]);
    let cp = cp.lines().next().unwrap_or_default();
    let tool = format!("{}, {rsync}, {cp}", openssh());
    report::head(
        out,
        "Files",
        "files",
        &["iroh", "tokio", "blake3"],
        &tool,
        load,
    )?;
    writeln!(
        out,
        "- {} rounds; in each, each line by one contender after the other (A B A B …), on a\n  \
         file system of type `{}`, the sources in the page cache.",
        plan.rounds, found.file_system,
    )?;
    writeln!(
        out,
        "- Every figure is a median, in brackets the 95 % interval of the median. A\n  \
         ratio is taken turn by turn, and its median is given."
    )?;
    if !found.has_ssh {
        writeln!(out, "- Left out: OpenSSH; its server is not installed.")?;
    }
    if !found.has_rsync {
        writeln!(
            out,
            "- Left out: rsync, which is not installed, or has no server."
        )?;
    }
    writeln!(out)
}

/// Its version, which it says on standard error.
fn openssh() -> String {
    let output = Command::new("ssh").arg("-V").output();
    output.map_or_else(
        |_| "no OpenSSH".to_owned(),
        |output| String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    )
}

fn who(line: Line, contender: Contender) -> &'static str {
    match (contender, line) {
        (Contender::CommandLine, _) => "alknet, command line",
        (Contender::Library, _) => "alknet, library",
        (Contender::Ssh, Line::BulkCat | Line::OneCat) => "ssh cat",
        (Contender::Ssh, Line::List | Line::ListLong) => "ssh ls",
        (Contender::Ssh, Line::OneStat) => "ssh stat",
        (Contender::Ssh, _) => "scp",
        (Contender::KeptSsh, Line::OneStat) => "ssh stat, connection kept",
        (Contender::KeptSsh, _) => "ssh cat, connection kept",
        (Contender::Sftp, _) => "sftp ls",
        (Contender::Rsync, _) => "rsync over ssh",
        (Contender::Local, Line::BulkCat | Line::OneCat) => "cat, no network",
        (Contender::Local, Line::List | Line::ListLong) => "ls, no network",
        (Contender::Local, Line::OneStat) => "stat, no network",
        (Contender::Local, Line::SmallPutAgain(_) | Line::SmallGetAgain(_)) => "rsync, no network",
        (Contender::Local, _) => "cp, no network",
    }
}

fn costs(found: &Found, line: Line, contender: Contender) -> &[Cost] {
    let costs = found.costs.get(&(line, contender));
    costs.map_or(&[], Vec::as_slice)
}

fn of(costs: &[Cost], what: impl Fn(&Cost) -> f64) -> Estimate {
    Estimate::of(costs.iter().map(what))
}

/// How many times as fast one is as the other, in seconds until durable if
/// something is written.
fn times_as_fast(
    found: &Found,
    line: Line,
    ours: Contender,
    theirs: Contender,
) -> Option<Estimate> {
    let seconds = |cost: &Cost| match line.writes() {
        true => cost.durable_seconds,
        false => cost.seconds,
    };
    let pairs = costs(found, line, ours)
        .iter()
        .zip(costs(found, line, theirs));
    let ratios: Vec<f64> = pairs
        .map(|(ours, theirs)| seconds(theirs) / seconds(ours))
        .collect();
    (!ratios.is_empty()).then(|| Estimate::of(ratios))
}

fn what(line: Line) -> String {
    match line {
        Line::BulkGet => "one large file, get".into(),
        Line::BulkPut => "one large file, put".into(),
        Line::BulkCat => "one large file, its bytes".into(),
        Line::List => "names of a large directory".into(),
        Line::ListLong => "a large directory with all that is known".into(),
        Line::SmallPut(count) => format!("{count} small files, put"),
        Line::SmallGet(count) => format!("{count} small files, get"),
        Line::SmallPutAgain(count) => format!("{count} small files, put again, nothing to do"),
        Line::SmallGetAgain(count) => format!("{count} small files, get again, nothing to do"),
        Line::OneStat => "one file described, by a program".into(),
        Line::OneCat => "4 KiB read, by a program".into(),
    }
}

/// The answer in one table.
fn short(out: &mut String, plan: &Plan, found: &Found) -> fmt::Result {
    writeln!(out, "## In short\n")?;
    writeln!(
        out,
        "How many times as fast the command line of alknet is as others; what is written\n\
         counts when it is on the disk.\n"
    )?;
    writeln!(
        out,
        "| | scp, ssh | ssh, connection kept | sftp | rsync | no network |"
    )?;
    writeln!(out, "| --- | --- | --- | --- | --- | --- |")?;
    let others = [
        Contender::Ssh,
        Contender::KeptSsh,
        Contender::Sftp,
        Contender::Rsync,
        Contender::Local,
    ];
    for line in plan
        .lines()
        .into_iter()
        .chain([Line::OneStat, Line::OneCat])
    {
        write!(out, "| {} |", what(line))?;
        for other in others {
            match times_as_fast(found, line, Contender::CommandLine, other) {
                Some(ratio) => write!(out, " {} |", shown(ratio, 2))?,
                None => write!(out, " – |")?,
            }
        }
        writeln!(out)?;
    }
    writeln!(out)
}

/// One row for each contender that did it.
fn rows(
    out: &mut String,
    found: &Found,
    line: Line,
    columns: impl Fn(&[Cost]) -> String,
) -> fmt::Result {
    for contender in Contender::ALL {
        let costs = costs(found, line, contender);
        if costs.is_empty() {
            continue;
        }
        let name = who(line, contender);
        let cpu = shown(of(costs, |cost| cost.cpu_seconds), 2);
        let peak = shown(of(costs, |cost| cost.peak_kib as f64 / 1_024.0), 0);
        writeln!(
            out,
            "| {}, {name} | {} | {cpu} | {peak} |",
            what(line),
            columns(costs)
        )?;
    }
    Ok(())
}

fn bulk(out: &mut String, plan: &Plan, found: &Found) -> fmt::Result {
    let mib = plan.bulk_bytes as f64 / 1_048_576.0;
    writeln!(out, "## One file of {mib:.0} MiB\n")?;
    writeln!(
        out,
        "| | MiB/s | MiB/s until durable | CPU s | memory, MiB |\n| --- | --- | --- | --- | --- |"
    )?;
    for line in [Line::BulkGet, Line::BulkPut, Line::BulkCat] {
        rows(out, found, line, |costs| {
            let rate = shown(of(costs, |cost| mib / cost.seconds), 0);
            match line.writes() {
                true => {
                    let durable = shown(of(costs, |cost| mib / cost.durable_seconds), 0);
                    format!("{rate} | {durable}")
                }
                false => format!("{rate} | –"),
            }
        })?;
    }
    writeln!(out)
}

fn listings(out: &mut String, plan: &Plan, found: &Found) -> fmt::Result {
    writeln!(out, "## A directory of {} entries\n", plan.entries)?;
    writeln!(
        out,
        "| | s | entries/s | CPU s | memory, MiB |\n| --- | --- | --- | --- | --- |"
    )?;
    let entries = plan.entries as f64;
    for line in [Line::List, Line::ListLong] {
        rows(out, found, line, |costs| {
            let seconds = shown(of(costs, |cost| cost.seconds), 2);
            let rate = shown(of(costs, |cost| entries / cost.seconds), 0);
            format!("{seconds} | {rate}")
        })?;
    }
    writeln!(out)
}

fn small(out: &mut String, plan: &Plan, found: &Found) -> fmt::Result {
    for count in plan.small.iter().copied() {
        writeln!(out, "## {count} files of 1 to 4 KiB\n")?;
        writeln!(
            out,
            "| | s | s until durable | CPU s | memory, MiB |\n| --- | --- | --- | --- | --- |"
        )?;
        let lines = [
            Line::SmallPut(count),
            Line::SmallPutAgain(count),
            Line::SmallGet(count),
            Line::SmallGetAgain(count),
        ];
        for line in lines {
            rows(out, found, line, |costs| {
                let seconds = shown(of(costs, |cost| cost.seconds), 2);
                match line.writes() {
                    true => {
                        let durable = shown(of(costs, |cost| cost.durable_seconds), 2);
                        format!("{seconds} | {durable}")
                    }
                    false => format!("{seconds} | –"),
                }
            })?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn single(out: &mut String, plan: &Plan, found: &Found) -> fmt::Result {
    writeln!(out, "## One small thing\n")?;
    writeln!(out, "| by a program that is started for it | ms |")?;
    writeln!(out, "| --- | --- |")?;
    for line in [Line::OneStat, Line::OneCat] {
        for contender in Contender::ALL {
            let costs = costs(found, line, contender);
            if !costs.is_empty() {
                let took = shown(of(costs, |cost| cost.seconds * 1e3), 1);
                writeln!(out, "| {}, {} | {took} |", what(line), who(line, contender))?;
            }
        }
    }
    writeln!(
        out,
        "\n| by the library, one after the other, {} a round | µs, p50 | p99 |\n| --- | --- | --- |",
        plan.questions
    )?;
    for (what, took) in [
        ("`fs/stat`", &found.stats),
        ("`fs/read`, 4 KiB", &found.reads),
    ] {
        let mut sorted = took.clone();
        sorted.sort_unstable();
        let (half, most) = (quantile(&sorted, 0.5), quantile(&sorted, 0.99));
        writeln!(out, "| {what} | {half} | {most} |")?;
    }
    writeln!(out)
}
