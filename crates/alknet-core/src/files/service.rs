//! The interface of files: what SFTP, HTTP, MCP and the operations call.

use super::{
    error::FileError,
    meta::{
        Algorithm, Attributes, BucketInfo, Digests, FileChange, FileStat, FileTime, ListEntry,
        Space,
    },
    path::FilePath,
};
use crate::permit::Permit;
use async_trait::async_trait;
use bytes::Bytes;
use std::{fmt::Debug, sync::Arc};

/// Most entries of one page of a listing.
pub const LISTING_ENTRIES_MAX: usize = 1024;
/// Most bytes of one reading.
pub const READ_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most bytes of a file that is put or taken as a whole.
pub const SMALL_FILE_BYTES_MAX: usize = 1024 * 1024;

/// Files in buckets.
///
/// Every method takes a [`Permit`] and checks at each step what it does: to
/// read `read`, to list `list`, to change `write`, to collect `admin`. The
/// permit is one of an operation whose rule names that action.
///
/// * Links are followed inside the bucket only. What a path leads to must be
///   held as what it says: both are checked.
/// * What acts on everything below a directory (a rename, a removal of a tree)
///   needs the right to all of it: see [`Permit::check_tree`].
/// * A reply comes after what it tells is durable, but for handles
///   ([`FileService::open`]), which have [`OpenFile::sync`], as POSIX has.
///
/// # Errors
///
/// Every method: [`FileError`].
#[async_trait]
pub trait FileService: Send + Sync + Debug {
    /// The buckets in which the caller may list something.
    async fn buckets(&self, permit: &Permit) -> Result<Vec<BucketInfo>, FileError>;

    /// Describes what a path leads to (`follow`), or the link itself. `read`.
    async fn stat(
        &self,
        permit: &Permit,
        path: &FilePath,
        follow: bool,
    ) -> Result<FileStat, FileError>;

    /// The entries of a directory, from a place that an earlier listing told.
    /// Entries that the caller may not list are left out. `list`.
    async fn list(
        &self,
        permit: &Permit,
        path: &FilePath,
        from: Option<&str>,
    ) -> Result<Box<dyn Listing>, FileError>;

    /// Opens a file. `read` if it is opened to read only, else `write`; each
    /// use is checked again, by what it does.
    async fn open(
        &self,
        permit: &Permit,
        path: &FilePath,
        options: OpenOptions,
    ) -> Result<Arc<dyn OpenFile>, FileError>;

    /// Begins a new content for a file, or goes on with one that was cut: the
    /// file changes as a whole, when it is committed. `write`.
    async fn replace(
        &self,
        permit: &Permit,
        path: &FilePath,
        options: ReplaceOptions,
    ) -> Result<Box<dyn Replacement>, FileError>;

    /// Puts small files as wholes, durably together: the outcome of each.
    /// Directories on the way must be there. `write`.
    async fn put_small(
        &self,
        permit: &Permit,
        files: Vec<SmallFile>,
    ) -> Vec<Result<FileStat, FileError>>;

    /// Reads files of at most [`SMALL_FILE_BYTES_MAX`] as wholes; a longer one
    /// is `FILE_TOO_LARGE`. `read`.
    async fn get_small(
        &self,
        permit: &Permit,
        files: &[FilePath],
    ) -> Vec<Result<(FileStat, Bytes), FileError>>;

    /// Sets attributes of what a path leads to (`follow`), or of the link
    /// itself. `write`.
    async fn set_attributes(
        &self,
        permit: &Permit,
        path: &FilePath,
        follow: bool,
        attributes: Attributes,
    ) -> Result<FileStat, FileError>;

    /// Makes a directory. `write`.
    async fn make_directory(
        &self,
        permit: &Permit,
        path: &FilePath,
        mode: Option<u32>,
    ) -> Result<FileStat, FileError>;

    /// Moves within one bucket: `read` and `write` on all of it, `write` on
    /// where it goes.
    async fn rename(
        &self,
        permit: &Permit,
        from: &FilePath,
        to: &FilePath,
        options: RenameOptions,
    ) -> Result<(), FileError>;

    /// Gives a file a second name in the same bucket: `read` and `write` on
    /// the first, `write` on the second.
    async fn link(
        &self,
        permit: &Permit,
        existing: &FilePath,
        new: &FilePath,
    ) -> Result<(), FileError>;

    /// Makes a symbolic link; `target` is relative, and stays in the bucket.
    /// `write`.
    async fn symlink(
        &self,
        permit: &Permit,
        path: &FilePath,
        target: &[u8],
    ) -> Result<(), FileError>;

    /// Where a link leads; `LEADS_OUTSIDE` if that is out of the bucket.
    /// `read`.
    async fn read_link(&self, permit: &Permit, path: &FilePath) -> Result<Vec<u8>, FileError>;

