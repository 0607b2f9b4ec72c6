//! API keys: the text that is handed out once, and what is left of it where it
//! is presented.
//!
//! A key is `alk_`, eight characters of id and 52 of secret: 64 ASCII
//! characters. Both parts are base32 (RFC 4648, section 6) in lower case and
//! without padding, of five and of 32 random bytes. Only BLAKE3 of the secret
//! is ever stored. The text and the secret are wiped from memory when they are
//! dropped.

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};
use std::{fmt, hash::Hash};
use zeroize::Zeroizing;

/// What every API key starts with.
const PREFIX: &str = "alk_";
/// Characters of the id: base32 of five bytes.
const ID_CHARS: usize = 8;
/// Characters of the secret: base32 of 32 bytes.
const SECRET_CHARS: usize = 52;

/// Why a text is no API key. It does not tell the text, which may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApiKeyError {
    /// It does not start like one.
    #[error("this is no API key: one starts with `alk_`")]
    NotAKey,
    /// It has another length.
    #[error("an API key has {} characters, this one has {found}", ApiKey::CHARS)]
    Length {
        /// How many it has.
        found: usize,
    },
    /// A character was changed on the way.
    #[error("the API key is damaged: it has letters `a` to `z` and digits `2` to `7` only")]
    Damaged,
}

/// Names an API key in lists and in the audit log; part of no secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; ID_CHARS]);

impl KeyId {
    /// Parses the eight characters after `alk_`.
    ///
    /// # Errors
    ///
    /// [`ApiKeyError::Length`] or [`ApiKeyError::Damaged`].
    pub fn parse(text: &str) -> Result<Self, ApiKeyError> {
        let bytes = text.as_bytes();
        let id: [u8; ID_CHARS] = bytes.try_into().map_err(|_| ApiKeyError::Length {
            found: text.chars().count(),
        })?;
        if id.iter().all(is_base32) {
            Ok(Self(id))
        } else {
            Err(ApiKeyError::Damaged)
        }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("base32 is ASCII")
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.as_str())
    }
}

impl Serialize for KeyId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

fn is_base32(byte: &u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'2'..=b'7')
}

/// The text of an API key: a secret, which neither prints nor serialises.
#[derive(Clone)]
pub struct ApiKey(Zeroizing<String>);

impl ApiKey {
    /// Characters of a key; all of them are ASCII.
    pub const CHARS: usize = PREFIX.len() + ID_CHARS + SECRET_CHARS;

    /// The key made of random bytes, which must come from the system.
    #[must_use]
    pub fn of_random(id: [u8; 5], secret: &[u8; 32]) -> Self {
        let mut text = Zeroizing::new(String::with_capacity(Self::CHARS));
        text.push_str(PREFIX);
        // Room for all of it is there: no half-written copy stays behind.
        BASE32_NOPAD.encode_append(&id, &mut text);
        BASE32_NOPAD.encode_append(secret, &mut text);
        text.make_ascii_lowercase();
        Self(text)
    }

