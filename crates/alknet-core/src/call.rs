//! One invocation: what is called, by whom, with what, within which budget.

use crate::{
    audit::Surface,
    context::Interaction,
    error::{CallError, ErrorCode, Violation},
    identity::Caller,
    json::{json_len, nests_too_deep},
    name::{NameError, OperationName, PeerId},
    registry::SessionOverlay,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{fmt, sync::Arc};
use tokio::time::Instant;
use uuid::Uuid;

/// Identifies a call; UUIDv7 (RFC 9562), so ids sort by time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CallId(Uuid);

impl CallId {
    /// A new id.
    #[must_use]
    #[allow(clippy::new_without_default)] // every id differs: not a default
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// The 16 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The id of 16 bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The public key that names a node.
pub type NodeId = [u8; 32];

/// One step of a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RouteStep {
    /// This peer, or nobody.
    Peer(PeerId),
    /// The first connected peer that offers the operation.
    Any,
}

impl fmt::Display for RouteStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RouteStep::Peer(peer) => peer.fmt(f),
            RouteStep::Any => f.write_str("any"),
        }
    }
}

/// The peers a call passes through; empty for a local call.
pub type Route = Vec<RouteStep>;

/// Peers that a route may name.
pub const ROUTE_STEPS_MAX: usize = 4;

/// Parses `any`, `peer` or `peer/peer`, at most [`ROUTE_STEPS_MAX`] peers.
///
/// # Errors
///
/// [`NameError`] for the part that is no peer, for too many, and for `any`
/// before others.
pub fn parse_route(text: &str) -> Result<Route, NameError> {
    let steps = text.split('/').map(|part| {
        if part == "any" {
            Ok(RouteStep::Any)
        } else {
            PeerId::parse(part).map(RouteStep::Peer)
        }
    });
    let route = steps.collect::<Result<Route, NameError>>()?;
    check_route(&route)?;
    Ok(route)
}

/// Whether a call can take this route at all.
pub(crate) fn check_route(route: &[RouteStep]) -> Result<(), NameError> {
    if route.len() > ROUTE_STEPS_MAX {
        return Err(NameError::RouteTooLong {
            found: route.len(),
            max: ROUTE_STEPS_MAX,
        });
    }
    match route.split_last() {
        Some((_, before)) if before.contains(&RouteStep::Any) => Err(NameError::AnyBeforeOthers),
        _ => Ok(()),
    }
}

/// A route as it is written, and as grants name it: `peer/peer`.
pub(crate) fn route_text(route: &[RouteStep]) -> String {
    let steps: Vec<String> = route.iter().map(ToString::to_string).collect();
    steps.join("/")
}

/// Who started a tree of calls, as claimed on the way: a note for the audit
/// log, never looked at by the access check.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Originator {
    /// The node where it started, as it calls itself.
    pub node: String,
    /// Who started it there.
    pub label: String,
}

impl fmt::Display for Originator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.label)
    }
}

/// Distributed-tracing context, carried and never interpreted (W3C Trace
/// Context `traceparent`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TraceContext(pub String);

/// JSON that came in: as bytes, parsed at most once.
///
/// Its `Debug` tells how long it is and nothing of what it says, which may be a
/// secret.
#[derive(Clone)]
pub enum Input {
    /// JSON text; an empty text counts as `{}`.
    Json(Bytes),
    /// A value.
    Value(Value),
}

impl Default for Input {
    fn default() -> Self {
        Input::Json(Bytes::new())
    }
}

impl Input {
    /// The value of a serialisable type.
    ///
    /// # Errors
    ///
    /// `INVALID_INPUT` if it does not serialise.
    pub fn of(value: &impl Serialize) -> Result<Self, CallError> {
        serde_json::to_value(value)
            .map(Input::Value)
            .map_err(|e| CallError::invalid_field("", e.to_string()))
    }

    /// Bytes of the text; of a value, those that its text would have.
    #[must_use]
    pub fn len(&self) -> usize {
        self.json_len().unwrap_or(usize::MAX)
    }

    /// [`Input::len`], or `None` if a value nests deeper than 64 levels.
    pub(crate) fn json_len(&self) -> Option<usize> {
        match self {
            Input::Json(text) => Some(text.len()),
            Input::Value(value) => json_len(value),
        }
    }

    /// Whether nothing was sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Input::Json(text) if text.is_empty())
    }

    /// Parses it.
    ///
    /// # Errors
    ///
    /// `INVALID_INPUT` if it is not JSON, or nests deeper than 64 levels.
    pub fn into_value(self) -> Result<Value, CallError> {
        match self {
            Input::Value(value) => Ok(value),
            Input::Json(text) if text.is_empty() => Ok(Value::Object(serde_json::Map::new())),
            Input::Json(text) => parse_json(&text),
        }
    }

    /// The JSON text.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        match self {
            Input::Json(text) => text,
            Input::Value(value) => Bytes::from(value.to_string()),
        }
    }

    /// Reads it as `T`.
    ///
    /// # Errors
    ///
    /// `INVALID_INPUT` with what does not fit.
    pub fn parse<T: DeserializeOwned>(self) -> Result<T, CallError> {
        serde_json::from_value(self.into_value()?)
            .map_err(|e| CallError::invalid_field("", e.to_string()))
    }
}

