//! New contents on their way to a name, which they take as a whole.

use super::{
    Directory, File, Meta, OpenHow, RootError, directory::usable, entries::raw_mode,
    file::refuse_set_id,
};
use alknet_core::files::{Attributes, Create, FileKind, FileName};
use data_encoding::HEXLOWER;
use rustix::{
    fs::{AtFlags, FlockOperation, Gid, Mode, Uid, fchmod, fchown, flock, renameat, unlinkat},
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// How names of partial files begin. Nobody else's may.
pub const PARTIAL_PREFIX: &str = ".alknet-part-";

/// Nobody else's until it has its final name.
const PARTIAL_MODE: u32 = 0o600;

/// Times that the file is looked for again while others make and remove it.
const TRIES: usize = 100;

/// Who goes on with a partial file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartialKey<'a> {
    /// Nobody: what is not committed is removed.
    Once,
    /// Whoever gives the same bytes for the same name: what is not committed is kept
    /// for them. They are to be known to that caller only, and name the caller: they
    /// are all that parts one caller's file from another's.
    Resumable(&'a [u8]),
}

/// What is done if the final name is taken, or is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// What is there is replaced.
    #[default]
    Replace,
    /// Nothing may be there.
    New,
    /// Something must be there.
    Existing,
    /// What is there must have this [version](Meta::version).
    Version(String),
}

impl From<Create> for Place {
    fn from(create: Create) -> Self {
        match create {
            Create::Never => Self::Existing,
            Create::IfMissing => Self::Replace,
            Create::New => Self::New,
        }
    }
}

/// How a partial file takes its final name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// Whether the file and its name last through a power cut when it returns.
    pub durable: bool,
    /// What the file gets; its length stays, whatever `bytes` says. Without a mode it
    /// keeps that of the file it replaces (and its owner, as far as this account may
    /// give it away), or has what a new file has here.
    pub attributes: Attributes,
    /// On what condition.
    pub place: Place,
}

/// A file beside its final name, being written by one at a time: the lock on it goes
/// with the process, however that ends.
///
/// Dropped without being committed, it is removed, unless it is resumable and has
/// bytes.
#[derive(Debug)]
pub struct Partial {
    directory: Directory,
    name: OsString,
    final_name: FileName,
    file: File,
    bytes: u64,
    is_kept: bool,
    is_done: bool,
}

impl Directory {
    /// Begins a new content for `final_name`, or goes on with one.
    ///
    /// # Errors
    ///
    /// What the host answers, [`RootError::Busy`] while somebody else has it open, and
    /// [`RootError::NameReserved`].
    pub fn partial(
        &self,
        final_name: &FileName,
        key: PartialKey<'_>,
    ) -> Result<Partial, RootError> {
        self.refuse_taken(usable(final_name)?)?;
        let name = partial_name(final_name, key);
        for _ in 0..TRIES {
            let found = match self.meta_at(&name) {
                Ok(meta) => Some(meta),
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(error),
            };
            if found.as_ref().is_some_and(|meta| !is_ours(meta)) {
                // Planted by somebody who may write here: not to be gone on with.
                remove_ignoring_gone(self, &name)?;
                continue;
            }
            let how = OpenHow {
                read: true,
                create: if found.is_some() {
                    Create::Never
                } else {
                    Create::New
                },
                // From its first instant: whoever opened it then could read on.
                mode: Some(PARTIAL_MODE),
                ..OpenHow::write(Create::Never)
            };
            let file = match self.open_at(&name, &how) {
                Ok(file) => file,
                Err(error) if is_race(&error) => continue,
                Err(error) => return Err(error),
            };
            let meta = file.meta()?;
            // Where the umask takes even that, it could not be opened again.
            if found.is_none() && meta.mode & 0o777 != PARTIAL_MODE {
                try_mode(&file, PARTIAL_MODE)?;
            }
            if !lock(&file)? {
                return Err(RootError::Busy);
            }
            // It may have been committed or removed between the opening and the lock.
            if self.meta_at(&name).is_ok_and(|now| now.id == meta.id) {
                return Ok(Partial {
                    directory: self.clone(),
                    name,
                    final_name: final_name.clone(),
                    bytes: meta.bytes,
                    is_kept: matches!(key, PartialKey::Resumable(_)),
                    is_done: false,
                    file,
                });
            }
        }
        Err(RootError::Changed)
    }

