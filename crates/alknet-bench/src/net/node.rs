//! alknet as users run it: whole nodes with keys, a store, admission, rights,
//! schemas and an audit log, made peers by an invite.

use super::task::{self, Guest, Meeting, Met, Setup, Task, ms_since};
use crate::{
    call::{
        measure::Client,
        payload::{Amount, Payload, chunks, operations},
    },
    worker::follow,
};
use alknet_call::Client as Asker;
use alknet_core::Input;
use alknet_node::{InitOptions, Node, NodeBuilder, init, ticket::Ticket};
use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

/// Time for two nodes to connect, and for a node to have its place at a relay.
const CONNECT_MAX: Duration = Duration::from_secs(20);
/// How often a node is asked whether it is at its relay.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How long calls may take to end when a node stops: there are none.
const DRAIN_MAX: Duration = Duration::from_secs(1);

fn describe(name: &str, folder: &Path, relay: &str) -> NodeBuilder {
    Node::builder().name(name).data_dir(folder).relays([relay])
}

async fn start(described: NodeBuilder) -> Result<Node> {
    described.spawn().await.context("the node does not start")
}

async fn at_relay(node: &Node) -> Result<()> {
    let looking = async {
        while !node.status().relays_in_use.iter().any(|own| own.connected) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let looked = tokio::time::timeout(CONNECT_MAX, looking).await;
    looked.map_err(|_| anyhow!("no place at the relay within {CONNECT_MAX:?}"))
}

fn key_of(node: &Node) -> String {
    data_encoding::HEXLOWER.encode(&node.id())
}

/// Asks a node, as the program that it is part of.
async fn ask(node: &Node, operation: &str, input: Value) -> Result<Value> {
    let asked = node.client().call_json(operation, &input).await;
    asked.with_context(|| format!("`{operation}`"))
}

/// Lets a key be a peer, without any rights.
pub(crate) async fn know(node: &Node, id: &str) -> Result<()> {
    let name = format!("peer-{}", id.get(..16).unwrap_or(id));
    let peer = json!({ "peer": name, "node_id": id });
    ask(node, "peers/add", peer).await.map(drop)
}

/// Lets a peer be forgotten, if there is one with this key.
pub(crate) async fn forget(node: &Node, id: &str) -> Result<()> {
    let listed = ask(node, "peers/list", json!({})).await?;
    let peers = listed["peers"].as_array().into_iter().flatten();
    for peer in peers.filter(|peer| peer["node_id"] == id) {
        ask(node, "peers/remove", json!({ "peer": peer["peer"] })).await?;
    }
    Ok(())
}

/// Answers, to whomever it has invited.
pub(crate) async fn serve(setup: Setup) -> Result<()> {
    let described = describe("server", &setup.folder, &setup.relay).operations(operations());
    let node = Arc::new(start(described).await?);
    let id = key_of(&node);
    let answering = follow(&id, |task| {
        let node = node.clone();
        async move {
            match task {
                Task::Invite => invite(&node).await.map(Value::from),
                Task::Forget { id } => forget(&node, &id).await.map(Value::from),
                other => bail!("a server does nothing of the kind: {other:?}"),
            }
        }
    });
    let ended = answering.await;
    stop(node).await?;
    ended
}

pub(crate) async fn stop(node: Arc<Node>) -> Result<()> {
    let node = Arc::into_inner(node).context("nobody else has the node")?;
    node.shutdown(DRAIN_MAX).await;
    Ok(())
}

/// A ticket that names the relay alone: both sides begin there.
async fn invite(node: &Node) -> Result<String> {
    at_relay(node).await?;
    let mut ticket = Ticket::parse(&node.invite(&["bench:use"]).await?)?;
    ensure!(!ticket.relays.is_empty(), "the ticket names no relay");
    ticket.addresses.clear();
    Ok(ticket.encode())
}

/// Asks.
struct Visitor {
    relay: String,
    folder: PathBuf,
    /// How many it has been.
    count: usize,
    /// The server's name here.
    server: String,
    node: Option<Node>,
}

/// Visits servers, one after the other.
pub(crate) async fn visit(setup: Setup) -> Result<()> {
    let visitor = Visitor {
        relay: setup.relay,
        folder: setup.folder,
        count: 0,
        server: String::new(),
        node: None,
    };
    task::visit(visitor).await
}

impl Visitor {
    fn own_folder(&self) -> PathBuf {
        self.folder.join(self.count.to_string())
    }

    fn node(&self) -> Result<&Node> {
        self.node.as_ref().context("not connected")
    }
}

impl Guest for Visitor {
    type Client = Caller;

    async fn prepare(&mut self) -> Result<String> {
        self.leave().await?;
        let _ = std::fs::remove_dir_all(self.own_folder());
        self.count += 1;
        let folder = self.own_folder();
        std::fs::create_dir_all(&self.folder)?;
        Ok(init(
            &folder,
            &InitOptions {
                words: None,
                passphrase: None,
            },
        )?
        .node_id)
    }

    async fn meet(&mut self, meeting: Meeting) -> Result<(Met, Instant)> {
        let mut start = Instant::now();
        let mut met = Met::default();
        let name = format!("client-{}", self.count);
        let described = describe(&name, &self.own_folder(), &self.relay);
        let node = self.node.insert(self::start(described).await?);
        if let Meeting::First(ticket) = &meeting {
            at_relay(node).await?;
            met.at_relay_ms = ms_since(start);
            start = Instant::now();
            self.server = node.join(ticket, &[]).await?;
        }
        node.connected(&self.server, CONNECT_MAX).await?;
        let caller = Caller(node.peer(&self.server));
        let json = Payload::Small.json();
        let reply = caller.echo(Payload::Small, json.clone()).await?;
        ensure!(reply == json, "another reply");
        met.replied_ms = ms_since(start);
        Ok((met, start))
    }

    async fn is_direct(&self) -> Result<bool> {
        let listed = ask(self.node()?, "peers/list", json!({})).await?;
        let mut peers = listed["peers"].as_array().into_iter().flatten();
        let server = peers.find(|peer| peer["peer"] == self.server.as_str());
        let server = server.context("the server is a peer")?;
        Ok(server["link"]["path"] == "direct")
    }

    async fn leave(&mut self) -> Result<()> {
        if let Some(node) = self.node.take() {
            node.shutdown(DRAIN_MAX).await;
        }
        Ok(())
    }

    async fn client(&mut self) -> Result<Arc<Caller>> {
        Ok(Arc::new(Caller(self.node()?.peer(&self.server))))
    }
}

/// Calls the server's operations, as the program that the node is part of: by
/// its own door, and that of the server.
struct Caller(Asker);

impl Client for Caller {
    async fn echo(&self, payload: Payload, json: Bytes) -> Result<Bytes> {
        let input = Input::Json(json);
        let output = self.0.call_output(payload.operation(), input).await?;
        Ok(output.into_bytes())
    }

    async fn upload(&self, count: u64) -> Result<u64> {
        let mut opened = self.0.open("bench/sink", &Amount { count }).await?;
        for chunk in chunks(count) {
            opened.channel.tx.send(chunk).await?;
        }
        opened.channel.tx.end();
        let amount: Amount = opened.done.await?.parse()?;
        Ok(amount.count)
    }

    async fn download(&self, count: u64) -> Result<u64> {
        let mut opened = self.0.open("bench/source", &Amount { count }).await?;
        let mut found = 0;
        while let Some(chunk) = opened.channel.rx.recv().await? {
            found += chunk.bytes.len() as u64;
        }
        opened.done.await?;
        Ok(found)
    }
}
