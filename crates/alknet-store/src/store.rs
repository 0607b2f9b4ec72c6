//! The store: one writer, a few readers, one file.

use crate::{
    audit, events,
    fault::JobError,
    open::{self, OpenOptions, OpenStoreError, Opened},
    readers::Readers,
    writer::{self, Counters, Job, Newest, QUEUE_JOBS_MAX},
};
use rusqlite::Connection;
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    thread::{self, JoinHandle},
};
use tokio::sync::{mpsc, watch};

/// A node's durable storage. Clones share it.
///
/// Dropping the last clone does what [`Store::close`] does, and blocks for it.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    path: PathBuf,
    found_running: bool,
    /// `None` once closed.
    jobs: Mutex<Option<mpsc::Sender<Box<dyn Job>>>>,
    readers: Arc<Readers>,
    counters: Arc<Counters>,
    /// The newest numbers, turned after the commit.
    newest: Newest<watch::Receiver<u64>>,
    /// Turns true, or loses its sender, when the writer has ended.
    ended: watch::Receiver<bool>,
    writer: Option<JoinHandle<()>>,
}

/// What the writer has done since the store was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteStats {
    /// Jobs run, failed ones included.
    pub jobs: u64,
    /// Transactions committed: how often somebody waited for the disk.
    pub commits: u64,
}

impl Store {
    /// Opens the store at `path`, which is made with mode 0600 if it is
    /// missing, and brings an older format up to date. Blocks while it does.
    ///
    /// Ensure first, with [`crate::InstanceLock`], that no other process has
    /// it open.
    ///
    /// # Errors
    ///
    /// [`OpenStoreError`], which names the file: it is exposed to other
    /// users, newer than this release, damaged, or not a store at all.
    pub fn open(path: &Path) -> Result<Self, OpenStoreError> {
        Self::open_with(path, OpenOptions::default())
    }

    /// Checks an existing store, without changing it, also while a node has it
    /// open: that it is ours, of a format that this release knows, readable by
    /// its owner alone, and whole (SQLite's `quick_check`). Blocks; takes
    /// seconds for gigabytes.
    ///
    /// # Errors
    ///
    /// [`OpenStoreError`], as [`Store::open`] would give.
    pub fn check(path: &Path) -> Result<(), OpenStoreError> {
        open::check(path, false)
    }

    /// The same with SQLite's `integrity_check`, which compares indexes with
    /// their tables, too, and takes several times as long.
    ///
    /// # Errors
    ///
    /// [`OpenStoreError`], as [`Store::open`] would give.
    pub fn check_deep(path: &Path) -> Result<(), OpenStoreError> {
        open::check(path, true)
    }

    #[doc(hidden)]
    pub fn open_with(path: &Path, options: OpenOptions) -> Result<Self, OpenStoreError> {
        let Opened {
            writer,
            readers,
            found_running,
        } = open::open(path, options)?;
        let counters = Arc::new(Counters::default());
        let (jobs, queue) = mpsc::channel(QUEUE_JOBS_MAX);
        let sqlite = |source| OpenStoreError::Sqlite {
            path: path.into(),
            source,
        };
        let (told_rows, rows) = watch::channel(audit::newest(&writer).map_err(sqlite)?);
        let (told_events, events) = watch::channel(events::newest(&writer).map_err(sqlite)?);
        let told = Newest {
            rows: told_rows,
            events: told_events,
        };
        let (end, ended) = watch::channel(false);
        let writer = thread::Builder::new().name("alknet-store".into()).spawn({
            let counters = counters.clone();
            move || {
                writer::run(writer, queue, &counters, &told);
                end.send_replace(true);
            }
        });
        let writer = writer.map_err(|source| OpenStoreError::Io {
            path: path.into(),
            source,
        })?;
        Ok(Self(Arc::new(Inner {
            path: path.into(),
            found_running,
            jobs: Mutex::new(Some(jobs)),
            readers: Arc::new(Readers::new(readers)),
            counters,
            newest: Newest { rows, events },
            ended,
            writer: Some(writer),
        })))
    }

    /// Runs `work` in a savepoint of the next transaction and returns what it
    /// returned, after the commit: then it is durable, and every read that
    /// begins later sees it. If `work` fails or panics, what it wrote is
    /// undone.
    ///
    /// `work` may run statements and read its own writes; it may not begin,
    /// commit or roll back. Other jobs wait for it, so it does nothing else.
    ///
    /// Dropping the future leaves it open whether the change happens.
    ///
    /// # Errors
    ///
    /// What `work` returned, or a [`JobError`]: the store is closed, `work`
    /// panicked, or the transaction could not be committed.
    pub async fn write<T, E, F>(&self, work: F) -> Result<T, E>
    where
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<JobError> + Send + 'static,
    {
        let jobs = self
            .0
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let jobs = jobs.ok_or(JobError::Closed)?;
        let (job, answer) = writer::job(work);
        jobs.send(job).await.map_err(|_| JobError::Closed)?;
        drop(jobs);
        answer.await.map_err(|_| JobError::Closed)?
    }

    /// Runs `work` in a read transaction: all that it reads is of one moment.
    /// Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// What `work` returned, or a [`JobError`]: the store is closed, or `work`
    /// panicked.
    pub async fn read<T, E, F>(&self, work: F) -> Result<T, E>
    where
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<JobError> + Send + 'static,
    {
        self.0.readers.run(work).await
    }

    /// Takes no more jobs, finishes the ones that wait, moves SQLite's log
    /// into the file, and closes it. May be called more than once.
    pub async fn close(&self) {
        self.0.readers.close().await;
        self.0.stop();
        // An error means that the writer is gone, which is what is awaited.
        let _ = self.0.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// What the writer has done so far.
    #[must_use]
    pub fn write_stats(&self) -> WriteStats {
        let counters = &self.0.counters;
        WriteStats {
            jobs: counters.jobs.load(Ordering::Relaxed),
            commits: counters.commits.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn newest_number(&self) -> watch::Receiver<u64> {
        self.0.newest.events.clone()
    }

    pub(crate) fn newest_audit_row(&self) -> watch::Receiver<u64> {
        self.0.newest.rows.clone()
    }

    pub(crate) fn found_running(&self) -> bool {
        self.0.found_running
    }
}

impl Inner {
    fn stop(&self) {
        self.jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.readers.discard();
        self.stop();
        let Some(writer) = self.writer.take() else {
            return;
        };
        // A job may own the last clone: the writer cannot wait for itself.
        if writer.thread().id() != thread::current().id() && writer.join().is_err() {
            tracing::error!("the store's writer panicked");
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.0.path)
            .finish_non_exhaustive()
    }
}
