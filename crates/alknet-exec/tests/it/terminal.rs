//! `shell/open`: terminals, and that nothing of them is left.

use crate::support::*;
use alknet_core::{
    Call, CallError, Caller, ChannelCall, Credential, Dispatcher, ErrorCode, Identity,
    OperationName, PeerId, Registry, ResourceGrant, ResourceKind, Scope, StaticIdentities,
};
use alknet_exec::{Exec, ExecConfig, shell_operations};
use bytes::Bytes;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// How soon the processes of a terminal are gone, as promised.
const GONE_WITHIN: Duration = Duration::from_secs(1);

/// An open terminal, and what it has shown so far.
struct Screen {
    call: ChannelCall,
    seen: String,
}

impl Screen {
    async fn open(door: &Dispatcher, input: Value) -> Self {
        let call = door.open(to("shell/open", &input)).await.unwrap();
        Self {
            call,
            seen: String::new(),
        }
    }

    /// A terminal that echoes nothing and changes no line ends.
    async fn plain(door: &Dispatcher, script: &str) -> Self {
        let modes = json!({ "ECHO": 0, "ONLCR": 0 });
        let input = json!({ "argv": ["sh", "-c", script], "modes": modes });
        Self::open(door, input).await
    }

    fn pid(&self) -> u32 {
        pid(&self.call.reply)
    }

    async fn type_in(&mut self, text: &str) {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        self.call.channel.tx.send(bytes).await.unwrap();
    }

    async fn say(&self, control: Value) {
        self.call.channel.control_tx.send(control).await.unwrap();
    }

    /// Reads on until this has been shown, and forgets all up to there.
    #[track_caller]
    fn until(&mut self, text: &str) -> impl Future<Output = String> {
        let caller = std::panic::Location::caller();
        async move {
            let started = Instant::now();
            loop {
                if let Some(at) = self.seen.find(text) {
                    let rest = self.seen.split_off(at + text.len());
                    return std::mem::replace(&mut self.seen, rest);
                }
                let left = SOON.saturating_sub(started.elapsed());
                let next = tokio::time::timeout(left, self.call.channel.rx.recv()).await;
                let Ok(Ok(Some(chunk))) = next else {
                    panic!(
                        "{caller}: {text:?} was not shown, but {:?}: {next:?}",
                        self.seen
                    );
                };
                assert!(!chunk.aux, "a terminal has one output");
                self.seen.push_str(&String::from_utf8_lossy(&chunk.bytes));
            }
        }
    }

    /// Reads to the end.
    async fn rest(self) -> Result<Outcome, CallError> {
        let mut outcome = drain(self.call).await?;
        outcome.stdout.splice(0..0, self.seen.into_bytes());
        Ok(outcome)
    }
}

/// Processes of a session that have not ended, with their command lines.
fn session(id: u32) -> BTreeMap<u32, String> {
    let all = std::fs::read_dir("/proc").unwrap();
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(") ").map(|(_, fields)| fields);
        let of = fields.and_then(|fields| fields.split(' ').nth(3));
        of == Some(id.to_string().as_str()) && is_alive(*pid)
    })
    .map(|pid| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        (pid, line.replace('\0', " "))
    })
    .collect()
}

fn terminal_door() -> Dispatcher {
    shell_door()
}

#[tokio::test]
async fn a_program_finds_itself_in_a_terminal_of_the_size_and_kind_that_was_asked_for() {
    let input = json!({
        "argv": ["sh", "-c", "test -t 0 && test -t 1 && test -t 2 && tty && stty size && echo $TERM"],
        "term": "vt100", "rows": 33, "cols": 111, "width_px": 888, "height_px": 462,
    });
    let screen = Screen::open(&terminal_door(), input).await;
    let tty = screen.call.reply.clone().into_value().unwrap()["tty"].clone();
    let outcome = screen.rest().await.unwrap();
    let want = format!("{}\r\n33 111\r\nvt100\r\n", tty.as_str().unwrap());
    assert_eq!(outcome.text(), want);
    assert_eq!(outcome.result, json!({ "exit_code": 0, "signal": null }));
    assert_eq!(outcome.stderr, b"");
}

#[tokio::test]
async fn without_a_size_it_has_24_rows_of_80() {
    let screen = Screen::plain(&terminal_door(), "stty size; echo $TERM").await;
    assert_eq!(
        screen.rest().await.unwrap().text(),
        "24 80\nxterm-256color\n"
    );
}

