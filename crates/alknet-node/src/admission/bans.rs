//! Who is shut out: kept in the store, asked from memory.

use super::Prefix;
use alknet_core::{
    AuditRow, Credential, Identity, IdentityProvider, KeyId, PeerId,
    storage::{IdentityIndex, SharedClock, StoreError, Timestamp, hex32},
};
use alknet_store::{KeptBan, Store};
use arc_swap::ArcSwap;
use std::{collections::HashMap, fmt, net::IpAddr, sync::Arc};
use tokio::sync::{Mutex, watch};

/// Whom a ban is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BanTarget {
    /// An address, or those that begin alike.
    Addresses(Prefix),
    /// A node key, whoever it belongs to.
    Key([u8; 32]),
    /// A peer with all its credentials.
    Peer(PeerId),
}

/// Before a key, in texts.
const KEY_KIND: &str = "ed25519:";

impl BanTarget {
    /// Reads an address, a prefix (`192.0.2.0/24`), a key (`ed25519:` and 64
    /// hexadecimal digits, or these alone) or a peer's name.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Some(prefix) = Prefix::parse(text) {
            return Some(Self::Addresses(prefix));
        }
        let digits = text.strip_prefix(KEY_KIND);
        if let Some(key) = hex32::decode(digits.unwrap_or(text)) {
            return Some(Self::Key(key));
        }
        match digits {
            Some(_) => None,
            None => PeerId::parse(text).ok().map(Self::Peer),
        }
    }

    /// As listed.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            BanTarget::Addresses(_) => "address",
            BanTarget::Key(_) => "key",
            BanTarget::Peer(_) => "peer",
        }
    }
}

impl fmt::Display for BanTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BanTarget::Addresses(prefix) => fmt::Display::fmt(prefix, f),
            BanTarget::Key(key) => write!(f, "{KEY_KIND}{}", hex32::encode(key)),
            BanTarget::Peer(peer) => f.write_str(peer.as_str()),
        }
    }
}

/// Why somebody cannot be shut out, or let in again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BanError {
    #[error("{0} bans are kept, which is the limit; lift one first")]
    Full(usize),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Default)]
struct Table {
    all: Vec<KeptBan>,
    addresses: Vec<(Prefix, Option<Timestamp>)>,
    keys: HashMap<[u8; 32], Option<Timestamp>>,
    peers: HashMap<PeerId, Option<Timestamp>>,
}

impl Table {
    fn of(all: Vec<KeptBan>) -> Self {
        let mut table = Self::default();
        for ban in &all {
            match BanTarget::parse(&ban.target) {
                Some(BanTarget::Addresses(prefix)) => table.addresses.push((prefix, ban.until)),
                Some(BanTarget::Key(key)) => drop(table.keys.insert(key, ban.until)),
                Some(BanTarget::Peer(peer)) => drop(table.peers.insert(peer, ban.until)),
                None => tracing::warn!(target = %ban.target, "a ban in the store cannot be read"),
            }
        }
        Self { all, ..table }
    }

    fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

/// The bans in force. What has ended by the clock bars nobody.
pub(crate) struct Bans {
    store: Store,
    clock: SharedClock,
    most: usize,
    table: ArcSwap<Table>,
    /// One change of store and table at a time.
    writing: Mutex<()>,
}

/// Who set a ban that the node set by itself. Those of a peer that is called so
/// are counted with them.
pub(crate) const BY_NODE: &str = "node";

fn is_automatic(ban: &KeptBan) -> bool {
    ban.banned_by == BY_NODE && ban.until.is_some()
}

fn is_longer(held: &KeptBan, than: &KeptBan) -> bool {
    held.until.is_none_or(|until| than.until < Some(until))
}

fn is_in_force(until: Option<Timestamp>, now: Timestamp) -> bool {
    until.is_none_or(|until| until > now)
}

impl Bans {
    /// Reads the store.
    pub(crate) async fn load(
        store: Store,
        clock: SharedClock,
        most: usize,
    ) -> Result<Self, StoreError> {
        let all = store.bans().await?;
        Ok(Self {
            store,
            clock,
            most,
            table: ArcSwap::from_pointee(Table::of(all)),
            writing: Mutex::new(()),
        })
    }

