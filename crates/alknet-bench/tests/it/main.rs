//! The harness runs and writes its report.

#![allow(clippy::unwrap_used)]

use std::{env, fs::File, io::Write, process::Command};

/// What cannot be measured here says so where skips are counted.
fn note_skip(what: &str, reason: &str) {
    let line = format!("SKIP: alknet-bench {what}: {reason}\n");
    match env::var_os("ALKNET_SKIP_LOG") {
        Some(log) => {
            let mut log = File::options().create(true).append(true).open(log).unwrap();
            log.write_all(line.as_bytes()).unwrap();
        }
        #[expect(clippy::print_stderr, reason = "nobody counts skips here")]
        None => eprint!("skipped: {line}"),
    }
}

/// What the program wrote into its report, or printed if it wrote none.
fn report(area: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/report.md");
    let output = Command::new(env!("CARGO_BIN_EXE_alknet-bench"))
        .args([area, "--smoke", "--out"])
        .arg(&path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    std::fs::read_to_string(path).unwrap_or_else(|_| String::from_utf8(output.stdout).unwrap())
}

/// Every contender did something.
#[track_caller]
fn is_finite(text: &str) {
    let nothing = text
        .lines()
        .find(|line| line.contains("NaN") || line.contains("inf"));
    assert_eq!(nothing, None);
}

#[test]
fn calls_are_measured_beside_their_peers() {
    let text = report("call");
    for line in [
        "| the door alone, 64 B query, schemas checked, audit handed over |",
        "| unary call, 64 B, 1 in flight | raw iroh stream | ≥ 0.75 of its rate |",
        "| unary call, 4 KiB, 20 files, 1 in flight, added p50 |",
        "| channel, one stream, to the callee | raw iroh stream | ≥ 0.9 of its rate |",
        "## A subscription of 50 items of 64 B",
        "| alknet, whole node, audit in SQLite |",
        "| irpc |",
        "| unary call, 64 B, 1 in flight, added p50 of a node between |",
        "| unary call, 4 KiB, 20 files, 16 in flight | tonic, TLS, bytes untouched | > 1 of its rate |",
        "| unary call, 4 KiB, 20 files, 16 in flight | tonic, TLS, JSON read and written |",
        "| alknet, through a node between |",
    ] {
        assert!(text.contains(line), "no `{line}` in\n{text}");
    }
    let nats = "| unary call, 64 B, 16 in flight | NATS, TLS, bytes untouched | > 1 of its rate |";
    if text.contains("- Left out: NATS") {
        note_skip(
            "calls_are_measured_beside_their_peers",
            "nats-server is not installed",
        );
    } else {
        assert!(text.contains(nats), "no `{nats}` in\n{text}");
    }
    is_finite(&text);
}

#[test]
fn slow_networks_are_measured_beside_bare_iroh() {
    let text = report("net");
    if let Some((_, reason)) = text.split_once("skipped: net: ") {
        return note_skip("slow_networks_are_measured_beside_bare_iroh", reason.trim());
    }
    for line in [
        "| direct, call, 64 B, 1 in flight | ≥ 0.75 of its rate |",
        "| direct, call, 64 B, 1 in flight, added p50 | ≤ 30 µs |",
        "| direct, bulk, one stream, to the callee | ≥ 0.9 of its rate |",
        "| relayed, bulk, one stream, to the caller | ≥ 0.9 of its rate |",
        "## Meeting, between cones: by the relay, then direct",
        "## Meeting, between symmetric NATs: by the relay",
        "- Meetings that failed and were repeated: 0.",
        "## Meeting, between cones far apart: ",
        "| alknet, whole nodes |",
        "| bare iroh, at iroh's relay server |",
        "## A relay itself, under bare iroh",
        "| alknet's relay |",
    ] {
        assert!(text.contains(line), "no `{line}` in\n{text}");
    }
    is_finite(&text);
}

#[test]
fn storage_is_measured_beside_bare_sqlite() {
    let text = report("store");
    for line in [
        "| one row, 1 writer | bare SQLite, the same rows, 1 a transaction | ≥ 0.8 of its rate |",
        "| one row each, 16 writers | bare SQLite, the same rows, 16 a transaction |",
        "| change with audit row and event, 16 writers: syncs of 16 operations | | ≤ 1.2 |",
        "## Who is calling, of 20 peers",
        "| API key, from its text |",
        "| a call with its row in SQLite, ns |",
        "| rows a second, until the last is durable |",
    ] {
        assert!(text.contains(line), "no `{line}` in\n{text}");
    }
    if text.contains("not counted: no strace") {
        note_skip(
            "storage_is_measured_beside_bare_sqlite",
            "strace is not installed",
        );
    }
    is_finite(&text);
}

/// The command line is a program of another package; who builds all has it.
fn has_command_line() -> bool {
    let own = std::path::Path::new(env!("CARGO_BIN_EXE_alknet-bench"));
    own.with_file_name("alknet").is_file()
}

#[test]
fn slow_files_are_measured_beside_copies_over_ssh() {
    let name = "slow_files_are_measured_beside_copies_over_ssh";
    if !has_command_line() {
        return note_skip(name, "`alknet` is not built");
    }
    let text = report("files");
    for line in [
        "| one large file, get, alknet, command line |",
        "| one large file, put, alknet, library |",
        "| one large file, its bytes, cat, no network |",
        "| a large directory with all that is known, alknet, library |",
        "| 120 small files, put again, nothing to do, alknet, command line |",
        "| `fs/read`, 4 KiB |",
    ] {
        assert!(text.contains(line), "no `{line}` in\n{text}");
    }
    if text.contains("- Left out: OpenSSH") {
        note_skip(name, "openssh-server is not installed");
    } else {
        for line in [
            "| one large file, put, scp |",
            "| 4 KiB read, by a program, ssh cat, connection kept |",
            "| names of a large directory, sftp ls |",
        ] {
            assert!(text.contains(line), "no `{line}` in\n{text}");
        }
    }
    if text.contains("- Left out: rsync") {
        note_skip(name, "rsync is not installed");
    } else {
        assert!(text.contains("| 120 small files, get again, nothing to do, rsync over ssh |"));
    }
    is_finite(&text);
}
