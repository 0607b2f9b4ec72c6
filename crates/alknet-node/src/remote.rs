//! Calls a node from a program that is none: the program has a key, and the
//! node knows it as a peer.
//!
//! Nothing is kept here. The program keeps its key, which is a secret, and
//! where the node is: [`Remote::node_id`] and [`Remote::addresses`]. A
//! connection that ends stays ended; the program connects again.
//!
//! ```no_run
//! # async fn example(ticket: &str) -> Result<(), Box<dyn std::error::Error>> {
//! use alknet_node::remote::{ProgramKey, Remote};
//!
//! let key = ProgramKey::generate();
//! let remote = Remote::join(&key, "reporter", ticket).await?;
//! let sum: f64 = remote.client().call("math/add", &[1.0, 2.0]).await?;
//! // Another day, with what was kept:
//! let remote = Remote::connect(&key, &remote.node_id(), remote.addresses()).await?;
//! # Ok(())
//! # }
//! ```

use crate::{
    config::RelaySetting,
    dialer::endpoint_addr,
    endpoint::probes,
    join::{self, JoinRequest, is_shut},
    relay::Relays,
    ticket::Ticket,
};
use alknet_call::{
    ALPN, Bearer, Client, Session, SessionConfig, SessionError, connection_code,
    quic::{QuicConnection, QuicLimits},
};
use alknet_core::{
    ApiKey, CallError, Caller, ErrorCode, Grants,
    storage::{PeerAddresses, Timestamp, hex32, system_clock},
};
use iroh::{
    Endpoint, RelayMode, SecretKey,
    endpoint::{BindOpts, NetReportConfig, PortmapperConfig, presets},
};
use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};
use tokio::time::timeout;

/// Time for reaching a node.
const CONNECT_MAX: Duration = Duration::from_secs(15);

/// The key that a program is known by at a node. Whoever has it is that peer.
#[derive(Clone)]
pub struct ProgramKey(SecretKey);

impl ProgramKey {
    /// A new one, from the system's randomness.
    #[must_use]
    pub fn generate() -> Self {
        Self(SecretKey::generate())
    }

    /// The one that was kept.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(SecretKey::from_bytes(bytes))
    }

    /// The secret itself, to be kept where nobody else reads it.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// What the node is told: `alknet peers add NAME --node-id` takes it in
    /// hexadecimal.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        *self.0.public().as_bytes()
    }
}

impl fmt::Debug for ProgramKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let public = hex32::encode(&self.public());
        write!(f, "ProgramKey(public {}…)", &public[..8])
    }
}

/// A node that a program is connected to. Keep it as long as clients are used:
/// with it goes the connection.
#[derive(Debug)]
pub struct Remote {
    client: Client,
    session: Arc<Session>,
    endpoint: Endpoint,
    node_id: [u8; 32],
    addresses: PeerAddresses,
}

impl Remote {
    /// Connects to a node that knows this key, at addresses or through relays
    /// that are known of it.
    ///
    /// # Errors
    ///
    /// `UNAVAILABLE` if the node was not reached within 15 seconds,
    /// `UNAUTHENTICATED` if it does not know the key or no longer lets it in,
    /// `INVALID_INPUT` if the id is no public key.
    pub async fn connect(
        key: &ProgramKey,
        node_id: &[u8; 32],
        addresses: &PeerAddresses,
    ) -> Result<Self, CallError> {
        let relays = relays(addresses);
        let endpoint = endpoint(key, &relays).await?;
        Self::over(endpoint, node_id, addresses.clone(), &relays, None).await
    }

    /// [`Remote::connect`], with calls made by an API key that the node gave
    /// out: they are the key's peer's, and not the program's. The connection
    /// is the program's still, so the node must know its key too.
    ///
    /// # Errors
    ///
    /// As [`Remote::connect`]; `UNAUTHENTICATED` too if the API key is not
    /// accepted. It never falls back to what the program itself may do.
    pub async fn connect_as(
        key: &ProgramKey,
        node_id: &[u8; 32],
        addresses: &PeerAddresses,
        api_key: &ApiKey,
    ) -> Result<Self, CallError> {
        let relays = relays(addresses);
        let endpoint = endpoint(key, &relays).await?;
        let (addresses, api_key) = (addresses.clone(), Some(api_key));
        Self::over(endpoint, node_id, addresses, &relays, api_key).await
    }

    /// Redeems an invite ticket, and connects to the node that made it.
    /// `name` is how the program calls itself; the ticket may name it
    /// otherwise.
    ///
    /// # Errors
    ///
    /// `TICKET_INVALID`, `TICKET_WRONG`, `TICKET_USED`, `TICKET_EXPIRED` or
    /// `TICKET_REVOKED`, `CONFLICT` if the name or the key is a peer there
    /// already, and as [`Remote::connect`].
    pub async fn join(key: &ProgramKey, name: &str, ticket: &str) -> Result<Self, CallError> {
        let ticket = Ticket::parse(ticket)
            .map_err(|error| CallError::domain("TICKET_INVALID", error.to_string()))?;
        let now: Timestamp = system_clock()();
        if ticket.has_long_expired(now) {
            let message = format!("this ticket expired at {}", ticket.expires_at);
            return Err(CallError::domain("TICKET_EXPIRED", message));
        }
        let addresses = PeerAddresses {
            direct: ticket.addresses.clone(),
            relays: ticket.relays.clone(),
        };
        let relays = relays(&addresses);
        let endpoint = endpoint(key, &relays).await?;
        let request = JoinRequest {
            ticket: &ticket,
            own_name: name,
            // Nobody dials a program.
            own_addresses: PeerAddresses::default(),
            gives: &Grants::default(),
            relays: &relays,
        };
        if let Err(error) = join::redeem(&endpoint, request).await {
            endpoint.close().await;
            return Err(error);
        }
        Self::over(endpoint, &ticket.node_id, addresses, &relays, None).await
    }

