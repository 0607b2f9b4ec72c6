//! A copy of the database while it is in use, and what a copy needs before it
//! is a node's database again.

use crate::{
    Store, audit, events,
    open::{self, OpenOptions, OpenStoreError},
};
use alknet_core::{
    AuditRow,
    storage::{EventKind, NewEvent},
};
use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use std::{
    fs::File,
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Steps of SQLite's virtual machine between two looks at whether to stop.
const STEPS_BETWEEN_LOOKS: i32 = 1_000;

/// Why a store was not copied. What was begun is removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyStoreError {
    /// The store itself cannot be read.
    #[error(transparent)]
    Open(#[from] OpenStoreError),
    /// The disk is full.
    #[error("there is no room for a copy of the store at `{}`", to.display())]
    NoRoom {
        /// Where it was to be.
        to: PathBuf,
    },
    /// It was stopped.
    #[error("the copy of the store was stopped")]
    Stopped,
    /// The copy cannot be written.
    #[error("failed to write a copy of the store to `{}`", to.display())]
    Io {
        /// Where it was to be.
        to: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Any other failure of SQLite.
    #[error("failed to copy the store to `{}`", to.display())]
    Sqlite {
        /// Where it was to be.
        to: PathBuf,
        /// What SQLite found.
        source: rusqlite::Error,
    },
}

/// What came of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreCopy {
    /// Its size in bytes.
    pub bytes: u64,
    /// Its format.
    pub format: u32,
}

/// What was done to a copy that becomes a node's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Peers in it, the owner included.
    pub peers: u64,
    /// Invites that were open and no longer are.
    pub invites_revoked: u64,
}

impl Store {
    /// Copies the store at `path`, which may be in use, to the new file `to`
    /// of mode 0600. The copy is of one moment, at or after the beginning of
    /// this call: it holds every change that was acknowledged before. Nobody
    /// who reads or writes waits for it. It holds no row that was removed
    /// before (`VACUUM INTO`, <https://www.sqlite.org/lang_vacuum.html>), and
    /// is on disk when this returns.
    ///
    /// Blocks; ends soon after `stop` becomes true.
    ///
    /// # Errors
    ///
    /// [`CopyStoreError`]; then `to` does not exist.
    pub fn copy(
        path: &Path,
        to: &Path,
        stop: &Arc<AtomicBool>,
    ) -> Result<StoreCopy, CopyStoreError> {
        let source = open::existing(path)?;
        let failed = |source| CopyStoreError::Io {
            to: to.into(),
            source,
        };
        // SQLite would make it with whatever the umask leaves; it takes an
        // empty file as none.
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(to)
            .map_err(failed)?;
        let made = Made(Some(to));
        let is_stopped = stop.clone();
        let asked = move || is_stopped.load(Ordering::Relaxed);
        let vacuumed = source
            .connection
            .progress_handler(STEPS_BETWEEN_LOOKS, Some(asked))
            .and_then(|()| {
                // As bytes a path need not be UTF-8, which SQLite wants.
                let name = to.to_str().ok_or(rusqlite::Error::InvalidPath(to.into()))?;
                source.connection.execute("VACUUM INTO ?1", [name])
            });
        vacuumed.map_err(|source| match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => CopyStoreError::NoRoom { to: to.into() },
            Some(ErrorCode::OperationInterrupted) => CopyStoreError::Stopped,
            _ => CopyStoreError::Sqlite {
                to: to.into(),
                source,
            },
        })?;
        file.sync_all().map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        made.keep();
        Ok(StoreCopy {
            bytes,
            format: source.format,
        })
    }

    /// Makes a copy at `path` the store of a node that begins anew: brings it
    /// to the newest format, begins a new epoch of events, so that cursors of
    /// the store it was copied from are told apart, takes the mark of a running
    /// node away, and revokes the invites that are open, which may have been
    /// used since. `row` is written in the same transaction. Blocks.
    ///
    /// # Errors
    ///
    /// [`OpenStoreError`], as [`Store::open`] gives; nothing was changed but
    /// the format.
    pub fn settle(path: &Path, row: &AuditRow) -> Result<Settled, OpenStoreError> {
        let mut opened = open::open(path, OpenOptions::default())?;
        let settled =
            settle(&mut opened.writer, row).map_err(|source| open::sqlite_error(path, source))?;
        drop(opened.readers);
        // One file is moved into place, not three.
        let moved = opened
            .writer
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        moved.map_err(|source| open::sqlite_error(path, source))?;
        let closed = opened.writer.close();
        closed.map_err(|(_, source)| open::sqlite_error(path, source))?;
        Ok(settled)
    }
}

fn settle(connection: &mut Connection, row: &AuditRow) -> rusqlite::Result<Settled> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute("DELETE FROM meta WHERE key = 'running'", [])?;
    // Those that have ended as well: the clock of this machine may be ahead, and
    // be set back.
    let sql = "UPDATE invites SET revoked = 1
        WHERE used_by IS NULL AND revoked = 0 RETURNING id, expires_at > ?1";
    let revoked = transaction
        .prepare(sql)?
        .query_map([row.at.0], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<Vec<(String, bool)>>>()?;
    events::new_epoch(&transaction)?;
    for (invite, _) in &revoked {
        events::insert(
            &transaction,
            &NewEvent::of(EventKind::INVITE_REVOKED, invite, row),
        )?;
    }
    let sql = "SELECT count(*) FROM peers";
    let peers: i64 = transaction.query_row(sql, [], |row| row.get(0))?;
    audit::insert(&transaction, row)?;
    transaction.commit()?;
    Ok(Settled {
        peers: peers.cast_unsigned(),
        invites_revoked: revoked.iter().filter(|(_, is_open)| *is_open).count() as u64,
    })
}

/// Takes a file away unless it is kept.
struct Made<'a>(Option<&'a Path>);

impl Made<'_> {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            // Whoever asked hears of the first failure.
            let _ = std::fs::remove_file(path);
        }
    }
}
