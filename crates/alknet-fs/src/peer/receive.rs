//! The fetching node's side: walks what is offered, compares it with what is
//! here, and asks for the rest, with several requests on their way.
//!
//! The other node is not trusted with anything but the content of the tree:
//! what is written lies below the destination, under names that were parsed,
//! and never behind a link, not even behind one that was copied a moment ago.

use super::{
    levels::{Levels, Page, Step, Waiting},
    place::{Entry, Place, Told},
    sink::Sink,
    tell::{Pulled, Teller},
    wire::{
        Answer, Answers, Failed, Incoming, PAGE_ENTRIES, REQUESTS_MAX, Request, broken, relative,
    },
};
use crate::stream::line;
use alknet_core::{
    ByteSender, CallError, Control, ErrorCode,
    files::{
        Attributes, FileError, FileErrorCode, FileKind, FileName, FileStat, FileTime, Replacement,
        SMALL_FILE_BYTES_MAX, SetTime, SmallFile,
    },
};
use serde_json::json;
use std::collections::VecDeque;
use tokio::sync::mpsc;

/// Small files that are made durable together, and their bytes.
const BATCH_FILES: usize = 256;
const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// Longest place of a listing: see [`Listing`](alknet_core::files::Listing).
const PLACE_BYTES_MAX: usize = 64;

/// Why it goes no further.
enum Stop {
    /// The other node said no more.
    Over,
    /// This.
    Error(CallError),
}

impl From<CallError> for Stop {
    fn from(error: CallError) -> Self {
        Self::Error(error)
    }
}

/// A request on its way.
#[derive(Debug)]
enum Expected {
    Page,
    /// None: all that lies in this directory was asked for before.
    Left(Entry),
    /// The number of the request, and what was kept of it.
    File(Entry, u64, Option<Box<dyn Replacement>>),
}

#[derive(Debug)]
pub(super) struct Receiving<'a> {
    place: Place<'a>,
    teller: Teller,
    answers: Answers,
    requests: ByteSender,
    control: mpsc::Sender<Control>,
    expected: VecDeque<Expected>,
    page: Option<Page>,
    /// Requests for files so far.
    reads: u64,
    /// A file is fetched, whose failure is that of the call.
    is_single: bool,
    batch: Vec<(Entry, SmallFile)>,
    batch_bytes: usize,
    /// Directories whose times are set when the batch is written.
    finished: Vec<Entry>,
}

impl<'a> Receiving<'a> {
    pub(super) fn new(
        place: Place<'a>,
        teller: Teller,
        (answers, requests, control): (Answers, ByteSender, mpsc::Sender<Control>),
    ) -> Self {
        Self {
            place,
            teller,
            answers,
            requests,
            control,
            expected: VecDeque::new(),
            page: None,
            reads: 0,
            is_single: false,
            batch: Vec::new(),
            batch_bytes: 0,
            finished: Vec::new(),
        }
    }

    /// Fetches what is offered, which is this; `false` if the other node said
    /// no more before all of it was there.
    pub(super) async fn run(&mut self, stat: &FileStat) -> Result<bool, CallError> {
        match self.fetch(stat).await {
            Ok(()) => Ok(true),
            Err(Stop::Over) => Ok(false),
            Err(Stop::Error(error)) => Err(error),
        }
    }

    pub(super) fn end(self) -> Pulled {
        self.teller.end()
    }

    async fn fetch(&mut self, stat: &FileStat) -> Result<(), Stop> {
        let root = Entry {
            path: String::new(),
            target: self.place.root.clone(),
            stat: Told::of(stat),
        };
        if stat.kind == FileKind::Directory {
            self.tree(root).await?;
        } else {
            self.is_single = true;
            self.file(root).await?;
        }
        while !self.expected.is_empty() {
            self.settle_one().await?;
        }
        self.flush().await?;
        self.send(&Request::Done).await?;
        self.requests.end();
        Ok(())
    }

    async fn send(&mut self, request: &Request) -> Result<(), Stop> {
        let sent = self.requests.send(line(request)).await;
        sent.map_err(|_| Stop::Over)
    }

    async fn next(&mut self) -> Result<Incoming, Stop> {
        self.answers.next().await?.ok_or(Stop::Over)
    }

    async fn fail(&mut self, path: &str, failed: Failed) -> Result<(), Stop> {
        if self.is_single {
            return Err(Stop::Error(match ErrorCode::parse(&failed.code) {
                Some(code) => CallError::new(code, failed.message),
                None => CallError::domain(failed.code, failed.message),
            }));
        }
        Ok(self.teller.failed(path, failed).await?)
    }

