//! What the door makes of text: a schema judges it, whichever way is taken.

use super::{MIB, Target, models};
use crate::note;
use alknet_core::{
    Call, Caller, Change, Dispatcher, ErrorCode, Handler, Operation, OperationName, Output,
    Registry, Schema,
};
use bytes::Bytes;
use serde_json::{Value, json};
use std::{cell::RefCell, sync::Arc};
use tokio::runtime::Runtime;

pub(super) const JUDGING: Target = Target {
    name: "judging",
    about: "Text goes through the door exactly if the schema accepts the value that it stands for.",
    run: judging,
    seeds,
    tokens: &[
        b"\"a\":",
        b"1",
        b"1.0",
        b"-0",
        b"1e3",
        b"9007199254740993",
        b"null",
        b"true",
        b"\"x\"",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b"\"type\":",
        b"\"integer\"",
        b"\"minimum\":",
        b"\"maxLength\":",
        b"\"required\":[\"a\"]",
        b"\"enum\":[",
        b"\"const\":",
        b"\"$ref\":\"#/$defs/t\"",
        b"\"additionalProperties\":false",
        b"\\u0061",
        b"\n",
        b"\"\"",
    ],
    bytes_max: 500,
    held_max: 16 * MIB,
};

const NAME: &str = "demo/judged";

struct World {
    runtime: Runtime,
    registry: Registry,
    door: Dispatcher,
    /// The schema in force, as text and as itself.
    schema: RefCell<(String, Option<Schema>)>,
}

thread_local! {
    static WORLD: World = World::new();
}

impl World {
    fn new() -> Self {
        let registry = Registry::new();
        registry
            .register(vec![operation(Schema::any())])
            .expect("a valid operation");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        Self {
            runtime: runtime.expect("a runtime without I/O needs nothing"),
            door: Dispatcher::builder(registry.clone()).build(),
            registry,
            schema: RefCell::new((String::new(), None)),
        }
    }

    /// Registers the operation with this schema, if it is one.
    fn take(&self, text: &str) {
        let mut held = self.schema.borrow_mut();
        if held.0 == text {
            return;
        }
        let value = serde_json::from_str::<Value>(text).ok();
        let schema = value.and_then(|value| Schema::from_value(value).ok());
        let schema = schema.filter(|schema| {
            let replace = Change::ReplaceLocal {
                remove: vec![OperationName::parse(NAME).expect("a literal")],
                add: vec![operation(schema.clone())],
            };
            self.registry.apply(replace).is_ok()
        });
        *held = (text.to_owned(), schema);
    }
}

fn operation(schema: Schema) -> alknet_core::Registration {
    Operation::query(NAME, "Answers with its input.")
        .input_schema(schema)
        .raw(echo())
}

fn echo() -> Handler {
    Handler::Unary(Arc::new(|_cx, input| {
        Box::pin(async move { Ok(Output::Value(input.into_value()?)) })
    }))
}

/// The schema on the first line, the text on the others.
fn judging(data: &[u8]) {
    let at = data
        .iter()
        .position(|byte| *byte == b'\n')
        .unwrap_or(data.len());
    let (schema, text) = data.split_at(at);
    let text = text.strip_prefix(b"\n").unwrap_or(text);
    WORLD.with(|world| {
        world.take(&String::from_utf8_lossy(schema));
        let held = world.schema.borrow();
        let Some(schema) = &held.1 else {
            return;
        };
        let name = OperationName::parse(NAME).expect("a literal");
        let call = Call::named(name, Caller::host()).input_json(Bytes::copy_from_slice(text));
        let reply = world.runtime.block_on(world.door.call(call));
        // Nothing at all counts as an empty object.
        let value = match text {
            [] => Ok(json!({})),
            text => serde_json::from_slice::<Value>(text),
        };
        let accepted = value
            .as_ref()
            .ok()
            .filter(|value| models::depth(value) <= 64 && schema.check(value).is_ok());
        match (accepted, reply) {
            (Some(value), Ok(reply)) => {
                let back = reply
                    .into_output()
                    .into_value()
                    .expect("the handler's own value");
                assert_eq!(back, *value, "the handler reads something else");
            }
            (None, Err(error)) => assert!(error.is(ErrorCode::InvalidInput), "{error}"),
            (wanted, told) => panic!("schema {}: {wanted:?}, door {told:?}", schema.value()),
        }
        note((
            accepted.is_some(),
            value.is_ok(),
            value.ok().map(|value| models::depth(&value).min(5)),
        ));
    });
}

fn seeds() -> Vec<Vec<u8>> {
    let thing = json!({ "type": "object", "properties": { "a": { "type": "integer", "minimum": -1, "maximum": 9 },
        "b": { "type": ["string", "null"], "maxLength": 3 }, "c": { "type": "array", "items": { "type": "number" }, "maxItems": 2 },
        "d": { "enum": ["x", "y"] }, "e": { "$ref": "#/$defs/t" } }, "required": ["a"], "additionalProperties": false,
        "$defs": { "t": { "type": "object", "additionalProperties": { "type": "boolean" } } } });
    let cases = [
        (
            thing.clone(),
            r#"{"a":1,"b":"xyz","c":[1,2.5],"d":"x","e":{"f":true}}"#,
        ),
        (thing.clone(), r#"{"a":1,"a":"x"}"#),
        (thing.clone(), r#"{"a":"x","a":1}"#),
        (thing.clone(), r#"{"\u0061":1.0,"b":null}"#),
        (thing, r#"{"b":"é😀x"}"#),
        (json!({ "type": "integer" }), "1.0"),
        (
            json!({ "type": "integer", "maximum": 9007199254740992_u64 }),
            "9007199254740993",
        ),
        (
            json!({ "type": "string", "minLength": 1 }),
            "\"\\ud83d\\ude00\"",
        ),
        (
            json!({ "anyOf": [{ "type": "null" }, { "type": "string" }] }),
            "null",
        ),
        (json!({ "const": 1 }), "1e0"),
        (
            json!({ "type": "array", "items": { "type": "string" } }),
            " [ \"a\" , \"b\" ] ",
        ),
        (json!({ "type": "number", "exclusiveMinimum": 0 }), "1e-400"),
        (
            json!({ "type": "object", "properties": { "n": { "type": "integer", "minimum": 0, "maximum": 255 } } }),
            "{\"n\":256}",
        ),
        (json!(true), "[[[[1]]]]"),
    ];
    cases
        .iter()
        .map(|(schema, text)| format!("{schema}\n{text}").into_bytes())
        .collect()
}
