//! Which key sits where in the tree; changing a path changes node ids.

use crate::slip10::{Index, IndexError};

type Path = [Index; 4];

/// The purpose that every path of this project starts with.
const ALKNET: Index = Index::fixed::<74>();

/// Identity of the node: `m/74'/0'/0'/0'`.
pub(crate) const NODE: Path = identity(Index::fixed::<0>(), Index::fixed::<0>());

/// The node's owner, for the command line on the same machine: `m/74'/0'/0'/1'`.
pub(crate) const OWNER: Path = identity(Index::fixed::<0>(), Index::fixed::<1>());

/// Host key of the SSH server: `m/74'/0'/1'/0'`.
pub(crate) const SSH_HOST: Path = identity(Index::fixed::<1>(), Index::fixed::<0>());

/// Where the sealing keys of all versions come from: `m/74'/2'/0'`.
pub(crate) const SEALING: [Index; 3] = [ALKNET, Index::fixed::<2>(), Index::fixed::<0>()];

/// Key that seals stored credentials, in its `version`: `m/74'/2'/0'/version'`.
pub(crate) fn sealing(version: u32) -> Result<Path, IndexError> {
    let [purpose, sealing, zero] = SEALING;
    Ok([purpose, sealing, zero, Index::new(version)?])
}

const fn identity(use_for: Index, which: Index) -> Path {
    [ALKNET, Index::fixed::<0>(), use_for, which]
}
