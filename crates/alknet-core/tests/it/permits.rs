//! Permits: asked once, checked at every step, taken back.

use crate::world::{Audited, World, echo, fails, identity, key};
use ResourceKind::Bucket;
use alknet_core::{
    Caller, ErrorCode, Operation, PeerId, Registration, ResourceKind, Surface, files::FilePath,
    storage::OwnershipProvider,
};
use serde_json::json;
use std::{sync::Arc, time::Duration};

fn reads() -> Registration {
    Operation::query("fs/read", "Reads a file.")
        .requires("fs:read")
        .resource("bucket", "read", "/file")
        .or_owner()
        .raw(echo())
}

#[tokio::test]
async fn a_permit_takes_what_a_call_takes() {
    let world = World::new(vec![reads()]);
    let bob = world.caller("bob", &["bucket:www/**=read"]);
    fails(world.door.authorize(&bob, "fs/read"), ErrorCode::Forbidden);
    fails(world.door.authorize(&bob, "fs/never"), ErrorCode::NotFound);
    fails(world.door.authorize(&bob, "no name"), ErrorCode::NotFound);
    fails(
        world.door.authorize(&Caller::anonymous(), "fs/read"),
        ErrorCode::Unauthenticated,
    );
    let bob = world.caller("bob", &["fs:read", "bucket:www/**=read"]);
    let permit = world.door.authorize(&bob, "fs/read").unwrap();
    assert_eq!(permit.caller().unwrap().id(), bob.id());
}

#[tokio::test]
async fn every_step_is_checked_and_answered_in_canonical_form() {
    let world = World::new(vec![reads()]);
    let bob = world.caller(
        "bob",
        &["fs:read", "bucket:www/**=read", "!bucket:www/secret/**=*"],
    );
    let permit = world.door.authorize(&bob, "fs/read").unwrap();
    assert_eq!(permit.check("read", Bucket, "www//a/").unwrap(), "www/a");
    let told = fails(permit.check("read", Bucket, "logs/a"), ErrorCode::Forbidden);
    assert_eq!(told.details.unwrap()["grant"], "bucket:logs/a=read");
    fails(
        permit.check("read", Bucket, "www/secret/a"),
        ErrorCode::Forbidden,
    );
    fails(permit.check("write", Bucket, "www/a"), ErrorCode::Forbidden);
    fails(
        permit.check("read", ResourceKind::Topic, "www/a"),
        ErrorCode::Forbidden,
    );
    fails(
        permit.check("read", Bucket, "www/../logs"),
        ErrorCode::InvalidInput,
    );
}

#[tokio::test]
async fn a_grant_of_the_operation_covers_its_own_steps_and_no_denied_one() {
    let world = World::new(vec![reads()]);
    let bob = world.caller("bob", &["fs/read", "!bucket:www/secret/**=*"]);
    let permit = world.door.authorize(&bob, "fs/read").unwrap();
    permit.check("read", Bucket, "logs/a").unwrap();
    fails(
        permit.check("write", Bucket, "logs/a"),
        ErrorCode::Forbidden,
    );
    fails(
        permit.check("read", Bucket, "www/secret/a"),
        ErrorCode::Forbidden,
    );
}

#[tokio::test]
async fn a_permit_stands_for_the_actions_of_its_own_operation_alone() {
    let world = World::new(vec![reads()]);
    let bob = world.caller("bob", &["fs:read", "bucket:**=*", "topic:news=read"]);
    let permit = world.door.authorize(&bob, "fs/read").unwrap();
    // Held as a resource; what writes takes a scope that is not.
    let told = fails(permit.check("write", Bucket, "www/a"), ErrorCode::Forbidden);
    assert_eq!(
        told.message,
        "`bob` may not write a bucket with a permit for `fs/read`, which does not"
    );
    assert!(told.details.unwrap().get("grant").is_none());
    // Of what the rule does not speak, the resource itself decides.
    permit.check("read", ResourceKind::Topic, "news").unwrap();
    fails(
        permit.check("write", ResourceKind::Topic, "news"),
        ErrorCode::Forbidden,
    );
}

struct Bob;
impl OwnershipProvider for Bob {
    fn owns(&self, owner: &PeerId, _: ResourceKind, resource: &str) -> bool {
        owner.as_str() == "bob" && resource == "hers/mine"
    }
}

#[tokio::test]
async fn an_owner_steps_through_to_what_it_made() {
    let world = World::with(vec![reads()], |door| door.owners(Arc::new(Bob)));
    let permit = world
        .door
        .authorize(&world.caller("bob", &["fs:read"]), "fs/read")
        .unwrap();
    permit.check("read", Bucket, "hers/mine").unwrap();
    fails(
        permit.check("read", Bucket, "hers/other"),
        ErrorCode::Forbidden,
    );
    fails(
        permit.check("write", Bucket, "hers/mine"),
        ErrorCode::Forbidden,
    );
}

