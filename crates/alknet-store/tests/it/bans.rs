//! Bans: kept with their audit rows, replaced, lifted, forgotten.

use crate::store;
use alknet_core::{
    AuditRow,
    storage::{AuditFilter, AuditLog, EventLog, Timestamp},
};
use alknet_store::{KeptBan, Store};

fn ban(target: &str, until: Option<i64>) -> KeptBan {
    KeptBan {
        target: target.into(),
        reason: "guessing".into(),
        banned_by: "owner".into(),
        created_at: Timestamp(5),
        until: until.map(Timestamp),
    }
}

fn row(operation: &str) -> AuditRow {
    AuditRow::event(Timestamp(5), "owner", operation)
}

async fn rows(store: &Store, operation: &str) -> usize {
    let filter = AuditFilter {
        operation: Some(operation.into()),
        ..AuditFilter::default()
    };
    store.list(&filter).await.unwrap().len()
}

async fn events(store: &Store) -> Vec<String> {
    let page = store.read_events(0, "ban/", 100).await.unwrap();
    let told = page.events.iter();
    told.map(|event| format!("{} {}", event.event.kind.as_str(), event.event.about))
        .collect()
}

#[tokio::test]
async fn a_ban_replaces_the_one_before_and_each_leaves_its_row() {
    let (_dir, store) = store();
    let (one, other) = (ban("192.0.2.7", Some(10)), ban("laptop", None));
    store.put_ban(other.clone(), row("bans/add")).await.unwrap();
    store.put_ban(one.clone(), row("bans/add")).await.unwrap();
    assert_eq!(store.bans().await.unwrap(), [one, other.clone()]);
    let longer = KeptBan {
        reason: "again".into(),
        ..ban("192.0.2.7", None)
    };
    store
        .put_ban(longer.clone(), row("bans/add"))
        .await
        .unwrap();
    assert_eq!(store.bans().await.unwrap(), [longer, other]);
    assert_eq!(rows(&store, "bans/add").await, 3);
    let told = events(&store).await;
    let targets = ["laptop", "192.0.2.7", "192.0.2.7"];
    assert_eq!(told, targets.map(|target| format!("ban/set {target}")));
}

#[tokio::test]
async fn a_ban_is_lifted_once_and_what_was_not_there_leaves_no_row() {
    let (_dir, store) = store();
    let kept = ban("laptop", None);
    store.put_ban(kept, row("bans/add")).await.unwrap();
    let lift = async || {
        store
            .remove_ban("laptop", row("bans/remove"))
            .await
            .unwrap()
    };
    assert!(lift().await);
    assert!(!lift().await);
    assert_eq!(rows(&store, "bans/remove").await, 1);
    assert_eq!(
        events(&store).await,
        ["ban/set laptop", "ban/lifted laptop"]
    );
    assert!(store.bans().await.unwrap().is_empty());
}

#[tokio::test]
async fn bans_that_have_ended_are_forgotten_and_others_stay() {
    let (dir, store) = store();
    for (target, until) in [
        ("a", Some(9)),
        ("b", Some(10)),
        ("c", Some(11)),
        ("d", None),
    ] {
        store
            .put_ban(ban(target, until), row("bans/add"))
            .await
            .unwrap();
    }
    assert_eq!(store.prune_bans(Timestamp(10)).await.unwrap(), 2);
    store.close().await;
    let store = Store::open(&dir.path().join("alknet.db")).unwrap();
    let left = store.bans().await.unwrap().into_iter();
    assert_eq!(left.map(|ban| ban.target).collect::<Vec<_>>(), ["c", "d"]);
}
