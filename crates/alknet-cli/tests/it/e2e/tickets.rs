//! A ticket that does not work says why.

use super::harness::{Node, error_code, eventually};
use crate::program::Place;

fn ticket(node: &Node, words: &[&str]) -> String {
    let said = node.cli(&[&["invite", "-q"], words].concat()).exits(0);
    said.stdout.trim_end().to_owned()
}

/// Tries a ticket; what went wrong, as code and as sentence.
#[track_caller]
fn refused(node: &Node, ticket: &str) -> (String, String) {
    let told = node
        .feed(&["join", "-", "--json"], ticket.as_bytes())
        .exits(1);
    let code = error_code(&told.stderr);
    let said = node.feed(&["join", "-"], ticket.as_bytes()).exits(1);
    let mut lines = said.stderr.lines();
    let sentence = lines
        .next()
        .unwrap()
        .strip_prefix("error: ")
        .unwrap()
        .to_owned();
    assert!(lines.all(|line| line.starts_with("hint: ")), "{said:?}");
    (code, sentence)
}

#[test]
fn a_ticket_that_was_used_expired_taken_back_or_broken_says_which() {
    let (home, laptop, late) = (
        Node::start("home", ""),
        Node::start("laptop", ""),
        Node::start("late", ""),
    );
    let used = ticket(&home, &[]);
    laptop.feed(&["join", "-"], used.as_bytes()).exits(0);
    let (code, sentence) = refused(&late, &used);
    assert_eq!(
        (code.as_str(), sentence.as_str()),
        (
            "TICKET_USED",
            "this ticket was used already; ask for a new one"
        )
    );
    let revoked = ticket(&home, &[]);
    let list = home.cli(&["invite", "list", "--json"]).exits(0).json();
    let open = list["invites"]
        .as_array()
        .unwrap()
        .iter()
        .find(|invite| invite["state"] == "open");
    home.cli(&["invite", "revoke", open.unwrap()["id"].as_str().unwrap()])
        .exits(0);
    let (code, sentence) = refused(&late, &revoked);
    assert_eq!(
        (code.as_str(), sentence.as_str()),
        ("TICKET_REVOKED", "this ticket was taken back")
    );
    let expired = ticket(&home, &["--expires", "1s"]);
    eventually("it has expired", || {
        let list = home.cli(&["invite", "list", "--json"]).exits(0).json();
        list["invites"]
            .as_array()
            .unwrap()
            .iter()
            .any(|invite| invite["state"] == "expired")
            .then_some(())
    });
    let (code, sentence) = refused(&late, &expired);
    assert_eq!(code, "TICKET_EXPIRED");
    assert!(sentence.contains("expired"), "{sentence}");
    let good = ticket(&home, &[]);
    let (code, sentence) = refused(&late, &good[..good.len() / 2]);
    assert_eq!(
        (code.as_str(), sentence.as_str()),
        ("TICKET_INVALID", "the ticket is truncated: copy it whole")
    );
    let middle = good.len() / 2;
    let other = if &good[middle..=middle] == "a" {
        "b"
    } else {
        "a"
    };
    let damaged = format!("{}{other}{}", &good[..middle], &good[middle + 1..]);
    let (code, sentence) = refused(&late, &damaged);
    assert_eq!(code, "TICKET_INVALID");
    assert!(sentence.contains("damaged"), "{sentence}");
    let (code, sentence) = refused(&late, "hello");
    assert_eq!(code, "TICKET_INVALID");
    assert!(sentence.contains("this is no ticket"), "{sentence}");
    // None of it used the good one up, or made `late` a peer.
    assert!(
        !home
            .cli(&["peers", "list", "--json"])
            .exits(0)
            .stdout
            .contains(late.id())
    );
    late.feed(&["join", "-"], good.as_bytes()).exits(0);
    late.connected("home");
    // The refusals that reached `home` are in its log.
    for (code, times) in [("TICKET_USED", 2), ("TICKET_REVOKED", 2)] {
        let rows = home.audit(&["--operation", "invites/redeem", "--outcome", code]);
        assert_eq!(rows.len(), times, "{code}: {rows:?}");
        let caller = rows[0]["caller"].as_str().unwrap();
        assert!(
            caller
                .strip_prefix("key:")
                .is_some_and(|key| late.id().starts_with(key)),
            "{caller}"
        );
    }
}

#[test]
fn a_ticket_that_the_node_does_not_know_is_wrong() {
    let place = Place::new();
    let words = place.run(&["init", "--json"]).exits(0).json()["words"]
        .as_str()
        .unwrap()
        .to_owned();
    let loopback = ["--relay", "none", "--bind", "127.0.0.1:0"];
    let mut home = Node::start_in(place, "home", "", &loopback, None);
    let laptop = Node::start("laptop", "");
    let lost = ticket(&home, &[]);
    let (bind, id) = (home.address().to_owned(), home.id().to_owned());
    home.stop();
    // The node comes back from its words, without its database.
    let place = Place::new();
    place
        .feed(&["init", "--restore", "-"], words.as_bytes())
        .exits(0);
    let home = Node::start_in(
        place,
        "home",
        "",
        &["--relay", "none", "--bind", &bind],
        None,
    );
    assert_eq!(home.id(), id);
    let (code, _) = refused(&laptop, &lost);
    assert_eq!(code, "TICKET_WRONG", "no invite is open");
    let good = ticket(&home, &[]);
    let (code, sentence) = refused(&laptop, &lost);
    assert_eq!(code, "TICKET_WRONG");
    assert_eq!(
        sentence,
        "this ticket is not of this node, or its invite is long gone"
    );
    laptop.feed(&["join", "-"], good.as_bytes()).exits(0);
    laptop.connected("home");
}

/// Slow: that nobody answers shows after fifteen seconds.
#[test]
fn slow_a_ticket_of_a_node_that_is_away_could_not_reach_it() {
    let mut home = Node::start("home", "");
    let laptop = Node::start("laptop", "");
    let good = ticket(&home, &[]);
    home.stop();
    let said = laptop
        .feed(&["join", "-", "--json"], good.as_bytes())
        .exits(3);
    assert_eq!(error_code(&said.stderr), "UNAVAILABLE");
    // It is as good as before.
    home.restart();
    laptop.feed(&["join", "-"], good.as_bytes()).exits(0);
    laptop.connected("home");
}

#[test]
fn access_for_a_time_ends_by_itself() {
    let home = Node::start("home", super::harness::exec_config());
    let laptop = Node::start("laptop", "");
    let good = ticket(&home, &["--role", "operator", "--access-for", "3s"]);
    let said = laptop.feed(&["join", "-"], good.as_bytes()).exits(0);
    assert!(
        said.stdout.contains("you may on home: operator (until "),
        "{said:?}"
    );
    let mut sleeping = laptop.spawn(&[
        "exec",
        "home",
        "--",
        "sh",
        "-c",
        "echo ready; exec sleep 300",
    ]);
    assert_eq!(sleeping.lines.next(), "ready");
    sleeping.code().exits(255);
    eventually("what ran is gone", || {
        home.children().is_empty().then_some(())
    });
    laptop.cli(&["call", "node/info", "--on", "home"]).exits(3);
}
