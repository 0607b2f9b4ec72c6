//! The one place that touches the `alknet` library, so that a change of its
//! interface is a change of this file.

use crate::{
    commands::relay::ServerArgs,
    failure::{Exit, Failure},
};
use alknet::{
    Client, Input, OperationName,
    node::{self, control},
};
use serde_json::Value;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

#[cfg(test)]
pub(crate) use alknet::Violation;
pub(crate) use alknet::files::{
    Algorithm as DigestAlgorithm, Attributes as FileAttributes, BucketInfo, BucketRef, ByteRange,
    FILE_PATH_BYTES_MAX, FileError, FileKind, FileName, FilePath, FileStat, FileTime, ListEntry,
    PathError, SMALL_FILE_BYTES_MAX, SetTime, escape_name, root, stream, unescape_name,
};
pub(crate) use alknet::net::{CarryError, bind, carry};
pub(crate) use alknet::node::relay::{QadSetting, RelayServerConfig};
pub(crate) use alknet::node::{StoreFacts as Facts, backup};
pub(crate) use alknet::storage::Timestamp;
pub(crate) use alknet::{
    ApiKey, ByteReceiver, ByteSender, CallError, ChannelCall, ChannelDone, Chunk, ErrorCode,
    GrantTarget, Interaction, InteractionEvent, Kind, PeerId, Route, RouteStep,
    SSH_KEY_TEXT_BYTES_MAX, Secret, SshPublicKey, Subscription, nearest,
    node::{
        Config, ConfigError, InitReport, LogBuffer, Protection, RelaySetting, Replaced,
        Replacement, Runtime, is_initialised,
    },
    parse_route, terminal_modes,
};

/// What a call may be told beside its input.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallOptions {
    pub(crate) route: Route,
    pub(crate) timeout: Option<Duration>,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) interaction: Interaction,
}

/// The running node of a data directory, called as its owner.
#[derive(Debug)]
pub(crate) struct Home(control::LocalNode);

impl Home {
    /// As the owner, or with an API key.
    pub(crate) async fn connect(dir: &Path, key: Option<&ApiKey>) -> Result<Self, Failure> {
        let connected = control::connect_as(dir, key).await;
        connected.map(Self).map_err(|error| {
            let (exit, code) = match &error {
                control::ConnectError::NotRunning(_) => (Exit::UNREACHABLE, "NOT_RUNNING"),
                control::ConnectError::NoAnswer { .. } => (Exit::UNREACHABLE, "NO_ANSWER"),
                control::ConnectError::KeyRefused => (Exit::NOT_ALLOWED, "UNAUTHENTICATED"),
                _ => (Exit::FAILED, "LOCAL"),
            };
            Failure::new(exit, code, sentence(&error)).hint_if(error.hint())
        })
    }

    pub(crate) async fn close(self) {
        self.0.close().await;
    }

    /// What the node calls itself.
    pub(crate) fn name(&self) -> &str {
        &self.0.runtime.name
    }

    /// What it told when it started.
    pub(crate) fn runtime(&self) -> &Runtime {
        &self.0.runtime
    }

    pub(crate) async fn call(
        &self,
        operation: &str,
        input: Value,
        options: CallOptions,
    ) -> Result<Value, CallError> {
        well_named(operation)?;
        self.client(options).call_json(operation, &input).await
    }

    pub(crate) async fn subscribe(
        &self,
        operation: &str,
        input: Value,
        options: CallOptions,
    ) -> Result<Subscription, CallError> {
        well_named(operation)?;
        self.client(options)
            .subscribe_output(operation, Input::Value(input))
            .await
    }

    pub(crate) async fn open(
        &self,
        operation: &str,
        input: Value,
        options: CallOptions,
    ) -> Result<ChannelCall, CallError> {
        well_named(operation)?;
        self.client(options).open(operation, &input).await
    }

    /// The same for tasks of their own.
    pub(crate) fn opener(&self, options: CallOptions) -> Opener {
        Opener(self.client(options))
    }

