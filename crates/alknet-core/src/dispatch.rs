//! The door. Every call passes here, in one order: resolve, visibility,
//! access, limits, input schema, handler, output schema, error mapping, audit.

use crate::{
    audit::{AuditOutcome, AuditRow, AuditSink, AuditSlot},
    call::{Call, CallId, Input, NodeId, Originator, Output, RouteStep},
    context::{Context, ContextInner},
    discovery::suggestions,
    error::{CallError, ErrorClass, ErrorCode},
    gate::{Ask, gate, refusal, unauthenticated},
    handler::{ChannelEnd, ChannelOpening, Handler, ItemStream, channel_pair},
    idempotency::{self, Keyed},
    identity::{Caller, IdentityProvider, StaticIdentities},
    inflight::{InFlight, Place},
    limits::Limits,
    name::{OperationName, PeerId},
    permit::Permit,
    registry::{Entry, Registry, View},
    resource::ResourceKind,
    spec::{Kind, OperationSpec},
    storage::{
        IdempotencyStore, MemoryIdempotencyStore, NoOwnership, OwnershipProvider, SharedClock,
        Timestamp, system_clock,
    },
};
use futures::{FutureExt, Stream, StreamExt, stream::BoxStream};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{
    any::Any,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{self, Poll},
    time::Duration,
};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// Passes calls on to peers, of whose operations this node knows only those
/// it may call there.
pub trait Forwarder: Send + Sync + 'static {
    /// A handler that calls `operation` at `peer`, as an operation of `kind`.
    fn handler(&self, peer: &PeerId, operation: &OperationName, kind: Kind) -> Handler;
}

type KnownPeer = dyn Fn(&PeerId) -> bool + Send + Sync;

struct Inner {
    registry: Registry,
    identities: Arc<dyn IdentityProvider>,
    owners: Arc<dyn OwnershipProvider>,
    idempotency: Arc<dyn IdempotencyStore>,
    audit: AuditSink,
    limits: Limits,
    in_flight: InFlight,
    node_name: String,
    node_id: Option<NodeId>,
    known_peer: Option<Box<KnownPeer>>,
    forwarder: OnceLock<Arc<dyn Forwarder>>,
    clock: SharedClock,
    run: u64,
    draining: AtomicBool,
    detached: TaskTracker,
    panics: AtomicU64,
}

/// The door in front of a [`Registry`]. Cheap to clone.
#[derive(Clone)]
pub struct Dispatcher(Arc<Inner>);

/// Puts a door together; what is not set is in memory, and nobody is known.
#[must_use]
pub struct DispatcherBuilder(Inner);

impl DispatcherBuilder {
    /// Who is known.
    pub fn identities(mut self, identities: Arc<dyn IdentityProvider>) -> Self {
        self.0.identities = identities;
        self
    }

    /// Who made which resource.
    pub fn owners(mut self, owners: Arc<dyn OwnershipProvider>) -> Self {
        self.0.owners = owners;
        self
    }

    /// Where outcomes of keyed calls are kept.
    pub fn idempotency(mut self, store: Arc<dyn IdempotencyStore>) -> Self {
        self.0.idempotency = store;
        self
    }

    /// Where audit rows go.
    pub fn audit(mut self, audit: AuditSink) -> Self {
        self.0.audit = audit;
        self
    }

    /// What callers may ask.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.0.in_flight = InFlight::new(limits.clone());
        self.0.limits = limits;
        self
    }

    /// How this node calls itself, and the key that names it.
    pub fn node(mut self, name: impl Into<String>, id: NodeId) -> Self {
        self.0.node_name = name.into();
        self.0.node_id = Some(id);
        self
    }

    /// Tells known peers that are not connected from unknown ones.
    pub fn known_peer(mut self, known: impl Fn(&PeerId) -> bool + Send + Sync + 'static) -> Self {
        self.0.known_peer = Some(Box::new(known));
        self
    }

    /// Wall time.
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.0.clock = clock;
        self
    }

    /// Tells this run of the node from earlier ones.
    pub fn run(mut self, run: u64) -> Self {
        self.0.run = run;
        self
    }

    /// The door.
    #[must_use]
    pub fn build(self) -> Dispatcher {
        Dispatcher(Arc::new(self.0))
    }
}

/// The reply to a query or a mutation.
#[derive(Clone, Debug)]
pub struct Reply {
    call_id: CallId,
    output: Output,
}

impl Reply {
    /// The id under which the call is in the audit log.
    #[must_use]
    pub fn call_id(&self) -> CallId {
        self.call_id
    }

    /// The JSON text.
    #[must_use]
    pub fn bytes(&self) -> bytes::Bytes {
        self.output.bytes()
    }

