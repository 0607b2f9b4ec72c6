//! What protects a seed at rest, and what a passphrase costs to try.

use std::fmt;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::secret::SecretBytes;

/// Longest passphrase that can wrap a vault.
pub const PASSPHRASE_BYTES_MAX: usize = 1024;

/// How to protect the seed of a new vault.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum Wrap<'a> {
    /// By 32 random bytes in a file beside the vault, so that a node starts
    /// without anybody present.
    KeyFile,
    /// By a passphrase, with the default [`Cost`]. Taken as its UTF-8 bytes,
    /// without any normalisation; 1 to [`PASSPHRASE_BYTES_MAX`] of them.
    Passphrase(&'a str),
    /// By a passphrase, with a chosen [`Cost`], for very small machines.
    PassphraseAtCost(&'a str, Cost),
}

impl fmt::Debug for Wrap<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyFile => f.write_str("KeyFile"),
            Self::Passphrase(_) => f.write_str("Passphrase(..)"),
            Self::PassphraseAtCost(_, cost) => write!(f, "PassphraseAtCost(.., {cost:?})"),
        }
    }
}

/// What protects the seed of an existing vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WrapKind {
    /// A key file beside the vault.
    KeyFile,
    /// A passphrase.
    Passphrase,
}

impl WrapKind {
    /// The name used in files: `key-file` or `passphrase`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::KeyFile => "key-file",
            Self::Passphrase => "passphrase",
        }
    }
}

/// What one try of a passphrase costs: the parameters of argon2id (RFC 9106).
///
/// Bounded on both sides, since a file states the cost that its reader pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Cost {
    /// 64 MiB, 3 passes, 1 lane: a fraction of a second on a small machine.
    pub const DEFAULT: Self = Self {
        memory_kib: 64 * 1024,
        passes: 3,
        lanes: 1,
    };
    /// Least memory, in KiB.
    pub const MEMORY_KIB_MIN: u32 = 8 * 1024;
    /// Most memory, in KiB.
    pub const MEMORY_KIB_MAX: u32 = 1024 * 1024;
    /// Most passes over the memory; the least is one.
    pub const PASSES_MAX: u32 = 16;
    /// Most lanes; the least is one. Lanes are computed one after the other.
    pub const LANES_MAX: u32 = 4;

    /// Chooses a cost.
    ///
    /// # Errors
    ///
    /// [`CostError`] if a parameter is outside the bounds given here.
    pub fn new(memory_kib: u32, passes: u32, lanes: u32) -> Result<Self, CostError> {
        if !(Self::MEMORY_KIB_MIN..=Self::MEMORY_KIB_MAX).contains(&memory_kib) {
            return Err(CostError::Memory { kib: memory_kib });
        }
        if !(1..=Self::PASSES_MAX).contains(&passes) {
            return Err(CostError::Passes { passes });
        }
        if !(1..=Self::LANES_MAX).contains(&lanes) {
            return Err(CostError::Lanes { lanes });
        }
        Ok(Self {
            memory_kib,
            passes,
            lanes,
        })
    }

    /// Returns the memory, in KiB.
    pub fn memory_kib(&self) -> u32 {
        self.memory_kib
    }

    /// Returns the number of passes over the memory.
    pub fn passes(&self) -> u32 {
        self.passes
    }

    /// Returns the number of lanes.
    pub fn lanes(&self) -> u32 {
        self.lanes
    }

    /// Makes a key of a passphrase of at most [`PASSPHRASE_BYTES_MAX`], or
    /// returns `None` if the machine has not enough memory.
    pub(crate) fn key(&self, passphrase: &str, salt: &[u8; 16]) -> Option<SecretBytes<32>> {
        // argon2 checks bounds again that are kept here, so that only the
        // memory can fail.
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(32)).ok()?;
        // argon2 would allocate by itself, but not wipe.
        let mut blocks = Vec::new();
        blocks.try_reserve_exact(params.block_count()).ok()?;
        blocks.resize(params.block_count(), Block::new());
        let mut key = SecretBytes::zeroed();
        let hashed = Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into_with_memory(
                passphrase.as_bytes(),
                salt,
                key.expose_mut(),
                &mut blocks,
            );
        blocks.zeroize();
        hashed.ok().map(|()| key)
    }
}

impl Default for Cost {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A parameter of [`Cost`] that is out of bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CostError {
    /// Too little or too much memory.
    #[error(
        "argon2id memory of {kib} KiB is not between {} and {}",
        Cost::MEMORY_KIB_MIN,
        Cost::MEMORY_KIB_MAX
    )]
    Memory {
        /// The refused memory, in KiB.
        kib: u32,
    },
    /// No pass, or too many.
    #[error("{passes} argon2id passes are not between 1 and {}", Cost::PASSES_MAX)]
    Passes {
        /// The refused number of passes.
        passes: u32,
    },
    /// No lane, or too many.
    #[error("{lanes} argon2id lanes are not between 1 and {}", Cost::LANES_MAX)]
    Lanes {
        /// The refused number of lanes.
        lanes: u32,
    },
}
