//! The iroh endpoint: bound where the configuration says, with explicit
//! limits, and nobody's servers unless they were chosen.

use crate::{
    data_dir::{DataDir, DataDirError},
    relay::Relays,
};
use alknet_call::quic::QuicLimits;
use iroh::{
    Endpoint, RelayMode, SecretKey, TransportAddr,
    endpoint::{BindOpts, NetReportConfig, PortmapperConfig, presets},
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

/// How often, and after which waits, a port used so far is tried again.
const PROBES: u32 = 5;
const PROBE_WAIT: Duration = Duration::from_millis(40);

/// Why the endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another program listens there.
    #[error("UDP port {} is taken on {}", address.port(), address.ip())]
    Taken {
        /// The address asked for.
        address: SocketAddr,
    },
    /// This machine cannot listen there.
    #[error("cannot listen on {address}")]
    Address {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The endpoint did not start.
    #[error("failed to open the endpoint: {0}")]
    Endpoint(String),
    /// The port cannot be kept.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
}

impl BindError {
    /// The sentence that helps.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            BindError::Taken { .. } => {
                Some("choose another with --bind ADDR:PORT; port 0 takes a free one".into())
            }
            BindError::DataDir(error) => error.hint(),
            _ => None,
        }
    }
}

/// What the endpoint is opened with.
pub(crate) struct EndpointOptions<'a> {
    pub(crate) key: SecretKey,
    pub(crate) bind: Option<SocketAddr>,
    pub(crate) relays: &'a Relays,
    /// With n0's DNS discovery.
    pub(crate) n0: bool,
    pub(crate) port_mapping: bool,
    pub(crate) limits: QuicLimits,
    pub(crate) alpns: Vec<Vec<u8>>,
}

/// Opens the endpoint. A port that was named and is taken fails; one that was
/// picked earlier and is taken now is replaced, and that is said.
pub(crate) async fn open(
    data: &DataDir,
    options: EndpointOptions<'_>,
) -> Result<Endpoint, BindError> {
    let asked = options
        .bind
        .unwrap_or(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0));
    let address = if asked.port() == 0 {
        picked(data, asked.ip()).await?
    } else {
        asked
    };
    probe(address)?;
    let mut builder = match options.n0 {
        true => Endpoint::builder(presets::N0),
        false => Endpoint::builder(presets::Minimal).net_report_config(probes()),
    };
    // Without a relay of its own too: a peer may be at one, and one may be
    // taken later.
    builder = builder
        .relay_mode(RelayMode::Custom(options.relays.map()))
        .ca_tls_config(options.relays.tls_config())
        .dns_resolver(options.relays.resolver());
    if !options.port_mapping {
        builder = builder.portmapper_config(PortmapperConfig::Disabled);
    }
    builder = builder
        .secret_key(options.key)
        .alpns(options.alpns)
        .transport_config(options.limits.transport_config())
        .clear_ip_transports();
    let invalid = |error: &dyn std::fmt::Display| BindError::Endpoint(error.to_string());
    builder = builder
        .bind_addr(address)
        .map_err(|error| invalid(&error))?;
    if options.bind.is_none() {
        // A machine without IPv6 is fine.
        let v6 = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), address.port());
        builder = builder
            .bind_addr_with_opts(v6, BindOpts::default().set_is_required(false))
            .map_err(|error| invalid(&error))?;
    }
    let endpoint = builder.bind().await.map_err(|error| invalid(&error))?;
    // If the one kept before is only taken for now it is tried again: peers
    // look there.
    if asked.port() == 0
        && data.kept_port().is_none()
        && let Some(bound) = endpoint.bound_sockets().first()
    {
        data.keep_port(bound.port())?;
    }
    Ok(endpoint)
}

/// Probes of the relays that were chosen, and of nothing else. Without the one
/// over HTTP a relay that answers no QUIC, or a network that lets none
/// through, leaves the node without a relay.
pub(crate) fn probes() -> NetReportConfig {
    let mut probes = NetReportConfig::minimal();
    probes.https_probes = true;
    probes
}

/// The port of an earlier start, if it is still free.
async fn picked(data: &DataDir, ip: IpAddr) -> Result<SocketAddr, BindError> {
    let Some(port) = data.kept_port() else {
        return Ok(SocketAddr::new(ip, 0));
    };
    let kept = SocketAddr::new(ip, port);
    // A node that was just dropped, or killed, lets go of it in a moment.
    for _ in 0..PROBES {
        if !matches!(probe(kept), Err(BindError::Taken { .. })) {
            break;
        }
        tokio::time::sleep(PROBE_WAIT).await;
    }
    match probe(kept) {
        Ok(()) => Ok(kept),
        Err(BindError::Taken { .. }) => {
            tracing::warn!(
                port,
                "the port used so far is taken; another is picked, and invites handed out name the old one"
            );
            Ok(SocketAddr::new(ip, 0))
        }
        Err(error) => Err(error),
    }
}

/// Says clearly why an address cannot be bound, before the endpoint tries.
fn probe(address: SocketAddr) -> Result<(), BindError> {
    match UdpSocket::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            Err(BindError::Taken { address })
        }
        Err(source) => Err(BindError::Address { address, source }),
    }
}

/// Addresses under which others may reach the endpoint, most useful first:
/// those it found out about, and the sockets it was told to bind.
pub(crate) fn addresses(endpoint: &Endpoint) -> Vec<SocketAddr> {
    let known = endpoint.addr();
    let mut found: Vec<SocketAddr> = known
        .addrs
        .iter()
        .filter_map(|addr| {
            if let TransportAddr::Ip(addr) = addr {
                Some(*addr)
            } else {
                None
            }
        })
        .collect();
    for socket in endpoint.bound_sockets() {
        if !socket.ip().is_unspecified() && !found.contains(&socket) {
            found.push(socket);
        }
    }
    if found.is_empty() {
        // Nothing but loopback: a machine without a network.
        let port = |v4: bool| {
            endpoint
                .bound_sockets()
                .into_iter()
                .find(|socket| socket.is_ipv4() == v4)
                .map(|socket| socket.port())
        };
        found.extend(port(true).map(|port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)));
    }
    found
}

/// Relays the endpoint is at home at, or is told to use.
pub(crate) fn relays(endpoint: &Endpoint, known: &Relays) -> Vec<String> {
    endpoint
        .addr()
        .addrs
        .iter()
        .filter_map(|addr| {
            match addr {
                // A relay that was only passed on the way into a network is
                // nobody's home; the library may take it for one meanwhile.
                TransportAddr::Relay(url) if !known.is_passed_by(url) => {
                    Some(known.address_of(url).to_string())
                }
                _ => None,
            }
        })
        .collect()
}
