//! JSON Schema, draft 2020-12: kept as text, compiled once, or on demand.

mod text;

use self::text::TextRules;
use crate::{error::Violation, json::NESTING_MAX, near::brief};
use arc_swap::ArcSwapOption;
use jsonschema::{PatternOptions, ValidationError, Validator};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{fmt, sync::Arc};

/// Violations reported for one input.
const VIOLATIONS_MAX: usize = 16;

/// Why a schema cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// Neither an object nor a boolean.
    #[error("a schema is an object or a boolean")]
    NotASchema,
    /// Nested deeper than 64 levels.
    #[error("schema nests deeper than {max} levels")]
    TooDeep {
        /// Levels allowed.
        max: usize,
    },
    /// The compiler refused it.
    #[error("schema does not compile: {reason}")]
    Compile {
        /// What the compiler said.
        reason: String,
    },
}

struct Inner {
    value: Value,
    /// `true` and `{}` accept everything; checking them costs nothing.
    accepts_all: bool,
    validator: ArcSwapOption<Validator>,
    /// The same for text, as far as it goes.
    text: ArcSwapOption<TextRules>,
}

/// A schema; cheap to clone.
#[derive(Clone)]
pub struct Schema(Arc<Inner>);

impl Schema {
    /// Accepts every value.
    #[must_use]
    pub fn any() -> Self {
        Self::from_checked(Value::Bool(true))
    }

    /// The schema of what `T` accepts.
    #[must_use]
    pub fn input_of<T: schemars::JsonSchema>() -> Self {
        Self::of::<T>(schemars::generate::SchemaSettings::draft2020_12().for_deserialize())
    }

    /// The schema of what `T` produces.
    #[must_use]
    pub fn output_of<T: schemars::JsonSchema>() -> Self {
        Self::of::<T>(schemars::generate::SchemaSettings::draft2020_12().for_serialize())
    }

    fn of<T: schemars::JsonSchema>(settings: schemars::generate::SchemaSettings) -> Self {
        let mut value = settings
            .into_generator()
            .into_root_schema_for::<T>()
            .to_value();
        if let Value::Object(map) = &mut value {
            map.remove("$schema");
            // `AnyValue` and other type names say nothing to a caller.
            map.remove("title");
        }
        Self::from_checked(value)
    }

    /// Takes a hand-written or foreign schema.
    ///
    /// # Errors
    ///
    /// [`SchemaError::NotASchema`], or [`SchemaError::TooDeep`]. Whether it
    /// compiles is known after [`Schema::compile`].
    pub fn from_value(value: Value) -> Result<Self, SchemaError> {
        if !matches!(value, Value::Object(_) | Value::Bool(_)) {
            return Err(SchemaError::NotASchema);
        }
        if depth(&value) > NESTING_MAX {
            return Err(SchemaError::TooDeep { max: NESTING_MAX });
        }
        Ok(Self::from_checked(value))
    }

    fn from_checked(value: Value) -> Self {
        let accepts_all = match &value {
            Value::Bool(accept) => *accept,
            Value::Object(map) => map
                .keys()
                .all(|key| matches!(key.as_str(), "title" | "description" | "$schema")),
            _ => false,
        };
        Self(Arc::new(Inner {
            value,
            accepts_all,
            validator: ArcSwapOption::empty(),
            text: ArcSwapOption::empty(),
        }))
    }

    /// The schema as JSON.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.0.value
    }

    /// Compiles the validator and keeps it.
    ///
    /// Patterns run in linear time, references leave the document never.
    ///
    /// # Errors
    ///
    /// [`SchemaError::Compile`] with what is wrong.
    pub fn compile(&self) -> Result<(), SchemaError> {
        if !self.0.accepts_all && self.0.validator.load().is_none() {
            self.0.validator.store(Some(Arc::new(self.build()?)));
            let rules = TextRules::of(&self.0.value).map(Arc::new);
            self.0.text.store(rules);
        }
        Ok(())
    }

    /// Compiles it to see whether that works, and keeps nothing: a compiled
    /// validator costs kilobytes.
    ///
    /// # Errors
    ///
    /// [`SchemaError::Compile`] with what is wrong.
    pub fn check_compiles(&self) -> Result<(), SchemaError> {
        if self.0.accepts_all {
            Ok(())
        } else {
            self.build().map(drop)
        }
    }

    /// Whether a validator is held.
    pub(crate) fn is_compiled(&self) -> bool {
        self.0.accepts_all || self.0.validator.load().is_some()
    }

    /// Gives the validator's memory back; the next check compiles again.
    pub(crate) fn forget(&self) {
        self.0.validator.store(None);
        self.0.text.store(None);
    }

    fn build(&self) -> Result<Validator, SchemaError> {
        jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .with_pattern_options(PatternOptions::regex())
            .build(&self.0.value)
            .map_err(|error| SchemaError::Compile {
                reason: error.to_string(),
            })
    }

    /// Checks `value`; the validator is compiled if need be, and kept.
    ///
    /// # Errors
    ///
    /// Up to 16 violations with pointers.
    pub fn check(&self, value: &Value) -> Result<(), Vec<Violation>> {
        if self.0.accepts_all {
            return Ok(());
        }
        if let Some(validator) = &*self.0.validator.load() {
            return judge(validator, value);
        }
        let built = Arc::new(self.build().map_err(unusable)?);
        self.0.validator.store(Some(built.clone()));
        judge(&built, value)
    }

    /// Whether this is surely the JSON text of a value that [`Schema::check`]
    /// accepts, nested no deeper than 64 levels. "No" says nothing: it may be
    /// one all the same.
    ///
    /// Where it is one, no tree of values has to be made to know that.
    pub(crate) fn accepts_text(&self, text: &[u8]) -> bool {
        let rules = self.0.text.load();
        rules.as_ref().is_some_and(|rules| rules.accept(text))
    }

    /// Checks `value` without keeping a validator that was not held before.
    pub(crate) fn check_once(&self, value: &Value) -> Result<(), Vec<Violation>> {
        if self.0.accepts_all {
            return Ok(());
        }
        match &*self.0.validator.load() {
            Some(validator) => judge(validator, value),
            None => judge(&self.build().map_err(unusable)?, value),
        }
    }
}

