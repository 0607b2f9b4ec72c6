//! Sees processes whose call no longer exists to their end.

use std::{
    io,
    process::Child,
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};
use tokio::sync::watch;

/// How often processes that have not ended yet are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Its thread does next to nothing.
const STACK_BYTES: usize = 64 * 1024;

/// Something that is about to end.
pub(crate) trait Dying: Send {
    /// Does what is left to do; whether it is over, zombies and all. Called
    /// again and again, and does not wait.
    fn is_over(&mut self) -> bool;
}

/// A child that was killed.
impl Dying for Child {
    fn is_over(&mut self) -> bool {
        !matches!(self.try_wait(), Ok(None))
    }
}

/// Hands children to a thread that waits for them, so that none stays a
/// zombie. Not a task: a call may be dropped by a runtime that is shutting
/// down. The thread ends when the last handle is gone and the last child has
/// ended.
#[derive(Clone, Debug)]
pub(crate) struct Reaper {
    queue: Sender<Box<dyn Dying>>,
    /// How many have not ended.
    dying: Arc<watch::Sender<usize>>,
}

impl Reaper {
    /// Starts the thread.
    pub(crate) fn start() -> io::Result<Self> {
        let (queue, received) = mpsc::channel();
        let dying = Arc::new(watch::Sender::new(0));
        let count = dying.clone();
        thread::Builder::new()
            .name("alknet-reaper".into())
            .stack_size(STACK_BYTES)
            .spawn(move || run(&received, &count))?;
        Ok(Self { queue, dying })
    }

    /// Sees it to its end.
    pub(crate) fn reap(&self, dying: impl Dying + 'static) {
        self.dying.send_modify(|count| *count += 1);
        if self.queue.send(Box::new(dying)).is_err() {
            tracing::error!("the reaper is gone: a zombie stays until the node ends");
        }
    }

    /// Waits until all that it was handed has ended.
    pub(crate) async fn idle(&self) {
        // The sender is ours, so that there is always an answer.
        let _ = self.dying.subscribe().wait_for(|count| *count == 0).await;
    }
}

fn run(queue: &Receiver<Box<dyn Dying>>, count: &watch::Sender<usize>) {
    let mut dying: Vec<Box<dyn Dying>> = Vec::new();
    loop {
        let next = if dying.is_empty() {
            queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            queue.recv_timeout(LOOK_EVERY)
        };
        match next {
            Ok(next) => dying.push(next),
            Err(RecvTimeoutError::Disconnected) if dying.is_empty() => return,
            // Without handles `recv_timeout` no longer waits.
            Err(RecvTimeoutError::Disconnected) => thread::sleep(LOOK_EVERY),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let before = dying.len();
        // One that hangs in the kernel does not keep the others waiting.
        dying.retain_mut(|one| !one.is_over());
        let over = before - dying.len();
        if over > 0 {
            count.send_modify(|count| *count -= over);
        }
    }
}
