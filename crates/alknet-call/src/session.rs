//! One connection to another node, calling and answering on it.

use crate::{
    codec::Decoder,
    conduct::Watched,
    frame::{Bearer, Frame, FrameError, Hello, PeerLimits},
    limits::{WireLimits, connection_code, stream_code},
    serve::{Serving, Unread, serve},
    wire::room,
};
use alknet_core::{
    ApiKeyProof, Caller, Credential, Dispatcher, IdentityProvider, PIPE_WINDOW_BYTES,
    transport::{Connection, ConnectionClosed, ConnectionInfo, RecvHalf},
};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Notify, Semaphore},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

/// Versions of the protocol that this crate speaks.
pub const VERSIONS: &[u16] = &[1];

/// Smallest limits that a peer may state: with less, nothing could be said.
const LEAST: PeerLimits = PeerLimits {
    frame_bytes_max: 64 * 1024,
    chunk_bytes_max: 1024,
    item_window_bytes: 16 * 1024,
    channel_window_bytes: 16 * 1024,
};

/// What a session says of itself, and what it accepts.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Program and version, for people; at most 64 bytes.
    pub software: String,
    /// How this node calls itself, for people; at most 64 bytes.
    pub node_name: String,
    /// The connection shall be whoever this belongs to.
    pub credential: Option<Bearer>,
    /// What this side offers beyond calls; at most eight short words.
    pub features: Vec<String>,
    /// What is accepted.
    pub limits: WireLimits,
    /// Who is told what the other side does wrong.
    pub watched: Watched,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            software: concat!("alknet/", env!("CARGO_PKG_VERSION")).into(),
            node_name: String::new(),
            credential: None,
            features: Vec::new(),
            limits: WireLimits::default(),
            watched: Watched::default(),
        }
    }
}

/// Why a connection did not become a session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// It ended before.
    #[error("the connection ended before the session began")]
    Closed(#[from] ConnectionClosed),
    /// The other side did not say who it is in time.
    #[error("the other side sent no `Hello` in time")]
    NoHello,
    /// What it said cannot be read.
    #[error("the other side's `Hello` cannot be read")]
    BadHello(#[source] FrameError),
    /// What it said makes no sense.
    #[error("the other side's `Hello` is refused: {0}")]
    RefusedHello(&'static str),
    /// No version in common.
    #[error("the other side speaks versions {theirs:?}, this one {VERSIONS:?}")]
    NoCommonVersion {
        /// What it speaks.
        theirs: Vec<u16>,
    },
    /// The credential does not resolve: the other side's here, or this one's
    /// there.
    #[error("the credential is not known")]
    Unauthenticated,
    /// It presented too many wrong ones just before.
    #[error("too many wrong credentials; wait {} s before the next", .0.as_secs().max(1))]
    SlowedDown(Duration),
}

/// Counts streams that broke the protocol.
pub(crate) struct Strikes {
    connection: Arc<dyn Connection>,
    count: AtomicU32,
    max: u32,
    watched: Watched,
}

impl Strikes {
    /// Notes one more; too many close the connection.
    pub(crate) fn strike(&self, why: &dyn fmt::Display) {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        self.watched.malformed(self.connection.info());
        tracing::debug!(connection = self.connection.info().id, %why, count, "a stream broke the call protocol");
        if count >= self.max {
            self.connection.close(
                connection_code::PROTOCOL_ERRORS,
                "too many streams broke the protocol",
            );
        }
    }
}

/// Streams that are being served.
#[derive(Default)]
pub(crate) struct Running {
    count: AtomicUsize,
    is_draining: AtomicBool,
    idle: Notify,
}

/// One of them; gone when it is dropped.
pub(crate) struct RunningStream<'a>(&'a Running);

impl Running {
    pub(crate) fn enter(&self) -> RunningStream<'_> {
        self.count.fetch_add(1, Ordering::SeqCst);
        RunningStream(self)
    }

    /// Whether somebody waits for replies to arrive.
    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::SeqCst)
    }

    async fn drained(&self) {
        self.is_draining.store(true, Ordering::SeqCst);
        loop {
            let idle = self.idle.notified();
            if self.count.load(Ordering::SeqCst) == 0 {
                return;
            }
            idle.await;
        }
    }
}

impl Drop for RunningStream<'_> {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

/// What calls need of the connection; it stays open as long as one of them
/// runs.
pub(crate) struct Line {
    pub(crate) connection: Arc<dyn Connection>,
    pub(crate) limits: WireLimits,
    pub(crate) remote: Hello,
    pub(crate) strikes: Arc<Strikes>,
    pub(crate) replies: Arc<Semaphore>,
    pub(crate) items: Arc<Semaphore>,
    running: Arc<Running>,
    _serving: AbortOnDropHandle<()>,
    _watching: Option<AbortOnDropHandle<()>>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.connection.close(connection_code::DONE, "done");
    }
}

