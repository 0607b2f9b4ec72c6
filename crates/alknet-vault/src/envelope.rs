//! What `vault.json` says: a wrapped seed, and how it was wrapped.

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305,
    aead::{Aead, Payload},
};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    random::{self, NoRandomness},
    secret::{SecretBytes, Seed},
    wrap::{Cost, CostError, WrapKind},
};

/// The format of `vault.json` that this release writes, and the newest it reads.
pub const FORMAT: u64 = 1;

/// The largest `vault.json` that is read; a real one has about 600 bytes.
pub(crate) const FILE_BYTES_MAX: usize = 16 * 1024;

/// The only cipher of format 1.
const CIPHER: &str = "xchacha20-poly1305";

/// The only key derivation function of format 1.
const KDF: &str = "argon2id";

/// How the wrapping key is found.
#[derive(Clone, Copy)]
pub(crate) enum Protection {
    KeyFile,
    Passphrase { cost: Cost, salt: [u8; 16] },
}

impl Protection {
    pub(crate) fn kind(self) -> WrapKind {
        match self {
            Self::KeyFile => WrapKind::KeyFile,
            Self::Passphrase { .. } => WrapKind::Passphrase,
        }
    }
}

/// A wrapped seed.
pub(crate) struct Envelope {
    pub(crate) protection: Protection,
    nonce: [u8; 24],
    ciphertext: [u8; 80],
}

impl Envelope {
    /// Encrypts `seed` under `key` with a new nonce.
    pub(crate) fn seal(
        protection: Protection,
        key: &SecretBytes<32>,
        seed: &Seed,
    ) -> Result<Self, NoRandomness> {
        let nonce = random::array()?;
        let data = associated_data(FORMAT, protection.kind());
        let ciphertext = cipher(key)
            .encrypt(
                &nonce.into(),
                Payload {
                    msg: seed.expose(),
                    aad: &data,
                },
            )
            .expect("64 bytes are below the cipher's limit of 256 GiB");
        let ciphertext = ciphertext.try_into().expect("64 bytes and a tag of 16");
        Ok(Self {
            protection,
            nonce,
            ciphertext,
        })
    }

    /// Decrypts the seed, or returns `None` if `key` is not the one it was
    /// encrypted under, or anything bound to it was changed.
    pub(crate) fn unseal(&self, key: &SecretBytes<32>) -> Option<Seed> {
        let data = associated_data(FORMAT, self.protection.kind());
        let payload = Payload {
            msg: &self.ciphertext,
            aad: &data,
        };
        let seed = cipher(key).decrypt(&self.nonce.into(), payload).ok()?;
        SecretBytes::copy_from(&Zeroizing::new(seed)).map(Seed)
    }

    /// Whether both are one and the same: nonces are drawn for each.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.nonce == other.nonce && self.ciphertext == other.ciphertext
    }

    /// Reads the content of `vault.json`.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ParseEnvelopeError> {
        #[derive(Deserialize)]
        struct Version {
            format: u64,
        }
        // On its own and first: a newer file may look different in all else.
        let version: Version = serde_json::from_slice(bytes).map_err(Damage::Json)?;
        if version.format > FORMAT {
            return Err(ParseEnvelopeError::TooNew {
                found: version.format,
            });
        }
        let file: File = serde_json::from_slice(bytes).map_err(Damage::Json)?;
        Ok(file.check()?)
    }

    /// Writes the content of `vault.json`.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut file = File::new(self);
        file.checksum = Some(file.digest());
        let json = serde_json::to_vec_pretty(&file);
        let mut json = json.expect("numbers and text can be written as JSON");
        json.push(b'\n');
        json
    }
}

fn cipher(key: &SecretBytes<32>) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(key.expose().into())
}

/// Binds the ciphertext to the format and to the kind of its key.
fn associated_data(format: u64, kind: WrapKind) -> Vec<u8> {
    format!("alknet-vault format={format} wrap={}", kind.name()).into_bytes()
}

/// Why the content of `vault.json` cannot be used.
#[derive(Debug)]
pub(crate) enum ParseEnvelopeError {
    TooNew { found: u64 },
    Damage(Damage),
}

impl From<Damage> for ParseEnvelopeError {
    fn from(damage: Damage) -> Self {
        Self::Damage(damage)
    }
}

