//! `peers/*`: who is known, what each was given, how each is linked.

mod dial;
mod edit;
mod explain;
mod join;
mod link;
mod ssh;

use self::{
    dial::dial,
    edit::{add, change_grants, remove, rotate, update},
    explain::{ExplainInput, explain, sample as explain_sample},
    join::join_peer,
    link::{LinkView, link_view, watch},
};
use super::{NoInput, grant_texts, no_peer, until_stopping};
use crate::node::Shared;
use alknet_core::{
    CallError, Context, ErrorSpec, Operation, Registration,
    storage::{PeerRecord, SshAuthority, SshKey, Timestamp, hex32},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{sync::Arc, time::Duration};

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
    /// Its public keys that are accepted, the current one first.
    node_keys: Vec<PeerKey>,
    /// Its SSH keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ssh_keys: Vec<SshKeyView>,
    /// SSH authorities whose certificates stand for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ssh_cas: Vec<SshCaView>,
    /// How many API keys it has.
    #[serde(default, skip_serializing_if = "is_zero")]
    api_keys: usize,
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
    /// Addresses that it told in its newest record, as far as they are used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    told: Vec<String>,
    /// Addresses at which it was reached, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    reached: Vec<String>,
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
struct SshKeyView {
    /// `SHA256:` and the hash of the key.
    fingerprint: String,
    /// The key, as OpenSSH writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
    /// What the file said beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct SshCaView {
    /// `SHA256:` and the hash of the authority's key.
    fingerprint: String,
    /// Which of its certificates.
    principal: String,
    /// The authority's key, as OpenSSH writes it.
    public_key: String,
    /// What the file said beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde asks
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// An SSH authority, and which of its certificates.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SshCaInput {
    /// The authority's public key: a line as in a `.pub` file.
    public_key: String,
    /// Principals of its certificates; the peer's name if none is given.
    #[serde(default)]
    #[schemars(length(max = 16))]
    principals: Vec<String>,
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
struct DialInput {
    /// The peer.
    peer: String,
    /// How long to wait for the link, in milliseconds; ten seconds if not
    /// given.
    #[serde(default)]
    timeout_ms: Option<u64>,
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
    /// Its SSH keys: lines as in a `.pub` file.
    #[serde(default)]
    #[schemars(length(max = 32))]
    ssh_keys: Vec<String>,
    /// SSH authorities whose certificates stand for it.
    #[serde(default)]
    #[schemars(length(max = 16))]
    ssh_cas: Vec<SshCaInput>,
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
    /// SSH keys that it has beside those known: lines as in a `.pub` file.
    #[serde(default)]
    #[schemars(length(max = 32))]
    ssh_keys: Vec<String>,
    /// SSH authorities beside those known.
    #[serde(default)]
    #[schemars(length(max = 16))]
    ssh_cas: Vec<SshCaInput>,
    /// Fingerprints of SSH keys and authorities that it no longer has.
    #[serde(default)]
    #[schemars(length(max = 64))]
    remove_ssh: Vec<String>,
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
    /// Uses the other side's relays as this node's own, until it is restarted:
    /// its configuration decides then.
    #[serde(default)]
    use_relays: bool,
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
    /// The other side's relays, as far as this node may use them.
    #[serde(default)]
    relays: Vec<String>,
    /// Relays that this node uses now.
    #[serde(default)]
    own_relays: Vec<String>,
    /// When that ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    /// What to know about it.
    notes: Vec<String>,
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
        Operation::subscription("peers/watch", "Follows how the peers are linked: every change of a state or of a path.")
            .example(json!({}), json!({ "peer": "laptop", "state": "connected", "path": "direct", "address": "192.168.1.7:4433", "rtt_ms": 0.4, "path_changes": 0 }))
            .stream(with!(|shared, _cx, _input: NoInput| Ok(until_stopping(&shared, watch(&shared))))),
        Operation::query("peers/dial", "Dials a peer now, and waits until it is linked.")
            .example(json!({ "peer": "laptop" }), json!({ "state": "connected", "path": "direct", "address": "192.168.1.7:4433", "rtt_ms": 0.4, "mtu": 1452, "bytes_sent": 5120, "bytes_received": 4096, "relay_share": 0.0, "connections": 1, "paths": [], "path_changes": 0, "changes": [], "since": "2026-01-01T00:00:00.000Z", "operations": 12 }))
            .handler(with!(|shared, _cx, input: DialInput| dial(&shared, input).await)),
        Operation::query("peers/explain", "Tells step by step why a peer may call an operation, or may not; nothing is called.")
            .example(json!({ "peer": "laptop", "operation": "fs/read", "input": { "file": "www/motd" } }), explain_sample())
            .handler(with!(|shared, _cx, input: ExplainInput| explain(&shared, input))),
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
            .example(json!({ "ticket": "alkinvite1…" }), json!({ "peer": "home", "node_id": "07".repeat(32), "you_are": "laptop", "you_gave": [], "they_gave": ["editor"], "relays": [], "own_relays": [], "notes": [] }))
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

/// When it was linked last, or one of its keys was used: whoever has the key is
/// the peer.
fn seen_at(shared: &Shared, peer: &PeerRecord) -> Option<Timestamp> {
    let snapshot = shared.identities.snapshot();
    let keys = snapshot.keys.iter().filter(|key| key.peer == peer.id);
    keys.map(|key| key.last_used_at)
        .chain([peer.last_seen_at])
        .flatten()
        .max()
}

fn view(shared: &Shared, peer: &PeerRecord) -> Peer {
    let link = link_view(shared, &peer.id);
    Peer {
        peer: peer.id.to_string(),
        display_name: peer.display_name.clone(),
        node_id: peer.node_key().map(hex32::encode),
        // A key whose time is over stays with its peer, and is none any more.
        node_keys: peer
            .node_keys
            .iter()
            .filter(|key| {
                key.until
                    .is_none_or(|until| until > shared.identities.now())
            })
            .map(|key| PeerKey {
                key: hex32::encode(&key.key),
                until: key.until.map(|at| at.to_string()),
            })
            .collect(),
        ssh_keys: peer.ssh_keys.iter().map(ssh_key_view).collect(),
        ssh_cas: peer.ssh_authorities.iter().map(ssh_ca_view).collect(),
        api_keys: shared.identities.keys_of(&peer.id),
        grants: grant_texts(&peer.grants),
        groups: peer.groups.iter().map(ToString::to_string).collect(),
        enabled: peer.enabled,
        expires_at: peer.expires_at.map(|at| at.to_string()),
        created_at: peer.created_at.to_string(),
        last_seen_at: seen_at(shared, peer).map(|at| at.to_string()),
        addresses: peer
            .addresses
            .direct
            .iter()
            .map(ToString::to_string)
            .collect(),
        relays: peer.addresses.relays.clone(),
        told: shared
            .finder
            .told_places(peer)
            .iter()
            .map(ToString::to_string)
            .collect(),
        reached: shared
            .finder
            .reached(peer)
            .iter()
            .map(ToString::to_string)
            .collect(),
        connected: link.as_ref().is_some_and(|link| link.state == "connected"),
        link,
    }
}

fn ssh_key_view(key: &SshKey) -> SshKeyView {
    SshKeyView {
        fingerprint: key.fingerprint.clone(),
        public_key: key.public_key.clone(),
        comment: key.comment.clone(),
    }
}

fn ssh_ca_view(held: &SshAuthority) -> SshCaView {
    SshCaView {
        fingerprint: held.fingerprint.clone(),
        principal: held.principal.clone(),
        public_key: held.public_key.clone(),
        comment: held.comment.clone(),
    }
}
