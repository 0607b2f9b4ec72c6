//! A byte pipe with credit: the sender may run ahead of the reader by one
//! window and no more, so that control messages never queue behind bytes that
//! nobody reads.

use bytes::Bytes;
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Notify, Semaphore, mpsc},
};
use tokio_util::sync::PollSemaphore;

/// Bytes that may be under way in one direction of a channel. Below QUIC's
/// stream window of 1.25 MB, so that the window never fills with bytes that
/// the application has not taken.
pub const PIPE_WINDOW_BYTES: usize = 1024 * 1024;

/// Credit that a chunk costs at least, however few its bytes: tiny ones cost
/// memory too.
pub const CHUNK_COST_MIN: usize = 64;

/// Bytes of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// `false` for the main stream, `true` for the auxiliary one (a program's
    /// standard error).
    pub aux: bool,
    /// The bytes; never empty.
    pub bytes: Bytes,
}

impl Chunk {
    /// Credit that a chunk of this many bytes costs.
    #[must_use]
    pub fn cost(bytes: usize) -> usize {
        bytes.max(CHUNK_COST_MIN)
    }

    /// Bytes of the main stream.
    #[must_use]
    pub fn main(bytes: Bytes) -> Self {
        Self { aux: false, bytes }
    }

    /// Bytes of the auxiliary stream.
    #[must_use]
    pub fn aux(bytes: Bytes) -> Self {
        Self { aux: true, bytes }
    }
}

/// The other end went away, without having ended the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the other end of the channel is gone")]
pub struct PipeClosed;

#[derive(Debug)]
struct Shared {
    credit: Arc<Semaphore>,
    window: usize,
    taken: AtomicU64,
    passed: AtomicU64,
    released: Notify,
}

impl Shared {
    /// What a chunk costs here; in a pipe narrower than the least cost, all of
    /// it.
    fn cost(&self, bytes: usize) -> usize {
        Chunk::cost(bytes).min(self.window).max(bytes)
    }
}

#[derive(Debug)]
enum Message {
    Chunk(Chunk),
    End,
}

/// Makes a pipe that lets `window` bytes be under way.
#[must_use]
pub fn byte_pipe(window: usize) -> (ByteSender, ByteReceiver) {
    let credit = Arc::new(Semaphore::new(window));
    let shared = Arc::new(Shared {
        credit: credit.clone(),
        window,
        taken: AtomicU64::new(0),
        passed: AtomicU64::new(0),
        released: Notify::new(),
    });
    let (queue, messages) = mpsc::unbounded_channel();
    let sender = ByteSender {
        queue,
        shared: shared.clone(),
        poll: PollSemaphore::new(credit),
        granted: 0,
        ended: false,
    };
    (
        sender,
        ByteReceiver {
            messages,
            shared,
            rest: Bytes::new(),
            ended: false,
        },
    )
}

/// Puts bytes into a pipe. Dropping it without [`ByteSender::end`] tells the
/// reader that the stream was cut.
#[derive(Debug)]
pub struct ByteSender {
    queue: mpsc::UnboundedSender<Message>,
    shared: Arc<Shared>,
    poll: PollSemaphore,
    granted: u64,
    ended: bool,
}

impl ByteSender {
    /// Sends bytes of the main stream, waiting for the reader when it is a
    /// window behind.
    ///
    /// # Errors
    ///
    /// [`PipeClosed`] if the reader is gone or the stream was ended.
    pub async fn send(&mut self, bytes: Bytes) -> Result<(), PipeClosed> {
        self.send_chunk(Chunk::main(bytes)).await
    }

    /// Sends bytes of either stream.
    ///
    /// # Errors
    ///
    /// [`PipeClosed`] if the reader is gone or the stream was ended.
    pub async fn send_chunk(&mut self, mut chunk: Chunk) -> Result<(), PipeClosed> {
        // In pieces of half a window at most, so that the reader's progress
        // shows in time.
        let piece_max = (self.shared.window / 2).max(1);
        while !chunk.bytes.is_empty() {
            let piece = chunk.bytes.split_to(chunk.bytes.len().min(piece_max));
            let credit = u32::try_from(self.shared.cost(piece.len())).unwrap_or(u32::MAX);
            self.shared
                .credit
                .acquire_many(credit)
                .await
                .map_err(|_| PipeClosed)?
                .forget();
            self.push(Chunk {
                aux: chunk.aux,
                bytes: piece,
            })?;
        }
        Ok(())
    }

