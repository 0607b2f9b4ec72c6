//! Bytes between a TCP connection and a channel, in both directions.

use alknet_core::{ByteReceiver, ByteSender, ChannelEnd, PipeClosed};
use bytes::Bytes;
use rustix::net::{Shutdown, shutdown};
use std::{cell::RefCell, io};
use tokio::{io::Interest, net::TcpStream};

/// Bytes read from a socket at a time.
const READ_BYTES: usize = 128 * 1024;

thread_local! {
    /// Reading never waits, so one buffer a thread serves all connections, and
    /// one that is silent holds no memory.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// What passed through a connection that came to its end both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Bytes from the channel to the socket.
    pub to_socket: u64,
    /// Bytes from the socket to the channel.
    pub from_socket: u64,
}

/// How a connection ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CarryError {
    /// The other side of the socket broke the connection.
    #[error("the connection was reset")]
    Reset(#[source] io::Error),
    /// The other end of the channel went away.
    #[error("the channel was cut")]
    Cut,
}

impl From<PipeClosed> for CarryError {
    fn from(_: PipeClosed) -> Self {
        Self::Cut
    }
}

/// Carries bytes both ways until both have ended. The end of the bytes in one
/// direction is passed on as such, and the other goes on.
///
/// A connection that breaks cuts the channel; a channel that is cut, and this
/// future when it is dropped, reset the connection: neither looks like an end.
///
/// # Errors
///
/// [`CarryError`] says which side broke.
pub fn carry(
    stream: TcpStream,
    channel: ChannelEnd,
) -> impl Future<Output = Result<Carried, CarryError>> + Send {
    // Not in the future: one that is never polled must break it too.
    let socket = Breaking::new(stream);
    carry_both(socket, channel)
}

async fn carry_both(socket: Breaking, channel: ChannelEnd) -> Result<Carried, CarryError> {
    let ChannelEnd {
        mut tx,
        mut rx,
        // Kept: to drop it would tell the other end that the channel is gone.
        control_tx: _control_tx,
        control_rx: _,
    } = channel;
    let stream = socket.stream();
    let (mut from_socket, mut to_socket) = (None, None);
    {
        let receiving = receive(stream, &mut tx);
        let sending = send(stream, &mut rx);
        tokio::pin!(receiving, sending);
        while from_socket.is_none() || to_socket.is_none() {
            tokio::select! {
                bytes = &mut receiving, if from_socket.is_none() => from_socket = Some(bytes?),
                bytes = &mut sending, if to_socket.is_none() => to_socket = Some(bytes?),
                // Nobody reads any more, so nobody else would see it break.
                error = broken(stream), if from_socket.is_some() => {
                    return Err(CarryError::Reset(error));
                }
            }
        }
    }
    socket.close();
    Ok(Carried {
        to_socket: to_socket.unwrap_or_default(),
        from_socket: from_socket.unwrap_or_default(),
    })
}

/// A connection that is reset when it is dropped before its end.
#[derive(Debug)]
pub(super) struct Breaking(Option<TcpStream>);

impl Breaking {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self(Some(stream))
    }

    fn stream(&self) -> &TcpStream {
        self.0.as_ref().expect("taken only by value")
    }

    /// It may not be reset any more.
    pub(super) fn into_stream(mut self) -> TcpStream {
        self.0.take().expect("taken only by value")
    }

    fn close(self) {
        drop(self.into_stream());
    }
}

impl Drop for Breaking {
    fn drop(&mut self) {
        if let Some(stream) = &self.0 {
            // A connection that is gone already needs no reset.
            let _ = stream.set_zero_linger();
        }
    }
}

async fn receive(stream: &TcpStream, tx: &mut ByteSender) -> Result<u64, CarryError> {
    let mut total = 0;
    loop {
        stream.readable().await.map_err(CarryError::Reset)?;
        match read_now(stream) {
            Ok(None) => {}
            Ok(Some(bytes)) if bytes.is_empty() => break,
            Ok(Some(bytes)) => {
                total += bytes.len() as u64;
                tx.send(bytes).await?;
            }
            Err(error) => return Err(CarryError::Reset(error)),
        }
    }
    tx.end();
    Ok(total)
}

/// What is there, nothing at the end of the stream, `None` if there is nothing
/// yet.
fn read_now(stream: &TcpStream) -> io::Result<Option<Bytes>> {
    SCRATCH.with_borrow_mut(|scratch| match stream.try_read(scratch) {
        Ok(len) => Ok(Some(Bytes::copy_from_slice(&scratch[..len]))),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    })
}

async fn send(stream: &TcpStream, rx: &mut ByteReceiver) -> Result<u64, CarryError> {
    let mut total = 0;
    while let Some(chunk) = rx.recv().await? {
        if chunk.aux {
            continue;
        }
        total += chunk.bytes.len() as u64;
        write_all(stream, &chunk.bytes)
            .await
            .map_err(CarryError::Reset)?;
    }
    shutdown(stream, Shutdown::Write).map_err(|error| CarryError::Reset(error.into()))?;
    Ok(total)
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(len) => bytes = &bytes[len..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn broken(stream: &TcpStream) -> io::Error {
    if let Err(error) = stream.ready(Interest::ERROR).await {
        return error;
    }
    match stream.take_error() {
        Ok(Some(error)) | Err(error) => error,
        Ok(None) => io::ErrorKind::ConnectionReset.into(),
    }
}
