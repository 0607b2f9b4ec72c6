//! The door. Every call passes here, in one order: resolve, visibility,
//! access, limits, input schema, handler, output schema, error mapping, audit.
//!
//! The first five are [`admit`]; the others belong to the way an operation
//! answers: once ([`unary`]), with items ([`stream`]) or with bytes
//! ([`channel`]).

mod admit;
mod builder;
mod channel;
mod explain;
mod outcome;
mod record;
mod reply;
mod rights;
mod route;
mod stream;
mod unary;

pub use self::{
    builder::DispatcherBuilder,
    reply::{ChannelCall, ChannelDone, Reply, Subscription},
};
use crate::{
    audit::AuditSink,
    call::{CallId, NodeId, Originator},
    error::{CallError, ErrorCode},
    handler::Handler,
    idempotency::RunningKeys,
    identity::{Caller, CallerKind, IdentityProvider},
    inflight::InFlight,
    limits::Limits,
    name::{OperationName, PeerId},
    registry::Registry,
    spec::Kind,
    storage::{IdempotencyStore, OwnershipProvider, SharedClock, Timestamp},
};
use futures::FutureExt;
use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

type KnownPeers = dyn Fn() -> Vec<PeerId> + Send + Sync;

/// Passes calls on to peers, of whose operations this node knows only those
/// it may call there.
pub trait Forwarder: Send + Sync + 'static {
    /// A handler that calls `operation` at `peer`, as an operation of `kind`.
    fn handler(&self, peer: &PeerId, operation: &OperationName, kind: Kind) -> Handler;
}

struct Inner {
    registry: Registry,
    identities: Arc<dyn IdentityProvider>,
    owners: Arc<dyn OwnershipProvider>,
    idempotency: Arc<dyn IdempotencyStore>,
    running_keys: RunningKeys,
    audit: AuditSink,
    limits: Limits,
    in_flight: InFlight,
    node_name: String,
    node_id: Option<NodeId>,
    owner: Option<PeerId>,
    /// Whose turn it is among peers that offer the same.
    any_turn: AtomicUsize,
    known_peers: Option<Box<KnownPeers>>,
    forwarder: OnceLock<Arc<dyn Forwarder>>,
    clock: SharedClock,
    run: u64,
    /// Asked by every call, which the token would let wait for each other.
    is_draining: AtomicBool,
    draining: CancellationToken,
    detached: TaskTracker,
    detached_places: Arc<Semaphore>,
    detached_end: CancellationToken,
    panics: AtomicU64,
}

/// The door in front of a [`Registry`]. Cheap to clone.
#[derive(Clone)]
pub struct Dispatcher(Arc<Inner>);

impl Dispatcher {
    /// Starts putting a door together.
    pub fn builder(registry: Registry) -> DispatcherBuilder {
        DispatcherBuilder::new(registry)
    }

    pub(crate) fn detach(
        &self,
        call: CallId,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), CallError> {
        let place = self.0.detached_places.clone().try_acquire_owned();
        let place = place.map_err(|_| {
            CallError::new(
                ErrorCode::RateLimited,
                "the node runs as many detached tasks as it may",
            )
        })?;
        let (door, end) = (self.clone(), self.0.detached_end.clone());
        self.0.detached.spawn(async move {
            let guarded = AssertUnwindSafe(task).catch_unwind();
            if let Some(Err(panic)) = end.run_until_cancelled(guarded).await {
                door.note_panic(call, "a detached task", &*panic);
            }
            drop(place);
        });
        Ok(())
    }

    /// Refuses new calls from here on; what runs may finish, and call other
    /// operations of this node on its way.
    pub fn begin_drain(&self) {
        self.0.is_draining.store(true, Ordering::Relaxed);
        self.0.draining.cancel();
        self.0.detached.close();
    }

    fn is_draining(&self) -> bool {
        self.0.is_draining.load(Ordering::Relaxed)
    }

