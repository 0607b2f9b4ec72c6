//! Links between nodes behind NATs: how they change their path, and what
//! happens when a relay or the network goes.

use super::harness::{Node, Running, eventually, exec_config};
use crate::program::{Place, alknet, finish};
use alknet_lab::{Host, Lab, Nat, Site};
use serde_json::{Value, json};
use std::{
    process::Stdio,
    time::{Duration, Instant},
};

/// Two nodes, each behind a router, and relays that both know. Nodes are
/// dropped before their network.
struct Stage {
    home: Node,
    laptop: Node,
    relays: Vec<Node>,
    at_home: Site,
    at_laptop: Site,
    _lab: Lab,
}

fn relay_at(host: &Host, name: &str, known: &[(&str, &str)]) -> Node {
    let listen = format!("listen = \"{}:443\"\n", host.v4());
    let config = format!("{}[relay]\nenabled = true\n{listen}", exec_config());
    let relay = Node::start_with(name, &config, &["--relay", "none"], Some(host.namespace()));
    for (peer, id) in known {
        relay.cli(&["peers", "add", peer, "--node-id", id]).exits(0);
    }
    relay
}

impl Stage {
    fn set(lab: Lab, nats: [Nat; 2], relays: usize) -> Self {
        let at_home = lab.site("home", nats[0]).unwrap();
        let at_laptop = lab.site("laptop", nats[1]).unwrap();
        let made = [Place::new(), Place::new()];
        let ids = made.each_ref().map(|place| {
            let made = place.run(&["init", "--json"]).exits(0).json();
            made["node_id"].as_str().unwrap().to_owned()
        });
        let known = [("home", ids[0].as_str()), ("laptop", ids[1].as_str())];
        let relays: Vec<Node> = (0..relays)
            .map(|n| {
                let name = format!("relay{n}");
                relay_at(&lab.host(&name).unwrap(), &name, &known)
            })
            .collect();
        let urls: Vec<&str> = relays
            .iter()
            .map(|relay| relay.status["relay"]["url"].as_str().unwrap())
            .collect();
        let words: Vec<&str> = urls.iter().flat_map(|url| ["--relay", url]).collect();
        let [home, laptop] = made;
        let config = format!("{}{FOLLOW}", exec_config());
        let start = |place, name, site: &Site| {
            let at = site.host().namespace();
            Node::start_in(place, name, &config, &words, Some(at))
        };
        let stage = Self {
            home: start(home, "home", &at_home),
            laptop: start(laptop, "laptop", &at_laptop),
            relays,
            at_home,
            at_laptop,
            _lab: lab,
        };
        for node in [&stage.home, &stage.laptop] {
            eventually("a relay is in use", || {
                let status = node.cli(&["status", "--json"]).exits(0).json();
                (status["relays"][0].is_string()).then_some(())
            });
        }
        stage
    }

    fn join(&self) {
        let invite = ["invite", "-q", "--role", "operator"];
        let ticket = self.home.cli(&invite).exits(0).stdout;
        self.laptop.feed(&["join", "-"], ticket.as_bytes()).exits(0);
    }

    /// The path of the laptop's link, once it is of this kind.
    fn path(&self, kind: &str) -> Value {
        eventually(&format!("the path is {kind}"), || {
            let link = self.laptop.peer("home")["link"].clone();
            (link["path"] == kind).then_some(link)
        })
    }
}

/// An operation that counts for ever.
const FOLLOW: &str = "[[operation]]\nname = \"test/follow\"\nsummary = \"Counts for ever.\"\noutput = \"lines\"\n\
    command = [\"sh\", \"-c\", \"n=0; while n=$((n+1)); do echo $n; sleep 0.05; done\"]\n";

/// The next item about `home` that satisfies.
fn watched(watching: &Running, wanted: impl Fn(&Value) -> bool) -> Value {
    loop {
        let item: Value = serde_json::from_str(&watching.lines.next()).unwrap();
        if item["peer"] == "home" && wanted(&item) {
            return item;
        }
    }
}

/// Reads so many numbers; none is missing or repeated.
#[track_caller]
fn counts_on(counting: &Running, next: &mut u64, count: u64) {
    for _ in 0..count {
        assert_eq!(counting.lines.next(), next.to_string());
        *next += 1;
    }
}

#[test]
fn slow_a_link_is_seen_to_become_direct_and_to_fall_back() {
    let Some(lab) = Lab::open("slow_a_link_is_seen_to_become_direct_and_to_fall_back") else {
        return;
    };
    let stage = Stage::set(lab, [Nat::Cone, Nat::Cone], 1);
    let watching = stage.laptop.spawn(&["peers", "watch", "--json"]);
    stage.join();
    let said = stage.laptop.cli(&[
        "ping",
        "home",
        "--until-direct",
        "--within",
        "30s",
        "--json",
    ]);
    let said = said.exits(0).stdout;
    assert!(
        said.contains("\"type\":\"summary\"") && said.contains("direct_after_ms"),
        "{said}"
    );
    let direct = watched(&watching, |item| item["path"] == "direct");
    let public = stage.at_home.public_v4().to_string();
    assert!(
        direct["address"].as_str().unwrap().starts_with(&public),
        "{direct}"
    );
    assert_eq!(direct.get("relay"), None);

    // A relay serves on when UDP no longer gets out, and what runs goes on.
    let counting = stage.laptop.spawn(&["call", "test/follow", "--on", "home"]);
    let mut next = 1;
    counts_on(&counting, &mut next, 5);
    stage.at_laptop.block_udp().unwrap();
    let relayed = watched(&watching, |item| item["path"] == "relay");
    let url = stage.relays[0].status["relay"]["url"].as_str().unwrap();
    assert_eq!(relayed["relay"], url);
    counts_on(&counting, &mut next, 20);
    let link = stage.path("relay");
    let last = link["changes"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        (&last["from"]["path"], &last["to"]["path"]),
        (&json!("direct"), &json!("relay")),
        "{link}"
    );
    let share = link["relay_share"].as_f64().unwrap();
    assert!(share > 0.0 && share < 1.0, "{link}");

    stage.at_laptop.allow_udp().unwrap();
    let item = watched(&watching, |item| item["path"] == "direct");
    assert!(item["path_changes"].as_u64() >= Some(2), "{item}");
    counts_on(&counting, &mut next, 5);
    let shown = stage.laptop.cli(&["peers", "show", "home"]).exits(0).stdout;
    assert!(shown.contains("changed:      relay https://"), "{shown}");
}

