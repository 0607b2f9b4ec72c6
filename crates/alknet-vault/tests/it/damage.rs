//! Whatever the files hold: an error that says what, and never a panic.

use std::{fs, path::Path};

use alknet_vault::{Cost, CostError, Damage, KEY_FILE, OpenVaultError, VAULT_FILE, Vault};
use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

use crate::{chain, golden::golden, put};

fn vault_json(name: &str) -> String {
    fs::read_to_string(golden(name).path().join(VAULT_FILE)).unwrap()
}

/// Opens a golden vault whose `vault.json` was replaced.
fn open_with(name: &str, bytes: &[u8]) -> Result<Vault, OpenVaultError> {
    let data = golden(name);
    put(&data.path().join(VAULT_FILE), bytes);
    Vault::open(data.path())
}

#[track_caller]
fn damaged(name: &str, bytes: &[u8]) -> Damage {
    match open_with(name, bytes).unwrap_err() {
        OpenVaultError::Damaged { path, source } => {
            assert!(path.ends_with(VAULT_FILE), "{path:?}");
            source
        }
        err => panic!("{}", chain(&err)),
    }
}

/// Opens a golden vault after one edit of its JSON.
#[track_caller]
fn edited(name: &str, edit: impl FnOnce(&mut Value)) -> Damage {
    let mut json: Value = serde_json::from_str(&vault_json(name)).unwrap();
    edit(&mut json);
    damaged(name, json.to_string().as_bytes())
}

#[test]
fn what_is_not_the_json_of_a_vault_is_damaged() {
    let whole = vault_json("v1-key-file");
    let deep = "[".repeat(10_000);
    let twice = whole.replacen('{', "{ \"format\": 1,", 1);
    let table: &[&[u8]] = &[
        b"",
        b"\n",
        b"null",
        b"[]",
        b"[1]",
        b"{}",
        b"\"format\"",
        b"\0\0\0\0",
        b"\xff\xfe{}",
        b"{\"format\":",
        b"{\"format\":1}",
        b"{\"format\":-1}",
        b"{\"format\":1.5}",
        b"{\"format\":\"1\"}",
        b"{\"format\":null}",
        b"{\"format\":1e400}",
        b"{\"format\":99999999999999999999999}",
        deep.as_bytes(),
        twice.as_bytes(),
        &whole.as_bytes()[..whole.len() - 3],
        &whole.as_bytes()[1..],
    ];
    for bytes in table {
        let damage = damaged("v1-key-file", bytes);
        assert!(
            matches!(damage, Damage::Json(_)),
            "{:?}: {damage:?}",
            bytes.get(..40)
        );
    }
}

#[test]
fn every_field_is_needed_and_no_other_is_known() {
    let whole: Value = serde_json::from_str(&vault_json("v1-passphrase")).unwrap();
    for field in whole.as_object().unwrap().keys() {
        edited("v1-passphrase", |json| {
            drop(json.as_object_mut().unwrap().remove(field))
        });
        for value in [
            json!(null),
            json!(true),
            json!([]),
            json!({}),
            json!(-1),
            json!("x"),
        ] {
            edited("v1-passphrase", |json| json[field] = value);
        }
    }
    for field in whole["kdf"].as_object().unwrap().keys() {
        edited("v1-passphrase", |json| {
            drop(json["kdf"].as_object_mut().unwrap().remove(field))
        });
        for value in [
            json!(null),
            json!(-1),
            json!(1u64 << 32),
            json!(1.5),
            json!("x"),
        ] {
            edited("v1-passphrase", |json| json["kdf"][field] = value);
        }
    }
    for parent in ["", "/kdf"] {
        let damage = edited("v1-passphrase", |json| {
            json.pointer_mut(parent).unwrap()["comment"] = json!("mine");
        });
        assert!(matches!(damage, Damage::Json(_)), "{damage:?}");
    }
}

#[test]
fn impossible_values_are_named() {
    let field = |damage, want| match damage {
        Damage::Field { field } => assert_eq!(field, want),
        damage => panic!("{damage:?}"),
    };
    field(
        edited("v1-key-file", |json| json["format"] = json!(0)),
        "format",
    );
    field(
        edited("v1-key-file", |json| json["cipher"] = json!("rot13")),
        "cipher",
    );
    field(
        edited("v1-key-file", |json| json["wrap"] = json!("passphrase")),
        "kdf",
    );
    field(
        edited("v1-passphrase", |json| json["wrap"] = json!("key-file")),
        "kdf",
    );
    field(
        edited("v1-passphrase", |json| json["kdf"]["name"] = json!("md5")),
        "kdf",
    );
}

