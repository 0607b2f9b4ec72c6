//! Who is let in: our own accept loop, admission per protocol before a stream
//! is read, every handler isolated, every connection ended when its right
//! ends.

use alknet_call::{connection_code, quic::QuicConnection};
use alknet_core::{
    Caller, Dispatcher, IdentityProvider,
    storage::IdentityIndex,
    transport::{Admitted, Connection, ProtocolHandler},
};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use futures::FutureExt;
use iroh::{
    Endpoint,
    endpoint::{Incoming, IncomingAddr},
};
use std::{
    collections::HashMap,
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Time for a handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Handshakes under way before addresses must prove themselves.
const PENDING_BEFORE_RETRY: usize = 64;
/// Handshakes under way before new ones are refused.
const PENDING_MAX: usize = 512;
/// Addresses whose rates are remembered.
const ADDRESSES_KEPT: usize = 8192;

/// Serves QUIC connections of one protocol; beside core's neutral handlers,
/// those of this node that need the connection itself.
#[async_trait]
pub(crate) trait QuicHandler: Send + Sync + 'static {
    /// Whether a caller without a record may enter now.
    fn admits_strangers(&self) -> bool {
        false
    }

    /// Serves one connection; `caller` is anonymous for strangers.
    async fn serve(&self, connection: QuicConnection, caller: Caller);
}

/// A handler of a protocol that the embedding program brings.
pub(crate) struct Neutral {
    pub(crate) handler: Arc<dyn ProtocolHandler>,
    pub(crate) door: Dispatcher,
}

#[async_trait]
impl QuicHandler for Neutral {
    fn admits_strangers(&self) -> bool {
        self.handler.admits_strangers()
    }

    async fn serve(&self, connection: QuicConnection, caller: Caller) {
        let held: Arc<dyn Connection> = Arc::new(connection);
        let door = self.door.clone();
        self.handler.serve(held, Admitted { caller, door }).await;
    }
}

type Handlers = HashMap<Vec<u8>, Arc<dyn QuicHandler>>;

/// What the accept loop lets in.
#[derive(Clone, Debug)]
pub(crate) struct AdmissionLimits {
    pub(crate) connections_per_identity_max: usize,
    pub(crate) connections_per_address_max: usize,
    pub(crate) handshakes_per_address: u32,
    pub(crate) handshakes_total: u32,
    /// Silence after which the other side counts as gone.
    pub(crate) idle: Duration,
}

/// Counters for `node/metrics`.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) accepted: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) handler_panics: AtomicU64,
}