    pub(crate) fn bars_address(&self, address: IpAddr) -> bool {
        let table = self.table.load();
        let now = || (self.clock)();
        let mut barred = table.addresses.iter();
        barred.any(|(prefix, until)| prefix.holds(address) && is_in_force(*until, now()))
    }

    pub(crate) fn bars_key(&self, key: &[u8; 32]) -> bool {
        let table = self.table.load();
        let found = table.keys.get(key);
        found.is_some_and(|until| is_in_force(*until, (self.clock)()))
    }

    pub(crate) fn bars_peer(&self, peer: &PeerId) -> bool {
        let table = self.table.load();
        let found = table.peers.get(peer);
        found.is_some_and(|until| is_in_force(*until, (self.clock)()))
    }

    /// Whether nobody is shut out.
    pub(crate) fn is_empty(&self) -> bool {
        self.table.load().is_empty()
    }

    /// Those in force, by target.
    pub(crate) fn list(&self) -> Vec<KeptBan> {
        let now = (self.clock)();
        let table = self.table.load();
        let all = table.all.iter().filter(|ban| is_in_force(ban.until, now));
        all.cloned().collect()
    }

    /// How many are in force.
    pub(crate) fn count(&self) -> usize {
        self.list().len()
    }

    /// Shuts somebody out; durable when it returns. Connections are closed,
    /// and rights looked up again, by whoever asked.
    pub(crate) async fn add(&self, ban: KeptBan, row: AuditRow) -> Result<(), BanError> {
        let _one_at_a_time = self.writing.lock().await;
        self.store.prune_bans((self.clock)()).await?;
        let known = self.list();
        let is_new = known.iter().all(|held| held.target != ban.target);
        // One that waited to be set does not end what somebody set meanwhile.
        let outlasts = |held: &KeptBan| held.target == ban.target && is_longer(held, &ban);
        if is_automatic(&ban) && known.iter().any(outlasts) {
            return Ok(());
        }
        let makes_room = match is_new {
            true => self.makes_room(&known, is_automatic(&ban))?,
            false => None,
        };
        let makes_room = makes_room.map(|target| {
            let mut row = AuditRow::event((self.clock)(), BY_NODE, "bans/remove");
            row.resource = Some(target.clone());
            row.detail = Some("made room for another one".into());
            (target, row)
        });
        let gone = makes_room.as_ref().map(|(target, _)| target.clone());
        self.store.put_ban_for(ban.clone(), makes_room, row).await?;
        self.reload_or(|all| {
            all.retain(|held| held.target != ban.target && Some(&held.target) != gone.as_ref());
            all.push(ban);
            all.sort_by(|one, other| one.target.cmp(&other.target));
        })
        .await;
        Ok(())
    }

    /// Which ban is lifted for one more, if one has to be: of the automatic
    /// ones that which ends first. They have at most half of the places, so
    /// that strangers with many addresses leave room for what the operator
    /// decides.
    fn makes_room(&self, known: &[KeptBan], automatic: bool) -> Result<Option<String>, BanError> {
        let own = known.iter().filter(|held| is_automatic(held));
        let has_its_share = automatic && own.clone().count() >= (self.most / 2).max(1);
        if known.len() < self.most && !has_its_share {
            return Ok(None);
        }
        let first = own.min_by_key(|held| (held.until.is_none(), held.until));
        let first = first.ok_or(BanError::Full(self.most))?;
        Ok(Some(first.target.clone()))
    }

