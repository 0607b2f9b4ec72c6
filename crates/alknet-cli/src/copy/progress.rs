//! One line that says how far it is: redrawn on a terminal, printed now and
//! then elsewhere.

use super::report::grouped;
use crate::output::Out;
use serde_json::json;
use std::{
    collections::VecDeque,
    io::{self, Write},
    time::{Duration, Instant},
};

/// How often a terminal is redrawn.
const DRAW_EVERY: Duration = Duration::from_millis(100);
/// How often a line is printed elsewhere.
const PRINT_EVERY: Duration = Duration::from_secs(1);
/// Over how long the rate is measured.
const RATE_OVER: f64 = 5.0;

/// How far it is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shown {
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) moved: u64,
    pub(super) failed: u64,
    /// Files and bytes in all, once they are counted.
    pub(super) total: Option<(u64, u64)>,
    /// Since the start.
    pub(super) seconds: f64,
}

/// The line.
#[derive(Debug)]
pub(super) struct Line {
    out: Out,
    is_terminal: bool,
    told: Option<Instant>,
    is_drawn: bool,
    /// Seconds and bytes moved by then.
    past: VecDeque<(f64, u64)>,
}

impl Line {
    /// `None` if nobody wants to see it.
    pub(super) fn new(out: Out, is_wanted: bool) -> Option<Self> {
        let is_terminal = out.attended && !out.quiet && !out.json;
        (is_terminal || is_wanted).then(|| Self {
            out,
            is_terminal,
            told: None,
            is_drawn: false,
            past: VecDeque::new(),
        })
    }

    /// Takes it away, so that something else can be printed.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.is_drawn) {
            // If standard error is gone there is nobody left to tell.
            let _ = write!(io::stderr(), "\r\u{1b}[K");
        }
    }

    /// Takes it away from a terminal; elsewhere it tells how far it came.
    pub(super) fn finish(mut self, now: &Shown) {
        self.clear();
        if !self.is_terminal {
            self.told = None;
            self.draw(now);
        }
    }

    pub(super) fn draw(&mut self, now: &Shown) {
        let every = if self.is_terminal {
            DRAW_EVERY
        } else {
            PRINT_EVERY
        };
        if self.told.is_some_and(|at| at.elapsed() < every) {
            return;
        }
        self.told = Some(Instant::now());
        let rate = self.rate(now);
        if self.out.json {
            let mut line = json!({ "progress": {
                "files": now.files, "bytes": now.bytes, "failed": now.failed, "bytes_per_second": rate,
            }});
            if let Some((files, bytes)) = now.total {
                line["progress"]["files_total"] = json!(files);
                line["progress"]["bytes_total"] = json!(bytes);
            }
            // The copy goes on without its reader.
            let _ = self.out.json_line(&line);
            return;
        }
        let text = text(now, rate);
        if !self.is_terminal {
            return self.out.tell(&text);
        }
        self.is_drawn = true;
        let text: String = text.chars().take(columns().saturating_sub(1)).collect();
        let _ = write!(io::stderr(), "\r{text}\u{1b}[K");
    }

    /// Bytes a second, lately.
    fn rate(&mut self, now: &Shown) -> u64 {
        self.past.push_back((now.seconds, now.moved));
        while self.past.len() > 2 && self.past[0].0 < now.seconds - RATE_OVER {
            self.past.pop_front();
        }
        let (seconds, moved) = self.past[0];
        let over = now.seconds - seconds;
        match over > 0.0 {
            // Exact enough for a rate.
            #[allow(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss
            )]
            true => (now.moved.saturating_sub(moved) as f64 / over) as u64,
            false => 0,
        }
    }
}

fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stderr());
    match size.map_or(0, |size| usize::from(size.ws_col)) {
        // The terminal does not tell.
        0 => 80,
        columns => columns.max(20),
    }
}

