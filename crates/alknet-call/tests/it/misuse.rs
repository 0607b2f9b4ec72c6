//! What a peer may send that is not the protocol: one stream pays for it, and
//! in the end the connection.

use crate::support::{Node, request, say_hello, serve_raw, serve_raw_as, settle};
use alknet_call::{CallKind, Credit, Frame, Invoke, Session, connection_code, stream_code};
use alknet_core::{
    CallError, Caller, ChannelOpening, ErrorCode, Operation,
    transport::{BiStream, Connection},
};
use alknet_testkit::transport::{MemoryConnection, connection_pair};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Value, json};
use std::{future::pending, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

fn invoke(operation: &str, kind: CallKind, input: &Value) -> Bytes {
    let header = Invoke {
        call_id: [1; 16],
        operation: operation.into(),
        kind,
        budget_ms: None,
        route: vec![],
        via: vec![],
        originator: None,
        idempotency_key: None,
        can_answer: false,
        wants_progress: false,
        trace: None,
    };
    Frame::Invoke(Box::new(header), input.to_string().into()).to_bytes()
}

async fn send(connection: &MemoryConnection, bytes: &[u8]) -> BiStream {
    let mut stream = connection.open_bi().await.unwrap();
    // The other side may stop it while we write.
    let _ = stream.send.write_all(bytes).await;
    stream
}

/// Sends bytes on a new stream; answers with the code with which it is stopped.
async fn punished(connection: &MemoryConnection, bytes: &[u8], finish: bool) -> Option<u32> {
    let mut stream = send(connection, bytes).await;
    if finish {
        stream.send.finish();
    }
    match stream.send.stopped().await {
        Some(code) => Some(code),
        // It was read to its end: that it was refused shows in the other half.
        None => {
            let error = stream.recv.read(&mut [0]).await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            None
        }
    }
}

async fn echoes(connection: &MemoryConnection) -> Vec<u8> {
    let mut stream = send(
        connection,
        &invoke("demo/echo", CallKind::Unary, &json!("hi")),
    )
    .await;
    stream.send.finish();
    let mut back = Vec::new();
    stream.recv.read_to_end(&mut back).await.unwrap();
    back
}

#[tokio::test]
async fn each_breach_has_its_code_and_others_go_on() {
    let node = Node::new(vec![]);
    let good = invoke("demo/echo", CallKind::Unary, &json!("hi"));
    let mut header_garbled = good.to_vec();
    header_garbled[8 + 16] = 0xff;
    let mut flagged = good.to_vec();
    flagged[1] = 1;
    let mut unknown = good.to_vec();
    unknown[0] = 0x7f;
    let too_large = {
        let mut bytes = good.to_vec();
        bytes[4..8].copy_from_slice(&(16 * 1024 * 1024 + 1_u32).to_be_bytes());
        bytes
    };
    let bomb = {
        let mut bytes = good.to_vec();
        bytes[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
        bytes
    };
    let cases: [(&str, &[u8], bool, Option<u32>); 8] = [
        (
            "unknown type",
            &unknown,
            false,
            Some(stream_code::MALFORMED),
        ),
        ("flags", &flagged, false, Some(stream_code::MALFORMED)),
        (
            "header",
            &header_garbled,
            false,
            Some(stream_code::MALFORMED),
        ),
        ("truncated", &good[..20], true, None),
        ("empty", &[0x10], true, None),
        ("too large", &too_large, false, Some(stream_code::TOO_LARGE)),
        ("4 GiB", &bomb, false, Some(stream_code::TOO_LARGE)),
        (
            "no call",
            &Frame::Done("1".into()).to_bytes(),
            false,
            Some(stream_code::UNEXPECTED),
        ),
    ];
    for (name, bytes, finish, code) in cases {
        let (connection, _served) = serve_raw(&node).await;
        assert_eq!(punished(&connection, bytes, finish).await, code, "{name}");
        assert_eq!(
            echoes(&connection).await,
            Frame::Done("\"hi\"".into()).to_bytes(),
            "{name}"
        );
    }
}

#[tokio::test]
async fn eight_breaches_close_the_connection() {
    let node = Node::new(vec![]);
    let (connection, served) = serve_raw(&node).await;
    for n in 1..=8 {
        assert!(!served.is_closed(), "after {n}");
        punished(&connection, b"\x7fnonsense", false).await;
    }
    assert_eq!(
        connection.closed().await.code,
        Some(connection_code::PROTOCOL_ERRORS)
    );
}

#[tokio::test]
async fn strangers_may_send_little() {
    let node = Node::new(vec![]);
    let (connection, _served) = serve_raw_as(&node, Caller::anonymous()).await;
    let fits = invoke(
        "demo/public",
        CallKind::Unary,
        &json!("x".repeat(64 * 1024 - 2)),
    );
    let mut stream = send(&connection, &fits).await;
    stream.send.finish();
    let mut back = Vec::new();
    stream.recv.read_to_end(&mut back).await.unwrap();
    assert_eq!(back[0], 0x2e);
    let over = invoke(
        "demo/public",
        CallKind::Unary,
        &json!("x".repeat(64 * 1024 - 1)),
    );
    assert_eq!(
        punished(&connection, &over, false).await,
        Some(stream_code::TOO_LARGE)
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_never_speaks_is_cut_after_ten_seconds() {
    let node = Node::new(vec![]);
    let (connection, _served) = serve_raw(&node).await;
    let begun = Instant::now();
    let code = punished(&connection, &[0x10], false).await;
    assert_eq!(code, Some(stream_code::TOO_SLOW));
    assert_eq!(begun.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_caller_of_one_byte_a_second_is_cut_and_others_are_not() {
    let node = Node::new(vec![]);
    let (connection, _served) = serve_raw(&node).await;
    let bytes = invoke("demo/echo", CallKind::Unary, &json!("x".repeat(100 * 1024)));
    let mut stream = connection.open_bi().await.unwrap();
    let begun = Instant::now();
    let mut sent = 0;
    for byte in &bytes[..] {
        if stream.send.write_all(&[*byte]).await.is_err() {
            break;
        }
        sent += 1;
        assert_eq!(echoes(&connection).await[0], 0x2e);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // Its header was through in ten seconds' time or it was not: after that
    // the rate counts.
    assert!(sent < 30 && begun.elapsed().as_secs() < 30, "{sent}");
    assert_eq!(stream.send.stopped().await, Some(stream_code::TOO_SLOW));
}

#[tokio::test(start_paused = true)]
async fn a_large_input_may_take_its_time() {
    let node = Node::new(vec![]);
    let (connection, _served) = serve_raw(&node).await;
    let bytes = invoke("demo/echo", CallKind::Unary, &json!("x".repeat(640 * 1024)));
    let mut stream = connection.open_bi().await.unwrap();
    // 20 KiB a second for 32 seconds.
    for piece in bytes.chunks(20 * 1024) {
        stream.send.write_all(piece).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    stream.send.finish();
    let mut back = Vec::new();
    stream.recv.read_to_end(&mut back).await.unwrap();
    assert_eq!(back[0], 0x2e);
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_nobody_reads_is_given_up() {
    let node = Node::new(vec![]);
    let (connection, _served) = serve_raw(&node).await;
    let large = invoke("demo/text", CallKind::Unary, &json!(4 * 1024 * 1024));
    let mut stream = send(&connection, &large).await;
    tokio::time::sleep(Duration::from_secs(31)).await;
    let mut back = Vec::new();
    let error = stream.recv.read_to_end(&mut back).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

/// 64 MiB of them wait, and nothing more is done; what is read makes room.
#[tokio::test]
async fn replies_that_nobody_reads_do_not_pile_up() {
    let node = Node::new(vec![]);
    let (connection, _served) = serve_raw(&node).await;
    let bytes = 4 * 1024 * 1024;
    let large = invoke("demo/text", CallKind::Unary, &json!(bytes));
    let mut streams = Vec::new();
    for _ in 0..24 {
        let mut stream = send(&connection, &large).await;
        stream.send.finish();
        // Until it was done, or refused.
        settle().await;
        streams.push(stream);
    }
    // All together: those that are not read would hold up the others.
    let answers = futures::future::join_all(streams.into_iter().map(|mut stream| async move {
        let mut answer = Vec::new();
        stream.recv.read_to_end(&mut answer).await.unwrap();
        answer
    }));
    let (done, refused): (Vec<_>, Vec<_>) = answers
        .await
        .into_iter()
        .partition(|answer| answer[0] == 0x2e);
    assert!(done.iter().all(|answer| answer.len() > bytes));
    for answer in &refused {
        let said = String::from_utf8_lossy(answer);
        assert!(said.contains("RATE_LIMITED"), "{said}");
    }
    assert_eq!((done.len(), refused.len()), (16, 8));
    settle().await;
    assert_eq!(echoes(&connection).await[0], 0x2e);
}

#[tokio::test]
async fn extensions_that_must_be_understood_are_refused_and_others_ignored() {
    let node = Node::new(vec![]);
    let (connection, _served) = serve_raw(&node).await;
    for (id, code) in [(3_u8, None), (4, Some(stream_code::UNSUPPORTED))] {
        let mut bytes = invoke("demo/echo", CallKind::Unary, &json!("hi")).to_vec();
        let header_len = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        // The last byte of the header is the number of added fields.
        let last = 8 + header_len - 1;
        assert_eq!(bytes[last], 0);
        bytes.splice(last..=last, [1, id, 2, 0xaa, 0xbb]);
        bytes[2..4].copy_from_slice(&u16::try_from(header_len + 4).unwrap().to_be_bytes());
        let mut stream = send(&connection, &bytes).await;
        if let Some(code) = code {
            assert_eq!(stream.send.stopped().await, Some(code));
        } else {
            stream.send.finish();
            let mut back = Vec::new();
            stream.recv.read_to_end(&mut back).await.unwrap();
            assert_eq!(back, Frame::Done("\"hi\"".into()).to_bytes());
        }
    }
}

#[tokio::test]
async fn a_channel_overdrawn_is_reset_and_its_handler_cancelled() {
    let alive = crate::support::Alive::default();
    let counted = alive.clone();
    let node = Node::new(vec![
        Operation::channel("demo/deaf", "Reads nothing.").channel::<Value, Value, _, _, _>(
            move |_cx, _input: Value, opening: ChannelOpening| {
                let guard = counted.guard();
                async move {
                    let _guard = guard;
                    let _channel = opening.accept(&json!(null))?;
                    pending::<Result<(), CallError>>().await
                }
            },
        ),
        Operation::subscription("demo/endless", "Never ends.").stream(
            |_cx, _input: Value| async move {
                Ok(futures::stream::repeat_with(|| Ok(json!("x".repeat(1000)))).boxed())
            },
        ),
    ]);
    let (connection, _served) = serve_raw(&node).await;
    let chunk = |bytes: usize| {
        Frame::Chunk {
            aux: false,
            bytes: vec![0; bytes].into(),
        }
        .to_bytes()
    };
    let cases: Vec<(&str, &str, CallKind, Vec<Bytes>, u32)> = vec![
        (
            "bytes",
            "demo/deaf",
            CallKind::Channel,
            vec![chunk(256 * 1024); 5],
            stream_code::OVERDRAWN,
        ),
        (
            "chunk",
            "demo/deaf",
            CallKind::Channel,
            vec![chunk(256 * 1024 + 1)],
            stream_code::TOO_LARGE,
        ),
        (
            "no bytes",
            "demo/deaf",
            CallKind::Channel,
            vec![chunk(0)],
            stream_code::MALFORMED,
        ),
        (
            "after the end",
            "demo/deaf",
            CallKind::Channel,
            vec![Frame::End { cut: false }.to_bytes(), chunk(1)],
            stream_code::UNEXPECTED,
        ),
        (
            "credit for bytes never sent",
            "demo/deaf",
            CallKind::Channel,
            vec![
                Frame::Credit(Credit {
                    bytes: 1,
                    ..Credit::default()
                })
                .to_bytes(),
            ],
            stream_code::OVERDRAWN,
        ),
        (
            "controls",
            "demo/deaf",
            CallKind::Channel,
            vec![Frame::Control("1".into()).to_bytes(); 130],
            stream_code::OVERDRAWN,
        ),
        (
            "answer to nothing",
            "demo/endless",
            CallKind::Subscription,
            vec![
                Frame::Answer {
                    ask: 0,
                    answer: None,
                }
                .to_bytes(),
            ],
            stream_code::UNEXPECTED,
        ),
        (
            "credit for items never sent",
            "demo/endless",
            CallKind::Subscription,
            vec![
                Frame::Credit(Credit {
                    items: u32::MAX,
                    ..Credit::default()
                })
                .to_bytes(),
            ],
            stream_code::OVERDRAWN,
        ),
    ];
    // Seven are suffered on one connection, so a new one for each.
    drop(connection);
    for (name, operation, kind, frames, code) in cases {
        let (connection, _served) = serve_raw(&node).await;
        let mut stream = send(&connection, &invoke(operation, kind, &json!(1))).await;
        // Nothing but answers may be sent before the callee has accepted.
        assert_eq!(stream.recv.read_u8().await.unwrap(), 0x20);
        for frame in frames {
            let _ = stream.send.write_all(&frame).await;
        }
        assert_eq!(stream.send.stopped().await, Some(code), "{name}");
        alive.until(0).await;
    }
    settle().await;
    assert_eq!(node.door.in_flight(), 0);
}

/// A callee spoken by hand: answers every call with these bytes.
async fn answered(
    bytes: Vec<u8>,
    how: fn(&mut BiStream),
) -> (Arc<Session>, tokio::task::JoinHandle<()>) {
    let (ours, theirs) = connection_pair(Default::default());
    let callee = tokio::spawn(async move {
        let _hello = theirs.accept_uni().await.unwrap();
        say_hello(&*theirs).await;
        let mut streams = Vec::new();
        while let Ok(mut stream) = theirs.accept_bi().await {
            let _ = stream.send.write_all(&bytes).await;
            how(&mut stream);
            streams.push(stream);
        }
    });
    let session = Session::start(ours, None, Caller::anonymous(), Default::default());
    (session.await.unwrap(), callee)
}

#[tokio::test]
async fn a_stream_that_is_reset_fails_its_call_at_once() {
    for (name, how) in [
        (
            "reset",
            (|stream| stream.send.reset(9)) as fn(&mut BiStream),
        ),
        ("finished without outcome", |stream| stream.send.finish()),
    ] {
        let (session, _callee) = answered(vec![], how).await;
        let error = session
            .call(request("demo/echo", &json!(1)))
            .await
            .unwrap_err();
        assert!(error.is(ErrorCode::Lost), "{name}: {error}");
        let error = session
            .subscribe(request("demo/echo", &json!(1)))
            .await
            .unwrap_err();
        assert!(error.is(ErrorCode::Lost), "{name}: {error}");
        assert!(!session.is_closed());
        // After it had begun.
        let (session, _callee) =
            answered(Frame::Accepted(Bytes::new()).to_bytes().into(), how).await;
        let items = session.subscribe(request("demo/echo", &json!(1))).await;
        // A reset may overtake what was sent before it.
        if let Ok(mut items) = items {
            let error = items.next().await.unwrap().unwrap_err();
            assert!(error.is(ErrorCode::Lost), "{name}: {error}");
            assert!(items.next().await.is_none());
        }
    }
}

#[tokio::test]
async fn a_callee_that_breaks_the_protocol_is_told_and_suffered_eight_times() {
    let item = Frame::Item(vec![b'1'; 1000].into()).to_bytes();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("garbage", b"garbage".to_vec()),
        ("an item of a unary call", item.to_vec()),
        (
            "progress nobody asked for",
            Frame::Progress("1".into()).to_bytes().into(),
        ),
        ("an error without a code", {
            let mut bytes = Frame::Error(CallError::new(ErrorCode::Gone, "x"))
                .to_bytes()
                .to_vec();
            bytes[10..14].copy_from_slice(b"gone");
            bytes
        }),
        ("4 GiB", vec![0x2e, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0]),
    ];
    for (name, bytes) in cases {
        let (session, _callee) = answered(bytes, |_| {}).await;
        for n in 0..8 {
            assert!(!session.is_closed(), "{name} {n}");
            let error = session
                .call(request("demo/echo", &json!(1)))
                .await
                .unwrap_err();
            assert!(error.is(ErrorCode::Internal), "{name}: {error}");
        }
        assert_eq!(
            session.closed().await.code,
            Some(connection_code::PROTOCOL_ERRORS)
        );
    }
}

#[tokio::test]
async fn items_beyond_their_credit_end_a_subscription() {
    let mut bytes = Frame::Accepted(Bytes::new()).to_bytes().to_vec();
    for _ in 0..300 {
        bytes.extend(Frame::Item(vec![b'1'; 1000].into()).to_bytes());
    }
    let (session, _callee) = answered(bytes, |_| {}).await;
    let mut items = session
        .subscribe(request("demo/echo", &json!(1)))
        .await
        .unwrap();
    settle().await;
    let mut count = 0;
    let last = loop {
        match items.next().await.unwrap() {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
    };
    assert!(last.is(ErrorCode::Internal), "{last}");
    assert_eq!(count, 256 * 1024 / 1064);
}

#[tokio::test]
async fn text_of_an_error_is_made_safe_to_print() {
    let error = CallError::new(ErrorCode::Gone, "\x1b[31mred\x07");
    let (session, _callee) = answered(Frame::Error(error).to_bytes().into(), |_| {}).await;
    let error = session
        .call(request("demo/echo", &json!(1)))
        .await
        .unwrap_err();
    assert_eq!(error.message, "[31mred");
}
