//! Files by themselves: large ones, which go on where they were cut, and those
//! with holes.

use super::{
    between,
    entry::{Entry, Origin},
    local_tree::LocalTree,
    piece::Piece,
    remote::Remote,
    report::Report,
    stage::{Copy, Job, Shared, Target, blocking},
    trouble::{Problem, Trouble},
};
use crate::node_access::{
    ByteRange, ByteSender, ChannelCall, ChannelDone, Chunk, DigestAlgorithm, FileKind, FilePath,
    root::{Digester, File, OpenHow, Partial, PartialKey},
    stream::{HoleDecoder, Piece as Coming, hole_chunk},
};
use bytes::Bytes;
use serde_json::{Value, json};
use std::{ops::ControlFlow, sync::Arc};
use tokio::sync::mpsc;

/// Bytes read at a time.
const READ_BYTES: usize = 1024 * 1024;
/// Pieces between reading and writing.
const PIECES_WAITING: usize = 4;
/// Files below this are begun anew after a cut.
const RESUME_BYTES_MIN: u64 = 1024 * 1024;

/// Does jobs until there are no more.
pub(super) async fn run(copy: Arc<Copy>, jobs: Shared<Job>) -> Result<(), Trouble> {
    loop {
        let job = tokio::select! {
            biased;
            () = copy.stop.asked() => None,
            job = async { jobs.lock().await.recv().await } => job,
        };
        let (entry, mut told) = match job {
            None => return Ok(()),
            Some(Job::Attributes(entry)) => {
                let set = set_attributes(&copy, &entry).await;
                if settled(&copy.report, &entry, set, 0)? {
                    copy.report.skipped(&entry);
                }
                continue;
            }
            Some(Job::Compare(entry)) => {
                let is_same = is_same(&copy, &entry).await;
                match is_same {
                    Ok(true) if copy.args.dry_run => {
                        copy.report.skipped(&entry);
                        continue;
                    }
                    Ok(true) => {
                        let set = set_attributes(&copy, &entry).await;
                        if settled(&copy.report, &entry, set, 0)? {
                            copy.report.skipped(&entry);
                        }
                        continue;
                    }
                    Ok(false) if copy.args.dry_run => {
                        copy.report.copied(&entry, false);
                        continue;
                    }
                    Ok(false) => (entry, Told::default()),
                    Err(trouble) => {
                        settled(&copy.report, &entry, Err(trouble), entry.bytes)?;
                        continue;
                    }
                }
            }
            Some(Job::Copy(entry)) => (entry, Told::default()),
        };
        let copied = copy_one(&copy, &entry, &mut told).await;
        if settled(
            &copy.report,
            &entry,
            copied,
            entry.bytes.saturating_sub(told.bytes),
        )? {
            copy.report.copied(&entry, true);
        }
    }
}

/// Bytes of one file that were told as moved.
#[derive(Debug, Default)]
struct Told {
    bytes: u64,
}

/// Whether it was done; what is wrong with this entry alone is told.
fn settled(
    report: &Report,
    entry: &Entry,
    done: Result<(), Trouble>,
    left: u64,
) -> Result<bool, Trouble> {
    match done {
        Ok(()) => Ok(true),
        Err(Trouble::Entry(problem)) => {
            report.failed(&entry.path, &problem, left);
            Ok(false)
        }
        Err(Trouble::Stop(failure)) => Err(report.ended_by(&entry.path, failure, left)),
        Err(other) => Err(other),
    }
}

async fn set_attributes(copy: &Copy, entry: &Entry) -> Result<(), Trouble> {
    if copy.args.no_preserve {
        return Ok(());
    }
    match &copy.target {
        Target::Remote { remote, directory } => {
            let file = entry
                .path
                .below(directory)
                .map_err(|error| Problem::of_path(&error))?;
            let input = json!({
                "file": file.to_string(), "follow": false,
                "mode": entry.copied_mode(), "mtime": entry.mtime,
            });
            remote
                .call::<Value>("fs/set-attributes", &input)
                .await
                .map(drop)
        }
        Target::Local { .. } => {
            let entry = entry.clone();
            match copy.target.tree() {
                Some(mut tree) => Ok(blocking(move || tree.set_attributes(&entry)).await??),
                None => Ok(()),
            }
        }
    }
}

