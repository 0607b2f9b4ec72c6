//! JSON from elsewhere: how deep it is, how long it is.

use super::{MIB, Target, models, texts};
use crate::note;
use alknet_core::{Input, Output};
use bytes::Bytes;
use serde_json::Value;

pub(super) const JSON: Target = Target {
    name: "json",
    about: "Text is taken if it is JSON and nests 64 levels at most, and its length is known without writing it.",
    run: json,
    seeds: || {
        let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        let fields =
            |levels: usize| format!("{}{{}}{}", "{\"a\":".repeat(levels), "}".repeat(levels));
        let deep = [
            nested(63),
            nested(64),
            nested(65),
            nested(127),
            nested(200),
            fields(63),
            fields(64),
        ];
        let mut seeds: Vec<Vec<u8>> = deep.into_iter().map(String::into_bytes).collect();
        seeds.extend(texts(&[
            r#"{"a":[1,-2,3.5e9,true,null,"x\"\\[{\u00e9"]}"#,
            r#""[[[[""#,
            "[\"\\\\\",[[]]]",
            "[}",
            "1e999",
            "-0",
            "18446744073709551616",
            "\"\u{7f}\\u0000\\n\"",
            "[\"\\",
            "{\"a\":{\"a\":1,\"a\":2}}",
            " [ ] ",
            "",
        ]));
        seeds
    },
    tokens: &[
        b"[",
        b"]",
        b"{\"a\":",
        b"}",
        b"\"",
        b"\\\"",
        b"\\\\",
        b"[[[[[[[[[[[[[[[[",
        b"]]]]]]]]]]]]]]]]",
        b"1e9",
        b"-0.0",
        b"\\u0000",
        b"\\ud83d",
        b"null",
    ],
    bytes_max: 1500,
    held_max: 4 * MIB,
};

fn json(data: &[u8]) {
    let text = Bytes::copy_from_slice(data);
    let input = Input::Json(text.clone());
    assert_eq!(input.len(), data.len());
    let (input, output) = (input.into_value(), Output::Json(text).into_value());
    let parsed = serde_json::from_slice::<Value>(data);
    note((input.is_ok(), parsed.as_ref().ok().map(models::depth)));
    if data.is_empty() {
        return assert!(
            input.is_ok() && output == Ok(Value::Null),
            "nothing counts as an empty input"
        );
    }
    match (&parsed, input, output) {
        (Ok(value), Ok(input), Ok(output)) => {
            assert!(
                models::depth(value) <= 64,
                "{} levels",
                models::depth(value)
            );
            assert_eq!((&input, &output), (value, value));
            lengths(value);
        }
        (Ok(value), Err(_), Err(_)) => assert!(models::depth(value) > 64, "{value} is refused"),
        (Err(_), Err(_), Err(_)) => {}
        (parsed, input, output) => panic!("{parsed:?}: {input:?}, {output:?}"),
    }
}

fn lengths(value: &Value) {
    let text = value.to_string();
    assert_eq!(Input::Value(value.clone()).len(), text.len(), "{text}");
    assert_eq!(Output::Value(value.clone()).into_bytes(), text);
}
