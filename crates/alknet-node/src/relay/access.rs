//! Who may use this node's relay: those it knows, and while an invite is open
//! whoever shows its token.

use super::relay_token;
use crate::admission::Bans;
use alknet_core::{
    AuditOutcome, AuditRow, AuditSink, Credential, IdentityProvider, PeerId,
    storage::{IdentityIndex, hex32},
};
use iroh::EndpointId;
use iroh_metrics::{Counter, MetricsGroup};
use iroh_relay::server::{Access, AccessControl, ClientRequest, ConnectionId, RelayService};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

/// Newcomers at a time with the token of one invite.
pub(crate) const NEWCOMERS_PER_INVITE_MAX: usize = 4;
/// How long the connection of a newcomer that has joined is left alone.
const JOINING: Duration = Duration::from_secs(3);
/// How long that connection may stay beside the one that takes its place. iroh
/// closes one that is idle after a minute; one that is ended while it has
/// something to send would hold up what its node sends through other relays.
const LEAVING: Duration = Duration::from_secs(90);
/// Connections a minute with the token of one invite.
pub(crate) const NEWCOMERS_PER_MINUTE_MAX: usize = 30;
/// Rows a minute that refused clients leave in the audit log.
pub(crate) const REFUSALS_TOLD_PER_MINUTE_MAX: usize = 30;
/// How long nothing is said again about one key that is treated as before.
const TOLD_AGAIN: Duration = Duration::from_secs(3600);
/// Keys of which it is remembered what was said.
const KEYS_TOLD_MAX: usize = 1024;

/// What a refused client hears.
const STRANGER: &str = "this relay serves nodes that its owner knows: join with an invite (alknet join), or have your key added there (alknet peers add)";
const FULL: &str = "this relay serves as many clients as it may; try again later";
const CROWDED: &str = "too many newcomers show the same invite; try again later";
pub(super) const TWICE: &str = "this key is connected already";

/// Counters of who came.
#[derive(Debug, Default, MetricsGroup)]
#[metrics(name = "alknet_relay")]
pub(crate) struct RelayCounters {
    /// Clients that were let in.
    pub(crate) admitted: Counter,
    /// Clients that were turned away.
    pub(crate) refused: Counter,
    /// Connections that were ended because their right ended, or because
    /// another one of the same key came.
    pub(crate) cut: Counter,
}

/// Why a client is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Right {
    /// It is this node itself, or one that it knows.
    Known,
    /// It shows the token of this open invite.
    Newcomer { invite: String },
}

/// Why a client is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Stranger,
    Full,
    Crowded,
    Twice,
}

impl Refusal {
    fn reason(self) -> &'static str {
        match self {
            Refusal::Stranger => STRANGER,
            Refusal::Full => FULL,
            Refusal::Crowded => CROWDED,
            Refusal::Twice => TWICE,
        }
    }

    fn code(self) -> &'static str {
        match self {
            Refusal::Stranger => "FORBIDDEN",
            Refusal::Full | Refusal::Crowded => "RATE_LIMITED",
            Refusal::Twice => "CONFLICT",
        }
    }
}

/// Decides who may use the relay, and ends connections whose right ended.
#[derive(Debug)]
pub(crate) struct Gate {
    identities: GateIdentities,
    bans: OnceLock<GateBans>,
    own: [u8; 32],
    clients_max: usize,
    audit: GateAudit,
    service: OnceLock<RelayService>,
    state: Mutex<State>,
    /// Rung when a newcomer came in.
    newcomer: Notify,
    pub(crate) counters: Arc<RelayCounters>,
}

/// None of them prints.
struct GateIdentities(Arc<IdentityIndex>);
struct GateBans(Arc<Bans>);
struct GateAudit(AuditSink);

impl std::fmt::Debug for GateIdentities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IdentityIndex")
    }
}

impl std::fmt::Debug for GateBans {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bans")
    }
}

impl std::fmt::Debug for GateAudit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuditSink")
    }
}

