//! What the host tells, one event after the other.

use super::{Place, Run};
use crate::{
    root::{FileId, PARTIAL_PREFIX},
    watch::{
        ring::{Item, What},
        scope::{ends, is_in},
        tree::NodeId,
    },
};
use alknet_core::files::{FileKind, FileName};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{
        Timespec,
        inotify::{ReadFlags, Reader},
    },
    io::Errno,
};
use std::{
    collections::{HashSet, VecDeque},
    mem::MaybeUninit,
    time::Duration,
};

/// Events that are looked at together.
const BATCH_EVENTS: usize = 4_096;
/// How long the second half of a renaming is waited for; the host tells both
/// together, but for a moment in which it is busy.
const RENAME_HALVES_APART: Duration = Duration::from_millis(10);

pub(super) struct Event {
    watch: i32,
    flags: ReadFlags,
    cookie: u32,
    name: Option<FileName>,
}

impl Run {
    pub(super) fn read(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut is_overflown = false;
        let mut buffer = [MaybeUninit::uninit(); 32 * 1024];
        let mut reader = Reader::new(self.tree.handle(), &mut buffer);
        let mut waited = false;
        loop {
            let is_enough = events.len() >= BATCH_EVENTS && reader.is_buffer_empty();
            if is_enough && !is_half_renamed(&events) {
                break;
            }
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::INTR) => continue,
                Err(_) if !waited && is_half_renamed(&events) => {
                    waited = true;
                    let timeout = Timespec::try_from(RENAME_HALVES_APART).ok();
                    let on = PollFd::from_borrowed_fd(self.tree.handle(), PollFlags::IN);
                    let _ = poll(&mut [on], timeout.as_ref());
                    continue;
                }
                Err(_) => break,
            };
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                is_overflown = true;
                continue;
            }
            let name = event.file_name().map(|name| FileName::new(name.to_bytes()));
            events.push(Event {
                watch: event.wd(),
                flags: event.events(),
                cookie: event.cookie(),
                name: name.and_then(Result::ok),
            });
        }
        self.is_unsure |= is_overflown;
        events
    }

    pub(super) fn take(&mut self, events: Vec<Event>) {
        let mut batch = Batch::new(events);
        while let Some(event) = batch.next() {
            self.take_one(event, &mut batch);
        }
    }

    fn take_one(&mut self, event: Event, batch: &mut Batch) {
        let flags = event.flags;
        if flags.contains(ReadFlags::IGNORED) {
            if let Some(node) = self.tree.lost(event.watch) {
                self.directory_went(node);
            }
            return;
        }
        // What is there now is what was mounted over.
        self.is_unsure |= flags.contains(ReadFlags::UNMOUNT);
        let (Some(parent), Some(name)) = (self.tree.of_watch(event.watch), event.name) else {
            return;
        };
        let is_directory = flags.contains(ReadFlags::ISDIR);
        if flags.contains(ReadFlags::MOVED_FROM) {
            let to = batch.second_half(event.cookie);
            let to = to.and_then(|(watch, name)| Some((self.tree.of_watch(watch)?, name)));
            batch.forget_modified();
            return match to {
                Some(to) => self.moved((parent, name), to, is_directory),
                None => self.removed(parent, name, is_directory),
            };
        }
        if flags.contains(ReadFlags::MOVED_TO) {
            batch.forget_modified();
            return self.arrived(parent, name, is_directory);
        }
        if is_partial(&name) {
            return;
        }
        if flags.contains(ReadFlags::DELETE) {
            batch.forget_modified();
            self.removed(parent, name, is_directory);
        } else if flags.contains(ReadFlags::CREATE) {
            self.created(parent, name, is_directory);
        } else if flags.intersects(ReadFlags::MODIFY | ReadFlags::CLOSE_WRITE) {
            if batch.is_first_modified(event.watch, &name) {
                self.tell(What::Modified, self.below(parent, name), None);
            }
        } else if flags.contains(ReadFlags::ATTRIB) {
            let names = self.below(parent, name);
            if !is_directory {
                self.tell(What::Attributes, names, None);
            } else if self.exists(parent, &names) {
                self.tell(What::Attributes, names, Some(FileKind::Directory));
            }
        }
    }

    fn below(&self, parent: NodeId, name: FileName) -> Vec<FileName> {
        let mut names = self.tree.names(parent);
        names.push(name);
        names
    }

    /// A directory that is hidden does not exist.
    fn exists(&self, parent: NodeId, names: &[FileName]) -> bool {
        let (Ok((_, directory)), Some(name)) = (self.tree.open(parent), names.last()) else {
            return true;
        };
        !directory
            .meta_of(name)
            .is_err_and(|error| error.is_not_found())
    }

    fn created(&mut self, parent: NodeId, name: FileName, is_directory: bool) {
        let names = self.below(parent, name.clone());
        if !is_directory {
            return self.tell(What::Created, names, None);
        }
        if self.exists(parent, &names) {
            self.tell(What::Created, names.clone(), Some(FileKind::Directory));
            self.follow(parent, &name, &names);
        }
    }

    pub(super) fn is_covered(&self, names: &[FileName]) -> bool {
        let mut places = self.places.iter();
        places.any(|place| place.is_recursive && is_in(names, &place.names, true))
    }

    fn removed(&mut self, parent: NodeId, name: FileName, is_directory: bool) {
        if is_partial(&name) {
            return;
        }
        let child = self.tree.child(parent, &name).filter(|_| is_directory);
        let entry = is_directory.then_some(FileKind::Directory);
        self.tell(What::Removed, self.below(parent, name), entry);
        if let Some(child) = child {
            self.tree.forget(child);
        }
    }

    /// It came from where nobody watches.
    fn arrived(&mut self, parent: NodeId, name: FileName, is_directory: bool) {
        if is_partial(&name) {
            return;
        }
        let names = self.below(parent, name.clone());
        if !is_directory {
            return self.tell(What::Renamed(None), names, None);
        }
        // What had the name before was empty, or has changed places with it.
        self.is_unsure |= self.tree.child(parent, &name).is_some();
        if self.exists(parent, &names) {
            let directory = Some(FileKind::Directory);
            self.tell(What::Renamed(None), names.clone(), directory);
            self.follow(parent, &name, &names);
        }
    }

    fn moved(&mut self, from: (NodeId, FileName), to: (NodeId, FileName), is_directory: bool) {
        if is_partial(&to.1) {
            return self.removed(from.0, from.1, is_directory);
        }
        let (before, names) = (
            self.below(from.0, from.1.clone()),
            self.below(to.0, to.1.clone()),
        );
        if is_partial(&from.1) {
            return self.tell(What::Created, names, Some(FileKind::File));
        }
        if !is_directory {
            return self.tell(What::Renamed(Some(before)), names, None);
        }
        let child = self.tree.child(from.0, &from.1);
        let there = self.id_at(to.0, &to.1);
        let is_it = |node: NodeId| there.is_some() && self.tree.id(node) == there;
        if let Some(child) = child
            && !is_it(child)
        {
            // By now another one may have its old name, or the new one: they are
            // told as what they are, and not as one that moved.
            self.removed(from.0, from.1, true);
            return self.created(to.0, to.1, true);
        }
        // What had the name before was empty, or has changed places with it; or
        // it is this one, which was seen before it was told.
        let replaced = self.tree.child(to.0, &to.1);
        self.is_unsure |= replaced.is_some_and(|node| child.is_some() || !is_it(node));
        let was_covered = self.is_covered(&before);
        let directory = Some(FileKind::Directory);
        self.tell(What::Renamed(Some(before)), names.clone(), directory);
        match child {
            Some(child) if was_covered && self.is_covered(&names) => {
                self.tree.move_to(child, to.0, &to.1);
                return;
            }
            Some(child) => self.tree.forget(child),
            None => {}
        }
        self.follow(to.0, &to.1, &names);
    }

    /// Which entry has the name now.
    fn id_at(&self, parent: NodeId, name: &FileName) -> Option<FileId> {
        let (_, directory) = self.tree.open(parent).ok()?;
        Some(directory.meta_of(name).ok()?.id)
    }

    /// The directory above tells that it went, if that is watched.
    fn directory_went(&mut self, node: NodeId) {
        let parent = self.tree.parent(node);
        if parent.is_some_and(|parent| self.tree.watch(parent).is_some()) {
            return;
        }
        let names = self.tree.names(node);
        self.tell(What::Removed, names, Some(FileKind::Directory));
        self.tree.forget(node);
    }

    /// Tells of a change if anybody may want to know, and ends the places that
    /// are no more.
    pub(super) fn tell(&mut self, what: What, names: Vec<FileName>, entry: Option<FileKind>) {
        let item = Item { what, names, entry };
        let from = match &item.what {
            What::Renamed(Some(from)) => Some(from.as_slice()),
            _ => None,
        };
        let matters =
            |place: &Place, names: &[FileName]| is_in(names, &place.names, place.is_recursive);
        let is_lost = matches!(item.what, What::Lost(..));
        let is_told = self.places.iter().any(|place| {
            is_lost
                || matters(place, &item.names)
                || from.is_some_and(|from| matters(place, from))
                || ends(&item, &place.names)
        });
        if !is_told {
            return;
        }
        let before = self.places.len();
        self.places.retain(|place| !ends(&item, &place.names));
        self.is_untidy |= self.places.len() < before;
        self.shared.tell(item);
    }
}

