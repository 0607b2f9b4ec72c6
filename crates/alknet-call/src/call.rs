//! Calls to the other side: one reply, items, or a channel.

use crate::{
    asker::Asker,
    channel::{ChannelIo, ChannelWindows},
    codec::Decoder,
    credit::{Receipts, cost},
    frame::{CallKind, Frame},
    limits::{connection_code, stream_code},
    request::Request,
    session::{Line, Session},
    wire::{Party, Wire, WireError},
};
use alknet_core::{
    CallError, CallId, ChannelCall, ChannelDone, ChannelEnd, ErrorCode, OperationName, Output,
    PIPE_WINDOW_BYTES, Subscription, channel_pair, transport::ConnectionClosed,
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    select,
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

impl Session {
    /// Calls a query or a mutation. Dropping the future cancels the call there.
    ///
    /// # Errors
    ///
    /// What the other side answers; `UNAVAILABLE` if the call did not leave
    /// this side, `LOST` if the connection, or the stream, ended before its
    /// outcome was known, `TIMEOUT` if the other side overruns the budget.
    pub async fn call(&self, request: Request) -> Result<Output, CallError> {
        let clock = Clock::of(&self.line, &request);
        clock.within(unary(&self.line, request)).await
    }

    /// Subscribes. Dropping the subscription cancels it there.
    ///
    /// # Errors
    ///
    /// As [`Session::call`], before the subscription has begun; later errors
    /// are its last item.
    pub async fn subscribe(&self, request: Request) -> Result<Subscription, CallError> {
        let line = &self.line;
        let clock = Clock::of(line, &request);
        let call_id = request.call_id;
        let opening = async {
            let mut asker = begin(line, request, CallKind::Subscription, &line.items).await?;
            opened(line, &mut asker).await?;
            Ok(asker)
        };
        let asker = clock.within(opening).await?;
        Ok(subscription(line.clone(), asker, clock, call_id))
    }

    /// Opens a channel. Dropping its `done` cancels it there.
    ///
    /// # Errors
    ///
    /// As [`Session::call`], until the channel is open; later errors are its
    /// result.
    pub async fn open(&self, request: Request) -> Result<ChannelCall, CallError> {
        let line = &self.line;
        let clock = Clock::of(line, &request);
        let call_id = request.call_id;
        let opening = async {
            let mut asker = begin(line, request, CallKind::Channel, &line.replies).await?;
            let reply = opened(line, &mut asker).await?;
            Ok((asker, reply))
        };
        let (asker, reply) = clock.within(opening).await?;
        let (ours, theirs) = channel_pair();
        let task = tokio::spawn(run_channel(line.clone(), asker, theirs, clock));
        Ok(ChannelCall {
            call_id,
            reply: Output::Json(reply),
            channel: ours,
            done: ChannelDone::of(task),
        })
    }
}

/// The budget, as the caller keeps it: the callee is given a little longer to
/// say itself that the time is over.
#[derive(Clone, Debug)]
struct Clock {
    until: Option<Instant>,
    operation: OperationName,
}

impl Clock {
    fn of(line: &Line, request: &Request) -> Self {
        let grace = line.limits.deadline_grace;
        Self {
            until: request
                .budget
                .and_then(|budget| Instant::now().checked_add(budget.saturating_add(grace))),
            operation: request.operation.clone(),
        }
    }

    async fn over(&self) -> CallError {
        match self.until {
            Some(at) => sleep_until(at).await,
            None => pending().await,
        }
        let message = format!("`{}` did not answer in time", self.operation);
        CallError::new(ErrorCode::Timeout, message)
    }

    async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        select! {
            biased;
            done = work => done,
            error = self.over() => Err(error),
        }
    }
}

