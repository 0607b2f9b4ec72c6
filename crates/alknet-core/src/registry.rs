//! What can be resolved: local operations, and peer-keyed overlays of other
//! nodes' operations, published as immutable snapshots.

use crate::{
    access::Access,
    call::RouteStep,
    context::{Authority, Capabilities},
    handler::Handler,
    import::IMPORT_OPERATIONS_MAX,
    name::{OperationName, PeerId},
    operation::Registration,
    schema::Schema,
    spec::{Hints, Kind, OperationLimits, OperationSpec, Visibility},
};
use arc_swap::ArcSwap;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
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
    imported: bool,
    foreign_name: Option<String>,
    peer: Option<PeerId>,
    digest: [u8; 32],
}

impl Entry {
    fn new(registration: Registration, spec: OperationSpec, peer: Option<PeerId>) -> Self {
        let text = serde_json::to_vec(&crate::discovery::describe_spec(&spec)).unwrap_or_default();
        Self {
            digest: *blake3::hash(&text).as_bytes(),
            spec,
            handler: registration.handler,
            // An import composes nothing, whatever it says.
            authority: registration.authority.filter(|_| !registration.imported),
            capabilities: registration.capabilities,
            imported: registration.imported,
            foreign_name: registration.foreign_name,
            peer,
        }
    }

    /// A peer's operation of which nothing is known but that somebody asks for
    /// it; it is in no view.
    pub(crate) fn unlisted(
        name: &OperationName,
        kind: Kind,
        peer: &PeerId,
        handler: Handler,
    ) -> Self {
        let spec = OperationSpec {
            name: name.clone(),
            kind,
            visibility: Visibility::External,
            summary: format!("An operation of `{peer}`."),
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
            imported: true,
            foreign_name: None,
            peer: Some(peer.clone()),
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

type Entries = BTreeMap<OperationName, Arc<Entry>>;

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
        for name in entries.keys().filter(|name| view.local.contains_key(*name)) {
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
    local: Arc<Entries>,
    by_name: Arc<HashMap<OperationName, Arc<Entry>>>,
    peers: Arc<BTreeMap<PeerId, Arc<Entries>>>,
    turn: usize,
    revision: u64,
}

impl View {
    /// Counts the changes of the registry.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Local operations, by name.
    pub fn local(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.local.values()
    }

    /// Operations of a peer, by name; none if it is not connected.
    pub fn peer(&self, peer: &str) -> impl Iterator<Item = &Arc<Entry>> {
        self.peers
            .get(peer)
            .into_iter()
            .flat_map(|entries| entries.values())
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
            [RouteStep::Peer(peer)] => self.peers.get(peer)?.get(name).cloned(),
            _ => None,
        }
    }

    /// Peers that offer an operation, in the order in which they are tried.
    pub(crate) fn offering(&self, name: &OperationName) -> Vec<&Arc<Entry>> {
        let mut found: Vec<_> = self
            .peers
            .values()
            .filter_map(|entries| entries.get(name))
            .collect();
        if !found.is_empty() {
            let by = self.turn % found.len();
            found.rotate_left(by);
        }
        found
    }

    /// Whether a peer has an overlay.
    pub(crate) fn has_peer(&self, peer: &PeerId) -> bool {
        self.peers.contains_key(peer)
    }
}

/// What is wrong with one registration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("operation `{name}` {problem}")]
pub struct RegistrationError {
    /// The operation.
    pub name: String,
    /// What is wrong with it.
    pub problem: String,
}

impl RegistrationError {
    fn new(name: &str, problem: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            problem: problem.into(),
        }
    }
}

/// Everything that is wrong with a set of registrations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistrationErrors(pub Vec<RegistrationError>);

impl fmt::Display for RegistrationErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&all.join("; "))
    }
}

