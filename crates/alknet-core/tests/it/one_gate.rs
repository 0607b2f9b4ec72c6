//! What cannot be called cannot be listed, described, searched, suggested or
//! permitted; and no handler is reached around the door.

use crate::world::{World, identity, key, name, peer, route};
use alknet_core::{
    Access, AccessControl, Call, CallError, Caller, Change, Handler, Kind, Operation,
    OperationBuilder, Output, Registration, Scope,
};
use futures::{FutureExt, StreamExt, future::BoxFuture};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

const KINDS: &[Kind] = &[
    Kind::Query,
    Kind::Mutation,
    Kind::Subscription,
    Kind::Channel,
];

#[derive(Clone, Debug)]
struct Made {
    kind: Kind,
    internal: bool,
    access: u8,
}

#[derive(Clone, Debug)]
struct Case {
    local: Vec<Made>,
    nas: Vec<Made>,
    pi: Vec<Made>,
    grants: Vec<&'static str>,
    who: u8,
}

const GRANTS: &[&str] = &[
    "a:x",
    "a:*",
    "demo:op-1",
    "demo:*",
    "demo/op-0",
    "demo/op-2",
    "bucket:w/**=read",
    "bucket:*=write",
    "peer:nas=demo/*",
    "peer:nas=demo/op-1",
    "peer:*=*",
    "peer:pi=demo/op-0",
    "reader",
];

fn case() -> impl Strategy<Value = Case> {
    let made = || {
        let one = (
            prop::sample::select(KINDS),
            prop::bool::weighted(0.25),
            0u8..5,
        )
            .prop_map(|(kind, internal, access)| Made {
                kind,
                internal: internal && access != 0,
                access,
            });
        prop::collection::vec(one, 0..5)
    };
    let grants = prop::collection::vec(prop::sample::select(GRANTS), 0..5);
    (made(), made(), made(), grants, 0u8..4).prop_map(|(local, nas, pi, grants, who)| Case {
        local,
        nas,
        pi,
        grants,
        who,
    })
}

/// A handler that counts how often it runs.
fn counted(kind: Kind, runs: &Arc<AtomicUsize>) -> Handler {
    let runs = runs.clone();
    match kind {
        Kind::Query | Kind::Mutation => Handler::Unary(Arc::new(move |_, _| {
            runs.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { Ok(Output::Value(json!("ran"))) })
        })),
        Kind::Subscription => Handler::Stream(Arc::new(move |_, _| {
            runs.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { Ok(futures::stream::iter([Ok(Output::Value(json!("ran")))]).boxed()) })
        })),
        Kind::Channel => Handler::Channel(Arc::new(move |_, _, opening| {
            runs.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move { opening.accept(&"ran").map(|_| Output::Value(json!("ran"))) })
        })),
    }
}

fn operations(made: &[Made], runs: &Arc<AtomicUsize>) -> Vec<Registration> {
    let build = |at: usize, made: &Made| {
        let name = format!("demo/op-{at}");
        let summary = "Counts how often it runs.";
        let builder: OperationBuilder = match made.kind {
            Kind::Query => Operation::query(&name, summary),
            Kind::Mutation => Operation::mutation(&name, summary),
            Kind::Subscription => Operation::subscription(&name, summary),
            Kind::Channel => Operation::channel(&name, summary),
        };
        let builder = match made.access {
            0 => builder.public(),
            1 => builder.authenticated(),
            2 => builder.access(Access::Rule(AccessControl {
                scopes_any: vec![Scope::parse("a:x").unwrap(), Scope::parse("b:y").unwrap()],
                ..AccessControl::default()
            })),
            3 => builder.resource("bucket", "read", "/file"),
            _ => builder,
        };
        let builder = if made.internal {
            builder.internal()
        } else {
            builder
        };
        builder.raw(counted(made.kind, runs))
    };
    made.iter()
        .enumerate()
        .map(|(at, made)| build(at, made))
        .collect()
}

struct Walk {
    world: World,
    caller: Caller,
    runs: Arc<AtomicUsize>,
}

/// How a call of one kind ends: what it said, or why not.
type Tried = Result<(), CallError>;

