//! Who called what, and how it ended, on the node that was called.

use super::harness::{COUNTS, Node, Pair, eventually, exec_config};
use crate::program::Said;
use serde_json::Value;
use std::time::Duration;

/// What a crash may lose at most; a documented promise.
const LOST_AT_MOST: Duration = Duration::from_millis(200);
/// In inputs and nowhere else.
const CANARY: &str = "canary-5c1f";

fn config() -> String {
    format!(
        r#"{}
[[operation]]
name = "test/text"
summary = "Says a text."
command = ["echo", "{{text}}"]
input = {{ text = "string" }}

[[operation]]
name = "test/fail"
summary = "Fails."
command = ["sh", "-c", "exit 3"]

[[operation]]
name = "test/sleep"
summary = "Sleeps."
command = ["sleep", "300"]

{COUNTS}
"#,
        exec_config()
    )
}

fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row[field].as_str().unwrap_or_default()
}

/// Operation and outcome of what a peer called.
fn outcomes(node: &Node, caller: &str) -> Vec<(String, String)> {
    let rows = node.audit(&["--caller", caller]);
    rows.iter()
        .map(|row| {
            (
                text(row, "operation").to_owned(),
                text(row, "outcome").to_owned(),
            )
        })
        .collect()
}

#[test]
fn every_call_and_every_refusal_is_listed_with_caller_and_outcome() {
    let pair = Pair::start(&config());
    let (home, laptop) = (&pair.home, &pair.laptop);
    home.cli(&[
        "grant",
        "laptop",
        "test/text",
        "test/fail",
        "test/sleep",
        "test/count",
        "shell:exec",
        "command:cat=exec",
    ])
    .exits(0);
    let call =
        |words: &[&str]| -> Said { laptop.cli(&[&["call"], words, &["--on", "home"]].concat()) };
    let secret = format!("text={CANARY}");
    call(&["test/text", &secret]).exits(0);
    call(&["test/text", "text:=5"]).exits(1);
    call(&["test/fail"]).exits(1);
    call(&["test/sleep", "--timeout", "200ms"]).exits(1);
    call(&["node/info"]).exits(4);
    call(&["no/such"]).exits(1);
    let said = laptop
        .feed(&["exec", "home", "--", "cat"], b"12345")
        .exits(0);
    assert_eq!(said.stdout, "12345");
    laptop.cli(&["exec", "home", "--", "ls"]).exits(255);
    let counting = laptop.spawn(&["call", "test/count", "--on", "home"]);
    counting.lines.next();
    counting.interrupt();
    counting.ended().exits(130);
    let counting = laptop.spawn(&["call", "test/count", "--on", "home"]);
    counting.lines.next();
    home.cli(&["revoke", "laptop", "test/count"]).exits(0);
    counting.ended().exits(4);
    let want = [
        ("test/text", "ok"),
        ("test/text", "INVALID_INPUT"),
        ("test/fail", "COMMAND_FAILED"),
        ("test/sleep", "TIMEOUT"),
        ("node/info", "FORBIDDEN"),
        ("no/such", "NOT_FOUND"),
        ("shell/exec", "ok"),
        ("shell/exec", "FORBIDDEN"),
        ("test/count", "CANCELLED"),
        ("test/count", "FORBIDDEN"),
    ];
    let mut want = want.map(|(operation, outcome)| (operation.to_owned(), outcome.to_owned()));
    want.sort();
    let mut found = Vec::new();
    eventually("all rows are written", || {
        found = outcomes(home, "laptop");
        // The invite is redeemed by the peer too.
        found.retain(|(operation, _)| operation != "invites/redeem");
        (found.len() >= want.len()).then_some(())
    });
    // Subscriptions and channels were tried as calls with one answer first: a
    // row too, since it was a call.
    found.retain(|(_, outcome)| outcome != "INVALID_OPERATION_TYPE");
    // The nodes keep the same time: whoever comes first ends it.
    for (operation, outcome) in &mut found {
        if operation == "test/sleep" && outcome == "CANCELLED" {
            *outcome = "TIMEOUT".into();
        }
    }
    found.sort();
    assert_eq!(found, want);
    for row in home.audit(&["--caller", "laptop"]) {
        if row["operation"] != "invites/redeem" {
            assert_eq!(
                (text(&row, "originator"), text(&row, "surface")),
                // Nobody is behind the laptop itself.
                ("", "call"),
                "{row}"
            );
        }
    }
    let ran = home.audit(&[
        "--caller",
        "laptop",
        "--operation",
        "shell/exec",
        "--outcome",
        "ok",
    ]);
    assert_eq!(text(&ran[0], "resource"), "command:cat=exec");
    assert!(
        ran[0]["bytes_in"].as_u64() >= Some(5) && ran[0]["bytes_out"].as_u64() >= Some(5),
        "{ran:?}"
    );
    let refused = home.audit(&["--outcome", "FORBIDDEN", "--operation", "node/info"]);
    assert!(
        text(&refused[0], "detail").contains("node:read"),
        "{refused:?}"
    );
    // The way here, and what was given, by whom.
    let rows = home.audit(&[]);
    let has = |operation: &str, caller: &str, what: &str| {
        rows.iter().any(|row| {
            text(row, "operation") == operation
                && text(row, "caller") == caller
                && text(row, "resource").contains(what)
        })
    };
    assert!(has("invites/redeem", "laptop", ""));
    assert!(has("peers/grant", "owner", "test/text"));
    assert!(has("peers/revoke", "owner", "-test/count"));
    // The node in between wrote down what its owner sent through it.
    let sent = laptop.audit(&["--operation", "test/fail"]);
    assert_eq!(
        (
            text(&sent[0], "caller"),
            text(&sent[0], "route"),
            text(&sent[0], "outcome")
        ),
        ("owner", "home", "COMMAND_FAILED")
    );
    // Inputs are written nowhere.
    for node in [home, laptop] {
        assert!(
            !node
                .cli(&["audit", "-n", "1000", "--json"])
                .exits(0)
                .stdout
                .contains(CANARY)
        );
        assert!(
            !node
                .cli(&["logs", "--json"])
                .exits(0)
                .stdout
                .contains(CANARY)
        );
    }
    let table = home.cli(&["audit", "--caller", "laptop"]).exits(0).stdout;
    assert!(
        table
            .lines()
            .any(|line| line.contains(" laptop ") && line.contains("COMMAND_FAILED")),
        "{table}"
    );
}

