//! What runs across a change of the network, and notices whatever is lost,
//! repeated or changed: a program fed and read, a subscription that counts,
//! and a channel full of bytes.

use super::{
    ScenarioError,
    program::{Seat, error_code, wait},
};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Time between two lines of the workloads that count.
const LINE_EVERY: Duration = Duration::from_millis(20);
/// Bytes that the bulk workload writes at a time.
const CHUNK_BYTES: usize = 16 * 1024;
/// As fast as it goes.
pub(super) const UNPACED: u64 = u64::MAX;
/// What the counting program exits with when all went well: not a code that a
/// failing `alknet` exits with.
const FINE: i32 = 7;
/// How long a command may take to end after its output has.
const ENDING_MAX: Duration = Duration::from_secs(20);

/// The operation that a node must have for the subscription.
pub(super) const OPERATION: &str = "scenario/count";

/// Its configuration. The files say when it pauses and when it ends.
pub(super) fn operation(stop: &std::path::Path, pause: &std::path::Path) -> String {
    let script = "n=0; until [ -e \"$0\" ]; do \
                  if [ ! -e \"$1\" ]; then n=$((n+1)); echo $n; fi; sleep 0.02; \
                  done; echo \"end $n\"";
    let command = serde_json::json!(["sh", "-c", script, stop, pause]);
    format!(
        "[[operation]]\nname = \"{OPERATION}\"\nsummary = \"Counts.\"\noutput = \"lines\"\n\
         command = {command}\n"
    )
}

/// How a workload ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// To its end, nothing missing and nothing twice: lines, or bytes.
    Survived(u64),
    /// With the error `LOST`, after an unbroken beginning.
    Lost {
        /// How long after the change it was told.
        after: Duration,
    },
    /// In any other way, which is a defect.
    Broken(String),
}

/// What the threads of a workload share.
#[derive(Debug)]
struct Shared {
    /// Lines or bytes that came back in order.
    progress: AtomicU64,
    /// Lines or bytes that were sent.
    sent: AtomicU64,
    /// Nothing new is sent.
    is_paused: AtomicBool,
    /// No more is sent than this.
    is_finishing: AtomicBool,
    /// Bytes a second.
    pace: AtomicU64,
    child: Mutex<Child>,
    ended: Mutex<Option<(Instant, Ended)>>,
}

#[derive(Clone, Debug)]
enum Ended {
    Survived(u64),
    Lost,
    Broken(String),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A workload that runs; killed when dropped.
pub(super) struct Workload {
    pub(super) name: &'static str,
    shared: Arc<Shared>,
    files: Option<(PathBuf, PathBuf)>,
    reading: Option<JoinHandle<()>>,
}

impl Workload {
    /// A program on `on` that answers every line with a count of its own.
    pub(super) fn exec(caller: &Seat, on: &str) -> Result<Self, ScenarioError> {
        let script = "i=0; while read -r n; do i=$((i+1)); echo \"$n $i\"; done; \
                      echo \"read $i\" >&2; exit 7";
        let words = ["exec", "--json", on, "--", "sh", "-c", script];
        let (shared, stdin, stdout) = spawn(caller, &words)?;
        if let Some(stdin) = stdin {
            let shared = shared.clone();
            thread::spawn(move || count_into(&shared, stdin));
        }
        Self::reading("exec", shared, None, move |shared| {
            let cut = in_order(stdout, |line, n| line == format!("{n} {n}"), shared);
            ending(shared, cut, |code, stderr| {
                let sent = shared.sent.load(Ordering::Acquire);
                let came = shared.progress.load(Ordering::Acquire);
                if code != Some(FINE) || stderr.trim() != format!("read {sent}") {
                    return Err(format!("exit {code:?}, said `{}`", stderr.trim()));
                }
                (came == sent)
                    .then_some(sent)
                    .ok_or_else(|| format!("{came} of {sent} lines came back"))
            })
        })
    }

