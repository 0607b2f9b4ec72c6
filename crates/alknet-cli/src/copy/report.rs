//! What was copied, skipped and failed: counted, and told.

use super::{
    entry::{Entry, RelPath},
    progress::{Line, Shown, bytes_text},
    trouble::{Problem, Trouble},
};
use crate::{
    failure::Failure, files::text::shown, node_access::FileKind, output::Out, table::one_line,
};
use serde_json::{Value, json};
use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

/// A copy that has not come to its end; says how it goes on if it is dropped.
#[derive(Debug)]
pub(super) struct UnderWay<'a>(Option<&'a Report>);

impl<'a> UnderWay<'a> {
    pub(super) fn new(report: &'a Report) -> Self {
        Self(Some(report))
    }

    pub(super) fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(report) = self.0 {
            report.interrupted();
        }
    }
}

/// Sums of one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) directories: u64,
    pub(super) links: u64,
    /// Files that were there already.
    pub(super) skipped: u64,
    /// Pipes, devices and sockets.
    pub(super) special: u64,
    /// Files without their set-user-id and set-group-id bits.
    pub(super) lost_bits: u64,
    pub(super) failed: u64,
}

/// One entry that needs no more work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done<'a> {
    pub(super) path: &'a str,
    pub(super) kind: FileKind,
    pub(super) bytes: u64,
    /// It ran as somebody else, and its copy does not.
    pub(super) loses_bits: bool,
    /// Its bytes were told as they moved.
    pub(super) is_told: bool,
}

/// Counts and tells; shared by everything that copies.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) out: Out,
    is_verbose: bool,
    is_trial: bool,
    started: Instant,
    state: Mutex<State>,
    /// Bytes that need no more work in this attempt: copied, skipped, failed.
    done_bytes: AtomicU64,
    /// Bytes that went over the wire, in all attempts.
    moved_bytes: AtomicU64,
    /// Bytes of large files that were not copied again.
    resumed_bytes: AtomicU64,
    /// Only with `-T` goes the same command on: its destination is there by now.
    goes_on_with_t: AtomicBool,
    totals: Totals,
    /// Standard output is closed.
    reader_left: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    sums: Sums,
    /// Files that earlier attempts copied, which this one finds.
    earlier: u64,
    /// Files that need no more work in this attempt.
    done_files: u64,
    line: Option<Line>,
}

/// What there is to be copied, as far as it is counted.
#[derive(Debug, Default)]
struct Totals {
    files: AtomicU64,
    bytes: AtomicU64,
    is_known: AtomicBool,
}

impl Report {
    pub(super) fn new(out: Out, is_verbose: bool, is_trial: bool, wants_progress: bool) -> Self {
        let line = Line::new(out, wants_progress);
        Self {
            out,
            is_verbose,
            is_trial,
            started: Instant::now(),
            state: Mutex::new(State {
                line,
                ..State::default()
            }),
            done_bytes: AtomicU64::new(0),
            moved_bytes: AtomicU64::new(0),
            resumed_bytes: AtomicU64::new(0),
            goes_on_with_t: AtomicBool::new(false),
            totals: Totals::default(),
            reader_left: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anybody looks at how far it is.
    pub(super) fn wants_totals(&self) -> bool {
        self.state().line.is_some()
    }

    /// What another count found.
    pub(super) fn counted(&self, files: u64, bytes: u64) {
        self.totals.files.fetch_add(files, Relaxed);
        self.totals.bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn all_counted(&self) {
        self.totals.is_known.store(true, Relaxed);
    }

    /// Bytes of a large file that came or went.
    pub(super) fn moved(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Relaxed);
        self.moved_bytes.fetch_add(bytes, Relaxed);
    }

    /// Bytes of a large file that were there from an earlier attempt.
    pub(super) fn resumed(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Relaxed);
        self.resumed_bytes.fetch_add(bytes, Relaxed);
    }

    /// The copy has a name of its own, which is there from now on.
    pub(super) fn goes_on_with_t(&self) {
        self.goes_on_with_t.store(true, Relaxed);
    }

    /// It ends in the middle, and the person wants it to.
    fn interrupted(&self) {
        let mut state = self.state();
        if let Some(line) = &mut state.line {
            line.clear();
        }
        drop(state);
        if self.goes_on_with_t.load(Relaxed) && !self.out.json {
            self.out.say("hint: the same command with -T goes on");
        }
    }

    /// An entry is there now. Bytes of a large file were told as they moved.
    pub(super) fn copied(&self, entry: &Entry, is_told: bool) {
        self.is_copied(&Done {
            path: entry.path.as_str(),
            kind: entry.kind,
            bytes: entry.bytes,
            loses_bits: entry.loses_bits(),
            is_told,
        });
    }

    /// The same of what somebody else copied.
    pub(super) fn is_copied(&self, done: &Done<'_>) {
        let is_file = done.kind == FileKind::File;
        match is_file && !done.is_told {
            true if self.is_trial => {
                self.done_bytes.fetch_add(done.bytes, Relaxed);
            }
            true => self.moved(done.bytes),
            false => {}
        }
        let mut state = self.state();
        let sums = &mut state.sums;
        match done.kind {
            FileKind::Directory => sums.directories += 1,
            FileKind::Symlink => sums.links += 1,
            _ => {
                sums.files += 1;
                sums.bytes += done.bytes;
                sums.lost_bits += u64::from(done.loses_bits);
                state.done_files += 1;
            }
        }
        if self.out.json {
            let mut line = json!({ "path": done.path, "kind": done.kind, "result": self.result() });
            if is_file {
                line["bytes"] = json!(done.bytes);
            }
            self.json_line(&mut state, &line);
        } else if self.is_trial {
            self.text_line(&mut state, &shown(done.path));
        } else if self.is_verbose {
            self.say(&mut state, &shown(done.path));
        }
        self.redraw(&mut state);
    }

    fn result(&self) -> &'static str {
        match self.is_trial {
            true => "would-copy",
            false => "copied",
        }
    }