/// Opens a stream and puts the call on it; it leaves while the answer is
/// waited for.
async fn begin(
    line: &Line,
    request: Request,
    kind: CallKind,
    room: &Arc<Semaphore>,
) -> Result<Asker, CallError> {
    let header = request.header(kind)?;
    let most = usize::try_from(line.remote.limits.frame_bytes_max).unwrap_or(usize::MAX);
    if request.input.len() > most {
        let found = request.input.len();
        return Err(CallError::new(
            ErrorCode::TooLarge,
            format!("the input has {found} bytes, the other side takes {most}"),
        ));
    }
    let stream = line.connection.open_bi().await.map_err(not_sent)?;
    let limits = &line.limits;
    let decoder = Decoder::new(limits.frame_bytes_max, limits.chunk_bytes_max);
    let mut wire = Wire::new(stream, decoder, room.clone(), stream_code::CANCELLED);
    let says_more = header.can_answer || header.wants_progress || kind != CallKind::Unary;
    wire.push(&Frame::Invoke(Box::new(header), request.input));
    if !says_more {
        wire.finish_when_flushed();
    }
    Ok(Asker::new(
        wire,
        limits.item_window_bytes,
        request.interaction,
    ))
}

async fn unary(line: &Line, request: Request) -> Result<Output, CallError> {
    let mut asker = begin(line, request, CallKind::Unary, &line.replies).await?;
    let ended = loop {
        match asker.attend().await {
            Ok(None) => {}
            Ok(Some(Frame::Done(text))) => break Ok(Output::Json(text)),
            Ok(Some(Frame::Error(error))) => break Err(error),
            Ok(Some(other)) => {
                return Err(broke(line, &mut asker, &WireError::unexpected(&other)));
            }
            Err(error) => return Err(broke(line, &mut asker, &error)),
        }
    };
    asker.deliver_rest().await;
    asker.wire().settle().await;
    ended
}

/// Waits until the callee has accepted a subscription or a channel.
async fn opened(line: &Line, asker: &mut Asker) -> Result<Bytes, CallError> {
    loop {
        match asker.attend().await {
            Ok(None) => {}
            Ok(Some(Frame::Accepted(reply))) => {
                drop(asker.wire().take_held());
                return Ok(reply);
            }
            Ok(Some(Frame::Error(error))) => {
                asker.deliver_rest().await;
                asker.wire().settle().await;
                return Err(error);
            }
            Ok(Some(other)) => return Err(broke(line, asker, &WireError::unexpected(&other))),
            Err(error) => return Err(broke(line, asker, &error)),
        }
    }
}

/// What a call is told whose stream ended without an outcome.
fn broke(line: &Line, asker: &mut Asker, error: &WireError) -> CallError {
    let wire = asker.wire();
    if let Some(code) = error.violation() {
        wire.fail(code);
        line.strikes.strike(error);
        let message = format!("the other side broke the call protocol: {error}");
        return CallError::new(ErrorCode::Internal, message);
    }
    if !wire.is_sent() {
        let message = format!("the call did not reach the other side: {error}");
        return CallError::new(ErrorCode::Unavailable, message);
    }
    let mut why = error.to_string();
    if matches!(error, WireError::Lost)
        && let Some(closed) = line.connection.closed().now_or_never()
    {
        why = closed.to_string();
    }
    let message = format!("{why}; whether the call was done is not known");
    CallError::new(ErrorCode::Lost, message)
}

fn not_sent(closed: ConnectionClosed) -> CallError {
    match closed.code {
        Some(connection_code::UNAUTHENTICATED) => CallError::new(
            ErrorCode::Unauthenticated,
            "the other side does not know this credential",
        ),
        _ => CallError::new(ErrorCode::Unavailable, closed.to_string()),
    }
}

/// What the task of a subscription hands to its reader. An item keeps the room
/// it takes until it is read.
enum Queued {
    Item(Bytes, Option<OwnedSemaphorePermit>),
    Failed(CallError),
    Done,
}

/// What the reader has taken.
#[derive(Default)]
struct Taken {
    cost: AtomicU64,
    changed: Notify,
}

/// The reader's end of a subscription.
struct Reader {
    queue: mpsc::UnboundedReceiver<Queued>,
    taken: Arc<Taken>,
    untold: u64,
    worth: u64,
    has_ended: bool,
    _task: AbortOnDropHandle<()>,
}

