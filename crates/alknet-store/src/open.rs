//! Opens the file, or says why not.

use crate::{
    events, meta,
    migrate::{self, Found, MIGRATIONS},
};
use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig};
use std::{
    ffi::OsString,
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

/// Connections that read at the same time.
pub(crate) const READERS: usize = 4;
/// How long to wait for a lock that another program (a backup, say) holds.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// Prepared statements kept by each connection.
const STATEMENTS_KEPT: usize = 128;
/// The write-ahead log is cut back to this after a checkpoint.
const WAL_BYTES_KEPT: i64 = 64 << 20;

/// Why a store could not be opened. The file is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenStoreError {
    /// The file exists and cannot be used, or cannot be made.
    #[error("failed to open store `{path}`")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something that is no file is in the way.
    #[error("store `{path}` is not a regular file")]
    NotAFile {
        /// Where it is.
        path: PathBuf,
    },
    /// Others than the owner may read or write the file.
    #[error("store `{path}` is open to others (mode {mode:04o}), want 0600")]
    Exposed {
        /// The file, or its log or index beside it.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is a database of another program.
    #[error("`{path}` is a database of another program")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a newer release.
    #[error("store `{path}` has format {found}, newest known is {known}")]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format of this release.
        known: u32,
    },
    /// The file is not a database, or its contents contradict themselves.
    #[error("store `{path}` is damaged")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite found.
        source: rusqlite::Error,
    },
    /// A migration failed and was rolled back.
    #[error("failed to bring store `{path}` to format {format}")]
    Migrate {
        /// The file.
        path: PathBuf,
        /// The format that was to be reached.
        format: u32,
        /// What SQLite found.
        source: rusqlite::Error,
    },
    /// SQLite did not take a setting that durability rests on, such as WAL on
    /// a file system without shared memory.
    #[error("store `{path}` cannot be made durable: `{setting}` is `{found}`")]
    NotDurable {
        /// The file.
        path: PathBuf,
        /// The setting.
        setting: &'static str,
        /// Its value.
        found: String,
    },
    /// Any other failure of SQLite, such as a lock held by another program.
    #[error("failed to open store `{path}`")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite found.
        source: rusqlite::Error,
    },
}

impl OpenStoreError {
    fn sqlite(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.into();
        match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
                Self::Damaged { path, source }
            }
            _ => Self::Sqlite { path, source },
        }
    }
}

/// What only tests may ask for.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    /// Never waits for the disk, so that a test for durability can fail.
    pub synchronous_off: bool,
}

/// An open file: its one writing connection, and those that read.
pub(crate) struct Opened {
    pub(crate) writer: Connection,
    pub(crate) readers: Vec<Connection>,
    /// Whether the last run did not end in order.
    pub(crate) found_running: bool,
}

pub(crate) fn open(path: &Path, options: OpenOptions) -> Result<Opened, OpenStoreError> {
    // SQLite reads meaning into `:memory:` and `file:`, not into `./file:`.
    let path = if path.is_relative() {
        &Path::new(".").join(path)
    } else {
        path
    };
    prepare_file(path)?;
    let sqlite = |source| OpenStoreError::sqlite(path, source);
    let mut writer = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(sqlite)?;
    // Before anything is written: it may not be ours.
    let format = format_of(path, &writer)?;
    set_up_writer(&writer, options).map_err(sqlite)?;
    migrate::migrate(&mut writer, format, MIGRATIONS).map_err(|failed| {
        OpenStoreError::Migrate {
            path: path.into(),
            format: failed.format,
            source: failed.source,
        }
    })?;
    attach_honker(&mut writer).map_err(sqlite)?;
    assert_durable(path, &writer, options)?;
    events::ensure_epoch(&writer).map_err(sqlite)?;
    let found_running = meta::is_running(&writer).map_err(sqlite)?;
    let readers: rusqlite::Result<Vec<_>> = (0..READERS).map(|_| connect_reader(path)).collect();
    Ok(Opened {
        writer,
        readers: readers.map_err(sqlite)?,
        found_running,
    })
}

/// An existing file, to be read.
pub(crate) struct Existing {
    pub(crate) connection: Connection,
    /// 0 if nothing was ever written to it.
    pub(crate) format: u32,
}

/// Opens an existing file, which may be in use, without changing it.
pub(crate) fn existing(path: &Path) -> Result<Existing, OpenStoreError> {
    let failed = |source| OpenStoreError::Io {
        path: path.into(),
        source,
    };
    refuse_exposed(path).map_err(failed)??;
    let connection = connect_reader(path).map_err(|source| sqlite_error(path, source))?;
    let format = format_of(path, &connection)?;
    Ok(Existing { connection, format })
}

/// What SQLite said of the store at `path`.
pub(crate) fn sqlite_error(path: &Path, source: rusqlite::Error) -> OpenStoreError {
    OpenStoreError::sqlite(path, source)
}

