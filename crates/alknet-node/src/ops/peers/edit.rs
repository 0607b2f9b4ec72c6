//! Changes of a peer: one at a time, each with its row in the audit log.

use super::{
    super::{
        access_until, change_row, free_name, grant_texts, parse_grants, parse_targets, shell_notes,
        store_error,
    },
    AddInput, GrantInput, Granted, Peer, Removed, RotateInput, UpdateInput, find, ssh, view,
};
use crate::{
    config::RelaySetting,
    node::Shared,
    ticket::{ADDRESSES_MAX, RELAYS_MAX},
    unasked::Asked,
};
use alknet_core::{
    CallError, Context, ErrorCode, Grants, GroupName, PeerId, brief,
    storage::{IdentityChange, NodeKey, PeerAddresses, PeerRecord, hex32},
};
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// How long both keys of a rotated peer are accepted, unless said otherwise.
const OVERLAP_DEFAULT: Duration = Duration::from_secs(24 * 3600);

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
                format!("`{}` is not ADDR:PORT", brief(text)),
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

pub(super) async fn add(
    shared: &Arc<Shared>,
    cx: &Context,
    input: AddInput,
) -> Result<Peer, CallError> {
    let id = PeerId::parse(&input.peer)
        .map_err(|error| CallError::invalid_field("/peer", error.to_string()))?;
    let id = free_name(&shared.identities, &id)?;
    let now = shared.identities.now();
    let mut record = PeerRecord::new(id.clone(), now);
    record.grants = parse_grants(shared, &input.grants, "/grants")?;
    record.addresses = parse_addresses(&input.addresses, &input.relays)?;
    record.expires_at = access_until(now, "/access_for_ms", input.access_for_ms)?;
    if let Some(key) = &input.node_id {
        let key = foreign_key(shared, key)?;
        record.node_keys = vec![NodeKey { key, until: None }];
    }
    ssh::add(&mut record, &input.ssh_keys, &input.ssh_cas)?;
    apply(shared, cx, IdentityChange::AddPeer(record), id.as_str()).await?;
    shared.keep_link(&id);
    find(shared, id.as_str()).map(|peer| view(shared, &peer))
}

pub(super) async fn apply(
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

pub(super) async fn update(
    shared: &Arc<Shared>,
    cx: &Context,
    input: UpdateInput,
) -> Result<Peer, CallError> {
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
            record.expires_at = access_until(now, "/access_for_ms", Some(ms))?;
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
    if id.as_str() == crate::node::OWNER && !(input.ssh_keys.is_empty() && input.ssh_cas.is_empty())
    {
        return Err(owner_stays());
    }
    ssh::remove(&mut record, &input.remove_ssh)?;
    ssh::add(&mut record, &input.ssh_keys, &input.ssh_cas)?;
    apply(shared, cx, IdentityChange::UpdatePeer(record), id.as_str()).await?;
    shared.keep_link(&id);
    find(shared, id.as_str()).map(|peer| view(shared, &peer))
}

pub(super) async fn rotate(
    shared: &Arc<Shared>,
    cx: &Context,
    input: RotateInput,
) -> Result<Peer, CallError> {
    let _one_at_a_time = shared.editing.lock().await;
    let mut record = find(shared, &input.peer)?;
    let id = record.id.clone();
    if id.as_str() == crate::node::OWNER {
        return Err(owner_stays());
    }
    let key = foreign_key(shared, &input.node_id)?;
    let now = shared.identities.now();
    let given = access_until(now, "/overlap_ms", input.overlap_ms)?;
    if record.node_key() == Some(&key) {
        // Rotated before: what can still change is when the old key ends.
        let older = |held: &&mut NodeKey| held.until.is_some_and(|until| until > now);
        let mut changed = false;
        if let Some(until) = given {
            for held in record.node_keys.iter_mut().filter(older) {
                held.until = Some(until);
                changed = true;
            }
        }
        if !changed {
            return Err(CallError::new(
                ErrorCode::Conflict,
                format!("this is the key of `{id}` already"),
            ));
        }
    } else {
        let until = given.unwrap_or_else(|| now.plus(OVERLAP_DEFAULT));
        // One more besides the new one: an older overlap ends here.
        record.node_keys.retain(|held| held.until.is_none());
        for held in &mut record.node_keys {
            held.until = Some(until);
        }
        record.node_keys.insert(0, NodeKey { key, until: None });
    }
    apply(shared, cx, IdentityChange::UpdatePeer(record), id.as_str()).await?;
    shared.keep_link(&id);
    find(shared, id.as_str()).map(|peer| view(shared, &peer))
}

pub(super) async fn remove(
    shared: &Arc<Shared>,
    cx: &Context,
    name: &str,
) -> Result<Removed, CallError> {
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

pub(super) async fn change_grants(
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
        let mut notes = shell_notes(shared, id.as_str(), &targets);
        let asked = Asked::by(shared.door().registry());
        notes.extend(targets.iter().flat_map(|target| asked.doubts(target)));
        notes
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
