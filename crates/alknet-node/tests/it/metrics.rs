//! Counters that come back to where they were.

use crate::support::{Known, Offers, eventually, soon, start_with};
use alknet_core::CallError;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn slow_ten_thousand_cancelled_calls_leave_nothing_behind() {
    const AT_ONCE: usize = 200;
    let offers = Offers::default();
    let operations = offers.operations();
    let home = start_with("home", |home| home.operations(operations)).await;
    let tablet = Known::to(&home, "tablet", &["test:*"]).await;
    let memory = async || {
        let metrics = home.told("node/metrics", json!({})).await;
        metrics["memory_bytes"].as_u64().unwrap()
    };
    let round = async || {
        let calls: Vec<tokio::task::JoinHandle<Result<Value, CallError>>> = (0..AT_ONCE)
            .map(|_| {
                let client = (*tablet).clone();
                tokio::spawn(async move { client.call_json("test/hold", &Value::Null).await })
            })
            .collect();
        soon(offers.held.until(AT_ONCE)).await;
        calls.iter().for_each(|call| call.abort());
        soon(offers.held.until(0)).await;
        eventually("the calls are counted out", async || {
            let metrics = home.told("node/metrics", json!({})).await;
            // The question itself is in flight.
            (metrics["calls_in_flight"] == 1).then_some(())
        })
        .await;
    };
    for _ in 0..5 {
        round().await;
    }
    let before = memory().await;
    for _ in 5..10_000 / AT_ONCE {
        round().await;
    }
    let grown = memory().await.saturating_sub(before);
    assert!(grown < 48 * 1024 * 1024, "{grown} bytes more");
    let echoed = tablet.call_json("test/echo", &json!("fine")).await;
    assert_eq!(echoed.unwrap(), "fine");
    let metrics = home.told("node/metrics", json!({})).await;
    assert_eq!(metrics["handler_panics"], 0);
    assert_eq!(metrics["connections"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn links_and_connections_are_counted() {
    let pair = crate::support::Pair::new(&[], &[]).await;
    let metrics = pair.home.told("node/metrics", json!({})).await;
    assert_eq!(metrics["peers_connected"], 1);
    assert!(metrics["connections"].as_u64().unwrap() >= 1);
    assert!(metrics["memory_bytes"].as_u64().unwrap() > 1024 * 1024);
    pair.laptop
        .told("peers/remove", json!({ "peer": "home" }))
        .await;
    eventually("the link is gone", async || {
        let metrics = pair.home.told("node/metrics", json!({})).await;
        (metrics["peers_connected"] == 0 && metrics["connections"] == 0).then_some(())
    })
    .await;
}
