//! Ranges copied from one file to another by the host.

use super::{File, RootError};
use rustix::{fs::copy_file_range, io::Errno};

/// Bytes of one piece where the host does not copy by itself.
const PIECE_BYTES: usize = 128 * 1024;

impl File {
    /// Copies up to `bytes` from `from` at `from_offset` to `offset` here, shared on
    /// the disk where the file system can, and returns how many; fewer only if the
    /// other ends before. Holes become zeros, or stay holes, as the host likes:
    /// who must keep them copies what [`File::next_data`] tells.
    ///
    /// # Errors
    ///
    /// What the host answers; some of the bytes may have been written.
    pub fn copy_from(
        &self,
        from: &Self,
        from_offset: u64,
        offset: u64,
        bytes: u64,
    ) -> Result<u64, RootError> {
        let mut copied = 0;
        while copied < bytes {
            // The host stops at about 2 GiB anyway.
            let piece = usize::try_from((bytes - copied).min(1 << 30)).unwrap_or(1 << 30);
            let (mut source, mut target) = (from_offset + copied, offset + copied);
            match copy_file_range(
                &from.inner,
                Some(&mut source),
                &self.inner,
                Some(&mut target),
                piece,
            ) {
                Ok(0) => break,
                Ok(done) => copied += done as u64,
                Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                    return Ok(copied
                        + self.copy_by_hand(
                            from,
                            from_offset + copied,
                            offset + copied,
                            bytes - copied,
                        )?);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(copied)
    }

    fn copy_by_hand(
        &self,
        from: &Self,
        from_offset: u64,
        offset: u64,
        bytes: u64,
    ) -> Result<u64, RootError> {
        let mut buffer = vec![0; PIECE_BYTES];
        let mut copied = 0;
        while copied < bytes {
            let piece = (bytes - copied).min(PIECE_BYTES as u64);
            let piece = usize::try_from(piece).unwrap_or(PIECE_BYTES);
            let read = from.read_at(&mut buffer[..piece], from_offset + copied)?;
            if read == 0 {
                break;
            }
            self.write_at(&buffer[..read], offset + copied)?;
            copied += read as u64;
        }
        Ok(copied)
    }
}
