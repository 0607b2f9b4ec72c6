//! A mutation with a key happens at most once.

use crate::world::{World, fails, identity, key};
use alknet_core::{
    Call, CallError, Caller, Dispatcher, ErrorCode, ErrorSpec, Handler, Limits, Operation,
    OperationBuilder, Originator, Output, Registration, Registry,
    storage::{IdempotencyStore, MemoryIdempotencyStore, SharedClock, Timestamp},
};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::Semaphore;

/// Counts its runs, then ends as `ends` says.
fn counted(
    builder: OperationBuilder,
    runs: &Arc<AtomicUsize>,
    ends: fn(usize) -> Result<Value, CallError>,
) -> Registration {
    let runs = runs.clone();
    builder.raw(Handler::Unary(Arc::new(move |_, _| {
        let run = runs.fetch_add(1, Ordering::Relaxed) + 1;
        Box::pin(async move { ends(run).map(Output::Value) })
    })))
}

fn pays() -> OperationBuilder {
    Operation::mutation("demo/pay", "Pays once.")
}

fn runs() -> Arc<AtomicUsize> {
    Arc::new(AtomicUsize::new(0))
}

async fn keyed(
    door: &Dispatcher,
    caller: &Caller,
    key: &str,
    input: &str,
) -> Result<Value, CallError> {
    let call = Call::new("demo/pay", caller.clone())
        .unwrap()
        .input_json(input.to_owned())
        .idempotency_key(key);
    door.call(call).await?.into_output().into_value()
}

