//! What a person makes of what was found.

use super::{Look, NetReport, udp::Nat};
use std::net::{IpAddr, SocketAddr};

/// Why the kind of a NAT is not known.
pub(super) fn nat_note(nat: Nat, relays: usize) -> Option<String> {
    match (nat, relays) {
        (Nat::SomeKind, _) => Some(
            "there is one, and which kind it is needs a second relay, at another address, to tell"
                .into(),
        ),
        (Nat::Unknown, 0) => Some("needs a relay to tell".into()),
        (Nat::Unknown, _) => Some("no relay answered over UDP".into()),
        _ => None,
    }
}

/// Whether there is any way in: a relay that works, an address that relays
/// saw, or an address that others can dial.
pub(super) fn is_reachable(
    report: &NetReport,
    bind: Option<SocketAddr>,
    v4: Option<IpAddr>,
    v6: Option<IpAddr>,
) -> bool {
    if report.relays.iter().any(|relay| relay.works) {
        return true;
    }
    if bind.is_some_and(|bind| bind.ip().to_canonical().is_loopback()) {
        return false;
    }
    if report.has_open_udp() {
        return true;
    }
    let has_address = [v4, v6].into_iter().flatten().any(|ip| {
        // With relays that all fail, an address of a private network is no way
        // in from beyond it.
        report.relays.is_empty() || !is_private(ip)
    });
    // Where no relay is heard at all, nothing may get out.
    let silent = ["NAME", "SILENT", "UNREACHED"];
    let is_heard = |problem: Option<&str>| problem.is_none_or(|code| !silent.contains(&code));
    let mut relays = report.relays.iter();
    let is_cut_off = !report.relays.is_empty()
        && report.udp.is_none()
        && !relays.any(|relay| is_heard(relay.problem.as_deref()));
    has_address && report.udp != Some(false) && !is_cut_off
}

/// Addresses that mean something in one network only (RFC 1918, RFC 6598,
/// RFC 4193, RFC 3927, RFC 4291).
fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            ip.is_private()
                || ip.is_link_local()
                || ip.is_loopback()
                || (a == 100 && b & 0xc0 == 64)
        }
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_loopback(),
    }
}

/// Sentences, the most important first.
pub(super) fn advice(
    report: &NetReport,
    nat: Nat,
    bind: Option<SocketAddr>,
    looks: &[Look],
) -> Vec<String> {
    let mut told = Vec::new();
    if bind.is_some_and(|bind| bind.ip().to_canonical().is_loopback()) {
        told.push("the node listens on loopback only, by `bind` under `[network]`: other machines reach it through a relay or not at all".to_owned());
    }
    if !report.ipv4.route && !report.ipv6.route {
        told.push("this machine has no network: check its cable, its wireless network, its addresses (`ip address`)".to_owned());
    }
    if looks.is_empty() {
        told.push("no relay is chosen, so nobody was asked and only this machine itself was looked at: others reach this node where they can dial one of its addresses (the same network, a public address, an opened port)".to_owned());
        told.push("to be reached from behind a NAT: `alknet relay` on a machine with a public address, and its address under `[network] relays` here".to_owned());
    }
    told.extend(looks.iter().filter_map(about_relay));
    if report.captive_portal == Some(true) {
        told.push("somebody answers in the place of the relay over plain HTTP: if that is the sign-in page of this network, open any page in a browser, sign in, and try again".to_owned());
    }
    told.extend(about_udp(report, looks));
    told.extend(about_nat(nat));
    told.extend(about_router(report));
    told
}

/// What is wrong with a relay.
fn about_relay(look: &Look) -> Option<String> {
    let url = look.address.url();
    match (&look.https, &look.accepts) {
        (Err(problem), _) => Some(format!("relay {url}: {problem}; {}", problem.advice())),
        (Ok(_), Some(Err(reason))) => Some(refused(url.as_str(), reason)),
        _ => None,
    }
}

