//! `alknet relay`: a relay of one's own, and nodes that have no other way to
//! each other.

use super::{
    bulk,
    harness::{Node, eventually, exec_config},
};
use crate::program::Place;
use alknet_lab::{Host, Lab, Nat, Site};
use serde_json::Value;
use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

/// A relay of its own on loopback.
fn relay(words: &[&str]) -> Node {
    let nearby = [
        "relay",
        "--listen",
        "127.0.0.1:0",
        "--qad",
        "0",
        "--bind",
        "127.0.0.1:0",
    ];
    Node::start_with("relay", exec_config(), &[&nearby, words].concat(), None)
}

fn url(relay: &Node) -> String {
    relay.status["relay"]["url"].as_str().unwrap().to_owned()
}

/// The key in an address, as curl takes it: base64 (RFC 4648).
fn pin_for_curl(url: &str) -> String {
    let hex = url.split_once("sha256=").unwrap().1.get(..64).unwrap();
    let mut bytes = Vec::new();
    for at in (0..64).step_by(2) {
        bytes.push(u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
    }
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let three = [0, 1, 2].map(|at| u32::from(*part.get(at).unwrap_or(&0)));
        let bits = three[0] << 16 | three[1] << 8 | three[2];
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= part.len() {
                char::from(digit)
            } else {
                '='
            });
        }
    }
    format!("sha256//{text}")
}

fn curl(words: &[&str]) -> Option<Output> {
    let said = Command::new("curl")
        .args(["--silent", "--max-time", "20"])
        .args(words)
        .output();
    said.ok()
}

/// How a node sees the first relay that it uses, once it does as wanted.
#[track_caller]
fn sees(node: &Node, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || {
        let status = node.cli(&["status", "--json"]).exits(0).json();
        let used = status["relays_in_use"][0].clone();
        wanted(&used).then_some(used)
    })
}

#[test]
fn a_client_of_another_kind_knows_the_relay_by_its_pinned_key() {
    const TEST: &str = "a_client_of_another_kind_knows_the_relay_by_its_pinned_key";
    let relay = relay(&["--self-signed", "--metrics", "127.0.0.1:0"]);
    let address = url(&relay);
    let base = address.split_once('#').unwrap().0;
    let pin = pin_for_curl(&address);
    let ask = |pin: &str, path: &str| {
        curl(&[
            "--insecure",
            "--pinnedpubkey",
            pin,
            &format!("{base}{path}"),
        ])
    };
    let Some(health) = ask(&pin, "healthz") else {
        alknet_lab::skip(TEST, "there is no curl");
        return;
    };
    let health: Value = serde_json::from_slice(&health.stdout).unwrap();
    assert_eq!(health["status"], "ok");
    assert!(ask(&pin, "ping").unwrap().status.success());
    // CURLE_SSL_PINNEDPUBKEYNOTMATCH
    let other = format!("sha256//{}=", "A".repeat(43));
    assert_eq!(ask(&other, "ping").unwrap().status.code(), Some(90));
    let metrics = relay.status["relay"]["metrics"].as_str().unwrap();
    eventually("the relay's own node is counted", || {
        let said = curl(&[&format!("http://{metrics}/metrics")]).unwrap();
        let text = String::from_utf8(said.stdout).unwrap();
        assert!(text.ends_with("# EOF\n"), "{text}");
        let admitted = text
            .lines()
            .find_map(|line| line.strip_prefix("alknet_relay_admitted_total "));
        (admitted? != "0").then_some(())
    });
}

#[test]
fn the_relay_says_where_it_is_and_keeps_its_key() {
    let mut relay = relay(&[]);
    let first = url(&relay);
    let pin = pin_for_curl(&first);
    let text = relay.cli(&["status"]).exits(0).stdout;
    let line = text
        .lines()
        .find(|line| line.starts_with("own relay:"))
        .unwrap();
    assert!(
        line.contains(&first) && line.ends_with("(0 clients)"),
        "{line}"
    );
    assert!(text.contains(&format!("--relay '{first}'")), "{text}");
    sees(&relay, "it uses itself", |used| used["connected"] == true);
    relay.stop();
    relay.restart();
    assert_eq!(pin_for_curl(&url(&relay)), pin);
    let doctor = relay.cli(&["doctor", "--json"]).exits(0).json();
    let checks = doctor["checks"].as_array().unwrap();
    let of =
        |name: &str| checks.iter().find(|check| check["name"] == name).unwrap()["status"].clone();
    assert_eq!(of("own relay"), "ok", "{doctor}");
}