    /// The output itself.
    #[must_use]
    pub fn into_output(self) -> Output {
        self.output
    }

    /// Reads it as `T`.
    ///
    /// # Errors
    ///
    /// `INTERNAL` if it is something else.
    pub fn parse<T: DeserializeOwned>(self) -> Result<T, CallError> {
        self.output.parse()
    }
}

/// Items of a subscription: a [`Stream`] that ends after its last item, or
/// with one error. Dropping it cancels the handler.
pub struct Subscription {
    call_id: CallId,
    items: BoxStream<'static, Result<Output, CallError>>,
}

impl Subscription {
    /// A subscription served elsewhere.
    #[must_use]
    pub fn from_stream(
        call_id: CallId,
        items: BoxStream<'static, Result<Output, CallError>>,
    ) -> Self {
        Self { call_id, items }
    }

    /// The id under which the call is in the audit log.
    #[must_use]
    pub fn call_id(&self) -> CallId {
        self.call_id
    }
}

impl Stream for Subscription {
    type Item = Result<Output, CallError>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Option<Self::Item>> {
        self.items.poll_next_unpin(cx)
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription")
            .field("call_id", &self.call_id)
            .finish_non_exhaustive()
    }
}

/// An open channel: its opening reply, its bytes, its result. Dropping `done`
/// cancels the handler.
#[derive(Debug)]
pub struct ChannelCall {
    /// The id under which the call is in the audit log.
    pub call_id: CallId,
    /// The opening reply.
    pub reply: Output,
    /// Bytes and control messages.
    pub channel: ChannelEnd,
    /// The result, once the handler has ended.
    pub done: ChannelDone,
}

/// Resolves to the result of a channel.
#[derive(Debug)]
pub struct ChannelDone(AbortOnDropHandle<Result<Output, CallError>>);

impl ChannelDone {
    /// The result that a task comes to.
    #[must_use]
    pub fn of(task: tokio::task::JoinHandle<Result<Output, CallError>>) -> Self {
        Self(AbortOnDropHandle::new(task))
    }
}

impl Future for ChannelDone {
    type Output = Result<Output, CallError>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        self.0.poll_unpin(cx).map(|joined| {
            joined.unwrap_or_else(|error| {
                Err(CallError::new(
                    ErrorCode::Internal,
                    format!("the channel's task ended: {error}"),
                ))
            })
        })
    }
}

/// How the caller asks, which must fit the operation's kind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Unary,
    Subscription,
    Channel,
}

impl Expect {
    /// The kind to assume of an operation that is not known here.
    fn kind(self) -> Kind {
        match self {
            Expect::Unary => Kind::Mutation,
            Expect::Subscription => Kind::Subscription,
            Expect::Channel => Kind::Channel,
        }
    }

    fn fits(self, kind: Kind) -> bool {
        match self {
            Expect::Unary => kind.is_unary(),
            Expect::Subscription => kind == Kind::Subscription,
            Expect::Channel => kind == Kind::Channel,
        }
    }
}

/// A call that may run.
struct Admitted {
    entry: Arc<Entry>,
    caller: Caller,
    input: Input,
    deadline: Option<Instant>,
    place: Place,
}

impl Dispatcher {
    /// Starts putting a door together.
    pub fn builder(registry: Registry) -> DispatcherBuilder {
        let limits = Limits::default();
        DispatcherBuilder(Inner {
            registry,
            identities: Arc::new(StaticIdentities::default()),
            owners: Arc::new(NoOwnership),
            idempotency: Arc::new(MemoryIdempotencyStore::default()),
            audit: AuditSink::discard(),
            in_flight: InFlight::new(limits.clone()),
            limits,
            node_name: "node".into(),
            node_id: None,
            known_peer: None,
            forwarder: OnceLock::new(),
            clock: system_clock(),
            run: 0,
            draining: AtomicBool::new(false),
            detached: TaskTracker::new(),
            panics: AtomicU64::new(0),
        })
    }

    /// Runs a query or a mutation and returns its reply.
    ///
    /// Dropping the future cancels the handler, and everything that it called,
    /// at its next await point.
    ///
    /// # Errors
    ///
    /// Any protocol error of [`ErrorCode`], or a domain error that the
    /// operation declares.
    pub async fn call(&self, call: Call) -> Result<Reply, CallError> {
        if call.route == [RouteStep::Any] {
            return self.call_any(call).await;
        }
        let call_id = call.id;
        let mut record = Record::begin(self, &call).await;
        let outcome = self.run_unary(call, &mut record).await;
        match &outcome {
            Ok(output) => record.end(None, output_len(output)),
            Err(error) => record.end(Some(error), 0),
        }
        outcome.map(|output| Reply { call_id, output })
    }

