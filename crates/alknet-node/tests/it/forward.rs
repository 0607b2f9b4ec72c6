//! Calls that pass through the own node to a peer: everything arrives, in
//! order, and both sides can be told afterwards.

use crate::support::{Known, Offers, Pair, Stranger, ask, eventually, promptly, soon};
use alknet_core::{
    ChannelCall, Chunk, ErrorCode, Interaction, InteractionEvent, Operation, PeerId, RouteStep,
};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Value, json};
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// `home` offers the test's operations, and the laptop may call them.
async fn pair() -> (Pair, Offers) {
    let offers = Offers::default();
    let operations = offers.operations();
    let pair = Pair::with(&["test:*"], &[], |home| home.operations(operations), |l| l).await;
    (pair, offers)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_and_its_errors_arrive_whole() {
    let (pair, _offers) = pair().await;
    let there = pair.at_home();
    let value = json!({ "deep": [1, 2.5, null, "ü\u{0}", { "x": true }] });
    let echoed = there.call_json("test/echo", &value).await.unwrap();
    assert_eq!(echoed, value);
    let details = json!({ "cartridge": "cyan", "left": 0 });
    let error = there.call_json("test/fail", &details).await.unwrap_err();
    assert_eq!(error.code, "OUT_OF_INK");
    assert_eq!(error.message, "the ink is gone");
    assert_eq!(*error.details.unwrap(), details);
    let error = there.call_json("test/panic", &json!("x")).await;
    assert!(error.unwrap_err().is(ErrorCode::InvalidInput));
    let error = there.call_json("test/hold-items", &Value::Null).await;
    assert!(error.unwrap_err().is(ErrorCode::InvalidOperationType));
    let error = there.call_json("test/nothing", &json!({})).await;
    let error = error.unwrap_err();
    assert!(error.is(ErrorCode::NotFound), "{error:?}");
    // A panic there is an error here, and a caller's fault it is not.
    let error = there.call_json("test/panic", &json!(1)).await;
    assert!(error.unwrap_err().is(ErrorCode::Internal));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_exist_is_not_found_and_one_that_does_is_suggested() {
    let (pair, _offers) = pair().await;
    let error = ask(pair.laptop.peer("hoem"), "test/echo", json!(1));
    let error = error.await.unwrap_err();
    assert!(error.is(ErrorCode::NotFound), "{error:?}");
    assert!(error.message.contains("`hoem`"), "{error:?}");
    assert_eq!(error.details.unwrap()["suggestions"], json!(["home"]));
    let nobody = ask(pair.laptop.peer("Not A Name"), "test/echo", json!(1));
    assert!(nobody.await.unwrap_err().is(ErrorCode::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_a_slow_reader_gets_a_hundred_thousand_items_in_order_and_holds_the_producer() {
    const ITEMS: usize = 100_000;
    let (pair, offers) = pair().await;
    let mut items = pair
        .at_home()
        .subscribe::<_, usize>("test/numbers", &ITEMS)
        .await
        .unwrap();
    let mut ahead_most = 0;
    for wanted in 1..=ITEMS {
        if wanted % 10_000 == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let ahead = offers.made.load(Ordering::SeqCst) - wanted;
            ahead_most = ahead_most.max(ahead);
        }
        let item = soon(items.next()).await.unwrap().unwrap();
        assert_eq!(item, wanted);
    }
    assert!(soon(items.next()).await.is_none());
    // 256 KiB of credit at 64 bytes and more an item, on each of two hops.
    assert!(ahead_most < 10_000, "{ahead_most} items ahead");
}

/// Sends `bytes` of both streams and control messages, and hashes what comes
/// back.
async fn through_the_mirror(call: ChannelCall, bytes: usize) -> Value {
    let (mut tx, mut rx) = (call.channel.tx, call.channel.rx);
    let (control_tx, mut control_rx) = (call.channel.control_tx, call.channel.control_rx);
    let block: Bytes = (0..64 * 1024_u32)
        .map(|n| ((n * n) >> 7) as u8)
        .collect::<Vec<u8>>()
        .into();
    let sending = async {
        let mut sent = [blake3::Hasher::new(), blake3::Hasher::new()];
        for n in 0..bytes / block.len() {
            let mut piece = block.to_vec();
            piece[..8].copy_from_slice(&(n as u64).to_be_bytes());
            let aux = n % 5 == 4;
            sent[usize::from(aux)].update(&piece);
            let bytes = piece.into();
            tx.send_chunk(Chunk { aux, bytes }).await.unwrap();
            if n % 64 == 0 {
                control_tx.send(json!({ "n": n })).await.unwrap();
            }
        }
        // The mirror ends with the bytes: all messages are back by then.
        let mut back = 0;
        while back < (bytes / block.len()).div_ceil(64) {
            let control = control_rx.recv().await.unwrap();
            assert_eq!(control, json!({ "back": { "n": back * 64 } }));
            back += 1;
        }
        tx.end();
        sent.map(|hash| hash.finalize())
    };
    let receiving = async {
        let mut received = [blake3::Hasher::new(), blake3::Hasher::new()];
        while let Some(chunk) = rx.recv().await.unwrap() {
            received[usize::from(chunk.aux)].update(&chunk.bytes);
        }
        received.map(|hash| hash.finalize())
    };
    let (sent, received) = tokio::join!(sending, receiving);
    assert_eq!(sent, received);
    soon(call.done).await.unwrap().into_value().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_a_channel_carries_64_mib_both_ways_with_both_streams_and_control_messages() {
    const BYTES: usize = 64 * 1024 * 1024;
    let (pair, _offers) = pair().await;
    let call = pair.at_home().open("test/mirror", &()).await.unwrap();
    assert_eq!(call.reply.clone().into_value().unwrap()["open"], true);
    let carried = through_the_mirror(call, BYTES);
    let result = tokio::time::timeout(Duration::from_secs(90), carried).await;
    let result = result.unwrap();
    let sum = result["main"].as_u64().unwrap() + result["aux"].as_u64().unwrap();
    assert_eq!(sum, BYTES as u64);
    assert_eq!(result["controls"], 16);
    // Bulk has a connection of its own; the calls' one was not delayed by it.
    let seen = pair.home.told("node/metrics", json!({})).await;
    assert!(seen["connections"].as_u64().unwrap() >= 2, "{seen}");
    let row = &pair.home.audit(json!({ "operation": "test/mirror" })).await[0];
    assert!(row["bytes_in"].as_u64().unwrap() >= BYTES as u64, "{row}");
    assert!(row["bytes_out"].as_u64().unwrap() >= BYTES as u64, "{row}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_nobody_reads_keeps_its_control_messages_moving() {
    let (pair, _offers) = pair().await;
    let mut call = pair.at_home().open("test/mirror", &()).await.unwrap();
    let mut tx = call.channel.tx;
    // More than all windows on the way take: the sender is stuck.
    let stuck = tokio::spawn(async move {
        let block = Bytes::from(vec![7; 256 * 1024]);
        while tx.send(block.clone()).await.is_ok() {}
    });
    let control = &call.channel.control_tx;
    control.send(json!("still here?")).await.unwrap();
    let back = soon(call.channel.control_rx.recv()).await.unwrap();
    assert_eq!(back, json!({ "back": "still here?" }));
    let echoed = ask(pair.at_home(), "test/echo", json!(1));
    assert_eq!(soon(echoed).await.unwrap(), 1);
    stuck.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direction_that_is_cut_is_cut_at_once_and_the_other_goes_on() {
    let (pair, _offers) = pair().await;
    let call = pair.at_home().open("test/cut", &()).await.unwrap();
    let (mut tx, mut rx) = (call.channel.tx, call.channel.rx);
    let word = soon(rx.recv()).await.unwrap().unwrap();
    assert_eq!(word.bytes, "word");
    assert!(soon(rx.recv()).await.is_err(), "an end that was none");
    tx.send("on and on".into()).await.unwrap();
    tx.end();
    let heard = soon(call.done).await.unwrap().into_value().unwrap();
    assert_eq!(heard, json!({ "said": true, "heard": 9 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_far_handler_hears_that_nobody_reads_any_more() {
    let (pair, _offers) = pair().await;
    let call = pair.at_home().open("test/pour", &()).await.unwrap();
    let mut rx = call.channel.rx;
    soon(rx.recv()).await.unwrap().unwrap();
    drop(rx);
    let ended = soon(call.done).await.unwrap().into_value().unwrap();
    assert_eq!(ended, "nobody reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_and_questions_cross_both_nodes() {
    let (pair, _offers) = pair().await;
    let (events, mut heard) = mpsc::channel(8);
    let there = pair.at_home().interaction(Interaction::to(events, true));
    let call = tokio::spawn(async move { there.call_json("test/ask", &Value::Null).await });
    let mut told = Vec::new();
    while let Some(event) = soon(heard.recv()).await {
        match event {
            InteractionEvent::Progress(step) => told.push(step),
            InteractionEvent::Ask { question, answer } => {
                told.push(question);
                answer.send(json!("because")).unwrap();
            }
        }
    }
    assert_eq!(
        told,
        [
            json!({ "step": 1 }),
            json!({ "question": "why?" }),
            json!({ "step": 2 })
        ]
    );
    assert_eq!(soon(call).await.unwrap().unwrap(), "because");
    // Who cannot answer is told so, and does not hang.
    let error = ask(pair.at_home(), "test/ask", Value::Null);
    assert!(soon(error).await.unwrap_err().is(ErrorCode::Conflict));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_call_ends_its_far_handler_at_once() {
    let (pair, offers) = pair().await;
    let mut quickest = Duration::MAX;
    for _ in 0..5 {
        let there = pair.at_home();
        let call = tokio::spawn(async move { there.call_json("test/hold", &Value::Null).await });
        soon(offers.held.until(1)).await;
        let began = Instant::now();
        call.abort();
        soon(offers.held.until(0)).await;
        quickest = quickest.min(began.elapsed());
    }
    assert!(quickest < Duration::from_millis(100), "{quickest:?}");
    let rows = pair
        .home
        .audit(json!({ "operation": "test/hold", "caller": "laptop" }));
    assert_eq!(rows.await[0]["outcome"], "CANCELLED");
    for (operation, kind) in [("test/hold-items", false), ("test/hold-channel", true)] {
        if kind {
            let call = pair.at_home().open(operation, &()).await.unwrap();
            soon(offers.held.until(1)).await;
            drop(call);
        } else {
            let items = pair.at_home().subscribe::<_, u32>(operation, &()).await;
            soon(offers.held.until(1)).await;
            drop(items);
        }
        promptly(offers.held.until(0)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_goes_along_and_is_enforced_there() {
    let (pair, offers) = pair().await;
    let there = pair.at_home().timeout(Duration::from_secs(5));
    let who = there.call_json("test/who", &Value::Null).await.unwrap();
    let left = who["remaining_ms"].as_u64().unwrap();
    assert!((1..=5000).contains(&left), "{left}");
    let there = pair.at_home().timeout(Duration::from_millis(300));
    let error = soon(there.call_json("test/hold", &Value::Null)).await;
    assert!(error.unwrap_err().is(ErrorCode::Timeout));
    promptly(offers.held.until(0)).await;
    let rows = pair.home.audit(json!({ "operation": "test/hold" })).await;
    let outcome = rows[0]["outcome"].as_str().unwrap();
    // Home runs out of time, or hears that the laptop did; nobody goes on.
    assert!(["TIMEOUT", "CANCELLED"].contains(&outcome), "{outcome}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_far_audit_names_the_node_and_who_is_behind_it() {
    let (pair, _offers) = pair().await;
    let local = alknet_node::control::connect(pair.laptop.dir.path()).await;
    let local = local.unwrap();
    let route = vec![RouteStep::Peer(PeerId::parse("home").unwrap())];
    let who = ask(local.client.on(route), "test/who", Value::Null);
    let who = soon(who).await.unwrap();
    assert_eq!(who["caller"], "laptop");
    // What the laptop starts itself needs no note: it is the laptop's call.
    assert_eq!(who["originator"], Value::Null);
    let there = &pair.home.audit(json!({ "operation": "test/who" })).await[0];
    assert_eq!(there["caller"], "laptop");
    assert!(
        there.get("originator").is_none_or(Value::is_null),
        "{there}"
    );
    assert_eq!(there["surface"], "call");
    assert_eq!(there["outcome"], "ok");
    let here = &pair.laptop.audit(json!({ "operation": "test/who" })).await[0];
    assert_eq!(here["caller"], "owner");
    assert_eq!(here["route"], "home");
    local.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_goes_along() {
    let (pair, offers) = pair().await;
    let keyed = pair.at_home().idempotency_key("order-7");
    for _ in 0..3 {
        let count = keyed.call_json("test/once", &Value::Null).await;
        assert_eq!(count.unwrap(), 1);
    }
    assert_eq!(offers.done.load(Ordering::SeqCst), 1);
    let count = pair.at_home().call_json("test/once", &Value::Null).await;
    assert_eq!(count.unwrap(), 2);
    let who = keyed.call_json("test/who", &Value::Null).await.unwrap();
    assert_eq!(who["key"], "order-7");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_reaches_another_only_with_a_grant_for_it() {
    let hub = crate::support::start("hub").await;
    let tablet = Stranger::known_to(&hub, "tablet", &[]).await;
    let who = Operation::query("tablet/who", "Says who is behind a call.")
        .public()
        .handler(|cx, _: Value| async move { Ok(cx.originator().map(ToString::to_string)) });
    let other = Operation::query("tablet/other", "Is not granted.")
        .public()
        .handler(|_cx, _: Value| async move { Ok(1) });
    let _session = tablet.offer(&hub, vec![who, other]).await;
    hub.connected("tablet", crate::support::SOON).await.unwrap();
    let known = Known::to(&hub, "phone", &["peer:tablet=tablet/who"]).await;
    let phone = known.on(vec![RouteStep::Peer(PeerId::parse("tablet").unwrap())]);
    let said = soon(phone.call_json("tablet/who", &json!({}))).await;
    assert_eq!(said.unwrap(), "hub/phone");
    let error = phone.call_json("tablet/other", &json!({})).await;
    let error = error.unwrap_err();
    assert!(error.is(ErrorCode::Forbidden), "{error:?}");
    assert_eq!(error.details.unwrap()["grant"], "peer:tablet=tablet/other");
    // Whoever may not use a peer learns nothing of whether it exists.
    for peer in ["owner", "nobody"] {
        let route = vec![RouteStep::Peer(PeerId::parse(peer).unwrap())];
        let error = phone.on(route).call_json("tablet/who", &json!({})).await;
        let error = error.unwrap_err();
        assert!(error.is(ErrorCode::Forbidden), "{error:?}");
    }
    hub.told(
        "peers/revoke",
        json!({ "peer": "phone", "targets": ["peer:tablet=tablet/who"] }),
    )
    .await;
    eventually("the grant is gone", async || {
        let error = phone.call_json("tablet/who", &json!({})).await;
        error.unwrap_err().is(ErrorCode::Forbidden).then_some(())
    })
    .await;
}