/// One connection, on which both sides may call. Dropping the last handle, and
/// the last subscription and channel opened through it, closes the connection.
pub struct Session {
    pub(crate) line: Arc<Line>,
}

impl Session {
    /// Says hello, and serves the other side's calls with `door` as `caller`
    /// until the connection ends; without a door they are refused.
    ///
    /// A credential in the other side's `Hello` replaces `caller`.
    ///
    /// # Errors
    ///
    /// [`SessionError`]; the connection is closed with a code that says why.
    pub async fn start(
        connection: Arc<dyn Connection>,
        door: Option<Dispatcher>,
        caller: Caller,
        config: SessionConfig,
    ) -> Result<Arc<Session>, SessionError> {
        let (limits, watched) = (config.limits.clone(), config.watched.clone());
        let met = timeout(
            limits.first_frame,
            meet(&*connection, door.as_ref(), caller, config),
        );
        let met = met.await.unwrap_or(Err(SessionError::NoHello));
        let (remote, caller) = match met {
            Ok(met) => met,
            Err(error) => {
                if matches!(
                    error,
                    SessionError::BadHello(_) | SessionError::RefusedHello(_)
                ) {
                    watched.malformed(connection.info());
                }
                connection.close(close_code(&error), &error.to_string());
                return Err(error);
            }
        };
        let strikes = Arc::new(Strikes {
            connection: connection.clone(),
            count: AtomicU32::new(0),
            max: limits.stream_errors_max,
            watched,
        });
        let running = Arc::new(Running::default());
        let watching = match (&door, caller.key()) {
            (Some(door), Some(_)) => Some(AbortOnDropHandle::new(tokio::spawn(end_with_key(
                connection.clone(),
                door.clone(),
                caller.clone(),
            )))),
            _ => None,
        };
        let serving = Serving {
            running: running.clone(),
            connection: connection.clone(),
            door,
            caller,
            limits: limits.clone(),
            remote: remote.limits,
            inputs: room(limits.large_bytes_max),
            unread: Unread::default(),
            strikes: strikes.clone(),
        };
        let line = Line {
            connection,
            remote,
            strikes,
            replies: room(limits.large_bytes_max),
            items: room(limits.large_bytes_max),
            limits,
            running,
            _serving: AbortOnDropHandle::new(tokio::spawn(serve(Arc::new(serving)))),
            _watching: watching,
        };
        Ok(Arc::new(Session {
            line: Arc::new(line),
        }))
    }

    /// What is known of the connection.
    #[must_use]
    pub fn info(&self) -> &ConnectionInfo {
        self.line.connection.info()
    }

    /// What the other side said of itself.
    #[must_use]
    pub fn remote(&self) -> &Hello {
        &self.line.remote
    }

    /// Closes the connection at once: calls on it are cancelled there, and
    /// `LOST` here.
    pub fn close(&self, code: u32, reason: &str) {
        self.line.connection.close(code, reason);
    }

    /// Waits until no call of the other side is being served, and their replies
    /// have arrived there: what a node does before it closes. New calls are
    /// served still; the door refuses them once it drains.
    pub async fn drained(&self) {
        self.line.running.drained().await;
    }

    /// Waits until the connection is closed, by whoever.
    pub async fn closed(&self) -> ConnectionClosed {
        self.line.connection.closed().await
    }

    /// Whether the connection is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        use futures::FutureExt;
        self.line.connection.closed().now_or_never().is_some()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("connection", &self.info().id)
            .field("remote", &self.line.remote.node_name)
            .finish_non_exhaustive()
    }
}

/// Exchanges `Hello`s. Whoever opened the connection speaks first; the other
/// side judges what it hears before it answers, so that a refusal is seen
/// before any call is made.
async fn meet(
    connection: &dyn Connection,
    door: Option<&Dispatcher>,
    caller: Caller,
    config: SessionConfig,
) -> Result<(Hello, Caller), SessionError> {
    let limits = &config.limits;
    let hello = Hello {
        versions: VERSIONS.to_vec(),
        software: config.software,
        node_name: config.node_name,
        limits: PeerLimits {
            frame_bytes_max: clamp(limits.frame_bytes_max),
            chunk_bytes_max: clamp(limits.chunk_bytes_max),
            item_window_bytes: clamp(limits.item_window_bytes),
            channel_window_bytes: clamp(PIPE_WINDOW_BYTES),
        },
        features: config.features,
    };
    let first = Frame::Hello(hello, config.credential).to_bytes();
    let is_initiator = connection.info().is_initiator;
    if is_initiator {
        say(connection, &first).await?;
    }
    let (remote, credential) = hear(connection, limits.unknown_bytes_max).await?;
    let remote = judge(remote)?;
    let caller = match (credential, door) {
        // A side that serves nothing has nobody to know.
        (None, _) | (_, None) => caller,
        (Some(_), Some(_)) if let Some(wait) = config.watched.must_wait(connection.info()) => {
            return Err(SessionError::SlowedDown(wait));
        }
        (Some(bearer), Some(door)) => {
            let known = presented(&bearer, door.identities(), &caller);
            known.inspect_err(|_| config.watched.presented_wrong(connection.info()))?
        }
    };
    if !is_initiator {
        say(connection, &first).await?;
    }
    Ok((remote, caller))
}

