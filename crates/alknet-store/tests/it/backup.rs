//! Copies of a store in use, and what becomes of them.

use crate::store;
use alknet_core::{
    AuditRow, PeerId,
    storage::{
        AuditFilter, AuditLog, EventLog, IdentityChange, IdentityStore, InviteRecord, PeerRecord,
        Timestamp,
    },
};
use alknet_store::{
    CopyStoreError, OpenStoreError, Store,
    rusqlite::{Connection, OpenFlags},
};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

const NOW: Timestamp = Timestamp(1_000_000);

fn going_on() -> Arc<AtomicBool> {
    Arc::default()
}

fn row(operation: &str) -> AuditRow {
    AuditRow::event(NOW, "owner", operation)
}

fn peer(name: &str) -> PeerRecord {
    PeerRecord::new(PeerId::parse(name).unwrap(), NOW)
}

async fn add(store: &Store, name: &str) {
    let change = IdentityChange::AddPeer(peer(name));
    store.apply(change, row("peers/add")).await.unwrap();
}

fn invite(id: &str, expires_at: Timestamp) -> InviteRecord {
    InviteRecord {
        id: id.into(),
        secret_hash: [7; 32],
        name: None,
        grants: [].into_iter().collect(),
        created_at: NOW,
        expires_at,
        access_for_ms: None,
        used_by: None,
        used_key: None,
        revoked: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_has_all_that_was_acknowledged_before_it_began() {
    let (dir, store) = store();
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let writing = tokio::spawn({
        let (store, acknowledged) = (store.clone(), acknowledged.clone());
        async move {
            for n in 0.. {
                add(&store, &format!("p{n}")).await;
                acknowledged.store(n + 1, Ordering::SeqCst);
            }
        }
    });
    for round in 0..5 {
        while acknowledged.load(Ordering::SeqCst) < (round + 1) * 20 {
            tokio::task::yield_now().await;
        }
        let before = acknowledged.load(Ordering::SeqCst);
        let to = dir.path().join(format!("copy-{round}.db"));
        let from = store.path().to_owned();
        let copied = tokio::task::spawn_blocking({
            let to = to.clone();
            move || Store::copy(&from, &to, &going_on())
        });
        let copied = copied.await.unwrap().unwrap();
        let meta = fs::metadata(&to).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
        assert_eq!(meta.len(), copied.bytes);
        Store::check_deep(&to).unwrap();

        let copy = Store::open(&to).unwrap();
        let peers = copy.load().await.unwrap().peers;
        assert!(peers.len() >= before, "{} of {before}", peers.len());
        for n in 0..before {
            let name = format!("p{n}");
            assert!(peers.iter().any(|peer| peer.id.as_str() == name), "{name}");
        }
        // Each change with its row: it is of one moment.
        let filter = AuditFilter {
            limit: Some(u32::MAX),
            ..AuditFilter::default()
        };
        let rows = AuditLog::list(&copy, &filter).await.unwrap();
        assert_eq!(rows.len(), peers.len().min(filter.limit()));
        copy.close().await;
    }
    writing.abort();
}

#[tokio::test]
async fn a_copy_holds_nothing_that_was_removed() {
    let (dir, store) = store();
    let secret = "REMOVED-BEFORE-THE-COPY";
    store
        .write(move |connection| {
            let sql = "INSERT INTO catalogues VALUES ('nas', ?1, x'00')";
            connection.execute(sql, [secret.repeat(1_000)])?;
            Ok::<_, Fail>(())
        })
        .await
        .unwrap();
    store
        .write(|connection| {
            connection.execute("DELETE FROM catalogues", [])?;
            Ok::<_, Fail>(())
        })
        .await
        .unwrap();
    let to = dir.path().join("copy.db");
    Store::copy(store.path(), &to, &going_on()).unwrap();
    store.close().await;
    let holds = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        bytes
            .windows(secret.len())
            .any(|text| text == secret.as_bytes())
    };
    // SQLite leaves it in the file itself, so this test can fail.
    assert!(holds(&dir.path().join("alknet.db")));
    assert!(!holds(&to));
}

#[derive(Debug)]
struct Fail;

impl From<alknet_store::rusqlite::Error> for Fail {
    fn from(_: alknet_store::rusqlite::Error) -> Self {
        Self
    }
}

impl From<alknet_store::JobError> for Fail {
    fn from(_: alknet_store::JobError) -> Self {
        Self
    }
}

#[tokio::test]
async fn a_copy_that_is_stopped_or_has_no_place_leaves_nothing() {
    let (dir, store) = store();
    for n in 0..200 {
        add(&store, &format!("p{n}")).await;
    }
    let to = dir.path().join("copy.db");
    let stopped = Store::copy(store.path(), &to, &Arc::new(AtomicBool::new(true)));
    assert!(
        matches!(stopped, Err(CopyStoreError::Stopped)),
        "{stopped:?}"
    );
    assert!(!to.exists());

    let nowhere = dir.path().join("missing/copy.db");
    let failed = Store::copy(store.path(), &nowhere, &going_on());
    assert!(
        matches!(failed, Err(CopyStoreError::Io { .. })),
        "{failed:?}"
    );

    // What is there is never written over.
    fs::write(&to, "mine").unwrap();
    let failed = Store::copy(store.path(), &to, &going_on());
    assert!(
        matches!(failed, Err(CopyStoreError::Io { .. })),
        "{failed:?}"
    );
    assert_eq!(fs::read(&to).unwrap(), b"mine");
}

#[tokio::test]
async fn a_settled_copy_begins_anew() {
    let (dir, store) = store();
    add(&store, "laptop").await;
    let later = NOW.plus(std::time::Duration::from_secs(60));
    for invite in [invite("open", later), invite("old", NOW)] {
        let change = IdentityChange::AddInvite(invite);
        store.apply(change, row("invites/create")).await.unwrap();
    }
    store.mark_running().await.unwrap();
    let to = dir.path().join("copy.db");
    Store::copy(store.path(), &to, &going_on()).unwrap();
    let settled = Store::settle(&to, &row("node/restore")).unwrap();
    assert_eq!((settled.peers, settled.invites_revoked), (1, 1));
    for suffix in ["copy.db-wal", "copy.db-shm"] {
        assert!(!dir.path().join(suffix).exists(), "{suffix}");
    }

    let copy = Store::open(&to).unwrap();
    assert!(!copy.unclean_start() && store.newest_event().borrow().gt(&0));
    let invites = copy.load().await.unwrap().invites;
    let revoked: Vec<_> = invites
        .iter()
        .map(|one| (one.id.as_str(), one.revoked))
        .collect();
    // One that is over as well: with a clock set back it would not be.
    assert_eq!(revoked, [("old", true), ("open", true)]);
    let rows = AuditLog::list(&copy, &AuditFilter::default())
        .await
        .unwrap();
    assert_eq!(rows[0].1.operation, "node/restore");
    let epoch = |store: &Store| {
        let store = store.clone();
        async move { EventLog::read_events(&store, 0, "", 100).await.unwrap() }
    };
    let (ours, theirs) = (epoch(&store).await, epoch(&copy).await);
    assert_ne!(ours.span.epoch, theirs.span.epoch);
    // What had happened is kept, and the revoked invites are events, too.
    assert_eq!(theirs.events.len(), ours.events.len() + 2);
}

#[tokio::test]
async fn what_is_no_store_is_not_settled() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE t (x)")
        .unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let before = fs::read(&path).unwrap();
    let refused = Store::settle(&path, &row("node/restore"));
    assert!(matches!(refused, Err(OpenStoreError::Foreign { .. })));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_store_tells_what_expires_and_whose_it_is() {
    let (_dir, store) = store();
    let at = |seconds: u64| NOW.plus(std::time::Duration::from_secs(seconds));
    for (name, expires_at) in [
        ("old", Some(NOW)),
        ("soon", Some(at(10))),
        ("late", Some(at(99))),
        ("never", None),
    ] {
        let change = IdentityChange::AddPeer(PeerRecord {
            expires_at,
            ..peer(name)
        });
        store.apply(change, row("peers/add")).await.unwrap();
    }
    store
        .apply(
            IdentityChange::AddInvite(invite("open", at(10))),
            row("invites/create"),
        )
        .await
        .unwrap();
    let mut crash = AuditRow::event(NOW, "node", "node/start");
    crash.outcome = alknet_core::AuditOutcome::code("unclean-start".into());
    AuditLog::append(&store, vec![crash]).await.unwrap();
    store.note_node("ab").await.unwrap();
    let writes = store.write_stats().commits;
    store.note_node("ab").await.unwrap();
    assert_eq!(store.write_stats().commits, writes);

    let facts = Store::facts(store.path(), NOW, at(50), Timestamp(0)).unwrap();
    assert_eq!(facts.node.as_deref(), Some("ab"));
    assert_eq!(
        (facts.peers, facts.invites_open, facts.unclean_starts),
        (4, 1, 1)
    );
    assert_eq!(
        (facts.peers_expired, facts.peers_expiring),
        (vec!["old".to_owned()], vec!["soon".to_owned()])
    );
    let later = Store::facts(store.path(), NOW, at(50), NOW).unwrap();
    assert_eq!(later.unclean_starts, 0);
}

#[test]
fn a_store_of_an_older_format_tells_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("alknet.db");
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let old = Connection::open_with_flags(&path, flags).unwrap();
    old.execute_batch(include_str!("fixtures/format-2.sql"))
        .unwrap();
    drop(old);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let facts = Store::facts(&path, NOW, NOW, Timestamp(0)).unwrap();
    assert_eq!(
        (facts.format, facts.peers, facts.keys, facts.node),
        (2, 2, 0, None)
    );
}
