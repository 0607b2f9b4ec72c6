//! `invites/*`: one-time rights to become a peer.

use super::{NoInput, change_row, free_name, grant_texts, parse_grants, shell_notes, store_error};
use crate::{
    node::Shared,
    ticket::{ADDRESSES_MAX, RELAYS_MAX, Ticket, invite_id, secret_hash},
};
use alknet_core::{
    CallError, Context, ErrorCode, IdentityProvider, Operation, PeerId, Registration, brief,
    storage::{IdentityChange, InviteRecord, Timestamp},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{net::IpAddr, sync::Arc, time::Duration};

/// How long an invite is open, unless said otherwise.
const EXPIRES_DEFAULT: Duration = Duration::from_secs(15 * 60);
/// Longest time an invite may be open.
const EXPIRES_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Open invites at a time.
const OPEN_MAX: usize = 256;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CreateInput {
    /// What the newcomer will be called here; its own name if not given.
    #[serde(default)]
    name: Option<String>,
    /// What the newcomer is given.
    #[serde(default)]
    grants: Vec<String>,
    /// How long the ticket is good, in milliseconds: 15 minutes if not given,
    /// at most 30 days.
    #[serde(default)]
    expires_ms: Option<u64>,
    /// How long the access lasts once joined, in milliseconds.
    #[serde(default)]
    access_for_ms: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Created {
    /// Names the invite in lists.
    id: String,
    /// The ticket: a secret until it is used.
    ticket: String,
    /// When it ends.
    expires_at: String,
    /// What the newcomer will be called here.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// What the newcomer is given.
    grants: Vec<String>,
    /// What to know about it.
    warnings: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Invite {
    /// Its id.
    id: String,
    /// What the newcomer will be called here.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// What the newcomer is given.
    grants: Vec<String>,
    /// `open`, `used`, `expired` or `revoked`.
    state: String,
    /// When it was made.
    created_at: String,
    /// When it ends.
    expires_at: String,
    /// Who redeemed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    used_by: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct InviteList {
    /// The invites, newest first.
    invites: Vec<Invite>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct IdInput {
    /// The invite's id.
    id: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
struct InviteState {
    /// The invite's id.
    id: String,
    /// `open`, `used`, `expired` or `revoked`.
    state: String,
    /// Who redeemed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
}

pub(super) fn operations(shared: &Arc<Shared>) -> Vec<Registration> {
    let (create_for, list_for, revoke_for, watch_for) = (
        shared.clone(),
        shared.clone(),
        shared.clone(),
        shared.clone(),
    );
    let at = "2026-01-01T00:15:00.000Z";
    vec![
        Operation::mutation("invites/create", "Makes a one-time ticket with which another node becomes a peer.")
            .secret_output()
            .example(json!({ "name": "laptop", "grants": ["editor"] }), json!({ "id": "0a1b2c3d4e5f", "ticket": "alkinvite1…", "expires_at": at, "name": "laptop", "grants": ["editor"], "warnings": [] }))
            .handler(move |cx: Context, input: CreateInput| {
                let shared = create_for.clone();
                async move { create(&shared, &cx, input).await }
            }),
        Operation::query("invites/list", "Lists invites and what became of them.")
            .example(json!({}), json!({ "invites": [{ "id": "0a1b2c3d4e5f", "grants": [], "state": "open", "created_at": at, "expires_at": at }] }))
            .handler(move |_cx: Context, _: NoInput| {
                let shared = list_for.clone();
                async move { Ok(list(&shared)) }
            }),
        Operation::mutation("invites/revoke", "Takes an invite back.")
            .idempotent()
            .example(json!({ "id": "0a1b2c3d4e5f" }), json!({ "id": "0a1b2c3d4e5f", "state": "revoked" }))
            .handler(move |cx: Context, input: IdInput| {
                let shared = revoke_for.clone();
                async move { revoke(&shared, &cx, &input.id).await }
            }),
        Operation::subscription("invites/watch", "Follows one invite until it is no longer open.")
            .requires("invites:list")
            .example(json!({ "id": "0a1b2c3d4e5f" }), json!({ "id": "0a1b2c3d4e5f", "state": "used", "peer": "laptop" }))
            .stream(move |_cx: Context, input: IdInput| {
                let shared = watch_for.clone();
                async move {
                    state(&shared, &input.id)?;
                    Ok(super::until_stopping(&shared, watch(shared.clone(), input.id)))
                }
            }),
    ]
}

async fn create(
    shared: &Arc<Shared>,
    cx: &Context,
    input: CreateInput,
) -> Result<Created, CallError> {
    let name = input
        .name
        .as_deref()
        .map(PeerId::parse)
        .transpose()
        .map_err(|error| CallError::invalid_field("/name", error.to_string()))?;
    if let Some(name) = &name {
        free_name(&shared.identities, name)?;
    }
    let grants = parse_grants(shared, &input.grants, "/grants")?;
    super::access_until(
        shared.identities.now(),
        "/access_for_ms",
        input.access_for_ms,
    )?;
    let lasts = input
        .expires_ms
        .map_or(EXPIRES_DEFAULT, Duration::from_millis);
    if lasts.is_zero() || lasts > EXPIRES_MAX {
        return Err(CallError::invalid_field(
            "/expires_ms",
            "a ticket is good for more than nothing and at most 30 days",
        ));
    }
    let now = shared.identities.now();
    if shared
        .identities
        .snapshot()
        .invites
        .iter()
        .filter(|invite| crate::join::is_open(invite, now))
        .count()
        >= OPEN_MAX
    {
        return Err(CallError::new(
            ErrorCode::Conflict,
            format!("{OPEN_MAX} invites are open, which is the limit"),
        ));
    }
    let places = shared.expected_addresses();
    let ticket = Ticket {
        node_id: shared.node_id(),
        addresses: places.direct.iter().copied().take(ADDRESSES_MAX).collect(),
        relays: places.relays.iter().take(RELAYS_MAX).cloned().collect(),
        secret: rand::random(),
        expires_at: now.plus(lasts),
    };
    let hash = secret_hash(&ticket.secret);
    let record = InviteRecord {
        id: invite_id(&hash),
        secret_hash: hash,
        name: name.clone(),
        grants: grants.clone(),
        created_at: now,
        expires_at: ticket.expires_at,
        access_for_ms: input.access_for_ms,
        used_by: None,
        used_key: None,
        revoked: false,
    };
    let id = record.id.clone();
    let row = change_row(cx, &shared.identities, &id);
    shared
        .identities
        .apply(IdentityChange::AddInvite(record), row)
        .await
        .map_err(|error| store_error(cx, &shared.identities, error))?;
    let mut warnings = reach_warning(&ticket);
    warnings.extend(shared.anchors().warning());
    warnings.extend(shell_notes(
        shared,
        name.as_ref().map_or("the newcomer", PeerId::as_str),
        &grants,
    ));
    Ok(Created {
        id,
        ticket: ticket.encode(),
        expires_at: ticket.expires_at.to_string(),
        name: name.map(|name| name.to_string()),
        grants: grant_texts(&grants),
        warnings,
    })
}

/// A ticket that leads nowhere outside is worth a word.
fn reach_warning(ticket: &Ticket) -> Vec<String> {
    let private = |ip: IpAddr| match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_loopback() || ip.is_unicast_link_local(),
    };
    if !ticket.relays.is_empty()
        || ticket
            .addresses
            .iter()
            .any(|address| !private(address.ip()))
    {
        return Vec::new();
    }
    let loopback = ticket
        .addresses
        .iter()
        .all(|address| address.ip().to_canonical().is_loopback());
    vec![match loopback {
        true => "this ticket names only loopback addresses: it works on this machine alone".into(),
        false => "this ticket names only private addresses and no relay: it works inside this network alone".into(),
    }]
}

fn state_of(invite: &InviteRecord, now: Timestamp) -> &'static str {
    match invite {
        invite if invite.used_by.is_some() => "used",
        invite if invite.revoked => "revoked",
        invite if invite.expires_at <= now => "expired",
        _ => "open",
    }
}

fn list(shared: &Shared) -> InviteList {
    let now = shared.identities.now();
    let mut invites = shared.identities.snapshot().invites;
    invites.sort_by_key(|invite| std::cmp::Reverse(invite.created_at));
    let show = |invite: InviteRecord| Invite {
        state: state_of(&invite, now).into(),
        name: invite.name.map(|name| name.to_string()),
        grants: grant_texts(&invite.grants),
        created_at: invite.created_at.to_string(),
        expires_at: invite.expires_at.to_string(),
        used_by: invite.used_by.map(|peer| peer.to_string()),
        id: invite.id,
    };
    InviteList {
        invites: invites.into_iter().map(show).collect(),
    }
}

fn state(shared: &Shared, id: &str) -> Result<InviteState, CallError> {
    let snapshot = shared.identities.snapshot();
    let invite = snapshot.invites.iter().find(|invite| invite.id == id);
    let unknown = || format!("no invite `{}`", brief(id));
    let invite = invite.ok_or_else(|| CallError::new(ErrorCode::NotFound, unknown()))?;
    Ok(InviteState {
        id: id.into(),
        state: state_of(invite, shared.identities.now()).into(),
        peer: invite.used_by.as_ref().map(ToString::to_string),
    })
}

async fn revoke(shared: &Arc<Shared>, cx: &Context, id: &str) -> Result<InviteState, CallError> {
    let now = state(shared, id)?;
    if now.state != "open" {
        return Ok(now);
    }
    let row = change_row(cx, &shared.identities, id);
    shared
        .identities
        .apply(IdentityChange::RevokeInvite(id.into()), row)
        .await
        .map_err(|error| store_error(cx, &shared.identities, error))?;
    state(shared, id)
}

fn watch(
    shared: Arc<Shared>,
    id: String,
) -> impl futures::Stream<Item = Result<InviteState, CallError>> + Send + 'static {
    let changes = shared.identities.changes();
    futures::stream::try_unfold(
        (shared, id, changes, None::<InviteState>),
        |(shared, id, mut changes, last)| async move {
            if last.as_ref().is_some_and(|last| last.state != "open") {
                return Ok(None);
            }
            loop {
                changes.mark_unchanged();
                let now = state(&shared, &id)?;
                if last.as_ref() != Some(&now) {
                    return Ok(Some((now.clone(), (shared, id, changes, Some(now)))));
                }
                tokio::select! {
                    _ = changes.changed() => {}
                    // An expiry changes nothing that is stored.
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                }
            }
        },
    )
}
