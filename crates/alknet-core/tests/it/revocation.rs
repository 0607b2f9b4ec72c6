//! What runs ends when its caller loses the right, within a second.

use crate::world::{World, fails, identity, key};
use alknet_core::{Call, Caller, ErrorCode, Handler, Operation, Output, Registration};
use futures::StreamExt;
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::{sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

fn ticks(dropped: &Arc<AtomicUsize>) -> Registration {
    let dropped = dropped.clone();
    Operation::subscription("demo/ticks", "Ticks.")
        .requires("fs:read")
        .resource("bucket", "read", "/file")
        .raw(Handler::Stream(Arc::new(move |_, _| {
            let guard = Guard(dropped.clone());
            Box::pin(async move {
                let ticks = futures::stream::unfold(guard, |guard| async {
                    sleep(Duration::from_millis(300)).await;
                    Some((Ok(Output::Value(json!("tick"))), guard))
                });
                Ok(ticks.boxed())
            })
        })))
}

fn held(dropped: &Arc<AtomicUsize>) -> Registration {
    let dropped = dropped.clone();
    Operation::channel("demo/held", "Stays open.")
        .requires("fs:read")
        .resource("bucket", "read", "/file")
        .raw(Handler::Channel(Arc::new(move |_, _, opening| {
            let guard = Guard(dropped.clone());
            Box::pin(async move {
                let _guard = guard;
                let _end = opening.accept(&())?;
                std::future::pending().await
            })
        })))
}

struct Guard(Arc<AtomicUsize>);
impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a change of `bob` does to his subscription and his channel.
async fn check(change: impl FnOnce(&World), want: Option<ErrorCode>) {
    let dropped = Arc::new(AtomicUsize::new(0));
    let world = World::new(vec![ticks(&dropped), held(&dropped)]);
    let bob = world.caller("bob", &["fs:read", "bucket:www/**=read"]);
    let call = |operation: &str| {
        Call::new(operation, bob.clone())
            .unwrap()
            .input(&json!({ "file": "www/a" }))
    };
    let mut items = world.door.subscribe(call("demo/ticks")).await.unwrap();
    let channel = world.door.open(call("demo/held")).await.unwrap();
    let mut done = Box::pin(channel.done);
    items.next().await.unwrap().unwrap();
    assert!(timeout(SECOND, &mut done).await.is_err());
    change(&world);
    let Some(want) = want else {
        items.next().await.unwrap().unwrap();
        assert!(timeout(SECOND, &mut done).await.is_err());
        assert_eq!(dropped.load(Ordering::Relaxed), 0);
        return;
    };
    // Not one item more, although one would be ready before the second is over.
    let item = timeout(SECOND, items.next()).await.unwrap().unwrap();
    fails(item, want);
    assert!(items.next().await.is_none());
    fails(timeout(SECOND, done).await.unwrap(), want);
    assert_eq!(
        (dropped.load(Ordering::Relaxed), world.door.in_flight()),
        (2, 0)
    );
    let again = world.door.subscribe(call("demo/ticks")).await;
    fails(again, want);
}

#[tokio::test(start_paused = true)]
async fn a_lost_scope_ends_them() {
    check(
        |world| world.ids.put(key("bob"), identity("bob", &["bucket:*=*"])),
        Some(ErrorCode::Forbidden),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_resource_ends_them() {
    check(
        |world| {
            world.ids.put(
                key("bob"),
                identity("bob", &["fs:read", "bucket:logs/**=read"]),
            )
        },
        Some(ErrorCode::Forbidden),
    )
    .await;
    check(
        |world| {
            world.ids.put(
                key("bob"),
                identity("bob", &["admin", "!bucket:www/a=read"]),
            )
        },
        Some(ErrorCode::Forbidden),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_removal_of_the_peer_ends_them() {
    check(
        |world| world.ids.remove(&key("bob")),
        Some(ErrorCode::Unauthenticated),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_key_that_becomes_somebody_elses_ends_them() {
    check(
        |world| world.ids.put(key("bob"), identity("eve", &["admin"])),
        Some(ErrorCode::Unauthenticated),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_change_that_leaves_the_right_leaves_them() {
    check(
        |world| {
            world
                .ids
                .put(key("bob"), identity("bob", &["fs:*", "bucket:*=read"]))
        },
        None,
    )
    .await;
    check(
        |world| world.ids.put(key("eve"), identity("eve", &[])),
        None,
    )
    .await;
}

#[tokio::test]
async fn items_that_are_ready_do_not_outrun_a_revocation() {
    let flood = Operation::subscription("demo/flood", "Always has an item.").raw(Handler::Stream(
        Arc::new(|_, _| {
            Box::pin(async {
                Ok(futures::stream::repeat_with(|| Ok(Output::Value(json!(1)))).boxed())
            })
        }),
    ));
    let world = World::new(vec![flood]);
    for _ in 0..50 {
        let bob = world.caller("bob", &["demo:flood"]);
        let mut items = world
            .door
            .subscribe(Call::new("demo/flood", bob).unwrap())
            .await
            .unwrap();
        items.next().await.unwrap().unwrap();
        world.ids.put(key("bob"), identity("bob", &[]));
        fails(items.next().await.unwrap(), ErrorCode::Forbidden);
    }
}

#[tokio::test]
async fn a_revocation_between_the_gate_and_the_first_item_is_seen() {
    let world = World::new(vec![]);
    let ids = world.ids.clone();
    let sly = Operation::subscription("demo/sly", "Answers once.").raw(Handler::Stream(Arc::new(
        move |_, _| {
            // The right is lost while the handler starts.
            ids.put(key("bob"), identity("bob", &[]));
            Box::pin(async { Ok(futures::stream::iter([Ok(Output::Value(json!(1)))]).boxed()) })
        },
    )));
    world.registry.register(vec![sly]).unwrap();
    let bob = world.caller("bob", &["demo:sly"]);
    let mut items = world
        .door
        .subscribe(Call::new("demo/sly", bob).unwrap())
        .await
        .unwrap();
    fails(items.next().await.unwrap(), ErrorCode::Forbidden);
}

#[tokio::test]
async fn the_host_is_never_revoked() {
    let once =
        Operation::subscription("demo/once", "Answers once.").raw(crate::world::echo_stream());
    let world = World::new(vec![once]);
    let mut items = world
        .door
        .subscribe(Call::new("demo/once", Caller::host()).unwrap())
        .await
        .unwrap();
    world.caller("bob", &[]);
    assert!(items.next().await.unwrap().is_ok());
}
