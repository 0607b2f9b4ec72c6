//! Two nodes without a direct path, through a relay.

use super::{
    bulk,
    harness::{Node, Running, eventually, exec_config},
};
use crate::program::Place;
use alknet_lab::{Host, Lab, Nat, measure};

/// Places of nodes that have not been started, with their ids.
pub(super) fn places<const N: usize>() -> [(Place, String); N] {
    [(); N].map(|()| {
        let place = Place::new();
        let made = place.run(&["init", "--json"]).exits(0).json();
        (place, made["node_id"].as_str().unwrap().to_owned())
    })
}

/// A node that is a relay at a public host, for peers of these names and ids.
pub(super) fn relay(host: &Host, known: &[(&str, &str)]) -> Node {
    let config = format!(
        "{}[relay]\nenabled = true\nlisten = \"{}:443\"\n",
        exec_config(),
        host.v4()
    );
    let words = ["--relay", "none"];
    let relay = Node::start_with("relay", &config, &words, Some(host.namespace()));
    for (peer, id) in known {
        relay.cli(&["peers", "add", peer, "--node-id", id]).exits(0);
    }
    relay
}

/// Where others find a relay, with its pin.
pub(super) fn url(relay: &Node) -> &str {
    relay.status["relay"]["url"].as_str().unwrap()
}

#[test]
fn slow_two_nodes_without_a_direct_path_meet_through_a_relay() {
    let Some(lab) = Lab::open("slow_two_nodes_without_a_direct_path_meet_through_a_relay") else {
        return;
    };
    let (middle, other) = (lab.host("relay").unwrap(), lab.host("other").unwrap());
    let sites = ["home", "laptop"].map(|name| lab.site(name, Nat::Symmetric).unwrap());
    // The premise, measured: each shows others another port than the relay, so
    // nobody can tell the other where to send.
    for site in &sites {
        let seen = measure::mapping(site, &[&middle, &other]).unwrap();
        assert_ne!(seen[0], seen[1]);
    }
    let [(home, home_id), (laptop, laptop_id)] = places();
    let relay = relay(&middle, &[("home", &home_id), ("laptop", &laptop_id)]);
    let url = url(&relay);
    let config = format!(
        "{}[[operation]]\nname = \"test/follow\"\nsummary = \"Counts for ever.\"\noutput = \"lines\"\n\
         command = [\"sh\", \"-c\", \"n=0; while n=$((n+1)); do echo $n; sleep 0.05; done\"]\n",
        exec_config()
    );
    let start = |place, site: &Host| {
        let at = Some(site.namespace());
        Node::start_in(place, site.name(), &config, &["--relay", url], at)
    };
    let (home, laptop) = (start(home, &sites[0]), start(laptop, &sites[1]));
    eventually("the relay is in use", || {
        let status = home.cli(&["status", "--json"]).exits(0).json();
        (status["relays"][0] == url).then_some(())
    });
    let ticket = home
        .cli(&["invite", "-q", "--role", "operator"])
        .exits(0)
        .stdout;
    laptop
        .feed(&["join", "-", "--role", "operator"], ticket.as_bytes())
        .exits(0);
    let link = |node: &Node, peer: &str| node.connected(peer)["link"]["path"].clone();
    assert_eq!(link(&laptop, "home"), "relay");
    for (caller, called) in [(&laptop, &home), (&home, &laptop)] {
        let on = called.name.as_str();
        let info = caller
            .cli(&["call", "node/info", "--on", on, "--json"])
            .exits(0)
            .json();
        assert_eq!(info["node_id"], called.id());
        let said = caller
            .feed(
                &[
                    "exec",
                    on,
                    "--",
                    "sh",
                    "-c",
                    "tr a-z A-Z; echo err >&2; exit 7",
                ],
                b"in",
            )
            .exits(7);
        assert_eq!(
            (said.stdout.as_str(), said.stderr.as_str()),
            ("IN", "err\n")
        );
        let counting: Running = caller.spawn(&["call", "test/follow", "--on", on]);
        for n in 1..=5 {
            assert_eq!(counting.lines.next(), n.to_string());
        }
        bulk::there_and_back(caller, on, 4 * 1024 * 1024);
        for _ in 0..5 {
            counting.lines.next();
        }
    }
    // It stayed so: no other path was found meanwhile.
    assert_eq!(
        (link(&laptop, "home"), link(&home, "laptop")),
        ("relay".into(), "relay".into())
    );
    drop(relay);
}
