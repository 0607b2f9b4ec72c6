//! A whole node: configuration, data directory, admission, and an audit log in
//! SQLite.

use super::payload::operations;
use crate::worker::follow;
use alknet_node::Node;
use anyhow::{Context, Result, bail};
use std::{net::Ipv4Addr, time::Duration};

/// Serves in a data directory, which is made if it is missing.
pub(crate) async fn serve(directory: &str) -> Result<()> {
    let node = Node::builder()
        .name("bench")
        .data_dir(directory)
        .bind((Ipv4Addr::LOCALHOST, 0).into())
        .relays(["none"])
        .operations(operations())
        .spawn()
        .await
        .context("the node does not start")?;
    let ended = follow(directory, |_| async { bail!("a server measures nothing") }).await;
    node.shutdown(Duration::from_secs(1)).await;
    ended
}
