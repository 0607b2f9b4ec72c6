//! `shell/open`: what a program finds, and what passes through a terminal.

use crate::{support::*, terminal_support::*};
use alknet_core::{ChannelCall, ErrorCode};
use bytes::Bytes;
use serde_json::json;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_program_finds_itself_in_a_terminal_of_the_size_and_kind_that_was_asked_for() {
    let input = json!({
        "argv": ["sh", "-c", "test -t 0 && test -t 1 && test -t 2 && tty && stty size && echo $TERM"],
        "term": "vt100", "rows": 33, "cols": 111, "width_px": 888, "height_px": 462,
    });
    let screen = Screen::open(&shell_door(), input).await;
    let tty = screen.call.reply.clone().into_value().unwrap()["tty"].clone();
    let outcome = screen.rest().await.unwrap();
    let want = format!("{}\r\n33 111\r\nvt100\r\n", tty.as_str().unwrap());
    assert_eq!(outcome.text(), want);
    assert_eq!(outcome.result, json!({ "exit_code": 0, "signal": null }));
    assert_eq!(outcome.stderr, b"");
}

#[tokio::test]
async fn without_a_size_it_has_24_rows_of_80() {
    let screen = Screen::plain(&shell_door(), "stty size; echo $TERM").await;
    assert_eq!(
        screen.rest().await.unwrap().text(),
        "24 80\nxterm-256color\n"
    );
}

#[tokio::test]
async fn the_process_leads_a_session_with_the_terminal_as_its_own() {
    let script = "ps -o pid=,sid=,pgid=,tpgid= -p $$; echo x >/dev/tty; exec sleep 0";
    let screen = Screen::plain(&shell_door(), script).await;
    let pid = screen.pid().to_string();
    let outcome = screen.rest().await.unwrap();
    let (ids, tty) = outcome.text().split_once('\n').unwrap();
    assert!(ids.split_whitespace().all(|id| id == pid), "{ids} of {pid}");
    assert_eq!(tty, "x\n");
}

#[tokio::test]
async fn modes_are_set_before_the_program_runs() {
    let input = json!({
        "argv": ["stty", "-a"],
        "modes": { "ECHO": 0, "ICANON": 0, "IUTF8": 1, "VINTR": 11, "VSUSP": 255, "VSTATUS": 9 },
    });
    let screen = Screen::open(&shell_door(), input).await;
    let said = screen.rest().await.unwrap();
    for want in [
        "-echo ",
        "-icanon",
        " iutf8",
        "intr = ^K;",
        "susp = <undef>;",
        "isig ",
    ] {
        assert!(said.text().contains(want), "{want:?} in {}", said.text());
    }
}

#[tokio::test]
async fn what_is_typed_is_echoed_and_edited_as_on_any_terminal() {
    let mut screen = Screen::open(&shell_door(), json!({ "argv": ["cat"] })).await;
    screen.type_in("helpo\u{7f}\u{7f}lo\n").await;
    screen.until("hello\r\n").await;
    // Interrupted, as the driver of the terminal does it.
    screen.type_in("\u{3}").await;
    let outcome = screen.rest().await.unwrap();
    assert_eq!(
        outcome.result,
        json!({ "exit_code": null, "signal": "INT" })
    );
}

#[tokio::test]
async fn a_new_size_is_told() {
    let script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.02; done";
    let mut screen = Screen::plain(&shell_door(), script).await;
    screen.until("ready\n").await;
    screen
        .say(json!({ "resize": { "rows": 50, "cols": 132 } }))
        .await;
    screen.until("50 132\n").await;
    let pixels =
        json!({ "resize": { "rows": 51, "cols": 133, "width_px": 800, "height_px": 600 } });
    screen.say(pixels).await;
    screen.until("51 133\n").await;
}

#[tokio::test]
async fn control_messages_that_mean_nothing_are_passed_over() {
    let mut screen = Screen::plain(&shell_door(), "read line; stty size").await;
    for control in [
        json!({ "resize": { "rows": 70_000, "cols": 1 } }),
        json!({ "resize": { "rows": -1, "cols": 1 } }),
        json!({ "resize": {} }),
        json!({ "signal": "SEGV" }),
        json!({ "signal": 9 }),
        json!({ "break": "long" }),
        json!("INT"),
        json!({}),
    ] {
        screen.say(control).await;
    }
    screen.type_in("\n").await;
    assert_eq!(screen.rest().await.unwrap().text(), "24 80\n");
}

#[tokio::test]
async fn a_signal_goes_to_the_foreground_and_not_to_the_shell() {
    let script = "set -m; (trap 'echo caught; exit 5' USR1; echo ready; while :; do sleep 0.02; done); echo $?";
    let mut screen = Screen::plain(&shell_door(), script).await;
    screen.until("ready\n").await;
    screen.say(json!({ "signal": "USR1" })).await;
    screen.until("caught\n").await;
    let outcome = screen.rest().await.unwrap();
    assert_eq!(outcome.text(), "5\n");
    assert_eq!(outcome.result["exit_code"], 0);
}

