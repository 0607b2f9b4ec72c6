//! What the vault protects, from the outside: keys behind a passphrase, and
//! secrets that no output shows.

use super::harness::{Node, error_code, eventually, exec_config};
use crate::program::{Place, alknet};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{fs, os::unix::fs::PermissionsExt, path::Path};

const PHRASE: &str = "canary correct horse";
const TOKEN: &str = "canary-0123456789-token";
const LOOPBACK: [&str; 4] = ["--relay", "none", "--bind", "127.0.0.1:0"];

fn write(path: &Path, text: &str, mode: u32) -> String {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_node_behind_a_passphrase_starts_with_it_and_never_hangs_without() {
    let place = Place::new();
    let file = write(&place.path().join("phrase"), &format!("{PHRASE}\n"), 0o640);
    let init = ["init", "--json", "--passphrase-file", &file];
    let exposed = place.run(&init).exits(1);
    assert!(
        exposed.stderr.contains("can be read by others"),
        "{exposed:?}"
    );
    assert!(!place.data().join("vault.json").exists());
    write(Path::new(&file), &format!("{PHRASE}\n"), 0o600);
    let made = place.run(&init).exits(0).json();
    assert!(!place.data().join("vault.key").exists());
    let status = place.run(&["vault", "status", "--json"]).exits(0).json();
    assert_eq!(status, json!({ "protection": "passphrase" }));
    // Without a terminal nobody can be asked.
    place.run(&["init", "--passphrase"]).exits(2);
    let up = [&["up", "--json"], &LOOPBACK[..]].concat();
    for extra in [&[][..], &["--detach"]] {
        let said = place.run(&[&up, extra].concat()).exits(1);
        assert_eq!(error_code(&said.stderr), "PASSPHRASE_NEEDED", "{said:?}");
        assert!(said.stderr.contains("--passphrase-file FILE"), "{said:?}");
    }
    let wrong = [&up[..], &["--passphrase-file", "-"]].concat();
    let said = place.feed(&wrong, b"wrong horse").exits(1);
    assert!(said.stderr.contains("the passphrase is wrong"), "{said:?}");
    assert!(!said.stderr.contains("horse"), "{said:?}");

    place.configure(exec_config());
    let detach = [&up[..], &["--detach", "--passphrase-file", &file]].concat();
    let ready = place.run(&detach).exits(0).json();
    assert_eq!(ready["node_id"], made["node_id"]);
    for what in ["cmdline", "environ"] {
        let shown = fs::read(format!("/proc/{}/{what}", ready["pid"])).unwrap();
        let shown = String::from_utf8_lossy(&shown).into_owned();
        assert!(!shown.contains("horse"), "{shown}");
    }
    place.run(&["vault", "lock"]).exits(0);
    let unlock = ["vault", "unlock", "--json", "--passphrase-file", "-"];
    let said = place.feed(&unlock, b"wrong horse\n").exits(1);
    assert_eq!(error_code(&said.stderr), "WRONG_PASSPHRASE");
    let told = place.feed(&unlock, PHRASE.as_bytes()).exits(0).json();
    assert_eq!(told["locked"], false);

    // Changed while it runs; a key file afterwards.
    let passwd = ["vault", "passwd", "--json", "--passphrase-file", "-"];
    let missing = place.feed(&passwd, PHRASE.as_bytes()).exits(2);
    assert!(missing.stderr.contains("--no-passphrase"), "{missing:?}");
    let to_file = [&passwd[..], &["--no-passphrase"]].concat();
    place.feed(&to_file, b"wrong horse").exits(1);
    let told = place.feed(&to_file, PHRASE.as_bytes()).exits(0).json();
    assert_eq!(told, json!({ "protection": "key-file" }));
    place.run(&["down"]).exits(0);
    let again = place
        .run(&[&up[..], &["--detach"]].concat())
        .exits(0)
        .json();
    assert_eq!(again["node_id"], made["node_id"]);
    place.run(&["down"]).exits(0);
}

#[test]
fn a_credential_comes_from_anywhere_but_the_command_line() {
    let node = Node::start("home", exec_config());
    let put = |source: &[&str], input: &[u8]| {
        let words = ["credentials", "put", "github", "ada", "--json"];
        node.feed(&[&words, source].concat(), input)
    };
    let file = write(&node.path("token"), &format!("{TOKEN}\n"), 0o644);
    let first = put(&["-"], TOKEN.as_bytes()).exits(0).json();
    for (source, input) in [(vec![], TOKEN), (vec![format!("@{file}")], "")] {
        let source: Vec<&str> = source.iter().map(String::as_str).collect();
        let stored = put(&source, input.as_bytes()).exits(0).json();
        assert_eq!(stored["created_at"], first["created_at"]);
    }
    for source in [TOKEN, "--canary-0123456789"] {
        let said = put(&[source], b"").exits(2);
        assert!(!said.stderr.contains("canary"), "{said:?}");
    }
    put(&["-"], b"").exits(1);
    put(&["-"], &[b'x'; 100_000]).exits(1);
    let list = node.cli(&["credentials", "list", "--json"]).exits(0).json();
    let one = list["credentials"][0].as_object().unwrap();
    let fields: Vec<&String> = one.keys().collect();
    let want = [
        "account",
        "created_at",
        "key_version",
        "provider",
        "updated_at",
        "used_by",
    ];
    assert_eq!(fields, want);
    let table = node.cli(&["credentials", "list"]).exits(0).stdout;
    assert!(table.contains("github    ada      now  1"), "{table}");
    let rotated = node.cli(&["vault", "rotate", "--json"]).exits(0).json();
    assert_eq!(
        rotated,
        json!({ "key_version": 2, "resealed": 2, "left": 0 })
    );
    let remove = ["credentials", "remove", "github", "ada", "--yes", "--json"];
    node.cli(&remove).exits(0);
    let said = node.cli(&remove).exits(1);
    assert_eq!(error_code(&said.stderr), "NOT_FOUND");
}

/// At the most talkative level there is: the node's own log, its standard error,
/// the command's, what it lists, and every file.
#[test]
fn no_output_shows_a_credential_or_a_passphrase() {
    let words = [&["-vvv"], &LOOPBACK[..]].concat();
    let mut node = Node::start_with("home", exec_config(), &words, None);
    let file = write(&node.path("phrase"), PHRASE, 0o600);
    node.cli(&["vault", "passwd", "--new-passphrase-file", &file])
        .exits(0);
    let mut shown = String::new();
    let mut run = |words: &[&str], input: &str| {
        let said = node.feed(words, input.as_bytes());
        shown.push_str(&said.stdout);
        shown.push_str(&said.stderr);
    };
    run(&["-vvv", "credentials", "put", "github", "ada", "-"], TOKEN);
    run(&["-vvv", "vault", "lock"], "");
    run(
        &["-vvv", "vault", "unlock", "--passphrase-file", "-"],
        "canary wrong",
    );
    run(
        &["-vvv", "vault", "unlock", "--passphrase-file", "-"],
        PHRASE,
    );
    let by_hand = json!({ "provider": "GITHUB", "account": "ada", "secret": TOKEN });
    run(
        &["-vvv", "call", "credentials/put", "-"],
        &by_hand.to_string(),
    );
    run(&["credentials", "list", "--json"], "");
    run(&["vault", "status", "--json"], "");
    run(&["ops", "describe", "credentials/put"], "");
    run(&["logs", "--json", "-n", "2000"], "");
    run(&["audit", "--json", "-n", "1000"], "");
    assert!(shown.contains("credentials/put"), "{shown}");
    shown.push_str(&node.told());
    node.stop();
    shown.push_str(&node.told());
    assert!(!shown.contains("canary"), "{shown}");
    for file in fs::read_dir(node.data()).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            // The inbox: nothing was put there.
            assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let found = bytes.windows(6).any(|window| window == b"canary");
        assert!(!found, "{}", path.display());
    }
}

