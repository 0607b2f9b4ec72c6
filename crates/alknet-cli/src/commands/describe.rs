//! One operation, described for a person.

use crate::{hint::quote, output::cell, table::one_line};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Levels of nested objects that are listed field by field.
const DEPTH_MAX: usize = 4;

/// The description of an operation, from its entry in the catalogue.
pub(crate) fn describe(entry: &Value) -> String {
    let text = |name: &str| one_line(&cell(entry.get(name)));
    let on = match text("peer") {
        peer if peer.is_empty() => String::new(),
        peer => format!(" on {peer}"),
    };
    let mut page = format!(
        "{} ({}){on}\n{}\n",
        text("name"),
        text("kind"),
        text("summary")
    );
    if let Some(why) = entry.get("deprecated").and_then(Value::as_str) {
        page.push_str(&format!("deprecated: {}\n", one_line(why)));
    }
    if let Some(description) = entry.get("description").and_then(Value::as_str) {
        page.push('\n');
        for line in description.lines() {
            page.push_str(one_line(line).trim_end());
            page.push('\n');
        }
    }
    if let Some(needs) = entry
        .get("needs")
        .filter(|needs| needs != &&Value::Array(vec![]))
    {
        page.push_str(&format!("\nneeds: {}\n", one_line(&cell(Some(needs)))));
    }
    if entry.get("approve") == Some(&Value::Bool(true)) {
        page.push_str("\na person must say yes first\n");
    }
    page.push_str(&section("input", entry.get("input")));
    page.push_str(&section(output_title(&text("kind")), entry.get("output")));
    page.push_str(&errors(entry));
    page.push_str(&examples(entry));
    page
}

fn output_title(kind: &str) -> &'static str {
    match kind {
        "subscription" => "each item",
        "channel" => "opening reply",
        _ => "reply",
    }
}

fn section(title: &str, schema: Option<&Value>) -> String {
    let Some(schema) = schema else {
        return String::new();
    };
    let mut text = format!("\n{title}: {}\n", type_of(schema, schema));
    fields(schema, resolve(schema, schema), 1, &mut text);
    text
}

/// One line a field, nested ones indented.
fn fields(document: &Value, schema: &Value, depth: usize, text: &mut String) {
    let schema = match schema.get("items") {
        Some(items) => resolve(document, items),
        None => schema,
    };
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        return;
    };
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let width = properties
        .keys()
        .map(|key| key.chars().count())
        .max()
        .unwrap_or(0);
    for (key, field) in properties {
        let inner = resolve(document, field);
        let mut notes = vec![type_of(document, field)];
        if required.contains(&key.as_str()) {
            notes.push("required".into());
        }
        if let Some(default) = field.get("default").filter(|default| !default.is_null()) {
            notes.push(format!("default {default}"));
        }
        let summary = [field, inner]
            .into_iter()
            .find_map(|schema| schema.get("description"));
        let summary = summary
            .and_then(Value::as_str)
            .map(|text| format!("  {text}"));
        let pad = " ".repeat(width - key.chars().count());
        let line = format!(
            "{}{key}{pad}  {}{}",
            "  ".repeat(depth),
            notes.join(", "),
            summary.unwrap_or_default()
        );
        text.push_str(&one_line(&line));
        text.push('\n');
        if depth < DEPTH_MAX {
            fields(document, inner, depth + 1, text);
        }
    }
}

/// Follows references within the document, and `Option`s: of a union with
/// `null` the other part.
fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let mut schema = schema;
    for _ in 0..16 {
        let target = schema
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|at| at.strip_prefix('#'));
        if let Some(target) = target.and_then(|at| document.pointer(at)) {
            schema = target;
            continue;
        }
        let union = schema
            .get("anyOf")
            .or_else(|| schema.get("oneOf"))
            .and_then(Value::as_array);
        let is_null = |part: &&Value| part.get("type").and_then(Value::as_str) == Some("null");
        match union
            .map(|parts| {
                parts
                    .iter()
                    .filter(|part| !is_null(part))
                    .collect::<Vec<_>>()
            })
            .as_deref()
        {
            Some([only]) => schema = only,
            _ => break,
        }
    }
    schema
}

/// `text`, `list of text`, `"a" or "b"`, `object`, `anything`.
fn type_of(document: &Value, schema: &Value) -> String {
    let schema = resolve(document, schema);
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        let values: Vec<String> = values.iter().map(Value::to_string).collect();
        return values.join(" or ");
    }
    if let Some(value) = schema.get("const") {
        return value.to_string();
    }
    let name = |name: &str| match name {
        "string" => "text".to_owned(),
        "array" => match schema.get("items") {
            // One level only: deeper types are listed below.
            Some(items) => format!("list of {}", short_type(resolve(document, items))),
            None => "list".into(),
        },
        other => other.to_owned(),
    };
    match schema.get("type") {
        Some(Value::String(one)) => name(one),
        Some(Value::Array(several)) => {
            let names = several
                .iter()
                .filter_map(Value::as_str)
                .filter(|one| *one != "null");
            names.map(name).collect::<Vec<_>>().join(" or ")
        }
        _ => union_of(document, schema),
    }
}

