//! A peer that may little is told what is missing.

use crate::program::{PATIENCE, Up};
use std::time::Instant;

/// `laptop` is a peer of `home` with these grants.
fn joined(grants: &[&str]) -> (Up, Up) {
    let (home, laptop) = (Up::start(), Up::start());
    let ticket = home.run(&["invite", "--name", "laptop"]).exits(0).stdout;
    laptop
        .place
        .feed(&["join", "-", "--name", "home"], ticket.as_bytes())
        .exits(0);
    home.run(&[&["grant", "laptop"], grants].concat()).exits(0);
    (home, laptop)
}

#[test]
fn a_refusal_names_what_is_missing_and_the_command_that_gives_it() {
    let (home, laptop) = joined(&["shell:exec", "command:git=exec"]);
    let call = ["call", "shell/exec", "argv:=[\"ls\"]", "--on", "home"];
    // Until the grant has come over, the operation is not offered yet.
    let started = Instant::now();
    let said = loop {
        let said = laptop.run(&call);
        if said.status.code() == Some(4) || started.elapsed() > PATIENCE {
            break said.exits(4);
        }
    };
    let message =
        "`laptop` may not call `shell/exec` on `home`: missing resource `command:ls=exec`";
    let hint = "on `home`: alknet grant laptop command:ls=exec";
    assert_eq!(said.stderr, format!("error: {message}\nhint: {hint}\n"));
    let said = laptop.run(&["exec", "home", "--", "ls"]).exits(255);
    assert_eq!(
        said.stderr,
        format!("error: FORBIDDEN: {message}\nhint: {hint}\n")
    );
    let said = laptop.run(&[&["--json"], &call[..]].concat()).exits(4);
    let error: serde_json::Value = serde_json::from_str(&said.stderr).unwrap();
    assert_eq!(error["error"]["code"], "FORBIDDEN");
    assert_eq!(error["error"]["hint"], hint);
    // What the hint says is a command that works.
    let words: Vec<&str> = hint.split(": alknet ").nth(1).unwrap().split(' ').collect();
    home.run(&words).exits(0);
}

#[test]
fn a_peer_without_grants_hears_what_it_needs() {
    let (home, laptop) = joined(&["demo/divide"]);
    let said = laptop
        .run(&["call", "demo/greet", "name=x", "--on", "home"])
        .exits(4);
    assert_eq!(
        said.stderr,
        "error: `laptop` may not call `demo/greet` on `home`: missing scope `demo:greet`\n\
         hint: on `home`: alknet grant laptop demo/greet\n"
    );
    home.run(&["grant", "laptop", "demo/greet"]).exits(0);
    let said = laptop
        .run(&["call", "demo/greet", "name=x", "--on", "home"])
        .exits(0);
    assert_eq!(said.stdout, "Hello, x!\n");
}

#[test]
fn what_a_peer_does_not_offer_is_said_to_be_so() {
    let (home, laptop) = joined(&["demo/greet"]);
    let started = Instant::now();
    while laptop
        .run(&["call", "demo/greet", "name=x", "--on", "home"])
        .status
        .code()
        != Some(0)
    {
        assert!(started.elapsed() < PATIENCE);
    }
    let said = laptop
        .run(&["call", "demo/gret", "name=x", "--on", "home"])
        .exits(1);
    assert_eq!(
        said.stderr,
        "error: peer `home` does not offer `demo/gret`\nhint: did you mean `demo/greet`?\n"
    );
    for words in [
        &["call", "demo/greet", "name=x", "--on", "hoem"][..],
        &["ops", "--on", "hoem"],
        &["peers", "show", "hoem"],
    ] {
        let said = laptop.run(words).exits(1);
        assert_eq!(
            said.stderr,
            "error: no peer `hoem`\nhint: did you mean `home`?\n"
        );
    }
    let page = laptop
        .run(&["ops", "describe", "demo/greet", "--on", "home"])
        .exits(0)
        .stdout;
    assert!(page.starts_with("demo/greet (query) on home\n"), "{page}");
    let any = laptop
        .run(&["call", "demo/greet", "name=5", "--on", "any"])
        .exits(0);
    assert_eq!(any.stdout, "Hello, 5!\n");
    home.run(&["down"]).exits(0);
    let said = loop {
        let said = laptop.run(&["call", "demo/greet", "name=x", "--on", "home"]);
        if said.status.code() == Some(3) || started.elapsed() > PATIENCE {
            break said.exits(3);
        }
    };
    assert!(
        said.stderr.ends_with("\nhint: alknet peers list\n"),
        "{said:?}"
    );
}
