//! A terminal on another machine, with a person before it.

use super::{
    harness::{Node, Pair, eventually, exec_config},
    seat::{Seat, Tmux},
};
use crate::program::signal;
use rustix::process::Signal;
use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// How soon everything in a terminal is gone, as promised.
const GONE_WITHIN: Duration = Duration::from_secs(1);
/// What the client says of it.
const ENDED: &str = "the shell there was ended";
/// The shell of these tests: no file of whoever runs them is read or written.
const BASH: [&str; 4] = ["--", "bash", "--norc", "--noprofile"];

/// Programs of this test can be told from those of tests that run beside it,
/// in this process or another: they sleep for a time of its own.
fn sleep(n: u32) -> String {
    static TESTS: AtomicU32 = AtomicU32::new(0);
    thread_local! {
        static TEST: u32 = TESTS.fetch_add(1, Ordering::Relaxed);
    }
    let test = TEST.with(|test| *test);
    format!("sleep {}{test:02}{n}", std::process::id())
}

/// Processes of this machine that sleep so.
fn sleepers(n: u32) -> Vec<u32> {
    let wanted = format!("{}\0", sleep(n).replace(' ', "\0"));
    let all = fs::read_dir("/proc").unwrap();
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| is_alive(*pid))
        .filter(|pid: &u32| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline"));
            line.is_ok_and(|line| line == wanted)
        })
        .collect()
}

fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

fn pair() -> Pair {
    let pair = Pair::start(exec_config());
    pair.home.cli(&["grant", "laptop", "shell/open"]).exits(0);
    pair
}

/// The words that open a shell at `home` in a directory of the test.
fn words<'a>(home: &'a str, prompt: &'a str) -> Vec<&'a str> {
    let mut words = vec!["shell", "home", "--env", home, "--env", prompt];
    words.extend(BASH);
    words
}

/// A place for files, and the variable that makes it the home directory.
fn place() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let home = format!("HOME={}", dir.path().display());
    (dir, home)
}

const PROMPT: &str = "PS1=ready> ";

/// A shell in a terminal of ours, at its prompt.
fn seated(pair: &Pair, home: &str) -> Seat {
    let mut seat = Seat::of(&pair.laptop, &words(home, PROMPT));
    seat.until("ready> ");
    seat
}

#[test]
fn an_editor_draws_follows_the_size_and_saves() {
    let (pair, (dir, home)) = (pair(), place());
    let tmux = Tmux::of(&pair.laptop, &words(&home, PROMPT));
    tmux.until_last("ready>");
    tmux.enter("cd; clear; stty size; echo $TERM $LANG");
    tmux.until_line("24 80");
    tmux.until_line("screen-256color C.UTF-8");
    tmux.resize(100, 30);
    // It is told when tmux gets round to it.
    tmux.enter("until [ \"$(stty size)\" = '30 100' ]; do sleep 0.05; done; clear; stty size");
    tmux.until_line("30 100");
    let size = "set laststatus=2 statusline=%{&lines}x%{&columns}";
    tmux.enter(&format!("vim -u NONE -i NONE -N -c '{size}' notes"));
    tmux.until("an empty file", |screen| screen.contains("\"notes\" [New]"));
    tmux.until_line("30x100");
    tmux.type_in("ifirst line, größer");
    tmux.press(&["Enter"]);
    tmux.type_in("second");
    tmux.press(&["Escape"]);
    tmux.type_in("ggyypAend");
    tmux.press(&["Escape"]);
    tmux.until_line("first line, größerend");
    // It draws anew for another size while it runs.
    tmux.resize(60, 12);
    tmux.until("it fills the smaller screen", |screen| {
        screen.lines().nth(10).map(str::trim_end) == Some("12x60")
            && screen.lines().nth(9) == Some("~")
    });
    tmux.press(&["Escape"]);
    tmux.enter(":wq");
    tmux.until_last("ready>");
    let saved = fs::read_to_string(dir.path().join("notes")).unwrap();
    assert_eq!(saved, "first line, größer\nfirst line, größerend\nsecond\n");
    tmux.enter("exit");
    tmux.until_last("status: 0");
}

