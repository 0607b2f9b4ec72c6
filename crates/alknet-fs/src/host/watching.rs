//! Watches of buckets.

use super::bucket::Bucket;
use alknet_core::{
    Permit,
    files::{FileError, FileErrorCode, FilePath, Watch, WatchOptions},
};
use std::sync::Arc;

impl Bucket {
    pub(crate) async fn watch(
        self: &Arc<Self>,
        _permit: &Permit,
        path: &FilePath,
        _options: WatchOptions,
    ) -> Result<Box<dyn Watch>, FileError> {
        let message = format!("`{path}`: this kind of bucket cannot be watched");
        Err(FileError::new(FileErrorCode::Unsupported, message))
    }
}
