//! Ranges copied from one file to another by the host.

use super::{File, RootError};

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
        self.make_plain()?;
        let copied = self.copy_by_host(from, from_offset, offset, bytes)?;
        // What the host does not copy, for what reason ever, is read and written; at
        // the other's end that is one read.
        let rest = bytes - copied;
        let (from_offset, offset) = (from_offset + copied, offset + copied);
        Ok(copied + self.copy_by_hand(from, from_offset, offset, rest)?)
    }

    /// As much as the host copies between these two.
    #[cfg(target_os = "linux")]
    fn copy_by_host(
        &self,
        from: &Self,
        from_offset: u64,
        offset: u64,
        bytes: u64,
    ) -> Result<u64, RootError> {
        use rustix::{fs::copy_file_range, io::Errno};
        let mut copied = 0;
        while copied < bytes {
            // The host stops at about 2 GiB anyway.
            let piece = usize::try_from((bytes - copied).min(1 << 30)).unwrap_or(1 << 30);
            let (mut source, mut target) = (from_offset + copied, offset + copied);
            let (from, to) = (&from.inner, &self.inner);
            match copy_file_range(from, Some(&mut source), to, Some(&mut target), piece) {
                Ok(0) => break,
                Ok(done) => copied += done as u64,
                Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(copied)
    }

    #[cfg(not(target_os = "linux"))]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps)]
    fn copy_by_host(&self, _: &Self, _: u64, _: u64, _: u64) -> Result<u64, RootError> {
        Ok(0)
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
