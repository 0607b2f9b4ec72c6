//! The session of a terminal: its leader, everything that the leader started
//! and that did not leave, and its end.
//!
//! The id of a session is its leader's process id. The leader is not reaped
//! before everybody else has ended: as long as it is a zombie nobody else can
//! get that id, so that no signal of ours can hit a stranger.

use crate::reaper::{Dying, Reaper};
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    io,
    process::{Child, ExitStatus},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// How long a session that was hung up may take to end by itself, before it is
/// killed.
const GRACE: Duration = Duration::from_millis(200);

/// A session that runs. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Session {
    id: Pid,
    held: Mutex<Option<Held>>,
    reaper: Reaper,
}

#[derive(Debug)]
struct Held {
    leader: Child,
    /// Given back when the last process has ended.
    _place: OwnedSemaphorePermit,
}

impl Session {
    /// Takes a child that leads its own session.
    pub(crate) fn new(leader: Child, place: OwnedSemaphorePermit, reaper: Reaper) -> Self {
        Self {
            id: Pid::from_child(&leader),
            held: Mutex::new(Some(Held {
                leader,
                _place: place,
            })),
            reaper,
        }
    }

    /// Its id, which is its leader's.
    pub(crate) fn id(&self) -> Pid {
        self.id
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a signal to one of its groups of processes; one that is not of
    /// this session, or no more, gets none.
    pub(crate) fn signal(&self, group: Pid, signal: Signal) {
        // The lock keeps the leader from being reaped meanwhile.
        let held = self.held();
        if held.is_none() || !processes::has_group(self.id, group) {
            return;
        }
        if let Err(error) = kill_process_group(group, signal) {
            // Members that became another user through a setuid program.
            tracing::debug!(group = group.as_raw_nonzero().get(), %error, "a group took no signal");
        }
    }

    /// Ends all of it: hangs up, gives whoever is left a moment, kills.
    /// Does not wait; how the leader ended comes when the last process has.
    pub(crate) fn end(&self) -> Option<oneshot::Receiver<io::Result<ExitStatus>>> {
        let held = self.held().take()?;
        let (told, status) = oneshot::channel();
        self.reaper.reap(Ending {
            id: self.id,
            held,
            told: Some(told),
            step: Step::New,
        });
        Some(status)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end();
    }
}

/// A session on its way out.
struct Ending {
    id: Pid,
    held: Held,
    told: Option<oneshot::Sender<io::Result<ExitStatus>>>,
    step: Step,
}

enum Step {
    New,
    HungUp(Instant),
    Killing,
}

impl Dying for Ending {
    fn is_over(&mut self) -> bool {
        let alive = processes::of_session(self.id);
        if alive.is_empty() {
            return self.reap();
        }
        match self.step {
            Step::New => {
                // A stopped process takes its signal when it goes on.
                processes::signal(self.id, &alive, &[Signal::HUP, Signal::CONT]);
                self.step = Step::HungUp(Instant::now());
            }
            Step::HungUp(since) if since.elapsed() < GRACE => {}
            // Again each time: one may have been started since.
            Step::HungUp(_) | Step::Killing => {
                processes::signal(self.id, &alive, &[Signal::KILL]);
                self.step = Step::Killing;
            }
        }
        false
    }
}

impl Ending {
    fn reap(&mut self) -> bool {
        let status = match self.held.leader.try_wait() {
            Ok(None) => return false,
            Ok(Some(status)) => Ok(status),
            Err(error) => Err(error),
        };
        if let Some(told) = self.told.take() {
            // Nobody waits for the end of a call that was dropped.
            let _ = told.send(status);
        }
        true
    }
}

/// Finding and signalling the processes of a session, by `/proc`.
#[cfg(target_os = "linux")]
mod processes {
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

    /// The ids that `/proc/PID/stat` tells (`proc_pid_stat(5)`).
    struct Stat {
        is_alive: bool,
        group: i32,
        session: i32,
    }

    fn stat(id: Pid) -> Option<Stat> {
        const THREADS: usize = 17;
        let text = std::fs::read(format!("/proc/{}/stat", id.as_raw_nonzero())).ok()?;
        // The name in parentheses may hold anything, such as ` ) Z`.
        let end = text.iter().rposition(|byte| *byte == b')')?;
        let text = std::str::from_utf8(&text[end + 1..]).ok()?;
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<i32>().ok();
        // A first thread that ended is a zombie while the others go on.
        let has_ended = matches!(*fields.first()?, "Z" | "X") && number(THREADS)? <= 1;
        Some(Stat {
            is_alive: !has_ended,
            group: number(2)?,
            session: number(3)?,
        })
    }

    fn all() -> impl Iterator<Item = Pid> {
        let entries = std::fs::read_dir("/proc").into_iter().flatten();
        entries.filter_map(|entry| Pid::from_raw(entry.ok()?.file_name().to_str()?.parse().ok()?))
    }

    /// Whoever is of this session and has not ended.
    pub(super) fn of_session(session: Pid) -> Vec<Pid> {
        let session = session.as_raw_nonzero().get();
        all()
            .filter(|id| stat(*id).is_some_and(|stat| stat.is_alive && stat.session == session))
            .collect()
    }

    /// Whether somebody of this session is in this group.
    pub(super) fn has_group(session: Pid, group: Pid) -> bool {
        let (session, group) = (session.as_raw_nonzero().get(), group.as_raw_nonzero().get());
        all().any(|id| {
            stat(id)
                .is_some_and(|stat| stat.is_alive && stat.session == session && stat.group == group)
        })
    }

    /// Sends signals to those of them that are still of this session.
    pub(super) fn signal(session: Pid, to: &[Pid], signals: &[Signal]) {
        for id in to {
            // The descriptor stays with the process, whoever gets its id: so
            // look first who it is, then signal.
            let Ok(process) = pidfd_open(*id, PidfdFlags::empty()) else {
                continue;
            };
            let is_ours =
                stat(*id).is_some_and(|stat| stat.session == session.as_raw_nonzero().get());
            for signal in signals.iter().filter(|_| is_ours) {
                if let Err(error) = pidfd_send_signal(&process, *signal) {
                    // It has ended, or became another user.
                    tracing::debug!(%error, "a process of a session took no signal");
                }
            }
        }
    }
}

/// Elsewhere the leader's group is ended by us, and other groups are hung up
/// by the system when the terminal closes.
#[cfg(not(target_os = "linux"))]
mod processes {
    use crate::process::has_ended;
    use rustix::process::{Pid, Signal, kill_process_group};

    pub(super) fn of_session(session: Pid) -> Vec<Pid> {
        if has_ended(session) {
            Vec::new()
        } else {
            vec![session]
        }
    }

    pub(super) fn has_group(_session: Pid, _group: Pid) -> bool {
        true
    }

    pub(super) fn signal(session: Pid, _to: &[Pid], signals: &[Signal]) {
        for signal in signals {
            let _ = kill_process_group(session, *signal);
        }
    }
}
