//! Where an entry lies below the directory that is copied.

use alknet_core::files::{FILE_PATH_BYTES_MAX, FileName, FilePath, PathError};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{borrow::Cow, fmt, str::FromStr};

/// A path below a directory: names joined by `/`, written as those of a
/// [`FilePath`] are. None of them is `.` or `..`; no names stand for the
/// directory itself, written as the empty text.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryPath(Vec<FileName>);

impl EntryPath {
    /// Names below one another.
    #[must_use]
    pub fn new(names: Vec<FileName>) -> Self {
        Self(names)
    }

    /// Reads names joined by `/`, of at most 4,095 bytes ([`FILE_PATH_BYTES_MAX`]); an
    /// absolute path is refused, as doubled and final slashes are.
    ///
    /// # Errors
    ///
    /// [`PathError`] with what is wrong.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let names: Vec<FileName> = text
            .split('/')
            .map(FileName::parse)
            .collect::<Result<_, _>>()?;
        let len = names.iter().map(|name| name.as_bytes().len() + 1);
        match len.sum::<usize>() - 1 {
            len if len > FILE_PATH_BYTES_MAX => Err(PathError::PathTooLong { len }),
            _ => Ok(Self(names)),
        }
    }

    /// The names.
    #[must_use]
    pub fn names(&self) -> &[FileName] {
        &self.0
    }

    /// Whether it is the directory itself.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// An entry in it.
    #[must_use]
    pub fn join(&self, name: FileName) -> Self {
        Self(self.0.iter().cloned().chain([name]).collect())
    }

    /// The file it stands for below `directory`.
    ///
    /// # Errors
    ///
    /// [`PathError::PathTooLong`].
    pub fn below(&self, directory: &FilePath) -> Result<FilePath, PathError> {
        directory.join_all(self.0.iter().cloned())
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, name) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("/")?;
            }
            name.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl FromStr for EntryPath {
    type Err = PathError;
    fn from_str(text: &str) -> Result<Self, PathError> {
        Self::parse(text)
    }
}

impl Serialize for EntryPath {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EntryPath {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <Cow<'_, str>>::deserialize(d)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

impl schemars::JsonSchema for EntryPath {
    fn schema_name() -> Cow<'static, str> {
        "EntryPath".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A path below the directory; in names, `%` and bytes that are not UTF-8 are written `%XX`.",
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_paths_below_are_taken() {
        let top = FilePath::parse("www/in").unwrap();
        let below = |text: &str| EntryPath::parse(text).map(|path| path.below(&top).unwrap());
        assert_eq!(below("a/b%20c").unwrap().to_string(), "www/in/a/b c");
        assert_eq!(below("").unwrap(), top);
        for bad in [
            "/a", "a/", "a//b", "..", "a/../b", ".", "a/%2E%2e", "a%2fb", "%00", "%",
        ] {
            assert!(below(bad).is_err(), "{bad:?}");
        }
        let longest = "a/".repeat(2047) + "a";
        EntryPath::parse(&longest).unwrap();
        let longer = EntryPath::parse(&(longest + "/a"));
        assert!(matches!(longer, Err(PathError::PathTooLong { len: 4097 })));
        assert_eq!(EntryPath::parse("a/%ff").unwrap().to_string(), "a/%FF");
    }
}
