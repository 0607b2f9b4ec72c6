//! Makes a data directory of a backup.

use super::file::{Backup, BackupError, BackupHeader, DATABASE, Needs, is_no_room};
use crate::{
    data_dir::{DataDir, DataDirError},
    setup::is_initialised,
};
use alknet_core::{
    AuditRow,
    storage::{Timestamp, hex32},
};
use alknet_store::{InstanceLock, LockError, OpenStoreError, Store};
use alknet_vault::{
    ChangeVaultError, CreateVaultError, KEY_FILE, KeyError, Mnemonic, OpenVaultError,
    ParseMnemonicError, UnlockVaultError, VAULT_FILE, Vault, Wrap, WrapKind,
};
use serde::Serialize;
use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Where everything is made before it is moved into its place.
const STAGE: &str = ".restoring";

/// Whether a restore into this directory was cut short: without a vault it has
/// not become a node.
pub(crate) fn is_interrupted(dir: &Path) -> bool {
    dir.join(STAGE).exists() && !is_initialised(dir)
}

/// Removes what a restore left of which the node is whole. Only for whoever
/// holds the directory's lock.
pub(crate) fn sweep(dir: &Path) {
    let stage = dir.join(STAGE);
    if !is_initialised(dir) || !stage.exists() {
        return;
    }
    if let Err(error) = fs::remove_dir_all(&stage) {
        tracing::warn!(path = %stage.display(), %error, "what a restore left was not removed");
    }
}

/// In this order: without its keys, a database is refused at a start, and the
/// vault makes it a node.
const PLACED: [&str; 6] = [
    DATABASE,
    "alknet.toml",
    "port",
    "owner.key",
    KEY_FILE,
    VAULT_FILE,
];
/// What may be in a directory that is empty otherwise: that of a file system,
/// and the lock of whoever makes it a node.
const IGNORED: [&str; 2] = ["lost+found", LOCK];
const LOCK: &str = "lock";

/// What opens the keys of a backup.
#[derive(Clone, Copy)]
pub enum RestoreSecret<'a> {
    /// The words of the node.
    Words(&'a str),
    /// The passphrase of its vault, or the one that the backup was made with.
    Passphrase(&'a str),
}

impl std::fmt::Debug for RestoreSecret<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Words(_) => "Words(..)",
            Self::Passphrase(_) => "Passphrase(..)",
        })
    }
}

