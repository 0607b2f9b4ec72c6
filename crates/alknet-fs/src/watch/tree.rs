//! The directories that are watched, by the host's numbers of them.

use super::scope::is_in;
use crate::root::{Directory, FileId, Root, RootError};
use alknet_core::files::FileName;
use rustix::{
    fs::inotify::{self, CreateFlags, WatchFlags},
    io::Errno,
};
use std::{
    collections::HashMap,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

/// Which directory of the tree; never used twice.
pub(super) type NodeId = u64;

/// How much of a directory is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Interest {
    /// It is on the way to others: what is moved or removed.
    Way,
    /// All.
    Full,
}

impl Interest {
    fn flags(self) -> WatchFlags {
        let way = WatchFlags::MOVE | WatchFlags::DELETE | WatchFlags::ONLYDIR;
        match self {
            Self::Way => way,
            Self::Full => {
                way | WatchFlags::CREATE
                    | WatchFlags::MODIFY
                    | WatchFlags::CLOSE_WRITE
                    | WatchFlags::ATTRIB
                    | WatchFlags::EXCL_UNLINK
            }
        }
    }
}

/// Why a directory is not watched.
#[derive(Debug)]
pub(super) enum AttachError {
    /// It went, or may not be read: nothing is lost by that.
    Root(RootError),
    /// One more than this bucket, or the host, has room for.
    Full(&'static str),
    /// There is no inotify here.
    Unsupported,
    /// It is the same as one on the way to it.
    Circle,
}

impl From<RootError> for AttachError {
    fn from(error: RootError) -> Self {
        match error.errno() {
            Some(number) if number == Errno::MFILE.raw_os_error() => Self::Full("open files"),
            Some(number) if number == Errno::NFILE.raw_os_error() => Self::Full("open files"),
            _ => Self::Root(error),
        }
    }
}

#[derive(Debug)]
struct Node {
    name: Option<FileName>,
    parent: Option<NodeId>,
    children: HashMap<FileName, NodeId>,
    id: FileId,
    /// Its number at the host; none if it may not be read.
    watch: Option<i32>,
    interest: Interest,
}

#[derive(Debug)]
pub(super) struct Tree {
    inotify: OwnedFd,
    root: Root,
    nodes: HashMap<NodeId, Node>,
    by_watch: HashMap<i32, NodeId>,
    top: Option<NodeId>,
    last: NodeId,
    directories_max: usize,
}

impl Tree {
    pub(super) fn new(root: Root, directories_max: usize) -> Result<Self, AttachError> {
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        let inotify = inotify::init(flags).map_err(|errno| match errno {
            Errno::MFILE => AttachError::Full("`fs.inotify.max_user_instances` of the host"),
            Errno::NFILE => AttachError::Full("open files of the host"),
            _ => AttachError::Unsupported,
        })?;
        Ok(Self {
            inotify,
            root,
            nodes: HashMap::new(),
            by_watch: HashMap::new(),
            top: None,
            last: 0,
            directories_max,
        })
    }