pub(super) fn refused(url: &str, reason: &str) -> String {
    format!(
        "relay {url} does not let this node in: {reason}; it takes the peers of the node that it belongs to, so become one: `alknet join` with an invite from there"
    )
}

fn about_udp(report: &NetReport, looks: &[Look]) -> Option<String> {
    let works = looks.iter().find(|look| look.https.is_ok());
    Some(match works {
        Some(_) if report.udp != Some(false) => return None,
        Some(look) => {
            let url = look.address.url();
            let port = url.port_or_known_default().unwrap_or(443);
            format!(
                "UDP is blocked here, or the relays serve no address discovery: connections go through a relay over TCP {port}, which works ({url}), and are slower than direct ones; to be direct, let UDP out in the firewall"
            )
        }
        None if looks.is_empty() => return None,
        None if report.udp == Some(true) => "no relay works, though UDP gets out: others reach this node only where they can dial one of its addresses".to_owned(),
        None => "no relay works, so nothing is known of UDP: others reach this node only where they can dial one of its addresses".to_owned(),
    })
}

fn about_nat(nat: Nat) -> Option<String> {
    let told = match nat {
        Nat::None => {
            "no NAT is in between: others reach this node directly, as far as firewalls let UDP in"
        }
        Nat::EndpointIndependent => {
            "the NAT here shows everybody the same address: direct connections are found with most others"
        }
        Nat::AddressDependent => {
            "the NAT here shows everybody another address: direct connections are found with nodes that have a public address, a forwarded port or IPv6; with all others a relay stays in between. A forwarded UDP port here, or `port_mapping = true` under `[network]` if the router can, helps"
        }
        Nat::SomeKind => {
            "there is a NAT: a second relay, at another address, would tell whether it lets direct connections be found"
        }
        Nat::Unknown => return None,
    };
    Some(told.to_owned())
}

