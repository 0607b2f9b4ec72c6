//! What a store tells about itself to whoever looks at it from outside.

use crate::{
    Store,
    fault::Fault,
    open::{self, OpenStoreError},
};
use alknet_core::storage::{StoreError, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};
use std::path::Path;

/// Where `meta` keeps the node that the store belongs to.
const NODE: &str = "node";

/// Counts of a store, all of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreFacts {
    /// Its format.
    pub format: u32,
    /// The node id of the node that last ran with it.
    pub node: Option<String>,
    /// Peers, the owner not included.
    pub peers: u64,
    /// Peers whose access has expired.
    pub peers_expired: Vec<String>,
    /// Peers whose access expires before the time that was asked for.
    pub peers_expiring: Vec<String>,
    /// API keys.
    pub keys: u64,
    /// API keys that have expired, as `PEER/NAME`.
    pub keys_expired: Vec<String>,
    /// API keys that expire before the time that was asked for.
    pub keys_expiring: Vec<String>,
    /// Invites that can still be used.
    pub invites_open: u64,
    /// Bans in force.
    pub bans: u64,
    /// Starts after a crash since the time that was asked for.
    pub unclean_starts: u64,
}

impl Store {
    /// Looks at the store at `path`, which may be in use: what has expired
    /// `now`, what will `soon`, and which starts `since` followed a crash.
    /// Blocks.
    ///
    /// # Errors
    ///
    /// [`OpenStoreError`] if it cannot be read.
    pub fn facts(
        path: &Path,
        now: Timestamp,
        soon: Timestamp,
        since: Timestamp,
    ) -> Result<StoreFacts, OpenStoreError> {
        let mut existing = open::existing(path)?;
        let sqlite = |source| open::sqlite_error(path, source);
        let format = existing.format;
        if format == 0 {
            return Ok(StoreFacts::default());
        }
        let moment = existing.connection.transaction().map_err(sqlite)?;
        facts(&moment, format, now, soon, since).map_err(sqlite)
    }

    /// Notes durably whose store this is, if that is news: the node id as 64
    /// hexadecimal digits.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be written.
    pub async fn note_node(&self, node: &str) -> Result<(), StoreError> {
        let known = self
            .read(|connection| Ok::<_, Fault>(noted(connection)?))
            .await?;
        if known.as_deref() == Some(node) {
            return Ok(());
        }
        let node = node.to_owned();
        let written = self.write(move |connection| {
            let sql = "INSERT INTO meta (key, value) VALUES (?1, ?2)
                ON CONFLICT (key) DO UPDATE SET value = excluded.value";
            connection.execute(sql, params![NODE, node])?;
            Ok::<_, Fault>(())
        });
        Ok(written.await?)
    }
}

fn noted(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT value FROM meta WHERE key = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_row([NODE], |row| row.get(0)).optional()
}

fn facts(
    connection: &Connection,
    format: u32,
    now: Timestamp,
    soon: Timestamp,
    since: Timestamp,
) -> rusqlite::Result<StoreFacts> {
    let count = |sql: &str, at: i64| {
        let count = connection.query_row(sql, [at], |row| row.get::<_, i64>(0));
        count.map(i64::cast_unsigned)
    };
    let names = |sql: &str, from: i64, to: i64| {
        let mut statement = connection.prepare(sql)?;
        let names = statement.query_map([from, to], |row| row.get(0))?;
        names.collect::<rusqlite::Result<Vec<String>>>()
    };
    let peers = "SELECT id FROM peers WHERE expires_at > ?1 AND expires_at <= ?2 ORDER BY id";
    let mut facts = StoreFacts {
        format,
        node: noted(connection)?,
        peers: count(
            "SELECT count(*) FROM peers WHERE id <> 'owner' AND ?1 = ?1",
            0,
        )?,
        peers_expired: names(peers, i64::MIN, now.0)?,
        peers_expiring: names(peers, now.0, soon.0)?,
        invites_open: count(
            "SELECT count(*) FROM invites
                WHERE used_by IS NULL AND revoked = 0 AND expires_at > ?1",
            now.0,
        )?,
        unclean_starts: count(
            "SELECT count(*) FROM audit
                WHERE at > ?1 AND operation = 'node/start' AND outcome = 'unclean-start'",
            since.0,
        )?,
        ..StoreFacts::default()
    };
    // Formats before have neither.
    if format >= 3 {
        let keys = "SELECT peer || '/' || name FROM api_keys
            WHERE expires_at > ?1 AND expires_at <= ?2 ORDER BY peer, name";
        facts.keys = count("SELECT count(*) FROM api_keys WHERE ?1 = ?1", 0)?;
        facts.keys_expired = names(keys, i64::MIN, now.0)?;
        facts.keys_expiring = names(keys, now.0, soon.0)?;
        facts.bans = count(
            "SELECT count(*) FROM bans WHERE until IS NULL OR until > ?1",
            now.0,
        )?;
    }
    Ok(facts)
}
