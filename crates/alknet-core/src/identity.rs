//! Who is calling: identities, the credentials that prove them, callers.

use crate::api_key::{ApiKeyProof, KeyId};
use crate::name::{OperationName, PeerId, Scope, ScopeSet};
use crate::resource::{ResourceKind, ResourceSet};
use crate::role::{GrantTarget, Grants, RoleSet, TargetError};
use std::{collections::BTreeSet, fmt, sync::Arc};
use tokio::sync::watch;

/// What an authenticated caller holds, compiled for fast checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The peer, or the label of an authority.
    pub id: PeerId,
    /// Scopes held, groups and roles included.
    pub scopes: ScopeSet,
    /// Resources held and denied.
    pub resources: ResourceSet,
    /// Operations granted whole: their own access rule counts as satisfied.
    pub operations: BTreeSet<OperationName>,
    /// What the key that was presented allows of all that: whatever is asked
    /// is asked of both, and what one of them refuses is refused. `None` if
    /// nothing narrows it.
    pub ceiling: Option<Arc<Identity>>,
}

impl Identity {
    /// An identity that holds nothing.
    #[must_use]
    pub fn empty(id: PeerId) -> Self {
        Self {
            id,
            scopes: ScopeSet::default(),
            resources: ResourceSet::default(),
            operations: BTreeSet::new(),
            ceiling: None,
        }
    }

    /// An identity that holds these grants, as they are written on the command
    /// line; of roles, the built-in ones give something. For tests, and for
    /// programs that keep identities themselves.
    ///
    /// # Errors
    ///
    /// [`TargetError`] for the first text that is no grant.
    pub fn granted(id: PeerId, grants: &[&str]) -> Result<Self, TargetError> {
        let grants: Grants = grants
            .iter()
            .map(|text| GrantTarget::parse(text))
            .collect::<Result<_, _>>()?;
        let mut identity = Self::empty(id);
        RoleSet::default().add_to(&grants, &mut identity);
        Ok(identity)
    }

    /// The same peer, of whose rights only those are left that `ceiling` gives
    /// as well: a key of a peer is never wider than the peer.
    #[must_use]
    pub fn under(&self, ceiling: Arc<Identity>) -> Self {
        Self {
            ceiling: Some(ceiling),
            ..self.clone()
        }
    }

    /// Itself, and the ceiling over it: all of them must allow what is asked.
    pub fn layers(&self) -> impl Iterator<Item = &Identity> {
        std::iter::successors(Some(self), |layer| layer.ceiling.as_deref())
    }

    /// Whether a scope is held.
    #[must_use]
    pub fn holds_scope(&self, scope: &Scope) -> bool {
        self.layers().all(|layer| layer.scopes.holds(scope))
    }

    /// Whether `action` on the canonical `resource` is held.
    #[must_use]
    pub fn holds(&self, kind: ResourceKind, action: &str, resource: &str) -> bool {
        self.layers()
            .all(|layer| layer.resources.holds(kind, action, resource))
    }

    /// Whether `action` on the canonical `resource` is held, or `operation` was
    /// granted whole and nothing denies it.
    #[must_use]
    pub fn holds_within(
        &self,
        operation: &OperationName,
        kind: ResourceKind,
        action: &str,
        resource: &str,
    ) -> bool {
        self.layers().all(|layer| {
            layer.resources.holds(kind, action, resource)
                || (layer.operations.contains(operation)
                    && !layer.resources.denies(kind, action, resource))
        })
    }
}

/// A proof of identity, already verified by the surface that took it.
#[derive(Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Credential {
    /// The Ed25519 key of a QUIC connection.
    NodeKey([u8; 32]),
    /// The public fingerprint of an SSH key (`SHA256:...`).
    SshKey(String),
    /// A principal of a certificate that an SSH authority signed.
    SshPrincipal {
        /// The fingerprint of the authority's key (`SHA256:...`).
        authority: String,
        /// The principal, as the certificate names it.
        principal: String,
    },
    /// What is left of a presented API key.
    ApiKey(ApiKeyProof),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credential::NodeKey(key) => write!(
                f,
                "NodeKey({:02x}{:02x}{:02x}{:02x}…)",
                key[0], key[1], key[2], key[3]
            ),
            Credential::SshKey(print) => write!(f, "SshKey({print})"),
            Credential::SshPrincipal {
                authority,
                principal,
            } => write!(f, "SshPrincipal({authority}, {principal:?})"),
            Credential::ApiKey(proof) => write!(f, "ApiKey({}, …)", proof.id()),
        }
    }
}

/// Resolves credentials on the hot path, from memory.
pub trait IdentityProvider: Send + Sync + 'static {
    /// The identity behind a credential, if it is known, enabled and not
    /// expired.
    fn resolve(&self, credential: &Credential) -> Option<Arc<Identity>>;

    /// Counts changes of peers and grants.
    fn epoch(&self) -> u64;

    /// Announces each new epoch.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Notes that a call was made with an API key. Called for each of them, so
    /// it neither waits nor writes.
    fn used(&self, _key: &KeyId) {}
}

/// What sort of caller it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallerKind {
    /// Nobody known.
    Anonymous,
    /// A peer, by one of its credentials.
    Peer,
    /// An operation of this node, under its declared authority.
    Authority,
    /// The program that embeds the node.
    Host,
}

/// Who makes a call, as authenticated.
#[derive(Clone, Debug)]
pub struct Caller {
    kind: CallerKind,
    identity: Arc<Identity>,
    credential: Option<Credential>,
    epoch: u64,
    depth: u16,
    /// Whose connection carries the calls, if a presented key made them
    /// another's.
    transport: Option<PeerId>,
}