/// What was restored.
#[derive(Clone, Debug, Serialize)]
pub struct RestoreReport {
    /// The node's public key.
    pub node_id: String,
    /// What it calls itself.
    pub name: String,
    /// When the backup was taken.
    pub taken_at: String,
    /// The release that took it.
    pub release: String,
    /// Peers, the owner not included.
    pub peers: u64,
    /// Invites that were open and no longer are.
    pub invites_revoked: u64,
    /// What protects its keys now: `key-file` or `passphrase`.
    pub protection: &'static str,
    /// Whether a passphrase protected them before, and a key file does now: the
    /// words bring keys back, and no passphrase.
    pub passphrase_lost: bool,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// Something is there.
    #[error("`{}` is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// An earlier restore was interrupted.
    #[error("`{}` holds a restore that was interrupted", .0.display())]
    Interrupted(PathBuf),
    /// The backup holds no keys.
    #[error("the keys are not in this backup: it needs the words of the node")]
    NeedsWords,
    /// The words are no mnemonic.
    #[error("these words cannot bring a node back")]
    Words(#[source] ParseMnemonicError),
    /// The words, or the vault in the backup, are those of another node.
    #[error("the backup is of node {backup}, and the words are of node {words}")]
    OtherNode {
        /// Whose backup it is.
        backup: String,
        /// Whose words they are.
        words: String,
    },
    /// The database was written by another node.
    #[error("the backup is of node {backup}, and its database of node {database}")]
    OtherDatabase {
        /// Whose backup it is.
        backup: String,
        /// Whose database.
        database: String,
    },
    /// The passphrase is wrong.
    #[error("the vault in the backup does not open")]
    Unlock(#[source] UnlockVaultError),
    /// The backup cannot be used.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The database in it cannot be used.
    #[error("the database in the backup cannot be used")]
    Store(#[source] OpenStoreError),
    /// The vault in it cannot be used.
    #[error("the vault in the backup cannot be used")]
    Vault(#[source] OpenVaultError),
    /// The vault was not made.
    #[error("failed to make the vault")]
    Create(#[source] CreateVaultError),
    /// The vault was not given a key file.
    #[error("failed to make the vault")]
    Change(#[source] ChangeVaultError),
    /// A key could not be derived.
    #[error("failed to derive the keys")]
    Key(#[source] KeyError),
    /// Another process uses the directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A file cannot be written.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A file or the directory cannot be written.
    #[error("failed to write `{}`", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl RestoreError {
    /// The command that helps.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotEmpty(_) => {
                Some("restore into another --data-dir; nothing is ever overwritten".into())
            }
            Self::Interrupted(dir) => Some(format!("rm -r '{}', and again", dir.display())),
            Self::NeedsWords => Some("--words -, with the words on standard input".into()),
            Self::OtherNode { .. } => Some("take the words that belong to the backup".into()),
            Self::Unlock(_) => Some(
                "the passphrase is that of the day of the backup; --words - does without".into(),
            ),
            Self::Backup(BackupError::TooNew { .. })
            | Self::Store(OpenStoreError::TooNew { .. }) => {
                Some("restore it with the release that made it, or a newer one".into())
            }
            Self::Backup(BackupError::Truncated | BackupError::Damaged(_)) => {
                Some("take another copy of the backup".into())
            }
            Self::DataDir(error) => error.hint(),
            _ => None,
        }
    }

    /// A code that scripts can tell errors apart by.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotEmpty(_) | Self::Interrupted(_) => "NOT_EMPTY",
            Self::NeedsWords => "NEEDS_WORDS",
            Self::Words(_) | Self::OtherNode { .. } => "WRONG_WORDS",
            Self::Unlock(_) => "WRONG_PASSPHRASE",
            Self::Backup(BackupError::NotABackup) => "NOT_A_BACKUP",
            Self::Backup(BackupError::TooNew { .. })
            | Self::Store(OpenStoreError::TooNew { .. }) => "BACKUP_TOO_NEW",
            Self::Backup(BackupError::Truncated | BackupError::Damaged(_))
            | Self::OtherDatabase { .. }
            | Self::Store(OpenStoreError::Damaged { .. } | OpenStoreError::Foreign { .. })
            | Self::Vault(_) => "BACKUP_DAMAGED",
            Self::Backup(error) if error.is_no_room() => "NO_ROOM",
            Self::Io { source, .. } | Self::DataDir(DataDirError::Io { source, .. })
                if is_no_room(source) =>
            {
                "NO_ROOM"
            }
            _ => "RESTORE",
        }
    }
}

/// Makes the data directory `dir` of a backup. It must be empty or missing. It
/// becomes a node at the last step; when interrupted before, there is none.
/// `moved` is told how many bytes were read. Blocks.
///
/// Nothing of `secret` is kept but in the vault.
///
/// # Errors
///
/// [`RestoreError`]; nothing is left behind.
pub fn restore(
    dir: &Path,
    source: impl Read,
    secret: RestoreSecret<'_>,
    now: Timestamp,
    moved: &mut dyn FnMut(u64),
) -> Result<RestoreReport, RestoreError> {
    let backup = Backup::open(source)?;
    if backup.header().needs == Needs::Words && matches!(secret, RestoreSecret::Passphrase(_)) {
        return Err(RestoreError::NeedsWords);
    }
    let place = Place::take(dir)?;
    let stage = place.stage();
    let vault = match secret {
        RestoreSecret::Words(words) => Some(from_words(&stage, words, backup.header())?),
        RestoreSecret::Passphrase(_) => None,
    };
    let header = unpack(backup, &stage, vault.is_some(), moved)?;
    let vault = match (vault, secret) {
        (Some(vault), _) => vault,
        (None, RestoreSecret::Passphrase(text)) => from_passphrase(&stage, text, &header)?,
        (None, RestoreSecret::Words(_)) => return Err(RestoreError::NeedsWords),
    };
    let owner = vault.owner_key().map_err(RestoreError::Key)?;
    DataDir::new(&stage).write_owner_key(owner.expose())?;
    let settled = settle(&stage.join(DATABASE), &header, now)?;
    place.fill()?;
    Ok(RestoreReport {
        node_id: header.node_id,
        name: header.name,
        taken_at: header.taken_at,
        release: header.release,
        peers: settled.peers.saturating_sub(1),
        invites_revoked: settled.invites_revoked,
        protection: vault.wrap().name(),
        passphrase_lost: vault.wrap() == WrapKind::KeyFile && !header.key_file,
    })
}

/// A vault of these words, if they are the node's.
fn from_words(stage: &Path, words: &str, header: &BackupHeader) -> Result<Vault, RestoreError> {
    let mnemonic = Mnemonic::parse(words).map_err(RestoreError::Words)?;
    let vault = Vault::create(stage, &mnemonic, "", Wrap::KeyFile).map_err(RestoreError::Create)?;
    is_of(&vault, header)?;
    Ok(vault)
}

/// The vault that was in the backup, with a key file of its own if it had one.
fn from_passphrase(stage: &Path, text: &str, header: &BackupHeader) -> Result<Vault, RestoreError> {
    let mut vault = Vault::open(stage).map_err(RestoreError::Vault)?;
    vault.unlock(text).map_err(RestoreError::Unlock)?;
    is_of(&vault, header)?;
    if header.key_file {
        vault.rewrap(Wrap::KeyFile).map_err(RestoreError::Change)?;
    }
    Ok(vault)
}

fn is_of(vault: &Vault, header: &BackupHeader) -> Result<(), RestoreError> {
    let key = vault.node_key().map_err(RestoreError::Key)?;
    let words = hex32::encode(&key.public_key());
    match words == header.node_id {
        true => Ok(()),
        false => Err(RestoreError::OtherNode {
            backup: header.node_id.clone(),
            words,
        }),
    }
}

/// Writes the files of a backup, and checks that it is whole.
fn unpack(
    mut backup: Backup<impl Read>,
    stage: &Path,
    has_vault: bool,
    moved: &mut dyn FnMut(u64),
) -> Result<BackupHeader, RestoreError> {
    while let Some(next) = backup.peek() {
        if has_vault && next.name == VAULT_FILE {
            backup.copy_next(&mut io::sink(), moved)?;
            continue;
        }
        // One of a few known names: the header was checked.
        let path = stage.join(&next.name);
        let failed = |source| RestoreError::Io {
            path: path.clone(),
            source,
        };
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        backup.copy_next(&mut file, moved)?;
        file.sync_all().map_err(failed)?;
    }
    Ok(backup.finish()?)
}

/// Makes the database that of a node which begins anew.
fn settle(
    path: &Path,
    header: &BackupHeader,
    now: Timestamp,
) -> Result<alknet_store::Settled, RestoreError> {
    Store::check(path).map_err(RestoreError::Store)?;
    let facts = Store::facts(path, now, now, now).map_err(RestoreError::Store)?;
    if let Some(database) = facts.node.filter(|node| *node != header.node_id) {
        return Err(RestoreError::OtherDatabase {
            backup: header.node_id.clone(),
            database,
        });
    }
    let mut row = AuditRow::event(now, "node", "node/restore");
    row.resource = Some(header.node_id.clone());
    row.detail = Some(format!("of a backup of {}", header.taken_at));
    Store::settle(path, &row).map_err(RestoreError::Store)
}

/// Refuses a directory with something in it; whether there is one.
fn check_empty(dir: &Path) -> Result<bool, RestoreError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => {
            return Err(RestoreError::Io {
                path: dir.into(),
                source,
            });
        }
    };
    if is_interrupted(dir) {
        return Err(RestoreError::Interrupted(dir.into()));
    }
    let names = entries.flatten().map(|entry| entry.file_name());
    match names
        .into_iter()
        .all(|name| IGNORED.iter().any(|ignored| name == *ignored))
    {
        true => Ok(true),
        false => Err(RestoreError::NotEmpty(dir.into())),
    }
}

