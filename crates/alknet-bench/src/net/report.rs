//! The report, in Markdown.

use super::{
    ground::Ground,
    run::{Contender, Found, Nats, Plan, Turn},
    task::Met,
};
use crate::{
    call::Work,
    machine,
    report::{self, shown},
    stats::Estimate,
    worker::Usage,
};
use std::fmt::{self, Write};

/// How it is measured; written by people.
const NOTES: &str = include_str!("notes.md");

const MIB: f64 = 1_048_576.0;
const GIB: f64 = 1024.0 * MIB;

/// Writes everything. Of each relay: whether it is alknet's, and what it used.
pub(crate) fn write(
    plan: &Plan,
    works: &[Work],
    found: &Found,
    relays: &[(bool, Usage)],
    ground: &Ground,
    load: &(String, String),
) -> String {
    let mut out = String::new();
    // Writing to a text does not fail.
    let _ = header(&mut out, plan, load)
        .and_then(|()| mishaps(&mut out, found))
        .and_then(|()| goals(&mut out, works, found))
        .and_then(|()| meetings(&mut out, found, ground))
        .and_then(|()| tables(&mut out, works, found))
        .and_then(|()| relay_costs(&mut out, works, found))
        .and_then(|()| costs(&mut out, found, relays))
        .and_then(|()| out.write_str(NOTES));
    out
}

fn header(out: &mut String, plan: &Plan, load: &(String, String)) -> fmt::Result {
    let libraries = ["iroh", "iroh-relay", "noq", "rustls", "tokio"];
    let tool = machine::says("nft", &["--version"]);
    report::head(out, "Networks", "net", &libraries, &tool, load)?;
    writeln!(
        out,
        "- {} rounds; in each, between each kind of NATs, {} first meetings and {} with a\n  \
         known peer of each contender, and for each line {} turns of {} ms of calls and {}\n  \
         of {:.0} MiB, the contenders one after the other (A B A B …).",
        plan.rounds,
        plan.meetings,
        plan.meetings,
        plan.turns,
        plan.unary_ms,
        plan.bulk_turns,
        plan.bulk_bytes as f64 / MIB
    )?;
    writeln!(
        out,
        "- Every figure is a median, in brackets the 95 % interval of the median. A\n  \
         ratio and a difference are taken turn by turn, and their median is given."
    )
}

/// What went wrong and was done again.
fn mishaps(out: &mut String, found: &Found) -> fmt::Result {
    writeln!(
        out,
        "- Meetings that failed and were repeated: {}. Turns that took another path\n  \
         than they should and were repeated: {}.",
        found.failures.len(),
        found.strays
    )?;
    for (nats, contender, cause) in &found.failures {
        writeln!(out, "  - {}, {}: {cause}", name(*contender), path(*nats))?;
    }
    writeln!(out)
}

/// The turns of a contender at one piece of work.
fn turns(found: &Found, nats: Nats, at: usize, contender: Contender) -> &[Turn] {
    let turns = found.turns.get(&(nats, at, contender));
    turns.map_or(&[], Vec::as_slice)
}

fn estimate(turns: &[Turn], of: impl Fn(&Turn) -> f64) -> Estimate {
    Estimate::of(turns.iter().map(of))
}

fn compared(ours: &[Turn], theirs: &[Turn], of: impl Fn(&Turn, &Turn) -> f64) -> Estimate {
    Estimate::of(
        ours.iter()
            .zip(theirs)
            .map(|(ours, theirs)| of(ours, theirs)),
    )
}

fn rate(turn: &Turn) -> f64 {
    turn.measured.rate()
}

fn ratio(ours: &Turn, theirs: &Turn) -> f64 {
    rate(ours) / rate(theirs)
}

fn p50(turn: &Turn) -> f64 {
    turn.measured.p50_us()
}

fn p99(turn: &Turn) -> f64 {
    turn.measured.p99_us()
}

fn name(contender: Contender) -> &'static str {
    match contender {
        Contender::Bare => "bare iroh",
        Contender::Alknet => "alknet, whole nodes",
        Contender::BareRelay => "bare iroh, at iroh's relay server",
    }
}

fn path(nats: Nats) -> &'static str {
    match nats {
        Nats::Cones => "direct",
        Nats::Symmetric => "relayed",
        Nats::Far => "far apart",
    }
}

fn what(work: &Work) -> String {
    match work {
        Work::Unary { in_flight, .. } => format!("call, 64 B, {in_flight} in flight"),
        Work::Upload { .. } => "bulk, one stream, to the callee".into(),
        Work::Download { .. } => "bulk, one stream, to the caller".into(),
        other => format!("{other:?}"),
    }
}

/// A goal and what was found.
struct Goal {
    what: String,
    goal: &'static str,
    found: String,
    is_met: bool,
}

/// Least share of bare iroh's rate in bulk.
const BULK_LEAST: f64 = 0.9;
/// Least share of its rate in calls of 64 bytes.
const CALLS_LEAST: f64 = 0.75;
/// Most that a call may take longer on a direct path, in microseconds.
const ADDED_MOST: f64 = 30.0;

