//! Nobody but peers and the relay of one's own hears anything: captured on
//! every host of a network that has a way to everywhere.

use super::{
    harness::{Node, eventually, exec_config},
    relay,
};
use crate::program::Place;
use alknet_lab::{Capture, Host, Lab, Nat, Packet, Protocol, Site};
use std::{collections::BTreeSet, net::IpAddr, thread, time::Duration};

/// How long nodes have nothing to do: longer than the half minute after which
/// the network is looked at again.
fn idle() -> Duration {
    let full = std::env::var_os("ALKNET_TEST_FULL").is_some();
    Duration::from_secs(if full { 180 } else { 32 })
}

/// Captures on every host: those where nodes are, the DNS server, and the one
/// that gets all packets to anywhere else.
struct Watch {
    hosts: Vec<(Host, Capture)>,
    allowed: BTreeSet<IpAddr>,
}

impl Watch {
    /// From here on; `allowed` are the addresses of nodes and their NATs.
    fn start(lab: &Lab, hosts: &[&Host], sites: &[&Site]) -> Self {
        let (dns, sink) = (lab.dns().unwrap(), lab.sink().unwrap());
        let mut allowed: BTreeSet<IpAddr> = BTreeSet::new();
        for host in hosts {
            allowed.extend([IpAddr::from(host.v4()), host.v6().into()]);
        }
        allowed.extend(sites.iter().map(|site| IpAddr::from(site.public_v4())));
        let all = hosts.iter().map(|host| (*host).clone());
        let all = all.chain([dns, sink]);
        Self {
            hosts: all
                .map(|host| {
                    let capture = host.capture().unwrap();
                    (host, capture)
                })
                .collect(),
            allowed,
        }
    }

    /// What was sent to or came from anybody else, host by host, and what was
    /// seen in all.
    fn end(self) -> (Vec<(String, Packet)>, usize) {
        let (mut strange, mut seen) = (Vec::new(), 0);
        for (host, capture) in self.hosts {
            let captured = capture.stop().unwrap();
            assert_eq!(captured.missed, 0, "{}", host.name());
            seen += captured.packets.len();
            let is_strange = |packet: &Packet| !may_pass(&host, &self.allowed, packet);
            let found = captured.packets.into_iter().filter(is_strange);
            strange.extend(found.map(|packet| (host.name().to_owned(), packet)));
        }
        (strange, seen)
    }

    #[track_caller]
    fn expect_silence(self) {
        let (strange, seen) = self.end();
        assert_eq!(told(&strange), "");
        // It was silent towards others, and not altogether.
        assert!(seen > 1_000, "{seen}");
    }
}

/// Each kind of packet once.
fn told(strange: &[(String, Packet)]) -> String {
    let kinds: BTreeSet<String> = strange
        .iter()
        .map(|(host, packet)| {
            let (protocol, from, to) = (packet.protocol, packet.source, packet.destination);
            let port = packet.destination_port;
            format!("{host}: {protocol:?} from {from:?} to {to:?} port {port:?}\n")
        })
        .collect();
    kinds.into_iter().collect()
}

/// The whole list of what a host may send or get.
fn may_pass(host: &Host, allowed: &BTreeSet<IpAddr>, packet: &Packet) -> bool {
    let (Some(from), Some(to)) = (packet.source, packet.destination) else {
        return false;
    };
    // To itself: such packets do not leave it.
    let own = |address: IpAddr| {
        address.is_loopback() || [IpAddr::from(host.v4()), host.v6().into()].contains(&address)
    };
    if own(from) && own(to) {
        return true;
    }
    match packet.protocol {
        // Who has the address of its router, and the router of its own. It asks
        // for no other.
        Protocol::Arp => {
            let near =
                |address| address == IpAddr::from(host.v4()) || host.routers().contains(&address);
            near(from) && near(to)
        }
        // The same with IPv6, and which multicast groups it listens to: of the
        // kernel, whatever runs.
        Protocol::IcmpV6(130..=137 | 143) => true,
        // Where a node is no more, its kernel says so to the peer.
        _ => allowed.contains(&from) && allowed.contains(&to),
    }
}

/// Lets two nodes do what nodes do: meet, call each other, stop, come back,
/// and have nothing to do.
fn live(home: &Node, laptop: &mut Node) {
    let ticket = home
        .cli(&["invite", "-q", "--role", "operator"])
        .exits(0)
        .stdout;
    laptop
        .feed(&["join", "-", "--role", "operator"], ticket.as_bytes())
        .exits(0);
    let call = |caller: &Node, called: &str| {
        caller.connected(called);
        caller.cli(&["call", "node/info", "--on", called]).exits(0);
        let said = caller.feed(&["exec", called, "--", "tr", "a-z", "A-Z"], b"in");
        assert_eq!(said.exits(0).stdout, "IN");
    };
    call(laptop, "home");
    call(home, "laptop");
    laptop.stop();
    eventually("the laptop is gone", || {
        (home.peer("laptop")["connected"] == false).then_some(())
    });
    laptop.restart();
    call(laptop, "home");
    // Nothing happens: that is what is waited for.
    thread::sleep(idle());
    call(home, "laptop");
}

