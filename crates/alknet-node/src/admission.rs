//! Who is let in: our own accept loop, admission per protocol before a stream
//! is read, every handler isolated, every connection ended when its right
//! ends.

mod bans;
mod conduct;
pub(crate) mod config;
mod handshakes;
mod offences;
mod rates;
mod refusals;
mod source;

use self::rates::Rates;
pub(crate) use self::{
    bans::{BY_NODE, BanError, BanTarget, Bans, Unbarred},
    conduct::{Conduct, Due, Watcher, Who},
    offences::{Class, Measure, Offence, Offences},
    refusals::{Refusal, Refusals, Said},
    source::{Prefix, Source},
};
use crate::node::OWNER;
use alknet_call::{connection_code, quic::QuicConnection};
use alknet_core::{
    AuditRow, Caller, Credential, Dispatcher, IdentityProvider,
    storage::{IdentityIndex, StoreError},
    transport::{Admitted, Connection, ConnectionInfo, ProtocolHandler},
};
use alknet_store::KeptBan;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use futures::FutureExt;
use handshakes::{DIRECT_MAX, Handshake, Handshakes, Way};
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
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Time for a handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Handshakes under way before addresses must prove themselves.
const PENDING_BEFORE_RETRY: usize = 64;

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
    pub(crate) connections_of_strangers_max: usize,
    pub(crate) connections_per_node_max: usize,
    pub(crate) handshakes_in_flight_per_address: usize,
    pub(crate) handshakes_per_address: u32,
    pub(crate) handshakes_total: u32,
    /// Silence after which the other side counts as gone.
    pub(crate) idle: Duration,
}

/// Counters for `node/metrics`.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) accepted: AtomicU64,
    pub(crate) handler_panics: AtomicU64,
    /// Bans that nobody asked for.
    pub(crate) bans: AtomicU64,
}

/// The open connections of the node, in both directions, and the way in.
pub(crate) struct Admission {
    identities: Arc<IdentityIndex>,
    /// The identities without those that are shut out.
    pub(crate) unbarred: Arc<Unbarred>,
    pub(crate) conduct: Arc<Conduct>,
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
    source: Option<Source>,
}

impl Open {
    fn is_closed(&self) -> bool {
        let open = self.connection.upgrade();
        open.is_none_or(|open| open.close_reason().is_some())
    }

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
    Refuse(Refusal),
}

impl Admission {
    pub(crate) fn new(
        identities: Arc<IdentityIndex>,
        conduct: Arc<Conduct>,
        limits: AdmissionLimits,
    ) -> Arc<Self> {
        Arc::new(Self {
            unbarred: Arc::new(Unbarred {
                identities: identities.clone(),
                bans: conduct.bans.clone(),
            }),
            identities,
            conduct,
            handlers: ArcSwap::default(),
            open: Mutex::default(),
            rates: Mutex::default(),
            handshakes: Handshakes::new(limits.handshakes_in_flight_per_address),
            limits,
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
                Entry::Refuse(refusal) => {
                    self.conduct.refusals.note(refusal);
                    incoming.refuse();
                }
            }
        }
    }

    fn entry(&self, incoming: &Incoming) -> Entry {
        if self.closing.load(Ordering::Relaxed) {
            return Entry::Refuse(Refusal::Stopping);
        }
        match incoming.remote_addr() {
            IncomingAddr::Ip(address) => {
                self.direct_entry(address.ip(), incoming.remote_addr_validated())
            }
            IncomingAddr::Relay { url, endpoint_id } => {
                self.relayed_entry(&url, *endpoint_id.as_bytes())
            }
            // There is no other transport.
            _ => Entry::Refuse(Refusal::Handshakes),
        }
    }

    fn direct_entry(&self, address: IpAddr, is_validated: bool) -> Entry {
        if self.conduct.bans.bars_address(address) {
            return Entry::Refuse(Refusal::Banned);
        }
        let (source, who, now) = (
            Source::of_address(address),
            Who::at(address),
            Instant::now(),
        );
        let mut rates = lock(&self.rates);
        let calm = rates.total.take(self.limits.handshakes_total, now)
            && self.handshakes.direct() < PENDING_BEFORE_RETRY;
        let polite = rates.is_polite(source, self.limits.handshakes_per_address, now);
        drop(rates);
        let comes = match (is_validated, polite, calm) {
            (true, false, false) => None,
            // Whoever owns the address is slowed down; whoever forged it
            // never answers.
            (false, false, _) | (false, _, false) => return Entry::ProveAddress,
            _ if self.conduct.is_slowed(&who) => {
                if !is_validated {
                    return Entry::ProveAddress;
                }
                // Whoever does not wait is in the end shut out.
                self.conduct.offended(&who, Offence::Limit);
                return Entry::Refuse(Refusal::Slowed);
            }
            _ => self.handshakes.begin(Way::Direct(source)),
        };
        match comes {
            Some(handshake) => Entry::Come(handshake),
            // Others may have forged that it is under way so often.
            None if !is_validated && self.handshakes.direct() < DIRECT_MAX => Entry::ProveAddress,
            None => {
                if is_validated {
                    self.conduct.offended(&who, Offence::Limit);
                }
                Entry::Refuse(Refusal::Handshakes)
            }
        }
    }

