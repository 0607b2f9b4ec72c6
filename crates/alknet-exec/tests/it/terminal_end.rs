//! `shell/open`: how terminals end, and that nothing of them is left.

use crate::{support::*, terminal_access::Peer, terminal_support::*};
use alknet_core::{Dispatcher, ErrorCode};
use alknet_exec::{ExecConfig, shell_operations};
use serde_json::json;
use std::time::{Duration, Instant};

/// How soon the processes of a terminal are gone, as promised.
const GONE_WITHIN: Duration = Duration::from_secs(1);

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
    let (screen, id) = family(&shell_door()).await;
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
    let screen = Screen::plain(&shell_door(), script).await;
    let (id, since) = (screen.pid(), Instant::now());
    let outcome = screen.rest().await.unwrap();
    assert_eq!(outcome.result["exit_code"], 4);
    assert!(session(id).is_empty(), "{:?}", session(id));
    assert!(since.elapsed() < GONE_WITHIN, "{:?}", since.elapsed());
}

#[tokio::test]
async fn somebody_who_writes_for_ever_does_not_keep_a_terminal_open() {
    let screen = Screen::plain(&shell_door(), "trap '' HUP; yes & exit 3").await;
    let outcome = screen.rest().await.unwrap();
    assert_eq!(outcome.result["exit_code"], 3);
    assert!(outcome.stdout.starts_with(b"y\n"));
}

#[tokio::test]
async fn what_others_of_the_session_say_at_the_end_still_comes() {
    let screen = Screen::plain(
        &shell_door(),
        "trap '' HUP; (sleep 0.05; echo late) & echo soon",
    )
    .await;
    assert_eq!(screen.rest().await.unwrap().text(), "soon\nlate\n");
}

#[tokio::test]
async fn a_daemon_with_a_session_of_its_own_is_out_of_reach_and_keeps_nothing_open() {
    let script = "setsid sh -c 'echo $$; exec sleep 307' & sleep 0.2; echo done";
    let screen = Screen::plain(&shell_door(), script).await;
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
    let outcome = Screen::plain(&shell_door(), script)
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
    let (screen, id) = runtime.block_on(family(&shell_door()));
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
    let test = "terminal_end::fifty_terminals_leave_nothing_behind";
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
