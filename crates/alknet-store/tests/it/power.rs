//! Nothing acknowledged is lost with the power: what was not synced is dropped,
//! or a part of it kept, at thousands of moments of one run.

use crate::support::{self, Ledger, skip};
use alknet_store::{JobError, OpenOptions, Store};
use alknet_testkit::power::{self, Disk, Seeded, Step, Trace, Unsynced, What};
use std::{
    collections::BTreeSet,
    env,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

const CHILD: &str = "ALKNET_STORE_TEST_POWER_CHILD";
const NAME: &str = "slow_power_may_be_lost_at_any_moment";
/// Pages of SQLite's log after which it is moved into the database: a few, so
/// that one run goes through it many times.
const CHECKPOINT_PAGES: u32 = 48;

/// The store, and the mistakes that the test must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sound,
    /// Does not wait for the disk.
    SynchronousOff,
    /// Answers before the commit.
    EarlyReply,
    /// Writes the audit row in a transaction after that of the change.
    RowApart,
    /// Writes the event in a transaction after that of the change.
    EventApart,
}

impl Kind {
    fn parse(text: &str) -> Self {
        let all = [
            Self::Sound,
            Self::SynchronousOff,
            Self::EarlyReply,
            Self::RowApart,
            Self::EventApart,
        ];
        all.into_iter()
            .find(|kind| format!("{kind:?}") == text)
            .unwrap()
    }
}

/// Slow: 240 moments, 6,000 in `./test full`.
#[test]
fn slow_power_may_be_lost_at_any_moment() {
    if let Ok(order) = env::var(CHILD) {
        let (kind, dir) = order.split_once(':').unwrap();
        return work(Kind::parse(kind), Path::new(dir));
    }
    let seed = support::seed();
    let moments = if support::is_full() { 6_000 } else { 240 };
    let Some(run) = Run::record(Kind::Sound, if moments > 240 { 240 } else { 24 }) else {
        return;
    };
    // Else it shows nothing about checkpoints.
    assert!(run.moves() > 3, "{} checkpoints", run.moves());
    let found = run.losses(run.trace.steps(), seed, moments);
    assert!(found.is_empty(), "seed {seed}: {found:#?}");
}

#[test]
fn slow_a_store_that_does_not_wait_for_the_disk_is_found_out() {
    must_be_found_out(Kind::SynchronousOff, "is lost");
}

#[test]
fn slow_a_store_that_answers_before_the_commit_is_found_out() {
    must_be_found_out(Kind::EarlyReply, "is lost");
}

#[test]
fn slow_a_store_with_the_audit_row_in_a_transaction_of_its_own_is_found_out() {
    must_be_found_out(Kind::RowApart, "without its audit row");
}

#[test]
fn slow_a_store_with_the_event_in_a_transaction_of_its_own_is_found_out() {
    must_be_found_out(Kind::EventApart, "without its event");
}

#[test]
fn slow_a_store_whose_directory_is_never_synced_is_found_out() {
    let Some(run) = Run::record(Kind::Sound, 4) else {
        return;
    };
    // The same run without what it did for its directory.
    let steps: Vec<Step> = run.trace.steps().to_vec();
    let is_kept = |step: &Step| !matches!(&step.what, What::SyncBegins { path, .. } if path.as_os_str().is_empty());
    let steps: Vec<Step> = steps.into_iter().filter(is_kept).collect();
    let found = run.losses(&steps, support::seed(), 40);
    assert!(
        found.iter().any(|loss| loss.contains("is lost")),
        "{found:#?}"
    );
}

#[track_caller]
fn must_be_found_out(kind: Kind, how: &str) {
    let Some(run) = Run::record(kind, 8) else {
        return;
    };
    let found = run.losses(run.trace.steps(), support::seed(), 80);
    assert!(found.iter().any(|loss| loss.contains(how)), "{found:#?}");
}

/// The traced run of a store.
struct Run {
    trace: Trace,
    _dir: tempfile::TempDir,
}

impl Run {
    /// Runs a child under strace; `None` where that is not possible.
    fn record(kind: Kind, writes: usize) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir(root.join("data")).unwrap();
        let out = root.join("trace");
        let mut traced = power::command(&out, &[], env::current_exe().unwrap().as_os_str());
        traced
            .args([&format!("power::{NAME}"), "--exact", "--nocapture"])
            .env(CHILD, format!("{kind:?}:{}", root.display()))
            .env("ALKNET_STORE_TEST_WRITES", writes.to_string())
            .stdin(Stdio::null());
        let child = match traced.output() {
            Ok(child) => child,
            Err(error) => return skip(NAME, &format!("strace cannot be run: {error}")),
        };
        let said = String::from_utf8_lossy(&child.stderr);
        if said.contains("PTRACE") && said.contains("not permitted") {
            return skip(NAME, "tracing is not permitted here");
        }
        assert!(child.status.success(), "{said}");
        let text = fs::read_to_string(out).unwrap();
        let trace = Trace::read(&text, &root.join("data"), &root.join("marks")).unwrap();
        Some(Self { trace, _dir: dir })
    }

    /// How often SQLite moved its log into the database.
    fn moves(&self) -> usize {
        let database = Path::new("alknet.db");
        let steps = self.trace.steps().iter();
        steps
            .filter(|step| matches!(&step.what, What::SyncBegins { path, .. } if path == database))
            .count()
    }

    /// What is missing after power was lost at `moments` of the steps, each
    /// time once with everything lost that was not synced, and once with a
    /// part of it.
    fn losses(&self, steps: &[Step], seed: u64, moments: usize) -> Vec<String> {
        let moments = chosen(steps, seed, moments);
        let mut disk = Disk::new(seed);
        let mut ledger = Ledger::default();
        let mut found = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            disk.play(step);
            if let What::Mark(line) = &step.what {
                ledger.add(line);
            }
            if !moments.contains(&index) {
                continue;
            }
            let part = Unsynced::Part(seed ^ index as u64);
            for unsynced in [Unsynced::Lost, part] {
                let losses = after_the_loss(&disk, unsynced, &ledger);
                let told = losses
                    .into_iter()
                    .map(|loss| format!("{loss}, after step {index}, {unsynced:?}"));
                found.extend(told);
            }
            // One finding is enough; a few say more.
            if found.len() > 8 {
                break;
            }
        }
        found
    }
}

