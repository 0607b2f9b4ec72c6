//! One budget for a whole tree of calls, on a paused clock.

use crate::world::{World, fails};
use alknet_core::{
    Call, Caller, Context, ErrorCode, Handler, Operation, OperationBuilder, Output, Registration,
};
use futures::StreamExt;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

/// Takes this long.
fn takes(builder: OperationBuilder, time: Duration) -> Registration {
    builder.raw(Handler::Unary(Arc::new(move |_, _| {
        Box::pin(async move {
            sleep(time).await;
            Ok(Output::Value(Value::Null))
        })
    })))
}

/// Answers with the milliseconds it has left.
fn tells(builder: OperationBuilder) -> Registration {
    let left = |cx: &Context| cx.remaining().map(|left| left.as_millis() as u64);
    builder.raw(Handler::Unary(Arc::new(move |cx, _| {
        Box::pin(async move { Ok(Output::Value(json!(left(&cx)))) })
    })))
}

fn query(name: &str) -> OperationBuilder {
    Operation::query(name, "Takes its time.")
}

async fn left(world: &World, operation: &str, budget: Option<Duration>) -> Value {
    let call = Call::new(operation, Caller::host()).unwrap();
    let call = match budget {
        Some(budget) => call.deadline(Instant::now() + budget),
        None => call,
    };
    world
        .door
        .call(call)
        .await
        .unwrap()
        .into_output()
        .into_value()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_call_has_30_seconds_and_at_most_10_minutes() {
    let world = World::new(vec![
        tells(query("demo/tells")),
        takes(query("demo/long"), 29 * SECOND),
        takes(query("demo/longer"), 31 * SECOND),
    ]);
    assert_eq!(left(&world, "demo/tells", None).await, 30_000);
    assert_eq!(left(&world, "demo/tells", Some(SECOND)).await, 1_000);
    assert_eq!(
        left(&world, "demo/tells", Some(600 * SECOND)).await,
        600_000
    );
    assert_eq!(
        left(&world, "demo/tells", Some(601 * SECOND)).await,
        600_000
    );
    world
        .call(&Caller::host(), "demo/long", json!({}))
        .await
        .unwrap();
    let begun = Instant::now();
    fails(
        world.call(&Caller::host(), "demo/longer", json!({})).await,
        ErrorCode::Timeout,
    );
    assert_eq!(begun.elapsed(), 30 * SECOND);
    left(&world, "demo/longer", Some(40 * SECOND)).await;
}

#[tokio::test(start_paused = true)]
async fn an_operations_own_time_is_default_and_most() {
    let world = World::new(vec![
        tells(query("demo/short").timeout(2 * SECOND)),
        tells(query("demo/long").timeout(60 * SECOND)),
        tells(query("demo/endless").timeout(86_400 * SECOND)),
        takes(query("demo/late").timeout(2 * SECOND), 3 * SECOND),
    ]);
    assert_eq!(left(&world, "demo/short", None).await, 2_000);
    assert_eq!(left(&world, "demo/short", Some(10 * SECOND)).await, 2_000);
    assert_eq!(left(&world, "demo/short", Some(SECOND)).await, 1_000);
    assert_eq!(left(&world, "demo/long", None).await, 60_000);
    assert_eq!(left(&world, "demo/endless", None).await, 600_000);
    let begun = Instant::now();
    fails(
        world.call(&Caller::host(), "demo/late", json!({})).await,
        ErrorCode::Timeout,
    );
    assert_eq!(begun.elapsed(), 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_is_spent_runs_nothing() {
    let world = World::new(vec![takes(query("demo/quick"), Duration::ZERO)]);
    let call = Call::new("demo/quick", Caller::host())
        .unwrap()
        .deadline(Instant::now());
    fails(world.door.call(call).await, ErrorCode::Timeout);
}

#[tokio::test(start_paused = true)]
async fn nested_calls_inherit_what_is_left() {
    let composes = |name: &str, reaches: &'static str| {
        query(name)
            .authority("composes", &["*"], &[])
            .reaches(reaches)
            .raw(Handler::Unary(Arc::new(move |cx, _| {
                Box::pin(async move {
                    sleep(4 * SECOND).await;
                    cx.env()
                        .call_output(reaches, alknet_core::Input::default())
                        .await
                })
            })))
    };
    let world = World::new(vec![
        tells(query("demo/tells").internal()),
        tells(query("demo/short").internal().timeout(SECOND)),
        takes(query("demo/slow").internal(), 60 * SECOND),
        composes("demo/top", "demo/middle"),
        composes("demo/middle", "demo/tells"),
        composes("demo/narrow", "demo/short"),
        composes("demo/stuck", "demo/slow"),
    ]);
    assert_eq!(left(&world, "demo/top", None).await, 22_000);
    assert_eq!(left(&world, "demo/top", Some(10 * SECOND)).await, 2_000);
    assert_eq!(left(&world, "demo/top", Some(100 * SECOND)).await, 92_000);
    assert_eq!(left(&world, "demo/narrow", None).await, 1_000);
    let begun = Instant::now();
    let call = Call::new("demo/stuck", Caller::host())
        .unwrap()
        .deadline(begun + 9 * SECOND);
    fails(world.door.call(call).await, ErrorCode::Timeout);
    assert_eq!(begun.elapsed(), 9 * SECOND);
    assert_eq!(world.door.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn subscriptions_and_channels_have_the_time_they_are_given() {
    let ticks = |builder: OperationBuilder| {
        builder.raw(Handler::Stream(Arc::new(|_, _| {
            Box::pin(async {
                let ticks = futures::stream::unfold((), |()| async {
                    sleep(100 * SECOND).await;
                    Some((Ok(Output::Value(json!("tick"))), ()))
                });
                Ok(ticks.boxed())
            })
        })))
    };
    let held = Operation::channel("demo/held", "Stays open.").raw(Handler::Channel(Arc::new(
        |_, _, opening| {
            Box::pin(async move {
                let _end = opening.accept(&())?;
                sleep(1_000 * SECOND).await;
                Ok(Output::Value(json!("over")))
            })
        },
    )));
    let world = World::new(vec![
        ticks(Operation::subscription("demo/ticks", "Ticks.")),
        ticks(Operation::subscription("demo/brief", "Ticks.").timeout(150 * SECOND)),
        held,
    ]);
    let call = |operation: &str| Call::new(operation, Caller::host()).unwrap();
    let mut endless = world.door.subscribe(call("demo/ticks")).await.unwrap();
    for _ in 0..20 {
        endless.next().await.unwrap().unwrap();
    }
    let mut brief = world.door.subscribe(call("demo/brief")).await.unwrap();
    brief.next().await.unwrap().unwrap();
    fails(brief.next().await.unwrap(), ErrorCode::Timeout);
    assert!(brief.next().await.is_none());
    let until = Instant::now() + 250 * SECOND;
    let mut given = world
        .door
        .subscribe(call("demo/ticks").deadline(until))
        .await
        .unwrap();
    given.next().await.unwrap().unwrap();
    given.next().await.unwrap().unwrap();
    fails(given.next().await.unwrap(), ErrorCode::Timeout);
    assert_eq!(
        world
            .door
            .open(call("demo/held"))
            .await
            .unwrap()
            .done
            .await
            .unwrap()
            .into_value()
            .unwrap(),
        "over"
    );
    let until = Instant::now() + 10 * SECOND;
    let cut = world
        .door
        .open(call("demo/held").deadline(until))
        .await
        .unwrap();
    fails(cut.done.await, ErrorCode::Timeout);
}
