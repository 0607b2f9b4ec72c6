//! alknet's call protocol: a session at both ends, a door with identities,
//! schemas and audit behind it.

use super::{
    endpoint,
    measure::Client,
    payload::{Amount, Payload, chunks, operations},
};
use crate::worker;
use alknet_call::{ALPN, Request, Session, SessionConfig, connection_code, quic::QuicConnection};
use alknet_core::{
    AuditRow, AuditSink, AuditWriter, Caller, Credential, Dispatcher, GrantTarget, Grants,
    OperationName, PeerId, Registry, RoleSet, Route, parse_route,
    storage::{
        AuditFilter, AuditLog, AuditSpan, IdentityChange, IdentityIndex, IdentityStore,
        MemoryIdentityStore, NodeKey, PeerRecord, StoreError, Timestamp, system_clock,
    },
};
use anyhow::{Context, Result};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use iroh::{Endpoint, SecretKey};
use std::{
    collections::VecDeque,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::watch;

/// Rows that the log keeps: memory shall show what a door needs, and not how
/// long it was measured.
const ROWS_KEPT: usize = 10_000;

/// The newest rows, in memory.
#[derive(Default)]
struct NewestRows(Mutex<VecDeque<AuditRow>>);

#[async_trait]
impl AuditLog for NewestRows {
    async fn append(&self, rows: Vec<AuditRow>) -> Result<(), StoreError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(rows);
        let over = kept.len().saturating_sub(ROWS_KEPT);
        kept.drain(..over);
        Ok(())
    }

    async fn list(&self, _filter: &AuditFilter) -> Result<Vec<(u64, AuditRow)>, StoreError> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((1..).zip(kept.iter().cloned()).collect())
    }

    async fn span(&self) -> Result<AuditSpan, StoreError> {
        Ok(AuditSpan::default())
    }

    /// Nobody follows here.
    fn written(&self) -> watch::Receiver<u64> {
        watch::Sender::new(0).subscribe()
    }

    async fn prune_rows(
        &self,
        _before: Timestamp,
        _rows_max: u64,
        _batch: u32,
        _row: AuditRow,
    ) -> Result<u64, StoreError> {
        Ok(0)
    }
}

/// A door as a node has it, with one peer that may use the operations, and
/// that peer as a caller. Its audit rows are handed over and written.
pub(crate) async fn door() -> Result<(Dispatcher, Caller)> {
    let clock = system_clock();
    let key = *endpoint::client_key().public().as_bytes();
    let mut peer = PeerRecord::new(PeerId::parse("client")?, clock());
    peer.node_keys = vec![NodeKey { key, until: None }];
    peer.grants = Grants::from_iter([GrantTarget::parse("bench:use")?]);
    let store: Arc<dyn IdentityStore> = Arc::new(MemoryIdentityStore::default());
    let roles = RoleSet::new(Vec::new(), Vec::new());
    let identities = IdentityIndex::load(store, roles, clock.clone()).await?;
    let row = AuditRow::event(clock(), "host", "peers/add");
    identities.apply(IdentityChange::AddPeer(peer), row).await?;
    let identities = Arc::new(identities);

    let registry = Registry::new();
    registry.register(operations())?;
    let door = Dispatcher::builder(registry)
        .identities(identities.clone())
        .audit(audit())
        .node("bench", [2; 32])
        .clock(clock)
        .build();
    let caller = Caller::resolve(&*identities, Credential::NodeKey(key));
    Ok((door, caller.context("the peer is known")?))
}

fn audit() -> AuditSink {
    let (sink, writer) = AuditWriter::new();
    let log: Arc<dyn AuditLog> = Arc::new(NewestRows::default());
    tokio::spawn(writer.run(log, std::future::pending()));
    sink
}

/// Serves sessions until there are no more orders.
pub(crate) async fn serve() -> Result<()> {
    let (door, _) = door().await?;
    let endpoint = endpoint::open(SecretKey::from_bytes(&[2; 32]), &[ALPN]).await?;
    let accepting = tokio::spawn(accept(endpoint.clone(), door));
    let place = endpoint::place(&endpoint)?;
    let ended = worker::stay(&place).await;
    accepting.abort();
    endpoint.close().await;
    ended
}

