//! The door alone, in one process: what a call costs before and after its
//! handler.

use super::{Measured, Work, native, payload::Payload};
use crate::worker::follow;
use alknet_core::{Call, Caller, Dispatcher, OperationName};
use anyhow::{Result, bail};
use bytes::Bytes;
use serde_json::Value;
use std::time::Instant;

/// Follows orders until there are no more.
pub(crate) async fn serve() -> Result<()> {
    let (door, caller) = native::door().await?;
    follow("ready", |work| {
        let (door, caller) = (door.clone(), caller.clone());
        async move {
            let Work::Door {
                payload,
                calls,
                is_bare,
            } = work
            else {
                bail!("only the door is measured here");
            };
            // On a thread of the runtime, as a surface would call it.
            let task = tokio::spawn(async move {
                let json = payload.json();
                match is_bare {
                    true => bare(payload, &json, calls),
                    false => through(&door, &caller, payload, &json, calls).await,
                }
            });
            task.await?
        }
    })
    .await
}

/// JSON text in, value out, through the door.
async fn through(
    door: &Dispatcher,
    caller: &Caller,
    payload: Payload,
    json: &Bytes,
    calls: u64,
) -> Result<Measured> {
    let name = OperationName::parse(payload.operation())?;
    let start = Instant::now();
    for _ in 0..calls {
        let call = Call::named(name.clone(), caller.clone()).input_json(json.clone());
        std::hint::black_box(door.call(call).await?);
    }
    Ok(Measured::of(calls, start.elapsed(), Vec::new()))
}

/// The same parsing, into a value and into a type, and the way back, with no
/// door around it.
fn bare(payload: Payload, json: &Bytes, calls: u64) -> Result<Measured> {
    let start = Instant::now();
    for _ in 0..calls {
        let value: Value = serde_json::from_slice(json)?;
        std::hint::black_box(payload.round_trip(value)?);
    }
    Ok(Measured::of(calls, start.elapsed(), Vec::new()))
}
