//! The relay that this node is: bound, with its certificate, limits and
//! counters.

use super::{
    ParseRelayError, Qad, RelayAddress, RelayServerConfig, SpkiPin,
    access::Gate,
    certificate::{Certificate, CertificateError, InUse},
    vetting::OwnName,
};
use crate::{admission::Bans, data_dir::DataDir};
use alknet_core::{
    AuditSink,
    storage::{IdentityIndex, SharedClock},
};
use iroh_metrics::service::MetricsServer;
use iroh_relay::server::{
    CertConfig, ClientRateLimit, Limits, QuicConfig, RelayConfig, Server, ServerConfig, TlsConfig,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Time that open connections get when the relay stops.
const SHUTDOWN_MAX: Duration = Duration::from_secs(2);

/// Why the relay did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayStartError {
    /// Another program listens there.
    #[error("{protocol} port {} is taken on {}", address.port(), address.ip())]
    Taken {
        /// `TCP` or `UDP`.
        protocol: &'static str,
        /// The address asked for.
        address: SocketAddr,
    },
    /// This machine, or this account, cannot listen there.
    #[error("the relay cannot listen on {protocol} {address}")]
    Address {
        /// `TCP` or `UDP`.
        protocol: &'static str,
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The counters cannot be served.
    #[error("the relay's metrics cannot be served at TCP {address}")]
    Metrics {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The certificate cannot be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The URL to tell others makes no sense.
    #[error(transparent)]
    Url(#[from] ParseRelayError),
    /// Nobody can be told where it is.
    #[error("others cannot be told where the relay is: {0}")]
    NoName(&'static str),
    /// The server did not start.
    #[error("the relay did not start: {0}")]
    Server(String),
}

impl RelayStartError {
    /// The sentence that helps.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            RelayStartError::Taken { protocol, .. } if *protocol == "UDP" => {
                Some("choose another with --qad PORT, or --qad off".into())
            }
            RelayStartError::Taken { .. } => Some("choose another with --listen ADDR:PORT".into()),
            RelayStartError::Address { source, address, .. }
                if source.kind() == std::io::ErrorKind::PermissionDenied && address.port() < 1024 =>
            {
                Some("ports below 1024 need root or the capability CAP_NET_BIND_SERVICE; or choose another with --listen ADDR:PORT".into())
            }
            RelayStartError::Metrics { .. } => {
                Some("choose another with --metrics ADDR:PORT, or --metrics off".into())
            }
            RelayStartError::Certificate(error) => error.hint(),
            RelayStartError::NoName(_) => Some("give it with --url https://NAME/".into()),
            _ => None,
        }
    }
}

/// What a relay tells of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RelayServerStatus {
    /// Its whole address, as others configure it.
    pub url: String,
    /// TCP address that it listens at.
    pub listen: String,
    /// UDP address at which clients learn theirs; `null` if that is off.
    pub qad: Option<String>,
    /// `self-signed`, or `own` for a certificate of the owner's.
    pub certificate: String,
    /// Where counters are served; `null` if nowhere.
    pub metrics: Option<String>,
    /// Clients connected now, this node itself not counted.
    pub clients: usize,
    /// Clients that were let in since the start.
    pub admitted: u64,
    /// Clients that were turned away since the start.
    pub refused: u64,
    /// Bytes that clients sent through it since the start.
    pub bytes_in: u64,
    /// Bytes that it passed on since the start.
    pub bytes_out: u64,
}

/// Checks the certificate that the relay of a data directory would use. Makes
/// none.
///
/// # Errors
///
/// [`RelayStartError`], as the start would give.
pub fn check_own_relay(
    config: &RelayServerConfig,
    dir: &std::path::Path,
) -> Result<(), RelayStartError> {
    let data = DataDir::new(dir);
    if config.cert.is_none() && !data.relay_key().exists() {
        return Ok(());
    }
    let provider = rustls::crypto::ring::default_provider();
    let clock = alknet_core::storage::system_clock();
    load(config, &data, &clock, &provider).map(drop)
}

/// What a relay needs of its node.
pub(crate) struct RelayParts<'a> {
    pub(crate) config: &'a RelayServerConfig,
    pub(crate) data: &'a DataDir,
    pub(crate) identities: Arc<IdentityIndex>,
    pub(crate) bans: Arc<Bans>,
    pub(crate) audit: AuditSink,
    pub(crate) own: [u8; 32],
    pub(crate) clock: SharedClock,
}

/// A running relay.
pub(crate) struct RelayServer {
    address: RelayAddress,
    listen: SocketAddr,
    qad: Option<SocketAddr>,
    is_self_signed: bool,
    /// The key of its certificate.
    pin: Mutex<SpkiPin>,
    clock: SharedClock,
    in_use: Arc<InUse>,
    pub(crate) gate: Arc<Gate>,
    counted: iroh_relay::server::RelayMetrics,
    metrics: Option<SocketAddr>,
    running: Mutex<Option<(Server, Option<MetricsServer>)>>,
}

