//! Records and lines: what they say.

use super::{EntryPath, TARGET_BYTES_MAX, lines::line};
use alknet_core::{
    CallError,
    files::{FileKind, FileTime},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What is said of one entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An entry; after a file come its bytes.
    Entry(EntryRecord),
    /// A hole of so many bytes in the file that is under way.
    Hole(u64),
    /// The file that is under way comes no further: it is left as it was.
    Broken(Failure),
    /// What was asked for cannot be sent.
    Failed {
        /// What.
        path: EntryPath,
        /// Why.
        error: Failure,
    },
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum EntryRecord {
    /// A file, whose bytes follow.
    File(FileRecord),
    /// A directory.
    Directory {
        /// Where.
        path: EntryPath,
        /// Permissions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<u32>,
        /// Time of the last change, for information: what comes into it
        /// changes it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mtime: Option<FileTime>,
    },
    /// The time, and permissions, of a directory that is complete.
    DirectoryTimes {
        /// Where.
        path: EntryPath,
        /// Permissions, if they let nobody write into it until now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<u32>,
        /// Time of the last change.
        mtime: FileTime,
    },
    /// A symbolic link.
    Symlink {
        /// Where.
        path: EntryPath,
        /// Where it leads, percent-escaped as names are.
        target: String,
    },
}

/// A file of a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Where.
    pub path: EntryPath,
    /// How many bytes follow, holes included.
    pub bytes: u64,
    /// Permissions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Time of the last change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime: Option<FileTime>,
}

impl EntryRecord {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &EntryPath {
        match self {
            Self::File(file) => &file.path,
            Self::Directory { path, .. }
            | Self::DirectoryTimes { path, .. }
            | Self::Symlink { path, .. } => path,
        }
    }
}

/// Why one entry failed: code and sentence, as of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The code.
    pub code: String,
    /// One sentence.
    #[serde(default)]
    pub message: String,
}

impl From<&CallError> for Failure {
    fn from(error: &CallError) -> Self {
        Self {
            code: error.code.clone().into_owned(),
            message: error.message.clone(),
        }
    }
}

impl Record {
    /// The record of a file.
    #[must_use]
    pub fn file(path: EntryPath, bytes: u64, mode: Option<u32>, mtime: Option<FileTime>) -> Self {
        Self::Entry(EntryRecord::File(FileRecord {
            path,
            bytes,
            mode,
            mtime,
        }))
    }

    /// As it is sent, on the auxiliary stream.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        #[derive(Serialize)]
        struct Hole {
            hole: u64,
        }
        #[derive(Serialize)]
        struct Broken<'a> {
            broken: &'a Failure,
        }
        #[derive(Serialize)]
        struct Failed<'a> {
            path: &'a EntryPath,
            error: &'a Failure,
        }
        match self {
            Self::Entry(entry) => line(entry),
            Self::Hole(hole) => line(&Hole { hole: *hole }),
            Self::Broken(broken) => line(&Broken { broken }),
            Self::Failed { path, error } => line(&Failed { path, error }),
        }
    }
}

/// What a record may be, told by the names that it has.
impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Raw {
            #[serde(default)]
            path: Option<EntryPath>,
            #[serde(default)]
            kind: Option<Kind>,
            #[serde(default)]
            bytes: Option<u64>,
            #[serde(default)]
            mode: Option<u32>,
            #[serde(default)]
            mtime: Option<FileTime>,
            #[serde(default)]
            target: Option<Target>,
            #[serde(default)]
            hole: Option<u64>,
            #[serde(default)]
            broken: Option<Failure>,
            #[serde(default)]
            error: Option<Failure>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        enum Kind {
            File,
            Directory,
            DirectoryTimes,
            Symlink,
        }
        let missing = |what: &str| D::Error::custom(format!("`{what}` is missing"));
        let raw = Raw::deserialize(d)?;
        if let Some(hole) = raw.hole {
            return Ok(Self::Hole(hole));
        }
        if let Some(broken) = raw.broken {
            return Ok(Self::Broken(broken));
        }
        let path = raw.path.ok_or_else(|| missing("path"))?;
        if let Some(error) = raw.error {
            return Ok(Self::Failed { path, error });
        }
        let (mode, mtime) = (raw.mode, raw.mtime);
        Ok(Self::Entry(
            match raw.kind.ok_or_else(|| missing("kind"))? {
                Kind::File => EntryRecord::File(FileRecord {
                    path,
                    bytes: raw.bytes.ok_or_else(|| missing("bytes"))?,
                    mode,
                    mtime,
                }),
                Kind::Directory => EntryRecord::Directory { path, mode, mtime },
                Kind::DirectoryTimes => EntryRecord::DirectoryTimes {
                    path,
                    mode,
                    mtime: mtime.ok_or_else(|| missing("mtime"))?,
                },
                Kind::Symlink => EntryRecord::Symlink {
                    path,
                    target: raw.target.ok_or_else(|| missing("target"))?.0,
                },
            },
        ))
    }
}

/// A line that asks `fs/read-many` for an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Which.
    pub path: EntryPath,
}

/// A line with which `fs/write-many` tells what became of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Which.
    pub path: EntryPath,
    /// Whether it is there, durably.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// A line with which `fs/compare` is told what the caller has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// Which entry.
    pub path: EntryPath,
    /// What it is.
    pub kind: FileKind,
    /// Bytes of a file.
    #[serde(default)]
    pub bytes: u64,
    /// Time of the last change; not compared if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime: Option<FileTime>,
    /// Permissions; not compared if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Where a link leads, percent-escaped as names are.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "target"
    )]
    pub target: Option<String>,
}

/// A target of at most [`TARGET_BYTES_MAX`].
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Target(String);

impl TryFrom<String> for Target {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match text.len() <= TARGET_BYTES_MAX {
            true => Ok(Self(text)),
            false => Err(format!("a target has more than {TARGET_BYTES_MAX} bytes")),
        }
    }
}

fn target<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<Target>::deserialize(d)?.map(|target| target.0))
}

/// How an entry differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Differs {
    /// It is not there.
    Missing,
    /// It is something else.
    Kind,
    /// Length, time of the last change, or target are others.
    Content,
    /// Permissions, or the time of a directory, are others.
    Attributes,
}

/// A line with which `fs/compare` answers: an entry that differs, or how many
/// were compared so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Difference {
    /// An entry that differs.
    Entry {
        /// Which.
        path: EntryPath,
        /// How.
        differs: Differs,
    },
    /// An entry that could not be looked at.
    Failed {
        /// Which.
        path: EntryPath,
        /// Why.
        error: Failure,
    },
    /// Entries compared so far.
    Seen {
        /// How many.
        seen: u64,
    },
}
