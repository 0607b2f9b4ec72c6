//! The vault: a wrapped seed on disk and the keys that come of it.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use zeroize::Zeroizing;

use crate::{
    disk::{self, KEY_FILE, ReadFileError, VAULT_FILE},
    envelope::{Damage, Envelope, FILE_BYTES_MAX, FORMAT, ParseEnvelopeError, Protection},
    mnemonic::Mnemonic,
    paths,
    random::{self, NoRandomness},
    seal::Sealer,
    secret::{SecretBytes, SecretKey32, Seed},
    slip10::{ExtendedKey, Index, IndexError},
    wrap::{Cost, PASSPHRASE_BYTES_MAX, Wrap, WrapKind},
};

/// Digits of a wrapping key in its file.
const KEY_DIGITS: usize = 64;

/// A node's seed in its data directory, locked or unlocked.
///
/// While unlocked, the seed is in memory; it is wiped by [`Vault::lock`] and on
/// drop. Nothing watches the files: a vault stays what it was when opened.
pub struct Vault {
    pub(crate) directory: PathBuf,
    pub(crate) envelope: Envelope,
    pub(crate) seed: Option<Seed>,
}

impl Vault {
    /// Stores the seed of `mnemonic` and its BIP39 `passphrase` (usually empty)
    /// in `directory`, and returns the unlocked vault.
    ///
    /// This is both `init` and `init --restore`. The directory is created with
    /// mode 0700 if it is missing. Returns after everything is on disk; when
    /// interrupted, no vault exists and creating it again works. A wrapping key
    /// that such an attempt left behind is used again, never overwritten.
    ///
    /// Blocks on the disk and, for a passphrase, for as long as its [`Cost`] says.
    ///
    /// # Errors
    ///
    /// [`CreateVaultError::Exists`] if the directory has a vault, which stays as
    /// it is; otherwise as [`CreateVaultError`] says.
    pub fn create(
        directory: &Path,
        mnemonic: &Mnemonic,
        passphrase: &str,
        wrap: Wrap<'_>,
    ) -> Result<Self, CreateVaultError> {
        let path = directory.join(VAULT_FILE);
        if fs::symlink_metadata(&path).is_ok() {
            return Err(CreateVaultError::Exists { path });
        }
        let io_at = |path: &Path, source| CreateVaultError::Io {
            path: path.into(),
            source,
        };
        disk::create_directory(directory).map_err(|source| io_at(directory, source))?;
        let (protection, key) = match wrap {
            Wrap::KeyFile => (Protection::KeyFile, create_key_file(directory)?),
            Wrap::Passphrase(text) => wrapping_key(text, Cost::DEFAULT)?,
            Wrap::PassphraseAtCost(text, cost) => wrapping_key(text, cost)?,
        };
        let seed = mnemonic.to_seed(passphrase);
        let envelope = Envelope::seal(protection, &key, &seed)?;
        match disk::write_new(directory, VAULT_FILE, &envelope.to_json()) {
            Ok(()) => Ok(Self {
                directory: directory.into(),
                envelope,
                seed: Some(seed),
            }),
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {
                Err(CreateVaultError::Exists { path })
            }
            Err(source) => Err(io_at(&path, source)),
        }
    }

    /// Opens the vault in `directory`: unlocked if a key file wraps it, locked if
    /// a passphrase does.
    ///
    /// # Errors
    ///
    /// See [`OpenVaultError`]. No content of the files makes it panic, and none
    /// makes it read more than some kilobytes.
    pub fn open(directory: &Path) -> Result<Self, OpenVaultError> {
        let envelope = read_envelope(&directory.join(VAULT_FILE))?;
        let seed = match envelope.protection {
            Protection::Passphrase { .. } => None,
            Protection::KeyFile => {
                let key = read_key_file(directory)?;
                let seed = envelope.unseal(&key);
                Some(seed.ok_or_else(|| OpenVaultError::WrongKeyFile {
                    path: directory.join(KEY_FILE),
                })?)
            }
        };
        Ok(Self {
            directory: directory.into(),
            envelope,
            seed,
        })
    }

