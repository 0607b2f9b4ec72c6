//! What `peers explain` says of a peer is what the peer's calls meet.

use super::harness::{Node, Pair, eventually, exec_config};
use serde_json::Value;

/// Operations that ask for each of the things that can be asked for.
fn config() -> String {
    format!(
        r#"{}
[[operation]]
name = "test/query"
summary = "Answers."
kind = "query"
command = ["echo", "{{text}}"]
input = {{ text = {{ type = "string", default = "answer" }} }}

[[operation]]
name = "deploy/restart"
summary = "Restarts a service."
command = ["true"]
input = {{ service = {{ enum = ["web", "worker"] }} }}
scopes = ["deploy:write", "deploy:read"]

[[operation]]
name = "test/tick"
summary = "Counts."
output = "lines"
command = ["seq", "3"]

[[role]]
name = "support"
scopes = ["deploy:*"]
resources = {{ net = {{ "127.0.0.1:9" = ["dial"] }} }}
"#,
        exec_config()
    )
}

/// What is asked: operation, words of the input, and the route of the call
/// from `home` on.
const ASKED: &[(&str, &[&str], Option<&str>)] = &[
    ("test/query", &[], None),
    ("test/query", &["text=hello"], None),
    ("test/query", &["txt=hello"], None),
    ("deploy/restart", &["service=web"], None),
    ("deploy/restart", &["service=db"], None),
    ("test/tick", &[], None),
    ("test/nothing", &[], None),
    ("node/info", &[], None),
    ("node/ping", &[], None),
    ("peers/list", &[], None),
    ("peers/grant", &["peer=laptop", "targets:=[]"], None),
    ("services/list", &[], None),
    ("test/query", &[], Some("nas")),
    ("test/query", &[], Some("ghost")),
];

/// What `laptop` holds, one after the other: each is granted on top.
const STEPS: &[&[&str]] = &[
    &[],
    &["test/query"],
    &["support"],
    &["test:*", "node:read"],
    &["peer:nas=test/*"],
    &["!peer:nas=test/query"],
];

/// What the explanation says, and what the call meets: `None` if it is let in.
fn explained(home: &Node, operation: &str, words: &[&str], on: Option<&str>) -> (i32, Value) {
    let on = on.map(|on| ["--on", on]);
    let line = [&["peers", "explain", "laptop", operation], words].concat();
    let line = [
        &line[..],
        on.as_ref().map_or(&[], |on| &on[..]),
        &["--json"],
    ]
    .concat();
    let said = home.cli(&line);
    (said.status.code().unwrap(), said.json())
}

fn called(laptop: &Node, operation: &str, words: &[&str], on: Option<&str>) -> Option<String> {
    let way = on.map_or_else(|| "home".to_owned(), |on| format!("home/{on}"));
    // As it is written: the words are typed by a schema that the caller may
    // not be shown.
    let line = [&["call", operation], words, &["--on", &way, "--json"]].concat();
    let said = laptop.cli(&line);
    (said.status.code() != Some(0)).then(|| super::harness::error_code(&said.stderr))
}

#[track_caller]
fn agree(pair: &Pair, held: &[&str]) {
    for (operation, words, on) in ASKED {
        let (exit, told) = explained(&pair.home, operation, words, *on);
        let met = called(&pair.laptop, operation, words, *on);
        let code = told["code"].as_str().map(str::to_owned);
        assert_eq!(
            code, met,
            "`{operation}` {words:?} on {on:?}, held {held:?}: {told:#}"
        );
        assert_eq!(told["allowed"], met.is_none(), "{told:#}");
        assert_eq!(exit, if met.is_none() { 0 } else { 4 }, "{told:#}");
    }
}

#[test]
fn slow_explanations_and_the_calls_of_a_peer_agree() {
    let pair = Pair::start(&config());
    let nas = Node::start("nas", &config());
    let ticket = pair.home.cli(&["invite", "-q"]).exits(0).stdout;
    nas.feed(&["join", "-"], ticket.as_bytes()).exits(0);
    pair.home.connected("nas");
    nas.cli(&["grant", "home", "test:*"]).exits(0);
    eventually("home knows what nas offers", || {
        let words = ["ops", "--on", "nas", "--json"];
        let said = pair.home.cli(&words).exits(0).stdout;
        said.contains("test/query").then_some(())
    });
    for targets in STEPS {
        if !targets.is_empty() {
            let words = [&["grant", "laptop"], *targets].concat();
            pair.home.cli(&words).exits(0);
        }
        agree(&pair, targets);
    }
}

#[test]
fn the_command_that_is_named_lets_the_call_in() {
    let pair = Pair::start(&config());
    let line = [
        "peers",
        "explain",
        "laptop",
        "deploy/restart",
        "service=web",
    ];
    let said = pair.home.cli(&line).exits(4);
    assert!(
        said.stdout.ends_with("\nnot allowed: FORBIDDEN\n"),
        "{said:?}"
    );
    assert!(
        said.stdout
            .contains("\nno  scope       scope `deploy:write` is missing\n"),
        "{said:?}"
    );
    assert_eq!(
        said.stderr,
        "error: `laptop` may not call `deploy/restart`: missing scope `deploy:write`\n\
         hint: alknet grant laptop deploy/restart\n"
    );
    pair.home
        .cli(&["grant", "laptop", "deploy/restart"])
        .exits(0);
    let said = pair.home.cli(&line).exits(0);
    assert!(said.stdout.ends_with("\nallowed\n"), "{said:?}");
    assert!(
        said.stdout.contains(": `deploy/restart` (own grant)\n"),
        "{said:?}"
    );
    assert_eq!(called(&pair.laptop, line[3], &line[4..], None), None);
    // Nothing of all that was a call of the operation, but that one.
    let rows = eventually("the call is in the log", || {
        let rows = pair.home.audit(&["--operation", "deploy/restart"]);
        (!rows.is_empty()).then_some(rows)
    });
    assert_eq!(rows.len(), 1, "{rows:#?}");
}

#[test]
fn whoever_is_kept_out_is_told_why_and_what_lets_it_in() {
    let pair = Pair::start(&config());
    let home = &pair.home;
    home.cli(&["grant", "laptop", "test/query"]).exits(0);
    let line = ["peers", "explain", "laptop", "test/query"];
    home.cli(&["peers", "update", "laptop", "--disable"])
        .exits(0);
    let said = home.cli(&line).exits(4);
    assert!(
        said.stdout
            .contains("no  caller      `laptop` is disabled\n"),
        "{said:?}"
    );
    assert!(
        said.stderr
            .ends_with("hint: alknet peers update laptop --enable\n"),
        "{said:?}"
    );
    home.cli(&["peers", "update", "laptop", "--enable"])
        .exits(0);
    home.cli(&line).exits(0);
    // Names that are not there say so.
    let said = home.cli(&["peers", "explain", "latop", "test/query"]);
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    assert!(said.stderr.contains("`laptop`"), "{said:?}");
    let said = home.cli(&["peers", "explain", "laptop", "test/query", "--on", "any"]);
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    // Who may not ask, is not answered.
    let asks = [
        "call",
        "peers/explain",
        "peer=laptop",
        "operation=test/query",
    ];
    let said = pair
        .laptop
        .cli(&[&asks[..], &["--on", "home"]].concat())
        .exits(4);
    assert!(
        said.stderr.contains("missing scope `peers:explain`"),
        "{said:?}"
    );
}
