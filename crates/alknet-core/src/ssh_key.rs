//! Public SSH keys as people have them: a line of an OpenSSH `.pub` file
//! (RFC 4253, section 6.6; RFC 5656; RFC 8709; OpenSSH's `PROTOCOL.u2f`).

use data_encoding::{BASE64, BASE64_NOPAD};
use sha2::{Digest, Sha256};
use std::fmt;

/// Longest text that is looked at for a key.
pub const SSH_KEY_TEXT_BYTES_MAX: usize = 64 * 1024;
/// Longest comment that is kept, in bytes.
const COMMENT_BYTES_MAX: usize = 256;
/// Least and most bits of an RSA key.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=16_384;

/// Why a text is no public SSH key that is taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SshKeyError {
    /// There is none in it.
    #[error("there is no key in it: a public key is a line like `ssh-ed25519 AAAA… name`")]
    Missing,
    /// It is the secret half. Nothing of it is told.
    #[error("this is a private key, which nobody else may have: give the `.pub` file beside it")]
    Private,
    /// One at a time.
    #[error("there are {found} keys in it: give one at a time")]
    Several {
        /// How many.
        found: usize,
    },
    /// A line of an `authorized_keys` file, with options in front.
    #[error("there are options before the key, which mean nothing here: give the key alone")]
    Options,
    /// The certificate of a key.
    #[error("this is a certificate: give the public key of the authority that signed it")]
    Certificate,
    /// Longer than [`SSH_KEY_TEXT_BYTES_MAX`].
    #[error("the text is longer than {SSH_KEY_TEXT_BYTES_MAX} bytes")]
    TooLong,
    /// Not one of the types that are taken.
    #[error("`{kind}` is no type of key that is taken: ed25519, ecdsa, rsa and their `sk-` kinds")]
    UnknownType {
        /// The type that the line names.
        kind: String,
    },
    /// Too easy to break.
    #[error("the key is too weak: {reason}")]
    Weak {
        /// What is too weak.
        reason: String,
    },
    /// A character was changed on the way.
    #[error("the key is damaged: {reason}")]
    Damaged {
        /// What does not fit.
        reason: &'static str,
    },
}

/// A public SSH key.
#[derive(Clone, PartialEq, Eq)]
pub struct SshPublicKey {
    kind: &'static str,
    blob: Vec<u8>,
    comment: Option<String>,
}

const KINDS: &[(&str, Shape)] = &[
    ("ssh-ed25519", Shape::Ed25519),
    ("ecdsa-sha2-nistp256", Shape::Ecdsa("nistp256", 32)),
    ("ecdsa-sha2-nistp384", Shape::Ecdsa("nistp384", 48)),
    ("ecdsa-sha2-nistp521", Shape::Ecdsa("nistp521", 66)),
    ("ssh-rsa", Shape::Rsa),
    ("sk-ssh-ed25519@openssh.com", Shape::SkEd25519),
    ("sk-ecdsa-sha2-nistp256@openssh.com", Shape::SkEcdsa),
];

#[derive(Clone, Copy)]
enum Shape {
    Ed25519,
    /// The curve's name, and bytes of a coordinate.
    Ecdsa(&'static str, usize),
    Rsa,
    SkEd25519,
    SkEcdsa,
}

impl SshPublicKey {
    /// Reads the one key of a `.pub` file; empty lines and lines that begin
    /// with `#` are passed over.
    ///
    /// # Errors
    ///
    /// [`SshKeyError`]: what it says never quotes the text, but for the type
    /// that a line names.
    pub fn parse(text: &str) -> Result<Self, SshKeyError> {
        if text.len() > SSH_KEY_TEXT_BYTES_MAX {
            return Err(SshKeyError::TooLong);
        }
        // First, so that no other trouble is named: it must go no further.
        if text.contains("PRIVATE KEY") || text.starts_with("PuTTY-User-Key-File") {
            return Err(SshKeyError::Private);
        }
        let lines = text.lines().map(str::trim);
        let mut lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let line = lines.next().ok_or(SshKeyError::Missing)?;
        match lines.count() {
            0 => parse_line(line),
            more => Err(SshKeyError::Several { found: more + 1 }),
        }
    }

    /// What names the key: `SHA256:` and base64 of the hash, as OpenSSH prints
    /// it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        format!(
            "SHA256:{}",
            BASE64_NOPAD.encode(&Sha256::digest(&self.blob))
        )
    }

    /// Its type, such as `ssh-ed25519`.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.kind
    }

    /// What stands behind the key in the file, without control characters.
    #[must_use]
    pub fn comment(&self) -> Option<&str> {
        self.comment.as_deref()
    }
}

impl fmt::Display for SshPublicKey {
    /// As OpenSSH writes it, without the comment: `ssh-ed25519 AAAA…`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, BASE64.encode(&self.blob))
    }
}

impl fmt::Debug for SshPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SshPublicKey({})", self.fingerprint())
    }
}

