//! How long records are kept.

use alknet_core::storage::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A log that keeps less than this would lose what has only just happened.
const ROWS_LEAST: u64 = 1_000;
/// A hundred years; what shall stay for ever says 0.
const DAYS_MOST: u32 = 36_500;
const HOUR_MS: i64 = 3_600_000;

/// How long events are kept. What is removed can no longer be asked for: a
/// subscriber that has not come so far is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EventsConfig {
    /// Days that an event is kept; 0 for as long as there is room.
    pub keep_days: u32,
    /// Events that are kept at most; the oldest go first. At least 1,000.
    pub rows_max: u64,
}

impl Default for EventsConfig {
    fn default() -> Self {
        Self {
            keep_days: 30,
            rows_max: 100_000,
        }
    }
}

/// How long rows of the audit log are kept. That rows were removed is a row
/// too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// Days that a row is kept; 0 for as long as there is room.
    pub keep_days: u32,
    /// Rows that are kept at most; the oldest go first. A million takes about
    /// 400 MB. At least 1,000.
    pub rows_max: u64,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            keep_days: 90,
            rows_max: 1_000_000,
        }
    }
}

impl EventsConfig {
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        check(
            ["events.keep_days", "events.rows_max"],
            self.keep_days,
            self.rows_max,
        )
    }

    /// What is older may go.
    pub(crate) fn keeps_from(&self, now: Timestamp) -> Timestamp {
        keeps_from(self.keep_days, now)
    }
}

impl AuditConfig {
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        check(
            ["audit.keep_days", "audit.rows_max"],
            self.keep_days,
            self.rows_max,
        )
    }

    /// What is older may go.
    pub(crate) fn keeps_from(&self, now: Timestamp) -> Timestamp {
        keeps_from(self.keep_days, now)
    }
}

fn check(
    [days_field, rows_field]: [&'static str; 2],
    days: u32,
    rows: u64,
) -> Result<(), (&'static str, String)> {
    if days > DAYS_MOST {
        let message = format!("{days} is too large: at most {DAYS_MOST}, or 0 for no such limit");
        return Err((days_field, message));
    }
    if rows < ROWS_LEAST {
        let message = format!("{rows} is too small: at least {ROWS_LEAST}");
        return Err((rows_field, message));
    }
    Ok(())
}

/// To the hour: each removal is on record, and an idle node shall not go on
/// removing the records of its own removals, one a minute.
fn keeps_from(days: u32, now: Timestamp) -> Timestamp {
    match days {
        0 => Timestamp(i64::MIN),
        days => Timestamp((now.0 - i64::from(days) * 24 * HOUR_MS).div_euclid(HOUR_MS) * HOUR_MS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_back_to_the_hour() {
        let now = Timestamp(100 * 24 * HOUR_MS + 5 * HOUR_MS + 17);
        let keeps = |keep_days| {
            let config = AuditConfig {
                keep_days,
                ..AuditConfig::default()
            };
            config.keeps_from(now)
        };
        assert_eq!(keeps(1), Timestamp(99 * 24 * HOUR_MS + 5 * HOUR_MS));
        assert_eq!(keeps(0), Timestamp(i64::MIN));
        assert_eq!(keeps(200), Timestamp(-100 * 24 * HOUR_MS + 5 * HOUR_MS));
    }

    #[test]
    fn limits_are_judged_at_the_limit_and_one_past_it() {
        let of = |keep_days, rows_max| {
            let checked = EventsConfig {
                keep_days,
                rows_max,
            }
            .check();
            checked.map_err(|(field, _)| field)
        };
        assert_eq!(of(0, 1_000), Ok(()));
        assert_eq!(of(36_500, 1_000), Ok(()));
        assert_eq!(of(36_501, 1_000), Err("events.keep_days"));
        assert_eq!(of(30, 999), Err("events.rows_max"));
    }
}
