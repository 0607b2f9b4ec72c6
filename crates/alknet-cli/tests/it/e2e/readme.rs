//! What the README tells people to type, typed.

use super::{
    document::{self, Document},
    guides::checks_configuration,
    harness::{Node, exec_config},
};
use crate::program::{Place, Said, wait};
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

/// The blocks of shell commands below a heading, in order.
fn blocks(heading: &str) -> Vec<String> {
    Document::open("README.md").section(heading).shell()
}

/// Commands of a block: without comments, and what the comment says comes out.
fn commands(block: &str) -> Vec<(String, Option<String>)> {
    let lines = block.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| {
            let (command, comment) = line.split_once(" # ").unwrap_or((line, ""));
            let output = comment.trim().strip_prefix("=> ").map(str::to_owned);
            (command.trim().to_owned(), output)
        })
        .collect()
}

/// Types a line after others.
fn sh(dir: &Path, environment: &str, line: &str) -> Said {
    document::sh(dir, &format!("{environment}\n{line}"))
}

#[test]
fn what_it_says_to_try_works_as_written() {
    let [start, rest] = <[String; 2]>::try_from(blocks("Try it")).unwrap();
    assert_eq!(start.trim(), "./run --demo");
    // Where `./run` keeps its data, below a directory of the test.
    let clone = Place::new();
    let data = clone.path().join("target/run/data");
    fs::create_dir_all(data.parent().unwrap()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_alknet"));
    command.args([
        "up",
        "--demo",
        "--json",
        "--relay",
        "none",
        "--bind",
        "127.0.0.1:0",
    ]);
    command
        .env_clear()
        .env("HOME", clone.path())
        .env("ALKNET_DATA_DIR", &data);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = crate::program::Lines::of(child.stdout.take().unwrap());
    lines.next();
    let (environment, _) = commands(&rest)[0].clone();
    assert!(environment.starts_with("export "), "{environment}");
    let mut ran = 0;
    for (line, output) in commands(&rest).into_iter().skip(1) {
        let said = sh(clone.path(), &environment, &line).exits(0);
        assert!(!said.stdout.is_empty(), "{line}");
        if let Some(output) = output {
            assert_eq!(said.stdout.trim_end(), output, "{line}");
        }
        match line.as_str() {
            line if line.contains("demo/count") => assert_eq!(said.stdout, "1\n2\n3\n"),
            line if line.contains("demo/echo") => assert_eq!(said.stdout, "hello\n"),
            line if line.contains("ops search") => {
                assert!(said.stdout.contains("demo/count"), "{said:?}")
            }
            line if line.contains("audit") => {
                assert!(said.stdout.contains("demo/greet"), "{said:?}")
            }
            _ => {}
        }
        ran += 1;
    }
    assert!(ran >= 8, "{ran} commands");
    child.kill().unwrap();
    wait(&mut child);
}

/// The laptop of the README, whose node goes on in the background.
struct Laptop(Place);

impl Laptop {
    fn sh(&self, line: &str) -> Said {
        let environment = format!("export ALKNET_DATA_DIR='{}'", self.0.data().display());
        sh(self.0.path(), &environment, line)
    }
}

impl Drop for Laptop {
    fn drop(&mut self) {
        self.sh("alknet down --drain 0s");
    }
}

#[test]
fn two_machines_work_as_written() {
    let [give_files, use_files] = <[String; 2]>::try_from(blocks("Files")).unwrap();
    let [invite, join, give, use_it] = <[String; 4]>::try_from(blocks("Two machines")).unwrap();
    let config = format!(
        "{}[[operation]]\nname = \"deploy/restart\"\nsummary = \"Restarts one service.\"\n\
         command = [\"echo\", \"restarted\", \"{{service}}\"]\ninput = {{ service = {{ enum = [\"web\", \"worker\"] }} }}\n\
         scopes = [\"deploy:write\"]\n",
        exec_config()
    );
    let home = Node::start("home", &config);
    let at_home = |line: &str| {
        let environment = format!("export ALKNET_DATA_DIR='{}'", home.data().display());
        sh(home.data().parent().unwrap(), &environment, line)
    };
    let laptop = Laptop(Place::new());
    // As written, but for the network: these two are one machine.
    laptop
        .0
        .configure("name = \"laptop\"\n[network]\nbind = \"127.0.0.1:0\"\nrelays = []\n");
    let said = at_home(invite.trim()).exits(0);
    let ticket = said.stdout.trim_end().to_owned();
    for (line, _) in commands(&join) {
        let line = line.replace("alkinvite1...", &ticket);
        let said = laptop.sh(&line).exits(0);
        if line.contains("join") {
            assert_eq!(
                said.stdout,
                "home may here: nothing; you may on home: node/info\n"
            );
        }
    }
    let given = commands(&give);
    let (taking, giving): (Vec<_>, Vec<_>) =
        given.iter().partition(|(line, _)| line.contains("revoke"));
    for (line, _) in giving {
        at_home(line).exits(0);
    }
    let files = tempfile::tempdir().unwrap();
    fs::write(laptop.0.path().join("carried"), "over").unwrap();
    for (line, _) in commands(&use_it) {
        let line = line.replace("/srv", files.path().to_str().unwrap());
        let said = laptop.sh(&line).exits(0);
        match line.as_str() {
            line if line.contains("deploy/restart") && line.contains("call") => {
                assert_eq!(said.stdout, "restarted web\n")
            }
            line if line.contains("uname") => assert!(said.stdout.starts_with("Linux"), "{said:?}"),
            line if line.contains("alknet ops") => {
                assert!(said.stdout.contains("deploy/restart"), "{said:?}")
            }
            _ => {}
        }
    }
    assert_eq!(
        fs::read_to_string(files.path().join("carried")).unwrap(),
        "over"
    );
    for (line, _) in taking {
        at_home(line).exits(0);
    }
    laptop.sh("alknet exec home -- uname").exits(255);
    assert_eq!(
        at_home("alknet grants laptop").exits(0).stdout,
        "node/info\ndeploy/restart\n"
    );
    for (line, _) in commands(&give_files) {
        at_home(&line).exits(0);
    }
    let notes = laptop.0.path().join("notes");
    fs::create_dir(&notes).unwrap();
    fs::write(notes.join("list.txt"), "milk\n").unwrap();
    for (line, output) in commands(&use_files) {
        let said = laptop.sh(&line).exits(0);
        if let Some(output) = output {
            assert_eq!(said.stdout.trim_end(), output, "{line}");
        }
    }
    let copied = laptop.0.path().join("copy/list.txt");
    assert_eq!(fs::read_to_string(copied).unwrap(), "milk\n");
}

#[test]
fn an_operation_without_code_can_be_configured_as_written() {
    let section = Document::open("README.md").section("Your own operations, without code");
    let blocks = section.blocks();
    let [block] = blocks.as_slice() else {
        panic!("{blocks:?}");
    };
    checks_configuration(block);
    // Whoever is not root and names an account has a node that does not start.
    let names_account = |line: &str| line.starts_with("[exec]") || line.starts_with("user");
    assert!(!block.text.lines().any(names_account), "{}", block.text);
}
