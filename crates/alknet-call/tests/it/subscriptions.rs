//! Subscriptions: order, backpressure, and four ways to end.

use crate::support::{Alive, Node, Pair, connect, connect_with, request, settle};
use alknet_core::{CallError, ErrorCode, Operation, Output, Registration, Subscription};
use alknet_testkit::transport::PairOptions;
use futures::{FutureExt, StreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep};

#[derive(Deserialize, schemars::JsonSchema)]
struct Numbers {
    count: u64,
    bytes: usize,
    end: String,
}

/// Numbers with a text beside them; counts what it has made.
fn numbers(made: &Arc<AtomicU64>, alive: &Alive) -> Registration {
    let (made, alive) = (made.clone(), alive.clone());
    Operation::subscription("demo/numbers", "Counts.").stream(move |_cx, input: Numbers| {
        let (made, guard) = (made.clone(), alive.guard());
        async move {
            if input.end == "refused" {
                return Err(CallError::new(ErrorCode::Gone, "too late"));
            }
            let text = "x".repeat(input.bytes);
            let items = stream::iter(0..input.count).map(move |n| {
                made.fetch_add(1, Ordering::SeqCst);
                Ok(json!({ "n": n, "text": text }))
            });
            let items = match input.end.as_str() {
                "fails" => {
                    let error = CallError::new(ErrorCode::Gone, "spoilt");
                    items.chain(stream::iter([Err(error)])).boxed()
                }
                "waits" => items.chain(stream::pending()).boxed(),
                _ => items.boxed(),
            };
            Ok(items.inspect(move |_| {
                let _alive = &guard;
            }))
        }
    })
}

struct Counting {
    node: Node,
    made: Arc<AtomicU64>,
    alive: Alive,
}

fn counting() -> Counting {
    let (made, alive) = (Arc::default(), Alive::default());
    let node = Node::new(vec![numbers(&made, &alive)]);
    Counting { node, made, alive }
}

async fn subscribe(pair: &Pair, count: u64, bytes: usize, end: &str) -> Subscription {
    try_subscribe(pair, count, bytes, end).await.unwrap()
}

async fn try_subscribe(
    pair: &Pair,
    count: u64,
    bytes: usize,
    end: &str,
) -> Result<Subscription, CallError> {
    let input = json!({ "count": count, "bytes": bytes, "end": end });
    pair.session
        .subscribe(request("demo/numbers", &input))
        .await
}

