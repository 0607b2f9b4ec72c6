//! The report, in Markdown.

use super::{Contender, Event, Plan, Turn, Work, nats, payload::Payload};
use crate::{
    machine,
    report::{self, shown},
    stats::Estimate,
    worker::Usage,
};
use std::{
    collections::BTreeMap,
    fmt::{self, Write},
};

/// How it is measured; written by people.
const NOTES: &str = include_str!("notes.md");

/// Calls in flight at which we want to be faster than the others.
const PEERS_IN_FLIGHT: usize = 16;

/// A goal and what was found.
struct Goal {
    what: String,
    against: &'static str,
    goal: String,
    found: String,
    is_met: bool,
}

/// Writes everything.
pub(crate) fn write(
    plan: &Plan,
    events: &[Event],
    usage: &BTreeMap<Contender, (Usage, Usage)>,
    load: &(String, String),
) -> String {
    let mut out = String::new();
    // Writing to a text does not fail.
    let _ = header(&mut out, plan, load)
        .and_then(|()| goals(&mut out, events))
        .and_then(|()| tables(&mut out, events))
        .and_then(|()| costs(&mut out, usage))
        .and_then(|()| out.write_str(NOTES));
    out
}

fn header(out: &mut String, plan: &Plan, load: &(String, String)) -> fmt::Result {
    let libraries = [
        "iroh",
        "noq",
        "irpc",
        "irpc-iroh",
        "tonic",
        "h2",
        "rustls",
        "async-nats",
        "tokio",
        "jsonschema",
        "serde_json",
    ];
    let tool = machine::says(nats::PROGRAM, &["--version"]);
    report::head(out, "Calls", "call", &libraries, &tool, load)?;
    for contender in [Contender::Nats, Contender::NatsJson] {
        if let Some(lacks) = contender.lacks() {
            writeln!(out, "- Left out: {}, since {lacks}.", name(contender))?;
        }
    }
    writeln!(
        out,
        "- {} rounds; in each round, and for each line, the contenders take {} turns\n  one after the other (A B C A B C …): {} ms of calls, {} items, or {} calls\n  through the door; and {} turns of {}.",
        plan.rounds,
        plan.turns,
        plan.unary_ms,
        plan.items,
        plan.door_calls,
        plan.bulk_turns,
        bytes(plan.bulk_bytes)
    )?;
    writeln!(
        out,
        "- Every figure is a median, in brackets the 95 % interval of the median. A\n  ratio is taken turn by turn, and its median is given.\n"
    )
}

fn bytes(count: u64) -> String {
    match count >> 20 {
        mib if mib >= 1024 => format!("{} GiB", mib >> 10),
        mib => format!("{mib} MiB"),
    }
}

fn sample<'e>(
    event: &'e Event,
    contender: Contender,
    of: impl Fn(&Turn) -> f64 + 'e,
) -> impl Iterator<Item = f64> + 'e {
    event.turns.get(&contender).into_iter().flatten().map(of)
}

fn rate(turn: &Turn) -> f64 {
    turn.measured.rate()
}

fn ratio(event: &Event, ours: Contender, theirs: Contender) -> Estimate {
    let pairs = sample(event, ours, rate).zip(sample(event, theirs, rate));
    Estimate::of(pairs.map(|(ours, theirs)| ours / theirs))
}

fn microseconds_each(turn: &Turn) -> f64 {
    turn.measured.seconds * 1e6 / turn.measured.count as f64
}

fn p50(turn: &Turn) -> f64 {
    turn.measured.p50_us()
}

fn p99(turn: &Turn) -> f64 {
    turn.measured.p99_us()
}

fn size(payload: Payload) -> &'static str {
    match payload {
        Payload::Small => "64 B",
        Payload::Listing => "4 KiB, 20 files",
        Payload::Large => "4 KiB, 32 records",
    }
}

fn goals(out: &mut String, events: &[Event]) -> fmt::Result {
    writeln!(out, "## Goals\n")?;
    writeln!(out, "| what | against | goal | measured | |")?;
    writeln!(out, "| --- | --- | --- | --- | --- |")?;
    for Goal {
        what,
        against,
        goal,
        found,
        is_met,
    } in events.iter().flat_map(goals_of)
    {
        let verdict = if is_met { "met" } else { "**missed**" };
        writeln!(out, "| {what} | {against} | {goal} | {found} | {verdict} |")?;
    }
    writeln!(out)
}