#[test]
fn a_node_gets_new_words_and_another_id_when_it_is_stopped() {
    let mut node = Node::start("home", exec_config());
    let old = node.id().to_owned();
    node.feed(
        &["credentials", "put", "github", "ada", "-"],
        TOKEN.as_bytes(),
    )
    .exits(0);
    let nas = Place::new().run(&["init", "--json"]).exits(0).json();
    let nas = nas["node_id"].as_str().unwrap();
    node.cli(&["peers", "add", "nas", "--node-id", nas])
        .exits(0);
    let running = node.cli(&["vault", "replace", "--yes"]).exits(1);
    assert!(running.stderr.contains("hint: alknet down"), "{running:?}");
    node.stop();
    node.cli(&["vault", "replace"]).exits(2);
    let said = node.cli(&["vault", "replace", "--yes", "--json"]).exits(0);
    let told = said.json();
    let new = told["node_id"].as_str().unwrap();
    assert_eq!(told["old_node_id"], old);
    assert_eq!(told["words"].as_str().unwrap().split(' ').count(), 24);
    let hint = format!("alknet peers rotate NAME --node-id {new}");
    assert!(said.stderr.contains(&hint), "{said:?}");
    node.restart();
    assert_eq!(node.id(), new);
    node.peer("nas");
    let list = node.cli(&["credentials", "list", "--json"]).exits(0).json();
    assert_eq!(list["credentials"][0]["provider"], "github");
    // Nobody reads the words: nothing is replaced.
    node.stop();
    let mut unread = node.command(&["vault", "replace", "--yes"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    unread.stdout(writer).stderr(std::process::Stdio::null());
    crate::program::wait(&mut unread.spawn().unwrap());
    assert!(!node.data().join("vault.next.json").exists());
    node.restart();
    assert_eq!(node.id(), new);
}

/// A crash of the command at any moment leaves a node that starts, as the old
/// one or as the new one.
#[test]
fn a_replacement_that_is_killed_leaves_the_old_node_or_the_new_one() {
    let mut node = Node::start("home", exec_config());
    node.feed(
        &["credentials", "put", "github", "ada", "-"],
        TOKEN.as_bytes(),
    )
    .exits(0);
    for wait in [0, 2, 5, 10, 20, 40] {
        let old = node.id().to_owned();
        node.stop();
        let mut replacing = node.spawn(&["vault", "replace", "--yes", "--json"]);
        let told: Value = serde_json::from_str(&replacing.lines.next()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(wait));
        // It may have ended.
        let _ = replacing.child.kill();
        replacing.child.wait().unwrap();
        node.restart();
        let now = node.id();
        assert!(now == old || told["node_id"] == now, "{old}, {told}, {now}");
        let status = node.cli(&["vault", "rotate", "--json"]).exits(0).json();
        assert_eq!(status["left"], 0, "cut after {wait} ms");
    }
}

/// `--debuggable` is what it takes to be looked into; it is off by default.
#[test]
fn a_node_that_aborts_leaves_no_memory_behind() {
    let place = Place::new();
    place.configure(exec_config());
    let mut command = alknet("/".as_ref());
    command.env("ALKNET_DATA_DIR", place.data());
    command.env("HOME", place.path());
    command.current_dir(place.path());
    command.args(["up", "--json"]).args(LOOPBACK);
    let mut child = command.spawn().unwrap();
    eventually("the node is ready", || {
        place.data().join("runtime.json").exists().then_some(())
    });
    crate::program::signal(&child, Signal::ABORT);
    let status = crate::program::wait(&mut child);
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(status.signal(), Some(6));
    assert!(!status.core_dumped(), "{status:?}");
}
