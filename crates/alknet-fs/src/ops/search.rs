//! `fs/search`: what is below a directory, by pattern.

use super::{
    lists,
    walk::{Step, Walk},
};
use crate::{
    glob::Glob,
    stream::{EntryPath, Failure},
};
use alknet_core::{
    CallError, Operation, Permit, Registration,
    files::{FileKind, FilePath, FileService, FileStat, ListEntry},
};
use futures::Stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Entries of one item.
const ITEM_ENTRIES_MAX: usize = 256;
/// Bytes of paths and targets after which an item is full.
const ITEM_BYTES_MAX: usize = 64 * 1024;
/// What was found is told after this time, however little it is.
const TELL_AFTER: Duration = Duration::from_millis(100);

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SearchInput {
    /// The directory: `bucket[@branch]/path`.
    file: FilePath,
    /// A pattern over the path below it: `*`, `?`, `[a-z]`, and `**` for any
    /// number of names.
    #[serde(default = "everything")]
    glob: String,
    /// Only entries of these kinds.
    #[serde(default)]
    #[schemars(length(max = 4))]
    kinds: Option<Vec<FileKind>>,
    /// Only entries so many levels down: 1 for those of the directory itself.
    #[serde(default)]
    #[schemars(range(min = 1))]
    depth: Option<u32>,
}

fn everything() -> String {
    "**".into()
}

/// What was found.
#[derive(Debug, Default, Serialize, JsonSchema)]
struct Found {
    /// Entries, a directory before what is in it.
    entries: Vec<FoundEntry>,
    /// Directories that cannot be listed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FoundError>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct FoundEntry {
    /// Where it is, below the directory.
    path: EntryPath,
    /// What is known of it; links are not followed.
    #[serde(flatten)]
    stat: FileStat,
    /// Where a link leads, percent-escaped as names are; not told if that is
    /// outside of the bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct FoundError {
    /// Where it is, below the directory.
    path: EntryPath,
    /// The code.
    code: String,
    /// One sentence.
    message: String,
}

pub(super) fn search(files: Arc<dyn FileService>) -> Registration {
    lists(Operation::subscription(
        "fs/search",
        "Finds what is below a directory by pattern.",
    ))
    .description(
        "Answers with items of up to 256 entries (fewer of long paths), then ends. Directories of up to 1024 \
             entries are told in the order of their names, larger ones as the disk has them. \
             Links are told and not followed. What the caller may not list is left out; a \
             directory that cannot be listed is named in `errors`, and the search goes on.",
    )
    .example(
        json!({ "file": "inbox", "glob": "**/*.txt" }),
        json!({ "entries": [{
                "path": "2026/notes.txt", "kind": "file", "bytes": 5, "mode": 420, "uid": 1000,
                "gid": 1000, "links": 1, "mtime": "2026-11-20T10:00:00Z", "version": "41.1b2.5",
            }] }),
    )
    .stream(move |cx, input: SearchInput| {
        let files = files.clone();
        async move {
            let glob = Glob::parse(&input.glob)
                .map_err(|error| CallError::invalid_field("/glob", error.to_string()))?;
            let permit = cx.permit();
            let walk = Walk::begin(files, &permit, input.file).await?;
            Ok(found(Search {
                walk,
                permit,
                glob,
                kinds: input.kinds,
                depth: input.depth.map_or(usize::MAX, |depth| depth as usize),
            }))
        }
    })
}

#[derive(Debug)]
struct Search {
    walk: Walk,
    permit: Permit,
    glob: Glob,
    kinds: Option<Vec<FileKind>>,
    depth: usize,
}

fn found(search: Search) -> impl Stream<Item = Result<Found, CallError>> + Send {
    futures::stream::unfold(Some(search), |search| async {
        let mut search = search?;
        match search.item().await {
            Ok(Some(item)) => Some((Ok(item), Some(search))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
}

impl Search {
    async fn item(&mut self) -> Result<Option<Found>, CallError> {
        let mut found = Found::default();
        let (begun, mut bytes) = (Instant::now(), 0);
        loop {
            match self.walk.next(&self.permit).await {
                Some(Step::Entry(path, entry)) => bytes += self.take(path, entry, &mut found),
                Some(Step::Left(..)) => {}
                Some(Step::Failed(path, error)) => {
                    // The right to search at all may be gone.
                    self.permit.caller()?;
                    let Failure { code, message } = Failure::from(&CallError::from(error));
                    found.errors.push(FoundError {
                        path,
                        code,
                        message,
                    });
                }
                None => {
                    let is_empty = found.entries.is_empty() && found.errors.is_empty();
                    return Ok((!is_empty).then_some(found));
                }
            }
            let count = found.entries.len() + found.errors.len();
            let is_full = count >= ITEM_ENTRIES_MAX || bytes >= ITEM_BYTES_MAX;
            if is_full || count > 0 && begun.elapsed() >= TELL_AFTER {
                return Ok(Some(found));
            }
        }
    }

    /// Adds an entry if it was asked for; the bytes that it takes.
    fn take(&mut self, path: EntryPath, entry: ListEntry, found: &mut Found) -> usize {
        let is_deep = path.names().len() >= self.depth;
        if is_deep || !self.glob.may_match_below(path.names()) {
            self.walk.skip();
        }
        let kinds = self.kinds.as_ref();
        let is_kind = kinds.is_none_or(|kinds| kinds.contains(&entry.stat.kind));
        if !is_kind || !self.glob.matches(&path) {
            return 0;
        }
        let names: usize = path
            .names()
            .iter()
            .map(|name| name.as_bytes().len() + 1)
            .sum();
        let bytes = names + entry.target.as_ref().map_or(0, String::len);
        found.entries.push(FoundEntry {
            path,
            stat: entry.stat,
            target: entry.target,
        });
        bytes
    }
}
