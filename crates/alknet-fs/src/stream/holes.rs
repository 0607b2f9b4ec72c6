//! Holes among the bytes of one file.

use super::StreamError;
use alknet_core::Chunk;
use bytes::Bytes;

/// Bytes of a length.
const LENGTH_BYTES: usize = 8;

/// A part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// These bytes; never none.
    Bytes(Bytes),
    /// So many zeros, which take no room; never none.
    Hole(u64),
}

/// A hole as it is sent.
#[must_use]
pub fn hole_chunk(bytes: u64) -> Chunk {
    Chunk::aux(Bytes::copy_from_slice(&bytes.to_be_bytes()))
}

/// Reads a file with holes out of chunks.
#[derive(Debug, Default)]
pub struct HoleDecoder {
    length: [u8; LENGTH_BYTES],
    have: usize,
    chunk: Bytes,
}

impl HoleDecoder {
    /// At the beginning of a file.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a chunk, after [`HoleDecoder::next_hole`] has told all holes of
    /// the one before; answers with its bytes, if it holds any.
    ///
    /// # Errors
    ///
    /// [`StreamError`] if bytes come within a length.
    pub fn push(&mut self, chunk: Chunk) -> Result<Option<Bytes>, StreamError> {
        if chunk.aux {
            self.chunk = chunk.bytes;
            return Ok(None);
        }
        match self.have {
            0 => Ok(Some(chunk.bytes)),
            _ => Err(StreamError::EndsWithin),
        }
    }

    /// The next hole of the chunk that was pushed last.
    ///
    /// # Errors
    ///
    /// [`StreamError::BadHole`] if it is empty.
    pub fn next_hole(&mut self) -> Result<Option<u64>, StreamError> {
        let take = self.chunk.len().min(LENGTH_BYTES - self.have);
        let part = self.chunk.split_to(take);
        self.length[self.have..self.have + take].copy_from_slice(&part);
        self.have += take;
        if self.have < LENGTH_BYTES {
            return Ok(None);
        }
        self.have = 0;
        match u64::from_be_bytes(self.length) {
            0 => Err(StreamError::BadHole { bytes: 0 }),
            bytes => Ok(Some(bytes)),
        }
    }

    /// All that a chunk holds.
    ///
    /// # Errors
    ///
    /// [`StreamError`].
    pub fn pieces(&mut self, chunk: Chunk) -> Result<Vec<Piece>, StreamError> {
        let mut pieces: Vec<Piece> = self.push(chunk)?.map(Piece::Bytes).into_iter().collect();
        while let Some(bytes) = self.next_hole()? {
            pieces.push(Piece::Hole(bytes));
        }
        Ok(pieces)
    }

    /// At the end of the stream.
    ///
    /// # Errors
    ///
    /// [`StreamError::EndsWithin`] if a length is incomplete.
    pub fn finish(&self) -> Result<(), StreamError> {
        match self.have {
            0 => Ok(()),
            _ => Err(StreamError::EndsWithin),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lengths_are_read_however_they_are_cut() {
        let mut text = hole_chunk(4096).bytes.to_vec();
        text.extend(hole_chunk(u64::MAX).bytes);
        for cut in 1..text.len() {
            let mut decoder = HoleDecoder::new();
            let mut seen = Vec::new();
            for part in text.chunks(cut) {
                let chunk = Chunk::aux(Bytes::copy_from_slice(part));
                seen.extend(decoder.pieces(chunk).unwrap());
            }
            assert_eq!(seen, [Piece::Hole(4096), Piece::Hole(u64::MAX)]);
            decoder.finish().unwrap();
        }
    }

    #[test]
    fn bytes_do_not_come_within_a_length() {
        let mut decoder = HoleDecoder::new();
        assert!(
            decoder
                .pieces(Chunk::aux(Bytes::from_static(&[0; 7])))
                .unwrap()
                .is_empty()
        );
        assert_eq!(decoder.finish(), Err(StreamError::EndsWithin));
        let bytes = Chunk::main(Bytes::from_static(b"x"));
        assert_eq!(decoder.pieces(bytes), Err(StreamError::EndsWithin));
        let mut decoder = HoleDecoder::new();
        let none = Chunk::aux(Bytes::from_static(&[0; 8]));
        assert_eq!(decoder.pieces(none), Err(StreamError::BadHole { bytes: 0 }));
    }
}
