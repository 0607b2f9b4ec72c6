//! Randomness from the operating system.

use rand::{TryRng, rngs::SysRng};

/// The operating system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct NoRandomness {
    source: rand::rngs::SysError,
}

/// Fills `bytes` from the operating system's generator.
///
/// Not the thread's generator: a few bytes are wanted once, and its state would
/// stay in memory.
pub(crate) fn fill(bytes: &mut [u8]) -> Result<(), NoRandomness> {
    SysRng
        .try_fill_bytes(bytes)
        .map_err(|source| NoRandomness { source })
}

/// Draws `N` bytes that are not secret, such as a nonce or a salt.
pub(crate) fn array<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    fill(&mut bytes)?;
    Ok(bytes)
}
