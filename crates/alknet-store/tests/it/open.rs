//! What may be opened, and what is refused.

use alknet_core::{
    AuditRow, PeerId,
    storage::{
        AuditFilter, AuditLog, EventKind, IdentityChange, IdentityStore, NewEvent, PeerRecord,
        Timestamp,
    },
};
use alknet_store::{OpenStoreError, Store, rusqlite::Connection};
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("alknet.db");
    (dir, path)
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A new file that another program wrote.
fn other_database(path: &Path, sql: &str) {
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
    chmod(path, 0o600);
}

#[tokio::test]
async fn what_was_written_is_there_after_reopening() {
    let (_dir, path) = place();
    let store = Store::open(&path).unwrap();
    let peer = PeerRecord::new(PeerId::parse("laptop").unwrap(), Timestamp(1));
    let row = AuditRow::event(Timestamp(1), "owner", "peers/add");
    store
        .apply(IdentityChange::AddPeer(peer.clone()), row.clone())
        .await
        .unwrap();
    store.close().await;
    let store = Store::open(&path).unwrap();
    assert_eq!(store.load().await.unwrap().peers, [peer]);
    assert_eq!(
        store.list(&AuditFilter::default()).await.unwrap(),
        [(1, row)]
    );
}

#[tokio::test]
async fn the_files_are_the_owners_alone() {
    let (_dir, path) = place();
    let store = Store::open(&path).unwrap();
    store.mark_running().await.unwrap();
    for name in ["alknet.db", "alknet.db-wal", "alknet.db-shm"] {
        assert_eq!(mode(&path.with_file_name(name)), 0o600, "{name}");
    }
}

#[test]
fn a_file_that_others_may_use_is_refused() {
    for exposed in [0o640, 0o604, 0o620, 0o666] {
        let (_dir, path) = place();
        drop(Store::open(&path).unwrap());
        chmod(&path, exposed);
        let error = Store::open(&path).unwrap_err();
        assert!(
            matches!(error, OpenStoreError::Exposed { mode, .. } if mode == exposed),
            "{error:?}"
        );
        let want = format!(
            "store `{}` is open to others (mode {exposed:04o}), want 0600",
            path.display()
        );
        assert_eq!(error.to_string(), want);
    }
    let (_dir, path) = place();
    drop(Store::open(&path).unwrap());
    chmod(&path, 0o700);
    Store::open(&path).unwrap();
}

#[test]
fn a_log_that_others_may_use_is_refused() {
    let (_dir, path) = place();
    drop(Store::open(&path).unwrap());
    let wal = path.with_file_name("alknet.db-wal");
    fs::write(&wal, "").unwrap();
    chmod(&wal, 0o644);
    assert!(matches!(Store::open(&path), Err(OpenStoreError::Exposed { path, .. }) if path == wal));
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let (_dir, path) = place();
    drop(Store::open(&path).unwrap());
    Connection::open(&path)
        .unwrap()
        .pragma_update(None, "user_version", 1_000)
        .unwrap();
    let before = fs::read(&path).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(
        matches!(
            error,
            OpenStoreError::TooNew {
                found: 1_000,
                known: 3,
                ..
            }
        ),
        "{error:?}"
    );
    let want = format!(
        "store `{}` has format 1000, newest known is 3",
        path.display()
    );
    assert_eq!(error.to_string(), want);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_database_of_another_program_is_refused_and_left_alone() {
    for sql in [
        "CREATE TABLE t (x)",
        "PRAGMA application_id = 5; CREATE TABLE t (x)",
        "PRAGMA user_version = 1",
    ] {
        let (_dir, path) = place();
        other_database(&path, sql);
        let before = fs::read(&path).unwrap();
        assert!(
            matches!(Store::open(&path), Err(OpenStoreError::Foreign { .. })),
            "{sql}"
        );
        assert_eq!(fs::read(&path).unwrap(), before, "{sql}");
    }
}

#[test]
fn an_empty_file_becomes_a_store() {
    // As left by a crash between making the file and writing to it.
    let (_dir, path) = place();
    other_database(&path, "");
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    Store::open(&path).unwrap();
}

#[test]
fn what_is_no_database_is_damaged() {
    let (_dir, path) = place();
    fs::write(
        &path,
        "not a database, but long enough for its header to be read: ".repeat(40),
    )
    .unwrap();
    chmod(&path, 0o600);
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, OpenStoreError::Damaged { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!("store `{}` is damaged", path.display())
    );
}

#[test]
fn a_truncated_file_is_damaged() {
    let (_dir, path) = place();
    drop(Store::open(&path).unwrap());
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(8_192).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, OpenStoreError::Damaged { .. }), "{error:?}");
}

