//! Removes what is kept long enough, little by little.

use crate::node::Shared;
use alknet_core::{AuditRow, storage::StoreError};
use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

/// How often is looked.
const ROUND: Duration = Duration::from_secs(60);
/// Rows of one transaction: others wait for it, a few milliseconds.
const BATCH: u32 = 500;
/// Between two batches the disk is for others.
const PAUSE: Duration = Duration::from_millis(50);

/// Keeps both logs within what the configuration says, for as long as the node
/// runs.
pub(crate) async fn retain(shared: Arc<Shared>) {
    loop {
        retain_once(&shared).await;
        tokio::time::sleep(ROUND).await;
    }
}

/// The two logs.
#[derive(Clone, Copy)]
enum Log {
    Events,
    Audit,
}

async fn retain_once(shared: &Shared) {
    for (log, what) in [(Log::Events, "events"), (Log::Audit, "audit rows")] {
        say(what, in_batches(shared, log).await);
    }
}

async fn in_batches(shared: &Shared, log: Log) -> Result<u64, StoreError> {
    let mut gone = 0;
    loop {
        let batch = prune(shared, log).await?;
        gone += batch;
        if batch < u64::from(BATCH) {
            return Ok(gone);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn prune(shared: &Shared, log: Log) -> Result<u64, StoreError> {
    let (events, audit) = {
        let config = shared.config.lock().unwrap_or_else(PoisonError::into_inner);
        (config.events.clone(), config.audit.clone())
    };
    let now = shared.identities.now();
    let row = |operation| AuditRow::event(now, "host", operation);
    match log {
        Log::Events => {
            let (before, most) = (events.keeps_from(now), events.rows_max);
            let pruned = shared
                .events
                .prune_events(before, most, BATCH, row("events/prune"));
            pruned.await
        }
        Log::Audit => {
            let (before, most) = (audit.keeps_from(now), audit.rows_max);
            let pruned = shared
                .audit_log
                .prune_rows(before, most, BATCH, row("audit/prune"));
            pruned.await
        }
    }
}

fn say(what: &str, pruned: Result<u64, StoreError>) {
    match pruned {
        Ok(0) => {}
        Ok(rows) => tracing::info!(what, rows, "kept long enough and removed"),
        Err(cause) => tracing::warn!(what, %cause, "what was kept long enough was not removed"),
    }
}
