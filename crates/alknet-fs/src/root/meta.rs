//! What is known about an entry.

use super::directory::FileId;
use alknet_core::files::{FileKind, FileStat, FileTime};
use rustix::fs::{FileType, Stat};

/// `None` where the host does not tell.
pub(super) fn kind_of(kind: FileType) -> Option<FileKind> {
    match kind {
        FileType::RegularFile => Some(FileKind::File),
        FileType::Directory => Some(FileKind::Directory),
        FileType::Symlink => Some(FileKind::Symlink),
        FileType::Unknown => None,
        _ => Some(FileKind::Other),
    }
}

/// An entry's metadata; of a symlink, its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// What it is.
    pub kind: FileKind,
    /// Bytes of a file, of a symlink's target; of a directory, as the host counts.
    pub bytes: u64,
    /// Bytes that it occupies on the disk.
    pub bytes_on_disk: u64,
    /// The lower 12 bits of its mode.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names that it has.
    pub links: u64,
    /// When its content was last changed.
    pub modified: FileTime,
    /// When it was last read, as far as the host keeps that.
    pub accessed: FileTime,
    /// When its content or metadata was last changed.
    pub changed: FileTime,
    /// Which entry of the host it is.
    pub id: FileId,
}

impl Meta {
    // Widths of these fields differ from one system to the next.
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
    pub(super) fn of(stat: &Stat) -> Self {
        let moment = |seconds, nanos: i64| FileTime {
            seconds,
            nanoseconds: u32::try_from(nanos).unwrap_or(0),
        };
        Self {
            kind: kind_of(FileType::from_raw_mode(stat.st_mode)).unwrap_or(FileKind::Other),
            bytes: u64::try_from(stat.st_size).unwrap_or(0),
            bytes_on_disk: u64::try_from(stat.st_blocks)
                .unwrap_or(0)
                .saturating_mul(512),
            mode: u32::from(stat.st_mode) & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            links: stat.st_nlink as u64,
            modified: moment(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            accessed: moment(stat.st_atime as i64, stat.st_atime_nsec as i64),
            changed: moment(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
            id: FileId::of(stat),
        }
    }

    /// An opaque text that differs whenever device, inode, length, or the times of
    /// the last change of content and metadata differ.
    ///
    /// Two writes within one tick of the host's clock (4 ms is usual) that leave the
    /// length as it was have one version: it tells changes, it proves no content.
    #[must_use]
    pub fn version(&self) -> String {
        let FileId { device, inode } = self.id;
        let time = |time: &FileTime| format!("{:x}.{:x}", time.seconds, time.nanoseconds);
        let (modified, changed) = (time(&self.modified), time(&self.changed));
        format!("{device:x}-{inode:x}-{:x}-{modified}-{changed}", self.bytes)
    }

    /// As callers see it.
    #[must_use]
    pub fn stat(&self) -> FileStat {
        FileStat {
            kind: self.kind,
            bytes: self.bytes,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            links: self.links,
            mtime: self.modified,
            atime: Some(self.accessed),
            version: self.version(),
        }
    }
}
