//! A peer gets a new key while it is in use: whoever it is, it stays one peer.

use super::harness::{ANSWERS, Node, Running, eventually, exec_config};
use crate::program::Place;
use serde_json::Value;
use std::{path::Path, process::Command, time::Instant};

/// How long both keys work where the end is waited for: long enough to do what
/// is done meanwhile.
const OVERLAP: &str = "15s";
/// How long where it is not.
const LONG: &str = "1h";

fn config() -> String {
    format!(
        r#"{}
{ANSWERS}

[[operation]]
name = "test/tick"
summary = "Counts for ever."
output = "lines"
command = ["sh", "-c", "n=0; while n=$((n+1)); do echo $n; sleep 0.05; done"]
"#,
        exec_config()
    )
}

const LOOPBACK: &[&str] = &["--relay", "none", "--bind", "127.0.0.1:0"];

/// Makes `guest` a peer of `host` by an invite, and waits until both are
/// connected.
#[track_caller]
fn join(host: &Node, guest: &Node) {
    let ticket = host.cli(&["invite", "-q"]).exits(0).stdout;
    guest.feed(&["join", "-"], ticket.as_bytes()).exits(0);
    guest.connected(&host.name);
    host.connected(&guest.name);
}

/// `laptop` at `home`, with its old key, and a copy of it that has new words:
/// the same peers and networks, another key.
struct House {
    home: Node,
    nas: Node,
    old: Node,
    new: Place,
    new_id: String,
}

impl House {
    fn start() -> Self {
        let home = Node::start("home", &config());
        let nas = Node::start("nas", &config());
        let mut old = Node::start("laptop", "");
        join(&home, &nas);
        join(&home, &old);
        nas.cli(&["grant", "home", "test:*"]).exits(0);
        home.cli(&["grant", "laptop", "test/query", "test/tick"])
            .exits(0);
        home.cli(&["grant", "laptop", "peer:nas=test/*"]).exits(0);
        old.stop();
        let new = Place::new();
        copy(&old.data(), &new.path().join("data"));
        let replaced = new.run(&["vault", "replace", "--yes", "--json"]).exits(0);
        let new_id = replaced.json()["node_id"].as_str().unwrap().to_owned();
        assert_ne!(new_id, old.id());
        old.restart();
        old.connected("home");
        Self {
            home,
            nas,
            old,
            new,
            new_id,
        }
    }

    /// Starts the copy; `home` need not know its key yet.
    fn start_new(&mut self) -> Node {
        let place = std::mem::replace(&mut self.new, Place::new());
        let new = Node::start_in(place, "laptop", "", LOOPBACK, None);
        assert_eq!(new.id(), self.new_id);
        new
    }

    fn rotate(&self, id: &str, overlap: &str) -> Value {
        let words = ["peers", "rotate", "laptop", "--node-id", id, "--json"];
        let words = [&words[..], &["--overlap", overlap]].concat();
        self.home.cli(&words).exits(0).json()
    }

    /// The keys that `home` accepts of `laptop`, the current one first, and
    /// which of them end.
    fn keys(&self) -> Vec<(String, bool)> {
        let peer = self.home.peer("laptop");
        let keys = peer["node_keys"].as_array().unwrap().iter();
        keys.map(|key| {
            let id = key["key"].as_str().unwrap().to_owned();
            (id, key["until"].is_string())
        })
        .collect()
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.unwrap().success());
    // Of this machine and this run, not of the node.
    for file in ["runtime.json", "port"] {
        let _ = std::fs::remove_file(to.join(file));
    }
}

/// A call here, and one through `home` to the node behind it.
#[track_caller]
fn calls_work(laptop: &Node) {
    for on in ["home", "home/nas"] {
        let said = laptop.cli(&["call", "test/query", "--on", on]).exits(0);
        assert_eq!(said.stdout, "answer\n", "{on}");
    }
}

/// It cannot call any more, and its link says why not.
#[track_caller]
fn is_refused(laptop: &Node) {
    eventually("its link is down", || {
        let peer = laptop.peer("home");
        (peer["connected"] == false).then_some(())
    });
    laptop
        .cli(&["call", "test/query", "--on", "home", "--timeout", "5s"])
        .exits(3);
    let why = eventually("why it is not let in", || {
        let peer = laptop.peer("home");
        peer["link"]["last_error"].as_str().map(str::to_owned)
    });
    assert!(
        why.contains("not a peer") || why.contains("NOT_ADMITTED"),
        "{why}"
    );
}

/// Starts a subscription, and waits until it runs.
#[track_caller]
fn ticking(laptop: &Node) -> Running {
    let running = laptop.spawn(&["call", "test/tick", "--on", "home", "--json"]);
    running.lines.next();
    running
}

