//! Changes below a root, as the host tells them (inotify(7)).
//!
//! A [`Watcher`] belongs to one bucket. It has one inotify instance and one
//! thread, both only while somebody watches, or did lately. Directories are
//! watched by their handles, which the root gave out: no path of the host is
//! resolved here. The directories on the way to what is watched are followed
//! too, so that it is known when it is moved away.
//!
//! * A directory that comes is first watched and then listed: what was made in
//!   it meanwhile is told, perhaps twice, never not at all.
//! * What the host could not tell, because its queue was full or because
//!   directories changed places faster than they were looked at, is told as
//!   `missed`, and everything is looked at anew.
//! * Changes are kept for a while ([`CHANGES_KEPT`]): who reads slowly, or comes
//!   back with a cursor, goes on there, or is told `missed`.
//! * Partial files and hidden directories are not told; a file that gets a new
//!   content as a whole is told as created.
//!
//! Not told: what is below a directory that the node's account may not read, and
//! what happens on another computer that has the same file system mounted.

mod follow;
mod ring;
mod scope;
#[cfg(target_os = "linux")]
mod tree;
#[cfg(target_os = "linux")]
mod worker;
#[cfg(not(target_os = "linux"))]
#[path = "elsewhere.rs"]
mod worker;

use self::{
    follow::HostWatch,
    ring::{Item, Ring, What},
    scope::Scope,
    worker::Worker,
};
use crate::root::Root;
use alknet_core::{
    Permit,
    files::{BucketRef, FileError, FileErrorCode, FileName, FilePath, Watch, WatchOptions},
};
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// Changes of a bucket that are kept for those who come later.
pub const CHANGES_KEPT: usize = 8_192;
/// Bytes of names that are kept with them.
pub const CHANGES_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Changes that a watch tells at once.
pub const CHANGES_TOLD_MAX: usize = 256;

/// How much is watched.
#[derive(Clone, Copy, Debug)]
pub struct WatchLimits {
    /// Directories of a bucket.
    pub directories: usize,
    /// Watches of one caller in a bucket.
    pub watches_per_caller: usize,
    /// Different places of a bucket that are watched.
    pub places: usize,
    /// How long a place is watched after its last watch has ended, for those who
    /// come back after a cut.
    pub kept: Duration,
}

impl Default for WatchLimits {
    fn default() -> Self {
        Self {
            directories: 65_536,
            watches_per_caller: 128,
            places: 1_024,
            kept: Duration::from_secs(120),
        }
    }
}

/// Watches one bucket.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
}

/// What watches and the thread share.
struct Shared {
    bucket: BucketRef,
    root: Root,
    limits: WatchLimits,
    ring: Mutex<Ring>,
    /// The number of the last change.
    head: watch::Sender<u64>,
    worker: Mutex<Option<Worker>>,
    watches: Mutex<HashMap<String, usize>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher")
            .field("bucket", &self.bucket)
            .finish_non_exhaustive()
    }
}

impl Watcher {
    /// Watches nothing yet.
    #[must_use]
    pub fn new(bucket: BucketRef, root: Root, limits: WatchLimits) -> Self {
        Self {
            shared: Arc::new(Shared {
                bucket,
                root,
                limits,
                ring: Mutex::new(Ring::new()),
                head: watch::Sender::new(0),
                worker: Mutex::new(None),
                watches: Mutex::new(HashMap::new()),
            }),
        }
    }

    /// Watches `real`, an entry without links on the way, which `asked` led to:
    /// the caller must go on being allowed to list both.
    ///
    /// # Errors
    ///
    /// `TOO_MANY_OPEN` beyond a limit of [`WatchLimits`] or of the host, naming
    /// it; `NO_SUCH_FILE` if it is not there any more; `HOST_REFUSES` for a
    /// directory that may not be read; `UNSUPPORTED` where there is no inotify.
    pub async fn watch(
        &self,
        permit: &Permit,
        asked: &FilePath,
        real: FilePath,
        is_directory: bool,
        options: WatchOptions,
    ) -> Result<Box<dyn Watch>, FileError> {
        let scope = Scope::new(asked.clone(), real, is_directory, options.recursive);
        let turn = self.shared.take_turn(permit, &scope)?;
        let begun = worker::begin(&self.shared, &scope, options.after.as_deref()).await?;
        Ok(Box::new(HostWatch::new(
            self.shared.clone(),
            scope,
            turn,
            begun,
        )))
    }

    /// Ends all watches: the bucket is no more.
    pub fn close(&self) {
        let message = format!("there is no bucket `{}` any more", self.shared.bucket);
        self.shared.tell(Item {
            what: What::Lost(FileErrorCode::NoSuchBucket, message),
            names: Vec::new(),
            entry: None,
        });
        worker::stop(&self.shared);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.close();
    }
}

/// One of the watches that a caller may have.
struct Turn {
    shared: Arc<Shared>,
    caller: String,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut watches = locked(&self.shared.watches);
        if let Some(count) = watches.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                watches.remove(&self.caller);
            }
        }
    }
}

