//! Operations, calls, batches, programs.

use crate::program::{Lines, Place, Up, alknet, signal, wait};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::process::{Child, Command};

fn running_exec() -> Up {
    let place = Place::new();
    place.configure_exec();
    Up::start_in(place)
}

fn spawn(up: &Up, words: &[&str]) -> (Child, Lines) {
    let mut command: Command = alknet(up.place.path());
    let mut child = command.args(words).spawn().unwrap();
    let lines = Lines::of(child.stdout.take().unwrap());
    (child, lines)
}

#[test]
fn operations_are_listed_found_and_described() {
    let up = Up::start();
    let list = up.run(&["ops"]).exits(0).stdout;
    assert!(
        list.starts_with("OPERATION ") && list.contains("\ndemo/greet "),
        "{list}"
    );
    let some = up
        .run(&[
            "ops", "list", "--prefix", "demo/", "--kind", "channel", "--json",
        ])
        .exits(0)
        .json();
    assert_eq!(some["operations"].as_array().unwrap().len(), 1);
    assert_eq!(some["operations"][0]["name"], "demo/echo");
    let found = up
        .run(&["ops", "search", "greets", "somebody"])
        .exits(0)
        .stdout;
    let first: Vec<&str> = found.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(first[..3], ["demo/greet", ":", "query"], "{found}");
    let page = up.run(&["ops", "describe", "demo/greet"]).exits(0).stdout;
    assert!(
        page.starts_with("demo/greet (query)\n")
            && page.contains("$ alknet call demo/greet name=Ada\n"),
        "{page}"
    );
    up.run(&["ops", "list", "--kind", "quiery"]).exits(2);
}

#[test]
fn every_described_example_is_a_command_that_works() {
    let up = Up::start();
    for name in ["demo/greet", "demo/divide", "demo/count"] {
        let page = up.run(&["ops", "describe", name]).exits(0).stdout;
        let example = page
            .lines()
            .find_map(|line| line.trim().strip_prefix("$ alknet "))
            .unwrap();
        // Plain words only in these: no quotes to take off.
        let words: Vec<&str> = example.split(' ').collect();
        up.run(&words).exits(0);
    }
}

#[test]
fn the_schema_types_the_arguments() {
    let up = Up::start();
    assert_eq!(
        up.run(&["call", "demo/greet", "name=5"]).exits(0).stdout,
        "Hello, 5!\n"
    );
    assert_eq!(
        up.run(&["call", "demo/greet", "name=5", "--json"])
            .exits(0)
            .stdout,
        "\"Hello, 5!\"\n"
    );
    assert_eq!(
        up.run(&["call", "demo/divide", "dividend=7", "divisor:=2"])
            .exits(0)
            .stdout,
        "3\n"
    );
    assert_eq!(
        up.run(&["call", "demo/greet", r#"{"name":"a=b"}"#])
            .exits(0)
            .stdout,
        "Hello, a=b!\n"
    );
    let fed = up
        .place
        .feed(&["call", "demo/greet", "-"], br#"{"name":"stdin"}"#)
        .exits(0);
    assert_eq!(fed.stdout, "Hello, stdin!\n");
    std::fs::write(up.place.path().join("who"), "file").unwrap();
    let file = format!("name=@{}", up.place.path().join("who").display());
    assert_eq!(
        up.run(&["call", "demo/greet", &file]).exits(0).stdout,
        "Hello, file!\n"
    );
    let wrong = up
        .run(&["call", "demo/divide", "dividend=seven", "divisor=2"])
        .exits(2);
    assert_eq!(
        wrong.stderr,
        "error: `dividend` wants a number, `seven` is not\n"
    );
    up.run(&["call", "demo/greet", "name"]).exits(2);
    up.run(&["call", "demo/greet", "name=@/no/such/file"])
        .exits(1);
}

#[test]
fn errors_of_calls_help() {
    let up = Up::start();
    let said = up.run(&["call", "demo/gret", "name=x"]).exits(1);
    assert_eq!(
        said.stderr,
        "error: no operation `demo/gret`\nhint: did you mean `demo/greet`?\n"
    );
    let said = up.run(&["call", "demo/greet", "nmae=x"]).exits(1);
    assert!(
        said.stderr.contains("'nmae' was unexpected")
            && said
                .stderr
                .ends_with("hint: alknet ops describe demo/greet\n"),
        "{said:?}"
    );
    let said = up
        .run(&["call", "demo/divide", "dividend=1", "divisor=0", "--json"])
        .exits(1);
    let error: Value = serde_json::from_str(&said.stderr).unwrap();
    assert_eq!(error["error"]["code"], "DIVISION_BY_ZERO");
    let said = up
        .run(&["call", "demo/greet", "name=x", "--on", "nas"])
        .exits(1);
    assert_eq!(
        said.stderr,
        "error: no peer `nas`\nhint: alknet peers list\n"
    );
    let said = up
        .run(&[
            "call",
            "demo/count",
            "to=1000000",
            "every_ms=1000",
            "--timeout",
            "100ms",
        ])
        .exits(1);
    assert!(said.stderr.contains("hint: `--timeout "), "{said:?}");
}

#[test]
fn a_subscription_prints_items_and_a_channel_connects_the_streams() {
    let up = Up::start();
    assert_eq!(
        up.run(&["call", "demo/count", "to=3"]).exits(0).stdout,
        "1\n2\n3\n"
    );
    let text = "line\n".repeat(100_000);
    let echoed = up
        .place
        .feed(&["call", "demo/echo"], text.as_bytes())
        .exits(0);
    assert!(
        echoed.stdout == text,
        "{} of {} bytes came back",
        echoed.stdout.len(),
        text.len()
    );
    assert_eq!(echoed.stderr, "result: {\"bytes\":500000}\n");
    assert_eq!(
        up.place
            .feed(&["-q", "call", "demo/echo"], b"x")
            .exits(0)
            .stderr,
        ""
    );
}

#[test]
fn ctrl_c_cancels_there_too() {
    let up = Up::start();
    let (mut child, lines) = spawn(&up, &["call", "demo/count", "to=1000000", "every_ms=10"]);
    assert_eq!(lines.next(), "1");
    assert_eq!(
        up.run(&["call", "node/metrics"]).exits(0).json()["calls_in_flight"],
        2
    );
    signal(&child, Signal::INT);
    assert_eq!(wait(&mut child).code(), Some(130));
    // Its own call is the only one left, at once and not after a timeout.
    let left = || up.run(&["call", "node/metrics"]).exits(0).json()["calls_in_flight"].clone();
    let gone = (0..50).any(|_| left() == 1);
    assert!(gone, "the subscription still runs");
}

#[test]
fn a_reader_that_leaves_ends_it_quietly() {
    let up = Up::start();
    let mut child = alknet(up.place.path())
        .args(["call", "demo/count", "to=1000000"])
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let status = wait(&mut child);
    let mut told = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut told).unwrap();
    assert_eq!((status.code(), told.as_str()), (Some(0), ""));
}

#[test]
fn a_batch_answers_in_order_or_as_it_comes() {
    let up = Up::start();
    let calls = [
        json!({ "operation": "demo/greet", "input": { "name": "a" } }).to_string(),
        String::new(),
        json!({ "operation": "demo/gret" }).to_string(),
        "no json".to_owned(),
        json!({ "operation": "demo/divide", "input": { "dividend": 9, "divisor": 3 }, "on": ":" })
            .to_string(),
    ]
    .join("\n");
    let said = up.place.feed(&["batch", "-"], calls.as_bytes()).exits(1);
    let lines: Vec<Value> = said
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0], json!({ "index": 0, "output": "Hello, a!" }));
    assert_eq!(lines[1]["error"]["code"], "NOT_FOUND");
    assert_eq!(lines[2]["error"]["code"], "INVALID_INPUT");
    assert_eq!(lines[3], json!({ "index": 3, "output": 3 }));
    assert_eq!(said.stderr, "2 of the calls failed\n");
    let many: String = (0..200)
        .map(|n| {
            format!(
                "{}\n",
                json!({ "operation": "demo/divide", "input": { "dividend": n, "divisor": 1 } })
            )
        })
        .collect();
    std::fs::write(up.place.path().join("calls"), many).unwrap();
    let file = up.place.path().join("calls");
    let said = up
        .run(&["batch", file.to_str().unwrap(), "--unordered"])
        .exits(0);
    let mut outputs: Vec<i64> = said
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|line| {
            assert_eq!(line["index"], line["output"]);
            line["output"].as_i64().unwrap()
        })
        .collect();
    outputs.sort_unstable();
    assert_eq!(outputs, (0..200).collect::<Vec<i64>>());
}

