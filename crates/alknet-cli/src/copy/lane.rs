//! Many small files, one after the other in one stream.

use super::{
    entry::{Entry, Origin},
    local_tree::LocalTree,
    piece::Piece,
    remote::Remote,
    report::Report,
    stage::{Copy, Shared, Target, blocking},
    trouble::{Problem, Trouble},
};
use crate::node_access::{
    ByteReceiver, ByteSender, ChannelCall, ChannelDone, Chunk, FileKind, FilePath,
    SMALL_FILE_BYTES_MAX,
    root::{OpenHow, RootError},
    stream::{
        Answer, EntryPath, EntryRecord, Lines, Record, Request, TreeDecoder, TreeEvent, line,
    },
};
use bytes::{Bytes, BytesMut};
use serde_json::json;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Entries of one batch.
const BATCH_ENTRIES: usize = 64;
/// Bytes of one batch, but for its last file.
const BATCH_BYTES: u64 = 2 * 1024 * 1024;
/// Batches between reading and writing.
const BATCHES_WAITING: usize = 1;
/// Entries that were sent and wait for their answer.
const SENT_MAX: usize = 1024;

/// An entry with its bytes.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) entry: Entry,
    pub(super) pieces: Vec<Piece>,
    /// A directory that was made before, and has everything in it now.
    pub(super) is_complete: bool,
}

pub(super) type Batch = Vec<Loaded>;

/// Takes entries until there are no more.
pub(super) async fn run(copy: Arc<Copy>, entries: Shared<Entry>) -> Result<(), Trouble> {
    let (loaded, to_put) = mpsc::channel(BATCHES_WAITING);
    let loading = load(&copy, entries, loaded);
    let putting = async {
        match &copy.target {
            Target::Local { .. } => put_here(&copy, to_put).await,
            Target::Remote { remote, directory } => {
                put_there(&copy.report, remote, directory, &copy.args, to_put).await
            }
        }
    };
    // A failure of the second is the reason for that of the first.
    let (loaded, put) = tokio::join!(loading, putting);
    put.and(loaded)
}

/// The next entries that fit into one batch; none at the end. Cancel safe.
async fn batch(entries: &Shared<Entry>) -> Vec<Entry> {
    let mut entries = entries.lock().await;
    let mut batch = Vec::new();
    let mut bytes = 0;
    let Some(first) = entries.recv().await else {
        return batch;
    };
    bytes += first.bytes;
    batch.push(first);
    while bytes < BATCH_BYTES && batch.len() < BATCH_ENTRIES {
        let Ok(next) = entries.try_recv() else {
            break;
        };
        bytes += next.bytes;
        batch.push(next);
    }
    batch
}

/// Reads what is to be put.
async fn load(
    copy: &Copy,
    entries: Shared<Entry>,
    loaded: mpsc::Sender<Batch>,
) -> Result<(), Trouble> {
    let mut reading: Option<Reading> = None;
    loop {
        let batch = tokio::select! {
            biased;
            () = copy.stop.asked() => Vec::new(),
            batch = batch(&entries) => batch,
        };
        if batch.is_empty() {
            break;
        }
        let (mut ready, mut here, mut there) = (Batch::new(), Vec::new(), Vec::new());
        for entry in batch {
            match (&entry.origin, entry.kind) {
                (_, kind) if kind != FileKind::File => ready.push(Loaded {
                    entry,
                    pieces: Vec::new(),
                    is_complete: false,
                }),
                (Origin::Local { .. }, _) => here.push(entry),
                (Origin::Remote { .. }, _) => there.push(entry),
            }
        }
        if !here.is_empty() {
            let report = copy.report.clone();
            ready.extend(blocking(move || read_here(here, &report)).await?);
        }
        while !there.is_empty() {
            let rest = there
                .iter()
                .position(|entry| !is_same_base(entry, &there[0]));
            let later = there.split_off(rest.unwrap_or(there.len()));
            let session = Reading::on(reading.take(), &there[0]).await?;
            if let Some(mut session) = session {
                let read = session.read(there, &copy.report, &mut ready).await;
                if let Err(trouble) = read {
                    return Err(session.verdict(trouble).await);
                }
                reading = Some(session);
            }
            there = later;
        }
        if loaded.send(ready).await.is_err() {
            return Err(Trouble::Quiet);
        }
    }
    match reading {
        Some(reading) => reading.end().await,
        None => Ok(()),
    }
}

