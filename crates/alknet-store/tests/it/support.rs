//! Writes that are acknowledged, and a look at what is left of them.

use alknet_core::{
    ApiKey, ApiKeyProof, AuditRow, CredentialName, Grants, PeerId,
    storage::{
        ApiKeyRecord, AuditFilter, AuditLog, CredentialStore, EventKind, EventLog,
        IdempotencyScope, IdempotencyStore, IdentityChange, IdentityStore, InviteRecord, NewEvent,
        NodeKey, PeerRecord, SealedCredential, Timestamp,
    },
};
use alknet_store::{JobError, Store, rusqlite::Connection};
use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fs::File,
    io::Write,
};

/// Whether whole proofs run.
pub(crate) fn is_full() -> bool {
    env::var("ALKNET_TEST_FULL").is_ok_and(|full| full == "1")
}

/// What decides the moments: `ALKNET_TEST_SEED`, or 1.
pub(crate) fn seed() -> u64 {
    env::var("ALKNET_TEST_SEED").map_or(1, |seed| seed.parse().unwrap())
}

/// A test that cannot run says so where skips are counted.
pub(crate) fn skip<T>(test: &str, reason: &str) -> Option<T> {
    let line = format!("SKIP: alknet-store {test}: {reason}\n");
    match env::var_os("ALKNET_SKIP_LOG") {
        Some(log) => File::options()
            .create(true)
            .append(true)
            .open(log)
            .unwrap()
            .write_all(line.as_bytes())
            .unwrap(),
        #[expect(clippy::print_stderr, reason = "nobody counts skips here")]
        None => eprint!("skipped: {line}"),
    }
    None
}

/// Does the `n`th write, of one kind after the other; what it is called in a
/// [`Ledger`], once it is acknowledged.
pub(crate) async fn write_one(store: &Store, n: u64, id: &str) -> String {
    let kind = match n % 6 {
        0 => {
            append(store, "test/append", id).await;
            "row"
        }
        1 => {
            let peer = peer(id);
            let change = IdentityChange::AddPeer(peer);
            store.apply(change, row("peers/add", id)).await.unwrap();
            "peer"
        }
        2 => {
            let change = IdentityChange::AddInvite(invite(id));
            let made = store.apply(change, row("invites/create", id));
            made.await.unwrap();
            "invite"
        }
        3 => {
            let change = IdentityChange::AddKey {
                key: key(id),
                newcomer: Some(peer(id)),
            };
            store.apply(change, row("keys/create", id)).await.unwrap();
            "key"
        }
        4 => {
            let sealed = SealedCredential {
                name: CredentialName::new("faults", id).unwrap(),
                key_version: 1,
                sealed: id.as_bytes().to_vec(),
                created_at: Timestamp(0),
                updated_at: Timestamp(0),
            };
            let put = store.put_credential(sealed, row("credentials/put", id));
            put.await.unwrap();
            "credential"
        }
        _ => {
            let scope = scope(id);
            let begun = store.begin(&scope, [0; 32], 1, Timestamp(0));
            begun.await.unwrap();
            let finished = store.finish(&scope, id.as_bytes().to_vec());
            finished.await.unwrap();
            "call"
        }
    };
    format!("{kind} {id}")
}

/// Writes one row of the audit log.
pub(crate) async fn append(store: &Store, operation: &str, id: &str) {
    store.append(vec![row(operation, id)]).await.unwrap();
}

/// The same as [`append`] of `test/append`, in a transaction that is open.
pub(crate) fn insert_row(connection: &Connection, id: &str) {
    insert(connection, "test/append", id);
}

/// Writes a peer without anything that belongs to it.
pub(crate) fn insert_peer(connection: &Connection, id: &str) {
    let sql = "INSERT INTO peers (id, display_name, enabled, created_at, addresses)
        VALUES (?1, ?1, 1, 0, '{\"direct\":[],\"relays\":[]}')";
    connection.execute(sql, [id]).unwrap();
}

fn peer(id: &str) -> PeerRecord {
    let mut peer = PeerRecord::new(PeerId::parse(id).unwrap(), Timestamp(0));
    let mut key = [0; 32];
    key[..id.len()].copy_from_slice(id.as_bytes());
    peer.node_keys = vec![NodeKey { key, until: None }];
    peer
}

