//! `fs/read-many`: many files in one stream.

use super::{
    BATCH_FILES_MAX, READS, bad_argument, cut,
    describe::target,
    read::{Reader, Unsent},
    reader_gone, reads,
};
use crate::stream::{EntryPath, EntryRecord, Failure, Lines, Record, Request};
use alknet_core::{
    ByteReceiver, ByteSender, CallError, ChannelEnd, ChannelOpening, Chunk, Context, Operation,
    Permit, Registration,
    files::{
        FileError, FileErrorCode, FileKind, FilePath, FileService, FileStat, OpenFile, OpenOptions,
        SMALL_FILE_BYTES_MAX,
    },
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{collections::VecDeque, sync::Arc};
use tokio::sync::mpsc;

/// Bytes of small files that are read together.
const BATCH_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Entries that are looked at together.
const LOOKS_MAX: usize = 8;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReadManyInput {
    /// The directory that everything is below: `bucket[@branch]/path`.
    file: FilePath,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Opened {}

#[derive(Debug, Default, Serialize)]
struct ReadManyResult {
    /// Files that were sent.
    files: u64,
    /// Bytes of these files.
    bytes: u64,
    /// Entries that failed.
    failed: u64,
}

const DESCRIPTION: &str = "\
The caller asks on the main stream with lines of JSON, `{\"path\"}` each, relative to `file`; \
any number of them, without waiting for answers, and ends its side. Each is answered in order \
with a record, one line of JSON on the auxiliary stream: `{\"path\", \"kind\": \"file\", \
\"bytes\", \"mode\", \"mtime\"}`, followed by so many bytes on the main stream (a hole in them \
is a record `{\"hole\": n}`); `{\"path\", \"kind\": \"directory\", \"mode\", \"mtime\"}`; \
`{\"path\", \"kind\": \"symlink\", \"target\"}`, since links at the end of a path are not \
followed; or `{\"path\", \"error\": {\"code\", \"message\"}}`. A file that fails after its \
record is given up with `{\"broken\": {\"code\", \"message\"}}`. Result: `{\"files\", \"bytes\", \
\"failed\"}`.";

pub(super) fn read_many(files: Arc<dyn FileService>) -> Registration {
    reads(Operation::channel(
        "fs/read-many",
        "Reads many files in one stream.",
    ))
    .hints(READS)
    .description(DESCRIPTION)
    .example(
        json!({ "file": "inbox/photos" }),
        json!({ "files": 1000, "bytes": 4096000, "failed": 0 }),
    )
    .channel::<_, Opened, _, _, _>(move |cx, input: ReadManyInput, opening| {
        let files = files.clone();
        async move { run(&*files, &cx, input, opening).await }
    })
}

async fn run(
    files: &dyn FileService,
    cx: &Context,
    input: ReadManyInput,
    opening: ChannelOpening,
) -> Result<ReadManyResult, CallError> {
    let permit = cx.permit();
    let top = files.stat(&permit, &input.file, true).await?;
    if top.kind != FileKind::Directory {
        let message = format!("`{}`: it is no directory", input.file);
        return Err(FileError::new(FileErrorCode::NotADirectory, message).into());
    }
    let mut channel: ChannelEnd = opening.accept(&Opened {})?;
    let (queue, found) = mpsc::channel(1);
    let finder = Finder {
        files,
        permit: &permit,
        top: &input.file,
        rx: &mut channel.rx,
        lines: Lines::new(),
        has_ended: false,
    };
    let mut sender = Sender {
        permit: &permit,
        top: &input.file,
        tx: &mut channel.tx,
        done: ReadManyResult::default(),
    };
    tokio::try_join!(finder.find_all(queue), sender.send_all(found))?;
    let done = sender.done;
    channel.tx.end();
    Ok(done)
}

/// What was asked for, ready to be sent.
enum Found {
    /// A file that was read as a whole.
    Small(EntryPath, FileStat, Bytes),
    /// A file to be read in pieces.
    Large(EntryPath, FileStat, Arc<dyn OpenFile>),
    /// Something else.
    Entry(EntryRecord),
    Failed(EntryPath, FileError),
}

/// Reads ahead of what is sent, by two batches.
struct Finder<'a> {
    files: &'a dyn FileService,
    permit: &'a Permit,
    top: &'a FilePath,
    rx: &'a mut ByteReceiver,
    lines: Lines,
    has_ended: bool,
}

impl Finder<'_> {
    async fn find_all(mut self, queue: mpsc::Sender<Vec<Found>>) -> Result<(), CallError> {
        loop {
            let asked = self.requests().await?;
            if asked.is_empty() {
                return Ok(());
            }
            let mut looked = self.look(asked).await;
            while !looked.is_empty() {
                let found = self.find(&mut looked).await;
                // The sender is gone only with an error of its own.
                if queue.send(found).await.is_err() {
                    return Ok(());
                }
            }
        }
    }

    /// Waits for a request, and takes those that are there; none at the end.
    async fn requests(&mut self) -> Result<Vec<EntryPath>, CallError> {
        let odd = |error: crate::stream::StreamError| bad_argument(error.to_string());
        let mut asked = Vec::new();
        loop {
            while asked.len() < BATCH_FILES_MAX
                && let Some(Request { path }) = self.lines.next_value().map_err(odd)?
            {
                asked.push(path);
            }
            if self.has_ended || asked.len() >= BATCH_FILES_MAX {
                return Ok(asked);
            }
            let chunk = match asked.is_empty() {
                true => self.rx.recv().await,
                false => match self.rx.recv().now_or_never() {
                    Some(chunk) => chunk,
                    None => return Ok(asked),
                },
            };
            match chunk.map_err(|_| cut())? {
                Some(chunk) if chunk.aux => {
                    return Err(bad_argument("requests come on the main stream"));
                }
                Some(chunk) => self.lines.push(chunk.bytes),
                None => {
                    self.lines.finish().map_err(odd)?;
                    self.has_ended = true;
                }
            }
        }
    }

    /// What each of them is, links not followed.
    async fn look(&self, asked: Vec<EntryPath>) -> VecDeque<Looked> {
        let looks = asked.into_iter().map(|path| async move {
            let full = match path.below(self.top) {
                Ok(full) => full,
                Err(error) => {
                    let error = FileError::new(FileErrorCode::NameTooLong, error.to_string());
                    return Looked {
                        path,
                        full: None,
                        stat: Err(error),
                    };
                }
            };
            let stat = self.files.stat(self.permit, &full, false).await;
            Looked {
                path,
                full: Some(full),
                stat,
            }
        });
        stream::iter(looks).buffered(LOOKS_MAX).collect().await
    }

    /// Takes from the front what is read together.
    async fn find(&self, looked: &mut VecDeque<Looked>) -> Vec<Found> {
        let mut found: Vec<Option<Found>> = Vec::new();
        let (mut small, mut small_at, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some(next) = looked.pop_front() {
            let Looked { path, full, stat } = next;
            let (stat, full) = match (stat, full) {
                (Ok(stat), Some(full)) => (stat, full),
                (Err(error), _) => {
                    found.push(Some(Found::Failed(path, error)));
                    continue;
                }
                (Ok(_), None) => continue,
            };
            if stat.kind == FileKind::File && stat.bytes <= SMALL_FILE_BYTES_MAX as u64 {
                if bytes + stat.bytes > BATCH_BYTES_MAX {
                    let (stat, full) = (Ok(stat), Some(full));
                    looked.push_front(Looked { path, full, stat });
                    break;
                }
                bytes += stat.bytes;
                small_at.push((found.len(), path));
                small.push(full);
                found.push(None);
                continue;
            }
            found.push(Some(self.find_other(path, full, stat).await));
        }
        let read = match small.is_empty() {
            true => Vec::new(),
            false => self.files.get_small(self.permit, &small).await,
        };
        for (((at, path), full), read) in small_at.into_iter().zip(small).zip(read) {
            found[at] = Some(match read {
                Ok((stat, bytes)) => Found::Small(path, stat, bytes),
                // It has grown since.
                Err(error) if error.code() == Some(FileErrorCode::FileTooLarge) => {
                    self.find_large(path, &full).await
                }
                Err(error) => Found::Failed(path, error),
            });
        }
        found.into_iter().flatten().collect()
    }

    async fn find_other(&self, path: EntryPath, full: FilePath, stat: FileStat) -> Found {
        let (mode, mtime) = (Some(stat.mode), Some(stat.mtime));
        match stat.kind {
            FileKind::File => self.find_large(path, &full).await,
            FileKind::Directory => Found::Entry(EntryRecord::Directory { path, mode, mtime }),
            FileKind::Symlink => match target(self.files, self.permit, &full).await {
                Ok(Some(target)) => Found::Entry(EntryRecord::Symlink { path, target }),
                Ok(None) => {
                    let message = format!("`{full}`: it leads out of the bucket");
                    Found::Failed(path, FileError::new(FileErrorCode::LeadsOutside, message))
                }
                Err(error) => Found::Failed(path, error),
            },
            FileKind::Other => {
                let message = format!("`{full}`: it is a pipe, a device or a socket");
                Found::Failed(path, FileError::new(FileErrorCode::NotAFile, message))
            }
        }
    }

    async fn find_large(&self, path: EntryPath, full: &FilePath) -> Found {
        let options = OpenOptions {
            follow: false,
            ..OpenOptions::reading()
        };
        let opened = async {
            let file = self.files.open(self.permit, full, options).await?;
            Ok((file.stat(self.permit).await?, file))
        };
        match opened.await {
            Ok((stat, file)) => Found::Large(path, stat, file),
            Err(error) => Found::Failed(path, error),
        }
    }
}

/// An entry that was asked for.
struct Looked {
    path: EntryPath,
    /// Where it is; none if it cannot be anywhere.
    full: Option<FilePath>,
    stat: Result<FileStat, FileError>,
}

struct Sender<'a> {
    permit: &'a Permit,
    top: &'a FilePath,
    tx: &'a mut ByteSender,
    done: ReadManyResult,
}

