//! Secrets in memory: wiped when dropped, shown by nobody by accident.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use std::{borrow::Cow, fmt};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Longest secret that is taken: 64 KiB, more than any token or private key.
pub const SECRET_BYTES_MAX: usize = 64 * 1024;

/// Text or bytes that nobody may see: a token, a passphrase, a private key.
///
/// Wiped when dropped. It has no `Display`, cannot be serialised or cloned, and
/// its `Debug` shows nothing, not even how long it is; asking for the content is
/// always spelt `expose`. It can be read from JSON text, as the input of an
/// operation that is declared with
/// [`secret_input`](crate::OperationBuilder::secret_input); what that text was
/// read from is not this type's to wipe.
///
/// ```compile_fail,E0277
/// fn print(secret: impl std::fmt::Display) {}
/// print(alknet_core::Secret::new("s3cr3t"));
/// ```
///
/// ```compile_fail,E0277
/// fn store(secret: impl serde::Serialize) {}
/// store(alknet_core::Secret::new("s3cr3t"));
/// ```
///
/// ```compile_fail,E0277
/// fn copy(secret: impl Clone) {}
/// copy(alknet_core::Secret::new("s3cr3t"));
/// ```
pub struct Secret(Zeroizing<Box<[u8]>>);

impl Secret {
    /// Takes a secret. The memory that `secret` had is used on, or wiped.
    #[must_use]
    pub fn new(secret: impl Into<Vec<u8>>) -> Self {
        let bytes: Zeroizing<Vec<u8>> = Zeroizing::new(secret.into());
        // Not `into_boxed_slice` of a longer vector: it would move the bytes
        // and leave the old ones behind.
        Self(Zeroizing::new(bytes.as_slice().into()))
    }

    /// The bytes; copies made of them are the caller's to wipe.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The same as text, if it is any (UTF-8).
    #[must_use]
    pub fn expose_text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Compares in constant time, but for the length.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = Secret;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a secret text")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Secret, E> {
                Ok(Secret::new(text))
            }
            fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Secret, E> {
                Ok(Secret::new(text))
            }
        }
        d.deserialize_string(Text)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "writeOnly": true, "format": "password" })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_secret_is_what_was_given_and_shows_nothing() {
        let secret = Secret::new("s3cr3t");
        assert_eq!(secret.expose(), b"s3cr3t");
        assert_eq!(secret.expose_text(), Some("s3cr3t"));
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert_eq!(Secret::new([255]).expose_text(), None);
        assert!(Secret::new("").is_empty() && !secret.is_empty());
        assert!(secret == Secret::new("s3cr3t") && secret != Secret::new("s3cr3T"));
        assert!(secret != Secret::new("s3cr3"));
    }

    #[test]
    fn text_alone_is_read_and_an_error_does_not_repeat_it() {
        let read = serde_json::from_str::<Secret>("\"s3\\u0063r3t\"").unwrap();
        assert_eq!(read.expose(), b"s3cr3t");
        for wrong in ["12345678", "[\"s3cr3t\"]", "{\"s3cr3t\":1}", "null"] {
            let error = serde_json::from_str::<Secret>(wrong).unwrap_err();
            assert!(!error.to_string().contains("s3cr3t"), "{error}");
        }
    }
}