    /// Lets somebody in again; `false` if there is no such ban.
    pub(crate) async fn remove(
        &self,
        target: &BanTarget,
        row: AuditRow,
    ) -> Result<bool, StoreError> {
        let _one_at_a_time = self.writing.lock().await;
        let target = target.to_string();
        let removed = self.store.remove_ban(&target, row).await?;
        self.reload_or(|all| all.retain(|held| held.target != target))
            .await;
        Ok(removed)
    }

    /// Takes over what is stored. What was changed just now holds even if it
    /// cannot be read: then `change` is made in memory, too.
    async fn reload_or(&self, change: impl FnOnce(&mut Vec<KeptBan>)) {
        let all = match self.store.bans().await {
            Ok(all) => all,
            Err(cause) => {
                tracing::warn!(%cause, "the bans could not be read again");
                let mut all = self.table.load().all.clone();
                change(&mut all);
                all
            }
        };
        self.table.store(Arc::new(Table::of(all)));
    }
}

/// The identities of the node, without those that are shut out.
pub(crate) struct Unbarred {
    pub(crate) identities: Arc<IdentityIndex>,
    pub(crate) bans: Arc<Bans>,
}

impl IdentityProvider for Unbarred {
    fn resolve(&self, credential: &Credential) -> Option<Arc<Identity>> {
        let identity = self.identities.resolve(credential)?;
        if self.bans.table.load().is_empty() {
            return Some(identity);
        }
        let by_key = matches!(credential, Credential::NodeKey(key) if self.bans.bars_key(key));
        (!by_key && !self.bans.bars_peer(&identity.id)).then_some(identity)
    }

    fn epoch(&self) -> u64 {
        self.identities.epoch()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.identities.changes()
    }

    fn used(&self, key: &KeyId) {
        self.identities.used(key);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::atomic::{AtomicI64, Ordering};

    #[test]
    fn targets_are_told_apart_and_written_one_way() {
        let key = "07".repeat(32);
        for (text, kind, want) in [
            ("192.0.2.7", "address", "192.0.2.7".to_owned()),
            ("2001:db8::7/64", "address", "2001:db8::/64".to_owned()),
            (key.as_str(), "key", format!("ed25519:{key}")),
            (&format!("ed25519:{key}"), "key", format!("ed25519:{key}")),
            ("laptop", "peer", "laptop".to_owned()),
            ("abba", "peer", "abba".to_owned()),
        ] {
            let target = BanTarget::parse(text).unwrap();
            assert_eq!((target.kind(), target.to_string()), (kind, want.clone()));
            assert_eq!(BanTarget::parse(&want).unwrap(), target);
        }
        for bad in [
            "",
            "Laptop",
            "ed25519:",
            "ed25519:laptop",
            "10.0.0.0/33",
            "häuser",
            "a b",
        ] {
            assert_eq!(BanTarget::parse(bad), None, "{bad}");
        }
    }

    fn ban(target: &str, until: Option<i64>) -> (KeptBan, AuditRow) {
        let ban = KeptBan {
            target: target.into(),
            reason: "test".into(),
            banned_by: "owner".into(),
            created_at: Timestamp(0),
            until: until.map(Timestamp),
        };
        (ban, AuditRow::event(Timestamp(0), "owner", "bans/add"))
    }

    async fn bans(most: usize) -> (tempfile::TempDir, Arc<AtomicI64>, Bans) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("alknet.db")).unwrap();
        let time = Arc::new(AtomicI64::new(0));
        let told = time.clone();
        let clock: SharedClock = Arc::new(move || Timestamp(told.load(Ordering::SeqCst)));
        (dir, time, Bans::load(store, clock, most).await.unwrap())
    }