fn invite(id: &str) -> InviteRecord {
    InviteRecord {
        id: id.into(),
        secret_hash: [7; 32],
        name: None,
        grants: Grants::default(),
        created_at: Timestamp(0),
        expires_at: Timestamp(1),
        access_for_ms: None,
        used_by: None,
        used_key: None,
        revoked: false,
    }
}

/// A key called `id`, whose own id follows from it.
fn key(id: &str) -> ApiKeyRecord {
    let hash = std::hash::BuildHasher::hash_one(
        &std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default(),
        id,
    );
    let [a, b, c, d, e, ..] = hash.to_le_bytes();
    let made = ApiKey::of_random([a, b, c, d, e], &[7; 32]);
    let proof = ApiKeyProof::parse(made.expose()).unwrap();
    ApiKeyRecord {
        id: *proof.id(),
        peer: PeerId::parse(id).unwrap(),
        name: id.into(),
        secret_hash: *proof.secret_hash(),
        grants: None,
        created_at: Timestamp(0),
        expires_at: None,
        last_used_at: None,
    }
}

/// The event of a peer that was added, in a transaction of its own.
pub(crate) async fn tell_of_peer(store: &Store, id: &str) {
    let event = NewEvent::of(EventKind::PEER_ADDED, id, &row("peers/add", id));
    store.append_events(vec![event], Vec::new()).await.unwrap();
}

/// The audit row of a peer that was added, in a transaction that is open.
pub(crate) fn insert_peer_row(connection: &Connection, id: &str) {
    insert(connection, "peers/add", id);
}

/// The event of a peer that was added, in a transaction that is open.
pub(crate) fn insert_peer_event(connection: &Connection, id: &str) {
    let event = NewEvent::of(EventKind::PEER_ADDED, id, &row("peers/add", id));
    alknet_store::events::insert(connection, &event).unwrap();
}

fn insert(connection: &Connection, operation: &str, id: &str) {
    let sql = "INSERT INTO audit (at, call_id, caller, surface, operation, outcome, duration_us, bytes_in, bytes_out)
        VALUES (0, ?1, 'owner', 'local', ?2, 'ok', 0, 0, 0)";
    connection.execute(sql, [id, operation]).unwrap();
}

fn row(operation: &str, id: &str) -> AuditRow {
    AuditRow {
        call_id: id.into(),
        ..AuditRow::event(Timestamp(0), "owner", operation)
    }
}

pub(crate) fn scope(id: &str) -> IdempotencyScope {
    IdempotencyScope {
        caller: "ada".into(),
        originator: "ada".into(),
        operation: "a/b".into(),
        key: id.into(),
    }
}

/// Where changes of a kind are found: their rows, the operations of their audit
/// rows, and their events.
struct Kind {
    name: &'static str,
    rows: &'static str,
    operations: &'static [&'static str],
    events: &'static str,
}

const KINDS: &[Kind] = &[
    Kind {
        name: "peer",
        rows: "SELECT id FROM peers",
        operations: &["peers/add", "keys/create"],
        events: "SELECT json_extract(payload, '$.about') FROM _honker_stream
            WHERE topic = 'alknet' AND key = 'peer/added'",
    },
    Kind {
        name: "invite",
        rows: "SELECT id FROM invites",
        operations: &["invites/create"],
        events: "SELECT json_extract(payload, '$.about') FROM _honker_stream
            WHERE topic = 'alknet' AND key = 'invite/created'",
    },
    Kind {
        name: "key",
        rows: "SELECT name FROM api_keys WHERE length(secret_hash) = 32",
        operations: &["keys/create"],
        events: "SELECT json_extract(payload, '$.details.name') FROM _honker_stream
            WHERE topic = 'alknet' AND key = 'key/created'",
    },
    Kind {
        name: "credential",
        rows: "SELECT account FROM credentials
            WHERE provider = 'faults' AND CAST(sealed AS TEXT) = account",
        operations: &["credentials/put"],
        events: "SELECT substr(json_extract(payload, '$.about'), 8) FROM _honker_stream
            WHERE topic = 'alknet' AND key = 'credential/put'",
    },
];