#[tokio::test]
async fn a_repeat_gets_the_recorded_reply_and_runs_nothing() {
    let count = runs();
    let world = World::new(vec![counted(pays(), &count, |run| {
        Ok(json!({ "run": run }))
    })]);
    let bob = world.caller("bob", &["admin"]);
    for _ in 0..3 {
        assert_eq!(
            keyed(&world.door, &bob, "k", r#"{"a":1,"b":2}"#)
                .await
                .unwrap(),
            json!({ "run": 1 })
        );
    }
    // The same input in another order and with other spaces is the same input.
    assert_eq!(
        keyed(&world.door, &bob, "k", "{ \"b\":2,\n \"a\":1 }")
            .await
            .unwrap(),
        json!({ "run": 1 })
    );
    assert_eq!(count.load(Ordering::Relaxed), 1);
    assert_eq!(
        keyed(&world.door, &bob, "other", r#"{"a":1,"b":2}"#)
            .await
            .unwrap(),
        json!({ "run": 2 })
    );
}

#[tokio::test]
async fn another_input_is_a_conflict() {
    let count = runs();
    let world = World::new(vec![counted(pays(), &count, |run| Ok(json!(run)))]);
    let bob = world.caller("bob", &["admin"]);
    keyed(&world.door, &bob, "k", r#"{"a":1}"#).await.unwrap();
    let error = fails(
        keyed(&world.door, &bob, "k", r#"{"a":2}"#).await,
        ErrorCode::Conflict,
    );
    assert!(!error.retryable);
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_key_belongs_to_its_caller_originator_and_operation() {
    let count = runs();
    let other = counted(
        Operation::mutation("demo/other", "Pays too."),
        &count,
        |run| Ok(json!(run)),
    );
    let world = World::new(vec![counted(pays(), &count, |run| Ok(json!(run))), other]);
    let (bob, ada) = (
        world.caller("bob", &["admin"]),
        world.caller("ada", &["admin"]),
    );
    assert_eq!(keyed(&world.door, &bob, "k", "{}").await.unwrap(), 1);
    assert_eq!(keyed(&world.door, &ada, "k", "{}").await.unwrap(), 2);
    let mut call = Call::new("demo/pay", bob.clone())
        .unwrap()
        .idempotency_key("k");
    call.originator = Some(Originator {
        node: "home".into(),
        label: "alice".into(),
    });
    assert_eq!(world.door.call(call).await.unwrap().bytes(), "3");
    let call = Call::new("demo/other", bob).unwrap().idempotency_key("k");
    assert_eq!(world.door.call(call).await.unwrap().bytes(), "4");
    // A peer that is called as the host is not the host.
    assert_eq!(
        keyed(&world.door, &Caller::host(), "k", "{}")
            .await
            .unwrap(),
        5
    );
    assert_eq!(
        keyed(&world.door, &world.caller("host", &["admin"]), "k", "{}")
            .await
            .unwrap(),
        6
    );
}

#[tokio::test]
async fn nobody_in_particular_has_no_keys() {
    let count = runs();
    let world = World::new(vec![counted(pays().public(), &count, |run| Ok(json!(run)))]);
    fails(
        keyed(&world.door, &Caller::anonymous(), "k", "{}").await,
        ErrorCode::Unauthenticated,
    );
    assert_eq!(count.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn the_gate_is_asked_before_the_record() {
    let count = runs();
    let world = World::new(vec![counted(pays(), &count, |run| Ok(json!(run)))]);
    let bob = world.caller("bob", &["demo:pay"]);
    keyed(&world.door, &bob, "k", "{}").await.unwrap();
    world.ids.put(key("bob"), identity("bob", &[]));
    fails(
        keyed(&world.door, &bob, "k", "{}").await,
        ErrorCode::Forbidden,
    );
    world.ids.remove(&key("bob"));
    fails(
        keyed(&world.door, &bob, "k", "{}").await,
        ErrorCode::Unauthenticated,
    );
}

#[tokio::test]
async fn a_repeat_of_what_runs_is_told_so() {
    let gate = Arc::new(Semaphore::new(0));
    let inner = gate.clone();
    let slow = pays().raw(Handler::Unary(Arc::new(move |_, _| {
        let gate = inner.clone();
        Box::pin(async move {
            drop(gate.acquire().await);
            Ok(Output::Value(json!("paid")))
        })
    })));
    let world = World::new(vec![slow]);
    let bob = world.caller("bob", &["admin"]);
    let mut first = Box::pin(keyed(&world.door, &bob, "k", "{}"));
    assert!(futures::poll!(&mut first).is_pending());
    let error = fails(
        keyed(&world.door, &bob, "k", "{}").await,
        ErrorCode::Conflict,
    );
    assert!(
        error.retryable && error.message.contains("still running"),
        "{error}"
    );
    gate.add_permits(1);
    assert_eq!(first.await.unwrap(), "paid");
    assert_eq!(keyed(&world.door, &bob, "k", "{}").await.unwrap(), "paid");
}

#[tokio::test]
async fn a_call_that_was_dropped_is_unknown_and_not_running() {
    let slow = pays().raw(Handler::Unary(Arc::new(|_, _| {
        Box::pin(std::future::pending())
    })));
    let world = World::new(vec![slow]);
    let bob = world.caller("bob", &["admin"]);
    let mut first = Box::pin(keyed(&world.door, &bob, "k", "{}"));
    assert!(futures::poll!(&mut first).is_pending());
    drop(first);
    let error = fails(
        keyed(&world.door, &bob, "k", "{}").await,
        ErrorCode::Conflict,
    );
    assert!(
        !error.retryable && error.message.contains("outcome is unknown"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_timed_out_did_so_for_good() {
    let count = runs();
    let inner = count.clone();
    let slow = pays()
        .timeout(Duration::from_secs(1))
        .raw(Handler::Unary(Arc::new(move |_, _| {
            inner.fetch_add(1, Ordering::Relaxed);
            Box::pin(std::future::pending())
        })));
    let world = World::new(vec![slow]);
    let bob = world.caller("bob", &["admin"]);
    for _ in 0..2 {
        fails(
            keyed(&world.door, &bob, "k", "{}").await,
            ErrorCode::Timeout,
        );
    }
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_start_found_after_a_crash_is_unknown() {
    let store = Arc::new(MemoryIdempotencyStore::default());
    let count = runs();
    let start = |run: u64| {
        let registry = Registry::new();
        registry
            .register(vec![counted(pays(), &count, |run| Ok(json!(run)))])
            .unwrap();
        Dispatcher::builder(registry)
            .idempotency(store.clone())
            .run(run)
            .build()
    };
    let slow_registry = Registry::new();
    slow_registry
        .register(vec![pays().raw(Handler::Unary(Arc::new(|_, _| {
            Box::pin(std::future::pending())
        })))])
        .unwrap();
    let crashed = Dispatcher::builder(slow_registry)
        .idempotency(store.clone())
        .run(1)
        .build();
    let root = Caller::host();
    let mut cut = Box::pin(keyed(&crashed, &root, "cut", "{}"));
    assert!(futures::poll!(&mut cut).is_pending());
    let door = start(2);
    let error = fails(keyed(&door, &root, "cut", "{}").await, ErrorCode::Conflict);
    assert!(
        !error.retryable && error.message.contains("outcome is unknown"),
        "{error}"
    );
    // What ended before the crash is answered after it.
    keyed(&start(1), &root, "done", "{}").await.unwrap();
    assert_eq!(keyed(&door, &root, "done", "{}").await.unwrap(), 1);
    assert_eq!(count.load(Ordering::Relaxed), 1);
    drop(cut);
}

#[tokio::test]
async fn errors_are_recorded_like_replies() {
    let count = runs();
    let fails_once = counted(
        pays().error(ErrorSpec::new("NO_MONEY", "There is none.")),
        &count,
        |run| {
            Err(CallError::domain("NO_MONEY", format!("run {run}"))
                .with_details(json!({ "owed": 3 })))
        },
    );
    let world = World::new(vec![fails_once]);
    let bob = world.caller("bob", &["admin"]);
    let first = keyed(&world.door, &bob, "k", "{}").await.unwrap_err();
    assert_eq!(
        keyed(&world.door, &bob, "k", "{}").await.unwrap_err(),
        first
    );
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_was_not_reached_may_be_tried_again_but_not_by_what_composes() {
    let unreached = |run| match run {
        1 => Err(CallError::new(ErrorCode::Unavailable, "not reached")),
        run => Ok(json!(run)),
    };
    let count = runs();
    let world = World::new(vec![counted(pays(), &count, unreached)]);
    fails(
        keyed(&world.door, &Caller::host(), "k", "{}").await,
        ErrorCode::Unavailable,
    );
    assert_eq!(
        keyed(&world.door, &Caller::host(), "k", "{}")
            .await
            .unwrap(),
        2
    );
    // It may have done one thing before the other was not reached.
    let count = runs();
    let world = World::new(vec![counted(
        pays().authority("pay", &[], &[]).reaches("demo/other"),
        &count,
        unreached,
    )]);
    for _ in 0..2 {
        fails(
            keyed(&world.door, &Caller::host(), "k", "{}").await,
            ErrorCode::Unavailable,
        );
    }
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_secret_reply_is_not_kept() {
    let count = runs();
    let store = Arc::new(Watched::default());
    let world = World::with(
        vec![counted(pays().secret_output(), &count, |_| {
            Ok(json!("hunter2"))
        })],
        |door| door.idempotency(store.clone()),
    );
    let bob = world.caller("bob", &["admin"]);
    assert_eq!(
        keyed(&world.door, &bob, "k", "{}").await.unwrap(),
        "hunter2"
    );
    let error = fails(
        keyed(&world.door, &bob, "k", "{}").await,
        ErrorCode::Conflict,
    );
    assert!(!format!("{error:?}").contains("hunter2"));
    assert_eq!(count.load(Ordering::Relaxed), 1);
    let kept = store.kept.lock().unwrap().clone();
    assert!(kept.len() == 1 && !kept[0].contains("hunter2"), "{kept:?}");
}

#[tokio::test]
async fn queries_ignore_keys() {
    let count = runs();
    let world = World::new(vec![counted(
        Operation::query("demo/pay", "Reads."),
        &count,
        |run| Ok(json!(run)),
    )]);
    for run in 1..3 {
        assert_eq!(
            keyed(&world.door, &Caller::host(), "k", "{}")
                .await
                .unwrap(),
            run
        );
    }
}

#[tokio::test]
async fn the_outcome_is_stored_before_the_reply_goes_out() {
    let store = Arc::new(Watched {
        broken: true,
        ..Watched::default()
    });
    let count = runs();
    let world = World::with(
        vec![counted(pays(), &count, |run| Ok(json!(run)))],
        |door| door.idempotency(store),
    );
    fails(
        keyed(&world.door, &Caller::host(), "k", "{}").await,
        ErrorCode::Internal,
    );
    let error = fails(
        keyed(&world.door, &Caller::host(), "k", "{}").await,
        ErrorCode::Conflict,
    );
    assert!(error.message.contains("outcome is unknown"), "{error}");
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn as_many_keys_of_a_caller_as_the_limit_are_kept_and_not_one_more() {
    let (count, time) = (runs(), Arc::new(std::sync::atomic::AtomicI64::new(0)));
    let (told, store) = (time.clone(), Arc::new(MemoryIdempotencyStore::default()));
    let world = World::new(vec![counted(pays(), &count, |run| {
        Ok(json!({ "run": run }))
    })]);
    let mut limits = Limits::default();
    assert_eq!(limits.idempotency_keys_per_caller_max, 100_000);
    limits.idempotency_keys_per_caller_max = 3;
    let door = || {
        let told = told.clone();
        let clock: SharedClock = Arc::new(move || Timestamp(told.load(Ordering::SeqCst)));
        let door = Dispatcher::builder(world.registry.clone()).identities(world.ids.clone());
        let door = door.idempotency(store.clone()).limits(limits.clone());
        door.clock(clock).build()
    };
    let (bob, ada) = (
        world.caller("bob", &["admin"]),
        world.caller("ada", &["admin"]),
    );
    let first = door();
    for n in 1..=3 {
        let key = format!("k{n}");
        keyed(&first, &bob, &key, "{}").await.unwrap();
    }
    // A node that was started again counts what it kept before.
    for door in [first, door()] {
        let told = fails(keyed(&door, &bob, "k4", "{}").await, ErrorCode::RateLimited);
        assert!(told.retryable && told.retry_after.is_some(), "{told:?}");
        let ran = count.load(Ordering::Relaxed);
        // What is kept is answered, and nobody else's keys are counted.
        let kept = keyed(&door, &bob, "k1", "{}").await.unwrap();
        assert_eq!(kept, json!({ "run": 1 }));
        assert_eq!(count.load(Ordering::Relaxed), ran);
    }
    let last = door();
    keyed(&last, &ada, "k4", "{}").await.unwrap();
    fails(keyed(&last, &bob, "k4", "{}").await, ErrorCode::RateLimited);
    // What is forgotten makes room: for what was refused, which ran never.
    time.store(10, Ordering::SeqCst);
    store.prune(Timestamp(5)).await.unwrap();
    let done = keyed(&last, &bob, "k4", "{}").await.unwrap();
    assert_eq!(done, json!({ "run": 5 }));
}

/// A store that shows what it keeps, and may fail to.
#[derive(Default)]
struct Watched {
    inner: MemoryIdempotencyStore,
    kept: std::sync::Mutex<Vec<String>>,
    broken: bool,
}

#[async_trait::async_trait]
impl IdempotencyStore for Watched {
    async fn begin(
        &self,
        scope: &alknet_core::storage::IdempotencyScope,
        input_hash: [u8; 32],
        run: u64,
        now: Timestamp,
    ) -> Result<alknet_core::storage::Begin, alknet_core::storage::StoreError> {
        self.inner.begin(scope, input_hash, run, now).await
    }

    async fn finish(
        &self,
        scope: &alknet_core::storage::IdempotencyScope,
        outcome: Vec<u8>,
    ) -> Result<(), alknet_core::storage::StoreError> {
        if self.broken {
            return Err(alknet_core::storage::StoreError::backend(
                "the disk is gone",
            ));
        }
        self.kept
            .lock()
            .unwrap()
            .push(String::from_utf8(outcome.clone()).unwrap());
        self.inner.finish(scope, outcome).await
    }

    async fn count(&self, caller: &str) -> Result<u64, alknet_core::storage::StoreError> {
        self.inner.count(caller).await
    }

    async fn abandon(
        &self,
        scope: &alknet_core::storage::IdempotencyScope,
    ) -> Result<(), alknet_core::storage::StoreError> {
        self.inner.abandon(scope).await
    }

    async fn prune(&self, before: Timestamp) -> Result<u64, alknet_core::storage::StoreError> {
        self.inner.prune(before).await
    }
}
