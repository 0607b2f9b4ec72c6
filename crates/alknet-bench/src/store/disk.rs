//! Durable writes: ours through the store, theirs in a loop around SQLite.

use alknet_core::{
    AuditRow,
    storage::{IdentityChange, IdentityStore, InviteRecord, Timestamp},
};
use alknet_store::{
    JobError, Store,
    rusqlite::{self, Connection, params},
};
use anyhow::{Context, Result, ensure};
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// Writers at a time, and rows of a batch of the bare loop.
pub(super) const MANY: usize = 16;

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(super) enum Line {
    /// One row, by one writer.
    Row,
    /// One row each, by 16 at a time.
    Rows,
    /// A change of identities with its audit row and its event, by one writer.
    Change,
    /// The same by 16 at a time.
    Changes,
}

impl Line {
    pub(super) const ALL: [Self; 4] = [Line::Row, Line::Rows, Line::Change, Line::Changes];

    /// How many write at a time.
    pub(super) fn writers(self) -> usize {
        match self {
            Line::Row | Line::Change => 1,
            Line::Rows | Line::Changes => MANY,
        }
    }

    fn is_change(self) -> bool {
        matches!(self, Line::Change | Line::Changes)
    }

    fn word(self) -> &'static str {
        match self {
            Line::Row => "row",
            Line::Rows => "rows",
            Line::Change => "change",
            Line::Changes => "changes",
        }
    }
}

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(super) enum Contender {
    /// A loop around SQLite, with transactions of its own.
    Bare,
    /// alknet's store.
    Alknet,
}

impl Contender {
    pub(super) const ALL: [Self; 2] = [Contender::Bare, Contender::Alknet];

    pub(super) fn word(self) -> &'static str {
        match self {
            Contender::Bare => "bare",
            Contender::Alknet => "alknet",
        }
    }
}

/// A turn of writes.
pub(super) struct Turn {
    /// Operations a second.
    pub(super) rate: f64,
    /// Operations for each transaction, if the store said so.
    pub(super) shared: Option<f64>,
}

/// A file that is open to be written.
pub(super) enum Writing {
    Bare(Arc<Mutex<Connection>>),
    Alknet(Store),
}

/// Numbers the rows of this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

fn next() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// As long as a row of the audit log.
const ROW: &str = "0198d0c4-8f1e-7c3a-9b7e-3f2a4c5d6e7f laptop home/laptop call deploy/restart \
    bucket:www/public/**=read ok 1234 567 890";

const MAKE_ROWS: &str = "CREATE TABLE IF NOT EXISTS bench (number INTEGER PRIMARY KEY AUTOINCREMENT, \
    at INTEGER NOT NULL, text TEXT NOT NULL) STRICT";
const INSERT_ROW: &str = "INSERT INTO bench (at, text) VALUES (?1, ?2)";

fn insert_row(connection: &Connection) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached(INSERT_ROW)?;
    insert.execute(params![next().cast_signed(), ROW]).map(drop)
}

/// The rows of [`change`], as the store writes them.
fn insert_change(connection: &Connection) -> rusqlite::Result<()> {
    let InviteRecord {
        id, secret_hash, ..
    } = invite();
    let sql = "INSERT OR REPLACE INTO invites (id, secret_hash, name, grants, created_at, \
        expires_at, access_for_ms, used_by, used_key, revoked) \
        VALUES (?1, ?2, NULL, '[]', 0, 1, NULL, NULL, NULL, 0)";
    let mut insert = connection.prepare_cached(sql)?;
    insert.execute(params![id, secret_hash])?;
    let row = row(&id);
    let sql = "INSERT INTO audit (at, call_id, caller, surface, operation, resource, outcome, \
        duration_us, bytes_in, bytes_out) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, 0, 0)";
    let mut insert = connection.prepare_cached(sql)?;
    insert.execute(params![
        row.at.0,
        row.call_id,
        row.caller,
        row.surface.as_str(),
        row.operation,
        row.resource,
        row.outcome.as_str()
    ])?;
    let event = format!(
        r#"{{"at":0,"about":"{id}","caller":"owner","call_id":"{}"}}"#,
        row.call_id
    );
    let sql = "INSERT INTO _honker_stream (topic, key, payload) VALUES ('alknet', ?1, ?2)";
    let mut insert = connection.prepare_cached(sql)?;
    insert.execute(params!["invite-created", event]).map(drop)
}

fn invite() -> InviteRecord {
    let number = next();
    InviteRecord {
        id: format!("{number:016x}"),
        secret_hash: [7; 32],
        name: None,
        grants: [].into_iter().collect(),
        created_at: Timestamp(0),
        expires_at: Timestamp(1),
        access_for_ms: None,
        used_by: None,
        used_key: None,
        revoked: false,
    }
}

fn row(about: &str) -> AuditRow {
    let mut row = AuditRow::event(Timestamp(0), "owner", "invites/create");
    row.resource = Some(about.to_owned());
    row
}

impl Writing {
    /// Opens a store; the bare loop writes to a file of the same format.
    pub(super) fn open(contender: Contender, path: &Path) -> Result<Self> {
        let store = Store::open(path)?;
        if contender == Contender::Alknet {
            return Ok(Self::Alknet(store));
        }
        drop(store);
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
        ensure!(mode == "wal", "the bare loop's file is in mode `{mode}`");
        connection.execute(MAKE_ROWS, [])?;
        Ok(Self::Bare(Arc::new(Mutex::new(connection))))
    }

