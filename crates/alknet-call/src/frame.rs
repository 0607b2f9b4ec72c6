//! Frames: what they are called, what their headers hold, how they are written.
//!
//! A frame is `type u8, flags u8, header_len u16, payload_len u32` (big
//! endian), a header in postcard, and the payload as it is.

use crate::{
    header::{
        ErrorHeader, Extensions, HelloHeader, InvokeHeader, error_details, put, take, take_ext,
    },
    limits::{HEADER_BYTES_MAX, SIDE_BYTES_MAX, stream_code},
};
use alknet_core::{CallError, NodeId};
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};
use zeroize::Zeroizing;

/// Bytes before the header.
pub const PREAMBLE_BYTES: usize = 8;
/// The only flag: a chunk of the auxiliary stream.
const FLAG_AUX: u8 = 1;

/// Why a frame was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A type that this version does not know.
    #[error("frame type 0x{0:02x} is unknown")]
    UnknownType(u8),
    /// A flag that has no meaning here.
    #[error("flags 0x{flags:02x} have no meaning in a frame of type `{frame}`")]
    Flags {
        /// Which frame.
        frame: FrameType,
        /// The flags.
        flags: u8,
    },
    /// A header longer than allowed.
    #[error("a header of {found} bytes, at most {HEADER_BYTES_MAX} are allowed")]
    HeaderTooLong {
        /// What was announced.
        found: usize,
    },
    /// A payload longer than allowed.
    #[error("a payload of {found} bytes in `{frame}`, at most {max} are allowed")]
    PayloadTooLong {
        /// Which frame.
        frame: FrameType,
        /// What was announced.
        found: usize,
        /// What is allowed.
        max: usize,
    },
    /// A frame that carries bytes came without any.
    #[error("a frame of type `{0}` without payload")]
    PayloadMissing(FrameType),
    /// The header is not what the type says.
    #[error("the header of a frame of type `{0}` cannot be read")]
    Header(FrameType),
    /// A field that must be understood, and is not.
    #[error("field {id} of `{frame}` must be understood, and is not")]
    Extension {
        /// Which frame.
        frame: FrameType,
        /// The field.
        id: u16,
    },
}

impl FrameError {
    /// The code with which its stream is reset.
    #[must_use]
    pub fn stream_code(&self) -> u32 {
        match self {
            FrameError::HeaderTooLong { .. } | FrameError::PayloadTooLong { .. } => {
                stream_code::TOO_LARGE
            }
            FrameError::Extension { .. } => stream_code::UNSUPPORTED,
            _ => stream_code::MALFORMED,
        }
    }
}

macro_rules! frame_types {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// What a frame is, by its first byte.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum FrameType { $($(#[$doc])* $name = $code,)* }

        impl FrameType {
            /// Every type.
            pub const ALL: &[FrameType] = &[$(FrameType::$name,)*];

            /// The type behind a byte.
            #[must_use]
            pub fn parse(code: u8) -> Option<Self> {
                match code { $($code => Some(FrameType::$name),)* _ => None }
            }

            /// Its name.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(FrameType::$name => stringify!($name),)* }
            }
        }
    };
}

frame_types! {
    /// Who speaks, and what it accepts.
    Hello = 0x01,
    /// Calls an operation.
    Invoke = 0x10,
    /// Bytes of a channel.
    Chunk = 0x11,
    /// No more bytes in this direction.
    End = 0x12,
    /// A message beside the bytes of a channel.
    Control = 0x13,
    /// Answers a question.
    Answer = 0x14,
    /// What was sent has been taken.
    Credit = 0x15,
    /// A subscription has begun, or a channel is open.
    Accepted = 0x20,
    /// An item of a subscription.
    Item = 0x21,
    /// How far the call is.
    Progress = 0x22,
    /// A question to the caller.
    Ask = 0x23,
    /// It was done.
    Done = 0x2e,
    /// It failed.
    Error = 0x2f,
}

impl fmt::Display for FrameType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FrameType {
    /// Most bytes of its payload, where the side that receives takes `frame_max`
    /// bytes in a frame and `chunk_max` in a chunk.
    pub(crate) fn payload_max(self, frame_max: usize, chunk_max: usize) -> usize {
        match self {
            FrameType::Hello | FrameType::End | FrameType::Credit => 0,
            FrameType::Chunk => chunk_max,
            FrameType::Control
            | FrameType::Answer
            | FrameType::Progress
            | FrameType::Ask
            | FrameType::Error => SIDE_BYTES_MAX.min(frame_max),
            FrameType::Invoke | FrameType::Accepted | FrameType::Item | FrameType::Done => {
                frame_max
            }
        }
    }

    pub(crate) fn check_flags(self, flags: u8) -> Result<(), FrameError> {
        let allowed = if self == FrameType::Chunk {
            FLAG_AUX
        } else {
            0
        };
        if flags & !allowed == 0 {
            Ok(())
        } else {
            Err(FrameError::Flags { frame: self, flags })
        }
    }
}

