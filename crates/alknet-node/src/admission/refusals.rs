//! Why connections and what they present are refused: each counted, each kind
//! told once a minute.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// How often one kind is told.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// Kinds of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The address, the key or the peer is shut out.
    Banned,
    /// The source failed too often just now.
    Slowed,
    /// Too many handshakes, a second or under way.
    Handshakes,
    /// A key that nobody here has.
    UnknownKey,
    /// Too many connections of an address.
    Address,
    /// Too many connections of a peer.
    Peer,
    /// Too many connections of strangers.
    Strangers,
    /// Too many connections.
    Node,
    /// A protocol that nobody serves any more.
    Protocol,
    /// The node stops.
    Stopping,
    /// An API key that is none.
    Credential,
    /// An invite that cannot be redeemed.
    Join,
}

impl Refusal {
    pub(crate) const ALL: [Refusal; 12] = [
        Refusal::Banned,
        Refusal::Slowed,
        Refusal::Handshakes,
        Refusal::UnknownKey,
        Refusal::Address,
        Refusal::Peer,
        Refusal::Strangers,
        Refusal::Node,
        Refusal::Protocol,
        Refusal::Stopping,
        Refusal::Credential,
        Refusal::Join,
    ];

    /// In `node/metrics`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Refusal::Banned => "banned",
            Refusal::Slowed => "slowed_down",
            Refusal::Handshakes => "handshakes",
            Refusal::UnknownKey => "unknown_key",
            Refusal::Address => "connections_per_address",
            Refusal::Peer => "connections_per_identity",
            Refusal::Strangers => "connections_of_strangers",
            Refusal::Node => "connections_per_node",
            Refusal::Protocol => "no_protocol",
            Refusal::Stopping => "stopping",
            Refusal::Credential => "wrong_api_key",
            Refusal::Join => "join",
        }
    }

    /// What the other side, and the log, is told.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Refusal::Banned => "shut out for a while",
            Refusal::Slowed => "too many failed attempts; wait before the next one",
            Refusal::Handshakes => "too many handshakes",
            Refusal::UnknownKey => "not a peer of this node",
            Refusal::Address => "too many connections from this address",
            Refusal::Peer => "too many connections of this peer",
            Refusal::Strangers => "too many connections of strangers",
            Refusal::Node => "too many connections",
            Refusal::Protocol => "no such protocol",
            Refusal::Stopping => "stopping",
            Refusal::Credential => "the credential is not known",
            Refusal::Join => "an invite cannot be redeemed so",
        }
    }
}

/// Counters of all kinds since the start.
#[derive(Debug, Default)]
pub(crate) struct Refusals([Kind; Refusal::ALL.len()]);

#[derive(Debug, Default)]
struct Kind {
    total: AtomicU64,
    said: Said,
}

/// When something was told last, and how many there had been by then.
#[derive(Debug, Default)]
pub(crate) struct Said(Mutex<Option<(Instant, u64)>>);

impl Refusals {
    /// Counts one more.
    pub(crate) fn note(&self, refusal: Refusal) {
        let kind = &self.0[refusal as usize];
        let total = kind.total.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(count) = kind.said.due(total) {
            let reason = refusal.reason();
            tracing::info!(reason, count, total, "refused");
        }
    }

    pub(crate) fn of(&self, refusal: Refusal) -> u64 {
        self.0[refusal as usize].total.load(Ordering::Relaxed)
    }

    /// Connections that were refused, before or after their handshake; what
    /// was presented on one that was let in is not.
    pub(crate) fn connections(&self) -> u64 {
        let of_connections = |kind: &&Refusal| !matches!(kind, Refusal::Credential | Refusal::Join);
        let kinds = Refusal::ALL.iter().filter(of_connections);
        kinds.map(|kind| self.of(*kind)).sum()
    }

    /// All counters, by name.
    pub(crate) fn by_kind(&self) -> BTreeMap<String, u64> {
        let kinds = Refusal::ALL.iter();
        kinds
            .map(|kind| (kind.name().to_owned(), self.of(*kind)))
            .collect()
    }
}

impl Said {
    /// How many of `total` there were since the last line, if one is due: at
    /// once, then once a minute.
    pub(crate) fn due(&self, total: u64) -> Option<u64> {
        self.due_at(total, Instant::now())
    }

    fn due_at(&self, total: u64, now: Instant) -> Option<u64> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, before) = said.unwrap_or((now, 0));
        if said.is_some() && now.duration_since(at) < SAID_EVERY {
            return None;
        }
        *said = Some((now, total));
        Some(total - before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_once_a_minute_with_what_there_was_since() {
        let (said, start) = (Said::default(), Instant::now());
        let lines: Vec<_> = (1..=1300_u64)
            .filter_map(|n| said.due_at(n, start + Duration::from_millis(n * 100)))
            .collect();
        assert_eq!(lines, [1, 600, 600]);
    }

    #[test]
    fn kinds_are_counted_apart_and_in_their_places() {
        let refusals = Refusals::default();
        for (at, kind) in Refusal::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, at, "{kind:?}");
            (0..=at).for_each(|_| refusals.note(*kind));
        }
        for (at, kind) in (1_u64..).zip(Refusal::ALL) {
            assert_eq!(refusals.of(kind), at, "{kind:?}");
        }
        assert_eq!(refusals.by_kind().values().sum::<u64>(), 78);
        assert_eq!(refusals.connections(), 78 - 11 - 12);
    }
}
