//! Routes through several peers: what is granted, what is told, what goes on.

use crate::world::{Audited, World, echo_channel, fails, peer, route};
use alknet_core::{
    Call, CallError, Caller, Change, ErrorCode, Forwarder, Handler, Kind, Operation, OperationName,
    Originator, Output, PeerId, Route, RouteStep,
};
use futures::StreamExt;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// What a peer was sent: which operation, as which kind, by which route.
type Sent = Arc<Mutex<Vec<(String, Kind, String)>>>;

/// Answers for every peer with its id.
struct Answers(Sent);

impl Forwarder for Answers {
    fn handler(&self, at: &PeerId, operation: &OperationName, kind: Kind) -> Handler {
        let (at, operation, sent) = (at.to_string(), operation.to_string(), self.0.clone());
        let note = move |route: &[RouteStep]| {
            let route: Vec<String> = route.iter().map(ToString::to_string).collect();
            let note = (operation.clone(), kind, route.join("/"));
            sent.lock().unwrap().push(note);
            Output::Value(json!(at))
        };
        match kind {
            Kind::Subscription => Handler::Stream(Arc::new(move |cx, _| {
                let item = note(cx.route());
                Box::pin(async move { Ok(futures::stream::iter([Ok(item)]).boxed()) })
            })),
            Kind::Channel => {
                let Handler::Channel(run) = echo_channel() else {
                    unreachable!("it is a channel")
                };
                Handler::Channel(Arc::new(move |cx, input, opening| {
                    note(cx.route());
                    run(cx, input, opening)
                }))
            }
            _ => Handler::Unary(Arc::new(move |cx, _| {
                let reply = note(cx.route());
                Box::pin(async move { Ok(reply) })
            })),
        }
    }
}

fn hub() -> (World, Sent) {
    let sent = Sent::default();
    let world = World::with(vec![], |door| {
        door.known_peers(|| ["hub", "nas"].map(peer).to_vec())
            .node("home", [7; 32])
            .owner(peer("owner"))
    });
    world.door.set_forwarder(Arc::new(Answers(sent.clone())));
    (world, sent)
}

fn steps(peers: &[&str]) -> Route {
    let step = |text: &&str| match *text {
        "any" => RouteStep::Any,
        id => RouteStep::Peer(peer(id)),
    };
    peers.iter().map(step).collect()
}

fn to(caller: &Caller, operation: &str, at: &str) -> Call {
    Call::new(operation, caller.clone()).unwrap().on(route(at))
}

#[tokio::test]
async fn what_lies_behind_a_peer_is_reached_with_a_grant_for_the_route() {
    let (world, sent) = hub();
    // Also where the hub offers an operation of that name itself.
    let own = Operation::query("fs/stat", "Is the hub's own.").raw(crate::world::echo());
    world
        .registry
        .apply(Change::SetPeer(peer("hub"), vec![own]))
        .unwrap();
    let bob = world.caller("bob", &["peer:hub/tv=fs/*", "peer:hub/any=fs/*"]);
    let said = world.call_on(&bob, "hub/tv", "fs/stat").await.unwrap();
    assert_eq!(said, "hub");
    let items = world.door.subscribe(to(&bob, "fs/watch", "hub/tv")).await;
    assert_eq!(items.unwrap().count().await, 1);
    let channel = world.door.open(to(&bob, "fs/read", "hub/tv")).await;
    channel.unwrap().done.await.unwrap();
    world.call_on(&bob, "hub/any", "fs/stat").await.unwrap();
    let sent = sent.lock().unwrap().clone();
    let want = [
        ("fs/stat", Kind::Mutation, "hub/tv"),
        ("fs/watch", Kind::Subscription, "hub/tv"),
        ("fs/read", Kind::Channel, "hub/tv"),
        ("fs/stat", Kind::Mutation, "hub/any"),
    ];
    assert_eq!(
        sent,
        want.map(|(operation, kind, at)| (operation.to_owned(), kind, at.to_owned()))
    );
}

#[tokio::test]
async fn a_grant_covers_its_own_route_and_no_other() {
    let (world, sent) = hub();
    let refused = |held: &'static [&'static str], at: &'static str| {
        let bob = world.caller("bob", held);
        let world = &world;
        async move {
            fails(
                world.call_on(&bob, at, "fs/stat").await,
                ErrorCode::Forbidden,
            )
        }
    };
    // What may be used is one thing, what lies behind it another.
    for (held, at) in [
        (&["peer:hub=*"][..], "hub/tv"),
        (&["peer:hub/tv=*"][..], "hub"),
        (&["peer:hub/tv=*"][..], "hub/tv/pi"),
        (&["peer:tv=*"][..], "hub/tv"),
        (&["peer:hub/tv=fs/list"][..], "hub/tv"),
        (&["peer:*=*", "!peer:hub/tv=fs/*"][..], "hub/tv"),
        (&[][..], "hub/tv"),
        (&["*", "fs/stat"][..], "hub/tv"),
    ] {
        let error = refused(held, at).await;
        let want = json!(format!("peer:{at}=fs/stat"));
        let details = error.details.unwrap();
        assert_eq!(details["missing"]["resource"], want, "{held:?} {at}");
        assert_eq!(details["grant"], want);
    }
    assert!(sent.lock().unwrap().is_empty());
    let all = world.caller("all", &["peer:*=*"]);
    world
        .call_on(&all, "hub/tv/pi/any", "fs/stat")
        .await
        .unwrap();
}

