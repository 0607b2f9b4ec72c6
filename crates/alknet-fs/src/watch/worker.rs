//! The thread that reads what the host tells of one bucket.

use super::{
    Shared, locked,
    ring::{Item, What},
    scope::{Scope, ends, is_in},
    tree::{AttachError, Interest, NodeId, Tree, wanted},
};
use crate::root::{Detail, Directory, FileId, RootError};
use alknet_core::files::{FileError, FileErrorCode, FileKind, FileName};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    fs::{
        Timespec,
        inotify::{ReadFlags, Reader},
    },
    io::Errno,
};
use std::{
    collections::{HashSet, VecDeque},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Weak, mpsc},
    thread,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Events that are looked at together.
const BATCH_EVENTS: usize = 4_096;
/// Batches that a new watch waits for.
const BEFORE_BATCHES_MAX: usize = 8;
/// How long the second half of a renaming is waited for; the host tells both
/// together, but for a moment in which it is busy.
const RENAME_HALVES_APART: Duration = Duration::from_millis(10);
/// How long it may take until it is told where a directory went.
const LATER: Duration = Duration::from_millis(20);
/// Everything is looked at anew at most so often.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// The root's own end is told by nobody: it is asked for.
const ROOT_LOOKED_AT_EVERY: Duration = Duration::from_secs(5);
/// Handles that are held while directories are looked through: one for each
/// level down to this one.
const HELD_DEPTH_MAX: usize = 32;

/// A thread that runs.
pub(super) struct Worker {
    commands: mpsc::Sender<Command>,
    wake: Arc<OwnedFd>,
}

enum Command {
    Begin {
        names: Vec<FileName>,
        is_recursive: bool,
        after: Option<u64>,
        reply: oneshot::Sender<Result<Begun, Failed>>,
    },
    End(u64),
    Stop,
}

/// What a watch begins with.
pub(super) struct Begun {
    /// The last change that it does not tell.
    pub(super) at: u64,
    /// Whether changes were missed before.
    pub(super) has_missed: bool,
    pub(super) lease: Lease,
}

/// Keeps a place watched.
pub(super) struct Lease {
    shared: Weak<Shared>,
    place: u64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            send(&shared, Command::End(self.place));
        }
    }
}

/// Why a watch does not begin, as a code and the end of a sentence.
struct Failed(FileErrorCode, String, Option<std::io::Error>);

impl Failed {
    fn of(error: AttachError) -> Self {
        let root = match error {
            AttachError::Full(what) => {
                let message = format!("it cannot be watched: no more {what} are allowed");
                return Self(FileErrorCode::TooManyOpen, message, None);
            }
            AttachError::Unsupported => {
                let message = "the host cannot watch it".into();
                return Self(FileErrorCode::Unsupported, message, None);
            }
            AttachError::Circle => {
                let message = "it is mounted twice on one path".into();
                return Self(FileErrorCode::Unsupported, message, None);
            }
            AttachError::Root(root) => root,
        };
        match root {
            RootError::Io(cause) => Self(FileErrorCode::IoError, String::new(), Some(cause)),
            RootError::Changed => {
                let message = "it was moved at this moment".into();
                Self(FileErrorCode::FileBusy, message, None)
            }
            other => Self(FileErrorCode::NoSuchFile, other.to_string(), None),
        }
    }

    fn told(self, scope: &Scope) -> FileError {
        let file = scope.path();
        match self.2 {
            Some(cause) => FileError::host(file, cause),
            None => FileError::new(self.0, format!("`{file}`: {}", self.1)),
        }
    }
}

/// Watches a place; starts the thread if there is none.
pub(super) async fn begin(
    shared: &Arc<Shared>,
    scope: &Scope,
    after: Option<&str>,
) -> Result<Begun, FileError> {
    let number = after.and_then(|cursor| shared.ring().number(cursor));
    let (reply, begun) = oneshot::channel();
    let command = Command::Begin {
        names: scope.directory().to_vec(),
        is_recursive: scope.is_recursive(),
        after: number,
        reply,
    };
    start(shared, command).map_err(|error| Failed::of(error).told(scope))?;
    let mut begun = match begun.await {
        Ok(begun) => begun.map_err(|failed| failed.told(scope))?,
        Err(_) => {
            let message = format!("`{}`: there is no such bucket any more", scope.path());
            return Err(FileError::new(FileErrorCode::NoSuchBucket, message));
        }
    };
    begun.has_missed |= after.is_some() && number.is_none();
    Ok(begun)
}

/// Ends the thread.
pub(super) fn stop(shared: &Shared) {
    send(shared, Command::Stop);
}

fn send(shared: &Shared, command: Command) {
    if let Some(worker) = &*locked(&shared.worker) {
        worker.send(command);
    }
}

fn start(shared: &Arc<Shared>, command: Command) -> Result<(), AttachError> {
    let mut slot = locked(&shared.worker);
    let worker = match &mut *slot {
        Some(worker) => worker,
        empty => empty.insert(Worker::spawn(shared)?),
    };
    worker.send(command);
    Ok(())
}

