//! Open files.

use super::{Directory, FileId, Meta, RootError, directory::usable, entries::raw_mode};
use alknet_core::files::{Create, FileKind, FileName};
use cap_std::fs::OpenOptions;
use rustix::{
    fs::{Mode, OFlags, SeekFrom, fchmod, fstat, ftruncate, seek},
    io::Errno,
};
use std::{
    ffi::OsStr,
    fs::File as StdFile,
    io::{self, Write},
    ops::Range,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::FileExt,
    },
    sync::atomic::{AtomicBool, Ordering},
};

/// Times that a file is looked for again while others make, remove and swap it.
const TRIES: usize = 100;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenHow {
    /// For reading.
    pub read: bool,
    /// For writing anywhere.
    pub write: bool,
    /// For writing at the end only, wherever that is at each write.
    pub append: bool,
    /// Whether it is made.
    pub create: Create,
    /// Whether what it held is dropped; needs `write`.
    pub truncate: bool,
    /// The mode of a file that is made, less the process's umask; 0o666 if `None`.
    pub mode: Option<u32>,
}

impl OpenHow {
    /// For reading what is there.
    #[must_use]
    pub fn read() -> Self {
        Self {
            read: true,
            write: false,
            append: false,
            create: Create::Never,
            truncate: false,
            mode: None,
        }
    }

    /// For writing in place.
    #[must_use]
    pub fn write(create: Create) -> Self {
        Self {
            read: false,
            write: true,
            create,
            ..Self::read()
        }
    }

    fn options(&self) -> OpenOptions {
        let mut options = OpenOptions::new();
        options
            .read(self.read)
            .write(self.write)
            .append(self.append);
        options
    }
}

/// An open regular file.
#[derive(Debug)]
pub struct File {
    pub(super) inner: StdFile,
    id: FileId,
    appends: bool,
    /// It has no set-id bits, as far as we know.
    is_plain: AtomicBool,
}

impl Directory {
    /// Opens the file `name`.
    ///
    /// Never waits for a writer or reader of a FIFO and never touches a device:
    /// only what is a regular file before, and the same one after it was opened,
    /// is given out.
    ///
    /// # Errors
    ///
    /// What the host answers (`ENOENT`, `EEXIST`, `EISDIR` for a directory, `ELOOP`
    /// for a symlink, `EINVAL` for an `how` that makes no sense),
    /// [`RootError::NotAFile`], [`RootError::NameReserved`], [`RootError::SetId`],
    /// and [`RootError::Changed`] if it was swapped at every try.
    pub fn open(&self, name: &FileName, how: &OpenHow) -> Result<File, RootError> {
        self.open_at(usable(name)?, how)
    }

    pub(super) fn open_at(&self, name: &OsStr, how: &OpenHow) -> Result<File, RootError> {
        let writes = how.write || how.append;
        let makes = how.create != Create::Never;
        let makes_sense = match writes {
            true => !(how.append && how.truncate),
            false => how.read && !makes && !how.truncate,
        };
        if !makes_sense {
            return Err(Errno::INVAL.into());
        }
        let mode = how.mode.unwrap_or(0o666);
        refuse_set_id(mode)?;
        for _ in 0..TRIES {
            let opened = match self.meta_at(name) {
                Ok(_) if how.create == Create::New => return Err(Errno::EXIST.into()),
                Ok(meta) => self.open_found(name, how, &meta),
                Err(error) if error.is_not_found() && makes => self.make(name, how, mode),
                Err(error) => return Err(error),
            };
            if let Some(file) = opened? {
                return Ok(file);
            }
        }
        Err(RootError::Changed)
    }

