//! What happened is told to whoever asks, from any point still kept: nothing
//! is lost, nothing comes twice, and who came too late is told so.

use crate::support::{
    Pair, SOON, TestClock, TestNode, eventually, promptly, runs_commands, soon, start,
    start_configured, start_with,
};
use alknet_core::{
    AuditRow, CallError, ErrorCode, Subscription,
    storage::{AuditLog, EventKind, EventLog, NewEvent, Timestamp},
};
use alknet_store::Store;
use futures::StreamExt;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

/// Everything kept, as far as it matches.
async fn listed(node: &TestNode, input: Value) -> Vec<Value> {
    let listed = node.told("events/list", input).await;
    listed["events"].as_array().unwrap().clone()
}

fn kinds(events: &[Value]) -> Vec<(&str, &str)> {
    events
        .iter()
        .map(|event| {
            (
                event["kind"].as_str().unwrap(),
                event["about"].as_str().unwrap(),
            )
        })
        .collect()
}

async fn subscribe(node: &TestNode, input: Value) -> Result<Subscription, CallError> {
    let input = alknet_core::Input::Value(input);
    node.client()
        .subscribe_output("events/subscribe", input)
        .await
}

async fn item(items: &mut Subscription) -> Result<Value, CallError> {
    soon(items.next()).await.unwrap()?.into_value()
}

/// The store of a node that may be running: another hand at the same file.
fn by_hand(node: &TestNode) -> Store {
    Store::open(&node.dir.path().join("alknet.db")).unwrap()
}

