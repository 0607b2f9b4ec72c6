//! Rows read back as records.

use alknet_core::{
    GrantTarget, Grants, GroupName, KeyId, PeerId,
    storage::{
        ApiKeyRecord, IdentitySnapshot, InviteRecord, NodeKey, PeerAddresses, PeerRecord,
        SshAuthority, SshKey, Timestamp,
    },
};
use rusqlite::{Connection, OptionalExtension, Row, types::Type};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::{BTreeMap, BTreeSet};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A column's text, parsed.
pub(super) fn parsed<T, E: Into<Failure>>(
    row: &Row<'_>,
    index: usize,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> rusqlite::Result<T> {
    let text = row.get_ref(index)?.as_str()?;
    parse(text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(index, Type::Text, error.into()))
}

/// A column's text, parsed unless it is NULL.
fn parsed_if_any<T, E: Into<Failure>>(
    row: &Row<'_>,
    index: usize,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> rusqlite::Result<Option<T>> {
    if row.get_ref(index)? == rusqlite::types::ValueRef::Null {
        return Ok(None);
    }
    parsed(row, index, parse).map(Some)
}

pub(super) fn json<T: Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn from_json<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    serde_json::from_str(text)
}

fn time(row: &Row<'_>, index: usize) -> rusqlite::Result<Timestamp> {
    row.get(index).map(Timestamp)
}

fn time_if_any(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<Timestamp>> {
    row.get::<_, Option<i64>>(index).map(|at| at.map(Timestamp))
}

/// Everything, in the order of ids and names. Runs in one read transaction.
pub(super) fn snapshot(connection: &Connection) -> rusqlite::Result<IdentitySnapshot> {
    let mut peers = peers(connection)?;
    let node_keys = "SELECT peer, key, until FROM peer_node_keys ORDER BY peer, position";
    for_each_peer(connection, node_keys, &mut peers, |peer, row| {
        peer.node_keys.push(NodeKey {
            key: row.get(1)?,
            until: time_if_any(row, 2)?,
        });
        Ok(())
    })?;
    for_each_peer(
        connection,
        "SELECT peer, fingerprint, public_key, comment FROM peer_ssh_keys",
        &mut peers,
        |peer, row| {
            peer.ssh_keys.insert(SshKey {
                fingerprint: row.get(1)?,
                public_key: row.get(2)?,
                comment: row.get(3)?,
            });
            Ok(())
        },
    )?;
    for_each_peer(
        connection,
        "SELECT peer, fingerprint, principal, public_key, comment FROM peer_ssh_cas",
        &mut peers,
        |peer, row| {
            peer.ssh_authorities.insert(SshAuthority {
                fingerprint: row.get(1)?,
                principal: row.get(2)?,
                public_key: row.get(3)?,
                comment: row.get(4)?,
            });
            Ok(())
        },
    )?;
    for_each_peer(
        connection,
        "SELECT peer, group_name FROM peer_groups",
        &mut peers,
        |peer, row| {
            peer.groups.insert(parsed(row, 1, GroupName::parse)?);
            Ok(())
        },
    )?;
    let grants = "SELECT peer, target FROM grants ORDER BY peer, position";
    for_each_peer(connection, grants, &mut peers, |peer, row| {
        peer.grants.add(parsed(row, 1, GrantTarget::parse)?);
        Ok(())
    })?;
    Ok(IdentitySnapshot {
        peers: peers.into_values().collect(),
        groups: groups(connection)?,
        invites: invites(connection)?,
        keys: keys(connection)?,
    })
}

/// Hands each row to the peer that its first column names.
fn for_each_peer(
    connection: &Connection,
    sql: &str,
    peers: &mut BTreeMap<PeerId, PeerRecord>,
    mut add: impl FnMut(&mut PeerRecord, &Row<'_>) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if let Some(peer) = peers.get_mut(&parsed(row, 0, PeerId::parse)?) {
            add(peer, row)?;
        }
    }
    Ok(())
}

/// The peers' own rows, without what hangs on them.
fn peers(connection: &Connection) -> rusqlite::Result<BTreeMap<PeerId, PeerRecord>> {
    let sql = "SELECT id, display_name, enabled, expires_at, created_at, last_seen_at, addresses FROM peers";
    let mut statement = connection.prepare_cached(sql)?;
    let peers = statement.query_map([], |row| {
        let id = parsed(row, 0, PeerId::parse)?;
        let peer = PeerRecord {
            id: id.clone(),
            display_name: row.get(1)?,
            groups: BTreeSet::new(),
            grants: Grants::default(),
            enabled: row.get(2)?,
            expires_at: time_if_any(row, 3)?,
            created_at: time(row, 4)?,
            last_seen_at: time_if_any(row, 5)?,
            node_keys: Vec::new(),
            ssh_keys: BTreeSet::new(),
            ssh_authorities: BTreeSet::new(),
            addresses: parsed(row, 6, from_json::<PeerAddresses>)?,
        };
        Ok((id, peer))
    })?;
    peers.collect()
}

fn groups(connection: &Connection) -> rusqlite::Result<Vec<(GroupName, Grants)>> {
    let sql = "SELECT name, target FROM groups LEFT JOIN group_grants ON group_name = name ORDER BY name, position";
    let mut statement = connection.prepare_cached(sql)?;
    let mut groups: BTreeMap<GroupName, Grants> = BTreeMap::new();
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let grants = groups.entry(parsed(row, 0, GroupName::parse)?).or_default();
        if let Some(target) = parsed_if_any(row, 1, GrantTarget::parse)? {
            grants.add(target);
        }
    }
    Ok(groups.into_iter().collect())
}