    /// Resolves once new calls are refused. Subscriptions that follow
    /// something without an end of its own end then: they would hold the
    /// drain up for as long as it may take.
    pub async fn draining(&self) {
        self.0.draining.cancelled().await;
    }

    /// Waits until no call and no detached task runs, or the time is over;
    /// says whether all had ended.
    pub async fn drained(&self, most: Duration) -> bool {
        let until = Instant::now() + most;
        let calls = async {
            while self.0.in_flight.count() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            self.0.detached.wait().await;
        };
        timeout_at(until, calls).await.is_ok()
    }

    /// Cancels the detached tasks that still run: the end of a drain. Calls
    /// are cancelled by their surfaces, which drop them.
    pub fn cancel_detached(&self) {
        self.0.detached_end.cancel();
    }

    /// Lets calls to peers through that are not listed here; the first one
    /// that is set stays.
    pub fn set_forwarder(&self, forwarder: Arc<dyn Forwarder>) {
        // Set twice means put together twice; the first serves.
        let _ = self.0.forwarder.set(forwarder);
    }

    /// Calls in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.0.in_flight.count()
    }

    /// Handlers and detached tasks that panicked since the start.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.0.panics.load(Ordering::Relaxed)
    }

    /// Calls that were refused since the start since a limit was reached.
    #[must_use]
    pub fn limited(&self) -> u64 {
        self.0.in_flight.limited()
    }

    /// The registry behind this door.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// Who is known.
    #[must_use]
    pub fn identities(&self) -> &dyn IdentityProvider {
        &*self.0.identities
    }

    /// What callers may ask.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Where audit rows go.
    #[must_use]
    pub fn audit(&self) -> &AuditSink {
        &self.0.audit
    }

    /// How this node calls itself.
    #[must_use]
    pub fn node_name(&self) -> &str {
        &self.0.node_name
    }

    /// The key that names this node.
    #[must_use]
    pub fn node_id(&self) -> Option<&NodeId> {
        self.0.node_id.as_ref()
    }

    /// The note that names `caller` as the one who started it all.
    #[must_use]
    pub fn originator(&self, caller: &Caller) -> Originator {
        Originator {
            node: self.0.node_name.clone(),
            label: caller.id().to_string(),
        }
    }

    /// The note that goes along when a call of `caller` is sent on to a peer:
    /// what it said itself, else that it is the caller's. For what this node
    /// starts of its own accord there is none: whose connection it is, the
    /// peer knows. Nobody else is taken for this node itself.
    #[must_use]
    pub fn originator_beyond(
        &self,
        caller: &Caller,
        said: Option<&Originator>,
    ) -> Option<Originator> {
        let starts_here = |from: &Originator| {
            let owner = self.0.owner.as_ref().map_or("host", PeerId::as_str);
            from.node == self.0.node_name && (from.label == owner || from.label == "host")
        };
        let is_own = self.is_own(caller);
        match said {
            Some(from) if !starts_here(from) => Some(from.clone()),
            Some(_) if is_own || caller.kind() == CallerKind::Authority => None,
            None if is_own => None,
            _ => Some(self.originator(caller)),
        }
    }

    /// Whether `caller` is this node itself: the program that embeds it, or
    /// its command line.
    pub(crate) fn is_own(&self, caller: &Caller) -> bool {
        match caller.kind() {
            CallerKind::Host => true,
            CallerKind::Peer => self.0.owner.as_ref() == Some(caller.id()),
            CallerKind::Authority | CallerKind::Anonymous => false,
        }
    }

    pub(crate) fn owners(&self) -> &dyn OwnershipProvider {
        &*self.0.owners
    }

    pub(crate) fn idempotency(&self) -> &dyn IdempotencyStore {
        &*self.0.idempotency
    }

    pub(crate) fn running_keys(&self) -> &RunningKeys {
        &self.0.running_keys
    }

    pub(crate) fn run(&self) -> u64 {
        self.0.run
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.0.clock)()
    }
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatcher")
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}
