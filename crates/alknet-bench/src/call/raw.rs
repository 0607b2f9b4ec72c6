//! The bare transport: a stream a request, its end a FIN, no framing, no names,
//! no access.

use super::{
    endpoint,
    measure::Client,
    payload::{CHUNK_BYTES, Payload, chunks},
};
use crate::worker;
use anyhow::Result;
use bytes::Bytes;
use iroh::{
    Endpoint, SecretKey,
    endpoint::{Connection, RecvStream, SendStream},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Sends a request back.
pub(crate) const ECHO: &[u8] = b"bench/raw-echo";
/// Takes or sends many bytes.
pub(crate) const BULK: &[u8] = b"bench/raw-bulk";
/// Largest request.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// Serves both protocols.
pub(crate) async fn serve() -> Result<()> {
    let endpoint = endpoint::open(SecretKey::from_bytes(&[1; 32]), &[ECHO, BULK]).await?;
    let accepting = tokio::spawn(accept(endpoint.clone()));
    let place = endpoint::place(&endpoint)?;
    let ended = worker::stay(&place).await;
    accepting.abort();
    endpoint.close().await;
    ended
}

/// Serves whoever connects.
pub(crate) async fn accept(endpoint: Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            if let Ok(connection) = incoming.await {
                serve_connection(connection).await;
            }
        });
    }
}

async fn serve_connection(connection: Connection) {
    let is_echo = connection.alpn() == ECHO;
    while let Ok((send, recv)) = connection.accept_bi().await {
        // A stream that ends early is the client's to notice.
        tokio::spawn(async move {
            match is_echo {
                true => echo(send, recv).await,
                false => bulk(send, recv).await,
            }
        });
    }
}

async fn echo(mut send: SendStream, mut recv: RecvStream) -> Result<()> {
    let request = recv.read_to_end(REQUEST_BYTES_MAX).await?;
    send.write_all(&request).await?;
    send.finish()?;
    Ok(())
}

/// The first nine bytes say which way, and how much.
async fn bulk(mut send: SendStream, mut recv: RecvStream) -> Result<()> {
    let way = recv.read_u8().await?;
    let count = recv.read_u64().await?;
    match way {
        b'u' => send.write_u64(take_copies(&mut recv).await?).await?,
        b'U' => send.write_u64(take_chunks(&mut recv).await?).await?,
        b'd' => give_copies(&mut send, count).await?,
        _ => give_chunks(&mut send, count).await?,
    }
    send.finish()?;
    Ok(())
}

/// Writes as [`tokio::io::AsyncWrite`] does: the stream copies.
async fn give_copies(send: &mut SendStream, count: u64) -> Result<()> {
    for chunk in chunks(count) {
        send.write_all(&chunk).await?;
    }
    Ok(())
}

/// Hands over shared chunks, which the stream keeps without copying.
async fn give_chunks(send: &mut SendStream, count: u64) -> Result<()> {
    for chunk in chunks(count) {
        send.write_chunk(chunk).await?;
    }
    Ok(())
}

/// Reads as [`tokio::io::AsyncRead`] does, into a buffer.
async fn take_copies(recv: &mut RecvStream) -> Result<u64> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut count = 0;
    while let Some(read) = recv.read(&mut buffer).await? {
        count += read as u64;
    }
    Ok(count)
}

/// Takes datagrams' payloads as they arrived.
async fn take_chunks(recv: &mut RecvStream) -> Result<u64> {
    let mut count = 0;
    while let Some(chunk) = recv.read_chunk(CHUNK_BYTES).await? {
        count += chunk.len() as u64;
    }
    Ok(count)
}

/// One request on a stream of its own.
pub(crate) async fn ask(connection: &Connection, request: &[u8]) -> Result<Bytes> {
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(request).await?;
    send.finish()?;
    let reply = recv.read_to_end(REQUEST_BYTES_MAX).await?;
    Ok(reply.into())
}

/// The client.
pub(crate) struct Raw {
    echo: Connection,
    bulk: Connection,
    endpoint: Endpoint,
    is_copying: bool,
}

impl Raw {
    pub(crate) async fn connect(place: &str, is_copying: bool) -> Result<Self> {
        let endpoint = endpoint::open(endpoint::client_key(), &[]).await?;
        let address = endpoint::address(place)?;
        Ok(Self {
            echo: endpoint.connect(address.clone(), ECHO).await?,
            bulk: endpoint.connect(address, BULK).await?,
            endpoint,
            is_copying,
        })
    }

    /// Over connections that are there, copying.
    pub(crate) fn over(endpoint: Endpoint, echo: Connection, bulk: Connection) -> Self {
        Self {
            echo,
            bulk,
            endpoint,
            is_copying: true,
        }
    }

    async fn open(&self, way: u8, count: u64) -> Result<(SendStream, RecvStream)> {
        let (mut send, recv) = self.bulk.open_bi().await?;
        send.write_u8(way).await?;
        send.write_u64(count).await?;
        Ok((send, recv))
    }
}

impl Client for Raw {
    async fn echo(&self, _payload: Payload, json: Bytes) -> Result<Bytes> {
        ask(&self.echo, &json).await
    }

    async fn upload(&self, count: u64) -> Result<u64> {
        let way = if self.is_copying { b'u' } else { b'U' };
        let (mut send, mut recv) = self.open(way, count).await?;
        match self.is_copying {
            true => give_copies(&mut send, count).await?,
            false => give_chunks(&mut send, count).await?,
        }
        send.finish()?;
        Ok(recv.read_u64().await?)
    }

    async fn download(&self, count: u64) -> Result<u64> {
        let way = if self.is_copying { b'd' } else { b'D' };
        let (mut send, mut recv) = self.open(way, count).await?;
        send.finish()?;
        match self.is_copying {
            true => take_copies(&mut recv).await,
            false => take_chunks(&mut recv).await,
        }
    }

    async fn close(&self) {
        self.endpoint.close().await;
    }
}
