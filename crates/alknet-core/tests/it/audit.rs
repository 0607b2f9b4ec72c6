//! One row for every call, whatever becomes of it.

use crate::world::{Audited, World, echo, echo_channel, echo_stream, fails, peer};
use alknet_core::{
    AuditLost, AuditRow, AuditWriter, Call, CallError, Caller, Change, ErrorCode, ErrorSpec,
    Handler, Operation, Originator, Output, Registration, Surface,
    storage::{AuditFilter, AuditLog, AuditSpan, StoreError, Timestamp},
};
use futures::StreamExt;
use serde_json::{Value, json};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

fn operations() -> Vec<Registration> {
    vec![
        Operation::query("demo/thing", "Answers with its input.")
            .resource("bucket", "read", "/file")
            .raw(echo()),
        Operation::mutation("demo/fails", "Fails.")
            .authenticated()
            .error(ErrorSpec::new("NO_ROOM", "Full."))
            .raw(Handler::Unary(Arc::new(|_, _| {
                Box::pin(async { Err(CallError::domain("NO_ROOM", "hunter2")) })
            }))),
        Operation::query("demo/stuck", "Never answers.")
            .authenticated()
            .raw(Handler::Unary(Arc::new(|_, _| {
                Box::pin(std::future::pending())
            }))),
        Operation::subscription("demo/items", "Answers with one item.")
            .authenticated()
            .raw(echo_stream()),
        Operation::channel("demo/bytes", "Opens a channel.")
            .authenticated()
            .raw(echo_channel()),
    ]
}

#[tokio::test]
async fn a_row_says_who_did_what_to_what_and_how_it_ended() {
    let (sink, audited) = Audited::start();
    let world = World::with(operations(), |door| {
        door.audit(sink).clock(Arc::new(|| Timestamp(1_000)))
    });
    let bob = world.caller("bob", &["reader"]);
    let text = r#"{ "file": "www//a", "password": "hunter2" }"#;
    let mut call = Call::new("demo/thing", bob.clone())
        .unwrap()
        .input_json(text);
    call.surface = Surface::CALL;
    call.originator = Some(Originator {
        node: "laptop".into(),
        label: "alice".into(),
    });
    let id = call.id;
    let reply = world.door.call(call).await.unwrap();
    assert_eq!(reply.call_id(), id);
    let reply = reply.bytes();
    let rows = audited.rows().await;
    let want = AuditRow {
        at: Timestamp(1_000),
        call_id: id.to_string(),
        parent_id: None,
        caller: "bob".into(),
        key: None,
        transport: None,
        originator: Some("laptop/alice".into()),
        surface: Surface::CALL,
        operation: "demo/thing".into(),
        route: None,
        resource: Some("bucket:www/a=read".into()),
        outcome: alknet_core::AuditOutcome::OK,
        detail: None,
        duration_us: rows[0].duration_us,
        bytes_in: text.len() as u64,
        bytes_out: reply.len() as u64,
    };
    assert_eq!(rows, [want]);
}

