//! A walk through a tree: entries of a directory before what is in them, in
//! memory that does not grow with the number of entries, nor with what they say.

use crate::stream::{EntryPath, TARGET_BYTES_MAX};
use alknet_core::{
    Permit,
    files::{
        FileError, FileErrorCode, FileKind, FileName, FilePath, FileService, FileStat,
        LISTING_ENTRIES_MAX, ListEntry, Listing, PathError,
    },
};
use std::{collections::VecDeque, sync::Arc};

/// Directories of at most so many entries are told in the order of their
/// names.
pub(super) const SORTED_ENTRIES_MAX: usize = LISTING_ENTRIES_MAX;
/// Directories that are kept open on the way down; those above are opened again
/// on the way back.
const OPEN_MAX: usize = 16;
/// Bytes of the entries that wait on the way down, in all. Each directory takes at
/// most half of what those above leave, in pages that fit whatever is in them; where
/// that is little, such pages are of one entry, which never waits.
const WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most bytes of one entry.
const ENTRY_BYTES_MAX: usize = 2 * size_of::<ListEntry>() + 256 + 256 + TARGET_BYTES_MAX;

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
    /// Of the last level, below the top.
    names: Vec<FileName>,
    /// The directory that was told last, to go into.
    next: Option<(EntryPath, FileStat)>,
}

#[derive(Debug)]
struct Level {
    stat: Option<FileStat>,
    listing: Open,
    entries: VecDeque<ListEntry>,
    /// Of these entries.
    bytes: usize,
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
            names: Vec::new(),
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
        if self.levels.last()?.entries.is_empty()
            && let Err(error) = self.fill(permit).await
        {
            let (path, _) = self.leave()?;
            return Some(Step::Failed(path, error));
        }
        let Some(entry) = self.levels.last_mut()?.take() else {
            let (path, stat) = self.leave()?;
            return Some(Step::Left(path, stat?));
        };
        let path = self.path().join(entry.name.clone());
        if entry.stat.kind == FileKind::Directory {
            self.next = Some((path.clone(), entry.stat.clone()));
        }
        Some(Step::Entry(path, entry))
    }

    /// Of the last level.
    fn path(&self) -> EntryPath {
        EntryPath::new(self.names.clone())
    }

    /// Goes up.
    fn leave(&mut self) -> Option<(EntryPath, Option<FileStat>)> {
        let path = self.path();
        self.names.pop();
        Some((path, self.levels.pop()?.stat))
    }

    async fn enter(
        &mut self,
        permit: &Permit,
        path: EntryPath,
        stat: Option<FileStat>,
    ) -> Result<(), FileError> {
        let mut listing = list(&*self.files, permit, &self.top, &path, None).await?;
        match path.is_empty() {
            true => self.real_top = listing.path().clone(),
            false => is_still(&*listing, &self.real_top, &path)?,
        }
        let most = self.room();
        let mut level = Level {
            stat,
            listing: Open::End,
            entries: VecDeque::new(),
            bytes: 0,
        };
        let mut is_complete = false;
        while level.entries.len() < SORTED_ENTRIES_MAX && !is_complete {
            let page = page_of(most.saturating_sub(level.bytes));
            let page = page.min(SORTED_ENTRIES_MAX - level.entries.len());
            let more = listing.next(permit, page).await?;
            is_complete = more.is_empty();
            level.put(more);
            if level.bytes + ENTRY_BYTES_MAX > most {
                break;
            }
        }
        if is_complete {
            let entries = level.entries.make_contiguous();
            entries.sort_by(|a, b| a.name.cmp(&b.name));
        } else {
            level.listing = Open::Listing(listing);
        }
        if let Some(above) = self.levels.len().checked_sub(OPEN_MAX) {
            self.levels[above].close();
        }
        if let Some(above) = self.levels.last_mut() {
            above.shrink();
        }
        self.names.extend(path.names().last().cloned());
        self.levels.push(level);
        Ok(())
    }

    /// Reads the next page of the directory at hand.
    async fn fill(&mut self, permit: &Permit) -> Result<(), FileError> {
        let most = self.room();
        let path = self.path();
        let Some(level) = self.levels.last_mut() else {
            return Ok(());
        };
        if let Open::At(place) = &level.listing {
            let place = Some(place.as_str());
            let listing = list(&*self.files, permit, &self.top, &path, place).await?;
            is_still(&*listing, &self.real_top, &path)?;
            level.listing = Open::Listing(listing);
        }
        if let Open::Listing(listing) = &mut level.listing {
            let more = listing.next(permit, page_of(most)).await?;
            if more.is_empty() {
                level.listing = Open::End;
            }
            level.put(more);
        }
        Ok(())
    }

    /// Bytes of entries that wait.
    fn waiting(&self) -> usize {
        self.levels.iter().map(|level| level.bytes).sum()
    }

    /// Bytes that may wait in one more directory.
    fn room(&self) -> usize {
        WAITING_BYTES_MAX.saturating_sub(self.waiting()) / 2
    }
}

