//! What the schema of an operation says about one field.
//!
//! Only as much of JSON Schema (draft 2020-12) as decides whether a text is
//! meant as a string: `type`, `enum`, `const`, `properties`,
//! `additionalProperties`, `items`, `$ref` within the document, `allOf`,
//! `anyOf`, `oneOf`. The node validates; a wrong guess here is refused there.

use serde_json::Value;

/// References followed on the way to one field, so that loops end.
const REFERENCES_MAX: usize = 32;
/// Schemas looked at for one field, so that wide unions stay cheap.
const SCHEMAS_MAX: usize = 256;

/// What a field may be. Nothing known means anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Types {
    pub(crate) string: bool,
    pub(crate) array: bool,
    pub(crate) number: bool,
    pub(crate) boolean: bool,
    pub(crate) object: bool,
    pub(crate) null: bool,
}

impl Types {
    fn add_name(&mut self, name: &str) {
        match name {
            "string" => self.string = true,
            "array" => self.array = true,
            "number" | "integer" => self.number = true,
            "boolean" => self.boolean = true,
            "object" => self.object = true,
            "null" => self.null = true,
            _ => {}
        }
    }

    fn add_value(&mut self, value: &Value) {
        match value {
            Value::String(_) => self.string = true,
            Value::Array(_) => self.array = true,
            Value::Number(_) => self.number = true,
            Value::Bool(_) => self.boolean = true,
            Value::Object(_) => self.object = true,
            Value::Null => self.null = true,
        }
    }

    /// Whether nothing is known.
    pub(crate) fn is_unknown(self) -> bool {
        self == Self::default()
    }

    /// Whether every text is meant as a string. `null` beside it does not
    /// count: it is written `:=null`.
    pub(crate) fn is_text(self) -> bool {
        self.string && !(self.array || self.number || self.boolean || self.object)
    }

    /// Whether a value of this type fits.
    pub(crate) fn fits(self, value: &Value) -> bool {
        match value {
            Value::String(_) => self.string,
            Value::Array(_) => self.array,
            Value::Number(_) => self.number,
            Value::Bool(_) => self.boolean,
            Value::Object(_) => self.object,
            Value::Null => self.null,
        }
    }

    /// `a number`, `true or false`: for an error message.
    pub(crate) fn in_words(self) -> String {
        let words = [
            (self.number, "a number"),
            (self.boolean, "true or false"),
            (self.array, "an array"),
            (self.object, "an object"),
            (self.string, "a text"),
            (self.null, "null"),
        ];
        let words: Vec<&str> = words
            .iter()
            .filter(|(is, _)| *is)
            .map(|(_, word)| *word)
            .collect();
        words.join(" or ")
    }
}

/// The part of a schema that speaks about one place.
#[derive(Clone, Debug)]
pub(crate) struct At<'a> {
    document: &'a Value,
    schemas: Vec<&'a Value>,
}

impl<'a> At<'a> {
    /// The whole input.
    pub(crate) fn root(document: &'a Value) -> Self {
        Self {
            document,
            schemas: expand(document, [document]),
        }
    }

    /// A field of an object.
    pub(crate) fn field(&self, key: &str) -> Self {
        let named = self.schemas.iter().filter_map(|schema| {
            let properties = schema.get("properties").and_then(|all| all.get(key));
            properties.or_else(|| schema.get("additionalProperties"))
        });
        Self {
            document: self.document,
            schemas: expand(self.document, named),
        }
    }

    /// An element of an array.
    pub(crate) fn item(&self) -> Self {
        let items = self.schemas.iter().filter_map(|schema| schema.get("items"));
        Self {
            document: self.document,
            schemas: expand(self.document, items),
        }
    }

    /// What may stand there.
    pub(crate) fn types(&self) -> Types {
        let mut types = Types::default();
        for schema in &self.schemas {
            match schema.get("type") {
                Some(Value::String(name)) => types.add_name(name),
                Some(Value::Array(names)) => {
                    names
                        .iter()
                        .filter_map(Value::as_str)
                        .for_each(|name| types.add_name(name));
                }
                _ => {
                    let values = schema.get("enum").and_then(Value::as_array);
                    values
                        .into_iter()
                        .flatten()
                        .for_each(|value| types.add_value(value));
                    schema
                        .get("const")
                        .into_iter()
                        .for_each(|value| types.add_value(value));
                }
            }
        }
        types
    }
}

/// The schemas themselves and all that they refer to or combine.
fn expand<'a>(document: &'a Value, from: impl IntoIterator<Item = &'a Value>) -> Vec<&'a Value> {
    let mut found: Vec<&Value> = Vec::new();
    let mut queue: Vec<(&Value, usize)> = from.into_iter().map(|schema| (schema, 0)).collect();
    while let Some((schema, references)) = queue.pop() {
        if !schema.is_object() || found.len() >= SCHEMAS_MAX {
            continue;
        }
        found.push(schema);
        if let Some(target) = schema.get("$ref").and_then(Value::as_str)
            && references < REFERENCES_MAX
            && let Some(target) = target.strip_prefix('#').and_then(|at| document.pointer(at))
        {
            queue.push((target, references + 1));
        }
        for key in ["allOf", "anyOf", "oneOf"] {
            let parts = schema.get(key).and_then(Value::as_array);
            // Counted like a reference, since a part may be the way of a loop.
            let parts = parts.into_iter().flatten().map(|part| (part, references));
            queue.extend(parts);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(schema: &Value, path: &[&str], want: &str) {
        let mut at = At::root(schema);
        for part in path {
            at = if *part == "[]" {
                at.item()
            } else {
                at.field(part)
            };
        }
        assert_eq!(at.types().in_words(), want);
    }

    #[test]
    fn a_field_is_found_through_references_and_unions() {
        let schema = json!({
            "type": "object",
            "properties": {
                "plain": { "type": "string" },
                "maybe": { "type": ["integer", "null"] },
                "either": { "anyOf": [{ "$ref": "#/$defs/Size" }, { "type": "null" }] },
                "mode": { "enum": ["a", "b"] },
                "always": { "const": 1 },
                "tags": { "type": "array", "items": { "$ref": "#/$defs/Size" } },
                "free": {},
                "open": true,
            },
            "allOf": [{ "properties": { "more": { "type": "boolean" } } }],
            "additionalProperties": { "type": "object" },
            "$defs": { "Size": { "oneOf": [{ "type": "number" }, { "type": "string" }] } },
        });
        check(&schema, &["plain"], "a text");
        check(&schema, &["maybe"], "a number or null");
        check(&schema, &["either"], "a number or a text or null");
        check(&schema, &["mode"], "a text");
        check(&schema, &["always"], "a number");
        check(&schema, &["tags"], "an array");
        check(&schema, &["tags", "[]"], "a number or a text");
        check(&schema, &["free"], "");
        check(&schema, &["open"], "");
        check(&schema, &["unheard-of"], "an object");
        assert!(At::root(&schema).field("mode").types().is_text());
    }

    #[test]
    fn loops_of_references_end() {
        let schema = json!({
            "$ref": "#/$defs/A",
            "$defs": {
                "A": { "anyOf": [{ "$ref": "#/$defs/A" }, { "$ref": "#" }, { "type": "string" }] },
            },
        });
        check(&schema, &[], "a text");
        check(&json!({ "$ref": "http://elsewhere/x" }), &[], "");
    }
}
