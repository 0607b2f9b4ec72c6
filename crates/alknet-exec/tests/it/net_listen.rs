//! `net/listen` and `net/accept`.

use crate::{
    net_support::{Gate, read_to_end, reply, result, send, soon},
    support::eventually,
};
use alknet_core::{CallError, Caller, ChannelCall, ErrorCode};
use alknet_exec::net::NetConfig;
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const GRANTS: [&str; 2] = ["net:listen", "net:127.0.0.1=listen"];

fn config(fields: &str) -> NetConfig {
    toml::from_str(fields).unwrap()
}

async fn listen(gate: &Gate, caller: &Caller, address: &str) -> Result<ChannelCall, CallError> {
    let input = json!({ "address": address });
    gate.open(caller, "net/listen", input).await
}

/// A listener of bob on loopback, and where it is.
async fn listening(fields: &str) -> (Gate, Caller, ChannelCall, SocketAddr) {
    let gate = Gate::system(config(fields));
    let bob = gate.caller("bob", &GRANTS);
    let listener = listen(&gate, &bob, "127.0.0.1:0").await.unwrap();
    let address = reply(&listener)["address"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    (gate, bob, listener, address)
}

async fn announced(listener: &mut ChannelCall) -> Value {
    soon(listener.channel.control_rx.recv()).await.unwrap()
}

async fn accept(
    gate: &Gate,
    caller: &Caller,
    announcement: &Value,
) -> Result<ChannelCall, CallError> {
    let input = json!({ "connection": announcement["connection"] });
    gate.open(caller, "net/accept", input).await
}

async fn is_reset(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    soon(stream.read_to_end(&mut rest)).await.is_err()
}

#[tokio::test]
async fn a_connection_is_announced_taken_and_half_closed_each_way() {
    let (gate, bob, mut listener, address) = listening("").await;
    let mut client = TcpStream::connect(address).await.unwrap();
    let announcement = announced(&mut listener).await;
    let from = client.local_addr().unwrap().to_string();
    assert_eq!(announcement["from"], from);
    assert_eq!(announcement["connection"].as_str().unwrap().len(), 32);
    let mut call = accept(&gate, &bob, &announcement).await.unwrap();
    assert_eq!(reply(&call), json!({ "from": from }));
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut call).await.unwrap(), "question");
    send(&mut call, "answer").await;
    call.channel.tx.end();
    let mut text = String::new();
    soon(client.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "answer");
    let counts = result(call).await.unwrap();
    assert_eq!(counts, json!({ "bytes_sent": 6, "bytes_received": 8 }));
    listener.channel.tx.end();
    assert_eq!(result(listener).await.unwrap(), json!({ "connections": 1 }));
}

#[tokio::test]
async fn only_whose_listener_it_is_takes_a_connection_and_only_once() {
    let (gate, bob, mut listener, address) = listening("").await;
    let eve = gate.caller("eve", &GRANTS);
    let _client = TcpStream::connect(address).await.unwrap();
    let announcement = announced(&mut listener).await;
    for (who, what) in [
        (&eve, &announcement),
        (&bob, &json!({ "connection": "0".repeat(32) })),
    ] {
        let error = accept(&gate, who, what).await.unwrap_err();
        assert!(error.is(ErrorCode::NotFound), "{error}");
    }
    let _call = accept(&gate, &bob, &announcement).await.unwrap();
    let error = accept(&gate, &bob, &announcement).await.unwrap_err();
    assert!(error.is(ErrorCode::NotFound), "{error}");
}

#[tokio::test]
async fn the_end_of_a_listener_resets_what_waits_and_leaves_what_was_taken() {
    let (gate, bob, mut listener, address) = listening("").await;
    let mut taken = TcpStream::connect(address).await.unwrap();
    let announcement = announced(&mut listener).await;
    let mut call = accept(&gate, &bob, &announcement).await.unwrap();
    let mut waiting = TcpStream::connect(address).await.unwrap();
    let late = announced(&mut listener).await;
    drop(listener);
    assert!(is_reset(&mut waiting).await);
    let error = accept(&gate, &bob, &late).await.unwrap_err();
    assert!(error.is(ErrorCode::NotFound), "{error}");
    assert!(TcpStream::connect(address).await.is_err());
    assert_eq!(gate.net.listeners(), 0);
    taken.write_all(b"still here").await.unwrap();
    drop(taken);
    assert_eq!(read_to_end(&mut call).await.unwrap(), "still here");
}

#[tokio::test]
async fn a_connection_that_is_not_taken_is_reset_in_time() {
    let (gate, bob, mut listener, address) = listening("waiting_timeout = \"50ms\"").await;
    let mut client = TcpStream::connect(address).await.unwrap();
    let announcement = announced(&mut listener).await;
    assert!(is_reset(&mut client).await);
    let error = accept(&gate, &bob, &announcement).await.unwrap_err();
    assert!(error.is(ErrorCode::NotFound), "{error}");
}

