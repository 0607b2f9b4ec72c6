//! Changes of what wraps a vault, and of the vault itself.

use std::{fs, io, path::Path};

use alknet_vault::{
    ChangeVaultError, Cost, KEY_FILE, Mnemonic, NEXT_FILE, Pending, UnlockVaultError, VAULT_FILE,
    Vault, Wrap, WrapKind,
};

use crate::{WORDS, put};

fn cost() -> Cost {
    Cost::new(Cost::MEMORY_KIB_MIN, 1, 1).unwrap()
}

/// How a vault is wrapped in a test.
#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    KeyFile,
    Pass(&'static str),
}

impl How {
    fn wrap(self) -> Wrap<'static> {
        match self {
            How::KeyFile => Wrap::KeyFile,
            How::Pass(text) => Wrap::PassphraseAtCost(text, cost()),
        }
    }
}

fn create(directory: &Path, how: How) -> [u8; 32] {
    let words = Mnemonic::parse(WORDS).unwrap();
    let vault = Vault::create(directory, &words, "", how.wrap()).unwrap();
    vault.node_key().unwrap().public_key()
}

/// Opens it in this way, and says which node it is; `None` if it does not open.
fn opens(directory: &Path, how: How) -> Option<[u8; 32]> {
    let mut vault = Vault::open(directory).ok()?;
    match (how, vault.wrap()) {
        (How::KeyFile, WrapKind::KeyFile) => {}
        (How::Pass(text), WrapKind::Passphrase) => vault.unlock(text).ok()?,
        _ => return None,
    }
    Some(vault.node_key().unwrap().public_key())
}

fn open(directory: &Path, how: How) -> Vault {
    let mut vault = Vault::open(directory).unwrap();
    if let How::Pass(text) = how {
        vault.unlock(text).unwrap();
    }
    vault
}

const CHANGES: [(How, How); 3] = [
    (How::KeyFile, How::Pass("one")),
    (How::Pass("one"), How::Pass("two")),
    (How::Pass("one"), How::KeyFile),
];

