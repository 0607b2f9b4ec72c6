//! Core's neutral [`Connection`] over an iroh connection.

use crate::links::{PathEnd, Traffic, traffic_of};
use alknet_core::{
    Credential,
    transport::{BiStream, Connection, ConnectionClosed, ConnectionInfo, RecvHalf, SendHalf},
};
use async_trait::async_trait;
use iroh::{
    TransportAddr,
    endpoint::{self, ConnectionError, IdleTimeout, QuicTransportConfig, VarInt},
};
use std::{
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Code with which a stream is reset when its owner drops it unfinished.
pub const DROPPED: u32 = 0;

/// Limits of the transport; every one has a name, none is the library's
/// default by accident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuicLimits {
    /// Bidirectional streams that the other side may always have open: calls
    /// in flight. Up to a seventh more are let in, since the library returns
    /// the credit for ended ones late.
    pub streams_per_connection_max: u32,
    /// Unidirectional streams the other side may have open.
    pub uni_streams_per_connection_max: u32,
    /// Bytes a stream may receive before they are read. Above 2 MiB the
    /// library closes connections under loss.
    pub stream_window_bytes: u32,
    /// Bytes a connection may receive before they are read.
    pub connection_window_bytes: u32,
    /// Bytes a connection may have sent and not yet seen acknowledged.
    pub send_window_bytes: u64,
    /// Silence after which the other side counts as gone.
    pub idle: Duration,
    /// How often a silent connection is kept alive.
    pub keep_alive: Duration,
    /// Silence after which a direct path counts as broken, and what is sent
    /// takes another one, such as a relay's: how long a connection stands
    /// still when a router forgets a mapping, or lets no UDP through any more.
    /// At most 15 seconds; paths through relays have 30 of their own.
    pub path_idle: Duration,
    /// How often a silent path is kept alive, so that several must be lost
    /// before it counts as broken. At most 5 seconds.
    pub path_keep_alive: Duration,
}

impl Default for QuicLimits {
    fn default() -> Self {
        Self {
            streams_per_connection_max: 1024,
            uni_streams_per_connection_max: 8,
            stream_window_bytes: 1_250_000,
            connection_window_bytes: 16 * 1024 * 1024,
            send_window_bytes: 10_000_000,
            idle: Duration::from_secs(15),
            keep_alive: Duration::from_secs(5),
            path_idle: Duration::from_secs(6),
            path_keep_alive: Duration::from_secs(2),
        }
    }
}

impl QuicLimits {
    /// The transport configuration that enforces them.
    #[must_use]
    pub fn transport_config(&self) -> QuicTransportConfig {
        let idle = IdleTimeout::try_from(self.idle).ok();
        // Credit comes back when more than an eighth of all has ended: without
        // a seventh on top, whoever may have 1,024 would at times get 896.
        let streams = self.streams_per_connection_max;
        let streams = streams.saturating_add(streams.div_ceil(7));
        QuicTransportConfig::builder()
            .max_concurrent_bidi_streams(VarInt::from_u32(streams))
            .max_concurrent_uni_streams(VarInt::from_u32(self.uni_streams_per_connection_max))
            .stream_receive_window(VarInt::from_u32(self.stream_window_bytes))
            .receive_window(VarInt::from_u32(self.connection_window_bytes))
            .send_window(self.send_window_bytes)
            .max_idle_timeout(idle)
            .keep_alive_interval(self.keep_alive)
            .default_path_max_idle_timeout(self.path_idle.min(self.idle))
            .default_path_keep_alive_interval(self.path_keep_alive.min(self.idle / 3))
            // Unreliable datagrams are not used: none may pile up.
            .datagram_receive_buffer_size(None)
            .build()
    }
}

