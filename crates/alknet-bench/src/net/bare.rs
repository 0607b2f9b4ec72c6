//! Bare iroh: an endpoint with alknet's transport limits, a stream a call and
//! one for bulk. No names, no rights, no records.

use super::task::{self, Guest, Meeting, Met, Setup, Task, ms_since};
use crate::{
    call::{
        payload::Payload,
        raw::{self, BULK, ECHO, Raw},
    },
    worker::follow,
};
use alknet_call::quic::QuicLimits;
use alknet_node::relay::RelayAddress;
use alknet_testkit::relay::trust_anybody;
use anyhow::{Context, Result, bail, ensure};
use iroh::{
    Endpoint, EndpointAddr, EndpointId, RelayMap, RelayMode, SecretKey, TransportAddr,
    endpoint::{BindOpts, Connection, NetReportConfig, PortmapperConfig, presets},
};
use serde_json::Value;
use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

/// An endpoint as a node opens one. The relay is not authenticated: no alknet,
/// no pins.
async fn open(relay: &RelayAddress, key: SecretKey, port: u16) -> Result<Endpoint> {
    let mut probes = NetReportConfig::minimal();
    probes.https_probes = true;
    let relays = RelayMap::from_iter([relay.config()]);
    Endpoint::builder(presets::Minimal)
        .net_report_config(probes)
        .relay_mode(RelayMode::Custom(relays))
        .ca_tls_config(trust_anybody())
        .portmapper_config(PortmapperConfig::Disabled)
        .transport_config(QuicLimits::default().transport_config())
        .secret_key(key)
        .alpns(vec![ECHO.to_vec(), BULK.to_vec()])
        .clear_ip_transports()
        .bind_addr((Ipv4Addr::UNSPECIFIED, port))?
        .bind_addr_with_opts(
            (Ipv6Addr::UNSPECIFIED, port),
            BindOpts::default().set_is_required(false),
        )?
        .bind()
        .await
        .context("no endpoint")
}

fn hex(id: EndpointId) -> String {
    data_encoding::HEXLOWER.encode(id.as_bytes())
}

/// Answers; its invitation is its key.
pub(crate) async fn serve(setup: Setup) -> Result<()> {
    let relay: RelayAddress = setup.relay.parse()?;
    let endpoint = open(&relay, SecretKey::generate(), 0).await?;
    let accepting = tokio::spawn(raw::accept(endpoint.clone()));
    let id = hex(endpoint.id());
    let answering = follow(&id, |task| {
        let (endpoint, id) = (endpoint.clone(), id.clone());
        async move {
            match task {
                Task::Invite => {
                    endpoint.online().await;
                    Ok(Value::from(id))
                }
                Task::Forget { .. } => Ok(Value::Null),
                other => bail!("a server does nothing of the kind: {other:?}"),
            }
        }
    });
    let ended = answering.await;
    accepting.abort();
    endpoint.close().await;
    ended
}

/// What is remembered of a server, as alknet does.
struct Known {
    id: EndpointId,
    direct: Option<SocketAddr>,
    own_port: u16,
}

/// What there is while connected.
struct Held {
    endpoint: Endpoint,
    echo: Connection,
    client: Option<Arc<Raw>>,
}

/// Asks.
struct Visitor {
    relay: RelayAddress,
    key: SecretKey,
    known: Option<Known>,
    held: Option<Held>,
}

/// Visits servers, one after the other.
pub(crate) async fn visit(setup: Setup) -> Result<()> {
    let visitor = Visitor {
        relay: setup.relay.parse()?,
        key: SecretKey::generate(),
        known: None,
        held: None,
    };
    task::visit(visitor).await
}

impl Visitor {
    /// Where the server is: at the relay, and where it was seen.
    fn place(&self, id: EndpointId, direct: Option<SocketAddr>) -> EndpointAddr {
        let relay = TransportAddr::Relay(self.relay.url().clone());
        let direct = direct.map(TransportAddr::Ip);
        EndpointAddr::from_parts(id, std::iter::once(relay).chain(direct))
    }
}

fn selected(connection: &Connection) -> Option<TransportAddr> {
    let paths = connection.paths();
    let path = paths.iter().find(|path| path.is_selected())?;
    Some(path.remote_addr().clone())
}

impl Guest for Visitor {
    type Client = Raw;

    async fn prepare(&mut self) -> Result<String> {
        self.leave().await?;
        self.known = None;
        self.key = SecretKey::generate();
        Ok(hex(self.key.public()))
    }

    async fn meet(&mut self, meeting: Meeting) -> Result<(Met, Instant)> {
        let mut start = Instant::now();
        let mut met = Met::default();
        let (id, direct, port) = match (&meeting, &self.known) {
            (Meeting::First(invitation), _) => {
                let key = data_encoding::HEXLOWER.decode(invitation.as_bytes())?;
                let key: [u8; 32] = key.as_slice().try_into()?;
                (EndpointId::from_bytes(&key)?, None, 0)
            }
            (Meeting::Again, Some(known)) => (known.id, known.direct, known.own_port),
            (Meeting::Again, None) => bail!("nobody was met before"),
        };
        let endpoint = open(&self.relay, self.key.clone(), port).await?;
        if let Meeting::First(_) = meeting {
            endpoint.online().await;
            met.at_relay_ms = ms_since(start);
            start = Instant::now();
        }
        let echo = endpoint.connect(self.place(id, direct), ECHO).await?;
        let json = Payload::Small.json();
        ensure!(raw::ask(&echo, &json).await? == json, "another reply");
        met.replied_ms = ms_since(start);
        let own = endpoint.bound_sockets().into_iter();
        let own_port = own.filter(SocketAddr::is_ipv4).map(|own| own.port()).next();
        self.known = Some(Known {
            id,
            direct,
            own_port: own_port.context("the endpoint is bound")?,
        });
        self.held = Some(Held {
            endpoint,
            echo,
            client: None,
        });
        Ok((met, start))
    }

    async fn is_direct(&self) -> Result<bool> {
        let held = self.held.as_ref().context("not connected")?;
        Ok(matches!(selected(&held.echo), Some(TransportAddr::Ip(_))))
    }

    async fn leave(&mut self) -> Result<()> {
        let Some(held) = self.held.take() else {
            return Ok(());
        };
        if let (Some(known), Some(TransportAddr::Ip(seen))) =
            (&mut self.known, selected(&held.echo))
        {
            known.direct = Some(seen);
        }
        held.endpoint.close().await;
        Ok(())
    }

    async fn client(&mut self) -> Result<Arc<Raw>> {
        let place = match &self.known {
            Some(known) => self.place(known.id, known.direct),
            None => bail!("nobody was met"),
        };
        let held = self.held.as_mut().context("not connected")?;
        if let Some(client) = &held.client {
            return Ok(client.clone());
        }
        let bulk = held.endpoint.connect(place, BULK).await?;
        let client = Raw::over(held.endpoint.clone(), held.echo.clone(), bulk);
        Ok(held.client.insert(Arc::new(client)).clone())
    }
}
