//! Puts typed values into the object that is sent.

use super::{Field, FieldValue, InputError, excerpt, not_json, schema::At};
use serde_json::{Map, Value};

/// Text of a file, already read: [`FieldValue::File`] and
/// [`FieldValue::JsonFile`] must have been replaced before.
///
/// # Errors
///
/// [`InputError`] if a text does not fit its field, or fields contradict each
/// other.
pub(crate) fn build(fields: Vec<Field>, schema: Option<&Value>) -> Result<Value, InputError> {
    let anything = Value::Bool(true);
    let root = At::root(schema.unwrap_or(&anything));
    let mut object = Map::new();
    for group in grouped(fields) {
        let at = group
            .path
            .iter()
            .fold(root.clone(), |at, part| at.field(part));
        let value = group_value(&group, &at)?;
        insert(&mut object, &group.path, value)?;
    }
    Ok(Value::Object(object))
}

/// All that was given for one path, in the order given.
struct Group {
    path: Vec<String>,
    values: Vec<FieldValue>,
}

fn grouped(fields: Vec<Field>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for field in fields {
        match groups.iter_mut().find(|group| group.path == field.path) {
            Some(group) => group.values.push(field.value),
            None => groups.push(Group {
                path: field.path,
                values: vec![field.value],
            }),
        }
    }
    groups
}

fn group_value(group: &Group, at: &At<'_>) -> Result<Value, InputError> {
    let key = group.path.join(".");
    let is_list = at.types().array;
    match group.values.as_slice() {
        [FieldValue::Text(text)] if is_list => list(&key, text, at),
        [only] => typed(&key, only, at),
        several => {
            let element = if is_list { at.item() } else { at.clone() };
            several
                .iter()
                .map(|value| typed(&key, value, &element))
                .collect()
        }
    }
}

/// A field that may be an array, given once: an array if that is what was
/// written, what else the field may be, or an array of one.
fn list(key: &str, text: &str, at: &At<'_>) -> Result<Value, InputError> {
    let parsed = serde_json::from_str::<Value>(text).ok();
    let types = at.types();
    match parsed {
        Some(value) if !value.is_string() && types.fits(&value) => Ok(value),
        _ if types.string => Ok(Value::String(text.into())),
        _ => typed(key, &FieldValue::Text(text.into()), &at.item())
            .map(|one| Value::Array(vec![one])),
    }
}

fn typed(key: &str, value: &FieldValue, at: &At<'_>) -> Result<Value, InputError> {
    match value {
        FieldValue::Json(value) => Ok(value.clone()),
        FieldValue::JsonFile(text) => {
            serde_json::from_str(text).map_err(|error| not_json(text, &error))
        }
        FieldValue::Text(text) | FieldValue::File(text) => typed_text(key, text, at),
    }
}

fn typed_text(key: &str, text: &str, at: &At<'_>) -> Result<Value, InputError> {
    let types = at.types();
    let as_text = || Value::String(text.into());
    if types.is_text() {
        return Ok(as_text());
    }
    match serde_json::from_str::<Value>(text) {
        // Quoted text where the type is open: the quotes are meant.
        Ok(value) if types.is_unknown() || types.fits(&value) => Ok(value),
        // The node says better than we can what is wrong with a value.
        Ok(value) if !types.string => Ok(value),
        _ if types.is_unknown() || types.string => Ok(as_text()),
        _ => Err(InputError::Wanted {
            key: key.into(),
            wanted: types.in_words(),
            text: excerpt(text),
        }),
    }
}

fn insert(
    object: &mut Map<String, Value>,
    path: &[String],
    value: Value,
) -> Result<(), InputError> {
    let clash = || InputError::Clash {
        key: path.join("."),
    };
    let (last, parents) = path.split_last().ok_or_else(clash)?;
    let mut object = object;
    for part in parents {
        object = object
            .entry(part.clone())
            .or_insert_with(|| Value::Object(Map::new()))
            .as_object_mut()
            .ok_or_else(clash)?;
    }
    match object.insert(last.clone(), value) {
        None => Ok(()),
        Some(_) => Err(clash()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::input::{Words, read};
    use proptest::prelude::*;
    use serde_json::json;

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
            },
        })
    }

    fn built(words: &[&str], schema: Option<&Value>) -> Result<Value, InputError> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        match read(&words)? {
            Words::Fields(fields) => build(fields, schema),
            other => panic!("{other:?} are no fields"),
        }
    }

    #[track_caller]
    fn check(words: &[&str], want: Value) {
        assert_eq!(built(words, Some(&schema())), Ok(want));
    }

    #[test]
    fn the_schema_decides_what_a_text_is() {
        check(&["name=5"], json!({ "name": "5" }));
        check(&["name=null"], json!({ "name": "null" }));
        check(&["name=\"x\""], json!({ "name": "\"x\"" }));
        check(&["title=null"], json!({ "title": "null" }));
        check(&["title:=null"], json!({ "title": null }));
        check(&["count=5"], json!({ "count": 5 }));
        check(&["force=true"], json!({ "force": true }));
        check(&["mixed=5"], json!({ "mixed": 5 }));
        check(&["mixed=five"], json!({ "mixed": "five" }));
        check(&["mixed=true"], json!({ "mixed": "true" }));
        check(
            &["nested.zip=0123", "nested.n=1.5"],
            json!({ "nested": { "zip": "0123", "n": 1.5 } }),
        );
        check(
            &["other=5", "more=text"],
            json!({ "other": 5, "more": "text" }),
        );
    }

    #[test]
    fn repetition_makes_an_array() {
        check(&["tags=1", "tags=b"], json!({ "tags": ["1", "b"] }));
        check(&["tags=1"], json!({ "tags": ["1"] }));
        check(&["tags=[\"a\",\"b\"]"], json!({ "tags": ["a", "b"] }));
        check(&["tags=[x]"], json!({ "tags": ["[x]"] }));
        check(&["sizes=1", "sizes:=2"], json!({ "sizes": [1, 2] }));
        check(&["name=a", "name=b"], json!({ "name": ["a", "b"] }));
        check(&["one_or_many=a"], json!({ "one_or_many": "a" }));
        check(
            &["one_or_many=a", "one_or_many=b"],
            json!({ "one_or_many": ["a", "b"] }),
        );
    }

    #[test]
    fn without_a_schema_json_is_json_and_the_rest_is_text() {
        assert_eq!(
            built(&["a=1", "b=x", "c.d=true", "e={\"f\":[]}"], None),
            Ok(json!({ "a": 1, "b": "x", "c": { "d": true }, "e": { "f": [] } }))
        );
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let error = |words: &[&str]| built(words, Some(&schema())).unwrap_err().to_string();
        assert_eq!(
            error(&["count=many"]),
            "`count` wants a number, `many` is not"
        );
        assert_eq!(
            error(&["force=yes"]),
            "`force` wants true or false, `yes` is not"
        );
        assert_eq!(error(&["sizes=x"]), "`sizes` wants a number, `x` is not");
        assert_eq!(
            error(&["a=1", "a.b=2"]),
            "`a.b` is given both as a value and as an object"
        );
        assert_eq!(
            error(&["a.b=2", "a=1"]),
            "`a` is given both as a value and as an object"
        );
    }

    proptest! {
        #[test]
        fn building_never_panics(
            words in prop::collection::vec("[a-c.=:@\\\\\"\\[\\]{}0-9]{0,12}", 0..6),
            typed in any::<bool>(),
        ) {
            let schema = schema();
            if let Ok(Words::Fields(fields)) = read(&words) {
                let _ = build(fields, typed.then_some(&schema));
            }
        }
    }
}
