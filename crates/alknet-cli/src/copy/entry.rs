//! What is copied: one entry of a tree, with what its source knows of it.

use super::remote::Remote;
use crate::node_access::{
    FILE_PATH_BYTES_MAX, FileKind, FileName, FilePath, FileTime, PathError, root::Directory,
};
use std::{fmt, sync::Arc};

/// Names below a directory as text, escaped as in JSON, with `/` between them;
/// empty for the directory itself. Never leads up or out.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RelPath(Box<str>);

impl RelPath {
    /// The directory itself.
    pub(super) fn top() -> Self {
        Self("".into())
    }

    /// Reads what another node says.
    pub(super) fn parse(text: &str) -> Result<Self, PathError> {
        let parts = text.split('/').map(FileName::parse);
        let names: Vec<FileName> = parts.collect::<Result<_, _>>()?;
        // No host has longer ones, and nobody makes a tree here that is deeper.
        let len = names
            .iter()
            .map(|name| name.as_bytes().len() + 1)
            .sum::<usize>();
        match len > FILE_PATH_BYTES_MAX + 1 {
            true => Err(PathError::PathTooLong { len: len - 1 }),
            false => Ok(Self::of(&names)),
        }
    }

    pub(super) fn of(names: &[FileName]) -> Self {
        let texts: Vec<String> = names.iter().map(ToString::to_string).collect();
        Self(texts.join("/").into())
    }

    /// One name further down.
    pub(super) fn child(&self, name: &FileName) -> Self {
        match self.is_top() {
            true => Self(name.to_string().into()),
            false => Self(format!("{}/{name}", self.0).into()),
        }
    }

    /// The same below it.
    pub(super) fn join(&self, below: &Self) -> Self {
        match (self.is_top(), below.is_top()) {
            (true, _) => below.clone(),
            (_, true) => self.clone(),
            _ => Self(format!("{}/{}", self.0, below.0).into()),
        }
    }

    pub(super) fn is_top(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn names(&self) -> Vec<FileName> {
        let parts = self.0.split('/').filter(|part| !part.is_empty());
        // Only names were put in.
        parts
            .filter_map(|part| FileName::parse(part).ok())
            .collect()
    }

    /// The file itself, in a directory of a bucket.
    pub(super) fn below(&self, directory: &FilePath) -> Result<FilePath, PathError> {
        let names = [directory.names(), &self.names()].concat();
        FilePath::new(directory.root().clone(), names)
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Where the bytes of an entry are.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// Here, in an open directory.
    Local {
        directory: Directory,
        name: FileName,
        /// It takes less room than it has bytes.
        has_holes: bool,
    },
    /// In a bucket.
    Remote {
        remote: Remote,
        /// What was asked for.
        base: Arc<FilePath>,
        /// Below that.
        path: RelPath,
        /// Which state of it.
        version: String,
        /// It is read by itself, and links in its path are followed.
        is_direct: bool,
    },
}

/// One entry to be copied.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Where it goes, below the directory that is copied into.
    pub(super) path: RelPath,
    pub(super) kind: FileKind,
    /// Length of a file.
    pub(super) bytes: u64,
    pub(super) mode: u32,
    pub(super) mtime: FileTime,
    /// Where a link leads, escaped as names are.
    pub(super) target: Option<String>,
    pub(super) origin: Origin,
}

/// Bits of a mode that are copied: what comes from elsewhere never runs as
/// somebody else.
const MODE_BITS: u32 = 0o777;

impl Entry {
    /// The mode that the copy gets.
    pub(super) fn copied_mode(&self) -> u32 {
        self.copied_bits(self.mode)
    }

    /// Those of a mode that are copied.
    pub(super) fn copied_bits(&self, mode: u32) -> u32 {
        match self.kind {
            // Who may write into it removes only what is theirs.
            FileKind::Directory => mode & (MODE_BITS | 0o1000),
            _ => mode & MODE_BITS,
        }
    }

    /// Whether it is told as data and holes: of a bucket's file it is not known
    /// what room it takes.
    pub(super) fn may_have_holes(&self) -> bool {
        match &self.origin {
            Origin::Local { has_holes, .. } => *has_holes,
            Origin::Remote { .. } => true,
        }
    }

    /// Whether bits of its mode are left out.
    pub(super) fn loses_bits(&self) -> bool {
        self.mode & 0o6000 != 0 && self.kind == FileKind::File
    }
}

/// In what an entry is another than what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Differs {
    /// Nothing is there.
    Missing,
    /// Its length, the time of its last change or where it leads.
    Content,
    /// Its permissions, or the times of a directory.
    Attributes,
    /// Something of another kind is there.
    Kind,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_a_peer_names_lies_below_or_is_refused() {
        for bad in [
            "..", "a/../b", "/etc", "a//b", "a/", ".", "a/%2F/b", "%00", "",
        ] {
            assert!(RelPath::parse(bad).is_err(), "{bad}");
        }
        let long = vec!["a"; FILE_PATH_BYTES_MAX.div_ceil(2)].join("/");
        assert_eq!(long.len(), FILE_PATH_BYTES_MAX);
        assert!(RelPath::parse(&long).is_ok());
        assert!(RelPath::parse(&format!("{long}b")).is_err());
        let path = RelPath::parse("a/%62/\u{e9}%ff").unwrap();
        assert_eq!(path.as_str(), "a/b/\u{e9}%FF");
        assert_eq!(path.names().len(), 3);
        assert_eq!(path.names()[2].as_bytes(), b"\xc3\xa9\xff");
    }

    #[test]
    fn paths_are_put_together() {
        let name = |text: &str| FileName::parse(text).unwrap();
        let top = RelPath::top();
        let a = top.child(&name("a"));
        assert_eq!(a.child(&name("100%25")).as_str(), "a/100%25");
        assert_eq!(a.join(&top), a);
        assert_eq!(top.join(&a), a);
        assert_eq!(a.join(&a).as_str(), "a/a");
        let bucket = FilePath::parse("www/x").unwrap();
        assert_eq!(a.below(&bucket).unwrap().to_string(), "www/x/a");
        assert_eq!(top.below(&bucket).unwrap().to_string(), "www/x");
    }
}
