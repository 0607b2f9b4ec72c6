//! Who may call an operation, as the operation states it.

use crate::{name::Scope, near::nearest, resource::ResourceKind, schema::Schema};
use serde_json::Value;

/// Who may call. There is no default: silence means the default scope, and
/// `Public` is written out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// Anyone, known or not.
    Public,
    /// Any known caller.
    Authenticated,
    /// Callers that satisfy the rule.
    Rule(AccessControl),
}

impl Access {
    /// Whether it states nothing at all, which denies.
    #[must_use]
    pub fn is_empty_rule(&self) -> bool {
        matches!(self, Access::Rule(rule) if rule.scopes_all.is_empty() && rule.scopes_any.is_empty() && rule.resources.is_empty())
    }

    /// Whether the input has a say: a resource in it must be held.
    pub(crate) fn names_resources(&self) -> bool {
        matches!(self, Access::Rule(rule) if !rule.resources.is_empty())
    }
}

/// Scopes and resources a caller must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessControl {
    /// The caller holds every one.
    pub scopes_all: Vec<Scope>,
    /// And, if not empty, at least one of these.
    pub scopes_any: Vec<Scope>,
    /// And every one of these.
    pub resources: Vec<ResourceRule>,
}

impl AccessControl {
    /// A rule of one scope.
    #[must_use]
    pub fn scope(scope: Scope) -> Self {
        Self {
            scopes_all: vec![scope],
            ..Self::default()
        }
    }
}

/// A resource that the input names and the caller must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceRule {
    /// How the text is read and matched.
    pub kind: ResourceKind,
    /// What is done to it.
    pub action: String,
    /// Where the input names it: a string, or an array of strings.
    pub at: JsonPointer,
    /// Lets a caller through to what it created.
    pub owner: bool,
    /// What the operation acts on when the input names nothing there, in
    /// canonical form. Without one, an input that names nothing is refused.
    pub absent: Option<String>,
    /// For addresses: a name is let through also if only an address that it
    /// might resolve to is held. The handler then asks for each address, with
    /// [`Permit::check_address`](crate::Permit::check_address).
    pub resolves: bool,
}

/// A JSON pointer (RFC 6901).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPointer(String);

/// Not a JSON pointer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a JSON pointer: it is empty or starts with `/`")]
pub struct PointerError(String);

impl JsonPointer {
    /// Parses a pointer.
    ///
    /// # Errors
    ///
    /// [`PointerError`] if it does not start with `/`.
    pub fn parse(text: &str) -> Result<Self, PointerError> {
        if text.is_empty() || text.starts_with('/') {
            Ok(Self(text.into()))
        } else {
            Err(PointerError(text.into()))
        }
    }

    /// The pointer as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What is wrong with it if no input of this schema can have anything
    /// there, as far as the schema tells: an object that lists its properties,
    /// and not this one.
    #[must_use]
    pub fn stray(&self, input: &Schema) -> Option<String> {
        /// Words of JSON Schema that may add properties.
        const OPENING: [&str; 9] = [
            "$ref",
            "$dynamicRef",
            "allOf",
            "anyOf",
            "oneOf",
            "if",
            "dependentSchemas",
            "patternProperties",
            "unevaluatedProperties",
        ];
        let schema = input.value();
        let properties = schema.get("properties")?.as_object()?;
        let is_open = OPENING.iter().any(|word| schema.get(word).is_some())
            || schema
                .get("additionalProperties")
                .is_some_and(|more| more != &Value::Bool(false));
        let first = self.0.get(1..)?.split('/').next()?;
        let first = first.replace("~1", "/").replace("~0", "~");
        if is_open || properties.contains_key(&first) {
            return None;
        }
        let near = nearest(&first, properties.keys().map(String::as_str));
        let meant = near
            .first()
            .map(|name| {
                let name = name.replace('~', "~0").replace('/', "~1");
                format!("; did you mean `/{name}`?")
            })
            .unwrap_or_default();
        Some(format!("`{}` is no field of the input{meant}", self.0))
    }

    pub(crate) fn find<'v>(&self, value: &'v mut Value) -> Option<&'v mut Value> {
        value.pointer_mut(&self.0)
    }
}
