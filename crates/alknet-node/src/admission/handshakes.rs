//! How many handshakes are under way, and by which way they came: those that
//! came over a relay cannot shut out direct ones, nor strangers those whose
//! keys are known.

use super::Source;
use iroh::RelayUrl;
use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Direct handshakes under way before new ones are refused.
pub(super) const DIRECT_MAX: usize = 512;
/// Handshakes under way that came over relays.
const RELAYED_MAX: usize = 256;
/// Those of them that came over one relay.
const PER_RELAY_MAX: usize = 128;
/// Those of them that name one key.
const PER_KEY_MAX: usize = 8;
/// Those of them that name keys of nobody known.
const STRANGERS_MAX: usize = 64;
/// Those of nobody known that came over one relay.
const STRANGERS_PER_RELAY_MAX: usize = 32;

/// Handshakes under way. Clones share them.
#[derive(Clone)]
pub(super) struct Handshakes(Arc<Mutex<UnderWay>>);

#[derive(Default)]
struct UnderWay {
    /// Those that one address may have under way.
    per_address_max: usize,
    direct: usize,
    sources: HashMap<Source, usize>,
    relayed: usize,
    relays: HashMap<RelayUrl, usize>,
    keys: HashMap<[u8; 32], usize>,
    strangers: usize,
    stranger_relays: HashMap<RelayUrl, usize>,
}

/// By which way a handshake comes.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// From this address.
    Direct(Source),
    /// What the relay says of it: nothing is proven yet.
    Relayed {
        relay: RelayUrl,
        key: [u8; 32],
        is_known: bool,
    },
}

/// One that is under way; over when it is dropped.
#[must_use = "the handshake is over when this is dropped"]
pub(super) struct Handshake {
    all: Handshakes,
    way: Way,
}

impl Handshakes {
    /// Of which each address may have so many under way.
    pub(super) fn new(per_address_max: usize) -> Self {
        Self(Arc::new(Mutex::new(UnderWay {
            per_address_max,
            ..UnderWay::default()
        })))
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Direct ones under way.
    pub(super) fn direct(&self) -> usize {
        self.lock().direct
    }

    /// Counts one more; `None` if there are too many of its kind.
    pub(super) fn begin(&self, way: Way) -> Option<Handshake> {
        self.lock().take(&way).then(|| Handshake {
            all: self.clone(),
            way,
        })
    }
}

impl UnderWay {
    fn take(&mut self, way: &Way) -> bool {
        let (relay, key, is_known) = match way {
            Way::Direct(source) => return self.take_direct(*source),
            Way::Relayed {
                relay,
                key,
                is_known,
            } => (relay, key, is_known),
        };
        let fits = self.relayed < RELAYED_MAX
            && count(&self.relays, relay) < PER_RELAY_MAX
            && count(&self.keys, key) < PER_KEY_MAX
            && (*is_known
                || (self.strangers < STRANGERS_MAX
                    && count(&self.stranger_relays, relay) < STRANGERS_PER_RELAY_MAX));
        if fits {
            self.relayed += 1;
            *self.relays.entry(relay.clone()).or_default() += 1;
            *self.keys.entry(*key).or_default() += 1;
            if !is_known {
                self.strangers += 1;
                *self.stranger_relays.entry(relay.clone()).or_default() += 1;
            }
        }
        fits
    }

    fn take_direct(&mut self, source: Source) -> bool {
        let fits = self.direct < DIRECT_MAX && count(&self.sources, &source) < self.per_address_max;
        if fits {
            self.direct += 1;
            *self.sources.entry(source).or_default() += 1;
        }
        fits
    }

