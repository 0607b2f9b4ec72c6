//! Who is let in: our own accept loop, admission per protocol before a stream
//! is read, every handler isolated, every connection ended when its right
//! ends.

mod handshakes;

use alknet_call::{connection_code, quic::QuicConnection};
use alknet_core::{
    Caller, Credential, Dispatcher, IdentityProvider,
    storage::IdentityIndex,
    transport::{Admitted, Connection, ProtocolHandler},
};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use futures::FutureExt;
use handshakes::{Handshake, Handshakes, Way};
use iroh::{
    Endpoint, RelayUrl,
    endpoint::{Incoming, IncomingAddr, VarInt, WeakConnectionHandle},
};
use std::{
    collections::HashMap,
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Time for a handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Handshakes under way before addresses must prove themselves.
const PENDING_BEFORE_RETRY: usize = 64;
/// Addresses whose rates are remembered.
const ADDRESSES_KEPT: usize = 8192;
/// Relays whose rates are remembered.
const RELAYS_KEPT: usize = 256;

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
    handshakes: Handshakes,
    closing: AtomicBool,
    pub(crate) counters: Counters,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

struct Open {
    /// Being counted keeps no connection open.
    connection: WeakConnectionHandle,
    credential: Option<Credential>,
    /// The peer behind it; a stranger has none.
    peer: Option<alknet_core::PeerId>,
    address: Option<IpAddr>,
}

#[derive(Default)]
struct Rates {
    total: Bucket,
    addresses: HashMap<IpAddr, Bucket>,
    /// Strangers, by the relay that they come over.
    relays: HashMap<RelayUrl, Bucket>,
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

    /// Whether strangers may still come over a relay. There are no more
    /// relays than this node was told of, most of them silent.
    fn is_calm(&mut self, relay: &RelayUrl, rate: u32, now: Instant) -> bool {
        if self.relays.len() >= RELAYS_KEPT && !self.relays.contains_key(relay) {
            let second = Duration::from_secs(1);
            self.relays
                .retain(|_, bucket| bucket.at.is_some_and(|at| now.duration_since(at) < second));
            if self.relays.len() >= RELAYS_KEPT {
                return false;
            }
        }
        let bucket = self.relays.entry(relay.clone()).or_default();
        bucket.take(rate, now)
    }
}

impl Open {
    fn close(&self, code: u32, reason: &str) {
        if let Some(connection) = self.connection.upgrade() {
            connection.close(VarInt::from_u32(code), reason.as_bytes());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Entry {
    Come(Handshake),
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
            handshakes: Handshakes::default(),
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
                Entry::Come(handshake) => {
                    let this = self.clone();
                    self.tasks
                        .spawn(async move { this.welcome(incoming, handshake).await });
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
        match incoming.remote_addr() {
            IncomingAddr::Ip(address) => {
                self.direct_entry(address.ip(), incoming.remote_addr_validated())
            }
            IncomingAddr::Relay { url, endpoint_id } => {
                self.relayed_entry(&url, *endpoint_id.as_bytes())
            }
            // There is no other transport.
            _ => Entry::Refuse,
        }
    }

    fn direct_entry(&self, address: IpAddr, is_validated: bool) -> Entry {
        let Some(handshake) = self.handshakes.begin(Way::Direct) else {
            return Entry::Refuse;
        };
        let now = Instant::now();
        let mut rates = lock(&self.rates);
        let calm = rates.total.take(self.limits.handshakes_total, now)
            && self.handshakes.direct() <= PENDING_BEFORE_RETRY;
        let polite = rates.is_polite(address, self.limits.handshakes_per_address, now);
        match (is_validated, polite, calm) {
            (_, true, true) | (true, true, false) => Entry::Come(handshake),
            // Whoever owns the address is slowed down; whoever forged it
            // never answers.
            (false, _, _) => Entry::ProveAddress,
            (true, false, true) => Entry::Come(handshake),
            (true, false, false) => Entry::Refuse,
        }
    }

    /// Over a relay, nothing but the handshake proves who comes: the relay may
    /// make up keys. It has its share, which direct handshakes never need.
    fn relayed_entry(&self, relay: &RelayUrl, key: [u8; 32]) -> Entry {
        let credential = Credential::NodeKey(key);
        let is_known = self.identities.resolve(&credential).is_some();
        let rate = self.limits.handshakes_total;
        if !is_known && !lock(&self.rates).is_calm(relay, rate, Instant::now()) {
            return Entry::Refuse;
        }
        let way = Way::Relayed {
            relay: relay.clone(),
            key,
            is_known,
        };
        self.handshakes
            .begin(way)
            .map_or(Entry::Refuse, Entry::Come)
    }

    async fn welcome(self: Arc<Self>, incoming: Incoming, handshake: Handshake) {
        let shaken = async {
            let connecting = incoming.accept().map_err(|error| error.to_string())?;
            connecting.await.map_err(|error| error.to_string())
        };
        let shaken = timeout(HANDSHAKE_MAX, shaken).await;
        drop(handshake);
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
        let held = self.enter(&mut open, connection, &caller);
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
    pub(crate) fn hold(&self, connection: &QuicConnection, caller: &Caller) -> Held<'_> {
        self.enter(&mut lock(&self.open), connection, caller)
    }

    fn enter(
        &self,
        open: &mut HashMap<u64, Open>,
        connection: &QuicConnection,
        caller: &Caller,
    ) -> Held<'_> {
        let id = connection.info().id;
        self.tasks
            .spawn(connection.end_when_silent(self.limits.idle));
        let entry = Open {
            address: connection.info().remote.map(|remote| remote.ip()),
            peer: caller.is_authenticated().then(|| caller.id().clone()),
            credential: connection.info().credential.clone(),
            connection: connection.inner().weak_handle(),
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
        let now = held
            .credential
            .as_ref()
            .and_then(|credential| self.identities.resolve(credential));
        if now.is_none_or(|identity| identity.id != *peer) {
            let reason = "no longer a peer of this node";
            held.close(connection_code::NOT_ADMITTED, reason);
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
            held.close(connection_code::DONE, "shutting down");
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
