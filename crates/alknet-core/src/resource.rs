//! Resources: what a grant covers beyond a scope. Each kind parses the text
//! that names a resource into a canonical value *before* it is matched, and
//! the handler receives that value, so that both read the same thing.

use crate::name::{OperationPattern, PeerId};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Longest text that names a resource.
const TEXT_BYTES_MAX: usize = 4096;

/// A family of resources with its own grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ResourceKind {
    /// `bucket[@branch]/path`.
    Bucket,
    /// `host:port`.
    Net,
    /// A program name or an operation.
    Command,
    /// A peer's id; actions are operation patterns.
    Peer,
    /// A topic name.
    Topic,
}

impl ResourceKind {
    /// Every kind.
    pub const ALL: &[ResourceKind] = &[
        Self::Bucket,
        Self::Net,
        Self::Command,
        Self::Peer,
        Self::Topic,
    ];

    /// The kind as written in grants.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bucket => "bucket",
            Self::Net => "net",
            Self::Command => "command",
            Self::Peer => "peer",
            Self::Topic => "topic",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == text)
    }
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a resource, or a pattern over resources, was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResourceError {
    /// The text does not name a resource of its kind.
    #[error("not a {kind}: {reason}")]
    Invalid {
        /// The kind asked for.
        kind: ResourceKind,
        /// What is wrong.
        reason: String,
    },
    /// A grant needs at least one action.
    #[error("`{pattern}` names no action")]
    NoAction {
        /// The pattern.
        pattern: String,
    },
}

fn invalid(kind: ResourceKind, reason: impl Into<String>) -> ResourceError {
    ResourceError::Invalid {
        kind,
        reason: reason.into(),
    }
}

/// Reads the text that names a resource into its one canonical form.
///
/// # Errors
///
/// [`ResourceError::Invalid`] if the text is not of the kind, or tries to
/// leave it (`..`, NUL, an empty host).
pub fn canonical_resource(kind: ResourceKind, text: &str) -> Result<String, ResourceError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(invalid(kind, format!("longer than {TEXT_BYTES_MAX} bytes")));
    }
    if text.contains('\0') {
        return Err(invalid(kind, "contains NUL"));
    }
    match kind {
        ResourceKind::Bucket => canonical_file(text),
        ResourceKind::Net => {
            let (host, port) = split_host_port(text)?;
            let port: u16 = port
                .parse()
                .map_err(|_| invalid(kind, "the port is not a number up to 65535"))?;
            Ok(Host::parse(host)?.with_port(port))
        }
        ResourceKind::Command => canonical_command(text),
        ResourceKind::Peer => PeerId::parse(text)
            .map(|id| id.to_string())
            .map_err(|e| invalid(kind, e.to_string())),
        ResourceKind::Topic => {
            let fine = !text.is_empty() && text.split('/').all(is_plain_word);
            if fine {
                Ok(text.into())
            } else {
                Err(invalid(
                    kind,
                    "segments of letters, digits, `-`, `_`, `.` joined by `/`",
                ))
            }
        }
    }
}

