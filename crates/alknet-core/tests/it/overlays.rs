//! Peers' and sessions' operations beside one's own.

use crate::world::{Audited, World, echo, fails, name, peer, route, session};
use alknet_core::{
    Call, CallError, Caller, Change, ErrorCode, Handler, Kind, Operation, OperationBuilder, Output,
    Registration, SessionOverlay,
};
use serde_json::{Value, json};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Answers with a text.
fn says(builder: OperationBuilder, text: &'static str) -> Registration {
    builder.raw(Handler::Unary(Arc::new(move |_, _| {
        Box::pin(async move { Ok(Output::Value(json!(text))) })
    })))
}

/// Fails with a code, and counts.
fn breaks(builder: OperationBuilder, code: ErrorCode, runs: &Arc<AtomicUsize>) -> Registration {
    let runs = runs.clone();
    builder.raw(Handler::Unary(Arc::new(move |_, _| {
        runs.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move { Err(CallError::new(code, "broken")) })
    })))
}

fn query(name: &str) -> OperationBuilder {
    Operation::query(name, "Says who it is.")
}

fn set(world: &World, id: &str, operations: Vec<Registration>) {
    world
        .registry
        .apply(Change::SetPeer(peer(id), operations))
        .unwrap();
}

#[tokio::test]
async fn two_peers_may_offer_the_same_name() {
    let world = World::new(vec![]);
    set(&world, "nas", vec![says(query("container/exec"), "nas")]);
    set(&world, "pi", vec![says(query("container/exec"), "pi")]);
    let root = world.caller("root", &["admin"]);
    assert_eq!(
        world.call_on(&root, "nas", "container/exec").await.unwrap(),
        "nas"
    );
    assert_eq!(
        world.call_on(&root, "pi", "container/exec").await.unwrap(),
        "pi"
    );
    fails(
        world.call(&root, "container/exec", json!({})).await,
        ErrorCode::NotFound,
    );
}

#[tokio::test]
async fn a_peer_that_exports_a_local_name_captures_nothing() {
    let world = World::new(vec![says(query("node/shutdown"), "here")]);
    set(
        &world,
        "evil",
        vec![
            says(query("node/shutdown"), "evil"),
            says(query("services/list"), "evil"),
        ],
    );
    let root = world.caller("root", &["admin"]);
    assert_eq!(
        world.call(&root, "node/shutdown", json!({})).await.unwrap(),
        "here"
    );
    assert!(world.call(&root, "services/list", json!({})).await.unwrap()["operations"].is_array());
    assert_eq!(
        world.call_on(&root, "evil", "node/shutdown").await.unwrap(),
        "evil"
    );
    // Nor does it get what was granted here by the operation's name.
    let bob = world.caller("bob", &["node/shutdown"]);
    world.call(&bob, "node/shutdown", json!({})).await.unwrap();
    fails(
        world.call_on(&bob, "evil", "node/shutdown").await,
        ErrorCode::Forbidden,
    );
}

#[tokio::test]
async fn a_grant_of_a_local_operation_is_no_grant_of_a_peers() {
    let world = World::new(vec![says(query("demo/thing"), "here")]);
    set(
        &world,
        "nas",
        vec![says(query("demo/thing").requires("nas:use"), "nas")],
    );
    let bob = world.caller("bob", &["demo/thing", "peer:nas=demo/*"]);
    let told = fails(
        world.call_on(&bob, "nas", "demo/thing").await,
        ErrorCode::Forbidden,
    );
    assert_eq!(told.details.unwrap()["grant"], "nas:use");
    let bob = world.caller("bob", &["nas:use", "peer:nas=demo/*"]);
    world.call_on(&bob, "nas", "demo/thing").await.unwrap();
}

#[tokio::test]
async fn the_importers_rule_on_a_peers_operation_looks_into_the_input() {
    let world = World::new(vec![]);
    set(
        &world,
        "nas",
        vec![
            query("fs/read")
                .resource("bucket", "read", "/file")
                .raw(echo()),
        ],
    );
    let bob = world.caller("bob", &["peer:nas=fs/*", "bucket:www/**=read"]);
    let call = |file: &str| {
        let call = Call::new("fs/read", bob.clone()).unwrap().on(route("nas"));
        world
            .door
            .call(call.input_json(json!({ "file": file }).to_string()))
    };
    assert_eq!(
        call("www//a")
            .await
            .unwrap()
            .into_output()
            .into_value()
            .unwrap()["file"],
        "www/a"
    );
    fails(call("logs/a").await, ErrorCode::Forbidden);
    fails(call("www/../logs/a").await, ErrorCode::InvalidInput);
}

