//! What every adapter of the storage traits must do, as tests over fresh
//! stores: run them from the crate that has the adapter.
//!
//! Each rule gets stores of its own from `make`; all rules run, and the ones
//! that fail are named at the end.
#![expect(clippy::unwrap_used, reason = "a broken rule fails with its line")]

use alknet_core::{
    AuditOutcome, AuditRow, GrantTarget, Grants, GroupName, PeerId, Surface,
    storage::{
        AuditFilter, AuditLog, Begin, IdempotencyScope, IdempotencyStore, IdentityChange,
        IdentitySnapshot, IdentityStore, ImportStore, InviteRecord, NodeKey, PeerAddresses,
        PeerRecord, StoreError, Timestamp,
    },
};
use futures::future::{BoxFuture, join_all};
use std::sync::Arc;

/// An identity store, and the log that its changes are recorded in.
#[derive(Clone)]
pub struct Identities {
    /// The store.
    pub store: Arc<dyn IdentityStore>,
    /// Its audit log.
    pub audit: Arc<dyn AuditLog>,
}

/// Checks every rule of [`IdentityStore`].
///
/// # Panics
///
/// If a rule is broken; the message names all that are.
pub async fn identity_store(make: impl AsyncFn() -> Identities) {
    check(make, IDENTITY_RULES).await;
}

/// Checks every rule of [`AuditLog`].
///
/// # Panics
///
/// If a rule is broken; the message names all that are.
pub async fn audit_log<S: AuditLog>(make: impl AsyncFn() -> Arc<S>) {
    check(async || make().await as Arc<dyn AuditLog>, AUDIT_RULES).await;
}

/// Checks every rule of [`IdempotencyStore`].
///
/// # Panics
///
/// If a rule is broken; the message names all that are.
pub async fn idempotency_store<S: IdempotencyStore>(make: impl AsyncFn() -> Arc<S>) {
    check(
        async || make().await as Arc<dyn IdempotencyStore>,
        IDEMPOTENCY_RULES,
    )
    .await;
}

/// Checks every rule of [`ImportStore`].
///
/// # Panics
///
/// If a rule is broken; the message names all that are.
pub async fn import_store<S: ImportStore>(make: impl AsyncFn() -> Arc<S>) {
    check(async || make().await as Arc<dyn ImportStore>, IMPORT_RULES).await;
}

type Rule<S> = (&'static str, fn(S) -> BoxFuture<'static, ()>);

/// A table of rules from functions, named as they are.
macro_rules! rules {
    ($store:ty: $($rule:ident),* $(,)?) => {
        &[$((stringify!($rule), |store: $store| Box::pin($rule(store)))),*]
    };
}

async fn check<S>(make: impl AsyncFn() -> S, rules: &[Rule<S>]) {
    let mut broken = Vec::new();
    for (name, rule) in rules {
        // In a task, so that one broken rule does not hide the others.
        if tokio::spawn(rule(make().await)).await.is_err() {
            broken.push(*name);
        }
    }
    assert!(
        broken.is_empty(),
        "{} of {} rules are broken: {broken:?}",
        broken.len(),
        rules.len()
    );
}

// Samples.

fn peer_id(text: &str) -> PeerId {
    PeerId::parse(text).unwrap()
}

fn group(text: &str) -> GroupName {
    GroupName::parse(text).unwrap()
}

fn grants(targets: &[&str]) -> Grants {
    targets
        .iter()
        .map(|text| GrantTarget::parse(text).unwrap())
        .collect()
}

fn peer(id: &str) -> PeerRecord {
    PeerRecord::new(peer_id(id), Timestamp(1_000))
}

/// A peer whose node key is `key` 32 times.
fn keyed(id: &str, key: u8) -> PeerRecord {
    PeerRecord {
        node_keys: vec![NodeKey {
            key: [key; 32],
            until: None,
        }],
        ..peer(id)
    }
}

/// A peer with something in every field.
fn full(id: &str) -> PeerRecord {
    PeerRecord {
        display_name: "Ada’s \"laptop\"".into(),
        groups: [group("family"), group("admins")].into(),
        grants: grants(&[
            "editor",
            "deploy/restart",
            "bucket:www/**=read,list",
            "!net:10.0.0.0/8=*",
            "fs:*",
        ]),
        enabled: false,
        expires_at: Some(Timestamp(9_000)),
        last_seen_at: Some(Timestamp(-1)),
        node_keys: vec![
            NodeKey {
                key: [200; 32],
                until: None,
            },
            NodeKey {
                key: [100; 32],
                until: Some(Timestamp(5_000)),
            },
        ],
        ssh_keys: ["SHA256:b".to_owned(), "SHA256:a".to_owned()].into(),
        addresses: PeerAddresses {
            direct: vec![
                "192.0.2.1:4433".parse().unwrap(),
                "[2001:db8::1]:7".parse().unwrap(),
            ],
            relays: vec!["https://relay.example/".into()],
        },
        ..peer(id)
    }
}

