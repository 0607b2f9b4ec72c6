//! A wire that takes its time: two TAP devices joined by a delay queue.
//!
//! The kernel's own `netem` is not in every kernel, and tools built on it may
//! report success and delay nothing. This one is a thread of this process.

use crate::{LabError, netns::Namespace};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    fs::{Mode, OFlags},
    io::Errno,
    ioctl::{Opcode, Setter, opcode},
};
use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// The longest delay each way.
pub(crate) const DELAY_MAX: Duration = Duration::from_secs(10);
/// Frames on the wire; a frame beyond it is lost, as in any full queue.
const FRAMES_MAX: usize = 65_536;
/// Frames read from one end before the other gets its turn.
const BATCH: usize = 64;

/// What the thread is told while it runs.
#[derive(Debug, Default)]
struct Settings {
    delay_nanos: AtomicU64,
    jitter_nanos: AtomicU64,
    ended: AtomicBool,
}

/// The two ends joined; they come apart when it is dropped.
#[derive(Debug)]
pub(crate) struct Wire {
    settings: Arc<Settings>,
    waker: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// Joins two TAP devices of a namespace.
    pub(crate) fn join(namespace: &Namespace, ends: [&str; 2]) -> Result<Self, LabError> {
        let failed = |source: Errno| namespace.io("join the ends of a wire", source.into());
        let taps = namespace
            .enter(|| Ok([open(ends[0])?, open(ends[1])?]))?
            .map_err(failed)?;
        let waker = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).map_err(failed)?);
        let settings = Arc::new(Settings::default());
        let mut carrier = Carrier {
            taps,
            waker: Arc::clone(&waker),
            settings: Arc::clone(&settings),
            frames: BinaryHeap::new(),
            sequence: 0,
            random: 0x9E37_79B9_7F4A_7C15,
        };
        let thread = thread::Builder::new()
            .name("wire".into())
            .spawn(move || carrier.run())
            .map_err(|source| namespace.io("start a wire", source))?;
        Ok(Self {
            settings,
            waker,
            thread: Some(thread),
        })
    }

    /// What every frame takes from now on, each way: `delay`, and up to
    /// `jitter` more by chance, which lets frames overtake each other.
    pub(crate) fn set(&self, delay: Duration, jitter: Duration) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.settings
            .delay_nanos
            .store(nanos(delay), Ordering::Relaxed);
        self.settings
            .jitter_nanos
            .store(nanos(jitter), Ordering::Relaxed);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.settings.ended.store(true, Ordering::Relaxed);
        // It fails only if it is full of earlier wake-ups.
        let _ = rustix::io::write(&self.waker, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // A panic of it has been told on standard error.
            let _ = thread.join();
        }
    }
}

/// A frame on its way; ordered by when it arrives.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Frame {
    due: Instant,
    /// Frames of the same moment keep their order.
    sequence: u64,
    to: usize,
    bytes: Box<[u8]>,
}

struct Carrier {
    taps: [OwnedFd; 2],
    waker: Arc<OwnedFd>,
    settings: Arc<Settings>,
    frames: BinaryHeap<Reverse<Frame>>,
    sequence: u64,
    random: u64,
}

impl Carrier {
    fn run(&mut self) {
        let mut buffer = vec![0; 65_536];
        while !self.settings.ended.load(Ordering::Relaxed) {
            self.deliver();
            let mut read = 0;
            for from in 0..2 {
                read += self.take(from, &mut buffer);
            }
            if read == 0 && self.wait().is_err() {
                // The namespace is gone, and with it the devices.
                return;
            }
        }
    }

    /// Puts what is due where it belongs.
    fn deliver(&mut self) {
        let now = Instant::now();
        while let Some(Reverse(frame)) = self.frames.peek() {
            if frame.due > now {
                return;
            }
            // A device that is down or full loses frames, as devices do.
            let _ = rustix::io::write(&self.taps[frame.to], &frame.bytes);
            self.frames.pop();
        }
    }

    /// Takes frames from one end; how many.
    fn take(&mut self, from: usize, buffer: &mut [u8]) -> usize {
        for taken in 0..BATCH {
            let Ok(length) = rustix::io::read(&self.taps[from], &mut *buffer) else {
                return taken;
            };
            let due = Instant::now() + self.time();
            if self.frames.len() >= FRAMES_MAX {
                continue;
            }
            self.sequence += 1;
            self.frames.push(Reverse(Frame {
                due,
                sequence: self.sequence,
                to: 1 - from,
                bytes: buffer[..length].into(),
            }));
        }
        BATCH
    }

