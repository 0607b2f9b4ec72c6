//! A key of a peer is never wider than the peer, nor wider than itself: it may
//! do what both may, each judged as if it were alone.

use crate::world::{World, api_key, echo, fails, identity, key, name, peer, route};
use alknet_core::{
    Access, Caller, ErrorCode, Identity, Limits, Operation, PeerId, Registration, ResourceKind,
    storage::OwnershipProvider,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

const GRANTS: &[&str] = &[
    "*",
    "fs:*",
    "fs:read",
    "fs:write",
    "net:dial",
    "reader",
    "editor",
    "operator",
    "admin",
    "fs/read",
    "fs/write",
    "net/dial",
    "bucket:*=*",
    "bucket:www/**=read",
    "bucket:www/a=read,write",
    "!bucket:www/secret/**=*",
    "!bucket:*=write",
    "net:*=dial",
    "net:10.0.0.0/8=dial",
    "net:*.lan:80=dial",
    "!net:10.1.0.0/16=dial",
    "peer:nas=fs/*",
    "peer:hub/nas=fs/read",
    "peer:*=*",
    "!peer:nas=fs/write",
];
const FILES: &[&str] = &[
    "www",
    "www/a",
    "www//a/",
    "www/secret/b",
    "logs/x",
    "q/ab",
    "..",
];
const ADDRESSES: &[(&str, &str)] = &[
    ("10.0.0.1:80", "10.0.0.1:80"),
    ("10.1.0.1:80", "10.1.0.1:80"),
    ("db.lan:80", "10.0.0.7:80"),
    ("db.lan:80", "10.1.0.7:80"),
    ("example.org:80", "192.0.2.1:80"),
    ("127.0.0.1:22", "127.0.0.1:22"),
];

/// `bob` made one thing.
struct Bob;
impl OwnershipProvider for Bob {
    fn owns(&self, owner: &PeerId, kind: ResourceKind, resource: &str) -> bool {
        owner.as_str() == "bob" && kind == ResourceKind::Bucket && resource == "q/ab"
    }
}

fn operations() -> Vec<Registration> {
    let file = |verb: &str| {
        let operation = match verb {
            "read" => Operation::query("fs/read", "Reads."),
            _ => Operation::mutation("fs/write", "Writes."),
        };
        operation
            .requires(&format!("fs:{verb}"))
            .resource("bucket", verb, "/file")
    };
    vec![
        file("read").or_owner().raw(echo()),
        file("write").raw(echo()),
        Operation::query("fs/any", "Takes either scope.")
            .requires_any(&["fs:read", "fs:write"])
            .raw(echo()),
        Operation::query("net/dial", "Dials.")
            .requires("net:dial")
            .resource("net", "dial", "/file")
            .or_resolved()
            .raw(echo()),
        Operation::query("node/hidden", "Is nobody's business.")
            .requires("fs:read")
            .internal()
            .raw(echo()),
        Operation::query("node/known", "Is for everybody known.")
            .access(Access::Authenticated)
            .raw(echo()),
        Operation::query("node/open", "Is for everybody.")
            .public()
            .raw(echo()),
    ]
}

thread_local! {
    static WORLD: World = World::with(operations(), |door| {
        // How often a key asks is not the question here.
        let mut limits = Limits::default();
        (limits.rate_burst, limits.rate_per_second) = (u32::MAX, u32::MAX);
        door.owners(Arc::new(Bob)).limits(limits)
    });
}

/// Everything that can be asked about a caller, each with what came of it.
fn may(world: &World, caller: &Caller) -> Vec<(String, Option<Value>)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let mut may = Vec::new();
    let view = world.registry.view();
    for entry in view.local() {
        let operation = entry.spec().name.as_str();
        let is_seen = world.door.may_see(caller, entry);
        may.push((format!("see {operation}"), is_seen.then_some(Value::Null)));
        let texts = FILES.iter().chain(ADDRESSES.iter().map(|(asked, _)| asked));
        for text in texts {
            let called = world.call(caller, operation, json!({ "file": text }));
            let called = runtime.block_on(called).ok();
            may.push((format!("call {operation} {text}"), called));
        }
        for at in ["nas", "hub/nas", "nas/hub"] {
            let asked = world
                .door
                .may_call_at(caller, &name(operation), &route(at))
                .ok();
            may.push((format!("go {at} {operation}"), asked.map(|()| Value::Null)));
        }
        let permit = world.door.authorize(caller, operation).ok();
        for action in ["read", "write", "dial"] {
            for text in FILES {
                let checked = permit
                    .as_ref()
                    .and_then(|permit| permit.check(action, ResourceKind::Bucket, text).ok());
                let step = format!("step {operation} {action} {text}");
                may.push((step, checked.map(Value::from)));
            }
            for (asked, address) in ADDRESSES {
                let checked = permit.as_ref().and_then(|permit| {
                    let address = address.parse().unwrap();
                    permit.check_address(action, asked, address).ok()
                });
                let step = format!("step {operation} {action} {asked} {address}");
                may.push((step, checked.map(|()| Value::Null)));
            }
        }
    }
    may
}