fn invite(id: &str) -> InviteRecord {
    InviteRecord {
        id: id.into(),
        secret_hash: [7; 32],
        name: None,
        grants: grants(&["reader"]),
        created_at: Timestamp(1_000),
        expires_at: Timestamp(2_000),
        access_for_ms: None,
        used_by: None,
        used_key: None,
        revoked: false,
    }
}

fn row(operation: &str) -> AuditRow {
    AuditRow::event(Timestamp(1_000), "owner", operation)
}

fn redeem(invite: &str, peer: PeerRecord, now: i64) -> IdentityChange {
    IdentityChange::RedeemInvite {
        invite: invite.into(),
        peer,
        now: Timestamp(now),
    }
}

impl Identities {
    async fn apply(&self, change: IdentityChange) -> Result<(), StoreError> {
        self.store.apply(change, row("test/change")).await
    }

    /// Applies what must succeed.
    async fn done(&self, change: IdentityChange) {
        self.apply(change).await.unwrap();
    }

    /// Applies what must fail, and checks that it left nothing behind.
    async fn refused(&self, change: IdentityChange) -> StoreError {
        let before = (self.load().await, self.rows().await);
        let error = self.apply(change).await.unwrap_err();
        assert_eq!(
            (self.load().await, self.rows().await),
            before,
            "a refused change left something"
        );
        error
    }

    async fn load(&self) -> IdentitySnapshot {
        self.store.load().await.unwrap()
    }

    async fn peer(&self, id: &str) -> PeerRecord {
        self.load()
            .await
            .peers
            .into_iter()
            .find(|peer| peer.id.as_str() == id)
            .unwrap()
    }

    async fn invite(&self, id: &str) -> InviteRecord {
        self.load()
            .await
            .invites
            .into_iter()
            .find(|invite| invite.id == id)
            .unwrap()
    }

    async fn rows(&self) -> usize {
        self.audit
            .list(&AuditFilter::default())
            .await
            .unwrap()
            .len()
    }
}

// Peers, groups, invites.

const IDENTITY_RULES: &[Rule<Identities>] = rules!(Identities:
    a_new_store_is_empty,
    a_peer_reads_back_as_it_was_added,
    everything_is_listed_by_id,
    a_taken_id_is_refused,
    a_taken_credential_is_refused_with_its_holder,
    an_update_replaces_all_but_id_and_creation,
    an_update_keeps_frees_and_takes_credentials,
    an_update_cannot_take_a_held_credential,
    a_removed_peer_leaves_nothing,
    changes_of_unknown_peers_are_refused,
    grants_are_added_and_removed_one_by_one,
    a_group_is_made_replaced_and_removed,
    invites_read_back_and_are_revoked,
    an_invite_is_redeemed_once,
    redeeming_again_with_the_same_key_changes_nothing,
    a_newcomer_without_node_key_cannot_redeem_again,
    an_expired_invite_is_refused_from_its_last_moment_on,
    revoked_and_unknown_invites_are_refused,
    a_refused_newcomer_leaves_the_invite_open,
    every_change_has_its_audit_row,
    seeing_a_peer_is_no_change,
    one_of_many_newcomers_gets_the_invite,
    one_of_many_peers_gets_the_key,
);

async fn a_new_store_is_empty(s: Identities) {
    assert_eq!(s.load().await, IdentitySnapshot::default());
    assert_eq!(s.rows().await, 0);
}

async fn a_peer_reads_back_as_it_was_added(s: Identities) {
    s.done(IdentityChange::AddPeer(full("laptop"))).await;
    assert_eq!(s.load().await.peers, [full("laptop")]);
}

async fn everything_is_listed_by_id(s: Identities) {
    for id in ["c", "a", "b"] {
        s.done(IdentityChange::AddPeer(peer(id))).await;
        s.done(IdentityChange::PutGroup {
            group: group(id),
            grants: grants(&[]),
        })
        .await;
        s.done(IdentityChange::AddInvite(invite(id))).await;
    }
    let all = s.load().await;
    assert_eq!(all.peers, [peer("a"), peer("b"), peer("c")]);
    assert_eq!(
        all.groups,
        ["a", "b", "c"].map(|name| (group(name), Grants::default()))
    );
    assert_eq!(all.invites, [invite("a"), invite("b"), invite("c")]);
}

async fn a_taken_id_is_refused(s: Identities) {
    s.done(IdentityChange::AddPeer(keyed("laptop", 1))).await;
    let error = s.refused(IdentityChange::AddPeer(keyed("laptop", 2))).await;
    assert!(matches!(error, StoreError::PeerExists(id) if id.as_str() == "laptop"));
}

async fn a_taken_credential_is_refused_with_its_holder(s: Identities) {
    s.done(IdentityChange::AddPeer(full("laptop"))).await;
    let ssh = PeerRecord {
        ssh_keys: ["SHA256:a".to_owned(), "SHA256:z".to_owned()].into(),
        ..keyed("other", 1)
    };
    // The current key, the one of the rotation before, and an SSH key.
    for rival in [keyed("other", 200), keyed("other", 100), ssh] {
        let error = s.refused(IdentityChange::AddPeer(rival)).await;
        assert!(matches!(error, StoreError::CredentialTaken(id) if id.as_str() == "laptop"));
    }
}