impl Walk {
    fn make(case: &Case) -> Self {
        let runs = Arc::new(AtomicUsize::new(0));
        let world = World::new(operations(&case.local, &runs));
        for (peer_id, made) in [("nas", &case.nas), ("pi", &case.pi)] {
            world
                .registry
                .apply(Change::SetPeer(peer(peer_id), operations(made, &runs)))
                .unwrap();
        }
        // Whoever is known may also look at peers, so that this way is walked.
        let mut grants = case.grants.clone();
        grants.push("peers:list");
        let caller = match case.who {
            0 => Caller::anonymous(),
            1 => Caller::authority(Arc::new(identity("own", &grants))),
            _ => world.caller("bob", &grants),
        };
        Self {
            world,
            caller,
            runs,
        }
    }

    fn to(&self, operation: &str, at: Option<&str>) -> Call {
        let call = Call::new(operation, self.caller.clone())
            .unwrap()
            .input(&json!({ "file": "w/a" }));
        match at {
            Some(at) => call.on(route(at)),
            None => call,
        }
    }

    /// Calls it as its kind is called, and checks that the handler ran exactly
    /// if it was let through.
    async fn attempt(&self, kind: Kind, operation: &str, at: Option<&str>) -> Tried {
        let before = self.runs.load(Ordering::Relaxed);
        let call = self.to(operation, at);
        let tried = match kind {
            Kind::Query | Kind::Mutation => self.world.door.call(call).await.map(drop),
            Kind::Subscription => match self.world.door.subscribe(call).await {
                Ok(mut items) => items.next().await.unwrap().map(drop),
                Err(refused) => Err(refused),
            },
            Kind::Channel => match self.world.door.open(call).await {
                Ok(channel) => channel.done.await.map(drop),
                Err(refused) => Err(refused),
            },
        };
        let ran = self.runs.load(Ordering::Relaxed) - before;
        assert_eq!(
            ran,
            usize::from(tried.is_ok()),
            "{operation} on {at:?} ran {ran} times: {tried:?}"
        );
        tried
    }

    /// The other two ways to call reach nothing.
    async fn wrong_ways(&self, kind: Kind, operation: &str, at: Option<&str>) {
        let before = self.runs.load(Ordering::Relaxed);
        for wrong in KINDS.iter().filter(|wrong| {
            wrong.is_unary() != kind.is_unary() || (!kind.is_unary() && **wrong != kind)
        }) {
            let call = self.to(operation, at);
            let refused = match wrong {
                Kind::Query | Kind::Mutation => self.world.door.call(call).await.map(drop),
                Kind::Subscription => self.world.door.subscribe(call).await.map(drop),
                Kind::Channel => self.world.door.open(call).await.map(drop),
            };
            assert!(
                refused.is_err(),
                "{operation}, a {kind}, was called as a {wrong}"
            );
        }
        assert_eq!(self.runs.load(Ordering::Relaxed), before);
    }

