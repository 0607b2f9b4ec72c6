//! What happened and what was called, as the program shows it: over restarts
//! and kills, whole, and call by call in a burst.

use super::harness::{Node, Pair, eventually};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    env,
    fmt::Write,
    fs,
    time::{Duration, Instant},
};

fn is_full() -> bool {
    env::var_os("ALKNET_TEST_FULL").is_some()
}

/// Events of peers that were added after a cursor, oldest first.
fn added(node: &Node, from: &str) -> Vec<Value> {
    let words = ["events", "--json", "--kind", "peer/added", "--from", from];
    let said = node.cli(&words).exits(0).stdout;
    said.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn cursor(event: &Value) -> String {
    event["cursor"].as_str().unwrap().to_owned()
}

#[test]
fn events_go_on_after_a_restart_and_a_kill_and_none_is_lost_or_comes_twice() {
    let mut home = Node::start("home", "");
    let add = |home: &Node, n: u32| {
        home.cli(&["call", "peers/add", &format!("peer=p{n}")])
            .exits(0);
    };
    let all = home.cli(&["events", "--json"]).exits(0).stdout;
    let mut from = cursor(&serde_json::from_str(all.lines().last().unwrap()).unwrap());
    let mut seen = Vec::new();
    for round in 0..4 {
        let words = [
            "events",
            "-f",
            "--json",
            "--kind",
            "peer/added",
            "--from",
            &from,
        ];
        let following = home.spawn(&words);
        // What was missed comes first, then what happens.
        if round > 0 {
            seen.push(serde_json::from_str::<Value>(&following.lines.next()).unwrap());
        }
        add(&home, round * 3);
        seen.push(serde_json::from_str(&following.lines.next()).unwrap());
        add(&home, round * 3 + 1);
        seen.push(serde_json::from_str(&following.lines.next()).unwrap());
        from = cursor(seen.last().unwrap());
        match round {
            // The node says goodbye, and the command where to go on.
            0 | 2 => {
                home.stop();
                let ended = following.ended();
                assert!(
                    ended.stderr.contains(&format!("--from {from}")),
                    "{}",
                    ended.stderr
                );
            }
            _ => {
                following.interrupt();
                following.ended();
                home.kill();
            }
        }
        home.restart();
        add(&home, round * 3 + 2);
    }
    seen.extend(added(&home, &from));
    let about: Vec<&str> = seen
        .iter()
        .map(|event| event["about"].as_str().unwrap())
        .collect();
    let want: Vec<String> = (0..12).map(|n| format!("p{n}")).collect();
    assert_eq!(about, want);
    let cursors: BTreeSet<String> = seen.iter().map(cursor).collect();
    assert_eq!(cursors.len(), seen.len());
    // People read the same, without cursors.
    let said = home
        .cli(&["events", "--kind", "peer/added"])
        .exits(0)
        .stdout;
    assert!(
        said.lines()
            .last()
            .unwrap()
            .contains("peer/added  p11  by owner"),
        "{said}"
    );
}

#[test]
fn who_comes_too_late_is_told_where_what_is_kept_begins() {
    let home = Node::start("home", "");
    let all = home.cli(&["events", "--json"]).exits(0).stdout;
    let last: Value = serde_json::from_str(all.lines().last().unwrap()).unwrap();
    let (epoch, number) = last["cursor"].as_str().unwrap().split_once('-').unwrap();
    let ahead = format!("{epoch}-{}", number.parse::<u64>().unwrap() + 1_000);
    let other = format!("{epoch}0-1");
    for from in [&ahead, &other] {
        for words in [&["events"][..], &["events", "--follow"]] {
            let words = [words, &["--from", from]].concat();
            let said = home.cli(&words).exits(1);
            assert!(
                said.stderr
                    .contains(&format!("alknet events --from {epoch}-0")),
                "{said:?}"
            );
        }
        let said = home.cli(&["events", "--json", "--from", from]).exits(1);
        let error: Value = serde_json::from_str(&said.stderr).unwrap();
        assert_eq!(error["error"]["code"], "GONE");
        assert_eq!(error["error"]["details"]["oldest"], format!("{epoch}-0"));
    }
    home.cli(&["events", "--from", "yesterday"]).exits(1);
    let following = home.spawn(&["events", "-f", "--json", "--from", "now"]);
    // It follows once it has connected: until then nothing may happen.
    let rows = || home.audit(&["--operation", "events/list"]).len();
    eventually("it has asked", || (rows() > 0).then_some(()));
    home.cli(&["call", "peers/add", "peer=later"]).exits(0);
    let event: Value = serde_json::from_str(&following.lines.next()).unwrap();
    assert_eq!(
        (&event["kind"], &event["about"]),
        (&json!("peer/added"), &json!("later"))
    );
    following.interrupt();
    following.ended();
}

/// Fields of a row, whatever it is about: a promise to scripts.
const ROW_FIELDS: [&str; 10] = [
    "at",
    "bytes_in",
    "bytes_out",
    "call_id",
    "caller",
    "duration_us",
    "n",
    "operation",
    "outcome",
    "surface",
];

#[test]
fn the_whole_audit_log_is_exported_oldest_first_and_filters_agree_with_it() {
    let pair = Pair::start("");
    let (home, laptop) = (&pair.home, &pair.laptop);
    // More than a page.
    let calls = json!({ "operation": "services/list" }).to_string() + "\n";
    let said = home
        .feed(&["batch", "-"], calls.repeat(1_200).as_bytes())
        .exits(0);
    assert_eq!(said.stdout.lines().count(), 1_200);
    laptop.cli(&["call", "node/info", "--on", "home"]).exits(4);
    let export = |filters: &[&str]| -> Vec<Value> {
        let words = [&["audit", "--export"], filters].concat();
        let said = home.cli(&words).exits(0).stdout;
        said.lines()
            .map(|row| serde_json::from_str(row).unwrap())
            .collect()
    };
    let batch = ["--operation", "services/list", "--caller", "owner"];
    let rows = eventually("all rows are written", || {
        let rows = export(&batch);
        (rows.len() >= 1_200 && !export(&["--outcome", "FORBIDDEN"]).is_empty()).then_some(rows)
    });
    let fields: Vec<&String> = rows[0].as_object().unwrap().keys().collect();
    assert_eq!(
        fields
            .iter()
            .map(|field| field.as_str())
            .collect::<BTreeSet<_>>(),
        ROW_FIELDS.into()
    );
    let n = |row: &Value| row["n"].as_u64().unwrap();
    assert!(rows.is_sorted_by(|older, newer| n(older) < n(newer)));
    let ids: HashSet<&str> = rows
        .iter()
        .map(|row| row["call_id"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), rows.len());

    let refused = export(&["--outcome", "FORBIDDEN", "--caller", "laptop"]);
    assert_eq!(refused[0]["detail"], "missing scopes `node:read`");
    let everything = export(&[]);
    let holds = |filters: &[&str], field: &str, want: &str| {
        let matching = everything.iter().filter(|row| row[field] == want).count();
        assert!(
            matching > 0 && export(filters).len() >= matching,
            "{filters:?}"
        );
        assert!(
            export(filters).iter().all(|row| row[field] == want),
            "{filters:?}"
        );
    };
    holds(&["--surface", "join"], "surface", "join");
    holds(&["--caller", "laptop"], "caller", "laptop");
    let one = refused[0]["call_id"].as_str().unwrap();
    holds(&["--call", one], "call_id", one);
    assert!(export(&["--slower-than", "1h"]).is_empty());
    assert!(export(&["--until", "1d"]).is_empty());
    assert!(export(&["--key", "nosuchky"]).is_empty());
}

/// Calls of a burst.
fn burst() -> usize {
    if is_full() { 50_000 } else { 4_000 }
}

#[test]
fn slow_a_burst_from_two_processes_and_their_nodes_is_on_record_call_by_call() {
    // The burst is a peer's: a user that makes so many calls is let.
    let pair = Pair::start("[limits]\npeer_rate_per_second = 0\n");
    let (home, laptop) = (&pair.home, &pair.laptop);
    let before = home.cli(&["audit", "-n", "1", "--json"]).exits(0).stdout;
    let before: Value = serde_json::from_str(&before).unwrap();
    let here = json!({ "operation": "node/ping" });
    let there = json!({ "operation": "node/ping", "on": "home" });
    // Two processes at home, and two that come over the link of `laptop`.
    let part = burst() / 4;
    let started = Instant::now();
    let batches: Vec<_> = [
        (home, &here, 0),
        (home, &here, 1),
        (laptop, &there, 0),
        (laptop, &there, 1),
    ]
    .into_iter()
    .map(|(node, call, n)| {
        let file = node.path(&format!("burst-{n}"));
        fs::write(&file, format!("{call}\n").repeat(part)).unwrap();
        let file = file.to_str().unwrap().to_owned();
        let replies = node.path(&format!("replies-{n}"));
        let mut command = node.command(&["batch", "--unordered", "--jobs", "64", &file]);
        command.stdout(fs::File::create(&replies).unwrap());
        (command.spawn().unwrap(), replies)
    })
    .collect();
    // Meanwhile the disk stands still for a while: somebody else writes.
    std::thread::sleep(Duration::from_millis(300));
    let other = rusqlite::Connection::open(home.data().join("alknet.db")).unwrap();
    other.busy_timeout(Duration::from_secs(10)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    std::thread::sleep(Duration::from_millis(1_500));
    other.execute_batch("ROLLBACK").unwrap();
    drop(other);
    for (mut batch, replies) in batches {
        assert!(batch.wait().unwrap().success());
        let replies = fs::read_to_string(replies).unwrap();
        assert_eq!(replies.lines().count(), part);
        assert!(
            !replies.contains("\"error\""),
            "callers wait, and none is refused"
        );
    }
    let took = started.elapsed();
    // Drained, the log is whole: nothing waits for a next batch.
    let mut pair = pair;
    pair.home.stop();
    pair.home.restart();
    let words = ["audit", "--export", "--operation", "node/ping"];
    let rows = pair.home.cli(&words).exits(0).stdout;
    let mut by_caller: BTreeMap<String, HashSet<String>> = BTreeMap::new();
    for row in rows.lines() {
        let row: Value = serde_json::from_str(row).unwrap();
        assert_eq!(row["outcome"], "ok");
        assert!(row["n"].as_u64() > before["n"].as_u64());
        let id = row["call_id"].as_str().unwrap().to_owned();
        let caller = row["caller"].as_str().unwrap().to_owned();
        assert!(
            by_caller.entry(caller).or_default().insert(id),
            "a row came twice"
        );
    }
    let counts: BTreeMap<&str, usize> = by_caller
        .iter()
        .map(|(caller, ids)| (caller.as_str(), ids.len()))
        .collect();
    assert_eq!(counts, [("laptop", 2 * part), ("owner", 2 * part)].into());
    let mut told = String::new();
    writeln!(told, "{} calls in {took:.1?}, each with its row", burst()).unwrap();
    // Only shown if asked for.
    #[allow(clippy::print_stdout)]
    {
        print!("{told}");
    }
}
