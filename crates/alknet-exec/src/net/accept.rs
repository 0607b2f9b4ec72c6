//! `net/accept`: takes a connection that came to a listener.

use super::{
    Net, carry,
    dial::Counts,
    errors::{self, broken},
    listen::LISTEN,
    owner,
};
use alknet_core::{
    CallError, ChannelOpening, Context, ErrorCode, Operation, Registration, ResourceKind,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AcceptInput {
    /// As it was announced.
    #[schemars(length(max = 64))]
    connection: String,
}

/// Opening reply.
#[derive(Debug, Serialize, JsonSchema)]
struct Accepted {
    /// Who connected.
    from: String,
}

pub(super) fn operation(net: &Net) -> Registration {
    let net = net.clone();
    Operation::channel(
        "net/accept",
        "Takes a connection that came to a listener of the caller.",
    )
    .description(DESCRIPTION)
    .requires("net:listen")
    .error(errors::spec(errors::CONNECTION_RESET))
    .example(
        json!({ "connection": "07".repeat(16) }),
        json!({ "from": "127.0.0.1:50000" }),
    )
    .channel::<_, Accepted, _, _, _>(move |cx, input: AcceptInput, opening| {
        let net = net.clone();
        async move { accept(&net, &cx, &input, opening).await }
    })
}

const DESCRIPTION: &str = "\
The connection is one that `net/listen` announced to the same caller. Bytes pass both \
ways, as through `net/dial`; a caller that does not want it ends the call, which \
resets it. Whoever loses the right to listen there loses the connection too. \
The result is `{\"bytes_sent\": 0, \"bytes_received\": 0}`.";

async fn accept(
    net: &Net,
    cx: &Context,
    input: &AcceptInput,
    opening: ChannelOpening,
) -> Result<Counts, CallError> {
    let waiting = net.0.waiting.take(&owner(cx), &input.connection);
    let waiting = waiting.ok_or_else(|| {
        CallError::new(
            ErrorCode::NotFound,
            "no such connection waits: it was taken, waited too long, or its listener ended",
        )
    })?;
    let (permit, asked) = (waiting.permit.clone(), waiting.bound.clone());
    let check = |permit: &alknet_core::Permit| {
        let checked = permit.check(LISTEN, ResourceKind::Net, &asked);
        checked.map(drop)
    };
    check(&permit)?;
    let from = waiting.from.to_string();
    let stream = waiting.into_stream();
    let channel = opening.accept(&Accepted { from })?;
    let _counted = net.count();
    let stream = stream.into_stream();
    // Only a matter of speed.
    let _ = stream.set_nodelay(true);
    tokio::select! {
        carried = carry(stream, channel) => {
            carried.map(Counts::from).map_err(|error| broken(&error))
        }
        refused = permit.lost(check) => Err(refused),
    }
}
