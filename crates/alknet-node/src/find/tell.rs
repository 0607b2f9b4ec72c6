//! Keeps peers told: whoever is connected is brought up to date, and again
//! whenever there is something new.

use super::{
    ALPN, Finder,
    exchange::{self, Exchanged, OFFER_RECORDS_MAX, WANTS_MAX},
    lock,
};
use crate::node::Shared;
use alknet_call::links::{DialError, LinkState};
use alknet_core::{IdentityProvider, PeerId, storage::Timestamp};
use futures::FutureExt;
use n0_watcher::Watcher;
use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};
use tokio::{
    sync::broadcast::error::RecvError,
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// Exchanges that this node has open at once.
const EXCHANGES_MAX: usize = 8;
/// How soon news follow the news before, so that what belongs together goes
/// together.
const GATHERED: Duration = Duration::from_millis(200);
/// How soon a peer is told again: no sooner than it lets itself be told.
const TOLD_EVERY: Duration = Duration::from_secs(1);
/// How long the side with the larger key leaves a new link to the other one.
const OTHER_SIDE_FIRST: Duration = Duration::from_secs(1);
/// Waits after failures: doubled each time, up to the longest.
const RETRY_MIN: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// When a peer of an earlier release, which does not speak this, is asked
/// again while its link lasts.
const RETRY_OLD: Duration = Duration::from_secs(3600);
/// Exchanges in a row after which everything that can be asked for is offered:
/// whoever still wants more does not take it, and is told less often.
const UNFINISHED_MAX: u32 = (WANTS_MAX / OFFER_RECORDS_MAX) as u32;
/// How often old records are looked for, and the own one is renewed.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// What a peer has been told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// Everything up to here.
    pub(super) until: u64,
    /// Since when its link has been up, as far as that is known.
    linked: Option<Timestamp>,
    /// When it may be asked again.
    not_before: Instant,
    failures: u32,
    /// Exchanges in a row that did not fit all that was wanted.
    unfinished: u32,
    busy: bool,
}

impl Told {
    fn nothing(not_before: Instant) -> Self {
        Self {
            until: 0,
            linked: None,
            not_before,
            failures: 0,
            unfinished: 0,
            busy: false,
        }
    }
}

impl Finder {
    /// Notes that an exchange with a peer ended well; `until` is what there
    /// was to tell when it began.
    pub(super) fn told(&self, peer: &PeerId, until: u64, exchanged: Exchanged) {
        // What came from the peer itself is no news to it. If others brought
        // news meanwhile, the count is behind, and it is told again.
        let now = self.generation();
        let until = match now == until + exchanged.taken {
            true => now,
            false => until,
        };
        let mut told = lock(&self.told);
        let told = told
            .entry(peer.clone())
            .or_insert_with(|| Told::nothing(Instant::now()));
        told.failures = 0;
        if !exchanged.unfinished {
            told.until = told.until.max(until);
        }
    }

    /// A link is up. If it is a new one, what was told before may have been
    /// lost with the peer's store.
    pub(super) fn linked(&self, peer: &PeerId, since: Timestamp) {
        let key = |peer: &PeerId| Some(*self.identities.peer(peer.as_str())?.node_key()?);
        let waits = key(peer).is_some_and(|theirs| self.own_key() > theirs);
        let wait = if waits { OTHER_SIDE_FIRST } else { GATHERED };
        let mut told = lock(&self.told);
        let known = told.get(peer);
        if known.is_some_and(|told| told.linked == Some(since)) {
            return;
        }
        let busy = known.is_some_and(|told| told.busy);
        let fresh = Told {
            busy,
            linked: Some(since),
            ..Told::nothing(Instant::now() + wait)
        };
        told.insert(peer.clone(), fresh);
    }

    /// Whom to tell now, and when to look again.
    pub(super) fn due(&self, connected: &[PeerId]) -> (Vec<PeerId>, Instant) {
        let (now, generation) = (Instant::now(), self.generation());
        let mut next = now + SWEEP_EVERY;
        let mut due = Vec::new();
        let mut told = lock(&self.told);
        told.retain(|peer, told| told.busy || connected.contains(peer));
        let mut free = EXCHANGES_MAX.saturating_sub(told.values().filter(|told| told.busy).count());
        for peer in connected {
            let told = told
                .entry(peer.clone())
                .or_insert_with(|| Told::nothing(now + GATHERED));
            if told.busy || told.until >= generation {
                continue;
            }
            if told.not_before > now {
                next = next.min(told.not_before);
            } else if free > 0 {
                free -= 1;
                told.busy = true;
                due.push(peer.clone());
            }
        }
        (due, next)
    }

