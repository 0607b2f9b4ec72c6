//! Names: operations, peers, groups, roles and scopes. Parsed at the edge;
//! inside, the type is the proof.

use serde::{Deserialize, Serialize};
use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Longer than the name's kind allows.
    #[error("name has {len} bytes, at most {max} are allowed")]
    TooLong {
        /// Bytes found.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// An operation name has two to four segments.
    #[error("`{name}` has {found} segments, an operation name has 2 to 4 joined by `/`")]
    Segments {
        /// The text.
        name: String,
        /// Segments found.
        found: usize,
    },
    /// A segment is not lowercase letters, digits and single hyphens.
    #[error(
        "`{part}` is not a name: lowercase letters, digits and single hyphens, starting with a letter"
    )]
    BadSegment {
        /// The offending part.
        part: String,
    },
    /// A route passes through at most four peers.
    #[error("the route has {found} steps, at most {max} are allowed")]
    RouteTooLong {
        /// Steps found.
        found: usize,
        /// Steps allowed.
        max: usize,
    },
    /// Nobody could say which peer the others are to be reached through.
    #[error("`any` can only be the last step of a route")]
    AnyBeforeOthers,
    /// A scope is segments joined by `:`; a held scope may end in `*`.
    #[error("`{scope}` is not a scope: segments joined by `:`, a held one may end in `*`")]
    BadScope {
        /// The text.
        scope: String,
    },
}

/// `[a-z][a-z0-9]*(-[a-z0-9]+)*`
fn is_segment(part: &str) -> bool {
    let bytes = part.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.last() != Some(&b'-')
        && bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        && !part.contains("--")
}

/// Cuts a text from outside so that an error message stays short.
fn excerpt(text: &str) -> String {
    crate::near::brief(text).into_owned()
}

macro_rules! text_newtype {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "`{}`", self.0)
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }
        impl TryFrom<&str> for $name {
            type Error = NameError;
            fn try_from(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

/// A namespaced lowercase name such as `fs/read`.
///
/// Two to four segments `[a-z][a-z0-9]*(-[a-z0-9]+)*` joined by `/`, at most
/// [`OperationName::BYTES_MAX`] bytes. `_` never occurs, so that replacing `/`
/// by `_` is lossless.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationName(Arc<str>);
text_newtype!(OperationName);

impl OperationName {
    /// Longest accepted name.
    pub const BYTES_MAX: usize = 64;

    /// Parses `area/verb` or `area/thing/verb`.
    ///
    /// # Errors
    ///
    /// [`NameError`] if it is too long, has the wrong number of segments, or a
    /// segment that is not a name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.len() > Self::BYTES_MAX {
            return Err(NameError::TooLong {
                len: text.len(),
                max: Self::BYTES_MAX,
            });
        }
        if let Some(part) = text.split('/').find(|part| !is_segment(part)) {
            return Err(NameError::BadSegment {
                part: excerpt(part),
            });
        }
        let found = text.split('/').count();
        if !(2..=4).contains(&found) {
            return Err(NameError::Segments {
                name: text.into(),
                found,
            });
        }
        Ok(Self(text.into()))
    }

    /// The scope an operation needs when it states no access rule: the first
    /// `/` becomes `:`, the others `-`.
    #[must_use]
    pub fn default_scope(&self) -> Scope {
        let text = self.0.replacen('/', ":", 1).replace('/', "-");
        Scope(text.into())
    }

    /// The first segment.
    #[must_use]
    pub fn area(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }
}

/// A glob over operation names: segments, of which the last may be `*` (one
/// segment) or `**` (the rest); `*` alone covers everything.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationPattern(Arc<str>);
text_newtype!(OperationPattern);

impl OperationPattern {
    /// Parses a pattern.
    ///
    /// # Errors
    ///
    /// [`NameError::BadSegment`] if a part is neither a segment nor a star.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.len() > OperationName::BYTES_MAX {
            return Err(NameError::TooLong {
                len: text.len(),
                max: OperationName::BYTES_MAX,
            });
        }
        let parts: Vec<&str> = text.split('/').collect();
        for (index, part) in parts.iter().enumerate() {
            let star = (*part == "*" || *part == "**") && index + 1 == parts.len();
            if !star && !is_segment(part) {
                return Err(NameError::BadSegment {
                    part: excerpt(part),
                });
            }
        }
        Ok(Self(text.into()))
    }

    /// Whether `name` is covered. A trailing `*` covers one or more segments
    /// (`fs/*` covers `fs/branch/create`), as in a grant `peer:nas=fs/*`.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        Self::text_covers(&self.0, name)
    }

    /// [`OperationPattern::covers`] for a text that was parsed before.
    pub(crate) fn text_covers(pattern: &str, name: &str) -> bool {
        match pattern
            .strip_suffix("**")
            .or_else(|| pattern.strip_suffix('*'))
        {
            Some(prefix) => name.starts_with(prefix) && name.len() > prefix.len(),
            None => pattern == name,
        }
    }
}