async fn an_update_replaces_all_but_id_and_creation(s: Identities) {
    s.done(IdentityChange::AddPeer(keyed("laptop", 1))).await;
    let update = PeerRecord {
        created_at: Timestamp(77),
        ..full("laptop")
    };
    s.done(IdentityChange::UpdatePeer(update)).await;
    assert_eq!(s.peer("laptop").await, full("laptop"));
    s.done(IdentityChange::UpdatePeer(peer("laptop"))).await;
    assert_eq!(s.peer("laptop").await, peer("laptop"));
}

async fn an_update_keeps_frees_and_takes_credentials(s: Identities) {
    s.done(IdentityChange::AddPeer(keyed("laptop", 1))).await;
    let rotating = PeerRecord {
        node_keys: vec![
            NodeKey {
                key: [2; 32],
                until: None,
            },
            NodeKey {
                key: [1; 32],
                until: Some(Timestamp(3_000)),
            },
        ],
        ..peer("laptop")
    };
    s.done(IdentityChange::UpdatePeer(rotating.clone())).await;
    assert_eq!(s.peer("laptop").await, rotating);
    s.done(IdentityChange::UpdatePeer(keyed("laptop", 2))).await;
    s.done(IdentityChange::AddPeer(keyed("phone", 1))).await;
    assert_eq!(
        s.load().await.peers,
        [keyed("laptop", 2), keyed("phone", 1)]
    );
}

async fn an_update_cannot_take_a_held_credential(s: Identities) {
    s.done(IdentityChange::AddPeer(keyed("laptop", 1))).await;
    s.done(IdentityChange::AddPeer(full("phone"))).await;
    let error = s
        .refused(IdentityChange::UpdatePeer(keyed("phone", 1)))
        .await;
    assert!(matches!(error, StoreError::CredentialTaken(id) if id.as_str() == "laptop"));
}

async fn a_removed_peer_leaves_nothing(s: Identities) {
    s.done(IdentityChange::AddPeer(full("laptop"))).await;
    s.done(IdentityChange::RemovePeer(peer_id("laptop"))).await;
    assert_eq!(s.load().await, IdentitySnapshot::default());
    s.done(IdentityChange::AddPeer(peer("laptop"))).await;
    assert_eq!(s.peer("laptop").await, peer("laptop"));
    s.done(IdentityChange::AddPeer(full("phone"))).await;
}

async fn changes_of_unknown_peers_are_refused(s: Identities) {
    let nobody = peer_id("nobody");
    for change in [
        IdentityChange::UpdatePeer(peer("nobody")),
        IdentityChange::RemovePeer(nobody.clone()),
        IdentityChange::ChangeGrants {
            peer: nobody,
            add: grants(&["editor"]),
            remove: grants(&[]),
        },
    ] {
        assert!(matches!(s.refused(change).await, StoreError::NoPeer(id) if id == "nobody"));
    }
}

async fn grants_are_added_and_removed_one_by_one(s: Identities) {
    let change = |add: &[&str], remove: &[&str]| {
        let (add, remove) = (grants(add), grants(remove));
        s.done(IdentityChange::ChangeGrants {
            peer: peer_id("laptop"),
            add,
            remove,
        })
    };
    s.done(IdentityChange::AddPeer(PeerRecord {
        grants: grants(&["reader", "fs:*"]),
        ..peer("laptop")
    }))
    .await;
    s.done(IdentityChange::AddPeer(PeerRecord {
        grants: grants(&["reader"]),
        ..peer("phone")
    }))
    .await;
    change(&["editor", "deploy/restart"], &["reader"]).await;
    assert_eq!(
        s.peer("laptop").await.grants,
        grants(&["fs:*", "editor", "deploy/restart"])
    );
    // Given again or taken again: nothing changes.
    change(&["fs:*"], &["reader"]).await;
    assert_eq!(
        s.peer("laptop").await.grants,
        grants(&["fs:*", "editor", "deploy/restart"])
    );
    change(&[], &["deploy/restart", "fs:*", "editor"]).await;
    assert_eq!(s.peer("laptop").await.grants, Grants::default());
    assert_eq!(s.peer("phone").await.grants, grants(&["reader"]));
}

async fn a_group_is_made_replaced_and_removed(s: Identities) {
    let put = |targets: &[&str]| {
        let (group, grants) = (group("family"), grants(targets));
        s.done(IdentityChange::PutGroup { group, grants })
    };
    let member = PeerRecord {
        groups: [group("family"), group("work")].into(),
        ..peer("laptop")
    };
    s.done(IdentityChange::AddPeer(member)).await;
    put(&["reader", "fs:write"]).await;
    put(&["fs:write", "editor"]).await;
    assert_eq!(
        s.load().await.groups,
        [(group("family"), grants(&["fs:write", "editor"]))]
    );
    s.done(IdentityChange::RemoveGroup(group("family"))).await;
    assert!(s.load().await.groups.is_empty());
    assert_eq!(s.peer("laptop").await.groups, [group("work")].into());
    let error = s
        .refused(IdentityChange::RemoveGroup(group("family")))
        .await;
    assert!(matches!(error, StoreError::NoGroup(name) if name == "family"));
}

