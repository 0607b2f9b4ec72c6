//! The log of events, and that each change and its event are one.

use super::{Rule, row, rules};
use alknet_core::{
    AuditRow, Grants, PeerId,
    storage::{
        AuditFilter, AuditLog, EVENTS_PAGE_MAX, EventKind, EventLog, IdentityChange, IdentityStore,
        InviteRecord, NewEvent, NodeKey, PeerRecord, StoreError, Timestamp, UNCHANGED,
    },
};
use futures::future::join_all;
use serde_json::json;
use std::sync::Arc;

pub(super) const RULES: &[Rule<Arc<dyn EventLog>>] = rules!(Arc<dyn EventLog>:
    an_event_reads_back_as_written,
    a_new_log_begins_before_its_first_event,
    events_are_numbered_without_gaps_in_the_order_of_writing,
    pages_of_events_meet_without_gap_or_overlap,
    a_kind_is_a_prefix_and_the_page_says_how_far_it_looked,
    a_page_has_1000_events_at_most,
    the_oldest_go_when_they_are_too_old_or_too_many,
    pruning_goes_in_batches,
    numbers_go_on_after_everything_was_removed,
    readers_are_woken_after_the_commit,
    events_of_many_writers_stay_together,
);

/// An identity store, and the logs that its changes are written to.
#[derive(Clone)]
pub struct Outbox {
    /// The store.
    pub store: Arc<dyn IdentityStore>,
    /// Its events.
    pub events: Arc<dyn EventLog>,
    /// Its audit log.
    pub audit: Arc<dyn AuditLog>,
}

pub(super) const OUTBOX_RULES: &[Rule<Outbox>] = rules!(Outbox:
    each_change_has_its_event,
    a_change_that_is_refused_has_no_event,
    what_changes_nothing_has_no_event_and_says_so,
    an_invite_redeemed_again_tells_nothing_again,
);

fn event(at: i64, kind: &'static str) -> NewEvent {
    NewEvent::noticed(EventKind::named(kind), "laptop", Timestamp(at))
}

async fn append(log: &Arc<dyn EventLog>, events: Vec<NewEvent>) {
    log.append_events(events, Vec::new()).await.unwrap();
}

async fn numbers(log: &Arc<dyn EventLog>, after: u64) -> Vec<u64> {
    let page = log.read_events(after, "", EVENTS_PAGE_MAX).await.unwrap();
    page.events.iter().map(|event| event.number).collect()
}

async fn an_event_reads_back_as_written(log: Arc<dyn EventLog>) {
    let call = AuditRow {
        parent_id: Some("call".into()),
        ..row("peers/add")
    };
    let full = NewEvent::of(EventKind::PEER_ADDED, "lü\"ptop", &call)
        .with("enabled", true)
        .with("nothing", json!(null))
        .with("grants", json!(["reader", "bucket:www/**=read"]));
    let bare = event(-5, "link/up");
    append(&log, vec![full.clone(), bare.clone()]).await;
    let page = log.read_events(0, "", 10).await.unwrap();
    let read: Vec<_> = page.events.into_iter().map(|event| event.event).collect();
    assert_eq!(read, [full, bare]);
    assert_eq!(read[0].call_id.as_deref(), Some("call"));
    assert!(!read[0].details.contains_key("nothing"));
}

async fn a_new_log_begins_before_its_first_event(log: Arc<dyn EventLog>) {
    let span = log.read_events(0, "", 10).await.unwrap().span;
    assert_eq!((span.removed, span.newest), (0, 0));
    assert!(!span.epoch.is_empty() && span.epoch.bytes().all(|b| b.is_ascii_alphanumeric()));
    assert!(span.covers(&span.oldest_cursor()) && span.covers(&span.newest_cursor()));
    assert_eq!(*log.newest_event().borrow(), 0);
}

async fn events_are_numbered_without_gaps_in_the_order_of_writing(log: Arc<dyn EventLog>) {
    append(&log, vec![event(9, "a/a"), event(1, "a/b")]).await;
    append(&log, vec![event(5, "a/c")]).await;
    let page = log.read_events(0, "", 10).await.unwrap();
    let found: Vec<_> = page
        .events
        .iter()
        .map(|event| (event.number, event.event.kind.as_str().to_owned()))
        .collect();
    let want = [(1, "a/a"), (2, "a/b"), (3, "a/c")];
    assert_eq!(found, want.map(|(n, kind)| (n, kind.to_owned())));
    assert_eq!(
        (page.span.removed, page.span.newest, page.through),
        (0, 3, 3)
    );
}

