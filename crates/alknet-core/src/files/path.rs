//! Names of files, which are bytes, and how they are written as text.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{borrow::Cow, fmt, str::FromStr};

/// Longest name of an entry, in bytes.
pub const FILE_NAME_BYTES_MAX: usize = 255;
/// Longest path below a bucket, in bytes, separators included: what a host
/// takes (`PATH_MAX` with its final NUL).
pub const FILE_PATH_BYTES_MAX: usize = 4095;
/// Longest name of a bucket or a branch.
pub const BUCKET_NAME_BYTES_MAX: usize = 63;

/// Why a text names no file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// What stands before the first `/` is no bucket.
    #[error("a file is `bucket[@branch]/path`, with a bucket of `a` to `z`, digits and `-`")]
    Bucket,
    /// An entry is called `.` or `..`.
    #[error("`.` and `..` are refused")]
    Dots,
    /// A name is empty.
    #[error("a name is empty")]
    Empty,
    /// A name holds `/` or NUL.
    #[error("a name holds `/` or NUL")]
    Byte,
    /// A name is too long.
    #[error("a name has {len} bytes, at most {FILE_NAME_BYTES_MAX} are allowed")]
    NameTooLong {
        /// Bytes found.
        len: usize,
    },
    /// A path is too long.
    #[error("a path has {len} bytes, at most {FILE_PATH_BYTES_MAX} are allowed")]
    PathTooLong {
        /// Bytes found.
        len: usize,
    },
    /// A `%` does not begin an escape.
    #[error("`%` stands before two hexadecimal digits: write it as `%25`")]
    Escape,
}

/// The name of an entry: 1 to 255 bytes without `/` and NUL, not `.` or `..`.
/// Letter case and normal form are kept as given.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileName(Box<[u8]>);

impl FileName {
    /// Takes bytes as they are.
    ///
    /// # Errors
    ///
    /// [`PathError`] if they are no name.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Result<Self, PathError> {
        let bytes = bytes.into();
        match &*bytes {
            [] => Err(PathError::Empty),
            b"." | b".." => Err(PathError::Dots),
            _ if bytes.iter().any(|byte| matches!(byte, b'/' | 0)) => Err(PathError::Byte),
            _ if bytes.len() > FILE_NAME_BYTES_MAX => {
                Err(PathError::NameTooLong { len: bytes.len() })
            }
            _ => Ok(Self(bytes)),
        }
    }

    /// Reads a name as it is written in JSON: see [`escape_name`].
    ///
    /// # Errors
    ///
    /// [`PathError`] if it is no name.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        Self::new(unescape_name(text)?.into_owned())
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for FileName {
    /// As it is written in JSON.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape_name(&self.0))
    }
}

impl fmt::Debug for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", escape_name(&self.0))
    }
}

impl Serialize for FileName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&escape_name(&self.0))
    }
}

impl<'de> Deserialize<'de> for FileName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <Cow<'_, str>>::deserialize(d)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

/// Bytes as text: what is UTF-8 stays, other bytes and `%` become `%XX`
/// (RFC 3986, section 2.1, with capital digits). One text for each name.
#[must_use]
pub fn escape_name(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes)
        && !bytes.contains(&b'%')
    {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(bytes.len() + 8);
    for chunk in bytes.utf8_chunks() {
        for part in chunk.valid().split_inclusive('%') {
            match part.strip_suffix('%') {
                Some(before) => out.extend([before, "%25"]),
                None => out.push_str(part),
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    Cow::Owned(out)
}

/// Undoes [`escape_name`]; takes escapes of any byte, in either case.
///
/// # Errors
///
/// [`PathError::Escape`] if a `%` does not stand before two hexadecimal digits.
pub fn unescape_name(text: &str) -> Result<Cow<'_, [u8]>, PathError> {
    let mut parts = text.as_bytes().split(|byte| *byte == b'%');
    let first = parts.next().unwrap_or_default();
    if first.len() == text.len() {
        return Ok(Cow::Borrowed(first));
    }
    let mut out = first.to_vec();
    for part in parts {
        let digit = |at: usize| (*part.get(at)? as char).to_digit(16);
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err(PathError::Escape);
        };
        out.push(u8::try_from(high * 16 + low).unwrap_or_default());
        out.extend_from_slice(&part[2..]);
    }
    Ok(Cow::Owned(out))
}

/// Which state of a bucket is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum PathVersion {
    /// As it is now.
    #[default]
    Now,
    /// `@branch`.
    Branch(Box<str>),
    /// `@@moment`: as it was then, not to be written.
    Moment(Box<str>),
}

