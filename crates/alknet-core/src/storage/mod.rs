//! Storage traits, narrow and async, with in-memory adapters.
//!
//! Every adapter passes the same conformance suite. A write is durable, and
//! visible to its own caller, when it returns.

mod credentials;
mod events;
mod index;
mod memory;
mod memory_audit;
mod memory_events;
mod standing;

pub use self::{
    credentials::{
        CREDENTIALS_MAX, CredentialStore, MemoryCredentialStore, SealedCredential, credential_event,
    },
    events::{
        Applied, EVENTS_PAGE_MAX, Event, EventCursor, EventKind, EventLog, EventPage, EventSpan,
        NewEvent, UNCHANGED,
    },
    index::{IdentityIndex, SharedClock, system_clock},
    memory::{MemoryIdempotencyStore, MemoryIdentityStore, MemoryImportStore},
    memory_audit::MemoryAuditLog,
    memory_events::MemoryEventLog,
    standing::{GrantSource, HeldGrant, Standing},
};
use crate::{
    api_key::KeyId,
    audit::AuditRow,
    name::{GroupName, PeerId},
    role::Grants,
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, net::SocketAddr};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::watch;

/// Milliseconds since 1970-01-01T00:00:00Z; written as RFC 3339 text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// `self` plus a number of milliseconds.
    #[must_use]
    pub fn plus(self, wait: std::time::Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// Parses RFC 3339 text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        i64::try_from(at.unix_timestamp_nanos() / 1_000_000)
            .ok()
            .map(Self)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .ok()
            .and_then(|at| {
                // Always three digits of milliseconds, so that text sorts as time.
                let at = at
                    .replace_nanosecond(at.nanosecond() / 1_000_000 * 1_000_000)
                    .ok()?;
                let base = at.replace_nanosecond(0).ok()?.format(&Rfc3339).ok()?;
                Some(format!(
                    "{}.{:03}Z",
                    base.trim_end_matches('Z'),
                    at.millisecond()
                ))
            });
        f.write_str(&text.unwrap_or_else(|| self.0.to_string()))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::parse(&text)
            .ok_or_else(|| serde::de::Error::custom("a time is written as in RFC 3339"))
    }
}

/// Why a storage operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A peer of that name exists.
    #[error("peer `{0}` exists")]
    PeerExists(PeerId),
    /// `any`, `host` and `anonymous` mean something else than a peer.
    #[error("`{0}` cannot be the name of a peer")]
    ReservedName(PeerId),
    /// A credential belongs to somebody already.
    #[error("this key belongs to peer `{0}`")]
    CredentialTaken(PeerId),
    /// No peer of that name.
    #[error("no peer `{0}`")]
    NoPeer(String),
    /// No group of that name.
    #[error("no group `{0}`")]
    NoGroup(String),
    /// No API key with that id.
    #[error("no API key `{0}`")]
    NoKey(KeyId),
    /// The peer has a key of that name.
    #[error("`{peer}` has an API key `{name}`")]
    KeyExists {
        /// Whose key it is.
        peer: PeerId,
        /// Its name.
        name: String,
    },
    /// The peer has as many keys as it may have.
    #[error("`{0}` has {API_KEYS_PER_PEER_MAX} API keys, which is the limit")]
    TooManyKeys(PeerId),
    /// No invite with that id.
    #[error("no invite `{0}`")]
    NoInvite(String),
    /// The invite was redeemed by another key.
    #[error("the invite was used")]
    InviteUsed,
    /// The invite is too old.
    #[error("the invite has expired")]
    InviteExpired,
    /// The invite was taken back.
    #[error("the invite was revoked")]
    InviteRevoked,
    /// No credential of that name.
    #[error("no credential `{0}`")]
    NoCredential(String),
    /// There are as many credentials as there may be.
    #[error("{CREDENTIALS_MAX} credentials are stored, which is the limit")]
    TooManyCredentials,
    /// The disk has no space left: nothing was changed, and nothing can be
    /// until there is some.
    #[error("no space is left on the disk")]
    NoSpace(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The disk does not do what it should: nothing was changed.
    #[error("the disk failed")]
    Disk(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The change was made and is kept, and what holds now could not be read
    /// again: it is tried further, and until then what was before is in force.
    #[error("the change was made, and could not be read back")]
    NotReadBack(#[source] Box<StoreError>),
    /// The adapter cannot read or write.
    #[error("storage failed")]
    Backend(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl StoreError {
    /// Wraps an adapter's own error.
    pub fn backend(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Backend(error.into())
    }
}

/// A node key of a peer; during a rotation there are two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeKey {
    /// The Ed25519 public key.
    #[serde(with = "hex32")]
    pub key: [u8; 32],
    /// Until when it is accepted; `None` for the current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// API keys that a peer may have at a time.
pub const API_KEYS_PER_PEER_MAX: usize = 64;

/// An API key as stored: never the secret, only its hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApiKeyRecord {
    /// Names it in lists and in the audit log.
    pub id: KeyId,
    /// Whose key it is: calls made with it are this peer's.
    pub peer: PeerId,
    /// What it is for, for people; one of a peer's keys.
    pub name: String,
    /// BLAKE3 of the secret.
    #[serde(with = "hex32")]
    pub secret_hash: [u8; 32],
    /// What it gives at most of what the peer holds; `None` for all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grants: Option<Grants>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When a call was last made with it, to the minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
}

/// A public SSH key of a peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SshKey {
    /// `SHA256:` and the hash of the key, as OpenSSH prints it. One of a
    /// peer's keys, and of no other peer's.
    pub fingerprint: String,
    /// The key, as OpenSSH writes it: `ssh-ed25519 AAAA…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// What the file said beside the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// An SSH authority whose certificates for a principal stand for a peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SshAuthority {
    /// `SHA256:` and the hash of the authority's key.
    pub fingerprint: String,
    /// Which of its certificates. An authority and a principal stand for one
    /// peer.
    pub principal: String,
    /// The authority's key, as OpenSSH writes it.
    pub public_key: String,
    /// What the file said beside the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// Where a peer was reached, or says that it can be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerAddresses {
    /// UDP addresses.
    #[serde(default)]
    pub direct: Vec<SocketAddr>,
    /// Relay URLs.
    #[serde(default)]
    pub relays: Vec<String>,
}

impl PeerAddresses {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.direct.is_empty() && self.relays.is_empty()
    }
}

/// A peer as stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerRecord {
    /// Its local slug.
    pub id: PeerId,
    /// How people call it.
    pub display_name: String,
    /// Its groups.
    #[serde(default)]
    pub groups: BTreeSet<GroupName>,
    /// What it was given itself.
    #[serde(default)]
    pub grants: Grants,
    /// Whether it may do anything at all.
    pub enabled: bool,
    /// When its access ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When it became a peer.
    pub created_at: Timestamp,
    /// When it was last connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<Timestamp>,
    /// Its node keys, the current one first.
    #[serde(default)]
    pub node_keys: Vec<NodeKey>,
    /// Its SSH keys.
    #[serde(default)]
    pub ssh_keys: BTreeSet<SshKey>,
    /// SSH authorities whose certificates stand for it.
    #[serde(default)]
    pub ssh_authorities: BTreeSet<SshAuthority>,
    /// Where to find it.
    #[serde(default)]
    pub addresses: PeerAddresses,
}