#[test]
fn slow_a_rotated_peer_goes_on_under_its_name_and_the_old_key_ends_with_the_overlap() {
    let mut house = House::start();
    calls_work(&house.old);
    let mut old_ticks = ticking(&house.old);
    let new = house.start_new();
    // Nobody yet: its key is not known there.
    is_refused(&new);
    let rotated = Instant::now();
    let peer = house.rotate(&house.new_id, OVERLAP);
    assert_eq!(peer["node_id"], house.new_id.as_str());
    assert_eq!(peer["peer"], "laptop");
    // Both work, under one name, with one set of grants.
    new.cli(&["peers", "dial", "home"]);
    new.connected("home");
    let new_ticks = ticking(&new);
    calls_work(&new);
    calls_work(&house.old);
    old_ticks.lines.next();
    assert_eq!(
        house.keys(),
        [
            (house.new_id.clone(), false),
            (house.old.id().to_owned(), true)
        ]
    );
    assert!(
        rotated.elapsed().as_secs() < 15,
        "too slow to see both work: {:?}",
        rotated.elapsed()
    );
    // The end: what runs with the old key is cut off, and it is not let in.
    let ended = old_ticks.code();
    assert!(
        rotated.elapsed().as_secs() >= 14,
        "before the overlap was over: {:?}: {ended:?}",
        rotated.elapsed()
    );
    let code = ended.error_code();
    assert!(
        ["LOST", "UNAUTHENTICATED"].contains(&code.as_str()),
        "{ended:?}"
    );
    is_refused(&house.old);
    // The new one has noticed nothing.
    new_ticks.lines.next();
    calls_work(&new);
    let home = house.home.connected("laptop");
    assert_eq!(home["node_id"], house.new_id.as_str());
    assert_eq!(house.keys(), [(house.new_id.clone(), false)]);
    // One peer in the log, whichever key it was.
    let rows = eventually("the calls are in the log", || {
        let rows = house.home.audit(&["--operation", "test/query"]);
        (rows.len() >= 8).then_some(rows)
    });
    assert!(
        rows.iter().all(|row| row["caller"] == "laptop"),
        "{rows:#?}"
    );
    let changes = house.home.audit(&["--operation", "peers/rotate"]);
    assert!(
        changes.iter().any(|row| row["resource"] == "laptop"),
        "{changes:#?}"
    );
    new_ticks.interrupt();
    let at_nas = house.nas.audit(&["--operation", "test/query"]);
    assert!(at_nas.iter().all(|row| row["originator"] == "home/laptop"));
}

#[test]
fn slow_an_overlap_outlasts_a_restart_and_a_rotation_ends_the_one_before() {
    let mut house = House::start();
    let old_id = house.old.id().to_owned();
    let new = house.start_new();
    house.rotate(&house.new_id, LONG);
    new.cli(&["peers", "dial", "home"]);
    new.connected("home");
    // Across a restart, both keys are accepted still.
    let address = house.home.address().to_owned();
    house.home.stop();
    house
        .home
        .restart_with(&["--relay", "none", "--bind", &address]);
    for laptop in [&new, &house.old] {
        laptop.cli(&["peers", "dial", "home"]);
        laptop.connected("home");
    }
    calls_work(&new);
    calls_work(&house.old);
    // The key that is the current one cannot become it.
    let words = ["peers", "rotate", "laptop", "--json", "--node-id"];
    let again = house.home.cli(&[&words[..], &[&house.new_id]].concat());
    assert_eq!(super::harness::error_code(&again.stderr), "CONFLICT");
    // Nor can another peer's.
    let others = house.home.cli(&[&words[..], &[house.nas.id()]].concat());
    assert_eq!(super::harness::error_code(&others.stderr), "CONFLICT");
    // Back: the old key is the current one, and the new one ends later.
    house.rotate(&old_id, LONG);
    assert_eq!(
        house.keys(),
        [(old_id.clone(), false), (house.new_id.clone(), true)]
    );
    calls_work(&new);
    calls_work(&house.old);
    // On to a third one: of two, only the current one overlaps.
    let mut ticks = ticking(&new);
    let third = Node::start("third", "");
    house.rotate(third.id(), LONG);
    assert_eq!(
        house.keys(),
        [(third.id().to_owned(), false), (old_id, true)]
    );
    ticks.code();
    is_refused(&new);
    calls_work(&house.old);
    // The same key again, with another overlap: the old one ends now.
    house.rotate(third.id(), "0s");
    assert_eq!(house.keys(), [(third.id().to_owned(), false)]);
    is_refused(&house.old);
}
