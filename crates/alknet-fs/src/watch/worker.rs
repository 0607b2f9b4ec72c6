//! The thread that reads what the host tells of one bucket.

mod events;
mod look;

use super::{
    Shared, locked,
    ring::{Item, What},
    scope::{Scope, is_in},
    tree::{AttachError, NodeId, Tree, wanted},
};
use crate::root::RootError;
use alknet_core::files::{FileError, FileErrorCode, FileName};
use look::LOOK_AGAIN_AFTER;
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    fs::Timespec,
};
use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Weak, mpsc},
    thread,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Batches that a new watch waits for.
const BEFORE_BATCHES_MAX: usize = 8;
/// How long it may take until it is told where a directory went.
const LATER: Duration = Duration::from_millis(20);
/// The root's own end is told by nobody: it is asked for.
const ROOT_LOOKED_AT_EVERY: Duration = Duration::from_secs(5);

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