    fn ask(&self, operation: &str, input: Value) -> BoxFuture<'_, Result<Value, CallError>> {
        let operation = operation.to_owned();
        async move { self.world.call(&self.caller, &operation, input).await }.boxed()
    }

    /// Names in the answer of a listing; none for whoever may not even ask.
    async fn names(&self, operation: &str, input: Value, field: &str) -> BTreeSet<String> {
        match self.ask(operation, input).await {
            Ok(answer) => answer[field]
                .as_array()
                .unwrap()
                .iter()
                .filter(|entry| entry["peer"].is_null() || operation != "services/search")
                .map(|entry| entry["name"].as_str().unwrap().to_owned())
                .filter(|name| name.starts_with("demo/"))
                .collect(),
            Err(refused) => {
                assert_eq!(refused.code, "UNAUTHENTICATED");
                BTreeSet::new()
            }
        }
    }

    async fn place(&self, made: &[Made], at: Option<&str>) {
        let mut callable = BTreeSet::new();
        for (number, made) in made.iter().enumerate() {
            let operation = format!("demo/op-{number}");
            let tried = self.attempt(made.kind, &operation, at).await;
            self.wrong_ways(made.kind, &operation, at).await;
            self.check_refusal(made, &operation, at, &tried);
            self.check_description(&operation, at, tried.is_ok()).await;
            self.check_permit_and_batch(made, &operation, at, &tried)
                .await;
            if tried.is_ok() {
                callable.insert(operation);
            }
        }
        let seen_by_known: BTreeSet<String> = if self.caller.is_authenticated() {
            callable.clone()
        } else {
            BTreeSet::new()
        };
        assert_eq!(
            self.names(
                "services/list",
                json!({ "peer": at, "limit": 1000 }),
                "operations"
            )
            .await,
            seen_by_known
        );
        let found = match at {
            None => {
                self.names(
                    "services/search",
                    json!({ "query": "counts", "limit": 200 }),
                    "results",
                )
                .await
            }
            Some(at) => self.found_on(at).await,
        };
        assert_eq!(found, seen_by_known);
        self.check_suggestions(&callable, at).await;
    }

    async fn found_on(&self, at: &str) -> BTreeSet<String> {
        match self
            .ask(
                "services/search",
                json!({ "query": "counts", "peer": at, "limit": 200 }),
            )
            .await
        {
            Ok(answer) => answer["results"]
                .as_array()
                .unwrap()
                .iter()
                .inspect(|entry| assert_eq!(entry["peer"], at))
                .map(|entry| entry["name"].as_str().unwrap().to_owned())
                .collect(),
            Err(_) => BTreeSet::new(),
        }
    }

    fn check_refusal(&self, made: &Made, operation: &str, at: Option<&str>, tried: &Tried) {
        let Err(refused) = tried else { return };
        let own = matches!(self.caller.kind(), alknet_core::CallerKind::Authority);
        let want = match (self.caller.is_authenticated(), made.internal && !own) {
            (false, _) => "UNAUTHENTICATED",
            (true, true) => "NOT_FOUND",
            (true, false) => "FORBIDDEN",
        };
        // A peer's operation is no secret kept by this node's visibility: the
        // grant for the peer comes first.
        let fits = refused.code == want || (at.is_some() && refused.code == "FORBIDDEN");
        assert!(fits, "{operation}: {refused}, not {want}");
        if refused.code == "FORBIDDEN" {
            let details = refused.details.as_ref().unwrap();
            assert!(
                details["missing"].is_object()
                    && (details["grant"].is_string() || details["missing"]["pointer"].is_string()),
                "{details}"
            );
        }
    }

    async fn check_description(&self, operation: &str, at: Option<&str>, callable: bool) {
        let described = self
            .ask("services/schema", json!({ "name": operation, "peer": at }))
            .await;
        match described {
            Ok(described) => {
                assert!(
                    callable,
                    "{operation} on {at:?} is described and not called"
                );
                assert_eq!(described["name"], operation);
                assert!(described.get("input").is_some());
            }
            Err(refused) if self.caller.is_authenticated() => {
                assert!(
                    !callable,
                    "{operation} on {at:?} is called and not described"
                );
                assert_eq!(refused.code, "NOT_FOUND");
            }
            Err(refused) => assert_eq!(refused.code, "UNAUTHENTICATED"),
        }
    }

    async fn check_permit_and_batch(
        &self,
        made: &Made,
        operation: &str,
        at: Option<&str>,
        tried: &Tried,
    ) {
        let code = |error: &CallError| error.code.clone().into_owned();
        if at.is_none() {
            let permit = self.world.door.authorize(&self.caller, operation);
            assert_eq!(
                permit.as_ref().err().map(code),
                tried.as_ref().err().map(code),
                "permit for {operation}"
            );
            assert_eq!(
                self.world.door.may_call(&self.caller, operation).is_ok(),
                tried.is_ok()
            );
        }
        if made.kind.is_unary() {
            let answers: Vec<_> = self
                .world
                .door
                .batch(vec![self.to(operation, at)])
                .collect()
                .await;
            assert_eq!(
                answers[0].1.as_ref().err().map(code),
                tried.as_ref().err().map(code),
                "batch of {operation}"
            );
        }
    }

    /// A misspelt name brings only what may be called.
    async fn check_suggestions(&self, callable: &BTreeSet<String>, at: Option<&str>) {
        let misspelt = self
            .world
            .door
            .call(self.to("demo/opp-1", at))
            .await
            .unwrap_err();
        let asked = self
            .ask(
                "services/schema",
                json!({ "name": "demo/opp-1", "peer": at }),
            )
            .await
            .unwrap_err();
        for error in [&misspelt, &asked] {
            let details = error.details.as_deref().cloned().unwrap_or_default();
            for near in details["suggestions"].as_array().into_iter().flatten() {
                let near = near.as_str().unwrap();
                let known = !near.starts_with("demo/") || callable.contains(near);
                assert!(known && self.caller.is_authenticated(), "suggested {near}");
            }
        }
        if !self.caller.is_authenticated() {
            assert_eq!(misspelt.code, "UNAUTHENTICATED");
        }
    }

    async fn peers(&self, case: &Case) {
        let answer = self.ask("services/list-peers", json!({})).await;
        let Ok(answer) = answer else {
            assert!(!self.caller.is_authenticated(), "{answer:?}");
            return;
        };
        for shown in answer["peers"].as_array().unwrap() {
            let at = shown["peer"].as_str().unwrap();
            let made = if at == "nas" { &case.nas } else { &case.pi };
            for operation in shown["operations"].as_array().unwrap() {
                let operation = operation.as_str().unwrap();
                let number: usize = operation.trim_start_matches("demo/op-").parse().unwrap();
                self.attempt(made[number].kind, operation, Some(at))
                    .await
                    .unwrap();
            }
            let held = &self.caller.identity().resources;
            let any = !shown["operations"].as_array().unwrap().is_empty();
            assert!(
                any || held.holds(alknet_core::ResourceKind::Peer, "services/list", at),
                "{at} is shown"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn every_way_agrees_with_one_gate(case in case()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let walk = Walk::make(&case);
            walk.place(&case.local, None).await;
            walk.place(&case.nas, Some("nas")).await;
            walk.place(&case.pi, Some("pi")).await;
            walk.peers(&case).await;
        });
    }
}

