//! What was done wrong, by whom: failed attempts that slow their source down,
//! and a score that decays and, above a threshold, shuts it out for a while.

use super::{Prefix, Source, config::BansConfig};
use std::{collections::HashMap, time::Duration};
use tokio::time::Instant;

/// Sources remembered; beyond it, those that were longest quiet are forgotten.
const SOURCES_KEPT: usize = 8192;
/// How long a failed attempt counts.
const FAILURE_KEPT: Duration = Duration::from_secs(600);
/// First delay of a source that keeps failing; each failure doubles it.
const DELAY_MIN: Duration = Duration::from_secs(1);
/// How long it is remembered that a known peer came from somewhere.
const FRIEND_KEPT: Duration = Duration::from_secs(24 * 3600);
/// How long it is remembered that a source was shut out, so that the next time
/// is longer.
const RECORD_KEPT: Duration = Duration::from_secs(24 * 3600);
/// Lines in the log of one source: at most one in this time.
const SAID_EVERY: Duration = Duration::from_secs(60);
/// Lines in the log of all sources, in that time.
const SAID_MAX: u32 = 30;

/// What somebody did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offence {
    /// Came with a key that nobody here has.
    UnknownKey,
    /// Presented an API key that is none.
    WrongKey,
    /// Presented an invite's secret that is none.
    WrongTicket,
    /// Broke the protocol.
    Malformed,
    /// Asked for more than a limit allows.
    Limit,
}

impl Offence {
    /// What it adds to the score.
    fn points(self) -> f64 {
        match self {
            Offence::WrongKey | Offence::WrongTicket => 10.0,
            Offence::UnknownKey => 5.0,
            Offence::Malformed => 3.0,
            Offence::Limit => 1.0,
        }
    }

    /// In the log; part of what filters match.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Offence::UnknownKey => "unknown-key",
            Offence::WrongKey => "wrong-api-key",
            Offence::WrongTicket => "wrong-ticket",
            Offence::Malformed => "malformed",
            Offence::Limit => "limit",
        }
    }

    fn class(self) -> Option<Class> {
        match self {
            Offence::UnknownKey => Some(Class::Keys),
            Offence::WrongKey | Offence::WrongTicket => Some(Class::Secrets),
            Offence::Malformed | Offence::Limit => None,
        }
    }
}

/// Attempts that slow each other down: a peer that was removed and still dials
/// does not slow down its own next invite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Keys,
    Secrets,
}

/// When sources are slowed down and shut out.
#[derive(Clone, Debug)]
pub(crate) struct Measure {
    pub(crate) failures_before_delay: u32,
    pub(crate) delay_max: Duration,
    pub(crate) bans: BansConfig,
}

/// What follows from an offence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// A line is due: so many failed attempts lately.
    pub(crate) say: Option<u32>,
    /// The source is to be shut out for so long.
    pub(crate) ban: Option<Duration>,
}

#[derive(Debug, Default)]
pub(crate) struct Offences {
    sources: HashMap<Source, Record>,
    /// Where known peers came from, and when last.
    friends: HashMap<Source, Instant>,
    /// Lines written in this minute.
    said: u32,
    said_since: Option<Instant>,
}

#[derive(Debug)]
struct Record {
    keys: Failures,
    secrets: Failures,
    score: f64,
    scored_at: Instant,
    /// How often it was shut out lately, and when last.
    bans: u32,
    banned_at: Option<Instant>,
    said_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Failures {
    count: u32,
    at: Option<Instant>,
}

impl Failures {
    fn count(&self, now: Instant) -> u32 {
        match self.at {
            Some(at) if now.duration_since(at) < FAILURE_KEPT => self.count,
            _ => 0,
        }
    }

    fn add(&mut self, now: Instant) {
        self.count = self.count(now).saturating_add(1);
        self.at = Some(now);
    }

