//! The audit log.

use super::{Rule, row, rules};
use alknet_core::{
    AuditOutcome, AuditRow, Surface,
    storage::{AuditFilter, AuditLog, AuditSpan, Timestamp},
};
use futures::future::join_all;
use std::sync::Arc;

pub(super) const RULES: &[Rule<Arc<dyn AuditLog>>] = rules!(Arc<dyn AuditLog>:
    an_audit_row_reads_back_as_written,
    rows_are_numbered_as_written_and_listed_backwards,
    filters_select_what_they_say,
    conditions_are_all_required,
    pages_meet_without_gap_or_overlap,
    a_list_has_100_rows_unless_told_and_never_over_1000,
    batches_of_many_writers_stay_whole,
    filters_of_where_a_call_came_from_and_went,
    the_log_can_be_read_forwards,
    the_oldest_rows_go_when_they_are_too_old_or_too_many,
    rows_are_numbered_on_after_all_were_removed,
    followers_are_woken_after_the_commit,
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
        key: Some("abcdefgh".into()),
        transport: Some("owner".into()),
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

/// Rows with one number each, and what is asked of them.
async fn filters_of_where_a_call_came_from_and_went(log: Arc<dyn AuditLog>) {
    let row = |n: u64| AuditRow {
        duration_us: n,
        ..row("a/b")
    };
    log.append(vec![
        AuditRow {
            originator: text("home/ada"),
            surface: Surface::CALL,
            ..row(1_999)
        },
        AuditRow {
            originator: text("home"),
            route: text("nas"),
            resource: text("bucket:www=read"),
            ..row(2_000)
        },
        AuditRow {
            route: text("hub/nas"),
            resource: text("bucket:web=read"),
            key: text("abcdefgh"),
            ..row(2_001)
        },
        AuditRow {
            route: text("hub/nas-2"),
            transport: text("owner"),
            ..row(u64::MAX)
        },
    ])
    .await
    .unwrap();
    let none = AuditFilter::default;
    let started = |who: &str| AuditFilter {
        originator: text(who),
        ..none()
    };
    let passed = |peer: &str| AuditFilter {
        route: text(peer),
        ..none()
    };
    let about = |resource: &str| AuditFilter {
        resource: text(resource),
        ..none()
    };
    let took = |ms| AuditFilter {
        took_ms_min: Some(ms),
        ..none()
    };
    let cases: &[(AuditFilter, &[u64])] = &[
        (started("home/ada"), &[1_999]),
        (started("home*"), &[2_000, 1_999]),
        (started("home/*"), &[1_999]),
        (started("ada"), &[]),
        (passed("nas"), &[2_001, 2_000]),
        (passed("hub"), &[u64::MAX, 2_001]),
        (passed("hub/nas"), &[]),
        (passed(""), &[]),
        (about("bucket:www=read"), &[2_000]),
        (about("bucket:w*"), &[2_001, 2_000]),
        (
            AuditFilter {
                surface: text("call"),
                ..none()
            },
            &[1_999],
        ),
        (
            AuditFilter {
                key: text("abcdefgh"),
                ..none()
            },
            &[2_001],
        ),
        (
            AuditFilter {
                transport: text("owner"),
                ..none()
            },
            &[u64::MAX],
        ),
        (took(2), &[u64::MAX, 2_001, 2_000]),
        (took(3), &[u64::MAX]),
        (took(u64::MAX), &[u64::MAX]),
    ];
    for (filter, want) in cases {
        let rows = log.list(filter).await.unwrap();
        let found: Vec<u64> = rows.iter().map(|(_, row)| row.duration_us).collect();
        assert_eq!(found, *want, "{filter:?}");
    }
}

async fn the_log_can_be_read_forwards(log: Arc<dyn AuditLog>) {
    log.append((0..25).map(|n| row(&format!("a/b{n}"))).collect())
        .await
        .unwrap();
    let mut filter = AuditFilter {
        limit: Some(10),
        oldest_first: true,
        ..AuditFilter::default()
    };
    let mut read = Vec::new();
    loop {
        let page = log.list(&filter).await.unwrap();
        let Some((newest, _)) = page.last() else {
            break;
        };
        filter.after = Some(*newest);
        read.extend(page);
    }
    let mut backwards = log.list(&AuditFilter::default()).await.unwrap();
    backwards.reverse();
    assert_eq!(read, backwards);
}

async fn the_oldest_rows_go_when_they_are_too_old_or_too_many(log: Arc<dyn AuditLog>) {
    let rows = (1..=10).map(|n| AuditRow {
        at: Timestamp(n * 10),
        ..row("a/b")
    });
    log.append(rows.collect()).await.unwrap();
    let pruned = AuditRow {
        at: Timestamp(1_000_000),
        ..row("audit/prune")
    };
    let cut = async |before, rows_max, batch| {
        let gone = log.prune_rows(Timestamp(before), rows_max, batch, pruned.clone());
        gone.await.unwrap()
    };
    let newest = async || {
        let one = AuditFilter {
            limit: Some(1),
            ..AuditFilter::default()
        };
        log.list(&one).await.unwrap().remove(0).1
    };
    // At the limit, and one past it.
    assert_eq!(cut(10, 10, 100).await, 0);
    assert_eq!(newest().await.operation, "a/b");
    assert_eq!(cut(11, 10, 100).await, 1);
    // What was removed is on record, as a row of its own.
    let row = newest().await;
    assert_eq!(row.operation, "audit/prune");
    assert_eq!(row.detail.as_deref(), Some("removed 1, up to number 1"));
    let span = log.span().await.unwrap();
    assert_eq!((span.removed, span.newest), (1, 11));
    assert_eq!(cut(0, 10, 100).await, 0);
    // The row that tells of it counts too.
    assert_eq!(cut(0, 9, 100).await, 2);
    let span = log.span().await.unwrap();
    assert_eq!((span.removed, span.newest), (3, 12));
    // In batches.
    assert_eq!(cut(101, 100, 5).await, 5);
    assert_eq!(cut(101, 100, 5).await, 2);
    assert_eq!(cut(101, 100, 5).await, 0);
    let left = listed(&log, AuditFilter::default()).await;
    assert_eq!(left, ["audit/prune"; 4]);
}

async fn rows_are_numbered_on_after_all_were_removed(log: Arc<dyn AuditLog>) {
    assert_eq!(log.span().await.unwrap(), AuditSpan::default());
    log.append(vec![row("a/a"), row("a/b")]).await.unwrap();
    let gone = log.prune_rows(Timestamp(i64::MAX), 0, 10, row("a/c")).await;
    assert_eq!(gone.unwrap(), 2);
    let rows = log.list(&AuditFilter::default()).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].0, rows[0].1.operation.as_str()), (3, "a/c"));
}

async fn followers_are_woken_after_the_commit(log: Arc<dyn AuditLog>) {
    let mut written = log.written();
    assert_eq!(*written.borrow_and_update(), 0);
    log.append(vec![row("a/a"), row("a/b")]).await.unwrap();
    written.changed().await.unwrap();
    assert_eq!(*written.borrow_and_update(), 2);
    assert_eq!(log.span().await.unwrap().newest, 2);
}
