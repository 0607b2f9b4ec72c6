//! What two machines do for each other: commands on real input, programs,
//! files that grow.

use super::harness::{Node, Pair, eventually, exec_config, toml};
use std::{fs, io::Write, path::Path, process::Command};

/// A small repository with commits `one` to `twelve`.
fn repository(at: &Path) -> Vec<String> {
    let git = |words: &[&str]| {
        let mut command = Command::new("git");
        command.current_dir(at).args(words);
        for (name, value) in [
            ("NAME", "Ada"),
            ("EMAIL", "ada@example.org"),
            ("DATE", "2026-01-31T12:00:00Z"),
        ] {
            command
                .env(format!("GIT_AUTHOR_{name}"), value)
                .env(format!("GIT_COMMITTER_{name}"), value);
        }
        command
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null");
        let said = command.output().unwrap();
        assert!(said.status.success(), "{said:?}");
        String::from_utf8(said.stdout).unwrap()
    };
    fs::create_dir_all(at).unwrap();
    git(&["init", "--quiet"]);
    for n in 1..=12 {
        fs::write(at.join("file"), n.to_string()).unwrap();
        git(&["add", "file"]);
        git(&["commit", "--quiet", "-m", &format!("change {n}: größer")]);
    }
    git(&["log", "--format=%H %s"])
        .lines()
        .map(str::to_owned)
        .collect()
}

/// Operations on files below a directory.
fn config(at: &Path) -> String {
    let (repo, made, log) = (
        toml(&at.join("repo")),
        toml(&at.join("made")),
        toml(&at.join("app.log")),
    );
    format!(
        r#"{}
[[operation]]
name = "repo/log"
summary = "Commits, newest first."
output = "lines"
command = ["git", "-C", {repo}, "log", "--format=%H %s", "--max-count={{count}}"]
input = {{ count = {{ type = "integer", default = 100 }} }}

[[operation]]
name = "deploy/restart"
summary = "Restarts one service."
kind = "mutation"
command = ["mkdir", "--", "{{service}}"]
cwd = {made}
input = {{ service = {{ enum = ["web", "worker"] }} }}
scopes = ["deploy:write"]

[[operation]]
name = "app/log"
summary = "Follows the log."
output = "lines"
command = ["tail", "-n", "+1", "-F", {log}]
"#,
        exec_config()
    )
}

/// Two nodes with files of their own.
fn working() -> (Pair, tempfile::TempDir) {
    let files = tempfile::tempdir().unwrap();
    let start = |name: &str| {
        let at = files.path().join(name);
        fs::create_dir_all(at.join("made")).unwrap();
        Node::start(name, &config(&at))
    };
    let pair = Pair {
        home: start("home"),
        laptop: start("laptop"),
    };
    pair.join();
    (pair, files)
}

#[test]
fn a_command_turns_a_real_repository_into_items() {
    let (pair, files) = working();
    pair.grant(&["repo/log"]);
    for (caller, called) in pair.ways() {
        let on = called.name.as_str();
        let commits = repository(&files.path().join(on).join("repo"));
        assert_eq!(commits.len(), 12);
        let said = caller.cli(&["call", "repo/log", "--on", on]).exits(0);
        assert_eq!(said.stdout.lines().collect::<Vec<_>>(), commits);
        let some = caller
            .cli(&["call", "repo/log", "count=3", "--on", on, "--json"])
            .exits(0);
        let items: Vec<String> = some
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(items, commits[..3]);
    }
}

