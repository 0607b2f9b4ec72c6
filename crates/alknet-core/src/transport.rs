//! Connections as handlers see them, whatever carries them: bistreams of a
//! QUIC connection, or the one stream of a TCP or WebSocket connection.

use crate::{
    dispatch::Dispatcher,
    identity::{Caller, Credential},
};
use async_trait::async_trait;
use std::{fmt, net::SocketAddr, sync::Arc};
use tokio::io::{AsyncRead, AsyncWrite};

/// The sending half of a stream. Dropped before it finished, it resets the
/// stream with code 0: a cut never looks like an end.
#[async_trait]
pub trait SendHalf: AsyncWrite + Send + Unpin + 'static {
    /// Ends the stream at once; what was not sent is discarded.
    fn reset(&mut self, code: u32);

    /// Says that nothing more follows; returns before it has arrived.
    fn finish(&mut self);

    /// Waits until the other side no longer reads: it has received everything
    /// (`None`), or stopped the stream with a code.
    async fn stopped(&mut self) -> Option<u32>;
}

/// The receiving half of a stream.
#[async_trait]
pub trait RecvHalf: AsyncRead + Send + Unpin + 'static {
    /// Tells the other side that nothing more is read.
    fn stop(&mut self, code: u32);
}

/// Both halves.
pub struct BiStream {
    /// To the other side.
    pub send: Box<dyn SendHalf>,
    /// From the other side.
    pub recv: Box<dyn RecvHalf>,
}

impl fmt::Debug for BiStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BiStream")
    }
}

/// Why a connection has no more streams.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("connection closed: {reason}")]
pub struct ConnectionClosed {
    /// The code that a side closed it with, if it did.
    pub code: Option<u32>,
    /// What is known of why.
    pub reason: String,
}

/// What is known of a connection.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Tells connections of this process apart.
    pub id: u64,
    /// The protocol that was agreed on.
    pub alpn: Vec<u8>,
    /// What the transport proved of the other side.
    pub credential: Option<Credential>,
    /// Where it comes from, if that is one address.
    pub remote: Option<SocketAddr>,
    /// Whether this side opened it.
    pub is_initiator: bool,
}

/// An open connection.
#[async_trait]
pub trait Connection: Send + Sync + 'static {
    /// What is known of it.
    fn info(&self) -> &ConnectionInfo;

    /// Opens a bidirectional stream. The other side sees it with its first
    /// byte.
    async fn open_bi(&self) -> Result<BiStream, ConnectionClosed>;

    /// Waits for a bidirectional stream that the other side opens.
    async fn accept_bi(&self) -> Result<BiStream, ConnectionClosed>;

    /// Opens a stream to the other side.
    async fn open_uni(&self) -> Result<Box<dyn SendHalf>, ConnectionClosed>;

    /// Waits for a stream that the other side opens for sending.
    async fn accept_uni(&self) -> Result<Box<dyn RecvHalf>, ConnectionClosed>;

    /// Closes it at once with a code and a reason.
    fn close(&self, code: u32, reason: &str);

    /// Waits until it is closed, by whoever.
    async fn closed(&self) -> ConnectionClosed;
}

/// What a protocol handler is told of a connection beside its streams.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// The caller behind the connection; anonymous for strangers. Rights are
    /// not in here: each call is decided by the door as of then.
    pub caller: Caller,
    /// The door through which its calls go.
    pub door: Dispatcher,
}

/// Serves the connections of one protocol (ALPN).
#[async_trait]
pub trait ProtocolHandler: Send + Sync + 'static {
    /// The protocol's name on the wire.
    fn alpn(&self) -> &[u8];

    /// Whether callers without a record are let in. Almost never.
    fn admits_strangers(&self) -> bool {
        false
    }

    /// Serves one connection until it ends, or for as long as it is to stay
    /// open: what is left of it is closed when this returns and the last handle
    /// is dropped. A panic harms this connection alone.
    async fn serve(&self, connection: Arc<dyn Connection>, admitted: Admitted);
}
