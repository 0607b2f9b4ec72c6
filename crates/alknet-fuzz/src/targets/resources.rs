//! Resources, patterns over them, and grants.

use super::{MIB, Target, models, texts};
use crate::{note, source::Source};
use alknet_core::{
    GrantTarget, ResourceGrant, ResourceKind, ResourcePattern, ResourceSet, canonical_resource,
};
use std::net::{IpAddr, SocketAddr};

pub(super) const GRANTS: Target = Target {
    name: "grants",
    about: "A grant prints as it was read, and JSON carries it.",
    run: grants,
    seeds: || {
        texts(&[
            "editor",
            "deploy/restart",
            "deploy:write",
            "*",
            "bucket:www/public/**=read,list",
            "!bucket:www/secret/**=read",
            "net:10.0.0.0/8:80-443=dial",
            "net:[::1]:22=dial",
            "peer:nas=fs/*,node/info",
            "command:git-*=run",
            "topic:a/b.c/*=publish",
            "bucket:a=b=c",
            "!x",
        ])
    },
    tokens: &[
        b"bucket:",
        b"net:",
        b"peer:",
        b"command:",
        b"topic:",
        b"=read",
        b"!",
        b",",
        b"/**",
        b"*",
    ],
    bytes_max: 300,
    held_max: MIB,
};

pub(super) const RESOURCES: Target = Target {
    name: "resources",
    about: "Every resource has one canonical form, which never climbs and never hides an address.",
    run: resources,
    seeds: resource_seeds,
    tokens: RESOURCE_TOKENS,
    bytes_max: 300,
    held_max: MIB,
};

pub(super) const PATTERNS: Target = Target {
    name: "patterns",
    about: "A pattern covers what a matcher that is written naively covers.",
    run: patterns,
    seeds: pattern_seeds,
    tokens: RESOURCE_TOKENS,
    bytes_max: 300,
    held_max: MIB,
};

const RESOURCE_TOKENS: &[&[u8]] = &[
    b"www",
    b"@dev",
    b"/",
    b"//",
    b"..",
    b"/../",
    b".",
    b"**",
    b"/**",
    b"*",
    b"*.lan",
    b":80",
    b":1-9",
    b"127.0.0.1",
    b"[::ffff:",
    b"]:22",
    b"::1",
    b"10.0.0.0/8",
    b"/0",
    b"0x7f",
    b"0177",
    b"2130706433",
    b"\n",
    b"db.lan",
    b".",
    b"%00",
    b"%25",
    b"%2A",
    b"%ff",
];

fn grants(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let target = GrantTarget::parse(&text);
    note(match &target {
        Ok(target) => format!("{:?}", std::mem::discriminant(target)),
        Err(error) => format!("{:?}", std::mem::discriminant(error)),
    });
    let Ok(target) = target else {
        return;
    };
    let printed = target.to_string();
    assert_eq!(
        GrantTarget::parse(&printed).as_ref(),
        Ok(&target),
        "{printed:?}"
    );
    let json = serde_json::to_string(&target).expect("a text");
    assert_eq!(
        serde_json::from_str::<GrantTarget>(&json).expect("its own text"),
        target
    );
    // A grant of one thing is never taken for another.
    match &target {
        GrantTarget::Deny(_) => assert!(text.starts_with('!')),
        GrantTarget::Resource(_) => assert!(text.contains('=') && !text.starts_with('!')),
        GrantTarget::Operation(name) => assert!(models::is_operation_name(name.as_str())),
        GrantTarget::Scope(scope) => assert!(models::is_scope(scope.as_str())),
        GrantTarget::Role(role) => assert!(models::is_slug(role.as_str())),
    }
}

fn kind(source: &mut Source<'_>) -> ResourceKind {
    source.pick(ResourceKind::ALL)
}

