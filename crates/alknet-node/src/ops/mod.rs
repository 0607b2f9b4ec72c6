//! Built-in operations of a node.

mod audit;
mod backup;
mod bans;
mod credentials;
mod events;
mod groups;
mod invites;
mod keys;
mod netcheck;
mod node;
mod peers;
mod ping;
mod roles;
mod vault;

use crate::node::Shared;
use alknet_core::{
    AuditRow, CallError, Context, ErrorCode, GrantTarget, Grants, PeerId, Registration, brief,
    nearest,
    storage::{IdentityIndex, StoreError, Timestamp},
};
use futures::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{sync::Arc, time::Duration};

/// An object without fields.
#[derive(Clone, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoInput {}

/// Everything that every node has.
pub(crate) fn builtin(shared: &Arc<Shared>) -> Vec<Registration> {
    let mut operations = node::operations(shared);
    operations.extend(ping::operations(shared));
    operations.extend(netcheck::operations(shared));
    operations.extend(peers::operations(shared));
    operations.extend(invites::operations(shared));
    operations.extend(audit::operations(shared));
    operations.extend(events::operations(shared));
    operations.extend(roles::operations(shared));
    operations.extend(keys::operations(shared));
    operations.extend(groups::operations(shared));
    operations.extend(credentials::operations(shared));
    operations.extend(vault::operations(shared));
    operations.extend(bans::operations(shared));
    operations.push(backup::operation(shared));
    operations
}

/// The row that a change carries in its own transaction; the call itself has
/// another one.
fn change_row(cx: &Context, identities: &IdentityIndex, about: &str) -> AuditRow {
    let mut row = AuditRow::event(
        identities.now(),
        cx.principal().id().as_str(),
        cx.operation().as_str(),
    );
    row.parent_id = Some(cx.call_id().to_string());
    row.originator = cx.originator().map(ToString::to_string);
    row.surface = cx.surface().clone();
    row.key = cx.principal().key().map(ToString::to_string);
    row.transport = cx.principal().transport().map(ToString::to_string);
    row.resource = Some(about.to_owned());
    row
}

fn no_peer(identities: &IdentityIndex, wanted: &str) -> CallError {
    let snapshot = identities.snapshot();
    let near = nearest(wanted, snapshot.peers.iter().map(|peer| peer.id.as_str()));
    let wanted = brief(wanted);
    CallError::new(ErrorCode::NotFound, format!("no peer `{wanted}`"))
        .with_details(json!({ "peer": wanted, "suggestions": near }))
}

/// `name` if it is free; else a conflict that suggests one that is.
pub(crate) fn free_name(identities: &IdentityIndex, name: &PeerId) -> Result<PeerId, CallError> {
    let taken = |name: &str| RESERVED.contains(&name) || identities.peer(name).is_some();
    if !taken(name.as_str()) {
        return Ok(name.clone());
    }
    let stem: String = name.as_str().chars().take(PeerId::BYTES_MAX - 3).collect();
    let free = (2..100)
        .map(|n| format!("{}-{n}", stem.trim_end_matches('-')))
        .find(|name| !taken(name));
    let suggestion = free
        .as_deref()
        .map(|free| format!("; `{free}` is free"))
        .unwrap_or_default();
    Err(CallError::new(
        ErrorCode::Conflict,
        format!("the name `{name}` is taken{suggestion}"),
    )
    .with_details(json!({ "name": name, "suggestion": free })))
}

/// Longest access that is counted in milliseconds: a hundred years. What shall
/// not end states none.
const ACCESS_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// When an access of so many milliseconds ends.
fn access_until(
    now: Timestamp,
    pointer: &str,
    ms: Option<u64>,
) -> Result<Option<Timestamp>, CallError> {
    let Some(lasts) = ms.map(Duration::from_millis) else {
        return Ok(None);
    };
    if lasts > ACCESS_MAX {
        return Err(CallError::invalid_field(pointer, "at most 100 years"));
    }
    Ok(Some(now.plus(lasts)))
}

/// Ends a subscription that has no end of its own when the node stops.
fn until_stopping<S: Stream + Send + 'static>(
    shared: &Arc<Shared>,
    items: S,
) -> impl Stream<Item = S::Item> + Send + 'static + use<S> {
    let shared = shared.clone();
    items.take_until(async move { shared.door().draining().await })
}

