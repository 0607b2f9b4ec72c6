//! A peer whose key is known and that does what it likes: the node goes on
//! serving others, in bounded memory.

use super::{
    harness::{Node, Pair, eventually, exec_config},
    raw::{self, CALL, CHANNEL, SUBSCRIPTION, UNARY, hello, invoke},
};
use iroh::Endpoint;
use std::time::{Duration, Instant};

/// How long honest calls may take meanwhile: ten times what they take while
/// this machine is busy with what the peer asked for.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

fn config() -> String {
    format!(
        r#"{}
[[operation]]
name = "test/spam"
summary = "Says a lot, for ever."
output = "lines"
command = ["yes", "{}"]

[[operation]]
name = "test/zeros"
summary = "Bytes for ever."
output = "bytes"
command = ["cat", "/dev/zero"]

[[operation]]
name = "test/large"
summary = "Answers with a mebibyte."
kind = "query"
command = ["seq", "160000"]
"#,
        exec_config(),
        "0123456789".repeat(100),
    )
}

/// An honest pair, and somebody whom `home` knows too.
struct Scene {
    pair: Pair,
    mallory: Endpoint,
    before_kib: u64,
}

impl Scene {
    async fn start() -> Self {
        let pair = Pair::start(&config());
        let mallory = raw::endpoint().await;
        let id = mallory.id().to_string();
        pair.home
            .cli(&["peers", "add", "mallory", "--node-id", &id])
            .exits(0);
        pair.home
            .cli(&[
                "grant",
                "mallory",
                "test/spam",
                "test/zeros",
                "test/large",
                "node/info",
            ])
            .exits(0);
        pair.home
            .cli(&["grant", "laptop", "node/info", "operator"])
            .exits(0);
        let scene = Self {
            before_kib: 0,
            pair,
            mallory,
        };
        scene.goes_on();
        Self {
            before_kib: scene.pair.home.memory_peak_kib(),
            ..scene
        }
    }

    fn home(&self) -> &Node {
        &self.pair.home
    }

    /// The node serves the others: an answer, a program, its own owner.
    #[track_caller]
    fn goes_on(&self) {
        let since = Instant::now();
        let info = self
            .pair
            .laptop
            .cli(&["call", "node/info", "--on", "home", "--json"])
            .exits(0)
            .json();
        assert_eq!(info["node_id"], self.home().id());
        self.pair
            .laptop
            .cli(&["exec", "home", "--", "true"])
            .exits(0);
        self.home().cli(&["status"]).exits(0);
        assert!(since.elapsed() < ANSWERS_WITHIN, "{:?}", since.elapsed());
    }

    /// The node grew by no more than this.
    #[track_caller]
    fn grew_at_most(&self, mib: u64) {
        let grown = (self.home().memory_peak_kib() - self.before_kib) / 1024;
        assert!(grown <= mib, "by {grown} MiB");
    }
}