#[tokio::test]
async fn every_way_to_end_leaves_one_row() {
    let (sink, audited) = Audited::start();
    let world = World::with(operations(), |door| door.audit(sink));
    world
        .registry
        .apply(Change::SetPeer(peer("nas"), vec![]))
        .unwrap();
    let (bob, eve) = (world.caller("bob", &["reader"]), world.caller("eve", &[]));
    let mut want: Vec<(&str, &str, &str)> = Vec::new();
    let file = json!({ "file": "www/a" });
    // Refused.
    drop(world.call(&eve, "demo/thing", file.clone()).await);
    want.push(("eve", "demo/thing", "FORBIDDEN"));
    drop(
        world
            .call(&Caller::anonymous(), "demo/thing", file.clone())
            .await,
    );
    want.push(("anonymous", "demo/thing", "UNAUTHENTICATED"));
    drop(world.call(&bob, "demo/never", file.clone()).await);
    want.push(("bob", "demo/never", "NOT_FOUND"));
    drop(
        world
            .call(&bob, "demo/thing", json!({ "file": "../x" }))
            .await,
    );
    want.push(("bob", "demo/thing", "INVALID_INPUT"));
    drop(
        world
            .door
            .subscribe(Call::new("demo/fails", bob.clone()).unwrap())
            .await,
    );
    want.push(("bob", "demo/fails", "INVALID_OPERATION_TYPE"));
    drop(
        world
            .door
            .open(Call::new("demo/never", bob.clone()).unwrap())
            .await,
    );
    want.push(("bob", "demo/never", "NOT_FOUND"));
    drop(world.call_on(&bob, "any", "demo/thing").await);
    want.push(("bob", "demo/thing", "NOT_FOUND"));
    // Failed.
    drop(world.call(&bob, "demo/fails", json!({})).await);
    want.push(("bob", "demo/fails", "NO_ROOM"));
    // Dropped.
    assert!(futures::poll!(Box::pin(world.call(&bob, "demo/stuck", json!({})))).is_pending());
    want.push(("bob", "demo/stuck", "CANCELLED"));
    drop(
        world
            .door
            .subscribe(Call::new("demo/items", bob.clone()).unwrap())
            .await
            .unwrap(),
    );
    want.push(("bob", "demo/items", "CANCELLED"));
    // Done.
    drop(
        world
            .door
            .subscribe(Call::new("demo/items", bob.clone()).unwrap())
            .await
            .unwrap()
            .collect::<Vec<_>>()
            .await,
    );
    want.push(("bob", "demo/items", "ok"));
    drop(
        world
            .door
            .open(Call::new("demo/bytes", bob.clone()).unwrap())
            .await
            .unwrap()
            .done
            .await,
    );
    want.push(("bob", "demo/bytes", "ok"));
    let rows = audited.rows().await;
    let seen: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row.caller.as_str(),
                row.operation.as_str(),
                row.outcome.as_str(),
            )
        })
        .collect();
    assert_eq!(seen, want);
    let ids: std::collections::BTreeSet<_> = rows.iter().map(|row| &row.call_id).collect();
    assert_eq!(ids.len(), rows.len());
}

#[tokio::test]
async fn inputs_outputs_and_messages_never_appear() {
    let (sink, audited) = Audited::start();
    let world = World::with(operations(), |door| door.audit(sink));
    let bob = world.caller("bob", &["reader"]);
    let eve = world.caller("eve", &[]);
    let secret = json!({ "file": "www/a", "hunter2": "hunter2" });
    for caller in [&bob, &eve] {
        for operation in ["demo/thing", "demo/fails", "demo/never"] {
            drop(world.call(caller, operation, secret.clone()).await);
        }
    }
    drop(
        world
            .call(
                &bob,
                "demo/thing",
                json!({ "file": ["www/a", 7], "hunter2": 1 }),
            )
            .await,
    );
    drop(
        world
            .door
            .call(
                Call::new("demo/thing", bob.clone())
                    .unwrap()
                    .input_json("hunter2"),
            )
            .await,
    );
    let text = serde_json::to_string(&audited.rows().await).unwrap();
    assert!(!text.contains("hunter2"), "{text}");
    assert!(
        text.contains("fs:read") || text.contains("demo:thing") || text.contains("bucket:"),
        "{text}"
    );
}

#[tokio::test]
async fn a_tree_of_calls_is_joined_by_parent_ids() {
    let (sink, audited) = Audited::start();
    let leaf = Operation::query("demo/leaf", "Answers.")
        .internal()
        .raw(echo());
    let top = Operation::query("demo/top", "Calls twice.")
        .authority("top", &["demo:leaf"], &[])
        .reaches("demo/leaf")
        .handler(|cx, _: Value| async move {
            for n in 0..2 {
                cx.env().call::<Value>("demo/leaf", &n).await?;
            }
            Ok(())
        });
    let world = World::with(vec![leaf, top], |door| {
        door.audit(sink).node("home", [1; 32])
    });
    let call = Call::new("demo/top", world.caller("bob", &["demo:top"])).unwrap();
    let id = call.id.to_string();
    world.door.call(call).await.unwrap();
    let rows = audited.rows().await;
    assert_eq!(
        rows.iter()
            .filter(|row| row.parent_id.as_ref() == Some(&id))
            .count(),
        2
    );
    let children: Vec<_> = rows.iter().filter(|row| row.parent_id.is_some()).collect();
    assert!(
        children
            .iter()
            .all(|row| row.caller == "top" && row.originator.as_deref() == Some("home/bob"))
    );
    assert_eq!(rows.last().unwrap().call_id, id);
}

