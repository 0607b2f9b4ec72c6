//! Runs one scenario: pairs, settles, starts the workloads, lets the change
//! happen, waits, and says what it saw.

use super::{
    Before, Expect, IDLE, MARGIN, Options, Scenario, ScenarioError,
    change::Changed,
    probe::{Look, Path, Probe, longest_gap, median_took, works_since},
    program::until,
    stage::Stage,
    workload::{Outcome, Workload},
};
use crate::Lab;
use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

/// How long nodes may take to find their best path.
const SETTLE_MAX: Duration = Duration::from_secs(45);
/// How long a path through a relay is watched before it is believed: longer
/// than a first attempt at a direct one takes, and in a whole run longer than
/// the five seconds after which it is repeated.
const STAYS: Duration = Duration::from_secs(4);
const STAYS_FULL: Duration = Duration::from_secs(12);
/// How long calls are measured before and after the change.
const MEASURED: Duration = Duration::from_secs(2);
/// How long until calls work again, counted from the end of the change: the
/// longest pause between two attempts to reach a peer, what it takes then, and
/// as much once more.
const BACK_MAX: Duration = Duration::from_secs(150);
/// How long calls must have worked to be said to work.
const SURE: Duration = Duration::from_secs(2);
/// How long the workloads may take to come to their ends when all is well.
const END_MAX: Duration = Duration::from_secs(60);
const END_MAX_FULL: Duration = Duration::from_secs(1200);
/// Bytes of the bulk workload in a sample.
const SAMPLE_BYTES: u64 = 8 << 20;
/// Bytes a second until the change is over, so that it meets a running
/// channel.
const PACE: u64 = 256 << 10;
const PACE_FULL: u64 = 8 << 20;
/// Lines that a workload must go on by to count as running, and bytes.
const LINES: u64 = 20;
const BYTES: u64 = 64 << 10;

/// How long a call may take that says nothing else: the default of `[limits]
/// deadline_default_ms`.
const CALL_MAX: Duration = Duration::from_secs(30);
/// How exactly a clock must be off, in seconds.
const CLOCK_WITHIN: i64 = 60;

/// What was seen in one scenario. Times have a resolution of 50 ms.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was run.
    pub scenario: Scenario,
    /// From the start of `alknet join` to its end, when calls work.
    pub connect: Duration,
    /// The first path over which the link was seen.
    pub first_path: Path,
    /// From the first sight of the link until it was direct.
    pub direct_after: Option<Duration>,
    /// The path before the change.
    pub path: Path,
    /// The round trip that the transport measured before the change, in
    /// milliseconds.
    pub rtt_ms: Option<f64>,
    /// The median time of a small call before the change.
    pub call: Option<Duration>,
    /// The longest time without an answer from the beginning of the change on;
    /// `None` where nothing was to answer.
    pub gap: Option<Duration>,
    /// From the end of the change until calls worked again, and went on to.
    pub back: Duration,
    /// The path when everything had settled again.
    pub path_after: Option<Path>,
    /// The median time of a small call in the end.
    pub call_after: Option<Duration>,
    /// Bytes of the bulk workload.
    pub bulk_bytes: u64,
    /// How `exec`, the subscription and the bulk channel ended.
    pub outcomes: Vec<(&'static str, Outcome)>,
    /// What was not as the scenario says it must be.
    pub deviations: Vec<String>,
    /// How long it all took.
    pub took: Duration,
}

/// Runs a scenario in a lab.
///
/// # Errors
///
/// [`ScenarioError`] if it could not be run to its end, with what the nodes
/// said where they are part of it. What it saw that should not be is in
/// [`Row::deviations`].
pub fn run(lab: Lab, scenario: &Scenario, options: &Options) -> Result<Row, ScenarioError> {
    let began = Instant::now();
    let mut stage = Stage::set(lab, scenario, &options.alknet)?;
    let row = across(&mut stage, scenario, options, began);
    row.map_err(|error| ScenarioError::Staged {
        told: stage.told(),
        source: Box::new(error),
    })
}