    /// Removes. A link is removed itself. `write`, for a tree on all of it.
    async fn remove(
        &self,
        permit: &Permit,
        path: &FilePath,
        removal: Removal,
    ) -> Result<Removed, FileError>;

    /// Copies a file within the service: `read` on one, `write` on the other.
    async fn copy(
        &self,
        permit: &Permit,
        from: &FilePath,
        to: &FilePath,
        options: CopyOptions,
    ) -> Result<FileStat, FileError>;

    /// Computes digests of a file's bytes. `read`.
    async fn digest(
        &self,
        permit: &Permit,
        path: &FilePath,
        request: DigestRequest,
    ) -> Result<(Digests, FileStat), FileError>;

    /// The room that is left where a path lies. `read`.
    async fn space(&self, permit: &Permit, path: &FilePath) -> Result<Space, FileError>;

    /// Watches a file or a directory. Changes of what the caller may not list
    /// are left out. `list`.
    async fn watch(
        &self,
        permit: &Permit,
        path: &FilePath,
        options: WatchOptions,
    ) -> Result<Box<dyn Watch>, FileError>;

    /// Removes what was begun below a directory and is not gone on with.
    /// `admin`.
    async fn collect(&self, permit: &Permit, path: &FilePath) -> Result<Collected, FileError>;
}

/// The entries of a directory, page by page, in the order of the disk. An
/// entry that is there all the time is told once.
#[async_trait]
pub trait Listing: Send + Debug {
    /// The directory after all links: what its entries lie in.
    fn path(&self) -> &FilePath;

    /// At most `entries` ([`LISTING_ENTRIES_MAX`]) more; none at the end.
    ///
    /// # Errors
    ///
    /// [`FileError`].
    async fn next(&mut self, permit: &Permit, entries: usize) -> Result<Vec<ListEntry>, FileError>;

    /// Where to go on after what was told: opaque, at most 64 bytes of ASCII.
    fn place(&self) -> String;
}

/// An open file. Reads and writes by position, at once if need be; a write is
/// seen by the next read of anybody.
#[async_trait]
pub trait OpenFile: Send + Sync + Debug {
    /// The file after all links.
    fn path(&self) -> &FilePath;

    /// Describes it, also if it was removed or moved. `read`, or `write` with
    /// a permit that names that.
    async fn stat(&self, permit: &Permit) -> Result<FileStat, FileError>;

    /// At most `bytes` ([`READ_BYTES_MAX`]) from `offset`; fewer at the end of
    /// the file only, none from there on. `read`.
    async fn read_at(&self, permit: &Permit, offset: u64, bytes: usize)
    -> Result<Bytes, FileError>;

    /// Writes all of it; at the end, whatever the offset, if it was opened to
    /// append. `write`.
    async fn write_at(&self, permit: &Permit, offset: u64, bytes: Bytes) -> Result<(), FileError>;

    /// Sets attributes. `write`.
    async fn set_attributes(
        &self,
        permit: &Permit,
        attributes: Attributes,
    ) -> Result<FileStat, FileError>;

    /// Makes what was written durable. `write`.
    async fn sync(&self, permit: &Permit) -> Result<(), FileError>;

    /// What lies at `offset`, and up to where. `read`.
    async fn extent(&self, permit: &Permit, offset: u64) -> Result<Extent, FileError>;
}

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Bytes, up to this position.
    Data(u64),
    /// Zeros that take no room, up to this position.
    Hole(u64),
    /// The end of the file.
    End,
}

/// A new content on its way. Dropped, it leaves the file as it was; what was
/// written is kept for a while if it was begun with a `resume` text.
#[async_trait]
pub trait Replacement: Send + Debug {
    /// The file after all links.
    fn path(&self) -> &FilePath;

    /// Bytes written, those of earlier attempts included: where to go on.
    fn bytes(&self) -> u64;

    /// BLAKE3 of what was written so far, in hexadecimal digits.
    ///
    /// # Errors
    ///
    /// [`FileError`].
    async fn digest(&mut self, permit: &Permit) -> Result<String, FileError>;

    /// Forgets what was written after this position.
    ///
    /// # Errors
    ///
    /// [`FileError`].
    async fn rewind(&mut self, permit: &Permit, bytes: u64) -> Result<(), FileError>;

    /// Writes on. `write`.
    ///
    /// # Errors
    ///
    /// [`FileError`].
    async fn write(&mut self, permit: &Permit, bytes: Bytes) -> Result<(), FileError>;

    /// Leaves a hole of so many bytes. `write`.
    ///
    /// # Errors
    ///
    /// [`FileError`].
    async fn skip(&mut self, permit: &Permit, bytes: u64) -> Result<(), FileError>;