impl std::error::Error for RegistrationErrors {}

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
        let mut next = View {
            revision: old.revision + 1,
            ..(*old).clone()
        };
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

    /// Compiles an imported operation's schemas when they are first needed,
    /// and lets go of those that were compiled long ago.
    pub(crate) fn ready(&self, entry: &Arc<Entry>) {
        if !entry.imported || (entry.spec.input.is_compiled() && entry.spec.output.is_compiled()) {
            return;
        }
        // What fails here fails again, with its reason, at the check.
        let _ = entry.spec.input.compile();
        let _ = entry.spec.output.compile();
        let mut compiled = self
            .0
            .compiled
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        compiled.push_back(Arc::downgrade(entry));
        while compiled.len() > IMPORTED_VALIDATORS_MAX {
            if let Some(oldest) = compiled.pop_front().and_then(|weak| weak.upgrade()) {
                oldest.spec.input.forget();
                oldest.spec.output.forget();
            }
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("revision", &self.view().revision)
            .finish_non_exhaustive()
    }
}

impl View {
    fn set_local(
        &mut self,
        old: &View,
        remove: &[OperationName],
        add: Vec<Registration>,
    ) -> Result<(), RegistrationErrors> {
        let mut errors = Vec::new();
        let mut local = (*old.local).clone();
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
        self.local = Arc::new(local);
        Ok(())
    }

    fn set_peer(
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
        peers.insert(peer, Arc::new(entries));
        self.peers = Arc::new(peers);
        self.turn = old.turn.wrapping_add(1);
        Ok(())
    }
}

/// Turns registrations into entries; collects all that is wrong.
fn check(
    registrations: Vec<Registration>,
    peer: Option<&PeerId>,
    errors: &mut Vec<RegistrationError>,
) -> Entries {
    let mut entries = Entries::new();
    for mut registration in registrations {
        let name = registration.name.clone();
        let mut problem = |text: String| errors.push(RegistrationError::new(&name, text));
        registration.problems.drain(..).for_each(&mut problem);
        let Some(spec) = registration.spec.take() else {
            continue;
        };
        let source = match (peer, registration.imported) {
            (Some(_), _) => Source::Peer,
            (None, true) => Source::Import,
            (None, false) => Source::Own,
        };
        check_spec(&spec, source, &mut problem);
        if !registration.handler.fits(spec.kind) && registration.imported {
            problem(format!(
                "is a {}, which its handler cannot answer",
                spec.kind
            ));
        }
        let key = spec.name.clone();
        if entries
            .insert(key, Arc::new(Entry::new(registration, spec, peer.cloned())))
            .is_some()
        {
            errors.push(RegistrationError::new(&name, "is given twice"));
        }
    }
    entries
}

/// Where an operation comes from, which says when its schemas are compiled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// Now, and kept.
    Own,
    /// Now, to see whether that works; again when needed.
    Import,
    /// Never: the peer that enforces them does.
    Peer,
}

fn check_spec(spec: &OperationSpec, source: Source, problem: &mut impl FnMut(String)) {
    if spec.summary.trim().is_empty() {
        problem("has no summary".into());
    }
    if spec.access.is_empty_rule() {
        problem("has an access rule that states nothing".into());
    }
    if !spec.hints.fit(spec.kind) {
        problem(format!("has hints that do not fit a {}", spec.kind));
    }
    if spec.resume.is_some() && spec.kind != Kind::Subscription {
        problem("says how to resume, and is no subscription".into());
    }
    for error in spec.errors.iter().filter(|error| !error.is_valid()) {
        problem(format!(
            "declares `{}`, which is no domain code or has no error status",
            error.code
        ));
    }
    for (what, schema) in [("input", &spec.input), ("output", &spec.output)] {
        let outcome = match source {
            Source::Own => schema.compile(),
            Source::Import => schema.check_compiles(),
            Source::Peer => Ok(()),
        };
        if let Err(error) = outcome {
            problem(format!("has an {what} {error}"));
        }
    }
    if source != Source::Own {
        return;
    }
    for (at, example) in spec.examples.iter().enumerate() {
        if let Err(violations) = spec.input.check(&example.input) {
            problem(format!(
                "has example {} whose input breaks the schema: {}",
                at + 1,
                violations[0].message
            ));
        }
        let output = if spec.kind == Kind::Channel {
            Ok(())
        } else {
            spec.output.check(&example.output)
        };
        if let Err(violations) = output {
            problem(format!(
                "has example {} whose output breaks the schema: {}",
                at + 1,
                violations[0].message
            ));
        }
    }
    if spec.visibility == Visibility::Internal
        && matches!(spec.access, crate::access::Access::Public)
    {
        problem("is internal and public at once".into());
    }
}