#[test]
fn a_relay_that_is_none_or_another_is_named_with_what_helps() {
    let relay = relay(&[]);
    let right = url(&relay);
    let (base, _) = right.split_once('#').unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("https://{}/", taken.local_addr().unwrap());
    drop(taken);
    let wrong_pin = format!("{base}#sha256={}", "0".repeat(64));
    for (address, code, hint) in [
        (nobody.as_str(), "REFUSED", "whether the relay runs"),
        (base, "CERTIFICATE_UNKNOWN", "#sha256="),
        (&wrong_pin, "CERTIFICATE", "present address"),
        (&right, "NOT_ACCEPTED", "alknet join"),
    ] {
        let words = ["--relay", address, "--bind", "127.0.0.1:0"];
        let node = Node::start_with("laptop", exec_config(), &words, None);
        let used = sees(&node, code, |used| used["problem"] == code);
        assert_eq!(used["connected"], false);
        assert!(used["hint"].as_str().unwrap().contains(hint), "{used}");
        let notes = node.cli(&["status"]).exits(0).stdout;
        assert!(notes.contains("is not used: "), "{notes}");
        // Said once, and not on each attempt.
        let told = node.told();
        assert_eq!(told.matches("the relay is not used").count(), 1, "{told}");
        // Without a node too; that this one is a stranger there, only a relay
        // that is asked to relay says.
        if code != "NOT_ACCEPTED" {
            let place = Place::new();
            place.configure(&format!(
                "{}[network]\nrelays = [\"{address}\"]\n",
                exec_config()
            ));
            place.run(&["init", "-q"]).exits(0);
            let doctor = place.run(&["doctor", "--json"]).exits(1).json();
            let checks = doctor["checks"].as_array().unwrap();
            let check = checks
                .iter()
                .find(|check| check["name"] == "relays")
                .unwrap();
            assert_eq!(check["status"], "fail", "{doctor}");
            assert!(check["hint"].as_str().unwrap().contains(hint), "{doctor}");
        }
    }
}

