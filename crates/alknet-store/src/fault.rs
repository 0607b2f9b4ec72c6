//! Why a job on the database failed.

use alknet_core::storage::StoreError;
use rusqlite::ErrorCode;
use std::sync::Arc;

/// Why the store could not run a job, whatever the job itself found.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// The store was closed before the job ran.
    #[error("the store is closed")]
    Closed,
    /// The job panicked; what it wrote was rolled back.
    #[error("a storage job panicked")]
    Panicked,
    /// No transaction could be begun, so nothing was written.
    #[error("failed to begin a transaction")]
    Begin(#[source] Arc<rusqlite::Error>),
    /// SQLite gave up the transaction that the job shared with others, so
    /// nothing was written.
    #[error("the shared transaction was rolled back")]
    RolledBack,
    /// The commit failed. The change is not visible; if the process dies
    /// before the next successful commit, it may or may not be found after
    /// the restart.
    #[error("failed to commit")]
    Commit(#[source] Arc<rusqlite::Error>),
}

/// What the jobs of the adapters fail with.
#[derive(Debug)]
pub(crate) enum Fault {
    Rule(StoreError),
    Sql(rusqlite::Error),
    Job(JobError),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Rule(error)
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<JobError> for Fault {
    fn from(error: JobError) -> Self {
        Self::Job(error)
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Rule(error) => error,
            Fault::Sql(error) => classed(error.sqlite_error_code(), error),
            Fault::Job(error) => classed(error.code(), error),
        }
    }
}

impl JobError {
    /// What SQLite found, if it was asked.
    fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Begin(error) | Self::Commit(error) => error.sqlite_error_code(),
            // SQLite gives up a shared transaction when the disk does; the job
            // that met it has the cause.
            Self::RolledBack => Some(ErrorCode::SystemIoFailure),
            Self::Closed | Self::Panicked => None,
        }
    }
}

fn classed(
    code: Option<ErrorCode>,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    match code {
        Some(ErrorCode::DiskFull) => StoreError::NoSpace(error.into()),
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::ReadOnly) => {
            StoreError::Disk(error.into())
        }
        _ => StoreError::backend(error),
    }
}
