//! A naive tree of files, as POSIX has them.

use alknet_core::files::{Create, FileErrorCode as Code, FileKind, FileTime, Removal, Removed};
use std::collections::BTreeMap;

/// Links that are followed one after the other.
const LINKS_MAX: usize = 40;

/// Number of an inode; never used again.
pub(super) type Inode = usize;

/// What a call may fail with: where several reasons hold, which one is told is
/// not promised.
pub(super) type Outcome<T> = Result<T, Vec<Code>>;

fn no<T>(code: Code) -> Outcome<T> {
    Err(vec![code])
}

/// What an inode holds.
#[derive(Clone, Debug)]
pub(super) enum Body {
    File(Vec<u8>),
    Directory(BTreeMap<String, Inode>),
    Link(String),
}

/// An inode.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) body: Body,
    /// If it is known: one that nobody gave is the host's to choose.
    pub(super) mode: Option<u32>,
    /// If somebody set it, and nothing changed since.
    pub(super) mtime: Option<FileTime>,
}

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Directory and name; none for the root, and for what `..` led to.
    pub(super) place: Option<(Inode, String)>,
    /// What is there.
    pub(super) node: Option<Inode>,
}

/// The whole tree.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
}

/// The inode of the bucket itself.
pub(super) const ROOT: Inode = 0;

impl Tree {
    pub(super) fn new() -> Self {
        let root = Node {
            body: Body::Directory(BTreeMap::new()),
            mode: None,
            mtime: None,
        };
        Self { nodes: vec![root] }
    }

    pub(super) fn node(&self, inode: Inode) -> &Node {
        &self.nodes[inode]
    }

    pub(super) fn kind(&self, inode: Inode) -> FileKind {
        match self.node(inode).body {
            Body::File(_) => FileKind::File,
            Body::Directory(_) => FileKind::Directory,
            Body::Link(_) => FileKind::Symlink,
        }
    }

    pub(super) fn entries(&self, inode: Inode) -> &BTreeMap<String, Inode> {
        match &self.node(inode).body {
            Body::Directory(entries) => entries,
            _ => panic!("a directory is asked for"),
        }
    }

    fn entries_mut(&mut self, inode: Inode) -> &mut BTreeMap<String, Inode> {
        self.nodes[inode].mtime = None;
        match &mut self.nodes[inode].body {
            Body::Directory(entries) => entries,
            _ => panic!("a directory is asked for"),
        }
    }

    pub(super) fn bytes(&self, inode: Inode) -> &[u8] {
        match &self.node(inode).body {
            Body::File(bytes) => bytes,
            _ => panic!("a file is asked for"),
        }
    }

    /// The bytes of a file, to be changed.
    pub(super) fn bytes_mut(&mut self, inode: Inode) -> &mut Vec<u8> {
        self.nodes[inode].mtime = None;
        match &mut self.nodes[inode].body {
            Body::File(bytes) => bytes,
            _ => panic!("a file is asked for"),
        }
    }

    /// Names that an inode has.
    pub(super) fn links(&self, inode: Inode) -> u64 {
        let named = |node: &Node| match &node.body {
            Body::Directory(entries) => entries.values().filter(|at| **at == inode).count(),
            _ => 0,
        };
        self.reachable().map(|at| named(self.node(at)) as u64).sum()
    }

    /// Every inode that has a way from the root.
    fn reachable(&self) -> impl Iterator<Item = Inode> {
        let (mut found, mut todo) = (Vec::new(), vec![ROOT]);
        while let Some(at) = todo.pop() {
            found.push(at);
            if let Body::Directory(entries) = &self.node(at).body {
                todo.extend(entries.values());
            }
        }
        found.sort_unstable();
        found.dedup();
        found.into_iter()
    }

    /// Whether `below` is `above`, or lies in it.
    pub(super) fn is_within(&self, below: Inode, above: Inode) -> bool {
        if below == above {
            return true;
        }
        match &self.node(above).body {
            Body::Directory(entries) => entries.values().any(|at| self.is_within(below, *at)),
            _ => false,
        }
    }

