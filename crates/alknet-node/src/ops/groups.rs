//! `groups/*`: what all members of a group are given. Who is a member is said
//! of the peer, with `peers/update`.

use super::{
    NoInput, change_row, grant_texts, parse_grants, parse_targets, shell_notes, store_error,
};
use crate::{node::Shared, unasked::Asked};
use alknet_core::{
    CallError, Context, ErrorCode, Grants, GroupName, Operation, Registration, nearest,
    storage::{IdentityChange, IdentitySnapshot},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc};

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
struct Group {
    /// Its name.
    group: String,
    /// What its members are given.
    grants: Vec<String>,
    /// The peers in it.
    members: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct GroupList {
    /// The groups, by name.
    groups: Vec<Group>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GrantInput {
    /// The group.
    group: String,
    /// Roles, operations, scopes or resources.
    #[schemars(length(min = 1, max = 256))]
    targets: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Granted {
    /// The group.
    group: String,
    /// What its members are given now.
    grants: Vec<String>,
    /// The peers in it.
    members: Vec<String>,
    /// What this call changed.
    changed: Vec<String>,
    /// What to know about it.
    notes: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GroupInput {
    /// The group.
    group: String,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Removed {
    /// The group that is no more.
    removed: String,
    /// The peers that were in it.
    members: Vec<String>,
}

pub(super) fn operations(shared: &Arc<Shared>) -> Vec<Registration> {
    let granted = json!({ "group": "family", "grants": ["reader"], "members": ["laptop"], "changed": ["reader"], "notes": [] });
    let (listing, granting, revoking, removing) = (
        shared.clone(),
        shared.clone(),
        shared.clone(),
        shared.clone(),
    );
    vec![
        Operation::query("groups/list", "Lists groups, what they give and who is in them.")
            .example(
                json!({}),
                json!({ "groups": [{ "group": "family", "grants": ["reader"], "members": ["laptop"] }] }),
            )
            .handler(move |_cx: Context, _: NoInput| {
                let groups = groups(&listing.identities.snapshot());
                async move {
                    Ok(GroupList {
                        groups: groups.into_values().collect(),
                    })
                }
            }),
        Operation::mutation("groups/grant", "Gives a group roles, operations, scopes or resources.")
            .idempotent()
            .example(json!({ "group": "family", "targets": ["reader"] }), granted.clone())
            .handler(move |cx: Context, input: GrantInput| {
                let shared = granting.clone();
                async move { change(&shared, &cx, &input, true).await }
            }),
        Operation::mutation("groups/revoke", "Takes roles, operations, scopes or resources from a group.")
            .idempotent()
            .example(json!({ "group": "family", "targets": ["reader"] }), granted)
            .handler(move |cx: Context, input: GrantInput| {
                let shared = revoking.clone();
                async move { change(&shared, &cx, &input, false).await }
            }),
        Operation::mutation("groups/remove", "Removes a group: its members lose what it gave.")
            .destructive()
            .example(json!({ "group": "family" }), json!({ "removed": "family", "members": ["laptop"] }))
            .handler(move |cx: Context, input: GroupInput| {
                let shared = removing.clone();
                async move { remove(&shared, &cx, &input.group).await }
            }),
    ]
}

/// Groups that give something, and those that peers are in.
fn groups(snapshot: &IdentitySnapshot) -> BTreeMap<GroupName, Group> {
    let mut groups: BTreeMap<GroupName, Group> = BTreeMap::new();
    for (name, grants) in &snapshot.groups {
        groups.entry(name.clone()).or_default().grants = grant_texts(grants);
    }
    for peer in &snapshot.peers {
        for name in &peer.groups {
            let group = groups.entry(name.clone()).or_default();
            group.members.push(peer.id.to_string());
        }
    }
    for (name, group) in &mut groups {
        group.group = name.to_string();
    }
    groups
}

fn parse(text: &str) -> Result<GroupName, CallError> {
    GroupName::parse(text).map_err(|error| CallError::invalid_field("/group", error.to_string()))
}

fn no_group(known: &BTreeMap<GroupName, Group>, wanted: &GroupName) -> CallError {
    let near = nearest(wanted.as_str(), known.keys().map(GroupName::as_str));
    CallError::new(ErrorCode::NotFound, format!("no group `{wanted}`"))
        .with_details(json!({ "group": wanted, "suggestions": near }))
}

async fn change(
    shared: &Arc<Shared>,
    cx: &Context,
    input: &GrantInput,
    give: bool,
) -> Result<Granted, CallError> {
    let _one_at_a_time = shared.editing.lock().await;
    let name = parse(&input.group)?;
    let before = shared.identities.snapshot();
    let known = groups(&before);
    if !give && !known.contains_key(&name) {
        return Err(no_group(&known, &name));
    }
    // What is taken need not exist any more.
    let targets = match give {
        true => parse_grants(shared, &input.targets, "/targets")?,
        false => parse_targets(&input.targets)?,
    };
    let held = before.groups.iter().find(|(held, _)| *held == name);
    let mut grants = held.map(|(_, grants)| grants.clone()).unwrap_or_default();
    let mut changed = Vec::new();
    for target in targets.iter() {
        let is_changed = match give {
            true => grants.add(target.clone()),
            false => grants.remove(target),
        };
        changed.extend(is_changed.then(|| target.to_string()));
    }
    if !changed.is_empty() {
        let sign = if give { "+" } else { "-" };
        let about = format!("group {name}: {sign}{}", input.targets.join(" "));
        let change = IdentityChange::PutGroup {
            group: name.clone(),
            grants: grants.clone(),
        };
        apply(shared, cx, change, &about).await?;
    }
    let members = known.get(&name).map(|group| group.members.clone());
    let members = members.unwrap_or_default();
    let mut notes = match give {
        true => grant_notes(shared, &name, &targets),
        false => Vec::new(),
    };
    if give && members.is_empty() {
        notes.push(format!(
            "nobody is in group `{name}` yet: alknet peers update PEER --group {name}"
        ));
    }
    Ok(Granted {
        group: name.to_string(),
        grants: grant_texts(&grants),
        members,
        changed,
        notes,
    })
}

fn grant_notes(shared: &Shared, group: &GroupName, targets: &Grants) -> Vec<String> {
    let mut notes = shell_notes(shared, group.as_str(), targets);
    let asked = Asked::by(shared.door().registry());
    notes.extend(targets.iter().flat_map(|target| asked.doubts(target)));
    notes
}

async fn remove(shared: &Arc<Shared>, cx: &Context, text: &str) -> Result<Removed, CallError> {
    let _one_at_a_time = shared.editing.lock().await;
    let name = parse(text)?;
    let snapshot = shared.identities.snapshot();
    let known = groups(&snapshot);
    let group = known.get(&name).ok_or_else(|| no_group(&known, &name))?;
    if !snapshot.groups.iter().any(|(held, _)| *held == name) {
        // One that peers are in and that was never given anything.
        let change = IdentityChange::PutGroup {
            group: name.clone(),
            grants: Grants::default(),
        };
        apply(shared, cx, change, &format!("group {name}")).await?;
    }
    let change = IdentityChange::RemoveGroup(name.clone());
    apply(shared, cx, change, &format!("group {name}")).await?;
    Ok(Removed {
        removed: name.to_string(),
        members: group.members.clone(),
    })
}

async fn apply(
    shared: &Shared,
    cx: &Context,
    change: IdentityChange,
    about: &str,
) -> Result<(), CallError> {
    let row = change_row(cx, &shared.identities, about);
    let applied = shared.identities.apply(change, row).await;
    applied.map_err(|error| store_error(cx, &shared.identities, error))
}