#[tokio::test]
async fn whoever_may_not_go_there_hears_the_same_of_every_route() {
    let (world, _) = hub();
    let bob = world.caller("bob", &["peer:nas=fs/list"]);
    let mut told = Vec::new();
    for at in [
        "hub/tv",
        "gone/tv",
        "nas/tv",
        "hub",
        "gone",
        "hub/any",
        "any-thing/x",
    ] {
        let error = world.call_on(&bob, at, "fs/stat").await.unwrap_err();
        let items = world.door.subscribe(to(&bob, "fs/stat", at)).await;
        assert_eq!(items.unwrap_err(), error);
        let channel = world.door.open(to(&bob, "fs/stat", at)).await;
        assert_eq!(channel.unwrap_err(), error);
        told.push(format!("{error:?}").replace(at, "X"));
    }
    assert!(told.iter().all(|one| *one == told[0]), "{told:#?}");
    let nobody = world
        .call_on(&Caller::anonymous(), "hub/tv", "fs/stat")
        .await;
    fails(nobody, ErrorCode::Unauthenticated);
}

#[tokio::test]
async fn an_unknown_first_peer_is_told_to_those_who_may_use_it() {
    let (world, _) = hub();
    let bob = world.caller("bob", &["peer:hbu/tv=*", "peer:hub/tv=*", "peer:nas=*"]);
    let error = fails(
        world.call_on(&bob, "hbu/tv", "fs/stat").await,
        ErrorCode::NotFound,
    );
    let details = error.details.unwrap();
    assert_eq!(details["peer"], "hbu");
    // A near name, if the rest of the route is open to bob too.
    assert_eq!(details["suggestions"], json!(["hub"]));
    let eve = world.caller("eve", &["peer:hbu/tv=*", "peer:hub=*"]);
    let error = world.call_on(&eve, "hbu/tv", "fs/stat").await.unwrap_err();
    assert!(error.details.unwrap().get("suggestions").is_none());
}