#[tokio::test]
async fn a_channel_counts_its_bytes_and_a_subscription_its_items() {
    let (sink, audited) = Audited::start();
    let echoes = Operation::channel("demo/echo", "Sends back twice.").raw(Handler::Channel(
        Arc::new(|_, _, opening| {
            Box::pin(async move {
                let mut end = opening.accept(&())?;
                while let Ok(Some(chunk)) = end.rx.recv().await {
                    for _ in 0..2 {
                        let _ = end.tx.send(chunk.bytes.clone()).await;
                    }
                }
                end.tx.end();
                Ok(Output::Value(Value::Null))
            })
        }),
    ));
    let mut all = operations();
    all.push(echoes);
    let world = World::with(all, |door| door.audit(sink));
    let mut channel = world
        .door
        .open(
            Call::new("demo/echo", Caller::host())
                .unwrap()
                .input_json("{}"),
        )
        .await
        .unwrap();
    channel.channel.tx.send("12345".into()).await.unwrap();
    channel.channel.tx.end();
    let mut back = 0;
    while let Ok(Some(chunk)) = channel.channel.rx.recv().await {
        back += chunk.bytes.len();
    }
    assert_eq!(back, 10);
    channel.done.await.unwrap();
    let items = world
        .door
        .subscribe(
            Call::new("demo/items", Caller::host())
                .unwrap()
                .input(&"1234"),
        )
        .await
        .unwrap();
    assert_eq!(items.count().await, 1);
    let rows = audited.rows().await;
    // The opening input, then the bytes; the opening reply and the result, then the bytes.
    assert_eq!((rows[0].bytes_in, rows[0].bytes_out), (2 + 5, 4 + 4 + 10));
    assert_eq!((rows[1].bytes_in, rows[1].bytes_out), (6, 6));
}

/// A log that can be broken.
#[derive(Default)]
struct Fickle {
    broken: AtomicBool,
    rows: Mutex<Vec<AuditRow>>,
}

#[async_trait::async_trait]
impl AuditLog for Fickle {
    async fn append(&self, rows: Vec<AuditRow>) -> Result<(), StoreError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(StoreError::backend("the disk is full"));
        }
        self.rows.lock().unwrap().extend(rows);
        Ok(())
    }

    async fn list(&self, _: &AuditFilter) -> Result<Vec<(u64, AuditRow)>, StoreError> {
        Ok(Vec::new())
    }

    async fn span(&self) -> Result<AuditSpan, StoreError> {
        Ok(AuditSpan::default())
    }

    fn written(&self) -> tokio::sync::watch::Receiver<u64> {
        tokio::sync::watch::Sender::new(0).subscribe()
    }

    async fn prune_rows(
        &self,
        _before: Timestamp,
        _rows_max: u64,
        _batch: u32,
        _row: AuditRow,
    ) -> Result<u64, StoreError> {
        Ok(0)
    }
}

struct Slow {
    world: World,
    log: Arc<Fickle>,
    stop: tokio::sync::oneshot::Sender<()>,
    writer: tokio::task::JoinHandle<Result<(), AuditLost>>,
}

