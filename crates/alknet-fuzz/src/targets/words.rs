//! What people type as the input of a call.

use super::{MIB, Target, models, texts};
use crate::note;
use serde_json::{Map, Value, json};

pub(super) const WORDS: Target = Target {
    name: "words",
    about: "Words make the object that they say, and any object can be said in words.",
    run: words,
    seeds: || {
        texts(&[
            "name=5\ncount=5",
            "a.b=1\na.c=x",
            "a\\.b=1",
            "tags=1\ntags=2",
            "tags=[\"a\",\"b\"]",
            "x:={\"y\":[1]}",
            "-",
            "{\"a\":1}",
            "\"x\"",
            "a=1\na.b=2",
            "nested.zip=0123\nnested.n=1.5",
            "a=@file",
            "a:=@-",
            "=x",
            ".a=1",
            "a..b=1",
            "a\\\\.b=\"",
            "one_or_many=a",
            "loop.loop.loop.x=1",
            "[1,{\"a\":[2]}]",
            "title=null",
        ])
    },
    tokens: &[
        b"=", b":=", b"=@", b".", b"\\.", b"\\\\", b"\n", b"tags=", b"nested.", b"loop.", b"null",
        b"true", b"[1]", b"{\"a\":", b"sizes=", b"mixed=", b"force=",
    ],
    bytes_max: 300,
    held_max: 4 * MIB,
};

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": { "type": "string" },
            "title": { "type": ["string", "null"] },
            "count": { "type": "integer" },
            "force": { "type": "boolean" },
            "mixed": { "type": ["string", "integer"] },
            "tags": { "type": "array", "items": { "type": "string" } },
            "sizes": { "type": "array", "items": { "type": "integer" } },
            "one_or_many": { "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] },
            "nested": { "type": "object", "properties": { "zip": { "type": "string" }, "n": { "type": "number" } } },
            "loop": { "$ref": "#" },
        },
    })
}

thread_local! {
    static SCHEMA: Value = schema();
}

/// One word on each line.
fn words(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let words: Vec<String> = text.lines().take(8).map(ToOwned::to_owned).collect();
    let free = alknet_cli::fuzz::words(&words, None);
    let typed = SCHEMA.with(|schema| alknet_cli::fuzz::words(&words, Some(schema)));
    note((words.len(), free.is_ok(), typed.is_ok()));
    if let [only] = words.as_slice()
        && let Ok(value) = serde_json::from_str::<Value>(only)
    {
        assert_eq!(free.as_ref(), Ok(&value), "one JSON value is the input");
        said_again(&value);
    }
    for (word, made) in words.iter().zip(std::iter::repeat(&typed)) {
        if let (Some((key, text)), Ok(made)) = (word.split_once('='), made)
            && key == "name"
            && words
                .iter()
                .filter(|word| word.starts_with("name="))
                .count()
                == 1
            && !text.starts_with('@')
        {
            assert_eq!(
                made["name"],
                json!(text),
                "a text field takes the text as it is"
            );
        }
    }
    if let Ok(Value::Object(fields)) = &free {
        said_again(&Value::Object(fields.clone()));
    }
}

/// An object in words, `key:=JSON` each, is the object.
fn said_again(value: &Value) {
    let Value::Object(fields) = value else {
        return;
    };
    if fields.is_empty() || !can_be_said(value) || models::depth(value) > 60 {
        return;
    }
    let mut words = Vec::new();
    say(fields, &mut String::new(), &mut words);
    // A single word that begins like JSON is JSON.
    if words.len() == 1 && words[0].trim_start().starts_with(['{', '[', '"']) {
        return;
    }
    let back = alknet_cli::fuzz::words(&words, None);
    assert_eq!(back.as_ref(), Ok(value), "{words:?}");
}

/// Keys are not empty, and end before the first `=`.
fn can_be_said(value: &Value) -> bool {
    value.as_object().is_none_or(|fields| {
        let mut fields = fields.iter();
        fields.all(|(key, value)| !key.is_empty() && !key.contains('=') && can_be_said(value))
    })
}

/// Objects with fields become paths, everything else JSON.
fn say(fields: &Map<String, Value>, before: &mut String, words: &mut Vec<String>) {
    for (key, value) in fields {
        let length = before.len();
        before.push_str(&key.replace('\\', "\\\\").replace('.', "\\."));
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                before.push('.');
                say(inner, before, words);
            }
            value => words.push(format!("{before}:={value}")),
        }
        before.truncate(length);
    }
}