    fn delay(&self, measure: &Measure, now: Instant) -> Duration {
        let over = self.count(now).checked_sub(measure.failures_before_delay);
        over.map_or(Duration::ZERO, |over| {
            let factor = 1_u32.checked_shl(over).unwrap_or(u32::MAX);
            DELAY_MIN.saturating_mul(factor).min(measure.delay_max)
        })
    }
}

impl Record {
    fn new(now: Instant) -> Self {
        Self {
            keys: Failures::default(),
            secrets: Failures::default(),
            score: 0.0,
            scored_at: now,
            bans: 0,
            banned_at: None,
            said_at: None,
        }
    }

    fn class(&mut self, class: Class) -> &mut Failures {
        match class {
            Class::Keys => &mut self.keys,
            Class::Secrets => &mut self.secrets,
        }
    }

    fn score(&mut self, points: f64, bans: &BansConfig, now: Instant) -> f64 {
        let minutes = now.duration_since(self.scored_at).as_secs_f64() / 60.0;
        let forgiven = minutes * f64::from(bans.score_forgiven_per_minute);
        self.score = (self.score - forgiven).max(0.0) + points;
        self.scored_at = now;
        self.score
    }

    /// How long it is shut out this time: twice as long as the last time.
    fn ban(&mut self, bans: &BansConfig, now: Instant) -> Duration {
        let lately = |at: Instant| now.duration_since(at) < RECORD_KEPT;
        if !self.banned_at.is_some_and(lately) {
            self.bans = 0;
        }
        let factor = 1_u32.checked_shl(self.bans).unwrap_or(u32::MAX);
        self.bans += 1;
        self.banned_at = Some(now);
        self.score = 0.0;
        let first = Duration::from_millis(bans.ban_ms);
        let most = Duration::from_millis(bans.ban_most_ms);
        first.saturating_mul(factor).min(most)
    }

    /// Nothing of it matters any more.
    fn is_settled(&self, now: Instant) -> bool {
        now.duration_since(self.scored_at) >= FAILURE_KEPT
            && self
                .banned_at
                .is_none_or(|at| now.duration_since(at) >= RECORD_KEPT)
    }
}

impl Offences {
    /// Notes what a source did.
    pub(crate) fn note(
        &mut self,
        source: Source,
        offence: Offence,
        measure: &Measure,
        now: Instant,
    ) -> Verdict {
        let is_friend = self.is_friend(source, now);
        let record = self.record(source, now);
        let mut verdict = Verdict::default();
        if let Some(class) = offence.class() {
            let failures = record.class(class);
            failures.add(now);
            let count = failures.count(now);
            let due = count >= measure.failures_before_delay
                && record
                    .said_at
                    .is_none_or(|at| now.duration_since(at) >= SAID_EVERY);
            if due {
                record.said_at = Some(now);
                verdict.say = Some(count);
            }
        }
        let bans = &measure.bans;
        let score = record.score(offence.points(), bans, now);
        // Whoever shares an address with a known peer does not shut it out.
        if bans.score_max > 0 && score >= f64::from(bans.score_max) && !is_friend {
            verdict.ban = Some(record.ban(bans, now));
        }
        if verdict.say.is_some() && !self.may_say(now) {
            verdict.say = None;
        }
        verdict
    }

    /// How long a source has to wait from its last failed attempt on.
    pub(crate) fn delay(
        &mut self,
        source: Source,
        class: Class,
        measure: &Measure,
        now: Instant,
    ) -> Duration {
        let record = self.sources.get_mut(&source);
        record.map_or(Duration::ZERO, |record| {
            record.class(class).delay(measure, now)
        })
    }

    /// What of that is left.
    pub(crate) fn delay_left(
        &mut self,
        source: Source,
        class: Class,
        measure: &Measure,
        now: Instant,
    ) -> Duration {
        let delay = self.delay(source, class, measure, now);
        let record = self.sources.get_mut(&source);
        let at = record.and_then(|record| record.class(class).at);
        at.map_or(Duration::ZERO, |at| {
            delay.saturating_sub(now.duration_since(at))
        })
    }