/// Reads files of this machine. Blocks.
fn read_here(entries: Vec<Entry>, report: &Report) -> Batch {
    let mut batch = Batch::new();
    for mut entry in entries {
        match read_file(&mut entry) {
            Ok(bytes) => batch.push(Loaded {
                pieces: vec![Piece::Data(bytes)],
                entry,
                is_complete: false,
            }),
            Err(problem) => report.failed(&entry.path, &problem, entry.bytes),
        }
    }
    batch
}

fn read_file(entry: &mut Entry) -> Result<Bytes, Problem> {
    let Origin::Local {
        directory, name, ..
    } = &entry.origin
    else {
        return Ok(Bytes::new());
    };
    let read = (|| {
        let file = directory.open(name, &OpenHow::read())?;
        let before = file.meta()?;
        if before.bytes > SMALL_FILE_BYTES_MAX as u64 {
            return Err(RootError::Changed);
        }
        let mut buffer = vec![0; usize::try_from(before.bytes).unwrap_or(0)];
        let len = file.read_at(&mut buffer, 0)?;
        buffer.truncate(len);
        let after = file.meta()?;
        match after.version() == before.version() && len as u64 == before.bytes {
            true => Ok((buffer, after)),
            false => Err(RootError::Changed),
        }
    })();
    let (buffer, meta) = read.map_err(|error| match error {
        RootError::Changed => Problem::new("FILE_CHANGED", "it changed while it was read"),
        error => Problem::of_root(&error),
    })?;
    entry.bytes = meta.bytes;
    entry.mode = meta.mode;
    entry.mtime = meta.modified;
    Ok(buffer.into())
}

fn is_same_base(one: &Entry, other: &Entry) -> bool {
    match (&one.origin, &other.origin) {
        (Origin::Remote { base: one, .. }, Origin::Remote { base: other, .. }) => {
            Arc::ptr_eq(one, other)
        }
        _ => false,
    }
}

/// A stream of files out of one directory of a bucket.
struct Reading {
    remote: Remote,
    base: Arc<FilePath>,
    tx: ByteSender,
    rx: ByteReceiver,
    decoder: TreeDecoder,
    done: ChannelDone,
}

impl Reading {
    /// The stream for what this entry lies in: the one at hand, or another.
    async fn on(at_hand: Option<Self>, entry: &Entry) -> Result<Option<Self>, Trouble> {
        let Origin::Remote { remote, base, .. } = &entry.origin else {
            return Ok(at_hand);
        };
        if let Some(reading) = at_hand {
            if Arc::ptr_eq(&reading.base, base) {
                return Ok(Some(reading));
            }
            reading.end().await?;
        }
        let input = json!({ "file": base.to_string() });
        let call = remote
            .open("fs/read-many", &input)
            .await
            .map_err(|error| remote.of_all(error))?;
        let ChannelCall { channel, done, .. } = call;
        Ok(Some(Self {
            remote: remote.clone(),
            base: base.clone(),
            tx: channel.tx,
            rx: channel.rx,
            decoder: TreeDecoder::new(),
            done,
        }))
    }

    async fn end(mut self) -> Result<(), Trouble> {
        self.tx.end();
        // Nothing more comes but the end.
        while let Ok(Some(_)) = self.rx.recv().await {}
        let Self { remote, done, .. } = self;
        done.await.map(drop).map_err(|error| remote.of_all(error))
    }

    /// Why the stream ended.
    async fn verdict(self, trouble: Trouble) -> Trouble {
        let Self {
            remote,
            tx,
            rx,
            done,
            ..
        } = self;
        match trouble {
            Trouble::Quiet => {
                drop((tx, rx));
                match done.await {
                    Err(error) => remote.of_all(error),
                    Ok(_) => remote.nonsense("too little"),
                }
            }
            other => other,
        }
    }

    /// Asks for these files, and takes them.
    async fn read(
        &mut self,
        entries: Vec<Entry>,
        report: &Report,
        ready: &mut Batch,
    ) -> Result<(), Trouble> {
        let mut requests = BytesMut::new();
        for entry in &entries {
            if let Origin::Remote { path, .. } = &entry.origin {
                let path =
                    EntryPath::parse(path.as_str()).map_err(|error| Problem::of_path(&error))?;
                requests.extend_from_slice(&line(&Request { path }));
            }
        }
        self.tx
            .send(requests.freeze())
            .await
            .map_err(|_| Trouble::Quiet)?;
        for mut entry in entries {
            match self.file(&mut entry).await? {
                Ok(pieces) => ready.push(Loaded {
                    entry,
                    pieces,
                    is_complete: false,
                }),
                Err(problem) => report.failed(&entry.path, &problem, entry.bytes),
            }
        }
        Ok(())
    }