impl Worker {
    fn spawn(shared: &Arc<Shared>) -> Result<Self, AttachError> {
        let tree = Tree::new(shared.root.clone(), shared.limits.directories)?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = eventfd(0, flags).map_err(|_| AttachError::Full("open files of the host"))?;
        let wake = Arc::new(wake);
        let (commands, orders) = mpsc::channel();
        let run = Run {
            shared: shared.clone(),
            tree,
            orders,
            wake: wake.clone(),
            places: Vec::new(),
            last_place: 0,
            is_unsure: false,
            looked: None,
            is_untidy: false,
            later: Vec::new(),
        };
        let thread = thread::Builder::new().name("alknet-watch".into());
        let spawned = thread.spawn(move || run.run());
        spawned.map_err(|_| AttachError::Full("threads of the host"))?;
        Ok(Self { commands, wake })
    }

    fn send(&self, command: Command) {
        // A thread that ended has taken itself out of the slot.
        let _ = self.commands.send(command);
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// A directory that is watched for somebody.
struct Place {
    id: u64,
    names: Vec<FileName>,
    is_recursive: bool,
    /// The last change that was not told of it.
    since: u64,
    watches: usize,
    idle_since: Option<Instant>,
}

struct Event {
    watch: i32,
    flags: ReadFlags,
    cookie: u32,
    name: Option<FileName>,
}

struct Run {
    shared: Arc<Shared>,
    tree: Tree,
    orders: mpsc::Receiver<Command>,
    wake: Arc<OwnedFd>,
    places: Vec<Place>,
    last_place: u64,
    /// What is known of directories may be wrong: they are looked at anew.
    is_unsure: bool,
    looked: Option<Instant>,
    /// More may be watched than anybody wants.
    is_untidy: bool,
    /// What could not be looked at where it was last seen: it has moved, which
    /// will be told.
    later: Vec<Later>,
}

/// What is done when it is known where a directory is.
enum Later {
    /// A directory that came into this one is watched.
    Attach(NodeId, FileName),
    /// What is in it is looked at.
    Look(NodeId),
}

/// The thread ended.
struct Stopped;

impl Run {
    fn run(mut self) {
        while self.turn().is_ok() {}
    }

    fn turn(&mut self) -> Result<(), Stopped> {
        self.wait(self.patience());
        self.obey()?;
        let events = self.read();
        let is_quiet = events.is_empty();
        self.take(events);
        self.catch_up(is_quiet);
        self.look_at_root();
        self.look_again_if_unsure();
        self.end_idle()
    }

    /// How long nothing needs to be done if nothing happens.
    fn patience(&self) -> Option<Duration> {
        let idle = self.places.iter().filter_map(|place| place.idle_since);
        let idle = idle.min().map(|since| since + self.shared.limits.kept);
        let again = match self.looked {
            _ if !self.is_unsure => None,
            Some(looked) => Some(looked + LOOK_AGAIN_AFTER),
            None => Some(Instant::now()),
        };
        let later = (!self.later.is_empty()).then(|| Instant::now() + LATER);
        let root = (!self.places.is_empty()).then(|| Instant::now() + ROOT_LOOKED_AT_EVERY);
        let next = idle
            .into_iter()
            .chain(again)
            .chain(later)
            .chain(root)
            .min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn wait(&self, patience: Option<Duration>) {
        // A little longer, so that it is over then.
        let patience = patience.map(|patience| patience + Duration::from_millis(1));
        let timeout = patience.and_then(|patience| Timespec::try_from(patience).ok());
        let (host, wake) = (self.tree.handle(), self.wake.as_fd());
        let mut on = [
            PollFd::from_borrowed_fd(host, PollFlags::IN),
            PollFd::from_borrowed_fd(wake, PollFlags::IN),
        ];
        // An interruption is a reason to look too.
        let _ = poll(&mut on, timeout.as_ref());
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    fn obey(&mut self) -> Result<(), Stopped> {
        while let Ok(command) = self.orders.try_recv() {
            match command {
                Command::Stop => {
                    *locked(&self.shared.worker) = None;
                    return Err(Stopped);
                }
                Command::End(place) => self.end(place),
                Command::Begin {
                    names,
                    is_recursive,
                    after,
                    reply,
                } => {
                    let begun = self.begin(names, is_recursive, after);
                    // Nobody waits any more: the lease in it ends.
                    let _ = reply.send(begun);
                }
            }
        }
        Ok(())
    }

    fn begin(
        &mut self,
        names: Vec<FileName>,
        is_recursive: bool,
        after: Option<u64>,
    ) -> Result<Begun, Failed> {
        // What happened before is told as such, but where it never ends.
        for _ in 0..BEFORE_BATCHES_MAX {
            let events = self.read();
            if events.is_empty() {
                break;
            }
            self.take(events);
        }
        let head = self.shared.ring().head();
        let covering = self.places.iter().filter(|place| {
            (place.names == names && place.is_recursive >= is_recursive)
                || (place.is_recursive && is_in(&names, &place.names, true))
        });
        let since = covering.map(|place| place.since).min();
        let place = self.place(names, is_recursive, since.unwrap_or(head))?;
        let resumes = after.filter(|after| since.is_some_and(|since| since <= *after));
        Ok(Begun {
            at: resumes.unwrap_or(head),
            has_missed: after.is_some() && resumes.is_none(),
            lease: Lease {
                shared: Arc::downgrade(&self.shared),
                place,
            },
        })
    }

    fn place(
        &mut self,
        names: Vec<FileName>,
        is_recursive: bool,
        since: u64,
    ) -> Result<u64, Failed> {
        let same = |place: &&mut Place| place.names == names && place.is_recursive == is_recursive;
        if let Some(place) = self.places.iter_mut().find(same) {
            place.watches += 1;
            place.idle_since = None;
            return Ok(place.id);
        }
        if self.places.len() >= self.shared.limits.places {
            self.drop_oldest_idle();
        }
        if self.places.len() >= self.shared.limits.places {
            return Err(Failed::of(AttachError::Full(
                "places of a bucket that are watched",
            )));
        }
        self.last_place += 1;
        let id = self.last_place;
        self.places.push(Place {
            id,
            names: names.clone(),
            is_recursive,
            since,
            watches: 1,
            idle_since: None,
        });
        if let Err(error) = self.set_up(&names, is_recursive) {
            self.places.retain(|place| place.id != id);
            self.prune();
            return Err(Failed::of(error));
        }
        Ok(id)
    }

    fn end(&mut self, place: u64) {
        let ended = self.places.iter_mut().find(|known| known.id == place);
        if let Some(place) = ended {
            place.watches = place.watches.saturating_sub(1);
            if place.watches == 0 {
                place.idle_since = Some(Instant::now());
            }
        }
    }

    /// Ends places that nobody came back to, and the thread after the last one.
    fn end_idle(&mut self) -> Result<(), Stopped> {
        let kept = self.shared.limits.kept;
        let before = self.places.len();
        self.places
            .retain(|place| place.idle_since.is_none_or(|since| since.elapsed() < kept));
        if self.places.len() < before || self.is_untidy {
            self.is_untidy = false;
            self.prune();
        }
        if !self.places.is_empty() {
            return Ok(());
        }
        // Under the lock under which commands are sent: none is lost.
        let shared = self.shared.clone();
        let mut slot = locked(&shared.worker);
        match self.orders.try_recv() {
            Ok(command) => {
                if let Some(worker) = &*slot {
                    worker.send(command);
                }
                Ok(())
            }
            Err(_) => {
                *slot = None;
                Err(Stopped)
            }
        }
    }

    fn drop_oldest_idle(&mut self) {
        let idle = self.places.iter().enumerate();
        let oldest = idle
            .filter_map(|(at, place)| Some((place.idle_since?, at)))
            .min();
        if let Some((_, at)) = oldest {
            self.places.swap_remove(at);
            self.prune();
        }
    }

    fn prune(&mut self) {
        let places = &self.places;
        self.tree.prune(|names| {
            let places = places
                .iter()
                .map(|place| (place.names.as_slice(), place.is_recursive));
            wanted(names, places)
        });
    }

    /// Watches the way down to a place, and it.
    fn set_up(&mut self, names: &[FileName], is_recursive: bool) -> Result<(), AttachError> {
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
    fn look_through(
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

    fn read(&mut self) -> Vec<Event> {
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

    fn take(&mut self, events: Vec<Event>) {
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

    /// Watches a directory that came, if somebody watches all that is below its
    /// parent.
    fn follow(&mut self, parent: NodeId, name: &FileName, names: &[FileName]) {
        if !self.is_covered(names) {
            return;
        }
        if let Err(error) = self.follow_all(parent, name, names) {
            self.lose(error, names);
        }
    }

    /// A directory cannot be watched: whoever would be told of it is told that.
    fn lose(&mut self, error: AttachError, names: &[FileName]) {
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
    fn catch_up(&mut self, is_quiet: bool) {
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

    fn is_covered(&self, names: &[FileName]) -> bool {
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
    fn tell(&mut self, what: What, names: Vec<FileName>, entry: Option<FileKind>) {
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

    /// A root that was removed stays open here, so that the host tells nothing.
    fn look_at_root(&mut self) {
        let root = self.shared.root.directory();
        if root.meta().is_ok_and(|meta| meta.links == 0) {
            self.tell(What::Removed, Vec::new(), Some(FileKind::Directory));
        }
    }

    /// Looks at everything anew if what is known may be wrong, and says that
    /// changes were missed; not too often.
    fn look_again_if_unsure(&mut self) {
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

impl Drop for Run {
    /// Also if the thread panicked: nobody waits for it in vain.
    fn drop(&mut self) {
        if thread::panicking() {
            *locked(&self.shared.worker) = None;
            let message = "it is watched no longer".to_owned();
            self.shared.tell(Item {
                what: What::Lost(FileErrorCode::IoError, message),
                names: Vec::new(),
                entry: None,
            });
        }
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
    name.as_bytes()
        .starts_with(crate::root::PARTIAL_PREFIX.as_bytes())
}
