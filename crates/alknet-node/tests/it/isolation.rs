//! One caller's fault, or malice, is nobody else's trouble.

use crate::support::{
    Known, Offers, Stranger, TestNode, close_code, eventually, promptly, soon, start_with,
};
use alknet_call::{ALPN, Client, Frame, Hello, PeerLimits, connection_code, stream_code};
use alknet_core::{
    ErrorCode,
    transport::{Admitted, Connection, ProtocolHandler},
};
use async_trait::async_trait;
use futures::StreamExt;
use iroh::endpoint::ReadError;
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const LIMIT: Option<u64> = Some(connection_code::LIMIT as u64);

async fn home_with(offers: &Offers) -> TestNode {
    let operations = offers.operations();
    start_with("home", |home| home.operations(operations)).await
}

/// A known peer that has nothing to do with the trouble.
async fn bystander(home: &TestNode) -> Known {
    Known::to(home, "phone", &["test:*"]).await
}

async fn is_served(client: &Client) {
    let echoed = soon(client.call_json("test/echo", &json!("fine"))).await;
    assert_eq!(echoed.unwrap(), "fine");
}

/// A connection on which the call protocol is spoken by hand.
async fn by_hand(stranger: &Stranger, home: &TestNode) -> iroh::endpoint::Connection {
    let connection = stranger.connect(home, ALPN).await.unwrap();
    let hello = Hello {
        versions: vec![1],
        software: "test/1".into(),
        node_name: "by-hand".into(),
        limits: PeerLimits {
            frame_bytes_max: 16 * 1024 * 1024,
            chunk_bytes_max: 256 * 1024,
            item_window_bytes: 256 * 1024,
            channel_window_bytes: 1024 * 1024,
        },
        features: Vec::new(),
    };
    let mut send = connection.open_uni().await.unwrap();
    send.write_all(&Frame::Hello(hello, None).to_bytes())
        .await
        .unwrap();
    send.finish().unwrap();
    let mut theirs = soon(connection.accept_uni()).await.unwrap();
    soon(theirs.read_to_end(4096)).await.unwrap();
    connection
}

