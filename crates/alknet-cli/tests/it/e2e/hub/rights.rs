//! Who gets through, and what those learn who do not.

use super::{Row, join};
use crate::e2e::harness::{Node, eventually};
use serde_json::{Value, json};

#[test]
fn the_hub_lets_through_whom_it_granted_the_peer_and_each_node_asks_for_its_own() {
    let row = Row::start();
    // Nobody knows what lies behind the hub without asking it.
    row.phone
        .cli(&["call", "test/query", "--on", "nas"])
        .exits(1);
    let refused = row.call(&["test/query"]).exits(4);
    assert_eq!(
        refused.stderr,
        "error: `phone` may not call `test/query` on `hub`: missing resource `peer:nas=test/query`\n\
         hint: on `hub`: alknet grant phone peer:nas=test/query\n"
    );
    row.hub
        .cli(&["grant", "phone", "peer:nas=test/query"])
        .exits(0);
    let refused = row.call(&["test/query"]).exits(4);
    assert_eq!(
        refused.stderr,
        "error: `hub` may not call `test/query` on `nas`: missing scope `test:query`\n\
         hint: on `nas`: alknet grant hub test/query\n"
    );
    row.nas
        .cli(&["grant", "hub", "test/query", "test/touch"])
        .exits(0);
    assert_eq!(row.call(&["test/query", "text=hi"]).exits(0).stdout, "hi\n");
    // One operation, and no other.
    row.call(&["test/touch"]).exits(4);
    let trace = row.files.path().join("trace");
    assert!(!trace.exists());
    row.hub
        .cli(&["grant", "phone", "peer:nas=test/touch"])
        .exits(0);
    row.call(&["test/touch"]).exits(0);
    assert!(trace.exists());
    // Who uses the hub's right to `nas` is one thing, what it may do with the
    // phone's right to the hub another: this node's own peers pass through it
    // by a grant for the route.
    let guest = Node::start("guest", "");
    join(&row.phone, &guest);
    row.phone
        .cli(&["grant", "guest", "peer:hub=**", "peer:hub=test/*"])
        .exits(0);
    let through =
        |words: &[&str]| guest.cli(&[&["call"], words, &["--on", "phone/hub/nas"]].concat());
    let refused = through(&["test/query"]).exits(4);
    assert_eq!(
        refused.stderr,
        "error: `guest` may not call `test/query` on `phone`: missing resource `peer:hub/nas=test/query`\n\
         hint: on `phone`: alknet grant guest peer:hub/nas=test/query\n"
    );
    row.phone
        .cli(&["grant", "guest", "peer:hub/nas=test/query"])
        .exits(0);
    assert_eq!(
        through(&["test/query", "text=far"]).exits(0).stdout,
        "far\n"
    );
    // Grants for routes are listed as they were given, also after a restart.
    let mut phone = row.phone;
    phone.stop();
    phone.restart();
    let listed = phone.cli(&["grants", "guest"]).exits(0).stdout;
    assert!(listed.contains("peer:hub/nas=test/query"), "{listed}");
    phone
        .cli(&["revoke", "guest", "peer:hub/nas=test/query"])
        .exits(0);
    phone.connected("hub");
    guest.connected("phone");
    let refused = guest.cli(&["call", "test/query", "--on", "phone/hub/nas"]);
    refused.exits(4);
}

/// What the phone hears, with the peer's name taken out.
fn hears(row: &Row, words: &[&str], peer: &str) -> (Option<i32>, String, String) {
    let words: Vec<String> = words
        .iter()
        .map(|word| word.replace("PEER", peer))
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let said = row.phone.cli(&words);
    (
        said.status.code(),
        said.stdout.replace(peer, "PEER"),
        said.stderr.replace(peer, "PEER"),
    )
}