fn parse_json(text: &[u8]) -> Result<Value, CallError> {
    if nests_too_deep(text) {
        return Err(CallError::invalid_field("", "nests deeper than 64 levels"));
    }
    serde_json::from_slice(text).map_err(|error| {
        let message = format!("not JSON: {error}");
        CallError::invalid_input(vec![Violation {
            pointer: String::new(),
            message,
        }])
    })
}

/// JSON that goes out: a value, or text that nobody needs to parse.
///
/// Its `Debug` tells how long it is and nothing of what it says, which may be a
/// secret.
#[derive(Clone)]
pub enum Output {
    /// JSON text.
    Json(Bytes),
    /// A value.
    Value(Value),
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Input({} bytes)", self.len())
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = match self {
            Output::Json(text) => Some(text.len()),
            Output::Value(value) => json_len(value),
        };
        write!(f, "Output({} bytes)", bytes.unwrap_or(usize::MAX))
    }
}

impl Output {
    /// The text of a serialisable type: whoever it is for mostly wants that.
    ///
    /// # Errors
    ///
    /// `INTERNAL` if it does not serialise.
    pub fn of(value: &impl Serialize) -> Result<Self, CallError> {
        let text = serde_json::to_vec(value).map_err(|e| {
            CallError::new(
                ErrorCode::Internal,
                format!("the output does not serialise: {e}"),
            )
        })?;
        Ok(Output::Json(text.into()))
    }

    /// The JSON text.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        match self {
            Output::Json(text) => text.clone(),
            Output::Value(value) => Bytes::from(serde_json::to_vec(value).unwrap_or_default()),
        }
    }

    /// The JSON text, without keeping the value.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        match self {
            Output::Json(text) => text,
            Output::Value(_) => self.bytes(),
        }
    }

    /// The value.
    ///
    /// # Errors
    ///
    /// `INTERNAL` if a peer sent what is not JSON.
    pub fn into_value(self) -> Result<Value, CallError> {
        match self {
            Output::Value(value) => Ok(value),
            Output::Json(text) if text.is_empty() => Ok(Value::Null),
            Output::Json(text) if nests_too_deep(&text) => Err(CallError::new(
                ErrorCode::Internal,
                "the reply nests deeper than 64 levels",
            )),
            Output::Json(text) => serde_json::from_slice(&text).map_err(|e| {
                CallError::new(ErrorCode::Internal, format!("the reply is not JSON: {e}"))
            }),
        }
    }

    /// Reads it as `T`.
    ///
    /// # Errors
    ///
    /// `INTERNAL` if the reply is not what the caller expects.
    pub fn parse<T: DeserializeOwned>(self) -> Result<T, CallError> {
        let unexpected = |e: serde_json::Error| {
            CallError::new(ErrorCode::Internal, format!("unexpected reply: {e}"))
        };
        match self {
            Output::Json(text) if !text.is_empty() => {
                serde_json::from_slice(&text).map_err(unexpected)
            }
            other => serde_json::from_value(other.into_value()?).map_err(unexpected),
        }
    }
}

/// One invocation, as a surface hands it to the door.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its id.
    pub id: CallId,
    /// The call whose handler makes this one.
    pub parent: Option<CallId>,
    /// What is called.
    pub operation: OperationName,
    /// Through which peers.
    pub route: Route,
    /// Nodes already passed, to refuse loops.
    pub via: Vec<NodeId>,
    /// With what.
    pub input: Input,
    /// By whom, as authenticated.
    pub caller: Caller,
    /// Who is said to have started it.
    pub originator: Option<Originator>,
    /// When its budget ends; `None` for the default.
    pub deadline: Option<Instant>,
    /// Makes a mutation happen at most once.
    pub idempotency_key: Option<String>,
    /// Tracing context.
    pub trace: Option<TraceContext>,
    /// How its handler reaches the caller while it runs.
    pub interaction: Interaction,
    /// Through which protocol it arrived.
    pub surface: Surface,
    /// What the caller's session adds.
    pub session: Option<Arc<SessionOverlay>>,
}

impl Call {
    /// A local call with an empty input.
    ///
    /// # Errors
    ///
    /// [`NameError`] if `operation` is not a name.
    pub fn new(operation: &str, caller: Caller) -> Result<Self, NameError> {
        Ok(Self::named(OperationName::parse(operation)?, caller))
    }

    /// A local call with an empty input, of a name that is parsed already.
    #[must_use]
    pub fn named(operation: OperationName, caller: Caller) -> Self {
        Self {
            id: CallId::new(),
            parent: None,
            operation,
            route: Route::new(),
            via: Vec::new(),
            input: Input::default(),
            caller,
            originator: None,
            deadline: None,
            idempotency_key: None,
            trace: None,
            interaction: Interaction::none(),
            surface: Surface::LOCAL,
            session: None,
        }
    }

    /// Sets the input. What does not serialise becomes `null`, which the
    /// operation's schema judges.
    #[must_use]
    pub fn input(mut self, input: &impl Serialize) -> Self {
        self.input = Input::Value(serde_json::to_value(input).unwrap_or(Value::Null));
        self
    }

    /// Sets the input as JSON text.
    #[must_use]
    pub fn input_json(mut self, text: impl Into<Bytes>) -> Self {
        self.input = Input::Json(text.into());
        self
    }

    /// Sends it through a peer.
    #[must_use]
    pub fn on(mut self, route: Route) -> Self {
        self.route = route;
        self
    }

    /// Limits its time.
    #[must_use]
    pub fn deadline(mut self, at: Instant) -> Self {
        self.deadline = Some(at);
        self
    }

    /// Lets it happen at most once.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }
}