async fn invites_read_back_and_are_revoked(s: Identities) {
    let detailed = InviteRecord {
        name: Some(peer_id("laptop")),
        grants: grants(&["editor", "!bucket:www/secret/**=read"]),
        access_for_ms: Some(604_800_000),
        ..invite("second")
    };
    for added in [invite("first"), detailed.clone()] {
        s.done(IdentityChange::AddInvite(added)).await;
    }
    assert_eq!(s.load().await.invites, [invite("first"), detailed.clone()]);
    s.done(IdentityChange::RevokeInvite("first".into())).await;
    assert_eq!(
        s.load().await.invites,
        [
            InviteRecord {
                revoked: true,
                ..invite("first")
            },
            detailed
        ]
    );
    let error = s
        .refused(IdentityChange::RevokeInvite("third".into()))
        .await;
    assert!(matches!(error, StoreError::NoInvite(id) if id == "third"));
}

async fn an_invite_is_redeemed_once(s: Identities) {
    s.done(IdentityChange::AddInvite(invite("i"))).await;
    s.done(redeem("i", keyed("laptop", 1), 1_500)).await;
    assert_eq!(s.peer("laptop").await, keyed("laptop", 1));
    let used = InviteRecord {
        used_by: Some(peer_id("laptop")),
        used_key: Some([1; 32]),
        ..invite("i")
    };
    assert_eq!(s.invite("i").await, used);
    let error = s.refused(redeem("i", keyed("phone", 2), 1_500)).await;
    assert!(matches!(error, StoreError::InviteUsed));
}

async fn redeeming_again_with_the_same_key_changes_nothing(s: Identities) {
    s.done(IdentityChange::AddInvite(invite("i"))).await;
    s.done(redeem("i", keyed("laptop", 1), 1_500)).await;
    let before = s.load().await;
    // Even when it has expired, or the newcomer says something new.
    let wider = PeerRecord {
        grants: grants(&["admin"]),
        ..keyed("phone", 1)
    };
    for (again, now) in [(keyed("laptop", 1), 1_500), (wider, 9_000)] {
        s.done(redeem("i", again, now)).await;
        assert_eq!(s.load().await, before);
    }
}

async fn a_newcomer_without_node_key_cannot_redeem_again(s: Identities) {
    s.done(IdentityChange::AddInvite(invite("i"))).await;
    s.done(redeem("i", peer("agent"), 1_500)).await;
    let error = s.refused(redeem("i", peer("agent"), 1_500)).await;
    assert!(matches!(error, StoreError::InviteUsed));
}

async fn an_expired_invite_is_refused_from_its_last_moment_on(s: Identities) {
    for id in ["i", "j"] {
        s.done(IdentityChange::AddInvite(invite(id))).await;
    }
    let error = s.refused(redeem("i", keyed("laptop", 1), 2_000)).await;
    assert!(matches!(error, StoreError::InviteExpired));
    s.done(redeem("j", keyed("laptop", 1), 1_999)).await;
}

async fn revoked_and_unknown_invites_are_refused(s: Identities) {
    s.done(IdentityChange::AddInvite(invite("i"))).await;
    s.done(IdentityChange::RevokeInvite("i".into())).await;
    let error = s.refused(redeem("i", keyed("laptop", 1), 1_500)).await;
    assert!(matches!(error, StoreError::InviteRevoked));
    let error = s.refused(redeem("x", keyed("laptop", 1), 1_500)).await;
    assert!(matches!(error, StoreError::NoInvite(id) if id == "x"));
}

async fn a_refused_newcomer_leaves_the_invite_open(s: Identities) {
    s.done(IdentityChange::AddPeer(keyed("laptop", 1))).await;
    s.done(IdentityChange::AddInvite(invite("i"))).await;
    let error = s.refused(redeem("i", keyed("laptop", 2), 1_500)).await;
    assert!(matches!(error, StoreError::PeerExists(_)));
    let error = s.refused(redeem("i", keyed("phone", 1), 1_500)).await;
    assert!(matches!(error, StoreError::CredentialTaken(_)));
    assert_eq!(s.invite("i").await, invite("i"));
    s.done(redeem("i", keyed("phone", 2), 1_500)).await;
}

async fn every_change_has_its_audit_row(s: Identities) {
    let changes = [
        IdentityChange::AddPeer(keyed("laptop", 1)),
        IdentityChange::UpdatePeer(keyed("laptop", 2)),
        IdentityChange::ChangeGrants {
            peer: peer_id("laptop"),
            add: grants(&["editor"]),
            remove: grants(&[]),
        },
        IdentityChange::PutGroup {
            group: group("family"),
            grants: grants(&["reader"]),
        },
        IdentityChange::RemoveGroup(group("family")),
        IdentityChange::AddInvite(invite("i")),
        redeem("i", keyed("phone", 3), 1_500),
        IdentityChange::RevokeInvite("i".into()),
        IdentityChange::RemovePeer(peer_id("laptop")),
    ];
    let mut written = Vec::new();
    for (index, change) in changes.into_iter().enumerate() {
        let audit = row(&format!("test/change-{index}"));
        s.store.apply(change, audit.clone()).await.unwrap();
        written.insert(0, audit);
    }
    let listed = s.audit.list(&AuditFilter::default()).await.unwrap();
    assert_eq!(
        listed.into_iter().map(|(_, row)| row).collect::<Vec<_>>(),
        written
    );
}

