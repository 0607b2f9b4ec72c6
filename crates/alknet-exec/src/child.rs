//! What a new process does between `fork` and `exec`. The only unsafe code of
//! this crate, but for one line about terminals.
//!
//! Why at all: supplementary groups cannot be set by stable `std`, and what
//! else a process would inherit (descriptors that were opened without
//! close-on-exec, ignored signals, the umask) can only be cleared from within.
//! The order matters: descriptors and limits first, then groups, group, user
//! (each needs the rights that the next one gives up), and only then the
//! working directory, so that it is entered with the rights of the account.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{ffi::CString, io, os::unix::process::CommandExt, process::Command};

/// What the child makes of itself. Prepared by the parent, since a child of a
/// process with threads must not allocate.
#[derive(Debug)]
pub(crate) struct ChildSetup {
    pub(crate) cwd: CString,
    /// Where it goes if it may not enter `cwd`; without one it does not start.
    pub(crate) cwd_otherwise: Option<CString>,
    /// Its standard input is a terminal, which becomes its own: it leads a new
    /// session, and not just a new group.
    pub(crate) has_terminal: bool,
    pub(crate) memory_bytes_max: u64,
    /// How many files it may open: a node may allow itself more than programs
    /// expect.
    pub(crate) descriptors: Rlimit,
    pub(crate) no_new_privileges: bool,
    pub(crate) identity: Option<ChildIdentity>,
}

/// The account that the child becomes.
#[derive(Debug)]
pub(crate) struct ChildIdentity {
    #[cfg(target_os = "linux")]
    uid: rustix::process::Uid,
    #[cfg(target_os = "linux")]
    gid: rustix::process::Gid,
    #[cfg(target_os = "linux")]
    groups: Vec<rustix::process::Gid>,
    #[cfg(not(target_os = "linux"))]
    ids: (u32, u32),
}

impl ChildIdentity {
    #[cfg(target_os = "linux")]
    pub(crate) fn new(uid: u32, gid: u32, groups: &[u32]) -> Self {
        use rustix::process::{Gid, Uid};
        Self {
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(gid),
            groups: groups.iter().map(|gid| Gid::from_raw(*gid)).collect(),
        }
    }

    /// Elsewhere `std` switches, and leaves no supplementary group.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn new(uid: u32, gid: u32, _groups: &[u32]) -> Self {
        Self { ids: (uid, gid) }
    }
}

impl ChildSetup {
    /// Makes `command` set itself up like this, as the leader of its own
    /// process group.
    #[allow(unsafe_code)]
    pub(crate) fn attach(self, command: &mut Command) {
        // The leader of a group cannot begin a session, which is a group too.
        if !self.has_terminal {
            command.process_group(0);
        }
        #[cfg(not(target_os = "linux"))]
        if let Some(ChildIdentity { ids: (uid, gid) }) = &self.identity {
            command.uid(*uid).gid(*gid);
        }
        // A limit above the hard one would be refused to all but root.
        let data_max = match getrlimit(Resource::Data).maximum {
            Some(hard) => self.memory_bytes_max.min(hard),
            None => self.memory_bytes_max,
        };
        // SAFETY: the closure runs in the forked child of a process that may
        // have other threads, so it may do only what is async-signal-safe
        // (POSIX.1-2024, XSH 2.4.3). It makes system calls and nothing else:
        // it neither allocates nor frees (everything was made above and is
        // only read), takes no lock, and cannot panic.
        unsafe {
            command.pre_exec(move || self.apply(data_max));
        }
    }

    fn apply(&self, data_max: u64) -> io::Result<()> {
        if self.has_terminal {
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        close_inherited_on_exec();
        reset_signals();
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        limit(Resource::Core, 0)?;
        limit(Resource::Data, data_max)?;
        setrlimit(Resource::Nofile, self.descriptors)?;
        #[cfg(target_os = "linux")]
        {
            use rustix::thread;
            // The raw system calls act on one thread, and a forked child has
            // but one.
            if let Some(identity) = &self.identity {
                let ChildIdentity { uid, gid, groups } = identity;
                thread::set_thread_groups(groups)?;
                thread::set_thread_res_gid(*gid, *gid, *gid)?;
                thread::set_thread_res_uid(*uid, *uid, *uid)?;
            }
            if self.no_new_privileges {
                thread::set_no_new_privs(true)?;
            }
        }
        let entered = rustix::process::chdir(self.cwd.as_c_str());
        match (entered, &self.cwd_otherwise) {
            (Err(_), Some(otherwise)) => rustix::process::chdir(otherwise.as_c_str())?,
            (entered, _) => entered?,
        }
        Ok(())
    }
}

fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let most = Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    Ok(setrlimit(resource, most)?)
}

/// Descriptors that the node itself inherited, or that a library opened
/// without close-on-exec, must not reach the program. Kernels before 5.11
/// cannot do it, and then only what was opened with close-on-exec is closed.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn close_inherited_on_exec() {
    const FIRST_AFTER_STDERR: libc::c_uint = 3;
    // SAFETY: a system call with three integers; it sets a flag on descriptors
    // and closes none, so nothing that owns one is surprised before `exec`.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            FIRST_AFTER_STDERR,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
    }
}

#[cfg(not(target_os = "linux"))]
fn close_inherited_on_exec() {}

/// A signal that is ignored stays so across `exec`: under `nohup`, or in the
/// background of a shell without job control, a node would hand on an ignored
/// SIGHUP or SIGINT, and the program could not be interrupted.
#[allow(unsafe_code)]
fn reset_signals() {
    // Linux has 64, real-time signals included; elsewhere 31 are what there is.
    const LAST: libc::c_int = if cfg!(target_os = "linux") { 64 } else { 31 };
    for number in 1..=LAST {
        // SAFETY: `signal` is async-signal-safe; the default action needs no
        // handler. It fails for SIGKILL and SIGSTOP, which cannot be ignored,
        // and for those that the C library keeps to itself.
        unsafe {
            libc::signal(number, libc::SIG_DFL);
        }
    }
}
