//! Names in a directory, page by page.

use super::{Directory, FileId, Meta, PARTIAL_PREFIX, RootError, meta::kind_of};
use alknet_core::files::{FileKind, FileName};
use std::{
    collections::VecDeque,
    ffi::OsStr,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
};

/// Bytes that the host fills with names at once.
const BUFFER_BYTES: usize = 32 * 1024;

/// How much is told of each entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Its name and what it is, which most file systems know without looking at it.
    Kinds,
    /// All its metadata, at the cost of one look at each.
    Meta,
}

/// A place in a listing, to go on from later, with the same directory.
///
/// What is there when the listing starts, and still is when it ends, is listed
/// once; what comes or goes meanwhile may be listed or not. On file systems that
/// count entries instead of marking places (tmpfs before Linux 6.6), that holds
/// for one [`Listing`] but not for one that goes on at a place after removals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Which directory.
    pub directory: FileId,
    /// The host's own mark of the place after the last entry; 0 at the start.
    pub cookie: u64,
}

/// One entry of a listing.
#[derive(Clone, Debug)]
pub struct ListEntry {
    /// Its name.
    pub name: FileName,
    /// What it is.
    pub kind: FileKind,
    /// What else is known, if it was asked for.
    pub meta: Option<Meta>,
    /// The place after it.
    pub next: Position,
}

/// A listing under way; holds one buffer of names, however many there are.
#[derive(Debug)]
pub struct Listing {
    directory: Directory,
    handle: OwnedFd,
    ready: VecDeque<Raw>,
    cookie: u64,
    is_over: bool,
    with_partials: bool,
}

#[derive(Debug)]
struct Raw {
    name: Box<[u8]>,
    kind: Option<FileKind>,
    cookie: u64,
}

impl Directory {
    /// Starts a listing, or goes on with one. Entries come in the host's order;
    /// partial files and hidden directories are left out.
    ///
    /// # Errors
    ///
    /// What the host answers, above all that the directory may not be read;
    /// [`RootError::Changed`] if `from` is a place in another directory.
    pub fn list(&self, from: Option<Position>) -> Result<Listing, RootError> {
        let mut listing = self.list_all()?;
        listing.with_partials = false;
        if let Some(from) = from {
            if from.directory != self.id {
                return Err(RootError::Changed);
            }
            listing.go_to(from.cookie)?;
        }
        Ok(listing)
    }

    /// A listing from the start, with partial files: for what counts or removes them.
    ///
    /// # Errors
    ///
    /// What the host answers, above all that the directory may not be read.
    pub fn list_all(&self) -> Result<Listing, RootError> {
        Ok(Listing {
            directory: self.clone(),
            handle: self.readable()?,
            ready: VecDeque::new(),
            cookie: 0,
            is_over: false,
            with_partials: true,
        })
    }
}

impl Listing {
    /// The next entries, up to `entries_max`; none at the end.
    ///
    /// # Errors
    ///
    /// What the host answers.
    pub fn page(
        &mut self,
        entries_max: usize,
        detail: Detail,
    ) -> Result<Vec<ListEntry>, RootError> {
        let mut page = Vec::new();
        while page.len() < entries_max {
            match self.next(detail)? {
                Some(entry) => page.push(entry),
                None => break,
            }
        }
        Ok(page)
    }

    /// The next entry; `None` at the end.
    ///
    /// # Errors
    ///
    /// What the host answers.
    pub fn next(&mut self, detail: Detail) -> Result<Option<ListEntry>, RootError> {
        loop {
            if self.ready.is_empty() && !self.is_over {
                self.fill()?;
            }
            let Some(raw) = self.ready.pop_front() else {
                return Ok(None);
            };
            self.cookie = raw.cookie;
            if let Some(entry) = self.entry(&raw, detail)? {
                return Ok(Some(entry));
            }
        }
    }

