//! One directory of the host as a bucket.

use super::{gate::Need, jobs::Jobs, replacement::Uploads, usage::Usage, watching::Watching};
use crate::{
    config::{BucketConfig, INBOX},
    root::{FileId, Root, RootError},
};
use alknet_core::files::{BucketInfo, BucketKind, FileError, FileErrorCode, FilePath, PathVersion};
use arc_swap::ArcSwap;
use rustix::fs::{Mode, OFlags, fstat, openat};
use std::{
    collections::HashMap,
    fs,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio::time::timeout;

/// A disk that did not answer for so long is said not to.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// Whether the path of a bucket is still that of its directory is looked at so
/// often: who deploys by a rename is served from the new one.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A directory's partial files are looked through at most so often.
const SWEEP_EVERY: Duration = Duration::from_secs(60 * 60);
/// Directories of which is known when they were looked through.
const SWEPT_MAX: usize = 4_096;
/// Locks under which files of a bucket with a quota grow.
const GROWTH_LOCKS: usize = 32;

/// What the configuration says, and what may change without the bucket being
/// another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) read_only: bool,
    pub(crate) quota_bytes: Option<u64>,
    pub(crate) quota_entries: Option<u64>,
    pub(crate) keep_free: u64,
    pub(crate) partials_kept: Duration,
}

impl Settings {
    pub(crate) fn of(config: &BucketConfig, partials_kept: Duration) -> Self {
        Self {
            read_only: config.read_only,
            quota_bytes: config.quota.map(|quota| quota.bytes()),
            quota_entries: config.quota_entries,
            keep_free: config.keep_free.bytes(),
            partials_kept,
        }
    }

    pub(crate) fn has_quota(&self) -> bool {
        self.quota_bytes.is_some() || self.quota_entries.is_some()
    }
}

/// The directory of a bucket.
#[derive(Debug)]
struct Open {
    root: Root,
    /// When it was seen to be the one that has the bucket's path.
    looked: Instant,
}

/// A bucket, as long as it is configured for one path.
#[derive(Debug)]
pub(crate) struct Bucket {
    name: Box<str>,
    /// Of the host: never told to callers.
    path: PathBuf,
    own_data: Option<Arc<Path>>,
    settings: ArcSwap<Settings>,
    is_gone: AtomicBool,
    root: Mutex<Option<Open>>,
    swept: Mutex<HashMap<FileId, Instant>>,
    growth: [Mutex<()>; GROWTH_LOCKS],
    pub(crate) usage: Usage,
    pub(crate) uploads: Uploads,
    pub(crate) watching: Watching,
    pub(crate) jobs: Jobs,
}

impl Bucket {
    pub(crate) fn new(
        config: &BucketConfig,
        partials_kept: Duration,
        own_data: Option<Arc<Path>>,
    ) -> Self {
        Self {
            name: config.name.as_str().into(),
            path: config.path.clone(),
            own_data,
            settings: ArcSwap::from_pointee(Settings::of(config, partials_kept)),
            is_gone: AtomicBool::new(false),
            root: Mutex::default(),
            swept: Mutex::default(),
            growth: [const { Mutex::new(()) }; GROWTH_LOCKS],
            usage: Usage::default(),
            uploads: Uploads::default(),
            watching: Watching::default(),
            jobs: Jobs::new(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn host_path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Takes over what may change; what was counted is counted anew.
    pub(crate) fn set(&self, settings: Settings) {
        if *self.settings.load_full() != settings {
            self.usage.forget();
            self.settings.store(Arc::new(settings));
        }
    }

    /// It is not configured any more: whoever still has it can do nothing.
    pub(crate) fn end(&self) {
        self.is_gone.store(true, Ordering::Release);
        *lock(&self.root) = None;
        self.watching.end();
    }

    /// # Errors
    ///
    /// `NO_SUCH_BUCKET` if it was ended.
    pub(crate) fn alive(&self) -> Result<(), FileError> {
        match self.is_gone.load(Ordering::Acquire) {
            true => Err(no_such_bucket(&self.name)),
            false => Ok(()),
        }
    }

    /// # Errors
    ///
    /// `NO_SUCH_BUCKET` if it was ended, `READ_ONLY`.
    pub(crate) fn writable(&self) -> Result<Arc<Settings>, FileError> {
        self.alive()?;
        let settings = self.settings();
        if settings.read_only {
            let message = format!("bucket `{}` is read-only", self.name);
            return Err(FileError::new(FileErrorCode::ReadOnly, message));
        }
        Ok(settings)
    }

    /// Its directory; opened anew if that was removed and is there again. Blocks.
    ///
    /// # Errors
    ///
    /// `NO_SUCH_BUCKET` if it was ended, or if its directory cannot be opened.
    pub(crate) fn root(&self) -> Result<Root, FileError> {
        self.alive()?;
        let mut root = lock(&self.root);
        if let Some(open) = &mut *root
            && self.is_still_there(open)
        {
            return Ok(open.root.clone());
        }
        *root = None;
        let opened = self.open().map_err(|error| self.unavailable(error))?;
        // It may have been ended meanwhile.
        self.alive()?;
        self.usage.forget();
        let looked = Instant::now();
        let open = root.insert(Open {
            root: opened,
            looked,
        });
        Ok(open.root.clone())
    }

    /// Whether the directory is neither removed nor, as of a moment ago, another
    /// one than has its path.
    fn is_still_there(&self, open: &mut Open) -> bool {
        let is_removed = || {
            !open
                .root
                .directory()
                .meta()
                .is_ok_and(|meta| meta.links > 0)
        };
        if open.looked.elapsed() < LOOK_EVERY {
            return !is_removed();
        }
        open.looked = Instant::now();
        let now = fs::metadata(&self.path);
        now.is_ok_and(|now| (now.dev(), now.ino()) == (open.root.id().device, open.root.id().inode))
    }

    fn open(&self) -> Result<Root, RootError> {
        let root = Root::open(&self.path)?;
        let Some(own) = &self.own_data else {
            return Ok(root);
        };
        let own_id = Root::open(own)?.id();
        // Its name was checked when it was configured; a link may lead elsewhere
        // since.
        match steps_down_from(own_id, &root)? {
            Some(1) if *self.name == *INBOX => Ok(root),
            Some(_) => Err(RootError::LeadsOut),
            None => root.hide(own),
        }
    }

    fn unavailable(&self, error: RootError) -> FileError {
        tracing::debug!(bucket = %self.name, path = %self.path.display(), %error, "a bucket cannot be opened");
        let message = format!("bucket `{}` cannot be used now: {}", self.name, why(&error));
        FileError::new(FileErrorCode::NoSuchBucket, message)
    }

    /// As listed; a disk that does not answer is not waited for.
    pub(crate) async fn look(self: &Arc<Self>) -> BucketInfo {
        let settings = self.settings();
        let bucket = Arc::clone(self);
        let opened = self.jobs.run(move || bucket.root().map(drop));
        let unavailable = match timeout(LOOK_MAX, opened).await {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(error)) | Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!(
                "bucket `{}` cannot be used now: its disk does not answer",
                self.name
            )),
        };
        BucketInfo {
            name: self.name.to_string(),
            kind: BucketKind::Host,
            read_only: settings.read_only,
            quota_bytes: settings.quota_bytes,
            quota_entries: settings.quota_entries,
            unavailable,
        }
    }

    /// Under which the file grows that is `id`, if growing is counted.
    pub(crate) fn growing(&self, settings: &Settings, id: FileId) -> Option<MutexGuard<'_, ()>> {
        let of = usize::try_from(id.inode % GROWTH_LOCKS as u64).unwrap_or(0);
        settings.has_quota().then(|| lock(&self.growth[of]))
    }

