//! Peers with their credentials and grants, groups, invites, API keys.

mod changes;
mod outbox;
mod rows;

use crate::{Store, audit, events, fault::Fault};
use alknet_core::{
    AuditRow, KeyId, PeerId,
    storage::{
        IdentityChange, IdentitySnapshot, IdentityStore, PeerAddresses, StoreError, Timestamp,
    },
};
use async_trait::async_trait;
use rusqlite::params;

#[async_trait]
impl IdentityStore for Store {
    async fn load(&self) -> Result<IdentitySnapshot, StoreError> {
        let loaded = self.read(|connection| Ok::<_, Fault>(rows::snapshot(connection)?));
        Ok(loaded.await?)
    }

    async fn apply(&self, change: IdentityChange, audit: AuditRow) -> Result<(), StoreError> {
        let applied = self.write(move |connection| {
            let applied = outbox::foresee(connection, &change)?;
            let (told, audit) = change.recorded(applied, audit);
            changes::apply(connection, change)?;
            audit::insert(connection, &audit)?;
            told.iter()
                .try_for_each(|event| events::insert(connection, event))?;
            Ok::<_, Fault>(())
        });
        Ok(applied.await?)
    }

    async fn seen(
        &self,
        peer: &PeerId,
        at: Timestamp,
        addresses: Option<PeerAddresses>,
    ) -> Result<(), StoreError> {
        let peer = peer.clone();
        let seen = self.write(move |connection| {
            let addresses = addresses.as_ref().map(rows::json).transpose()?;
            let sql = "UPDATE peers SET last_seen_at = ?2, addresses = coalesce(?3, addresses) WHERE id = ?1";
            let found = connection.prepare_cached(sql)?.execute(params![peer.as_str(), at.0, addresses])?;
            changes::some(found, || StoreError::NoPeer(peer.to_string()))
        });
        Ok(seen.await?)
    }

    async fn keys_used(&self, uses: Vec<(KeyId, Timestamp)>) -> Result<(), StoreError> {
        let noted = self.write(move |connection| changes::keys_used(connection, &uses));
        Ok(noted.await?)
    }
}
