//! Bytes in, frames out; no I/O.

use crate::{
    frame::{Frame, FrameError, FrameType, PREAMBLE_BYTES},
    limits::{HEADER_BYTES_MAX, LARGE_PAYLOAD_BYTES},
};
use bytes::{Buf, BytesMut};

/// Room for a read when nothing is known of what comes.
const READ_BYTES: usize = 2 * 1024;

#[derive(Clone, Copy, Debug)]
struct Preamble {
    frame: FrameType,
    flags: u8,
    header_len: usize,
    payload_len: usize,
}

impl Preamble {
    fn frame_len(self) -> usize {
        self.header_len + self.payload_len
    }
}

/// Turns bytes into frames. What is announced is checked before anything is
/// allocated for it, and room grows with what has arrived: a length alone
/// costs nothing.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    preamble: Option<Preamble>,
    frame_bytes_max: usize,
    chunk_bytes_max: usize,
}

impl Decoder {
    /// A decoder that takes payloads of `frame_bytes_max`, and chunks of
    /// `chunk_bytes_max` bytes.
    #[must_use]
    pub fn new(frame_bytes_max: usize, chunk_bytes_max: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            preamble: None,
            frame_bytes_max,
            chunk_bytes_max,
        }
    }

    /// Takes what has arrived.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, if it has arrived.
    ///
    /// # Errors
    ///
    /// [`FrameError`]; there is no way to go on after it.
    pub fn frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let preamble = match self.preamble {
            Some(preamble) => preamble,
            None => match self.read_preamble()? {
                Some(preamble) => *self.preamble.insert(preamble),
                None => return Ok(None),
            },
        };
        if self.buffer.len() < preamble.frame_len() {
            return Ok(None);
        }
        self.preamble = None;
        // Bytes are handed on without copying; the header is read in place.
        let frame = self.buffer.split_to(preamble.frame_len()).freeze();
        let payload = frame.slice(preamble.header_len..);
        let header = &frame[..preamble.header_len];
        Frame::read(preamble.frame, preamble.flags, header, payload).map(Some)
    }

    fn read_preamble(&mut self) -> Result<Option<Preamble>, FrameError> {
        // The type is judged by its first byte: whoever speaks another
        // protocol is told at once.
        let Some(&code) = self.buffer.first() else {
            return Ok(None);
        };
        let frame = FrameType::parse(code).ok_or(FrameError::UnknownType(code))?;
        if self.buffer.len() < PREAMBLE_BYTES {
            return Ok(None);
        }
        let mut bytes = self.buffer.split_to(PREAMBLE_BYTES);
        bytes.advance(1);
        let flags = bytes.get_u8();
        let header_len = usize::from(bytes.get_u16());
        let payload_len = usize::try_from(bytes.get_u32()).unwrap_or(usize::MAX);
        frame.check_flags(flags)?;
        if header_len > HEADER_BYTES_MAX {
            return Err(FrameError::HeaderTooLong { found: header_len });
        }
        let max = frame.payload_max(self.frame_bytes_max, self.chunk_bytes_max);
        if payload_len > max {
            return Err(FrameError::PayloadTooLong {
                frame,
                found: payload_len,
                max,
            });
        }
        Ok(Some(Preamble {
            frame,
            flags,
            header_len,
            payload_len,
        }))
    }

    /// Whether nothing of another frame has arrived.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.preamble.is_none() && self.buffer.is_empty()
    }

    /// Bytes of the payload that has begun to arrive.
    #[must_use]
    pub fn payload_expected(&self) -> usize {
        self.preamble.map_or(0, |preamble| preamble.payload_len)
    }

    /// Bytes held for what has not yet become a frame.
    #[must_use]
    pub fn bytes_held(&self) -> usize {
        self.buffer.capacity()
    }

    /// Room to read into: for all of a frame of common size, for a large one
    /// as much as has arrived of it already.
    pub(crate) fn room(&mut self) -> &mut BytesMut {
        let missing = match self.preamble {
            // The preamble of the next frame mostly arrives with this one.
            Some(preamble) => preamble.frame_len() + PREAMBLE_BYTES - self.buffer.len(),
            None => 0,
        };
        let first = match self.preamble {
            // A channel is open, and chunks come one after the other.
            Some(preamble) if preamble.frame == FrameType::Chunk => self.chunk_bytes_max,
            _ => LARGE_PAYLOAD_BYTES,
        };
        // Before a `Hello` chunks have no size at all, and one may come still.
        let least = READ_BYTES / 8;
        let most = self.buffer.len().max(first + PREAMBLE_BYTES).max(least);
        let wanted = missing.clamp(least, most);
        if self.buffer.capacity() - self.buffer.len() < wanted {
            self.buffer.reserve(wanted.max(READ_BYTES));
        }
        &mut self.buffer
    }
}

/// What the fuzzer calls: whatever the bytes are, decoding neither panics nor
/// holds more memory than they have, and what was read can be written and read
/// again.
pub fn fuzz_frames(data: &[u8]) {
    let mut decoder = Decoder::new(16 * 1024 * 1024, 256 * 1024);
    // The first byte says in which pieces the others arrive.
    let Some((&pieces, data)) = data.split_first() else {
        return;
    };
    for piece in data.chunks(usize::from(pieces).max(1)) {
        decoder.room();
        decoder.feed(piece);
        assert!(
            decoder.bytes_held() <= 2 * data.len() + 8 * LARGE_PAYLOAD_BYTES,
            "holds more than has arrived"
        );
        loop {
            match decoder.frame() {
                Ok(Some(frame)) => {
                    let mut again = Decoder::new(16 * 1024 * 1024, 256 * 1024);
                    again.feed(&frame.to_bytes());
                    let back = again.frame();
                    match frame {
                        // Its details are parsed, and numbers may be rounded.
                        Frame::Error(_) => assert!(matches!(back, Ok(Some(Frame::Error(_))))),
                        frame => assert_eq!(back, Ok(Some(frame)), "reads back"),
                    }
                    assert!(again.is_between_frames());
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}
