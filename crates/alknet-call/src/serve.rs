//! The server: accepts streams, reads one call from each, hands it to the
//! door, and sends its outcome.

use crate::{
    callee::{Callee, ends_at_once, nothing_else},
    channel::{ChannelIo, ChannelWindows},
    codec::Decoder,
    frame::{CallKind, Frame, Invoke, PeerLimits},
    limits::{INPUT_RATE_MIN, WireLimits, stream_code},
    session::{Running, Strikes},
    wire::{Party, Step, Wire, WireError},
};
use alknet_core::{
    Call, CallError, CallId, Caller, Dispatcher, ErrorCode, Input, Interaction, OperationName,
    Originator, PIPE_WINDOW_BYTES, PeerId, Reply, Route, RouteStep, Subscription, Surface,
    TraceContext, clean_foreign_text,
    transport::{BiStream, Connection},
};
use bytes::Bytes;
use futures::StreamExt;
use std::{
    future::pending,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    select,
    sync::Semaphore,
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

/// Longest budget that is taken at its word.
const BUDGET_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// What serving a connection needs.
pub(crate) struct Serving {
    pub(crate) connection: Arc<dyn Connection>,
    pub(crate) door: Option<Dispatcher>,
    pub(crate) caller: Caller,
    pub(crate) limits: WireLimits,
    pub(crate) remote: PeerLimits,
    pub(crate) inputs: Arc<Semaphore>,
    pub(crate) unread: Unread,
    pub(crate) strikes: Arc<Strikes>,
    pub(crate) running: Arc<Running>,
}

/// Serves calls until the connection ends; then every call of it has ended.
pub(crate) async fn serve(serving: Arc<Serving>) {
    let mut streams = JoinSet::new();
    // A task of its own: beside `accept_bi` it would be asked with every call.
    let _refusing = AbortOnDropHandle::new(tokio::spawn(refuse_uni(serving.clone())));
    while let Ok(stream) = serving.connection.accept_bi().await {
        while let Some(ended) = streams.try_join_next() {
            note_panic(ended);
        }
        // Boxed: a task moves what it runs by value, in whole, several times.
        streams.spawn(Box::pin(serve_stream(serving.clone(), stream)));
    }
    streams.abort_all();
    while let Some(ended) = streams.join_next().await {
        note_panic(ended);
    }
}

/// After the `Hello` there is nothing to say on a unidirectional stream.
async fn refuse_uni(serving: Arc<Serving>) {
    while let Ok(mut uni) = serving.connection.accept_uni().await {
        uni.stop(stream_code::UNEXPECTED);
        serving.strikes.strike(&"a second unidirectional stream");
    }
}

fn note_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "serving a call panicked");
    }
}

async fn serve_stream(serving: Arc<Serving>, stream: BiStream) {
    let _running = serving.running.enter();
    let limits = &serving.limits;
    let frame_bytes_max = match serving.caller.is_authenticated() {
        true => limits.frame_bytes_max,
        false => limits.unknown_bytes_max,
    };
    let decoder = Decoder::new(frame_bytes_max, limits.chunk_bytes_max);
    let mut wire = Wire::new(
        stream,
        decoder,
        serving.inputs.clone(),
        stream_code::INTERNAL,
    );
    let first = first_frame(&mut wire, limits.first_frame).await;
    drop(wire.take_held());
    let mut callee = Callee::new(
        wire,
        serving.remote.item_window_bytes,
        usize::try_from(serving.remote.frame_bytes_max).unwrap_or(usize::MAX),
        limits.stall,
    );
    let ended = match first {
        Ok(Frame::Invoke(invoke, input)) => serve_call(&serving, &mut callee, *invoke, input).await,
        Ok(other) => Err(WireError::unexpected(&other)),
        Err(error) => Err(error),
    };
    let Err(error) = ended else {
        if serving.running.is_draining() {
            callee.wire().arrived(limits.stall).await;
        }
        return;
    };
    match error.violation() {
        Some(code) => {
            callee.wire().fail(code);
            serving.strikes.strike(&error);
        }
        None if matches!(error, WireError::TooSlow) => callee.wire().fail(stream_code::TOO_SLOW),
        // The caller left.
        None => callee.wire().fail(stream_code::CANCELLED),
    }
}