/// The open connections of the node, in both directions, and the way in.
pub(crate) struct Admission {
    identities: Arc<IdentityIndex>,
    handlers: ArcSwap<Handlers>,
    limits: AdmissionLimits,
    open: Mutex<HashMap<u64, Open>>,
    rates: Mutex<Rates>,
    pending: AtomicUsize,
    closing: AtomicBool,
    pub(crate) counters: Counters,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

struct Open {
    connection: QuicConnection,
    /// The peer behind it; a stranger has none.
    peer: Option<alknet_core::PeerId>,
    address: Option<IpAddr>,
}

#[derive(Default)]
struct Rates {
    total: Bucket,
    addresses: HashMap<IpAddr, Bucket>,
    /// When old addresses were last forgotten.
    swept: Option<Instant>,
    refusals_said: Option<Instant>,
}

#[derive(Clone, Copy, Default)]
struct Bucket {
    used: f64,
    at: Option<Instant>,
}

impl Bucket {
    /// Whether one more fits into `rate` a second, with a burst of as many.
    fn take(&mut self, rate: u32, now: Instant) -> bool {
        let rate = f64::from(rate.max(1));
        if let Some(at) = self.at {
            self.used = (self.used - now.duration_since(at).as_secs_f64() * rate).max(0.0);
        }
        self.at = Some(now);
        let fits = self.used + 1.0 <= rate;
        if fits {
            self.used += 1.0;
        }
        fits
    }
}

impl Rates {
    /// Whether an address keeps to its rate. While more addresses come than
    /// can be remembered, new ones must prove themselves: they are forged, or
    /// too many.
    fn is_polite(&mut self, address: IpAddr, rate: u32, now: Instant) -> bool {
        let second = Duration::from_secs(1);
        if self.addresses.len() >= ADDRESSES_KEPT && !self.addresses.contains_key(&address) {
            if self.swept.is_some_and(|at| now.duration_since(at) < second) {
                return false;
            }
            self.swept = Some(now);
            self.addresses
                .retain(|_, bucket| bucket.at.is_some_and(|at| now.duration_since(at) < second));
            if self.addresses.len() >= ADDRESSES_KEPT {
                return false;
            }
        }
        self.addresses.entry(address).or_default().take(rate, now)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Entry {
    Come,
    ProveAddress,
    Refuse,
}

impl Admission {
    pub(crate) fn new(identities: Arc<IdentityIndex>, limits: AdmissionLimits) -> Arc<Self> {
        Arc::new(Self {
            identities,
            handlers: ArcSwap::default(),
            limits,
            open: Mutex::default(),
            rates: Mutex::default(),
            pending: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            counters: Counters::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    /// Serves a protocol from now on; existing connections stay.
    pub(crate) fn serve_alpn(
        &self,
        endpoint: &Endpoint,
        alpn: &[u8],
        handler: Arc<dyn QuicHandler>,
    ) {
        let mut handlers = (**self.handlers.load()).clone();
        handlers.insert(alpn.to_vec(), handler);
        endpoint.set_alpns(handlers.keys().cloned().collect());
        self.handlers.store(Arc::new(handlers));
    }

    /// Open connections.
    pub(crate) fn count(&self) -> usize {
        lock(&self.open).len()
    }

    /// Accepts until stopped.
    pub(crate) async fn accept_loop(self: Arc<Self>, endpoint: Endpoint) {
        loop {
            let incoming = tokio::select! {
                incoming = endpoint.accept() => incoming,
                () = self.stop.cancelled() => return,
            };
            let Some(incoming) = incoming else { return };
            match self.entry(&incoming) {
                Entry::Come => {
                    let this = self.clone();
                    self.pending.fetch_add(1, Ordering::Relaxed);
                    self.tasks
                        .spawn(async move { this.welcome(incoming).await });
                }
                Entry::ProveAddress => {
                    if let Err(error) = incoming.retry() {
                        error.into_incoming().refuse();
                    }
                }
                Entry::Refuse => {
                    self.refused("too many handshakes, or stopping");
                    incoming.refuse();
                }
            }
        }
    }

    fn entry(&self, incoming: &Incoming) -> Entry {
        if self.closing.load(Ordering::Relaxed) {
            return Entry::Refuse;
        }
        let pending = self.pending.load(Ordering::Relaxed);
        if pending >= PENDING_MAX {
            return Entry::Refuse;
        }
        let IncomingAddr::Ip(address) = incoming.remote_addr() else {
            return Entry::Come;
        };
        let now = Instant::now();
        let mut rates = lock(&self.rates);
        let calm =
            rates.total.take(self.limits.handshakes_total, now) && pending < PENDING_BEFORE_RETRY;
        let polite = rates.is_polite(address.ip(), self.limits.handshakes_per_address, now);
        match (incoming.remote_addr_validated(), polite, calm) {
            (_, true, true) | (true, true, false) => Entry::Come,
            // Whoever owns the address is slowed down; whoever forged it
            // never answers.
            (false, _, _) => Entry::ProveAddress,
            (true, false, true) => Entry::Come,
            (true, false, false) => Entry::Refuse,
        }
    }

    async fn welcome(self: Arc<Self>, incoming: Incoming) {
        let shaken = async {
            let connecting = incoming.accept().map_err(|error| error.to_string())?;
            connecting.await.map_err(|error| error.to_string())
        };
        let shaken = timeout(HANDSHAKE_MAX, shaken).await;
        self.pending.fetch_sub(1, Ordering::Relaxed);
        let connection = match shaken {
            Ok(Ok(connection)) => QuicConnection::new(connection),
            Ok(Err(cause)) => return tracing::debug!(cause, "handshake failed"),
            Err(_) => return tracing::debug!("handshake took too long"),
        };
        let Some(handler) = self.handlers.load().get(&connection.info().alpn).cloned() else {
            return connection.close(connection_code::NOT_ADMITTED, "no such protocol");
        };
        match self.admit(&connection, &*handler) {
            Ok((caller, held)) => self.serve(connection, caller, handler, held).await,
            Err((code, reason)) => {
                self.refused(reason);
                connection.close(code, reason);
            }
        }
    }

    /// Decides from the key alone, before a stream is read; counts the
    /// connection if it is let in.
    fn admit(
        &self,
        connection: &QuicConnection,
        handler: &dyn QuicHandler,
    ) -> Result<(Caller, Held<'_>), (u32, &'static str)> {
        let credential = connection.info().credential.clone();
        let known =
            credential.and_then(|credential| Caller::resolve(&*self.identities, credential));
        if known.is_none() && !handler.admits_strangers() {
            return Err((connection_code::NOT_ADMITTED, "not a peer of this node"));
        }
        let address = connection.info().remote.map(|remote| remote.ip());
        // Counted and taken in one step: connections come at the same time.
        let mut open = lock(&self.open);
        let same_address = open
            .values()
            .filter(|held| held.address.is_some() && held.address == address)
            .count();
        if same_address >= self.limits.connections_per_address_max {
            return Err((
                connection_code::LIMIT,
                "too many connections from this address",
            ));
        }
        if let Some(caller) = &known {
            let same_peer = open
                .values()
                .filter(|held| held.peer.as_ref() == Some(caller.id()))
                .count();
            if same_peer >= self.limits.connections_per_identity_max {
                return Err((connection_code::LIMIT, "too many connections of this peer"));
            }
        }
        let caller = known.unwrap_or_else(Caller::anonymous);
        let held = self.enter(&mut open, connection.clone(), &caller);
        Ok((caller, held))
    }

    async fn serve(
        &self,
        connection: QuicConnection,
        caller: Caller,
        handler: Arc<dyn QuicHandler>,
        _held: Held<'_>,
    ) {
        self.counters.accepted.fetch_add(1, Ordering::Relaxed);
        let serving = AssertUnwindSafe(handler.serve(connection.clone(), caller)).catch_unwind();
        let ended = tokio::select! {
            ended = serving => ended,
            // Drained: handlers close their connections with a reason first.
            () = async { self.stop.cancelled().await; connection.closed().await; } => Ok(()),
        };
        if ended.is_err() {
            self.counters.handler_panics.fetch_add(1, Ordering::Relaxed);
            tracing::error!(alpn = %String::from_utf8_lossy(&connection.info().alpn), "a protocol handler panicked; its connection is closed");
            connection.close(alknet_call::connection_code::INTERNAL, "internal error");
        }
    }

    /// Counts a connection, and ends it when its credential no longer
    /// resolves, for as long as the guard is held.
    pub(crate) fn hold(&self, connection: QuicConnection, caller: &Caller) -> Held<'_> {
        self.enter(&mut lock(&self.open), connection, caller)
    }

    fn enter(
        &self,
        open: &mut HashMap<u64, Open>,
        connection: QuicConnection,
        caller: &Caller,
    ) -> Held<'_> {
        let id = connection.info().id;
        self.tasks
            .spawn(connection.end_when_silent(self.limits.idle));
        let entry = Open {
            address: connection.info().remote.map(|remote| remote.ip()),
            peer: caller.is_authenticated().then(|| caller.id().clone()),
            connection,
        };
        // In this order: a peer that is removed from here on is found by the
        // watcher, one that was removed before is found now.
        open.insert(id, entry);
        if let Some(entry) = open.get(&id) {
            self.end_unless_known(entry);
        }
        Held {
            admission: self,
            id,
        }
    }

    fn end_unless_known(&self, held: &Open) {
        let Some(peer) = &held.peer else { return };
        let credential = held.connection.info().credential.as_ref();
        let now = credential.and_then(|credential| self.identities.resolve(credential));
        if now.is_none_or(|identity| identity.id != *peer) {
            let reason = "no longer a peer of this node";
            held.connection.close(connection_code::NOT_ADMITTED, reason);
        }
    }

    /// Refuses new connections from here on.
    pub(crate) fn close_door(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Ends everything at once.
    pub(crate) fn cut(&self) {
        self.stop.cancel();
        // The handlers hold what holds this.
        self.handlers.store(Arc::default());
        for held in lock(&self.open).values() {
            held.connection
                .close(connection_code::DONE, "shutting down");
        }
    }

    /// Closes connections whose peers are gone, disabled or expired; run it
    /// for as long as the node runs.
    pub(crate) async fn watch_rights(self: Arc<Self>) {
        let mut changes = self.identities.changes();
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = self.stop.cancelled() => return,
            }
            changes.mark_unchanged();
            for held in lock(&self.open).values() {
                self.end_unless_known(held);
            }
        }
    }

    /// One line a minute, not one an event.
    fn refused(&self, reason: &str) {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let mut rates = lock(&self.rates);
        if rates
            .refusals_said
            .is_none_or(|said| now.duration_since(said) >= Duration::from_secs(60))
        {
            rates.refusals_said = Some(now);
            tracing::info!(
                reason,
                total = self.counters.refused.load(Ordering::Relaxed),
                "refused a connection"
            );
        }
    }
}

/// A counted connection.
pub(crate) struct Held<'a> {
    admission: &'a Admission,
    id: u64,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        lock(&self.admission.open).remove(&self.id);
    }
}
