//! Resources: what a grant covers beyond a scope. Each kind parses the text
//! that names a resource into a canonical value *before* it is matched, and
//! the handler receives that value, so that both read the same thing.

mod address;
mod grant;
mod pattern;

pub(crate) use self::address::is_covered_by_whole;
pub use self::{
    address::AddressClass,
    grant::{ResourceGrant, ResourceSet},
    pattern::ResourcePattern,
};
use crate::{
    call::ROUTE_STEPS_MAX,
    files::{FILE_PATH_BYTES_MAX, FilePath},
    name::PeerId,
};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

/// Longest text that names a resource.
const TEXT_BYTES_MAX: usize = 4096;
/// Longest text that names a file: each byte of its path may be escaped.
const FILE_TEXT_BYTES_MAX: usize = 3 * FILE_PATH_BYTES_MAX + 256;

/// Longest text of this kind.
fn text_bytes_max(kind: ResourceKind) -> usize {
    match kind {
        ResourceKind::Bucket => FILE_TEXT_BYTES_MAX,
        _ => TEXT_BYTES_MAX,
    }
}

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
    /// A peer's id, or the route to one behind it; actions are operation
    /// patterns.
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
    let most = text_bytes_max(kind);
    if text.len() > most {
        return Err(invalid(kind, format!("longer than {most} bytes")));
    }
    if text.contains('\0') {
        return Err(invalid(kind, "contains NUL"));
    }
    match kind {
        ResourceKind::Bucket => canonical_file(text),
        ResourceKind::Net => canonical_address(text),
        ResourceKind::Command => canonical_command(text),
        ResourceKind::Peer => check_way(text).map(|()| text.to_owned()),
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

/// A peer, or the peers on the way to one behind it: `hub/nas`.
fn check_way(text: &str) -> Result<(), ResourceError> {
    let kind = ResourceKind::Peer;
    let mut steps = 0;
    for peer in text.split('/') {
        PeerId::parse(peer).map_err(|e| invalid(kind, e.to_string()))?;
        steps += 1;
    }
    if steps > ROUTE_STEPS_MAX {
        let reason = format!("{steps} peers, a route has at most {ROUTE_STEPS_MAX}");
        return Err(invalid(kind, reason));
    }
    Ok(())
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
    let path = FilePath::parse(text);
    path.map(|path| path.to_string())
        .map_err(|error| invalid(ResourceKind::Bucket, error.to_string()))
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
    // `//bin/rm` is `/bin/rm` to the system, and must not pass a denial of it.
    let relative = text.contains('/') && !text.starts_with('/');
    let is_odd = |part: &str| part.is_empty() || part == ".." || part == ".";
    let path = text.strip_prefix('/').unwrap_or(text);
    if relative || path.split('/').any(is_odd) {
        return Err(invalid(
            kind,
            "a program is a name or an absolute path without `.`, `..` and `//`",
        ));
    }
    Ok(text.into())
}

fn canonical_address(text: &str) -> Result<String, ResourceError> {
    let kind = ResourceKind::Net;
    if text.starts_with("unix:") {
        return Err(invalid(
            kind,
            "unix sockets are not forwarded: an address is `host:port`",
        ));
    }
    let (host, port) = split_host_port(text)?;
    let is_number = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let port = port.parse::<u16>().ok().filter(|_| is_number);
    let port = port.ok_or_else(|| invalid(kind, "the port is not a number up to 65535"))?;
    Ok(Host::parse(host)?.with_port(port))
}

/// The parts of an address in canonical form.
fn parse_canonical(canonical: &str) -> Option<(Host, u16)> {
    let (host, port) = split_host_port(canonical).ok()?;
    Some((Host::parse(host).ok()?, port.parse().ok()?))
}

/// An address that was resolved, in canonical form.
pub(crate) fn canonical_socket(address: SocketAddr) -> String {
    Host::Ip(unmapped(address.ip())).with_port(address.port())
}

/// The address by which one that was resolved is judged: what a grant for it
/// names.
pub(crate) fn judged_socket(address: SocketAddr) -> String {
    Host::Ip(address::judged(address.ip())).with_port(address.port())
}

/// The name in an address in canonical form, if it has one.
pub(crate) fn name_in(canonical: &str) -> Option<String> {
    match parse_canonical(canonical)? {
        (Host::Name(name), _) => Some(name),
        (Host::Ip(_), _) => None,
    }
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
        covers(Net, "::ffff:10.0.0.0/104", "10.1.2.3:22", true);
        covers(Net, "::ffff:10.0.0.0/104", "11.1.2.3:22", false);
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
        for doubled in ["//bin/rm", "/bin//rm", "/bin/rm/", "/", "//"] {
            assert!(canonical_resource(Command, doubled).is_err(), "{doubled}");
        }
    }

    #[test]
    fn names_have_one_form_in_patterns_too() {
        use ResourceKind::Bucket;
        let form = |text: &str| canonical_resource(Bucket, text).unwrap();
        covers(Bucket, "www/%61/**", "www/a/b", true);
        covers(Bucket, "www/100%25*", &form("www/100%25 sure"), true);
        covers(Bucket, "www/%ff*", &form("www/%FF%FE"), true);
        covers(Bucket, "www/%2A", "www/*", true);
        // A star stands for bytes of the name, not for letters of its escapes.
        covers(Bucket, "www/*5", &form("www/100%25"), false);
        covers(Bucket, "www/*F", &form("www/%FF"), false);
        covers(Bucket, "www/%2a", "www/a", false);
        covers(Bucket, "www/*", "www/*", true);
        for bad in ["www/100%", "www/%2e%2E", "www/a%2Fb", "www/%00"] {
            assert!(ResourcePattern::parse(Bucket, bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_tree_takes_one_grant_over_all_of_it_and_no_denial_in_it() {
        let grant = |pattern: &str| {
            ResourceGrant::parse(ResourceKind::Bucket, pattern, &["write"]).unwrap()
        };
        let check = |allow: &[&str], deny: &[&str], file: &str, tree: bool, within: bool| {
            let set = ResourceSet {
                allow: allow.iter().map(|pattern| grant(pattern)).collect(),
                deny: deny.iter().map(|pattern| grant(pattern)).collect(),
            };
            assert_eq!(
                set.holds_tree("write", file),
                tree,
                "{allow:?} {deny:?} {file}"
            );
            assert_eq!(
                set.might_hold_within("write", file),
                within,
                "{allow:?} {file}"
            );
        };
        check(&["www/**"], &[], "www", true, true);
        check(&["www/**"], &[], "www/a/b", true, true);
        check(&["*"], &[], "www/a", true, true);
        check(&["www/*"], &[], "www/a", false, true);
        check(&["www/a/b/**"], &[], "www/a", false, true);
        check(&["www/a/b/**"], &[], "www/c", false, false);
        check(&["www/*/**"], &[], "www/a", true, true);
        check(&["www/**"], &["www/a/secret"], "www/a", false, true);
        check(&["www/**"], &["www/a/secret"], "www/b", true, true);
        check(&["www/**"], &["www/*/secret/**"], "www/b", false, true);
        check(&["www/**"], &["*"], "www/b", false, false);
        check(&["www/**"], &["www/a/**"], "www/a/b", false, false);
        let read_only = ResourceSet {
            allow: vec![grant("www/**")],
            deny: vec![],
        };
        assert!(!read_only.holds_tree("read", "www"));
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
        assert!(set.denies(ResourceKind::Bucket, "read", "www/secret/a"));
        assert!(!set.denies(ResourceKind::Bucket, "write", "www/secret/a"));
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
    fn a_grant_for_a_peer_covers_nothing_behind_it() {
        use ResourceKind::Peer;
        covers(Peer, "nas", "nas", true);
        covers(Peer, "nas", "nas/pi", false);
        covers(Peer, "nas/pi", "nas/pi", true);
        covers(Peer, "nas/pi", "nas", false);
        covers(Peer, "nas/pi", "nas/pi/tv", false);
        covers(Peer, "nas/pi", "pi", false);
        covers(Peer, "nas/any", "nas/any", true);
        covers(Peer, "*", "nas/pi/tv/any", true);
        for bad in [
            "",
            "nas/",
            "/nas",
            "nas//pi",
            "nas/*",
            "nas/PI",
            "a/b/c/d/e",
        ] {
            assert!(ResourcePattern::parse(Peer, bad).is_err(), "{bad:?}");
            assert!(canonical_resource(Peer, bad).is_err(), "{bad:?}");
        }
        assert!(ResourcePattern::parse(Peer, "a/b/c/d").is_ok());
    }

    #[test]
    fn a_pattern_full_of_stars_stays_fast() {
        let pattern = format!("www/{}b", "*a".repeat(200));
        let pattern = ResourcePattern::parse(ResourceKind::Bucket, &pattern).unwrap();
        assert!(!pattern.covers(&format!("www/{}", "a".repeat(4000))));
    }
}
