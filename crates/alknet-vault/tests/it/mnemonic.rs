use std::collections::HashSet;

use alknet_vault::{EntropyLengthError, Mnemonic, ParseMnemonicError};
use proptest::prelude::*;

use crate::{WORDS, bip39_vectors::VECTORS, hex, unhex};

#[track_caller]
fn refuses(text: &str, want: ParseMnemonicError) {
    assert_eq!(Mnemonic::parse(text).unwrap_err(), want);
}

#[test]
fn published_vectors_give_their_words_and_seeds() {
    for (entropy, words, seed) in VECTORS {
        let spelt = Mnemonic::from_entropy(&unhex(entropy)).unwrap();
        assert_eq!(spelt.expose(), words);
        let parsed = Mnemonic::parse(words).unwrap();
        assert_eq!(hex(parsed.to_seed("TREZOR").expose()), seed, "{words}");
    }
}

#[test]
fn the_vectors_cover_the_lengths_in_use() {
    let lengths: HashSet<usize> = VECTORS.map(|(_, words, _)| words.split(' ').count()).into();
    assert_eq!(lengths, HashSet::from([12, 18, 24]));
}

#[test]
fn the_passphrase_changes_the_seed() {
    let words = Mnemonic::parse(WORDS).unwrap();
    assert_ne!(words.to_seed("").expose(), words.to_seed("TREZOR").expose());
}

#[test]
fn composed_and_decomposed_passphrases_are_one() {
    let words = Mnemonic::parse(WORDS).unwrap();
    let [composed, decomposed] = ["gr\u{fc}n", "gru\u{308}n"].map(|text| words.to_seed(text));
    assert_eq!(composed.expose(), decomposed.expose());
}

#[test]
fn generated_mnemonics_have_24_words_and_differ() {
    let [one, two] = [(); 2].map(|()| Mnemonic::generate().unwrap());
    assert_eq!([one.word_count(), two.word_count()], [24, 24]);
    assert_ne!(one.expose(), two.expose());
    assert_eq!(
        Mnemonic::parse(one.expose()).unwrap().expose(),
        one.expose()
    );
}

#[test]
fn white_space_and_case_do_not_matter() {
    let typed = format!(
        "\n\t {} \r\n",
        WORDS.to_uppercase().replace(' ', " \u{a0}\n")
    );
    assert_eq!(Mnemonic::parse(&typed).unwrap().expose(), WORDS);
}

#[test]
fn every_allowed_length_is_accepted_and_no_other() {
    for bytes in 0..=64 {
        let mnemonic = Mnemonic::from_entropy(&vec![7; bytes]);
        match bytes {
            16 | 20 | 24 | 28 | 32 => {
                let words = mnemonic.unwrap();
                assert_eq!(words.word_count(), bytes * 3 / 4);
                assert_eq!(
                    Mnemonic::parse(words.expose()).unwrap().expose(),
                    words.expose()
                );
            }
            _ => assert_eq!(mnemonic.unwrap_err(), EntropyLengthError { bytes }),
        }
    }
}

#[test]
fn a_wrong_number_of_words_is_counted() {
    for words in (0..=30).filter(|words| ![12, 15, 18, 21, 24].contains(words)) {
        refuses(
            &"abandon ".repeat(words),
            ParseMnemonicError::WordCount { words },
        );
    }
}

#[test]
fn an_unknown_word_is_named_by_its_place() {
    refuses(
        &WORDS.replace("art", "artt"),
        ParseMnemonicError::UnknownWord { place: 24 },
    );
    let first = WORDS.replacen("abandon", "äbändön", 1);
    refuses(&first, ParseMnemonicError::UnknownWord { place: 1 });
    let third_of_two = WORDS.replacen("abandon abandon abandon", "abandon abandon qqq", 1);
    refuses(
        &third_of_two.replace("art", "qqq"),
        ParseMnemonicError::UnknownWord { place: 3 },
    );
}

#[test]
fn errors_do_not_repeat_words() {
    let err = Mnemonic::parse(&WORDS.replace("art", "artful")).unwrap_err();
    assert_eq!(err.to_string(), "word 24 is not in the English word list");
    assert!(!format!("{err:?}").contains("artful"));
}

#[test]
fn swapped_words_break_the_checksum() {
    let swapped = WORDS.replace("abandon art", "art abandon");
    refuses(&swapped, ParseMnemonicError::Checksum);
    refuses(
        &WORDS.replace("art", "abandon"),
        ParseMnemonicError::Checksum,
    );
}

#[test]
fn debug_shows_no_words_and_no_bytes() {
    let words = Mnemonic::parse(WORDS).unwrap();
    assert_eq!(format!("{words:?}"), "Mnemonic(..)");
    assert_eq!(format!("{:?}", words.to_seed("")), "Seed(..)");
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in "\\PC{0,200}") {
        let _ = Mnemonic::parse(&text);
    }

    #[test]
    fn any_entropy_survives_being_written_down(entropy: [u8; 32]) {
        let words = Mnemonic::from_entropy(&entropy).unwrap();
        let read = Mnemonic::parse(words.expose()).unwrap();
        prop_assert_eq!(read.expose(), words.expose());
    }
}