impl RelayServer {
    pub(crate) async fn start(parts: RelayParts<'_>) -> Result<Self, RelayStartError> {
        let config = parts.config;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let certificate = load(config, parts.data, &parts.clock, &provider)?;
        let in_use = InUse::new(&certificate);
        let tls = in_use
            .server_config(provider)
            .map_err(|error| RelayStartError::Server(error.to_string()))?;
        probe_tcp(config.listen)?;
        let gate = Gate::new(parts.identities, parts.own, config.clients_max, parts.audit);
        gate.bar(parts.bans);
        // iroh serves a page without secrets, for finding captive portals, in
        // the clear beside TLS, and cannot be told not to.
        let mut relay = RelayConfig::new((Ipv4Addr::LOCALHOST, 0));
        relay.tls = Some(TlsConfig::new(
            config.listen,
            CertConfig::Manual { server_config: tls },
        ));
        relay.limits = limits(config);
        relay.access = gate.clone();
        let mut server_config = ServerConfig::default();
        server_config.relay = Some(relay);
        if let Some(port) = config.qad.port() {
            let address = SocketAddr::new(config.listen.ip(), port);
            probe_udp(address)?;
            server_config.quic = Some(QuicConfig::new(address));
        }
        let server = Server::spawn(server_config)
            .await
            .map_err(|error| RelayStartError::Server(format!("{error:#}")))?;
        if let Some(service) = server.relay_service() {
            gate.serve(service.clone());
        }
        let listen = server.https_addr().unwrap_or(config.listen);
        let qad = server.quic_addr();
        let address = told(config, &certificate, listen, qad.map(|qad| qad.port()))?;
        let metrics = match config.metrics {
            Some(at) => Some(serve_metrics(at, &server, &gate).await?),
            None => None,
        };
        tracing::info!(%address, %listen, "relay");
        Ok(Self {
            address,
            listen,
            qad,
            is_self_signed: config.cert.is_none(),
            pin: Mutex::new(certificate.pin),
            clock: parts.clock,
            in_use,
            gate,
            counted: server.metrics().clone(),
            metrics: metrics.as_ref().map(MetricsServer::local_addr),
            running: Mutex::new(Some((server, metrics))),
        })
    }

    /// Its whole address, as others configure it.
    pub(crate) fn address(&self) -> &RelayAddress {
        &self.address
    }

    /// Its address with the key of its certificate, whoever vouches for that.
    pub(crate) fn pinned_address(&self) -> RelayAddress {
        let pin = *self.pin.lock().unwrap_or_else(PoisonError::into_inner);
        self.address.clone().with(Some(pin), self.address.qad())
    }

    /// Its name, if it is told by one that leads to where it listens.
    pub(crate) fn own_name(&self) -> Option<OwnName> {
        let url = self.address.url();
        if self.address.ip().is_some() || url.port_or_known_default() != Some(self.listen.port()) {
            return None;
        }
        let ip = match self.listen.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        Some(OwnName {
            host: self.address.host().to_owned(),
            ip,
        })
    }

    pub(crate) fn status(&self) -> RelayServerStatus {
        let counted = &self.counted.server;
        RelayServerStatus {
            url: self.address.to_string(),
            listen: self.listen.to_string(),
            qad: self.qad.map(|qad| qad.to_string()),
            certificate: if self.is_self_signed {
                "self-signed"
            } else {
                "own"
            }
            .into(),
            metrics: self.metrics.map(|metrics| metrics.to_string()),
            clients: self.gate.clients(),
            admitted: self.gate.counters.admitted.get(),
            refused: self.gate.counters.refused.get(),
            bytes_in: counted.bytes_recv.get(),
            bytes_out: counted.bytes_sent.get(),
        }
    }

    /// Reads the certificate again, for new connections; `None` if it is for
    /// the next start, when the relay is told by another address.
    pub(crate) fn check_certificate(
        &self,
        config: &RelayServerConfig,
        data: &DataDir,
        needs_restart: bool,
    ) -> Result<Option<Renewal>, RelayStartError> {
        let provider = rustls::crypto::ring::default_provider();
        let certificate = load(config, data, &self.clock, &provider)?;
        if needs_restart {
            return Ok(None);
        }
        // Those that know it by its key would not know it any more.
        match self.address.pin() {
            Some(told) if told != certificate.pin => Err(CertificateError::OtherPin {
                told,
                found: certificate.pin,
            }
            .into()),
            _ => Ok(Some(Renewal(certificate))),
        }
    }

    /// Puts a certificate that was checked in use.
    pub(crate) fn renew(&self, renewal: &Renewal) {
        self.in_use.replace(&renewal.0);
        *self.pin.lock().unwrap_or_else(PoisonError::into_inner) = renewal.0.pin;
    }

