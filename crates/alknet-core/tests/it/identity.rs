//! The identities of the hot path: changes, expiry, what cannot come back.

use crate::world::{fails, peer};
use alknet_core::{
    AuditRow, Call, Caller, Credential, Dispatcher, ErrorCode, GrantTarget, Grants,
    IdentityProvider, KeyId, Operation, Registry, RoleSet, Scope,
    storage::{
        IdentityChange, IdentityIndex, IdentitySnapshot, IdentityStore, InviteRecord,
        MemoryIdentityStore, NodeKey, PeerAddresses, PeerRecord, SharedClock, StoreError,
        Timestamp,
    },
};
use futures::StreamExt;
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Semaphore, time::timeout};

const SECOND: Duration = Duration::from_secs(1);

fn row() -> AuditRow {
    AuditRow::event(Timestamp(0), "owner", "peers/add")
}

fn bob(grants: &[&str]) -> PeerRecord {
    PeerRecord {
        grants: grants
            .iter()
            .map(|text| GrantTarget::parse(text).unwrap())
            .collect::<Grants>(),
        node_keys: vec![NodeKey {
            key: [1; 32],
            until: None,
        }],
        ..PeerRecord::new(peer("bob"), Timestamp(0))
    }
}

fn key() -> Credential {
    Credential::NodeKey([1; 32])
}

/// A wall clock that a test sets.
fn clock() -> (Arc<AtomicI64>, SharedClock) {
    let now = Arc::new(AtomicI64::new(1_000_000));
    let reads = now.clone();
    (
        now,
        Arc::new(move || Timestamp(reads.load(Ordering::SeqCst))),
    )
}

async fn index_over(store: Arc<dyn IdentityStore>, clock: SharedClock) -> Arc<IdentityIndex> {
    Arc::new(
        IdentityIndex::load(store, RoleSet::default(), clock)
            .await
            .unwrap(),
    )
}

/// Passes on to a store in memory; can be made to wait or to fail.
#[derive(Default)]
struct Sluggish {
    inner: MemoryIdentityStore,
    holds: AtomicBool,
    entered: AtomicUsize,
    gate: Option<Arc<Semaphore>>,
    loads_that_fail: AtomicUsize,
}

#[async_trait::async_trait]
impl IdentityStore for Sluggish {
    async fn load(&self) -> Result<IdentitySnapshot, StoreError> {
        let left = self
            .loads_that_fail
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            });
        if left.is_ok() {
            return Err(StoreError::backend("try again"));
        }
        let snapshot = self.inner.load().await;
        if self.holds.load(Ordering::SeqCst) {
            self.entered.fetch_add(1, Ordering::SeqCst);
            drop(self.gate.as_ref().unwrap().acquire().await.unwrap());
        }
        snapshot
    }

    async fn apply(&self, change: IdentityChange, audit: AuditRow) -> Result<(), StoreError> {
        self.inner.apply(change, audit).await
    }

    async fn seen(
        &self,
        id: &alknet_core::PeerId,
        at: Timestamp,
        addresses: Option<PeerAddresses>,
    ) -> Result<(), StoreError> {
        self.inner.seen(id, at, addresses).await
    }

    async fn keys_used(&self, uses: Vec<(KeyId, Timestamp)>) -> Result<(), StoreError> {
        self.inner.keys_used(uses).await
    }
}

#[tokio::test]
async fn a_change_is_seen_when_it_returns() {
    let index = index_over(Arc::new(MemoryIdentityStore::default()), clock().1).await;
    assert!(index.resolve(&key()).is_none());
    let before = index.epoch();
    index
        .apply(IdentityChange::AddPeer(bob(&["fs:read"])), row())
        .await
        .unwrap();
    assert!(index.epoch() > before);
    assert!(
        index
            .resolve(&key())
            .unwrap()
            .scopes
            .holds(&Scope::parse("fs:read").unwrap())
    );
    let disabled = PeerRecord {
        enabled: false,
        ..bob(&["fs:read"])
    };
    index
        .apply(IdentityChange::UpdatePeer(disabled), row())
        .await
        .unwrap();
    assert!(index.resolve(&key()).is_none());
    assert!(matches!(
        index.apply(IdentityChange::AddPeer(bob(&[])), row()).await,
        Err(StoreError::PeerExists(_))
    ));
}

#[tokio::test]
async fn names_that_mean_something_else_are_no_peers() {
    let index = index_over(Arc::new(MemoryIdentityStore::default()), clock().1).await;
    for id in ["any", "host", "anonymous"] {
        let record = PeerRecord {
            node_keys: vec![],
            ..PeerRecord::new(peer(id), Timestamp(0))
        };
        let added = index
            .apply(IdentityChange::AddPeer(record.clone()), row())
            .await;
        assert!(matches!(added, Err(StoreError::ReservedName(taken)) if taken.as_str() == id));
        let invite = InviteRecord {
            id: format!("i-{id}"),
            secret_hash: [0; 32],
            name: None,
            grants: Grants::default(),
            created_at: Timestamp(0),
            expires_at: Timestamp(i64::MAX),
            access_for_ms: None,
            used_by: None,
            used_key: None,
            revoked: false,
        };
        index
            .apply(IdentityChange::AddInvite(invite.clone()), row())
            .await
            .unwrap();
        let redeem = IdentityChange::RedeemInvite {
            invite: invite.id,
            peer: record,
            now: Timestamp(1),
        };
        assert!(matches!(
            index.apply(redeem, row()).await,
            Err(StoreError::ReservedName(_))
        ));
    }
    assert!(index.snapshot().peers.is_empty());
}