    /// Writes for as long as a turn takes.
    pub(super) async fn turn(&self, line: Line, most: Duration) -> Result<Turn> {
        let until = Instant::now() + most;
        self.write(line, move |_| Instant::now() < until).await
    }

    /// Writes as long as `goes_on` says, which is told how many were begun.
    async fn write(
        &self,
        line: Line,
        goes_on: impl Fn(u64) -> bool + Clone + Send + 'static,
    ) -> Result<Turn> {
        match self {
            Self::Bare(connection) => {
                let connection = connection.clone();
                let looping = move || {
                    let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
                    loop_around(&connection, line, goes_on)
                };
                tokio::task::spawn_blocking(looping).await?
            }
            Self::Alknet(store) => through(store, line, goes_on).await,
        }
    }

    pub(super) async fn close(self) {
        if let Self::Alknet(store) = self {
            store.close().await;
        }
    }
}

/// One transaction after the other, of as many operations as there are writers.
fn loop_around(connection: &Connection, line: Line, goes_on: impl Fn(u64) -> bool) -> Result<Turn> {
    let (start, mut done) = (Instant::now(), 0_u64);
    while goes_on(done) {
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        for _ in 0..line.writers() {
            match line.is_change() {
                true => insert_change(connection)?,
                false => insert_row(connection)?,
            }
            done += 1;
        }
        connection.prepare_cached("COMMIT")?.execute([])?;
    }
    Ok(Turn {
        rate: done as f64 / start.elapsed().as_secs_f64(),
        shared: None,
    })
}

/// As many tasks as there are writers, each of which waits for its own write.
async fn through(
    store: &Store,
    line: Line,
    goes_on: impl Fn(u64) -> bool + Clone + Send + 'static,
) -> Result<Turn> {
    store
        .write(|connection| {
            connection
                .execute(MAKE_ROWS, [])
                .map(drop)
                .map_err(Failed::Sql)
        })
        .await?;
    let before = store.write_stats();
    let (start, begun) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let mut writers = JoinSet::new();
    for _ in 0..line.writers() {
        let (store, begun, goes_on) = (store.clone(), begun.clone(), goes_on.clone());
        writers.spawn(async move {
            let mut done = 0_u64;
            while goes_on(begun.fetch_add(1, Ordering::Relaxed)) {
                match line.is_change() {
                    true => {
                        let invite = invite();
                        let row = row(&invite.id);
                        store.apply(IdentityChange::AddInvite(invite), row).await?;
                    }
                    false => store.write(|c| insert_row(c).map_err(Failed::Sql)).await?,
                }
                done += 1;
            }
            anyhow::Ok(done)
        });
    }
    let mut done = 0;
    while let Some(ended) = writers.join_next().await {
        done += ended??;
    }
    let (took, after) = (start.elapsed(), store.write_stats());
    let commits = after.commits - before.commits;
    Ok(Turn {
        rate: done as f64 / took.as_secs_f64(),
        shared: Some(done as f64 / commits.max(1) as f64),
    })
}

/// Why a row was not written.
#[derive(Debug)]
enum Failed {
    Sql(rusqlite::Error),
    Job(JobError),
}

impl From<JobError> for Failed {
    fn from(error: JobError) -> Self {
        Self::Job(error)
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sql(error) => error.fmt(f),
            Self::Job(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Failed {}

/// A process whose syncs are counted.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Role {
    contender: Contender,
    line: Line,
    /// How many operations.
    operations: u64,
    /// The file.
    path: PathBuf,
}

/// Writes so many operations.
///
/// # Errors
///
/// What opening or writing says.
pub(crate) async fn serve_role(role: Role) -> Result<()> {
    let writing = Writing::open(role.contender, &role.path)?;
    let operations = role.operations;
    writing
        .write(role.line, move |begun| begun < operations)
        .await?;
    // No checkpoint in order: that is not what is counted.
    std::mem::forget(writing);
    Ok(())
}

/// How often so many operations waited for the disk, for 16 of them: counted
/// by `strace`, less what opening and closing does. `None` without it.
pub(super) fn count_syncs(
    contender: Contender,
    line: Line,
    operations: usize,
    folder: &Path,
) -> Result<Option<f64>> {
    let mut counted = Vec::new();
    for operations in [0, operations] {
        let name = format!("{}-{}-{operations}", contender.word(), line.word());
        let (file, trace) = (folder.join(format!("{name}.db")), folder.join(name));
        let own = std::env::current_exe().context("this program is not found")?;
        let status = Command::new("strace")
            .args(["-f", "-qq", "-e", "trace=fsync,fdatasync", "-o"])
            .arg(&trace)
            .arg(own)
            .args(["store-worker", contender.word(), line.word()])
            .arg(operations.to_string())
            .arg(&file)
            .status();
        match status {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            status => ensure!(status?.success(), "the worker under strace failed"),
        }
        let trace = std::fs::read_to_string(trace)?;
        let begun = |line: &&str| line.contains("fsync(") || line.contains("fdatasync(");
        counted.push(trace.lines().filter(begun).count());
    }
    let [idle, busy] = counted.as_slice() else {
        return Ok(None);
    };
    let syncs = busy.saturating_sub(*idle) as f64;
    Ok(Some(syncs * MANY as f64 / operations as f64))
}