async fn pages_of_events_meet_without_gap_or_overlap(log: Arc<dyn EventLog>) {
    append(&log, (0..25).map(|n| event(n, "a/b")).collect()).await;
    let (mut after, mut seen) = (0, Vec::new());
    loop {
        let page = log.read_events(after, "", 10).await.unwrap();
        if page.events.is_empty() {
            break;
        }
        seen.extend(page.events.iter().map(|event| event.number));
        after = page.through;
    }
    assert_eq!(seen, (1..=25).collect::<Vec<u64>>());
    assert!(numbers(&log, u64::MAX).await.is_empty());
    let beyond = log.read_events(100, "", 10).await.unwrap();
    assert_eq!((beyond.through, beyond.span.newest), (100, 25));
}

async fn a_kind_is_a_prefix_and_the_page_says_how_far_it_looked(log: Arc<dyn EventLog>) {
    let kinds = ["link/up", "linx/up", "link/down", "l_nk/up"];
    append(&log, kinds.map(|kind| event(1, kind)).into()).await;
    for (kind, want) in [
        ("", &[1, 2, 3, 4][..]),
        ("link/", &[1, 3]),
        ("link/up", &[1]),
        ("l_nk", &[4]),
        ("l%", &[]),
        ("LINK", &[]),
    ] {
        let page = log.read_events(0, kind, 10).await.unwrap();
        let found: Vec<u64> = page.events.iter().map(|event| event.number).collect();
        assert_eq!(found, want, "`{kind}`");
        assert_eq!(page.through, 4, "`{kind}`");
    }
    let first = log.read_events(0, "link/", 1).await.unwrap();
    assert_eq!((first.events.len(), first.through), (1, 1));
    assert_eq!(log.read_events(0, "", 0).await.unwrap().through, 0);
}

async fn a_page_has_1000_events_at_most(log: Arc<dyn EventLog>) {
    append(&log, (0..1_001).map(|_| event(1, "a/b")).collect()).await;
    for (limit, want) in [(1_000, 1_000), (1_001, 1_000), (u32::MAX, 1_000)] {
        let page = log.read_events(0, "", limit).await.unwrap();
        assert_eq!((page.events.len(), page.through), (want, 1_000));
    }
}

async fn the_oldest_go_when_they_are_too_old_or_too_many(log: Arc<dyn EventLog>) {
    append(&log, (1..=10).map(|n| event(n * 10, "a/b")).collect()).await;
    let cut = async |before, rows_max| {
        log.prune_events(Timestamp(before), rows_max, 100, row("a/b"))
            .await
            .unwrap()
    };
    // At the limit, and one past it.
    assert_eq!(cut(10, 10).await, 0);
    assert_eq!(cut(11, 10).await, 1);
    assert_eq!(numbers(&log, 0).await, (2..=10).collect::<Vec<u64>>());
    assert_eq!(cut(0, 9).await, 0);
    assert_eq!(cut(0, 8).await, 1);
    assert_eq!(cut(51, 8).await, 3);
    let page = log.read_events(0, "", 10).await.unwrap();
    assert_eq!((page.span.removed, page.span.newest), (5, 10));
    assert!(!page.span.covers(&page.span.cursor(4)));
    assert!(page.span.covers(&page.span.cursor(5)));
    // A clock that went back does not make a hole.
    append(&log, vec![event(1, "a/b")]).await;
    assert_eq!(cut(60, 100).await, 0);
    assert_eq!(numbers(&log, 0).await, (6..=11).collect::<Vec<u64>>());
}

async fn pruning_goes_in_batches(log: Arc<dyn EventLog>) {
    append(&log, (1..=10).map(|n| event(n, "a/b")).collect()).await;
    let cut = async || {
        log.prune_events(Timestamp(100), 100, 4, row("a/b"))
            .await
            .unwrap()
    };
    assert_eq!(
        [cut().await, cut().await, cut().await, cut().await],
        [4, 4, 2, 0]
    );
}

