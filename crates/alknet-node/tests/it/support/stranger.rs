//! Somebody with a key of its own and no node around it: a peer that does
//! what it likes on the wire.

use super::{PROMPT, TestNode, soon};
use alknet_call::{
    ALPN, Client, Session, SessionConfig,
    links::FEATURE_OPERATIONS,
    quic::{QuicConnection, QuicLimits},
};
use alknet_core::{Caller, Dispatcher, Registration, Registry, storage::hex32};
use alknet_node::ticket::Ticket;
use iroh::{
    Endpoint, EndpointAddr, EndpointId, RelayMode, SecretKey, TransportAddr,
    endpoint::{Connection, ConnectionError, NetReportConfig, PortmapperConfig, presets},
};
use serde_json::{Value, json};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

pub(crate) struct Stranger {
    pub(crate) endpoint: Endpoint,
    key: SecretKey,
}

impl Stranger {
    pub(crate) async fn new() -> Self {
        Self::with_key(SecretKey::generate()).await
    }

    /// Somebody who comes from this address of the loopback network.
    pub(crate) async fn at(address: Ipv4Addr) -> Self {
        Self::with_key_at(SecretKey::generate(), address).await
    }

    pub(crate) async fn with_key(key: SecretKey) -> Self {
        Self::with_key_at(key, Ipv4Addr::LOCALHOST).await
    }

    async fn with_key_at(key: SecretKey, address: Ipv4Addr) -> Self {
        let endpoint = Endpoint::builder(presets::Minimal)
            .net_report_config(NetReportConfig::minimal())
            .relay_mode(RelayMode::Disabled)
            .portmapper_config(PortmapperConfig::Disabled)
            .transport_config(QuicLimits::default().transport_config())
            .secret_key(key.clone())
            .clear_ip_transports()
            .bind_addr((address, 0))
            .unwrap()
            .bind()
            .await
            .unwrap();
        Self { endpoint, key }
    }

    /// A peer of `node` by this name with these grants.
    pub(crate) async fn known_to(node: &TestNode, name: &str, grants: &[&str]) -> Self {
        Self::new().await.becomes(node, name, grants).await
    }

    /// Makes it a peer of `node`.
    pub(crate) async fn becomes(self, node: &TestNode, name: &str, grants: &[&str]) -> Self {
        let input = json!({ "peer": name, "node_id": self.id(), "grants": grants });
        node.told("peers/add", input).await;
        self
    }

    /// Its public key, as it is written.
    pub(crate) fn id(&self) -> String {
        hex32::encode(self.key.public().as_bytes())
    }

    pub(crate) async fn connect(&self, node: &TestNode, alpn: &[u8]) -> Result<Connection, String> {
        let id = EndpointId::from_bytes(&node.id()).unwrap();
        let address = EndpointAddr::from_parts(id, [TransportAddr::Ip(node.address())]);
        let connecting = soon(self.endpoint.connect(address, alpn));
        connecting.await.map_err(|error| format!("{error:#}"))
    }

    /// Begins a handshake with `node` at an address where it is not.
    pub(crate) fn dial(&self, node: &TestNode, at: SocketAddr) -> impl Future<Output = ()> + use<> {
        let id = EndpointId::from_bytes(&node.id()).unwrap();
        let address = EndpointAddr::from_parts(id, [TransportAddr::Ip(at)]);
        let endpoint = self.endpoint.clone();
        async move {
            // It ends when the caller has seen enough.
            let _ = endpoint.connect(address, ALPN).await;
        }
    }

    /// Speaks the call protocol with `node`.
    pub(crate) async fn session(&self, node: &TestNode) -> Arc<Session> {
        let connection = self.connect(node, ALPN).await.unwrap();
        let connection = Arc::new(QuicConnection::new(connection));
        let config = SessionConfig::default();
        let started = Session::start(connection, None, Caller::anonymous(), config);
        soon(started).await.unwrap()
    }

    /// Connects as a node would, and offers these operations to whoever calls.
    pub(crate) async fn offer(&self, node: &TestNode, offered: Vec<Registration>) -> Arc<Session> {
        let registry = Registry::new();
        registry.register(offered).unwrap();
        let door = Dispatcher::builder(registry).build();
        let connection = self.connect(node, ALPN).await.unwrap();
        let connection = Arc::new(QuicConnection::new(connection));
        let config = SessionConfig {
            features: vec![FEATURE_OPERATIONS.into()],
            ..SessionConfig::default()
        };
        let started = Session::start(connection, Some(door), Caller::host(), config);
        soon(started).await.unwrap()
    }

    pub(crate) async fn client(&self, node: &TestNode) -> Client {
        Client::over(self.session(node).await)
    }

    /// Sends a join request as it is written here; the answer, or how the
    /// connection ended.
    pub(crate) async fn redeem(
        &self,
        node: &TestNode,
        ticket: &str,
        more: Value,
    ) -> Result<Value, String> {
        let ticket = Ticket::parse(ticket).unwrap();
        let secret: String = ticket.secret.iter().map(|b| format!("{b:02x}")).collect();
        let mut request = json!({ "secret": secret, "name": "stranger" });
        for (field, value) in more.as_object().unwrap() {
            request[field] = value.clone();
        }
        self.say_to_join(node, request.to_string().as_bytes()).await
    }

    pub(crate) async fn say_to_join(&self, node: &TestNode, text: &[u8]) -> Result<Value, String> {
        let connection = self.connect(node, b"alknet/join/1").await?;
        let exchange = async {
            let (mut send, mut recv) = connection.open_bi().await.map_err(|e| e.to_string())?;
            send.write_all(text).await.map_err(|e| e.to_string())?;
            send.finish().map_err(|e| e.to_string())?;
            recv.read_to_end(64 * 1024).await.map_err(|e| e.to_string())
        };
        let answer = soon(exchange).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let _ = tokio::time::timeout(PROMPT, connection.closed()).await;
                let code = close_code(&connection);
                return Err(code.map_or(error, |code| format!("closed with {code:#x}")));
            }
        };
        connection.close(0_u32.into(), b"done");
        serde_json::from_slice(&answer).map_err(|error| error.to_string())
    }
}

/// A peer that only calls; its endpoint lives as long as it does.
pub(crate) struct Known {
    client: Client,
    _stranger: Stranger,
}

impl Known {
    pub(crate) async fn to(node: &TestNode, name: &str, grants: &[&str]) -> Self {
        let stranger = Stranger::known_to(node, name, grants).await;
        Self {
            client: stranger.client(node).await,
            _stranger: stranger,
        }
    }
}

impl std::ops::Deref for Known {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}

/// The code with which the other side closed a connection, if it did.
pub(crate) fn close_code(connection: &Connection) -> Option<u64> {
    match connection.close_reason()? {
        ConnectionError::ApplicationClosed(close) => Some(close.error_code.into_inner()),
        _ => None,
    }
}
