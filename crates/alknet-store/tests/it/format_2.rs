//! A file of format 2, as its release left it when it was killed.

use crate::store;
use alknet_core::storage::{
    AuditFilter, AuditLog, Begin, IdempotencyScope, IdempotencyStore, IdentityStore, ImportStore,
    Timestamp,
};
use alknet_store::{
    Store,
    rusqlite::{Connection, types::Value},
};
use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::Path};

fn format_2(path: &Path) -> Connection {
    let dump = include_str!("fixtures/format-2.sql");
    let connection = Connection::open(path).unwrap();
    connection.execute_batch(dump).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    connection
}

/// Names of a table's columns.
fn columns(connection: &Connection, table: &str) -> Vec<String> {
    let mut statement = connection
        .prepare("SELECT name FROM pragma_table_info(?1)")
        .unwrap();
    let names = statement.query_map([table], |row| row.get(0)).unwrap();
    names.collect::<Result<_, _>>().unwrap()
}

/// Every row of a table, in these columns.
fn rows(connection: &Connection, table: &str, columns: &[String]) -> Vec<Vec<Value>> {
    let list = columns.join(", ");
    let sql = format!("SELECT {list} FROM {table} ORDER BY {list}");
    let mut statement = connection.prepare(&sql).unwrap();
    let rows = statement.query_map([], |row| (0..columns.len()).map(|at| row.get(at)).collect());
    rows.unwrap().collect::<Result<_, _>>().unwrap()
}

type Tables = BTreeMap<String, (Vec<String>, Vec<Vec<Value>>)>;

/// Everything that the release kept, without honker's own tables.
fn everything(connection: &Connection) -> Tables {
    let sql = r"SELECT name FROM sqlite_schema WHERE type = 'table'
        AND name NOT LIKE '\_honker\_%' ESCAPE '\' AND name NOT LIKE 'sqlite\_%' ESCAPE '\'";
    let mut statement = connection.prepare(sql).unwrap();
    let names = statement.query_map([], |row| row.get::<_, String>(0));
    names
        .unwrap()
        .map(|name| {
            let name = name.unwrap();
            let columns = columns(connection, &name);
            let rows = rows(connection, &name, &columns);
            (name, (columns, rows))
        })
        .collect()
}

#[tokio::test]
async fn every_row_of_a_file_of_format_2_is_there_after_the_migration() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("alknet.db");
    let mut before = everything(&format_2(&path));
    // Marks of the store itself are added to, and not removed.
    let marks = before.remove("meta").unwrap();
    assert!(
        before.values().all(|(_, rows)| !rows.is_empty()),
        "{before:?}"
    );
    assert_eq!(before.len(), 14);

    let store = Store::open(&path).unwrap();
    assert!(store.unclean_start());
    store.close().await;
    let connection = Connection::open(&path).unwrap();
    for (table, (columns, want)) in before {
        assert_eq!(rows(&connection, &table, &columns), want, "{table}");
    }
    let after = rows(&connection, "meta", &marks.0);
    assert!(marks.1.iter().all(|mark| after.contains(mark)), "{after:?}");
}

#[tokio::test]
async fn a_file_of_format_2_is_read_as_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("alknet.db");
    drop(format_2(&path));
    let store = Store::open(&path).unwrap();

    let all = store.load().await.unwrap();
    let ids: Vec<&str> = all.peers.iter().map(|peer| peer.id.as_str()).collect();
    assert_eq!(ids, ["laptop", "nas", "owner"]);
    let laptop = &all.peers[0];
    assert_eq!(laptop.display_name, "Ada's laptop");
    assert_eq!((laptop.enabled, laptop.ssh_keys.len()), (false, 1));
    assert_eq!(laptop.expires_at, Some(Timestamp(1_900_000_000_000)));
    assert_eq!(laptop.node_keys.len(), 2);
    assert_eq!(
        laptop.node_keys[1].until,
        Some(Timestamp(1_790_000_200_000))
    );
    assert_eq!(laptop.groups.len(), 1);
    assert_eq!(all.groups.len(), 1);
    let used: Vec<bool> = all
        .invites
        .iter()
        .map(|invite| invite.used_by.is_some())
        .collect();
    assert_eq!(used, [true, false]);

    let found = store.list(&AuditFilter::default()).await.unwrap();
    assert_eq!((found.len(), found[0].0), (15, 15));
    let scope = IdempotencyScope {
        caller: "laptop".into(),
        originator: "laptop".into(),
        operation: "fs/write".into(),
        key: "k1".into(),
    };
    let begun = store.begin(&scope, [0x44; 32], 1, Timestamp(1_790_000_000_000));
    assert_eq!(begun.await.unwrap(), Begin::Done(b"{\"ok\":true}".to_vec()));
    let catalogue = store.catalogue("laptop").await.unwrap();
    assert_eq!(catalogue, Some(("r1".to_owned(), b"[]".to_vec())));
    assert_eq!(store.places().await.unwrap().len(), 1);
    assert_eq!(store.networks().await.unwrap().len(), 1);
    assert_eq!(store.records().await.unwrap().len(), 2);
}

/// However old the file was: afterwards it has the schema of a new one.
#[tokio::test]
async fn a_file_of_format_2_ends_up_with_the_newest_schema() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("alknet.db");
    drop(format_2(&path));
    let old = Store::open(&path).unwrap();
    let (_new_dir, new) = store();
    let schema = crate::format::schema_of;
    assert_eq!(schema(&old).await, schema(&new).await);
}