    /// Whether a peer wants more after it was offered everything.
    fn is_insatiable(&self, peer: &PeerId, exchanged: Exchanged) -> bool {
        let mut told = lock(&self.told);
        let Some(told) = told.get_mut(peer) else {
            return false;
        };
        told.unfinished = match exchanged.unfinished {
            true => told.unfinished.saturating_add(1),
            false => 0,
        };
        told.unfinished > UNFINISHED_MAX
    }

    fn exchanged(&self, peer: &PeerId, until: u64, outcome: Outcome) {
        let wait = match outcome {
            Outcome::Told(exchanged) => {
                self.told(peer, until, exchanged);
                match self.is_insatiable(peer, exchanged) {
                    true => RETRY_MAX,
                    false => TOLD_EVERY,
                }
            }
            Outcome::NotSpoken => RETRY_OLD,
            Outcome::Failed => {
                let told = lock(&self.told);
                let failures = told.get(peer).map_or(0, |told| told.failures);
                RETRY_MIN
                    .saturating_mul(1 << failures.min(6))
                    .min(RETRY_MAX)
            }
        };
        let mut told = lock(&self.told);
        let Some(told) = told.get_mut(peer) else {
            return;
        };
        told.busy = false;
        told.not_before = Instant::now() + wait;
        if matches!(outcome, Outcome::Failed) {
            told.failures += 1;
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Outcome {
    Told(Exchanged),
    /// The peer has no such protocol.
    NotSpoken,
    Failed,
}

async fn exchange_with(shared: &Shared, peer: &PeerId) -> Outcome {
    let dialled = shared.dialer().connect(peer, ALPN).await;
    let connection = match dialled {
        Ok((connection, _)) => connection,
        Err(DialError::NotServed { .. }) => return Outcome::NotSpoken,
        Err(cause) => {
            tracing::debug!(%peer, %cause, "a peer was not told where others are");
            return Outcome::Failed;
        }
    };
    match exchange::open(&shared.finder, &connection).await {
        Ok(exchanged) => Outcome::Told(exchanged),
        Err(cause) => {
            tracing::debug!(%peer, %cause, "a peer was not told where others are");
            Outcome::Failed
        }
    }
}

/// Tells the finder where this node is, whenever that changes; run it for as
/// long as the node runs.
pub(crate) async fn follow_moves(shared: Arc<Shared>) {
    let mut changes = shared.endpoint().watch_addr();
    loop {
        shared.refresh_places();
        if let Err(cause) = shared.finder.moved(shared.own_addresses()).await {
            tracing::warn!(%cause, "where this node is could not be stored, and is not told");
        }
        if changes.updated().await.is_err() {
            return;
        }
        // Addresses of one network come one after the other.
        tokio::time::sleep(GATHERED).await;
    }
}

/// Tells connected peers what is new, wakes links to peers of whom something
/// was learnt, and forgets what is old; run it for as long as the node runs.
pub(crate) async fn tell(shared: Arc<Shared>) {
    let finder = shared.finder.clone();
    let mut generation = finder.generation.subscribe();
    let mut news = finder.news.subscribe();
    let mut links = shared.links().events();
    let mut changes = finder.identities.changes();
    let mut keys = finder.peer_keys();
    let mut swept: Option<Instant> = None;
    let mut running = JoinSet::new();
    loop {
        if swept.is_none_or(|at| at.elapsed() >= SWEEP_EVERY) {
            swept = Some(Instant::now());
            if let Err(cause) = finder.sweep().await {
                tracing::warn!(%cause, "old address records could not be removed");
            }
        }
        let (due, next) = finder.due(&shared.links().connected());
        for peer in due {
            let (shared, until) = (shared.clone(), finder.generation());
            running.spawn(async move {
                // A panic is in the log; the next try is due all the same.
                let exchange = AssertUnwindSafe(exchange_with(&shared, &peer)).catch_unwind();
                let outcome = exchange.await.unwrap_or(Outcome::Failed);
                shared.finder.exchanged(&peer, until, outcome);
            });
        }
        tokio::select! {
            changed = generation.changed() => if changed.is_err() { return },
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                // Of a new peer, others may know already where it is.
                let now = finder.peer_keys();
                if now != keys {
                    keys = now;
                    // What is known of one that was removed goes at once.
                    swept = None;
                    finder.wants_changed();
                }
            }
            changed = news.changed() => {
                if changed.is_err() {
                    return;
                }
                for peer in finder.learnt() {
                    shared.keep_link(&peer);
                }
            }
            event = links.recv() => match event {
                Ok(event) if event.report.state == LinkState::Connected => {
                    finder.linked(&event.peer, event.report.since);
                }
                Ok(_) => {}
                // Links that came meanwhile are found connected, and untold.
                Err(RecvError::Lagged(_)) => lock(&finder.told).clear(),
                Err(RecvError::Closed) => return,
            },
            Some(_) = running.join_next() => {}
            () = sleep_until(next) => {}
        }
    }
}