    /// A known peer came from there.
    pub(crate) fn befriend(&mut self, source: Source, now: Instant) {
        if self.friends.len() >= SOURCES_KEPT && !self.friends.contains_key(&source) {
            self.friends
                .retain(|_, at| now.duration_since(*at) < FRIEND_KEPT);
            drop_oldest(&mut self.friends, |at| *at);
        }
        self.friends.insert(source, now);
    }

    /// Whether a known peer came from there lately.
    pub(crate) fn is_friend(&self, source: Source, now: Instant) -> bool {
        let at = self.friends.get(&source);
        at.is_some_and(|at| now.duration_since(*at) < FRIEND_KEPT)
    }

    /// Forgets what a source did: somebody let it in again.
    pub(crate) fn forgive(&mut self, source: Source) {
        self.sources.remove(&source);
    }

    /// The same for all addresses that begin so.
    pub(crate) fn forgive_within(&mut self, prefix: &Prefix) {
        self.sources.retain(|source, _| match source {
            Source::Network(network) => !prefix.meets(network),
            Source::Key(_) => true,
        });
    }

    fn record(&mut self, source: Source, now: Instant) -> &mut Record {
        if self.sources.len() >= SOURCES_KEPT && !self.sources.contains_key(&source) {
            self.sources.retain(|_, record| !record.is_settled(now));
            drop_oldest(&mut self.sources, |record| record.scored_at);
        }
        self.sources
            .entry(source)
            .or_insert_with(|| Record::new(now))
    }