    /// Waits until the node has gone.
    pub(crate) async fn closed(&self) {
        self.0.closed().await;
    }

    fn client(&self, options: CallOptions) -> Client {
        let mut client = self
            .0
            .client
            .on(options.route)
            .interaction(options.interaction);
        if let Some(timeout) = options.timeout {
            client = client.timeout(timeout);
        }
        if let Some(key) = options.idempotency_key {
            client = client.idempotency_key(key);
        }
        client
    }
}

/// A way to one place, for many calls at a time. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Opener(Client);

impl Opener {
    pub(crate) async fn open(
        &self,
        operation: &str,
        input: &Value,
    ) -> Result<ChannelCall, CallError> {
        self.0.open(operation, input).await
    }

    pub(crate) async fn subscribe(
        &self,
        operation: &str,
        input: &Value,
    ) -> Result<Subscription, CallError> {
        let input = Input::Value(input.clone());
        self.0.subscribe_output(operation, input).await
    }

    pub(crate) async fn call(&self, operation: &str, input: &Value) -> Result<Value, CallError> {
        self.0.call_json(operation, input).await
    }
}

/// Says what is wrong with a text that cannot be an operation's name.
fn well_named(operation: &str) -> Result<(), CallError> {
    OperationName::parse(operation).map(drop).map_err(|error| {
        CallError::new(
            ErrorCode::NotFound,
            format!("`{operation}` is no operation: {error}"),
        )
    })
}

/// An error with its causes, as one sentence.
pub(crate) fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // A transparent error says its cause already.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// What the node of a data directory wrote when it became ready.
pub(crate) fn runtime(dir: &Path) -> Option<Runtime> {
    control::runtime(dir)
}

/// Whether a process holds the data directory.
pub(crate) fn is_running(dir: &Path) -> bool {
    control::is_running(dir)
}

/// `alknet.toml` in the data directory.
pub(crate) fn config_path(dir: &Path) -> PathBuf {
    node::DataDir::new(dir).config()
}

/// Makes a data directory with keys.
pub(crate) fn init(
    dir: &Path,
    words: Option<&str>,
    passphrase: Option<&Secret>,
) -> Result<InitReport, Failure> {
    node::init(dir, &node::InitOptions { words, passphrase })
        .map_err(|error| Failure::new(Exit::FAILED, "INIT", sentence(&error)).hint_if(error.hint()))
}

