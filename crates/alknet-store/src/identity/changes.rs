//! Changes of who may do what. Each runs in a savepoint of its own, so a
//! change that fails halfway leaves nothing.

use super::rows;
use crate::fault::Fault;
use alknet_core::{
    Grants, GroupName, KeyId, PeerId,
    storage::{
        API_KEYS_PER_PEER_MAX, ApiKeyRecord, IdentityChange, InviteRecord, PeerRecord, StoreError,
        Timestamp,
    },
};
use rusqlite::{Connection, OptionalExtension, params};

/// A kind of change that core has and this adapter does not know.
#[derive(Debug, thiserror::Error)]
#[error("the store cannot apply this change")]
struct UnknownChange;

pub(super) fn apply(connection: &Connection, change: IdentityChange) -> Result<(), Fault> {
    match change {
        IdentityChange::AddPeer(peer) => add_peer(connection, &peer),
        IdentityChange::UpdatePeer(peer) => update_peer(connection, &peer),
        IdentityChange::RemovePeer(id) => {
            // Credentials, grants and memberships go with the row.
            let found = connection.execute("DELETE FROM peers WHERE id = ?1", [id.as_str()])?;
            some(found, || StoreError::NoPeer(id.to_string()))
        }
        IdentityChange::ChangeGrants { peer, add, remove } => {
            change_grants(connection, &peer, &add, &remove)
        }
        IdentityChange::PutGroup { group, grants } => put_group(connection, &group, &grants),
        IdentityChange::RemoveGroup(group) => {
            connection.execute(
                "DELETE FROM peer_groups WHERE group_name = ?1",
                [group.as_str()],
            )?;
            let found =
                connection.execute("DELETE FROM groups WHERE name = ?1", [group.as_str()])?;
            some(found, || StoreError::NoGroup(group.to_string()))
        }
        IdentityChange::AddKey { key, newcomer } => add_key(connection, &key, newcomer.as_ref()),
        IdentityChange::RemoveKey(id) => {
            let found = connection.execute("DELETE FROM api_keys WHERE id = ?1", [id.as_str()])?;
            some(found, || StoreError::NoKey(id))
        }
        IdentityChange::AddInvite(invite) => put_invite(connection, &invite),
        IdentityChange::RevokeInvite(id) => {
            let found =
                connection.execute("UPDATE invites SET revoked = 1 WHERE id = ?1", [&id])?;
            some(found, || StoreError::NoInvite(id))
        }
        IdentityChange::RedeemInvite { invite, peer, now } => {
            redeem(connection, &invite, &peer, now)
        }
        _ => Err(StoreError::backend(UnknownChange).into()),
    }
}

/// Fails if a statement found no row to change.
pub(super) fn some(found: usize, missing: impl FnOnce() -> StoreError) -> Result<(), Fault> {
    if found == 0 {
        Err(missing().into())
    } else {
        Ok(())
    }
}

fn exists(connection: &Connection, peer: &PeerId) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM peers WHERE id = ?1")?
        .exists([peer.as_str()])
}

fn add_peer(connection: &Connection, peer: &PeerRecord) -> Result<(), Fault> {
    if exists(connection, &peer.id)? {
        return Err(StoreError::PeerExists(peer.id.clone()).into());
    }
    let sql = "INSERT INTO peers (id, display_name, enabled, expires_at, created_at, last_seen_at, addresses)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    connection.execute(
        sql,
        params![
            peer.id.as_str(),
            peer.display_name,
            peer.enabled,
            peer.expires_at.map(|at| at.0),
            peer.created_at.0,
            peer.last_seen_at.map(|at| at.0),
            rows::json(&peer.addresses)?,
        ],
    )?;
    put_belongings(connection, peer)
}

fn update_peer(connection: &Connection, peer: &PeerRecord) -> Result<(), Fault> {
    let sql = "UPDATE peers SET display_name = ?2, enabled = ?3, expires_at = ?4, last_seen_at = ?5, addresses = ?6
        WHERE id = ?1";
    let found = connection.execute(
        sql,
        params![
            peer.id.as_str(),
            peer.display_name,
            peer.enabled,
            peer.expires_at.map(|at| at.0),
            peer.last_seen_at.map(|at| at.0),
            rows::json(&peer.addresses)?,
        ],
    )?;
    some(found, || StoreError::NoPeer(peer.id.to_string()))?;
    for table in [
        "peer_node_keys",
        "peer_ssh_keys",
        "peer_ssh_cas",
        "peer_groups",
    ] {
        connection.execute(
            &format!("DELETE FROM {table} WHERE peer = ?1"),
            [peer.id.as_str()],
        )?;
    }
    put_belongings(connection, peer)
}

