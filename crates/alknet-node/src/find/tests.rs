//! What a node takes from others about where its peers are, and what it
//! passes on.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::{Config, Node, find::exchange::Exchanged, secrets::Seals};
use alknet_core::{
    AuditRow, RoleSet,
    storage::{IdentityChange, NodeKey, SharedClock},
};
use serde_json::json;
use std::{
    net::UdpSocket,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};
use tempfile::TempDir;

const NOW: i64 = 1_790_000_000_000;
const SECRET: [u8; 32] = [9; 32];

fn key(seed: u8) -> SecretKey {
    SecretKey::from_bytes(&[seed; 32])
}

fn id(seed: u8) -> [u8; 32] {
    *key(seed).public().as_bytes()
}

/// A finder of a node with this key, whose clock stands still until it is set.
struct World {
    finder: Finder,
    clock: Arc<AtomicI64>,
    dir: TempDir,
}

impl World {
    /// In the network of all tests, with these keys as peers.
    async fn new(own: u8, peers: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let world = Self::open(own, dir).await;
        for peer in peers {
            world.add(*peer).await;
        }
        let secret = NetworkSecret::from_bytes(SECRET);
        assert!(world.finder.adopt(secret, false).await.unwrap());
        world
    }

    async fn open(own: u8, dir: TempDir) -> Self {
        let store = Store::open(&dir.path().join("alknet.db")).unwrap();
        let clock = Arc::new(AtomicI64::new(NOW));
        let told = clock.clone();
        let shared: SharedClock = Arc::new(move || Timestamp(told.load(Ordering::SeqCst)));
        let roles = RoleSet::new(Vec::new(), Vec::new());
        let identities = IdentityIndex::load(Arc::new(store.clone()), roles, shared);
        let identities = Arc::new(identities.await.unwrap());
        let words = alknet_vault::Mnemonic::from_entropy(&[own; 16]).unwrap();
        let sealer = alknet_vault::Sealer::of(&words.to_seed(""));
        let keys = (key(own), AtRest::new(Seals::new(sealer)));
        let finder = Finder::open(store, identities, Relays::new(&[]), keys, true);
        Self {
            finder: finder.await.unwrap(),
            clock,
            dir,
        }
    }

    /// The same node after a crash.
    async fn again(self, own: u8) -> Self {
        self.finder.store.close().await;
        Self::open(own, self.dir).await
    }

    async fn add(&self, peer: u8) {
        let mut record = PeerRecord::new(name(peer), Timestamp(NOW));
        record.node_keys = vec![NodeKey {
            key: id(peer),
            until: None,
        }];
        self.apply(IdentityChange::AddPeer(record)).await;
    }

    async fn apply(&self, change: IdentityChange) {
        let row = AuditRow::event(Timestamp(NOW), "host", "test");
        self.finder.identities.apply(change, row).await.unwrap();
    }

    fn network(&self) -> Network {
        lock(&self.finder.state).networks[0].clone()
    }

    /// What is made of a sealed record.
    async fn takes(&self, sealed: &[u8]) -> Result<(), RecordError> {
        let mut seen = HashSet::new();
        self.finder
            .accept(&self.network().id, sealed, &mut seen)
            .await
    }

    fn places(&self, peer: u8) -> PeerAddresses {
        self.finder.places_of_key(&id(peer)).unwrap()
    }

    /// What `other` would send it now.
    fn asks(&self, other: &Self) -> Vec<Vec<u8>> {
        let (offer, _) = other.finder.offer(&self.finder.ask());
        offer
            .records
            .into_iter()
            .map(|(_, sealed)| sealed)
            .collect()
    }
}

fn name(peer: u8) -> PeerId {
    PeerId::parse(&format!("peer{peer}")).unwrap()
}

fn at(addresses: &[&str]) -> PeerAddresses {
    PeerAddresses {
        direct: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        relays: Vec::new(),
    }
}

/// A record of a node with this key, made at a time, sealed for all.
fn sealed(seed: u8, made: i64, addresses: &[&str]) -> Vec<u8> {
    let network = Network::new(NetworkSecret::from_bytes(SECRET));
    let record = AddressRecord::new(id(seed), made as u64, &at(addresses));
    let signed = record.sign(&key(seed), &network.id);
    signed.seal(&network).unwrap()
}

