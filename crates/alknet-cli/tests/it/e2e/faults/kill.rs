//! Kills at any moment.

use super::{
    ledger::Ledger,
    random, rounds, seed,
    writers::{Owner, Writers, node_key},
};
use crate::e2e::harness::{Node, eventually};
use futures::StreamExt;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

/// From the start of the process to ready, with what a crash left.
const READY_WITHIN: Duration = Duration::from_secs(2);
/// How much longer a build without optimisation may take.
const DEBUG_FACTOR: u32 = 10;
/// Rounds after which a node with an empty directory takes over, so that the
/// last round looks at no more than the first ones.
const ROUNDS_A_NODE: u64 = 50;

/// Slow: 25 kills, 1,000 in `./test full`.
#[test]
fn slow_what_was_acknowledged_survives_kills_at_any_moment() {
    let rounds = rounds(25, 1_000);
    let mut random = random("kill");
    let (mut acknowledged, mut slowest) = (0, Duration::ZERO);
    let mut round = 0;
    while round < rounds {
        let mut killed = Killed::start();
        for _ in 0..ROUNDS_A_NODE.min(rounds - round) {
            let moment = Duration::from_millis(20 + random.below(600));
            killed.round(round, moment);
            round += 1;
        }
        acknowledged += killed.ledger.len();
        slowest = slowest.max(killed.slowest);
        killed.node.stop();
    }
    // Enough was on its way for a kill to hit.
    assert!(acknowledged as u64 > 20 * rounds, "{acknowledged} writes");
    // What the proof quotes.
    #[allow(clippy::print_stderr)]
    {
        eprintln!(
            "{rounds} kills, seed {}: {acknowledged} acknowledged writes, slowest start {slowest:?}",
            seed()
        );
    }
}

/// A node that is killed again and again.
struct Killed {
    node: Node,
    ledger: Ledger,
    events: Events,
    slowest: Duration,
}

impl Killed {
    fn start() -> Self {
        let node = Node::start("home", "");
        let events = Events::of(&Owner::of(&node));
        Self {
            node,
            ledger: Ledger::default(),
            events,
            slowest: Duration::ZERO,
        }
    }

    fn round(&mut self, round: u64, moment: Duration) {
        let context = format!("round {round}, seed {}, {moment:?}", seed());
        let owner = Owner::of(&self.node);
        let following = self.events.follow(&owner);
        let writers = Writers::start(&owner, &format!("r{round}"), false);
        // The command line, too: it is a process for each write.
        let name = format!("r{round}-cli");
        let key = node_key(&name);
        let adding = self.node.spawn(&["peers", "add", &name, "--node-id", &key]);
        thread::sleep(moment);
        self.node.signal(rustix::process::Signal::KILL);
        let noted = writers.end(&owner);
        self.node.kill();
        self.events.take(following);
        if let Some(status) = { adding }.child.try_wait().unwrap()
            && status.success()
        {
            self.ledger.add(&format!("peer {name}"));
        }
        noted.add_to(&mut self.ledger);
        let missing = self.ledger.missing_from(&self.node.data());
        assert!(missing.is_empty(), "{context}: {missing:#?}");
        let started = Instant::now();
        self.node.restart();
        let took = started.elapsed();
        // A program that was named is of a release build.
        let factor = match env::var_os("ALKNET_TEST_BIN") {
            Some(_) => 1,
            None => DEBUG_FACTOR,
        };
        assert!(
            took < READY_WITHIN * factor,
            "{context}: ready after {took:?}"
        );
        self.slowest = self.slowest.max(took);
        self.ask(&noted.moments(), &context);
    }