/// `42% 1.2 GB of 2.9 GB, 1,000 of 2,000 files, 31 MB/s, 1:10 left`
fn text(now: &Shown, rate: u64) -> String {
    let mut parts = Vec::new();
    match now.total {
        Some((files, bytes)) => {
            parts.push(format!(
                "{}% {} of {}",
                percent(now, files, bytes),
                bytes_text(now.bytes),
                bytes_text(bytes)
            ));
            parts.push(format!(
                "{} of {} files",
                grouped(now.files),
                grouped(files)
            ));
        }
        None => {
            parts.push(format!("{} (counting)", bytes_text(now.bytes)));
            parts.push(format!("{} files", grouped(now.files)));
        }
    }
    if now.failed > 0 {
        parts.push(format!("{} failed", grouped(now.failed)));
    }
    if rate > 0 {
        parts.push(format!("{}/s", bytes_text(rate)));
        if let Some((_, bytes)) = now.total.filter(|(_, bytes)| *bytes > now.bytes) {
            parts.push(format!("{} left", clock((bytes - now.bytes) / rate)));
        }
    }
    parts.join(", ")
}

/// Of the bytes; of the files where there are no bytes. 100 only at the end.
fn percent(now: &Shown, files: u64, bytes: u64) -> u64 {
    let is_over = now.files >= files && now.bytes >= bytes;
    let (done, all) = match bytes {
        0 => (now.files, files),
        bytes => (now.bytes, bytes),
    };
    match u128::from(done) * 100 / u128::from(all.max(1)) {
        _ if is_over => 100,
        percent => u64::try_from(percent.min(99)).unwrap_or(99),
    }
}

/// `1:10`, `2:00:05`
fn clock(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// `1.2 GB`: powers of 1000, three digits at most.
pub(super) fn bytes_text(bytes: u64) -> String {
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let units = ["kB", "MB", "GB", "TB", "PB", "EB"];
    let mut unit = 0;
    let mut size = 1000_u64;
    while unit + 1 < units.len() && bytes / size >= 1000 {
        size *= 1000;
        unit += 1;
    }
    let tenths = bytes / (size / 10);
    match tenths < 100 {
        true => format!("{}.{} {}", tenths / 10, tenths % 10, units[unit]),
        false => format!("{} {}", tenths / 10, units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is() {
        let mut now = Shown {
            files: 1_000,
            bytes: 1_200_000_000,
            moved: 0,
            failed: 0,
            total: None,
            seconds: 1.0,
        };
        assert_eq!(text(&now, 0), "1.2 GB (counting), 1,000 files");
        now.total = Some((2_000, 2_900_000_000));
        now.failed = 2;
        assert_eq!(
            text(&now, 31_000_000),
            "41% 1.2 GB of 2.9 GB, 1,000 of 2,000 files, 2 failed, 31 MB/s, 0:54 left"
        );
    }

    #[test]
    fn a_hundred_percent_is_the_end() {
        let shown = |files, bytes| Shown {
            files,
            bytes,
            ..Shown::default()
        };
        assert_eq!(percent(&shown(1, 1_000), 2, 1_000), 99);
        assert_eq!(percent(&shown(2, 1_000), 2, 1_000), 100);
        assert_eq!(percent(&shown(0, 0), 0, 0), 100);
        assert_eq!(percent(&shown(1, 0), 4, 0), 25);
        // Files that grew since they were counted.
        assert_eq!(percent(&shown(1, 5_000), 2, 1_000), 99);
        assert_eq!(percent(&shown(1, u64::MAX / 2), 2, u64::MAX), 49);
    }

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, want) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (9_999, "9.9 kB"),
            (10_000, "10 kB"),
            (999_999, "999 kB"),
            (1_000_000, "1.0 MB"),
            (20 * 1024 * 1024 * 1024, "21 GB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(bytes_text(bytes), want);
        }
    }

    #[test]
    fn times_are_clocks() {
        assert_eq!(clock(5), "0:05");
        assert_eq!(clock(70), "1:10");
        assert_eq!(clock(7_205), "2:00:05");
    }

    /// What is copied again after a cut is no speed.
    #[test]
    fn a_rate_is_that_of_the_last_seconds() {
        let out = Out::new(true, true);
        let mut line = Line::new(out, true).unwrap_or_else(|| unreachable!("wanted"));
        let shown = |seconds, moved| Shown {
            seconds,
            moved,
            ..Shown::default()
        };
        assert_eq!(line.rate(&shown(0.0, 0)), 0);
        assert_eq!(line.rate(&shown(1.0, 1_000)), 1_000);
        for second in 2..20 {
            line.rate(&shown(f64::from(second), 1_000));
        }
        assert_eq!(line.rate(&shown(20.0, 1_000)), 0);
    }
}