/// Looks at an existing file without changing it; `deep` reads the indexes
/// against their tables, too.
pub(crate) fn check(path: &Path, deep: bool) -> Result<(), OpenStoreError> {
    let sqlite = |source| OpenStoreError::sqlite(path, source);
    let reader = existing(path)?.connection;
    let check = match deep {
        true => "PRAGMA integrity_check(1)",
        false => "PRAGMA quick_check(1)",
    };
    let found: String = reader
        .query_row(check, (), |row| row.get(0))
        .map_err(sqlite)?;
    if found == "ok" {
        return Ok(());
    }
    let corrupt = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    Err(sqlite(rusqlite::Error::SqliteFailure(corrupt, Some(found))))
}

/// Makes the file if it is missing, and refuses one that others may use.
fn prepare_file(path: &Path) -> Result<(), OpenStoreError> {
    let failed = |source| OpenStoreError::Io {
        path: path.into(),
        source,
    };
    let made = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match made {
        Ok(file) => {
            // Exactly this, whatever the umask took away.
            file.set_permissions(Permissions::from_mode(0o600))
                .map_err(failed)?;
            return sync_directory(path).map_err(failed);
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    refuse_exposed(path).map_err(failed)??;
    for suffix in ["-wal", "-shm"] {
        let mut beside: OsString = path.as_os_str().into();
        beside.push(suffix);
        match refuse_exposed(Path::new(&beside)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            checked => checked.map_err(failed)??,
        }
    }
    Ok(())
}

fn refuse_exposed(path: &Path) -> io::Result<Result<(), OpenStoreError>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Ok(Err(OpenStoreError::NotAFile { path: path.into() }));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Ok(Err(OpenStoreError::Exposed {
            path: path.into(),
            mode,
        }));
    }
    Ok(Ok(()))
}

/// A new name survives a power loss once its directory was synced.
fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

fn connect(path: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    // Each connection belongs to one thread at a time: no mutex is needed.
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_WAIT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    // The schema is data too: it may not call functions nor be edited by hand
    // (https://www.sqlite.org/security.html).
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    Ok(connection)
}

fn connect_reader(path: &Path) -> rusqlite::Result<Connection> {
    connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn format_of(path: &Path, connection: &Connection) -> Result<u32, OpenStoreError> {
    let known = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
    match migrate::identify(connection).map_err(|source| OpenStoreError::sqlite(path, source))? {
        Found::Empty => Ok(0),
        Found::Foreign => Err(OpenStoreError::Foreign { path: path.into() }),
        Found::Format(found) if found > known => Err(OpenStoreError::TooNew {
            path: path.into(),
            found,
            known,
        }),
        Found::Format(found) => Ok(found),
    }
}

fn set_up_writer(writer: &Connection, options: OpenOptions) -> rusqlite::Result<()> {
    writer.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    let synchronous = if options.synchronous_off {
        "off"
    } else {
        "full"
    };
    writer.pragma_update(None, "synchronous", synchronous)?;
    // Apple's fsync does not reach the disk; elsewhere these do nothing.
    writer.pragma_update(None, "fullfsync", true)?;
    writer.pragma_update(None, "checkpoint_fullfsync", true)?;
    writer.pragma_update_and_check(None, "journal_size_limit", WAL_BYTES_KEPT, |_| Ok(()))
}

/// Adds honker's tables and functions: durable queue, stream and scheduler.
/// Its own opener is avoided, since that lowers `synchronous`.
fn attach_honker(writer: &mut Connection) -> rusqlite::Result<()> {
    // One transaction instead of one fsync for each table.
    let transaction = writer.transaction()?;
    honker_core::bootstrap_honker_schema(&transaction)
        .map_err(|honker_core::Error::Sqlite(error)| error)?;
    transaction.commit()?;
    honker_core::attach_honker_functions(writer)
}

/// Reads back what durability rests on, after everything else had its say.
fn assert_durable(
    path: &Path,
    writer: &Connection,
    options: OpenOptions,
) -> Result<(), OpenStoreError> {
    let synchronous = if options.synchronous_off { "0" } else { "2" };
    let wanted = [
        ("journal_mode", "wal"),
        ("synchronous", synchronous),
        ("foreign_keys", "1"),
    ];
    for (setting, want) in wanted {
        let found = writer
            .pragma_query_value(None, setting, |row| {
                Ok(match row.get_ref(0)? {
                    rusqlite::types::ValueRef::Integer(number) => number.to_string(),
                    other => other.as_str()?.to_owned(),
                })
            })
            .map_err(|source| OpenStoreError::sqlite(path, source))?;
        if found != want {
            return Err(OpenStoreError::NotDurable {
                path: path.into(),
                setting,
                found,
            });
        }
    }
    Ok(())
}
