//! Schemas of configured operations: the shorthand, a whole JSON Schema
//! (draft 2020-12), or a file.

use super::config::{Problems, SchemaConfig};
use alknet_core::Schema;
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, path::Path};

/// Largest schema file, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// The types of JSON Schema.
const TYPES: [&str; 7] = [
    "string", "integer", "number", "boolean", "array", "object", "null",
];

/// An input as callers see it, and what commands know of its fields.
pub(crate) struct Parsed {
    pub(crate) schema: Schema,
    pub(crate) fields: Fields,
}

/// The fields of an input.
pub(crate) type Fields = BTreeMap<String, Field>;

/// A field of an input.
#[derive(Clone, Debug, Default)]
pub(crate) struct Field {
    /// What it is, as far as the schema tells.
    pub(crate) shape: Shape,
    /// Its value may begin with `-`.
    pub(crate) dash: bool,
    /// Stands in when it is absent.
    pub(crate) default: Option<Value>,
}

/// Whether a field can be part of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The schema does not tell: each value is looked at.
    #[default]
    Unknown,
    /// A string, a number or a boolean.
    Scalar,
    /// An array of these.
    Array,
    /// Anything else.
    Other,
}

/// Reads the input of an operation.
pub(crate) fn parse(
    config: Option<&SchemaConfig>,
    base_dir: &Path,
    problems: &mut Problems,
) -> Option<Parsed> {
    let none = SchemaConfig(json!({}));
    let Read { mut value, whole } = read("input", config.unwrap_or(&none), base_dir, problems)?;
    if whole && value.get("type") != Some(&json!("object")) {
        problems.add(
            "input",
            "is no schema of an object: `type` must be `object`",
        );
        return None;
    }
    let mut fields = Fields::new();
    if let Some(Value::Object(properties)) = value.get_mut("properties") {
        for (name, property) in properties {
            fields.insert(name.clone(), field(name, property, problems));
        }
    }
    let schema = compile("input", value, problems)?;
    Some(Parsed { schema, fields })
}

/// Reads the shape of an output.
pub(crate) fn parse_output(
    config: &SchemaConfig,
    base_dir: &Path,
    problems: &mut Problems,
) -> Option<Schema> {
    if config.0 == Value::Bool(true) {
        return Some(Schema::any());
    }
    let read = read("output_schema", config, base_dir, problems)?;
    compile("output_schema", read.value, problems)
}

struct Read {
    value: Value,
    /// It was no shorthand.
    whole: bool,
}

fn read(
    field: &str,
    config: &SchemaConfig,
    base_dir: &Path,
    problems: &mut Problems,
) -> Option<Read> {
    let Value::Object(table) = &config.0 else {
        problems.add(
            field,
            "is no table: write fields, such as `{ city = \"string\" }`",
        );
        return None;
    };
    if let Some(file) = named_file(table) {
        let value = read_file(field, &base_dir.join(file), problems)?;
        return Some(Read { value, whole: true });
    }
    let is_whole = table.contains_key("$schema")
        || (table.get("type") == Some(&json!("object"))
            && table.get("properties").is_some_and(Value::is_object));
    if is_whole {
        return Some(Read {
            value: config.0.clone(),
            whole: true,
        });
    }
    let value = shorthand(field, table, problems)?;
    Some(Read {
        value,
        whole: false,
    })
}

/// `{ file = "x.json" }`; `{ file = "string" }` is a field named `file`.
fn named_file(table: &Map<String, Value>) -> Option<&str> {
    match (table.len(), table.get("file")) {
        (1, Some(Value::String(file))) if !TYPES.contains(&file.as_str()) => Some(file),
        _ => None,
    }
}

fn read_file(field: &str, path: &Path, problems: &mut Problems) -> Option<Value> {
    let shown = path.display();
    let length = std::fs::metadata(path).map(|found| found.len());
    let text = match length {
        Ok(length) if length > FILE_BYTES_MAX => {
            problems.add(
                field,
                format!("`{shown}` has {length} bytes, at most {FILE_BYTES_MAX} are read"),
            );
            return None;
        }
        Ok(_) => std::fs::read(path),
        Err(error) => Err(error),
    };
    match text.map(|text| serde_json::from_slice(&text)) {
        Ok(Ok(value)) => Some(value),
        Ok(Err(error)) => {
            problems.add(field, format!("`{shown}` is not JSON: {error}"));
            None
        }
        Err(error) => {
            problems.add(field, format!("`{shown}` cannot be read: {error}"));
            None
        }
    }
}

fn shorthand(field: &str, table: &Map<String, Value>, problems: &mut Problems) -> Option<Value> {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    let mut is_fine = true;
    for (name, property) in table {
        let at = format!("{field}.{name}");
        let mut property = match property {
            Value::String(kind) if TYPES.contains(&kind.as_str()) => {
                Map::from_iter([("type".to_owned(), json!(kind))])
            }
            Value::Object(property) => property.clone(),
            _ => {
                let types = TYPES.join("`, `");
                problems.add(
                    at,
                    format!(
                        "is no schema of a field: write a type (`{types}`) or a table, such as `{{ type = \"string\" }}`"
                    ),
                );
                is_fine = false;
                continue;
            }
        };
        let optional = match property.remove("optional") {
            None => false,
            Some(Value::Bool(optional)) => optional,
            Some(_) => {
                problems.add(at, "`optional` is `true` or `false`");
                is_fine = false;
                false
            }
        };
        if !optional && !property.contains_key("default") {
            required.push(name.clone());
        }
        properties.insert(name.clone(), Value::Object(property));
    }
    is_fine.then(|| {
        json!({
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        })
    })
}

/// What a command must know of a field; `dash` is for us and not for callers.
fn field(name: &str, property: &mut Value, problems: &mut Problems) -> Field {
    let Value::Object(property) = property else {
        return Field::default();
    };
    let at = format!("input.{name}");
    let dash = match property.remove("dash") {
        None => false,
        Some(Value::Bool(dash)) => dash,
        Some(_) => {
            problems.add(&at, "`dash` is `true` or `false`");
            false
        }
    };
    let default = property.get("default").cloned();
    if let Some(default) = &default
        && let Ok(schema) = Schema::from_value(Value::Object(property.clone()))
        && schema.check_compiles().is_ok()
        && schema.check(default).is_err()
    {
        problems.add(
            &at,
            format!("has the default {default}, which breaks its own schema"),
        );
    }
    Field {
        shape: shape(property),
        dash,
        default,
    }
}

fn shape(property: &Map<String, Value>) -> Shape {
    let types: Vec<&str> = match property.get("type") {
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => return Shape::Unknown,
    };
    match types[..] {
        ["array"] => match property.get("items") {
            Some(Value::Object(items)) => match shape(items) {
                Shape::Scalar => Shape::Array,
                Shape::Unknown => Shape::Unknown,
                Shape::Array | Shape::Other => Shape::Other,
            },
            _ => Shape::Unknown,
        },
        _ if types.iter().all(|one| is_scalar(one)) => Shape::Scalar,
        _ if types.iter().any(|one| is_scalar(one) || *one == "array") => Shape::Unknown,
        _ => Shape::Other,
    }
}

fn is_scalar(name: &str) -> bool {
    ["string", "integer", "number", "boolean"].contains(&name)
}

fn compile(field: &str, value: Value, problems: &mut Problems) -> Option<Schema> {
    let schema = Schema::from_value(value).and_then(|schema| {
        schema.compile()?;
        Ok(schema)
    });
    match schema {
        Ok(schema) => Some(schema),
        Err(error) => {
            problems.add(field, error.to_string());
            None
        }
    }
}