/// One open path of a connection, as it is at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathReport {
    /// The path is direct (not through a relay).
    pub is_direct: bool,
    /// Where it leads: a socket address or a relay's URL.
    pub address: String,
    /// What is sent takes this path; the others are kept for when it fails.
    pub is_selected: bool,
    /// Its connection is for channels, not for calls.
    pub carries_channels: bool,
    /// Round-trip time as estimated (RFC 9002, section 5).
    pub rtt: Duration,
    /// Largest UDP payload that it takes, in bytes (RFC 9000, section 14.3).
    pub mtu: u16,
    /// What it carried.
    pub traffic: Traffic,
}

impl PathReport {
    fn of(path: &endpoint::Path<'_>) -> Self {
        let (is_direct, address) = path_end(path.remote_addr());
        let stats = path.stats();
        Self {
            is_direct,
            address,
            is_selected: path.is_selected(),
            carries_channels: false,
            rtt: stats.rtt,
            mtu: stats.current_mtu,
            traffic: traffic_of(&stats, path.is_relay()),
        }
    }

    /// Where it leads.
    #[must_use]
    pub fn end(&self) -> PathEnd {
        PathEnd {
            is_direct: self.is_direct,
            address: self.address.clone(),
        }
    }
}

fn path_end(address: &TransportAddr) -> (bool, String) {
    match address {
        TransportAddr::Ip(addr) => (true, addr.to_string()),
        // A query only tells the library's own connections to a relay apart.
        TransportAddr::Relay(url) => {
            let url = url.as_str();
            (false, url.split('?').next().unwrap_or(url).to_owned())
        }
        other => (true, format!("{other:?}")),
    }
}

/// An iroh connection.
#[derive(Clone, Debug)]
pub struct QuicConnection {
    inner: endpoint::Connection,
    info: ConnectionInfo,
}

impl QuicConnection {
    /// Wraps a connection whose handshake is complete: the other side's key is
    /// proven.
    #[must_use]
    pub fn new(inner: endpoint::Connection) -> Self {
        let remote = inner
            .paths()
            .iter()
            .find_map(|path| match path.remote_addr() {
                TransportAddr::Ip(addr) => Some(*addr),
                _ => None,
            });
        let info = ConnectionInfo {
            id: inner.stable_id() as u64,
            alpn: inner.alpn().to_vec(),
            credential: Some(Credential::NodeKey(*inner.remote_id().as_bytes())),
            remote,
            is_initiator: inner.side() == endpoint::Side::Client,
        };
        Self { inner, info }
    }

    /// The selected path, or else the oldest open one.
    #[must_use]
    pub fn path(&self) -> Option<PathReport> {
        let paths = self.inner.paths();
        let path = paths
            .iter()
            .find(|path| path.is_selected())
            .or_else(|| paths.iter().next())?;
        Some(PathReport::of(&path))
    }

    /// All open paths.
    #[must_use]
    pub fn paths(&self) -> Vec<PathReport> {
        let paths = self.inner.paths();
        paths.iter().map(|path| PathReport::of(&path)).collect()
    }

    /// Where the selected path leads; `None` while none is selected.
    #[must_use]
    pub fn selected(&self) -> Option<PathEnd> {
        let paths = self.inner.paths();
        let path = paths.iter().find(|path| path.is_selected())?;
        let (is_direct, address) = path_end(path.remote_addr());
        Some(PathEnd { is_direct, address })
    }

    /// Direct addresses at which the other side was seen.
    #[must_use]
    pub fn remote_addresses(&self) -> Vec<SocketAddr> {
        let paths = self.inner.paths();
        paths
            .iter()
            .filter_map(|path| match path.remote_addr() {
                TransportAddr::Ip(addr) => Some(*addr),
                _ => None,
            })
            .collect()
    }

    /// The connection itself.
    #[must_use]
    pub fn inner(&self) -> &endpoint::Connection {
        &self.inner
    }
}

fn closed(error: &ConnectionError) -> ConnectionClosed {
    let code = match error {
        ConnectionError::ApplicationClosed(close) => {
            u32::try_from(close.error_code.into_inner()).ok()
        }
        _ => None,
    };
    let reason = match error {
        ConnectionError::ApplicationClosed(close) => {
            String::from_utf8_lossy(&close.reason).into_owned()
        }
        other => other.to_string(),
    };
    ConnectionClosed { code, reason }
}