/// The first byte picks the kind.
fn resources(data: &[u8]) {
    let mut source = Source::new(data);
    let kind = kind(&mut source);
    let text = String::from_utf8_lossy(source.rest()).into_owned();
    let Ok(canonical) = canonical_resource(kind, &text) else {
        note((kind, "refused"));
        return;
    };
    assert_eq!(
        canonical_resource(kind, &canonical).as_ref(),
        Ok(&canonical),
        "{text:?}"
    );
    assert!(!canonical.is_empty() && !canonical.contains('\0'));
    match kind {
        ResourceKind::Bucket => {
            let parts = models::parts(&canonical, '/');
            assert!(
                parts
                    .iter()
                    .all(|part| !matches!(part.as_str(), "" | "." | "..")),
                "{canonical:?}"
            );
            assert!(!canonical.starts_with(['/', '@']));
            // Nothing is lost but slashes, and how a byte was written.
            let (root, names) = models::file_path(&text).expect("it was read");
            let kept = names.iter().map(|name| models::escaped(name));
            let kept: Vec<String> = std::iter::once(root).chain(kept).collect();
            assert_eq!(kept.join("/"), canonical);
        }
        ResourceKind::Net => net(&text, &canonical),
        ResourceKind::Command => {
            if let Some(path) = canonical.strip_prefix('/') {
                let parts = models::parts(path, '/');
                assert!(
                    parts
                        .iter()
                        .all(|part| !matches!(part.as_str(), "" | "." | "..")),
                    "{canonical:?}"
                );
            }
            assert!(!matches!(canonical.as_str(), "." | ".."));
        }
        ResourceKind::Peer => {
            let steps = models::parts(&canonical, '/');
            assert!(
                steps.len() <= 4 && steps.iter().all(|step| models::is_slug(step)),
                "{canonical:?}"
            );
            assert_eq!(canonical, text);
        }
        _ => {
            assert!(
                models::parts(&canonical, '/')
                    .iter()
                    .all(|part| !part.is_empty())
            );
            assert_eq!(canonical, text);
        }
    }
    // The pattern of a thing covers the thing, unless a star is part of it, or
    // it stands for another.
    let stands_for_itself = canonical
        .parse::<SocketAddr>()
        .is_ok_and(|address| models::stands_for(address.ip()) == address.ip());
    if !canonical.contains('*')
        && (kind != ResourceKind::Net || !canonical.starts_with('[') || stands_for_itself)
    {
        let pattern = ResourcePattern::parse(kind, &canonical);
        assert!(
            pattern.is_ok_and(|pattern| pattern.covers(&canonical)),
            "{kind}:{canonical:?}"
        );
    }
    note((
        kind,
        canonical.len().min(40),
        canonical.starts_with(['/', '[']),
    ));
}

