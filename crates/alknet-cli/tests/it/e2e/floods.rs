//! Floods of strangers, of wrong keys and of wrong tokens: whoever is known gets
//! in, memory is bounded, the log is not filled, and programs that read it can
//! tell who it was.

use super::{
    harness::{Node, eventually},
    raw::{self, CALL, JOIN, UNARY, hello_with, invoke},
};
use iroh::{
    Endpoint,
    endpoint::{Connection, ConnectionError},
};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{task::JoinSet, time::timeout};

/// How long somebody known may take to come in and be answered.
const PROMPT: Duration = Duration::from_secs(1);
/// The most that is forgiven a machine that is busy with the flood itself.
const BUSY: Duration = Duration::from_secs(10);
/// The most by which the node may grow.
const GROWS_MIB: u64 = 96;

fn is_full() -> bool {
    std::env::var_os("ALKNET_TEST_FULL").is_some()
}

/// One of the addresses of loopback from which nobody commands a node.
fn source(net: u8, n: u8) -> IpAddr {
    Ipv4Addr::new(127, 9, net, n).into()
}

async fn strangers(net: u8, count: u8) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for n in 1..=count {
        endpoints.push(raw::endpoint_at(source(net, n)).await);
    }
    endpoints
}

/// One more connection; `None` if it was refused.
async fn come(endpoint: &Endpoint, node: &Node, alpn: &[u8]) -> Option<Connection> {
    let connecting = endpoint.connect(raw::address_of(node), alpn);
    timeout(Duration::from_secs(20), connecting)
        .await
        .ok()?
        .ok()
}

/// Comes so often from each address, with a key that nobody knows. How many
/// handshakes were done to the end.
async fn wrong_keys(node: &Arc<Node>, strangers: Vec<Endpoint>, each: usize) -> usize {
    let mut coming = JoinSet::new();
    for endpoint in strangers {
        let node = node.clone();
        coming.spawn(async move {
            let mut shaken = 0;
            for _ in 0..each {
                if let Some(connection) = come(&endpoint, &node, CALL).await {
                    let closed = raw::closed_with(&connection, Duration::from_secs(20)).await;
                    assert_eq!(closed, raw::NOT_ADMITTED);
                    shaken += 1;
                }
            }
            endpoint.close().await;
            shaken
        });
    }
    coming.join_all().await.into_iter().sum()
}

