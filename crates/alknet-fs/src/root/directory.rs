//! Open directories, and single steps down from them.

use super::{Meta, PARTIAL_PREFIX, RootError};
use alknet_core::files::{FileKind, FileName, Space};
use cap_fs_ext::{FollowSymlinks, OpenOptionsFollowExt};
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt};
use rustix::{
    fs::{AtFlags, Mode, OFlags, Stat, StatVfsMountFlags, fstat, openat, statat},
    io::Errno,
};
use std::{
    collections::HashSet,
    ffi::OsStr,
    fmt,
    fs::File as StdFile,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::Arc,
};

/// Which entry of the host something is, whatever its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// Number of its device.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
}

impl FileId {
    // Widths of these fields differ from one system to the next.
    #[allow(clippy::unnecessary_cast)]
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
        }
    }
}

/// What all directories below a root know of it.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    /// Directories that do not exist through the root.
    hidden: HashSet<FileId>,
    /// Directories on the way to a hidden one: whoever moved one could put
    /// another in the place of what is hidden.
    pinned: HashSet<FileId>,
}

/// An open directory, and everything below it.
#[derive(Clone, Debug)]
pub struct Root {
    pub(super) top: Directory,
}

impl Root {
    /// Opens `path` of the host as a root. This is the only place where a path of
    /// the host is resolved, symlinks and all.
    ///
    /// # Errors
    ///
    /// What the host answers: that nothing is there, that it is no directory, that
    /// it may not be entered; [`RootError::LeadsOut`] for a directory of `/proc`.
    pub fn open(path: &Path) -> Result<Self, RootError> {
        let handle = Dir::open_ambient_dir(path, cap_std::ambient_authority())?;
        let id = FileId::of(&fstat(&handle)?);
        if is_process_table(handle.as_fd()) {
            return Err(RootError::LeadsOut);
        }
        let bounds = Bounds {
            hidden: HashSet::new(),
            pinned: HashSet::new(),
        };
        Ok(Self {
            top: Directory {
                bounds: Arc::new(bounds),
                handle: Arc::new(handle),
                id,
                depth: 0,
            },
        })
    }

    /// Makes the directory at `path` of the host not exist through this root: it is
    /// not listed, not found and not removed, and the directories on the way to it
    /// cannot be renamed, replaced or removed. A directory that is not below the
    /// root changes nothing.
    ///
    /// # Errors
    ///
    /// What the host answers when `path` is opened, and [`RootError::IsRoot`] for
    /// the root: nothing would be left.
    pub fn hide(mut self, path: &Path) -> Result<Self, RootError> {
        let hidden = Dir::open_ambient_dir(path, cap_std::ambient_authority())?;
        let id = FileId::of(&fstat(&hidden)?);
        if id == self.top.id {
            return Err(RootError::IsRoot);
        }
        let mut above = Vec::new();
        let mut at: OwnedFd = hidden.into_std_file().into();
        let mut last = id;
        while last != self.top.id {
            at = openat(&at, "..", directory_flags(), Mode::empty())?;
            let next = FileId::of(&fstat(&at)?);
            // Above `/` is `/`: the way up did not pass the root.
            if next == last {
                return Ok(self);
            }
            above.push(next);
            last = next;
        }
        let bounds = Arc::make_mut(&mut self.top.bounds);
        bounds.hidden.insert(id);
        bounds.pinned.extend(above);
        Ok(self)
    }

    /// The directory itself.
    #[must_use]
    pub fn directory(&self) -> Directory {
        self.top.clone()
    }

    /// Which directory of the host it is.
    #[must_use]
    pub fn id(&self) -> FileId {
        self.top.id
    }
}

/// An open directory below a root.
///
/// Clones share the handle. Methods take one name and follow no symlink.
#[derive(Clone)]
pub struct Directory {
    pub(super) bounds: Arc<Bounds>,
    pub(super) handle: Arc<Dir>,
    pub(super) id: FileId,
    /// Names between the root and this.
    pub(super) depth: usize,
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, depth, .. } = self;
        f.debug_struct("Directory")
            .field("id", id)
            .field("depth", depth)
            .finish_non_exhaustive()
    }
}

impl AsFd for Directory {
    /// A handle that reads nothing: for what acts on a directory by its handle,
    /// such as a watch.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

impl Directory {
    /// Which directory of the host it is.
    #[must_use]
    pub fn id(&self) -> FileId {
        self.id
    }

    /// What is known about the directory itself.
    ///
    /// # Errors
    ///
    /// What the host answers.
    pub fn meta(&self) -> Result<Meta, RootError> {
        Ok(Meta::of(&fstat(&*self.handle)?))
    }

    /// What is known about the entry `name`; of a symlink, its own.
    ///
    /// # Errors
    ///
    /// What the host answers, above all that nothing is there;
    /// [`RootError::NameReserved`].
    pub fn meta_of(&self, name: &FileName) -> Result<Meta, RootError> {
        self.meta_at(usable(name)?)
    }

    /// Opens the directory `name`.
    ///
    /// # Errors
    ///
    /// What the host answers, above all that nothing is there, or that it is not a
    /// directory (a symlink to one is not one either); [`RootError::NameReserved`].
    pub fn enter(&self, name: &FileName) -> Result<Self, RootError> {
        self.enter_at(usable(name)?)
    }

