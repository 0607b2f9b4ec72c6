//! `peers/dial`: a link, now.

use super::{
    DialInput, find,
    link::{LinkView, link_view},
};
use crate::node::Shared;
use alknet_call::links::LinkState;
use alknet_core::{CallError, ErrorCode, PeerId};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::{sync::broadcast::error::RecvError, time::timeout};

/// How long is waited if the caller does not say.
const WAIT_DEFAULT: Duration = Duration::from_secs(10);

/// Dials a peer that is not linked, without waiting for the next attempt that
/// is due, and waits until it is.
pub(super) async fn dial(shared: &Arc<Shared>, input: DialInput) -> Result<LinkView, CallError> {
    let peer = find(shared, &input.peer)?.id;
    let wait = input.timeout_ms.map_or(WAIT_DEFAULT, Duration::from_millis);
    let mut events = shared.links().events();
    if !is_linked(shared, &peer) {
        shared.keep_link(&peer);
    }
    let linked = async {
        while !is_linked(shared, &peer) {
            // Missed events are no matter: the state is looked at again.
            if let Err(RecvError::Closed) = events.recv().await {
                return;
            }
        }
    };
    // Late or not, the state says it.
    let _ = timeout(wait, linked).await;
    match link_view(shared, &peer) {
        Some(view) if is_linked(shared, &peer) => Ok(view),
        seen => Err(unavailable(&peer, seen)),
    }
}

fn is_linked(shared: &Shared, peer: &PeerId) -> bool {
    let report = shared.links().report(peer);
    report.is_some_and(|report| report.state == LinkState::Connected)
}

fn unavailable(peer: &PeerId, seen: Option<LinkView>) -> CallError {
    let why = match &seen {
        // Nobody has tried: this node cannot.
        None => "it has no address that this node could dial".to_owned(),
        Some(link) => link
            .last_error
            .clone()
            .unwrap_or_else(|| "no answer yet".into()),
    };
    CallError::new(
        ErrorCode::Unavailable,
        format!("peer `{peer}` is not connected: {why}"),
    )
    .with_details(json!({ "peer": peer, "link": seen }))
}
