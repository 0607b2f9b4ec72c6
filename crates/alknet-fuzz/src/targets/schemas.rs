//! Schemas from elsewhere: compiled and used in bounded time and memory.

use super::{MIB, Target};
use crate::note;
use alknet_core::Schema;
use serde_json::{Value, json};

pub(super) const SCHEMAS: Target = Target {
    name: "schemas",
    about: "A hostile schema is refused or used, soon and without much memory.",
    run: schemas,
    seeds,
    tokens: &[
        br##"{"$ref":"#"}"##,
        br##"{"$ref":"#/$defs/a"}"##,
        br#""allOf":["#,
        br#""anyOf":["#,
        br#""not":"#,
        br#""pattern":"^(a+)+$""#,
        br#""properties":{"a":"#,
        br#""items":"#,
        br#""type":"integer""#,
        br#""$defs":{"a":"#,
        br#""$id":"http://x/y""#,
        br#""$dynamicRef":"#,
        br#""multipleOf":0.1"#,
        br#""minItems":18446744073709551615"#,
        br#""unevaluatedProperties":false"#,
        br#""format":"email""#,
        br#""uniqueItems":true"#,
        b"}",
        b"]",
        b",",
    ],
    bytes_max: 1200,
    held_max: 64 * MIB,
};

/// Inputs that are held against each schema.
fn inputs() -> Vec<Value> {
    let nested =
        |levels: usize| (0..levels).fold(json!(1), |inner, _| json!({ "a": inner, "b": [1] }));
    vec![
        json!(null),
        json!(3.5),
        json!("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaX"),
        json!([1, 2, 2, [3]]),
        json!({ "a": 1, "b": "x" }),
        nested(10),
    ]
}

thread_local! {
    static INPUTS: Vec<Value> = inputs();
}

fn schemas(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(data) else {
        return;
    };
    let schema = match Schema::from_value(value.clone()) {
        Ok(schema) => schema,
        Err(error) => return note(std::mem::discriminant(&error)),
    };
    assert_eq!(schema.value(), &value);
    let compiled = schema.check_compiles();
    assert_eq!(
        schema.compile().is_ok(),
        compiled.is_ok(),
        "compiles differently twice"
    );
    note(compiled.is_ok());
    INPUTS.with(|inputs| {
        for input in inputs {
            match schema.check(input) {
                Ok(()) => assert!(compiled.is_ok(), "an unusable schema accepts"),
                Err(violations) => {
                    assert!((1..=16).contains(&violations.len()));
                    note(violations.len());
                }
            }
        }
    });
}

fn seeds() -> Vec<Vec<u8>> {
    let schemas = [
        json!(true),
        json!(false),
        json!({ "type": "object", "properties": { "a": { "type": "integer" } }, "additionalProperties": false }),
        json!({ "type": "array", "items": { "type": ["string", "null"] }, "uniqueItems": true, "maxItems": 3 }),
        json!({ "oneOf": [{ "const": 1 }, { "enum": ["a", null] }], "not": { "type": "string" } }),
        json!({ "pattern": "^(a+)+$", "minLength": 2, "format": "date-time" }),
        json!({ "$defs": { "t": { "type": "object", "properties": { "a": { "$ref": "#/$defs/t" } } } }, "$ref": "#/$defs/t" }),
        json!({ "if": { "type": "object" }, "then": { "required": ["a"] }, "else": { "minimum": 0 } }),
        json!({ "unevaluatedProperties": false, "allOf": [{ "properties": { "a": true } }] }),
        json!({ "$ref": "http://example.org/schema" }),
        json!({ "$ref": "#/$defs/gone" }),
        json!({ "$dynamicAnchor": "n", "items": { "$dynamicRef": "#n" } }),
        json!({ "multipleOf": 0.1, "exclusiveMaximum": 1e308 }),
        json!({ "patternProperties": { "^a": { "type": "number" } }, "propertyNames": { "maxLength": 3 } }),
        json!({ "$vocabulary": {}, "$schema": "https://json-schema.org/draft/2020-12/schema" }),
    ];
    schemas
        .iter()
        .map(|schema| schema.to_string().into_bytes())
        .collect()
}