#[test]
fn keys_interrupt_stop_and_go_on_and_the_status_is_ours() {
    let (pair, (_dir, home)) = (pair(), place());
    let tmux = Tmux::of(&pair.laptop, &words(&home, PROMPT));
    tmux.until_last("ready>");
    tmux.enter(&sleep(1));
    eventually("it sleeps", || (!sleepers(1).is_empty()).then_some(()));
    tmux.press(&["C-c"]);
    eventually("it is interrupted", || sleepers(1).is_empty().then_some(()));
    tmux.enter("echo was $?");
    tmux.until_line("was 130");
    tmux.enter(&sleep(2));
    eventually("it sleeps", || (!sleepers(2).is_empty()).then_some(()));
    tmux.press(&["C-z"]);
    tmux.until("it is stopped", |screen| screen.contains("Stopped"));
    tmux.enter("clear; jobs");
    tmux.until_line(&format!("[1]+  Stopped                 {}", sleep(2)));
    tmux.enter("clear; bg; jobs");
    tmux.until_line(&format!("[1]+  Running                 {} &", sleep(2)));
    tmux.enter("clear; fg");
    tmux.until_line(&sleep(2));
    tmux.press(&["C-c"]);
    eventually("it is interrupted", || sleepers(2).is_empty().then_some(()));
    tmux.enter("clear; jobs; echo none");
    tmux.until_line("none");
    assert!(!tmux.screen().contains("sleep"), "{}", tmux.screen());
    tmux.enter("exit 7");
    tmux.until_last("status: 7");
    let tmux = Tmux::of(&pair.laptop, &words(&home, PROMPT));
    tmux.until_last("ready>");
    tmux.enter("kill -9 $$");
    tmux.until_last("status: 137");
}

/// Bytes in which no two places look alike for long; every value occurs.
fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

#[test]
fn what_is_pasted_arrives_byte_by_byte() {
    let (pair, (dir, home)) = (pair(), place());
    let file = dir.path().join("pasted");
    let path = file.to_str().unwrap();
    // Every byte there is, by a program that takes them raw.
    let pasted = pattern(100 * 1024);
    let script = format!(
        "stty raw -echo; echo ready; head -c {} >{path}",
        pasted.len()
    );
    let words = ["shell", "home", "--no-escape", "--", "bash", "-c", &script];
    let mut seat = Seat::of(&pair.laptop, &words);
    seat.until("ready\n");
    seat.keys(&pasted);
    assert_eq!(seat.ended().0, Some(0));
    assert!(fs::read(&file).unwrap() == pasted);
    // Lines, by one that leaves them to the terminal.
    let lines: String = (0..1600).map(|n| format!("{n:063}\n")).collect();
    assert_eq!(lines.len(), 100 * 1024);
    let mut seat = Seat::of(&pair.laptop, &["shell", "home", "--env", &home, "--", "wc"]);
    // A terminal drops echoes that it has no room for: they are no measure.
    seat.keys(lines + "\u{4}");
    let (code, shown) = seat.ended();
    assert_eq!(code, Some(0));
    let counts: Vec<&str> = shown.split_whitespace().rev().take(3).collect();
    assert_eq!(counts, ["102400", "1600", "1600"], "{shown}");
}

#[test]
fn large_output_ends_exact() {
    let pair = pair();
    let want: String = (1..=200_000).map(|n| format!("{n}\r\n")).collect();
    let said = pair
        .laptop
        .cli(&["shell", "home", "--", "sh", "-c", "seq 1 200000; exit 3"])
        .exits(3);
    assert!(said.stdout == want, "{} bytes", said.stdout.len());
    assert_eq!(said.stderr, "");
    // Onto a terminal, which is slower.
    let mut seat = Seat::of(&pair.laptop, &["shell", "home", "--", "seq", "1", "200000"]);
    seat.until("\r\n200000\r\n");
    assert_eq!(seat.ended(), (Some(0), String::new()));
}

