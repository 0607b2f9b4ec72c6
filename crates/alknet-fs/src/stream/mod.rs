//! What flows through the channels of `fs/write`, `fs/read`, `fs/write-many`,
//! `fs/read-many` and `fs/compare`: lines, records of a tree, holes. Pure: both
//! ends use it, and it is fuzzed.
//!
//! * **Lines** on the main stream: one JSON value each, ended by `\n`
//!   ([`Lines`], [`line`]).
//! * **A tree**: records, one line of JSON each, on the auxiliary stream; after
//!   the [`Record`] of a file, its bytes on the main stream, and holes in them
//!   as records ([`TreeDecoder`]).
//! * **Holes** of a single file: lengths of eight bytes, big endian, on the
//!   auxiliary stream, where they lie among the bytes ([`HoleDecoder`]).
//!
//! Chunks may be split and joined on the way; the order of both streams
//! together is kept.

mod holes;
mod lines;
mod path;
mod record;
mod tree;

pub use self::{
    holes::{HoleDecoder, Piece, hole_chunk},
    lines::{Lines, line},
    path::EntryPath,
    record::{
        Answer, Comparison, Difference, Differs, EntryRecord, Failure, FileRecord, Record, Request,
    },
    tree::{TreeDecoder, TreeEvent},
};

/// Most bytes of one record or line, its `\n` included: room for the longest
/// path and the longest target, with every byte of them escaped.
pub const RECORD_BYTES_MAX: usize = 64 * 1024;

/// Most bytes of the text of a link's target: the longest that hosts have, with every
/// byte escaped.
pub const TARGET_BYTES_MAX: usize = 3 * 4095;

/// Why a stream makes no sense. It cannot be gone on with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// A record or a line does not end in time.
    #[error("a record has more than {RECORD_BYTES_MAX} bytes")]
    RecordTooLong,
    /// A record or a line is not what is expected.
    #[error("a record cannot be read: {reason}")]
    BadRecord {
        /// What is wrong with it.
        reason: String,
    },
    /// A record comes before the file is complete.
    #[error("`{path}`: a record comes while {missing} bytes of it are missing")]
    FileIncomplete {
        /// Of which file.
        path: String,
        /// Bytes that were announced and did not come.
        missing: u64,
    },
    /// More bytes come than were announced.
    #[error("{bytes} bytes come that belong to no file")]
    UnexpectedBytes {
        /// How many.
        bytes: usize,
    },
    /// A hole is empty, or longer than what is left of the file.
    #[error("a hole of {bytes} bytes does not fit")]
    BadHole {
        /// How long it is.
        bytes: u64,
    },
    /// The stream ends within a record.
    #[error("the stream ends within a record")]
    EndsWithin,
}
