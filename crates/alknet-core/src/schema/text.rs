//! Judging JSON text by a schema while it is parsed, without a tree of values.
//!
//! It knows the keywords of JSON Schema 2020-12 that derived schemas are made
//! of, and answers yes or "do not know", never no: whatever it does not know is
//! left to the full validator, which also says what is wrong. So it may know
//! little, and must be right about that: a test compares the two.

use crate::json::NESTING_MAX;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::{collections::HashMap, fmt};

/// Below this, every integer is a `f64` of the same value.
const EXACT_MAX: i128 = 1 << 53;
/// Required fields of one object: they are noted in a word of bits.
const REQUIRED_MAX: usize = 64;
/// Fields up to this many are looked through: names differ in length mostly.
const SCANNED_MAX: usize = 12;
/// Keywords that say nothing about what is accepted. Formats are annotations
/// in this draft.
const ANNOTATIONS: [&str; 10] = [
    "$comment",
    "$defs",
    "default",
    "deprecated",
    "description",
    "examples",
    "format",
    "readOnly",
    "title",
    "writeOnly",
];

/// A schema that text can be judged by.
#[derive(Debug)]
pub(super) struct TextRules(Vec<Node>);

/// What is accepted, type by type.
#[derive(Clone, Debug, Default)]
struct Node {
    null: bool,
    boolean: bool,
    number: Option<NumberRule>,
    string: Option<StringRule>,
    array: Option<ArrayRule>,
    object: Option<ObjectRule>,
}

#[derive(Clone, Debug, Default)]
struct NumberRule {
    is_integer: bool,
    min: Option<i128>,
    max: Option<i128>,
}

#[derive(Clone, Debug, Default)]
struct StringRule {
    chars_min: usize,
    chars_max: Option<usize>,
    one_of: Option<Vec<Box<str>>>,
}

#[derive(Clone, Debug)]
struct ArrayRule {
    items: usize,
    len_min: usize,
    len_max: Option<usize>,
}

#[derive(Clone, Debug)]
struct ObjectRule {
    /// Sorted by name.
    fields: Vec<Field>,
    /// The bits of those that must be there.
    required: u64,
    /// What holds for every other field; without it there may be none.
    others: Option<usize>,
}

#[derive(Clone, Debug)]
struct Field {
    name: Box<str>,
    node: usize,
    bit: u64,
}

impl TextRules {
    /// Of a schema, if every keyword in it is known here.
    pub(super) fn of(schema: &Value) -> Option<Self> {
        let mut reading = Reading {
            root: schema,
            nodes: Vec::new(),
            references: HashMap::new(),
            any: None,
        };
        reading.node(schema)?;
        let nodes = reading.nodes.into_iter().collect::<Option<_>>()?;
        Some(Self(nodes))
    }

    /// Whether this is surely the text of a value that the schema accepts, and
    /// nests no deeper than 64 levels.
    pub(super) fn accept(&self, text: &[u8]) -> bool {
        let mut parser = serde_json::Deserializer::from_slice(text);
        let judge = Judge {
            rules: self,
            node: 0,
            levels: NESTING_MAX,
        };
        judge.deserialize(&mut parser).is_ok() && parser.end().is_ok()
    }
}

/// A schema that is being read. A node without content is one that is not read
/// to its end yet: it refers to itself.
struct Reading<'s> {
    root: &'s Value,
    nodes: Vec<Option<Node>>,
    references: HashMap<&'s str, usize>,
    /// The node that accepts everything.
    any: Option<usize>,
}

impl<'s> Reading<'s> {
    fn node(&mut self, schema: &'s Value) -> Option<usize> {
        if let Some(target) = schema.get("$ref") {
            only(schema.as_object()?, &["$ref"])?;
            return self.reference(target.as_str()?);
        }
        if schema.as_bool() == Some(true) {
            return Some(self.any());
        }
        let at = self.nodes.len();
        self.nodes.push(None);
        let node = self.content(schema.as_object()?)?;
        self.nodes[at] = Some(node);
        Some(at)
    }