/// What was acknowledged: lines of a kind and an id.
#[derive(Debug, Default)]
pub(crate) struct Ledger(BTreeMap<String, BTreeSet<String>>);

impl Ledger {
    pub(crate) fn add(&mut self, line: &str) {
        let (kind, id) = line.split_once(' ').unwrap();
        let ids = self.0.entry(kind.to_owned()).or_default();
        ids.insert(id.to_owned());
    }

    pub(crate) fn len(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }

    fn missing(&self, kind: &str, there: &BTreeSet<String>, found: &mut Vec<String>) {
        let ids = self.0.get(kind).into_iter().flatten();
        let lost = ids.filter(|id| !there.contains(*id));
        found.extend(lost.map(|id| format!("{kind} {id} was acknowledged and is lost")));
    }

    /// Looks at everything, and closes the store: what is missing of what was
    /// acknowledged, and what contradicts itself.
    pub(crate) fn missing_from(&self, store: Store) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut found = damages(&store).await;
            for kind in KINDS {
                let there = texts(&store, kind.rows).await;
                self.missing(kind.name, &there, &mut found);
                let mut recorded = BTreeSet::new();
                for operation in kind.operations {
                    recorded.append(&mut call_ids(&store, operation).await);
                }
                let told = texts(&store, kind.events).await;
                let name = kind.name;
                let mut without = |some: &BTreeSet<String>, others: &BTreeSet<String>, what| {
                    let some = some.difference(others);
                    found.extend(some.map(|id| format!("{name} {id} {what}")));
                };
                without(&there, &recorded, "is without its audit row");
                without(&recorded, &there, "is on record and not there");
                without(&there, &told, "is without its event");
                without(&told, &there, "was told of and is not there");
            }
            // What was read back is what opens, too.
            store.load().await.unwrap();
            let rows = call_ids(&store, "test/append").await;
            self.missing("row", &rows, &mut found);
            self.missing("call", &done(&store).await, &mut found);
            store.close().await;
            found
        })
    }
}

async fn damages(store: &Store) -> Vec<String> {
    let looked = store.read(|c| {
        let text = |row: &alknet_store::rusqlite::Row<'_>| row.get::<_, String>(0);
        let integrity = c.query_row("PRAGMA integrity_check", [], text).unwrap();
        let sql = "SELECT count(*) FROM pragma_foreign_key_check";
        let dangling: i64 = c.query_row(sql, [], |row| row.get(0)).unwrap();
        Ok::<_, JobError>((integrity, dangling))
    });
    let (integrity, dangling) = looked.await.unwrap();
    let mut found = Vec::new();
    if integrity != "ok" {
        found.push(format!("damaged: {integrity}"));
    }
    if dangling != 0 {
        found.push(format!("{dangling} references dangle"));
    }
    found
}

async fn call_ids(store: &Store, operation: &str) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    let mut filter = AuditFilter {
        operation: Some(operation.into()),
        limit: Some(1_000),
        ..AuditFilter::default()
    };
    loop {
        let page = store.list(&filter).await.unwrap();
        let Some((oldest, _)) = page.last() else {
            return ids;
        };
        filter.before = Some(*oldest);
        ids.extend(page.into_iter().map(|(_, row)| row.call_id));
    }
}

/// Keys of the calls whose outcome is what [`write_one`] kept.
async fn done(store: &Store) -> BTreeSet<String> {
    let sql = "SELECT key FROM idempotency WHERE CAST(outcome AS TEXT) = key
        AND caller = 'ada' AND originator = 'ada' AND operation = 'a/b'";
    texts(store, sql).await
}

async fn texts(store: &Store, sql: &'static str) -> BTreeSet<String> {
    let texts = store.read(move |c| {
        let mut statement = c.prepare(sql).unwrap();
        let texts = statement.query_map([], |row| row.get(0)).unwrap();
        Ok::<_, JobError>(texts.map(Result::unwrap).collect::<BTreeSet<String>>())
    });
    texts.await.unwrap()
}
