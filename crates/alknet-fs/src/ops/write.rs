//! `fs/write`: new bytes for a file.

use super::{
    CreateInput, bad_argument, cut, gather::Gathered, lacks_parents, make_parents, writes,
};
use crate::stream::{HoleDecoder, Piece, StreamError};
use alknet_core::{
    ByteReceiver, CallError, ChannelEnd, ChannelOpening, Chunk, Context, Control, Operation,
    Permit, Registration,
    files::{
        Attributes, Create, Digests, FileError, FileErrorCode, FilePath, FileService, FileStat,
        FileTime, OpenFile, OpenOptions, ReplaceOptions, Replacement, SetTime,
    },
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;
use tokio::sync::mpsc;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WriteInput {
    /// The file: `bucket[@branch]/path`.
    file: FilePath,
    /// Bytes of the whole file, holes included, if that is known: without room
    /// for them the call is refused before the bytes, and fewer or more are
    /// not taken. Writing in place, bytes that come.
    #[serde(default)]
    bytes: Option<u64>,
    /// What is done if it is not there, or is.
    #[serde(default)]
    create: CreateInput,
    /// Its version must be this one: `FILE_CHANGED` otherwise.
    #[serde(default)]
    if_version: Option<String>,
    /// Permissions, as a number (420 is 0644); those of the file that was
    /// there, if left out.
    #[serde(default)]
    #[schemars(range(max = 4095))]
    mode: Option<u32>,
    /// Time of the last change; the present, if left out.
    #[serde(default)]
    mtime: Option<FileTime>,
    /// What the digests of the whole file must be: `HASH_MISMATCH` otherwise.
    #[serde(default)]
    digests: Option<Digests>,
    /// With the same text, the same caller goes on after a cut.
    #[serde(default)]
    #[schemars(length(min = 1, max = 128))]
    resume: Option<String>,
    /// Writes in place, from here, into the file as it is.
    #[serde(default)]
    offset: Option<u64>,
    /// Writes in place, at the end of the file.
    #[serde(default)]
    append: bool,
    /// Writing in place, cuts the file where the bytes end.
    #[serde(default)]
    truncate: bool,
    /// Whether holes are sent as such: as lengths of eight bytes, big endian,
    /// on the auxiliary stream.
    #[serde(default)]
    sparse: bool,
    /// Makes the directories above it.
    #[serde(default)]
    parents: bool,
}

impl WriteInput {
    fn is_in_place(&self) -> bool {
        self.append || self.offset.is_some()
    }

    fn check(&self) -> Result<(), CallError> {
        let refused = |message: &str| Err(bad_argument(format!("`{}`: {message}", self.file)));
        if self.append && (self.offset.is_some() || self.truncate) {
            return refused("`append` goes with neither `offset` nor `truncate`");
        }
        if self.is_in_place() {
            if self.resume.is_some() || self.digests.is_some() || self.sparse {
                return refused("`resume`, `digests` and `sparse` are for whole files");
            }
        } else if self.truncate {
            return refused("`truncate` goes with `offset`: without it the file is replaced");
        }
        Ok(())
    }
}

#[derive(Debug, Serialize, JsonSchema)]
struct Opened {
    /// Where to go on: bytes that were kept of an earlier attempt, or the
    /// place that is written to.
    offset: u64,
    /// BLAKE3 of the bytes that were kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    blake3: Option<String>,
}

#[derive(Debug, Serialize)]
struct WriteResult {
    /// Bytes that were taken in this call, holes included.
    bytes: u64,
    /// What the file is now.
    stat: FileStat,
}

const DESCRIPTION: &str = "\
The bytes sent become the content of the file, as a whole, when they end: readers see the old \
one until then, and a cut leaves it as it was. The result, `{\"bytes\", \"stat\"}`, comes when it \
is durable. With `sparse`, holes are sent on the auxiliary stream, each as its length in eight \
bytes, big endian, where it lies among the bytes.\n\n\
With `resume`, what came before a cut is kept for a week. The opening reply then says how many \
bytes there are (`offset`) and their BLAKE3: whoever has the same goes on there; whoever has \
not sends the control message `{\"rewind\": 0}` before any bytes, and waits for the answer \
`{\"rewound\": 0}`. More than one rewinding, or one to another place before `offset`, is fine.\n\n\
With `offset` or `append` the bytes are written into the file as it is, in pieces of up to 256 \
KiB that readers see as they come; a cut leaves what was written.";

pub(super) fn write(files: Arc<dyn FileService>) -> Registration {
    let stat = json!({
        "kind": "file", "bytes": 5, "mode": 420, "uid": 1000, "gid": 1000, "links": 1,
        "mtime": "2026-11-20T10:00:00Z", "version": "41.1b2.5",
    });
    writes(Operation::channel(
        "fs/write",
        "Writes the bytes of a file.",
    ))
    .description(DESCRIPTION)
    .destructive()
    .example(
        json!({ "file": "inbox/notes.txt", "bytes": 5 }),
        json!({ "bytes": 5, "stat": stat }),
    )
    .example(
        json!({ "file": "inbox/log.txt", "append": true }),
        json!({ "bytes": 5, "stat": stat }),
    )
    .channel::<_, Opened, _, _, _>(move |cx, input: WriteInput, opening| {
        let files = files.clone();
        async move {
            input.check()?;
            match input.is_in_place() {
                true => write_in_place(&*files, &cx, input, opening).await,
                false => replace(&*files, &cx, input, opening).await,
            }
        }
    })
}

async fn replace(
    files: &dyn FileService,
    cx: &Context,
    input: WriteInput,
    opening: ChannelOpening,
) -> Result<WriteResult, CallError> {
    let permit = cx.permit();
    let create = Create::from(input.create);
    let options = ReplaceOptions {
        create,
        if_version: input.if_version,
        mode: input.mode,
        mtime: input.mtime,
        bytes: input.bytes,
        digests: input.digests,
        resume: input.resume.clone(),
        sparse: input.sparse,
    };
    let begun = files.replace(&permit, &input.file, options.clone()).await;
    let mut replacement = match begun {
        Err(error) if input.parents && lacks_parents(&error, create) => {
            make_parents(files, &permit, &input.file).await?;
            files.replace(&permit, &input.file, options).await?
        }
        begun => begun?,
    };
    let offset = replacement.bytes();
    let blake3 = match offset {
        0 => None,
        _ => Some(replacement.digest(&permit).await?),
    };
    let channel = opening.accept(&Opened { offset, blake3 })?;
    let mut upload = Upload {
        replacement,
        permit: &permit,
        file: &input.file,
        announced: input.bytes,
        gathered: Gathered::default(),
        sparse: input.sparse,
    };
    match upload.take_all(channel, offset).await {
        Ok(taken) => {
            let stat = upload.replacement.commit(&permit).await?;
            Ok(WriteResult { bytes: taken, stat })
        }
        Err(Ended::Cut) => {
            // What came is worth keeping, if it is kept at all.
            if input.resume.is_some() {
                upload.flush().await?;
            }
            Err(cut())
        }
        Err(Ended::Refused(error)) => Err(error),
        Err(Ended::Wrong(error)) => {
            upload.replacement.discard().await;
            Err(error)
        }
    }
}

/// A control message before the bytes.
#[derive(Deserialize)]
struct Rewind {
    rewind: u64,
}

/// Why an upload did not come to its end.
enum Ended {
    /// The caller is gone.
    Cut,
    /// It cannot go on now; what came may be gone on with.
    Refused(CallError),
    /// What came makes no sense, or is too much: it is not kept.
    Wrong(CallError),
}

impl From<FileError> for Ended {
    fn from(error: FileError) -> Self {
        Self::Refused(error.into())
    }
}

impl From<StreamError> for Ended {
    fn from(error: StreamError) -> Self {
        Self::Wrong(bad_argument(error.to_string()))
    }
}

struct Upload<'a> {
    replacement: Box<dyn Replacement>,
    permit: &'a Permit,
    file: &'a FilePath,
    announced: Option<u64>,
    gathered: Gathered,
    sparse: bool,
}

