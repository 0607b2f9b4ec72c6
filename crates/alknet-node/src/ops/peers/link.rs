//! How a peer is linked, as `peers/list`, `peers/show`, `peers/dial` and
//! `peers/watch` tell it.

use crate::{node::Shared, relay::Relays};
use alknet_call::{
    links::{LinkReport, PathChange, PathEnd},
    quic::PathReport,
};
use alknet_core::{CallError, PeerId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::sync::broadcast::error::RecvError;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct LinkView {
    /// `connected`, `connecting`, `waiting` or `idle`.
    pub(super) state: String,
    /// `direct`, `relay` or `none`.
    path: String,
    /// The address or relay in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// The relay in use, with the pin of its key if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    relay: Option<String>,
    /// Round-trip time in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_ms: Option<f64>,
    /// Largest UDP payload of the path, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u16>,
    /// Share of the packets sent in about the last minute that were lost, 0
    /// to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    loss_recent: Option<f64>,
    /// Share of all packets sent since this node started that were lost, 0
    /// to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    loss: Option<f64>,
    /// Bytes sent since this node started, over all connections.
    bytes_sent: u64,
    /// Bytes received since this node started, over all connections.
    bytes_received: u64,
    /// Share of these bytes that went through a relay, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    relay_share: Option<f64>,
    /// Open connections.
    connections: usize,
    /// Open paths of these connections.
    paths: Vec<PathView>,
    /// How often calls went over to another path since this node started.
    path_changes: u64,
    /// The last such changes, oldest first, eight at most.
    changes: Vec<ChangeView>,
    /// Since when it is in this state.
    since: String,
    /// Operations that this node may call there.
    operations: usize,
    /// Why the last attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_error: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct PathView {
    /// `direct` or `relay`.
    path: String,
    /// A UDP address, or a relay's URL.
    address: String,
    /// What is sent takes this path.
    selected: bool,
    /// `calls` or `channels`: what the connection of the path is for.
    carries: String,
    /// Round-trip time in milliseconds.
    rtt_ms: f64,
    /// Largest UDP payload, in bytes.
    mtu: u16,
    /// Share of the packets sent over it that were lost, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    loss: Option<f64>,
    /// Bytes sent over it.
    bytes_sent: u64,
    /// Bytes received over it.
    bytes_received: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct ChangeView {
    /// When.
    at: String,
    /// The path before.
    from: EndView,
    /// The path since.
    to: EndView,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct EndView {
    /// `direct` or `relay`.
    path: String,
    /// A UDP address, or a relay's URL.
    address: String,
}

/// One item of `peers/watch`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct LinkItem {
    /// The peer.
    peer: String,
    /// `connected`, `connecting`, `waiting` or `idle`.
    state: String,
    /// `direct`, `relay` or `none`.
    path: String,
    /// The address or relay in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// The relay in use, with the pin of its key if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    relay: Option<String>,
    /// Round-trip time in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_ms: Option<f64>,
    /// How often calls went over to another path since this node started.
    path_changes: u64,
    /// Why the last attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn path_name(is_direct: bool) -> &'static str {
    if is_direct { "direct" } else { "relay" }
}

/// The part that says how calls travel.
struct Way {
    path: String,
    address: Option<String>,
    relay: Option<String>,
    rtt_ms: Option<f64>,
}

impl Way {
    fn of(path: Option<&PathReport>, relays: &Relays) -> Self {
        let relay = path.filter(|path| !path.is_direct);
        Self {
            path: path.map_or("none", |path| path_name(path.is_direct)).into(),
            relay: relay.map(|path| relay_name(&path.address, relays)),
            address: path.map(|path| path.address.clone()),
            rtt_ms: path.map(|path| ms(path.rtt)),
        }
    }
}

/// A relay's whole name, with the pin of its key.
fn relay_name(url: &str, relays: &Relays) -> String {
    match url.parse() {
        Ok(url) => relays.address_of(&url).to_string(),
        Err(_) => url.to_owned(),
    }
}

impl LinkView {
    fn new(report: LinkReport, operations: usize, relays: &Relays) -> Self {
        let way = Way::of(report.path.as_ref(), relays);
        Self {
            state: report.state.as_str().into(),
            path: way.path,
            address: way.address,
            relay: way.relay,
            rtt_ms: way.rtt_ms,
            mtu: report.path.as_ref().map(|path| path.mtu),
            loss_recent: report.recent.loss(),
            loss: report.traffic.packets.loss(),
            bytes_sent: report.traffic.bytes_sent,
            bytes_received: report.traffic.bytes_received,
            relay_share: report.traffic.relay_share(),
            connections: report.connections,
            paths: report.paths.iter().map(PathView::new).collect(),
            path_changes: report.path_changes,
            changes: report.changes.iter().map(ChangeView::new).collect(),
            since: report.since.to_string(),
            operations,
            last_error: report.last_error,
        }
    }
}

impl PathView {
    fn new(path: &PathReport) -> Self {
        Self {
            path: path_name(path.is_direct).into(),
            address: path.address.clone(),
            selected: path.is_selected,
            carries: if path.carries_channels {
                "channels"
            } else {
                "calls"
            }
            .into(),
            rtt_ms: ms(path.rtt),
            mtu: path.mtu,
            loss: path.traffic.packets.loss(),
            bytes_sent: path.traffic.bytes_sent,
            bytes_received: path.traffic.bytes_received,
        }
    }
}

impl ChangeView {
    fn new(change: &PathChange) -> Self {
        let end = |end: &PathEnd| EndView {
            path: path_name(end.is_direct).into(),
            address: end.address.clone(),
        };
        Self {
            at: change.at.to_string(),
            from: end(&change.from),
            to: end(&change.to),
        }
    }
}

impl LinkItem {
    fn new(peer: &PeerId, report: LinkReport, relays: &Relays) -> Self {
        let way = Way::of(report.path.as_ref(), relays);
        Self {
            peer: peer.to_string(),
            state: report.state.as_str().into(),
            path: way.path,
            address: way.address,
            relay: way.relay,
            rtt_ms: way.rtt_ms,
            path_changes: report.path_changes,
            last_error: report.last_error,
        }
    }
}

/// How a peer is linked, if it ever was.
pub(super) fn link_view(shared: &Shared, peer: &PeerId) -> Option<LinkView> {
    let report = shared.links().report(peer)?;
    let view = shared.door().registry().view();
    let operations = view.peer(peer.as_str()).count();
    Some(LinkView::new(report, operations, &shared.known_relays))
}

/// The present states, and then every change of a state or of a path.
pub(super) fn watch(
    shared: &Arc<Shared>,
) -> impl futures::Stream<Item = Result<LinkItem, CallError>> + Send + 'static + use<> {
    let events = shared.links().events();
    let first = present(shared);
    futures::stream::unfold(
        (shared.clone(), events, first),
        |(shared, mut events, mut waiting)| async move {
            loop {
                if let Some(item) = waiting.pop_front() {
                    return Some((Ok(item), (shared, events, waiting)));
                }
                match events.recv().await {
                    Ok(event) => {
                        let relays = &shared.known_relays;
                        waiting.push_back(LinkItem::new(&event.peer, event.report, relays));
                    }
                    // Fell behind: the present states stand for what was missed.
                    Err(RecvError::Lagged(_)) => waiting = present(&shared),
                    Err(RecvError::Closed) => return None,
                }
            }
        },
    )
}

fn present(shared: &Shared) -> VecDeque<LinkItem> {
    let peers = shared.identities.snapshot().peers;
    let linked = peers.iter().filter_map(|peer| {
        let report = shared.links().report(&peer.id)?;
        Some(LinkItem::new(&peer.id, report, &shared.known_relays))
    });
    linked.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alknet_call::links::{LinkState, Packets, Traffic};
    use alknet_core::storage::Timestamp;
    use serde_json::json;

    fn relayed() -> LinkReport {
        let traffic = Traffic {
            bytes_sent: 3000,
            bytes_received: 1000,
            bytes_relayed: 1000,
            packets: Packets { sent: 40, lost: 1 },
        };
        let path = PathReport {
            is_direct: false,
            address: "https://relay.example/".into(),
            is_selected: true,
            carries_channels: false,
            rtt: Duration::from_micros(1500),
            mtu: 1200,
            traffic,
        };
        let end = |is_direct, address: &str| PathEnd {
            is_direct,
            address: address.into(),
        };
        LinkReport {
            state: LinkState::Connected,
            since: Timestamp(0),
            path: Some(path.clone()),
            last_error: None,
            paths: vec![path],
            connections: 1,
            traffic,
            recent: Packets::default(),
            path_changes: 9,
            changes: vec![PathChange {
                at: Timestamp(1000),
                from: end(true, "203.0.113.7:4433"),
                to: end(false, "https://relay.example/"),
            }],
        }
    }

    #[test]
    fn a_relayed_link_names_its_relay_and_what_went_through_it() {
        let view = LinkView::new(relayed(), 3, &Relays::new(&[]));
        let shown = serde_json::to_value(view).unwrap_or_default();
        assert_eq!(
            shown,
            json!({
                "state": "connected", "path": "relay", "address": "https://relay.example/",
                "relay": "https://relay.example/", "rtt_ms": 1.5, "mtu": 1200, "loss": 0.025,
                "bytes_sent": 3000, "bytes_received": 1000, "relay_share": 0.25, "connections": 1,
                "paths": [{
                    "path": "relay", "address": "https://relay.example/", "selected": true,
                    "carries": "calls", "rtt_ms": 1.5, "mtu": 1200, "loss": 0.025,
                    "bytes_sent": 3000, "bytes_received": 1000,
                }],
                "path_changes": 9,
                "changes": [{
                    "at": "1970-01-01T00:00:01.000Z",
                    "from": { "path": "direct", "address": "203.0.113.7:4433" },
                    "to": { "path": "relay", "address": "https://relay.example/" },
                }],
                "since": "1970-01-01T00:00:00.000Z", "operations": 3,
            })
        );
    }

    #[test]
    fn a_link_that_is_down_has_no_path() {
        let mut report = relayed();
        report.path = None;
        report.paths.clear();
        report.state = LinkState::Waiting;
        report.last_error = Some("no answer".into());
        let item = LinkItem::new(
            &PeerId::parse("nas").expect("a literal slug"),
            report,
            &Relays::new(&[]),
        );
        assert_eq!(
            serde_json::to_value(item).unwrap_or_default(),
            json!({ "peer": "nas", "state": "waiting", "path": "none", "path_changes": 9, "last_error": "no answer" })
        );
    }
}