/// The text that proves who opens a connection, as it is sent: a secret, which
/// never prints and is wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Bearer(Arc<Zeroizing<String>>);

impl Bearer {
    /// A text that is sent; at most 512 bytes are.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(Arc::new(Zeroizing::new(text.into())))
    }

    pub(crate) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer(…)")
    }
}

/// How much a side accepts, as it says in its [`Hello`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerLimits {
    /// Bytes of a frame's payload.
    pub frame_bytes_max: u32,
    /// Bytes of a chunk.
    pub chunk_bytes_max: u32,
    /// Bytes of items under way.
    pub item_window_bytes: u32,
    /// Bytes of a channel under way.
    pub channel_window_bytes: u32,
}

/// Who speaks, and what it accepts. The credential that came with it is not
/// kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Versions of the protocol that it speaks.
    pub versions: Vec<u16>,
    /// Its program and version, for people.
    pub software: String,
    /// How it calls itself, for people.
    pub node_name: String,
    /// What it accepts.
    pub limits: PeerLimits,
    /// What it can beside the protocol's version.
    pub features: Vec<String>,
}

/// How the caller asks: it need not know a query from a mutation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallKind {
    /// For one reply.
    Unary,
    /// For items.
    Subscription,
    /// For a channel.
    Channel,
}

/// The header of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invoke {
    /// The caller's id of the call, under which the callee logs it too.
    pub call_id: [u8; 16],
    /// What is called; judged by the callee.
    pub operation: String,
    /// How.
    pub kind: CallKind,
    /// What is left of the budget.
    pub budget_ms: Option<u64>,
    /// Peers it has yet to pass; `any` stands for whoever offers it.
    pub route: Vec<String>,
    /// Nodes it has passed.
    pub via: Vec<NodeId>,
    /// Who is said to have started it: node and label.
    pub originator: Option<(String, String)>,
    /// Lets it happen at most once.
    pub idempotency_key: Option<String>,
    /// Whether questions will be answered.
    pub can_answer: bool,
    /// Whether progress is of interest.
    pub wants_progress: bool,
    /// Tracing context.
    pub trace: Option<String>,
}

/// What was taken of what the other side sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credit {
    /// Bytes of a channel.
    pub bytes: u32,
    /// Cost of items, progress reports and questions.
    pub items: u32,
    /// Control messages.
    pub controls: u16,
    /// Whoever read the channel's bytes has left: more is discarded.
    pub stop: bool,
}

/// A frame.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// Opens a connection.
    Hello(Hello, Option<Bearer>),
    /// Calls an operation with an input.
    Invoke(Box<Invoke>, Bytes),
    /// Bytes of a channel.
    Chunk {
        /// Of the auxiliary stream.
        aux: bool,
        /// The bytes; never empty.
        bytes: Bytes,
    },
    /// No more bytes in this direction.
    End {
        /// The stream broke off: what came is not all.
        cut: bool,
    },
    /// A message beside the bytes (JSON).
    Control(Bytes),
    /// Answers a question.
    Answer {
        /// Which question.
        ask: u32,
        /// The answer (JSON); `None` if the caller would not say.
        answer: Option<Bytes>,
    },
    /// What was taken.
    Credit(Credit),
    /// A subscription has begun (empty), or a channel is open (its reply).
    Accepted(Bytes),
    /// An item (JSON).
    Item(Bytes),
    /// How far it is (JSON).
    Progress(Bytes),
    /// A question (JSON).
    Ask {
        /// Told apart by this.
        ask: u32,
        /// The question.
        question: Bytes,
    },
    /// The reply (JSON); empty for a subscription.
    Done(Bytes),
    /// How it failed.
    Error(CallError),
}

impl Frame {
    /// Its type.
    #[must_use]
    pub fn frame_type(&self) -> FrameType {
        match self {
            Frame::Hello(..) => FrameType::Hello,
            Frame::Invoke(..) => FrameType::Invoke,
            Frame::Chunk { .. } => FrameType::Chunk,
            Frame::End { .. } => FrameType::End,
            Frame::Control(_) => FrameType::Control,
            Frame::Answer { .. } => FrameType::Answer,
            Frame::Credit(_) => FrameType::Credit,
            Frame::Accepted(_) => FrameType::Accepted,
            Frame::Item(_) => FrameType::Item,
            Frame::Progress(_) => FrameType::Progress,
            Frame::Ask { .. } => FrameType::Ask,
            Frame::Done(_) => FrameType::Done,
            Frame::Error(_) => FrameType::Error,
        }
    }

