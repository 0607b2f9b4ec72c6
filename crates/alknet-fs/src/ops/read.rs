//! `fs/read`: the bytes of a file.

use super::{READS, reader_gone, reads};
use crate::{root::Digester, stream::hole_chunk};
use alknet_core::{
    ByteSender, CallError, ChannelOpening, Chunk, Context, Operation, Permit, Registration,
    files::{
        Algorithm, Digests, Extent, FileError, FileErrorCode, FilePath, FileService, FileStat,
        OpenFile, OpenOptions,
    },
};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;

/// Bytes that are read at once; one such block is read while the one before is
/// on its way.
pub(super) const BLOCK_BYTES: usize = 1024 * 1024;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReadInput {
    /// The file: `bucket[@branch]/path`.
    file: FilePath,
    /// Where to begin, in bytes.
    #[serde(default)]
    offset: u64,
    /// Most bytes to read; to the end if it is left out.
    #[serde(default)]
    bytes: Option<u64>,
    /// Whether holes are sent as such: as lengths of eight bytes, big endian,
    /// on the auxiliary stream.
    #[serde(default)]
    sparse: bool,
    /// Its version must be this one: `FILE_CHANGED` otherwise.
    #[serde(default)]
    if_version: Option<String>,
    /// Digests to compute of what is sent.
    #[serde(default)]
    #[schemars(length(max = 3))]
    digests: Vec<Algorithm>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Opened {
    /// What it is.
    #[serde(flatten)]
    stat: FileStat,
    /// Where the bytes begin.
    offset: u64,
    /// How many bytes come, holes included.
    length: u64,
}

#[derive(Debug, Serialize)]
struct ReadResult {
    /// Bytes that were sent, holes included.
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    digests: Option<Digests>,
    /// What it is after the last byte: of another version than at first if it
    /// was changed meanwhile.
    stat: FileStat,
}

pub(super) fn read(files: Arc<dyn FileService>) -> Registration {
    let stat = json!({
        "kind": "file", "bytes": 5, "mode": 420, "uid": 1000, "gid": 1000, "links": 1,
        "mtime": "2026-11-20T10:00:00Z", "version": "41.1b2.5",
    });
    reads(Operation::channel("fs/read", "Reads the bytes of a file."))
        .hints(READS)
        .description(
            "The opening reply describes the file, and says how many bytes come (`length`): \
             none if `offset` is at its end or after it. With `sparse`, the auxiliary stream \
             tells holes, each as its length in eight bytes, big endian, where it lies among \
             the bytes. The result comes after the last byte: `{\"bytes\", \"digests\"?, \
             \"stat\"}`; `version` in it differs from that of the opening reply if the file was \
             changed while it was read. A file that becomes shorter meanwhile ends it: \
             `FILE_CHANGED`.",
        )
        .example(json!({ "file": "inbox/notes.txt" }), json!({ "bytes": 5, "stat": stat }))
        .example(
            json!({ "file": "inbox/notes.txt", "offset": 1, "bytes": 2, "digests": ["md5"] }),
            json!({ "bytes": 2, "digests": { "md5": "5b54c0a045f179bcbbbc9abcb8b5cd4c" }, "stat": stat }),
        )
        .channel::<_, Opened, _, _, _>(move |cx, input: ReadInput, opening| {
            let files = files.clone();
            async move { run(&*files, &cx, input, opening).await }
        })
}

async fn run(
    files: &dyn FileService,
    cx: &Context,
    input: ReadInput,
    opening: ChannelOpening,
) -> Result<ReadResult, CallError> {
    let permit = cx.permit();
    let file = files
        .open(&permit, &input.file, OpenOptions::reading())
        .await?;
    let stat = file.stat(&permit).await?;
    if input
        .if_version
        .as_ref()
        .is_some_and(|version| *version != stat.version)
    {
        let message = format!("`{}`: it is not the version that was expected", input.file);
        return Err(FileError::new(FileErrorCode::FileChanged, message).into());
    }
    let offset = input.offset;
    let most = input.bytes.unwrap_or(u64::MAX);
    let length = stat.bytes.saturating_sub(offset).min(most);
    let mut channel = opening.accept(&Opened {
        stat,
        offset,
        length,
    })?;
    let mut reader = Reader {
        file: &*file,
        permit: &permit,
        name: &input.file,
        offset,
        end: offset + length,
        digester: (!input.digests.is_empty()).then(|| Digester::new(&input.digests)),
    };
    let tx = &mut channel.tx;
    match input.sparse {
        true => reader.send_sparse(tx, hole_chunk).await?,
        false => reader.send_data(tx, reader.end).await?,
    }
    let digests = reader.digester.map(Digester::finish);
    let stat = file.stat(&permit).await?;
    channel.tx.end();
    Ok(ReadResult {
        bytes: length,
        digests,
        stat,
    })
}

/// Why a part of a file was not sent.
pub(super) enum Unsent {
    /// Nobody takes it.
    Gone,
    /// It cannot be read.
    Failed(CallError),
}

impl From<FileError> for Unsent {
    fn from(error: FileError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<CallError> for Unsent {
    fn from(error: CallError) -> Self {
        Self::Failed(error)
    }
}

impl From<Unsent> for CallError {
    fn from(unsent: Unsent) -> Self {
        match unsent {
            Unsent::Gone => reader_gone(),
            Unsent::Failed(error) => error,
        }
    }
}

/// Sends a part of a file.
pub(super) struct Reader<'a> {
    pub(super) file: &'a dyn OpenFile,
    pub(super) permit: &'a Permit,
    pub(super) name: &'a FilePath,
    pub(super) offset: u64,
    pub(super) end: u64,
    pub(super) digester: Option<Digester>,
}

impl Reader<'_> {
    /// Sends bytes up to a position: the next block is read while one is sent.
    async fn send_data(&mut self, tx: &mut ByteSender, end: u64) -> Result<(), Unsent> {
        let mut block = self.block(end).await?;
        while let Some(bytes) = block {
            self.offset += bytes.len() as u64;
            self.digest(&bytes).await?;
            let (sent, next) = futures::join!(tx.send(bytes), self.block(end));
            sent.map_err(|_| Unsent::Gone)?;
            block = next?;
        }
        Ok(())
    }

    /// The next bytes before a position; none there.
    async fn block(&self, end: u64) -> Result<Option<Bytes>, FileError> {
        let left = usize::try_from(end - self.offset).unwrap_or(usize::MAX);
        if left == 0 {
            return Ok(None);
        }
        let most = left.min(BLOCK_BYTES);
        let bytes = self.file.read_at(self.permit, self.offset, most).await?;
        match bytes.is_empty() {
            true => Err(self.became_shorter()),
            false => Ok(Some(bytes)),
        }
    }

    fn became_shorter(&self) -> FileError {
        let message = format!("`{}`: it became shorter while it was read", self.name);
        FileError::new(FileErrorCode::FileChanged, message)
    }

    /// Sends all of it, holes as `hole` has them.
    pub(super) async fn send_sparse(
        &mut self,
        tx: &mut ByteSender,
        hole: impl Fn(u64) -> Chunk,
    ) -> Result<(), Unsent> {
        while self.offset < self.end {
            match self.file.extent(self.permit, self.offset).await? {
                Extent::Data(to) if to > self.offset => {
                    self.send_data(tx, to.min(self.end)).await?;
                }
                Extent::Hole(to) if to > self.offset => {
                    let bytes = to.min(self.end) - self.offset;
                    self.digest_hole(bytes).await?;
                    let sent = tx.send_chunk(hole(bytes)).await;
                    sent.map_err(|_| Unsent::Gone)?;
                    self.offset += bytes;
                }
                Extent::End => return Err(self.became_shorter().into()),
                Extent::Data(_) | Extent::Hole(_) => {
                    let message = format!("`{}`: its extents make no sense", self.name);
                    return Err(FileError::new(FileErrorCode::IoError, message).into());
                }
            }
        }
        Ok(())
    }

    async fn digest(&mut self, bytes: &Bytes) -> Result<(), CallError> {
        let Some(mut digester) = self.digester.take() else {
            return Ok(());
        };
        let bytes = bytes.clone();
        self.digester = Some(
            blocking(move || {
                digester.update(&bytes);
                digester
            })
            .await?,
        );
        Ok(())
    }

    async fn digest_hole(&mut self, bytes: u64) -> Result<(), CallError> {
        /// Zeros between two looks at whether the call goes on.
        const STEP: u64 = 16 * 1024 * 1024;
        let mut left = bytes;
        while left > 0 {
            let Some(mut digester) = self.digester.take() else {
                return Ok(());
            };
            let step = left.min(STEP);
            self.digester = Some(
                blocking(move || {
                    digester.update_zeros(step);
                    digester
                })
                .await?,
            );
            self.permit.check_file("read", self.name)?;
            left -= step;
        }
        Ok(())
    }
}

/// Runs what computes for a while where it holds up nobody.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CallError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| {
        CallError::new(
            alknet_core::ErrorCode::Internal,
            "a computation did not end",
        )
    })
}
