//! Connections in memory: streams with windows, resets and stops as QUIC has
//! them (RFC 9000, sections 2 to 4), and no clock, so that tests may pause it.

use alknet_core::{
    Credential,
    transport::{BiStream, Connection, ConnectionClosed, ConnectionInfo, RecvHalf, SendHalf},
};
use async_trait::async_trait;
use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{mpsc, watch},
};

/// How a pair of connections behaves.
#[derive(Clone, Debug)]
pub struct PairOptions {
    /// The protocol agreed on.
    pub alpn: Vec<u8>,
    /// What each side proves to the other: the initiator, and who accepted.
    pub credentials: (Option<Credential>, Option<Credential>),
    /// Bytes of one stream that its reader may leave unread.
    pub stream_window: usize,
    /// Bytes of all streams of one direction that may be left unread.
    pub connection_window: usize,
}

impl Default for PairOptions {
    fn default() -> Self {
        Self {
            alpn: b"alknet/call/1".to_vec(),
            credentials: (None, None),
            stream_window: 1_250_000,
            connection_window: 16 * 1024 * 1024,
        }
    }
}

/// Two ends of one connection; the first opened it.
#[must_use]
pub fn connection_pair(options: PairOptions) -> (Arc<MemoryConnection>, Arc<MemoryConnection>) {
    static NEXT_ID: AtomicU64 = AtomicU64::new(1);
    let closed = watch::Sender::new(None);
    let windows = [
        Window::new(options.connection_window),
        Window::new(options.connection_window),
    ];
    let (bi_to_a, bi_a) = mpsc::unbounded_channel();
    let (bi_to_b, bi_b) = mpsc::unbounded_channel();
    let (uni_to_a, uni_a) = mpsc::unbounded_channel();
    let (uni_to_b, uni_b) = mpsc::unbounded_channel();
    let id = NEXT_ID.fetch_add(2, Ordering::Relaxed);
    let info = |id, credential, is_initiator| ConnectionInfo {
        id,
        alpn: options.alpn.clone(),
        credential,
        remote: None,
        is_initiator,
    };
    let (of_a, of_b) = options.credentials.clone();
    let a = MemoryConnection {
        info: info(id, of_b, true),
        closed: closed.clone(),
        sends: windows[0].clone(),
        receives: windows[1].clone(),
        stream_window: options.stream_window,
        bi: tokio::sync::Mutex::new(bi_a),
        bi_to_peer: bi_to_b,
        uni: tokio::sync::Mutex::new(uni_a),
        uni_to_peer: uni_to_b,
    };
    let b = MemoryConnection {
        info: info(id + 1, of_a, false),
        closed,
        sends: windows[1].clone(),
        receives: windows[0].clone(),
        stream_window: options.stream_window,
        bi: tokio::sync::Mutex::new(bi_b),
        bi_to_peer: bi_to_a,
        uni: tokio::sync::Mutex::new(uni_b),
        uni_to_peer: uni_to_a,
    };
    (Arc::new(a), Arc::new(b))
}

type Closed = watch::Sender<Option<ConnectionClosed>>;

/// One end of a connection in memory.
pub struct MemoryConnection {
    info: ConnectionInfo,
    closed: Closed,
    sends: Arc<Window>,
    receives: Arc<Window>,
    stream_window: usize,
    bi: tokio::sync::Mutex<mpsc::UnboundedReceiver<BiStream>>,
    bi_to_peer: mpsc::UnboundedSender<BiStream>,
    uni: tokio::sync::Mutex<mpsc::UnboundedReceiver<Box<dyn RecvHalf>>>,
    uni_to_peer: mpsc::UnboundedSender<Box<dyn RecvHalf>>,
}

