//! What a captured packet was.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

/// A packet, as its headers tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// When it was noted, after the begin of the capture.
    pub at: Duration,
    /// What it carries.
    pub protocol: Protocol,
    /// Who sent it; of ARP, the asker.
    pub source: Option<IpAddr>,
    /// Whom it is for; of ARP, the one who is asked for.
    pub destination: Option<IpAddr>,
    /// The port that it came from, of TCP and UDP.
    pub source_port: Option<u16>,
    /// The port that it is for, of TCP and UDP.
    pub destination_port: Option<u16>,
    /// Its length with the header of Ethernet, 14 bytes.
    pub bytes: usize,
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Who has an IPv4 address (RFC 826).
    Arp,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP, with its type.
    Icmp(u8),
    /// ICMP for IPv6, with its type; 133 to 137 are neighbour discovery
    /// (RFC 4861), 130 to 132 and 143 multicast listeners (RFC 3810).
    IcmpV6(u8),
    /// Another protocol of IP, by its number.
    Ip(u8),
    /// Another protocol of Ethernet, by its number.
    Ethernet(u16),
    /// Too short for what it claims to be.
    Malformed,
}

impl Protocol {
    /// Whether it only asks for or tells hardware addresses, routers and
    /// multicast groups on its own link.
    pub fn is_of_the_link(self) -> bool {
        matches!(
            self,
            Self::Arp | Self::IcmpV6(130..=137) | Self::IcmpV6(143)
        )
    }
}

impl Packet {
    /// Reads the head of a frame that was `bytes` long. What cannot be read is
    /// [`Protocol::Malformed`], never left out.
    pub(crate) fn parse(head: &[u8], bytes: usize, at: Duration) -> Self {
        let mut packet = Self {
            at,
            protocol: Protocol::Malformed,
            source: None,
            destination: None,
            source_port: None,
            destination_port: None,
            bytes,
        };
        // What cannot be read keeps what was read before.
        let _ = packet.read(head);
        packet
    }

    fn read(&mut self, head: &[u8]) -> Option<()> {
        let kind = number(head, 12)?;
        let rest = head.get(14..)?;
        match kind {
            0x0800 => self.read_v4(rest),
            0x0806 => self.read_arp(rest),
            0x86DD => self.read_v6(rest),
            other => {
                self.protocol = Protocol::Ethernet(other);
                Some(())
            }
        }
    }

    fn read_arp(&mut self, bytes: &[u8]) -> Option<()> {
        self.source = Some(v4(bytes, 14)?);
        self.destination = Some(v4(bytes, 24)?);
        self.protocol = Protocol::Arp;
        Some(())
    }

    fn read_v4(&mut self, bytes: &[u8]) -> Option<()> {
        self.source = Some(v4(bytes, 12)?);
        self.destination = Some(v4(bytes, 16)?);
        let header = usize::from(bytes[0] & 0x0F) * 4;
        // Later fragments begin in the middle of what they carry.
        let is_first = number(bytes, 6)? & 0x1FFF == 0;
        let rest = if is_first { bytes.get(header..)? } else { &[] };
        self.read_transport(bytes[9], rest, is_first)
    }

    fn read_v6(&mut self, bytes: &[u8]) -> Option<()> {
        self.source = Some(v6(bytes, 8)?);
        self.destination = Some(v6(bytes, 24)?);
        let (mut next, mut at) = (bytes[6], 40);
        loop {
            match next {
                // Hop-by-hop, routing, destination options (RFC 8200, section 4).
                0 | 43 | 60 => {
                    next = *bytes.get(at)?;
                    at += (usize::from(*bytes.get(at + 1)?) + 1) * 8;
                }
                44 => {
                    let is_first = number(bytes, at + 2)? & 0xFFF8 == 0;
                    let carried = *bytes.get(at)?;
                    at += 8;
                    if !is_first {
                        return self.read_transport(carried, &[], false);
                    }
                    next = carried;
                }
                _ => return self.read_transport(next, bytes.get(at..)?, true),
            }
        }
    }

    fn read_transport(&mut self, protocol: u8, rest: &[u8], has_header: bool) -> Option<()> {
        self.protocol = match protocol {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            1 | 58 if !has_header => Protocol::Ip(protocol),
            1 => Protocol::Icmp(*rest.first()?),
            58 => Protocol::IcmpV6(*rest.first()?),
            other => Protocol::Ip(other),
        };
        if matches!(protocol, 6 | 17) && has_header {
            self.source_port = Some(number(rest, 0)?);
            self.destination_port = Some(number(rest, 2)?);
        }
        Some(())
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6} {:?} ", self.at.as_secs_f64(), self.protocol)?;
        end(f, self.source, self.source_port)?;
        f.write_str(" > ")?;
        end(f, self.destination, self.destination_port)?;
        write!(f, " {} bytes", self.bytes)
    }
}

