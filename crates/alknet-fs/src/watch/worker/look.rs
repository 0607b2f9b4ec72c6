//! Looking at directories: those that are to be watched, and those that came.

use super::{Failed, Later, Run};
use crate::{
    root::{Detail, Directory, RootError},
    watch::{
        ring::{Item, What},
        tree::{AttachError, Interest, NodeId},
    },
};
use alknet_core::files::{FileKind, FileName};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Everything is looked at anew at most so often.
pub(super) const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Handles that are held while directories are looked through: one for each
/// level down to this one.
const HELD_DEPTH_MAX: usize = 32;

impl Run {
    /// Watches the way down to a place, and it.
    pub(super) fn set_up(
        &mut self,
        names: &[FileName],
        is_recursive: bool,
    ) -> Result<(), AttachError> {
        let interest = |depth| match depth == names.len() {
            true => Interest::Full,
            false => Interest::Way,
        };
        let (mut node, mut directory) = self.tree.top(interest(0))?;
        for (depth, name) in names.iter().enumerate() {
            (node, directory) = self
                .tree
                .attach(node, &directory, name, interest(depth + 1))?;
        }
        match is_recursive {
            true => self.look_through(node, directory, names.len(), None),
            false => Ok(()),
        }
    }

    /// Watches all directories below one, and tells of what is in them if it has
    /// `tell`, the names of the first.
    pub(super) fn look_through(
        &mut self,
        node: NodeId,
        directory: Directory,
        depth: usize,
        tell: Option<&[FileName]>,
    ) -> Result<(), AttachError> {
        let mut ahead = VecDeque::from([(node, Some(directory), depth)]);
        while let Some((node, directory, depth)) = ahead.pop_back() {
            let opened = match directory {
                Some(directory) => Ok(directory),
                None => self.tree.open(node).map(|(_, directory)| directory),
            };
            let Ok(directory) = opened else {
                self.later.push(Later::Look(node));
                continue;
            };
            let Some(mut listing) =
                self.passable(directory.list(None).map_err(AttachError::from))?
            else {
                continue;
            };
            let names = tell.map(|_| self.tree.names(node));
            loop {
                let entry = listing.next(Detail::Kinds).map_err(AttachError::from);
                let Some(Some(entry)) = self.passable(entry)? else {
                    break;
                };
                if let Some(names) = &names {
                    let mut names = names.clone();
                    names.push(entry.name.clone());
                    self.tell(What::Created, names, Some(entry.kind));
                }
                if entry.kind != FileKind::Directory {
                    continue;
                }
                let attached = self
                    .tree
                    .attach(node, &directory, &entry.name, Interest::Full);
                if let Some((node, directory)) = self.passable(attached)? {
                    let held = (depth < HELD_DEPTH_MAX).then_some(directory);
                    ahead.push_back((node, held, depth + 1));
                }
            }
        }
        Ok(())
    }

    /// What is gone, or may not be looked at, is passed over.
    fn passable<T>(&mut self, outcome: Result<T, AttachError>) -> Result<Option<T>, AttachError> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(AttachError::Root(RootError::Changed)) => {
                self.is_unsure = true;
                Ok(None)
            }
            Err(AttachError::Root(error)) => {
                tracing::debug!(bucket = %self.shared.bucket, cause = %error, "a directory is not watched");
                Ok(None)
            }
            Err(AttachError::Circle) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Watches a directory that came, if somebody watches all that is below its
    /// parent.
    pub(super) fn follow(&mut self, parent: NodeId, name: &FileName, names: &[FileName]) {
        if !self.is_covered(names) {
            return;
        }
        if let Err(error) = self.follow_all(parent, name, names) {
            self.lose(error, names);
        }
    }

    /// A directory cannot be watched: whoever would be told of it is told that.
    pub(super) fn lose(&mut self, error: AttachError, names: &[FileName]) {
        let Failed(code, why, cause) = Failed::of(error);
        tracing::warn!(bucket = %self.shared.bucket, %why, ?cause, "a directory is watched no longer");
        let path = self.shared.path(names);
        let path = path.map(|path| path.to_string()).unwrap_or_default();
        let lost = What::Lost(code, format!("`{path}`: {why}"));
        self.tell(lost, names.to_vec(), None);
    }

    fn follow_all(
        &mut self,
        parent: NodeId,
        name: &FileName,
        names: &[FileName],
    ) -> Result<(), AttachError> {
        let Ok((_, handle)) = self.tree.open(parent) else {
            self.later.push(Later::Attach(parent, name.clone()));
            return Ok(());
        };
        let attached = self.tree.attach(parent, &handle, name, Interest::Full);
        match self.passable(attached)? {
            Some((node, directory)) => self.look_through(node, directory, names.len(), Some(names)),
            None => Ok(()),
        }
    }

    /// Does what could not be done before; if it still cannot, and nothing tells
    /// why, nothing is sure.
    pub(super) fn catch_up(&mut self, is_quiet: bool) {
        for later in std::mem::take(&mut self.later) {
            let (Later::Attach(node, _) | Later::Look(node)) = &later;
            // It went, and that was told.
            if !self.tree.knows(*node) {
                continue;
            }
            let mut names = self.tree.names(*node);
            match later {
                Later::Attach(parent, name) => {
                    names.push(name.clone());
                    self.follow(parent, &name, &names);
                }
                Later::Look(node) => self.look_later(node, &names),
            }
        }
        if is_quiet && !self.later.is_empty() {
            self.later.clear();
            self.is_unsure = true;
        }
    }

    fn look_later(&mut self, node: NodeId, names: &[FileName]) {
        let Ok((_, directory)) = self.tree.open(node) else {
            return self.later.push(Later::Look(node));
        };
        if let Err(error) = self.look_through(node, directory, names.len(), Some(names)) {
            self.lose(error, names);
        }
    }

    /// A root that was removed stays open here, so that the host tells nothing.
    pub(super) fn look_at_root(&mut self) {
        let root = self.shared.root.directory();
        if root.meta().is_ok_and(|meta| meta.links == 0) {
            self.tell(What::Removed, Vec::new(), Some(FileKind::Directory));
        }
    }

    /// Looks at everything anew if what is known may be wrong, and says that
    /// changes were missed; not too often.
    pub(super) fn look_again_if_unsure(&mut self) {
        let is_early = self
            .looked
            .is_some_and(|at| at.elapsed() < LOOK_AGAIN_AFTER);
        if !self.is_unsure || is_early {
            return;
        }
        self.tree.clear();
        // What the host told before is of no use, and its queue is empty then.
        while !self.read().is_empty() {}
        self.is_unsure = false;
        self.later.clear();
        let places: Vec<_> = self
            .places
            .iter()
            .map(|place| (place.names.clone(), place.is_recursive))
            .collect();
        for (names, is_recursive) in places {
            match self.set_up(&names, is_recursive) {
                Ok(()) => {}
                Err(AttachError::Root(_)) => {
                    self.tell(What::Removed, names, Some(FileKind::Directory));
                }
                Err(error) => self.lose(error, &names),
            }
        }
        self.looked = Some(Instant::now());
        self.shared.tell(Item {
            what: What::Missed,
            names: Vec::new(),
            entry: None,
        });
        tracing::debug!(bucket = %self.shared.bucket, directories = self.tree.len(), "looked at anew: changes were missed");
    }
}
