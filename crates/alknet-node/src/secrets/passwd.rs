//! What protects a vault at rest: to be asked, and to be changed.

use crate::setup::is_initialised;
use alknet_core::Secret;
use alknet_vault::{ChangeVaultError, OpenVaultError, UnlockVaultError, Vault, Wrap, WrapKind};
use std::path::Path;

/// What protects a node's keys at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// A key file beside the vault.
    KeyFile,
    /// A passphrase.
    Passphrase,
}

impl Protection {
    /// As it is shown: `key-file` or `passphrase`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KeyFile => WrapKind::KeyFile.name(),
            Self::Passphrase => WrapKind::Passphrase.name(),
        }
    }
}

/// Tells what protects the keys in `dir`, without opening them; nothing if there
/// are none.
///
/// # Errors
///
/// [`OpenVaultError`] if the vault cannot be read.
pub fn protection(dir: &Path) -> Result<Option<Protection>, OpenVaultError> {
    if !is_initialised(dir) {
        return Ok(None);
    }
    Vault::peek(dir).map(|wrap| {
        Some(match wrap {
            WrapKind::KeyFile => Protection::KeyFile,
            WrapKind::Passphrase => Protection::Passphrase,
        })
    })
}

/// Why what protects a vault was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProtectError {
    /// The vault does not open.
    #[error(transparent)]
    Vault(#[from] OpenVaultError),
    /// A passphrase protects it, and none was given.
    #[error("the vault is protected by a passphrase")]
    PassphraseNeeded,
    /// It is the wrong one.
    #[error(transparent)]
    Unlock(#[from] UnlockVaultError),
    /// The new passphrase is no text.
    #[error("the passphrase that protects a vault must be text")]
    NoText,
    /// It was not changed.
    #[error(transparent)]
    Change(#[from] ChangeVaultError),
}

/// Protects the keys in `dir` by `new`, or by a key file if that is `None`; `old`
/// is the passphrase so far. The keys stay, and a node that runs goes on. Blocks
/// for some tenths of a second.
///
/// # Errors
///
/// [`ProtectError`]; then they are protected as before.
pub fn protect(dir: &Path, old: Option<&Secret>, new: Option<&Secret>) -> Result<(), ProtectError> {
    let mut vault = Vault::open(dir)?;
    if !vault.is_unlocked() {
        let old = old.ok_or(ProtectError::PassphraseNeeded)?;
        vault.unlock(old.expose_text().ok_or(UnlockVaultError::WrongPassphrase)?)?;
    }
    let wrap = match new {
        None => Wrap::KeyFile,
        Some(new) => Wrap::Passphrase(new.expose_text().ok_or(ProtectError::NoText)?),
    };
    Ok(vault.rewrap(wrap)?)
}