    /// The place after the last entry that was given.
    #[must_use]
    pub fn position(&self) -> Position {
        Position {
            directory: self.directory.id,
            cookie: self.cookie,
        }
    }

    /// Starts anew.
    pub(super) fn rewind(&mut self) -> Result<(), RootError> {
        self.go_to(0)
    }

    pub(super) fn go_to(&mut self, cookie: u64) -> Result<(), RootError> {
        self.ready.clear();
        self.is_over = false;
        self.cookie = cookie;
        self.seek_to(cookie)
    }

    /// `None` for what is left out, or gone.
    fn entry(&self, raw: &Raw, detail: Detail) -> Result<Option<ListEntry>, RootError> {
        if !self.with_partials && raw.name.starts_with(PARTIAL_PREFIX.as_bytes()) {
            return Ok(None);
        }
        // The host only tells names of 1 to 255 bytes; a file system that does not
        // is one that nothing could be done with by such a name.
        let Ok(name) = FileName::new(raw.name.clone()) else {
            return Ok(None);
        };
        let may_be_hidden = raw.kind == Some(FileKind::Directory) && self.directory.holds_hidden();
        let known = match raw.kind {
            Some(kind) if detail == Detail::Kinds && !may_be_hidden => Some((kind, None)),
            _ => self.look(&raw.name)?.map(|meta| (meta.kind, Some(meta))),
        };
        Ok(known.map(|(kind, meta)| ListEntry {
            name,
            kind,
            meta: meta.filter(|_| detail == Detail::Meta),
            next: self.position(),
        }))
    }

    fn look(&self, name: &[u8]) -> Result<Option<Meta>, RootError> {
        match self.directory.meta_at(OsStr::from_bytes(name)) {
            Ok(meta) => Ok(Some(meta)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    #[cfg(target_os = "linux")]
    fn seek_to(&mut self, cookie: u64) -> Result<(), RootError> {
        rustix::fs::seek(&self.handle, rustix::fs::SeekFrom::Start(cookie))?;
        Ok(())
    }

    #[cfg(not(target_os = "linux"))]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps)]
    fn seek_to(&mut self, _: u64) -> Result<(), RootError> {
        Ok(())
    }

    #[cfg(target_os = "linux")]
    fn fill(&mut self) -> Result<(), RootError> {
        let mut buffer = Vec::<u8>::with_capacity(BUFFER_BYTES);
        let mut entries = rustix::fs::RawDir::new(&self.handle, buffer.spare_capacity_mut());
        loop {
            let Some(entry) = entries.next() else {
                self.is_over = true;
                return Ok(());
            };
            let entry = match entry {
                // The directory was removed while it was listed.
                Err(rustix::io::Errno::NOENT) => {
                    self.is_over = true;
                    return Ok(());
                }
                entry => entry?,
            };
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                self.ready.push_back(Raw {
                    name: name.into(),
                    kind: kind_of(entry.file_type()),
                    cookie: entry.next_entry_cookie(),
                });
            }
            if entries.is_buffer_empty() && !self.ready.is_empty() {
                return Ok(());
            }
        }
    }

    /// Where the host gives no marks of places that last, a place is a count of
    /// entries: a listing that goes on after changes may miss or repeat some.
    #[cfg(not(target_os = "linux"))]
    fn fill(&mut self) -> Result<(), RootError> {
        let mut entries = rustix::fs::Dir::read_from(&self.handle)?;
        let skipped = usize::try_from(self.cookie).unwrap_or(usize::MAX);
        let mut count = self.cookie;
        for entry in entries.by_ref().skip(skipped) {
            let entry = entry?;
            count += 1;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                self.ready.push_back(Raw {
                    name: name.into(),
                    kind: kind_of(entry.file_type()),
                    cookie: count,
                });
            }
            if self.ready.len() == BUFFER_BYTES / 32 {
                return Ok(());
            }
        }
        self.is_over = true;
        Ok(())
    }
}