    async fn run_unary(&self, mut call: Call, record: &mut Record) -> Result<Output, CallError> {
        let admitted = self.admit(&mut call, Expect::Unary, record)?;
        let spec = admitted.entry.spec();
        let keyed = match (&admitted.input, admitted.entry.peer()) {
            (Input::Value(value), None) => idempotency::begin(self, &call, spec, value).await?,
            // A peer's operation is kept apart by the peer itself.
            _ => Keyed::Plain,
        };
        let scope = match keyed {
            Keyed::Plain => None,
            Keyed::Started(scope) => Some(scope),
            Keyed::Replay(outcome) => return outcome,
        };
        let Handler::Unary(run) = &admitted.entry.handler else {
            return Err(wrong_kind(spec));
        };
        let cx = self.context(&mut call, &admitted);
        let reply = async {
            AssertUnwindSafe(async { run(cx, admitted.input).await })
                .catch_unwind()
                .await
        };
        let ended = match admitted.deadline {
            Some(at) => timeout_at(at, reply).await.map_err(|_| timeout(spec))?,
            None => reply.await,
        };
        let outcome = match ended {
            Ok(outcome) => self.checked(call.id, &admitted.entry, outcome),
            Err(panic) => Err(self.panicked(call.id, spec, &*panic)),
        };
        if let Some(scope) = scope {
            idempotency::finish(self, &call, spec, &scope, &outcome).await?;
        }
        drop(admitted.place);
        outcome
    }

    /// Tries peers that offer the operation: a query that was lost is asked
    /// once more elsewhere; a mutation never is.
    async fn call_any(&self, call: Call) -> Result<Reply, CallError> {
        let peers = self.any(&call)?;
        let mut last = None;
        for (peer, kind) in peers.into_iter().take(2) {
            let attempt = Call {
                route: vec![RouteStep::Peer(peer)],
                id: if last.is_some() {
                    CallId::new()
                } else {
                    call.id
                },
                ..call.clone()
            };
            match Box::pin(self.call(attempt)).await {
                Err(error)
                    if error.is(ErrorCode::Unavailable)
                        || (kind == Kind::Query && error.is(ErrorCode::Lost)) =>
                {
                    last = Some(error)
                }
                outcome => return outcome,
            }
        }
        Err(last.unwrap_or_else(|| CallError::not_found(call.operation.as_str())))
    }

    /// Peers that offer the operation and that the caller may use.
    fn any(&self, call: &Call) -> Result<Vec<(PeerId, Kind)>, CallError> {
        let caller = call
            .caller
            .refreshed(self.identities())
            .ok_or_else(unauthenticated)?;
        let view = self.0.registry.view();
        let may = |entry: &&Arc<Entry>| gate(&caller, entry, Ask::Probe, self.owners()).is_allow();
        let found: Vec<_> = view
            .offering(&call.operation)
            .into_iter()
            .filter(may)
            .filter_map(|entry| Some((entry.peer()?.clone(), entry.spec().kind)))
            .collect();
        match found.is_empty() {
            true if !caller.is_authenticated() => Err(unauthenticated()),
            true => Err(CallError::not_found(call.operation.as_str())),
            false => Ok(found),
        }
    }

    fn settle_any(&self, call: &mut Call) -> Result<(), CallError> {
        if call.route == [RouteStep::Any]
            && let Some((peer, _)) = self.any(call)?.into_iter().next()
        {
            call.route = vec![RouteStep::Peer(peer)];
        }
        Ok(())
    }

    /// Starts a subscription.
    ///
    /// # Errors
    ///
    /// As [`Dispatcher::call`], before the first item; later errors end the
    /// stream. A caller that loses its right sees the stream end with
    /// `FORBIDDEN` or `UNAUTHENTICATED` within a second.
    pub async fn subscribe(&self, mut call: Call) -> Result<Subscription, CallError> {
        let call_id = call.id;
        let mut record = Record::begin(self, &call).await;
        match self.run_subscription(&mut call, &mut record).await {
            Err(error) => {
                record.end(Some(&error), 0);
                Err(error)
            }
            Ok((items, admitted)) => {
                let running = RunningStream::new(self, items, admitted, record, call_id);
                let items = futures::stream::unfold(running, |mut running| async move {
                    running.next().await.map(|item| (item, running))
                });
                Ok(Subscription {
                    call_id,
                    items: items.boxed(),
                })
            }
        }
    }