#[test]
fn a_user_of_the_hub_without_a_grant_learns_nothing_of_what_lies_behind() {
    let mut row = Row::start();
    // The hub may do everything there: that is not the phone's.
    row.nas.cli(&["grant", "hub", "admin"]).exits(0);
    let ways: &[&[&str]] = &[
        &["call", "test/query", "--on", "hub/PEER"],
        &["call", "test/query", "--on", "hub/PEER", "--json"],
        &["call", "test/qeury", "--on", "hub/PEER"],
        &["call", "no/such", "--on", "hub/PEER"],
        &["call", "test/query", "x=1", "--on", "hub/PEER"],
        &["call", "test/tick", "--on", "hub/PEER"],
        &["call", "test/pipe", "--on", "hub/PEER"],
        &["call", "services/list", "--on", "hub/PEER"],
        &["call", "services/watch", "--on", "hub/PEER"],
        &["call", "test/query", "--on", "hub/PEER/hub"],
        &["call", "test/query", "--on", "hub/PEER/any"],
        &["call", "test/query", "--on", "hub/any"],
        &["exec", "hub/PEER", "--", "ls"],
        &["ops", "--on", "hub/PEER"],
        &["ops", "--on", "hub/PEER", "--json"],
        &["ops", "search", "answers", "--on", "hub/PEER", "--json"],
        &["ops", "describe", "test/query", "--on", "hub/PEER"],
        &[
            "call",
            "services/list",
            "peer=PEER",
            "schemas=true",
            "--on",
            "hub",
        ],
        &[
            "call",
            "services/schema",
            "name=test/query",
            "peer=PEER",
            "--on",
            "hub",
        ],
        &[
            "call",
            "services/schema",
            "name=test/qeury",
            "peer=PEER",
            "--on",
            "hub",
        ],
        &["call", "services/search", "query=answers", "--on", "hub"],
        &[
            "call",
            "services/search",
            "query=answers",
            "peer=PEER",
            "--on",
            "hub",
        ],
        &["call", "services/list-peers", "--on", "hub"],
        &["call", "peers/show", "peer=PEER", "--on", "hub"],
        &["call", "audit/list", "--on", "hub"],
    ];
    let told = |row: &Row, peer: &str| -> Vec<_> {
        ways.iter().map(|words| hears(row, words, peer)).collect()
    };
    let there = told(&row, "nas");
    assert_eq!(there, told(&row, "sun"));
    for (words, (_, stdout, stderr)) in ways.iter().zip(&there) {
        let all = format!("{stdout}{stderr}");
        for secret in ["touch", "tick", "Answers", "demo/"] {
            let asked_for = words.iter().any(|word| word.contains(secret));
            assert!(asked_for || !all.contains(secret), "{words:?}: {all}");
        }
    }
    // Listing peers is a right of its own, and shows only what may be used.
    row.hub.cli(&["grant", "phone", "peers:list"]).exits(0);
    let words = ["call", "services/list-peers", "--on", "hub", "--json"];
    let listed = row.phone.cli(&words).exits(0).json();
    assert_eq!(listed, json!({ "peers": [] }));
    // Nor does a watch tell that `nas` goes and comes, or what it offers.
    let watching = row
        .phone
        .spawn(&["call", "services/watch", "--on", "hub", "--json"]);
    let first: Value = serde_json::from_str(&watching.lines.next()).unwrap();
    row.nas.stop();
    row.nas.restart();
    row.hub.connected("nas");
    row.nas.cli(&["revoke", "hub", "admin"]).exits(0);
    row.nas.cli(&["grant", "hub", "test:*"]).exits(0);
    let is_known = || {
        let words = ["ops", "--on", "nas", "--json"];
        row.hub.cli(&words).exits(0).stdout.contains("test/query")
    };
    eventually("the hub has seen the change", || is_known().then_some(()));
    row.hub.cli(&["grant", "phone", "node:read"]).exits(0);
    let next: Value = serde_json::from_str(&watching.lines.next()).unwrap();
    assert_ne!(
        next["revision"], first["revision"],
        "{next}: nothing of the phone's changed"
    );
    assert_eq!(next["peers"], first["peers"]);
    drop(watching);
    // Of several operations it sees the granted one.
    row.hub
        .cli(&["grant", "phone", "peer:nas=test/query"])
        .exits(0);
    let listed = row.phone.cli(&words).exits(0).json();
    assert_eq!(
        listed,
        json!({ "peers": [{ "peer": "nas", "operations": ["test/query"] }] })
    );
}