#[tokio::test]
async fn a_connection_that_is_taken_does_not_expire() {
    let (gate, bob, mut listener, address) = listening("waiting_timeout = \"50ms\"").await;
    let mut client = TcpStream::connect(address).await.unwrap();
    let first = announced(&mut listener).await;
    let mut call = accept(&gate, &bob, &first).await.unwrap();
    // When the second is reset, the time of the first is over too.
    let mut second = TcpStream::connect(address).await.unwrap();
    announced(&mut listener).await;
    assert!(is_reset(&mut second).await);
    client.write_all(b"still here").await.unwrap();
    drop(client);
    assert_eq!(read_to_end(&mut call).await.unwrap(), "still here");
}

#[tokio::test]
async fn connections_beyond_those_that_may_wait_stay_in_the_queue() {
    let (gate, bob, mut listener, address) = listening("waiting_per_listener_max = 2").await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(TcpStream::connect(address).await.unwrap());
    }
    let first = announced(&mut listener).await;
    announced(&mut listener).await;
    assert!(listener.channel.control_rx.try_recv().is_err());
    let call = accept(&gate, &bob, &first).await.unwrap();
    // The place is free, and the third is let in, not before.
    let third = announced(&mut listener).await;
    assert_eq!(third["from"], clients[2].local_addr().unwrap().to_string());
    drop(call);
}

#[tokio::test]
async fn a_caller_has_so_many_listeners_and_no_more() {
    let gate = Gate::system(config("listeners_per_caller_max = 2"));
    let bob = gate.caller("bob", &GRANTS);
    let one = listen(&gate, &bob, "127.0.0.1:0").await.unwrap();
    let _two = listen(&gate, &bob, "127.0.0.1:0").await.unwrap();
    let error = listen(&gate, &bob, "127.0.0.1:0").await.unwrap_err();
    assert!(error.is(ErrorCode::RateLimited), "{error}");
    let eve = gate.caller("eve", &GRANTS);
    let _hers = listen(&gate, &eve, "127.0.0.1:0").await.unwrap();
    drop(one);
    eventually("its place is free", || gate.net.listeners() == 2).await;
    listen(&gate, &bob, "127.0.0.1:0").await.unwrap();
}

#[tokio::test]
async fn to_listen_takes_a_grant_for_that_address() {
    let gate = Gate::system(NetConfig::default());
    let bob = gate.caller("bob", &["net:listen", "net:127.0.0.1:1-65535=listen"]);
    for (address, missing) in [
        ("0.0.0.0:8080", "net:0.0.0.0:8080=listen"),
        ("[::]:8080", "net:[::]:8080=listen"),
        ("[::1]:8080", "net:[::1]:8080=listen"),
        ("127.0.0.1:0", "net:127.0.0.1:0=listen"),
    ] {
        let error = listen(&gate, &bob, address).await.unwrap_err();
        assert!(error.is(ErrorCode::Forbidden), "{address}: {error}");
        assert_eq!(error.details.unwrap()["grant"], missing);
    }
    // The operation as a whole is for this machine.
    let eve = gate.caller("eve", &["net/listen"]);
    listen(&gate, &eve, "127.0.0.1:0").await.unwrap();
    let error = listen(&gate, &eve, "0.0.0.0:0").await.unwrap_err();
    assert!(error.is(ErrorCode::Forbidden), "{error}");
    let ada = gate.caller("ada", &["admin"]);
    for name in ["localhost:0", "db.lan:80"] {
        let error = listen(&gate, &ada, name).await.unwrap_err();
        assert!(error.is(ErrorCode::InvalidInput), "{name}: {error}");
    }
}

#[tokio::test]
async fn an_address_that_cannot_be_had_is_said_so() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gate = Gate::system(NetConfig::default());
    let ada = gate.caller("ada", &["admin"]);
    let address = taken.local_addr().unwrap().to_string();
    let error = listen(&gate, &ada, &address).await.unwrap_err();
    assert_eq!(error.code, "ADDRESS_IN_USE", "{error}");
    let error = listen(&gate, &ada, "192.0.2.1:80").await.unwrap_err();
    assert_eq!(error.code, "ADDRESS_NOT_AVAILABLE", "{error}");
}

#[tokio::test]
async fn a_right_that_is_taken_ends_the_listener_and_what_came_through_it() {
    let (gate, bob, mut listener, address) = listening("").await;
    let mut taken = TcpStream::connect(address).await.unwrap();
    let announcement = announced(&mut listener).await;
    let call = accept(&gate, &bob, &announcement).await.unwrap();
    let mut waiting = TcpStream::connect(address).await.unwrap();
    announced(&mut listener).await;
    let revoked = std::time::Instant::now();
    gate.caller("bob", &["net:listen"]);
    for ended in [result(listener).await, result(call).await] {
        let error = ended.unwrap_err();
        assert!(error.is(ErrorCode::Forbidden), "{error}");
    }
    assert!(is_reset(&mut taken).await && is_reset(&mut waiting).await);
    assert!(revoked.elapsed().as_millis() < 1000);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_node_that_stops_closes_its_listeners() {
    let (gate, _bob, listener, address) = listening("").await;
    gate.door.begin_drain();
    assert_eq!(result(listener).await.unwrap(), json!({ "connections": 0 }));
    assert!(TcpStream::connect(address).await.is_err());
}
