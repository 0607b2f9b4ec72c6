//! The one thread that writes, and its group commit.
//!
//! While a commit waits for the disk, jobs gather in the queue. The next
//! transaction takes them all, each in a savepoint of its own, so that one
//! fsync serves many and a failing job undoes only itself. Replies go out
//! after the commit.

use crate::{audit, events, fault::JobError};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot, watch};

/// Jobs that may wait; a full queue slows its callers down.
pub(crate) const QUEUE_JOBS_MAX: usize = 1_024;
/// Jobs that share one transaction.
pub(crate) const GROUP_JOBS_MAX: usize = 256;
/// How long a group waits for those who took part in the one before: they
/// have only just been answered, and are likely to ask again.
const GATHER_WAIT: Duration = Duration::from_micros(300);
/// Between two lines of the log about writes that fail.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// What the writer has done.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) jobs: AtomicU64,
    pub(crate) commits: AtomicU64,
}

/// Something for each of the two logs: of rows and of events.
pub(crate) struct Newest<T> {
    pub(crate) rows: T,
    pub(crate) events: T,
}

/// A change that somebody waits for.
pub(crate) trait Job: Send {
    /// Does the work; `false` undoes it.
    fn run(&mut self, connection: &Connection) -> bool;

    /// Tells who asked. `committed` is about the shared transaction; how the
    /// work itself went, the job knows.
    fn reply(self: Box<Self>, committed: Result<(), JobError>);
}

/// Makes a job of a closure.
pub(crate) fn job<T, E, F>(work: F) -> (Box<dyn Job>, oneshot::Receiver<Result<T, E>>)
where
    F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    T: Send + 'static,
    E: From<JobError> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    (
        Box::new(Work {
            work: Some(work),
            done: Err(JobError::Closed.into()),
            reply,
        }),
        answer,
    )
}

struct Work<F, T, E> {
    work: Option<F>,
    done: Result<T, E>,
    reply: oneshot::Sender<Result<T, E>>,
}

impl<F, T, E> Job for Work<F, T, E>
where
    F: FnOnce(&Connection) -> Result<T, E> + Send,
    T: Send,
    E: From<JobError> + Send,
{
    fn run(&mut self, connection: &Connection) -> bool {
        if let Some(work) = self.work.take() {
            // What the closure owned is gone, and what it wrote is undone.
            let done = catch_unwind(AssertUnwindSafe(|| work(connection)));
            self.done = done.unwrap_or_else(|_| Err(JobError::Panicked.into()));
        }
        self.done.is_ok()
    }

    fn reply(self: Box<Self>, committed: Result<(), JobError>) {
        let answer = match committed {
            Ok(()) => self.done,
            Err(error) => Err(error.into()),
        };
        // Nobody may be waiting any more: the change stands all the same.
        let _ = self.reply.send(answer);
    }
}

/// Runs jobs until every sender is gone and the queue is empty, then moves
/// the log into the database and closes it.
pub(crate) fn run(
    mut connection: Connection,
    mut queue: mpsc::Receiver<Box<dyn Job>>,
    counters: &Counters,
    told: &Newest<watch::Sender<u64>>,
) {
    let mut last = 0;
    let mut trouble = Trouble::default();
    while let Some(first) = queue.blocking_recv() {
        let mut group = VecDeque::from([first]);
        gather(&mut queue, &mut group, last);
        last = group.len();
        commit(&mut connection, group, counters, told, &mut trouble);
    }
    close(connection);
}

/// Adds what is waiting to the group.
fn gather(
    queue: &mut mpsc::Receiver<Box<dyn Job>>,
    group: &mut VecDeque<Box<dyn Job>>,
    last: usize,
) {
    let began = Instant::now();
    loop {
        while group.len() < GROUP_JOBS_MAX
            && let Ok(job) = queue.try_recv()
        {
            group.push_back(job);
        }
        // A lone caller never waits: its groups have one job each.
        if group.len() >= last || began.elapsed() >= GATHER_WAIT {
            return;
        }
        // They are about to ask: to sleep would take longer than they do.
        thread::yield_now();
    }
}

/// Runs all jobs of the group, in as few transactions as possible.
fn commit(
    connection: &mut Connection,
    mut waiting: VecDeque<Box<dyn Job>>,
    counters: &Counters,
    told: &Newest<watch::Sender<u64>>,
    trouble: &mut Trouble,
) {
    while !waiting.is_empty() {
        let mut ran = Vec::with_capacity(waiting.len());
        let committed = transact(connection, &mut waiting, &mut ran);
        counters.jobs.fetch_add(ran.len() as u64, Ordering::Relaxed);
        let committed = committed.map(|newest| {
            if let Some(newest) = newest {
                counters.commits.fetch_add(1, Ordering::Relaxed);
                tell(newest, told);
            }
        });
        trouble.note(&committed);
        for job in ran {
            job.reply(committed.clone());
        }
    }
}