impl std::fmt::Debug for MemoryConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryConnection")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl MemoryConnection {
    /// Cuts the connection, as an idle timeout does: nobody closed it.
    pub fn cut(&self) {
        self.end(None, "timed out");
    }

    /// Bytes that this side has received and nobody has read.
    #[must_use]
    pub fn bytes_unread(&self) -> usize {
        lock(&self.receives.state).used
    }

    fn end(&self, code: Option<u32>, reason: &str) {
        self.closed.send_if_modified(|closed| {
            let first = closed.is_none();
            closed.get_or_insert_with(|| ConnectionClosed {
                code,
                reason: reason.into(),
            });
            first
        });
        // Whoever waits for a window, waits for the end too.
        self.sends.wake();
        self.receives.wake();
    }

    fn check(&self) -> Result<(), ConnectionClosed> {
        match &*self.closed.borrow() {
            Some(closed) => Err(closed.clone()),
            None => Ok(()),
        }
    }

    fn stream(&self, window: &Arc<Window>) -> (MemorySend, MemoryRecv) {
        let pipe = Arc::new(Pipe {
            state: Mutex::default(),
            stream_window: self.stream_window,
            connection: window.clone(),
            closed: self.closed.clone(),
        });
        window.join(&pipe);
        let send = MemorySend {
            pipe: pipe.clone(),
            announce: None,
        };
        (send, MemoryRecv { pipe })
    }
}

#[async_trait]
impl Connection for MemoryConnection {
    fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    async fn open_bi(&self) -> Result<BiStream, ConnectionClosed> {
        self.check()?;
        let (mut send, to_peer) = self.stream(&self.sends);
        let (back, recv) = self.stream(&self.receives);
        let peer = self.bi_to_peer.clone();
        let theirs = BiStream {
            send: Box::new(back),
            recv: Box::new(to_peer),
        };
        // The other side sees the stream with its first byte.
        send.announce = Some(Box::new(move || drop(peer.send(theirs))));
        Ok(BiStream {
            send: Box::new(send),
            recv: Box::new(recv),
        })
    }

    async fn accept_bi(&self) -> Result<BiStream, ConnectionClosed> {
        let accept = async { self.bi.lock().await.recv().await };
        tokio::select! {
            biased;
            closed = self.closed() => Err(closed),
            Some(stream) = accept => Ok(stream),
        }
    }

    async fn open_uni(&self) -> Result<Box<dyn SendHalf>, ConnectionClosed> {
        self.check()?;
        let (mut send, recv) = self.stream(&self.sends);
        let peer = self.uni_to_peer.clone();
        send.announce = Some(Box::new(move || drop(peer.send(Box::new(recv)))));
        Ok(Box::new(send))
    }

    async fn accept_uni(&self) -> Result<Box<dyn RecvHalf>, ConnectionClosed> {
        let accept = async { self.uni.lock().await.recv().await };
        tokio::select! {
            biased;
            closed = self.closed() => Err(closed),
            Some(stream) = accept => Ok(stream),
        }
    }

    fn close(&self, code: u32, reason: &str) {
        self.end(Some(code), reason);
    }

    async fn closed(&self) -> ConnectionClosed {
        let mut closed = self.closed.subscribe();
        let closed = closed.wait_for(Option::is_some).await;
        closed
            .ok()
            .and_then(|closed| closed.clone())
            .expect("the sender is ours, and waited for a reason")
    }
}

/// Bytes of one direction that may be left unread, whatever stream they are on.
struct Window {
    state: Mutex<WindowState>,
    size: usize,
}

#[derive(Default)]
struct WindowState {
    used: usize,
    writers: Vec<Waker>,
    pipes: Vec<std::sync::Weak<Pipe>>,
}

impl Window {
    fn new(size: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            size,
        })
    }

    fn join(&self, pipe: &Arc<Pipe>) {
        let mut state = lock(&self.state);
        if state.pipes.len() == state.pipes.capacity() {
            state.pipes.retain(|pipe| pipe.strong_count() > 0);
        }
        state.pipes.push(Arc::downgrade(pipe));
    }

    fn take(&self, wanted: usize, cx: &mut Context<'_>) -> usize {
        let mut state = lock(&self.state);
        let taken = wanted.min(self.size - state.used);
        state.used += taken;
        if taken == 0 {
            state.writers.push(cx.waker().clone());
        }
        taken
    }

    fn give_back(&self, bytes: usize) {
        let writers = {
            let mut state = lock(&self.state);
            state.used -= bytes;
            std::mem::take(&mut state.writers)
        };
        writers.into_iter().for_each(Waker::wake);
    }

    fn wake(&self) {
        let (writers, pipes) = {
            let mut state = lock(&self.state);
            (std::mem::take(&mut state.writers), state.pipes.clone())
        };
        writers.into_iter().for_each(Waker::wake);
        for pipe in pipes.iter().filter_map(std::sync::Weak::upgrade) {
            lock(&pipe.state).wake();
        }
    }
}