fn across(
    stage: &mut Stage,
    scenario: &Scenario,
    options: &Options,
    began: Instant,
) -> Result<Row, ScenarioError> {
    let ticket = stage.invite()?;
    let probe = Probe::start(stage.caller(), stage.peer())?;
    let joining = Instant::now();
    stage.join(&ticket)?;
    let connect = joining.elapsed();
    let first = until("the link is seen", SETTLE_MAX, || {
        Ok(probe.looks().into_iter().find(|look| look.path.is_some()))
    })?;
    check_premise(stage, scenario)?;
    let settled = settle(&probe, scenario.path, options)?;
    let direct = probe
        .looks()
        .into_iter()
        .find(|look| look.path == Some(Path::Direct));
    let measuring = Instant::now();
    thread::sleep(MEASURED);
    let call = median_took(&probe.answers(), measuring, Instant::now());
    let rtt_ms = probe.now().and_then(|look| look.rtt_ms);

    let bytes = if options.full {
        scenario.bulk_bytes
    } else {
        SAMPLE_BYTES
    };
    let workloads = start_workloads(stage, bytes, options)?;
    let changed = scenario.change.happen(stage, &workloads)?;
    let mut deviations = Vec::new();
    wait_for_verdicts(&workloads, changed);
    let back = back(&probe, changed)?;
    let path_after = settle(&probe, scenario.path_after, options)?;
    let settled_at = Instant::now();
    thread::sleep(MEASURED);
    let answers = probe.answers();
    let gap = longest_gap(&answers, changed.began, settled_at);
    let call_after = median_took(&answers, settled_at, Instant::now());
    let failed = probe.failed(changed.began);
    let silent = probe.silent(CALL_MAX + MARGIN);
    drop(probe);
    let outcomes = end(workloads, changed, options)?;

    check_path(&mut deviations, "before", settled.path, scenario.path);
    check_path(
        &mut deviations,
        "after",
        path_after.path,
        scenario.path_after,
    );
    check_outcomes(&mut deviations, &outcomes, scenario.expect, changed);
    check_calls(&mut deviations, &failed, silent, scenario.expect);
    Ok(Row {
        scenario: *scenario,
        connect,
        first_path: first.path.unwrap_or(Path::Relay),
        direct_after: direct.map(|look| look.at.saturating_duration_since(first.at)),
        path: settled.path.unwrap_or(Path::Relay),
        rtt_ms,
        call,
        gap: (!scenario.change.is_idle()).then_some(gap),
        back,
        path_after: path_after.path,
        call_after,
        bulk_bytes: bytes,
        outcomes,
        deviations,
        took: began.elapsed(),
    })
}

/// What the lab does is measured by its own tests; the clock is not the lab's.
fn check_premise(stage: &Stage, scenario: &Scenario) -> Result<(), ScenarioError> {
    let Before::Clock(want) = scenario.before else {
        return Ok(());
    };
    let found = stage.clock_ahead()?;
    if (found - want).abs() <= CLOCK_WITHIN {
        return Ok(());
    }
    Err(ScenarioError::Premise {
        what: format!("the clock is {found} s ahead, not {want} s"),
    })
}

/// Waits until the link has the path that it should have, and if that is the
/// relay's, that it keeps it. What it has in the end is told, right or wrong.
fn settle(probe: &Probe, want: Path, options: &Options) -> Result<Look, ScenarioError> {
    let connected = |probe: &Probe| until("the link is connected", BACK_MAX, || Ok(probe.now()));
    let started = Instant::now();
    let mut look = connected(probe)?;
    while look.path != Some(want) && started.elapsed() < SETTLE_MAX {
        thread::sleep(Duration::from_millis(50));
        look = connected(probe)?;
    }
    if want == Path::Relay {
        thread::sleep(if options.full { STAYS_FULL } else { STAYS });
        look = connected(probe)?;
    }
    Ok(look)
}

/// Starts all workloads, and waits until each has shown that it runs.
fn start_workloads(
    stage: &Stage,
    bytes: u64,
    options: &Options,
) -> Result<Vec<Workload>, ScenarioError> {
    let (caller, on, [stop, pause]) = (stage.caller(), stage.peer(), stage.files());
    let pace = if options.full { PACE_FULL } else { PACE };
    let workloads = vec![
        Workload::exec(caller, on)?,
        Workload::subscription(caller, on, stop, pause)?,
        Workload::bulk(caller, on, bytes, pace)?,
    ];
    for workload in &workloads {
        let what = format!("the {} workload runs", workload.name);
        until(&what, SETTLE_MAX, || {
            Ok((workload.progress() >= enough(workload) || workload.has_ended()).then_some(()))
        })?;
    }
    Ok(workloads)
}

fn enough(workload: &Workload) -> u64 {
    if workload.name == "bulk" {
        BYTES
    } else {
        LINES
    }
}

/// Waits until each workload has gone on, or has ended; at most as long as a
/// dead connection may take to be noticed. One that only stalls is waited for
/// later, with the link.
fn wait_for_verdicts(workloads: &[Workload], changed: Changed) {
    let before: Vec<u64> = workloads.iter().map(Workload::progress).collect();
    let has_verdict = |(workload, before): (&Workload, &u64)| {
        workload.has_ended() || workload.progress() >= before + enough(workload)
    };
    while changed.over.elapsed() < IDLE + MARGIN && !workloads.iter().zip(&before).all(has_verdict)
    {
        thread::sleep(Duration::from_millis(20));
    }
}