#[test]
fn a_mutation_takes_the_values_of_its_enum_and_no_other() {
    let (pair, files) = working();
    pair.grant(&["deploy/restart"]);
    for (caller, called) in pair.ways() {
        let on = called.name.as_str();
        let made = files.path().join(on).join("made");
        let names = || {
            let mut names: Vec<_> = fs::read_dir(&made)
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            names.sort();
            names
        };
        caller
            .cli(&["call", "deploy/restart", "service=web", "--on", on])
            .exits(0);
        assert_eq!(names(), ["web"]);
        let said = caller
            .cli(&["call", "deploy/restart", "service=wub", "--on", on])
            .exits(1);
        assert_eq!(
            said.stderr,
            format!(
                "error: invalid input: `/service`: the value is not one of \"web\" or \"worker\"\n\
                 hint: alknet ops describe deploy/restart --on {on}\n"
            )
        );
        let page = caller
            .cli(&["ops", "describe", "deploy/restart", "--on", on])
            .exits(0)
            .stdout;
        assert!(page.contains("web") && page.contains("worker"), "{page}");
        // It went wrong there, and says how: the directory exists.
        let said = caller
            .cli(&["call", "deploy/restart", "service=web", "--on", on])
            .exits(1);
        assert!(
            said.stderr
                .starts_with("error: COMMAND_FAILED: `deploy/restart` exited with code 1: "),
            "{said:?}"
        );
        assert_eq!(names(), ["web"]);
    }
}

#[test]
fn a_subscription_follows_a_growing_file_through_its_rotation() {
    let (pair, files) = working();
    pair.grant(&["app/log"]);
    for (caller, called) in pair.ways() {
        let on = called.name.as_str();
        let log = files.path().join(on).join("app.log");
        let append = |text: &str| {
            let mut file = fs::File::options()
                .create(true)
                .append(true)
                .open(&log)
                .unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        append("first\n");
        let following = caller.spawn(&["call", "app/log", "--on", on]);
        assert_eq!(following.lines.next(), "first");
        for n in 0..20 {
            // Half a line is none yet.
            append(&format!("{n} "));
            append("größer\n");
            assert_eq!(following.lines.next(), format!("{n} größer"));
        }
        fs::rename(&log, log.with_extension("1")).unwrap();
        append("second\n");
        assert_eq!(following.lines.next(), "second");
        let tail = format!("tail -n +1 -F {}", log.display());
        assert!(called.runs(&tail), "{:?}", called.children());
        following.interrupt();
        following.ended().exits(130);
        eventually("the remote `tail` is gone", || {
            (!called.runs(&tail)).then_some(())
        });
    }
}

#[test]
fn a_program_has_three_streams_and_a_status() {
    let (pair, _files) = working();
    pair.grant(&["operator"]);
    for (caller, called) in pair.ways() {
        let exec = |script: &str, input: &[u8]| {
            caller.feed(&["exec", &called.name, "--", "sh", "-c", script], input)
        };
        let said = exec("tr a-z A-Z; echo err >&2; exit 7", b"through and back").exits(7);
        assert_eq!(
            (said.stdout.as_str(), said.stderr.as_str()),
            ("THROUGH AND BACK", "err\n")
        );
        exec("kill -9 $$", b"").exits(137);
        exec("exec cat >/dev/null", &vec![b'x'; 3_000_000]).exits(0);
        let said = exec(
            "i=0; while [ $i -lt 2000 ]; do echo $i; echo $i >&2; i=$((i+1)); done",
            b"",
        )
        .exits(0);
        let want: String = (0..2000).map(|n| format!("{n}\n")).collect();
        assert!(said.stdout == want && said.stderr == want);
        // A program that does not read is no reason to wait.
        exec("exit 3", &vec![b'x'; 3_000_000]).exits(3);
    }
}

#[test]
fn ctrl_c_reaches_the_program_there() {
    let (pair, _files) = working();
    pair.grant(&["operator"]);
    for (caller, called) in pair.ways() {
        let on = called.name.as_str();
        let script = "trap 'echo caught; trap - INT; kill -INT $$' INT; echo ready; while :; do sleep 0.02; done";
        let running = caller.spawn(&["exec", on, "--", "sh", "-c", script]);
        assert_eq!(running.lines.next(), "ready");
        running.interrupt();
        assert_eq!(running.lines.next(), "caught");
        running.ended().exits(130);
        let running = caller.spawn(&["exec", on, "--", "sh", "-c", "echo ready; exec sleep 300"]);
        assert_eq!(running.lines.next(), "ready");
        running.interrupt();
        running.ended().exits(130);
        eventually("nothing is left", || {
            called.children().is_empty().then_some(())
        });
    }
}