    /// The node that was started again says the same as its database.
    fn ask(&mut self, noted: &[(u64, String)], context: &str) {
        let owner = Owner::of(&self.node);
        self.events.tell_of(&owner, noted, context);
        let listed = owner.call("peers/list", json!({})).unwrap();
        let listed: BTreeMap<&str, &Value> = listed["peers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|peer| (peer["peer"].as_str().unwrap(), peer))
            .collect();
        let invites = owner.call("invites/list", json!({})).unwrap();
        let invites: BTreeMap<&str, &str> = invites["invites"]
            .as_array()
            .unwrap()
            .iter()
            .map(|invite| {
                (
                    invite["id"].as_str().unwrap(),
                    invite["state"].as_str().unwrap(),
                )
            })
            .collect();
        for (_, line) in noted {
            let words: Vec<&str> = line.splitn(3, ' ').collect();
            let kept = match words[..] {
                ["peer", id] => listed.contains_key(id),
                ["grant", id, target] => listed[id]["grants"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|given| given == target),
                ["invite", id] => invites.contains_key(id),
                ["revoked", id] => invites.get(id) == Some(&"revoked"),
                _ => true,
            };
            assert!(kept, "{context}: {line}");
        }
        // Calls with a key are answered as they were, and done once.
        let calls = noted.iter().filter_map(|(_, line)| {
            let (id, output) = line.strip_prefix("call ")?.split_once(' ')?;
            Some((id, serde_json::from_str::<Value>(output).unwrap()))
        });
        for (id, output) in calls.take(5) {
            let input = json!({ "peer": id, "node_id": node_key(id) });
            let again = owner.client().idempotency_key(id);
            let again = owner.runtime.block_on(again.call_json("peers/add", &input));
            assert_eq!(again.unwrap(), output, "{context}: {id}");
        }
        // What is sealed opens: sealing it anew takes that.
        let rotated = owner.call("vault/rotate", json!({})).unwrap();
        assert_eq!(rotated["left"], 0, "{context}: {rotated}");
        let sealed = self.ledger.count("credential") as u64;
        assert!(
            rotated["resealed"].as_u64() >= Some(sealed),
            "{context}: {rotated}, {sealed}"
        );
        // That something may be missing of what was not acknowledged is said.
        let starts = json!({ "operation": "node/start", "limit": 1 });
        let starts = owner.call("audit/list", starts).unwrap();
        assert_eq!(
            starts["rows"][0]["outcome"], "unclean-start",
            "{context}: {starts}"
        );
    }
}

/// A subscriber that comes back with its last cursor after each kill.
struct Events {
    cursor: String,
    /// Kind and what it was about.
    seen: BTreeSet<(String, String)>,
}

/// A subscription, and what it has read.
struct Following {
    task: JoinHandle<()>,
    read: Arc<Mutex<Vec<Value>>>,
}

impl Events {
    fn of(owner: &Owner) -> Self {
        let listed = owner.call("events/list", json!({})).unwrap();
        Self {
            cursor: listed["oldest"].as_str().unwrap().to_owned(),
            seen: BTreeSet::new(),
        }
    }

    fn follow(&self, owner: &Owner) -> Following {
        let (client, from) = (owner.client().clone(), json!({ "from": self.cursor }));
        let read = Arc::new(Mutex::new(Vec::new()));
        let reading = read.clone();
        let task = owner.runtime.spawn(async move {
            let items = client.subscribe::<_, Value>("events/subscribe", &from);
            let mut items = items.await.unwrap();
            while let Some(Ok(item)) = items.next().await {
                reading.lock().unwrap().push(item);
            }
        });
        Following { task, read }
    }

    fn take(&mut self, following: Following) {
        following.task.abort();
        for item in following.read.lock().unwrap().drain(..) {
            self.read(&item);
        }
    }

    /// The one after the one before: none is missing, none comes twice.
    fn read(&mut self, item: &Value) {
        let place = |cursor: &str| {
            let (epoch, number) = cursor.split_once('-').unwrap();
            (epoch.to_owned(), number.parse::<u64>().unwrap())
        };
        let cursor = item["cursor"].as_str().unwrap();
        let (epoch, number) = place(&self.cursor);
        assert_eq!(place(cursor), (epoch, number + 1), "{item}");
        self.cursor = cursor.to_owned();
        let text = |field: &str| item[field].as_str().unwrap().to_owned();
        self.seen.insert((text("kind"), text("about")));
    }

    /// Reads on from the last cursor until it has seen all that was
    /// acknowledged.
    fn tell_of(&mut self, owner: &Owner, noted: &[(u64, String)], context: &str) {
        let wanted = noted.iter().filter_map(|(_, line)| {
            let (kind, about) = line.split_once(' ')?;
            let kind = match kind {
                "peer" => "peer/added",
                "invite" => "invite/created",
                "revoked" => "invite/revoked",
                "key" => "key/created",
                "credential" => "credential/put",
                _ => return None,
            };
            Some((kind.to_owned(), about.to_owned()))
        });
        let wanted: BTreeSet<_> = wanted.collect();
        let following = self.follow(owner);
        eventually(&format!("{context}: all events"), || {
            let read: Vec<Value> = following.read.lock().unwrap().drain(..).collect();
            read.iter().for_each(|item| self.read(item));
            wanted.is_subset(&self.seen).then_some(())
        });
        self.take(following);
    }
}

/// The same clients, but noting what they are about to write: the test sees
/// that it is missing.
#[test]
fn slow_a_client_that_notes_too_early_is_found_out() {
    let mut node = Node::start("home", "");
    let owner = Owner::of(&node);
    let mut ledger = Ledger::default();
    let writers = Writers::start(&owner, "early", true);
    while writers.noted.acknowledged() == 0 {
        thread::yield_now();
    }
    node.signal(rustix::process::Signal::KILL);
    writers.end(&owner).add_to(&mut ledger);
    node.kill();
    let missing = ledger.missing_from(&node.data());
    assert!(
        missing.iter().any(|line| line.contains("is lost")),
        "{missing:?}"
    );
}
