//! What `alknet doctor` finds, and that nothing makes it panic.

use super::harness::{Node, exec_config};
use crate::program::{Place, Said};
use serde_json::Value;
use std::{fs, os::unix::fs::PermissionsExt};

/// The checks by their names.
#[track_caller]
fn check<'a>(doctor: &'a Value, name: &str) -> &'a Value {
    let checks = doctor["checks"].as_array().unwrap();
    let found = checks.iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no `{name}` in {doctor}"))
}

#[test]
fn doctor_tells_what_expires_what_crashed_and_how_old_the_backup_is() {
    let mut home = Node::start("home", exec_config());
    let key = |n: u8| iroh::SecretKey::from_bytes(&[n; 32]).public().to_string();
    for (name, n) in [("short", 1), ("long", 2)] {
        home.cli(&["peers", "add", name, "--node-id", &key(n)])
            .exits(0);
    }
    home.cli(&["peers", "update", "short", "--access-for", "2d"])
        .exits(0);
    home.cli(&["peers", "update", "long", "--access-for", "90d"])
        .exits(0);
    home.cli(&["invite", "-q"]).exits(0);
    let doctor = home.cli(&["doctor", "--json"]).exits(0).json();
    assert_eq!(doctor["ok"], true);
    for name in [
        "clock",
        "files",
        "keys",
        "database",
        "identity",
        "invites",
        "bans",
        "crashes",
        "disk",
        "open files",
        "service",
        "account",
    ] {
        let status = &check(&doctor, name)["status"];
        assert!(status == "ok" || name == "open files", "{doctor}");
    }
    let peers = check(&doctor, "peers");
    assert_eq!(peers["status"], "warn");
    assert_eq!(peers["message"], "2; expiring within 7 days: short");
    assert!(
        peers["hint"]
            .as_str()
            .unwrap()
            .contains("alknet peers update")
    );
    assert_eq!(check(&doctor, "invites")["message"], "1 can be used");
    assert_eq!(check(&doctor, "backup")["status"], "warn");

    let file = home.path("home.backup");
    home.cli(&["backup", file.to_str().unwrap()]).exits(0);
    home.kill();
    home.restart();
    let doctor = home.cli(&["doctor", "--deep", "--json"]).exits(0).json();
    assert_eq!(check(&doctor, "backup")["status"], "ok");
    assert_eq!(check(&doctor, "crashes")["message"], "1 in the last 7 days");
}

#[test]
fn keys_of_another_node_beside_the_database_are_told() {
    let mut home = Node::start("home", exec_config());
    home.stop();
    let other = Place::new();
    other.run(&["init"]).exits(0);
    for name in ["vault.json", "vault.key", "owner.key"] {
        fs::copy(other.data().join(name), home.data().join(name)).unwrap();
    }
    let doctor = home.cli(&["doctor", "--json"]).exits(1).json();
    let found = check(&doctor, "identity");
    assert_eq!(found["status"], "fail");
    assert!(
        found["message"].as_str().unwrap().contains(home.id()),
        "{found}"
    );
    // And no backup is taken of what belongs to two.
    let file = home.path("home.backup");
    home.cli(&["backup", file.to_str().unwrap()]).exits(1);
    assert!(!file.exists());
}

#[test]
fn whatever_lies_in_the_directory_doctor_ends_in_order() {
    let mut home = Node::start("home", exec_config());
    home.stop();
    let names = [
        "alknet.toml",
        "vault.json",
        "vault.key",
        "owner.key",
        "alknet.db",
        "alknet.db-wal",
        "port",
        "lock",
        "runtime.json",
        "backup.json",
    ];
    let look = |what: &str| {
        let said: Said = home.cli(&["doctor", "--deep", "--json"]);
        let code = said.status.code();
        assert!(code == Some(0) || code == Some(1), "{what}: {said:?}");
        assert!(!said.stderr.contains("panicked"), "{what}: {said:?}");
        assert!(said.json()["checks"].is_array(), "{what}: {said:?}");
    };
    for name in names {
        let path = home.data().join(name);
        let before = fs::read(&path).ok();
        for garbage in [&b""[..], b"\xff\xfe{]", &[b'0'; 10_000]] {
            fs::write(&path, garbage).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            look(&format!("{name}: {} bytes", garbage.len()));
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        look(&format!("{name} is a directory"));
        fs::remove_dir(&path).unwrap();
        look(&format!("{name} is missing"));
        if let Some(before) = before {
            fs::write(&path, before).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
    fs::set_permissions(
        home.data().join("owner.key"),
        fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    let doctor = home.cli(&["doctor", "--json"]).exits(1).json();
    let files = check(&doctor, "files");
    assert_eq!(files["status"], "fail");
    assert!(
        files["hint"].as_str().unwrap().starts_with("chmod go= "),
        "{files}"
    );
}

#[test]
fn what_has_gone_of_keys_and_database_is_told_and_never_made_anew_over_the_rest() {
    let mut home = Node::start("home", exec_config());
    home.stop();
    let vault = home.data().join("vault.json");
    let away = home.path("vault.away");
    fs::rename(&vault, &away).unwrap();
    let doctor = home.cli(&["doctor", "--json"]).exits(1).json();
    assert_eq!(check(&doctor, "keys")["status"], "fail");
    for command in ["up", "init"] {
        let said = home.cli(&[command]).exits(1);
        assert!(
            said.stderr.contains("a node's database and no keys"),
            "{said:?}"
        );
    }
    assert!(!vault.exists());
    fs::rename(&away, &vault).unwrap();
    for name in ["alknet.db", "alknet.db-wal", "alknet.db-shm"] {
        // Those beside it are there only after a crash.
        let _ = fs::remove_file(home.data().join(name));
    }
    let doctor = home.cli(&["doctor", "--json"]).exits(1).json();
    let found = check(&doctor, "database");
    assert_eq!(found["message"], "it is gone: a node has run here");
    let up = home.cli(&["up", "--detach", "--relay", "none"]).exits(0);
    assert!(up.stderr.contains("the database is gone"), "{up:?}");
    home.cli(&["down"]).exits(0);
}