fn noticed(n: u64) -> NewEvent {
    let now = alknet_core::storage::system_clock()();
    NewEvent::noticed(EventKind::named("test/event"), n.to_string(), now)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_is_an_event_of_the_call_that_made_it() {
    let home = start("home").await;
    let from = home.told("events/list", json!({ "limit": 0 })).await["newest"].clone();
    let key = |n: u8| {
        let secret = iroh::SecretKey::from_bytes(&[n; 32]);
        secret.public().to_string()
    };
    let calls = [
        (
            "peers/add",
            json!({ "peer": "laptop", "node_id": key(1) }),
            "peer/added",
        ),
        (
            "peers/grant",
            json!({ "peer": "laptop", "targets": ["reader"] }),
            "grants/changed",
        ),
        (
            "peers/revoke",
            json!({ "peer": "laptop", "targets": ["reader"] }),
            "grants/changed",
        ),
        (
            "peers/update",
            json!({ "peer": "laptop", "enabled": false }),
            "peer/updated",
        ),
        (
            "peers/rotate",
            json!({ "peer": "laptop", "node_id": key(2) }),
            "peer/rotated",
        ),
        ("peers/remove", json!({ "peer": "laptop" }), "peer/removed"),
        ("node/reload", json!({}), "config/reloaded"),
    ];
    for (operation, input, _) in &calls {
        home.told(operation, input.clone()).await;
    }
    let invite = home
        .told("invites/create", json!({ "name": "phone" }))
        .await;
    let id = invite["id"].as_str().unwrap();
    home.told("invites/revoke", json!({ "id": id })).await;
    let events = listed(&home, json!({ "from": from })).await;
    let mut want: Vec<(&str, &str)> = calls
        .iter()
        .map(|(operation, _, kind)| match *operation {
            "node/reload" => (*kind, "configuration"),
            _ => (*kind, "laptop"),
        })
        .collect();
    want.extend([("invite/created", id), ("invite/revoked", id)]);
    assert_eq!(kinds(&events), want);
    let operations = calls.iter().map(|(operation, ..)| *operation);
    let operations = operations.chain(["invites/create", "invites/revoke"]);
    for (event, operation) in events.iter().zip(operations) {
        assert_eq!(event["caller"], "host");
        // The change's own row is there with it, and so is the call's, soon.
        let rows = home
            .audit(json!({ "call_id": event["call_id"], "operation": operation }))
            .await;
        assert!(rows.iter().any(|row| row["parent_id"] == event["call_id"]));
    }
    let secret = invite["ticket"].as_str().unwrap();
    assert!(!json!(events).to_string().contains(secret));
    agrees(&home).await;
}

/// What the store holds, what it told and what it has on record are one.
async fn agrees(home: &TestNode) {
    let store = by_hand(home);
    let faults = alknet_testkit::storage::outbox_faults(&store, &store, &store).await;
    assert!(faults.is_empty(), "{faults:#?}");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_or_a_row_that_is_missing_is_found() {
    for (sql, want) in [
        (
            "DELETE FROM _honker_stream WHERE key = 'peer/added' AND payload LIKE '%laptop%'",
            &[
                "follows",
                "`peers/add` of `laptop` has no event",
                "peer `laptop` was told of by no event",
            ][..],
        ),
        (
            "DELETE FROM audit WHERE operation = 'peers/add'",
            &["event `peer/added` of `laptop` has no audit row"],
        ),
        (
            "DELETE FROM peers WHERE id = 'laptop'",
            &["peer `laptop` was told of and is not there"],
        ),
        (
            "UPDATE audit SET detail = 'nothing changed' WHERE operation = 'peers/grant'",
            &["changed nothing and has an event"],
        ),
    ] {
        let mut home = start("home").await;
        home.told("peers/add", json!({ "peer": "laptop" })).await;
        home.told(
            "peers/grant",
            json!({ "peer": "laptop", "targets": ["reader"] }),
        )
        .await;
        home.stop().await;
        agrees(&home).await;
        let store = by_hand(&home);
        store
            .write(move |connection| {
                assert!(connection.execute(sql, []).unwrap() > 0);
                Ok::<_, alknet_store::JobError>(())
            })
            .await
            .unwrap();
        let faults = alknet_testkit::storage::outbox_faults(&store, &store, &store).await;
        for want in want {
            assert!(
                faults.iter().any(|fault| fault.contains(want)),
                "{sql}: {faults:?}"
            );
        }
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_goes_on_where_it_was_cut_also_after_a_restart_and_a_crash() {
    let mut home = start("home").await;
    let add = |n: u32| json!({ "peer": format!("p{n}") });
    let mut items = subscribe(&home, json!({ "kind": "peer/" })).await.unwrap();
    for n in 0..4 {
        home.told("peers/add", add(n)).await;
    }
    let mut seen = Vec::new();
    for _ in 0..2 {
        seen.push(item(&mut items).await.unwrap());
    }
    drop(items);
    home.told("peers/add", add(4)).await;
    for round in 0..3 {
        let from = seen.last().unwrap()["cursor"].clone();
        let input = json!({ "kind": "peer/", "from": from });
        let mut items = subscribe(&home, input).await.unwrap();
        // One that was missed, and one that comes while it is followed.
        seen.push(item(&mut items).await.unwrap());
        home.told("peers/add", add(5 + round)).await;
        // Nobody reads any more: the node need not wait for its end.
        drop(items);
        match round {
            0 => home.stop().await,
            _ => home.kill(),
        }
        home.start_again().await;
    }
    let from = seen.last().unwrap()["cursor"].clone();
    seen.extend(listed(&home, json!({ "kind": "peer/", "from": from })).await);
    let about: Vec<&str> = seen
        .iter()
        .map(|event| event["about"].as_str().unwrap())
        .collect();
    assert_eq!(about, ["p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7"]);
    let runs = listed(&home, json!({ "kind": "node/" })).await;
    let runs: Vec<(&str, bool)> = runs
        .iter()
        .map(|event| {
            let unclean = event["details"]["unclean"] == true;
            (event["kind"].as_str().unwrap(), unclean)
        })
        .collect();
    let (up, down) = ("node/started", "node/stopped");
    assert_eq!(
        runs,
        [
            (up, false),
            (down, false),
            (up, false),
            (up, true),
            (up, true)
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_is_too_old_of_another_history_or_ahead_is_gone() {
    let mut home = start("home").await;
    home.stop().await;
    let store = by_hand(&home);
    store
        .append_events((0..20).map(noticed).collect(), Vec::new())
        .await
        .unwrap();
    let row = AuditRow::event(Timestamp(0), "host", "events/prune");
    store
        .prune_events(Timestamp(i64::MIN), 10, 100, row)
        .await
        .unwrap();
    store.close().await;
    home.start_again().await;

    let span = home.told("events/list", json!({ "limit": 0 })).await;
    let (epoch, oldest) = span["oldest"].as_str().unwrap().split_once('-').unwrap();
    let (_, newest) = span["newest"].as_str().unwrap().split_once('-').unwrap();
    let (oldest, newest): (u64, u64) = (oldest.parse().unwrap(), newest.parse().unwrap());
    let other = epoch.chars().rev().collect::<String>() + "0";
    let gone = [
        (format!("{epoch}-{}", oldest - 1), "older than what is kept"),
        (format!("{epoch}-{}", newest + 1), "ahead of everything"),
        (format!("{epoch}-{}", u64::MAX), "ahead of everything"),
        (format!("{other}-{oldest}"), "of another history"),
    ];
    for (cursor, why) in gone {
        let input = json!({ "from": cursor });
        let listed = home.ask("events/list", input.clone()).await.unwrap_err();
        let followed = subscribe(&home, input).await.err().unwrap();
        for error in [listed, followed] {
            assert!(
                error.is(ErrorCode::Gone) && error.message.contains(why),
                "{error:?}"
            );
            assert_eq!(
                error.details.as_deref(),
                Some(&json!({ "oldest": span["oldest"], "newest": span["newest"] }))
            );
        }
    }
    for wrong in ["", "1", "now", "a b-1", "ä-1"] {
        let error = home
            .ask("events/list", json!({ "from": wrong }))
            .await
            .unwrap_err();
        assert!(error.is(ErrorCode::InvalidInput), "{error:?}");
    }
    // At the limit everything kept is read.
    let kept = listed(&home, json!({ "from": span["oldest"] })).await;
    assert_eq!(kept[0]["cursor"], json!(format!("{epoch}-{}", oldest + 1)));
    assert_eq!(kept.len() as u64, newest - oldest);
    assert!(
        subscribe(&home, json!({ "from": span["newest"] }))
            .await
            .is_ok()
    );

    // After a restore, cursors of before are of another history.
    home.stop().await;
    let store = by_hand(&home);
    store.new_epoch().await.unwrap();
    store.close().await;
    home.start_again().await;
    let error = subscribe(&home, json!({ "from": span["newest"] }))
        .await
        .err()
        .unwrap();
    assert!(
        error.is(ErrorCode::Gone) && error.message.contains("another history"),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_the_log_has_overtaken_is_told() {
    let home = start("home").await;
    let from = home.told("events/list", json!({ "limit": 0 })).await["newest"].clone();
    let store = by_hand(&home);
    store
        .append_events((0..350).map(noticed).collect(), Vec::new())
        .await
        .unwrap();
    let mut items = subscribe(&home, json!({ "from": from })).await.unwrap();
    assert_eq!(item(&mut items).await.unwrap()["about"], "0");
    let row = AuditRow::event(Timestamp(0), "host", "events/prune");
    store
        .prune_events(Timestamp(i64::MIN), 10, 1_000, row)
        .await
        .unwrap();
    let mut last = 0;
    let error = loop {
        match item(&mut items).await {
            Ok(event) => {
                let n: u64 = event["about"].as_str().unwrap().parse().unwrap();
                assert_eq!(n, last + 1, "nothing is left out silently");
                last = n;
            }
            Err(error) => break error,
        }
    };
    assert!(error.is(ErrorCode::Gone), "{error:?}");
    assert!(last < 340);
    // From the oldest cursor that it was told, it goes on.
    let from = error.details.unwrap()["oldest"].clone();
    let kept = listed(&home, json!({ "from": from })).await;
    assert_eq!(kept.last().unwrap()["about"], "349");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_and_catalogues_are_events_at_both_ends() {
    let mut pair = Pair::new(&["reader"], &["reader"]).await;
    let home = &pair.home;
    let told = async |kind: &str| listed(home, json!({ "kind": kind })).await;
    let up = eventually("the link is told", async || {
        told("link/").await.first().cloned()
    })
    .await;
    assert_eq!(
        (&up["kind"], &up["about"]),
        (&json!("link/up"), &json!("laptop"))
    );
    assert_eq!(up["details"]["path"], "direct");
    let joined = told("peer/joined").await;
    assert_eq!(kinds(&joined), [("peer/joined", "laptop")]);
    assert_eq!(
        joined[0]["details"]["invite"],
        told("invite/used").await[0]["about"]
    );
    assert_eq!(
        kinds(&told("import/").await),
        [("import/changed", "laptop")]
    );
    pair.laptop.stop().await;
    eventually("the loss is told", async || {
        let links = told("link/").await;
        (kinds(&links) == [("link/up", "laptop"), ("link/down", "laptop")]).then_some(())
    })
    .await;
    // The same catalogue again is no change.
    pair.laptop.start_again().await;
    pair.linked().await;
    eventually("the link is told again", async || {
        (kinds(&listed(&pair.home, json!({ "kind": "link/" })).await).len() == 3).then_some(())
    })
    .await;
    let imports = listed(&pair.home, json!({ "kind": "import/" })).await;
    assert_eq!(imports.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_old_or_too_much_goes_and_that_it_went_is_on_record() {
    let mut home = start_configured(
        "home",
        "[events]\nkeep_days = 1\nrows_max = 1000\n[audit]\nkeep_days = 0\nrows_max = 1000\n",
    )
    .await;
    home.stop().await;
    let store = by_hand(&home);
    let old = (0..1_500).map(|n| NewEvent {
        at: Timestamp(0),
        ..noticed(n)
    });
    store
        .append_events(old.collect(), Vec::new())
        .await
        .unwrap();
    let rows = (0..2_600).map(|_| AuditRow::event(Timestamp(0), "ada", "test/old"));
    store.append(rows.collect()).await.unwrap();
    store.close().await;
    home.start_again().await;
    // Events of 1970 are older than a day; rows are kept as long as there is
    // room, and their removals take room too.
    eventually("old events went", async || {
        listed(&home, json!({ "kind": "test/" }))
            .await
            .is_empty()
            .then_some(())
    })
    .await;
    let pruned = eventually("too many rows went", async || {
        let rows = home
            .told("audit/list", json!({ "operation": "audit/prune" }))
            .await;
        let kept = home
            .told(
                "audit/list",
                json!({ "limit": 1_000, "oldest_first": true }),
            )
            .await;
        let over = kept["newest"].as_u64().unwrap() - kept["removed"].as_u64().unwrap();
        (over <= 1_100).then(|| rows["rows"].as_array().unwrap().clone())
    })
    .await;
    assert!(pruned.len() >= 3, "in batches, each on record: {pruned:?}");
    assert!(
        pruned[0]["detail"]
            .as_str()
            .unwrap()
            .starts_with("removed ")
    );
    let events = home
        .told("audit/list", json!({ "operation": "events/prune" }))
        .await;
    assert!(!events["rows"].as_array().unwrap().is_empty());
}

/// A store whose rows of one table are refused from now on.
async fn refuse(home: &TestNode, table: &str, when: &str) -> Store {
    let store = by_hand(home);
    let sql = format!(
        "CREATE TRIGGER refuse BEFORE INSERT ON {table} WHEN {when} BEGIN SELECT RAISE(ABORT, 'no room'); END"
    );
    store
        .write(move |connection| {
            connection.execute_batch(&sql).unwrap();
            Ok::<_, alknet_store::JobError>(())
        })
        .await
        .unwrap();
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_event_or_its_row_nothing_changes() {
    for (table, when) in [
        ("_honker_stream", "NEW.key NOT LIKE 'node/%'"),
        (
            "audit",
            "NEW.operation = 'peers/add' AND NEW.surface = 'local' OR NEW.operation = 'node/reload'",
        ),
    ] {
        let config = runs_commands();
        let home = start_configured("home", &config).await;
        let before = listed(&home, json!({ "limit": 1_000 })).await;
        let other = refuse(&home, table, when).await;
        // A change within the process is recorded as `local`.
        let add = home.ask("peers/add", json!({ "peer": "laptop" })).await;
        assert!(add.unwrap_err().is(ErrorCode::Internal), "{table}");
        let shown = home.ask("peers/show", json!({ "peer": "laptop" })).await;
        assert!(shown.unwrap_err().is(ErrorCode::NotFound), "{table}");

        let more = "[[role]]\nname = \"support\"\nscopes = [\"node:read\"]\n[[operation]]\nname = \"ops/hello\"\nsummary = \"Says hello.\"\ncommand = [\"echo\"]\n";
        std::fs::write(home.dir.path().join("alknet.toml"), config + more).unwrap();
        let error = home.reload().await.unwrap_err();
        assert!(
            error.full_text().contains("cannot be recorded"),
            "{}",
            error.full_text()
        );
        let called = home.ask("ops/hello", json!({})).await;
        assert!(called.unwrap_err().is(ErrorCode::NotFound), "{table}");
        let roles = home.told("roles/list", json!({})).await;
        assert!(!roles.to_string().contains("support"), "{table}");
        assert_eq!(
            listed(&home, json!({ "limit": 1_000 })).await,
            before,
            "{table}"
        );

        // Once there is room, both are done.
        other
            .write(|connection| {
                connection.execute_batch("DROP TRIGGER refuse").unwrap();
                Ok::<_, alknet_store::JobError>(())
            })
            .await
            .unwrap();
        home.told("peers/add", json!({ "peer": "laptop" })).await;
        let report = home.reload().await.unwrap();
        assert_eq!(report.applied, ["operation", "role"]);
        home.told("ops/hello", json!({})).await;
        let after = listed(&home, json!({ "limit": 1_000 })).await;
        assert_eq!(
            kinds(&after[before.len()..]),
            [
                ("peer/added", "laptop"),
                ("config/reloaded", "configuration")
            ]
        );
        other.close().await;
        agrees(&home).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_and_the_watch_after_it_show_each_call_once() {
    let home = start("home").await;
    let client = home.client();
    let calls = async |n: u32| {
        for _ in 0..n {
            client.call_json("node/info", &json!({})).await.unwrap();
        }
    };
    calls(30).await;
    let filter = json!({ "operation": "node/info", "limit": 1_000 });
    let (list, ()) = tokio::join!(home.told("audit/list", filter), calls(40));
    let rows = list["rows"].as_array().unwrap();
    let last = rows.first().and_then(|row| row["n"].as_u64());
    let after = list["newest"].as_u64().max(last);
    let input = json!({ "operation": "node/info", "after": after });
    let input = alknet_core::Input::Value(input);
    let mut watched = client.subscribe_output("audit/watch", input).await.unwrap();
    calls(30).await;
    let mut seen: BTreeMap<u64, u32> = BTreeMap::new();
    rows.iter()
        .for_each(|row| *seen.entry(row["n"].as_u64().unwrap()).or_default() += 1);
    while seen.len() < 100 {
        let Ok(row) = tokio::time::timeout(SOON, watched.next()).await else {
            let all = home.told("audit/list", json!({ "limit": 1_000 })).await;
            panic!("{seen:?} were shown after {after:?}, of {all}");
        };
        let row = row.unwrap().unwrap();
        let row = row.into_value().unwrap();
        *seen.entry(row["n"].as_u64().unwrap()).or_default() += 1;
    }
    assert!(seen.values().all(|times| *times == 1));
    // Nothing comes that does not match, and a new call comes by itself.
    client.call_json("node/metrics", &json!({})).await.unwrap();
    let next = tokio::time::timeout(Duration::from_millis(500), watched.next()).await;
    assert!(next.is_err());
    calls(1).await;
    assert_eq!(item(&mut watched).await.unwrap()["operation"], "node/info");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_is_woken_promptly_and_ends_with_the_node() {
    let mut home = start("home").await;
    let mut items = subscribe(&home, json!({})).await.unwrap();
    home.told("peers/add", json!({ "peer": "laptop" })).await;
    let event = promptly(items.next())
        .await
        .unwrap()
        .unwrap()
        .into_value()
        .unwrap();
    assert_eq!(event["kind"], "peer/added");
    let (ended, ()) = tokio::join!(tokio::time::timeout(SOON, items.count()), home.stop());
    assert!(ended.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_age_of_what_is_kept_is_judged_by_the_nodes_clock() {
    let clock = TestClock::default();
    let mut home = start_with("home", |home| home.clock(clock.shared())).await;
    home.told("peers/add", json!({ "peer": "laptop" })).await;
    clock.forward(Duration::from_secs(29 * 24 * 3600));
    home.stop().await;
    home.start_again_with(|home| home.clock(clock.shared()))
        .await;
    // Whatever may go has gone once the removal's own round is over.
    let kept = listed(&home, json!({ "kind": "peer/" })).await;
    assert_eq!(kinds(&kept).last(), Some(&("peer/added", "laptop")));
    clock.forward(Duration::from_secs(2 * 24 * 3600));
    home.stop().await;
    home.start_again_with(|home| home.clock(clock.shared()))
        .await;
    eventually("what is older than 30 days went", async || {
        listed(&home, json!({ "kind": "peer/" }))
            .await
            .is_empty()
            .then_some(())
    })
    .await;
}