    async fn over(
        endpoint: Endpoint,
        node_id: &[u8; 32],
        addresses: PeerAddresses,
        relays: &Relays,
        api_key: Option<&ApiKey>,
    ) -> Result<Self, CallError> {
        let meeting = meet(&endpoint, node_id, &addresses, relays, api_key);
        let met = timeout(CONNECT_MAX, meeting).await;
        match met.unwrap_or_else(|_| Err(unreached("no answer in time"))) {
            Ok(session) => Ok(Self {
                client: Client::over(session.clone()),
                session,
                endpoint,
                node_id: *node_id,
                addresses,
            }),
            Err(error) => {
                endpoint.close().await;
                Err(error)
            }
        }
    }

    /// Calls the node's operations as the program.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The node's public key.
    #[must_use]
    pub fn node_id(&self) -> [u8; 32] {
        self.node_id
    }

    /// Where it was reached.
    #[must_use]
    pub fn addresses(&self) -> &PeerAddresses {
        &self.addresses
    }

    /// Waits until the connection has ended: calls fail from then on.
    pub async fn closed(&self) {
        self.session.closed().await;
    }

    /// Ends the connection, with a word to the node.
    pub async fn close(self) {
        self.session.close(connection_code::DONE, "done");
        self.endpoint.close().await;
    }
}

async fn meet(
    endpoint: &Endpoint,
    node_id: &[u8; 32],
    addresses: &PeerAddresses,
    relays: &Relays,
    api_key: Option<&ApiKey>,
) -> Result<Arc<Session>, CallError> {
    let address = endpoint_addr(node_id, addresses, relays)
        .ok_or_else(|| CallError::invalid_field("/node_id", "is no public key"))?;
    let connected = endpoint.connect(address, ALPN).await;
    let connection = connected.map_err(|error| match is_shut(&error) {
        true => not_a_peer(),
        false => unreached(&error.to_string()),
    })?;
    let connection = QuicConnection::new(connection);
    // Ends with the connection, which it does not keep open.
    tokio::spawn(connection.end_when_silent(QuicLimits::default().idle));
    let config = SessionConfig {
        credential: api_key.map(|key| Bearer::new(key.expose())),
        ..SessionConfig::default()
    };
    let met = Session::start(Arc::new(connection), None, Caller::anonymous(), config).await;
    met.map_err(|error| match &error {
        SessionError::Unauthenticated if api_key.is_some() => CallError::new(
            ErrorCode::Unauthenticated,
            "the node does not accept this API key",
        ),
        SessionError::Unauthenticated => not_a_peer(),
        SessionError::Closed(closed) if closed.code == Some(connection_code::NOT_ADMITTED) => {
            not_a_peer()
        }
        _ => unreached(&error.to_string()),
    })
}

fn not_a_peer() -> CallError {
    let message = "the node does not know this key, or no longer lets it in";
    CallError::new(ErrorCode::Unauthenticated, message)
}

fn unreached(reason: &str) -> CallError {
    let message = format!("the node was not reached: {reason}");
    CallError::new(ErrorCode::Unavailable, message)
}

/// The node's relays, which are the program's own choice.
fn relays(addresses: &PeerAddresses) -> Relays {
    let settings = addresses
        .relays
        .iter()
        .filter_map(|text| RelaySetting::parse(text).ok());
    let settings: Vec<RelaySetting> = settings
        .filter(|setting| matches!(setting, RelaySetting::Url(_)))
        .collect();
    Relays::new(&settings)
}

/// An endpoint that dials, listens for nobody, and uses no relay but those of
/// the node.
async fn endpoint(key: &ProgramKey, relays: &Relays) -> Result<Endpoint, CallError> {
    let builder = Endpoint::builder(presets::Minimal);
    let builder = match relays.map().is_empty() {
        true => builder
            .net_report_config(NetReportConfig::minimal())
            .relay_mode(RelayMode::Disabled),
        false => builder
            .net_report_config(probes())
            .relay_mode(RelayMode::Custom(relays.map()))
            .ca_tls_config(relays.tls_config())
            .dns_resolver(relays.resolver()),
    };
    let failed = |error: &dyn fmt::Display| unreached(&format!("no endpoint: {error}"));
    let v6 = (Ipv6Addr::UNSPECIFIED, 0);
    builder
        .portmapper_config(PortmapperConfig::Disabled)
        .transport_config(QuicLimits::default().transport_config())
        .secret_key(key.0.clone())
        .clear_ip_transports()
        .bind_addr((Ipv4Addr::UNSPECIFIED, 0))
        .map_err(|error| failed(&error))?
        // A machine without IPv6 is fine.
        .bind_addr_with_opts(v6, BindOpts::default().set_is_required(false))
        .map_err(|error| failed(&error))?
        .bind()
        .await
        .map_err(|error| failed(&error))
}