    pub(super) fn handle(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The node that the host means; none if it is watched no longer.
    pub(super) fn of_watch(&self, watch: i32) -> Option<NodeId> {
        self.by_watch.get(&watch).copied()
    }

    pub(super) fn child(&self, parent: NodeId, name: &FileName) -> Option<NodeId> {
        self.nodes.get(&parent)?.children.get(name).copied()
    }

    /// Its names from the root on.
    pub(super) fn names(&self, node: NodeId) -> Vec<FileName> {
        let mut names = Vec::new();
        let mut at = self.nodes.get(&node);
        while let Some(node) = at {
            names.extend(node.name.clone());
            at = node.parent.and_then(|parent| self.nodes.get(&parent));
        }
        names.reverse();
        names
    }

    /// The root's node, watched at least so much.
    pub(super) fn top(&mut self, interest: Interest) -> Result<(NodeId, Directory), AttachError> {
        let directory = self.root.directory();
        let node = self.put(None, &directory, interest)?;
        self.top = Some(node);
        Ok((node, directory))
    }

    /// Watches the directory `name` of a node that has the handle `parent`.
    pub(super) fn attach(
        &mut self,
        parent: NodeId,
        handle: &Directory,
        name: &FileName,
        interest: Interest,
    ) -> Result<(NodeId, Directory), AttachError> {
        let directory = handle.enter(name)?;
        let node = self.put(Some((parent, name)), &directory, interest)?;
        Ok((node, directory))
    }

    fn put(
        &mut self,
        place: Option<(NodeId, &FileName)>,
        directory: &Directory,
        interest: Interest,
    ) -> Result<NodeId, AttachError> {
        let there = match place {
            Some((parent, name)) => self.child(parent, name),
            None => self.top,
        };
        let there = there.filter(|node| self.is(*node, directory.id()));
        let interest = interest.max(self.interest(there).unwrap_or(interest));
        if there.is_none() && self.nodes.len() >= self.directories_max {
            return Err(AttachError::Full(
                "directories of a bucket that are watched",
            ));
        }
        // The host is asked also about what is known: a number that it gave to
        // a directory which is gone may be that of this one.
        let watch = match self.ask_host(directory, interest) {
            Ok(watch) => Some(watch),
            // One passes where one may not look.
            Err(AttachError::Root(_)) if interest == Interest::Way => None,
            Err(error) => return Err(error),
        };
        let known = match watch {
            Some(watch) => self.of_watch(watch),
            None => there.filter(|node| self.watch(*node).is_none()),
        };
        let node = match (known, place) {
            (Some(known), _) if Some(known) == there => known,
            // It has moved here; that will be told.
            (Some(known), Some((parent, name))) => {
                if self.is_within(parent, known) {
                    return Err(AttachError::Circle);
                }
                self.move_to(known, parent, name);
                known
            }
            _ => return Ok(self.add(place, directory.id(), watch, interest)),
        };
        if self.interest(Some(node)) > Some(interest) {
            self.ask_host(directory, Interest::Full)?;
        }
        let interest = interest.max(self.interest(Some(node)).unwrap_or(interest));
        self.know(node, watch, interest);
        Ok(node)
    }

    fn interest(&self, node: Option<NodeId>) -> Option<Interest> {
        Some(self.nodes.get(&node?)?.interest)
    }

    /// The host's number of a node; none if it does not watch it.
    pub(super) fn watch(&self, node: NodeId) -> Option<i32> {
        self.nodes.get(&node)?.watch
    }

    pub(super) fn id(&self, node: NodeId) -> Option<FileId> {
        Some(self.nodes.get(&node)?.id)
    }

    pub(super) fn knows(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node)
    }

    pub(super) fn parent(&self, node: NodeId) -> Option<NodeId> {
        self.nodes.get(&node)?.parent
    }

    fn add(
        &mut self,
        place: Option<(NodeId, &FileName)>,
        id: FileId,
        watch: Option<i32>,
        interest: Interest,
    ) -> NodeId {
        self.last += 1;
        let node = self.last;
        self.nodes.insert(
            node,
            Node {
                name: place.map(|(_, name)| name.clone()),
                parent: place.map(|(parent, _)| parent),
                children: HashMap::new(),
                id,
                watch,
                interest,
            },
        );
        if let Some(watch) = watch {
            self.by_watch.insert(watch, node);
        }
        match place {
            Some((parent, name)) => self.hang(parent, name, node),
            None => self.clear(),
        }
        node
    }

    fn know(&mut self, node: NodeId, watch: Option<i32>, interest: Interest) {
        if let Some(watch) = watch {
            self.by_watch.insert(watch, node);
        }
        if let Some(node) = self.nodes.get_mut(&node) {
            node.watch = watch;
            node.interest = interest;
        }
    }

    /// Hangs a node under its parent, in the place of what was there.
    fn hang(&mut self, parent: NodeId, name: &FileName, node: NodeId) {
        let before = match self.nodes.get_mut(&parent) {
            Some(parent) => parent.children.insert(name.clone(), node),
            None => None,
        };
        if let Some(before) = before.filter(|before| *before != node) {
            self.forget_all(before);
        }
    }

    /// Moves a node with all below it.
    pub(super) fn move_to(&mut self, node: NodeId, parent: NodeId, name: &FileName) {
        self.unhang(node);
        if let Some(moved) = self.nodes.get_mut(&node) {
            moved.parent = Some(parent);
            moved.name = Some(name.clone());
        }
        self.hang(parent, name, node);
    }

    fn unhang(&mut self, node: NodeId) {
        let Some(Node {
            name: Some(name),
            parent: Some(parent),
            ..
        }) = self.nodes.get(&node)
        else {
            return;
        };
        let (name, parent) = (name.clone(), *parent);
        if let Some(parent) = self.nodes.get_mut(&parent)
            && parent.children.get(&name) == Some(&node)
        {
            parent.children.remove(&name);
        }
    }