#[test]
fn an_overwritten_page_is_damaged() {
    let (_dir, path) = place();
    drop(Store::open(&path).unwrap());
    let mut bytes = fs::read(&path).unwrap();
    // The schema's first page, behind the file's header of 100 bytes.
    bytes[100..4_096].fill(0xAA);
    fs::write(&path, bytes).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, OpenStoreError::Damaged { .. }), "{error:?}");
}

#[test]
fn what_is_no_file_is_refused() {
    let (dir, _) = place();
    assert!(matches!(
        Store::open(dir.path()),
        Err(OpenStoreError::NotAFile { .. })
    ));
    let missing = dir.path().join("missing/alknet.db");
    assert!(
        matches!(Store::open(&missing), Err(OpenStoreError::Io { path, .. }) if path == missing)
    );
}

#[tokio::test]
async fn a_run_that_did_not_end_in_order_is_noticed_once() {
    let (_dir, path) = place();
    let store = Store::open(&path).unwrap();
    assert!(!store.unclean_start());
    store.mark_running().await.unwrap();
    store.close().await;

    let store = Store::open(&path).unwrap();
    assert!(store.unclean_start());
    store.mark_running().await.unwrap();
    store.mark_clean().await.unwrap();
    // It tells about the start, not about now.
    assert!(store.unclean_start());
    store.close().await;
    assert!(!Store::open(&path).unwrap().unclean_start());
}

#[tokio::test]
async fn durability_settings_hold_on_the_connection_that_writes() {
    let (_dir, path) = place();
    let store = Store::open(&path).unwrap();
    let settings = store.write(|connection| {
        let text = |name: &str| {
            connection
                .pragma_query_value(None, name, |row| row.get::<_, i64>(0))
                .unwrap()
        };
        let journal: String = connection
            .pragma_query_value(None, "journal_mode", |row| row.get(0))
            .unwrap();
        Ok::<_, alknet_store::JobError>((
            journal,
            text("synchronous"),
            text("foreign_keys"),
            text("busy_timeout"),
        ))
    });
    assert_eq!(settings.await.unwrap(), ("wal".to_owned(), 2, 1, 5_000));
}

#[tokio::test]
async fn events_are_rows_as_honker_publishes_them() {
    let (_dir, path) = place();
    let store = Store::open(&path).unwrap();
    let event = NewEvent::noticed(EventKind::NODE_STARTED, "node", Timestamp(7));
    let same = store.write(move |connection| {
        let insert = || alknet_store::events::insert(connection, &event);
        insert().unwrap();
        let publish = "SELECT honker_stream_publish(topic, key, payload) FROM _honker_stream";
        let published = connection.query_row(publish, [], |_| Ok(()));
        published.unwrap();
        insert().unwrap();
        let columns = "SELECT group_concat(name) FROM pragma_table_info('_honker_stream')
            WHERE name NOT IN ('offset', 'created_at')";
        let columns: String = connection.query_row(columns, [], |row| row.get(0)).unwrap();
        // All of them in one kind, whatever columns honker has: three rows
        // with consecutive numbers.
        let kinds = format!(
            "SELECT count(*), max(offset) - min(offset), max(abs(created_at - unixepoch())) < 60
                FROM _honker_stream GROUP BY {columns}"
        );
        let mut kinds = connection.prepare(&kinds).unwrap();
        let kinds = kinds.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        let kinds: Result<Vec<(u32, u32, bool)>, _> = kinds.unwrap().collect();
        Ok::<_, alknet_store::JobError>(kinds.unwrap())
    });
    assert_eq!(same.await.unwrap(), [(3, 2, true)]);
}

#[tokio::test]
async fn honkers_functions_work_inside_a_job() {
    let (_dir, path) = place();
    let store = Store::open(&path).unwrap();
    let published = store.write(|connection| {
        let offset = connection.query_row(
            "SELECT honker_stream_publish('events', NULL, '{}')",
            [],
            |row| row.get(0),
        );
        Ok::<i64, alknet_store::JobError>(offset.unwrap())
    });
    assert_eq!(published.await.unwrap(), 1);
    let kept = store.read(|connection| {
        let count =
            connection.query_row("SELECT count(*) FROM _honker_stream", [], |row| row.get(0));
        Ok::<i64, alknet_store::JobError>(count.unwrap())
    });
    assert_eq!(kept.await.unwrap(), 1);
}