impl Reader {
    async fn next(&mut self) -> Option<Result<Output, CallError>> {
        if self.has_ended {
            return None;
        }
        match self.queue.recv().await {
            Some(Queued::Item(item, _room)) => {
                self.untold += cost(item.len());
                if self.untold >= self.worth {
                    self.taken.cost.fetch_add(self.untold, Ordering::Relaxed);
                    self.taken.changed.notify_one();
                    self.untold = 0;
                }
                Some(Ok(Output::Json(item)))
            }
            Some(Queued::Failed(error)) => {
                self.has_ended = true;
                Some(Err(error))
            }
            Some(Queued::Done) => {
                self.has_ended = true;
                None
            }
            None => {
                self.has_ended = true;
                let message = "the task of the subscription is gone";
                Some(Err(CallError::new(ErrorCode::Internal, message)))
            }
        }
    }
}

/// A task takes items off the connection even while their reader rests, so
/// that its window is there for others; credit bounds how many.
fn subscription(line: Arc<Line>, asker: Asker, clock: Clock, call_id: CallId) -> Subscription {
    let (to, queue) = mpsc::unbounded_channel();
    let taken = Arc::new(Taken::default());
    let worth = Receipts::worth(line.limits.item_window_bytes as u64);
    let task = tokio::spawn(run_subscription(line, asker, clock, to, taken.clone()));
    let reader = Reader {
        queue,
        taken,
        untold: 0,
        worth,
        has_ended: false,
        _task: AbortOnDropHandle::new(task),
    };
    let items = futures::stream::unfold(reader, |mut reader| async move {
        reader.next().await.map(|item| (item, reader))
    });
    Subscription::from_stream(call_id, items.fuse().boxed())
}

async fn run_subscription(
    line: Arc<Line>,
    mut asker: Asker,
    clock: Clock,
    to: mpsc::UnboundedSender<Queued>,
    taken: Arc<Taken>,
) {
    let over = clock.over();
    tokio::pin!(over);
    let outcome = loop {
        select! {
            frame = asker.attend() => match frame {
                Ok(None) => {}
                Ok(Some(Frame::Item(item))) => match asker.arrived(&item) {
                    // A reader that is gone aborts this task.
                    Ok(room) => drop(to.send(Queued::Item(item, room))),
                    Err(error) => break Err(broke(&line, &mut asker, &error)),
                },
                Ok(Some(Frame::Done(_))) => break Ok(Queued::Done),
                Ok(Some(Frame::Error(error))) => break Ok(Queued::Failed(error)),
                Ok(Some(other)) => {
                    let error = WireError::unexpected(&other);
                    break Err(broke(&line, &mut asker, &error));
                }
                Err(error) => break Err(broke(&line, &mut asker, &error)),
            },
            () = taken.changed.notified() => asker.taken(taken.cost.swap(0, Ordering::Relaxed)),
            error = &mut over => break Err(error),
        }
    };
    let last = match outcome {
        Ok(last) => {
            asker.deliver_rest().await;
            asker.wire().settle().await;
            last
        }
        // The callee has not said so: it is told when the stream is dropped.
        Err(error) => Queued::Failed(error),
    };
    // A reader that is gone needs no outcome.
    let _ = to.send(last);
}

async fn run_channel(
    line: Arc<Line>,
    mut asker: Asker,
    channel: ChannelEnd,
    clock: Clock,
) -> Result<Output, CallError> {
    let limits = &line.remote.limits;
    let windows = ChannelWindows {
        send_bytes: usize::try_from(limits.channel_window_bytes).unwrap_or(usize::MAX),
        send_chunk_bytes: usize::try_from(limits.chunk_bytes_max).unwrap_or(usize::MAX),
        recv_bytes: PIPE_WINDOW_BYTES,
    };
    let mut io = ChannelIo::new(channel, windows);
    let over = clock.over();
    tokio::pin!(over);
    let outcome = loop {
        select! {
            frame = io.turn(&mut asker) => match frame {
                Ok(None) => {}
                Ok(Some(Frame::Done(text))) => break Ok(Output::Json(text)),
                Ok(Some(Frame::Error(error))) => break Err(error),
                Ok(Some(other)) => {
                    let error = WireError::unexpected(&other);
                    return Err(broke(&line, &mut asker, &error));
                }
                Err(error) => return Err(broke(&line, &mut asker, &error)),
            },
            error = &mut over => return Err(error),
        }
    };
    io.take_last_controls();
    asker.deliver_rest().await;
    asker.wire().settle().await;
    outcome
}
