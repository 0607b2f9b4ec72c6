//! `[BIND:]PORT:HOST:PORT`, as OpenSSH has it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A port to listen on, and where its connections go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ForwardSpec {
    /// Where to listen.
    pub(super) listen: SocketAddr,
    /// `host:port`, `[ipv6]:port`.
    pub(super) target: String,
}

pub(super) fn parse_spec(text: &str) -> Result<ForwardSpec, String> {
    let shape = || "want [BIND:]PORT:HOST:PORT, IPv6 addresses in brackets".to_owned();
    let parts = split(text).ok_or_else(shape)?;
    let (bind, port, host, to) = match parts.as_slice() {
        [port, host, to] => (None, port, host, to),
        [bind, port, host, to] => (Some(bind), port, host, to),
        _ => return Err(shape()),
    };
    let port_of = |text: &str| {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        let port = text.parse::<u16>().ok().filter(|_| is_number);
        port.ok_or_else(|| format!("`{text}` is no port"))
    };
    let ip = match bind {
        None => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Some(Part::Plain("localhost")) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Some(Part::Plain(text)) => IpAddr::V4(
            text.parse()
                .map_err(|_| format!("`{text}` is no IP address to listen on"))?,
        ),
        Some(Part::Bracketed(ip)) => IpAddr::V6(*ip),
    };
    let (Part::Plain(port), Part::Plain(to)) = (port, to) else {
        return Err(shape());
    };
    let to = port_of(to)?;
    if to == 0 {
        return Err("nobody is reached at port 0".into());
    }
    let target = match host {
        Part::Plain("") => return Err(shape()),
        Part::Plain(name) => format!("{name}:{to}"),
        Part::Bracketed(ip) => format!("[{ip}]:{to}"),
    };
    Ok(ForwardSpec {
        listen: SocketAddr::new(ip, port_of(port)?),
        target,
    })
}

#[derive(Debug)]
enum Part<'a> {
    Plain(&'a str),
    Bracketed(Ipv6Addr),
}

/// Splits at `:` outside of brackets.
fn split(text: &str) -> Option<Vec<Part<'_>>> {
    let (mut parts, mut rest) = (Vec::new(), text);
    loop {
        let after = match rest.strip_prefix('[') {
            Some(inner) => {
                let (ip, after) = inner.split_once(']')?;
                parts.push(Part::Bracketed(ip.parse().ok()?));
                after
            }
            None => {
                let end = rest.find(':').unwrap_or(rest.len());
                parts.push(Part::Plain(&rest[..end]));
                &rest[end..]
            }
        };
        match after {
            "" => return Some(parts),
            after => rest = after.strip_prefix(':')?,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[track_caller]
    fn check(text: &str, listen: &str, target: &str) {
        let spec = parse_spec(text).unwrap();
        assert_eq!(
            (spec.listen.to_string().as_str(), spec.target.as_str()),
            (listen, target)
        );
    }

    #[test]
    fn the_bind_address_is_loopback_unless_given() {
        check("8080:db.lan:5432", "127.0.0.1:8080", "db.lan:5432");
        check("localhost:0:a:1", "127.0.0.1:0", "a:1");
        check("0.0.0.0:80:10.0.0.1:80", "0.0.0.0:80", "10.0.0.1:80");
    }

    #[test]
    fn addresses_of_ipv6_stand_in_brackets() {
        check("[::1]:8080:[fd12::5]:80", "[::1]:8080", "[fd12::5]:80");
        check("8080:[::1]:80", "127.0.0.1:8080", "[::1]:80");
        check("[::]:0:nas:22", "[::]:0", "nas:22");
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "",
            "80",
            "80:host",
            "80:host:",
            "80::80",
            ":80:host:80",
            "80:host:0",
            "80:host:65536",
            "65536:host:80",
            "+80:host:80",
            "80:host:-1",
            "a:80:host:80",
            "1:2:3:4:5",
            "::1:80:host:80",
            "[::1:80:host:80",
            "[::1]80:host:80",
            "[x]:80:host:80",
            "80:[::1]",
            "[::1]:host:80",
            "80:host:[::1]",
        ] {
            assert!(parse_spec(bad).is_err(), "{bad:?}");
        }
    }
}
