//! What was acknowledged is there after a kill at any moment.

use super::harness::Node;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// From the start of the process to ready, with what a crash left: ten times
/// what it may take.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// Peers that one batch adds at most.
const BATCH: u64 = 40;

/// A key that is nobody's, and another one each time: a point of the curve, so
/// it is derived from a seed.
fn some_key(seed: u64) -> String {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    iroh::SecretKey::from_bytes(&bytes).public().to_string()
}

fn seed(round: u64, client: u64, n: u64) -> u64 {
    round << 40 | client << 32 | n
}

/// Adds peers one after the other until the node is gone, and notes each after
/// its reply.
fn one_by_one(node: &Node, round: u64, done: &AtomicBool) -> Vec<String> {
    let mut added = Vec::new();
    for n in 0.. {
        let name = format!("one-{round}-{n}");
        let mut adding = node.spawn(&[
            "peers",
            "add",
            &name,
            "--node-id",
            &some_key(seed(round, 1, n)),
        ]);
        // Once the node is gone nobody waits for its silence to be believed.
        let status = loop {
            match adding.child.try_wait().unwrap() {
                Some(status) => break status,
                None if done.load(Ordering::Relaxed) => return added,
                None => thread::sleep(Duration::from_millis(1)),
            }
        };
        if status.success() {
            added.push(name);
        }
        if done.load(Ordering::Relaxed) {
            break;
        }
    }
    added
}

/// Adds many at a time; the replies are noted in a file as they come.
fn many_at_once(node: &Node, round: u64, done: &AtomicBool) -> Vec<String> {
    let (calls, replies) = (node.path("calls"), node.path("replies"));
    let name = |n: u64| format!("many-{round}-{n}");
    let lines = (0..BATCH).map(|n| {
        let input = json!({ "peer": name(n), "node_id": some_key(seed(round, 2, n)) });
        format!("{}\n", json!({ "operation": "peers/add", "input": input }))
    });
    fs::write(&calls, lines.collect::<String>()).unwrap();
    let mut command = node.command(&["batch", calls.to_str().unwrap()]);
    command.stdout(fs::File::create(&replies).unwrap());
    let mut adding = command.spawn().unwrap();
    while adding.try_wait().unwrap().is_none() && !done.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(1));
    }
    let _ = adding.kill();
    adding.wait().unwrap();
    let replies = fs::read_to_string(&replies).unwrap();
    // Half a line is no reply.
    let whole = replies.rfind('\n').map_or("", |end| &replies[..end]);
    let whole = whole
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    whole
        .filter(|reply| reply.get("output").is_some())
        .map(|reply| name(reply["index"].as_u64().unwrap()))
        .collect()
}

/// A moment between 30 and 830 ms that looks random and is the same in each
/// run.
fn moment(round: u64) -> Duration {
    let hash = (round + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Duration::from_millis(30 + (hash >> 40) % 800)
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
    let mut added = BTreeSet::new();
    for round in 0..rounds {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let (node, done) = (&node, &done);
            let one = scope.spawn(move || one_by_one(node, round, done));
            let many = scope.spawn(move || many_at_once(node, round, done));
            thread::sleep(moment(round));
            node.signal(rustix::process::Signal::KILL);
            done.store(true, Ordering::Relaxed);
            added.extend(one.join().unwrap());
            added.extend(many.join().unwrap());
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
        let missing: Vec<&String> = added.difference(&names).collect();
        assert!(missing.is_empty(), "round {round}: {missing:?}");
    }
    // Enough were on their way when it was killed, and not all were done.
    let (added, asked) = (added.len() as u64, rounds * BATCH);
    assert!(added > 2 * rounds && added < asked, "{added} peers");
    // Each change came with its row of the log, and each row with its change.
    let mut rows = BTreeSet::new();
    let mut input = json!({ "operation": "peers/add", "outcome": "ok", "limit": 1000 });
    loop {
        let page = node
            .cli(&["call", "audit/list", &input.to_string()])
            .exits(0)
            .json();
        let page = page["rows"].as_array().unwrap();
        let Some(oldest) = page.last() else { break };
        input["before"] = oldest["n"].clone();
        let names = page.iter().filter_map(|row| row["resource"].as_str());
        rows.extend(names.map(str::to_owned));
    }
    let list = node.cli(&["peers", "list", "--json"]).exits(0).json();
    let peers = list["peers"].as_array().unwrap().iter();
    let mut names: BTreeSet<String> = peers
        .map(|peer| peer["peer"].as_str().unwrap().to_owned())
        .collect();
    names.remove("owner");
    assert_eq!(rows, names);
}
