//! The first steps: words, keys, a data directory.

use crate::{
    data_dir::{DataDir, DataDirError},
    find::AtRest,
};
use alknet_core::storage::hex32;
use alknet_vault::{
    CreateVaultError, KeyError, Mnemonic, NoRandomness, OpenVaultError, ParseMnemonicError, Vault,
    Wrap,
};
use std::path::Path;

/// What `init` is to do.
#[derive(Default)]
pub struct InitOptions<'a> {
    /// Words of a node to bring back; new ones if `None`.
    pub words: Option<&'a str>,
}

/// What `init` did.
pub struct InitReport {
    /// The node's public key.
    pub node_id: String,
    /// The new words: shown once, kept nowhere.
    pub words: Option<String>,
}

impl std::fmt::Debug for InitReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InitReport")
            .field("node_id", &self.node_id)
            .finish_non_exhaustive()
    }
}

/// Why a node could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitError {
    /// There are keys already.
    #[error("`{0}` holds a node already")]
    Exists(String),
    /// The words are no mnemonic.
    #[error("these words cannot bring a node back")]
    Words(#[source] ParseMnemonicError),
    /// The vault was not made.
    #[error("failed to make the vault")]
    Vault(#[source] CreateVaultError),
    /// A key could not be derived.
    #[error("failed to derive the keys")]
    Key(#[source] KeyError),
    /// The system gives no random numbers.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
}

impl InitError {
    /// The sentence that helps.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            InitError::Exists(_) => {
                Some("choose another --data-dir, or start it: alknet up".into())
            }
            InitError::DataDir(error) => error.hint(),
            _ => None,
        }
    }
}

/// Whether a directory holds a node's keys.
#[must_use]
pub fn is_initialised(dir: &Path) -> bool {
    dir.join("vault.json").exists()
}

/// Makes a data directory with keys: new ones, or those behind words.
///
/// # Errors
///
/// [`InitError`]; a directory that holds a node is never changed.
pub fn init(dir: &Path, options: &InitOptions<'_>) -> Result<InitReport, InitError> {
    if is_initialised(dir) {
        return Err(InitError::Exists(dir.display().to_string()));
    }
    let restored = options
        .words
        .map(Mnemonic::parse)
        .transpose()
        .map_err(InitError::Words)?;
    let is_new = restored.is_none();
    let mnemonic = match restored {
        Some(mnemonic) => mnemonic,
        None => Mnemonic::generate()?,
    };
    let data = DataDir::new(dir);
    data.create()?;
    let vault = Vault::create(dir, &mnemonic, "", Wrap::KeyFile).map_err(InitError::Vault)?;
    let owner = vault.owner_key().map_err(InitError::Key)?;
    data.write_owner_key(owner.expose())?;
    let node = vault.node_key().map_err(InitError::Key)?;
    let words = is_new.then(|| mnemonic.expose().to_owned());
    Ok(InitReport {
        node_id: hex32::encode(&node.public_key()),
        words,
    })
}

/// Which of the vault's sealing keys is used.
const SEALING_VERSION: u32 = 1;

/// The keys a running node needs.
pub(crate) struct NodeKeys {
    pub(crate) node: iroh::SecretKey,
    pub(crate) owner_public: [u8; 32],
    /// Seals the secrets of networks.
    pub(crate) at_rest: AtRest,
}

/// Why the keys could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenKeysError {
    /// The vault does not open.
    #[error(transparent)]
    Vault(#[from] OpenVaultError),
    /// A key could not be derived.
    #[error("failed to derive the keys")]
    Key(#[source] KeyError),
    /// The owner's key cannot be written.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
}

/// Opens the vault and derives the keys. An owner key that is missing, as
/// after an interrupted `init`, is derived again.
pub(crate) fn open_keys(data: &DataDir) -> Result<NodeKeys, OpenKeysError> {
    let vault = Vault::open(data.path())?;
    let node = vault.node_key().map_err(OpenKeysError::Key)?;
    let owner = vault.owner_key().map_err(OpenKeysError::Key)?;
    if !data.owner_key().exists() {
        data.write_owner_key(owner.expose())?;
    }
    let sealing = vault
        .sealing_key(SEALING_VERSION)
        .map_err(OpenKeysError::Key)?;
    Ok(NodeKeys {
        at_rest: AtRest::new(sealing.expose()),
        node: iroh::SecretKey::from_bytes(node.expose()),
        owner_public: owner.public_key(),
    })
}
