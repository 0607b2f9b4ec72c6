//! Outcomes of keyed calls.

use super::{Rule, rules};
use alknet_core::storage::{Begin, IdempotencyScope, IdempotencyStore, Timestamp};
use futures::future::join_all;
use std::sync::Arc;

pub(super) const RULES: &[Rule<Arc<dyn IdempotencyStore>>] = rules!(Arc<dyn IdempotencyStore>:
    a_call_is_fresh_once_and_then_running,
    an_ended_call_has_its_outcome_in_every_run,
    a_start_of_another_run_without_outcome_is_unknown,
    another_input_is_told_before_anything_else,
    every_part_of_a_scope_counts,
    an_abandoned_start_is_fresh_again,
    ending_or_abandoning_what_never_began_does_nothing,
    pruning_forgets_what_began_before,
    one_of_many_beginners_is_fresh,
    the_scopes_of_a_caller_are_counted,
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

async fn the_scopes_of_a_caller_are_counted(calls: Arc<dyn IdempotencyStore>) {
    assert_eq!(calls.count("ada").await.unwrap(), 0);
    for key in ["a", "b", "c", "b"] {
        begin(&calls, &scope(key), 1, 1).await;
    }
    let bobs = IdempotencyScope {
        caller: "bob".into(),
        ..scope("a")
    };
    begin(&calls, &bobs, 1, 1).await;
    calls.finish(&scope("a"), b"1".to_vec()).await.unwrap();
    calls.abandon(&scope("c")).await.unwrap();
    assert_eq!(calls.count("ada").await.unwrap(), 2);
    assert_eq!(calls.count("bob").await.unwrap(), 1);
    assert_eq!(calls.count("ad").await.unwrap(), 0);
}
