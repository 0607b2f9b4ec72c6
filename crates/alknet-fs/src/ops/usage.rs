//! `fs/usage`: how much is below a directory.

use super::{
    LONG, reads,
    walk::{Step, Walk},
};
use alknet_core::{
    CallError, Context, Operation, Registration,
    files::{FileKind, FilePath, FileService, FileStat, Space},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// How often progress is reported.
const REPORTS_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct UsageInput {
    /// The file or directory: `bucket[@branch]/path`.
    file: FilePath,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
struct Usage {
    /// Files.
    files: u64,
    /// Directories, itself not counted.
    directories: u64,
    /// Symbolic links.
    links: u64,
    /// Pipes, devices and sockets.
    others: u64,
    /// Bytes of the files, holes included.
    bytes: u64,
    /// Directories that could not be listed to their end.
    failed: u64,
    /// Room that is left there.
    #[serde(skip_serializing_if = "Option::is_none")]
    space: Option<Space>,
}

pub(super) fn usage(files: Arc<dyn FileService>) -> Registration {
    reads(Operation::query(
        "fs/usage",
        "Counts what is below a directory, and the room left.",
    ))
    .description(
        "Counts entries that the caller may list (as `fs/list`, which it must be allowed) \
             and the lengths of files; a file with two names counts twice. `space` is the room \
             of the file system, or what the bucket's quota leaves. Reports progress.",
    )
    .timeout(LONG)
    .example(
        json!({ "file": "inbox" }),
        json!({
            "files": 12, "directories": 2, "links": 0, "others": 0, "bytes": 48211,
            "failed": 0,
            "space": {
                "bytes": 64_000_000_000_u64, "bytes_free": 12_000_000_000_u64,
                "entries": 4_000_000, "entries_free": 3_500_000, "block_bytes": 4096,
                "read_only": false,
            },
        }),
    )
    .handler(move |cx, input: UsageInput| {
        let files = files.clone();
        async move { run(files, &cx, input.file).await }
    })
}

async fn run(
    files: Arc<dyn FileService>,
    cx: &Context,
    file: FilePath,
) -> Result<Usage, CallError> {
    let permit = cx.permit();
    let mut usage = Usage::default();
    let stat = files.stat(&permit, &file, true).await?;
    if stat.kind == FileKind::Directory {
        let list = cx.permit_for("fs/list")?;
        let mut walk = Walk::begin(files.clone(), &list, file.clone()).await?;
        let mut reported = Instant::now();
        while let Some(step) = walk.next(&list).await {
            match step {
                Step::Entry(_, entry) => usage.count(&entry.stat),
                Step::Left(..) => {}
                Step::Failed(..) => {
                    list.caller()?;
                    usage.failed += 1;
                }
            }
            if reported.elapsed() >= REPORTS_EVERY {
                reported = Instant::now();
                cx.progress(&usage).await;
            }
        }
    } else {
        usage.count(&stat);
    }
    usage.space = Some(files.space(&permit, &file).await?);
    Ok(usage)
}

impl Usage {
    fn count(&mut self, stat: &FileStat) {
        match stat.kind {
            FileKind::File => {
                self.files += 1;
                self.bytes = self.bytes.saturating_add(stat.bytes);
            }
            FileKind::Directory => self.directories += 1,
            FileKind::Symlink => self.links += 1,
            FileKind::Other => self.others += 1,
        }
    }
}