#[tokio::test]
async fn schemas_of_internal_operations_cannot_be_read() {
    let runs = Arc::new(AtomicUsize::new(0));
    let secret = Operation::query("demo/secret", "Holds something back.")
        .internal()
        .raw(counted(Kind::Query, &runs));
    let world = World::new(vec![secret]);
    let root = world.caller("root", &["admin", "demo/secret"]);
    let refused = world
        .call(&root, "services/schema", json!({ "name": "demo/secret" }))
        .await
        .unwrap_err();
    assert_eq!(refused.code, "NOT_FOUND");
    let listed = world
        .call(&root, "services/list", json!({ "schemas": true }))
        .await
        .unwrap();
    assert!(!listed.to_string().contains("demo/secret"));
    let found = world
        .call(
            &root,
            "services/search",
            json!({ "query": "secret holds back" }),
        )
        .await
        .unwrap();
    assert!(!found.to_string().contains("demo/secret"));
    let near = world
        .call(&root, "services/schema", json!({ "name": "demo/secre" }))
        .await
        .unwrap_err();
    assert!(!format!("{near:?}").contains("demo/secret"));
    assert_eq!(
        world.door.authorize(&root, "demo/secret").unwrap_err().code,
        "NOT_FOUND"
    );
    assert_eq!(runs.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn an_anonymous_caller_cannot_tell_what_exists() {
    let runs = Arc::new(AtomicUsize::new(0));
    let exists = Operation::query("demo/exists", "Is there.").raw(counted(Kind::Query, &runs));
    let hidden = Operation::query("demo/hidden", "Is there.")
        .internal()
        .raw(counted(Kind::Query, &runs));
    let world = World::new(vec![exists, hidden]);
    world
        .registry
        .apply(Change::SetPeer(peer("nas"), vec![]))
        .unwrap();
    let nobody = Caller::anonymous();
    let mut told = Vec::new();
    for operation in ["demo/exists", "demo/hidden", "demo/never"] {
        told.push(world.call(&nobody, operation, json!({})).await.unwrap_err());
        told.push(world.door.authorize(&nobody, operation).unwrap_err());
        told.push(world.call_on(&nobody, "nas", operation).await.unwrap_err());
        told.push(world.call_on(&nobody, "gone", operation).await.unwrap_err());
        told.push(world.call_on(&nobody, "any", operation).await.unwrap_err());
    }
    told.push(world.door.authorize(&nobody, "not a name").unwrap_err());
    assert!(told.iter().all(|error| *error == told[0]), "{told:?}");
    assert_eq!(told[0].code, "UNAUTHENTICATED");
}

#[tokio::test]
async fn a_stale_caller_sees_what_it_may_call_now() {
    let runs = Arc::new(AtomicUsize::new(0));
    let world = World::new(vec![
        Operation::query("demo/thing", "Is there.").raw(counted(Kind::Query, &runs)),
    ]);
    let bob = world.caller("bob", &["demo:thing"]);
    let view = world.registry.view();
    let entry = view
        .local()
        .find(|entry| entry.spec().name == name("demo/thing"))
        .unwrap();
    assert!(world.door.may_see(&bob, entry));
    world.ids.put(key("bob"), identity("bob", &[]));
    assert!(!world.door.may_see(&bob, entry));
    world.ids.remove(&key("bob"));
    assert!(!world.door.may_see(&bob, entry));
}