/// Wakes those who follow audit rows or events, if there are new ones.
fn tell(newest: Newest<u64>, told: &Newest<watch::Sender<u64>>) {
    for (newest, told) in [(newest.rows, &told.rows), (newest.events, &told.events)] {
        told.send_if_modified(|known| std::mem::replace(known, newest) != newest);
    }
}

/// Moves jobs from `waiting` to `ran`, and answers with the newest numbers if
/// anything was committed. An error is one of all that ran.
fn transact(
    connection: &mut Connection,
    waiting: &mut VecDeque<Box<dyn Job>>,
    ran: &mut Vec<Box<dyn Job>>,
) -> Result<Option<Newest<u64>>, JobError> {
    let failed = |error| JobError::Commit(Arc::new(error));
    let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
    let transaction = match begun {
        Ok(transaction) => transaction,
        Err(error) => {
            // Not one job can run now: all are told, rather than each trying.
            ran.extend(waiting.drain(..));
            return Err(JobError::Begin(Arc::new(error)));
        }
    };
    // One that shares with nobody is undone with the transaction.
    let is_alone = waiting.len() == 1;
    while let Some(mut job) = waiting.pop_front() {
        let (done, kept) = match is_alone {
            true => (job.run(&transaction), Ok(())),
            false => in_savepoint(&transaction, &mut *job),
        };
        if transaction.is_autocommit() {
            // SQLite rolls back a whole transaction on a full disk and the
            // like. This job knows the cause, unless it took no notice; the
            // others it took along.
            job.reply(match done {
                true => Err(JobError::RolledBack),
                false => Ok(()),
            });
            return Err(JobError::RolledBack);
        }
        ran.push(job);
        kept.map_err(failed)?;
        if is_alone && !done {
            return transaction.rollback().map(|()| None).map_err(failed);
        }
    }
    // Asked before the commit: nothing can fail after it, and followers would
    // wait for the next one.
    let newest = Newest {
        rows: audit::newest(&transaction).map_err(failed)?,
        events: events::newest(&transaction).map_err(failed)?,
    };
    // A failed commit leaves the transaction open; dropping it rolls back.
    transaction.commit().map_err(failed)?;
    Ok(Some(newest))
}

/// Whether the job says that it worked, and how its savepoint ended.
fn in_savepoint(transaction: &Transaction<'_>, job: &mut dyn Job) -> (bool, rusqlite::Result<()>) {
    // rusqlite's own savepoints are prepared anew each time.
    let step = |sql| transaction.prepare_cached(sql)?.execute([]).map(drop);
    if let Err(error) = step("SAVEPOINT job") {
        return (false, Err(error));
    }
    let done = job.run(transaction);
    let undone = match done {
        true => Ok(()),
        false => step("ROLLBACK TO job"),
    };
    (done, undone.and_then(|()| step("RELEASE job")))
}

/// Tells the operator that writes fail, and that they no longer do, each once a
/// minute at most: a full disk fails every one of them, and the log may lie on
/// it; a nearly full one takes some.
#[derive(Default)]
struct Trouble {
    /// Transactions lost since it was last told.
    lost: u64,
    told: Option<Instant>,
    /// It was told that writes fail, and not that they no longer do.
    open: bool,
}

impl Trouble {
    fn note(&mut self, committed: &Result<(), JobError>) {
        match committed {
            Ok(()) if self.open => {
                self.open = false;
                tracing::warn!(lost = self.lost, "the store takes writes again");
            }
            Ok(()) => {}
            Err(error) => {
                self.lost += 1;
                if self.told.is_some_and(|told| told.elapsed() < TOLD_EVERY) {
                    return;
                }
                tracing::error!(lost = self.lost, cause = %Chain(error), "the store cannot write");
                *self = Self {
                    lost: 0,
                    told: Some(Instant::now()),
                    open: true,
                };
            }
        }
    }
}

fn close(connection: Connection) {
    let moved = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
        row.get::<_, bool>(0)
    });
    match moved {
        // Another program reads along; the log is moved at the next start.
        Ok(true) => tracing::debug!("the store is in use by another program, its log stays"),
        Ok(false) => {}
        Err(error) => tracing::warn!(cause = %Chain(&error), "failed to move the store's log"),
    }
    if let Err((_, error)) = connection.close() {
        tracing::warn!(cause = %Chain(&error), "failed to close the store");
    }
}

/// An error with its causes, on one line.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}
