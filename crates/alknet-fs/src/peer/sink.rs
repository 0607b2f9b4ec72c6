//! Where the bytes of a file go as they come in.

use alknet_core::{
    Permit,
    files::{FileError, FileStat, Replacement},
};
use bytes::{Bytes, BytesMut};

/// Chunks are joined to this many bytes before they are written.
const WRITE_BYTES: usize = 512 * 1024;

/// A small file in memory, or a large one.
#[derive(Debug)]
pub(super) enum Sink {
    Memory(Vec<u8>),
    /// With bytes that wait to be written.
    File(Box<dyn Replacement>, BytesMut),
}

impl Sink {
    /// For so many bytes.
    pub(super) fn memory(bytes: usize) -> Self {
        Self::Memory(Vec::with_capacity(bytes))
    }

    pub(super) fn file(begun: Box<dyn Replacement>) -> Self {
        Self::File(begun, BytesMut::new())
    }

    /// Forgets what was kept of an earlier attempt.
    pub(super) async fn rewind(&mut self, permit: &Permit) -> Result<(), FileError> {
        match self {
            Self::Memory(bytes) => bytes.clear(),
            Self::File(begun, _) => begun.rewind(permit, 0).await?,
        }
        Ok(())
    }

    pub(super) async fn write(&mut self, permit: &Permit, chunk: Bytes) -> Result<(), FileError> {
        match self {
            Self::Memory(bytes) => {
                bytes.extend_from_slice(&chunk);
                Ok(())
            }
            Self::File(begun, waiting) if waiting.is_empty() && chunk.len() >= WRITE_BYTES => {
                begun.write(permit, chunk).await
            }
            Self::File(begun, waiting) => {
                waiting.extend_from_slice(&chunk);
                match waiting.len() >= WRITE_BYTES {
                    true => begun.write(permit, waiting.split().freeze()).await,
                    false => Ok(()),
                }
            }
        }
    }

    /// A hole; the caller has seen that it is not longer than the file.
    pub(super) async fn skip(&mut self, permit: &Permit, hole: u64) -> Result<(), FileError> {
        match self {
            Self::Memory(bytes) => {
                let len = bytes.len() + usize::try_from(hole).unwrap_or_default();
                bytes.resize(len, 0);
                Ok(())
            }
            Self::File(begun, waiting) => {
                write_out(&mut **begun, waiting, permit).await?;
                begun.skip(permit, hole).await
            }
        }
    }

    /// Makes it the content of a large file; of a small one, there is nothing
    /// to do.
    pub(super) async fn commit(self, permit: &Permit) -> Result<Option<FileStat>, FileError> {
        match self {
            Self::Memory(_) => Ok(None),
            Self::File(mut begun, mut waiting) => {
                write_out(&mut *begun, &mut waiting, permit).await?;
                begun.commit(permit).await.map(Some)
            }
        }
    }
}

async fn write_out(
    begun: &mut dyn Replacement,
    waiting: &mut BytesMut,
    permit: &Permit,
) -> Result<(), FileError> {
    match waiting.is_empty() {
        true => Ok(()),
        false => begun.write(permit, waiting.split().freeze()).await,
    }
}
