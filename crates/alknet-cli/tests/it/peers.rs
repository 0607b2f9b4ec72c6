//! Invites, peers, grants, and the two logs.

use crate::program::{Lines, PATIENCE, Place, Up, alknet, wait};
use serde_json::Value;
use std::time::Instant;

#[test]
fn a_ticket_stands_alone_on_standard_output() {
    let up = Up::start();
    let said = up
        .run(&["invite", "--role", "editor", "--access-for", "7d"])
        .exits(0);
    assert!(
        said.stdout.starts_with("alkinvite1") && said.stdout.lines().count() == 1,
        "{said:?}"
    );
    assert!(
        said.stderr.contains(
            "the ticket works once, for 15 minutes; the other side may here: editor, for 1 week"
        ),
        "{said:?}"
    );
    assert!(!said.stderr.contains("alkinvite1"));
    let drawn = up.run(&["invite", "--qr", "-q"]).exits(0);
    assert_eq!(drawn.stdout.lines().count(), 1, "{drawn:?}");
    let list = up.run(&["invite", "list", "--json"]).exits(0).json();
    let id = list["invites"][0]["id"].as_str().unwrap().to_owned();
    up.run(&["invite", "revoke", &id]).exits(0);
    let list = up.run(&["invite", "list"]).exits(0).stdout;
    assert!(list.contains("revoked") && list.contains("open"), "{list}");
    up.run(&["invite", "--role", "no-such-role"]).exits(1);
    up.run(&["invite", "--expires", "15"]).exits(2);
}

#[test]
fn whoever_waits_is_told_who_joined() {
    let (home, laptop) = (Up::start(), Up::start());
    let mut inviting = alknet(home.place.path())
        .args([
            "invite", "--name", "laptop", "--role", "reader", "--wait", "--json",
        ])
        .spawn()
        .unwrap();
    let lines = Lines::of(inviting.stdout.take().unwrap());
    let invite: Value = serde_json::from_str(&lines.next()).unwrap();
    let ticket = format!("{}\n", invite["ticket"].as_str().unwrap());
    let joined = laptop
        .place
        .feed(&["join", "-", "--name", "home"], ticket.as_bytes())
        .exits(0);
    assert_eq!(
        joined.stdout,
        "home may here: nothing; you may on home: reader\n"
    );
    assert_eq!(
        serde_json::from_str::<Value>(&lines.next()).unwrap()["peer"],
        "laptop"
    );
    assert!(wait(&mut inviting).success());
    assert_eq!(home.run(&["grants", "laptop"]).exits(0).stdout, "reader\n");
    let again = laptop
        .place
        .feed(&["join", "-", "--name", "again"], ticket.as_bytes())
        .exits(1);
    assert!(again.stderr.starts_with("error: "), "{again:?}");
    laptop.run(&["join", "no-ticket"]).exits(1);
}