/// Reads the first frame: it begins in time, and an input of some size keeps
/// to a least rate.
async fn first_frame(wire: &mut Wire, within: Duration) -> Result<Frame, WireError> {
    let start = Instant::now();
    let mut until = start + within;
    loop {
        select! {
            biased;
            step = wire.step() => match step? {
                Step::Frame(frame) => return Ok(frame),
                Step::Eof => return Err(WireError::Truncated),
                Step::Stopped => return Err(WireError::Reset),
                Step::Flushed => {}
            },
            () = sleep_until(until) => {
                let expected = wire.payload_expected();
                let needed = within + within_rate(expected);
                if wire.waits_for_room() {
                    until = Instant::now() + needed;
                } else if start + needed > until {
                    until = start + needed;
                } else {
                    return Err(WireError::TooSlow);
                }
            }
        }
    }
}

fn within_rate(bytes: usize) -> Duration {
    Duration::from_secs((bytes / INPUT_RATE_MIN) as u64)
}

async fn serve_call(
    serving: &Serving,
    callee: &mut Callee,
    invoke: Invoke,
    input: Bytes,
) -> Result<(), WireError> {
    let Some(door) = &serving.door else {
        let refused = CallError::new(
            ErrorCode::NotFound,
            "the caller's side serves no operations",
        );
        return callee.conclude(Err(refused)).await;
    };
    let kind = invoke.kind;
    let interaction = callee.interaction(&invoke);
    let call = match call_of(door, &serving.caller, invoke, input, interaction) {
        Ok(call) => call,
        Err(refused) => return callee.conclude(Err(refused)).await,
    };
    match kind {
        CallKind::Unary => {
            if serving.unread.bytes() >= serving.limits.large_bytes_max {
                return callee.conclude(Err(too_many_unread())).await;
            }
            let outcome = callee.during(pin!(door.call(call))).await?;
            let outcome = outcome.map(Reply::into_output);
            let outcome = outcome.and_then(|output| callee.text(output));
            let _waiting = outcome.as_ref().ok().map(|text| serving.unread.wait(text));
            callee.conclude(outcome).await
        }
        // Boxed, so that the many unary calls do not pay for their size.
        CallKind::Subscription => {
            Box::pin(serve_subscription(door, &serving.caller, callee, call)).await
        }
        CallKind::Channel => {
            let windows = ChannelWindows {
                send_bytes: usize::try_from(serving.remote.channel_window_bytes)
                    .unwrap_or(usize::MAX),
                send_chunk_bytes: usize::try_from(serving.remote.chunk_bytes_max)
                    .unwrap_or(usize::MAX),
                recv_bytes: PIPE_WINDOW_BYTES,
            };
            Box::pin(serve_channel(door, windows, callee, call)).await
        }
    }
}

/// Bytes of replies that the other side has not taken yet. What was done is
/// always answered; for whoever takes no answers nothing more is done.
#[derive(Debug, Default)]
pub(crate) struct Unread(AtomicUsize);

impl Unread {
    fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts a reply for as long as it waits.
    fn wait(&self, reply: &Bytes) -> Waiting<'_> {
        self.0.fetch_add(reply.len(), Ordering::Relaxed);
        Waiting {
            unread: self,
            bytes: reply.len(),
        }
    }
}

struct Waiting<'a> {
    unread: &'a Unread,
    bytes: usize,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.unread.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn too_many_unread() -> CallError {
    let message = "too many replies wait to be read on this connection";
    CallError::new(ErrorCode::RateLimited, message).with_retry_after(Duration::from_secs(1))
}

fn call_of(
    door: &Dispatcher,
    caller: &Caller,
    invoke: Invoke,
    input: Bytes,
    interaction: Interaction,
) -> Result<Call, CallError> {
    let Ok(operation) = OperationName::parse(&invoke.operation) else {
        return Err(no_such(door, caller, &invoke.operation));
    };
    if door
        .node_id()
        .is_some_and(|own| invoke.via.iter().any(|passed| passed == own))
    {
        return Err(CallError::new(
            ErrorCode::Conflict,
            format!(
                "the call has passed `{}` already: its route is a loop",
                door.node_name()
            ),
        ));
    }
    let mut route = Route::new();
    for step in &invoke.route {
        route.push(match step.as_str() {
            "any" => RouteStep::Any,
            peer => RouteStep::Peer(
                PeerId::parse(peer).map_err(|_| no_such(door, caller, &invoke.operation))?,
            ),
        });
    }
    Ok(Call {
        id: match invoke.call_id {
            id if id == [0; 16] => CallId::new(),
            id => CallId::from_bytes(id),
        },
        parent: None,
        operation,
        route,
        via: invoke.via,
        input: Input::Json(input),
        caller: caller.clone(),
        originator: invoke.originator.map(|(node, label)| Originator {
            node: clean_foreign_text(&node, usize::MAX),
            label: clean_foreign_text(&label, usize::MAX),
        }),
        deadline: invoke
            .budget_ms
            .map(|ms| Instant::now() + Duration::from_millis(ms).min(BUDGET_MAX)),
        idempotency_key: invoke.idempotency_key,
        trace: invoke.trace.map(TraceContext),
        interaction,
        surface: Surface::CALL,
        session: None,
    })
}

