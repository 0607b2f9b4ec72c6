//! What the caller of `fs/pull` is told while it runs.

use super::wire::{Failed, gone};
use crate::stream::line;
use alknet_core::{
    ByteSender, CallError,
    files::{FileErrorCode, FileKind},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// What was fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(super) struct Pulled {
    /// Files that were fetched.
    pub(super) files: u64,
    /// Directories that are there now.
    pub(super) directories: u64,
    /// Links that are there now.
    pub(super) links: u64,
    /// Bytes of those files, holes included, what was kept of earlier attempts
    /// not.
    pub(super) bytes: u64,
    /// Files that were there already.
    pub(super) skipped: u64,
    /// Pipes, devices and sockets, which are not copied.
    pub(super) others: u64,
    /// Entries that were not copied, each told with its error.
    pub(super) failed: u64,
}

/// Tells, and counts.
#[derive(Debug)]
pub(super) struct Teller {
    tx: ByteSender,
    /// Whether each entry is told.
    each: bool,
    told_at: Instant,
    pub(super) pulled: Pulled,
}

impl Teller {
    pub(super) fn new(tx: ByteSender, each: bool) -> Self {
        Self {
            tx,
            each,
            told_at: Instant::now(),
            pulled: Pulled::default(),
        }
    }

    async fn line(&mut self, value: &Value) -> Result<(), CallError> {
        let sent = self.tx.send(line(value)).await;
        sent.map_err(|_| gone())
    }

    /// Tells how far it is, if that was not told just now.
    pub(super) async fn progress(&mut self) -> Result<(), CallError> {
        if self.told_at.elapsed() < TELL_EVERY {
            return Ok(());
        }
        self.told_at = Instant::now();
        let Pulled {
            files,
            bytes,
            skipped,
            ..
        } = self.pulled;
        let progress = json!({ "files": files, "bytes": bytes, "skipped": skipped });
        self.line(&json!({ "progress": progress })).await
    }

    /// An entry is there.
    pub(super) async fn entry(
        &mut self,
        path: &str,
        kind: FileKind,
        (bytes, is_skipped): (u64, bool),
    ) -> Result<(), CallError> {
        match (kind, is_skipped) {
            (_, true) => self.pulled.skipped += 1,
            (FileKind::Directory, _) => self.pulled.directories += 1,
            (FileKind::Symlink, _) => self.pulled.links += 1,
            _ => self.pulled.files += 1,
        }
        if self.each {
            let mut line = json!({ "path": path, "kind": kind, "bytes": bytes });
            if is_skipped {
                line["skipped"] = json!(true);
            }
            self.line(&line).await?;
        }
        self.progress().await
    }

    /// An entry is not there.
    pub(super) async fn failed(&mut self, path: &str, failed: Failed) -> Result<(), CallError> {
        match failed.code == FileErrorCode::NotAFile.as_str() {
            true => self.pulled.others += 1,
            false => self.pulled.failed += 1,
        }
        self.line(&json!({ "path": path, "error": failed })).await
    }

    pub(super) fn end(mut self) -> Pulled {
        self.tx.end();
        self.pulled
    }
}
