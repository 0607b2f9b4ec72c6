//! How calls through the hub end: cancelled, refused from now on, lost; and
//! that nothing is left of them.

use super::{Row, row_of, soon};
use crate::e2e::{
    bulk::there_and_back,
    harness::{Node, eventually},
};
use crate::program::PATIENCE;
use alknet::{CallError, node::control, parse_route};
use serde_json::json;
use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// How soon a cancelled program two nodes away is gone: ten times what it takes.
const GONE_WITHIN: Duration = Duration::from_secs(1);
#[test]
fn cancelling_ends_the_program_two_nodes_away_within_a_second() {
    let row = Row::started_and_granted();
    for words in [&["test/sleep"][..], &["test/tick"], &["test/pipe"]] {
        let mut call = row.spawn(words);
        row.runs_at_nas();
        call.interrupt();
        let began = Instant::now();
        eventually("it is gone", || row.nas.children().is_empty().then_some(()));
        assert!(
            began.elapsed() < GONE_WITHIN,
            "{words:?}: {:?}",
            began.elapsed()
        );
        call.code().exits(130);
        for node in [&row.nas, &row.hub] {
            let said = row_of(node, words[0]);
            assert_eq!(said["outcome"], "CANCELLED", "`{}`: {said}", node.name);
        }
    }
    // So does the end of the phone's right, at the hub or at the far end.
    for (node, revoke, grant) in [
        (
            &row.hub,
            ["revoke", "phone", "peer:nas=test/*"],
            ["grant", "phone", "peer:nas=test/*"],
        ),
        (
            &row.nas,
            ["revoke", "hub", "test:*"],
            ["grant", "hub", "test:*"],
        ),
    ] {
        let mut ticking = row.spawn(&["test/tick"]);
        ticking.lines.next();
        // Its reader rests: nobody asks for the next item.
        let mut resting = row
            .phone
            .command(&["call", "test/lines", "to=1000000", "--on", "hub/nas"])
            .spawn()
            .unwrap();
        let counts = || {
            let children = row.nas.children();
            children.iter().any(|(_, line)| line.starts_with("seq "))
        };
        eventually("it counts", || counts().then_some(()));
        let mut piping = row.spawn(&["test/pipe"]);
        let stdin = piping.child.stdin.as_mut().unwrap();
        stdin.write_all(b"hello\n").unwrap();
        assert_eq!(piping.lines.next(), "hello");
        node.cli(&revoke).exits(0);
        let began = Instant::now();
        ticking.code().exits(4);
        piping.code().exits(4);
        eventually("they are gone", || {
            row.nas.children().is_empty().then_some(())
        });
        assert!(began.elapsed() < GONE_WITHIN, "{:?}", began.elapsed());
        resting.kill().unwrap();
        resting.wait().unwrap();
        node.cli(&grant).exits(0);
        eventually("it is offered again", || row.offered().then_some(()));
    }
}

/// Calls that are made one after the other until they are told to stop.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    done: AtomicUsize,
    failed: Mutex<Vec<CallError>>,
}