fn is_plain_word(part: &str) -> bool {
    !part.is_empty()
        && part != "."
        && part != ".."
        && part
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn canonical_file(text: &str) -> Result<String, ResourceError> {
    let kind = ResourceKind::Bucket;
    let mut parts = text.split('/');
    let bucket = parts.next().unwrap_or_default();
    if !is_bucket_head(bucket) {
        return Err(invalid(kind, "a file is `bucket[@branch]/path`"));
    }
    let mut out = bucket.to_owned();
    for part in parts.filter(|part| !part.is_empty()) {
        if part == "." || part == ".." {
            return Err(invalid(kind, "`.` and `..` are refused"));
        }
        out.push('/');
        out.push_str(part);
    }
    Ok(out)
}

fn is_bucket_head(head: &str) -> bool {
    let word = |text: &str| {
        (1..=63).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    match head.split_once('@') {
        None => word(head),
        Some((bucket, moment)) if moment.starts_with('@') => word(bucket) && moment.len() > 1,
        Some((bucket, branch)) => word(bucket) && word(branch),
    }
}

fn canonical_command(text: &str) -> Result<String, ResourceError> {
    let kind = ResourceKind::Command;
    if text.is_empty() {
        return Err(invalid(kind, "empty"));
    }
    if text.chars().any(char::is_control) {
        return Err(invalid(kind, "contains control characters"));
    }
    // A program is named, to be found on the node's own PATH, or given by its
    // absolute path; a relative path would depend on the working directory.
    let relative = text.contains('/') && !text.starts_with('/');
    if relative || text.split('/').any(|part| part == ".." || part == ".") {
        return Err(invalid(
            kind,
            "a program is a name or an absolute path without `.` and `..`",
        ));
    }
    Ok(text.into())
}

/// Splits `host:port`, `[v6]:port`.
fn split_host_port(text: &str) -> Result<(&str, &str), ResourceError> {
    let missing = || {
        invalid(
            ResourceKind::Net,
            "an address is `host:port`, or `[ipv6]:port`",
        )
    };
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split_once("]:").ok_or_else(missing);
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(missing)?;
    if host.contains(':') {
        Err(missing())
    } else {
        Ok((host, port))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Ip(IpAddr),
    Name(String),
}

impl Host {
    fn parse(text: &str) -> Result<Self, ResourceError> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Host::Ip(unmapped(ip)));
        }
        let name = text.trim_end_matches('.').to_ascii_lowercase();
        let label = |part: &str| {
            !part.is_empty()
                && part.len() <= 63
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if name.is_empty() || name.len() > 253 || !name.split('.').all(label) {
            return Err(invalid(
                ResourceKind::Net,
                "the host is neither an address nor a name",
            ));
        }
        // `2130706433`, `0x7f.1` and `0177.0.0.1` are addresses to some
        // resolvers; a name whose last label is a number is none to us.
        let last = name.rsplit('.').next().unwrap_or_default();
        if last.starts_with("0x") || last.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid(
                ResourceKind::Net,
                "numeric hosts are written as four decimal parts, or as IPv6 in brackets",
            ));
        }
        Ok(Host::Name(name))
    }

    fn with_port(&self, port: u16) -> String {
        match self {
            Host::Ip(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
            Host::Ip(ip) => format!("{ip}:{port}"),
            Host::Name(name) => format!("{name}:{port}"),
        }
    }
}

/// `::ffff:127.0.0.1` is `127.0.0.1`.
fn unmapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        v4 => v4,
    }
}

