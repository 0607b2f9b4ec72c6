//! Entries of directories of this machine, in flat memory.

use super::{
    entry::{Entry, Origin, RelPath},
    report::Report,
    trouble::{Problem, Trouble},
};
use crate::node_access::{
    FileKind, FileName, escape_name,
    root::{Detail, Directory, FileId, Listing, Meta, Position, Root, RootError},
};
use rustix::fs::readlinkat;
use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::mpsc;

/// Listings that are open at a time: those above go on where they were.
const LISTINGS_OPEN_MAX: usize = 16;

/// Where a walk begins.
#[derive(Clone, Debug)]
pub(super) struct LocalSource {
    /// As it was named.
    pub(super) path: PathBuf,
    /// Its name below the destination; the top for what is in it.
    pub(super) prefix: RelPath,
    /// The directory that it lies in.
    pub(super) directory: Directory,
    /// Its name there; none for the root directory itself.
    pub(super) name: Option<FileName>,
    pub(super) meta: Meta,
}

/// What is walked.
#[derive(Clone, Copy, Debug)]
pub(super) struct WalkOptions {
    pub(super) recursive: bool,
    /// Links are followed, wherever they lead.
    pub(super) dereference: bool,
    pub(super) directories_only: bool,
}

/// Finds what a path of this machine names. Blocks.
pub(super) fn find(path: &Path, prefix: RelPath, follow: bool) -> Result<LocalSource, RootError> {
    let is_inside = path.as_os_str().as_bytes().ends_with(b"/.") || path.file_name().is_none();
    let is_link = path
        .symlink_metadata()
        .map(|meta| meta.file_type().is_symlink())?;
    let ends_with_slash = path.as_os_str().as_bytes().ends_with(b"/");
    let resolved = match is_inside || (is_link && (follow || ends_with_slash)) {
        true => path.canonicalize()?,
        false => std::path::absolute(path)?,
    };
    let Some(name) = resolved.file_name() else {
        let directory = Root::open(&resolved)?.directory();
        return Ok(LocalSource {
            path: path.into(),
            prefix,
            meta: directory.meta()?,
            directory,
            name: None,
        });
    };
    let name = FileName::new(name.as_bytes()).map_err(|_| RootError::NameInvalid)?;
    let parent = resolved.parent().unwrap_or(Path::new("/"));
    let directory = Root::open(parent)?.directory();
    Ok(LocalSource {
        path: path.into(),
        prefix,
        meta: directory.meta_of(&name)?,
        directory,
        name: Some(name),
    })
}

/// Tells every entry, directories before what is in them. Blocks.
///
/// # Errors
///
/// [`Trouble::Quiet`] if nobody wants to hear more.
pub(super) fn walk(
    source: &LocalSource,
    options: WalkOptions,
    report: &Arc<Report>,
    entries: &mpsc::Sender<Entry>,
) -> Result<(), Trouble> {
    let mut walk = Walk {
        options,
        report,
        entries,
        levels: Vec::new(),
    };
    let host = source
        .path
        .canonicalize()
        .ok()
        .filter(|_| options.dereference);
    match (source.meta.kind, &source.name) {
        (FileKind::Directory, name) => {
            let entered = match name {
                Some(name) => source.directory.enter(name),
                None => Ok(source.directory.clone()),
            };
            match entered {
                Ok(directory) => {
                    walk.enter(source.prefix.clone(), directory, &source.meta, host)?
                }
                Err(error) => walk.failed(&source.prefix, &Problem::of_root(&error)),
            }
        }
        (_, Some(name)) => {
            walk.tell(&source.directory, name, source.prefix.clone(), &source.meta)?;
        }
        (_, None) => {}
    }
    while let Some(level) = walk.levels.last_mut() {
        match level.next() {
            Ok(Some((name, meta))) => walk.entry(&name, &meta)?,
            Ok(None) => drop(walk.levels.pop()),
            Err(error) => {
                let path = level.path.clone();
                walk.levels.pop();
                walk.failed(&path, &Problem::of_root(&error));
            }
        }
    }
    Ok(())
}

/// A directory that is being listed.
struct Level {
    path: RelPath,
    directory: Directory,
    listing: Option<Listing>,
    position: Option<Position>,
    /// Where it lies, if links are followed.
    host: Option<PathBuf>,
}

impl Level {
    fn next(&mut self) -> Result<Option<(FileName, Meta)>, RootError> {
        let listing = match &mut self.listing {
            Some(listing) => listing,
            closed => closed.insert(self.directory.list(self.position)?),
        };
        let next = listing.next(Detail::Meta)?;
        Ok(next.and_then(|entry| Some((entry.name, entry.meta?))))
    }

    /// Closes the listing, to go on later.
    fn rest(&mut self) {
        if let Some(listing) = self.listing.take() {
            self.position = Some(listing.position());
        }
    }
}

struct Walk<'a> {
    options: WalkOptions,
    report: &'a Arc<Report>,
    entries: &'a mpsc::Sender<Entry>,
    levels: Vec<Level>,
}