    /// Stops: no new clients, and those that are there are told.
    pub(crate) async fn shutdown(&self) {
        let running = self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some((server, metrics)) = running else {
            return;
        };
        let stopping = async {
            if let Some(metrics) = metrics {
                metrics.shutdown().await;
            }
            if let Err(cause) = server.shutdown().await {
                tracing::debug!(%cause, "the relay ended otherwise than in order");
            }
        };
        if tokio::time::timeout(SHUTDOWN_MAX, stopping).await.is_err() {
            tracing::debug!("clients of the relay did not end in time");
        }
    }

    /// Stops at once.
    pub(crate) fn cut(&self) {
        drop(
            self.running
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
    }
}

/// A certificate that was read again and found good.
pub(crate) struct Renewal(Certificate);

/// iroh's clients take no IPv6 address for the name in TLS.
const NO_IPV6: &str =
    "by an IPv6 address no client reaches it; it takes a name, or an IPv4 address";

fn load(
    config: &RelayServerConfig,
    data: &DataDir,
    clock: &SharedClock,
    provider: &rustls::crypto::CryptoProvider,
) -> Result<Certificate, RelayStartError> {
    let certificate = match (&config.cert, &config.key) {
        (Some(cert), Some(key)) => Certificate::load(cert, key, clock(), provider)?,
        _ => Certificate::own(data, clock(), provider)?,
    };
    let told = config.told()?;
    if told
        .as_ref()
        .is_some_and(|told| matches!(told.ip(), Some(IpAddr::V6(_))))
    {
        return Err(RelayStartError::NoName(NO_IPV6));
    }
    if let Some(told) = told.and_then(|told| told.pin())
        && told != certificate.pin
    {
        let found = certificate.pin;
        return Err(CertificateError::OtherPin { told, found }.into());
    }
    Ok(certificate)
}

fn limits(config: &RelayServerConfig) -> Limits {
    let mut limits = Limits::default();
    limits.client_rx = NonZeroU32::new(config.rate).map(|rate| {
        let mut limit = ClientRateLimit::new(rate);
        limit.max_burst_bytes = NonZeroU32::new(config.burst);
        limit
    });
    limits
}

async fn serve_metrics(
    at: SocketAddr,
    server: &Server,
    gate: &Gate,
) -> Result<MetricsServer, RelayStartError> {
    let mut registry = iroh_metrics::Registry::default();
    registry.register_all(server.metrics());
    registry.register(gate.counters.clone());
    MetricsServer::spawn(at, Arc::new(registry))
        .await
        .map_err(|source| RelayStartError::Metrics {
            address: at,
            source,
        })
}

/// What others are told.
fn told(
    config: &RelayServerConfig,
    certificate: &Certificate,
    listen: SocketAddr,
    qad: Option<u16>,
) -> Result<RelayAddress, RelayStartError> {
    let is_own = config.cert.is_some();
    // Nobody vouches for a self-signed one either, whoever made it.
    let pin = certificate.is_self_signed.then_some(certificate.pin);
    if let Some(told) = config.told()? {
        // A port that a router forwards is known to its owner alone.
        let qad = match told.qad() {
            Qad::Usual => Qad::at(qad),
            said => said,
        };
        let pin = pin.or(told.pin());
        return Ok(told.with(pin, qad));
    }
    let host = match &certificate.name {
        Some(name) if is_own => name.clone(),
        // Known by its key, it may have any address.
        None if is_own && !certificate.is_self_signed => {
            return Err(RelayStartError::NoName(
                "its certificate is for no host by name or address",
            ));
        }
        _ => match reached_at(listen.ip()) {
            IpAddr::V4(ip) => ip.to_string(),
            // iroh's clients take no IPv6 address for the name in TLS.
            IpAddr::V6(_) => {
                return Err(RelayStartError::NoName(
                    "it listens at an IPv6 address, which no relay can be named by",
                ));
            }
        },
    };
    let url = format!("https://{host}:{}/", listen.port());
    let address: RelayAddress = url.parse()?;
    Ok(address.with(pin, Qad::at(qad)))
}

/// The address of this machine that others most likely reach: where its
/// default route leaves. Nothing is sent for that.
fn reached_at(listen: IpAddr) -> IpAddr {
    if !listen.is_unspecified() {
        return listen;
    }
    // RFC 5737: an address that nobody has.
    let leaves = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    });
    leaves.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}

/// Says clearly why an address cannot be bound, before the server tries.
fn probe_tcp(address: SocketAddr) -> Result<(), RelayStartError> {
    explain("TCP", address, TcpListener::bind(address).map(drop))
}

fn probe_udp(address: SocketAddr) -> Result<(), RelayStartError> {
    explain("UDP", address, UdpSocket::bind(address).map(drop))
}

fn explain(
    protocol: &'static str,
    address: SocketAddr,
    bound: std::io::Result<()>,
) -> Result<(), RelayStartError> {
    bound.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => RelayStartError::Taken { protocol, address },
        _ => RelayStartError::Address {
            protocol,
            address,
            source,
        },
    })
}
