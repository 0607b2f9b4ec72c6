//! `net/dial`: connections, their ends, their errors.

use crate::net_support::{
    Gate, Names, Wire, made_up, read_to_end, reply, result, send, server, soon,
};
use alknet_core::{Caller, ErrorCode};
use alknet_exec::net::{Net, NetConfig};
use serde_json::json;
use std::{io::ErrorKind, sync::Mutex};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

#[tokio::test]
async fn bytes_pass_both_ways_and_are_counted() {
    let (gate, server, address) = server().await;
    let mut call = gate.dial(&Caller::host(), address).await.unwrap();
    assert_eq!(reply(&call), json!({ "address": address.to_string() }));
    let (mut peer, _) = soon(server.accept()).await.unwrap();
    send(&mut call, "hello").await;
    let mut five = [0; 5];
    soon(peer.read_exact(&mut five)).await.unwrap();
    peer.write_all(b"good day").await.unwrap();
    assert_eq!(gate.net.connections(), 1);
    drop(peer);
    assert_eq!(read_to_end(&mut call).await.unwrap(), "good day");
    call.channel.tx.end();
    let counts = result(call).await.unwrap();
    assert_eq!(counts, json!({ "bytes_sent": 5, "bytes_received": 8 }));
    assert_eq!(gate.net.connections(), 0);
}

#[tokio::test]
async fn a_server_that_reads_to_the_end_answers_then() {
    let (gate, server, address) = server().await;
    let mut call = gate.dial(&Caller::host(), address).await.unwrap();
    let (mut peer, _) = soon(server.accept()).await.unwrap();
    send(&mut call, "question").await;
    call.channel.tx.end();
    let mut text = String::new();
    soon(peer.read_to_string(&mut text)).await.unwrap();
    peer.write_all(text.to_uppercase().as_bytes())
        .await
        .unwrap();
    drop(peer);
    assert_eq!(read_to_end(&mut call).await.unwrap(), "QUESTION");
    assert!(result(call).await.is_ok());
}

#[tokio::test]
async fn a_server_that_has_said_everything_still_listens() {
    let (gate, server, address) = server().await;
    let mut call = gate.dial(&Caller::host(), address).await.unwrap();
    let (mut peer, _) = soon(server.accept()).await.unwrap();
    peer.write_all(b"all").await.unwrap();
    peer.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut call).await.unwrap(), "all");
    send(&mut call, "late").await;
    call.channel.tx.end();
    let mut text = String::new();
    soon(peer.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "late");
    assert!(result(call).await.is_ok());
}

#[tokio::test]
async fn a_reset_cuts_its_own_channel_alone() {
    let (gate, server, address) = server().await;
    let mut one = gate.dial(&Caller::host(), address).await.unwrap();
    let (first, _) = soon(server.accept()).await.unwrap();
    let mut two = gate.dial(&Caller::host(), address).await.unwrap();
    let (mut second, _) = soon(server.accept()).await.unwrap();
    first.set_zero_linger().unwrap();
    drop(first);
    assert_eq!(read_to_end(&mut one).await, Err(String::new()));
    let error = result(one).await.unwrap_err();
    assert_eq!(error.code, "CONNECTION_RESET", "{error}");
    second.write_all(b"fine").await.unwrap();
    drop(second);
    two.channel.tx.end();
    assert_eq!(read_to_end(&mut two).await.unwrap(), "fine");
    assert!(result(two).await.is_ok());
}

/// The server has ended its bytes, so nobody reads any more; that it then
/// breaks the connection is seen all the same.
#[tokio::test]
async fn a_reset_after_the_end_of_the_bytes_is_seen() {
    let (gate, server, address) = server().await;
    let mut call = gate.dial(&Caller::host(), address).await.unwrap();
    let (mut peer, _) = soon(server.accept()).await.unwrap();
    peer.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut call).await.unwrap(), "");
    peer.set_zero_linger().unwrap();
    drop(peer);
    let error = result(call).await.unwrap_err();
    assert_eq!(error.code, "CONNECTION_RESET", "{error}");
}