#[test]
fn peers_are_added_changed_and_removed() {
    let up = Up::start();
    let key = |place: &Place| {
        place.run(&["init", "--json"]).exits(0).json()["node_id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (first, second) = (key(&Place::new()), key(&Place::new()));
    let added = up
        .run(&[
            "peers",
            "add",
            "bob",
            "--node-id",
            &first,
            "--role",
            "operator",
        ])
        .exits(0);
    assert!(
        added.stdout.contains("may here:     operator\n") && added.stderr.contains("any program"),
        "{added:?}"
    );
    up.run(&["peers", "add", "bob", "--node-id", &second])
        .exits(1);
    let granted = up
        .run(&["grant", "bob", "demo/greet", "cake:bake"])
        .exits(0);
    assert!(granted.stdout.starts_with("bob may: "), "{granted:?}");
    let doubt = "warning: no operation here asks for the scope `cake:bake`\n";
    assert!(granted.stderr.contains(doubt), "{granted:?}");
    assert_eq!(
        up.run(&["grants", "bob"]).exits(0).stdout,
        "operator\ndemo/greet\ncake:bake\n"
    );
    let same = up.run(&["revoke", "bob", "fs:write"]).exits(0);
    assert!(same.stderr.contains("nothing changed"), "{same:?}");
    up.run(&["revoke", "bob", "operator", "cake:bake"]).exits(0);
    let shown = up.run(&["grants", "bob", "--json"]).exits(0).json();
    assert_eq!(shown["grants"], serde_json::json!(["demo/greet"]));
    up.run(&["grant", "bob", "Not-A-Target"]).exits(2);
    up.run(&["grant", "nobody", "fs:read"]).exits(1);
    up.run(&["peers", "update", "bob"]).exits(2);
    up.run(&[
        "peers",
        "update",
        "bob",
        "--display-name",
        "Bob",
        "--disable",
    ])
    .exits(0);
    assert!(
        up.run(&["peers", "list"])
            .exits(0)
            .stdout
            .contains("disabled")
    );
    let rotated = up
        .run(&[
            "peers",
            "rotate",
            "bob",
            "--node-id",
            &second,
            "--overlap",
            "1h",
            "--json",
        ])
        .exits(0)
        .json();
    assert_eq!(rotated["node_id"], second.as_str());
    // Nobody can be asked here, so it does not ask.
    // Nobody is asked here, so it must be said.
    let said = up.run(&["peers", "remove", "bob"]).exits(2);
    assert!(said.stderr.contains("use --yes"), "{}", said.stderr);
    up.run(&["peers", "show", "bob"]).exits(0);
    up.run(&["peers", "remove", "bob", "--yes"]).exits(0);
    let gone = up.run(&["peers", "show", "bob"]).exits(1);
    assert_eq!(
        gone.stderr,
        "error: no peer `bob`\nhint: alknet peers list\n"
    );
}

#[test]
fn roles_are_listed() {
    let up = Up::start();
    let roles = up.run(&["roles"]).exits(0).stdout;
    for role in ["none", "reader", "editor", "operator", "admin"] {
        assert!(
            roles
                .lines()
                .any(|line| line.starts_with(&format!("{role} "))),
            "{role} is not in\n{roles}"
        );
    }
}

#[test]
fn what_was_called_is_in_the_audit_log() {
    let up = Up::start();
    up.run(&["call", "demo/gret"]).exits(1);
    // Rows are written in batches.
    let started = Instant::now();
    let words = [
        "audit",
        "--operation",
        "demo/gret",
        "--outcome",
        "NOT_FOUND",
        "--since",
        "1h",
        "--json",
    ];
    let rows = loop {
        let rows = up.run(&words).exits(0).stdout;
        if !rows.is_empty() {
            break rows;
        }
        assert!(started.elapsed() < PATIENCE);
    };
    assert_eq!(rows.lines().count(), 1, "{rows}");
    let row: Value = serde_json::from_str(&rows).unwrap();
    assert_eq!(
        (&row["caller"], &row["operation"]),
        (&"owner".into(), &"demo/gret".into())
    );
    up.run(&["audit", "--since", "yesterday"]).exits(2);
    let misspelt = up.run(&["audit", "--outcome", "forbiden"]).exits(2);
    assert!(misspelt.stderr.contains("did you mean `FORBIDDEN`?"));
    let nobody = up.run(&["audit", "--caller", "nosuch"]).exits(0);
    assert!(
        nobody
            .stderr
            .starts_with("warning: nobody called `nosuch` is a peer here"),
        "{nobody:?}"
    );
    let mut following = alknet(up.place.path())
        .args([
            "audit",
            "-f",
            "-n",
            "1",
            "--operation",
            "demo/greet",
            "--json",
        ])
        .spawn()
        .unwrap();
    let lines = Lines::of(following.stdout.take().unwrap());
    up.run(&["call", "demo/greet", "name=x"]).exits(0);
    assert_eq!(
        serde_json::from_str::<Value>(&lines.next()).unwrap()["outcome"],
        "ok"
    );
    following.kill().unwrap();
    following.wait().unwrap();
}

#[test]
fn the_log_of_the_node_can_be_read() {
    let up = Up::start();
    let lines = up.run(&["logs", "--level", "info"]).exits(0).stdout;
    assert!(
        lines
            .lines()
            .any(|line| line.contains(" INFO ") && line.contains("ready")),
        "{lines}"
    );
    let line = up.run(&["logs", "-n", "1", "--json"]).exits(0).json();
    assert!(
        line["at"].is_string() && line["message"].is_string(),
        "{line}"
    );
}