async fn seeing_a_peer_is_no_change(s: Identities) {
    s.done(IdentityChange::AddPeer(full("laptop"))).await;
    let (id, rows) = (peer_id("laptop"), s.rows().await);
    s.store.seen(&id, Timestamp(4_000), None).await.unwrap();
    assert_eq!(
        s.peer("laptop").await,
        PeerRecord {
            last_seen_at: Some(Timestamp(4_000)),
            ..full("laptop")
        }
    );
    let addresses = PeerAddresses {
        direct: vec!["198.51.100.1:9".parse().unwrap()],
        relays: Vec::new(),
    };
    s.store
        .seen(&id, Timestamp(5_000), Some(addresses.clone()))
        .await
        .unwrap();
    let want = PeerRecord {
        last_seen_at: Some(Timestamp(5_000)),
        addresses,
        ..full("laptop")
    };
    assert_eq!(s.peer("laptop").await, want);
    assert_eq!(s.rows().await, rows);
    let unknown = s.store.seen(&peer_id("nobody"), Timestamp(1), None).await;
    assert!(matches!(unknown, Err(StoreError::NoPeer(id)) if id == "nobody"));
}

async fn one_of_many_newcomers_gets_the_invite(s: Identities) {
    s.done(IdentityChange::AddInvite(invite("i"))).await;
    let all = (1..=20).map(|n| s.apply(redeem("i", keyed(&format!("p{n}"), n), 1_500)));
    let won = join_all(all)
        .await
        .into_iter()
        .filter(|result| match result {
            Ok(()) => true,
            Err(error) => {
                assert!(matches!(error, StoreError::InviteUsed), "{error:?}");
                false
            }
        });
    assert_eq!(won.count(), 1);
    assert_eq!(s.load().await.peers.len(), 1);
    assert_eq!(s.rows().await, 2);
}

async fn one_of_many_peers_gets_the_key(s: Identities) {
    let all = (1..=20).map(|n| s.apply(IdentityChange::AddPeer(keyed(&format!("p{n}"), 1))));
    let won = join_all(all)
        .await
        .into_iter()
        .filter(Result::is_ok)
        .count();
    assert_eq!((won, s.load().await.peers.len(), s.rows().await), (1, 1, 1));
}

// The audit log.

const AUDIT_RULES: &[Rule<Arc<dyn AuditLog>>] = rules!(Arc<dyn AuditLog>:
    an_audit_row_reads_back_as_written,
    rows_are_numbered_as_written_and_listed_backwards,
    filters_select_what_they_say,
    conditions_are_all_required,
    pages_meet_without_gap_or_overlap,
    a_list_has_100_rows_unless_told_and_never_over_1000,
    batches_of_many_writers_stay_whole,
);

async fn listed(log: &Arc<dyn AuditLog>, filter: AuditFilter) -> Vec<String> {
    let rows = log.list(&filter).await.unwrap();
    rows.into_iter().map(|(_, row)| row.operation).collect()
}

async fn an_audit_row_reads_back_as_written(log: Arc<dyn AuditLog>) {
    let full = AuditRow {
        at: Timestamp(1_790_000_000_123),
        call_id: "call".into(),
        parent_id: Some("parent".into()),
        caller: "ada".into(),
        originator: Some("phone/ada".into()),
        surface: Surface::named("ssh"),
        operation: "fs/read".into(),
        route: Some("nas/attic".into()),
        resource: Some("www/ö.txt".into()),
        outcome: AuditOutcome::code("FORBIDDEN".into()),
        detail: Some("scope `fs:read` is missing".into()),
        duration_us: 5,
        bytes_in: 0,
        bytes_out: u64::MAX,
    };
    log.append(vec![full.clone(), row("node/start")])
        .await
        .unwrap();
    log.append(Vec::new()).await.unwrap();
    let rows = log.list(&AuditFilter::default()).await.unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].1.outcome, AuditOutcome::OK);
    assert_eq!(rows[1].1, full);
}

async fn rows_are_numbered_as_written_and_listed_backwards(log: Arc<dyn AuditLog>) {
    log.append(vec![row("a/a"), row("a/b")]).await.unwrap();
    // Numbers follow the writing, not the time.
    log.append(vec![AuditRow {
        at: Timestamp(-5),
        ..row("a/c")
    }])
    .await
    .unwrap();
    let rows = log.list(&AuditFilter::default()).await.unwrap();
    let operations: Vec<&str> = rows.iter().map(|(_, row)| row.operation.as_str()).collect();
    assert_eq!(operations, ["a/c", "a/b", "a/a"]);
    assert!(rows.is_sorted_by(|(newer, _), (older, _)| newer > older));
}

