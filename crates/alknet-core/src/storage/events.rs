//! What happened, durably, in order: the log that subscribers follow.
//!
//! An event is written in the transaction of the change it tells of: there is
//! no event without its change and no change without its event. It says what
//! changed and who did it, never a secret and never an input.

use super::{IdentityChange, PeerRecord, StoreError, Timestamp};
use crate::audit::AuditRow;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::{borrow::Cow, fmt};
use tokio::sync::watch;

/// What sort of thing happened: `area/what`, such as `peer/joined`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventKind(Cow<'static, str>);

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        impl EventKind {
            $($(#[$doc])* pub const $name: EventKind = EventKind(Cow::Borrowed($text));)*

            /// Every kind that the node itself writes.
            pub const ALL: &[EventKind] = &[$(EventKind::$name,)*];
        }
    };
}

kinds! {
    /// A newcomer redeemed an invite and is a peer now.
    PEER_JOINED = "peer/joined",
    /// A peer was added by hand, or by redeeming its ticket.
    PEER_ADDED = "peer/added",
    /// Something of a peer changed that is neither a key nor a grant.
    PEER_UPDATED = "peer/updated",
    /// A peer is no more.
    PEER_REMOVED = "peer/removed",
    /// A peer has another node key.
    PEER_ROTATED = "peer/rotated",
    /// A peer was given grants, or lost some.
    GRANTS_CHANGED = "grants/changed",
    /// A group's grants were set.
    GROUP_CHANGED = "group/changed",
    /// A group is no more.
    GROUP_REMOVED = "group/removed",
    /// An API key was made.
    KEY_CREATED = "key/created",
    /// An API key was taken back.
    KEY_REVOKED = "key/revoked",
    /// An invite was made.
    INVITE_CREATED = "invite/created",
    /// An invite was redeemed.
    INVITE_USED = "invite/used",
    /// An invite was taken back.
    INVITE_REVOKED = "invite/revoked",
    /// Calls to a peer go through.
    LINK_UP = "link/up",
    /// They do no longer.
    LINK_DOWN = "link/down",
    /// An outbound credential was stored, or replaced.
    CREDENTIAL_PUT = "credential/put",
    /// An outbound credential is no more.
    CREDENTIAL_REMOVED = "credential/removed",
    /// The sealing key has another version, and everything was sealed anew.
    VAULT_ROTATED = "vault/rotated",
    /// Somebody was shut out.
    BAN_SET = "ban/set",
    /// A ban was lifted.
    BAN_LIFTED = "ban/lifted",
    /// The configuration was read again.
    CONFIG_RELOADED = "config/reloaded",
    /// A peer offers other operations than before.
    IMPORT_CHANGED = "import/changed",
    /// The node serves.
    NODE_STARTED = "node/started",
    /// The node stops.
    NODE_STOPPED = "node/stopped",
}

impl EventKind {
    /// A kind of another crate.
    #[must_use]
    pub const fn named(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// A kind read back from an adapter's rows.
    #[must_use]
    pub fn stored(name: String) -> Self {
        Self(Cow::Owned(name))
    }

    /// As listed.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Something that happened, before it has a place in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// When.
    pub at: Timestamp,
    /// What sort of thing.
    pub kind: EventKind,
    /// What it happened to: a peer, a group, the id of a key or invite.
    pub about: String,
    /// Who did it; `host` for the node itself.
    pub caller: String,
    /// The call that did it: the id under which the audit log has it.
    pub call_id: Option<String>,
    /// A few particulars, as a JSON object. Never a secret, never an input.
    pub details: Map<String, Value>,
}

impl NewEvent {
    /// The event of a change that `row` records.
    #[must_use]
    pub fn of(kind: EventKind, about: impl Into<String>, row: &AuditRow) -> Self {
        let call = row.parent_id.as_ref().unwrap_or(&row.call_id);
        Self {
            at: row.at,
            kind,
            about: about.into(),
            caller: row.caller.clone(),
            call_id: Some(call.clone()),
            details: Map::new(),
        }
    }

    /// Something that the node noticed, which no call did.
    #[must_use]
    pub fn noticed(kind: EventKind, about: impl Into<String>, at: Timestamp) -> Self {
        Self {
            at,
            kind,
            about: about.into(),
            caller: "host".into(),
            call_id: None,
            details: Map::new(),
        }
    }

    /// Adds a particular; `null` is left out.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        if !value.is_null() {
            self.details.insert(name.into(), value);
        }
        self
    }
}

