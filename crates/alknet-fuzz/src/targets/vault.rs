//! The vault's file, and the words behind it.

use super::{MIB, Target, texts};
use crate::{note, source::Source};
use alknet_vault::{Cost, EntropyLengthError, Mnemonic, ParseMnemonicError, fuzz_envelope};
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

pub(super) const VAULT: Target = Target {
    name: "vault",
    about: "A vault's file reads back as it was written, opens for nobody else, and costs what it may.",
    run: vault,
    seeds: || {
        let file = |bytes: &[u8]| [&[0], file(&mut Source::new(bytes)).as_bytes()].concat();
        vec![
            file(&[0]),
            file(&[1, 0, 0, 0, 0, 0]),
            vec![1],
            vec![1, 1],
            vec![1, 1, 0, 1, 0, 3, 1, 7],
            b"\0{\"format\":2}".to_vec(),
            b"\0{\"format\":1,\"wrap\":\"key-file\"}".to_vec(),
            b"\0{\"format\":18446744073709551616}".to_vec(),
        ]
    },
    tokens: &[
        b"\"format\":",
        b"\"wrap\":\"passphrase\"",
        b"\"kdf\":{",
        b"\"memory_kib\":4294967295",
        b"\"nonce\":\"",
        b"\"ciphertext\":\"",
        b"0000",
        b"\"checksum\":\"",
        b"}",
        b",",
        b"[[[[[[[[",
    ],
    bytes_max: 1500,
    held_max: MIB,
};

pub(super) const MNEMONIC: Target = Target {
    name: "mnemonic",
    about: "Words are taken if they belong together, and spell what they were made of.",
    run: mnemonic,
    seeds: || {
        let mut seeds = texts(&[
            "\0abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about",
            "\0  Abandon\tabandon\nabandon abandon abandon abandon abandon abandon abandon abandon abandon ABOUT ",
            "\0zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo wrong",
            "\0one two three",
            "\0",
            "\0é",
        ]);
        seeds.extend(
            [16, 20, 24, 28, 32, 17, 0].map(|length| [&[1], &vec![7; length][..]].concat()),
        );
        seeds
    },
    tokens: &[
        b"abandon ",
        b"zoo ",
        b" ",
        b"\t",
        b"\xc2\xa0",
        b"about",
        b"wrong",
    ],
    bytes_max: 300,
    held_max: MIB,
};

/// Text as it is, or fields that the checksum does not keep out.
fn vault(data: &[u8]) {
    let mut source = Source::new(data);
    let text = match source.below(2) {
        0 => source.rest().to_vec(),
        _ => file(&mut source).into_bytes(),
    };
    let Some((written, opens)) = fuzz_envelope(&text, &[5; 32]) else {
        return note("refused");
    };
    assert!(!opens, "sealed under no key that there is");
    let again = fuzz_envelope(&written, &[5; 32]);
    assert_eq!(
        again,
        Some((written.clone(), false)),
        "reads back as it was written"
    );
    note(written.len());
}

/// A file with a checksum that holds; the fields are in its format's order.
fn file(source: &mut Source<'_>) -> String {
    let is_passphrase = source.flag();
    let kdf = is_passphrase.then(|| {
        let name = source.pick(&["argon2id", "argon2id", "argon2i", "scrypt"]);
        let memory = match source.below(3) {
            0 => Cost::DEFAULT.memory_kib(),
            1 => u32::from(source.u16()),
            _ => source.u32(),
        };
        let (passes, lanes) = (source.byte() % 20, source.byte() % 8);
        let salt = HEXLOWER.encode(&source.array::<16>());
        format!(
            r#""kdf":{{"name":"{name}","memory_kib":{memory},"passes":{passes},"lanes":{lanes},"salt":"{salt}"}},"#
        )
    });
    let kdf = kdf.filter(|_| !source.one_in(16)).unwrap_or_default();
    let wrap = if is_passphrase {
        "passphrase"
    } else {
        "key-file"
    };
    let format = source.pick(&[1, 1, 1, 0, 2]);
    let cipher = source.pick(&["xchacha20-poly1305", "xchacha20-poly1305", "none"]);
    let nonce = HEXLOWER.encode(&source.array::<24>());
    let sealed = HEXLOWER.encode(&source.array::<80>());
    let body = format!(
        r#"{{"format":{format},"wrap":"{wrap}",{kdf}"cipher":"{cipher}","nonce":"{nonce}","ciphertext":"{sealed}""#
    );
    let checksum = Sha256::digest(format!("{body}}}"));
    format!(r#"{body},"checksum":"{}"}}"#, HEXLOWER.encode(&checksum))
}

fn mnemonic(data: &[u8]) {
    let mut source = Source::new(data);
    if source.flag() {
        let entropy = source.rest();
        let made = Mnemonic::from_entropy(entropy);
        match (&made, entropy.len()) {
            (Ok(made), 16 | 20 | 24 | 28 | 32) => {
                assert_eq!(made.word_count(), entropy.len() / 4 * 3);
                let back = Mnemonic::parse(&made.expose().to_ascii_uppercase());
                assert_eq!(
                    back.map(|back| back.expose().to_owned()).as_deref(),
                    Ok(made.expose())
                );
            }
            (made, bytes) => assert_eq!(made.as_ref().err(), Some(&EntropyLengthError { bytes })),
        }
        return note(entropy.len());
    }
    let text = String::from_utf8_lossy(source.rest()).into_owned();
    let words = text.split_whitespace().count();
    match Mnemonic::parse(&text) {
        Ok(made) => {
            let lower = text.to_ascii_lowercase();
            assert!(
                made.expose().split(' ').eq(lower.split_whitespace()),
                "other words"
            );
            note(words);
        }
        Err(error) => {
            if let ParseMnemonicError::UnknownWord { place } = error {
                assert!((1..=words).contains(&place));
                note(place);
            }
            // Never by its letters: what was typed may be a secret.
            let long = text.split_whitespace().find(|word| word.len() > 12);
            assert!(long.is_none_or(|word| !error.to_string().contains(word)));
            note(std::mem::discriminant(&error));
        }
    }
}
