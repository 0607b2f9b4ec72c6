//! The first steps: words, keys, a data directory.

use crate::{
    backup::is_interrupted,
    data_dir::{DataDir, DataDirError},
    secrets::Seals,
};
use alknet_core::{Secret, storage::hex32};
use alknet_store::{InstanceLock, LockError};
use alknet_vault::{
    CreateVaultError, KeyError, Mnemonic, NoRandomness, OpenVaultError, ParseMnemonicError,
    UnlockVaultError, Vault, Wrap,
};
use std::path::Path;

/// What `init` is to do.
#[derive(Default)]
pub struct InitOptions<'a> {
    /// Words of a node to bring back; new ones if `None`.
    pub words: Option<&'a str>,
    /// What protects the keys at rest, of at most 1,024 bytes of text; a key
    /// file beside them if `None`.
    pub passphrase: Option<&'a Secret>,
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
    /// A restore was interrupted: with new keys it would be another node than
    /// the one that was to be restored.
    #[error("`{0}` holds a restore that was interrupted")]
    HalfRestored(String),
    /// The database of a node is there, and its keys are gone.
    #[error("`{0}` holds a node's database and no keys")]
    KeysMissing(String),
    /// The words are no mnemonic.
    #[error("these words cannot bring a node back")]
    Words(#[source] ParseMnemonicError),
    /// The vault was not made.
    #[error("failed to make the vault")]
    Vault(#[source] CreateVaultError),
    /// The passphrase is no text.
    #[error("the passphrase that protects a vault must be text")]
    PassphraseNoText,
    /// A key could not be derived.
    #[error("failed to derive the keys")]
    Key(#[source] KeyError),
    /// The system gives no random numbers.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// Somebody else makes it a node at this moment.
    #[error(transparent)]
    Lock(#[from] LockError),
}

/// What helps when keys are gone and the rest of the node is there.
const KEYS_BACK: &str = "bring them back with its words: alknet init --restore -; or restore a backup into another directory";

impl InitError {
    /// The sentence that helps.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            InitError::Exists(_) => {
                Some("choose another --data-dir, or start it: alknet up".into())
            }
            InitError::HalfRestored(dir) => Some(format!("rm -r '{dir}', and restore again")),
            InitError::KeysMissing(_) => Some(KEYS_BACK.into()),
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
    // Before anything is made in it.
    check_free(dir, options)?;
    let chosen = Chosen::by(options)?;
    DataDir::new(dir).create()?;
    // Without it, a restore into the same directory would take this node's
    // files for its own.
    let _lock = InstanceLock::acquire(dir)?;
    check_free(dir, options)?;
    chosen.make(dir)
}

/// The same, for whoever holds the lock of the directory, which exists.
pub(crate) fn init_locked(dir: &Path, options: &InitOptions<'_>) -> Result<InitReport, InitError> {
    check_free(dir, options)?;
    Chosen::by(options)?.make(dir)
}

fn check_free(dir: &Path, options: &InitOptions<'_>) -> Result<(), InitError> {
    if is_initialised(dir) {
        return Err(InitError::Exists(dir.display().to_string()));
    }
    if is_interrupted(dir) {
        return Err(InitError::HalfRestored(dir.display().to_string()));
    }
    // New keys would make another node of it, which none of its peers knows.
    if options.words.is_none() && DataDir::new(dir).database().exists() {
        return Err(InitError::KeysMissing(dir.display().to_string()));
    }
    Ok(())
}

/// What the keys of a node are made of.
struct Chosen<'a> {
    words: Mnemonic,
    is_new: bool,
    wrap: Wrap<'a>,
}

impl<'a> Chosen<'a> {
    fn by(options: &InitOptions<'a>) -> Result<Self, InitError> {
        let words = match options.words {
            Some(words) => Mnemonic::parse(words).map_err(InitError::Words)?,
            None => Mnemonic::generate()?,
        };
        let wrap = match options.passphrase.map(Secret::expose_text) {
            None => Wrap::KeyFile,
            Some(Some(text)) => Wrap::Passphrase(text),
            Some(None) => return Err(InitError::PassphraseNoText),
        };
        Ok(Self {
            words,
            is_new: options.words.is_none(),
            wrap,
        })
    }

    fn make(self, dir: &Path) -> Result<InitReport, InitError> {
        let vault = Vault::create(dir, &self.words, "", self.wrap).map_err(InitError::Vault)?;
        let owner = vault.owner_key().map_err(InitError::Key)?;
        DataDir::new(dir).write_owner_key(owner.expose())?;
        let node = vault.node_key().map_err(InitError::Key)?;
        let words = self.is_new.then(|| self.words.expose().to_owned());
        Ok(InitReport {
            node_id: hex32::encode(&node.public_key()),
            words,
        })
    }
}

/// The keys a running node needs.
pub(crate) struct NodeKeys {
    pub(crate) node: iroh::SecretKey,
    pub(crate) owner_public: [u8; 32],
    /// What is stored sealed is sealed with these.
    pub(crate) seals: Seals,
}

/// Why the keys could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenKeysError {
    /// The vault does not open.
    #[error(transparent)]
    Vault(#[from] OpenVaultError),
    /// A passphrase protects them, and none was given.
    #[error("the keys are protected by a passphrase")]
    PassphraseNeeded,
    /// The passphrase that was given does not open them.
    #[error("failed to unlock the keys")]
    Unlock(#[from] UnlockVaultError),
    /// A key could not be derived.
    #[error("failed to derive the keys")]
    Key(#[source] KeyError),
    /// The owner's key cannot be written.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
}

impl OpenKeysError {
    /// The sentence that helps, where it is one of how to give a passphrase.
    pub(crate) fn passphrase_hint(&self) -> Option<String> {
        match self {
            Self::PassphraseNeeded => Some(
                "--passphrase-file FILE, or start it on a terminal, where it asks".into(),
            ),
            Self::Unlock(UnlockVaultError::WrongPassphrase) => Some(
                "if it is lost, the words bring the node back: alknet init --restore - --data-dir OTHER"
                    .into(),
            ),
            _ => None,
        }
    }
}

/// Opens the vault and derives the keys. An owner key that is missing, as
/// after an interrupted `init`, or another vault's, is derived again.
pub(crate) fn open_keys(
    data: &DataDir,
    passphrase: Option<&Secret>,
) -> Result<NodeKeys, OpenKeysError> {
    let mut vault = Vault::open(data.path())?;
    if !vault.is_unlocked() {
        let passphrase = passphrase.ok_or(OpenKeysError::PassphraseNeeded)?;
        // What is no text is no passphrase.
        let text = passphrase.expose_text();
        vault.unlock(text.ok_or(UnlockVaultError::WrongPassphrase)?)?;
    }
    let node = vault.node_key().map_err(OpenKeysError::Key)?;
    let owner = vault.owner_key().map_err(OpenKeysError::Key)?;
    let held = match data.owner_key().exists() {
        true => Some(data.read_owner_key()?),
        false => None,
    };
    if held.as_deref() != Some(owner.expose()) {
        data.write_owner_key(owner.expose())?;
    }
    Ok(NodeKeys {
        seals: Seals::new(vault.sealer().map_err(OpenKeysError::Key)?),
        node: iroh::SecretKey::from_bytes(node.expose()),
        owner_public: owner.public_key(),
    })
}
