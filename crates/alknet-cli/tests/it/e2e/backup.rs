//! Backups of nodes at work, and nodes from backups.

use super::harness::{Node, Pair, error_code, eventually, exec_config};
use crate::program::{Place, Said, alknet, finish};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{fs, io::Write, os::unix::fs::PermissionsExt, path::Path, process::Stdio};

const UP: [&str; 4] = ["--relay", "none", "--bind", "127.0.0.1:0"];

/// Keys whose words are known, in a place of their own.
fn initialised() -> (Place, String) {
    let place = Place::new();
    let made = place.run(&["init", "--json"]).exits(0).json();
    (place, made["words"].as_str().unwrap().to_owned())
}

/// A running node whose words are known.
fn home() -> (Node, String) {
    let (place, words) = initialised();
    (
        Node::start_in(place, "home", exec_config(), &UP, None),
        words,
    )
}

/// A pair of which `home`'s words are known.
fn pair() -> (Pair, String) {
    let (home, words) = home();
    let laptop = Node::start("laptop", exec_config());
    let pair = Pair { home, laptop };
    pair.join();
    (pair, words)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Restores into a new place.
fn restored(backup: &Path, words: &str) -> Place {
    let place = Place::new();
    let said = place.feed(&["restore", text(backup), "--words", "-"], words.as_bytes());
    said.exits(0);
    place
}

/// Names of files in a directory.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A node id that nobody else has.
fn node_id(n: usize) -> String {
    let mut secret = [7; 32];
    secret[..8].copy_from_slice(&n.to_le_bytes());
    iroh::SecretKey::from_bytes(&secret).public().to_string()
}

#[test]
fn a_backup_under_load_makes_the_same_node_elsewhere() {
    let (mut pair, words) = pair();
    let grants = ["node/info", "events/subscribe"];
    pair.home
        .cli(&[&["grant", "laptop"], &grants[..]].concat())
        .exits(0);
    let keyed = |node: &Node| {
        let key = format!("node_id={}", node_id(1_000_000));
        let words = ["call", "peers/add", "--idempotency-key", "k1", "--json"];
        node.cli(&[&words[..], &["peer=keyed", &key]].concat())
    };
    let added_once = keyed(&pair.home).exits(0).json();

    // A second process adds peers for as long as this goes on.
    let mut adding = pair.home.spawn(&["batch", "--jobs", "4", "-"]);
    let mut stdin = adding.child.stdin.take().unwrap();
    let feeding = std::thread::spawn(move || {
        for n in 0..100_000 {
            let call = json!({ "operation": "peers/add", "input": { "peer": format!("p{n}"), "node_id": node_id(n) } });
            if writeln!(stdin, "{call}").is_err() {
                break;
            }
        }
    });
    let mut acknowledged = 0;
    let mut added = |most: usize| {
        while acknowledged < most {
            let line: Value = serde_json::from_str(&adding.lines.next()).unwrap();
            assert_eq!(line["output"]["peer"], format!("p{acknowledged}"), "{line}");
            acknowledged += 1;
        }
        acknowledged
    };
    let before = added(50);
    let file = pair.home.path("home.backup");
    let report = pair
        .home
        .cli(&["backup", text(&file), "--json"])
        .exits(0)
        .json();
    // It went on all the while.
    added(before + 20);
    drop(adding);
    feeding.join().unwrap();
    let cursor = pair.home.cli(&["events", "--json"]).exits(0).stdout;
    let cursor: Value = serde_json::from_str(cursor.lines().last().unwrap()).unwrap();
    let cursor = cursor["cursor"].as_str().unwrap().to_owned();

    assert_eq!(report["node_id"], pair.home.id());
    assert_eq!(
        (&report["needs"], &report["name"]),
        (&json!("words"), &json!("home"))
    );
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let kept = fs::metadata(&file).unwrap().len();
    assert_eq!(report["bytes"], kept);
    assert!(
        names(&pair.home.data())
            .iter()
            .all(|name| !name.starts_with(".backup"))
    );

    let id = pair.home.id().to_owned();
    pair.home.kill();
    let place = restored(&file, &words);
    let again = Node::start_in(place, "home", exec_config(), &UP, None);
    assert_eq!(again.id(), id);
    // Not after a crash: that was another run, elsewhere.
    assert!(
        !again.told().contains("not stopped cleanly"),
        "{}",
        again.told()
    );
    let listed = again.cli(&["peers", "list", "--json"]).exits(0).json();
    let peers = listed["peers"].as_array().unwrap();
    let is_there = |name: &str| peers.iter().any(|peer| peer["peer"] == name);
    assert!(is_there("laptop"));
    for n in 0..before {
        assert!(is_there(&format!("p{n}")), "p{n} of {before}");
    }
    // What was done with a key before is answered, not done again.
    assert_eq!(keyed(&again).exits(0).json(), added_once);
    let audit = again.audit(&["--operation", "node/restore"]);
    assert_eq!((audit.len(), &audit[0]["resource"]), (1, &json!(id)));

    // The peer reaches it where the old one was.
    pair.laptop.connected("home");
    let info = pair
        .laptop
        .cli(&["call", "node/info", "--on", "home", "--json"])
        .exits(0)
        .json();
    assert_eq!(info["node_id"], id);

    // A cursor of the old history is told so, wherever it comes from.
    for words in [
        vec!["events", "--json", "--from", &cursor],
        vec!["events", "--json", "--follow", "--from", &cursor],
    ] {
        let said = again.cli(&words).exits(1);
        assert_eq!(error_code(&said.stderr), "GONE", "{said:?}");
    }
    let from = format!("from={cursor}");
    let words = ["call", "events/subscribe", "--on", "home", "--json", &from];
    let said = pair.laptop.cli(&words).exits(1);
    assert_eq!(error_code(&said.stderr), "GONE", "{said:?}");
}

#[test]
fn a_stopped_node_is_backed_up_too_and_nothing_is_overwritten() {
    let (mut home, words) = home();
    home.cli(&["peers", "add", "nas", "--node-id", &node_id(1)])
        .exits(0);
    home.stop();
    let file = home.path("a.backup");
    let said = home.cli(&["backup", text(&file)]).exits(0);
    assert!(
        said.stdout.contains("a restore needs: ") && said.stdout.contains("the words of this node"),
        "{said:?}"
    );
    let first = fs::read(&file).unwrap();

    let refused = home.cli(&["backup", text(&file), "--json"]).exits(1);
    assert_eq!(error_code(&refused.stderr), "EXISTS");
    assert_eq!(fs::read(&file).unwrap(), first);
    home.cli(&["backup", "--force", text(&file)]).exits(0);
    assert_ne!(fs::read(&file).unwrap(), first);

    // The same through a pipe; nothing else is left anywhere.
    let piped = home.path("b.backup");
    let mut command = home.command(&["backup", "-"]);
    command.stdout(fs::File::create(&piped).unwrap());
    assert!(command.status().unwrap().success());
    let place = Place::new();
    let backup = fs::read(&piped).unwrap();
    let phrase = place.path().join("phrase");
    fs::write(&phrase, "any\n").unwrap();
    fs::set_permissions(&phrase, fs::Permissions::from_mode(0o600)).unwrap();
    let refused = place.feed(
        &["restore", "-", "--passphrase-file", text(&phrase), "--json"],
        &backup,
    );
    assert_eq!(error_code(&refused.exits(1).stderr), "NEEDS_WORDS");
    let place = restored(&piped, &words);
    let again = Node::start_in(place, "home", exec_config(), &UP, None);
    assert_eq!(again.id(), home.id());
    assert_eq!(again.peer("nas")["node_id"], node_id(1));
    let left: Vec<String> = names(&home.path(""));
    assert!(
        left.iter().all(|name| !name.contains("partial")),
        "{left:?}"
    );
}

#[test]
fn keys_under_a_passphrase_restore_without_words() {
    let (home, words) = home();
    let phrase = home.path("phrase");
    fs::write(&phrase, "kept apart\n").unwrap();
    let file = home.path("home.backup");
    let with = |mode: u32| {
        fs::set_permissions(&phrase, fs::Permissions::from_mode(mode)).unwrap();
        home.cli(&[
            "backup",
            text(&file),
            "--passphrase-file",
            text(&phrase),
            "--json",
        ])
    };
    // Others could have read it.
    with(0o644).exits(1);
    let report = with(0o600).exits(0).json();
    assert_eq!(report["needs"], "passphrase");
    let bytes = fs::read(&file).unwrap();
    for secret in ["kept apart", &words, words.split_once(' ').unwrap().1] {
        let is_there = bytes
            .windows(secret.len())
            .any(|part| part == secret.as_bytes());
        assert!(!is_there);
    }

    let place = Place::new();
    let restore = |file: &Path| {
        place.run(&[
            "restore",
            text(file),
            "--json",
            "--passphrase-file",
            text(&phrase),
        ])
    };
    let said = place.run(&["restore", text(&file), "--json"]).exits(1);
    assert_eq!(error_code(&said.stderr), "NEEDS_PASSPHRASE");
    fs::write(&phrase, "another").unwrap();
    assert_eq!(
        error_code(&restore(&file).exits(1).stderr),
        "WRONG_PASSPHRASE"
    );
    assert!(!place.data().exists());
    fs::write(&phrase, "kept apart").unwrap();
    let made = restore(&file).exits(0).json();
    assert_eq!(made["node_id"], home.id());
    assert_eq!(made["data_dir"], text(&place.data()));
}

#[test]
fn an_administrator_elsewhere_takes_a_backup_and_nobody_else_does() {
    let (pair, words) = pair();
    let file = pair.laptop.path("home.backup");
    let take = || {
        pair.laptop
            .cli(&["backup", text(&file), "--on", "home", "--json"])
    };
    pair.home.cli(&["grant", "laptop", "operator"]).exits(0);
    assert_eq!(error_code(&take().exits(4).stderr), "FORBIDDEN");
    assert!(!file.exists());
    pair.home.cli(&["grant", "laptop", "node/backup"]).exits(0);
    let report = eventually("the grant holds", || {
        let said = take();
        said.status.success().then(|| said.json())
    });
    assert_eq!(report["node_id"], pair.home.id());
    let rows = eventually("the backup is on record", || {
        let filters = ["--operation", "node/backup", "--outcome", "ok"];
        Some(pair.home.audit(&filters)).filter(|rows| !rows.is_empty())
    });
    assert_eq!((rows.len(), &rows[0]["caller"]), (1, &json!("laptop")));
    restored(&file, &words);
}

#[test]
fn bad_input_is_told_and_leaves_nothing() {
    let (mut home, words) = home();
    let file = home.path("home.backup");
    home.cli(&["backup", text(&file)]).exits(0);
    home.stop();
    let good = fs::read(&file).unwrap();
    let place = Place::new();
    let bad = place.path().join("bad");
    let restore = |bytes: &[u8], words: &str| -> Said {
        fs::write(&bad, bytes).unwrap();
        let said = place.feed(
            &["restore", text(&bad), "--words", "-", "--json"],
            words.as_bytes(),
        );
        assert!(!place.data().exists(), "{said:?}");
        said.exits(1)
    };
    let code = |said: &Said| error_code(&said.stderr);
    assert_eq!(
        code(&restore(&good[..good.len() / 2], &words)),
        "BACKUP_DAMAGED"
    );
    let mut changed = good.clone();
    let at = good.len() - 500;
    changed[at] ^= 0x20;
    assert_eq!(code(&restore(&changed, &words)), "BACKUP_DAMAGED");
    assert_eq!(
        code(&restore(b"no backup at all\n", &words)),
        "NOT_A_BACKUP"
    );
    let database = fs::read(home.data().join("alknet.db")).unwrap();
    assert_eq!(code(&restore(&database, &words)), "NOT_A_BACKUP");
    let newer = [b"alknet-backup 2\n", &good[16..]].concat();
    let said = restore(&newer, &words);
    assert_eq!(code(&said), "BACKUP_TOO_NEW");
    assert!(said.stderr.contains("hint"), "{said:?}");
    let (_other, other_words) = initialised();
    assert_eq!(code(&restore(&good, &other_words)), "WRONG_WORDS");
    assert_eq!(code(&restore(&good, "not these words")), "WRONG_WORDS");

    // Neither over a node, nor as a file of one.
    let said = home.feed(
        &["restore", text(&file), "--words", "-", "--json"],
        words.as_bytes(),
    );
    assert_eq!(code(&said.exits(1)), "NOT_EMPTY");
    let said = place.run(&["restore", ":www/index.html", "--words", "-", "--json"]);
    assert_eq!(code(&said.exits(2)), "USAGE");
    let said = place.run(&["restore", "-", "--words", "-", "--json"]);
    assert_eq!(code(&said.exits(2)), "USAGE");
    let said = place
        .run(&["backup", text(&bad.with_file_name("new")), "--json"])
        .exits(1);
    assert!(!bad.with_file_name("new").exists(), "{said:?}");
}

/// A small file system of its own for a command, or why there is none.
fn on_a_small_disk(
    words: &[&str],
    dir: &Path,
    kilobytes: u32,
) -> Result<std::process::Command, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("mounting needs root".into());
    }
    let mut probe = std::process::Command::new("unshare");
    let probe = probe.args(["-m", "true"]).output();
    if !probe.is_ok_and(|said| said.status.success()) {
        return Err("no mount namespace can be made".into());
    }
    let plain = alknet(dir);
    let mut command = std::process::Command::new("unshare");
    let script = format!(
        "mount -t tmpfs -o size={kilobytes}k none '{0}' && \"$@\"; code=$?; ls -A '{0}' >&2; exit $code",
        dir.join("small").display()
    );
    command.args(["-m", "sh", "-c", &script, "sh"]);
    command.arg(plain.get_program()).args(words);
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    for (name, value) in plain.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Ok(command)
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let (mut home, words) = home();
    let whole = home.path("home.backup");
    home.cli(&["backup", text(&whole)]).exits(0);
    home.stop();
    let small = home.path("small");
    fs::create_dir(&small).unwrap();
    let root = home.path("");
    let file = small.join("home.backup");
    let backup = ["backup", text(&file), "--json"];
    let data = small.join("data");
    let restore = [
        "--data-dir",
        text(&data),
        "restore",
        text(&whole),
        "--words",
        "-",
        "--json",
    ];
    for (words, input) in [(&backup[..], ""), (&restore[..], words.as_str())] {
        let command = match on_a_small_disk(words, &root, 64) {
            Ok(command) => command,
            Err(reason) => return skip(&reason),
        };
        let said = finish(command, input.as_bytes()).exits(1);
        let (error, left) = said.stderr.split_once('\n').unwrap();
        assert_eq!(error_code(error), "NO_ROOM", "{said:?}");
        assert_eq!(left.trim(), "", "nothing is left: {said:?}");
    }
}