fn end(f: &mut fmt::Formatter<'_>, address: Option<IpAddr>, port: Option<u16>) -> fmt::Result {
    match (address, port) {
        (Some(address), Some(port)) => write!(f, "{}", std::net::SocketAddr::new(address, port)),
        (Some(address), None) => write!(f, "{address}"),
        _ => f.write_str("?"),
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    let two: [u8; 2] = bytes.get(at..at + 2)?.try_into().ok()?;
    Some(u16::from_be_bytes(two))
}

fn v4(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let four: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(four).into())
}

fn v6(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let sixteen: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(Ipv6Addr::from(sixteen).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(kind: u16, rest: &[u8]) -> Packet {
        let frame = [&[0; 12][..], &kind.to_be_bytes(), rest].concat();
        Packet::parse(&frame, frame.len(), Duration::ZERO)
    }

    /// An IPv4 header without options, with what follows it.
    fn v4_packet(protocol: u8, fragment: u16, rest: &[u8]) -> Packet {
        let mut header = vec![0x45, 0, 0, 0, 0, 0];
        header.extend(fragment.to_be_bytes());
        header.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        parse(0x0800, &[&header[..], rest].concat())
    }

    /// An IPv6 header, with what follows it.
    fn v6_packet(next: u8, rest: &[u8]) -> Packet {
        let mut header = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        header.extend(Ipv6Addr::LOCALHOST.octets());
        header.extend(Ipv6Addr::LOCALHOST.octets());
        parse(0x86DD, &[&header[..], rest].concat())
    }

    #[test]
    fn a_datagram_tells_both_ends() {
        let packet = v4_packet(17, 0, &[0, 53, 1, 0, 0, 0, 0, 0]);
        assert_eq!(
            packet.to_string(),
            "0.000000 Udp 10.0.0.1:53 > 10.0.0.2:256 42 bytes"
        );
    }

    #[test]
    fn a_later_fragment_has_no_ports() {
        let packet = v4_packet(17, 100, &[0, 53, 1, 0, 0, 0, 0, 0]);
        assert_eq!(packet.protocol, Protocol::Udp);
        assert_eq!((packet.source_port, packet.destination_port), (None, None));
    }

    #[test]
    fn what_asks_for_multicast_hides_behind_options() {
        let options = [58, 0, 5, 2, 0, 0, 0, 0];
        let packet = v6_packet(0, &[&options[..], &[143, 0, 0, 0]].concat());
        assert_eq!(packet.protocol, Protocol::IcmpV6(143));
        assert!(packet.protocol.is_of_the_link());
    }

    #[test]
    fn an_echo_is_not_of_the_link() {
        assert!(!v6_packet(58, &[128, 0]).protocol.is_of_the_link());
        assert!(!v4_packet(1, 0, &[8, 0]).protocol.is_of_the_link());
    }

    #[test]
    fn arp_tells_who_asks_for_whom() {
        let mut request = [0; 28];
        request[14..18].copy_from_slice(&[10, 0, 0, 1]);
        request[24..28].copy_from_slice(&[10, 0, 0, 2]);
        let packet = parse(0x0806, &request);
        assert_eq!(packet.destination, Some(Ipv4Addr::new(10, 0, 0, 2).into()));
        assert!(packet.protocol.is_of_the_link());
    }

    #[test]
    fn what_is_cut_off_is_malformed_and_still_there() {
        let packet = v4_packet(17, 0, &[]);
        assert_eq!(packet.destination, Some(Ipv4Addr::new(10, 0, 0, 2).into()));
        assert_eq!(parse(0x0800, &[0x45]).protocol, Protocol::Malformed);
    }

    proptest! {
        #[test]
        fn no_frame_is_too_strange(
            kind in prop_oneof![Just(0x0800), Just(0x86DD), Just(0x0806), any::<u16>()],
            rest in proptest::collection::vec(any::<u8>(), 0..120),
        ) {
            let packet = parse(kind, &rest);
            prop_assert_eq!(packet.bytes, rest.len() + 14);
        }
    }
}
