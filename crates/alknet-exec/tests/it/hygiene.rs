//! What processes inherit, as whom they run, and that they are gone after.

use crate::support::*;
use alknet_core::{CallError, ErrorCode};
use alknet_exec::{Exec, ExecConfig, shell_operations};
use serde_json::json;
use std::{collections::BTreeSet, time::Duration};

fn config(user: &str) -> ExecConfig {
    let mut config = ExecConfig::default();
    config.user = Some(user.into());
    config
}

#[tokio::test]
async fn the_environment_is_a_path_and_nothing_else() {
    let outcome = exec_argv(&shell_door(), &["env"]).await;
    assert_eq!(outcome.text(), "PATH=/usr/local/bin:/usr/bin:/bin\n");
    let input = json!({ "argv": ["env"], "env": { "A": "b c", "PATH": "/nowhere" } });
    let outcome = finish(open(&shell_door(), &input).await).await.unwrap();
    let lines: BTreeSet<&str> = outcome.text().lines().collect();
    // Found by our own path, whatever the program is told.
    assert_eq!(lines, BTreeSet::from(["A=b c", "PATH=/nowhere"]));
}

#[tokio::test]
async fn programs_are_found_in_the_configured_path_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = ExecConfig::default();
    config.path = dir.path().to_str().unwrap().into();
    let door = door(shell_operations(&exec_with(config)));
    // On the PATH of whoever runs the tests, and not on ours.
    let error = refused(&door, &json!({ "argv": ["ls"] })).await;
    assert_eq!(error.code, "PROGRAM_NOT_FOUND");
    std::os::unix::fs::symlink("/bin/echo", dir.path().join("speak")).unwrap();
    assert_eq!(exec_argv(&door, &["speak", "up"]).await.text(), "up\n");
    std::fs::write(dir.path().join("text"), "#!/bin/sh\n").unwrap();
    let error = refused(&door, &json!({ "argv": ["text"] })).await;
    assert_eq!(error.code, "PROGRAM_NOT_RUNNABLE");
}

#[tokio::test]
async fn no_descriptor_is_inherited() {
    let file = tempfile::tempfile().unwrap();
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
    let outcome = exec_argv(&shell_door(), &["sh", "-c", "echo /proc/$$/fd/*"]).await;
    let open: Vec<&str> = outcome
        .text()
        .split_whitespace()
        .filter_map(|path| path.rsplit('/').next())
        // The directory that is being listed.
        .filter(|fd| *fd != "3")
        .collect();
    assert_eq!(open, ["0", "1", "2"]);
}

#[tokio::test]
async fn signals_limits_and_umask_are_the_defaults() {
    let outcome = exec_argv(&shell_door(), &["cat", "/proc/self/status"]).await;
    // 32 and 33 are the C library's own, which no program can ignore or not.
    const RESERVED: u64 = 0b11 << 31;
    for field in ["SigIgn:", "SigBlk:"] {
        let line = outcome
            .text()
            .lines()
            .find_map(|line| line.strip_prefix(field));
        let signals = u64::from_str_radix(line.unwrap().trim(), 16).unwrap();
        assert_eq!(signals & !RESERVED, 0, "{field} {signals:x}");
    }
    let outcome = exec_argv(&shell_door(), &["sh", "-c", "umask; ulimit -c"]).await;
    assert_eq!(outcome.text(), "0022\n0\n");
}