#[tokio::test]
async fn a_change_of_grants_shows_at_the_next_step() {
    let world = World::new(vec![reads()]);
    let bob = world.caller("bob", &["fs:read", "bucket:www/**=read"]);
    let permit = world.door.authorize(&bob, "fs/read").unwrap();
    permit.check("read", Bucket, "www/a").unwrap();
    world.ids.put(
        key("bob"),
        identity("bob", &["fs:read", "bucket:logs/**=read"]),
    );
    fails(permit.check("read", Bucket, "www/a"), ErrorCode::Forbidden);
    permit.check("read", Bucket, "logs/a").unwrap();
    // Without the operation, the resource is of no use.
    world.ids.put(key("bob"), identity("bob", &["bucket:*=*"]));
    fails(permit.check("read", Bucket, "logs/a"), ErrorCode::Forbidden);
    fails(permit.caller(), ErrorCode::Forbidden);
    world.ids.remove(&key("bob"));
    fails(
        permit.check("read", Bucket, "logs/a"),
        ErrorCode::Unauthenticated,
    );
    world.ids.put(key("bob"), identity("eve", &["admin"]));
    fails(
        permit.check("read", Bucket, "logs/a"),
        ErrorCode::Unauthenticated,
    );
}

#[tokio::test(start_paused = true)]
async fn revoked_resolves_when_the_operation_is_lost_and_not_before() {
    let world = World::new(vec![reads()]);
    let bob = world.caller("bob", &["fs:read", "bucket:www/**=read"]);
    let permit = world.door.authorize(&bob, "fs/read").unwrap();
    let mut revoked = Box::pin(permit.revoked());
    assert!(futures::poll!(&mut revoked).is_pending());
    // Others' grants, and other grants, change nothing.
    world.caller("ada", &["admin"]);
    world.ids.put(
        key("bob"),
        identity("bob", &["fs:*", "bucket:logs/**=read"]),
    );
    assert!(futures::poll!(&mut revoked).is_pending());
    world.ids.put(key("bob"), identity("bob", &[]));
    let within = tokio::time::timeout(Duration::from_secs(1), revoked)
        .await
        .unwrap();
    crate::world::is(&within, ErrorCode::Forbidden);
    // Asked again, it says so at once.
    crate::world::is(&permit.revoked().await, ErrorCode::Forbidden);
    world.ids.remove(&key("bob"));
    crate::world::is(&permit.revoked().await, ErrorCode::Unauthenticated);
}

#[tokio::test]
async fn each_permit_has_an_audit_row_given_or_refused() {
    let (sink, audited) = Audited::start();
    let world = World::with(vec![reads()], |door| door.audit(sink));
    let bob = world.caller("bob", &["reader"]);
    world
        .door
        .authorize_from(&bob, "fs/read", Surface::named("ssh"))
        .unwrap();
    fails(world.door.authorize(&bob, "fs/never"), ErrorCode::NotFound);
    fails(
        world.door.authorize(&world.caller("eve", &[]), "fs/read"),
        ErrorCode::Forbidden,
    );
    // A look is not a permit.
    world.door.may_call(&bob, "fs/read").unwrap();
    let rows = audited.rows().await;
    let seen: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row.caller.as_str(),
                row.surface.as_str(),
                row.operation.as_str(),
                row.outcome.as_str(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("bob", "ssh", "fs/read", "ok"),
            ("bob", "local", "fs/never", "NOT_FOUND"),
            ("eve", "local", "fs/read", "FORBIDDEN")
        ]
    );
    assert_eq!(rows[0].detail.as_deref(), Some("permit"));
    assert!(rows[2].detail.as_ref().unwrap().contains("fs:read"));
}

fn file(text: &str) -> FilePath {
    FilePath::parse(text).unwrap()
}

#[tokio::test]
async fn a_step_on_a_tree_takes_a_grant_for_all_of_it_and_no_denial_in_it() {
    let world = World::new(vec![reads()]);
    let grants = ["fs:read", "bucket:www/**=read", "!bucket:www/a/secret/**=*"];
    let bob = world.caller("bob", &grants);
    let permit = world.door.authorize(&bob, "fs/read").unwrap();
    permit.check_tree("read", &file("www/b")).unwrap();
    permit.check_file("read", &file("www/a")).unwrap();
    for above in ["www", "www/a", "www/a/secret", "www/a/secret/x"] {
        let told = fails(
            permit.check_tree("read", &file(above)),
            ErrorCode::Forbidden,
        );
        let denied = &told.details.unwrap()["denied"];
        assert_eq!(denied, "!bucket:www/a/secret/**=*", "{above}");
    }
    let told = fails(
        permit.check_tree("read", &file("logs")),
        ErrorCode::Forbidden,
    );
    assert_eq!(told.details.unwrap()["grant"], "bucket:logs/**=read");
    // One file of it is not all of it.
    let eve = world.caller("eve", &["fs:read", "bucket:www/*=read"]);
    let permit = world.door.authorize(&eve, "fs/read").unwrap();
    permit.check_file("read", &file("www/b")).unwrap();
    assert!(!permit.allows_tree("read", &file("www/b")));
}

