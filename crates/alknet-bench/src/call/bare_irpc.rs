//! irpc over iroh: postcard, one enum for all requests, no access.

use super::{endpoint, measure::Client, payload::Payload};
use crate::worker;
use anyhow::{Context, Result};
use bytes::Bytes;
use iroh::{Endpoint, SecretKey, protocol::Router};
use irpc::{
    WithChannels,
    channel::{mpsc, oneshot},
    rpc_requests,
};
use irpc_iroh::IrohProtocol;
use serde::{Deserialize, Serialize};

const ALPN: &[u8] = b"bench/irpc";
/// Requests, and items, that may wait.
const QUEUE: usize = 256;

/// What can be asked.
#[rpc_requests(message = Message)]
#[derive(Debug, Serialize, Deserialize)]
enum Protocol {
    /// Sends the bytes back.
    #[rpc(tx = oneshot::Sender<Bytes>)]
    #[wrap(Echo)]
    Echo(Bytes),
    /// Sends so many items of 64 bytes.
    #[rpc(tx = mpsc::Sender<Bytes>)]
    #[wrap(Items)]
    Items(u64),
}

/// Serves.
pub(crate) async fn serve() -> Result<()> {
    let endpoint = endpoint::open(SecretKey::from_bytes(&[3; 32]), &[]).await?;
    let (to, requests) = tokio::sync::mpsc::channel(QUEUE);
    tokio::spawn(answer(requests));
    let local = irpc::Client::<Protocol>::local(to);
    let sender = local.as_local().context("the client is local")?;
    let router = Router::builder(endpoint.clone())
        .accept(ALPN, IrohProtocol::with_sender(sender))
        .spawn();
    let place = endpoint::place(&endpoint)?;
    let ended = worker::stay(&place).await;
    router.shutdown().await?;
    ended
}

/// The usual shape of an irpc server: one task that takes request after
/// request; items are sent by a task of their own.
async fn answer(mut requests: tokio::sync::mpsc::Receiver<Message>) {
    while let Some(request) = requests.recv().await {
        match request {
            Message::Echo(WithChannels { inner, tx, .. }) => {
                // A client that is gone needs no answer.
                let _ = tx.send(inner.0).await;
            }
            Message::Items(WithChannels { inner, tx, .. }) => {
                tokio::spawn(async move {
                    let item = Payload::Small.json();
                    for _ in 0..inner.0 {
                        if tx.send(item.clone()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        }
    }
}

/// The client.
pub(crate) struct Irpc {
    client: irpc::Client<Protocol>,
    endpoint: Endpoint,
}

impl Irpc {
    pub(crate) async fn connect(place: &str) -> Result<Self> {
        let endpoint = endpoint::open(endpoint::client_key(), &[]).await?;
        // Without the lock around a connection that may come back.
        let connection = endpoint.connect(endpoint::address(place)?, ALPN).await?;
        let remote = irpc_iroh::IrohRemoteConnection::new(connection);
        let client = irpc::Client::boxed(remote);
        Ok(Self { client, endpoint })
    }
}

impl Client for Irpc {
    async fn echo(&self, _payload: Payload, json: Bytes) -> Result<Bytes> {
        Ok(self.client.rpc(Echo(json)).await?)
    }

    async fn items(&self, count: u64) -> Result<u64> {
        let mut items = self.client.server_streaming(Items(count), QUEUE).await?;
        let mut found = 0;
        while items.recv().await?.is_some() {
            found += 1;
        }
        Ok(found)
    }

    async fn close(&self) {
        self.endpoint.close().await;
    }
}