#[tokio::test]
async fn a_peers_operation_gets_its_input_unread() {
    let world = World::new(vec![]);
    let strict = alknet_core::Schema::from_value(json!({ "type": "integer" })).unwrap();
    let bytes = query("demo/bytes")
        .input_schema(strict)
        .raw(Handler::Unary(Arc::new(|_, input| {
            Box::pin(async move { Ok(Output::Json(input.into_bytes())) })
        })));
    set(&world, "nas", vec![bytes]);
    // The peer checks it; here, not even a space is lost.
    let call = Call::new("demo/bytes", Caller::host())
        .unwrap()
        .on(route("nas"))
        .input_json("[ 1,2 ]");
    assert_eq!(world.door.call(call).await.unwrap().bytes(), "[ 1,2 ]");
    let call = Call::new("demo/bytes", Caller::host())
        .unwrap()
        .on(route("nas"))
        .input(&[1, 2]);
    assert_eq!(world.door.call(call).await.unwrap().bytes(), "[1,2]");
}

#[tokio::test]
async fn the_same_name_twice_from_one_peer_is_an_error() {
    let world = World::new(vec![]);
    let twice = vec![
        says(query("demo/thing"), "one"),
        says(query("demo/thing"), "two"),
    ];
    let errors = world
        .registry
        .apply(Change::SetPeer(peer("nas"), twice))
        .unwrap_err();
    assert_eq!(errors.to_string(), "operation `demo/thing` is given twice");
    assert_eq!(world.registry.view().peers().count(), 0);
}

