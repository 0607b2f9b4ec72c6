//! What one watch sees of all changes.

use super::ring::{Item, What};
use alknet_core::files::{ChangeKind, FileError, FileKind, FileName, FilePath};

/// What is watched.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    asked: FilePath,
    path: FilePath,
    /// `path` is a file, looked at in its directory.
    is_file: bool,
    is_recursive: bool,
}

/// What a watch tells of a change.
#[derive(Debug)]
pub(super) enum Seen {
    Nothing,
    /// Of which kind, to what, and where that was before.
    Change(ChangeKind, Vec<FileName>, Option<Vec<FileName>>),
    /// What is watched is gone.
    Over,
    /// It cannot be watched any longer.
    Failed(FileError),
}

impl Scope {
    pub(super) fn new(
        asked: FilePath,
        path: FilePath,
        is_directory: bool,
        is_recursive: bool,
    ) -> Self {
        Self {
            asked,
            path,
            is_file: !is_directory,
            is_recursive: is_recursive && is_directory,
        }
    }

    /// As the caller named it.
    pub(super) fn asked(&self) -> &FilePath {
        &self.asked
    }

    /// After all links.
    pub(super) fn path(&self) -> &FilePath {
        &self.path
    }

    pub(super) fn is_recursive(&self) -> bool {
        self.is_recursive
    }

    /// The directory that is watched.
    pub(super) fn directory(&self) -> &[FileName] {
        let names = self.path.names();
        match names.split_last() {
            Some((_, above)) if self.is_file => above,
            _ => names,
        }
    }

    /// What is told of `item`, if the caller may list what `allows` says.
    pub(super) fn see(&self, item: &Item, allows: impl Fn(&[FileName]) -> bool) -> Seen {
        let shows = |names: &[FileName]| self.holds(names) && allows(names);
        let change = |kind| match shows(&item.names) {
            true => Seen::Change(kind, item.names.clone(), None),
            false => Seen::Nothing,
        };
        if self.is_ended_by(item) {
            return Seen::Over;
        }
        match &item.what {
            What::Created => change(ChangeKind::Created),
            What::Modified => change(ChangeKind::Modified),
            What::Attributes => change(ChangeKind::Attributes),
            What::Removed => change(ChangeKind::Removed),
            What::Renamed(None) => change(ChangeKind::Renamed),
            What::Renamed(Some(from)) => match (shows(from), shows(&item.names)) {
                (true, true) => {
                    Seen::Change(ChangeKind::Renamed, item.names.clone(), Some(from.clone()))
                }
                (false, true) => change(ChangeKind::Renamed),
                (true, false) => Seen::Change(ChangeKind::Removed, from.clone(), None),
                (false, false) => Seen::Nothing,
            },
            What::Missed => Seen::Change(ChangeKind::Missed, self.path.names().to_vec(), None),
            What::Lost(code, message) if self.depends_on(&item.names) => {
                Seen::Failed(FileError::new(*code, message.clone()))
            }
            What::Lost(..) => Seen::Nothing,
        }
    }

    fn holds(&self, names: &[FileName]) -> bool {
        if self.is_file {
            return names == self.path.names();
        }
        is_in(names, self.path.names(), self.is_recursive)
    }

    fn is_ended_by(&self, item: &Item) -> bool {
        ends(item, self.directory())
    }

    /// Whether a directory that is watched no longer takes something from it.
    fn depends_on(&self, names: &[FileName]) -> bool {
        self.directory().starts_with(names)
            || (self.is_recursive && names.starts_with(self.directory()))
    }
}

/// Whether `names` is an entry of the directory, or anything below it.
pub(super) fn is_in(names: &[FileName], directory: &[FileName], is_recursive: bool) -> bool {
    match names.len().checked_sub(directory.len()) {
        None | Some(0) => false,
        Some(1) => names.starts_with(directory),
        Some(_) => is_recursive && names.starts_with(directory),
    }
}

/// Whether after `item` the directory is no longer what has its name.
pub(super) fn ends(item: &Item, directory: &[FileName]) -> bool {
    if item.entry != Some(FileKind::Directory) {
        return false;
    }
    match &item.what {
        What::Removed | What::Renamed(None) => directory.starts_with(&item.names),
        What::Renamed(Some(from)) => {
            directory.starts_with(from) || directory.starts_with(&item.names)
        }
        _ => false,
    }
}