#[derive(Debug, Default)]
struct State {
    /// One connection a key: the newest.
    connected: HashMap<[u8; 32], Connected>,
    /// Connections beside the newest one of their key, until when they may
    /// stay; kept until the server says that they have ended.
    leaving: Vec<([u8; 32], ConnectionId, Instant)>,
    /// Times of newcomers' connections, by invite.
    newcomers: HashMap<String, Vec<Instant>>,
    /// What was last said about a key.
    told: HashMap<[u8; 32], (Option<Refusal>, Instant)>,
    /// When refusals were said.
    refusals: Vec<Instant>,
}

#[derive(Clone, Debug)]
struct Connected {
    connection: ConnectionId,
    right: Right,
    /// Whether it showed a token, needed or not.
    with_token: bool,
    /// Since when a newcomer is a peer.
    known_since: Option<Instant>,
}

impl Gate {
    pub(crate) fn new(
        identities: Arc<IdentityIndex>,
        own: [u8; 32],
        clients_max: usize,
        audit: AuditSink,
    ) -> Arc<Self> {
        Arc::new(Self {
            identities: GateIdentities(identities),
            bans: OnceLock::new(),
            own,
            clients_max,
            audit: GateAudit(audit),
            service: OnceLock::new(),
            state: Mutex::default(),
            newcomer: Notify::new(),
            counters: Arc::default(),
        })
    }

    /// Keys and peers that are shut out of the node are shut out of its relay
    /// too. Addresses are not: the relay's library does not tell where a client
    /// comes from.
    pub(crate) fn bar(&self, bans: Arc<Bans>) {
        // Set once: there is one node.
        let _ = self.bans.set(GateBans(bans));
    }

