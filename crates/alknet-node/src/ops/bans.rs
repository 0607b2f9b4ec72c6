//! `bans/*`: who is shut out, and who is let in again.

use super::{NoInput, change_row};
use crate::{
    admission::{BanError, BanTarget},
    node::Shared,
};
use alknet_core::{CallError, Context, ErrorCode, Operation, Registration, clean_foreign_text};
use alknet_store::KeptBan;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{sync::Arc, time::Duration};

/// Characters of a reason.
const REASON_CHARS_MAX: usize = 256;
/// Longest ban that has an end: ten years. What shall not end states none.
const BAN_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Somebody who is shut out.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Ban {
    /// An address, a prefix, `ed25519:` and a key, or a peer's name.
    target: String,
    /// `address`, `key` or `peer`.
    kind: String,
    /// Why.
    reason: String,
    /// Who shut it out: a peer, or `node` itself.
    banned_by: String,
    /// Since when.
    created_at: String,
    /// When it ends; `null` if somebody must lift it.
    until: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct BanList {
    /// Those that are shut out now, by target.
    bans: Vec<Ban>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AddInput {
    /// An address (`192.0.2.7`), a prefix (`192.0.2.0/24`, `2001:db8::/64`), a
    /// node key (64 hexadecimal digits) or a peer.
    target: String,
    /// For how long, in milliseconds; until it is lifted if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    for_ms: Option<u64>,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Added {
    /// The ban.
    #[serde(flatten)]
    ban: Ban,
    /// Connections that were closed.
    closed: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RemoveInput {
    /// Whom to let in again, as it is listed.
    target: String,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Removed {
    /// Who is let in again.
    removed: String,
}

pub(super) fn operations(shared: &Arc<Shared>) -> Vec<Registration> {
    let (listed, added, removed) = (shared.clone(), shared.clone(), shared.clone());
    let example = json!({ "target": "192.0.2.7", "kind": "address", "reason": "guessing", "banned_by": "owner", "created_at": "2026-01-01T00:00:00.000Z", "until": "2026-01-01T01:00:00.000Z" });
    let mut reply = example.clone();
    reply["closed"] = json!(1);
    vec![
        Operation::query("bans/list", "Lists who is shut out.")
            .example(json!({}), json!({ "bans": [example] }))
            .handler(move |_cx: Context, _: NoInput| {
                let bans = listed.admission().conduct.bans.list();
                async move {
                    Ok(BanList {
                        bans: bans.iter().map(view).collect(),
                    })
                }
            }),
        Operation::mutation(
            "bans/add",
            "Shuts out an address, a node key or a peer, and closes its connections.",
        )
        .description("A ban of somebody who is shut out already replaces the one before. The ways of this node's own command line cannot be shut out.")
        .destructive()
        .idempotent()
        .example(
            json!({ "target": "192.0.2.7", "for_ms": 3_600_000, "reason": "guessing" }),
            reply,
        )
        .handler(move |cx: Context, input: AddInput| {
            let shared = added.clone();
            async move { add(&shared, &cx, input).await }
        }),
        Operation::mutation("bans/remove", "Lets somebody in again.")
            .example(json!({ "target": "192.0.2.7" }), json!({ "removed": "192.0.2.7" }))
            .handler(move |cx: Context, input: RemoveInput| {
                let shared = removed.clone();
                async move { remove(&shared, &cx, &input.target).await }
            }),
    ]
}

fn view(ban: &KeptBan) -> Ban {
    Ban {
        kind: BanTarget::parse(&ban.target)
            .map_or("unknown", |target| target.kind())
            .into(),
        target: ban.target.clone(),
        reason: ban.reason.clone(),
        banned_by: ban.banned_by.clone(),
        created_at: ban.created_at.to_string(),
        until: ban.until.map(|until| until.to_string()),
    }
}

fn parse(text: &str) -> Result<BanTarget, CallError> {
    let wanted = "an address, a prefix such as `192.0.2.0/24`, a key of 64 hexadecimal digits, or a peer's name";
    BanTarget::parse(text).ok_or_else(|| CallError::invalid_field("/target", wanted))
}

async fn add(shared: &Shared, cx: &Context, input: AddInput) -> Result<Added, CallError> {
    let target = parse(&input.target)?;
    check(shared, cx, &target)?;
    let reason = clean_foreign_text(input.reason.as_deref().unwrap_or(""), REASON_CHARS_MAX);
    let lasts = input.for_ms.map(Duration::from_millis);
    if lasts.is_some_and(|lasts| lasts.is_zero() || lasts > BAN_MAX) {
        let message = "more than nothing, at most ten years";
        return Err(CallError::invalid_field("/for_ms", message));
    }
    let now = shared.identities.now();
    let ban = KeptBan {
        target: target.to_string(),
        reason,
        banned_by: cx.principal().id().to_string(),
        created_at: now,
        until: lasts.map(|lasts| now.plus(lasts)),
    };
    let row = change_row(cx, &shared.identities, &ban.target);
    let shut_out = shared.admission().shut_out(ban.clone(), row).await;
    let closed = shut_out.map_err(|error| match error {
        BanError::Full(_) => CallError::new(ErrorCode::Conflict, error.to_string()),
        BanError::Store(error) => CallError::storage(cx.call_id(), &error),
    })?;
    Ok(Added {
        ban: view(&ban),
        closed: closed as u64,
    })
}

/// What must not be shut out by accident: whoever could lift the ban.
fn check(shared: &Shared, cx: &Context, target: &BanTarget) -> Result<(), CallError> {
    let conduct = &shared.admission().conduct;
    if let Some(why) = conduct.protects(target, &shared.node_id()) {
        let message = format!("`{target}` cannot be shut out: {why}");
        return Err(CallError::new(ErrorCode::Conflict, message));
    }
    let BanTarget::Peer(peer) = target else {
        return Ok(());
    };
    if cx.principal().id() == peer {
        let message = format!("`{peer}` cannot be shut out: it is who asks for it");
        return Err(CallError::new(ErrorCode::Conflict, message));
    }
    match shared.identities.peer(peer.as_str()) {
        Some(_) => Ok(()),
        None => Err(super::no_peer(&shared.identities, peer.as_str())),
    }
}

async fn remove(shared: &Shared, cx: &Context, text: &str) -> Result<Removed, CallError> {
    let target = parse(text)?;
    let row = change_row(cx, &shared.identities, &target.to_string());
    let lifted = shared.admission().let_in(&target, row).await;
    match lifted.map_err(|error| CallError::storage(cx.call_id(), &error))? {
        true => Ok(Removed {
            removed: target.to_string(),
        }),
        false => {
            let message = format!("`{target}` is not shut out");
            let details = json!({ "target": target.to_string() });
            Err(CallError::new(ErrorCode::NotFound, message).with_details(details))
        }
    }
}