/// A door whose audit queue has `rows_max` places and whose log is broken.
fn slow(rows_max: usize) -> Slow {
    let log = Arc::new(Fickle::default());
    log.broken.store(true, Ordering::Relaxed);
    let (sink, writer) = AuditWriter::with_rows_max(rows_max);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let to = log.clone();
    let writer = tokio::spawn(writer.run(to, async { drop(stopped.await) }));
    let world = World::with(
        vec![Operation::query("demo/thing", "Answers.").raw(echo())],
        |door| door.audit(sink),
    );
    Slow {
        world,
        log,
        stop,
        writer,
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_slows_callers_and_loses_nothing() {
    let Slow {
        world,
        log,
        stop,
        writer,
    } = slow(8);
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..100u32 {
        let door = world.door.clone();
        calls.spawn(async move {
            door.call(Call::new("demo/thing", Caller::host()).unwrap().input(&n))
                .await
                .map(drop)
        });
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut done = 0;
    while let Some(ended) = calls.try_join_next() {
        ended.unwrap().unwrap();
        done += 1;
    }
    // As many as the queue and the batch under way have room for.
    assert!((8..=16).contains(&done), "{done}");
    assert!(log.rows.lock().unwrap().is_empty());
    log.broken.store(false, Ordering::Relaxed);
    while let Some(ended) = calls.join_next().await {
        ended.unwrap().unwrap();
    }
    stop.send(()).unwrap();
    writer.await.unwrap().unwrap();
    assert_eq!(log.rows.lock().unwrap().len(), 100);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_recorded_in_time_is_not_done() {
    let Slow {
        world,
        stop,
        writer,
        log,
    } = slow(1);
    let host = Caller::host();
    let ran = || world.call(&host, "demo/thing", json!(1));
    // One in the batch that fails, one in the queue.
    ran().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    ran().await.unwrap();
    let begun = tokio::time::Instant::now();
    let error = fails(ran().await, ErrorCode::Unavailable);
    assert!(error.retryable);
    assert_eq!(begun.elapsed(), Duration::from_secs(30));
    let until = tokio::time::Instant::now() + Duration::from_secs(2);
    let call = Call::new("demo/thing", Caller::host())
        .unwrap()
        .deadline(until);
    fails(world.door.call(call).await, ErrorCode::Unavailable);
    assert_eq!(tokio::time::Instant::now(), until);
    fails(
        world.door.authorize(&Caller::host(), "demo/thing"),
        ErrorCode::Unavailable,
    );
    log.broken.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(1)).await;
    ran().await.unwrap();
    stop.send(()).unwrap();
    writer.await.unwrap().unwrap();
    assert_eq!(log.rows.lock().unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_stop_writes_what_is_queued() {
    let Slow {
        world,
        log,
        stop,
        writer,
    } = slow(1_000);
    log.broken.store(false, Ordering::Relaxed);
    for _ in 0..500 {
        world
            .call(&Caller::host(), "demo/thing", json!(1))
            .await
            .unwrap();
    }
    stop.send(()).unwrap();
    writer.await.unwrap().unwrap();
    assert_eq!(log.rows.lock().unwrap().len(), 500);
    // Afterwards calls go on, with nobody to write to.
    world
        .call(&Caller::host(), "demo/thing", json!(1))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_although_the_log_is_broken() {
    let Slow {
        world,
        stop,
        writer,
        ..
    } = slow(1_000);
    world
        .call(&Caller::host(), "demo/thing", json!(1))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.send(()).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), writer)
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(
        ended,
        Err(AuditLost::Store(StoreError::Backend(_)))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_calls_that_end_and_not_for_those_that_never_do() {
    let Slow {
        world,
        log,
        stop,
        writer,
    } = slow(1_000);
    log.broken.store(false, Ordering::Relaxed);
    world
        .registry
        .register(vec![
            Operation::query("demo/naps", "Takes a second.").raw(Handler::Unary(Arc::new(
                |_, _| {
                    Box::pin(async {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        Ok(Output::Value(Value::Null))
                    })
                },
            ))),
            Operation::query("demo/stuck", "Never answers.").raw(Handler::Unary(Arc::new(
                |_, _| Box::pin(std::future::pending()),
            ))),
        ])
        .unwrap();
    let (door, again) = (world.door.clone(), world.door.clone());
    let naps = tokio::spawn(async move {
        door.call(Call::new("demo/naps", Caller::host()).unwrap())
            .await
    });
    let stuck = tokio::spawn(async move {
        again
            .call(Call::new("demo/stuck", Caller::host()).unwrap())
            .await
    });
    while world.door.in_flight() < 2 {
        tokio::task::yield_now().await;
    }
    stop.send(()).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(6), writer)
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(ended, Err(AuditLost::CallsGoOn)), "{ended:?}");
    naps.await.unwrap().unwrap();
    stuck.abort();
    let rows = log.rows.lock().unwrap();
    assert_eq!(
        rows.iter()
            .map(|row| row.operation.as_str())
            .collect::<Vec<_>>(),
        ["demo/naps"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_busy_door_is_not_held_to_the_pace_of_the_batches() {
    let Slow {
        world,
        log,
        stop,
        writer,
    } = slow(64);
    log.broken.store(false, Ordering::Relaxed);
    let begun = tokio::time::Instant::now();
    for _ in 0..10_000 {
        world
            .call(&Caller::host(), "demo/thing", json!(1))
            .await
            .unwrap();
    }
    // Batches of 64 every 100 ms would take 15 seconds.
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    stop.send(()).unwrap();
    writer.await.unwrap().unwrap();
    assert_eq!(log.rows.lock().unwrap().len(), 10_000);
}

#[tokio::test]
async fn events_have_rows_too() {
    let (sink, audited) = Audited::start();
    sink.record(AuditRow::event(Timestamp(1), "node", "node/started"))
        .await;
    assert_eq!(sink.waiting(), 1);
    let rows = audited.rows().await;
    assert_eq!(
        (rows[0].operation.as_str(), rows[0].caller.as_str()),
        ("node/started", "node")
    );
}
