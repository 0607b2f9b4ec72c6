//! `keys/*`: API keys of peers, and peers that have nothing else.

use super::{
    access_until, change_row, free_name, grant_texts, no_peer, parse_grants, shell_notes,
    store_error,
};
use crate::node::{OWNER, Shared};
use alknet_core::{
    ApiKey, ApiKeyProof, CallError, Context, ErrorCode, Grants, KeyId, Operation, PeerId,
    Registration, brief, nearest,
    storage::{ApiKeyRecord, IdentityChange, IdentitySnapshot, PeerRecord, Timestamp},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;

/// Longest name of a key, in bytes.
const NAME_BYTES_MAX: usize = 64;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CreateInput {
    /// What the key is for; without a peer, the name of the peer that is made
    /// for it.
    name: String,
    /// Whose key it is; a new peer that has nothing but this key if not given.
    #[serde(default)]
    peer: Option<String>,
    /// What it gives at most of what the peer may; all of it if neither this
    /// nor a role nor a scope is given. For a new peer, what it is given.
    #[serde(default)]
    grants: Option<Vec<String>>,
    /// A role, beside the grants.
    #[serde(default)]
    role: Option<String>,
    /// Scopes, beside the grants.
    #[serde(default)]
    scopes: Vec<String>,
    /// How long it is good for, in milliseconds; for ever if not given.
    #[serde(default)]
    expires_in_ms: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Created {
    /// The key itself: shown this once, and kept nowhere here.
    key: String,
    /// Names it in lists and in the audit log.
    id: String,
    /// What it is for.
    name: String,
    /// Whose it is.
    peer: String,
    /// What it gives at most; `null` for all that the peer may.
    grants: Option<Vec<String>>,
    /// What the peer was given itself.
    peer_grants: Vec<String>,
    /// When it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    /// What to know about it.
    notes: Vec<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct ListInput {
    /// Only the keys of this peer.
    peer: Option<String>,
}

/// A key as listed: never the secret.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct KeyView {
    /// Names it.
    id: String,
    /// What it is for.
    name: String,
    /// Whose it is.
    peer: String,
    /// What it gives at most; `null` for all that the peer may.
    grants: Option<Vec<String>>,
    /// `active`, `expired`, or `disabled` if its peer is kept out.
    state: String,
    /// When it was made.
    created_at: String,
    /// When it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    /// When a call was last made with it, to the minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_at: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct KeyList {
    /// The keys, by peer and name.
    keys: Vec<KeyView>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RevokeInput {
    /// Its id or its name.
    key: String,
    /// Whose it is, where several have one of that name.
    #[serde(default)]
    peer: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Revoked {
    /// The id of the key that is no more.
    revoked: String,
    /// What it was for.
    name: String,
    /// Whose it was.
    peer: String,
    /// What to know about it.
    notes: Vec<String>,
}

pub(super) fn operations(shared: &Arc<Shared>) -> Vec<Registration> {
    let (creating, listing, revoking) = (shared.clone(), shared.clone(), shared.clone());
    let view = json!({
        "id": "aebagbaf", "name": "agent", "peer": "agent", "grants": null, "state": "active",
        "created_at": "2026-01-01T00:00:00.000Z",
    });
    vec![
        Operation::mutation("keys/create", "Makes an API key, shown this once.")
            .secret_output()
            .example(
                json!({ "name": "agent", "role": "reader", "expires_in_ms": 2_592_000_000_u64 }),
                json!({
                    "key": "alk_…", "id": "aebagbaf", "name": "agent", "peer": "agent",
                    "grants": null, "peer_grants": ["reader"],
                    "expires_at": "2026-01-31T00:00:00.000Z", "notes": [],
                }),
            )
            .handler(move |cx: Context, input: CreateInput| {
                let shared = creating.clone();
                async move { create(&shared, &cx, input).await }
            }),
        Operation::query("keys/list", "Lists API keys, never their secrets.")
            .example(json!({}), json!({ "keys": [view] }))
            .handler(move |_cx: Context, input: ListInput| {
                let shared = listing.clone();
                async move { list(&shared, &input) }
            }),
        Operation::mutation(
            "keys/revoke",
            "Takes an API key back and ends its connections.",
        )
        .destructive()
        .example(
            json!({ "key": "agent" }),
            json!({ "revoked": "aebagbaf", "name": "agent", "peer": "agent", "notes": [] }),
        )
        .handler(move |cx: Context, input: RevokeInput| {
            let shared = revoking.clone();
            async move { revoke(&shared, &cx, &input).await }
        }),
    ]
}

async fn create(
    shared: &Arc<Shared>,
    cx: &Context,
    input: CreateInput,
) -> Result<Created, CallError> {
    let _one_at_a_time = shared.editing.lock().await;
    let identities = &shared.identities;
    let now = identities.now();
    let asked = asked_grants(shared, &input)?;
    let expires_at = access_until(now, "/expires_in_ms", input.expires_in_ms)?;
    if expires_at == Some(now) {
        let message = "a key is good for more than nothing";
        return Err(CallError::invalid_field("/expires_in_ms", message));
    }
    let (peer, grants, newcomer) = match &input.peer {
        Some(peer) => {
            check_name(&input.name)?;
            let peer = identities
                .peer(peer)
                .ok_or_else(|| no_peer(identities, peer))?;
            if peer.id.as_str() == OWNER {
                return Err(owner_has_no_keys());
            }
            (peer, asked, None)
        }
        None => {
            let id = PeerId::parse(&input.name)
                .map_err(|error| CallError::invalid_field("/name", error.to_string()))?;
            let mut peer = PeerRecord::new(free_name(identities, &id)?, now);
            peer.grants = asked.unwrap_or_default();
            (peer.clone(), None, Some(peer))
        }
    };
    let (key, proof) = fresh_key(&identities.snapshot());
    let record = ApiKeyRecord {
        id: *proof.id(),
        peer: peer.id.clone(),
        name: input.name.clone(),
        secret_hash: *proof.secret_hash(),
        grants: grants.clone(),
        created_at: now,
        expires_at,
        last_used_at: None,
    };
    let notes = notes(shared, &peer, grants.as_ref(), newcomer.is_some());
    let row = change_row(cx, identities, &format!("{} of {}", proof.id(), peer.id));
    let change = IdentityChange::AddKey {
        key: record,
        newcomer,
    };
    let applied = identities.apply(change, row).await;
    applied.map_err(|error| store_error(cx, identities, error))?;
    Ok(Created {
        key: key.expose().to_owned(),
        id: proof.id().to_string(),
        name: input.name,
        peer: peer.id.to_string(),
        grants: grants.as_ref().map(grant_texts),
        peer_grants: grant_texts(&peer.grants),
        expires_at: expires_at.map(|at| at.to_string()),
        notes,
    })
}

/// Everything that the input asks for; `None` if it asks for nothing.
fn asked_grants(shared: &Shared, input: &CreateInput) -> Result<Option<Grants>, CallError> {
    let mut asked = match &input.grants {
        Some(grants) => parse_grants(shared, grants, "/grants")?,
        None => Grants::default(),
    };
    let is_role = |text: &String| !text.contains([':', '/', '=', '*']);
    if let Some(role) = &input.role {
        if !is_role(role) {
            let role = brief(role);
            let message = format!("`{role}` is no role; scopes and other grants have their fields");
            return Err(CallError::invalid_field("/role", message));
        }
        for target in parse_grants(shared, std::slice::from_ref(role), "/role")?.iter() {
            asked.add(target.clone());
        }
    }
    for (at, scope) in input.scopes.iter().enumerate() {
        let scope = alknet_core::Scope::parse(scope).map_err(|error| {
            CallError::invalid_field(format!("/scopes/{at}"), error.to_string())
        })?;
        asked.add(alknet_core::GrantTarget::Scope(scope));
    }
    let is_asked = input.grants.is_some() || input.role.is_some() || !input.scopes.is_empty();
    Ok(is_asked.then_some(asked))
}

fn check_name(name: &str) -> Result<(), CallError> {
    let is_fine = !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.chars().any(char::is_control)
        && name.trim() == name;
    if is_fine {
        return Ok(());
    }
    let message =
        format!("1 to {NAME_BYTES_MAX} bytes without control characters or spaces around");
    Err(CallError::invalid_field("/name", message))
}

/// A key whose id nobody has. Of 2^40 ids the chance that one is taken is
/// small, and not none.
fn fresh_key(known: &IdentitySnapshot) -> (ApiKey, ApiKeyProof) {
    loop {
        let secret = zeroize::Zeroizing::new(rand::random::<[u8; 32]>());
        let key = ApiKey::of_random(rand::random(), &secret);
        let proof = ApiKeyProof::parse(key.expose()).expect("made by the same rules");
        if !known.keys.iter().any(|held| held.id == *proof.id()) {
            return (key, proof);
        }
    }
}

fn owner_has_no_keys() -> CallError {
    CallError::new(
        ErrorCode::Conflict,
        "`owner` may do everything here and has no keys: make one without a peer, which gets a \
         peer of its own, and grant that what it needs",
    )
}

fn notes(
    shared: &Shared,
    peer: &PeerRecord,
    key_grants: Option<&Grants>,
    is_new: bool,
) -> Vec<String> {
    let id = peer.id.as_str();
    if is_new {
        let mut notes = shell_notes(shared, id, &peer.grants);
        if peer.grants.is_empty() {
            notes.push(format!(
                "`{id}` may do nothing yet: alknet grant {id} TARGET"
            ));
        }
        return notes;
    }
    let mut notes = Vec::new();
    if key_grants.is_none() {
        notes.push(format!("with this key, whoever has it is `{id}`"));
    }
    if !peer.enabled {
        notes.push(format!("`{id}` is disabled, and so is its key"));
    }
    notes
}

fn list(shared: &Shared, input: &ListInput) -> Result<KeyList, CallError> {
    let identities = &shared.identities;
    let snapshot = identities.snapshot();
    if let Some(peer) = &input.peer
        && !snapshot.peers.iter().any(|held| held.id.as_str() == peer)
    {
        return Err(no_peer(identities, peer));
    }
    let now = identities.now();
    let wanted = |key: &&ApiKeyRecord| {
        let of = input.peer.as_ref();
        of.is_none_or(|peer| key.peer.as_str() == peer)
    };
    let keys = snapshot.keys.iter().filter(wanted);
    let mut keys: Vec<KeyView> = keys.map(|key| view(&snapshot, key, now)).collect();
    keys.sort_by(|a, b| (&a.peer, &a.name).cmp(&(&b.peer, &b.name)));
    Ok(KeyList { keys })
}

fn view(snapshot: &IdentitySnapshot, key: &ApiKeyRecord, now: Timestamp) -> KeyView {
    let mut peers = snapshot.peers.iter();
    let peer = peers.find(|peer| peer.id == key.peer);
    let ended = |at: Option<Timestamp>| at.is_some_and(|at| at <= now);
    let state = match peer {
        Some(peer) if !peer.enabled => "disabled",
        Some(peer) if ended(peer.expires_at) || ended(key.expires_at) => "expired",
        _ => "active",
    };
    KeyView {
        id: key.id.to_string(),
        name: key.name.clone(),
        peer: key.peer.to_string(),
        grants: key.grants.as_ref().map(grant_texts),
        state: state.to_owned(),
        created_at: key.created_at.to_string(),
        expires_at: key.expires_at.map(|at| at.to_string()),
        last_used_at: key.last_used_at.map(|at| at.to_string()),
    }
}

async fn revoke(
    shared: &Arc<Shared>,
    cx: &Context,
    input: &RevokeInput,
) -> Result<Revoked, CallError> {
    let _one_at_a_time = shared.editing.lock().await;
    let identities = &shared.identities;
    let snapshot = identities.snapshot();
    let key = find(&snapshot, input)?;
    let row = change_row(cx, identities, &format!("{} of {}", key.id, key.peer));
    let applied = identities.apply(IdentityChange::RemoveKey(key.id), row);
    applied
        .await
        .map_err(|error| store_error(cx, identities, error))?;
    Ok(Revoked {
        revoked: key.id.to_string(),
        name: key.name.clone(),
        peer: key.peer.to_string(),
        notes: left_behind(&identities.snapshot(), &key.peer),
    })
}

/// The key of that id, else the one of that name.
fn find<'a>(
    snapshot: &'a IdentitySnapshot,
    input: &RevokeInput,
) -> Result<&'a ApiKeyRecord, CallError> {
    let of_peer = |key: &&ApiKeyRecord| {
        let of = input.peer.as_ref();
        of.is_none_or(|peer| key.peer.as_str() == peer)
    };
    let keys = || snapshot.keys.iter().filter(of_peer);
    let by_id = KeyId::parse(&input.key).ok();
    if let Some(key) = by_id.and_then(|id| keys().find(|key| key.id == id)) {
        return Ok(key);
    }
    let named: Vec<&ApiKeyRecord> = keys().filter(|key| key.name == input.key).collect();
    match named.as_slice() {
        [key] => Ok(key),
        [] => {
            let names = keys().map(|key| key.name.as_str());
            let near = nearest(&input.key, names);
            // Whoever gave the key itself does not find it in an error.
            let wanted = brief(&input.key);
            let message = format!("no API key `{wanted}`");
            Err(CallError::new(ErrorCode::NotFound, message)
                .with_details(json!({ "key": wanted, "suggestions": near })))
        }
        several => {
            let ids: Vec<String> = several
                .iter()
                .map(|key| format!("{} of {}", key.id, key.peer))
                .collect();
            let message = format!("several keys are named `{}`: {}", input.key, ids.join(", "));
            Err(CallError::new(ErrorCode::Conflict, message).with_details(json!({ "keys": ids })))
        }
    }
}

/// A peer that was nothing but its key is one that nobody can be any more.
fn left_behind(snapshot: &IdentitySnapshot, peer: &PeerId) -> Vec<String> {
    let mut peers = snapshot.peers.iter();
    let Some(held) = peers.find(|held| held.id == *peer) else {
        return Vec::new();
    };
    let has_way_in = !held.node_keys.is_empty()
        || !held.ssh_keys.is_empty()
        || !held.ssh_authorities.is_empty()
        || snapshot.keys.iter().any(|key| key.peer == *peer);
    match has_way_in {
        true => Vec::new(),
        false => vec![format!(
            "`{peer}` has no key left and keeps its grants; to remove it: alknet peers remove {peer}"
        )],
    }
}