fn about_router(report: &NetReport) -> Option<String> {
    let told = match report.port_mapping?.any() {
        true => {
            "the router opens ports for programs: with `port_mapping = true` under `[network]` the node uses it"
        }
        false => "the router opens no ports for programs (neither UPnP nor NAT-PMP nor PCP)",
    };
    Some(told.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{
        AddressFamily, PortMapping, RelayReport,
        https::{Problem, Reached},
        udp::Seen,
    };
    use super::*;
    use std::time::Duration;

    fn look(https: Result<(), Problem>, sees: Option<&str>, accepts: Option<&str>) -> Look {
        Look {
            address: "https://relay.example/".parse().unwrap(),
            https: https.map(|()| Reached {
                latency: Duration::from_millis(20),
            }),
            seen: sees.map_or_else(Vec::new, |public| {
                vec![Seen {
                    server: "203.0.113.1:7842".parse().unwrap(),
                    public: public.parse().unwrap(),
                    local: "192.168.1.2:4433".parse().unwrap(),
                    latency: Duration::from_millis(10),
                }]
            }),
            udp_error: Some(super::super::udp::Unanswered {
                is_heard: false,
                cause: "no answer".into(),
            }),
            accepts: accepts.map(|reason| match reason {
                "" => Ok(()),
                reason => Err(reason.to_owned()),
            }),
        }
    }

    fn report(looks: &[Look], udp: Option<bool>) -> NetReport {
        NetReport {
            udp,
            ipv4: AddressFamily::new(Some("192.168.1.2".parse().unwrap()), udp == Some(true)),
            ipv6: AddressFamily::new(None, false),
            nat: "unknown".into(),
            nat_note: None,
            public_addresses: vec![],
            relays: looks.iter().map(RelayReport::new).collect(),
            port_mapping: None,
            captive_portal: None,
            reachable: false,
            advice: vec![],
        }
    }

    fn reachable(report: &NetReport, v4: &str) -> bool {
        is_reachable(report, None, Some(v4.parse().unwrap()), None)
    }

    #[test]
    fn blocked_udp_is_said_with_the_way_that_works() {
        let looks = [look(Ok(()), None, Some(""))];
        let mut found = report(&looks, Some(false));
        let told = advice(&found, Nat::Unknown, None, &looks);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("UDP is blocked here, or the relays serve no address discovery: connections go through a relay over TCP 443, which works (https://relay.example/)"), "{told:?}");
        assert!(reachable(&found, "192.168.1.2"));
        let relay = found.relays.remove(0);
        assert_eq!(
            (relay.via.as_deref(), relay.latency_ms),
            (Some("https"), Some(20.0))
        );
        assert_eq!(relay.quic.error.as_deref(), Some("no answer"));
    }

    #[test]
    fn a_refusal_makes_a_relay_useless_and_says_how_to_be_let_in() {
        let looks = [look(Ok(()), None, Some("not a peer"))];
        let found = report(&looks, None);
        assert_eq!(found.relays[0].problem.as_deref(), Some("NOT_ACCEPTED"));
        assert!(!found.relays[0].works);
        let told = advice(&found, Nat::Unknown, None, &looks);
        assert!(
            told[0].starts_with(
                "relay https://relay.example/ does not let this node in: not a peer; "
            ),
            "{told:?}"
        );
    }

    #[test]
    fn with_every_relay_out_of_reach_a_private_address_is_no_way_in() {
        let looks = [look(Err(Problem::Expired), None, None)];
        let found = report(&looks, None);
        assert!(!reachable(&found, "192.168.1.2"));
        assert!(reachable(&found, "198.51.100.7"));
        let silent = "203.0.113.1:443".parse().unwrap();
        let cut_off = report(&[look(Err(Problem::Silent(silent)), None, None)], None);
        assert!(!reachable(&cut_off, "198.51.100.7"));
        let told = advice(&found, Nat::Unknown, None, &looks);
        assert_eq!(
            told[0],
            "relay https://relay.example/: its certificate has expired; renew it on the relay's machine, and reload the relay"
        );
        assert!(
            told[1].starts_with("no relay works, so nothing is known of UDP"),
            "{told:?}"
        );
    }

    #[test]
    fn without_relays_an_address_is_a_way_in_and_the_rest_is_said() {
        let found = report(&[], None);
        assert!(reachable(&found, "192.168.1.2"));
        assert!(!is_reachable(&found, None, None, None));
        let loopback = Some("127.0.0.1:0".parse().unwrap());
        assert!(!is_reachable(
            &found,
            loopback,
            Some("192.168.1.2".parse().unwrap()),
            None
        ));
        let told = advice(&found, Nat::Unknown, None, &[]);
        assert!(
            told[0].starts_with("no relay is chosen, so nobody was asked"),
            "{told:?}"
        );
        assert!(told[1].contains("`alknet relay`"), "{told:?}");
    }

    #[test]
    fn each_kind_of_nat_says_what_to_expect() {
        let looks = [look(Ok(()), Some("198.51.100.7:4433"), Some(""))];
        let found = report(&looks, Some(true));
        for (nat, wanted) in [
            (Nat::None, "no NAT is in between"),
            (
                Nat::EndpointIndependent,
                "the NAT here shows everybody the same address",
            ),
            (
                Nat::AddressDependent,
                "the NAT here shows everybody another address",
            ),
            (Nat::SomeKind, "there is a NAT: a second relay"),
        ] {
            let told = advice(&found, nat, None, &looks);
            assert!(told.len() == 1 && told[0].starts_with(wanted), "{told:?}");
        }
        assert_eq!(found.relays[0].via.as_deref(), Some("quic"));
    }

    #[test]
    fn captive_portals_and_routers_are_mentioned() {
        let mut found = report(&[], None);
        found.captive_portal = Some(true);
        found.port_mapping = Some(PortMapping {
            upnp: true,
            nat_pmp: false,
            pcp: false,
        });
        let told = advice(&found, Nat::Unknown, None, &[]);
        assert!(
            told.iter().any(|line| line.contains("sign-in page")),
            "{told:?}"
        );
        assert!(
            told.last().unwrap().starts_with("the router opens ports"),
            "{told:?}"
        );
    }
}
