//! What a handler came to, as its caller is told: output schema and error
//! mapping.

use super::Dispatcher;
use crate::{
    call::{CallId, Output},
    error::{CallError, ErrorClass, ErrorCode},
    registry::Entry,
    spec::OperationSpec,
};
use std::{any::Any, sync::Arc, sync::atomic::Ordering};

impl Dispatcher {
    pub(super) fn checked(
        &self,
        call: CallId,
        entry: &Arc<Entry>,
        outcome: Result<Output, CallError>,
    ) -> Result<Output, CallError> {
        match outcome {
            Ok(output) => self.check_output(call, entry, output),
            Err(error) => Err(mapped(call, entry, error)),
        }
    }

    /// Output schema. What a peer sends was checked there; what a foreign
    /// document says of its service is not ours to enforce.
    pub(super) fn check_output(
        &self,
        call: CallId,
        entry: &Arc<Entry>,
        output: Output,
    ) -> Result<Output, CallError> {
        if entry.peer().is_some() {
            return Ok(output);
        }
        let spec = entry.spec();
        if let Output::Json(text) = &output
            && spec.output.accepts_text(text)
        {
            return Ok(output);
        }
        let value = output
            .into_value()
            .map_err(|error| CallError::internal(call, &error))?;
        let Err(violations) = self.0.registry.check(entry, &spec.output, &value) else {
            return Ok(Output::Value(value));
        };
        let first = violations
            .into_iter()
            .next()
            .map(|v| format!("`{}`: {}", v.pointer, v.message))
            .unwrap_or_default();
        if entry.is_imported() {
            tracing::warn!(%call, operation = %spec.name, %first, "an imported operation broke its own schema");
            return Ok(Output::Value(value));
        }
        let cause = format!("output of `{}` breaks its schema: {first}", spec.name);
        Err(CallError::internal(call, &cause))
    }

    pub(super) fn panicked(
        &self,
        call: CallId,
        entry: &Entry,
        panic: &(dyn Any + Send),
    ) -> CallError {
        let who = entry.spec().name.as_str();
        // What it says may be made of a secret: the error of a parser, say,
        // which repeats what it read.
        match entry.handles_secrets() {
            true => self.note_panic(call, who, &"its words are withheld: it handles secrets"),
            false => self.note_panic(call, who, panic),
        }
        CallError::internal_unlogged(call)
    }

    pub(super) fn note_panic(&self, call: CallId, who: &str, panic: &(dyn Any + Send)) {
        self.0.panics.fetch_add(1, Ordering::Relaxed);
        let text = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        tracing::error!(%call, who, cause = %text, "panicked");
    }
}

/// Error mapping: protocol errors and declared domain errors pass.
pub(super) fn mapped(call: CallId, entry: &Entry, error: CallError) -> CallError {
    if entry.peer().is_some() {
        return error;
    }
    let spec = entry.spec();
    match error.class {
        ErrorClass::Domain if !spec.errors.iter().any(|held| held.code == error.code) => {
            let cause = format!(
                "`{}` failed with undeclared `{}`: {}",
                spec.name, error.code, error.message
            );
            CallError::internal(call, &cause)
        }
        // One that names its call was logged and hidden where it happened: in
        // an operation that this one called.
        ErrorClass::Protocol if error.is(ErrorCode::Internal) && !error.names_call() => {
            CallError::internal(call, &error.message)
        }
        _ => error,
    }
}

pub(super) fn wrong_kind(spec: &OperationSpec) -> CallError {
    let message = format!("`{}` is a {}", spec.name, spec.kind);
    CallError::new(ErrorCode::InvalidOperationType, message)
        .with_details(serde_json::json!({ "kind": spec.kind }))
}

pub(super) fn timeout(spec: &OperationSpec) -> CallError {
    CallError::new(
        ErrorCode::Timeout,
        format!("`{}` did not answer in time", spec.name),
    )
}
