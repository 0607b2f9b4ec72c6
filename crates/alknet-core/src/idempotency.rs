//! A mutation with a key happens at most once.

use crate::{
    call::{Call, CallId, Input, Output},
    dispatch::Dispatcher,
    error::{CallError, ErrorCode},
    identity::{Caller, CallerKind},
    json::json_hash,
    registry::Entry,
    spec::Kind,
    storage::{Begin, IdempotencyScope, StoreError},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

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
    Started(RunningKey),
    /// It ran before, with this outcome.
    Replay(Result<Output, CallError>),
}

/// Calls with a key that are at work now. A start that the store knows and
/// that is not among them was dropped: its outcome is unknown.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunningKeys {
    at_work: Arc<Mutex<HashMap<IdempotencyScope, usize>>>,
    /// Keys that are kept for each caller, or more than that: forgotten ones
    /// are taken off when the store is asked again.
    kept: Arc<Mutex<HashMap<String, u64>>>,
}

/// Callers whose keys are counted in memory.
const CALLERS_COUNTED_MAX: usize = 10_000;
/// When whoever has too many keys may ask again.
const TOO_MANY_RETRY: Duration = Duration::from_secs(60);

/// One of them, until it is dropped.
pub(crate) struct RunningKey {
    keys: RunningKeys,
    scope: IdempotencyScope,
}

impl RunningKeys {
    fn lock(&self) -> MutexGuard<'_, HashMap<IdempotencyScope, usize>> {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a key that was kept just now; whether those of its caller are
    /// known to be at most `most`.
    fn has_room(&self, caller: &str, most: u64) -> bool {
        let mut counts = self.counts();
        let Some(kept) = counts.get_mut(caller) else {
            return false;
        };
        *kept += 1;
        *kept <= most
    }

    fn count(&self, caller: &str, kept: u64) {
        let mut counts = self.counts();
        if counts.len() >= CALLERS_COUNTED_MAX {
            // They are counted again when they come again.
            counts.clear();
        }
        counts.insert(caller.to_owned(), kept);
    }

    fn enter(&self, scope: IdempotencyScope) -> RunningKey {
        *self.lock().entry(scope.clone()).or_default() += 1;
        RunningKey {
            keys: self.clone(),
            scope,
        }
    }
}

impl RunningKey {
    fn is_alone(&self) -> bool {
        self.keys.lock().get(&self.scope) == Some(&1)
    }
}

impl Drop for RunningKey {
    fn drop(&mut self) {
        let mut running = self.keys.lock();
        if let Some(calls) = running.get_mut(&self.scope) {
            *calls -= 1;
            if *calls == 0 {
                running.remove(&self.scope);
            }
        }
    }
}

fn conflict(message: &str, retryable: bool) -> CallError {
    CallError::new(ErrorCode::Conflict, message).with_retryable(retryable)
}

/// Looks the key up and records the start, after the gate and the schema.
pub(crate) async fn begin(
    door: &Dispatcher,
    call: &Call,
    entry: &Entry,
    input: &Input,
) -> Result<Keyed, CallError> {
    let spec = entry.spec();
    let Some(key) = &call.idempotency_key else {
        return Ok(Keyed::Plain);
    };
    // A peer's operation is kept apart by the peer itself, which gets the key.
    let Input::Value(input) = input else {
        return Ok(Keyed::Plain);
    };
    if spec.kind != Kind::Mutation || entry.peer().is_some() {
        return Ok(Keyed::Plain);
    }
    // A hash of a passphrase could be tried out.
    if entry.has_secret_input() {
        return Ok(Keyed::Plain);
    }
    let most = door.limits().idempotency_key_bytes_max;
    if key.is_empty() || key.len() > most {
        let message = format!("an idempotency key has 1 to {most} bytes");
        return Err(CallError::invalid_field("", message));
    }
    let scope = IdempotencyScope {
        caller: scope_of(&call.caller)?,
        originator: call
            .originator
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        operation: spec.name.to_string(),
        key: key.clone(),
    };
    let running = door.running_keys().enter(scope.clone());
    let hash = json_hash(input);
    let begun = door
        .idempotency()
        .begin(&scope, hash, door.run(), door.now())
        .await
        .map_err(|error| CallError::storage(call.id, &error))?;
    match begun {
        Begin::Fresh => {
            check_room(door, call.id, &scope).await?;
            Ok(Keyed::Started(running))
        }
        Begin::Done(outcome) => Ok(Keyed::Replay(replay(call, &outcome))),
        Begin::OtherInput => Err(conflict(
            "this idempotency key was used with another input",
            false,
        )),
        Begin::Running if !running.is_alone() => Err(conflict(
            "the call with this idempotency key is still running",
            true,
        )),
        Begin::Running | Begin::Unknown => Err(conflict(
            "a call with this idempotency key was started, and its outcome is unknown",
            false,
        )),
    }
}

