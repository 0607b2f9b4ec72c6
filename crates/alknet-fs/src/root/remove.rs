//! Trees removed.

use super::{
    Directory, FileId, ListEntry, Listing, Meta, Position, RootError,
    directory::{directory_flags, usable},
    list::Detail,
};
use alknet_core::files::{FileKind, FileName};
use cap_std::fs::Dir;
use rustix::{
    fs::{AtFlags, Mode, fstat, openat, unlinkat},
    io::Errno,
};
use std::{ffi::OsStr, os::unix::ffi::OsStrExt, sync::Arc};

/// Levels of a tree whose directories are held open at once; each holds two handles.
const HELD_MAX: usize = 32;

/// Times that a directory is listed anew because something was put into it.
const RESCANS_MAX: usize = 3;

/// What is to become of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes, with what is in it.
    Remove,
    /// It stays, with all that is in it, and the directories it lies in.
    Keep,
    /// Nothing more is removed.
    Stop,
}

/// What became of a tree.
#[derive(Debug, Default)]
pub struct Removed {
    /// Files, symlinks and others that are gone.
    pub files: u64,
    /// Directories that are gone.
    pub directories: u64,
    /// Entries that are still there, as told or because the host refused; not the
    /// directories that are there because of them.
    pub left: u64,
    /// The first error, and below the tree's top where.
    pub failed: Option<(Vec<FileName>, RootError)>,
    /// Whether the whole tree is gone.
    pub is_all: bool,
}

impl Directory {
    /// Removes the entry `name` and all that is below it, without following
    /// anything: a directory that is swapped for a symlink meanwhile is not entered.
    ///
    /// `judge` hears of each entry before it is removed: its names below `name` (none
    /// for itself) and what it is; of a directory before what is in it. Partial files
    /// go without being asked about. An entry that the host keeps is counted, and the
    /// others are removed. At most 64 handles are open at once, however deep it is.
    ///
    /// # Errors
    ///
    /// What the host answers about `name` itself, [`RootError::NameReserved`]. What
    /// comes after is told in [`Removed::failed`]: among them [`RootError::Changed`],
    /// which ends it, if the tree was moved away, and [`RootError::Stopped`].
    pub fn remove_tree(
        &self,
        name: &FileName,
        judge: &mut dyn FnMut(&[FileName], FileKind) -> Verdict,
    ) -> Result<Removed, RootError> {
        let meta = self.meta_at(usable(name)?)?;
        let mut removal = Removal {
            base: self,
            name,
            judge,
            levels: Vec::new(),
            path: Vec::new(),
            removed: Removed::default(),
        };
        match removal.run(&meta) {
            Ok(is_all) => removal.removed.is_all = is_all,
            Err(error) => removal.fail(error),
        }
        Ok(removal.removed)
    }
}

/// A directory whose content is being removed.
struct Level {
    id: FileId,
    open: Option<(Directory, Listing)>,
    /// Where to go on when it is opened again.
    position: Position,
    /// Whether something in it stays.
    is_kept: bool,
    rescans: usize,
}

struct Removal<'a> {
    base: &'a Directory,
    name: &'a FileName,
    judge: &'a mut dyn FnMut(&[FileName], FileKind) -> Verdict,
    levels: Vec<Level>,
    /// Names of all levels but the first.
    path: Vec<FileName>,
    removed: Removed,
}

