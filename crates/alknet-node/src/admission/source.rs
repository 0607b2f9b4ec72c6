//! Where something comes from, as far as that is proven, and ranges of
//! addresses.

use alknet_core::storage::hex32;
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Leading bits of an IPv6 address that one subscriber has: the rest of it is
/// free to whoever holds them (RFC 4291, 2.5.4; RFC 7934).
const SUBSCRIBER_BITS: u8 = 64;

/// What offences are counted of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// An IPv4 address, or an IPv6 network of 64 bits, that has answered.
    Network(Prefix),
    /// A node key that a handshake has proven.
    Key([u8; 32]),
}

impl Source {
    pub(crate) fn of_address(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let bits = match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => SUBSCRIBER_BITS,
        };
        Self::Network(Prefix::new(address, bits))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Network(prefix) => fmt::Display::fmt(prefix, f),
            Source::Key(key) => write!(f, "ed25519:{}", hex32::encode(key)),
        }
    }
}

/// Addresses that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Prefix {
    /// Canonical, and zero behind the bits.
    address: IpAddr,
    bits: u8,
}

impl Prefix {
    fn new(address: IpAddr, bits: u8) -> Self {
        let address = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
        };
        Self { address, bits }
    }

    /// Reads `192.0.2.7`, `192.0.2.0/24`, `2001:db8::/64`. An IPv4 address in
    /// the clothes of IPv6 is the IPv4 address (RFC 4291, 2.5.5.2).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
            None => (text, None),
        };
        let written: IpAddr = address.parse().ok()?;
        let address = written.to_canonical();
        let most = Self::most(address);
        let bits = match bits {
            None => most,
            // Its bits are counted as they are written.
            Some(bits) if written != address => bits.checked_sub(96)?,
            Some(bits) => bits,
        };
        (bits <= most).then(|| Self::new(address, bits))
    }

    fn most(address: IpAddr) -> u8 {
        match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        }
    }

    pub(crate) fn holds(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4()
            && Self::new(address, self.bits).address == self.address
    }

    /// Whether some address is in both.
    pub(crate) fn meets(&self, other: &Prefix) -> bool {
        self.holds(other.address) || other.holds(self.address)
    }

    /// Whether so many addresses begin so that nobody can mean them all: more
    /// than an eighth bit of IPv4, or a sixteenth of IPv6.
    pub(crate) fn is_too_wide(&self) -> bool {
        self.bits
            < match self.address {
                IpAddr::V4(_) => 8,
                IpAddr::V6(_) => 16,
            }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bits == Self::most(self.address) {
            return fmt::Display::fmt(&self.address, f);
        }
        write!(f, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn prefix(text: &str) -> Prefix {
        Prefix::parse(text).unwrap()
    }

    #[test]
    fn prefixes_are_written_one_way() {
        for (text, want) in [
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.7/32", "192.0.2.7"),
            ("192.0.2.7/24", "192.0.2.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:DB8::1", "2001:db8::1"),
            ("2001:db8::1/64", "2001:db8::/64"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7/120", "192.0.2.0/24"),
        ] {
            assert_eq!(prefix(text).to_string(), want, "{text}");
            assert_eq!(prefix(want), prefix(text), "{text}");
        }
        for bad in [
            "",
            "/",
            "192.0.2",
            "192.0.2.7/33",
            "2001:db8::/129",
            "192.0.2.7/",
            "192.0.2.7/-1",
            "192.0.2.7/٣",
            "::ffff:192.0.2.7/64",
            "laptop",
            "[::1]",
            "fe80::1%eth0",
        ] {
            assert_eq!(Prefix::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_begins_alike_is_held_at_the_edge_and_not_one_past_it() {
        let network = prefix("192.0.2.0/25");
        for (address, held) in [
            ("192.0.2.127", true),
            ("192.0.2.128", false),
            ("192.0.1.255", false),
            ("::ffff:192.0.2.1", true),
            ("2001:db8::1", false),
        ] {
            assert_eq!(network.holds(address.parse().unwrap()), held, "{address}");
        }
        assert!(prefix("::/0").holds("2001:db8::1".parse().unwrap()));
        assert!(!prefix("::/0").holds("192.0.2.1".parse().unwrap()));
        assert!(prefix("10.0.0.0/7").is_too_wide() && !prefix("10.0.0.0/8").is_too_wide());
        assert!(prefix("2000::/15").is_too_wide() && !prefix("2000::/16").is_too_wide());
    }

    #[test]
    fn a_subscriber_of_ipv6_is_one_source() {
        let of = |text: &str| Source::of_address(text.parse().unwrap());
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("2001:db8::9").to_string(), "2001:db8::/64");
    }
}