/// The local slug under which another node, or a person's, program's or
/// agent's key, is known here: `[a-z][a-z0-9-]{0,31}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(Arc<str>);
text_newtype!(PeerId);

impl PeerId {
    /// Longest accepted id.
    pub const BYTES_MAX: usize = 32;

    /// Parses a slug.
    ///
    /// # Errors
    ///
    /// [`NameError`] if it is too long or not a slug.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        parse_slug(text).map(Self)
    }

    /// Whether the id means something else than a peer: `any` in a route,
    /// `anonymous` and `host` as callers in the audit log.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        matches!(self.as_str(), "any" | "anonymous" | "host")
    }

    /// Makes a slug of a free text such as a host name, if anything is left.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        let mut slug = String::new();
        for c in lower.chars() {
            match c {
                'a'..='z' | '0'..='9' => slug.push(c),
                _ if !slug.ends_with('-') => slug.push('-'),
                _ => {}
            }
        }
        let slug = slug.trim_start_matches(|c: char| !c.is_ascii_lowercase());
        let cut: String = slug.chars().take(Self::BYTES_MAX).collect();
        Self::parse(cut.trim_end_matches('-')).ok()
    }
}

/// A named set of peers that shares grants; same grammar as [`PeerId`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupName(Arc<str>);
text_newtype!(GroupName);

impl GroupName {
    /// Parses a slug.
    ///
    /// # Errors
    ///
    /// [`NameError`] if it is too long or not a slug.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        parse_slug(text).map(Self)
    }
}

/// The name of a bundle of grants; same grammar as [`PeerId`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoleName(Arc<str>);
text_newtype!(RoleName);

impl RoleName {
    /// Parses a slug.
    ///
    /// # Errors
    ///
    /// [`NameError`] if it is too long or not a slug.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        parse_slug(text).map(Self)
    }
}

fn parse_slug(text: &str) -> Result<Arc<str>, NameError> {
    if text.len() > PeerId::BYTES_MAX {
        return Err(NameError::TooLong {
            len: text.len(),
            max: PeerId::BYTES_MAX,
        });
    }
    if !is_segment(text) {
        return Err(NameError::BadSegment {
            part: excerpt(text),
        });
    }
    Ok(text.into())
}

/// `area:action`; a held scope may end in `*` (`fs:*`, `*`).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope(Arc<str>);
text_newtype!(Scope);

impl Scope {
    /// Longest accepted scope.
    pub const BYTES_MAX: usize = 128;

    /// Parses `segment(:segment)*`, optionally ending in `*`.
    ///
    /// # Errors
    ///
    /// [`NameError`] if it is too long or a part is not a segment.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.len() > Self::BYTES_MAX {
            return Err(NameError::TooLong {
                len: text.len(),
                max: Self::BYTES_MAX,
            });
        }
        let parts: Vec<&str> = text.split(':').collect();
        let last = parts.len() - 1;
        let fine = parts
            .iter()
            .enumerate()
            .all(|(at, part)| is_segment(part) || (at == last && *part == "*"));
        if !fine {
            return Err(NameError::BadScope {
                scope: excerpt(text),
            });
        }
        Ok(Self(text.into()))
    }

    /// Whether it ends in `*` and so may only be held, not required.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.0.ends_with('*')
    }

    /// Whether holding `self` satisfies a requirement of `required`.
    #[must_use]
    pub fn covers(&self, required: &Scope) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => required.0.starts_with(prefix) && required.0.len() > prefix.len(),
            None => self.0 == required.0,
        }
    }
}

/// Scopes held by an identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScopeSet {
    exact: std::collections::BTreeSet<Scope>,
    wild: Vec<Scope>,
}

impl ScopeSet {
    /// Whether one held scope covers `required`.
    #[must_use]
    pub fn holds(&self, required: &Scope) -> bool {
        self.held_by(required).is_some()
    }

    /// The held scope that covers `required`.
    pub(crate) fn held_by(&self, required: &Scope) -> Option<&Scope> {
        let wild = || self.wild.iter().find(|held| held.covers(required));
        self.exact.get(required).or_else(wild)
    }

