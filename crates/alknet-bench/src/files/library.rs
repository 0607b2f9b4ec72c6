//! A program with a node in it.

use super::{ground::Ground, lines::Line};
use alknet_call::Client;
use alknet_node::Node;
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use serde_json::{Value, json};
use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

const CONNECT_MAX: Duration = Duration::from_secs(30);
/// Bytes of what is written, at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// A node in this process that is a peer of `home`.
pub(super) struct Library {
    runtime: Runtime,
    node: Option<Node>,
    home: Client,
    bulk_bytes: u64,
    entries: usize,
}

impl Library {
    pub(super) fn join(ground: &Ground, bulk_bytes: u64, entries: usize) -> Result<Self> {
        let runtime = Runtime::new()?;
        let ticket = ground.ticket()?;
        let node = runtime.block_on(async {
            let node = Node::builder()
                .name("desk")
                .data_dir(ground.folder().join("desk"))
                .bind((Ipv4Addr::LOCALHOST, 0).into())
                .relays(["none"])
                .spawn()
                .await
                .context("the node does not start")?;
            let home = node.join(ticket.trim(), &[]).await?;
            node.connected(&home, CONNECT_MAX).await?;
            anyhow::Ok(node)
        })?;
        ground.grant("desk")?;
        Ok(Self {
            home: node.peer("home"),
            runtime,
            node: Some(node),
            bulk_bytes,
            entries,
        })
    }

    pub(super) fn does(&self, line: Line) -> bool {
        matches!(line, Line::BulkPut | Line::BulkCat | Line::ListLong)
    }

    pub(super) fn run(&self, line: Line, name: &str) -> Result<()> {
        self.runtime.block_on(async {
            match line {
                Line::BulkPut => self.write(&format!("www/{name}")).await,
                Line::BulkCat => {
                    let read = self.read("www/big").await?;
                    ensure!(read == self.bulk_bytes, "{read} bytes came");
                    Ok(())
                }
                Line::ListLong => {
                    let listed = self.list("www/many").await?;
                    ensure!(listed == self.entries, "{listed} entries came");
                    Ok(())
                }
                _ => bail!("the library does nothing of the kind"),
            }
        })
    }

    /// Microseconds of each of so many questions, one after the other.
    pub(super) fn stats(&self, count: usize) -> Result<Vec<u32>> {
        let page = json!({ "file": "www/page" });
        self.runtime.block_on(async {
            let mut took = Vec::with_capacity(count);
            for _ in 0..count {
                let started = Instant::now();
                let _: Value = self.home.call("fs/stat", &page).await?;
                took.push(micros(started));
            }
            Ok(took)
        })
    }

    /// The same of reading 4 KiB.
    pub(super) fn reads(&self, count: usize) -> Result<Vec<u32>> {
        self.runtime.block_on(async {
            let mut took = Vec::with_capacity(count);
            for _ in 0..count {
                let started = Instant::now();
                ensure!(self.read("www/page").await? == 4_096, "the page is short");
                took.push(micros(started));
            }
            Ok(took)
        })
    }

    async fn read(&self, file: &str) -> Result<u64> {
        let mut opened = self.home.open("fs/read", &json!({ "file": file })).await?;
        opened.channel.tx.end();
        let mut found = 0;
        while let Some(chunk) = opened.channel.rx.recv().await? {
            found += chunk.bytes.len() as u64;
        }
        opened.done.await?;
        Ok(found)
    }

    async fn write(&self, file: &str) -> Result<()> {
        let input = json!({ "file": file, "bytes": self.bulk_bytes });
        let mut opened = self.home.open("fs/write", &input).await?;
        let block = Bytes::from(vec![0x5a; CHUNK_BYTES]);
        let mut left = self.bulk_bytes;
        while left > 0 {
            let len = usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
            opened.channel.tx.send(block.slice(..len)).await?;
            left -= len as u64;
        }
        opened.channel.tx.end();
        opened.done.await?;
        Ok(())
    }

    async fn list(&self, file: &str) -> Result<usize> {
        let mut from: Option<String> = None;
        let mut count = 0;
        loop {
            let mut input = json!({ "file": file, "limit": 1_024 });
            if let Some(from) = from {
                input["from"] = from.into();
            }
            let page: Value = self.home.call("fs/list", &input).await?;
            count += page["entries"].as_array().map_or(0, Vec::len);
            match page["next"].as_str() {
                Some(next) => from = Some(next.to_owned()),
                None => return Ok(count),
            }
        }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        if let Some(node) = self.node.take() {
            self.runtime.block_on(node.shutdown(Duration::from_secs(1)));
        }
    }
}

fn micros(started: Instant) -> u32 {
    u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX)
}