impl Removal<'_> {
    fn run(&mut self, top: &Meta) -> Result<bool, RootError> {
        match (self.judge)(&[], top.kind) {
            Verdict::Remove => {}
            Verdict::Keep => {
                self.removed.left += 1;
                return Ok(false);
            }
            Verdict::Stop => return Err(RootError::Stopped),
        }
        let os_name = usable(self.name)?;
        if top.kind != FileKind::Directory {
            unlinkat(&*self.base.handle, os_name, AtFlags::empty())?;
            self.removed.files += 1;
            return Ok(true);
        }
        let directory = self.base.enter_at(os_name)?;
        self.push(directory)?;
        while let Some(level) = self.levels.last_mut() {
            let Some((directory, listing)) = &mut level.open else {
                return Err(RootError::Changed);
            };
            let here = directory.clone();
            match listing.next(Detail::Kinds)? {
                Some(entry) => self.entry(&here, entry)?,
                None => {
                    if self.ascend(&here)? {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }

    fn entry(&mut self, here: &Directory, entry: ListEntry) -> Result<(), RootError> {
        let name = OsStr::from_bytes(entry.name.as_bytes()).to_owned();
        self.path.push(entry.name);
        let is_partial = super::partial::is_partial(name.as_bytes());
        let verdict = match is_partial {
            true => Verdict::Remove,
            false => (self.judge)(&self.path, entry.kind),
        };
        match verdict {
            Verdict::Remove => {}
            Verdict::Keep => {
                self.keep();
                self.path.pop();
                return Ok(());
            }
            Verdict::Stop => return Err(RootError::Stopped),
        }
        if entry.kind == FileKind::Directory {
            match here
                .enter_at(&name)
                .and_then(|directory| self.push(directory))
            {
                Ok(()) => return Ok(()),
                Err(error) => self.note(error),
            }
        } else {
            match unlinkat(&*here.handle, &*name, AtFlags::empty()) {
                Ok(()) => self.removed.files += 1,
                Err(error) => self.note(error.into()),
            }
        }
        self.path.pop();
        Ok(())
    }

    /// Leaves the directory at the end of its listing, and removes it; `true` if it
    /// was the top and is gone.
    fn ascend(&mut self, here: &Directory) -> Result<bool, RootError> {
        let Some(mut level) = self.levels.pop() else {
            return Ok(false);
        };
        let parent = match self.levels.last_mut() {
            Some(above) => above.reopen(here)?,
            None => self.base.clone(),
        };
        let name = self.path.last().unwrap_or(self.name);
        let name = OsStr::from_bytes(name.as_bytes()).to_owned();
        let said = match here.holds_hidden() {
            true => Err(Errno::BUSY),
            // What stays in it is known: no need to ask.
            false if level.is_kept => Err(Errno::NOTEMPTY),
            false => unlinkat(&*parent.handle, &*name, AtFlags::REMOVEDIR),
        };
        match said {
            Ok(()) => self.removed.directories += 1,
            Err(Errno::NOTEMPTY | Errno::EXIST) if level.is_kept => self.keep_above(),
            Err(Errno::NOTEMPTY | Errno::EXIST) if level.rescans < RESCANS_MAX => {
                level.rescans += 1;
                if let Some((_, listing)) = &mut level.open {
                    listing.rewind()?;
                }
                self.levels.push(level);
                return Ok(false);
            }
            Err(error) => self.note(error.into()),
        }
        self.path.pop();
        Ok(self.levels.is_empty() && said.is_ok())
    }

    fn push(&mut self, directory: Directory) -> Result<(), RootError> {
        let listing = directory.list_all()?;
        self.levels.push(Level {
            id: directory.id,
            position: listing.position(),
            open: Some((directory, listing)),
            is_kept: false,
            rescans: 0,
        });
        if let Some(far) = self.levels.len().checked_sub(HELD_MAX + 1) {
            self.levels[far].close();
        }
        Ok(())
    }

    /// Counts an error about the entry at hand; one that is gone is none.
    fn note(&mut self, error: RootError) {
        if error.is_not_found() {
            return;
        }
        self.fail(error);
        self.keep();
    }

    fn fail(&mut self, error: RootError) {
        let path = &self.path;
        self.removed
            .failed
            .get_or_insert_with(|| (path.clone(), error));
    }

    fn keep(&mut self) {
        self.removed.left += 1;
        self.keep_above();
    }

    fn keep_above(&mut self) {
        if let Some(level) = self.levels.last_mut() {
            level.is_kept = true;
        }
    }
}

impl Level {
    fn close(&mut self) {
        if let Some((_, listing)) = self.open.take() {
            self.position = listing.position();
        }
    }

    /// The directory, opened again if it was closed: from the one below, and only if
    /// it is the one that was left.
    fn reopen(&mut self, below: &Directory) -> Result<Directory, RootError> {
        if let Some((directory, _)) = &self.open {
            return Ok(directory.clone());
        }
        let handle = openat(below, "..", directory_flags(), Mode::empty())?;
        let directory = Directory {
            bounds: Arc::clone(&below.bounds),
            id: FileId::of(&fstat(&handle)?),
            handle: Arc::new(Dir::from_std_file(handle.into())),
            depth: below.depth.saturating_sub(1),
        };
        if directory.id != self.id {
            return Err(RootError::Changed);
        }
        let mut listing = directory.list_all()?;
        listing.go_to(self.position.cookie)?;
        self.open = Some((directory.clone(), listing));
        Ok(directory)
    }
}
