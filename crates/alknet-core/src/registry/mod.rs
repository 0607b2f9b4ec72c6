//! What can be resolved: local operations, and peer-keyed overlays of other
//! nodes' operations, published as immutable snapshots.

mod check;
mod view;

pub use self::{
    check::{RegistrationError, RegistrationErrors},
    view::{SessionOverlay, View},
};
use crate::{
    access::Access,
    context::{Authority, Capabilities},
    credential::CredentialSlot,
    error::{CallError, Violation},
    handler::Handler,
    name::{OperationName, PeerId},
    operation::Registration,
    schema::Schema,
    spec::{Hints, Kind, OperationLimits, OperationSpec, Visibility},
};
use arc_swap::ArcSwap;
use serde_json::Value;
use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
};
use tokio::sync::watch;

/// Compiled validators kept for imported operations.
const IMPORTED_VALIDATORS_MAX: usize = 4096;

/// A registered operation. Its handler is out of reach: calls go through the
/// dispatcher.
pub struct Entry {
    spec: OperationSpec,
    pub(crate) handler: Handler,
    authority: Option<Authority>,
    capabilities: Capabilities,
    credentials: Vec<Arc<CredentialSlot>>,
    secret_input: bool,
    imported: bool,
    foreign_name: Option<String>,
    peer: Option<PeerId>,
    /// The whole route, if the operation lies behind the peer.
    way: Option<String>,
    digest: [u8; 32],
}

impl Entry {
    fn new(registration: Registration, spec: OperationSpec, peer: Option<PeerId>) -> Self {
        let text = serde_json::to_vec(&crate::discovery::describe_spec(&spec)).unwrap_or_default();
        let imported = registration.imported || peer.is_some();
        Self {
            digest: *blake3::hash(&text).as_bytes(),
            spec,
            handler: registration.handler,
            // An import composes nothing, whatever it says.
            authority: registration.authority.filter(|_| !imported),
            capabilities: registration.capabilities,
            // A peer's operation runs there, with the credentials of that node.
            credentials: match peer {
                None => registration.credentials,
                Some(_) => Vec::new(),
            },
            secret_input: registration.secret_input,
            imported,
            foreign_name: registration.foreign_name,
            peer,
            way: None,
        }
    }

    /// An operation of which nothing is known but that somebody asks for it at
    /// the end of `way`, which begins with `peer`; it is in no view.
    pub(crate) fn unlisted(
        name: &OperationName,
        kind: Kind,
        peer: &PeerId,
        way: String,
        handler: Handler,
    ) -> Self {
        let spec = OperationSpec {
            name: name.clone(),
            kind,
            visibility: Visibility::External,
            summary: format!("An operation of `{way}`."),
            description: None,
            input: Schema::any(),
            output: Schema::any(),
            errors: Vec::new(),
            access: Access::Authenticated,
            approve: false,
            hints: Hints::of(kind),
            resume: None,
            // Not known to be none: nothing of it is kept.
            secret_output: true,
            examples: Vec::new(),
            limits: OperationLimits::default(),
            deprecated: None,
        };
        Self {
            spec,
            handler,
            authority: None,
            capabilities: Capabilities::default(),
            credentials: Vec::new(),
            secret_input: false,
            imported: true,
            foreign_name: None,
            peer: Some(peer.clone()),
            way: Some(way),
            digest: [0; 32],
        }
    }

    /// What it is.
    #[must_use]
    pub fn spec(&self) -> &OperationSpec {
        &self.spec
    }

    /// The peer whose operation it is; `None` for local ones.
    #[must_use]
    pub fn peer(&self) -> Option<&PeerId> {
        self.peer.as_ref()
    }

    /// How a grant names where it is: the peer, or the route to one behind it.
    pub(crate) fn way(&self) -> Option<&str> {
        self.way
            .as_deref()
            .or_else(|| self.peer.as_ref().map(PeerId::as_str))
    }

    /// Whether it is in a view, so that what its peer said of it is known.
    pub(crate) fn is_listed(&self) -> bool {
        self.way.is_none()
    }

    /// The name it has at its source.
    #[must_use]
    pub fn foreign_name(&self) -> Option<&str> {
        self.foreign_name.as_deref()
    }

    /// Whether it came through an import.
    #[must_use]
    pub fn is_imported(&self) -> bool {
        self.imported
    }

    pub(crate) fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    pub(crate) fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    /// The places of the credentials that it declared, for the assembly to
    /// fill.
    #[must_use]
    pub fn credentials(&self) -> &[Arc<CredentialSlot>] {
        &self.credentials
    }

    /// Refuses a call whose handler would lack a credential.
    pub(crate) fn check_credentials(&self, node: &str) -> Result<(), CallError> {
        let mut slots = self.credentials.iter();
        slots.try_for_each(|slot| slot.secret(node).map(drop))
    }

