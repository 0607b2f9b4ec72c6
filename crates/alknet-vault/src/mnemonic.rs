//! Words that a person can write down: BIP39, English.
//!
//! <https://github.com/bitcoin/bips/blob/master/bip-0039.mediawiki>

use std::fmt;

use bip0039::{English, Language};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    random::{self, NoRandomness},
    secret::{SecretBytes, Seed},
};

/// Bytes of entropy behind 24 words.
const ENTROPY_BYTES: usize = 32;

/// A BIP39 mnemonic of 12, 15, 18, 21 or 24 English words with a sound checksum.
///
/// Wiped when dropped; shows its words through [`Mnemonic::expose`] alone.
pub struct Mnemonic(bip0039::Mnemonic<English>);

impl Mnemonic {
    /// Generates 24 words from 256 bits of the operating system's randomness.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`] if the operating system gives none.
    pub fn generate() -> Result<Self, NoRandomness> {
        let mut entropy = Zeroizing::new([0; ENTROPY_BYTES]);
        random::fill(entropy.as_mut())?;
        Ok(Self::from_entropy(entropy.as_ref()).expect("BIP39 has 24 words for 32 bytes"))
    }

    /// Spells out entropy that comes from elsewhere: dice, or a device.
    ///
    /// # Errors
    ///
    /// [`EntropyLengthError`] unless it has 16, 20, 24, 28 or 32 bytes.
    pub fn from_entropy(entropy: &[u8]) -> Result<Self, EntropyLengthError> {
        // The vector becomes the mnemonic's own, which wipes it.
        bip0039::Mnemonic::from_entropy(entropy.to_vec())
            .map(Self)
            .map_err(|_| EntropyLengthError {
                bytes: entropy.len(),
            })
    }

    /// Parses words as a person types them: any white space around and between
    /// them, upper or lower case.
    ///
    /// # Errors
    ///
    /// [`ParseMnemonicError`], which names a misspelt word by its place and
    /// never by its letters.
    pub fn parse(text: &str) -> Result<Self, ParseMnemonicError> {
        let words = text.split_whitespace().count();
        if !matches!(words, 12 | 15 | 18 | 21 | 24) {
            return Err(ParseMnemonicError::WordCount { words });
        }
        let text = Zeroizing::new(text.to_ascii_lowercase());
        for (place, word) in (1..).zip(text.split_whitespace()) {
            if English::index_of(word).is_none() {
                return Err(ParseMnemonicError::UnknownWord { place });
            }
        }
        // Count and words were checked above; only the checksum is left. The
        // words are ASCII, so already in the normal form that BIP39 asks for.
        bip0039::Mnemonic::from_normalized_phrase(text.as_str())
            .map(Self)
            .map_err(|_| ParseMnemonicError::Checksum)
    }

    /// Hands out the words in lower case, separated by single spaces.
    ///
    /// To be shown once and written down; copies are the caller's to wipe.
    pub fn expose(&self) -> &str {
        self.0.phrase()
    }

    /// Returns how many words there are.
    pub fn word_count(&self) -> usize {
        self.expose().split(' ').count()
    }

    /// Derives the seed of these words and a BIP39 `passphrase`, usually empty.
    ///
    /// Every passphrase gives a valid, different seed, so a mistyped one cannot
    /// be noticed here. Takes some milliseconds: 2,048 rounds of
    /// PBKDF2-HMAC-SHA512.
    pub fn to_seed(&self, passphrase: &str) -> Seed {
        let mut bytes = self.0.to_seed(passphrase);
        let mut seed = SecretBytes::zeroed();
        seed.expose_mut().copy_from_slice(&bytes);
        bytes.zeroize();
        Seed(seed)
    }
}

impl fmt::Debug for Mnemonic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mnemonic(..)")
    }
}

/// Entropy of a length that no mnemonic has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a mnemonic needs 16, 20, 24, 28 or 32 bytes of entropy, not {bytes}")]
pub struct EntropyLengthError {
    /// How many bytes there were.
    pub bytes: usize,
}

/// Why a text is not a mnemonic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseMnemonicError {
    /// Words are missing, or there are too many.
    #[error("a mnemonic has 12, 15, 18, 21 or 24 words, not {words}")]
    WordCount {
        /// How many words were found.
        words: usize,
    },
    /// A word is misspelt.
    #[error("word {place} is not in the English word list")]
    UnknownWord {
        /// Which word it is; the first has number 1.
        place: usize,
    },
    /// Every word exists, but not together: one is wrong or two are swapped.
    #[error("the words do not belong together: one is wrong, or their order is")]
    Checksum,
}