/// An event with its number in the log. Numbers grow, and none is given twice
/// within an epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its number, from 1.
    pub number: u64,
    /// What happened.
    pub event: NewEvent,
}

/// What a log still has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSpan {
    /// Tells this history from those before a restore; letters and digits.
    pub epoch: String,
    /// Everything up to this number was removed; 0 if nothing was.
    pub removed: u64,
    /// The newest number ever given; 0 if none was.
    pub newest: u64,
}

impl EventSpan {
    /// The cursor from which everything kept can be read.
    #[must_use]
    pub fn oldest_cursor(&self) -> EventCursor {
        self.cursor(self.removed)
    }

    /// The cursor from which what comes next can be read.
    #[must_use]
    pub fn newest_cursor(&self) -> EventCursor {
        self.cursor(self.newest)
    }

    /// The cursor right after an event with this number.
    #[must_use]
    pub fn cursor(&self, number: u64) -> EventCursor {
        EventCursor {
            epoch: self.epoch.clone(),
            number,
        }
    }

    /// Whether everything after `cursor` is still here: neither removed, nor
    /// of another history, nor ahead of this one.
    #[must_use]
    pub fn covers(&self, cursor: &EventCursor) -> bool {
        cursor.epoch == self.epoch && (self.removed..=self.newest).contains(&cursor.number)
    }
}

/// A place in one history of events: right after the event that it came with.
/// Opaque to its holders: `<epoch>-<number>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EventCursor {
    /// Which history.
    pub epoch: String,
    /// After which event.
    pub number: u64,
}

impl EventCursor {
    /// Longest accepted text.
    pub const BYTES_MAX: usize = 64;

    /// Parses a cursor that a log gave out.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > Self::BYTES_MAX {
            return None;
        }
        let (epoch, number) = text.split_once('-')?;
        let plain = !epoch.is_empty() && epoch.bytes().all(|b| b.is_ascii_alphanumeric());
        // One text for one place: no sign, no leading zero.
        let digits = number.bytes().all(|b| b.is_ascii_digit())
            && (number == "0" || !number.starts_with('0'));
        (plain && digits).then_some(())?;
        Some(Self {
            epoch: epoch.into(),
            number: number.parse().ok()?,
        })
    }
}

impl fmt::Display for EventCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.number)
    }
}

/// Events in the order of their numbers, and how far was looked for them.
#[derive(Clone, Debug, PartialEq)]
pub struct EventPage {
    /// What the log had at the moment of reading.
    pub span: EventSpan,
    /// The events that match.
    pub events: Vec<Event>,
    /// Everything up to this number was looked at: go on from here.
    pub through: u64,
}

/// Most events of one page.
pub const EVENTS_PAGE_MAX: u32 = 1_000;

/// The log of what happened.
#[async_trait]
pub trait EventLog: Send + Sync + 'static {
    /// Appends events and audit rows, all or none, durably.
    async fn append_events(
        &self,
        events: Vec<NewEvent>,
        rows: Vec<AuditRow>,
    ) -> Result<(), StoreError>;

    /// Events after a number, at most [`EVENTS_PAGE_MAX`], of kinds that begin
    /// with `kind`. Whether anything is missing in between, the page's span
    /// tells: it is of the same moment.
    async fn read_events(
        &self,
        after: u64,
        kind: &str,
        limit: u32,
    ) -> Result<EventPage, StoreError>;

    /// Removes the oldest events while they are older than `before` or more
    /// than `rows_max` are kept, at most `batch` of them; returns how many
    /// went. If any did, `row` is written with them, and says so.
    async fn prune_events(
        &self,
        before: Timestamp,
        rows_max: u64,
        batch: u32,
        row: AuditRow,
    ) -> Result<u64, StoreError>;

    /// The newest number. It turns after the commit; what it says is "go and
    /// look".
    fn newest_event(&self) -> watch::Receiver<u64>;
}

/// What a store found out about a change while it applied it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It changed something.
    Changed,
    /// It changed a peer's current node key.
    Rotated,
    /// Everything was so already. There is no event, and the audit row says
    /// so.
    Unchanged,
}

/// What the audit row of a change that changed nothing says.
pub const UNCHANGED: &str = "nothing changed";

impl IdentityChange {
    /// The events of this change, which an adapter writes in the change's own
    /// transaction, and beside it the audit row.
    #[must_use]
    pub fn recorded(&self, applied: Applied, mut row: AuditRow) -> (Vec<NewEvent>, AuditRow) {
        if applied == Applied::Unchanged {
            row.detail.get_or_insert_with(|| UNCHANGED.into());
            return (Vec::new(), row);
        }
        (self.events(applied, &row), row)
    }

