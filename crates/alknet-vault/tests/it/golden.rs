//! Vaults of every format ever released, written by another implementation
//! (`tests/golden/make.py`), and the keys that they must yield for ever.

use std::{fs, path::Path};

use alknet_vault::{Cost, Mnemonic, Vault, Wrap, WrapKind};
use serde_json::Value;
use tempfile::TempDir;

use crate::{WORDS, hex, put, unhex};

const NODE: &str = "0fedcc15ce5cf796c2c9caf044ffe7dcf335fd09e41d68952b1c15737590c355";
const OWNER: &str = "2c6067fe2e3b385c06597f8a0dbae000fb604aaa05627462547c413dc4dcb563";
const SSH_HOST: &str = "1c9fd81bc2ffebee31a33b1f291785bacc7bc4a0f6ef60c38a3572ed7f1c69f6";
const SEALING_1: &str = "a03ba3e8dc09a8b7d763bfc5a2df0811eef5e563d3568524779de0bc95d6f3a8";

/// Copies a golden vault to where it has the modes that git does not keep.
pub(crate) fn golden(name: &str) -> TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    let copy = tempfile::tempdir().unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        put(
            &copy.path().join(file.file_name()),
            &fs::read(file.path()).unwrap(),
        );
    }
    copy
}

#[track_caller]
fn check_keys(vault: &Vault) {
    assert_eq!(hex(&vault.node_key().unwrap().public_key()), NODE);
    assert_eq!(hex(&vault.owner_key().unwrap().public_key()), OWNER);
    assert_eq!(hex(&vault.ssh_host_key().unwrap().public_key()), SSH_HOST);
    assert_eq!(hex(vault.sealing_key(1).unwrap().expose()), SEALING_1);
}

#[test]
fn format_1_with_a_key_file_yields_its_keys() {
    let vault = Vault::open(golden("v1-key-file").path()).unwrap();
    assert_eq!(vault.wrap(), WrapKind::KeyFile);
    check_keys(&vault);
}

#[test]
fn format_1_with_a_passphrase_yields_its_keys() {
    let mut vault = Vault::open(golden("v1-passphrase").path()).unwrap();
    assert_eq!(vault.wrap(), WrapKind::Passphrase);
    vault.unlock("grüne Wiese").unwrap();
    check_keys(&vault);
}

#[test]
fn the_same_words_yield_the_same_keys() {
    let data = tempfile::tempdir().unwrap();
    let words = Mnemonic::parse(WORDS).unwrap();
    check_keys(&Vault::create(data.path(), &words, "TREZOR", Wrap::KeyFile).unwrap());
}

/// Everything but the bytes that differ from vault to vault, which keep their
/// lengths.
fn shape(directory: &Path) -> String {
    let text = fs::read_to_string(directory.join("vault.json")).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    let varying = [
        &value["nonce"],
        &value["ciphertext"],
        &value["checksum"],
        &value["kdf"]["salt"],
    ];
    varying
        .iter()
        .filter_map(|value| value.as_str())
        .fold(text.clone(), |text, digits| {
            text.replace(digits, &format!("{} bytes", unhex(digits).len()))
        })
}

#[test]
fn new_vaults_look_like_the_golden_ones() {
    let words = Mnemonic::parse(WORDS).unwrap();
    let cost = Cost::new(8192, 2, 2).unwrap();
    for (name, wrap) in [
        ("v1-key-file", Wrap::KeyFile),
        ("v1-passphrase", Wrap::PassphraseAtCost("x", cost)),
    ] {
        let data = tempfile::tempdir().unwrap();
        Vault::create(data.path(), &words, "", wrap).unwrap();
        assert_eq!(shape(data.path()), shape(golden(name).path()));
    }
}
