//! Nothing acknowledged is lost when the process is killed.

use crate::{
    random,
    support::{self, Ledger, scope},
};
use alknet_core::storage::{Begin, IdempotencyStore, Timestamp};
use alknet_store::Store;
use std::{
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

#[test]
fn slow_a_kill_at_any_moment_loses_nothing_acknowledged() {
    if let Ok(order) = env::var(CHILD) {
        let (round, dir) = order.split_once(':').unwrap();
        return write_until_killed(Path::new(dir), round.parse().unwrap());
    }
    let rounds = if support::is_full() { 200 } else { 5 };
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
        let line = support::write_one(&store, n, &format!("{writer}-n{n}")).await;
        log.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

/// Looks for what was acknowledged in this round and all before; returns how
/// much that was.
fn check(dir: &Path, round: usize, kills: &[Duration]) -> usize {
    let store = Store::open(&dir.join("alknet.db")).unwrap();
    let mut ledger = Ledger::default();
    for round in 0..=round {
        // A round that was killed early has no log.
        let log = fs::read_to_string(log_of(dir, round)).unwrap_or_default();
        // Half a line is no acknowledgement.
        let lines = log.split_inclusive('\n');
        lines
            .filter_map(|line| line.strip_suffix('\n'))
            .for_each(|line| ledger.add(line));
    }
    assert!(ledger.len() == 0 || store.unclean_start());
    let missing = ledger.missing_from(store);
    assert!(missing.is_empty(), "{missing:?}, kills {kills:?}");
    ledger.len()
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