/// Whether what is there has the same bytes.
async fn is_same(copy: &Copy, entry: &Entry) -> Result<bool, Trouble> {
    let there = match &copy.target {
        Target::Remote { remote, directory } => {
            let file = entry
                .path
                .below(directory)
                .map_err(|error| Problem::of_path(&error))?;
            let known = remote.stat(&file, true).await?;
            if known.stat.kind != FileKind::File || known.stat.bytes != entry.bytes {
                return Ok(false);
            }
            remote.digest(&file, entry.bytes).await?
        }
        Target::Local { .. } => {
            let Some(mut tree) = copy.target.tree() else {
                return Ok(false);
            };
            let entry = entry.clone();
            blocking(move || digest_there(&mut tree, &entry)).await??
        }
    };
    Ok(there.is_some() && there == digest_of(entry, entry.bytes).await?)
}

fn digest_there(tree: &mut LocalTree, entry: &Entry) -> Result<Option<String>, Trouble> {
    let names = entry.path.names();
    let Some((name, above)) = names.split_last() else {
        return Ok(None);
    };
    let file = tree.directory(above, false)?.open(name, &OpenHow::read())?;
    if file.meta()?.bytes != entry.bytes {
        return Ok(None);
    }
    digest_file(&file, entry.bytes)
}

/// BLAKE3 of the first bytes of a file. Blocks.
fn digest_file(file: &File, bytes: u64) -> Result<Option<String>, Trouble> {
    let range = ByteRange {
        offset: 0,
        bytes: Some(bytes),
    };
    let mut digester = Digester::new(&[DigestAlgorithm::Blake3]);
    file.digest(range, &mut digester, |_| ControlFlow::Continue(()))?;
    Ok(digester.finish().blake3)
}

/// The same of what is copied.
async fn digest_of(entry: &Entry, bytes: u64) -> Result<Option<String>, Trouble> {
    match &entry.origin {
        Origin::Remote {
            remote, base, path, ..
        } => {
            let file = path.below(base).map_err(|error| Problem::of_path(&error))?;
            remote.digest(&file, bytes).await
        }
        Origin::Local {
            directory, name, ..
        } => {
            let (directory, name) = (directory.clone(), name.clone());
            let digest = move || digest_file(&directory.open(&name, &OpenHow::read())?, bytes);
            blocking(digest).await?
        }
    }
}

/// A text that is the same only for the same state of the same source.
fn resume_key(entry: &Entry) -> String {
    let mut digester = Digester::new(&[DigestAlgorithm::Blake3]);
    let mut add = |text: &str| {
        digester.update(&(text.len() as u64).to_be_bytes());
        digester.update(text.as_bytes());
    };
    match &entry.origin {
        Origin::Local {
            directory, name, ..
        } => {
            let id = directory.id();
            add(&format!("local {} {} {name}", id.device, id.inode));
        }
        Origin::Remote {
            remote,
            base,
            path,
            version,
            ..
        } => {
            let steps: Vec<String> = remote.route.iter().map(ToString::to_string).collect();
            add(&steps.join("/"));
            add(&base.to_string());
            add(path.as_str());
            add(version);
        }
    }
    add(&format!("{} {}", entry.bytes, entry.mtime));
    digester.finish().blake3.unwrap_or_default()
}

/// Copies one file.
async fn copy_one(copy: &Copy, entry: &Entry, told: &mut Told) -> Result<(), Trouble> {
    if let Some((remote, directory)) = between::is_within(entry, &copy.target) {
        let to = entry
            .path
            .below(directory)
            .map_err(|error| Problem::of_path(&error))?;
        between::one(copy, entry, remote, &to).await?;
        told.bytes = entry.bytes;
        copy.report.moved(entry.bytes);
        return Ok(());
    }
    let key = (entry.bytes >= RESUME_BYTES_MIN).then(|| resume_key(entry));
    let mut sink = Sink::open(copy, entry, key.as_deref()).await?;
    let done = fill(copy, entry, &mut sink, told).await;
    match done {
        Ok(()) => sink.finish(copy, entry).await,
        Err(trouble) if is_of_no_use(&trouble) => {
            sink.discard(entry, told.bytes).await;
            Err(trouble)
        }
        Err(trouble) => Err(sink.verdict(trouble).await),
    }
}

