//! A running node: what its parts share, what it tells, how it changes and
//! stops.

mod reload;

pub use self::reload::{ReloadError, ReloadReport};
use crate::{
    admission::Admission,
    config::{Config, ConfigSource, RelaySetting},
    data_dir::{DataDir, Runtime},
    dialer::{StoreDialer, is_dialable},
    endpoint,
    find::{Anchors, Finder, anchors, is_own_public},
    logs::LogBuffer,
    records,
    relay::{self, Health, RelayServer, RelayServerStatus, RelayUse, Relays},
    secrets::Credentials,
};
use alknet_call::{Client, links::Links};
use alknet_core::{
    AuditRow, AuditSink, CallError, Caller, Change, Dispatcher, ErrorCode, OperationName, PeerId,
    RouteStep,
    files::FileService,
    storage::{AuditLog, EventLog, IdentityIndex, ImportStore, PeerAddresses, Timestamp, hex32},
    transport::Connection,
};
use alknet_exec::Exec;
use alknet_fs::Buckets;
use alknet_store::{InstanceLock, Store};
use arc_swap::ArcSwap;
use iroh::Endpoint;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// The peer that the node's own command line is.
pub const OWNER: &str = "owner";
/// This release.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long programs whose calls were cancelled may take to end.
const PROCESSES_MAX: Duration = Duration::from_secs(2);
/// Time for the last replies to arrive when a node stops.
const REPLIES_MAX: Duration = Duration::from_secs(2);

/// What a node tells of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeStatus {
    /// Its public key: 64 hexadecimal digits.
    pub node_id: String,
    /// How it calls itself.
    pub name: String,
    /// Its release.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// When it started.
    pub started_at: String,
    /// Milliseconds since then.
    pub uptime_ms: u64,
    /// UDP addresses at which it can be reached.
    pub addresses: Vec<String>,
    /// Relays it uses.
    pub relays: Vec<String>,
    /// Relays that were chosen, and whether they work.
    #[serde(default)]
    pub relays_in_use: Vec<RelayUse>,
    /// The relay that this node is; `null` if it is none.
    #[serde(default)]
    pub relay: Option<RelayServerStatus>,
    /// URL of the HTTP gateway; `null` if it is off.
    pub http: Option<String>,
    /// Address of the SSH server; `null` if it is off.
    pub ssh: Option<String>,
    /// Peers known, this node's own command line not counted.
    pub peers: usize,
    /// Calls in flight.
    pub calls_in_flight: usize,
    /// What lets this node and its peers find each other after both moved:
    /// relays in use, and peers with a public address.
    #[serde(default)]
    pub anchors: Vec<String>,
    /// Sentences on how it can be reached, and how not.
    pub notes: Vec<String>,
}

/// What the parts of a node share.
pub(crate) struct Shared {
    pub(crate) data: DataDir,
    pub(crate) source: ConfigSource,
    pub(crate) config: Mutex<Config>,
    /// Held while the configuration is read again.
    pub(crate) reloading: tokio::sync::Mutex<()>,
    /// Held from reading a peer's record to storing its successor, so that
    /// none of two changes at the same time is lost.
    pub(crate) editing: tokio::sync::Mutex<()>,
    pub(crate) overrides: Box<dyn Fn(&mut Config) + Send + Sync>,
    pub(crate) identities: Arc<IdentityIndex>,
    pub(crate) audit_log: Arc<dyn AuditLog>,
    /// What happened, for those who follow.
    pub(crate) events: Arc<dyn EventLog>,
    pub(crate) imports: Arc<dyn ImportStore>,
    pub(crate) logs: LogBuffer,
    pub(crate) exec: Exec,
    /// The files that callers reach.
    pub(crate) buckets: Arc<Buckets>,
    pub(crate) name: String,
    pub(crate) relays: Vec<RelaySetting>,
    /// Those in use, and those that peers named.
    pub(crate) known_relays: Relays,
    pub(crate) relay_health: Health,
    /// The relay that this node is.
    pub(crate) relay: Option<RelayServer>,
    /// Where peers are, and how they are told where this node is.
    pub(crate) finder: Arc<Finder>,
    pub(crate) key: [u8; 32],
    /// Secrets for the outside, and the keys that seal them.
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) started: Instant,
    pub(crate) started_at: Timestamp,
    pub(crate) stop: watch::Sender<Option<Option<Duration>>>,
    pub(crate) places: ArcSwap<PeerAddresses>,
    pub(crate) configured: Mutex<Vec<OperationName>>,
    /// Set once, while the node is put together.
    pub(crate) parts: OnceLock<Parts>,
}