    async fn refuse(&mut self, path: &str, error: FileError) -> Result<(), Stop> {
        match self.is_single {
            true => Err(Stop::Error(error.into())),
            false => self.fail(path, CallError::from(error).into()).await,
        }
    }

    // The walk.

    async fn tree(&mut self, root: Entry) -> Result<(), Stop> {
        if let Err(error) = self.place.directory(&root, true).await {
            return Err(Stop::Error(error.into()));
        }
        self.told(&root, false).await?;
        let mut levels = Levels::default();
        levels.enter(None, root.stat.mode, root.stat.mtime);
        while let Some(step) = levels.next() {
            let mut names = levels.names();
            match step {
                Step::Entry(waiting) => {
                    let (name, link) = (waiting.name.clone(), waiting.target.clone());
                    names.push(name.clone());
                    let Some(entry) = self.entry_of(&names, &waiting).await? else {
                        continue;
                    };
                    let (mode, mtime) = (waiting.mode, waiting.mtime);
                    if self.entry(entry, link).await? {
                        levels.enter(Some(name), mode, mtime);
                    }
                }
                Step::List(from) => {
                    let page = self.list(relative(&names), from).await?;
                    levels.listed(page);
                }
                Step::Leave(mode, mtime) => {
                    levels.left();
                    self.leave(&names, (mode, mtime)).await?;
                }
            }
        }
        Ok(())
    }

    /// Where an entry comes to; none if it cannot, which was told.
    async fn entry_of(
        &mut self,
        names: &[FileName],
        waiting: &Waiting,
    ) -> Result<Option<Entry>, Stop> {
        let path = relative(names);
        match self.place.root.join_all(names.iter().cloned()) {
            Ok(target) => Ok(Some(Entry {
                path,
                target,
                stat: Told {
                    kind: waiting.kind,
                    bytes: waiting.bytes,
                    mode: waiting.mode,
                    mtime: waiting.mtime,
                },
            })),
            Err(error) => {
                let error = FileError::new(FileErrorCode::NameTooLong, error.to_string());
                self.refuse(&path, error).await?;
                Ok(None)
            }
        }
    }

    /// One entry; whether it is a directory that is walked next.
    async fn entry(&mut self, entry: Entry, link: Option<Box<str>>) -> Result<bool, Stop> {
        match entry.stat.kind {
            FileKind::File => self.file(entry).await?,
            FileKind::Symlink => self.link(entry, link).await?,
            FileKind::Other => {
                let message = format!("`{}` is a pipe, a device or a socket", entry.path);
                let error = FileError::new(FileErrorCode::NotAFile, message);
                self.refuse(&entry.path, error).await?;
            }
            FileKind::Directory => match self.place.directory(&entry, false).await {
                Err(error) => self.refuse(&entry.path, error).await?,
                Ok(()) => {
                    self.told(&entry, false).await?;
                    return Ok(true);
                }
            },
        }
        Ok(false)
    }

    async fn told(&mut self, entry: &Entry, is_skipped: bool) -> Result<(), Stop> {
        let (kind, bytes) = (entry.stat.kind, entry.stat.bytes);
        let told = self.teller.entry(&entry.path, kind, (bytes, is_skipped));
        Ok(told.await?)
    }

    /// A page of a directory, once all that was asked before it is here; none
    /// if it cannot be had, which was told.
    async fn list(&mut self, path: String, from: Option<String>) -> Result<Option<Page>, Stop> {
        let request = Request::List {
            path: path.clone(),
            from,
        };
        self.send(&request).await?;
        self.expected.push_back(Expected::Page);
        while !self.expected.is_empty() {
            self.settle_one_or_page(&path).await?;
        }
        Ok(self.page.take())
    }