impl PeerRecord {
    /// An enabled peer with nothing granted.
    #[must_use]
    pub fn new(id: PeerId, created_at: Timestamp) -> Self {
        Self {
            display_name: id.to_string(),
            id,
            groups: BTreeSet::new(),
            grants: Grants::default(),
            enabled: true,
            expires_at: None,
            created_at,
            last_seen_at: None,
            node_keys: Vec::new(),
            ssh_keys: BTreeSet::new(),
            ssh_authorities: BTreeSet::new(),
            addresses: PeerAddresses::default(),
        }
    }

    /// Its current node key.
    #[must_use]
    pub fn node_key(&self) -> Option<&[u8; 32]> {
        self.node_keys
            .iter()
            .find(|key| key.until.is_none())
            .map(|key| &key.key)
    }
}

/// An invite as stored: never the secret, only its hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InviteRecord {
    /// Names it in lists; part of no secret.
    pub id: String,
    /// BLAKE3 of the one-time secret.
    #[serde(with = "hex32")]
    pub secret_hash: [u8; 32],
    /// What the newcomer will be called here; its own name if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<PeerId>,
    /// What the newcomer is given.
    #[serde(default)]
    pub grants: Grants,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// How many milliseconds the access lasts, once joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_for_ms: Option<u64>,
    /// Who redeemed it, and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<PeerId>,
    /// The key that redeemed it.
    #[serde(default, with = "hex32_opt", skip_serializing_if = "Option::is_none")]
    pub used_key: Option<[u8; 32]>,
    /// Whether it was taken back.
    #[serde(default)]
    pub revoked: bool,
}

