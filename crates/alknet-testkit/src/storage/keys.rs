//! API keys.

use super::{
    Identities, Rule,
    identities::{grants, peer, peer_id},
    rules,
};
use alknet_core::{
    KeyId,
    storage::{
        API_KEYS_PER_PEER_MAX, ApiKeyRecord, IdentityChange, IdentitySnapshot, StoreError,
        Timestamp,
    },
};
use futures::future::join_all;

pub(super) const RULES: &[Rule<Identities>] = rules!(Identities:
    a_key_reads_back_as_it_was_added,
    keys_are_listed_by_id,
    a_key_and_the_peer_it_is_for_are_added_together,
    a_key_of_nobody_is_refused,
    a_name_is_given_to_one_of_a_peer_s_keys,
    an_id_is_given_once,
    a_revoked_key_is_gone,
    a_removed_peer_takes_its_keys_along,
    a_changed_peer_keeps_its_keys,
    a_peer_has_so_many_keys_and_not_one_more,
    the_last_use_is_noted_and_is_no_change,
    one_of_many_keys_gets_the_name,
);

fn key_id(text: &str) -> KeyId {
    KeyId::parse(text).unwrap()
}

/// A key named by the first letter of its id.
fn key(id: &str, peer: &str) -> ApiKeyRecord {
    ApiKeyRecord {
        id: key_id(id),
        peer: peer_id(peer),
        name: id.into(),
        secret_hash: [7; 32],
        grants: None,
        created_at: Timestamp(1_000),
        expires_at: None,
        last_used_at: None,
    }
}

/// With something in every field.
fn full(id: &str, peer: &str) -> ApiKeyRecord {
    ApiKeyRecord {
        name: "Ada’s \"robot\"".into(),
        grants: Some(grants(&[
            "reader",
            "bucket:www/**=read",
            "!net:10.0.0.0/8=*",
        ])),
        expires_at: Some(Timestamp(9_000)),
        last_used_at: Some(Timestamp(8_000)),
        ..key(id, peer)
    }
}

fn add(key: ApiKeyRecord) -> IdentityChange {
    IdentityChange::AddKey {
        key,
        newcomer: None,
    }
}

async fn with_peers(s: &Identities) {
    for id in ["ada", "bob"] {
        s.done(IdentityChange::AddPeer(peer(id))).await;
    }
}

async fn a_key_reads_back_as_it_was_added(s: Identities) {
    with_peers(&s).await;
    let nothing = ApiKeyRecord {
        grants: Some(grants(&[])),
        ..key("bbbbbbbb", "ada")
    };
    s.done(add(full("aaaaaaaa", "ada"))).await;
    s.done(add(nothing.clone())).await;
    s.done(add(key("cccccccc", "ada"))).await;
    let want = [full("aaaaaaaa", "ada"), nothing, key("cccccccc", "ada")];
    assert_eq!(s.load().await.keys, want);
}

async fn keys_are_listed_by_id(s: Identities) {
    with_peers(&s).await;
    for (id, peer) in [
        ("cccccccc", "ada"),
        ("22222222", "bob"),
        ("bbbbbbbb", "bob"),
    ] {
        s.done(add(key(id, peer))).await;
    }
    let ids: Vec<_> = s.load().await.keys.iter().map(|key| key.id).collect();
    assert_eq!(ids, ["22222222", "bbbbbbbb", "cccccccc"].map(key_id));
}

async fn a_key_and_the_peer_it_is_for_are_added_together(s: Identities) {
    let both = |id| IdentityChange::AddKey {
        key: key(id, "robot"),
        newcomer: Some(peer("robot")),
    };
    s.done(both("aaaaaaaa")).await;
    let all = s.load().await;
    assert_eq!((all.peers.len(), all.keys.len()), (1, 1));
    let error = s.refused(both("bbbbbbbb")).await;
    assert!(matches!(error, StoreError::PeerExists(id) if id.as_str() == "robot"));
    // The key is refused, and so is the newcomer.
    let error = s
        .refused(IdentityChange::AddKey {
            key: key("aaaaaaaa", "other"),
            newcomer: Some(peer("other")),
        })
        .await;
    assert!(matches!(error, StoreError::KeyExists { .. }), "{error}");
}

async fn a_key_of_nobody_is_refused(s: Identities) {
    let error = s.refused(add(key("aaaaaaaa", "nobody"))).await;
    assert!(matches!(error, StoreError::NoPeer(id) if id == "nobody"));
    let error = s
        .refused(IdentityChange::RemoveKey(key_id("aaaaaaaa")))
        .await;
    assert!(matches!(error, StoreError::NoKey(id) if id == key_id("aaaaaaaa")));
}