impl Caller {
    /// Nobody known.
    #[must_use]
    pub fn anonymous() -> Self {
        let identity = Arc::new(Identity::empty(fixed_id("anonymous")));
        Self {
            kind: CallerKind::Anonymous,
            identity,
            credential: None,
            epoch: 0,
            depth: 0,
            transport: None,
        }
    }

    /// The program that embeds the node: may do everything.
    #[must_use]
    pub fn host() -> Self {
        let mut identity = Identity::empty(fixed_id("host"));
        crate::role::everything(&mut identity);
        Self {
            kind: CallerKind::Host,
            identity: Arc::new(identity),
            credential: None,
            epoch: 0,
            depth: 0,
            transport: None,
        }
    }

    /// An operation's declared authority.
    #[must_use]
    pub fn authority(identity: Arc<Identity>) -> Self {
        Self {
            kind: CallerKind::Authority,
            identity,
            credential: None,
            epoch: 0,
            depth: 0,
            transport: None,
        }
    }

    /// The peer behind a verified credential.
    #[must_use]
    pub fn resolve(provider: &dyn IdentityProvider, credential: Credential) -> Option<Self> {
        // The epoch is read first: a change in between makes the caller look
        // older than it is, which costs one more look-up and never a right.
        let epoch = provider.epoch();
        let identity = provider.resolve(&credential)?;
        Some(Self {
            kind: CallerKind::Peer,
            identity,
            credential: Some(credential),
            epoch,
            depth: 0,
            transport: None,
        })
    }

    /// A peer that is not let in, with what it would hold. Only to be told
    /// about: no surface makes one.
    pub(crate) fn kept_out(identity: Arc<Identity>) -> Self {
        Self {
            kind: CallerKind::Peer,
            ..Self::authority(identity)
        }
    }

    /// The same caller, on a connection that is this peer's: a key that was
    /// presented there made the calls its own.
    #[must_use]
    pub fn carried_by(self, transport: &PeerId) -> Self {
        Self {
            transport: Some(transport.clone()),
            ..self
        }
    }

    /// An operation's declared authority, this many calls below the root.
    pub(crate) fn nested(identity: Arc<Identity>, depth: u16) -> Self {
        Self {
            depth,
            ..Self::authority(identity)
        }
    }

    /// How many calls lie above this one.
    pub(crate) fn depth(&self) -> u16 {
        self.depth
    }

    /// The caller as of now: `None` if its credential no longer resolves, or
    /// has become somebody else's. Whoever was let in as one peer never goes
    /// on as another.
    #[must_use]
    pub fn refreshed(&self, provider: &dyn IdentityProvider) -> Option<Self> {
        match &self.credential {
            Some(credential) if self.epoch != provider.epoch() => {
                let now = Self::resolve(provider, credential.clone())?;
                (now.id() == self.id()).then(|| Self {
                    transport: self.transport.clone(),
                    ..now
                })
            }
            _ => Some(self.clone()),
        }
    }

    /// Whether the rights were looked up before the last change.
    pub(crate) fn is_stale(&self, provider: &dyn IdentityProvider) -> bool {
        self.credential.is_some() && self.epoch != provider.epoch()
    }

    /// What sort of caller.
    #[must_use]
    pub fn kind(&self) -> CallerKind {
        self.kind
    }

    /// The peer, or the label of the authority.
    #[must_use]
    pub fn id(&self) -> &PeerId {
        &self.identity.id
    }

    /// What it holds.
    #[must_use]
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// What proved it.
    #[must_use]
    pub fn credential(&self) -> Option<&Credential> {
        self.credential.as_ref()
    }

    /// The API key that was presented.
    #[must_use]
    pub fn key(&self) -> Option<&KeyId> {
        match &self.credential {
            Some(Credential::ApiKey(proof)) => Some(proof.id()),
            _ => None,
        }
    }

    /// The peer whose connection carries the calls, if a presented key made
    /// them another caller's.
    #[must_use]
    pub fn transport(&self) -> Option<&PeerId> {
        self.transport.as_ref()
    }

    /// Whether it is known.
    #[must_use]
    pub fn is_authenticated(&self) -> bool {
        self.kind != CallerKind::Anonymous
    }
}

fn fixed_id(text: &str) -> PeerId {
    PeerId::parse(text).expect("a literal slug")
}

/// A fixed set of identities, for embedding and tests.
#[derive(Debug)]
pub struct StaticIdentities {
    known: std::sync::RwLock<std::collections::HashMap<Credential, Arc<Identity>>>,
    epoch: watch::Sender<u64>,
}

impl Default for StaticIdentities {
    fn default() -> Self {
        Self {
            known: std::sync::RwLock::default(),
            epoch: watch::Sender::new(1),
        }
    }
}

impl StaticIdentities {
    /// Adds or replaces an identity.
    pub fn put(&self, credential: Credential, identity: Identity) {
        self.known
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .insert(credential, Arc::new(identity));
        self.epoch.send_modify(|epoch| *epoch += 1);
    }

    /// Forgets an identity.
    pub fn remove(&self, credential: &Credential) {
        self.known
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .remove(credential);
        self.epoch.send_modify(|epoch| *epoch += 1);
    }
}

impl IdentityProvider for StaticIdentities {
    fn resolve(&self, credential: &Credential) -> Option<Arc<Identity>> {
        self.known
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .get(credential)
            .cloned()
    }

    fn epoch(&self) -> u64 {
        *self.epoch.borrow()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }
}
