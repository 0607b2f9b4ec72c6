//! `init`, and what is refused before a node starts.

use crate::program::{Place, Up};
use rustix::process::Signal;
use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    net::UdpSocket,
    os::unix::fs::PermissionsExt,
};

#[test]
fn words_bring_the_same_node_back() {
    let place = Place::new();
    let made = place
        .run(&["init", "--json", "--name", "home"])
        .exits(0)
        .json();
    let words = made["words"].as_str().unwrap();
    assert_eq!(words.split(' ').count(), 24);
    let other = Place::new();
    let back = other
        .feed(&["init", "--restore", "-", "--json"], words.as_bytes())
        .exits(0)
        .json();
    assert_eq!(back["node_id"], made["node_id"]);
    assert!(back.get("words").is_none(), "{back}");
    let config = fs::read_to_string(place.data().join("alknet.toml")).unwrap();
    assert_eq!(config, "name = \"home\"\n");
    let mode = fs::metadata(place.data()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o700);
}

#[test]
fn keys_are_never_replaced() {
    let place = Place::new();
    let first = place.run(&["init"]).exits(0);
    assert!(first.stdout.contains("words:"), "{first:?}");
    let vault = fs::read(place.data().join("vault.json")).unwrap();
    let again = place.run(&["init"]).exits(1);
    assert!(
        again.stderr.contains("holds a node already\nhint: "),
        "{again:?}"
    );
    assert_eq!(fs::read(place.data().join("vault.json")).unwrap(), vault);
}

#[test]
fn words_that_are_none_make_nothing() {
    let place = Place::new();
    let said = place
        .feed(&["init", "--restore", "-"], b"no such words")
        .exits(1);
    assert!(
        said.stderr
            .starts_with("error: these words cannot bring a node back: "),
        "{said:?}"
    );
    assert!(!place.data().join("vault.json").exists());
    place.run(&["init", "--restore", "words"]).exits(2);
    place.run(&["init", "--name", "Not A Name"]).exits(2);
}

#[test]
fn a_misspelt_configuration_is_named_and_makes_nothing() {
    let place = Place::new();
    place.configure("name = \"home\"\n\n[netwrok]\nport_mapping = true\n");
    let said = place.run(&["up", "--bind", "127.0.0.1:0"]).exits(1);
    assert!(
        said.stderr.contains("line 3") && said.stderr.contains("`netwrok`"),
        "{said:?}"
    );
    assert!(
        said.stderr.ends_with("hint: did you mean `network`?\n"),
        "{said:?}"
    );
    assert!(!place.data().join("vault.json").exists());
    let doctor = place.run(&["doctor", "--json"]).exits(1).json();
    assert_eq!(doctor["ok"], false);
}

#[test]
fn an_operation_that_cannot_be_configured_makes_nothing() {
    let place = Place::new();
    let operation = "[[operation]]\nname = \"x/y\"\nsummary = \"?\"\n";
    place.configure(&format!("{operation}command = [\"echo\", \"{{no}}\"]\n"));
    let said = place.run(&["up", "--bind", "127.0.0.1:0"]).exits(1);
    assert!(said.stderr.contains("`x/y`"), "{said:?}");
    assert!(!place.data().join("vault.json").exists());
}

#[test]
fn a_configuration_that_is_named_must_exist() {
    let place = Place::new();
    let said = place.run(&["up", "--config", "/no/such.toml"]).exits(1);
    assert!(said.stderr.contains("`/no/such.toml`"), "{said:?}");
    assert!(!place.data().exists());
}

#[test]
fn a_taken_port_is_named() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let said = Place::new()
        .run(&["up", "--bind", &address.to_string()])
        .exits(1);
    let port = address.port();
    assert!(
        said.stderr.contains(&format!("UDP port {port} is taken")),
        "{said:?}"
    );
    assert!(
        said.stderr.contains("\nhint: ") && said.stdout.is_empty(),
        "{said:?}"
    );
}

#[test]
fn a_data_directory_has_one_node() {
    let up = Up::start();
    let said = up.run(&["up", "--bind", "127.0.0.1:0"]).exits(1);
    assert!(said.stderr.contains("is in use by process"), "{said:?}");
    assert!(
        said.stderr.contains("hint: ") && said.stderr.contains("alknet down"),
        "{said:?}"
    );
    up.run(&["status"]).exits(0);
}

#[test]
fn keys_that_others_may_read_are_refused_with_the_command_that_mends_it() {
    let place = Place::new();
    place.run(&["init"]).exits(0);
    let key = place.data().join("owner.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let said = place.run(&["up", "--bind", "127.0.0.1:0"]).exits(1);
    let hint = format!("hint: chmod go= {}\n", key.display());
    assert!(said.stderr.ends_with(&hint), "{said:?}");
    let doctor = place.run(&["doctor"]).exits(1);
    assert!(doctor.stdout.contains("FAIL  keys"), "{doctor:?}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    Up::start_in(place).run(&["doctor"]).exits(0);
}

#[test]
fn a_newer_store_is_refused_and_left_alone() {
    let up = Up::start();
    up.signal(Signal::TERM);
    let (status, _, place) = up.ended();
    assert!(status.success());
    // `user_version` of an SQLite file is big-endian at offset 60.
    let path = place.data().join("alknet.db");
    let mut file = fs::File::options().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(60)).unwrap();
    file.write_all(&9999u32.to_be_bytes()).unwrap();
    drop(file);
    let before = fs::read(&path).unwrap();
    let said = place.run(&["up", "--bind", "127.0.0.1:0"]).exits(1);
    assert!(said.stderr.contains("has format 9999"), "{said:?}");
    assert!(said.stderr.contains("hint: "), "{said:?}");
    assert_eq!(fs::read(&path).unwrap(), before);
    let doctor = place.run(&["doctor"]).exits(1);
    assert!(doctor.stdout.contains("FAIL  database"), "{doctor:?}");
}

#[test]
fn a_damaged_store_is_found() {
    let up = Up::start();
    up.signal(Signal::TERM);
    let (_, _, place) = up.ended();
    let path = place.data().join("alknet.db");
    let mut bytes = fs::read(&path).unwrap();
    let page = 4096;
    assert!(bytes.len() > 3 * page);
    bytes[page..2 * page].fill(0xff);
    fs::write(&path, bytes).unwrap();
    let doctor = place.run(&["doctor"]).exits(1);
    assert!(doctor.stdout.contains("FAIL  database"), "{doctor:?}");
    place.run(&["up", "--bind", "127.0.0.1:0"]).exits(1);
}

#[test]
fn doctor_looks_at_an_empty_place_and_changes_nothing() {
    let place = Place::new();
    let said = place.run(&["doctor"]).exits(0);
    assert!(said.stdout.contains("warn  keys"), "{said:?}");
    assert!(!place.data().exists());
}
