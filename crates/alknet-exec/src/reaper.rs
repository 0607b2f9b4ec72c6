//! Reaps killed processes whose call no longer exists.

use std::{
    io,
    process::Child,
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::Duration,
};

/// How often killed processes that have not ended yet are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Its thread does next to nothing.
const STACK_BYTES: usize = 64 * 1024;

/// Hands children to a thread that waits for them, so that none stays a
/// zombie. Not a task: a call may be dropped by a runtime that is shutting
/// down. The thread ends when the last handle is gone and the last child has
/// ended.
#[derive(Clone, Debug)]
pub(crate) struct Reaper(Sender<Child>);

impl Reaper {
    /// Starts the thread.
    pub(crate) fn start() -> io::Result<Self> {
        let (children, queue) = mpsc::channel();
        thread::Builder::new()
            .name("alknet-reaper".into())
            .stack_size(STACK_BYTES)
            .spawn(move || run(&queue))?;
        Ok(Self(children))
    }

    /// Waits for a child that was killed.
    pub(crate) fn reap(&self, child: Child) {
        if self.0.send(child).is_err() {
            tracing::error!("the reaper is gone: a zombie stays until the node ends");
        }
    }
}

fn run(queue: &Receiver<Child>) {
    let mut dying: Vec<Child> = Vec::new();
    loop {
        let next = if dying.is_empty() {
            queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            queue.recv_timeout(LOOK_EVERY)
        };
        match next {
            Ok(child) => dying.push(child),
            Err(RecvTimeoutError::Disconnected) if dying.is_empty() => return,
            // Without handles `recv_timeout` no longer waits.
            Err(RecvTimeoutError::Disconnected) => thread::sleep(LOOK_EVERY),
            Err(RecvTimeoutError::Timeout) => {}
        }
        // One that hangs in the kernel does not keep the others waiting.
        dying.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }
}