    async fn run_subscription(
        &self,
        call: &mut Call,
        record: &mut Record,
    ) -> Result<(ItemStream, Admitted), CallError> {
        self.settle_any(call)?;
        let admitted = self.admit(call, Expect::Subscription, record)?;
        let spec = admitted.entry.spec();
        let Handler::Stream(run) = &admitted.entry.handler else {
            return Err(wrong_kind(spec));
        };
        let cx = self.context(call, &admitted);
        let input = admitted.input.clone();
        let opened = AssertUnwindSafe(async { run(cx, input).await }).catch_unwind();
        let opened = match admitted.deadline {
            Some(at) => timeout_at(at, opened).await.map_err(|_| timeout(spec))?,
            None => opened.await,
        };
        match opened {
            Ok(Ok(items)) => Ok((items, admitted)),
            Ok(Err(error)) => Err(self.mapped(call.id, &admitted.entry, error)),
            Err(panic) => Err(self.panicked(call.id, spec, &*panic)),
        }
    }

    /// Opens a channel.
    ///
    /// # Errors
    ///
    /// As [`Dispatcher::call`], until the handler has accepted; what comes
    /// later is the channel's result.
    pub async fn open(&self, mut call: Call) -> Result<ChannelCall, CallError> {
        let call_id = call.id;
        let mut record = Record::begin(self, &call).await;
        let admitted = self
            .settle_any(&mut call)
            .and_then(|()| self.admit(&mut call, Expect::Channel, &mut record));
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(error) => {
                record.end(Some(&error), 0);
                return Err(error);
            }
        };
        let (ours, theirs) = channel_pair();
        let (accept, accepted) = oneshot::channel();
        let entry = admitted.entry.clone();
        let running = self.clone().run_channel(
            call,
            admitted,
            record,
            ChannelOpening {
                accept,
                channel: theirs,
            },
        );
        let mut task = AbortOnDropHandle::new(tokio::spawn(running));
        match accepted.await {
            Ok(reply) => {
                let reply = self.check_output(call_id, &entry, reply)?;
                Ok(ChannelCall {
                    call_id,
                    reply,
                    channel: ours,
                    done: ChannelDone(task),
                })
            }
            Err(_) => match (&mut task).await {
                Ok(Err(error)) => Err(error),
                Ok(Ok(_)) => Err(CallError::internal(
                    call_id,
                    &"the handler ended without accepting the channel",
                )),
                Err(error) => Err(CallError::internal(call_id, &error)),
            },
        }
    }

    async fn run_channel(
        self,
        mut call: Call,
        admitted: Admitted,
        mut record: Record,
        opening: ChannelOpening,
    ) -> Result<Output, CallError> {
        let spec = admitted.entry.spec();
        record.count(opening.channel.rx.counter(), opening.channel.tx.counter());
        let Handler::Channel(run) = &admitted.entry.handler else {
            let error = wrong_kind(spec);
            record.end(Some(&error), 0);
            return Err(error);
        };
        let cx = self.context(&mut call, &admitted);
        let input = admitted.input.clone();
        let ended = AssertUnwindSafe(async { run(cx, input, opening).await }).catch_unwind();
        let deadline = async {
            match admitted.deadline {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let outcome = tokio::select! {
            ended = ended => match ended {
                Ok(Ok(output)) => Ok(output),
                Ok(Err(error)) => Err(self.mapped(call.id, &admitted.entry, error)),
                Err(panic) => Err(self.panicked(call.id, spec, &*panic)),
            },
            refused = self.revoked(&admitted) => Err(refused),
            () = deadline => Err(timeout(spec)),
        };
        record.end(outcome.as_ref().err(), 0);
        outcome
    }

    /// Runs many queries and mutations at once, at most 16 at a time; answers
    /// come as they finish, with the position of their call.
    pub fn batch(
        &self,
        calls: Vec<Call>,
    ) -> impl Stream<Item = (usize, Result<Reply, CallError>)> + Send + 'static {
        let door = self.clone();
        let most = door.limits().batch_in_flight_max;
        let over = calls.len() > door.limits().batch_calls_max;
        futures::stream::iter(calls.into_iter().enumerate())
            .map(move |(at, call)| {
                let door = door.clone();
                async move {
                    if over {
                        let most = door.limits().batch_calls_max;
                        return (
                            at,
                            Err(CallError::new(
                                ErrorCode::TooLarge,
                                format!("a batch has at most {most} calls"),
                            )),
                        );
                    }
                    (at, door.call(call).await)
                }
            })
            .buffer_unordered(most)
    }

    /// Asks once for what a data plane then checks at every step.
    ///
    /// # Errors
    ///
    /// As the gate of a call to `operation` says, with no input looked at.
    pub fn authorize(&self, caller: &Caller, operation: &str) -> Result<Permit, CallError> {
        let caller = caller
            .refreshed(self.identities())
            .ok_or_else(unauthenticated)?;
        let missing = || {
            if caller.is_authenticated() {
                CallError::not_found(operation)
            } else {
                unauthenticated()
            }
        };
        let name = OperationName::parse(operation).map_err(|_| missing())?;
        let entry = self
            .0
            .registry
            .view()
            .resolve(&name, &[], None)
            .ok_or_else(missing)?;
        match refusal(
            gate(&caller, &entry, Ask::Probe, self.owners()),
            &caller,
            &entry,
        ) {
            Some(refused) => Err(refused),
            None => Ok(Permit {
                door: self.clone(),
                entry,
                caller: Mutex::new(caller),
            }),
        }
    }

    /// Whether `caller` could call `entry` with some input: what every listing
    /// asks.
    #[must_use]
    pub fn may_see(&self, caller: &Caller, entry: &Entry) -> bool {
        gate(caller, entry, Ask::Probe, self.owners()).is_allow()
    }

    fn admit(
        &self,
        call: &mut Call,
        expect: Expect,
        record: &mut Record,
    ) -> Result<Admitted, CallError> {
        if self.0.draining.load(Ordering::Relaxed) {
            return Err(CallError::new(
                ErrorCode::Unavailable,
                "the node is shutting down",
            ));
        }
        // Resolve.
        let caller = call
            .caller
            .refreshed(self.identities())
            .ok_or_else(unauthenticated)?;
        let view = self.0.registry.view();
        let entry = self.resolve(&view, call, &caller, expect)?;
        let spec = entry.spec();
        // Visibility and access, as far as they can be known without the input:
        // a caller without the right learns nothing from how it is parsed.
        if let Some(refused) = refusal(
            gate(&caller, &entry, Ask::Probe, self.owners()),
            &caller,
            &entry,
        ) {
            return Err(refused);
        }
        let most = spec
            .limits
            .input_bytes_max
            .unwrap_or(self.0.limits.input_bytes_max)
            .min(self.0.limits.input_bytes_ceiling);
        if call.input.len() > most {
            return Err(CallError::new(
                ErrorCode::TooLarge,
                format!(
                    "the input has {} bytes, at most {most} are allowed",
                    call.input.len()
                ),
            ));
        }
        let mut input = std::mem::take(&mut call.input);
        if entry.peer().is_none() {
            let mut value = input.into_value()?;
            let decision = gate(&caller, &entry, Ask::Input(&mut value), self.owners());
            if let crate::gate::Decision::Allow(resources) = &decision {
                record.resources(resources);
            }
            if let Some(refused) = refusal(decision, &caller, &entry) {
                return Err(refused);
            }
            input = Input::Value(value);
        }
        if !expect.fits(spec.kind) {
            return Err(wrong_kind(spec));
        }
        if spec.approve {
            let details = serde_json::json!({ "request_id": call.id.to_string() });
            return Err(CallError::new(
                ErrorCode::ApprovalRequired,
                format!("`{}` needs a person's approval", spec.name),
            )
            .with_details(details));
        }
        // Limits.
        let place = self.0.in_flight.enter(
            &caller,
            &spec.name,
            spec.limits.in_flight_max,
            expect == Expect::Subscription,
        )?;
        let deadline = self.deadline(call, spec)?;
        // Input schema.
        if let Input::Value(value) = &input {
            self.0.registry.ready(&entry);
            spec.input.check(value).map_err(CallError::invalid_input)?;
        }
        Ok(Admitted {
            entry,
            caller,
            input,
            deadline,
            place,
        })
    }

    fn resolve(
        &self,
        view: &View,
        call: &Call,
        caller: &Caller,
        expect: Expect,
    ) -> Result<Arc<Entry>, CallError> {
        let name = &call.operation;
        if let Some(entry) = view.resolve(name, &call.route, call.session.as_deref()) {
            return Ok(entry);
        }
        if !caller.is_authenticated() {
            return Err(unauthenticated());
        }
        let [RouteStep::Peer(peer)] = call.route.as_slice() else {
            if call.route.len() > 1 {
                return Err(CallError::new(
                    ErrorCode::NotFound,
                    "a route of more than one peer is not served",
                ));
            }
            let near = suggestions(self, view, caller, None, name.as_str());
            return Err(with_suggestions(CallError::not_found(name.as_str()), near));
        };
        // Whoever may not use a peer is told the same whether it exists or not.
        if !caller
            .identity()
            .resources
            .holds(ResourceKind::Peer, name.as_str(), peer.as_str())
        {
            let missing = format!("peer:{peer}={name}");
            let message = format!(
                "`{}` may not call `{name}` on `{peer}`: missing resource `{missing}`",
                caller.id()
            );
            let details = serde_json::json!({ "caller": caller.id(), "operation": name, "missing": { "resource": missing }, "grant": missing });
            return Err(CallError::new(ErrorCode::Forbidden, message).with_details(details));
        }
        let known = self.0.known_peer.as_ref().is_none_or(|known| known(peer));
        // What this node knows of a peer is what it may call there. Anything
        // else the peer itself refuses, and says what is missing.
        if known && let Some(forwarder) = self.0.forwarder.get() {
            let handler = forwarder.handler(peer, name, expect.kind());
            return Ok(Arc::new(Entry::unlisted(
                name,
                expect.kind(),
                peer,
                handler,
            )));
        }
        if view.has_peer(peer) {
            let near = suggestions(self, view, caller, Some(peer), name.as_str());
            let message = format!("peer `{peer}` does not offer `{name}`");
            let error = CallError::new(ErrorCode::NotFound, message);
            let error = error.with_details(serde_json::json!({ "operation": name, "peer": peer }));
            return Err(with_suggestions(error, near));
        }
        Err(if known {
            CallError::new(
                ErrorCode::Unavailable,
                format!("peer `{peer}` is not connected"),
            )
            .with_details(serde_json::json!({ "peer": peer }))
        } else {
            CallError::new(ErrorCode::NotFound, format!("no peer `{peer}`"))
                .with_details(serde_json::json!({ "peer": peer }))
        })
    }

    /// One budget for the whole tree: what the caller has left, what the
    /// operation allows, whichever is less.
    fn deadline(&self, call: &Call, spec: &OperationSpec) -> Result<Option<Instant>, CallError> {
        let now = Instant::now();
        let own = if spec.kind.is_unary() {
            let most = spec.limits.timeout.unwrap_or(self.0.limits.deadline_max);
            let default = spec
                .limits
                .timeout
                .unwrap_or(self.0.limits.deadline_default);
            Some(
                now + if call.deadline.is_some() {
                    most
                } else {
                    default
                },
            )
        } else {
            spec.limits.timeout.map(|timeout| now + timeout)
        };
        let deadline = [own, call.deadline].into_iter().flatten().min();
        if deadline.is_some_and(|at| at <= now) {
            return Err(timeout(spec));
        }
        Ok(deadline)
    }

    fn context(&self, call: &mut Call, admitted: &Admitted) -> Context {
        Context(Arc::new(ContextInner {
            call_id: call.id,
            parent_id: call.parent,
            principal: admitted.caller.clone(),
            originator: call.originator.clone(),
            deadline: admitted.deadline,
            interaction: std::mem::take(&mut call.interaction),
            trace: call.trace.clone(),
            route: std::mem::take(&mut call.route),
            via: std::mem::take(&mut call.via),
            idempotency_key: call.idempotency_key.clone(),
            surface: call.surface.clone(),
            entry: admitted.entry.clone(),
            door: self.clone(),
        }))
    }

    fn checked(
        &self,
        call: CallId,
        entry: &Entry,
        outcome: Result<Output, CallError>,
    ) -> Result<Output, CallError> {
        match outcome {
            Ok(output) => self.check_output(call, entry, output),
            Err(error) => Err(self.mapped(call, entry, error)),
        }
    }

    /// Output schema. What a peer sends was checked there.
    fn check_output(
        &self,
        call: CallId,
        entry: &Entry,
        output: Output,
    ) -> Result<Output, CallError> {
        if entry.peer().is_some() {
            return Ok(output);
        }
        let value = output
            .into_value()
            .map_err(|error| CallError::internal(call, &error))?;
        match entry.spec().output.check(&value) {
            Ok(()) => Ok(Output::Value(value)),
            Err(violations) => {
                let first = violations
                    .into_iter()
                    .next()
                    .map(|v| format!("`{}`: {}", v.pointer, v.message))
                    .unwrap_or_default();
                Err(CallError::internal(
                    call,
                    &format!(
                        "output of `{}` breaks its schema: {first}",
                        entry.spec().name
                    ),
                ))
            }
        }
    }

    /// Error mapping: protocol errors and declared domain errors pass.
    fn mapped(&self, call: CallId, entry: &Entry, error: CallError) -> CallError {
        let declared = entry
            .spec()
            .errors
            .iter()
            .any(|spec| spec.code == error.code);
        match error.class {
            ErrorClass::Domain if !declared && entry.peer().is_none() => CallError::internal(
                call,
                &format!(
                    "`{}` failed with undeclared `{}`: {}",
                    entry.spec().name,
                    error.code,
                    error.message
                ),
            ),
            ErrorClass::Protocol
                if error.is(ErrorCode::Internal)
                    && entry.peer().is_none()
                    && error.details.is_none() =>
            {
                CallError::internal(call, &error.message)
            }
            _ => error,
        }
    }

    fn panicked(&self, call: CallId, spec: &OperationSpec, panic: &(dyn Any + Send)) -> CallError {
        self.0.panics.fetch_add(1, Ordering::Relaxed);
        let text = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned());
        CallError::internal(
            call,
            &format!("`{}` panicked: {}", spec.name, text.unwrap_or_default()),
        )
    }

    /// Resolves when the caller may no longer make this call.
    async fn revoked(&self, admitted: &Admitted) -> CallError {
        let mut changes = self.identities().changes();
        loop {
            if let Err(refused) = self.recheck(admitted) {
                return refused;
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// The gate once more, with the rights of now and the input as it was.
    fn recheck(&self, admitted: &Admitted) -> Result<(), CallError> {
        let caller = admitted
            .caller
            .refreshed(self.identities())
            .ok_or_else(unauthenticated)?;
        let decision = match &admitted.input {
            Input::Value(value) => gate(
                &caller,
                &admitted.entry,
                Ask::Input(&mut value.clone()),
                self.owners(),
            ),
            Input::Json(_) => gate(&caller, &admitted.entry, Ask::Probe, self.owners()),
        };
        refusal(decision, &caller, &admitted.entry).map_or(Ok(()), Err)
    }

    pub(crate) fn detach(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), CallError> {
        if self.0.detached.len() >= self.0.limits.detached_max {
            return Err(CallError::new(
                ErrorCode::RateLimited,
                "the node runs as many detached tasks as it may",
            ));
        }
        let guarded = AssertUnwindSafe(task).catch_unwind().map(|ended| {
            if ended.is_err() {
                tracing::error!("a detached task panicked");
            }
        });
        self.0.detached.spawn(guarded);
        Ok(())
    }

    /// Refuses new calls from here on.
    pub fn begin_drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
        self.0.detached.close();
    }

    /// Waits until no call and no detached task runs, or the time is over;
    /// says whether all had ended.
    pub async fn drained(&self, most: Duration) -> bool {
        let until = Instant::now() + most;
        let calls = async {
            while self.0.in_flight.count() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            self.0.detached.wait().await;
        };
        timeout_at(until, calls).await.is_ok()
    }

    /// Calls in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.0.in_flight.count()
    }

    /// Handlers that panicked since the start.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.0.panics.load(Ordering::Relaxed)
    }

    /// Lets calls to peers through that are not listed here; the first one
    /// that is set stays.
    pub fn set_forwarder(&self, forwarder: Arc<dyn Forwarder>) {
        // Set twice means put together twice; the first serves.
        let _ = self.0.forwarder.set(forwarder);
    }

    /// The registry behind this door.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// Who is known.
    #[must_use]
    pub fn identities(&self) -> &dyn IdentityProvider {
        &*self.0.identities
    }

    /// What callers may ask.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Where audit rows go.
    #[must_use]
    pub fn audit(&self) -> &AuditSink {
        &self.0.audit
    }

    /// How this node calls itself.
    #[must_use]
    pub fn node_name(&self) -> &str {
        &self.0.node_name
    }

    /// The key that names this node.
    #[must_use]
    pub fn node_id(&self) -> Option<&NodeId> {
        self.0.node_id.as_ref()
    }

    /// The note that names `caller` as the one who started it all.
    #[must_use]
    pub fn originator(&self, caller: &Caller) -> Originator {
        Originator {
            node: self.0.node_name.clone(),
            label: caller.id().to_string(),
        }
    }

    pub(crate) fn owners(&self) -> &dyn OwnershipProvider {
        &*self.0.owners
    }

    pub(crate) fn idempotency(&self) -> &dyn IdempotencyStore {
        &*self.0.idempotency
    }

    pub(crate) fn run(&self) -> u64 {
        self.0.run
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.0.clock)()
    }
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatcher")
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