impl Sender<'_> {
    async fn send_all(&mut self, mut queue: mpsc::Receiver<Vec<Found>>) -> Result<(), CallError> {
        while let Some(batch) = queue.recv().await {
            for found in batch {
                self.send(found).await?;
            }
        }
        Ok(())
    }

    async fn record(&mut self, record: &Record) -> Result<(), CallError> {
        let sent = self.tx.send_chunk(Chunk::aux(record.encode())).await;
        sent.map_err(|_| reader_gone())
    }

    async fn send(&mut self, found: Found) -> Result<(), CallError> {
        match found {
            Found::Small(path, stat, bytes) => {
                let length = bytes.len() as u64;
                let record = Record::file(path, length, Some(stat.mode), Some(stat.mtime));
                self.record(&record).await?;
                self.tx.send(bytes).await.map_err(|_| reader_gone())?;
                self.sent(length);
            }
            Found::Large(path, stat, file) => self.send_large(path, &stat, &*file).await?,
            Found::Entry(entry) => self.record(&Record::Entry(entry)).await?,
            Found::Failed(path, error) => {
                // Nothing is left of the right to read here: the call ends.
                self.permit.caller()?;
                self.done.failed += 1;
                let error = Failure::from(&CallError::from(error));
                self.record(&Record::Failed { path, error }).await?;
            }
        }
        Ok(())
    }

    fn sent(&mut self, bytes: u64) {
        self.done.files += 1;
        self.done.bytes += bytes;
    }

    async fn send_large(
        &mut self,
        path: EntryPath,
        stat: &FileStat,
        file: &dyn OpenFile,
    ) -> Result<(), CallError> {
        let name = path.below(self.top);
        let name = name.map_err(|error| bad_argument(error.to_string()))?;
        let record = Record::file(path, stat.bytes, Some(stat.mode), Some(stat.mtime));
        self.record(&record).await?;
        let mut reader = Reader {
            file,
            permit: self.permit,
            name: &name,
            offset: 0,
            end: stat.bytes,
            digester: None,
        };
        let hole = |bytes| Chunk::aux(Record::Hole(bytes).encode());
        match reader.send_sparse(self.tx, hole).await {
            Ok(()) => self.sent(stat.bytes),
            Err(Unsent::Gone) => return Err(reader_gone()),
            Err(Unsent::Failed(error)) => {
                self.done.failed += 1;
                self.record(&Record::Broken(Failure::from(&error))).await?;
            }
        }
        Ok(())
    }
}