    async fn file(&mut self, entry: &mut Entry) -> Result<Result<Vec<Piece>, Problem>, Trouble> {
        let Origin::Remote { path, .. } = &entry.origin else {
            return Ok(Ok(Vec::new()));
        };
        let wanted = path.as_str().to_owned();
        let record = match self.event().await? {
            TreeEvent::File(record) if record.path.to_string() == wanted => record,
            TreeEvent::Failed { path, error } if path.to_string() == wanted => {
                return Ok(Err(Problem::new(&error.code, error.message)));
            }
            TreeEvent::Entry(other) if other.path().to_string() == wanted => {
                return Ok(Err(Problem::new("FILE_CHANGED", "it is no file any more")));
            }
            _ => return Err(self.remote.nonsense("another file than was asked for")),
        };
        // One that has grown beyond what is held in memory is drained.
        let is_small = record.bytes <= SMALL_FILE_BYTES_MAX as u64;
        let mut pieces = Vec::new();
        loop {
            let piece = match self.event().await? {
                TreeEvent::Bytes(bytes) => Piece::Data(bytes),
                TreeEvent::Hole(bytes) => Piece::Hole(bytes),
                TreeEvent::FileEnd => break,
                TreeEvent::FileBroken(error) => {
                    return Ok(Err(Problem::new(&error.code, error.message)));
                }
                _ => return Err(self.remote.nonsense("a record within a file")),
            };
            if is_small {
                pieces.push(piece);
            }
        }
        if !is_small {
            return Ok(Err(Problem::new(
                "FILE_CHANGED",
                "it grew while it was copied",
            )));
        }
        entry.bytes = record.bytes;
        entry.mode = record.mode.unwrap_or(entry.mode);
        entry.mtime = record.mtime.unwrap_or(entry.mtime);
        Ok(Ok(pieces))
    }

    async fn event(&mut self) -> Result<TreeEvent, Trouble> {
        loop {
            let event = self
                .decoder
                .next_event()
                .map_err(|error| self.remote.nonsense(&error.to_string()))?;
            if let Some(event) = event {
                return Ok(event);
            }
            let chunk = self
                .rx
                .recv()
                .await
                .map_err(|_| Trouble::Quiet)?
                .ok_or(Trouble::Quiet)?;
            self.decoder
                .push(chunk)
                .map_err(|error| self.remote.nonsense(&error.to_string()))?;
        }
    }
}

/// Puts files into a directory of this machine.
async fn put_here(copy: &Copy, mut batches: mpsc::Receiver<Batch>) -> Result<(), Trouble> {
    let Some(mut tree) = copy.target.tree() else {
        return Ok(());
    };
    while let Some(batch) = batches.recv().await {
        let report = copy.report.clone();
        tree = blocking(move || put_batch(tree, batch, &report)).await??;
    }
    Ok(())
}

fn put_batch(mut tree: LocalTree, batch: Batch, report: &Report) -> Result<LocalTree, Trouble> {
    for Loaded { entry, pieces, .. } in batch {
        let put = match entry.kind {
            FileKind::Directory => tree.make_directory(&entry).map_err(Trouble::from),
            FileKind::Symlink => tree.make_link(&entry).map_err(Trouble::from),
            _ => tree.put(&entry, &pieces).map_err(Trouble::from),
        };
        match put {
            Ok(()) => report.copied(&entry, false),
            Err(Trouble::Entry(problem)) => report.failed(&entry.path, &problem, entry.bytes),
            Err(Trouble::Stop(failure)) => {
                return Err(report.ended_by(&entry.path, failure, entry.bytes));
            }
            Err(other) => return Err(other),
        }
    }
    Ok(tree)
}

/// Puts files into a directory of a bucket.
pub(super) async fn put_there(
    report: &Report,
    remote: &Remote,
    directory: &FilePath,
    args: &super::options::CopyArgs,
    mut batches: mpsc::Receiver<Batch>,
) -> Result<(), Trouble> {
    let Some(first) = batches.recv().await else {
        return Ok(());
    };
    let create = if args.no_clobber { "new" } else { "if-missing" };
    let input = json!({ "file": directory.to_string(), "create": create, "parents": args.parents });
    let call = remote
        .open("fs/write-many", &input)
        .await
        .map_err(|error| remote.of_all(error))?;
    let ChannelCall { channel, done, .. } = call;
    let (sent, waiting) = mpsc::channel(SENT_MAX);
    let preserve = !args.no_preserve;
    let sending = async {
        let (mut tx, sent) = (channel.tx, sent);
        let mut next = Some(first);
        while let Some(batch) = next {
            for loaded in batch {
                send(&mut tx, loaded, &sent, report, preserve).await?;
            }
            next = batches.recv().await;
        }
        tx.end();
        Ok(())
    };
    match tokio::try_join!(sending, answers(report, remote, channel.rx, waiting)) {
        Ok(_) => done.await.map(drop).map_err(|error| remote.of_all(error)),
        // The channel ended, and its result says why.
        Err(Trouble::Quiet) => match done.await {
            Err(error) => Err(remote.of_all(error)),
            Ok(_) => Err(remote.nonsense("too little")),
        },
        Err(other) => Err(other),
    }
}