/// Opens so many connections from each address and says nothing on them. How
/// many were let in, and how many at the same time.
async fn idlers(node: &Arc<Node>, strangers: &[Endpoint], each: usize) -> (usize, usize) {
    let mut coming = JoinSet::new();
    for endpoint in strangers {
        let (node, endpoint) = (node.clone(), endpoint.clone());
        coming.spawn(async move {
            let mut held = Vec::new();
            for _ in 0..each {
                held.extend(come(&endpoint, &node, JOIN).await);
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
            held
        });
    }
    let held: Vec<Connection> = coming.join_all().await.into_iter().flatten().collect();
    let is_in = |connection: &&Connection| {
        !matches!(
            connection.close_reason(),
            Some(ConnectionError::ApplicationClosed(_))
        )
    };
    (held.len(), held.iter().filter(is_in).count())
}

/// Redeems tickets that are none, so often from each address.
async fn wrong_tickets(node: &Arc<Node>, strangers: Vec<Endpoint>, each: usize) {
    let mut coming = JoinSet::new();
    for endpoint in strangers {
        let node = node.clone();
        coming.spawn(async move {
            for n in 0..each {
                let Some(connection) = come(&endpoint, &node, JOIN).await else {
                    continue;
                };
                let request = format!(r#"{{"secret":"{n:032x}","name":"mallory"}}"#);
                let Ok((mut send, mut recv)) = connection.open_bi().await else {
                    continue;
                };
                let _ = send.write_all(request.as_bytes()).await;
                let _ = send.finish();
                if let Ok(answer) = recv.read_to_end(4096).await {
                    let answer = String::from_utf8(answer).unwrap();
                    assert!(answer.contains("refused"), "{answer}");
                }
                connection.close(0_u32.into(), b"");
            }
            endpoint.close().await;
        });
    }
    coming.join_all().await;
}

/// Presents API keys that are none, on connections of a known key.
async fn wrong_api_keys(node: &Node, mallory: &Endpoint, times: usize) -> BTreeSet<u32> {
    let mut codes = BTreeSet::new();
    for n in 0..times {
        let Some(connection) = come(mallory, node, CALL).await else {
            continue;
        };
        let wrong = format!("alk_{n:060}");
        if let Ok(mut send) = connection.open_uni().await {
            let _ = send.write_all(&hello_with(Some(&wrong))).await;
            let _ = send.finish();
        }
        codes.insert(raw::closed_with(&connection, Duration::from_secs(20)).await);
    }
    codes
}

/// Comes in again and again until it is told to stop, as somebody whose key is
/// known. How long each time took.
async fn known(node: Arc<Node>, endpoint: Endpoint, stop: Arc<AtomicBool>) -> Vec<Duration> {
    let mut took = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let began = Instant::now();
        let entering = async {
            let connection = raw::session(&endpoint, &node).await;
            let (mut send, mut recv) =
                raw::open(&connection, &invoke("node/info", UNARY, "{}")).await;
            send.finish().unwrap();
            let answer = recv.read_to_end(1024 * 1024).await.unwrap();
            assert_eq!(answer[0], 0x2e, "done: {answer:?}");
            connection.close(0_u32.into(), b"");
        };
        timeout(BUSY, entering).await.expect("let in and answered");
        took.push(began.elapsed());
        // It keeps to the rate of one address, as peers do.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    took
}

/// Lines of the log that say this.
fn lines(log: &str, what: &str) -> usize {
    log.lines().filter(|line| line.contains(what)).count()
}

/// Slow: thousands of handshakes, hundreds of idle connections, wrong keys,
/// wrong tickets and wrong API keys; all of each under `ALKNET_TEST_FULL`.
#[tokio::test(flavor = "multi_thread")]
async fn slow_floods_of_strangers_keep_no_known_peer_out() {
    let (handshakes, idle, wrong) = match is_full() {
        true => (10_000, 1_000, 400),
        false => (800, 320, 48),
    };
    let words = ["--relay", "none", "--bind", "127.0.0.1:0", "-v"];
    let config = "[limits]\nfailure_delay_max_ms = 2000\n";
    let home = Node::start_with("home", config, &words, None);
    let (friend, mallory) = (raw::endpoint().await, raw::endpoint_at(source(40, 1)).await);
    for (name, endpoint) in [("friend", &friend), ("mallory", &mallory)] {
        let id = endpoint.id().to_string();
        home.cli(&["peers", "add", name, "--node-id", &id]).exits(0);
        home.cli(&["grant", name, "node/info"]).exits(0);
    }
    home.cli(&["invite", "--expires", "1h", "-q"]).exits(0);
    let home = Arc::new(home);
    let stop = Arc::new(AtomicBool::new(false));
    let knocking = tokio::spawn(known(home.clone(), friend.clone(), stop.clone()));
    eventually("it is known", || (!knocking.is_finished()).then_some(()));
    let before = home.memory_peak_kib();
    let began = Instant::now();

    let shaken = wrong_keys(&home, strangers(10, 8).await, handshakes / 8).await;
    let sitting = strangers(20, 8).await;
    let (came, at_once) = idlers(&home, &sitting, idle / 8).await;
    wrong_tickets(&home, strangers(30, 4).await, wrong / 4).await;
    let codes = wrong_api_keys(&home, &mallory, wrong).await;

    stop.store(true, Ordering::SeqCst);
    let mut took = knocking.await.unwrap();
    took.sort();
    let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
    let after = home.memory_peak_kib();
    let minutes = usize::try_from(began.elapsed().as_secs() / 60).unwrap() + 1;
    let metrics = home.cli(&["call", "node/metrics"]).exits(0).json();
    let log = home.told();
    #[allow(clippy::print_stderr)]
    {
        eprintln!(
            "{handshakes} handshakes ({shaken} done), {idle} idle ({came} let in, {at_once} left), {wrong} wrong tickets and API keys in {:?}: a known peer came {} times, {median:?} in the median, {worst:?} at worst; peak memory {before} KiB before, {after} KiB after; {} lines of log; {}",
            began.elapsed(),
            took.len(),
            log.lines().count(),
            metrics["refused"],
        );
    }
    assert!(median < PROMPT, "{median:?}");
    assert!(worst < BUSY, "{worst:?}");
    assert!(took.len() >= 10, "{took:?}");
    assert!(
        (after - before) / 1024 <= GROWS_MIB,
        "by {} KiB",
        after - before
    );

    // Whoever came with wrong keys is shut out, and so most of it was never
    // listened to; a known key is refused its API keys and stays who it is.
    assert!(shaken < handshakes / 2, "{shaken} of {handshakes}");
    assert!(
        metrics["refused"]["banned"].as_u64().unwrap() > 0,
        "{metrics}"
    );
    let bans = home.cli(&["bans", "list", "--json"]).exits(0).json();
    let bans = bans["bans"].as_array().unwrap().clone();
    assert!(bans.len() >= 8, "{bans:?}");
    let is_stranger = |target: &str| target.starts_with("127.9.") || target.starts_with("ed25519:");
    assert!(
        bans.iter()
            .all(|ban| is_stranger(ban["target"].as_str().unwrap())),
        "{bans:?}"
    );
    assert!(
        codes.contains(&raw::UNAUTHENTICATED) && codes.contains(&raw::LIMIT),
        "{codes:?}"
    );
    assert!(at_once <= 256, "{at_once}");

    // One line a minute of each kind; of those who failed, of each address.
    let kinds = metrics["refused"].as_object().unwrap().len();
    let refused = lines(&log, "refused reason=");
    assert!(
        refused > 0 && refused <= kinds * minutes,
        "{refused} lines: {log}"
    );
    let auth = lines(&log, " WARN alknet::auth: ");
    assert!(auth > 0 && auth <= 30 * minutes, "{auth} lines: {log}");
    let shut_out = lines(&log, "shut out target");
    assert!(shut_out > 0 && shut_out <= minutes, "{log}");
    let others = log.lines().count() - refused - auth - shut_out;
    assert!(others < 50, "{others} other lines: {log}");
    drop(sitting);
}

/// Runs the real program on a log; the addresses that it would bar.
fn matched(log: &Path) -> BTreeSet<String> {
    let filter =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/fail2ban/filter.d/alknet.conf");
    let run = Command::new("fail2ban-regex")
        .args(["--out", "<ip>"])
        .args([log, &filter])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(run.status.success(), "{run:?}");
    let said = String::from_utf8(run.stdout).unwrap();
    said.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn fail2ban_finds_who_keeps_failing_and_nobody_else() {
    let is_there = Command::new("fail2ban-regex").arg("--version").output();
    if is_there.is_err() {
        alknet_lab::skip(
            "fail2ban_finds_who_keeps_failing_and_nobody_else",
            "fail2ban-regex is not installed",
        );
        return;
    }
    let home = Arc::new(Node::start("home", ""));
    // Often enough for a line; not often enough; and somebody who is known.
    wrong_keys(&home, vec![raw::endpoint_at(source(50, 1)).await], 5).await;
    wrong_keys(&home, vec![raw::endpoint_at(source(50, 2)).await], 4).await;
    let mallory = raw::endpoint_at(source(50, 3)).await;
    let id = mallory.id().to_string();
    home.cli(&["peers", "add", "mallory", "--node-id", &id])
        .exits(0);
    wrong_api_keys(&home, &mallory, 6).await;
    let log = home.path("up.stderr");
    eventually("both are in the log", || {
        (lines(&home.told(), " WARN alknet::auth: ") == 2).then_some(())
    });
    assert_eq!(matched(&log), BTreeSet::from(["127.9.50.1".to_owned()]));

    // The same line as the journal has it; and texts of others that look like
    // one.
    let line = home.told();
    let line = line
        .lines()
        .find(|line| line.contains("127.9.50.1"))
        .unwrap();
    let journal = format!(
        "Nov 20 15:04:05 home alknet[71]: {}",
        line.replace("50.1", "50.9")
    );
    let forged = line.replace("50.1", "50.8");
    let texts = [
        journal.clone(),
        format!(
            "2026-11-20T15:04:05.123456Z  INFO alknet_node::join: a peer joined gives={forged}"
        ),
        format!(
            "2026-11-20T15:04:05.123456Z  WARN alknet_node::x: {}",
            &forged[forged.find("repeated").unwrap()..]
        ),
        format!("{forged} and more"),
        forged.replace("WARN", "INFO"),
    ];
    let other = home.path("other.log");
    std::fs::write(&other, texts.join("\n") + "\n").unwrap();
    assert_eq!(matched(&other), BTreeSet::from(["127.9.50.9".to_owned()]));
}

#[test]
fn bans_are_added_listed_and_lifted_on_the_command_line() {
    let home = Node::start("home", "");
    let said = home.cli(&["bans", "list"]).exits(0);
    assert_eq!(
        (said.stdout.as_str(), said.stderr.as_str()),
        ("", "nobody is shut out\n")
    );
    let words = [
        "bans",
        "add",
        "192.0.2.7/24",
        "--for",
        "1h",
        "--reason",
        "guessing",
    ];
    let said = home.cli(&words).exits(0).stdout;
    assert!(
        said.starts_with("192.0.2.0/24 is shut out until "),
        "{said}"
    );
    home.cli(&["bans", "add", "2001:db8::/64"]).exits(0);
    let said = home.cli(&["bans", "list"]).exits(0).stdout;
    let rows: Vec<&str> = said.lines().collect();
    assert!(
        rows[1].contains("address") && rows[1].ends_with("guessing"),
        "{said}"
    );
    assert!(rows[2].contains("it is lifted"), "{said}");
    let events = home
        .cli(&["audit", "--operation", "bans/add", "--json"])
        .exits(0)
        .stdout;
    assert!(events.contains("192.0.2.0/24"), "{events}");
    let said = home
        .cli(&["bans", "remove", "192.0.2.0/24"])
        .exits(0)
        .stdout;
    assert_eq!(said, "192.0.2.0/24 is let in again\n");
    let said = home
        .cli(&["bans", "remove", "192.0.2.0/24"])
        .exits(1)
        .stderr;
    assert!(said.contains("`192.0.2.0/24` is not shut out"), "{said}");
    let said = home.cli(&["bans", "add", "127.0.0.1"]).exits(1).stderr;
    assert!(said.contains("this node's own command line"), "{said}");
    let said = home.cli(&["bans", "add", "no one"]).exits(1).stderr;
    assert!(said.contains("an address, a prefix"), "{said}");
}
