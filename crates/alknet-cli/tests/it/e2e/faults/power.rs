//! Power that is lost under a whole node, and disks that fail to sync.

use super::{
    ledger::{Ledger, in_memory},
    random, rounds, seed,
    writers::{Owner, Writers},
};
use crate::{
    e2e::harness::{Node, eventually},
    program::{Place, program},
};
use alknet_testkit::power::{self, Disk, Trace, Unsynced};
use serde_json::json;
use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

/// How long clients write.
const WORK: Duration = Duration::from_millis(700);

/// The traced life of a node, from an empty directory to a kill.
struct Life {
    trace: Trace,
    /// What was acknowledged, and when.
    noted: Vec<(u64, String)>,
    /// Its configuration, which was there before.
    config: Vec<u8>,
    node_id: String,
    /// Codes of calls that were refused.
    refused: Vec<(String, String)>,
    told: String,
}

/// Whether the node can be traced here; else the test counts as skipped.
pub(super) fn can_trace(test: &str) -> bool {
    let traced = Command::new("strace")
        .args(["-D", "-o", "/dev/null", "true"])
        .stdin(Stdio::null())
        .output();
    let works = traced.is_ok_and(|traced| traced.status.success());
    if !works {
        alknet_lab::skip(test, "strace cannot trace here");
    }
    works
}

impl Life {
    /// Lets clients write to a node while strace does to its calls what
    /// `inject` says.
    fn record(inject: &[&str]) -> Self {
        let place = Place::new();
        place.configure("name = \"home\"\n");
        let config = fs::read(place.data().join("alknet.toml")).unwrap();
        let out = place.path().join("trace");
        let traced = power::command(&out, inject, program().as_os_str());
        // The node is to be the child that is killed, strace its shadow; and
        // the program is appended by who starts it.
        let words: Vec<_> = traced.get_args().collect();
        let mut under = Command::new("strace");
        under.arg("-D").args(&words[..words.len() - 1]);
        let mut node = Node::start_under(place, "home", &under);
        let owner = Owner::of(&node);
        let writers = Writers::start(&owner, "p", false);
        thread::sleep(WORK);
        eventually("something is acknowledged", || {
            (writers.noted.acknowledged() > 20).then_some(())
        });
        let pid = node.pid();
        node.signal(rustix::process::Signal::KILL);
        let noted = writers.end(&owner);
        let killed = format!("{pid} ");
        node.kill();
        let text = eventually("strace has written the end", || {
            let text = fs::read_to_string(&out).unwrap();
            let mut lines = text.lines();
            let end = lines.any(|line| line.starts_with(&killed) && line.contains("+++ killed by"));
            end.then_some(text)
        });
        let data = node.data().canonicalize().unwrap();
        Self {
            trace: Trace::read(&text, &data, &PathBuf::from("/no/marks")).unwrap(),
            noted: noted.moments(),
            config,
            node_id: node.id().to_owned(),
            refused: noted.refused(),
            told: node.told(),
        }
    }

    /// What is missing after power was lost at `moments` of acknowledgement,
    /// each time with everything lost that was not synced, and with a part of
    /// it.
    fn losses(&self, moments: u64) -> Vec<String> {
        let mut random = random("power");
        let mut disk = self.disk();
        let mut ledger = Ledger::default();
        let (mut played, mut found) = (0, Vec::new());
        let skipped = (self.noted.len() as u64).saturating_sub(moments);
        for (at, line) in &self.noted {
            ledger.add(line);
            if random.below(self.noted.len() as u64) < skipped {
                continue;
            }
            let steps = self.trace.steps_by(*at);
            self.trace.steps()[played..steps]
                .iter()
                .for_each(|step| disk.play(step));
            played = steps;
            for unsynced in [Unsynced::Lost, Unsynced::Part(random.number())] {
                let dir = in_memory();
                disk.lay_out(unsynced, dir.path()).unwrap();
                let losses = ledger.missing_from_database(&dir.path().join("alknet.db"));
                let told = |loss| format!("{loss}, after {line}, {unsynced:?}, seed {}", seed());
                found.extend(losses.into_iter().map(told));
            }
            if found.len() > 8 {
                break;
            }
        }
        found
    }

    fn disk(&self) -> Disk {
        let mut disk = Disk::new(seed());
        disk.put("alknet.toml", self.config.clone());
        disk
    }

    /// A node that starts on what is left once power was lost at the end.
    #[track_caller]
    fn starts_again(&self, unsynced: Unsynced) {
        let (at, _) = self.noted.last().unwrap();
        let mut disk = self.disk();
        let steps = self.trace.steps_by(*at);
        self.trace.steps()[..steps]
            .iter()
            .for_each(|step| disk.play(step));
        let place = Place::new();
        place.configure("");
        fs::set_permissions(
            place.data(),
            std::os::unix::fs::PermissionsExt::from_mode(0o700),
        )
        .unwrap();
        disk.lay_out(unsynced, &place.data()).unwrap();
        let words = ["--relay", "none", "--bind", "127.0.0.1:0"];
        let mut node = Node::start_in(place, "home", "", &words, None);
        assert_eq!(node.id(), self.node_id, "another node");
        let owner = Owner::of(&node);
        let listed = owner.call("peers/list", json!({})).unwrap();
        let listed = listed["peers"].as_array().unwrap();
        for (_, line) in &self.noted {
            if let Some(id) = line.strip_prefix("peer ") {
                assert!(
                    listed.iter().any(|peer| peer["peer"] == id),
                    "{line} is lost"
                );
            }
        }
        node.stop();
    }
}

/// Slow: 60 moments, all in `./test full`.
#[test]
fn slow_what_was_acknowledged_survives_the_loss_of_power() {
    if !can_trace("slow_what_was_acknowledged_survives_the_loss_of_power") {
        return;
    }
    let life = Life::record(&[]);
    let found = life.losses(rounds(60, u64::MAX));
    assert!(found.is_empty(), "{found:#?}");
    // Its keys and everything else that it needs are durable, too.
    life.starts_again(Unsynced::Lost);
    life.starts_again(Unsynced::Part(seed()));
}

/// The same with syncs that do nothing: the test sees that.
#[test]
fn slow_a_node_whose_syncs_do_nothing_is_found_out() {
    if !can_trace("slow_a_node_whose_syncs_do_nothing_is_found_out") {
        return;
    }
    let life = Life::record(&["fsync,fdatasync:retval=0"]);
    let found = life.losses(20);
    let lost = found.iter().any(|loss| {
        loss.contains("is lost")
            || loss.contains("cannot be read")
            || loss.contains("does not open")
    });
    assert!(lost, "{found:#?}");
}

/// What a failed sync was to write is gone, whatever later ones say; so it may
/// not be acknowledged with them.
#[test]
fn slow_nothing_is_believed_after_a_failed_sync() {
    if !can_trace("slow_nothing_is_believed_after_a_failed_sync") {
        return;
    }
    // Counted for each thread: the one that writes to the database has many.
    let life = Life::record(&["fdatasync,fsync:error=EIO:when=25+6"]);
    assert!(!life.refused.is_empty(), "no call saw a failed sync");
    assert!(!life.told.contains("panicked"), "{}", life.told);
    let found = life.losses(rounds(60, u64::MAX));
    assert!(found.is_empty(), "{found:#?}");
}
