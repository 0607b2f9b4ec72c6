//! Access decisions, one line each.

use crate::world::{World, echo, fails, identity, key, peer};
use alknet_core::{
    Access, AccessControl, Caller, ErrorCode, Operation, OperationBuilder, PeerId, Registration,
    ResourceKind, Scope, storage::OwnershipProvider,
};
use serde_json::{Value, json};
use std::sync::Arc;

const OK: &str = "ok";
const FORBIDDEN: &str = "FORBIDDEN";
const INVALID: &str = "INVALID_INPUT";

fn query(build: impl FnOnce(OperationBuilder) -> OperationBuilder) -> Registration {
    build(Operation::query("demo/thing", "Answers with its input.")).raw(echo())
}

/// `ada` made the bucket `hers`.
struct Ada;
impl OwnershipProvider for Ada {
    fn owns(&self, owner: &PeerId, kind: ResourceKind, resource: &str) -> bool {
        owner.as_str() == "ada" && kind == ResourceKind::Bucket && resource.starts_with("hers")
    }
}

/// `ada` with `grants` calls an operation with `input`.
async fn check(operation: Registration, grants: &[&str], input: Value, want: &str) {
    let world = World::with(vec![operation], |door| door.owners(Arc::new(Ada)));
    let ada = world.caller("ada", grants);
    let told = match world.call(&ada, "demo/thing", input.clone()).await {
        Ok(_) => OK.to_owned(),
        Err(error) => error.code.into_owned(),
    };
    assert_eq!(told, want, "{grants:?} {input}");
}

async fn check_scopes(all: &[&str], any: &[&str], grants: &[&str], want: &str) {
    let scopes = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| Scope::parse(text).unwrap())
            .collect()
    };
    let rule = AccessControl {
        scopes_all: scopes(all),
        scopes_any: scopes(any),
        resources: vec![],
    };
    check(
        query(|op| op.access(Access::Rule(rule))),
        grants,
        json!({}),
        want,
    )
    .await;
}

/// An operation that reads the files at `/file`.
fn reads() -> Registration {
    query(|op| op.requires("fs:read").resource("bucket", "read", "/file"))
}

async fn check_file(grants: &[&str], file: Value, want: &str) {
    check(reads(), grants, json!({ "file": file }), want).await;
}

#[tokio::test]
async fn an_operation_that_states_nothing_takes_its_own_scope() {
    let silent = || query(|op| op);
    check(silent(), &[], json!({}), FORBIDDEN).await;
    check(silent(), &["demo:other"], json!({}), FORBIDDEN).await;
    check(silent(), &["reader"], json!({}), FORBIDDEN).await;
    for grant in ["demo:thing", "demo:*", "*", "admin", "demo/thing"] {
        check(silent(), &[grant], json!({}), OK).await;
    }
}

#[tokio::test]
async fn every_scope_of_all_and_one_of_any() {
    check_scopes(&["a:x", "a:y"], &[], &["a:x"], FORBIDDEN).await;
    check_scopes(&["a:x", "a:y"], &[], &["a:x", "a:y"], OK).await;
    check_scopes(&["a:x", "a:y"], &[], &["a:*"], OK).await;
    check_scopes(&[], &["a:x", "b:y"], &["b:y"], OK).await;
    check_scopes(&[], &["a:x", "b:y"], &["c:z"], FORBIDDEN).await;
    check_scopes(&["a:x"], &["b:x", "b:y"], &["a:x"], FORBIDDEN).await;
    check_scopes(&["a:x"], &["b:x", "b:y"], &["b:x"], FORBIDDEN).await;
    check_scopes(&["a:x"], &["b:x", "b:y"], &["a:x", "b:y"], OK).await;
}

#[tokio::test]
async fn a_resource_takes_the_scope_and_the_resource() {
    check_file(&["fs:read"], json!("www/a"), FORBIDDEN).await;
    check_file(&["bucket:www/**=read"], json!("www/a"), FORBIDDEN).await;
    check_file(&["fs:read", "bucket:www/**=read"], json!("www/a"), OK).await;
    check_file(
        &["fs:read", "bucket:www/**=write"],
        json!("www/a"),
        FORBIDDEN,
    )
    .await;
    check_file(
        &["fs:read", "bucket:logs/**=read"],
        json!("www/a"),
        FORBIDDEN,
    )
    .await;
    check_file(&["fs:read", "topic:*=read"], json!("www/a"), FORBIDDEN).await;
    check_file(&["reader"], json!("www/a"), OK).await;
}

#[tokio::test]
async fn deny_wins_over_every_allow() {
    let deny = "!bucket:www/secret/**=read";
    let held = ["fs:read", "bucket:*=*", deny];
    check_file(&held, json!("www/a"), OK).await;
    check_file(&held, json!("www/secret/a"), FORBIDDEN).await;
    check_file(&["admin", deny], json!("www/secret/a"), FORBIDDEN).await;
    check_file(&["demo/thing", deny], json!("www/secret/a"), FORBIDDEN).await;
    check_file(&["demo/thing", deny], json!("www/a"), OK).await;
    check_file(&["admin", "!bucket:*=*"], json!("www/a"), FORBIDDEN).await;
}

