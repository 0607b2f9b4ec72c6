//! `peers/join`: redeeming a ticket, and keeping whom it leads to.

use super::{
    super::{free_name, grant_texts, parse_grants, shell_notes},
    JoinInput, JoinOutput,
    edit::apply,
};
use crate::{
    join::{self, JoinRequest, Joined},
    node::Shared,
    ticket::{Ticket, TicketError},
};
use alknet_core::{
    CallError, Context, ErrorCode, PeerId,
    storage::{IdentityChange, NodeKey, PeerAddresses, PeerRecord, Timestamp, hex32},
};
use serde_json::json;
use std::sync::Arc;

pub(super) async fn join_peer(
    shared: &Arc<Shared>,
    cx: &Context,
    input: JoinInput,
) -> Result<JoinOutput, CallError> {
    let ticket = Ticket::parse(&input.ticket).map_err(ticket_error)?;
    let now = shared.identities.now();
    if ticket.has_long_expired(now) {
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
            format!(
                "the inviting node is a peer here already, as `{}`",
                known.id
            ),
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
        own_addresses: shared.expected_addresses(),
        gives: &grants,
        relays: &shared.known_relays,
    };
    let joined = join::redeem(shared.endpoint(), request).await?;
    // Of two joins at once, one is the first: it finds the name free, and no
    // peers, so that its network becomes this node's.
    let one_at_a_time = shared.editing.lock().await;
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
    record.addresses = joined_addresses(shared, &ticket, &joined.addresses);
    let mut relays = record.addresses.relays.clone();
    let had_peers = shared.has_peers();
    // First, since a join that was cut off here can be repeated, and one whose
    // peer is there cannot.
    let entered = enter_network(shared, &joined, had_peers).await;
    apply(shared, cx, IdentityChange::AddPeer(record), id.as_str()).await?;
    drop(one_at_a_time);
    let mut notes = shell_notes(shared, id.as_str(), &grants);
    notes.extend(entered);
    if input.use_relays {
        shared.adopt_relays(&relays).await;
        let chosen = shared.chosen_relays();
        let (used, left): (Vec<_>, Vec<_>) =
            relays.into_iter().partition(|relay| chosen.contains(relay));
        relays = used;
        notes.extend(left.iter().map(|relay| {
            format!("relay {relay} is not taken over: another one of the same host is used already")
        }));
    }
    shared.keep_link(&id);
    notes.extend(shared.anchors().warning());
    Ok(JoinOutput {
        notes,
        peer: id.to_string(),
        node_id: hex32::encode(&ticket.node_id),
        you_are: joined.you_are.to_string(),
        you_gave: grant_texts(&grants),
        they_gave: joined.gives,
        relays,
        own_relays: shared.chosen_relays(),
        expires_at: joined.expires_at.map(|at: Timestamp| at.to_string()),
    })
}

/// Becomes a member of the other side's network; what to know about it if
/// that failed.
async fn enter_network(shared: &Shared, joined: &Joined, had_peers: bool) -> Option<String> {
    let secret = joined.network()?;
    match shared.finder.adopt(secret, had_peers).await {
        Ok(true) => None,
        Ok(false) => Some("this node is a member of eight networks already: after a move, this peer finds it only at addresses that it knows".into()),
        // The peer is one all the same.
        Err(cause) => {
            tracing::warn!(%cause, "the network of a peer could not be stored");
            Some("the peer's network could not be stored here: after a move, this peer finds this node only at addresses that it knows; to try again, remove the peer here and there, and join with a new ticket".into())
        }
    }
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
fn joined_addresses(shared: &Shared, ticket: &Ticket, said: &PeerAddresses) -> PeerAddresses {
    let loopback = join::is_near(ticket);
    let relays = [ticket.relays.as_slice(), &said.relays].concat();
    let relays = shared.known_relays.learn(&relays, loopback);
    let mut addresses = PeerAddresses {
        direct: ticket.addresses.clone(),
        relays: relays.iter().map(ToString::to_string).collect(),
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
