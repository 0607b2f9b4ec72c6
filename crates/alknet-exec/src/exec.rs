//! What all operations of this crate share: as whom, where, how many.

use crate::{
    account::{AccountError, RunAs},
    child::{ChildIdentity, ChildSetup},
    config::{ExecConfig, ExecConfigError},
    process::{Leader, Pipes, Process},
    program::{self, FindError},
    reaper::Reaper,
};
use alknet_core::{CallError, ErrorCode};
use std::{
    collections::BTreeMap,
    ffi::CString,
    io,
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
};

/// When to try again if too many programs run.
const BUSY_RETRY: Duration = Duration::from_secs(1);

/// Runs processes, within the limits of one [`ExecConfig`]. Cheap to clone;
/// all clones share the limits.
#[derive(Clone, Debug)]
pub struct Exec(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: ExecConfig,
    path: Vec<PathBuf>,
    euid: u32,
    run_as: RunAs,
    running: Arc<Semaphore>,
    reaper: Reaper,
}

impl Exec {
    /// Looks the account up, checks the limits.
    ///
    /// # Errors
    ///
    /// [`ExecConfigError`] names the field that is wrong. A node that runs as
    /// root without a `user` is no error: its operations refuse.
    pub fn new(config: ExecConfig) -> Result<Self, ExecConfigError> {
        Self::with_euid(config, rustix::process::geteuid().as_raw())
    }

    /// The same for a node that runs as `euid`.
    ///
    /// # Errors
    ///
    /// As [`Exec::new`].
    pub fn with_euid(config: ExecConfig, euid: u32) -> Result<Self, ExecConfigError> {
        let path = config.check()?;
        let run_as = RunAs::resolve(config.user.as_deref(), euid).map_err(ExecConfigError::User)?;
        Ok(Self(Arc::new(Inner {
            path,
            euid,
            run_as,
            running: Arc::new(Semaphore::new(config.processes_max)),
            reaper: Reaper::start().map_err(ExecConfigError::Thread)?,
            config,
        })))
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &ExecConfig {
        &self.0.config
    }

    /// Programs that run now.
    #[must_use]
    pub fn running(&self) -> usize {
        self.0.config.processes_max - self.0.running.available_permits()
    }

    /// As whom a command runs: as `user`, or as the configuration says.
    pub(crate) fn run_as(&self, user: Option<&str>) -> Result<RunAs, AccountError> {
        match user {
            Some(_) => RunAs::resolve(user, self.0.euid),
            None => Ok(self.0.run_as.clone()),
        }
    }

    /// Starts a process. Dropping the future, or what it returns, kills it.
    pub(crate) async fn launch(&self, launch: Launch) -> Result<Process, LaunchError> {
        let account = match &launch.run_as {
            RunAs::Refused => return Err(LaunchError::RootRefused),
            RunAs::Node => None,
            RunAs::Account { account, switch } => Some((account.clone(), *switch)),
        };
        let place = self.0.running.clone().try_acquire_owned();
        let place = place.map_err(|_| LaunchError::Busy(self.0.config.processes_max))?;
        let cwd = CString::new(launch.cwd.as_os_str().as_bytes())
            .map_err(|_| LaunchError::NoDirectory(launch.cwd.clone()))?;
        let setup = ChildSetup {
            cwd,
            memory_bytes_max: self.0.config.memory_bytes_max,
            no_new_privileges: self.0.config.no_new_privileges,
            identity: account
                .as_ref()
                .filter(|(_, switch)| *switch)
                .map(|(account, _)| ChildIdentity::new(account.uid, account.gid, &account.groups)),
        };
        let mut env = BTreeMap::from([("PATH".to_owned(), self.0.config.path.clone())]);
        if let Some((account, _)) = &account {
            env.insert("HOME".into(), account.home.clone());
            env.insert("USER".into(), account.name.clone());
            env.insert("LOGNAME".into(), account.name.clone());
            env.insert("SHELL".into(), account.shell.clone());
        }
        env.extend(launch.env);
        // Subscribed to first: a child may end before its start is noticed.
        let children = signal(SignalKind::child()).map_err(LaunchError::Io)?;
        let (path, reaper) = (self.0.path.clone(), self.0.reaper.clone());
        // Copying page tables, and a directory on a slow disk, may take a
        // while; what comes back too late is killed by its drop.
        let started = tokio::task::spawn_blocking(move || {
            start(&launch.argv, &launch.cwd, &path, env, setup, reaper)
        });
        let (leader, pipes) = match started.await {
            Ok(started) => started?,
            Err(_) => return Err(LaunchError::Io(io::ErrorKind::Interrupted.into())),
        };
        Process::new(leader, pipes, children, place).map_err(LaunchError::Io)
    }
}

/// What to start.
#[derive(Debug)]
pub(crate) struct Launch {
    /// Program and arguments; never empty.
    pub(crate) argv: Vec<String>,
    /// Beside `PATH` and the account's variables, or instead of them.
    pub(crate) env: BTreeMap<String, String>,
    /// Absolute.
    pub(crate) cwd: PathBuf,
    pub(crate) run_as: RunAs,
}

/// Why a process did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error(
        "this node runs as root and starts no process until `[exec] user = \"NAME\"` is set (`\"root\"` must be written out)"
    )]
    RootRefused,
    #[error("{0} programs are running, as many as may")]
    Busy(usize),
    #[error("no program `{0}` in {1}")]
    NotFound(String, String),
    #[error("`{0}` cannot be run: {1}")]
    NotRunnable(String, String),
    #[error("`{0}` is not a directory")]
    NoDirectory(PathBuf),
    #[error("the arguments and variables are longer than the system allows")]
    TooLong,
    #[error("a process could not be started: {0}")]
    Io(io::Error),
}

