//! What all operations of this crate share: as whom, where, how many.

use crate::{
    account::{Account, AccountError, RunAs},
    child::{ChildIdentity, ChildSetup},
    config::{ExecConfig, ExecConfigError},
    process::{Leader, Pipes, Process},
    program::{self, FindError},
    pty::NewPty,
    pty_modes::ModeMap,
    reaper::Reaper,
    terminal_process::Terminal,
    terminal_session::Session,
};
use alknet_core::{CallError, ErrorCode, ResourceKind, canonical_resource};
use rustix::{
    process::{Resource, Rlimit, getrlimit},
    termios::Winsize,
};
use std::{
    collections::BTreeMap,
    ffi::CString,
    io,
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};
use tokio::{
    signal::unix::{Signal as SignalStream, SignalKind, signal},
    sync::{OwnedSemaphorePermit, Semaphore},
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
    login: Login,
    running: Arc<Semaphore>,
    /// As this process had it when it began.
    descriptors: Rlimit,
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
            login: Login::of(&run_as, euid),
            run_as,
            running: Arc::new(Semaphore::new(config.processes_max)),
            descriptors: getrlimit(Resource::Nofile),
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

    /// As whom a terminal is logged in.
    pub(crate) fn login(&self) -> &Login {
        &self.0.login
    }

    /// Waits until no process is left, for the end of a node that has cancelled
    /// its calls: terminals take up to a quarter of a second after their call.
    /// Nothing new starts meanwhile.
    pub async fn idle(&self) {
        let all = u32::try_from(self.0.config.processes_max).unwrap_or(u32::MAX);
        // Never closed: an error would be as good as idle.
        let _all = self.0.running.acquire_many(all).await;
        self.0.reaper.idle().await;
    }

    /// Starts a process. Dropping the future, or what it returns, kills it.
    pub(crate) async fn launch(&self, launch: Launch) -> Result<Process, LaunchError> {
        let Plan {
            launch,
            setup,
            place,
            children,
            ..
        } = self.plan(launch, false)?;
        let (path, reaper) = (self.0.path.clone(), self.0.reaper.clone());
        // Copying page tables, and a directory on a slow disk, may take a
        // while; what comes back too late is killed by its drop.
        let started = tokio::task::spawn_blocking(move || start(&launch, &path, setup, reaper));
        let (leader, pipes) = started.await.map_err(interrupted)??;
        Process::new(leader, pipes, children, place).map_err(LaunchError::Io)
    }

    /// Starts a process in a terminal of its own. Dropping the future, or what
    /// it returns, ends its session.
    pub(crate) async fn launch_terminal(
        &self,
        launch: Launch,
        size: Winsize,
        modes: ModeMap,
    ) -> Result<Terminal, LaunchError> {
        let Plan {
            launch,
            setup,
            place,
            children,
            owner,
        } = self.plan(launch, true)?;
        let (path, reaper) = (self.0.path.clone(), self.0.reaper.clone());
        let started = tokio::task::spawn_blocking(move || {
            let pty = NewPty::open(size, &modes, owner).map_err(LaunchError::NoTerminal)?;
            let leader = start_on(&launch, &path, setup, &pty)?;
            Ok((Session::new(leader, place, reaper), pty))
        });
        let (session, pty) = started.await.map_err(interrupted)??;
        Terminal::new(session, pty, children).map_err(LaunchError::Io)
    }

    /// Decides everything about a process but its streams.
    fn plan(&self, mut launch: Launch, has_terminal: bool) -> Result<Plan, LaunchError> {
        let account = match &launch.run_as {
            RunAs::Refused => return Err(LaunchError::RootRefused),
            RunAs::Node => None,
            RunAs::Account { account, switch } => Some((account.clone(), *switch)),
        };
        let place = self.0.running.clone().try_acquire_owned();
        let place = place.map_err(|_| LaunchError::Busy(self.0.config.processes_max))?;
        let cwd = CString::new(launch.cwd.as_os_str().as_bytes())
            .map_err(|_| LaunchError::NoDirectory(launch.cwd.clone()))?;
        let switched = account.as_ref().filter(|(_, switch)| *switch);
        let owner = switched.map(|(account, _)| account.uid);
        let setup = ChildSetup {
            cwd,
            cwd_otherwise: launch.may_start_elsewhere.then(|| c"/".to_owned()),
            has_terminal,
            memory_bytes_max: self.0.config.memory_bytes_max,
            descriptors: self.0.descriptors,
            no_new_privileges: self.0.config.no_new_privileges,
            identity: switched
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
        launch.env = env;
        Ok(Plan {
            launch,
            setup,
            place,
            // Subscribed to first: a child may end before its start is noticed.
            children: signal(SignalKind::child()).map_err(LaunchError::Io)?,
            owner,
        })
    }
}

/// What a process is to be, but for its streams.
struct Plan {
    /// With all its variables.
    launch: Launch,
    setup: ChildSetup,
    place: OwnedSemaphorePermit,
    children: SignalStream,
    /// The account that it becomes.
    owner: Option<u32>,
}

/// The account of terminals, as `login(1)` would find it.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    /// Login name; a node may run under an id that has none.
    pub(crate) name: Option<String>,
    pub(crate) home: String,
    /// Absolute.
    pub(crate) shell: String,
}

