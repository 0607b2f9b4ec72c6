//! The identities of the hot path: an in-memory index over an
//! [`IdentityStore`], rebuilt after every change.

use super::{
    IdentityChange, IdentitySnapshot, IdentityStore, PeerAddresses, PeerRecord, StoreError,
    Timestamp,
};
use crate::{
    audit::AuditRow,
    identity::{Credential, Identity, IdentityProvider},
    name::PeerId,
    role::RoleSet,
};
use arc_swap::ArcSwap;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{Mutex, watch};

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

#[derive(Default)]
struct Index {
    by_credential: HashMap<Credential, Known>,
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
    /// One change of the store at a time.
    writing: Mutex<()>,
    /// One change of the index at a time: whoever publishes has read the
    /// snapshot and the roles under this lock, or nobody else's are newer.
    publishing: std::sync::Mutex<()>,
}

/// Waits between tries to read back a change that was made.
const RELOAD_WAITS: [Duration; 3] = [
    Duration::from_millis(50),
    Duration::from_millis(500),
    Duration::from_secs(2),
];

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
    /// changed. [`StoreError::Backend`] too if the change was stored and could
    /// not be read back.
    pub async fn apply(&self, change: IdentityChange, audit: AuditRow) -> Result<(), StoreError> {
        if let IdentityChange::AddPeer(peer) | IdentityChange::RedeemInvite { peer, .. } = &change
            && peer.id.is_reserved()
        {
            return Err(StoreError::ReservedName(peer.id.clone()));
        }
        let inner = self.0.clone();
        tokio::spawn(async move { inner.apply(change, audit).await })
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
                (Err(error), None) => return Err(error),
            }
        };
        self.publish(Some(snapshot));
        self.bump();
        Ok(())
    }

    fn bump(&self) {
        self.epoch.send_modify(|epoch| *epoch += 1);
    }

    fn expiries(&self) -> impl Iterator<Item = Timestamp> {
        let index = self.index.load();
        let all: Vec<_> = index
            .by_credential
            .values()
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
        let snapshot = snapshot.unwrap_or_else(|| self.index.load().snapshot.clone());
        let roles = self.roles.load();
        let mut by_credential = HashMap::new();
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
            for print in &peer.ssh_keys {
                by_credential.insert(
                    Credential::SshKey(print.clone()),
                    Known {
                        identity: identity.clone(),
                        expires_at: peer.expires_at,
                    },
                );
            }
        }
        self.index.store(Arc::new(Index {
            by_credential,
            snapshot,
        }));
    }
}

fn compile(peer: &PeerRecord, snapshot: &IdentitySnapshot, roles: &RoleSet) -> Identity {
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
        let known = index.by_credential.get(credential)?;
        let alive = known.expires_at.is_none_or(|at| at > self.now());
        alive.then(|| known.identity.clone())
    }

    fn epoch(&self) -> u64 {
        *self.0.epoch.borrow()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.epoch.subscribe()
    }
}

impl std::fmt::Debug for IdentityIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdentityIndex")
            .field("epoch", &self.epoch())
            .finish_non_exhaustive()
    }
}