/// Entries that fit into so many bytes, whatever they say; one in any case.
fn page_of(bytes: usize) -> usize {
    (bytes / ENTRY_BYTES_MAX).clamp(1, LISTING_ENTRIES_MAX)
}

/// Lists a directory below `top`.
async fn list(
    files: &dyn FileService,
    permit: &Permit,
    top: &FilePath,
    path: &EntryPath,
    from: Option<&str>,
) -> Result<Box<dyn Listing>, FileError> {
    let full = path.below(top).map_err(too_long)?;
    files.list(permit, &full, from).await
}

impl Level {
    fn put(&mut self, entries: Vec<ListEntry>) {
        self.bytes += entries.iter().map(bytes_of).sum::<usize>();
        self.entries.extend(entries);
    }

    fn take(&mut self) -> Option<ListEntry> {
        let entry = self.entries.pop_front()?;
        self.bytes -= bytes_of(&entry);
        Some(entry)
    }

    /// Lets go of the room of entries that were taken.
    fn shrink(&mut self) {
        if self.entries.capacity() > 2 * self.entries.len() {
            self.entries.shrink_to_fit();
        }
    }

    fn close(&mut self) {
        if let Open::Listing(listing) = &self.listing {
            self.listing = Open::At(listing.place());
        }
    }
}

/// Bytes that an entry takes while it waits, with as much room again for others.
fn bytes_of(entry: &ListEntry) -> usize {
    let target = entry.target.as_ref().map_or(0, String::len);
    let texts = entry.name.as_bytes().len() + entry.stat.version.len() + target;
    2 * size_of::<ListEntry>() + texts
}

/// A directory that was swapped for a link meanwhile would lead elsewhere,
/// perhaps in a circle.
fn is_still(listing: &dyn Listing, real_top: &FilePath, path: &EntryPath) -> Result<(), FileError> {
    let real = path.below(real_top).map_err(too_long)?;
    match *listing.path() == real {
        true => Ok(()),
        false => {
            let message = format!("`{real}`: it became a link while it was gone through");
            Err(FileError::new(FileErrorCode::FileChanged, message))
        }
    }
}

fn too_long(error: PathError) -> FileError {
    FileError::new(FileErrorCode::NameTooLong, error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{BucketConfig, Buckets, FilesConfig, file_operations};
    use alknet_core::{Caller, Dispatcher, Registry};
    use std::{collections::BTreeSet, fs, os::unix::fs::symlink, path::Path};

    /// Far more than may wait: in each directory links with long targets come after
    /// the way down.
    fn deep_and_wide(top: &Path, levels: usize, links: usize) -> usize {
        let target = "\u{1}".repeat(4000);
        let mut at = top.to_owned();
        for _ in 0..levels {
            for link in 0..links {
                symlink(&target, at.join(format!("link{link:04}"))).unwrap();
            }
            at.push("d");
            fs::create_dir(&at).unwrap();
        }
        levels * (links + 1)
    }

    #[tokio::test]
    async fn what_waits_is_bounded_however_deep_and_wide_a_tree_is() {
        let dir = tempfile::tempdir().unwrap();
        let entries = deep_and_wide(dir.path(), 24, 100);
        let config = BucketConfig::new("www", dir.path().to_owned());
        let files: Arc<dyn FileService> =
            Buckets::new(&FilesConfig::default(), &[config], None).unwrap();
        let registry = Registry::new();
        registry.register(file_operations(&files)).unwrap();
        let door = Dispatcher::builder(registry).build();
        let permit = door.authorize(&Caller::host(), "fs/list").unwrap();
        let top = FilePath::parse("www").unwrap();
        let mut walk = Walk::begin(files, &permit, top).await.unwrap();
        let (mut told, mut left, mut most) = (BTreeSet::new(), 0, 0);
        while let Some(step) = walk.next(&permit).await {
            most = most.max(walk.waiting());
            match step {
                Step::Entry(path, _) => assert!(told.insert(path.clone()), "{path} is told twice"),
                Step::Left(path, _) => {
                    left += 1;
                    assert_eq!(path.names().len(), 25 - left);
                }
                Step::Failed(path, error) => panic!("{path}: {error}"),
            }
        }
        assert_eq!((told.len(), left), (entries, 24));
        // It came close to the bound, and did not pass it.
        assert!(most > WAITING_BYTES_MAX / 2, "{most}");
        assert!(most <= WAITING_BYTES_MAX, "{most}");
    }
}
