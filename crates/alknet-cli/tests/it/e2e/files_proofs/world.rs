//! Two nodes, of which one has buckets, and processes that are looked at while
//! they run.

use super::super::harness::{Ended, Node, Pair, Running, exec_config, toml};
use rustix::fs::Mode;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Everything with files in the bucket `www`.
pub(super) const ALL: [&str; 4] = [
    "fs:list",
    "fs:read",
    "fs:write",
    "bucket:www/**=list,read,write",
];

/// How long a whole proof may take.
const WHOLE: Duration = Duration::from_secs(1200);

/// Whether proofs run whole, or as samples.
pub(super) fn is_full() -> bool {
    std::env::var_os("ALKNET_TEST_FULL").is_some()
}

/// `laptop`, and `home` with the bucket `www`.
pub(super) struct World {
    pub(super) pair: Pair,
    dir: TempDir,
}

impl World {
    #[track_caller]
    pub(super) fn start() -> Self {
        Self::with(|_| String::new())
    }

    /// With more of a configuration of `home`.
    #[track_caller]
    pub(super) fn with(more: impl FnOnce(&Path) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let more = more(dir.path());
        let bucket = dir.path().join("www");
        fs::create_dir_all(&bucket).unwrap();
        let config = format!(
            "{}{more}\n[[bucket]]\nname = \"www\"\npath = {}\n",
            exec_config(),
            toml(&bucket)
        );
        let home = Node::start("home", &config);
        Self::of(home, dir)
    }

    /// With a `home` that runs.
    #[track_caller]
    pub(super) fn of(home: Node, dir: TempDir) -> Self {
        let laptop = Node::start("laptop", exec_config());
        let pair = Pair { home, laptop };
        pair.join();
        let world = Self { pair, dir };
        world.grant(&ALL);
        world
    }

    #[track_caller]
    pub(super) fn grant(&self, targets: &[&str]) {
        let words = [&["grant", "laptop"], targets].concat();
        self.pair.home.cli(&words).exits(0);
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A file in the bucket.
    pub(super) fn www(&self, name: &str) -> PathBuf {
        self.path("www").join(name)
    }

    /// Makes a directory, and those above it.
    pub(super) fn make(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// Many calls of the laptop at `home`, one process for all: an answer each,
    /// `output` or `error`.
    #[track_caller]
    pub(super) fn calls(&self, calls: &[(&str, Value)]) -> Vec<Value> {
        let lines: String = calls
            .iter()
            .map(|(operation, input)| {
                let call =
                    serde_json::json!({"operation": operation, "input": input, "on": "home"});
                format!("{call}\n")
            })
            .collect();
        let said = self.pair.laptop.feed(&["batch", "-"], lines.as_bytes());
        let answers: Vec<Value> = said
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(answers.len(), calls.len(), "{}", said.stderr);
        answers
    }
}

/// Waits for the end of a command; how it ended, and the most memory in KiB
/// that it had as far as it was looked at.
#[track_caller]
pub(super) fn to_the_end(running: &mut Running) -> (Ended, u64) {
    let peak = peak_until_end(&mut running.child);
    (running.code(), peak)
}

#[track_caller]
fn peak_until_end(child: &mut Child) -> u64 {
    let started = Instant::now();
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak = peak.max(kib.unwrap_or(0));
        assert!(started.elapsed() < WHOLE, "not within {WHOLE:?}");
        thread::sleep(Duration::from_millis(20));
    }
    peak
}

/// Kills a command as nothing else would.
#[track_caller]
pub(super) fn kill(mut running: Running) {
    running.child.kill().unwrap();
    running.child.wait().unwrap();
}

/// The line with the sums of a copy.
#[track_caller]
pub(super) fn summary(stdout: &str) -> Value {
    let last: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    last["summary"].clone()
}

/// Looks all the time at what has a name, while something is done: the sizes that
/// it was seen with, none while it is not there.
pub(super) fn sizes_seen<T>(path: &Path, act: impl FnOnce() -> T) -> (Vec<u64>, T) {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut sizes = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                if let Ok(meta) = fs::symlink_metadata(path)
                    && sizes.last() != Some(&meta.len())
                {
                    sizes.push(meta.len());
                }
                thread::sleep(Duration::from_micros(200));
            }
            sizes
        });
        let out = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        is_over.store(true, Ordering::Relaxed);
        let sizes = watching.join().unwrap();
        match out {
            Ok(out) => (sizes, out),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Makes a pipe.
pub(super) fn pipe(path: &Path) {
    rustix::fs::mkfifoat(rustix::fs::CWD, path, Mode::from_raw_mode(0o666)).unwrap();
}

/// A judge from outside: `diff` finds no difference.
#[track_caller]
pub(super) fn assert_diff_agrees(one: &Path, other: &Path) {
    let said = Command::new("diff")
        .args(["-r", "--no-dereference", "-x", ".alknet-part-*"])
        .args([one, other])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success(), "{told}");
}

/// A random order that is the same each time.
pub(super) struct Dice(blake3::OutputReader);

impl Dice {
    pub(super) fn new(seed: &str) -> Self {
        Self(blake3::Hasher::new().update(seed.as_bytes()).finalize_xof())
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes) % end
    }

    pub(super) fn bytes(&mut self, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        self.0.fill(&mut bytes);
        bytes
    }
}

/// Whether any of these bytes hold this text.
pub(super) fn holds(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}
