//! API keys, SSH keys and authorities in the index of the hot path.

use crate::world::{api_key, peer};
use alknet_core::{
    ApiKeyProof, AuditRow, Caller, Credential, GrantTarget, Grants, IdentityProvider, KeyId,
    ResourceKind, RoleSet, Scope,
    storage::{
        ApiKeyRecord, IdentityChange, IdentityIndex, IdentityStore, MemoryIdentityStore,
        PeerRecord, SharedClock, SshAuthority, SshKey, Timestamp,
    },
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};
use tokio::time::timeout;

fn row() -> AuditRow {
    AuditRow::event(Timestamp(0), "owner", "keys/create")
}

fn grants(texts: &[&str]) -> Grants {
    let parse = |text: &&str| GrantTarget::parse(text).unwrap();
    texts.iter().map(parse).collect()
}

fn proof(number: u8) -> ApiKeyProof {
    match api_key(number) {
        Credential::ApiKey(proof) => proof,
        other => unreachable!("{other:?}"),
    }
}

struct Keys {
    store: Arc<MemoryIdentityStore>,
    index: Arc<IdentityIndex>,
    now: Arc<AtomicI64>,
}

impl Keys {
    /// `bob`, who may read files.
    async fn new() -> Self {
        let now = Arc::new(AtomicI64::new(1_000_000));
        let reads = now.clone();
        let clock: SharedClock = Arc::new(move || Timestamp(reads.load(Ordering::SeqCst)));
        let store = Arc::new(MemoryIdentityStore::default());
        let index = IdentityIndex::load(store.clone(), RoleSet::default(), clock);
        let keys = Self {
            store,
            index: Arc::new(index.await.unwrap()),
            now,
        };
        let bob = PeerRecord {
            grants: grants(&["reader"]),
            ..PeerRecord::new(peer("bob"), Timestamp(0))
        };
        keys.done(IdentityChange::AddPeer(bob)).await;
        keys
    }

    async fn done(&self, change: IdentityChange) {
        self.index.apply(change, row()).await.unwrap();
    }

    async fn add(&self, number: u8, key_grants: Option<&[&str]>, expires_at: Option<i64>) -> KeyId {
        let proof = proof(number);
        let key = ApiKeyRecord {
            id: *proof.id(),
            peer: peer("bob"),
            name: format!("key-{number}"),
            secret_hash: *proof.secret_hash(),
            grants: key_grants.map(grants),
            created_at: Timestamp(0),
            expires_at: expires_at.map(Timestamp),
            last_used_at: None,
        };
        self.done(IdentityChange::AddKey {
            key,
            newcomer: None,
        })
        .await;
        *proof.id()
    }

    fn knows(&self, number: u8) -> bool {
        self.index.resolve(&api_key(number)).is_some()
    }

    async fn last_used(&self, id: &KeyId) -> Option<Timestamp> {
        let keys = self.store.load().await.unwrap().keys;
        keys.iter().find(|key| key.id == *id).unwrap().last_used_at
    }
}

#[tokio::test]
async fn a_key_is_its_peer_as_long_as_it_and_its_peer_last() {
    let keys = Keys::new().await;
    let id = keys.add(1, None, Some(1_005_000)).await;
    let bob = Caller::resolve(&*keys.index, api_key(1)).unwrap();
    assert_eq!(bob.id(), &peer("bob"));
    assert_eq!(bob.key(), Some(&id));
    assert!(
        bob.identity()
            .holds_scope(&Scope::parse("fs:read").unwrap())
    );
    // The id alone, with another secret, is nobody.
    assert!(!keys.knows(2));
    let secret = "a".repeat(52);
    let guessed = ApiKeyProof::parse(&format!("alk_{id}{secret}")).unwrap();
    assert!(keys.index.resolve(&Credential::ApiKey(guessed)).is_none());

    let disabled = PeerRecord {
        enabled: false,
        ..keys.index.peer("bob").unwrap()
    };
    keys.done(IdentityChange::UpdatePeer(disabled.clone()))
        .await;
    assert!(!keys.knows(1));
    let ends = PeerRecord {
        enabled: true,
        expires_at: Some(Timestamp(1_003_000)),
        ..disabled
    };
    keys.done(IdentityChange::UpdatePeer(ends.clone())).await;
    assert!(keys.knows(1));
    keys.now.store(1_003_000, Ordering::SeqCst);
    assert!(!keys.knows(1));
    let lasting = PeerRecord {
        expires_at: None,
        ..ends
    };
    keys.done(IdentityChange::UpdatePeer(lasting)).await;
    assert!(keys.knows(1));
    keys.now.store(1_005_000, Ordering::SeqCst);
    assert!(!keys.knows(1));
}

