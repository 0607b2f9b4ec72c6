//! Channels: bytes and control messages, ends and cuts, results.

use crate::support::{Alive, Node, Pair, connect, connect_with, request, settle};
use alknet_core::{
    CallError, ChannelCall, ChannelOpening, Chunk, ErrorCode, Operation, PIPE_WINDOW_BYTES,
    PipeClosed, Registration,
};
use alknet_testkit::transport::PairOptions;
use bytes::Bytes;
use serde_json::{Value, json};
use std::{future::pending, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

fn operations(alive: &Alive) -> Vec<Registration> {
    let alive = alive.clone();
    vec![
        Operation::channel("demo/cat", "Sends back what it gets, to the end.")
            .channel::<Value, Value, _, _, _>(
                |_cx, input: Value, opening: ChannelOpening| async move {
                    let mut channel = opening.accept(&json!({ "opened": input }))?;
                    let mut count = 0;
                    while let Ok(Some(chunk)) = channel.rx.recv().await {
                        count += chunk.bytes.len();
                        if channel.tx.send_chunk(chunk).await.is_err() {
                            break;
                        }
                    }
                    channel.tx.end();
                    Ok(json!({ "bytes": count }))
                },
            ),
        Operation::channel("demo/controls", "Sends control messages back, twice.")
            .channel::<Value, Value, _, _, _>(
                |_cx, _input: Value, opening: ChannelOpening| async move {
                    let mut channel = opening.accept(&json!(null))?;
                    let mut count = 0;
                    while let Some(control) = channel.control_rx.recv().await {
                        count += 1;
                        if control == json!("stop") {
                            break;
                        }
                        for _ in 0..2 {
                            drop(channel.control_tx.send(control.clone()).await);
                        }
                    }
                    Ok(count)
                },
            ),
        Operation::channel("demo/odd", "Does what it is told.").channel::<String, Value, _, _, _>(
            move |_cx, what: String, opening: ChannelOpening| {
                let guard = alive.guard();
                async move {
                    let _guard = guard;
                    if what == "refuse" {
                        return Err(CallError::new(ErrorCode::Gone, "not today"));
                    }
                    let mut channel = opening.accept(&json!("yes"))?;
                    match what.as_str() {
                        "cut" => {
                            channel.tx.send(Bytes::from_static(b"half")).await.ok();
                            drop(channel.tx);
                            // The cut is told while the handler runs.
                            let _ = channel.rx.recv().await;
                            Ok(json!("cut"))
                        }
                        "leave" => {
                            drop(channel.rx);
                            channel.tx.end();
                            channel.control_rx.recv().await;
                            Ok(json!("left"))
                        }
                        "fail" => {
                            channel.tx.send(Bytes::from_static(b"some")).await.ok();
                            channel.tx.end();
                            Err(CallError::new(ErrorCode::Gone, "spoilt"))
                        }
                        "deaf" => pending().await,
                        "how" => Ok(match channel.rx.recv().await {
                            Ok(None) => json!("ended"),
                            Ok(Some(_)) => json!("bytes"),
                            Err(PipeClosed) => json!("cut"),
                        }),
                        _ => panic!("as asked"),
                    }
                }
            },
        ),
    ]
}

struct Channels {
    pair: Pair,
    alive: Alive,
    node: Node,
}

async fn channels() -> Channels {
    let alive = Alive::default();
    let node = Node::new(operations(&alive));
    let pair = connect(&node).await;
    Channels { pair, alive, node }
}

async fn open(pair: &Pair, operation: &str, input: Value) -> ChannelCall {
    pair.session.open(request(operation, &input)).await.unwrap()
}

async fn result(call: ChannelCall) -> Value {
    call.done.await.unwrap().into_value().unwrap()
}

#[tokio::test]
async fn megabytes_go_round_and_the_result_counts_them() {
    let it = channels().await;
    let ChannelCall {
        reply,
        channel,
        done,
        ..
    } = open(&it.pair, "demo/cat", json!({ "as": "asked" })).await;
    assert_eq!(
        reply.into_value(),
        Ok(json!({ "opened": { "as": "asked" } }))
    );
    let data: Vec<u8> = (0..20_000_000_u32).map(|n| (n % 251) as u8).collect();
    let (mut tx, mut rx) = (channel.tx, channel.rx);
    let sent = data.clone();
    let writer = tokio::spawn(async move {
        tx.write_all(&sent).await.unwrap();
        tx.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    rx.read_to_end(&mut back).await.unwrap();
    writer.await.unwrap();
    assert!(back == data);
    let done = done.await.unwrap().into_value();
    assert_eq!(done, Ok(json!({ "bytes": 20_000_000 })));
}

#[tokio::test]
async fn the_auxiliary_stream_keeps_its_place_among_the_bytes() {
    let it = channels().await;
    let mut call = open(&it.pair, "demo/cat", json!(1)).await;
    let chunks = [
        Chunk::main(Bytes::from_static(b"out")),
        Chunk::aux(Bytes::from_static(b"err")),
        Chunk::main(Bytes::from_static(b"more")),
    ];
    for chunk in &chunks {
        call.channel.tx.send_chunk(chunk.clone()).await.unwrap();
        assert_eq!(call.channel.rx.recv().await.unwrap().as_ref(), Some(chunk));
    }
    call.channel.tx.end();
    assert_eq!(call.channel.rx.recv().await, Ok(None));
    assert_eq!(result(call).await, json!({ "bytes": 10 }));
}

#[tokio::test]
async fn control_messages_pass_beside_bytes_that_nobody_reads() {
    let it = channels().await;
    let mut call = open(&it.pair, "demo/controls", json!(1)).await;
    // More than the other side will ever take: it reads no bytes at all.
    let mut tx = call.channel.tx;
    let writer = tokio::spawn(async move { tx.send(vec![0; 10 * PIPE_WINDOW_BYTES].into()).await });
    settle().await;
    for n in 0..500 {
        call.channel.control_tx.send(json!(n)).await.unwrap();
        for _ in 0..2 {
            assert_eq!(call.channel.control_rx.recv().await, Some(json!(n)));
        }
    }
    assert!(!writer.is_finished());
    call.channel.control_tx.send(json!("stop")).await.unwrap();
    let done = call.done.await.unwrap().into_value();
    assert_eq!(done, Ok(json!(501)));
    assert_eq!(
        writer.await.unwrap(),
        Err(PipeClosed),
        "nobody will read it"
    );
}

#[tokio::test]
async fn control_messages_that_nobody_takes_hold_back_control_messages_alone() {
    let it = channels().await;
    let mut call = open(&it.pair, "demo/cat", json!(1)).await;
    let mut sent = 0;
    while call.channel.control_tx.try_send(json!(sent)).is_ok() {
        sent += 1;
        settle().await;
        assert!(sent < 1000, "nobody takes them");
    }
    assert!(sent >= 64);
    call.channel
        .tx
        .send(Bytes::from_static(b"bytes pass"))
        .await
        .unwrap();
    let back = call.channel.rx.recv().await.unwrap().unwrap();
    assert_eq!(back.bytes, "bytes pass");
    call.channel.tx.end();
    assert_eq!(result(call).await, json!({ "bytes": 10 }));
}

#[tokio::test]
async fn a_writer_runs_ahead_by_the_windows_and_no_further() {
    let it = channels().await;
    let call = open(&it.pair, "demo/odd", json!("deaf")).await;
    let mut tx = call.channel.tx;
    let counter = tx.counter();
    let writer = tokio::spawn(async move { tx.send(vec![0; 100 << 20].into()).await });
    for _ in 0..20 {
        settle().await;
    }
    assert!(!writer.is_finished());
    // Our pipe, what is being written, their pipe.
    let ahead = counter.bytes() as usize;
    assert!(
        (2 * PIPE_WINDOW_BYTES..4 * PIPE_WINDOW_BYTES).contains(&ahead),
        "{ahead}"
    );
    // The connection itself holds nothing back.
    assert_eq!(it.pair.their_connection.bytes_unread(), 0);
    writer.abort();
}

#[tokio::test]
async fn a_cut_is_not_an_end_in_either_direction() {
    let it = channels().await;
    let mut call = open(&it.pair, "demo/odd", json!("cut")).await;
    assert_eq!(call.channel.rx.recv().await.unwrap().unwrap().bytes, "half");
    assert_eq!(call.channel.rx.recv().await, Err(PipeClosed));
    call.channel.tx.end();
    assert_eq!(result(call).await, json!("cut"));

    let call = open(&it.pair, "demo/odd", json!("how")).await;
    drop(call.channel.tx);
    assert_eq!(call.done.await.unwrap().into_value(), Ok(json!("cut")));
    let mut call = open(&it.pair, "demo/odd", json!("how")).await;
    call.channel.tx.end();
    assert_eq!(result(call).await, json!("ended"));
}

#[tokio::test]
async fn a_reader_that_leaves_is_noticed_by_the_writer() {
    let it = channels().await;
    let mut call = open(&it.pair, "demo/odd", json!("leave")).await;
    assert_eq!(call.channel.rx.recv().await, Ok(None));
    let sent = call
        .channel
        .tx
        .send(vec![0; 10 * PIPE_WINDOW_BYTES].into())
        .await;
    assert_eq!(sent, Err(PipeClosed));
    call.channel.control_tx.send(json!("go")).await.unwrap();
    assert_eq!(result(call).await, json!("left"));
}

#[tokio::test]
async fn a_channel_is_refused_before_it_opens_and_fails_after_its_bytes() {
    let it = channels().await;
    let refused = it
        .pair
        .session
        .open(request("demo/odd", &json!("refuse")))
        .await;
    assert!(refused.unwrap_err().is(ErrorCode::Gone));
    let mut call = open(&it.pair, "demo/odd", json!("fail")).await;
    assert_eq!(call.channel.rx.recv().await.unwrap().unwrap().bytes, "some");
    assert_eq!(call.channel.rx.recv().await, Ok(None));
    assert!(call.done.await.unwrap_err().is(ErrorCode::Gone));
    let call = open(&it.pair, "demo/odd", json!("panic")).await;
    assert!(call.done.await.unwrap_err().is(ErrorCode::Internal));
}

#[tokio::test(start_paused = true)]
async fn dropping_a_channel_cancels_its_handler_and_a_cut_connection_loses_it() {
    let it = channels().await;
    let call = open(&it.pair, "demo/odd", json!("deaf")).await;
    assert_eq!(it.alive.count(), 1);
    let start = Instant::now();
    drop(call);
    it.alive.until(0).await;
    assert!(start.elapsed() < Duration::from_millis(100));

    let mut call = open(&it.pair, "demo/odd", json!("deaf")).await;
    it.pair.connection.cut();
    assert_eq!(call.channel.rx.recv().await, Err(PipeClosed));
    assert!(call.done.await.unwrap_err().is(ErrorCode::Lost));
    it.alive.until(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_channel_ends_with_its_right_and_with_its_budget() {
    let it = channels().await;
    let mut asked = request("demo/odd", &json!("deaf"));
    asked.budget = Some(Duration::from_millis(300));
    let start = Instant::now();
    let call = it.pair.session.open(asked).await.unwrap();
    assert!(call.done.await.unwrap_err().is(ErrorCode::Timeout));
    assert!(
        start.elapsed() < Duration::from_millis(400),
        "the callee said so"
    );

    let call = open(&it.pair, "demo/odd", json!("deaf")).await;
    it.node.identities.remove(&crate::support::alice());
    assert!(call.done.await.unwrap_err().is(ErrorCode::Unauthenticated));
    it.alive.until(0).await;
}

#[tokio::test]
async fn stalled_channels_hinder_no_call() {
    let alive = Alive::default();
    let node = Node::new(operations(&alive));
    let options = PairOptions {
        connection_window: 2 * 1024 * 1024,
        ..PairOptions::default()
    };
    let pair = connect_with(&node, node.alice(), options, Default::default()).await;
    let mut stalled = Vec::new();
    for _ in 0..20 {
        // It sends back what we do not read, and we send what it does not read.
        for (operation, input) in [("demo/cat", json!(1)), ("demo/odd", json!("deaf"))] {
            let call = open(&pair, operation, input).await;
            let mut tx = call.channel.tx;
            let writer =
                tokio::spawn(async move { tx.send(vec![0; 8 * PIPE_WINDOW_BYTES].into()).await });
            stalled.push((writer, call.channel.rx, call.done));
        }
    }
    for _ in 0..50 {
        settle().await;
    }
    assert!(stalled.iter().all(|(writer, ..)| !writer.is_finished()));
    let answer = pair
        .session
        .call(request("demo/echo", &json!("alive")))
        .await;
    assert_eq!(answer.unwrap().into_value(), Ok(json!("alive")));
    stalled.iter().for_each(|(writer, ..)| writer.abort());
}