impl LaunchError {
    /// The protocol error that it is; the others are for each operation to
    /// declare.
    pub(crate) fn protocol(&self) -> Option<CallError> {
        let code = match self {
            Self::RootRefused => ErrorCode::Forbidden,
            Self::Busy(_) => {
                let busy = CallError::new(ErrorCode::RateLimited, self.to_string());
                return Some(busy.with_retry_after(BUSY_RETRY));
            }
            Self::TooLong => ErrorCode::TooLarge,
            // No process, no memory, no descriptor: not the caller's doing.
            Self::Io(_) => ErrorCode::Internal,
            Self::NotFound(..) | Self::NotRunnable(..) | Self::NoDirectory(_) => return None,
        };
        Some(CallError::new(code, self.to_string()))
    }
}

fn start(
    argv: &[String],
    cwd: &Path,
    path: &[PathBuf],
    env: BTreeMap<String, String>,
    setup: ChildSetup,
    reaper: Reaper,
) -> Result<(Leader, Pipes), LaunchError> {
    let name = argv.first().map(String::as_str).unwrap_or_default();
    let program = program::find(name, path).map_err(|error| match error {
        FindError::Missing if name.contains('/') => {
            LaunchError::NotFound(name.into(), "the file system".into())
        }
        FindError::Missing => {
            let path: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
            LaunchError::NotFound(name.into(), path.join(":"))
        }
        FindError::NotRunnable => LaunchError::NotRunnable(name.into(), "not executable".into()),
    })?;
    if !cwd.is_dir() {
        return Err(LaunchError::NoDirectory(cwd.into()));
    }
    let mut command = Command::new(&program);
    command
        .arg0(name)
        .args(&argv[1..])
        .env_clear()
        .envs(env)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    setup.attach(&mut command);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::ArgumentListTooLong => LaunchError::TooLong,
        // The file is there: what it names behind `#!` is not.
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
            LaunchError::NotRunnable(name.into(), error.to_string())
        }
        _ => LaunchError::Io(error),
    })?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let leader = Leader::new(child, reaper);
    match (stdin, stdout, stderr) {
        (Some(stdin), Some(stdout), Some(stderr)) => {
            let pipes = Pipes {
                stdin: stdin.into(),
                stdout: stdout.into(),
                stderr: stderr.into(),
            };
            Ok((leader, pipes))
        }
        _ => Err(LaunchError::Io(io::ErrorKind::BrokenPipe.into())),
    }
}
