//! What a handler gets: who calls, how long it has, and which operations it
//! may call itself, under the authority declared when it was registered.

use crate::{
    audit::Surface,
    call::{Call, CallId, Input, NodeId, Originator, Output, Route, RouteStep, TraceContext},
    dispatch::{ChannelCall, Dispatcher, Reply, Subscription},
    error::{CallError, ErrorCode},
    identity::{Caller, Identity},
    name::{OperationName, OperationPattern, PeerId},
    permit::Permit,
    registry::Entry,
    secret::Secret,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

/// Under which rights an operation calls others, and which it can name at all.
#[derive(Clone, Debug)]
pub struct Authority {
    /// Label, scopes and resources.
    pub identity: Arc<Identity>,
    /// What it can name.
    pub reach: Reach,
}

/// Operations a handler can name; everything else is `NOT_FOUND` to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach(pub Vec<ReachRule>);

/// Operations here, or at one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReachRule {
    /// Which operations.
    pub operations: OperationPattern,
    /// At which peer; `None` for this node.
    pub peer: Option<PeerId>,
}

impl Reach {
    fn covers(&self, operation: &OperationName, route: &[RouteStep]) -> bool {
        self.0.iter().any(|rule| {
            let place = match (&rule.peer, route) {
                (None, []) => true,
                // Only the pinned peer itself: what lies behind it is not named here.
                (Some(pinned), [RouteStep::Peer(peer)]) => pinned == peer,
                _ => false,
            };
            place && rule.operations.covers(operation.as_str())
        })
    }
}

/// Outbound secrets and other things that the assembly hands to one
/// registration; found by type, never inherited, never printed.
#[derive(Clone, Default)]
pub struct Capabilities(HashMap<TypeId, Arc<dyn Any + Send + Sync>>);

impl Capabilities {
    /// Adds one; a second of the same type replaces the first.
    #[must_use]
    pub fn with<T: Any + Send + Sync>(mut self, capability: T) -> Self {
        self.0.insert(TypeId::of::<T>(), Arc::new(capability));
        self
    }

    /// The one of this type.
    #[must_use]
    pub fn find<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.0.get(&TypeId::of::<T>())?.clone().downcast().ok()
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Capabilities({})", self.0.len())
    }
}

/// What reaches a caller while its call runs.
#[derive(Debug)]
pub enum InteractionEvent {
    /// How far it is.
    Progress(Value),
    /// A question; the answer goes back through `answer`.
    Ask {
        /// The question.
        question: Value,
        /// Takes the answer.
        answer: oneshot::Sender<Value>,
    },
}

/// The way back to a caller while its call runs.
#[derive(Clone, Debug, Default)]
pub struct Interaction {
    events: Option<mpsc::Sender<InteractionEvent>>,
    can_answer: bool,
}

impl Interaction {
    /// A caller that listens to nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// A caller that takes events, and may answer questions.
    #[must_use]
    pub fn to(events: mpsc::Sender<InteractionEvent>, can_answer: bool) -> Self {
        Self {
            events: Some(events),
            can_answer,
        }
    }

    /// Whether questions can be asked.
    #[must_use]
    pub fn can_answer(&self) -> bool {
        self.can_answer && self.events.is_some()
    }

    /// Whether anybody listens.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.events.is_some()
    }

    /// Reports progress; waits when the caller is slow.
    pub async fn progress(&self, progress: Value) {
        if let Some(events) = &self.events {
            // A caller that left hears nothing more; its call ends by itself.
            let _ = events.send(InteractionEvent::Progress(progress)).await;
        }
    }

    /// Asks the caller.
    ///
    /// # Errors
    ///
    /// `CONFLICT` if it cannot answer, `CANCELLED` if it left.
    pub async fn ask(&self, question: Value) -> Result<Value, CallError> {
        let events = self.events.as_ref().filter(|_| self.can_answer);
        let Some(events) = events else {
            return Err(CallError::new(
                ErrorCode::Conflict,
                "this operation has a question, and the caller cannot answer",
            ));
        };
        let gone = || CallError::new(ErrorCode::Cancelled, "the caller left before it answered");
        let (answer, answered) = oneshot::channel();
        events
            .send(InteractionEvent::Ask { question, answer })
            .await
            .map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }
}

pub(crate) struct ContextInner {
    pub(crate) call_id: CallId,
    pub(crate) parent_id: Option<CallId>,
    pub(crate) principal: Caller,
    pub(crate) originator: Option<Originator>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) interaction: Interaction,
    pub(crate) trace: Option<TraceContext>,
    pub(crate) route: Route,
    pub(crate) via: Vec<NodeId>,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) surface: Surface,
    pub(crate) entry: Arc<Entry>,
    pub(crate) door: Dispatcher,
}