#[tokio::test]
async fn an_operation_grant_is_its_whole_rule_and_no_other() {
    let other = Operation::query("demo/other", "Answers.")
        .requires("fs:read")
        .raw(echo());
    let world = World::new(vec![reads(), other]);
    let ada = world.caller("ada", &["demo/thing"]);
    world
        .call(&ada, "demo/thing", json!({ "file": "any/where" }))
        .await
        .unwrap();
    fails(
        world.call(&ada, "demo/other", json!({})).await,
        ErrorCode::Forbidden,
    );
}

#[tokio::test]
async fn an_owner_is_let_through_to_what_it_made() {
    let owned = || {
        query(|op| {
            op.requires("fs:read")
                .resource("bucket", "read", "/file")
                .or_owner()
        })
    };
    let at = |file: &str| json!({ "file": file });
    check(owned(), &["fs:read"], at("hers/a"), OK).await;
    check(owned(), &["fs:read"], at("his/a"), FORBIDDEN).await;
    check(owned(), &[], at("hers/a"), FORBIDDEN).await;
    check(
        owned(),
        &["fs:read", "!bucket:hers/**=read"],
        at("hers/a"),
        FORBIDDEN,
    )
    .await;
    // The rule must say so.
    check_file(&["fs:read"], json!("hers/a"), FORBIDDEN).await;
}

#[tokio::test]
async fn a_pointer_that_finds_no_text_denies() {
    let grants = ["admin"];
    for input in [
        json!({}),
        json!(null),
        json!([]),
        json!("www"),
        json!({ "FILE": "www" }),
    ] {
        check(reads(), &grants, input, FORBIDDEN).await;
    }
    for file in [
        json!(null),
        json!(1),
        json!({}),
        json!([]),
        json!(["www", 1]),
        json!([["www"]]),
        json!([{}]),
    ] {
        check_file(&grants, file, FORBIDDEN).await;
    }
}

#[tokio::test]
async fn what_an_absent_name_stands_for_is_asked_for_and_nothing_else_is_absent() {
    let shell = || {
        query(|op| {
            op.requires("shell:open")
                .resource("command", "exec", "/argv/0")
                .when_absent("/bin/sh")
        })
    };
    let whole = ["demo/thing"];
    let named = ["shell:open", "command:/bin/sh=exec"];
    let other = ["shell:open", "command:ls=exec"];
    for input in [json!({}), json!({ "argv": null }), json!({ "argv": [] })] {
        check(shell(), &whole, input.clone(), OK).await;
        check(shell(), &named, input.clone(), OK).await;
        check(shell(), &other, input, FORBIDDEN).await;
    }
    check(shell(), &other, json!({ "argv": ["ls"] }), OK).await;
    check(shell(), &named, json!({ "argv": ["ls"] }), FORBIDDEN).await;
    for program in [json!(null), json!(1), json!({}), json!([])] {
        check(shell(), &named, json!({ "argv": [program] }), FORBIDDEN).await;
    }
}

#[tokio::test]
async fn every_element_of_an_array_is_checked() {
    let grants = ["fs:read", "bucket:www/**=read"];
    check_file(&grants, json!(["www/a", "www/b"]), OK).await;
    check_file(&grants, json!(["www/a", "logs/b"]), FORBIDDEN).await;
    check_file(&grants, json!(["logs/b", "www/a"]), FORBIDDEN).await;
    check_file(&grants, json!(["www/a", "www/../logs/b"]), INVALID).await;
}

#[tokio::test]
async fn what_climbs_out_is_refused_whatever_is_held() {
    for file in [
        "www/../etc",
        "..",
        "www/..",
        "www/./a",
        "../www",
        "/www/a",
        "www/\0a",
        "",
    ] {
        check_file(&["admin"], json!(file), INVALID).await;
    }
}

#[tokio::test]
async fn the_handler_gets_the_value_that_was_checked() {
    let net = query(|op| {
        op.resource("net", "dial", "/to")
            .resource("bucket", "read", "/files")
    });
    let world = World::new(vec![net]);
    let ada = world.caller("ada", &["admin"]);
    let input = json!({ "to": "DB.Lan.:0443", "files": ["www//a/", "logs"], "other": "DB.Lan." });
    let got = world.call(&ada, "demo/thing", input).await.unwrap();
    assert_eq!(
        got,
        json!({ "to": "db.lan:443", "files": ["www/a", "logs"], "other": "DB.Lan." })
    );
    let mapped = json!({ "to": "[::ffff:127.0.0.1]:22", "files": ["www"] });
    assert_eq!(
        world.call(&ada, "demo/thing", mapped).await.unwrap()["to"],
        "127.0.0.1:22"
    );
}