    fn any(&mut self) -> usize {
        let at = self.any.unwrap_or(self.nodes.len());
        if self.any.is_none() {
            self.any = Some(at);
            self.nodes.push(Some(Node {
                null: true,
                boolean: true,
                number: Some(NumberRule::default()),
                string: Some(StringRule::default()),
                array: Some(ArrayRule {
                    items: at,
                    len_min: 0,
                    len_max: None,
                }),
                object: Some(ObjectRule {
                    fields: Vec::new(),
                    required: 0,
                    others: Some(at),
                }),
            }));
        }
        at
    }

    fn node_or_any(&mut self, schema: Option<&'s Value>) -> Option<usize> {
        match schema {
            Some(schema) => self.node(schema),
            None => Some(self.any()),
        }
    }

    fn reference(&mut self, target: &'s str) -> Option<usize> {
        if let Some(known) = self.references.get(target) {
            return Some(*known);
        }
        let name = target.strip_prefix("#/$defs/")?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if !name.bytes().all(is_plain) {
            return None;
        }
        let root: &'s Value = self.root;
        let schema = root.get("$defs")?.get(name)?;
        // What would refer to something else without an end.
        if schema.get("$ref").is_some() {
            return None;
        }
        self.references.insert(target, self.nodes.len());
        self.node(schema)
    }

    fn content(&mut self, object: &'s Map<String, Value>) -> Option<Node> {
        if let Some(choice) = object.get("anyOf").or_else(|| object.get("oneOf")) {
            only(object, &["anyOf", "oneOf"])?;
            if object.contains_key("anyOf") && object.contains_key("oneOf") {
                return None;
            }
            return self.choice(choice.as_array()?);
        }
        self.typed(object)
    }

    /// One of several, of which no two accept the same type: so the type says
    /// which it is, and any is one.
    fn choice(&mut self, choices: &'s [Value]) -> Option<Node> {
        let mut all = Node::default();
        for choice in choices {
            let at = self.node(choice)?;
            let Node {
                null,
                boolean,
                number,
                string,
                array,
                object,
            } = self.nodes[at].clone()?;
            if (all.null && null) || (all.boolean && boolean) {
                return None;
            }
            all.null |= null;
            all.boolean |= boolean;
            either(&mut all.number, number)?;
            either(&mut all.array, array)?;
            either(&mut all.object, object)?;
            match (&mut all.string, string) {
                (Some(held), Some(more)) => held.unite(more)?,
                (held, more) => either(held, more)?,
            }
        }
        Some(all)
    }

    fn typed(&mut self, schema: &'s Map<String, Value>) -> Option<Node> {
        only(
            schema,
            &[
                "additionalProperties",
                "const",
                "enum",
                "items",
                "maxItems",
                "maxLength",
                "maximum",
                "minItems",
                "minLength",
                "minimum",
                "properties",
                "required",
                "type",
            ],
        )?;
        if schema.contains_key("enum") || schema.contains_key("const") {
            return named(schema);
        }
        let mut node = Node::default();
        for kind in types(schema)? {
            match kind {
                "null" => node.null = true,
                "boolean" => node.boolean = true,
                // Whoever accepts numbers accepts integers.
                "integer" if node.number.is_some() => {}
                "integer" | "number" => {
                    node.number = Some(NumberRule {
                        is_integer: kind == "integer",
                        min: bound(schema.get("minimum"))?,
                        max: bound(schema.get("maximum"))?,
                    });
                }
                "string" => {
                    node.string = Some(StringRule {
                        chars_min: length(schema.get("minLength"))?.unwrap_or(0),
                        chars_max: length(schema.get("maxLength"))?,
                        one_of: None,
                    });
                }
                "array" => {
                    node.array = Some(ArrayRule {
                        items: self.node_or_any(schema.get("items"))?,
                        len_min: length(schema.get("minItems"))?.unwrap_or(0),
                        len_max: length(schema.get("maxItems"))?,
                    });
                }
                "object" => node.object = Some(self.object(schema)?),
                _ => return None,
            }
        }
        Some(node)
    }

