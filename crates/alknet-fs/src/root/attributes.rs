//! Attributes set, on the very entry that was looked at.

use super::{
    Directory, File, Meta, RootError, directory::usable, entries::raw_mode, file::refuse_set_id,
};
use alknet_core::files::{Attributes, FileKind, FileName, FileTime, SetTime};
use rustix::{
    fs::{Gid, Mode, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid, fchmod, fchown, futimens},
    io::Errno,
};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

impl File {
    /// Sets attributes of the file; `bytes` needs it to be open for writing.
    ///
    /// # Errors
    ///
    /// What the host answers (`EPERM` for another's file), [`RootError::SetId`] for a
    /// mode with set-id bits, `EINVAL` for one with the sticky bit.
    pub fn set_attributes(&self, attributes: &Attributes) -> Result<Meta, RootError> {
        check_mode(attributes.mode, FileKind::File)?;
        if let Some(bytes) = attributes.bytes {
            self.set_len(bytes)?;
        }
        let (uid, gid) = owner(attributes)?;
        if uid.is_some() || gid.is_some() {
            fchown(&self.inner, uid, gid)?;
        }
        // After the owner, whose change clears bits.
        if let Some(mode) = attributes.mode {
            fchmod(&self.inner, Mode::from_raw_mode(raw_mode(mode)))?;
        }
        if let Some(times) = times(attributes) {
            futimens(&self.inner, &times)?;
        }
        self.meta()
    }
}

impl Directory {
    /// Sets attributes of the directory itself.
    ///
    /// # Errors
    ///
    /// As [`Directory::set_attributes_of`].
    pub fn set_attributes(&self, attributes: &Attributes) -> Result<Meta, RootError> {
        set_held(self.as_fd(), FileKind::Directory, attributes)?;
        self.meta()
    }

    /// Sets attributes of the entry `name`; of a symlink, its own. Nothing is
    /// followed or opened, but a file whose length is set.
    ///
    /// # Errors
    ///
    /// What the host answers (`EPERM` for another's; `EOPNOTSUPP` for the mode of a
    /// symlink; `EISDIR` or `EINVAL` for the length of what is no file),
    /// [`RootError::SetId`] for a mode with set-id bits, `EINVAL` for the sticky bit of
    /// what is no directory, [`RootError::NotAFile`] for a FIFO, device or socket, and
    /// [`RootError::NameReserved`].
    pub fn set_attributes_of(
        &self,
        name: &FileName,
        attributes: &Attributes,
    ) -> Result<Meta, RootError> {
        let os_name = usable(name)?;
        let (held, meta) = self.step(os_name)?;
        if meta.kind == FileKind::Other {
            return Err(RootError::NotAFile);
        }
        check_mode(attributes.mode, meta.kind)?;
        if let Some(bytes) = attributes.bytes {
            let how = super::OpenHow::write(alknet_core::files::Create::Never);
            let file = self.open_at(os_name, &how)?;
            if file.id() != meta.id {
                return Err(RootError::Changed);
            }
            file.set_len(bytes)?;
        }
        set_held(held.as_fd(), meta.kind, attributes)?;
        Ok(Meta::of(&rustix::fs::fstat(&held)?))
    }
}

/// All but the length, of what is held and perhaps not open.
fn set_held(
    held: BorrowedFd<'_>,
    kind: FileKind,
    attributes: &Attributes,
) -> Result<(), RootError> {
    check_mode(attributes.mode, kind)?;
    if attributes.bytes.is_some() && kind != FileKind::File {
        return Err(if kind == FileKind::Directory {
            Errno::ISDIR
        } else {
            Errno::INVAL
        }
        .into());
    }
    let (uid, gid) = owner(attributes)?;
    if uid.is_some() || gid.is_some() {
        set_owner(held, uid, gid)?;
    }
    if let Some(mode) = attributes.mode {
        if kind == FileKind::Symlink {
            return Err(Errno::OPNOTSUPP.into());
        }
        set_mode(held, Mode::from_raw_mode(raw_mode(mode)))?;
    }
    if let Some(times) = times(attributes) {
        set_times(held, &times)?;
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn set_owner(held: BorrowedFd<'_>, uid: Option<Uid>, gid: Option<Gid>) -> Result<(), RootError> {
    let itself = rustix::fs::AtFlags::EMPTY_PATH;
    Ok(rustix::fs::chownat(held, "", uid, gid, itself)?)
}

#[cfg(target_os = "linux")]
fn set_times(held: BorrowedFd<'_>, times: &Timestamps) -> Result<(), RootError> {
    let itself = rustix::fs::AtFlags::EMPTY_PATH;
    Ok(rustix::fs::utimensat(held, "", times, itself)?)
}

// Elsewhere what is held is open.
#[cfg(not(target_os = "linux"))]
fn set_owner(held: BorrowedFd<'_>, uid: Option<Uid>, gid: Option<Gid>) -> Result<(), RootError> {
    Ok(fchown(held, uid, gid)?)
}

#[cfg(not(target_os = "linux"))]
fn set_times(held: BorrowedFd<'_>, times: &Timestamps) -> Result<(), RootError> {
    Ok(futimens(held, times)?)
}

/// The mode of what is held without being open, by the one name that leads to
/// exactly it; the C library does the same.
fn set_mode(held: BorrowedFd<'_>, mode: Mode) -> Result<(), RootError> {
    match fchmod(held, mode) {
        Err(Errno::BADF) => {}
        said => return Ok(said?),
    }
    let own = format!("/proc/self/fd/{}", held.as_raw_fd());
    match rustix::fs::chmod(own, mode) {
        // No such names on this host.
        Err(Errno::NOENT | Errno::NOTDIR) => Err(Errno::OPNOTSUPP.into()),
        said => Ok(said?),
    }
}

fn check_mode(mode: Option<u32>, kind: FileKind) -> Result<(), RootError> {
    let Some(mode) = mode else { return Ok(()) };
    refuse_set_id(mode)?;
    match mode & 0o1000 != 0 && kind != FileKind::Directory {
        true => Err(Errno::INVAL.into()),
        false => Ok(()),
    }
}

/// # Errors
///
/// `EINVAL` for the number that means nobody.
fn owner(attributes: &Attributes) -> Result<(Option<Uid>, Option<Gid>), RootError> {
    let Attributes { uid, gid, .. } = *attributes;
    if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
        return Err(Errno::INVAL.into());
    }
    Ok((uid.map(Uid::from_raw), gid.map(Gid::from_raw)))
}

fn times(attributes: &Attributes) -> Option<Timestamps> {
    if attributes.mtime.is_none() && attributes.atime.is_none() {
        return None;
    }
    Some(Timestamps {
        last_access: timespec(attributes.atime),
        last_modification: timespec(attributes.mtime),
    })
}

fn timespec(time: Option<SetTime>) -> Timespec {
    let (seconds, nanoseconds) = match time {
        None => (0, UTIME_OMIT),
        Some(SetTime::Now) => (0, UTIME_NOW),
        Some(SetTime::To(FileTime {
            seconds,
            nanoseconds,
        })) => {
            // At most what a second has: more would be one of the words above.
            (seconds, nanoseconds.min(999_999_999).into())
        }
    };
    Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    }
}