/// A bucket, one of its branches, or it at a moment: `bucket[@branch]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BucketRef {
    bucket: Box<str>,
    version: PathVersion,
}

impl BucketRef {
    /// Reads `bucket`, `bucket@branch` or `bucket@@moment`.
    ///
    /// # Errors
    ///
    /// [`PathError::Bucket`].
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let is_name = |text: &str| {
            (1..=BUCKET_NAME_BYTES_MAX).contains(&text.len())
                && text
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        let (bucket, version) = match text.split_once('@') {
            None => (text, PathVersion::Now),
            Some((bucket, version)) => match version.strip_prefix('@') {
                Some("") => return Err(PathError::Bucket),
                Some(moment) if moment.bytes().any(|b| matches!(b, b'/' | b'%' | 0)) => {
                    return Err(PathError::Bucket);
                }
                Some(moment) => (bucket, PathVersion::Moment(moment.into())),
                None if !is_name(version) => return Err(PathError::Bucket),
                None => (bucket, PathVersion::Branch(version.into())),
            },
        };
        match is_name(bucket) {
            true => Ok(Self {
                bucket: bucket.into(),
                version,
            }),
            false => Err(PathError::Bucket),
        }
    }

    /// The bucket's name.
    #[must_use]
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Which state of it.
    #[must_use]
    pub fn version(&self) -> &PathVersion {
        &self.version
    }
}

impl fmt::Display for BucketRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.bucket)?;
        match &self.version {
            PathVersion::Now => Ok(()),
            PathVersion::Branch(branch) => write!(f, "@{branch}"),
            PathVersion::Moment(moment) => write!(f, "@@{moment}"),
        }
    }
}

/// A file or a directory: `bucket[@branch]/path`. Its text is the canonical
/// form that grants of the kind `bucket` are matched with.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilePath {
    root: BucketRef,
    names: Vec<FileName>,
}

