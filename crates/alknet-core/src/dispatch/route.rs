//! Where a call goes: to an operation of this node, or on to a peer.

use super::{Dispatcher, admit::Expect, record::Record};
use crate::{
    call::{Call, CallId, RouteStep, check_route, route_text},
    discovery::suggestions,
    error::{CallError, ErrorCode},
    gate::{may_go, no_way, unauthenticated},
    identity::Caller,
    name::{OperationName, PeerId},
    near::nearest,
    registry::{Entry, View},
    spec::Kind,
};
use serde_json::{Value, json};
use std::sync::{Arc, atomic::Ordering};

impl Dispatcher {
    pub(super) fn resolve(
        &self,
        view: &View,
        call: &Call,
        caller: &Caller,
        expect: Expect,
    ) -> Result<Arc<Entry>, CallError> {
        let name = &call.operation;
        if let Some(entry) = view.resolve(name, &call.route, call.session.as_deref()) {
            return Ok(entry);
        }
        if !caller.is_authenticated() {
            return Err(unauthenticated());
        }
        check_route(&call.route)
            .map_err(|error| CallError::invalid_field("", error.to_string()))?;
        let [RouteStep::Peer(peer), behind @ ..] = call.route.as_slice() else {
            let near = suggestions(self, view, caller, None, name.as_str());
            return Err(with_suggestions(CallError::not_found(name.as_str()), near));
        };
        let way = route_text(&call.route);
        // Whoever may not go there is told the same whether it exists or not.
        if !may_go(caller, &way, name) {
            return Err(no_way(caller, &way, name));
        }
        let peers = self.0.known_peers.as_ref().map(|known| known());
        let known = peers.as_ref().is_none_or(|known| known.contains(peer));
        // What this node knows of a peer is what it may call there itself.
        // Anything else the peer refuses, and says what is missing; of what
        // lies behind it this node knows nothing at all.
        if known && let Some(forwarder) = self.0.forwarder.get() {
            let kind = expect.kind();
            let handler = forwarder.handler(peer, name, kind);
            return Ok(Arc::new(Entry::unlisted(name, kind, peer, way, handler)));
        }
        if known {
            return Err(self.not_there(view, caller, peer, name));
        }
        // Of the others, only those that the caller may use.
        let others = peers.unwrap_or_default();
        let usable = others.iter().filter(|other| {
            let first = RouteStep::Peer((*other).clone());
            let way = route_text(&[&[first], behind].concat());
            may_go(caller, &way, name)
        });
        let near = nearest(peer.as_str(), usable.map(PeerId::as_str));
        let error = CallError::new(ErrorCode::NotFound, format!("no peer `{peer}`"));
        Err(with_suggestions(
            error.with_details(json!({ "peer": peer })),
            near,
        ))
    }

    /// What is told of a known peer by a door that cannot ask it.
    fn not_there(
        &self,
        view: &View,
        caller: &Caller,
        peer: &PeerId,
        name: &OperationName,
    ) -> CallError {
        if !view.has_peer(peer) {
            let message = format!("peer `{peer}` is not connected");
            let error = CallError::new(ErrorCode::Unavailable, message);
            return error.with_details(json!({ "peer": peer }));
        }
        let near = suggestions(self, view, caller, Some(peer), name.as_str());
        let message = format!("peer `{peer}` does not offer `{name}`");
        let error = CallError::new(ErrorCode::NotFound, message);
        let error = error.with_details(json!({ "operation": name, "peer": peer }));
        with_suggestions(error, near)
    }

    /// Peers that offer the operation and that the caller may use, each time
    /// another one first.
    fn any(&self, call: &Call) -> Result<Vec<(PeerId, Kind)>, CallError> {
        let caller = call
            .caller
            .refreshed(self.identities())
            .ok_or_else(unauthenticated)?;
        let view = self.0.registry.view();
        let mut found: Vec<_> = view
            .offering(&call.operation)
            .filter(|entry| self.may_see(&caller, entry))
            .filter_map(|entry| Some((entry.peer()?.clone(), entry.spec().kind)))
            .collect();
        if found.is_empty() {
            return Err(if caller.is_authenticated() {
                CallError::not_found(call.operation.as_str())
            } else {
                unauthenticated()
            });
        }
        let turn = self.0.any_turn.fetch_add(1, Ordering::Relaxed);
        let by = turn % found.len();
        found.rotate_left(by);
        Ok(found)
    }

    /// A call to any peer, as the calls that are made for it: to the one that
    /// is picked, and, if it only reads, to another should that one be lost.
    /// Each has its row in the audit log.
    pub(super) async fn attempts(&self, call: Call) -> Result<(Call, Option<Call>), CallError> {
        let peers = match self.any(&call) {
            Ok(peers) => peers,
            Err(error) => {
                Record::begin(self, &call).await?.end(Some(&error));
                return Err(error);
            }
        };
        let mut peers = peers.into_iter();
        let Some((first, kind)) = peers.next() else {
            return Err(CallError::not_found(call.operation.as_str()));
        };
        let second = peers.next().filter(|_| reads(kind)).map(|(peer, _)| Call {
            route: vec![RouteStep::Peer(peer)],
            id: CallId::new(),
            ..call.clone()
        });
        let first = Call {
            route: vec![RouteStep::Peer(first)],
            ..call
        };
        Ok((first, second))
    }

    /// Picks the peer of a call to any, for good.
    pub(super) fn settle_any(&self, call: &mut Call, record: &mut Record) -> Result<(), CallError> {
        if call.route == [RouteStep::Any]
            && let Some((peer, _)) = self.any(call)?.into_iter().next()
        {
            call.route = vec![RouteStep::Peer(peer)];
            record.route(&call.route);
        }
        Ok(())
    }
}

fn reads(kind: Kind) -> bool {
    matches!(kind, Kind::Query | Kind::Subscription)
}

/// Whether the peer was lost before it answered.
pub(super) fn was_lost(error: &CallError) -> bool {
    error.is(ErrorCode::Unavailable) || error.is(ErrorCode::Lost)
}

fn with_suggestions(error: CallError, near: Vec<String>) -> CallError {
    if near.is_empty() {
        return error;
    }
    let details = error.details.as_deref().cloned();
    let mut details = details.unwrap_or(Value::Object(serde_json::Map::new()));
    details["suggestions"] = json!(near);
    error.with_details(details)
}