#[tokio::test]
async fn the_process_leads_a_session_with_the_terminal_as_its_own() {
    let script = "ps -o pid=,sid=,pgid=,tpgid= -p $$; echo x >/dev/tty; exec sleep 0";
    let screen = Screen::plain(&terminal_door(), script).await;
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
    let screen = Screen::open(&terminal_door(), input).await;
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
    let mut screen = Screen::open(&terminal_door(), json!({ "argv": ["cat"] })).await;
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
    let mut screen = Screen::plain(&terminal_door(), script).await;
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
    let mut screen = Screen::plain(&terminal_door(), "read line; stty size").await;
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
    let mut screen = Screen::plain(&terminal_door(), script).await;
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
    let mut screen = Screen::plain(&terminal_door(), script).await;
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
    let mut screen = Screen::plain(&terminal_door(), script).await;
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
    let mut screen = Screen::plain(&terminal_door(), &script).await;
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
    let door = terminal_door();
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
    let door = terminal_door();
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
    let door = terminal_door();
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
    let screen = Screen::plain(&terminal_door(), "cat; sleep 300").await;
    let id = screen.pid();
    let ChannelCall { channel, done, .. } = screen.call;
    drop(channel.tx);
    assert!(done.await.unwrap_err().is(ErrorCode::Cancelled));
    eventually("the session is gone", || session(id).is_empty()).await;
}

#[tokio::test]
async fn a_caller_that_looks_away_for_good_ends_it() {
    let screen = Screen::plain(&terminal_door(), "exec yes").await;
    let id = screen.pid();
    let ChannelCall { channel, done, .. } = screen.call;
    drop(channel.rx);
    let ended = tokio::time::timeout(SOON, done).await.unwrap();
    assert!(ended.unwrap_err().is(ErrorCode::Cancelled));
    eventually("the session is gone", || session(id).is_empty()).await;
}

/// As whoever runs the tests, by name.
fn own_account() -> Exec {
    let mut config = ExecConfig::default();
    if rustix::process::geteuid().is_root() {
        config.user = Some("root".into());
    }
    Exec::new(config).unwrap()
}

#[tokio::test]
async fn without_a_program_it_is_the_login_shell_of_the_account() {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let uid = rustix::process::geteuid().as_raw().to_string();
    let account = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields[2] == uid);
    let Some(account) = account else {
        panic!("whoever runs the tests has an account");
    };
    let (name, home, shell) = (account[0], account[5], account[6]);
    let door = door(shell_operations(&own_account()));
    let mut screen = Screen::open(
        &door,
        json!({ "env": { "LANG": "C.UTF-8", "HISTFILE": "/dev/null" } }),
    )
    .await;
    // Split, so that the echo of the question is no answer to it.
    screen
        .type_in("echo a\"\"=$0 b\"\"=$HOME c\"\"=$USER,$LOGNAME,$SHELL,$LANG d\"\"=$(pwd)e\n")
        .await;
    let argv0 = format!("-{}", shell.rsplit('/').next().unwrap());
    screen
        .until(&format!(
            "a={argv0} b={home} c={name},{name},{shell},C.UTF-8 d={home}e"
        ))
        .await;
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", screen.pid())).unwrap();
    assert_eq!(line, format!("{argv0}\0"));
    screen.type_in("exit 7\n").await;
    assert_eq!(screen.rest().await.unwrap().result["exit_code"], 7);
}

#[tokio::test]
async fn a_login_shell_whose_input_ends_ends() {
    let door = door(shell_operations(&own_account()));
    let mut screen = Screen::open(&door, json!({ "env": { "HISTFILE": "/dev/null" } })).await;
    screen
        .type_in("echo out\"\"put; exit_code() { return 9; }; exit_code\n")
        .await;
    screen.call.channel.tx.end();
    let outcome = screen.rest().await.unwrap();
    assert!(outcome.text().contains("output\r\n"), "{}", outcome.text());
    assert_eq!(outcome.result["exit_code"], 9);
}

#[tokio::test]
async fn an_id_without_an_account_gets_a_plain_shell_in_the_root() {
    // Nobody's: but the process itself runs as whoever runs the tests.
    let exec = Exec::with_euid(ExecConfig::default(), 3_999_999_999).unwrap();
    let door = door(shell_operations(&exec));
    let mut screen = Screen::open(&door, json!({})).await;
    screen.type_in("echo a\"\"=$0,$HOME,$USER,$(pwd)z\n").await;
    screen.until("a=-sh,/,,/z").await;
}

