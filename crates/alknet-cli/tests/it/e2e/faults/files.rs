//! Power that is lost while keys are wrapped anew or replaced, and while a
//! backup is written or restored: what is found is as before or as after, and as after once
//! the command has ended.

use super::{
    ledger::in_memory,
    power::can_trace,
    random,
    writers::{Owner, node_key},
};
use crate::{
    e2e::harness::{Node, eventually},
    program::{Place, alknet, program},
};
use alknet_testkit::power::{self, Disk, Trace, Unsynced};
use serde_json::{Value, json};
use std::{
    collections::HashSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// A node that was stopped, with a peer and a secret.
fn stopped() -> Node {
    let mut node = Node::start("home", "");
    let owner = Owner::of(&node);
    let peer = json!({ "peer": "ada", "node_id": node_key("ada") });
    owner.call("peers/add", peer).unwrap();
    let secret = json!({ "provider": "faults", "account": "ada", "secret": "s" });
    owner.call("credentials/put", secret).unwrap();
    node.stop();
    node
}

/// What a directory may hold at any moment of a command.
struct Moments {
    /// Without repetition, in the order of time.
    states: Vec<tempfile::TempDir>,
    /// Once it has ended, with everything lost that was not synced.
    end: tempfile::TempDir,
    /// What it printed.
    said: String,
}

/// Runs a command under strace, and lays out what `root` holds after a loss of
/// power at each of its steps.
fn moments_of(node: &Node, words: &[&str], root: &Path) -> Moments {
    let root = root.canonicalize().unwrap();
    let mut disk = Disk::new(super::seed());
    disk.put_all(&root).unwrap();
    let out = node.path("command.trace");
    let plain = node.command(words);
    let mut traced = power::command(&out, &[], program().as_os_str());
    traced.args(plain.get_args()).env_clear();
    traced.env("PATH", "/usr/local/bin:/usr/bin:/bin");
    for (name, value) in plain.get_envs() {
        traced.env(name, value.unwrap_or_default());
    }
    let said = traced.output().unwrap();
    let told = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{words:?}: {told}");
    let text = fs::read_to_string(&out).unwrap();
    let trace = Trace::read(&text, &root, &PathBuf::from("/no/marks")).unwrap();
    assert!(trace.steps().len() > 3, "{text}");
    let mut random = random("files");
    let (mut states, mut known) = (Vec::new(), HashSet::new());
    let mut keep = |disk: &Disk, unsynced| {
        let dir = in_memory();
        disk.lay_out(unsynced, dir.path()).unwrap();
        if known.insert(fingerprint(dir.path())) {
            states.push(dir);
        }
    };
    for step in trace.steps() {
        disk.play(step);
        keep(&disk, Unsynced::Lost);
        keep(&disk, Unsynced::Part(random.number()));
    }
    let end = in_memory();
    disk.lay_out(Unsynced::Lost, end.path()).unwrap();
    Moments {
        states,
        end,
        said: String::from_utf8(said.stdout).unwrap(),
    }
}

/// The files of a directory and those below it.
fn files_in(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.append(&mut files_in(&path)),
            false => files.push(path),
        }
    }
    files.sort();
    files
}

/// The same for the same files.
fn fingerprint(dir: &Path) -> blake3::Hash {
    let mut hash = blake3::Hasher::new();
    for file in files_in(dir) {
        let name = file.strip_prefix(dir).unwrap().to_string_lossy();
        hash.update(blake3::hash(name.as_bytes()).as_bytes());
        hash.update(blake3::hash(&fs::read(&file).unwrap()).as_bytes());
    }
    hash.finalize()
}

/// A place whose data directory holds what is left.
fn place_of(state: &Path) -> Place {
    let place = Place::new();
    for file in files_in(state) {
        let to = place.data().join(file.strip_prefix(state).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, to).unwrap();
    }
    fs::create_dir_all(place.data()).unwrap();
    fs::set_permissions(place.data(), fs::Permissions::from_mode(0o700)).unwrap();
    place
}

/// Starts a node on what is left, with the passphrase if it asks for one; its
/// id, and whether it was asked for. Everything in it must be as it was.
#[track_caller]
fn revived(state: &Path, passphrase: &Path) -> (String, bool) {
    let place = place_of(state);
    let status = place.run(&["vault", "status", "--json"]).exits(0).json();
    let asked = status["protection"] == "passphrase";
    let file = passphrase.to_str().unwrap();
    let mut words = vec!["--relay", "none", "--bind", "127.0.0.1:0"];
    if asked {
        words.extend(["--passphrase-file", file]);
    }
    let mut node = Node::start_in(place, "home", "", &words, None);
    let owner = Owner::of(&node);
    owner.call("peers/show", json!({ "peer": "ada" })).unwrap();
    let rotated = owner.call("vault/rotate", json!({})).unwrap();
    assert_eq!(rotated["left"], 0, "{rotated}");
    assert!(rotated["resealed"].as_u64() >= Some(1), "{rotated}");
    let id = node.id().to_owned();
    node.stop();
    (id, asked)
}