#[test]
fn slow_when_one_of_two_relays_dies_calls_go_on_through_the_other() {
    let Some(lab) = Lab::open("slow_when_one_of_two_relays_dies_calls_go_on_through_the_other")
    else {
        return;
    };
    // No direct path is found between these.
    let mut stage = Stage::set(lab, [Nat::Symmetric, Nat::Symmetric], 2);
    stage.join();
    let used = stage.path("relay")["relay"].clone();
    let is_used = |relay: &Node| relay.status["relay"]["url"] == used;
    let at = stage.relays.iter().position(is_used).unwrap();
    let counting = stage
        .laptop
        .spawn(&["call", "test/follow", "--on", "home", "--json"]);
    for n in 1..=3 {
        assert_eq!(counting.lines.next(), format!("\"{n}\""));
    }
    let killed = Instant::now();
    stage.relays[at].kill();
    let other = eventually("the link goes through the other relay", || {
        let link = stage.laptop.peer("home")["link"].clone();
        (link["relay"] != used && link["path"] == "relay").then_some(link)
    });
    // Three seconds are usual. The library by itself takes half a minute to
    // find the other relay, and minutes to get through to it.
    assert!(
        killed.elapsed() < Duration::from_secs(30),
        "{:?}",
        killed.elapsed()
    );
    assert_eq!(other["state"], "connected");
    stage.laptop.cli(&["ping", "home", "-c", "1"]).exits(0);
    // What ran through the dead relay is said to be lost, and not just silent.
    let ended = counting.ended().exits(1);
    assert_eq!(ended.error_code(), "LOST");
}

/// `netcheck` of a machine there, with these relays; how it ended.
fn netcheck(host: &Host, relays: &[&str], code: i32) -> Value {
    let place = Place::new();
    let plain = alknet(place.path());
    let mut command = host.command(plain.get_program());
    command
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, value) in plain.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.args(["netcheck", "--json"]);
    command.args(relays.iter().flat_map(|url| ["--relay", url]));
    finish(command, b"").exits(code).json()
}

#[test]
fn slow_netcheck_tells_kinds_of_nats_and_what_is_blocked() {
    let Some(lab) = Lab::open("slow_netcheck_tells_kinds_of_nats_and_what_is_blocked") else {
        return;
    };
    let hosts = ["relay0", "relay1"].map(|name| lab.host(name).unwrap());
    let relays = hosts
        .each_ref()
        .map(|host| relay_at(host, host.name(), &[]));
    let urls = relays
        .each_ref()
        .map(|relay| relay.status["relay"]["url"].as_str().unwrap());
    for (nat, kind, said) in [
        (Nat::Open, "none", "no NAT is in between"),
        (
            Nat::Cone,
            "endpoint-independent",
            "shows everybody the same address",
        ),
        (
            Nat::Symmetric,
            "address-dependent",
            "shows everybody another address",
        ),
    ] {
        let site = lab.site(kind, nat).unwrap();
        let report = netcheck(site.host(), &urls, 0);
        assert_eq!(
            (&report["nat"], &report["udp"]),
            (&json!(kind), &json!(true)),
            "{report}"
        );
        assert!(report["advice"].to_string().contains(said), "{report}");
        let public = report["public_addresses"][0].as_str().unwrap();
        assert!(
            public.starts_with(&format!("{}:", site.public_v4())),
            "{report}"
        );
        if nat == Nat::Cone {
            // One relay does not tell, and says so.
            let report = netcheck(site.host(), &urls[..1], 0);
            assert_eq!(report["nat"], "unknown");
            let note = report["nat_note"].as_str().unwrap();
            assert!(note.contains("needs a second relay"), "{report}");

            site.block_udp().unwrap();
            let report = netcheck(site.host(), &urls, 0);
            assert_eq!(
                (&report["nat"], &report["udp"]),
                (&json!("unknown"), &json!(false))
            );
            let told = report["advice"].to_string();
            assert!(
                told.contains("UDP is blocked here") && told.contains("over TCP 443, which works"),
                "{report}"
            );
            assert_eq!(report["relays"][0]["via"], "https");

            site.outage().unwrap();
            let report = netcheck(site.host(), &urls[..1], 3);
            assert_eq!(
                (&report["reachable"], &report["relays"][0]["problem"]),
                (&json!(false), &json!("SILENT")),
                "{report}"
            );
        }
    }
}