/// Writes what hangs on a peer's row, except that grants replace those held.
fn put_belongings(connection: &Connection, peer: &PeerRecord) -> Result<(), Fault> {
    let id = peer.id.as_str();
    for (position, node) in (0_i64..).zip(&peer.node_keys) {
        let holder = "SELECT peer FROM peer_node_keys WHERE key = ?1";
        free(connection, holder, params![node.key])?;
        let sql = "INSERT INTO peer_node_keys (key, peer, position, until) VALUES (?1, ?2, ?3, ?4)";
        connection.execute(
            sql,
            params![node.key, id, position, node.until.map(|at| at.0)],
        )?;
    }
    for key in &peer.ssh_keys {
        free(
            connection,
            "SELECT peer FROM peer_ssh_keys WHERE fingerprint = ?1",
            params![key.fingerprint],
        )?;
        let sql = "INSERT INTO peer_ssh_keys (fingerprint, peer, public_key, comment) VALUES (?1, ?2, ?3, ?4)";
        connection.execute(
            sql,
            params![key.fingerprint, id, key.public_key, key.comment],
        )?;
    }
    for held in &peer.ssh_authorities {
        free(
            connection,
            "SELECT peer FROM peer_ssh_cas WHERE fingerprint = ?1 AND principal = ?2",
            params![held.fingerprint, held.principal],
        )?;
        let sql = "INSERT INTO peer_ssh_cas (fingerprint, principal, peer, public_key, comment)
            VALUES (?1, ?2, ?3, ?4, ?5)";
        let row = params![
            held.fingerprint,
            held.principal,
            id,
            held.public_key,
            held.comment
        ];
        connection.execute(sql, row)?;
    }
    for group in &peer.groups {
        connection.execute(
            "INSERT INTO peer_groups (peer, group_name) VALUES (?1, ?2)",
            [id, group.as_str()],
        )?;
    }
    put_grants(connection, &peer.id, &peer.grants)
}

/// Fails if the credential that `holder` looks up belongs to somebody.
fn free(
    connection: &Connection,
    holder: &str,
    credential: impl rusqlite::Params,
) -> Result<(), Fault> {
    let held = connection
        .prepare_cached(holder)?
        .query_row(credential, |row| rows::parsed(row, 0, PeerId::parse));
    match held.optional()? {
        Some(peer) => Err(StoreError::CredentialTaken(peer).into()),
        None => Ok(()),
    }
}

fn put_grants(connection: &Connection, peer: &PeerId, grants: &Grants) -> Result<(), Fault> {
    connection.execute("DELETE FROM grants WHERE peer = ?1", [peer.as_str()])?;
    let mut insert = connection
        .prepare_cached("INSERT INTO grants (peer, position, target) VALUES (?1, ?2, ?3)")?;
    for (position, target) in (0_i64..).zip(grants.iter()) {
        insert.execute(params![peer.as_str(), position, target.to_string()])?;
    }
    Ok(())
}

fn change_grants(
    connection: &Connection,
    peer: &PeerId,
    add: &Grants,
    remove: &Grants,
) -> Result<(), Fault> {
    if !exists(connection, peer)? {
        return Err(StoreError::NoPeer(peer.to_string()).into());
    }
    let mut held = rows::grants_of(connection, peer)?;
    for target in remove.iter() {
        held.remove(target);
    }
    for target in add.iter() {
        held.add(target.clone());
    }
    put_grants(connection, peer, &held)
}

fn put_group(connection: &Connection, group: &GroupName, grants: &Grants) -> Result<(), Fault> {
    connection.execute(
        "INSERT INTO groups (name) VALUES (?1) ON CONFLICT DO NOTHING",
        [group.as_str()],
    )?;
    connection.execute(
        "DELETE FROM group_grants WHERE group_name = ?1",
        [group.as_str()],
    )?;
    for (position, target) in (0_i64..).zip(grants.iter()) {
        let sql = "INSERT INTO group_grants (group_name, position, target) VALUES (?1, ?2, ?3)";
        connection.execute(sql, params![group.as_str(), position, target.to_string()])?;
    }
    Ok(())
}

