//! What a data directory tells of its node, whether or not one runs.

use crate::data_dir::DataDir;
use alknet_core::storage::Timestamp;
use alknet_store::{OpenStoreError, Store, StoreFacts};
use std::path::Path;

/// Counts what is in the database: what has expired `now`, what will `soon`,
/// and which starts `since` followed a crash; nothing if there is no database.
/// Blocks.
///
/// # Errors
///
/// [`OpenStoreError`] if it cannot be read.
pub fn inspect(
    dir: &Path,
    now: Timestamp,
    soon: Timestamp,
    since: Timestamp,
) -> Result<Option<StoreFacts>, OpenStoreError> {
    let path = DataDir::new(dir).database();
    match path.exists() {
        true => Store::facts(&path, now, soon, since).map(Some),
        false => Ok(None),
    }
}

/// Checks the database as [`crate::check_database`] does, and its indexes
/// against its tables; `false` if there is none yet. Blocks, for minutes where
/// there are gigabytes.
///
/// # Errors
///
/// [`OpenStoreError`] if it cannot be used.
pub fn check_database_deep(dir: &Path) -> Result<bool, OpenStoreError> {
    let path = DataDir::new(dir).database();
    match path.exists() {
        true => Store::check_deep(&path).map(|()| true),
        false => Ok(false),
    }
}