    /// Watches a node and all below it no longer.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.unhang(node);
        self.forget_all(node);
    }

    fn forget_all(&mut self, node: NodeId) {
        let mut going = vec![node];
        while let Some(node) = going.pop() {
            let Some(node) = self.nodes.remove(&node) else {
                continue;
            };
            going.extend(node.children.values());
            if let Some(watch) = node.watch {
                self.by_watch.remove(&watch);
                // One that the host gave up already is no error.
                let _ = inotify::remove_watch(&self.inotify, watch);
            }
        }
        if self.nodes.is_empty() {
            self.top = None;
        }
    }

    /// Watches nothing.
    pub(super) fn clear(&mut self) {
        if let Some(top) = self.top.take() {
            self.forget_all(top);
        }
    }

    /// The host watches it no longer: it is gone.
    pub(super) fn lost(&mut self, watch: i32) -> Option<NodeId> {
        let node = self.by_watch.remove(&watch)?;
        if let Some(node) = self.nodes.get_mut(&node) {
            node.watch = None;
        }
        Some(node)
    }

    /// Lowers or ends what `wanted` does not ask for any more.
    pub(super) fn prune(&mut self, wanted: impl Fn(&[FileName]) -> Option<Interest>) {
        let Some(top) = self.top else { return };
        let mut ahead = vec![(top, Vec::new())];
        while let Some((node, names)) = ahead.pop() {
            let Some(interest) = wanted(&names) else {
                self.forget(node);
                continue;
            };
            let Some(known) = self.nodes.get_mut(&node) else {
                continue;
            };
            let (watch, before) = (known.watch, known.interest);
            ahead.extend(known.children.iter().map(|(name, child)| {
                let mut below = names.clone();
                below.push(name.clone());
                (*child, below)
            }));
            if interest < before && watch.is_some() {
                known.interest = interest;
                if let Ok((_, directory)) = self.open(node)
                    && let Ok(watch) = self.ask_host(&directory, interest)
                    && self.of_watch(watch) != Some(node)
                {
                    // Another one is there by now: what that is will be told.
                    let _ = inotify::remove_watch(&self.inotify, watch);
                }
            }
        }
    }

    /// Opens a node's directory; fails with [`RootError::Changed`] if another
    /// one has its names by now.
    pub(super) fn open(&self, node: NodeId) -> Result<(NodeId, Directory), RootError> {
        let mut way = Vec::new();
        let mut at = Some(node);
        while let Some(node) = at {
            way.push(node);
            at = self.nodes.get(&node).and_then(|node| node.parent);
        }
        let mut directory = self.root.directory();
        for step in way.iter().rev() {
            let Some(known) = self.nodes.get(step) else {
                return Err(RootError::Changed);
            };
            if let Some(name) = &known.name {
                directory = directory.enter(name)?;
            }
            if directory.id() != known.id {
                return Err(RootError::Changed);
            }
        }
        Ok((node, directory))
    }

    fn is(&self, node: NodeId, id: FileId) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.id == id)
    }

    fn is_within(&self, node: NodeId, above: NodeId) -> bool {
        let mut at = Some(node);
        while let Some(node) = at {
            if node == above {
                return true;
            }
            at = self.nodes.get(&node).and_then(|node| node.parent);
        }
        false
    }

    /// The path leads to what the handle holds, and is resolved in no
    /// directory.
    fn ask_host(&self, directory: &Directory, interest: Interest) -> Result<i32, AttachError> {
        let path = format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd());
        let added = inotify::add_watch(&self.inotify, path, interest.flags());
        added.map_err(|errno| match errno {
            Errno::NOSPC => AttachError::Full("`fs.inotify.max_user_watches` of the host"),
            Errno::NOENT => AttachError::Unsupported,
            errno => AttachError::Root(errno.into()),
        })
    }
}

/// How much of the directory `names` the places ask for: (names, recursive).
pub(super) fn wanted<'a>(
    names: &[FileName],
    places: impl Iterator<Item = (&'a [FileName], bool)>,
) -> Option<Interest> {
    let interests = places.filter_map(|(place, is_recursive)| {
        if place == names || (is_recursive && is_in(names, place, true)) {
            Some(Interest::Full)
        } else {
            is_in(place, names, true).then_some(Interest::Way)
        }
    });
    interests.max()
}