    /// Makes everything on its file system last through a power cut: for what cannot
    /// be opened to be synced by itself.
    #[cfg(target_os = "linux")]
    pub(crate) fn sync_file_system(&self) -> Result<(), RootError> {
        if let Ok(handle) = self.readable() {
            return Ok(rustix::fs::syncfs(handle)?);
        }
        // It may be written and not be read.
        let name = random_name();
        let how = OpenHow {
            mode: Some(PARTIAL_MODE),
            ..OpenHow::write(Create::New)
        };
        let file = self.open_at(&name, &how);
        remove_ignoring_gone(self, &name)?;
        Ok(rustix::fs::syncfs(file?)?)
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn sync_file_system(&self) -> Result<(), RootError> {
        rustix::fs::sync();
        Ok(())
    }

    /// What a new file's mode is here, as umask and inherited access lists have it.
    fn new_mode(&self) -> Result<u32, RootError> {
        let name = random_name();
        let how = OpenHow::write(Create::New);
        let mode = self.open_at(&name, &how).and_then(|file| file.meta());
        remove_ignoring_gone(self, &name)?;
        Ok(mode?.mode & 0o777)
    }

    /// Removes the partial file `name`, unless somebody has it open, and returns the
    /// bytes it had. Whatever else has such a name is removed too.
    pub(super) fn remove_idle_partial(&self, name: &OsStr) -> Result<Option<u64>, RootError> {
        let meta = match self.meta_at(name) {
            Ok(meta) => meta,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        if meta.kind != FileKind::File {
            remove_ignoring_gone(self, name)?;
            return Ok(Some(0));
        }
        let file = match self.open_at(name, &OpenHow::read()) {
            Ok(file) => file,
            Err(error) if is_race(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        if !lock(&file)? || self.meta_at(name).is_ok_and(|now| now.id != file.id()) {
            return Ok(None);
        }
        remove_ignoring_gone(self, name)?;
        Ok(Some(meta.bytes))
    }
}

impl Partial {
    /// Bytes it has: where to go on.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The file, to read what was written so far.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The name it is meant for.
    #[must_use]
    pub fn final_name(&self) -> &FileName {
        &self.final_name
    }

    /// The directory it lies in.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Writes on at its end.
    ///
    /// # Errors
    ///
    /// What the host answers; what was written of these bytes is forgotten.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), RootError> {
        if let Err(error) = self.file.write_at(bytes, self.bytes) {
            // A cut frees room: it succeeds on a disk that is full.
            self.file.set_len(self.bytes).ok();
            return Err(error);
        }
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Copies from `offset` of `source` to its end, as [`File::copy_from`] does, and
    /// returns how many bytes.
    ///
    /// # Errors
    ///
    /// What the host answers; what was copied of these bytes is forgotten.
    pub fn copy_from(&mut self, source: &File, offset: u64, bytes: u64) -> Result<u64, RootError> {
        match self.file.copy_from(source, offset, self.bytes, bytes) {
            Ok(copied) => {
                self.bytes += copied;
                Ok(copied)
            }
            Err(error) => {
                self.file.set_len(self.bytes).ok();
                Err(error)
            }
        }
    }

    /// Leaves a hole of so many bytes at its end.
    ///
    /// # Errors
    ///
    /// What the host answers; `EFBIG` past what a file can have.
    pub fn skip(&mut self, bytes: u64) -> Result<(), RootError> {
        let end = self
            .bytes
            .checked_add(bytes)
            .ok_or(RootError::from(Errno::FBIG))?;
        self.file.set_len(end)?;
        self.bytes = end;
        Ok(())
    }

    /// Forgets what it has from `bytes` on; nothing if it has less.
    ///
    /// # Errors
    ///
    /// What the host answers.
    pub fn rewind(&mut self, bytes: u64) -> Result<(), RootError> {
        if bytes < self.bytes {
            self.file.set_len(bytes)?;
            self.bytes = bytes;
        }
        Ok(())
    }

    /// Takes the final name. If that fails, the name is as it was, but for one case:
    /// the disk may fail when the directory is synced, after the rename.
    ///
    /// Commits, renames and removals of files through roots of one process come one
    /// after the other: of two commits that are bound to one version, one is refused.
    /// Programs of the host are not held back, and could come between the comparison
    /// and the rename; so could a write in place.
    ///
    /// # Errors
    ///
    /// What the host answers (`EEXIST` for [`Place::New`], `ENOENT` for
    /// [`Place::Existing`], `EISDIR`), [`RootError::NotAFile`], [`RootError::SetId`], and
    /// [`RootError::Changed`] for another version, or if its own name was taken away.
    pub fn commit(&mut self, commit: &Commit) -> Result<Meta, RootError> {
        self.prepare(commit)?;
        if commit.durable {
            self.file.sync()?;
        }
        self.place(commit)?;
        if commit.durable {
            self.sync_directory()?;
        }
        self.file.meta()
    }

    /// Makes what was written last through a power cut, ahead of a
    /// [commit](Self::commit), which then has little left to wait for.
    ///
    /// # Errors
    ///
    /// What the host answers.
    pub fn sync(&self) -> Result<(), RootError> {
        self.file.sync()
    }

    /// Gives it up: nothing is kept.
    pub fn discard(mut self) {
        self.is_kept = false;
    }

    /// Sets attributes, and refuses what could be refused later, before anything is
    /// synced.
    pub(super) fn prepare(&mut self, commit: &Commit) -> Result<(), RootError> {
        let found = self.found()?;
        check_place(&commit.place, found.as_ref())?;
        if let Some(mode) = commit.attributes.mode {
            refuse_set_id(mode)?;
        } else if let Some(found) = found.filter(|found| found.kind == FileKind::File) {
            self.take_owner(&found, &commit.attributes)?;
            try_mode(&self.file, found.mode & 0o777)?;
        } else {
            try_mode(&self.file, self.directory.new_mode()?)?;
        }
        let attributes = Attributes {
            bytes: None,
            ..commit.attributes
        };
        self.file.set_attributes(&attributes)?;
        Ok(())
    }

    pub(super) fn place(&mut self, commit: &Commit) -> Result<(), RootError> {
        let _one_by_one = turn(&self.directory, &self.directory);
        let own = self.directory.meta_at(&self.name);
        if !own.is_ok_and(|meta| meta.id == self.file.id()) {
            return Err(RootError::Changed);
        }
        check_place(&commit.place, self.found()?.as_ref())?;
        let final_name = usable(&self.final_name)?;
        match commit.place {
            Place::New => {
                self.directory.rename_new(
                    &self.name,
                    &self.directory,
                    final_name,
                    FileKind::File,
                )?;
            }
            _ => {
                let handle = &*self.directory.handle;
                renameat(handle, &self.name, handle, final_name)?;
            }
        }
        self.is_done = true;
        Ok(())
    }

    pub(super) fn sync_directory(&self) -> Result<(), RootError> {
        match self.directory.sync() {
            // A directory that may be written and not be read: the long way.
            #[cfg(target_os = "linux")]
            Err(error) if error.errno() == Some(Errno::ACCESS.raw_os_error()) => {
                Ok(rustix::fs::syncfs(&self.file)?)
            }
            said => said,
        }
    }

    /// What has the final name now.
    fn found(&self) -> Result<Option<Meta>, RootError> {
        match self.directory.meta_of(&self.final_name) {
            Ok(meta) => Ok(Some(meta)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives it the owner and group of what it replaces, or the group at least, or
    /// neither: only the host's administrator gives files away.
    fn take_owner(&self, found: &Meta, wanted: &Attributes) -> Result<(), RootError> {
        let own = self.file.meta()?;
        let uid = (wanted.uid.is_none() && own.uid != found.uid).then(|| Uid::from_raw(found.uid));
        let gid = (wanted.gid.is_none() && own.gid != found.gid).then(|| Gid::from_raw(found.gid));
        let tries = [(uid, gid), (None, gid)];
        for (uid, gid) in tries.into_iter().filter(|pair| *pair != (None, None)) {
            match fchown(&self.file, uid, gid) {
                Err(Errno::PERM) => {}
                said => return Ok(said?),
            }
        }
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let is_worth_keeping = self.is_kept && self.bytes > 0;
        if self.is_done || is_worth_keeping {
            return;
        }
        let own = self.directory.meta_at(&self.name);
        if own.is_ok_and(|meta| meta.id == self.file.id()) {
            // What stays behind is swept later.
            remove_ignoring_gone(&self.directory, &self.name).ok();
        }
    }
}

fn check_place(place: &Place, found: Option<&Meta>) -> Result<(), RootError> {
    match found.map(|meta| meta.kind) {
        Some(FileKind::Directory) if *place == Place::New => return Err(Errno::EXIST.into()),
        Some(FileKind::Directory) => return Err(Errno::ISDIR.into()),
        Some(FileKind::Other) if *place != Place::New => return Err(RootError::NotAFile),
        _ => {}
    }
    match (place, found) {
        (Place::New, Some(_)) => Err(Errno::EXIST.into()),
        (Place::Existing, None) => Err(RootError::not_found()),
        (Place::Version(version), found) if found.map(Meta::version).as_ref() != Some(version) => {
            Err(RootError::Changed)
        }
        _ => Ok(()),
    }
}

/// Whether a partial file is one that only this account could have written.
fn is_ours(meta: &Meta) -> bool {
    meta.kind == FileKind::File
        && meta.links == 1
        && meta.uid == rustix::process::geteuid().as_raw()
}

/// Whether somebody else came first.
fn is_race(error: &RootError) -> bool {
    let exists = error.errno() == Some(Errno::EXIST.raw_os_error());
    exists || error.is_not_found() || matches!(error, RootError::Changed)
}

/// Sets a mode that nobody asked for, where the file system has modes: that of a
/// memory stick refuses them for one's own files.
fn try_mode(file: &File, mode: u32) -> Result<(), RootError> {
    match fchmod(file, Mode::from_raw_mode(raw_mode(mode))) {
        Err(Errno::PERM | Errno::OPNOTSUPP) => Ok(()),
        said => Ok(said?),
    }
}

/// `false` if somebody else has it.
fn lock(file: &File) -> Result<bool, RootError> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        // Some file systems of networks know no locks: there, two that go on with one
        // file at once are kept apart by no one.
        Err(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn remove_ignoring_gone(directory: &Directory, name: &OsStr) -> Result<(), RootError> {
    match unlinkat(&*directory.handle, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        said => Ok(said?),
    }
}

/// The prefix and 32 hexadecimal digits.
fn partial_name(final_name: &FileName, key: PartialKey<'_>) -> OsString {
    let PartialKey::Resumable(key) = key else {
        return random_name();
    };
    let mut hasher = blake3::Hasher::new_derive_key("alknet 2026-11-20 name of a partial file");
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(final_name.as_bytes());
    name_of(&hasher.finalize().as_bytes()[..16])
}

fn random_name() -> OsString {
    name_of(&rand::random::<[u8; 16]>())
}

fn name_of(bytes: &[u8]) -> OsString {
    OsString::from(format!("{PARTIAL_PREFIX}{}", HEXLOWER.encode(bytes)))
}

/// Whether a name is one of a partial file.
pub(super) fn is_partial(name: &[u8]) -> bool {
    name.starts_with(PARTIAL_PREFIX.as_bytes())
}

/// Turns at names in directories.
pub(super) struct Turn {
    _held: [Option<MutexGuard<'static, ()>>; 2],
}

/// Waits for a turn at names in two directories, or twice the same: commits, renames
/// and removals come one after the other, so that what a commit compares is what it
/// replaces.
pub(super) fn turn(one: &Directory, other: &Directory) -> Turn {
    static TURNS: [Mutex<()>; 64] = [const { Mutex::new(()) }; 64];
    let of = |directory: &Directory| {
        let of = directory.id.inode ^ directory.id.device;
        usize::try_from(of % TURNS.len() as u64).unwrap_or(0)
    };
    let hold = |of: usize| TURNS[of].lock().unwrap_or_else(PoisonError::into_inner);
    // Always in the same order: two that wait for each other would wait forever.
    let (first, second) = (of(one).min(of(other)), of(one).max(of(other)));
    let held = Some(hold(first));
    Turn {
        _held: [held, (second != first).then(|| hold(second))],
    }
}
