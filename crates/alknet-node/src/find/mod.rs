//! Finding peers: what is known of where they are, and how they are told
//! where this node is.
//!
//! Three kinds of places are kept apart. *Given* ones, by people, tickets and
//! joins, lie in the peer's record and are never dropped here. Places that
//! *worked* carried a connection; the newest are kept. *Told* ones come from
//! the peer's signed address record. A dial tries all of them at once.

mod anchors;
pub(crate) mod exchange;
mod fuzz;
mod lookup;
mod mdns;
mod network;
mod record;
mod tell;
mod watch;

pub use self::fuzz::{fuzz_exchange, fuzz_record, fuzz_record_seeds};
pub(crate) use self::{
    anchors::{Anchors, anchors, is_own_public},
    exchange::{ALPN, FindHandler},
    lookup::PeerLookup,
    mdns::announce,
    network::{AtRest, NetworkSecret, open_network, seal_network},
    tell::{follow_moves, tell},
    watch::watch,
};

use self::{
    exchange::{Ask, OFFER_RECORDS_MAX, Offer, WANTS_MAX, Wanted},
    network::{NETWORKS_MAX, Network, NetworkId},
    record::{AddressRecord, RECORD_LIFETIME, RecordError, SignedRecord},
    tell::Told,
};
use crate::{dialer::vetted, relay::Relays, secrets::SealError};
use alknet_core::{
    Credential, IdentityProvider, PeerId,
    storage::{IdentityIndex, PeerAddresses, PeerRecord, StoreError, Timestamp},
};
use alknet_store::{KeptNetwork, KeptPlace, KeptRecord, Store};
use iroh::SecretKey;
use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch as channel;

/// Places that worked, of one node key.
pub(crate) const PLACES_MAX: usize = 16;
/// Records held, over all networks.
pub(crate) const RECORDS_MAX: usize = 8192;

/// What this node knows of where its peers are.
pub(crate) struct Finder {
    store: Store,
    identities: Arc<IdentityIndex>,
    relays: Relays,
    key: SecretKey,
    at_rest: AtRest,
    /// Whether records are made and exchanged.
    gossips: bool,
    state: Mutex<State>,
    /// One change of the stored records and networks at a time.
    writing: tokio::sync::Mutex<()>,
    /// Counts what there is to tell: records that are new here, and new wants.
    generation: channel::Sender<u64>,
    /// Counts what was learnt of peers.
    news: channel::Sender<u64>,
    told: Mutex<HashMap<PeerId, Told>>,
    /// Peers of whom something was learnt since that was last asked.
    learnt: Mutex<HashSet<PeerId>>,
}

#[derive(Default)]
struct State {
    networks: Vec<Network>,
    /// Newest first.
    worked: HashMap<[u8; 32], Vec<(SocketAddr, Timestamp)>>,
    records: HashMap<(NetworkId, [u8; 32]), SignedRecord>,
    /// Where this node is, as far as it knows.
    own: PeerAddresses,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Finder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Finder").finish_non_exhaustive()
    }
}

impl Finder {
    /// Reads what an earlier run knew; makes the network's secret if there is
    /// none.
    pub(crate) async fn open(
        store: Store,
        identities: Arc<IdentityIndex>,
        relays: Relays,
        keys: (SecretKey, AtRest),
        gossips: bool,
    ) -> Result<Self, StoreError> {
        let finder = Self {
            store,
            identities,
            relays,
            key: keys.0,
            at_rest: keys.1,
            gossips,
            state: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
            generation: channel::Sender::new(1),
            news: channel::Sender::new(0),
            told: Mutex::default(),
            learnt: Mutex::default(),
        };
        finder.load_networks().await?;
        finder.load_places().await?;
        Ok(finder)
    }

    async fn load_networks(&self) -> Result<(), StoreError> {
        let kept = self.store.networks().await?;
        let opened = kept
            .iter()
            .map(|one| self.at_rest.open(&one.id, one.key_version, &one.sealed));
        let mut networks: Vec<Network> = opened.filter_map(Result::ok).collect();
        if networks.len() < kept.len() {
            // The words of another node were restored into this directory.
            tracing::warn!("a network's secret was sealed by other keys; it is forgotten");
        }
        if networks.is_empty() {
            networks.push(Network::new(NetworkSecret::new()));
        }
        let version = self.at_rest.version();
        let is_older = kept.iter().any(|one| one.key_version != version);
        if networks.len() != kept.len() || kept.is_empty() || is_older {
            self.keep_networks(&networks).await?;
        }
        lock(&self.state).networks = networks;
        Ok(())
    }

