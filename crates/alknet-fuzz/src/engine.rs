//! The loop: mutates, executes, keeps what is new, and stops at a finding.

use crate::{
    Target,
    mutate::mutate,
    notes,
    rng::Rng,
    run::{execute, save_input, starting_corpus},
};
use std::{
    collections::HashSet,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

/// Inputs with something new that one thread keeps.
const KEPT_MAX: usize = 4096;
/// Executions spent on making a finding smaller.
const SHRINKS_MAX: usize = 4096;
/// How often the threads are looked at.
const WATCH: Duration = Duration::from_millis(20);

/// How a target is fuzzed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Time for each target; without it, or `executions`, one second.
    pub time: Option<Duration>,
    /// Executions of each target, all threads together.
    pub executions: Option<u64>,
    /// The same seed, threads and executions make the same inputs.
    pub seed: u64,
    /// Threads; each has a sequence of its own.
    pub threads: usize,
    /// An execution that takes so long hangs.
    pub hang: Duration,
    /// A folder of folders of inputs, one for each target.
    pub corpus: PathBuf,
    /// Writes each input to this file before it is run: for the one that
    /// takes the whole process down.
    pub record: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            time: None,
            executions: None,
            seed: 1,
            threads: 1,
            hang: Duration::from_secs(20),
            corpus: crate::CORPUS.into(),
            record: None,
        }
    }
}

/// What an input broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FindingKind {
    /// A panic, with its words and place.
    Panic(String),
    /// More memory was held at once than the target may take.
    Memory {
        /// Bytes held.
        held: usize,
    },
    /// It did not end in time.
    Hang,
}

/// An input that breaks a promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it breaks.
    pub kind: FindingKind,
    /// The input, made smaller where that was possible.
    pub input: Vec<u8>,
}

impl Finding {
    /// Writes the input to `folder/target-hash.bin`.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn save(&self, target: &Target, folder: &Path) -> io::Result<PathBuf> {
        save_input(target, &self.input, folder)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            FindingKind::Panic(message) => f.write_str(message),
            FindingKind::Memory { held } => write!(
                f,
                "held {held} bytes at once for an input of {} bytes",
                self.input.len()
            ),
            FindingKind::Hang => f.write_str("does not end"),
        }
    }
}

/// What became of fuzzing one target.
#[derive(Clone, Debug)]
pub struct Report {
    /// Executions, the starting corpus included.
    pub executions: u64,
    /// Time taken.
    pub elapsed: Duration,
    /// The longest execution.
    pub slowest: Duration,
    /// Inputs started from, and inputs kept for something new in them.
    pub corpus: (usize, usize),
    /// The first finding; it ends the run.
    pub finding: Option<Finding>,
}

/// What the threads of one run share.
struct Shared {
    target: Target,
    options: Options,
    inputs: Vec<Vec<u8>>,
    stop: AtomicBool,
    finding: Mutex<Option<Finding>>,
    slots: Vec<Slot>,
}

/// What one thread does right now.
#[derive(Default)]
struct Slot {
    executions: AtomicU64,
    is_done: AtomicBool,
    input: Mutex<Vec<u8>>,
}