fn output_len(output: &Output) -> u64 {
    match output {
        Output::Json(text) => text.len() as u64,
        // Known once a surface has written it out; inside the process nothing is.
        Output::Value(_) => 0,
    }
}

fn wrong_kind(spec: &OperationSpec) -> CallError {
    let message = format!("`{}` is a {}", spec.name, spec.kind);
    CallError::new(ErrorCode::InvalidOperationType, message)
        .with_details(serde_json::json!({ "kind": spec.kind }))
}

fn timeout(spec: &OperationSpec) -> CallError {
    CallError::new(
        ErrorCode::Timeout,
        format!("`{}` did not answer in time", spec.name),
    )
}

fn with_suggestions(error: CallError, near: Vec<String>) -> CallError {
    if near.is_empty() {
        return error;
    }
    let mut details = error
        .details
        .as_deref()
        .cloned()
        .unwrap_or(Value::Object(serde_json::Map::new()));
    details["suggestions"] = serde_json::json!(near);
    error.with_details(details)
}

/// A subscription that runs: its items, and what ends it early.
struct RunningStream {
    door: Dispatcher,
    items: ItemStream,
    admitted: Admitted,
    changes: watch::Receiver<u64>,
    record: Record,
    bytes_out: u64,
    call_id: CallId,
    ended: bool,
}

