//! What the node keeps of what happened: events that it notices itself, and
//! how long events and audit rows stay.
//!
//! Changes of peers, grants, keys and the like write their own events, in
//! their own transactions. Here are those that no row of the store stands
//! for: links, the configuration, the start and the end.

mod config;
mod imports;
mod links;
mod retain;

pub use self::config::{AuditConfig, EventsConfig};
pub(crate) use self::{imports::RecordedImports, links::tell_of_links, retain::retain};

use alknet_core::{
    AuditOutcome, AuditRow,
    storage::{EventKind, NewEvent, StoreError, Timestamp},
};
use alknet_store::Store;

/// Writes, in one transaction, that the node runs: the mark that a crash leaves
/// behind, the event, and after a crash the row that says so, since up to
/// 200 ms of audit rows may be missing then.
pub(crate) async fn started(
    store: &Store,
    now: Timestamp,
    version: &str,
) -> Result<(), StoreError> {
    let unclean = store.unclean_start();
    let mut event =
        NewEvent::noticed(EventKind::NODE_STARTED, "node", now).with("version", version);
    let mut rows = Vec::new();
    if unclean {
        tracing::warn!(
            "the node was not stopped cleanly; up to 200 ms of audit rows may be missing"
        );
        let mut row = AuditRow::event(now, "node", "node/start");
        row.outcome = AuditOutcome::code("unclean-start".into());
        rows.push(row);
        event = event.with("unclean", true);
    }
    store.begin_run(vec![event], rows).await
}

/// Writes, in one transaction, that the node stopped in order.
pub(crate) async fn stopped(store: &Store, now: Timestamp) -> Result<(), StoreError> {
    let event = NewEvent::noticed(EventKind::NODE_STOPPED, "node", now);
    store.end_run(vec![event]).await
}