#[tokio::test]
async fn another_account_owns_its_terminal_and_starts_at_home() {
    if !is_root("another_account_owns_its_terminal_and_starts_at_home") {
        return;
    }
    let mut config = ExecConfig::default();
    config.user = Some("nobody".into());
    let door = door(shell_operations(&Exec::new(config).unwrap()));
    // Its home does not exist.
    let argv = [
        "sh",
        "-c",
        "id -un; pwd; stat -c %U $(tty); : <$(tty) && echo may open it",
    ];
    let screen = Screen::open(&door, json!({ "argv": argv })).await;
    let outcome = screen.rest().await.unwrap();
    assert_eq!(outcome.text(), "nobody\r\n/\r\nnobody\r\nmay open it\r\n");
    // Stated, it must be one.
    let input = json!({ "argv": argv, "cwd": "/nonexistent" });
    let error = door.open(to("shell/open", &input)).await.unwrap_err();
    assert_eq!(error.code, "DIRECTORY_NOT_FOUND");
}

#[tokio::test]
async fn only_the_terminal_is_open_in_it() {
    let file = tempfile::tempfile().unwrap();
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
    let screen = Screen::plain(&terminal_door(), "echo /proc/$$/fd/*").await;
    let outcome = screen.rest().await.unwrap();
    let open: Vec<&str> = outcome
        .text()
        .split_whitespace()
        .filter_map(|path| path.rsplit('/').next())
        // The directory that is being listed.
        .filter(|fd| *fd != "3")
        .collect();
    assert_eq!(open, ["0", "1", "2"]);
}