/// An address is written as the system writes it, and what a resolver might
/// take for an address is none of its names.
fn net(text: &str, canonical: &str) {
    let (host, port) = canonical.rsplit_once(':').expect("host:port");
    let port: u16 = port.parse().expect("a port");
    assert_eq!(
        port.to_string(),
        canonical.rsplit_once(':').expect("above").1
    );
    if let Ok(address) = canonical.parse::<SocketAddr>() {
        assert_eq!(address.to_string(), canonical);
        let is_mapped = matches!(address.ip(), IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
        assert!(!is_mapped, "{canonical}");
    } else {
        assert!(
            host.len() <= 253 && host.parse::<IpAddr>().is_err(),
            "{canonical}"
        );
        let last = models::parts(host, '.').pop().unwrap_or_default();
        assert!(
            !last.is_empty() && !last.chars().all(|c| c.is_ascii_digit()),
            "{canonical}"
        );
        assert!(!last.starts_with("0x"), "{canonical}");
        assert!(
            host.chars()
                .all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-' | '_' | '.')),
            "{canonical}"
        );
    }
    // What the system reads as an address is that address here.
    if let Ok(address) = text.parse::<SocketAddr>()
        && !text.contains('%')
    {
        let plain = SocketAddr::new(address.ip().to_canonical(), address.port());
        assert_eq!(canonical, plain.to_string());
    }
}

/// A byte for the kind, a pattern, a line feed, a resource.
fn patterns(data: &[u8]) {
    let mut source = Source::new(data);
    let kind = kind(&mut source);
    let text = String::from_utf8_lossy(source.rest()).into_owned();
    let (pattern, resource) = text.split_once('\n').unwrap_or((&text, &text));
    let (Ok(parsed), Ok(canonical)) = (
        ResourcePattern::parse(kind, pattern),
        canonical_resource(kind, resource),
    ) else {
        return;
    };
    assert_eq!(parsed.as_str(), pattern);
    let covers = parsed.covers(&canonical);
    let wanted = match kind {
        ResourceKind::Bucket => models::file_covers(pattern, &canonical),
        ResourceKind::Topic => pattern == "*" || models::path_covers(pattern, &canonical),
        ResourceKind::Net => net_covers(pattern, &canonical, models::stands_for),
        ResourceKind::Command => match pattern.strip_suffix('*') {
            Some(start) => canonical.starts_with(start),
            None => canonical == pattern,
        },
        _ => pattern == "*" || pattern == canonical,
    };
    assert_eq!(covers, wanted, "{kind}: {pattern:?} over {canonical:?}");
    note((
        kind,
        covers,
        pattern.contains('*'),
        pattern.contains("**"),
        pattern.contains('/'),
    ));
    let grant = ResourceGrant::parse(kind, pattern, &["*"]).expect("a pattern with an action");
    assert!(grant.carries("anything/at-all"));
    let held = ResourceSet {
        allow: vec![grant.clone()],
        deny: Vec::new(),
    };
    assert_eq!(held.holds(kind, "do/it", &canonical), wanted);
    // A denial takes an address by either of its forms, and wins.
    let denied = wanted || (kind == ResourceKind::Net && net_covers(pattern, &canonical, |ip| ip));
    let both = ResourceSet {
        allow: vec![grant.clone()],
        deny: vec![grant],
    };
    assert_eq!(
        both.denies(kind, "do/it", &canonical),
        denied,
        "!{kind}:{pattern:?} over {canonical:?}"
    );
    assert!(!both.holds(kind, "do/it", &canonical));
}

/// Ranges bit by bit, names label by label.
pub(super) fn net_covers(pattern: &str, resource: &str, read: fn(IpAddr) -> IpAddr) -> bool {
    let (host, ports) = pattern_parts(pattern);
    // `[range]:ports`; the brackets of an address stay for `bare`.
    let host = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(range) if range.contains('/') => range,
        _ => host,
    };
    let (name, port) = resource.rsplit_once(':').expect("host:port");
    let port: u16 = port.parse().expect("a port");
    if !ports.contains(&port) {
        return false;
    }
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let ip = name.parse::<IpAddr>().map(read);
    if host == "*" {
        return true;
    }
    if let Some((range, length)) = host.split_once('/') {
        let range = range.trim_start_matches('[').trim_end_matches(']');
        let range: IpAddr = range.parse().expect("a range that was read");
        let length = length.parse().expect("a range that was read");
        return ip.is_ok_and(|ip| models::in_range(range, length, ip));
    }
    if let Ok(own) = bare.parse::<IpAddr>() {
        return ip == Ok(own.to_canonical());
    }
    if ip.is_ok() {
        return false;
    }
    let host = host.to_ascii_lowercase();
    // A name may stand in brackets.
    let host = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(name) => name,
        None => &host,
    };
    let host = host.trim_end_matches('.');
    match host.strip_prefix("*.") {
        Some(domain) => {
            let (labels, of) = (models::parts(name, '.'), models::parts(domain, '.'));
            labels.len() > of.len() && labels.ends_with(&of)
        }
        None => name == host,
    }
}

