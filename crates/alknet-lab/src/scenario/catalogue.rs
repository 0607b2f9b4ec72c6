//! The rows, and what theory says of each.
//!
//! By RFC 4787, a NAT with endpoint-independent mapping ("cone") shows the same
//! public port to everybody: a relay can tell it, and two such nodes meet there
//! even if both filter by address and port, since each opens its own filter. A
//! NAT whose mapping depends on the destination ("symmetric") shows the other
//! node a port that nobody could tell: it meets whoever takes packets from any
//! port, and nobody who filters by port, which Linux does.

use super::{Before, Change, Expect, Path, Scenario};
use crate::Nat;
use std::time::Duration;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
const DAY: i64 = 24 * 60 * 60;

/// A scenario from which the others are told apart.
const CONES: Scenario = Scenario {
    name: "",
    about: "",
    home: Nat::Cone,
    laptop: Nat::Cone,
    calls_back: false,
    relays: 1,
    before: Before::Plain,
    change: Change::RelaysRestart(Duration::from_secs(3)),
    path: Path::Direct,
    path_after: Path::Direct,
    expect: Expect::Survive,
    bulk_bytes: GIB,
};

/// The same between nodes that only have a relay.
const RELAYED: Scenario = Scenario {
    home: Nat::Symmetric,
    laptop: Nat::Symmetric,
    path: Path::Relay,
    path_after: Path::Relay,
    ..CONES
};

/// Every scenario, in the order of the table.
#[must_use]
pub fn all() -> Vec<Scenario> {
    let mut all = pairs();
    all.extend(relays());
    all.extend(changes());
    all.extend(impairments());
    all
}

fn pairs() -> Vec<Scenario> {
    let pair = |name, about, home, laptop, path| Scenario {
        name,
        about,
        home,
        laptop,
        path,
        path_after: path,
        ..CONES
    };
    use Nat::{CarrierGrade, Cone, Open, Symmetric};
    vec![
        pair(
            "open-open",
            "Both have public addresses.",
            Open,
            Open,
            Path::Direct,
        ),
        pair(
            "open-cone",
            "One has a public address.",
            Open,
            Cone,
            Path::Direct,
        ),
        pair(
            "open-symmetric",
            "Whoever has a public address is reached from any NAT.",
            Open,
            Symmetric,
            Path::Direct,
        ),
        pair(
            "cone-cone",
            "Both ports can be told: they meet.",
            Cone,
            Cone,
            Path::Direct,
        ),
        pair(
            "cone-symmetric",
            "The cone's filter wants a port that nobody can tell.",
            Cone,
            Symmetric,
            Path::Relay,
        ),
        pair(
            "symmetric-symmetric",
            "Neither port can be told.",
            Symmetric,
            Symmetric,
            Path::Relay,
        ),
        pair(
            "cone-carrier",
            "A cone behind a carrier's cone is a cone.",
            Cone,
            CarrierGrade,
            Path::Direct,
        ),
    ]
}

fn relays() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "udp-blocked",
            about: "No UDP from the start: TCP 443 to the relay. Then UDP is allowed.",
            before: Before::UdpBlocked,
            change: Change::UdpAllowed,
            path: Path::Relay,
            ..CONES
        },
        Scenario {
            name: "udp-becomes-blocked",
            about: "A direct link whose UDP stops falls back to the relay.",
            change: Change::UdpBlocked,
            path_after: Path::Relay,
            ..CONES
        },
        Scenario {
            name: "relay-dies-direct",
            about: "One of two relays dies; the link is direct.",
            relays: 2,
            change: Change::RelayDies,
            ..CONES
        },
        Scenario {
            name: "relay-dies-relayed",
            about: "One of two relays dies, the one that carries the link: its connections end.",
            relays: 2,
            change: Change::RelayDies,
            // A connection has paths through the relays that it began with.
            expect: Expect::EndLost,
            ..RELAYED
        },
    ]
}

fn changes() -> Vec<Scenario> {
    let flap = Change::LinkFlap(Duration::from_secs(3));
    vec![
        Scenario {
            name: "flap-direct",
            about: "The laptop's cable is pulled and put back.",
            change: flap,
            ..CONES
        },
        Scenario {
            name: "flap-relayed",
            about: "The same through a relay.",
            change: flap,
            ..RELAYED
        },
        Scenario {
            name: "rebind-direct",
            about: "The laptop's router restarts: all mappings move.",
            change: Change::Rebind,
            ..CONES
        },
        Scenario {
            name: "rebind-relayed",
            about: "The same through a relay: its TCP connection breaks.",
            change: Change::Rebind,
            ..RELAYED
        },
        Scenario {
            name: "udp-timeout",
            about: "The router forgets UDP flows after 20 s; idle for 40 s, then a call.",
            before: Before::UdpTimeout(20),
            change: Change::Idle(Duration::from_secs(40)),
            ..CONES
        },
        Scenario {
            name: "ipv4-to-ipv6",
            about: "The laptop moves from a network with IPv4 only to one with IPv6 only.",
            home: Nat::Open,
            // A command on the laptop itself would end: its way to its own node
            // may lead over the address that is lost.
            calls_back: true,
            before: Before::OthersHaveIpv6,
            change: Change::Ipv4ToIpv6,
            // What was sent to the relay, which has only IPv4, while the new
            // path was not found yet is sent again when the library gives the
            // relay's path up: after 30 s (iroh 1.4.1, socket.rs,
            // `RELAY_PATH_MAX_IDLE_TIMEOUT`).
            expect: Expect::SurviveStalled,
            ..CONES
        },
        Scenario {
            name: "clock-ahead",
            about: "The laptop's clock is a day ahead from the start, then set right.",
            before: Before::Clock(DAY),
            change: Change::ClockSetRight,
            ..CONES
        },
        Scenario {
            name: "clock-behind",
            about: "The laptop's clock is a day behind from the start, then set right.",
            before: Before::Clock(-DAY),
            change: Change::ClockSetRight,
            ..CONES
        },
        Scenario {
            name: "outage",
            about: "Silence for twice the idle time: nothing can survive that.",
            change: Change::Outage(Duration::from_secs(30)),
            expect: Expect::EndLost,
            ..CONES
        },
    ]
}

fn impairments() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "mtu-1300",
            about: "Packets above 1300 bytes no longer pass.",
            change: Change::Mtu(1300),
            ..CONES
        },
        Scenario {
            name: "loss-10",
            about: "One packet in ten vanishes, each way.",
            change: Change::Loss(10),
            bulk_bytes: 64 * MIB,
            ..CONES
        },
        Scenario {
            name: "delay-100",
            about: "Another continent.",
            change: Change::Delay(Duration::from_millis(100)),
            bulk_bytes: 128 * MIB,
            ..CONES
        },
        Scenario {
            name: "rate-20",
            about: "A slow line.",
            change: Change::Rate(20),
            bulk_bytes: 64 * MIB,
            ..CONES
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_told_apart() {
        let all = all();
        let names: BTreeSet<_> = all.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), all.len());
        assert!(all.iter().all(|scenario| !scenario.about.is_empty()));
    }
}