    async fn settle_one_or_page(&mut self, path: &str) -> Result<(), Stop> {
        if !matches!(self.expected.front(), Some(Expected::Page)) {
            return self.settle_one().await;
        }
        self.expected.pop_front();
        let mut entries = VecDeque::new();
        loop {
            match self.next().await? {
                Incoming::Answer(Answer::Entry(entry)) if entries.len() < PAGE_ENTRIES => {
                    entries.push_back(Waiting::from(*entry));
                }
                Incoming::Answer(Answer::Page { next }) => {
                    if next
                        .as_ref()
                        .is_some_and(|place| place.len() > PLACE_BYTES_MAX)
                    {
                        return Err(broken("a place of a listing").into());
                    }
                    self.page = Some((entries, next));
                    return Ok(());
                }
                Incoming::Answer(Answer::Error(failed)) => return self.fail(path, failed).await,
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// What lies in a directory is here, or on its way.
    async fn leave(
        &mut self,
        names: &[FileName],
        (mode, mtime): (u32, FileTime),
    ) -> Result<(), Stop> {
        let target = self.place.root.join_all(names.iter().cloned());
        // One that was gone into has a path.
        let Some(target) = target.ok().filter(|_| self.place.attributes) else {
            return Ok(());
        };
        while self.expected.len() >= REQUESTS_MAX {
            self.settle_one().await?;
        }
        self.expected.push_back(Expected::Left(Entry {
            path: relative(names),
            target,
            stat: Told {
                kind: FileKind::Directory,
                bytes: 0,
                mode,
                mtime,
            },
        }));
        Ok(())
    }

    // Files.

    async fn file(&mut self, entry: Entry) -> Result<(), Stop> {
        // One that the caller named is written where it leads.
        let found = match self.is_single {
            true => self.place.look(&entry.target).await,
            false => self.place.clear(&entry.target).await,
        };
        let found = match found {
            Ok(found) => found,
            Err(error) => return self.refuse(&entry.path, error).await,
        };
        if let Some(here) = found.filter(|here| self.place.is_same(here, &entry.stat)) {
            if let Some(mode) = self
                .place
                .mode(entry.stat.mode)
                .filter(|mode| *mode != here.mode)
            {
                let mode = Attributes {
                    mode: Some(mode),
                    ..Attributes::default()
                };
                let write = &self.place.write;
                let set = self
                    .place
                    .files
                    .set_attributes(write, &entry.target, false, mode)
                    .await;
                if let Err(error) = set {
                    return self.refuse(&entry.path, error).await;
                }
            }
            return self.told(&entry, true).await;
        }
        let is_large = entry.stat.bytes > SMALL_FILE_BYTES_MAX as u64;
        let kept = match is_large {
            true => match self.place.begin(&entry).await {
                Ok(begun) => Some(begun),
                Err(error) => return self.refuse(&entry.path, error).await,
            },
            false => None,
        };
        let (kept, prefix) = kept.unzip();
        while self.expected.len() >= REQUESTS_MAX {
            self.settle_one().await?;
        }
        let request = Request::Read {
            path: entry.path.clone(),
            kept: prefix.flatten(),
        };
        self.send(&request).await?;
        self.reads += 1;
        let expected = Expected::File(entry, self.reads, kept);
        self.expected.push_back(expected);
        Ok(())
    }

    /// The answer to the oldest request.
    async fn settle_one(&mut self) -> Result<(), Stop> {
        match self.expected.pop_front() {
            Some(Expected::File(entry, number, kept)) => self.content(entry, number, kept).await,
            Some(Expected::Left(entry)) => {
                self.finished.push(entry);
                match self.finished.len() >= BATCH_FILES {
                    true => self.flush().await,
                    false => Ok(()),
                }
            }
            Some(Expected::Page) | None => Err(broken("a page comes out of turn").into()),
        }
    }

    async fn content(
        &mut self,
        entry: Entry,
        number: u64,
        kept: Option<Box<dyn Replacement>>,
    ) -> Result<(), Stop> {
        let (bytes, offset, mode, mtime) = match self.next().await? {
            Incoming::Answer(Answer::Content {
                bytes,
                offset,
                mode,
                mtime,
            }) => (bytes, offset, mode, mtime),
            Incoming::Answer(Answer::Error(failed)) => {
                return self.fail(&entry.path, failed).await;
            }
            other => return Err(unexpected(&other)),
        };
        let begun = self
            .place
            .sink(&entry, kept, (bytes, offset), (mode, mtime))
            .await;
        let (mut sink, mut failure) = match begun {
            Ok(sink) => (Some(sink), None),
            Err(error) => (None, Some(error)),
        };
        if failure.is_some() {
            self.skip(number).await;
        }
        let mut left = bytes
            .checked_sub(offset)
            .ok_or_else(|| broken("an offset"))?;
        loop {
            let (len, written) = match self.next().await? {
                Incoming::Bytes(chunk) => {
                    let len = chunk.len() as u64;
                    left = left.checked_sub(len).ok_or_else(|| broken("bytes"))?;
                    let write = &self.place.write;
                    let written = match &mut sink {
                        Some(sink) => sink.write(write, chunk).await,
                        None => Ok(()),
                    };
                    (len, written)
                }
                Incoming::Answer(Answer::Hole(len)) => {
                    left = left.checked_sub(len).ok_or_else(|| broken("a hole"))?;
                    let write = &self.place.write;
                    let written = match &mut sink {
                        Some(sink) => sink.skip(write, len).await,
                        None => Ok(()),
                    };
                    (len, written)
                }
                Incoming::Answer(Answer::End) if left == 0 => break,
                Incoming::Answer(Answer::Error(failed)) => {
                    let path = &entry.path;
                    return match failure {
                        Some(error) => self.refuse(path, error).await,
                        None => self.fail(path, failed).await,
                    };
                }
                other => return Err(unexpected(&other)),
            };
            if let Err(error) = written {
                failure = Some(error);
                sink = None;
                self.skip(number).await;
            }
            if failure.is_none() {
                self.teller.pulled.bytes += len;
                self.teller.progress().await?;
            }
        }
        match (failure, sink) {
            (None, Some(sink)) => self.complete(entry, sink, (mode, mtime)).await,
            (Some(error), _) => self.refuse(&entry.path, error).await,
            (None, None) => Ok(()),
        }
    }

    /// Says that no more of a file is wanted: it may be long.
    async fn skip(&mut self, number: u64) {
        // A node that is gone sends no more anyway.
        let _ = self.control.send(json!({ "skip": number })).await;
    }

    /// All bytes of a file are here.
    async fn complete(
        &mut self,
        entry: Entry,
        sink: Sink,
        (mode, mtime): (u32, FileTime),
    ) -> Result<(), Stop> {
        match sink {
            Sink::Memory(bytes) => {
                let file = SmallFile {
                    path: entry.target.clone(),
                    bytes: bytes.into(),
                    create: self.place.create,
                    mode: self.place.mode(mode),
                    mtime: self.place.mtime(mtime),
                };
                self.batch_bytes += file.bytes.len();
                self.batch.push((entry, file));
                match self.batch.len() >= BATCH_FILES || self.batch_bytes >= BATCH_BYTES {
                    true => self.flush().await,
                    false => Ok(()),
                }
            }
            Sink::File(..) => match sink.commit(&self.place.write).await {
                Ok(_) => self.told(&entry, false).await,
                Err(error) => self.refuse(&entry.path, error).await,
            },
        }
    }

    /// Writes small files, and then the attributes of directories that are
    /// complete.
    async fn flush(&mut self) -> Result<(), Stop> {
        self.batch_bytes = 0;
        let (entries, files): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.batch).into_iter().unzip();
        if !files.is_empty() {
            let put = self.place.files.put_small(&self.place.write, files).await;
            for (entry, put) in entries.into_iter().zip(put) {
                match put {
                    Ok(_) => self.told(&entry, false).await?,
                    Err(error) => self.refuse(&entry.path, error).await?,
                }
            }
        }
        for entry in std::mem::take(&mut self.finished) {
            let attributes = Attributes {
                mode: self.place.directory_mode(entry.stat.mode),
                mtime: self.place.mtime(entry.stat.mtime).map(SetTime::To),
                ..Attributes::default()
            };
            let write = &self.place.write;
            let set = self
                .place
                .files
                .set_attributes(write, &entry.target, true, attributes)
                .await;
            if let Err(error) = set {
                self.refuse(&entry.path, error).await?;
            }
        }
        Ok(())
    }

    // Links.

    async fn link(&mut self, entry: Entry, link: Option<Box<str>>) -> Result<(), Stop> {
        // What is on its way was looked at before there was this link.
        while !self.expected.is_empty() {
            self.settle_one().await?;
        }
        self.flush().await?;
        match self.place.make_link(&entry, link).await {
            Ok(is_same) => self.told(&entry, is_same).await,
            Err(error) => self.refuse(&entry.path, error).await,
        }
    }
}

fn unexpected(incoming: &Incoming) -> Stop {
    let what = match incoming {
        Incoming::Answer(Answer::End) => "a file ends too early",
        Incoming::Answer(_) => "an answer comes that was not asked for",
        Incoming::Bytes(_) => "bytes come that were not asked for",
    };
    Stop::Error(broken(what))
}
