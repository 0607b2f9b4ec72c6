//! The audit row of a call under way.

use super::Dispatcher;
use crate::{
    audit::{AuditOutcome, AuditSlot, CallRow, Operation, Surface},
    bytepipe::ByteCounter,
    call::{Call, CallId, Input, Output, RouteStep},
    error::{CallError, ErrorCode},
    identity::Caller,
    inflight::Meter,
    json::json_len,
};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

/// Whatever happens to the call, its row is written: a dropped call was
/// cancelled.
#[derive(Default)]
pub(super) struct Record {
    /// `None` if nobody keeps it, or it was handed over.
    open: Option<Open>,
    /// Where somebody counts bytes against a limit.
    metered: Option<Metered>,
}

struct Metered {
    meter: Meter,
    /// Bytes of the channel that were counted already.
    channel: u64,
    counters: Option<(ByteCounter, ByteCounter)>,
}

struct Open {
    slot: AuditSlot,
    row: CallRow,
    started: Instant,
    counters: Option<(ByteCounter, ByteCounter)>,
}

impl Record {
    /// Of a question, which is no call.
    pub(super) fn none() -> Self {
        Self::default()
    }

    /// Takes a place in the audit queue, waiting when it is full.
    ///
    /// # Errors
    ///
    /// `UNAVAILABLE` if the queue stays full for as long as the call may take:
    /// what cannot be recorded is not done.
    pub(super) async fn begin(door: &Dispatcher, call: &Call) -> Result<Self, CallError> {
        if let Some(key) = call.caller.key() {
            door.identities().used(key);
        }
        let slot = match door.0.audit.slot_now() {
            Some(slot) => slot,
            None => {
                let started = Instant::now();
                let longest = started + door.0.limits.deadline_default;
                let until = call.deadline.map_or(longest, |at| at.min(longest));
                timeout_at(until, door.0.audit.slot())
                    .await
                    .map_err(|_| audit_is_behind())?
            }
        };
        if !slot.is_kept() {
            return Ok(Self::default());
        }
        let row = CallRow {
            parent_id: call.parent,
            originator: call.originator.clone(),
            surface: call.surface.clone(),
            route: call.route.clone(),
            bytes_in: match &call.input {
                Input::Json(text) => text.len() as u64,
                Input::Value(_) => 0,
            },
            ..blank(
                door,
                call.id,
                &call.caller,
                Operation::Name(call.operation.clone()),
            )
        };
        let open = Open {
            slot,
            row,
            started: Instant::now(),
            counters: None,
        };
        Ok(Self {
            open: Some(open),
            metered: None,
        })
    }

    /// Bytes of an input that did not come as text.
    pub(super) fn bytes_in(&mut self, bytes: usize) {
        if let Some(open) = &mut self.open {
            open.row.bytes_in = bytes as u64;
        }
    }

    /// What an item or a reply adds to the bytes that went out.
    pub(super) fn sent(&mut self, output: &Output) {
        if self.open.is_none() && self.metered.is_none() {
            return;
        }
        let bytes = match output {
            Output::Json(text) => text.len(),
            Output::Value(value) => json_len(value).unwrap_or_default(),
        };
        if let Some(open) = &mut self.open {
            open.row.bytes_out += bytes as u64;
        }
        if let Some(metered) = &self.metered {
            metered.meter.count(bytes as u64);
        }
    }

    pub(super) fn resources(&mut self, resources: &[String]) {
        if let Some(open) = &mut self.open
            && !resources.is_empty()
        {
            open.row.resource = Some(resources.join(" "));
        }
    }

    /// The peer that was picked.
    pub(super) fn route(&mut self, route: &[RouteStep]) {
        if let Some(open) = &mut self.open {
            open.row.route = route.to_vec();
        }
    }

    /// Counts the bytes of a channel.
    pub(super) fn count(&mut self, bytes_in: ByteCounter, bytes_out: ByteCounter) {
        if let Some(metered) = &mut self.metered {
            metered.counters = Some((bytes_in.clone(), bytes_out.clone()));
        }
        if let Some(open) = &mut self.open {
            open.counters = Some((bytes_in, bytes_out));
        }
    }