#[test]
fn a_crash_loses_at_most_the_last_fifth_of_a_second_and_leaves_a_mark() {
    let mut pair = Pair::start(&config());
    pair.home
        .cli(&["grant", "laptop", "test/text", "test/fail"])
        .exits(0);
    let unclean = |home: &Node| {
        let rows = home.cli(&["audit", "--json", "-n", "1000"]).exits(0).stdout;
        rows.lines()
            .filter(|row| row.contains("unclean-start"))
            .count()
    };
    assert_eq!(unclean(&pair.home), 0);
    for round in 1..=3 {
        for _ in 0..5 {
            pair.laptop
                .cli(&["call", "test/text", "text=x", "--on", "home"])
                .exits(0);
            pair.laptop
                .cli(&["call", "test/fail", "--on", "home"])
                .exits(1);
        }
        // The promise is about rows of this age.
        std::thread::sleep(LOST_AT_MOST);
        pair.home.kill();
        pair.home.restart();
        assert_eq!(unclean(&pair.home), round);
        for (operation, outcome) in [("test/text", "ok"), ("test/fail", "COMMAND_FAILED")] {
            let rows = pair.home.audit(&[
                "--caller",
                "laptop",
                "--operation",
                operation,
                "--outcome",
                outcome,
            ]);
            assert_eq!(rows.len(), 5 * round, "{operation}");
        }
        pair.laptop.connected("home");
    }
    // An end in order leaves none, and loses nothing at all.
    pair.laptop
        .cli(&["call", "test/text", "text=x", "--on", "home"])
        .exits(0);
    pair.home.stop();
    pair.home.restart();
    assert_eq!(unclean(&pair.home), 3);
    assert_eq!(
        pair.home
            .audit(&["--caller", "laptop", "--operation", "test/text"])
            .len(),
        16
    );
}
