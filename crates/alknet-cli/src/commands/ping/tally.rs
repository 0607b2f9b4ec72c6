//! What is summed up at the end.

use crate::{duration, output::cell};
use serde_json::{Value, json};
use std::time::Duration;

/// A clock that is off by more is worth a word: invites and access end by it.
const SKEW_SAID_MS: f64 = 60_000.0;

/// One answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) took: Duration,
    pub(super) is_direct: bool,
    /// How far the clock there is ahead, in milliseconds.
    pub(super) clock_ahead: Option<f64>,
}

/// All answers, and those that did not come.
#[derive(Debug, Default)]
pub(super) struct Tally {
    answers: Vec<f64>,
    direct: u64,
    lost: u64,
    clock_ahead: Option<f64>,
    /// When the path was first seen to be direct, if that was waited for.
    pub(super) direct_after: Option<Duration>,
}

/// The figures that ping(8) closes with, in milliseconds; `mdev` is the
/// standard deviation.
struct Figures {
    min: f64,
    avg: f64,
    max: f64,
    mdev: f64,
}

impl Tally {
    pub(super) fn answered(&mut self, answer: Answer) {
        self.answers.push(millis(answer.took));
        self.direct += u64::from(answer.is_direct);
        self.clock_ahead = answer.clock_ahead.or(self.clock_ahead);
    }

    pub(super) fn lost(&mut self) {
        self.lost += 1;
    }

    pub(super) fn has_answer(&self) -> bool {
        !self.answers.is_empty()
    }

    fn sent(&self) -> u64 {
        self.answers.len() as u64 + self.lost
    }

    fn figures(&self) -> Option<Figures> {
        let count = self.answers.len() as f64;
        let avg = self.answers.iter().sum::<f64>() / count;
        let spread: f64 = self.answers.iter().map(|took| (took - avg).powi(2)).sum();
        self.has_answer().then(|| Figures {
            min: self.answers.iter().copied().fold(f64::INFINITY, f64::min),
            avg,
            max: self.answers.iter().copied().fold(0.0, f64::max),
            mdev: (spread / count).sqrt(),
        })
    }

    pub(super) fn to_json(&self) -> Value {
        let mut summary = json!({
            "type": "summary", "sent": self.sent(), "answered": self.answers.len(), "lost": self.lost,
            "direct": self.direct, "relayed": self.answers.len() as u64 - self.direct,
        });
        if let Some(figures) = self.figures() {
            summary["min_ms"] = json!(figures.min);
            summary["avg_ms"] = json!(figures.avg);
            summary["max_ms"] = json!(figures.max);
            summary["mdev_ms"] = json!(figures.mdev);
        }
        if let Some(after) = self.direct_after {
            summary["direct_after_ms"] = json!(millis(after));
        }
        if let Some(ahead) = self.clock_ahead {
            summary["clock_ahead_ms"] = json!(ahead);
        }
        summary
    }

    pub(super) fn render(&self, peer: &str) -> String {
        let (sent, answered) = (self.sent(), self.answers.len());
        let lost = match sent {
            0 => 0.0,
            sent => self.lost as f64 * 100.0 / sent as f64,
        };
        let mut text = format!(
            "{peer}: {sent} sent, {answered} answered, {} lost ({lost:.0}%)",
            self.lost
        );
        if let Some(figures) = self.figures() {
            text.push_str(&format!(
                "\nms: min {:.1}, avg {:.1}, max {:.1}, mdev {:.1}\n{}",
                figures.min,
                figures.avg,
                figures.max,
                figures.mdev,
                self.paths(),
            ));
        }
        text
    }

    /// How many answers came over which kind of path.
    fn paths(&self) -> String {
        let relayed = self.answers.len() as u64 - self.direct;
        let mut text = match (self.direct, relayed) {
            (_, 0) => "path: direct".to_owned(),
            (0, _) => "path: relay".to_owned(),
            (direct, relayed) => format!("path: {direct} direct, {relayed} through a relay"),
        };
        if let Some(after) = self.direct_after {
            text.push_str(&format!(", direct after {:.1} s", after.as_secs_f64()));
        }
        text
    }

    /// `2 hours ahead of the one here`, if it matters.
    pub(super) fn clock_words(&self) -> Option<String> {
        let ahead = self
            .clock_ahead
            .filter(|ahead| ahead.abs() > SKEW_SAID_MS)?;
        let way = if ahead > 0.0 { "ahead of" } else { "behind" };
        let off = Duration::from_secs_f64(ahead.abs() / 1000.0);
        Some(format!(
            "{} {way} the one here: invites and access end by it",
            duration::in_words(off)
        ))
    }
}

pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// `relay https://relay.example/`, `direct 203.0.113.7:4433`, or `no path`.
pub(crate) fn path_words(path: Option<&Value>) -> String {
    let field = |name: &str| cell(path.and_then(|path| path.get(name)));
    match field("path").as_str() {
        "" | "none" => "no path".to_owned(),
        kind => format!("{kind} {}", field("address")).trim_end().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(answers: &[(u64, bool)], lost: u64) -> Tally {
        let mut tally = Tally::default();
        for (ms, is_direct) in answers {
            tally.answered(Answer {
                took: Duration::from_millis(*ms),
                is_direct: *is_direct,
                clock_ahead: Some(0.0),
            });
        }
        (0..lost).for_each(|_| tally.lost());
        tally
    }

    #[test]
    fn the_summary_is_that_of_ping() {
        let tally = tally(&[(2, false), (4, true), (6, true)], 1);
        assert_eq!(
            tally.render("nas"),
            "nas: 4 sent, 3 answered, 1 lost (25%)\n\
             ms: min 2.0, avg 4.0, max 6.0, mdev 1.6\n\
             path: 2 direct, 1 through a relay"
        );
        let summary = tally.to_json();
        assert_eq!(
            (&summary["avg_ms"], &summary["relayed"]),
            (&json!(4.0), &json!(1))
        );
    }

    #[test]
    fn without_an_answer_there_are_no_figures() {
        assert_eq!(
            tally(&[], 2).render("nas"),
            "nas: 2 sent, 0 answered, 2 lost (100%)"
        );
        assert_eq!(
            tally(&[], 0).render("nas"),
            "nas: 0 sent, 0 answered, 0 lost (0%)"
        );
        assert_eq!(tally(&[], 2).to_json().get("avg_ms"), None);
    }

    #[test]
    fn when_a_direct_path_was_found_is_said() {
        let mut tally = tally(&[(2, true)], 0);
        tally.direct_after = Some(Duration::from_millis(1240));
        assert!(
            tally
                .render("nas")
                .ends_with("path: direct, direct after 1.2 s")
        );
    }

    #[test]
    fn a_clock_that_is_off_by_much_is_mentioned() {
        let mut tally = tally(&[(2, true)], 0);
        assert_eq!(tally.clock_words(), None);
        tally.clock_ahead = Some(-86_400_000.0);
        assert_eq!(
            tally.clock_words().as_deref(),
            Some("1 day behind the one here: invites and access end by it")
        );
    }

    #[test]
    fn paths_are_named_with_their_addresses() {
        let relay = json!({ "path": "relay", "address": "https://relay.example/" });
        assert_eq!(path_words(Some(&relay)), "relay https://relay.example/");
        assert_eq!(path_words(Some(&json!({ "path": "none" }))), "no path");
        assert_eq!(path_words(None), "no path");
    }
}