impl Walk<'_> {
    fn failed(&self, path: &RelPath, problem: &Problem) {
        // A walk of directories alone comes second: it was told before.
        if !self.options.directories_only {
            self.report.failed(path, problem, 0);
        }
    }

    /// Goes on in a directory.
    fn enter(
        &mut self,
        path: RelPath,
        directory: Directory,
        meta: &Meta,
        host: Option<PathBuf>,
    ) -> Result<(), Trouble> {
        // The name is not needed: nothing is read of a directory.
        self.send(Entry {
            path: path.clone(),
            kind: FileKind::Directory,
            bytes: 0,
            mode: meta.mode,
            mtime: meta.modified,
            target: None,
            origin: Origin::Local {
                directory: directory.clone(),
                name: any_name(),
                has_holes: false,
            },
        })?;
        if !self.options.recursive {
            return Ok(());
        }
        if let Some(last) = self.levels.len().checked_sub(LISTINGS_OPEN_MAX) {
            self.levels[last].rest();
        }
        self.levels.push(Level {
            path,
            directory,
            listing: None,
            position: None,
            host,
        });
        Ok(())
    }

    fn entry(&mut self, name: &FileName, meta: &Meta) -> Result<(), Trouble> {
        let Some(level) = self.levels.last() else {
            return Ok(());
        };
        let path = level.path.child(name);
        let host = level
            .host
            .as_ref()
            .map(|host| host.join(OsStr::from_bytes(name.as_bytes())));
        match meta.kind {
            FileKind::Directory => match level.directory.enter(name) {
                Ok(directory) => self.enter(path, directory, meta, host)?,
                Err(error) => self.failed(&path, &Problem::of_root(&error)),
            },
            FileKind::Symlink if self.options.dereference => {
                let led = host
                    .ok_or(RootError::Changed)
                    .and_then(|host| self.led(&host, path.clone()));
                match led {
                    Ok(found) => self.follow(found, path)?,
                    Err(error) => self.failed(&path, &Problem::of_root(&error)),
                }
            }
            _ => {
                let directory = level.directory.clone();
                self.tell(&directory, name, path, meta)?;
            }
        }
        Ok(())
    }

    /// What a link leads to.
    fn led(&self, host: &Path, path: RelPath) -> Result<LocalSource, RootError> {
        let found = find(&host.canonicalize()?, path, true)?;
        let is_above = |id: FileId| self.levels.iter().any(|level| level.directory.id() == id);
        match found.meta.kind == FileKind::Directory && is_above(found.meta.id) {
            true => Err(RootError::TooManyLinks),
            false => Ok(found),
        }
    }

    fn follow(&mut self, found: LocalSource, path: RelPath) -> Result<(), Trouble> {
        match (found.meta.kind, &found.name) {
            (FileKind::Directory, name) => {
                let entered = match name {
                    Some(name) => found.directory.enter(name),
                    None => Ok(found.directory.clone()),
                };
                match entered {
                    Ok(directory) => self.enter(path, directory, &found.meta, Some(found.path))?,
                    Err(error) => self.failed(&path, &Problem::of_root(&error)),
                }
            }
            (_, Some(name)) => self.tell(&found.directory, name, path, &found.meta)?,
            (_, None) => {}
        }
        Ok(())
    }

    fn tell(
        &self,
        directory: &Directory,
        name: &FileName,
        path: RelPath,
        meta: &Meta,
    ) -> Result<(), Trouble> {
        if self.options.directories_only {
            return Ok(());
        }
        if meta.kind == FileKind::Other {
            self.report.left_out(&path);
            return Ok(());
        }
        let mut entry = Entry {
            path,
            kind: meta.kind,
            bytes: meta.bytes,
            mode: meta.mode,
            mtime: meta.modified,
            target: None,
            origin: Origin::Local {
                directory: directory.clone(),
                name: name.clone(),
                has_holes: meta.bytes_on_disk < meta.bytes,
            },
        };
        if meta.kind == FileKind::Symlink {
            entry.bytes = 0;
            // The person's own link, as it is: the destination judges it.
            match readlinkat(directory, OsStr::from_bytes(name.as_bytes()), Vec::new()) {
                Ok(target) => entry.target = Some(escape_name(target.as_bytes()).into_owned()),
                Err(error) => {
                    self.failed(&entry.path, &Problem::of_root(&RootError::from(error)));
                    return Ok(());
                }
            }
        }
        self.send(entry)
    }

    fn send(&self, entry: Entry) -> Result<(), Trouble> {
        self.entries
            .blocking_send(entry)
            .map_err(|_| Trouble::Quiet)
    }
}

/// Stands where no name is looked at.
fn any_name() -> FileName {
    FileName::new(*b"-").unwrap_or_else(|_| unreachable!("one byte"))
}

/// Counts files and bytes of a tree. Blocks; what cannot be read is left out.
pub(super) fn count(source: &LocalSource, options: WalkOptions, report: &Arc<Report>) {
    if source.meta.kind == FileKind::File {
        return report.counted(1, source.meta.bytes);
    }
    let entered = match &source.name {
        Some(name) => source.directory.enter(name),
        None => Ok(source.directory.clone()),
    };
    if !options.recursive || source.meta.kind != FileKind::Directory {
        return;
    }
    let mut levels: Vec<Level> = Vec::new();
    let level = |directory: Directory| Level {
        path: RelPath::top(),
        directory,
        listing: None,
        position: None,
        host: None,
    };
    levels.extend(entered.ok().map(level));
    while let Some(last) = levels.last_mut() {
        match last.next() {
            Ok(Some((name, meta))) => match meta.kind {
                FileKind::File => report.counted(1, meta.bytes),
                FileKind::Directory => {
                    let entered = last.directory.enter(&name);
                    if let Some(deep) = levels.len().checked_sub(LISTINGS_OPEN_MAX) {
                        levels[deep].rest();
                    }
                    levels.extend(entered.ok().map(level));
                }
                FileKind::Symlink | FileKind::Other => {}
            },
            Ok(None) | Err(_) => drop(levels.pop()),
        }
    }
}
