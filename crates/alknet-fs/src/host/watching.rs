//! Watches of buckets.

use super::{
    bucket::{Bucket, lock, needs, no_such_bucket},
    gate::{self, Gate},
};
use crate::{
    root::{FileId, Follow, Root},
    watch::{WatchLimits, Watcher},
};
use alknet_core::{
    Permit,
    files::{BucketRef, FileError, FileKind, FilePath, Watch, WatchOptions},
};
use std::sync::{Arc, Mutex};

/// Who watches a bucket's directory, and which one that is: another one may
/// have its path by now.
#[derive(Debug, Default)]
pub(crate) struct Watching(Mutex<Option<(FileId, Arc<Watcher>)>>);

impl Watching {
    fn of(&self, bucket: &str, root: Root) -> Result<Arc<Watcher>, FileError> {
        let mut known = lock(&self.0);
        match &*known {
            Some((id, watcher)) if *id == root.id() => return Ok(Arc::clone(watcher)),
            Some((_, before)) => before.close(),
            None => {}
        }
        let name = BucketRef::parse(bucket).map_err(|_| no_such_bucket(bucket))?;
        let id = root.id();
        let watcher = Arc::new(Watcher::new(name, root, WatchLimits::default()));
        *known = Some((id, Arc::clone(&watcher)));
        Ok(watcher)
    }

    /// Ends all watches.
    pub(crate) fn end(&self) {
        if let Some((_, watcher)) = lock(&self.0).take() {
            watcher.close();
        }
    }
}

impl Bucket {
    pub(crate) async fn watch(
        self: &Arc<Self>,
        permit: &Permit,
        path: &FilePath,
        options: WatchOptions,
    ) -> Result<Box<dyn Watch>, FileError> {
        let (bucket, named) = (Arc::clone(self), path.clone());
        let act = move |gate: &Gate| {
            let root = bucket.root()?;
            let reached = gate.reach(&root, &["list"], &named, Follow::Yes)?;
            let meta = reached.walked.meta().map_err(|error| reached.says(error))?;
            let is_directory = meta.kind == FileKind::Directory;
            Ok((root, reached.real, is_directory))
        };
        let (root, real, is_directory) =
            gate::run(&self.jobs, permit, needs(&["list"], path), act).await?;
        let watcher = self.watching.of(self.name(), root)?;
        let watch = watcher.watch(permit, path, real, is_directory, options);
        let watch = watch.await?;
        // Ended meanwhile, it is watched by nobody any more.
        self.alive()?;
        Ok(watch)
    }
}
