//! `fs/write-many`: a tree of files in one stream.

use super::{
    BATCH_FILES_MAX, CreateInput, bad_argument, cut, described, gather::Gathered, lacks_parents,
    make_directories, make_parents, reader_gone, writes,
};
use crate::stream::{
    Answer, EntryPath, EntryRecord, Failure, FileRecord, TreeDecoder, TreeEvent, line,
};
use alknet_core::{
    ByteReceiver, ByteSender, CallError, ChannelEnd, ChannelOpening, Context, Operation, Permit,
    Registration,
    files::{
        Attributes, Create, FileError, FileErrorCode, FileKind, FilePath, FileService, FileTime,
        Removal, ReplaceOptions, SMALL_FILE_BYTES_MAX, SetTime, SmallFile, unescape_name,
    },
};
use bytes::{Bytes, BytesMut};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::timeout};

/// Bytes of small files that are written together.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long files wait for others to be written with.
const BATCH_WAITS: Duration = Duration::from_millis(50);
/// Pieces of a large file that wait to be written.
const PIECES_MAX: usize = 4;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WriteManyInput {
    /// The directory that everything goes below: `bucket[@branch]/path`.
    file: FilePath,
    /// What is done if a file is not there, or is.
    #[serde(default)]
    create: CreateInput,
    /// Makes the directory itself too, and those above it.
    #[serde(default)]
    parents: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Opened {}

#[derive(Debug, Default, Serialize)]
struct WriteManyResult {
    /// Files and links that were written.
    files: u64,
    /// Bytes of these files.
    bytes: u64,
    /// Entries that failed.
    failed: u64,
}

const DESCRIPTION: &str = "\
The caller sends records on the auxiliary stream, each one line of JSON: `{\"path\", \"kind\": \
\"file\", \"bytes\", \"mode\"?, \"mtime\"?}`, followed by so many bytes on the main stream (a \
hole in them is a record `{\"hole\": n}`); `{\"path\", \"kind\": \"directory\", \"mode\"?}`; \
`{\"path\", \"kind\": \"symlink\", \"target\"}`; and, after all that is in a directory, \
`{\"path\", \"kind\": \"directory-times\", \"mtime\", \"mode\"?}`. `path` is relative to \
`file`; the empty path is that directory itself. A file that cannot be sent to its end is given \
up with `{\"broken\": {\"code\", \"message\"}}`.\n\n\
Each entry is answered on the main stream, in order, with a line `{\"path\", \"ok\": true}` once \
it is durable, or `{\"path\", \"error\": {\"code\", \"message\"}}`; the others go on. Up to 256 \
small files (8 MiB) are made durable together, after 50 ms without more. Directories that are \
missing are made, those that are there are taken; a file or a link takes the place of a file or \
a link. A stream that makes no sense ends the call: `BAD_ARGUMENT`. Result: `{\"files\", \
\"bytes\", \"failed\"}`.";

pub(super) fn write_many(files: Arc<dyn FileService>) -> Registration {
    writes(Operation::channel(
        "fs/write-many",
        "Writes many files in one stream.",
    ))
    .description(DESCRIPTION)
    .destructive()
    .example(
        json!({ "file": "inbox/photos", "parents": true }),
        json!({ "files": 1000, "bytes": 4096000, "failed": 0 }),
    )
    .channel::<_, Opened, _, _, _>(move |cx, input: WriteManyInput, opening| {
        let files = files.clone();
        async move { run(&*files, &cx, input, opening).await }
    })
}

async fn run(
    files: &dyn FileService,
    cx: &Context,
    input: WriteManyInput,
    opening: ChannelOpening,
) -> Result<WriteManyResult, CallError> {
    let permit = cx.permit();
    if input.parents && !input.file.names().is_empty() {
        make_directories(files, &permit, &input.file, None).await?;
    }
    let top = described(files, &permit, &input.file, true).await?;
    if top.kind != FileKind::Directory {
        let message = format!("`{}`: it is no directory", input.file);
        return Err(FileError::new(FileErrorCode::NotADirectory, message).into());
    }
    let mut channel: ChannelEnd = opening.accept(&Opened {})?;
    let (queue, jobs) = mpsc::channel(1);
    let receiver = Receiver {
        rx: &mut channel.rx,
        decoder: TreeDecoder::new(),
        queue,
        batch: Batch::default(),
    };
    let mut writer = Writer {
        files,
        permit: &permit,
        top: &input.file,
        create: input.create.into(),
        done: WriteManyResult::default(),
    };
    let writing = writer.write_all(jobs, &mut channel.tx);
    tokio::try_join!(receiver.receive_all(), writing)?;
    channel.tx.end();
    Ok(writer.done)
}

/// What is written in one go.
#[derive(Debug)]
enum Job {
    /// Entries, and files as wholes.
    Batch(Vec<Slot>),
    /// A file whose content comes in pieces.
    Large(FileRecord, mpsc::Receiver<LargePiece>),
}

#[derive(Debug)]
enum Slot {
    Entry(EntryRecord),
    Small(FileRecord, Bytes),
    Broken(EntryPath, Failure),
}

#[derive(Debug)]
enum LargePiece {
    Bytes(Bytes),
    Hole(u64),
    End,
    Broken(Failure),
}

#[derive(Debug, Default)]
struct Batch {
    slots: Vec<Slot>,
    bytes: usize,
    paths: HashSet<EntryPath>,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.slots.len() >= BATCH_FILES_MAX || self.bytes >= BATCH_BYTES_MAX
    }

    fn push(&mut self, slot: Slot) {
        match &slot {
            Slot::Small(file, bytes) => {
                self.bytes += bytes.len();
                self.paths.insert(file.path.clone());
            }
            Slot::Entry(EntryRecord::Symlink { path, .. }) => {
                self.paths.insert(path.clone());
            }
            Slot::Entry(_) | Slot::Broken(..) => {}
        }
        self.slots.push(slot);
    }
}

