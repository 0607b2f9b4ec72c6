//! The line protocol over a connection in memory, without a node or a network;
//! and what a node sees that dials it.

use alknet::{
    Caller, Credential, Dispatcher, Identity, PeerId, Registry, StaticIdentities,
    transport::{Admitted, Connection, ProtocolHandler},
};
use alknet_testkit::transport::{PairOptions, connection_pair};
use std::{collections::BTreeMap, sync::Arc};
use tokio::{io::AsyncWriteExt, task::JoinHandle};

#[allow(dead_code, unreachable_pub)] // its `main` is run by another test
#[path = "../../examples/protocol.rs"]
mod example;
use example::{ALPN, LINE_BYTES_MAX, LINE_WAIT, LineProtocol, Texts, ask, read};

const LAPTOP: Credential = Credential::NodeKey([1; 32]);

/// The protocol's side, with what it was put together from.
struct Served {
    door: Dispatcher,
    known: Arc<StaticIdentities>,
    serving: JoinHandle<()>,
}

impl Served {
    fn grant(known: &StaticIdentities, grants: &[&str]) {
        let id = PeerId::parse("laptop").unwrap();
        known.put(LAPTOP, Identity::granted(id, grants).unwrap());
    }

    /// Serves a peer with these grants; answers with the peer's end.
    fn to_peer(grants: &[&str]) -> (Self, Arc<dyn Connection>) {
        let texts: Texts = Arc::new(BTreeMap::from([
            ("news/today".to_owned(), "all is well".to_owned()),
            ("notes/mine".to_owned(), "buy milk".to_owned()),
        ]));
        let registry = Registry::new();
        registry.register(vec![read(texts.clone())]).unwrap();
        let known = Arc::new(StaticIdentities::default());
        Self::grant(&known, grants);
        let door = Dispatcher::builder(registry)
            .identities(known.clone())
            .build();
        let (theirs, ours) = connection_pair(PairOptions {
            alpn: ALPN.to_vec(),
            ..PairOptions::default()
        });
        let admitted = Admitted {
            caller: Caller::resolve(&*known, LAPTOP).unwrap(),
            door: door.clone(),
        };
        let protocol = LineProtocol { texts };
        let serving = tokio::spawn(async move { protocol.serve(ours, admitted).await });
        let served = Self {
            door,
            known,
            serving,
        };
        (served, theirs)
    }
}

const READER: &[&str] = &["texts:read", "topic:news/*=read"];

#[tokio::test]
async fn a_line_is_a_call_and_the_door_decides() {
    let (_served, peer) = Served::to_peer(READER);
    for (line, want) in [
        (
            "call texts/read {\"text\":\"news/today\"}\n",
            "ok \"all is well\"\n",
        ),
        (
            "call texts/read {\"text\":\"news/never\"}\n",
            "error NOT_FOUND: no text `news/never`\n",
        ),
        (
            "call texts/write\n",
            "error NOT_FOUND: no operation `texts/write`\n",
        ),
        ("call No Such\n", "error NOT_FOUND: no operation `No`\n"),
        ("call texts/read {\n", "error INVALID_INPUT: "),
        (
            "call texts/read {\"text\":\"notes/mine\"}\n",
            "error FORBIDDEN: ",
        ),
        ("write\n", "error INVALID_INPUT: "),
    ] {
        let answer = ask(&*peer, line).await.unwrap();
        assert!(answer.starts_with(want), "{line}{answer}");
    }
}

#[tokio::test]
async fn a_permit_sees_a_grant_that_was_taken_back() {
    let (served, peer) = Served::to_peer(READER);
    let answers = ask(&*peer, "read\nnews/today\nnotes/mine\n").await.unwrap();
    let answers: Vec<&str> = answers.lines().collect();
    assert_eq!(answers[0], "ok all is well");
    assert!(answers[1].starts_with("error FORBIDDEN: "), "{answers:?}");
    Served::grant(&served.known, &["texts:read"]);
    let answer = ask(&*peer, "read\nnews/today\n").await.unwrap();
    assert!(answer.starts_with("error FORBIDDEN: "), "{answer}");
}

#[tokio::test]
async fn a_line_has_a_longest_length() {
    let (_served, peer) = Served::to_peer(READER);
    let line = |bytes: u64| {
        let padding = " ".repeat(usize::try_from(bytes).unwrap() - "call texts/read {}\n".len());
        format!("call texts/read {{}}{padding}\n")
    };
    let answer = ask(&*peer, &line(LINE_BYTES_MAX)).await.unwrap();
    assert!(answer.starts_with("error "), "{answer}");
    // One more, and the stream is reset.
    ask(&*peer, &line(LINE_BYTES_MAX + 1)).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_line_that_does_not_come_is_not_waited_for() {
    let (_served, peer) = Served::to_peer(READER);
    let mut stream = peer.open_bi().await.unwrap();
    stream.send.write_all(b"call texts/read").await.unwrap();
    let started = tokio::time::Instant::now();
    assert!(stream.send.stopped().await.is_some());
    assert!(started.elapsed() >= LINE_WAIT);
}

#[tokio::test]
async fn the_connection_is_closed_when_the_node_stops() {
    let (served, peer) = Served::to_peer(READER);
    ask(&*peer, "read\nnews/today\n").await.unwrap();
    served.door.begin_drain();
    assert_eq!(peer.closed().await.reason, "the node stops");
    served.serving.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dialler_sees_that_nobody_serves_it_and_that_it_is_not_let_in() {
    let place = tempfile::tempdir().unwrap();
    let node = |name: &str| {
        let node = alknet::Node::builder().name(name).relays(["none"]);
        node.data_dir(place.path().join(name))
            .bind("127.0.0.1:0".parse().unwrap())
    };
    let texts = Texts::default();
    let home = node("home").operation(read(texts.clone()));
    let home = home.handler(Arc::new(LineProtocol { texts }));
    let (home, laptop) = tokio::try_join!(home.spawn(), node("laptop").spawn()).unwrap();
    let ticket = home.invite(&[]).await.unwrap();
    let peer = laptop.join(&ticket, &[]).await.unwrap();
    assert!(laptop.connect(&peer, b"example/other/1").await.is_err());
    let served = laptop.connect(&peer, ALPN).await.unwrap();
    let answer = ask(&*served, "call texts/read\n").await.unwrap();
    assert!(answer.starts_with("error FORBIDDEN: "), "{answer}");

    let removed = serde_json::json!({ "peer": "laptop" });
    let call = home.client().call_json("peers/remove", &removed).await;
    call.unwrap();
    // The peer decides after the handshake; its answer may come first.
    match laptop.connect(&peer, ALPN).await {
        Ok(shut) => {
            ask(&*shut, "call texts/read\n").await.unwrap_err();
            assert_eq!(shut.closed().await.code, Some(0x106));
        }
        Err(error) => assert!(error.is(alknet::ErrorCode::Unauthenticated), "{error}"),
    }
    for node in [home, laptop] {
        node.shutdown(std::time::Duration::from_secs(1)).await;
    }
}
