//! `alknet netcheck`, with relays that work and some that do not.

use super::harness::{Node, exec_config};
use crate::program::Place;
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::TcpListener,
    thread,
};

/// A node that is a relay too, on loopback.
fn relay() -> Node {
    let config = format!(
        "{}[relay]\nenabled = true\nlisten = \"127.0.0.1:0\"\nqad = 0\n",
        exec_config()
    );
    Node::start("home", &config)
}

fn url_of(relay: &Node) -> String {
    relay.status["relay"]["url"].as_str().unwrap().to_owned()
}

fn advice(report: &Value) -> String {
    let told = report["advice"].as_array().unwrap();
    let told: Vec<&str> = told.iter().map(|line| line.as_str().unwrap()).collect();
    told.join("\n")
}

/// One relay that does not work: what is said of it.
#[track_caller]
fn broken(relay: &str, problem: &str, said: &str) {
    let place = Place::new();
    // No other way in, whatever addresses this machine has.
    place.configure("[network]\nbind = \"127.0.0.1:0\"\n");
    let report = place
        .run(&["netcheck", "--json", "--relay", relay])
        .exits(3)
        .json();
    let found = &report["relays"][0];
    assert_eq!(
        (&found["works"], &found["problem"]),
        (&json!(false), &json!(problem)),
        "{report}"
    );
    assert!(
        advice(&report).contains(said),
        "{said:?} is not in {report}"
    );
    assert_eq!(report["reachable"], false);
}

#[test]
fn without_a_relay_nobody_is_asked_and_that_is_said() {
    let place = Place::new();
    let report = place.run(&["netcheck", "--json"]).json();
    assert_eq!(
        (&report["udp"], &report["nat"], &report["relays"]),
        (&Value::Null, &json!("unknown"), &json!([]))
    );
    assert_eq!(report["nat_note"], "needs a relay to tell");
    assert!(advice(&report).contains("no relay is chosen, so nobody was asked"));
    // A look is no start: nothing was made.
    assert!(!place.data().exists());

    let node = Node::start("home", exec_config());
    let report = node.cli(&["netcheck", "--json"]).exits(3).json();
    assert!(
        advice(&report).starts_with("the node listens on loopback only"),
        "{report}"
    );
    let said = node.cli(&["netcheck"]).exits(3).stdout;
    assert!(
        said.contains("relay:    none\n- the node listens on"),
        "{said}"
    );
}

#[test]
fn a_relay_that_works_tells_latency_and_address() {
    let relay = relay();
    let url = url_of(&relay);
    let place = Place::new();
    let report = place
        .run(&["netcheck", "--json", "--relay", &url])
        .exits(0)
        .json();
    let found = &report["relays"][0];
    assert_eq!(
        (&found["url"], &found["works"]),
        (&json!(url), &json!(true)),
        "{report}"
    );
    for way in ["quic", "https"] {
        assert_eq!(found[way]["answered"], true, "{report}");
        assert!(found[way]["latency_ms"].as_f64() > Some(0.0), "{report}");
    }
    assert_eq!(
        (&report["udp"], &report["nat"], &report["captive_portal"]),
        (&json!(true), &json!("none"), &json!(false))
    );
    let public = report["public_addresses"][0].as_str().unwrap();
    assert!(public.starts_with("127.0.0.1:"), "{report}");
    // Nobody is known to the relay by a key that does not exist yet.
    assert_eq!(found["accepts"], Value::Null);

    // A node asks the same of the relays that it uses.
    let laptop = Node::start_with(
        "laptop",
        exec_config(),
        &["--relay", &url, "--bind", "127.0.0.1:0"],
        None,
    );
    let said = laptop.cli(&["netcheck"]);
    assert!(
        said.stdout.contains(&format!("relay:    {url} ")),
        "{}",
        said.stdout
    );
}

#[test]
fn a_stranger_is_told_that_the_relay_refuses_it() {
    let relay = relay();
    let url = url_of(&relay);
    let place = Place::new();
    place.run(&["init"]).exits(0);
    let report = place.run(&["netcheck", "--json", "--relay", &url]).json();
    let found = &report["relays"][0];
    assert_eq!(
        (&found["accepts"], &found["problem"]),
        (&json!(false), &json!("NOT_ACCEPTED")),
        "{report}"
    );
    assert!(
        advice(&report).contains("does not let this node in: "),
        "{report}"
    );
    assert!(
        advice(&report).contains("`alknet join` with an invite from there"),
        "{report}"
    );
}

#[test]
fn slow_what_is_wrong_with_a_relay_is_said() {
    // A port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    broken(
        &format!("https://{free}/"),
        "REFUSED",
        &format!("nobody listens at {free}; check the port, and whether the relay runs"),
    );
    broken(
        "https://no-such-relay.invalid/",
        "NAME",
        "the name `no-such-relay.invalid` does not resolve; check the spelling",
    );
    // Something that repeats what it is told.
    let echo = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = echo.local_addr().unwrap();
    thread::spawn(move || {
        for stream in echo.incoming() {
            let mut stream = stream.unwrap();
            let mut bytes = [0; 512];
            if let Ok(length @ 1..) = stream.read(&mut bytes) {
                let _ = stream.write_all(&bytes[..length]);
            }
        }
    });
    broken(
        &format!("https://{address}/"),
        "NOT_TLS",
        "it does not speak TLS there: ",
    );
    broken(
        &format!("http://{address}/"),
        "NOT_A_RELAY",
        "it is no relay: it does not speak HTTP; check the address",
    );
    // The right relay by the wrong key, and without one.
    let relay = relay();
    let url = url_of(&relay);
    let (plain, pin) = url.split_once("#sha256=").unwrap();
    let (pin, rest) = pin.split_at(64);
    broken(
        plain,
        "CERTIFICATE_UNKNOWN",
        "use the whole address that the relay prints, with `#sha256=`",
    );
    let other: String = pin.chars().rev().collect();
    broken(
        &format!("{plain}#sha256={other}{rest}"),
        "CERTIFICATE",
        "ask whoever runs the relay for its present address",
    );
    let said = Place::new().run(&["netcheck", "--relay", "ftp:x"]).exits(2);
    assert!(
        said.stderr.starts_with("error: relay `ftp:x` has scheme "),
        "{}",
        said.stderr
    );
}
