//! Confined directories.
//!
//! A [`Root`] is an open directory; everything is reached from its handle, never
//! by a path of the host. [`Root::walk`] resolves a path name by name: each
//! directory is opened without following anything, symlinks are read and resolved
//! here, against the directories that were passed, and `..` goes back to one of
//! them. What leads out of the root is refused, not cut off. A walk ends at a
//! [`Directory`] and one name in it; all else ([`Directory::open`],
//! [`Directory::rename`], ...) acts on that name and follows no symlink, so a name
//! that is swapped meanwhile can make an act fail but cannot carry it elsewhere.
//!
//! Only files, directories and symlinks are handled: a FIFO, device or socket is
//! listed as [`FileKind::Other`], can be renamed and removed, and is never opened.
//! Directories of `/proc` do not exist through a root, nor do the ones that are
//! [hidden](Root::hide).
//!
//! Names that begin with [`PARTIAL_PREFIX`] belong to [`Partial`]s.
//!
//! All calls block.
//!
//! [`FileKind::Other`]: alknet_core::files::FileKind::Other

mod attributes;
mod batch;
mod copy;
mod digest;
mod directory;
mod entries;
mod error;
mod file;
mod list;
mod meta;
mod partial;
mod remove;
mod sweep;
mod walk;

pub use self::{
    batch::Batch,
    digest::Digester,
    directory::{Directory, FileId, Root},
    entries::Replace,
    error::{RootError, WalkError},
    file::{File, OpenHow},
    list::{Detail, ListEntry, Listing, Position},
    meta::Meta,
    partial::{Commit, PARTIAL_PREFIX, Partial, PartialKey, Place},
    remove::{Removed, Verdict},
    sweep::STALE_AFTER,
    walk::{Follow, LINKS_MAX, Walked},
};