    fn object(&mut self, schema: &'s Map<String, Value>) -> Option<ObjectRule> {
        let mut fields = Vec::new();
        if let Some(properties) = schema.get("properties") {
            for (name, schema) in properties.as_object()? {
                fields.push(Field {
                    name: name.as_str().into(),
                    node: self.node(schema)?,
                    bit: 0,
                });
            }
        }
        // A map keeps the order of its fields if any crate of the build asks
        // serde_json for that.
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        let mut required = 0;
        if let Some(names) = schema.get("required") {
            let names = names.as_array()?;
            if names.len() > REQUIRED_MAX {
                return None;
            }
            for (at, name) in names.iter().enumerate() {
                let name = name.as_str()?;
                let at_field = fields.binary_search_by(|field| (*field.name).cmp(name));
                let field = &mut fields[at_field.ok()?];
                field.bit = 1 << at;
                required |= field.bit;
            }
        }
        let others = match schema.get("additionalProperties") {
            Some(Value::Bool(false)) => None,
            other => Some(self.node_or_any(other)?),
        };
        // Of a name that is given twice, the first bit is nobody's.
        let required = fields.iter().fold(0, |all, field| all | field.bit) & required;
        Some(ObjectRule {
            fields,
            required,
            others,
        })
    }
}

/// Nothing but these keywords and annotations.
fn only(schema: &Map<String, Value>, known: &[&str]) -> Option<()> {
    let is_known = |key: &str| known.contains(&key) || ANNOTATIONS.contains(&key);
    schema.keys().all(|key| is_known(key)).then_some(())
}

fn types(schema: &Map<String, Value>) -> Option<Vec<&str>> {
    match schema.get("type") {
        // Numbers before integers, which they include.
        None => Some(vec![
            "null", "boolean", "number", "string", "array", "object",
        ]),
        Some(Value::String(one)) => Some(vec![one]),
        Some(Value::Array(several)) => {
            let mut names = several
                .iter()
                .map(Value::as_str)
                .collect::<Option<Vec<_>>>()?;
            names.sort_by_key(|name| *name != "number");
            Some(names)
        }
        Some(_) => None,
    }
}

/// `enum` and `const`, of texts and `null`, alone or beside `type`.
fn named(schema: &Map<String, Value>) -> Option<Node> {
    only(schema, &["const", "enum", "type"])?;
    let values = match (schema.get("enum"), schema.get("const")) {
        (Some(Value::Array(values)), None) => values.as_slice(),
        (None, Some(value)) => std::slice::from_ref(value),
        _ => return None,
    };
    let allowed = types(schema)?;
    let mut node = Node::default();
    for value in values {
        match value {
            Value::Null if allowed.contains(&"null") => node.null = true,
            Value::String(text) if allowed.contains(&"string") => {
                let rule = node.string.get_or_insert_default();
                let names = rule.one_of.get_or_insert_default();
                names.push(text.as_str().into());
            }
            _ => return None,
        }
    }
    Some(node)
}

fn length(value: Option<&Value>) -> Option<Option<usize>> {
    value
        .map(|value| usize::try_from(value.as_u64()?).ok())
        .map_or(Some(None), |length| length.map(Some))
}

fn bound(value: Option<&Value>) -> Option<Option<i128>> {
    let Some(value) = value else {
        return Some(None);
    };
    let whole = value.as_i64().map(i128::from);
    let whole = whole.or_else(|| value.as_u64().map(i128::from))?;
    Some(Some(whole))
}

fn either<T>(held: &mut Option<T>, more: Option<T>) -> Option<()> {
    match (held.is_some(), more) {
        (_, None) => Some(()),
        (false, more) => {
            *held = more;
            Some(())
        }
        (true, Some(_)) => None,
    }
}

impl StringRule {
    /// Accepts what either accepts, if both list it and nothing is on both lists.
    fn unite(&mut self, other: Self) -> Option<()> {
        let (held, more) = (self.one_of.as_mut()?, other.one_of?);
        if more.iter().any(|name| held.contains(name)) {
            return None;
        }
        held.extend(more);
        Some(())
    }

