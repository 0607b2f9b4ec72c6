//! The credentials of a node: sealed in the store, and handed to the
//! registrations that declared them.

use super::{SealError, Seals, about_credential, resealed};
use alknet_core::{
    AuditRow, CredentialName, CredentialSlot, CredentialState, OperationName, Registration,
    Registry, Secret,
    storage::{CredentialStore, IdentityIndex, SealedCredential, StoreError},
};
use alknet_store::{Resealed, Resealing, Store};
use alknet_vault::{KeyError, OpenVaultError, Sealer, UnlockVaultError, Vault};
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

/// Credentials, while the node runs.
pub(crate) struct Credentials {
    store: Store,
    identities: Arc<IdentityIndex>,
    seals: Seals,
    /// Where the vault lies, and whose it must be.
    directory: PathBuf,
    node: [u8; 32],
    registry: OnceLock<Registry>,
    /// Held from reading the store to handing out what was read, so that
    /// nothing old is handed out over something new.
    handing: tokio::sync::Mutex<()>,
}

/// Why a credential was not changed, or the vault not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialsError {
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Vault(#[from] OpenVaultError),
    #[error(transparent)]
    Unlock(#[from] UnlockVaultError),
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A passphrase is needed.
    #[error("the vault is protected by a passphrase")]
    PassphraseNeeded,
    /// Somebody put the vault of another node there.
    #[error("the vault in the data directory is another node's")]
    OtherNode,
    #[error("the node is shutting down")]
    Runtime,
}

/// A credential as it is listed.
pub(crate) struct Listed {
    pub(crate) row: SealedCredential,
    pub(crate) used_by: Vec<OperationName>,
}

impl Credentials {
    pub(crate) fn new(
        store: Store,
        identities: Arc<IdentityIndex>,
        seals: Seals,
        directory: PathBuf,
        node: [u8; 32],
    ) -> Self {
        Self {
            store,
            identities,
            seals,
            directory,
            node,
            registry: OnceLock::new(),
            handing: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn seals(&self) -> &Seals {
        &self.seals
    }

    /// From now on, whoever is registered here is given what it declared.
    pub(crate) fn serve(&self, registry: Registry) {
        // Set once, while the node is put together.
        let _ = self.registry.set(registry);
    }

    /// Seals and stores a secret; whoever declared it has it when this returns.
    pub(crate) async fn put(
        &self,
        name: &CredentialName,
        secret: &Secret,
        audit: AuditRow,
    ) -> Result<SealedCredential, CredentialsError> {
        let now = self.identities.now();
        let row = {
            // Until it is stored, no other version becomes the one in use.
            let _one_at_a_time = self.handing.lock().await;
            let (sealer, version) = (self.seals.sealer()?, self.seals.version());
            let row = SealedCredential {
                name: name.clone(),
                key_version: version,
                sealed: sealer.seal(version, &about_credential(name), secret.expose())?,
                created_at: now,
                updated_at: now,
            };
            self.store.put_credential(row.clone(), audit).await?;
            // Without reading it again, which may fail: it is kept.
            self.hand(name, || self.state_of(Some(&row)));
            row
        };
        // For when it was first put there.
        let stored = self.store.sealed_credential(name).await;
        Ok(stored.ok().flatten().unwrap_or(row))
    }

    /// Removes a secret; nobody has it when this returns, but calls that run.
    pub(crate) async fn remove(
        &self,
        name: &CredentialName,
        audit: AuditRow,
    ) -> Result<(), CredentialsError> {
        // Before the store, so that what is put meanwhile is not taken back.
        let _one_at_a_time = self.handing.lock().await;
        self.store.remove_credential(name, audit).await?;
        // Without asking the store again, which may fail: it is gone there.
        self.hand(name, || CredentialState::Missing);
        Ok(())
    }

    /// Fills the places of one credential; `handing` is held.
    fn hand(&self, name: &CredentialName, state: impl Fn() -> CredentialState) {
        for (_, slot) in self.slots() {
            if slot.name() == name {
                slot.hand(state());
            }
        }
    }

    /// What is stored, and who uses it; and what is used and not stored.
    pub(crate) async fn list(
        &self,
    ) -> Result<(Vec<Listed>, Vec<(CredentialName, Vec<OperationName>)>), StoreError> {
        let mut users: HashMap<CredentialName, Vec<OperationName>> = HashMap::new();
        for (operation, slot) in self.slots() {
            let users = users.entry(slot.name().clone()).or_default();
            users.push(operation);
        }
        let stored = self.store.credentials().await?;
        let stored = stored.into_iter().map(|row| Listed {
            used_by: users.remove(&row.name).unwrap_or_default(),
            row,
        });
        let stored = stored.collect();
        let mut missing: Vec<_> = users.into_iter().collect();
        missing.sort();
        Ok((stored, missing))
    }

    pub(crate) async fn count(&self) -> Result<usize, StoreError> {
        Ok(self.store.credentials().await?.len())
    }

    /// Wipes the keys, and takes back what was handed out.
    ///
    /// The store is asked last: if that fails, what is handed out is taken back
    /// all the same, and only the difference between locked and missing is lost.
    pub(crate) async fn lock(&self) {
        self.seals.lock();
        {
            let _one_at_a_time = self.handing.lock().await;
            for (_, slot) in self.slots() {
                slot.hand(CredentialState::Locked);
            }
        }
        if let Err(cause) = self.hand_out().await {
            tracing::warn!(%cause, "what is locked and what is missing is not told apart");
        }
    }

    /// Opens the vault anew, for which a passphrase may be needed. Blocks a
    /// thread for as long as that costs.
    pub(crate) async fn unlock(&self, passphrase: Option<Secret>) -> Result<(), CredentialsError> {
        let (directory, node) = (self.directory.clone(), self.node);
        let opening = tokio::task::spawn_blocking(move || {
            let mut vault = Vault::open(&directory)?;
            if !vault.is_unlocked() {
                let passphrase = passphrase.ok_or(CredentialsError::PassphraseNeeded)?;
                // What is no text is no passphrase.
                let text = passphrase.expose_text();
                vault.unlock(text.ok_or(UnlockVaultError::WrongPassphrase)?)?;
            }
            match vault.node_key()?.public_key() == node {
                true => Ok(vault.sealer()?),
                false => Err(CredentialsError::OtherNode),
            }
        });
        let sealer: Sealer = opening.await.map_err(|_| CredentialsError::Runtime)??;
        self.seals.unlock(sealer);
        let handed = self.hand_out().await;
        Ok(handed.map_err(|error| StoreError::NotReadBack(error.into()))?)
    }

    /// Seals everything under the next version of the key.
    pub(crate) async fn rotate(
        &self,
        audit: AuditRow,
    ) -> Result<(u32, Resealed), CredentialsError> {
        let sealer = self.seals.sealer()?;
        let _one_at_a_time = self.handing.lock().await;
        let key_version = self.seals.version() + 1;
        // Before anything is written: a version that does not exist.
        sealer.key(key_version)?;
        let to = Resealing {
            key_version,
            vault: None,
        };
        let done = self.store.reseal(to, audit, move |row| {
            resealed(&sealer, &sealer, key_version, &row).map_err(StoreError::backend)
        });
        let done = done.await?;
        self.seals.use_version(key_version);
        Ok((key_version, done))
    }

    /// Fills the places of registrations that are about to be registered.
    pub(crate) async fn hand_to(&self, registrations: &[Registration]) -> Result<(), StoreError> {
        let slots = registrations.iter().flat_map(Registration::credentials);
        let slots: Vec<_> = slots.cloned().collect();
        let _one_at_a_time = self.handing.lock().await;
        self.fill(&slots).await
    }

    /// Fills the places of everything that is registered.
    async fn hand_out(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.handing.lock().await;
        let slots: Vec<_> = self.slots().into_iter().map(|(_, slot)| slot).collect();
        self.fill(&slots).await
    }

    /// Fills the places of what somebody else registers while the node runs.
    pub(crate) async fn follow(self: Arc<Self>) {
        let Some(mut changes) = self.registry.get().map(Registry::changes) else {
            return;
        };
        while changes.changed().await.is_ok() {
            let is_new = |slot: &Arc<CredentialSlot>| !slot.is_filled();
            if !self.slots().iter().any(|(_, slot)| is_new(slot)) {
                continue;
            }
            if let Err(cause) = self.hand_out().await {
                tracing::warn!(%cause, "credentials could not be handed out");
            }
        }
    }

    fn slots(&self) -> Vec<(OperationName, Arc<CredentialSlot>)> {
        let Some(registry) = self.registry.get() else {
            return Vec::new();
        };
        let view = registry.view();
        let slots = view.local().flat_map(|entry| {
            let name = &entry.spec().name;
            let slots = entry.credentials().iter();
            slots.map(move |slot| (name.clone(), slot.clone()))
        });
        slots.collect()
    }

    async fn fill(&self, slots: &[Arc<CredentialSlot>]) -> Result<(), StoreError> {
        if slots.is_empty() {
            return Ok(());
        }
        let stored = self.store.credentials().await?.into_iter();
        let stored: HashMap<_, _> = stored.map(|row| (row.name.clone(), row)).collect();
        for slot in slots {
            slot.hand(self.state_of(stored.get(slot.name())));
        }
        Ok(())
    }

    fn state_of(&self, stored: Option<&SealedCredential>) -> CredentialState {
        let Some(row) = stored else {
            return CredentialState::Missing;
        };
        let Ok(sealer) = self.seals.sealer() else {
            return CredentialState::Locked;
        };
        match sealer.open(row.key_version, &about_credential(&row.name), &row.sealed) {
            Ok(mut secret) => {
                CredentialState::Open(Arc::new(Secret::new(std::mem::take(&mut *secret))))
            }
            Err(cause) => {
                tracing::warn!(credential = %row.name, %cause, "a credential does not open");
                CredentialState::Unreadable
            }
        }
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}
