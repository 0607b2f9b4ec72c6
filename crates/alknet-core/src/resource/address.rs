//! What kind of place an address is, and which names may stand for it: what
//! keeps a grant for one server from being a grant for the network behind a
//! node.

use super::Host;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What kind of place an IP address is, after the registries of special
/// purpose addresses of IANA (RFC 6890, as of 2026).
///
/// An IPv6 address that stands for an IPv4 one is judged by that one: mapped
/// (RFC 4291), compatible (RFC 4291), NAT64 (RFC 6052) and 6to4 (RFC 3056).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddressClass {
    /// Anywhere on the internet.
    Public,
    /// Networks of one's own: RFC 1918, RFC 6598, RFC 4193.
    Private,
    /// This machine.
    Loopback,
    /// The next wire: RFC 3927, RFC 4291.
    LinkLocal,
    /// Where clouds hand out credentials to the machines in them.
    Metadata,
    /// Groups: RFC 5771, RFC 4291.
    Multicast,
    /// No address, which systems take for this machine.
    Unspecified,
    /// Documentation, tests, broadcast, tunnels, and what nobody was given.
    Reserved,
}

/// Addresses at which clouds hand out credentials, beside link-local ones:
/// Azure, Alibaba, Oracle.
const METADATA_V4: [Ipv4Addr; 6] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
];

/// The same of Google, over IPv6.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254);

/// Ends of names that are nobody's on the internet, so that whoever answers
/// for them is the network itself: RFC 6762 appendix G, RFC 8375, and
/// `.internal`, which ICANN set aside in 2024.
const PRIVATE_SUFFIXES: [&str; 9] = [
    "lan",
    "local",
    "internal",
    "home.arpa",
    "home",
    "corp",
    "localdomain",
    "intranet",
    "private",
];

impl AddressClass {
    /// The class of an address.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        match judged(ip) {
            IpAddr::V4(ip) => of_v4(ip),
            IpAddr::V6(ip) => of_v6(ip),
        }
    }

    /// As it is said: `a private address`.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Public => "a public address",
            Self::Private => "a private address",
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "a cloud's metadata address",
            Self::Multicast => "a multicast address",
            Self::Unspecified => "an unspecified address",
            Self::Reserved => "a reserved address",
        }
    }

    /// Whether whoever may dial `name` may dial an address of this class that
    /// it resolves to. Anybody can point a name of theirs anywhere, so a name
    /// on the internet stands for places on the internet only.
    #[must_use]
    pub fn fits_name(self, name: &str) -> bool {
        match self {
            Self::Public => true,
            Self::Private => is_private_use(name),
            Self::Loopback => name == LOCALHOST,
            _ => false,
        }
    }
}

/// The one name that stands for this machine (RFC 6761).
const LOCALHOST: &str = "localhost";

/// Whether a canonical name is answered by the network it is asked in.
fn is_private_use(name: &str) -> bool {
    let ends_in = |suffix: &&str| {
        name.strip_suffix(*suffix)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    name != LOCALHOST && (!name.contains('.') || PRIVATE_SUFFIXES.iter().any(ends_in))
}

/// The address that decides: the IPv4 one that an IPv6 one stands for, or the
/// address itself.
pub(super) fn judged(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => embedded(v6).map_or(ip, IpAddr::V4),
        v4 => v4,
    }
}

fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = ip.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] => Some(v4(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        // `::` and `::1` are addresses of their own.
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 || low > 1 => Some(v4(high, low)),
        _ => None,
    }
}

fn of_v4(ip: Ipv4Addr) -> AddressClass {
    use AddressClass::{
        LinkLocal, Loopback, Metadata, Multicast, Private, Public, Reserved, Unspecified,
    };
    match ip.octets() {
        _ if METADATA_V4.contains(&ip) => Metadata,
        // Linux takes 0.0.0.0 for this machine.
        [0, ..] => Unspecified,
        [127, ..] => Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Private,
        [169, 254, ..] => LinkLocal,
        // Protocol assignments, documentation, 6to4 relays, benchmarks.
        [192, 0, 0 | 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Reserved,
        [192, 88, 99, _] | [198, 18..=19, ..] => Reserved,
        [224..=239, ..] => Multicast,
        [240..=255, ..] => Reserved,
        _ => Public,
    }
}

fn of_v6(ip: Ipv6Addr) -> AddressClass {
    use AddressClass::{
        LinkLocal, Loopback, Metadata, Multicast, Private, Public, Reserved, Unspecified,
    };
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => Loopback,
        // Amazon's own services.
        [0xfd00, 0xec2, ..] => Metadata,
        _ if ip == METADATA_V6 => Metadata,
        [0xfc00..=0xfdff, ..] => Private,
        [0xfe80..=0xfebf, ..] => LinkLocal,
        [0xff00..=0xffff, ..] => Multicast,
        // Teredo and other protocol assignments, documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Reserved,
        [0x2000..=0x3fff, ..] => Public,
        _ => Reserved,
    }
}