/// Refuses a new key of a caller who has as many as may be kept, and forgets
/// it. Keys that are kept go on being answered.
async fn check_room(
    door: &Dispatcher,
    call: CallId,
    scope: &IdempotencyScope,
) -> Result<(), CallError> {
    let most = door.limits().idempotency_keys_per_caller_max;
    let (keys, store) = (door.running_keys(), door.idempotency());
    if keys.has_room(&scope.caller, most) {
        return Ok(());
    }
    let failed = |error: StoreError| CallError::storage(call, &error);
    let kept = store.count(&scope.caller).await.map_err(failed)?;
    if kept <= most {
        keys.count(&scope.caller, kept);
        return Ok(());
    }
    store.abandon(scope).await.map_err(failed)?;
    keys.count(&scope.caller, kept.saturating_sub(1));
    let hours = door.limits().idempotency_kept.as_secs() / 3600;
    let message = format!(
        "{most} idempotency keys of this caller are kept, which is the limit; each is forgotten after {hours} h"
    );
    Err(CallError::new(ErrorCode::RateLimited, message).with_retry_after(TOO_MANY_RETRY))
}

/// Whose key it is. Callers that are nobody in particular would read each
/// other's outcomes.
fn scope_of(caller: &Caller) -> Result<String, CallError> {
    match caller.kind() {
        CallerKind::Peer => Ok(caller.id().to_string()),
        CallerKind::Host => Ok(format!("host:{}", caller.id())),
        CallerKind::Authority => Ok(format!("authority:{}", caller.id())),
        CallerKind::Anonymous => Err(CallError::new(
            ErrorCode::Unauthenticated,
            "an idempotency key takes a known caller",
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
    call: CallId,
    entry: &Entry,
    key: RunningKey,
    outcome: &Result<Output, CallError>,
) -> Result<(), CallError> {
    let record = match outcome {
        // Nothing was reached, so nothing happened, and the same key may try
        // again. What composes may have done something before it failed.
        Err(error) if error.is(ErrorCode::Unavailable) && entry.authority().is_none() => {
            let forgotten = door.idempotency().abandon(&key.scope).await;
            return forgotten.map_err(|error| CallError::storage(call, &error));
        }
        Ok(_) if entry.spec().secret_output => Outcome::Failed(conflict(
            "the call was done; its reply is a secret and was not kept",
            false,
        )),
        Ok(output) => match serde_json::from_slice(&output.bytes()) {
            Ok(text) => Outcome::Done(text),
            Err(error) => return Err(CallError::internal(call, &error)),
        },
        Err(error) => Outcome::Failed(error.clone()),
    };
    let text = serde_json::to_vec(&record).map_err(|error| CallError::internal(call, &error))?;
    door.idempotency()
        .finish(&key.scope, text)
        .await
        .map_err(|error| unkept(call, &error))
}

/// The call has run: its caller may not hear that nothing was changed.
fn unkept(call: CallId, error: &StoreError) -> CallError {
    match error {
        StoreError::NoSpace(_) | StoreError::Disk(_) => CallError::new(
            ErrorCode::Unavailable,
            "the call was run, but how it ended could not be kept: the node's disk is full or fails",
        )
        .with_retryable(false),
        other => CallError::internal(call, other),
    }
}
