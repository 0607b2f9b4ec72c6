use std::{fs, os::unix::fs::MetadataExt, path::Path, thread};

use alknet_vault::{
    Cost, CostError, CreateVaultError, KEY_FILE, KeyError, Mnemonic, OpenVaultError,
    PASSPHRASE_BYTES_MAX, UnlockVaultError, VAULT_FILE, Vault, Wrap, WrapKind, slip10::Index,
};
use tempfile::TempDir;

use crate::{WORDS, chain, chmod, golden::golden, put};

/// The cheapest passphrase there is: these tests are about anything else.
fn cheap(passphrase: &str) -> Wrap<'_> {
    Wrap::PassphraseAtCost(passphrase, Cost::new(Cost::MEMORY_KIB_MIN, 1, 1).unwrap())
}

fn create(directory: &Path, wrap: Wrap<'_>) -> Result<Vault, CreateVaultError> {
    Vault::create(directory, &Mnemonic::parse(WORDS).unwrap(), "", wrap)
}

fn node_id(vault: &Vault) -> [u8; 32] {
    vault.node_key().unwrap().public_key()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_key_file_opens_its_vault() {
    let data = tempfile::tempdir().unwrap();
    let created = create(data.path(), Wrap::KeyFile).unwrap();
    let opened = Vault::open(data.path()).unwrap();
    assert!(opened.is_unlocked());
    assert_eq!(opened.wrap(), WrapKind::KeyFile);
    assert_eq!(node_id(&opened), node_id(&created));
}

#[test]
fn a_passphrase_unlocks_its_vault() {
    let data = tempfile::tempdir().unwrap();
    let created = create(data.path(), cheap("pass")).unwrap();
    assert!(created.is_unlocked());
    let mut opened = Vault::open(data.path()).unwrap();
    assert!(!opened.is_unlocked());
    assert_eq!(opened.node_key().unwrap_err(), KeyError::Locked);
    opened.unlock("pass").unwrap();
    assert_eq!(node_id(&opened), node_id(&created));
    assert_eq!(names(data.path()), [VAULT_FILE]);
}

#[test]
fn the_default_cost_is_the_documented_one() {
    let data = tempfile::tempdir().unwrap();
    create(data.path(), Wrap::Passphrase("pass")).unwrap();
    let json = fs::read_to_string(data.path().join(VAULT_FILE)).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let kdf = |field: &str| json["kdf"][field].as_u64().unwrap();
    assert_eq!(
        [kdf("memory_kib"), kdf("passes"), kdf("lanes")],
        [65536, 3, 1]
    );
    Vault::open(data.path()).unwrap().unlock("pass").unwrap();
}

#[test]
fn a_wrong_passphrase_leaves_the_vault_as_it_was() {
    let data = tempfile::tempdir().unwrap();
    create(data.path(), cheap("pass")).unwrap();
    let mut vault = Vault::open(data.path()).unwrap();
    let long = "p".repeat(PASSPHRASE_BYTES_MAX + 1);
    for wrong in ["", "Pass", "pass ", long.as_str()] {
        assert_eq!(
            vault.unlock(wrong).unwrap_err(),
            UnlockVaultError::WrongPassphrase
        );
        assert!(!vault.is_unlocked());
    }
    vault.unlock("pass").unwrap();
    assert_eq!(
        vault.unlock("Pass").unwrap_err(),
        UnlockVaultError::WrongPassphrase
    );
    assert!(vault.is_unlocked());
}

#[test]
fn locking_takes_the_keys_away_and_unlocking_brings_them_back() {
    let data = tempfile::tempdir().unwrap();
    let mut vault = create(data.path(), cheap("pass")).unwrap();
    let before = node_id(&vault);
    vault.lock();
    for refused in [
        vault.node_key(),
        vault.owner_key(),
        vault.ssh_host_key(),
        vault.sealing_key(0),
    ] {
        assert_eq!(refused.unwrap_err(), KeyError::Locked);
    }
    vault.unlock("pass").unwrap();
    assert_eq!(node_id(&vault), before);
}

#[test]
fn a_vault_with_a_key_file_has_no_passphrase() {
    let data = tempfile::tempdir().unwrap();
    let mut vault = create(data.path(), Wrap::KeyFile).unwrap();
    assert_eq!(
        vault.unlock("").unwrap_err(),
        UnlockVaultError::NoPassphrase
    );
}

#[test]
fn a_passphrase_has_one_to_its_limit_of_bytes() {
    let data = tempfile::tempdir().unwrap();
    let err = create(data.path(), cheap("")).unwrap_err();
    assert!(matches!(err, CreateVaultError::EmptyPassphrase));
    let longest = "p".repeat(PASSPHRASE_BYTES_MAX);
    let err = create(data.path(), cheap(&format!("{longest}p"))).unwrap_err();
    assert!(matches!(
        err,
        CreateVaultError::PassphraseTooLong { bytes: 1025 }
    ));
    create(data.path(), cheap(&longest)).unwrap();
    Vault::open(data.path()).unwrap().unlock(&longest).unwrap();
}

#[test]
fn a_cost_has_bounds() {
    let check = |memory, passes, lanes, want: Option<CostError>| {
        assert_eq!(Cost::new(memory, passes, lanes).err(), want);
    };
    check(Cost::MEMORY_KIB_MIN, 1, 1, None);
    check(
        Cost::MEMORY_KIB_MAX,
        Cost::PASSES_MAX,
        Cost::LANES_MAX,
        None,
    );
    for kib in [
        0,
        Cost::MEMORY_KIB_MIN - 1,
        Cost::MEMORY_KIB_MAX + 1,
        u32::MAX,
    ] {
        check(kib, 1, 1, Some(CostError::Memory { kib }));
    }
    for passes in [0, Cost::PASSES_MAX + 1] {
        check(65536, passes, 1, Some(CostError::Passes { passes }));
    }
    for lanes in [0, Cost::LANES_MAX + 1] {
        check(65536, 1, lanes, Some(CostError::Lanes { lanes }));
    }
}

#[test]
fn the_bip39_passphrase_makes_another_node() {
    let words = Mnemonic::parse(WORDS).unwrap();
    let [plain, hidden] = ["", "hidden"].map(|passphrase| {
        let data = tempfile::tempdir().unwrap();
        node_id(&Vault::create(data.path(), &words, passphrase, Wrap::KeyFile).unwrap())
    });
    assert_ne!(plain, hidden);
}

#[test]
fn every_purpose_has_its_own_key() {
    let data = tempfile::tempdir().unwrap();
    let vault = create(data.path(), Wrap::KeyFile).unwrap();
    let keys = [
        vault.node_key(),
        vault.owner_key(),
        vault.ssh_host_key(),
        vault.sealing_key(0),
        vault.sealing_key(1),
        vault.sealing_key(Index::MAX),
    ];
    let mut keys = keys.map(|key| *key.unwrap().expose()).to_vec();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 6);
}