    /// Counts what the call carries against a limit from here on, and what
    /// came in already.
    pub(super) fn meter(&mut self, meter: Meter, bytes_in: u64) {
        meter.count(bytes_in);
        self.metered = Some(Metered {
            meter,
            channel: 0,
            counters: None,
        });
    }

    /// Whether bytes of a channel are to be counted while it is open.
    pub(super) fn is_metered(&self) -> bool {
        self.metered.is_some()
    }

    /// Counts what a channel has carried since the last time.
    pub(super) fn meter_channel(&mut self) {
        let Some(metered) = &mut self.metered else {
            return;
        };
        if let Some((bytes_in, bytes_out)) = &metered.counters {
            let carried = bytes_in.bytes() + bytes_out.bytes();
            metered.meter.count(carried - metered.channel);
            metered.channel = carried;
        }
    }

    /// Hands the row over; later ends change nothing.
    pub(super) fn end(&mut self, error: Option<&CallError>) {
        self.meter_channel();
        self.metered = None;
        let Some(open) = self.open.take() else {
            return;
        };
        let mut row = open.row;
        if let Some(error) = error {
            refused(&mut row, error);
        }
        row.duration_us = u64::try_from(open.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        if let Some((bytes_in, bytes_out)) = &open.counters {
            row.bytes_in += bytes_in.bytes();
            row.bytes_out += bytes_out.bytes();
        }
        open.slot.fill(row);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.open.is_some() {
            let cancelled = CallError::new(ErrorCode::Cancelled, "cancelled by the caller");
            self.end(Some(&cancelled));
        }
    }
}

/// Records a permit, given or refused; never waits.
///
/// # Errors
///
/// `UNAVAILABLE` if the audit queue is full.
pub(super) fn record_permit(
    door: &Dispatcher,
    caller: &Caller,
    operation: &str,
    surface: Surface,
    error: Option<&CallError>,
) -> Result<(), CallError> {
    let slot = door.0.audit.slot_now().ok_or_else(audit_is_behind)?;
    if slot.is_kept() {
        let operation = Operation::Text(operation.to_owned());
        let mut row = CallRow {
            surface,
            ..blank(door, CallId::new(), caller, operation)
        };
        match error {
            Some(error) => refused(&mut row, error),
            None => row.detail = Some("permit".into()),
        }
        slot.fill(row);
    }
    Ok(())
}

fn blank(door: &Dispatcher, call_id: CallId, caller: &Caller, operation: Operation) -> CallRow {
    CallRow {
        at: door.now(),
        call_id,
        parent_id: None,
        caller: caller.id().clone(),
        key: caller.key().copied(),
        transport: caller.transport().cloned(),
        originator: None,
        surface: Surface::LOCAL,
        operation,
        route: Vec::new(),
        resource: None,
        outcome: AuditOutcome::OK,
        detail: None,
        duration_us: 0,
        bytes_in: 0,
        bytes_out: 0,
    }
}

fn refused(row: &mut CallRow, error: &CallError) {
    row.outcome = AuditOutcome::code(error.code.clone());
    // What was missing; messages of other errors may quote the input.
    if error.is(ErrorCode::Forbidden) {
        let missing = error.details.as_ref().and_then(|d| d.get("missing"));
        row.detail = missing.map(told);
    }
}

/// What was missing, as a person reads it: ``missing scopes `fs:read` ``.
fn told(missing: &Value) -> String {
    let quoted = |value: &Value| match value {
        Value::String(text) => format!("`{text}`"),
        Value::Array(items) => {
            let items = items.iter().map(|item| match item {
                Value::String(text) => format!("`{text}`"),
                other => other.to_string(),
            });
            items.collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    };
    let parts: Vec<String> = match missing {
        Value::Object(fields) => fields
            .iter()
            .map(|(what, value)| format!("{what} {}", quoted(value)))
            .collect(),
        other => vec![quoted(other)],
    };
    format!("missing {}", parts.join(", "))
}

fn audit_is_behind() -> CallError {
    let message = "the audit log is behind, and what it cannot record is not done";
    CallError::new(ErrorCode::Unavailable, message)
}