fn keys(connection: &Connection) -> rusqlite::Result<Vec<ApiKeyRecord>> {
    let sql = "SELECT id, secret_hash, peer, name, grants, created_at, expires_at, last_used_at FROM api_keys ORDER BY id";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([], |row| {
        Ok(ApiKeyRecord {
            id: parsed(row, 0, KeyId::parse)?,
            secret_hash: row.get(1)?,
            peer: parsed(row, 2, PeerId::parse)?,
            name: row.get(3)?,
            grants: parsed_if_any(row, 4, from_json::<Grants>)?,
            created_at: time(row, 5)?,
            expires_at: time_if_any(row, 6)?,
            last_used_at: time_if_any(row, 7)?,
        })
    })?;
    rows.collect()
}

/// What a peer was given itself.
pub(super) fn grants_of(connection: &Connection, peer: &PeerId) -> rusqlite::Result<Grants> {
    let mut statement =
        connection.prepare_cached("SELECT target FROM grants WHERE peer = ?1 ORDER BY position")?;
    let rows = statement.query_map([peer.as_str()], |row| parsed(row, 0, GrantTarget::parse))?;
    rows.collect()
}

const INVITES: &str = "SELECT id, secret_hash, name, grants, created_at, expires_at, access_for_ms,
    used_by, used_key, revoked FROM invites";

fn invites(connection: &Connection) -> rusqlite::Result<Vec<InviteRecord>> {
    let mut statement = connection.prepare_cached(&format!("{INVITES} ORDER BY id"))?;
    let rows = statement.query_map([], read_invite)?;
    rows.collect()
}

/// One invite.
pub(super) fn invite(connection: &Connection, id: &str) -> rusqlite::Result<Option<InviteRecord>> {
    connection
        .prepare_cached(&format!("{INVITES} WHERE id = ?1"))?
        .query_row([id], read_invite)
        .optional()
}

fn read_invite(row: &Row<'_>) -> rusqlite::Result<InviteRecord> {
    Ok(InviteRecord {
        id: row.get(0)?,
        secret_hash: row.get(1)?,
        name: parsed_if_any(row, 2, PeerId::parse)?,
        grants: parsed(row, 3, from_json::<Grants>)?,
        created_at: time(row, 4)?,
        expires_at: time(row, 5)?,
        access_for_ms: row.get::<_, Option<i64>>(6)?.map(i64::cast_unsigned),
        used_by: parsed_if_any(row, 7, PeerId::parse)?,
        used_key: row.get(8)?,
        revoked: row.get(9)?,
    })
}