    /// Puts bytes in without waiting: for a protocol whose peer was told how
    /// much credit it has.
    ///
    /// # Errors
    ///
    /// [`PipeClosed`] if the reader is gone, or the peer has overdrawn.
    pub fn push_credited(&mut self, chunk: Chunk) -> Result<(), PipeClosed> {
        if chunk.bytes.is_empty() {
            return Ok(());
        }
        let cost = self.shared.cost(chunk.bytes.len());
        let credit = u32::try_from(cost).map_err(|_| PipeClosed)?;
        self.shared
            .credit
            .try_acquire_many(credit)
            .map_err(|_| PipeClosed)?
            .forget();
        self.push(chunk)
    }

    fn push(&mut self, chunk: Chunk) -> Result<(), PipeClosed> {
        if self.ended {
            return Err(PipeClosed);
        }
        self.shared
            .passed
            .fetch_add(chunk.bytes.len() as u64, Ordering::Relaxed);
        self.queue
            .send(Message::Chunk(chunk))
            .map_err(|_| PipeClosed)
    }

    /// Ends the stream: the reader sees its end after the last byte.
    pub fn end(&mut self) {
        if !self.ended {
            self.ended = true;
            // A reader that is gone needs no end.
            let _ = self.queue.send(Message::End);
        }
    }

    /// Waits until the reader has taken at least a quarter of the window since
    /// the last answer, and says how many bytes it was; pends as long as the
    /// reader takes no more. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`PipeClosed`] once the reader is gone.
    pub async fn released(&mut self) -> Result<u32, PipeClosed> {
        loop {
            let notified = self.shared.released.notified();
            if self.shared.credit.is_closed() {
                return Err(PipeClosed);
            }
            let taken = self.shared.taken.load(Ordering::Acquire) - self.granted;
            if taken >= (self.shared.window / 4) as u64 {
                self.granted += taken;
                return Ok(u32::try_from(taken).unwrap_or(u32::MAX));
            }
            notified.await;
        }
    }

    /// Waits until the reader is gone.
    pub async fn closed(&self) {
        self.queue.closed().await;
    }

    /// Bytes that went in so far.
    #[must_use]
    pub fn counter(&self) -> ByteCounter {
        ByteCounter(self.shared.clone())
    }
}

/// Counts what passed through a pipe.
#[derive(Clone, Debug)]
pub struct ByteCounter(Arc<Shared>);

impl ByteCounter {
    /// Bytes so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.passed.load(Ordering::Relaxed)
    }
}

impl AsyncWrite for ByteSender {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let len = data.len().min((self.shared.window / 2).max(1));
        if len == 0 {
            return Poll::Ready(Ok(0));
        }
        let want = u32::try_from(self.shared.cost(len)).unwrap_or(u32::MAX);
        let Some(permit) = ready!(self.poll.poll_acquire_many(cx, want)) else {
            return Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into()));
        };
        permit.forget();
        let pushed = self.push(Chunk::main(Bytes::copy_from_slice(&data[..len])));
        Poll::Ready(
            pushed
                .map(|()| len)
                .map_err(|_| std::io::ErrorKind::BrokenPipe.into()),
        )
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.end();
        Poll::Ready(Ok(()))
    }
}

/// Takes bytes out of a pipe. As [`AsyncRead`] it reads the main stream and
/// skips the auxiliary one.
#[derive(Debug)]
pub struct ByteReceiver {
    messages: mpsc::UnboundedReceiver<Message>,
    shared: Arc<Shared>,
    rest: Bytes,
    ended: bool,
}

