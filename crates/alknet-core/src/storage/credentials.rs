//! Where sealed credentials are kept. What opens them is not known here.

use super::{
    MemoryAuditLog, MemoryEventLog, StoreError, Timestamp,
    events::{EventKind, NewEvent},
    memory::lock,
};
use crate::{audit::AuditRow, credential::CredentialName};
use async_trait::async_trait;
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
};

/// Credentials kept at most.
pub const CREDENTIALS_MAX: usize = 1024;

/// A credential as stored: never the secret, only what the vault made of it.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedCredential {
    /// Which one.
    pub name: CredentialName,
    /// Under which version of the sealing key.
    pub key_version: u32,
    /// The sealed secret.
    pub sealed: Vec<u8>,
    /// When it was first put.
    pub created_at: Timestamp,
    /// When it was put last.
    pub updated_at: Timestamp,
}

impl fmt::Debug for SealedCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedCredential")
            .field("name", &self.name)
            .field("key_version", &self.key_version)
            .finish_non_exhaustive()
    }
}

/// Sealed credentials, by provider and account.
#[async_trait]
pub trait CredentialStore: Send + Sync + 'static {
    /// Keeps a credential, in the place of one of that name, together with its
    /// audit row and event; the time at which that one was first put stays.
    ///
    /// # Errors
    ///
    /// [`StoreError::TooManyCredentials`] beyond [`CREDENTIALS_MAX`]; then
    /// nothing has changed.
    async fn put_credential(
        &self,
        credential: SealedCredential,
        audit: AuditRow,
    ) -> Result<(), StoreError>;

    /// The credential of this name, to be opened by whoever has the key.
    async fn sealed_credential(
        &self,
        name: &CredentialName,
    ) -> Result<Option<SealedCredential>, StoreError>;

    /// All of them, by name.
    async fn credentials(&self) -> Result<Vec<SealedCredential>, StoreError>;

    /// Removes one, together with its audit row and event.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoCredential`] if there is none of that name.
    async fn remove_credential(
        &self,
        name: &CredentialName,
        audit: AuditRow,
    ) -> Result<(), StoreError>;
}

/// The event of a change of a credential.
#[must_use]
pub fn credential_event(kind: EventKind, name: &CredentialName, audit: &AuditRow) -> NewEvent {
    NewEvent::of(kind, name.to_string(), audit)
}

/// Sealed credentials in memory.
#[derive(Debug)]
pub struct MemoryCredentialStore {
    rows: Mutex<BTreeMap<CredentialName, SealedCredential>>,
    audit: Arc<MemoryAuditLog>,
    events: Arc<MemoryEventLog>,
}

impl MemoryCredentialStore {
    /// An empty store whose changes are recorded in `audit`.
    #[must_use]
    pub fn new(audit: Arc<MemoryAuditLog>) -> Self {
        Self {
            rows: Mutex::default(),
            events: Arc::new(MemoryEventLog::new(audit.clone())),
            audit,
        }
    }

    /// The log that the events of its changes are written to.
    #[must_use]
    pub fn events(&self) -> Arc<MemoryEventLog> {
        self.events.clone()
    }
}

#[async_trait]
impl CredentialStore for MemoryCredentialStore {
    async fn put_credential(
        &self,
        mut credential: SealedCredential,
        audit: AuditRow,
    ) -> Result<(), StoreError> {
        let mut rows = lock(&self.rows);
        match rows.get(&credential.name) {
            Some(held) => credential.created_at = held.created_at,
            None if rows.len() >= CREDENTIALS_MAX => return Err(StoreError::TooManyCredentials),
            None => {}
        }
        let event = credential_event(EventKind::CREDENTIAL_PUT, &credential.name, &audit);
        rows.insert(credential.name.clone(), credential);
        self.audit.push(audit);
        self.events.push(vec![event]);
        Ok(())
    }

    async fn sealed_credential(
        &self,
        name: &CredentialName,
    ) -> Result<Option<SealedCredential>, StoreError> {
        Ok(lock(&self.rows).get(name).cloned())
    }

    async fn credentials(&self) -> Result<Vec<SealedCredential>, StoreError> {
        Ok(lock(&self.rows).values().cloned().collect())
    }

    async fn remove_credential(
        &self,
        name: &CredentialName,
        audit: AuditRow,
    ) -> Result<(), StoreError> {
        let mut rows = lock(&self.rows);
        if rows.remove(name).is_none() {
            return Err(StoreError::NoCredential(name.to_string()));
        }
        let event = credential_event(EventKind::CREDENTIAL_REMOVED, name, &audit);
        self.audit.push(audit);
        self.events.push(vec![event]);
        Ok(())
    }
}
