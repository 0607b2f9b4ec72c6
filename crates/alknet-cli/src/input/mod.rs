//! What a person types as the input of a call.
//!
//! One JSON value; or `-` for JSON on standard input; or assignments:
//! `key=value` (the operation's schema decides: string fields take the text as
//! it is, others are parsed as JSON), `key:=JSON`, `key=@FILE` and
//! `key:=@FILE` (`@-` is standard input). `a.b=1` goes into an object,
//! `a\.b=1` is the key `a.b`, and repetition makes an array.

mod build;
mod schema;

use serde_json::Value;

pub(crate) use build::build;

/// The words of a command line, read but not yet typed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Words {
    /// The whole input.
    Whole(Value),
    /// JSON on standard input.
    Stdin,
    /// Fields of an object.
    Fields(Vec<Field>),
}

/// One assignment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Field {
    pub(crate) path: Vec<String>,
    pub(crate) value: FieldValue,
}

/// The right side of an assignment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum FieldValue {
    /// `=`: the schema decides.
    Text(String),
    /// `:=`.
    Json(Value),
    /// `=@`: a file's text, and the schema decides.
    File(String),
    /// `:=@`: a file's JSON.
    JsonFile(String),
}

/// Why the words are no input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InputError {
    #[error("`{word}` is neither `key=value` nor the one JSON value")]
    Word { word: String },
    #[error("`{word}` is not JSON: {reason}")]
    Json { word: String, reason: String },
    #[error("`{word}` has an empty key")]
    EmptyKey { word: String },
    #[error("`{key}` is nested deeper than {max} levels")]
    TooDeep { key: String, max: usize },
    #[error("`{key}` is given both as a value and as an object")]
    Clash { key: String },
    #[error("`{key}` wants {wanted}, `{text}` is not")]
    Wanted {
        key: String,
        wanted: String,
        text: String,
    },
}

/// As deep as a node accepts JSON.
const DEPTH_MAX: usize = 64;

/// Reads the words of a command line.
///
/// # Errors
///
/// [`InputError`] that names the word.
pub(crate) fn read(words: &[String]) -> Result<Words, InputError> {
    match words {
        [] => Ok(Words::Fields(Vec::new())),
        [only] if only == "-" => Ok(Words::Stdin),
        [only] => match serde_json::from_str(only) {
            Ok(value) => Ok(Words::Whole(value)),
            Err(error) if only.trim_start().starts_with(['{', '[', '"']) => {
                Err(not_json(only, &error))
            }
            Err(_) => Ok(Words::Fields(vec![field(only)?])),
        },
        several => several
            .iter()
            .map(|word| field(word))
            .collect::<Result<_, _>>()
            .map(Words::Fields),
    }
}

impl Words {
    /// Whether some value's type is for the schema to decide.
    pub(crate) fn needs_schema(&self) -> bool {
        let decided =
            |field: &Field| matches!(field.value, FieldValue::Json(_) | FieldValue::JsonFile(_));
        matches!(self, Words::Fields(fields) if !fields.iter().all(decided))
    }
}

fn field(word: &str) -> Result<Field, InputError> {
    let (left, right) = word.split_once('=').ok_or_else(|| InputError::Word {
        word: excerpt(word),
    })?;
    let (key, is_json) = match left.strip_suffix(':') {
        Some(key) => (key, true),
        None => (left, false),
    };
    let path = path(key).ok_or_else(|| InputError::EmptyKey {
        word: excerpt(word),
    })?;
    if path.len() >= DEPTH_MAX {
        return Err(InputError::TooDeep {
            key: excerpt(key),
            max: DEPTH_MAX,
        });
    }
    let value = match (is_json, right.strip_prefix('@')) {
        (true, Some(file)) => FieldValue::JsonFile(file.into()),
        (false, Some(file)) => FieldValue::File(file.into()),
        (false, None) => FieldValue::Text(right.into()),
        (true, None) => {
            FieldValue::Json(serde_json::from_str(right).map_err(|error| not_json(right, &error))?)
        }
    };
    Ok(Field { path, value })
}