    async fn keep_networks(&self, networks: &[Network]) -> Result<(), StoreError> {
        let sealed = networks.iter().map(|network| {
            let (key_version, sealed) = self.at_rest.seal(network)?;
            Ok(KeptNetwork {
                id: network.id,
                key_version,
                sealed,
            })
        });
        let sealed: Result<_, SealError> = sealed.collect();
        let sealed = sealed.map_err(StoreError::backend)?;
        self.store.put_networks(sealed).await
    }

    async fn load_places(&self) -> Result<(), StoreError> {
        let (places, records) = (self.store.places().await?, self.store.records().await?);
        let mut state = lock(&self.state);
        for place in places {
            let worked = state.worked.entry(place.key).or_default();
            worked.push((place.address, place.at));
        }
        for kept in records {
            // Read back with the same care: whoever can write the file can
            // write anything.
            if let Ok(signed) = SignedRecord::parse(&kept.record, &kept.network) {
                state.records.insert((kept.network, kept.node), signed);
            }
        }
        Ok(())
    }

    /// Whether records are made and exchanged.
    pub(crate) fn gossips(&self) -> bool {
        self.gossips
    }

    fn own_key(&self) -> [u8; 32] {
        *self.key.public().as_bytes()
    }

    /// Counts what there is to tell.
    fn generation(&self) -> u64 {
        *self.generation.borrow()
    }

    /// Tells when something was learnt of where peers are.
    pub(crate) fn news(&self) -> channel::Receiver<u64> {
        self.news.subscribe()
    }

    /// What others might know that this node wants to, has changed.
    pub(crate) fn wants_changed(&self) {
        self.generation.send_modify(|count| *count += 1);
    }

    fn learnt(&self) -> HashSet<PeerId> {
        std::mem::take(&mut *lock(&self.learnt))
    }

    fn peer_of(&self, key: &[u8; 32]) -> Option<PeerId> {
        let known = self.identities.resolve(&Credential::NodeKey(*key))?;
        Some(known.id.clone())
    }

    /// Everything that is known of where a node key of a peer may be, what
    /// worked last first.
    pub(crate) fn places_of(&self, peer: &PeerRecord, key: &[u8; 32]) -> PeerAddresses {
        let (mut direct, told) = self.learnt_places(peer, key);
        let (given, mut relays) = (&peer.addresses, told.relays);
        direct.extend(told.direct);
        direct.extend(&given.direct);
        relays.extend(given.relays.iter().cloned());
        PeerAddresses {
            direct: without_repeats(direct),
            relays: without_repeats(relays),
        }
    }

    /// Where a node key was reached, and where it says that it is, as far as
    /// that harms nobody.
    fn learnt_places(&self, peer: &PeerRecord, key: &[u8; 32]) -> (Vec<SocketAddr>, PeerAddresses) {
        let now = self.identities.now();
        let (worked, told) = {
            let state = lock(&self.state);
            let worked = state.worked.get(key).map(Vec::as_slice).unwrap_or_default();
            let worked: Vec<SocketAddr> = worked.iter().map(|(address, _)| *address).collect();
            let told = state
                .newest_of(key, now)
                .map(|signed| signed.record.clone());
            (worked, told)
        };
        let Some(told) = told else {
            return (worked, PeerAddresses::default());
        };
        // Somebody who was met on this machine may be on it.
        let is_here = worked
            .iter()
            .chain(&peer.addresses.direct)
            .any(|address| address.ip().to_canonical().is_loopback());
        let relays = self.relays.learn(&told.relays, is_here);
        let told = PeerAddresses {
            direct: vetted(&told.addresses, is_here),
            relays: relays.iter().map(ToString::to_string).collect(),
        };
        (worked, told)
    }

    /// What a peer's newest record says, as far as it is used.
    pub(crate) fn told_places(&self, peer: &PeerRecord) -> Vec<SocketAddr> {
        let keys = peer.node_keys.iter();
        let told = keys.flat_map(|held| self.learnt_places(peer, &held.key).1.direct);
        without_repeats(told.collect())
    }

    /// The same for whoever has this key, if that is a peer.
    fn places_of_key(&self, key: &[u8; 32]) -> Option<PeerAddresses> {
        let peer = self.identities.peer(self.peer_of(key)?.as_str())?;
        Some(self.places_of(&peer, key))
    }