/// What a handler knows of its call, and its way to other operations. Cheap to
/// clone.
#[derive(Clone)]
pub struct Context(pub(crate) Arc<ContextInner>);

impl Context {
    /// The call's id, which joins logs, audit rows and error messages.
    #[must_use]
    pub fn call_id(&self) -> CallId {
        self.0.call_id
    }

    /// The call whose handler made this one.
    #[must_use]
    pub fn parent_id(&self) -> Option<CallId> {
        self.0.parent_id
    }

    /// Who was checked for this call: the caller at the root, the parent's
    /// declared authority below it.
    #[must_use]
    pub fn principal(&self) -> &Caller {
        &self.0.principal
    }

    /// Who is said to have started it all.
    #[must_use]
    pub fn originator(&self) -> Option<&Originator> {
        self.0.originator.as_ref()
    }

    /// When the budget of the whole tree of calls ends.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline
    }

    /// What is left of the budget.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.0
            .deadline
            .map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// The name under which the operation was called.
    #[must_use]
    pub fn operation(&self) -> &OperationName {
        &self.0.entry.spec().name
    }

    /// The peers this call was sent through, itself excluded.
    #[must_use]
    pub fn route(&self) -> &[RouteStep] {
        &self.0.route
    }

    /// The nodes this call has passed.
    #[must_use]
    pub fn via(&self) -> &[NodeId] {
        &self.0.via
    }

    /// The caller's idempotency key.
    #[must_use]
    pub fn idempotency_key(&self) -> Option<&str> {
        self.0.idempotency_key.as_deref()
    }

    /// Tracing context.
    #[must_use]
    pub fn trace(&self) -> Option<&TraceContext> {
        self.0.trace.as_ref()
    }

    /// The protocol through which the call arrived.
    #[must_use]
    pub fn surface(&self) -> &Surface {
        &self.0.surface
    }

    /// The way back to the caller.
    #[must_use]
    pub fn interaction(&self) -> &Interaction {
        &self.0.interaction
    }

    /// A capability of this operation's own registration.
    #[must_use]
    pub fn capability<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.0.entry.capabilities().find()
    }

    /// A credential that this operation declared when it was registered.
    /// Neither an operation that it calls nor the one that called it has it.
    ///
    /// The secret is the one stored at this moment; a call that holds it keeps
    /// it while it runs.
    ///
    /// # Errors
    ///
    /// `UNAVAILABLE` if it was removed, or the vault was locked, since the call
    /// began; `INTERNAL` if the operation did not declare it.
    pub fn credential(&self, provider: &str, account: &str) -> Result<Arc<Secret>, CallError> {
        let mut slots = self.0.entry.credentials().iter();
        let slot = slots
            .find(|slot| slot.name().provider() == provider && slot.name().account() == account);
        match slot {
            Some(slot) => slot.secret(self.0.door.node_name()),
            None => {
                let operation = self.operation();
                let cause = format!(
                    "`{operation}` asks for credential `{provider}/{account}`, which it does not declare"
                );
                Err(CallError::internal(self.call_id(), &cause))
            }
        }
    }

    /// Reports progress to the caller, if it listens.
    pub async fn progress(&self, progress: &impl Serialize) {
        if self.0.interaction.is_listening() {
            self.0
                .interaction
                .progress(serde_json::to_value(progress).unwrap_or(Value::Null))
                .await;
        }
    }

    /// Asks the caller, and waits for its answer.
    ///
    /// # Errors
    ///
    /// `CONFLICT` if it cannot answer, `CANCELLED` if it left.
    pub async fn ask(&self, question: &impl Serialize) -> Result<Value, CallError> {
        self.0
            .interaction
            .ask(serde_json::to_value(question).unwrap_or(Value::Null))
            .await
    }

    /// Runs a task that outlives the call, owned by the node, which waits for
    /// it when it drains.
    ///
    /// # Errors
    ///
    /// `RATE_LIMITED` if the node runs too many of them.
    pub fn detached(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), CallError> {
        self.0.door.detach(self.0.call_id, task)
    }

    /// What this call was allowed, to be checked at every step of what it
    /// does, also by what outlives it.
    #[must_use]
    pub fn permit(&self) -> Permit {
        Permit {
            door: self.0.door.clone(),
            entry: self.0.entry.clone(),
            caller: Mutex::new(self.0.principal.clone()),
        }
    }

    /// A permit of another operation of this node, for the same caller, if it
    /// may call that too: for a handler that does on the way what that one
    /// does. It is the caller's right that is asked for, not the handler's, and
    /// the audit log says so.
    ///
    /// # Errors
    ///
    /// As [`Dispatcher::authorize`].
    pub fn permit_for(&self, operation: &str) -> Result<Permit, CallError> {
        let surface = self.0.surface.clone();
        let principal = &self.0.principal;
        self.0.door.authorize_from(principal, operation, surface)
    }

    /// Resolves when the node refuses new calls, to stop. What waits for
    /// others, with no end of its own, ends then.
    pub async fn draining(&self) {
        self.0.door.draining().await;
    }

    /// Other operations, as far as this one's registration reaches.
    #[must_use]
    pub fn env(&self) -> Env {
        Env {
            cx: self.clone(),
            route: Route::new(),
        }
    }

    pub(crate) fn door(&self) -> &Dispatcher {
        &self.0.door
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("call_id", &self.0.call_id)
            .field("operation", self.operation())
            .finish_non_exhaustive()
    }
}

