//! `fs/buckets` and `fs/list`.

use super::{lists, with_errors};
use alknet_core::{
    CallError, Operation, Registration,
    files::{BucketInfo, FilePath, FileService, LISTING_ENTRIES_MAX, ListEntry},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;

/// Entries of a page that states no number.
const PAGE_DEFAULT: usize = 256;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BucketsInput {}

#[derive(Debug, Serialize, JsonSchema)]
struct Buckets {
    /// The buckets, by name.
    buckets: Vec<BucketInfo>,
}

pub(super) fn buckets(files: Arc<dyn FileService>) -> Registration {
    with_errors(Operation::query("fs/buckets", "Lists the buckets."))
        .description(
            "Tells the buckets in which the caller may list something, with their quotas. \
             One whose directory is gone says so in `unavailable`.",
        )
        .requires("fs:list")
        .example(
            json!({}),
            json!({ "buckets": [{ "name": "inbox", "kind": "host", "read_only": false }] }),
        )
        .handler(move |cx, BucketsInput {}| {
            let files = files.clone();
            async move {
                let mut buckets = files.buckets(&cx.permit()).await?;
                buckets.sort_by(|a, b| a.name.cmp(&b.name));
                Ok::<_, CallError>(Buckets { buckets })
            }
        })
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListInput {
    /// The directory: `bucket[@branch]/path`.
    file: FilePath,
    /// Most entries to answer with: 1 to 1024, 256 if it is left out.
    #[serde(default = "page_default")]
    #[schemars(range(min = 1, max = LISTING_ENTRIES_MAX))]
    limit: usize,
    /// `next` of the page before.
    #[serde(default)]
    #[schemars(length(max = 64))]
    from: Option<String>,
}

fn page_default() -> usize {
    PAGE_DEFAULT
}

#[derive(Debug, Serialize, JsonSchema)]
struct Page {
    /// The entries, in the order of the disk.
    entries: Vec<ListEntry>,
    /// Where the next page begins; none after the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

pub(super) fn list(files: Arc<dyn FileService>) -> Registration {
    lists(Operation::query(
        "fs/list",
        "Lists a directory, page by page.",
    ))
    .description(
        "Entries come in the order of the disk; one that is there all the time is told \
             once, whatever else comes and goes between two pages. Links are described \
             themselves. Entries that the caller may not list are left out. The last page \
             has no `next`, and may be empty.",
    )
    .example(
        json!({ "file": "inbox" }),
        json!({ "entries": [{
                "name": "notes.txt", "kind": "file", "bytes": 5, "mode": 420, "uid": 1000,
                "gid": 1000, "links": 1, "mtime": "2026-11-20T10:00:00Z", "version": "41.1b2.5",
            }] }),
    )
    .example(
        json!({ "file": "inbox", "limit": 1000 }),
        json!({ "entries": [], "next": "17.4621" }),
    )
    .handler(move |cx, input: ListInput| {
        let files = files.clone();
        async move {
            let permit = cx.permit();
            let from = input.from.as_deref();
            let mut listing = files.list(&permit, &input.file, from).await?;
            let mut entries = Vec::new();
            while entries.len() < input.limit {
                let more = listing.next(&permit, input.limit - entries.len()).await?;
                if more.is_empty() {
                    return Ok::<_, CallError>(Page {
                        entries,
                        next: None,
                    });
                }
                entries.extend(more);
            }
            let next = Some(listing.place());
            Ok(Page { entries, next })
        }
    })
}