#[tokio::test]
async fn a_network_of_an_older_store_is_kept_and_sealed_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("alknet.db")).unwrap();
    let network = Network::new(NetworkSecret::from_bytes([1; 32]));
    let sealed = data_encoding::HEXLOWER.decode(network::SEALED_BY_FORMAT_2);
    let kept = KeptNetwork {
        id: network.id,
        key_version: 0,
        sealed: sealed.unwrap(),
    };
    store.put_networks(vec![kept]).await.unwrap();
    store.close().await;
    let node = World::open(5, dir).await;
    assert_eq!(node.network().secret.expose(), &[1; 32]);
    let kept = node.finder.store.networks().await.unwrap();
    assert_eq!((kept.len(), kept[0].key_version), (1, 1));
    // And it opens so, too.
    let node = node.again(5).await;
    assert_eq!(node.network().secret.expose(), &[1; 32]);
}

#[tokio::test]
async fn the_newest_record_of_a_peer_counts_and_no_older_one_comes_back() {
    let node = World::new(1, &[2]).await;
    let (first, second) = (
        sealed(2, NOW, &["192.0.2.1:1"]),
        sealed(2, NOW + 1, &["192.0.2.2:2"]),
    );
    let mut news = node.finder.news();
    assert_eq!(node.takes(&first).await, Ok(()));
    assert!(news.has_changed().unwrap());
    news.mark_unchanged();
    assert_eq!(node.finder.learnt(), [name(2)].into());
    assert_eq!(node.takes(&first).await, Err(RecordError::Old));
    assert_eq!(node.takes(&second).await, Ok(()));
    assert_eq!(node.takes(&first).await, Err(RecordError::Old));
    assert_eq!(node.places(2), at(&["192.0.2.2:2"]));
    // Nor after a crash.
    let node = node.again(1).await;
    assert_eq!(node.takes(&first).await, Err(RecordError::Old));
    assert_eq!(node.takes(&second).await, Err(RecordError::Old));
    assert_eq!(node.places(2), at(&["192.0.2.2:2"]));
}

#[tokio::test]
async fn records_about_nobody_here_are_not_kept() {
    let node = World::new(1, &[2]).await;
    let stranger = sealed(3, NOW, &["192.0.2.1:1"]);
    assert_eq!(node.takes(&stranger).await, Err(RecordError::Stranger));
    // Nor about this node itself.
    let own = sealed(1, NOW, &["192.0.2.1:1"]);
    assert_eq!(node.takes(&own).await, Err(RecordError::Stranger));
    assert!(node.finder.store.records().await.unwrap().is_empty());
    node.add(3).await;
    assert_eq!(node.takes(&stranger).await, Ok(()));
    // What is known of a peer goes with it.
    node.apply(IdentityChange::RemovePeer(name(3))).await;
    assert!(node.finder.places_of_key(&id(3)).is_none());
    node.finder.sweep().await.unwrap();
    assert!(node.finder.store.records().await.unwrap().is_empty());
}

#[tokio::test]
async fn forged_expired_future_and_foreign_records_are_refused() {
    let node = World::new(1, &[2]).await;
    let day = 24 * 3_600_000;
    for (made, want) in [
        (NOW + 2 * day, RecordError::Ahead),
        (NOW - 14 * day, RecordError::Expired),
    ] {
        let record = sealed(2, made, &["192.0.2.1:1"]);
        assert_eq!(node.takes(&record).await, Err(want));
    }
    // A clock that is a day ahead, or behind.
    for made in [NOW - day, NOW + day] {
        let record = sealed(2, made, &["192.0.2.1:1"]);
        assert_eq!(node.takes(&record).await, Ok(()));
    }
    let long = vec![0; record::RECORD_BYTES_MAX + 1];
    assert_eq!(node.takes(&long).await, Err(RecordError::TooLong));
    // Another network, of which both are no members together.
    let other = Network::new(NetworkSecret::from_bytes([5; 32]));
    let record = AddressRecord::new(id(2), NOW as u64 + 9, &at(&["192.0.2.1:1"]));
    let foreign = record.sign(&key(2), &other.id).seal(&other).unwrap();
    assert_eq!(node.takes(&foreign).await, Err(RecordError::NotSealed));
    let unknown = node
        .finder
        .accept(&other.id, &foreign, &mut HashSet::new())
        .await;
    assert_eq!(unknown, Err(RecordError::NotSealed));
    // A peer that signs what another one is to have said.
    let record = AddressRecord::new(id(2), NOW as u64 + day as u64 + 9, &at(&["192.0.2.1:1"]));
    let forged = record.sign(&key(4), &node.network().id);
    let forged = forged.seal(&node.network()).unwrap();
    assert_eq!(node.takes(&forged).await, Err(RecordError::Forged));
}