#[tokio::test]
async fn a_change_that_was_stored_is_seen_although_its_caller_left() {
    let gate = Arc::new(Semaphore::new(0));
    let store = Arc::new(Sluggish {
        gate: Some(gate.clone()),
        ..Sluggish::default()
    });
    let index = index_over(store.clone(), clock().1).await;
    index
        .apply(IdentityChange::AddPeer(bob(&["admin"])), row())
        .await
        .unwrap();
    store.holds.store(true, Ordering::SeqCst);
    let mut removing = Box::pin(index.apply(IdentityChange::RemovePeer(peer("bob")), row()));
    while store.entered.load(Ordering::SeqCst) == 0 {
        assert!(futures::poll!(&mut removing).is_pending());
        tokio::task::yield_now().await;
    }
    drop(removing);
    gate.add_permits(1);
    timeout(5 * SECOND, async {
        while index.resolve(&key()).is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_read_that_fails_once_does_not_leave_a_removed_peer_known() {
    let store = Arc::new(Sluggish::default());
    let index = index_over(store.clone(), clock().1).await;
    index
        .apply(IdentityChange::AddPeer(bob(&["admin"])), row())
        .await
        .unwrap();
    store.loads_that_fail.store(2, Ordering::SeqCst);
    index
        .apply(IdentityChange::RemovePeer(peer("bob")), row())
        .await
        .unwrap();
    assert!(index.resolve(&key()).is_none());
}

#[tokio::test]
async fn new_roles_do_not_bring_back_a_removed_peer() {
    let gate = Arc::new(Semaphore::new(0));
    let store = Arc::new(Sluggish {
        gate: Some(gate.clone()),
        ..Sluggish::default()
    });
    let index = index_over(store.clone(), clock().1).await;
    index
        .apply(IdentityChange::AddPeer(bob(&["admin"])), row())
        .await
        .unwrap();
    store.holds.store(true, Ordering::SeqCst);
    let removes = index.clone();
    let removing = tokio::spawn(async move {
        removes
            .apply(IdentityChange::RemovePeer(peer("bob")), row())
            .await
    });
    while store.entered.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    // The roles are read between the removal and its publication.
    index.set_roles(RoleSet::default());
    gate.add_permits(1);
    removing.await.unwrap().unwrap();
    index.set_roles(RoleSet::default());
    assert!(index.resolve(&key()).is_none());
}

#[tokio::test]
async fn the_clock_decides_when_access_ends() {
    let (now, clock) = clock();
    let index = index_over(Arc::new(MemoryIdentityStore::default()), clock).await;
    let until = Timestamp(now.load(Ordering::SeqCst) + 1_000);
    let rotating = PeerRecord {
        node_keys: vec![
            NodeKey {
                key: [1; 32],
                until: None,
            },
            NodeKey {
                key: [2; 32],
                until: Some(until),
            },
        ],
        ..bob(&[])
    };
    index
        .apply(IdentityChange::AddPeer(rotating), row())
        .await
        .unwrap();
    let old = Credential::NodeKey([2; 32]);
    now.fetch_add(999, Ordering::SeqCst);
    assert!(index.resolve(&old).is_some());
    now.fetch_add(1, Ordering::SeqCst);
    assert!(index.resolve(&old).is_none() && index.resolve(&key()).is_some());
}

fn ticks() -> Registry {
    let registry = Registry::new();
    let ticks = Operation::subscription("demo/ticks", "Ticks.")
        .authenticated()
        .stream(|_, _: serde_json::Value| async {
            Ok(futures::stream::unfold((), |()| async {
                tokio::time::sleep(Duration::from_millis(200)).await;
                Some((Ok("tick"), ()))
            }))
        });
    let held = Operation::channel("demo/held", "Stays open.")
        .authenticated()
        .channel::<serde_json::Value, (), (), _, _>(|_, _, opening| async move {
            let _end = opening.accept(&())?;
            std::future::pending().await
        });
    registry.register(vec![ticks, held]).unwrap();
    registry
}

#[tokio::test(start_paused = true)]
async fn access_that_expires_ends_what_runs_within_a_second() {
    let (now, clock) = clock();
    let index = index_over(Arc::new(MemoryIdentityStore::default()), clock).await;
    let ends = now.load(Ordering::SeqCst) + 60_000;
    let guest = PeerRecord {
        expires_at: Some(Timestamp(ends)),
        ..bob(&[])
    };
    index
        .apply(IdentityChange::AddPeer(guest), row())
        .await
        .unwrap();
    let watching = index.clone();
    let expiring = tokio::spawn(async move { watching.expire().await });
    let door = Dispatcher::builder(ticks())
        .identities(index.clone())
        .build();
    let caller = Caller::resolve(&*index, key()).unwrap();
    let call = |operation: &str| {
        Call::new(operation, caller.clone())
            .unwrap()
            .input(&json!({}))
    };
    let mut items = door.subscribe(call("demo/ticks")).await.unwrap();
    let channel = door.open(call("demo/held")).await.unwrap();
    for _ in 0..10 {
        items.next().await.unwrap().unwrap();
    }
    // The wall clock jumps; nothing else happens.
    now.store(ends, Ordering::SeqCst);
    let refused = timeout(Duration::from_millis(1_500), async {
        loop {
            if let Err(refused) = items.next().await.unwrap() {
                return refused;
            }
        }
    });
    crate::world::is(&refused.await.unwrap(), ErrorCode::Unauthenticated);
    fails(
        timeout(SECOND, channel.done).await.unwrap(),
        ErrorCode::Unauthenticated,
    );
    expiring.abort();
}

#[tokio::test(start_paused = true)]
async fn an_expiry_that_falls_between_two_looks_is_announced() {
    let (now, clock) = clock();
    let index = index_over(Arc::new(MemoryIdentityStore::default()), clock).await;
    let ends = now.load(Ordering::SeqCst) + 5_000;
    let guest = PeerRecord {
        expires_at: Some(Timestamp(ends)),
        ..bob(&[])
    };
    index
        .apply(IdentityChange::AddPeer(guest), row())
        .await
        .unwrap();
    let watching = index.clone();
    let expiring = tokio::spawn(async move { watching.expire().await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut changes = index.changes();
    // Somebody else's change wakes the task just when the time has come: that
    // change is announced, and so is the expiry.
    now.store(ends, Ordering::SeqCst);
    let other = PeerRecord {
        node_keys: vec![],
        ..PeerRecord::new(peer("eve"), Timestamp(0))
    };
    let before = index.epoch();
    index
        .apply(IdentityChange::AddPeer(other), row())
        .await
        .unwrap();
    timeout(2 * SECOND, changes.wait_for(|epoch| *epoch >= before + 2))
        .await
        .unwrap()
        .unwrap();
    expiring.abort();
}

#[tokio::test(start_paused = true)]
async fn nothing_is_announced_while_nothing_expires() {
    let (_, clock) = clock();
    let index = index_over(Arc::new(MemoryIdentityStore::default()), clock).await;
    index
        .apply(IdentityChange::AddPeer(bob(&[])), row())
        .await
        .unwrap();
    let watching = index.clone();
    let expiring = tokio::spawn(async move { watching.expire().await });
    let before = index.epoch();
    tokio::time::sleep(Duration::from_secs(86_400)).await;
    assert_eq!(index.epoch(), before);
    expiring.abort();
}

#[tokio::test]
async fn new_roles_are_in_force_at_once_for_peers_that_are_there() {
    let index = index_over(Arc::new(MemoryIdentityStore::default()), clock().1).await;
    index
        .apply(IdentityChange::AddPeer(bob(&["support"])), row())
        .await
        .unwrap();
    let scope = Scope::parse("deploy:write").unwrap();
    assert!(!index.resolve(&key()).unwrap().scopes.holds(&scope));
    let support = alknet_core::Role {
        name: alknet_core::RoleName::parse("support").unwrap(),
        summary: "Deploys.".into(),
        grants: Grants::from_iter([GrantTarget::Scope(scope.clone())]),
    };
    let before = index.epoch();
    index.set_roles(RoleSet::new([support], []));
    assert!(index.epoch() > before);
    assert!(index.resolve(&key()).unwrap().scopes.holds(&scope));
    index.set_roles(RoleSet::default());
    assert!(!index.resolve(&key()).unwrap().scopes.holds(&scope));
}

#[tokio::test(start_paused = true)]
async fn a_change_that_cannot_be_read_back_holds_once_the_store_can_be_read() {
    let store = Arc::new(Sluggish::default());
    let index = index_over(store.clone(), clock().1).await;
    let added = IdentityChange::AddPeer(bob(&["fs:read"]));
    index.apply(added, row()).await.unwrap();
    let mut changes = index.changes();
    changes.mark_unchanged();
    // Four tries by the change itself, and three of those that follow.
    store.loads_that_fail.store(7, Ordering::SeqCst);
    let removed = index.apply(IdentityChange::RemovePeer(peer("bob")), row());
    let error = removed.await.unwrap_err();
    assert!(matches!(error, StoreError::NotReadBack(_)), "{error:?}");
    assert!(index.resolve(&key()).is_some());
    tokio::time::timeout(std::time::Duration::from_secs(60), changes.changed())
        .await
        .unwrap()
        .unwrap();
    assert!(index.resolve(&key()).is_none());
}