    fn may_say(&mut self, now: Instant) -> bool {
        let is_over = |at: Instant| now.duration_since(at) >= SAID_EVERY;
        if self.said_since.is_none_or(is_over) {
            self.said_since = Some(now);
            self.said = 0;
        }
        self.said += 1;
        self.said <= SAID_MAX
    }
}

/// Makes room for an eighth, so that not each newcomer looks through all.
fn drop_oldest<V>(kept: &mut HashMap<Source, V>, at: impl Fn(&V) -> Instant) {
    if kept.len() < SOURCES_KEPT {
        return;
    }
    let mut times: Vec<Instant> = kept.values().map(&at).collect();
    let eighth = times.len() / 8;
    let (_, limit, _) = times.select_nth_unstable(eighth);
    let limit = *limit;
    let mut most = eighth.max(1);
    kept.retain(|_, value| {
        let goes = most > 0 && at(value) <= limit;
        most -= usize::from(goes);
        !goes
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn source(n: u32) -> Source {
        Source::of_address(std::net::IpAddr::from(n.to_be_bytes()))
    }

    fn measure() -> Measure {
        Measure {
            failures_before_delay: 5,
            delay_max: Duration::from_secs(8),
            bans: BansConfig::default(),
        }
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_fifth_failure_slows_a_source_down_twice_as_long_each_time_up_to_the_bound() {
        let (mut all, now) = (Offences::default(), Instant::now());
        let mut delays = Vec::new();
        for _ in 0..10 {
            all.note(source(1), Offence::WrongTicket, &measure(), now);
            let delay = all.delay(source(1), Class::Secrets, &measure(), now);
            delays.push(delay.as_secs());
        }
        assert_eq!(delays, [0, 0, 0, 0, 1, 2, 4, 8, 8, 8]);
        let left = |all: &mut Offences, after| {
            all.delay_left(source(1), Class::Secrets, &measure(), now + seconds(after))
        };
        assert_eq!(left(&mut all, 3), seconds(5));
        assert_eq!(left(&mut all, 8), Duration::ZERO);
        // Others, and attempts of another sort, are not slowed down.
        assert!(
            all.delay(source(2), Class::Secrets, &measure(), now)
                .is_zero()
        );
        assert!(all.delay(source(1), Class::Keys, &measure(), now).is_zero());
        // Forgotten after ten minutes, and not a second before.
        let kept = |all: &mut Offences, after| {
            all.delay(source(1), Class::Secrets, &measure(), now + seconds(after))
        };
        assert_eq!(kept(&mut all, 599), seconds(8));
        assert_eq!(kept(&mut all, 600), Duration::ZERO);
    }

    #[test]
    fn one_line_a_minute_is_said_of_a_source_that_keeps_failing() {
        let (mut all, start) = (Offences::default(), Instant::now());
        let mut off = measure();
        off.bans.score_max = 0;
        let lines: Vec<_> = (0..1200)
            .filter_map(|n| {
                let now = start + Duration::from_millis(n * 100);
                all.note(source(1), Offence::UnknownKey, &off, now).say
            })
            .collect();
        // At 0.4 s, when it is the fifth time, and a minute later.
        assert_eq!(lines, [5, 605]);
    }

    #[test]
    fn lines_of_very_many_sources_are_bounded() {
        let (mut all, now) = (Offences::default(), Instant::now());
        let mut said = 0;
        for n in 0..10_000 {
            for _ in 0..5 {
                let verdict = all.note(source(n), Offence::UnknownKey, &measure(), now);
                said += u32::from(verdict.say.is_some());
            }
        }
        assert_eq!(said, SAID_MAX);
        assert!(all.sources.len() <= SOURCES_KEPT, "{}", all.sources.len());
        for n in 0..10_000 {
            all.befriend(source(n), now);
        }
        assert!(all.friends.len() <= SOURCES_KEPT);
    }

    #[test]
    fn the_score_shuts_out_at_its_threshold_and_not_one_point_before() {
        let (mut all, now) = (Offences::default(), Instant::now());
        for n in 1..100 {
            let verdict = all.note(source(1), Offence::Limit, &measure(), now);
            assert_eq!(verdict.ban, None, "{n}");
        }
        let verdict = all.note(source(1), Offence::Limit, &measure(), now);
        assert_eq!(verdict.ban, Some(seconds(600)));
        // The next time is twice as long, up to a day.
        let mut last = Vec::new();
        for _ in 0..10 {
            let bans = (0..10).filter_map(|_| {
                all.note(source(1), Offence::WrongTicket, &measure(), now)
                    .ban
            });
            last.extend(bans.map(|ban| ban.as_secs()));
        }
        assert_eq!(last[..3], [1200, 2400, 4800]);
        assert_eq!(last[9], 86_400);
    }

    #[test]
    fn what_lies_back_is_forgiven() {
        let (mut all, start) = (Offences::default(), Instant::now());
        // A peer that was removed and goes on dialling, as links do.
        let mut now = start;
        for n in 0..1000_u64 {
            let verdict = all.note(source(1), Offence::UnknownKey, &measure(), now);
            assert_eq!(verdict.ban, None, "{n}");
            now += seconds((1 << n.min(6)).min(60));
        }
        // Malformed now and then.
        for n in 0..1000 {
            let now = start + seconds(n * 20);
            let verdict = all.note(source(2), Offence::Malformed, &measure(), now);
            assert_eq!(verdict.ban, None, "{n}");
        }
    }

    #[test]
    fn where_a_known_peer_comes_from_nobody_is_shut_out() {
        let (mut all, now) = (Offences::default(), Instant::now());
        all.befriend(source(1), now);
        for _ in 0..1000 {
            let verdict = all.note(source(1), Offence::WrongKey, &measure(), now);
            assert_eq!(verdict.ban, None);
        }
        let later = now + FRIEND_KEPT;
        for _ in 0..9 {
            all.note(source(1), Offence::WrongKey, &measure(), later);
        }
        let verdict = all.note(source(1), Offence::WrongKey, &measure(), later);
        assert!(verdict.ban.is_some());
    }

    #[test]
    fn a_threshold_of_zero_shuts_out_nobody() {
        let (mut all, now) = (Offences::default(), Instant::now());
        let mut off = measure();
        off.bans.score_max = 0;
        let bans = (0..1000).filter_map(|_| all.note(source(1), Offence::WrongKey, &off, now).ban);
        assert_eq!(bans.count(), 0);
    }
}
