//! What is said of text is what the full validator says of its value.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::schema::Schema;
use proptest::prelude::*;
use serde_json::json;

fn compiled(schema: Value) -> Schema {
    let schema = Schema::from_value(schema).unwrap();
    schema.compile().unwrap();
    schema
}

/// Texts of which the first ones are surely accepted, and the others not.
#[track_caller]
fn check(schema: Value, yes: &[&str], no: &[&str]) {
    let schema = compiled(schema);
    for text in yes {
        assert!(schema.accepts_text(text.as_bytes()), "{text}");
        let value = serde_json::from_str(text).unwrap();
        assert_eq!(schema.check(&value), Ok(()), "{text}");
    }
    for text in no {
        assert!(!schema.accepts_text(text.as_bytes()), "{text}");
    }
}

#[test]
fn objects_have_their_fields_and_no_others() {
    check(
        json!({
            "type": "object",
            "properties": { "a": { "type": "integer", "minimum": 0 }, "b": {} },
            "required": ["a"],
            "additionalProperties": false,
        }),
        &[r#"{"a":1}"#, r#" {"b":[{}],"a":0} "#, r#"{"a":1,"a":2}"#],
        &[
            "",
            "{}",
            "[]",
            "1",
            r#"{"a":-1}"#,
            r#"{"a":"1"}"#,
            r#"{"a":1,"c":1}"#,
            r#"{"a":1}}"#,
            r#"{"a":1"#,
            r#"{"a":1,"a":"x"}"#,
            r#"{"a":1,"b":"\ud800"}"#,
            r#"{"a":1e400}"#,
            "{\"a\":1,\"b\":\"\u{1}\"}",
        ],
    );
    // Of names that the schema does not have, another holds.
    let others = json!({ "properties": { "a": {} }, "additionalProperties": { "type": "null" } });
    check(others, &[r#"{"a":1,"b":null}"#, "[1]"], &[r#"{"b":1}"#]);
}

#[test]
fn lengths_are_in_characters_and_limits_are_included() {
    let text = json!({ "type": "string", "minLength": 2, "maxLength": 3 });
    let yes = ["\"ab\"", "\"üüü\"", "\"😀😀😀\"", r#""\u00fcb""#];
    check(text, &yes, &["\"a\"", "\"abcd\"", "\"😀\"", "\"üüüü\""]);
    let list =
        json!({ "type": "array", "minItems": 1, "maxItems": 2, "items": { "type": "boolean" } });
    check(
        list,
        &["[true]", "[true,false]"],
        &["[]", "[1]", "[true,true,true]"],
    );
    let number = json!({ "type": "number", "minimum": -1, "maximum": 2 });
    check(
        number,
        &["-1", "-1.0", "0.5", "2"],
        &["-1.01", "2.01", "3", "\"1\""],
    );
    let large = json!({ "type": "integer", "maximum": u64::MAX });
    check(
        large,
        &["18446744073709551615", "-9223372036854775808"],
        &["1.5", "18446744073709551616"],
    );
}

#[test]
fn choices_are_told_apart_by_type_or_name() {
    let schema = json!({
        "anyOf": [{ "$ref": "#/$defs/Tree" }, { "type": "null" }],
        "$defs": { "Tree": {
            "type": "object",
            "properties": { "next": { "anyOf": [{ "type": "null" }, { "type": "string" }] },
                "kind": { "oneOf": [{ "const": "leaf" }, { "enum": ["twig", "root"] }] },
                "inner": { "type": "array", "items": { "$ref": "#/$defs/Tree" } } },
            "additionalProperties": false,
        }},
    });
    let yes = [
        "null",
        r#"{"inner":[{"inner":[]},{}],"next":null,"kind":"twig"}"#,
    ];
    check(
        schema,
        &yes,
        &["1", r#"{"kind":"branch"}"#, r#"{"inner":[null]}"#],
    );
}

#[test]
fn what_is_not_known_is_left_to_the_full_validator() {
    for schema in [
        json!(false),
        json!({ "type": "string", "pattern": "^a$" }),
        json!({ "not": {} }),
        json!({ "anyOf": [{ "type": "string" }, { "type": "string", "maxLength": 1 }] }),
        json!({ "oneOf": [{ "const": "a" }, { "enum": ["a", "b"] }] }),
        json!({ "type": "object", "properties": { "a": { "uniqueItems": true } } }),
        json!({ "required": ["a"] }),
        json!({ "enum": [1] }),
        json!({ "multipleOf": 2 }),
        json!({ "minimum": 0.5 }),
        json!({ "$ref": "#" }),
        json!({ "$ref": "#/$defs/A", "$defs": { "A": { "$ref": "#/$defs/A" } } }),
        json!({ "$ref": "#/$defs/A", "$defs": { "A": { "anyOf": [{ "$ref": "#/$defs/A" }] } } }),
        json!({ "$ref": "#/$defs/A", "maxLength": 1, "$defs": { "A": {} } }),
    ] {
        assert!(TextRules::of(&schema).is_none(), "{schema}");
    }
    // Formats say nothing to either.
    check(
        json!({ "type": "string", "format": "ipv4" }),
        &["\"no\""],
        &[],
    );
}

#[test]
fn text_may_nest_64_levels_and_not_65() {
    let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    let schema = json!({ "type": "array" });
    check(schema, &[&nested(64)], &[&nested(65), &nested(1000)]);
}

fn any_schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(true)),
        Just(json!({ "type": "null" })),
        Just(json!({ "type": ["boolean", "null"] })),
        (-3..3_i64, -3..3_i64)
            .prop_map(|(a, b)| json!({ "type": "integer", "minimum": a, "maximum": b })),
        (-3..3_i64).prop_map(|a| json!({ "type": ["integer", "number"], "minimum": a })),
        (0..4_u64, 0..4_u64).prop_map(
            |(a, b)| json!({ "type": ["string", "null"], "minLength": a, "maxLength": b })
        ),
        Just(json!({ "enum": ["a", "b", null] })),
        Just(json!({ "const": "c", "type": "string" })),
        Just(json!({ "maxLength": 1, "minItems": 1, "minimum": 0 })),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let name = prop_oneof![Just("a"), Just("b"), Just("c")];
        let fields = prop::collection::btree_map(name, inner.clone(), 0..3);
        let others = prop_oneof![Just(json!(false)), Just(json!(true)), inner.clone()];
        prop_oneof![
            (inner.clone(), 0..3_u64, 1..4_u64).prop_map(|(items, a, b)| {
                json!({ "type": "array", "items": items, "minItems": a, "maxItems": b })
            }),
            (fields, others, any::<bool>()).prop_map(|(fields, others, all)| {
                let required: Vec<_> = fields.keys().take(if all { 3 } else { 1 }).collect();
                json!({ "type": ["object", "integer"], "properties": fields, "required": required,
                    "additionalProperties": others })
            }),
            prop::collection::vec(inner, 1..3).prop_map(|choices| json!({ "anyOf": choices })),
        ]
    })
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-4..4_i64).prop_map(Value::from),
        prop_oneof![Just(0.5), Just(-2.0), Just(1e30)].prop_map(Value::from),
        "[abcü]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[abc]", inner, 0..3)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]
    #[test]
    fn what_is_accepted_as_text_is_accepted_as_a_value(schema in any_schema(), value in any_value()) {
        let schema = compiled(schema);
        let rules = TextRules::of(schema.value());
        let text = value.to_string();
        let as_text = rules.as_ref().is_some_and(|rules| rules.accept(text.as_bytes()));
        let as_value = schema.check(&value).is_ok();
        prop_assert!(as_value || !as_text);
        // A whole number with a decimal point is the one thing it does not know.
        let is_unsure = text.contains(".0") || text.contains('e');
        prop_assert!(rules.is_none() || is_unsure || as_text == as_value);
    }
}
