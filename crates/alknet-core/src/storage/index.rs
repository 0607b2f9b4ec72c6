//! The identities of the hot path: an in-memory index over an
//! [`IdentityStore`], rebuilt after every change.

use super::{
    ApiKeyRecord, IdentityChange, IdentitySnapshot, IdentityStore, PeerAddresses, PeerRecord,
    StoreError, Timestamp,
};
use crate::{
    api_key::KeyId,
    audit::AuditRow,
    identity::{Credential, Identity, IdentityProvider},
    name::PeerId,
    role::RoleSet,
};
use arc_swap::ArcSwap;
use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{Mutex, Notify, watch};

/// Tells the wall time; handed in, so that tests can set it.
pub type SharedClock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The system's wall clock.
#[must_use]
pub fn system_clock() -> SharedClock {
    Arc::new(|| {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    })
}

struct Known {
    identity: Arc<Identity>,
    expires_at: Option<Timestamp>,
}

/// An API key that is accepted.
struct KnownKey {
    known: Known,
    secret_hash: [u8; 32],
}

/// When keys were used, for as long as they exist: in milliseconds since 1970,
/// to the minute.
type Uses = HashMap<KeyId, Arc<AtomicI64>>;

#[derive(Default)]
struct Index {
    by_credential: HashMap<Credential, Known>,
    by_key: HashMap<KeyId, KnownKey>,
    uses: Uses,
    snapshot: IdentitySnapshot,
}

/// Peers, groups and invites: read from memory, written through.
pub struct IdentityIndex(Arc<Inner>);

struct Inner {
    store: Arc<dyn IdentityStore>,
    index: ArcSwap<Index>,
    roles: ArcSwap<RoleSet>,
    epoch: watch::Sender<u64>,
    clock: SharedClock,
    /// A use of a key waits to be written.
    key_used: Notify,
    /// One change of the store at a time.
    writing: Mutex<()>,
    /// One change of the index at a time: whoever publishes has read the
    /// snapshot and the roles under this lock, or nobody else's are newer.
    publishing: std::sync::Mutex<()>,
}

/// How often a key's last use is written, in milliseconds.
const USES_NOTED_EVERY: i64 = 60_000;

/// Waits between tries to read back a change that was made.
const RELOAD_WAITS: [Duration; 3] = [
    Duration::from_millis(50),
    Duration::from_millis(500),
    Duration::from_secs(2),
];

/// How often that is tried when these tries are over.
const READ_BACK_EVERY: Duration = Duration::from_secs(2);

impl IdentityIndex {
    /// Reads the store.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be read.
    pub async fn load(
        store: Arc<dyn IdentityStore>,
        roles: RoleSet,
        clock: SharedClock,
    ) -> Result<Self, StoreError> {
        let inner = Inner {
            store,
            index: ArcSwap::default(),
            roles: ArcSwap::from_pointee(roles),
            epoch: watch::Sender::new(1),
            clock,
            key_used: Notify::new(),
            writing: Mutex::new(()),
            publishing: std::sync::Mutex::new(()),
        };
        let snapshot = inner.store.load().await?;
        inner.publish(Some(snapshot));
        Ok(Self(Arc::new(inner)))
    }

    /// Applies a change with its audit row; when it returns, every new call
    /// sees it, and the running ones are checked again.
    ///
    /// Dropping the future does not stop it: a change that was stored is
    /// seen.
    ///
    /// # Errors
    ///
    /// [`StoreError::ReservedName`], or what the store says; then nothing has
    /// changed. [`StoreError::NotReadBack`] if the change was stored and could
    /// not be read; it is tried again every two seconds until it can.
    pub async fn apply(&self, change: IdentityChange, audit: AuditRow) -> Result<(), StoreError> {
        if let IdentityChange::AddPeer(peer)
        | IdentityChange::RedeemInvite { peer, .. }
        | IdentityChange::AddKey {
            newcomer: Some(peer),
            ..
        } = &change
            && peer.id.is_reserved()
        {
            return Err(StoreError::ReservedName(peer.id.clone()));
        }
        let inner = self.0.clone();
        tokio::spawn(async move {
            let applied = inner.apply(change, audit).await;
            if let Err(StoreError::NotReadBack(cause)) = &applied {
                tracing::error!(%cause, "a change is not in force yet, it could not be read back");
                tokio::spawn(read_back(Arc::downgrade(&inner)));
            }
            applied
        })
        .await
        .map_err(StoreError::backend)?
    }