    /// An entry is there already.
    pub(super) fn skipped(&self, entry: &Entry) {
        self.was_there(&Done {
            path: entry.path.as_str(),
            kind: entry.kind,
            bytes: entry.bytes,
            loses_bits: false,
            is_told: false,
        });
    }

    /// The same of what somebody else saw.
    pub(super) fn was_there(&self, done: &Done<'_>) {
        if done.kind != FileKind::File {
            return;
        }
        self.done_bytes.fetch_add(done.bytes, Relaxed);
        let mut state = self.state();
        state.sums.skipped += 1;
        state.done_files += 1;
        self.redraw(&mut state);
    }

    /// A pipe, device or socket.
    pub(super) fn left_out(&self, path: &RelPath) {
        let mut state = self.state();
        state.sums.special += 1;
        if self.out.json {
            let line =
                json!({ "path": path.as_str(), "kind": FileKind::Other, "result": "left-out" });
            return self.json_line(&mut state, &line);
        }
        let text = format!(
            "`{}` is a pipe, a device or a socket: left out",
            shown(path.as_str())
        );
        self.around_line(&mut state, || self.out.warn(&text));
    }

    /// An entry was not copied; `left` bytes of it were not told as moved.
    pub(super) fn failed(&self, path: &RelPath, problem: &Problem, left: u64) {
        self.failed_at(path.as_str(), problem, left);
    }

    /// The same of something that is named by itself.
    pub(super) fn failed_at(&self, path: &str, problem: &Problem, left: u64) {
        self.done_bytes.fetch_add(left, Relaxed);
        let mut state = self.state();
        state.sums.failed += 1;
        state.done_files += 1;
        let Problem { code, message } = problem;
        if self.out.json {
            return self.json_line(&mut state, &failed_line(path, code, message));
        }
        let name = match path {
            "" => ".",
            path => path,
        };
        let text = one_line(&format!("failed: {}: {code}: {message}", shown(name)));
        self.around_line(&mut state, || self.out.tell(&text));
    }

    /// An entry met what everything that follows would meet, and ends the copy.
    pub(super) fn ended_by(&self, path: &RelPath, mut failure: Box<Failure>, left: u64) -> Trouble {
        self.done_bytes.fetch_add(left, Relaxed);
        let mut state = self.state();
        state.sums.failed += 1;
        state.done_files += 1;
        if self.out.json {
            let line = failed_line(path.as_str(), &failure.code, &failure.message);
            self.json_line(&mut state, &line);
        }
        // The last line says what it was about.
        let name = shown(path.as_str());
        if !name.is_empty() && !failure.message.contains(&*name) {
            failure.message = format!("`{name}`: {}", failure.message);
        }
        Trouble::Stop(failure)
    }

    /// Something to know beside the files; scripts hear of files and failures only.
    pub(super) fn note(&self, text: &str) {
        if self.out.json {
            return;
        }
        let mut state = self.state();
        let text = one_line(text);
        self.around_line(&mut state, || self.out.say(&text));
    }

