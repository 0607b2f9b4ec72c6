//! Digests of what flows by.

use super::{File, RootError};
use alknet_core::files::{Algorithm, ByteRange, Digests};
use data_encoding::HEXLOWER;
use md5::Md5;
use sha2::{Digest, Sha256};
use std::ops::ControlFlow;

/// Bytes read at once.
const PIECE_BYTES: usize = 256 * 1024;

/// Computes several digests in one pass.
///
/// BLAKE3; SHA-256 (FIPS 180-4); MD5 (RFC 1321), against accidents only.
#[derive(Clone, Debug, Default)]
pub struct Digester {
    blake3: Option<Box<blake3::Hasher>>,
    sha256: Option<Sha256>,
    md5: Option<Md5>,
}

impl Digester {
    /// Of nothing yet, by these algorithms.
    #[must_use]
    pub fn new(algorithms: &[Algorithm]) -> Self {
        let mut new = Self::default();
        for algorithm in algorithms {
            match algorithm {
                Algorithm::Blake3 => new.blake3 = Some(Box::default()),
                Algorithm::Sha256 => new.sha256 = Some(Sha256::new()),
                Algorithm::Md5 => new.md5 = Some(Md5::new()),
            }
        }
        new
    }

    /// Takes bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        if let Some(hasher) = &mut self.blake3 {
            hasher.update(bytes);
        }
        if let Some(hasher) = &mut self.sha256 {
            hasher.update(bytes);
        }
        if let Some(hasher) = &mut self.md5 {
            hasher.update(bytes);
        }
    }

    /// Takes so many zeros in, as a hole has them.
    pub fn update_zeros(&mut self, bytes: u64) {
        const ZEROS: [u8; 16 * 1024] = [0; 16 * 1024];
        let mut left = bytes;
        while left > 0 {
            let piece = left.min(ZEROS.len() as u64);
            self.update(&ZEROS[..usize::try_from(piece).unwrap_or(0)]);
            left -= piece;
        }
    }

    /// The digests of all that was taken in.
    #[must_use]
    pub fn finish(self) -> Digests {
        let hex = |digest: &[u8]| HEXLOWER.encode(digest);
        Digests {
            blake3: self.blake3.map(|hasher| hasher.finalize().to_string()),
            sha256: self.sha256.map(|hasher| hex(&hasher.finalize())),
            md5: self.md5.map(|hasher| hex(&hasher.finalize())),
        }
    }
}

impl File {
    /// Feeds a range of the file, as far as it has it, to `digester`, and returns how
    /// many bytes that were. `step` hears of every piece (256 KiB) how many bytes there
    /// were so far, and may end it.
    ///
    /// # Errors
    ///
    /// What the host answers, and [`RootError::Stopped`].
    pub fn digest(
        &self,
        range: ByteRange,
        digester: &mut Digester,
        mut step: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<u64, RootError> {
        let mut buffer = vec![0; PIECE_BYTES];
        let bytes = range.bytes.unwrap_or(u64::MAX);
        let mut done = 0;
        while done < bytes {
            let piece =
                usize::try_from((bytes - done).min(PIECE_BYTES as u64)).unwrap_or(PIECE_BYTES);
            let Some(offset) = range.offset.checked_add(done) else {
                break;
            };
            let read = self.read_at(&mut buffer[..piece], offset)?;
            digester.update(&buffer[..read]);
            done += read as u64;
            if step(done).is_break() {
                return Err(RootError::Stopped);
            }
            if read < piece {
                break;
            }
        }
        Ok(done)
    }
}
