//! Credit for items, progress reports and questions: what may be under way,
//! so that a reader who takes nothing holds back one call and no other.
//!
//! Each costs its payload and [`ITEM_OVERHEAD_BYTES`]. One may be sent if it
//! fits into the window, or if less than a quarter of the window is under way:
//! so an item larger than the window passes too. Whoever receives them returns
//! what was taken before it reaches a quarter.

use crate::limits::ITEM_OVERHEAD_BYTES;

/// What sending one costs.
pub(crate) fn cost(payload_bytes: usize) -> u64 {
    payload_bytes as u64 + ITEM_OVERHEAD_BYTES
}

/// Whether something of `cost` may join `under_way`.
fn fits(window: u64, under_way: u64, cost: u64) -> bool {
    under_way < window / 4 || under_way + cost <= window
}

/// The sender's side.
#[derive(Debug)]
pub(crate) struct Allowance {
    window: u64,
    under_way: u64,
}

impl Allowance {
    pub(crate) fn new(window: u32) -> Self {
        Self {
            window: u64::from(window),
            under_way: 0,
        }
    }

    /// Spends `cost` if it may be sent now.
    pub(crate) fn spend(&mut self, cost: u64) -> bool {
        let may = fits(self.window, self.under_way, cost);
        if may {
            self.under_way += cost;
        }
        may
    }

    /// Takes back what was taken there; `false` if that is more than was sent.
    pub(crate) fn returned(&mut self, cost: u32) -> bool {
        match self.under_way.checked_sub(u64::from(cost)) {
            Some(left) => {
                self.under_way = left;
                true
            }
            None => false,
        }
    }
}

/// The receiver's side.
#[derive(Debug)]
pub(crate) struct Receipts {
    window: u64,
    under_way: u64,
    taken: u64,
}

impl Receipts {
    pub(crate) fn new(window: usize) -> Self {
        Self {
            window: window as u64,
            under_way: 0,
            taken: 0,
        }
    }

    /// Notes that one has arrived; `false` if it was not allowed.
    pub(crate) fn arrived(&mut self, cost: u64) -> bool {
        let may = fits(self.window, self.under_way, cost);
        self.under_way += cost;
        may
    }

    /// Notes that some were taken; answers with what to return now, if it is
    /// worth a frame.
    pub(crate) fn taken(&mut self, cost: u64) -> Option<u32> {
        self.taken += cost;
        // An eighth here, and an eighth that the reader may hold back itself:
        // together less than the quarter that the sender waits for.
        if self.taken < Self::worth(self.window) {
            return None;
        }
        let back = u32::try_from(self.taken).unwrap_or(u32::MAX);
        self.taken -= u64::from(back);
        self.under_way -= u64::from(back);
        Some(back)
    }

    /// How much a reader may take before it says so.
    pub(crate) fn worth(window: u64) -> u64 {
        window / 8
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_window_fills_and_an_item_larger_than_it_passes_alone() {
        let mut allowance = Allowance::new(1000);
        assert!(allowance.spend(1000));
        assert!(!allowance.spend(1), "full");
        assert!(allowance.returned(751));
        assert!(allowance.spend(5000), "less than a quarter is under way");
        assert!(!allowance.spend(1));
        assert!(!allowance.returned(5250), "more than was sent");
    }

    #[test]
    fn whatever_the_sizes_neither_side_waits_for_ever_or_feels_cheated() {
        // A sender that sends whenever it may, a reader that takes everything,
        // and holds back as much as it is allowed to.
        let window = 1000_u32;
        let mut allowance = Allowance::new(window);
        let mut receipts = Receipts::new(window as usize);
        let mut held_back = 0;
        let mut seed = 7_u64;
        for sent in 0..10_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let cost = 64 + (seed >> 33) % 3000;
            assert!(allowance.spend(cost), "stuck after {sent}");
            assert!(receipts.arrived(cost));
            held_back += cost;
            if held_back >= Receipts::worth(u64::from(window))
                && let Some(back) = receipts.taken(std::mem::take(&mut held_back))
            {
                assert!(allowance.returned(back));
            }
        }
    }
}
