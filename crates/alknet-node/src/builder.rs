//! Puts a node together: configuration, stores, registry, endpoint, links.

use crate::{
    admission::{
        Admission, AdmissionLimits, Bans, Conduct, Due, Measure, Neutral, QuicHandler, Watcher,
    },
    backup,
    config::{Config, ConfigError, ConfigSource, RelaySetting},
    connectivity,
    data_dir::{DataDir, DataDirError},
    dialer::StoreDialer,
    endpoint::{self, BindError, EndpointOptions},
    files::{FilesOfPeers, open_buckets},
    find::{self, AtRest, FindHandler, Finder, PeerLookup},
    join::{self, JoinHandler},
    logs::LogBuffer,
    node::{Node, OWNER, Parts, Shared, VERSION},
    operations::{OperationsError, configured_operations, demo_operations, names},
    ops,
    records::{self, RecordedImports},
    relay::{Health, RelayParts, RelayServer, RelayServerConfig, RelayStartError, Relays},
    secrets::{Credentials, ReplaceError, settle},
    setup::{
        InitError, InitOptions, NodeKeys, OpenKeysError, init_locked, is_initialised, open_keys,
    },
    unasked::Asked,
};
use alknet_call::{SessionConfig, conduct::Watched, links::Links, quic::QuicConnection};
use alknet_core::{
    AuditRow, AuditSink, AuditWriter, Caller, Dispatcher, GrantTarget, Grants, PeerId,
    Registration, Registry, RoleName, Secret,
    files::FileService,
    storage::{
        AuditLog, EventLog, IdempotencyStore, IdentityChange, IdentityIndex, IdentityStore,
        NodeKey, PeerRecord, SharedClock, StoreError, system_clock,
    },
    transport::ProtocolHandler,
};
use alknet_exec::{
    Exec, ExecConfigError,
    net::{Net, NetConfigError, net_operations},
    shell_operations,
};
use alknet_fs::{BucketConfig, FilesConfigError, PeerFiles, file_operations, peer_operations};
use alknet_store::{InstanceLock, LockError, OpenStoreError, Store};
use alknet_vault::OpenVaultError;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use std::{
    collections::HashMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot, watch};

