//! Lines of JSON out of chunks.

use super::{RECORD_BYTES_MAX, StreamError};
use bytes::{Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};

/// A value as one line; nothing if it is not to be written as JSON, which
/// values of this crate always are.
#[must_use]
pub fn line(value: &impl Serialize) -> Bytes {
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    text.into()
}

/// Reads lines out of bytes that come in any pieces. Holds one piece, and the
/// beginning of a line of at most [`RECORD_BYTES_MAX`].
#[derive(Debug, Default)]
pub struct Lines {
    begun: BytesMut,
    piece: Bytes,
}

impl Lines {
    /// At the beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes, after [`Lines::next_line`] has told all lines of those
    /// before.
    pub fn push(&mut self, bytes: Bytes) {
        if self.piece.is_empty() {
            self.piece = bytes;
        } else {
            self.piece = [&self.piece[..], &bytes[..]].concat().into();
        }
    }

    /// The next line that is complete, without its `\n`.
    ///
    /// # Errors
    ///
    /// [`StreamError::RecordTooLong`].
    pub fn next_line(&mut self) -> Result<Option<Bytes>, StreamError> {
        let room = RECORD_BYTES_MAX - self.begun.len();
        let Some(end) = self.piece.iter().take(room).position(|byte| *byte == b'\n') else {
            if self.piece.len() >= room {
                return Err(StreamError::RecordTooLong);
            }
            self.begun.extend_from_slice(&self.piece);
            self.piece.clear();
            return Ok(None);
        };
        let rest = self.piece.split_to(end + 1);
        if self.begun.is_empty() {
            return Ok(Some(rest.slice(..end)));
        }
        let mut whole = std::mem::take(&mut self.begun);
        whole.extend_from_slice(&rest[..end]);
        Ok(Some(whole.freeze()))
    }

    /// The next line that is complete, read as a value.
    ///
    /// # Errors
    ///
    /// [`StreamError::RecordTooLong`] and [`StreamError::BadRecord`].
    pub fn next_value<T: DeserializeOwned>(&mut self) -> Result<Option<T>, StreamError> {
        self.next_line()?.map(|line| parsed(&line)).transpose()
    }

    /// Whether a line has begun and is not complete.
    #[must_use]
    pub fn is_within(&self) -> bool {
        !self.begun.is_empty() || !self.piece.is_empty()
    }

    /// At the end of the stream.
    ///
    /// # Errors
    ///
    /// [`StreamError::EndsWithin`] if a line is incomplete.
    pub fn finish(&self) -> Result<(), StreamError> {
        match self.is_within() {
            false => Ok(()),
            true => Err(StreamError::EndsWithin),
        }
    }
}

/// One line as a value.
pub(super) fn parsed<T: DeserializeOwned>(line: &[u8]) -> Result<T, StreamError> {
    serde_json::from_slice(line).map_err(|error| StreamError::BadRecord {
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_are_read_however_they_are_cut() {
        let text = b"{\"a\":1}\n\n[2]\n";
        for cut in 1..=text.len() {
            let mut lines = Lines::new();
            let mut seen = Vec::new();
            for part in text.chunks(cut) {
                lines.push(Bytes::copy_from_slice(part));
                while let Some(line) = lines.next_line().unwrap() {
                    seen.push(line);
                }
            }
            assert_eq!(seen, [&b"{\"a\":1}"[..], b"", b"[2]"]);
            lines.finish().unwrap();
        }
    }

    #[test]
    fn a_line_has_an_end() {
        let check = |len: usize, cut: usize| {
            let mut text = vec![b'1'; len - 1];
            text.push(b'\n');
            let mut lines = Lines::new();
            for part in text.chunks(cut) {
                lines.push(Bytes::copy_from_slice(part));
                if let Some(line) = lines.next_line()? {
                    return Ok(line.len());
                }
            }
            lines.finish().map(|()| 0)
        };
        for cut in [1000, RECORD_BYTES_MAX, RECORD_BYTES_MAX + 1] {
            assert_eq!(check(RECORD_BYTES_MAX, cut), Ok(RECORD_BYTES_MAX - 1));
            let one_more = check(RECORD_BYTES_MAX + 1, cut);
            assert_eq!(one_more, Err(StreamError::RecordTooLong));
        }
        let mut lines = Lines::new();
        lines.push(Bytes::from_static(b"{"));
        assert_eq!(lines.next_line(), Ok(None));
        assert_eq!(lines.finish(), Err(StreamError::EndsWithin));
    }
}
