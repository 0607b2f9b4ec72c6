//! Parts of a file on their way.

use bytes::Bytes;

/// Bytes, or a hole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Data(Bytes),
    /// So many zeros that take no room.
    Hole(u64),
}

impl Piece {
    /// How long it is.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Data(bytes) => bytes.len() as u64,
            Self::Hole(bytes) => *bytes,
        }
    }
}