    /// Removes what nobody goes on with from a directory that is being listed,
    /// if that was not done for a while.
    pub(crate) fn sweep_now_and_then(&self, directory: &crate::root::Directory) {
        let settings = self.settings();
        if settings.read_only || !self.is_time_to_sweep(directory.id()) {
            return;
        }
        let freeing = self.usage.freeing();
        let before = SystemTime::now().checked_sub(settings.partials_kept);
        let swept = before.map(|before| directory.sweep(before));
        if let Some(Ok(swept)) = swept {
            freeing.freed(swept.bytes, swept.partials);
        }
    }

    fn is_time_to_sweep(&self, id: FileId) -> bool {
        let (mut swept, now) = (lock(&self.swept), Instant::now());
        let is_recent = |at: &Instant| now.duration_since(*at) < SWEEP_EVERY;
        if swept.get(&id).is_some_and(is_recent) {
            return false;
        }
        if swept.len() >= SWEPT_MAX {
            swept.retain(|_, at| is_recent(at));
        }
        // More than are remembered are not looked through again and again.
        swept.len() < SWEPT_MAX && swept.insert(id, now).is_none_or(|at| !is_recent(&at))
    }
}

/// # Errors
///
/// `UNSUPPORTED` for a branch or a moment: directories of the host have none.
pub(crate) fn refuse_versions(path: &FilePath) -> Result<(), FileError> {
    match path.root().version() {
        PathVersion::Now => Ok(()),
        _ => {
            let message = format!(
                "`{path}`: bucket `{}` has no branches and no past",
                path.bucket()
            );
            Err(FileError::new(FileErrorCode::Unsupported, message))
        }
    }
}

pub(crate) fn no_such_bucket(name: &str) -> FileError {
    let message = format!("there is no bucket `{name}`");
    FileError::new(FileErrorCode::NoSuchBucket, message)
}

/// What is needed of a path that a caller named.
pub(crate) fn needs(actions: &[&'static str], path: &FilePath) -> Vec<Need> {
    actions
        .iter()
        .map(|action| Need::file(action, path))
        .collect()
}

/// A locked mutex, whatever happened to the thread that had it last.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many names `root` lies below the directory `above`; `None` if it does not.
fn steps_down_from(above: FileId, root: &Root) -> Result<Option<usize>, RootError> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | hold();
    let directory = root.directory();
    let mut at: OwnedFd = openat(&directory, ".", flags, Mode::empty())?;
    let mut last = root.id();
    for steps in 0.. {
        if last == above {
            return Ok(Some(steps));
        }
        at = openat(&at, "..", flags, Mode::empty())?;
        let next = id_of(&at)?;
        // Above `/` is `/`.
        if next == last {
            break;
        }
        last = next;
    }
    Ok(None)
}

// Widths of these fields differ from one system to the next.
#[allow(clippy::unnecessary_cast)]
fn id_of(held: &OwnedFd) -> Result<FileId, RootError> {
    let stat = fstat(held)?;
    Ok(FileId {
        device: stat.st_dev as u64,
        inode: stat.st_ino as u64,
    })
}

#[cfg(target_os = "linux")]
fn hold() -> OFlags {
    OFlags::PATH
}

#[cfg(not(target_os = "linux"))]
fn hold() -> OFlags {
    OFlags::empty()
}

fn why(error: &RootError) -> &'static str {
    use std::io::ErrorKind;
    match error {
        RootError::Io(error) => match error.kind() {
            ErrorKind::NotFound => "its directory is not there",
            ErrorKind::NotADirectory => "it is no directory",
            ErrorKind::PermissionDenied => "the account that the node runs as may not open it",
            _ => "its directory cannot be opened",
        },
        RootError::LeadsOut => "it leads to where no bucket may be",
        _ => "its directory cannot be opened",
    }
}