/// Takes the stream apart. While one batch is written, the next is received:
/// no more than two are held.
struct Receiver<'a> {
    rx: &'a mut ByteReceiver,
    decoder: TreeDecoder,
    queue: mpsc::Sender<Job>,
    batch: Batch,
}

impl Receiver<'_> {
    async fn receive_all(mut self) -> Result<(), CallError> {
        loop {
            let Some(event) = self.event_in_time().await? else {
                self.flush().await;
                return Ok(());
            };
            match event {
                TreeEvent::File(file) if file.bytes <= SMALL_FILE_BYTES_MAX as u64 => {
                    self.take_small(file).await?;
                }
                TreeEvent::File(file) => self.take_large(file).await?,
                TreeEvent::Entry(entry) => self.push(Slot::Entry(entry)).await,
                TreeEvent::Failed { path, .. } => {
                    let message = format!("`{path}`: a failure is no entry to be written");
                    return Err(bad_argument(message));
                }
                // The decoder tells them of a file that is under way only.
                TreeEvent::Bytes(_)
                | TreeEvent::Hole(_)
                | TreeEvent::FileEnd
                | TreeEvent::FileBroken(_) => {}
            }
        }
    }

    /// What comes next. What is received already does not wait long for it.
    async fn event_in_time(&mut self) -> Result<Option<TreeEvent>, CallError> {
        if !self.batch.slots.is_empty() {
            match timeout(BATCH_WAITS, self.event()).await {
                Ok(event) => return event,
                Err(_) => self.flush().await,
            }
        }
        self.event().await
    }

    /// What comes next; none at the end. Cancel safe.
    async fn event(&mut self) -> Result<Option<TreeEvent>, CallError> {
        let odd = |error: crate::stream::StreamError| bad_argument(error.to_string());
        loop {
            if let Some(event) = self.decoder.next_event().map_err(odd)? {
                return Ok(Some(event));
            }
            match self.rx.recv().await.map_err(|_| cut())? {
                Some(chunk) => self.decoder.push(chunk).map_err(odd)?,
                None => {
                    self.decoder.finish().map_err(odd)?;
                    return Ok(None);
                }
            }
        }
    }

    async fn push(&mut self, slot: Slot) {
        let again = match &slot {
            Slot::Small(FileRecord { path, .. }, _)
            | Slot::Entry(EntryRecord::Symlink { path, .. }) => self.batch.paths.contains(path),
            _ => false,
        };
        // The later of two of one name wins, as if they came apart.
        if again {
            self.flush().await;
        }
        self.batch.push(slot);
        if self.batch.is_full() {
            self.flush().await;
        }
    }

    /// Hands the batch over; a writer that is gone says why itself.
    async fn flush(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        if !batch.slots.is_empty() {
            let _ = self.queue.send(Job::Batch(batch.slots)).await;
        }
    }

    async fn take_small(&mut self, file: FileRecord) -> Result<(), CallError> {
        let length = usize::try_from(file.bytes).unwrap_or_default();
        let mut bytes = BytesMut::new();
        loop {
            match self.event_in_time().await? {
                Some(TreeEvent::Bytes(more)) if bytes.is_empty() && more.len() == length => {
                    // The whole file in one chunk, as it mostly is.
                    bytes = BytesMut::from(more);
                }
                Some(TreeEvent::Bytes(more)) => bytes.extend_from_slice(&more),
                Some(TreeEvent::Hole(hole)) => {
                    let hole = usize::try_from(hole).unwrap_or_default();
                    bytes.resize(bytes.len() + hole, 0);
                }
                Some(TreeEvent::FileEnd) => {
                    self.push(Slot::Small(file, bytes.freeze())).await;
                    return Ok(());
                }
                Some(TreeEvent::FileBroken(failure)) => {
                    self.push(Slot::Broken(file.path, failure)).await;
                    return Ok(());
                }
                _ => return Err(cut()),
            }
        }
    }

    async fn take_large(&mut self, file: FileRecord) -> Result<(), CallError> {
        self.flush().await;
        let (pieces, received) = mpsc::channel(PIECES_MAX);
        let _ = self.queue.send(Job::Large(file, received)).await;
        let mut gathered = Gathered::default();
        loop {
            let mut passed = Vec::new();
            let is_last = match self.event().await? {
                Some(TreeEvent::Bytes(bytes)) => {
                    passed.extend(gathered.add(bytes).map(LargePiece::Bytes));
                    false
                }
                Some(TreeEvent::Hole(bytes)) => {
                    passed.extend(gathered.rest().map(LargePiece::Bytes));
                    passed.push(LargePiece::Hole(bytes));
                    false
                }
                Some(TreeEvent::FileEnd) => {
                    passed.extend(gathered.rest().map(LargePiece::Bytes));
                    passed.push(LargePiece::End);
                    true
                }
                Some(TreeEvent::FileBroken(failure)) => {
                    passed.push(LargePiece::Broken(failure));
                    true
                }
                _ => return Err(cut()),
            };
            for piece in passed {
                // A file that failed is received all the same, and thrown away.
                let _ = pieces.send(piece).await;
            }
            if is_last {
                return Ok(());
            }
        }
    }
}

