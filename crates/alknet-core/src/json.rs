//! What the door asks of a JSON value beside its schema: how long and how deep
//! it is, and whether it is the same as another.

use serde_json::{Number, Value};

/// Deepest nesting of a schema, an input or an output that is parsed.
pub(crate) const NESTING_MAX: usize = 64;

/// Bytes of the value as compact JSON text; `None` if it nests deeper than
/// [`NESTING_MAX`].
pub(crate) fn json_len(value: &Value) -> Option<usize> {
    len_within(value, NESTING_MAX)
}

fn len_within(value: &Value, levels: usize) -> Option<usize> {
    Some(match value {
        Value::Null | Value::Bool(true) => 4,
        Value::Bool(false) => 5,
        Value::Number(number) => number_len(number),
        Value::String(text) => text_len(text),
        Value::Array(items) => {
            let inner = levels.checked_sub(1)?;
            let mut len = 2 + items.len().saturating_sub(1);
            for item in items {
                len += len_within(item, inner)?;
            }
            len
        }
        Value::Object(map) => {
            let inner = levels.checked_sub(1)?;
            let mut len = 2 + map.len().saturating_sub(1);
            for (key, item) in map {
                len += text_len(key) + 1 + len_within(item, inner)?;
            }
            len
        }
    })
}

fn number_len(number: &Number) -> usize {
    let digits = |n: u64| n.checked_ilog10().map_or(1, |log| log as usize + 1);
    if let Some(n) = number.as_u64() {
        digits(n)
    } else if let Some(n) = number.as_i64() {
        1 + digits(n.unsigned_abs())
    } else {
        number.to_string().len()
    }
}

fn text_len(text: &str) -> usize {
    let escapes: usize = text
        .bytes()
        .map(|byte| usize::from(ESCAPE[byte as usize]))
        .sum();
    text.len() + escapes + 2
}

/// Bytes that escaping a byte adds.
const ESCAPE: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = 5;
        byte += 1;
    }
    let short = *b"\"\\\n\r\t\x08\x0c";
    let mut at = 0;
    while at < short.len() {
        table[short[at] as usize] = 1;
        at += 1;
    }
    table
};

/// A hash of the value that does not depend on the order of its fields.
pub(crate) fn json_hash(value: &Value) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    feed(&mut hasher, value);
    *hasher.finalize().as_bytes()
}

fn feed(hasher: &mut blake3::Hasher, value: &Value) {
    // Every part starts with its type and, where it has one, its length, so
    // that two different values never feed the same bytes.
    let mut text = |tag: u8, text: &str| {
        hasher.update(&[tag]);
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    match value {
        Value::Null => text(b'n', ""),
        Value::Bool(bit) => text(b'b', if *bit { "1" } else { "0" }),
        Value::Number(number) => text(b'd', &number.to_string()),
        Value::String(inner) => text(b's', inner),
        Value::Array(items) => {
            text(b'[', &items.len().to_string());
            items.iter().for_each(|item| feed(hasher, item));
        }
        Value::Object(map) => {
            text(b'{', &map.len().to_string());
            // A map keeps the order of its fields if any crate of the build
            // asks serde_json for that.
            let mut fields: Vec<_> = map.iter().collect();
            fields.sort_unstable_by_key(|(key, _)| *key);
            for (key, item) in fields {
                hasher.update(&(key.len() as u64).to_le_bytes());
                hasher.update(key.as_bytes());
                feed(hasher, item);
            }
        }
    }
}

/// Whether JSON text nests deeper than [`NESTING_MAX`]; looks at brackets
/// only, so that a hostile text is refused before a parser recurses into it.
pub(crate) fn nests_too_deep(text: &[u8]) -> bool {
    let (mut level, mut in_string, mut escaped) = (0usize, false, false);
    for byte in text {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                level += 1;
                if level > NESTING_MAX {
                    return true;
                }
            }
            b']' | b'}' => level = level.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[\u{0}-\u{40}\"\\\\]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 64, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..6)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_length_is_that_of_the_text(value in any_json()) {
            prop_assert_eq!(json_len(&value), Some(value.to_string().len()));
        }

        #[test]
        fn equal_values_and_only_they_have_one_hash(a in any_json(), b in any_json()) {
            let (x, y) = (a.to_string(), b.to_string());
            prop_assert_eq!(json_hash(&a) == json_hash(&b), x == y);
        }
    }

    #[test]
    fn the_order_of_fields_does_not_change_the_hash() {
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let (a, b) = (
            read(r#"{"a":1,"b":[{"x":1,"y":2}]}"#),
            read(r#"{"b":[{"y":2,"x":1}],"a":1}"#),
        );
        assert_eq!(json_hash(&a), json_hash(&b));
        assert_ne!(
            json_hash(&json!(["ab", "c"])),
            json_hash(&json!(["a", "bc"]))
        );
    }

    #[test]
    fn a_value_may_nest_64_levels_and_not_65() {
        let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!([inner]));
        assert!(json_len(&nested(64)).is_some() && json_len(&nested(65)).is_none());
    }

    #[test]
    fn text_may_nest_64_levels_and_not_65() {
        let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(!nests_too_deep(nested(64).as_bytes()) && nests_too_deep(nested(65).as_bytes()));
        assert!(!nests_too_deep(
            format!("\"{}\"", "[\\\"".repeat(100)).as_bytes()
        ));
    }
}
