//! Small chunks on their way to the disk wait for more.

use bytes::{Bytes, BytesMut};

/// Bytes that are gathered before they are written.
pub(super) const GATHERED_BYTES: usize = 256 * 1024;

/// Bytes that wait.
#[derive(Debug, Default)]
pub(super) struct Gathered(BytesMut);

impl Gathered {
    /// Adds bytes; answers with what is worth writing. Large chunks pass as
    /// they are.
    pub(super) fn add(&mut self, bytes: Bytes) -> Option<Bytes> {
        if self.0.is_empty() && bytes.len() >= GATHERED_BYTES {
            return Some(bytes);
        }
        self.0.extend_from_slice(&bytes);
        (self.0.len() >= GATHERED_BYTES).then(|| self.0.split().freeze())
    }

    /// What waits.
    pub(super) fn rest(&mut self) -> Option<Bytes> {
        (!self.0.is_empty()).then(|| self.0.split().freeze())
    }
}
