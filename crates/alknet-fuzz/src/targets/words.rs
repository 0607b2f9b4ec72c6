//! What people type as the input of a call.

use super::{MIB, Target, models, texts};
use crate::{note, source::Source};
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

pub(super) const ESCAPES: Target = Target {
    name: "escapes",
    about: "Escapes of a shell are found however typing is cut, and nothing else is kept back.",
    run: escapes,
    seeds: || {
        texts(&[
            "\u{1}~.",
            "\u{2}ls\r~?x",
            "\u{3}~~.\n~",
            "\u{1}~?~.more",
            "\u{4}a~.\r\n~\r~.",
            "\u{1}~~~~",
        ])
    },
    tokens: &[b"~", b"~.", b"~?", b"~~", b"\r", b"\n", b"\r~."],
    bytes_max: 100,
    held_max: MIB,
};

/// The first byte says in which pieces the others are typed.
fn escapes(data: &[u8]) {
    let mut source = Source::new(data);
    let piece = usize::from(source.byte()).max(1);
    let typed = source.rest();
    let cut = alknet_cli::fuzz::typed(typed.chunks(piece));
    assert_eq!(
        cut,
        alknet_cli::fuzz::typed([typed]),
        "in pieces of {piece}"
    );
    assert_eq!(cut, sorted(typed), "{}", typed.escape_ascii());
    note((
        cut.len().min(8),
        cut.last().map(|last| last.as_ref().err().copied()),
    ));
}

/// The model: line by line, looking ahead.
fn sorted(mut typed: &[u8]) -> Vec<Result<Vec<u8>, &'static str>> {
    let (mut keys, mut sent) = (Vec::new(), Vec::new());
    let mut is_start = true;
    while let [first, rest @ ..] = typed {
        let told = match (is_start, typed) {
            (true, [b'~', b'.', ..]) => Some("leave"),
            (true, [b'~', b'?', ..]) => Some("help"),
            // Kept until it is known what follows.
            (true, [b'~']) => break,
            _ => None,
        };
        if let Some(told) = told {
            if !sent.is_empty() {
                keys.push(Ok(std::mem::take(&mut sent)));
            }
            keys.push(Err(told));
            if told == "leave" {
                return keys;
            }
            typed = &typed[2..];
            continue;
        }
        // `~~` is one.
        typed = match (is_start, rest) {
            (true, [b'~', after @ ..]) if *first == b'~' => after,
            // What follows an unknown escape is a key of its own line.
            (true, [next, after @ ..]) if *first == b'~' => {
                sent.extend([b'~', *next]);
                is_start = matches!(next, b'\r' | b'\n');
                typed = after;
                continue;
            }
            _ => rest,
        };
        sent.push(*first);
        is_start = matches!(first, b'\r' | b'\n');
    }
    if !sent.is_empty() {
        keys.push(Ok(sent));
    }
    keys
}

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