#[test]
fn a_vault_opens_in_the_new_way_alone() {
    for (old, new) in CHANGES {
        let data = tempfile::tempdir().unwrap();
        let node = create(data.path(), old);
        let mut vault = open(data.path(), old);
        vault.rewrap(new.wrap()).unwrap();
        assert_eq!(vault.node_key().unwrap().public_key(), node);
        assert_eq!(opens(data.path(), new), Some(node), "{old:?} -> {new:?}");
        assert_eq!(opens(data.path(), old), None, "{old:?} -> {new:?}");
        let mut names: Vec<_> = fs::read_dir(data.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        match new {
            How::KeyFile => assert_eq!(names, [VAULT_FILE, KEY_FILE]),
            How::Pass(_) => assert_eq!(names, [VAULT_FILE]),
        }
        // Once more, from the vault as it is held.
        vault.rewrap(How::Pass("three").wrap()).unwrap();
        assert_eq!(opens(data.path(), How::Pass("three")), Some(node));
    }
}

#[test]
fn a_change_that_is_cut_anywhere_leaves_the_old_vault_or_the_new_one() {
    for (old, new) in CHANGES {
        let mut saw = [false, false];
        for last in 0.. {
            let data = tempfile::tempdir().unwrap();
            let node = create(data.path(), old);
            let mut vault = open(data.path(), old);
            let mut step = 0;
            let done = vault.rewrap_in_steps(new.wrap(), &mut |name| {
                step += 1;
                match step > last {
                    true => Err(io::Error::other(name.to_owned())),
                    false => Ok(()),
                }
            });
            let found = [opens(data.path(), old), opens(data.path(), new)];
            let which = found.iter().position(|found| *found == Some(node));
            let which = which.unwrap_or_else(|| panic!("{old:?} -> {new:?}, cut after {last}"));
            saw[which] = true;
            if done.is_ok() {
                assert_eq!(which, 1);
                assert!(last >= 3, "{old:?} -> {new:?} has {last} steps");
                break;
            }
            // What was left behind is no obstacle, and is gone afterwards.
            let current = if which == 0 { old } else { new };
            let mut vault = open(data.path(), current);
            vault.rewrap(How::Pass("after").wrap()).unwrap();
            assert_eq!(opens(data.path(), How::Pass("after")), Some(node));
            let names = fs::read_dir(data.path()).unwrap();
            let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            assert_eq!(names.collect::<Vec<_>>(), [VAULT_FILE], "cut after {last}");
        }
        assert_eq!(saw, [true, true], "{old:?} -> {new:?}");
    }
}

#[test]
fn a_locked_vault_is_not_changed() {
    let data = tempfile::tempdir().unwrap();
    let node = create(data.path(), How::Pass("one"));
    let mut vault = Vault::open(data.path()).unwrap();
    assert_eq!(
        vault.unlock("two").unwrap_err(),
        UnlockVaultError::WrongPassphrase
    );
    let refused = vault.rewrap(How::Pass("two").wrap()).unwrap_err();
    assert!(matches!(refused, ChangeVaultError::Locked), "{refused:?}");
    assert_eq!(opens(data.path(), How::Pass("one")), Some(node));
}

#[test]
fn a_key_file_is_not_replaced_by_another() {
    let data = tempfile::tempdir().unwrap();
    let node = create(data.path(), How::KeyFile);
    let mut vault = Vault::open(data.path()).unwrap();
    let refused = vault.rewrap(Wrap::KeyFile).unwrap_err();
    assert!(
        matches!(refused, ChangeVaultError::HasKeyFile),
        "{refused:?}"
    );
    assert_eq!(opens(data.path(), How::KeyFile), Some(node));
}

#[test]
fn of_two_who_change_a_vault_the_second_is_told() {
    let data = tempfile::tempdir().unwrap();
    create(data.path(), How::KeyFile);
    let mut first = Vault::open(data.path()).unwrap();
    let mut second = Vault::open(data.path()).unwrap();
    first.rewrap(How::Pass("one").wrap()).unwrap();
    let refused = second.rewrap(How::Pass("two").wrap()).unwrap_err();
    assert!(matches!(refused, ChangeVaultError::Changed), "{refused:?}");

    // At the same moment: while the first one is in the middle of it.
    let mut second = open(data.path(), How::Pass("one"));
    let mut seen = None;
    let done = first.rewrap_in_steps(How::Pass("three").wrap(), &mut |_| {
        if seen.is_none() {
            seen = Some(second.rewrap(How::Pass("two").wrap()).unwrap_err());
        }
        Ok(())
    });
    done.unwrap();
    assert!(matches!(seen, Some(ChangeVaultError::Busy)), "{seen:?}");
    assert!(opens(data.path(), How::Pass("three")).is_some());
}

#[test]
fn a_passphrase_must_be_one() {
    let data = tempfile::tempdir().unwrap();
    let node = create(data.path(), How::KeyFile);
    let mut vault = Vault::open(data.path()).unwrap();
    for wrong in [String::new(), "p".repeat(1025)] {
        let refused = vault.rewrap(Wrap::Passphrase(&wrong)).unwrap_err();
        assert!(matches!(refused, ChangeVaultError::Wrap(_)), "{refused:?}");
    }
    assert_eq!(opens(data.path(), How::KeyFile), Some(node));
}

#[test]
fn a_successor_takes_the_place_of_the_vault_when_it_is_accepted() {
    for how in [How::KeyFile, How::Pass("one")] {
        let data = tempfile::tempdir().unwrap();
        let old = create(data.path(), how);
        let vault = open(data.path(), how);
        let wrapping = match how {
            How::Pass(text) => Some(text),
            How::KeyFile => None,
        };
        assert!(Pending::find(data.path()).unwrap().is_none());
        let words = Mnemonic::generate().unwrap();
        let next = vault.prepare_successor(&words, wrapping).unwrap();
        let new = next.vault.node_key().unwrap().public_key();
        assert_ne!(new, old);
        // Until then, and when it is discarded, nothing has changed.
        assert_eq!(opens(data.path(), how), Some(old));
        let found = Pending::find(data.path()).unwrap().unwrap();
        assert_eq!(found.digest(), next.pending.digest());
        // It is wrapped as the old one is, by the same key file: that stays.
        let rewrapped = open(data.path(), how).rewrap(How::Pass("two").wrap());
        let refused = rewrapped.unwrap_err();
        assert!(
            matches!(refused, ChangeVaultError::Successor),
            "{refused:?}"
        );
        assert_eq!(opens(data.path(), how), Some(old));
        found.discard().unwrap();
        assert_eq!(opens(data.path(), how), Some(old));
        assert!(!data.path().join(NEXT_FILE).exists());

        let next = vault.prepare_successor(&words, wrapping).unwrap();
        next.pending.accept().unwrap();
        assert_eq!(opens(data.path(), how), Some(new));
        assert!(Pending::find(data.path()).unwrap().is_none());
    }
}

#[test]
fn a_successor_needs_the_passphrase() {
    let data = tempfile::tempdir().unwrap();
    create(data.path(), How::Pass("one"));
    let vault = open(data.path(), How::Pass("one"));
    let words = Mnemonic::generate().unwrap();
    for wrong in [None, Some("two")] {
        let refused = vault.prepare_successor(&words, wrong).unwrap_err();
        assert!(matches!(refused, ChangeVaultError::Locked), "{refused:?}");
    }
    assert!(!data.path().join(NEXT_FILE).exists());
}

#[test]
fn a_successor_that_others_may_read_is_refused() {
    let data = tempfile::tempdir().unwrap();
    create(data.path(), How::KeyFile);
    let path = data.path().join(NEXT_FILE);
    put(&path, b"{}");
    crate::chmod(&path, 0o640);
    assert!(Pending::find(data.path()).is_err());
}