    /// How long the next frame takes.
    fn time(&mut self) -> Duration {
        let delay = self.settings.delay_nanos.load(Ordering::Relaxed);
        let jitter = self.settings.jitter_nanos.load(Ordering::Relaxed);
        // xorshift64: from the same seed each time.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let more = self.random.checked_rem(jitter).unwrap_or(0);
        Duration::from_nanos(delay.saturating_add(more))
    }

    /// Waits until something can be read or is due.
    fn wait(&self) -> Result<(), Errno> {
        let next = self.frames.peek().map(|Reverse(frame)| {
            let left = frame.due.saturating_duration_since(Instant::now());
            // Delays are bounded, so this always fits.
            Timespec::try_from(left).unwrap_or_default()
        });
        let mut fds = [
            PollFd::new(&self.taps[0], PollFlags::IN),
            PollFd::new(&self.taps[1], PollFlags::IN),
            PollFd::new(&self.waker, PollFlags::IN),
        ];
        match poll(&mut fds, next.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        let gone = fds
            .iter()
            .any(|fd| fd.revents().intersects(PollFlags::ERR | PollFlags::NVAL));
        if gone { Err(Errno::NODEV) } else { Ok(()) }
    }
}

/// `struct ifreq` of `linux/if.h` as `TUNSETIFF` reads it: 16 bytes of name,
/// then the flags in a union of 24 bytes.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

const DEVICE: &str = "/dev/net/tun";
/// `_IOW('T', 202, int)`.
const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
const IFF_TAP: u16 = 0x0002;
/// Frames come without a header of four bytes before them.
const IFF_NO_PI: u16 = 0x1000;

/// Opens an existing TAP device of the namespace that this thread is in.
fn open(name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let device = rustix::fs::open(DEVICE, flags, Mode::empty())?;
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: IFF_TAP | IFF_NO_PI,
        rest: [0; 22],
    };
    // The last byte stays zero: the kernel reads a C string.
    for (slot, byte) in request.name.iter_mut().take(15).zip(name.bytes()) {
        *slot = byte;
    }
    // SAFETY: `TUNSETIFF` reads a `struct ifreq`, 40 bytes, which
    // `InterfaceRequest` is, from the pointer that it is given, keeps none, and
    // `Setter` hands it a pointer to a value that lives through the call.
    #[allow(unsafe_code)]
    unsafe {
        rustix::ioctl::ioctl(&device, Setter::<TUNSETIFF, InterfaceRequest>::new(request))?;
    }
    Ok(device)
}

/// Fails if this machine has no TAP devices to offer.
pub(crate) fn check_device(namespace: &Namespace) -> Result<(), LabError> {
    rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map(drop)
        .map_err(|error| namespace.io("open `/dev/net/tun`", error.into()))
}

/// Why a delay cannot be had.
pub(crate) fn check(delay: Duration) -> Result<(), LabError> {
    if delay <= DELAY_MAX {
        return Ok(());
    }
    Err(LabError::Value {
        what: "delay",
        value: format!("{delay:?}"),
        reason: "is longer than 10 s",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_as_long_as_the_kernel_reads() {
        assert_eq!(size_of::<InterfaceRequest>(), 40);
    }

    #[test]
    fn ten_seconds_are_the_longest_delay() {
        assert!(check(DELAY_MAX).is_ok());
        assert!(check(DELAY_MAX + Duration::from_nanos(1)).is_err());
    }

    #[test]
    fn frames_arrive_in_time_and_then_in_order() {
        let now = Instant::now();
        let frame = |after: u64, sequence| {
            Reverse(Frame {
                due: now + Duration::from_millis(after),
                sequence,
                to: 0,
                bytes: Box::default(),
            })
        };
        let mut frames = BinaryHeap::from([frame(2, 1), frame(1, 3), frame(1, 2)]);
        let order: Vec<u64> =
            std::iter::from_fn(|| frames.pop().map(|Reverse(frame)| frame.sequence)).collect();
        assert_eq!(order, [2, 3, 1]);
    }
}
