//! Relays: iroh's own server, and alknet's.

use super::{
    node,
    task::{Setup, Task},
};
use crate::worker::follow;
use alknet_node::{Node, relay::RelayAddress};
use anyhow::{Context, Result, bail};
use iroh_relay::server::{CertConfig, QuicConfig, RelayConfig, Server, ServerConfig, TlsConfig};
use rcgen::PublicKeyData;
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// Where relays listen.
const TLS_PORT: u16 = 443;
/// Where relays tell clients their address.
const QAD_PORT: u16 = 7842;

/// A node that is a relay and nothing else, for those that it was told of, with
/// no rate: what is measured is what it can.
pub(crate) async fn serve(setup: Setup) -> Result<()> {
    let listen = SocketAddr::new(setup.relay.parse()?, TLS_PORT);
    let described = Node::builder().name("relay").data_dir(&setup.folder);
    let described = described.relay(move |relay| {
        relay.enabled = true;
        relay.listen = listen;
        relay.rate = 0;
    });
    let node = described.spawn().await;
    let node = Arc::new(node.context("the relay does not start")?);
    let own = node.status().relay.context("the node is a relay")?;
    let answering = follow(&own.url, |task| {
        let node = node.clone();
        async move {
            match task {
                Task::Admit { id } => node::know(&node, &id).await.map(Value::from),
                Task::Forget { id } => node::forget(&node, &id).await.map(Value::from),
                Task::Received => received().map(Value::from),
                other => bail!("a relay does nothing of the kind: {other:?}"),
            }
        }
    });
    let ended = answering.await;
    node::stop(node).await?;
    ended
}

/// iroh's server with its defaults, open to everybody: TLS with a self-signed
/// certificate, and address discovery.
pub(crate) async fn serve_bare(setup: Setup) -> Result<()> {
    let ip: IpAddr = setup.relay.parse()?;
    let made = rcgen::generate_simple_self_signed([ip.to_string()])?;
    let pin = Sha256::digest(made.signing_key.subject_public_key_info());
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())?;
    let certificate = CertConfig::Manual { server_config: tls };
    // With TLS, what is served in the clear is the answer to a probe.
    let mut relay = RelayConfig::new(SocketAddr::new(ip, 0));
    relay.tls = Some(TlsConfig::new(SocketAddr::new(ip, TLS_PORT), certificate));
    let mut config = ServerConfig::default();
    config.relay = Some(relay);
    config.quic = Some(QuicConfig::new(SocketAddr::new(ip, QAD_PORT)));
    let server = Server::spawn(config).await?;
    let pin = data_encoding::HEXLOWER.encode(&pin);
    let address: RelayAddress = format!("https://{ip}/#sha256={pin}").parse()?;
    let address = address.to_string();
    let answering = follow(&address, |task| async {
        match task {
            Task::Admit { .. } | Task::Forget { .. } => Ok(Value::Null),
            Task::Received => received().map(Value::from),
            other => bail!("a relay does nothing of the kind: {other:?}"),
        }
    });
    let ended = answering.await;
    server.shutdown().await?;
    ended
}

/// Bytes that came in by every interface of this namespace, loopback left out.
fn received() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/net/dev")?;
    let mut sum = 0;
    for line in text.lines().skip(2) {
        let (name, counts) = line.split_once(':').context("a line is NAME: COUNTS")?;
        if name.trim() != "lo" {
            let first = counts.split_ascii_whitespace().next();
            sum += first.context("bytes come first")?.parse::<u64>()?;
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn received_bytes_are_counted() {
        assert!(received().unwrap() <= received().unwrap());
    }
}
