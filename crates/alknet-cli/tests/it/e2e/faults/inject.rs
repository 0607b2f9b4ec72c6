//! Errors of the disk under a running node.

use super::{
    ledger::Ledger,
    random, rounds, seed,
    writers::{Owner, Writers},
};
use crate::e2e::harness::{Node, eventually};
use serde_json::json;
use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A node that strace may look at, whoever runs the tests.
fn debuggable() -> Node {
    let words = ["--relay", "none", "--bind", "127.0.0.1:0", "--debuggable"];
    Node::start_with("home", "", &words, None)
}

/// strace on a running node; it lets go when it is dropped.
struct Attached(Child);

impl Attached {
    /// Attaches to a node and does what `inject` says; `None` where that is
    /// not possible.
    fn to(node: &Node, test: &str, inject: &str) -> Option<Self> {
        let calls = inject.split(':').next().unwrap();
        let told: PathBuf = node.path("strace.stderr");
        let attached = Command::new("strace")
            .args(["-f", "-o", "/dev/null"])
            .args(["-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={inject}")])
            .args(["-p", &node.pid().to_string()])
            .stdin(Stdio::null())
            .stderr(fs::File::create(&told).unwrap())
            .spawn();
        let Ok(child) = attached else {
            alknet_lab::skip(test, "strace cannot be run");
            return None;
        };
        let mut attached = Self(child);
        let works = eventually("strace is attached", || {
            let said = fs::read_to_string(&told).unwrap();
            if attached.0.try_wait().unwrap().is_some() {
                return Some(false);
            }
            said.contains("attached").then_some(true)
        });
        if !works {
            alknet_lab::skip(test, "strace cannot attach to a process here");
            return None;
        }
        Some(attached)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // Killed, it might leave a thread stopped.
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let _ = self.0.wait();
    }
}

/// Slow: 6 rounds, 200 in `./test full`.
#[test]
fn slow_a_disk_that_fails_makes_no_false_acknowledgement() {
    let rounds = rounds(6, 200);
    let mut random = random("inject");
    let mut node = debuggable();
    let mut ledger = Ledger::default();
    let mut refused = 0;
    for round in 0..rounds {
        let call = [
            "pwrite64",
            "fdatasync",
            "pwrite64,fdatasync,fsync,ftruncate",
        ];
        let call = call[random.below(3) as usize];
        let error = ["EIO", "ENOSPC"][random.below(2) as usize];
        let (first, step) = (1 + random.below(30), 1 + random.below(12));
        let inject = format!("{call}:error={error}:when={first}+{step}");
        let context = format!("round {round}, seed {}, {inject}", seed());
        let owner = Owner::of(&node);
        let Some(attached) = Attached::to(&node, "slow_a_disk_that_fails", &inject) else {
            return;
        };
        let writers = Writers::start(&owner, &format!("f{round}"), false);
        thread::sleep(Duration::from_millis(400));
        drop(attached);
        // It works again by itself.
        let before = writers.noted.acknowledged();
        eventually(&format!("{context}: writes are acknowledged again"), || {
            (writers.noted.acknowledged() > before + 6).then_some(())
        });
        node.signal(rustix::process::Signal::KILL);
        let noted = writers.end(&owner);
        node.kill();
        for (code, message) in noted.refused() {
            // A name that is taken belongs to a write whose end is open.
            assert!(
                ["UNAVAILABLE", "CONFLICT"].contains(&code.as_str()),
                "{context}: {code} {message}"
            );
            refused += 1;
        }
        assert!(
            !node.told().contains("panicked"),
            "{context}: {}",
            node.told()
        );
        noted.add_to(&mut ledger);
        let missing = ledger.missing_from(&node.data());
        assert!(missing.is_empty(), "{context}: {missing:#?}");
        node.restart();
    }
    assert!(refused > 0, "no call saw an error");
    node.stop();
}

/// A reply to a write comes after the sync of its commit; what writes nothing
/// waits for none.
#[test]
fn slow_a_reply_waits_for_the_sync_of_its_commit() {
    const DELAY: Duration = Duration::from_millis(400);
    let node = debuggable();
    let owner = Owner::of(&node);
    let inject = format!("fdatasync,fsync:delay_enter={}", DELAY.as_micros());
    let test = "slow_a_reply_waits_for_the_sync_of_its_commit";
    let Some(_attached) = Attached::to(&node, test, &inject) else {
        return;
    };
    let timed = |operation: &str, input| {
        let started = Instant::now();
        owner.call(operation, input).unwrap();
        started.elapsed()
    };
    let mut quickest = Duration::MAX;
    for n in 0..3 {
        let name = format!("late-{n}");
        let key = super::writers::node_key(&name);
        let added = timed("peers/add", json!({ "peer": name, "node_id": key }));
        assert!(added >= DELAY, "acknowledged after {added:?}");
        quickest = quickest.min(timed("peers/list", json!({})));
    }
    assert!(quickest < DELAY, "a query took {quickest:?}");
}
