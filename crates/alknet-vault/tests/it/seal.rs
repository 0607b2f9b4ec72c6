//! Sealed secrets.

use alknet_vault::{
    About, KeyError, Mnemonic, OpenSealedError, SEALED_EXTRA_BYTES, Sealer, Vault, Wrap,
    slip10::Index,
};

use crate::WORDS;

fn sealer(words: &Mnemonic) -> Sealer {
    let data = tempfile::tempdir().unwrap();
    let vault = Vault::create(data.path(), words, "", Wrap::KeyFile).unwrap();
    vault.sealer().unwrap()
}

fn ours() -> Sealer {
    sealer(&Mnemonic::parse(WORDS).unwrap())
}

const ABOUT: About<'_> = About {
    kind: "credential",
    provider: "github",
    account: "ada",
};

#[test]
fn what_was_sealed_opens_as_it_was() {
    for secret in [&b""[..], b"s", &[7; 100_000]] {
        let sealed = ours().seal(3, &ABOUT, secret).unwrap();
        assert_eq!(sealed.len(), secret.len() + SEALED_EXTRA_BYTES);
        assert_eq!(sealed[0], 1);
        assert_eq!(&**ours().open(3, &ABOUT, &sealed).unwrap(), secret);
    }
}

#[test]
fn what_is_moved_elsewhere_does_not_open() {
    let sealed = ours().seal(1, &ABOUT, b"secret").unwrap();
    let refused = |version, about| ours().open(version, &about, &sealed).unwrap_err();
    for about in [
        About {
            kind: "network",
            ..ABOUT
        },
        About {
            provider: "gitlab",
            ..ABOUT
        },
        About {
            account: "eve",
            ..ABOUT
        },
        // The same letters, cut elsewhere.
        About {
            provider: "githuba",
            account: "da",
            ..ABOUT
        },
    ] {
        assert_eq!(refused(1, about), OpenSealedError::Refused, "{about:?}");
    }
    assert_eq!(refused(2, ABOUT), OpenSealedError::Refused);
    let other = sealer(&Mnemonic::generate().unwrap());
    assert_eq!(
        other.open(1, &ABOUT, &sealed).unwrap_err(),
        OpenSealedError::Refused
    );
}

#[test]
fn every_changed_bit_and_every_cut_is_noticed() {
    let sealed = ours().seal(1, &ABOUT, b"secret").unwrap();
    for at in 0..sealed.len() {
        for bit in 0..8 {
            let mut changed = sealed.clone();
            changed[at] ^= 1 << bit;
            assert!(ours().open(1, &ABOUT, &changed).is_err(), "{at}/{bit}");
        }
        assert!(ours().open(1, &ABOUT, &sealed[..at]).is_err(), "{at}");
    }
    assert_eq!(
        ours().open(1, &ABOUT, &[]).unwrap_err(),
        OpenSealedError::Malformed
    );
    assert_eq!(
        ours().open(1, &ABOUT, &[2; 60]).unwrap_err(),
        OpenSealedError::Format { found: 2 }
    );
}

#[test]
fn one_secret_is_never_sealed_twice_alike() {
    let seal = || ours().seal(1, &ABOUT, b"secret").unwrap();
    assert_ne!(seal(), seal());
}

#[test]
fn versions_are_the_keys_of_the_documented_paths() {
    let data = tempfile::tempdir().unwrap();
    let words = Mnemonic::parse(WORDS).unwrap();
    let vault = Vault::create(data.path(), &words, "", Wrap::KeyFile).unwrap();
    let sealer = vault.sealer().unwrap();
    for version in [0, 1, 2, Index::MAX] {
        let (ours, theirs) = (sealer.key(version).unwrap(), vault.sealing_key(version));
        assert_eq!(ours.expose(), theirs.unwrap().expose());
    }
    let beyond = sealer.seal(Index::MAX + 1, &ABOUT, b"");
    assert!(matches!(beyond, Err(KeyError::Version(_))));
    let mut vault = vault;
    vault.lock();
    assert_eq!(vault.sealer().unwrap_err(), KeyError::Locked);
    // What was handed out goes on working.
    assert!(sealer.seal(1, &ABOUT, b"").is_ok());
    assert_eq!(format!("{sealer:?}"), "Sealer(..)");
}

/// Sealed by another implementation (`tests/golden/make.py`), under the golden
/// vaults: what one release sealed, every later one opens.
#[test]
fn bytes_that_others_sealed_open() {
    let data = crate::golden::golden("v1-key-file");
    let sealer = Vault::open(data.path()).unwrap().sealer().unwrap();
    let sealed = crate::unhex(include_str!("../golden/sealed.hex").trim());
    let opened = sealer.open(1, &ABOUT, &sealed).unwrap();
    assert_eq!(&**opened, b"a token of another day");
}
