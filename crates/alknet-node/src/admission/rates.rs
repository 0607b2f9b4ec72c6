//! How often somebody comes: handshakes a second of each address, of
//! strangers over each relay, and in all.

use super::Source;
use iroh::RelayUrl;
use std::{collections::HashMap, time::Duration};
use tokio::time::Instant;

/// Addresses whose rates are remembered.
const ADDRESSES_KEPT: usize = 8192;
/// Relays whose rates are remembered.
const RELAYS_KEPT: usize = 256;

#[derive(Default)]
pub(super) struct Rates {
    pub(super) total: Bucket,
    addresses: HashMap<Source, Bucket>,
    /// Strangers, by the relay that they come over.
    relays: HashMap<RelayUrl, Bucket>,
    /// When old addresses were last forgotten.
    swept: Option<Instant>,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Bucket {
    used: f64,
    at: Option<Instant>,
}

impl Bucket {
    /// Whether one more fits into `rate` a second, with a burst of as many.
    pub(super) fn take(&mut self, rate: u32, now: Instant) -> bool {
        let rate = f64::from(rate.max(1));
        if let Some(at) = self.at {
            self.used = (self.used - now.duration_since(at).as_secs_f64() * rate).max(0.0);
        }
        self.at = Some(now);
        let fits = self.used + 1.0 <= rate;
        if fits {
            self.used += 1.0;
        }
        fits
    }
}

impl Rates {
    /// Whether an address keeps to its rate. While more addresses come than
    /// can be remembered, new ones must prove themselves: they are forged, or
    /// too many.
    pub(super) fn is_polite(&mut self, address: Source, rate: u32, now: Instant) -> bool {
        let second = Duration::from_secs(1);
        if self.addresses.len() >= ADDRESSES_KEPT && !self.addresses.contains_key(&address) {
            if self.swept.is_some_and(|at| now.duration_since(at) < second) {
                return false;
            }
            self.swept = Some(now);
            self.addresses
                .retain(|_, bucket| bucket.at.is_some_and(|at| now.duration_since(at) < second));
            if self.addresses.len() >= ADDRESSES_KEPT {
                return false;
            }
        }
        self.addresses.entry(address).or_default().take(rate, now)
    }

    /// Whether strangers may still come over a relay. There are no more
    /// relays than this node was told of, most of them silent.
    pub(super) fn is_calm(&mut self, relay: &RelayUrl, rate: u32, now: Instant) -> bool {
        if self.relays.len() >= RELAYS_KEPT && !self.relays.contains_key(relay) {
            let second = Duration::from_secs(1);
            self.relays
                .retain(|_, bucket| bucket.at.is_some_and(|at| now.duration_since(at) < second));
            if self.relays.len() >= RELAYS_KEPT {
                return false;
            }
        }
        let bucket = self.relays.entry(relay.clone()).or_default();
        bucket.take(rate, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_at_the_limit_and_not_one_past_it() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        let source = |n: u32| Source::of_address(std::net::IpAddr::from(n.to_be_bytes()));
        let of = |rates: &mut Rates, n, now| {
            (0..100)
                .filter(|_| rates.is_polite(source(n), 20, now))
                .count()
        };
        assert_eq!(of(&mut rates, 1, start), 20);
        assert_eq!(of(&mut rates, 2, start), 20);
        assert_eq!(of(&mut rates, 1, start + Duration::from_millis(500)), 10);
        assert_eq!(of(&mut rates, 1, start + Duration::from_secs(9)), 20);
    }

    #[test]
    fn forged_addresses_fill_no_memory() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        for n in 0..100_000_u32 {
            let source = Source::of_address(std::net::IpAddr::from(n.to_be_bytes()));
            rates.is_polite(source, 20, now);
        }
        assert_eq!(rates.addresses.len(), ADDRESSES_KEPT);
    }
}
