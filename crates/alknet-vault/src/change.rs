//! Changes of a vault on disk: what wraps it, and which seed it holds.

use std::{
    io,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::{
    disk::{self, KEY_FILE, NEXT_FILE, ReadFileError, Step, VAULT_FILE},
    envelope::{Envelope, FILE_BYTES_MAX, Protection},
    mnemonic::Mnemonic,
    random::NoRandomness,
    vault::{
        CreateVaultError, OpenVaultError, Vault, new_key, read_envelope, read_key_file,
        wrapping_key,
    },
    wrap::{Cost, Wrap},
};

impl Vault {
    /// Wraps the seed anew: by a passphrase, by another one, or by a new key
    /// file. The seed, and so every key, stays.
    ///
    /// Returns after the change is on disk. Interrupted at any moment, the
    /// directory opens as before or as wished. Of two changes at once, one is
    /// refused. Blocks on the disk and, for a passphrase, for as long as its
    /// [`Cost`] says.
    ///
    /// # Errors
    ///
    /// [`ChangeVaultError::Locked`] if the vault is locked, so that whoever
    /// changes a passphrase has shown the one before;
    /// [`ChangeVaultError::HasKeyFile`] if a key file wraps it and shall again;
    /// [`ChangeVaultError::Successor`] if a successor waits, which is wrapped as
    /// this one is and would open no more;
    /// otherwise as [`ChangeVaultError`] says.
    pub fn rewrap(&mut self, wrap: Wrap<'_>) -> Result<(), ChangeVaultError> {
        self.rewrap_in_steps(wrap, &mut |_| Ok(()))
    }

    /// The same; `step` is called after each step on disk, and ends it there
    /// with an error, as a crash would.
    #[doc(hidden)]
    pub fn rewrap_in_steps(
        &mut self,
        wrap: Wrap<'_>,
        step: Step<'_>,
    ) -> Result<(), ChangeVaultError> {
        let _alone = self.lock_files()?;
        let waits = self.directory.join(NEXT_FILE).try_exists();
        if waits.map_err(|err| ChangeVaultError::io(&self.directory.join(NEXT_FILE), err))? {
            return Err(ChangeVaultError::Successor);
        }
        let seed = self.seed.as_ref().ok_or(ChangeVaultError::Locked)?;
        let (protection, key, key_line) = match wrap {
            Wrap::KeyFile if matches!(self.envelope.protection, Protection::KeyFile) => {
                return Err(ChangeVaultError::HasKeyFile);
            }
            Wrap::KeyFile => {
                let (key, line) = new_key()?;
                (Protection::KeyFile, key, Some(line))
            }
            Wrap::Passphrase(text) => {
                let (protection, key) = wrapping_key(text, Cost::DEFAULT)?;
                (protection, key, None)
            }
            Wrap::PassphraseAtCost(text, cost) => {
                let (protection, key) = wrapping_key(text, cost)?;
                (protection, key, None)
            }
        };
        let envelope = Envelope::seal(protection, &key, seed)?;
        let directory = self.directory.clone();
        // The key comes first: until the vault follows, it wraps nothing, and
        // neither did the one that it may replace, since a passphrase does.
        if let Some(line) = key_line {
            disk::replace(&directory, KEY_FILE, &*line, step)
                .map_err(|err| ChangeVaultError::io(&directory.join(KEY_FILE), err))?;
        }
        disk::replace(&directory, VAULT_FILE, &envelope.to_json(), step)
            .map_err(|err| ChangeVaultError::io(&directory.join(VAULT_FILE), err))?;
        self.envelope = envelope;
        if matches!(protection, Protection::Passphrase { .. }) {
            let path = directory.join(KEY_FILE);
            disk::remove(&path, step)
                .map_err(|source| ChangeVaultError::KeyFileLeft { path, source })?;
        }
        Ok(())
    }

    /// Writes a vault with the seed of `mnemonic` beside this one, wrapped as
    /// this one is: `wrapping` is the passphrase if one wraps it. It takes this
    /// one's place with [`Pending::accept`], on whichever day; until then the
    /// directory opens as before.
    ///
    /// An earlier successor that was never accepted is replaced.
    ///
    /// # Errors
    ///
    /// [`ChangeVaultError::Locked`] if `wrapping` is missing or wrong;
    /// otherwise as [`ChangeVaultError`] says.
    pub fn prepare_successor(
        &self,
        mnemonic: &Mnemonic,
        wrapping: Option<&str>,
    ) -> Result<Successor, ChangeVaultError> {
        let _alone = self.lock_files()?;
        let (protection, key) = match self.envelope.protection {
            Protection::KeyFile => {
                let key = read_key_file(&self.directory);
                let key = key.map_err(|err| ChangeVaultError::Reading(Box::new(err)))?;
                (Protection::KeyFile, key)
            }
            Protection::Passphrase { cost, salt } => {
                let text = wrapping.ok_or(ChangeVaultError::Locked)?;
                let is_right = cost
                    .key(text, &salt)
                    .is_some_and(|key| self.envelope.unseal(&key).is_some());
                if !is_right {
                    return Err(ChangeVaultError::Locked);
                }
                wrapping_key(text, cost)?
            }
        };
        let seed = mnemonic.to_seed("");
        let envelope = Envelope::seal(protection, &key, &seed)?;
        let json = envelope.to_json();
        disk::replace(&self.directory, NEXT_FILE, &json, &mut |_| Ok(()))
            .map_err(|err| ChangeVaultError::io(&self.directory.join(NEXT_FILE), err))?;
        Ok(Successor {
            vault: Self {
                directory: self.directory.clone(),
                envelope,
                seed: Some(seed),
            },
            pending: Pending {
                directory: self.directory.clone(),
                digest: Sha256::digest(&json).into(),
            },
        })
    }

    /// Takes the lock, and refuses to change a vault that somebody else has
    /// changed since this one was opened.
    fn lock_files(&self) -> Result<std::fs::File, ChangeVaultError> {
        let lock = disk::lock(&self.directory).map_err(|err| match err.kind() {
            io::ErrorKind::WouldBlock => ChangeVaultError::Busy,
            _ => ChangeVaultError::io(&self.directory, err),
        })?;
        let now = read_envelope(&self.directory.join(VAULT_FILE))
            .map_err(|err| ChangeVaultError::Reading(Box::new(err)))?;
        if !now.is(&self.envelope) {
            return Err(ChangeVaultError::Changed);
        }
        disk::sweep(&self.directory).map_err(|err| ChangeVaultError::io(&self.directory, err))?;
        Ok(lock)
    }
}

/// A vault that waits to take another one's place.
#[derive(Debug)]
pub struct Successor {
    /// The vault as it will be, unlocked.
    pub vault: Vault,
    /// What puts it into its place.
    pub pending: Pending,
}

/// A successor on disk, whether or not it can be opened.
#[derive(Clone, Debug)]
pub struct Pending {
    directory: PathBuf,
    digest: [u8; 32],
}

impl Pending {
    /// Finds the successor that an interrupted change left in `directory`.
    ///
    /// # Errors
    ///
    /// [`OpenVaultError`] if there is one that cannot be read.
    pub fn find(directory: &Path) -> Result<Option<Self>, OpenVaultError> {
        let path = directory.join(NEXT_FILE);
        match disk::read(&path, FILE_BYTES_MAX) {
            Ok(bytes) => Ok(Some(Self {
                directory: directory.into(),
                digest: Sha256::digest(&*bytes).into(),
            })),
            Err(ReadFileError::Missing) => Ok(None),
            Err(err) => Err(OpenVaultError::reading(&path, FILE_BYTES_MAX, err)),
        }
    }

    /// Tells successors apart: SHA-256 of the file.
    #[must_use]
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Puts it into the place of the vault, which is gone then.
    ///
    /// # Errors
    ///
    /// [`ChangeVaultError::Io`] if the disk says no; then either holds.
    pub fn accept(self) -> Result<(), ChangeVaultError> {
        disk::rename(&self.directory, NEXT_FILE, VAULT_FILE)
            .map_err(|err| ChangeVaultError::io(&self.directory.join(VAULT_FILE), err))
    }

    /// Forgets it.
    ///
    /// # Errors
    ///
    /// [`ChangeVaultError::Io`] if the disk says no.
    pub fn discard(self) -> Result<(), ChangeVaultError> {
        let path = self.directory.join(NEXT_FILE);
        disk::remove(&path, &mut |_| Ok(())).map_err(|err| ChangeVaultError::io(&path, err))
    }
}

/// Why a vault was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeVaultError {
    /// It must be unlocked, with the passphrase that wraps it.
    #[error("the vault is locked")]
    Locked,
    /// A key file wraps it already.
    #[error("the vault is protected by a key file already")]
    HasKeyFile,
    /// Somebody else changes it at this moment.
    #[error("the vault is being changed by another process")]
    Busy,
    /// A successor waits to take its place.
    #[error("the vault is being replaced by another one")]
    Successor,
    /// Somebody else changed it since it was opened.
    #[error("the vault was changed by another process")]
    Changed,
    /// The new protection cannot be used.
    #[error(transparent)]
    Wrap(#[from] CreateVaultError),
    /// The files that are there cannot be read.
    #[error("failed to read the vault that is there")]
    Reading(#[source] Box<OpenVaultError>),
    /// The operating system gave no random bytes.
    #[error("failed to draw a key")]
    NoRandomness(#[from] NoRandomness),
    /// The passphrase wraps it now, and the key file that did is still there.
    #[error(
        "the passphrase protects the vault now, but key file `{}` was not removed",
        .path.display()
    )]
    KeyFileLeft {
        /// The key file; remove it by hand.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// The disk said no.
    #[error("failed to write `{}`", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
}

impl ChangeVaultError {
    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.into(),
            source,
        }
    }
}