    /// A subscription to [`OPERATION`] on `on`, whose files are these.
    pub(super) fn subscription(
        caller: &Seat,
        on: &str,
        stop: PathBuf,
        pause: PathBuf,
    ) -> Result<Self, ScenarioError> {
        let (shared, _, stdout) = spawn(caller, &["call", "--json", OPERATION, "--on", on])?;
        let files = Some((stop, pause));
        Self::reading("subscription", shared, files, move |shared| {
            let told = Mutex::new(None);
            let cut = in_order(
                stdout,
                |line, n| {
                    let line = line.trim_matches('"');
                    if let Some(end) = line.strip_prefix("end ") {
                        // What it says of its end is no line of its own.
                        *lock(&told) = end.parse::<u64>().ok();
                        return end.parse() == Ok(n - 1);
                    }
                    lock(&told).is_none() && line.parse() == Ok(n)
                },
                shared,
            );
            let told = *lock(&told);
            ending(shared, cut, |code, stderr| {
                // The last line counted itself.
                let came = shared.progress.load(Ordering::Acquire).saturating_sub(1);
                match (code, told) {
                    (Some(0), Some(count)) if count == came => Ok(count),
                    _ => Err(format!(
                        "exit {code:?}, {came} items, its end is {told:?}, said `{}`",
                        stderr.trim()
                    )),
                }
            })
        })
    }

    /// `bytes` without a pattern through `cat` on `on`, and back.
    pub(super) fn bulk(
        caller: &Seat,
        on: &str,
        bytes: u64,
        pace: u64,
    ) -> Result<Self, ScenarioError> {
        let (shared, stdin, stdout) = spawn(caller, &["exec", "--json", on, "--", "cat"])?;
        shared.pace.store(pace, Ordering::Release);
        if let Some(stdin) = stdin {
            let shared = shared.clone();
            thread::spawn(move || send_noise(&shared, stdin, bytes));
        }
        Self::reading("bulk", shared, None, move |shared| {
            let cut = same_noise(stdout, bytes, shared);
            ending(shared, cut, |code, stderr| {
                let came = shared.progress.load(Ordering::Acquire);
                match code {
                    Some(0) if came == bytes => Ok(bytes),
                    _ => Err(format!(
                        "exit {code:?}, {came} of {bytes} bytes, said `{}`",
                        stderr.trim()
                    )),
                }
            })
        })
    }

    fn reading(
        name: &'static str,
        shared: Arc<Shared>,
        files: Option<(PathBuf, PathBuf)>,
        read: impl FnOnce(&Shared) -> Ended + Send + 'static,
    ) -> Result<Self, ScenarioError> {
        let inside = shared.clone();
        let reading = thread::spawn(move || {
            let ended = read(&inside);
            *lock(&inside.ended) = Some((Instant::now(), ended));
        });
        Ok(Self {
            name,
            shared,
            files,
            reading: Some(reading),
        })
    }

    /// Lines or bytes that came back so far, in order.
    pub(super) fn progress(&self) -> u64 {
        self.shared.progress.load(Ordering::Acquire)
    }

    /// Whether it has ended, in whatever way.
    pub(super) fn has_ended(&self) -> bool {
        lock(&self.shared.ended).is_some()
    }

    /// Sends nothing new, or goes on.
    pub(super) fn pause(&self, pause: bool) -> Result<(), ScenarioError> {
        self.shared.is_paused.store(pause, Ordering::Release);
        let Some((_, file)) = &self.files else {
            return Ok(());
        };
        let done = if pause {
            fs::write(file, "")
        } else {
            fs::remove_file(file)
        };
        done.map_err(|source| ScenarioError::io("pause the subscription", source))
    }

    /// Lets it come to its end as fast as it can.
    pub(super) fn finish(&self) -> Result<(), ScenarioError> {
        self.shared.pace.store(UNPACED, Ordering::Release);
        self.shared.is_finishing.store(true, Ordering::Release);
        let Some((file, _)) = &self.files else {
            return Ok(());
        };
        fs::write(file, "").map_err(|source| ScenarioError::io("end the subscription", source))
    }

