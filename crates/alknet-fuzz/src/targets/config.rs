//! The configuration file, and URLs of relays in it.

use super::{MIB, Target, texts};
use crate::note;
use alknet_node::{Config, ConfigError, RelaySetting, relay::vet_relay};
use std::{net::IpAddr, path::Path};

pub(super) const CONFIG: Target = Target {
    name: "config",
    about: "A configuration is refused with its line, or writes back as it was read.",
    run: config,
    seeds: || {
        texts(&[
            "",
            "name = \"home\"\n",
            "[network]\nbind = \"0.0.0.0:0\"\nrelays = [\"n0\", \"https://r.example.org\"]\n",
            "[limits]\ncalls_per_peer_max = 3\nidle_ms = 60000\nstream_window_bytes = 1000000\n",
            "[exec]\nuser = \"nobody\"\ntimeout = \"60s\"\npath = [\"/usr/bin\"]\n",
            "[[operation]]\nname = \"a/b\"\nsummary = \"S.\"\ncommand = [\"x\", \"{y}\"]\ninput = { y = \"string\" }\noutput = \"json\"\nerrors = { 3 = { code = \"A_B\", description = \"D.\" } }\nresources = [{ kind = \"bucket\", action = \"read\", at = \"/y\" }]\nexamples = [{ input = { y = \"z\" }, output = 1 }]\n",
            "[[role]]\nname = \"support\"\nscopes = [\"a:b\"]\nresources = { bucket = { \"logs/**\" = [\"read\"] } }\ndeny = { net = { \"*\" = [\"*\"] } }\n",
            "[netwrok]\n",
            "[limits]\nrate_burst = \"many\"\n",
            "name = 1\n",
            "a = [[[[[[[[[[",
            "name = \"\\u0000\"",
        ])
    },
    tokens: &[
        b"[[operation]]\n",
        b"[[role]]\n",
        b"[limits]\n",
        b"name = ",
        b"\"\"\"",
        b"''",
        b"= {",
        b"[",
        b"]",
        b"}",
        b"\n",
        b"18446744073709551615",
        b"-1",
        b"1e400",
        b"inf",
        b"1979-05-27T07:32:00Z",
        b"a.b.c.d = 1\n",
        b"input = ",
    ],
    bytes_max: 1200,
    held_max: 8 * MIB,
};

pub(super) const RELAYS: Target = Target {
    name: "relays",
    about: "A relay is spoken to in the clear only where nobody can listen in, and no peer's is this machine.",
    run: relays,
    seeds: || {
        texts(&[
            "none",
            "n0",
            "https://relay.example.org",
            "http://127.0.0.1:3340",
            "http://10.0.0.1:3340",
            "http://[::1]:1",
            "http://relay.example.org",
            "http://8.8.8.8",
            "ftp://10.0.0.1",
            "http://localhost/",
            "http://[fd00::1]",
            "http://[::ffff:8.8.8.8]",
            "http://0x7f.1",
            "http://2130706433",
            "http://user@10.0.0.1",
            "http://10.0.0.1@8.8.8.8/",
            "http://127.0.0.1.example.org",
            "HTTP://LOCALHOST.",
            "http:10.0.0.1",
            "http://[fe80::1]",
            "http://169.254.169.254",
            "http://192.168.1.1",
            "http://172.16.0.1",
            "https://[::ffff:127.0.0.1]/",
            "https://0177.0.0.1/",
            "https://x.localhost./",
            "https://r.example.org/#sha256=ab12cd34ab12cd34ab12cd34ab12cd34ab12cd34ab12cd34ab12cd34ab12cd34&qad=7000",
            "https://r.example.org/#qad=off",
            "https://r.example.org/#qad=1&qad=2",
            "https://a:b@r.example.org/c?d",
        ])
    },
    tokens: &[
        b"http://",
        b"https://",
        b"127.0.0.1",
        b"10.0.0.1",
        b"8.8.8.8",
        b"[::1]",
        b"localhost",
        b"@",
        b":80",
        b"/",
        b"\\",
        b"%2e",
        b"#sha256=",
        b"qad=",
        b"&",
        b"off",
        b"?",
        b"[::ffff:",
        b"]",
        b".",
    ],
    bytes_max: 420,
    held_max: MIB,
};

fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let path = Path::new("alknet.toml");
    let config = match Config::parse(&text, path) {
        Ok(config) => config,
        Err(error) => {
            if let ConfigError::Parse { line, .. } = &error {
                let lines = text.matches('\n').count() + 1;
                assert!((1..=lines).contains(line), "line {line} of {lines}");
            }
            let _ = error.hint();
            return note((
                std::mem::discriminant(&error),
                error.to_string().len().min(60),
            ));
        }
    };
    // TOML has `inf` and `nan`, of which JSON makes null, which TOML has not.
    let json = serde_json::to_value(&config).expect("plain data");
    if !json.to_string().contains("null") {
        let written = toml::to_string(&config).expect("a configuration can be written");
        let again = Config::parse(&written, path);
        assert_eq!(again.ok().as_ref(), Some(&config), "{written}");
    }
    note((
        config.roles.len(),
        config.operations.len(),
        config.name.is_some(),
        config.network.bind,
    ));
}

fn relays(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(RelaySetting::Url(relay)) = RelaySetting::parse(&text) else {
        return note("none");
    };
    let url = relay.url();
    let scheme = url.scheme();
    assert!(matches!(scheme, "http" | "https"), "{url}");
    assert!(relay.pin().is_none() || scheme == "https", "{relay}");
    assert!(
        url.fragment().is_none() && url.query().is_none() && url.path() == "/",
        "{url}"
    );
    let host = url.host_str().unwrap_or_default();
    note((
        scheme.to_owned(),
        host.len().min(20),
        host.starts_with('['),
        relay.pin().is_some(),
        relay.qad(),
    ));
    if scheme == "http" {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let is_near = match bare.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) => match ip.octets() {
                [127 | 10, ..] | [192, 168, ..] => true,
                [172, second, ..] => (16..32).contains(&second),
                _ => false,
            },
            Ok(IpAddr::V6(ip)) => {
                ip.segments() == [0, 0, 0, 0, 0, 0, 0, 1] || ip.octets()[0] & 0xfe == 0xfc
            }
            Err(_) => bare == "localhost",
        };
        assert!(is_near, "{text:?} is plain http to {host}");
    }
    // What a peer may name is never this machine, however it is spelt.
    if vet_relay(&relay, false).is_ok() {
        assert!(scheme == "https", "{text:?}");
        let near = relay.ip().map(|ip| ip.to_canonical());
        let is_near = near.is_some_and(|ip| ip.is_loopback() || ip.is_unspecified());
        let bare = host.trim_end_matches('.').to_ascii_lowercase();
        assert!(
            !is_near && bare != "localhost" && !bare.ends_with(".localhost"),
            "{text:?}"
        );
    }
    // As it is kept, it is read again.
    assert_eq!(
        RelaySetting::parse(&relay.to_string()),
        Ok(RelaySetting::Url(relay))
    );
}
