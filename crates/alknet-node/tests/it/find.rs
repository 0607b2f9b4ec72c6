//! Finding peers again: at addresses that worked, by what they tell over
//! others, and not at all where that is switched off.

use crate::support::{
    Pair, SOON, Stranger, TestNode, close_code, eventually, soon, start, start_with,
};
use alknet_call::connection_code;
use alknet_node::{Config, NodeBuilder, config::NetworkConfig};
use serde_json::json;
use std::{fs, net::UdpSocket};

fn without_gossip(builder: NodeBuilder) -> NodeBuilder {
    let network = NetworkConfig {
        gossip: false,
        ..NetworkConfig::default()
    };
    builder.config(Config {
        network,
        ..Config::default()
    })
}

/// Stops a node and takes its port, if nobody else was faster: its next start
/// is elsewhere.
async fn moves(node: &mut TestNode) -> Option<UdpSocket> {
    let address = node.address();
    node.stop().await;
    let taken = UdpSocket::bind(address).ok();
    fs::remove_file(node.dir.path().join("port")).unwrap();
    taken
}

async fn joins(newcomer: &TestNode, inviting: &TestNode) {
    let ticket = inviting.invite(&["reader"]).await.unwrap();
    newcomer.join(&ticket, &["reader"]).await.unwrap();
}

/// Forgets what was given: only what worked, or was told, is left.
async fn forgets_given_places(node: &TestNode, peer: &str) {
    let input = json!({ "peer": peer, "addresses": [], "relays": [] });
    node.told("peers/update", input).await;
}

async fn linked(one: &TestNode, one_name: &str, other: &TestNode, other_name: &str) {
    one.connected(other_name, SOON).await.unwrap();
    other.connected(one_name, SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_a_peer_is_found_where_it_was_reached() {
    let mut pair = Pair::with(&[], &[], without_gossip, without_gossip).await;
    let address = pair.home.address();
    // Written once the path has settled.
    for (node, peer) in [(&pair.laptop, "home"), (&pair.home, "laptop")] {
        eventually("the place is kept", || async {
            let shown = node.peer_shown(peer).await;
            shown["reached"].is_array().then_some(())
        })
        .await;
    }
    forgets_given_places(&pair.laptop, "home").await;
    forgets_given_places(&pair.home, "laptop").await;
    pair.laptop.kill();
    pair.home.stop().await;
    pair.home.start_again_with(without_gossip).await;
    assert_eq!(pair.home.address(), address);
    pair.laptop.start_again_with(without_gossip).await;
    pair.linked().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_both_moved_find_each_other_over_a_third() {
    let (hub, mut one, mut two) = tokio::join!(start("hub"), start("one"), start("two"));
    joins(&one, &hub).await;
    joins(&two, &hub).await;
    joins(&two, &one).await;
    linked(&one, "one", &two, "two").await;
    let before = (one.address(), two.address());
    let _taken = (moves(&mut one).await, moves(&mut two).await);
    one.start_again().await;
    linked(&one, "one", &hub, "hub").await;
    two.start_again().await;
    assert!(one.address() != before.0 && two.address() != before.1);
    linked(&one, "one", &two, "two").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_gossip_neither_tells_nor_is_asked() {
    let (hub, mut one, two) = tokio::join!(
        start("hub"),
        start_with("one", without_gossip),
        start("two"),
    );
    joins(&one, &hub).await;
    joins(&two, &hub).await;
    joins(&two, &one).await;
    linked(&one, "one", &two, "two").await;
    let stranger = Stranger::known_to(&one, "odd", &[]).await;
    let refused = stranger.connect(&one, b"alknet/find/1").await.unwrap_err();
    assert!(refused.contains("120"), "{refused}");
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_exchange_no_records() {
    let node = start("home").await;
    let stranger = Stranger::new().await;
    let connection = stranger.connect(&node, b"alknet/find/1").await.unwrap();
    soon(connection.closed()).await;
    let code = Some(u64::from(connection_code::NOT_ADMITTED));
    assert_eq!(close_code(&connection), code);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_from_a_peer_ends_its_exchange_alone() {
    let node = start("home").await;
    let peer = Stranger::known_to(&node, "odd", &[]).await;
    for garbage in [
        &[0xff; 64][..],
        &u32::MAX.to_be_bytes(),
        &[0, 0, 0, 2, 9, 9],
        &[0, 0],
    ] {
        let connection = peer.connect(&node, b"alknet/find/1").await.unwrap();
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(garbage).await.unwrap();
        send.finish().unwrap();
        let answer = soon(recv.read_to_end(1 << 20)).await;
        assert!(answer.is_err(), "{answer:?}");
    }
    node.told("node/info", json!({})).await;
}
