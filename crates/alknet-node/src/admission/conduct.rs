//! How those behave who come: what they do wrong is counted, slows them down,
//! is told to whoever reads the log, and in the end shuts them out.

use super::{
    BanTarget, Bans, Class, Measure, Offence, Offences, Prefix, Refusal, Refusals, Source, lock,
};
use crate::node::OWNER;
use alknet_call::conduct::Watch;
use alknet_core::{
    Credential, IdentityProvider, PeerId,
    storage::{IdentityIndex, hex32},
    transport::ConnectionInfo,
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};

/// Automatic bans that may wait to be stored.
const DUE_MAX: usize = 64;

/// The target of the lines that programs such as fail2ban read. Their text is
/// a promise: `docs/fail2ban` has a filter for it.
const AUTH: &str = "alknet::auth";

/// Somebody who is to be shut out.
#[derive(Debug)]
pub(crate) struct Due {
    pub(crate) target: BanTarget,
    pub(crate) lasts: Duration,
    pub(crate) reason: String,
}

/// Who does something, as far as it is proven.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    /// Where a direct connection comes from.
    pub(crate) address: Option<IpAddr>,
    /// The key of the connection.
    pub(crate) key: Option<[u8; 32]>,
    /// Whose key that is.
    pub(crate) peer: Option<PeerId>,
}

impl Who {
    /// Somebody whose address has answered, and of whom nothing else is known.
    pub(crate) fn at(address: IpAddr) -> Self {
        Self {
            address: Some(address),
            key: None,
            peer: None,
        }
    }

    pub(crate) fn of(info: &ConnectionInfo) -> Self {
        let key = match &info.credential {
            Some(Credential::NodeKey(key)) => Some(*key),
            _ => None,
        };
        Self {
            address: info.remote.map(|remote| remote.ip()),
            key,
            peer: None,
        }
    }

    /// What is counted: the key of somebody known, wherever it is; else the
    /// address; over relays the key.
    pub(crate) fn source(&self) -> Option<Source> {
        match (&self.peer, self.address, self.key) {
            (Some(_), _, Some(key)) | (None, None, Some(key)) => Some(Source::Key(key)),
            (_, Some(address), _) => Some(Source::of_address(address)),
            (_, None, None) => None,
        }
    }
}

/// The record that the node keeps of those who come.
pub(crate) struct Conduct {
    identities: Arc<IdentityIndex>,
    measure: Measure,
    offences: Mutex<Offences>,
    pub(crate) bans: Arc<Bans>,
    pub(crate) refusals: Refusals,
    /// Addresses from which this node's own command line comes.
    own: OnceLock<Vec<IpAddr>>,
    due: mpsc::Sender<Due>,
}

impl Conduct {
    pub(crate) fn new(
        identities: Arc<IdentityIndex>,
        bans: Arc<Bans>,
        measure: Measure,
    ) -> (Arc<Self>, mpsc::Receiver<Due>) {
        let (due, waiting) = mpsc::channel(DUE_MAX);
        let conduct = Self {
            identities,
            measure,
            offences: Mutex::default(),
            bans,
            refusals: Refusals::default(),
            own: OnceLock::new(),
            due,
        };
        (Arc::new(conduct), waiting)
    }

    /// Where this node's own command line comes from, beside loopback.
    pub(crate) fn set_own(&self, addresses: Vec<IpAddr>) {
        // Set twice means put together twice; the first serves.
        let _ = self.own.set(addresses);
    }

    /// The addresses without which nobody could command this node any more.
    pub(crate) fn own(&self) -> Vec<IpAddr> {
        let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let bound = self.own.get().into_iter().flatten().copied();
        loopback.into_iter().chain(bound).collect()
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.own().contains(&address.to_canonical())
    }

    /// Whether shutting this out would shut out this node's own command line,
    /// which may come from another address of the same network.
    fn is_spared(&self, target: &BanTarget) -> bool {
        match target {
            BanTarget::Addresses(prefix) => self.protects_addresses(prefix).is_some(),
            _ => false,
        }
    }

    /// Whose connection it is, by its key.
    pub(crate) fn who(&self, info: &ConnectionInfo) -> Who {
        let resolved = info.credential.as_ref();
        let resolved = resolved.and_then(|credential| self.identities.resolve(credential));
        Who {
            peer: resolved.map(|identity| identity.id.clone()),
            ..Who::of(info)
        }
    }

    /// Notes that somebody known came.
    pub(crate) fn came(&self, who: &Who) {
        if let Some(address) = who.address {
            lock(&self.offences).befriend(Source::of_address(address), Instant::now());
        }
    }

    /// Notes what somebody did wrong.
    pub(crate) fn offended(&self, who: &Who, offence: Offence) {
        let is_owner = who.peer.as_ref().is_some_and(|peer| peer.as_str() == OWNER);
        let Some(source) = who.source().filter(|_| !is_owner) else {
            return;
        };
        let verdict = lock(&self.offences).note(source, offence, &self.measure, Instant::now());
        if let Some(count) = verdict.say {
            say(who, offence, count);
        }
        let target = match source {
            Source::Network(prefix) => BanTarget::Addresses(prefix),
            Source::Key(key) => BanTarget::Key(key),
        };
        if let Some(lasts) = verdict.ban.filter(|_| !self.is_spared(&target)) {
            let due = Due {
                target,
                lasts,
                reason: format!("misbehaved, last: {}", offence.as_str()),
            };
            // So many wait that one more makes no difference: its score is
            // counted anew.
            let _ = self.due.try_send(due);
        }
    }

    /// How long somebody has to wait before what it presents is looked at.
    pub(crate) fn delay(&self, who: &Who) -> Duration {
        let source = who.source();
        source.map_or(Duration::ZERO, |source| {
            lock(&self.offences).delay(source, Class::Secrets, &self.measure, Instant::now())
        })
    }

