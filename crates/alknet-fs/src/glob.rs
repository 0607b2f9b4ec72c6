//! Patterns over paths: `*.txt`, `photos/**/[a-c]?.jpg`.

use crate::stream::EntryPath;
use alknet_core::files::{FileName, unescape_name};
use std::{fmt, str::FromStr};

/// Longest pattern, in bytes.
pub const GLOB_BYTES_MAX: usize = 4096;

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GlobError {
    /// Nothing matches it.
    #[error("a pattern has names between its slashes")]
    Empty,
    /// It is too long.
    #[error("a pattern has {len} bytes, at most {GLOB_BYTES_MAX} are allowed")]
    TooLong {
        /// Bytes found.
        len: usize,
    },
    /// `[` without `]`.
    #[error("`[` in a pattern is closed by `]`; for the character itself write `[[]`")]
    OpenClass,
    /// `[b-a]`.
    #[error("a range in a pattern goes from the lower to the higher character")]
    BadRange,
    /// `%` that begins no escape.
    #[error("`%` stands before two hexadecimal digits: write it as `%25`")]
    Escape,
}

/// A pattern over the names of a path.
///
/// `*` is any part of a name, `?` one character, `[a-c]` and `[!a-c]` one of
/// these, or not; `**` as a whole name is any number of names, none included.
/// `%XX` is a byte, as in names, never a sign of the pattern. A leading dot is
/// a character like others. Matching takes time in proportion to the pattern
/// times the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    text: Box<str>,
    segments: Vec<Segment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    /// Any number of names.
    Any,
    Name(Vec<Token>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// This character, or byte that belongs to none.
    Unit(u32),
    One,
    Many,
    Class {
        negated: bool,
        ranges: Vec<(u32, u32)>,
    },
}

/// What a name is made of: characters, and bytes that are part of none, which
/// come behind all characters.
fn units(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.utf8_chunks().flat_map(|chunk| {
        let odd = chunk
            .invalid()
            .iter()
            .map(|byte| 0x11_0000 + u32::from(*byte));
        chunk.valid().chars().map(u32::from).chain(odd)
    })
}

impl Glob {
    /// Reads a pattern.
    ///
    /// # Errors
    ///
    /// [`GlobError`] with what is wrong.
    pub fn parse(text: &str) -> Result<Self, GlobError> {
        if text.len() > GLOB_BYTES_MAX {
            return Err(GlobError::TooLong { len: text.len() });
        }
        let mut segments = Vec::new();
        for part in text.split('/') {
            let segment = segment(part)?;
            // Two of them in a row say what one says.
            if segment != Segment::Any || segments.last() != Some(&Segment::Any) {
                segments.push(segment);
            }
        }
        Ok(Self {
            text: text.into(),
            segments,
        })
    }

    /// Whether a text holds what a pattern is made of: else it names one path.
    #[must_use]
    pub fn is_pattern(text: &str) -> bool {
        text.contains(['*', '?', '['])
    }

    /// Whether it matches a whole path.
    #[must_use]
    pub fn matches(&self, path: &EntryPath) -> bool {
        self.matches_names(path.names())
    }

    /// Whether it matches these names below one another.
    #[must_use]
    pub fn matches_names(&self, names: &[FileName]) -> bool {
        matches(&self.segments, names)
    }

    /// Whether it could match something below these names: a walk need not go
    /// where it does not.
    #[must_use]
    pub fn may_match_below(&self, names: &[FileName]) -> bool {
        for (at, name) in names.iter().enumerate() {
            match self.segments.get(at) {
                None => return false,
                Some(Segment::Any) => return true,
                Some(Segment::Name(tokens)) if !name_matches(tokens, name.as_bytes()) => {
                    return false;
                }
                Some(Segment::Name(_)) => {}
            }
        }
        self.segments.len() > names.len()
    }
}

