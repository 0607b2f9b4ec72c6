//! One stream of frames: reads and writes at the same time, so that neither
//! direction can hold back the other.

use crate::{
    codec::Decoder,
    frame::{Frame, FrameError},
    limits::{LARGE_PAYLOAD_BYTES, stream_code},
};
use alknet_core::transport::{BiStream, RecvHalf, SendHalf};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::sync::PollSemaphore;

/// Payloads up to this size are written in one piece with their header.
const COPIED_BYTES_MAX: usize = 8 * 1024;
/// With so much waiting to be written, nothing more is taken up.
pub(crate) const OUT_BYTES_HIGH: usize = 64 * 1024;
/// One permit of a pool of room.
const ROOM_UNIT_BYTES: usize = 1024;

/// One side of a call, as far as both are alike.
pub(crate) trait Party: Send {
    /// Its stream.
    fn wire(&mut self) -> &mut Wire;

    /// Waits until something happens, and deals with progress, questions and
    /// their credit; hands on every other frame. Cancel safe.
    fn attend(&mut self) -> impl Future<Output = Result<Option<Frame>, WireError>> + Send;
}

/// Room for large payloads of one connection.
pub(crate) fn room(bytes: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(bytes / ROOM_UNIT_BYTES))
}

/// What happened on a stream.
#[derive(Debug)]
pub(crate) enum Step {
    /// A frame arrived.
    Frame(Frame),
    /// Everything has been written.
    Flushed,
    /// The other side will send no more.
    Eof,
    /// The other side reads no more.
    Stopped,
}

/// Why a stream of frames ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the stream ended within a frame")]
    Truncated,
    #[error("a frame of type `{0}` has no place here")]
    Unexpected(&'static str),
    #[error("more was sent than the credit allows")]
    Overdrawn,
    #[error("nothing was sent, or nothing read, for too long")]
    TooSlow,
    #[error("the other side gave the stream up")]
    Reset,
    #[error("the stream ended without an outcome")]
    Ended,
    #[error("the connection is gone")]
    Lost,
}

impl WireError {
    pub(crate) fn unexpected(frame: &Frame) -> Self {
        Self::Unexpected(frame.frame_type().as_str())
    }

    /// The code to reset the stream with, if the other side broke the protocol.
    pub(crate) fn violation(&self) -> Option<u32> {
        match self {
            WireError::Frame(error) => Some(error.stream_code()),
            WireError::Truncated => Some(stream_code::MALFORMED),
            WireError::Unexpected(_) => Some(stream_code::UNEXPECTED),
            WireError::Overdrawn => Some(stream_code::OVERDRAWN),
            WireError::TooSlow | WireError::Reset | WireError::Ended | WireError::Lost => None,
        }
    }

    fn of_read(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset => WireError::Reset,
            _ => WireError::Lost,
        }
    }
}

/// What waits to be written. Small payloads are written with their headers in
/// one piece, large ones as they are.
#[derive(Debug, Default)]
struct Out {
    queue: VecDeque<Bytes>,
    tail: BytesMut,
    queued: usize,
}

impl Out {
    fn push(&mut self, frame: &Frame) {
        self.tail.reserve(256);
        let payload = frame.put_head(&mut self.tail);
        if payload.len() <= COPIED_BYTES_MAX {
            self.tail.put_slice(&payload);
            return;
        }
        for piece in [self.tail.split().freeze(), payload] {
            self.queued += piece.len();
            self.queue.push_back(piece);
        }
    }

    fn len(&self) -> usize {
        self.queued + self.tail.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn clear(&mut self) {
        *self = Self::default();
    }

    /// Writes some.
    fn poll_some(
        &mut self,
        cx: &mut Context<'_>,
        send: &mut Box<dyn SendHalf>,
    ) -> Poll<io::Result<()>> {
        let next = self.queue.front().map_or(&self.tail[..], |piece| piece);
        let written = ready!(Pin::new(send).poll_write(cx, next))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        match self.queue.front_mut() {
            Some(piece) => {
                piece.advance(written);
                self.queued -= written;
                if piece.is_empty() {
                    self.queue.pop_front();
                }
            }
            None => self.tail.advance(written),
        }
        Poll::Ready(Ok(()))
    }
}

/// A stream of frames. Dropped before its end, it tells the other side so.
pub(crate) struct Wire {
    send: Box<dyn SendHalf>,
    recv: Box<dyn RecvHalf>,
    decoder: Decoder,
    out: Out,
    room: PollSemaphore,
    room_units: usize,
    held: Option<OwnedSemaphorePermit>,
    waits_for_room: bool,
    finish_when_flushed: bool,
    is_sent: bool,
    is_eof: bool,
    is_stopped: bool,
    is_over: bool,
    drop_code: u32,
}

impl Wire {
    /// `room` is shared by the streams whose large payloads it bounds;
    /// `drop_code` says why the stream ended, if it is dropped.
    pub(crate) fn new(
        stream: BiStream,
        decoder: Decoder,
        room: Arc<Semaphore>,
        drop_code: u32,
    ) -> Self {
        Self {
            send: stream.send,
            recv: stream.recv,
            decoder,
            out: Out::default(),
            room_units: room.available_permits(),
            room: PollSemaphore::new(room),
            held: None,
            waits_for_room: false,
            finish_when_flushed: false,
            is_sent: false,
            is_eof: false,
            is_stopped: false,
            is_over: false,
            drop_code,
        }
    }

