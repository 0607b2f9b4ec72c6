//! The offering node's side: answers requests for what is offered, as far as
//! the maker of the offer may read it at that moment.

use super::{
    offers::{OFFER_IDLE_MAX, Offer},
    wire::{Answer, Failed, Kept, PAGE_ENTRIES, Request, Requests, answer, below, gone},
};
use alknet_core::{
    ByteSender, CallError, ChannelEnd, Control,
    files::{
        Algorithm, ByteRange, DigestRequest, Extent, FileError, FileErrorCode, FileKind, FilePath,
        FileService, FileStat, OpenFile, OpenOptions,
    },
};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, time::timeout};

/// Bytes of one reading.
const BLOCK_BYTES: usize = 1024 * 1024;

/// What a node fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(super) struct Served {
    /// Files that were sent whole.
    pub(super) files: u64,
    /// Bytes that were sent, holes not counted.
    pub(super) bytes: u64,
    /// Whether the other node has everything.
    #[serde(skip)]
    pub(super) is_done: bool,
    /// Whether it was silent for too long.
    #[serde(skip)]
    pub(super) is_idle: bool,
}

/// Answers until the other node has what it wants.
pub(super) async fn serve(
    files: &dyn FileService,
    offer: &Offer,
    channel: ChannelEnd,
) -> Result<Served, CallError> {
    let mut requests = Requests::new(channel.rx);
    let mut serving = Serving {
        files,
        offer,
        tx: channel.tx,
        control: channel.control_rx,
        // Kept: to drop it would tell the other end that the channel is gone.
        _control_tx: channel.control_tx,
        reads: 0,
        skip: None,
        served: Served::default(),
    };
    loop {
        let Ok(request) = timeout(OFFER_IDLE_MAX, requests.next()).await else {
            serving.served.is_idle = true;
            break;
        };
        let failed = match request? {
            None => break,
            Some(Request::Done) => {
                serving.served.is_done = true;
                break;
            }
            Some(Request::List { path, from }) => serving.list(&path, from.as_deref()).await?,
            Some(Request::Read { path, kept }) => {
                serving.reads += 1;
                serving.read(&path, kept.as_ref()).await?
            }
        };
        if let Err(error) = failed {
            let failed = Answer::Error(Failed::from(CallError::from(error)));
            answer(&mut serving.tx, &failed).await?;
        }
    }
    serving.tx.end();
    Ok(serving.served)
}

struct Serving<'a> {
    files: &'a dyn FileService,
    offer: &'a Offer,
    tx: ByteSender,
    control: mpsc::Receiver<Control>,
    _control_tx: mpsc::Sender<Control>,
    /// Requests for files so far, by which a message means one.
    reads: u64,
    /// The newest one of which the other node wants no more.
    skip: Option<u64>,
    served: Served,
}

/// The outer failure ends the exchange, the inner one is told.
type Told = Result<Result<(), FileError>, CallError>;