    fn accepts(&self, text: &str) -> bool {
        if let Some(names) = &self.one_of {
            return names.iter().any(|name| **name == *text);
        }
        // Characters are no more than bytes, and a quarter of them at least.
        let bytes = text.len();
        let is_short = self.chars_max.is_none_or(|max| bytes <= max);
        let is_long = bytes.div_ceil(4) >= self.chars_min;
        (is_short && is_long) || {
            let chars = text.chars().count();
            chars >= self.chars_min && self.chars_max.is_none_or(|max| chars <= max)
        }
    }
}

impl NumberRule {
    fn accepts_whole(&self, number: i128) -> bool {
        self.min.is_none_or(|min| number >= min) && self.max.is_none_or(|max| number <= max)
    }

    fn accepts_float(&self, number: f64) -> bool {
        let is_exact = |bound: i128| bound.abs() < EXACT_MAX;
        !self.is_integer
            && self
                .min
                .is_none_or(|min| is_exact(min) && number >= min as f64)
            && self
                .max
                .is_none_or(|max| is_exact(max) && number <= max as f64)
    }
}

/// Looks at one value of the text.
#[derive(Clone, Copy)]
struct Judge<'r> {
    rules: &'r TextRules,
    node: usize,
    levels: usize,
}

impl<'r> Judge<'r> {
    fn node(self) -> &'r Node {
        &self.rules.0[self.node]
    }

    fn at(self, node: usize) -> Self {
        Self { node, ..self }
    }

    fn deeper<E: Error>(self) -> Result<Self, E> {
        let levels = self.levels.checked_sub(1).ok_or_else(unknown)?;
        Ok(Self { levels, ..self })
    }
}

/// Why is not said: the full validator does.
fn unknown<E: Error>() -> E {
    E::custom("")
}

fn known<E: Error>(accepted: bool) -> Result<(), E> {
    accepted.then_some(()).ok_or_else(unknown)
}

impl<'de> DeserializeSeed<'de> for Judge<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Judge<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what the schema accepts")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        known(self.node().null)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        known(self.node().boolean)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        let rule = self.node().number.as_ref().ok_or_else(unknown)?;
        known(rule.accepts_whole(number.into()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        let rule = self.node().number.as_ref().ok_or_else(unknown)?;
        known(rule.accepts_whole(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        let rule = self.node().number.as_ref().ok_or_else(unknown)?;
        known(rule.accepts_float(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        let rule = self.node().string.as_ref().ok_or_else(unknown)?;
        known(rule.accepts(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let rule = self.node().array.as_ref().ok_or_else(unknown)?;
        let item = self.deeper()?.at(rule.items);
        let mut len = 0;
        while items.next_element_seed(item)?.is_some() {
            len += 1;
        }
        known(len >= rule.len_min && rule.len_max.is_none_or(|max| len <= max))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let rule = self.node().object.as_ref().ok_or_else(unknown)?;
        let value = self.deeper()?;
        let (mut found, mut next) = (0, 0);
        while let Some(at) = fields.next_key_seed(Name { rule, next })? {
            // A name that comes twice is judged twice; the last one counts,
            // and is accepted like the others.
            let node = match at {
                Some(at) => {
                    let field = &rule.fields[at];
                    next = at + 1;
                    found |= field.bit;
                    field.node
                }
                None => rule.others.ok_or_else(unknown)?,
            };
            fields.next_value_seed(value.at(node))?;
        }
        known(found & rule.required == rule.required)
    }
}

/// Finds the field of a name.
struct Name<'r> {
    rule: &'r ObjectRule,
    /// The one that follows the field before, in a text in order.
    next: usize,
}

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        let fields = &self.rule.fields;
        let is_at = |at: usize| fields.get(at).is_some_and(|field| *field.name == *name);
        Ok(if is_at(self.next) {
            Some(self.next)
        } else if fields.len() <= SCANNED_MAX {
            (0..fields.len()).find(|at| is_at(*at))
        } else {
            let at = fields.binary_search_by(|field| (*field.name).cmp(name));
            at.ok()
        })
    }
}

#[cfg(test)]
mod tests;
