//! Peers with their credentials and grants, groups, invites.

use super::{Identities, Rule, row, rules};
use alknet_core::{
    GrantTarget, Grants, GroupName, PeerId,
    storage::{
        AuditFilter, IdentityChange, IdentitySnapshot, InviteRecord, NodeKey, PeerAddresses,
        PeerRecord, SshAuthority, SshKey, StoreError, Timestamp,
    },
};
use futures::future::join_all;

pub(super) const RULES: &[Rule<Identities>] = rules!(Identities:
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

pub(super) fn peer_id(text: &str) -> PeerId {
    PeerId::parse(text).unwrap()
}

fn group(text: &str) -> GroupName {
    GroupName::parse(text).unwrap()
}

pub(super) fn grants(targets: &[&str]) -> Grants {
    targets
        .iter()
        .map(|text| GrantTarget::parse(text).unwrap())
        .collect()
}

pub(super) fn peer(id: &str) -> PeerRecord {
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
        ssh_keys: [
            ssh_key("SHA256:b", Some("ada@laptop")),
            ssh_key("SHA256:a", None),
        ]
        .into(),
        ssh_authorities: [authority("SHA256:ca", "ops"), authority("SHA256:ca", "ada")].into(),
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

fn ssh_key(fingerprint: &str, comment: Option<&str>) -> SshKey {
    SshKey {
        fingerprint: fingerprint.into(),
        public_key: comment.map(|_| "ssh-ed25519 AAAA".into()),
        comment: comment.map(Into::into),
    }
}

fn authority(fingerprint: &str, principal: &str) -> SshAuthority {
    SshAuthority {
        fingerprint: fingerprint.into(),
        principal: principal.into(),
        public_key: "ssh-ed25519 AAAA".into(),
        comment: Some("authority".into()),
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

fn redeem(invite: &str, peer: PeerRecord, now: i64) -> IdentityChange {
    IdentityChange::RedeemInvite {
        invite: invite.into(),
        peer,
        now: Timestamp(now),
    }
}

impl Identities {
    pub(super) async fn apply(&self, change: IdentityChange) -> Result<(), StoreError> {
        self.store.apply(change, row("test/change")).await
    }

    /// Applies what must succeed.
    pub(super) async fn done(&self, change: IdentityChange) {
        self.apply(change).await.unwrap();
    }

    /// Applies what must fail, and checks that it left nothing behind.
    pub(super) async fn refused(&self, change: IdentityChange) -> StoreError {
        let before = (self.load().await, self.rows().await);
        let error = self.apply(change).await.unwrap_err();
        assert_eq!(
            (self.load().await, self.rows().await),
            before,
            "a refused change left something"
        );
        error
    }

    pub(super) async fn load(&self) -> IdentitySnapshot {
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

    pub(super) async fn rows(&self) -> usize {
        self.audit
            .list(&AuditFilter::default())
            .await
            .unwrap()
            .len()
    }
}

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
        ssh_keys: [ssh_key("SHA256:a", Some("mine")), ssh_key("SHA256:z", None)].into(),
        ..keyed("other", 1)
    };
    let of_authority = PeerRecord {
        ssh_authorities: [authority("SHA256:ca", "ada")].into(),
        ..keyed("other", 1)
    };
    // The current key, the one of the rotation before, an SSH key, and a
    // principal of an authority.
    let rivals = [keyed("other", 200), keyed("other", 100), ssh, of_authority];
    for rival in rivals {
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