/// How often, and after which waits, a directory in use is tried again.
const LOCK_TRIES: u32 = 5;
const LOCK_WAIT: Duration = Duration::from_millis(40);
/// How often kept idempotency keys are looked through for old ones.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No data directory was given.
    #[error("a node needs a data directory")]
    NoDataDir,
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// Another process has it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The keys could not be made.
    #[error(transparent)]
    Init(#[from] InitError),
    /// The keys could not be read.
    #[error(transparent)]
    Keys(#[from] OpenKeysError),
    /// A replacement of the vault was interrupted, and cannot be ended.
    #[error("failed to end an interrupted replacement of the vault")]
    Settle(#[from] ReplaceError),
    /// The store does not open.
    #[error(transparent)]
    Store(#[from] OpenStoreError),
    /// The store cannot be read or written.
    #[error("failed to read the store")]
    StoreUse(#[source] StoreError),
    /// Programs cannot be run as configured.
    #[error(transparent)]
    Exec(#[from] ExecConfigError),
    /// Forwarded ports cannot be configured so.
    #[error(transparent)]
    Net(#[from] NetConfigError),
    /// Buckets cannot be configured so.
    #[error(transparent)]
    Files(#[from] FilesConfigError),
    /// Configured or embedded operations cannot be registered.
    #[error(transparent)]
    Operations(#[from] OperationsError),
    /// A relay makes no sense.
    #[error("{0}")]
    Relay(String),
    /// The relay does not start.
    #[error(transparent)]
    RelayServer(#[from] RelayStartError),
    /// The endpoint does not open.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The database is there, and the keys are gone.
    #[error("`{}` holds a node's database and no keys", .0.display())]
    KeysMissing(PathBuf),
    /// Two handlers for one protocol.
    #[error("protocol `{0}` is served already")]
    ProtocolTaken(String),
    /// A task of the runtime was lost.
    #[error("the runtime is shutting down")]
    Runtime,
}

impl StartError {
    /// The sentence that helps.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            StartError::Config(error) => error.hint(),
            StartError::Files(error) => error.hint().map(Into::into),
            StartError::DataDir(error) | StartError::Keys(OpenKeysError::DataDir(error)) => {
                error.hint()
            }
            StartError::Lock(LockError::Held { .. }) => {
                Some("stop it with `alknet down`, or use another --data-dir".into())
            }
            StartError::Init(error) => error.hint(),
            StartError::Keys(OpenKeysError::Vault(error)) => vault_hint(error),
            StartError::Keys(error) => error.passphrase_hint(),
            StartError::Store(error) => store_hint(error),
            StartError::Bind(error) => error.hint(),
            StartError::RelayServer(error) => error.hint(),
            StartError::Relay(_) => Some("--relay takes `none`, `n0` or URLs of your own".into()),
            StartError::KeysMissing(_) => Some(RESTORE.into()),
            _ => None,
        }
    }
}

/// What helps when keys are gone or broken.
const RESTORE: &str = "bring them back with its words: alknet init --restore - (once what is left of them is moved away)";

fn vault_hint(error: &OpenVaultError) -> Option<String> {
    match error {
        OpenVaultError::Exposed { path, .. } => Some(format!("chmod go= {}", path.display())),
        OpenVaultError::TooNew { .. } => Some(NEWER.into()),
        OpenVaultError::Damaged { .. }
        | OpenVaultError::KeyFileMissing { .. }
        | OpenVaultError::WrongKeyFile { .. } => Some(RESTORE.into()),
        _ => None,
    }
}

/// What helps against files of the future.
const NEWER: &str = "a newer release of alknet wrote it; update this one";

fn store_hint(error: &OpenStoreError) -> Option<String> {
    match error {
        OpenStoreError::Exposed { path, .. } => Some(format!("chmod go= {}", path.display())),
        OpenStoreError::TooNew { .. } => Some(NEWER.into()),
        OpenStoreError::Foreign { .. }
        | OpenStoreError::Damaged { .. }
        | OpenStoreError::NotAFile { .. } => Some(
            "move it away and put a copy of yours in its place, or use another --data-dir".into(),
        ),
        _ => None,
    }
}

/// Changes what the configuration says of the node's own relay.
type RelayChange = Arc<dyn Fn(&mut RelayServerConfig) + Send + Sync>;
type Override = Box<dyn Fn(&mut Config) + Send + Sync>;

/// Describes a node; [`NodeBuilder::spawn`] starts it.
#[derive(Default)]
#[must_use = "a node starts with `spawn`"]
pub struct NodeBuilder {
    data_dir: Option<PathBuf>,
    config: Option<Config>,
    config_file: Option<PathBuf>,
    name: Option<String>,
    bind: Option<SocketAddr>,
    relays: Option<Vec<String>>,
    relay: Option<RelayChange>,
    mdns: bool,
    demo: bool,
    logs: Option<LogBuffer>,
    operations: Vec<Registration>,
    buckets: Vec<BucketConfig>,
    handlers: Vec<Arc<dyn ProtocolHandler>>,
    clock: Option<SharedClock>,
    passphrase: Option<Secret>,
}

impl std::fmt::Debug for NodeBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeBuilder")
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}

impl NodeBuilder {
    /// Where the node keeps what it needs; made, with new keys, if missing.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(path.into());
        self
    }

    /// Uses this configuration and reads no file.
    pub fn config(mut self, config: Config) -> Self {
        self.config = Some(config);
        self
    }

    /// Reads this file instead of `alknet.toml` in the data directory.
    pub fn config_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.config_file = Some(path.into());
        self
    }

    /// How the node calls itself, whatever the configuration says.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// UDP address and port, whatever the configuration says.
    pub fn bind(mut self, address: SocketAddr) -> Self {
        self.bind = Some(address);
        self
    }

    /// Relays (`none`, `n0` or URLs), whatever the configuration says.
    pub fn relays(mut self, relays: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.relays = Some(relays.into_iter().map(Into::into).collect());
        self
    }

    /// Switches mDNS on, whatever the configuration says.
    pub fn mdns(mut self, mdns: bool) -> Self {
        self.mdns = mdns;
        self
    }

    /// Changes the node's own relay (`[relay]`), whatever the configuration
    /// says of it.
    pub fn relay(
        mut self,
        change: impl Fn(&mut RelayServerConfig) + Send + Sync + 'static,
    ) -> Self {
        self.relay = Some(Arc::new(change));
        self
    }

    /// Adds example operations.
    pub fn demo(mut self, demo: bool) -> Self {
        self.demo = demo;
        self
    }

    /// The log that `node/logs` shows; install it in the subscriber too.
    pub fn logs(mut self, logs: LogBuffer) -> Self {
        self.logs = Some(logs);
        self
    }

    /// Adds an operation.
    pub fn operation(mut self, operation: Registration) -> Self {
        self.operations.push(operation);
        self
    }

    /// Adds operations.
    pub fn operations(mut self, operations: impl IntoIterator<Item = Registration>) -> Self {
        self.operations.extend(operations);
        self
    }

    /// Adds a bucket, whatever the configuration says: this directory, which is
    /// absolute and should be there, under this name. Nothing leads out of it.
    pub fn bucket(self, name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        self.bucket_config(BucketConfig::new(name, path))
    }

    /// Adds a bucket with a quota, or one that is not written to.
    pub fn bucket_config(mut self, bucket: BucketConfig) -> Self {
        self.buckets.push(bucket);
        self
    }

    /// Serves another protocol on its own ALPN.
    pub fn handler(mut self, handler: Arc<dyn ProtocolHandler>) -> Self {
        self.handlers.push(handler);
        self
    }

    /// Tells the wall time by this clock.
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Opens the keys with this passphrase, if one protects them; new keys are
    /// protected by it. It is wiped when they are open.
    pub fn passphrase(mut self, passphrase: Secret) -> Self {
        self.passphrase = Some(passphrase);
        self
    }

    fn overrides(&self) -> Override {
        let (name, bind, relays) = (self.name.clone(), self.bind, self.relays.clone());
        let mdns = self.mdns;
        let relay = self.relay.clone();
        let buckets = self.buckets.clone();
        Box::new(move |config| {
            for bucket in &buckets {
                config.buckets.retain(|other| other.name != bucket.name);
                config.buckets.push(bucket.clone());
            }
            if let Some(name) = &name {
                config.name = Some(name.clone());
            }
            if let Some(bind) = bind {
                config.network.bind = Some(bind);
            }
            if let Some(relays) = &relays {
                config.network.relays = Some(relays.clone());
            }
            config.network.mdns |= mdns;
            if let Some(change) = &relay {
                change(&mut config.relay);
            }
        })
    }

    /// Starts the node; when it returns, the node serves.
    ///
    /// # Errors
    ///
    /// [`StartError`]: one sentence, and a hint where there is one.
    pub async fn spawn(mut self) -> Result<Node, StartError> {
        let data = DataDir::new(self.data_dir.clone().ok_or(StartError::NoDataDir)?);
        let overrides = self.overrides();
        let source = self.source(&data);
        let mut config = source.read()?;
        overrides(&mut config);
        config.check_name()?;
        config.check_relay()?;
        let relays = relay_settings(&config)?;
        let clock = self.clock.clone().unwrap_or_else(system_clock);
        check_protocols(&self.handlers)?;

        data.create()?;
        let lock = lock_directory(&data).await?;
        data.check_modes()?;
        settle(&data).await?;
        let (keys, store) = open_files(&data, self.passphrase.take()).await?;
        let key_version = store.sealing_key_version().await;
        keys.seals
            .use_version(key_version.map_err(StartError::StoreUse)?);
        let (audit, writer) = AuditWriter::new();
        let started_at = clock();

        let exec = Exec::new(config.exec.clone())?;
        let net = Net::new(config.net.clone())?;
        let buckets = open_buckets(&config, &data).await?;
        let (configured, scopes) = configured_operations(&config, &exec, data.path())?;
        let roles = config.role_set(scopes)?;
        let identity_store: Arc<dyn IdentityStore> = Arc::new(store.clone());
        let identities = IdentityIndex::load(identity_store, roles, clock.clone())
            .await
            .map_err(StartError::StoreUse)?;
        let identities = Arc::new(identities);
        ensure_owner(&identities, keys.owner_public).await?;

        let quic = config.limits.quic();
        let known_relays = Relays::new(&relays);
        let finder = Finder::open(
            store.clone(),
            identities.clone(),
            known_relays.clone(),
            (keys.node.clone(), AtRest::new(keys.seals.clone())),
            config.network.gossip,
        );
        let finder = Arc::new(finder.await.map_err(StartError::StoreUse)?);
        let bans = Bans::load(store.clone(), clock.clone(), config.bans.bans_max);
        let bans = Arc::new(bans.await.map_err(StartError::StoreUse)?);
        let (conduct, bans_due) = Conduct::new(identities.clone(), bans, measure(&config));
        let admission = Admission::new(
            identities.clone(),
            conduct.clone(),
            admission_limits(&config),
        );
        let endpoint = endpoint::open(
            &data,
            EndpointOptions {
                key: keys.node.clone(),
                bind: config.network.bind,
                relays: &known_relays,
                n0: relays.contains(&RelaySetting::N0),
                port_mapping: config.network.port_mapping,
                limits: quic,
                // None yet: the protocols are set once they can be served.
                alpns: Vec::new(),
            },
        )
        .await?;
        conduct.set_own(bound_addresses(&endpoint));

        let relay = match config.relay.enabled {
            true => {
                let parts = RelayParts {
                    config: &config.relay,
                    data: &data,
                    identities: identities.clone(),
                    bans: conduct.bans.clone(),
                    audit: audit.clone(),
                    own: *keys.node.public().as_bytes(),
                    clock: clock.clone(),
                };
                let relay = RelayServer::start(parts).await?;
                known_relays.be(&endpoint, &relay).await;
                Some(relay)
            }
            false => None,
        };

        let name = config.name.clone().unwrap_or_else(host_name);
        let store_for_shared: Arc<Store> = Arc::new(store.clone());
        let shared = Arc::new(Shared {
            source,
            config: Mutex::new(config.clone()),
            reloading: tokio::sync::Mutex::new(()),
            editing: tokio::sync::Mutex::new(()),
            overrides,
            identities: identities.clone(),
            audit_log: store_for_shared.clone() as Arc<dyn AuditLog>,
            events: store_for_shared.clone() as Arc<dyn EventLog>,
            imports: Arc::new(RecordedImports::new(store.clone(), clock.clone())),
            logs: self.logs.clone().unwrap_or_default(),
            exec: exec.clone(),
            buckets: buckets.clone(),
            name: name.clone(),
            relays,
            known_relays: known_relays.clone(),
            relay_health: Health::default(),
            relay,
            finder: finder.clone(),
            key: *keys.node.public().as_bytes(),
            credentials: Arc::new(Credentials::new(
                store.clone(),
                identities.clone(),
                keys.seals.clone(),
                data.path().to_owned(),
                *keys.node.public().as_bytes(),
            )),
            started: Instant::now(),
            started_at,
            stop: watch::Sender::new(None),
            places: ArcSwap::default(),
            configured: Mutex::new(names(&configured)),
            parts: OnceLock::new(),
            data,
        });

        let registry = Registry::new();
        let mut operations = ops::builtin(&shared);
        operations.extend(shell_operations(&exec));
        operations.extend(net_operations(&net));
        let files: Arc<dyn FileService> = buckets;
        let peers: Arc<dyn PeerFiles> = Arc::new(FilesOfPeers(shared.clone()));
        operations.extend(file_operations(&files));
        operations.extend(peer_operations(&files, &peers));
        operations.extend(configured);
        if self.demo {
            operations.extend(demo_operations());
        }
        operations.extend(self.operations);
        shared.credentials.serve(registry.clone());
        let handed = shared.credentials.hand_to(&operations).await;
        handed.map_err(StartError::StoreUse)?;
        registry
            .register(operations)
            .map_err(OperationsError::Registration)?;
        Asked::by(&registry).warn_of_roles(&identities.roles());

        let known = identities.clone();
        let door = Dispatcher::builder(registry)
            .identities(admission.unbarred.clone())
            .idempotency(store_for_shared.clone() as Arc<dyn IdempotencyStore>)
            .audit(audit.clone())
            .limits(config.limits.door())
            .node(name.clone(), shared.key)
            .owner(PeerId::parse(OWNER).expect("a literal slug"))
            .known_peers(move || {
                let peers = known.snapshot().peers.into_iter();
                let others = peers.filter(|peer| peer.id.as_str() != OWNER);
                others.map(|peer| peer.id).collect()
            })
            .clock(clock)
            .run(rand::random())
            .build();
        let dialer = Arc::new(StoreDialer {
            endpoint: endpoint.clone(),
            identities: identities.clone(),
            admission: admission.clone(),
            relays: known_relays.clone(),
            finder: finder.clone(),
        });
        if let Ok(lookups) = endpoint.address_lookup() {
            lookups.add(PeerLookup(Arc::downgrade(&finder)));
        }
        let session = SessionConfig {
            software: format!("alknet/{VERSION}"),
            node_name: name.clone(),
            watched: Watched::by(Arc::new(Watcher(conduct.clone()))),
            ..SessionConfig::default()
        };
        let links = Links::new(
            door.clone(),
            dialer.clone(),
            session,
            shared.imports.clone(),
        );
        door.set_forwarder(links.forwarder());
        let parts = Parts {
            door,
            endpoint: endpoint.clone(),
            admission: admission.clone(),
            dialer,
            links: links.clone(),
        };
        if shared.parts.set(parts).is_err() {
            return Err(StartError::Runtime);
        }

        // Only now: a start that failed until here changed nothing, and the
        // next one has no crash to tell of.
        records::started(&store, started_at, VERSION)
            .await
            .map_err(StartError::StoreUse)?;
        let node_id = alknet_core::storage::hex32::encode(&shared.key);
        let noted = store.note_node(&node_id).await;
        noted.map_err(StartError::StoreUse)?;
        let (audit_stop, stopped) = oneshot::channel::<()>();
        let log = shared.audit_log.clone();
        let audit_task = tokio::spawn(async move {
            let stop = async {
                // A sender that is gone says the same.
                let _ = stopped.await;
            };
            let written = writer.run(log, stop).await;
            if let Err(cause) = &written {
                tracing::error!(%cause, "audit rows were lost");
            }
            written.is_ok()
        });

        shared.refresh_places();
        serve_protocols(&shared, &endpoint, &admission, &audit, self.handlers);
        let tasks = spawn_tasks(&shared, &endpoint, &admission, store.clone(), bans_due);
        for peer in &identities.snapshot().peers {
            shared.keep_link(&peer.id);
        }
        let node = Node {
            shared,
            store,
            lock: Some(lock),
            audit,
            tasks,
            audit_stop: Some(audit_stop),
            audit_task: Some(audit_task),
        };
        if let Err(error) = node.shared.data.write_runtime(&node.shared.runtime()) {
            node.shutdown(Duration::ZERO).await;
            return Err(error.into());
        }
        tracing::info!(name = %node.shared.name, "ready");
        Ok(node)
    }

    fn source(&self, data: &DataDir) -> ConfigSource {
        if let Some(config) = &self.config {
            return ConfigSource::Given(Box::new(config.clone()));
        }
        let path = self.config_file.clone().unwrap_or_else(|| data.config());
        let required = self.config_file.is_some() || path.exists();
        ConfigSource::File { path, required }
    }
}

/// The built-in protocols are not replaced, and none is served twice.
fn check_protocols(handlers: &[Arc<dyn ProtocolHandler>]) -> Result<(), StartError> {
    let mut taken = vec![alknet_call::ALPN, join::ALPN, find::ALPN];
    for handler in handlers {
        if taken.contains(&handler.alpn()) {
            let name = String::from_utf8_lossy(handler.alpn()).into_owned();
            return Err(StartError::ProtocolTaken(name));
        }
        taken.push(handler.alpn());
    }
    Ok(())
}

/// Whoever asks whether a node runs holds the lock for an instant: that is
/// waited out.
async fn lock_directory(data: &DataDir) -> Result<InstanceLock, LockError> {
    for _ in 0..LOCK_TRIES {
        match InstanceLock::acquire(data.path()) {
            Err(LockError::Held { .. }) => tokio::time::sleep(LOCK_WAIT).await,
            taken => return taken,
        }
    }
    InstanceLock::acquire(data.path())
}

fn relay_settings(config: &Config) -> Result<Vec<RelaySetting>, StartError> {
    let texts = config.network.relays.iter().flatten();
    let parsed: Result<Vec<RelaySetting>, String> =
        texts.map(|text| RelaySetting::parse(text)).collect();
    let parsed = parsed.map_err(StartError::Relay)?;
    if parsed.contains(&RelaySetting::None) && parsed.len() > 1 {
        return Err(StartError::Relay("relay `none` excludes others".into()));
    }
    Ok(parsed)
}

fn admission_limits(config: &Config) -> AdmissionLimits {
    AdmissionLimits {
        connections_per_identity_max: config.limits.connections_per_identity_max,
        connections_per_address_max: config.limits.connections_per_address_max,
        handshakes_per_address: config.limits.handshakes_per_address,
        handshakes_total: config.limits.handshakes_total,
        connections_of_strangers_max: config.limits.connections_of_strangers_max,
        connections_per_node_max: config.limits.connections_per_node_max,
        handshakes_in_flight_per_address: config.limits.handshakes_in_flight_per_address,
        idle: config.limits.quic().idle,
    }
}

/// Addresses at which this node alone listens, if it does not at all of them:
/// its command line comes from there.
fn bound_addresses(endpoint: &iroh::Endpoint) -> Vec<std::net::IpAddr> {
    let bound = endpoint.bound_sockets().into_iter();
    let bound = bound.map(|socket| socket.ip().to_canonical());
    bound.filter(|address| !address.is_unspecified()).collect()
}

fn measure(config: &Config) -> Measure {
    Measure {
        failures_before_delay: config.limits.failures_before_delay,
        delay_max: Duration::from_millis(config.limits.failure_delay_max_ms),
        bans: config.bans.clone(),
    }
}

/// Keys and store, off the runtime's threads: both wait for the disk.
async fn open_files(
    data: &DataDir,
    passphrase: Option<Secret>,
) -> Result<(NodeKeys, Store), StartError> {
    let data = data.clone();
    let opened = tokio::task::spawn_blocking(move || {
        if !is_initialised(data.path()) {
            // With new keys it would be another node, which none of its peers
            // knows.
            if data.database().exists() {
                return Err(StartError::KeysMissing(data.path().to_owned()));
            }
            let options = InitOptions {
                passphrase: passphrase.as_ref(),
                ..InitOptions::default()
            };
            init_locked(data.path(), &options)?;
        }
        backup::sweep(data.path());
        let keys = open_keys(&data, passphrase.as_ref())?;
        if data.has_run() && !data.database().exists() {
            tracing::warn!(
                path = %data.database().display(),
                "the database is gone: the node starts without peers, grants and history"
            );
        }
        let store = Store::open(&data.database())?;
        Ok::<_, StartError>((keys, store))
    });
    opened.await.map_err(|_| StartError::Runtime)?
}

/// The command line's own peer, with the role `admin`.
async fn ensure_owner(identities: &IdentityIndex, key: [u8; 32]) -> Result<(), StartError> {
    let row = AuditRow::event(identities.now(), "node", "node/init");
    if let Some(mut owner) = identities.peer(OWNER) {
        if owner.node_key() == Some(&key) {
            return Ok(());
        }
        // The words of another node were restored into this directory.
        owner.node_keys = vec![NodeKey { key, until: None }];
        let change = IdentityChange::UpdatePeer(owner);
        let changed = identities.apply(change, row).await;
        return changed.map_err(StartError::StoreUse);
    }
    let id = PeerId::parse(OWNER).expect("a literal slug");
    let mut owner = PeerRecord::new(id, identities.now());
    owner.node_keys = vec![NodeKey { key, until: None }];
    owner.grants = Grants::from_iter([GrantTarget::Role(
        RoleName::parse("admin").expect("a literal slug"),
    )]);
    identities
        .apply(IdentityChange::AddPeer(owner), row)
        .await
        .map_err(StartError::StoreUse)
}

fn host_name() -> String {
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    PeerId::from_text(name.split('.').next().unwrap_or_default())
        .map_or_else(|| "node".into(), |id| id.to_string())
}

struct CallHandler {
    links: Links,
    finder: Arc<Finder>,
}

#[async_trait]
impl QuicHandler for CallHandler {
    async fn serve(&self, connection: QuicConnection, caller: Caller) {
        let serving = async {
            if let Err(cause) = self.links.serve(connection.clone(), caller).await {
                tracing::debug!(%cause, "a connection ended before it was used");
            }
        };
        let watching = find::watch(self.finder.clone(), &connection);
        tokio::pin!(serving);
        tokio::select! {
            () = &mut serving => {}
            // The connection is closed: what is left is to say so.
            () = watching => serving.await,
        }
    }
}

fn serve_protocols(
    shared: &Arc<Shared>,
    endpoint: &iroh::Endpoint,
    admission: &Arc<Admission>,
    audit: &AuditSink,
    handlers: Vec<Arc<dyn ProtocolHandler>>,
) {
    let (places, joined) = (shared.clone(), shared.clone());
    let join = JoinHandler {
        relays: shared.known_relays.clone(),
        identities: shared.identities.clone(),
        node_name: shared.name.clone(),
        own_addresses: Box::new(move || places.own_addresses()),
        joined: Box::new(move |peer| joined.keep_link(peer)),
        finder: shared.finder.clone(),
        audit: audit.clone(),
        conduct: admission.conduct.clone(),
        waiting: join::Waiting::default(),
    };
    admission.serve_alpn(
        endpoint,
        alknet_call::ALPN,
        Arc::new(CallHandler {
            links: shared.links().clone(),
            finder: shared.finder.clone(),
        }),
    );
    if shared.finder.gossips() {
        let find = FindHandler::new(shared.finder.clone());
        admission.serve_alpn(endpoint, find::ALPN, Arc::new(find));
    }
    admission.serve_alpn(endpoint, join::ALPN, Arc::new(join));
    for handler in handlers {
        let alpn = handler.alpn().to_vec();
        let door = shared.door().clone();
        admission.serve_alpn(endpoint, &alpn, Arc::new(Neutral { handler, door }));
    }
}

fn spawn_tasks(
    shared: &Arc<Shared>,
    endpoint: &iroh::Endpoint,
    admission: &Arc<Admission>,
    store: Store,
    bans_due: mpsc::Receiver<Due>,
) -> Vec<tokio::task::JoinHandle<()>> {
    let mut tasks = vec![
        tokio::spawn(admission.clone().accept_loop(endpoint.clone())),
        tokio::spawn(admission.clone().watch_rights()),
        tokio::spawn(admission.clone().keep_bans(bans_due)),
    ];
    tasks.push(tokio::spawn(shared.credentials.clone().follow()));
    let identities = shared.identities.clone();
    tasks.push(tokio::spawn(async move { identities.expire().await }));
    let identities = shared.identities.clone();
    tasks.push(tokio::spawn(async move { identities.note_uses().await }));
    let following = connectivity::follow(shared.clone(), endpoint.clone());
    tasks.push(tokio::spawn(following));
    if shared.finder.gossips() {
        tasks.push(tokio::spawn(find::tell(shared.clone())));
        tasks.push(tokio::spawn(find::follow_moves(shared.clone())));
    }
    if shared.uses_mdns() {
        let seen = shared.clone();
        match find::announce(endpoint, &shared.finder, move |peer| seen.keep_link(peer)) {
            Ok(announcing) => tasks.push(tokio::spawn(announcing)),
            Err(cause) => tracing::warn!(%cause, "mDNS was switched on and cannot be used here"),
        }
    }
    tasks.push(tokio::spawn(records::tell_of_links(shared.clone())));
    tasks.push(tokio::spawn(records::retain(shared.clone())));
    let seeing = shared.clone();
    tasks.push(tokio::spawn(async move { note_seen(seeing).await }));
    let (identities, kept) = (
        shared.identities.clone(),
        alknet_core::Limits::default().idempotency_kept,
    );
    tasks.push(tokio::spawn(async move {
        loop {
            let before = alknet_core::storage::Timestamp(
                identities.now().0 - i64::try_from(kept.as_millis()).unwrap_or(i64::MAX),
            );
            if let Err(cause) = store.prune(before).await {
                tracing::warn!(%cause, "old idempotency keys were not removed");
            }
            tokio::time::sleep(PRUNE_EVERY).await;
        }
    }));
    let health = shared.relay_health.clone();
    let relays = shared.known_relays.clone();
    tasks.push(tokio::spawn(health.follow(endpoint.clone(), relays)));
    if let Some(relay) = &shared.relay {
        let watching = relay.gate.clone().watch(admission.stop.clone());
        tasks.push(tokio::spawn(watching));
    }
    tasks
}

/// Notes when a peer connects and when it goes, for `last_seen_at`.
async fn note_seen(shared: Arc<Shared>) {
    let mut events = shared.links().events();
    // Events tell of paths too: a link is noted once.
    let mut connected = HashMap::new();
    loop {
        match events.recv().await {
            Ok(event) => {
                let news = match event.report.state {
                    alknet_call::links::LinkState::Connected => {
                        let since = event.report.since;
                        connected.insert(event.peer.clone(), since) != Some(since)
                    }
                    _ => connected.remove(&event.peer).is_some(),
                };
                if !news {
                    continue;
                }
                if let Err(cause) = shared.identities.seen(&event.peer, None).await {
                    tracing::debug!(peer = %event.peer, %cause, "not noted as seen");
                }
            }
            Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
            Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
        }
    }
}
