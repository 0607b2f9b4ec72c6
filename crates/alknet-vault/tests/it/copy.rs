//! A vault as bytes.

use alknet_vault::{CreateVaultError, KEY_FILE, Mnemonic, VAULT_FILE, Vault, Wrap, WrapKind};
use std::{fs, os::unix::fs::PermissionsExt};

#[test]
fn a_copy_opens_elsewhere_with_its_own_passphrase_alone() {
    let here = tempfile::tempdir().unwrap();
    let words = Mnemonic::generate().unwrap();
    let vault = Vault::create(here.path(), &words, "", Wrap::KeyFile).unwrap();
    let copy = vault.wrapped("kept apart").unwrap().unwrap();
    assert_eq!(vault.wrap(), WrapKind::KeyFile);

    let there = tempfile::tempdir().unwrap();
    let file = there.path().join(VAULT_FILE);
    fs::write(&file, copy).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    // The key file of the first opens nothing of the second.
    fs::copy(here.path().join(KEY_FILE), there.path().join(KEY_FILE)).unwrap();
    let mut copied = Vault::open(there.path()).unwrap();
    assert!(!copied.is_unlocked() && copied.unlock("another").is_err());
    assert!(copied.wrapped("x").unwrap().is_none(), "it is locked");
    copied.unlock("kept apart").unwrap();
    let id = |vault: &Vault| vault.node_key().unwrap().public_key();
    assert_eq!(id(&copied), id(&vault));
}

#[test]
fn a_copy_needs_a_passphrase() {
    let here = tempfile::tempdir().unwrap();
    let words = Mnemonic::generate().unwrap();
    let vault = Vault::create(here.path(), &words, "", Wrap::KeyFile).unwrap();
    let refused = vault.wrapped("");
    assert!(matches!(refused, Err(CreateVaultError::EmptyPassphrase)));
}