/// Names with a meaning of their own.
const RESERVED: &[&str] = &["any", "host", "anonymous", "owner", "peer", "peers"];

/// Texts of the command line as grants; every one must be known.
fn parse_grants(shared: &Shared, texts: &[String], pointer: &str) -> Result<Grants, CallError> {
    let mut grants = Grants::default();
    for (at, text) in texts.iter().enumerate() {
        let field = format!("{pointer}/{at}");
        let target = GrantTarget::parse(text)
            .map_err(|error| CallError::invalid_field(&field, error.to_string()))?;
        match &target {
            GrantTarget::Role(role) if shared.identities.roles().role(role.as_str()).is_none() => {
                let roles = shared.identities.roles();
                let near = nearest(role.as_str(), roles.iter().map(|role| role.name.as_str()));
                let meant = near
                    .first()
                    .map(|name| format!("; did you mean `{name}`?"))
                    .unwrap_or_default();
                return Err(CallError::invalid_field(
                    &field,
                    format!("no role `{role}`{meant}"),
                ));
            }
            GrantTarget::Operation(name)
                if !shared
                    .door()
                    .registry()
                    .view()
                    .local()
                    .any(|entry| entry.spec().name == *name) =>
            {
                let view = shared.door().registry().view();
                let near = nearest(
                    name.as_str(),
                    view.local().map(|entry| entry.spec().name.as_str()),
                );
                let meant = near
                    .first()
                    .map(|name| format!("; did you mean `{name}`?"))
                    .unwrap_or_default();
                return Err(CallError::invalid_field(
                    &field,
                    format!("no operation `{name}`{meant}"),
                ));
            }
            _ => {}
        }
        grants.add(target);
    }
    Ok(grants)
}

/// Texts of the command line as grants; what they name need not exist.
fn parse_targets(texts: &[String]) -> Result<Grants, CallError> {
    let parse = |(at, text): (usize, &String)| {
        GrantTarget::parse(text)
            .map_err(|error| CallError::invalid_field(format!("/targets/{at}"), error.to_string()))
    };
    texts.iter().enumerate().map(parse).collect()
}

fn grant_texts(grants: &Grants) -> Vec<String> {
    grants.iter().map(ToString::to_string).collect()
}

/// Says plainly what a grant of a shell means.
fn shell_notes(shared: &Shared, peer: &str, grants: &Grants) -> Vec<String> {
    let roles = shared.identities.roles();
    let gives_shell = |target: &GrantTarget| match target {
        GrantTarget::Role(role) => roles
            .role(role.as_str())
            .is_some_and(|role| role.grants.iter().any(is_shell)),
        other => is_shell(other),
    };
    if grants.iter().any(gives_shell) {
        vec![format!(
            "`{peer}` may now run programs here as {}",
            shared.runs_as()
        )]
    } else {
        Vec::new()
    }
}

fn is_shell(target: &GrantTarget) -> bool {
    match target {
        GrantTarget::Scope(scope) => scope.as_str() == "*" || scope.as_str().starts_with("shell:"),
        GrantTarget::Operation(name) => name.area() == "shell",
        _ => false,
    }
}

fn store_error(cx: &Context, identities: &IdentityIndex, error: StoreError) -> CallError {
    match error {
        StoreError::NoPeer(peer) => no_peer(identities, &peer),
        StoreError::PeerExists(peer) => match free_name(identities, &peer) {
            Err(error) => error,
            Ok(_) => CallError::new(
                ErrorCode::Conflict,
                format!("there is a peer `{peer}` already"),
            ),
        },
        StoreError::CredentialTaken(peer) => CallError::new(
            ErrorCode::Conflict,
            format!("this key belongs to peer `{peer}`"),
        )
        .with_details(json!({ "peer": peer })),
        StoreError::NoGroup(group) => {
            CallError::new(ErrorCode::NotFound, format!("no group `{group}`"))
        }
        StoreError::NoKey(id) => CallError::new(ErrorCode::NotFound, format!("no API key `{id}`")),
        taken @ (StoreError::KeyExists { .. } | StoreError::TooManyKeys(_)) => {
            CallError::new(ErrorCode::Conflict, taken.to_string())
        }
        StoreError::NoInvite(id) => {
            CallError::new(ErrorCode::NotFound, format!("no invite `{}`", brief(&id)))
        }
        other => CallError::storage(cx.call_id(), &other),
    }
}