    /// Over a relay, nothing but the handshake proves who comes: the relay may
    /// make up keys. It has its share, which direct handshakes never need.
    fn relayed_entry(&self, relay: &RelayUrl, key: [u8; 32]) -> Entry {
        let credential = Credential::NodeKey(key);
        let is_known = self.unbarred.resolve(&credential).is_some();
        let rate = self.limits.handshakes_total;
        if self.conduct.bans.bars_key(&key) {
            return Entry::Refuse(Refusal::Banned);
        }
        let who = Who {
            address: None,
            key: Some(key),
            peer: None,
        };
        if !is_known && self.conduct.is_slowed(&who) {
            return Entry::Refuse(Refusal::Slowed);
        }
        if !is_known && !lock(&self.rates).is_calm(relay, rate, Instant::now()) {
            return Entry::Refuse(Refusal::Handshakes);
        }
        let way = Way::Relayed {
            relay: relay.clone(),
            key,
            is_known,
        };
        let comes = self.handshakes.begin(way);
        comes.map_or(Entry::Refuse(Refusal::Handshakes), Entry::Come)
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
            return self.refuse(&connection, Refusal::Protocol);
        };
        match self.admit(&connection, &*handler) {
            Ok((caller, held)) => self.serve(connection, caller, handler, held).await,
            Err(refusal) => self.refuse(&connection, refusal),
        }
    }

    fn refuse(&self, connection: &QuicConnection, refusal: Refusal) {
        self.conduct.refusals.note(refusal);
        let code = match refusal {
            Refusal::Banned | Refusal::UnknownKey | Refusal::Protocol => {
                connection_code::NOT_ADMITTED
            }
            _ => connection_code::LIMIT,
        };
        connection.close(code, refusal.reason());
    }

    /// Decides from the key and the address alone, before a stream is read;
    /// counts the connection if it is let in.
    fn admit(
        &self,
        connection: &QuicConnection,
        handler: &dyn QuicHandler,
    ) -> Result<(Caller, Held<'_>), Refusal> {
        let info = connection.info();
        let who = self.conduct.who(info);
        if self.bars(&who) {
            return Err(Refusal::Banned);
        }
        let credential = info.credential.clone();
        let known = credential.and_then(|credential| Caller::resolve(&*self.unbarred, credential));
        if known.is_none() && !handler.admits_strangers() {
            self.conduct.offended(&who, Offence::UnknownKey);
            return Err(Refusal::UnknownKey);
        }
        // Counted and taken in one step: connections come at the same time.
        let mut open = lock(&self.open);
        if let Err(refusal) = self.fits(&open, info, known.as_ref()) {
            drop(open);
            // A peer that has as many as it may is no offender.
            if known.is_none() {
                self.conduct.offended(&who, Offence::Limit);
            }
            return Err(refusal);
        }
        if known.is_some() {
            self.conduct.came(&who);
        }
        let caller = known.unwrap_or_else(Caller::anonymous);
        let held = self.enter(&mut open, connection, &caller);
        Ok((caller, held))
    }

    fn bars(&self, who: &Who) -> bool {
        let bans = &self.conduct.bans;
        who.address
            .is_some_and(|address| bans.bars_address(address))
            || who.key.is_some_and(|key| bans.bars_key(&key))
            || who.peer.as_ref().is_some_and(|peer| bans.bars_peer(peer))
    }

    /// Whether there is room for one more. Strangers take none of the room of
    /// peers that come from the same address, and nobody that of the owner.
    fn fits(
        &self,
        open: &HashMap<u64, Open>,
        info: &ConnectionInfo,
        known: Option<&Caller>,
    ) -> Result<(), Refusal> {
        let limits = &self.limits;
        let count = |counts: &dyn Fn(&Open) -> bool| open.values().filter(|o| counts(o)).count();
        if let Some(caller) = known {
            let of_peer = count(&|held| held.peer.as_ref() == Some(caller.id()));
            if of_peer >= limits.connections_per_identity_max {
                return Err(Refusal::Peer);
            }
            if caller.id().as_str() == OWNER {
                return Ok(());
            }
        }
        if open.len() >= limits.connections_per_node_max {
            return Err(Refusal::Node);
        }
        let address = info.remote.map(|remote| Source::of_address(remote.ip()));
        let of_address = count(&|held| {
            held.peer.is_some() == known.is_some()
                && held.source.is_some()
                && held.source == address
        });
        if of_address >= limits.connections_per_address_max {
            return Err(Refusal::Address);
        }
        let strangers = || count(&|held| held.peer.is_none());
        if known.is_none() && strangers() >= limits.connections_of_strangers_max {
            return Err(Refusal::Strangers);
        }
        Ok(())
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
            source: connection
                .info()
                .remote
                .map(|remote| Source::of_address(remote.ip())),
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
        if self.is_barred(held) {
            return held.close(connection_code::NOT_ADMITTED, Refusal::Banned.reason());
        }
        let Some(peer) = &held.peer else { return };
        let now = held
            .credential
            .as_ref()
            .and_then(|credential| self.unbarred.resolve(credential));
        if now.is_none_or(|identity| identity.id != *peer) {
            let reason = "no longer a peer of this node";
            held.close(connection_code::NOT_ADMITTED, reason);
        }
    }

    /// Whether an open connection is of somebody who is shut out now, by any
    /// of its paths.
    fn is_barred(&self, held: &Open) -> bool {
        let bans = &self.conduct.bans;
        if bans.is_empty() {
            return false;
        }
        let key = matches!(&held.credential, Some(Credential::NodeKey(key)) if bans.bars_key(key));
        let peer = || held.peer.as_ref().is_some_and(|peer| bans.bars_peer(peer));
        let paths = || {
            let connection = held.connection.upgrade();
            let addresses = connection.map(QuicConnection::new);
            let addresses = addresses.map(|open| open.remote_addresses());
            let mut addresses = addresses.into_iter().flatten();
            addresses.any(|address| bans.bars_address(address.ip()))
        };
        key || peer() || paths()
    }

    /// Shuts somebody out: durable, and without an open connection, when it
    /// returns. Answers how many were closed.
    pub(crate) async fn shut_out(&self, ban: KeptBan, row: AuditRow) -> Result<usize, BanError> {
        self.conduct.bans.add(ban, row).await?;
        let is_cut = |held: &&Open| !held.is_closed() && self.is_barred(held);
        let cut = lock(&self.open).values().filter(is_cut).count();
        // Calls under way are judged again, and connections closed.
        self.identities.announce();
        for held in lock(&self.open).values() {
            self.end_unless_known(held);
        }
        Ok(cut)
    }

    /// Lets somebody in again; `false` if there is no such ban.
    pub(crate) async fn let_in(
        &self,
        target: &BanTarget,
        row: AuditRow,
    ) -> Result<bool, StoreError> {
        let lifted = self.conduct.bans.remove(target, row).await?;
        self.conduct.forgive(target);
        self.identities.announce();
        Ok(lifted)
    }

    /// Shuts out those whose score says so; run it for as long as the node
    /// runs.
    pub(crate) async fn keep_bans(self: Arc<Self>, mut due: mpsc::Receiver<Due>) {
        let (shut_out, failed, mut failures) = (Said::default(), Said::default(), 0);
        while let Some(due) = due.recv().await {
            let now = self.identities.now();
            let target = due.target.to_string();
            let ban = KeptBan {
                target: target.clone(),
                reason: due.reason.clone(),
                banned_by: BY_NODE.into(),
                created_at: now,
                until: Some(now.plus(due.lasts)),
            };
            let mut row = AuditRow::event(now, "node", "bans/add");
            row.resource = Some(target.clone());
            row.detail = Some(due.reason.clone());
            match self.shut_out(ban, row).await {
                Ok(closed) => {
                    let total = self.counters.bans.fetch_add(1, Ordering::Relaxed) + 1;
                    if let Some(count) = shut_out.due(total) {
                        let minutes = due.lasts.as_secs() / 60;
                        tracing::warn!(%target, reason = due.reason, minutes, closed, count, total, "shut out");
                    }
                }
                Err(cause) => {
                    failures += 1;
                    if let Some(count) = failed.due(failures) {
                        tracing::error!(%target, %cause, count, "could not be shut out");
                    }
                }
            }
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

    /// Closes connections whose peers are gone, disabled or expired, and those
    /// that have found a way from an address that is shut out; run it for as
    /// long as the node runs.
    pub(crate) async fn watch_rights(self: Arc<Self>) {
        let mut changes = self.identities.changes();
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(PATHS_LOOKED_AT) => {
                    if self.conduct.bans.is_empty() {
                        continue;
                    }
                }
            }
            changes.mark_unchanged();
            for held in lock(&self.open).values() {
                self.end_unless_known(held);
            }
        }
    }
}

/// How often connections are looked at that were let in: what came over a relay
/// may have found a direct path since, from an address that is shut out.
const PATHS_LOOKED_AT: Duration = Duration::from_secs(10);

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
