//! From start to stop and back: what is kept, what is told, what is waited
//! for.

use crate::support::{
    DRAIN, Known, Offers, Pair, Stranger, ask, eventually, promptly, soon, start, start_with,
};
use alknet_core::ErrorCode;
use alknet_node::control;
use futures::StreamExt;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_peers_grants_invites_and_the_log() {
    let mut pair = Pair::new(&["reader", "node:read"], &["peers:list"]).await;
    pair.home
        .told("invites/create", json!({ "name": "tablet" }))
        .await;
    ask(pair.at_home(), "node/info", json!({})).await.unwrap();
    let before = pair.home.peer_shown("laptop").await;
    let invites = pair.home.told("invites/list", json!({})).await;
    let row = pair
        .home
        .audit(json!({ "operation": "node/info", "caller": "laptop" }))
        .await;
    pair.home.stop().await;
    pair.home.start_again().await;
    pair.linked().await;
    let after = pair.home.peer_shown("laptop").await;
    for field in ["node_id", "grants", "created_at", "addresses", "enabled"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert!(after["last_seen_at"].as_str() >= before["last_seen_at"].as_str());
    assert_eq!(pair.home.told("invites/list", json!({})).await, invites);
    let kept = json!({ "operation": "node/info", "caller": "laptop" });
    assert_eq!(pair.home.audit(kept).await[0], row[0]);
    ask(pair.at_home(), "node/info", json!({})).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_was_last_seen_when_it_went() {
    let mut pair = Pair::new(&[], &[]).await;
    let connected = eventually("it was seen to come", async || {
        let shown = pair.home.peer_shown("laptop").await;
        shown["last_seen_at"].as_str().map(str::to_owned)
    })
    .await;
    pair.laptop.stop().await;
    eventually("it was seen to go", async || {
        let shown = pair.home.peer_shown("laptop").await;
        (shown["last_seen_at"].as_str()? > connected.as_str()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_and_every_refusal_is_in_the_log_with_its_caller() {
    let offers = Offers::default();
    let operations = offers.operations();
    let home = start_with("home", |home| home.operations(operations)).await;
    let tablet = Known::to(&home, "tablet", &["test:echo", "test:fail", "test:hold"]).await;
    let calls = [
        ("test/echo", json!("canary-7"), "ok"),
        ("test/fail", json!("canary-7"), "OUT_OF_INK"),
        ("test/once", Value::Null, "FORBIDDEN"),
        ("test/nothing", json!({}), "NOT_FOUND"),
        ("node/info", json!({}), "FORBIDDEN"),
    ];
    for (operation, input, code) in &calls {
        let outcome = tablet.call_json(operation, input).await;
        let found = outcome.map_or_else(|error| error.code.into_owned(), |_| "ok".into());
        assert_eq!(found, *code, "{operation}");
    }
    let (client, waits) = ((*tablet).clone(), tokio::sync::oneshot::channel::<()>());
    let held = tokio::spawn(async move {
        let _ = waits;
        client.call_json("test/hold", &Value::Null).await
    });
    soon(offers.held.until(1)).await;
    held.abort();
    soon(offers.held.until(0)).await;
    let rows = eventually("all rows are written", async || {
        let rows = home.audit(json!({ "caller": "tablet" })).await;
        (rows.len() == calls.len() + 1).then_some(rows)
    })
    .await;
    assert_eq!(rows[0]["outcome"], "CANCELLED");
    for (row, (operation, _, code)) in rows[1..].iter().rev().zip(&calls) {
        assert_eq!(
            (&row["operation"], &row["outcome"]),
            (&json!(operation), &json!(code))
        );
        assert_eq!(row["surface"], "call");
    }
    let refused = home
        .audit(json!({ "caller": "tablet", "outcome": "refused" }))
        .await;
    assert_eq!(refused.len(), 5);
    let missing = &refused.iter().find(|row| row["operation"] == "test/once");
    assert!(missing.unwrap()["detail"].to_string().contains("test:once"));
    // What was sent is in no row.
    assert!(!json!(rows).to_string().contains("canary-7"));
    // A change has a row of its own, written with it, that names the call.
    let change = json!({ "operation": "peers/add" });
    let rows = eventually("both rows", async || {
        let rows = home.audit(change.clone()).await;
        (rows.len() == 2).then_some(rows)
    })
    .await;
    let parent = rows.iter().find_map(|row| row["parent_id"].as_str());
    let call = rows.iter().find(|row| row["parent_id"].is_null()).unwrap();
    assert_eq!(parent, call["call_id"].as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_crash_leaves_an_unclean_start() {
    let mut home = start("home").await;
    let unclean = json!({ "outcome": "unclean-start" });
    home.stop().await;
    home.start_again().await;
    let rows = home.told("audit/list", unclean.clone()).await;
    assert_eq!(rows["rows"], json!([]), "it was stopped cleanly");
    home.kill();
    home.start_again().await;
    let rows = home.audit(unclean.clone()).await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["operation"], "node/start");
    home.stop().await;
    home.start_again().await;
    assert_eq!(home.audit(unclean).await.len(), 1, "told once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_those_who_only_watch() {
    let mut pair = Pair::new(&["admin"], &["admin"]).await;
    let there = pair.at_home();
    let mut watches = Vec::new();
    for operation in ["services/watch", "peers/watch", "node/logs", "audit/watch"] {
        let items = there.subscribe::<_, Value>(operation, &json!({})).await;
        watches.push(items.unwrap());
    }
    // The drain may take much longer; nothing but watchers is there.
    let began = Instant::now();
    soon(pair.home.stop()).await;
    for mut items in watches {
        let last = async { while items.next().await.transpose().unwrap().is_some() {} };
        promptly(last).await;
    }
    soon(pair.laptop.stop()).await;
    assert!(began.elapsed() < DRAIN / 2, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_calls_finish_and_lets_nothing_new_in() {
    let (release, released) = tokio::sync::watch::channel(false);
    let offers = Offers::default();
    let held = offers.held.clone();
    let finish = alknet_core::Operation::query("test/finish", "Ends when it is let go.").handler(
        move |_cx, (): ()| {
            let (mut released, guard) = (released.clone(), held.guard());
            async move {
                let _guard = guard;
                released.wait_for(|released| *released).await.unwrap();
                Ok("done")
            }
        },
    );
    let mut home = start_with("home", |home| home.operation(finish)).await;
    let tablet = Stranger::known_to(&home, "tablet", &["test:*"]).await;
    let client = tablet.client(&home).await;
    let (held, running) = (client.clone(), offers.held.clone());
    let call = tokio::spawn(async move { held.call_json("test/finish", &Value::Null).await });
    soon(running.until(1)).await;
    let (address, id) = (home.address(), home.id());
    let dir = home.dir.path().to_owned();
    let stopping = tokio::spawn(async move {
        home.stop().await;
        home
    });
    let refused = eventually("new calls are refused", async || {
        client.call_json("services/list", &json!({})).await.err()
    })
    .await;
    assert!(refused.is(ErrorCode::Unavailable), "{refused:?}");
    assert!(refused.message.contains("shutting down"), "{refused:?}");
    assert_eq!(running.count(), 1, "what runs goes on");
    release.send(true).unwrap();
    assert_eq!(soon(call).await.unwrap().unwrap(), "done");
    let mut home = soon(stopping).await.unwrap();
    assert!(!dir.join("runtime.json").exists());
    let not_running = control::connect(&dir).await.unwrap_err();
    assert!(
        matches!(not_running, control::ConnectError::NotRunning(_)),
        "{not_running:?}"
    );
    assert_eq!(not_running.hint().unwrap(), "alknet up");
    home.start_again().await;
    assert_eq!((home.address(), home.id()), (address, id));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_finish_is_cancelled_when_the_drain_is_over() {
    let offers = Offers::default();
    let operations = offers.operations();
    let dir = tempfile::tempdir().unwrap();
    let builder = crate::support::builder(dir.path(), "home").operations(operations);
    let node = builder.spawn().await.unwrap();
    let client = node.client();
    let call = tokio::spawn(async move { client.call_json("test/hold", &Value::Null).await });
    soon(offers.held.until(1)).await;
    let began = Instant::now();
    soon(node.shutdown(Duration::from_millis(300))).await;
    assert!(began.elapsed() >= Duration::from_millis(300));
    call.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_stops_the_node_from_its_directory() {
    let home = start("home").await;
    assert!(control::is_running(home.dir.path()));
    let local = control::connect(home.dir.path()).await.unwrap();
    assert_eq!(local.runtime, control::runtime(home.dir.path()).unwrap());
    let reply = ask(
        local.client.clone(),
        "node/shutdown",
        json!({ "drain_ms": 1234 }),
    );
    assert_eq!(reply.await.unwrap(), json!({ "stopping": true }));
    let drain = promptly(home.stopping()).await;
    assert_eq!(drain, Duration::from_millis(1234));
    local.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_whether_a_node_runs_never_keeps_it_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let asked = dir.path().to_owned();
    let (enough, is_enough) = std::sync::mpsc::channel::<()>();
    let asking = std::thread::spawn(move || {
        let wait = Duration::from_millis(1);
        let mut asked_times = 0;
        while is_enough.recv_timeout(wait) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            asked_times += 1;
            // Either answer may be right at this moment.
            let _ = control::is_running(&asked);
        }
        asked_times
    });
    for _ in 0..3 {
        let node = crate::support::builder(dir.path(), "home").spawn().await;
        node.unwrap().shutdown(Duration::ZERO).await;
    }
    drop(enough);
    assert!(asking.join().unwrap() > 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_says_how_it_can_be_reached_and_how_not() {
    let home = start("home").await;
    let notes = home.status().notes.join("\n");
    for part in [
        "from this machine only",
        "no relay is used",
        "nothing is published",
    ] {
        assert!(notes.contains(part), "{part} in: {notes}");
    }
    assert!(home.status().relays.is_empty());
}