/// With which code the other side ended a stream on which `bytes` were sent.
async fn stream_end(connection: &iroh::endpoint::Connection, bytes: &[u8]) -> Option<u64> {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(bytes).await.unwrap();
    match soon(recv.read_chunk(1)).await {
        Err(ReadError::Reset(code)) => Some(code.into_inner()),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panicking_operation_harms_its_own_call_alone() {
    let home = home_with(&Offers::default()).await;
    let client = bystander(&home).await;
    let calls = (0..200_u32).map(|n| {
        let client = &client;
        async move {
            match n % 20 {
                0 => {
                    let error = client.call_json("test/panic", &json!(1)).await;
                    let error = error.unwrap_err();
                    assert!(error.is(ErrorCode::Internal), "{error:?}");
                    assert!(!error.message.contains("as asked"), "{error:?}");
                }
                _ => assert_eq!(client.call_json("test/echo", &json!(n)).await.unwrap(), n),
            }
        }
    });
    soon(futures::future::join_all(calls)).await;
    let metrics = home.told("node/metrics", json!({})).await;
    assert_eq!(metrics["handler_panics"], 10);
    assert_eq!(metrics["connections"], 1);
}

/// Panics with the first stream of a connection.
struct Bad;

#[async_trait]
impl ProtocolHandler for Bad {
    fn alpn(&self) -> &[u8] {
        b"test/bad/1"
    }

    async fn serve(&self, connection: Arc<dyn Connection>, _admitted: Admitted) {
        let _stream = connection.accept_bi().await;
        panic!("as written");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panicking_protocol_harms_its_own_connection_alone() {
    let operations = Offers::default().operations();
    let home = start_with("home", |home| {
        home.operations(operations).handler(Arc::new(Bad))
    })
    .await;
    let client = bystander(&home).await;
    let tablet = Stranger::known_to(&home, "tablet", &["test:*"]).await;
    let theirs = tablet.client(&home).await;
    for _ in 0..3 {
        let connection = tablet.connect(&home, b"test/bad/1").await.unwrap();
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        send.write_all(b"x").await.unwrap();
        soon(connection.closed()).await;
        let code = u64::from(connection_code::INTERNAL);
        assert_eq!(close_code(&connection), Some(code));
    }
    is_served(&client).await;
    is_served(&theirs).await;
    eventually("their connections are gone", async || {
        let metrics = home.told("node/metrics", json!({})).await;
        assert_eq!(metrics["protocol_panics"], 3);
        (metrics["connections"] == 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_streams_are_reset_and_a_repetition_ends_the_connection() {
    let home = home_with(&Offers::default()).await;
    let client = bystander(&home).await;
    let tablet = Stranger::known_to(&home, "tablet", &["test:*"]).await;
    let connection = by_hand(&tablet, &home).await;
    let huge = {
        // An invocation whose payload is said to have four gigabytes.
        let mut frame = vec![0x10, 0, 0, 4];
        frame.extend(u32::MAX.to_be_bytes());
        frame.extend([0; 4]);
        frame
    };
    let before = home.told("node/metrics", json!({})).await["memory_bytes"].clone();
    let mut codes = Vec::new();
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], &huge, &[0; 8]] {
        codes.push(stream_end(&connection, bytes).await);
    }
    assert!(codes.iter().all(Option::is_some), "{codes:?}");
    assert!(
        codes.contains(&Some(u64::from(stream_code::TOO_LARGE))),
        "{codes:?}"
    );
    // Each stream is judged for itself: the connection still serves calls.
    is_served(&client).await;
    assert_eq!(close_code(&connection), None);
    for _ in 0..8 {
        let Ok((mut send, _recv)) = connection.open_bi().await else {
            break;
        };
        let _ = send.write_all(&[0xff; 64]).await;
    }
    soon(connection.closed()).await;
    let code = u64::from(connection_code::PROTOCOL_ERRORS);
    assert_eq!(close_code(&connection), Some(code));
    is_served(&client).await;
    let after = home.told("node/metrics", json!({})).await["memory_bytes"].clone();
    let grown = after
        .as_u64()
        .unwrap()
        .saturating_sub(before.as_u64().unwrap());
    assert!(grown < 64 * 1024 * 1024, "{grown} bytes more");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_streams_that_never_speak_are_cut_and_delay_nobody() {
    let home = home_with(&Offers::default()).await;
    let client = bystander(&home).await;
    let tablet = Stranger::known_to(&home, "tablet", &["test:*"]).await;
    let connection = by_hand(&tablet, &home).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        let (mut send, recv) = connection.open_bi().await.unwrap();
        // A stream exists for the other side with its first byte.
        send.write_all(&[0x10]).await.unwrap();
        silent.push((send, recv));
    }
    // No `Hello` at all.
    let mute = tablet.connect(&home, ALPN).await.unwrap();
    is_served(&client).await;
    for (_send, mut recv) in silent {
        let ended = soon(recv.read_chunk(1)).await;
        let Err(ReadError::Reset(code)) = ended else {
            panic!("a silent stream was not reset: {ended:?}");
        };
        assert_eq!(code.into_inner(), u64::from(stream_code::TOO_SLOW));
    }
    soon(mute.closed()).await;
    assert_eq!(
        close_code(&mute),
        Some(u64::from(connection_code::NO_HELLO))
    );
    // Slowness is no malice: the connection stays.
    assert_eq!(close_code(&connection), None);
    is_served(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_subscriptions_and_channels_leave_room_for_calls() {
    let offers = Offers::default();
    let home = home_with(&offers).await;
    let tablet = Stranger::known_to(&home, "tablet", &["test:*"]).await;
    let client = tablet.client(&home).await;
    let (mut stalled, mut stuck) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let endless = client.subscribe::<_, usize>("test/numbers", &usize::MAX);
        stalled.push(soon(endless).await.unwrap());
        let mut call = soon(client.open("test/mirror", &())).await.unwrap();
        stuck.push(tokio::spawn(async move {
            let block = bytes::Bytes::from(vec![1; 256 * 1024]);
            while call.channel.tx.send(block.clone()).await.is_ok() {}
            drop(call);
        }));
    }
    for _ in 0..50 {
        is_served(&client).await;
    }
    // They are only slow, not broken.
    for items in &mut stalled {
        for wanted in 1..=100_usize {
            assert_eq!(soon(items.next()).await.unwrap().unwrap(), wanted);
        }
    }
    drop(stalled);
    stuck.iter().for_each(|task| task.abort());
    eventually("everything has ended", async || {
        let metrics = home.told("node/metrics", json!({})).await;
        // The question itself is in flight.
        (metrics["calls_in_flight"] == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_one_key_takes_its_share_of_connections_and_no_more() {
    let home = home_with(&Offers::default()).await;
    let client = bystander(&home).await;
    let tablet = Stranger::known_to(&home, "tablet", &["test:*"]).await;
    let mut connections = Vec::new();
    for _ in 0..200 {
        connections.push(tablet.connect(&home, ALPN).await);
        if connections.len() % 50 == 0 {
            is_served(&client).await;
        }
    }
    // The reason may be lost on the way, the end is not.
    let ended = |connection: &Result<iroh::endpoint::Connection, String>| match connection {
        Ok(connection) => connection.close_reason().is_some(),
        Err(_) => true,
    };
    let told = |connection: &Result<iroh::endpoint::Connection, String>| {
        connection.as_ref().is_ok_and(|c| close_code(c) == LIMIT)
    };
    eventually("those beyond the limit are refused", async || {
        let refused = connections.iter().filter(|connection| ended(connection));
        (refused.count() == 200 - 64).then_some(())
    })
    .await;
    assert!(connections.iter().any(told));
    let metrics = home.told("node/metrics", json!({})).await;
    assert_eq!(metrics["connections"], 64 + 1);
    assert_eq!(metrics["connections_refused"], 200 - 64);
    // Another peer comes in as before, and the first one once it lets go.
    let late = Known::to(&home, "late", &["test:*"]).await;
    is_served(&late).await;
    for connection in connections.into_iter().flatten() {
        connection.close(0_u32.into(), b"done");
    }
    eventually("its connections are gone", async || {
        let metrics = home.told("node/metrics", json!({})).await;
        (metrics["connections"] == 2).then_some(())
    })
    .await;
    is_served(&tablet.client(&home).await).await;
    is_served(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_calls_than_allowed_are_refused_at_once() {
    let offers = Offers::default();
    let operations = offers.operations();
    let home = start_with("home", |home| {
        let mut config = alknet_node::Config::default();
        config.limits.calls_per_peer_max = 5;
        config.limits.subscriptions_per_peer_max = 2;
        config.name = Some("home".into());
        home.operations(operations).config(config)
    })
    .await;
    let tablet = Stranger::known_to(&home, "tablet", &["test:*"]).await;
    let client = tablet.client(&home).await;
    let mut calls = Vec::new();
    for _ in 0..5 {
        let client = client.clone();
        calls.push(tokio::spawn(async move {
            client.call_json("test/hold", &Value::Null).await
        }));
    }
    soon(offers.held.until(5)).await;
    let error = promptly(client.call_json("test/echo", &json!(1))).await;
    let error = error.unwrap_err();
    assert!(error.is(ErrorCode::RateLimited), "{error:?}");
    assert!(error.retryable && error.retry_after.is_some());
    let phone = Stranger::known_to(&home, "phone", &["test:*"]).await;
    is_served(&phone.client(&home).await).await;
    calls.iter().for_each(|call| call.abort());
    soon(offers.held.until(0)).await;
    let held = async || {
        let items = client.subscribe::<_, u32>("test/hold-items", &());
        soon(items).await
    };
    eventually("the calls are over", async || {
        client.call_json("test/echo", &json!(1)).await.ok()
    })
    .await;
    let _two = (held().await.unwrap(), held().await.unwrap());
    assert!(held().await.unwrap_err().is(ErrorCode::RateLimited));
}

/// First packets of so many handshakes with `home`, caught on their way.
async fn first_packets(home: &TestNode, handshakes: usize) -> Vec<Vec<u8>> {
    let trap = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let stranger = Stranger::new().await;
    let dialling: Vec<_> = (0..handshakes)
        .map(|_| {
            let connecting = stranger.dial(home, trap.local_addr().unwrap());
            tokio::spawn(connecting)
        })
        .collect();
    let mut caught = Vec::new();
    let mut buffer = [0; 2048];
    while caught.len() < handshakes {
        let bytes = soon(trap.recv(&mut buffer)).await.unwrap();
        // A long header of version 1, type Initial (RFC 9000, section 17.2.2).
        let is_initial = buffer[0] & 0xf0 == 0xc0 && buffer[1..5] == [0, 0, 0, 1];
        if is_initial && bytes >= 1200 {
            caught.push(buffer[..bytes].to_vec());
        }
    }
    dialling.iter().for_each(|dialling| dialling.abort());
    caught
}

/// The whole of 127.0.0.0/8 is this machine: each address is somebody else.
#[tokio::test(flavor = "multi_thread")]
async fn slow_ten_thousand_first_packets_from_everywhere_keep_no_known_peer_out() {
    let home = home_with(&Offers::default()).await;
    let client = bystander(&home).await;
    let packets = first_packets(&home, 500).await;
    let before = home.told("node/metrics", json!({})).await["memory_bytes"].clone();
    let address = home.address();
    let flood = tokio::spawn(async move {
        for n in 0..10_000_u32 {
            let from = std::net::Ipv4Addr::from(0x7f01_0000 + n % 2_000);
            let socket = tokio::net::UdpSocket::bind((from, 0)).await.unwrap();
            let packet = &packets[n as usize % packets.len()];
            socket.send_to(packet, address).await.unwrap();
            if n % 100 == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    });
    let tablet = Stranger::known_to(&home, "tablet", &["test:*"]).await;
    let mut slowest = Duration::ZERO;
    while !flood.is_finished() {
        let began = Instant::now();
        let late = tablet.client(&home).await;
        is_served(&late).await;
        slowest = slowest.max(began.elapsed());
        is_served(&client).await;
        late.session().unwrap().close(0, "done");
        // It keeps to the rate of one address, as peers do.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    flood.await.unwrap();
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    let after = home.told("node/metrics", json!({})).await;
    let grown = after["memory_bytes"].as_u64().unwrap();
    let grown = grown.saturating_sub(before.as_u64().unwrap());
    assert!(grown < 64 * 1024 * 1024, "{grown} bytes more");
}