    /// Makes it the file's content, durably. `write`.
    ///
    /// # Errors
    ///
    /// [`FileError`]: `HASH_MISMATCH`, `FILE_CHANGED`, `FILE_EXISTS` and
    /// others; the file is as it was.
    async fn commit(self: Box<Self>, permit: &Permit) -> Result<FileStat, FileError>;

    /// Gives it up: nothing is kept.
    async fn discard(self: Box<Self>);
}

/// What is done if a file is not there, or is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Create {
    /// It must be there.
    Never,
    /// It is made if it is not there.
    #[default]
    IfMissing,
    /// It must not be there.
    New,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// To read.
    pub read: bool,
    /// To write.
    pub write: bool,
    /// To write at the end only.
    pub append: bool,
    /// If it is not there, or is.
    pub create: Create,
    /// Empties it.
    pub truncate: bool,
    /// Permissions of a new one, less those that the node's account masks.
    pub mode: Option<u32>,
    /// Whether a link at the end of the path is followed; refused as
    /// `TOO_MANY_LINKS` if not, as `O_NOFOLLOW` is.
    pub follow: bool,
}

impl OpenOptions {
    /// To read what is there.
    #[must_use]
    pub fn reading() -> Self {
        Self {
            read: true,
            write: false,
            append: false,
            create: Create::Never,
            truncate: false,
            mode: None,
            follow: true,
        }
    }

    /// To write, in place.
    #[must_use]
    pub fn writing(create: Create) -> Self {
        Self {
            read: false,
            write: true,
            create,
            ..Self::reading()
        }
    }
}

/// How a file gets a new content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplaceOptions {
    /// If it is not there, or is.
    pub create: Create,
    /// Its version must be this one.
    pub if_version: Option<String>,
    /// Permissions; those of the file that was there, if not given.
    pub mode: Option<u32>,
    /// Time of the last change; the present, if not given.
    pub mtime: Option<FileTime>,
    /// How many bytes will come, holes included: refused at once if there is
    /// no room, and in the end if it was another number.
    pub bytes: Option<u64>,
    /// Whether holes may be among them, which take no room on the disk: then
    /// only the quota is asked at once.
    pub sparse: bool,
    /// What their digests must be.
    pub digests: Option<Digests>,
    /// With the same text, the same caller goes on after a cut: at most 128
    /// bytes.
    pub resume: Option<String>,
}

/// A file that is put as a whole.
#[derive(Clone, Debug)]
pub struct SmallFile {
    /// Where.
    pub path: FilePath,
    /// Its content, at most [`SMALL_FILE_BYTES_MAX`].
    pub bytes: Bytes,
    /// If it is not there, or is.
    pub create: Create,
    /// Permissions.
    pub mode: Option<u32>,
    /// Time of the last change.
    pub mtime: Option<FileTime>,
}

/// How something is renamed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RenameOptions {
    /// Replaces what has the name, as POSIX does; `FILE_EXISTS` if not.
    pub replace: bool,
}

/// What is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Anything but a directory.
    File,
    /// An empty directory.
    Directory,
    /// Whatever it is, with all that is in it.
    Tree,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Files, links and others.
    pub files: u64,
    /// Directories.
    pub directories: u64,
}

/// How a file is copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// If the target is not there, or is.
    pub create: Create,
    /// Whether permissions and the time of the last change go along.
    pub attributes: bool,
}

/// A part of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByteRange {
    /// Where it begins.
    pub offset: u64,
    /// How long it is; to the end if not given.
    pub bytes: Option<u64>,
}

/// Digests that are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DigestRequest {
    /// Of which part.
    pub range: ByteRange,
    /// By which algorithms, at least one.
    pub algorithms: Vec<Algorithm>,
}

/// How changes are watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchOptions {
    /// Everything below, not just the entries.
    pub recursive: bool,
    /// Only what came after this cursor; if that is not kept any more, a
    /// change of the kind `missed` comes first.
    pub after: Option<String>,
}

/// Changes as they happen.
#[async_trait]
pub trait Watch: Send + Debug {
    /// What is watched, after all links.
    fn path(&self) -> &FilePath;

    /// The place after what was told: goes into [`WatchOptions::after`].
    fn cursor(&self) -> String;

    /// Waits for changes; at least one, none at the end. Cancel safe. A watch
    /// has no end of its own but the removal of what is watched, which is its
    /// last change; a file that is watched may come back and ends nothing.
    ///
    /// # Errors
    ///
    /// [`FileError`].
    async fn next(&mut self, permit: &Permit) -> Result<Vec<FileChange>, FileError>;
}

/// What was collected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Uploads that nobody goes on with.
    pub partials: u64,
    /// Bytes they took.
    pub bytes: u64,
}