#[tokio::test]
async fn a_key_follows_the_grants_of_its_peer_and_stays_under_its_own() {
    let keys = Keys::new().await;
    keys.add(1, Some(&["editor", "!bucket:www/secret/**=*"]), None)
        .await;
    let may = |action: &str, file: &str| {
        let held = keys.index.resolve(&api_key(1)).unwrap();
        held.holds(ResourceKind::Bucket, action, file)
    };
    assert!(may("read", "www/a") && !may("write", "www/a") && !may("read", "www/secret/a"));
    let change = |add: &[&str], remove: &[&str]| IdentityChange::ChangeGrants {
        peer: peer("bob"),
        add: grants(add),
        remove: grants(remove),
    };
    keys.done(change(&["admin"], &[])).await;
    assert!(may("write", "www/a") && !may("read", "www/secret/a"));
    keys.done(change(&[], &["admin", "reader"])).await;
    assert!(!may("read", "www/a"));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_key_is_announced() {
    let keys = Keys::new().await;
    keys.add(1, None, Some(1_002_000)).await;
    let index = keys.index.clone();
    let expiring = tokio::spawn(async move { index.expire().await });
    let mut changes = keys.index.changes();
    changes.mark_unchanged();
    // It looks at the clock once before that turns.
    tokio::task::yield_now().await;
    keys.now.store(1_002_000, Ordering::SeqCst);
    let told = timeout(Duration::from_secs(2), changes.changed()).await;
    told.expect("within two seconds").unwrap();
    assert!(!keys.knows(1));
    expiring.abort();
}

#[tokio::test]
async fn a_use_is_written_once_a_minute_and_never_before_it_happened() {
    let keys = Keys::new().await;
    let (used, unused) = (keys.add(1, None, None).await, keys.add(2, None, None).await);
    let epoch = keys.index.epoch();
    keys.index.write_uses().await.unwrap();
    assert_eq!(keys.last_used(&used).await, None);

    keys.index.used(&used);
    keys.index.write_uses().await.unwrap();
    let first = Timestamp(1_000_000);
    assert_eq!(keys.last_used(&used).await, Some(first));
    for wait in [1, 30_000, 59_999] {
        keys.now.store(1_000_000 + wait, Ordering::SeqCst);
        keys.index.used(&used);
        keys.index.write_uses().await.unwrap();
        assert_eq!(keys.last_used(&used).await, Some(first), "after {wait} ms");
    }
    keys.now.store(1_060_000, Ordering::SeqCst);
    keys.index.used(&used);
    keys.index.write_uses().await.unwrap();
    assert_eq!(keys.last_used(&used).await, Some(Timestamp(1_060_000)));
    assert_eq!(keys.last_used(&unused).await, None);
    // Nobody's rights have changed, so nobody is checked again.
    assert_eq!(keys.index.epoch(), epoch);
    // A key that is nobody's is noted nowhere.
    keys.index.used(proof(9).id());
    keys.index.write_uses().await.unwrap();
}

#[tokio::test]
async fn uses_are_written_by_a_task_while_calls_go_on() {
    let keys = Keys::new().await;
    let id = keys.add(1, None, None).await;
    let index = keys.index.clone();
    let noting = tokio::spawn(async move { index.note_uses().await });
    keys.index.used(&id);
    let written = async {
        while keys.last_used(&id).await.is_none() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), written).await.unwrap();
    assert_eq!(keys.index.key(&id).unwrap().peer, peer("bob"));
    noting.abort();
}

#[tokio::test]
async fn ssh_keys_and_principals_of_authorities_are_their_peer() {
    let keys = Keys::new().await;
    let with_ssh = PeerRecord {
        ssh_keys: [SshKey {
            fingerprint: "SHA256:key".into(),
            public_key: None,
            comment: None,
        }]
        .into(),
        ssh_authorities: [SshAuthority {
            fingerprint: "SHA256:ca".into(),
            principal: "ops".into(),
            public_key: "ssh-ed25519 AAAA".into(),
            comment: None,
        }]
        .into(),
        ..keys.index.peer("bob").unwrap()
    };
    keys.done(IdentityChange::UpdatePeer(with_ssh)).await;
    let who = |credential: &Credential| {
        let found = keys.index.resolve(credential);
        found.map(|identity| identity.id.to_string())
    };
    let principal = |authority: &str, principal: &str| Credential::SshPrincipal {
        authority: authority.into(),
        principal: principal.into(),
    };
    assert_eq!(
        who(&Credential::SshKey("SHA256:key".into())).unwrap(),
        "bob"
    );
    assert_eq!(who(&principal("SHA256:ca", "ops")).unwrap(), "bob");
    for nobody in [
        Credential::SshKey("SHA256:ca".into()),
        principal("SHA256:ca", "bob"),
        principal("SHA256:key", "ops"),
    ] {
        assert_eq!(who(&nobody), None, "{nobody:?}");
    }
}