    /// Where a peer was reached, whatever its key was, the newest first.
    pub(crate) fn reached(&self, peer: &PeerRecord) -> Vec<SocketAddr> {
        let state = lock(&self.state);
        let keys = peer.node_keys.iter();
        let places = keys
            .filter_map(|held| state.worked.get(&held.key))
            .flatten();
        let mut places: Vec<_> = places.copied().collect();
        places.sort_by_key(|(_, at)| std::cmp::Reverse(*at));
        without_repeats(places.into_iter().map(|(address, _)| address).collect())
    }

    /// Whether there is a place at which a peer could be.
    pub(crate) fn has_places(&self, peer: &PeerRecord) -> bool {
        let mut keys = peer.node_keys.iter();
        keys.any(|held| !self.places_of(peer, &held.key).is_empty())
    }

    /// Notes that a connection to a node key works over a direct address.
    pub(crate) async fn worked(&self, key: [u8; 32], address: SocketAddr) {
        let now = self.identities.now();
        // After the newest one, even of a clock that was ahead then: those that
        // count as the oldest are forgotten.
        let newest = {
            let state = lock(&self.state);
            let places = state.worked.get(&key).into_iter().flatten();
            places
                .map(|(_, at)| at.plus(Duration::from_millis(1)))
                .max()
        };
        let at = newest.map_or(now, |newest| newest.max(now));
        let place = KeptPlace { key, address, at };
        if let Err(cause) = self.store.note_place(place, PLACES_MAX).await {
            tracing::warn!(%cause, "where a peer was reached could not be stored");
        }
        let mut state = lock(&self.state);
        let places = state.worked.entry(key).or_default();
        places.retain(|(known, _)| *known != address);
        places.insert(0, (address, at));
        places.truncate(PLACES_MAX);
    }

    /// Makes new records if this node is elsewhere than it told last, or told
    /// so long ago.
    pub(crate) async fn moved(&self, places: PeerAddresses) -> Result<(), StoreError> {
        // Before the first network is there, and after the last one is gone,
        // there is nothing to tell.
        if !self.gossips || places.is_empty() {
            return Ok(());
        }
        let _one_at_a_time = self.writing.lock().await;
        let now = self.identities.now();
        // What could not be stored is told with the next sweep, as it is now.
        lock(&self.state).own = places.clone();
        let (networks, own) = (lock(&self.state).networks.clone(), self.own_key());
        let mut changed = false;
        for network in networks {
            let held = lock(&self.state).records.get(&(network.id, own)).cloned();
            let next = next_record(own, held.as_ref().map(|held| &held.record), &places, now);
            let Some(next) = next else { continue };
            let signed = next.sign(&self.key, &network.id);
            self.keep(network.id, signed).await?;
            changed = true;
        }
        if changed {
            self.wants_changed();
        }
        Ok(())
    }

    async fn keep(&self, network: NetworkId, signed: SignedRecord) -> Result<(), StoreError> {
        let node = signed.record.node_id;
        let kept = KeptRecord {
            network,
            node,
            sequence: signed.record.sequence,
            record: signed.bytes.clone(),
        };
        self.store.put_record(kept).await?;
        lock(&self.state).records.insert((network, node), signed);
        Ok(())
    }

    /// Forgets what counts no longer: expired records, those about nobody who
    /// is a peer, and places of such. Renews its own.
    pub(crate) async fn sweep(&self) -> Result<(), StoreError> {
        let own = lock(&self.state).own.clone();
        self.moved(own).await?;
        let _one_at_a_time = self.writing.lock().await;
        let now = self.identities.now();
        let gone: Vec<_> = {
            let mut state = lock(&self.state);
            state.worked.retain(|key, _| self.peer_of(key).is_some());
            let records = state.records.iter();
            let gone = records.filter(|((_, node), signed)| {
                let is_over = signed.record.judge(now) == Err(RecordError::Expired);
                *node != self.own_key() && (is_over || self.peer_of(node).is_none())
            });
            gone.map(|(name, _)| *name).collect()
        };
        for (network, node) in gone {
            self.store.forget_record(network, node).await?;
            lock(&self.state).records.remove(&(network, node));
        }
        Ok(())
    }

    /// The secret that an inviting node hands over.
    pub(crate) fn secret(&self) -> Option<NetworkSecret> {
        let state = lock(&self.state);
        state.networks.first().map(|network| network.secret.clone())
    }

