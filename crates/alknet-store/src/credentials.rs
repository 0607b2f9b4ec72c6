//! Sealed credentials, and everything sealed at once.

use crate::{Store, audit, events, fault::Fault};
use alknet_core::{
    AuditRow, CredentialName,
    storage::{
        CREDENTIALS_MAX, CredentialStore, EventKind, NewEvent, SealedCredential, StoreError,
        Timestamp, credential_event, hex32,
    },
};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params, types::Type};

/// Where `meta` keeps the version of the sealing key, and whose keys they are.
const KEY_VERSION: &str = "sealing-key-version";
const VAULT: &str = "sealed-for-vault";
/// Where [`Store::note_node`] says whose store it is.
const NODE: &str = "node";
/// The version that a new store begins with.
const KEY_VERSION_FIRST: u32 = 1;

#[async_trait]
impl CredentialStore for Store {
    async fn put_credential(
        &self,
        credential: SealedCredential,
        audit: AuditRow,
    ) -> Result<(), StoreError> {
        let put = self.write(move |connection| {
            let SealedCredential { name, .. } = &credential;
            let sql = "INSERT INTO credentials
                    (provider, account, key_version, sealed, created_at, updated_at)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                ON CONFLICT (provider, account) DO UPDATE SET key_version = excluded.key_version,
                    sealed = excluded.sealed, updated_at = excluded.updated_at";
            connection.prepare_cached(sql)?.execute(params![
                name.provider(),
                name.account(),
                credential.key_version,
                credential.sealed,
                credential.created_at.0,
                credential.updated_at.0,
            ])?;
            let sql = "SELECT count(*) FROM credentials";
            let kept: i64 = connection.query_row(sql, [], |row| row.get(0))?;
            if kept > CREDENTIALS_MAX as i64 {
                return Err(Fault::Rule(StoreError::TooManyCredentials));
            }
            let event = credential_event(EventKind::CREDENTIAL_PUT, name, &audit);
            record(connection, &audit, &event)
        });
        Ok(put.await?)
    }

    async fn sealed_credential(
        &self,
        name: &CredentialName,
    ) -> Result<Option<SealedCredential>, StoreError> {
        let name = name.clone();
        let found = self.read(move |connection| {
            let sql = format!("{SELECT} WHERE provider = ?1 AND account = ?2");
            let mut statement = connection.prepare_cached(&sql)?;
            let found = statement.query_row([name.provider(), name.account()], read);
            Ok::<_, Fault>(found.optional()?)
        });
        Ok(found.await?)
    }

    async fn credentials(&self) -> Result<Vec<SealedCredential>, StoreError> {
        let read = self.read(|connection| Ok::<_, Fault>(all(connection)?));
        Ok(read.await?)
    }

    async fn remove_credential(
        &self,
        name: &CredentialName,
        audit: AuditRow,
    ) -> Result<(), StoreError> {
        let name = name.clone();
        let removed = self.write(move |connection| {
            let sql = "DELETE FROM credentials WHERE provider = ?1 AND account = ?2";
            let found = connection.execute(sql, [name.provider(), name.account()])?;
            if found == 0 {
                return Err(Fault::Rule(StoreError::NoCredential(name.to_string())));
            }
            let event = credential_event(EventKind::CREDENTIAL_REMOVED, &name, &audit);
            record(connection, &audit, &event)
        });
        Ok(removed.await?)
    }
}

const SELECT: &str =
    "SELECT provider, account, key_version, sealed, created_at, updated_at FROM credentials";

fn all(connection: &Connection) -> rusqlite::Result<Vec<SealedCredential>> {
    let mut statement =
        connection.prepare_cached(&format!("{SELECT} ORDER BY provider, account"))?;
    let rows = statement.query_map([], read)?;
    rows.collect()
}

fn read(row: &Row<'_>) -> rusqlite::Result<SealedCredential> {
    let (provider, account): (String, String) = (row.get(0)?, row.get(1)?);
    let name = CredentialName::new(&provider, &account).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error))
    })?;
    Ok(SealedCredential {
        name,
        key_version: row.get(2)?,
        sealed: row.get(3)?,
        created_at: Timestamp(row.get(4)?),
        updated_at: Timestamp(row.get(5)?),
    })
}

fn record(connection: &Connection, audit: &AuditRow, event: &NewEvent) -> Result<(), Fault> {
    audit::insert(connection, audit)?;
    events::insert(connection, event)?;
    Ok(())
}

/// Something sealed, as it lies in the store.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum SealedRow<'a> {
    /// An outbound credential.
    Credential {
        /// Which one.
        name: &'a CredentialName,
        /// Under which version of the sealing key.
        key_version: u32,
        /// The sealed secret.
        sealed: &'a [u8],
    },
    /// The secret of a network.
    Network {
        /// Which one.
        id: &'a [u8; 16],
        /// Under which version of the sealing key; 0 if sealed by a release
        /// before there were versions.
        key_version: u32,
        /// The sealed secret.
        sealed: &'a [u8],
    },
}

impl std::fmt::Debug for SealedRow<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            SealedRow::Credential { .. } => "Credential(..)",
            SealedRow::Network { .. } => "Network(..)",
        })
    }
}