fn goals(out: &mut String, works: &[Work], found: &Found) -> fmt::Result {
    writeln!(out, "## Goals\n\nAgainst bare iroh at the same relay.\n")?;
    writeln!(out, "| what | goal | measured | |")?;
    writeln!(out, "| --- | --- | --- | --- |")?;
    for nats in Nats::ALL.into_iter().filter(|nats| nats.has_work()) {
        for (at, work) in works.iter().enumerate() {
            for goal in goals_of(found, nats, at, work) {
                let verdict = if goal.is_met { "met" } else { "**missed**" };
                let Goal {
                    what, goal, found, ..
                } = goal;
                writeln!(out, "| {what} | {goal} | {found} | {verdict} |")?;
            }
        }
    }
    writeln!(out)
}

fn goals_of(found: &Found, nats: Nats, at: usize, work: &Work) -> Vec<Goal> {
    let ours = turns(found, nats, at, Contender::Alknet);
    let theirs = turns(found, nats, at, Contender::Bare);
    let what = format!("{}, {}", path(nats), what(work));
    let share = compared(ours, theirs, ratio);
    let of_rate = |goal: &'static str, least: f64| Goal {
        what: what.clone(),
        goal,
        found: shown(share, 2),
        is_met: share.median >= least,
    };
    let Work::Unary { in_flight, .. } = work else {
        return vec![of_rate("≥ 0.9 of its rate", BULK_LEAST)];
    };
    let mut goals = vec![of_rate("≥ 0.75 of its rate", CALLS_LEAST)];
    if *in_flight == 1 && nats == Nats::Cones {
        let added = compared(ours, theirs, |ours, theirs| p50(ours) - p50(theirs));
        goals.push(Goal {
            what: format!("{what}, added p50"),
            goal: "≤ 30 µs",
            found: format!("{} µs", shown(added, 1)),
            is_met: added.median <= ADDED_MOST,
        });
    }
    goals
}

fn meetings(out: &mut String, found: &Found, ground: &Ground) -> fmt::Result {
    let far = ground.far.as_secs_f64() * 1e3;
    for nats in Nats::ALL {
        let between = match nats {
            Nats::Cones => "between cones: by the relay, then direct".into(),
            Nats::Symmetric => "between symmetric NATs: by the relay".into(),
            Nats::Far => format!(
                "between cones far apart: {far:.0} ms to the relay and back, twice that to each other"
            ),
        };
        writeln!(out, "## Meeting, {between}\n")?;
        writeln!(
            out,
            "| | at the relay, ms | first reply, ms | direct, ms | known peer: first reply, ms | direct, ms |"
        )?;
        writeln!(out, "| --- | --- | --- | --- | --- | --- |")?;
        for &contender in nats.contenders() {
            let columns = STEPS.map(|step| {
                let found = step_of(found, nats, contender, step);
                found.map_or("–".to_owned(), |found| shown(found, 1))
            });
            writeln!(out, "| {} | {} |", name(contender), columns.join(" | "))?;
        }
        writeln!(out)?;
    }
    distance(out, found, 2.0 * far)
}

/// What of a meeting is told: of the first or of one after, and which time.
type Step = (bool, fn(&Met) -> Option<f64>);

const STEPS: [Step; 5] = [
    (true, |met| Some(met.at_relay_ms)),
    (true, |met| Some(met.replied_ms)),
    (true, |met| met.direct_ms),
    (false, |met| Some(met.replied_ms)),
    (false, |met| met.direct_ms),
];

fn step_of(
    found: &Found,
    nats: Nats,
    contender: Contender,
    (is_first, time): Step,
) -> Option<Estimate> {
    let met = found.meetings.get(&(nats, is_first, contender))?;
    let times: Vec<f64> = met.iter().filter_map(time).collect();
    (!times.is_empty()).then(|| Estimate::of(times))
}

/// How much longer meetings take far apart than near by, as so many times the
/// way to each other and back.
fn distance(out: &mut String, found: &Found, round_trip_ms: f64) -> fmt::Result {
    writeln!(
        out,
        "What the distance adds, in round trips of {round_trip_ms:.0} ms (difference of the medians):\n"
    )?;
    writeln!(
        out,
        "| | first reply | direct | known peer: first reply | direct |"
    )?;
    writeln!(out, "| --- | --- | --- | --- | --- |")?;
    let [_, steps @ ..] = STEPS;
    for &contender in Nats::Far.contenders() {
        let columns = steps.map(|step| {
            let far = step_of(found, Nats::Far, contender, step);
            let near = step_of(found, Nats::Cones, contender, step);
            far.zip(near).map_or("–".to_owned(), |(far, near)| {
                format!("{:.1}", (far.median - near.median) / round_trip_ms)
            })
        });
        writeln!(out, "| {} | {} |", name(contender), columns.join(" | "))?;
    }
    writeln!(out)
}