fn skip(reason: &str) {
    alknet_lab::skip("a_full_disk_is_told_and_leaves_nothing", reason);
}

#[test]
fn an_interrupted_restore_leaves_nothing() {
    let (mut home, words) = home();
    let file = home.path("home.backup");
    home.cli(&["backup", text(&file)]).exits(0);
    home.stop();
    let place = Place::new();
    let phrase = place.path().join("phrase");
    fs::write(&phrase, "kept apart").unwrap();
    fs::set_permissions(&phrase, fs::Permissions::from_mode(0o600)).unwrap();
    let sealed = home.path("sealed.backup");
    home.cli(&["backup", text(&sealed), "--passphrase-file", text(&phrase)])
        .exits(0);
    let bytes = fs::read(&sealed).unwrap();
    let mut command = alknet(place.path());
    command.args(["restore", "-", "--passphrase-file", text(&phrase)]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // It waits for the rest.
    stdin.write_all(&bytes[..bytes.len() / 2]).unwrap();
    stdin.flush().unwrap();
    eventually("it writes", || {
        place
            .data()
            .join(".restoring/alknet.db")
            .exists()
            .then_some(())
    });
    crate::program::signal(&child, Signal::INT);
    // What it waits for cannot be taken from it; the next bytes end it.
    let _ = stdin.write_all(&bytes[bytes.len() / 2..]);
    drop(stdin);
    let status = crate::program::wait(&mut child);
    assert_eq!(status.code(), Some(130));
    assert!(!place.data().exists());
    // The same with all of it, and with a kill that leaves no node either.
    let mut command = alknet(place.path());
    command.args(["restore", "-", "--passphrase-file", text(&phrase)]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&bytes[..bytes.len() / 2]).unwrap();
    eventually("it writes", || {
        place
            .data()
            .join(".restoring/alknet.db")
            .exists()
            .then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!place.data().join("vault.json").exists());
    let refused = place.feed(
        &["restore", text(&file), "--words", "-", "--json"],
        words.as_bytes(),
    );
    assert_eq!(error_code(&refused.exits(1).stderr), "NOT_EMPTY");
    fs::remove_dir_all(place.data()).unwrap();
    let said = place.feed(&["restore", text(&file), "--words", "-"], words.as_bytes());
    said.exits(0);
}

#[test]
fn a_node_with_a_passphrase_is_restored_with_it_running_or_not() {
    let place = Place::new();
    let phrase = place.path().join("phrase");
    fs::write(&phrase, "of the node\n").unwrap();
    fs::set_permissions(&phrase, fs::Permissions::from_mode(0o600)).unwrap();
    let phrase = text(&phrase).to_owned();
    place.run(&["init", "--passphrase-file", &phrase]).exits(0);
    let up = [&UP[..], &["--passphrase-file", &phrase]].concat();
    let mut home = Node::start_in(place, "home", exec_config(), &up, None);
    let running = home.path("running.backup");
    let report = home
        .cli(&["backup", text(&running), "--json"])
        .exits(0)
        .json();
    assert_eq!(report["needs"], "passphrase");
    home.stop();
    // Locked: the database tells whose it is.
    let stopped = home.path("stopped.backup");
    let report = home
        .cli(&["backup", text(&stopped), "--json"])
        .exits(0)
        .json();
    assert_eq!(report["node_id"], home.id());
    let refused = home.cli(&["backup", "-", "--passphrase-file", &phrase]);
    assert!(refused.exits(1).stderr.contains("every backup"));

    for file in [running, stopped] {
        let place = Place::new();
        let said = place.run(&["restore", text(&file), "--passphrase-file", &phrase]);
        said.exits(0);
        // Wrapped as it was: nothing here opens it by itself.
        assert!(!place.data().join("vault.key").exists());
        let again = Node::start_in(place, "home", exec_config(), &up, None);
        assert_eq!(again.id(), home.id());
    }
}