/// Host and ports; without ports, all.
pub(super) fn pattern_parts(pattern: &str) -> (&str, std::ops::RangeInclusive<u16>) {
    let all = 0..=u16::MAX;
    let is_bare_v6 = pattern.parse::<std::net::Ipv6Addr>().is_ok();
    let Some((host, ports)) = pattern.rsplit_once(':').filter(|_| !is_bare_v6) else {
        return (pattern, all);
    };
    if ports == "*" {
        return (host, all);
    }
    let (low, high) = ports.split_once('-').unwrap_or((ports, ports));
    match (low.parse(), high.parse()) {
        // Within brackets, or before the length of a range, a colon is not
        // one before ports.
        (Ok(low), Ok(high)) if !host.contains(':') || host.starts_with('[') => (host, low..=high),
        _ => (pattern, all),
    }
}

fn of_kinds(texts: &[(ResourceKind, &str)]) -> Vec<Vec<u8>> {
    let index = |kind: ResourceKind| {
        let at = ResourceKind::ALL.iter().position(|known| *known == kind);
        u8::try_from(at.unwrap_or(0)).unwrap_or(0)
    };
    texts
        .iter()
        .map(|(kind, text)| [&[index(*kind)], text.as_bytes()].concat())
        .collect()
}

fn resource_seeds() -> Vec<Vec<u8>> {
    use ResourceKind::{Bucket, Command, Net, Peer, Topic};
    of_kinds(&[
        (Bucket, "www/public//a.txt"),
        (Bucket, "www@dev/a/b"),
        (Bucket, "www/../etc"),
        (Bucket, "www/.../x"),
        (Bucket, "www/100%25/%fF%41"),
        (Net, "db.lan:5432"),
        (Net, "DB.LAN.:9"),
        (Net, "10.0.0.1:80"),
        (Net, "[::1]:22"),
        (Net, "[::ffff:127.0.0.1]:22"),
        (Net, "2130706433:80"),
        (Net, "0x7f.1:80"),
        (Net, "127.1:80"),
        (Net, "[fe80::1%eth0]:1"),
        (Net, "[64:ff9b::1.2.3.4]:1"),
        (Net, "a_b-c.d9:0"),
        (Net, "[1.2.3.4]:5"),
        (Command, "git"),
        (Command, "/usr/bin/git"),
        (Command, "/usr/../git"),
        (Command, "./git"),
        (Peer, "nas"),
        (Peer, "a/b"),
        (Topic, "a/b.c/d_e"),
        (Topic, "a//b"),
    ])
}

fn pattern_seeds() -> Vec<Vec<u8>> {
    use ResourceKind::{Bucket, Command, Net, Peer, Topic};
    of_kinds(&[
        (Bucket, "www/public/**\nwww/public/a/b"),
        (Bucket, "www/*.txt\nwww/a.txt"),
        (Bucket, "*\nwww"),
        (Bucket, "www/%2A%ff*\nwww/%2a%FFx"),
        (Bucket, "www/*5\nwww/100%25"),
        (Bucket, "www/*/b*c*/\nwww/x/bac"),
        (Bucket, "**\na"),
        (Bucket, "www@*/**\nwww@dev/a"),
        (Net, "10.0.0.0/8:5432\n10.1.2.3:5432"),
        (Net, "*.lan:80-443\ndb.lan:443"),
        (Net, "*:22\n[::1]:22"),
        (Net, "::ffff:10.0.0.0/104\n10.1.2.3:22"),
        (Net, "fe80::/10\n[fe80::1]:22"),
        (Net, "[::1]:22\n[::1]:22"),
        (Net, "[fd00::/8]:*\n[fd00::1]:1"),
        (Net, "0.0.0.0/0\n1.2.3.4:5"),
        (Net, "::/0\n[::2]:1"),
        (Net, "::ffff:0.0.0.0/90\n1.2.3.4:5"),
        (Net, "db.lan\nDB.lan.:1"),
        (Command, "git-*\ngit-upload-pack"),
        (Command, "*\ngit"),
        (Command, "/usr/bin/*\n/usr/bin/x"),
        (Peer, "nas\nnas"),
        (Peer, "*\nnas"),
        (Topic, "a/*\na/b"),
        (Topic, "**\na"),
        (Topic, "a/**\na"),
    ])
}