/// Whether what came so far is worth nothing: of a state of the file that is no
/// more, or what fills the disk.
fn is_of_no_use(trouble: &Trouble) -> bool {
    match trouble {
        Trouble::Entry(problem) => problem.code == "FILE_CHANGED",
        Trouble::Stop(failure) => failure.code == "NO_SPACE",
        _ => false,
    }
}

async fn fill(copy: &Copy, entry: &Entry, sink: &mut Sink, told: &mut Told) -> Result<(), Trouble> {
    let mut offset = sink.offset();
    if offset > 0 {
        let is_wanted = !copy.args.restart && offset <= entry.bytes;
        let goes_on = is_wanted && {
            let kept = sink.digest(offset).await?;
            kept.is_some() && kept == digest_of(entry, offset).await?
        };
        if goes_on {
            copy.report.detail(&format!(
                "`{}`: goes on at byte {offset}",
                entry.path.as_str()
            ));
        } else {
            sink.rewind().await?;
            offset = 0;
        }
    }
    told.bytes = offset;
    copy.report.resumed(offset);
    let (pieces, mut coming) = mpsc::channel(PIECES_WAITING);
    let reading = async {
        match &entry.origin {
            Origin::Local { .. } => {
                let (entry, pieces) = (entry.clone(), pieces);
                blocking(move || read_here(&entry, offset, &pieces)).await?
            }
            Origin::Remote { .. } => read_there(entry, offset, pieces).await,
        }
    };
    let writing = async {
        while let Some(piece) = coming.recv().await {
            let bytes = Piece::bytes(&piece);
            sink.write(piece).await?;
            told.bytes += bytes;
            copy.report.moved(bytes);
        }
        // Closed also when the reading failed.
        drop(coming);
        Ok::<(), Trouble>(())
    };
    let (read, written) = tokio::join!(reading, writing);
    written?;
    read?;
    match told.bytes == entry.bytes {
        true => Ok(()),
        false => Err(changed().into()),
    }
}

fn changed() -> Problem {
    Problem::new("FILE_CHANGED", "it changed while it was copied")
}

/// Reads a file of this machine, holes and all. Blocks.
fn read_here(entry: &Entry, offset: u64, pieces: &mpsc::Sender<Piece>) -> Result<(), Trouble> {
    let Origin::Local {
        directory, name, ..
    } = &entry.origin
    else {
        return Ok(());
    };
    let file = directory.open(name, &OpenHow::read())?;
    if file.meta()?.bytes < entry.bytes {
        return Err(changed().into());
    }
    let send = |piece: Piece| pieces.blocking_send(piece).map_err(|_| Trouble::Quiet);
    let mut at = offset;
    while at < entry.bytes {
        let data = match entry.may_have_holes() {
            true => file.next_data(at)?.unwrap_or(entry.bytes..entry.bytes),
            false => at..entry.bytes,
        };
        let start = data.start.min(entry.bytes);
        if start > at {
            send(Piece::Hole(start - at))?;
        }
        at = start;
        let end = data.end.min(entry.bytes);
        while at < end {
            let len = usize::try_from(end - at)
                .unwrap_or(READ_BYTES)
                .min(READ_BYTES);
            let mut buffer = vec![0; len];
            let read = file.read_at(&mut buffer, at)?;
            if read == 0 {
                return Err(changed().into());
            }
            buffer.truncate(read);
            at += read as u64;
            send(Piece::Data(Bytes::from(buffer)))?;
        }
    }
    let now = file.meta()?;
    // What only grew is copied as far as it was when the copy began.
    match now.bytes <= entry.bytes && now.modified != entry.mtime {
        true => Err(changed().into()),
        false => Ok(()),
    }
}

