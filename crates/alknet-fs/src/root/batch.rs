//! Many small files made durable together.

use super::{Commit, FileId, Meta, Partial, RootError};
use std::{collections::HashMap, io};

/// Fewer files are synced each by itself: a sync of the whole file system waits for
/// what others write, too.
const TOGETHER_FROM: usize = 4;

/// Partial files that are committed together: their contents are synced at once, then
/// they take their names, then each directory is synced once.
#[derive(Debug, Default)]
pub struct Batch {
    files: Vec<(Partial, Commit)>,
}

impl Batch {
    /// With nothing in it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file that is written. It stays open until the batch is committed: who
    /// adds thousands runs out of handles.
    pub fn add(&mut self, partial: Partial, commit: Commit) {
        self.files.push((partial, commit));
    }

    /// How many files it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Commits all, in the order in which they were added, and tells of each what
    /// [`Partial::commit`] would tell. A file that fails holds up no other; when the
    /// disk fails to sync, all fail.
    pub fn commit(self) -> Vec<Result<Meta, RootError>> {
        let mut files: Vec<Item> = self.files.into_iter().map(Item::prepare).collect();
        sync_contents(&mut files);
        for item in &mut files {
            item.step(|partial, commit| partial.place(commit));
        }
        sync_directories(&mut files);
        files.into_iter().map(Item::finish).collect()
    }
}

struct Item {
    partial: Partial,
    commit: Commit,
    failed: Option<RootError>,
}

impl Item {
    fn prepare((partial, commit): (Partial, Commit)) -> Self {
        let mut item = Self {
            partial,
            commit,
            failed: None,
        };
        item.step(|partial, commit| partial.prepare(commit));
        item
    }

    fn step(&mut self, act: impl FnOnce(&mut Partial, &Commit) -> Result<(), RootError>) {
        if self.failed.is_none() {
            self.failed = act(&mut self.partial, &self.commit).err();
        }
    }

    fn is_to_sync(&self) -> bool {
        self.failed.is_none() && self.commit.durable
    }

    fn finish(self) -> Result<Meta, RootError> {
        match self.failed {
            Some(error) => Err(error),
            None => self.partial.file().meta(),
        }
    }
}

fn sync_contents(files: &mut [Item]) {
    let mut of_device: HashMap<u64, Vec<usize>> = HashMap::new();
    for (at, item) in files
        .iter()
        .enumerate()
        .filter(|(_, item)| item.is_to_sync())
    {
        of_device
            .entry(item.partial.file().id().device)
            .or_default()
            .push(at);
    }
    for same in of_device.into_values() {
        if same.len() < TOGETHER_FROM || !cfg!(target_os = "linux") {
            for at in same {
                files[at].step(|partial, _| partial.file().sync());
            }
            continue;
        }
        #[cfg(target_os = "linux")]
        if let Err(error) = rustix::fs::syncfs(files[same[0]].partial.file()) {
            for at in same {
                files[at].failed = Some(again(&error.into()));
            }
        }
    }
}

fn sync_directories(files: &mut [Item]) {
    let mut synced: HashMap<FileId, Result<(), RootError>> = HashMap::new();
    for item in files.iter_mut().filter(|item| item.is_to_sync()) {
        let id = item.partial.directory().id();
        let said = synced
            .entry(id)
            .or_insert_with(|| item.partial.sync_directory());
        if let Err(error) = said {
            item.failed = Some(again(error));
        }
    }
}

/// The same error for one more file.
fn again(error: &RootError) -> RootError {
    match error.errno() {
        Some(errno) => io::Error::from_raw_os_error(errno).into(),
        None => RootError::Changed,
    }
}