#[test]
fn a_pipe_is_typed_and_ends_the_shell() {
    let (pair, (_dir, home)) = (pair(), place());
    let words = ["shell", "home", "--env", &home];
    let said = pair
        .laptop
        .feed(&words, b"echo $((6*7)) $0; stty size\nexit 5\n");
    let said = said.exits(5);
    assert!(said.stdout.contains("42 -"), "{said:?}");
    assert!(said.stdout.contains("24 80\r\n"), "{said:?}");
    // Without an end of its own it ends with its input.
    let said = pair.laptop.feed(&words, b"echo $((6*7))\n").exits(0);
    assert!(said.stdout.contains("42\r\n"), "{said:?}");
    assert_eq!(said.stderr, "");
}

#[test]
fn a_tilde_escapes_and_leaving_ends_the_shell() {
    let (pair, (_dir, home)) = (pair(), place());
    let mut seat = seated(&pair, &home);
    seat.keys("~?");
    seat.until("~.  leaves");
    seat.keys("\rprintf '%s,' ~~ ~\r");
    // One `~` for two, at the start of a line only.
    seat.keys(format!("{} &\r", sleep(3)));
    eventually("it sleeps", || (!sleepers(3).is_empty()).then_some(()));
    let since = Instant::now();
    seat.keys("~.");
    let (code, shown) = seat.ended();
    assert_eq!(code, Some(255));
    assert!(
        shown.ends_with(&format!("\nleft with `~.`; {ENDED}\r\n")),
        "{shown}"
    );
    eventually("all is gone", || {
        (pair.home.children().is_empty() && sleepers(3).is_empty()).then_some(())
    });
    assert!(since.elapsed() < GONE_WITHIN * 10, "{:?}", since.elapsed());
    // A key like any other.
    let words = ["shell", "home", "--no-escape", "--", "head", "-n", "1"];
    let mut seat = Seat::of(&pair.laptop, &words);
    seat.keys("~.\r");
    seat.until("~.\r\n~.\r\n");
    assert_eq!(seat.ended().0, Some(0));
}

/// A shell with a job in the background, a stopped one and one under `nohup`;
/// the two that run take no hint to end.
fn busy(pair: &Pair, home: &str) -> (Seat, Vec<u32>) {
    let mut seat = seated(pair, home);
    seat.keys(format!("(trap '' HUP TERM; exec {}) &\r", sleep(4)));
    seat.keys(format!("nohup {} >/dev/null 2>&1 &\r", sleep(5)));
    seat.keys(format!("{}\r", sleep(6)));
    eventually("all three sleep", || {
        (4..=6).all(|n| sleepers(n).len() == 1).then_some(())
    });
    seat.keys("\u{1a}");
    seat.until("Stopped");
    let shells = pair.home.children();
    assert_eq!(shells.len(), 1, "{shells:?}");
    let mut pids: Vec<u32> = (4..=6).flat_map(sleepers).collect();
    pids.push(shells[0].0);
    (seat, pids)
}

#[track_caller]
fn gone(pids: &[u32], since: Instant) {
    eventually("the shell and its children are gone", || {
        (!pids.iter().any(|pid| is_alive(*pid))).then_some(())
    });
    assert!(since.elapsed() < GONE_WITHIN, "{:?}", since.elapsed());
}