#[test]
fn a_program_has_its_streams_and_its_status() {
    let up = running_exec();
    let said = up
        .run(&[
            "exec",
            ":",
            "--",
            "sh",
            "-c",
            "echo out; echo err >&2; exit 3",
        ])
        .exits(3);
    assert_eq!(
        (said.stdout.as_str(), said.stderr.as_str()),
        ("out\n", "err\n")
    );
    let bytes: Vec<u8> = (0..200_000u32)
        .flat_map(|n| format!("{n}\n").into_bytes())
        .collect();
    let back = up.place.feed(&["exec", ":", "--", "cat"], &bytes).exits(0);
    assert!(
        back.stdout.as_bytes() == bytes,
        "{} of {} bytes",
        back.stdout.len(),
        bytes.len()
    );
    let said = up
        .run(&[
            "exec",
            ":",
            "--cwd",
            "/usr",
            "--env",
            "LANG=C.UTF-8",
            "--",
            "sh",
            "-c",
            "pwd; echo $LANG",
        ])
        .exits(0);
    assert_eq!(said.stdout, "/usr\nC.UTF-8\n");
    up.run(&["exec", ":", "--", "sh", "-c", "kill -9 $$"])
        .exits(137);
    let said = up.run(&["exec", ":", "--", "no-such-program"]).exits(255);
    assert!(
        said.stderr.starts_with("error: PROGRAM_NOT_FOUND: "),
        "{said:?}"
    );
}

#[test]
fn signals_reach_the_program_and_a_second_ctrl_c_cancels() {
    let up = running_exec();
    let script =
        |on_int: &str| format!("trap '{on_int}' INT; echo ready; while :; do sleep 0.05; done");
    let (mut child, lines) = spawn(&up, &["exec", ":", "--", "sh", "-c", &script("exit 7")]);
    assert_eq!(lines.next(), "ready");
    signal(&child, Signal::INT);
    assert_eq!(wait(&mut child).code(), Some(7));
    let (mut child, lines) = spawn(&up, &["exec", ":", "--", "sh", "-c", &script("echo deaf")]);
    assert_eq!(lines.next(), "ready");
    signal(&child, Signal::INT);
    assert_eq!(lines.next(), "deaf");
    signal(&child, Signal::INT);
    assert_eq!(wait(&mut child).code(), Some(130));
    let (mut child, lines) = spawn(
        &up,
        &["exec", ":", "--", "sh", "-c", "echo ready; exec sleep 60"],
    );
    assert_eq!(lines.next(), "ready");
    signal(&child, Signal::TERM);
    assert_eq!(wait(&mut child).code(), Some(143));
}
