//! Entries made, moved and removed, by one name in one directory.

use super::{
    Directory, Meta, PARTIAL_PREFIX, RootError,
    directory::usable,
    file::refuse_set_id,
    list::Detail,
    partial::turn,
    walk::{could_lead_out, leads_out},
};
use alknet_core::files::{FileKind, FileName};
use rustix::{
    fs::{
        AtFlags, Mode, RenameFlags, linkat, mkdirat, readlinkat, renameat, renameat_with,
        symlinkat, unlinkat,
    },
    io::Errno,
};
use std::{ffi::OsStr, os::unix::ffi::OsStrExt, sync::Arc};

/// Longest target of a symlink, in bytes: what Linux takes.
const TARGET_BYTES_MAX: usize = 4_095;

/// What happens to what has the new name already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// It is replaced: a file by a file, an empty directory by a directory.
    Yes,
    /// Nothing is done, and the answer is `EEXIST`.
    No,
}

impl Directory {
    /// Makes a directory with `mode`, less the process's umask.
    ///
    /// # Errors
    ///
    /// What the host answers (`EEXIST`, `ENOSPC`, ...), [`RootError::NameReserved`],
    /// [`RootError::SetId`].
    pub fn make_directory(&self, name: &FileName, mode: u32) -> Result<(), RootError> {
        let name = usable(name)?;
        refuse_set_id(mode)?;
        self.refuse_taken(name)?;
        Ok(mkdirat(
            &*self.handle,
            name,
            Mode::from_raw_mode(raw_mode(mode)),
        )?)
    }

    /// Moves the entry `name` to `to_name` in `to`, which is below the same root.
    ///
    /// Moving what already has that name (another hard link of one file) does
    /// nothing, as POSIX has it. A symlink is judged where it comes to lie, as one that
    /// is [made](Self::make_symlink) there; those in a directory that is moved are not
    /// looked for.
    ///
    /// # Errors
    ///
    /// What the host answers (`ENOENT`, `EEXIST`, `ENOTEMPTY`, `EISDIR`, `ENOTDIR`,
    /// `EINVAL` for a directory into itself, `EXDEV` for another file system or
    /// root, `EBUSY` where a hidden directory is below it);
    /// [`RootError::NameReserved`]; [`RootError::LeadsOut`] for a symlink that could lead
    /// out from there.
    pub fn rename(
        &self,
        name: &FileName,
        to: &Self,
        to_name: &FileName,
        replace: Replace,
    ) -> Result<(), RootError> {
        let (from_name, to_name) = (usable(name)?, usable(to_name)?);
        self.refuse_other_root(to)?;
        let _one_by_one = turn(self, to);
        let meta = self.meta_at(from_name)?;
        self.refuse_pinned(&meta)?;
        to.refuse_taken(to_name)?;
        if meta.kind == FileKind::Symlink {
            let target = readlinkat(&*self.handle, from_name, Vec::new())?;
            to.refuse_leading_out(target.as_bytes())?;
        }
        match replace {
            Replace::Yes => Ok(renameat(&*self.handle, from_name, &*to.handle, to_name)?),
            Replace::No => self.rename_new(from_name, to, to_name, meta.kind),
        }
    }

