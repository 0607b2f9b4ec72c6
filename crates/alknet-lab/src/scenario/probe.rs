//! Looks at a link all the time: small calls through it, and what the own node
//! says of it.

use super::{ScenarioError, program::Seat};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdout, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Time between two looks; each is one call through the link and one question
/// to the own node.
const EVERY: Duration = Duration::from_millis(50);
/// Calls and questions that may be under way.
const JOBS: &str = "256";
/// Calls that may be without an answer before no more are made: a node takes
/// 256 of a peer at once.
const WAITING_MAX: usize = 64;

/// The longest time between two answers of a link that works.
const PAUSE_MAX: Duration = Duration::from_millis(700);

/// The way that packets take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// From host to host.
    Direct,
    /// Through a relay.
    Relay,
}

impl Path {
    /// Its word in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
        }
    }
}

/// A call through the link that was answered well.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) sent: Instant,
    pub(super) came: Instant,
}

/// What the own node said of the link.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) at: Instant,
    /// `None` while it is not connected.
    pub(super) path: Option<Path>,
    /// What the transport measured, in milliseconds.
    pub(super) rtt_ms: Option<f64>,
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    /// A call through the link.
    Call,
    /// What the own node knows of the link.
    Look,
}

#[derive(Debug, Default)]
struct Seen {
    /// What each line asked and when, by its number.
    asked: HashMap<u64, (Asked, Instant)>,
    answers: Vec<Answer>,
    looks: Vec<Look>,
    /// When calls failed, and with which code.
    failed: Vec<(Instant, String)>,
}

/// Watches a link until it is dropped.
pub(super) struct Probe {
    seen: Arc<Mutex<Seen>>,
    stopped: Arc<AtomicBool>,
    child: Child,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Probe {
    /// Watches the link of `caller` to its peer `on`.
    pub(super) fn start(caller: &Seat, on: &str) -> Result<Self, ScenarioError> {
        let words = ["batch", "-", "--unordered", "--jobs", JOBS];
        let mut command = caller.command(&words);
        // What failed is told line by line.
        let mut child = command
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|source| ScenarioError::io("start a probe", source))?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stopped = Arc::new(AtomicBool::new(false));
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (asking, is_stopped, on) = (seen.clone(), stopped.clone(), on.to_owned());
        thread::spawn(move || {
            let Some(mut stdin) = stdin else { return };
            let call = json!({ "operation": "node/info", "on": on });
            let look = json!({ "operation": "peers/show", "input": { "peer": on } });
            let mut lines = 0;
            while !is_stopped.load(Ordering::Acquire) {
                let mut ask = |what: Asked, line: &Value| {
                    lock(&asking).asked.insert(lines, (what, Instant::now()));
                    lines += 1;
                    writeln!(stdin, "{line}")
                };
                let is_full = lock(&asking).asked.len() >= WAITING_MAX;
                let called = if is_full {
                    Ok(())
                } else {
                    ask(Asked::Call, &call)
                };
                if called.and_then(|()| ask(Asked::Look, &look)).is_err() {
                    return;
                }
                thread::sleep(EVERY);
            }
        });
        let reading = seen.clone();
        thread::spawn(move || {
            if let Some(stdout) = stdout {
                read(stdout, &reading);
            }
        });
        Ok(Self {
            seen,
            stopped,
            child,
        })
    }

    /// The newest look, if the link is connected.
    pub(super) fn now(&self) -> Option<Look> {
        let seen = lock(&self.seen);
        seen.looks
            .last()
            .filter(|look| look.path.is_some())
            .cloned()
    }

    /// All looks so far, oldest first.
    pub(super) fn looks(&self) -> Vec<Look> {
        lock(&self.seen).looks.clone()
    }

    /// All answered calls so far, in the order in which the answers came.
    pub(super) fn answers(&self) -> Vec<Answer> {
        lock(&self.seen).answers.clone()
    }

    /// Codes of calls that failed since `from`, with how many.
    pub(super) fn failed(&self, from: Instant) -> BTreeMap<String, usize> {
        let mut codes = BTreeMap::new();
        for (_, code) in lock(&self.seen).failed.iter().filter(|(at, _)| *at >= from) {
            *codes.entry(code.clone()).or_default() += 1;
        }
        codes
    }

