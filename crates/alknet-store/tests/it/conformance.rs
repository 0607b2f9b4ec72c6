//! The rules that every adapter follows, for this one and core's.

use crate::store;
use alknet_core::{
    AuditOutcome, AuditRow,
    storage::{
        AuditFilter, AuditLog, MemoryAuditLog, MemoryCredentialStore, MemoryEventLog,
        MemoryIdempotencyStore, MemoryIdentityStore, MemoryImportStore, Timestamp,
    },
};
use alknet_store::Store;
use alknet_testkit::storage::{self, Credentials, Identities, Outbox};
use proptest::{prelude::*, test_runner::TestRunner};
use std::{cell::RefCell, sync::Arc};
use tempfile::TempDir;

/// Makes stores and keeps their directories until the end of the test.
#[derive(Default)]
struct Stores(RefCell<Vec<TempDir>>);

impl Stores {
    fn make(&self) -> Arc<Store> {
        let (dir, store) = store();
        self.0.borrow_mut().push(dir);
        Arc::new(store)
    }
}

#[tokio::test]
async fn identities_follow_the_rules() {
    let stores = Stores::default();
    storage::identity_store(async || {
        let store = stores.make();
        Identities {
            store: store.clone(),
            audit: store,
        }
    })
    .await;
}

#[tokio::test]
async fn identities_in_memory_follow_the_rules() {
    storage::identity_store(async || {
        let audit = Arc::new(MemoryAuditLog::default());
        Identities {
            store: Arc::new(MemoryIdentityStore::new(audit.clone())),
            audit,
        }
    })
    .await;
}

#[tokio::test]
async fn credentials_follow_the_rules() {
    let stores = Stores::default();
    storage::credential_store(async || {
        let store = stores.make();
        Credentials {
            store: store.clone(),
            audit: store.clone(),
            events: store,
        }
    })
    .await;
}

#[tokio::test]
async fn credentials_in_memory_follow_the_rules() {
    storage::credential_store(async || {
        let audit = Arc::new(MemoryAuditLog::default());
        let store = Arc::new(MemoryCredentialStore::new(audit.clone()));
        Credentials {
            events: store.events(),
            store,
            audit,
        }
    })
    .await;
}

#[tokio::test]
async fn the_audit_log_follows_the_rules() {
    let stores = Stores::default();
    storage::audit_log(async || stores.make()).await;
}

#[tokio::test]
async fn the_audit_log_in_memory_follows_the_rules() {
    storage::audit_log(async || Arc::new(MemoryAuditLog::default())).await;
}

#[tokio::test]
async fn events_follow_the_rules() {
    let stores = Stores::default();
    storage::event_log(async || stores.make()).await;
}

#[tokio::test]
async fn events_in_memory_follow_the_rules() {
    storage::event_log(async || Arc::new(MemoryEventLog::default())).await;
}

#[tokio::test]
async fn changes_and_their_events_are_one() {
    let stores = Stores::default();
    storage::outbox(async || {
        let store = stores.make();
        Outbox {
            store: store.clone(),
            events: store.clone(),
            audit: store,
        }
    })
    .await;
}

#[tokio::test]
async fn changes_and_their_events_are_one_in_memory() {
    storage::outbox(async || {
        let audit = Arc::new(MemoryAuditLog::default());
        let store = Arc::new(MemoryIdentityStore::new(audit.clone()));
        Outbox {
            events: store.events(),
            store,
            audit,
        }
    })
    .await;
}

#[tokio::test]
async fn keyed_calls_follow_the_rules() {
    let stores = Stores::default();
    storage::idempotency_store(async || stores.make()).await;
}

#[tokio::test]
async fn keyed_calls_in_memory_follow_the_rules() {
    storage::idempotency_store(async || Arc::new(MemoryIdempotencyStore::default())).await;
}

#[tokio::test]
async fn imports_follow_the_rules() {
    let stores = Stores::default();
    storage::import_store(async || stores.make()).await;
}

#[tokio::test]
async fn imports_in_memory_follow_the_rules() {
    storage::import_store(async || Arc::new(MemoryImportStore::default())).await;
}

fn rows() -> impl Strategy<Value = Vec<AuditRow>> {
    let row = (
        "[a-c]",
        "[a-c](/[a-b])?\u{10FFFF}?",
        "[o-p]k?|INTERNAL",
        0_i64..20,
        "[x-z]",
        prop::option::of("[x-z]"),
    );
    let row = row.prop_map(
        |(caller, operation, outcome, at, call_id, parent_id)| AuditRow {
            outcome: AuditOutcome::code(outcome.into()),
            // The same texts elsewhere: whatever was mixed up would be found.
            originator: parent_id.as_ref().map(|_| operation.clone()),
            route: parent_id
                .as_ref()
                .map(|parent| format!("{caller}/{parent}")),
            resource: (at % 2 == 0).then(|| operation.clone()),
            key: parent_id.clone(),
            transport: Some(caller.clone()),
            duration_us: at.unsigned_abs() * 1_000,
            call_id,
            parent_id,
            ..AuditRow::event(Timestamp(at * 1_000), &caller, &operation)
        },
    );
    prop::collection::vec(row, 60..=60)
}

fn filters() -> impl Strategy<Value = AuditFilter> {
    let time = || {
        prop::option::weighted(
            0.3,
            (0_i64..20).prop_map(|at| Timestamp(at * 1_000).to_string()),
        )
    };
    let text = |pattern: &'static str| prop::option::weighted(0.4, pattern.prop_map(String::from));
    let names = (
        text("[a-c]"),
        text("[a-c]?/?[a-b]?\\*?"),
        text("ok|refused|INTERNAL"),
        text("[x-z]"),
    );
    let cursor = || prop::option::weighted(0.3, 0_u64..70);
    let window = (
        time(),
        time(),
        cursor(),
        cursor(),
        prop::option::of(0_u32..80),
    );
    let ways = (
        text("[a-c]?/?[a-b]?\\*?"),
        text("[a-c]?/?[a-b]?\\*?"),
        text("[a-cx-z/]?"),
        text("[x-z]"),
        text("[a-c]"),
        prop::option::weighted(0.2, 0_u64..20),
        any::<bool>(),
    );
    (names, window, ways).prop_map(
        |(
            (caller, operation, outcome, call_id),
            (since, until, after, before, limit),
            (originator, resource, route, key, transport, took_ms_min, oldest_first),
        )| {
            AuditFilter {
                caller,
                operation,
                outcome,
                call_id,
                since,
                until,
                after,
                before,
                limit,
                originator,
                resource,
                route,
                key,
                transport,
                took_ms_min,
                oldest_first,
                surface: None,
            }
        },
    )
}

/// The filter is SQL here and a closure in memory: both select the same.
#[test]
fn filters_select_what_they_select_in_memory() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cases = (rows(), prop::collection::vec(filters(), 100));
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 10,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let result = runner.run(&cases, |(rows, filters)| {
        let (_dir, durable) = store();
        let memory = MemoryAuditLog::default();
        runtime.block_on(async {
            durable.append(rows.clone()).await.unwrap();
            memory.append(rows).await.unwrap();
            for filter in filters {
                let (ours, theirs) = (
                    durable.list(&filter).await.unwrap(),
                    memory.list(&filter).await.unwrap(),
                );
                prop_assert_eq!(ours, theirs, "{:?}", filter);
            }
            Ok(())
        })
    });
    result.unwrap();
}