/// The parts of an `anyOf` or `oneOf`, such as the values of an enum that
/// describes each of them.
fn union_of(document: &Value, schema: &Value) -> String {
    let parts = schema.get("anyOf").or_else(|| schema.get("oneOf"));
    let names: BTreeSet<String> = parts
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|part| resolve(document, part))
        // One level only, so that a loop of references ends.
        .map(|part| match (part.get("const"), part.get("enum")) {
            (Some(value), _) => value.to_string(),
            (None, Some(_)) => type_of(document, part),
            (None, None) => short_type(part),
        })
        .filter(|name| name != "null")
        .collect();
    match names.is_empty() {
        true => "anything".into(),
        false => names.into_iter().collect::<Vec<_>>().join(" or "),
    }
}

fn short_type(schema: &Value) -> String {
    match schema.get("type").and_then(Value::as_str) {
        Some("string") => "text".into(),
        Some(other) => other.into(),
        None => "anything".into(),
    }
}

fn errors(entry: &Value) -> String {
    let errors = entry
        .get("errors")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    if errors.is_empty() {
        return String::new();
    }
    let mut text = "\nerrors:\n".to_owned();
    for error in &errors {
        let line = format!(
            "  {}  {}",
            cell(error.get("code")),
            cell(error.get("description"))
        );
        text.push_str(&one_line(&line));
        text.push('\n');
    }
    text
}

/// As commands that can be pasted.
fn examples(entry: &Value) -> String {
    let examples = entry
        .get("examples")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    if examples.is_empty() {
        return String::new();
    }
    let on = match cell(entry.get("peer")) {
        peer if peer.is_empty() => String::new(),
        peer => format!(" --on {}", quote(&peer)),
    };
    let mut text = "\nexamples:\n".to_owned();
    for example in &examples {
        let words = example.get("input").map(input_words).unwrap_or_default();
        let line = format!(
            "  $ alknet call {}{on}{words}",
            quote(&cell(entry.get("name")))
        );
        text.push_str(&one_line(&line));
        text.push('\n');
        if let Some(output) = example.get("output") {
            text.push_str(&one_line(&format!("  {output}")));
            text.push('\n');
        }
    }
    text
}

/// ` key=value ...` if every field is plain, else the JSON as one word.
fn input_words(input: &Value) -> String {
    let plain = |fields: &Map<String, Value>| {
        let mut words = String::new();
        for (key, value) in fields {
            let is_name = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            let value = match value {
                Value::String(text) if !text.starts_with('@') => text.clone(),
                Value::Number(_) | Value::Bool(_) => value.to_string(),
                _ => return None,
            };
            if !is_name || key.is_empty() {
                return None;
            }
            words.push(' ');
            words.push_str(&quote(&format!("{key}={value}")));
        }
        Some(words)
    };
    let words = input.as_object().and_then(plain);
    words.unwrap_or_else(|| format!(" {}", quote(&input.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_operation_is_described_whole() {
        let entry = json!({
            "name": "deploy/restart", "kind": "mutation", "summary": "Restarts one service.", "peer": "home",
            "description": "Waits until it is healthy.\n\u{1b}[2JSecond line.",
            "needs": ["deploy:write"],
            "input": {
                "type": "object", "required": ["service"],
                "properties": {
                    "service": { "enum": ["web", "worker"], "description": "Which one." },
                    "wait": { "anyOf": [{ "$ref": "#/$defs/Wait" }, { "type": "null" }] },
                    "tags": { "type": ["array", "null"], "items": { "type": "string" }, "default": [] },
                },
                "$defs": { "Wait": { "type": "object", "properties": { "ms": { "type": "integer" } } } },
            },
            "output": { "type": "string" },
            "errors": [{ "code": "FAILED", "description": "It did not come up." }],
            "examples": [
                { "input": { "service": "web" }, "output": "ok" },
                { "input": { "tags": [] }, "output": "it's" },
            ],
        });
        let page = describe(&entry);
        let at = page.find("\ninput:").expect("an input");
        assert_eq!(
            &page[..at],
            "deploy/restart (mutation) on home\nRestarts one service.\n\n\
             Waits until it is healthy.\n [2JSecond line.\n\nneeds: deploy:write\n"
        );
        for line in [
            "  service  \"web\" or \"worker\", required  Which one.\n",
            "  wait     object\n    ms  integer\n",
            "  tags     list of text, default []\n",
            "\nreply: text\n",
            "  FAILED  It did not come up.\n",
            "  $ alknet call deploy/restart --on home service=web\n  \"ok\"\n",
            "  $ alknet call deploy/restart --on home '{\"tags\":[]}'\n",
        ] {
            assert!(page.contains(line), "{line:?} is not in\n{page}");
        }
    }

    #[test]
    fn described_values_and_unions_are_listed() {
        let check = |schema: Value, want: &str| assert_eq!(type_of(&schema, &schema), want);
        let values = json!([{ "const": "b", "description": "x" }, { "enum": ["a", 1] }]);
        check(json!({ "oneOf": values }), "\"a\" or 1 or \"b\"");
        let union = json!([{ "type": "string" }, { "type": "integer" }, { "type": "null" }]);
        check(json!({ "anyOf": union }), "integer or text");
        check(json!(true), "anything");
    }

    #[test]
    fn loops_of_references_end() {
        let schema = json!({ "$ref": "#", "properties": { "a": { "$ref": "#/$defs/A" } }, "$defs": { "A": { "properties": { "a": { "$ref": "#/$defs/A" } } } } });
        assert!(section("input", Some(&schema)).starts_with("\ninput: anything\n"));
    }
}
