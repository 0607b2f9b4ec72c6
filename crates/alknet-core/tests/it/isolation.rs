//! What goes wrong in a handler stays there, and its cause in the log.

use crate::world::{World, echo, fails};
use alknet_core::{
    Access, Call, CallError, Caller, ErrorCode, ErrorSpec, Handler, Hints, Kind, Operation,
    OperationBuilder, OperationLimits, OperationSpec, Output, Registration, Schema, Visibility,
};
use futures::StreamExt;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

const SECRET: &str = "hunter2";

fn unary(
    builder: OperationBuilder,
    run: impl Fn() -> Result<Value, CallError> + Send + Sync + 'static,
) -> Registration {
    builder.raw(Handler::Unary(Arc::new(move |_, _| {
        let outcome = run();
        Box::pin(async move { outcome.map(Output::Value) })
    })))
}

fn query(name: &str) -> OperationBuilder {
    Operation::query(name, "May fail.")
}

/// `INTERNAL` with the id of the call and nothing else.
#[track_caller]
fn hides(error: &CallError, call: alknet_core::CallId) {
    crate::world::is(error, ErrorCode::Internal);
    assert_eq!(error.message, format!("internal error in call {call}"));
    assert_eq!(
        error.details.as_deref(),
        Some(&json!({ "call_id": call.to_string() }))
    );
    assert!(!format!("{error:?}").contains(SECRET), "{error:?}");
}

async fn hidden(world: &World, operation: &str) {
    let call = Call::new(operation, Caller::host()).unwrap();
    let id = call.id;
    hides(&world.door.call(call).await.unwrap_err(), id);
}

#[tokio::test]
async fn a_panic_is_the_end_of_one_call() {
    let world = World::new(vec![
        unary(query("demo/panics"), || panic!("{SECRET}")),
        query("demo/later").raw(Handler::Unary(Arc::new(|_, _| {
            Box::pin(async {
                tokio::task::yield_now().await;
                panic!("{SECRET}")
            })
        }))),
        query("demo/fine").raw(echo()),
    ]);
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..1_000 {
        let door = world.door.clone();
        calls.spawn(async move {
            let call = Call::new("demo/fine", Caller::host()).unwrap().input(&n);
            door.call(call)
                .await
                .map(|reply| reply.parse::<u32>().unwrap() == n)
        });
    }
    hidden(&world, "demo/panics").await;
    hidden(&world, "demo/later").await;
    while let Some(ended) = calls.join_next().await {
        assert!(ended.unwrap().unwrap());
    }
    assert_eq!((world.door.panics(), world.door.in_flight()), (2, 0));
}

#[tokio::test]
async fn a_panic_ends_a_stream_after_the_items_before_it() {
    let items = Operation::subscription("demo/items", "Panics at the third.").raw(Handler::Stream(
        Arc::new(|_, _| {
            Box::pin(async {
                let items = futures::stream::iter(1..).map(|n| {
                    assert!(n < 3, "{SECRET}");
                    Ok(Output::Value(json!(n)))
                });
                Ok(items.boxed())
            })
        }),
    ));
    let start = Operation::subscription("demo/start", "Panics at once.")
        .raw(Handler::Stream(Arc::new(|_, _| panic!("{SECRET}"))));
    let world = World::new(vec![items, start]);
    let call = Call::new("demo/items", Caller::host()).unwrap();
    let id = call.id;
    let mut items = world.door.subscribe(call).await.unwrap();
    for n in 1..3 {
        assert_eq!(
            items.next().await.unwrap().unwrap().into_value().unwrap(),
            n
        );
    }
    hides(&items.next().await.unwrap().unwrap_err(), id);
    assert!(items.next().await.is_none());
    let call = Call::new("demo/start", Caller::host()).unwrap();
    let id = call.id;
    hides(&world.door.subscribe(call).await.unwrap_err(), id);
    assert_eq!((world.door.panics(), world.door.in_flight()), (2, 0));
}

#[tokio::test]
async fn a_panic_ends_a_channel_before_and_after_it_opened() {
    let early = Operation::channel("demo/early", "Panics at once.")
        .raw(Handler::Channel(Arc::new(|_, _, _| panic!("{SECRET}"))));
    let late = Operation::channel("demo/late", "Panics when open.").raw(Handler::Channel(
        Arc::new(|_, _, opening| {
            Box::pin(async move {
                let mut end = opening.accept(&())?;
                let _ = end.rx.recv().await;
                panic!("{SECRET}")
            })
        }),
    ));
    let world = World::new(vec![early, late]);
    let call = Call::new("demo/early", Caller::host()).unwrap();
    let id = call.id;
    hides(&world.door.open(call).await.unwrap_err(), id);
    let call = Call::new("demo/late", Caller::host()).unwrap();
    let id = call.id;
    let mut channel = world.door.open(call).await.unwrap();
    channel.channel.tx.end();
    hides(&channel.done.await.unwrap_err(), id);
    assert_eq!((world.door.panics(), world.door.in_flight()), (2, 0));
}

