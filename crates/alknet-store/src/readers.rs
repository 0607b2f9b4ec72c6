//! The connections that read.

use crate::{fault::JobError, open::READERS};
use rusqlite::Connection;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A few connections, lent to one job at a time.
pub(crate) struct Readers {
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(crate) fn new(connections: Vec<Connection>) -> Self {
        let permits = Arc::new(Semaphore::new(connections.len()));
        Self {
            idle: Mutex::new(connections),
            permits,
        }
    }

    /// Runs `work` in a read transaction, on a thread that may block.
    pub(crate) async fn run<T, E>(
        self: &Arc<Self>,
        work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<JobError> + Send + 'static,
    {
        let lease = self.lease().await?;
        match tokio::task::spawn_blocking(move || lease.run(work)).await {
            Ok(done) => done,
            Err(failed) if failed.is_panic() => Err(JobError::Panicked.into()),
            // The runtime is shutting down.
            Err(_) => Err(JobError::Closed.into()),
        }
    }

    async fn lease(self: &Arc<Self>) -> Result<Lease, JobError> {
        let permit = self
            .permits
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| JobError::Closed)?;
        let connection = self.idle().pop().ok_or(JobError::Closed)?;
        Ok(Lease {
            connection: Some(connection),
            readers: self.clone(),
            _permit: permit,
        })
    }

    /// Waits for the jobs that read, then closes the connections.
    pub(crate) async fn close(&self) {
        // Permits are given in the order in which they are asked for, so no
        // job that began to wait later comes in between.
        let all = self.permits.acquire_many(READERS as u32).await;
        self.discard();
        drop(all);
    }

    /// Closes the idle connections and lends none from now on.
    pub(crate) fn discard(&self) {
        self.permits.close();
        self.idle().clear();
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection on loan. It goes back however the job ends, and before its
/// permit does.
struct Lease {
    connection: Option<Connection>,
    readers: Arc<Readers>,
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    fn run<T, E: From<JobError>>(
        mut self,
        work: impl FnOnce(&Connection) -> Result<T, E>,
    ) -> Result<T, E> {
        let connection = self.connection.as_mut().ok_or(JobError::Closed)?;
        // All that the job reads is of one moment. Dropping the transaction
        // ends it, also while a panic unwinds.
        let transaction = connection
            .transaction()
            .map_err(|error| JobError::Begin(Arc::new(error)))?;
        work(&transaction)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let connection = self.connection.take();
        let mut idle = self.readers.idle();
        // Closed meanwhile: nobody would close it otherwise.
        if !self.readers.permits.is_closed() {
            idle.extend(connection);
        }
    }
}