/// Parts that need the registry, and so come after the shared ones.
pub(crate) struct Parts {
    pub(crate) door: Dispatcher,
    pub(crate) endpoint: Endpoint,
    pub(crate) admission: Arc<Admission>,
    pub(crate) dialer: Arc<StoreDialer>,
    pub(crate) links: Links,
}

impl Shared {
    fn parts(&self) -> &Parts {
        self.parts.get().expect("set before the node serves")
    }

    pub(crate) fn door(&self) -> &Dispatcher {
        &self.parts().door
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.parts().endpoint
    }

    pub(crate) fn admission(&self) -> &Admission {
        &self.parts().admission
    }

    pub(crate) fn links(&self) -> &Links {
        &self.parts().links
    }

    pub(crate) fn dialer(&self) -> &StoreDialer {
        &self.parts().dialer
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn node_id(&self) -> [u8; 32] {
        self.key
    }

    pub(crate) fn is_own_key(&self, key: &[u8; 32]) -> bool {
        *key == self.key
            || self
                .identities
                .peer(OWNER)
                .is_some_and(|owner| owner.node_keys.iter().any(|held| held.key == *key))
    }

    pub(crate) fn own_addresses(&self) -> PeerAddresses {
        (**self.places.load()).clone()
    }

    /// The same for whoever dials it in a moment: a node that has just started
    /// has no place at a relay yet, and will have one of those that it chose.
    pub(crate) fn expected_addresses(&self) -> PeerAddresses {
        let mut places = self.own_addresses();
        if places.relays.is_empty() {
            places.relays = self.chosen_relays();
        }
        places
    }

    /// As whom programs run here.
    pub(crate) fn runs_as(&self) -> String {
        match &self
            .config
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .exec
            .user
        {
            Some(user) => format!("user `{user}`"),
            None => "this node's user".into(),
        }
    }

    /// Keeps a link to a peer that can be dialled.
    pub(crate) fn keep_link(&self, peer: &PeerId) {
        if peer.as_str() == OWNER {
            // A command line comes by itself.
            return;
        }
        let uses_discovery = self.relays.contains(&RelaySetting::N0) || self.uses_mdns();
        if self
            .identities
            .peer(peer.as_str())
            .is_some_and(|record| is_dialable(&record, &self.finder, uses_discovery))
        {
            self.links().keep(peer);
        }
    }

    /// Whether there is a peer beside this node's own command line.
    pub(crate) fn has_peers(&self) -> bool {
        let peers = self.identities.snapshot().peers;
        peers.iter().any(|peer| peer.id.as_str() != OWNER)
    }

    /// What lets this node and its peers find each other after both moved.
    pub(crate) fn anchors(&self) -> Anchors {
        anchors(&self.finder, &self.relays, &self.own_addresses().direct)
    }

    /// Whether peers are looked for on the LAN.
    pub(crate) fn uses_mdns(&self) -> bool {
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        config.network.mdns
    }

    /// Reads the addresses of the endpoint anew.
    pub(crate) fn refresh_places(&self) {
        let endpoint = self.endpoint();
        self.places.store(Arc::new(PeerAddresses {
            direct: endpoint::addresses(endpoint),
            relays: self.home_relays(),
        }));
    }

    /// Relays at which this node is found: where the endpoint is at home, and
    /// its own, which it may not have connected to yet.
    fn home_relays(&self) -> Vec<String> {
        let mut relays = endpoint::relays(self.endpoint(), &self.known_relays);
        let own = self.relay.as_ref().map(|relay| relay.address().to_string());
        relays.extend(own.filter(|own| !relays.contains(own)));
        relays
    }

    pub(crate) fn request_stop(&self, drain: Option<Duration>) {
        self.stop.send_replace(Some(drain));
    }

    /// Removes all operations: they hold this, which holds them.
    fn let_go(&self) {
        let registry = self.door().registry();
        let view = registry.view();
        for peer in view.peers() {
            // Removing an overlay cannot fail.
            let _ = registry.apply(Change::RemovePeer(peer.clone()));
        }
        let remove = view.local().map(|entry| entry.spec().name.clone());
        let change = Change::ReplaceLocal {
            remove: remove.collect(),
            add: Vec::new(),
        };
        // Nothing is added that could be wrong.
        let _ = registry.apply(change);
    }

    pub(crate) fn runtime(&self) -> Runtime {
        let places = self.own_addresses();
        Runtime {
            pid: std::process::id(),
            node_id: hex32::encode(&self.key),
            name: self.name.clone(),
            version: VERSION.into(),
            sockets: self.endpoint().bound_sockets(),
            addresses: places.direct,
            relays: places.relays,
            http: None,
            ssh: None,
        }
    }

    pub(crate) fn status(&self) -> NodeStatus {
        let places = self.own_addresses();
        NodeStatus {
            node_id: hex32::encode(&self.key),
            name: self.name.clone(),
            version: VERSION.into(),
            pid: std::process::id(),
            started_at: self.started_at.to_string(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            addresses: places.direct.iter().map(ToString::to_string).collect(),
            relays: places.relays.clone(),
            relays_in_use: self.relays_in_use(),
            relay: self.relay.as_ref().map(RelayServer::status),
            http: None,
            ssh: None,
            peers: self
                .identities
                .snapshot()
                .peers
                .iter()
                .filter(|peer| peer.id.as_str() != OWNER)
                .count(),
            calls_in_flight: self.door().in_flight(),
            anchors: self.anchors().names,
            notes: self.notes(&places),
        }
    }

    fn relays_in_use(&self) -> Vec<RelayUse> {
        let mut used = self.relay_health.report(&self.known_relays);
        if let Some(own) = &self.relay {
            relay::advise_owner(&mut used, own);
        }
        used
    }

    /// Relays chosen here, by configuration, adoption or by being one.
    pub(crate) fn chosen_relays(&self) -> Vec<String> {
        let chosen = self.known_relays.chosen();
        chosen.iter().map(ToString::to_string).collect()
    }

    /// Uses these relays from now on, as if they had been configured.
    pub(crate) async fn adopt_relays(&self, texts: &[String]) {
        for relay in texts.iter().filter_map(|text| text.parse().ok()) {
            self.known_relays.adopt(self.endpoint(), &relay).await;
        }
    }

    /// Said while somebody else has the port at which peers look for this node.
    fn lost_port(&self) -> Option<String> {
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let is_picked = config.network.bind.is_none_or(|bind| bind.port() == 0);
        drop(config);
        let kept = self.data.kept_port().filter(|_| is_picked)?;
        let bound = self.endpoint().bound_sockets();
        let port = bound.first()?.port();
        (port != kept).then(|| {
            format!(
                "another program has UDP port {kept}, at which peers look for this node: it uses {port} until it is started again"
            )
        })
    }

    /// How it can be reached, and how not.
    fn notes(&self, places: &PeerAddresses) -> Vec<String> {
        let mut notes = Vec::new();
        notes.extend(self.lost_port());
        let loopback_only = places
            .direct
            .iter()
            .all(|address| address.ip().to_canonical().is_loopback());
        if loopback_only {
            notes.push("reachable from this machine only: it is bound to loopback".into());
        } else {
            notes.push(reachable_note(&places.direct));
        }
        let n0 = self.relays.contains(&RelaySetting::N0);
        notes.extend(relay::notes(n0, &self.relays_in_use(), self.relay.as_ref()));
        if !self
            .config
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .network
            .port_mapping
        {
            let published = [
                ("no DNS", self.relays.contains(&RelaySetting::N0)),
                ("no mDNS", self.uses_mdns()),
                ("no port opened on the router", false),
            ];
            let not: Vec<&str> = published
                .iter()
                .filter(|(_, is_used)| !is_used)
                .map(|(what, _)| *what)
                .collect();
            let nothing = match not.len() == published.len() {
                true => "nothing",
                false => "nothing else",
            };
            notes.push(format!("{nothing} is published: {}", not.join(", ")));
        }
        if self.uses_mdns() {
            notes.push("mDNS is on: this node's id and addresses are announced on the LAN, and peers are found there".into());
        }
        notes.extend(self.anchors().warning());
        notes
    }
}

/// A running node. Dropping it ends it at once; [`Node::shutdown`] lets calls
/// finish.
pub struct Node {
    pub(crate) shared: Arc<Shared>,
    pub(crate) store: Store,
    pub(crate) lock: Option<InstanceLock>,
    pub(crate) audit: AuditSink,
    pub(crate) tasks: Vec<tokio::task::JoinHandle<()>>,
    pub(crate) audit_stop: Option<tokio::sync::oneshot::Sender<()>>,
    /// Whether all rows were written, when it ends.
    pub(crate) audit_task: Option<tokio::task::JoinHandle<bool>>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("name", &self.shared.name)
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Starts putting a node together.
    pub fn builder() -> crate::NodeBuilder {
        crate::NodeBuilder::default()
    }

    /// Its public key.
    #[must_use]
    pub fn id(&self) -> [u8; 32] {
        self.shared.key
    }

    /// How it calls itself.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// What it tells of itself.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        self.shared.status()
    }

    /// The door in front of its operations.
    #[must_use]
    pub fn door(&self) -> &Dispatcher {
        self.shared.door()
    }

    /// Its files, for a surface: each call takes a permit of
    /// [`Dispatcher::authorize_from`].
    #[must_use]
    pub fn files(&self) -> Arc<dyn FileService> {
        self.shared.buckets.clone()
    }

    /// Calls its operations as the program that embeds it, which may do
    /// everything.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::local(self.door().clone(), Caller::host())
    }

