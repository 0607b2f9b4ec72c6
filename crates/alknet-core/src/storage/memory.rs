//! In-memory adapters: for tests and for programs that embed a node without a
//! data directory. They keep the same rules as the durable ones.

use super::{
    AuditFilter, AuditLog, Begin, IdempotencyScope, IdempotencyStore, IdentityChange,
    IdentitySnapshot, IdentityStore, ImportStore, InviteRecord, PeerAddresses, PeerRecord,
    StoreError, Timestamp,
};
use crate::{
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
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Debug, Default)]
struct Identities {
    peers: BTreeMap<PeerId, PeerRecord>,
    groups: BTreeMap<GroupName, Grants>,
    invites: BTreeMap<String, InviteRecord>,
}

/// Peers, grants, groups and invites in memory.
#[derive(Debug, Default)]
pub struct MemoryIdentityStore {
    state: Mutex<Identities>,
    audit: Arc<MemoryAuditLog>,
}

impl MemoryIdentityStore {
    /// A store whose changes are recorded in `audit`.
    #[must_use]
    pub fn new(audit: Arc<MemoryAuditLog>) -> Self {
        Self {
            state: Mutex::default(),
            audit,
        }
    }
}

impl Identities {
    fn claim(&self, peer: &PeerRecord) -> Result<(), StoreError> {
        for other in self.peers.values().filter(|other| other.id != peer.id) {
            let key = other
                .node_keys
                .iter()
                .any(|held| peer.node_keys.iter().any(|new| new.key == held.key));
            if key || !other.ssh_keys.is_disjoint(&peer.ssh_keys) {
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
        })
    }

    async fn apply(&self, change: IdentityChange, audit: AuditRow) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        let mut next = state.clone();
        next.apply(change)?;
        *state = next;
        self.audit.push(audit);
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
}

/// Audit rows in memory.
#[derive(Debug, Default)]
pub struct MemoryAuditLog(Mutex<Vec<AuditRow>>);

impl MemoryAuditLog {
    fn push(&self, row: AuditRow) {
        lock(&self.0).push(row);
    }
}

impl AuditFilter {
    /// Rows asked for: 100 if not said, at most 1,000.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit.unwrap_or(100).min(1_000) as usize
    }

    /// Whether a row with this number is wanted.
    #[must_use]
    pub fn matches(&self, number: u64, row: &AuditRow) -> bool {
        let time = |text: &Option<String>| text.as_deref().and_then(Timestamp::parse);
        self.caller.as_ref().is_none_or(|want| *want == row.caller)
            && self
                .operation
                .as_ref()
                .is_none_or(|want| match want.strip_suffix('*') {
                    Some(prefix) => row.operation.starts_with(prefix),
                    None => *want == row.operation,
                })
            && self
                .outcome
                .as_ref()
                .is_none_or(|want| match want.as_str() {
                    "refused" => row.outcome.as_str() != "ok",
                    want => want == row.outcome.as_str(),
                })
            && self
                .call_id
                .as_ref()
                .is_none_or(|want| *want == row.call_id || Some(want) == row.parent_id.as_ref())
            && time(&self.since).is_none_or(|since| row.at >= since)
            && time(&self.until).is_none_or(|until| row.at < until)
            && self.after.is_none_or(|after| number > after)
            && self.before.is_none_or(|before| number < before)
    }
}

#[async_trait]
impl AuditLog for MemoryAuditLog {
    async fn append(&self, rows: Vec<AuditRow>) -> Result<(), StoreError> {
        lock(&self.0).extend(rows);
        Ok(())
    }

    async fn list(&self, filter: &AuditFilter) -> Result<Vec<(u64, AuditRow)>, StoreError> {
        let rows = lock(&self.0);
        let numbered = rows
            .iter()
            .enumerate()
            .rev()
            .map(|(at, row)| (at as u64 + 1, row));
        Ok(numbered
            .filter(|(number, row)| filter.matches(*number, row))
            .take(filter.limit())
            .map(|(n, row)| (n, row.clone()))
            .collect())
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