    /// Notes where and when a peer was seen.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn seen(
        &self,
        peer: &PeerId,
        addresses: Option<PeerAddresses>,
    ) -> Result<(), StoreError> {
        let inner = &self.0;
        let _one_at_a_time = inner.writing.lock().await;
        inner.store.seen(peer, self.now(), addresses).await?;
        let snapshot = inner.store.load().await?;
        inner.publish(Some(snapshot));
        Ok(())
    }

    /// Takes over changed roles.
    pub fn set_roles(&self, roles: RoleSet) {
        self.0.roles.store(Arc::new(roles));
        self.0.publish(None);
        self.0.bump();
    }

    /// Announces that rights have changed by something that is not stored
    /// here: running calls are checked again.
    pub fn announce(&self) {
        self.0.bump();
    }

    /// The roles in force.
    #[must_use]
    pub fn roles(&self) -> Arc<RoleSet> {
        self.0.roles.load_full()
    }

    /// Everything stored, as of the last change.
    #[must_use]
    pub fn snapshot(&self) -> IdentitySnapshot {
        self.0.index.load().snapshot.clone()
    }

    /// One peer.
    #[must_use]
    pub fn peer(&self, id: &str) -> Option<PeerRecord> {
        self.0
            .index
            .load()
            .snapshot
            .peers
            .iter()
            .find(|peer| peer.id.as_str() == id)
            .cloned()
    }

    /// Wall time by this index's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.0.clock)()
    }

    /// Writes when API keys were last used, each at most once a minute; run it
    /// in a task for as long as the node runs.
    pub async fn note_uses(&self) {
        loop {
            self.0.key_used.notified().await;
            if let Err(cause) = self.write_uses().await {
                // The next use tries again; nothing depends on it.
                tracing::warn!(%cause, "when an API key was last used was not kept");
            }
        }
    }

    /// Writes the uses that were noted and not written yet.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn write_uses(&self) -> Result<(), StoreError> {
        let inner = &self.0;
        let _one_at_a_time = inner.writing.lock().await;
        let uses: Vec<(KeyId, Timestamp)> = {
            let index = inner.index.load();
            let keys = index.snapshot.keys.iter();
            keys.filter_map(|key| {
                let at = index.uses.get(&key.id)?.load(Ordering::Relaxed);
                let written = key.last_used_at.map_or(0, |at| at.0);
                (at > written).then_some((key.id, Timestamp(at)))
            })
            .collect()
        };
        if uses.is_empty() {
            return Ok(());
        }
        inner.store.keys_used(uses).await?;
        let snapshot = inner.store.load().await?;
        inner.publish(Some(snapshot));
        Ok(())
    }

    /// One API key.
    #[must_use]
    pub fn key(&self, id: &KeyId) -> Option<ApiKeyRecord> {
        let index = self.0.index.load();
        let mut keys = index.snapshot.keys.iter();
        keys.find(|key| key.id == *id).cloned()
    }

    /// How many API keys a peer has.
    #[must_use]
    pub fn keys_of(&self, peer: &PeerId) -> usize {
        let index = self.0.index.load();
        let keys = index.snapshot.keys.iter();
        keys.filter(|key| key.peer == *peer).count()
    }

    /// Waits until the next access expires and announces it; run it in a task
    /// for as long as the node runs.
    pub async fn expire(&self) {
        let mut changes = self.0.epoch.subscribe();
        // Everything up to here is over for whoever asks now.
        let mut announced = self.now();
        loop {
            changes.mark_unchanged();
            let now = self.now();
            if self.0.expiries().any(|at| announced < at && at <= now) {
                self.0.bump();
                changes.mark_unchanged();
            }
            announced = now;
            let next = self.0.expiries().filter(|at| *at > now).min();
            // Clocks are set: look again at least every second.
            let wait = next.map_or(Duration::from_secs(3600), |at| {
                Duration::from_millis(u64::try_from(at.0.saturating_sub(now.0)).unwrap_or(0))
                    .min(Duration::from_secs(1))
            });
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

/// Reads the store until that succeeds, or nobody uses the index any more.
async fn read_back(index: Weak<Inner>) {
    loop {
        tokio::time::sleep(READ_BACK_EVERY).await;
        let Some(index) = index.upgrade() else {
            return;
        };
        if index.read_again().await.is_ok() {
            return;
        }
    }
}

impl Inner {
    async fn apply(&self, change: IdentityChange, audit: AuditRow) -> Result<(), StoreError> {
        let _one_at_a_time = self.writing.lock().await;
        self.store.apply(change, audit).await?;
        // It is stored: a removed peer must not stay known because one read
        // failed.
        let mut waits = RELOAD_WAITS.iter();
        let snapshot = loop {
            match (self.store.load().await, waits.next()) {
                (Ok(snapshot), _) => break snapshot,
                (Err(_), Some(wait)) => tokio::time::sleep(*wait).await,
                (Err(error), None) => return Err(StoreError::NotReadBack(error.into())),
            }
        };
        self.publish(Some(snapshot));
        self.bump();
        Ok(())
    }

    /// Takes over what is stored now.
    async fn read_again(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.writing.lock().await;
        let snapshot = self.store.load().await?;
        self.publish(Some(snapshot));
        self.bump();
        Ok(())
    }

    fn bump(&self) {
        self.epoch.send_modify(|epoch| *epoch += 1);
    }

    fn expiries(&self) -> impl Iterator<Item = Timestamp> {
        let index = self.index.load();
        let keys = index.by_key.values().map(|key| &key.known);
        let all: Vec<_> = index
            .by_credential
            .values()
            .chain(keys)
            .filter_map(|known| known.expires_at)
            .collect();
        all.into_iter()
    }

    /// Compiles `snapshot`, or the one in force, with the roles in force.
    fn publish(&self, snapshot: Option<IdentitySnapshot>) {
        let _one_at_a_time = self
            .publishing
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = self.index.load();
        let snapshot = snapshot.unwrap_or_else(|| before.snapshot.clone());
        let roles = self.roles.load();
        let mut by_credential = HashMap::new();
        let mut by_peer = HashMap::new();
        for peer in snapshot.peers.iter().filter(|peer| peer.enabled) {
            let identity = Arc::new(compile(peer, &snapshot, &roles));
            for key in &peer.node_keys {
                let expires_at = [key.until, peer.expires_at].into_iter().flatten().min();
                by_credential.insert(
                    Credential::NodeKey(key.key),
                    Known {
                        identity: identity.clone(),
                        expires_at,
                    },
                );
            }
            for credential in ssh_credentials(peer) {
                by_credential.insert(
                    credential,
                    Known {
                        identity: identity.clone(),
                        expires_at: peer.expires_at,
                    },
                );
            }
            by_peer.insert(&peer.id, (identity, peer.expires_at));
        }
        let by_key = known_keys(&snapshot, &by_peer, &roles);
        let uses = uses(&snapshot, &before.uses);
        self.index.store(Arc::new(Index {
            by_credential,
            by_key,
            uses,
            snapshot,
        }));
    }
}

pub(super) fn ssh_credentials(peer: &PeerRecord) -> impl Iterator<Item = Credential> {
    let keys = peer
        .ssh_keys
        .iter()
        .map(|key| Credential::SshKey(key.fingerprint.clone()));
    let authorities = peer
        .ssh_authorities
        .iter()
        .map(|held| Credential::SshPrincipal {
            authority: held.fingerprint.clone(),
            principal: held.principal.clone(),
        });
    keys.chain(authorities)
}

/// The keys of peers that are let in, each under what it gives at most.
fn known_keys(
    snapshot: &IdentitySnapshot,
    by_peer: &HashMap<&PeerId, (Arc<Identity>, Option<Timestamp>)>,
    roles: &RoleSet,
) -> HashMap<KeyId, KnownKey> {
    let keys = snapshot.keys.iter().filter_map(|key| {
        let (peer, peer_ends) = by_peer.get(&key.peer)?;
        let identity = under_key(peer, key, roles);
        let expires_at = [key.expires_at, *peer_ends].into_iter().flatten().min();
        let known = KnownKey {
            known: Known {
                identity,
                expires_at,
            },
            secret_hash: key.secret_hash,
        };
        Some((key.id, known))
    });
    keys.collect()
}

/// What a peer holds, as far as the key gives it too.
pub(super) fn under_key(
    peer: &Arc<Identity>,
    key: &ApiKeyRecord,
    roles: &RoleSet,
) -> Arc<Identity> {
    let Some(grants) = &key.grants else {
        return peer.clone();
    };
    let mut ceiling = Identity::empty(key.peer.clone());
    roles.add_to(grants, &mut ceiling);
    Arc::new(peer.under(Arc::new(ceiling)))
}

/// What was noted of keys that exist still, at least what is stored.
fn uses(snapshot: &IdentitySnapshot, before: &Uses) -> Uses {
    let use_of = |key: &ApiKeyRecord| {
        let stored = key.last_used_at.map_or(0, |at| at.0);
        let noted = before.get(&key.id).cloned().unwrap_or_default();
        noted.fetch_max(stored, Ordering::Relaxed);
        (key.id, noted)
    };
    snapshot.keys.iter().map(use_of).collect()
}

pub(super) fn compile(peer: &PeerRecord, snapshot: &IdentitySnapshot, roles: &RoleSet) -> Identity {
    let mut identity = Identity::empty(peer.id.clone());
    roles.add_to(&peer.grants, &mut identity);
    for (group, grants) in &snapshot.groups {
        if peer.groups.contains(group) {
            roles.add_to(grants, &mut identity);
        }
    }
    identity
}

impl IdentityProvider for IdentityIndex {
    fn resolve(&self, credential: &Credential) -> Option<Arc<Identity>> {
        let index = self.0.index.load();
        let known = match credential {
            Credential::ApiKey(proof) => {
                let key = index.by_key.get(proof.id())?;
                proof.has_hash(&key.secret_hash).then_some(&key.known)?
            }
            other => index.by_credential.get(other)?,
        };
        let alive = known.expires_at.is_none_or(|at| at > self.now());
        alive.then(|| known.identity.clone())
    }

    fn epoch(&self) -> u64 {
        *self.0.epoch.borrow()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.epoch.subscribe()
    }

    fn used(&self, key: &KeyId) {
        let index = self.0.index.load();
        let Some(noted) = index.uses.get(key) else {
            return;
        };
        let (now, last) = (self.now().0, noted.load(Ordering::Relaxed));
        if now.saturating_sub(last) < USES_NOTED_EVERY {
            return;
        }
        // Of several calls at a time, one has it written.
        let noting = noted.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed);
        if noting.is_ok() {
            self.0.key_used.notify_one();
        }
    }
}

impl std::fmt::Debug for IdentityIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdentityIndex")
            .field("epoch", &self.epoch())
            .finish_non_exhaustive()
    }
}
