//! A pseudoterminal: the end that programs see (the slave) and the end that
//! types and reads (the master).
//!
//! The slave stays open here until the session's leader has ended. Without
//! that, reading the master fails with `EIO` whenever nobody else has it open
//! for a moment, and nobody could see whether what was typed has been read.

use crate::pty_modes::{self, ModeMap};
use bytes::Bytes;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::Pid,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{
        InputModes, OptionalActions, SpecialCodeIndex, Winsize, tcgetattr, tcgetpgrp, tcsetattr,
        tcsetwinsize,
    },
};
use std::{
    fs::File,
    io::{self, ErrorKind, Read, Write},
    os::fd::OwnedFd,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{io::unix::AsyncFd, time::timeout};

/// Most bytes that the system keeps in a terminal which nobody reads; more
/// than it ever does.
const KEPT_BYTES_MAX: usize = 64 * 1024;
/// How long to wait for room before trying again: a kernel that forgets to
/// tell of it must not stop the keyboard for ever.
const ROOM_WAIT: Duration = Duration::from_millis(500);

/// Both ends of a terminal that was just made.
#[derive(Debug)]
pub(crate) struct NewPty {
    pub(crate) master: OwnedFd,
    pub(crate) slave: OwnedFd,
    /// The slave's device, such as `/dev/pts/3`.
    pub(crate) path: String,
}

impl NewPty {
    /// Makes a terminal of this size with these modes, which belongs to
    /// `owner` if that is another account than this process's.
    pub(crate) fn open(size: Winsize, modes: &ModeMap, owner: Option<u32>) -> io::Result<Self> {
        // Without NOCTTY a node that leads a session would make it its own.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | CLOSE_ON_EXEC;
        let master = openpt(flags)?;
        // Where the flag does not exist.
        rustix::io::fcntl_setfd(&master, rustix::io::FdFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let path = ptsname(&master, Vec::new())?;
        let slave = open_slave(&master, &path, flags)?;
        // Both ends know the one size.
        tcsetwinsize(&master, size)?;
        let mut attributes = tcgetattr(&slave)?;
        pty_modes::apply(modes, &mut attributes);
        tcsetattr(&slave, OptionalActions::Now, &attributes)?;
        if let Some(owner) = owner {
            // The group stays the system's own for terminals.
            rustix::fs::fchown(&slave, Some(rustix::fs::Uid::from_raw(owner)), None)?;
        }
        Ok(Self {
            master,
            slave,
            path: path.to_string_lossy().into_owned(),
        })
    }
}

#[cfg(target_os = "linux")]
const CLOSE_ON_EXEC: OpenptFlags = OpenptFlags::CLOEXEC;
#[cfg(not(target_os = "linux"))]
const CLOSE_ON_EXEC: OpenptFlags = OpenptFlags::empty();

/// Not by its path, which in another mount namespace may be another terminal.
#[cfg(target_os = "linux")]
fn open_slave(master: &OwnedFd, _path: &std::ffi::CStr, flags: OpenptFlags) -> io::Result<OwnedFd> {
    Ok(rustix::pty::ioctl_tiocgptpeer(master, flags)?)
}

#[cfg(not(target_os = "linux"))]
fn open_slave(
    _master: &OwnedFd,
    path: &std::ffi::CStr,
    _flags: OpenptFlags,
) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// What a break of the line does to a terminal (`termios(3)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BreakEffect {
    /// It is not noticed.
    Ignored,
    /// As if the interrupt character were typed.
    Interrupts,
    /// A zero byte is typed.
    TypesZero,
}

/// A terminal in use.
#[derive(Debug)]
pub(crate) struct Pty {
    master: AsyncFd<File>,
    slave: Mutex<Option<OwnedFd>>,
}

impl Pty {
    /// Must be called within a runtime.
    #[allow(unsafe_code)]
    pub(crate) fn new(new: NewPty) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&new.master, true)?;
        // SAFETY: the file owns its descriptor, which is neither replaced nor
        // closed as long as it is registered: nobody gets it but by reference.
        let master = unsafe { AsyncFd::register(File::from(new.master))? };
        Ok(Self {
            master,
            slave: Mutex::new(Some(new.slave)),
        })
    }

    fn master(&self) -> &File {
        self.master.get_ref()
    }

    fn slave(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.slave.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on reading ends when no program has the terminal open.
    pub(crate) fn close_slave(&self) {
        *self.slave() = None;
    }

    /// The next output, through `buffer`; empty when no program has the
    /// terminal open and all was read. Cancel safe.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> Bytes {
        loop {
            let Ok(mut ready) = self.master.readable().await else {
                return Bytes::new();
            };
            if let Ok(read) = ready.try_io(|master| fill(master.get_ref(), buffer)) {
                // `EIO`, or what else a terminal says that is gone.
                let len = read.unwrap_or(0);
                return Bytes::copy_from_slice(&buffer[..len]);
            }
        }
    }

    /// Output that is there now, and no more than a terminal keeps: a program
    /// that got away may write for ever.
    pub(crate) fn read_rest(&self) -> Bytes {
        let mut buffer = vec![0; KEPT_BYTES_MAX];
        let len = fill(self.master(), &mut buffer).unwrap_or(0);
        buffer.truncate(len);
        Bytes::from(buffer)
    }

    /// Types bytes, as fast as the terminal takes them.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = match timeout(ROOM_WAIT, self.master.writable()).await {
                Ok(ready) => match ready?.try_io(|master| write(master.get_ref(), bytes)) {
                    Ok(written) => written,
                    Err(_would_block) => Ok(0),
                },
                Err(_elapsed) => write(self.master(), bytes),
            };
            match written {
                Ok(len) => bytes = &bytes[len..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Types bytes if there is room for them now.
    pub(crate) fn try_write(&self, bytes: &[u8]) {
        if let Err(error) = write(self.master(), bytes) {
            tracing::debug!(%error, "a terminal took no input");
        }
    }

    /// Whether something that was typed has not been read yet.
    pub(crate) fn has_unread(&self) -> bool {
        let slave = self.slave();
        let Some(slave) = slave.as_ref() else {
            return false;
        };
        let mut look = [PollFd::new(slave, PollFlags::IN)];
        matches!(poll(&mut look, Some(&Timespec::default())), Ok(1..))
    }

    /// The character that ends an input, if there is one.
    pub(crate) fn end_character(&self) -> Option<u8> {
        let code = tcgetattr(self.master()).ok()?.special_codes[SpecialCodeIndex::VEOF];
        (code != pty_modes::VDISABLE).then_some(code)
    }

    /// What a break does now.
    pub(crate) fn break_effect(&self) -> BreakEffect {
        let modes = tcgetattr(self.master()).map(|attributes| attributes.input_modes);
        match modes.unwrap_or(InputModes::IGNBRK) {
            modes if modes.contains(InputModes::IGNBRK) => BreakEffect::Ignored,
            modes if modes.contains(InputModes::BRKINT) => BreakEffect::Interrupts,
            _ => BreakEffect::TypesZero,
        }
    }

    /// Changes the size; the foreground group gets SIGWINCH if it is another.
    pub(crate) fn resize(&self, size: Winsize) {
        if let Err(error) = tcsetwinsize(self.master(), size) {
            tracing::debug!(%error, "a terminal took no size");
        }
    }

    /// The group of processes that the keyboard belongs to.
    pub(crate) fn foreground(&self) -> Option<Pid> {
        tcgetpgrp(self.master()).ok()
    }
}

/// Reads until nothing is there, or the buffer is full: a terminal gives four
/// kilobytes at a time at most.
fn fill(mut master: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match master.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) if len > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

fn write(mut master: &File, bytes: &[u8]) -> io::Result<usize> {
    match master.write(bytes) {
        Ok(0) => Err(ErrorKind::WouldBlock.into()),
        written => written,
    }
}