/// Both levels are matched as everybody does it: on a mismatch, the last `*`
/// takes one more. Earlier ones need not be tried again.
fn matches(segments: &[Segment], names: &[FileName]) -> bool {
    let (mut at, mut here) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while here < names.len() {
        match segments.get(at) {
            Some(Segment::Any) => {
                retry = Some((at, here));
                at += 1;
                continue;
            }
            Some(Segment::Name(tokens)) if name_matches(tokens, names[here].as_bytes()) => {
                (at, here) = (at + 1, here + 1);
                continue;
            }
            _ => {}
        }
        let Some((any, taken)) = retry else {
            return false;
        };
        retry = Some((any, taken + 1));
        (at, here) = (any + 1, taken + 1);
    }
    segments[at..].iter().all(|rest| *rest == Segment::Any)
}

fn name_matches(tokens: &[Token], name: &[u8]) -> bool {
    let name: Vec<u32> = units(name).collect();
    let (mut at, mut here) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while here < name.len() {
        match tokens.get(at) {
            Some(Token::Many) => {
                retry = Some((at, here));
                at += 1;
                continue;
            }
            Some(token) if token.takes(name[here]) => {
                (at, here) = (at + 1, here + 1);
                continue;
            }
            _ => {}
        }
        let Some((many, taken)) = retry else {
            return false;
        };
        retry = Some((many, taken + 1));
        (at, here) = (many + 1, taken + 1);
    }
    tokens[at..].iter().all(|rest| *rest == Token::Many)
}

impl Token {
    fn takes(&self, unit: u32) -> bool {
        match self {
            Token::Unit(own) => *own == unit,
            Token::One => true,
            Token::Many => false,
            Token::Class { negated, ranges } => {
                let within = ranges
                    .iter()
                    .any(|(low, high)| (*low..=*high).contains(&unit));
                within != *negated
            }
        }
    }
}

fn segment(text: &str) -> Result<Segment, GlobError> {
    if text == "**" {
        return Ok(Segment::Any);
    }
    if text.is_empty() {
        return Err(GlobError::Empty);
    }
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(sign) = rest.find(['*', '?', '[']) {
        literal(&rest[..sign], &mut tokens)?;
        let after = &rest[sign + 1..];
        rest = match rest.as_bytes()[sign] {
            b'*' => {
                if tokens.last() != Some(&Token::Many) {
                    tokens.push(Token::Many);
                }
                after
            }
            b'?' => {
                tokens.push(Token::One);
                after
            }
            _ => class(after, &mut tokens)?,
        };
    }
    literal(rest, &mut tokens)?;
    Ok(Segment::Name(tokens))
}

fn literal(text: &str, tokens: &mut Vec<Token>) -> Result<(), GlobError> {
    let bytes = unescape_name(text).map_err(|_| GlobError::Escape)?;
    tokens.extend(units(&bytes).map(Token::Unit));
    Ok(())
}

