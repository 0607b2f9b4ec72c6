//! Where peers were found, the networks of the node, and the records in which
//! peers tell their addresses.

use crate::{Store, fault::Fault};
use alknet_core::storage::{StoreError, Timestamp};
use rusqlite::{Connection, Row, params};
use std::net::SocketAddr;

/// A direct address over which a connection to a node key worked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptPlace {
    /// The other side's node key.
    pub key: [u8; 32],
    /// Where it was reached.
    pub address: SocketAddr,
    /// When.
    pub at: Timestamp,
}

/// A network the node is a member of.
#[derive(Clone, PartialEq, Eq)]
pub struct KeptNetwork {
    /// Tells networks apart; made of the secret, and says nothing of it.
    pub id: [u8; 16],
    /// Under which version of the sealing key; 0 if sealed by a release before
    /// there were versions.
    pub key_version: u32,
    /// The secret, sealed by whoever hands it over.
    pub sealed: Vec<u8>,
}

impl std::fmt::Debug for KeptNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeptNetwork").finish_non_exhaustive()
    }
}

/// The newest record of a node in a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptRecord {
    /// Which network.
    pub network: [u8; 16],
    /// Whose key signed it, and whose addresses it tells.
    pub node: [u8; 32],
    /// Larger in every newer one.
    pub sequence: u64,
    /// The record with its signature.
    pub record: Vec<u8>,
}

impl Store {
    /// All places, the newest of each key first.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if they cannot be read.
    pub async fn places(&self) -> Result<Vec<KeptPlace>, StoreError> {
        let read = self.read(|connection| {
            let sql = "SELECT key, address, at FROM peer_places ORDER BY key, at DESC, address";
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map([], place)?;
            Ok::<_, Fault>(rows.collect::<rusqlite::Result<Vec<_>>>()?)
        });
        Ok(read.await?)
    }

    /// Notes a place durably, keeps the newest `most` of its key, and forgets
    /// those of keys that belong to no peer. A key of no peer is not noted.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be written.
    pub async fn note_place(&self, place: KeptPlace, most: usize) -> Result<(), StoreError> {
        let noted = self.write(move |connection| {
            forget_strangers(connection)?;
            let sql = "INSERT INTO peer_places (key, address, at)
                SELECT ?1, ?2, ?3 WHERE ?1 IN (SELECT key FROM peer_node_keys)
                ON CONFLICT (key, address) DO UPDATE SET at = excluded.at";
            let row = params![place.key, place.address.to_string(), place.at.0];
            connection.prepare_cached(sql)?.execute(row)?;
            let sql = "DELETE FROM peer_places WHERE key = ?1 AND address NOT IN
                (SELECT address FROM peer_places WHERE key = ?1 ORDER BY at DESC, address LIMIT ?2)";
            let most = i64::try_from(most).unwrap_or(i64::MAX);
            connection
                .prepare_cached(sql)?
                .execute(params![place.key, most])?;
            Ok::<_, Fault>(())
        });
        Ok(noted.await?)
    }

    /// The networks of the node, its own first.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if they cannot be read.
    pub async fn networks(&self) -> Result<Vec<KeptNetwork>, StoreError> {
        let read = self.read(|connection| Ok::<_, Fault>(networks(connection)?));
        Ok(read.await?)
    }

    /// Replaces the networks of the node, in this order, and forgets the
    /// records of those that are no longer among them.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if they cannot be written; then nothing has changed.
    pub async fn put_networks(&self, networks: Vec<KeptNetwork>) -> Result<(), StoreError> {
        let put = self.write(move |connection| {
            connection.execute("DELETE FROM networks", [])?;
            let sql = "INSERT INTO networks (id, position, key_version, sealed)
                VALUES (?1, ?2, ?3, ?4)";
            for (position, network) in (0_i64..).zip(&networks) {
                let row = params![network.id, position, network.key_version, network.sealed];
                connection.prepare_cached(sql)?.execute(row)?;
            }
            let sql = "DELETE FROM address_records WHERE network NOT IN (SELECT id FROM networks)";
            connection.execute(sql, [])?;
            Ok::<_, Fault>(())
        });
        Ok(put.await?)
    }

    /// All records.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if they cannot be read.
    pub async fn records(&self) -> Result<Vec<KeptRecord>, StoreError> {
        let read = self.read(|connection| {
            let sql = "SELECT network, node, sequence, record FROM address_records";
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map([], |row| {
                Ok(KeptRecord {
                    network: row.get(0)?,
                    node: row.get(1)?,
                    sequence: row.get::<_, i64>(2)?.cast_unsigned(),
                    record: row.get(3)?,
                })
            })?;
            Ok::<_, Fault>(rows.collect::<rusqlite::Result<Vec<_>>>()?)
        });
        Ok(read.await?)
    }

    /// Keeps a record in the place of the one before, whatever its sequence:
    /// which is newer was judged by whoever hands it over.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be written.
    pub async fn put_record(&self, record: KeptRecord) -> Result<(), StoreError> {
        let put = self.write(move |connection| {
            let sql = "INSERT INTO address_records (network, node, sequence, record)
                VALUES (?1, ?2, ?3, ?4) ON CONFLICT (network, node)
                DO UPDATE SET sequence = excluded.sequence, record = excluded.record";
            let sequence = record.sequence.cast_signed();
            let row = params![record.network, record.node, sequence, record.record];
            connection.prepare_cached(sql)?.execute(row)?;
            Ok::<_, Fault>(())
        });
        Ok(put.await?)
    }

    /// Forgets a record.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be written.
    pub async fn forget_record(&self, network: [u8; 16], node: [u8; 32]) -> Result<(), StoreError> {
        let forgotten = self.write(move |connection| {
            let sql = "DELETE FROM address_records WHERE network = ?1 AND node = ?2";
            connection.execute(sql, params![network, node])?;
            Ok::<_, Fault>(())
        });
        Ok(forgotten.await?)
    }
}

/// The networks of the node, its own first.
pub(crate) fn networks(connection: &Connection) -> rusqlite::Result<Vec<KeptNetwork>> {
    let sql = "SELECT id, key_version, sealed FROM networks ORDER BY position";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([], |row| {
        Ok(KeptNetwork {
            id: row.get(0)?,
            key_version: row.get(1)?,
            sealed: row.get(2)?,
        })
    })?;
    rows.collect()
}

fn forget_strangers(connection: &Connection) -> rusqlite::Result<()> {
    let sql = "DELETE FROM peer_places WHERE key NOT IN (SELECT key FROM peer_node_keys)";
    connection.prepare_cached(sql)?.execute([]).map(drop)
}

fn place(row: &Row<'_>) -> rusqlite::Result<KeptPlace> {
    let text: String = row.get(1)?;
    let address = text.parse().map_err(|error| {
        let kind = rusqlite::types::Type::Text;
        rusqlite::Error::FromSqlConversionFailure(
            1,
            kind,
            Box::<std::net::AddrParseError>::new(error),
        )
    })?;
    Ok(KeptPlace {
        key: row.get(0)?,
        address,
        at: Timestamp(row.get(2)?),
    })
}
