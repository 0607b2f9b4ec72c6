//! What the vault seals: the keys for it while the node runs, the credentials
//! that operations are given, and the change to another vault.

mod credentials;
mod passwd;
mod replace;

pub(crate) use self::{
    credentials::{Credentials, CredentialsError, Listed},
    replace::settle,
};
pub use self::{
    passwd::{ProtectError, Protection, protect, protection},
    replace::{ReplaceError, Replaced, Replacement},
};

use alknet_core::CredentialName;
use alknet_store::SealedRow;
use alknet_vault::{About, KeyError, OpenSealedError, Sealer};
use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicU32, Ordering},
};
use zeroize::Zeroizing;

/// Version 0 of a network's secret: how it was sealed before there were
/// versions, with a key derived from this one.
pub(crate) const UNVERSIONED: u32 = 0;

/// The sealing keys of a running node, until they are locked away. Clones are
/// the same keys.
#[derive(Clone)]
pub(crate) struct Seals(Arc<State>);

struct State {
    sealer: RwLock<Option<Arc<Sealer>>>,
    version: AtomicU32,
}

/// Why something was not sealed, or not opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealError {
    /// The keys are locked away.
    #[error("the vault is locked")]
    Locked,
    /// It does not open.
    #[error(transparent)]
    Sealed(#[from] OpenSealedError),
    /// It cannot be sealed.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl Seals {
    pub(crate) fn new(sealer: Sealer) -> Self {
        Self(Arc::new(State {
            sealer: RwLock::new(Some(Arc::new(sealer))),
            version: AtomicU32::new(1),
        }))
    }

    /// The version under which new secrets are sealed.
    pub(crate) fn version(&self) -> u32 {
        self.0.version.load(Ordering::SeqCst)
    }

    pub(crate) fn use_version(&self, version: u32) {
        self.0.version.store(version, Ordering::SeqCst);
    }

    /// Wipes the keys, as soon as nobody is using them.
    pub(crate) fn lock(&self) {
        self.write(None);
    }

    pub(crate) fn unlock(&self, sealer: Sealer) {
        self.write(Some(Arc::new(sealer)));
    }

    fn write(&self, sealer: Option<Arc<Sealer>>) {
        let held = self.0.sealer.write();
        *held.unwrap_or_else(PoisonError::into_inner) = sealer;
    }

    pub(crate) fn is_locked(&self) -> bool {
        self.sealer().is_err()
    }

    pub(crate) fn sealer(&self) -> Result<Arc<Sealer>, SealError> {
        let held = self.0.sealer.read();
        let held = held.unwrap_or_else(PoisonError::into_inner);
        held.clone().ok_or(SealError::Locked)
    }
}

impl std::fmt::Debug for Seals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seals(..)")
    }
}

fn about_credential(name: &CredentialName) -> About<'_> {
    About {
        kind: "credential",
        provider: name.provider(),
        account: name.account(),
    }
}

/// Opens whatever lies in the store.
fn open_row(sealer: &Sealer, row: &SealedRow<'_>) -> Result<Zeroizing<Vec<u8>>, SealError> {
    match row {
        SealedRow::Credential {
            name,
            key_version,
            sealed,
        } => Ok(sealer.open(*key_version, &about_credential(name), sealed)?),
        SealedRow::Network {
            id,
            key_version,
            sealed,
        } => crate::find::open_network(sealer, id, *key_version, sealed),
        _ => Err(SealError::Sealed(OpenSealedError::Malformed)),
    }
}

/// Seals what [`open_row`] opened, for the same place.
fn seal_row(
    sealer: &Sealer,
    version: u32,
    row: &SealedRow<'_>,
    secret: &[u8],
) -> Result<Vec<u8>, SealError> {
    match row {
        SealedRow::Credential { name, .. } => {
            Ok(sealer.seal(version, &about_credential(name), secret)?)
        }
        SealedRow::Network { id, .. } => crate::find::seal_network(sealer, id, version, secret),
        _ => Err(SealError::Sealed(OpenSealedError::Malformed)),
    }
}

/// A row sealed anew; `None` if it does not open.
fn resealed(
    from: &Sealer,
    to: &Sealer,
    version: u32,
    row: &SealedRow<'_>,
) -> Result<Option<Vec<u8>>, SealError> {
    match open_row(from, row) {
        Ok(secret) => seal_row(to, version, row, &secret).map(Some),
        Err(_) => Ok(None),
    }
}