    /// How it ended, seen from a change at `changed`; after `most` it is cut,
    /// and that it was silent is what is said.
    pub(super) fn outcome(mut self, changed: Instant, most: Duration) -> Outcome {
        let started = Instant::now();
        while !self.has_ended() && started.elapsed() < most {
            thread::sleep(LINE_EVERY);
        }
        if !self.has_ended() {
            return Outcome::Broken(format!(
                "silent: {} came, {} were sent, no end within {} s",
                self.progress(),
                self.shared.sent.load(Ordering::Acquire),
                most.as_secs()
            ));
        }
        if let Some(reading) = self.reading.take() {
            let _ = reading.join();
        }
        match lock(&self.shared.ended).clone() {
            Some((_, Ended::Survived(amount))) => Outcome::Survived(amount),
            Some((at, Ended::Lost)) => Outcome::Lost {
                after: at.saturating_duration_since(changed),
            },
            Some((_, Ended::Broken(why))) => Outcome::Broken(why),
            None => Outcome::Broken("its reader panicked".into()),
        }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        // It may have ended.
        let _ = lock(&self.shared.child).kill();
        let _ = lock(&self.shared.child).wait();
    }
}

type Streams = (Arc<Shared>, Option<ChildStdin>, Option<ChildStdout>);

fn spawn(caller: &Seat, words: &[&str]) -> Result<Streams, ScenarioError> {
    let mut command = caller.command(words);
    let mut child = command
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|source| ScenarioError::io("start a workload", source))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let shared = Shared {
        progress: AtomicU64::new(0),
        sent: AtomicU64::new(0),
        is_paused: AtomicBool::new(false),
        is_finishing: AtomicBool::new(false),
        pace: AtomicU64::new(UNPACED),
        child: Mutex::new(child),
        ended: Mutex::new(None),
    };
    Ok((Arc::new(shared), stdin, stdout))
}

/// Writes 1, 2, 3, ... a line each, until it is told to finish or the command
/// reads no more.
fn count_into(shared: &Shared, mut stdin: ChildStdin) {
    let mut n = 0;
    while !shared.is_finishing.load(Ordering::Acquire) {
        if !shared.is_paused.load(Ordering::Acquire) {
            if writeln!(stdin, "{}", n + 1).is_err() {
                return;
            }
            n += 1;
            shared.sent.store(n, Ordering::Release);
        }
        thread::sleep(LINE_EVERY);
    }
}

/// Reads lines, each of which must be the right one for its number; what was
/// wrong with the first that was not.
fn in_order(
    stdout: Option<ChildStdout>,
    is_right: impl Fn(&str, u64) -> bool,
    shared: &Shared,
) -> Result<(), String> {
    let mut n = 0;
    for line in stdout
        .into_iter()
        .flat_map(|stdout| BufReader::new(stdout).lines())
    {
        let line = line.map_err(|error| error.to_string())?;
        n += 1;
        if !is_right(&line, n) {
            return Err(format!("line {n} is `{line}`"));
        }
        shared.progress.store(n, Ordering::Release);
    }
    Ok(())
}

/// Writes noise at the pace of the moment.
fn send_noise(shared: &Shared, mut stdin: ChildStdin, bytes: u64) {
    let mut noise = Noise::default();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut left = bytes;
    while left > 0 {
        let pace = shared.pace.load(Ordering::Acquire);
        if shared.is_paused.load(Ordering::Acquire) || pace == 0 {
            thread::sleep(LINE_EVERY);
            continue;
        }
        let len = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        noise.fill(&mut chunk[..len]);
        if stdin.write_all(&chunk[..len]).is_err() {
            return;
        }
        left -= len as u64;
        shared.sent.store(bytes - left, Ordering::Release);
        if pace != UNPACED {
            thread::sleep(Duration::from_secs_f64(len as f64 / pace as f64));
        }
    }
}