#[test]
fn a_shell_dies_with_its_peer_and_its_children_with_it() {
    let (pair, (_dir, home)) = (pair(), place());
    let (seat, pids) = busy(&pair, &home);
    let raw = seat.modes();
    pair.home
        .cli(&["peers", "remove", "laptop", "--yes"])
        .exits(0);
    let since = Instant::now();
    gone(&pids, since);
    let mut seat = seat;
    crate::program::wait(&mut seat.child);
    let cooked = seat.modes();
    let (code, shown) = seat.ended();
    assert_eq!(code, Some(255));
    assert!(
        shown.contains("error: ") && shown.contains(ENDED),
        "{shown}"
    );
    assert!(!is_cooked(&raw) && is_cooked(&cooked), "{cooked:?}");
    eventually("the node has reaped it", || {
        pair.home.children().is_empty().then_some(())
    });
}

/// As a new terminal is.
fn is_cooked(modes: &rustix::termios::Termios) -> bool {
    use rustix::termios::{InputModes, LocalModes, OutputModes};
    modes
        .local_modes
        .contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
        && modes.input_modes.contains(InputModes::ICRNL)
        && modes.output_modes.contains(OutputModes::OPOST)
}

#[test]
fn a_shell_dies_with_the_grant_for_it() {
    let (pair, (_dir, home)) = (pair(), place());
    let (seat, pids) = busy(&pair, &home);
    pair.home.cli(&["revoke", "laptop", "shell/open"]).exits(0);
    let since = Instant::now();
    gone(&pids, since);
    let (code, shown) = seat.ended();
    assert_eq!(code, Some(255));
    assert!(
        shown.contains("FORBIDDEN") && shown.contains(ENDED),
        "{shown}"
    );
}

#[test]
fn a_shell_dies_with_a_node_that_stops_in_order() {
    let (mut pair, (_dir, home)) = (pair(), place());
    let (seat, pids) = busy(&pair, &home);
    pair.home.cli(&["down", "--drain", "0s"]).exits(0);
    pair.home.ended();
    // The node waited for that.
    assert!(!pids.iter().any(|pid| is_alive(*pid)));
    let (code, shown) = seat.ended();
    assert_eq!(code, Some(255));
    assert!(shown.contains(ENDED), "{shown}");
}

#[test]
fn a_signal_to_the_client_ends_it_and_the_terminal_is_as_it_was() {
    let (pair, (_dir, home)) = (pair(), place());
    for (which, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::QUIT, 131)] {
        let (seat, pids) = busy(&pair, &home);
        assert!(!is_cooked(&seat.modes()));
        signal(&seat.child, which);
        let mut seat = seat;
        crate::program::wait(&mut seat.child);
        assert!(is_cooked(&seat.modes()), "{:?}", seat.modes());
        let (ended, shown) = seat.ended();
        assert_eq!(ended, Some(code));
        assert!(shown.contains(ENDED), "{shown}");
        eventually("the shell and its children are gone", || {
            (!pids.iter().any(|pid| is_alive(*pid))).then_some(())
        });
        eventually("the node has reaped it", || {
            pair.home.children().is_empty().then_some(())
        });
    }
}

/// Slow: a client that is killed cannot say anything, and its silence is
/// believed after fifteen seconds.
#[test]
fn slow_a_shell_dies_with_a_client_that_is_killed() {
    let (pair, (_dir, home)) = (pair(), place());
    let (mut seat, pids) = busy(&pair, &home);
    seat.child.kill().unwrap();
    eventually("the shell and its children are gone", || {
        (!pids.iter().any(|pid| is_alive(*pid))).then_some(())
    });
}

