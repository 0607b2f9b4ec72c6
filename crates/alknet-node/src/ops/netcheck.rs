//! `node/netcheck`: what the network of this node lets through.

use super::NoInput;
use crate::{
    netcheck::{NetReport, Subject, check},
    node::Shared,
};
use alknet_call::quic::PathReport;
use alknet_core::{CallError, Context, Operation, Registration};
use iroh::endpoint::RelayStatus;
use n0_watcher::Watcher;
use serde_json::json;
use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError},
    time::Duration,
};

/// Looks at a time: each opens sockets and asks every relay.
const IN_FLIGHT_MAX: usize = 2;
/// Characters of a relay's reason that are shown.
const REASON_CHARS_MAX: usize = 200;

pub(super) fn operations(shared: &Arc<Shared>) -> Vec<Registration> {
    let shared = shared.clone();
    let family = json!({ "route": true, "address": "192.168.1.2", "udp": true });
    let found = json!({
        "udp": true, "ipv4": family, "ipv6": { "route": false, "udp": false },
        "nat": "endpoint-independent", "public_addresses": ["203.0.113.7:4433"],
        "relays": [{
            "url": "https://relay.example/", "works": true, "latency_ms": 20.5, "via": "quic",
            "quic": { "answered": true, "latency_ms": 20.5 },
            "https": { "answered": true, "latency_ms": 22.1 }, "accepts": true,
        }],
        "port_mapping": null, "captive_portal": false, "reachable": true,
        "advice": ["the NAT here shows everybody the same address: direct connections are found with most others"],
    });
    vec![
        Operation::query("node/netcheck", "Checks what the network of this node lets through, and says what to do.")
            .description("Asks the relays that this node uses and, if port mapping is configured, the router; nobody else. It takes a few seconds.")
            .requires("node:read")
            .in_flight_max(IN_FLIGHT_MAX)
            .timeout(Duration::from_secs(30))
            .example(json!({}), found)
            .handler(move |cx: Context, _: NoInput| {
                let shared = shared.clone();
                async move { netcheck(&shared, &cx).await }
            }),
    ]
}

async fn netcheck(shared: &Shared, cx: &Context) -> Result<NetReport, CallError> {
    let network = shared
        .config
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .network
        .clone();
    let subject = Subject {
        // The node itself is connected with it.
        key: None,
        bind: network.bind,
        router: network.port_mapping,
    };
    let looked = check(&shared.known_relays, subject).await;
    let mut report = looked.map_err(|error| CallError::internal(cx.call_id(), &error))?;
    let direct = directly_connected(shared);
    for status in shared.endpoint().home_relay_status().get() {
        let url = shared.known_relays.address_of(status.url()).to_string();
        let (accepts, refusal) = accepted(&status);
        report.note_acceptance(&url, accepts, refusal);
    }
    report.note_direct(direct);
    Ok(report)
}

/// Peers that are reached without a relay, from another machine.
fn directly_connected(shared: &Shared) -> usize {
    let is_direct = |path: &PathReport| {
        let address = path.address.parse::<SocketAddr>();
        path.is_direct && address.is_ok_and(|at| !at.ip().to_canonical().is_loopback())
    };
    let links = shared.links();
    let connected = links.connected().into_iter();
    let reports = connected.filter_map(|peer| links.report(&peer));
    reports
        .filter(|link| link.paths.iter().any(is_direct))
        .count()
}

/// Whether the relay lets this node in, as far as it has said.
fn accepted(status: &RelayStatus) -> (Option<bool>, Option<String>) {
    if status.is_connected() {
        return (Some(true), None);
    }
    let reason = status.auth_denied_reason();
    let reason = reason.map(|reason| alknet_core::clean_foreign_text(reason, REASON_CHARS_MAX));
    (reason.is_some().then_some(false), reason)
}