impl Shared {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        locked(&self.ring)
    }

    fn tell(&self, item: Item) {
        let number = self.ring().push(item);
        self.head.send_replace(number);
    }

    fn path(&self, names: &[FileName]) -> Option<FilePath> {
        FilePath::new(self.bucket.clone(), names.to_vec()).ok()
    }

    fn take_turn(self: &Arc<Self>, permit: &Permit, scope: &Scope) -> Result<Turn, FileError> {
        let caller = permit.caller()?.id().to_string();
        let mut watches = locked(&self.watches);
        let count = watches.entry(caller.clone()).or_default();
        let most = self.limits.watches_per_caller;
        if *count >= most {
            let file = scope.path();
            let message = format!("`{file}`: `{caller}` has {most} watches in this bucket already");
            return Err(FileError::new(FileErrorCode::TooManyOpen, message));
        }
        *count += 1;
        Ok(Turn {
            shared: self.clone(),
            caller,
        })
    }
}

/// What is behind these locks is whole between any two of its lines.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt, path::Path};
    use tokio::time::timeout;

    fn told(shared: &Shared, after: u64) -> Vec<(u64, Item)> {
        let ring = shared.ring();
        let items = ring.after(after).unwrap();
        items.map(|(number, item)| (number, item.clone())).collect()
    }

    /// Waits until a change that fits was told after that number.
    async fn until(shared: &Shared, after: u64, fits: impl Fn(&Item) -> bool) -> u64 {
        let mut head = shared.head.subscribe();
        let wait = async {
            loop {
                head.borrow_and_update();
                let mut told = told(shared, after).into_iter();
                if let Some((number, _)) = told.find(|(_, item)| fits(item)) {
                    return number;
                }
                head.changed().await.unwrap();
            }
        };
        timeout(Duration::from_secs(20), wait).await.unwrap()
    }

    async fn begin(shared: &Arc<Shared>) -> worker::Begun {
        let top = FilePath::parse("www").unwrap();
        let scope = Scope::new(top.clone(), top, true, true);
        worker::begin(shared, &scope, None).await.unwrap()
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[tokio::test]
    async fn what_the_host_could_not_queue_is_told_as_missed() {
        let dir = tempfile::tempdir().unwrap();
        let files = ["a", "b"].map(|name| dir.path().join(name));
        files.iter().for_each(|file| fs::write(file, "").unwrap());
        let root = Root::open(dir.path()).unwrap();
        let watcher = Watcher::new(
            BucketRef::parse("www").unwrap(),
            root,
            WatchLimits::default(),
        );
        let shared = &watcher.shared;
        let begun = begin(shared).await;
        let queued = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let queued: u32 = queued.trim().parse().unwrap();
        {
            // The thread cannot tell, and stops reading.
            let _held = shared.ring();
            for n in 0..queued + 10_000 {
                chmod(&files[n as usize % 2], 0o600 | (n & 0o77));
            }
            // Of this the host says nothing.
            fs::create_dir_all(dir.path().join("deep/er")).unwrap();
        }
        let mut head = shared.head.subscribe();
        let missed = async {
            loop {
                head.borrow_and_update();
                let last = shared.ring().head().saturating_sub(1);
                let mut told = told(shared, last).into_iter();
                if told.any(|(_, item)| item.what == What::Missed) {
                    return;
                }
                head.changed().await.unwrap();
            }
        };
        timeout(Duration::from_secs(60), missed).await.unwrap();
        let at = shared.ring().head();
        fs::write(dir.path().join("deep/er/new"), "").unwrap();
        let new = FilePath::parse("www/deep/er/new").unwrap();
        until(shared, at, |item| item.names == new.names()).await;
        drop(begun);
    }

    #[tokio::test]
    async fn a_root_that_is_removed_ends_what_is_watched() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir(&top).unwrap();
        let name = BucketRef::parse("www").unwrap();
        let limits = WatchLimits::default();
        let watcher = Watcher::new(name, Root::open(&top).unwrap(), limits);
        let _begun = begin(&watcher.shared).await;
        fs::remove_dir(&top).unwrap();
        // Whatever wakes the thread; else it would look in five seconds.
        let _other = begin(&watcher.shared).await;
        let is_end = |item: &Item| item.what == What::Removed && item.names.is_empty();
        until(&watcher.shared, 0, is_end).await;
    }

    #[tokio::test]
    async fn nothing_runs_when_nobody_watches() {
        let dir = tempfile::tempdir().unwrap();
        let limits = WatchLimits {
            kept: Duration::ZERO,
            ..WatchLimits::default()
        };
        let name = BucketRef::parse("www").unwrap();
        let watcher = Watcher::new(name, Root::open(dir.path()).unwrap(), limits);
        for _ in 0..2 {
            let begun = begin(&watcher.shared).await;
            assert!(locked(&watcher.shared.worker).is_some());
            drop(begun);
            let ended = async {
                while locked(&watcher.shared.worker).is_some() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(Duration::from_secs(20), ended).await.unwrap();
        }
    }
}