impl Login {
    const SHELL: &str = "/bin/sh";

    fn of(run_as: &RunAs, euid: u32) -> Self {
        let account = match run_as {
            RunAs::Account { account, .. } => Some(Account::clone(account)),
            RunAs::Node => Account::of_uid(euid),
            // It starts nothing; what it would start still has a name.
            RunAs::Refused => None,
        };
        let is_program = |shell: &str| {
            let canonical = canonical_resource(ResourceKind::Command, shell);
            shell.starts_with('/') && canonical.is_ok_and(|canonical| canonical == shell)
        };
        let Some(account) = account else {
            return Self {
                name: None,
                home: "/".into(),
                shell: Self::SHELL.into(),
            };
        };
        Self {
            shell: Some(account.shell)
                .filter(|shell| is_program(shell))
                .unwrap_or_else(|| Self::SHELL.into()),
            home: Some(account.home)
                .filter(|home| home.starts_with('/'))
                .unwrap_or_else(|| "/".into()),
            name: Some(account.name),
        }
    }
}

/// What to start.
#[derive(Debug)]
pub(crate) struct Launch {
    /// Program and arguments; never empty: an input that says so is refused.
    pub(crate) argv: Vec<String>,
    /// Beside `PATH` and the account's variables, or instead of them.
    pub(crate) env: BTreeMap<String, String>,
    /// Absolute.
    pub(crate) cwd: PathBuf,
    /// In `/` if the account may not enter `cwd`.
    pub(crate) may_start_elsewhere: bool,
    pub(crate) run_as: RunAs,
    /// What it finds as its own name, if not the one it was called by.
    pub(crate) arg0: Option<String>,
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
    #[error("no terminal could be made: {0}")]
    NoTerminal(io::Error),
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
            Self::NotFound(..)
            | Self::NotRunnable(..)
            | Self::NoDirectory(_)
            | Self::NoTerminal(_) => return None,
        };
        Some(CallError::new(code, self.to_string()))
    }
}

/// The program with its arguments and variables, looked for now.
fn command(launch: &Launch, path: &[PathBuf]) -> Result<Command, LaunchError> {
    let name = launch.argv.first().map(String::as_str).unwrap_or_default();
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
    if !launch.may_start_elsewhere && !launch.cwd.is_dir() {
        return Err(LaunchError::NoDirectory(launch.cwd.clone()));
    }
    let mut command = Command::new(&program);
    command
        .arg0(launch.arg0.as_deref().unwrap_or(name))
        .args(&launch.argv[1..])
        .env_clear()
        .envs(&launch.env);
    Ok(command)
}

fn spawn(mut command: Command, setup: ChildSetup, name: &str) -> Result<Child, LaunchError> {
    setup.attach(&mut command);
    command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::ArgumentListTooLong => LaunchError::TooLong,
        // The file is there: what it names behind `#!` is not.
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
            LaunchError::NotRunnable(name.into(), error.to_string())
        }
        _ => LaunchError::Io(error),
    })
}

/// Starts it between three pipes.
fn start(
    launch: &Launch,
    path: &[PathBuf],
    setup: ChildSetup,
    reaper: Reaper,
) -> Result<(Leader, Pipes), LaunchError> {
    let mut command = command(launch, path)?;
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = spawn(command, setup, &launch.argv[0])?;
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

/// Starts it with the terminal as its three streams.
fn start_on(
    launch: &Launch,
    path: &[PathBuf],
    setup: ChildSetup,
    pty: &NewPty,
) -> Result<Child, LaunchError> {
    let mut command = command(launch, path)?;
    let stream = || pty.slave.try_clone().map_err(LaunchError::NoTerminal);
    command.stdin(stream()?).stdout(stream()?).stderr(stream()?);
    spawn(command, setup, &launch.argv[0])
}

fn interrupted(_error: tokio::task::JoinError) -> LaunchError {
    LaunchError::Io(io::ErrorKind::Interrupted.into())
}
