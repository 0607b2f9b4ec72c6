//! The harness runs and writes its report.

#![allow(clippy::unwrap_used)]

use std::process::Command;

fn report(arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/call.md");
    let output = Command::new(env!("CARGO_BIN_EXE_alknet-bench"))
        .args(arguments)
        .arg("--out")
        .arg(&path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn calls_are_measured_beside_their_peers() {
    let text = report(&["call", "--smoke"]);
    for line in [
        "| the door alone, 64 B query, schemas checked, audit handed over |",
        "| unary call, 64 B, 1 in flight | raw iroh stream | ≥ 0.75 of its rate |",
        "| unary call, 4 KiB, 20 files, 1 in flight, added p50 |",
        "| channel, one stream, to the callee | raw iroh stream | ≥ 0.9 of its rate |",
        "## A subscription of 50 items of 64 B",
        "| alknet, whole node, audit in SQLite |",
        "| irpc |",
    ] {
        assert!(text.contains(line), "no `{line}` in\n{text}");
    }
    let nothing = text
        .lines()
        .find(|line| line.contains("NaN") || line.contains("inf"));
    assert_eq!(nothing, None, "every contender did something");
}