#[test]
fn a_sealing_version_ends_where_it_would_repeat() {
    let data = tempfile::tempdir().unwrap();
    let vault = create(data.path(), Wrap::KeyFile).unwrap();
    for version in [Index::MAX + 1, u32::MAX] {
        assert!(matches!(
            vault.sealing_key(version),
            Err(KeyError::Version(_))
        ));
    }
}

#[test]
fn files_are_private_from_the_start_and_nothing_is_left_over() {
    let data = tempfile::tempdir().unwrap();
    let directory = data.path().join("a/b");
    create(&directory, Wrap::KeyFile).unwrap();
    assert_eq!(names(&directory), [VAULT_FILE, KEY_FILE]);
    for name in [VAULT_FILE, KEY_FILE] {
        assert_eq!(mode(&directory.join(name)), 0o600);
    }
    for made in [&directory, &data.path().join("a")] {
        assert_eq!(mode(made), 0o700);
    }
}

#[test]
fn a_directory_that_exists_keeps_its_mode() {
    let data = tempfile::tempdir().unwrap();
    chmod(data.path(), 0o755);
    create(data.path(), Wrap::KeyFile).unwrap();
    assert_eq!(mode(data.path()), 0o755);
}

#[test]
fn a_vault_is_never_overwritten() {
    let data = golden("v1-key-file");
    let read = |name| fs::read(data.path().join(name)).unwrap();
    let before = [read(VAULT_FILE), read(KEY_FILE)];
    for wrap in [Wrap::KeyFile, cheap("pass")] {
        let err = create(data.path(), wrap).unwrap_err();
        assert!(matches!(err, CreateVaultError::Exists { .. }), "{err}");
    }
    assert_eq!([read(VAULT_FILE), read(KEY_FILE)], before);
    assert_eq!(names(data.path()), [VAULT_FILE, KEY_FILE]);
}