#[tokio::test]
async fn a_break_does_what_the_terminal_says_of_breaks() {
    // Read as a zero byte, as long as nothing else is said.
    let script = "stty raw -brkint -ignbrk; echo ready; head -c 2 | od -An -tx1";
    let mut screen = Screen::plain(&shell_door(), script).await;
    screen.until("ready\n").await;
    screen.say(json!({ "break": 500 })).await;
    screen.type_in("").await;
    let started = Instant::now();
    while started.elapsed() < SOON {
        // The break is beside the bytes: it may come later than they do.
        if screen.call.channel.control_tx.capacity()
            == screen.call.channel.control_tx.max_capacity()
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    screen.type_in("x").await;
    let seen = screen.rest().await.unwrap();
    let mut bytes: Vec<&str> = seen.text().split_whitespace().collect();
    bytes.sort_unstable();
    assert_eq!(bytes, ["00", "78"]);
    // Or as an interrupt.
    let script = "stty brkint; echo ready; exec sleep 300";
    let mut screen = Screen::plain(&shell_door(), script).await;
    screen.until("ready\n").await;
    screen.say(json!({ "break": 500 })).await;
    assert_eq!(screen.rest().await.unwrap().result["signal"], "INT");
}

/// Bytes in which no two places look alike for long; every value occurs.
fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_pass_unchanged_both_ways() {
    let sent = pattern(if is_full() { 20_000_000 } else { 1_000_000 });
    let script = format!("stty raw -echo; echo ready; exec head -c {}", sent.len());
    let mut screen = Screen::plain(&shell_door(), &script).await;
    screen.until("ready\n").await;
    let (mut tx, bytes) = (screen.call.channel.tx, Bytes::from(sent.clone()));
    let (mut rx, done) = (screen.call.channel.rx, screen.call.done);
    let sending = tokio::spawn(async move {
        tx.send(bytes).await.unwrap();
        tx.end();
        tx
    });
    let mut got = screen.seen.into_bytes();
    let reading = async {
        while let Ok(Some(chunk)) = rx.recv().await {
            got.extend_from_slice(&chunk.bytes);
        }
        done.await.unwrap()
    };
    let result = tokio::time::timeout(SOON * 10, reading).await.unwrap();
    assert_eq!(result.into_value().unwrap()["exit_code"], 0);
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    sending.await.unwrap();
}

#[tokio::test]
async fn every_last_byte_comes_before_the_result() {
    let door = shell_door();
    let rounds = if is_full() { 500 } else { 5 };
    for round in 0..rounds {
        let script = format!("seq 1 {}; exit 7", 20_000 + round);
        let outcome = Screen::plain(&door, &script).await.rest().await.unwrap();
        let want: String = (1..=20_000 + round).map(|n| format!("{n}\n")).collect();
        assert!(
            outcome.text() == want,
            "round {round}: {}",
            outcome.stdout.len()
        );
        assert_eq!(outcome.result["exit_code"], 7);
    }
}

#[tokio::test]
async fn output_that_nobody_reads_stops_the_program_and_not_the_keyboard() {
    let door = shell_door();
    let screen = Screen::plain(&door, "exec yes").await;
    let counter = screen.call.channel.rx.counter();
    let window = alknet_core::PIPE_WINDOW_BYTES as u64;
    eventually("the window is full", || {
        counter.bytes() >= window - 64 * 1024
    })
    .await;
    // It stays full: as much as the window, and no more.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(counter.bytes() <= window, "{}", counter.bytes());
    screen.say(json!({ "signal": "INT" })).await;
    let outcome = screen.rest().await.unwrap();
    assert_eq!(outcome.result["signal"], "INT");
    assert!(outcome.stdout.starts_with(b"y\ny\n"));
}

#[tokio::test]
async fn the_end_of_the_bytes_is_an_end_of_file_for_each_that_waits() {
    let door = shell_door();
    // With and without an open line; two programs after another; and one that
    // reads late.
    for script in ["cat", "cat; cat", "sleep 0.2; cat; echo then; cat"] {
        for typed in ["", "a line\n", "an open line"] {
            let mut screen = Screen::plain(&door, &format!("{script}; echo done")).await;
            screen.type_in(typed).await;
            screen.call.channel.tx.end();
            let outcome = screen.rest().await.unwrap();
            let text = outcome.text().replace("then\n", "");
            assert_eq!(text, format!("{typed}done\n"), "{script}");
        }
    }
}

#[tokio::test]
async fn an_input_that_was_cut_did_not_end() {
    let screen = Screen::plain(&shell_door(), "cat; sleep 300").await;
    let id = screen.pid();
    let ChannelCall { channel, done, .. } = screen.call;
    drop(channel.tx);
    assert!(done.await.unwrap_err().is(ErrorCode::Cancelled));
    eventually("the session is gone", || session(id).is_empty()).await;
}

#[tokio::test]
async fn a_caller_that_looks_away_for_good_ends_it() {
    let screen = Screen::plain(&shell_door(), "exec yes").await;
    let id = screen.pid();
    let ChannelCall { channel, done, .. } = screen.call;
    drop(channel.rx);
    let ended = tokio::time::timeout(SOON, done).await.unwrap();
    assert!(ended.unwrap_err().is(ErrorCode::Cancelled));
    eventually("the session is gone", || session(id).is_empty()).await;
}