/// One row for each kind of condition.
async fn samples(log: &Arc<dyn AuditLog>) {
    let at = |at, operation| AuditRow {
        at: Timestamp(at),
        ..row(operation)
    };
    let code = |code: &'static str| AuditOutcome::code(code.into());
    log.append(vec![
        AuditRow {
            caller: "ada".into(),
            call_id: "c1".into(),
            ..at(1_000, "fs/read")
        },
        AuditRow {
            caller: "ada".into(),
            outcome: code("FORBIDDEN"),
            ..at(2_000, "fs/write")
        },
        AuditRow {
            caller: "bob".into(),
            parent_id: Some("c1".into()),
            ..at(3_000, "fsx/read")
        },
        AuditRow {
            caller: "bob".into(),
            outcome: code("INTERNAL"),
            ..at(4_000, "net/dial")
        },
    ])
    .await
    .unwrap();
}

fn text(text: &str) -> Option<String> {
    Some(text.into())
}

async fn filters_select_what_they_say(log: Arc<dyn AuditLog>) {
    samples(&log).await;
    let all = ["net/dial", "fsx/read", "fs/write", "fs/read"];
    let none = AuditFilter::default;
    let cases: &[(AuditFilter, &[&str])] = &[
        (none(), &all),
        (
            AuditFilter {
                caller: text("ada"),
                ..none()
            },
            &["fs/write", "fs/read"],
        ),
        (
            AuditFilter {
                caller: text("ad"),
                ..none()
            },
            &[],
        ),
        (
            AuditFilter {
                operation: text("fs/read"),
                ..none()
            },
            &["fs/read"],
        ),
        (
            AuditFilter {
                operation: text("fs/*"),
                ..none()
            },
            &["fs/write", "fs/read"],
        ),
        (
            AuditFilter {
                operation: text("fs*"),
                ..none()
            },
            &["fsx/read", "fs/write", "fs/read"],
        ),
        (
            AuditFilter {
                operation: text("*"),
                ..none()
            },
            &all,
        ),
        (
            AuditFilter {
                operation: text("fs/%"),
                ..none()
            },
            &[],
        ),
        (
            AuditFilter {
                operation: text("f?/*"),
                ..none()
            },
            &[],
        ),
        (
            AuditFilter {
                outcome: text("ok"),
                ..none()
            },
            &["fsx/read", "fs/read"],
        ),
        (
            AuditFilter {
                outcome: text("FORBIDDEN"),
                ..none()
            },
            &["fs/write"],
        ),
        (
            AuditFilter {
                outcome: text("refused"),
                ..none()
            },
            &["net/dial", "fs/write"],
        ),
        (
            AuditFilter {
                call_id: text("c1"),
                ..none()
            },
            &["fsx/read", "fs/read"],
        ),
        (
            AuditFilter {
                since: text("1970-01-01T00:00:03Z"),
                ..none()
            },
            &["net/dial", "fsx/read"],
        ),
        (
            AuditFilter {
                until: text("1970-01-01T00:00:03Z"),
                ..none()
            },
            &["fs/write", "fs/read"],
        ),
        (
            AuditFilter {
                since: text("1970-01-01T01:00:04+01:00"),
                ..none()
            },
            &["net/dial"],
        ),
        (
            AuditFilter {
                limit: Some(2),
                ..none()
            },
            &["net/dial", "fsx/read"],
        ),
        (
            AuditFilter {
                limit: Some(0),
                ..none()
            },
            &[],
        ),
    ];
    for (filter, want) in cases {
        assert_eq!(listed(&log, filter.clone()).await, *want, "{filter:?}");
    }
}

async fn conditions_are_all_required(log: Arc<dyn AuditLog>) {
    samples(&log).await;
    let both = AuditFilter {
        caller: text("ada"),
        outcome: text("refused"),
        ..AuditFilter::default()
    };
    assert_eq!(listed(&log, both).await, ["fs/write"]);
    let window = AuditFilter {
        since: text("1970-01-01T00:00:02Z"),
        until: text("1970-01-01T00:00:04Z"),
        operation: text("fs*"),
        ..AuditFilter::default()
    };
    assert_eq!(listed(&log, window).await, ["fsx/read", "fs/write"]);
    let nobody = AuditFilter {
        caller: text("bob"),
        operation: text("fs/*"),
        ..AuditFilter::default()
    };
    assert!(listed(&log, nobody).await.is_empty());
}