/// A pattern over resources of one kind, parsed once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourcePattern {
    kind: ResourceKind,
    text: String,
    matcher: Matcher,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Matcher {
    All,
    /// Segments split at `/`; `*` within a segment, `**` for the rest.
    Path(Vec<String>),
    Net {
        host: HostMatcher,
        ports: (u16, u16),
    },
    /// Exact, or a prefix before a final `*`.
    Word {
        text: String,
        prefix: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HostMatcher {
    Any,
    Cidr(IpAddr, u8),
    Suffix(String),
    Name(String),
}

impl ResourcePattern {
    /// Parses the pattern of a grant; `*` covers everything of the kind.
    ///
    /// # Errors
    ///
    /// [`ResourceError::Invalid`] with what is wrong.
    pub fn parse(kind: ResourceKind, text: &str) -> Result<Self, ResourceError> {
        if text.is_empty() || text.len() > TEXT_BYTES_MAX || text.contains('\0') {
            return Err(invalid(kind, "the pattern is empty or too long"));
        }
        let matcher = if text == "*" || (text == "**" && kind == ResourceKind::Bucket) {
            Matcher::All
        } else {
            match kind {
                ResourceKind::Bucket | ResourceKind::Topic => parse_path_pattern(kind, text)?,
                ResourceKind::Net => parse_net_pattern(text)?,
                ResourceKind::Command => parse_word(kind, text)?,
                ResourceKind::Peer => {
                    PeerId::parse(text).map_err(|e| invalid(kind, e.to_string()))?;
                    Matcher::Word {
                        text: text.into(),
                        prefix: false,
                    }
                }
            }
        };
        Ok(Self {
            kind,
            text: text.into(),
            matcher,
        })
    }

    /// The kind it is over.
    #[must_use]
    pub fn kind(&self) -> ResourceKind {
        self.kind
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it covers a resource in canonical form.
    #[must_use]
    pub fn covers(&self, resource: &str) -> bool {
        match &self.matcher {
            Matcher::All => true,
            Matcher::Path(parts) => {
                let names: Vec<&str> = resource.split('/').collect();
                path_covers(parts, &names)
            }
            Matcher::Net { host, ports } => net_covers(host, *ports, resource),
            Matcher::Word {
                text,
                prefix: false,
            } => text == resource,
            Matcher::Word { text, prefix: true } => resource.starts_with(text.as_str()),
        }
    }
}

fn parse_path_pattern(kind: ResourceKind, text: &str) -> Result<Matcher, ResourceError> {
    let parts: Vec<String> = text.split('/').map(str::to_owned).collect();
    let last = parts.len() - 1;
    for (at, part) in parts.iter().enumerate() {
        if part == "." || part == ".." || (part.is_empty() && at != last) {
            return Err(invalid(
                kind,
                "the pattern has an empty, `.` or `..` segment",
            ));
        }
        if part.contains("**") && (part != "**" || at != last) {
            return Err(invalid(kind, "`**` stands alone, at the end"));
        }
    }
    Ok(Matcher::Path(
        parts.into_iter().filter(|part| !part.is_empty()).collect(),
    ))
}

fn path_covers(pattern: &[String], names: &[&str]) -> bool {
    match (pattern, names) {
        ([], []) => true,
        // `www/**` covers `www` itself: who may list the tree may see its root.
        ([star], _) if star == "**" => true,
        ([first, rest @ ..], [name, more @ ..]) => {
            glob_segment(first.as_bytes(), name.as_bytes()) && path_covers(rest, more)
        }
        _ => false,
    }
}

/// `*` matches any bytes within one segment; linear backtracking to the last
/// star, so no pattern is slow.
fn glob_segment(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            p = at + 1;
            t = from + 1;
            star = Some((at, from + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

fn parse_word(kind: ResourceKind, text: &str) -> Result<Matcher, ResourceError> {
    let (word, prefix) = text
        .strip_suffix('*')
        .map_or((text, false), |word| (word, true));
    if word.contains('*') {
        return Err(invalid(kind, "`*` stands at the end"));
    }
    Ok(Matcher::Word {
        text: word.into(),
        prefix,
    })
}

fn parse_net_pattern(text: &str) -> Result<Matcher, ResourceError> {
    let kind = ResourceKind::Net;
    let (host, ports) = match split_host_port(text) {
        Ok((host, ports)) => (host, parse_ports(ports)?),
        Err(_) if text.parse::<Ipv6Addr>().is_ok() => (text, (0, u16::MAX)),
        Err(_) if !text.contains(':') || text.contains('/') => (text, (0, u16::MAX)),
        Err(error) => return Err(error),
    };
    let host = match host {
        "*" => HostMatcher::Any,
        _ if host.contains('/') => parse_cidr(host)?,
        _ => match host.strip_prefix("*.") {
            Some(suffix) => match Host::parse(suffix)? {
                Host::Name(name) => HostMatcher::Suffix(format!(".{name}")),
                Host::Ip(_) => return Err(invalid(kind, "`*.` stands before a name")),
            },
            None => match Host::parse(host)? {
                Host::Ip(ip) => HostMatcher::Cidr(ip, if ip.is_ipv4() { 32 } else { 128 }),
                Host::Name(name) => HostMatcher::Name(name),
            },
        },
    };
    Ok(Matcher::Net { host, ports })
}

fn parse_ports(text: &str) -> Result<(u16, u16), ResourceError> {
    let bad = || invalid(ResourceKind::Net, "ports are `*`, `N` or `N-M`");
    if text == "*" {
        return Ok((0, u16::MAX));
    }
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let range = (
        low.parse().map_err(|_| bad())?,
        high.parse().map_err(|_| bad())?,
    );
    if range.0 <= range.1 {
        Ok(range)
    } else {
        Err(bad())
    }
}

fn parse_cidr(text: &str) -> Result<HostMatcher, ResourceError> {
    let bad = || invalid(ResourceKind::Net, "a range is `address/bits`");
    let (ip, bits) = text.split_once('/').ok_or_else(bad)?;
    let ip: IpAddr = ip
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .map_err(|_| bad())?;
    let bits: u8 = bits.parse().map_err(|_| bad())?;
    let most = if ip.is_ipv4() { 32 } else { 128 };
    if bits > most {
        Err(bad())
    } else {
        Ok(HostMatcher::Cidr(ip, bits))
    }
}

fn net_covers(host: &HostMatcher, ports: (u16, u16), resource: &str) -> bool {
    let Ok((name, port)) = split_host_port(resource) else {
        return false;
    };
    let Ok(port) = port.parse::<u16>() else {
        return false;
    };
    if port < ports.0 || port > ports.1 {
        return false;
    }
    match (host, name.parse::<IpAddr>().ok()) {
        (HostMatcher::Any, _) => true,
        (HostMatcher::Cidr(net, bits), Some(ip)) => in_cidr(*net, *bits, unmapped(ip)),
        (HostMatcher::Suffix(suffix), None) => name.ends_with(suffix.as_str()),
        (HostMatcher::Name(want), None) => name == want,
        _ => false,
    }
}

fn in_cidr(net: IpAddr, bits: u8, ip: IpAddr) -> bool {
    let masked = |value: u128, width: u32| {
        if bits == 0 {
            0
        } else {
            value >> (width - u32::from(bits))
        }
    };
    match (net, ip) {
        (IpAddr::V4(net), IpAddr::V4(ip)) => {
            let wide = |ip: Ipv4Addr| u128::from(u32::from(ip));
            masked(wide(net), 32) == masked(wide(ip), 32)
        }
        (IpAddr::V6(net), IpAddr::V6(ip)) => {
            masked(u128::from(net), 128) == masked(u128::from(ip), 128)
        }
        _ => false,
    }
}

/// A pattern with the actions it carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceGrant {
    /// What it covers.
    pub pattern: ResourcePattern,
    /// `*`, an action's name, or for peers a pattern over operations.
    pub actions: Vec<String>,
}

impl ResourceGrant {
    /// Parses a pattern with its actions.
    ///
    /// # Errors
    ///
    /// [`ResourceError`] for a bad pattern, no actions, or (for peers) an
    /// action that is no operation pattern.
    pub fn parse(
        kind: ResourceKind,
        pattern: &str,
        actions: &[impl AsRef<str>],
    ) -> Result<Self, ResourceError> {
        if actions.is_empty() {
            return Err(ResourceError::NoAction {
                pattern: pattern.into(),
            });
        }
        for action in actions {
            let action = action.as_ref();
            let fine = if kind == ResourceKind::Peer {
                OperationPattern::parse(action).is_ok()
            } else {
                action == "*" || is_plain_word(action)
            };
            if !fine {
                return Err(invalid(
                    kind,
                    format!("`{}` is not an action", action.escape_debug()),
                ));
            }
        }
        let actions = actions
            .iter()
            .map(|action| action.as_ref().to_owned())
            .collect();
        Ok(Self {
            pattern: ResourcePattern::parse(kind, pattern)?,
            actions,
        })
    }

    /// Whether it carries `action`.
    #[must_use]
    pub fn carries(&self, action: &str) -> bool {
        self.actions.iter().any(|held| match self.pattern.kind {
            ResourceKind::Peer => {
                OperationPattern::parse(held).is_ok_and(|pattern| pattern.covers(action))
            }
            _ => held == "*" || held == action,
        })
    }
}

impl fmt::Display for ResourceGrant {
    /// As it is written on the command line: `bucket:www/**=read,list`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}={}",
            self.pattern.kind,
            self.pattern.text,
            self.actions.join(",")
        )
    }
}

/// Resources held by an identity. Deny wins over allow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceSet {
    /// What is covered.
    pub allow: Vec<ResourceGrant>,
    /// What is not, even if covered.
    pub deny: Vec<ResourceGrant>,
}

impl ResourceSet {
    /// Whether `action` on the canonical `resource` is held.
    #[must_use]
    pub fn holds(&self, kind: ResourceKind, action: &str, resource: &str) -> bool {
        let hit = |grant: &ResourceGrant| {
            grant.pattern.kind == kind && grant.carries(action) && grant.pattern.covers(resource)
        };
        self.allow.iter().any(hit) && !self.deny.iter().any(hit)
    }

    /// Whether some pattern of the kind carries the action: what a listing
    /// asks, which has no input to look at.
    #[must_use]
    pub fn might_hold(&self, kind: ResourceKind, action: &str) -> bool {
        self.allow
            .iter()
            .any(|grant| grant.pattern.kind == kind && grant.carries(action))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[track_caller]
    fn covers(kind: ResourceKind, pattern: &str, resource: &str, want: bool) {
        let pattern = ResourcePattern::parse(kind, pattern).unwrap();
        let canonical = canonical_resource(kind, resource).unwrap();
        assert_eq!(
            pattern.covers(&canonical),
            want,
            "{pattern:?} ~ {canonical}"
        );
    }

    #[test]
    fn bucket_patterns_follow_segments() {
        use ResourceKind::Bucket;
        covers(Bucket, "*", "www@dev/a/b", true);
        covers(Bucket, "www/public/**", "www/public/a/b.txt", true);
        covers(Bucket, "www/public/**", "www/public", true);
        covers(Bucket, "www/public/**", "www/private/a", false);
        covers(Bucket, "www/*.txt", "www/a.txt", true);
        covers(Bucket, "www/*.txt", "www/a/b.txt", false);
        covers(Bucket, "www/**", "www@dev/a", false);
        covers(Bucket, "www", "www/", true);
        covers(Bucket, "www", "www/a", false);
        covers(Bucket, "www//".trim_end_matches('/'), "www", true);
    }

    #[test]
    fn a_path_that_climbs_is_refused_before_the_check() {
        for bad in [
            "www/../etc",
            "www/./a",
            "..",
            "/www",
            "",
            "WWW/a",
            "www/a\0b",
            "www@/a",
        ] {
            assert!(
                canonical_resource(ResourceKind::Bucket, bad).is_err(),
                "{bad:?}"
            );
        }
        assert_eq!(
            canonical_resource(ResourceKind::Bucket, "www//a///b/").unwrap(),
            "www/a/b"
        );
    }

    #[test]
    fn net_patterns_know_ranges_names_and_ports() {
        use ResourceKind::Net;
        covers(Net, "10.0.0.0/8:5432", "10.1.2.3:5432", true);
        covers(Net, "10.0.0.0/8:5432", "10.1.2.3:5433", false);
        covers(Net, "10.0.0.0/8", "11.0.0.1:1", false);
        covers(Net, "*.lan:80-443", "db.lan:443", true);
        covers(Net, "*.lan:80-443", "lan:443", false);
        covers(Net, "*.lan", "DB.LAN.:9", true);
        covers(Net, "127.0.0.1:22", "[::ffff:127.0.0.1]:22", true);
        covers(Net, "fe80::/10", "[fe80::1]:22", true);
        covers(Net, "[::1]:22", "[::1]:22", true);
        covers(Net, "*:22", "[::1]:22", true);
        for bad in [
            "2130706433:80",
            "0x7f.1:80",
            "0177.0.0.01:80",
            "127.1:80",
            "::1:80",
            "host",
            "host:99999",
            ":80",
            "a b:80",
        ] {
            assert!(canonical_resource(Net, bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn programs_are_names_or_absolute() {
        use ResourceKind::Command;
        covers(Command, "git", "git", true);
        covers(Command, "git", "/tmp/git", false);
        covers(Command, "git-*", "git-upload-pack", true);
        assert!(
            canonical_resource(Command, "./git").is_err()
                && canonical_resource(Command, "/usr/../git").is_err()
        );
    }

    #[test]
    fn deny_wins_over_allow() {
        let grant =
            |pattern: &str| ResourceGrant::parse(ResourceKind::Bucket, pattern, &["read"]).unwrap();
        let set = ResourceSet {
            allow: vec![grant("www/**")],
            deny: vec![grant("www/secret/**")],
        };
        assert!(set.holds(ResourceKind::Bucket, "read", "www/a"));
        assert!(!set.holds(ResourceKind::Bucket, "read", "www/secret/a"));
        assert!(!set.holds(ResourceKind::Bucket, "write", "www/a"));
        assert!(!set.holds(ResourceKind::Net, "read", "www/a"));
    }

    #[test]
    fn peer_actions_are_operation_patterns() {
        let grant = ResourceGrant::parse(ResourceKind::Peer, "nas", &["fs/*"]).unwrap();
        assert!(grant.carries("fs/read") && !grant.carries("shell/exec"));
        assert!(ResourceGrant::parse(ResourceKind::Peer, "nas", &["FS"]).is_err());
        assert!(ResourceGrant::parse(ResourceKind::Peer, "nas", &[] as &[&str]).is_err());
        assert_eq!(grant.to_string(), "peer:nas=fs/*");
    }

    #[test]
    fn a_pattern_full_of_stars_stays_fast() {
        let pattern = format!("www/{}b", "*a".repeat(200));
        let pattern = ResourcePattern::parse(ResourceKind::Bucket, &pattern).unwrap();
        assert!(!pattern.covers(&format!("www/{}", "a".repeat(4000))));
    }
}