/// Adds a key, with the peer whose only credential it is if there is one.
fn add_key(
    connection: &Connection,
    key: &ApiKeyRecord,
    newcomer: Option<&PeerRecord>,
) -> Result<(), Fault> {
    if let Some(newcomer) = newcomer {
        add_peer(connection, newcomer)?;
    }
    if !exists(connection, &key.peer)? {
        return Err(StoreError::NoPeer(key.peer.to_string()).into());
    }
    let taken = "SELECT 1 FROM api_keys WHERE id = ?1 OR (peer = ?2 AND name = ?3)";
    let is_taken = connection.prepare_cached(taken)?.exists(params![
        key.id.as_str(),
        key.peer.as_str(),
        key.name
    ])?;
    if is_taken {
        return Err(StoreError::KeyExists {
            peer: key.peer.clone(),
            name: key.name.clone(),
        }
        .into());
    }
    let count = "SELECT count(*) FROM api_keys WHERE peer = ?1";
    let held: i64 = connection.query_row(count, [key.peer.as_str()], |row| row.get(0))?;
    if usize::try_from(held).is_ok_and(|held| held >= API_KEYS_PER_PEER_MAX) {
        return Err(StoreError::TooManyKeys(key.peer.clone()).into());
    }
    let sql = "INSERT INTO api_keys
            (id, secret_hash, peer, name, grants, created_at, expires_at, last_used_at)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    connection.execute(
        sql,
        params![
            key.id.as_str(),
            key.secret_hash,
            key.peer.as_str(),
            key.name,
            key.grants.as_ref().map(rows::json).transpose()?,
            key.created_at.0,
            key.expires_at.map(|at| at.0),
            key.last_used_at.map(|at| at.0),
        ],
    )?;
    Ok(())
}

/// Notes when keys were last used; those that are gone are passed over.
pub(super) fn keys_used(connection: &Connection, uses: &[(KeyId, Timestamp)]) -> Result<(), Fault> {
    let mut statement =
        connection.prepare_cached("UPDATE api_keys SET last_used_at = ?2 WHERE id = ?1")?;
    for (id, at) in uses {
        statement.execute(params![id.as_str(), at.0])?;
    }
    Ok(())
}

fn put_invite(connection: &Connection, invite: &InviteRecord) -> Result<(), Fault> {
    let sql = "INSERT OR REPLACE INTO invites
            (id, secret_hash, name, grants, created_at, expires_at, access_for_ms, used_by, used_key, revoked)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    connection.prepare_cached(sql)?.execute(params![
        invite.id,
        invite.secret_hash,
        invite.name.as_ref().map(PeerId::as_str),
        rows::json(&invite.grants)?,
        invite.created_at.0,
        invite.expires_at.0,
        invite.access_for_ms.map(u64::cast_signed),
        invite.used_by.as_ref().map(PeerId::as_str),
        invite.used_key,
        invite.revoked,
    ])?;
    Ok(())
}

fn redeem(
    connection: &Connection,
    id: &str,
    peer: &PeerRecord,
    now: Timestamp,
) -> Result<(), Fault> {
    let found = rows::invite(connection, id)?.ok_or_else(|| StoreError::NoInvite(id.into()))?;
    if found.used_by.is_some() {
        // A newcomer that never heard the answer asks again.
        let again = found.used_key.is_some() && found.used_key.as_ref() == peer.node_key();
        return if again {
            Ok(())
        } else {
            Err(StoreError::InviteUsed.into())
        };
    }
    if found.revoked {
        return Err(StoreError::InviteRevoked.into());
    }
    if found.expires_at <= now {
        return Err(StoreError::InviteExpired.into());
    }
    add_peer(connection, peer)?;
    let sql = "UPDATE invites SET used_by = ?2, used_key = ?3 WHERE id = ?1";
    connection.execute(sql, params![id, peer.id.as_str(), peer.node_key()])?;
    Ok(())
}
