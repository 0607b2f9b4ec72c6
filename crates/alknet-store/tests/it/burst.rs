//! A burst of calls: each has its row, however slow the disk is; callers wait,
//! and nothing is dropped.

use crate::{store, support::is_full};
use alknet_core::{
    AuditRow, AuditSink, AuditWriter, Call, Caller, Dispatcher, Operation, Registry,
    storage::{AuditFilter, AuditLog, AuditSpan, StoreError, Timestamp},
};
use alknet_store::{JobError, Store};
use async_trait::async_trait;
use serde_json::json;
use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{oneshot, watch};

/// Rows that may wait: few, so that the queue fills while the disk stands.
const ROWS_WAITING: usize = 256;
/// Callers at the same time.
const CALLERS: usize = 64;

fn calls() -> usize {
    if is_full() { 50_000 } else { 5_000 }
}

/// A store on a disk that can be taken away.
struct Disk {
    store: Store,
    is_full: AtomicBool,
    refused: AtomicU64,
}

#[async_trait]
impl AuditLog for Disk {
    async fn append(&self, rows: Vec<AuditRow>) -> Result<(), StoreError> {
        if self.is_full.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(StoreError::backend("the disk is full"));
        }
        self.store.append(rows).await
    }

    async fn list(&self, filter: &AuditFilter) -> Result<Vec<(u64, AuditRow)>, StoreError> {
        self.store.list(filter).await
    }

    async fn span(&self) -> Result<AuditSpan, StoreError> {
        self.store.span().await
    }

    fn written(&self) -> watch::Receiver<u64> {
        self.store.written()
    }

    async fn prune_rows(
        &self,
        before: Timestamp,
        rows_max: u64,
        batch: u32,
        row: AuditRow,
    ) -> Result<u64, StoreError> {
        self.store.prune_rows(before, rows_max, batch, row).await
    }
}

fn door(audit: AuditSink) -> Dispatcher {
    let registry = Registry::new();
    let double = Operation::query("demo/double", "Doubles a number.")
        .example(json!(21), json!(42))
        .handler(|_cx, n: u32| async move { Ok(n.wrapping_mul(2)) });
    registry.register(vec![double]).unwrap();
    Dispatcher::builder(registry).audit(audit).build()
}

/// Makes `calls` of them, and answers with their ids.
async fn burst(door: &Dispatcher, calls: usize, done: &Arc<AtomicU64>) -> Vec<String> {
    let callers = (0..CALLERS).map(|caller| {
        let (door, done) = (door.clone(), done.clone());
        tokio::spawn(async move {
            let mut ids = Vec::new();
            for n in (caller..calls).step_by(CALLERS) {
                let call = Call::new("demo/double", Caller::host()).unwrap();
                let call = call.input(&u32::try_from(n).unwrap());
                ids.push(call.id.to_string());
                door.call(call).await.unwrap();
                done.fetch_add(1, Ordering::SeqCst);
            }
            ids
        })
    });
    let mut ids = Vec::new();
    for caller in callers.collect::<Vec<_>>() {
        ids.extend(caller.await.unwrap());
    }
    ids
}

