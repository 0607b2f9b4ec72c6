//! Puts a door together.

use super::{Dispatcher, Inner, KnownPeers};
use crate::{
    audit::AuditSink,
    call::NodeId,
    idempotency::RunningKeys,
    identity::{IdentityProvider, StaticIdentities},
    inflight::InFlight,
    limits::Limits,
    name::PeerId,
    registry::Registry,
    storage::{
        IdempotencyStore, MemoryIdempotencyStore, NoOwnership, OwnershipProvider, SharedClock,
        system_clock,
    },
};
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicU64, AtomicUsize},
};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Puts a door together; what is not set is in memory, and nobody is known.
#[must_use]
pub struct DispatcherBuilder(Inner);

impl DispatcherBuilder {
    pub(super) fn new(registry: Registry) -> Self {
        let limits = Limits::default();
        Self(Inner {
            registry,
            identities: Arc::new(StaticIdentities::default()),
            owners: Arc::new(NoOwnership),
            idempotency: Arc::new(MemoryIdempotencyStore::default()),
            running_keys: RunningKeys::default(),
            audit: AuditSink::discard(),
            in_flight: InFlight::new(limits.clone()),
            node_name: "node".into(),
            node_id: None,
            owner: None,
            any_turn: AtomicUsize::new(0),
            known_peers: None,
            forwarder: OnceLock::new(),
            clock: system_clock(),
            run: 0,
            is_draining: AtomicBool::new(false),
            draining: CancellationToken::new(),
            detached: TaskTracker::new(),
            detached_places: Arc::new(Semaphore::new(limits.detached_max)),
            detached_end: CancellationToken::new(),
            panics: AtomicU64::new(0),
            limits,
        })
    }

    /// Who is known.
    pub fn identities(mut self, identities: Arc<dyn IdentityProvider>) -> Self {
        self.0.identities = identities;
        self
    }

    /// Who made which resource.
    pub fn owners(mut self, owners: Arc<dyn OwnershipProvider>) -> Self {
        self.0.owners = owners;
        self
    }

    /// Where outcomes of keyed calls are kept.
    pub fn idempotency(mut self, store: Arc<dyn IdempotencyStore>) -> Self {
        self.0.idempotency = store;
        self
    }

    /// Where audit rows go.
    pub fn audit(mut self, audit: AuditSink) -> Self {
        self.0.audit = audit;
        self
    }

    /// What callers may ask.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.0.in_flight = InFlight::new(limits.clone());
        self.0.detached_places = Arc::new(Semaphore::new(limits.detached_max));
        self.0.limits = limits;
        self
    }

    /// How this node calls itself, and the key that names it.
    pub fn node(mut self, name: impl Into<String>, id: NodeId) -> Self {
        self.0.node_name = name.into();
        self.0.node_id = Some(id);
        self
    }

    /// The peer that is this node's own command line.
    pub fn owner(mut self, owner: PeerId) -> Self {
        self.0.owner = Some(owner);
        self
    }

    /// Lists the peers that exist, connected or not: tells those that are not
    /// connected from unknown ones.
    pub fn known_peers(mut self, known: impl Fn() -> Vec<PeerId> + Send + Sync + 'static) -> Self {
        let known: Box<KnownPeers> = Box::new(known);
        self.0.known_peers = Some(known);
        self
    }

    /// Wall time.
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.0.clock = clock;
        self
    }

    /// Tells this run of the node from earlier ones.
    pub fn run(mut self, run: u64) -> Self {
        self.0.run = run;
        self
    }

    /// The door.
    #[must_use]
    pub fn build(self) -> Dispatcher {
        Dispatcher(Arc::new(self.0))
    }
}