/// Writes, and answers.
struct Writer<'a> {
    files: &'a dyn FileService,
    permit: &'a Permit,
    top: &'a FilePath,
    create: Create,
    done: WriteManyResult,
}

type Outcome = Result<(), Failure>;

fn failure(error: FileError) -> Failure {
    Failure::from(&CallError::from(error))
}

impl Writer<'_> {
    async fn write_all(
        &mut self,
        mut jobs: mpsc::Receiver<Job>,
        tx: &mut ByteSender,
    ) -> Result<(), CallError> {
        while let Some(job) = jobs.recv().await {
            let mut answers = BytesMut::new();
            match job {
                Job::Batch(slots) => {
                    for (path, outcome) in self.batch(slots).await {
                        answers.extend_from_slice(&self.answer(path, outcome));
                    }
                }
                Job::Large(file, pieces) => {
                    let outcome = self.large(&file, pieces).await.map_err(failure);
                    if outcome.is_ok() {
                        self.written(file.bytes);
                    }
                    answers.extend_from_slice(&self.answer(file.path, outcome));
                }
            }
            tx.send(answers.freeze()).await.map_err(|_| reader_gone())?;
        }
        Ok(())
    }

    fn written(&mut self, bytes: u64) {
        self.done.files += 1;
        self.done.bytes += bytes;
    }

    fn answer(&mut self, path: EntryPath, outcome: Outcome) -> Bytes {
        let error = outcome.err();
        if error.is_some() {
            self.done.failed += 1;
        }
        line(&Answer {
            path,
            ok: error.is_none(),
            error,
        })
    }

    fn path(&self, path: &EntryPath) -> Result<FilePath, FileError> {
        let below = path.below(self.top);
        below.map_err(|error| FileError::new(FileErrorCode::NameTooLong, error.to_string()))
    }

    /// First directories and links as they came, then files, then the times of
    /// directories that are complete.
    async fn batch(&mut self, slots: Vec<Slot>) -> Vec<(EntryPath, Outcome)> {
        let mut outcomes = Vec::with_capacity(slots.len());
        let (mut small, mut times) = (Vec::new(), Vec::new());
        for (at, slot) in slots.into_iter().enumerate() {
            outcomes.push(match slot {
                Slot::Small(file, bytes) => {
                    let path = file.path.clone();
                    small.push((at, file, bytes));
                    (path, Ok(()))
                }
                Slot::Entry(EntryRecord::DirectoryTimes { path, mode, mtime }) => {
                    times.push((at, path.clone(), mode, mtime));
                    (path, Ok(()))
                }
                Slot::Entry(entry) => {
                    let outcome = self.entry(&entry).await.map_err(failure);
                    (entry.path().clone(), outcome)
                }
                Slot::Broken(path, failure) => (path, Err(failure)),
            });
        }
        for (at, outcome) in self.small(small).await {
            outcomes[at].1 = outcome;
        }
        for (at, path, mode, mtime) in times {
            outcomes[at].1 = self.times(&path, mode, mtime).await.map_err(failure);
        }
        outcomes
    }

    async fn entry(&mut self, entry: &EntryRecord) -> Result<(), FileError> {
        match entry {
            EntryRecord::Directory { path, mode, .. } => self.directory(path, *mode).await,
            EntryRecord::Symlink { path, target } => {
                self.symlink(path, target).await?;
                self.written(0);
                Ok(())
            }
            // Handled where they are received.
            EntryRecord::File(_) | EntryRecord::DirectoryTimes { .. } => Ok(()),
        }
    }

    async fn directory(&self, path: &EntryPath, mode: Option<u32>) -> Result<(), FileError> {
        let path = self.path(path)?;
        let made = match path.names().is_empty() {
            true => None,
            false => {
                make_directories(self.files, self.permit, &path, mode)
                    .await?
                    .stat
            }
        };
        let stat = match made {
            Some(stat) => stat,
            None => described(self.files, self.permit, &path, true).await?,
        };
        if stat.kind != FileKind::Directory {
            let message = format!("`{path}`: it exists, and is no directory");
            return Err(FileError::new(FileErrorCode::FileExists, message));
        }
        // What the account masks is meant all the same.
        let mode = mode.filter(|mode| *mode != stat.mode);
        self.set(&path, mode, None).await
    }

    async fn set(
        &self,
        path: &FilePath,
        mode: Option<u32>,
        mtime: Option<FileTime>,
    ) -> Result<(), FileError> {
        let attributes = Attributes {
            mode,
            mtime: mtime.map(SetTime::To),
            ..Attributes::default()
        };
        if attributes.is_empty() {
            return Ok(());
        }
        let set = self
            .files
            .set_attributes(self.permit, path, true, attributes);
        set.await.map(drop)
    }

    async fn times(
        &self,
        path: &EntryPath,
        mode: Option<u32>,
        mtime: FileTime,
    ) -> Result<(), FileError> {
        self.set(&self.path(path)?, mode, Some(mtime)).await
    }

    async fn symlink(&self, path: &EntryPath, target: &str) -> Result<(), FileError> {
        let path = self.path(path)?;
        let target = unescape_name(target)
            .map_err(|error| FileError::new(FileErrorCode::NameRefused, error.to_string()))?;
        if self.create == Create::Never {
            described(self.files, self.permit, &path, false).await?;
        }
        let mut made = self.files.symlink(self.permit, &path, &target).await;
        if let Err(error) = &made
            && lacks_parents(error, self.create)
        {
            make_parents(self.files, self.permit, &path).await?;
            made = self.files.symlink(self.permit, &path, &target).await;
        }
        match made {
            Err(error)
                if error.code() == Some(FileErrorCode::FileExists)
                    && self.create != Create::New =>
            {
                let there = self.files.remove(self.permit, &path, Removal::File);
                there.await?;
                self.files.symlink(self.permit, &path, &target).await
            }
            made => made,
        }
    }

    async fn small(&mut self, files: Vec<(usize, FileRecord, Bytes)>) -> Vec<(usize, Outcome)> {
        let mut outcomes = Vec::with_capacity(files.len());
        let mut ready = Vec::with_capacity(files.len());
        for (at, file, bytes) in files {
            match self.path(&file.path) {
                Err(error) => outcomes.push((at, Err(failure(error)))),
                Ok(path) => ready.push((
                    at,
                    SmallFile {
                        path,
                        bytes,
                        create: self.create,
                        mode: file.mode,
                        mtime: file.mtime,
                    },
                )),
            }
        }
        let orphans = self.put(ready, &mut outcomes, true).await;
        let mut with_parents = Vec::with_capacity(orphans.len());
        let mut made = HashSet::new();
        for (at, file) in orphans {
            let parent = file.path.parent();
            let is_made = made.contains(&parent);
            match is_made
                || make_parents(self.files, self.permit, &file.path)
                    .await
                    .is_ok()
            {
                true => {
                    made.insert(parent);
                    with_parents.push((at, file));
                }
                // Its own attempt says best why.
                false => with_parents.push((at, file)),
            }
        }
        self.put(with_parents, &mut outcomes, false).await;
        outcomes
    }

    /// Puts files; answers with those whose directories are missing, if these
    /// are to be made.
    async fn put(
        &mut self,
        files: Vec<(usize, SmallFile)>,
        outcomes: &mut Vec<(usize, Outcome)>,
        makes_parents: bool,
    ) -> Vec<(usize, SmallFile)> {
        if files.is_empty() {
            return Vec::new();
        }
        // Bytes are shared, not copied.
        let again: Vec<SmallFile> = files.iter().map(|(_, file)| file.clone()).collect();
        let put = self.files.put_small(self.permit, again).await;
        let mut orphans = Vec::new();
        for ((at, file), outcome) in files.into_iter().zip(put) {
            match outcome {
                Ok(_) => {
                    self.written(file.bytes.len() as u64);
                    outcomes.push((at, Ok(())));
                }
                Err(error) if makes_parents && lacks_parents(&error, self.create) => {
                    orphans.push((at, file));
                }
                Err(error) => outcomes.push((at, Err(failure(error)))),
            }
        }
        orphans
    }

    async fn large(
        &self,
        file: &FileRecord,
        mut pieces: mpsc::Receiver<LargePiece>,
    ) -> Result<(), FileError> {
        let path = self.path(&file.path)?;
        let options = ReplaceOptions {
            create: self.create,
            mode: file.mode,
            mtime: file.mtime,
            bytes: Some(file.bytes),
            // Holes are told as they come.
            sparse: true,
            ..ReplaceOptions::default()
        };
        let begun = self
            .files
            .replace(self.permit, &path, options.clone())
            .await;
        let mut replacement = match begun {
            Err(error) if lacks_parents(&error, self.create) => {
                make_parents(self.files, self.permit, &path).await?;
                self.files.replace(self.permit, &path, options).await?
            }
            begun => begun?,
        };
        loop {
            match pieces.recv().await {
                Some(LargePiece::Bytes(bytes)) => replacement.write(self.permit, bytes).await?,
                Some(LargePiece::Hole(bytes)) => replacement.skip(self.permit, bytes).await?,
                Some(LargePiece::End) => {
                    return replacement.commit(self.permit).await.map(drop);
                }
                Some(LargePiece::Broken(failure)) => {
                    replacement.discard().await;
                    let Failure { code, message } = failure;
                    let code = FileErrorCode::parse(&code).unwrap_or(FileErrorCode::BadArgument);
                    return Err(FileError::new(code, message));
                }
                None => {
                    replacement.discard().await;
                    return Err(FileError::Refused(cut()));
                }
            }
        }
    }
}