    /// The same, for those who want to know more.
    pub(super) fn detail(&self, text: &str) {
        if self.is_verbose {
            self.note(text);
        }
    }

    fn json_line(&self, state: &mut State, line: &Value) {
        self.around_line(state, || self.kept(self.out.json_line(line)));
    }

    fn text_line(&self, state: &mut State, text: &str) {
        self.around_line(state, || self.kept(self.out.text(&format!("{text}\n"))));
    }

    fn say(&self, state: &mut State, text: &str) {
        self.around_line(state, || self.out.say(text));
    }

    /// Whoever reads our output may leave; the copy goes on.
    fn kept(&self, printed: Result<(), Failure>) {
        if printed.is_err() {
            self.reader_left.store(true, Relaxed);
        }
    }

    fn around_line(&self, state: &mut State, print: impl FnOnce()) {
        if let Some(line) = &mut state.line {
            line.clear();
        }
        print();
    }

    /// Tells how far it is, if it is time to.
    pub(super) fn tick(&self) {
        self.redraw(&mut self.state());
    }

    fn redraw(&self, state: &mut State) {
        if state.line.is_none() {
            return;
        }
        let now = self.now(state);
        if let Some(line) = &mut state.line {
            line.draw(&now);
        }
    }

    fn now(&self, state: &State) -> Shown {
        let is_known = self.totals.is_known.load(Relaxed);
        let total = (
            self.totals.files.load(Relaxed),
            self.totals.bytes.load(Relaxed),
        );
        Shown {
            files: state.done_files,
            bytes: self.done_bytes.load(Relaxed),
            moved: self.moved_bytes.load(Relaxed),
            failed: state.sums.failed,
            total: is_known.then_some(total),
            seconds: self.started.elapsed().as_secs_f64(),
        }
    }

    /// Another attempt finds what this one copied.
    pub(super) fn again(&self) {
        self.done_bytes.store(0, Relaxed);
        let mut state = self.state();
        let sums = &mut state.sums;
        let files = sums.files;
        sums.skipped = 0;
        sums.special = 0;
        sums.failed = 0;
        state.done_files = 0;
        state.earlier = files;
    }

    /// Bytes that went over the wire so far: whether an attempt came further.
    pub(super) fn moved_so_far(&self) -> u64 {
        let sums = self.sums();
        self.moved_bytes.load(Relaxed) + sums.files + sums.directories + sums.links
    }

    /// As of now; what earlier attempts copied counts as copied.
    pub(super) fn sums(&self) -> Sums {
        let state = self.state();
        let mut sums = state.sums;
        sums.skipped = sums.skipped.saturating_sub(state.earlier);
        sums
    }

    /// Adds what a node copied by itself.
    pub(super) fn add(&self, more: &Sums) {
        self.moved(more.bytes);
        let mut state = self.state();
        state.done_files += more.files;
        let sums = &mut state.sums;
        sums.files += more.files;
        sums.bytes += more.bytes;
        sums.directories += more.directories;
        sums.links += more.links;
        sums.special += more.special;
        sums.failed += more.failed;
        self.redraw(&mut state);
    }

    /// The last lines. A copy that ended before its end is none of everything.
    pub(super) fn finish(&self, has_ended_well: bool) -> Result<Sums, Failure> {
        let sums = self.sums();
        let seconds = self.started.elapsed().as_secs_f64();
        let moved = self.moved_bytes.load(Relaxed);
        let mut state = self.state();
        let now = self.now(&state);
        if let Some(line) = state.line.take() {
            line.finish(&now);
        }
        drop(state);
        if sums.lost_bits > 0 && !self.out.json {
            let files = count(sums.lost_bits, "file");
            self.out.say(&format!(
                "set-user-id and set-group-id bits of {files} were left out"
            ));
        }
        if self.out.json {
            let line = json!({ "summary": {
                "files": sums.files, "bytes": sums.bytes, "directories": sums.directories,
                "links": sums.links, "skipped": sums.skipped, "failed": sums.failed,
                "left_out": sums.special, "lost_bits": sums.lost_bits,
                "complete": has_ended_well && sums.failed == 0,
                "seconds": (seconds * 1000.0).round() / 1000.0,
            }});
            self.out.json_line(&line)?;
        } else {
            let resumed = match self.resumed_bytes.load(Relaxed) {
                0 => 0,
                _ => sums.bytes.saturating_sub(moved),
            };
            let speed = Speed {
                seconds,
                moved,
                resumed,
            };
            self.out.say(&summary(&sums, &speed, self.is_trial));
        }
        match self.reader_left.load(Relaxed) {
            true => Err(Failure::reader_left()),
            false => Ok(sums),
        }
    }
}

