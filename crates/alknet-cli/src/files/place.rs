//! Where a file is: `peer:bucket/path`, `:bucket/path`, or a local path.

use super::{
    pattern::Pattern,
    text::{place_text, route_text, shown},
};
use crate::{
    failure::Failure,
    hint::quote,
    node_access::{BucketRef, FileName, FilePath, PathError, Route, RouteStep, parse_route},
};
use std::{
    ffi::{OsStr, OsString},
    fmt,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// What the help of every command on files ends with.
pub(crate) const PLACES_HELP: &str = "\
Remote files have a colon: `nas:www/a.txt` is `a.txt` in the bucket `www` of the
peer `nas`, `hub/nas:www/a.txt` the same through `hub`, `:www/a.txt` is this
node's. Everything without a colon is a local path, and so is what begins with
`.` or `/`: `./a:b`. In remote names `*`, `?` and `[a-z]` match as in a shell,
and `**` any number of directories (quote them); any byte may be written `%XX`,
so `%` is `%25` and a star `%2A`. A name that is printed can be typed again.";

/// How remote files look, for hints.
const REMOTE_HINT: &str =
    "remote files have a colon: `nas:bucket/path`, or `:bucket/path` of this node";

/// A file, as it is named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FilePlace {
    /// On this machine, outside of all buckets.
    Local(PathBuf),
    /// In a bucket of a node.
    Remote(RemotePlace),
}

/// A file, files or all buckets of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RemotePlace {
    /// Which node; empty for this one.
    pub(crate) route: Route,
    /// In which bucket; none means all of them.
    bucket: Option<BucketRef>,
    segments: Vec<Segment>,
    /// A slash ends it: a directory is meant.
    pub(crate) is_directory: bool,
}

/// One name of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// The name, taken literally.
    pub(crate) name: FileName,
    /// What it means.
    pub(crate) means: Meaning,
}

/// What a name of a path means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Itself.
    Name,
    /// All names like it.
    Pattern(Pattern),
    /// `**`: any number of directories.
    AnyDepth,
}

impl FilePlace {
    /// Reads what was given on the command line. Text before the first colon
    /// is a route, unless it begins with `.` or `/`.
    pub(crate) fn parse(given: &OsStr) -> Result<Self, Failure> {
        let bytes = given.as_bytes();
        if bytes.is_empty() {
            return Err(Failure::usage("a path is empty"));
        }
        let colon = bytes.iter().position(|byte| *byte == b':');
        let is_path = matches!(bytes.first(), Some(b'.' | b'/'));
        match colon {
            Some(at) if !is_path => {
                let route = route(&bytes[..at], given)?;
                RemotePlace::parse(route, &text_of(&bytes[at + 1..]), given).map(Self::Remote)
            }
            _ => Ok(Self::Local(PathBuf::from(given))),
        }
    }

    /// The same, which must be remote.
    pub(crate) fn parse_remote(given: &OsStr) -> Result<RemotePlace, Failure> {
        match Self::parse(given)? {
            Self::Remote(place) => Ok(place),
            Self::Local(path) => Err(local_refused(&path)),
        }
    }

    /// All of them, which must be remote.
    pub(crate) fn parse_all_remote(given: &[OsString]) -> Result<Vec<RemotePlace>, Failure> {
        given.iter().map(|one| Self::parse_remote(one)).collect()
    }
}

impl fmt::Display for FilePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => f.write_str(&shown(&path.to_string_lossy())),
            Self::Remote(place) => place.fmt(f),
        }
    }
}

fn local_refused(path: &Path) -> Failure {
    let message = format!("`{}` is a local path", shown(&path.to_string_lossy()));
    Failure::usage(message).hint(REMOTE_HINT)
}