/// A directory that is being made a node's; taken back unless that ends well.
///
/// There is none without the lock, so what is taken back is never another's.
struct Place {
    dir: PathBuf,
    /// Whether it was missing.
    made: bool,
    /// Whether the stage is this one's.
    staged: bool,
    /// What was moved so far, of [`PLACED`].
    placed: Vec<&'static str>,
    filled: bool,
    lock: Option<InstanceLock>,
}

impl Place {
    fn take(dir: &Path) -> Result<Self, RestoreError> {
        // Before anything is made in it: a directory of other things stays as
        // it is, without so much as a lock file.
        let made = !check_empty(dir)?;
        DataDir::new(dir).create()?;
        let lock = InstanceLock::acquire(dir)?;
        // Looked at again: whoever held the lock a moment ago may have made a
        // node here, which nothing below could tell from a place of its own.
        check_empty(dir)?;
        let mut place = Self {
            dir: dir.into(),
            made,
            staged: false,
            placed: Vec::new(),
            filled: false,
            lock: Some(lock),
        };
        let stage = place.stage();
        let staging = fs::DirBuilder::new().mode(0o700).create(&stage);
        staging.map_err(|source| RestoreError::Io {
            path: stage,
            source,
        })?;
        place.staged = true;
        Ok(place)
    }

    fn stage(&self) -> PathBuf {
        self.dir.join(STAGE)
    }

    /// Moves everything into its place, the vault last.
    fn fill(mut self) -> Result<(), RestoreError> {
        let stage = self.stage();
        for name in PLACED {
            let (from, to) = (stage.join(name), self.dir.join(name));
            match fs::rename(&from, &to) {
                Ok(()) => self.placed.push(name),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(RestoreError::Io { path: to, source }),
            }
            if name == KEY_FILE {
                // All but the vault must be there before it is.
                self.sync()?;
            }
        }
        self.sync()?;
        self.filled = true;
        // What making the vault left; only a name, and the node starts with it.
        let _ = fs::remove_dir_all(&stage);
        Ok(())
    }

    fn sync(&self) -> Result<(), RestoreError> {
        let synced = File::open(&self.dir).and_then(|dir| dir.sync_all());
        synced.map_err(|source| RestoreError::Io {
            path: self.dir.clone(),
            source,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.filled {
            return;
        }
        // The vault first: without it there is no node. What cannot be removed
        // is told of by the next restore.
        for name in self.placed.iter().rev() {
            let _ = fs::remove_file(self.dir.join(name));
        }
        if self.staged {
            let _ = fs::remove_dir_all(self.stage());
        }
        let _ = fs::remove_file(self.dir.join(LOCK));
        self.lock = None;
        if self.made {
            let _ = fs::remove_dir(&self.dir);
        }
    }
}