async fn a_name_is_given_to_one_of_a_peer_s_keys(s: Identities) {
    with_peers(&s).await;
    let named = |id, peer| ApiKeyRecord {
        name: "ci".into(),
        ..key(id, peer)
    };
    s.done(add(named("aaaaaaaa", "ada"))).await;
    let error = s.refused(add(named("bbbbbbbb", "ada"))).await;
    assert!(
        matches!(&error, StoreError::KeyExists { peer, name } if peer.as_str() == "ada" && name == "ci"),
        "{error}"
    );
    s.done(add(named("bbbbbbbb", "bob"))).await;
}

async fn an_id_is_given_once(s: Identities) {
    with_peers(&s).await;
    s.done(add(full("aaaaaaaa", "ada"))).await;
    let error = s.refused(add(key("aaaaaaaa", "bob"))).await;
    assert!(matches!(error, StoreError::KeyExists { .. }), "{error}");
}

async fn a_revoked_key_is_gone(s: Identities) {
    with_peers(&s).await;
    s.done(add(full("aaaaaaaa", "ada"))).await;
    s.done(add(key("bbbbbbbb", "ada"))).await;
    s.done(IdentityChange::RemoveKey(key_id("aaaaaaaa"))).await;
    assert_eq!(s.load().await.keys, [key("bbbbbbbb", "ada")]);
    s.refused(IdentityChange::RemoveKey(key_id("aaaaaaaa")))
        .await;
}

async fn a_removed_peer_takes_its_keys_along(s: Identities) {
    with_peers(&s).await;
    s.done(add(key("aaaaaaaa", "ada"))).await;
    s.done(add(key("bbbbbbbb", "bob"))).await;
    s.done(IdentityChange::RemovePeer(peer_id("ada"))).await;
    assert_eq!(s.load().await.keys, [key("bbbbbbbb", "bob")]);
    s.done(IdentityChange::RemovePeer(peer_id("bob"))).await;
    assert_eq!(s.load().await, IdentitySnapshot::default());
}

async fn a_changed_peer_keeps_its_keys(s: Identities) {
    with_peers(&s).await;
    s.done(add(full("aaaaaaaa", "ada"))).await;
    s.done(IdentityChange::UpdatePeer(peer("ada"))).await;
    assert_eq!(s.load().await.keys, [full("aaaaaaaa", "ada")]);
}

async fn a_peer_has_so_many_keys_and_not_one_more(s: Identities) {
    with_peers(&s).await;
    let digits = "abcdefghijklmnopqrstuvwxyz234567";
    let ids = digits
        .chars()
        .flat_map(|a| digits.chars().map(move |b| format!("{a}{b}aaaaaa")));
    let mut ids = ids.take(API_KEYS_PER_PEER_MAX + 1);
    for id in ids.by_ref().take(API_KEYS_PER_PEER_MAX) {
        s.done(add(key(&id, "ada"))).await;
    }
    let one_more = ids.next().unwrap();
    let error = s.refused(add(key(&one_more, "ada"))).await;
    assert!(matches!(error, StoreError::TooManyKeys(id) if id.as_str() == "ada"));
    // Of somebody else's it is the first.
    s.done(add(key(&one_more, "bob"))).await;
}

async fn the_last_use_is_noted_and_is_no_change(s: Identities) {
    with_peers(&s).await;
    s.done(add(key("aaaaaaaa", "ada"))).await;
    s.done(add(full("bbbbbbbb", "ada"))).await;
    let rows = s.rows().await;
    let uses = vec![
        (key_id("aaaaaaaa"), Timestamp(70_000)),
        (key_id("gggggggg"), Timestamp(70_000)),
    ];
    s.store.keys_used(uses).await.unwrap();
    let used = ApiKeyRecord {
        last_used_at: Some(Timestamp(70_000)),
        ..key("aaaaaaaa", "ada")
    };
    assert_eq!(s.load().await.keys, [used, full("bbbbbbbb", "ada")]);
    assert_eq!(s.rows().await, rows);
}

async fn one_of_many_keys_gets_the_name(s: Identities) {
    with_peers(&s).await;
    let adding = ["aaaaaaaa", "bbbbbbbb", "cccccccc", "dddddddd"].map(|id| {
        s.apply(add(ApiKeyRecord {
            name: "ci".into(),
            ..key(id, "ada")
        }))
    });
    let added = join_all(adding).await;
    assert_eq!(added.iter().filter(|added| added.is_ok()).count(), 1);
    assert_eq!(s.load().await.keys.len(), 1);
}
