//! The same over QUIC on loopback: what memory cannot show.

use crate::support::{Node, request};
use alknet_call::{
    ALPN, Session, SessionConfig,
    quic::{QuicConnection, QuicLimits},
};
use alknet_core::{CallError, Caller, ChannelOpening, ErrorCode, Operation, PIPE_WINDOW_BYTES};
use futures::StreamExt;
use iroh::{
    Endpoint, EndpointAddr, RelayMode, SecretKey, TransportAddr,
    endpoint::{PortmapperConfig, presets},
};
use serde_json::{Value, json};
use std::{net::Ipv4Addr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};

async fn endpoint(seed: u8) -> Endpoint {
    endpoint_with(seed, &QuicLimits::default()).await
}

async fn endpoint_with(seed: u8, limits: &QuicLimits) -> Endpoint {
    Endpoint::builder(presets::Minimal)
        .relay_mode(RelayMode::Disabled)
        .portmapper_config(PortmapperConfig::Disabled)
        .clear_ip_transports()
        .bind_addr((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .secret_key(SecretKey::from_bytes(&[seed; 32]))
        .transport_config(limits.transport_config())
        .alpns(vec![ALPN.to_vec()])
        .bind()
        .await
        .unwrap()
}

struct Connected {
    session: Arc<Session>,
    served: Arc<Session>,
    endpoints: [Endpoint; 2],
}

async fn connect(node: &Node) -> Connected {
    let (ours, theirs) = tokio::join!(endpoint(1), endpoint(2));
    let sockets = theirs.bound_sockets().into_iter().map(TransportAddr::Ip);
    let address = EndpointAddr::from_parts(theirs.id(), sockets);
    let accept = async {
        let incoming = theirs.accept().await.unwrap();
        let connection = Arc::new(QuicConnection::new(incoming.await.unwrap()));
        let door = Some(node.door.clone());
        Session::start(connection, door, node.alice(), SessionConfig::default()).await
    };
    let dial = async {
        let connection = ours.connect(address, ALPN).await.unwrap();
        let connection = Arc::new(QuicConnection::new(connection));
        Session::start(
            connection,
            None,
            Caller::anonymous(),
            SessionConfig::default(),
        )
        .await
    };
    let (session, served) = tokio::join!(dial, accept);
    Connected {
        session: session.unwrap(),
        served: served.unwrap(),
        endpoints: [ours, theirs],
    }
}

impl Connected {
    async fn close(self) {
        self.session.close(0, "done");
        for endpoint in self.endpoints {
            endpoint.close().await;
        }
    }
}

async fn echoes(session: &Session) -> bool {
    let answer = session.call(request("demo/echo", &json!("hi"))).await;
    answer.and_then(alknet_core::Output::into_value) == Ok(json!("hi"))
}

#[tokio::test]
async fn calls_are_answered_cancelled_and_lost() {
    let node = Node::new(vec![]);
    let it = connect(&node).await;
    assert!(echoes(&it.session).await);
    let large = json!("x".repeat(1_000_000));
    let answer = it.session.call(request("demo/echo", &large)).await.unwrap();
    assert_eq!(answer.into_value(), Ok(large));

    for _ in 0..20 {
        let session = it.session.clone();
        let call =
            tokio::spawn(async move { session.call(request("demo/sleep", &json!(null))).await });
        node.sleeping.until(1).await;
        let start = Instant::now();
        call.abort();
        node.sleeping.until(0).await;
        // A hundred milliseconds are promised; a busy machine may take longer.
        assert!(start.elapsed() < Duration::from_secs(1));
    }

    let session = it.session.clone();
    let call = tokio::spawn(async move { session.call(request("demo/sleep", &json!(null))).await });
    node.sleeping.until(1).await;
    it.served.close(7, "enough");
    let error = call.await.unwrap().unwrap_err();
    assert!(error.is(ErrorCode::Lost), "{error}");
    node.sleeping.until(0).await;
    let closed = it.session.closed().await;
    assert_eq!((closed.code, closed.reason.as_str()), (Some(7), "enough"));
    it.close().await;
}

#[tokio::test]
async fn ten_thousand_calls_need_no_more_streams_than_are_open_at_once() {
    let node = Node::new(vec![]);
    let it = connect(&node).await;
    let calls = (0..10_000).map(|n| {
        let session = it.session.clone();
        async move {
            session
                .call(request("demo/echo", &json!(n)))
                .await
                .unwrap()
                .into_value()
        }
    });
    let answers: Vec<_> = futures::stream::iter(calls).buffered(64).collect().await;
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer, Ok(json!(n)));
    }
    it.close().await;
}