/// Whether a grant of a whole operation covers a canonical `net` resource by
/// itself: a listener on this machine, a connection to the internet, or to a
/// name, whose addresses are asked for one by one. Everything else is listed.
pub(crate) fn is_covered_by_whole(action: &str, canonical: &str) -> bool {
    let Some((host, _)) = super::parse_canonical(canonical) else {
        return false;
    };
    match host {
        Host::Name(_) => true,
        Host::Ip(ip) if action == "listen" => AddressClass::of(ip) == AddressClass::Loopback,
        Host::Ip(ip) => AddressClass::of(ip) == AddressClass::Public,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_form_of_an_address_is_judged_by_what_it_reaches() {
        use AddressClass::{
            LinkLocal, Loopback, Metadata, Multicast, Private, Public, Reserved, Unspecified,
        };
        for (text, want) in [
            ("8.8.8.8", Public),
            ("100.63.255.255", Public),
            ("100.64.0.0", Private),
            ("100.127.255.255", Private),
            ("100.128.0.0", Public),
            ("100.100.100.200", Metadata),
            ("10.0.0.0", Private),
            ("10.255.255.255", Private),
            ("11.0.0.0", Public),
            ("172.15.255.255", Public),
            ("172.16.0.0", Private),
            ("172.31.255.255", Private),
            ("172.32.0.0", Public),
            ("192.167.255.255", Public),
            ("192.168.0.0", Private),
            ("192.169.0.0", Public),
            ("127.0.0.1", Loopback),
            ("127.255.255.255", Loopback),
            ("128.0.0.0", Public),
            ("0.0.0.0", Unspecified),
            ("0.1.2.3", Unspecified),
            ("169.254.0.1", LinkLocal),
            ("169.254.169.254", Metadata),
            ("169.254.170.2", Metadata),
            ("168.63.129.16", Metadata),
            ("192.0.0.192", Metadata),
            ("192.0.0.8", Reserved),
            ("192.0.2.1", Reserved),
            ("198.51.100.7", Reserved),
            ("203.0.113.7", Reserved),
            ("198.18.0.1", Reserved),
            ("198.20.0.0", Public),
            ("192.88.99.1", Reserved),
            ("224.0.0.1", Multicast),
            ("239.255.255.255", Multicast),
            ("240.0.0.1", Reserved),
            ("255.255.255.255", Reserved),
            ("2606:4700::1111", Public),
            ("::", Unspecified),
            ("::1", Loopback),
            ("::ffff:127.0.0.1", Loopback),
            ("::ffff:8.8.8.8", Public),
            ("::ffff:169.254.169.254", Metadata),
            ("::127.0.0.1", Loopback),
            ("::10.1.2.3", Private),
            ("64:ff9b::a01:203", Private),
            ("64:ff9b::808:808", Public),
            ("64:ff9b::a9fe:a9fe", Metadata),
            ("64:ff9b:1::a01:203", Reserved),
            ("2002:7f00:1::", Loopback),
            ("2002:c0a8:101:5::9", Private),
            ("2002:808:808::1", Public),
            ("2001:0:808:808::", Reserved),
            ("2001:db8::1", Reserved),
            ("2001:200::1", Public),
            ("3fff::1", Reserved),
            ("3fff:1000::1", Public),
            ("fc00::1", Private),
            ("fdff::1", Private),
            ("fd00:ec2::254", Metadata),
            ("fd20:ce::254", Metadata),
            ("fe80::1", LinkLocal),
            ("febf::1", LinkLocal),
            ("fec0::1", Reserved),
            ("ff02::1", Multicast),
            ("4000::1", Reserved),
            ("100::1", Reserved),
            ("5f00::1", Reserved),
        ] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(AddressClass::of(ip), want, "{text}");
        }
    }

    #[test]
    fn only_names_of_the_network_itself_stand_for_private_addresses() {
        use AddressClass::{Loopback, Metadata, Private, Public};
        for name in [
            "db",
            "db.lan",
            "db.local",
            "a.b.internal",
            "nas.home.arpa",
            "nas.home",
            "x.corp",
            "x.localdomain",
            "x.intranet",
            "x.private",
        ] {
            assert!(Private.fits_name(name), "{name}");
            assert!(!Loopback.fits_name(name) && !Metadata.fits_name(name));
        }
        for name in [
            "example.com",
            "lan.example.com",
            "nolan.xlan",
            "arpa.com",
            "x.arpa",
            "localhost",
            "localhost.example.com",
        ] {
            assert!(!Private.fits_name(name), "{name}");
            assert!(Public.fits_name(name) && !Metadata.fits_name(name));
        }
        assert!(Loopback.fits_name("localhost"));
        for name in ["a.localhost", "localhost.lan", "localhost.localdomain"] {
            assert!(!Loopback.fits_name(name), "{name}");
        }
    }
}
