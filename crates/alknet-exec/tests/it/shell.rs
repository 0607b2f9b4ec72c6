//! `shell/exec`: the contract of the channel.

use crate::support::*;
use alknet_core::{
    Call, CallError, Caller, Chunk, Credential, Dispatcher, ErrorCode, Identity, PeerId, Registry,
    ResourceGrant, ResourceKind, Scope, StaticIdentities,
};
use alknet_exec::{ExecConfig, shell_operations};
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;

#[tokio::test]
async fn a_program_gets_its_input_and_gives_both_outputs_and_its_code() {
    let door = shell_door();
    let script = "cat; echo problem >&2; exit 7";
    let mut call = open(&door, &json!({ "argv": ["/bin/sh", "-c", script] })).await;
    assert!(pid(&call.reply) > 1);
    let tx = &mut call.channel.tx;
    tx.send(Bytes::from_static(b"to the ")).await.unwrap();
    tx.send(Bytes::from_static(b"program")).await.unwrap();
    let outcome = finish(call).await.unwrap();
    assert_eq!(outcome.text(), "to the program");
    assert_eq!(outcome.stderr, b"problem\n");
    assert_eq!(outcome.result, json!({ "exit_code": 7, "signal": null }));
}

#[tokio::test]
async fn arguments_stay_arguments() {
    let argv = ["printf", "%s|", "a b", "", "$HOME", "*", ";id", "-n", "é\n"];
    let outcome = exec_argv(&shell_door(), &argv).await;
    assert_eq!(outcome.text(), "a b||$HOME|*|;id|-n|é\n|");
}

#[tokio::test]
async fn a_program_sees_the_name_it_was_called_by() {
    let outcome = exec_argv(&shell_door(), &["sh", "-c", "echo $0"]).await;
    assert_eq!(outcome.text(), "sh\n");
}

#[tokio::test]
async fn the_working_directory_is_the_root_or_what_the_call_says() {
    let door = shell_door();
    assert_eq!(exec_argv(&door, &["pwd"]).await.text(), "/\n");
    let call = open(&door, &json!({ "argv": ["pwd"], "cwd": "/usr/bin" })).await;
    assert_eq!(finish(call).await.unwrap().text(), "/usr/bin\n");
}

async fn check_signal(name: &str) {
    let door = shell_door();
    let call = open(&door, &json!({ "argv": ["sleep", "300"] })).await;
    let control = json!({ "signal": name });
    call.channel.control_tx.send(control).await.unwrap();
    let outcome = drain(call).await.unwrap();
    assert_eq!(outcome.result, json!({ "exit_code": null, "signal": name }));
}

#[tokio::test]
async fn signals_reach_the_program_and_are_reported() {
    for name in ["INT", "TERM", "HUP", "QUIT", "KILL", "USR1", "USR2"] {
        check_signal(name).await;
    }
}

#[tokio::test]
async fn a_signal_reaches_the_whole_group_and_may_be_handled() {
    let door = shell_door();
    let script = "trap 'echo caught; exit 3' INT; sleep 300 & echo ready; wait";
    let mut call = open(&door, &json!({ "argv": ["sh", "-c", script] })).await;
    assert_eq!(read_lines(&mut call.channel.rx, 1).await, ["ready"]);
    let control = json!({ "signal": "INT" });
    call.channel.control_tx.send(control).await.unwrap();
    let outcome = drain(call).await.unwrap();
    assert_eq!(outcome.text(), "caught\n");
    assert_eq!(outcome.result["exit_code"], 3);
}

#[tokio::test]
async fn control_messages_that_mean_nothing_here_are_passed_over() {
    let door = shell_door();
    let call = open(&door, &json!({ "argv": ["cat"] })).await;
    let messages = [
        json!({ "resize": { "cols": 80, "rows": 24 } }),
        json!({ "signal": "SEGV" }),
        json!({ "signal": 9 }),
        json!("INT"),
    ];
    for message in messages {
        call.channel.control_tx.send(message).await.unwrap();
    }
    let outcome = finish(call).await.unwrap();
    assert_eq!(outcome.result, json!({ "exit_code": 0, "signal": null }));
}

#[tokio::test]
async fn a_signal_gets_through_while_nobody_reads_the_output() {
    let door = shell_door();
    let call = open(&door, &json!({ "argv": ["yes"] })).await;
    let control = json!({ "signal": "TERM" });
    let counter = call.channel.rx.counter();
    // The window is full when the count stands still at one window.
    eventually("the window is full", || {
        counter.bytes() >= alknet_core::PIPE_WINDOW_BYTES as u64 - 64 * 1024
    })
    .await;
    call.channel.control_tx.send(control).await.unwrap();
    let outcome = drain(call).await.unwrap();
    assert_eq!(outcome.result["signal"], "TERM");
    assert!(outcome.stdout.starts_with(b"y\ny\n"));
}