#[tokio::test]
async fn bulk_and_stalled_streams_leave_room_for_calls() {
    let node = Node::new(vec![
        Operation::channel("demo/cat", "Sends back what it gets.")
            .channel::<Value, Value, _, _, _>(
                |_cx, _input: Value, opening: ChannelOpening| async move {
                    let mut channel = opening.accept(&json!(null))?;
                    let copied = tokio::io::copy(&mut channel.rx, &mut channel.tx).await;
                    channel.tx.end();
                    copied.map_err(|_| CallError::new(ErrorCode::Gone, "cut"))
                },
            ),
        Operation::subscription("demo/endless", "Never ends.").stream(
            |_cx, _input: Value| async move {
                Ok(futures::stream::repeat_with(|| Ok(json!("x".repeat(1000)))).boxed())
            },
        ),
    ]);
    let it = connect(&node).await;
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let items = it
            .session
            .subscribe(request("demo/endless", &json!(1)))
            .await
            .unwrap();
        let call = it
            .session
            .open(request("demo/cat", &json!(1)))
            .await
            .unwrap();
        let mut tx = call.channel.tx;
        let writer =
            tokio::spawn(async move { tx.send(vec![0; 8 * PIPE_WINDOW_BYTES].into()).await });
        stalled.push((items, writer, call.channel.rx, call.done));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(
        timeout(Duration::from_secs(10), echoes(&it.session))
            .await
            .unwrap()
    );

    let call = it
        .session
        .open(request("demo/cat", &json!(1)))
        .await
        .unwrap();
    let data: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let (mut tx, mut rx) = (call.channel.tx, call.channel.rx);
    let sent = data.clone();
    let writer = tokio::spawn(async move {
        tx.write_all(&sent).await.unwrap();
        tx.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    rx.read_to_end(&mut back).await.unwrap();
    writer.await.unwrap();
    assert!(back == data);
    assert_eq!(call.done.await.unwrap().into_value(), Ok(json!(5_000_000)));
    assert!(stalled.iter().all(|(_, writer, ..)| !writer.is_finished()));
    stalled.iter().for_each(|(_, writer, ..)| writer.abort());
    drop(stalled);
    assert!(echoes(&it.session).await);
    it.close().await;
}

/// How a call in flight fares on a connection that is closed when `silent`
/// long nothing arrives, with keep-alives this often: `None` if it is still in
/// flight after ten times that.
async fn call_across_silence(silent: Duration, keep_alive: Duration) -> Option<ErrorCode> {
    let limits = QuicLimits {
        keep_alive,
        ..QuicLimits::default()
    };
    let node = Node::new(vec![]);
    let (ours, theirs) = tokio::join!(endpoint_with(1, &limits), endpoint_with(2, &limits));
    let sockets = theirs.bound_sockets().into_iter().map(TransportAddr::Ip);
    let address = EndpointAddr::from_parts(theirs.id(), sockets);
    let accept = async {
        let incoming = theirs.accept().await.unwrap();
        let connection = Arc::new(QuicConnection::new(incoming.await.unwrap()));
        let door = Some(node.door.clone());
        Session::start(connection, door, node.alice(), SessionConfig::default()).await
    };
    let dial = async {
        let connection = QuicConnection::new(ours.connect(address, ALPN).await.unwrap());
        let watch = tokio::spawn(connection.end_when_silent(silent));
        let caller = Caller::anonymous();
        let config = SessionConfig::default();
        let session = Session::start(Arc::new(connection), None, caller, config).await;
        (session, watch)
    };
    let ((session, watch), served) = tokio::join!(dial, accept);
    let (session, served) = (session.unwrap(), served.unwrap());
    let call = session.call(request("demo/sleep", &json!(null)));
    let ended = timeout(silent * 10, call).await;
    session.close(0, "done");
    // It never outlives its connection.
    timeout(Duration::from_secs(10), watch)
        .await
        .unwrap()
        .unwrap();
    drop(served);
    for endpoint in [ours, theirs] {
        endpoint.close().await;
    }
    ended.ok().map(|answer| {
        let error = answer.unwrap_err();
        error.protocol_code().unwrap()
    })
}

/// The transport is kept alive more rarely than the silence lasts that counts.
#[tokio::test]
async fn a_call_over_a_silent_connection_is_lost() {
    let ended = call_across_silence(Duration::from_secs(1), Duration::from_secs(5)).await;
    assert_eq!(ended, Some(ErrorCode::Lost));
}

#[tokio::test]
async fn a_connection_that_is_kept_alive_is_not_silent() {
    let silent = Duration::from_millis(600);
    let ended = call_across_silence(silent, Duration::from_millis(50)).await;
    assert_eq!(ended, None);
}
