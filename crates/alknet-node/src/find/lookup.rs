//! What is known of peers, as an address lookup of the endpoint, asked by each
//! dial of a peer to whom no path is open: connections by key alone find them.

use super::Finder;
use crate::dialer::endpoint_addr;
use alknet_core::storage::PeerAddresses;
use futures::StreamExt;
use iroh::{
    EndpointId,
    address_lookup::{AddressLookup, EndpointData, EndpointInfo, Error, Item},
};
use std::{pin::Pin, sync::Weak};

/// Names this lookup in the library's metrics and logs.
const NAME: &str = "alknet-peers";

type Items = Pin<Box<dyn futures::Stream<Item = Result<Item, Error>> + Send>>;

/// Finds peers, and nobody else.
#[derive(Debug)]
pub(crate) struct PeerLookup(pub(crate) Weak<Finder>);

impl AddressLookup for PeerLookup {
    fn resolve(&self, id: EndpointId) -> Option<Items> {
        let finder = self.0.upgrade()?;
        let places = finder.places_of_key(id.as_bytes())?;
        let item = finder.item(id, &places, NAME)?;
        Some(futures::stream::iter([Ok(item)]).boxed())
    }
}

impl Finder {
    /// Places as the endpoint takes them; `None` if there are none.
    pub(super) fn item(
        &self,
        id: EndpointId,
        places: &PeerAddresses,
        name: &'static str,
    ) -> Option<Item> {
        let address = endpoint_addr(id.as_bytes(), places, &self.relays)?;
        let data = EndpointData::new(address.addrs.into_iter().collect());
        data.has_addrs()
            .then(|| Item::new(EndpointInfo::from_parts(id, data), name, None))
    }
}