    #[tokio::test]
    async fn a_ban_ends_by_the_clock() {
        let (_dir, time, bans) = bans(8).await;
        let (kept, row) = ban("192.0.2.0/24", Some(1000));
        bans.add(kept, row).await.unwrap();
        let (kept, row) = ban("laptop", None);
        bans.add(kept, row).await.unwrap();
        let address: IpAddr = "192.0.2.9".parse().unwrap();
        let laptop = PeerId::parse("laptop").unwrap();
        time.store(999, Ordering::SeqCst);
        assert!(bans.bars_address(address) && bans.bars_peer(&laptop));
        assert_eq!(bans.count(), 2);
        time.store(1000, Ordering::SeqCst);
        assert!(!bans.bars_address(address) && bans.bars_peer(&laptop));
        assert_eq!(bans.list()[0].target, "laptop");
        time.store(i64::MAX, Ordering::SeqCst);
        assert!(bans.bars_peer(&laptop));
        let target = BanTarget::Peer(laptop.clone());
        let row = || AuditRow::event(Timestamp(0), "owner", "bans/remove");
        assert!(bans.remove(&target, row()).await.unwrap());
        assert!(!bans.remove(&target, row()).await.unwrap());
        assert!(!bans.bars_peer(&laptop));
    }

    #[tokio::test]
    async fn as_many_bans_as_the_limit_are_kept_and_not_one_more() {
        let (_dir, time, bans) = bans(2).await;
        for (target, until) in [("192.0.2.1", Some(10)), ("192.0.2.2", None)] {
            let (kept, row) = ban(target, until);
            bans.add(kept, row).await.unwrap();
        }
        let add = async |target: &str| {
            let (kept, row) = ban(target, None);
            bans.add(kept, row).await
        };
        assert!(matches!(add("192.0.2.3").await, Err(BanError::Full(2))));
        // One that is there may be changed, and one that has ended makes room.
        add("192.0.2.2").await.unwrap();
        time.store(10, Ordering::SeqCst);
        add("192.0.2.3").await.unwrap();
        assert_eq!(bans.count(), 2);
    }

    #[tokio::test]
    async fn automatic_bans_leave_room_for_those_of_the_operator() {
        let (_dir, _time, bans) = bans(4).await;
        let add = async |target: &str, by: &str, until: Option<i64>| {
            let (kept, row) = ban(target, until);
            let banned_by = by.into();
            bans.add(KeptBan { banned_by, ..kept }, row).await
        };
        let held = || {
            let all = bans.list().into_iter();
            all.map(|ban| ban.target).collect::<Vec<_>>()
        };
        for (target, until) in [("192.0.2.1", 10), ("192.0.2.2", 20), ("192.0.2.3", 30)] {
            add(target, BY_NODE, Some(until)).await.unwrap();
        }
        // Half of the places, and what ends first makes room.
        assert_eq!(held(), ["192.0.2.2", "192.0.2.3"]);
        for target in ["a", "b", "c"] {
            add(target, "owner", Some(5)).await.unwrap();
        }
        assert_eq!(held(), ["192.0.2.3", "a", "b", "c"]);
        add("d", "owner", None).await.unwrap();
        assert_eq!(held(), ["a", "b", "c", "d"]);
        // One that was due already does not shorten what the operator decided.
        add("d", BY_NODE, Some(50)).await.unwrap();
        assert_eq!(bans.list()[3].until, None);
        // The operator's own bans are lifted by nobody else.
        for by in ["owner", BY_NODE] {
            let full = add("192.0.2.9", by, Some(50)).await;
            assert!(matches!(full, Err(BanError::Full(4))), "{by}: {full:?}");
        }
    }

    #[tokio::test]
    async fn bans_survive_a_restart() {
        let (dir, time, old) = bans(8).await;
        let (kept, row) = ban(&"07".repeat(32), Some(1000));
        old.add(kept, row).await.unwrap();
        old.store.close().await;
        let store = Store::open(&dir.path().join("alknet.db")).unwrap();
        let told = time.clone();
        let clock: SharedClock = Arc::new(move || Timestamp(told.load(Ordering::SeqCst)));
        let again = Bans::load(store, clock, 8).await.unwrap();
        assert!(again.bars_key(&[7; 32]) && !again.bars_key(&[8; 32]));
    }
}