/// What one thread has done.
struct Done {
    kept: usize,
    slowest: Duration,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fuzzes one target until the time or the executions are used up, or
/// something is found.
///
/// A thread that hangs cannot be stopped: after such a finding it goes on
/// until the process ends.
///
/// # Errors
///
/// If the corpus cannot be read.
pub fn fuzz(target: &Target, options: &Options) -> io::Result<Report> {
    let began = Instant::now();
    let threads = options.threads.max(1);
    let shared = Arc::new(Shared {
        target: *target,
        options: options.clone(),
        inputs: starting_corpus(target, &options.corpus)?,
        stop: AtomicBool::new(false),
        finding: Mutex::new(None),
        slots: (0..threads).map(|_| Slot::default()).collect(),
    });
    let (done_tx, done_rx) = mpsc::channel();
    for index in 0..threads {
        let (shared, done_tx) = (shared.clone(), done_tx.clone());
        let work = move || {
            let done = Worker::new(&shared, index).work();
            // Nobody listens once something hangs.
            let _ = done_tx.send(done);
        };
        thread::Builder::new()
            .name(format!("fuzz-{}-{index}", target.name))
            .spawn(work)?;
    }
    drop(done_tx);
    let (kept, slowest) = watch(&shared, began, &done_rx);
    let executions = shared
        .slots
        .iter()
        .map(|slot| slot.executions.load(Ordering::Relaxed));
    let executions = executions.sum();
    let mut finding = lock(&shared.finding).take();
    if let Some(finding) = &mut finding
        && finding.kind != FindingKind::Hang
    {
        shrink(target, finding);
    }
    Ok(Report {
        executions,
        elapsed: began.elapsed(),
        slowest,
        corpus: (shared.inputs.len(), kept),
        finding,
    })
}

/// Waits for the threads, ends them in time, and notices those that hang.
fn watch(shared: &Shared, began: Instant, done: &mpsc::Receiver<Done>) -> (usize, Duration) {
    let (mut kept, mut slowest) = (0, Duration::ZERO);
    let mut seen: Vec<(u64, Instant)> = vec![(u64::MAX, began); shared.slots.len()];
    loop {
        match done.recv_timeout(WATCH) {
            Ok(done) => {
                kept += done.kept;
                slowest = slowest.max(done.slowest);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return (kept, slowest),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if shared.is_over(began) {
            shared.stop.store(true, Ordering::Relaxed);
        }
        for (slot, (last, since)) in shared.slots.iter().zip(&mut seen) {
            let executions = slot.executions.load(Ordering::Relaxed);
            if executions != *last {
                (*last, *since) = (executions, Instant::now());
            } else if since.elapsed() > shared.options.hang && !slot.is_done.load(Ordering::Relaxed)
            {
                let input = lock(&slot.input).clone();
                let kind = FindingKind::Hang;
                lock(&shared.finding).get_or_insert(Finding { kind, input });
                shared.stop.store(true, Ordering::Relaxed);
                return (kept, slowest.max(since.elapsed()));
            }
        }
    }
}

impl Shared {
    fn is_over(&self, began: Instant) -> bool {
        let default = self
            .options
            .executions
            .is_none()
            .then_some(Duration::from_secs(1));
        let time = self.options.time.or(default);
        time.is_some_and(|time| began.elapsed() >= time)
    }

    /// Executions of one thread.
    fn share(&self, index: usize) -> u64 {
        let threads = self.slots.len() as u64;
        let all = self.options.executions.unwrap_or(u64::MAX);
        all / threads + u64::from((index as u64) < all % threads)
    }
}

/// One thread.
struct Worker<'a> {
    shared: &'a Shared,
    slot: &'a Slot,
    index: usize,
    rng: Rng,
    budget: u64,
    executions: u64,
    seen: HashSet<u64>,
    kept: Vec<Vec<u8>>,
    slowest: Duration,
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared, index: usize) -> Self {
        let name = shared.target.name.bytes();
        let name = name.fold(0u64, |hash, byte| hash.wrapping_mul(31) ^ u64::from(byte));
        let seed = shared.options.seed ^ name.rotate_left(17) ^ ((index as u64) << 48);
        Self {
            shared,
            slot: &shared.slots[index],
            index,
            rng: Rng::new(seed),
            budget: shared.share(index),
            executions: 0,
            seen: HashSet::new(),
            kept: Vec::new(),
            slowest: Duration::ZERO,
        }
    }

    fn work(mut self) -> Done {
        let shared = self.shared;
        // What is given always runs, however little time there is, each on one
        // of the threads.
        for input in shared
            .inputs
            .iter()
            .skip(self.index)
            .step_by(shared.slots.len())
        {
            if shared.stop.load(Ordering::Relaxed) && lock(&shared.finding).is_some() {
                break;
            }
            self.run(input);
        }
        let mut input = Vec::new();
        while !shared.stop.load(Ordering::Relaxed) && self.executions < self.budget {
            self.make(&mut input);
            self.run(&input);
        }
        self.slot.is_done.store(true, Ordering::Relaxed);
        Done {
            kept: self.kept.len(),
            slowest: self.slowest,
        }
    }

    /// Makes the next input: mostly of what was new lately.
    fn make(&mut self, input: &mut Vec<u8>) {
        let (base, other) = (self.choose(), self.choose());
        let Target {
            tokens, bytes_max, ..
        } = self.shared.target;
        let base = of_both(&self.shared.inputs, &self.kept, base);
        let other = of_both(&self.shared.inputs, &self.kept, other);
        mutate(&mut self.rng, base, other, tokens, bytes_max, input);
    }

    fn choose(&mut self) -> usize {
        let (given, kept) = (self.shared.inputs.len(), self.kept.len());
        if self.rng.one_in(64) {
            // From nothing.
            usize::MAX
        } else if kept > 0 && self.rng.one_in(2) {
            let young = kept.min(32);
            let back = match self.rng.one_in(2) {
                true => self.rng.below(young),
                false => self.rng.below(kept),
            };
            given + kept - 1 - back
        } else {
            self.rng.below(given)
        }
    }

    fn run(&mut self, input: &[u8]) {
        {
            let mut shown = lock(&self.slot.input);
            shown.clear();
            shown.extend_from_slice(input);
        }
        if let Some(path) = &self.shared.options.record {
            // Whoever asks for this wants the file of a process that died.
            let _ = fs::write(path, input);
        }
        let began = Instant::now();
        let ended = execute(&self.shared.target, input);
        self.slowest = self.slowest.max(began.elapsed());
        self.executions += 1;
        self.slot
            .executions
            .store(self.executions, Ordering::Relaxed);
        let mut is_new = false;
        notes::take(|note| is_new |= self.seen.insert(note));
        if let Err(kind) = ended {
            let input = input.to_vec();
            lock(&self.shared.finding).get_or_insert(Finding { kind, input });
            self.shared.stop.store(true, Ordering::Relaxed);
        } else if is_new && self.kept.len() < KEPT_MAX {
            self.kept.push(input.to_vec());
        }
    }
}

/// The input with this index; an empty one beyond the last.
fn of_both<'a>(given: &'a [Vec<u8>], kept: &'a [Vec<u8>], index: usize) -> &'a [u8] {
    let found = match index.checked_sub(given.len()) {
        None => given.get(index),
        Some(index) => kept.get(index),
    };
    found.map_or(&[], Vec::as_slice)
}

/// Takes parts of the input away for as long as it still breaks something of
/// the same kind.
fn shrink(target: &Target, finding: &mut Finding) {
    let mut left = SHRINKS_MAX;
    let mut part = finding.input.len().div_ceil(2);
    while part > 0 {
        let mut at = 0;
        while at < finding.input.len() && left > 0 {
            left -= 1;
            let mut shorter = finding.input.clone();
            shorter.drain(at..(at + part).min(shorter.len()));
            match execute(target, &shorter) {
                Err(kind)
                    if std::mem::discriminant(&kind) == std::mem::discriminant(&finding.kind) =>
                {
                    *finding = Finding {
                        kind,
                        input: shorter,
                    };
                }
                _ => at += part,
            }
        }
        if left == 0 {
            break;
        }
        part /= 2;
    }
    notes::take(drop);
}
