//! What lets a node be found again after it and a peer both have moved.
//!
//! An anchor is a relay that this node uses or is (n0's count as one), this
//! node's own address if that is public, or a peer with an address that does
//! not move: one that a person or a ticket gave, and that is public (no
//! private, shared, link-local or loopback range). Whether it holds still
//! cannot be seen from here; that it is public is what can.

use super::Finder;
use crate::{config::RelaySetting, node::OWNER};
use alknet_core::storage::PeerRecord;
use std::net::{IpAddr, SocketAddr, UdpSocket};

/// The anchors that a node knows, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Anchors {
    /// Relays as they are written, then peers.
    pub(crate) names: Vec<String>,
    /// Whether there is anybody to be found by.
    pub(crate) has_peers: bool,
}

/// What can be done about too few of them.
const REMEDY: &str = "run a relay of your own on a machine with a public address (`alknet relay`), or make a peer of one that has such an address";

impl Anchors {
    /// A warning if there is none or only one.
    pub(crate) fn warning(&self) -> Option<String> {
        if !self.has_peers {
            return None;
        }
        match self.names.as_slice() {
            [] => Some(format!(
                "no anchor is known: if this node and a peer both get new addresses while apart, they do not find each other again; {REMEDY}"
            )),
            [one] => Some(format!(
                "only one anchor is known, {one}: while it is away, nodes that have moved do not find each other; for a second one, {REMEDY}"
            )),
            _ => None,
        }
    }
}

/// The anchors known now; `own` are this node's addresses.
pub(crate) fn anchors(finder: &Finder, relays: &[RelaySetting], own: &[SocketAddr]) -> Anchors {
    let mut names = Vec::new();
    let chosen = finder.relays.chosen();
    // Beside relays of one's own, of n0 only the discovery is used.
    if relays.contains(&RelaySetting::N0) && chosen.is_empty() {
        names.push("n0's public relays".to_owned());
    }
    names.extend(chosen.iter().map(|relay| format!("relay {}", relay.url())));
    let public = own.iter().find(|own| is_own_public(own));
    names.extend(public.map(|address| format!("this node at {address}")));
    let peers = finder.identities.snapshot().peers;
    let others: Vec<&PeerRecord> = peers
        .iter()
        .filter(|peer| peer.enabled && peer.id.as_str() != OWNER && !peer.node_keys.is_empty())
        .collect();
    let public = others.iter().filter(|peer| {
        let mut given = peer.addresses.direct.iter();
        given.any(is_public)
    });
    names.extend(public.map(|peer| format!("peer `{}`", peer.id)));
    Anchors {
        names,
        has_peers: !others.is_empty(),
    }
}

/// Whether an address is public and this machine's: others dial it as it is.
pub(crate) fn is_own_public(address: &SocketAddr) -> bool {
    is_public(address) && is_local(address)
}

/// Whether an address is this machine's, and not its router's: only then can
/// something be bound to it.
fn is_local(address: &SocketAddr) -> bool {
    UdpSocket::bind((address.ip(), 0)).is_ok()
}

/// Whether an address can be one that the whole internet reaches.
fn is_public(address: &SocketAddr) -> bool {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            let [first, second, ..] = ip.octets();
            // Shared by many behind a carrier's NAT (RFC 6598).
            let shared = first == 100 && (64..128).contains(&second);
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_unspecified()
                || ip.is_broadcast()
                || ip.is_multicast()
                || shared)
        }
        // Global unicast (RFC 4291, 2.4).
        IpAddr::V6(ip) => ip.segments()[0] & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn public_addresses_are_told_from_those_of_some_place() {
        for public in [
            "203.0.113.1:1",
            "8.8.8.8:1",
            "[2001:db8::1]:1",
            "100.63.0.1:1",
        ] {
            assert!(is_public(&public.parse().unwrap()), "{public}");
        }
        for other in [
            "10.0.0.1:1",
            "192.168.1.1:1",
            "172.31.0.1:1",
            "100.64.0.1:1",
            "100.127.9.9:1",
            "127.0.0.1:1",
            "169.254.1.1:1",
            "[::1]:1",
            "[fd00::1]:1",
            "[fe80::1]:1",
            "[::ffff:10.0.0.1]:1",
        ] {
            assert!(!is_public(&other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn addresses_of_this_machine_are_told_from_those_of_its_router() {
        assert!(is_local(&"127.0.0.1:1".parse().unwrap()));
        assert!(!is_local(&"192.0.2.1:1".parse().unwrap()));
    }

    #[test]
    fn none_and_one_are_warned_of_once_there_are_peers() {
        let anchors = |count: usize, has_peers| Anchors {
            names: vec!["peer `hub`".into(); count],
            has_peers,
        };
        assert_eq!(anchors(0, false).warning(), None);
        assert!(anchors(0, true).warning().unwrap().starts_with("no anchor"));
        let one = anchors(1, true).warning().unwrap();
        assert!(
            one.starts_with("only one anchor is known, peer `hub`"),
            "{one}"
        );
        assert_eq!(anchors(2, true).warning(), None);
    }
}