fn tables(out: &mut String, works: &[Work], found: &Found) -> fmt::Result {
    for (at, work) in works.iter().enumerate() {
        for nats in Nats::ALL.into_iter().filter(|nats| nats.has_work()) {
            let title = what(work);
            let path = path(nats);
            match work {
                Work::Unary { .. } => {
                    writeln!(out, "## {path}: {title}\n")?;
                    writeln!(
                        out,
                        "| | calls/s | of bare iroh | p50 µs | p99 µs | CPU µs each, client | server |"
                    )?;
                    writeln!(out, "| --- | --- | --- | --- | --- | --- | --- |")?;
                }
                _ => {
                    writeln!(out, "## {path}: {title}\n")?;
                    writeln!(
                        out,
                        "| | MiB/s | of bare iroh | CPU s per GiB, client | server | relay |"
                    )?;
                    writeln!(out, "| --- | --- | --- | --- | --- | --- |")?;
                }
            }
            for &contender in nats.contenders() {
                row(out, found, nats, at, work, contender)?;
            }
            writeln!(out)?;
        }
    }
    Ok(())
}

fn row(
    out: &mut String,
    found: &Found,
    nats: Nats,
    at: usize,
    work: &Work,
    contender: Contender,
) -> fmt::Result {
    let taken = turns(found, nats, at, contender);
    let share = match contender {
        Contender::Bare => "1".into(),
        _ => {
            let bare = turns(found, nats, at, Contender::Bare);
            shown(compared(taken, bare, ratio), 2)
        }
    };
    let cpu = |scale: f64, of: fn(&Turn) -> u64| {
        let each = |turn: &Turn| of(turn) as f64 * scale / turn.measured.count as f64;
        estimate(taken, each).median
    };
    let client: fn(&Turn) -> u64 = |turn| turn.client_cpu_ns;
    let server: fn(&Turn) -> u64 = |turn| turn.server_cpu_ns;
    let relay: fn(&Turn) -> u64 = |turn| turn.relay_cpu_ns;
    let name = name(contender);
    if let Work::Unary { .. } = work {
        return writeln!(
            out,
            "| {name} | {} | {share} | {} | {} | {:.1} | {:.1} |",
            shown(estimate(taken, rate), 0),
            shown(estimate(taken, p50), 1),
            shown(estimate(taken, p99), 1),
            cpu(1e-3, client),
            cpu(1e-3, server),
        );
    }
    let per_gib = GIB * 1e-9;
    writeln!(
        out,
        "| {name} | {} | {share} | {:.2} | {:.2} | {:.2} |",
        shown(estimate(taken, |turn| rate(turn) / MIB), 1),
        cpu(per_gib, client),
        cpu(per_gib, server),
        cpu(per_gib, relay),
    )
}

/// The two relays under the same bare iroh.
fn relay_costs(out: &mut String, works: &[Work], found: &Found) -> fmt::Result {
    writeln!(out, "## A relay itself, under bare iroh\n")?;
    writeln!(
        out,
        "| what | alknet's relay, CPU s per GiB | iroh's | ratio | rate at alknet's, of iroh's |"
    )?;
    writeln!(out, "| --- | --- | --- | --- | --- |")?;
    let per_gib = |turn: &Turn| turn.relay_cpu_ns as f64 * 1e-9 * GIB / turn.measured.count as f64;
    for (at, work) in works.iter().enumerate() {
        if let Work::Unary { .. } = work {
            continue;
        }
        let ours = turns(found, Nats::Symmetric, at, Contender::Bare);
        let theirs = turns(found, Nats::Symmetric, at, Contender::BareRelay);
        let cost = compared(ours, theirs, |ours, theirs| per_gib(ours) / per_gib(theirs));
        writeln!(
            out,
            "| {} | {} | {} | {} | {} |",
            what(work),
            shown(estimate(ours, per_gib), 2),
            shown(estimate(theirs, per_gib), 2),
            shown(cost, 2),
            shown(compared(ours, theirs, ratio), 2),
        )?;
    }
    writeln!(out)
}

fn costs(out: &mut String, found: &Found, relays: &[(bool, Usage)]) -> fmt::Result {
    writeln!(out, "## CPU and memory of the whole run\n")?;
    writeln!(out, "| | CPU s | peak MiB |")?;
    writeln!(out, "| --- | --- | --- |")?;
    for ((nats, contender), (client, server)) in &found.usage {
        for (side, used) in [("client", client), ("server", server)] {
            let (name, path) = (name(*contender), path(*nats));
            writeln!(out, "| {name}, {path}, {side} | {} |", used_up(used))?;
        }
    }
    for (is_ours, used) in relays {
        let name = match is_ours {
            true => "alknet's relay",
            false => "iroh's relay server",
        };
        writeln!(out, "| {name} | {} |", used_up(used))?;
    }
    writeln!(out)
}

fn used_up(usage: &Usage) -> String {
    let seconds = usage.cpu_ns as f64 / 1e9;
    format!("{seconds:.1} | {:.1}", usage.peak_kib as f64 / 1024.0)
}