#[tokio::test]
async fn a_program_that_reads_nothing_does_not_hold_up_its_caller() {
    let door = shell_door();
    let script = "exec 0<&-; echo closed; sleep 0.2; exit 4";
    let mut call = open(&door, &json!({ "argv": ["sh", "-c", script] })).await;
    assert_eq!(read_lines(&mut call.channel.rx, 1).await, ["closed"]);
    // Four windows: they are taken, and thrown away.
    for _ in 0..64 {
        let sent = call.channel.tx.send(Bytes::from(vec![0; 64 * 1024])).await;
        if sent.is_err() {
            break;
        }
    }
    assert_eq!(drain(call).await.unwrap().result["exit_code"], 4);
}

#[tokio::test]
async fn an_input_that_was_cut_did_not_end() {
    let door = shell_door();
    let call = open(&door, &json!({ "argv": ["sh"] })).await;
    let pid = pid(&call.reply);
    let alknet_core::ChannelCall { channel, done, .. } = call;
    let mut tx = channel.tx;
    tx.send(Bytes::from_static(b"sleep 300\n")).await.unwrap();
    drop(tx);
    assert!(done.await.unwrap_err().is(ErrorCode::Cancelled));
    eventually("the program is dead", || !is_alive(pid)).await;
}

#[tokio::test]
async fn a_caller_that_stops_reading_closes_the_pipe() {
    let door = shell_door();
    let mut call = open(&door, &json!({ "argv": ["yes"] })).await;
    call.channel.tx.end();
    let alknet_core::ChannelCall { channel, done, .. } = call;
    drop(channel.rx);
    let result = tokio::time::timeout(SOON, done).await.unwrap().unwrap();
    assert_eq!(result.into_value().unwrap()["signal"], "PIPE");
}

#[tokio::test]
async fn auxiliary_bytes_are_no_input() {
    let door = shell_door();
    let mut call = open(&door, &json!({ "argv": ["cat"] })).await;
    let tx = &mut call.channel.tx;
    let aux = Chunk::aux(Bytes::from_static(b"no"));
    tx.send_chunk(aux).await.unwrap();
    tx.send(Bytes::from_static(b"yes")).await.unwrap();
    assert_eq!(finish(call).await.unwrap().text(), "yes");
}

/// Bytes in which no two places look alike for long.
fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

#[tokio::test]
async fn every_last_byte_comes_before_the_result() {
    let door = shell_door();
    let rounds = if is_full() { 1000 } else { 3 };
    let sizes = [
        0,
        1,
        32_767,
        32_768,
        32_769,
        65_535,
        65_536,
        2 * 1024 * 1024 - 1,
        2 * 1024 * 1024,
        2 * 1024 * 1024 + 1,
    ];
    for size in sizes {
        let sent = pattern(size);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &sent).unwrap();
        let path = file.path().to_str().unwrap();
        let script = "cat \"$0\" & cat \"$0\" >&2; wait; exit 9";
        for _ in 0..rounds {
            let outcome = exec_argv(&door, &["sh", "-c", script, path]).await;
            assert!(outcome.stdout == sent, "stdout of {size}");
            assert!(outcome.stderr == sent, "stderr of {size}");
            assert_eq!(outcome.result["exit_code"], 9);
        }
    }
}

#[tokio::test]
async fn what_a_process_leaves_behind_may_still_speak_and_is_then_killed() {
    let door = shell_door();
    let script = "(sleep 0.05; echo late) & (echo $(exec sh -c 'echo $PPID'); sleep 300) & exit 0";
    let started = std::time::Instant::now();
    let outcome = exec_argv(&door, &["sh", "-c", script]).await;
    assert!(outcome.text().contains("late\n"), "{}", outcome.text());
    assert!(started.elapsed() < SOON / 2);
    for line in outcome.text().lines().filter(|line| *line != "late") {
        let pid: u32 = line.parse().unwrap();
        eventually("what was left behind is dead", || !is_alive(pid)).await;
    }
}