    /// The key that was kept, without white space around it.
    ///
    /// # Errors
    ///
    /// [`ApiKeyError`] if the text is no key. That the key is known somewhere,
    /// it does not say.
    pub fn parse(text: &str) -> Result<Self, ApiKeyError> {
        let text = text.trim();
        ApiKeyProof::parse(text)?;
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// The text, to be shown once to whoever the key is for.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// What is left of an API key where it is presented: which key it says it is,
/// and the hash of its secret.
#[derive(Clone)]
pub struct ApiKeyProof {
    id: KeyId,
    hash: blake3::Hash,
}

impl ApiKeyProof {
    /// What a key that is stored would leave, to ask what it may do.
    pub(crate) fn stored(id: KeyId, secret_hash: [u8; 32]) -> Self {
        Self {
            id,
            hash: blake3::Hash::from_bytes(secret_hash),
        }
    }

    /// Reads the text of a key. Nothing of the secret is kept.
    ///
    /// # Errors
    ///
    /// [`ApiKeyError`] if the text is no key. That the key is known, it does
    /// not say.
    pub fn parse(text: &str) -> Result<Self, ApiKeyError> {
        let bytes = text.as_bytes();
        if !bytes.starts_with(PREFIX.as_bytes()) {
            return Err(ApiKeyError::NotAKey);
        }
        // Bytes of the text, never a slice of it: it may be anything.
        let Ok(bytes) = <&[u8; ApiKey::CHARS]>::try_from(bytes) else {
            let found = text.chars().count();
            return Err(ApiKeyError::Length { found });
        };
        let (_, rest) = bytes.split_at(PREFIX.len());
        if !rest.iter().all(is_base32) {
            return Err(ApiKeyError::Damaged);
        }
        let (id, secret) = rest.split_at(ID_CHARS);
        let id = KeyId(id.try_into().map_err(|_| ApiKeyError::Damaged)?);
        let mut upper = Zeroizing::new([0_u8; SECRET_CHARS]);
        upper.copy_from_slice(secret);
        upper.make_ascii_uppercase();
        let mut opened = Zeroizing::new([0_u8; 32]);
        BASE32_NOPAD
            .decode_mut(&*upper, &mut *opened)
            .map_err(|_| ApiKeyError::Damaged)?;
        let hash = blake3::hash(&*opened);
        Ok(Self { id, hash })
    }

    /// Which key it says it is.
    #[must_use]
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// BLAKE3 of the secret: what is stored of it.
    #[must_use]
    pub fn secret_hash(&self) -> &[u8; 32] {
        self.hash.as_bytes()
    }

    /// Whether the secret has this hash; takes the same time for all that have
    /// not.
    #[must_use]
    pub fn has_hash(&self, stored: &[u8; 32]) -> bool {
        // Comparing hashes takes constant time.
        self.hash == *stored
    }
}

impl PartialEq for ApiKeyProof {
    fn eq(&self, other: &Self) -> bool {
        let is_same_secret = self.hash == other.hash;
        self.id == other.id && is_same_secret
    }
}

impl Eq for ApiKeyProof {}

impl Hash for ApiKeyProof {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        // The id names the key; a table need not look at the secret.
        self.id.hash(state);
    }
}

impl fmt::Debug for ApiKeyProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeyProof({}, …)", self.id)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key() -> ApiKey {
        ApiKey::of_random([1, 2, 3, 4, 5], &[7; 32])
    }

    #[test]
    fn a_key_is_64_characters_and_reads_back() {
        let key = key();
        assert_eq!(key.expose().len(), 64);
        let proof = ApiKeyProof::parse(key.expose()).unwrap();
        assert_eq!(proof.id().as_str(), &key.expose()[4..12]);
        assert_eq!(proof.secret_hash(), blake3::hash(&[7; 32]).as_bytes());
        assert!(proof.has_hash(blake3::hash(&[7; 32]).as_bytes()));
        assert!(!proof.has_hash(blake3::hash(&[8; 32]).as_bytes()));
        assert_eq!(KeyId::parse(proof.id().as_str()).as_ref(), Ok(proof.id()));
    }

    #[test]
    fn what_is_no_key_is_told_why() {
        let whole = key();
        let whole = whole.expose();
        let check = |text: &str, want: ApiKeyError| {
            assert_eq!(ApiKeyProof::parse(text).unwrap_err(), want, "{text}");
        };
        check("", ApiKeyError::NotAKey);
        check("alk", ApiKeyError::NotAKey);
        check("ALK_", ApiKeyError::NotAKey);
        check("alk_", ApiKeyError::Length { found: 4 });
        check(&whole[..63], ApiKeyError::Length { found: 63 });
        check(&format!("{whole}a"), ApiKeyError::Length { found: 65 });
        check(&whole.to_uppercase(), ApiKeyError::NotAKey);
        check(
            &format!("{}1{}", &whole[..20], &whole[21..]),
            ApiKeyError::Damaged,
        );
        check(&format!("{}A", &whole[..63]), ApiKeyError::Damaged);
        // The last character carries four bits that must be zero.
        let last = format!("{}b", &whole[..63]);
        check(&last, ApiKeyError::Damaged);
    }

    #[test]
    fn text_of_many_bytes_a_character_does_not_panic() {
        // 64 bytes in each, cut by the fields' borders within a character.
        for text in [
            format!("alk_{}", "é".repeat(30)),
            format!("alk_a{}b", "é".repeat(29)),
            format!("alk_{}", "€".repeat(20)),
            format!("alk_{}", "🔑".repeat(15)),
            format!("alk{}", "_é".repeat(20)),
        ] {
            assert!(ApiKeyProof::parse(&text).is_err(), "{text}");
        }
        assert!(KeyId::parse("éééé").is_err());
    }

    #[test]
    fn neither_prints_its_secret() {
        let key = key();
        let secret = &key.expose()[12..];
        let proof = ApiKeyProof::parse(key.expose()).unwrap();
        let hash = blake3::hash(&[7; 32]).to_hex();
        let printed = format!("{key:?} {proof:?}");
        assert!(
            !printed.contains(secret) && !printed.contains(&hash[..16]),
            "{printed}"
        );
    }
}
