//! Immutable snapshots of what can be resolved.

use super::{
    Entry,
    check::{RegistrationError, RegistrationErrors, check},
};
use crate::{
    call::RouteStep,
    discovery::WordIndex,
    import::IMPORT_OPERATIONS_MAX,
    name::{OperationName, PeerId},
    operation::Registration,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, OnceLock},
};

pub(super) type Entries = BTreeMap<OperationName, Arc<Entry>>;

/// Operations of one place, with the index that finds them by words, which is
/// made when it is first needed.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    entries: Entries,
    words: OnceLock<WordIndex>,
}

impl Overlay {
    fn new(entries: Entries) -> Arc<Self> {
        Arc::new(Self {
            entries,
            words: OnceLock::new(),
        })
    }

    fn words(&self) -> &WordIndex {
        self.words
            .get_or_init(|| WordIndex::new(self.entries.values()))
    }
}

/// What a session adds for its own caller. It may hold no local name.
#[derive(Debug, Default)]
pub struct SessionOverlay {
    entries: Entries,
}

impl SessionOverlay {
    /// Checks the registrations against the local names.
    ///
    /// # Errors
    ///
    /// [`RegistrationErrors`] with everything that is wrong.
    pub fn new(view: &View, registrations: Vec<Registration>) -> Result<Self, RegistrationErrors> {
        let mut errors = Vec::new();
        let entries = check(registrations, None, &mut errors);
        for name in entries
            .keys()
            .filter(|name| view.local.entries.contains_key(*name))
        {
            errors.push(RegistrationError::new(
                name.as_str(),
                "is a local operation, which a session cannot shadow",
            ));
        }
        if errors.is_empty() {
            Ok(Self { entries })
        } else {
            Err(RegistrationErrors(errors))
        }
    }
}

/// An immutable snapshot of what can be resolved.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub(super) local: Arc<Overlay>,
    by_name: Arc<HashMap<OperationName, Arc<Entry>>>,
    pub(super) peers: Arc<BTreeMap<PeerId, Arc<Overlay>>>,
    pub(super) revision: u64,
}

impl View {
    /// Counts the changes of the registry.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Local operations, by name.
    pub fn local(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.local.entries.values()
    }

    /// Operations of a peer, by name; none if it is not connected.
    pub fn peer(&self, peer: &str) -> impl Iterator<Item = &Arc<Entry>> {
        self.peers
            .get(peer)
            .into_iter()
            .flat_map(|overlay| overlay.entries.values())
    }

    /// Peers with an overlay.
    pub fn peers(&self) -> impl Iterator<Item = &PeerId> {
        self.peers.keys()
    }

    /// A bare name: local, then the session's. A peer's operation only
    /// through a route.
    pub(crate) fn resolve(
        &self,
        name: &OperationName,
        route: &[RouteStep],
        session: Option<&SessionOverlay>,
    ) -> Option<Arc<Entry>> {
        match route {
            [] => self
                .by_name
                .get(name)
                .or_else(|| session?.entries.get(name))
                .cloned(),
            [RouteStep::Peer(peer)] => self.peers.get(peer)?.entries.get(name).cloned(),
            _ => None,
        }
    }

    /// What peers offer under this name, one each.
    pub(crate) fn offering(&self, name: &OperationName) -> impl Iterator<Item = &Arc<Entry>> {
        let overlays = self.peers.values();
        overlays.filter_map(|overlay| overlay.entries.get(name))
    }

    /// What finds local operations, or those of a peer, by words.
    pub(crate) fn words(&self, peer: Option<&str>) -> Option<&WordIndex> {
        match peer {
            Some(peer) => Some(self.peers.get(peer)?.words()),
            None => Some(self.local.words()),
        }
    }

    /// Whether a peer has an overlay.
    pub(crate) fn has_peer(&self, peer: &PeerId) -> bool {
        self.peers.contains_key(peer)
    }
}

impl View {
    pub(super) fn set_local(
        &mut self,
        old: &View,
        remove: &[OperationName],
        add: Vec<Registration>,
    ) -> Result<(), RegistrationErrors> {
        let mut errors = Vec::new();
        let mut local = old.local.entries.clone();
        remove.iter().for_each(|name| drop(local.remove(name)));
        for (name, entry) in check(add, None, &mut errors) {
            if local.contains_key(&name) {
                errors.push(RegistrationError::new(
                    name.as_str(),
                    "is registered already",
                ));
            }
            local.insert(name, entry);
        }
        if !errors.is_empty() {
            return Err(RegistrationErrors(errors));
        }
        self.by_name = Arc::new(
            local
                .iter()
                .map(|(name, entry)| (name.clone(), entry.clone()))
                .collect(),
        );
        self.local = Overlay::new(local);
        Ok(())
    }

    pub(super) fn set_peer(
        &mut self,
        old: &View,
        peer: PeerId,
        registrations: Vec<Registration>,
    ) -> Result<(), RegistrationErrors> {
        let mut errors = Vec::new();
        if registrations.len() > IMPORT_OPERATIONS_MAX {
            errors.push(RegistrationError::new(
                peer.as_str(),
                format!("brings more than {IMPORT_OPERATIONS_MAX} operations"),
            ));
            return Err(RegistrationErrors(errors));
        }
        let entries = check(registrations, Some(&peer), &mut errors);
        if !errors.is_empty() {
            return Err(RegistrationErrors(errors));
        }
        let mut peers = (*old.peers).clone();
        peers.insert(peer, Overlay::new(entries));
        self.peers = Arc::new(peers);
        Ok(())
    }
}
