//! Dials peers by what the store knows of them.

use crate::{
    admission::Admission,
    find::{Finder, watch},
    relay::{Relays, is_loopback, is_never_contacted},
    ticket::RELAYS_MAX,
};
use alknet_call::{
    ALPN, connection_code,
    links::{DialError, Dialer},
    quic::QuicConnection,
};
use alknet_core::{
    Caller, Credential, IdentityProvider, PeerId, clean_foreign_text,
    storage::{IdentityIndex, PeerAddresses, PeerRecord, Timestamp},
};
use async_trait::async_trait;
use iroh::{
    Endpoint, EndpointAddr, EndpointId, TransportAddr,
    endpoint::{ConnectError, ConnectionError, TransportErrorCode},
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::time::timeout;

/// Time for one attempt.
const DIAL_MAX: Duration = Duration::from_secs(15);

pub(crate) struct StoreDialer {
    pub(crate) endpoint: Endpoint,
    pub(crate) identities: Arc<IdentityIndex>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) relays: Relays,
    pub(crate) finder: Arc<Finder>,
}

#[async_trait]
impl Dialer for StoreDialer {
    async fn dial(&self, peer: &PeerId) -> Result<(QuicConnection, Caller), DialError> {
        self.connect(peer, ALPN).await
    }

    fn now(&self) -> Timestamp {
        self.identities.now()
    }
}