    /// Becomes a member of the network of an inviting node: it is *the*
    /// network of a node that had no peers, and one more of any other. Answers
    /// whether there was place for it.
    pub(crate) async fn adopt(
        &self,
        secret: NetworkSecret,
        had_peers: bool,
    ) -> Result<bool, StoreError> {
        let network = Network::new(secret);
        let own = {
            let _one_at_a_time = self.writing.lock().await;
            let mut networks = lock(&self.state).networks.clone();
            if networks.iter().any(|held| held.id == network.id) {
                return Ok(true);
            }
            if !had_peers {
                networks.clear();
            }
            if networks.len() >= NETWORKS_MAX {
                return Ok(false);
            }
            networks.push(network);
            self.keep_networks(&networks).await?;
            let mut state = lock(&self.state);
            state
                .records
                .retain(|(id, _), _| networks.iter().any(|held| held.id == *id));
            state.networks = networks;
            state.own.clone()
        };
        self.moved(own).await?;
        self.wants_changed();
        Ok(true)
    }

    /// The keys of the peers that count now.
    fn peer_keys(&self) -> Vec<[u8; 32]> {
        let peers = self.identities.snapshot().peers;
        let keys = peers.iter().flat_map(|peer| &peer.node_keys);
        let keys = keys.map(|held| held.key);
        keys.filter(|key| self.peer_of(key).is_some()).collect()
    }

    /// What this node wants to know of its peers.
    fn ask(&self) -> Ask {
        let now = self.identities.now();
        let keys = self.peer_keys();
        let state = lock(&self.state);
        let mut left = WANTS_MAX;
        let wanted = state.networks.iter().map(|network| {
            let newer_than = keys.iter().take(left).map(|key| {
                let held = state.records.get(&(network.id, *key));
                // One from a future that is past does not stand in the way.
                let held = held.filter(|held| held.record.judge(now) != Err(RecordError::Ahead));
                (
                    network.tag(key),
                    held.map_or(0, |held| held.record.sequence),
                )
            });
            let newer_than: Vec<_> = newer_than.collect();
            left -= newer_than.len();
            Wanted {
                network: network.id,
                newer_than,
            }
        });
        Ask::new(wanted.collect())
    }

    /// What of that this node knows, and whether there is more.
    fn offer(&self, ask: &Ask) -> (Offer, bool) {
        let now = self.identities.now();
        let mut records = Vec::new();
        let state = lock(&self.state);
        'all: for wanted in &ask.networks {
            let Some(network) = state.networks.iter().find(|one| one.id == wanted.network) else {
                continue;
            };
            let newer_than: HashMap<_, _> = wanted.newer_than.iter().copied().collect();
            for ((_, node), signed) in state
                .records
                .iter()
                .filter(|(name, _)| name.0 == network.id)
            {
                let asked = newer_than.get(&network.tag(node));
                let is_newer = asked.is_some_and(|known| signed.record.sequence > *known);
                if !is_newer || signed.record.judge(now).is_err() {
                    continue;
                }
                let is_known = *node == self.own_key() || self.peer_of(node).is_some();
                if !is_known {
                    continue;
                }
                // One more than fits says that there is more; sealing takes
                // time, and others wait for the state meanwhile.
                if records.len() > OFFER_RECORDS_MAX {
                    break 'all;
                }
                records.extend(signed.seal(network).map(|sealed| (network.id, sealed)));
            }
        }
        let unfinished = records.len() > OFFER_RECORDS_MAX;
        records.truncate(OFFER_RECORDS_MAX);
        (Offer::new(records), unfinished)
    }

    /// Takes a record if it counts: about a peer, signed by it, newer than
    /// what is known, and of this time. Durable when it returns.
    ///
    /// `seen` are the nodes, by network, of which the same exchange brought a
    /// record: a second one is not looked at.
    async fn accept(
        &self,
        network: &NetworkId,
        sealed: &[u8],
        seen: &mut HashSet<(NetworkId, [u8; 32])>,
    ) -> Result<(), RecordError> {
        let network = {
            let state = lock(&self.state);
            let held = state.networks.iter().find(|held| held.id == *network);
            held.cloned().ok_or(RecordError::NotSealed)?
        };
        let signed = SignedRecord::open(sealed, &network)?;
        let (record, now) = (&signed.record, self.identities.now());
        let peer = self.peer_of(&record.node_id).ok_or(RecordError::Stranger)?;
        record.judge(now)?;
        if !seen.insert((network.id, record.node_id)) {
            return Err(RecordError::Old);
        }
        let _one_at_a_time = self.writing.lock().await;
        {
            let state = lock(&self.state);
            let held = state.records.get(&(network.id, record.node_id));
            let held = held.filter(|held| held.record.judge(now) != Err(RecordError::Ahead));
            if held.is_some_and(|held| held.record.sequence >= record.sequence) {
                return Err(RecordError::Old);
            }
            if held.is_none() && state.records.len() >= RECORDS_MAX {
                return Err(RecordError::NotKept);
            }
        }
        let addresses = record.addresses.len();
        if let Err(cause) = self.keep(network.id, signed).await {
            tracing::warn!(%cause, "an address record could not be stored");
            return Err(RecordError::NotKept);
        }
        tracing::debug!(%peer, addresses, "learnt where a peer is");
        lock(&self.learnt).insert(peer);
        self.wants_changed();
        self.news.send_modify(|count| *count += 1);
        Ok(())
    }
}

