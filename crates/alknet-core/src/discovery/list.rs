//! `services/list`, `services/schema`, `services/list-peers`, and the names
//! that a caller may have meant.

use super::{ListInput, SchemaInput, caller_now, catalogue::describe, visible};
use crate::{
    call::{Output, RouteStep},
    context::Context,
    discovery::CatalogueEntry,
    dispatch::Dispatcher,
    error::{CallError, ErrorCode},
    identity::Caller,
    name::{OperationName, PeerId},
    near::edit_distance,
    registry::{Entry, View},
    resource::ResourceKind,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// Operations on one page of a listing.
const PAGE_DEFAULT: u32 = 200;
/// Most operations on one page.
const PAGE_MAX: u32 = 1000;
/// Operations looked at for names near to a misspelt one.
const SUGGESTIONS_FROM: usize = 5000;

/// Names what these entries are: equal text, equal catalogue.
pub(super) fn revision<'e>(entries: impl Iterator<Item = &'e Arc<Entry>>) -> (String, usize) {
    let mut hash = blake3::Hasher::new();
    let mut count = 0;
    for entry in entries {
        hash.update(entry.digest());
        count += 1;
    }
    (hash.finalize().to_hex()[..32].to_owned(), count)
}

pub(super) fn list(cx: &Context, input: &ListInput) -> Result<Value, CallError> {
    let (door, caller) = (cx.door(), caller_now(cx)?);
    let view = door.registry().view();
    let limit = input.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX) as usize;
    let seen: Vec<&Arc<Entry>> = visible(door, &view, &caller, input.peer.as_deref()).collect();
    let (revision, _) = revision(seen.iter().copied());
    let mut page: Vec<CatalogueEntry> = seen
        .into_iter()
        .filter(|entry| wanted(input, entry))
        .take(limit + 1)
        .map(|entry| describe(entry, input.schemas))
        .collect();
    let more = page.len() > limit;
    page.truncate(limit);
    let next = page
        .last()
        .filter(|_| more)
        .map(|last| last.name.to_string());
    let mut reply = json!({ "operations": page, "revision": revision });
    if let Some(next) = next {
        reply["next_cursor"] = json!(next);
    }
    Ok(reply)
}

fn wanted(input: &ListInput, entry: &Entry) -> bool {
    let (spec, name) = (entry.spec(), entry.spec().name.as_str());
    let (prefix, cursor) = (input.prefix.as_ref(), input.cursor.as_ref());
    input.kind.is_none_or(|kind| spec.kind == kind)
        && prefix.is_none_or(|prefix| name.starts_with(prefix))
        && cursor.is_none_or(|cursor| name > cursor.as_str())
}

pub(super) fn schema(cx: &Context, input: &SchemaInput) -> Result<Value, CallError> {
    let (door, caller) = (cx.door(), caller_now(cx)?);
    let view = door.registry().view();
    let peer = input.peer.as_deref().map(PeerId::parse).transpose();
    let found = match (OperationName::parse(&input.name), peer.clone()) {
        (Ok(name), Ok(peer)) => {
            let route: Vec<RouteStep> = peer.into_iter().map(RouteStep::Peer).collect();
            view.resolve(&name, &route, None)
        }
        _ => None,
    };
    match found.filter(|entry| door.may_see(&caller, entry)) {
        Some(entry) => Output::of(&describe(&entry, true))?.into_value(),
        None => {
            let near = match &peer {
                Ok(peer) => suggestions(door, &view, &caller, peer.as_ref(), &input.name),
                Err(_) => Vec::new(),
            };
            let details = json!({ "operation": input.name, "suggestions": near });
            Err(CallError::new(
                ErrorCode::NotFound,
                format!("no operation `{}`", input.name),
            )
            .with_details(details))
        }
    }
}

pub(super) fn list_peers(cx: &Context) -> Result<Value, CallError> {
    let (door, caller) = (cx.door(), caller_now(cx)?);
    let view = door.registry().view();
    let held = caller.identity();
    let mut peers = Vec::new();
    for peer in view.peers() {
        let names: Vec<&str> = visible(door, &view, &caller, Some(peer.as_str()))
            .map(|entry| entry.spec().name.as_str())
            .collect();
        // A peer that offers nothing is shown to those who may ask it.
        if !names.is_empty() || held.holds(ResourceKind::Peer, "services/list", peer.as_str()) {
            peers.push(json!({ "peer": peer, "operations": names }));
        }
    }
    Ok(json!({ "peers": peers }))
}

/// Names near to `wanted` among those the caller may see; at most three.
pub(crate) fn suggestions(
    door: &Dispatcher,
    view: &View,
    caller: &Caller,
    peer: Option<&PeerId>,
    wanted: &str,
) -> Vec<String> {
    let most = (wanted.len() / 3).clamp(1, 4);
    let last = |text: &str| text.rsplit('/').next().map(str::to_owned);
    let verb = last(wanted);
    let mut near: Vec<(usize, &str)> = visible(door, view, caller, peer.map(PeerId::as_str))
        .take(SUGGESTIONS_FROM)
        .map(|entry| entry.spec().name.as_str())
        .filter_map(|name| {
            // `list` for `fs/list`: the right verb in another area.
            let same_verb = last(name) == verb;
            // Lengths are cheap to compare, and rule most names out.
            let distance = if name.len().abs_diff(wanted.len()) <= most {
                edit_distance(name, wanted)
            } else {
                usize::MAX
            };
            (distance <= most || same_verb).then_some((distance.min(most), name))
        })
        .collect();
    near.sort_unstable();
    near.into_iter()
        .take(3)
        .map(|(_, name)| name.to_owned())
        .collect()
}