#[tokio::test]
async fn what_lies_below_is_looked_for_without_a_refusal() {
    let world = World::new(vec![reads()]);
    let bob = world.caller("bob", &["fs:read", "bucket:www/public/**=read"]);
    let permit = world.door.authorize(&bob, "fs/read").unwrap();
    let check = |text: &str, itself: bool, within: bool| {
        assert_eq!(permit.allows_file("read", &file(text)), itself, "{text}");
        assert_eq!(
            permit.may_allow_within("read", &file(text)),
            within,
            "{text}"
        );
    };
    check("www", false, true);
    check("www/public", true, true);
    check("www/public/a", true, true);
    check("www/private", false, false);
    check("logs", false, false);
    // Of another action of its kind a permit says nothing.
    assert!(!permit.may_allow_within("write", &file("www/public")));
}

#[tokio::test]
async fn a_key_bounds_trees_as_it_bounds_files() {
    let world = World::new(vec![reads()]);
    let ceiling = identity("bob", &["fs:read", "bucket:www/a/**=read"]);
    let bob = identity("bob", &["fs:read", "bucket:www/**=read"]);
    world.ids.put(key("bob"), bob.under(Arc::new(ceiling)));
    let caller = Caller::resolve(&*world.ids, key("bob")).unwrap();
    let permit = world.door.authorize(&caller, "fs/read").unwrap();
    permit.check_tree("read", &file("www/a")).unwrap();
    fails(
        permit.check_tree("read", &file("www")),
        ErrorCode::Forbidden,
    );
    assert!(permit.may_allow_within("read", &file("www")));
    assert!(!permit.may_allow_within("read", &file("www/b")));
}

/// A handler may ask for what its caller may do by another operation, and gets
/// what the caller would get there: no more, and on record.
#[tokio::test]
async fn a_handler_asks_for_its_callers_permit_of_another_operation() {
    let lists = Operation::query("fs/list", "Lists a directory.")
        .requires("fs:list")
        .resource("bucket", "list", "/file")
        .raw(echo());
    let counts = Operation::query("fs/usage", "Counts what is below.")
        .requires("fs:read")
        .resource("bucket", "read", "/file")
        .handler(
            |cx, file: std::collections::BTreeMap<String, FilePath>| async move {
                let list = cx.permit_for("fs/list")?;
                list.check_file("list", &file["file"])?;
                Ok::<_, alknet_core::CallError>(list.allows_file("read", &file["file"]))
            },
        );
    let world = World::new(vec![lists, counts]);
    let held = ["fs:read", "fs:list", "bucket:www/**=read,list"];
    let call = async |grants: &[&str]| {
        let bob = world.caller("bob", grants);
        let call = alknet_core::Call::new("fs/usage", bob).unwrap();
        let call = call.input(&serde_json::json!({ "file": "www/a" }));
        world.door.call(call).await
    };
    // What the other operation is for, and nothing else.
    assert_eq!(call(&held).await.unwrap().bytes(), "false");
    fails(call(&held[..1]).await, ErrorCode::Forbidden);
    let told = fails(
        call(&["fs:read", "bucket:www/**=read,list"]).await,
        ErrorCode::Forbidden,
    );
    assert!(told.message.contains("fs:list"), "{told}");
    let told = fails(
        call(&["fs:read", "fs:list", "bucket:www/**=read", "bucket:x=list"]).await,
        ErrorCode::Forbidden,
    );
    assert_eq!(told.details.unwrap()["grant"], "bucket:www/a=list");
}

#[tokio::test]
async fn a_denied_caller_hears_of_the_denial_and_of_no_grant_that_would_not_help() {
    let world = World::new(vec![reads()]);
    let bob = world.caller(
        "bob",
        &["fs:read", "bucket:*=read", "!bucket:www/secret/**=*"],
    );
    let call = world.call(&bob, "fs/read", json!({ "file": "www/secret/a" }));
    let told = fails(call.await, ErrorCode::Forbidden);
    assert!(
        told.message
            .ends_with("denied by `!bucket:www/secret/**=*`"),
        "{told}"
    );
    let details = told.details.unwrap();
    assert_eq!(details["denied"], "!bucket:www/secret/**=*");
    assert!(details.get("grant").is_none() && details.get("missing").is_none());
}