/// The caller that a presented key makes of the connection's own. One that
/// does not resolve is nobody: it never falls back to whose connection it is.
fn presented(
    bearer: &Bearer,
    identities: &dyn IdentityProvider,
    transport: &Caller,
) -> Result<Caller, SessionError> {
    let proof = ApiKeyProof::parse(bearer.secret()).map_err(|_| SessionError::Unauthenticated)?;
    let caller = Caller::resolve(identities, Credential::ApiKey(proof))
        .ok_or(SessionError::Unauthenticated)?;
    Ok(match transport.is_authenticated() {
        true => caller.carried_by(transport.id()),
        false => caller,
    })
}

/// Ends the connection when the key that was presented is no longer accepted.
/// The key of the connection itself is watched by whoever accepted it.
async fn end_with_key(connection: Arc<dyn Connection>, door: Dispatcher, caller: Caller) {
    let mut changes = door.identities().changes();
    while caller.refreshed(door.identities()).is_some() {
        if changes.changed().await.is_err() {
            return;
        }
    }
    connection.close(
        connection_code::UNAUTHENTICATED,
        "the API key is no longer accepted",
    );
}

fn clamp(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

async fn say(connection: &dyn Connection, first: &[u8]) -> Result<(), SessionError> {
    let mut send = connection.open_uni().await.map_err(closed)?;
    if send.write_all(first).await.is_err() {
        return Err(closed(connection.closed().await));
    }
    send.finish();
    Ok(())
}

async fn hear(
    connection: &dyn Connection,
    bytes_max: usize,
) -> Result<(Hello, Option<Bearer>), SessionError> {
    let mut recv: Box<dyn RecvHalf> = connection.accept_uni().await.map_err(closed)?;
    let mut decoder = Decoder::new(bytes_max, 0);
    loop {
        match decoder.frame().map_err(SessionError::BadHello)? {
            Some(Frame::Hello(hello, credential)) => {
                recv.stop(stream_code::DONE);
                return Ok((hello, credential));
            }
            Some(_) => return Err(SessionError::RefusedHello("another frame came first")),
            None => {}
        }
        match recv.read_buf(decoder.room()).await {
            Ok(0) => return Err(SessionError::RefusedHello("it ended early")),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                return Err(SessionError::RefusedHello("it was given up"));
            }
            Err(_) => return Err(closed(connection.closed().await)),
        }
    }
}

fn judge(mut remote: Hello) -> Result<Hello, SessionError> {
    if !VERSIONS
        .iter()
        .any(|version| remote.versions.contains(version))
    {
        return Err(SessionError::NoCommonVersion {
            theirs: remote.versions,
        });
    }
    let limits = &mut remote.limits;
    if limits.frame_bytes_max < LEAST.frame_bytes_max
        || limits.chunk_bytes_max < LEAST.chunk_bytes_max
        || limits.item_window_bytes < LEAST.item_window_bytes
        || limits.channel_window_bytes < LEAST.channel_window_bytes
    {
        return Err(SessionError::RefusedHello("its limits are too small"));
    }
    // However much the other side would take, no more is sent than this side
    // would take itself.
    let own = WireLimits::default();
    limits.frame_bytes_max = limits.frame_bytes_max.min(clamp(own.frame_bytes_max));
    limits.chunk_bytes_max = limits.chunk_bytes_max.min(clamp(own.chunk_bytes_max));
    limits.item_window_bytes = limits.item_window_bytes.min(clamp(own.item_window_bytes));
    limits.channel_window_bytes = limits.channel_window_bytes.min(clamp(PIPE_WINDOW_BYTES));
    Ok(remote)
}

fn closed(closed: ConnectionClosed) -> SessionError {
    match closed.code {
        Some(connection_code::UNAUTHENTICATED) => SessionError::Unauthenticated,
        _ => SessionError::Closed(closed),
    }
}

fn close_code(error: &SessionError) -> u32 {
    match error {
        SessionError::NoHello => connection_code::NO_HELLO,
        SessionError::BadHello(_) | SessionError::RefusedHello(_) => connection_code::BAD_HELLO,
        SessionError::NoCommonVersion { .. } => connection_code::NO_COMMON_VERSION,
        SessionError::Unauthenticated => connection_code::UNAUTHENTICATED,
        SessionError::SlowedDown(_) => connection_code::LIMIT,
        SessionError::Closed(_) => connection_code::DONE,
    }
}
