//! The events that go out with a change: no change without its event, no
//! event without its change.

use super::rows;
use alknet_core::storage::{Applied, IdentityChange};
use rusqlite::{Connection, OptionalExtension, params};

/// What `change` is about to do, asked before it is applied. A change that is
/// refused afterwards leaves neither itself nor its events.
pub(super) fn foresee(
    connection: &Connection,
    change: &IdentityChange,
) -> rusqlite::Result<Applied> {
    let unchanged = match change {
        IdentityChange::UpdatePeer(peer) => {
            let held = current_key(connection, peer.id.as_str())?;
            return Ok(match held.as_ref() == peer.node_key() {
                true => Applied::Changed,
                false => Applied::Rotated,
            });
        }
        IdentityChange::ChangeGrants { peer, add, remove } => {
            let held = rows::grants_of(connection, peer)?;
            let mut next = held.clone();
            for target in remove.iter() {
                next.remove(target);
            }
            for target in add.iter() {
                next.add(target.clone());
            }
            next == held
        }
        IdentityChange::RevokeInvite(id) => {
            rows::invite(connection, id)?.is_some_and(|invite| invite.revoked)
        }
        IdentityChange::RedeemInvite { invite, .. } => {
            rows::invite(connection, invite)?.is_some_and(|invite| invite.used_by.is_some())
        }
        _ => false,
    };
    Ok(match unchanged {
        true => Applied::Unchanged,
        false => Applied::Changed,
    })
}

fn current_key(connection: &Connection, peer: &str) -> rusqlite::Result<Option<[u8; 32]>> {
    let sql = "SELECT key FROM peer_node_keys WHERE peer = ?1 AND until IS NULL ORDER BY position";
    connection
        .prepare_cached(sql)?
        .query_row(params![peer], |row| row.get(0))
        .optional()
}
