//! Help is a promise: scripts and people rely on names and flags.

use crate::program::Place;
use std::{collections::BTreeMap, fs, path::PathBuf};

/// Compares the help of every command with the files in `tests/golden/help`;
/// with `UPDATE_GOLDEN=1` it writes them instead.
#[test]
fn the_help_of_every_command_is_golden() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help");
    let pages: BTreeMap<String, String> = alknet_cli::help_pages()
        .into_iter()
        .map(|(words, help)| (format!("{}.txt", words.replace(' ', "-")), help))
        .collect();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(&dir).unwrap();
        for entry in fs::read_dir(&dir).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        for (name, help) in &pages {
            fs::write(dir.join(name), help).unwrap();
        }
    }
    let mut golden = BTreeMap::new();
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        golden.insert(name, fs::read_to_string(path).unwrap());
    }
    for (name, help) in &pages {
        assert_eq!(
            Some(help),
            golden.get(name),
            "{name}: UPDATE_GOLDEN=1 writes it"
        );
    }
    assert_eq!(
        pages.len(),
        golden.len(),
        "a file of a command that is gone"
    );
}

#[test]
fn help_is_data_and_bad_usage_is_not() {
    let place = Place::new();
    let help = place.run(&["invite", "--help"]).exits(0);
    assert!(
        help.stdout.contains("--access-for") && help.stderr.is_empty(),
        "{help:?}"
    );
    for words in [
        &["bogus"][..],
        &["call"],
        &["up", "--relay", "x y"],
        &["exec", ":", "ls"],
        &[],
    ] {
        let said = place.run(words).exits(2);
        assert!(
            said.stdout.is_empty() && !said.stderr.is_empty(),
            "{said:?}"
        );
    }
}

#[test]
fn bad_usage_is_json_when_asked_for() {
    let said = Place::new()
        .run(&["call", "--json", "a/b", "--timeout", "5"])
        .exits(2);
    let error: serde_json::Value = serde_json::from_str(&said.stderr).unwrap();
    assert_eq!(error["error"]["code"], "USAGE");
    assert!(
        error["error"]["message"]
            .as_str()
            .unwrap()
            .contains("number and a unit"),
        "{error}"
    );
}

#[test]
fn the_version_is_that_of_the_package() {
    let place = Place::new();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        place.run(&["version"]).exits(0).stdout,
        format!("alknet {version}\n")
    );
    assert_eq!(
        place.run(&["version", "--json"]).exits(0).json()["version"],
        version
    );
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let said = Place::new().run(&["completions", shell]).exits(0);
        assert!(
            said.stdout.contains("invite") && said.stdout.contains("idempotency-key"),
            "{shell}"
        );
    }
}

#[test]
fn reference_pages_do_not_depend_on_whoever_prints_them() {
    let (one, other) = (Place::new(), Place::new());
    for page in ["cli", "config"] {
        let text = one.run(&["__docs", page]).exits(0).stdout;
        assert_eq!(text, other.run(&["__docs", page]).exits(0).stdout);
        assert!(!text.contains(one.path().to_str().unwrap()));
    }
}