    /// Queues a frame; it is written while [`Wire::step`] waits.
    pub(crate) fn push(&mut self, frame: &Frame) {
        if !self.is_stopped {
            self.out.push(frame);
        }
    }

    /// Nothing follows what is queued.
    pub(crate) fn finish_when_flushed(&mut self) {
        self.finish_when_flushed = true;
    }

    /// Whether more may be queued.
    pub(crate) fn has_room(&self) -> bool {
        self.out.len() < OUT_BYTES_HIGH
    }

    /// Whether what was queued first has left this side.
    pub(crate) fn is_sent(&self) -> bool {
        self.is_sent
    }

    /// Bytes of the payload that has begun to arrive.
    pub(crate) fn payload_expected(&self) -> usize {
        self.decoder.payload_expected()
    }

    /// Whether a large payload waits for others to be received.
    pub(crate) fn waits_for_room(&self) -> bool {
        self.waits_for_room
    }

    /// The room that the last large payload took; given back on drop.
    pub(crate) fn take_held(&mut self) -> Option<OwnedSemaphorePermit> {
        self.held.take()
    }

    /// Waits until something happens, and writes meanwhile. Cancel safe.
    pub(crate) async fn step(&mut self) -> Result<Step, WireError> {
        if self.is_eof && (self.out.is_empty() || self.is_stopped) {
            // Nothing more can be read or written: all that can happen is that
            // the other side leaves.
            self.send.stopped().await;
            self.is_stopped = true;
            return Ok(Step::Stopped);
        }
        poll_fn(|cx| self.poll_step(cx)).await
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, WireError>> {
        let mut flushed = false;
        while !self.out.is_empty() {
            match self.out.poll_some(cx, &mut self.send) {
                Poll::Ready(Ok(())) => flushed = self.out.is_empty(),
                Poll::Ready(Err(_)) => {
                    // What the other side has said before it left can still be
                    // read; if the connection is gone, reading tells.
                    self.is_stopped = true;
                    self.out.clear();
                    return Poll::Ready(Ok(Step::Stopped));
                }
                Poll::Pending => break,
            }
        }
        if flushed {
            self.is_sent = true;
            if self.finish_when_flushed {
                self.send.finish();
            }
        }
        if !self.is_eof {
            match self.poll_frame(cx) {
                Poll::Ready(Ok(Some(frame))) => return Poll::Ready(Ok(Step::Frame(frame))),
                Poll::Ready(Ok(None)) => return Poll::Ready(Ok(Step::Eof)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
        }
        if flushed {
            Poll::Ready(Ok(Step::Flushed))
        } else {
            Poll::Pending
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, WireError>> {
        loop {
            if let Some(frame) = self.decoder.frame()? {
                return Poll::Ready(Ok(Some(frame)));
            }
            ready!(self.poll_room(cx));
            let read = pin!(self.recv.read_buf(self.decoder.room())).poll(cx);
            match ready!(read) {
                Ok(0) if self.decoder.is_between_frames() => {
                    self.is_eof = true;
                    return Poll::Ready(Ok(None));
                }
                Ok(0) => return Poll::Ready(Err(WireError::Truncated)),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(WireError::of_read(&error))),
            }
        }
    }

    /// A large payload is read on only when there is room for all of it.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let expected = self.decoder.payload_expected();
        if expected <= LARGE_PAYLOAD_BYTES || self.held.is_some() {
            return Poll::Ready(());
        }
        let units = expected.div_ceil(ROOM_UNIT_BYTES).min(self.room_units);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        self.waits_for_room = true;
        // The pool is never closed.
        self.held = ready!(self.room.poll_acquire_many(cx, units));
        self.waits_for_room = false;
        Poll::Ready(())
    }

    /// Sends the last frame, for as long as the reader takes something every
    /// `stall`.
    pub(crate) async fn conclude(
        &mut self,
        frame: &Frame,
        stall: Duration,
    ) -> Result<(), WireError> {
        self.push(frame);
        while !self.out.is_empty() {
            let some = poll_fn(|cx| self.out.poll_some(cx, &mut self.send));
            match timeout(stall, some).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(WireError::of_read(&error)),
                Err(_) => {
                    self.drop_code = stream_code::TOO_SLOW;
                    return Err(WireError::TooSlow);
                }
            }
        }
        self.settle().await;
        Ok(())
    }

    /// Ends the stream in order: the outcome is known.
    pub(crate) async fn settle(&mut self) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        if self.out.is_empty() {
            self.send.finish();
        } else {
            self.send.reset(stream_code::DONE);
        }
        if self.is_eof {
            return;
        }
        // The end mostly came with the last frame; having seen it spares the
        // transport a message that nothing more is read.
        let mut rest = [0; 1];
        let seen = poll_fn(|cx| Poll::Ready(pin!(self.recv.read(&mut rest)).poll(cx))).await;
        if !matches!(seen, Poll::Ready(Ok(0))) {
            self.recv.stop(stream_code::DONE);
        }
    }

    /// Waits until the other side has received everything.
    pub(crate) async fn arrived(&mut self, most: Duration) {
        // One that takes nothing is not waited for.
        let _ = timeout(most, self.send.stopped()).await;
    }

    /// Ends the stream with a code.
    pub(crate) fn fail(&mut self, code: u32) {
        self.is_over = true;
        self.send.reset(code);
        self.recv.stop(code);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if !self.is_over {
            self.fail(self.drop_code);
        }
    }
}