#[test]
fn slow_nodes_with_a_relay_speak_to_peers_and_their_relay_alone() {
    let Some(lab) = Lab::open("slow_nodes_with_a_relay_speak_to_peers_and_their_relay_alone")
    else {
        return;
    };
    let middle = lab.host("relay").unwrap();
    let at_home = lab.site("home", Nat::Cone).unwrap();
    let at_laptop = lab.site("laptop", Nat::Symmetric).unwrap();
    at_home.gain_ipv6().unwrap();
    let watch = Watch::start(
        &lab,
        &[&middle, &at_home, &at_laptop],
        &[&at_home, &at_laptop],
    );
    let [(home, home_id), (laptop, laptop_id)] = relay::places();
    let mut relay = relay::relay(&middle, &[("home", &home_id), ("laptop", &laptop_id)]);
    let url = relay::url(&relay).to_owned();
    let start = |place: Place, site: &Site| {
        let at = Some(site.namespace());
        Node::start_in(place, site.name(), exec_config(), &["--relay", &url], at)
    };
    let (mut home, mut laptop) = (start(home, &at_home), start(laptop, &at_laptop));
    for node in [&home, &laptop] {
        eventually("the relay is in use", || {
            let status = node.cli(&["status", "--json"]).exits(0).json();
            (status["relays_in_use"][0]["connected"] == true).then_some(())
        });
    }
    live(&home, &mut laptop);
    // The relay was needed, so that it was watched in use.
    assert_eq!(home.connected("laptop")["link"]["path"], "relay");
    // And away from it, when they look for it.
    relay.stop();
    thread::sleep(Duration::from_secs(5));
    home.stop();
    laptop.stop();
    watch.expect_silence();
}

#[test]
fn slow_nodes_as_installed_speak_to_peers_alone() {
    let Some(lab) = Lab::open("slow_nodes_as_installed_speak_to_peers_alone") else {
        return;
    };
    let (at_home, at_laptop) = (lab.host("home").unwrap(), lab.host("laptop").unwrap());
    let at_rest = lab.site("alone", Nat::Cone).unwrap();
    at_rest.gain_ipv6().unwrap();
    let watch = Watch::start(&lab, &[&at_home, &at_laptop], &[]);
    // It knows nobody, and nobody is allowed.
    let alone = Watch::start(&lab, &[&at_rest], &[]);
    let start =
        |host: &Host| Node::start_with(host.name(), exec_config(), &[], Some(host.namespace()));
    let (mut home, mut laptop) = (start(&at_home), start(&at_laptop));
    let mut rest = start(&at_rest);
    live(&home, &mut laptop);
    for node in [&mut home, &mut laptop, &mut rest] {
        node.stop();
    }
    watch.expect_silence();
    let (strange, _) = alone.end();
    assert_eq!(told(&strange), "");
}

#[test]
fn a_capture_on_every_host_sees_what_goes_to_anybody_else() {
    let Some(lab) = Lab::open("a_capture_on_every_host_sees_what_goes_to_anybody_else") else {
        return;
    };
    let home = lab.site("home", Nat::Cone).unwrap();
    let leaks = |act: &dyn Fn()| {
        let watch = Watch::start(&lab, &[&home], &[&home]);
        act();
        let (strange, _) = watch.end();
        let at = |host: &str, port: u16| {
            let is = |(at, packet): &(String, Packet)| {
                at == host && packet.destination_port == Some(port)
            };
            strange.iter().any(is)
        };
        (
            at("home", 80) && at("sink", 80),
            at("home", 53) && at("dns", 53),
        )
    };
    assert_eq!(leaks(&|| ()), (false, false));
    let run = |program: &str, words: &[&str]| {
        let said = home.command(program).args(words).output().unwrap();
        assert!(!said.status.success());
    };
    assert_eq!(
        leaks(&|| run("bash", &["-c", ": < /dev/tcp/192.0.2.7/80"])),
        (true, false)
    );
    assert_eq!(
        leaks(&|| run("getent", &["hosts", "relay.example"])),
        (false, true)
    );
    // The program under test too, once somebody has chosen n0's relays.
    let chosen = || {
        let started = Node::start_with(
            "home",
            exec_config(),
            &["--relay", "n0"],
            Some(home.namespace()),
        );
        let capture = lab.dns().unwrap().capture().unwrap();
        eventually("it asks for a name", || {
            let asked = |packet: &Packet| packet.destination_port == Some(53);
            capture.packets().iter().any(asked).then_some(())
        });
        drop(started);
    };
    assert!(leaks(&chosen).1);
}