#[test]
fn of_many_that_create_one_vault_exactly_one_succeeds() {
    for _ in 0..10 {
        let data = tempfile::tempdir().unwrap();
        let attempt = || {
            let words = Mnemonic::generate().unwrap();
            Vault::create(data.path(), &words, "", Wrap::KeyFile)
        };
        let created: Vec<_> = thread::scope(|scope| {
            let attempts: Vec<_> = (0..8).map(|_| scope.spawn(attempt)).collect();
            attempts
                .into_iter()
                .map(|attempt| attempt.join().unwrap())
                .collect()
        });
        let (won, lost): (Vec<_>, Vec<_>) = created.into_iter().partition(Result::is_ok);
        assert_eq!((won.len(), lost.len()), (1, 7));
        for err in lost.into_iter().map(Result::unwrap_err) {
            assert!(matches!(err, CreateVaultError::Exists { .. }), "{err}");
        }
        let winner = won.into_iter().next().unwrap().unwrap();
        assert_eq!(
            node_id(&Vault::open(data.path()).unwrap()),
            node_id(&winner)
        );
        assert_eq!(names(data.path()), [VAULT_FILE, KEY_FILE]);
    }
}

#[test]
fn an_interrupted_attempt_is_finished_by_the_next() {
    let data = golden("v1-key-file");
    fs::remove_file(data.path().join(VAULT_FILE)).unwrap();
    put(
        &data.path().join(".vault.json.0011223344556677.tmp"),
        b"{ half",
    );
    let key = fs::read(data.path().join(KEY_FILE)).unwrap();
    let vault = create(data.path(), Wrap::KeyFile).unwrap();
    assert_eq!(fs::read(data.path().join(KEY_FILE)).unwrap(), key);
    assert_eq!(node_id(&Vault::open(data.path()).unwrap()), node_id(&vault));
}

#[test]
fn a_left_over_key_that_others_may_read_wraps_nothing() {
    let data = golden("v1-key-file");
    fs::remove_file(data.path().join(VAULT_FILE)).unwrap();
    chmod(&data.path().join(KEY_FILE), 0o640);
    let err = create(data.path(), Wrap::KeyFile).unwrap_err();
    assert!(
        matches!(err, CreateVaultError::KeyFile(_)),
        "{}",
        chain(&err)
    );
    assert_eq!(names(data.path()), [KEY_FILE]);
}

#[test]
fn a_disk_that_refuses_is_named() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("file");
    put(&file, b"");
    let err = create(&file, Wrap::KeyFile).unwrap_err();
    assert!(
        matches!(&err, CreateVaultError::Io { path, .. } if *path == file),
        "{err}"
    );
}

#[track_caller]
fn exposed(data: &TempDir, name: &str, mode: u32) {
    let path = data.path().join(name);
    chmod(&path, mode);
    let err = Vault::open(data.path()).unwrap_err();
    match &err {
        OpenVaultError::Exposed {
            path: named,
            mode: found,
        } => {
            assert_eq!((named, *found), (&path, mode));
            let text = err.to_string();
            assert!(
                text.contains(name) && text.contains(&format!("{mode:04o}")),
                "{text}"
            );
        }
        _ => panic!("{mode:o}: {err}"),
    }
    chmod(&path, 0o600);
}

#[test]
fn files_that_others_may_reach_are_refused() {
    let data = golden("v1-key-file");
    for bit in [0o040, 0o020, 0o010, 0o004, 0o002, 0o001] {
        exposed(&data, VAULT_FILE, 0o600 | bit);
        exposed(&data, KEY_FILE, 0o600 | bit);
    }
    exposed(&golden("v1-passphrase"), VAULT_FILE, 0o644);
    for mode in [0o600, 0o400] {
        chmod(&data.path().join(KEY_FILE), mode);
        chmod(&data.path().join(VAULT_FILE), mode);
        Vault::open(data.path()).unwrap();
    }
}

#[test]
fn debug_tells_the_state_and_no_secret() {
    let data = golden("v1-key-file");
    let vault = Vault::open(data.path()).unwrap();
    let text = format!("{vault:?}");
    assert!(
        text.contains("KeyFile") && text.contains("unlocked: true"),
        "{text}"
    );
    let path = data.path().display().to_string();
    assert!(
        !text
            .replace(&path, "")
            .contains(|c: char| c.is_ascii_digit()),
        "{text}"
    );
    assert!(!format!("{:?}", Wrap::Passphrase("s3cret")).contains("s3cret"));
}