    /// Tells what wraps the seed of the vault in `directory`, and opens nothing.
    ///
    /// # Errors
    ///
    /// See [`OpenVaultError`].
    pub fn peek(directory: &Path) -> Result<WrapKind, OpenVaultError> {
        read_envelope(&directory.join(VAULT_FILE)).map(|envelope| envelope.protection.kind())
    }

    /// Unlocks a vault that a passphrase wraps.
    ///
    /// Checks the passphrase even if the vault is unlocked already; a wrong one
    /// changes nothing. Blocks for as long as the vault's [`Cost`] says, some
    /// tenths of a second by default: not for an async task.
    ///
    /// # Errors
    ///
    /// [`UnlockVaultError::WrongPassphrase`] if it is not the passphrase;
    /// otherwise as [`UnlockVaultError`] says.
    pub fn unlock(&mut self, passphrase: &str) -> Result<(), UnlockVaultError> {
        let Protection::Passphrase { cost, salt } = self.envelope.protection else {
            return Err(UnlockVaultError::NoPassphrase);
        };
        if passphrase.len() > PASSPHRASE_BYTES_MAX {
            return Err(UnlockVaultError::WrongPassphrase);
        }
        let key = cost
            .key(passphrase, &salt)
            .ok_or(UnlockVaultError::OutOfMemory {
                memory_kib: cost.memory_kib(),
            })?;
        let seed = self.envelope.unseal(&key);
        self.seed = Some(seed.ok_or(UnlockVaultError::WrongPassphrase)?);
        Ok(())
    }

    /// Wipes the seed from memory.
    ///
    /// [`Vault::unlock`] brings it back; a vault wrapped by a key file is opened
    /// again instead. Keys taken before stay valid.
    pub fn lock(&mut self) {
        self.seed = None;
    }

    /// Tells whether keys can be taken.
    pub fn is_unlocked(&self) -> bool {
        self.seed.is_some()
    }

    /// Tells what wraps the seed.
    pub fn wrap(&self) -> WrapKind {
        self.envelope.protection.kind()
    }

    /// Returns the directory that this vault was opened or created in.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Derives the node's identity, `m/74'/0'/0'/0'`; its public key is the node id.
    ///
    /// # Errors
    ///
    /// [`KeyError::Locked`] if the vault is locked.
    pub fn node_key(&self) -> Result<SecretKey32, KeyError> {
        self.derive(&paths::NODE)
    }

    /// Derives the key of the node's owner, `m/74'/0'/0'/1'`.
    ///
    /// # Errors
    ///
    /// [`KeyError::Locked`] if the vault is locked.
    pub fn owner_key(&self) -> Result<SecretKey32, KeyError> {
        self.derive(&paths::OWNER)
    }

    /// Derives the host key of the SSH server, `m/74'/0'/1'/0'`.
    ///
    /// # Errors
    ///
    /// [`KeyError::Locked`] if the vault is locked.
    pub fn ssh_host_key(&self) -> Result<SecretKey32, KeyError> {
        self.derive(&paths::SSH_HOST)
    }

    /// Derives version `version` of the symmetric key that seals stored
    /// credentials, `m/74'/2'/0'/version'`.
    ///
    /// # Errors
    ///
    /// [`KeyError::Locked`] if the vault is locked, [`KeyError::Version`] if
    /// `version` is above [`Index::MAX`].
    pub fn sealing_key(&self, version: u32) -> Result<SecretKey32, KeyError> {
        self.derive(&paths::sealing(version)?)
    }

    /// Hands out the keys that seal, and nothing else: they go on working when
    /// the vault is locked or dropped.
    ///
    /// # Errors
    ///
    /// [`KeyError::Locked`] if the vault is locked.
    pub fn sealer(&self) -> Result<Sealer, KeyError> {
        let seed = self.seed.as_ref().ok_or(KeyError::Locked)?;
        Ok(Sealer::of(seed))
    }