impl ByteReceiver {
    /// The next bytes, or `None` at the end of the stream. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`PipeClosed`] if the sender went away without ending the stream.
    pub async fn recv(&mut self) -> Result<Option<Chunk>, PipeClosed> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Chunk>, PipeClosed>> {
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        match ready!(self.messages.poll_recv(cx)) {
            Some(Message::Chunk(chunk)) => {
                self.release(self.shared.cost(chunk.bytes.len()));
                Poll::Ready(Ok(Some(chunk)))
            }
            Some(Message::End) => {
                self.ended = true;
                Poll::Ready(Ok(None))
            }
            None => Poll::Ready(Err(PipeClosed)),
        }
    }

    fn release(&self, bytes: usize) {
        self.shared.credit.add_permits(bytes);
        self.shared.taken.fetch_add(bytes as u64, Ordering::Release);
        self.shared.released.notify_one();
    }

    /// Bytes that went in so far.
    #[must_use]
    pub fn counter(&self) -> ByteCounter {
        ByteCounter(self.shared.clone())
    }
}

impl Drop for ByteReceiver {
    fn drop(&mut self) {
        self.shared.credit.close();
        self.shared.released.notify_one();
    }
}

impl AsyncRead for ByteReceiver {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.poll_recv(cx)) {
                Ok(Some(chunk)) if chunk.aux => {}
                Ok(Some(chunk)) => self.rest = chunk.bytes,
                Ok(None) => return Poll::Ready(Ok(())),
                Err(PipeClosed) => {
                    return Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()));
                }
            }
        }
        let len = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest.split_to(len));
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_sender_runs_ahead_by_one_window_only() {
        let (mut tx, mut rx) = byte_pipe(8);
        tx.push_credited(Chunk::main(Bytes::from_static(b"12345678")))
            .unwrap();
        assert_eq!(
            tx.push_credited(Chunk::main(Bytes::from_static(b"9"))),
            Err(PipeClosed)
        );
        assert_eq!(rx.recv().await.unwrap().unwrap().bytes, "12345678");
        assert_eq!(tx.released().await, Ok(8));
        tx.push_credited(Chunk::aux(Bytes::from_static(b"9")))
            .unwrap();
        tx.end();
        assert!(rx.recv().await.unwrap().unwrap().aux);
        assert_eq!(rx.recv().await, Ok(None));
    }

    /// A queue of single bytes would cost a hundred times its window.
    #[tokio::test]
    async fn tiny_chunks_cost_64_bytes() {
        let (mut tx, mut rx) = byte_pipe(1024);
        for _ in 0..1024 / CHUNK_COST_MIN {
            tx.push_credited(Chunk::main(Bytes::from_static(b"x")))
                .unwrap();
        }
        let more = tx.push_credited(Chunk::main(Bytes::from_static(b"x")));
        assert_eq!(more, Err(PipeClosed));
        for _ in 0..4 {
            rx.recv().await.unwrap();
        }
        assert_eq!(tx.released().await, Ok(256));
    }

    #[tokio::test]
    async fn a_cut_is_not_an_end() {
        let (mut tx, mut rx) = byte_pipe(8);
        tx.send(Bytes::from_static(b"x")).await.unwrap();
        drop(tx);
        assert!(rx.recv().await.unwrap().is_some());
        assert_eq!(rx.recv().await, Err(PipeClosed));
    }

    #[tokio::test]
    async fn a_sender_learns_that_the_reader_left() {
        let (mut tx, rx) = byte_pipe(4);
        drop(rx);
        assert_eq!(
            tx.send(Bytes::from_static(b"12345678")).await,
            Err(PipeClosed)
        );
        assert_eq!(tx.released().await, Err(PipeClosed));
    }

    #[tokio::test]
    async fn it_reads_and_writes_as_io() {
        let (mut tx, mut rx) = byte_pipe(16);
        let data: Vec<u8> = (0..10_000u32).map(|n| n as u8).collect();
        let sent = data.clone();
        let writer = tokio::spawn(async move {
            tx.write_all(&sent).await.unwrap();
            tx.shutdown().await.unwrap();
            tx
        });
        let mut back = Vec::new();
        rx.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, data);
        assert_eq!(writer.await.unwrap().counter().bytes(), 10_000);
    }
}
