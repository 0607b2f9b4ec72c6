//! Who is let in, and how fast a right that ends is gone.

use crate::support::{
    Alive, Offers, Pair, Stranger, TestNode, close_code, eventually, promptly, soon, start,
    start_with,
};
use alknet_call::{ALPN, Client, connection_code};
use alknet_core::{
    ErrorCode,
    transport::{Admitted, Connection, ProtocolHandler},
};
use async_trait::async_trait;
use futures::StreamExt;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const NOT_ADMITTED: Option<u64> = Some(connection_code::NOT_ADMITTED as u64);

/// A protocol of a program that embeds a node: answers each stream with who
/// sent it.
#[derive(Default)]
struct Names {
    serving: Alive,
    open: bool,
}

#[async_trait]
impl ProtocolHandler for Names {
    fn alpn(&self) -> &[u8] {
        if self.open {
            b"test/open/1"
        } else {
            b"test/names/1"
        }
    }

    fn admits_strangers(&self) -> bool {
        self.open
    }

    async fn serve(&self, connection: Arc<dyn Connection>, admitted: Admitted) {
        let _serving = self.serving.guard();
        while let Ok(mut stream) = connection.accept_bi().await {
            let mut text = String::new();
            stream.recv.read_to_string(&mut text).await.unwrap();
            let answer = format!("{text} {}", admitted.caller.id());
            stream.send.write_all(answer.as_bytes()).await.unwrap();
            stream.send.finish();
        }
    }
}

