//! What is not granted is refused, and says what is missing; what changes,
//! changes for whoever is there.

use super::{
    harness::{ANSWERS, COUNTS, Node, Pair, eventually, exec_config, toml},
    raw,
};
use std::time::{Duration, Instant};

/// How soon live connections follow a grant: documented, and a hundred times
/// what it takes.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(1);

/// One operation of each kind; the mutation leaves a trace.
fn config(trace: &std::path::Path) -> String {
    format!(
        r#"{}
{ANSWERS}

[[operation]]
name = "deploy/restart"
summary = "Leaves a trace."
command = ["touch", {}]
scopes = ["deploy:write"]

{COUNTS}

[[operation]]
name = "test/pipe"
summary = "Sends bytes back."
output = "bytes"
command = ["cat"]
"#,
        exec_config(),
        toml(trace)
    )
}

fn names(caller: &Node, on: &str) -> Vec<String> {
    let list = caller.cli(&["ops", "--on", on, "--json"]).exits(0).json();
    let operations = list["operations"].as_array().unwrap();
    operations
        .iter()
        .map(|entry| entry["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn without_a_grant_each_kind_is_refused_naming_what_is_missing() {
    let files = tempfile::tempdir().unwrap();
    let trace = files.path().join("trace");
    let pair = Pair::start(&config(&trace));
    for (caller, called) in pair.ways() {
        let (who, on) = (caller.name.as_str(), called.name.as_str());
        let operations = [
            ("test/query", "test:query"),
            ("deploy/restart", "deploy:write"),
            ("test/count", "test:count"),
            ("test/pipe", "test:pipe"),
            ("peers/list", "peers:list"),
            ("node/shutdown", "node:shutdown"),
            ("audit/list", "audit:list"),
        ];
        for (operation, scope) in operations {
            let said = caller.cli(&["call", operation, "--on", on]).exits(4);
            assert_eq!(said.stdout, "");
            assert_eq!(
                said.stderr,
                format!(
                    "error: `{who}` may not call `{operation}` on `{on}`: missing scope `{scope}`\n\
                     hint: on `{on}`: alknet grant {who} {operation}\n"
                )
            );
        }
        let said = caller
            .cli(&["exec", on, "--", "touch", trace.to_str().unwrap()])
            .exits(255);
        assert_eq!(
            said.stderr,
            format!(
                "error: FORBIDDEN: `{who}` may not call `shell/exec` on `{on}`: missing scope `shell:exec`\n\
                 hint: on `{on}`: alknet grant {who} shell:exec\n"
            )
        );
        assert!(!trace.exists(), "something ran");
        // Nothing is listed, described or found that may not be called.
        let listed = names(caller, on);
        // What an offer gives takes the offer, and no grant.
        let free = ["node/ping", "fs/offered"];
        assert!(
            listed
                .iter()
                .all(|name| name.starts_with("services/") || free.contains(&name.as_str())),
            "{listed:?}"
        );
        caller
            .cli(&["ops", "describe", "test/query", "--on", on])
            .exits(1);
        let found = caller
            .cli(&["ops", "search", "answers", "--on", on, "--json"])
            .exits(0)
            .json();
        let found = found["results"].as_array().unwrap();
        assert!(
            found
                .iter()
                .all(|found| free.contains(&found["name"].as_str().unwrap())),
            "{found:?}"
        );
    }
}

#[test]
fn the_command_of_the_hint_gives_what_was_missing_and_nothing_else() {
    let files = tempfile::tempdir().unwrap();
    let trace = files.path().join("trace");
    let pair = Pair::start(&config(&trace));
    let said = pair
        .laptop
        .cli(&["call", "deploy/restart", "--on", "home"])
        .exits(4);
    let command = said
        .stderr
        .trim_end()
        .rsplit(": alknet ")
        .next()
        .unwrap()
        .to_owned();
    pair.home
        .cli(&command.split(' ').collect::<Vec<_>>())
        .exits(0);
    pair.laptop
        .cli(&["call", "deploy/restart", "--on", "home"])
        .exits(0);
    assert!(trace.exists());
    pair.laptop
        .cli(&["call", "test/query", "--on", "home"])
        .exits(4);
    // It was given one way, and to that operation: the scope does not leak.
    pair.home
        .cli(&["call", "deploy/restart", "--on", "laptop"])
        .exits(4);
    eventually("it is listed", || {
        names(&pair.laptop, "home")
            .contains(&"deploy/restart".into())
            .then_some(())
    });
    pair.home
        .cli(&["revoke", "laptop", "deploy/restart"])
        .exits(0);
    pair.laptop
        .cli(&["call", "deploy/restart", "--on", "home"])
        .exits(4);
    eventually("it is listed no more", || {
        (!names(&pair.laptop, "home").contains(&"deploy/restart".into())).then_some(())
    });
    // One program, and no other.
    pair.home
        .cli(&["grant", "laptop", "shell:exec", "command:uname=exec"])
        .exits(0);
    pair.laptop.cli(&["exec", "home", "--", "uname"]).exits(0);
    let said = pair.laptop.cli(&["exec", "home", "--", "ls"]).exits(255);
    assert!(
        said.stderr.contains("missing resource `command:ls=exec`\n"),
        "{said:?}"
    );
}

#[test]
fn grants_and_their_ends_reach_live_connections_within_a_second() {
    let files = tempfile::tempdir().unwrap();
    let pair = Pair::start(&config(&files.path().join("trace")));
    let (home, laptop) = (&pair.home, &pair.laptop);
    let watching = laptop.spawn(&["call", "services/watch", "--on", "home"]);
    home.cli(&["grant", "laptop", "test/count"]).exits(0);
    let mut counting = laptop.spawn(&["call", "test/count", "--on", "home"]);
    assert_eq!(counting.lines.next(), "1");
    // Until the watch is there: it tells of a change at the latest now.
    watching.lines.next();
    home.cli(&["grant", "laptop", "test/query"]).exits(0);
    // From the acknowledgement on: starting a program is not what is timed.
    let given = Instant::now();
    watching.lines.next();
    assert!(given.elapsed() < FOLLOWS_WITHIN, "{:?}", given.elapsed());
    // A grant that it does not need is not its business.
    home.cli(&["revoke", "laptop", "test/query"]).exits(0);
    counting.lines.next();
    home.cli(&["revoke", "laptop", "test/count"]).exits(0);
    let taken = Instant::now();
    let ended = counting.code().exits(4);
    assert!(taken.elapsed() < FOLLOWS_WITHIN, "{:?}", taken.elapsed());
    assert!(
        ended.stderr.contains("missing scope `test:count`"),
        "{ended:?}"
    );
    eventually("the command there is gone", || {
        home.children().is_empty().then_some(())
    });
}

#[test]
fn removing_a_peer_ends_all_that_it_does() {
    let files = tempfile::tempdir().unwrap();
    let pair = Pair::start(&config(&files.path().join("trace")));
    let (home, laptop) = (&pair.home, &pair.laptop);
    home.cli(&["grant", "laptop", "test/count", "test/pipe", "operator"])
        .exits(0);
    let mut counting = laptop.spawn(&["call", "test/count", "--on", "home", "--json"]);
    counting.lines.next();
    let mut piping = laptop.spawn(&["call", "test/pipe", "--on", "home", "--json"]);
    std::io::Write::write_all(piping.child.stdin.as_mut().unwrap(), b"hello\n").unwrap();
    assert_eq!(piping.lines.next(), "hello");
    let mut sleeping = laptop.spawn(&[
        "exec",
        "home",
        "--json",
        "--",
        "sh",
        "-c",
        "echo ready; exec sleep 300",
    ]);
    assert_eq!(sleeping.lines.next(), "ready");
    let removed = Instant::now();
    home.cli(&["peers", "remove", "laptop", "--yes"]).exits(0);
    // The connection is closed; whoever is quick is told why before.
    for running in [&mut counting, &mut piping, &mut sleeping] {
        let ended = running.code();
        let code = ended.error_code();
        assert!(
            ["LOST", "UNAUTHENTICATED"].contains(&code.as_str()),
            "{ended:?}"
        );
        assert!(
            [Some(1), Some(4), Some(255)].contains(&ended.code),
            "{ended:?}"
        );
    }
    assert!(
        removed.elapsed() < FOLLOWS_WITHIN,
        "{:?}",
        removed.elapsed()
    );
    eventually("what ran for it is gone", || {
        home.children().is_empty().then_some(())
    });
    let said = laptop.cli(&["call", "test/query", "--on", "home"]).exits(3);
    assert!(
        said.stderr.ends_with("\nhint: alknet peers list\n"),
        "{said:?}"
    );
    let list = home.cli(&["peers", "list", "--json"]).exits(0).stdout;
    assert!(!list.contains(laptop.id()), "{list}");
    // What it did stays in the log, under its name: it was told, or cut off.
    let outcome = eventually("its subscription is in the log", || {
        let rows = home.audit(&["--caller", "laptop", "--operation", "test/count"]);
        let mut outcomes = rows.iter().filter_map(|row| row["outcome"].as_str());
        let ended = outcomes.find(|outcome| *outcome != "INVALID_OPERATION_TYPE");
        ended.map(str::to_owned)
    });
    assert!(
        ["CANCELLED", "UNAUTHENTICATED"].contains(&outcome.as_str()),
        "{outcome}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_is_closed_before_a_stream_is_read() {
    let home = Node::start("home", "");
    let refused =
        || home.cli(&["call", "node/metrics"]).exits(0).json()["connections_refused"].clone();
    let before = refused();
    let endpoint = raw::endpoint().await;
    for alpn in [raw::CALL, raw::JOIN] {
        // Says nothing: it is told at once all the same.
        let silent = raw::connect(&endpoint, &home, alpn).await;
        assert_eq!(
            raw::closed_with(&silent, Duration::from_secs(5)).await,
            raw::NOT_ADMITTED
        );
        // Says what a peer would say: nobody answers.
        let connection = raw::connect(&endpoint, &home, alpn).await;
        if let Ok(mut send) = connection.open_uni().await {
            let _ = send.write_all(&raw::hello()).await;
        }
        assert_eq!(
            raw::closed_with(&connection, Duration::from_secs(5)).await,
            raw::NOT_ADMITTED
        );
        assert!(connection.accept_uni().await.is_err(), "a `Hello` came");
    }
    let refused = refused().as_u64().unwrap() - before.as_u64().unwrap();
    assert_eq!(refused, 4);
    // A protocol that is not served is refused in the handshake.
    let other = endpoint
        .connect(raw::address_of(&home), b"alknet/nonsense/1")
        .await;
    assert!(other.is_err());
    // An open invite opens the one protocol, and no other.
    home.cli(&["invite"]).exits(0);
    let calling = raw::connect(&endpoint, &home, raw::CALL).await;
    assert_eq!(
        raw::closed_with(&calling, Duration::from_secs(5)).await,
        raw::NOT_ADMITTED
    );
    let joining = raw::connect(&endpoint, &home, raw::JOIN).await;
    let (mut send, mut recv) = raw::open(&joining, br#"{"secret":"00","name":"mallory"}"#).await;
    send.finish().unwrap();
    let answer = recv.read_to_end(4096).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.contains("TICKET_WRONG"), "{answer}");
    // The key became no peer by that.
    let id = endpoint.id().to_string();
    assert!(
        !home
            .cli(&["peers", "list", "--json"])
            .exits(0)
            .stdout
            .contains(&id)
    );
    endpoint.close().await;
}