#[tokio::test]
async fn a_denied_range_is_denied_however_it_is_written() {
    let dials = || query(|op| op.resource("net", "dial", "/to"));
    let grants = ["net:*=dial", "!net:127.0.0.0/8=dial", "!net:[::1]:22=dial"];
    for to in ["127.0.0.1:80", "[::ffff:127.1.2.3]:80", "[::1]:22"] {
        check(dials(), &grants, json!({ "to": to }), FORBIDDEN).await;
    }
    for to in [
        "2130706433:80",
        "0x7f000001:80",
        "0177.0.0.1:80",
        "127.1:80",
    ] {
        check(dials(), &grants, json!({ "to": to }), INVALID).await;
    }
    check(dials(), &grants, json!({ "to": "[::1]:23" }), OK).await;
}

#[tokio::test]
async fn public_is_for_anybody_and_authenticated_for_the_known() {
    let public = Operation::query("demo/public", "Answers.")
        .public()
        .raw(echo());
    let known = Operation::query("demo/known", "Answers.")
        .authenticated()
        .raw(echo());
    let world = World::new(vec![public, known]);
    let (nobody, ada) = (Caller::anonymous(), world.caller("ada", &[]));
    for caller in [&nobody, &ada] {
        world.call(caller, "demo/public", json!({})).await.unwrap();
    }
    world.call(&ada, "demo/known", json!({})).await.unwrap();
    fails(
        world.call(&nobody, "demo/known", json!({})).await,
        ErrorCode::Unauthenticated,
    );
}

#[tokio::test]
async fn internal_is_for_this_nodes_own_operations() {
    let internal = Operation::query("demo/thing", "Answers.")
        .internal()
        .raw(echo());
    let world = World::new(vec![internal]);
    let root = world.caller("root", &["admin", "demo/thing"]);
    for caller in [&root, &Caller::host()] {
        fails(
            world.call(caller, "demo/thing", json!({})).await,
            ErrorCode::NotFound,
        );
    }
    fails(
        world
            .call(&Caller::anonymous(), "demo/thing", json!({}))
            .await,
        ErrorCode::Unauthenticated,
    );
    let own = Caller::authority(Arc::new(identity("own", &["demo:thing"])));
    world.call(&own, "demo/thing", json!({})).await.unwrap();
}

#[tokio::test]
async fn a_refusal_names_what_is_missing_and_what_to_grant() {
    let world = World::new(vec![reads()]);
    let bob = world.caller("bob", &["bucket:www/**=read"]);
    let told = fails(
        world
            .call(&bob, "demo/thing", json!({ "file": "www/a" }))
            .await,
        ErrorCode::Forbidden,
    );
    assert_eq!(
        told.message,
        "`bob` may not call `demo/thing`: missing scope `fs:read`"
    );
    assert_eq!(
        *told.details.unwrap(),
        json!({ "caller": "bob", "operation": "demo/thing", "missing": { "scopes": ["fs:read"] }, "grant": "fs:read" })
    );
    let bob = world.caller("bob", &["fs:read", "bucket:www/**=read"]);
    let told = fails(
        world
            .call(&bob, "demo/thing", json!({ "file": "logs/a" }))
            .await,
        ErrorCode::Forbidden,
    );
    assert_eq!(
        told.message,
        "`bob` may not call `demo/thing`: missing resource `bucket:logs/a=read`"
    );
    let details = told.details.unwrap();
    assert_eq!(details["grant"], "bucket:logs/a=read");
    // What it says to grant is enough.
    let grant = details["grant"].as_str().unwrap().to_owned();
    let bob = world.caller("bob", &["fs:read", "bucket:www/**=read", &grant]);
    world
        .call(&bob, "demo/thing", json!({ "file": "logs/a" }))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_credential_that_no_longer_resolves_is_nobody_and_never_somebody_else() {
    let public = Operation::query("demo/public", "Answers.")
        .public()
        .raw(echo());
    let world = World::new(vec![public, reads()]);
    let bob = world.caller("bob", &["admin"]);
    let file = json!({ "file": "www/a" });
    world.call(&bob, "demo/thing", file.clone()).await.unwrap();
    world.ids.remove(&key("bob"));
    fails(
        world.call(&bob, "demo/thing", file.clone()).await,
        ErrorCode::Unauthenticated,
    );
    // Not even what anonymous callers may: a bad credential is not none.
    fails(
        world.call(&bob, "demo/public", json!({})).await,
        ErrorCode::Unauthenticated,
    );
    // The key is somebody else's now; this connection is not.
    world.ids.put(key("bob"), identity("eve", &["admin"]));
    fails(
        world.call(&bob, "demo/thing", file.clone()).await,
        ErrorCode::Unauthenticated,
    );
    fails(
        world.call(&bob, "demo/public", json!({})).await,
        ErrorCode::Unauthenticated,
    );
    world.ids.put(key("bob"), identity("bob", &["admin"]));
    world.call(&bob, "demo/thing", file).await.unwrap();
    assert_eq!(bob.id(), &peer("bob"));
}