    /// Calls that have neither been answered nor failed for longer than `most`.
    pub(super) fn silent(&self, most: Duration) -> usize {
        let seen = lock(&self.seen);
        let late = |(_, sent): &&(Asked, Instant)| sent.elapsed() > most;
        seen.asked.values().filter(late).count()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(stdout: ChildStdout, seen: &Mutex<Seen>) {
    for line in BufReader::new(stdout).lines() {
        let Ok(line) = line else { return };
        let came = Instant::now();
        let Ok(line) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        let Some(index) = line.get("index").and_then(Value::as_u64) else {
            continue;
        };
        let mut seen = lock(seen);
        let Some((asked, sent)) = seen.asked.remove(&index) else {
            continue;
        };
        match (line.get("output"), asked) {
            (Some(_), Asked::Call) => seen.answers.push(Answer { sent, came }),
            (Some(peer), Asked::Look) => seen.looks.push(look(came, peer)),
            (None, _) => {
                let code = line.get("error").and_then(|error| error.get("code"));
                let code = code.and_then(Value::as_str).unwrap_or("?").to_owned();
                seen.failed.push((came, code));
            }
        }
    }
}

fn look(at: Instant, peer: &Value) -> Look {
    let link = peer.get("link");
    let field = |name: &str| link.and_then(|link| link.get(name));
    let is_connected = peer.get("connected") == Some(&Value::Bool(true));
    let path = match field("path").and_then(Value::as_str) {
        Some("direct") => Some(Path::Direct),
        Some("relay") => Some(Path::Relay),
        _ => None,
    };
    Look {
        at,
        path: path.filter(|_| is_connected),
        rtt_ms: field("rtt_ms").and_then(Value::as_f64),
    }
}

/// The longest time without an answer between `from` and `to`, both ends
/// counted as answers.
pub(super) fn longest_gap(answers: &[Answer], from: Instant, to: Instant) -> Duration {
    let inside = answers.iter().map(|answer| answer.came);
    let mut last = from;
    let mut longest = Duration::ZERO;
    for came in inside.filter(|came| (from..=to).contains(came)).chain([to]) {
        longest = longest.max(came.saturating_duration_since(last));
        last = came;
    }
    longest
}

/// Since when answers have come without a longer pause than [`PAUSE_MAX`] until
/// `to`, looked at from `from` on; `to` if the last one is longer ago.
pub(super) fn works_since(answers: &[Answer], from: Instant, to: Instant) -> Instant {
    let mut since = from;
    let mut last = from;
    for answer in answers
        .iter()
        .filter(|answer| (from..=to).contains(&answer.came))
    {
        if answer.came.saturating_duration_since(last) > PAUSE_MAX {
            since = answer.came;
        }
        last = answer.came;
    }
    let is_paused = to.saturating_duration_since(last) > PAUSE_MAX;
    if is_paused { to } else { since }
}

/// The median of what calls took that were sent between `from` and `to`.
pub(super) fn median_took(answers: &[Answer], from: Instant, to: Instant) -> Option<Duration> {
    let mut took: Vec<Duration> = answers
        .iter()
        .filter(|answer| (from..=to).contains(&answer.sent))
        .map(|answer| answer.came.saturating_duration_since(answer.sent))
        .collect();
    took.sort();
    took.get(took.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn a_gap_may_be_at_either_end() {
        let start = Instant::now();
        let answers: Vec<Answer> = [100, 200, 700]
            .map(|ms| Answer {
                sent: at(start, ms - 50),
                came: at(start, ms),
            })
            .to_vec();
        let gap = |from, to| longest_gap(&answers, at(start, from), at(start, to)).as_millis();
        assert_eq!(gap(0, 800), 500);
        assert_eq!(gap(600, 2000), 1300);
        assert_eq!(gap(150, 250), 50);
        assert_eq!(gap(800, 900), 100);
        let since = |from, to| works_since(&answers, at(start, from), at(start, to)) - start;
        assert_eq!(since(0, 800).as_millis(), 0, "no pause is too long");
        assert_eq!(
            since(0, 1500).as_millis(),
            1500,
            "the last answer is too old"
        );
        let late = [
            answers[0],
            Answer {
                sent: at(start, 150),
                came: at(start, 900),
            },
        ];
        assert_eq!(
            (works_since(&late, start, at(start, 1000)) - start).as_millis(),
            900
        );
        let took = median_took(&answers, start, at(start, 800)).unwrap();
        assert_eq!(took.as_millis(), 50);
        assert_eq!(median_took(&answers, at(start, 900), at(start, 901)), None);
    }

    #[test]
    fn only_a_connected_link_has_a_path() {
        let shown = |connected: bool| {
            let peer = json!({ "connected": connected, "link": {
                "path": "relay", "rtt_ms": 1.5 } });
            look(Instant::now(), &peer)
        };
        assert_eq!(shown(true).path, Some(Path::Relay));
        assert_eq!(shown(true).rtt_ms, Some(1.5));
        assert_eq!(shown(false).path, None);
        assert_eq!(look(Instant::now(), &json!({})).path, None);
    }
}