async fn send(
    tx: &mut ByteSender,
    loaded: Loaded,
    sent: &mpsc::Sender<(Entry, bool)>,
    report: &Report,
    preserve: bool,
) -> Result<(), Trouble> {
    let Loaded {
        entry,
        pieces,
        is_complete,
    } = loaded;
    let record = match record(&entry, preserve, is_complete) {
        Ok(record) => record,
        Err(problem) => {
            report.failed(&entry.path, &problem, entry.bytes);
            return Ok(());
        }
    };
    sent.send((entry, is_complete))
        .await
        .map_err(|_| Trouble::Quiet)?;
    tx.send_chunk(Chunk::aux(record.encode()))
        .await
        .map_err(|_| Trouble::Quiet)?;
    for piece in pieces {
        let chunk = match piece {
            Piece::Data(bytes) => Chunk::main(bytes),
            Piece::Hole(bytes) => Chunk::aux(Record::Hole(bytes).encode()),
        };
        tx.send_chunk(chunk).await.map_err(|_| Trouble::Quiet)?;
    }
    Ok(())
}

fn record(entry: &Entry, preserve: bool, is_complete: bool) -> Result<Record, Problem> {
    let path = EntryPath::parse(entry.path.as_str()).map_err(|error| Problem::of_path(&error))?;
    let mode = preserve.then(|| entry.copied_mode());
    Ok(match entry.kind {
        FileKind::Directory if is_complete => Record::Entry(EntryRecord::DirectoryTimes {
            path,
            mode,
            mtime: entry.mtime,
        }),
        FileKind::Directory => Record::Entry(EntryRecord::Directory {
            path,
            // Until everything is in it.
            mode: mode.map(|mode| mode | 0o700),
            mtime: None,
        }),
        FileKind::Symlink => Record::Entry(EntryRecord::Symlink {
            path,
            target: entry.target.clone().ok_or_else(|| {
                Problem::new(
                    "LEADS_OUTSIDE",
                    "the link leads out of its bucket: its target is not told",
                )
            })?,
        }),
        _ => Record::file(path, entry.bytes, mode, preserve.then_some(entry.mtime)),
    })
}

/// Hears what became of each.
async fn answers(
    report: &Report,
    remote: &Remote,
    mut rx: ByteReceiver,
    mut waiting: mpsc::Receiver<(Entry, bool)>,
) -> Result<(), Trouble> {
    let mut lines = Lines::new();
    while let Some(chunk) = rx.recv().await.map_err(|_| Trouble::Quiet)? {
        if chunk.aux {
            continue;
        }
        lines.push(chunk.bytes);
        while let Some(answer) = lines
            .next_value::<Answer>()
            .map_err(|error| remote.nonsense(&error.to_string()))?
        {
            let entry = waiting.recv().await;
            let entry = entry.filter(|(entry, _)| entry.path.as_str() == answer.path.to_string());
            let Some((entry, is_complete)) = entry else {
                return Err(remote.nonsense("about another file than was sent"));
            };
            match answer.error {
                None if is_complete => {}
                None => report.copied(&entry, false),
                // One that could not be made was told before.
                Some(error)
                    if is_complete
                        && matches!(&*error.code, "NO_SUCH_FILE" | "NOT_A_DIRECTORY") => {}
                Some(error) => {
                    let error = crate::node_access::CallError::domain(error.code, error.message);
                    match remote.of_entry(error) {
                        Trouble::Entry(problem) => {
                            report.failed(&entry.path, &problem, entry.bytes)
                        }
                        Trouble::Stop(failure) => {
                            return Err(report.ended_by(&entry.path, failure, entry.bytes));
                        }
                        other => return Err(other),
                    }
                }
            }
        }
    }
    // An end with files unanswered is none.
    match waiting.recv().await {
        None => Ok(()),
        Some(_) => Err(Trouble::Quiet),
    }
}