#[async_trait]
impl Connection for QuicConnection {
    fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    async fn open_bi(&self) -> Result<BiStream, ConnectionClosed> {
        let (send, recv) = self.inner.open_bi().await.map_err(|error| closed(&error))?;
        Ok(BiStream {
            send: Box::new(QuicSend::new(send)),
            recv: Box::new(QuicRecv(recv)),
        })
    }

    async fn accept_bi(&self) -> Result<BiStream, ConnectionClosed> {
        let (send, recv) = self
            .inner
            .accept_bi()
            .await
            .map_err(|error| closed(&error))?;
        Ok(BiStream {
            send: Box::new(QuicSend::new(send)),
            recv: Box::new(QuicRecv(recv)),
        })
    }

    async fn open_uni(&self) -> Result<Box<dyn SendHalf>, ConnectionClosed> {
        let send = self
            .inner
            .open_uni()
            .await
            .map_err(|error| closed(&error))?;
        Ok(Box::new(QuicSend::new(send)))
    }

    async fn accept_uni(&self) -> Result<Box<dyn RecvHalf>, ConnectionClosed> {
        let recv = self
            .inner
            .accept_uni()
            .await
            .map_err(|error| closed(&error))?;
        Ok(Box::new(QuicRecv(recv)))
    }

    fn close(&self, code: u32, reason: &str) {
        self.inner.close(VarInt::from_u32(code), reason.as_bytes());
    }

    async fn closed(&self) -> ConnectionClosed {
        closed(&self.inner.closed().await)
    }
}

struct QuicSend {
    inner: endpoint::SendStream,
    ended: bool,
}

impl QuicSend {
    fn new(inner: endpoint::SendStream) -> Self {
        Self {
            inner,
            ended: false,
        }
    }
}

impl Drop for QuicSend {
    fn drop(&mut self) {
        // The library finishes a dropped stream, which would make a cut look
        // like an end.
        if !self.ended {
            let _ = self.inner.reset(VarInt::from_u32(DROPPED));
        }
    }
}

#[async_trait]
impl SendHalf for QuicSend {
    fn reset(&mut self, code: u32) {
        self.ended = true;
        // An error means that the stream has ended already.
        let _ = self.inner.reset(VarInt::from_u32(code));
    }

    fn finish(&mut self) {
        self.ended = true;
        let _ = self.inner.finish();
    }

    async fn stopped(&mut self) -> Option<u32> {
        match self.inner.stopped().await {
            Ok(Some(code)) => u32::try_from(code.into_inner()).ok().or(Some(u32::MAX)),
            Ok(None) => None,
            // The connection is gone: nobody reads.
            Err(_) => Some(DROPPED),
        }
    }
}

impl AsyncWrite for QuicSend {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.inner), cx, data).map_err(in_words)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.inner), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.ended = true;
        AsyncWrite::poll_shutdown(Pin::new(&mut self.inner), cx)
    }
}

/// The error of a stream whose connection has ended, with the reason that the
/// other side gave and not only a number.
fn in_words(error: std::io::Error) -> std::io::Error {
    let inner = error.get_ref();
    let read = inner.and_then(|inner| inner.downcast_ref());
    let written = inner.and_then(|inner| inner.downcast_ref());
    let lost = match (read, written) {
        (Some(endpoint::ReadError::ConnectionLost(lost)), _) => lost,
        (_, Some(endpoint::WriteError::ConnectionLost(lost))) => lost,
        _ => return error,
    };
    std::io::Error::new(error.kind(), closed(lost))
}

struct QuicRecv(endpoint::RecvStream);

#[async_trait]
impl RecvHalf for QuicRecv {
    fn stop(&mut self, code: u32) {
        // An error means that the stream has ended already.
        let _ = self.0.stop(VarInt::from_u32(code));
    }
}

impl AsyncRead for QuicRecv {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.0), cx, buf).map_err(in_words)
    }
}