async fn ask(connection: &iroh::endpoint::Connection, text: &str) -> Result<String, String> {
    let (mut send, mut recv) = connection.open_bi().await.map_err(|e| e.to_string())?;
    send.write_all(text.as_bytes()).await.unwrap();
    send.finish().unwrap();
    let answer = recv.read_to_end(1024).await.map_err(|e| e.to_string())?;
    Ok(String::from_utf8(answer).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_is_closed_before_a_stream_is_read_on_every_protocol_but_join() {
    let names = Arc::new(Names::default());
    let home = start_with("home", |home| home.handler(names.clone())).await;
    // An invite lets strangers into one protocol, not into the others.
    home.ticket(json!({})).await;
    let stranger = Stranger::new().await;
    for alpn in [ALPN, names.alpn()] {
        let Ok(connection) = stranger.connect(&home, alpn).await else {
            continue;
        };
        promptly(connection.closed()).await;
        assert_eq!(close_code(&connection), NOT_ADMITTED);
    }
    assert_eq!(names.serving.count(), 0);
    let metrics = home.told("node/metrics", json!({})).await;
    assert_eq!(metrics["connections_refused"], 2);
    assert_eq!(metrics["connections"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protocol_that_nobody_serves_is_refused_in_the_handshake() {
    let home = start("home").await;
    let peer = Stranger::known_to(&home, "tablet", &["admin"]).await;
    for alpn in ["h2", "alknet/call/2", "alknet/ssh/1", ""] {
        let refused = peer.connect(&home, alpn.as_bytes()).await;
        refused.expect_err(alpn);
    }
    let client = peer.client(&home).await;
    client.call_json("node/info", &json!({})).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_protocol_knows_its_caller_and_may_admit_strangers() {
    let (names, open) = (
        Arc::new(Names::default()),
        Arc::new(Names {
            open: true,
            ..Names::default()
        }),
    );
    let home = start_with("home", |home| {
        home.handler(names.clone()).handler(open.clone())
    })
    .await;
    let peer = Stranger::known_to(&home, "tablet", &[]).await;
    let connection = peer.connect(&home, names.alpn()).await.unwrap();
    assert_eq!(soon(ask(&connection, "I am")).await.unwrap(), "I am tablet");
    let stranger = Stranger::new().await;
    let connection = stranger.connect(&home, open.alpn()).await.unwrap();
    let answer = soon(ask(&connection, "I am")).await.unwrap();
    assert_eq!(answer, "I am anonymous");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protocol_is_served_by_one_handler() {
    struct Taken;
    #[async_trait]
    impl ProtocolHandler for Taken {
        fn alpn(&self) -> &[u8] {
            ALPN
        }
        async fn serve(&self, _connection: Arc<dyn Connection>, _admitted: Admitted) {}
    }
    let dir = tempfile::tempdir().unwrap();
    let builder = crate::support::builder(dir.path(), "home").handler(Arc::new(Taken));
    let error = builder.spawn().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "protocol `alknet/call/1` is served already"
    );
}

/// A subscription, a channel and a call that last, of one caller.
struct Lasting {
    items: alknet_call::Items<u32>,
    channel: alknet_core::ChannelCall,
    call: tokio::task::JoinHandle<Result<Value, alknet_core::CallError>>,
}

impl Lasting {
    async fn of(client: &Client, offers: &Offers) -> Self {
        let before = offers.held.count();
        let items = soon(client.subscribe::<_, u32>("test/hold-items", &())).await;
        let mut items = items.unwrap();
        assert_eq!(soon(items.next()).await.unwrap().unwrap(), 1);
        let channel = soon(client.open("test/hold-channel", &())).await.unwrap();
        let held = client.clone();
        let call = tokio::spawn(async move { held.call_json("test/hold", &Value::Null).await });
        soon(offers.held.until(before + 3)).await;
        Self {
            items,
            channel,
            call,
        }
    }

    /// How each of them ended, within a second, the unary call left out.
    async fn codes(mut self) -> (String, String) {
        let item = promptly(self.items.next()).await.unwrap().unwrap_err();
        let result = promptly(self.channel.done).await.unwrap_err();
        self.call.abort();
        (item.code.into_owned(), result.code.into_owned())
    }
}

async fn home_and_tablet(grants: &[&str]) -> (TestNode, Offers, Stranger) {
    let offers = Offers::default();
    let operations = offers.operations();
    let home = start_with("home", |home| home.operations(operations)).await;
    let tablet = Stranger::known_to(&home, "tablet", grants).await;
    (home, offers, tablet)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_peer_loses_what_it_has_open_within_a_second() {
    let (home, offers, tablet) = home_and_tablet(&["test:*"]).await;
    let client = tablet.client(&home).await;
    let lasting = Lasting::of(&client, &offers).await;
    home.told("peers/remove", json!({ "peer": "tablet" })).await;
    promptly(offers.held.until(0)).await;
    promptly(client.session().unwrap().closed()).await;
    let (item, result) = lasting.codes().await;
    // Which of the two arrives first is up to the network.
    for code in [item, result] {
        assert!(
            ["LOST", "UNAUTHENTICATED"].contains(&code.as_str()),
            "{code}"
        );
    }
    if let Ok(again) = tablet.connect(&home, ALPN).await {
        promptly(again.closed()).await;
        assert_eq!(close_code(&again), NOT_ADMITTED);
    }
    // What was cut is in the log, all of it.
    eventually("three rows", async || {
        let rows = home.audit(json!({ "caller": "tablet" })).await;
        let outcomes: Vec<_> = rows.iter().map(|row| &row["outcome"]).collect();
        assert!(!outcomes.contains(&&json!("ok")), "{rows:?}");
        (outcomes.len() == 3).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_peer_is_shut_out_until_it_is_enabled() {
    let (home, offers, tablet) = home_and_tablet(&["test:*"]).await;
    let client = tablet.client(&home).await;
    let _lasting = Lasting::of(&client, &offers).await;
    let switch = async |enabled: bool| {
        let input = json!({ "peer": "tablet", "enabled": enabled });
        home.told("peers/update", input).await
    };
    switch(false).await;
    promptly(offers.held.until(0)).await;
    let closed = promptly(client.session().unwrap().closed()).await;
    assert_eq!(closed.code, Some(connection_code::NOT_ADMITTED));
    if let Ok(again) = tablet.connect(&home, ALPN).await {
        promptly(again.closed()).await;
        assert_eq!(close_code(&again), NOT_ADMITTED);
    }
    switch(true).await;
    let client = tablet.client(&home).await;
    let echoed = client.call_json("test/echo", &json!(7)).await;
    assert_eq!(echoed.unwrap(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_peer_is_not_dialled() {
    let pair = Pair::new(&[], &[]).await;
    let input = json!({ "peer": "laptop", "enabled": false });
    pair.home.told("peers/update", input).await;
    // An attempt that was under way may fail otherwise.
    eventually("the link says why it waits", async || {
        let seen = pair.home.peer_shown("laptop").await;
        let why = "peer `laptop` is disabled, or its access has ended";
        (seen["link"]["last_error"] == why).then_some(())
    })
    .await;
    let input = json!({ "peer": "laptop", "enabled": true });
    pair.home.told("peers/update", input).await;
    pair.linked().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_scope_ends_subscriptions_and_channels_and_not_the_connection() {
    let (home, offers, tablet) = home_and_tablet(&["test:*", "services:list"]).await;
    let other = Stranger::known_to(&home, "phone", &["test:*"]).await;
    let (client, unharmed) = (tablet.client(&home).await, other.client(&home).await);
    let theirs = Lasting::of(&unharmed, &offers).await;
    let lasting = Lasting::of(&client, &offers).await;
    let revoke = json!({ "peer": "tablet", "targets": ["test:*"] });
    home.told("peers/revoke", revoke).await;
    let codes = lasting.codes().await;
    assert_eq!(codes, ("FORBIDDEN".into(), "FORBIDDEN".into()));
    let error = client.call_json("test/echo", &json!(1)).await.unwrap_err();
    assert!(error.is(ErrorCode::Forbidden), "{error:?}");
    assert_eq!(
        error.details.unwrap()["missing"]["scopes"],
        json!(["test:echo"])
    );
    // The same connection hears of the new grant with the next call.
    let grant = json!({ "peer": "tablet", "targets": ["test/echo"] });
    home.told("peers/grant", grant).await;
    let echoed = promptly(client.call_json("test/echo", &json!(2))).await;
    assert_eq!(echoed.unwrap(), 2);
    let error = client.call_json("test/once", &Value::Null).await;
    assert!(error.unwrap_err().is(ErrorCode::Forbidden));
    assert_eq!(offers.held.count(), 3, "the other peer's are untouched");
    drop(theirs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_subscription_ends_too_when_its_scope_is_revoked() {
    let (home, offers, tablet) = home_and_tablet(&["test:*"]).await;
    let client = tablet.client(&home).await;
    let mut items = client
        .subscribe::<_, usize>("test/numbers", &10_000_000_usize)
        .await
        .unwrap();
    assert_eq!(soon(items.next()).await.unwrap().unwrap(), 1);
    // It has run as far as its credit goes, and nobody reads on.
    let made = || offers.made.load(std::sync::atomic::Ordering::SeqCst);
    eventually("the producer stalls", async || {
        let before = made();
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        (before > 1 && made() == before).then_some(())
    })
    .await;
    let revoke = json!({ "peer": "tablet", "targets": ["test:*"] });
    home.told("peers/revoke", revoke).await;
    let last = async {
        loop {
            match items.next().await.unwrap() {
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    };
    let error = promptly(last).await;
    assert!(error.is(ErrorCode::Forbidden), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn catalogue_and_overlay_follow_a_grant_within_a_second() {
    let offers = Offers::default();
    let operations = offers.operations();
    let pair = Pair::with(&[], &[], |home| home.operations(operations), |l| l).await;
    let view = || pair.laptop.door().registry().view();
    let names = || {
        let view = view();
        let names = view.peer("home").map(|entry| entry.spec().name.to_string());
        names.collect::<Vec<_>>()
    };
    assert!(!names().iter().any(|name| name == "test/echo"));
    let mut watch = pair
        .at_home()
        .subscribe::<_, Value>("services/watch", &json!({}))
        .await
        .unwrap();
    let first = soon(watch.next()).await.unwrap().unwrap();

    let change = async |operation: &str| {
        let input = json!({ "peer": "laptop", "targets": ["test/echo"] });
        pair.home.told(operation, input).await;
    };
    let mut changes = pair.laptop.door().registry().changes();
    change("peers/grant").await;
    let second = promptly(watch.next()).await.unwrap().unwrap();
    assert_ne!(second["revision"], first["revision"]);
    let appears = async {
        while !names().iter().any(|name| name == "test/echo") {
            changes.changed().await.unwrap();
        }
    };
    promptly(appears).await;
    let echoed = pair.at_home().call_json("test/echo", &json!("hi")).await;
    assert_eq!(echoed.unwrap(), "hi");

    change("peers/revoke").await;
    let third = promptly(watch.next()).await.unwrap().unwrap();
    assert_eq!(third["revision"], first["revision"]);
    let disappears = async {
        while names().iter().any(|name| name == "test/echo") {
            changes.changed().await.unwrap();
        }
    };
    promptly(disappears).await;
    let error = pair.at_home().call_json("test/echo", &json!("hi")).await;
    let error = error.unwrap_err();
    assert!(error.is(ErrorCode::Forbidden), "{error:?}");
    assert!(error.message.contains("`laptop`"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_cannot_be_shut_out() {
    let home = start("home").await;
    for (operation, input) in [
        ("peers/remove", json!({ "peer": "owner" })),
        (
            "peers/revoke",
            json!({ "peer": "owner", "targets": ["admin"] }),
        ),
        ("peers/update", json!({ "peer": "owner", "enabled": false })),
        (
            "peers/update",
            json!({ "peer": "owner", "access_for_ms": 1 }),
        ),
        (
            "peers/rotate",
            json!({ "peer": "owner", "node_id": Stranger::new().await.id() }),
        ),
        ("peers/add", json!({ "peer": "owner" })),
        ("peers/add", json!({ "peer": "any" })),
    ] {
        let error = home.ask(operation, input).await.unwrap_err();
        assert!(error.is(ErrorCode::Conflict), "{operation}: {error:?}");
    }
    let local = alknet_node::control::connect(home.dir.path())
        .await
        .unwrap();
    let info = local.client.call_json("node/info", &json!({})).await;
    assert_eq!(info.unwrap()["name"], "home");
    local.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_one_peer_at_the_same_time_are_all_kept() {
    let home = start("home").await;
    home.told("peers/add", json!({ "peer": "tablet" })).await;
    let grants: Vec<String> = (0..24).map(|n| format!("area{n}:read")).collect();
    let mut changes = Vec::new();
    for (n, grant) in grants.iter().enumerate() {
        let input = json!({ "peer": "tablet", "targets": [grant] });
        changes.push(("peers/grant", input));
        let input = json!({ "peer": "tablet", "display_name": format!("tablet {n}") });
        changes.push(("peers/update", input));
    }
    let changes = changes
        .into_iter()
        .map(|(operation, input)| home.ask(operation, input));
    for changed in futures::future::join_all(changes).await {
        changed.unwrap();
    }
    let mut held: Vec<String> =
        serde_json::from_value(home.peer_shown("tablet").await["grants"].clone()).unwrap();
    let mut wanted = grants;
    held.sort();
    wanted.sort();
    assert_eq!(held, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_of_one_peer_and_never_ones_own() {
    let home = start("home").await;
    let tablet = Stranger::known_to(&home, "tablet", &[]).await;
    home.told("peers/add", json!({ "peer": "phone" })).await;
    let own = home.status().node_id;
    for (operation, input, code) in [
        (
            "peers/add",
            json!({ "peer": "other", "node_id": tablet.id() }),
            "CONFLICT",
        ),
        (
            "peers/rotate",
            json!({ "peer": "phone", "node_id": tablet.id() }),
            "CONFLICT",
        ),
        (
            "peers/rotate",
            json!({ "peer": "tablet", "node_id": tablet.id() }),
            "CONFLICT",
        ),
        (
            "peers/add",
            json!({ "peer": "other", "node_id": own }),
            "INVALID_INPUT",
        ),
        (
            "peers/rotate",
            json!({ "peer": "phone", "node_id": own }),
            "INVALID_INPUT",
        ),
        (
            "peers/add",
            json!({ "peer": "other", "node_id": format!("02{}", "00".repeat(31)) }),
            "INVALID_INPUT",
        ),
        (
            "peers/add",
            json!({ "peer": "other", "addresses": vec!["10.0.0.1:1"; 17] }),
            "INVALID_INPUT",
        ),
    ] {
        let error = home.ask(operation, input.clone()).await.unwrap_err();
        assert_eq!(error.code, code, "{operation} {input}: {error:?}");
    }
    let error = home.ask("peers/show", json!({ "peer": "tablte" })).await;
    let error = error.unwrap_err();
    assert!(error.is(ErrorCode::NotFound), "{error:?}");
    assert_eq!(error.details.unwrap()["suggestions"], json!(["tablet"]));
}
