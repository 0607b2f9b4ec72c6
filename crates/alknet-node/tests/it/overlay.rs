//! What a node holds of its peers: their operations, as they come and go.

use crate::support::{
    Known, Offers, Pair, SOON, Stranger, TestClock, TestNode, ask, builder, eventually, promptly,
    runs_commands, soon, start, start_configured, start_with,
};
use alknet_core::{ErrorCode, Operation, PeerId, Registration, RouteStep, parse_route};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// Names of what `node` holds of `peer`.
fn held(node: &TestNode, peer: &str) -> Vec<String> {
    let view = node.door().registry().view();
    let names = view.peer(peer).map(|entry| entry.spec().name.to_string());
    names.collect()
}

async fn until_held(node: &TestNode, peer: &str, operation: &str, wanted: bool) {
    let mut changes = node.door().registry().changes();
    while held(node, peer).iter().any(|name| name == operation) != wanted {
        changes.changed().await.unwrap();
    }
}

fn says(operation: &str, what: &'static str) -> Registration {
    Operation::query(operation, "Says who answers.")
        .public()
        .handler(move |_cx, _: Value| async move { Ok(what) })
}

const NOW: &str = r#"
[[operation]]
name = "ops/now"
summary = "Tells the time."
kind = "query"
command = ["date"]
output = "text"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_reloaded_operation_comes_to_the_peer_and_goes() {
    let home = start_configured("home", &runs_commands()).await;
    let pair = Pair::of(home, start("laptop").await, &["ops:*"], &[]).await;
    let config = pair.home.dir.path().join("alknet.toml");
    assert!(!held(&pair.laptop, "home").contains(&"ops/now".into()));
    std::fs::write(&config, runs_commands() + NOW).unwrap();
    let report = pair.home.reload().await.unwrap();
    assert_eq!(report.applied, ["operation"]);
    promptly(until_held(&pair.laptop, "home", "ops/now", true)).await;
    let said = pair.at_home().call_json("ops/now", &json!({})).await;
    assert!(said.unwrap().as_str().unwrap().contains(':'));
    std::fs::write(&config, runs_commands()).unwrap();
    pair.home.reload().await.unwrap();
    promptly(until_held(&pair.laptop, "home", "ops/now", false)).await;
    let error = pair.at_home().call_json("ops/now", &json!({})).await;
    assert!(error.unwrap_err().is(ErrorCode::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_was_stopped_comes_back_by_itself_where_it_was() {
    let mut pair = Pair::new(&["node:read"], &[]).await;
    let (id, address) = (pair.home.id(), pair.home.address());
    pair.home.stop().await;
    let gone = until_held(&pair.laptop, "home", "node/info", false);
    promptly(gone).await;
    let error = pair.at_home().call_json("node/info", &json!({})).await;
    let error = error.unwrap_err();
    assert!(error.is(ErrorCode::Unavailable), "{error:?}");
    assert_eq!(error.message, "peer `home` is not connected");
    assert!(error.retryable);
    let seen = pair.laptop.peer_shown("home").await;
    assert_eq!(seen["connected"], false);
    pair.home.start_again().await;
    assert_eq!((pair.home.id(), pair.home.address()), (id, address));
    pair.linked().await;
    let info = pair.at_home().call_json("node/info", &json!({})).await;
    assert_eq!(info.unwrap()["name"], "home");
    let seen = pair.laptop.peer_shown("home").await;
    assert_eq!(
        (&seen["connected"], &seen["link"]["path"]),
        (&json!(true), &json!("direct"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_node_ends_and_lets_go_of_everything() {
    let offers = Offers::default();
    let kept = Arc::downgrade(&offers.done);
    let operations = offers.operations();
    let mut pair = Pair::with(&["test:*"], &[], |home| home.operations(operations), |l| l).await;
    let held_call = pair.at_home();
    let call = tokio::spawn(async move { held_call.call_json("test/hold", &Value::Null).await });
    soon(offers.held.until(1)).await;
    let running = offers.held.clone();
    drop(offers);
    pair.home.kill();
    let error = promptly(call).await.unwrap().unwrap_err();
    assert!(error.is(ErrorCode::Lost), "{error:?}");
    promptly(running.until(0)).await;
    eventually("the operations are freed", async || {
        kept.upgrade().is_none().then_some(())
    })
    .await;
    pair.home.start_again().await;
    pair.linked().await;
}

/// The machine of `home` loses its power: no word to anybody, and the old
/// connection ends at `laptop` only after a long silence.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_was_killed_comes_back_by_itself_with_what_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let own = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let spawned = own.spawn(builder(dir.path(), "home").spawn());
    let home = spawned.await.unwrap().unwrap();
    let (id, address) = (home.id(), home.status().addresses);
    let laptop = start("laptop").await;
    let ticket = home.invite(&["demo:*", "node:read"]).await.unwrap();
    laptop.join(&ticket, &[]).await.unwrap();
    laptop.connected("home", SOON).await.unwrap();
    // Home knows where the laptop is, so it can come back by itself.
    home.connected("laptop", SOON).await.unwrap();
    let killed = tokio::task::spawn_blocking(move || own.shutdown_timeout(SOON));
    killed.await.unwrap();
    drop(home);

    let home = builder(dir.path(), "home")
        .demo(true)
        .spawn()
        .await
        .unwrap();
    assert_eq!((home.id(), home.status().addresses), (id, address));
    soon(until_held(&laptop, "home", "demo/greet", true)).await;
    let greeted = ask(laptop.peer("home"), "demo/greet", json!({ "name": "Ada" }));
    assert_eq!(promptly(greeted).await.unwrap(), "Hello, Ada!");
    home.shutdown(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_late_end_of_an_old_connection_does_not_detach_the_new_one() {
    let home = start("home").await;
    let tablet = Stranger::known_to(&home, "tablet", &[]).await;
    let old = tablet.offer(&home, vec![says("tablet/who", "old")]).await;
    soon(until_held(&home, "tablet", "tablet/who", true)).await;
    let new = tablet
        .offer(
            &home,
            vec![says("tablet/who", "new"), says("tablet/more", "new")],
        )
        .await;
    // The newest connection is the one that counts.
    soon(until_held(&home, "tablet", "tablet/more", true)).await;
    let who = async || {
        let who = home
            .peer("tablet")
            .call_json("tablet/who", &json!({}))
            .await;
        who.unwrap()
    };
    assert_eq!(who().await, "new");
    let mut watch = home
        .client()
        .subscribe::<_, Value>("peers/watch", &json!({}))
        .await
        .unwrap();
    let present = soon(futures::StreamExt::next(&mut watch)).await;
    assert_eq!(present.unwrap().unwrap()["state"], "connected");
    old.close(0, "late");
    soon(old.closed()).await;
    eventually("the old connection is gone", async || {
        let metrics = home.told("node/metrics", json!({})).await;
        (metrics["connections"] == 1).then_some(())
    })
    .await;
    assert_eq!(who().await, "new");
    assert!(held(&home, "tablet").contains(&"tablet/more".into()));
    assert_eq!(home.peer_shown("tablet").await["connected"], true);
    new.close(0, "now");
    soon(until_held(&home, "tablet", "tablet/who", false)).await;
    // Watchers saw the one end that was one.
    let last = soon(futures::StreamExt::next(&mut watch)).await;
    assert_eq!(last.unwrap().unwrap()["state"], "idle");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_shadows_no_operation_of_this_node() {
    let home = start("home").await;
    let tablet = Stranger::known_to(&home, "tablet", &[]).await;
    let evil = vec![
        says("node/info", "evil"),
        says("node/shutdown", "evil"),
        says("tablet/who", "tablet"),
    ];
    let _session = tablet.offer(&home, evil).await;
    soon(until_held(&home, "tablet", "node/shutdown", true)).await;
    let info = home.told("node/info", json!({})).await;
    assert_eq!(info["name"], "home");
    let there = home.peer("tablet").call_json("node/info", &json!({})).await;
    assert_eq!(there.unwrap(), "evil");
    // A bare name never leaves this node.
    let error = home.ask("tablet/who", json!({})).await.unwrap_err();
    assert!(error.is(ErrorCode::NotFound), "{error:?}");
    let listed = home.told("services/list", json!({})).await;
    let names = listed["operations"].as_array().unwrap();
    assert!(
        names
            .iter()
            .all(|entry| entry["name"] != "tablet/who" && entry.get("peer").is_none())
    );
    let listed = home
        .told("services/list", json!({ "peer": "tablet" }))
        .await;
    assert!(listed["operations"].to_string().contains("tablet/who"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_peers_may_offer_the_same_operation() {
    let home = start("home").await;
    let (one, two) = (
        Stranger::known_to(&home, "one", &[]).await,
        Stranger::known_to(&home, "two", &[]).await,
    );
    let first = one.offer(&home, vec![says("shared/who", "one")]).await;
    let _second = two.offer(&home, vec![says("shared/who", "two")]).await;
    for peer in ["one", "two"] {
        soon(until_held(&home, peer, "shared/who", true)).await;
        let who = home.peer(peer).call_json("shared/who", &json!({})).await;
        assert_eq!(who.unwrap(), peer);
    }
    let any = home.client().on(vec![RouteStep::Any]);
    let who = any.call_json("shared/who", &json!({})).await.unwrap();
    assert!(who == "one" || who == "two", "{who}");
    first.close(0, "gone");
    soon(until_held(&home, "one", "shared/who", false)).await;
    for _ in 0..3 {
        let who = any.call_json("shared/who", &json!({})).await;
        assert_eq!(who.unwrap(), "two");
    }
    let error = home.peer("one").call_json("shared/who", &json!({})).await;
    let error = error.unwrap_err();
    assert!(
        error.is(ErrorCode::Unavailable),
        "no fall-through: {error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_behind_a_peer_is_that_peers_to_give() {
    let pair = Pair::new(&["node:read"], &[]).await;
    let route = parse_route("home/nas").unwrap();
    let error = pair
        .laptop
        .client()
        .on(route)
        .call_json("node/info", &json!({}))
        .await
        .unwrap_err();
    assert!(error.is(ErrorCode::Forbidden), "{error:?}");
    let details = error.details.unwrap();
    assert_eq!(details["caller"], "laptop", "`home` refused: {details}");
    assert_eq!(details["grant"], "peer:nas=node/info");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_catalogue_is_not_fetched_again_after_a_restart() {
    let mut pair = Pair::new(&["node:read"], &[]).await;
    let fetches = json!({ "operation": "services/list", "caller": "laptop" });
    let watches = json!({ "operation": "services/watch", "caller": "laptop" });
    pair.laptop.stop().await;
    // A subscription's row is written when it ends.
    let ended = pair.home.audit(watches.clone()).await.len();
    let before = pair.home.audit(fetches.clone()).await.len();
    pair.laptop.start_again().await;
    pair.linked().await;
    let info = pair.at_home().call_json("node/info", &json!({})).await;
    assert_eq!(info.unwrap()["name"], "home");
    pair.laptop.stop().await;
    eventually("the second watch has ended", async || {
        let rows = pair.home.audit(watches.clone()).await;
        (rows.len() > ended).then_some(())
    })
    .await;
    assert_eq!(pair.home.audit(fetches).await.len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_keeps_its_peer_its_grants_and_its_routes() {
    let clock = TestClock::default();
    let home = start_with("home", |home| home.clock(clock.shared()).demo(true)).await;
    let old = Stranger::known_to(&home, "tablet", &["demo:*"]).await;
    let new = Stranger::new().await;
    let known = Known::to(&home, "phone", &["peer:tablet=tablet/*"]).await;
    let phone = known.on(vec![RouteStep::Peer(PeerId::parse("tablet").unwrap())]);
    let old_session = old.offer(&home, vec![says("tablet/who", "old")]).await;
    soon(until_held(&home, "tablet", "tablet/who", true)).await;
    let who = phone.call_json("tablet/who", &json!({})).await;
    assert_eq!(who.unwrap(), "old");

    let rotated = home
        .told(
            "peers/rotate",
            json!({ "peer": "tablet", "node_id": new.id(), "overlap_ms": 3_600_000 }),
        )
        .await;
    assert_eq!(rotated["node_id"], new.id());
    assert_eq!(rotated["node_keys"][1]["key"], old.id());
    assert!(rotated["node_keys"][1]["until"].is_string());
    // Both keys are the tablet, for as long as they overlap.
    let greet = json!({ "name": "Ada" });
    for stranger in [&old, &new] {
        let client = stranger.client(&home).await;
        let greeted = client.call_json("demo/greet", &greet).await;
        assert_eq!(greeted.unwrap(), "Hello, Ada!");
    }
    let _new_session = new.offer(&home, vec![says("tablet/who", "new")]).await;
    clock.forward(Duration::from_secs(3601));
    let closed = soon(old_session.closed()).await;
    assert_eq!(
        closed.code,
        Some(alknet_call::connection_code::NOT_ADMITTED)
    );
    if let Ok(connection) = old.connect(&home, alknet_call::ALPN).await {
        promptly(connection.closed()).await;
    }
    eventually("the route leads to the new key", async || {
        let who = phone.call_json("tablet/who", &json!({})).await;
        (who.ok()? == "new").then_some(())
    })
    .await;
    let client = new.client(&home).await;
    client.call_json("demo/greet", &greet).await.unwrap();
    let grants = home.peer_shown("tablet").await["grants"].clone();
    assert_eq!(grants, json!(["demo:*"]));
}

/// A node whose key was rotated at its peer is still dialled by the old one
/// while both are accepted.
#[tokio::test(flavor = "multi_thread")]
async fn while_keys_overlap_a_peer_is_reached_by_either() {
    let mut pair = Pair::new(&["node:read"], &[]).await;
    let next = Stranger::new().await;
    let rotate = json!({ "peer": "home", "node_id": next.id() });
    pair.laptop.told("peers/rotate", rotate).await;
    // Home does not dial, so that the laptop must.
    let silent = json!({ "peer": "laptop", "addresses": [] });
    pair.home.told("peers/update", silent).await;
    pair.laptop.stop().await;
    pair.laptop.start_again().await;
    pair.laptop.connected("home", SOON).await.unwrap();
    let info = pair.at_home().call_json("node/info", &json!({})).await;
    assert_eq!(info.unwrap()["name"], "home");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hostile_peer_says_of_its_operations_is_cleaned() {
    let home = start("home").await;
    let tablet = Stranger::known_to(&home, "tablet", &[]).await;
    let loud = "\u{1b}[31mred\u{7}\n".repeat(40_000);
    let operation = Operation::query("tablet/loud", "\u{1b}[2JSays\u{0} a lot.")
        .description(loud)
        .public()
        .handler(|_cx, _: Value| async move { Ok(1) });
    let _session = tablet.offer(&home, vec![operation]).await;
    soon(until_held(&home, "tablet", "tablet/loud", true)).await;
    let input = json!({ "name": "tablet/loud", "peer": "tablet" });
    let entry = home.told("services/schema", input).await;
    assert_eq!(entry["peer"], "tablet");
    let text = format!("{}{}", entry["summary"], entry["description"]);
    assert!(
        !text.contains("\\u001b") && !text.contains("\\u0000"),
        "{entry}"
    );
    assert!(entry["description"].as_str().unwrap().chars().count() <= 16_384 + 1);
}

/// A peer behind a NAT came by itself; nobody can dial it.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_cannot_be_dialled_carries_channels_beside_its_calls() {
    let home = start("home").await;
    let tablet = Stranger::known_to(&home, "tablet", &[]).await;
    let offers = Offers::default();
    let _session = tablet.offer(&home, offers.operations()).await;
    soon(until_held(&home, "tablet", "test/mirror", true)).await;
    let there = home.peer("tablet");
    for n in 0..3 {
        let opened = there.open("test/hold-channel", &());
        // Only the first may have waited for a connection of its own.
        let opened = match n {
            0 => soon(opened).await,
            _ => promptly(opened).await,
        };
        opened.unwrap();
    }
}