    /// Walks a path; the last name is followed if it is a link and `follow`.
    pub(super) fn find(&self, path: &str, follow: bool) -> Outcome<Found> {
        let mut todo: Vec<String> = path
            .rsplit('/')
            .filter(|part| !part.is_empty())
            .map(String::from)
            .collect();
        let (mut above, mut links) = (vec![ROOT], 0);
        let mut place = None;
        while let Some(part) = todo.pop() {
            let directory = above[above.len() - 1];
            place = None;
            match part.as_str() {
                "." => continue,
                ".." if above.len() == 1 => return no(Code::LeadsOutside),
                ".." => {
                    above.pop();
                    continue;
                }
                _ => {}
            }
            let is_last = todo.is_empty();
            let here = Some((directory, part.clone()));
            let Some(inode) = self.entries(directory).get(&part).copied() else {
                // `.` after a name asks for a directory.
                return match is_last {
                    true => Ok(Found {
                        place: here,
                        node: None,
                    }),
                    false => no(Code::NoSuchFile),
                };
            };
            match &self.node(inode).body {
                Body::Link(target) if follow || !is_last => {
                    links += 1;
                    if links > LINKS_MAX {
                        return no(Code::TooManyLinks);
                    }
                    todo.extend(
                        target
                            .rsplit('/')
                            .filter(|part| !part.is_empty())
                            .map(String::from),
                    );
                }
                Body::Directory(_) => {
                    above.push(inode);
                    place = here;
                }
                _ if is_last => {
                    return Ok(Found {
                        place: here,
                        node: Some(inode),
                    });
                }
                _ => return no(Code::NotADirectory),
            }
        }
        let node = above.last().copied();
        Ok(Found { place, node })
    }

    /// What is there; `NO_SUCH_FILE` if nothing is.
    pub(super) fn existing(&self, path: &str, follow: bool) -> Outcome<Inode> {
        self.find(path, follow)?.node.ok_or(vec![Code::NoSuchFile])
    }

    /// A file that is there.
    pub(super) fn file(&self, path: &str) -> Outcome<Inode> {
        let inode = self.existing(path, true)?;
        match self.kind(inode) {
            FileKind::File => Ok(inode),
            _ => no(Code::IsADirectory),
        }
    }

    /// Where a file may be made or replaced.
    pub(super) fn target(&self, path: &str, create: Create) -> Outcome<Found> {
        // `O_EXCL`: a link has the name, wherever it leads.
        let named = self.find(path, false)?;
        if create == Create::New
            && let Some(inode) = named.node
        {
            return Err(match self.kind(inode) {
                FileKind::Directory => vec![Code::FileExists, Code::IsADirectory],
                // Through a link into the void, what is wrong there may be told.
                FileKind::Symlink => {
                    let mut codes = vec![Code::FileExists, Code::IsADirectory];
                    codes.extend(self.find(path, true).err().into_iter().flatten());
                    codes
                }
                _ => vec![Code::FileExists],
            });
        }
        let found = self.find(path, true)?;
        match found.node {
            Some(inode) if self.kind(inode) == FileKind::Directory => no(Code::IsADirectory),
            None if create == Create::Never => no(Code::NoSuchFile),
            _ => Ok(found),
        }
    }

    fn add(&mut self, body: Body, mode: Option<u32>) -> Inode {
        self.nodes.push(Node {
            body,
            mode,
            mtime: None,
        });
        self.nodes.len() - 1
    }

    /// Gives a name to a new inode; what had it is gone from there.
    pub(super) fn put(&mut self, (directory, name): &(Inode, String), body: Body) -> Inode {
        let before = self.entries(*directory).get(name);
        let mode = before.and_then(|before| match self.node(*before).body {
            Body::File(_) => self.node(*before).mode,
            _ => None,
        });
        let inode = self.add(body, mode);
        self.entries_mut(*directory).insert(name.clone(), inode);
        inode
    }