async fn pages_meet_without_gap_or_overlap(log: Arc<dyn AuditLog>) {
    log.append((0..25).map(|n| row(&format!("a/b{n}"))).collect())
        .await
        .unwrap();
    let all = log.list(&AuditFilter::default()).await.unwrap();
    let mut paged = Vec::new();
    let mut filter = AuditFilter {
        limit: Some(10),
        ..AuditFilter::default()
    };
    loop {
        let page = log.list(&filter).await.unwrap();
        let Some((oldest, _)) = page.last() else {
            break;
        };
        filter.before = Some(*oldest);
        paged.extend(page);
    }
    assert_eq!(paged, all);
    // Following: only what was written after the newest that was seen.
    let seen = AuditFilter {
        after: Some(all[0].0),
        ..AuditFilter::default()
    };
    assert!(listed(&log, seen.clone()).await.is_empty());
    log.append(vec![row("a/new")]).await.unwrap();
    assert_eq!(listed(&log, seen).await, ["a/new"]);
    let middle = AuditFilter {
        after: Some(all[4].0),
        before: Some(all[1].0),
        ..AuditFilter::default()
    };
    assert_eq!(log.list(&middle).await.unwrap(), all[2..4]);
    let beyond = AuditFilter {
        after: Some(u64::MAX),
        ..AuditFilter::default()
    };
    assert!(listed(&log, beyond).await.is_empty());
}

async fn a_list_has_100_rows_unless_told_and_never_over_1000(log: Arc<dyn AuditLog>) {
    log.append((0..1_001).map(|_| row("a/b")).collect())
        .await
        .unwrap();
    for (limit, want) in [
        (None, 100),
        (Some(1_000), 1_000),
        (Some(1_001), 1_000),
        (Some(u32::MAX), 1_000),
    ] {
        let rows = log
            .list(&AuditFilter {
                limit,
                ..AuditFilter::default()
            })
            .await
            .unwrap();
        assert_eq!(rows.len(), want, "{limit:?}");
    }
}

async fn batches_of_many_writers_stay_whole(log: Arc<dyn AuditLog>) {
    let batches = (0..20).map(|writer| {
        let rows = (0..5).map(|n| AuditRow {
            duration_us: n,
            ..row(&format!("a/w{writer}"))
        });
        log.append(rows.collect())
    });
    for appended in join_all(batches).await {
        appended.unwrap();
    }
    let mut rows = log
        .list(&AuditFilter {
            limit: Some(1_000),
            ..AuditFilter::default()
        })
        .await
        .unwrap();
    rows.reverse();
    assert_eq!(rows.len(), 100);
    for batch in rows.chunks(5) {
        let operation = &batch[0].1.operation;
        let order: Vec<u64> = batch.iter().map(|(_, row)| row.duration_us).collect();
        assert!(batch.iter().all(|(_, row)| row.operation == *operation));
        assert_eq!(order, [0, 1, 2, 3, 4]);
    }
}

// Keyed calls.

const IDEMPOTENCY_RULES: &[Rule<Arc<dyn IdempotencyStore>>] = rules!(Arc<dyn IdempotencyStore>:
    a_call_is_fresh_once_and_then_running,
    an_ended_call_has_its_outcome_in_every_run,
    a_start_of_another_run_without_outcome_is_unknown,
    another_input_is_told_before_anything_else,
    every_part_of_a_scope_counts,
    an_abandoned_start_is_fresh_again,
    ending_or_abandoning_what_never_began_does_nothing,
    pruning_forgets_what_began_before,
    one_of_many_beginners_is_fresh,
);

fn scope(key: &str) -> IdempotencyScope {
    IdempotencyScope {
        caller: "ada".into(),
        originator: "phone/ada".into(),
        operation: "fs/write".into(),
        key: key.into(),
    }
}

async fn begin(
    calls: &Arc<dyn IdempotencyStore>,
    scope: &IdempotencyScope,
    input: u8,
    run: u64,
) -> Begin {
    calls
        .begin(scope, [input; 32], run, Timestamp(1_000))
        .await
        .unwrap()
}

async fn a_call_is_fresh_once_and_then_running(calls: Arc<dyn IdempotencyStore>) {
    // Runs are told apart by all their bits.
    for (key, run) in [("a", 0), ("b", u64::MAX), ("c", 1 << 63)] {
        assert_eq!(begin(&calls, &scope(key), 1, run).await, Begin::Fresh);
        assert_eq!(begin(&calls, &scope(key), 1, run).await, Begin::Running);
    }
}

async fn an_ended_call_has_its_outcome_in_every_run(calls: Arc<dyn IdempotencyStore>) {
    for (key, outcome) in [("empty", Vec::new()), ("json", b"{\"ok\":1}".to_vec())] {
        begin(&calls, &scope(key), 1, 1).await;
        calls.finish(&scope(key), outcome.clone()).await.unwrap();
        assert_eq!(
            begin(&calls, &scope(key), 1, 1).await,
            Begin::Done(outcome.clone())
        );
        assert_eq!(begin(&calls, &scope(key), 1, 2).await, Begin::Done(outcome));
    }
}

async fn a_start_of_another_run_without_outcome_is_unknown(calls: Arc<dyn IdempotencyStore>) {
    begin(&calls, &scope("a"), 1, 1).await;
    assert_eq!(begin(&calls, &scope("a"), 1, 2).await, Begin::Unknown);
    // Asking does not make it this run's call.
    assert_eq!(begin(&calls, &scope("a"), 1, 2).await, Begin::Unknown);
}