/// A change of who may do what; each is one transaction with its audit row.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum IdentityChange {
    /// Adds a peer: its id and its credentials must be free.
    AddPeer(PeerRecord),
    /// Replaces everything but id and creation time.
    UpdatePeer(PeerRecord),
    /// Removes a peer with its credentials and grants.
    RemovePeer(PeerId),
    /// Adds and removes grants of a peer.
    ChangeGrants {
        /// Whose.
        peer: PeerId,
        /// What is given.
        add: Grants,
        /// What is taken.
        remove: Grants,
    },
    /// Makes or replaces a group's grants.
    PutGroup {
        /// Its name.
        group: GroupName,
        /// What its members are given.
        grants: Grants,
    },
    /// Removes a group; members lose its grants.
    RemoveGroup(GroupName),
    /// Adds an API key, which must be new to its peer: at most
    /// [`API_KEYS_PER_PEER_MAX`] of them.
    AddKey {
        /// The key.
        key: ApiKeyRecord,
        /// A peer that is added with it, for a key that is somebody's only
        /// credential.
        newcomer: Option<PeerRecord>,
    },
    /// Removes an API key.
    RemoveKey(KeyId),
    /// Adds an invite.
    AddInvite(InviteRecord),
    /// Takes an invite back.
    RevokeInvite(String),
    /// Marks an invite as used and adds the peer, or neither. Redeeming it
    /// again with the same key changes nothing and succeeds.
    RedeemInvite {
        /// Which.
        invite: String,
        /// The newcomer.
        peer: PeerRecord,
        /// The time to judge its expiry by.
        now: Timestamp,
    },
}

/// All identities at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IdentitySnapshot {
    /// The peers.
    pub peers: Vec<PeerRecord>,
    /// The groups with their grants.
    pub groups: Vec<(GroupName, Grants)>,
    /// The invites.
    pub invites: Vec<InviteRecord>,
    /// The API keys, by id.
    pub keys: Vec<ApiKeyRecord>,
}

/// Peers, their credentials and grants, groups, invites, API keys.
#[async_trait]
pub trait IdentityStore: Send + Sync + 'static {
    /// Reads everything.
    async fn load(&self) -> Result<IdentitySnapshot, StoreError>;

    /// Applies one change together with its audit row.
    async fn apply(&self, change: IdentityChange, audit: AuditRow) -> Result<(), StoreError>;

    /// Notes where and when a peer was seen; no audit row, no event.
    async fn seen(
        &self,
        peer: &PeerId,
        at: Timestamp,
        addresses: Option<PeerAddresses>,
    ) -> Result<(), StoreError>;

    /// Notes when API keys were last used; no audit row, no event. Keys that
    /// are gone are passed over.
    async fn keys_used(&self, uses: Vec<(KeyId, Timestamp)>) -> Result<(), StoreError>;
}

/// Which audit rows are wanted; newest first unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuditFilter {
    /// Of this caller.
    pub caller: Option<String>,
    /// Of this operation, or of all that start with it if it ends in `*`.
    pub operation: Option<String>,
    /// With this outcome: `ok`, a code, or `refused` for every error.
    pub outcome: Option<String>,
    /// Of this call and the calls it made.
    pub call_id: Option<String>,
    /// Started by this originator, or by all that start with it if it ends in
    /// `*`, such as `home/*`.
    pub originator: Option<String>,
    /// That arrived through this protocol: `call`, `local`, `join` and others.
    pub surface: Option<String>,
    /// That were to pass through this peer, wherever on their route.
    pub route: Option<String>,
    /// About this resource, or all that start with it if it ends in `*`.
    pub resource: Option<String>,
    /// Made with this API key, by its id.
    pub key: Option<String>,
    /// That came over this peer's connection, whoever the presented key made
    /// their caller.
    pub transport: Option<String>,
    /// That took at least so many milliseconds.
    pub took_ms_min: Option<u64>,
    /// Begun at or after this time (RFC 3339).
    pub since: Option<String>,
    /// Begun before this time (RFC 3339).
    pub until: Option<String>,
    /// Only rows written after this cursor.
    pub after: Option<u64>,
    /// Only rows written before this cursor.
    pub before: Option<u64>,
    /// Most rows returned; 100 if not given, at most 1,000.
    pub limit: Option<u32>,
    /// The oldest first, for going through the log forwards with `after`.
    pub oldest_first: bool,
}

/// What the audit log still has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditSpan {
    /// Every row up to this number was removed; 0 if none was.
    pub removed: u64,
    /// The newest number ever given; 0 if none was.
    pub newest: u64,
}

/// The audit log. Rows are numbered in the order in which they were written.
#[async_trait]
pub trait AuditLog: Send + Sync + 'static {
    /// Appends rows durably.
    async fn append(&self, rows: Vec<AuditRow>) -> Result<(), StoreError>;

    /// Rows that match, newest first unless the filter says otherwise, each
    /// with its number.
    async fn list(&self, filter: &AuditFilter) -> Result<Vec<(u64, AuditRow)>, StoreError>;

    /// Which rows are still here.
    async fn span(&self) -> Result<AuditSpan, StoreError>;

    /// The newest number. It turns after the commit; what it says is "go and
    /// look".
    fn written(&self) -> watch::Receiver<u64>;

    /// Removes the oldest rows while they are older than `before` or more than
    /// `rows_max` are kept, at most `batch` of them; returns how many went. If
    /// any did, `row` is written with them, says so, and counts too.
    async fn prune_rows(
        &self,
        before: Timestamp,
        rows_max: u64,
        batch: u32,
        row: AuditRow,
    ) -> Result<u64, StoreError>;
}

