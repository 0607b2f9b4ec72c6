//! Takes a backup of a node, running or not.

use super::file::{BackupFile, BackupHeader, DATABASE, FORMAT, Needs, Parts, SMALL_BYTES_MAX};
use crate::data_dir::{DataDir, DataDirError};
use alknet_core::storage::{Timestamp, hex32};
use alknet_store::{CopyStoreError, OpenStoreError, Store};
use alknet_vault::{CreateVaultError, KeyError, OpenVaultError, Vault, WrapKind};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

/// What the name of a copy begins with, while it is being made.
const COPY_PREFIX: &str = ".backup-";

/// Why no backup was taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TakeBackupError {
    /// There is nothing to keep.
    #[error("`{}` holds no node", .0.display())]
    NoNode(PathBuf),
    /// The database cannot be copied.
    #[error(transparent)]
    Copy(#[from] CopyStoreError),
    /// The vault cannot be read.
    #[error(transparent)]
    Vault(#[from] OpenVaultError),
    /// A key could not be derived.
    #[error("failed to derive the keys")]
    Key(#[source] KeyError),
    /// The vault could not be wrapped for the backup.
    #[error("failed to seal the keys for the backup")]
    Wrap(#[source] CreateVaultError),
    /// The vault is in every backup, under its own passphrase.
    #[error("the vault has a passphrase, under which every backup holds it")]
    HasPassphrase,
    /// The vault is locked, and no node ever ran with this database.
    #[error("it is not known whose backup this is: the vault is locked, and no node has run here")]
    UnknownNode,
    /// A replacement of the vault was interrupted: whose backup it would be is
    /// settled by the next start.
    #[error("a replacement of the vault was interrupted, and is not settled")]
    Replacing,
    /// The keys are not those that the database was written with.
    #[error("the keys are of node {keys}, the database of node {database}")]
    OtherNode {
        /// Whose keys are there.
        keys: String,
        /// Whose database.
        database: String,
    },
    /// A file of the data directory is larger than any real one.
    #[error("`{}` is too large for a backup", .0.display())]
    TooLarge(PathBuf),
    /// Files of the data directory are exposed, or the like.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A file cannot be read or written.
    #[error("failed to use `{}`", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl TakeBackupError {
    /// The command that helps.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoNode(_) => Some("choose another --data-dir".into()),
            Self::HasPassphrase => Some("leave --passphrase-file out".into()),
            Self::UnknownNode | Self::Replacing => Some("alknet up, once".into()),
            Self::OtherNode { .. } => Some("alknet doctor".into()),
            Self::DataDir(error) => error.hint(),
            Self::Copy(CopyStoreError::NoRoom { .. }) => Some(
                "the copy is made in the data directory first: it needs as much room as the \
                 database"
                    .into(),
            ),
            _ => None,
        }
    }

    /// Whether the disk of the data directory is full.
    #[must_use]
    pub fn is_no_room(&self) -> bool {
        match self {
            Self::Copy(CopyStoreError::NoRoom { .. }) => true,
            Self::Copy(CopyStoreError::Io { source, .. }) | Self::Io { source, .. } => {
                super::file::is_no_room(source)
            }
            _ => false,
        }
    }
}

/// A backup of one moment, ready to be read to its end.
pub struct Prepared {
    header: BackupHeader,
    parts: Parts,
}

impl Prepared {
    /// What it will say about itself.
    #[must_use]
    pub fn header(&self) -> &BackupHeader {
        &self.header
    }
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

impl Read for Prepared {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.parts.read(into)
    }
}

/// Copies the database of `dir`, whether or not a node runs on it, and gathers
/// what else belongs to a backup. The copy lies in the data directory without
/// a name, and is gone with what is returned. Blocks; ends soon after `stop`
/// becomes true.
///
/// # Errors
///
/// [`TakeBackupError`]; nothing is left behind.
pub fn prepare(
    dir: &Path,
    name: &str,
    now: Timestamp,
    stop: &Arc<AtomicBool>,
) -> Result<Prepared, TakeBackupError> {
    let data = DataDir::new(dir);
    if !crate::is_initialised(dir) || !data.database().exists() {
        return Err(TakeBackupError::NoNode(dir.into()));
    }
    data.check_modes()?;
    if dir.join(alknet_vault::NEXT_FILE).exists() {
        return Err(TakeBackupError::Replacing);
    }
    let node_id = node_id(&data, now)?;
    let (database, copied) = copy_database(&data, stop)?;
    let mut files = Vec::new();
    let mut small = Vec::new();
    let mut add = |path: &Path| -> Result<(), TakeBackupError> {
        if let Some(bytes) = read_small(path)? {
            let name = path.file_name().unwrap_or_default();
            files.push(BackupFile {
                name: name.to_string_lossy().into_owned(),
                bytes: bytes.len() as u64,
            });
            small.push(bytes);
        }
        Ok(())
    };
    add(&data.config())?;
    add(&dir.join("port"))?;
    let key_file = Vault::open(dir)?.wrap() == WrapKind::KeyFile;
    if !key_file {
        // Sealed as it is. Of the other kind, the key lies beside it here, and
        // the vault is worth nothing without.
        add(&dir.join(alknet_vault::VAULT_FILE))?;
    }
    files.push(BackupFile {
        name: DATABASE.into(),
        bytes: copied.bytes,
    });
    let header = BackupHeader {
        format: FORMAT,
        node_id,
        name: name.to_owned(),
        release: crate::VERSION.to_owned(),
        taken_at: now.to_string(),
        store_format: copied.format,
        needs: if key_file {
            Needs::Words
        } else {
            Needs::Passphrase
        },
        key_file,
        files,
    };
    let parts = Parts::new(&header, &small, database);
    Ok(Prepared { header, parts })
}

/// The vault of `dir` under `passphrase`, to be put into a backup with
/// [`super::rewrite`]. Blocks for as long as the passphrase costs.
///
/// # Errors
///
/// [`TakeBackupError::HasPassphrase`] if one wraps it already, which is in every
/// backup then; otherwise as [`TakeBackupError`] says.
pub fn wrapped_vault(dir: &Path, passphrase: &str) -> Result<Vec<u8>, TakeBackupError> {
    if !crate::is_initialised(dir) {
        return Err(TakeBackupError::NoNode(dir.into()));
    }
    let vault = Vault::open(dir)?;
    if vault.wrap() == WrapKind::Passphrase {
        return Err(TakeBackupError::HasPassphrase);
    }
    let wrapped = vault.wrapped(passphrase).map_err(TakeBackupError::Wrap)?;
    wrapped.ok_or(TakeBackupError::HasPassphrase)
}

/// Whether a passphrase wraps the vault of `dir`; no if there is none.
#[must_use]
pub fn has_passphrase(dir: &Path) -> bool {
    Vault::open(dir).is_ok_and(|vault| vault.wrap() == WrapKind::Passphrase)
}

/// Whose keys these are. Of a locked vault, the database tells.
fn node_id(data: &DataDir, now: Timestamp) -> Result<String, TakeBackupError> {
    let open = |error: OpenStoreError| TakeBackupError::Copy(error.into());
    let noted = Store::facts(&data.database(), now, now, now)
        .map_err(open)?
        .node;
    let vault = Vault::open(data.path())?;
    if !vault.is_unlocked() {
        return noted.ok_or(TakeBackupError::UnknownNode);
    }
    let key = vault.node_key().map_err(TakeBackupError::Key)?;
    let keys = hex32::encode(&key.public_key());
    match noted {
        Some(database) if database != keys => Err(TakeBackupError::OtherNode { keys, database }),
        _ => Ok(keys),
    }
}

/// Copies the database to a file without a name.
fn copy_database(
    data: &DataDir,
    stop: &Arc<AtomicBool>,
) -> Result<(File, alknet_store::StoreCopy), TakeBackupError> {
    remove_old_copies(data.path());
    let random: u64 = rand::random();
    let path = data.path().join(format!("{COPY_PREFIX}{random:016x}"));
    let copied = Store::copy(&data.database(), &path, stop)?;
    let failed = |source| TakeBackupError::Io {
        path: path.clone(),
        source,
    };
    let file = File::open(&path).map_err(failed);
    fs::remove_file(&path).map_err(failed)?;
    Ok((file?, copied))
}

/// What backups left behind that were killed while they copied. One that is
/// being made at this moment loses its name a little earlier.
fn remove_old_copies(dir: &Path) {
    for file in fs::read_dir(dir).into_iter().flatten().flatten() {
        let is_copy = file.file_name().to_string_lossy().starts_with(COPY_PREFIX);
        let is_old = file
            .metadata()
            .and_then(|meta| meta.modified())
            .is_ok_and(|at| at.elapsed().is_ok_and(|age| age.as_secs() > 3_600));
        if is_copy && is_old {
            // Another backup may have done it.
            let _ = fs::remove_file(file.path());
        }
    }
}

fn read_small(path: &Path) -> Result<Option<Vec<u8>>, TakeBackupError> {
    let failed = |source| TakeBackupError::Io {
        path: path.into(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(SMALL_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    match bytes.len() as u64 > SMALL_BYTES_MAX {
        true => Err(TakeBackupError::TooLarge(path.into())),
        false => Ok(Some(bytes)),
    }
}

/// When the last backup was written.
#[derive(Debug, Serialize, Deserialize)]
struct Noted {
    at_ms: i64,
}

/// Notes in the data directory that a backup was written.
///
/// # Errors
///
/// [`DataDirError`] if that cannot be noted.
pub fn note_backup(dir: &Path, at: Timestamp) -> Result<(), DataDirError> {
    let text = serde_json::to_vec(&Noted { at_ms: at.0 }).unwrap_or_default();
    crate::data_dir::write_private(&dir.join("backup.json"), &text)
}

/// When the last backup was written that this data directory knows of.
#[must_use]
pub fn last_backup(dir: &Path) -> Option<Timestamp> {
    let text = fs::read(dir.join("backup.json")).ok()?;
    let noted: Noted = serde_json::from_slice(&text).ok()?;
    Some(Timestamp(noted.at_ms))
}