    /// Adds a held scope.
    pub fn insert(&mut self, scope: Scope) {
        if !scope.is_wildcard() {
            self.exact.insert(scope);
        } else if !self.wild.contains(&scope) {
            self.wild.push(scope);
        }
    }

    /// The held scopes.
    pub fn iter(&self) -> impl Iterator<Item = &Scope> {
        self.wild.iter().chain(&self.exact)
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wild.is_empty()
    }

    /// What both sets hold: a key of a peer is never wider than the peer.
    #[must_use]
    pub fn intersect(&self, other: &ScopeSet) -> ScopeSet {
        let mut both = ScopeSet::default();
        for (mine, theirs) in [(self, other), (other, self)] {
            for scope in mine.iter() {
                let kept = match scope.0.strip_suffix('*') {
                    None => theirs.holds(scope),
                    Some(prefix) => theirs.wild.iter().any(|held| {
                        held.0
                            .strip_suffix('*')
                            .is_some_and(|outer| prefix.starts_with(outer))
                    }),
                };
                if kept {
                    both.insert(scope.clone());
                }
            }
        }
        both
    }
}

impl FromIterator<Scope> for ScopeSet {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        let mut set = Self::default();
        for scope in scopes {
            set.insert(scope);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn operation_names_have_two_to_four_segments() {
        for good in ["fs/read", "fs/branch/create", "a/b/c/d", "a1/b-2-c"] {
            assert_eq!(OperationName::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "fs",
            "fs/",
            "/fs",
            "a/b/c/d/e",
            "Fs/read",
            "fs/re_ad",
            "fs/-a",
            "fs/a-",
            "fs/a--b",
            "1/a",
            "fs/ä",
            "fs/read\n",
        ] {
            assert!(OperationName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_name_may_have_64_bytes_and_not_65() {
        let at = format!("a/{}", "b".repeat(62));
        assert!(OperationName::parse(&at).is_ok());
        assert!(matches!(
            OperationName::parse(&format!("{at}b")),
            Err(NameError::TooLong { len: 65, max: 64 })
        ));
    }

    #[test]
    fn the_default_scope_keeps_one_colon() {
        let scope = |name| {
            OperationName::parse(name)
                .unwrap()
                .default_scope()
                .to_string()
        };
        assert_eq!(scope("fs/read"), "fs:read");
        assert_eq!(scope("fs/branch/create"), "fs:branch-create");
    }

    #[test]
    fn a_star_covers_what_follows_and_never_the_bare_prefix() {
        let covers = |held: &str, need: &str| {
            Scope::parse(held)
                .unwrap()
                .covers(&Scope::parse(need).unwrap())
        };
        assert!(
            covers("*", "fs:read") && covers("fs:*", "fs:read") && covers("fs:read", "fs:read")
        );
        assert!(
            !covers("fs:*", "fsx:read") && !covers("fs:*", "fs") && !covers("fs:read", "fs:write")
        );
        assert!(
            Scope::parse("fs:re*").is_err()
                && Scope::parse("").is_err()
                && Scope::parse("a:*:b").is_err()
        );
    }

    #[test]
    fn an_intersection_is_never_wider_than_either() {
        let set = |scopes: &[&str]| {
            scopes
                .iter()
                .map(|s| Scope::parse(s).unwrap())
                .collect::<ScopeSet>()
        };
        let both = set(&["fs:*", "node:read"]).intersect(&set(&["*"]));
        assert_eq!(both, set(&["fs:*", "node:read"]));
        assert_eq!(
            set(&["fs:*"]).intersect(&set(&["fs:read", "net:dial"])),
            set(&["fs:read"])
        );
    }

    #[test]
    fn slugs_are_made_of_host_names() {
        assert_eq!(
            PeerId::from_text("My-Laptop.local").unwrap().as_str(),
            "my-laptop-local"
        );
        assert_eq!(PeerId::from_text("42box").unwrap().as_str(), "box");
        assert!(PeerId::from_text("§§").is_none());
        assert!(PeerId::parse(&"a".repeat(32)).is_ok() && PeerId::parse(&"a".repeat(33)).is_err());
    }

    #[test]
    fn patterns_cover_by_prefix() {
        let pattern = |text| OperationPattern::parse(text).unwrap();
        assert!(pattern("*").covers("fs/read") && pattern("fs/*").covers("fs/branch/create"));
        assert!(!pattern("fs/*").covers("fsx/read") && pattern("fs/read").covers("fs/read"));
        assert!(OperationPattern::parse("*/read").is_err());
    }
}
