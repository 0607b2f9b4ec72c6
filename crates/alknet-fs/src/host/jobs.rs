//! Where calls that block run.

use alknet_core::files::{FileError, FileErrorCode};
use std::sync::Arc;
use tokio::{sync::Semaphore, task::spawn_blocking};

/// Most calls of one bucket that block on disks at a time; others wait their
/// turn. Far fewer than the threads of the runtime (512), so that a disk that
/// hangs takes nothing from other buckets.
pub const BLOCKING_JOBS_MAX: usize = 32;

/// Turns of one bucket on the threads that block.
#[derive(Clone, Debug)]
pub(crate) struct Jobs(Arc<Semaphore>);

impl Jobs {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(BLOCKING_JOBS_MAX)))
    }

    /// Runs `act` to its end, even if nobody waits for it any more.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, FileError> {
        let stopped = |_| FileError::new(FileErrorCode::IoError, "the node stops");
        let turn = Arc::clone(&self.0).acquire_owned().await;
        let turn = turn.map_err(|_| stopped(()))?;
        let job = spawn_blocking(move || {
            let _turn = turn;
            act()
        });
        match job.await {
            Ok(done) => Ok(done),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(stopped(())),
        }
    }
}