impl StoreDialer {
    /// Opens a connection of this protocol to a peer, and says who the other
    /// side is here.
    pub(crate) async fn connect(
        &self,
        peer: &PeerId,
        alpn: &[u8],
    ) -> Result<(QuicConnection, Caller), DialError> {
        let record = self
            .identities
            .peer(peer.as_str())
            .filter(|record| !record.node_keys.is_empty())
            .ok_or_else(|| DialError::NoKey(peer.clone()))?;
        let mut failed = DialError::NotAllowed(peer.clone());
        // While its key is rotated, nobody but the peer knows which one it
        // uses; the current one is asked for first.
        for held in &record.node_keys {
            let credential = Credential::NodeKey(held.key);
            if self.admission.unbarred.resolve(&credential).is_none() {
                continue;
            }
            match self.dial_key(peer, &held.key, &record, alpn).await {
                Ok(dialled) => return Ok(dialled),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn dial_key(
        &self,
        peer: &PeerId,
        key: &[u8; 32],
        record: &PeerRecord,
        alpn: &[u8],
    ) -> Result<(QuicConnection, Caller), DialError> {
        let unreached = |reason: String| DialError::Unreached {
            peer: peer.clone(),
            reason,
        };
        let connecting = timeout(DIAL_MAX, self.connect_key(key, record, alpn)).await;
        let connection = connecting
            .map_err(|_| unreached("no answer".into()))?
            .ok_or_else(|| DialError::NoKey(peer.clone()))?
            .map_err(|error| match Refusal::of(&error) {
                Some(Refusal::NotServed) => DialError::NotServed {
                    peer: peer.clone(),
                    alpn: String::from_utf8_lossy(alpn).into_owned(),
                },
                Some(Refusal::NotAdmitted(reason)) => DialError::NotAdmitted {
                    peer: peer.clone(),
                    reason,
                },
                None => unreached(error.to_string()),
            })?;
        let connection = QuicConnection::new(connection);
        // The record may have changed while the network was asked.
        let caller = Caller::resolve(&*self.admission.unbarred, Credential::NodeKey(*key))
            .ok_or_else(|| DialError::NotAllowed(peer.clone()))?;
        let (admission, held, known) = (self.admission.clone(), connection.clone(), caller.clone());
        // Counted for as long as it is open, and kept open by whoever asked
        // for it alone: what nobody holds any more is closed.
        let ended = connection.inner().weak_handle().closed();
        self.admission.tasks.spawn(async move {
            let _held = admission.hold(&held, &known);
            drop(held);
            ended.await;
        });
        if alpn == ALPN {
            let watching = watch(self.finder.clone(), &connection);
            self.admission.tasks.spawn(watching);
        }
        Ok((connection, caller))
    }

    /// Dials all places known of a key at once, and again at the new ones if
    /// more are learnt meanwhile; `None` if the bytes are no key.
    async fn connect_key(
        &self,
        key: &[u8; 32],
        record: &PeerRecord,
        alpn: &[u8],
    ) -> Option<Result<iroh::endpoint::Connection, ConnectError>> {
        let mut news = self.finder.news();
        let mut places = self.finder.places_of(record, key);
        loop {
            let mut address = endpoint_addr(key, &places, &self.relays)?;
            // It may be at a relay of this node by now, having lost the one
            // that it was last known to be at.
            let chosen = self.relays.chosen().into_iter();
            let chosen = chosen.map(|relay| TransportAddr::Relay(relay.url().clone()));
            address.addrs.extend(chosen.take(RELAYS_MAX));
            let connecting = self.endpoint.connect(address, alpn);
            tokio::pin!(connecting);
            loop {
                tokio::select! {
                    connected = &mut connecting => return Some(connected),
                    Ok(()) = news.changed() => {}
                }
                let now = self.finder.places_of(record, key);
                if now != places {
                    places = now;
                    break;
                }
            }
        }
    }
}

/// Why a side that was reached refused the connection itself.
enum Refusal {
    /// It has no such ALPN: a TLS alert `no_application_protocol` (RFC 7301,
    /// 3.2), as QUIC carries it (RFC 9001, 4.8).
    NotServed,
    /// It does not let this node in; with what it said.
    NotAdmitted(String),
}

/// `no_application_protocol` of the TLS alerts (RFC 8446, 6).
const NO_APPLICATION_PROTOCOL: u8 = 120;

impl Refusal {
    fn of(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let unserved = TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL);
        let mut cause = Some(error);
        while let Some(error) = cause {
            match error.downcast_ref() {
                Some(ConnectionError::ApplicationClosed(close))
                    if close.error_code.into_inner()
                        == u64::from(connection_code::NOT_ADMITTED) =>
                {
                    let reason = String::from_utf8_lossy(&close.reason);
                    return Some(Self::NotAdmitted(clean_foreign_text(&reason, 200)));
                }
                Some(ConnectionError::ConnectionClosed(close)) if close.error_code == unserved => {
                    return Some(Self::NotServed);
                }
                Some(ConnectionError::TransportError(error)) if error.code == unserved => {
                    return Some(Self::NotServed);
                }
                _ => {}
            }
            cause = error.source();
        }
        None
    }
}

/// A key with addresses, as iroh takes it; `None` if the bytes are no key. The
/// keys of its relays are trusted from here on.
pub(crate) fn endpoint_addr(
    key: &[u8; 32],
    addresses: &PeerAddresses,
    relays: &Relays,
) -> Option<EndpointAddr> {
    let id = EndpointId::from_bytes(key).ok()?;
    let direct = addresses.direct.iter().copied().map(TransportAddr::Ip);
    let relays = relays
        .usable(&addresses.relays)
        .into_iter()
        .map(|relay| TransportAddr::Relay(relay.url().clone()));
    Some(EndpointAddr::from_parts(id, direct.chain(relays)))
}

/// Whether a peer can be dialled at all.
pub(crate) fn is_dialable(record: &PeerRecord, finder: &Finder, uses_discovery: bool) -> bool {
    record.enabled && record.node_key().is_some() && (uses_discovery || finder.has_places(record))
}

/// Addresses that a peer says it has: none that would make this node talk to
/// itself, its link or the keeper of its machine's keys; loopback ones only of a
/// peer that itself came over loopback.
pub(crate) fn vetted(addresses: &[SocketAddr], came_over_loopback: bool) -> Vec<SocketAddr> {
    let mut kept: Vec<SocketAddr> = Vec::new();
    for address in addresses {
        let ip = address.ip();
        let fine = address.port() != 0
            && !is_never_contacted(ip)
            && (came_over_loopback || !is_loopback(ip));
        if fine && !kept.contains(address) && kept.len() < crate::ticket::ADDRESSES_MAX {
            kept.push(*address);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_peer_cannot_point_us_at_ourselves() {
        let said: Vec<SocketAddr> = [
            "127.0.0.1:1",
            "[::1]:1",
            "169.254.169.254:80",
            "[fe80::1]:1",
            "0.0.0.0:1",
            "[::ffff:127.0.0.1]:1",
            "10.0.0.1:0",
            "224.0.0.1:5",
            "255.255.255.255:5",
            "100.100.100.200:80",
            "[fd00:ec2::254]:80",
            "168.63.129.16:80",
            "[fd20:ce::254]:80",
            "[64:ff9b::127.0.0.1]:1",
            "10.0.0.1:5",
            "10.0.0.1:5",
        ]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
        assert_eq!(vetted(&said, false), ["10.0.0.1:5".parse().unwrap()]);
        assert_eq!(vetted(&said, true).len(), 5);
    }
}