impl Upload<'_> {
    /// Takes everything; answers with how many bytes came.
    async fn take_all(&mut self, channel: ChannelEnd, offset: u64) -> Result<u64, Ended> {
        let ChannelEnd {
            tx,
            rx,
            control_tx,
            mut control_rx,
        } = channel;
        let mut incoming = Incoming::new(rx);
        let begun = self
            .rewound(&mut incoming, &control_tx, &mut control_rx, offset)
            .await?;
        let mut total = begun;
        let mut holes = HoleDecoder::new();
        while let Some(chunk) = incoming.next().await? {
            if chunk.aux && !self.sparse {
                let message = "holes come, and `sparse` was not said";
                return Err(Ended::Wrong(bad_argument(message)));
            }
            for piece in holes.pieces(chunk)? {
                total = self.take(piece, total).await?;
            }
        }
        holes.finish()?;
        while let Ok(control) = control_rx.try_recv() {
            // Its bytes may have overtaken it, and lie in the wrong place.
            if serde_json::from_value::<Rewind>(control).is_ok() {
                let message = "bytes came before `rewound` was answered";
                return Err(Ended::Wrong(bad_argument(message)));
            }
        }
        self.flush().await?;
        // Kept open until here: to drop them would tell the caller to stop.
        drop((tx, control_tx, control_rx));
        match self.announced {
            Some(announced) if total < announced => Err(Ended::Refused(bad_argument(format!(
                "`{}`: {total} bytes came, and {announced} were announced",
                self.file
            )))),
            _ => Ok(total - begun),
        }
    }

    /// Rewinds as the caller says, until its first bytes.
    async fn rewound(
        &mut self,
        incoming: &mut Incoming,
        answers: &mpsc::Sender<Control>,
        controls: &mut mpsc::Receiver<Control>,
        offset: u64,
    ) -> Result<u64, Ended> {
        let mut at = offset;
        loop {
            let control = tokio::select! {
                // Whoever rewinds sends nothing before the answer.
                biased;
                Some(control) = controls.recv() => control,
                first = incoming.wait() => return first.map(|()| at),
            };
            let Ok(Rewind { rewind }) = serde_json::from_value(control) else {
                continue;
            };
            if rewind > at {
                let message = format!("`{}`: {at} bytes are kept, not {rewind}", self.file);
                return Err(Ended::Refused(bad_argument(message)));
            }
            self.replacement.rewind(self.permit, rewind).await?;
            at = rewind;
            let sent = answers.send(json!({ "rewound": rewind })).await;
            sent.map_err(|_| Ended::Cut)?;
        }
    }

    async fn take(&mut self, piece: Piece, total: u64) -> Result<u64, Ended> {
        let bytes = match &piece {
            Piece::Bytes(bytes) => bytes.len() as u64,
            Piece::Hole(bytes) => *bytes,
        };
        let most = self.announced.unwrap_or(i64::MAX.unsigned_abs());
        let total = total.checked_add(bytes).filter(|total| *total <= most);
        let Some(total) = total else {
            let message = match self.announced {
                Some(announced) => format!("more bytes come than the {announced} announced"),
                None => "a file is not that long".into(),
            };
            return Err(Ended::Wrong(bad_argument(format!(
                "`{}`: {message}",
                self.file
            ))));
        };
        match piece {
            Piece::Bytes(bytes) => {
                if let Some(bytes) = self.gathered.add(bytes) {
                    self.replacement.write(self.permit, bytes).await?;
                }
            }
            Piece::Hole(bytes) => {
                self.flush().await?;
                self.replacement.skip(self.permit, bytes).await?;
            }
        }
        Ok(total)
    }

    async fn flush(&mut self) -> Result<(), FileError> {
        match self.gathered.rest() {
            Some(bytes) => self.replacement.write(self.permit, bytes).await,
            None => Ok(()),
        }
    }
}

