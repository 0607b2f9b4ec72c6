//! Storage traits, narrow and async, with in-memory adapters.
//!
//! Every adapter passes the same conformance suite. A write is durable, and
//! visible to its own caller, when it returns.

mod index;
mod memory;

pub use self::{
    index::{IdentityIndex, SharedClock, system_clock},
    memory::{MemoryAuditLog, MemoryIdempotencyStore, MemoryIdentityStore, MemoryImportStore},
};
use crate::{
    audit::AuditRow,
    name::{GroupName, PeerId},
    role::Grants,
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, net::SocketAddr};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

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
    /// Fingerprints of its SSH keys.
    #[serde(default)]
    pub ssh_keys: BTreeSet<String>,
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
}

/// Peers, their credentials and grants, groups, invites.
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
}

/// Which audit rows are wanted; newest first.
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
}

/// The audit log. Rows are numbered in the order in which they were written.
#[async_trait]
pub trait AuditLog: Send + Sync + 'static {
    /// Appends rows durably.
    async fn append(&self, rows: Vec<AuditRow>) -> Result<(), StoreError>;

    /// Rows that match, newest first, each with its number.
    async fn list(&self, filter: &AuditFilter) -> Result<Vec<(u64, AuditRow)>, StoreError>;
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
