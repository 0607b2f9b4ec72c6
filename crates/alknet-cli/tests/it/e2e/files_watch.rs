//! Changes of a bucket on another node, followed through cuts.

use super::harness::{Node, Pair, Running, exec_config, toml};
use serde_json::Value;
use std::{collections::BTreeSet, fs, path::Path};

fn follow(laptop: &Node, after: Option<&str>) -> Running {
    let after = after.map(|cursor| format!("after={cursor}"));
    let words = ["call", "fs/watch", "--on", "home", "--json", "file=www"];
    let words = words.into_iter().chain(["recursive=true"]);
    let words: Vec<&str> = words.chain(after.as_deref()).collect();
    laptop.spawn(&words)
}

fn next(running: &Running) -> Value {
    serde_json::from_str(&running.lines.next()).unwrap()
}

#[test]
fn changes_are_followed_through_cuts_of_caller_and_node() {
    let dir = tempfile::tempdir().unwrap();
    let www = dir.path().join("www");
    fs::create_dir(&www).unwrap();
    let bucket = format!("[[bucket]]\nname = \"www\"\npath = {}\n", toml(&www));
    let mut pair = Pair {
        home: Node::start("home", &format!("{}{bucket}", exec_config())),
        laptop: Node::start("laptop", exec_config()),
    };
    pair.join();
    let grants = ["grant", "laptop", "fs:list", "bucket:www/**=list"];
    pair.home.cli(&grants).exits(0);

    let mut running = follow(&pair.laptop, None);
    let started = next(&running);
    assert_eq!(started["kind"], "started", "{started}");
    assert_eq!(started["file"], "www", "{started}");
    let mut cursor = started["cursor"].as_str().unwrap().to_owned();

    // The caller is killed again and again, while files come: none is lost.
    let mut missing = BTreeSet::new();
    for round in 0..4 {
        missing.extend(make_some(&www, round));
        take(&running, &mut cursor, &mut missing, 3);
        drop(running);
        missing.extend(make_some(&www, round + 100));
        running = follow(&pair.laptop, Some(&cursor));
    }
    take(&running, &mut cursor, &mut missing, usize::MAX);

    // A node that started again knows nothing of what was before: it says so.
    drop(running);
    pair.home.kill();
    make_some(&www, 1_000);
    pair.home.restart();
    pair.laptop.connected("home");
    let running = follow(&pair.laptop, Some(&cursor));
    let first = next(&running);
    assert_eq!(
        (&first["kind"], &first["file"]),
        (&"missed".into(), &"www".into())
    );
    fs::write(www.join("after"), "").unwrap();
    while next(&running)["file"] != "www/after" {}

    // What is taken back ends it.
    let words = ["revoke", "laptop", "bucket:www/**=list"];
    pair.home.cli(&words).exits(0);
    let ended = running.ended().exits(4);
    assert_eq!(ended.error_code(), "FORBIDDEN");
}

/// Makes files in new directories; tells their names.
fn make_some(www: &Path, round: u32) -> Vec<String> {
    let deep = www.join(round.to_string()).join("deep");
    fs::create_dir_all(&deep).unwrap();
    let make = |n| {
        fs::write(deep.join(format!("{n}")), "x").unwrap();
        format!("www/{round}/deep/{n}")
    };
    (0..20).map(make).collect()
}

/// Takes changes until nothing is missing, or so many were taken.
#[track_caller]
fn take(running: &Running, cursor: &mut String, missing: &mut BTreeSet<String>, most: usize) {
    for _ in 0..most {
        if missing.is_empty() {
            return;
        }
        let change = next(running);
        assert_ne!(change["kind"], "missed", "{change}");
        missing.remove(change["file"].as_str().unwrap());
        change["cursor"].as_str().unwrap().clone_into(cursor);
    }
}