fn passphrase(node: &Node) -> PathBuf {
    let file = node.path("passphrase");
    fs::write(&file, "correct horse battery staple\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file
}

/// Some of them, the same for the same seed; all in `./test full`.
fn some<T>(all: &[T]) -> Vec<&T> {
    let most = super::rounds(8, u64::MAX).min(all.len() as u64) as usize;
    let mut random = random("some");
    let mut left: Vec<&T> = all.iter().collect();
    (0..most)
        .map(|_| left.swap_remove(random.below(left.len() as u64) as usize))
        .collect()
}

#[test]
fn slow_a_vault_wrapped_anew_opens_as_before_or_after_a_loss_of_power() {
    if !can_trace("slow_a_vault_wrapped_anew_opens") {
        return;
    }
    let node = stopped();
    let file = passphrase(&node);
    let words = [
        "vault",
        "passwd",
        "--new-passphrase-file",
        file.to_str().unwrap(),
    ];
    let moments = moments_of(&node, &words, &node.data());
    for state in some(&moments.states) {
        let (id, _) = revived(state.path(), &file);
        assert_eq!(id, node.id());
    }
    assert_eq!(
        revived(moments.end.path(), &file),
        (node.id().to_owned(), true)
    );
}

#[test]
fn slow_a_vault_that_is_replaced_is_the_old_or_the_new_one_after_a_loss_of_power() {
    if !can_trace("slow_a_vault_that_is_replaced") {
        return;
    }
    let node = stopped();
    let file = passphrase(&node);
    let words = ["vault", "replace", "--yes", "--json"];
    let moments = moments_of(&node, &words, &node.data());
    let said: Value = serde_json::from_str(&moments.said).unwrap();
    let new = said["node_id"].as_str().unwrap();
    assert_ne!(new, node.id());
    for state in some(&moments.states) {
        let (id, _) = revived(state.path(), &file);
        assert!(id == node.id() || id == new, "{id}");
    }
    assert_eq!(revived(moments.end.path(), &file).0, new);
}

#[test]
fn slow_a_backup_is_whole_or_not_there_after_a_loss_of_power() {
    if !can_trace("slow_a_backup_is_whole_or_not_there") {
        return;
    }
    let node = stopped();
    let backups = node.path("backups");
    fs::create_dir(&backups).unwrap();
    let file = backups.join("home.backup");
    let moments = moments_of(&node, &["backup", file.to_str().unwrap()], &backups);
    let whole = fs::read(&file).unwrap();
    for state in &moments.states {
        if let Ok(found) = fs::read(state.path().join("home.backup")) {
            assert!(found == whole, "{} of {} bytes", found.len(), whole.len());
        }
    }
    assert!(fs::read(moments.end.path().join("home.backup")).unwrap() == whole);
}

/// Whether a node starts on what is left.
fn starts(state: &Path) -> bool {
    let place = place_of(state);
    let mut command = alknet(place.path());
    command.args(["up", "--json", "--relay", "none", "--bind", "127.0.0.1:0"]);
    let mut starting = command.spawn().unwrap();
    let ready = place.data().join("runtime.json");
    let started = eventually("it is ready or has ended", || {
        match starting.try_wait().unwrap() {
            Some(status) => Some(status.success()),
            None => ready.exists().then_some(true),
        }
    });
    // It may have ended.
    let _ = starting.kill();
    let _ = starting.wait();
    started
}

/// Before its last step it is no node at all, and not another one either.
#[test]
fn slow_a_restore_is_whole_or_no_node_after_a_loss_of_power() {
    if !can_trace("slow_a_restore_is_whole_or_no_node") {
        return;
    }
    let node = stopped();
    let (file, secret) = (node.path("home.backup"), passphrase(&node));
    let (file, secret_file) = (file.to_str().unwrap(), secret.to_str().unwrap());
    let backup = ["backup", file, "--passphrase-file", secret_file];
    node.cli(&backup).exits(0);
    let restored = node.path("restored");
    fs::create_dir(&restored).unwrap();
    fs::set_permissions(&restored, fs::Permissions::from_mode(0o700)).unwrap();
    let to = restored.to_str().unwrap();
    let words = [
        "restore",
        file,
        "--passphrase-file",
        secret_file,
        "--data-dir",
        to,
    ];
    let moments = moments_of(&node, &words, &restored);
    let mut refused = 0;
    for state in some(&moments.states) {
        let left = files_in(state.path());
        // As if nobody had begun.
        if left.iter().all(|file| file.ends_with("lock")) {
            continue;
        }
        match starts(state.path()) {
            true => {
                assert!(state.path().join("vault.json").exists(), "{left:?}");
                assert_eq!(revived(state.path(), &secret).0, node.id());
            }
            false => refused += 1,
        }
    }
    assert!(refused > 0, "it was never found half done");
    assert_eq!(revived(moments.end.path(), &secret).0, node.id());
}
