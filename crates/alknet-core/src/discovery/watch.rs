//! `services/watch`: tells when what a caller may call has changed.

use super::{caller_now, list::revision, visible};
use crate::{context::Context, error::CallError};
use futures::Stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A change of what the caller may call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(super) struct WatchItem {
    /// Names the local catalogue as this caller sees it; equal text, equal
    /// catalogue.
    revision: String,
    /// Operations in it.
    operations: usize,
    /// The same for what the caller may use of this node's peers.
    peers: String,
}

struct State {
    cx: Context,
    registry: tokio::sync::watch::Receiver<u64>,
    identities: tokio::sync::watch::Receiver<u64>,
    last: Option<WatchItem>,
}

pub(super) fn watch(
    cx: Context,
) -> impl Stream<Item = Result<WatchItem, CallError>> + Send + 'static {
    let state = State {
        registry: cx.door().registry().changes(),
        identities: cx.door().identities().changes(),
        cx,
        last: None,
    };
    futures::stream::try_unfold(state, |mut state| async move {
        loop {
            // What changes from here on is looked at in the next round.
            state.registry.mark_unchanged();
            state.identities.mark_unchanged();
            let now = seen(&state.cx)?;
            if state.last.as_ref() != Some(&now) {
                state.last = Some(now.clone());
                return Ok(Some((now, state)));
            }
            let open = tokio::select! {
                changed = state.registry.changed() => changed.is_ok(),
                changed = state.identities.changed() => changed.is_ok(),
                () = state.cx.door().draining() => false,
            };
            if !open {
                return Ok(None);
            }
        }
    })
}

fn seen(cx: &Context) -> Result<WatchItem, CallError> {
    let (door, caller) = (cx.door(), caller_now(cx)?);
    let view = door.registry().view();
    let (local, operations) = revision(visible(door, &view, &caller, None));
    let mut peers = blake3::Hasher::new();
    for peer in view.peers() {
        let (theirs, offered) = revision(visible(door, &view, &caller, Some(peer.as_str())));
        // A peer that the caller may not use is none of its business.
        if offered > 0 {
            peers.update(peer.as_str().as_bytes());
            peers.update(theirs.as_bytes());
        }
    }
    Ok(WatchItem {
        revision: local,
        operations,
        peers: peers.finalize().to_hex()[..32].to_owned(),
    })
}
