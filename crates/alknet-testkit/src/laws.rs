//! Laws over a whole catalogue: what holds of every operation, whoever wrote
//! it. Run them on all operations that a node comes with.

use alknet_core::{Access, Entry, Kind, OperationName, OperationSpec, Schema, View, Visibility};
use serde_json::Value;

/// Operations that may be called by anybody.
const PUBLIC: &[&str] = &[];

/// Checks every local operation of a view, and answers with what is broken.
#[must_use]
pub fn check_catalogue(view: &View) -> Vec<String> {
    check_catalogue_with(view, PUBLIC)
}

/// [`check_catalogue`] with these operations open to anybody.
#[must_use]
pub fn check_catalogue_with(view: &View, public: &[&str]) -> Vec<String> {
    view.local()
        .flat_map(|entry| check_entry(entry, public))
        .collect()
}

fn check_entry(entry: &Entry, public: &[&str]) -> Vec<String> {
    let spec = entry.spec();
    let mut broken = Vec::new();
    let name = spec.name.as_str();
    if OperationName::parse(name).as_ref() != Ok(&spec.name) {
        broken.push("the name does not parse".into());
    }
    if !is_one_sentence(&spec.summary) {
        broken.push(format!(
            "the summary is not one sentence: {:?}",
            spec.summary
        ));
    }
    if spec.access == Access::Public && !public.contains(&name) {
        broken.push("is public, and not on the list".into());
    }
    if spec.access == Access::Public && spec.visibility == Visibility::Internal {
        broken.push("is internal and public at once".into());
    }
    if !spec.hints.fit(spec.kind) || (spec.kind == Kind::Query && !spec.hints.idempotent) {
        broken.push(format!("its hints do not fit a {}", spec.kind));
    }
    for error in spec
        .errors
        .iter()
        .filter(|error| error.description.trim().is_empty())
    {
        broken.push(format!("`{}` has no description", error.code));
    }
    check_schemas(spec, &mut broken);
    check_examples(spec, &mut broken);
    check_rule(spec, &mut broken);
    broken
        .into_iter()
        .map(|what| format!("`{name}`: {what}"))
        .collect()
}

/// Starts with a capital, ends with the only full stop that ends a word.
fn is_one_sentence(text: &str) -> bool {
    let starts = text
        .chars()
        .next()
        .is_some_and(|c| c.is_uppercase() || c == '`');
    let body = text.strip_suffix('.');
    starts
        && body.is_some_and(|body| {
            !body.contains(". ") && !body.contains('\n') && !body.ends_with('.')
        })
}

fn check_schemas(spec: &OperationSpec, broken: &mut Vec<String>) {
    let details = spec
        .errors
        .iter()
        .filter_map(|error| error.details.as_ref());
    let all = [("input", &spec.input), ("output", &spec.output)];
    for (what, schema) in all
        .into_iter()
        .chain(details.map(|schema| ("error's", schema)))
    {
        if let Err(error) = schema.check_compiles() {
            broken.push(format!("its {what} schema: {error}"));
        }
    }
    for pointer in undescribed_fields(&spec.input) {
        broken.push(format!("field `{pointer}` of the input has no description"));
    }
    let field = |schema: &Schema, name: &str| {
        schema
            .value()
            .pointer(&format!("/properties/{name}"))
            .is_some()
    };
    if let Some(resume) = &spec.resume {
        if !field(&spec.output, &resume.item_field) {
            broken.push(format!(
                "resumes by `{}`, which its items have not",
                resume.item_field
            ));
        }
        if !field(&spec.input, &resume.input_field) {
            broken.push(format!(
                "resumes by `{}`, which its input has not",
                resume.input_field
            ));
        }
    }
}

fn check_examples(spec: &OperationSpec, broken: &mut Vec<String>) {
    for (at, example) in spec.examples.iter().enumerate() {
        let at = at + 1;
        if let Err(violations) = spec.input.check(&example.input) {
            broken.push(format!(
                "example {at} has an input that breaks the schema: {violations:?}"
            ));
        }
        // A channel's output is its opening reply, an example's its result.
        let checked = spec.kind != Kind::Channel;
        if let (true, Err(violations)) = (checked, spec.output.check(&example.output)) {
            broken.push(format!(
                "example {at} has an output that breaks the schema: {violations:?}"
            ));
        }
    }
}

/// A rule that points at nothing denies everybody: no input can satisfy it.
fn check_rule(spec: &OperationSpec, broken: &mut Vec<String>) {
    let Access::Rule(rule) = &spec.access else {
        return;
    };
    for rule in &rule.resources {
        let pointer = rule.at.as_str();
        if !has_pointer(spec.input.value(), pointer) {
            broken.push(format!(
                "its rule looks at `{pointer}`, which the input has not"
            ));
        }
        let action_is_word = !rule.action.is_empty() && !rule.action.contains(char::is_whitespace);
        if !action_is_word {
            broken.push(format!("its rule for `{pointer}` has no action"));
        }
    }
}

/// Whether an object that satisfies the schema may have something there. A
/// schema that states no properties says nothing against it.
fn has_pointer(schema: &Value, pointer: &str) -> bool {
    let mut here = schema;
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        here = match resolve(schema, here).get("properties") {
            Some(properties) => match properties.get(&part) {
                Some(inner) => inner,
                None => return false,
            },
            None => return true,
        };
    }
    true
}

/// Follows references within the document.
fn resolve<'s>(root: &'s Value, mut schema: &'s Value) -> &'s Value {
    for _ in 0..16 {
        let target = schema
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|target| target.strip_prefix('#'));
        match target.and_then(|target| root.pointer(target)) {
            Some(next) => schema = next,
            None => break,
        }
    }
    schema
}

/// Pointers of fields of an object that say nothing about themselves, those of
/// objects inside it included.
fn undescribed_fields(schema: &Schema) -> Vec<String> {
    let mut found = Vec::new();
    walk(schema.value(), schema.value(), String::new(), 0, &mut found);
    found
}

fn walk(root: &Value, schema: &Value, at: String, depth: usize, found: &mut Vec<String>) {
    // Deep enough for what people read; recursive types end here.
    if depth > 6 {
        return;
    }
    let own = resolve(root, schema);
    for (name, field) in own
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let pointer = format!("{at}/{name}");
        let said = [field, resolve(root, field)].iter().any(|schema| {
            schema
                .get("description")
                .and_then(Value::as_str)
                .is_some_and(|text| !text.trim().is_empty())
        });
        if !said {
            found.push(pointer.clone());
        }
        walk(root, field, pointer, depth + 1, found);
    }
    for keyword in ["anyOf", "oneOf", "allOf"] {
        for branch in own
            .get(keyword)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            walk(root, branch, at.clone(), depth + 1, found);
        }
    }
    if let Some(items) = own.get("items") {
        walk(root, items, format!("{at}/*"), depth + 1, found);
    }
}
