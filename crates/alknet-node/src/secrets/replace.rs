//! Another vault in the place of the one that is there: new words, new keys,
//! and everything that the old one sealed, sealed by the new one.
//!
//! Two files change, the vault and the database, and a crash may come between.
//! So the new vault is written beside the old one first. The database goes over
//! to it in one transaction, which also says so: that is the moment at which it
//! happens. What is left is a renaming, which the next start does if need be
//! ([`settle`]); a new vault of which the database says nothing is forgotten.

use super::resealed;
use crate::{
    data_dir::{DataDir, DataDirError},
    setup::is_initialised,
};
use alknet_core::{
    AuditRow, Secret,
    storage::{StoreError, hex32, system_clock},
};
use alknet_store::{
    InstanceLock, LockError, OpenStoreError, OtherVault, Resealed, Resealing, Store,
};
use alknet_vault::{
    ChangeVaultError, KeyError, Mnemonic, NoRandomness, OpenVaultError, Pending, Sealer, Successor,
    UnlockVaultError, Vault,
};
use std::{path::Path, sync::Arc};

/// Why a vault was not replaced.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplaceError {
    /// There is none.
    #[error("`{0}` holds no node")]
    NoNode(String),
    /// The node runs.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The vault does not open.
    #[error(transparent)]
    Vault(#[from] OpenVaultError),
    /// A passphrase wraps it, and none was given.
    #[error("the vault is protected by a passphrase")]
    PassphraseNeeded,
    /// It is the wrong one.
    #[error(transparent)]
    Unlock(#[from] UnlockVaultError),
    /// The new vault was not written.
    #[error(transparent)]
    Change(#[from] ChangeVaultError),
    /// A key could not be derived.
    #[error("failed to derive the keys")]
    Key(#[from] KeyError),
    /// The system gives no random numbers.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The database does not open.
    #[error(transparent)]
    Store(#[from] OpenStoreError),
    /// The database cannot be read or written.
    #[error("failed to seal what is stored")]
    StoreUse(#[source] StoreError),
    /// A task of the runtime was lost.
    #[error("the runtime is shutting down")]
    Runtime,
}

impl ReplaceError {
    /// The command that helps.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Lock(LockError::Held { .. }) => Some("alknet down".into()),
            Self::NoNode(_) => Some("alknet init".into()),
            Self::PassphraseNeeded => {
                Some("--passphrase-file FILE, or run it on a terminal, where it asks".into())
            }
            Self::DataDir(error) => error.hint(),
            _ => None,
        }
    }
}

/// A new vault, written and not yet in its place.
pub struct Replacement {
    data: DataDir,
    old: Arc<Sealer>,
    next: Successor,
    words: Mnemonic,
    old_node: [u8; 32],
    node: [u8; 32],
    /// Held until it is done.
    lock: InstanceLock,
}

/// What became of it.
#[derive(Clone, Debug)]
pub struct Replaced {
    /// The node's public key, from now on.
    pub node_id: String,
    /// Secrets that were sealed anew.
    pub resealed: u64,
    /// Secrets that could not be opened, and stay so.
    pub left: u64,
}

impl Replacement {
    /// Draws new words for the node in `dir`, which must not run, and writes
    /// their vault beside the old one, wrapped as that one is. Nothing else
    /// changes before [`Replacement::commit`].
    ///
    /// # Errors
    ///
    /// [`ReplaceError`]; then everything is as it was.
    pub async fn prepare(dir: &Path, passphrase: Option<Secret>) -> Result<Self, ReplaceError> {
        if !is_initialised(dir) {
            return Err(ReplaceError::NoNode(dir.display().to_string()));
        }
        let data = DataDir::new(dir);
        let lock = InstanceLock::acquire(dir)?;
        data.check_modes()?;
        settle(&data).await?;
        let preparing = move || Self::prepare_blocking(data, passphrase.as_ref(), lock);
        let prepared = tokio::task::spawn_blocking(preparing).await;
        prepared.map_err(|_| ReplaceError::Runtime)?
    }

    fn prepare_blocking(
        data: DataDir,
        passphrase: Option<&Secret>,
        lock: InstanceLock,
    ) -> Result<Self, ReplaceError> {
        let passphrase = match passphrase {
            // What is no text is no passphrase.
            Some(given) => Some(
                given
                    .expose_text()
                    .ok_or(UnlockVaultError::WrongPassphrase)?,
            ),
            None => None,
        };
        let mut vault = Vault::open(data.path())?;
        if !vault.is_unlocked() {
            vault.unlock(passphrase.ok_or(ReplaceError::PassphraseNeeded)?)?;
        }
        let words = Mnemonic::generate()?;
        let next = vault.prepare_successor(&words, passphrase)?;
        Ok(Self {
            old: Arc::new(vault.sealer()?),
            old_node: vault.node_key()?.public_key(),
            node: next.vault.node_key()?.public_key(),
            data,
            next,
            words,
            lock,
        })
    }

    /// The new words: to be shown once, and kept nowhere.
    #[must_use]
    pub fn words(&self) -> &str {
        self.words.expose()
    }

    /// The node's public key so far.
    #[must_use]
    pub fn old_node_id(&self) -> String {
        hex32::encode(&self.old_node)
    }

    /// The node's public key afterwards.
    #[must_use]
    pub fn node_id(&self) -> String {
        hex32::encode(&self.node)
    }

    /// Seals everything by the new vault, and puts that into its place.
    ///
    /// # Errors
    ///
    /// [`ReplaceError`]. Whatever it is, and if the process dies, the directory
    /// opens with the old words or with the new ones, and everything sealed
    /// opens with it.
    pub async fn commit(self) -> Result<Replaced, ReplaceError> {
        let done = self.reseal().await?;
        let Successor { vault, pending } = self.next;
        pending.accept()?;
        let owner = vault.owner_key()?;
        self.data.write_owner_key(owner.expose())?;
        drop(self.lock);
        Ok(Replaced {
            node_id: hex32::encode(&self.node),
            resealed: done.rows,
            left: done.left,
        })
    }

    /// Forgets the new words.
    ///
    /// # Errors
    ///
    /// [`ReplaceError::Change`] if the disk says no; the next start forgets
    /// them then.
    pub fn discard(self) -> Result<(), ReplaceError> {
        Ok(self.next.pending.discard()?)
    }

    async fn reseal(&self) -> Result<Resealed, ReplaceError> {
        let path = self.data.database();
        if !path.exists() {
            // It never ran: the renaming is all there is.
            return Ok(Resealed { rows: 0, left: 0 });
        }
        let store = open_store(&self.data).await?;
        let version = store.sealing_key_version().await;
        let key_version = version.map_err(ReplaceError::StoreUse)?;
        let to = Resealing {
            key_version,
            vault: Some(OtherVault {
                name: *self.next.pending.digest(),
                node: self.node,
            }),
        };
        let (old, new) = (self.old.clone(), self.next.vault.sealer()?);
        let audit = AuditRow::event(system_clock()(), "host", "vault/replace");
        let done = store.reseal(to, audit, move |row| {
            resealed(&old, &new, key_version, &row).map_err(StoreError::backend)
        });
        let done = done.await.map_err(ReplaceError::StoreUse);
        store.close().await;
        done
    }
}

impl std::fmt::Debug for Replacement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replacement").finish_non_exhaustive()
    }
}

/// Ends a replacement that was interrupted, one way or the other. Whoever calls
/// it holds the directory's lock.
pub(crate) async fn settle(data: &DataDir) -> Result<(), ReplaceError> {
    let Some(pending) = Pending::find(data.path())? else {
        return Ok(());
    };
    let went_over = match data.database().exists() {
        true => {
            let store = open_store(data).await?;
            let vault = store.sealed_for_vault().await;
            store.close().await;
            vault.map_err(ReplaceError::StoreUse)? == Some(hex32::encode(pending.digest()))
        }
        false => false,
    };
    match went_over {
        true => {
            tracing::warn!("a replacement of the vault was interrupted, and is done now");
            pending.accept()?;
        }
        false => {
            tracing::warn!("a replacement of the vault was interrupted, and is forgotten");
            pending.discard()?;
        }
    }
    Ok(())
}

async fn open_store(data: &DataDir) -> Result<Store, ReplaceError> {
    let path = data.database();
    let opened = tokio::task::spawn_blocking(move || Store::open(&path)).await;
    Ok(opened.map_err(|_| ReplaceError::Runtime)??)
}
