//! What is known of files.

use super::path::FileName;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{borrow::Cow, fmt, str::FromStr};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// Bytes.
    File,
    /// Entries.
    Directory,
    /// A path to go on with.
    Symlink,
    /// A pipe, a device or a socket, which is never opened.
    Other,
}

/// A time with nanoseconds, as files have it. Written in RFC 3339; one that
/// has no such form (before year 0, after 9999) as `@SECONDS.NANOSECONDS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileTime {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// Nanoseconds after that, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// A text that is no time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no time: as in 2026-11-20T10:00:00Z")]
pub struct FileTimeError(String);

impl fmt::Display for FileTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanoseconds = i128::from(self.seconds) * 1_000_000_000 + i128::from(self.nanoseconds);
        let time = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds);
        match time.ok().and_then(|time| time.format(&Rfc3339).ok()) {
            Some(text) => f.write_str(&text),
            None => write!(f, "@{}.{:09}", self.seconds, self.nanoseconds),
        }
    }
}

impl FromStr for FileTime {
    type Err = FileTimeError;

    fn from_str(text: &str) -> Result<Self, FileTimeError> {
        let bad = || FileTimeError(crate::near::brief(text).into_owned());
        if let Some(plain) = text.strip_prefix('@') {
            let (seconds, fraction) = plain.split_once('.').unwrap_or((plain, ""));
            let is_fraction =
                fraction.len() <= 9 && fraction.bytes().all(|digit| digit.is_ascii_digit());
            let nanoseconds = format!("{fraction:0<9}").parse().map_err(|_| bad())?;
            let seconds = seconds.parse().map_err(|_| bad())?;
            return match is_fraction {
                true => Ok(Self {
                    seconds,
                    nanoseconds,
                }),
                false => Err(bad()),
            };
        }
        let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| bad())?;
        Ok(Self {
            seconds: time.unix_timestamp(),
            nanoseconds: time.nanosecond(),
        })
    }
}

impl Serialize for FileTime {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FileTime {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <Cow<'_, str>>::deserialize(d)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for FileTime {
    fn schema_name() -> Cow<'static, str> {
        "FileTime".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "RFC 3339, with up to nine digits of a second.",
        })
    }
}

/// What is known of a file, a directory or a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileStat {
    /// What it is.
    pub kind: FileKind,
    /// Its length in bytes, holes included; of a link, of its target's text.
    pub bytes: u64,
    /// Permissions as POSIX has them: the low twelve bits of `st_mode`.
    pub mode: u32,
    /// Number of its owner there.
    pub uid: u32,
    /// Number of its group there.
    pub gid: u32,
    /// Names that it has.
    pub links: u64,
    /// When its content changed last.
    pub mtime: FileTime,
    /// When it was read last, as far as the host keeps that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub atime: Option<FileTime>,
    /// Another text whenever the file or its content is another: opaque, for
    /// comparison only.
    pub version: String,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListEntry {
    /// Its name.
    pub name: FileName,
    /// What is known of it; links are not followed.
    #[serde(flatten)]
    pub stat: FileStat,
    /// Where a link leads, percent-escaped as names are; not told if that is
    /// outside of the bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The present.
    Now,
    /// This one.
    To(FileTime),
}

/// Attributes to set; what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Length: cut off, or filled up with a hole.
    pub bytes: Option<u64>,
    /// Permissions: `0o777`, and `0o1000` for directories. Other bits are
    /// refused: what a caller uploads never runs as somebody else.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Time of the last change.
    pub mtime: Option<SetTime>,
    /// Time of the last reading.
    pub atime: Option<SetTime>,
}

impl Attributes {
    /// Whether nothing is to be set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Room of a bucket: that of its file system, or what its quota leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Space {
    /// Bytes in all.
    pub bytes: u64,
    /// Bytes that may still be written.
    pub bytes_free: u64,
    /// Entries in all; 0 if that is not counted.
    pub entries: u64,
    /// Entries that may still be made; 0 if that is not counted.
    pub entries_free: u64,
    /// Size of a block.
    pub block_bytes: u64,
    /// Whether nothing can be written.
    pub read_only: bool,
}

/// What a bucket is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum BucketKind {
    /// A directory of the host.
    Host,
    /// Content-addressed and versioned.
    Tree,
}

/// A bucket, as listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BucketInfo {
    /// Its name.
    pub name: String,
    /// What it is made of.
    pub kind: BucketKind,
    /// Whether nothing can be written.
    pub read_only: bool,
    /// Most bytes of files in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
    /// Most entries in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_entries: Option<u64>,
    /// Why it cannot be used now, if it cannot: its directory is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
}

/// A digest algorithm.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// BLAKE3, 256 bits.
    Blake3,
    /// SHA-256 (FIPS 180-4).
    Sha256,
    /// MD5 (RFC 1321): for comparison with what others wrote down, against
    /// accidents only.
    Md5,
}

/// Digests in lowercase hexadecimal digits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Digests {
    /// BLAKE3, 64 digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
    /// SHA-256, 64 digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// MD5, 32 digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub md5: Option<String>,
}

/// What happened to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ChangeKind {
    /// Nothing yet: what happens from here on is told. Whoever keeps a copy
    /// lists now.
    Started,
    /// It is there now; also if it replaced another.
    Created,
    /// Its content is another.
    Modified,
    /// Its permissions, owner or times are others.
    Attributes,
    /// It is gone.
    Removed,
    /// It was moved, from `from` if that is watched too.
    Renamed,
    /// Changes were missed: whoever keeps a copy lists again.
    Missed,
}

/// A change that was watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileChange {
    /// Where to go on after a cut: goes into `after`.
    pub cursor: String,
    /// What happened.
    pub kind: ChangeKind,
    /// To what; what is watched itself if it was removed, if changes were
    /// missed, and at the start.
    pub file: super::path::FilePath,
    /// Where it was before, if that is watched too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<super::path::FilePath>,
    /// What it is, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<FileKind>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_are_told_to_the_nanosecond_and_read_back() {
        let check = |seconds, nanoseconds, text: &str| {
            let time = FileTime {
                seconds,
                nanoseconds,
            };
            assert_eq!(time.to_string(), text);
            assert_eq!(text.parse(), Ok(time));
        };
        check(0, 0, "1970-01-01T00:00:00Z");
        check(1_763_632_800, 1, "2025-11-20T10:00:00.000000001Z");
        check(-1, 999_999_999, "1969-12-31T23:59:59.999999999Z");
        check(i64::MAX, 5, "@9223372036854775807.000000005");
        check(i64::MIN, 0, "@-9223372036854775808.000000000");
        assert!("yesterday".parse::<FileTime>().is_err());
        assert!("@1.0000000001".parse::<FileTime>().is_err());
        assert!("@1.+1".parse::<FileTime>().is_err());
    }
}