fn unusable(error: SchemaError) -> Vec<Violation> {
    vec![Violation {
        pointer: String::new(),
        message: error.to_string(),
    }]
}

fn judge(validator: &Validator, value: &Value) -> Result<(), Vec<Violation>> {
    if validator.is_valid(value) {
        return Ok(());
    }
    let violations = validator.iter_errors(value).take(VIOLATIONS_MAX);
    Err(violations
        .map(|error| Violation {
            pointer: error.instance_path().to_string(),
            message: message(&error),
        })
        .collect())
}

/// What is wrong, without the value: it may be a secret, and so may a name
/// that is none.
fn message(error: &ValidationError<'_>) -> String {
    use jsonschema::error::ValidationErrorKind::{AdditionalProperties, UnevaluatedProperties};
    if let AdditionalProperties { unexpected } | UnevaluatedProperties { unexpected } = error.kind()
        && let Some(odd) = unexpected.iter().find(|name| brief(name) != **name)
    {
        let odd = brief(odd);
        return format!("Additional properties are not allowed ('{odd}' was unexpected)");
    }
    error.masked_with("the value").to_string()
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.value.fmt(f)
    }
}

impl PartialEq for Schema {
    fn eq(&self, other: &Self) -> bool {
        self.0.value == other.0.value
    }
}

impl Serialize for Schema {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.0.value.serialize(s)
    }
}

impl<'de> Deserialize<'de> for Schema {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Schema::from_value(Value::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn violations_name_the_pointer() {
        let schema = Schema::from_value(json!({"type":"object","properties":{"n":{"type":"integer"}},"additionalProperties":false})).unwrap();
        let violations = schema.check(&json!({"n": "x"})).unwrap_err();
        assert_eq!(violations[0].pointer, "/n");
        assert!(schema.check(&json!({"m": 1})).is_err() && schema.check(&json!({"n": 1})).is_ok());
    }

    #[test]
    fn a_secret_value_is_not_repeated_in_the_message() {
        let schema = Schema::from_value(json!({"type":"integer"})).unwrap();
        let text = schema.check(&json!("hunter2")).unwrap_err()[0]
            .message
            .clone();
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn a_secret_in_the_place_of_a_name_is_not_repeated_either() {
        let schema =
            Schema::from_value(json!({"properties":{"secret":{}},"additionalProperties":false}))
                .unwrap();
        let told = |name: &str| {
            let input = Value::Object([(name.to_owned(), json!(1))].into_iter().collect());
            schema.check(&input).unwrap_err()[0].message.clone()
        };
        assert!(told("secrte").contains("'secrte'"));
        let text = told("ghp_0123456789abcdef0123456789abcdef");
        assert!(
            text.contains("'ghp_0123…'") && !text.contains("456"),
            "{text}"
        );
    }

    #[test]
    fn outside_references_and_catastrophic_patterns_do_not_compile_or_run() {
        let outside = Schema::from_value(json!({"$ref": "http://127.0.0.1:9/x.json"})).unwrap();
        assert!(outside.compile().is_err());
        let lookaround = Schema::from_value(json!({"type":"string","pattern":"^(a+)+$"})).unwrap();
        assert!(lookaround.check(&json!("a".repeat(50_000) + "!")).is_err());
    }

    #[test]
    fn a_schema_may_nest_64_levels_and_not_65() {
        let nested =
            |levels: usize| (1..levels).fold(json!({}), |inner, _| json!({ "not": inner }));
        assert!(Schema::from_value(nested(64)).is_ok());
        assert!(matches!(
            Schema::from_value(nested(65)),
            Err(SchemaError::TooDeep { max: 64 })
        ));
    }
}