async fn numbers_go_on_after_everything_was_removed(log: Arc<dyn EventLog>) {
    append(&log, vec![event(1, "a/a"), event(1, "a/b")]).await;
    assert_eq!(
        log.prune_events(Timestamp(5), 0, 10, row("a/b"))
            .await
            .unwrap(),
        2
    );
    let empty = log.read_events(0, "", 10).await.unwrap();
    assert!(empty.events.is_empty());
    assert_eq!((empty.span.removed, empty.span.newest), (2, 2));
    append(&log, vec![event(9, "a/c")]).await;
    let page = log.read_events(2, "", 10).await.unwrap();
    assert_eq!(page.events[0].number, 3);
    assert_eq!((page.span.removed, page.span.newest), (2, 3));
}

async fn readers_are_woken_after_the_commit(log: Arc<dyn EventLog>) {
    let mut newest = log.newest_event();
    newest.mark_unchanged();
    append(&log, vec![event(1, "a/a"), event(1, "a/b")]).await;
    newest.changed().await.unwrap();
    assert_eq!(*newest.borrow_and_update(), 2);
    assert_eq!(numbers(&log, 0).await, [1, 2]);
    // Rows alone are no event.
    log.append_events(Vec::new(), vec![row("node/reload")])
        .await
        .unwrap();
    assert!(!newest.has_changed().unwrap());
}

async fn events_of_many_writers_stay_together(log: Arc<dyn EventLog>) {
    let writers = ["w/a", "w/b", "w/c", "w/d", "w/e", "w/f", "w/g", "w/h"];
    let writes = writers.map(|kind| append(&log, (0..5).map(|n| event(n, kind)).collect()));
    join_all(writes).await;
    let page = log.read_events(0, "", 1_000).await.unwrap();
    assert_eq!(page.events.len(), 40);
    for five in page.events.chunks(5) {
        let order: Vec<i64> = five.iter().map(|event| event.event.at.0).collect();
        assert!(
            five.iter()
                .all(|event| event.event.kind == five[0].event.kind)
        );
        assert_eq!(order, [0, 1, 2, 3, 4]);
    }
}

fn id(name: &str) -> PeerId {
    PeerId::parse(name).unwrap()
}

fn peer(name: &str, key: Option<u8>) -> PeerRecord {
    let mut peer = PeerRecord::new(id(name), Timestamp(1));
    peer.node_keys = key
        .map(|key| NodeKey {
            key: [key; 32],
            until: None,
        })
        .into_iter()
        .collect();
    peer
}

fn invite(name: &str) -> InviteRecord {
    InviteRecord {
        id: name.into(),
        secret_hash: *b"the hash of a secret, not itself",
        name: None,
        grants: Grants::default(),
        created_at: Timestamp(1),
        expires_at: Timestamp(1_000),
        access_for_ms: None,
        used_by: None,
        used_key: None,
        revoked: false,
    }
}

fn grants(text: &str) -> Grants {
    [alknet_core::GrantTarget::parse(text).unwrap()]
        .into_iter()
        .collect()
}

fn redeem(key: u8) -> IdentityChange {
    IdentityChange::RedeemInvite {
        invite: "i1".into(),
        peer: peer("phone", Some(key)),
        now: Timestamp(5),
    }
}

/// Kinds and subjects of everything in the log.
async fn told(outbox: &Outbox) -> Vec<(String, String)> {
    let page = outbox.events.read_events(0, "", 1_000).await.unwrap();
    let told = page.events.into_iter().map(|event| event.event);
    told.map(|event| (event.kind.as_str().to_owned(), event.about))
        .collect()
}

