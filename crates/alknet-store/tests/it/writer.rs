//! Group commit: many jobs, one transaction, each on its own.

use crate::store;
use alknet_core::{
    AuditRow,
    storage::{AuditFilter, AuditLog, Timestamp},
};
use alknet_store::{JobError, Store, rusqlite};
use rusqlite::Connection;
use std::{future::Future, sync::mpsc};
use tokio::task::JoinHandle;

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("refused by the job")]
    Refused,
    #[error(transparent)]
    Job(#[from] JobError),
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
}

fn note(connection: &Connection, key: &str) -> Result<(), Failure> {
    connection.execute("INSERT INTO meta (key, value) VALUES (?1, '')", [key])?;
    Ok(())
}

async fn noted(store: &Store) -> Vec<String> {
    let keys = store.read(|connection| {
        let mut statement =
            connection.prepare("SELECT key FROM meta WHERE key <> 'events-epoch' ORDER BY key")?;
        let keys = statement
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        Ok::<Vec<String>, Failure>(keys)
    });
    keys.await.unwrap()
}

/// Keeps the writer busy until told, so that what is handed over meanwhile
/// becomes one group.
async fn hold(store: &Store) -> (mpsc::Sender<()>, JoinHandle<Result<(), Failure>>) {
    let (release, released) = mpsc::channel::<()>();
    let (started, starting) = tokio::sync::oneshot::channel();
    let store = store.clone();
    let holder = tokio::spawn(async move {
        let held = store.write(move |_| {
            started.send(()).unwrap();
            // Dropping the sender releases, too.
            let _ = released.recv();
            Ok(())
        });
        held.await
    });
    starting.await.unwrap();
    (release, holder)
}

/// Spawns a job and waits until it is in the queue.
async fn queue<T: Send + 'static>(job: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    let task = tokio::spawn(job);
    // On a runtime of one thread the task has run up to its first wait,
    // which is for the answer: the queue has room.
    tokio::task::yield_now().await;
    task
}

#[tokio::test]
async fn jobs_that_wait_share_one_commit() {
    let (_dir, store) = store();
    let (release, holder) = hold(&store).await;
    let before = store.write_stats();
    let mut jobs = Vec::new();
    for n in 0..200 {
        let store = store.clone();
        jobs.push(
            queue(async move { store.write(move |c| note(c, &format!("k{n:03}"))).await }).await,
        );
    }
    release.send(()).unwrap();
    holder.await.unwrap().unwrap();
    for job in jobs {
        job.await.unwrap().unwrap();
    }
    let after = store.write_stats();
    assert_eq!(after.jobs - before.jobs, 201);
    assert_eq!(
        after.commits - before.commits,
        2,
        "the holder's and one for all others"
    );
    assert_eq!(noted(&store).await.len(), 200);
}

#[tokio::test]
async fn a_group_has_a_most() {
    let (_dir, store) = store();
    let (release, holder) = hold(&store).await;
    let before = store.write_stats();
    let mut jobs = Vec::new();
    for n in 0..257 {
        let store = store.clone();
        jobs.push(
            queue(async move { store.write(move |c| note(c, &format!("k{n:03}"))).await }).await,
        );
    }
    drop(release);
    holder.await.unwrap().unwrap();
    for job in jobs {
        job.await.unwrap().unwrap();
    }
    assert_eq!(
        store.write_stats().commits - before.commits,
        3,
        "the holder's, 256, and one more"
    );
}

#[tokio::test]
async fn a_failing_or_panicking_job_undoes_only_itself() {
    let (_dir, store) = store();
    let (release, holder) = hold(&store).await;
    let job = |key: &'static str, end: fn() -> Result<(), Failure>| {
        let store = store.clone();
        queue(async move {
            let work = move |c: &Connection| {
                note(c, key)?;
                end()
            };
            store.write(work).await
        })
    };
    let first = job("a-first", || Ok(())).await;
    let refused = job("b-refused", || Err(Failure::Refused)).await;
    let panicked = job("c-panicked", || panic!("a job of the test")).await;
    let last = job("d-last", || Ok(())).await;
    release.send(()).unwrap();
    holder.await.unwrap().unwrap();
    first.await.unwrap().unwrap();
    assert!(matches!(refused.await.unwrap(), Err(Failure::Refused)));
    assert!(matches!(
        panicked.await.unwrap(),
        Err(Failure::Job(JobError::Panicked))
    ));
    last.await.unwrap().unwrap();
    assert_eq!(noted(&store).await, ["a-first", "d-last"]);
}