fn parse_line(line: &str) -> Result<SshPublicKey, SshKeyError> {
    let mut words = line.split_ascii_whitespace();
    let named = words.next().ok_or(SshKeyError::Missing)?;
    let (kind, shape) = kind_of(named, line)?;
    let base64 = words.next().ok_or(SshKeyError::Damaged {
        reason: "nothing follows its type",
    })?;
    let blob = BASE64
        .decode(base64.as_bytes())
        .map_err(|_| SshKeyError::Damaged {
            reason: "it is not base64",
        })?;
    check_blob(&blob, kind, shape)?;
    let comment: Vec<&str> = words.collect();
    Ok(SshPublicKey {
        kind,
        blob,
        comment: clean_comment(&comment.join(" ")),
    })
}

fn kind_of(named: &str, line: &str) -> Result<(&'static str, Shape), SshKeyError> {
    if let Some(found) = KINDS.iter().find(|(kind, _)| *kind == named) {
        return Ok(*found);
    }
    if named.ends_with("-cert-v01@openssh.com") {
        return Err(SshKeyError::Certificate);
    }
    if named == "ssh-dss" {
        return Err(SshKeyError::Weak {
            reason: "DSA is no longer safe".into(),
        });
    }
    let has_key_behind = line
        .split_ascii_whitespace()
        .skip(1)
        .any(|word| KINDS.iter().any(|(kind, _)| *kind == word));
    if has_key_behind {
        return Err(SshKeyError::Options);
    }
    let kind = named.chars().filter(|c| !c.is_control()).take(40).collect();
    Err(SshKeyError::UnknownType { kind })
}

fn clean_comment(text: &str) -> Option<String> {
    let mut comment = crate::clean_foreign_text(text, COMMENT_BYTES_MAX);
    comment.truncate(comment.trim_end().len());
    (!comment.is_empty()).then_some(comment)
}

/// The fields of the key, each with its length in front (RFC 4251, section 5).
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<&'a [u8], SshKeyError> {
        let ends_early = SshKeyError::Damaged {
            reason: "it ends early",
        };
        let (length, rest) = self.0.split_first_chunk::<4>().ok_or(ends_early.clone())?;
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let (field, rest) = rest.split_at_checked(length).ok_or(ends_early)?;
        self.0 = rest;
        Ok(field)
    }

    fn end(&self) -> Result<(), SshKeyError> {
        match self.0 {
            [] => Ok(()),
            _ => Err(SshKeyError::Damaged {
                reason: "something follows the key",
            }),
        }
    }
}

fn check_blob(blob: &[u8], kind: &str, shape: Shape) -> Result<(), SshKeyError> {
    let mut fields = Fields(blob);
    if fields.next()? != kind.as_bytes() {
        return Err(SshKeyError::Damaged {
            reason: "it is of another type than the line says",
        });
    }
    match shape {
        Shape::Ed25519 => ed25519(fields.next()?)?,
        Shape::Ecdsa(curve, bytes) => ecdsa(&mut fields, curve, bytes)?,
        Shape::Rsa => rsa(&mut fields)?,
        Shape::SkEd25519 => {
            ed25519(fields.next()?)?;
            fields.next()?; // Which application the hardware made it for.
        }
        Shape::SkEcdsa => {
            ecdsa(&mut fields, "nistp256", 32)?;
            fields.next()?;
        }
    }
    fields.end()
}

fn ed25519(key: &[u8]) -> Result<(), SshKeyError> {
    match key.len() {
        32 => Ok(()),
        _ => Err(SshKeyError::Damaged {
            reason: "an Ed25519 key has 32 bytes",
        }),
    }
}

fn ecdsa(fields: &mut Fields<'_>, curve: &str, bytes: usize) -> Result<(), SshKeyError> {
    if fields.next()? != curve.as_bytes() {
        return Err(SshKeyError::Damaged {
            reason: "it is on another curve than its type says",
        });
    }
    // An uncompressed point: 4, and two coordinates (SEC 1, section 2.3.3).
    let point = fields.next()?;
    if point.first() == Some(&4) && point.len() == 1 + 2 * bytes {
        Ok(())
    } else {
        Err(SshKeyError::Damaged {
            reason: "its point is none of the curve",
        })
    }
}

fn rsa(fields: &mut Fields<'_>) -> Result<(), SshKeyError> {
    let bits = |number: &[u8]| {
        let number: &[u8] = match number.iter().position(|byte| *byte != 0) {
            Some(first) => &number[first..],
            None => &[],
        };
        let first = number.first().copied().unwrap_or_default();
        number.len() * 8
            - usize::try_from(first.leading_zeros())
                .unwrap_or(8)
                .min(number.len() * 8)
    };
    let exponent = fields.next()?;
    let modulus = bits(fields.next()?);
    if modulus < *RSA_BITS.start() {
        let reason = format!(
            "an RSA key of {modulus} bits, at least {} are needed",
            RSA_BITS.start()
        );
        return Err(SshKeyError::Weak { reason });
    }
    // One and two are no exponents.
    if bits(exponent) < 2 || !RSA_BITS.contains(&modulus) {
        return Err(SshKeyError::Damaged {
            reason: "its numbers make no RSA key",
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
