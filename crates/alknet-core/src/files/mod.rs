//! Files: names and paths, what can go wrong, and [`FileService`], the one
//! interface through which every surface reaches them.
//!
//! Not here: disks. A service of host directories, and later one of
//! content-addressed trees, implement the trait; the node hands it to the
//! surfaces.

mod error;
mod meta;
mod path;
mod service;

pub use self::{
    error::{FileError, FileErrorCode, file_error_specs},
    meta::{
        Algorithm, Attributes, BucketInfo, BucketKind, ChangeKind, Digests, FileChange, FileKind,
        FileStat, FileTime, FileTimeError, ListEntry, SetTime, Space,
    },
    path::{
        BUCKET_NAME_BYTES_MAX, BucketRef, FILE_NAME_BYTES_MAX, FILE_PATH_BYTES_MAX, FileName,
        FilePath, PathError, PathVersion, escape_name, unescape_name,
    },
    service::{
        ByteRange, Collected, CopyOptions, Create, DigestRequest, Extent, FileService,
        LISTING_ENTRIES_MAX, Listing, OpenFile, OpenOptions, READ_BYTES_MAX, Removal, Removed,
        RenameOptions, ReplaceOptions, Replacement, SMALL_FILE_BYTES_MAX, SmallFile, Watch,
        WatchOptions,
    },
};