/// To what everything is sealed anew.
#[derive(Clone, Copy, Debug)]
pub struct Resealing {
    /// The version of the sealing key, from now on.
    pub key_version: u32,
    /// The vault that has the key, if it is another one than before.
    pub vault: Option<OtherVault>,
}

/// The vault of another seed, to which a store goes over.
#[derive(Clone, Copy, Debug)]
pub struct OtherVault {
    /// Names it.
    pub name: [u8; 32],
    /// The node id that comes with it.
    pub node: [u8; 32],
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resealed {
    /// Rows that were sealed anew.
    pub rows: u64,
    /// Rows that could not be opened, and are as they were.
    pub left: u64,
}

impl Store {
    /// The version of the sealing key under which new secrets are sealed.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be read.
    pub async fn sealing_key_version(&self) -> Result<u32, StoreError> {
        let version = self.read(|connection| Ok::<_, Fault>(meta(connection, KEY_VERSION)?));
        let version: Option<String> = version.await?;
        Ok(version
            .and_then(|text| text.parse().ok())
            .unwrap_or(KEY_VERSION_FIRST))
    }

    /// The name that the last [`Store::reseal`] for another vault gave it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be read.
    pub async fn sealed_for_vault(&self) -> Result<Option<String>, StoreError> {
        let vault = self.read(|connection| Ok::<_, Fault>(meta(connection, VAULT)?));
        Ok(vault.await?)
    }

    /// Seals everything anew in one transaction, together with its audit row
    /// and event: all of it or nothing. `seal` gets each row and returns what
    /// lies there from now on; `None` leaves a row that does not open.
    ///
    /// # Errors
    ///
    /// What `seal` fails with, or [`StoreError`] if the store cannot be
    /// written; then nothing has changed.
    pub async fn reseal<F>(
        &self,
        to: Resealing,
        audit: AuditRow,
        mut seal: F,
    ) -> Result<Resealed, StoreError>
    where
        F: FnMut(SealedRow<'_>) -> Result<Option<Vec<u8>>, StoreError> + Send + 'static,
    {
        let resealed = self.write(move |connection| {
            let mut done = Resealed { rows: 0, left: 0 };
            reseal_credentials(connection, to.key_version, &mut seal, &mut done)?;
            reseal_networks(connection, to.key_version, &mut seal, &mut done)?;
            set_meta(connection, KEY_VERSION, &to.key_version.to_string())?;
            if let Some(vault) = to.vault {
                set_meta(connection, VAULT, &hex32::encode(&vault.name))?;
                set_meta(connection, NODE, &hex32::encode(&vault.node))?;
            }
            let mut event = NewEvent::of(EventKind::VAULT_ROTATED, "vault", &audit)
                .with("key_version", to.key_version);
            if let Some(vault) = to.vault {
                // The node is another one from here on.
                event = event.with("node_id", hex32::encode(&vault.node));
            }
            record(connection, &audit, &event)?;
            Ok::<_, Fault>(done)
        });
        Ok(resealed.await?)
    }
}

type Seal<'a> = &'a mut dyn FnMut(SealedRow<'_>) -> Result<Option<Vec<u8>>, StoreError>;

fn reseal_credentials(
    connection: &Connection,
    key_version: u32,
    seal: Seal<'_>,
    done: &mut Resealed,
) -> Result<(), Fault> {
    for row in all(connection)? {
        let sealed = seal(SealedRow::Credential {
            name: &row.name,
            key_version: row.key_version,
            sealed: &row.sealed,
        })?;
        let Some(sealed) = sealed else {
            done.left += 1;
            continue;
        };
        let sql = "UPDATE credentials SET key_version = ?3, sealed = ?4
            WHERE provider = ?1 AND account = ?2";
        let (provider, account) = (row.name.provider(), row.name.account());
        connection
            .prepare_cached(sql)?
            .execute(params![provider, account, key_version, sealed])?;
        done.rows += 1;
    }
    Ok(())
}

fn reseal_networks(
    connection: &Connection,
    key_version: u32,
    seal: Seal<'_>,
    done: &mut Resealed,
) -> Result<(), Fault> {
    for row in crate::places::networks(connection)? {
        let sealed = seal(SealedRow::Network {
            id: &row.id,
            key_version: row.key_version,
            sealed: &row.sealed,
        })?;
        let Some(sealed) = sealed else {
            done.left += 1;
            continue;
        };
        let sql = "UPDATE networks SET key_version = ?2, sealed = ?3 WHERE id = ?1";
        connection
            .prepare_cached(sql)?
            .execute(params![row.id, key_version, sealed])?;
        done.rows += 1;
    }
    Ok(())
}

fn meta(connection: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT value FROM meta WHERE key = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_row([key], |row| row.get(0)).optional()
}

fn set_meta(connection: &Connection, key: &str, value: &str) -> rusqlite::Result<()> {
    let sql = "INSERT INTO meta (key, value) VALUES (?1, ?2)
        ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    connection
        .prepare_cached(sql)?
        .execute([key, value])
        .map(drop)
}
