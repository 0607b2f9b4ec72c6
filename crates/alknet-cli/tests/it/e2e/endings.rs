//! How calls end: done, failed, cancelled, out of time, lost; and what runs
//! for them ends with them.

use super::harness::{Node, Pair, eventually, exec_config};
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// How soon a cancelled program is gone: ten times the promise.
const GONE_WITHIN: Duration = Duration::from_secs(1);

fn config() -> String {
    let operation = |name: &str, output: &str, command: &str| {
        format!(
            "[[operation]]\nname = \"test/{name}\"\nsummary = \"Sleeps.\"\noutput = \"{output}\"\n\
             command = {command}\ntimeout = \"10m\"\n"
        )
    };
    [
        exec_config().to_owned(),
        operation("sleep", "text", r#"["sleep", "301"]"#),
        operation("lines", "lines", r#"["sh", "-c", "echo ready; exec sleep 302"]"#),
        operation("bytes", "bytes", r#"["sh", "-c", "echo ready; exec sleep 303"]"#),
        // Its child ignores what asks it to end, and is in the background.
        operation("stubborn", "text", r#"["sh", "-c", "trap '' INT TERM HUP; sleep 304 & wait"]"#),
        operation("fail", "text", r#"["sh", "-c", "echo broken >&2; exit 3"]"#),
    ]
    .join("\n")
}

fn pair() -> Pair {
    let pair = Pair::start(&config());
    let grants = ["test/sleep", "test/lines", "test/bytes", "test/stubborn", "test/fail", "operator"];
    pair.home.cli(&[&["grant", "laptop"], &grants[..]].concat()).exits(0);
    pair
}

#[track_caller]
fn wait_for(home: &Node, line: &str) {
    eventually(&format!("`{line}` runs"), || home.runs(line).then_some(()));
}

#[track_caller]
fn gone(home: &Node, since: Instant) {
    eventually("what ran is gone", || home.children().is_empty().then_some(()));
    assert!(since.elapsed() < GONE_WITHIN, "{:?}", since.elapsed());
}

#[track_caller]
fn last_outcome(home: &Node, operation: &str, want: &str) {
    eventually(&format!("`{operation}` ended with {want}"), || {
        let rows = home.audit(&["--caller", "laptop", "--operation", operation]);
        (rows.last()?["outcome"] == want).then_some(())
    });
}

#[test]
fn cancelling_kills_what_sleeps_there_whatever_its_kind() {
    let pair = pair();
    let (home, laptop) = (&pair.home, &pair.laptop);
    let cases = [
        ("test/sleep", "sleep 301"),
        ("test/lines", "sleep 302"),
        ("test/bytes", "sleep 303"),
        ("test/stubborn", "sh -c trap '' INT TERM HUP; sleep 304 & wait"),
    ];
    for (operation, line) in cases {
        let running = laptop.spawn(&["call", operation, "--on", "home"]);
        wait_for(home, line);
        let since = Instant::now();
        running.interrupt();
        gone(home, since);
        running.ended().exits(130);
        last_outcome(home, operation, "CANCELLED");
    }
    // Also when the command line is killed, and cannot say anything.
    let mut running = laptop.spawn(&["call", "test/lines", "--on", "home"]);
    wait_for(home, "sleep 302");
    running.child.kill().unwrap();
    eventually("what ran is gone", || home.children().is_empty().then_some(()));
    // The background child of the stubborn one is gone as well, not orphaned.
    let orphan = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let line = std::fs::read_to_string(entry.ok()?.path().join("cmdline")).ok()?;
        (line == "sleep\0304\0").then_some(())
    });
    assert_eq!(orphan.count(), 0);
}

#[test]
fn the_called_node_keeps_the_time_even_if_the_caller_sleeps() {
    let pair = pair();
    let (home, laptop) = (&pair.home, &pair.laptop);
    let mut running = laptop.spawn(&["call", "test/sleep", "--on", "home", "--timeout", "500ms", "--json"]);
    assert_eq!(running.code().exits(1).error_code(), "TIMEOUT");
    eventually("what ran is gone", || home.children().is_empty().then_some(()));
    last_outcome(home, "test/sleep", "TIMEOUT");
    // The node that sent it stands still now: nobody else ends the call.
    let mut running = laptop.spawn(&["call", "test/sleep", "--on", "home", "--timeout", "2s", "--json"]);
    wait_for(home, "sleep 301");
    let since = Instant::now();
    laptop.signal(Signal::STOP);
    eventually("what ran is gone", || home.children().is_empty().then_some(()));
    assert!(since.elapsed() < Duration::from_secs(6), "{:?}", since.elapsed());
    laptop.signal(Signal::CONT);
    assert_eq!(running.code().exits(1).error_code(), "TIMEOUT");
    // A subscription and a channel keep to it too.
    for operation in ["test/lines", "test/bytes"] {
        let mut running = laptop.spawn(&["call", operation, "--on", "home", "--timeout", "500ms", "--json"]);
        assert_eq!(running.lines.next().trim_matches('"'), "ready");
        assert_eq!(running.code().exits(1).error_code(), "TIMEOUT");
        eventually("what ran is gone", || home.children().is_empty().then_some(()));
    }
}

#[test]
fn done_failed_cancelled_and_lost_are_told_apart() {
    let mut pair = pair();
    let failed = pair.laptop.cli(&["call", "test/fail", "--on", "home", "--json"]).exits(1);
    let failed: serde_json::Value = serde_json::from_str(&failed.stderr).unwrap();
    assert_eq!(failed["error"]["code"], "COMMAND_FAILED");
    assert_eq!(failed["error"]["details"]["exit_code"], 3);
    assert_eq!(failed["error"]["details"]["stderr"], "broken\n");
    let cancelled = pair.laptop.spawn(&["call", "test/sleep", "--on", "home", "--json"]);
    wait_for(&pair.home, "sleep 301");
    cancelled.interrupt();
    assert_eq!(cancelled.ended().exits(130).stderr, "");
    // A node that stops without waiting cancels what it runs, and says so.
    let mut stopped = pair.laptop.spawn(&["call", "test/sleep", "--on", "home", "--json"]);
    let mut followed = pair.laptop.spawn(&["call", "test/lines", "--on", "home", "--json"]);
    wait_for(&pair.home, "sleep 301");
    wait_for(&pair.home, "sleep 302");
    pair.home.cli(&["down", "--drain", "0s"]).exits(0);
    for running in [&mut stopped, &mut followed] {
        let code = running.code().exits(1).error_code();
        assert!(["UNAVAILABLE", "LOST", "CANCELLED"].contains(&code.as_str()), "{code}");
    }
    // Nobody is left behind by it.
    eventually("no `sleep` is left", || {
        let left = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let line = std::fs::read_to_string(entry.ok()?.path().join("cmdline")).ok()?;
            ["sleep\x00301\0", "sleep\x00302\0"].contains(&line.as_str()).then_some(())
        });
        (left.count() == 0).then_some(())
    });
    // What cannot be reached now is no `LOST`: it was not sent.
    let away = pair.laptop.cli(&["call", "test/fail", "--on", "home", "--json"]).exits(3);
    assert_eq!(super::harness::error_code(&away.stderr), "UNAVAILABLE");
    pair.home.reap();
}

/// Slow: silence is believed after fifteen seconds.
#[test]
fn slow_a_call_whose_node_is_killed_is_lost() {
    let mut pair = pair();
    let words: [&[&str]; 4] = [
        &["call", "test/sleep", "--on", "home", "--json", "--timeout", "5m"],
        &["call", "test/lines", "--on", "home", "--json"],
        &["call", "test/bytes", "--on", "home", "--json"],
        &["exec", "home", "--json", "--", "sleep", "305"],
    ];
    let mut running: Vec<_> = words.iter().map(|words| pair.laptop.spawn(words)).collect();
    for seconds in 301..=303 {
        wait_for(&pair.home, &format!("sleep {seconds}"));
    }
    wait_for(&pair.home, "sleep 305");
    pair.home.kill();
    let ended: Vec<_> = running.iter_mut().map(super::harness::Running::code).collect();
    for (ended, code) in ended.into_iter().zip([1, 1, 1, 255]) {
        assert_eq!(ended.exits(code).error_code(), "LOST");
    }
    // The programs of a killed node do not outlive it for long.
    eventually("no `sleep` is left", || {
        let left = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let line = std::fs::read_to_string(entry.ok()?.path().join("cmdline")).ok()?;
            line.starts_with("sleep\x0030").then_some(())
        });
        (left.count() == 0).then_some(())
    });
}
