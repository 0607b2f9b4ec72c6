//! What relays see of this machine over UDP: QUIC address discovery
//! (draft-ietf-quic-address-discovery), from one socket for all of them, so
//! that what they see can be compared.

use super::https::refused_certificate;
use futures::StreamExt;
use iroh_relay::quic::{QUIC_ADDR_DISC_CLOSE_CODE, QUIC_ADDR_DISC_CLOSE_REASON, QuicClient};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};
use tokio::time::{Instant, timeout};

/// Time for a handshake and an answer.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// A socket of one address family.
pub(super) struct Socket {
    endpoint: noq::Endpoint,
    client: QuicClient,
    port: u16,
}

/// What one relay saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Whom was asked.
    pub(super) server: SocketAddr,
    /// From where the question came, as the server saw it.
    pub(super) public: SocketAddr,
    /// From where it was sent.
    pub(super) local: SocketAddr,
    /// Round trip.
    pub(super) latency: Duration,
}

/// Why a question was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unanswered {
    /// Whether packets came back all the same.
    pub(super) is_heard: bool,
    /// In words.
    pub(super) cause: String,
}

impl Unanswered {
    fn of(error: &iroh_relay::quic::Error) -> Self {
        use noq::ConnectionError as E;
        let silent = |cause: String| Self {
            is_heard: false,
            cause,
        };
        let iroh_relay::quic::Error::Connection { source, .. } = error else {
            return silent(error.to_string());
        };
        let certificate = match source {
            E::TransportError(error) => error.crypto.as_ref().and_then(|cause| match cause
                .downcast_ref::<rustls::Error>(
            )? {
                rustls::Error::InvalidCertificate(cause) => Some(refused_certificate(cause)),
                _ => None,
            }),
            E::TimedOut => return silent("no answer".into()),
            E::LocallyClosed | E::CidsExhausted => return silent(source.to_string()),
            _ => None,
        };
        Self {
            is_heard: true,
            cause: certificate.map_or_else(|| source.to_string(), |problem| problem.to_string()),
        }
    }
}

impl Socket {
    /// `None` if this machine cannot have one.
    pub(super) fn open(is_v4: bool, tls: &rustls::ClientConfig) -> Option<Self> {
        let any: IpAddr = match is_v4 {
            true => Ipv4Addr::UNSPECIFIED.into(),
            false => Ipv6Addr::UNSPECIFIED.into(),
        };
        let endpoint = noq::Endpoint::client(SocketAddr::new(any, 0)).ok()?;
        let port = endpoint.local_addr().ok()?.port();
        Some(Self {
            client: QuicClient::new(endpoint.clone(), tls.clone()),
            endpoint,
            port,
        })
    }

    /// Asks a relay from where this socket's packets come.
    pub(super) async fn ask(&self, server: SocketAddr, name: &str) -> Result<Seen, Unanswered> {
        let asking = async {
            let began = Instant::now();
            let connection = self.client.create_conn(server, name).await;
            let connection = connection.map_err(|error| Unanswered::of(&error))?;
            let handshake = began.elapsed();
            let seen = connection.observed_external_addr().next().await;
            let latency = connection.rtt(noq::PathId::ZERO).unwrap_or(handshake);
            connection.close(QUIC_ADDR_DISC_CLOSE_CODE, QUIC_ADDR_DISC_CLOSE_REASON);
            let public = seen.ok_or_else(|| Unanswered {
                is_heard: true,
                cause: "it does not say what it sees".into(),
            })?;
            Ok(Seen {
                server,
                public: SocketAddr::new(public.ip().to_canonical(), public.port()),
                local: SocketAddr::new(source(server.ip()).unwrap_or(server.ip()), self.port),
                latency,
            })
        };
        match timeout(ANSWER_MAX, asking).await {
            Ok(seen) => seen,
            Err(_) => Err(Unanswered {
                is_heard: false,
                cause: "no answer".into(),
            }),
        }
    }

    /// Tells the servers that nothing more comes.
    pub(super) async fn close(self) {
        self.endpoint
            .close(QUIC_ADDR_DISC_CLOSE_CODE, QUIC_ADDR_DISC_CLOSE_REASON);
        let _ = timeout(Duration::from_millis(500), self.endpoint.wait_idle()).await;
    }
}

/// The address from which packets to `target` would leave; nothing is sent.
pub(super) fn source(target: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match target {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((target, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// What stands between this machine and those it asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nat {
    /// Packets arrive from the address that they were sent from.
    None,
    /// The same public address for every destination (RFC 4787, section 4.1:
    /// endpoint-independent mapping).
    EndpointIndependent,
    /// Another one for another destination: address-dependent mapping.
    AddressDependent,
    /// There is one, and only one server to ask: that does not tell which.
    SomeKind,
    /// Nobody answered.
    Unknown,
}

impl Nat {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Nat::None => "none",
            Nat::EndpointIndependent => "endpoint-independent",
            Nat::AddressDependent => "address-dependent",
            Nat::SomeKind | Nat::Unknown => "unknown",
        }
    }
}

/// Judges by what servers saw of one socket.
pub(super) fn judge(seen: &[Seen]) -> Nat {
    // A server in the same network says nothing of the way out of it.
    let translated: Vec<&Seen> = seen
        .iter()
        .filter(|seen| seen.public != seen.local)
        .collect();
    let Some(first) = translated.first() else {
        return match seen.is_empty() {
            true => Nat::Unknown,
            false => Nat::None,
        };
    };
    if translated.iter().any(|seen| seen.public != first.public) {
        return Nat::AddressDependent;
    }
    match translated.iter().any(|seen| seen.server != first.server) {
        true => Nat::EndpointIndependent,
        false => Nat::SomeKind,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn seen(server: &str, public: &str) -> Seen {
        Seen {
            server: server.parse().unwrap(),
            public: public.parse().unwrap(),
            local: "192.168.1.2:4433".parse().unwrap(),
            latency: Duration::ZERO,
        }
    }

    #[test]
    fn the_kind_of_a_nat_takes_two_servers_to_tell() {
        let (one, two) = ("203.0.113.1:7842", "203.0.113.2:7842");
        let judged = |seen: &[Seen]| judge(seen);
        assert_eq!(judged(&[]), Nat::Unknown);
        assert_eq!(judged(&[seen(one, "198.51.100.7:4433")]), Nat::SomeKind);
        assert_eq!(
            judged(&[
                seen(one, "198.51.100.7:4433"),
                seen(one, "198.51.100.7:4433")
            ]),
            Nat::SomeKind
        );
        assert_eq!(
            judged(&[
                seen(one, "198.51.100.7:4433"),
                seen(two, "198.51.100.7:4433")
            ]),
            Nat::EndpointIndependent
        );
        assert_eq!(
            judged(&[seen(one, "198.51.100.7:4433"), seen(two, "198.51.100.7:9")]),
            Nat::AddressDependent
        );
        assert_eq!(judged(&[seen(one, "192.168.1.2:4433")]), Nat::None);
        // A relay in the same network does not count.
        assert_eq!(
            judged(&[seen(one, "192.168.1.2:4433"), seen(two, "198.51.100.7:9")]),
            Nat::SomeKind
        );
    }

    #[test]
    fn packets_to_this_machine_leave_from_it() {
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert_eq!(source(loopback), Some(loopback));
    }
}