/// One direction of a stream.
struct Pipe {
    state: Mutex<PipeState>,
    stream_window: usize,
    connection: Arc<Window>,
    closed: Closed,
}

#[derive(Default)]
struct PipeState {
    bytes: VecDeque<u8>,
    finished: bool,
    reset: Option<u32>,
    stopped: Option<u32>,
    read_all: bool,
    waiting: Vec<Waker>,
}

impl PipeState {
    fn wake(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }

    fn wait<T>(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        if !self.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Pipe {
    fn is_closed(&self) -> bool {
        self.closed.borrow().is_some()
    }

    fn reset(&self, code: u32) {
        let mut state = lock(&self.state);
        if state.reset.is_none() && !state.read_all {
            state.reset = Some(code);
            self.connection.give_back(state.bytes.len());
            state.bytes.clear();
            state.wake();
        }
    }

    fn stop(&self, code: u32) {
        let mut state = lock(&self.state);
        if state.stopped.is_none() && !state.read_all {
            state.stopped = Some(code);
            self.connection.give_back(state.bytes.len());
            state.bytes.clear();
            state.wake();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The sending half. Dropping it before it finished resets the stream, as the
/// one over QUIC does: a cut must not look like an end.
struct MemorySend {
    pipe: Arc<Pipe>,
    announce: Option<Box<dyn FnOnce() + Send>>,
}

impl AsyncWrite for MemorySend {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.pipe.state);
        if self.pipe.is_closed() || state.finished {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        if state.reset.is_some() || state.stopped.is_some() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let wanted = data.len().min(self.pipe.stream_window - state.bytes.len());
        if wanted == 0 && !data.is_empty() {
            return state.wait(cx);
        }
        let taken = self.pipe.connection.take(wanted, cx);
        if taken == 0 && !data.is_empty() {
            // Woken by the window, by a stop, or by the end of the connection.
            return state.wait(cx);
        }
        state.bytes.extend(&data[..taken]);
        state.wake();
        drop(state);
        if let Some(announce) = self.announce.take() {
            announce();
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

#[async_trait]
impl SendHalf for MemorySend {
    fn reset(&mut self, code: u32) {
        self.pipe.reset(code);
    }

    fn finish(&mut self) {
        let mut state = lock(&self.pipe.state);
        state.finished = true;
        state.wake();
    }

    async fn stopped(&mut self) -> Option<u32> {
        poll_fn(|cx| {
            let mut state = lock(&self.pipe.state);
            if let Some(code) = state.stopped {
                return Poll::Ready(Some(code));
            }
            if state.read_all || self.pipe.is_closed() {
                return Poll::Ready(None);
            }
            state.wait(cx)
        })
        .await
    }
}

impl Drop for MemorySend {
    fn drop(&mut self) {
        let is_finished = lock(&self.pipe.state).finished;
        if !is_finished {
            self.pipe.reset(0);
        }
    }
}

/// The receiving half. Dropping it before the end stops the stream.
struct MemoryRecv {
    pipe: Arc<Pipe>,
}

impl AsyncRead for MemoryRecv {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = lock(&self.pipe.state);
        if state.reset.is_some() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if state.stopped.is_some() {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        if state.bytes.is_empty() {
            if state.finished {
                state.read_all = true;
                state.wake();
                return Poll::Ready(Ok(()));
            }
            if self.pipe.is_closed() {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            }
            return state.wait(cx);
        }
        let front = state.bytes.as_slices().0;
        let taken = front.len().min(into.remaining());
        into.put_slice(&front[..taken]);
        state.bytes.drain(..taken);
        state.wake();
        drop(state);
        self.pipe.connection.give_back(taken);
        Poll::Ready(Ok(()))
    }
}

#[async_trait]
impl RecvHalf for MemoryRecv {
    fn stop(&mut self, code: u32) {
        self.pipe.stop(code);
    }
}

impl Drop for MemoryRecv {
    fn drop(&mut self) {
        self.pipe.stop(0);
    }
}
