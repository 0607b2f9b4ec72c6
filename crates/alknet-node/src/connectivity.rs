//! What a node does when its network changes: it tells its new addresses, and
//! dials peers that were out of reach, without waiting for the next attempt
//! that is due.

use crate::node::Shared;
use iroh::{Endpoint, endpoint::RelayStatus};
use n0_watcher::Watcher;
use std::{collections::BTreeSet, sync::Arc};

/// Follows the endpoint until it is gone.
///
/// Addresses change when interfaces come and go, which the library notices by
/// itself, and when a relay sees this node at another public address. A relay
/// that is connected again says the same for a network whose addresses stayed,
/// such as a router that was restarted.
pub(crate) async fn follow(shared: Arc<Shared>, endpoint: Endpoint) {
    let mut addresses = endpoint.watch_addr();
    let mut relays = endpoint.home_relay_status();
    let mut connected = connected(&relays.get());
    loop {
        tokio::select! {
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
                connected = now;
            }
        }
    }
}

fn connected(status: &[RelayStatus]) -> BTreeSet<String> {
    let connected = status.iter().filter(|relay| relay.is_connected());
    connected.map(|relay| relay.url().to_string()).collect()
}