/// Bytes of the shell as text: what is no UTF-8 as `%XX`.
fn text_of(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// The nodes before the colon.
fn route(before: &[u8], given: &OsStr) -> Result<Route, Failure> {
    let text = text_of(before);
    if text.is_empty() {
        return Ok(Route::new());
    }
    let route = parse_route(&text).map_err(|error| {
        let message = format!(
            "`{}` is before the colon, and no peer: {error}",
            shown(&text)
        );
        let local = format!("./{}", shown(&given.to_string_lossy()));
        Failure::usage(message).hint(format!(
            "a local file whose name holds a colon is written {}",
            quote(&local)
        ))
    })?;
    match route.last() {
        Some(RouteStep::Any) => Err(Failure::usage(
            "files are those of one node: `any` names none",
        )),
        _ => Ok(route),
    }
}

impl RemotePlace {
    /// Reads `bucket[@branch]/path` in which names may be patterns.
    fn parse(route: Route, text: &str, given: &OsStr) -> Result<Self, Failure> {
        let refuse = |error: PathError| {
            Failure::usage(format!("`{}`: {error}", shown(&given.to_string_lossy())))
        };
        let (bucket, path) = text.split_once('/').unwrap_or((text, ""));
        if text.is_empty() {
            return Ok(Self::buckets(route));
        }
        if bucket.is_empty() {
            let inner = text.trim_start_matches('/');
            let hint = format!("{}:{inner}", route_text(&route));
            let message = "after the colon comes the name of a bucket, without a slash before it";
            return Err(Failure::usage(message).hint(quote(&shown(&hint))));
        }
        if bucket.contains(['*', '?', '[']) {
            let message = "a bucket is named by its name: patterns are for what is in it";
            let hint = format!("alknet ls {}:", route_text(&route));
            return Err(Failure::usage(message).hint(hint));
        }
        let bucket = BucketRef::parse(bucket).map_err(refuse)?;
        let parts = path.split('/').filter(|part| !part.is_empty());
        let segments = parts.map(Segment::parse).collect::<Result<Vec<_>, _>>();
        let place = Self {
            route,
            bucket: Some(bucket.clone()),
            segments: segments.map_err(refuse)?,
            is_directory: text.ends_with('/'),
        };
        let names = place.segments.iter().map(|segment| segment.name.clone());
        FilePath::new(bucket, names.collect()).map_err(refuse)?;
        Ok(place)
    }

    /// All buckets of a node.
    pub(crate) fn buckets(route: Route) -> Self {
        Self {
            route,
            bucket: None,
            segments: Vec::new(),
            is_directory: true,
        }
    }

    /// One file, as it is named.
    pub(crate) fn of(route: Route, file: &FilePath) -> Self {
        let names = file.names().iter().cloned();
        let literal = |name| Segment {
            name,
            means: Meaning::Name,
        };
        Self {
            route,
            bucket: Some(file.root().clone()),
            segments: names.map(literal).collect(),
            is_directory: false,
        }
    }

    /// Whether all buckets are meant.
    pub(crate) fn is_all_buckets(&self) -> bool {
        self.bucket.is_none()
    }

    /// Whether it may mean more than one file.
    pub(crate) fn is_pattern(&self) -> bool {
        let means_more = |segment: &Segment| segment.means != Meaning::Name;
        self.segments.iter().any(means_more)
    }

    /// What stands before the first pattern, and the rest.
    pub(crate) fn split(&self) -> Option<(FilePath, &[Segment])> {
        let means_more = |segment: &Segment| segment.means != Meaning::Name;
        let first = self.segments.iter().position(means_more);
        let (before, rest) = self.segments.split_at(first.unwrap_or(self.segments.len()));
        let names = before.iter().map(|segment| segment.name.clone());
        let path = FilePath::new(self.bucket.clone()?, names.collect()).ok()?;
        Some((path, rest))
    }

    /// The file whose name this is, patterns taken literally; none if all
    /// buckets are meant.
    pub(crate) fn literal(&self) -> Option<FilePath> {
        let names = self.segments.iter().map(|segment| segment.name.clone());
        FilePath::new(self.bucket.clone()?, names.collect()).ok()
    }

    /// The one file that is meant.
    pub(crate) fn file(&self) -> Result<FilePath, Failure> {
        if self.is_pattern() {
            let message = format!("`{self}` is a pattern, and one file is wanted");
            return Err(
                Failure::usage(message).hint("a star is written `%2A`, `?` `%3F`, `[` `%5B`")
            );
        }
        self.literal().ok_or_else(|| {
            let message = format!("`{self}` names no file");
            Failure::usage(message).hint(REMOTE_HINT)
        })
    }
}

impl fmt::Display for RemotePlace {
    /// As it can be typed again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.literal() {
            // What is a pattern stays one.
            Some(file) if self.is_pattern() => {
                write!(
                    f,
                    "{}:{}",
                    route_text(&self.route),
                    shown(&file.to_string())
                )
            }
            Some(file) => f.write_str(&place_text(&self.route, &file)),
            None => write!(f, "{}:", route_text(&self.route)),
        }
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, PathError> {
        let name = FileName::parse(text)?;
        let means = match Pattern::parse(text) {
            _ if text == "**" => Meaning::AnyDepth,
            Some(pattern) => Meaning::Pattern(pattern),
            None => Meaning::Name,
        };
        Ok(Self { name, means })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStringExt;

    #[track_caller]
    fn remote(given: &str) -> RemotePlace {
        FilePlace::parse_remote(OsStr::new(given)).unwrap()
    }

    #[track_caller]
    fn is_file(given: &str, route: &str, file: &str) {
        let place = remote(given);
        assert_eq!(route_text(&place.route), route);
        assert_eq!(place.file().unwrap().to_string(), file);
    }

    #[track_caller]
    fn refused(given: &str, want: &str) {
        let failure = FilePlace::parse(OsStr::new(given)).unwrap_err();
        assert_eq!(failure.to_string(), want);
    }

    #[test]
    fn what_has_a_colon_is_remote() {
        is_file("nas:www/a/b.txt", "nas", "www/a/b.txt");
        is_file("hub/nas:www", "hub/nas", "www");
        is_file(":inbox/a:b", "", "inbox/a:b");
        is_file("nas:www@draft/a", "nas", "www@draft/a");
        is_file(
            "nas:www@@2026-11-20T10:00:00Z/a",
            "nas",
            "www@@2026-11-20T10:00:00Z/a",
        );
        is_file("nas:www//a///b/", "nas", "www/a/b");
        assert!(remote("nas:www/a/").is_directory && !remote("nas:www/a").is_directory);
        assert!(remote(":").is_all_buckets() && remote("nas:").is_all_buckets());
    }

    #[test]
    fn everything_else_is_local() {
        for local in [
            "a",
            "a/b",
            "/etc/hosts",
            "./a:b",
            "../x:y",
            "/a:b",
            "-",
            "~",
        ] {
            let place = FilePlace::parse(OsStr::new(local)).unwrap();
            assert_eq!(place, FilePlace::Local(local.into()));
        }
    }

    #[test]
    fn names_are_the_bytes_that_the_shell_gives() {
        let given = OsString::from_vec(b"nas:www/\xff\n100%25".to_vec());
        let FilePlace::Remote(place) = FilePlace::parse(&given).unwrap() else {
            panic!("local");
        };
        let file = place.file().unwrap();
        assert_eq!(file.name().unwrap().as_bytes(), b"\xff\n100%");
        assert_eq!(place.to_string(), "nas:www/%FF%0A100%25");
        is_file(&place.to_string(), "nas", "www/%FF\n100%25");
    }

    #[test]
    fn names_may_be_patterns() {
        for given in ["nas:www/*", "nas:www/a/[0-9]?.txt", ":www/**/x"] {
            let place = remote(given);
            assert!(place.is_pattern() && place.file().is_err());
            assert_eq!(place.to_string(), given);
        }
        let place = remote("nas:www/a/**/b*/c");
        let (before, rest) = place.split().unwrap();
        assert_eq!(before.to_string(), "www/a");
        assert_eq!(rest.len(), 3);
        assert_eq!(rest[0].means, Meaning::AnyDepth);
        assert_eq!(rest[2].means, Meaning::Name);
        is_file("nas:www/%2A%3f%5B", "nas", "www/*?[");
        let typed = remote("nas:www/%2A");
        assert_eq!(typed.to_string(), "nas:www/%2A");
        let same = RemotePlace::of(typed.route.clone(), &typed.file().unwrap());
        assert_eq!(same, typed);
    }

    #[test]
    fn what_is_neither_says_how_it_is_written() {
        refused("", "error: a path is empty");
        refused(
            "Foo b:c",
            "error: `Foo b` is before the colon, and no peer: `Foo b` is not a name: lowercase letters, digits and single hyphens, starting with a letter\n\
             hint: a local file whose name holds a colon is written './Foo b:c'",
        );
        refused(
            "nas:/www/a",
            "error: after the colon comes the name of a bucket, without a slash before it\n\
             hint: nas:www/a",
        );
        refused(
            "any:www/a",
            "error: files are those of one node: `any` names none",
        );
        refused(
            "nas:*/a",
            "error: a bucket is named by its name: patterns are for what is in it\nhint: alknet ls nas:",
        );
        refused(
            "nas:www/../x",
            "error: `nas:www/../x`: `.` and `..` are refused",
        );
        refused(
            "nas:www/100%",
            "error: `nas:www/100%`: `%` stands before two hexadecimal digits: write it as `%25`",
        );
        refused(
            "nas:WWW/a",
            "error: `nas:WWW/a`: a file is `bucket[@branch]/path`, with a bucket of `a` to `z`, digits and `-`",
        );
        let local = FilePlace::parse_remote(OsStr::new("a\u{1b}b")).unwrap_err();
        assert_eq!(
            local.to_string(),
            "error: `a%1Bb` is a local path\n\
             hint: remote files have a colon: `nas:bucket/path`, or `:bucket/path` of this node"
        );
    }

    proptest! {
        /// Whatever is typed: it is a place or refused, and a place that is
        /// shown is one line that means the same when it is typed again.
        #[test]
        fn what_is_shown_can_be_typed_again(
            route in "(nas|hub/nas|)",
            path in prop::collection::vec(prop_oneof![
                2 => any::<u8>(),
                1 => prop::sample::select(b"/%*?[]2Aa".to_vec()),
            ], 0..24),
        ) {
            let given = [format!("{route}:www/").as_bytes(), &path].concat();
            if let Ok(FilePlace::Remote(place)) = FilePlace::parse(OsStr::from_bytes(&given)) {
                let shown = place.to_string();
                prop_assert!(!shown.contains(char::is_control), "{:?}", shown);
                let again = FilePlace::parse_remote(OsStr::new(&shown)).unwrap();
                prop_assert_eq!(again.literal(), place.literal());
                if let Ok(file) = place.file() {
                    let same = RemotePlace::of(place.route.clone(), &file);
                    let typed = FilePlace::parse_remote(OsStr::new(&same.to_string())).unwrap();
                    prop_assert_eq!(typed.file().unwrap(), file);
                }
            }
        }

        #[test]
        fn any_bytes_are_a_place_or_refused(given in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Err(failure) = FilePlace::parse(OsStr::from_bytes(&given)) {
                prop_assert_eq!(failure.exit, crate::failure::Exit::USAGE);
            }
        }
    }
}
