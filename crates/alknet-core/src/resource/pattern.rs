//! Patterns over resources, as grants name them.

use super::{
    Host, ResourceError, ResourceKind, address::judged, check_way, invalid, split_host_port,
    text_bytes_max, unmapped,
};
use crate::files::unescape_name;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A pattern over resources of one kind, parsed once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourcePattern {
    pub(super) kind: ResourceKind,
    pub(super) text: String,
    matcher: Matcher,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Matcher {
    All,
    /// Segments split at `/`.
    Path(Vec<Segment>),
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

/// One segment of a pattern over paths.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    /// `**`, at the end: whatever follows.
    Rest,
    /// `*` stands for any bytes, [`STAR`] for a star itself.
    Name(Vec<u8>),
}

/// A star that was written as `%2A` and stands for itself; no name holds NUL.
const STAR: u8 = 0;

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
        if text.is_empty() || text.len() > text_bytes_max(kind) || text.contains('\0') {
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
                    check_way(text)?;
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
            Matcher::Net { host, ports } => net_covers(host, *ports, resource, judged),
            Matcher::Word {
                text,
                prefix: false,
            } => text == resource,
            Matcher::Word { text, prefix: true } => resource.starts_with(text.as_str()),
        }
    }

    /// Whether it covers a file in canonical form and whatever may lie below it.
    pub(super) fn covers_tree(&self, file: &str) -> bool {
        let names: Vec<&str> = file.split('/').collect();
        match &self.matcher {
            Matcher::All => true,
            Matcher::Path(parts) => path_covers_tree(parts, &names),
            _ => false,
        }
    }

    /// Whether it covers a file in canonical form, or something that may lie
    /// below it.
    pub(super) fn reaches(&self, file: &str) -> bool {
        let names: Vec<&str> = file.split('/').collect();
        match &self.matcher {
            Matcher::All => true,
            Matcher::Path(parts) => path_reaches(parts, &names),
            _ => false,
        }
    }

    /// Whether it denies a resource in canonical form: an address that stands
    /// for another is denied if either is.
    pub(super) fn bars(&self, resource: &str) -> bool {
        let as_written = match &self.matcher {
            Matcher::Net { host, ports } => net_covers(host, *ports, resource, |ip| ip),
            _ => false,
        };
        as_written || self.covers(resource)
    }

    /// Whether it covers some address with the port of a canonical one, so
    /// that a name might resolve into it.
    pub(super) fn covers_some_address(&self, resource: &str) -> bool {
        let port = split_host_port(resource).ok();
        let port = port.and_then(|(_, port)| port.parse::<u16>().ok());
        match (&self.matcher, port) {
            (Matcher::All, _) => true,
            (Matcher::Net { host, ports }, Some(port)) => {
                let by_address = matches!(host, HostMatcher::Any | HostMatcher::Cidr(..));
                by_address && (ports.0..=ports.1).contains(&port)
            }
            _ => false,
        }
    }
}

fn parse_path_pattern(kind: ResourceKind, text: &str) -> Result<Matcher, ResourceError> {
    let parts: Vec<&str> = text.split('/').collect();
    let last = parts.len() - 1;
    let mut segments = Vec::with_capacity(parts.len());
    for (at, part) in parts.into_iter().enumerate() {
        let climbs = kind == ResourceKind::Bucket
            && matches!(unescape_name(part).as_deref(), Ok(b"." | b".."));
        if climbs || part == "." || part == ".." || (part.is_empty() && at != last) {
            return Err(invalid(
                kind,
                "the pattern has an empty, `.` or `..` segment",
            ));
        }
        if part.contains("**") && (part != "**" || at != last) {
            return Err(invalid(kind, "`**` stands alone, at the end"));
        }
        match part {
            "" => {}
            "**" => segments.push(Segment::Rest),
            _ if kind == ResourceKind::Bucket => segments.push(parse_name_pattern(part)?),
            _ => segments.push(Segment::Name(part.as_bytes().to_vec())),
        }
    }
    Ok(Matcher::Path(segments))
}

/// What stands between stars is written as names are, in whatever form, and
/// compared as bytes: a star stands for whole bytes of a name, and never for a
/// part of an escape (`*5` does not cover `100%`, whose text is `100%25`).
fn parse_name_pattern(part: &str) -> Result<Segment, ResourceError> {
    let mut pattern = Vec::with_capacity(part.len());
    for (at, literal) in part.split('*').enumerate() {
        if at > 0 {
            pattern.push(b'*');
        }
        let bytes = unescape_name(literal)
            .map_err(|error| invalid(ResourceKind::Bucket, error.to_string()))?;
        if bytes.iter().any(|byte| matches!(byte, b'/' | 0)) {
            return Err(invalid(ResourceKind::Bucket, "a name holds `/` or NUL"));
        }
        let star = |byte: &u8| if *byte == b'*' { STAR } else { *byte };
        pattern.extend(bytes.iter().map(star));
    }
    Ok(Segment::Name(pattern))
}

fn path_covers(pattern: &[Segment], names: &[&str]) -> bool {
    match (pattern, names) {
        ([], []) => true,
        // `www/**` covers `www` itself: who may list the tree may see its root.
        ([Segment::Rest], _) => true,
        ([Segment::Name(first), rest @ ..], [name, more @ ..]) => {
            name_covers(first, name) && path_covers(rest, more)
        }
        _ => false,
    }
}

/// Whether a pattern covers a path and whatever may lie below it.
fn path_covers_tree(pattern: &[Segment], names: &[&str]) -> bool {
    match (pattern, names) {
        ([Segment::Rest], _) => true,
        ([Segment::Name(first), rest @ ..], [name, more @ ..]) => {
            name_covers(first, name) && path_covers_tree(rest, more)
        }
        _ => false,
    }
}

/// Whether a pattern covers a path or something that may lie below it.
fn path_reaches(pattern: &[Segment], names: &[&str]) -> bool {
    match (pattern, names) {
        ([Segment::Rest], _) | (_, []) => true,
        ([Segment::Name(first), rest @ ..], [name, more @ ..]) => {
            name_covers(first, name) && path_reaches(rest, more)
        }
        _ => false,
    }
}

/// Whether a pattern covers a name in canonical form.
fn name_covers(pattern: &[u8], name: &str) -> bool {
    match unescape_name(name) {
        Ok(bytes) => glob_segment(pattern, &bytes),
        // Not in that form: taken as it is.
        Err(_) => glob_segment(pattern, name.as_bytes()),
    }
}

/// `*` matches any bytes within one segment; linear backtracking to the last
/// star, so no pattern is slow.
fn glob_segment(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        let is_same = |part: &u8| *part == text[t] || (*part == STAR && text[t] == b'*');
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p).is_some_and(is_same) {
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
        return Err(bad());
    }
    // Resources are written as IPv4 where they can be; so are ranges, or a
    // denied `::ffff:10.0.0.0/104` would deny nothing.
    Ok(match unmapped(ip) {
        IpAddr::V4(v4) if ip.is_ipv6() && bits >= 96 => {
            HostMatcher::Cidr(IpAddr::V4(v4), bits - 96)
        }
        _ => HostMatcher::Cidr(ip, bits),
    })
}

fn net_covers(
    host: &HostMatcher,
    ports: (u16, u16),
    resource: &str,
    read: impl Fn(IpAddr) -> IpAddr,
) -> bool {
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
        (HostMatcher::Cidr(net, bits), Some(ip)) => in_cidr(*net, *bits, read(ip)),
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