    /// Calls operations of a peer.
    ///
    /// # Panics
    ///
    /// Never: a text that is no peer's name fails each call with `NOT_FOUND`.
    #[must_use]
    pub fn peer(&self, name: &str) -> Client {
        let step = PeerId::parse(name).map_or_else(|_| unknown_peer(), RouteStep::Peer);
        self.client().on(vec![step])
    }

    /// Makes an invite ticket with which another node becomes a peer.
    ///
    /// # Errors
    ///
    /// As `invites/create`.
    pub async fn invite(&self, grants: &[&str]) -> Result<String, CallError> {
        let created: serde_json::Value = self
            .client()
            .call("invites/create", &serde_json::json!({ "grants": grants }))
            .await?;
        Ok(created["ticket"].as_str().unwrap_or_default().to_owned())
    }

    /// Redeems another node's ticket; answers with its name here.
    ///
    /// # Errors
    ///
    /// As `peers/join`.
    pub async fn join(&self, ticket: &str, grants: &[&str]) -> Result<String, CallError> {
        let joined: serde_json::Value = self
            .client()
            .call(
                "peers/join",
                &serde_json::json!({ "ticket": ticket, "grants": grants }),
            )
            .await?;
        Ok(joined["peer"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until a peer is linked and its operations can be called.
    ///
    /// # Errors
    ///
    /// `UNAVAILABLE` if that takes longer than `most`.
    pub async fn connected(&self, peer: &str, most: Duration) -> Result<(), CallError> {
        let mut changes = self.door().registry().changes();
        let offered = async {
            while self.door().registry().view().peer(peer).next().is_none() {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let late = |_| {
            CallError::new(
                ErrorCode::Unavailable,
                format!("peer `{peer}` is not connected"),
            )
        };
        tokio::time::timeout(most, offered).await.map_err(late)
    }

    /// Opens a connection of another protocol to a peer: the other end of what
    /// a [`ProtocolHandler`](alknet_core::transport::ProtocolHandler) serves
    /// there. It is a connection of its own, beside that of calls, kept by
    /// nobody but the caller, and closed when the peer is removed here.
    ///
    /// Whether the peer lets this node in is known with the first stream.
    ///
    /// # Errors
    ///
    /// `NOT_FOUND` for a peer that is not known, or that does not serve the
    /// protocol (`details.alpn`); `UNAUTHENTICATED` if it is known already that
    /// the peer does not let this node in; `UNAVAILABLE` if it was not reached
    /// within 15 seconds, or is disabled here.
    pub async fn connect(&self, peer: &str, alpn: &[u8]) -> Result<Arc<dyn Connection>, CallError> {
        use alknet_call::links::DialError;
        let unknown = || {
            let peer = alknet_core::brief(peer);
            let message = format!("no peer `{peer}`");
            CallError::new(ErrorCode::NotFound, message)
                .with_details(serde_json::json!({ "peer": peer }))
        };
        let id = PeerId::parse(peer).map_err(|_| unknown())?;
        match self.shared.parts().dialer.connect(&id, alpn).await {
            Ok((connection, _)) => Ok(Arc::new(connection)),
            Err(DialError::NoKey(_)) => Err(unknown()),
            Err(error @ DialError::NotServed { .. }) => {
                let alpn = String::from_utf8_lossy(alpn);
                Err(CallError::new(ErrorCode::NotFound, error.to_string())
                    .with_details(serde_json::json!({ "peer": peer, "alpn": alpn })))
            }
            Err(error @ DialError::NotAdmitted { .. }) => Err(CallError::new(
                ErrorCode::Unauthenticated,
                error.to_string(),
            )
            .with_details(serde_json::json!({ "peer": peer }))),
            Err(error) => Err(CallError::new(ErrorCode::Unavailable, error.to_string())),
        }
    }

    /// Reads the configuration again.
    ///
    /// # Errors
    ///
    /// [`ReloadError`]; then nothing has changed.
    pub async fn reload(&self) -> Result<ReloadReport, ReloadError> {
        let row = AuditRow::event(self.shared.identities.now(), "host", "node/reload");
        self.shared.reload(row).await
    }

    /// Waits until `node/shutdown` was called; answers with the time it
    /// leaves to running calls.
    pub async fn stopping(&self) -> Duration {
        let mut stop = self.shared.stop.subscribe();
        let asked = match stop.wait_for(Option::is_some).await {
            Ok(asked) => asked.flatten(),
            Err(_) => None,
        };
        asked.unwrap_or_else(|| self.drain_time())
    }

    /// The time that the configuration leaves to running calls.
    #[must_use]
    pub fn drain_time(&self) -> Duration {
        Duration::from_millis(
            self.shared
                .config
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .limits
                .drain_ms,
        )
    }

    /// Stops in order: no new calls, running ones finish or are cancelled
    /// after `drain`, connections close, audit and stores are written out.
    pub async fn shutdown(mut self, drain: Duration) {
        let shared = self.shared.clone();
        shared.data.remove_runtime();
        shared.admission().close_door();
        shared.door().begin_drain();
        if !shared.door().drained(drain).await {
            tracing::warn!("calls were cancelled: they did not finish in time");
        }
        shared.door().cancel_detached();
        shared.links().drained(REPLIES_MAX).await;
        shared.links().shutdown().await;
        shared.admission().stop.cancel();
        for task in self.tasks.drain(..) {
            task.abort();
            // Aborted just now: only its end is waited for.
            let _ = task.await;
        }
        // A closed connection ends its handler.
        shared.endpoint().close().await;
        // After the endpoint: goodbyes go through it.
        if let Some(relay) = &shared.relay {
            relay.shutdown().await;
        }
        shared.admission().tasks.close();
        let ended =
            tokio::time::timeout(Duration::from_secs(5), shared.admission().tasks.wait()).await;
        if ended.is_err() {
            tracing::warn!("protocol handlers did not end in time");
        }
        // Terminals are hung up, and killed only a moment later.
        let idle = tokio::time::timeout(PROCESSES_MAX, shared.exec.idle()).await;
        if idle.is_err() {
            tracing::warn!("programs did not end in time");
        }
        if let Some(stop) = self.audit_stop.take() {
            // The writer may have ended by itself.
            let _ = stop.send(());
        }
        let is_written = match self.audit_task.take() {
            Some(task) => task.await.unwrap_or(false),
            None => true,
        };
        // Without the mark, the next start records that rows may be missing.
        if is_written
            && let Err(cause) = records::stopped(&self.store, shared.identities.now()).await
        {
            tracing::error!(%cause, "the store could not be marked as stopped cleanly");
        }
        self.store.close().await;
        // It may have been written while calls finished.
        shared.data.remove_runtime();
        drop(self.lock.take());
        tracing::info!("stopped");
    }

    /// Where the node's audit rows go.
    #[must_use]
    pub fn audit(&self) -> &AuditSink {
        &self.audit
    }
}

/// Where others reach it without a relay, as far as that can be told from here.
fn reachable_note(direct: &[SocketAddr]) -> String {
    let public = direct.iter().filter(|own| is_own_public(own));
    let public: Vec<String> = public.map(ToString::to_string).collect();
    match public.is_empty() {
        false => format!(
            "reachable directly at {}, as far as firewalls let UDP in",
            public.join(", ")
        ),
        true => "none of the addresses above is public: the same network reaches them directly, others only if the routers in between let them (`alknet netcheck` says what to expect)".into(),
    }
}

/// A name that no peer can have.
fn unknown_peer() -> RouteStep {
    RouteStep::Peer(PeerId::parse("peer").expect("a literal slug"))
}

impl Drop for Node {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        let shared = &self.shared;
        shared.door().begin_drain();
        shared.door().cancel_detached();
        shared.links().cut();
        shared.admission().cut();
        if let Some(relay) = &shared.relay {
            relay.cut();
        }
        shared.let_go();
        let endpoint = shared.endpoint().clone();
        // Outside of a runtime nothing runs any more, and nobody is told.
        if !endpoint.is_closed()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { endpoint.close().await });
        }
    }
}