    /// A name that nothing has yet.
    fn free(&self, path: &str) -> Outcome<(Inode, String)> {
        let found = self.find(path, false)?;
        match (found.node, found.place) {
            (None, Some(place)) => Ok(place),
            _ => no(Code::FileExists),
        }
    }

    pub(super) fn make_directory(&mut self, path: &str) -> Outcome<()> {
        let place = self.free(path)?;
        self.put(&place, Body::Directory(BTreeMap::new()));
        Ok(())
    }

    /// Whether a target leads out of the bucket, by its letters alone, from a
    /// directory.
    fn leads_out(&self, directory: Inode, target: &str) -> bool {
        let mut depth = self.depth(directory) as i64;
        target.split('/').any(|part| {
            depth += match part {
                "." | "" => 0,
                ".." => -1,
                _ => 1,
            };
            depth < 0
        })
    }

    /// Whether a target could, whatever its names are or become links to: none may
    /// be made or moved to where it could.
    fn could_lead_out(&self, directory: Inode, target: &str) -> bool {
        let parts = target.split('/').filter(|part| !matches!(*part, "." | ""));
        let names_last = parts.skip_while(|part| *part == "..");
        names_last.into_iter().any(|part| part == "..") || self.leads_out(directory, target)
    }

    fn depth(&self, directory: Inode) -> usize {
        let above = |at: &Inode| self.is_within(directory, *at);
        let directories = self
            .reachable()
            .filter(|at| self.kind(*at) == FileKind::Directory);
        directories.filter(above).count() - 1
    }

    pub(super) fn symlink(&mut self, path: &str, target: &str) -> Outcome<()> {
        let place = self.free(path);
        let directory = match &place {
            Ok(place) => Some(place.0),
            // Where it would lie, if only the name is taken.
            Err(_) => self
                .find(path, false)
                .ok()
                .and_then(|found| found.place)
                .map(|place| place.0),
        };
        if directory.is_some_and(|directory| self.could_lead_out(directory, target)) {
            return Err([vec![Code::LeadsOutside], place.err().unwrap_or_default()].concat());
        }
        let place = place?;
        self.put(&place, Body::Link(target.into()));
        Ok(())
    }

    pub(super) fn read_link(&self, path: &str) -> Outcome<String> {
        let found = self.find(path, false)?;
        let inode = found.node.ok_or(vec![Code::NoSuchFile])?;
        match (&self.node(inode).body, found.place) {
            (Body::Link(target), Some((directory, _))) if self.leads_out(directory, target) => {
                no(Code::LeadsOutside)
            }
            (Body::Link(target), _) => Ok(target.clone()),
            _ => no(Code::BadArgument),
        }
    }

    /// What a listing tells of a link.
    pub(super) fn target_told(&self, directory: Inode, target: &str) -> Option<String> {
        (!self.leads_out(directory, target)).then(|| target.to_owned())
    }