async fn another_input_is_told_before_anything_else(calls: Arc<dyn IdempotencyStore>) {
    begin(&calls, &scope("a"), 1, 1).await;
    for run in [1, 2] {
        assert_eq!(begin(&calls, &scope("a"), 2, run).await, Begin::OtherInput);
    }
    calls.finish(&scope("a"), b"1".to_vec()).await.unwrap();
    assert_eq!(begin(&calls, &scope("a"), 2, 1).await, Begin::OtherInput);
    assert_eq!(
        begin(&calls, &scope("a"), 1, 1).await,
        Begin::Done(b"1".to_vec())
    );
}

async fn every_part_of_a_scope_counts(calls: Arc<dyn IdempotencyStore>) {
    begin(&calls, &scope("a"), 1, 1).await;
    for other in [
        scope("b"),
        IdempotencyScope {
            caller: "bob".into(),
            ..scope("a")
        },
        IdempotencyScope {
            originator: "phone/bob".into(),
            ..scope("a")
        },
        IdempotencyScope {
            operation: "fs/read".into(),
            ..scope("a")
        },
    ] {
        assert_eq!(begin(&calls, &other, 1, 1).await, Begin::Fresh, "{other:?}");
        calls.finish(&other, b"other".to_vec()).await.unwrap();
    }
    assert_eq!(begin(&calls, &scope("a"), 1, 1).await, Begin::Running);
}

async fn an_abandoned_start_is_fresh_again(calls: Arc<dyn IdempotencyStore>) {
    begin(&calls, &scope("a"), 1, 1).await;
    begin(&calls, &scope("b"), 1, 1).await;
    calls.abandon(&scope("a")).await.unwrap();
    assert_eq!(begin(&calls, &scope("a"), 2, 1).await, Begin::Fresh);
    assert_eq!(begin(&calls, &scope("b"), 1, 1).await, Begin::Running);
}

async fn ending_or_abandoning_what_never_began_does_nothing(calls: Arc<dyn IdempotencyStore>) {
    calls.finish(&scope("a"), b"1".to_vec()).await.unwrap();
    calls.abandon(&scope("a")).await.unwrap();
    assert_eq!(begin(&calls, &scope("a"), 1, 1).await, Begin::Fresh);
}

async fn pruning_forgets_what_began_before(calls: Arc<dyn IdempotencyStore>) {
    for (key, at) in [("old", 1_000), ("ended", 1_999), ("new", 2_000)] {
        calls
            .begin(&scope(key), [1; 32], 1, Timestamp(at))
            .await
            .unwrap();
    }
    calls.finish(&scope("ended"), b"1".to_vec()).await.unwrap();
    assert_eq!(calls.prune(Timestamp(2_000)).await.unwrap(), 2);
    assert_eq!(calls.prune(Timestamp(2_000)).await.unwrap(), 0);
    assert_eq!(begin(&calls, &scope("new"), 1, 1).await, Begin::Running);
    assert_eq!(begin(&calls, &scope("ended"), 1, 1).await, Begin::Fresh);
}

async fn one_of_many_beginners_is_fresh(calls: Arc<dyn IdempotencyStore>) {
    let scope = scope("a");
    let begun = join_all((0..20).map(|_| begin(&calls, &scope, 1, 1))).await;
    assert_eq!(
        begun.iter().filter(|state| **state == Begin::Fresh).count(),
        1
    );
    assert_eq!(
        begun
            .iter()
            .filter(|state| **state == Begin::Running)
            .count(),
        19
    );
}

// Catalogues of imports.

const IMPORT_RULES: &[Rule<Arc<dyn ImportStore>>] = rules!(Arc<dyn ImportStore>:
    a_catalogue_is_kept_replaced_and_forgotten,
    catalogues_of_imports_are_apart,
);

async fn a_catalogue_is_kept_replaced_and_forgotten(imports: Arc<dyn ImportStore>) {
    assert_eq!(imports.catalogue("nas").await.unwrap(), None);
    for (revision, text) in [("1", b"[]".to_vec()), ("2", vec![0, 255]), ("", Vec::new())] {
        imports
            .put_catalogue("nas", revision, text.clone())
            .await
            .unwrap();
        assert_eq!(
            imports.catalogue("nas").await.unwrap(),
            Some((revision.to_owned(), text))
        );
    }
    // Forgetting twice is no error.
    for _ in 0..2 {
        imports.remove_catalogue("nas").await.unwrap();
        assert_eq!(imports.catalogue("nas").await.unwrap(), None);
    }
}

async fn catalogues_of_imports_are_apart(imports: Arc<dyn ImportStore>) {
    imports
        .put_catalogue("nas", "1", b"a".to_vec())
        .await
        .unwrap();
    imports
        .put_catalogue("NAS", "2", b"b".to_vec())
        .await
        .unwrap();
    imports.remove_catalogue("nas").await.unwrap();
    assert_eq!(
        imports.catalogue("NAS").await.unwrap(),
        Some(("2".to_owned(), b"b".to_vec()))
    );
}
