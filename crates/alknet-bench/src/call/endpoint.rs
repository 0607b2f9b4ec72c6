//! Endpoints that all contenders use alike: loopback, no relays, alknet's
//! transport limits.

use alknet_call::quic::QuicLimits;
use anyhow::{Context, Result};
use iroh::{
    Endpoint, EndpointAddr, EndpointId, RelayMode, SecretKey, TransportAddr,
    endpoint::{NetReportConfig, PortmapperConfig, presets},
};
use std::net::{Ipv4Addr, SocketAddr};

/// The key of every client.
pub(crate) fn client_key() -> SecretKey {
    SecretKey::from_bytes(&[7; 32])
}

/// An endpoint that accepts these protocols.
pub(crate) async fn open(key: SecretKey, alpns: &[&[u8]]) -> Result<Endpoint> {
    let builder = Endpoint::builder(presets::Minimal)
        .net_report_config(NetReportConfig::minimal())
        .relay_mode(RelayMode::Disabled)
        .portmapper_config(PortmapperConfig::Disabled)
        .transport_config(QuicLimits::default().transport_config())
        .secret_key(key)
        .alpns(alpns.iter().map(|alpn| alpn.to_vec()).collect())
        .clear_ip_transports()
        .bind_addr((Ipv4Addr::LOCALHOST, 0))?;
    builder.bind().await.context("no endpoint on loopback")
}

/// Where an endpoint is, as text for another process.
pub(crate) fn place(endpoint: &Endpoint) -> Result<String> {
    let socket = endpoint.bound_sockets().into_iter().next();
    let socket = socket.context("the endpoint is bound")?;
    Ok(format!("{}@{socket}", endpoint.id()))
}

/// Reads such a text.
pub(crate) fn address(place: &str) -> Result<EndpointAddr> {
    let (id, socket) = place.split_once('@').context("a place is `ID@SOCKET`")?;
    let (id, socket): (EndpointId, SocketAddr) = (id.parse()?, socket.parse()?);
    Ok(EndpointAddr::from_parts(id, [TransportAddr::Ip(socket)]))
}