    fn give_back(&mut self, way: &Way) {
        let (relay, key, is_known) = match way {
            Way::Direct(source) => {
                self.direct -= 1;
                return one_less(&mut self.sources, source);
            }
            Way::Relayed {
                relay,
                key,
                is_known,
            } => (relay, key, is_known),
        };
        self.relayed -= 1;
        one_less(&mut self.relays, relay);
        one_less(&mut self.keys, key);
        if !is_known {
            self.strangers -= 1;
            one_less(&mut self.stranger_relays, relay);
        }
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.all.lock().give_back(&self.way);
    }
}

fn count<K: Eq + Hash>(counts: &HashMap<K, usize>, key: &K) -> usize {
    counts.get(key).copied().unwrap_or(0)
}

/// Nothing is kept of what is not under way.
fn one_less<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PER_ADDRESS: usize = 8;

    fn direct(address: u32) -> Way {
        let address = std::net::IpAddr::from(address.to_be_bytes());
        Way::Direct(Source::of_address(address))
    }

    #[test]
    fn one_address_has_its_share() {
        let all = Handshakes::new(PER_ADDRESS);
        let held: Vec<_> = (0..20).filter_map(|_| all.begin(direct(1))).collect();
        assert_eq!(held.len(), PER_ADDRESS);
        assert!(all.begin(direct(2)).is_some());
        drop(held);
        assert!(all.begin(direct(1)).is_some());
        assert_eq!(all.lock().sources.len(), 0);
    }

    fn relayed(relay: u8, key: u16, is_known: bool) -> Way {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&key.to_be_bytes());
        Way::Relayed {
            relay: format!("https://r{relay}.example/").parse().unwrap(),
            key: bytes,
            is_known,
        }
    }

    /// As many as are let in of a thousand, each with a key of its own.
    fn flood(all: &Handshakes, relay: u8, is_known: bool) -> Vec<Handshake> {
        (0..1000)
            .filter_map(|key| all.begin(relayed(relay, key, is_known)))
            .collect()
    }

    #[test]
    fn a_flood_over_relays_shuts_out_neither_direct_handshakes_nor_known_keys() {
        let all = Handshakes::new(PER_ADDRESS);
        let first = flood(&all, 1, false);
        assert_eq!(first.len(), STRANGERS_PER_RELAY_MAX);
        // Others come over another relay, and those that are known over this.
        assert!(all.begin(relayed(2, 2000, false)).is_some());
        assert!(all.begin(relayed(1, 2000, true)).is_some());
        let others: Vec<_> = (2..9).flat_map(|relay| flood(&all, relay, false)).collect();
        assert_eq!(first.len() + others.len(), STRANGERS_MAX);
        assert!(all.begin(relayed(1, 2000, true)).is_some());
        assert_eq!(all.direct(), 0);
        // A relay that makes up known keys has its share, and no more.
        let known = flood(&all, 1, true);
        assert_eq!(first.len() + known.len(), PER_RELAY_MAX);
        assert!(all.begin(relayed(2, 2000, true)).is_some());
        let direct: Vec<_> = (0..=u32::try_from(DIRECT_MAX).unwrap())
            .filter_map(|n| all.begin(direct(n)))
            .collect();
        assert_eq!(direct.len(), DIRECT_MAX);
    }

    #[test]
    fn one_key_has_its_share_over_all_relays() {
        let all = Handshakes::new(PER_ADDRESS);
        let held: Vec<_> = (0..20)
            .filter_map(|relay| all.begin(relayed(relay, 7, true)))
            .collect();
        assert_eq!(held.len(), PER_KEY_MAX);
        assert!(all.begin(relayed(1, 8, true)).is_some());
    }

    #[test]
    fn what_is_over_makes_room_and_leaves_nothing() {
        let all = Handshakes::new(PER_ADDRESS);
        drop(flood(&all, 1, false));
        drop(flood(&all, 1, true));
        drop(all.begin(direct(1)));
        assert_eq!(flood(&all, 1, false).len(), STRANGERS_PER_RELAY_MAX);
        let left = all.lock();
        assert_eq!((left.direct, left.relayed, left.strangers), (0, 0, 0));
        assert!(
            left.sources.is_empty()
                && left.relays.is_empty()
                && left.keys.is_empty()
                && left.stranger_relays.is_empty()
        );
    }
}