#[tokio::test]
async fn a_route_has_four_peers_and_any_only_as_the_last() {
    let (world, sent) = hub();
    let root = world.caller("root", &["admin"]);
    let call = |peers: &[&str]| {
        let mut call = Call::new("fs/stat", root.clone()).unwrap();
        call.route = steps(peers);
        world.door.call(call)
    };
    call(&["hub", "b", "c", "d"]).await.unwrap();
    call(&["hub", "b", "c", "any"]).await.unwrap();
    sent.lock().unwrap().clear();
    for (peers, why) in [
        (&["hub", "b", "c", "d", "e"][..], "5 steps, at most 4"),
        (&["any", "hub"][..], "last step"),
        (&["hub", "any", "b"][..], "last step"),
    ] {
        let error = fails(call(peers).await, ErrorCode::InvalidInput);
        assert!(format!("{error:?}").contains(why), "{error:?}");
    }
    assert!(sent.lock().unwrap().is_empty());
    for (text, why) in [
        ("a/b/c/d/e", "5 steps, at most 4"),
        ("any/a", "last step"),
        ("a//b", "is not a name"),
    ] {
        let error = alknet_core::parse_route(text).unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
    assert_eq!(route("a/b/c/any"), steps(&["a", "b", "c", "any"]));
}

#[tokio::test]
async fn a_channel_through_a_hub_ends_when_its_grant_does() {
    struct Open;
    impl Forwarder for Open {
        fn handler(&self, _: &PeerId, _: &OperationName, _: Kind) -> Handler {
            Handler::Channel(Arc::new(|_, _, opening| {
                Box::pin(async move {
                    let _end = opening.accept(&Value::Null)?;
                    std::future::pending().await
                })
            }))
        }
    }
    let world = World::with(vec![], |door| door.known_peers(|| vec![peer("hub")]));
    world.door.set_forwarder(Arc::new(Open));
    let bob = world.caller("bob", &["peer:hub/tv=fs/*"]);
    let channel = world
        .door
        .open(to(&bob, "fs/read", "hub/tv"))
        .await
        .unwrap();
    let asked = |operation: &str| {
        let operation = OperationName::parse(operation).unwrap();
        world.door.may_call_at(&bob, &operation, &route("hub/tv"))
    };
    asked("fs/read").unwrap();
    fails(asked("shell/exec"), ErrorCode::Forbidden);
    world.caller("bob", &["peer:hub=fs/*"]);
    let error = fails(asked("fs/read"), ErrorCode::Forbidden);
    let ended: Result<_, CallError> = channel.done.await;
    assert_eq!(ended.unwrap_err(), error);
}

#[tokio::test]
async fn the_originator_names_who_came_here_and_never_the_node_itself() {
    let (world, _) = hub();
    let note = |node: &str, label: &str| {
        Some(Originator {
            node: node.into(),
            label: label.into(),
        })
    };
    let (bob, owner) = (world.caller("bob", &[]), world.caller("owner", &[]));
    let beyond = |caller: &Caller, said: Option<Originator>| {
        world.door.originator_beyond(caller, said.as_ref())
    };
    assert_eq!(beyond(&bob, None), note("home", "bob"));
    assert_eq!(beyond(&owner, None), None);
    assert_eq!(beyond(&Caller::host(), None), None);
    for caller in [&bob, &owner, &Caller::host()] {
        assert_eq!(beyond(caller, note("far", "eve")), note("far", "eve"));
    }
    // What this node's own command line started, by way of an operation.
    let middle = Caller::authority(bob.identity().clone());
    assert_eq!(beyond(&middle, note("home", "owner")), None);
    assert_eq!(beyond(&middle, note("home", "bob")), note("home", "bob"));
    // Nobody else is it.
    for label in ["owner", "host"] {
        assert_eq!(beyond(&bob, note("home", label)), note("home", "bob"));
    }
}

fn lost(code: ErrorCode) -> CallError {
    CallError::new(code, "gone")
}

/// Peers of which the first that is asked breaks off with `code` after `items`
/// items.
async fn subscribed(code: ErrorCode, items: usize) -> (Vec<Result<Value, CallError>>, usize) {
    let (sink, audited) = Audited::start();
    let world = World::with(vec![], |door| door.audit(sink));
    let first = Arc::new(Mutex::new(true));
    for id in ["aa", "bb", "cc"] {
        let first = first.clone();
        let counts = Operation::subscription("demo/count", "Counts.")
            .authenticated()
            .raw(Handler::Stream(Arc::new(move |_, _| {
                let breaks = std::mem::take(&mut *first.lock().unwrap());
                let good = (0..if breaks { items } else { 3 }).map(|n| Ok(Output::Value(json!(n))));
                let end = breaks.then(|| Err(lost(code)));
                let all: Vec<_> = good.chain(end).collect();
                Box::pin(async move { Ok(futures::stream::iter(all).boxed()) })
            })));
        world
            .registry
            .apply(Change::SetPeer(peer(id), vec![counts]))
            .unwrap();
    }
    let call = to(&Caller::host(), "demo/count", "any");
    let items = world.door.subscribe(call).await.unwrap();
    let items = items
        .map(|item| item.and_then(Output::into_value))
        .collect()
        .await;
    drop(world);
    (items, audited.rows().await.len())
}

#[tokio::test]
async fn a_subscription_that_breaks_off_before_its_first_item_is_tried_once_more() {
    for code in [ErrorCode::Unavailable, ErrorCode::Lost] {
        let (items, rows) = subscribed(code, 0).await;
        let items: Vec<Value> = items.into_iter().map(Result::unwrap).collect();
        assert_eq!((items, rows), (vec![json!(0), json!(1), json!(2)], 2));
    }
    // What has begun is not begun again, and other errors are answers.
    let (items, rows) = subscribed(ErrorCode::Lost, 1).await;
    assert_eq!((items.len(), rows), (2, 1));
    assert_eq!(items[1], Err(lost(ErrorCode::Lost)));
    let (items, rows) = subscribed(ErrorCode::Forbidden, 0).await;
    assert_eq!((items.len(), rows), (1, 1));
}

#[tokio::test]
async fn any_takes_turns() {
    let world = World::new(vec![]);
    for id in ["aa", "bb", "cc"] {
        let says = Operation::mutation("demo/who", "Says who it is.")
            .authenticated()
            .raw(Handler::Unary(Arc::new(move |_, _| {
                Box::pin(async move { Ok(Output::Value(json!(id))) })
            })));
        world
            .registry
            .apply(Change::SetPeer(peer(id), vec![says]))
            .unwrap();
    }
    let bob = world.caller("bob", &["peer:aa=demo/*", "peer:cc=demo/*"]);
    let mut asked = Vec::new();
    for _ in 0..4 {
        asked.push(world.call_on(&bob, "any", "demo/who").await.unwrap());
    }
    assert_eq!(asked[0], asked[2]);
    assert_eq!(asked[1], asked[3]);
    asked.sort_by_key(Value::to_string);
    assert_eq!(asked, ["aa", "aa", "cc", "cc"]);
}
