//! Peers on the same LAN, by multicast DNS (RFC 6762), if that was chosen:
//! the node announces its key and addresses there, and finds its peers' ones.

use super::Finder;
use crate::dialer::vetted;
use alknet_core::{PeerId, storage::PeerAddresses};
use futures::StreamExt;
use iroh::{
    Endpoint, EndpointId,
    address_lookup::{
        AddrFilter, AddressLookup, AddressLookupBuilderError, EndpointData, Error, Item,
    },
};
use iroh_mdns_address_lookup::{DiscoveryEvent, MdnsAddressLookup};
use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Weak},
    time::Duration,
};

/// The service's name: `_alknet._udp.local`.
const SERVICE: &str = "alknet";
/// Time between two rounds of questions on a quiet LAN.
const CADENCE: Duration = Duration::from_secs(2);
/// Names this lookup in the library's metrics and logs.
const NAME: &str = "alknet-mdns";

type Items = Pin<Box<dyn futures::Stream<Item = Result<Item, Error>> + Send>>;

/// What the LAN says of peers. Anybody on it can say anything: other keys are
/// not asked about, and addresses that a stranger could aim with are dropped.
#[derive(Debug)]
struct PeersOnLan {
    inner: MdnsAddressLookup,
    finder: Weak<Finder>,
}

impl AddressLookup for PeersOnLan {
    fn publish(&self, data: &EndpointData) {
        self.inner.publish(data);
    }

    fn resolve(&self, id: EndpointId) -> Option<Items> {
        let finder = self.finder.upgrade()?;
        finder.peer_of(id.as_bytes())?;
        let found = self.inner.resolve(id)?.filter_map(move |found| {
            let found = match found {
                Ok(found) => {
                    let addresses: Vec<SocketAddr> = found.ip_addrs().copied().collect();
                    let places = PeerAddresses {
                        direct: vetted(&addresses, false),
                        relays: Vec::new(),
                    };
                    finder.item(id, &places, NAME).map(Ok)
                }
                Err(error) => Some(Err(error)),
            };
            std::future::ready(found)
        });
        Some(found.boxed())
    }
}

/// Announces the node on the LAN, and calls `seen` for each peer that appears
/// there; runs until the endpoint closes.
///
/// # Errors
///
/// What the system said if it has no multicast.
pub(crate) fn announce(
    endpoint: &Endpoint,
    finder: &Arc<Finder>,
    seen: impl Fn(&PeerId) + Send + 'static,
) -> Result<impl Future<Output = ()> + Send + 'static, AddressLookupBuilderError> {
    let mdns = MdnsAddressLookup::builder()
        .service_name(SERVICE)
        .discovery_cadence(CADENCE)
        .addr_filter(AddrFilter::ip_only())
        .build(endpoint.id())?;
    let peers = PeersOnLan {
        inner: mdns.clone(),
        finder: Arc::downgrade(finder),
    };
    match endpoint.address_lookup() {
        Ok(lookups) => lookups.add(peers),
        Err(source) => return Err(AddressLookupBuilderError::from_err(NAME, source)),
    }
    let finder = Arc::downgrade(finder);
    Ok(async move {
        let mut events = mdns.subscribe().await;
        while let Some(event) = events.next().await {
            let DiscoveryEvent::Discovered { endpoint_info, .. } = event else {
                continue;
            };
            let Some(finder) = finder.upgrade() else {
                return;
            };
            if let Some(peer) = finder.peer_of(endpoint_info.endpoint_id.as_bytes()) {
                tracing::debug!(%peer, "a peer is on the LAN");
                seen(&peer);
            }
        }
    })
}