#[test]
fn a_file_cannot_ask_for_any_cost() {
    let ask = |field: &str, value: u32| match edited("v1-passphrase", |json| {
        json["kdf"][field] = json!(value);
    }) {
        Damage::Cost(err) => Some(err),
        // Within bounds, but not what was written.
        Damage::Checksum => None,
        damage => panic!("{damage:?}"),
    };
    for kib in [
        0,
        Cost::MEMORY_KIB_MIN - 1,
        Cost::MEMORY_KIB_MAX + 1,
        100 << 20,
        u32::MAX,
    ] {
        assert_eq!(ask("memory_kib", kib), Some(CostError::Memory { kib }));
    }
    assert_eq!(ask("memory_kib", Cost::MEMORY_KIB_MAX), None);
    for passes in [0, Cost::PASSES_MAX + 1, u32::MAX] {
        assert_eq!(ask("passes", passes), Some(CostError::Passes { passes }));
    }
    assert_eq!(ask("passes", Cost::PASSES_MAX), None);
    for lanes in [0, Cost::LANES_MAX + 1, u32::MAX] {
        assert_eq!(ask("lanes", lanes), Some(CostError::Lanes { lanes }));
    }
    assert_eq!(ask("lanes", Cost::LANES_MAX), None);
}

#[test]
fn changed_bytes_are_damage_and_not_a_wrong_passphrase() {
    for field in ["nonce", "ciphertext", "checksum"] {
        let damage = edited("v1-passphrase", |json| {
            let digits = json[field].as_str().unwrap();
            let first = if digits.starts_with('0') { "1" } else { "0" };
            json[field] = json!(format!("{first}{}", &digits[1..]));
        });
        assert!(matches!(damage, Damage::Checksum), "{field}: {damage:?}");
    }
}

#[test]
fn a_newer_format_is_refused_whatever_else_it_says() {
    for (json, want) in [
        ("{\"format\":2}".into(), 2),
        (
            "{\"format\":18446744073709551615,\"new\":[]}".into(),
            u64::MAX,
        ),
        (
            vault_json("v1-key-file").replace("\"format\": 1", "\"format\": 2"),
            2,
        ),
    ] {
        let err = open_with("v1-key-file", json.as_bytes()).unwrap_err();
        assert!(
            matches!(err, OpenVaultError::TooNew { found, known: 1, .. } if found == want),
            "{err}"
        );
    }
}

#[test]
fn an_endless_file_is_not_read_to_its_end() {
    let limit = 16 * 1024;
    let whole = vault_json("v1-key-file");
    let padded = format!("{whole}{}", " ".repeat(limit - whole.len()));
    open_with("v1-key-file", padded.as_bytes()).unwrap();
    let damage = damaged("v1-key-file", format!("{padded} ").as_bytes());
    assert!(
        matches!(damage, Damage::TooLong { bytes_max } if bytes_max == limit),
        "{damage:?}"
    );
}

#[test]
fn missing_files_are_told_apart() {
    let data = golden("v1-key-file");
    fs::remove_file(data.path().join(KEY_FILE)).unwrap();
    let err = Vault::open(data.path()).unwrap_err();
    assert!(matches!(&err, OpenVaultError::KeyFileMissing { path } if path.ends_with(KEY_FILE)));
    fs::remove_file(data.path().join(VAULT_FILE)).unwrap();
    let err = Vault::open(data.path()).unwrap_err();
    assert!(matches!(&err, OpenVaultError::Missing { path } if path.ends_with(VAULT_FILE)));
    let err = Vault::open(&data.path().join("nowhere")).unwrap_err();
    assert!(matches!(err, OpenVaultError::Missing { .. }));
}

fn open_with_key(bytes: &[u8]) -> Result<Vault, OpenVaultError> {
    let data = golden("v1-key-file");
    put(&data.path().join(KEY_FILE), bytes);
    Vault::open(data.path())
}

fn key_text() -> String {
    fs::read_to_string(golden("v1-key-file").path().join(KEY_FILE)).unwrap()
}

#[test]
fn a_key_file_survives_editors_and_case() {
    let key = key_text();
    for text in [
        key.trim().into(),
        key.replace('\n', "\r\n"),
        key.to_uppercase(),
    ] {
        open_with_key(text.as_bytes()).unwrap();
    }
}