/// A handler's way to other operations.
#[derive(Clone, Debug)]
pub struct Env {
    cx: Context,
    route: Route,
}

impl Env {
    /// The same, at a peer.
    #[must_use]
    pub fn on(&self, peer: PeerId) -> Env {
        Env {
            cx: self.cx.clone(),
            route: vec![RouteStep::Peer(peer)],
        }
    }

    /// Calls a query or a mutation.
    ///
    /// # Errors
    ///
    /// `NOT_FOUND` outside the declared reach; else as [`Dispatcher::call`].
    pub async fn call<O: DeserializeOwned>(
        &self,
        operation: &str,
        input: &impl Serialize,
    ) -> Result<O, CallError> {
        self.call_output(operation, Input::of(input)?)
            .await?
            .parse()
    }

    /// Calls a query or a mutation with JSON.
    ///
    /// # Errors
    ///
    /// `NOT_FOUND` outside the declared reach; else as [`Dispatcher::call`].
    pub async fn call_output(&self, operation: &str, input: Input) -> Result<Output, CallError> {
        let call = self.child(operation, input)?;
        // Boxed: a handler's future would otherwise contain itself.
        Box::pin(self.cx.door().call(call))
            .await
            .map(Reply::into_output)
    }

    /// Subscribes.
    ///
    /// # Errors
    ///
    /// `NOT_FOUND` outside the declared reach; else as [`Dispatcher::subscribe`].
    pub async fn subscribe(
        &self,
        operation: &str,
        input: &impl Serialize,
    ) -> Result<Subscription, CallError> {
        let call = self.child(operation, Input::of(input)?)?;
        Box::pin(self.cx.door().subscribe(call)).await
    }

    /// Opens a channel.
    ///
    /// # Errors
    ///
    /// `NOT_FOUND` outside the declared reach; else as [`Dispatcher::open`].
    pub async fn open(
        &self,
        operation: &str,
        input: &impl Serialize,
    ) -> Result<ChannelCall, CallError> {
        let call = self.child(operation, Input::of(input)?)?;
        Box::pin(self.cx.door().open(call)).await
    }

    /// A nested call: under the declared authority, within the declared reach
    /// and the parent's budget. Nothing else of the parent goes along but the
    /// note of who started it all and the tracing context.
    fn child(&self, operation: &str, input: Input) -> Result<Call, CallError> {
        let inner = &self.cx.0;
        let not_found = || CallError::not_found(operation);
        let name = OperationName::parse(operation).map_err(|_| not_found())?;
        let authority = inner.entry.authority().ok_or_else(not_found)?;
        if !authority.reach.covers(&name, &self.route) {
            return Err(not_found());
        }
        let depth = inner.principal.depth() + 1;
        if depth > inner.door.limits().composition_depth_max {
            let cause = format!("`{name}` is called {depth} levels below the root: a loop?");
            return Err(CallError::internal(inner.call_id, &cause));
        }
        let mut call = Call::named(name, Caller::nested(authority.identity.clone(), depth));
        call.parent = Some(inner.call_id);
        call.route.clone_from(&self.route);
        call.via.clone_from(&inner.via);
        call.input = input;
        call.originator = inner
            .originator
            .clone()
            .or_else(|| Some(inner.door.originator(&inner.principal)));
        call.deadline = inner.deadline;
        call.trace.clone_from(&inner.trace);
        call.surface = inner.surface.clone();
        Ok(call)
    }
}