impl Load {
    async fn run(self: Arc<Self>, client: alknet::Client) {
        let ada = json!({ "name": "Ada" });
        while !self.stop.load(Ordering::Relaxed) {
            match soon(client.call_json("demo/greet", &ada)).await {
                Ok(_) => drop(self.done.fetch_add(1, Ordering::Relaxed)),
                Err(error) => {
                    self.failed.lock().unwrap().push(error);
                    // A peer that is away is not asked as fast as it can refuse.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    #[track_caller]
    fn goes_on(&self) {
        let reached = self.done.load(Ordering::Relaxed) + 100;
        eventually("calls are answered", || {
            (self.done.load(Ordering::Relaxed) >= reached).then_some(())
        });
    }
}

/// Slow: that a killed node is gone shows only when it is silent for long.
#[tokio::test(flavor = "multi_thread")]
async fn slow_a_killed_peer_fails_calls_through_the_hub_and_returns_under_load() {
    let mut row = Row::started_and_granted();
    let before = row.nodes().map(held);
    let local = control::connect(&row.phone.data()).await.unwrap();
    let load = Arc::new(Load::default());
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let client = local.client.on(parse_route("hub/nas").unwrap());
            tokio::spawn(load.clone().run(client))
        })
        .collect();
    for end in [Node::kill, Node::stop, Node::kill] {
        load.goes_on();
        let failed = load.failed.lock().unwrap().len();
        let mut ticking = row.spawn(&["test/tick", "--json"]);
        ticking.lines.next();
        end(&mut row.nas);
        eventually("calls fail", || {
            (load.failed.lock().unwrap().len() > failed).then_some(())
        });
        // Whatever was open ends too, and says why.
        let ended = ticking.code();
        let code = ended.error_code();
        assert!(
            ["LOST", "UNAVAILABLE"].contains(&code.as_str()),
            "{ended:?}"
        );
        eventually("it is not connected", || {
            (row.hub.peer("nas")["connected"] == false).then_some(())
        });
        eventually("its operations are gone", || (!row.offered()).then_some(()));
        let said = row.call(&["test/query"]).exits(3);
        assert_eq!(
            said.stderr,
            "error: peer `nas` is not connected\nhint: on `hub`: alknet peers list\n"
        );
        row.nas.restart();
        row.hub.connected("nas");
        eventually("the hub knows what nas offers", || {
            row.offered().then_some(())
        });
        load.goes_on();
        row.call(&["test/query"]).exits(0);
    }
    load.stop.store(true, Ordering::Relaxed);
    for task in tasks {
        soon(task).await.unwrap();
    }
    let failed = std::mem::take(&mut *load.failed.lock().unwrap());
    let codes: BTreeSet<&str> = failed.iter().map(|error| error.code.as_ref()).collect();
    let allowed = BTreeSet::from(["LOST", "UNAVAILABLE"]);
    assert!(codes.is_subset(&allowed), "{codes:?}");
    for error in &failed {
        assert!(error.message.contains("`nas`"), "{error:?}");
        assert_eq!(error.details.as_deref(), Some(&json!({ "peer": "nas" })));
    }
    local.close().await;
    nothing_is_left(&row, before);
}

/// What a node holds: calls that run in it, its files and sockets.
#[derive(Debug)]
struct Held {
    calls: u64,
    files: Vec<String>,
    children: Vec<(u32, String)>,
}

fn held(node: &Node) -> Held {
    let metrics = node
        .cli(&["call", "node/metrics", "--json"])
        .exits(0)
        .json();
    let files = fs::read_dir(format!("/proc/{}/fd", node.pid())).unwrap();
    let link = |file: fs::DirEntry| Some(fs::read_link(file.path()).ok()?.display().to_string());
    // The database opens its files when a connection to it is first used.
    let is_database = |file: &String| file.contains("/alknet.db");
    Held {
        calls: metrics["calls_in_flight"].as_u64().unwrap(),
        files: files
            .filter_map(|file| link(file.ok()?))
            .filter(|file| !is_database(file))
            .collect(),
        children: node.children(),
    }
}

#[track_caller]
fn nothing_is_left(row: &Row, before: [Held; 3]) {
    for (node, before) in row.nodes().into_iter().zip(before) {
        let started = Instant::now();
        loop {
            let now = held(node);
            let is_less = now.calls <= before.calls && now.files.len() <= before.files.len();
            if is_less && now.children.is_empty() {
                break;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "`{}` holds {now:#?}, and held {before:#?}",
                node.name
            );
        }
    }
}

#[test]
fn slow_nothing_is_left_of_what_passed() {
    let row = Row::started_and_granted();
    let all = || {
        row.call(&["test/query"]).exits(0);
        row.call(&["test/fail"]).exits(1);
        row.call(&["demo/count", "to=10"]).exits(0);
        there_and_back(&row.phone, "hub/nas", 1024 * 1024);
        for words in [&["test/sleep"][..], &["test/tick"], &["test/pipe"]] {
            let mut call = row.spawn(words);
            row.runs_at_nas();
            call.interrupt();
            call.code().exits(130);
            eventually("it is gone", || row.nas.children().is_empty().then_some(()));
        }
    };
    // What is opened once stays: the connections for channels.
    all();
    let before = row.nodes().map(held);
    for _ in 0..3 {
        all();
    }
    // Gone without a word: it is missed when it is silent for long.
    let mut call = row.spawn(&["test/tick"]);
    call.lines.next();
    call.child.kill().unwrap();
    drop(call);
    eventually("it is gone", || row.nas.children().is_empty().then_some(()));
    nothing_is_left(&row, before);
}
