//! Nothing acknowledged is lost when the process is killed.

use crate::random;
use alknet_core::{
    AuditRow, PeerId,
    storage::{
        AuditFilter, AuditLog, Begin, IdempotencyScope, IdempotencyStore, IdentityChange,
        IdentityStore, NodeKey, PeerRecord, Timestamp,
    },
};
use alknet_store::{JobError, Store};
use std::{
    collections::HashSet,
    env,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

/// Where the child works, and which round it is.
const CHILD: &str = "ALKNET_STORE_TEST_CHILD";
const FULL: &str = "ALKNET_TEST_FULL";

#[test]
fn slow_a_kill_at_any_moment_loses_nothing_acknowledged() {
    if let Ok(order) = env::var(CHILD) {
        let (round, dir) = order.split_once(':').unwrap();
        return write_until_killed(Path::new(dir), round.parse().unwrap());
    }
    let rounds = if env::var(FULL).is_ok_and(|full| full == "1") {
        200
    } else {
        5
    };
    let dir = tempfile::tempdir().unwrap();
    let mut kills = Vec::new();
    let mut found = 0;
    for round in 0..rounds {
        let mut child = spawn(dir.path(), round);
        // Now and then the kill meets the opening; mostly it meets writes.
        if round % 5 != 4 {
            wait_for_an_acknowledgement(dir.path(), round, &mut child);
        }
        let wait = Duration::from_micros(random() % 60_000);
        kills.push(wait);
        thread::sleep(wait);
        child.kill().unwrap();
        child.wait().unwrap();
        found = check(dir.path(), round, &kills);
    }
    assert!(
        found > rounds,
        "only {found} acknowledged writes in {rounds} rounds"
    );
}

fn spawn(dir: &Path, round: usize) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args([
            "crash::slow_a_kill_at_any_moment_loses_nothing_acknowledged",
            "--exact",
            "--nocapture",
        ])
        .env(CHILD, format!("{round}:{}", dir.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command.spawn().unwrap()
}

fn log_of(dir: &Path, round: usize) -> PathBuf {
    dir.join(format!("acknowledged-{round}"))
}

fn wait_for_an_acknowledgement(dir: &Path, round: usize, child: &mut Child) {
    while fs::metadata(log_of(dir, round)).map_or(0, |log| log.len()) == 0 {
        assert!(
            child.try_wait().unwrap().is_none(),
            "the child of round {round} ended by itself"
        );
        thread::sleep(Duration::from_millis(1));
    }
}

/// Eight writers; each notes what it wrote, after the answer.
fn write_until_killed(dir: &Path, round: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = Store::open(&dir.join("alknet.db")).unwrap();
        store.mark_running().await.unwrap();
        let writers = (0..8).map(|writer| {
            let log = File::options()
                .create(true)
                .append(true)
                .open(log_of(dir, round))
                .unwrap();
            tokio::spawn(write_and_note(
                store.clone(),
                log,
                format!("r{round}-w{writer}"),
            ))
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
    });
}

async fn write_and_note(store: Store, mut log: File, writer: String) {
    for n in 0_u64.. {
        let id = format!("{writer}-n{n}");
        let kind = match n % 3 {
            0 => {
                store.append(vec![row("test/append", &id)]).await.unwrap();
                "row"
            }
            1 => {
                let mut peer = PeerRecord::new(PeerId::parse(&id).unwrap(), Timestamp(0));
                peer.node_keys = vec![NodeKey {
                    key: key_of(&id),
                    until: None,
                }];
                store
                    .apply(IdentityChange::AddPeer(peer), row("peers/add", &id))
                    .await
                    .unwrap();
                "peer"
            }
            _ => {
                store
                    .begin(&scope(&id), [0; 32], 1, Timestamp(0))
                    .await
                    .unwrap();
                store
                    .finish(&scope(&id), id.clone().into_bytes())
                    .await
                    .unwrap();
                "call"
            }
        };
        log.write_all(format!("{kind} {id}\n").as_bytes()).unwrap();
    }
}

fn row(operation: &str, id: &str) -> AuditRow {
    AuditRow {
        call_id: id.into(),
        ..AuditRow::event(Timestamp(0), "owner", operation)
    }
}

fn scope(id: &str) -> IdempotencyScope {
    IdempotencyScope {
        caller: "ada".into(),
        originator: "ada".into(),
        operation: "a/b".into(),
        key: id.into(),
    }
}

fn key_of(id: &str) -> [u8; 32] {
    let mut key = [0; 32];
    key[..id.len()].copy_from_slice(id.as_bytes());
    key
}

/// Looks for what was acknowledged in this round and all before; returns how
/// much that was.
fn check(dir: &Path, round: usize, kills: &[Duration]) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = Store::open(&dir.join("alknet.db")).unwrap();
        assert_sound(&store).await;
        let peers = store.load().await.unwrap().peers;
        let peers: HashSet<String> = peers.into_iter().map(|peer| peer.id.to_string()).collect();
        assert_eq!(
            peers,
            call_ids(&store, "peers/add").await,
            "peers and their audit rows, kills {kills:?}"
        );
        let rows = call_ids(&store, "test/append").await;
        let mut found = 0;
        for round in 0..=round {
            // A round that was killed early has no log.
            let log = fs::read_to_string(log_of(dir, round)).unwrap_or_default();
            for line in log
                .split_inclusive('\n')
                .filter_map(|line| line.strip_suffix('\n'))
            {
                let (kind, id) = line.split_once(' ').unwrap();
                let kept = match kind {
                    "row" => rows.contains(id),
                    "peer" => peers.contains(id),
                    _ => is_done(&store, id).await,
                };
                assert!(kept, "{line} was acknowledged and is lost, kills {kills:?}");
                found += 1;
            }
        }
        assert!(found == 0 || store.unclean_start());
        store.close().await;
        found
    })
}

async fn assert_sound(store: &Store) {
    let found = store.read(|c| {
        let integrity: String = c
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        let dangling: i64 = c
            .query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |row| {
                row.get(0)
            })
            .unwrap();
        Ok::<_, JobError>((integrity, dangling))
    });
    assert_eq!(found.await.unwrap(), ("ok".to_owned(), 0));
}

async fn call_ids(store: &Store, operation: &str) -> HashSet<String> {
    let mut ids = HashSet::new();
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

async fn is_done(store: &Store, id: &str) -> bool {
    let id = id.to_owned();
    let outcome = store.read(move |c| {
        let sql = "SELECT outcome FROM idempotency WHERE key = ?1 AND caller = 'ada' AND originator = 'ada'
            AND operation = 'a/b'";
        Ok::<_, JobError>(c.query_row(sql, [&id], |row| row.get::<_, Vec<u8>>(0)).is_ok_and(|found| found == id.as_bytes()))
    });
    outcome.await.unwrap()
}

/// The states of a keyed call across a crash.
#[tokio::test]
async fn a_call_begun_before_a_crash_is_unknown_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("alknet.db");
    let store = Store::open(&path).unwrap();
    store
        .begin(&scope("begun"), [0; 32], 1, Timestamp(0))
        .await
        .unwrap();
    // What a crash leaves behind: the files as they are on the disk now.
    let copy = dir.path().join("copy.db");
    for suffix in ["", "-wal"] {
        let name = |path: &Path| format!("{}{suffix}", path.display());
        fs::copy(name(&path), name(&copy)).unwrap();
    }
    let store = Store::open(&copy).unwrap();
    assert_eq!(
        store
            .begin(&scope("begun"), [0; 32], 2, Timestamp(0))
            .await
            .unwrap(),
        Begin::Unknown
    );
}