/// Identifies a call that must not happen twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdempotencyScope {
    /// Who was checked.
    pub caller: String,
    /// Who is said to have started it.
    pub originator: String,
    /// What was called.
    pub operation: String,
    /// The caller's key.
    pub key: String,
}

/// What is known of a call with the same scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Nothing: it is now recorded as started.
    Fresh,
    /// It ended, with this recorded outcome (JSON).
    Done(Vec<u8>),
    /// It was called with another input.
    OtherInput,
    /// It was started by this run of the node and has not ended.
    Running,
    /// It was started and its outcome was never recorded.
    Unknown,
}

/// Outcomes of calls with an idempotency key, kept for 24 hours.
#[async_trait]
pub trait IdempotencyStore: Send + Sync + 'static {
    /// Looks the scope up, and records it as started if it is new. `run`
    /// tells runs of the node apart.
    async fn begin(
        &self,
        scope: &IdempotencyScope,
        input_hash: [u8; 32],
        run: u64,
        now: Timestamp,
    ) -> Result<Begin, StoreError>;

    /// Records the outcome.
    async fn finish(&self, scope: &IdempotencyScope, outcome: Vec<u8>) -> Result<(), StoreError>;

    /// How many scopes of this caller are recorded.
    async fn count(&self, caller: &str) -> Result<u64, StoreError>;

    /// Forgets a start that had no effect (the handler never ran).
    async fn abandon(&self, scope: &IdempotencyScope) -> Result<(), StoreError>;

    /// Forgets what began before `before`; returns how many.
    async fn prune(&self, before: Timestamp) -> Result<u64, StoreError>;
}

/// Catalogues of imports, kept so that a restart need not fetch them again.
#[async_trait]
pub trait ImportStore: Send + Sync + 'static {
    /// The revision and text last kept for an import.
    async fn catalogue(&self, import: &str) -> Result<Option<(String, Vec<u8>)>, StoreError>;

    /// Keeps a catalogue.
    async fn put_catalogue(
        &self,
        import: &str,
        revision: &str,
        text: Vec<u8>,
    ) -> Result<(), StoreError>;

    /// Forgets a catalogue.
    async fn remove_catalogue(&self, import: &str) -> Result<(), StoreError>;
}

/// Who made which resource; lets `owner` rules through.
pub trait OwnershipProvider: Send + Sync + 'static {
    /// Whether `owner` made the canonical `resource`.
    fn owns(&self, owner: &PeerId, kind: crate::resource::ResourceKind, resource: &str) -> bool;
}

/// Owns nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoOwnership;

impl OwnershipProvider for NoOwnership {
    fn owns(&self, _owner: &PeerId, _kind: crate::resource::ResourceKind, _resource: &str) -> bool {
        false
    }
}

/// Lowercase hexadecimal text of 32 bytes.
pub mod hex32 {
    use serde::Deserialize;

    /// 64 hexadecimal digits.
    #[must_use]
    pub fn encode(bytes: &[u8; 32]) -> String {
        blake3::Hash::from_bytes(*bytes).to_hex().to_string()
    }

    /// The bytes behind 64 hexadecimal digits.
    #[must_use]
    pub fn decode(text: &str) -> Option<[u8; 32]> {
        blake3::Hash::from_hex(text)
            .ok()
            .map(|hash| *hash.as_bytes())
    }

    pub(super) fn serialize<S: serde::Serializer>(
        bytes: &[u8; 32],
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.serialize_str(&encode(bytes))
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        d: D,
    ) -> Result<[u8; 32], D::Error> {
        decode(&String::deserialize(d)?)
            .ok_or_else(|| serde::de::Error::custom("64 hexadecimal digits"))
    }
}

mod hex32_opt {
    use serde::Deserialize;

    pub(super) fn serialize<S: serde::Serializer>(
        bytes: &Option<[u8; 32]>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => s.serialize_some(&super::hex32::encode(bytes)),
            None => s.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        d: D,
    ) -> Result<Option<[u8; 32]>, D::Error> {
        match Option::<String>::deserialize(d)? {
            None => Ok(None),
            Some(text) => super::hex32::decode(&text)
                .map(Some)
                .ok_or_else(|| serde::de::Error::custom("64 hexadecimal digits")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_are_rfc_3339_and_read_back() {
        let at = Timestamp(1_790_000_000_123);
        assert_eq!(at.to_string(), "2026-09-21T14:13:20.123Z");
        assert_eq!(Timestamp::parse(&at.to_string()), Some(at));
        assert_eq!(Timestamp(0).to_string(), "1970-01-01T00:00:00.000Z");
    }
}
