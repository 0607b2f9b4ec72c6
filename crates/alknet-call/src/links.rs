//! Links: supervised connections to peers. A link is dialled, kept, dialled
//! again with growing delays, and carries calls in both directions, whoever
//! opened its connections.

mod dial;
mod link;
mod report;
mod tally;

pub use self::dial::{DialError, Dialer};
pub use self::report::{
    LinkEvent, LinkReport, LinkState, PATH_CHANGES_KEPT, Packets, PathChange, PathEnd, Traffic,
};
use self::tally::{SAMPLE_EVERY, Tally};
use self::{
    dial::{Unused, not_begun, refusal},
    link::{Attached, LinkInner, lock},
};
pub(crate) use self::{link::Link, tally::traffic_of};
use crate::{
    import::{WeakForwarder, import_catalogues},
    limits::connection_code,
    quic::QuicConnection,
    session::{Session, SessionConfig, SessionError},
};
use alknet_core::{
    CallError, Caller, Dispatcher, ErrorCode, Forwarder, PeerId, storage::ImportStore,
    transport::Connection,
};
use futures::StreamExt;
use iroh::endpoint::PathEvent;
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};
use tokio::{
    sync::{Notify, broadcast, watch},
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// First delay between two attempts to reach a peer.
pub const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// Longest delay between two attempts to reach a peer.
pub const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// How long a channel waits for a connection of its own, before it shares the
/// calls' one, and how long nobody tries again.
const CHANNELS_DIAL_MAX: Duration = Duration::from_secs(3);
const CHANNELS_RETRY: Duration = Duration::from_secs(60);
/// A link that held this long is dialled again without delay.
const STABLE_AFTER: Duration = Duration::from_secs(30);
/// How old an attempt must be before a change of the network ends it for a new
/// one: a younger one has hardly waited for the old network.
const ATTEMPT_MIN: Duration = Duration::from_secs(2);
/// How long a change of the path is waited for to settle, before it is told.
const SETTLES: Duration = Duration::from_millis(100);
/// In its Hello: this side serves operations, so they are worth importing.
pub const FEATURE_OPERATIONS: &str = "operations";
/// In its Hello: this connection carries channels, so that bulk never delays
/// calls.
pub const FEATURE_CHANNELS: &str = "channels";
/// Events that a slow watcher may be behind before it misses some.
const EVENTS_KEPT: usize = 256;

struct Shared {
    door: Dispatcher,
    dialer: Arc<dyn Dialer>,
    config: SessionConfig,
    imports: Arc<dyn ImportStore>,
    links: Mutex<HashMap<PeerId, Arc<Link>>>,
    /// Every session, a command line's among them, to be drained.
    sessions: Mutex<Vec<Weak<Session>>>,
    events: broadcast::Sender<LinkEvent>,
    /// Counts changes of the network.
    network: watch::Sender<u64>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// All links of a node. Cheap to clone.
#[derive(Clone)]
pub struct Links(Arc<Shared>);

/// Links that may be gone.
pub(crate) struct WeakLinks(Weak<Shared>);

impl WeakLinks {
    pub(crate) fn upgrade(&self) -> Option<Links> {
        self.0.upgrade().map(Links)
    }
}

impl Links {
    /// Links whose calls come in through `door`.
    #[must_use]
    pub fn new(
        door: Dispatcher,
        dialer: Arc<dyn Dialer>,
        config: SessionConfig,
        imports: Arc<dyn ImportStore>,
    ) -> Self {
        Self(Arc::new(Shared {
            door,
            dialer,
            config,
            imports,
            links: Mutex::default(),
            sessions: Mutex::default(),
            events: broadcast::Sender::new(EVENTS_KEPT),
            network: watch::Sender::new(0),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }))
    }

    /// The door of this node.
    #[must_use]
    pub fn door(&self) -> &Dispatcher {
        &self.0.door
    }

    /// Passes calls on to peers; see [`Dispatcher::set_forwarder`].
    #[must_use]
    pub fn forwarder(&self) -> Arc<dyn Forwarder> {
        Arc::new(WeakForwarder(WeakLinks(Arc::downgrade(&self.0))))
    }

    pub(crate) fn imports(&self) -> &Arc<dyn ImportStore> {
        &self.0.imports
    }

    /// Keeps a link to `peer`: dials it now, and again whenever it is lost.
    pub fn keep(&self, peer: &PeerId) {
        if self.0.stop.is_cancelled() {
            return;
        }
        let link = self.link(peer);
        let mut supervised = lock(&link.supervised);
        if *supervised {
            link.wake.notify_one();
            return;
        }
        *supervised = true;
        let (links, link) = (self.clone(), link.clone());
        self.0.tasks.spawn(async move {
            tokio::select! {
                () = links.supervise(&link) => {}
                () = link.gone.cancelled() => {}
            }
        });
    }

    /// Ends a link: its peer is no more.
    pub fn forget(&self, peer: &PeerId) {
        let Some(link) = lock(&self.0.links).remove(peer) else {
            return;
        };
        link.gone.cancel();
        for attached in lock(&link.inner).sessions.drain(..) {
            attached
                .session
                .close(connection_code::NOT_ADMITTED, "no longer a peer");
        }
        // Removing an overlay cannot fail.
        let _ = self
            .0
            .door
            .registry()
            .apply(alknet_core::Change::RemovePeer(peer.clone()));
    }

    /// Dials all links that are down at once, as if they had never failed: the
    /// network has changed, or is back. An attempt under way that has waited
    /// for two seconds is given up for a new one.
    pub fn network_changed(&self) {
        self.0.network.send_modify(|count| *count += 1);
    }

    /// Closes every connection that goes through this relay, which is gone
    /// while there is another: calls on them end as `LOST` now and not when
    /// the silence has lasted long enough, and kept links are dialled at once.
    ///
    /// As long as a connection through it is open, the library sends to that
    /// relay alone, new connections to the same peer included.
    pub fn leave_relay(&self, url: &str) {
        for link in lock(&self.0.links).values() {
            for attached in &lock(&link.inner).sessions {
                let path = attached.quic.path();
                if path.is_some_and(|path| !path.is_direct && path.address == url) {
                    tracing::debug!(peer = %link.peer, relay = url, "left, since its relay is gone");
                    let closed = &attached.session;
                    closed.close(connection_code::DONE, "the relay in between is gone");
                }
            }
        }
    }

    /// Serves a connection that `caller` opened; returns when it has ended.
    ///
    /// # Errors
    ///
    /// [`SessionError`] if the two sides did not come to speak.
    pub async fn serve(
        &self,
        connection: QuicConnection,
        caller: Caller,
    ) -> Result<(), SessionError> {
        let session = self.start(&connection, caller.clone(), false).await?;
        let serves = session
            .remote()
            .features
            .iter()
            .any(|feature| feature == FEATURE_OPERATIONS);
        // A command line serves nothing: it is a caller, not a link.
        let link = serves.then(|| self.link(caller.id()));
        if let Some(link) = &link {
            let carries_channels = session
                .remote()
                .features
                .iter()
                .any(|feature| feature == FEATURE_CHANNELS);
            self.attach(link, session.clone(), connection, carries_channels);
        }
        session.closed().await;
        if let Some(link) = &link {
            self.detach(link, session.info().id);
        }
        Ok(())
    }

    async fn start(
        &self,
        connection: &QuicConnection,
        caller: Caller,
        carries_channels: bool,
    ) -> Result<Arc<Session>, SessionError> {
        let mut config = self.0.config.clone();
        config.features = vec![FEATURE_OPERATIONS.into()];
        if carries_channels {
            config.features.push(FEATURE_CHANNELS.into());
        }
        let connection: Arc<dyn Connection> = Arc::new(connection.clone());
        let session = Session::start(connection, Some(self.0.door.clone()), caller, config).await?;
        let mut sessions = lock(&self.0.sessions);
        sessions.retain(|held| held.strong_count() > 0);
        sessions.push(Arc::downgrade(&session));
        Ok(session)
    }

    fn link(&self, peer: &PeerId) -> Arc<Link> {
        let mut links = lock(&self.0.links);
        if let Some(link) = links.get(peer) {
            return link.clone();
        }
        let inner = LinkInner {
            sessions: Vec::new(),
            state: LinkState::Idle,
            since: self.0.dialer.now(),
            last_error: None,
            path: None,
            path_changes: 0,
            changes: VecDeque::new(),
            past: Traffic::default(),
        };
        let link = Arc::new(Link {
            peer: peer.clone(),
            inner: Mutex::new(inner),
            sessions_changed: watch::Sender::new(0),
            wake: Notify::new(),
            supervised: Mutex::new(false),
            gone: self.0.stop.child_token(),
            channels_failed: tokio::sync::Mutex::new(None),
        });
        links.insert(peer.clone(), link.clone());
        let (links, importing) = (self.clone(), link.clone());
        self.0.tasks.spawn(async move {
            let gone = importing.gone.clone();
            tokio::select! {
                () = import_catalogues(&links, &importing) => {}
                () = gone.cancelled() => {}
            }
        });
        link
    }

    fn attach(
        &self,
        link: &Arc<Link>,
        session: Arc<Session>,
        quic: QuicConnection,
        carries_channels: bool,
    ) {
        let tally = Arc::new(Tally::default());
        lock(&link.inner).sessions.push(Attached {
            session,
            quic: quic.clone(),
            carries_channels,
            tally: tally.clone(),
        });
        link.sessions_changed.send_modify(|count| *count += 1);
        link.note_path(self.0.dialer.now());
        self.set_state(link, LinkState::Connected, None);
        let (links, link) = (self.clone(), link.clone());
        self.0.tasks.spawn(async move {
            tokio::select! {
                () = links.follow_paths(&link, quic, &tally) => {}
                () = link.gone.cancelled() => {}
            }
        });
    }

    /// Counts what the paths of a connection carried, and tells when calls go
    /// over to another; until the connection ends.
    async fn follow_paths(&self, link: &Link, quic: QuicConnection, tally: &Tally) {
        let mut events = quic.inner().path_events();
        // What happened before somebody listened.
        let mut changed = link.note_path(self.0.dialer.now());
        let mut sampling = tokio::time::interval(SAMPLE_EVERY);
        loop {
            tokio::select! {
                event = events.next() => {
                    let Some(event) = event else { return };
                    if let PathEvent::Closed { id, remote_addr, last_stats, .. } = event {
                        tally.ended(id, &last_stats, remote_addr.is_relay());
                    }
                    changed |= link.note_path(self.0.dialer.now());
                }
                _ = sampling.tick() => tally.sample(tally.total(&quic).packets),
                () = tokio::time::sleep(SETTLES), if changed => {
                    changed = false;
                    self.tell(link);
                }
            }
        }
    }

    fn tell(&self, link: &Link) {
        // Nobody watching is fine.
        let _ = self.0.events.send(LinkEvent {
            peer: link.peer.clone(),
            report: link.report(),
        });
    }

    /// Takes one connection out. Others, newer ones among them, stay.
    fn detach(&self, link: &Link, connection: u64) {
        let alone = {
            let mut inner = lock(&link.inner);
            let mut ended = Traffic::default();
            inner.sessions.retain(|attached| {
                let stays = attached.session.info().id != connection;
                if !stays {
                    ended += attached.tally.total(&attached.quic);
                }
                stays
            });
            inner.past += ended;
            !inner
                .sessions
                .iter()
                .any(|attached| !attached.carries_channels)
        };
        link.sessions_changed.send_modify(|count| *count += 1);
        if link.note_path(self.0.dialer.now()) {
            self.tell(link);
        }
        if alone && !link.gone.is_cancelled() {
            let supervised = *lock(&link.supervised);
            self.set_state(
                link,
                if supervised {
                    LinkState::Waiting
                } else {
                    LinkState::Idle
                },
                None,
            );
        }
    }

    fn set_state(&self, link: &Link, state: LinkState, last_error: Option<String>) {
        {
            let mut inner = lock(&link.inner);
            if inner.state == state && inner.last_error == last_error {
                return;
            }
            // The other side may have connected in the meantime.
            if state != LinkState::Connected && inner.live(false).is_some() {
                return;
            }
            if inner.state != state {
                inner.since = self.0.dialer.now();
            }
            inner.state = state;
            inner.last_error = last_error;
        }
        self.tell(link);
    }

    /// Dials for as long as the link is kept.
    async fn supervise(&self, link: &Arc<Link>) {
        let mut delay = BACKOFF_MIN;
        let mut network = self.0.network.subscribe();
        loop {
            if link.session().is_some() {
                link.wait_until_alone().await;
                continue;
            }
            // Why the last attempt failed is known until one does not.
            let last_error = lock(&link.inner).last_error.clone();
            self.set_state(link, LinkState::Connecting, last_error);
            let began = Instant::now();
            // A change from here on is seen below, however the attempt ends.
            network.borrow_and_update();
            let dialled = tokio::select! {
                dialled = self.dial(link, false) => dialled,
                () = outdated(network.clone(), began) => continue,
            };
            let failed = match dialled {
                // The task that the link belongs to now tells when it ends.
                Ok(session) => {
                    let closed = session.closed().await;
                    self.detach(link, session.info().id);
                    refusal(&closed)
                }
                Err(error) => Some(error),
            };
            if link.session().is_some() {
                continue;
            }
            if failed.is_none() && began.elapsed() > STABLE_AFTER {
                delay = BACKOFF_MIN;
            }
            self.set_state(link, LinkState::Waiting, failed);
            tokio::select! {
                () = tokio::time::sleep(jittered(delay)) => delay = (delay * 2).min(BACKOFF_MAX),
                () = link.wake.notified() => delay = BACKOFF_MIN,
                // The sender lives as long as this.
                _ = network.changed() => delay = BACKOFF_MIN,
            }
        }
    }

    async fn dial(&self, link: &Arc<Link>, carries_channels: bool) -> Result<Arc<Session>, String> {
        let (connection, caller) = self
            .0
            .dialer
            .dial(&link.peer)
            .await
            .map_err(|error| error.to_string())?;
        let unused = Unused::new(&connection);
        let session = self
            .start(&connection, caller, carries_channels)
            .await
            .map_err(|error| not_begun(&error))?;
        self.attach(link, session.clone(), connection, carries_channels);
        unused.used();
        Ok(session)
    }

    /// A session to `peer` for queries, mutations and subscriptions.
    ///
    /// # Errors
    ///
    /// `UNAVAILABLE` if there is none now.
    pub fn session(&self, peer: &PeerId) -> Result<Arc<Session>, CallError> {
        let link = lock(&self.0.links).get(peer).cloned();
        link.and_then(|link| link.session())
            .ok_or_else(|| not_connected(peer))
    }

    /// A session to `peer` for channels: its own connection, dialled when
    /// first needed, so that bulk never delays calls. Where this node cannot
    /// dial the peer, the calls' connection serves.
    ///
    /// # Errors
    ///
    /// `UNAVAILABLE` if the peer is not connected at all.
    pub async fn channel_session(&self, peer: &PeerId) -> Result<Arc<Session>, CallError> {
        let link = lock(&self.0.links)
            .get(peer)
            .cloned()
            .ok_or_else(|| not_connected(peer))?;
        let calls = link.session().ok_or_else(|| not_connected(peer))?;
        if let Some(session) = link.channel_session() {
            return Ok(session);
        }
        let mut failed = link.channels_failed.lock().await;
        if let Some(session) = link.channel_session() {
            return Ok(session);
        }
        if failed.is_some_and(|at| at.elapsed() < CHANNELS_RETRY) {
            return Ok(calls);
        }
        let dialled = timeout(CHANNELS_DIAL_MAX, self.dial(&link, true)).await;
        match dialled.unwrap_or_else(|_| Err("no answer in time".into())) {
            Ok(session) => {
                *failed = None;
                let (links, link, ending) = (self.clone(), link.clone(), session.clone());
                self.0.tasks.spawn(async move {
                    ending.closed().await;
                    links.detach(&link, ending.info().id);
                });
                Ok(session)
            }
            Err(cause) => {
                *failed = Some(Instant::now());
                tracing::debug!(%peer, cause, "no second connection, channels share the first");
                Ok(calls)
            }
        }
    }

    /// How a peer's link is, if it has one.
    #[must_use]
    pub fn report(&self, peer: &PeerId) -> Option<LinkReport> {
        let link = lock(&self.0.links).get(peer).cloned();
        link.map(|link| link.report())
    }

    /// Peers that are connected.
    #[must_use]
    pub fn connected(&self) -> Vec<PeerId> {
        lock(&self.0.links)
            .values()
            .filter(|link| link.session().is_some())
            .map(|link| link.peer.clone())
            .collect()
    }

    /// Announces what happens to links. A watcher that falls 256 events behind
    /// misses some and reads [`Links::report`] again.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<LinkEvent> {
        self.0.events.subscribe()
    }

    /// Waits until the replies of calls that ended have arrived at their
    /// callers, at most for `most`: what a node does between its last call and
    /// [`Links::shutdown`].
    pub async fn drained(&self, most: Duration) {
        let sessions: Vec<Arc<Session>> = lock(&self.0.sessions)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let all = futures::future::join_all(sessions.iter().map(|session| async {
            tokio::select! {
                () = session.drained() => {}
                _ = session.closed() => {}
            }
        }));
        // Whoever does not take its reply in time is not waited for.
        let _ = tokio::time::timeout(most, all).await;
    }

    /// Closes everything at once; nothing is waited for.
    pub fn cut(&self) {
        self.0.stop.cancel();
        for link in lock(&self.0.links).values() {
            for attached in &lock(&link.inner).sessions {
                attached
                    .session
                    .close(connection_code::DONE, "shutting down");
            }
        }
    }

    /// Closes everything and waits for its tasks.
    pub async fn shutdown(&self) {
        self.cut();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links")
            .field("connected", &self.connected())
            .finish_non_exhaustive()
    }
}

/// Waits until the network has changed and an attempt that began then has had
/// its chance.
async fn outdated(mut network: watch::Receiver<u64>, began: Instant) {
    if network.changed().await.is_err() {
        // Nobody can change it any more.
        std::future::pending::<()>().await;
    }
    tokio::time::sleep_until(began + ATTEMPT_MIN).await;
}

fn not_connected(peer: &PeerId) -> CallError {
    CallError::new(
        ErrorCode::Unavailable,
        format!("peer `{peer}` is not connected"),
    )
    .with_details(serde_json::json!({ "peer": peer }))
}

/// Between half of `delay` and all of it, so that nodes do not dial in step.
fn jittered(delay: Duration) -> Duration {
    delay.mul_f64(0.5 + rand::random::<f64>() / 2.0)
}