/// Moments worth a look: when something was acknowledged or synced, and as many
/// in between.
fn chosen(steps: &[Step], seed: u64, moments: usize) -> BTreeSet<usize> {
    let telling = |step: &Step| matches!(step.what, What::Mark(_) | What::SyncEnds { .. });
    let mut telling: Vec<usize> = (0..steps.len())
        .filter(|index| telling(&steps[*index]))
        .collect();
    let mut random = Seeded::new(seed);
    let mut chosen = BTreeSet::from([steps.len() - 1]);
    while chosen.len() < moments.min(steps.len()) {
        if random.coin() && !telling.is_empty() {
            let one = random.below(telling.len() as u64) as usize;
            chosen.insert(telling.swap_remove(one));
        } else {
            chosen.insert(random.below(steps.len() as u64) as usize);
        }
    }
    chosen
}

fn after_the_loss(disk: &Disk, unsynced: Unsynced, ledger: &Ledger) -> Vec<String> {
    // Files in memory: nothing waits for a disk here.
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    let dir = dir.unwrap();
    disk.lay_out(unsynced, dir.path()).unwrap();
    let path = dir.path().join("alknet.db");
    match Store::open(&path) {
        Ok(store) => ledger.missing_from(store),
        Err(error) => {
            let mut told = format!("it does not open: {error}");
            let mut next = std::error::Error::source(&error);
            while let Some(cause) = next {
                told = format!("{told}: {cause}");
                next = cause.source();
            }
            vec![told]
        }
    }
}

/// What the child does: eight writers that mark what was acknowledged.
fn work(kind: Kind, dir: &Path) {
    let writes: u64 = env::var("ALKNET_STORE_TEST_WRITES")
        .unwrap()
        .parse()
        .unwrap();
    let options = OpenOptions {
        synchronous_off: kind == Kind::SynchronousOff,
    };
    let marks = Arc::new(File::create(dir.join("marks")).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = Store::open_with(&path_in(dir), options).unwrap();
        let set = store.write(|connection| {
            let set = connection.pragma_update_and_check(
                None,
                "wal_autocheckpoint",
                CHECKPOINT_PAGES,
                |_| Ok(()),
            );
            set.unwrap();
            Ok::<_, JobError>(())
        });
        set.await.unwrap();
        store.mark_running().await.unwrap();
        let writers = (0..8).map(|writer| {
            let (store, marks) = (store.clone(), marks.clone());
            tokio::spawn(async move {
                for n in 0..writes {
                    let id = format!("w{writer}-n{n}");
                    match kind {
                        Kind::EarlyReply => early(&store, &marks, &id).await,
                        Kind::RowApart | Kind::EventApart => {
                            mark(&marks, &apart(&store, kind, &id).await);
                        }
                        Kind::Sound | Kind::SynchronousOff => {
                            mark(&marks, &support::write_one(&store, n, &id).await);
                        }
                    }
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        // Closing syncs, and what it finds is what was acknowledged: the end
        // is a loss of power as well.
        std::mem::forget(store);
    });
}

fn path_in(dir: &Path) -> PathBuf {
    dir.join("data/alknet.db")
}

/// One call of the system for each line, so that its place is clear.
fn mark(mut marks: &File, line: &str) {
    marks.write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// Acknowledges while the transaction is still open.
async fn early(store: &Store, marks: &Arc<File>, id: &str) {
    let (marks, id) = (marks.clone(), id.to_owned());
    let written = store.write(move |connection| {
        support::insert_row(connection, &id);
        mark(&marks, &format!("row {id}"));
        Ok::<_, JobError>(())
    });
    written.await.unwrap();
}

/// Adds a peer, and then what belongs to it.
async fn apart(store: &Store, kind: Kind, id: &str) -> String {
    let peer = id.to_owned();
    let written = store.write(move |connection| {
        support::insert_peer(connection, &peer);
        match kind {
            Kind::EventApart => support::insert_peer_row(connection, &peer),
            _ => support::insert_peer_event(connection, &peer),
        }
        Ok::<_, JobError>(())
    });
    written.await.unwrap();
    match kind {
        Kind::EventApart => support::tell_of_peer(store, id).await,
        _ => support::append(store, "peers/add", id).await,
    }
    format!("peer {id}")
}
