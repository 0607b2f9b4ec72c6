//! A running process: its group, its pipes, its end.
//!
//! The leader is not reaped before its group has been killed: as long as it is
//! a zombie, its process id, which is the group's id too, cannot belong to
//! anybody else, so that no signal of ours can hit a stranger.

use crate::{reaper::Reaper, signal};
use alknet_core::Chunk;
use bytes::{Bytes, BytesMut};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::{
    io,
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    process::{Child, ExitStatus},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
    signal::unix::Signal as SignalStream,
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

/// How long others of the group may still write after their leader has ended
/// (`>(process substitution)`), before the group is killed.
pub(crate) const LINGER: Duration = Duration::from_millis(250);
/// Size of one read; a pipe of Linux holds as much.
const READ_BYTES: usize = 64 * 1024;
/// Room left in a buffer below which a new one is made.
const READ_BYTES_MIN: usize = 8 * 1024;

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Ended {
    /// Exit code, unless a signal ended it.
    pub(crate) exit_code: Option<i32>,
    /// Signal that ended it, such as `TERM`.
    pub(crate) signal: Option<String>,
}

impl Ended {
    pub(crate) fn of(status: ExitStatus) -> Self {
        Self {
            exit_code: status.code(),
            signal: status
                .signal()
                .map(|number| signal::name(number).into_owned()),
        }
    }

    pub(crate) fn is_success(&self) -> bool {
        self.exit_code == Some(0)
    }
}

/// The first process of a group, until it is reaped.
#[derive(Debug)]
pub(crate) struct Leader {
    pid: Pid,
    child: Mutex<Option<Child>>,
    reaper: Reaper,
}

impl Leader {
    /// Takes a child that leads its own process group.
    pub(crate) fn new(child: Child, reaper: Reaper) -> Self {
        Self {
            pid: Pid::from_child(&child),
            child: Mutex::new(Some(child)),
            reaper,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a signal to the group; a group that has ended takes none.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.child().is_some() {
            self.signal_group(signal);
        }
    }

    /// Only while the leader is not reaped, which the lock makes sure of.
    fn signal_group(&self, signal: Signal) {
        if let Err(error) = kill_process_group(self.pid, signal) {
            // Members that became another user through a setuid program.
            tracing::debug!(pid = self.pid(), %error, "a process group took no signal");
        }
    }

    /// Kills what is left of the group and reaps its leader, which has ended.
    fn finish(&self) -> io::Result<ExitStatus> {
        let mut child = self.child();
        self.signal_group(Signal::KILL);
        match child.take() {
            Some(mut ended) => ended.wait(),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Kills the group, whatever it is at, and sees to it that the leader is
    /// reaped. Does not wait.
    fn kill(&self) {
        let Some(mut child) = self.child().take() else {
            return;
        };
        self.signal_group(Signal::KILL);
        if !matches!(child.try_wait(), Ok(Some(_))) {
            self.reaper.reap(child);
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One output of a process.
#[derive(Debug)]
struct Source {
    pipe: pipe::Receiver,
    buffer: BytesMut,
    /// Bytes that may still be read, once the group is dead.
    left: Option<usize>,
}

impl Source {
    fn new(pipe: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            pipe: pipe::Receiver::from_owned_fd(pipe)?,
            buffer: BytesMut::new(),
            left: None,
        })
    }

    /// From here on only what is in the pipe now.
    fn close_writers(&mut self) {
        let waiting = rustix::io::ioctl_fionread(&self.pipe).unwrap_or(0);
        self.left = Some(usize::try_from(waiting).unwrap_or(usize::MAX));
    }

    /// The next bytes; empty at the end. Cancel safe.
    async fn read(&mut self) -> Bytes {
        if self.left == Some(0) {
            return Bytes::new();
        }
        if self.buffer.capacity() < READ_BYTES_MIN {
            self.buffer.reserve(READ_BYTES);
        }
        // A pipe that cannot be read has ended.
        let read = self.pipe.read_buf(&mut self.buffer).await.unwrap_or(0);
        self.left = self.left.map(|left| left.saturating_sub(read));
        self.buffer.split().freeze()
    }
}

/// Reads one output, and forgets it at its end; pends when it has ended.
async fn next(source: &mut Option<Source>) -> Bytes {
    let Some(open) = source else {
        return std::future::pending().await;
    };
    let bytes = open.read().await;
    if bytes.is_empty() {
        *source = None;
    }
    bytes
}

/// A running process. Dropping it kills its group.
#[derive(Debug)]
pub(crate) struct Process {
    leader: Arc<Leader>,
    /// Announces that some child of this program has ended.
    children: SignalStream,
    /// When the leader's end was seen.
    ended_at: Option<Instant>,
    status: Option<ExitStatus>,
    stdin: Option<pipe::Sender>,
    stdout: Option<Source>,
    stderr: Option<Source>,
    feeding: Option<AbortOnDropHandle<()>>,
    _place: OwnedSemaphorePermit,
}

/// The ends of a process's pipes that stay here.
#[derive(Debug)]
pub(crate) struct Pipes {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

impl Process {
    /// `children` was subscribed to before the process was started, or its end
    /// could be missed.
    pub(crate) fn new(
        leader: Leader,
        pipes: Pipes,
        children: SignalStream,
        place: OwnedSemaphorePermit,
    ) -> io::Result<Self> {
        Ok(Self {
            leader: Arc::new(leader),
            children,
            ended_at: None,
            status: None,
            stdin: Some(pipe::Sender::from_owned_fd(pipes.stdin)?),
            stdout: Some(Source::new(pipes.stdout)?),
            stderr: Some(Source::new(pipes.stderr)?),
            feeding: None,
            _place: place,
        })
    }

    /// For signals, from beside whoever reads the output.
    pub(crate) fn leader(&self) -> Arc<Leader> {
        self.leader.clone()
    }

    /// Standard input, once; dropping it ends the input.
    pub(crate) fn take_stdin(&mut self) -> Option<pipe::Sender> {
        self.stdin.take()
    }

    /// Writes `input` to standard input and ends it, beside everything else.
    pub(crate) fn feed(&mut self, input: Bytes) {
        if let Some(mut stdin) = self.take_stdin() {
            let feeding = tokio::spawn(async move {
                // A program need not read its input to the end.
                let _ = stdin.write_all(&input).await;
            });
            self.feeding = Some(AbortOnDropHandle::new(feeding));
        }
    }

    /// Reads no more: the program finds its output closed (SIGPIPE).
    pub(crate) fn close_output(&mut self) {
        self.stdout = None;
        self.stderr = None;
    }

    /// The next output, until both outputs have ended. Cancel safe.
    ///
    /// They end when nobody holds them any more; when the leader has ended,
    /// the rest of its group has 250 ms for that. Whoever left the group does
    /// not keep them open.
    pub(crate) async fn next_output(&mut self) -> Option<Chunk> {
        loop {
            self.end_lingering();
            if self.stdout.is_none() && self.stderr.is_none() {
                return None;
            }
            let until = self.ended_at.map(|at| at + LINGER);
            let (has_ended, finished) = (self.ended_at.is_some(), self.status.is_some());
            let read = async {
                tokio::select! {
                    bytes = next(&mut self.stdout) => Chunk::main(bytes),
                    bytes = next(&mut self.stderr) => Chunk::aux(bytes),
                }
            };
            tokio::select! {
                // What is there is read first, however late it is.
                biased;
                chunk = read => {
                    if !chunk.bytes.is_empty() {
                        return Some(chunk);
                    }
                }
                () = ended(&mut self.children, self.leader.pid), if !has_ended => {
                    self.ended_at = Some(Instant::now());
                }
                () = sleep_until(until.unwrap_or_else(Instant::now)), if has_ended && !finished => {}
            }
        }
    }

    /// Ends the group when its time is over, and with it the output: what is
    /// in the pipes by then is read, nothing more.
    fn end_lingering(&mut self) {
        let is_over = self.ended_at.is_some_and(|at| at.elapsed() >= LINGER);
        if !is_over || self.status.is_some() {
            return;
        }
        self.status = self.leader.finish().ok();
        for source in [&mut self.stdout, &mut self.stderr].into_iter().flatten() {
            source.close_writers();
        }
    }

    /// Waits for the leader, kills the rest of its group, and says how it
    /// ended. Read the output first: a full pipe keeps a process from ending.
    pub(crate) async fn end(mut self) -> io::Result<Ended> {
        if let Some(status) = self.status {
            return Ok(Ended::of(status));
        }
        ended(&mut self.children, self.leader.pid).await;
        self.leader.finish().map(Ended::of)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Not left to the last owner of the leader.
        self.leader.kill();
    }
}

/// Whether a child of ours has ended; leaves it a zombie.
pub(crate) fn has_ended(pid: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    // An error means that somebody else reaped it: it has ended.
    !matches!(waitid(WaitId::Pid(pid), options), Ok(None))
}

/// Waits until a child of ours has ended. `children` was subscribed to before
/// it was started.
pub(crate) async fn ended(children: &mut SignalStream, pid: Pid) {
    while !has_ended(pid) {
        if children.recv().await.is_none() {
            // The runtime is shutting down, and this future with it.
            std::future::pending::<()>().await;
        }
    }
}
