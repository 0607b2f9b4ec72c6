//! In-memory adapters: for tests and for programs that embed a node without a
//! data directory. They keep the same rules as the durable ones.

use super::{
    API_KEYS_PER_PEER_MAX, ApiKeyRecord, Applied, Begin, IdempotencyScope, IdempotencyStore,
    IdentityChange, IdentitySnapshot, IdentityStore, ImportStore, InviteRecord, MemoryAuditLog,
    MemoryEventLog, PeerAddresses, PeerRecord, SshAuthority, StoreError, Timestamp,
};
use crate::{
    api_key::KeyId,
    audit::AuditRow,
    name::{GroupName, PeerId},
    role::Grants,
};
use async_trait::async_trait;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A panic elsewhere leaves plain data behind: it is read on.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Identities {
    peers: BTreeMap<PeerId, PeerRecord>,
    groups: BTreeMap<GroupName, Grants>,
    invites: BTreeMap<String, InviteRecord>,
    keys: BTreeMap<KeyId, ApiKeyRecord>,
}

/// Peers, grants, groups and invites in memory.
#[derive(Debug, Default)]
pub struct MemoryIdentityStore {
    state: Mutex<Identities>,
    audit: Arc<MemoryAuditLog>,
    events: Arc<MemoryEventLog>,
}

