//! What was acknowledged is there after a kill at any moment.

use super::harness::{Node, eventually};
use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// From the start of the process to ready, with what a crash left: ten times
/// what it may take.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// Clients that write at a time.
const CLIENTS: usize = 2;

/// A key that is nobody's, and another one each time: a point of the curve, so
/// it is derived from a seed.
fn some_key(seed: u64) -> String {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    iroh::SecretKey::from_bytes(&bytes).public().to_string()
}

/// Adds peers until the node is gone, and notes each after its reply.
fn add_peers(
    node: &Node,
    round: usize,
    client: usize,
    done: &AtomicBool,
    added: &Mutex<BTreeSet<String>>,
) {
    for n in 0.. {
        if done.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("p{round}-{client}-{n}");
        let seed = (round as u64) << 40 | (client as u64) << 32 | n;
        let said = node.cli(&["peers", "add", &name, "--node-id", &some_key(seed)]);
        if said.status.success() {
            added.lock().unwrap().insert(name);
        }
    }
}

/// A moment between 30 and 430 ms that looks random and is the same in each
/// run.
fn moment(round: usize) -> Duration {
    let hash = (round as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Duration::from_millis(30 + (hash >> 40) % 400)
}

/// Slow: 25 kills, 200 in `./test full`.
#[test]
fn slow_acknowledged_peers_survive_kills_at_any_moment() {
    let rounds = if std::env::var_os("ALKNET_TEST_FULL").is_some() {
        200
    } else {
        25
    };
    let mut node = Node::start("home", "");
    let added = Mutex::new(BTreeSet::new());
    for round in 0..rounds {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (node, done, added) = (&node, &done, &added);
                scope.spawn(move || add_peers(node, round, client, done, added));
            }
            thread::sleep(moment(round));
            node.signal(rustix::process::Signal::KILL);
            done.store(true, Ordering::Relaxed);
        });
        node.kill();
        let doctor = node.cli(&["doctor", "--json"]).json();
        let checks = doctor["checks"].as_array().unwrap();
        let database = checks
            .iter()
            .find(|check| check["name"] == "database")
            .unwrap();
        assert_eq!(database["status"], "ok", "round {round}: {database}");
        let started = Instant::now();
        node.restart();
        assert!(
            started.elapsed() < READY_WITHIN,
            "round {round}: {:?}",
            started.elapsed()
        );
        let list = node.cli(&["peers", "list", "--json"]).exits(0).json();
        let peers = list["peers"].as_array().unwrap().iter();
        let names: BTreeSet<String> = peers
            .map(|peer| peer["peer"].as_str().unwrap().to_owned())
            .collect();
        let added = added.lock().unwrap();
        let missing: Vec<&String> = added.difference(&names).collect();
        assert!(missing.is_empty(), "round {round}: {missing:?}");
    }
    let added = added.into_inner().unwrap().len();
    assert!(added > rounds, "only {added} peers in {rounds} rounds");
    // Each change came with its row of the log, and each row with its change.
    let counted = eventually("the log can be read", || {
        let mut after = 0;
        let mut rows = BTreeSet::new();
        loop {
            let input = format!(
                "{{\"operation\":\"peers/add\",\"outcome\":\"ok\",\"after\":{after},\"limit\":1000}}"
            );
            let page = node.cli(&["call", "audit/list", &input]).exits(0).json();
            let page = page["rows"].as_array().unwrap().clone();
            let Some(first) = page.first() else {
                return Some(rows);
            };
            after = first["n"].as_u64().unwrap();
            rows.extend(
                page.iter()
                    .filter_map(|row| row["detail"].as_str().map(str::to_owned)),
            );
        }
    });
    let list = node.cli(&["peers", "list", "--json"]).exits(0).json();
    for peer in list["peers"].as_array().unwrap() {
        let name = peer["peer"].as_str().unwrap();
        let has = counted
            .iter()
            .any(|detail| detail.split([' ', ':']).any(|word| word == name));
        assert!(name == "owner" || has, "`{name}` has no row");
    }
}
