//! Looks at the files of a data directory without changing them.

use crate::{
    builder::StartError, config::Config, data_dir::DataDir, operations::configured_operations,
    setup::OpenKeysError,
};
use alknet_core::storage::hex32;
use alknet_exec::{Exec, net::Net};
use alknet_fs::BucketConfig;
use alknet_store::{OpenStoreError, Store};
use alknet_vault::Vault;
use std::path::Path;

/// Checks what is only known with this machine at hand: the account and the
/// programs of the configured operations. Makes nothing.
///
/// # Errors
///
/// [`StartError`], as the start would give.
pub fn check_config(config: &Config, dir: &Path) -> Result<(), StartError> {
    let exec = Exec::new(config.exec.clone())?;
    Net::new(config.net.clone())?;
    configured_operations(config, &exec, dir)?;
    buckets(config, dir)?;
    Ok(())
}

/// The buckets of a node with this configuration and data directory, the inbox
/// among them, whether or not their directories are there.
///
/// # Errors
///
/// [`StartError`], as the start would give.
pub fn buckets(config: &Config, dir: &Path) -> Result<Vec<BucketConfig>, StartError> {
    Ok(config.files.buckets(&config.buckets, dir)?)
}

/// Opens the vault and answers with the node's public key; with nothing if a
/// passphrase protects it, without which only the file's own checksum is
/// checked.
///
/// # Errors
///
/// [`OpenKeysError`] if others may read the keys, or they do not open.
pub fn check_keys(dir: &Path) -> Result<Option<String>, OpenKeysError> {
    let data = DataDir::new(dir);
    data.check_modes()?;
    let vault = Vault::open(data.path())?;
    if !vault.is_unlocked() {
        return Ok(None);
    }
    let node = vault.node_key().map_err(OpenKeysError::Key)?;
    Ok(Some(hex32::encode(&node.public_key())))
}

/// Checks the database; `false` if there is none yet. Blocks.
///
/// # Errors
///
/// [`OpenStoreError`] if it cannot be used.
pub fn check_database(dir: &Path) -> Result<bool, OpenStoreError> {
    let path = DataDir::new(dir).database();
    if !path.exists() {
        return Ok(false);
    }
    Store::check(&path).map(|()| true)
}
