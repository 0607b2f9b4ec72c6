//! Long work with files: how far it is, and a file that appears when it is
//! whole.

use crate::{
    app::App,
    commands::backup::exists,
    failure::{Exit, Failure},
};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How often it is told.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// Tells on a terminal how far something is; takes the line away at its end.
pub(crate) struct Progress {
    what: &'static str,
    total: u64,
    done: u64,
    told: Option<Instant>,
    attended: bool,
}

impl Progress {
    /// `total` bytes; 0 if that is not known.
    pub(crate) fn of(app: &App, what: &'static str, total: u64) -> Self {
        Self {
            what,
            total,
            done: 0,
            told: None,
            attended: app.out.attended && !app.out.quiet && !app.out.json,
        }
    }

    pub(crate) fn moved(&mut self, bytes: u64) {
        self.done += bytes;
        let is_due = self.told.is_none_or(|at| at.elapsed() >= TELL_EVERY);
        if !self.attended || !is_due {
            return;
        }
        self.told = Some(Instant::now());
        let percent = match self.total {
            0 => String::new(),
            total => format!(" {}%", self.done.saturating_mul(100) / total),
        };
        let megabytes = self.done / 1_000_000;
        // If standard error is gone there is nobody left to tell.
        let _ = write!(
            io::stderr(),
            "\r{}: {megabytes} MB{percent}\u{1b}[K",
            self.what
        );
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.told.is_some() {
            let _ = write!(io::stderr(), "\r\u{1b}[K");
        }
    }
}

/// A file that is being written beside its place; gone unless it gets there.
pub(crate) struct Partial {
    path: PathBuf,
    file: File,
    placed: bool,
}

impl Partial {
    /// Beside `target`, for its owner alone.
    pub(crate) fn create(target: &Path) -> Result<Self, Failure> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        let path = target.with_file_name(format!(".{name}.{random:016x}.partial"));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| Failure::io("write", target, &error))?;
        Ok(Self {
            path,
            file,
            placed: false,
        })
    }

    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// What a failed write means.
    pub(crate) fn failed(&self, error: &io::Error) -> Failure {
        let is_full = matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        );
        let failure = Failure::io("write", &self.path, error);
        match is_full {
            true => Failure::new(Exit::FAILED, "NO_ROOM", failure.message),
            false => failure,
        }
    }

    /// Moves it into its place, durably.
    pub(crate) fn place(mut self, target: &Path, force: bool) -> Result<(), Failure> {
        self.file.sync_all().map_err(|error| self.failed(&error))?;
        let renamed = match force {
            true => fs::rename(&self.path, target),
            false => rename_new(&self.path, target),
        };
        renamed.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => exists(target),
            _ => Failure::io("write", target, &error),
        })?;
        self.placed = true;
        let parent = target
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        File::open(parent)
            .and_then(|parent| parent.sync_all())
            .map_err(|error| Failure::io("write", target, &error))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.placed {
            // Whoever asked hears of the first failure.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Renames without replacing.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::io::Errno;
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems, network ones mostly, do not know the flag.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        renamed => return Ok(renamed?),
    }
    match to.symlink_metadata().is_ok() {
        true => Err(io::ErrorKind::AlreadyExists.into()),
        false => fs::rename(from, to),
    }
}
