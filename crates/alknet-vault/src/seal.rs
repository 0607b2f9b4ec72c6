//! Sealing: secrets of others, to be stored by whoever cannot read them.

use std::fmt;

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305,
    aead::{Aead, Payload},
};
use zeroize::Zeroizing;

use crate::{
    paths,
    random::{self, NoRandomness},
    secret::{SecretKey32, Seed},
    slip10::{ExtendedKey, Index},
    vault::KeyError,
};

/// The only format of sealed bytes so far: their first byte.
const FORMAT: u8 = 1;

const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

/// How many bytes sealing adds: format, nonce and tag.
pub const SEALED_EXTRA_BYTES: usize = 1 + NONCE_BYTES + TAG_BYTES;

/// What a sealed secret is, which it is bound to: sealed bytes that are moved
/// to the place of others do not open there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About<'a> {
    /// What sort of secret: `credential`, `network`.
    pub kind: &'a str,
    /// Whose door it opens.
    pub provider: &'a str,
    /// Which of the accounts there.
    pub account: &'a str,
}

impl About<'_> {
    /// The associated data: every field with its length before it, so that no
    /// two differ only in where one ends.
    fn bytes(&self, version: u32) -> Vec<u8> {
        let mut bytes = b"alknet-sealed".to_vec();
        bytes.push(FORMAT);
        bytes.extend(version.to_be_bytes());
        for field in [self.kind, self.provider, self.account] {
            bytes.extend((field.len() as u64).to_be_bytes());
            bytes.extend(field.as_bytes());
        }
        bytes
    }
}

/// The sealing keys of a vault, in every version. Of the seed and of the other
/// keys it knows nothing.
///
/// Wiped when dropped.
pub struct Sealer(ExtendedKey);

impl Sealer {
    /// The sealing keys of a seed.
    #[must_use]
    pub fn of(seed: &Seed) -> Self {
        Self(ExtendedKey::of(seed).descend(&paths::SEALING))
    }

    /// Derives version `version` of the sealing key, `m/74'/2'/0'/version'`.
    ///
    /// # Errors
    ///
    /// [`KeyError::Version`] if `version` is above [`Index::MAX`].
    pub fn key(&self, version: u32) -> Result<SecretKey32, KeyError> {
        Ok(self.0.child(Index::new(version)?).into_key())
    }

    /// Seals `secret` under version `version` of the key: XChaCha20-Poly1305
    /// (draft-irtf-cfrg-xchacha-03) with a random nonce. What it is and the
    /// version are the associated data.
    ///
    /// The result is longer than the secret by [`SEALED_EXTRA_BYTES`]: the byte
    /// 1 for the format, 24 bytes of nonce, the ciphertext and 16 bytes of tag.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if there is no such version, or the system gives no random
    /// bytes.
    pub fn seal(
        &self,
        version: u32,
        about: &About<'_>,
        secret: &[u8],
    ) -> Result<Vec<u8>, KeyError> {
        let nonce: [u8; NONCE_BYTES] = random::array().map_err(KeyError::from)?;
        let payload = Payload {
            msg: secret,
            aad: &about.bytes(version),
        };
        let ciphertext = cipher(&self.key(version)?)
            .encrypt(&nonce.into(), payload)
            .expect("what fits into memory is below the cipher's limit of 256 GiB");
        Ok([&[FORMAT], &nonce[..], &ciphertext].concat())
    }

    /// Opens what [`Sealer::seal`] made.
    ///
    /// # Errors
    ///
    /// [`OpenSealedError`] if it was sealed by another vault, in another
    /// version, for something else, or changed. Which of these is not known.
    pub fn open(
        &self,
        version: u32,
        about: &About<'_>,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, OpenSealedError> {
        let (format, rest) = sealed.split_first().ok_or(OpenSealedError::Malformed)?;
        if *format != FORMAT {
            return Err(OpenSealedError::Format { found: *format });
        }
        let (nonce, ciphertext) = rest
            .split_first_chunk::<NONCE_BYTES>()
            .filter(|(_, ciphertext)| ciphertext.len() >= TAG_BYTES)
            .ok_or(OpenSealedError::Malformed)?;
        let payload = Payload {
            msg: ciphertext,
            aad: &about.bytes(version),
        };
        cipher(&self.key(version)?)
            .decrypt(&(*nonce).into(), payload)
            .map(Zeroizing::new)
            .map_err(|_| OpenSealedError::Refused)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(..)")
    }
}

fn cipher(key: &SecretKey32) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(key.expose().into())
}

/// Why sealed bytes were not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenSealedError {
    /// Fewer bytes than sealing nothing makes.
    #[error("it is no sealed secret")]
    Malformed,
    /// A newer release sealed it, or nobody did.
    #[error("it is sealed in format {found}, newest known is {FORMAT}")]
    Format {
        /// Its first byte.
        found: u8,
    },
    /// There is no such version of the key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Another key, another place, or changed bytes.
    #[error("it was sealed by another key or for another place, or changed")]
    Refused,
}

impl From<NoRandomness> for KeyError {
    fn from(_: NoRandomness) -> Self {
        Self::NoRandomness
    }
}