#[tokio::test]
async fn a_session_adds_names_and_shadows_none() {
    let world = World::new(vec![says(query("demo/local"), "local")]);
    let errors = SessionOverlay::new(
        &world.registry.view(),
        vec![
            says(query("demo/local"), "mine"),
            says(query("services/list"), "mine"),
        ],
    )
    .unwrap_err();
    assert_eq!(errors.0.len(), 2);
    assert!(
        errors
            .to_string()
            .contains("`demo/local` is a local operation, which a session cannot shadow")
    );
    let mine = session(&world, vec![says(query("demo/mine"), "mine")]);
    let root = world.caller("root", &["admin"]);
    let with = |operation: &str| {
        let mut call = Call::new(operation, root.clone()).unwrap();
        call.session = Some(mine.clone());
        world.door.call(call)
    };
    assert_eq!(with("demo/mine").await.unwrap().bytes(), r#""mine""#);
    assert_eq!(with("demo/local").await.unwrap().bytes(), r#""local""#);
    // Only in that session.
    fails(
        world.call(&root, "demo/mine", json!({})).await,
        ErrorCode::NotFound,
    );
    // A local operation that comes later wins too.
    world
        .registry
        .register(vec![says(query("demo/mine"), "local")])
        .unwrap();
    assert_eq!(with("demo/mine").await.unwrap().bytes(), r#""local""#);
}

#[tokio::test]
async fn a_sessions_operations_pass_the_same_gate() {
    let world = World::new(vec![]);
    let mine = session(&world, vec![says(query("demo/mine"), "mine")]);
    for (grants, code) in [
        (&["demo:mine"][..], None),
        (&[], Some(ErrorCode::Forbidden)),
    ] {
        let mut call = Call::new("demo/mine", world.caller("bob", grants)).unwrap();
        call.session = Some(mine.clone());
        match code {
            None => drop(world.door.call(call).await.unwrap()),
            Some(code) => drop(fails(world.door.call(call).await, code)),
        }
    }
}

#[tokio::test]
async fn unknown_and_unconnected_peers_are_told_apart_by_those_who_may_use_them() {
    let world = World::with(vec![], |door| {
        door.known_peers(|| ["nas", "pi"].map(peer).to_vec())
    });
    set(&world, "nas", vec![says(query("demo/thing"), "nas")]);
    let root = world.caller("root", &["admin"]);
    fails(
        world.call_on(&root, "pi", "demo/thing").await,
        ErrorCode::Unavailable,
    );
    let error = fails(
        world.call_on(&root, "never", "demo/thing").await,
        ErrorCode::NotFound,
    );
    assert_eq!(error.message, "no peer `never`");
    let error = fails(
        world.call_on(&root, "nas", "demo/thin").await,
        ErrorCode::NotFound,
    );
    assert_eq!(error.message, "peer `nas` does not offer `demo/thin`");
    assert_eq!(error.details.unwrap()["suggestions"], json!(["demo/thing"]));
    // A misspelt peer suggests those that the caller may use, and no other.
    let suggested = |error: CallError| error.details.unwrap()["suggestions"].clone();
    let error = world.call_on(&root, "nsa", "demo/thing").await.unwrap_err();
    assert_eq!(suggested(error), json!(["nas"]));
    let eve = world.caller("eve", &["demo:*", "peer:nsa=demo/*"]);
    let error = world.call_on(&eve, "nsa", "demo/thing").await.unwrap_err();
    assert_eq!(suggested(error), Value::Null);
    fails(
        world.call_on(&root, "nas/pi", "demo/thing").await,
        ErrorCode::NotFound,
    );
}

#[tokio::test]
async fn whoever_may_not_use_a_peer_hears_the_same_of_all_of_them() {
    let world = World::with(vec![], |door| {
        door.known_peers(|| ["nas", "pi"].map(peer).to_vec())
    });
    set(
        &world,
        "nas",
        vec![
            says(query("demo/thing"), "nas"),
            says(query("demo/inner").internal(), "nas"),
        ],
    );
    let bob = world.caller("bob", &["demo:*", "demo/thing", "peer:mine=*"]);
    let mut told = Vec::new();
    for (at, operation) in [
        ("nas", "demo/thing"),
        ("nas", "demo/inner"),
        ("nas", "demo/none"),
        ("pi", "demo/thing"),
        ("never", "demo/thing"),
    ] {
        let error = fails(
            world.call_on(&bob, at, operation).await,
            ErrorCode::Forbidden,
        );
        let text = serde_json::to_string(&error).unwrap();
        told.push(text.replace(operation, "OPERATION").replace(at, "PEER"));
    }
    assert!(told.iter().all(|text| *text == told[0]), "{told:#?}");
}

#[tokio::test]
async fn a_peer_that_leaves_takes_its_operations_along() {
    let world = World::new(vec![]);
    set(&world, "nas", vec![says(query("demo/thing"), "nas")]);
    let before = world.registry.view();
    world
        .registry
        .apply(Change::RemovePeer(peer("nas")))
        .unwrap();
    let root = world.caller("root", &["admin"]);
    fails(
        world.call_on(&root, "nas", "demo/thing").await,
        ErrorCode::Unavailable,
    );
    // A snapshot stays what it was.
    assert_eq!(before.peer("nas").count(), 1);
    assert!(world.registry.view().revision() > before.revision());
}

#[tokio::test]
async fn any_picks_a_peer_that_offers_it_and_that_the_caller_may_use() {
    let world = World::new(vec![]);
    set(&world, "empty", vec![says(query("demo/other"), "empty")]);
    set(&world, "nas", vec![says(query("demo/thing"), "nas")]);
    set(&world, "pi", vec![says(query("demo/thing"), "pi")]);
    for (allowed, want) in [("nas", "nas"), ("pi", "pi")] {
        let bob = world.caller("bob", &["demo:*", &format!("peer:{allowed}=demo/*")]);
        assert_eq!(
            world.call_on(&bob, "any", "demo/thing").await.unwrap(),
            want
        );
    }
    let eve = world.caller("eve", &["demo:*", "peer:empty=*"]);
    fails(
        world.call_on(&eve, "any", "demo/thing").await,
        ErrorCode::NotFound,
    );
    fails(
        world
            .call_on(&Caller::anonymous(), "any", "demo/thing")
            .await,
        ErrorCode::Unauthenticated,
    );
}

async fn retried(kind: Kind, code: ErrorCode) -> (usize, Result<Value, CallError>, Vec<String>) {
    let runs = Arc::new(AtomicUsize::new(0));
    let (sink, audited) = Audited::start();
    let world = World::with(vec![], |door| door.audit(sink));
    for id in ["aa", "bb", "cc"] {
        let builder = match kind {
            Kind::Mutation => Operation::mutation("demo/thing", "Breaks."),
            _ => query("demo/thing"),
        };
        set(&world, id, vec![breaks(builder, code, &runs)]);
    }
    let outcome = world.call_on(&Caller::host(), "any", "demo/thing").await;
    let rows = audited.rows().await;
    let routes = rows.into_iter().map(|row| row.route.unwrap()).collect();
    (runs.load(Ordering::Relaxed), outcome, routes)
}

#[tokio::test]
async fn a_query_is_asked_once_more_elsewhere_and_a_mutation_never() {
    for code in [ErrorCode::Unavailable, ErrorCode::Lost] {
        let (runs, outcome, routes) = retried(Kind::Query, code).await;
        assert_eq!((runs, routes.len()), (2, 2));
        assert_ne!(routes[0], routes[1]);
        fails(outcome, code);
        let (runs, outcome, routes) = retried(Kind::Mutation, code).await;
        assert_eq!((runs, routes.len()), (1, 1));
        fails(outcome, code);
    }
    for code in [
        ErrorCode::Internal,
        ErrorCode::Timeout,
        ErrorCode::Conflict,
        ErrorCode::Forbidden,
    ] {
        assert_eq!(retried(Kind::Query, code).await.0, 1);
    }
}

#[tokio::test]
async fn a_query_that_was_not_answered_is_answered_elsewhere() {
    let runs = Arc::new(AtomicUsize::new(0));
    let world = World::new(vec![]);
    set(
        &world,
        "aa",
        vec![breaks(query("demo/thing"), ErrorCode::Lost, &runs)],
    );
    set(&world, "bb", vec![says(query("demo/thing"), "bb")]);
    // Whichever is asked first.
    for _ in 0..2 {
        assert_eq!(
            world
                .call_on(&Caller::host(), "any", "demo/thing")
                .await
                .unwrap(),
            "bb"
        );
        set(&world, "cc", vec![]);
    }
    assert!(runs.load(Ordering::Relaxed) >= 1);
}

#[tokio::test]
async fn validators_of_imports_are_bounded() {
    const IMPORTS: usize = 4_300;
    let spec = |n: usize| {
        let schema = json!({ "type": "object", "properties": { format!("field-{n}"): { "type": "integer" } } });
        alknet_core::CatalogueEntry {
            name: name(&format!("pets/find-{n}")),
            kind: Kind::Query,
            summary: "Finds a pet.".into(),
            peer: None,
            description: None,
            input: Some(alknet_core::Schema::from_value(schema).unwrap()),
            output: None,
            errors: vec![],
            hints: None,
            resume: None,
            approve: false,
            secret_output: false,
            examples: vec![],
            needs: vec![],
            deprecated: None,
        }
        .into_spec(alknet_core::Access::Authenticated)
    };
    let imports = (0..IMPORTS)
        .map(|n| Registration::imported(spec(n), echo(), None))
        .collect();
    let world = World::new(imports);
    assert_eq!(world.registry.validators_held(), 0);
    for n in 0..IMPORTS {
        let operation = format!("pets/find-{n}");
        world
            .call(&Caller::host(), &operation, json!({}))
            .await
            .unwrap();
        assert_eq!(world.registry.validators_held(), (n + 1).min(4_096));
    }
    // Those that were let go are checked as before.
    let bad = json!({ "field-0": "x" });
    fails(
        world.call(&Caller::host(), "pets/find-0", bad).await,
        ErrorCode::InvalidInput,
    );
    assert_eq!(world.registry.validators_held(), 4_096);
}

/// Answers for every peer with the kind that it was asked for.
struct Answers;
impl alknet_core::Forwarder for Answers {
    fn handler(
        &self,
        at: &alknet_core::PeerId,
        operation: &alknet_core::OperationName,
        kind: Kind,
    ) -> Handler {
        let text = format!("{at} {operation} {kind}");
        match kind {
            Kind::Subscription => crate::world::echo_stream(),
            Kind::Channel => crate::world::echo_channel(),
            _ => Handler::Unary(Arc::new(move |_, _| {
                let text = text.clone();
                Box::pin(async move { Ok(Output::Value(json!(text))) })
            })),
        }
    }
}

#[tokio::test]
async fn what_a_peer_does_not_list_is_asked_of_it_by_those_who_may_use_it() {
    let world = World::with(vec![], |door| {
        door.known_peers(|| ["nas", "pi"].map(peer).to_vec())
    });
    world.door.set_forwarder(Arc::new(Answers));
    set(&world, "nas", vec![says(query("demo/thing"), "listed")]);
    let bob = world.caller("bob", &["demo:*", "peer:nas=demo/*", "peer:gone=*"]);
    let on_nas = |operation| world.call_on(&bob, "nas", operation);
    assert_eq!(on_nas("demo/thing").await.unwrap(), "listed");
    assert_eq!(on_nas("demo/more").await.unwrap(), "nas demo/more mutation");
    fails(on_nas("shell/exec").await, ErrorCode::Forbidden);
    let on_pi = world.call_on(&bob, "pi", "demo/more").await;
    fails(on_pi, ErrorCode::Forbidden);
    let gone = world.call_on(&bob, "gone", "demo/more").await;
    fails(gone, ErrorCode::NotFound);
    // It is in no listing, and nobody unknown gets that far.
    let listed = json!({ "peer": "nas" });
    let listed = world.call(&bob, "services/list", listed).await.unwrap();
    assert_eq!(listed["operations"].as_array().unwrap().len(), 1);
    let nobody = world
        .call_on(&Caller::anonymous(), "nas", "demo/more")
        .await;
    fails(nobody, ErrorCode::Unauthenticated);
}
