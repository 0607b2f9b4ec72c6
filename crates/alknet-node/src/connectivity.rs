//! What a node does when its network changes: it tells its new addresses, and
//! dials peers that were out of reach, without waiting for the next attempt
//! that is due.

use crate::node::Shared;
use iroh::{Endpoint, RelayUrl, endpoint::RelayStatus};
use n0_watcher::Watcher;
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

/// A relay that comes back within this, as when it is restarted, was never
/// gone: what goes through it goes on.
const RETURNS_WITHIN: Duration = Duration::from_secs(1);
/// Least time between two searches for another relay.
const SEARCH_EVERY: Duration = Duration::from_secs(5);

/// Follows the endpoint until it is gone.
///
/// Addresses change when interfaces come and go, which the library notices by
/// itself, and when a relay sees this node at another public address. A relay
/// that is connected again says the same for a network whose addresses stayed,
/// such as a router that was restarted.
///
/// A relay that is lost is looked into at once: the library would stay with it
/// until its next regular look around, half a minute later, and nobody reaches
/// this node meanwhile (<https://github.com/n0-computer/iroh/issues/4319>).
pub(crate) async fn follow(shared: Arc<Shared>, endpoint: Endpoint) {
    let mut addresses = endpoint.watch_addr();
    let mut relays = endpoint.home_relay_status();
    let mut connected = connected(&relays.get());
    let mut searched: Option<Instant> = None;
    let mut leaving: Option<(RelayUrl, Instant)> = None;
    loop {
        let due = leaving.as_ref().map(|(_, due)| *due);
        tokio::select! {
            () = sleep_until(due) => {
                if let Some((lost, _)) = leaving.take() {
                    shared.links().leave_relay(lost.as_str());
                }
            }
            changed = addresses.updated() => {
                if changed.is_err() {
                    return;
                }
                shared.refresh_places();
                if let Err(cause) = shared.data.write_runtime(&shared.runtime()) {
                    tracing::warn!(%cause, "runtime.json was not written");
                }
                shared.links().network_changed();
            }
            changed = relays.updated() => {
                let Ok(status) = changed else { return };
                let now = self::connected(&status);
                if !now.is_subset(&connected) {
                    shared.links().network_changed();
                }
                leaving = leaving.filter(|(lost, _)| !now.contains(lost));
                let listed = status.iter().map(|relay| (relay.url(), relay.is_connected()));
                // With one relay only, waiting for it is all there is to do.
                if let Some(lost) = lost(&connected, listed)
                    && shared.known_relays.map().len() > 1
                {
                    leaving = Some((lost.clone(), Instant::now() + RETURNS_WITHIN));
                }
                let failed = status.iter().find(|relay| relay.last_error().is_some());
                let is_due = searched.is_none_or(|at| at.elapsed() > SEARCH_EVERY);
                if let Some(failed) = failed.filter(|_| is_due) {
                    searched = Some(Instant::now());
                    search(&shared, &endpoint, failed.url()).await;
                }
                connected = now;
            }
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Makes the library look around for its nearest relay now, if there is
/// another one than the one that failed: it does when its relays change, also
/// when one is replaced by itself.
async fn search(shared: &Shared, endpoint: &Endpoint, failed: &RelayUrl) {
    let map = shared.known_relays.map();
    if let Some(config) = map.get(failed)
        && map.len() > 1
    {
        tracing::info!(relay = %failed, "the relay is gone, looking for another one");
        endpoint.insert_relay(failed.clone(), config).await;
    }
}

/// The relay that has lost this node: one that was connected, is its home
/// still, and is not connected now. The library lists the home alone, so that
/// one that is no longer listed has only been left for a nearer one, and what
/// goes through it goes on.
fn lost<'a>(
    before: &BTreeSet<RelayUrl>,
    now: impl IntoIterator<Item = (&'a RelayUrl, bool)>,
) -> Option<&'a RelayUrl> {
    let mut gone = now
        .into_iter()
        .filter(|(url, is_connected)| !is_connected && before.contains(*url));
    gone.next().map(|(url, _)| url)
}

fn connected(status: &[RelayStatus]) -> BTreeSet<RelayUrl> {
    let connected = status.iter().filter(|relay| relay.is_connected());
    connected.map(|relay| relay.url().clone()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_relay_is_lost_when_it_is_home_and_gone_and_not_when_another_is_home() {
        let [one, two]: [RelayUrl; 2] =
            ["https://one.example/", "https://two.example/"].map(|url| url.parse().unwrap());
        let before = BTreeSet::from([one.clone()]);
        assert_eq!(lost(&before, [(&one, false)]), Some(&one));
        assert_eq!(lost(&before, [(&one, true)]), None);
        // The home moved: the one before is as well as it was.
        assert_eq!(lost(&before, [(&two, false)]), None);
        assert_eq!(lost(&before, [(&two, true)]), None);
        assert_eq!(lost(&before, []), None);
        // One that was never there is not lost.
        assert_eq!(lost(&BTreeSet::new(), [(&one, false)]), None);
    }
}
