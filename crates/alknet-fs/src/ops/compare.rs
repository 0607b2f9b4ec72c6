//! `fs/compare`: which entries differ from what the caller has.

use super::{BATCH_FILES_MAX, READS, bad_argument, cut, describe::target, reader_gone, reads};
use crate::stream::{Comparison, Difference, Differs, Failure, Lines, line};
use alknet_core::{
    ByteSender, CallError, ChannelEnd, ChannelOpening, Context, Operation, Permit, Registration,
    files::{FileError, FileErrorCode, FileKind, FilePath, FileService},
};
use bytes::BytesMut;
use futures::{StreamExt, stream};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;

/// Entries that are looked at together.
const LOOKS_MAX: usize = 8;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CompareInput {
    /// The directory that is compared: `bucket[@branch]/path`. It need not be
    /// there.
    file: FilePath,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Opened {}

#[derive(Debug, Default, Serialize)]
struct CompareResult {
    /// Entries that were compared.
    seen: u64,
    /// Entries that differ, or could not be looked at.
    differing: u64,
}

const DESCRIPTION: &str = "\
The caller tells on the main stream what it has, one line of JSON each: `{\"path\", \"kind\", \
\"bytes\", \"mtime\"?, \"mode\"?, \"target\"?}`, relative to `file`. The answer tells the entries \
that differ, in order: `{\"path\", \"differs\"}` with `missing`, `kind`, `content` (length or \
time of a file, target of a link) or `attributes` (permissions, time of a directory); or \
`{\"path\", \"error\": {\"code\", \"message\"}}`; and, after at most 256 entries, `{\"seen\": n}`: \
so many are compared. Links are not followed; a time or permissions that are left out are not \
compared. Result: `{\"seen\", \"differing\"}`.";

pub(super) fn compare(files: Arc<dyn FileService>) -> Registration {
    reads(Operation::channel(
        "fs/compare",
        "Tells which of the caller's files differ here.",
    ))
    .hints(READS)
    .description(DESCRIPTION)
    .example(
        json!({ "file": "inbox/photos" }),
        json!({ "seen": 1000, "differing": 3 }),
    )
    .channel::<_, Opened, _, _, _>(move |cx, input: CompareInput, opening| {
        let files = files.clone();
        async move { run(&*files, &cx, &input.file, opening).await }
    })
}

async fn run(
    files: &dyn FileService,
    cx: &Context,
    top: &FilePath,
    opening: ChannelOpening,
) -> Result<CompareResult, CallError> {
    let odd = |error: crate::stream::StreamError| bad_argument(error.to_string());
    let permit = cx.permit();
    let mut channel: ChannelEnd = opening.accept(&Opened {})?;
    let mut comparer = Comparer {
        files,
        permit: &permit,
        top,
        done: CompareResult::default(),
    };
    let mut lines = Lines::new();
    while let Some(chunk) = channel.rx.recv().await.map_err(|_| cut())? {
        if chunk.aux {
            return Err(bad_argument("entries are told on the main stream"));
        }
        lines.push(chunk.bytes);
        loop {
            let mut batch: Vec<Comparison> = Vec::new();
            while batch.len() < BATCH_FILES_MAX
                && let Some(told) = lines.next_value().map_err(odd)?
            {
                batch.push(told);
            }
            if batch.is_empty() {
                break;
            }
            comparer.compare(batch, &mut channel.tx).await?;
        }
    }
    lines.finish().map_err(odd)?;
    channel.tx.end();
    Ok(comparer.done)
}

struct Comparer<'a> {
    files: &'a dyn FileService,
    permit: &'a Permit,
    top: &'a FilePath,
    done: CompareResult,
}

impl Comparer<'_> {
    async fn compare(
        &mut self,
        batch: Vec<Comparison>,
        tx: &mut ByteSender,
    ) -> Result<(), CallError> {
        let seen = batch.len() as u64;
        let (files, permit, top) = (self.files, self.permit, self.top);
        let looks = batch.into_iter().map(|told| async move {
            let differs = differs(files, permit, top, &told).await;
            (told.path, differs)
        });
        let looked: Vec<_> = stream::iter(looks).buffered(LOOKS_MAX).collect().await;
        let mut answer = BytesMut::new();
        for (path, differs) in looked {
            let difference = match differs {
                Ok(None) => continue,
                Ok(Some(differs)) => Difference::Entry { path, differs },
                Err(error) => {
                    self.permit.caller()?;
                    let error = Failure::from(&CallError::from(error));
                    Difference::Failed { path, error }
                }
            };
            self.done.differing += 1;
            answer.extend_from_slice(&line(&difference));
        }
        self.done.seen += seen;
        let seen = self.done.seen;
        answer.extend_from_slice(&line(&Difference::Seen { seen }));
        tx.send(answer.freeze()).await.map_err(|_| reader_gone())
    }
}

async fn differs(
    files: &dyn FileService,
    permit: &Permit,
    top: &FilePath,
    told: &Comparison,
) -> Result<Option<Differs>, FileError> {
    let path = told.path.below(top);
    let path =
        path.map_err(|error| FileError::new(FileErrorCode::NameTooLong, error.to_string()))?;
    let stat = match files.stat(permit, &path, told.path.is_empty()).await {
        Ok(stat) => stat,
        Err(error) => {
            use FileErrorCode::{NoSuchFile, NotADirectory};
            return match error.code() {
                Some(NoSuchFile | NotADirectory) => Ok(Some(Differs::Missing)),
                _ => Err(error),
            };
        }
    };
    if stat.kind != told.kind {
        return Ok(Some(Differs::Kind));
    }
    let other_time = told.mtime.is_some_and(|mtime| mtime != stat.mtime);
    let is_other = match stat.kind {
        FileKind::File => stat.bytes != told.bytes || other_time,
        FileKind::Symlink => {
            told.target.is_some() && target(files, permit, &path).await? != told.target
        }
        FileKind::Directory | FileKind::Other => false,
    };
    if is_other {
        return Ok(Some(Differs::Content));
    }
    let has_mode = matches!(stat.kind, FileKind::File | FileKind::Directory);
    let other_mode = has_mode && told.mode.is_some_and(|mode| mode != stat.mode);
    let other_directory_time = stat.kind == FileKind::Directory && other_time;
    Ok((other_mode || other_directory_time).then_some(Differs::Attributes))
}