    pub(super) fn link(&mut self, existing: &str, new: &str) -> Outcome<()> {
        let from = self.existing(existing, false);
        let to = self.free(new);
        let wrong = match &from {
            Ok(inode) => match self.kind(*inode) {
                FileKind::File => None,
                FileKind::Directory => Some(vec![Code::IsADirectory, Code::HostRefuses]),
                _ => Some(vec![
                    Code::NotAFile,
                    Code::BadArgument,
                    Code::TooManyLinks,
                    Code::Unsupported,
                ]),
            },
            Err(codes) => Some(codes.clone()),
        };
        let (Some(place), None) = (to.as_ref().ok(), &wrong) else {
            let codes = [to.err().unwrap_or_default(), wrong.unwrap_or_default()];
            return Err(codes.concat());
        };
        let inode = from?;
        self.entries_mut(place.0).insert(place.1.clone(), inode);
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &str, to: &str, replace: bool) -> Outcome<()> {
        let (source, target) = match (self.find(from, false), self.find(to, false)) {
            (Ok(source), Ok(target)) => (source, target),
            (source, target) => {
                let mut codes = [source.clone().err(), target.err()]
                    .into_iter()
                    .flatten()
                    .collect::<Vec<_>>()
                    .concat();
                if source.is_ok_and(|source| source.node.is_none()) {
                    codes.push(Code::NoSuchFile);
                }
                return Err(codes);
            }
        };
        let mut wrong = Vec::new();
        if source.node == Some(ROOT) || target.node == Some(ROOT) {
            wrong.extend([Code::BadArgument, Code::FileBusy, Code::HostRefuses]);
        }
        let Some(inode) = source.node else {
            wrong.push(Code::NoSuchFile);
            return Err(wrong);
        };
        if target.node.is_some() && !replace {
            wrong.push(Code::FileExists);
        }
        let is_directory = |inode| self.kind(inode) == FileKind::Directory;
        let into = target.place.as_ref().map(|place| place.0);
        if inode != ROOT
            && is_directory(inode)
            && into.is_some_and(|into| self.is_within(into, inode))
        {
            wrong.push(Code::BadArgument);
        }
        if let (Some(taken), true) = (target.node, replace) {
            match (is_directory(inode), is_directory(taken)) {
                (true, false) => wrong.push(Code::NotADirectory),
                (false, true) => {
                    wrong.push(Code::IsADirectory);
                    // An ancestor, which is no empty directory either.
                    if self.is_within(inode, taken) {
                        wrong.push(Code::DirectoryNotEmpty);
                    }
                }
                (true, true) if taken != inode && !self.entries(taken).is_empty() => {
                    wrong.push(Code::DirectoryNotEmpty);
                }
                _ => {}
            }
        }
        let (Some(source), Some(target)) = (source.place, target.place) else {
            wrong.push(Code::BadArgument);
            return Err(wrong);
        };
        if let Body::Link(text) = &self.node(inode).body
            && self.could_lead_out(target.0, text)
        {
            wrong.push(Code::LeadsOutside);
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        // Two names of one file both stay (POSIX, `rename`).
        if self.entries(target.0).get(&target.1) != Some(&inode) {
            self.entries_mut(source.0).remove(&source.1);
            self.entries_mut(target.0).insert(target.1, inode);
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &str, how: Removal) -> Outcome<Removed> {
        let found = self.find(path, false)?;
        let inode = found.node.ok_or(vec![Code::NoSuchFile])?;
        let Some((directory, name)) = found.place else {
            return Err(vec![
                Code::BadArgument,
                Code::FileBusy,
                Code::IsADirectory,
                Code::DirectoryNotEmpty,
                Code::HostRefuses,
            ]);
        };
        match (how, &self.node(inode).body) {
            (Removal::File, Body::Directory(_)) => return no(Code::IsADirectory),
            (Removal::Directory, Body::Directory(entries)) if !entries.is_empty() => {
                return no(Code::DirectoryNotEmpty);
            }
            (Removal::Directory, Body::File(_) | Body::Link(_)) => return no(Code::NotADirectory),
            _ => {}
        }
        let removed = self.count(inode);
        self.entries_mut(directory).remove(&name);
        Ok(removed)
    }

    fn count(&self, inode: Inode) -> Removed {
        match &self.node(inode).body {
            Body::Directory(entries) => {
                let mut counted = Removed {
                    files: 0,
                    directories: 1,
                };
                for at in entries.values() {
                    let below = self.count(*at);
                    counted.files += below.files;
                    counted.directories += below.directories;
                }
                counted
            }
            _ => Removed {
                files: 1,
                directories: 0,
            },
        }
    }

    /// A mode that was there before and is there now is kept; if it changed in
    /// between, either may be.
    pub(super) fn keep_mode(&mut self, inode: Inode, before: Option<u32>) {
        let mode = self.nodes[inode].mode;
        self.nodes[inode].mode = mode.filter(|mode| before == Some(*mode));
    }

    pub(super) fn set_mode(&mut self, inode: Inode, mode: u32) {
        self.nodes[inode].mode = Some(mode);
    }

    pub(super) fn set_mtime(&mut self, inode: Inode, mtime: FileTime) {
        self.nodes[inode].mtime = Some(mtime);
    }
}
