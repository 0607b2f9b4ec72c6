//! `net/dial`: a connection from this node to an address.

use super::{
    Net,
    carry::{Breaking, Carried, carry},
    connect::{connect_first, in_turn},
    errors::{self, broken, not_connected, not_resolved, too_slow},
};
use alknet_core::{CallError, ChannelOpening, Context, Operation, Permit, Registration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{net::SocketAddr, time::Duration};
use tokio::time::{Instant, timeout_at};

/// The action that grants name.
const DIAL: &str = "dial";

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DialInput {
    /// Where to: `host:port`, `[ipv6]:port`.
    address: String,
    /// How long resolving and connecting may take, at most what the node
    /// allows itself.
    #[serde(default)]
    #[schemars(range(min = 1))]
    timeout_ms: Option<u64>,
    /// Resolve and ask whether the connection is allowed, and connect to
    /// nobody.
    #[serde(default)]
    check_only: bool,
}

/// Opening reply.
#[derive(Debug, Serialize, JsonSchema)]
struct Dialled {
    /// What was dialled, after the name was resolved.
    address: String,
}

/// Result: what passed.
#[derive(Debug, Serialize)]
pub(super) struct Counts {
    bytes_sent: u64,
    bytes_received: u64,
}

impl From<Carried> for Counts {
    fn from(carried: Carried) -> Self {
        Self {
            bytes_sent: carried.to_socket,
            bytes_received: carried.from_socket,
        }
    }
}

pub(super) fn operation(net: &Net) -> Registration {
    let net = net.clone();
    Operation::channel("net/dial", "Opens a TCP connection from this node.")
        .description(DESCRIPTION)
        .requires("net:dial")
        .resource("net", DIAL, "/address")
        .or_resolved()
        .error(errors::spec(errors::NAME_NOT_FOUND))
        .error(errors::spec(errors::CONNECTION_REFUSED))
        .error(errors::spec(errors::HOST_UNREACHABLE))
        .error(errors::spec(errors::CONNECT_TIMEOUT))
        .error(errors::spec(errors::CONNECTION_RESET))
        .example(
            json!({ "address": "db.lan:5432" }),
            json!({ "address": "10.0.0.5:5432" }),
        )
        .channel::<_, Dialled, _, _, _>(move |cx, input: DialInput, opening| {
            let net = net.clone();
            async move { dial(&net, &cx, input, opening).await }
        })
}

const DESCRIPTION: &str = "\
Bytes pass both ways. The end of the bytes in one direction half-closes the \
connection there, and the other direction goes on. A connection that is reset cuts \
the channel, a channel that is cut resets the connection. \
A name is resolved once, here; addresses that the caller may not dial are left out, \
and only what is left is connected to. Whoever holds a name may dial public \
addresses by it; private ones only by a name that is private too (`db`, `db.lan`), \
loopback only as `localhost`; anything else is granted by address. \
The result is `{\"bytes_sent\": 0, \"bytes_received\": 0}`, as the caller sees it.";

async fn dial(
    net: &Net,
    cx: &Context,
    input: DialInput,
    opening: ChannelOpening,
) -> Result<Counts, CallError> {
    let most = net.config().connect_timeout.duration();
    let asked = input.timeout_ms.map(Duration::from_millis);
    let until = Instant::now() + asked.map_or(most, |asked| asked.min(most));
    let permit = cx.permit();
    let address = &input.address;
    let resolved = timeout_at(until, resolve(net, address)).await;
    let resolved = resolved.map_err(|_| too_slow(address))??;
    let vetted = vet(&permit, address, resolved)?;
    if input.check_only {
        // Nothing passes: the channel ends as it opens.
        let mut channel = opening.accept(&dialled(vetted[0]))?;
        channel.tx.end();
        return Ok(Carried::default().into());
    }
    let connector = &net.0.connector;
    let connected = connect_first(&vetted, until, |address| connector.connect(address)).await;
    let (stream, to) = connected.map_err(|error| not_connected(address, &error))?;
    // A caller's small writes are its own to gather.
    stream
        .set_nodelay(true)
        .map_err(|error| not_connected(address, &error))?;
    let stream = Breaking::new(stream);
    let channel = opening.accept(&dialled(to))?;
    let _counted = net.count();
    tokio::select! {
        carried = carry(stream.into_stream(), channel) => {
            carried.map(Counts::from).map_err(|error| broken(&error))
        }
        refused = permit.lost(|permit| permit.check_address(DIAL, address, to)) => Err(refused),
    }
}

fn dialled(address: SocketAddr) -> Dialled {
    Dialled {
        address: address.to_string(),
    }
}

/// The addresses of `host:port` in canonical form.
async fn resolve(net: &Net, address: &str) -> Result<Vec<SocketAddr>, CallError> {
    if let Ok(literal) = address.parse() {
        return Ok(vec![literal]);
    }
    let parts = address.rsplit_once(':');
    let parts = parts.and_then(|(name, port)| Some((name, port.parse().ok()?)));
    let (name, port) = parts.ok_or_else(|| not_resolved(address, None))?;
    let resolved = net.0.resolver.resolve(name, port).await;
    let resolved = resolved.map_err(|error| not_resolved(address, Some(&error)))?;
    match in_turn(resolved, port) {
        none if none.is_empty() => Err(not_resolved(address, None)),
        addresses => Ok(addresses),
    }
}

/// Those that the caller may dial, or why it may dial none.
fn vet(
    permit: &Permit,
    asked: &str,
    addresses: Vec<SocketAddr>,
) -> Result<Vec<SocketAddr>, CallError> {
    let mut refused = None;
    let mut vetted = Vec::new();
    for address in addresses {
        match permit.check_address(DIAL, asked, address) {
            Ok(()) => vetted.push(address),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    match refused {
        Some(error) if vetted.is_empty() => Err(error),
        _ => Ok(vetted),
    }
}