    /// What of that is left.
    fn delay_left(&self, who: &Who) -> Option<Duration> {
        let mut offences = lock(&self.offences);
        let (class, now) = (Class::Secrets, Instant::now());
        let left = offences.delay_left(who.source()?, class, &self.measure, now);
        (!left.is_zero()).then_some(left)
    }

    /// Whether an address, or a key behind a relay, came with unknown keys too
    /// often to be listened to just now.
    pub(crate) fn is_slowed(&self, who: &Who) -> bool {
        let Some(source) = who.source() else {
            return false;
        };
        if who.address.is_some_and(|address| self.is_own(address)) {
            return false;
        }
        let (mut offences, now) = (lock(&self.offences), Instant::now());
        !offences.is_friend(source, now)
            && !offences
                .delay_left(source, Class::Keys, &self.measure, now)
                .is_zero()
    }

    /// Forgets what somebody did: it was let in again.
    pub(crate) fn forgive(&self, target: &BanTarget) {
        let mut offences = lock(&self.offences);
        match target {
            BanTarget::Addresses(prefix) => offences.forgive_within(prefix),
            BanTarget::Key(key) => offences.forgive(Source::Key(*key)),
            BanTarget::Peer(peer) => {
                let held = self.identities.peer(peer.as_str());
                for key in held.into_iter().flat_map(|peer| peer.node_keys) {
                    offences.forgive(Source::Key(key.key));
                }
            }
        }
    }

    /// Why a target cannot be shut out; `None` if it can.
    pub(crate) fn protects(&self, target: &BanTarget, own_key: &[u8; 32]) -> Option<String> {
        let owns = |key: &[u8; 32]| {
            let owner = self.identities.peer(OWNER);
            owner.is_some_and(|owner| owner.node_keys.iter().any(|held| held.key == *key))
        };
        match target {
            BanTarget::Peer(peer) if peer.as_str() == OWNER => {
                Some(format!("`{OWNER}` is this node's own command line"))
            }
            BanTarget::Key(key) if key == own_key => Some("this is the node's own key".into()),
            BanTarget::Key(key) if owns(key) => {
                Some("this key is that of this node's own command line".into())
            }
            BanTarget::Addresses(prefix) => self.protects_addresses(prefix),
            _ => None,
        }
    }

    fn protects_addresses(&self, prefix: &Prefix) -> Option<String> {
        if let Some(own) = self.own().into_iter().find(|own| prefix.holds(*own)) {
            return Some(format!(
                "`{prefix}` holds {own}, from which this node's own command line comes"
            ));
        }
        prefix
            .is_too_wide()
            .then(|| format!("`{prefix}` is too wide: at least /8, or /16 of IPv6"))
    }
}

/// One line that names the address, for people and for programs that bar
/// addresses elsewhere. Of a known peer the address is not told: it is shared
/// with others, maybe, and the key is what counts.
fn say(who: &Who, offence: Offence, count: u32) {
    let last = offence.as_str();
    match (&who.peer, who.address, who.key) {
        (Some(peer), ..) => {
            tracing::warn!(target: AUTH, "repeated authentication failures of peer {peer}: count={count} last={last}");
        }
        (None, Some(address), _) => {
            let address = address.to_canonical();
            tracing::warn!(target: AUTH, "repeated authentication failures from {address}: count={count} last={last}");
        }
        (None, None, Some(key)) => {
            let key = hex32::encode(&key);
            tracing::warn!(target: AUTH, "repeated authentication failures of key ed25519:{key}: count={count} last={last}");
        }
        (None, None, None) => {}
    }
}

/// What the call protocol tells of a connection.
pub(crate) struct Watcher(pub(crate) Arc<Conduct>);

impl Watch for Watcher {
    fn malformed(&self, connection: &ConnectionInfo) {
        self.0.offended(&self.0.who(connection), Offence::Malformed);
    }

    fn must_wait(&self, connection: &ConnectionInfo) -> Option<Duration> {
        let left = self.0.delay_left(&self.0.who(connection))?;
        self.0.refusals.note(Refusal::Slowed);
        Some(left)
    }

    fn presented_wrong(&self, connection: &ConnectionInfo) {
        self.0.refusals.note(Refusal::Credential);
        self.0.offended(&self.0.who(connection), Offence::WrongKey);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::admission::config::BansConfig;
    use alknet_core::{RoleSet, storage::MemoryIdentityStore, storage::system_clock};
    use alknet_store::Store;

    #[tokio::test]
    async fn a_neighbour_in_the_network_of_an_own_address_does_not_shut_that_out() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("alknet.db")).unwrap();
        let identities = IdentityIndex::load(
            Arc::new(MemoryIdentityStore::default()),
            RoleSet::default(),
            system_clock(),
        );
        let bans = Bans::load(store, system_clock(), 8).await.unwrap();
        let measure = Measure {
            failures_before_delay: 5,
            delay_max: Duration::from_secs(1),
            bans: BansConfig::default(),
        };
        let identities = Arc::new(identities.await.unwrap());
        let (conduct, mut due) = Conduct::new(identities, Arc::new(bans), measure);
        conduct.set_own(vec!["2001:db8::1".parse().unwrap()]);
        let offend = |address: &str| {
            for _ in 0..1_000 {
                conduct.offended(&Who::at(address.parse().unwrap()), Offence::Malformed);
            }
        };
        offend("2001:db8::2");
        assert!(due.try_recv().is_err());
        offend("2001:db8:0:1::2");
        let barred = due.try_recv().unwrap().target;
        assert_eq!(barred.to_string(), "2001:db8:0:1::/64");
    }
}