/// Splits at dots that no `\` precedes; `None` if a part is empty.
fn path(key: &str) -> Option<Vec<String>> {
    let mut parts = vec![String::new()];
    let mut chars = key.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '.' => parts.push(String::new()),
            '\\' if matches!(chars.peek(), Some('.' | '\\')) => {
                let part = parts.last_mut()?;
                part.extend(chars.next());
            }
            c => parts.last_mut()?.push(c),
        }
    }
    parts.iter().all(|part| !part.is_empty()).then_some(parts)
}

pub(crate) fn not_json(word: &str, error: &serde_json::Error) -> InputError {
    InputError::Json {
        word: excerpt(word),
        reason: error.to_string(),
    }
}

/// Keeps error messages short.
fn excerpt(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn words(words: &[&str]) -> Result<Words, InputError> {
        read(
            &words
                .iter()
                .map(|&word| word.to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[track_caller]
    fn check_field(word: &str, path: &[&str], value: FieldValue) {
        let path = path.iter().map(|&part| part.to_owned()).collect();
        assert_eq!(
            words(&[word]).unwrap(),
            Words::Fields(vec![Field { path, value }])
        );
    }

    #[track_caller]
    fn check_error(given: &[&str], want: &str) {
        assert_eq!(words(given).unwrap_err().to_string(), want);
    }

    #[test]
    fn one_json_value_is_the_input() {
        assert_eq!(
            words(&[r#"{"a":"b=c"}"#]),
            Ok(Words::Whole(json!({ "a": "b=c" })))
        );
        assert_eq!(words(&["5"]), Ok(Words::Whole(json!(5))));
        assert_eq!(words(&[r#""a=b""#]), Ok(Words::Whole(json!("a=b"))));
        assert_eq!(words(&["-"]), Ok(Words::Stdin));
        assert_eq!(words(&[]), Ok(Words::Fields(vec![])));
    }

    #[test]
    fn assignments_have_four_forms() {
        check_field("a=1", &["a"], FieldValue::Text("1".into()));
        check_field("a=", &["a"], FieldValue::Text(String::new()));
        check_field("a==b=c", &["a"], FieldValue::Text("=b=c".into()));
        check_field("a:={\"x\":1}", &["a"], FieldValue::Json(json!({ "x": 1 })));
        check_field("a=@f.txt", &["a"], FieldValue::File("f.txt".into()));
        check_field("a:=@-", &["a"], FieldValue::JsonFile("-".into()));
        check_field("a.b=1", &["a", "b"], FieldValue::Text("1".into()));
        check_field(r"a\.b.c\\=1", &["a.b", r"c\"], FieldValue::Text("1".into()));
        check_field(
            "url=http://x/?a=b",
            &["url"],
            FieldValue::Text("http://x/?a=b".into()),
        );
    }

    #[test]
    fn only_untyped_values_need_the_schema() {
        let needs = |given: &[&str]| words(given).unwrap().needs_schema();
        assert!(needs(&["a=1"]) && needs(&["a:=1", "b=@f"]));
        assert!(!needs(&["a:=1"]) && !needs(&[]) && !needs(&["{}"]) && !needs(&["-"]));
    }

    #[test]
    fn what_is_neither_is_named() {
        check_error(
            &["foo"],
            "`foo` is neither `key=value` nor the one JSON value",
        );
        check_error(
            &["a=1", "{}"],
            "`{}` is neither `key=value` nor the one JSON value",
        );
        check_error(&["=1"], "`=1` has an empty key");
        check_error(&["a..b=1"], "`a..b=1` has an empty key");
        check_error(
            &["{\"a\":}"],
            "`{\"a\":}` is not JSON: expected value at line 1 column 6",
        );
        check_error(
            &["a:=x"],
            "`x` is not JSON: expected value at line 1 column 1",
        );
        let deep = format!("{}a=1", "a.".repeat(DEPTH_MAX - 1));
        assert!(matches!(words(&[&deep]), Err(InputError::TooDeep { .. })));
        assert!(words(&[&deep[2..]]).is_ok());
    }

    proptest! {
        #[test]
        fn reading_never_panics(given in prop::collection::vec(".{0,20}", 0..4)) {
            let _ = read(&given);
        }
    }
}
