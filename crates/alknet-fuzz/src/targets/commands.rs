//! Configured commands: what becomes an argument, and lengths of time.

use super::{MIB, Target, texts};
use crate::{note, source::Source};
use alknet_exec::{CommandConfig, TimeSpan, fuzz_arguments};
use serde_json::{Map, Value, json};
use std::{path::Path, time::Duration};

pub(super) const COMMANDS: Target = Target {
    name: "commands",
    about: "The program stays the configured one, and no value becomes an option or another argument.",
    run: commands,
    seeds,
    tokens: &[
        b"{a}", b"--x={b}", b"--", b"-", b"{c", b"{}", b"{{a}}", b"=", b"{a}{b}", b"-rf", b"\0",
        b"{_x-1}",
    ],
    bytes_max: 256,
    held_max: 8 * MIB,
};

pub(super) const DURATIONS: Target = Target {
    name: "durations",
    about: "Lengths of time and times are read without overflow, and print as they were meant.",
    run: durations,
    seeds: || {
        texts(&[
            "60s",
            "1h30m",
            "500ms",
            "7d",
            "1w2d3h4m5s6ms",
            "0s",
            "365d",
            "366d",
            "18446744073709551615ms",
            "1m1m",
            "5",
            "s",
            "9999999999999w",
            "1é",
            "2026-01-31T12:00:00Z",
            "2026-01-31T12:00:00.123456+14:00",
            "0000-01-01T00:00:00Z",
            "9999-12-31T23:59:59-23:59",
            "36600d",
        ])
    },
    tokens: &[
        b"ms",
        b"s",
        b"m",
        b"h",
        b"d",
        b"w",
        b"18446744073709551615",
        b"9999",
        b"T",
        b"Z",
        b":59",
        b"-",
    ],
    bytes_max: 64,
    held_max: MIB,
};

const FIELDS: &[&str] = &["a", "b", "c", "_x-1"];
const TYPES: &[&str] = &[
    "string", "integer", "boolean", "array", "object", "number", "null",
];

/// A command of words from the input, fields of any type, and values for them.
fn commands(data: &[u8]) {
    let mut source = Source::new(data);
    let mut command = vec!["tool".to_owned()];
    for _ in 0..source.below(5) {
        command.push(source.text(16));
    }
    let mut fields = Map::new();
    let mut values = Map::new();
    let mut dashes = Vec::new();
    for name in FIELDS.iter().take(source.below(5)) {
        let kind = source.pick(TYPES);
        let dash = source.one_in(4);
        let mut field = json!({ "type": kind, "optional": source.flag() });
        if dash {
            field["dash"] = json!(true);
            dashes.push(*name);
        }
        if kind == "array" && source.flag() {
            field["items"] = json!({ "type": source.pick(TYPES) });
        }
        fields.insert((*name).to_owned(), field);
        if !source.one_in(4) {
            values.insert((*name).to_owned(), value(kind, &mut source));
        }
    }
    let config: CommandConfig = serde_json::from_value(json!({
        "name": "demo/tool",
        "summary": "Does what a tool does.",
        "command": command,
        "input": fields,
    }))
    .expect("a configuration of the right shape");
    let input = Value::Object(values);
    match fuzz_arguments(&config, &input, Path::new("/nowhere")) {
        Ok(argv) => {
            check(&argv, &command, &input, &dashes);
            note((argv.len(), command.len()));
        }
        Err(part) => note(part),
    }
}

fn value(kind: &str, source: &mut Source<'_>) -> Value {
    match kind {
        "string" => json!(source.text(12)),
        "integer" => json!(i64::from(source.byte()) - 128),
        "number" => json!(f64::from(source.byte()) / 4.0 - 30.0),
        "boolean" => json!(source.flag()),
        "array" => (0..source.below(4))
            .map(|_| json!(source.text(6)))
            .collect(),
        "object" => json!({ "x": source.text(4) }),
        _ => Value::Null,
    }
}

/// Each argument is the configured word, or one value where the word has its
/// place; told apart without asking the template.
fn check(argv: &[String], command: &[String], input: &Value, dashes: &[&str]) {
    assert_eq!(argv[0], command[0], "another program");
    let mut left = argv[1..].iter();
    let mut options_ended = false;
    for word in &command[1..] {
        let Some((prefix, name)) = place(word) else {
            assert_eq!(left.next(), Some(word), "a literal");
            options_ended |= word == "--";
            continue;
        };
        let values: Vec<&Value> = match input.get(name) {
            None => Vec::new(),
            Some(Value::Array(items)) => items.iter().collect(),
            Some(value) => vec![value],
        };
        for value in values {
            let text = match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            assert!(!text.contains('\0'), "an argument cannot hold NUL");
            let may_dash = options_ended || dashes.contains(&name);
            assert!(
                !text.starts_with('-') || may_dash,
                "`{text}` could be an option"
            );
            assert_eq!(left.next(), Some(&format!("{prefix}{text}")));
        }
    }
    assert_eq!(left.next(), None, "more arguments than configured");
}

/// `{name}` or `prefix={name}`.
fn place(word: &str) -> Option<(&str, &str)> {
    let inner = word.strip_suffix('}')?;
    let (prefix, name) = inner.rsplit_once('{')?;
    let is_name = FIELDS.contains(&name);
    (is_name && (prefix.is_empty() || prefix.ends_with('='))).then_some((prefix, name))
}

fn durations(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(span) = TimeSpan::parse(&text) {
        assert!(span.duration() > Duration::ZERO && span.duration() <= TimeSpan::MAX);
        assert_eq!(TimeSpan::parse(&span.to_string()), Ok(span), "{text:?}");
        // What a configuration may say, a command line may.
        let typed = alknet_cli::fuzz::span(&text).map(|(span, ..)| span);
        assert_eq!(typed, Ok(span.duration()), "{text:?}");
    }
    let typed = alknet_cli::fuzz::span(&text);
    if let Ok((span, words, short)) = &typed {
        assert!(*span <= Duration::from_secs(100 * 366 * 86_400) && !words.is_empty());
        let (again, ..) = alknet_cli::fuzz::span(short).expect("its own short form");
        assert!(again <= *span, "{short} is more than {text:?}");
        note((short.len(), words.len()));
    }
    if let Ok((stamp, relative, sent)) = alknet_cli::fuzz::time(&text) {
        // Beyond the last year that has a name, a time stays as it came.
        assert!(stamp.ends_with('Z') || stamp == sent, "{stamp}");
        assert!(!relative.is_empty());
        assert!(typed.is_ok() || *sent == *text);
        note((stamp.len(), typed.is_ok()));
    }
}

fn seeds() -> Vec<Vec<u8>> {
    vec![
        b"\x01\x03{a}\x01\0\0\0\0\x05hello".to_vec(),
        b"\x02\x05--x={\x03{b}\x02".to_vec(),
        b"\x01\x07--x={a}\x01\0\0\0\0\x04-rf!".to_vec(),
        b"\x02\x02--\x03{a}\x01\0\0\0\0\x03-rf".to_vec(),
        b"\x01\x03{a}\x01\x03\0\0\0\0\0\x03\x01a\x01b\x02-c".to_vec(),
        b"\x04\x03{a}\x03{b}\x03{c}\x06{_x-1}\x04\0\0\0\0\x01x\x01\0\0\0\x07\x02\0\0\0\x01"
            .to_vec(),
        b"\x01\x05{a}{b\x02".to_vec(),
        b"\x01\x02{}".to_vec(),
    ]
}
