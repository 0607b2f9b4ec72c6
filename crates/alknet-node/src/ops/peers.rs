//! `peers/*`: who is known, what each was given, how each is linked.

use super::{
    NoInput, change_row, free_name, grant_texts, no_peer, parse_grants, shell_notes, store_error,
    until_stopping,
};
use crate::{
    config::RelaySetting,
    join::{self, JoinRequest},
    node::Shared,
    ticket::{ADDRESSES_MAX, RELAYS_MAX, Ticket, TicketError},
};
use alknet_core::{
    CallError, Context, ErrorCode, ErrorSpec, Grants, GroupName, Operation, PeerId, Registration,
    storage::{IdentityChange, NodeKey, PeerAddresses, PeerRecord, Timestamp, hex32},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// How long both keys of a rotated peer are accepted, unless said otherwise.
const OVERLAP_DEFAULT: Duration = Duration::from_secs(24 * 3600);

/// A peer as listed.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Peer {
    /// Its name here.
    peer: String,
    /// How people call it.
    display_name: String,
    /// Its current public key.
    #[serde(skip_serializing_if = "Option::is_none")]
    node_id: Option<String>,
    /// All its public keys.
    node_keys: Vec<PeerKey>,
    /// What it was given itself.
    grants: Vec<String>,
    /// Its groups.
    groups: Vec<String>,
    /// Whether it may do anything at all.
    enabled: bool,
    /// When its access ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    /// When it became a peer.
    created_at: String,
    /// When it was last connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen_at: Option<String>,
    /// UDP addresses.
    addresses: Vec<String>,
    /// Relay URLs.
    relays: Vec<String>,
    /// Whether calls go through now.
    connected: bool,
    /// How it is linked.
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<LinkView>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct PeerKey {
    /// 64 hexadecimal digits.
    key: String,
    /// Until when it is accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct LinkView {
    /// `connected`, `connecting`, `waiting` or `idle`.
    state: String,
    /// `direct`, `relay` or `none`.
    path: String,
    /// The address or relay in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// Round-trip time in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_ms: Option<f64>,
    /// Since when.
    since: String,
    /// Operations that this node may call there.
    operations: usize,
    /// Why the last attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct PeerList {
    /// The peers, by name.
    peers: Vec<Peer>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PeerInput {
    /// The peer.
    peer: String,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AddInput {
    /// Its name here.
    peer: String,
    /// Its public key: 64 hexadecimal digits.
    #[serde(default)]
    node_id: Option<String>,
    /// UDP addresses.
    #[serde(default)]
    addresses: Vec<String>,
    /// Relay URLs.
    #[serde(default)]
    relays: Vec<String>,
    /// What it is given.
    #[serde(default)]
    grants: Vec<String>,
    /// How long its access lasts, in milliseconds.
    #[serde(default)]
    access_for_ms: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct UpdateInput {
    /// The peer.
    peer: String,
    /// How people call it.
    #[serde(default)]
    display_name: Option<String>,
    /// Its groups, all of them.
    #[serde(default)]
    groups: Option<Vec<String>>,
    /// Whether it may do anything at all.
    #[serde(default)]
    enabled: Option<bool>,
    /// How long its access lasts from now, in milliseconds; 0 lifts the end.
    #[serde(default)]
    access_for_ms: Option<u64>,
    /// UDP addresses, all of them.
    #[serde(default)]
    addresses: Option<Vec<String>>,
    /// Relay URLs, all of them.
    #[serde(default)]
    relays: Option<Vec<String>>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RotateInput {
    /// The peer.
    peer: String,
    /// Its new public key: 64 hexadecimal digits.
    node_id: String,
    /// How long the old key is accepted too, in milliseconds; a day if not
    /// given.
    #[serde(default)]
    overlap_ms: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GrantInput {
    /// The peer.
    peer: String,
    /// Roles, operations, scopes or resources.
    #[schemars(length(min = 1, max = 256))]
    targets: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Granted {
    /// The peer.
    peer: String,
    /// What it holds now.
    grants: Vec<String>,
    /// What this call changed.
    changed: Vec<String>,
    /// What to know about it.
    notes: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Removed {
    /// The peer that is no more.
    removed: String,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct JoinInput {
    /// The ticket.
    ticket: String,
    /// What the other side will be called here; its own name if not given.
    #[serde(default)]
    name: Option<String>,
    /// What the other side is given here.
    #[serde(default)]
    grants: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct JoinOutput {
    /// The other side's name here.
    peer: String,
    /// Its public key.
    node_id: String,
    /// How it calls this node.
    you_are: String,
    /// What it may do here.
    you_gave: Vec<String>,
    /// What this node may do there.
    they_gave: Vec<String>,
    /// When that ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    /// What to know about it.
    notes: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct LinkItem {
    /// The peer.
    peer: String,
    /// `connected`, `connecting`, `waiting` or `idle`.
    state: String,
    /// `direct`, `relay` or `none`.
    path: String,
    /// Round-trip time in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_ms: Option<f64>,
}

pub(super) fn operations(shared: &Arc<Shared>) -> Vec<Registration> {
    macro_rules! with {
        (|$s:ident, $cx:ident, $input:ident: $I:ty| $body:expr) => {{
            let shared = shared.clone();
            move |$cx: Context, $input: $I| {
                let $s = shared.clone();
                async move { $body }
            }
        }};
    }
    let sample = json!({ "peer": "laptop", "display_name": "laptop", "node_keys": [], "grants": ["reader"], "groups": [], "enabled": true, "created_at": "2026-01-01T00:00:00.000Z", "addresses": [], "relays": [], "connected": false });
    vec![
        Operation::query("peers/list", "Lists the peers of this node.")
            .example(json!({}), json!({ "peers": [sample] }))
            .handler(with!(|shared, _cx, _input: NoInput| Ok(PeerList { peers: shared.identities.snapshot().peers.iter().map(|peer| view(&shared, peer)).collect() }))),
        Operation::query("peers/show", "Shows one peer.")
            .example(json!({ "peer": "laptop" }), sample.clone())
            .handler(with!(|shared, _cx, input: PeerInput| find(&shared, &input.peer).map(|peer| view(&shared, &peer)))),
        Operation::subscription("peers/watch", "Follows how the peers are linked.")
            .example(json!({}), json!({ "peer": "laptop", "state": "connected", "path": "direct", "rtt_ms": 0.4 }))
            .stream(with!(|shared, _cx, _input: NoInput| Ok(until_stopping(&shared, watch(&shared))))),
        Operation::mutation("peers/add", "Makes a key a peer.")
            .example(json!({ "peer": "laptop", "grants": ["reader"] }), sample.clone())
            .handler(with!(|shared, cx, input: AddInput| add(&shared, &cx, input).await)),
        Operation::mutation("peers/update", "Changes a peer.")
            .idempotent()
            .example(json!({ "peer": "laptop", "enabled": true }), sample.clone())
            .handler(with!(|shared, cx, input: UpdateInput| update(&shared, &cx, input).await)),
        Operation::mutation("peers/rotate", "Gives a peer a new key; the old one is accepted for a while.")
            .example(json!({ "peer": "laptop", "node_id": "07".repeat(32) }), sample)
            .handler(with!(|shared, cx, input: RotateInput| rotate(&shared, &cx, input).await)),
        Operation::mutation("peers/remove", "Removes a peer and ends its connections.")
            .destructive()
            .example(json!({ "peer": "laptop" }), json!({ "removed": "laptop" }))
            .handler(with!(|shared, cx, input: PeerInput| remove(&shared, &cx, &input.peer).await)),
        Operation::mutation("peers/grant", "Gives a peer roles, operations, scopes or resources.")
            .idempotent()
            .example(json!({ "peer": "laptop", "targets": ["reader"] }), json!({ "peer": "laptop", "grants": ["reader"], "changed": ["reader"], "notes": [] }))
            .handler(with!(|shared, cx, input: GrantInput| change_grants(&shared, &cx, input, true).await)),
        Operation::mutation("peers/revoke", "Takes roles, operations, scopes or resources from a peer.")
            .idempotent()
            .example(json!({ "peer": "laptop", "targets": ["reader"] }), json!({ "peer": "laptop", "grants": [], "changed": ["reader"], "notes": [] }))
            .handler(with!(|shared, cx, input: GrantInput| change_grants(&shared, &cx, input, false).await)),
        join_errors(Operation::mutation("peers/join", "Redeems an invite ticket of another node."))
            .timeout(Duration::from_secs(60))
            .example(json!({ "ticket": "alkinvite1…" }), json!({ "peer": "home", "node_id": "07".repeat(32), "you_are": "laptop", "you_gave": [], "they_gave": ["editor"], "notes": [] }))
            .handler(with!(|shared, cx, input: JoinInput| join_peer(&shared, &cx, input).await)),
    ]
}

fn join_errors(operation: alknet_core::OperationBuilder) -> alknet_core::OperationBuilder {
    [
        (
            "TICKET_INVALID",
            "The text is no ticket, is truncated or damaged.",
        ),
        (
            "TICKET_WRONG",
            "The inviting node does not know the ticket.",
        ),
        ("TICKET_USED", "The ticket was used by another key."),
        ("TICKET_EXPIRED", "The ticket is too old."),
        ("TICKET_REVOKED", "The invite was taken back."),
    ]
    .into_iter()
    .fold(operation, |operation, (code, description)| {
        operation.error(ErrorSpec::new(code, description))
    })
}

fn find(shared: &Shared, name: &str) -> Result<PeerRecord, CallError> {
    shared
        .identities
        .peer(name)
        .ok_or_else(|| no_peer(&shared.identities, name))
}

fn view(shared: &Shared, peer: &PeerRecord) -> Peer {
    let report = shared.links().report(&peer.id);
    let operations = shared
        .door()
        .registry()
        .view()
        .peer(peer.id.as_str())
        .count();
    let link = report.map(|report| LinkView {
        state: report.state.as_str().into(),
        path: path_text(report.path.as_ref()),
        address: report.path.as_ref().map(|path| path.address.clone()),
        rtt_ms: report
            .path
            .as_ref()
            .map(|path| path.rtt.as_secs_f64() * 1000.0),
        since: report.since.to_string(),
        operations,
        last_error: report.last_error,
    });
    Peer {
        peer: peer.id.to_string(),
        display_name: peer.display_name.clone(),
        node_id: peer.node_key().map(hex32::encode),
        node_keys: peer
            .node_keys
            .iter()
            .map(|key| PeerKey {
                key: hex32::encode(&key.key),
                until: key.until.map(|at| at.to_string()),
            })
            .collect(),
        grants: grant_texts(&peer.grants),
        groups: peer.groups.iter().map(ToString::to_string).collect(),
        enabled: peer.enabled,
        expires_at: peer.expires_at.map(|at| at.to_string()),
        created_at: peer.created_at.to_string(),
        last_seen_at: peer.last_seen_at.map(|at| at.to_string()),
        addresses: peer
            .addresses
            .direct
            .iter()
            .map(ToString::to_string)
            .collect(),
        relays: peer.addresses.relays.clone(),
        connected: link.as_ref().is_some_and(|link| link.state == "connected"),
        link,
    }
}

fn path_text(path: Option<&alknet_call::quic::PathReport>) -> String {
    match path {
        Some(path) if path.is_direct => "direct".into(),
        Some(_) => "relay".into(),
        None => "none".into(),
    }
}

fn watch(
    shared: &Arc<Shared>,
) -> impl futures::Stream<Item = Result<LinkItem, CallError>> + Send + 'static + use<> {
    let events = shared.links().events();
    let item = |peer: &PeerId, report: &alknet_call::links::LinkReport| LinkItem {
        peer: peer.to_string(),
        state: report.state.as_str().into(),
        path: path_text(report.path.as_ref()),
        rtt_ms: report
            .path
            .as_ref()
            .map(|path| path.rtt.as_secs_f64() * 1000.0),
    };
    let present = move |shared: &Shared| -> Vec<LinkItem> {
        let peers = shared.identities.snapshot().peers;
        peers
            .iter()
            .filter_map(|peer| {
                shared
                    .links()
                    .report(&peer.id)
                    .map(|report| item(&peer.id, &report))
            })
            .collect()
    };
    let first: std::collections::VecDeque<LinkItem> = present(shared).into();
    futures::stream::unfold(
        (shared.clone(), events, first),
        move |(shared, mut events, mut waiting)| async move {
            loop {
                if let Some(item) = waiting.pop_front() {
                    return Some((Ok(item), (shared, events, waiting)));
                }
                match events.recv().await {
                    Ok(event) => waiting.push_back(item(&event.peer, &event.report)),
                    // Fell behind: the present states stand for what was missed.
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {
                        waiting = present(&shared).into()
                    }
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return None,
                }
            }
        },
    )
}

fn parse_key(text: &str) -> Result<[u8; 32], CallError> {
    let wrong = || {
        CallError::invalid_field(
            "/node_id",
            "a node id is 64 hexadecimal digits that are an Ed25519 public key",
        )
    };
    let key = hex32::decode(text).ok_or_else(wrong)?;
    iroh::EndpointId::from_bytes(&key).map_err(|_| wrong())?;
    Ok(key)
}

/// A key that can be a peer's.
fn foreign_key(shared: &Shared, text: &str) -> Result<[u8; 32], CallError> {
    let key = parse_key(text)?;
    if shared.is_own_key(&key) {
        return Err(CallError::invalid_field(
            "/node_id",
            "this is the node's own key",
        ));
    }
    Ok(key)
}

fn parse_addresses(addresses: &[String], relays: &[String]) -> Result<PeerAddresses, CallError> {
    let mut parsed = PeerAddresses::default();
    for (field, found, most) in [
        ("/addresses", addresses.len(), ADDRESSES_MAX),
        ("/relays", relays.len(), RELAYS_MAX),
    ] {
        if found > most {
            return Err(CallError::invalid_field(field, format!("at most {most}")));
        }
    }
    for (at, text) in addresses.iter().enumerate() {
        let address: SocketAddr = text.parse().map_err(|_| {
            CallError::invalid_field(
                format!("/addresses/{at}"),
                format!("`{text}` is not ADDR:PORT"),
            )
        })?;
        parsed.direct.push(address);
    }
    for (at, text) in relays.iter().enumerate() {
        match RelaySetting::parse(text) {
            Ok(RelaySetting::Url(url)) => parsed.relays.push(url.to_string()),
            Ok(_) => {
                return Err(CallError::invalid_field(
                    format!("/relays/{at}"),
                    "a relay is given by its URL",
                ));
            }
            Err(message) => return Err(CallError::invalid_field(format!("/relays/{at}"), message)),
        }
    }
    Ok(parsed)
}

async fn add(shared: &Arc<Shared>, cx: &Context, input: AddInput) -> Result<Peer, CallError> {
    let id = PeerId::parse(&input.peer)
        .map_err(|error| CallError::invalid_field("/peer", error.to_string()))?;
    let id = free_name(&shared.identities, &id)?;
    let now = shared.identities.now();
    let mut record = PeerRecord::new(id.clone(), now);
    record.grants = parse_grants(shared, &input.grants, "/grants")?;
    record.addresses = parse_addresses(&input.addresses, &input.relays)?;
    record.expires_at = super::access_until(now, "/access_for_ms", input.access_for_ms)?;
    if let Some(key) = &input.node_id {
        let key = foreign_key(shared, key)?;
        record.node_keys = vec![NodeKey { key, until: None }];
    }
    apply(shared, cx, IdentityChange::AddPeer(record), id.as_str()).await?;
    shared.keep_link(&id);
    find(shared, id.as_str()).map(|peer| view(shared, &peer))
}

async fn apply(
    shared: &Shared,
    cx: &Context,
    change: IdentityChange,
    about: &str,
) -> Result<(), CallError> {
    let row = change_row(cx, &shared.identities, about);
    shared
        .identities
        .apply(change, row)
        .await
        .map_err(|error| store_error(cx, &shared.identities, error))
}

async fn update(shared: &Arc<Shared>, cx: &Context, input: UpdateInput) -> Result<Peer, CallError> {
    let _one_at_a_time = shared.editing.lock().await;
    let mut record = find(shared, &input.peer)?;
    let id = record.id.clone();
    if id.as_str() == crate::node::OWNER
        && (input.enabled == Some(false) || input.access_for_ms.is_some_and(|ms| ms > 0))
    {
        return Err(owner_stays());
    }
    if let Some(name) = input.display_name {
        if name.is_empty() || name.len() > 128 || name.chars().any(char::is_control) {
            return Err(CallError::invalid_field(
                "/display_name",
                "1 to 128 bytes without control characters",
            ));
        }
        record.display_name = name;
    }
    if let Some(groups) = input.groups {
        let groups: Result<_, _> = groups.iter().map(|group| GroupName::parse(group)).collect();
        record.groups =
            groups.map_err(|error| CallError::invalid_field("/groups", error.to_string()))?;
    }
    record.enabled = input.enabled.unwrap_or(record.enabled);
    match input.access_for_ms {
        Some(0) => record.expires_at = None,
        Some(ms) => {
            let now = shared.identities.now();
            record.expires_at = super::access_until(now, "/access_for_ms", Some(ms))?;
        }
        None => {}
    }
    if input.addresses.is_some() || input.relays.is_some() {
        let parsed = parse_addresses(
            input.addresses.as_deref().unwrap_or_default(),
            input.relays.as_deref().unwrap_or_default(),
        )?;
        if input.addresses.is_some() {
            record.addresses.direct = parsed.direct;
        }
        if input.relays.is_some() {
            record.addresses.relays = parsed.relays;
        }
    }
    apply(shared, cx, IdentityChange::UpdatePeer(record), id.as_str()).await?;
    shared.keep_link(&id);
    find(shared, id.as_str()).map(|peer| view(shared, &peer))
}

async fn rotate(shared: &Arc<Shared>, cx: &Context, input: RotateInput) -> Result<Peer, CallError> {
    let _one_at_a_time = shared.editing.lock().await;
    let mut record = find(shared, &input.peer)?;
    let id = record.id.clone();
    if id.as_str() == crate::node::OWNER {
        return Err(owner_stays());
    }
    let key = foreign_key(shared, &input.node_id)?;
    if record.node_key() == Some(&key) {
        return Err(CallError::new(
            ErrorCode::Conflict,
            format!("this is the key of `{id}` already"),
        ));
    }
    let now = shared.identities.now();
    let until = super::access_until(now, "/overlap_ms", input.overlap_ms)?
        .unwrap_or_else(|| now.plus(OVERLAP_DEFAULT));
    // One more besides the new one: an older overlap ends here.
    record.node_keys.retain(|held| held.until.is_none());
    for held in &mut record.node_keys {
        held.until = Some(until);
    }
    record.node_keys.insert(0, NodeKey { key, until: None });
    apply(shared, cx, IdentityChange::UpdatePeer(record), id.as_str()).await?;
    shared.keep_link(&id);
    find(shared, id.as_str()).map(|peer| view(shared, &peer))
}

async fn remove(shared: &Arc<Shared>, cx: &Context, name: &str) -> Result<Removed, CallError> {
    let _one_at_a_time = shared.editing.lock().await;
    let id = find(shared, name)?.id;
    if id.as_str() == crate::node::OWNER {
        return Err(owner_stays());
    }
    apply(
        shared,
        cx,
        IdentityChange::RemovePeer(id.clone()),
        id.as_str(),
    )
    .await?;
    shared.links().forget(&id);
    if let Err(cause) = shared.imports.remove_catalogue(id.as_str()).await {
        tracing::warn!(peer = %id, %cause, "the kept catalogue of a removed peer stays behind");
    }
    Ok(Removed {
        removed: id.to_string(),
    })
}

fn owner_stays() -> CallError {
    CallError::new(
        ErrorCode::Conflict,
        "`owner` is this node's own command line and stays as it is",
    )
}

async fn change_grants(
    shared: &Arc<Shared>,
    cx: &Context,
    input: GrantInput,
    give: bool,
) -> Result<Granted, CallError> {
    let _one_at_a_time = shared.editing.lock().await;
    let before = find(shared, &input.peer)?;
    let id = before.id.clone();
    if id.as_str() == crate::node::OWNER {
        return Err(owner_stays());
    }
    // What is taken need not exist any more.
    let targets = match give {
        true => parse_grants(shared, &input.targets, "/targets")?,
        false => parse_targets(&input.targets)?,
    };
    let held: Vec<String> = grant_texts(&before.grants);
    let changed: Vec<String> = grant_texts(&targets)
        .into_iter()
        .filter(|text| held.contains(text) != give)
        .collect();
    let (add, remove) = if give {
        (targets.clone(), Grants::default())
    } else {
        (Grants::default(), targets.clone())
    };
    let row_about = format!(
        "{id}: {}{}",
        if give { "+" } else { "-" },
        input.targets.join(" ")
    );
    apply(
        shared,
        cx,
        IdentityChange::ChangeGrants {
            peer: id.clone(),
            add,
            remove,
        },
        &row_about,
    )
    .await?;
    let after = find(shared, id.as_str())?;
    let mut notes = if give {
        shell_notes(shared, id.as_str(), &targets)
    } else {
        Vec::new()
    };
    if !give && changed.is_empty() {
        notes.push(format!(
            "`{id}` did not hold that itself; it holds: {}",
            if held.is_empty() {
                "nothing".into()
            } else {
                held.join(" ")
            }
        ));
    }
    Ok(Granted {
        peer: id.to_string(),
        grants: grant_texts(&after.grants),
        changed,
        notes,
    })
}

fn parse_targets(texts: &[String]) -> Result<Grants, CallError> {
    let parse = |(at, text): (usize, &String)| {
        alknet_core::GrantTarget::parse(text)
            .map_err(|error| CallError::invalid_field(format!("/targets/{at}"), error.to_string()))
    };
    texts.iter().enumerate().map(parse).collect()
}

async fn join_peer(
    shared: &Arc<Shared>,
    cx: &Context,
    input: JoinInput,
) -> Result<JoinOutput, CallError> {
    let ticket = Ticket::parse(&input.ticket).map_err(ticket_error)?;
    let now = shared.identities.now();
    if ticket.expires_at <= now {
        return Err(CallError::domain(
            "TICKET_EXPIRED",
            format!(
                "this ticket expired at {}; ask for a new one",
                ticket.expires_at
            ),
        ));
    }
    if shared.is_own_key(&ticket.node_id) {
        return Err(CallError::domain(
            "TICKET_INVALID",
            "this ticket is of this node itself; redeem it on the other machine",
        ));
    }
    if let Some(known) = shared
        .identities
        .snapshot()
        .peers
        .iter()
        .find(|peer| peer.node_keys.iter().any(|key| key.key == ticket.node_id))
    {
        return Err(CallError::new(
            ErrorCode::Conflict,
            format!("this node is a peer already, as `{}`", known.id),
        )
        .with_details(json!({ "peer": known.id })));
    }
    let grants = parse_grants(shared, &input.grants, "/grants")?;
    let wanted = input
        .name
        .as_deref()
        .map(PeerId::parse)
        .transpose()
        .map_err(|error| CallError::invalid_field("/name", error.to_string()))?;
    if let Some(name) = &wanted {
        free_name(&shared.identities, name)?;
    }
    let request = JoinRequest {
        ticket: &ticket,
        own_name: shared.name(),
        own_addresses: shared.own_addresses(),
        gives: &grants,
    };
    let joined = join::redeem(shared.endpoint(), request).await?;
    let id = match wanted {
        Some(name) => name,
        // The other side has us now: a taken name must not undo that.
        None => PeerId::from_text(&joined.name)
            .and_then(|name| {
                free_name(&shared.identities, &name)
                    .or_else(|taken| suggested(&taken))
                    .ok()
            })
            .unwrap_or_else(|| fallback_name(&ticket)),
    };
    let mut record = PeerRecord::new(id.clone(), now);
    record.grants = grants.clone();
    record.node_keys = vec![NodeKey {
        key: ticket.node_id,
        until: None,
    }];
    record.addresses = joined_addresses(&ticket, &joined.addresses);
    apply(shared, cx, IdentityChange::AddPeer(record), id.as_str()).await?;
    shared.keep_link(&id);
    Ok(JoinOutput {
        notes: shell_notes(shared, id.as_str(), &grants),
        peer: id.to_string(),
        node_id: hex32::encode(&ticket.node_id),
        you_are: joined.you_are.to_string(),
        you_gave: grant_texts(&grants),
        they_gave: joined.gives,
        expires_at: joined.expires_at.map(|at: Timestamp| at.to_string()),
    })
}

fn suggested(taken: &CallError) -> Result<PeerId, ()> {
    let name = taken
        .details
        .as_ref()
        .and_then(|details| details["suggestion"].as_str())
        .ok_or(())?;
    PeerId::parse(name).map_err(|_| ())
}

fn fallback_name(ticket: &Ticket) -> PeerId {
    PeerId::parse(&format!("node-{}", &hex32::encode(&ticket.node_id)[..8]))
        .expect("`node-` and hexadecimal digits are a slug")
}

/// The ticket's addresses, which its holder vouched for, and what the node
/// itself says, as far as that is safe.
fn joined_addresses(ticket: &Ticket, said: &PeerAddresses) -> PeerAddresses {
    let loopback = ticket
        .addresses
        .iter()
        .any(|address| address.ip().to_canonical().is_loopback());
    let mut addresses = PeerAddresses {
        direct: ticket.addresses.clone(),
        relays: ticket.relays.clone(),
    };
    for address in crate::dialer::vetted(&said.direct, loopback) {
        if !addresses.direct.contains(&address)
            && addresses.direct.len() < crate::ticket::ADDRESSES_MAX
        {
            addresses.direct.push(address);
        }
    }
    addresses
}

fn ticket_error(error: TicketError) -> CallError {
    CallError::domain("TICKET_INVALID", error.to_string())
}