impl FilePath {
    /// Reads `bucket[@branch]/path` with names as [`FileName::parse`] takes
    /// them; doubled and final slashes say nothing.
    ///
    /// # Errors
    ///
    /// [`PathError`] with what is wrong.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let mut parts = text.split('/');
        let root = BucketRef::parse(parts.next().unwrap_or_default())?;
        let names = parts.filter(|part| !part.is_empty()).map(FileName::parse);
        Self::new(root, names.collect::<Result<_, _>>()?)
    }

    /// A path below a bucket.
    ///
    /// # Errors
    ///
    /// [`PathError::PathTooLong`].
    pub fn new(root: BucketRef, names: Vec<FileName>) -> Result<Self, PathError> {
        let len = names.iter().map(|name| name.0.len() + 1).sum::<usize>();
        let len = len.saturating_sub(1);
        match len > FILE_PATH_BYTES_MAX {
            true => Err(PathError::PathTooLong { len }),
            false => Ok(Self { root, names }),
        }
    }

    /// The bucket, and which state of it.
    #[must_use]
    pub fn root(&self) -> &BucketRef {
        &self.root
    }

    /// The bucket's name.
    #[must_use]
    pub fn bucket(&self) -> &str {
        self.root.bucket()
    }

    /// The names below the bucket's root; none for the root itself.
    #[must_use]
    pub fn names(&self) -> &[FileName] {
        &self.names
    }

    /// The last name; none for the root.
    #[must_use]
    pub fn name(&self) -> Option<&FileName> {
        self.names.last()
    }

    /// The directory it lies in; none for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let (_, above) = self.names.split_last()?;
        Some(Self {
            root: self.root.clone(),
            names: above.to_vec(),
        })
    }

    /// An entry in it.
    ///
    /// # Errors
    ///
    /// [`PathError::PathTooLong`].
    pub fn join(&self, name: FileName) -> Result<Self, PathError> {
        self.join_all(std::iter::once(name))
    }

    /// An entry below it.
    ///
    /// # Errors
    ///
    /// [`PathError::PathTooLong`].
    pub fn join_all(&self, names: impl IntoIterator<Item = FileName>) -> Result<Self, PathError> {
        let all = self.names.iter().cloned().chain(names).collect();
        Self::new(self.root.clone(), all)
    }

    /// Whether it is `above` or lies below it.
    #[must_use]
    pub fn is_within(&self, above: &Self) -> bool {
        self.root == above.root && self.names.starts_with(&above.names)
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.fmt(f)?;
        for name in &self.names {
            write!(f, "/{name}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl FromStr for FilePath {
    type Err = PathError;
    fn from_str(text: &str) -> Result<Self, PathError> {
        Self::parse(text)
    }
}

impl Serialize for FilePath {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FilePath {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <Cow<'_, str>>::deserialize(d)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

impl schemars::JsonSchema for FilePath {
    fn schema_name() -> Cow<'static, str> {
        "FilePath".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "`bucket[@branch]/path`; in names, `%` and bytes that are not UTF-8 are written `%XX`.",
        })
    }
}

impl schemars::JsonSchema for FileName {
    fn schema_name() -> Cow<'static, str> {
        "FileName".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "1 to 255 bytes without `/` and NUL; `%` and bytes that are not UTF-8 are written `%XX`.",
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_byte_but_two_is_a_name() {
        for byte in 0..=u8::MAX {
            let name = FileName::new(vec![byte, b'x']);
            assert_eq!(name.is_ok(), byte != 0 && byte != b'/', "{byte}");
        }
        assert_eq!(FileName::new(*b""), Err(PathError::Empty));
        assert_eq!(FileName::new(*b"."), Err(PathError::Dots));
        assert_eq!(FileName::parse("%2e%2E"), Err(PathError::Dots));
        assert_eq!(FileName::parse("a%2fb"), Err(PathError::Byte));
        assert_eq!(FileName::parse("a%00b"), Err(PathError::Byte));
        assert!(FileName::parse("...").is_ok());
    }

    #[test]
    fn a_name_has_255_bytes_and_not_one_more() {
        assert!(FileName::new(vec![b'a'; FILE_NAME_BYTES_MAX]).is_ok());
        let len = FILE_NAME_BYTES_MAX + 1;
        let long = FileName::new(vec![b'a'; len]);
        assert_eq!(long, Err(PathError::NameTooLong { len }));
        // As text it may be three times as long.
        assert!(FileName::parse(&"%FF".repeat(FILE_NAME_BYTES_MAX)).is_ok());
    }

    #[test]
    fn a_path_has_4095_bytes_and_not_one_more() {
        let names = |last: usize| {
            let mut names = vec![FileName::new(vec![b'a'; 255]).unwrap(); 15];
            names.push(FileName::new(vec![b'b'; last]).unwrap());
            FilePath::new(BucketRef::parse("www").unwrap(), names)
        };
        assert!(names(255).is_ok());
        let mut over = names(255).unwrap();
        over.names[0] = FileName::new(vec![b'a'; 254]).unwrap();
        let fits = over.join(FileName::new(*b"c").unwrap());
        assert_eq!(fits, Err(PathError::PathTooLong { len: 4096 }));
    }

    #[test]
    fn text_has_one_form() {
        let form = |text: &str| FilePath::parse(text).map(|path| path.to_string());
        assert_eq!(form("www//a///b/").unwrap(), "www/a/b");
        assert_eq!(form("www/100%25").unwrap(), "www/100%25");
        assert_eq!(form("www/%61%ff").unwrap(), "www/a%FF");
        assert_eq!(form("www/%C3%A9").unwrap(), "www/é");
        assert_eq!(form("www@dev/a").unwrap(), "www@dev/a");
        let moment = "www@@2026-11-20T10:00:00Z/a";
        assert_eq!(form(moment).unwrap(), moment);
        for bad in [
            "", "/www", "WWW", "www@", "www@@", "a_b/c", "www/..", "www/%2e",
        ] {
            assert!(form(bad).is_err(), "{bad:?}");
        }
        assert_eq!(form("www/100%"), Err(PathError::Escape));
        assert_eq!(form("www/%é1"), Err(PathError::Escape));
    }

    proptest! {
        #[test]
        fn any_name_comes_back(bytes in proptest::collection::vec(any::<u8>(), 1..300)) {
            if let Ok(name) = FileName::new(bytes) {
                prop_assert_eq!(FileName::parse(&name.to_string()).unwrap(), name);
            }
        }

        #[test]
        fn any_text_is_a_path_or_refused(text in "[a-z]{1,3}(/|%|[0-9a-fA-F]|é|\\.){0,12}") {
            if let Ok(path) = FilePath::parse(&text) {
                let form = path.to_string();
                prop_assert_eq!(FilePath::parse(&form).unwrap().to_string(), form);
            }
        }
    }
}
