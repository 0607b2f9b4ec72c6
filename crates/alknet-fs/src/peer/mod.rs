//! Copies from node to node: `fs/offer` and `fs/offered` where the files are,
//! `fs/pull` where they go. The caller carries a secret from one to the other,
//! and no bytes.

mod levels;
mod offer;
mod offers;
mod place;
mod pull;
mod receive;
mod serve;
mod sink;
mod tell;
mod wire;

pub use self::offers::{
    OFFER_EXPIRES_MAX, OFFER_IDLE_MAX, OFFERS_MAX, OFFERS_PER_CALLER_MAX, PeerFiles, not_connected,
};

use alknet_core::{Registration, files::FileService};
use std::sync::Arc;

/// The operations of copies between nodes: `fs/offer`, `fs/offered`, `fs/pull`.
#[must_use]
pub fn peer_operations(
    files: &Arc<dyn FileService>,
    peers: &Arc<dyn PeerFiles>,
) -> Vec<Registration> {
    let offers = Arc::default();
    vec![
        offer::offer(files, &offers, peers),
        offer::offered(files, &offers, peers),
        pull::pull(files, peers),
    ]
}