impl RunningStream {
    fn new(
        door: &Dispatcher,
        items: ItemStream,
        admitted: Admitted,
        record: Record,
        call_id: CallId,
    ) -> Self {
        let mut changes = door.identities().changes();
        // Whatever changed since the gate was asked is looked at first.
        changes.mark_changed();
        Self {
            door: door.clone(),
            items,
            admitted,
            changes,
            record,
            bytes_out: 0,
            call_id,
            ended: false,
        }
    }

    async fn next(&mut self) -> Option<Result<Output, CallError>> {
        if self.ended {
            return None;
        }
        loop {
            let deadline = self.admitted.deadline;
            let timer = async {
                match deadline {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let outcome = tokio::select! {
                changed = self.changes.changed() => match self.door.recheck(&self.admitted) {
                    Ok(()) if changed.is_ok() => continue,
                    Ok(()) => AssertUnwindSafe(self.items.next()).catch_unwind().await,
                    Err(refused) => return self.fail(refused),
                },
                item = AssertUnwindSafe(self.items.next()).catch_unwind() => item,
                () = timer => return self.fail(timeout(self.admitted.entry.spec())),
            };
            let entry = &self.admitted.entry;
            return match outcome {
                Ok(None) => {
                    self.ended = true;
                    self.record.end(None, self.bytes_out);
                    None
                }
                Ok(Some(item)) => match self.door.checked(self.call_id, entry, item) {
                    Ok(output) => {
                        self.bytes_out += output_len(&output);
                        Some(Ok(output))
                    }
                    Err(error) => self.fail(error),
                },
                Err(panic) => {
                    let error = self.door.panicked(self.call_id, entry.spec(), &*panic);
                    self.fail(error)
                }
            };
        }
    }

    fn fail(&mut self, error: CallError) -> Option<Result<Output, CallError>> {
        self.ended = true;
        self.record.end(Some(&error), self.bytes_out);
        // The handler ends now, not when the reader drops the stream.
        self.items = futures::stream::empty().boxed();
        Some(Err(error))
    }
}

/// The audit row of a call under way. Whatever happens to the call, its row is
/// written: a dropped call was cancelled.
struct Record {
    slot: Option<AuditSlot>,
    row: Option<Box<AuditRow>>,
    started: Instant,
    counters: Option<(crate::ByteCounter, crate::ByteCounter)>,
}

impl Record {
    async fn begin(door: &Dispatcher, call: &Call) -> Self {
        let slot = door.0.audit.slot().await;
        let row = slot.is_kept().then(|| {
            Box::new(AuditRow {
                at: door.now(),
                call_id: call.id.to_string(),
                parent_id: call.parent.map(|id| id.to_string()),
                caller: call.caller.id().to_string(),
                originator: call.originator.as_ref().map(ToString::to_string),
                surface: call.surface.clone(),
                operation: call.operation.to_string(),
                route: (!call.route.is_empty()).then(|| {
                    call.route
                        .iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                        .join("/")
                }),
                resource: None,
                outcome: AuditOutcome::OK,
                detail: None,
                duration_us: 0,
                bytes_in: call.input.len() as u64,
                bytes_out: 0,
            })
        });
        Self {
            slot: Some(slot),
            row,
            started: Instant::now(),
            counters: None,
        }
    }

    fn resources(&mut self, resources: &[String]) {
        if let Some(row) = &mut self.row
            && !resources.is_empty()
        {
            row.resource = Some(resources.join(" "));
        }
    }

    fn count(&mut self, bytes_in: crate::ByteCounter, bytes_out: crate::ByteCounter) {
        self.counters = Some((bytes_in, bytes_out));
    }

    fn end(&mut self, error: Option<&CallError>, bytes_out: u64) {
        let (Some(slot), Some(mut row)) = (self.slot.take(), self.row.take()) else {
            return;
        };
        if let Some(error) = error {
            row.outcome = AuditOutcome::code(error.code.clone());
            // What was missing; messages of other errors may quote the input.
            if error.is(ErrorCode::Forbidden) {
                row.detail = error
                    .details
                    .as_ref()
                    .and_then(|details| details.get("missing"))
                    .map(ToString::to_string);
            }
        }
        row.duration_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        row.bytes_out = bytes_out;
        if let Some((bytes_in, bytes_out)) = &self.counters {
            row.bytes_in += bytes_in.bytes();
            row.bytes_out += bytes_out.bytes();
        }
        slot.fill(*row);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.row.is_some() {
            let cancelled = CallError::new(ErrorCode::Cancelled, "cancelled by the caller");
            self.end(Some(&cancelled), 0);
        }
    }
}