/// Events in the order in which they happened.
struct Batch {
    events: VecDeque<Event>,
    modified: HashSet<(i32, FileName)>,
}

impl Batch {
    fn new(events: Vec<Event>) -> Self {
        Self {
            events: events.into(),
            modified: HashSet::new(),
        }
    }

    fn next(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Where a renaming led to.
    fn second_half(&mut self, cookie: u32) -> Option<(i32, FileName)> {
        let is_it =
            |event: &Event| event.cookie == cookie && event.flags.contains(ReadFlags::MOVED_TO);
        let at = self.events.iter().position(is_it)?;
        let event = self.events.remove(at)?;
        Some((event.watch, event.name?))
    }

    /// One telling of many writes is enough, until the name may mean another
    /// file.
    fn is_first_modified(&mut self, watch: i32, name: &FileName) -> bool {
        self.modified.insert((watch, name.clone()))
    }

    fn forget_modified(&mut self) {
        self.modified.clear();
    }
}

fn is_half_renamed(events: &[Event]) -> bool {
    let last = events.iter().rev().take(16);
    let from = last
        .clone()
        .find(|event| event.flags.contains(ReadFlags::MOVED_FROM));
    from.is_some_and(|from| {
        let mut to = last.filter(|event| event.flags.contains(ReadFlags::MOVED_TO));
        to.all(|to| to.cookie != from.cookie)
    })
}

fn is_partial(name: &FileName) -> bool {
    name.as_bytes().starts_with(PARTIAL_PREFIX.as_bytes())
}
