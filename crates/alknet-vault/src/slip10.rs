//! SLIP-0010 key derivation for Ed25519, which knows hardened children only.
//!
//! <https://github.com/satoshilabs/slips/blob/master/slip-0010.md>. Nodes need
//! none of this: [`Vault`](crate::Vault) derives their keys.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha512;
use zeroize::Zeroize;

use crate::secret::{SecretBytes, SecretKey32, Seed};

/// The HMAC key that SLIP-0010 gives to the curve Ed25519.
const CURVE: &[u8] = b"ed25519 seed";

/// Added to every index: SLIP-0010 calls children from here on hardened.
const HARDENED: u32 = 1 << 31;

/// One hardened step of a path, such as `74'`: a number below 2^31.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Index(u32);

impl Index {
    /// The largest number a step can have.
    pub const MAX: u32 = HARDENED - 1;

    /// Takes a number without the hardened bit: `74` for `74'`.
    ///
    /// # Errors
    ///
    /// [`IndexError`] above [`Index::MAX`], where two numbers would otherwise
    /// name the same key.
    pub const fn new(number: u32) -> Result<Self, IndexError> {
        if number > Self::MAX {
            return Err(IndexError { number });
        }
        Ok(Self(number))
    }

    /// For numbers written in the source; refuses to compile above the limit.
    pub(crate) const fn fixed<const NUMBER: u32>() -> Self {
        const { assert!(NUMBER <= Self::MAX) };
        Self(NUMBER)
    }

    fn hardened(self) -> u32 {
        self.0 | HARDENED
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}'", self.0)
    }
}

/// A number that is too large for a step of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("derivation index {number} is above the largest one, {}", Index::MAX)]
pub struct IndexError {
    /// The refused number.
    pub number: u32,
}

/// A seed of a length that SLIP-0010 does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a master key needs a seed of 16 to 64 bytes, not {bytes}")]
pub struct SeedLengthError {
    /// Length of the refused seed.
    pub bytes: usize,
}

/// A private key with the chain code that its children are derived with.
///
/// Wiped when dropped.
pub struct ExtendedKey {
    key: SecretBytes<32>,
    chain_code: SecretBytes<32>,
}

impl ExtendedKey {
    /// Derives the master key `m` of a seed of 16 to 64 bytes.
    ///
    /// # Errors
    ///
    /// [`SeedLengthError`] for a seed of any other length.
    pub fn master(seed: &[u8]) -> Result<Self, SeedLengthError> {
        match seed.len() {
            16..=64 => Ok(Self::hash(CURVE, &[seed])),
            bytes => Err(SeedLengthError { bytes }),
        }
    }

    /// Derives the master key of a BIP39 seed, whose length is always right.
    pub(crate) fn of(seed: &Seed) -> Self {
        Self::hash(CURVE, &[seed.expose()])
    }

    /// Derives the hardened child at `index`.
    pub fn child(&self, index: Index) -> Self {
        let index = index.hardened().to_be_bytes();
        Self::hash(self.chain_code.expose(), &[&[0], self.key.expose(), &index])
    }

    /// Derives the descendant at `path`, from here on down.
    pub fn descend(self, path: &[Index]) -> Self {
        path.iter().fold(self, |key, index| key.child(*index))
    }

    /// The chain code; as secret as the key, since both make the children.
    pub fn chain_code(&self) -> &[u8; 32] {
        self.chain_code.expose()
    }

    /// Gives up the chain code and keeps the private key.
    pub fn into_key(self) -> SecretKey32 {
        SecretKey32(self.key)
    }

    /// HMAC-SHA512, split into key (left half) and chain code (right half). For
    /// Ed25519 every left half is a valid key, so nothing is ever retried.
    fn hash(hmac_key: &[u8], data: &[&[u8]]) -> Self {
        let mut mac = Hmac::<Sha512>::new_from_slice(hmac_key)
            .expect("HMAC takes a key of any length (RFC 2104 section 2)");
        data.iter().for_each(|part| mac.update(part));
        let mut output = mac.finalize().into_bytes();
        let mut child = Self {
            key: SecretBytes::zeroed(),
            chain_code: SecretBytes::zeroed(),
        };
        let (left, right) = output.split_at(32);
        child.key.expose_mut().copy_from_slice(left);
        child.chain_code.expose_mut().copy_from_slice(right);
        output.as_mut_slice().zeroize();
        child
    }
}

impl fmt::Debug for ExtendedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExtendedKey(..)")
    }
}