/// What the door says of a name that cannot exist.
fn no_such(door: &Dispatcher, caller: &Caller, operation: &str) -> CallError {
    let operation = clean_foreign_text(operation, 64);
    match door.authorize_from(caller, &operation, Surface::CALL) {
        Err(refused) => refused,
        // The name is fine, so it is a peer on the route that cannot exist.
        Ok(_) => CallError::not_found(&operation),
    }
}

async fn serve_subscription(
    door: &Dispatcher,
    caller: &Caller,
    callee: &mut Callee,
    call: Call,
) -> Result<(), WireError> {
    let (name, route) = (call.operation.clone(), call.route.clone());
    let mut is_watched = true;
    let deadline = call.deadline;
    let mut items = match callee.during(pin!(door.subscribe(call))).await? {
        Ok(items) => items,
        Err(error) => return callee.conclude(Err(error)).await,
    };
    callee.wire().push(&Frame::Accepted(Bytes::new()));
    let mut changes = door.identities().changes();
    let mut held: Option<Bytes> = None;
    let outcome = loop {
        if let Some(item) = &held
            && callee.send_item(item)
        {
            held = None;
        }
        let stalled = held.is_some();
        let timer = async {
            match deadline {
                Some(at) if stalled => sleep_until(at).await,
                _ => pending().await,
            }
        };
        select! {
            item = items.next(), if !stalled => match next_items(callee, &mut items, item) {
                Ok(more) => held = more,
                Err(outcome) => break outcome,
            },
            frame = callee.attend() => nothing_else(frame?)?,
            // The door checks these whenever it is asked for an item; while the
            // reader takes none, somebody else must.
            changed = changes.changed(), if stalled && is_watched => {
                is_watched = changed.is_ok();
                if let Err(refused) = door.may_call_at(caller, &name, &route) {
                    break Err(refused);
                }
            }
            () = timer => break Err(timed_out(&name)),
        }
    };
    drop(items);
    callee.conclude(outcome).await
}

type Outcome = Result<Bytes, CallError>;

/// Sends an item, and those that are there already; answers with the one that
/// found no credit, or with the outcome.
fn next_items(
    callee: &mut Callee,
    items: &mut Subscription,
    first: Option<Result<alknet_core::Output, CallError>>,
) -> Result<Option<Bytes>, Outcome> {
    use futures::FutureExt;
    let mut next = first;
    loop {
        let item = match next {
            None => return Err(Ok(Bytes::new())),
            Some(item) => item.and_then(|output| callee.text(output)).map_err(Err)?,
        };
        if !callee.send_item(&item) {
            return Ok(Some(item));
        }
        match items.next().now_or_never() {
            Some(more) => next = more,
            None => return Ok(None),
        }
    }
}

fn timed_out(name: &OperationName) -> CallError {
    CallError::new(
        ErrorCode::Timeout,
        format!("`{name}` did not answer in time"),
    )
}

async fn serve_channel(
    door: &Dispatcher,
    windows: ChannelWindows,
    callee: &mut Callee,
    call: Call,
) -> Result<(), WireError> {
    let opened = match callee.during(pin!(door.open(call))).await? {
        Ok(opened) => opened,
        Err(error) => return callee.conclude(Err(error)).await,
    };
    let reply = match callee.text(opened.reply) {
        Ok(reply) => reply,
        Err(error) => return callee.conclude(Err(error)).await,
    };
    callee.wire().push(&Frame::Accepted(reply));
    let mut done = opened.done;
    let mut io = ChannelIo::new(opened.channel, windows);
    let outcome = loop {
        select! {
            outcome = &mut done => break outcome,
            frame = io.turn(callee) => nothing_else(frame?)?,
        }
    };
    // What the handler has written comes before its result, unless the caller
    // has lost its right, or its time.
    if !outcome.as_ref().is_err_and(ends_at_once) {
        while !io.is_drained() {
            nothing_else(io.turn(callee).await?)?;
        }
        io.send_last_controls(callee.wire());
    }
    let outcome = outcome.and_then(|output| callee.text(output));
    callee.conclude(outcome).await
}