fn number(item: Option<Result<Output, CallError>>) -> u64 {
    let item: Value = item.unwrap().unwrap().parse().unwrap();
    item["n"].as_u64().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_items_reach_a_slow_reader_in_order_and_in_bounded_memory() {
    let it = counting();
    let pair = connect(&it.node).await;
    let mut items = subscribe(&pair, 100_000, 10, "ends").await;
    let mut most_ahead = 0;
    for n in 0..100_000 {
        if n % 500 == 0 {
            sleep(Duration::from_millis(20)).await;
            settle().await;
        }
        most_ahead = most_ahead.max(it.made.load(Ordering::SeqCst) - n);
        // Neither the connection's window is used up, nor is memory.
        assert!(pair.connection.bytes_unread() <= 256 * 1024);
        assert_eq!(number(items.next().await), n);
    }
    assert!(items.next().await.is_none(), "completed");
    // An item costs 64 bytes and its text of about 30: the window of 256 KiB
    // holds fewer than 3,000 of them, and one waits for credit.
    assert!((1000..3000).contains(&most_ahead), "{most_ahead}");
}

#[tokio::test(start_paused = true)]
async fn completed_cancelled_failed_and_lost_are_told_apart() {
    let it = counting();
    let pair = connect(&it.node).await;

    let mut done = subscribe(&pair, 3, 0, "ends").await;
    for n in 0..3 {
        assert_eq!(number(done.next().await), n);
    }
    assert!(done.next().await.is_none());
    assert!(done.next().await.is_none(), "once and for all");

    let mut failed = subscribe(&pair, 1, 0, "fails").await;
    assert_eq!(number(failed.next().await), 0);
    assert!(
        failed
            .next()
            .await
            .unwrap()
            .unwrap_err()
            .is(ErrorCode::Gone)
    );
    assert!(failed.next().await.is_none());

    let refused = try_subscribe(&pair, 1, 0, "refused").await.unwrap_err();
    assert!(refused.is(ErrorCode::Gone), "before the first item");

    let mut cancelled = subscribe(&pair, 1, 0, "waits").await;
    assert_eq!(number(cancelled.next().await), 0);
    assert_eq!(it.alive.count(), 1);
    let start = Instant::now();
    drop(cancelled);
    it.alive.until(0).await;
    assert!(start.elapsed() < Duration::from_millis(100));

    let mut lost = subscribe(&pair, 1, 0, "waits").await;
    assert_eq!(number(lost.next().await), 0);
    pair.connection.cut();
    let error = lost.next().await.unwrap().unwrap_err();
    assert!(error.is(ErrorCode::Lost), "{error}");
    assert!(lost.next().await.is_none());
    it.alive.until(0).await;
}

#[tokio::test]
async fn items_larger_than_the_window_pass_one_at_a_time() {
    let it = counting();
    let pair = connect(&it.node).await;
    let mut items = subscribe(&pair, 20, 2 * 1024 * 1024, "ends").await;
    for n in 0..20 {
        settle().await;
        // One that was sent, one that the reader just took, one that waits.
        assert!(it.made.load(Ordering::SeqCst) <= n + 3);
        assert_eq!(number(items.next().await), n);
    }
    assert!(items.next().await.is_none());
}

#[tokio::test]
async fn stalled_subscriptions_hinder_no_call() {
    let it = counting();
    // A connection that would be full if the stalled ones could fill it.
    let options = PairOptions {
        connection_window: 2 * 1024 * 1024,
        ..PairOptions::default()
    };
    let pair = connect_with(&it.node, it.node.alice(), options, Default::default()).await;
    let mut stalled = Vec::new();
    for _ in 0..20 {
        stalled.push(subscribe(&pair, 1_000_000, 1000, "ends").await);
    }
    settle().await;
    let made = it.made.load(Ordering::SeqCst);
    assert!(made < 20 * 300, "{made} were made, and nobody has read one");
    let answer = pair
        .session
        .call(request("demo/echo", &json!("alive")))
        .await;
    assert_eq!(answer.unwrap().into_value(), Ok(json!("alive")));
    // None of them is lost, either.
    for items in &mut stalled {
        for n in 0..1000 {
            assert_eq!(number(items.next().await), n);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_rests_loses_its_subscription_with_its_right() {
    let it = counting();
    let pair = connect(&it.node).await;
    let mut items = subscribe(&pair, 1_000_000, 1000, "ends").await;
    settle().await;
    assert_eq!(it.alive.count(), 1, "the producer waits for credit");
    it.node.identities.remove(&crate::support::alice());
    it.alive.until(0).await;
    let mut n = 0;
    let last = loop {
        match items.next().await.unwrap() {
            Ok(_) => n += 1,
            Err(error) => break error,
        }
    };
    assert!(last.is(ErrorCode::Unauthenticated), "{last}");
    assert!(n < 300, "what was on its way, and no more");
}

#[tokio::test(start_paused = true)]
async fn a_budget_ends_a_subscription_whether_it_is_read_or_not() {
    let it = counting();
    let pair = connect(&it.node).await;
    for (count, bytes) in [(1, 0), (1_000_000, 1000)] {
        let input = json!({ "count": count, "bytes": bytes, "end": "waits" });
        let mut asked = request("demo/numbers", &input);
        asked.budget = Some(Duration::from_millis(500));
        let start = Instant::now();
        let mut items = pair.session.subscribe(asked).await.unwrap();
        it.alive.until(0).await;
        assert!(start.elapsed() < Duration::from_millis(600));
        while let Some(item) = items.next().await {
            match item {
                Ok(_) => {}
                Err(error) => assert!(error.is(ErrorCode::Timeout), "{error}"),
            }
        }
    }
}

#[tokio::test]
async fn a_subscription_keeps_its_connection_open() {
    let it = counting();
    let pair = connect(&it.node).await;
    let mut items = subscribe(&pair, 2, 0, "waits").await;
    drop(pair.session);
    assert_eq!(number(items.next().await), 0);
    assert_eq!(number(items.next().await), 1);
    assert!(items.next().now_or_never().is_none());
    assert!(!pair.served.is_closed());
    drop(items);
    settle().await;
    assert!(pair.served.is_closed());
}

#[tokio::test]
async fn a_subscription_that_never_had_an_item_ends_as_well() {
    let it = counting();
    let pair = connect(&it.node).await;
    let mut items = subscribe(&pair, 0, 0, "ends").await;
    assert!(items.next().await.is_none());
}