impl State {
    /// The newest record of a node that counts now, whatever its network.
    fn newest_of(&self, key: &[u8; 32], now: Timestamp) -> Option<&SignedRecord> {
        let held = self.networks.iter();
        let held = held.filter_map(|network| self.records.get(&(network.id, *key)));
        let counting = held.filter(|signed| signed.record.judge(now).is_ok());
        counting.max_by_key(|signed| signed.record.sequence)
    }
}

/// The record that follows `last`, if there is something to tell.
fn next_record(
    own: [u8; 32],
    last: Option<&AddressRecord>,
    places: &PeerAddresses,
    now: Timestamp,
) -> Option<AddressRecord> {
    let made = u64::try_from(now.0).unwrap_or(0);
    let Some(last) = last else {
        return Some(AddressRecord::new(own, made, places));
    };
    // A record that the clock, set back since, dates in the future counts for
    // nobody: it is not counted on from.
    let is_ahead = last.judge(now) == Err(RecordError::Ahead);
    let sequence = match is_ahead {
        true => made,
        false => made.max(last.sequence.saturating_add(1)),
    };
    let next = AddressRecord::new(own, sequence, places);
    let is_young = last.expires_at > now.plus(RECORD_LIFETIME / 2).0;
    let same = next.addresses == last.addresses && next.relays == last.relays;
    (is_ahead || !same || !is_young).then_some(next)
}

fn without_repeats<T: Clone + Eq + std::hash::Hash>(mut list: Vec<T>) -> Vec<T> {
    let mut seen = HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
    list
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod sequences {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NOW: Timestamp = Timestamp(1_790_000_000_000);

    fn places(port: u16) -> PeerAddresses {
        PeerAddresses {
            direct: vec![SocketAddr::from(([192, 0, 2, 1], port))],
            relays: Vec::new(),
        }
    }

    #[test]
    fn a_node_tells_what_is_new_and_repeats_it_after_a_week() {
        let first = next_record([7; 32], None, &places(1), NOW).unwrap();
        assert_eq!(first.sequence, 1_790_000_000_000);
        let same = next_record([7; 32], Some(&first), &places(1), NOW);
        assert_eq!(same, None);
        let moved = next_record([7; 32], Some(&first), &places(2), NOW).unwrap();
        assert_eq!(moved.sequence, first.sequence + 1);
        let later = NOW.plus(RECORD_LIFETIME / 2);
        let again = next_record([7; 32], Some(&first), &places(1), later).unwrap();
        assert_eq!(again.sequence, u64::try_from(later.0).unwrap());
    }

    #[test]
    fn sequences_rise_while_the_clock_falls_and_are_never_stuck_in_the_future() {
        let first = next_record([7; 32], None, &places(1), NOW).unwrap();
        let back = Timestamp(NOW.0 - 3_600_000);
        let next = next_record([7; 32], Some(&first), &places(2), back).unwrap();
        assert_eq!(next.sequence, first.sequence + 1);
        // The clock was a year ahead for a while.
        let year = Timestamp(NOW.0 - 365 * 24 * 3_600_000);
        let next = next_record([7; 32], Some(&first), &places(1), year).unwrap();
        assert_eq!(next.sequence, u64::try_from(year.0).unwrap());
        assert_eq!(next.judge(year), Ok(()));
    }
}
