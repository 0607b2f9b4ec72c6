//! A disk that keeps only what was synced.

use super::{
    Seeded,
    read::{Step, What},
};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

const SECTOR: u64 = 512;

/// What becomes of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// All of it is lost.
    Lost,
    /// A part is there, another one for each seed.
    Part(u64),
    /// All of it is there, as after a kill.
    Kept,
}

/// The files of one directory and those below it, as they are and as power loss
/// may leave them.
#[derive(Clone, Debug)]
pub struct Disk {
    files: Vec<File>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Oldest first.
    renamings: Vec<Renaming>,
    syncs: HashMap<u64, Sync>,
    descriptors: HashMap<u64, Descriptor>,
    /// Orders changes and syncs.
    clock: u64,
    /// Decides what a failed sync has written.
    random: Seeded,
}

#[derive(Clone, Debug, Default)]
struct File {
    durable: Vec<u8>,
    /// Oldest first.
    changes: Vec<Change>,
    len: u64,
}

#[derive(Clone, Debug)]
struct Change {
    at: u64,
    what: Edit,
}

#[derive(Clone, Debug)]
enum Edit {
    Write { offset: u64, data: Vec<u8> },
    Truncate { len: u64 },
}

/// Names that change together.
#[derive(Clone, Debug)]
struct Renaming {
    at: u64,
    names: Vec<(PathBuf, Option<usize>)>,
}

#[derive(Clone, Debug)]
struct Sync {
    what: Synced,
    begun: u64,
}

#[derive(Clone, Debug)]
enum Synced {
    File(usize),
    /// By its path; the empty one is the directory that is looked at.
    Directory(PathBuf),
}

#[derive(Clone, Copy, Debug)]
struct Descriptor {
    at: u64,
    append: bool,
}