    /// `None` if it is another one by now.
    fn open_found(
        &self,
        name: &OsStr,
        how: &OpenHow,
        found: &Meta,
    ) -> Result<Option<File>, RootError> {
        found.refuse_unless_file()?;
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let inner = match self.open_one(name, &how.options(), flags) {
            Ok(inner) => inner,
            // What swaps of names lead to: gone, a symlink, a FIFO nobody reads, a
            // directory. The next look tells which.
            Err(error) if is_swap(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let stat = fstat(&inner)?;
        let meta = Meta::of(&stat);
        if meta.id != found.id || meta.kind != FileKind::File {
            return Ok(None);
        }
        if how.truncate {
            drop_set_id(&inner)?;
            ftruncate(&inner, 0)?;
        }
        Ok(Some(File::new(inner, meta.id, how.append, false)))
    }

    /// `None` if it is there by now.
    fn make(&self, name: &OsStr, how: &OpenHow, mode: u32) -> Result<Option<File>, RootError> {
        use cap_std::fs::OpenOptionsExt as _;
        self.refuse_taken(name)?;
        let mut options = how.options();
        options.create_new(true).mode(mode);
        match self.open_one(name, &options, OFlags::NONBLOCK | OFlags::NOCTTY) {
            Ok(inner) => {
                let id = FileId::of(&fstat(&inner)?);
                Ok(Some(File::new(inner, id, how.append, true)))
            }
            Err(error) if error.errno() == Some(Errno::EXIST.raw_os_error()) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether an error is one that an entry causes that was swapped after it was seen
/// to be a file.
fn is_swap(error: &RootError) -> bool {
    let swaps = [
        Errno::NOENT,
        Errno::LOOP,
        Errno::NXIO,
        Errno::ISDIR,
        Errno::NODEV,
    ];
    let errno = error.errno();
    swaps.iter().any(|swap| Some(swap.raw_os_error()) == errno)
}

/// Refuses the bits that make a program run as somebody else, and what is no mode.
pub(super) fn refuse_set_id(mode: u32) -> Result<(), RootError> {
    if mode & !0o7777 != 0 {
        return Err(Errno::INVAL.into());
    }
    if mode & 0o6000 != 0 {
        return Err(RootError::SetId);
    }
    Ok(())
}

/// Where this account may not, the host does it when the file is written.
fn drop_set_id(file: &StdFile) -> Result<(), RootError> {
    let mode = Meta::of(&fstat(file)?).mode;
    if mode & 0o6000 == 0 {
        return Ok(());
    }
    match fchmod(file, Mode::from_raw_mode(raw_mode(mode & !0o6000))) {
        Err(Errno::PERM) => Ok(()),
        said => Ok(said?),
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl File {
    fn new(inner: StdFile, id: FileId, appends: bool, is_plain: bool) -> Self {
        Self {
            inner,
            id,
            appends,
            is_plain: AtomicBool::new(is_plain),
        }
    }

    /// Takes set-id bits away before the content changes.
    pub(super) fn make_plain(&self) -> Result<(), RootError> {
        if !self.is_plain.load(Ordering::Relaxed) {
            drop_set_id(&self.inner)?;
            self.is_plain.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Which file of the host it is.
    #[must_use]
    pub fn id(&self) -> FileId {
        self.id
    }

    /// Reads what is at `offset` into `buffer` and returns how many bytes: fewer than
    /// fit only at the end of the file.
    ///
    /// # Errors
    ///
    /// What the host answers.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, RootError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self
                .inner
                .read_at(&mut buffer[filled..], offset + filled as u64)
            {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(filled)
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// A file loses its set-id bits before its content changes, here as by all that
    /// follows: else whoever may write it would choose what others run as its owner.
    /// Hosts do so themselves, but not for their administrator.
    ///
    /// # Errors
    ///
    /// What the host answers (`ENOSPC`, `EFBIG`, `EDQUOT`, ...): some of the bytes may
    /// have been written. `EINVAL` if it was opened to append.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), RootError> {
        // Linux would append them, wherever they are meant for.
        if self.appends {
            return Err(Errno::INVAL.into());
        }
        self.make_plain()?;
        Ok(self.inner.write_all_at(bytes, offset)?)
    }

    /// Writes all of `bytes` at the end. What others append meanwhile is before or
    /// behind, unless the host takes the bytes in several pieces.
    ///
    /// # Errors
    ///
    /// What the host answers; `EINVAL` if it was not opened to append.
    pub fn append(&self, bytes: &[u8]) -> Result<(), RootError> {
        if !self.appends {
            return Err(Errno::INVAL.into());
        }
        self.make_plain()?;
        Ok((&self.inner).write_all(bytes)?)
    }

    /// Cuts it, or lengthens it with a hole.
    ///
    /// # Errors
    ///
    /// What the host answers.
    pub fn set_len(&self, bytes: u64) -> Result<(), RootError> {
        self.make_plain()?;
        Ok(ftruncate(&self.inner, bytes)?)
    }

    /// Makes content and metadata last through a power cut. Its name in the
    /// directory needs [`Directory::sync`].
    ///
    /// # Errors
    ///
    /// What the host answers.
    pub fn sync(&self) -> Result<(), RootError> {
        Ok(self.inner.sync_all()?)
    }

    /// Makes the content last through a power cut, with what is needed to read it.
    ///
    /// # Errors
    ///
    /// What the host answers.
    pub fn sync_content(&self) -> Result<(), RootError> {
        Ok(self.inner.sync_data()?)
    }

    /// What is known about it now.
    ///
    /// # Errors
    ///
    /// What the host answers.
    pub fn meta(&self) -> Result<Meta, RootError> {
        Ok(Meta::of(&fstat(&self.inner)?))
    }

    /// The next range at or after `offset` that is no hole; `None` if only a hole
    /// follows, or nothing. Where the file system does not know holes, there are
    /// none.
    ///
    /// Moves the file's own position, which nothing here reads.
    ///
    /// # Errors
    ///
    /// What the host answers.
    pub fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>, RootError> {
        let start = match seek(&self.inner, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return self.all_from(offset),
            Err(error) => return Err(error.into()),
        };
        match seek(&self.inner, SeekFrom::Hole(start)) {
            Ok(end) if end > start => Ok(Some(start..end)),
            // Cut between the two questions.
            Ok(_) | Err(Errno::NXIO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn all_from(&self, offset: u64) -> Result<Option<Range<u64>>, RootError> {
        let bytes = self.meta()?.bytes;
        Ok((offset < bytes).then_some(offset..bytes))
    }
}
