//! What a caller asks of the other side of a connection.

use crate::{
    frame::{CallKind, Invoke},
    limits::{NAME_BYTES_MAX, ROUTE_STEPS_MAX, TEXT_BYTES_MAX, VIA_NODES_MAX},
};
use alknet_core::{
    CallError, CallId, ErrorCode, Interaction, NodeId, OperationName, Originator, Route,
    TraceContext,
};
use bytes::Bytes;
use std::{fmt, time::Duration};

/// One call to the other side of a connection.
#[derive(Clone)]
pub struct Request {
    /// Under which id both sides log the call.
    pub call_id: CallId,
    /// What is called.
    pub operation: OperationName,
    /// JSON text; an empty text counts as `{}`.
    pub input: Bytes,
    /// What is left of the budget; without one the callee's default holds.
    pub budget: Option<Duration>,
    /// Peers that the callee shall send it on to; at most four.
    pub route: Route,
    /// Nodes that it has passed, this one included if it forwards; at most
    /// eight.
    pub via: Vec<NodeId>,
    /// Who started it.
    pub originator: Option<Originator>,
    /// Lets a mutation happen at most once.
    pub idempotency_key: Option<String>,
    /// Tracing context.
    pub trace: Option<TraceContext>,
    /// Who hears progress and answers questions.
    pub interaction: Interaction,
}

impl Request {
    /// A call of `operation` with JSON text.
    #[must_use]
    pub fn new(operation: OperationName, input: Bytes) -> Self {
        Self {
            call_id: CallId::new(),
            operation,
            input,
            budget: None,
            route: Route::new(),
            via: Vec::new(),
            originator: None,
            idempotency_key: None,
            trace: None,
            interaction: Interaction::none(),
        }
    }

    /// The header, if every field keeps to its limit.
    pub(crate) fn header(&self, kind: CallKind) -> Result<Invoke, CallError> {
        let key = self.idempotency_key.as_deref().unwrap_or_default();
        let trace = self.trace.as_ref().map_or("", |context| context.0.as_str());
        at_most("the idempotency key", key.len(), TEXT_BYTES_MAX, "bytes")?;
        at_most("the trace context", trace.len(), TEXT_BYTES_MAX, "bytes")?;
        at_most("the route", self.route.len(), ROUTE_STEPS_MAX, "peers")?;
        if let Some(from) = &self.originator {
            at_most(
                "the originator's node",
                from.node.len(),
                NAME_BYTES_MAX,
                "bytes",
            )?;
            at_most("the originator", from.label.len(), TEXT_BYTES_MAX, "bytes")?;
        }
        if self.via.len() > VIA_NODES_MAX {
            return Err(CallError::new(
                ErrorCode::Conflict,
                format!("the call has passed more than {VIA_NODES_MAX} nodes"),
            ));
        }
        Ok(Invoke {
            call_id: *self.call_id.as_bytes(),
            operation: self.operation.to_string(),
            kind,
            budget_ms: self
                .budget
                .map(|budget| u64::try_from(budget.as_millis()).unwrap_or(u64::MAX)),
            route: self.route.iter().map(ToString::to_string).collect(),
            via: self.via.clone(),
            originator: self
                .originator
                .as_ref()
                .map(|from| (from.node.clone(), from.label.clone())),
            idempotency_key: self.idempotency_key.clone(),
            can_answer: self.interaction.can_answer(),
            wants_progress: self.interaction.is_listening(),
            trace: self.trace.as_ref().map(|context| context.0.clone()),
        })
    }
}

fn at_most(what: &str, found: usize, max: usize, unit: &str) -> Result<(), CallError> {
    if found <= max {
        return Ok(());
    }
    let message = format!("{what} has {found} {unit}, at most {max} are allowed");
    Err(CallError::invalid_field("", message))
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Inputs may hold secrets.
        f.debug_struct("Request")
            .field("call_id", &self.call_id)
            .field("operation", &self.operation)
            .field("input_bytes", &self.input.len())
            .finish_non_exhaustive()
    }
}