/// Reads a file of a bucket, holes and all.
async fn read_there(
    entry: &Entry,
    offset: u64,
    pieces: mpsc::Sender<Piece>,
) -> Result<(), Trouble> {
    let Origin::Remote {
        remote,
        base,
        path,
        version,
        ..
    } = &entry.origin
    else {
        return Ok(());
    };
    if offset == entry.bytes {
        return Ok(());
    }
    let file = path.below(base).map_err(|error| Problem::of_path(&error))?;
    let input = json!({
        "file": file.to_string(), "offset": offset, "sparse": true, "if_version": version,
    });
    let call = remote
        .open("fs/read", &input)
        .await
        .map_err(|error| remote.of_entry(error))?;
    let ChannelCall { channel, done, .. } = call;
    let mut rx = channel.rx;
    let mut holes = HoleDecoder::new();
    let mut left = entry.bytes - offset;
    while let Ok(Some(chunk)) = rx.recv().await {
        for piece in holes
            .pieces(chunk)
            .map_err(|error| remote.nonsense(&error.to_string()))?
        {
            let piece = match piece {
                Coming::Bytes(bytes) => Piece::Data(bytes),
                Coming::Hole(bytes) => Piece::Hole(bytes),
            };
            left = left
                .checked_sub(piece.bytes())
                .ok_or_else(|| remote.nonsense("more bytes than the file has"))?;
            pieces.send(piece).await.map_err(|_| Trouble::Quiet)?;
        }
    }
    done.await.map(drop).map_err(|error| remote.of_entry(error))
}

/// Where the bytes go.
enum Sink {
    Here {
        /// Taken out while it is written to.
        partial: Option<Box<Partial>>,
        tree: Option<LocalTree>,
    },
    There(Box<Writing>),
}

struct Writing {
    remote: Remote,
    tx: ByteSender,
    rx: crate::node_access::ByteReceiver,
    control_tx: mpsc::Sender<Value>,
    control_rx: mpsc::Receiver<Value>,
    done: ChannelDone,
    offset: u64,
    kept: Option<String>,
}

impl Sink {
    async fn open(copy: &Copy, entry: &Entry, key: Option<&str>) -> Result<Self, Trouble> {
        match &copy.target {
            Target::Remote { remote, directory } => {
                let file = entry
                    .path
                    .below(directory)
                    .map_err(|error| Problem::of_path(&error))?;
                Self::open_there(copy, entry, remote, &file, key).await
            }
            Target::Local { .. } => {
                let Some(mut tree) = copy.target.tree() else {
                    return Err(Trouble::Quiet);
                };
                let (entry, key) = (entry.clone(), key.map(str::to_owned));
                let begun = blocking(move || {
                    let key = key.as_deref().map_or(PartialKey::Once, |key| {
                        PartialKey::Resumable(key.as_bytes())
                    });
                    tree.begin(&entry, key).map(|partial| (tree, partial))
                });
                let (tree, partial) = begun.await??;
                Ok(Self::Here {
                    partial: Some(Box::new(partial)),
                    tree: Some(tree),
                })
            }
        }
    }

    async fn open_there(
        copy: &Copy,
        entry: &Entry,
        remote: &Remote,
        file: &FilePath,
        key: Option<&str>,
    ) -> Result<Self, Trouble> {
        // Without holes its length is the room that it takes: looked at first.
        let sparse = entry.may_have_holes();
        let mut input = json!({ "file": file.to_string(), "bytes": entry.bytes, "sparse": sparse });
        if copy.args.no_clobber {
            input["create"] = json!("new");
        }
        // Its directory may be on its way in another stream.
        if copy.args.parents || entry.path.as_str().contains('/') {
            input["parents"] = json!(true);
        }
        if !copy.args.no_preserve {
            input["mode"] = json!(entry.copied_mode());
            input["mtime"] = json!(entry.mtime);
        }
        if let Some(key) = key {
            input["resume"] = json!(key);
        }
        let call = remote
            .open("fs/write", &input)
            .await
            .map_err(|error| remote.of_entry(error))?;
        let ChannelCall {
            channel,
            done,
            reply,
            ..
        } = call;
        let opening: Value = reply.into_value().map_err(|error| remote.of_all(error))?;
        Ok(Self::There(Box::new(Writing {
            remote: remote.clone(),
            tx: channel.tx,
            rx: channel.rx,
            control_tx: channel.control_tx,
            control_rx: channel.control_rx,
            done,
            offset: opening.get("offset").and_then(Value::as_u64).unwrap_or(0),
            kept: opening
                .get("blake3")
                .and_then(Value::as_str)
                .map(str::to_owned),
        })))
    }