async fn accept(endpoint: Endpoint, door: Dispatcher) {
    while let Some(incoming) = endpoint.accept().await {
        let door = door.clone();
        tokio::spawn(async move {
            let connection = QuicConnection::new(incoming.await?);
            let key = Credential::NodeKey(*connection.inner().remote_id().as_bytes());
            let caller = Caller::resolve(door.identities(), key).context("an unknown peer")?;
            let config = SessionConfig::default();
            let session = Session::start(Arc::new(connection), Some(door), caller, config).await?;
            session.closed().await;
            anyhow::Ok(())
        });
    }
}

/// The client.
pub(crate) struct Native {
    session: Arc<Session>,
    operations: [(Payload, OperationName); 3],
    route: Route,
    held: tokio::sync::Mutex<Option<Held>>,
}

/// What keeps the connection.
enum Held {
    Endpoint(Endpoint),
    Node(Box<alknet_node::control::LocalNode>),
}

impl Native {
    /// Connects to [`serve`].
    pub(crate) async fn connect(place: &str) -> Result<Self> {
        let endpoint = endpoint::open(endpoint::client_key(), &[]).await?;
        let connection = endpoint.connect(endpoint::address(place)?, ALPN).await?;
        let connection = Arc::new(QuicConnection::new(connection));
        let nobody = Caller::anonymous();
        let session = Session::start(connection, None, nobody, SessionConfig::default()).await?;
        Self::over(session, Route::new(), Held::Endpoint(endpoint))
    }

    /// Connects to the whole node with this data directory; calls go on
    /// through `route`, if it is not empty.
    pub(crate) async fn connect_node(directory: &str, route: &str) -> Result<Self> {
        let route = match route {
            "" => Route::new(),
            route => parse_route(route)?,
        };
        let node = alknet_node::control::connect(Path::new(directory)).await?;
        let session = node.client.session().cloned();
        let session = session.context("it is over a connection")?;
        Self::over(session, route, Held::Node(Box::new(node)))
    }

    fn over(session: Arc<Session>, route: Route, held: Held) -> Result<Self> {
        let parsed = |payload: Payload| OperationName::parse(payload.operation());
        let [small, listing, large] = Payload::ALL;
        Ok(Self {
            session,
            operations: [
                (small, parsed(small)?),
                (listing, parsed(listing)?),
                (large, parsed(large)?),
            ],
            route,
            held: tokio::sync::Mutex::new(Some(held)),
        })
    }

    fn request(&self, operation: OperationName, input: Bytes) -> Request {
        let route = self.route.clone();
        Request {
            route,
            ..Request::new(operation, input)
        }
    }

    fn amount(&self, operation: &str, count: u64) -> Result<Request> {
        let input = serde_json::to_vec(&Amount { count })?;
        Ok(self.request(OperationName::parse(operation)?, input.into()))
    }
}

impl Client for Native {
    async fn echo(&self, payload: Payload, json: Bytes) -> Result<Bytes> {
        let found = self.operations.iter().find(|(of, _)| *of == payload);
        let operation = found.context("every payload has one")?.1.clone();
        let output = self.session.call(self.request(operation, json)).await?;
        Ok(output.into_bytes())
    }

    async fn upload(&self, count: u64) -> Result<u64> {
        let request = self.amount("bench/sink", count)?;
        let mut opened = self.session.open(request).await?;
        for chunk in chunks(count) {
            opened.channel.tx.send(chunk).await?;
        }
        opened.channel.tx.end();
        let amount: Amount = opened.done.await?.parse()?;
        Ok(amount.count)
    }

    async fn download(&self, count: u64) -> Result<u64> {
        let request = self.amount("bench/source", count)?;
        let mut opened = self.session.open(request).await?;
        let mut found = 0;
        while let Some(chunk) = opened.channel.rx.recv().await? {
            found += chunk.bytes.len() as u64;
        }
        opened.done.await?;
        Ok(found)
    }

    async fn items(&self, count: u64) -> Result<u64> {
        let request = self.amount("bench/items", count)?;
        let mut items = self.session.subscribe(request).await?;
        let mut found = 0;
        while let Some(item) = items.next().await {
            item?;
            found += 1;
        }
        Ok(found)
    }

    async fn close(&self) {
        match self.held.lock().await.take() {
            Some(Held::Endpoint(endpoint)) => {
                self.session.close(connection_code::DONE, "done");
                endpoint.close().await;
            }
            Some(Held::Node(node)) => node.close().await,
            None => {}
        }
    }
}
