//! Notes every packet at the interfaces of a namespace.

use crate::{LabError, Packet, netns::Namespace};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    fd::OwnedFd,
    io::Errno,
    net::{AddressFamily, RecvFlags, SocketFlags, SocketType, eth, recv, socket_with, sockopt},
};
use std::{
    fs,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Instant,
};

/// What is read of a frame: enough for the headers.
const HEAD_BYTES: usize = 256;
/// What the kernel keeps until it is read.
const BUFFER_BYTES: usize = 32 << 20;

/// A capture that goes on; it ends when it is stopped or dropped.
#[derive(Debug)]
pub struct Capture {
    namespace: Arc<Namespace>,
    packets: Arc<Mutex<Vec<Packet>>>,
    waker: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    /// Packets that the interfaces had counted before.
    before: u64,
}

/// What a capture noted.
#[derive(Clone, Debug)]
pub struct Captured {
    /// Packets in the order in which the kernel saw them. What a host sends to
    /// itself is there twice: it leaves and arrives.
    pub packets: Vec<Packet>,
    /// How many more the interfaces counted. A proof that something was not
    /// sent needs 0 here.
    pub missed: u64,
}

impl Capture {
    pub(crate) fn start(namespace: Arc<Namespace>) -> Result<Self, LabError> {
        let failed = |error: Errno| namespace.io("capture", error.into());
        let (socket, before) = namespace
            .enter(|| Ok((open()?, counted())))?
            .map_err(failed)?;
        let waker = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).map_err(failed)?);
        let packets = Arc::default();
        let (noted, ended) = (Arc::clone(&packets), Arc::clone(&waker));
        let thread = thread::Builder::new()
            .name("capture".into())
            .spawn(move || run(&socket, &ended, &noted))
            .map_err(|source| namespace.io("start a capture", source))?;
        Ok(Self {
            namespace,
            packets,
            waker,
            thread: Some(thread),
            before,
        })
    }

    /// What was noted so far.
    pub fn packets(&self) -> Vec<Packet> {
        self.noted().clone()
    }

    /// Ends it, and returns what it noted.
    ///
    /// # Errors
    ///
    /// [`LabError::Io`] if the lab has been removed before.
    pub fn stop(mut self) -> Result<Captured, LabError> {
        // Counted first: what comes in between is noted, and nothing that is
        // counted can come later.
        let counted = self.namespace.enter(counted)?;
        self.end();
        let packets = std::mem::take(&mut *self.noted());
        let noted = u64::try_from(packets.len()).unwrap_or(u64::MAX);
        Ok(Captured {
            missed: (counted.saturating_sub(self.before)).saturating_sub(noted),
            packets,
        })
    }

    fn noted(&self) -> std::sync::MutexGuard<'_, Vec<Packet>> {
        self.packets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&mut self) {
        // It fails only if it is full of earlier wake-ups.
        let _ = rustix::io::write(&self.waker, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // A panic of it has been told on standard error.
            let _ = thread.join();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
    }
}

/// A socket that gets what passes all interfaces (packet(7)).
fn open() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(
        AddressFamily::PACKET,
        SocketType::RAW,
        flags,
        Some(eth::ALL),
    )?;
    sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES)?;
    Ok(socket)
}

/// Packets that the interfaces of this thread's namespace have received and
/// sent.
fn counted() -> u64 {
    let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    let interfaces = table.lines().filter_map(|line| line.split_once(':'));
    interfaces
        .map(|(_, numbers)| {
            let numbers: Vec<u64> = numbers
                .split_whitespace()
                .filter_map(|number| number.parse().ok())
                .collect();
            // Bytes and packets received come first, then those sent.
            let at = |index: usize| numbers.get(index).copied().unwrap_or_default();
            at(1) + at(9)
        })
        .sum()
}

fn run(socket: &OwnedFd, ended: &OwnedFd, noted: &Mutex<Vec<Packet>>) {
    let started = Instant::now();
    let mut buffer = [0; HEAD_BYTES];
    loop {
        // Looked at before reading: what was there then is read.
        let mut fds = [
            PollFd::new(socket, PollFlags::IN),
            PollFd::new(ended, PollFlags::IN),
        ];
        // Interrupted, it looks again.
        let _ = poll(&mut fds, None);
        let last = fds[1].revents().contains(PollFlags::IN);
        loop {
            match recv(socket, &mut buffer, RecvFlags::TRUNC) {
                Ok((head, bytes)) => {
                    let packet = Packet::parse(&buffer[..head], bytes, started.elapsed());
                    noted
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(packet);
                }
                // An interface that went down is told once, and no end.
                Err(Errno::NETDOWN | Errno::INTR) => {}
                Err(_) => break,
            }
        }
        if last {
            return;
        }
    }
}