async fn is_reset(peer: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    let read = soon(peer.read_to_end(&mut rest)).await;
    read.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn a_channel_that_is_cut_resets_the_connection() {
    let (gate, server, address) = server().await;
    let mut call = gate.dial(&Caller::host(), address).await.unwrap();
    let (mut peer, _) = soon(server.accept()).await.unwrap();
    send(&mut call, "half").await;
    // Its sender goes away without an end.
    let (spare, _kept) = alknet_core::channel_pair();
    drop(std::mem::replace(&mut call.channel.tx, spare.tx));
    let error = result(call).await.unwrap_err();
    assert!(error.is(ErrorCode::Cancelled), "{error}");
    assert!(is_reset(&mut peer).await);
}

#[tokio::test]
async fn a_call_that_is_dropped_resets_the_connection() {
    let (gate, server, address) = server().await;
    let call = gate.dial(&Caller::host(), address).await.unwrap();
    let (mut peer, _) = soon(server.accept()).await.unwrap();
    drop(call);
    assert!(is_reset(&mut peer).await);
}

#[tokio::test]
async fn many_bytes_pass_unchanged_to_a_slow_reader() {
    let (gate, server, address) = server().await;
    let mut call = gate.dial(&Caller::host(), address).await.unwrap();
    let (mut peer, _) = soon(server.accept()).await.unwrap();
    let bytes: Vec<u8> = (0..8_000_000u32).map(|n| (n % 251) as u8).collect();
    let sent = bytes.clone();
    let serving = tokio::spawn(async move {
        peer.write_all(&sent).await.unwrap();
        peer
    });
    let mut got = Vec::new();
    while let Some(chunk) = soon(call.channel.rx.recv()).await.unwrap() {
        got.extend_from_slice(&chunk.bytes);
        tokio::task::yield_now().await;
        if got.len() == bytes.len() {
            break;
        }
    }
    assert!(got == bytes, "{} of {}", got.len(), bytes.len());
    drop(serving.await.unwrap());
}

#[tokio::test]
async fn nobody_who_listens_is_said_so() {
    let (gate, server, address) = server().await;
    drop(server);
    let error = gate.dial(&Caller::host(), address).await.unwrap_err();
    assert_eq!(error.code, "CONNECTION_REFUSED", "{error}");
    assert_eq!(error.details.unwrap()["address"], address.to_string());
}

#[tokio::test]
async fn a_name_without_an_address_is_said_so() {
    let (gate, wire, _server) = made_up(&Names::default()).await;
    let error = gate.dial(&Caller::host(), "db.lan:1").await.unwrap_err();
    assert_eq!(error.code, "NAME_NOT_FOUND", "{error}");
    let (gate, _, _server) = made_up(&Names::answering(&[&[]])).await;
    let error = gate.dial(&Caller::host(), "db.lan:1").await.unwrap_err();
    assert_eq!(error.code, "NAME_NOT_FOUND", "{error}");
    assert!(wire.seen.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_address_that_does_not_answer_is_given_up_in_time() {
    let wire = Wire::default();
    let net = Net::with(NetConfig::default(), Names::default(), wire.clone()).unwrap();
    let gate = Gate::behind(net);
    for (asked, want_ms) in [(Some(50), 50), (Some(60_000), 10_000), (None, 10_000)] {
        let began = tokio::time::Instant::now();
        let mut input = json!({ "address": "8.8.8.8:53" });
        if let Some(ms) = asked {
            input["timeout_ms"] = json!(ms);
        }
        let refused = gate.open(&Caller::host(), "net/dial", input).await;
        let error = refused.unwrap_err();
        assert_eq!(error.code, "CONNECT_TIMEOUT", "{error}");
        let took = began.elapsed().as_millis();
        assert!((want_ms..want_ms + 10).contains(&took), "{took} ms");
    }
}

#[tokio::test]
async fn to_check_connects_to_nobody() {
    let (gate, wire, _server) = made_up(&Names::answering(&[&["10.0.0.5"]])).await;
    let input = json!({ "address": "db.lan:5432", "check_only": true });
    let holds = gate.caller("bob", &["net:dial", "net:db.lan:5432=dial"]);
    let mut call = gate.open(&holds, "net/dial", input.clone()).await.unwrap();
    assert_eq!(reply(&call), json!({ "address": "10.0.0.5:5432" }));
    assert_eq!(read_to_end(&mut call).await.unwrap(), "");
    let counts = result(call).await.unwrap();
    assert_eq!(counts, json!({ "bytes_sent": 0, "bytes_received": 0 }));
    let lacks = gate.caller("eve", &["net:dial", "net:db.lan:80=dial"]);
    let error = gate.open(&lacks, "net/dial", input).await.unwrap_err();
    assert!(error.is(ErrorCode::Forbidden), "{error}");
    assert!(wire.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_system_resolves_localhost() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    let gate = Gate::system(NetConfig::default());
    let grant = format!("net:localhost:{port}=dial");
    let bob = gate.caller("bob", &["net:dial", &grant]);
    let call = gate.dial(&bob, format!("LocalHost.:{port}")).await.unwrap();
    assert_eq!(reply(&call)["address"], format!("127.0.0.1:{port}"));
}

#[test]
fn limits_have_a_least_and_a_most() {
    for (field, value, fits) in [
        ("listeners_per_caller_max", 0, false),
        ("listeners_per_caller_max", 10_000, true),
        ("listeners_per_caller_max", 10_001, false),
        ("waiting_per_listener_max", 0, false),
        ("waiting_per_listener_max", 1, true),
        ("waiting_per_listener_max", 10_001, false),
    ] {
        let config: NetConfig = toml::from_str(&format!("{field} = {value}")).unwrap();
        let made = Net::new(config);
        assert_eq!(made.is_ok(), fits, "{field} = {value}");
        if let Err(error) = made {
            assert!(error.to_string().contains(field), "{error}");
        }
    }
    assert!(toml::from_str::<NetConfig>("connect_timeuot = \"1s\"").is_err());
}

/// What was held by the future of a connection is gone when it ends.
#[tokio::test]
async fn a_hundred_connections_leave_nothing_behind() {
    let (gate, server, address) = server().await;
    let held = Mutex::new(Vec::new());
    for _ in 0..100 {
        let call = gate.dial(&Caller::host(), address).await.unwrap();
        let (peer, _) = soon(server.accept()).await.unwrap();
        held.lock().unwrap().push((call, peer));
    }
    assert_eq!(gate.net.connections(), 100);
    drop(held);
    crate::support::eventually("no connection is left", || gate.net.connections() == 0).await;
    crate::support::eventually("no call is in flight", || gate.door.in_flight() == 0).await;
}

/// A node that carries many connections allows itself many descriptors;
/// programs get what it was given.
#[tokio::test]
async fn programs_have_the_descriptors_that_the_node_began_with() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let began = getrlimit(Resource::Nofile);
    let door = crate::support::shell_door();
    let mut now = began;
    now.current = began.current.map(|current| current - 1);
    setrlimit(Resource::Nofile, now).unwrap();
    let said = crate::support::exec_argv(&door, &["sh", "-c", "ulimit -n"]).await;
    assert_eq!(said.text().trim(), began.current.unwrap().to_string());
}
