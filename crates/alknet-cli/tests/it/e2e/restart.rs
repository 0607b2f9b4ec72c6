//! What stays when a node stops, or is killed, and comes back.

use super::harness::{Node, Pair, eventually, exec_config};
use crate::program::Place;

#[test]
fn words_bring_the_same_node_up_in_another_directory() {
    let place = Place::new();
    let made = place.run(&["init", "--json"]).exits(0).json();
    let words = made["words"].as_str().unwrap();
    let loopback = ["--relay", "none", "--bind", "127.0.0.1:0"];
    let first = Node::start_in(place, "home", "", &loopback, None);
    assert_eq!(first.id(), made["node_id"].as_str().unwrap());
    let other = Place::new();
    // As people write them down.
    let written = format!("  {}\n", words.to_uppercase().replace(' ', "\n "));
    let back = other
        .feed(&["init", "--restore", "-", "--json"], written.as_bytes())
        .exits(0)
        .json();
    assert_eq!(back["node_id"], made["node_id"]);
    let second = Node::start_in(other, "home", "", &loopback, None);
    assert_eq!(second.id(), first.id());
    assert_ne!(second.data(), first.data());
}

/// What of a node must be the same afterwards.
fn kept(node: &Node) -> (String, Vec<serde_json::Value>, Vec<String>) {
    let peers = node.cli(&["peers", "list", "--json"]).exits(0).json();
    let peers = peers["peers"].as_array().unwrap().iter();
    let peers = peers.map(|peer| {
        let mut peer = peer.clone();
        // How it is connected, and was, is no part of it.
        for changing in ["connected", "link", "last_seen_at", "reached", "told"] {
            peer.as_object_mut().unwrap().remove(changing);
        }
        peer
    });
    let grants = node.cli(&["grants", "laptop"]).exits(0).stdout;
    (
        node.id().to_owned(),
        peers.collect(),
        grants.lines().map(str::to_owned).collect(),
    )
}

fn calls(node: &Node) -> usize {
    node.audit(&["--caller", "laptop", "--operation", "node/info"])
        .len()
}

/// Stops and starts `home`; `laptop` finds it again without being told.
fn check(mut end: impl FnMut(&mut Node)) {
    let mut pair = Pair::start(exec_config());
    let grants = ["node/info", "fs:read", "bucket:www/**=read", "operator"];
    pair.home
        .cli(&[&["grant", "laptop"], &grants[..]].concat())
        .exits(0);
    pair.home
        .cli(&[
            "peers",
            "update",
            "laptop",
            "--group",
            "staff",
            "--display-name",
            "Laptop",
        ])
        .exits(0);
    for round in 1..=2 {
        pair.laptop
            .cli(&["call", "node/info", "--on", "home"])
            .exits(0);
        eventually("the call is in the log", || {
            (calls(&pair.home) == round).then_some(())
        });
        let before = kept(&pair.home);
        assert_eq!(before.2, grants);
        let address = pair.home.address().to_owned();
        end(&mut pair.home);
        pair.home.restart();
        assert_eq!(pair.home.address(), address);
        assert_eq!(kept(&pair.home), before);
        assert_eq!(calls(&pair.home), round);
        // Nobody asks for it: the link is supervised.
        pair.home.connected("laptop");
        pair.laptop.connected("home");
    }
    let info = pair
        .laptop
        .cli(&["call", "node/info", "--on", "home", "--json"])
        .exits(0)
        .json();
    assert_eq!(info["pid"], pair.home.status["pid"]);
    // And the other way, over the link that `laptop` dialled.
    pair.laptop.cli(&["grant", "home", "node/info"]).exits(0);
    pair.home
        .cli(&["call", "node/info", "--on", "laptop"])
        .exits(0);
}

#[test]
fn a_node_that_stops_in_order_keeps_everything_and_is_found_again() {
    check(Node::stop);
}

/// Slow: that a killed node is gone shows only when it is silent for long.
#[test]
fn slow_a_node_that_is_killed_keeps_everything_and_is_found_again() {
    check(Node::kill);
}

#[test]
fn a_node_with_a_new_address_is_found_when_it_is_told() {
    let mut pair = Pair::start(exec_config());
    pair.home.cli(&["grant", "laptop", "node/info"]).exits(0);
    pair.home.stop();
    // Somebody else has the port now.
    let taken = std::net::UdpSocket::bind(pair.home.address()).unwrap();
    pair.home.restart();
    assert_ne!(pair.home.address(), taken.local_addr().unwrap().to_string());
    pair.laptop
        .cli(&["peers", "update", "home", "--address", pair.home.address()])
        .exits(0);
    pair.laptop.connected("home");
    pair.laptop
        .cli(&["call", "node/info", "--on", "home"])
        .exits(0);
}
