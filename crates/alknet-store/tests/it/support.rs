//! Writes that are acknowledged, and a look at what is left of them.

use alknet_core::{
    AuditRow, PeerId,
    storage::{
        AuditFilter, AuditLog, IdempotencyScope, IdempotencyStore, IdentityChange, IdentityStore,
        NodeKey, PeerRecord, Timestamp,
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
    let kind = match n % 3 {
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
    let sql = "INSERT INTO audit (at, call_id, caller, surface, operation, outcome, duration_us, bytes_in, bytes_out)
        VALUES (0, ?1, 'owner', 'local', 'test/append', 'ok', 0, 0, 0)";
    connection.execute(sql, [id]).unwrap();
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
            let peers = store.load().await.unwrap().peers;
            let peers: BTreeSet<String> =
                peers.into_iter().map(|peer| peer.id.to_string()).collect();
            let added = call_ids(&store, "peers/add").await;
            let without = |those: &BTreeSet<String>, others: &BTreeSet<String>, what: &str| {
                let those = those.difference(others);
                those.map(|id| format!("{what} {id}")).collect::<Vec<_>>()
            };
            let rowless = without(&peers, &added, "a peer without its audit row:");
            found.extend(rowless);
            found.extend(without(&added, &peers, "an audit row without its peer:"));
            self.missing("peer", &peers, &mut found);
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
    let keys = store.read(|c| {
        let sql = "SELECT key FROM idempotency WHERE CAST(outcome AS TEXT) = key
            AND caller = 'ada' AND originator = 'ada' AND operation = 'a/b'";
        let mut statement = c.prepare(sql).unwrap();
        let keys = statement.query_map([], |row| row.get(0)).unwrap();
        Ok::<_, JobError>(keys.map(Result::unwrap).collect::<BTreeSet<String>>())
    });
    keys.await.unwrap()
}