#[test]
fn a_signal_that_the_node_ignores_is_not_ignored_by_programs() {
    // A node under `nohup`, or in the background of a script.
    let script = "trap '' HUP INT QUIT USR1; exec \"$0\" --exact \"$1\"";
    let test = "hygiene::signals_limits_and_umask_are_the_defaults";
    let this = std::env::current_exe().unwrap();
    let ran = std::process::Command::new("sh")
        .args(["-c", script])
        .arg(this)
        .arg(test)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
async fn memory_is_limited() {
    let script = "x=$(head -c 100000000 /dev/zero | tr '\\0' x); echo ${#x}";
    let outcome = exec_argv(&shell_door(), &["sh", "-c", script]).await;
    assert_eq!(outcome.text(), "100000000\n");
    let mut config = ExecConfig::default();
    config.memory_bytes_max = 64 * 1024 * 1024;
    let door = door(shell_operations(&exec_with(config)));
    let outcome = exec_argv(&door, &["sh", "-c", script]).await;
    assert_eq!(outcome.text(), "");
    assert_ne!(outcome.result["exit_code"], 0);
}

#[tokio::test]
async fn a_shell_may_take_as_long_as_the_configuration_says() {
    let mut config = ExecConfig::default();
    config.shell_timeout = Some("100ms".parse().unwrap());
    let door = door(shell_operations(&exec_with(config)));
    let call = open(&door, &json!({ "argv": ["sleep", "300"] })).await;
    let pid = pid(&call.reply);
    let error = drain(call).await.unwrap_err();
    assert!(error.is(ErrorCode::Timeout));
    eventually("the program is dead", || !is_alive(pid)).await;
}

#[tokio::test]
async fn no_new_privileges_are_gained_if_so_configured() {
    let mut config = ExecConfig::default();
    config.no_new_privileges = true;
    let door = door(shell_operations(&exec_with(config)));
    let argv = ["grep", "NoNewPrivs", "/proc/self/status"];
    assert_eq!(exec_argv(&door, &argv).await.text(), "NoNewPrivs:\t1\n");
}

fn assert_root_refusal(error: &CallError) {
    assert!(error.is(ErrorCode::Forbidden), "{error}");
    assert_eq!(
        error.message,
        "this node runs as root and starts no process until `[exec] user = \"NAME\"` is set (`\"root\"` must be written out)"
    );
}

#[tokio::test]
async fn a_node_of_root_starts_nothing_until_it_is_told_as_whom() {
    let exec = Exec::with_euid(ExecConfig::default(), 0).unwrap();
    let marker = tempfile::tempdir().unwrap();
    let file = marker.path().join("ran");
    let shell = door(shell_operations(&exec));
    let argv = json!({ "argv": ["touch", file] });
    assert_root_refusal(&refused(&shell, &argv).await);
    let text = format!(
        "[[operation]]\nname = \"test/run\"\nsummary = \"A test.\"\ncommand = [\"touch\", {file:?}]"
    );
    let command = door(commands(&text, &exec).unwrap());
    assert_root_refusal(&run(&command, &json!({})).await.unwrap_err());
    assert!(!file.exists());
}

#[tokio::test]
async fn root_that_is_written_out_is_root() {
    if !is_root("root_that_is_written_out_is_root") {
        return;
    }
    let door = door(shell_operations(&Exec::new(config("root")).unwrap()));
    assert_eq!(exec_argv(&door, &["id", "-u"]).await.text(), "0\n");
    let outcome = exec_argv(&door, &["env"]).await;
    let names: BTreeSet<&str> = outcome
        .text()
        .lines()
        .filter_map(|line| line.split('=').next())
        .collect();
    let want = ["HOME", "LOGNAME", "PATH", "SHELL", "USER"];
    assert_eq!(names, BTreeSet::from(want));
}

#[tokio::test]
async fn a_node_of_root_becomes_the_account_with_its_groups() {
    if !is_root("a_node_of_root_becomes_the_account_with_its_groups") {
        return;
    }
    // Groups of the node, which nobody must not keep. They are this thread's,
    // and of the threads that it starts.
    let groups = [0, 4, 20].map(rustix::process::Gid::from_raw);
    rustix::thread::set_thread_groups(&groups).unwrap();
    let door = door(shell_operations(&Exec::new(config("nobody")).unwrap()));
    let ours = |flag| {
        std::process::Command::new("id")
            .args([flag, "nobody"])
            .output()
    };
    for flag in ["-u", "-g", "-G"] {
        let outcome = exec_argv(&door, &["id", flag]).await;
        assert_eq!(outcome.stdout, ours(flag).unwrap().stdout, "{flag}");
        assert_ne!(outcome.text(), "0\n");
    }
    // Real, effective and saved: there is no way back.
    let outcome = exec_argv(&door, &["grep", "Uid", "/proc/self/status"]).await;
    let ids: BTreeSet<&str> = outcome.text().split_whitespace().skip(1).collect();
    assert_eq!(ids.len(), 1, "{}", outcome.text());
    let outcome = exec_argv(&door, &["sh", "-c", "echo $USER $LOGNAME"]).await;
    assert_eq!(outcome.text(), "nobody nobody\n");
}

#[tokio::test]
async fn directories_and_programs_are_entered_with_the_rights_of_the_account() {
    if !is_root("directories_and_programs_are_entered_with_the_rights_of_the_account") {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let closed = tempfile::tempdir().unwrap();
    let inner = closed.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    std::fs::set_permissions(&inner, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(closed.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let door = door(shell_operations(&Exec::new(config("nobody")).unwrap()));
    let error = refused(&door, &json!({ "argv": ["pwd"], "cwd": inner })).await;
    assert_eq!(error.code, "PROGRAM_NOT_RUNNABLE");
    let program = closed.path().join("program");
    std::fs::copy("/bin/true", &program).unwrap();
    let error = refused(&door, &json!({ "argv": [program] })).await;
    assert_eq!(error.code, "PROGRAM_NOT_RUNNABLE");
}

#[tokio::test]
async fn a_command_may_run_as_another_account_than_the_rest() {
    if !is_root("a_command_may_run_as_another_account_than_the_rest") {
        return;
    }
    let text = "[[operation]]\nname = \"test/run\"\nsummary = \"A test.\"\n\
        command = [\"id\", \"-un\"]\nuser = \"nobody\"";
    // It is said as whom, though for this command alone.
    let exec = Exec::new(ExecConfig::default()).unwrap();
    let door = door(commands(text, &exec).unwrap());
    assert_eq!(run(&door, &json!({})).await.unwrap(), "nobody\n");
}

#[test]
fn accounts_that_cannot_be_used_are_found_at_the_start() {
    let message = |error: alknet_exec::ExecConfigError| {
        use std::error::Error;
        format!("{error}: {}", error.source().unwrap())
    };
    let error = Exec::with_euid(config("no-such-account"), 0).unwrap_err();
    assert_eq!(
        message(error),
        "`[exec] user` cannot be used: no account `no-such-account` in /etc/passwd"
    );
    let error = Exec::with_euid(config("root"), 1000).unwrap_err();
    assert!(message(error).contains("only a node that runs as root can"));
}

/// A program with a child and a grandchild that ignore every kind word.
const FAMILY: &str = "trap '' INT TERM HUP; echo $$; \
    (trap '' INT TERM HUP; sh -c 'echo $$; sleep 300; sleep 300' & sh -c 'echo $$'; sleep 300; wait) & \
    sleep 300; wait";

#[tokio::test]
async fn a_call_that_is_dropped_takes_the_whole_group_with_it() {
    let door = shell_door();
    let mut call = open(&door, &json!({ "argv": ["sh", "-c", FAMILY] })).await;
    let lines = read_lines(&mut call.channel.rx, 3).await;
    let pids: Vec<u32> = lines.iter().map(|line| line.parse().unwrap()).collect();
    assert!(is_alive(pids[0]));
    assert!(group_of(pid(&call.reply)).len() >= 4, "the family is there");
    let group = pid(&call.reply);
    drop(call);
    eventually("the group is dead", || group_of(group).is_empty()).await;
}

#[tokio::test]
async fn a_mutation_that_is_dropped_takes_the_whole_group_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("group");
    let script = format!("echo $$ >{}; {FAMILY}", file.display());
    let door = run_door(&format!("command = [\"sh\", \"-c\", {script:?}]"));
    let calling = tokio::spawn(async move { run(&door, &json!({})).await });
    let read = || std::fs::read_to_string(&file).unwrap_or_default();
    eventually("it runs", || read().ends_with('\n')).await;
    let group = read().trim().parse().unwrap();
    eventually("the family is there", || group_of(group).len() >= 4).await;
    calling.abort();
    eventually("the group is dead", || group_of(group).is_empty()).await;
}

/// Live processes of a group.
fn group_of(group: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").unwrap();
    all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields = stat.rsplit_once(") ").map(|(_, fields)| fields);
            let of_group = fields.and_then(|fields| fields.split(' ').nth(2));
            of_group == Some(group.to_string().as_str()) && is_alive(*pid)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_zombie_is_left_after_200_runs() {
    let door = shell_door();
    let mut pids = Vec::new();
    for round in 0..200 {
        let ends = round % 2 == 0;
        let argv = if ends {
            ["true", "0"]
        } else {
            ["sleep", "300"]
        };
        let call = open(&door, &json!({ "argv": argv })).await;
        pids.push(pid(&call.reply));
        if ends {
            finish(call).await.unwrap();
        } else {
            drop(call);
        }
    }
    let ours = std::process::id();
    eventually("no child of ours is left", || {
        !pids
            .iter()
            .any(|pid| state(*pid).is_some_and(|(_, parent)| parent == ours))
    })
    .await;
}

#[test]
fn a_runtime_that_goes_away_takes_its_programs_with_it() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (call, pid) = runtime.block_on(async {
        let call = open(&shell_door(), &json!({ "argv": ["sleep", "300"] })).await;
        let pid = pid(&call.reply);
        (call, pid)
    });
    assert!(is_alive(pid));
    runtime.shutdown_timeout(Duration::from_secs(5));
    drop(call);
    let waiting = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    waiting
        .unwrap()
        .block_on(eventually("it is dead and reaped", || state(pid).is_none()));
}
