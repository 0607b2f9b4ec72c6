//! A vault as bytes, for a backup.

use crate::{
    envelope::Envelope,
    vault::{CreateVaultError, Vault, wrapping_key},
    wrap::Cost,
};

impl Vault {
    /// Returns the content of a [`VAULT_FILE`](crate::VAULT_FILE) that holds
    /// this vault's seed under `passphrase`, whatever wraps it here; `None` if
    /// the vault is locked. Written to a directory of its own, it opens there
    /// with that passphrase. Nothing is written here.
    ///
    /// Blocks for as long as the default [`Cost`] says.
    ///
    /// # Errors
    ///
    /// [`CreateVaultError`] if the passphrase is empty or too long, or the
    /// machine has too little memory for it.
    pub fn wrapped(&self, passphrase: &str) -> Result<Option<Vec<u8>>, CreateVaultError> {
        let Some(seed) = &self.seed else {
            return Ok(None);
        };
        let (protection, key) = wrapping_key(passphrase, Cost::DEFAULT)?;
        Ok(Some(Envelope::seal(protection, &key, seed)?.to_json()))
    }
}