/// Ids of all rows, oldest first, page by page.
async fn recorded(store: &Store) -> Vec<String> {
    let mut filter = AuditFilter {
        limit: Some(1_000),
        oldest_first: true,
        ..AuditFilter::default()
    };
    let mut ids = Vec::new();
    loop {
        let page = store.list(&filter).await.unwrap();
        let Some((last, _)) = page.last() else {
            return ids;
        };
        filter.after = Some(*last);
        ids.extend(page.into_iter().map(|(_, row)| row.call_id));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_of_a_burst_has_its_row_while_the_disk_stands_still_and_fills_up() {
    let (_dir, store) = store();
    let disk = Arc::new(Disk {
        store: store.clone(),
        is_full: AtomicBool::new(false),
        refused: AtomicU64::new(0),
    });
    let (sink, writer) = AuditWriter::with_rows_max(ROWS_WAITING);
    let (stop, stopped) = oneshot::channel::<()>();
    let log: Arc<dyn AuditLog> = disk.clone();
    let writer = tokio::spawn(writer.run(log, async { drop(stopped.await) }));
    let door = door(sink.clone());
    let done = Arc::new(AtomicU64::new(0));
    let count = {
        let done = done.clone();
        move || done.load(Ordering::SeqCst)
    };

    let calling = {
        let (door, done) = (door.clone(), done.clone());
        tokio::spawn(async move { burst(&door, calls(), &done).await })
    };
    // The disk is full for a while: callers wait, once the queue is.
    until(|| count() > 500).await;
    disk.is_full.store(true, Ordering::SeqCst);
    until(|| disk.refused.load(Ordering::SeqCst) > 2).await;
    let waiting = count();
    until(|| disk.refused.load(Ordering::SeqCst) > 6).await;
    assert!(
        count() - waiting <= (ROWS_WAITING + CALLERS) as u64,
        "callers go on although nothing is written"
    );
    assert!(!calling.is_finished());
    disk.is_full.store(false, Ordering::SeqCst);
    // And it stands still: the one that writes waits for it.
    until(|| count() > waiting + 1_000).await;
    let (held, release) = std::sync::mpsc::channel::<()>();
    let standing = tokio::spawn({
        let store = store.clone();
        async move {
            let standing = store.write(move |_| {
                // Whoever lets go of the other end says the same.
                let _ = release.recv();
                Ok::<_, JobError>(())
            });
            standing.await
        }
    });
    let before = count();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let slowed = count() - before;
    drop(held);
    standing.await.unwrap().unwrap();
    assert!(slowed <= 4 * (ROWS_WAITING + CALLERS) as u64, "{slowed}");

    let ids = calling.await.unwrap();
    // The node stops at once: what waits is written out.
    stop.send(()).unwrap();
    drop(door);
    drop(sink);
    writer.await.unwrap().unwrap();
    let rows = recorded(&store).await;
    assert_eq!(rows.len(), calls());
    let (rows, ids): (HashSet<String>, HashSet<String>) =
        (rows.into_iter().collect(), ids.into_iter().collect());
    assert_eq!(ids.len(), calls());
    assert!(rows == ids, "each call has its row, and each row its call");
    store.close().await;
}

async fn until(holds: impl Fn() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waited)
        .await
        .unwrap();
}

/// What a row costs a call, told and not judged: a debug build on a busy
/// machine says little. `./bench store` measures it.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_with_rows_is_measured_against_one_without() {
    let (_dir, store) = store();
    let calls = calls() / 2;
    let mut took = Vec::new();
    for with_rows in [false, true, false, true] {
        let (sink, writer) = match with_rows {
            true => {
                let (sink, writer) = AuditWriter::new();
                (sink, Some(writer))
            }
            false => (AuditSink::discard(), None),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let log: Arc<dyn AuditLog> = Arc::new(store.clone());
        let writing =
            writer.map(|writer| tokio::spawn(writer.run(log, async { drop(stopped.await) })));
        let door = door(sink);
        let began = Instant::now();
        let ids = burst(&door, calls, &Arc::default()).await;
        let answered = began.elapsed();
        drop((stop, door));
        if let Some(writing) = writing {
            writing.await.unwrap().unwrap();
        }
        assert_eq!(ids.len(), calls);
        took.push((with_rows, answered, began.elapsed()));
    }
    let rows = recorded(&store).await;
    assert_eq!(rows.len(), 2 * calls);
    // Only shown if asked for.
    #[allow(clippy::print_stdout)]
    for (with_rows, answered, written) in took {
        let each = |time: Duration| time.as_secs_f64() * 1e6 / calls as f64;
        println!(
            "{calls} calls {} rows: {:.1} µs each until answered, {:.1} µs until written",
            if with_rows { "with" } else { "without" },
            each(answered),
            each(written),
        );
    }
    store.close().await;
}
