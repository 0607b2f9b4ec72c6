//! How the command line reaches the node of its data directory: over loopback
//! QUIC, as the peer `owner` or with an API key.

use crate::data_dir::{DataDir, DataDirError, Runtime};
use alknet_call::{
    ALPN, Bearer, Client, Session, SessionConfig, SessionError,
    quic::{QuicConnection, QuicLimits},
};
use alknet_core::{ApiKey, Caller};
use iroh::{
    Endpoint, EndpointAddr, EndpointId, RelayMode, SecretKey, TransportAddr,
    endpoint::{NetReportConfig, PortmapperConfig, presets},
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::time::timeout;

/// Time for reaching the node of this machine.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Why the node was not reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// None runs with this data directory.
    #[error("no node is running with data directory `{0}`")]
    NotRunning(String),
    /// It runs and does not answer.
    #[error("the node (process {pid}) does not answer: {reason}")]
    NoAnswer {
        /// Its process.
        pid: u32,
        /// What the network said.
        reason: String,
    },
    /// The API key that was given is not accepted.
    #[error(
        "the node does not accept the API key: it is unknown, revoked or expired, or its peer is kept out"
    )]
    KeyRefused,
    /// The owner's key cannot be read.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
}

impl ConnectError {
    /// The command that helps.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            ConnectError::NotRunning(_) => Some("alknet up".into()),
            ConnectError::NoAnswer { .. } => Some("alknet doctor".into()),
            ConnectError::KeyRefused => Some("ask who made the key: alknet keys list".into()),
            ConnectError::DataDir(error) => error.hint(),
        }
    }
}

/// A connection to the node of a data directory.
#[derive(Debug)]
pub struct LocalNode {
    /// Calls its operations as `owner`, or as the key that was given.
    pub client: Client,
    /// What it told when it started.
    pub runtime: Runtime,
    session: Arc<Session>,
    endpoint: Endpoint,
}

impl LocalNode {
    /// Ends the connection.
    pub async fn close(self) {
        self.session
            .close(alknet_call::connection_code::DONE, "done");
        self.endpoint.close().await;
    }

    /// Waits until the node has closed the connection.
    pub async fn closed(&self) {
        self.session.closed().await;
    }
}

/// Whether a node runs with this data directory.
#[must_use]
pub fn is_running(dir: &Path) -> bool {
    // Nothing is made in a directory that no node was ever in.
    dir.join("lock").exists()
        && matches!(
            alknet_store::InstanceLock::acquire(dir),
            Err(alknet_store::LockError::Held { .. })
        )
}

/// What the node of this data directory told when it became ready.
#[must_use]
pub fn runtime(dir: &Path) -> Option<Runtime> {
    DataDir::new(dir).runtime()
}

/// Connects to the running node of a data directory, as its owner.
///
/// # Errors
///
/// [`ConnectError`] that tells a node that is not running from one that does
/// not answer.
pub async fn connect(dir: &Path) -> Result<LocalNode, ConnectError> {
    connect_as(dir, None).await
}

/// Connects to the running node of a data directory. With an API key the
/// connection is that key's: calls are made, refused and recorded as such. It
/// is the owner's connection that carries them, so the owner's key must be
/// readable all the same.
///
/// # Errors
///
/// As [`connect`], and [`ConnectError::KeyRefused`].
pub async fn connect_as(dir: &Path, key: Option<&ApiKey>) -> Result<LocalNode, ConnectError> {
    let data = DataDir::new(dir);
    let not_running = || ConnectError::NotRunning(dir.display().to_string());
    let runtime = data.runtime().ok_or_else(not_running)?;
    if !is_running(dir) {
        return Err(not_running());
    }
    let owner = SecretKey::from_bytes(&*data.read_owner_key()?);
    let no_answer = |reason: String| ConnectError::NoAnswer {
        pid: runtime.pid,
        reason,
    };
    let dialling = async {
        let (endpoint, address) = endpoint(owner, &runtime).await.map_err(&no_answer)?;
        let connection = endpoint
            .connect(address, ALPN)
            .await
            .map_err(|error| no_answer(error.to_string()))?;
        let connection = Arc::new(QuicConnection::new(connection));
        let config = SessionConfig {
            software: format!("alknet-cli/{}", crate::node::VERSION),
            credential: key.map(|key| Bearer::new(key.expose())),
            ..SessionConfig::default()
        };
        let started = Session::start(connection, None, Caller::anonymous(), config).await;
        let session = started.map_err(|error| match error {
            SessionError::Unauthenticated if key.is_some() => ConnectError::KeyRefused,
            error => no_answer(error.to_string()),
        })?;
        Ok::<_, ConnectError>((endpoint, session))
    };
    let dialled = timeout(CONNECT_MAX, dialling)
        .await
        .map_err(|_| no_answer("no answer in time".into()))?;
    let (endpoint, session) = dialled?;
    Ok(LocalNode {
        client: Client::over(session.clone()),
        runtime,
        session,
        endpoint,
    })
}

async fn endpoint(owner: SecretKey, runtime: &Runtime) -> Result<(Endpoint, EndpointAddr), String> {
    let sockets: Vec<SocketAddr> = runtime
        .sockets
        .iter()
        .map(|socket| local(*socket))
        .collect();
    let v6_only = sockets.iter().all(SocketAddr::is_ipv6);
    // Over loopback from loopback; a node bound to one address is reached at it.
    let from: IpAddr = match (
        v6_only,
        sockets.iter().all(|socket| socket.ip().is_loopback()),
    ) {
        (false, true) => Ipv4Addr::LOCALHOST.into(),
        (false, false) => Ipv4Addr::UNSPECIFIED.into(),
        (true, true) => Ipv6Addr::LOCALHOST.into(),
        (true, false) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let endpoint = Endpoint::builder(presets::Minimal)
        .net_report_config(NetReportConfig::minimal())
        .relay_mode(RelayMode::Disabled)
        .portmapper_config(PortmapperConfig::Disabled)
        .transport_config(QuicLimits::default().transport_config())
        .secret_key(owner)
        .clear_ip_transports()
        .bind_addr((from, 0))
        .map_err(|error| error.to_string())?
        .bind()
        .await
        .map_err(|error| error.to_string())?;
    let key = alknet_core::storage::hex32::decode(&runtime.node_id)
        .and_then(|key| EndpointId::from_bytes(&key).ok());
    let key = key.ok_or("runtime.json names no valid node")?;
    let reachable = sockets
        .into_iter()
        .filter(|socket| socket.is_ipv6() == v6_only)
        .map(TransportAddr::Ip);
    Ok((endpoint, EndpointAddr::from_parts(key, reachable)))
}

/// An unspecified address means this machine.
fn local(socket: SocketAddr) -> SocketAddr {
    match socket.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, socket.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, socket.port()).into(),
        _ => socket,
    }
}
