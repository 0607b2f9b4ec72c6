//! One watch: a place in the changes of its bucket.

use super::{
    CHANGES_TOLD_MAX, Shared, Turn,
    ring::{Item, What},
    scope::{Scope, Seen},
    worker::{Begun, Lease},
};
use alknet_core::{
    CallError, Permit,
    files::{ChangeKind, FileChange, FileError, FileKind, FilePath, Watch},
};
use async_trait::async_trait;
use std::{fmt, sync::Arc};
use tokio::sync::watch;

pub(super) struct HostWatch {
    shared: Arc<Shared>,
    scope: Scope,
    /// The last change that was told, or passed over.
    at: u64,
    has_missed: bool,
    is_over: bool,
    head: watch::Receiver<u64>,
    _lease: Lease,
    _turn: Turn,
}

impl fmt::Debug for HostWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("scope", &self.scope)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl HostWatch {
    pub(super) fn new(shared: Arc<Shared>, scope: Scope, turn: Turn, begun: Begun) -> Self {
        Self {
            at: begun.at,
            has_missed: begun.has_missed,
            is_over: false,
            head: shared.head.subscribe(),
            shared,
            scope,
            _lease: begun.lease,
            _turn: turn,
        }
    }

    fn change(&self, kind: ChangeKind, number: u64) -> FileChange {
        FileChange {
            cursor: self.shared.ring().cursor(number),
            kind,
            file: self.scope.path().clone(),
            from: None,
            entry: None,
        }
    }

    /// Forgets what it did not tell yet, and says so.
    fn miss(&mut self) -> Vec<FileChange> {
        self.has_missed = false;
        self.at = self.shared.ring().head();
        vec![self.change(ChangeKind::Missed, self.at)]
    }

    /// Some changes from the place on; the ring is not held while the door is
    /// asked about each.
    fn ready(&self) -> Option<Vec<(u64, Item)>> {
        let ring = self.shared.ring();
        let items = ring.after(self.at)?.take(CHANGES_TOLD_MAX);
        Some(items.map(|(number, item)| (number, item.clone())).collect())
    }

    /// What is told of those changes; none if nothing of them is seen.
    fn take(
        &mut self,
        permit: &Permit,
        items: Vec<(u64, Item)>,
    ) -> Result<Vec<FileChange>, FileError> {
        let shared = self.shared.clone();
        let allows = |names: &[_]| {
            let path = shared.path(names);
            path.is_some_and(|path| permit.allows_file("list", &path))
        };
        let mut told = Vec::new();
        for (number, item) in items {
            let is_missed = item.what == What::Missed;
            match self.scope.see(&item, allows) {
                Seen::Nothing => {}
                Seen::Change(kind, names, from) => {
                    // A long path below a bucket that was renamed is told no more.
                    let Some(file) = shared.path(&names) else {
                        self.at = number;
                        continue;
                    };
                    told.push(FileChange {
                        file,
                        from: from.and_then(|from| shared.path(&from)),
                        entry: item.entry.filter(|_| !is_missed),
                        ..self.change(kind, number)
                    });
                }
                Seen::Over => {
                    told.push(FileChange {
                        entry: Some(FileKind::Directory),
                        ..self.change(ChangeKind::Removed, number)
                    });
                    self.is_over = true;
                    self.at = number;
                    break;
                }
                Seen::Failed(_) if !told.is_empty() => break,
                Seen::Failed(error) => {
                    self.is_over = true;
                    return Err(error);
                }
            }
            self.at = number;
        }
        Ok(told)
    }
}

#[async_trait]
impl Watch for HostWatch {
    fn path(&self) -> &FilePath {
        self.scope.path()
    }

    fn cursor(&self) -> String {
        self.shared.ring().cursor(self.at)
    }

    async fn next(&mut self, permit: &Permit) -> Result<Vec<FileChange>, FileError> {
        loop {
            check(&self.scope, permit)?;
            if self.is_over {
                return Ok(Vec::new());
            }
            if self.has_missed {
                return Ok(self.miss());
            }
            // Before looking: what comes from here on wakes it again.
            self.head.borrow_and_update();
            match self.ready() {
                None => return Ok(self.miss()),
                Some(items) if items.is_empty() => {}
                Some(items) => {
                    let told = self.take(permit, items)?;
                    if !told.is_empty() {
                        return Ok(told);
                    }
                    // Much may pass that is not seen.
                    tokio::task::yield_now().await;
                    continue;
                }
            }
            let scope = &self.scope;
            tokio::select! {
                _ = self.head.changed() => {}
                refused = permit.lost(|permit| check(scope, permit)) => return Err(refused.into()),
            }
        }
    }
}

/// What the caller named, and what that led to.
fn check(scope: &Scope, permit: &Permit) -> Result<(), CallError> {
    permit.check_file("list", scope.asked())?;
    permit.check_file("list", scope.path())
}