#[tokio::test]
async fn a_record_stops_to_count_when_it_has_expired() {
    let node = World::new(1, &[2]).await;
    node.takes(&sealed(2, NOW, &["192.0.2.1:1"])).await.unwrap();
    assert_eq!(node.places(2), at(&["192.0.2.1:1"]));
    let over = RECORD_LIFETIME.as_millis() as i64;
    node.clock.fetch_add(over, Ordering::SeqCst);
    assert_eq!(node.places(2), at(&[]));
    node.finder.sweep().await.unwrap();
    assert!(node.finder.store.records().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_record_from_a_future_that_is_past_does_not_stand_in_the_way() {
    let node = World::new(1, &[2]).await;
    // Both clocks were two days ahead for a while.
    let ahead = 2 * 24 * 3_600_000;
    node.clock.fetch_add(ahead, Ordering::SeqCst);
    let future = sealed(2, NOW + ahead, &["192.0.2.1:1"]);
    node.takes(&future).await.unwrap();
    node.clock.fetch_sub(ahead, Ordering::SeqCst);
    assert_eq!(node.places(2), at(&[]));
    let today = sealed(2, NOW, &["192.0.2.2:2"]);
    assert_eq!(node.takes(&today).await, Ok(()));
    assert_eq!(node.places(2), at(&["192.0.2.2:2"]));
}

#[tokio::test]
async fn a_record_points_at_nobody_that_it_could_harm() {
    let node = World::new(1, &[2]).await;
    let addresses = [
        "127.0.0.1:1",
        "[::1]:1",
        "[::ffff:127.0.0.1]:1",
        "169.254.169.254:80",
        "[fe80::1]:1",
        "0.0.0.0:1",
        "224.0.0.251:5353",
        "255.255.255.255:1",
        "192.0.2.1:0",
        "192.0.2.1:7",
    ];
    node.takes(&sealed(2, NOW, &addresses)).await.unwrap();
    assert_eq!(node.places(2), at(&["192.0.2.1:7"]));
    // A peer that was reached over loopback is on this machine.
    let here = "127.0.0.1:9".parse().unwrap();
    node.finder.worked(id(2), here).await;
    let places = node.places(2);
    assert_eq!(places.direct[0], here);
    assert!(places.direct.contains(&"127.0.0.1:1".parse().unwrap()));
    assert!(
        !places
            .direct
            .contains(&"169.254.169.254:80".parse().unwrap())
    );
}

#[tokio::test]
async fn sixteen_places_that_worked_are_kept_and_those_given_always() {
    let node = World::new(1, &[2]).await;
    let given = at(&["192.0.2.200:1"]);
    let mut record = node.finder.identities.peer("peer2").unwrap();
    record.addresses = given.clone();
    node.apply(IdentityChange::UpdatePeer(record)).await;
    for port in 1..=20 {
        node.clock.fetch_add(1, Ordering::SeqCst);
        let address = SocketAddr::from(([192, 0, 2, 1], port));
        node.finder.worked(id(2), address).await;
    }
    let want: Vec<SocketAddr> = (5..=20)
        .rev()
        .map(|port| SocketAddr::from(([192, 0, 2, 1], port)))
        .chain(given.direct)
        .collect();
    assert_eq!(want.len(), PLACES_MAX + 1);
    assert_eq!(node.places(2).direct, want);
    let node = node.again(1).await;
    assert_eq!(node.places(2).direct, want);
}

#[tokio::test]
async fn a_place_that_works_now_is_kept_after_sixteen_of_a_clock_that_was_ahead() {
    let node = World::new(1, &[2]).await;
    let place = |port: u16| SocketAddr::from(([192, 0, 2, 1], port));
    node.clock.fetch_add(86_400_000, Ordering::SeqCst);
    for port in 1..=16 {
        node.finder.worked(id(2), place(port)).await;
    }
    node.clock.fetch_sub(86_400_000, Ordering::SeqCst);
    node.finder.worked(id(2), place(17)).await;
    let node = node.again(1).await;
    assert_eq!(node.places(2).direct[0], place(17));
}

#[tokio::test]
async fn each_side_gets_what_is_newer_about_its_own_peers_and_nothing_else() {
    // 1 and 2 know 3; only 1 knows 4; they know each other.
    let one = World::new(1, &[2, 3, 4]).await;
    let two = World::new(2, &[1, 3]).await;
    for peer in [3, 4] {
        one.takes(&sealed(peer, NOW, &["192.0.2.1:1"]))
            .await
            .unwrap();
    }
    let moved = |port: u16| at(&[&format!("192.0.2.9:{port}")]);
    one.finder.moved(moved(1)).await.unwrap();
    let offered = two.asks(&one);
    assert_eq!(offered.len(), 2);
    for sealed in &offered {
        two.takes(sealed).await.unwrap();
    }
    assert_eq!(two.places(1), moved(1));
    assert_eq!(two.places(3), at(&["192.0.2.1:1"]));
    // Once is enough.
    assert!(two.asks(&one).is_empty());
    assert!(one.asks(&two).is_empty());
    one.finder.moved(moved(2)).await.unwrap();
    one.finder.moved(moved(2)).await.unwrap();
    let offered = two.asks(&one);
    assert_eq!(offered.len(), 1);
    two.takes(&offered[0]).await.unwrap();
    assert_eq!(two.places(1), moved(2));
    // A node of another network is told nothing.
    let other = World::open(7, tempfile::tempdir().unwrap()).await;
    for peer in [1, 2, 3] {
        other.add(peer).await;
    }
    assert!(other.asks(&one).is_empty());
}

#[tokio::test]
async fn what_does_not_fit_into_an_exchange_comes_with_the_next() {
    let peers: Vec<u8> = (10..10 + OFFER_RECORDS_MAX as u8 + 1).collect();
    let one = World::new(1, &peers).await;
    let two = World::new(2, &peers).await;
    for peer in &peers {
        one.takes(&sealed(*peer, NOW, &["192.0.2.1:1"]))
            .await
            .unwrap();
    }
    let (offer, unfinished) = one.finder.offer(&two.finder.ask());
    assert!(unfinished);
    assert_eq!(offer.records.len(), OFFER_RECORDS_MAX);
    for (network, sealed) in &offer.records {
        two.finder
            .accept(network, sealed, &mut HashSet::new())
            .await
            .unwrap();
    }
    let (offer, unfinished) = one.finder.offer(&two.finder.ask());
    assert!(!unfinished);
    assert_eq!(offer.records.len(), 1);
}

#[tokio::test]
async fn what_came_from_a_peer_is_no_news_to_it() {
    let node = World::new(1, &[2]).await;
    let before = node.finder.generation();
    node.takes(&sealed(2, NOW, &["192.0.2.1:1"])).await.unwrap();
    let exchanged = Exchanged {
        taken: 1,
        unfinished: false,
    };
    node.finder.told(&name(2), before, exchanged);
    assert_eq!(node.finder.due(&[name(2)]).0, []);
    node.finder.wants_changed();
    assert_eq!(node.finder.due(&[name(2)]).0, [name(2)]);
}

#[tokio::test]
async fn the_first_network_joined_becomes_the_own_one_and_later_ones_are_added() {
    let dir = tempfile::tempdir().unwrap();
    let node = World::open(1, dir).await;
    let secrets = |world: &World| -> Vec<[u8; 32]> {
        let state = lock(&world.finder.state);
        let secrets = state
            .networks
            .iter()
            .map(|network| *network.secret.expose());
        secrets.collect()
    };
    let made = secrets(&node);
    assert_eq!(made.len(), 1);
    let adopt = async |seed: u8, had_peers: bool| {
        let secret = NetworkSecret::from_bytes([seed; 32]);
        node.finder.adopt(secret, had_peers).await.unwrap()
    };
    assert!(adopt(1, false).await);
    assert_eq!(secrets(&node), [[1; 32]]);
    for seed in 1..=8 {
        assert!(adopt(seed, true).await, "{seed}");
    }
    assert!(!adopt(9, true).await);
    let held = secrets(&node);
    assert_eq!(held.len(), NETWORKS_MAX);
    let node = node.again(1).await;
    assert_eq!(secrets(&node), held);
    // In the file, none is readable.
    let file = std::fs::read(node.dir.path().join("alknet.db")).unwrap();
    let wal = std::fs::read(node.dir.path().join("alknet.db-wal")).unwrap_or_default();
    for secret in [made[0], [1; 32], [8; 32]] {
        for bytes in [&file, &wal] {
            assert!(!bytes.windows(32).any(|window| window == secret));
        }
    }
    // Other keys cannot open it, and begin anew.
    let node = node.again(2).await;
    assert_eq!(secrets(&node).len(), 1);
    assert!(!held.contains(&secrets(&node)[0]));
}

/// A whole node that was told of a peer at this machine's own addresses.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_points_at_loopback_is_not_dialled() {
    let dir = TempDir::with_prefix("alknet-").unwrap();
    let mut config = Config::default();
    config.network.relays = Some(Vec::new());
    let node = Node::builder()
        .data_dir(dir.path())
        .name("home")
        .config(config)
        .bind("127.0.0.1:0".parse().unwrap())
        .spawn()
        .await
        .unwrap();
    let add = json!({ "peer": "laptop", "node_id": alknet_core::storage::hex32::encode(&id(2)) });
    let _: serde_json::Value = node.client().call("peers/add", &add).await.unwrap();
    let hit = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = hit.local_addr().unwrap();
    let finder = &node.shared.finder;
    let network = lock(&finder.state).networks[0].clone();
    let made = finder.identities.now().0;
    let record = |made: i64| {
        let places = at(&[
            &address.to_string(),
            &format!("[::ffff:127.0.0.1]:{}", address.port()),
        ]);
        let record = AddressRecord::new(id(2), made as u64, &places);
        record.sign(&key(2), &network.id).seal(&network).unwrap()
    };
    finder
        .accept(&network.id, &record(made), &mut HashSet::new())
        .await
        .unwrap();
    let dial = json!({ "peer": "laptop", "timeout_ms": 500 });
    let dialled: Result<serde_json::Value, _> = node.client().call("peers/dial", &dial).await;
    assert_eq!(dialled.unwrap_err().code, "UNAVAILABLE");
    hit.set_nonblocking(true).unwrap();
    let nothing = hit.recv(&mut [0; 2048]).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
    // The same words of somebody who was met here are believed.
    finder.worked(id(2), "127.0.0.1:9".parse().unwrap()).await;
    let _: Result<serde_json::Value, _> = node.client().call("peers/dial", &dial).await;
    hit.set_nonblocking(false).unwrap();
    hit.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert!(hit.recv(&mut [0; 2048]).unwrap() >= 1200);
    node.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn an_exchange_brings_one_record_of_a_node_and_no_flood_of_them() {
    let node = World::new(1, &[2]).await;
    let mut seen = HashSet::new();
    let network = node.network().id;
    let mut takes = async |made: i64| {
        let record = sealed(2, made, &["192.0.2.1:1"]);
        node.finder.accept(&network, &record, &mut seen).await
    };
    assert_eq!(takes(NOW).await, Ok(()));
    assert_eq!(takes(NOW + 1).await, Err(RecordError::Old));
}

#[tokio::test]
async fn the_endpoint_looks_peers_up_and_nobody_else() {
    use futures::StreamExt;
    use iroh::address_lookup::AddressLookup;

    let node = World::new(1, &[2]).await;
    node.takes(&sealed(2, NOW, &["192.0.2.1:1"])).await.unwrap();
    let finder = Arc::new(node.finder);
    let lookup = PeerLookup(Arc::downgrade(&finder));
    let found = lookup.resolve(key(2).public()).unwrap().next().await;
    let found = found.unwrap().unwrap().into_endpoint_addr();
    let addresses: Vec<SocketAddr> = found.ip_addrs().copied().collect();
    assert_eq!(addresses, at(&["192.0.2.1:1"]).direct);
    assert!(lookup.resolve(key(3).public()).is_none());
    drop(finder);
    assert!(lookup.resolve(key(2).public()).is_none());
}

#[tokio::test]
async fn a_link_that_changes_its_path_is_no_new_link() {
    let node = World::new(1, &[2]).await;
    let told = Exchanged::default();
    node.finder.linked(&name(2), Timestamp(NOW));
    node.finder.told(&name(2), node.finder.generation(), told);
    node.finder.linked(&name(2), Timestamp(NOW));
    let until = |finder: &Finder| lock(&finder.told)[&name(2)].until;
    assert_eq!(until(&node.finder), node.finder.generation());
    // A new one: the peer may have lost what it was told.
    node.finder.linked(&name(2), Timestamp(NOW + 1));
    assert_eq!(until(&node.finder), 0);
}

#[tokio::test]
async fn relays_in_a_record_are_judged_as_those_of_tickets() {
    let node = World::new(1, &[2]).await;
    let good = format!("https://relay.example.org/#sha256={}", "ab".repeat(32));
    let places = PeerAddresses {
        direct: Vec::new(),
        relays: [
            "https://localhost/",
            "https://169.254.169.254/",
            "http://10.0.0.1/",
            &good,
        ]
        .map(str::to_owned)
        .into(),
    };
    let record = AddressRecord::new(id(2), NOW as u64, &places);
    let signed = record.sign(&key(2), &node.network().id);
    node.takes(&signed.seal(&node.network()).unwrap())
        .await
        .unwrap();
    assert_eq!(node.places(2).relays, [good]);
}
