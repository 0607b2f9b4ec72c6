//! The order behind the door: who is told what first.

use crate::world::{World, echo, echo_channel, echo_stream, fails};
use alknet_core::{Call, Caller, ErrorCode, Operation, Violation};
use bytes::Bytes;
use serde_json::json;

fn operations() -> Vec<alknet_core::Registration> {
    let schema = || {
        alknet_core::Schema::from_value(json!({ "type": "object", "properties": { "file": { "type": "string" }, "n": { "type": "integer" } }, "additionalProperties": false })).unwrap()
    };
    vec![
        Operation::query("demo/thing", "Answers with its input.")
            .requires("fs:read")
            .resource("bucket", "read", "/file")
            .input_schema(schema())
            .input_bytes_max(1_000)
            .in_flight_max(1)
            .raw(echo()),
        Operation::query("demo/asks", "Takes a person's yes.")
            .authenticated()
            .approve()
            .input_schema(schema())
            .raw(echo()),
        Operation::subscription("demo/items", "Answers with one item.")
            .authenticated()
            .raw(echo_stream()),
        Operation::channel("demo/bytes", "Opens a channel.")
            .authenticated()
            .raw(echo_channel()),
    ]
}

async fn told(
    world: &World,
    caller: &Caller,
    operation: &str,
    text: impl Into<Bytes>,
) -> alknet_core::CallError {
    world
        .door
        .call(
            Call::new(operation, caller.clone())
                .unwrap()
                .input_json(text),
        )
        .await
        .unwrap_err()
}

#[tokio::test]
async fn whoever_may_not_call_learns_nothing_from_how_the_input_is_read() {
    let world = World::new(operations());
    let bob = world.caller("bob", &[]);
    let deep = "[".repeat(1_000_000);
    let long = format!("\"{}\"", "x".repeat(20_000_000));
    for garbage in [
        "",
        "{",
        "\0",
        r#"{"file":7}"#,
        r#"{"other":1}"#,
        &deep,
        &long,
    ] {
        let garbage = garbage.to_owned();
        assert_eq!(
            told(&world, &bob, "demo/thing", garbage.clone()).await.code,
            "FORBIDDEN"
        );
        assert_eq!(
            told(&world, &Caller::anonymous(), "demo/thing", garbage)
                .await
                .code,
            "UNAUTHENTICATED"
        );
    }
}

#[tokio::test]
async fn then_comes_size_then_form_then_the_resource_then_the_schema() {
    let world = World::new(operations());
    let bob = world.caller("bob", &["fs:read", "bucket:www/**=read"]);
    let long = |start: &str| format!("{start}{}", " ".repeat(1_000));
    let cases = [
        (long("{"), "TOO_LARGE"),
        (long(r#"{"file":"logs/a"}"#), "TOO_LARGE"),
        ("{".into(), "INVALID_INPUT"),
        ("[".repeat(65), "INVALID_INPUT"),
        (r#"{"file":"logs/a","bad":1}"#.into(), "FORBIDDEN"),
        (r#"{"bad":1}"#.into(), "FORBIDDEN"),
        (r#"{"file":"www/../logs/a"}"#.into(), "INVALID_INPUT"),
        (r#"{"file":"www/a","bad":1}"#.into(), "INVALID_INPUT"),
    ];
    for (text, code) in cases {
        assert_eq!(
            told(&world, &bob, "demo/thing", text.clone()).await.code,
            code,
            "{text:.60}"
        );
    }
}

#[tokio::test]
async fn violations_of_the_schema_come_with_pointers() {
    let world = World::new(operations());
    let bob = world.caller("bob", &["reader"]);
    let error = told(
        &world,
        &bob,
        "demo/thing",
        r#"{"file":"www/a","n":"hunter2"}"#,
    )
    .await;
    let violations: Vec<Violation> =
        serde_json::from_value(*error.details.clone().unwrap()).unwrap();
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].pointer, "/n");
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    let error = told(&world, &bob, "demo/thing", "not json").await;
    let violations: Vec<Violation> = serde_json::from_value(*error.details.unwrap()).unwrap();
    assert!(violations[0].pointer.is_empty() && violations[0].message.starts_with("not JSON"));
}

#[tokio::test]
async fn an_operation_is_called_as_the_kind_it_is() {
    let world = World::new(operations());
    let bob = world.caller("bob", &["reader"]);
    let call = |operation: &str| {
        Call::new(operation, bob.clone())
            .unwrap()
            .input(&json!({ "file": "www/a" }))
    };
    for operation in ["demo/items", "demo/bytes"] {
        let error = fails(
            world.door.call(call(operation)).await,
            ErrorCode::InvalidOperationType,
        );
        let kind = if operation == "demo/items" {
            "subscription"
        } else {
            "channel"
        };
        assert_eq!(error.details.unwrap()["kind"], kind);
    }
    for operation in ["demo/thing", "demo/bytes"] {
        fails(
            world.door.subscribe(call(operation)).await,
            ErrorCode::InvalidOperationType,
        );
    }
    for operation in ["demo/thing", "demo/items"] {
        fails(
            world.door.open(call(operation)).await,
            ErrorCode::InvalidOperationType,
        );
    }
    // Even that is not told to whoever may not call it.
    let eve = world.caller("eve", &[]);
    let call = Call::new("demo/thing", eve).unwrap();
    fails(world.door.subscribe(call).await, ErrorCode::Forbidden);
}

#[tokio::test]
async fn a_person_is_asked_last_and_a_permit_is_no_way_around() {
    let world = World::new(operations());
    let bob = world.caller("bob", &[]);
    fails(
        world.call(&bob, "demo/asks", json!({ "bad": 1 })).await,
        ErrorCode::InvalidInput,
    );
    let call = Call::new("demo/asks", bob.clone()).unwrap();
    let id = call.id;
    let error = fails(world.door.call(call).await, ErrorCode::ApprovalRequired);
    assert_eq!(error.details.unwrap()["request_id"], id.to_string());
    fails(
        world.door.authorize(&bob, "demo/asks"),
        ErrorCode::ApprovalRequired,
    );
}

#[tokio::test]
async fn an_empty_input_is_an_empty_object() {
    let world = World::new(vec![
        Operation::query("demo/thing", "Answers with its input.").raw(echo()),
    ]);
    let root = Caller::host();
    let reply = world
        .door
        .call(
            Call::new("demo/thing", root.clone())
                .unwrap()
                .input_json(""),
        )
        .await
        .unwrap();
    assert_eq!(reply.bytes(), "{}");
    let null = world
        .door
        .call(Call::new("demo/thing", root).unwrap().input_json("null"))
        .await
        .unwrap();
    assert_eq!(null.bytes(), "null");
}