/// The same rights under another name, which owns nothing.
fn alone(grants: &[&str]) -> Identity {
    identity("alone", grants)
}

fn grants() -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(prop::sample::select(GRANTS), 0..6)
}

/// Whether the key itself lets something be read, by any grant.
fn reads_some(with_key: &Caller) -> bool {
    let ceiling = with_key.identity().layers().last().unwrap();
    ceiling.operations.contains(&name("fs/read"))
        || ceiling.resources.might_hold(ResourceKind::Bucket, "read")
}

/// How many of the answers for the key are yes.
fn check(of_peer: &[&str], of_key: &[&str]) -> usize {
    WORLD.with(|world| {
        let bob = world.caller("bob", of_peer);
        world.ids.put(key("alone"), alone(of_key));
        let key_alone = Caller::resolve(&*world.ids, key("alone")).unwrap();
        let ceiling = Identity {
            id: peer("bob"),
            ..alone(of_key)
        };
        let narrowed = bob.identity().under(Arc::new(ceiling));
        world.ids.put(api_key(1), narrowed);
        let with_key = Caller::resolve(&*world.ids, api_key(1)).unwrap();

        let answers = may(world, &with_key);
        let (peer_may, key_may) = (may(world, &bob), may(world, &key_alone));
        for (((asked, got), (_, peer)), (_, key)) in answers.iter().zip(peer_may).zip(key_may) {
            // Alone it might own something, and is listed what only owners call
            // and given a permit for it; a key owns nothing.
            let by_owning = ["see fs/read", "step fs/read "]
                .iter()
                .any(|start| asked.starts_with(start));
            if by_owning && got.is_none() && !reads_some(&with_key) {
                continue;
            }
            let want = peer.zip(key).map(|(peer, _)| peer);
            assert_eq!(got, &want, "{asked}: peer {of_peer:?}, key {of_key:?}");
        }
        answers.iter().filter(|(_, got)| got.is_some()).count()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn a_key_may_do_what_its_peer_and_itself_both_may(of_peer in grants(), of_key in grants()) {
        check(&of_peer, &of_key);
    }
}

#[test]
fn keys_of_the_model_may_do_something_and_not_everything() {
    let (all, some, none) = (
        check(&["admin"], &["admin"]),
        check(&["admin"], &["reader", "net/dial"]),
        check(&["admin"], &[]),
    );
    assert!(all > some && some > none, "{all} {some} {none}");
}

#[test]
fn a_whole_operation_of_the_peer_and_a_part_of_it_of_the_key_is_the_part() {
    // Neither holds what the other holds, and still both allow it.
    check(&["fs/read"], &["fs:read", "bucket:www/**=read"]);
    check(&["fs:read", "bucket:www/**=read"], &["fs/read"]);
    check(
        &["*", "bucket:*=*"],
        &["fs/read", "!bucket:www/secret/**=*"],
    );
}

#[tokio::test]
async fn who_lacks_a_right_is_told_whether_it_is_the_key() {
    let world = World::new(operations());
    let bob = world.caller("bob", &["reader", "peer:nas=fs/*"]);
    let ceiling = identity("bob", &["bucket:www/**=read"]);
    world
        .ids
        .put(api_key(1), bob.identity().under(Arc::new(ceiling)));
    let narrow = Caller::resolve(&*world.ids, api_key(1)).unwrap();
    let id = narrow.key().unwrap().to_string();

    let input = json!({ "file": "www/a" });
    let told = fails(
        world.call(&narrow, "fs/read", input.clone()).await,
        ErrorCode::Forbidden,
    );
    let want = format!("key `{id}` of `bob` may not call `fs/read`: missing scope `fs:read`");
    assert_eq!(told.message, want);
    let details = told.details.unwrap();
    assert_eq!(details["key"], id);
    assert!(details.get("grant").is_none(), "{details}");

    // If neither may, as well: to grant the peer more would not help.
    let told = fails(
        world.call(&narrow, "fs/write", input).await,
        ErrorCode::Forbidden,
    );
    assert!(told.message.starts_with(&format!("key `{id}`")), "{told}");

    // What the peer alone lacks is said of the peer, with what would help.
    let told = fails(
        world
            .call(&narrow, "fs/read", json!({ "file": "www/a" }))
            .await,
        ErrorCode::Forbidden,
    );
    assert!(told.details.unwrap().get("key").is_some());
    let wide = identity("bob", &["*", "bucket:*=*"]);
    world
        .ids
        .put(api_key(2), bob.identity().under(Arc::new(wide)));
    let wide = Caller::resolve(&*world.ids, api_key(2)).unwrap();
    let told = fails(
        world
            .call(&wide, "fs/write", json!({ "file": "www/a" }))
            .await,
        ErrorCode::Forbidden,
    );
    assert!(told.message.starts_with("`bob` may not call"), "{told}");
    let details = told.details.unwrap();
    assert_eq!(details["grant"], "fs:write");
    assert!(details.get("key").is_none());

    let told = fails(
        world.call_on(&narrow, "nas", "fs/read").await,
        ErrorCode::Forbidden,
    );
    assert!(
        told.message.starts_with(&format!("key `{id}` of")),
        "{told}"
    );
}

#[tokio::test]
async fn a_step_that_the_key_lacks_is_told_of_the_key_and_suggests_no_grant() {
    let world = World::new(operations());
    let bob = world.caller("bob", &["fs:read", "bucket:**=read"]);
    let ceiling = identity("bob", &["fs:read", "bucket:www/**=read"]);
    world
        .ids
        .put(api_key(1), bob.identity().under(Arc::new(ceiling)));
    let narrow = Caller::resolve(&*world.ids, api_key(1)).unwrap();
    let id = narrow.key().unwrap().to_string();
    let permit = world.door.authorize(&narrow, "fs/read").unwrap();
    permit.check("read", ResourceKind::Bucket, "www/a").unwrap();
    let told = permit.check("read", ResourceKind::Bucket, "logs/a");
    let told = fails(told, ErrorCode::Forbidden);
    assert!(
        told.message.starts_with(&format!("key `{id}` of `bob`")),
        "{told}"
    );
    let details = told.details.unwrap();
    assert_eq!(details["key"], id);
    assert_eq!(details["missing"]["resource"], "bucket:logs/a=read");
    assert!(details.get("grant").is_none(), "{details}");

    // What the peer lacks itself is said of the peer.
    let permit = world.door.authorize(&bob, "fs/read").unwrap();
    let told = permit.check("read", ResourceKind::Net, "192.0.2.1:80");
    let told = fails(told, ErrorCode::Forbidden);
    assert!(told.message.starts_with("`bob` may not"), "{told}");
    assert!(told.details.unwrap().get("grant").is_some());
}

#[tokio::test]
async fn a_key_sees_nothing_listed_that_only_an_owner_may_call() {
    let reads = Operation::query("own/read", "Reads.")
        .requires("fs:read")
        .resource("bucket", "read", "/file")
        .or_owner()
        .raw(echo());
    let world = World::new(vec![reads]);
    let bob = world.caller("bob", &["fs:read"]);
    let narrowed = bob
        .identity()
        .under(Arc::new(identity("bob", &["fs:read"])));
    world.ids.put(api_key(1), narrowed);
    let narrow = Caller::resolve(&*world.ids, api_key(1)).unwrap();
    // The peer may, as the owner of something. Its key owns nothing.
    world.door.authorize(&bob, "own/read").unwrap();
    fails(
        world.door.authorize(&narrow, "own/read"),
        ErrorCode::Forbidden,
    );
}
