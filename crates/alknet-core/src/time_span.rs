//! Lengths of time as people write them: `60s`, `1h30m`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

/// Units, the largest first, in milliseconds.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// A length of time written as numbers with units: `500ms`, `60s`, `5m`,
/// `1h30m`, `7d`. More than nothing, at most 365 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeSpan(Duration);

/// Not a length of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a length of time: write numbers with units, such as `60s`, `5m` or `1h30m`")]
pub struct TimeSpanError(String);

impl TimeSpan {
    /// The longest that can be written.
    pub const MAX: Duration = Duration::from_secs(365 * 86_400);

    /// A span of whole seconds, as defaults are.
    #[must_use]
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The duration.
    #[must_use]
    pub fn duration(self) -> Duration {
        self.0
    }

    /// Parses numbers with units, each unit at most once, the largest first.
    ///
    /// # Errors
    ///
    /// [`TimeSpanError`] if it is anything else, nothing, or too long.
    pub fn parse(text: &str) -> Result<Self, TimeSpanError> {
        let refuse = || TimeSpanError(text.into());
        let (mut rest, mut millis, mut units) = (text, 0u64, UNITS.iter());
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let count: u64 = rest[..digits].parse().map_err(|_| refuse())?;
            rest = &rest[digits..];
            let letters = rest
                .bytes()
                .take_while(|byte| !byte.is_ascii_digit())
                .count();
            // Not a slice by index: the text may not be ASCII.
            let unit = rest.get(..letters).ok_or_else(refuse)?;
            let (_, worth) = units.find(|(name, _)| *name == unit).ok_or_else(refuse)?;
            millis = count
                .checked_mul(*worth)
                .and_then(|more| millis.checked_add(more))
                .ok_or_else(refuse)?;
            rest = &rest[letters..];
        }
        let span = Duration::from_millis(millis);
        if span.is_zero() || span > Self::MAX {
            return Err(refuse());
        }
        Ok(Self(span))
    }
}

impl FromStr for TimeSpan {
    type Err = TimeSpanError;
    fn from_str(text: &str) -> Result<Self, TimeSpanError> {
        Self::parse(text)
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        for (name, worth) in UNITS {
            if left >= worth {
                write!(f, "{}{name}", left / worth)?;
                left %= worth;
            }
        }
        Ok(())
    }
}

impl Serialize for TimeSpan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TimeSpan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for TimeSpan {
    fn schema_name() -> Cow<'static, str> {
        "TimeSpan".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$",
            "description": "A length of time: `500ms`, `60s`, `5m`, `1h30m`, `7d`.",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: Option<u64>) {
        let got = TimeSpan::parse(text)
            .ok()
            .map(|span| span.duration().as_millis());
        assert_eq!(got, want.map(u128::from), "{text}");
    }

    #[test]
    fn numbers_with_units_are_read() {
        check("500ms", Some(500));
        check("60s", Some(60_000));
        check("5m", Some(300_000));
        check("1h30m", Some(5_400_000));
        check("1m1ms", Some(60_001));
        check("365d", Some(365 * 86_400_000));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "60",
            "s",
            "0s",
            "-1s",
            "1.5h",
            "30m1h",
            "1s1s",
            "60 s",
            "1µs",
            "366d",
            "5x",
            "99999999999999999999s",
            "9999999999999999d",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for text in ["1h30m", "500ms", "7d", "1d1h1m1s1ms"] {
            assert_eq!(
                TimeSpan::parse(text).map(|span| span.to_string()),
                Ok(text.into())
            );
        }
    }
}