    /// Bytes of an earlier attempt.
    fn offset(&self) -> u64 {
        match self {
            Self::Here { partial, .. } => partial.as_ref().map_or(0, |partial| partial.bytes()),
            Self::There(writing) => writing.offset,
        }
    }

    async fn digest(&mut self, bytes: u64) -> Result<Option<String>, Trouble> {
        match self {
            Self::There(writing) => Ok(writing.kept.clone()),
            Self::Here { partial, .. } => {
                with(partial, move |partial| digest_file(partial.file(), bytes)).await
            }
        }
    }

    /// Begins anew.
    async fn rewind(&mut self) -> Result<(), Trouble> {
        match self {
            Self::Here { partial, .. } => with(partial, |partial| Ok(partial.rewind(0)?)).await,
            Self::There(writing) => {
                let asked = writing.control_tx.send(json!({ "rewind": 0 })).await;
                asked.map_err(|_| Trouble::Quiet)?;
                while let Some(answer) = writing.control_rx.recv().await {
                    if answer.get("rewound").and_then(Value::as_u64) == Some(0) {
                        return Ok(());
                    }
                }
                Err(Trouble::Quiet)
            }
        }
    }

    async fn write(&mut self, piece: Piece) -> Result<(), Trouble> {
        match self {
            Self::There(writing) => {
                let chunk = match piece {
                    Piece::Data(bytes) => Chunk::main(bytes),
                    Piece::Hole(bytes) => hole_chunk(bytes),
                };
                writing
                    .tx
                    .send_chunk(chunk)
                    .await
                    .map_err(|_| Trouble::Quiet)
            }
            Self::Here { partial, .. } => {
                let write = move |partial: &mut Partial| match piece {
                    Piece::Data(bytes) => Ok(partial.write(&bytes)?),
                    Piece::Hole(bytes) => Ok(partial.skip(bytes)?),
                };
                with(partial, write).await
            }
        }
    }

    async fn finish(self, copy: &Copy, entry: &Entry) -> Result<(), Trouble> {
        match self {
            Self::Here { partial, tree } => {
                let (Some(mut partial), Some(tree)) = (partial, tree) else {
                    return Err(Trouble::Quiet);
                };
                let entry = entry.clone();
                blocking(move || tree.commit(&entry, &mut partial)).await??;
                Ok(())
            }
            Self::There(writing) => {
                let Writing {
                    remote,
                    mut tx,
                    done,
                    rx,
                    control_tx,
                    ..
                } = *writing;
                tx.end();
                let ended = done.await;
                drop((rx, control_tx, copy));
                ended.map(drop).map_err(|error| remote.of_entry(error))
            }
        }
    }

    /// Leaves nothing behind.
    async fn discard(self, entry: &Entry, sent: u64) {
        match self {
            Self::Here { partial, .. } => {
                if let Some(partial) = partial {
                    blocking(move || partial.discard()).await.ok();
                }
            }
            Self::There(writing) => {
                let Writing { mut tx, done, .. } = *writing;
                // More than was announced: what goes wrong like that is not kept.
                let too_much = entry.bytes.saturating_sub(sent).saturating_add(1);
                if tx.send_chunk(hole_chunk(too_much)).await.is_ok() {
                    tx.end();
                    done.await.ok();
                }
            }
        }
    }

    /// Why the writing ended.
    async fn verdict(self, trouble: Trouble) -> Trouble {
        match (self, trouble) {
            (Self::There(writing), Trouble::Quiet) => {
                let Writing {
                    remote, tx, done, ..
                } = *writing;
                drop(tx);
                match done.await {
                    Err(error) => remote.of_entry(error),
                    Ok(_) => remote.nonsense("too soon"),
                }
            }
            (_, trouble) => trouble,
        }
    }
}

/// Works on a file on a thread that may wait for the disk.
async fn with<T: Send + 'static>(
    partial: &mut Option<Box<Partial>>,
    work: impl FnOnce(&mut Partial) -> Result<T, Trouble> + Send + 'static,
) -> Result<T, Trouble> {
    let Some(mut taken) = partial.take() else {
        return Err(Trouble::Quiet);
    };
    let (done, taken) = blocking(move || {
        let done = work(&mut taken);
        (done, taken)
    })
    .await?;
    *partial = Some(taken);
    done
}