/// Chunks as they come; the first may be waited for apart.
struct Incoming {
    rx: ByteReceiver,
    first: Option<Chunk>,
    has_ended: bool,
}

impl Incoming {
    fn new(rx: ByteReceiver) -> Self {
        Self {
            rx,
            first: None,
            has_ended: false,
        }
    }

    /// Waits for the first chunk, or the end, and keeps it. Cancel safe.
    async fn wait(&mut self) -> Result<(), Ended> {
        match self.rx.recv().await.map_err(|_| Ended::Cut)? {
            Some(chunk) => self.first = Some(chunk),
            None => self.has_ended = true,
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Chunk>, Ended> {
        match self.first.take() {
            Some(first) => Ok(Some(first)),
            None if self.has_ended => Ok(None),
            None => self.rx.recv().await.map_err(|_| Ended::Cut),
        }
    }
}

async fn write_in_place(
    files: &dyn FileService,
    cx: &Context,
    input: WriteInput,
    opening: ChannelOpening,
) -> Result<WriteResult, CallError> {
    let permit = cx.permit();
    // Before anything is made.
    let first = input.offset.unwrap_or(0);
    end_of(first, input.bytes.unwrap_or(0))?;
    let file = open_in_place(files, &permit, &input).await?;
    let stat = file.stat(&permit).await?;
    if input
        .if_version
        .as_ref()
        .is_some_and(|version| *version != stat.version)
    {
        let message = format!("`{}`: it is not the version that was expected", input.file);
        return Err(FileError::new(FileErrorCode::FileChanged, message).into());
    }
    let offset = match input.offset {
        Some(offset) => offset,
        None => stat.bytes,
    };
    let mut channel = opening.accept(&Opened {
        offset,
        blake3: None,
    })?;
    let mut gathered = Gathered::default();
    let mut at = offset;
    let ended = loop {
        let chunk = match channel.rx.recv().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break Ok(()),
            Err(_) => break Err(cut()),
        };
        if chunk.aux {
            return Err(bad_argument("holes are for whole files"));
        }
        if input
            .bytes
            .is_some_and(|most| at - offset + chunk.bytes.len() as u64 > most)
        {
            return Err(bad_argument("more bytes come than were announced"));
        }
        at = end_of(at, chunk.bytes.len() as u64)?;
        if let Some(bytes) = gathered.add(chunk.bytes) {
            let begin = at - bytes.len() as u64;
            file.write_at(&permit, begin, bytes).await?;
        }
    };
    if let Some(bytes) = gathered.rest() {
        let begin = at - bytes.len() as u64;
        file.write_at(&permit, begin, bytes).await?;
    }
    ended?;
    let taken = at - offset;
    if input.bytes.is_some_and(|announced| taken < announced) {
        return Err(bad_argument("fewer bytes came than were announced"));
    }
    let attributes = Attributes {
        bytes: input.truncate.then_some(at),
        mtime: input.mtime.map(SetTime::To),
        ..Attributes::default()
    };
    if !attributes.is_empty() {
        file.set_attributes(&permit, attributes).await?;
    }
    file.sync(&permit).await?;
    let stat = file.stat(&permit).await?;
    Ok(WriteResult { bytes: taken, stat })
}

/// Where so many bytes end that are written at `offset`.
fn end_of(offset: u64, bytes: u64) -> Result<u64, FileError> {
    let end = offset.checked_add(bytes);
    end.filter(|end| i64::try_from(*end).is_ok())
        .ok_or_else(|| {
            let message = format!("no file has {bytes} bytes at {offset}");
            FileError::new(FileErrorCode::FileTooLarge, message)
        })
}

async fn open_in_place(
    files: &dyn FileService,
    permit: &Permit,
    input: &WriteInput,
) -> Result<Arc<dyn OpenFile>, FileError> {
    let create = Create::from(input.create);
    let options = OpenOptions {
        append: input.append,
        mode: input.mode,
        ..OpenOptions::writing(create)
    };
    match files.open(permit, &input.file, options).await {
        Err(error) if input.parents && lacks_parents(&error, create) => {
            make_parents(files, permit, &input.file).await?;
            files.open(permit, &input.file, options).await
        }
        opened => opened,
    }
}