#[tokio::test]
async fn a_lost_transaction_fails_its_jobs_and_no_later_one() {
    let (_dir, store) = store();
    let (release, holder) = hold(&store).await;
    let first = store.clone();
    let first = queue(async move { first.write(|c| note(c, "a-first")).await }).await;
    // As SQLite itself does on a full disk.
    let culprit = store.clone();
    let culprit = queue(async move {
        let work = |c: &Connection| {
            c.execute_batch("ROLLBACK")?;
            Err::<(), _>(Failure::Refused)
        };
        culprit.write(work).await
    });
    let culprit = culprit.await;
    let last = store.clone();
    let last = queue(async move { last.write(|c| note(c, "c-last")).await }).await;
    release.send(()).unwrap();
    holder.await.unwrap().unwrap();
    assert!(matches!(
        first.await.unwrap(),
        Err(Failure::Job(JobError::RolledBack))
    ));
    assert!(matches!(culprit.await.unwrap(), Err(Failure::Refused)));
    last.await.unwrap().unwrap();
    assert_eq!(noted(&store).await, ["c-last"]);
}

#[tokio::test]
async fn a_panic_of_a_reader_leaves_its_connection_usable() {
    let (_dir, store) = store();
    for _ in 0..20 {
        let read = store.read(|_| -> Result<(), Failure> { panic!("a job of the test") });
        assert!(matches!(read.await, Err(Failure::Job(JobError::Panicked))));
    }
    store.write(|c| note(c, "a")).await.unwrap();
    assert_eq!(noted(&store).await, ["a"]);
}

#[tokio::test]
async fn a_reader_sees_one_moment_and_cannot_write() {
    let (_dir, store) = store();
    let (go_on, going_on) = mpsc::channel::<()>();
    let (started, starting) = tokio::sync::oneshot::channel();
    let reader = store.clone();
    let reader = tokio::spawn(async move {
        let counts = reader.read(move |c| {
            let count = || {
                c.query_row("SELECT count(*) FROM meta WHERE key = 'a'", [], |row| {
                    row.get::<_, i64>(0)
                })
            };
            let before = count()?;
            started.send(()).unwrap();
            going_on.recv().unwrap();
            assert!(note(c, "from a reader").is_err());
            Ok::<_, Failure>((before, count()?))
        });
        counts.await
    });
    starting.await.unwrap();
    store.write(|c| note(c, "a")).await.unwrap();
    go_on.send(()).unwrap();
    assert_eq!(reader.await.unwrap().unwrap(), (0, 0));
    assert_eq!(noted(&store).await, ["a"]);
}

#[tokio::test]
async fn closing_finishes_what_was_handed_over_and_refuses_the_rest() {
    let (dir, store) = store();
    let (release, holder) = hold(&store).await;
    let waiting = store.clone();
    let waiting = queue(async move { waiting.write(|c| note(c, "a")).await }).await;
    let closing = store.clone();
    let closing = queue(async move { closing.close().await }).await;
    release.send(()).unwrap();
    holder.await.unwrap().unwrap();
    waiting.await.unwrap().unwrap();
    closing.await.unwrap();
    store.close().await;
    let late = store.write(|c| note(c, "b")).await;
    assert!(matches!(late, Err(Failure::Job(JobError::Closed))));
    let late = store.read(|_| Ok::<_, Failure>(())).await;
    assert!(matches!(late, Err(Failure::Job(JobError::Closed))));
    assert!(
        !dir.path().join("alknet.db-wal").exists(),
        "the log was moved into the file"
    );
    let reopened = Store::open(&dir.path().join("alknet.db")).unwrap();
    assert_eq!(noted(&reopened).await, ["a"]);
}

