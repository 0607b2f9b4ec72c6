//! The format is a promise: its schema, and files written by earlier ones.

use crate::store;
use alknet_core::{
    AuditOutcome, AuditRow, GrantTarget, PeerId, Surface,
    storage::{
        AuditFilter, AuditLog, Begin, IdempotencyScope, IdempotencyStore, IdentityStore,
        ImportStore, InviteRecord, NodeKey, PeerAddresses, PeerRecord, SshKey, Timestamp,
    },
};
use alknet_store::{JobError, Store, rusqlite::Connection};
use std::{fs, os::unix::fs::PermissionsExt, path::Path};

/// The schema as text, without honker's own tables.
fn schema(connection: &Connection) -> String {
    let pragma = |name: &str| {
        connection
            .pragma_query_value(None, name, |row| row.get::<_, i64>(0))
            .unwrap()
    };
    let mut text = format!(
        "PRAGMA application_id = {};\nPRAGMA user_version = {};\n",
        pragma("application_id"),
        pragma("user_version")
    );
    let sql = r"SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL
        AND name NOT LIKE '\_honker\_%' ESCAPE '\' AND name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY type DESC, name";
    let mut statement = connection.prepare(sql).unwrap();
    let definitions = statement
        .query_map([], |row| row.get::<_, String>(0))
        .unwrap();
    for definition in definitions {
        text.push_str(&format!("\n{};\n", definition.unwrap()));
    }
    text
}

pub(crate) async fn schema_of(store: &Store) -> String {
    store
        .read(|connection| Ok::<_, JobError>(schema(connection)))
        .await
        .unwrap()
}

/// A change here needs a new migration, never an edit of a released one. To
/// accept it, run with `UPDATE_GOLDEN=1`.
#[tokio::test]
async fn the_schema_is_the_one_promised() {
    let (_dir, store) = store();
    let found = schema_of(&store).await;
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden/schema.sql");
    let want = fs::read_to_string(&golden).unwrap();
    if found != want && std::env::var_os("UPDATE_GOLDEN").is_some() {
        return fs::write(&golden, &found).unwrap();
    }
    assert_eq!(found, want, "`{}`", golden.display());
}

/// Writes the file that a release with format 1 left behind.
fn format_1(path: &Path) {
    let dump = include_str!("fixtures/format-1.sql");
    Connection::open(path).unwrap().execute_batch(dump).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn peer_of_format_1() -> PeerRecord {
    let grant = |text| GrantTarget::parse(text).unwrap();
    PeerRecord {
        display_name: "Ada's laptop".into(),
        groups: [alknet_core::GroupName::parse("family").unwrap()].into(),
        grants: ["editor", "deploy/restart", "bucket:www/**=read"]
            .map(grant)
            .into_iter()
            .collect(),
        enabled: true,
        expires_at: Some(Timestamp(1_900_000_000_000)),
        last_seen_at: Some(Timestamp(1_790_000_100_000)),
        node_keys: vec![
            NodeKey {
                key: [0x11; 32],
                until: None,
            },
            NodeKey {
                key: [0x22; 32],
                until: Some(Timestamp(1_790_000_200_000)),
            },
        ],
        ssh_keys: [SshKey {
            fingerprint: "SHA256:abc".into(),
            public_key: None,
            comment: None,
        }]
        .into(),
        addresses: PeerAddresses {
            direct: vec!["192.0.2.1:4433".parse().unwrap()],
            relays: vec!["https://relay.example/".into()],
        },
        ..PeerRecord::new(
            PeerId::parse("laptop").unwrap(),
            Timestamp(1_790_000_000_000),
        )
    }
}

#[tokio::test]
async fn a_file_of_format_1_opens_with_all_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("alknet.db");
    format_1(&path);
    let store = Store::open(&path).unwrap();
    assert!(store.unclean_start());

    let all = store.load().await.unwrap();
    assert_eq!(all.peers, [peer_of_format_1()]);
    assert_eq!(all.groups.len(), 1);
    assert_eq!(
        all.groups[0]
            .1
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["reader", "!net:10.0.0.0/8=*"]
    );
    let invite = InviteRecord {
        id: "i1".into(),
        secret_hash: [0x33; 32],
        name: Some(PeerId::parse("laptop").unwrap()),
        grants: [GrantTarget::parse("editor").unwrap()]
            .into_iter()
            .collect(),
        created_at: Timestamp(1_790_000_000_000),
        expires_at: Timestamp(1_790_000_900_000),
        access_for_ms: Some(604_800_000),
        used_by: Some(PeerId::parse("laptop").unwrap()),
        used_key: Some([0x11; 32]),
        revoked: false,
    };
    assert_eq!(all.invites, [invite]);

    let rows = store.list(&AuditFilter::default()).await.unwrap();
    let row = AuditRow {
        call_id: "c2".into(),
        parent_id: Some("c1".into()),
        originator: Some("phone/ada".into()),
        surface: Surface::CALL,
        route: Some("nas".into()),
        resource: Some("www/index.html".into()),
        outcome: AuditOutcome::code("FORBIDDEN".into()),
        detail: Some("scope `fs:read` is missing".into()),
        duration_us: 12,
        bytes_in: 34,
        bytes_out: 56,
        ..AuditRow::event(Timestamp(1_790_000_000_123), "laptop", "fs/read")
    };
    // Row 8 was removed: numbers go on behind it.
    assert_eq!(rows, [(7, row.clone())]);
    store.append(vec![row]).await.unwrap();
    assert_eq!(store.list(&AuditFilter::default()).await.unwrap()[0].0, 9);

    let scope = IdempotencyScope {
        caller: "laptop".into(),
        originator: "laptop".into(),
        operation: "fs/write".into(),
        key: "k1".into(),
    };
    let begun = store
        .begin(&scope, [0x44; 32], 1, Timestamp(1_790_000_000_000))
        .await
        .unwrap();
    assert_eq!(begun, Begin::Done(b"{\"ok\":true}".to_vec()));
    assert_eq!(
        store.catalogue("nas").await.unwrap(),
        Some(("r1".to_owned(), b"[]".to_vec()))
    );
}

/// However old the file was: afterwards it has the schema of a new one.
#[tokio::test]
async fn a_file_of_format_1_ends_up_with_the_newest_schema() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("alknet.db");
    format_1(&path);
    let old = Store::open(&path).unwrap();
    let (_new_dir, new) = store();
    assert_eq!(schema_of(&old).await, schema_of(&new).await);
}
