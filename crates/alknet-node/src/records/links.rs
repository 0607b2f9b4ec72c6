//! Links that come up and go down, as events.

use crate::node::Shared;
use alknet_call::links::{LinkReport, LinkState};
use alknet_core::{
    PeerId,
    storage::{EventKind, NewEvent},
};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

/// Changes that are written in one transaction.
const BATCH: usize = 256;
/// Between tries to write what could not be written.
const RETRY: Duration = Duration::from_secs(1);

/// Writes an event whenever calls to a peer begin or cease to go through, for
/// as long as the node runs. A link that came and went faster than it could be
/// looked at leaves none.
pub(crate) async fn tell_of_links(shared: Arc<Shared>) {
    let mut changes = shared.links().events();
    let mut up = HashMap::new();
    loop {
        let mut told = Vec::new();
        match changes.recv().await {
            Ok(change) => note(&shared, &mut up, &change.peer, &change.report, &mut told),
            Err(RecvError::Lagged(_)) => present(&shared, &mut up, &mut told),
            Err(RecvError::Closed) => return,
        }
        while told.len() < BATCH {
            match changes.try_recv() {
                Ok(change) => note(&shared, &mut up, &change.peer, &change.report, &mut told),
                Err(TryRecvError::Lagged(_)) => present(&shared, &mut up, &mut told),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        write(&shared, told).await;
    }
}

fn note(
    shared: &Shared,
    up: &mut HashMap<PeerId, bool>,
    peer: &PeerId,
    report: &LinkReport,
    told: &mut Vec<NewEvent>,
) {
    let is_up = report.state == LinkState::Connected;
    // A peer that was never linked has not lost its link.
    if up.insert(peer.clone(), is_up).unwrap_or(false) == is_up {
        return;
    }
    let now = shared.identities.now();
    told.push(match (is_up, &report.path) {
        (true, Some(path)) => NewEvent::noticed(EventKind::LINK_UP, peer.as_str(), now)
            .with("path", if path.is_direct { "direct" } else { "relay" })
            .with("address", path.address.as_str()),
        (true, None) => NewEvent::noticed(EventKind::LINK_UP, peer.as_str(), now),
        (false, _) => NewEvent::noticed(EventKind::LINK_DOWN, peer.as_str(), now)
            .with("error", report.last_error.clone()),
    });
}

/// What was missed, by how things are now.
fn present(shared: &Shared, up: &mut HashMap<PeerId, bool>, told: &mut Vec<NewEvent>) {
    for peer in &shared.identities.snapshot().peers {
        if let Some(report) = shared.links().report(&peer.id) {
            note(shared, up, &peer.id, &report, told);
        }
    }
}

/// Tries until it is written; what changes meanwhile waits, or is looked up.
async fn write(shared: &Shared, told: Vec<NewEvent>) {
    if told.is_empty() {
        return;
    }
    while let Err(cause) = shared.events.append_events(told.clone(), Vec::new()).await {
        tracing::warn!(%cause, "events of links could not be written");
        tokio::time::sleep(RETRY).await;
    }
}