    pub(crate) fn has_secret_input(&self) -> bool {
        self.secret_input
    }

    /// Whether secrets go through its handler, as far as it says so.
    pub(crate) fn handles_secrets(&self) -> bool {
        self.secret_input || self.spec.secret_output || !self.credentials.is_empty()
    }

    pub(crate) fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("name", &self.spec.name)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// A change of what can be resolved.
#[derive(Debug)]
#[non_exhaustive]
pub enum Change {
    /// Adds local operations; their names must be free.
    AddLocal(Vec<Registration>),
    /// Replaces the local operations of these names by others, at once.
    ReplaceLocal {
        /// Names that go.
        remove: Vec<OperationName>,
        /// Operations that come.
        add: Vec<Registration>,
    },
    /// Sets the overlay of a peer.
    SetPeer(PeerId, Vec<Registration>),
    /// Removes the overlay of a peer.
    RemovePeer(PeerId),
}

struct Shared {
    view: ArcSwap<View>,
    changes: watch::Sender<u64>,
    writing: Mutex<()>,
    compiled: Mutex<VecDeque<Weak<Entry>>>,
}

/// Publishes views. Cheap to clone; all clones are one registry.
#[derive(Clone)]
pub struct Registry(Arc<Shared>);

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// A registry with the discovery operations.
    #[must_use]
    pub fn new() -> Self {
        let this = Self(Arc::new(Shared {
            view: ArcSwap::default(),
            changes: watch::Sender::new(0),
            writing: Mutex::new(()),
            compiled: Mutex::default(),
        }));
        this.register(crate::discovery::discovery_operations())
            .expect("the built-in operations are valid");
        this
    }

    /// Adds local operations.
    ///
    /// # Errors
    ///
    /// [`RegistrationErrors`] with everything that is wrong; then nothing was
    /// added.
    pub fn register(&self, registrations: Vec<Registration>) -> Result<(), RegistrationErrors> {
        self.apply(Change::AddLocal(registrations))
    }

    /// Applies a change and publishes a new view.
    ///
    /// # Errors
    ///
    /// [`RegistrationErrors`] with everything that is wrong; then nothing has
    /// changed.
    pub fn apply(&self, change: Change) -> Result<(), RegistrationErrors> {
        let _one_at_a_time = self
            .0
            .writing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let old = self.0.view.load_full();
        let mut next = (*old).clone();
        next.revision += 1;
        match change {
            Change::AddLocal(add) => next.set_local(&old, &[], add)?,
            Change::ReplaceLocal { remove, add } => next.set_local(&old, &remove, add)?,
            Change::SetPeer(peer, registrations) => next.set_peer(&old, peer, registrations)?,
            Change::RemovePeer(peer) => {
                if !old.peers.contains_key(&peer) {
                    return Ok(());
                }
                let mut peers = (*old.peers).clone();
                peers.remove(&peer);
                next.peers = Arc::new(peers);
            }
        }
        let revision = next.revision;
        self.0.view.store(Arc::new(next));
        self.0.changes.send_replace(revision);
        Ok(())
    }

    /// The current snapshot.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.0.view.load_full()
    }

    /// Announces each new revision.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Checks a value against one of the entry's own schemas. Those of
    /// imported operations are compiled when they are first needed, and those
    /// that were compiled long ago are let go.
    pub(crate) fn check(
        &self,
        entry: &Arc<Entry>,
        schema: &Schema,
        value: &Value,
    ) -> Result<(), Vec<Violation>> {
        if !entry.imported {
            return schema.check(value);
        }
        self.ready(entry);
        schema.check_once(value)
    }

    fn ready(&self, entry: &Arc<Entry>) {
        let Entry { spec, .. } = &**entry;
        if spec.input.is_compiled() && spec.output.is_compiled() {
            return;
        }
        let mut compiled = self
            .0
            .compiled
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // What fails here fails again, with its reason, at the check.
        let _ = spec.input.compile();
        let _ = spec.output.compile();
        compiled.retain(|kept| kept.strong_count() > 0);
        compiled.push_back(Arc::downgrade(entry));
        while compiled.len() > IMPORTED_VALIDATORS_MAX {
            if let Some(oldest) = compiled.pop_front().and_then(|weak| weak.upgrade()) {
                oldest.spec.input.forget();
                oldest.spec.output.forget();
            }
        }
    }

    /// Imported operations whose validators are held.
    #[must_use]
    pub fn validators_held(&self) -> usize {
        let compiled = self.0.compiled.lock();
        compiled.unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("revision", &self.view().revision)
            .finish_non_exhaustive()
    }
}
