//! Programs that are no node, and connections of protocols of one's own.

use crate::support::{Pair, eventually, soon, start, start_with};
use alknet_core::{
    ApiKey, CallError, ErrorCode,
    storage::{API_KEYS_PER_PEER_MAX, PeerAddresses, hex32},
    transport::{Admitted, Connection, ProtocolHandler},
};
use alknet_node::remote::{ProgramKey, Remote};
use async_trait::async_trait;
use serde_json::{Value, json};
use std::{fmt::Debug, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

/// Ten times what reaching a node may take.
const TEN_TIMES: Duration = Duration::from_secs(150);

#[track_caller]
fn fails<T: Debug>(outcome: Result<T, CallError>, code: &str) -> CallError {
    let error = outcome.unwrap_err();
    assert_eq!(error.code, code, "{error}");
    error
}

async fn greet(remote: &Remote) -> Result<Value, CallError> {
    let name = json!({ "name": "Ada" });
    soon(remote.client().call_json("demo/greet", &name)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_joins_once_and_comes_back_with_its_key() {
    let home = start_with("home", |home| home.demo(true)).await;
    let ticket = home.invite(&["demo/greet"]).await.unwrap();
    let key = ProgramKey::generate();
    let remote = Remote::join(&key, "reporter", &ticket).await.unwrap();
    assert_eq!(remote.node_id(), home.id());
    assert_eq!(greet(&remote).await.unwrap(), "Hello, Ada!");
    let client = remote.client();
    let shutdown = client.call_json("node/shutdown", &json!({})).await;
    fails(shutdown, "FORBIDDEN");
    let addresses = remote.addresses().clone();
    remote.close().await;

    let kept = ProgramKey::from_bytes(&key.to_bytes());
    let again = Remote::connect(&kept, &home.id(), &addresses).await;
    assert_eq!(greet(&again.unwrap()).await.unwrap(), "Hello, Ada!");
    let other = ProgramKey::generate();
    fails(Remote::join(&other, "thief", &ticket).await, "TICKET_USED");
    fails(
        Remote::join(&other, "thief", "alkinvite1x").await,
        "TICKET_INVALID",
    );
    let stranger = Remote::connect(&other, &home.id(), &addresses).await;
    fails(stranger, "UNAUTHENTICATED");
    // A ticket has no part in it: its owner adds a key.
    let input = json!({ "peer": "other", "node_id": hex32::encode(&other.public()), "grants": ["demo/greet"] });
    home.told("peers/add", input).await;
    let added = Remote::connect(&other, &home.id(), &addresses)
        .await
        .unwrap();
    assert_eq!(greet(&added).await.unwrap(), "Hello, Ada!");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_hears_that_its_access_has_ended() {
    let home = start_with("home", |home| home.demo(true)).await;
    let ticket = home.invite(&["demo/greet"]).await.unwrap();
    let remote = Remote::join(&ProgramKey::generate(), "reporter", &ticket).await;
    let remote = remote.unwrap();
    greet(&remote).await.unwrap();
    home.told("peers/remove", json!({ "peer": "reporter" }))
        .await;
    soon(remote.closed()).await;
    greet(&remote).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_a_node_that_is_not_there_is_not_waited_for_for_ever() {
    let mut home = start("home").await;
    let key = ProgramKey::generate();
    let (id, address) = (home.id(), home.address());
    home.stop().await;
    let addresses = PeerAddresses {
        direct: vec![address],
        relays: Vec::new(),
    };
    for addresses in [addresses, PeerAddresses::default()] {
        let connecting = Remote::connect(&key, &id, &addresses);
        let tried = timeout(TEN_TIMES, connecting).await;
        assert!(fails(tried.unwrap(), "UNAVAILABLE").retryable);
    }
}

#[test]
fn a_key_does_not_show_itself() {
    let key = ProgramKey::generate();
    let shown = format!("{key:?}");
    assert!(
        !shown.contains(&hex32::encode(&key.to_bytes())[..8]),
        "{shown}"
    );
    assert!(
        shown.contains(&hex32::encode(&key.public())[..8]),
        "{shown}"
    );
}

/// Sends everything back, with the caller's name before it.
struct Mirror;

#[async_trait]
impl ProtocolHandler for Mirror {
    fn alpn(&self) -> &[u8] {
        b"test/mirror/1"
    }

    async fn serve(&self, connection: Arc<dyn Connection>, admitted: Admitted) {
        while let Ok(mut stream) = connection.accept_bi().await {
            let mut text = String::new();
            stream.recv.read_to_string(&mut text).await.unwrap();
            let known = admitted.door.node_name();
            let answer = format!("{} at {known}: {text}", admitted.caller.id());
            stream.send.write_all(answer.as_bytes()).await.unwrap();
            stream.send.finish();
        }
    }
}

async fn ask(connection: &dyn Connection, text: &str) -> std::io::Result<String> {
    let opened = connection.open_bi().await;
    let mut stream = opened.map_err(std::io::Error::other)?;
    stream.send.write_all(text.as_bytes()).await?;
    stream.send.finish();
    let mut answer = String::new();
    stream.recv.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_dials_a_protocol_of_ones_own_at_a_peer() {
    let serve = |home: alknet_node::NodeBuilder| home.handler(Arc::new(Mirror));
    let pair = Pair::with(&[], &[], serve, |laptop| laptop).await;
    let connection = pair.laptop.connect("home", b"test/mirror/1").await.unwrap();
    let answer = soon(ask(&*connection, "hello")).await.unwrap();
    assert_eq!(answer, "laptop at home: hello");
    let unserved = pair.laptop.connect("home", b"test/nothing/1").await;
    let unserved = fails(unserved.map(|_| ()), "NOT_FOUND");
    assert!(!unserved.retryable);
    assert_eq!(
        unserved.message,
        "peer `home` does not serve the protocol `test/nothing/1`"
    );
    for unknown in ["nas", "No Peer"] {
        let error = pair.laptop.connect(unknown, b"test/mirror/1").await;
        let error = fails(error.map(|_| ()), "NOT_FOUND");
        assert_eq!(error.details.unwrap()["peer"], unknown);
    }
    // What it holds to is what it is: a peer of this node.
    pair.laptop
        .told("peers/remove", json!({ "peer": "home" }))
        .await;
    soon(connection.closed()).await;
    ask(&*connection, "still there?").await.unwrap_err();
}

/// Says when a connection is served, and when it has ended.
struct Watched(tokio::sync::mpsc::UnboundedSender<&'static str>);

#[async_trait]
impl ProtocolHandler for Watched {
    fn alpn(&self) -> &[u8] {
        b"test/watched/1"
    }

    async fn serve(&self, connection: Arc<dyn Connection>, _admitted: Admitted) {
        self.0.send("served").unwrap();
        connection.closed().await;
        self.0.send("ended").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_nobody_holds_any_more_is_closed() {
    let (says, mut said) = tokio::sync::mpsc::unbounded_channel();
    let serve = |home: alknet_node::NodeBuilder| home.handler(Arc::new(Watched(says)));
    let pair = Pair::with(&[], &[], serve, |laptop| laptop).await;
    let connection = pair
        .laptop
        .connect("home", b"test/watched/1")
        .await
        .unwrap();
    assert_eq!(soon(said.recv()).await, Some("served"));
    drop(connection);
    assert_eq!(soon(said.recv()).await, Some("ended"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_let_in_no_more_is_told_so_in_words() {
    let serve = |home: alknet_node::NodeBuilder| home.handler(Arc::new(Mirror));
    let pair = Pair::with(&[], &[], serve, |laptop| laptop).await;
    pair.home
        .told("peers/remove", json!({ "peer": "laptop" }))
        .await;
    // Known with the handshake, or with the first stream.
    let told = match pair.laptop.connect("home", b"test/mirror/1").await {
        Err(error) => {
            assert!(error.message.contains("NOT_ADMITTED"), "{error}");
            fails(Err::<(), _>(error), "UNAUTHENTICATED").message
        }
        Ok(connection) => soon(ask(&*connection, "hello"))
            .await
            .unwrap_err()
            .to_string(),
    };
    assert!(told.contains("not a peer of this node"), "{told}");
    // And the link says it to whoever lists the peers.
    let why = eventually("the refusal is listed", || async {
        let shown = pair
            .laptop
            .told("peers/show", json!({ "peer": "home" }))
            .await;
        Some(shown["link"]["last_error"].as_str()?.to_owned())
            .filter(|why| why.contains("NOT_ADMITTED"))
    })
    .await;
    assert!(why.contains("does not let this node in"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_peer_is_not_dialled() {
    let pair = Pair::new(&[], &[]).await;
    let disable = json!({ "peer": "home", "enabled": false });
    pair.laptop.told("peers/update", disable).await;
    let refused = pair.laptop.connect("home", alknet_call::ALPN).await;
    let error = refused.map(|_| ()).unwrap_err();
    assert!(error.is(ErrorCode::Unavailable), "{error}");
    assert!(error.message.contains("disabled"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_presents_an_api_key_and_is_its_peer_and_not_itself() {
    let home = start_with("home", |home| home.demo(true)).await;
    let ticket = home.invite(&["node/info"]).await.unwrap();
    let own = ProgramKey::generate();
    let remote = Remote::join(&own, "gateway", &ticket).await.unwrap();
    let made = json!({ "name": "agent", "grants": ["demo/greet"] });
    let made = home.told("keys/create", made).await;
    let key = ApiKey::parse(made["key"].as_str().unwrap()).unwrap();
    let (id, addresses) = (home.id(), remote.addresses().clone());
    let as_agent = Remote::connect_as(&own, &id, &addresses, &key)
        .await
        .unwrap();
    assert_eq!(greet(&as_agent).await.unwrap(), "Hello, Ada!");
    // What the program itself may, the key may not.
    let info = |remote: &Remote| {
        let client = remote.client().clone();
        async move { client.call_json("node/info", &json!({})).await }
    };
    fails(info(&as_agent).await, "FORBIDDEN");
    info(&remote).await.unwrap();
    let rows = home.audit(json!({ "operation": "demo/greet" })).await;
    assert_eq!(rows[0]["caller"], "agent");
    assert_eq!(rows[0]["key"], made["id"]);
    assert_eq!(rows[0]["transport"], "gateway");

    // A key that is not known is not the program instead.
    let wrong = ApiKey::of_random([9; 5], &[9; 32]);
    let refused = Remote::connect_as(&own, &id, &addresses, &wrong).await;
    fails(refused, "UNAUTHENTICATED");
    // A key is no way in for whoever is not known by his own.
    let stranger = ProgramKey::generate();
    let refused = Remote::connect_as(&stranger, &id, &addresses, &key).await;
    fails(refused, "UNAUTHENTICATED");

    home.told("keys/revoke", json!({ "key": "agent" })).await;
    soon(as_agent.closed()).await;
    info(&remote).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_ends_with_the_peer_whose_connection_carries_it() {
    let home = start_with("home", |home| home.demo(true)).await;
    let ticket = home.invite(&["node/info"]).await.unwrap();
    let own = ProgramKey::generate();
    let remote = Remote::join(&own, "gateway", &ticket).await.unwrap();
    let made = json!({ "name": "agent", "grants": ["demo/greet"] });
    let made = home.told("keys/create", made).await;
    let key = ApiKey::parse(made["key"].as_str().unwrap()).unwrap();
    let id = home.id();
    let as_agent = Remote::connect_as(&own, &id, remote.addresses(), &key);
    let as_agent = as_agent.await.unwrap();
    greet(&as_agent).await.unwrap();
    home.told("peers/remove", json!({ "peer": "gateway" }))
        .await;
    soon(as_agent.closed()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_has_so_many_keys_and_is_told_when_it_has_them() {
    let home = start("home").await;
    home.told("peers/add", json!({ "peer": "ada" })).await;
    for n in 0..API_KEYS_PER_PEER_MAX {
        let input = json!({ "name": format!("key-{n}"), "peer": "ada" });
        home.told("keys/create", input).await;
    }
    let one_more = json!({ "name": "one-more", "peer": "ada" });
    let refused = home.ask("keys/create", one_more.clone()).await;
    let refused = fails(refused, "CONFLICT");
    assert!(refused.message.contains("64 API keys"), "{refused}");
    home.told("keys/revoke", json!({ "key": "key-7" })).await;
    home.told("keys/create", one_more).await;
    let shown = home.peer_shown("ada").await;
    assert_eq!(shown["api_keys"], API_KEYS_PER_PEER_MAX);
}