/// Slow: silence is believed after fifteen seconds.
#[test]
fn slow_a_node_that_is_killed_hangs_up_what_it_had_and_the_client_is_told() {
    let (mut pair, (_dir, home)) = (pair(), place());
    let (seat, pids) = busy(&pair, &home);
    let survivors: Vec<u32> = (4..=5).flat_map(sleepers).collect();
    pair.home.kill();
    // The kernel closes the terminal: the shell gets SIGHUP, and the jobs
    // that it passes it on to.
    eventually("the shell and what listens to it are gone", || {
        pids.iter()
            .all(|pid| survivors.contains(pid) || !is_alive(*pid))
            .then_some(())
    });
    // As documented: nobody is there who would kill these.
    for pid in survivors {
        assert!(is_alive(pid));
        let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }
    pair.home.restart();
    let mut seat = seat;
    crate::program::wait(&mut seat.child);
    assert!(is_cooked(&seat.modes()));
    let (code, shown) = seat.ended();
    assert_eq!(code, Some(255));
    assert!(shown.contains("LOST") && shown.contains(ENDED), "{shown}");
    // And again, as if nothing had been.
    pair.laptop.connected("home");
    let mut seat = seated(&pair, &home);
    seat.keys("exit 4\r");
    assert_eq!(seat.ended().0, Some(4));
}

fn open_files(node: &Node) -> usize {
    fs::read_dir(format!("/proc/{}/fd", node.pid()))
        .unwrap()
        .count()
}

fn threads(node: &Node) -> usize {
    fs::read_dir(format!("/proc/{}/task", node.pid()))
        .unwrap()
        .count()
}

#[test]
fn fifty_shells_leave_no_process_file_or_thread_behind() {
    let (pair, (_dir, home)) = (pair(), place());
    let script = format!("{} & echo ready; cat", sleep(7));
    let words = ["shell", "home", "--env", &home, "--", "sh", "-c", &script];
    let round = |n: usize| {
        let mut seat = Seat::of(&pair.laptop, &words);
        seat.until("ready\r\n");
        match n % 3 {
            0 => seat.keys("\u{4}"),
            1 => seat.keys("~."),
            _ => signal(&seat.child, Signal::TERM),
        }
        let want = [Some(0), Some(255), Some(143)][n % 3];
        assert_eq!(seat.ended().0, want, "round {n}");
    };
    // The first rounds may start what stays.
    (0..6).for_each(round);
    let settled = || {
        eventually("no process is left", || {
            (pair.home.children().is_empty() && sleepers(7).is_empty()).then_some(())
        });
    };
    settled();
    let count = || [&pair.home, &pair.laptop].map(open_files);
    let before = count();
    let rounds = 50;
    (0..rounds).for_each(round);
    settled();
    eventually(&format!("no more files are open than {before:?}"), || {
        let now = count();
        (now[0] <= before[0] && now[1] <= before[1]).then_some(())
    });
    // Idle threads of the runtime stay for a while, but not one for each.
    for node in [&pair.home, &pair.laptop] {
        assert!(threads(node) < rounds, "{}", threads(node));
    }
    let metrics = pair.home.cli(&["call", "node/metrics"]).exits(0).json();
    assert_eq!(metrics["handler_panics"], 0, "{metrics}");
}

#[test]
fn without_a_grant_nothing_opens_and_the_hint_says_what_is_missing() {
    let pair = Pair::start(exec_config());
    let refused = |words: &[&str]| pair.laptop.cli(words).exits(255).stderr;
    assert_eq!(
        refused(&["shell", "home"]),
        "error: FORBIDDEN: `laptop` may not call `shell/open` on `home`: missing scope `shell:open`\n\
         hint: on `home`: alknet grant laptop shell:open\n"
    );
    let shell = Path::new("/bin/sh");
    assert!(shell.exists());
    pair.home
        .cli(&["grant", "laptop", "shell:open", "command:uname=exec"])
        .exits(0);
    let said = pair.laptop.cli(&["shell", "home", "--", "uname"]).exits(0);
    assert_eq!(said.stdout.trim_end(), "Linux");
    // A program is no shell.
    let said = refused(&["shell", "home"]);
    assert!(said.contains("missing resource `command:/"), "{said}");
    let said = refused(&["shell", "home", "--", "ls"]);
    assert!(
        said.contains("missing resource `command:ls=exec`"),
        "{said}"
    );
    assert!(pair.home.children().is_empty());
}