    fn derive(&self, path: &[Index]) -> Result<SecretKey32, KeyError> {
        let seed = self.seed.as_ref().ok_or(KeyError::Locked)?;
        Ok(ExtendedKey::of(seed).descend(path).into_key())
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault")
            .field("directory", &self.directory)
            .field("wrap", &self.wrap())
            .field("unlocked", &self.is_unlocked())
            .finish_non_exhaustive()
    }
}

/// Makes the key of a passphrase that is about to wrap a new vault.
pub(crate) fn wrapping_key(
    passphrase: &str,
    cost: Cost,
) -> Result<(Protection, SecretBytes<32>), CreateVaultError> {
    match passphrase.len() {
        0 => return Err(CreateVaultError::EmptyPassphrase),
        1..=PASSPHRASE_BYTES_MAX => {}
        bytes => return Err(CreateVaultError::PassphraseTooLong { bytes }),
    }
    let salt = random::array()?;
    let key = cost
        .key(passphrase, &salt)
        .ok_or(CreateVaultError::OutOfMemory {
            memory_kib: cost.memory_kib(),
        })?;
    Ok((Protection::Passphrase { cost, salt }, key))
}

/// Writes a new wrapping key, or reads the one that is there.
///
/// The key comes before the vault, so a key without a vault wraps nothing yet.
/// Of two that create one vault at once, both arrive at the same key, and only
/// the vault decides who was first.
fn create_key_file(directory: &Path) -> Result<SecretBytes<32>, CreateVaultError> {
    let (key, line) = new_key()?;
    match disk::write_new(directory, KEY_FILE, &*line) {
        Ok(()) => Ok(key),
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {
            read_key_file(directory).map_err(|err| CreateVaultError::KeyFile(Box::new(err)))
        }
        Err(source) => Err(CreateVaultError::Io {
            path: directory.join(KEY_FILE),
            source,
        }),
    }
}

/// Draws a wrapping key, and writes it as its file holds it.
pub(crate) fn new_key() -> Result<(SecretBytes<32>, Zeroizing<[u8; KEY_DIGITS + 1]>), NoRandomness>
{
    let mut key = SecretBytes::zeroed();
    random::fill(key.expose_mut())?;
    let mut line = Zeroizing::new([b'\n'; KEY_DIGITS + 1]);
    HEXLOWER.encode_mut(key.expose(), &mut line[..KEY_DIGITS]);
    Ok((key, line))
}

/// Reads a wrapped seed.
pub(crate) fn read_envelope(path: &Path) -> Result<Envelope, OpenVaultError> {
    let bytes = disk::read(path, FILE_BYTES_MAX)
        .map_err(|err| OpenVaultError::reading(path, FILE_BYTES_MAX, err))?;
    Envelope::parse(&bytes).map_err(|err| match err {
        ParseEnvelopeError::TooNew { found } => OpenVaultError::TooNew {
            path: path.into(),
            found,
            known: FORMAT,
        },
        ParseEnvelopeError::Damage(source) => OpenVaultError::Damaged {
            path: path.into(),
            source,
        },
    })
}

pub(crate) fn read_key_file(directory: &Path) -> Result<SecretBytes<32>, OpenVaultError> {
    // Room for the end of a line, in any style.
    const BYTES_MAX: usize = KEY_DIGITS + 2;
    let path = directory.join(KEY_FILE);
    let text = disk::read(&path, BYTES_MAX).map_err(|err| match err {
        ReadFileError::Missing => OpenVaultError::KeyFileMissing { path: path.clone() },
        err => OpenVaultError::reading(&path, BYTES_MAX, err),
    })?;
    let digits = text.trim_ascii_end();
    let mut key = SecretBytes::zeroed();
    // `decode_mut` panics unless the lengths fit, hence the order.
    if digits.len() == KEY_DIGITS
        && HEXLOWER_PERMISSIVE
            .decode_mut(digits, key.expose_mut())
            .is_ok()
    {
        return Ok(key);
    }
    Err(OpenVaultError::Damaged {
        path,
        source: Damage::Key,
    })
}

