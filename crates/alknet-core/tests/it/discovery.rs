//! `services/*`: listing in pages, search, and telling of changes.

use crate::world::{World, echo, fails, identity, key, name, peer};
use alknet_core::{Call, Caller, Change, ErrorCode, Operation, Output, Registration, Subscription};
use futures::StreamExt;
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};

fn query(name: &str) -> Registration {
    Operation::query(name, "Answers with its input.").raw(echo())
}

fn names(answer: &Value, field: &str) -> Vec<String> {
    answer[field]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_listing_comes_in_pages_of_one_revision() {
    let world = World::new(
        (0..450)
            .map(|n| query(&format!("demo/op-{n:03}")))
            .collect(),
    );
    let bob = world.caller("bob", &["demo:*"]);
    let (mut all, mut cursor, mut sizes, mut revisions) =
        (Vec::new(), None::<String>, Vec::new(), BTreeSet::new());
    loop {
        let page = world
            .call(
                &bob,
                "services/list",
                json!({ "prefix": "demo/", "cursor": cursor }),
            )
            .await
            .unwrap();
        sizes.push(names(&page, "operations").len());
        all.extend(names(&page, "operations"));
        revisions.insert(page["revision"].as_str().unwrap().to_owned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    assert_eq!(sizes, [200, 200, 50]);
    assert_eq!(revisions.len(), 1);
    assert_eq!(
        all,
        (0..450)
            .map(|n| format!("demo/op-{n:03}"))
            .collect::<Vec<_>>()
    );
    for (limit, want) in [(1, 1), (0, 1), (450, 450), (5_000, 450)] {
        let page = world
            .call(
                &bob,
                "services/list",
                json!({ "prefix": "demo/", "limit": limit }),
            )
            .await
            .unwrap();
        assert_eq!(names(&page, "operations").len(), want);
    }
}

#[tokio::test]
async fn a_page_has_at_most_1000_operations() {
    let world = World::new((0..1_001).map(|n| query(&format!("demo/op-{n}"))).collect());
    let page = world
        .call(
            &Caller::host(),
            "services/list",
            json!({ "prefix": "demo/", "limit": 5_000 }),
        )
        .await
        .unwrap();
    assert_eq!(names(&page, "operations").len(), 1_000);
    assert!(page["next_cursor"].is_string());
}

#[tokio::test]
async fn a_listing_is_short_unless_schemas_are_asked_for() {
    let world = World::new(vec![
        query("demo/thing"),
        Operation::subscription("demo/items", "Answers with items.")
            .description("Long.")
            .raw(crate::world::echo_stream()),
    ]);
    let root = Caller::host();
    let short = world
        .call(&root, "services/list", json!({ "prefix": "demo/" }))
        .await
        .unwrap();
    assert_eq!(
        short["operations"],
        json!([
            { "name": "demo/items", "kind": "subscription", "summary": "Answers with items.", "needs": ["demo:items"] },
            { "name": "demo/thing", "kind": "query", "summary": "Answers with its input.", "needs": ["demo:thing"] },
        ])
    );
    let full = world
        .call(
            &root,
            "services/list",
            json!({ "kind": "subscription", "prefix": "demo/", "schemas": true }),
        )
        .await
        .unwrap();
    assert_eq!(names(&full, "operations"), ["demo/items"]);
    assert!(
        full["operations"][0]["input"].is_boolean()
            && full["operations"][0]["description"] == "Long."
    );
    fails(
        world
            .call(&root, "services/list", json!({ "schema": true }))
            .await,
        ErrorCode::InvalidInput,
    );
}

fn described(name: &str, summary: &str, description: &str, fields: &[&str]) -> Registration {
    let properties: serde_json::Map<_, _> = fields
        .iter()
        .map(|field| {
            (
                (*field).to_owned(),
                json!({ "type": "string", "description": "A field." }),
            )
        })
        .collect();
    let schema =
        alknet_core::Schema::from_value(json!({ "type": "object", "properties": properties }))
            .unwrap();
    Operation::query(name, summary)
        .description(description)
        .input_schema(schema)
        .raw(echo())
}

#[tokio::test]
async fn a_search_ranks_names_before_summaries_before_the_rest() {
    let world = World::new(vec![
        described("demo/one", "Writes things.", "", &["invoice-number"]),
        described("demo/two", "Writes an invoice.", "", &[]),
        described("invoice/make", "Makes one.", "", &[]),
        described(
            "demo/three",
            "Writes things.",
            "Not an invoice at all.",
            &[],
        ),
        described("demo/four", "Writes things.", "", &[]),
    ]);
    let root = Caller::host();
    let search = |query: &str| {
        let query = query.to_owned();
        let (world, root) = (&world, &root);
        async move {
            names(
                &world
                    .call(root, "services/search", json!({ "query": query }))
                    .await
                    .unwrap(),
                "results",
            )
        }
    };
    let ranked = ["invoice/make", "demo/two", "demo/one", "demo/three"];
    assert_eq!(search("invoice").await, ranked);
    // Any case, the beginning of a word, a longer form of it.
    assert_eq!(search("INVOICE").await, ranked);
    assert_eq!(search("invoi").await, ranked);
    assert_eq!(search("invoices!").await, ranked);
    // Several words in any order; the one that has both is first.
    assert_eq!(search("make invoice").await[0], "invoice/make");
    assert_eq!(search("writes invoice").await[0], "demo/two");
    assert!(
        search("nothing-of-that-sort")
            .await
            .iter()
            .all(|name| !name.starts_with("demo/"))
    );
    assert!(search("xyzzy").await.is_empty());
    fails(
        world
            .call(&root, "services/search", json!({ "query": " !? " }))
            .await,
        ErrorCode::InvalidInput,
    );
}

#[tokio::test]
async fn a_search_finds_peers_operations_and_is_bounded() {
    let world = World::new((0..300).map(|n| query(&format!("demo/op-{n}"))).collect());
    world
        .registry
        .apply(Change::SetPeer(peer("nas"), vec![query("demo/answers")]))
        .unwrap();
    let root = Caller::host();
    let search = |input: Value| world.call(&root, "services/search", input);
    let found = search(json!({ "query": "answers" })).await.unwrap();
    assert_eq!(found["results"].as_array().unwrap().len(), 20);
    assert_eq!(
        (&found["results"][0]["name"], &found["results"][0]["peer"]),
        (&json!("demo/answers"), &json!("nas"))
    );
    let on_nas = search(json!({ "query": "answers", "peer": "nas" }))
        .await
        .unwrap();
    assert_eq!(names(&on_nas, "results"), ["demo/answers"]);
    assert!(
        names(
            &search(json!({ "query": "answers", "peer": "gone" }))
                .await
                .unwrap(),
            "results"
        )
        .is_empty()
    );
    for (limit, want) in [(200, 200), (201, 200), (0, 1)] {
        let found = search(json!({ "query": "answers", "limit": limit }))
            .await
            .unwrap();
        assert_eq!(found["results"].as_array().unwrap().len(), want);
    }
    // What is registered later is found too.
    world.registry.register(vec![query("demo/xyzzy")]).unwrap();
    assert_eq!(
        names(
            &search(json!({ "query": "xyzzy" })).await.unwrap(),
            "results"
        ),
        ["demo/xyzzy"]
    );
}

#[tokio::test]
async fn a_misspelt_name_is_answered_with_near_ones() {
    let world = World::new(vec![
        query("fs/read"),
        query("fs/write"),
        query("node/info"),
    ]);
    let bob = world.caller("bob", &["fs:*", "node:*"]);
    for (wrong, want) in [
        ("fs/raed", "fs/read"),
        ("fs/wrte", "fs/write"),
        ("nodes/info", "node/info"),
        ("file/read", "fs/read"),
    ] {
        let error = fails(
            world.call(&bob, wrong, json!({})).await,
            ErrorCode::NotFound,
        );
        assert_eq!(error.details.unwrap()["suggestions"][0], want, "{wrong}");
    }
    let error = fails(
        world.call(&bob, "topics/publish", json!({})).await,
        ErrorCode::NotFound,
    );
    assert!(error.details.unwrap().get("suggestions").is_none());
}

#[tokio::test]
async fn list_peers_names_only_peers_that_the_caller_may_use() {
    let world = World::new(vec![]);
    for id in ["nas", "pi", "empty"] {
        let offered = if id == "empty" {
            vec![]
        } else {
            vec![query("demo/thing")]
        };
        world
            .registry
            .apply(Change::SetPeer(peer(id), offered))
            .unwrap();
    }
    let shown = |grants: &'static [&'static str]| {
        let (world, bob) = (&world, world.caller("bob", grants));
        async move {
            let answer = world.call(&bob, "services/list-peers", json!({})).await?;
            Ok::<_, alknet_core::CallError>(
                answer["peers"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|peer| peer["peer"].as_str().unwrap().to_owned())
                    .collect::<Vec<_>>(),
            )
        }
    };
    fails(shown(&["peer:*=*"]).await, ErrorCode::Forbidden);
    assert_eq!(shown(&["admin"]).await.unwrap(), ["empty", "nas", "pi"]);
    assert_eq!(
        shown(&["peers:list", "peer:nas=*", "demo:*"])
            .await
            .unwrap(),
        ["nas"]
    );
    assert_eq!(
        shown(&["peers:list", "peer:empty=services/*"])
            .await
            .unwrap(),
        ["empty"]
    );
    assert!(
        shown(&["peers:list", "peer:other=services/*"])
            .await
            .unwrap()
            .is_empty()
    );
}

async fn watch(world: &World, caller: &Caller) -> Subscription {
    world
        .door
        .subscribe(Call::new("services/watch", caller.clone()).unwrap())
        .await
        .unwrap()
}

/// The next item, if one comes within a second.
async fn told(items: &mut Subscription) -> Option<Value> {
    let item = tokio::time::timeout(Duration::from_secs(1), items.next())
        .await
        .ok()?;
    Some(item.unwrap().and_then(Output::into_value).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_watch_tells_at_once_and_then_only_of_changes_that_the_caller_sees() {
    let world = World::new(vec![query("demo/thing")]);
    let bob = world.caller(
        "bob",
        &["demo:thing", "other:*", "peer:nas=*", "demo:later"],
    );
    let mut items = watch(&world, &bob).await;
    let first = told(&mut items).await.unwrap();
    let listed = world.call(&bob, "services/list", json!({})).await.unwrap();
    assert_eq!(first["revision"], listed["revision"]);
    assert_eq!(
        first["operations"],
        listed["operations"].as_array().unwrap().len()
    );
    assert_eq!(told(&mut items).await, None);
    // An operation that comes, and one that the caller may not call.
    world.registry.register(vec![query("demo/later")]).unwrap();
    let second = told(&mut items).await.unwrap();
    assert_ne!(second["revision"], first["revision"]);
    world
        .registry
        .register(vec![query("hidden/thing")])
        .unwrap();
    assert_eq!(told(&mut items).await, None);
    // One that goes: the catalogue is what it was.
    world
        .registry
        .apply(Change::ReplaceLocal {
            remove: vec![name("demo/later")],
            add: vec![],
        })
        .unwrap();
    assert_eq!(told(&mut items).await.unwrap(), first);
    // A grant, and one that changes nothing.
    world
        .ids
        .put(key("bob"), identity("bob", &["hidden:*", "peer:nas=*"]));
    assert!(told(&mut items).await.is_some());
    world.ids.put(
        key("bob"),
        identity("bob", &["hidden:*", "peer:nas=*", "net:*=dial"]),
    );
    assert_eq!(told(&mut items).await, None);
    world.ids.put(key("eve"), identity("eve", &[]));
    assert_eq!(told(&mut items).await, None);
    // An operation that is described otherwise.
    let described = Operation::query("hidden/thing", "Answers otherwise.").raw(echo());
    world
        .registry
        .apply(Change::ReplaceLocal {
            remove: vec![name("hidden/thing")],
            add: vec![described],
        })
        .unwrap();
    assert!(told(&mut items).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_watch_tells_of_peers_that_the_caller_may_use() {
    let world = World::new(vec![]);
    let bob = world.caller("bob", &["demo:*", "peer:nas=*"]);
    let mut items = watch(&world, &bob).await;
    let first = told(&mut items).await.unwrap();
    let offers = |n: usize| {
        (0..n)
            .map(|n| query(&format!("demo/op-{n}")))
            .collect::<Vec<_>>()
    };
    world
        .registry
        .apply(Change::SetPeer(peer("nas"), offers(1)))
        .unwrap();
    let second = told(&mut items).await.unwrap();
    assert!(second["revision"] == first["revision"] && second["peers"] != first["peers"]);
    world
        .registry
        .apply(Change::SetPeer(peer("nas"), offers(1)))
        .unwrap();
    world
        .registry
        .apply(Change::SetPeer(peer("pi"), offers(3)))
        .unwrap();
    assert_eq!(told(&mut items).await, None);
    world
        .registry
        .apply(Change::SetPeer(peer("nas"), offers(2)))
        .unwrap();
    assert!(told(&mut items).await.is_some());
    world
        .registry
        .apply(Change::RemovePeer(peer("nas")))
        .unwrap();
    assert_eq!(told(&mut items).await.unwrap(), first);
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_when_its_caller_is_removed() {
    let world = World::new(vec![]);
    let bob = world.caller("bob", &[]);
    let mut items = watch(&world, &bob).await;
    told(&mut items).await.unwrap();
    world.ids.remove(&key("bob"));
    let last = tokio::time::timeout(Duration::from_secs(1), items.next())
        .await
        .unwrap()
        .unwrap();
    fails(last, ErrorCode::Unauthenticated);
    assert!(items.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_when_a_drain_begins() {
    let world = World::new(vec![]);
    let bob = world.caller("bob", &[]);
    let mut items = watch(&world, &bob).await;
    told(&mut items).await.unwrap();
    world.door.begin_drain();
    let last = tokio::time::timeout(Duration::from_secs(1), items.next())
        .await
        .unwrap();
    assert!(last.is_none());
    assert!(world.door.drained(Duration::from_secs(1)).await);
}