async fn check_refused(input: Value, code: &str, pointer: Option<&str>) {
    let error = terminal_door()
        .open(to("shell/open", &input))
        .await
        .unwrap_err();
    assert_eq!(error.code, code, "{input}: {error}");
    if let Some(pointer) = pointer {
        let details = error.details.as_deref().unwrap();
        assert_eq!(details[0]["pointer"], pointer, "{error}");
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let invalid = "INVALID_INPUT";
    check_refused(json!({ "argv": [] }), invalid, Some("/argv")).await;
    check_refused(json!({ "argv": ["ls", "a\0"] }), invalid, Some("/argv/1")).await;
    check_refused(json!({ "argv": ["./ls"] }), invalid, Some("/argv/0")).await;
    check_refused(json!({ "cwd": "tmp" }), invalid, Some("/cwd")).await;
    check_refused(json!({ "rows": 65_536 }), invalid, Some("/rows")).await;
    check_refused(json!({ "cols": -1 }), invalid, Some("/cols")).await;
    check_refused(
        json!({ "modes": { "ECHO": -1 } }),
        invalid,
        Some("/modes/ECHO"),
    )
    .await;
    check_refused(json!({ "env": { "A B": "" } }), invalid, Some("/env/A B")).await;
    check_refused(json!({ "shell": "bash" }), invalid, None).await;
    for term in ["", "../../tmp/x", "a b", &"x".repeat(65)] {
        check_refused(json!({ "term": term }), invalid, Some("/term")).await;
    }
    check_refused(
        json!({ "argv": ["no-such-program"] }),
        "PROGRAM_NOT_FOUND",
        None,
    )
    .await;
    check_refused(json!({ "argv": ["/etc"] }), "PROGRAM_NOT_RUNNABLE", None).await;
    let nowhere = json!({ "argv": ["ls"], "cwd": "/no/such" });
    check_refused(nowhere, "DIRECTORY_NOT_FOUND", None).await;
}

#[tokio::test]
async fn the_limits_of_an_input_hold_at_their_edges() {
    let door = terminal_door();
    let open = |input: Value| {
        let door = door.clone();
        async move { door.open(to("shell/open", &input)).await.map(drop) }
    };
    let modes = |count: usize| {
        let modes: BTreeMap<String, u32> = (0..count).map(|n| (format!("M{n}"), 1)).collect();
        json!({ "argv": ["true"], "modes": modes })
    };
    open(modes(128)).await.unwrap();
    assert!(
        open(modes(129))
            .await
            .unwrap_err()
            .is(ErrorCode::InvalidInput)
    );
    open(json!({ "argv": ["true"], "term": "x".repeat(64) }))
        .await
        .unwrap();
    let edge = json!({ "argv": ["stty", "size"], "rows": 65_535, "cols": 0 });
    let outcome = Screen::open(&door, edge).await.rest().await.unwrap();
    assert_eq!(outcome.text(), "65535 0\r\n");
}

/// A peer that may do some things.
struct Peer {
    identities: Arc<StaticIdentities>,
    identity: Identity,
    door: Dispatcher,
}

impl Peer {
    fn with(scopes: &[&str], programs: &[&str]) -> Self {
        let mut identity = Identity::empty(PeerId::parse("bob").unwrap());
        for scope in scopes {
            identity.scopes.insert(Scope::parse(scope).unwrap());
        }
        for program in programs {
            let grant = ResourceGrant::parse(ResourceKind::Command, program, &["exec"]);
            identity.resources.allow.push(grant.unwrap());
        }
        let identities = Arc::new(StaticIdentities::default());
        identities.put(Self::key(), identity.clone());
        let registry = Registry::new();
        // Its shell is `/bin/sh`.
        let exec = Exec::with_euid(ExecConfig::default(), 3_999_999_999).unwrap();
        registry.register(shell_operations(&exec)).unwrap();
        let door = Dispatcher::builder(registry).identities(identities.clone());
        Self {
            identities,
            identity,
            door: door.build(),
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut Identity)) {
        change(&mut self.identity);
        self.identities.put(Self::key(), self.identity.clone());
    }

    fn key() -> Credential {
        Credential::NodeKey([7; 32])
    }

    async fn open(&self, input: &Value) -> Result<ChannelCall, CallError> {
        let caller = Caller::resolve(&*self.identities, Self::key()).unwrap();
        let call = Call::new("shell/open", caller).unwrap().input(input);
        self.door.open(call).await
    }
}

#[tokio::test]
async fn a_shell_takes_the_right_to_the_shell_and_a_program_that_to_the_program() {
    let (shell, ls) = (json!({}), json!({ "argv": ["ls"] }));
    for (scopes, programs, may_shell, may_ls) in [
        (&["shell:open"][..], &["*"][..], true, true),
        (&["shell:*"], &["/bin/sh"], true, false),
        (&["shell:open"], &["ls"], false, true),
        (&["shell:open"], &["sh"], false, false),
        (&["shell:open"], &[], false, false),
        (&["shell:exec"], &["*"], false, false),
    ] {
        let peer = Peer::with(scopes, programs);
        for (input, may) in [(&shell, may_shell), (&ls, may_ls)] {
            let opened = peer.open(input).await;
            assert_eq!(
                opened.is_ok(),
                may,
                "{scopes:?} {programs:?} {input}: {opened:?}"
            );
            if let Err(error) = opened {
                assert!(error.is(ErrorCode::Forbidden), "{error}");
            }
        }
    }
    let error = Peer::with(&["shell:open"], &["ls"])
        .open(&shell)
        .await
        .unwrap_err();
    assert_eq!(error.details.unwrap()["grant"], "command:/bin/sh=exec");
}

#[tokio::test]
async fn a_grant_of_the_whole_operation_is_a_shell_unless_that_is_denied() {
    let mut peer = Peer::with(&[], &[]);
    peer.change(|bob| {
        bob.operations
            .insert(OperationName::parse("shell/open").unwrap());
    });
    let variable = json!({ "env": { "LD_PRELOAD": "/tmp/x.so" }, "argv": ["true"] });
    for input in [json!({}), json!({ "argv": ["ls"] }), variable] {
        peer.open(&input).await.unwrap();
    }
    peer.change(|bob| {
        let denied = ResourceGrant::parse(ResourceKind::Command, "/bin/sh", &["exec"]);
        bob.resources.deny.push(denied.unwrap());
    });
    assert!(
        peer.open(&json!({}))
            .await
            .unwrap_err()
            .is(ErrorCode::Forbidden)
    );
    peer.open(&json!({ "argv": ["ls"] })).await.unwrap();
}

#[tokio::test]
async fn variables_need_the_grant_for_env() {
    let preload = json!({ "argv": ["ls"], "env": { "LANG": "C", "LD_PRELOAD": "/tmp/x.so" } });
    let narrow = Peer::with(&["shell:open"], &["ls"]);
    let error = narrow.open(&preload).await.unwrap_err();
    assert_eq!(error.details.unwrap()["grant"], "command:env=exec");
    Peer::with(&["shell:open"], &["ls", "env"])
        .open(&preload)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_node_of_root_opens_no_terminal_until_it_is_told_as_whom() {
    let exec = Exec::with_euid(ExecConfig::default(), 0).unwrap();
    let door = door(shell_operations(&exec));
    for input in [json!({}), json!({ "argv": ["true"] })] {
        let error = door.open(to("shell/open", &input)).await.unwrap_err();
        assert!(error.is(ErrorCode::Forbidden), "{error}");
        assert!(error.message.contains("[exec] user"), "{error}");
    }
}

/// A shell with background jobs and one under `nohup`, all of which ignore what
/// asks them to end.
const FAMILY: &str = "set -m; trap '' HUP TERM INT; sleep 301 & sleep 302 & \
    nohup sleep 303 >/dev/null 2>&1 & sleep 304 | cat & \
    echo ready; while :; do sleep 0.05; done";

/// The family with one job stopped.
async fn family(door: &Dispatcher) -> (Screen, u32) {
    let mut screen = Screen::plain(door, FAMILY).await;
    let id = screen.pid();
    screen.until("ready\n").await;
    let who = |wanted: &str| {
        let mut all = session(id).into_iter();
        let found = all.find(|(_, line)| line.trim_end() == wanted);
        found.map(|(pid, _)| pid)
    };
    let wanted = ["sleep 301", "sleep 302", "sleep 303", "sleep 304", "cat"];
    let all = || wanted.iter().all(|line| who(line).is_some());
    eventually("the family is there", all).await;
    let stopped = who("sleep 302").unwrap();
    let process = rustix::process::Pid::from_raw(stopped.cast_signed()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::STOP).unwrap();
    let is_stopped = || state(stopped).is_some_and(|(state, _)| state == 'T');
    eventually("one is stopped", is_stopped).await;
    (screen, id)
}

async fn gone(id: u32, since: Instant) {
    eventually("the session is gone", || session(id).is_empty()).await;
    assert!(since.elapsed() < GONE_WITHIN, "{:?}", since.elapsed());
    eventually("its leader is reaped", || state(id).is_none()).await;
}

#[tokio::test]
async fn detaching_ends_background_and_stopped_jobs_and_what_ignores_hangups() {
    let (screen, id) = family(&terminal_door()).await;
    let since = Instant::now();
    drop(screen);
    gone(id, since).await;
}

#[tokio::test]
async fn a_right_that_is_taken_ends_the_session() {
    for take in ["scope", "shell", "peer"] {
        let mut peer = Peer::with(&["shell:open"], &["/bin/sh"]);
        let call = peer
            .open(&json!({ "modes": { "ECHO": 0, "ONLCR": 0 } }))
            .await
            .unwrap();
        let mut screen = Screen {
            call,
            seen: String::new(),
        };
        screen
            .type_in("(trap '' HUP; sleep 305) & echo re''ady\n")
            .await;
        screen.until("ready").await;
        let id = screen.pid();
        let since = Instant::now();
        match take {
            "scope" => peer.change(|bob| bob.scopes = Default::default()),
            "shell" => peer.change(|bob| bob.resources.allow.clear()),
            _ => peer.identities.remove(&Peer::key()),
        }
        let error = screen.rest().await.unwrap_err();
        assert!(
            error.is(ErrorCode::Forbidden) || error.is(ErrorCode::Unauthenticated),
            "{take}: {error}"
        );
        gone(id, since).await;
    }
}

#[tokio::test]
async fn a_session_outlives_its_leader_by_a_moment_only() {
    let script = "trap '' HUP; sleep 306 & nohup sleep 306 >/dev/null 2>&1 & echo $!; exit 4";
    let screen = Screen::plain(&terminal_door(), script).await;
    let (id, since) = (screen.pid(), Instant::now());
    let outcome = screen.rest().await.unwrap();
    assert_eq!(outcome.result["exit_code"], 4);
    assert!(session(id).is_empty(), "{:?}", session(id));
    assert!(since.elapsed() < GONE_WITHIN, "{:?}", since.elapsed());
}

#[tokio::test]
async fn somebody_who_writes_for_ever_does_not_keep_a_terminal_open() {
    let screen = Screen::plain(&terminal_door(), "trap '' HUP; yes & exit 3").await;
    let outcome = screen.rest().await.unwrap();
    assert_eq!(outcome.result["exit_code"], 3);
    assert!(outcome.stdout.starts_with(b"y\n"));
}

#[tokio::test]
async fn what_others_of_the_session_say_at_the_end_still_comes() {
    let screen = Screen::plain(
        &terminal_door(),
        "trap '' HUP; (sleep 0.05; echo late) & echo soon",
    )
    .await;
    assert_eq!(screen.rest().await.unwrap().text(), "soon\nlate\n");
}

#[tokio::test]
async fn a_daemon_with_a_session_of_its_own_is_out_of_reach_and_keeps_nothing_open() {
    let script = "setsid sh -c 'echo $$; exec sleep 307' & sleep 0.2; echo done";
    let screen = Screen::plain(&terminal_door(), script).await;
    let outcome = screen.rest().await.unwrap();
    let lines: Vec<&str> = outcome.text().lines().collect();
    assert_eq!(lines[1], "done");
    let daemon: i32 = lines[0].parse().unwrap();
    assert!(
        is_alive(daemon.unsigned_abs()),
        "out of reach, as documented"
    );
    let pid = rustix::process::Pid::from_raw(daemon).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_program_that_closes_its_terminal_goes_on() {
    let script = "exec <&- >&- 2>&-; sleep 0.2; echo back >/dev/tty; exit 6";
    let outcome = Screen::plain(&terminal_door(), script)
        .await
        .rest()
        .await
        .unwrap();
    assert_eq!(outcome.text(), "back\n");
    assert_eq!(outcome.result["exit_code"], 6);
}

#[tokio::test]
async fn a_terminal_takes_the_place_of_a_program_until_its_session_is_gone() {
    let mut config = ExecConfig::default();
    config.processes_max = 1;
    let exec = exec_with(config);
    let door = door(shell_operations(&exec));
    let (screen, id) = family(&door).await;
    let error = door
        .open(to("shell/open", &json!({ "argv": ["true"] })))
        .await;
    assert!(error.unwrap_err().is(ErrorCode::RateLimited));
    drop(screen);
    tokio::time::timeout(SOON, exec.idle()).await.unwrap();
    assert!(session(id).is_empty());
    assert_eq!(exec.running(), 0);
}

#[test]
fn a_runtime_that_goes_away_takes_its_terminals_with_it() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (screen, id) = runtime.block_on(family(&terminal_door()));
    runtime.shutdown_timeout(Duration::from_secs(5));
    let since = Instant::now();
    drop(screen);
    let waiting = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    waiting.unwrap().block_on(gone(id, since));
}

#[tokio::test]
async fn a_terminal_may_stay_open_as_long_as_the_configuration_says() {
    let mut config = ExecConfig::default();
    config.shell_timeout = Some("100ms".parse().unwrap());
    let door = door(shell_operations(&exec_with(config)));
    let screen = Screen::plain(&door, "exec sleep 300").await;
    let id = screen.pid();
    assert!(screen.rest().await.unwrap_err().is(ErrorCode::Timeout));
    eventually("the session is gone", || session(id).is_empty()).await;
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn fifty_terminals_leave_nothing_behind() {
    // In a process of its own: other tests open files too.
    const ALONE: &str = "ALKNET_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(fifty_terminals());
    }
    let test = "terminal::fifty_terminals_leave_nothing_behind";
    let ran = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
}

async fn fifty_terminals() {
    let exec = exec();
    let door = door(shell_operations(&exec));
    let mut before = None;
    let ours = std::process::id().to_string();
    for round in 0..50 {
        let screen = Screen::plain(&door, "sleep 308 & cat").await;
        match round % 3 {
            0 => drop(screen),
            1 => screen.rest_after_kill().await,
            _ => screen.rest_after_end().await,
        }
        exec.idle().await;
        // The first rounds may open what stays open.
        if round == 2 {
            before = Some(open_files());
        }
    }
    eventually("no file is left open", || Some(open_files()) <= before).await;
    let children = std::fs::read_to_string(format!("/proc/self/task/{ours}/children")).unwrap();
    assert_eq!(children, "");
    assert_eq!((exec.running(), door.in_flight()), (0, 0));
}

impl Screen {
    async fn rest_after_kill(self) {
        self.say(json!({ "signal": "KILL" })).await;
        self.rest().await.unwrap();
    }

    async fn rest_after_end(mut self) {
        self.call.channel.tx.end();
        self.rest().await.unwrap();
    }
}
