//! The secret that nodes of one network share, and what is made of it.

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use std::fmt;
use zeroize::Zeroizing;

/// Networks a node may be a member of.
pub(crate) const NETWORKS_MAX: usize = 8;
/// Bytes of a nonce before what it seals.
const NONCE_BYTES: usize = 24;
/// What sealing adds: the nonce, and the tag of Poly1305.
pub(crate) const SEALING_BYTES: usize = NONCE_BYTES + 16;
/// Contexts of the keys that are derived (`derive_key` of BLAKE3): one for
/// each use, so that none says anything of another.
const ID_CONTEXT: &str = "alknet 2026 network id";
const SEAL_CONTEXT: &str = "alknet 2026 network seal";
const TAG_CONTEXT: &str = "alknet 2026 network tag";
const VAULT_CONTEXT: &str = "alknet 2026 network secret at rest";

/// Names a network; made of its secret, of which it says nothing.
pub(crate) type NetworkId = [u8; 16];
/// Names a node towards members of a network: whoever knows neither the
/// network nor the node learns nothing from it.
pub(crate) type NodeTag = [u8; 16];

/// What every member of a network knows.
#[derive(Clone)]
pub(crate) struct NetworkSecret(Zeroizing<[u8; 32]>);

impl NetworkSecret {
    pub(crate) fn new() -> Self {
        Self::from_bytes(rand::random())
    }

    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The secret itself, to be handed over inside an authenticated stream.
    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for NetworkSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NetworkSecret(..)")
    }
}

/// A network, ready to be used.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) id: NetworkId,
    pub(crate) secret: NetworkSecret,
    seal_key: Zeroizing<[u8; 32]>,
    tag_key: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Network(..)")
    }
}

/// A text that does not open with this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it was sealed with another key, or changed")]
pub(crate) struct Unsealed;

impl Network {
    pub(crate) fn new(secret: NetworkSecret) -> Self {
        let derive = |context| Zeroizing::new(blake3::derive_key(context, secret.expose()));
        let id = derive(ID_CONTEXT);
        Self {
            id: first_half(&id),
            seal_key: derive(SEAL_CONTEXT),
            tag_key: derive(TAG_CONTEXT),
            secret,
        }
    }

    pub(crate) fn tag(&self, node: &[u8; 32]) -> NodeTag {
        first_half(blake3::keyed_hash(&self.tag_key, node).as_bytes())
    }

    /// Seals a text for the members of this network.
    pub(crate) fn seal(&self, text: &[u8]) -> Vec<u8> {
        seal(&self.seal_key, &self.id, text)
    }

    pub(crate) fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, Unsealed> {
        open(&self.seal_key, &self.id, sealed)
    }
}

/// Seals the secrets of networks for the store.
#[derive(Clone)]
pub(crate) struct AtRest(Zeroizing<[u8; 32]>);

impl AtRest {
    /// With a key of the vault, from which the one used is derived.
    pub(crate) fn new(vault_key: &[u8; 32]) -> Self {
        Self(Zeroizing::new(blake3::derive_key(VAULT_CONTEXT, vault_key)))
    }

    pub(crate) fn seal(&self, network: &Network) -> Vec<u8> {
        seal(&self.0, &network.id, network.secret.expose())
    }

    pub(crate) fn open(&self, id: &NetworkId, sealed: &[u8]) -> Result<Network, Unsealed> {
        let secret = Zeroizing::new(open(&self.0, id, sealed)?);
        let secret: [u8; 32] = secret.as_slice().try_into().map_err(|_| Unsealed)?;
        let network = Network::new(NetworkSecret::from_bytes(secret));
        (network.id == *id).then_some(network).ok_or(Unsealed)
    }
}

impl fmt::Debug for AtRest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AtRest(..)")
    }
}

fn first_half(bytes: &[u8; 32]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&bytes[..16]);
    half
}

/// XChaCha20-Poly1305 with a random nonce in front, which its 24 bytes allow
/// (draft-irtf-cfrg-xchacha, 3).
fn seal(key: &[u8; 32], about: &[u8], text: &[u8]) -> Vec<u8> {
    let nonce: [u8; NONCE_BYTES] = rand::random();
    let payload = Payload {
        msg: text,
        aad: about,
    };
    let sealed = XChaCha20Poly1305::new(key.into()).encrypt(&XNonce::from(nonce), payload);
    // Only texts of 256 GiB cannot be sealed.
    [&nonce[..], &sealed.unwrap_or_default()].concat()
}

fn open(key: &[u8; 32], about: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Unsealed> {
    let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES).ok_or(Unsealed)?;
    let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| Unsealed)?;
    let payload = Payload {
        msg: sealed,
        aad: about,
    };
    XChaCha20Poly1305::new(key.into())
        .decrypt(&XNonce::from(nonce), payload)
        .map_err(|_| Unsealed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_members_of_a_network_open_what_was_sealed_for_it() {
        let one = Network::new(NetworkSecret::from_bytes([1; 32]));
        let other = Network::new(NetworkSecret::from_bytes([2; 32]));
        let sealed = one.seal(b"text");
        assert_eq!(sealed.len(), 4 + SEALING_BYTES);
        assert_eq!(one.open(&sealed).unwrap(), b"text");
        assert_eq!(other.open(&sealed), Err(Unsealed));
        assert_ne!(one.seal(b"text"), sealed);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(one.open(&changed), Err(Unsealed), "byte {at}");
            assert_eq!(one.open(&sealed[..at]), Err(Unsealed), "cut at {at}");
        }
    }

    #[test]
    fn names_of_networks_and_nodes_differ_and_show_no_secret() {
        let one = Network::new(NetworkSecret::from_bytes([1; 32]));
        let other = Network::new(NetworkSecret::from_bytes([2; 32]));
        assert_ne!(one.id, other.id);
        assert_ne!(one.tag(&[7; 32]), other.tag(&[7; 32]));
        assert_ne!(one.tag(&[7; 32]), one.tag(&[8; 32]));
        assert_eq!(
            format!("{one:?} {:?}", one.secret),
            "Network(..) NetworkSecret(..)"
        );
    }

    #[test]
    fn a_secret_at_rest_opens_with_its_vault_alone() {
        let network = Network::new(NetworkSecret::from_bytes([1; 32]));
        let vault = AtRest::new(&[5; 32]);
        let sealed = vault.seal(&network);
        let opened = vault.open(&network.id, &sealed).unwrap();
        assert_eq!(opened.secret.expose(), network.secret.expose());
        assert!(AtRest::new(&[6; 32]).open(&network.id, &sealed).is_err());
        assert!(vault.open(&[0; 16], &sealed).is_err());
    }
}