#[tokio::test]
async fn dropping_the_store_finishes_what_was_handed_over() {
    let (dir, store) = store();
    let (release, holder) = hold(&store).await;
    let path = store.path().to_owned();
    let queued = store.clone();
    let queued = queue(async move { queued.write(|c| note(c, "a")).await }).await;
    // Nobody waits for the answer any more.
    queued.abort();
    holder.abort();
    let (_, _) = (queued.await, holder.await);
    drop(release);
    drop(store);
    assert!(!dir.path().join("alknet.db-wal").exists());
    assert_eq!(noted(&Store::open(&path).unwrap()).await, ["a"]);
}

#[tokio::test]
async fn a_job_may_own_the_last_clone() {
    let (_dir, store) = store();
    let path = store.path().to_owned();
    let (dropped, dropping) = tokio::sync::oneshot::channel();
    let (release, holder) = hold(&store).await;
    let owner = store.clone();
    let job = queue(async move {
        let inner = owner.clone();
        let work = move |c: &Connection| {
            note(c, "a")?;
            drop(inner);
            dropped.send(()).unwrap();
            Ok::<_, Failure>(())
        };
        owner.write(work).await
    });
    let job = job.await;
    job.abort();
    holder.abort();
    let (_, _) = (job.await, holder.await);
    // The writer is busy, so the clone inside the job is the last one.
    drop(store);
    drop(release);
    dropping.await.unwrap();
    // The writer still commits and closes, on its own.
    let reopened = Store::open(&path).unwrap();
    reopened.write(|c| note(c, "b")).await.unwrap();
    assert_eq!(noted(&reopened).await, ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_at_once_all_get_their_answer() {
    let (_dir, store) = store();
    let callers = (0..64).map(|caller| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..20 {
                let row = AuditRow::event(Timestamp(n), &format!("c{caller}"), "a/b");
                store.append(vec![row]).await.unwrap();
            }
            let mine = AuditFilter {
                caller: Some(format!("c{caller}")),
                ..AuditFilter::default()
            };
            assert_eq!(store.list(&mine).await.unwrap().len(), 20);
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    let stats = store.write_stats();
    assert_eq!(stats.jobs, 64 * 20);
    assert!(stats.commits < stats.jobs, "{stats:?}");
}

#[tokio::test]
async fn a_full_disk_fails_writes_until_there_is_room() {
    let (_dir, store) = store();
    let pages = |most: u32| {
        let set = move |c: &Connection| {
            c.pragma_update_and_check(None, "max_page_count", most, |_| Ok(()))?;
            Ok::<_, Failure>(())
        };
        store.write(set)
    };
    let big = || AuditRow {
        detail: Some("x".repeat(1 << 20)),
        ..AuditRow::event(Timestamp(0), "c", "a/b")
    };
    store
        .append(vec![AuditRow::event(Timestamp(0), "c", "a/a")])
        .await
        .unwrap();
    // SQLite's own limit fails as a full disk does; 1 means: no more than now.
    pages(1).await.unwrap();
    let error = store.append(vec![big()]).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("full"), "{cause}");
    assert_eq!(store.list(&AuditFilter::default()).await.unwrap().len(), 1);
    pages(u32::MAX >> 2).await.unwrap();
    store.append(vec![big()]).await.unwrap();
    assert_eq!(store.list(&AuditFilter::default()).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_job_that_overlooks_a_lost_transaction_is_not_acknowledged() {
    let (_dir, store) = store();
    let written = store.write(|connection| {
        note(connection, "overlooked")?;
        // What SQLite does by itself on a full disk.
        connection.execute_batch("ROLLBACK")?;
        Ok::<_, Failure>(())
    });
    let refused = written.await.unwrap_err();
    assert!(
        matches!(refused, Failure::Job(JobError::RolledBack)),
        "{refused:?}"
    );
    assert!(!noted(&store).await.contains(&"overlooked".to_owned()));
    // And the next one is as good as ever.
    store.write(|c| note(c, "next")).await.unwrap();
    assert!(noted(&store).await.contains(&"next".to_owned()));
}
