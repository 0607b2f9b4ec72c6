//! Peers that lost sight of each other find each other again.

use super::harness::{Node, eventually, exec_config};
use crate::program::Place;
use alknet_lab::{Lab, Nat};
use serde_json::Value;
use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

/// Makes `newcomer` a peer of `inviting`.
#[track_caller]
fn join(inviting: &Node, newcomer: &Node) {
    let ticket = inviting.cli(&["invite", "-q"]).exits(0).stdout;
    newcomer.feed(&["join", "-"], ticket.as_bytes()).exits(0);
    newcomer.connected(&inviting.name);
}

/// A list of texts in what is shown of a peer.
fn shown(node: &Node, peer: &str, field: &str) -> Vec<String> {
    let shown = node.peer(peer);
    let texts = shown[field].as_array().into_iter().flatten();
    texts
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

/// Waits until a node was told the present address of a peer.
#[track_caller]
fn is_told(node: &Node, peer: &Node) {
    eventually(
        &format!("`{}` is told of `{}`", node.name, peer.name),
        || {
            shown(node, &peer.name, "told")
                .contains(&peer.address().to_owned())
                .then_some(())
        },
    );
}

/// Stops a node, and takes its port if nobody else was faster.
fn moves(node: &mut Node) -> Option<UdpSocket> {
    let address: SocketAddr = node.address().parse().unwrap();
    node.stop();
    fs::remove_file(node.data().join("port")).unwrap();
    UdpSocket::bind(address).ok()
}

/// Forgets what was given of a peer, but its relay: what was learnt is left.
#[track_caller]
fn forget(node: &Node, peer: &str) {
    let input = serde_json::json!({ "peer": peer, "addresses": [] }).to_string();
    node.cli(&["call", "peers/update", &input]).exits(0);
}

#[test]
fn two_that_moved_and_were_never_up_together_find_each_other_over_one_anchor() {
    let hub = Node::start("hub", exec_config());
    let mut one = Node::start("one", exec_config());
    let mut two = Node::start("two", exec_config());
    join(&hub, &one);
    join(&hub, &two);
    join(&one, &two);
    one.connected("two");
    let before = (one.address().to_owned(), two.address().to_owned());
    let _taken = (moves(&mut one), moves(&mut two));

    // Each tells the anchor alone where it is now, and goes.
    one.restart();
    is_told(&hub, &one);
    one.stop();
    two.restart();
    is_told(&hub, &two);
    // The anchor told it of the one that has gone.
    is_told(&two, &one);
    two.stop();
    assert!(one.address() != before.0 && two.address() != before.1);

    one.restart();
    is_told(&one, &two);
    two.restart();
    let met = two.connected("one");
    assert_eq!(met["link"]["path"], "direct");
    one.connected("two");
}

#[test]
fn after_a_crash_of_all_peers_meet_where_they_met_without_their_relay() {
    let config = format!(
        "{}[relay]\nlisten = \"127.0.0.1:0\"\nqad = \"off\"\nenabled = true\n",
        exec_config()
    );
    let mut relay = Node::start("relay", &config);
    let address = relay.status["relay"]["url"].as_str().unwrap().to_owned();
    let words = ["--relay", &address, "--bind", "127.0.0.1:0"];
    // Nobody tells anybody anything: what worked must do.
    let quiet = format!("{}[network]\ngossip = false\n", exec_config());
    let mut home = Node::start_with("home", &quiet, &words, None);
    let mut laptop = Node::start_with("laptop", &quiet, &words, None);
    join(&relay, &home);
    join(&relay, &laptop);
    join(&home, &laptop);
    home.connected("laptop");
    for (node, peer) in [(&home, "laptop"), (&laptop, "home")] {
        eventually("where it was reached is kept", || {
            (!shown(node, peer, "reached").is_empty()).then_some(())
        });
        forget(node, peer);
        assert!(shown(node, peer, "addresses").is_empty());
    }
    relay.kill();
    home.kill();
    laptop.kill();
    home.restart();
    laptop.restart();
    let met = laptop.connected("home");
    assert_eq!(met["link"]["path"], "direct");
    home.connected("laptop");
}

/// A node on a host of a lab, that has no address of anybody.
#[track_caller]
fn on_lan(name: &str, host: &alknet_lab::Host, mdns: bool) -> Node {
    let words: &[&str] = match mdns {
        true => &["--relay", "none", "--mdns"],
        false => &["--relay", "none"],
    };
    Node::start_in(
        Place::new(),
        name,
        exec_config(),
        words,
        Some(host.namespace()),
    )
}

fn multicast(packets: &[alknet_lab::Packet]) -> usize {
    let dns = packets
        .iter()
        .filter(|packet| packet.destination_port == Some(5353));
    dns.count()
}

#[test]
fn peers_on_a_lan_meet_by_mdns_and_only_if_that_is_on() {
    let Some(lab) = Lab::open("peers_on_a_lan_meet_by_mdns_and_only_if_that_is_on") else {
        return;
    };
    let site = lab.site("home", Nat::Cone).unwrap();
    let other = site.add_host("laptop").unwrap();
    let mut home = on_lan("home", site.host(), false);
    let mut laptop = on_lan("laptop", &other, false);
    let captures = [site.host().capture().unwrap(), other.capture().unwrap()];
    for (node, peer) in [(&home, &laptop), (&laptop, &home)] {
        let words = ["peers", "add", &peer.name, "--node-id", peer.id()];
        node.cli(&words).exits(0);
    }
    // Longer than mDNS needs when it is on.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        assert_eq!(home.peer("laptop")["connected"], Value::Bool(false));
        thread::sleep(Duration::from_millis(500));
    }
    for capture in captures {
        let seen = capture.stop().unwrap();
        assert_eq!(multicast(&seen.packets), 0);
        assert_eq!(seen.missed, 0);
    }
    home.stop();
    laptop.stop();

    let capture = site.host().capture().unwrap();
    let again = ["--relay", "none", "--mdns"];
    home.restart_with(&again);
    laptop.restart_with(&again);
    let met = home.connected("laptop");
    assert_eq!(met["link"]["path"], "direct");
    laptop.connected("home");
    assert!(multicast(&capture.stop().unwrap().packets) > 0);
    let notes = home.cli(&["status"]).exits(0).stdout;
    assert!(notes.contains("mDNS is on"), "{notes}");
}
