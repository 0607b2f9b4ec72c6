//! Hosts without inotify: nothing is watched.

use super::{Shared, scope::Scope};
use alknet_core::files::{FileError, FileErrorCode};
use std::sync::Arc;

pub(super) struct Worker;

pub(super) struct Lease;

pub(super) struct Begun {
    pub(super) at: u64,
    pub(super) has_missed: bool,
    pub(super) lease: Lease,
}

pub(super) async fn begin(
    _: &Arc<Shared>,
    scope: &Scope,
    _: Option<&str>,
) -> Result<Begun, FileError> {
    let message = format!("`{}`: this host cannot watch it", scope.path());
    Err(FileError::new(FileErrorCode::Unsupported, message))
}

pub(super) fn stop(_: &Shared) {}