impl Disk {
    /// A disk whose directory is empty. The seed decides what failed syncs
    /// have written all the same.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            renamings: Vec::new(),
            syncs: HashMap::new(),
            descriptors: HashMap::new(),
            clock: 0,
            random: Seeded::new(seed),
        }
    }

    /// Adds a file that was there before, whole and durable.
    pub fn put(&mut self, path: impl Into<PathBuf>, contents: Vec<u8>) {
        let file = self.add_file();
        self.files[file].len = contents.len() as u64;
        self.files[file].durable = contents;
        let path = path.into();
        self.names.insert(path.clone(), file);
        self.durable_names.insert(path, file);
    }

    /// Adds the files of a directory, but no subdirectories.
    ///
    /// # Errors
    ///
    /// What the system says if they cannot be read.
    pub fn put_all(&mut self, dir: &Path) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                self.put(entry.file_name(), fs::read(entry.path())?);
            }
        }
        Ok(())
    }

    /// Plays one step.
    pub fn play(&mut self, step: &Step) {
        self.clock += 1;
        match &step.what {
            What::Open {
                fd,
                path,
                create,
                truncate,
                append,
            } => {
                if *create && !path.as_os_str().is_empty() {
                    self.file(path);
                }
                let append = *append;
                self.descriptors.insert(*fd, Descriptor { at: 0, append });
                if *truncate && let Some(&file) = self.names.get(path) {
                    self.edit(file, Edit::Truncate { len: 0 });
                }
            }
            What::Seek { fd, to } => {
                if let Some(descriptor) = self.descriptors.get_mut(fd) {
                    descriptor.at = *to;
                }
            }
            What::Write {
                fd,
                path,
                offset,
                data,
            } => self.write(*fd, path, *offset, data.clone()),
            What::Truncate { path, len } => {
                let file = self.file(path);
                self.edit(file, Edit::Truncate { len: *len });
            }
            What::SyncBegins { call, path } => {
                // A file has been seen before it is synced.
                let what = match self.names.get(path) {
                    Some(&file) => Synced::File(file),
                    None => Synced::Directory(path.clone()),
                };
                let begun = self.clock;
                self.syncs.insert(*call, Sync { what, begun });
            }
            What::SyncEnds { call, done } => {
                if let (Some(sync), Some(done)) = (self.syncs.remove(call), done) {
                    self.synced(sync, *done);
                }
            }
            What::Rename { from, to } => {
                let file = self.names.remove(from);
                self.rename(vec![(to.clone(), file), (from.clone(), None)]);
            }
            What::Unlink { path } => self.rename(vec![(path.clone(), None)]),
            What::Mark(_) => {}
        }
    }

    fn add_file(&mut self) -> usize {
        self.files.push(File::default());
        self.files.len() - 1
    }

    /// The file of this name, which is made if it is new.
    fn file(&mut self, path: &Path) -> usize {
        if let Some(&file) = self.names.get(path) {
            return file;
        }
        let file = self.add_file();
        self.rename(vec![(path.to_owned(), Some(file))]);
        file
    }

    fn rename(&mut self, names: Vec<(PathBuf, Option<usize>)>) {
        set(&mut self.names, &names);
        let at = self.clock;
        self.renamings.push(Renaming { at, names });
    }

    fn write(&mut self, fd: u64, path: &Path, offset: Option<u64>, data: Vec<u8>) {
        let file = self.file(path);
        let len = self.files[file].len;
        let bytes = data.len() as u64;
        let offset = offset.unwrap_or_else(|| match self.descriptors.get_mut(&fd) {
            Some(descriptor) if !descriptor.append => {
                descriptor.at += bytes;
                descriptor.at - bytes
            }
            _ => len,
        });
        self.edit(file, Edit::Write { offset, data });
    }

    fn edit(&mut self, file: usize, what: Edit) {
        let at = self.clock;
        let file = &mut self.files[file];
        file.len = match &what {
            Edit::Write { offset, data } => file.len.max(offset + data.len() as u64),
            Edit::Truncate { len } => *len,
        };
        file.changes.push(Change { at, what });
    }

    fn synced(&mut self, sync: Sync, done: bool) {
        let file = match sync.what {
            Synced::File(file) => file,
            // What a directory that could not be synced holds is anybody's
            // guess; nothing is the worst.
            Synced::Directory(dir) if done => return self.directory_synced(&dir, sync.begun),
            Synced::Directory(_) => return,
        };
        let file = &mut self.files[file];
        let (old, new) = split(std::mem::take(&mut file.changes), |c| c.at < sync.begun);
        file.changes = new;
        for change in &old {
            let random = &mut self.random;
            change
                .what
                .apply(&mut file.durable, &mut || done || random.coin());
        }
    }

    /// Names in this directory, and no others, are as they were when the sync
    /// began.
    fn directory_synced(&mut self, dir: &Path, begun: u64) {
        for renaming in &mut self.renamings {
            if renaming.at >= begun {
                continue;
            }
            let is_here = |(path, _): &(PathBuf, Option<usize>)| path.parent() == Some(dir);
            let (here, elsewhere) = split(std::mem::take(&mut renaming.names), is_here);
            set(&mut self.durable_names, &here);
            renaming.names = elsewhere;
        }
        self.renamings.retain(|renaming| !renaming.names.is_empty());
    }

    /// Writes what the disk holds after power was lost now into an existing
    /// directory, with mode 0600.
    ///
    /// # Errors
    ///
    /// What the system says if they cannot be written.
    pub fn lay_out(&self, unsynced: Unsynced, dir: &Path) -> io::Result<()> {
        let mut random = Seeded::new(match unsynced {
            Unsynced::Part(seed) => seed,
            Unsynced::Lost | Unsynced::Kept => 0,
        });
        let mut names = self.durable_names.clone();
        let renamings = match unsynced {
            Unsynced::Lost => 0,
            Unsynced::Part(_) => random.below(self.renamings.len() as u64 + 1) as usize,
            Unsynced::Kept => self.renamings.len(),
        };
        for renaming in &self.renamings[..renamings] {
            set(&mut names, &renaming.names);
        }
        for (path, file) in names {
            if path.to_string_lossy().ends_with("-shm") {
                continue;
            }
            let file = &self.files[file];
            let mut contents = file.durable.clone();
            for change in &file.changes {
                change.what.apply(&mut contents, &mut || match unsynced {
                    Unsynced::Lost => false,
                    Unsynced::Part(_) => random.coin(),
                    Unsynced::Kept => true,
                });
            }
            let path = dir.join(path);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            let mut made = fs::File::options();
            made.write(true).create(true).truncate(true).mode(0o600);
            made.open(path)?.write_all(&contents)?;
        }
        Ok(())
    }
}

impl Edit {
    /// Applies it, as far as `keep` says of each sector.
    fn apply(&self, contents: &mut Vec<u8>, keep: &mut impl FnMut() -> bool) {
        match self {
            Self::Truncate { len } => {
                if keep() {
                    contents.resize(*len as usize, 0);
                }
            }
            Self::Write { offset, data } => {
                let mut rest = data.as_slice();
                let mut at = *offset;
                while !rest.is_empty() {
                    let most = (SECTOR - at % SECTOR) as usize;
                    let (piece, after) = rest.split_at(most.min(rest.len()));
                    if keep() {
                        let (start, end) = (at as usize, at as usize + piece.len());
                        if contents.len() < end {
                            contents.resize(end, 0);
                        }
                        contents[start..end].copy_from_slice(piece);
                    }
                    at += piece.len() as u64;
                    rest = after;
                }
            }
        }
    }
}

fn set(names: &mut BTreeMap<PathBuf, usize>, changes: &[(PathBuf, Option<usize>)]) {
    for (path, file) in changes {
        match file {
            Some(file) => names.insert(path.clone(), *file),
            None => names.remove(path),
        };
    }
}

/// What a sync is about, and what came too late for it.
fn split<T>(all: Vec<T>, is_old: impl Fn(&T) -> bool) -> (Vec<T>, Vec<T>) {
    all.into_iter().partition(is_old)
}