/// Reads a class after its `[`; answers with what comes after its `]`. A `]`
/// in front, and a `-` in front or at the end, stand for themselves.
fn class<'t>(text: &'t str, tokens: &mut Vec<Token>) -> Result<&'t str, GlobError> {
    let negated = text.starts_with(['!', '^']);
    let inner = if negated { &text[1..] } else { text };
    let first = inner.chars().next().ok_or(GlobError::OpenClass)?.len_utf8();
    let end = first
        + inner
            .get(first..)
            .and_then(|rest| rest.find(']'))
            .ok_or(GlobError::OpenClass)?;
    let bytes = unescape_name(&inner[..end]).map_err(|_| GlobError::Escape)?;
    let members: Vec<u32> = units(&bytes).collect();
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < members.len() {
        let low = members[at];
        if members.get(at + 1) == Some(&u32::from('-')) && at + 2 < members.len() {
            let high = members[at + 2];
            if high < low {
                return Err(GlobError::BadRange);
            }
            ranges.push((low, high));
            at += 3;
        } else {
            ranges.push((low, low));
            at += 1;
        }
    }
    tokens.push(Token::Class { negated, ranges });
    Ok(&inner[end + 1..])
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Glob {
    type Err = GlobError;
    fn from_str(text: &str) -> Result<Self, GlobError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[track_caller]
    fn check(pattern: &str, path: &str, want: bool) {
        let glob = Glob::parse(pattern).unwrap();
        let path = EntryPath::parse(path).unwrap();
        assert_eq!(glob.matches(&path), want, "{pattern} {path}");
        let whole = path.names();
        // Where something matches, the way there was not pruned.
        for above in 0..whole.len() {
            assert!(
                !want || glob.may_match_below(&whole[..above]),
                "{pattern} {path} {above}"
            );
        }
    }

    #[test]
    fn names_are_matched() {
        check("a.txt", "a.txt", true);
        check("a.txt", "a-txt", false);
        check("*.txt", "a.txt", true);
        check("*.txt", ".txt", true);
        check("*.txt", "a.txt.gz", false);
        check("a*b*c", "aXbYbZc", true);
        check("a*b*c", "aXbYbZ", false);
        check("?", "é", true);
        check("?", "e%CC%81", false);
        check("??", "%FF%FE", true);
        check("?", "%FF", true);
        check("[a-c]x", "bx", true);
        check("[!a-c]x", "bx", false);
        check("[]x]", "]", true);
        check("[a-]", "-", true);
        check("[%80-%FF]", "%C3", true);
        check("[à-é]", "è", true);
        check("%2A", "*", true);
        check("%2A", "a", false);
        check("[[]a]", "[a]", true);
        check("a%25*", "a%25b", true);
        check("*", "a/b", false);
    }

    #[test]
    fn any_number_of_names_is_matched() {
        check("**", "a", true);
        check("**", "a/b/c", true);
        check("**/c", "c", true);
        check("**/c", "a/b/c", true);
        check("a/**", "a", true);
        check("a/**", "a/b", true);
        check("a/**", "b/a", false);
        check("a/**/b/**/c", "a/x/b/y/b/c", true);
        check("a/**/b/**/c", "a/x/y/c", false);
        check("**/**/x", "x", true);
        check("a**", "abc", true);
        check("a**", "a/b", false);
    }

    #[test]
    fn a_walk_goes_only_where_something_may_match() {
        let below = |pattern: &str, path: &str| {
            let path = EntryPath::parse(path).unwrap();
            Glob::parse(pattern).unwrap().may_match_below(path.names())
        };
        assert!(below("a/*.txt", "a"));
        assert!(!below("a/*.txt", "b"));
        assert!(!below("*.txt", "a"));
        assert!(below("*.txt", ""));
        assert!(below("**/x", "a/b/c"));
        assert!(!below("a/*", "a/b"));
    }

    #[test]
    fn odd_patterns_are_refused() {
        let check = |text: &str, want| assert_eq!(Glob::parse(text).unwrap_err(), want, "{text}");
        check("", GlobError::Empty);
        check("a//b", GlobError::Empty);
        check("/a", GlobError::Empty);
        check("[a", GlobError::OpenClass);
        check("[", GlobError::OpenClass);
        check("[]", GlobError::OpenClass);
        check("[b-a]", GlobError::BadRange);
        check("50%", GlobError::Escape);
        check(
            &"a".repeat(GLOB_BYTES_MAX + 1),
            GlobError::TooLong {
                len: GLOB_BYTES_MAX + 1,
            },
        );
        assert!(Glob::parse(&"a".repeat(GLOB_BYTES_MAX)).is_ok());
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = "*a".repeat(1000) + "b";
        let name = FileName::new(vec![b'a'; 255]).unwrap();
        let glob = Glob::parse(&pattern).unwrap();
        let begun = std::time::Instant::now();
        assert!(!glob.matches_names(&[name]));
        let deep = Glob::parse("**/a/".repeat(500).trim_end_matches('/')).unwrap();
        let names = vec![FileName::new(*b"b").unwrap(); 2000];
        assert!(!deep.matches_names(&names));
        assert!(begun.elapsed().as_secs() < 5);
    }
}