/// A stream on which this was sent ends with nothing but a reset.
async fn is_refused(connection: &iroh::endpoint::Connection, bytes: &[u8]) {
    let (mut send, mut recv) = raw::open(connection, bytes).await;
    let _ = send.finish();
    let answer = tokio::time::timeout(Duration::from_secs(20), recv.read_to_end(1024));
    let answer = answer.await.expect("an end");
    assert!(answer.is_err(), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_frames_cost_the_stream_and_in_the_end_the_connection() {
    let scene = Scene::start().await;
    let good = invoke("node/info", UNARY, "{}");
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = good.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    let breaches: [Vec<u8>; 10] = [
        b"GET / HTTP/1.1\r\nHost: home\r\n\r\n".to_vec(),
        with(0, &[0x7f]),
        with(1, &[1]),
        with(2, &u16::MAX.to_be_bytes()),
        with(4, &u32::MAX.to_be_bytes()),
        with(4, &(16 * 1024 * 1024 + 1_u32).to_be_bytes()),
        with(8 + 16, &[0xff]),
        good[..20].to_vec(),
        hello(),
        vec![0x10],
    ];
    for breach in &breaches {
        let connection = raw::session(&scene.mallory, scene.home()).await;
        is_refused(&connection, breach).await;
        // The connection stands: the next call on it is answered.
        let (mut send, mut recv) = raw::open(&connection, &good).await;
        send.finish().unwrap();
        let answer = recv.read_to_end(1024 * 1024).await.unwrap();
        assert_eq!(answer[0], 0x2e, "done: {answer:?}");
        connection.close(0_u32.into(), b"");
        scene.goes_on();
    }
    // Eight are too many.
    let connection = raw::session(&scene.mallory, scene.home()).await;
    for breach in &breaches {
        let _ = raw::open(&connection, breach).await;
    }
    assert_eq!(
        raw::closed_with(&connection, Duration::from_secs(20)).await,
        raw::PROTOCOL_ERRORS
    );
    // The first words make no sense.
    for words in [
        b"nonsense".to_vec(),
        invoke("node/info", UNARY, "{}"),
        with(4, &u32::MAX.to_be_bytes()),
    ] {
        let connection = raw::connect(&scene.mallory, scene.home(), CALL).await;
        raw::say(&connection, &words).await;
        assert_eq!(
            raw::closed_with(&connection, Duration::from_secs(20)).await,
            raw::BAD_HELLO
        );
    }
    scene.goes_on();
    scene.grew_at_most(32);
    scene.mallory.close().await;
}

/// A prefix that promises 16 MiB, the most allowed, and sends nothing of it, a
/// hundred times over.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_announced_is_not_allocated() {
    let scene = Scene::start().await;
    let mut promise = invoke("node/info", UNARY, "");
    promise[4..8].copy_from_slice(&(16 * 1024 * 1024_u32).to_be_bytes());
    let connection = raw::session(&scene.mallory, scene.home()).await;
    let mut streams = Vec::new();
    for _ in 0..100 {
        streams.push(raw::open(&connection, &promise).await);
    }
    scene.goes_on();
    scene.grew_at_most(32);
    scene.mallory.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_stalled_subscriptions_and_channels_hold_up_nobody() {
    let scene = Scene::start().await;
    let connection = raw::session(&scene.mallory, scene.home()).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(raw::open(&connection, &invoke("test/spam", SUBSCRIPTION, "{}")).await);
        streams.push(raw::open(&connection, &invoke("test/zeros", CHANNEL, "{}")).await);
    }
    eventually("all of them run", || {
        (scene.home().children().len() == 40).then_some(())
    });
    // On the same connection too.
    let (mut send, mut recv) = raw::open(&connection, &invoke("node/info", UNARY, "{}")).await;
    send.finish().unwrap();
    let answer = tokio::time::timeout(ANSWERS_WITHIN, recv.read_to_end(1024 * 1024)).await;
    assert_eq!(answer.expect("in time").unwrap()[0], 0x2e);
    scene.goes_on();
    scene.grew_at_most(96);
    // They stand still: what they print goes nowhere.
    let spent = || -> u64 {
        scene
            .home()
            .children()
            .iter()
            .map(|(id, _)| cpu_ticks(*id))
            .sum()
    };
    eventually("what they run stands still", || {
        let before = spent();
        std::thread::sleep(Duration::from_millis(300));
        (spent() == before).then_some(())
    });
    scene.mallory.close().await;
    eventually("all of them ended", || {
        scene.home().children().is_empty().then_some(())
    });
}

/// Processor time of a process so far (proc(5), fields 14 and 15).
fn cpu_ticks(id: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let Some((_, fields)) = stat.rsplit_once(')') else {
        return 0;
    };
    let fields: Vec<&str> = fields.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Slow: hundreds of times a mebibyte is asked for, and none of it is read.
#[tokio::test(flavor = "multi_thread")]
async fn slow_answers_that_nobody_reads_do_not_pile_up() {
    let scene = Scene::start().await;
    let connection = raw::session(&scene.mallory, scene.home()).await;
    let large = invoke("test/large", UNARY, "{}");
    let mut streams = Vec::new();
    // Fewer at a time than programs may run at a time.
    for _ in 0..10 {
        for _ in 0..48 {
            let (mut send, recv) = raw::open(&connection, &large).await;
            send.finish().unwrap();
            streams.push(recv);
        }
        scene.goes_on();
        eventually("all of them ran", || {
            scene.home().children().is_empty().then_some(())
        });
    }
    // 64 MiB may wait, beside what ran at that moment: then nothing more is
    // done.
    let ran = ["--caller", "mallory", "--operation", "test/large"];
    let ran = scene.home().audit(&ran).len();
    assert!((48..=64 + 48).contains(&ran), "{ran} of {}", streams.len());
    scene.goes_on();
    scene.grew_at_most(256);
    scene.mallory.close().await;
}

/// Slow: silence is cut after ten seconds.
#[tokio::test(flavor = "multi_thread")]
async fn slow_whoever_never_speaks_is_cut() {
    let scene = Scene::start().await;
    let silent = raw::connect(&scene.mallory, scene.home(), CALL).await;
    let dripping = raw::connect(&scene.mallory, scene.home(), CALL).await;
    let drip = tokio::spawn(async move {
        let mut send = dripping.open_uni().await.unwrap();
        for byte in hello() {
            if send.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        raw::closed_with(&dripping, Duration::from_secs(1)).await
    });
    // A stream that begins with nothing, or with half a frame, costs itself.
    let half = raw::session(&scene.mallory, scene.home()).await;
    let (_send, mut recv) = raw::open(&half, &invoke("node/info", UNARY, "{}")[..20]).await;
    scene.goes_on();
    assert_eq!(
        raw::closed_with(&silent, Duration::from_secs(60)).await,
        raw::NO_HELLO
    );
    assert_eq!(drip.await.unwrap(), raw::NO_HELLO);
    let cut = tokio::time::timeout(Duration::from_secs(60), recv.read_to_end(1024)).await;
    assert!(cut.expect("cut in time").is_err());
    scene.goes_on();
    scene.mallory.close().await;
}

/// Streams that a connection may always have, and those that it is let in
/// beyond, since credit for ended ones comes back late.
const STREAMS_MAX: usize = 1024;
const STREAMS_MOST: usize = STREAMS_MAX + STREAMS_MAX.div_ceil(7);

/// Slow: more streams than a connection may have, on more connections than a
/// peer may have.
#[tokio::test(flavor = "multi_thread")]
async fn slow_a_flood_of_streams_and_connections_is_capped() {
    let scene = Scene::start().await;
    let first = raw::session(&scene.mallory, scene.home()).await;
    let mut held = Vec::new();
    loop {
        let opening = tokio::time::timeout(Duration::from_secs(2), first.open_bi()).await;
        let Ok(Ok((mut send, recv))) = opening else {
            break;
        };
        let _ = send.write_all(&[0x10]).await;
        held.push((send, recv));
        assert!(held.len() <= STREAMS_MOST, "more streams than allowed");
    }
    assert!(held.len() >= STREAMS_MAX, "{} streams", held.len());
    scene.goes_on();
    let mut connections = Vec::new();
    for _ in 0..100 {
        // Slowed down, or refused: both are fine, a hang is not.
        let connecting = raw::connect(&scene.mallory, scene.home(), CALL);
        connections.push(
            tokio::time::timeout(Duration::from_secs(30), connecting)
                .await
                .unwrap(),
        );
    }
    let open = || {
        scene.home().cli(&["call", "node/metrics"]).exits(0).json()["connections"]
            .as_u64()
            .unwrap()
    };
    // The honest ones beside the 64 that one peer may have.
    eventually("the others were refused", || {
        (open() <= 64 + 8).then_some(())
    });
    scene.goes_on();
    scene.grew_at_most(64);
    scene.mallory.close().await;
}
