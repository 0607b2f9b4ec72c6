//! Which directories are buckets, and how much may be in them.

use crate::size::ByteSize;
use alknet_core::{
    TimeSpan,
    files::{BucketRef, PathVersion},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

/// Name of the bucket that is there without being configured.
pub const INBOX: &str = "inbox";
/// Room that is left on a disk unless configured otherwise: 64 MiB.
const KEEP_FREE: ByteSize = ByteSize::new(64 * 1024 * 1024);

/// Configuration of files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct FilesConfig {
    /// Whether there is a bucket `inbox`, a directory in the node's own data
    /// directory, unless a `[[bucket]]` has that name. Default `true`.
    pub inbox: bool,
    /// How long an upload that was cut is kept for its sender to go on with.
    /// Default `7d`.
    pub partials_kept: TimeSpan,
}

impl Default for FilesConfig {
    fn default() -> Self {
        Self {
            inbox: true,
            partials_kept: TimeSpan::seconds(7 * 86_400),
        }
    }
}

impl FilesConfig {
    /// The buckets that are meant, the inbox among them, in the order of their
    /// names. Makes nothing.
    ///
    /// # Errors
    ///
    /// [`FilesConfigError`], as a node would refuse to start.
    pub fn buckets(
        &self,
        configured: &[BucketConfig],
        data_directory: &Path,
    ) -> Result<Vec<BucketConfig>, FilesConfigError> {
        checked(self, configured, Some(data_directory))
    }
}

/// A directory of this machine, as a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct BucketConfig {
    /// Name that callers use: `a` to `z`, digits and `-`, at most 63.
    pub name: String,
    /// The directory, absolute. Nothing leads out of it.
    pub path: PathBuf,
    /// Whether nothing is written through this bucket. Default `false`.
    #[serde(default)]
    pub read_only: bool,
    /// Most bytes of files in it, such as `10GB` or `512MiB`. Default: as many
    /// as fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<ByteSize>,
    /// Most files, directories and links in it. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_entries: Option<u64>,
    /// Room that is left free on its file system for others. Default `64MiB`.
    #[serde(default = "keep_free")]
    pub keep_free: ByteSize,
}

fn keep_free() -> ByteSize {
    KEEP_FREE
}

impl BucketConfig {
    /// A directory that is read and written, without a quota.
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            path: path.into(),
            read_only: false,
            quota: None,
            quota_entries: None,
            keep_free: KEEP_FREE,
        }
    }
}

/// Why the configuration of buckets cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilesConfigError {
    /// The name is none of a bucket.
    #[error(
        "bucket `{name}` cannot have that name: 1 to 63 of the letters `a` to `z`, digits and `-` are allowed"
    )]
    Name {
        /// As configured.
        name: String,
    },
    /// Two buckets have one name.
    #[error("bucket `{name}` is configured twice")]
    Twice {
        /// The name.
        name: String,
    },
    /// The path is relative, or holds NUL.
    #[error("bucket `{name}` has the path `{path}`, which is not absolute")]
    Relative {
        /// The bucket.
        name: String,
        /// As configured.
        path: String,
    },
    /// What the node keeps for itself would be open to callers.
    #[error("bucket `{name}` is the node's own data directory, or lies in it")]
    OwnData {
        /// The bucket.
        name: String,
    },
    /// A quota under which nothing could be written.
    #[error("bucket `{name}` has `{field}` 0, under which nothing could be written")]
    NoRoom {
        /// The bucket.
        name: String,
        /// `quota` or `quota_entries`.
        field: &'static str,
    },
    /// The directory of the inbox cannot be made.
    #[error("failed to make the directory of the bucket `inbox`")]
    Inbox(#[source] io::Error),
}

impl FilesConfigError {
    /// What may help, as one line.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoRoom { .. } => Some("`read_only = true` makes a bucket that is not written to"),
            Self::OwnData { .. } => Some("use another directory, or the bucket `inbox`"),
            Self::Relative { .. } => Some("write the whole path, such as `/var/www`"),
            _ => None,
        }
    }
}

/// The buckets that are meant, the inbox among them, in the order of their names.
pub(crate) fn checked(
    files: &FilesConfig,
    buckets: &[BucketConfig],
    data_directory: Option<&Path>,
) -> Result<Vec<BucketConfig>, FilesConfigError> {
    let mut names = BTreeSet::new();
    let own = data_directory.map(real);
    for bucket in buckets {
        check_bucket(bucket, own.as_deref())?;
        if !names.insert(bucket.name.as_str()) {
            let name = bucket.name.clone();
            return Err(FilesConfigError::Twice { name });
        }
    }
    let mut all = buckets.to_vec();
    if let (true, Some(data)) = (files.inbox && !names.contains(INBOX), data_directory) {
        all.push(BucketConfig::new(INBOX, data.join(INBOX)));
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

fn check_bucket(bucket: &BucketConfig, own: Option<&Path>) -> Result<(), FilesConfigError> {
    let name = || bucket.name.clone();
    let is_name =
        BucketRef::parse(&bucket.name).is_ok_and(|parsed| *parsed.version() == PathVersion::Now);
    if !is_name {
        return Err(FilesConfigError::Name { name: name() });
    }
    let bytes = bucket.path.as_os_str().as_encoded_bytes();
    if !bucket.path.is_absolute() || bytes.contains(&0) {
        let path = bucket.path.display().to_string();
        return Err(FilesConfigError::Relative { name: name(), path });
    }
    for (field, is_zero) in [
        ("quota", bucket.quota == Some(ByteSize::new(0))),
        ("quota_entries", bucket.quota_entries == Some(0)),
    ] {
        if is_zero {
            return Err(FilesConfigError::NoRoom {
                name: name(),
                field,
            });
        }
    }
    // The inbox as such may be configured too, for a quota or so.
    match own {
        Some(own) if real(&bucket.path).starts_with(own) && !is_inbox(bucket, own) => {
            Err(FilesConfigError::OwnData { name: name() })
        }
        _ => Ok(()),
    }
}

/// Whether a bucket is the inbox of the data directory `own`.
fn is_inbox(bucket: &BucketConfig, own: &Path) -> bool {
    bucket.name == INBOX && real(&bucket.path) == own.join(INBOX)
}

/// Where a path leads, as far as there is something; what is not there yet stays
/// as it is written.
pub(crate) fn real(path: &Path) -> PathBuf {
    for above in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (above.canonicalize(), path.strip_prefix(above)) {
            return match rest.as_os_str().is_empty() {
                true => real,
                false => real.join(rest),
            };
        }
    }
    path.to_path_buf()
}