#[tokio::test]
async fn a_daemon_that_left_the_group_does_not_keep_the_call_open() {
    let door = shell_door();
    let script = "setsid sh -c 'echo $$; exec sleep 300' & sleep 0.2; echo done";
    let outcome = exec_argv(&door, &["sh", "-c", script]).await;
    let lines: Vec<&str> = outcome.text().lines().collect();
    assert_eq!(lines[1], "done");
    assert_eq!(outcome.result["exit_code"], 0);
    let daemon: i32 = lines[0].parse().unwrap();
    assert!(
        is_alive(daemon.unsigned_abs()),
        "out of reach, as documented"
    );
    let pid = rustix::process::Pid::from_raw(daemon).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

async fn check_refused(input: Value, code: &str, pointer: Option<&str>) {
    let error = refused(&shell_door(), &input).await;
    assert_eq!(error.code, code, "{error}");
    if let Some(pointer) = pointer {
        let details = error.details.as_deref().unwrap();
        assert_eq!(details[0]["pointer"], pointer, "{error}");
    }
}

#[tokio::test]
async fn what_cannot_run_is_refused_by_name() {
    check_refused(
        json!({ "argv": ["no-such-program"] }),
        "PROGRAM_NOT_FOUND",
        None,
    )
    .await;
    check_refused(json!({ "argv": ["/no/such"] }), "PROGRAM_NOT_FOUND", None).await;
    check_refused(
        json!({ "argv": ["/etc/passwd"] }),
        "PROGRAM_NOT_RUNNABLE",
        None,
    )
    .await;
    check_refused(json!({ "argv": ["/etc"] }), "PROGRAM_NOT_RUNNABLE", None).await;
    let nowhere = json!({ "argv": ["true"], "cwd": "/no/such" });
    check_refused(nowhere, "DIRECTORY_NOT_FOUND", None).await;
    let file = json!({ "argv": ["true"], "cwd": "/etc/passwd" });
    check_refused(file, "DIRECTORY_NOT_FOUND", None).await;
}

#[tokio::test]
async fn what_makes_no_sense_is_invalid_input() {
    let invalid = "INVALID_INPUT";
    check_refused(json!({ "argv": ["./here"] }), invalid, Some("/argv/0")).await;
    check_refused(
        json!({ "argv": ["/bin/../bin/ls"] }),
        invalid,
        Some("/argv/0"),
    )
    .await;
    check_refused(json!({ "argv": ["ls", "a\0b"] }), invalid, Some("/argv/1")).await;
    check_refused(
        json!({ "argv": ["ls"], "cwd": "tmp" }),
        invalid,
        Some("/cwd"),
    )
    .await;
    check_refused(json!({ "argv": ["ls"], "shell": true }), invalid, None).await;
    let env = |name: &str, value: &str| json!({ "argv": ["ls"], "env": { name: value } });
    check_refused(env("A=B", "x"), invalid, Some("/env/A=B")).await;
    check_refused(env("1A", "x"), invalid, Some("/env/1A")).await;
    check_refused(env("", "x"), invalid, Some("/env/")).await;
    check_refused(env("A", "x\0"), invalid, Some("/env/A")).await;
}

#[tokio::test]
async fn arguments_are_counted_to_1024() {
    let argv = |count: usize| json!({ "argv": vec!["true"; count] });
    let call = open(&shell_door(), &argv(1024)).await;
    assert_eq!(finish(call).await.unwrap().result["exit_code"], 0);
    check_refused(argv(1025), "INVALID_INPUT", Some("/argv")).await;
    // Nothing to check a grant against.
    check_refused(argv(0), "FORBIDDEN", None).await;
}

#[tokio::test]
async fn arguments_that_the_system_does_not_take_are_too_large() {
    let long = "x".repeat(256 * 1024);
    check_refused(json!({ "argv": ["true", long] }), "TOO_LARGE", None).await;
}

#[tokio::test]
async fn no_more_programs_run_than_may() {
    let mut config = ExecConfig::default();
    config.processes_max = 1;
    let exec = exec_with(config);
    let door = door(shell_operations(&exec));
    let first = open(&door, &json!({ "argv": ["cat"] })).await;
    assert_eq!(exec.running(), 1);
    let error = refused(&door, &json!({ "argv": ["true"] })).await;
    assert!(error.is(ErrorCode::RateLimited) && error.retry_after.is_some());
    finish(first).await.unwrap();
    assert_eq!(exec_argv(&door, &["true"]).await.result["exit_code"], 0);
    assert_eq!(exec.running(), 0);
}

/// A peer that may run some programs.
struct Peer {
    identities: Arc<StaticIdentities>,
    door: Dispatcher,
}

impl Peer {
    fn with(scopes: &[&str], programs: &[&str]) -> Self {
        let identities = Arc::new(StaticIdentities::default());
        let mut identity = Identity::empty(PeerId::parse("bob").unwrap());
        for scope in scopes {
            identity.scopes.insert(Scope::parse(scope).unwrap());
        }
        for program in programs {
            let grant = ResourceGrant::parse(ResourceKind::Command, program, &["exec"]);
            identity.resources.allow.push(grant.unwrap());
        }
        identities.put(Self::key(), identity);
        let registry = Registry::new();
        registry.register(shell_operations(&exec())).unwrap();
        let door = Dispatcher::builder(registry).identities(identities.clone());
        Self {
            identities,
            door: door.build(),
        }
    }

    fn key() -> Credential {
        Credential::NodeKey([7; 32])
    }

    fn call(&self, input: &Value) -> Call {
        let caller = Caller::resolve(&*self.identities, Self::key()).unwrap();
        Call::new("shell/exec", caller).unwrap().input(input)
    }

    async fn error(&self, input: &Value) -> Option<CallError> {
        let opened = self.door.open(self.call(input)).await;
        opened.err()
    }
}

#[tokio::test]
async fn a_program_needs_the_scope_and_the_resource() {
    let ls = json!({ "argv": ["ls"] });
    for (scopes, programs, may) in [
        (&["shell:exec"][..], &["ls"][..], true),
        (&["shell:*"], &["*"], true),
        (&["shell:open"], &["ls"], false),
        (&["shell:exec"], &["cat"], false),
        (&["shell:exec"], &["/bin/ls"], false),
        (&["shell:exec"], &[], false),
    ] {
        let error = Peer::with(scopes, programs).error(&ls).await;
        assert_eq!(error.is_none(), may, "{scopes:?} {programs:?}: {error:?}");
        assert!(error.is_none_or(|error| error.is(ErrorCode::Forbidden)));
    }
    // A grant for a name is none for a file that happens to be called so.
    let peer = Peer::with(&["shell:exec"], &["ls"]);
    let error = peer.error(&json!({ "argv": ["/tmp/ls"] })).await;
    assert!(error.unwrap().is(ErrorCode::Forbidden));
}

#[tokio::test]
async fn variables_need_the_grant_for_env() {
    let preload = json!({ "argv": ["ls"], "env": { "LANG": "C", "LD_PRELOAD": "/tmp/x.so" } });
    let narrow = Peer::with(&["shell:exec"], &["ls"]);
    let error = narrow.error(&preload).await.unwrap();
    assert!(error.is(ErrorCode::Forbidden));
    assert_eq!(error.details.unwrap()["grant"], "command:env=exec");
    let language = json!({ "argv": ["ls"], "env": { "LANG": "C", "LC_ALL": "C", "TERM": "x" } });
    assert_eq!(narrow.error(&language).await, None);
    let free = json!({ "argv": ["ls"], "env": { "ANYTHING": "goes" } });
    let wide = Peer::with(&["shell:exec"], &["ls", "env"]);
    assert_eq!(wide.error(&free).await, None);
}

#[tokio::test]
async fn a_grant_of_the_whole_operation_covers_variables_but_what_is_denied() {
    let free = json!({ "argv": ["ls"], "env": { "ANYTHING": "goes" } });
    let peer = Peer::with(&[], &[]);
    let mut identity = Identity::empty(PeerId::parse("bob").unwrap());
    identity
        .operations
        .insert(alknet_core::OperationName::parse("shell/exec").unwrap());
    peer.identities.put(Peer::key(), identity.clone());
    assert_eq!(peer.error(&free).await, None);
    let env = ResourceGrant::parse(ResourceKind::Command, "env", &["exec"]);
    identity.resources.deny.push(env.unwrap());
    peer.identities.put(Peer::key(), identity);
    assert!(peer.error(&free).await.unwrap().is(ErrorCode::Forbidden));
}

#[tokio::test]
async fn a_program_dies_with_the_right_to_run_it() {
    let peer = Peer::with(&["shell:exec"], &["sleep"]);
    let call = peer.call(&json!({ "argv": ["sleep", "300"] }));
    let call = peer.door.open(call).await.unwrap();
    let pid = pid(&call.reply);
    assert!(is_alive(pid));
    peer.identities.remove(&Peer::key());
    let error = drain(call).await.unwrap_err();
    assert!(error.is(ErrorCode::Unauthenticated), "{error}");
    eventually("the program is dead", || !is_alive(pid)).await;
}
