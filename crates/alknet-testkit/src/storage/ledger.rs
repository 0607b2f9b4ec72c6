//! Whether what a store holds, what it told and what it has on record agree.

use alknet_core::{
    AuditRow,
    storage::{AuditFilter, AuditLog, Event, EventLog, IdentityStore, UNCHANGED},
};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Which change, by the operation that makes it, is told by which events.
const CHANGES: &[(&str, &[&str])] = &[
    ("peers/add", &["peer/added"]),
    ("peers/update", &["peer/updated", "peer/rotated"]),
    ("peers/rotate", &["peer/rotated", "peer/updated"]),
    ("peers/remove", &["peer/removed"]),
    ("peers/grant", &["grants/changed"]),
    ("peers/revoke", &["grants/changed"]),
    ("invites/create", &["invite/created"]),
    ("invites/revoke", &["invite/revoked"]),
    ("keys/create", &["key/created"]),
    ("keys/revoke", &["key/revoked"]),
    ("credentials/put", &["credential/put"]),
    ("credentials/remove", &["credential/removed"]),
    ("bans/add", &["ban/set"]),
    ("bans/remove", &["ban/lifted"]),
    ("node/reload", &["config/reloaded"]),
];

/// Everything in which a store's changes, events and audit rows disagree, as
/// sentences; nothing if they are one.
///
/// Numbers of events have no gaps; each event of a change has the change's
/// audit row and each such row its event; and, if no event was pruned, the
/// peers are those that the events leave.
///
/// # Panics
///
/// If one of the three cannot be read.
pub async fn outbox_faults(
    store: &dyn IdentityStore,
    events: &dyn EventLog,
    audit: &dyn AuditLog,
) -> Vec<String> {
    let mut faults = Vec::new();
    let (removed, told) = all_events(events, &mut faults).await;
    let rows = all_rows(audit).await;
    let is_change = |row: &&AuditRow| {
        CHANGES.iter().any(|(operation, _)| row.operation == *operation)
            && row.outcome.as_str() == "ok"
            // The row of a change names what was changed; that of a call has
            // no parent, or is nobody's change.
            && row.resource.is_some()
            && row.parent_id.is_some()
    };
    let call_of = |row: &AuditRow| row.parent_id.clone().unwrap_or_else(|| row.call_id.clone());
    let mut by_call: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for event in &told {
        if let Some(call) = &event.event.call_id {
            let kinds = by_call.entry(call.clone()).or_default();
            kinds.push(event.event.kind.as_str());
        }
    }
    // Where events were pruned, older rows have lost theirs.
    for row in rows.iter().filter(is_change).filter(|_| removed == 0) {
        let wanted = CHANGES
            .iter()
            .find(|(operation, _)| row.operation == *operation);
        let kinds = by_call.get(&call_of(row));
        let has = wanted.is_some_and(|(_, wanted)| {
            kinds.is_some_and(|kinds| kinds.iter().any(|kind| wanted.contains(kind)))
        });
        let is_unchanged = row.detail.as_deref() == Some(UNCHANGED);
        if has == is_unchanged {
            let what = if has {
                "changed nothing and has an event"
            } else {
                "has no event"
            };
            let (operation, about) = (&row.operation, row.resource.as_deref().unwrap_or("?"));
            faults.push(format!("`{operation}` of `{about}` {what}"));
        }
    }
    let recorded: HashSet<String> = rows.iter().map(call_of).collect();
    for event in &told {
        if let Some(call) = &event.event.call_id
            && !recorded.contains(call)
        {
            let (kind, about) = (event.event.kind.as_str(), &event.event.about);
            faults.push(format!("event `{kind}` of `{about}` has no audit row"));
        }
    }
    if removed == 0 {
        let kept = store.load().await.unwrap().peers;
        let kept: BTreeSet<String> = kept.iter().map(|peer| peer.id.to_string()).collect();
        let left = peers_left(&told);
        for name in kept.symmetric_difference(&left) {
            let what = if kept.contains(name) {
                "was told of by no event"
            } else {
                "was told of and is not there"
            };
            faults.push(format!("peer `{name}` {what}"));
        }
    }
    faults
}

/// The peers that the events leave.
fn peers_left(told: &[Event]) -> BTreeSet<String> {
    let mut left = BTreeSet::new();
    for event in told {
        let about = event.event.about.clone();
        match event.event.kind.as_str() {
            "peer/added" | "peer/joined" => drop(left.insert(about)),
            "peer/removed" => drop(left.remove(&about)),
            _ => {}
        }
    }
    left
}

async fn all_events(log: &dyn EventLog, faults: &mut Vec<String>) -> (u64, Vec<Event>) {
    let mut told: Vec<Event> = Vec::new();
    let span = log.read_events(0, "", 0).await.unwrap().span;
    let mut after = span.removed;
    loop {
        let page = log.read_events(after, "", 1_000).await.unwrap();
        for event in &page.events {
            if event.number != after + 1 {
                faults.push(format!("event {} follows {after}", event.number));
            }
            after = event.number;
        }
        told.extend(page.events);
        if after >= page.span.newest {
            return (span.removed, told);
        }
        if page.through >= page.span.newest {
            faults.push(format!("events after {after} are missing"));
            return (span.removed, told);
        }
    }
}

async fn all_rows(log: &dyn AuditLog) -> Vec<AuditRow> {
    let mut filter = AuditFilter {
        limit: Some(1_000),
        oldest_first: true,
        ..AuditFilter::default()
    };
    let mut rows = Vec::new();
    loop {
        let page = log.list(&filter).await.unwrap();
        let Some((last, _)) = page.last() else {
            return rows;
        };
        filter.after = Some(*last);
        rows.extend(page.into_iter().map(|(_, row)| row));
    }
}
