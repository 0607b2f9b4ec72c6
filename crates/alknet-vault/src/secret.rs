//! Types that hold secret bytes: boxed, so that moving one leaves no copy
//! behind, and wiped when dropped.

use std::fmt;

use ed25519_dalek::SigningKey;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// `N` secret bytes on the heap; every secret of this crate rests in one.
pub(crate) struct SecretBytes<const N: usize>(Box<[u8; N]>);

impl<const N: usize> SecretBytes<N> {
    pub(crate) fn zeroed() -> Self {
        Self(Box::new([0; N]))
    }

    /// Copies `bytes`, or returns `None` if there are not `N` of them.
    pub(crate) fn copy_from(bytes: &[u8]) -> Option<Self> {
        let mut secret = Self::zeroed();
        (bytes.len() == N).then(|| secret.0.copy_from_slice(bytes))?;
        Some(secret)
    }

    pub(crate) fn expose(&self) -> &[u8; N] {
        &self.0
    }

    pub(crate) fn expose_mut(&mut self) -> &mut [u8; N] {
        &mut self.0
    }
}

impl<const N: usize> Drop for SecretBytes<N> {
    fn drop(&mut self) {
        self.0.as_mut().zeroize();
    }
}

impl<const N: usize> ZeroizeOnDrop for SecretBytes<N> {}

/// The 64 bytes that BIP39 makes of a mnemonic and its passphrase; root of
/// every key.
///
/// Wiped when dropped.
pub struct Seed(pub(crate) SecretBytes<64>);

impl Seed {
    /// Hands out the secret bytes; copies made of them are the caller's to wipe.
    pub fn expose(&self) -> &[u8; 64] {
        self.0.expose()
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// A secret of 32 bytes: an Ed25519 private key (the seed of RFC 8032 section
/// 5.1.5) or a symmetric key.
///
/// Wiped when dropped.
pub struct SecretKey32(pub(crate) SecretBytes<32>);

impl SecretKey32 {
    /// Hands out the secret bytes; copies made of them are the caller's to wipe.
    pub fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    /// Returns the Ed25519 public key that belongs to this private key
    /// (RFC 8032 section 5.1.5).
    ///
    /// For the node key this is the node id. Of a sealing key it means nothing.
    pub fn public_key(&self) -> [u8; 32] {
        SigningKey::from_bytes(self.expose())
            .verifying_key()
            .to_bytes()
    }
}

impl fmt::Debug for SecretKey32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey32(..)")
    }
}