    pub(super) fn rename_new(
        &self,
        name: &OsStr,
        to: &Self,
        to_name: &OsStr,
        kind: FileKind,
    ) -> Result<(), RootError> {
        let flags = RenameFlags::NOREPLACE;
        match renameat_with(&*self.handle, name, &*to.handle, to_name, flags) {
            // A file system that knows no such flag, or a kernel.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                self.rename_new_by_hand(name, to, to_name, kind)
            }
            said => Ok(said?),
        }
    }

    /// Takes the new name with something that can be taken only once, first.
    fn rename_new_by_hand(
        &self,
        name: &OsStr,
        to: &Self,
        to_name: &OsStr,
        kind: FileKind,
    ) -> Result<(), RootError> {
        if kind == FileKind::Directory {
            // A directory replaces an empty one.
            mkdirat(&*to.handle, to_name, Mode::RWXU)?;
            let moved = renameat(&*self.handle, name, &*to.handle, to_name);
            if moved.is_err() {
                // Only if it is still empty, so still ours for all that anyone knows.
                unlinkat(&*to.handle, to_name, AtFlags::REMOVEDIR).ok();
            }
            return Ok(moved?);
        }
        linkat(&*self.handle, name, &*to.handle, to_name, AtFlags::empty())?;
        Ok(unlinkat(&*self.handle, name, AtFlags::empty())?)
    }

    /// Gives the regular file `name` another name, `to_name` in `to`, which is below
    /// the same root.
    ///
    /// # Errors
    ///
    /// What the host answers (`EEXIST`, `EXDEV`, `EMLINK`, `EPERM`, ...; `EISDIR` for a
    /// directory, `ELOOP` for a symlink), [`RootError::NotAFile`],
    /// [`RootError::NameReserved`], and [`RootError::Changed`] if it was swapped.
    pub fn link(&self, name: &FileName, to: &Self, to_name: &FileName) -> Result<(), RootError> {
        let (from_name, to_name) = (usable(name)?, usable(to_name)?);
        self.refuse_other_root(to)?;
        let meta = self.meta_at(from_name)?;
        meta.refuse_unless_file()?;
        to.refuse_taken(to_name)?;
        linkat(
            &*self.handle,
            from_name,
            &*to.handle,
            to_name,
            AtFlags::empty(),
        )?;
        if to.meta_at(to_name)?.id == meta.id {
            return Ok(());
        }
        unlinkat(&*to.handle, to_name, AtFlags::empty())?;
        Err(RootError::Changed)
    }

    /// Makes the symlink `name` with `target`, which is kept as given and need not
    /// exist.
    ///
    /// The target is judged by its text, from where the symlink is now: for those on
    /// the host who follow it with other means. `..` comes first in it or not at all:
    /// what is above a name that is, or becomes, a symlink may be anywhere. What it
    /// leads to through a root is judged anew at every [walk](super::Root::walk).
    ///
    /// # Errors
    ///
    /// What the host answers, [`RootError::NameReserved`], [`RootError::LeadsOut`] for
    /// a target that is absolute, climbs above the root, or has `..` after a name, and
    /// [`RootError::NameInvalid`] for one that is empty, over 4,095 bytes, or has a NUL.
    pub fn make_symlink(&self, name: &FileName, target: &[u8]) -> Result<(), RootError> {
        let name = usable(name)?;
        if target.is_empty() || target.len() > TARGET_BYTES_MAX || target.contains(&0) {
            return Err(RootError::NameInvalid);
        }
        self.refuse_leading_out(target)?;
        // A rename must not find another symlink than the one that it judged.
        let _one_by_one = turn(self, self);
        self.refuse_taken(name)?;
        Ok(symlinkat(OsStr::from_bytes(target), &*self.handle, name)?)
    }

    fn refuse_leading_out(&self, target: &[u8]) -> Result<(), RootError> {
        match could_lead_out(target, self.depth) {
            true => Err(RootError::LeadsOut),
            false => Ok(()),
        }
    }

    /// The target of the symlink `name`.
    ///
    /// # Errors
    ///
    /// What the host answers (`EINVAL` for what is no symlink),
    /// [`RootError::NameReserved`], and [`RootError::LeadsOut`] for one that, by its
    /// text, leads out of the root: what is outside is not told.
    pub fn read_link(&self, name: &FileName) -> Result<Vec<u8>, RootError> {
        let name = usable(name)?;
        let target = readlinkat(&*self.handle, name, Vec::new())?.into_bytes();
        match leads_out(&target, self.depth) {
            true => Err(RootError::LeadsOut),
            false => Ok(target),
        }
    }

    /// Removes the entry `name`, whatever it is but a directory.
    ///
    /// # Errors
    ///
    /// What the host answers (`EISDIR` for a directory), [`RootError::NameReserved`].
    pub fn remove_file(&self, name: &FileName) -> Result<(), RootError> {
        let name = usable(name)?;
        let _one_by_one = turn(self, self);
        // Else a hidden directory would tell itself.
        if self.meta_at(name)?.kind == FileKind::Directory {
            return Err(Errno::ISDIR.into());
        }
        Ok(unlinkat(&*self.handle, name, AtFlags::empty())?)
    }

    /// Removes the empty directory `name`. Partial files that nobody writes do not
    /// make it less empty: they go with it.
    ///
    /// # Errors
    ///
    /// What the host answers (`ENOTEMPTY`, `ENOTDIR`, `EBUSY` where a hidden directory
    /// is below it), [`RootError::NameReserved`].
    pub fn remove_directory(&self, name: &FileName) -> Result<(), RootError> {
        let name = usable(name)?;
        let meta = self.meta_at(name)?;
        self.refuse_pinned(&meta)?;
        match unlinkat(&*self.handle, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            said => return Ok(said?),
        }
        self.enter_at(name)?.remove_only_partials()?;
        Ok(unlinkat(&*self.handle, name, AtFlags::REMOVEDIR)?)
    }

    /// Removes partial files, if there is nothing else.
    fn remove_only_partials(&self) -> Result<(), RootError> {
        let mut partials = Vec::new();
        let mut listing = self.list_all()?;
        while let Some(entry) = listing.next(Detail::Kinds)? {
            if !entry.name.as_bytes().starts_with(PARTIAL_PREFIX.as_bytes()) {
                return Err(Errno::NOTEMPTY.into());
            }
            partials.push(entry.name);
        }
        for name in partials {
            self.remove_idle_partial(OsStr::from_bytes(name.as_bytes()))?;
        }
        Ok(())
    }

    /// Handles of two roots could lead from one to the other.
    fn refuse_other_root(&self, other: &Self) -> Result<(), RootError> {
        match Arc::ptr_eq(&self.bounds, &other.bounds) {
            true => Ok(()),
            false => Err(Errno::XDEV.into()),
        }
    }
}

/// A mode that was checked to have 12 bits, as wide as the host has it.
pub(super) fn raw_mode(mode: u32) -> rustix::fs::RawMode {
    rustix::fs::RawMode::try_from(mode & 0o7777).unwrap_or(0)
}

impl Meta {
    /// As the answer to a wish for a file.
    pub(super) fn refuse_unless_file(&self) -> Result<(), RootError> {
        match self.kind {
            FileKind::File => Ok(()),
            FileKind::Directory => Err(Errno::ISDIR.into()),
            FileKind::Symlink => Err(Errno::LOOP.into()),
            FileKind::Other => Err(RootError::NotAFile),
        }
    }
}