/// How long after the change calls work again, and go on working.
fn back(probe: &Probe, changed: Changed) -> Result<Duration, ScenarioError> {
    until("calls work after the change", BACK_MAX, || {
        let now = Instant::now();
        let works = works_since(&probe.answers(), changed.began, now);
        let is_sure = now.duration_since(works.max(changed.over)) >= SURE;
        Ok(is_sure.then(|| works.saturating_duration_since(changed.over)))
    })
}

/// Lets all workloads come to their ends.
fn end(
    workloads: Vec<Workload>,
    changed: Changed,
    options: &Options,
) -> Result<Vec<(&'static str, Outcome)>, ScenarioError> {
    for workload in &workloads {
        workload.finish()?;
    }
    let most = if options.full { END_MAX_FULL } else { END_MAX };
    Ok(workloads
        .into_iter()
        .map(|workload| (workload.name, workload.outcome(changed.began, most)))
        .collect())
}

fn check_path(deviations: &mut Vec<String>, when: &str, found: Option<Path>, want: Path) {
    if found != Some(want) {
        let found = found.map_or("none", Path::as_str);
        deviations.push(format!(
            "the path {when} the change is `{found}`, not `{}`",
            want.as_str()
        ));
    }
}

fn check_outcomes(
    deviations: &mut Vec<String>,
    outcomes: &[(&'static str, Outcome)],
    expect: Expect,
    changed: Changed,
) {
    // A change that takes its time counts from where nothing passes any more,
    // which is its beginning, and never ends before it is over.
    let most = IDLE + MARGIN;
    for (name, outcome) in outcomes {
        let wrong = match (outcome, expect) {
            (Outcome::Survived(_), Expect::Survive | Expect::SurviveStalled) => None,
            (Outcome::Lost { after }, Expect::EndLost) if *after <= most => None,
            (Outcome::Lost { after }, Expect::EndLost) => Some(format!(
                "ended with `LOST` only {:.1} s after the change, {} s are allowed",
                after.as_secs_f64(),
                most.as_secs()
            )),
            (Outcome::Lost { after }, Expect::Survive | Expect::SurviveStalled) => Some(format!(
                "ended with `LOST` {:.1} s after the change began",
                after.as_secs_f64()
            )),
            (Outcome::Survived(_), Expect::EndLost) => Some(format!(
                "survived {:.1} s without a network",
                (changed.over - changed.began).as_secs_f64()
            )),
            (Outcome::Broken(why), _) => Some(format!("broke: {why}")),
        };
        deviations.extend(wrong.map(|wrong| format!("the {name} workload {wrong}")));
    }
}

/// A call is answered, or told to be lost; where links survive, all are answered.
fn check_calls(
    deviations: &mut Vec<String>,
    failed: &BTreeMap<String, usize>,
    silent: usize,
    expect: Expect,
) {
    if silent > 0 {
        deviations.push(format!("{silent} calls got neither an answer nor an error"));
    }
    for (code, count) in failed {
        let is_fine = match expect {
            Expect::Survive => false,
            Expect::SurviveStalled => code == "TIMEOUT",
            // Once the link is down, calls are refused at once.
            Expect::EndLost => matches!(code.as_str(), "LOST" | "UNAVAILABLE"),
        };
        if !is_fine {
            deviations.push(format!("{count} calls failed with `{code}`"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_held_against_what_is_expected() {
        let now = Instant::now();
        let changed = Changed {
            began: now,
            over: now + Duration::from_secs(30),
        };
        let check = |outcome: Outcome, expect, want: bool| {
            let mut deviations = Vec::new();
            check_outcomes(&mut deviations, &[("exec", outcome)], expect, changed);
            assert_eq!(deviations.is_empty(), want, "{deviations:?}");
        };
        let lost = |seconds| Outcome::Lost {
            after: Duration::from_secs(seconds),
        };
        check(Outcome::Survived(3), Expect::Survive, true);
        check(Outcome::Survived(3), Expect::EndLost, false);
        check(Outcome::Survived(3), Expect::SurviveStalled, true);
        check(lost(1), Expect::SurviveStalled, false);
        check(lost(25), Expect::EndLost, true);
        check(lost(26), Expect::EndLost, false);
        check(lost(1), Expect::Survive, false);
        check(Outcome::Broken("gap".into()), Expect::Survive, false);
        check(Outcome::Broken("gap".into()), Expect::EndLost, false);
    }
}
