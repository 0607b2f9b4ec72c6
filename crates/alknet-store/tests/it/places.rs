//! Places, networks and records: what finds peers again after a restart.

use crate::store;
use alknet_core::{
    AuditRow, PeerId,
    storage::{IdentityChange, IdentityStore, NodeKey, PeerRecord, Timestamp},
};
use alknet_store::{KeptNetwork, KeptPlace, KeptRecord, Store};
use std::net::SocketAddr;

const KEY: [u8; 32] = [7; 32];

fn place(port: u16, at: i64) -> KeptPlace {
    KeptPlace {
        key: KEY,
        address: SocketAddr::from(([192, 0, 2, 1], port)),
        at: Timestamp(at),
    }
}

fn laptop() -> PeerRecord {
    let mut peer = PeerRecord::new(PeerId::parse("laptop").unwrap(), Timestamp(0));
    peer.node_keys = vec![NodeKey {
        key: KEY,
        until: None,
    }];
    peer
}

async fn apply(store: &Store, change: IdentityChange) {
    let row = AuditRow::event(Timestamp(0), "host", "test");
    store.apply(change, row).await.unwrap();
}

async fn noted(store: &Store, place: KeptPlace) {
    store.note_place(place, 3).await.unwrap();
}

#[tokio::test]
async fn the_newest_places_of_a_peer_are_kept_and_survive_a_change_of_the_peer() {
    let (_dir, store) = store();
    apply(&store, IdentityChange::AddPeer(laptop())).await;
    for (port, at) in [(1, 10), (2, 20), (3, 30), (1, 40), (4, 50)] {
        noted(&store, place(port, at)).await;
    }
    let newest = [place(4, 50), place(1, 40), place(3, 30)];
    assert_eq!(store.places().await.unwrap(), newest);
    let changed = PeerRecord {
        display_name: "Ada's".into(),
        ..laptop()
    };
    apply(&store, IdentityChange::UpdatePeer(changed)).await;
    noted(&store, place(4, 60)).await;
    assert_eq!(store.places().await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_removed_peer_and_a_stranger_have_no_places() {
    let (_dir, store) = store();
    noted(&store, place(1, 10)).await;
    assert_eq!(store.places().await.unwrap(), []);
    apply(&store, IdentityChange::AddPeer(laptop())).await;
    noted(&store, place(1, 10)).await;
    assert_eq!(store.places().await.unwrap().len(), 1);
    let id = PeerId::parse("laptop").unwrap();
    apply(&store, IdentityChange::RemovePeer(id)).await;
    noted(&store, place(1, 20)).await;
    assert_eq!(store.places().await.unwrap(), []);
}

fn network(id: u8) -> KeptNetwork {
    KeptNetwork {
        id: [id; 16],
        key_version: 3,
        sealed: vec![id; 72],
    }
}

fn record(network: u8, sequence: u64) -> KeptRecord {
    KeptRecord {
        network: [network; 16],
        node: KEY,
        sequence,
        record: vec![network; 100],
    }
}

#[tokio::test]
async fn networks_keep_their_order_and_take_their_records_with_them() {
    let (dir, store) = store();
    let two = vec![network(9), network(2)];
    store.put_networks(two.clone()).await.unwrap();
    for record in [record(9, 1), record(2, u64::MAX), record(9, 5)] {
        store.put_record(record).await.unwrap();
    }
    store.close().await;
    let store = Store::open(&dir.path().join("alknet.db")).unwrap();
    assert_eq!(store.networks().await.unwrap(), two);
    let kept = [record(2, u64::MAX), record(9, 5)];
    assert_eq!(store.records().await.unwrap(), kept);
    store.forget_record([2; 16], KEY).await.unwrap();
    assert_eq!(store.records().await.unwrap(), [record(9, 5)]);
    store.put_networks(vec![network(2)]).await.unwrap();
    assert_eq!(store.records().await.unwrap(), []);
}
