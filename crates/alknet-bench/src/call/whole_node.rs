//! Whole nodes: configuration, data directory, admission, and an audit log in
//! SQLite; alone, and with a third one between two.

use super::payload::operations;
use crate::worker;
use alknet_node::{Node, NodeBuilder};
use anyhow::{Context, Result};
use std::{net::Ipv4Addr, time::Duration};

/// How the node behind the one between is called there.
pub(crate) const FAR: &str = "far";
/// Time for two nodes to connect.
const CONNECT_MAX: Duration = Duration::from_secs(20);

/// Serves in a data directory, which is made if it is missing.
pub(crate) async fn serve(directory: &str) -> Result<()> {
    let node = start(describe("bench", directory).operations(operations())).await?;
    stay(node, directory).await
}

/// The same, for a node between; what it says when it is ready is a ticket.
pub(crate) async fn serve_far(directory: &str) -> Result<()> {
    let node = start(describe(FAR, directory).operations(operations())).await?;
    let ticket = node.invite(&["bench:use"]).await?;
    stay(node, &ticket).await
}

/// Passes calls on to the node that made the ticket.
pub(crate) async fn serve_between(place: &str) -> Result<()> {
    let (directory, ticket) = place
        .split_once('\n')
        .context("a place is directory and ticket")?;
    let node = start(describe("between", directory)).await?;
    node.join(ticket, &[]).await?;
    node.connected(FAR, CONNECT_MAX).await?;
    stay(node, directory).await
}

fn describe(name: &str, directory: &str) -> NodeBuilder {
    Node::builder()
        .name(name)
        .data_dir(directory)
        .bind((Ipv4Addr::LOCALHOST, 0).into())
        .relays(["none"])
}

async fn start(described: NodeBuilder) -> Result<Node> {
    described.spawn().await.context("the node does not start")
}

async fn stay(node: Node, ready: &str) -> Result<()> {
    let ended = worker::stay(ready).await;
    node.shutdown(Duration::from_secs(1)).await;
    ended
}