#[tokio::test]
async fn a_panic_of_a_detached_task_is_counted_and_no_more() {
    let starts = Operation::mutation("demo/starts", "Starts a task.").raw(Handler::Unary(
        Arc::new(|cx, _| {
            Box::pin(async move {
                cx.detached(async { panic!("{SECRET}") })?;
                Ok(Output::Value(json!("started")))
            })
        }),
    ));
    let world = World::new(vec![starts]);
    assert_eq!(
        world
            .call(&Caller::host(), "demo/starts", json!({}))
            .await
            .unwrap(),
        "started"
    );
    world.door.begin_drain();
    assert!(world.door.drained(Duration::from_secs(5)).await);
    assert_eq!(world.door.panics(), 1);
}

#[tokio::test]
async fn an_output_that_breaks_its_schema_is_internal() {
    let number = || Schema::from_value(json!({ "type": "integer" })).unwrap();
    let stream = Operation::subscription("demo/items", "Breaks its schema.")
        .output_schema(number())
        .raw(crate::world::echo_stream());
    let channel = Operation::channel("demo/bytes", "Breaks its schema.")
        .output_schema(number())
        .raw(crate::world::echo_channel());
    let text = query("demo/text")
        .output_schema(number())
        .raw(Handler::Unary(Arc::new(|_, _| {
            Box::pin(async { Ok(Output::Json(format!("not json {SECRET}").into())) })
        })));
    let world = World::new(vec![
        unary(query("demo/thing").output_schema(number()), || {
            Ok(json!(SECRET))
        }),
        stream,
        channel,
        text,
    ]);
    hidden(&world, "demo/thing").await;
    hidden(&world, "demo/text").await;
    let call = |operation: &str| Call::new(operation, Caller::host()).unwrap().input(&SECRET);
    let items = call("demo/items");
    let id = items.id;
    hides(
        &world
            .door
            .subscribe(items)
            .await
            .unwrap()
            .next()
            .await
            .unwrap()
            .unwrap_err(),
        id,
    );
    let opening = call("demo/bytes");
    let id = opening.id;
    hides(&world.door.open(opening).await.unwrap_err(), id);
    assert_eq!(world.door.in_flight(), 0);
}

#[tokio::test]
async fn a_declared_domain_error_passes_with_its_details() {
    let full = || {
        CallError::domain("DISK_FULL", "no room")
            .with_details(json!({ "free": 3 }))
            .with_retryable(true)
    };
    let declares = query("demo/declares").error(ErrorSpec::new("DISK_FULL", "There is no room."));
    let world = World::new(vec![
        unary(declares, move || Err(full())),
        unary(query("demo/silent"), || {
            Err(CallError::domain("DISK_FULL", SECRET))
        }),
    ]);
    assert_eq!(
        world
            .call(&Caller::host(), "demo/declares", json!({}))
            .await
            .unwrap_err(),
        full()
    );
    hidden(&world, "demo/silent").await;
}

#[tokio::test]
async fn protocol_errors_pass_but_for_internal_ones() {
    for code in ErrorCode::ALL
        .iter()
        .filter(|code| **code != ErrorCode::Internal)
    {
        let world = World::new(vec![unary(query("demo/fails"), || {
            Err(CallError::new(*code, "because"))
        })]);
        assert_eq!(
            world
                .call(&Caller::host(), "demo/fails", json!({}))
                .await
                .unwrap_err(),
            CallError::new(*code, "because")
        );
    }
    let internal = |details: Option<Value>| {
        move || {
            let error = CallError::new(ErrorCode::Internal, SECRET);
            Err(match &details {
                Some(details) => error.with_details(details.clone()),
                None => error,
            })
        }
    };
    let world = World::new(vec![
        unary(query("demo/plain"), internal(None)),
        unary(
            query("demo/detailed"),
            internal(Some(json!({ "sql": SECRET }))),
        ),
        unary(
            query("demo/posing"),
            internal(Some(json!({ "call_id": SECRET }))),
        ),
        unary(query("demo/unknown"), || {
            Err(CallError {
                code: "FROM_THE_FUTURE".into(),
                ..CallError::new(ErrorCode::Internal, SECRET)
            })
        }),
    ]);
    for operation in ["demo/plain", "demo/detailed", "demo/posing", "demo/unknown"] {
        hidden(&world, operation).await;
    }
}

#[tokio::test]
async fn an_import_that_breaks_its_own_schema_is_passed_on() {
    // What a foreign document says of its service is not ours to enforce.
    let spec = OperationSpec {
        name: crate::world::name("pets/find"),
        kind: Kind::Query,
        visibility: Visibility::External,
        summary: "Finds a pet.".into(),
        description: None,
        input: Schema::from_value(json!({ "type": "object" })).unwrap(),
        output: Schema::from_value(json!({ "type": "integer" })).unwrap(),
        errors: vec![],
        access: Access::Authenticated,
        approve: false,
        hints: Hints::of(Kind::Query),
        resume: None,
        secret_output: false,
        examples: vec![],
        limits: OperationLimits::default(),
        deprecated: None,
    };
    let world = World::new(vec![Registration::imported(spec, echo(), None)]);
    assert_eq!(
        world
            .call(&Caller::host(), "pets/find", json!({ "id": 1 }))
            .await
            .unwrap(),
        json!({ "id": 1 })
    );
    fails(
        world.call(&Caller::host(), "pets/find", json!(1)).await,
        ErrorCode::InvalidInput,
    );
}
