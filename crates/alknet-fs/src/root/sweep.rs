//! Partial files that nobody went on with.

use super::{Directory, RootError, list::Detail, partial::is_partial};
use alknet_core::files::Collected;
use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    time::{Duration, SystemTime},
};

/// How long a partial file is kept for whoever goes on with it.
pub const STALE_AFTER: Duration = Duration::from_secs(7 * 24 * 60 * 60);

impl Directory {
    /// Removes the partial files of this directory that were last written before
    /// `before` and that nobody has open. Those that this account may not read stay.
    ///
    /// # Errors
    ///
    /// What the host answers when the directory is listed.
    pub fn sweep(&self, before: SystemTime) -> Result<Collected, RootError> {
        let mut swept = Collected::default();
        let mut listing = self.list_all()?;
        while let Some(entry) = listing.next(Detail::Kinds)? {
            let name = entry.name.as_bytes();
            if !is_partial(name) || !self.is_stale(OsStr::from_bytes(name), before) {
                continue;
            }
            if let Ok(Some(bytes)) = self.remove_idle_partial(OsStr::from_bytes(name)) {
                swept.partials += 1;
                swept.bytes += bytes;
            }
        }
        Ok(swept)
    }

    fn is_stale(&self, name: &OsStr, before: SystemTime) -> bool {
        let Ok(meta) = self.meta_at(name) else {
            return false;
        };
        let before = match before.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => (
                i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
                since.subsec_nanos(),
            ),
            Err(_) => return false,
        };
        (meta.modified.seconds, meta.modified.nanoseconds) < before
    }
}