/// What is wrong with a file, and what helps.
#[derive(Debug)]
pub(crate) struct Findings {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

/// The buckets of a configuration, the inbox among them.
pub(crate) fn buckets(
    config: &Config,
    dir: &Path,
) -> Result<Vec<alknet::files::BucketConfig>, Findings> {
    node::buckets(config, dir).map_err(|error| Findings {
        message: sentence(&error),
        hint: error.hint(),
    })
}

/// Checks the parts of a configuration that this machine decides.
pub(crate) fn check_config(config: &Config, dir: &Path) -> Result<(), Findings> {
    node::check_config(config, dir).map_err(|error| Findings {
        message: sentence(&error),
        hint: error.hint(),
    })
}

/// Opens the keys; says which node's they are.
pub(crate) fn check_keys(dir: &Path) -> Result<String, Findings> {
    match node::check_keys(dir) {
        Ok(Some(node_id)) => Ok(format!("of node {node_id}")),
        Ok(None) => Ok("protected by a passphrase, and not opened".into()),
        Err(error) => {
            let message = sentence(&error);
            let error = node::StartError::from(error);
            Err(Findings {
                message,
                hint: error.hint(),
            })
        }
    }
}

/// What helps when the keys are gone.
pub(crate) const KEYS_BACK: &str = "bring them back: alknet restore, with a backup, into another --data-dir; or alknet init --restore -, with the words";

/// What helps when the database is gone.
pub(crate) const DATABASE_BACK: &str = "bring it back: alknet restore, with a backup, into another --data-dir; `alknet up` makes an empty one";

/// Whether there is a database, of whatever node.
pub(crate) fn has_database(dir: &Path) -> bool {
    node::DataDir::new(dir).database().exists()
}

/// Whether a node has run here, and its database is not there.
pub(crate) fn has_lost_database(dir: &Path) -> bool {
    let data = node::DataDir::new(dir);
    is_initialised(dir) && data.has_run() && !data.database().exists()
}

/// Looks for damage in the database.
pub(crate) fn check_database(dir: &Path, deep: bool) -> Result<String, Findings> {
    let found = match deep {
        true => node::check_database_deep(dir),
        false => node::check_database(dir),
    };
    match found {
        Ok(true) => Ok("is whole".into()),
        Ok(false) if has_lost_database(dir) => Err(Findings {
            message: "it is gone: a node has run here".into(),
            hint: Some(DATABASE_BACK.into()),
        }),
        Ok(false) => Ok("there is none yet".into()),
        Err(error) => {
            let message = sentence(&error);
            let error = node::StartError::from(error);
            Err(Findings {
                message,
                hint: error.hint(),
            })
        }
    }
}

/// Whose keys a data directory holds, if they open by themselves.
pub(crate) fn node_id(dir: &Path) -> Option<String> {
    node::check_keys(dir).ok().flatten()
}

/// Counts what is in the database of a data directory. Blocks.
pub(crate) fn inspect(
    dir: &Path,
    now: Timestamp,
    soon: Timestamp,
    since: Timestamp,
) -> Result<Option<Facts>, Findings> {
    node::inspect(dir, now, soon, since).map_err(|error| Findings {
        message: sentence(&error),
        hint: None,
    })
}

/// The time of this machine's clock.
pub(crate) fn now() -> Timestamp {
    alknet::storage::system_clock()()
}

/// The vault of a data directory, under a passphrase of a backup's own. Blocks.
pub(crate) fn wrapped_vault(dir: &Path, passphrase: &str) -> Result<Vec<u8>, Failure> {
    backup::wrapped_vault(dir, passphrase).map_err(|error| {
        Failure::new(Exit::FAILED, "BACKUP", sentence(&error)).hint_if(error.hint())
    })
}

/// What protects the keys of a data directory; nothing if there are none.
pub(crate) fn protection(dir: &Path) -> Result<Option<Protection>, Failure> {
    node::protection(dir).map_err(|error| Failure::local(sentence(&error)))
}

/// Protects the keys by another passphrase, or by a key file. Blocks.
pub(crate) fn protect(
    dir: &Path,
    old: Option<&Secret>,
    new: Option<&Secret>,
) -> Result<(), Failure> {
    node::protect(dir, old, new)
        .map_err(|error| Failure::new(Exit::FAILED, "VAULT", sentence(&error)))
}

/// Draws new words for the node of a data directory, which must not run.
pub(crate) async fn prepare_replacement(
    dir: &Path,
    passphrase: Option<Secret>,
) -> Result<Replacement, Failure> {
    let prepared = Replacement::prepare(dir, passphrase).await;
    prepared.map_err(|error| not_replaced(&error))
}

/// Puts what was prepared into its place.
pub(crate) async fn replace(replacement: Replacement) -> Result<Replaced, Failure> {
    let replaced = replacement.commit().await;
    replaced.map_err(|error| not_replaced(&error))
}

fn not_replaced(error: &node::ReplaceError) -> Failure {
    Failure::new(Exit::FAILED, "VAULT", sentence(error)).hint_if(error.hint())
}

/// Whether a passphrase, and no key file, wraps the vault of a data directory.
pub(crate) fn has_passphrase(dir: &Path) -> bool {
    backup::has_passphrase(dir)
}

/// Looks at relays without a node.
pub(crate) async fn check_relays(relays: &[String]) -> Value {
    serde_json::to_value(node::relay::check_relays(relays).await).unwrap_or_default()
}

/// Checks the certificate that the node's own relay would use.
pub(crate) fn check_own_relay(config: &Config, dir: &Path) -> Result<(), Findings> {
    node::relay::check_own_relay(&config.relay, dir).map_err(|error| Findings {
        message: sentence(&error),
        hint: error.hint(),
    })
}

/// Looks at the network as the node of a data directory would use it.
pub(crate) async fn netcheck(
    dir: &Path,
    relays: Vec<String>,
    port_mapping: bool,
    is_running: bool,
) -> Result<Value, Failure> {
    let options = node::netcheck::NetcheckOptions {
        relays,
        port_mapping,
        is_running,
    };
    let found = node::netcheck::check_network(dir, options).await;
    match found {
        Ok(report) => Ok(serde_json::to_value(report).unwrap_or_default()),
        Err(error @ node::netcheck::NetcheckError::Relay(_)) => {
            Err(Failure::usage(sentence(&error)).hint(
                "--relay takes `n0`, or addresses as `alknet relay` prints them: 'https://203.0.113.1/#sha256=...'",
            ))
        }
        Err(error) => Err(Failure::local(sentence(&error)).hint("alknet doctor")),
    }
}

/// The UDP port that the node took at its first start.
pub(crate) fn kept_port(dir: &Path) -> Option<u16> {
    node::DataDir::new(dir).kept_port()
}

/// What `up` starts.
pub(crate) struct Launch {
    pub(crate) dir: PathBuf,
    /// Read if it exists.
    pub(crate) config: PathBuf,
    pub(crate) bind: Option<SocketAddr>,
    pub(crate) relays: Vec<String>,
    /// Looks for peers on the LAN, whatever the configuration says.
    pub(crate) mdns: bool,
    /// Makes it a relay.
    pub(crate) relay: Option<ServerArgs>,
    pub(crate) demo: bool,
    pub(crate) logs: LogBuffer,
    /// Opens the keys, if one protects them.
    pub(crate) passphrase: Option<Secret>,
}

/// A node inside this process.
pub(crate) struct RunningNode(node::Node);

impl RunningNode {
    pub(crate) async fn start(launch: Launch) -> Result<Self, Failure> {
        let mut builder = node::Node::builder()
            .data_dir(launch.dir)
            .mdns(launch.mdns)
            .demo(launch.demo)
            .logs(launch.logs);
        if launch.config.exists() {
            builder = builder.config_file(launch.config);
        }
        if let Some(bind) = launch.bind {
            builder = builder.bind(bind);
        }
        if !launch.relays.is_empty() {
            builder = builder.relays(launch.relays);
        }
        if let Some(passphrase) = launch.passphrase {
            builder = builder.passphrase(passphrase);
        }
        if let Some(server) = launch.relay {
            builder = builder.relay(move |config| server.apply(config));
        }
        let started = builder.spawn().await;
        started.map(Self).map_err(|error| {
            Failure::new(Exit::FAILED, "START", sentence(&error)).hint_if(error.hint())
        })
    }

    /// The same fields as `node/info`.
    pub(crate) fn status(&self) -> Value {
        serde_json::to_value(self.0.status()).unwrap_or_default()
    }

    /// Its node id.
    pub(crate) fn id(&self) -> String {
        self.0.status().node_id
    }

    /// Waits until `node/shutdown` was called; how long calls may take then.
    pub(crate) async fn stopping(&self) -> Duration {
        self.0.stopping().await
    }

    /// How long calls may take when a signal stops the node.
    pub(crate) fn drain_time(&self) -> Duration {
        self.0.drain_time()
    }

    /// Reads the configuration again; the log says what came of it.
    pub(crate) async fn reload(&self) {
        if let Err(error) = self.0.reload().await {
            tracing::error!(cause = %sentence(&error), "the configuration was not read again");
        }
    }

    /// Stops in order. Dropping the future stops at once.
    pub(crate) async fn stop(self, drain: Duration) {
        self.0.shutdown(drain).await;
    }
}