async fn each_change_has_its_event(outbox: Outbox) {
    use IdentityChange as C;
    let group = alknet_core::GroupName::parse("family").unwrap();
    let change_grants = |add, remove| C::ChangeGrants {
        peer: id("laptop"),
        add,
        remove,
    };
    let changes = [
        (
            C::AddPeer(peer("laptop", Some(1))),
            &[("peer/added", "laptop")][..],
        ),
        (
            C::UpdatePeer(PeerRecord {
                enabled: false,
                ..peer("laptop", Some(1))
            }),
            &[("peer/updated", "laptop")],
        ),
        (
            C::UpdatePeer(peer("laptop", Some(2))),
            &[("peer/rotated", "laptop")],
        ),
        (
            change_grants(grants("reader"), Grants::default()),
            &[("grants/changed", "laptop")],
        ),
        (
            change_grants(Grants::default(), grants("reader")),
            &[("grants/changed", "laptop")],
        ),
        (
            C::PutGroup {
                group: group.clone(),
                grants: grants("reader"),
            },
            &[("group/changed", "family")],
        ),
        (C::RemoveGroup(group), &[("group/removed", "family")]),
        (C::AddInvite(invite("i1")), &[("invite/created", "i1")]),
        (
            redeem(7),
            &[("invite/used", "i1"), ("peer/joined", "phone")],
        ),
        (C::AddInvite(invite("i2")), &[("invite/created", "i2")]),
        (C::RevokeInvite("i2".into()), &[("invite/revoked", "i2")]),
        (C::RemovePeer(id("laptop")), &[("peer/removed", "laptop")]),
    ];
    let mut want = Vec::new();
    for (change, events) in changes {
        let row = AuditRow {
            parent_id: Some(format!("c{}", want.len())),
            ..row("a/b")
        };
        outbox.store.apply(change, row.clone()).await.unwrap();
        want.extend(
            events
                .iter()
                .map(|(kind, about)| (kind.to_string(), about.to_string())),
        );
        assert_eq!(told(&outbox).await, want);
        let last = outbox
            .events
            .read_events(want.len() as u64 - 1, "", 1)
            .await
            .unwrap();
        let last = &last.events[0].event;
        assert_eq!(
            (&last.caller, &last.call_id, last.at),
            (&row.caller, &row.parent_id, row.at)
        );
    }
}

async fn a_change_that_is_refused_has_no_event(outbox: Outbox) {
    use IdentityChange as C;
    let add = C::AddPeer(peer("laptop", Some(1)));
    outbox.store.apply(add.clone(), row("a/b")).await.unwrap();
    outbox
        .store
        .apply(
            C::AddInvite(InviteRecord {
                expires_at: Timestamp(2),
                ..invite("i1")
            }),
            row("a/b"),
        )
        .await
        .unwrap();
    let refused = [
        add,
        C::AddPeer(peer("other", Some(1))),
        C::UpdatePeer(peer("nobody", None)),
        C::RemovePeer(id("nobody")),
        C::RevokeInvite("nothing".into()),
        C::ChangeGrants {
            peer: id("nobody"),
            add: grants("reader"),
            remove: Grants::default(),
        },
        redeem(7),
    ];
    for change in refused {
        assert!(
            outbox
                .store
                .apply(change.clone(), row("a/b"))
                .await
                .is_err(),
            "{change:?}"
        );
    }
    assert_eq!(told(&outbox).await.len(), 2);
    assert_eq!(
        outbox
            .audit
            .list(&AuditFilter::default())
            .await
            .unwrap()
            .len(),
        2
    );
}

async fn what_changes_nothing_has_no_event_and_says_so(outbox: Outbox) {
    use IdentityChange as C;
    let give = C::ChangeGrants {
        peer: id("laptop"),
        add: grants("reader"),
        remove: Grants::default(),
    };
    let revoke = C::RevokeInvite("i1".into());
    for change in [
        C::AddPeer(peer("laptop", None)),
        give.clone(),
        C::AddInvite(invite("i1")),
        revoke.clone(),
    ] {
        outbox.store.apply(change, row("a/b")).await.unwrap();
    }
    let before = told(&outbox).await;
    for change in [give, revoke] {
        outbox.store.apply(change, row("a/again")).await.unwrap();
        assert_eq!(told(&outbox).await, before);
        let rows = outbox
            .audit
            .list(&AuditFilter {
                limit: Some(1),
                ..AuditFilter::default()
            })
            .await
            .unwrap();
        assert_eq!(rows[0].1.operation, "a/again");
        assert_eq!(rows[0].1.detail.as_deref(), Some(UNCHANGED));
    }
}

async fn an_invite_redeemed_again_tells_nothing_again(outbox: Outbox) {
    outbox
        .store
        .apply(IdentityChange::AddInvite(invite("i1")), row("a/b"))
        .await
        .unwrap();
    outbox.store.apply(redeem(7), row("a/b")).await.unwrap();
    let before = told(&outbox).await;
    outbox.store.apply(redeem(7), row("a/b")).await.unwrap();
    let other = outbox.store.apply(redeem(8), row("a/b")).await;
    assert!(matches!(other, Err(StoreError::InviteUsed)));
    assert_eq!(told(&outbox).await, before);
}