/// Reads what must be the same noise; what was wrong with the first byte that
/// was not.
fn same_noise(stdout: Option<ChildStdout>, bytes: u64, shared: &Shared) -> Result<(), String> {
    let Some(mut stdout) = stdout else {
        return Ok(());
    };
    let mut noise = Noise::default();
    let (mut came, mut wanted) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    let mut at = 0;
    loop {
        let len = stdout.read(&mut came).map_err(|error| error.to_string())?;
        if len == 0 {
            return Ok(());
        }
        noise.fill(&mut wanted[..len]);
        if came[..len] != wanted[..len] {
            let wrong = came
                .iter()
                .zip(&wanted)
                .position(|(one, other)| one != other);
            return Err(format!("byte {} differs", at + wrong.unwrap_or(0) as u64));
        }
        at += len as u64;
        if at > bytes {
            return Err(format!("{at} bytes came, {bytes} were to be sent"));
        }
        shared.progress.store(at, Ordering::Release);
    }
}

/// What to make of the end of a command: fine, lost, or anything else. A wrong
/// line or byte counts before all.
fn ending(
    shared: &Shared,
    cut: Result<(), String>,
    fine: impl FnOnce(Option<i32>, &str) -> Result<u64, String>,
) -> Ended {
    if let Err(why) = cut {
        return Ended::Broken(why);
    }
    let mut child = lock(&shared.child);
    let Some(code) = wait(&mut child, ENDING_MAX) else {
        return Ended::Broken("its output ended, the command did not".into());
    };
    let mut stderr = String::new();
    if let Some(mut from) = child.stderr.take() {
        // What can be read of it is what there is.
        let _ = from.read_to_string(&mut stderr);
    }
    // `exec` has exit codes of its own for its failures, `call` says 1.
    if matches!(code, Some(255 | 1)) && error_code(&stderr).as_deref() == Some("LOST") {
        return Ended::Lost;
    }
    match fine(code, &stderr) {
        Ok(amount) => Ended::Survived(amount),
        Err(why) => Ended::Broken(why),
    }
}

/// Bytes in which no repetition, gap or shift goes unnoticed (xorshift64*).
struct Noise {
    state: u64,
    word: [u8; 8],
    /// Bytes of `word` that are used up.
    used: usize,
}

impl Default for Noise {
    fn default() -> Self {
        Self {
            state: 0x9e37_79b9_7f4a_7c15,
            word: [0; 8],
            used: 8,
        }
    }
}

impl Noise {
    fn fill(&mut self, bytes: &mut [u8]) {
        let mut left = bytes;
        while !left.is_empty() {
            if self.used == self.word.len() {
                self.state ^= self.state >> 12;
                self.state ^= self.state << 25;
                self.state ^= self.state >> 27;
                self.word = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
                self.used = 0;
            }
            let len = left.len().min(self.word.len() - self.used);
            let (now, later) = left.split_at_mut(len);
            now.copy_from_slice(&self.word[self.used..self.used + len]);
            self.used += len;
            left = later;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn noise_is_the_same_however_it_is_cut() {
        let mut whole = vec![0; 1000];
        Noise::default().fill(&mut whole);
        let (mut parts, mut noise) = (vec![0; 1000], Noise::default());
        let (mut at, mut len) = (0, 1);
        while at < parts.len() {
            let end = (at + len).min(parts.len());
            noise.fill(&mut parts[at..end]);
            (at, len) = (end, len % 13 + 1);
        }
        assert_eq!(whole, parts);
        assert_ne!(whole[..8], whole[8..16]);
    }

    #[test]
    fn the_operation_is_toml_whose_command_names_the_files() {
        let text = operation("/tmp/a b/stop".as_ref(), "/tmp/pause".as_ref());
        assert!(text.contains("\"/tmp/a b/stop\",\"/tmp/pause\"]"), "{text}");
    }
}