impl MemoryIdentityStore {
    /// A store whose changes are recorded in `audit`.
    #[must_use]
    pub fn new(audit: Arc<MemoryAuditLog>) -> Self {
        Self {
            state: Mutex::default(),
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

impl Identities {
    fn claim(&self, peer: &PeerRecord) -> Result<(), StoreError> {
        for other in self.peers.values().filter(|other| other.id != peer.id) {
            let key = other
                .node_keys
                .iter()
                .any(|held| peer.node_keys.iter().any(|new| new.key == held.key));
            let ssh_key = other.ssh_keys.iter().any(|held| {
                peer.ssh_keys
                    .iter()
                    .any(|new| new.fingerprint == held.fingerprint)
            });
            let same = |a: &SshAuthority, b: &SshAuthority| {
                (&a.fingerprint, &a.principal) == (&b.fingerprint, &b.principal)
            };
            let authority = other
                .ssh_authorities
                .iter()
                .any(|held| peer.ssh_authorities.iter().any(|new| same(new, held)));
            if key || ssh_key || authority {
                return Err(StoreError::CredentialTaken(other.id.clone()));
            }
        }
        Ok(())
    }

    fn add(&mut self, peer: PeerRecord) -> Result<(), StoreError> {
        if self.peers.contains_key(&peer.id) {
            return Err(StoreError::PeerExists(peer.id));
        }
        self.claim(&peer)?;
        self.peers.insert(peer.id.clone(), peer);
        Ok(())
    }

    fn peer(&mut self, id: &PeerId) -> Result<&mut PeerRecord, StoreError> {
        self.peers
            .get_mut(id)
            .ok_or_else(|| StoreError::NoPeer(id.to_string()))
    }

    fn add_key(
        &mut self,
        key: ApiKeyRecord,
        newcomer: Option<PeerRecord>,
    ) -> Result<(), StoreError> {
        if let Some(newcomer) = newcomer {
            self.add(newcomer)?;
        }
        self.peer(&key.peer)?;
        let of_peer = || self.keys.values().filter(|held| held.peer == key.peer);
        if of_peer().any(|held| held.name == key.name) || self.keys.contains_key(&key.id) {
            return Err(StoreError::KeyExists {
                peer: key.peer,
                name: key.name,
            });
        }
        if of_peer().count() >= API_KEYS_PER_PEER_MAX {
            return Err(StoreError::TooManyKeys(key.peer));
        }
        self.keys.insert(key.id, key);
        Ok(())
    }

    fn redeem(&mut self, invite: &str, peer: PeerRecord, now: Timestamp) -> Result<(), StoreError> {
        let found = self
            .invites
            .get(invite)
            .cloned()
            .ok_or_else(|| StoreError::NoInvite(invite.into()))?;
        if found.used_by.is_some() {
            let again = found.used_key.is_some() && found.used_key.as_ref() == peer.node_key();
            return if again {
                Ok(())
            } else {
                Err(StoreError::InviteUsed)
            };
        }
        if found.revoked {
            return Err(StoreError::InviteRevoked);
        }
        if found.expires_at <= now {
            return Err(StoreError::InviteExpired);
        }
        let (id, key) = (peer.id.clone(), peer.node_key().copied());
        self.add(peer)?;
        if let Some(found) = self.invites.get_mut(invite) {
            found.used_by = Some(id);
            found.used_key = key;
        }
        Ok(())
    }

    /// What a change that led to `next` did.
    fn applied(&self, next: &Self, change: &IdentityChange) -> Applied {
        let key = |state: &Self, id| {
            state
                .peers
                .get(id)
                .and_then(|peer| peer.node_key().copied())
        };
        match change {
            IdentityChange::UpdatePeer(peer) if key(self, &peer.id) != key(next, &peer.id) => {
                Applied::Rotated
            }
            // Whatever replaces a whole record counts as a change.
            IdentityChange::UpdatePeer(_)
            | IdentityChange::PutGroup { .. }
            | IdentityChange::AddInvite(_) => Applied::Changed,
            _ if self == next => Applied::Unchanged,
            _ => Applied::Changed,
        }
    }

    fn apply(&mut self, change: IdentityChange) -> Result<(), StoreError> {
        match change {
            IdentityChange::AddPeer(peer) => self.add(peer)?,
            IdentityChange::UpdatePeer(peer) => {
                self.claim(&peer)?;
                let held = self.peer(&peer.id)?;
                *held = PeerRecord {
                    created_at: held.created_at,
                    ..peer
                };
            }
            IdentityChange::RemovePeer(id) => {
                self.peers
                    .remove(&id)
                    .ok_or_else(|| StoreError::NoPeer(id.to_string()))?;
                self.keys.retain(|_, key| key.peer != id);
            }
            IdentityChange::ChangeGrants { peer, add, remove } => {
                let held = self.peer(&peer)?;
                for target in remove.iter() {
                    held.grants.remove(target);
                }
                for target in add.iter() {
                    held.grants.add(target.clone());
                }
            }
            IdentityChange::PutGroup { group, grants } => drop(self.groups.insert(group, grants)),
            IdentityChange::RemoveGroup(group) => {
                self.groups
                    .remove(&group)
                    .ok_or_else(|| StoreError::NoGroup(group.to_string()))?;
                for peer in self.peers.values_mut() {
                    peer.groups.remove(&group);
                }
            }
            IdentityChange::AddKey { key, newcomer } => self.add_key(key, newcomer)?,
            IdentityChange::RemoveKey(id) => {
                self.keys.remove(&id).ok_or(StoreError::NoKey(id))?;
            }
            IdentityChange::AddInvite(invite) => {
                drop(self.invites.insert(invite.id.clone(), invite))
            }
            IdentityChange::RevokeInvite(id) => {
                self.invites
                    .get_mut(&id)
                    .ok_or(StoreError::NoInvite(id))?
                    .revoked = true;
            }
            IdentityChange::RedeemInvite { invite, peer, now } => {
                self.redeem(&invite, peer, now)?
            }
        }
        Ok(())
    }
}

#[async_trait]
impl IdentityStore for MemoryIdentityStore {
    async fn load(&self) -> Result<IdentitySnapshot, StoreError> {
        let state = lock(&self.state);
        Ok(IdentitySnapshot {
            peers: state.peers.values().cloned().collect(),
            groups: state
                .groups
                .iter()
                .map(|(group, grants)| (group.clone(), grants.clone()))
                .collect(),
            invites: state.invites.values().cloned().collect(),
            keys: state.keys.values().cloned().collect(),
        })
    }

    async fn apply(&self, change: IdentityChange, audit: AuditRow) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        let mut next = state.clone();
        next.apply(change.clone())?;
        let (events, row) = change.recorded(state.applied(&next, &change), audit);
        *state = next;
        self.audit.push(row);
        self.events.push(events);
        Ok(())
    }

    async fn seen(
        &self,
        peer: &PeerId,
        at: Timestamp,
        addresses: Option<PeerAddresses>,
    ) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        let held = state.peer(peer)?;
        held.last_seen_at = Some(at);
        if let Some(addresses) = addresses {
            held.addresses = addresses;
        }
        Ok(())
    }

    async fn keys_used(&self, uses: Vec<(KeyId, Timestamp)>) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        for (id, at) in uses {
            if let Some(key) = state.keys.get_mut(&id) {
                key.last_used_at = Some(at);
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Started {
    input_hash: [u8; 32],
    run: u64,
    at: Timestamp,
    outcome: Option<Vec<u8>>,
}

/// Outcomes of keyed calls in memory.
#[derive(Debug, Default)]
pub struct MemoryIdempotencyStore(Mutex<HashMap<IdempotencyScope, Started>>);

#[async_trait]
impl IdempotencyStore for MemoryIdempotencyStore {
    async fn begin(
        &self,
        scope: &IdempotencyScope,
        input_hash: [u8; 32],
        run: u64,
        now: Timestamp,
    ) -> Result<Begin, StoreError> {
        let mut calls = lock(&self.0);
        Ok(match calls.get(scope) {
            None => {
                calls.insert(
                    scope.clone(),
                    Started {
                        input_hash,
                        run,
                        at: now,
                        outcome: None,
                    },
                );
                Begin::Fresh
            }
            Some(started) if started.input_hash != input_hash => Begin::OtherInput,
            Some(Started {
                outcome: Some(outcome),
                ..
            }) => Begin::Done(outcome.clone()),
            Some(started) if started.run == run => Begin::Running,
            Some(_) => Begin::Unknown,
        })
    }

    async fn finish(&self, scope: &IdempotencyScope, outcome: Vec<u8>) -> Result<(), StoreError> {
        if let Some(started) = lock(&self.0).get_mut(scope) {
            started.outcome = Some(outcome);
        }
        Ok(())
    }

    async fn count(&self, caller: &str) -> Result<u64, StoreError> {
        let calls = lock(&self.0);
        Ok(calls.keys().filter(|scope| scope.caller == caller).count() as u64)
    }

    async fn abandon(&self, scope: &IdempotencyScope) -> Result<(), StoreError> {
        lock(&self.0).remove(scope);
        Ok(())
    }

    async fn prune(&self, before: Timestamp) -> Result<u64, StoreError> {
        let mut calls = lock(&self.0);
        let held = calls.len();
        calls.retain(|_, started| started.at >= before);
        Ok((held - calls.len()) as u64)
    }
}

/// Catalogues in memory.
#[derive(Debug, Default)]
pub struct MemoryImportStore(Mutex<HashMap<String, (String, Vec<u8>)>>);

#[async_trait]
impl ImportStore for MemoryImportStore {
    async fn catalogue(&self, import: &str) -> Result<Option<(String, Vec<u8>)>, StoreError> {
        Ok(lock(&self.0).get(import).cloned())
    }

    async fn put_catalogue(
        &self,
        import: &str,
        revision: &str,
        text: Vec<u8>,
    ) -> Result<(), StoreError> {
        lock(&self.0).insert(import.into(), (revision.into(), text));
        Ok(())
    }

    async fn remove_catalogue(&self, import: &str) -> Result<(), StoreError> {
        lock(&self.0).remove(import);
        Ok(())
    }
}