fn failed_line(path: &str, code: &str, message: &str) -> Value {
    let error = json!({ "code": code, "message": message });
    json!({ "path": path, "result": "failed", "error": error })
}

/// How long it took, and what of the bytes went in that time.
#[derive(Clone, Copy, Debug)]
struct Speed {
    seconds: f64,
    moved: u64,
    /// What earlier runs had copied of files that are whole now.
    resumed: u64,
}

/// `copied 100,000 files, 1.2 GB in 38 s (31 MB/s); 3 there already, 1 failed`
fn summary(sums: &Sums, speed: &Speed, is_trial: bool) -> String {
    let Speed {
        seconds,
        moved,
        resumed,
    } = *speed;
    let verb = if is_trial { "would copy" } else { "copied" };
    let mut text = format!("{verb} {}", count(sums.files, "file"));
    if sums.directories > 0 {
        text.push_str(&format!(", {}", count(sums.directories, "directory")));
    }
    if sums.links > 0 {
        text.push_str(&format!(", {}", count(sums.links, "link")));
    }
    text.push_str(&format!(", {}", bytes_text(sums.bytes)));
    if !is_trial {
        text.push_str(&format!(" in {}", seconds_text(seconds)));
        // A rate of an instant says nothing.
        if seconds >= 0.1 && moved > 0 {
            // Exact enough for a rate.
            #[allow(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss
            )]
            let rate = (moved as f64 / seconds) as u64;
            text.push_str(&format!(" ({}/s)", bytes_text(rate)));
        }
    }
    let mut rest = Vec::new();
    if resumed > 0 && !is_trial {
        rest.push(format!("{} of that by an earlier run", bytes_text(resumed)));
    }
    if sums.skipped > 0 {
        rest.push(format!("{} there already", grouped(sums.skipped)));
    }
    if sums.special > 0 {
        rest.push(format!("{} left out", grouped(sums.special)));
    }
    if sums.failed > 0 {
        rest.push(format!("{} failed", grouped(sums.failed)));
    }
    if !rest.is_empty() {
        text.push_str("; ");
        text.push_str(&rest.join(", "));
    }
    text
}

fn seconds_text(seconds: f64) -> String {
    match seconds {
        under if under < 10.0 => format!("{under:.1} s"),
        under if under < 600.0 => format!("{under:.0} s"),
        more => format!("{:.0} min", more / 60.0),
    }
}

fn count(number: u64, one: &str) -> String {
    match (number, one.strip_suffix('y')) {
        (1, _) => format!("1 {one}"),
        (_, Some(stem)) => format!("{} {stem}ies", grouped(number)),
        (_, None) => format!("{} {one}s", grouped(number)),
    }
}

/// `1,234,567`
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speed(seconds: f64, moved: u64) -> Speed {
        Speed {
            seconds,
            moved,
            resumed: 0,
        }
    }

    #[test]
    fn a_summary_says_what_an_earlier_run_had_copied() {
        let sums = Sums {
            files: 1,
            bytes: 314_000_000,
            ..Sums::default()
        };
        let speed = Speed {
            seconds: 3.3,
            moved: 231_000_000,
            resumed: 83_000_000,
        };
        assert_eq!(
            summary(&sums, &speed, false),
            "copied 1 file, 314 MB in 3.3 s (70 MB/s); 83 MB of that by an earlier run"
        );
    }

    #[test]
    fn a_summary_is_one_sentence() {
        let sums = Sums {
            files: 100_000,
            bytes: 1_200_000_000,
            skipped: 3,
            failed: 1,
            ..Sums::default()
        };
        assert_eq!(
            summary(&sums, &speed(38.2, 1_200_000_000), false),
            "copied 100,000 files, 1.2 GB in 38 s (31 MB/s); 3 there already, 1 failed"
        );
        let one = Sums {
            files: 1,
            bytes: 999,
            directories: 2,
            links: 1,
            ..Sums::default()
        };
        assert_eq!(
            summary(&one, &speed(0.01, 999), false),
            "copied 1 file, 2 directories, 1 link, 999 B in 0.0 s"
        );
        assert_eq!(
            summary(&one, &speed(0.01, 0), true),
            "would copy 1 file, 2 directories, 1 link, 999 B"
        );
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, want) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), want);
        }
    }
}