/// A certificate that has expired, with its key.
fn expired(dir: &Path) -> [String; 2] {
    let mut params = rcgen::CertificateParams::new(vec!["relay.example.org".into()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let files = ["cert.pem", "key.pem"].map(|name| dir.join(name));
    fs::write(&files[0], params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(&files[1], key.serialize_pem()).unwrap();
    files.map(|file| file.to_str().unwrap().to_owned())
}

#[test]
fn a_relay_with_a_bad_certificate_or_address_does_not_start_and_says_why() {
    let place = Place::new();
    let [cert, key] = expired(place.path());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let mode = |mode| fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
    let own = ["--cert", cert.as_str(), "--key", key.as_str()];
    let nearby = ["--qad", "off", "--bind", "127.0.0.1:0"];
    let free = ["--listen", "127.0.0.1:0"];
    let starts = |words: &[&str]| place.run(&[&["relay"], &nearby[..], words].concat());
    mode(0o644);
    let said = starts(&[&free[..], &own].concat()).exits(1).stderr;
    assert!(
        said.contains("can be read by others") && said.contains("hint: chmod go= "),
        "{said}"
    );
    mode(0o600);
    let said = starts(&[&free[..], &own].concat()).exits(1).stderr;
    assert!(
        said.contains("expired at 2001-01-01") && said.contains("hint: renew it"),
        "{said}"
    );
    let said = starts(&["--listen", &taken]).exits(1).stderr;
    assert!(
        said.contains("TCP port") && said.contains("is taken") && said.contains("--listen"),
        "{said}"
    );
    let said = starts(&[&free[..], &["--url", "http://relay.example.org"]].concat())
        .exits(1)
        .stderr;
    assert!(said.contains("use https"), "{said}");
    let said = starts(&[&free[..], &["--url", "https://[2001:db8::1]/"]].concat())
        .exits(1)
        .stderr;
    assert!(
        said.contains("IPv6 address") && said.contains("--url https://NAME/"),
        "{said}"
    );
    let said = starts(&["--cert", &cert]).exits(2).stderr;
    assert!(said.contains("--key"), "{said}");
}

/// A node behind a router that lets no UDP through.
fn behind(site: &Site, name: &str, words: &[&str]) -> Node {
    site.block_udp().unwrap();
    Node::start_with(name, exec_config(), words, Some(site.host().namespace()))
}

fn relay_on(host: &Host) -> Node {
    let listen = format!("{}:443", host.v4());
    let words = [
        "relay",
        "--listen",
        &listen,
        "--qad",
        "7842",
        "--self-signed",
    ];
    Node::start_with("relay", exec_config(), &words, Some(host.namespace()))
}

#[test]
fn slow_nodes_without_udp_join_and_meet_through_a_relay_known_by_its_key() {
    const TEST: &str = "slow_nodes_without_udp_join_and_meet_through_a_relay_known_by_its_key";
    let Some(lab) = Lab::open(TEST) else {
        return;
    };
    let relay = relay_on(&lab.host("relay").unwrap());
    let address = url(&relay);
    sees(&relay, "it uses itself", |used| used["connected"] == true);
    let (at_home, at_laptop) = (
        lab.site("home", Nat::Symmetric).unwrap(),
        lab.site("laptop", Nat::Symmetric).unwrap(),
    );
    // One knows the relay and is refused, the other knows nothing: both become
    // guests by the token of an invite, and use the relay from then on.
    let home = behind(&at_home, "home", &["--relay", &address]);
    let laptop = behind(&at_laptop, "laptop", &[]);
    sees(&home, "it is refused", |used| {
        used["problem"] == "NOT_ACCEPTED"
    });
    let invite =
        |node: &Node, role: &str| node.cli(&["invite", "-q", "--role", role]).exits(0).stdout;
    home.feed(&["join", "-"], invite(&relay, "none").as_bytes())
        .exits(0);
    sees(&home, "the relay is in use", |used| {
        used["connected"] == true
    });
    // The relay does not know this invite; that it refused a guest once does
    // not stand in the way of the next one.
    let refused = laptop.feed(&["join", "-"], invite(&home, "operator").as_bytes());
    assert!(refused.stderr.contains("was not reached"), "{refused:?}");
    let said = laptop
        .feed(
            &["join", "-", "--use-relays"],
            invite(&relay, "none").as_bytes(),
        )
        .exits(0);
    assert!(said.stderr.contains("kept in"), "{said:?}");
    let kept = fs::read_to_string(laptop.data().join("alknet.toml")).unwrap();
    assert!(
        kept.contains(&format!("relays = [\"{address}\"]")),
        "{kept}"
    );
    for node in [&home, &laptop] {
        sees(node, "the relay is in use", |used| {
            used["connected"] == true
        });
    }
    laptop
        .feed(
            &["join", "-", "--role", "operator"],
            invite(&home, "operator").as_bytes(),
        )
        .exits(0);
    let link = laptop.connected("home")["link"].clone();
    assert_eq!(
        (&link["path"], &link["relay"]),
        (&"relay".into(), &address.as_str().into()),
        "{link}"
    );
    let info = laptop
        .cli(&["call", "node/info", "--on", "home", "--json"])
        .exits(0)
        .json();
    assert_eq!(info["node_id"], home.id());
    bulk::there_and_back(&laptop, "home", 1024 * 1024);
    let counted = relay.cli(&["status", "--json"]).exits(0).json()["relay"].clone();
    assert_eq!(counted["clients"], 2, "{counted}");
    assert!(
        counted["bytes_out"].as_u64().unwrap() > 2 * 1024 * 1024,
        "{counted}"
    );
    // Whoever is no peer any more has no relay any more.
    relay.cli(&["peers", "remove", "laptop", "--yes"]).exits(0);
    sees(&laptop, "it is refused", |used| {
        used["problem"] == "NOT_ACCEPTED"
    });
}