    /// The whole frame.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        let payload = self.put_head(&mut out);
        out.put_slice(&payload);
        out.freeze()
    }

    /// Writes everything before the payload, and hands the payload back.
    /// Texts longer than the wire allows are cut.
    pub(crate) fn put_head(&self, out: &mut BytesMut) -> Bytes {
        let none = Bytes::new;
        let (flags, payload) = match self {
            Frame::Chunk { aux, bytes } => (if *aux { FLAG_AUX } else { 0 }, bytes.clone()),
            Frame::Invoke(_, payload)
            | Frame::Control(payload)
            | Frame::Accepted(payload)
            | Frame::Item(payload)
            | Frame::Progress(payload)
            | Frame::Done(payload)
            | Frame::Ask {
                question: payload, ..
            } => (0, payload.clone()),
            Frame::Answer { answer, .. } => (0, answer.clone().unwrap_or_default()),
            Frame::Error(error) => (0, error_details(error)),
            Frame::Hello(..) | Frame::End { .. } | Frame::Credit(_) => (0, none()),
        };
        let start = out.len();
        out.put_slice(&[0; PREAMBLE_BYTES]);
        self.put_header(out);
        let header_len = u16::try_from(out.len() - start - PREAMBLE_BYTES).unwrap_or(u16::MAX);
        let payload_len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let preamble = &mut out[start..start + PREAMBLE_BYTES];
        preamble[0] = self.frame_type() as u8;
        preamble[1] = flags;
        preamble[2..4].copy_from_slice(&header_len.to_be_bytes());
        preamble[4..8].copy_from_slice(&payload_len.to_be_bytes());
        payload
    }

    fn put_header(&self, out: &mut BytesMut) {
        match self {
            Frame::Hello(hello, credential) => put(out, &HelloHeader::of(hello, credential)),
            Frame::Invoke(invoke, _) => put(out, &InvokeHeader::of(invoke)),
            Frame::End { cut } => put(out, &(*cut, Extensions::NONE)),
            Frame::Answer { ask, answer } => put(out, &(*ask, answer.is_some(), Extensions::NONE)),
            Frame::Credit(c) => put(
                out,
                &(c.bytes, c.items, c.controls, c.stop, Extensions::NONE),
            ),
            Frame::Ask { ask, .. } => put(out, &(*ask, Extensions::NONE)),
            Frame::Error(error) => put(out, &ErrorHeader::of(error)),
            Frame::Chunk { .. }
            | Frame::Control(_)
            | Frame::Accepted(_)
            | Frame::Item(_)
            | Frame::Progress(_)
            | Frame::Done(_) => put(out, &(Extensions::NONE,)),
        }
    }

    /// Reads a frame whose lengths and flags were checked.
    pub(crate) fn read(
        frame: FrameType,
        flags: u8,
        header: &[u8],
        payload: Bytes,
    ) -> Result<Self, FrameError> {
        Ok(match frame {
            FrameType::Hello => {
                let header: HelloHeader = take(frame, header)?;
                header.ext.check(frame)?;
                header.into_frame()
            }
            FrameType::Invoke => {
                let header: InvokeHeader = take(frame, header)?;
                header.ext.check(frame)?;
                Frame::Invoke(Box::new(header.into_invoke()), payload)
            }
            FrameType::Chunk => {
                take_ext(frame, header)?;
                if payload.is_empty() {
                    return Err(FrameError::PayloadMissing(frame));
                }
                Frame::Chunk {
                    aux: flags & FLAG_AUX != 0,
                    bytes: payload,
                }
            }
            FrameType::End => {
                let (cut, ext): (bool, Extensions) = take(frame, header)?;
                ext.check(frame)?;
                Frame::End { cut }
            }
            FrameType::Answer => {
                let (ask, answered, ext): (u32, bool, Extensions) = take(frame, header)?;
                ext.check(frame)?;
                Frame::Answer {
                    ask,
                    answer: answered.then_some(payload),
                }
            }
            FrameType::Credit => {
                let (bytes, items, controls, stop, ext): (u32, u32, u16, bool, Extensions) =
                    take(frame, header)?;
                ext.check(frame)?;
                Frame::Credit(Credit {
                    bytes,
                    items,
                    controls,
                    stop,
                })
            }
            FrameType::Ask => {
                let (ask, ext): (u32, Extensions) = take(frame, header)?;
                ext.check(frame)?;
                Frame::Ask {
                    ask,
                    question: payload,
                }
            }
            FrameType::Error => {
                let header: ErrorHeader = take(frame, header)?;
                header.ext.check(frame)?;
                Frame::Error(header.into_error(payload)?)
            }
            FrameType::Control
            | FrameType::Accepted
            | FrameType::Item
            | FrameType::Progress
            | FrameType::Done => {
                take_ext(frame, header)?;
                match frame {
                    FrameType::Control => Frame::Control(payload),
                    FrameType::Accepted => Frame::Accepted(payload),
                    FrameType::Item => Frame::Item(payload),
                    FrameType::Progress => Frame::Progress(payload),
                    _ => Frame::Done(payload),
                }
            }
        })
    }
}