    /// Where connections are ended; set once the server runs.
    pub(crate) fn serve(&self, service: RelayService) {
        // Set once: there is one server.
        let _ = self.service.set(service);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Clients connected now, this node itself not counted.
    pub(crate) fn clients(&self) -> usize {
        let state = self.state();
        let own = usize::from(state.connected.contains_key(&self.own));
        state.connected.len() - own
    }

    fn is_known(&self, key: &[u8; 32]) -> bool {
        let credential = Credential::NodeKey(*key);
        let known = self.identities.0.resolve(&credential);
        *key == self.own || known.is_some_and(|known| !self.bars(key, Some(&known.id)))
    }

    fn bars(&self, key: &[u8; 32], peer: Option<&PeerId>) -> bool {
        self.bans.get().is_some_and(|bans| {
            bans.0.bars_key(key) || peer.is_some_and(|peer| bans.0.bars_peer(peer))
        })
    }

    /// The open invite that a token belongs to.
    fn invite(&self, token: &str) -> Option<String> {
        use subtle::ConstantTimeEq;
        let now = self.identities.0.now();
        let invites = self.identities.0.snapshot().invites;
        let mut open = invites.into_iter().filter(|invite| {
            !invite.revoked && invite.used_by.is_none() && now < invite.expires_at
        });
        open.find(|invite| {
            let want = relay_token(&invite.secret_hash);
            bool::from(want.as_bytes().ct_eq(token.as_bytes()))
        })
        .map(|invite| invite.id)
    }

    fn is_open(&self, invite: &str) -> bool {
        let now = self.identities.0.now();
        let invites = self.identities.0.snapshot().invites;
        let mut found = invites.into_iter().filter(|other| other.id == invite);
        found.any(|found| !found.revoked && found.used_by.is_none() && now < found.expires_at)
    }

    /// Judges a client, and counts it in if it may enter.
    fn enter(
        &self,
        key: [u8; 32],
        connection: ConnectionId,
        token: Option<&str>,
    ) -> Result<(), Refusal> {
        let right = match (self.is_known(&key), token) {
            (true, _) => Right::Known,
            (false, Some(_)) if self.bars(&key, None) => return Err(Refusal::Stranger),
            (false, Some(token)) => Right::Newcomer {
                invite: self.invite(token).ok_or(Refusal::Stranger)?,
            },
            (false, None) => return Err(Refusal::Stranger),
        };
        let mut state = self.state();
        if let Right::Newcomer { invite } = &right {
            state.count_newcomer(invite, &key)?;
        }
        let before = state.connected.get(&key).cloned();
        if let Some(before) = &before
            && right == Right::Known
            && token.is_none()
            && state.is_joining(&key, before)
        {
            return Err(Refusal::Twice);
        }
        match &before {
            // Whoever has joined comes back without the token: the connection
            // that shows it still must not push the other one out.
            Some(before) if token.is_some() && !before.with_token => return Err(Refusal::Twice),
            Some(_) => {}
            None if key != self.own => {
                let own = usize::from(state.connected.contains_key(&self.own));
                if state.connected.len() - own >= self.clients_max {
                    return Err(Refusal::Full);
                }
            }
            None => {}
        }
        let entered = Connected {
            connection,
            right,
            with_token: token.is_some(),
            known_since: None,
        };
        if matches!(entered.right, Right::Newcomer { .. }) {
            self.newcomer.notify_one();
        }
        let is_known = entered.right == Right::Known;
        state.connected.insert(key, entered);
        if let Some(before) = before {
            // A key has one connection, so that its rate is one.
            let quietly = matches!(before.right, Right::Newcomer { .. }) && token.is_none();
            let stays = if quietly { LEAVING } else { Duration::ZERO };
            let until = Instant::now() + stays;
            state.leaving.push((key, before.connection, until));
            self.newcomer.notify_one();
        }
        // Whoever is removed from here on is found among the connected; one
        // that was removed since it was judged is found now.
        if is_known && !self.is_known(&key) {
            state.connected.remove(&key);
            return Err(Refusal::Stranger);
        }
        Ok(())
    }

    /// Ends a connection. One that was let in and is not registered yet cannot
    /// be ended: whoever calls this tries again until the server says that it
    /// is gone.
    fn cut(&self, key: &[u8; 32], connection: ConnectionId) {
        if let (Some(service), Ok(id)) = (self.service.get(), EndpointId::from_bytes(key))
            && service.clients().disconnect(id, Some(connection))
        {
            self.counters.cut.inc();
        }
    }

    /// Ends every connection whose right has ended; whether it is to be looked
    /// at again soon, since one ends with time, or has not ended yet.
    fn end_unless_allowed(&self) -> bool {
        let connected: Vec<([u8; 32], Connected)> = self
            .state()
            .connected
            .iter()
            .map(|(key, connected)| (*key, connected.clone()))
            .collect();
        let mut ends = self.end_leaving();
        for (key, connected) in connected {
            if self.is_known(&key) {
                self.state().note_known(&key);
                continue;
            }
            let is_guest = match &connected.right {
                Right::Known => false,
                Right::Newcomer { invite } => self.is_open(invite) && !self.bars(&key, None),
            };
            if !is_guest {
                self.cut(&key, connected.connection);
            }
            ends = true;
        }
        ends
    }

    /// Ends connections beside the newest of their key once their time is over
    /// or they are no peers' any more; whether some are left.
    fn end_leaving(&self) -> bool {
        let now = Instant::now();
        let leaving = self.state().leaving.clone();
        for (key, connection, until) in &leaving {
            if now >= *until || !self.is_known(key) {
                self.cut(key, *connection);
            }
        }
        !leaving.is_empty()
    }

    /// Ends connections when rights end, until `stop`.
    pub(crate) async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut changes = self.identities.0.changes();
        loop {
            changes.mark_unchanged();
            // Clocks are set: what ends with time is looked at every second.
            let wait = match self.end_unless_allowed() {
                true => Duration::from_secs(1),
                false => Duration::from_secs(3600),
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
                () = self.newcomer.notified() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Says what happened to a client, once and not on each retry.
    async fn tell(&self, key: &[u8; 32], refusal: Option<Refusal>) {
        let counted = match refusal {
            None => &self.counters.admitted,
            Some(_) => &self.counters.refused,
        };
        counted.inc();
        // One connection too many of a client that is in is no news.
        if *key == self.own
            || refusal == Some(Refusal::Twice)
            || !self.state().is_news(key, refusal)
        {
            return;
        }
        let who = self.identities.0.resolve(&Credential::NodeKey(*key));
        let who = who.map_or_else(
            || format!("key:{}", &hex32::encode(key)[..16]),
            |identity| identity.id.to_string(),
        );
        let mut row = AuditRow::event(self.identities.0.now(), &who, "relay/connect");
        if let Some(refusal) = refusal {
            row.outcome = AuditOutcome::code(refusal.code().to_owned().into());
            tracing::info!(client = %who, reason = refusal.reason(), "the relay refused a client");
        } else {
            tracing::info!(client = %who, "the relay let a client in");
        }
        self.audit.0.record(row).await;
    }
}

impl State {
    /// Whether a newcomer has become a peer just now: the answer that says so
    /// is still on its way through the connection that it came by.
    fn is_joining(&mut self, key: &[u8; 32], connected: &Connected) -> bool {
        if !matches!(connected.right, Right::Newcomer { .. }) {
            return false;
        }
        self.note_known(key);
        let since = self.connected.get(key).and_then(|now| now.known_since);
        since.is_some_and(|since| since.elapsed() < JOINING)
    }

    fn note_known(&mut self, key: &[u8; 32]) {
        if let Some(connected) = self.connected.get_mut(key) {
            connected.known_since.get_or_insert_with(Instant::now);
        }
    }

    fn count_newcomer(&mut self, invite: &str, key: &[u8; 32]) -> Result<(), Refusal> {
        let others = self.connected.iter().filter(|(other, connected)| {
            *other != key
                && matches!(&connected.right, Right::Newcomer { invite: held } if held == invite)
        });
        if others.count() >= NEWCOMERS_PER_INVITE_MAX {
            return Err(Refusal::Crowded);
        }
        let now = Instant::now();
        self.newcomers.retain(|_, times| {
            times.retain(|at| now.duration_since(*at) < Duration::from_secs(60));
            !times.is_empty()
        });
        // Invites are bounded, so these are.
        let times = self.newcomers.entry(invite.to_owned()).or_default();
        if times.len() >= NEWCOMERS_PER_MINUTE_MAX {
            return Err(Refusal::Crowded);
        }
        times.push(now);
        Ok(())
    }

    /// Whether something is to be said, which then counts as said.
    fn is_news(&mut self, key: &[u8; 32], refusal: Option<Refusal>) -> bool {
        let now = Instant::now();
        let is_old = |at: &Instant| now.duration_since(*at) >= TOLD_AGAIN;
        if let Some((before, at)) = self.told.get(key)
            && *before == refusal
            && !is_old(at)
        {
            return false;
        }
        if refusal.is_some() {
            let minute = Duration::from_secs(60);
            self.refusals.retain(|at| now.duration_since(*at) < minute);
            if self.refusals.len() >= REFUSALS_TOLD_PER_MINUTE_MAX {
                return false;
            }
            self.refusals.push(now);
        }
        if self.told.len() >= KEYS_TOLD_MAX {
            self.told.retain(|_, (_, at)| !is_old(at));
        }
        if self.told.len() >= KEYS_TOLD_MAX {
            self.told.clear();
        }
        self.told.insert(*key, (refusal, now));
        true
    }
}

/// Counts a client out again that was let in, if nobody heard of it.
struct Unsaid<'a>(Option<(&'a Gate, &'a ClientRequest)>);

impl Drop for Unsaid<'_> {
    fn drop(&mut self) {
        if let Some((gate, request)) = self.0 {
            gate.on_disconnect(request.endpoint_id(), request.connection_id());
        }
    }
}

impl AccessControl for Gate {
    async fn on_connect(&self, request: &ClientRequest) -> Access {
        let key = *request.endpoint_id().as_bytes();
        let token = request.auth_token();
        let entered = self.enter(key, request.connection_id(), token.as_deref());
        // The server tells of the end of those that it was told to let in, and
        // may give up a client before.
        let mut unsaid = Unsaid(Some((self, request)).filter(|_| entered.is_ok()));
        self.tell(&key, entered.err()).await;
        unsaid.0 = None;
        match entered {
            Ok(()) => Access::Allow,
            Err(refusal) => Access::Deny {
                reason: Some(refusal.reason().into()),
            },
        }
    }

    fn on_disconnect(&self, endpoint_id: EndpointId, connection_id: ConnectionId) {
        let mut state = self.state();
        let key = endpoint_id.as_bytes();
        state
            .leaving
            .retain(|(_, leaving, _)| *leaving != connection_id);
        if state
            .connected
            .get(key)
            .is_some_and(|connected| connected.connection == connection_id)
        {
            state.connected.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alknet_core::{
        PeerId, RoleSet,
        storage::{IdentityChange, NodeKey, PeerRecord, SharedClock, Timestamp},
    };
    use alknet_store::Store;
    use iroh::SecretKey;
    use iroh_relay::server::OnDisconnectGuard;

    const NOW: Timestamp = Timestamp(1_790_000_000_000);

    async fn apply(identities: &IdentityIndex, change: IdentityChange) {
        let row = AuditRow::event(NOW, "test", "peers/add");
        identities.apply(change, row).await.unwrap();
    }

    /// A gate that no server serves, so that nothing that it cuts ends, and a
    /// peer `phone` with a key.
    async fn gate(dir: &tempfile::TempDir) -> (Arc<Gate>, Arc<IdentityIndex>, EndpointId) {
        let store = Store::open(&dir.path().join("alknet.db")).unwrap();
        let clock: SharedClock = Arc::new(|| NOW);
        let roles = RoleSet::new(Vec::new(), Vec::new());
        let identities = IdentityIndex::load(Arc::new(store), roles, clock);
        let identities = Arc::new(identities.await.unwrap());
        let phone = SecretKey::from_bytes(&[1; 32]).public();
        let mut record = PeerRecord::new(PeerId::parse("phone").unwrap(), NOW);
        record.node_keys = vec![NodeKey {
            key: *phone.as_bytes(),
            until: None,
        }];
        apply(&identities, IdentityChange::AddPeer(record)).await;
        let gate = Gate::new(identities.clone(), [9; 32], 8, AuditSink::discard());
        (gate, identities, phone)
    }

    fn connection(key: EndpointId) -> ConnectionId {
        OnDisconnectGuard::empty(key).connection_id()
    }

    #[tokio::test]
    async fn a_client_that_cannot_be_ended_yet_is_looked_at_until_it_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let (gate, identities, phone) = gate(&dir).await;
        let first = connection(phone);
        gate.enter(*phone.as_bytes(), first, None).unwrap();
        assert!(!gate.end_unless_allowed());
        let peer = PeerId::parse("phone").unwrap();
        apply(&identities, IdentityChange::RemovePeer(peer)).await;
        assert!(gate.end_unless_allowed());
        assert!(gate.end_unless_allowed());
        gate.on_disconnect(phone, first);
        assert!(!gate.end_unless_allowed());
        let again = gate.enter(*phone.as_bytes(), connection(phone), None);
        assert_eq!(again, Err(Refusal::Stranger));
    }

    #[tokio::test]
    async fn a_connection_whose_place_was_taken_is_looked_at_until_it_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let (gate, _identities, phone) = gate(&dir).await;
        let (first, second) = (connection(phone), connection(phone));
        gate.enter(*phone.as_bytes(), first, None).unwrap();
        gate.enter(*phone.as_bytes(), second, None).unwrap();
        assert_eq!(gate.clients(), 1);
        assert!(gate.end_unless_allowed());
        assert!(gate.end_unless_allowed());
        gate.on_disconnect(phone, first);
        assert!(!gate.end_unless_allowed());
        assert_eq!(gate.clients(), 1);
    }
}
