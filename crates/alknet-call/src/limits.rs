//! Limits of the wire, each with a name, and the codes with which streams and
//! connections end.

use std::time::Duration;

/// Peers that a route may name.
pub use alknet_core::ROUTE_STEPS_MAX;
/// Nodes that a call may have passed.
pub const VIA_NODES_MAX: usize = 8;
/// Bytes of an idempotency key, of a tracing context, of an originator's label.
pub const TEXT_BYTES_MAX: usize = 128;
/// Bytes of a name: of an operation, a node, a software version.
pub const NAME_BYTES_MAX: usize = 64;
/// Bytes of a credential in a `Hello`.
pub const CREDENTIAL_BYTES_MAX: usize = 512;
/// Bytes of an error's message; longer ones are cut.
pub const MESSAGE_BYTES_MAX: usize = 4096;
/// Bytes of a control message, a progress report, a question, an answer, and
/// of an error's details.
pub const SIDE_BYTES_MAX: usize = 256 * 1024;
/// Bytes of a frame's header.
pub const HEADER_BYTES_MAX: usize = 8 * 1024;
/// Fields added to a header that this version does not know.
pub const EXTENSIONS_MAX: usize = 16;
/// Control messages of a channel that may be under way in one direction.
pub const CONTROLS_IN_FLIGHT_MAX: u32 = 64;
/// Questions of one call that may be open at once.
pub const ASKS_OPEN_MAX: usize = 16;
/// What an item, a progress report or a question costs beside its bytes, so
/// that empty ones are not free.
pub const ITEM_OVERHEAD_BYTES: u64 = 64;
/// Payloads above this size are read only while there is room for them.
pub const LARGE_PAYLOAD_BYTES: usize = 64 * 1024;
/// Bytes a second that an input must arrive with, beyond its first ten seconds.
pub const INPUT_RATE_MIN: usize = 16 * 1024;

/// What this side accepts from the other. Of a channel it takes
/// [`PIPE_WINDOW_BYTES`](alknet_core::PIPE_WINDOW_BYTES) ahead of its reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireLimits {
    /// Bytes of a frame's payload before the caller is known, and from
    /// anonymous callers.
    pub unknown_bytes_max: usize,
    /// Bytes of a frame's payload after the caller is known; 64 KiB at least.
    pub frame_bytes_max: usize,
    /// Bytes of one chunk of a channel; 1 KiB at least.
    pub chunk_bytes_max: usize,
    /// Bytes of a subscription's items that may be under way; 16 KiB at least.
    pub item_window_bytes: usize,
    /// Bytes of large payloads of one connection that are being received at
    /// once, for inputs, replies and items each; and of replies that wait for
    /// the other side to read them.
    pub large_bytes_max: usize,
    /// How long the `Hello`, and the first frame of a stream, may take.
    pub first_frame: Duration,
    /// How long a reply may wait for a reader that takes nothing.
    pub stall: Duration,
    /// How much longer than its budget a caller waits for the callee to say
    /// that the budget is over.
    pub deadline_grace: Duration,
    /// Streams that may break the protocol before the connection is closed.
    pub stream_errors_max: u32,
}

impl Default for WireLimits {
    fn default() -> Self {
        Self {
            unknown_bytes_max: 64 * 1024,
            frame_bytes_max: 16 * 1024 * 1024,
            chunk_bytes_max: 256 * 1024,
            item_window_bytes: 256 * 1024,
            large_bytes_max: 64 * 1024 * 1024,
            first_frame: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            deadline_grace: Duration::from_secs(2),
            stream_errors_max: 8,
        }
    }
}

/// Codes with which a stream is reset or stopped.
pub mod stream_code {
    /// Nothing more is needed: the outcome is known.
    pub const DONE: u32 = 0;
    /// The caller is no longer interested.
    pub const CANCELLED: u32 = 1;
    /// A frame that cannot be read.
    pub const MALFORMED: u32 = 2;
    /// A frame larger than allowed.
    pub const TOO_LARGE: u32 = 3;
    /// A frame that has no place here.
    pub const UNEXPECTED: u32 = 4;
    /// More than the credit allowed.
    pub const OVERDRAWN: u32 = 5;
    /// Too slow: no first frame, or a reader that takes nothing.
    pub const TOO_SLOW: u32 = 6;
    /// A field that must be understood, and is not.
    pub const UNSUPPORTED: u32 = 7;
    /// A fault in the callee.
    pub const INTERNAL: u32 = 8;
}

/// Codes with which a connection is closed.
pub mod connection_code {
    /// Nothing more to do.
    pub const DONE: u32 = 0;
    /// No `Hello` in time.
    pub const NO_HELLO: u32 = 0x101;
    /// A `Hello` that cannot be read.
    pub const BAD_HELLO: u32 = 0x102;
    /// No version in common.
    pub const NO_COMMON_VERSION: u32 = 0x103;
    /// The credential in the `Hello` does not resolve.
    pub const UNAUTHENTICATED: u32 = 0x104;
    /// Too many streams broke the protocol.
    pub const PROTOCOL_ERRORS: u32 = 0x105;
    /// The key behind the connection is not, or no longer, let in.
    pub const NOT_ADMITTED: u32 = 0x106;
    /// More connections than allowed.
    pub const LIMIT: u32 = 0x107;
    /// A fault in the code that served the connection.
    pub const INTERNAL: u32 = 0x108;
}
