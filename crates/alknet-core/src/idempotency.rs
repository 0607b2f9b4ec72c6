//! A mutation with a key happens at most once.

use crate::{
    call::{Call, Output},
    dispatch::Dispatcher,
    error::{CallError, ErrorCode},
    spec::{Kind, OperationSpec},
    storage::{Begin, IdempotencyScope},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

/// A recorded outcome.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Done(Box<RawValue>),
    Failed(CallError),
}

/// What the door does with a keyed call.
pub(crate) enum Keyed {
    /// No key, or a query, which is safe to repeat anyway.
    Plain,
    /// It is recorded as started and may run.
    Started(IdempotencyScope),
    /// It ran before, with this outcome.
    Replay(Result<Output, CallError>),
}

fn conflict(message: &str, retryable: bool) -> CallError {
    CallError::new(ErrorCode::Conflict, message).with_retryable(retryable)
}

/// Looks the key up and records the start, after the gate and the schema.
pub(crate) async fn begin(
    door: &Dispatcher,
    call: &Call,
    spec: &OperationSpec,
    input: &Value,
) -> Result<Keyed, CallError> {
    let Some(key) = call
        .idempotency_key
        .as_ref()
        .filter(|_| spec.kind == Kind::Mutation)
    else {
        return Ok(Keyed::Plain);
    };
    let most = door.limits().idempotency_key_bytes_max;
    if key.is_empty() || key.len() > most {
        return Err(CallError::invalid_field(
            "",
            format!("an idempotency key has 1 to {most} bytes"),
        ));
    }
    let scope = IdempotencyScope {
        caller: call.caller.id().to_string(),
        originator: call
            .originator
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        operation: spec.name.to_string(),
        key: key.clone(),
    };
    let hash = *blake3::hash(&serde_json::to_vec(input).unwrap_or_default()).as_bytes();
    let failed = |error| CallError::internal(call.id, &error);
    match door
        .idempotency()
        .begin(&scope, hash, door.run(), door.now())
        .await
        .map_err(failed)?
    {
        Begin::Fresh => Ok(Keyed::Started(scope)),
        Begin::Done(outcome) => Ok(Keyed::Replay(replay(call, &outcome))),
        Begin::OtherInput => Err(conflict(
            "this idempotency key was used with another input",
            false,
        )),
        Begin::Running => Err(conflict(
            "the call with this idempotency key is still running",
            true,
        )),
        Begin::Unknown => Err(conflict(
            "a call with this idempotency key was started, and its outcome is unknown",
            false,
        )),
    }
}

fn replay(call: &Call, outcome: &[u8]) -> Result<Output, CallError> {
    match serde_json::from_slice(outcome) {
        Ok(Outcome::Done(text)) => Ok(Output::Json(text.get().to_owned().into())),
        Ok(Outcome::Failed(error)) => Err(error),
        Err(error) => Err(CallError::internal(call.id, &error)),
    }
}

/// Records the outcome before the reply goes out.
pub(crate) async fn finish(
    door: &Dispatcher,
    call: &Call,
    spec: &OperationSpec,
    scope: &IdempotencyScope,
    outcome: &Result<Output, CallError>,
) -> Result<(), CallError> {
    let record = match outcome {
        Ok(_) if spec.secret_output => Outcome::Failed(conflict(
            "the call was done; its reply is a secret and was not kept",
            false,
        )),
        Ok(output) => match serde_json::from_slice(&output.bytes()) {
            Ok(text) => Outcome::Done(text),
            Err(error) => return Err(CallError::internal(call.id, &error)),
        },
        Err(error) => Outcome::Failed(error.clone()),
    };
    let text = serde_json::to_vec(&record).map_err(|error| CallError::internal(call.id, &error))?;
    door.idempotency()
        .finish(scope, text)
        .await
        .map_err(|error| CallError::internal(call.id, &error))
}
