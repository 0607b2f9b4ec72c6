//! How calls end: done, failed, cancelled, out of time, lost; and what runs
//! for them ends with them.

use super::harness::{Node, Pair, eventually, exec_config};
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// How soon a cancelled program is gone: ten times the promise.
const GONE_WITHIN: Duration = Duration::from_secs(1);

/// Programs of this test can be told from those of tests that run beside it:
/// they sleep for a time of its own.
fn sleep(n: u32) -> String {
    format!("sleep {}", std::process::id() * 10 + n)
}

/// Whether any process on this machine sleeps so.
fn sleeps_somewhere(n: u32) -> bool {
    let wanted = format!("{}\0", sleep(n).replace(' ', "\0"));
    std::fs::read_dir("/proc").unwrap().any(|entry| {
        let line = entry
            .ok()
            .and_then(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok());
        line.as_ref() == Some(&wanted)
    })
}

fn config() -> String {
    let operation = |name: &str, output: &str, command: &str| {
        format!(
            "[[operation]]\nname = \"test/{name}\"\nsummary = \"Sleeps.\"\noutput = \"{output}\"\n\
             command = {command}\ntimeout = \"10m\"\n"
        )
    };
    [
        exec_config().to_owned(),
        operation(
            "sleep",
            "text",
            &format!("{:?}", sleep(1).split(' ').collect::<Vec<_>>()),
        ),
        operation(
            "lines",
            "lines",
            &format!(r#"["sh", "-c", "echo ready; exec {}"]"#, sleep(2)),
        ),
        operation(
            "bytes",
            "bytes",
            &format!(r#"["sh", "-c", "echo ready; exec {}"]"#, sleep(3)),
        ),
        // Its child ignores what asks it to end, and is in the background.
        operation(
            "stubborn",
            "text",
            &format!(r#"["sh", "-c", "{}"]"#, stubborn()),
        ),
        operation("fail", "text", r#"["sh", "-c", "echo broken >&2; exit 3"]"#),
    ]
    .join("\n")
}

fn stubborn() -> String {
    format!("trap '' INT TERM HUP; {} & wait", sleep(4))
}

fn pair() -> Pair {
    let pair = Pair::start(&config());
    let grants = [
        "test/sleep",
        "test/lines",
        "test/bytes",
        "test/stubborn",
        "test/fail",
        "operator",
    ];
    pair.home
        .cli(&[&["grant", "laptop"], &grants[..]].concat())
        .exits(0);
    pair
}

#[track_caller]
fn wait_for(home: &Node, line: &str) {
    eventually(&format!("`{line}` runs"), || home.runs(line).then_some(()));
}

#[track_caller]
fn gone(home: &Node, since: Instant) {
    eventually("what ran is gone", || {
        home.children().is_empty().then_some(())
    });
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
        ("test/sleep", sleep(1)),
        ("test/lines", sleep(2)),
        ("test/bytes", sleep(3)),
        ("test/stubborn", format!("sh -c {}", stubborn())),
    ];
    for (operation, line) in cases {
        let running = laptop.spawn(&["call", operation, "--on", "home"]);
        wait_for(home, &line);
        let since = Instant::now();
        running.interrupt();
        gone(home, since);
        running.ended().exits(130);
        last_outcome(home, operation, "CANCELLED");
    }
    // The background child of the stubborn one is gone as well, not orphaned.
    eventually("no `sleep` is left", || {
        (!(1..=4).any(sleeps_somewhere)).then_some(())
    });
}

/// Slow: a command line that is killed cannot say anything, and its silence is
/// believed after fifteen seconds.
#[test]
fn slow_killing_the_command_line_cancels_too() {
    let pair = pair();
    let (home, laptop) = (&pair.home, &pair.laptop);
    let mut running = laptop.spawn(&["call", "test/lines", "--on", "home"]);
    wait_for(home, &sleep(2));
    running.child.kill().unwrap();
    eventually("what ran is gone", || {
        home.children().is_empty().then_some(())
    });
    last_outcome(home, "test/lines", "CANCELLED");
}

#[test]
fn the_called_node_keeps_the_time_even_if_the_caller_sleeps() {
    let pair = pair();
    let (home, laptop) = (&pair.home, &pair.laptop);
    let mut running = laptop.spawn(&[
        "call",
        "test/sleep",
        "--on",
        "home",
        "--timeout",
        "500ms",
        "--json",
    ]);
    assert_eq!(running.code().exits(1).error_code(), "TIMEOUT");
    eventually("what ran is gone", || {
        home.children().is_empty().then_some(())
    });
    // The node that sent it stands still now: nobody else ends the call.
    let mut running = laptop.spawn(&[
        "call",
        "test/sleep",
        "--on",
        "home",
        "--timeout",
        "2s",
        "--json",
    ]);
    wait_for(home, &sleep(1));
    let since = Instant::now();
    laptop.signal(Signal::STOP);
    eventually("what ran is gone", || {
        home.children().is_empty().then_some(())
    });
    assert!(
        since.elapsed() < Duration::from_secs(6),
        "{:?}",
        since.elapsed()
    );
    laptop.signal(Signal::CONT);
    assert_eq!(running.code().exits(1).error_code(), "TIMEOUT");
    last_outcome(home, "test/sleep", "TIMEOUT");
    // A subscription and a channel keep to it too.
    for operation in ["test/lines", "test/bytes"] {
        let mut running = laptop.spawn(&[
            "call",
            operation,
            "--on",
            "home",
            "--timeout",
            "500ms",
            "--json",
        ]);
        assert_eq!(running.lines.next().trim_matches('"'), "ready");
        assert_eq!(running.code().exits(1).error_code(), "TIMEOUT");
        eventually("what ran is gone", || {
            home.children().is_empty().then_some(())
        });
    }
}

#[test]
fn done_failed_cancelled_and_lost_are_told_apart() {
    let mut pair = pair();
    let failed = pair
        .laptop
        .cli(&["call", "test/fail", "--on", "home", "--json"])
        .exits(1);
    let failed: serde_json::Value = serde_json::from_str(&failed.stderr).unwrap();
    assert_eq!(failed["error"]["code"], "COMMAND_FAILED");
    assert_eq!(failed["error"]["details"]["exit_code"], 3);
    assert_eq!(failed["error"]["details"]["stderr"], "broken\n");
    let cancelled = pair
        .laptop
        .spawn(&["call", "test/sleep", "--on", "home", "--json"]);
    wait_for(&pair.home, &sleep(1));
    cancelled.interrupt();
    assert_eq!(cancelled.ended().exits(130).stderr, "");
    // A node that stops without waiting cancels what it runs, and says so.
    let mut stopped = pair
        .laptop
        .spawn(&["call", "test/sleep", "--on", "home", "--json"]);
    let mut followed = pair
        .laptop
        .spawn(&["call", "test/lines", "--on", "home", "--json"]);
    wait_for(&pair.home, &sleep(1));
    wait_for(&pair.home, &sleep(2));
    pair.home.cli(&["down", "--drain", "0s"]).exits(0);
    for running in [&mut stopped, &mut followed] {
        let code = running.code().exits(1).error_code();
        assert!(
            ["UNAVAILABLE", "LOST", "CANCELLED"].contains(&code.as_str()),
            "{code}"
        );
    }
    // Nobody is left behind by it.
    eventually("no `sleep` is left", || {
        (!(1..=2).any(sleeps_somewhere)).then_some(())
    });
    // What cannot be reached now is no `LOST`: it was not sent.
    let away = pair
        .laptop
        .cli(&["call", "test/fail", "--on", "home", "--json"])
        .exits(3);
    assert_eq!(super::harness::error_code(&away.stderr), "UNAVAILABLE");
    pair.home.ended();
}

/// Slow: silence is believed after fifteen seconds.
#[test]
fn slow_a_call_whose_node_is_killed_is_lost() {
    let mut pair = pair();
    let seconds = sleep(5).split_off("sleep ".len());
    let words: [&[&str]; 4] = [
        &[
            "call",
            "test/sleep",
            "--on",
            "home",
            "--json",
            "--timeout",
            "5m",
        ],
        &["call", "test/lines", "--on", "home", "--json"],
        &["call", "test/bytes", "--on", "home", "--json"],
        &["exec", "home", "--json", "--", "sleep", &seconds],
    ];
    let mut running: Vec<_> = words.iter().map(|words| pair.laptop.spawn(words)).collect();
    for n in [1, 2, 3, 5] {
        wait_for(&pair.home, &sleep(n));
    }
    let left = pair.home.children();
    pair.home.kill();
    let ended: Vec<_> = running
        .iter_mut()
        .map(super::harness::Running::code)
        .collect();
    // Nobody is there who could end what it ran.
    for (id, _) in left {
        let id = rustix::process::Pid::from_raw(id.try_into().unwrap()).unwrap();
        let _ = rustix::process::kill_process(id, Signal::KILL);
    }
    for (ended, code) in ended.into_iter().zip([1, 1, 1, 255]) {
        assert_eq!(ended.exits(code).error_code(), "LOST");
    }
}
