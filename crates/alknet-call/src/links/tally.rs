//! What a connection's paths carried, kept beyond the end of a path.

use super::report::{Packets, Traffic};
use crate::quic::QuicConnection;
use iroh::endpoint::{PathId, PathStats};
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How often packets are counted, for the loss of late.
pub(super) const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// Samples that are kept: a minute.
const SAMPLES: usize = 13;
/// Ended paths that may still be listed as open.
const ENDED_KEPT: usize = 64;

/// The count of one connection.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Of paths that have ended.
    ended: Traffic,
    /// The library tells the end of a path and still lists it, in any order.
    ended_ids: VecDeque<PathId>,
    samples: VecDeque<Packets>,
}

/// What one path carried.
pub(crate) fn traffic_of(stats: &PathStats, is_relay: bool) -> Traffic {
    let (sent, received) = (stats.udp_tx.bytes, stats.udp_rx.bytes);
    Traffic {
        bytes_sent: sent,
        bytes_received: received,
        bytes_relayed: if is_relay { sent + received } else { 0 },
        packets: Packets {
            sent: stats.sent_packets.saturating_sub(stats.sent_plpmtud_probes),
            lost: stats.lost_packets.saturating_sub(stats.lost_plpmtud_probes),
        },
    }
}

impl Tally {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a path that has ended.
    pub(super) fn ended(&self, id: PathId, stats: &PathStats, is_relay: bool) {
        let mut inner = self.lock();
        if inner.ended_ids.contains(&id) {
            return;
        }
        inner.ended += traffic_of(stats, is_relay);
        inner.ended_ids.push_back(id);
        if inner.ended_ids.len() > ENDED_KEPT {
            inner.ended_ids.pop_front();
        }
    }

    /// What all paths of the connection carried, ended ones too.
    pub(super) fn total(&self, connection: &QuicConnection) -> Traffic {
        let inner = self.lock();
        let mut total = inner.ended;
        let paths = connection.inner().paths();
        for path in paths.iter() {
            if !inner.ended_ids.contains(&path.id()) {
                total += traffic_of(&path.stats(), path.is_relay());
            }
        }
        // Exact also while a path is neither listed nor counted as ended.
        let all = connection.inner().stats();
        total.bytes_sent = all.udp_tx.bytes;
        total.bytes_received = all.udp_rx.bytes;
        total
    }

    /// Remembers how many packets there were so far.
    pub(super) fn sample(&self, packets: Packets) {
        let mut inner = self.lock();
        inner.samples.push_back(packets);
        while inner.samples.len() > SAMPLES {
            inner.samples.pop_front();
        }
    }

    /// Packets since the oldest sample, a minute ago at most.
    pub(super) fn recent(&self, packets: Packets) -> Packets {
        let inner = self.lock();
        let oldest = inner.samples.front().copied();
        packets.since(oldest.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_loss_is_of_the_last_minute() {
        let tally = Tally::default();
        let count = |sent, lost| Packets { sent, lost };
        assert_eq!(tally.recent(count(10, 5)), count(10, 5));
        for n in 0..=20u32 {
            // Everything is lost at first, nothing later.
            let lost = u64::from(n).min(3) * 10;
            tally.sample(count(u64::from(n) * 10, lost));
        }
        assert_eq!(tally.recent(count(205, 31)), count(125, 1));
    }
}