fn goals_of(event: &Event) -> Vec<Goal> {
    let at_least = |what: String, least: f64| {
        let found = ratio(event, Contender::Alknet, Contender::Raw);
        Goal {
            what,
            against: "raw iroh stream",
            goal: format!("≥ {least} of its rate"),
            found: shown(found, 2),
            is_met: found.median >= least,
        }
    };
    match event.work {
        Work::Door {
            payload: Payload::Small,
            is_bare: false,
            ..
        } => {
            let found = Estimate::of(sample(event, Contender::Door, microseconds_each));
            vec![Goal {
                what: "the door alone, 64 B query, schemas checked, audit handed over".into(),
                against: "",
                goal: "≤ 3 µs".into(),
                found: format!("{} µs", shown(found, 2)),
                is_met: found.median <= 3.0,
            }]
        }
        Work::Unary {
            payload, in_flight, ..
        } => {
            let what = format!("unary call, {}, {in_flight} in flight", size(payload));
            let least = match payload {
                Payload::Small => 0.75,
                Payload::Listing | Payload::Large => 0.45,
            };
            let mut goals = vec![at_least(what.clone(), least)];
            if payload != Payload::Small && in_flight == 1 {
                goals.push(added(event, what.clone()));
            }
            if in_flight == 1 && event.contenders.contains(&Contender::Hub) {
                goals.push(added_by_hub(event, what.clone()));
            }
            if in_flight == PEERS_IN_FLIGHT {
                goals.extend(faster(event, &what));
            }
            goals
        }
        Work::Upload { .. } => vec![at_least("channel, one stream, to the callee".into(), 0.9)],
        Work::Download { .. } => {
            vec![at_least("channel, one stream, to the caller".into(), 0.9)]
        }
        Work::Door { .. } | Work::Items { .. } => Vec::new(),
    }
}

/// Faster than whoever else people use for this.
fn faster<'e>(event: &'e Event, what: &'e str) -> impl Iterator<Item = Goal> + 'e {
    use Contender::{Alknet, Nats, NatsJson, Tonic, TonicJson};
    let peers = [Tonic, TonicJson, Nats, NatsJson].into_iter();
    let peers = peers.filter(|peer| event.contenders.contains(peer));
    peers.map(move |peer| {
        let found = ratio(event, Alknet, peer);
        Goal {
            what: what.to_owned(),
            against: name(peer),
            goal: "> 1 of its rate".into(),
            found: shown(found, 2),
            is_met: found.median > 1.0,
        }
    })
}

/// What a node between adds, and what a call without it takes.
fn added_by_hub(event: &Event, what: String) -> Goal {
    let direct = Estimate::of(sample(event, Contender::Node, p50));
    let pairs = sample(event, Contender::Hub, p50).zip(sample(event, Contender::Node, p50));
    let found = Estimate::of(pairs.map(|(hub, direct)| hub - direct));
    Goal {
        what: format!("{what}, added p50 of a node between"),
        against: name(Contender::Node),
        goal: format!("≤ its p50, {:.1} µs", direct.median),
        found: format!("{} µs", shown(found, 1)),
        is_met: found.median <= direct.median,
    }
}

fn added(event: &Event, what: String) -> Goal {
    let ours = sample(event, Contender::Alknet, p50);
    let pairs = ours.zip(sample(event, Contender::Raw, p50));
    let found = Estimate::of(pairs.map(|(ours, theirs)| ours - theirs));
    Goal {
        what: format!("{what}, added p50"),
        against: "raw iroh stream",
        goal: "≤ 60 µs".into(),
        found: format!("{} µs", shown(found, 1)),
        is_met: found.median <= 60.0,
    }
}

fn name(contender: Contender) -> &'static str {
    match contender {
        Contender::Raw => "raw stream",
        Contender::RawChunks => "raw stream, chunks handed over",
        Contender::Alknet => "alknet",
        Contender::Irpc => "irpc",
        Contender::Tonic => "tonic, TLS, bytes untouched",
        Contender::TonicJson => "tonic, TLS, JSON read and written",
        Contender::Nats => "NATS, TLS, bytes untouched",
        Contender::NatsJson => "NATS, TLS, JSON read and written",
        Contender::Node => "alknet, whole node, audit in SQLite",
        Contender::Hub => "alknet, through a node between",
        Contender::Door => "the door",
    }
}