/// What is wrong with a damaged file of a vault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The file is larger than any real one.
    #[error("it has more than {bytes_max} bytes")]
    TooLong {
        /// The largest size that is read.
        bytes_max: usize,
    },
    /// It is not JSON, or lacks a field, or has one too many.
    #[error("it is not the JSON of a vault")]
    Json(#[source] serde_json::Error),
    /// A field has a value that its format does not know.
    #[error("field `{field}` has an impossible value")]
    Field {
        /// Name of the field.
        field: &'static str,
    },
    /// A passphrase would cost less or more than any release has asked for.
    #[error("field `kdf` asks for an impossible cost")]
    Cost(#[source] CostError),
    /// The fields were changed after they were written.
    #[error("its checksum does not match")]
    Checksum,
    /// The key file does not hold 64 hexadecimal digits.
    #[error("it does not hold 64 hexadecimal digits")]
    Key,
}

/// `vault.json`, field by field. The order is part of the format, because the
/// checksum covers it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u64,
    wrap: WrapKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kdf: Option<Kdf>,
    cipher: String,
    nonce: Hex<24>,
    ciphertext: Hex<80>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checksum: Option<Hex<32>>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kdf {
    name: String,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: Hex<16>,
}

impl File {
    fn new(envelope: &Envelope) -> Self {
        let kdf = match envelope.protection {
            Protection::KeyFile => None,
            Protection::Passphrase { cost, salt } => Some(Kdf {
                name: KDF.into(),
                memory_kib: cost.memory_kib(),
                passes: cost.passes(),
                lanes: cost.lanes(),
                salt: Hex(salt),
            }),
        };
        Self {
            format: FORMAT,
            wrap: envelope.protection.kind(),
            kdf,
            cipher: CIPHER.into(),
            nonce: Hex(envelope.nonce),
            ciphertext: Hex(envelope.ciphertext),
            checksum: None,
        }
    }

    fn check(mut self) -> Result<Envelope, Damage> {
        if self.format != FORMAT {
            return Err(Damage::Field { field: "format" });
        }
        if self.cipher != CIPHER {
            return Err(Damage::Field { field: "cipher" });
        }
        let protection = match (self.wrap, &self.kdf) {
            (WrapKind::KeyFile, None) => Protection::KeyFile,
            (WrapKind::Passphrase, Some(kdf)) if kdf.name == KDF => Protection::Passphrase {
                cost: Cost::new(kdf.memory_kib, kdf.passes, kdf.lanes).map_err(Damage::Cost)?,
                salt: kdf.salt.0,
            },
            _ => return Err(Damage::Field { field: "kdf" }),
        };
        let stated = self.checksum.take();
        if stated != Some(self.digest()) {
            return Err(Damage::Checksum);
        }
        Ok(Envelope {
            protection,
            nonce: self.nonce.0,
            ciphertext: self.ciphertext.0,
        })
    }

    /// SHA-256 over the compact JSON of everything but the checksum.
    fn digest(&self) -> Hex<32> {
        debug_assert!(self.checksum.is_none());
        let json = serde_json::to_vec(self).expect("numbers and text can be written as JSON");
        Hex(Sha256::digest(json).into())
    }
}

/// Bytes that are not secret, as lower-case hexadecimal text.
#[derive(Clone, PartialEq, Eq)]
struct Hex<const N: usize>([u8; N]);

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&HEXLOWER.encode(&self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(D::Error::custom)?;
        let bytes = bytes.try_into();
        bytes.map(Self).map_err(|bytes: Vec<u8>| {
            D::Error::invalid_length(bytes.len(), &format!("{N} bytes").as_str())
        })
    }
}

/// What the fuzzer calls: the content of `vault.json`, read and written again,
/// and whether `key` opens it.
#[doc(hidden)]
pub fn fuzz_envelope(bytes: &[u8], key: &[u8; 32]) -> Option<(Vec<u8>, bool)> {
    let envelope = Envelope::parse(bytes).ok()?;
    let key = SecretBytes::copy_from(key)?;
    Some((envelope.to_json(), envelope.unseal(&key).is_some()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn key(byte: u8) -> SecretBytes<32> {
        SecretBytes::copy_from(&[byte; 32]).unwrap()
    }

    fn sealed() -> Envelope {
        let seed = Seed(SecretBytes::copy_from(&[9; 64]).unwrap());
        Envelope::seal(Protection::KeyFile, &key(1), &seed).unwrap()
    }

    #[test]
    fn its_own_key_opens_an_envelope_and_no_other_does() {
        assert_eq!(sealed().unseal(&key(1)).unwrap().expose(), &[9; 64]);
        assert!(sealed().unseal(&key(2)).is_none());
    }

    #[test]
    fn the_kind_of_wrap_is_bound_to_the_ciphertext() {
        let mut envelope = sealed();
        envelope.protection = Protection::Passphrase {
            cost: Cost::DEFAULT,
            salt: [0; 16],
        };
        assert!(envelope.unseal(&key(1)).is_none());
    }

    #[test]
    fn the_format_is_bound_to_the_ciphertext() {
        let Envelope {
            nonce, ciphertext, ..
        } = sealed();
        let open = |format| {
            let aad = associated_data(format, WrapKind::KeyFile);
            let payload = Payload {
                msg: &ciphertext,
                aad: &aad,
            };
            cipher(&key(1)).decrypt(&nonce.into(), payload).is_ok()
        };
        assert!(open(FORMAT) && !open(FORMAT + 1));
    }

    #[test]
    fn two_envelopes_of_one_seed_share_nothing() {
        let [one, two] = [sealed(), sealed()];
        assert_ne!(one.nonce, two.nonce);
        assert_ne!(one.ciphertext, two.ciphertext);
    }
}