/// Why a vault was not created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateVaultError {
    /// The directory has a vault already.
    #[error("vault `{}` exists already, and is never overwritten", .path.display())]
    Exists {
        /// The file that is there.
        path: PathBuf,
    },
    /// A wrapping passphrase must have at least one character.
    #[error("the passphrase that protects a vault must not be empty")]
    EmptyPassphrase,
    /// The wrapping passphrase is longer than [`PASSPHRASE_BYTES_MAX`].
    #[error(
        "the passphrase that protects a vault has {bytes} bytes, \
         more than {PASSPHRASE_BYTES_MAX}"
    )]
    PassphraseTooLong {
        /// Length of the passphrase.
        bytes: usize,
    },
    /// The machine cannot spare the memory that the passphrase's cost asks for.
    #[error("the passphrase needs {memory_kib} KiB of memory, which are not available")]
    OutOfMemory {
        /// The memory, in KiB.
        memory_kib: u32,
    },
    /// The directory has a key file without a vault, and it cannot be used.
    #[error("the key file that is there already cannot be used")]
    KeyFile(#[source] Box<OpenVaultError>),
    /// The operating system gave no random bytes.
    #[error("failed to draw a key")]
    NoRandomness(#[from] NoRandomness),
    /// The disk said no.
    #[error("failed to write `{}`", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
}

/// Why a vault was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenVaultError {
    /// The directory has no vault.
    #[error("there is no vault `{}`", .path.display())]
    Missing {
        /// The file that is missing.
        path: PathBuf,
    },
    /// The vault is there, but the key file that unlocks it is not.
    #[error(
        "key file `{}` is missing; without it, the mnemonic alone brings the vault back",
        .path.display()
    )]
    KeyFileMissing {
        /// The file that is missing.
        path: PathBuf,
    },
    /// The key file is sound, but wraps another vault.
    #[error("key file `{}` does not belong to the vault beside it", .path.display())]
    WrongKeyFile {
        /// The key file.
        path: PathBuf,
    },
    /// Others than its owner may read or write a file.
    #[error(
        "file `{}` has mode {mode:04o}, which lets others than its owner reach it, and must have 0600",
        .path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The vault was written by a newer release.
    #[error("vault `{}` has format {found}, newest known is {known}", .path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The newest format that this release reads.
        known: u64,
    },
    /// A file is not what was once written.
    #[error("file `{}` is damaged", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Damage,
    },
    /// The disk said no.
    #[error("failed to read `{}`", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
}

impl OpenVaultError {
    pub(crate) fn reading(path: &Path, bytes_max: usize, err: ReadFileError) -> Self {
        let path = path.into();
        match err {
            ReadFileError::Missing => Self::Missing { path },
            ReadFileError::Exposed { mode } => Self::Exposed { path, mode },
            ReadFileError::TooLong => Self::Damaged {
                path,
                source: Damage::TooLong { bytes_max },
            },
            ReadFileError::Io(source) => Self::Io { path, source },
        }
    }
}

/// Why a vault was not unlocked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnlockVaultError {
    /// It is not the passphrase of this vault.
    #[error("the passphrase is wrong")]
    WrongPassphrase,
    /// A key file wraps this vault; opening it unlocks it.
    #[error("the vault is protected by a key file and has no passphrase")]
    NoPassphrase,
    /// The machine cannot spare the memory that the passphrase's cost asks for.
    #[error("the passphrase needs {memory_kib} KiB of memory, which are not available")]
    OutOfMemory {
        /// The memory, in KiB.
        memory_kib: u32,
    },
}

/// Why a key was not derived.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The vault is locked.
    #[error("the vault is locked")]
    Locked,
    /// There is no such version of the sealing key.
    #[error("there is no such version of the sealing key")]
    Version(#[from] IndexError),
    /// The operating system gave no random bytes.
    #[error("failed to draw a nonce")]
    NoRandomness,
}