#[test]
fn a_damaged_key_file_is_told_from_a_foreign_one() {
    let key = key_text();
    let table = [
        String::new(),
        "\n".into(),
        key[..62].into(),
        key[..63].into(),
        format!("00{key}"),
        key.replace(&key[..1], "g"),
        key.replace(&key[..2], "ä"),
        "0".repeat(1_000_000),
    ];
    for text in table {
        let err = open_with_key(text.as_bytes()).unwrap_err();
        match &err {
            OpenVaultError::Damaged {
                path,
                source: Damage::Key | Damage::TooLong { .. },
            } => {
                assert!(path.ends_with(KEY_FILE));
            }
            err => panic!("{}", chain(err)),
        }
        assert!(!chain(&err).contains(&key[4..60]), "{}", chain(&err));
    }
    let err = open_with_key("0".repeat(64).as_bytes()).unwrap_err();
    assert!(matches!(&err, OpenVaultError::WrongKeyFile { path } if path.ends_with(KEY_FILE)));
}

#[test]
fn what_is_not_a_file_is_refused_at_once() {
    for name in [VAULT_FILE, KEY_FILE] {
        let data = golden("v1-key-file");
        let path = data.path().join(name);
        let replace: [&dyn Fn(&Path); 2] = [
            &|path| fs::create_dir(path).unwrap(),
            // Opening this one the usual way would wait for a writer for ever.
            &|path| mknodat(CWD, path, FileType::Fifo, Mode::from(0o600), 0).unwrap(),
        ];
        for put in replace {
            fs::remove_file(&path)
                .or_else(|_| fs::remove_dir(&path))
                .unwrap();
            put(&path);
            let err = Vault::open(data.path()).unwrap_err();
            assert!(matches!(err, OpenVaultError::Io { .. }), "{}", chain(&err));
        }
    }
}

#[test]
fn every_refusal_is_a_clear_sentence() {
    let tell = |result: Result<Vault, OpenVaultError>| {
        let text = chain(&result.unwrap_err());
        let start = text.find('`').unwrap();
        let end = start + 1 + text[start + 1..].find('`').unwrap();
        let name = text[start + 1..end].rsplit('/').next().unwrap();
        format!("{}`{name}{}", &text[..start], &text[end..])
    };
    let changed = vault_json("v1-key-file").replace("\"nonce\": \"d1", "\"nonce\": \"d2");
    let text = [
        tell(Vault::open(Path::new("/nonexistent"))),
        tell(open_with("v1-key-file", b"{\"format\":2}")),
        tell(open_with("v1-key-file", b"{")),
        tell(open_with("v1-key-file", changed.as_bytes())),
        tell(open_with_key(b"0")),
        tell(open_with_key("0".repeat(64).as_bytes())),
    ];
    assert_eq!(
        text.join("\n"),
        "\
there is no vault `vault.json`
vault `vault.json` has format 2, newest known is 1
file `vault.json` is damaged: it is not the JSON of a vault: EOF while parsing an object at line 1 column 1
file `vault.json` is damaged: its checksum does not match
file `vault.key` is damaged: it does not hold 64 hexadecimal digits
key file `vault.key` does not belong to the vault beside it"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_refused(bytes: Vec<u8>) {
        prop_assert!(open_with("v1-key-file", &bytes).is_err());
        prop_assert!(open_with_key(&bytes).is_err());
    }

    /// A changed file is refused, unless the change says the same (white space).
    #[test]
    fn any_change_is_refused_or_harmless(
        passphrase: bool,
        key_file: bool,
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0usize..4, any::<Vec<u8>>()), 1..4),
    ) {
        let name = if passphrase { "v1-passphrase" } else { "v1-key-file" };
        let file = if key_file && !passphrase { KEY_FILE } else { VAULT_FILE };
        let data = golden(name);
        let mut bytes = fs::read(data.path().join(file)).unwrap();
        for (at, cut, insert) in cuts {
            let at = at.index(bytes.len() + 1);
            let end = bytes.len().min(at + cut);
            bytes.splice(at..end, insert.into_iter().take(3));
        }
        put(&data.path().join(file), &bytes);
        if let Ok(vault) = Vault::open(data.path()) {
            prop_assert_eq!(vault.is_unlocked(), !passphrase);
            let text = String::from_utf8(bytes).unwrap();
            if file == VAULT_FILE {
                let [got, want]: [Value; 2] =
                    [text, vault_json(name)].map(|text| serde_json::from_str(&text).unwrap());
                prop_assert_eq!(got, want);
            } else {
                prop_assert_eq!(text.trim().to_lowercase(), key_text().trim().to_string());
            }
        }
    }

    /// The same for a single changed bit, which no random cut ever hits twice.
    #[test]
    fn any_flipped_bit_is_refused_or_harmless(at: prop::sample::Index, bit in 0u32..8) {
        let mut bytes = vault_json("v1-key-file").into_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if open_with("v1-key-file", &bytes).is_ok() {
            let [got, want]: [Value; 2] = [
                serde_json::from_slice(&bytes).unwrap(),
                serde_json::from_str(&vault_json("v1-key-file")).unwrap(),
            ];
            prop_assert_eq!(got, want);
        }
    }
}