impl Serving<'_> {
    fn path(&self, path: &str) -> Result<FilePath, FileError> {
        Ok(below(&self.offer.file, path)?)
    }

    async fn list(&mut self, path: &str, from: Option<&str>) -> Told {
        let Some(permit) = &self.offer.list else {
            let message = format!("`{}` is not offered as a tree", self.offer.file);
            return Ok(Err(FileError::new(FileErrorCode::NotADirectory, message)));
        };
        let listed = async {
            let path = self.path(path)?;
            let mut listing = self.files.list(permit, &path, from).await?;
            let entries = listing.next(permit, PAGE_ENTRIES).await?;
            let next = (!entries.is_empty()).then(|| listing.place());
            Ok::<_, FileError>((entries, next))
        };
        let (entries, next) = match listed.await {
            Ok(listed) => listed,
            Err(error) => return Ok(Err(error)),
        };
        for entry in entries {
            answer(&mut self.tx, &Answer::Entry(Box::new(entry))).await?;
        }
        answer(&mut self.tx, &Answer::Page { next }).await.map(Ok)
    }

    async fn read(&mut self, path: &str, kept: Option<&Kept>) -> Told {
        let (file, stat, offset) = match self.open(path, kept).await {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error)),
        };
        let content = Answer::Content {
            bytes: stat.bytes,
            offset,
            mode: stat.mode,
            mtime: stat.mtime,
        };
        answer(&mut self.tx, &content).await?;
        if let Err(error) = self.content(&*file, offset, stat.bytes).await? {
            return Ok(Err(error));
        }
        // Bytes of two versions make neither.
        match file.stat(&self.offer.read).await {
            Ok(now) if now.version == stat.version => {}
            Ok(_) => return Ok(Err(changed(file.path()))),
            Err(error) => return Ok(Err(error)),
        }
        self.served.files += 1;
        answer(&mut self.tx, &Answer::End).await.map(Ok)
    }

    async fn open(
        &self,
        path: &str,
        kept: Option<&Kept>,
    ) -> Result<(std::sync::Arc<dyn OpenFile>, FileStat, u64), FileError> {
        let path = self.path(path)?;
        let permit = &self.offer.read;
        // Only what is offered itself may be a link that is followed: below
        // it, links are told as what they are.
        let options = OpenOptions {
            follow: path == self.offer.file,
            ..OpenOptions::reading()
        };
        let file = self.files.open(permit, &path, options).await?;
        let stat = file.stat(permit).await?;
        if stat.kind == FileKind::Directory {
            let message = format!("`{path}` is a directory");
            return Err(FileError::new(FileErrorCode::IsADirectory, message));
        }
        let mut offset = 0;
        if let Some(kept) = kept.filter(|kept| (1..=stat.bytes).contains(&kept.bytes)) {
            let request = DigestRequest {
                range: ByteRange {
                    offset: 0,
                    bytes: Some(kept.bytes),
                },
                algorithms: vec![Algorithm::Blake3],
            };
            let (digests, _) = self.files.digest(permit, &path, request).await?;
            if digests.blake3.as_deref() == Some(kept.blake3.as_str()) {
                offset = kept.bytes;
            }
        }
        Ok((file, stat, offset))
    }

    async fn content(&mut self, file: &dyn OpenFile, mut at: u64, end: u64) -> Told {
        while at < end {
            match file.extent(&self.offer.read, at).await {
                Ok(Extent::Hole(to)) if to > at => {
                    let to = to.min(end);
                    answer(&mut self.tx, &Answer::Hole(to - at)).await?;
                    at = to;
                }
                Ok(Extent::Data(to)) if to > at => {
                    if let Err(error) = self.data(file, at, to.min(end)).await? {
                        return Ok(Err(error));
                    }
                    at = to.min(end);
                }
                Ok(_) => return Ok(Err(changed(file.path()))),
                Err(error) => return Ok(Err(error)),
            }
            if self.is_skipped() {
                return Ok(Err(unwanted(file.path())));
            }
        }
        Ok(Ok(()))
    }

    /// One block is read while the one before is sent.
    async fn data(&mut self, file: &dyn OpenFile, mut at: u64, end: u64) -> Told {
        let permit = &self.offer.read;
        let read = |at: u64| {
            let bytes = usize::try_from(end - at).map_or(BLOCK_BYTES, |left| left.min(BLOCK_BYTES));
            file.read_at(permit, at, bytes)
        };
        let mut block: Bytes = match read(at).await {
            Ok(block) => block,
            Err(error) => return Ok(Err(error)),
        };
        loop {
            if block.is_empty() {
                return Ok(Err(changed(file.path())));
            }
            at += block.len() as u64;
            self.served.bytes += block.len() as u64;
            let next = async {
                match at < end {
                    true => read(at).await.map(Some),
                    false => Ok(None),
                }
            };
            let (sent, next) = tokio::join!(self.tx.send(block), next);
            sent.map_err(|_| gone())?;
            block = match next {
                Ok(Some(next)) => next,
                Ok(None) => return Ok(Ok(())),
                Err(error) => return Ok(Err(error)),
            };
            if self.is_skipped() {
                return Ok(Err(unwanted(file.path())));
            }
        }
    }

    fn is_skipped(&mut self) -> bool {
        while let Ok(message) = self.control.try_recv() {
            self.skip = message.get("skip").and_then(Control::as_u64).or(self.skip);
        }
        self.skip == Some(self.reads)
    }
}

fn changed(path: &FilePath) -> FileError {
    let message = format!("`{path}` changed while it was read");
    FileError::new(FileErrorCode::FileChanged, message)
}

fn unwanted(path: &FilePath) -> FileError {
    let message = format!("the other node wants no more of `{path}`");
    FileError::new(FileErrorCode::BadArgument, message)
}