    fn events(&self, applied: Applied, row: &AuditRow) -> Vec<NewEvent> {
        let event = |kind, about: &str| NewEvent::of(kind, about, row);
        let one = match self {
            Self::AddPeer(peer) => about_peer(event(EventKind::PEER_ADDED, peer.id.as_str()), peer),
            Self::UpdatePeer(peer) if applied == Applied::Rotated => {
                let overlap = peer.node_keys.iter().find_map(|key| key.until);
                about_peer(event(EventKind::PEER_ROTATED, peer.id.as_str()), peer)
                    .with("old_key_until", overlap.map(|at| at.to_string()))
            }
            Self::UpdatePeer(peer) => {
                about_peer(event(EventKind::PEER_UPDATED, peer.id.as_str()), peer)
            }
            Self::RemovePeer(id) => event(EventKind::PEER_REMOVED, id.as_str()),
            Self::ChangeGrants { peer, add, remove } => {
                event(EventKind::GRANTS_CHANGED, peer.as_str())
                    .with("added", json!(add))
                    .with("removed", json!(remove))
            }
            Self::PutGroup { group, grants } => {
                event(EventKind::GROUP_CHANGED, group.as_str()).with("grants", json!(grants))
            }
            Self::RemoveGroup(group) => event(EventKind::GROUP_REMOVED, group.as_str()),
            Self::AddKey { key, newcomer } => {
                let added = newcomer
                    .iter()
                    .map(|peer| about_peer(event(EventKind::PEER_ADDED, peer.id.as_str()), peer));
                let created = event(EventKind::KEY_CREATED, key.id.as_str())
                    .with("peer", key.peer.as_str())
                    .with("name", key.name.as_str())
                    .with("expires_at", key.expires_at.map(|at| at.to_string()));
                return added.chain([created]).collect();
            }
            Self::RemoveKey(id) => event(EventKind::KEY_REVOKED, id.as_str()),
            Self::AddInvite(invite) => event(EventKind::INVITE_CREATED, &invite.id)
                .with("name", invite.name.as_ref().map(ToString::to_string))
                .with("grants", json!(invite.grants))
                .with("expires_at", invite.expires_at.to_string()),
            Self::RevokeInvite(id) => event(EventKind::INVITE_REVOKED, id),
            Self::RedeemInvite { invite, peer, .. } => {
                let used = event(EventKind::INVITE_USED, invite).with("peer", peer.id.as_str());
                let joined = event(EventKind::PEER_JOINED, peer.id.as_str());
                return vec![
                    used,
                    about_peer(joined, peer).with("invite", invite.as_str()),
                ];
            }
        };
        vec![one]
    }
}

fn about_peer(event: NewEvent, peer: &PeerRecord) -> NewEvent {
    event
        .with("node_id", peer.node_key().map(super::hex32::encode))
        .with("enabled", peer.enabled)
        .with("expires_at", peer.expires_at.map(|at| at.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn span() -> EventSpan {
        EventSpan {
            epoch: "a1".into(),
            removed: 3,
            newest: 7,
        }
    }

    #[test]
    fn a_cursor_is_covered_from_the_oldest_kept_to_the_newest() {
        for (text, want) in [
            ("a1-2", false),
            ("a1-3", true),
            ("a1-7", true),
            ("a1-8", false),
            ("a2-5", false),
        ] {
            let cursor = EventCursor::parse(text).unwrap();
            assert_eq!(span().covers(&cursor), want, "{text}");
            assert_eq!(cursor.to_string(), text);
        }
    }

    #[test]
    fn what_no_log_gave_out_is_no_cursor() {
        let long = format!("a-{}", "1".repeat(63));
        for text in [
            "",
            "-",
            "a",
            "a-",
            "-1",
            "a-+1",
            "a-01",
            "a--1",
            "a-1-1",
            "a b-1",
            "ä-1",
            "a-18446744073709551616",
            &long,
        ] {
            assert_eq!(EventCursor::parse(text), None, "{text}");
        }
        let last = "a-18446744073709551615";
        assert_eq!(EventCursor::parse(last).unwrap().number, u64::MAX);
    }

    #[test]
    fn kinds_are_an_area_and_what_happened_there() {
        for kind in EventKind::ALL {
            let name = crate::OperationName::parse(kind.as_str());
            assert!(name.is_ok(), "{kind:?}");
        }
    }
}
