//! Numbers of bytes as people write them: `10GB`, `512MiB`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};
use std::{borrow::Cow, fmt, str::FromStr};

/// Units, the largest first of each size: powers of 1024, and of 1000.
const UNITS: [(&str, u64); 13] = [
    ("PiB", 1 << 50),
    ("PB", 1_000_000_000_000_000),
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("KB", 1_000),
    ("bytes", 1),
    ("B", 1),
];

/// A number of bytes: `10GB`, `512MiB`, or a plain number. At most what a file
/// can have (2^63 - 1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

/// Not a number of bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a number of bytes: write it with a unit, such as `10GB` or `512MiB`")]
pub struct ByteSizeError(String);

impl ByteSize {
    /// The largest.
    pub const MAX: Self = Self(i64::MAX.unsigned_abs());

    /// So many bytes; at most [`ByteSize::MAX`].
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        if bytes > Self::MAX.0 {
            return Self::MAX;
        }
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Parses a number, with at most nine decimals and a unit behind it.
    ///
    /// # Errors
    ///
    /// [`ByteSizeError`] if it is anything else, no whole number of bytes, or
    /// too large.
    pub fn parse(text: &str) -> Result<Self, ByteSizeError> {
        let refuse = || ByteSizeError(alknet_core::brief(text).into_owned());
        let plain = text.trim_ascii();
        let (number, worth) = UNITS
            .iter()
            .find_map(|(unit, worth)| Some((plain.strip_suffix(unit)?, *worth)))
            .unwrap_or((plain, 1));
        let number = number.trim_ascii_end();
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let is_number =
            |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        if !is_number(whole) || !is_number(fraction) || fraction.len() > 9 {
            return Err(refuse());
        }
        let whole: u128 = whole.parse().map_err(|_| refuse())?;
        let parts: u128 = format!("{fraction:0<9}").parse().map_err(|_| refuse())?;
        let billionths = whole
            .checked_mul(1_000_000_000)
            .and_then(|whole| whole.checked_add(parts))
            .and_then(|number| number.checked_mul(u128::from(worth)))
            .filter(|billionths| billionths % 1_000_000_000 == 0)
            .ok_or_else(refuse)?;
        match u64::try_from(billionths / 1_000_000_000) {
            Ok(bytes) if bytes <= Self::MAX.0 => Ok(Self(bytes)),
            _ => Err(refuse()),
        }
    }
}

impl FromStr for ByteSize {
    type Err = ByteSizeError;
    fn from_str(text: &str) -> Result<Self, ByteSizeError> {
        Self::parse(text)
    }
}

impl fmt::Display for ByteSize {
    /// In the largest unit of which it is a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |worth: u64| self.0 >= worth && self.0.is_multiple_of(worth);
        match UNITS.iter().find(|(_, worth)| *worth > 1 && fits(*worth)) {
            Some((unit, worth)) => write!(f, "{}{unit}", self.0 / worth),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberOrText)
    }
}

struct NumberOrText;

impl Visitor<'_> for NumberOrText {
    type Value = ByteSize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of bytes, such as `10GB`, `512MiB` or 1000000")
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<ByteSize, E> {
        match number <= ByteSize::MAX.0 {
            true => Ok(ByteSize(number)),
            false => Err(E::custom(ByteSizeError(number.to_string()))),
        }
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<ByteSize, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::custom(ByteSizeError(number.to_string()))),
        }
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ByteSize, E> {
        ByteSize::parse(text).map_err(E::custom)
    }
}

impl JsonSchema for ByteSize {
    fn schema_name() -> Cow<'static, str> {
        "ByteSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "minimum": 0,
            "description": "A number of bytes: `10GB`, `512MiB`, or 1000000.",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: Option<u64>) {
        assert_eq!(
            ByteSize::parse(text).ok().map(ByteSize::bytes),
            want,
            "{text}"
        );
    }

    #[test]
    fn numbers_with_units_are_read() {
        check("0", Some(0));
        check("1000000", Some(1_000_000));
        check("10GB", Some(10_000_000_000));
        check("10 GB", Some(10_000_000_000));
        check("512MiB", Some(512 << 20));
        check("1.5GiB", Some(3 << 29));
        check("1.5kB", Some(1_500));
        check("64KiB", Some(65_536));
        check("7B", Some(7));
        check("7 bytes", Some(7));
        check("9223372036854775807", Some(i64::MAX.unsigned_abs()));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "GB",
            "-1",
            "10G",
            "10gb",
            "1.5",
            "0.5B",
            "1.0000000001GB",
            "1.5.5GB",
            ".5GB",
            "1 2GB",
            "ten",
            "9223372036854775808",
            "99999999999PiB",
            "99999999999999999999999999999999999999999PiB",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for text in ["10GB", "512MiB", "64MiB", "1000001", "0", "1536MiB"] {
            let size = ByteSize::parse(text).map(|size| size.to_string());
            assert_eq!(size, Ok(text.into()));
        }
    }
}