    /// Makes what happened to names in this directory last through a power cut.
    ///
    /// # Errors
    ///
    /// What the host answers.
    pub fn sync(&self) -> Result<(), RootError> {
        Ok(rustix::fs::fsync(self.readable()?)?)
    }

    /// The room of its file system that this account may use.
    ///
    /// # Errors
    ///
    /// What the host answers.
    pub fn space(&self) -> Result<Space, RootError> {
        let said = rustix::fs::fstatvfs(&*self.handle)?;
        Ok(Space {
            bytes: said.f_blocks.saturating_mul(said.f_frsize),
            bytes_free: said.f_bavail.saturating_mul(said.f_frsize),
            entries: said.f_files,
            entries_free: said.f_favail,
            block_bytes: said.f_frsize,
            read_only: said.f_flag.contains(StatVfsMountFlags::RDONLY),
        })
    }

    pub(super) fn meta_at(&self, name: &OsStr) -> Result<Meta, RootError> {
        let stat = statat(&*self.handle, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let meta = Meta::of(&stat);
        if self.bounds.hidden.contains(&meta.id) {
            return Err(RootError::not_found());
        }
        Ok(meta)
    }

    pub(super) fn enter_at(&self, name: &OsStr) -> Result<Self, RootError> {
        let (handle, meta) = self.step(name)?;
        self.entered(handle, &meta)
    }

    /// Takes hold of the entry `name`, of whatever kind, without opening it.
    pub(super) fn step(&self, name: &OsStr) -> Result<(StdFile, Meta), RootError> {
        let handle = self.open_one(name, OpenOptions::new().read(true), hold_flags())?;
        let meta = Meta::of(&fstat(&handle)?);
        if self.bounds.hidden.contains(&meta.id) {
            return Err(RootError::not_found());
        }
        Ok((handle, meta))
    }

    /// The directory that [`Directory::step`] took hold of.
    pub(super) fn entered(&self, handle: StdFile, meta: &Meta) -> Result<Self, RootError> {
        if meta.kind != FileKind::Directory {
            return Err(Errno::NOTDIR.into());
        }
        // Files of a process are ways out: its memory, its own root.
        if meta.id.device != self.id.device && is_process_table(handle.as_fd()) {
            return Err(RootError::not_found());
        }
        Ok(Self {
            bounds: Arc::clone(&self.bounds),
            handle: Arc::new(Dir::from_std_file(handle)),
            id: meta.id,
            depth: self.depth + 1,
        })
    }

    /// Opens the entry `name` itself; a symlink is an error, or held as one.
    pub(super) fn open_one(
        &self,
        name: &OsStr,
        options: &OpenOptions,
        flags: OFlags,
    ) -> Result<StdFile, RootError> {
        let mut options = options.clone();
        // All flags that there are fit.
        let flags = i32::try_from(flags.bits()).unwrap_or(0);
        options.follow(FollowSymlinks::No).custom_flags(flags);
        Ok(self.handle.open_with(name, &options)?.into_std())
    }

    /// A handle of the same directory that can be listed and synced.
    pub(super) fn readable(&self) -> Result<OwnedFd, RootError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(openat(&*self.handle, ".", flags, Mode::empty())?)
    }

    pub(super) fn is_hidden(&self, id: FileId) -> bool {
        self.bounds.hidden.contains(&id)
    }

    /// Whether a hidden directory is somewhere below this one.
    pub(super) fn holds_hidden(&self) -> bool {
        self.bounds.pinned.contains(&self.id)
    }

    /// Refuses to move, replace or remove an entry that a hidden one depends on.
    pub(super) fn refuse_pinned(&self, meta: &Meta) -> Result<(), RootError> {
        if meta.kind == FileKind::Directory && self.bounds.pinned.contains(&meta.id) {
            return Err(Errno::BUSY.into());
        }
        Ok(())
    }

    /// Refuses to make or replace an entry where a hidden one is.
    pub(super) fn refuse_taken(&self, name: &OsStr) -> Result<(), RootError> {
        match statat(&*self.handle, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if self.is_hidden(FileId::of(&stat)) => Err(RootError::NameReserved),
            Ok(stat) => self.refuse_pinned(&Meta::of(&stat)),
            Err(_) => Ok(()),
        }
    }
}

/// A name as the host takes it, if callers may use it.
pub(super) fn usable(name: &FileName) -> Result<&OsStr, RootError> {
    if name.as_bytes().starts_with(PARTIAL_PREFIX.as_bytes()) {
        return Err(RootError::NameReserved);
    }
    Ok(OsStr::from_bytes(name.as_bytes()))
}

/// To hold an entry without opening it.
#[cfg(target_os = "linux")]
pub(super) fn hold_flags() -> OFlags {
    OFlags::PATH
}

/// To hold an entry; where that means opening it, nothing waits.
#[cfg(not(target_os = "linux"))]
pub(super) fn hold_flags() -> OFlags {
    OFlags::NONBLOCK | OFlags::NOCTTY
}

pub(super) fn directory_flags() -> OFlags {
    hold_flags() | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

#[cfg(target_os = "linux")]
fn is_process_table(directory: BorrowedFd<'_>) -> bool {
    rustix::fs::fstatfs(directory).is_ok_and(|said| said.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

#[cfg(not(target_os = "linux"))]
fn is_process_table(_: BorrowedFd<'_>) -> bool {
    false
}
