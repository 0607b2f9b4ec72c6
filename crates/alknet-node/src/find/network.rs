//! The secret that nodes of one network share, and what is made of it.

use crate::secrets::{SealError, Seals, UNVERSIONED};
use alknet_vault::{About, OpenSealedError, Sealer};
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
#[derive(Clone, Debug)]
pub(crate) struct AtRest(Seals);

impl AtRest {
    pub(crate) fn new(seals: Seals) -> Self {
        Self(seals)
    }

    /// The sealed secret, and under which version of the key.
    pub(crate) fn seal(&self, network: &Network) -> Result<(u32, Vec<u8>), SealError> {
        let version = self.0.version();
        let sealer = self.0.sealer()?;
        let sealed = seal_network(&sealer, &network.id, version, network.secret.expose())?;
        Ok((version, sealed))
    }

    /// The version under which [`AtRest::seal`] seals.
    pub(crate) fn version(&self) -> u32 {
        self.0.version()
    }

    pub(crate) fn open(
        &self,
        id: &NetworkId,
        version: u32,
        sealed: &[u8],
    ) -> Result<Network, SealError> {
        let secret = open_network(&*self.0.sealer()?, id, version, sealed)?;
        let secret: Result<[u8; 32], _> = secret.as_slice().try_into();
        let secret = secret.map_err(|_| OpenSealedError::Malformed)?;
        let network = Network::new(NetworkSecret::from_bytes(secret));
        match network.id == *id {
            true => Ok(network),
            false => Err(OpenSealedError::Refused.into()),
        }
    }
}

/// Seals the secret of a network for its place.
pub(crate) fn seal_network(
    sealer: &Sealer,
    id: &NetworkId,
    version: u32,
    secret: &[u8],
) -> Result<Vec<u8>, SealError> {
    let id = data_encoding::HEXLOWER.encode(id);
    Ok(sealer.seal(version, &about_network(&id), secret)?)
}

/// Opens it, also if a release sealed it that knew no versions.
pub(crate) fn open_network(
    sealer: &Sealer,
    id: &NetworkId,
    version: u32,
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    if version == UNVERSIONED {
        let key = Zeroizing::new(blake3::derive_key(VAULT_CONTEXT, sealer.key(1)?.expose()));
        let opened = open(&key, id, sealed).map_err(|_| OpenSealedError::Refused)?;
        return Ok(Zeroizing::new(opened));
    }
    let id = data_encoding::HEXLOWER.encode(id);
    Ok(sealer.open(version, &about_network(&id), sealed)?)
}

fn about_network(id: &str) -> About<'_> {
    About {
        kind: "network",
        provider: "alknet",
        account: id,
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

/// The secret of 32 ones, as the release with format 2 of the store sealed it
/// by the vault of 16 fives.
#[cfg(test)]
pub(crate) const SEALED_BY_FORMAT_2: &[u8] = b"ed13a8fd68e6c1c25132775855a49b01a847b895c0cf990deeb6232fa433747d98b6e37e522d5bc10d4ec75157289e17475ce180cbff92dc157cbfbb0e4f964d7a221e716cc31ef1";

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

    fn sealer(byte: u8) -> Sealer {
        let words = alknet_vault::Mnemonic::from_entropy(&[byte; 16]).unwrap();
        Sealer::of(&words.to_seed(""))
    }

    #[test]
    fn a_secret_at_rest_opens_with_its_vault_alone() {
        let network = Network::new(NetworkSecret::from_bytes([1; 32]));
        let seals = Seals::new(sealer(5));
        let vault = AtRest::new(seals.clone());
        let (version, sealed) = vault.seal(&network).unwrap();
        assert_eq!(version, 1);
        let opened = vault.open(&network.id, version, &sealed).unwrap();
        assert_eq!(opened.secret.expose(), network.secret.expose());
        let other = AtRest::new(Seals::new(sealer(6)));
        assert!(other.open(&network.id, version, &sealed).is_err());
        assert!(vault.open(&[0; 16], version, &sealed).is_err());
        assert!(vault.open(&network.id, 2, &sealed).is_err());
        seals.lock();
        assert!(matches!(vault.seal(&network), Err(SealError::Locked)));
        let locked = vault.open(&network.id, version, &sealed);
        assert!(matches!(locked, Err(SealError::Locked)));
    }

    #[test]
    fn a_secret_that_was_sealed_before_there_were_versions_opens() {
        let network = Network::new(NetworkSecret::from_bytes([1; 32]));
        let sealed = data_encoding::HEXLOWER.decode(SEALED_BY_FORMAT_2).unwrap();
        let sealer = sealer(5);
        let vault = AtRest::new(Seals::new(sealer));
        let opened = vault.open(&network.id, UNVERSIONED, &sealed).unwrap();
        assert_eq!(opened.secret.expose(), network.secret.expose());
        assert!(vault.open(&network.id, 1, &sealed).is_err());
    }
}
