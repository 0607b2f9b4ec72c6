//! A walk through a tree: entries of a directory before what is in them, in
//! memory that does not grow with the number of entries.

use crate::stream::EntryPath;
use alknet_core::{
    Permit,
    files::{
        FileError, FileErrorCode, FileKind, FilePath, FileService, FileStat, LISTING_ENTRIES_MAX,
        ListEntry, Listing,
    },
};
use std::{collections::VecDeque, sync::Arc};

/// Directories of at most so many entries are told in the order of their
/// names.
pub(super) const SORTED_ENTRIES_MAX: usize = LISTING_ENTRIES_MAX;
/// Directories that are kept open on the way down; those above are opened again
/// on the way back.
const OPEN_MAX: usize = 16;
/// Entries that wait on the way down, in all. With more of them, directories
/// are read in small pages, unsorted.
const WAITING_MAX: usize = 32 * 1024;
/// Entries of a small page.
const SMALL_PAGE: usize = 64;

/// What a walk tells.
#[derive(Debug)]
pub(super) enum Step {
    /// An entry. A directory is gone into next, unless [`Walk::skip`] is
    /// called.
    Entry(EntryPath, ListEntry),
    /// A directory that was gone into is complete.
    Left(EntryPath, FileStat),
    /// A directory that cannot be listed, or not to its end.
    Failed(EntryPath, FileError),
}

/// A walk below a directory. Links are not followed.
#[derive(Debug)]
pub(super) struct Walk {
    files: Arc<dyn FileService>,
    top: FilePath,
    real_top: FilePath,
    levels: Vec<Level>,
    /// The directory that was told last, to go into.
    next: Option<(EntryPath, FileStat)>,
}

#[derive(Debug)]
struct Level {
    path: EntryPath,
    /// The same after all links.
    real: FilePath,
    stat: Option<FileStat>,
    listing: Open,
    entries: VecDeque<ListEntry>,
}

#[derive(Debug)]
enum Open {
    Listing(Box<dyn Listing>),
    /// Closed; where to go on.
    At(String),
    /// Nothing more.
    End,
}

impl Walk {
    /// A walk below `top`, which must be a directory.
    pub(super) async fn begin(
        files: Arc<dyn FileService>,
        permit: &Permit,
        top: FilePath,
    ) -> Result<Self, FileError> {
        let mut walk = Self {
            files,
            real_top: top.clone(),
            top,
            levels: Vec::new(),
            next: None,
        };
        walk.enter(permit, EntryPath::default(), None).await?;
        Ok(walk)
    }

    /// The directory after all links.
    pub(super) fn real_top(&self) -> &FilePath {
        &self.real_top
    }

    /// Does not go into the directory that was told last.
    pub(super) fn skip(&mut self) {
        self.next = None;
    }

    /// What comes next; none at the end.
    pub(super) async fn next(&mut self, permit: &Permit) -> Option<Step> {
        if let Some((path, stat)) = self.next.take()
            && let Err(error) = self.enter(permit, path.clone(), Some(stat)).await
        {
            return Some(Step::Failed(path, error));
        }
        let level = self.levels.last_mut()?;
        if level.entries.is_empty()
            && let Err(error) = self.fill(permit).await
        {
            let path = self.levels.pop().map(|level| level.path);
            return Some(Step::Failed(path.unwrap_or_default(), error));
        }
        let level = self.levels.last_mut()?;
        let Some(entry) = level.entries.pop_front() else {
            let level = self.levels.pop()?;
            return match level.stat {
                Some(stat) => Some(Step::Left(level.path, stat)),
                None => None,
            };
        };
        let path = level.path.join(entry.name.clone());
        if entry.stat.kind == FileKind::Directory {
            self.next = Some((path.clone(), entry.stat.clone()));
        }
        Some(Step::Entry(path, entry))
    }

    async fn enter(
        &mut self,
        permit: &Permit,
        path: EntryPath,
        stat: Option<FileStat>,
    ) -> Result<(), FileError> {
        let mut listing = list(&*self.files, permit, &self.top, &path, None).await?;
        match (self.levels.last(), path.names().last()) {
            (Some(above), Some(name)) => {
                let expected = above.real.join(name.clone());
                is_still(&*listing, &expected.unwrap_or_else(|_| above.real.clone()))?;
            }
            _ => self.real_top = listing.path().clone(),
        }
        let waiting: usize = self.levels.iter().map(|level| level.entries.len()).sum();
        let mut entries = Vec::new();
        let mut is_complete = false;
        let most = match waiting > WAITING_MAX {
            true => SMALL_PAGE,
            false => SORTED_ENTRIES_MAX,
        };
        while entries.len() < most && !is_complete {
            let more = listing.next(permit, most - entries.len()).await?;
            is_complete = more.is_empty();
            entries.extend(more);
        }
        if is_complete {
            entries.sort_by(|a, b| a.name.cmp(&b.name));
        }
        let real = listing.path().clone();
        let listing = match is_complete {
            true => Open::End,
            false => Open::Listing(listing),
        };
        if let Some(above) = self.levels.len().checked_sub(OPEN_MAX) {
            self.levels[above].close();
        }
        self.levels.push(Level {
            path,
            real,
            stat,
            listing,
            entries: entries.into(),
        });
        Ok(())
    }

    /// Reads the next page of the directory at hand.
    async fn fill(&mut self, permit: &Permit) -> Result<(), FileError> {
        let Some(level) = self.levels.last() else {
            return Ok(());
        };
        if let Open::At(place) = &level.listing {
            let (path, real, place) = (level.path.clone(), level.real.clone(), place.clone());
            let listing = list(&*self.files, permit, &self.top, &path, Some(&place)).await?;
            is_still(&*listing, &real)?;
            if let Some(level) = self.levels.last_mut() {
                level.listing = Open::Listing(listing);
            }
        }
        let Some(level) = self.levels.last_mut() else {
            return Ok(());
        };
        if let Open::Listing(listing) = &mut level.listing {
            level.entries = listing.next(permit, LISTING_ENTRIES_MAX).await?.into();
            if level.entries.is_empty() {
                level.listing = Open::End;
            }
        }
        Ok(())
    }
}

/// Lists a directory below `top`.
async fn list(
    files: &dyn FileService,
    permit: &Permit,
    top: &FilePath,
    path: &EntryPath,
    from: Option<&str>,
) -> Result<Box<dyn Listing>, FileError> {
    let full = path
        .below(top)
        .map_err(|error| FileError::new(FileErrorCode::NameTooLong, error.to_string()))?;
    files.list(permit, &full, from).await
}

impl Level {
    fn close(&mut self) {
        if let Open::Listing(listing) = &self.listing {
            self.listing = Open::At(listing.place());
        }
    }
}

/// A directory that was swapped for a link meanwhile would lead elsewhere,
/// perhaps in a circle.
fn is_still(listing: &dyn Listing, real: &FilePath) -> Result<(), FileError> {
    match listing.path() == real {
        true => Ok(()),
        false => {
            let message = format!("`{real}`: it became a link while it was gone through");
            Err(FileError::new(FileErrorCode::FileChanged, message))
        }
    }
}