fn tables(out: &mut String, events: &[Event]) -> fmt::Result {
    let (doors, others): (Vec<_>, Vec<_>) = events
        .iter()
        .partition(|event| matches!(event.work, Work::Door { .. }));
    writeln!(out, "## The door alone\n")?;
    writeln!(out, "| what | µs each | CPU µs each |")?;
    writeln!(out, "| --- | --- | --- |")?;
    for event in doors {
        let Work::Door {
            payload, is_bare, ..
        } = event.work
        else {
            continue;
        };
        let what = match is_bare {
            false => "through the door",
            true => "the same parsing and writing without it",
        };
        let each = Estimate::of(sample(event, Contender::Door, microseconds_each));
        let cpu = Estimate::of(sample(event, Contender::Door, cpu_microseconds_each));
        writeln!(
            out,
            "| {}, {what} | {} | {} |",
            size(payload),
            shown(each, 2),
            shown(cpu, 2)
        )?;
    }
    writeln!(out)?;
    for event in others {
        table(out, event)?;
    }
    Ok(())
}

fn cpu_microseconds_each(turn: &Turn) -> f64 {
    (turn.client_cpu_ns + turn.server_cpu_ns) as f64 / 1e3 / turn.measured.count as f64
}

fn table(out: &mut String, event: &Event) -> fmt::Result {
    let (title, unit, scale, digits) = match &event.work {
        Work::Unary {
            payload, in_flight, ..
        } => {
            let title = format!("Unary calls, {}, {in_flight} in flight", size(*payload));
            (title, "calls/s", 1.0, 0)
        }
        Work::Upload { bytes } => {
            let title = format!("{} to the callee on one stream", self::bytes(*bytes));
            (title, "MB/s", 1e-6, 0)
        }
        Work::Download { bytes } => {
            let title = format!("{} to the caller on one stream", self::bytes(*bytes));
            (title, "MB/s", 1e-6, 0)
        }
        Work::Items { count } => (
            format!("A subscription of {count} items of 64 B"),
            "items/s",
            1.0,
            0,
        ),
        Work::Door { .. } => return Ok(()),
    };
    let is_unary = matches!(event.work, Work::Unary { .. });
    let cpu_unit = if unit == "MB/s" {
        "CPU s per GB"
    } else {
        "CPU µs each"
    };
    let cpu_scale = if unit == "MB/s" { 1e3 } else { 1.0 };
    let first = event.contenders[0];
    writeln!(out, "## {title}\n")?;
    let times = if is_unary { " p50 µs | p99 µs |" } else { "" };
    let rule = if is_unary { " --- | --- |" } else { "" };
    writeln!(
        out,
        "| | {unit} | of {} |{times} {cpu_unit}, client | server |",
        name(first)
    )?;
    writeln!(out, "| --- | --- | --- |{rule} --- | --- |")?;
    for &contender in &event.contenders {
        let found = Estimate::of(sample(event, contender, |turn| rate(turn) * scale));
        let share = match contender == first {
            true => "1".into(),
            false => shown(ratio(event, contender, first), 2),
        };
        let times = match is_unary {
            true => format!(
                " {} | {} |",
                shown(Estimate::of(sample(event, contender, p50)), 1),
                shown(Estimate::of(sample(event, contender, p99)), 1)
            ),
            false => String::new(),
        };
        let each =
            |cpu_ns: u64, turn: &Turn| cpu_ns as f64 / 1e3 / turn.measured.count as f64 * cpu_scale;
        let client = Estimate::of(sample(event, contender, |turn| {
            each(turn.client_cpu_ns, turn)
        }));
        let server = Estimate::of(sample(event, contender, |turn| {
            each(turn.server_cpu_ns, turn)
        }));
        writeln!(
            out,
            "| {} | {} | {share} |{times} {:.2} | {:.2} |",
            name(contender),
            shown(found, digits),
            client.median,
            server.median
        )?;
    }
    writeln!(out)
}

fn costs(out: &mut String, usage: &BTreeMap<Contender, (Usage, Usage)>) -> fmt::Result {
    writeln!(out, "## CPU and memory of the whole run\n")?;
    writeln!(
        out,
        "| | client, CPU s | client, peak MiB | server, CPU s | server, peak MiB |"
    )?;
    writeln!(out, "| --- | --- | --- | --- | --- |")?;
    for (contender, (client, server)) in usage {
        writeln!(
            out,
            "| {} | {} | {} |",
            name(*contender),
            used(client),
            used(server)
        )?;
    }
    writeln!(out)
}

fn used(usage: &Usage) -> String {
    if usage.peak_kib == 0 {
        return "– | –".into();
    }
    let seconds = usage.cpu_ns as f64 / 1e9;
    format!("{seconds:.1} | {:.1}", usage.peak_kib as f64 / 1024.0)
}
