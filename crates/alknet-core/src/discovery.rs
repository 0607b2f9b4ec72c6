//! What a caller may call: `services/*`, projections of one caller's view.

use crate::{
    access::Access,
    call::Output,
    context::Context,
    dispatch::Dispatcher,
    error::{CallError, ErrorCode},
    identity::Caller,
    name::PeerId,
    operation::{Operation, Registration},
    registry::{Entry, View},
    resource::ResourceKind,
    schema::Schema,
    spec::{ErrorSpec, Example, Hints, Kind, OperationLimits, OperationSpec, Resume, Visibility},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

/// Operations on one page of a listing.
const PAGE_DEFAULT: u32 = 200;
/// Most operations on one page.
const PAGE_MAX: u32 = 1000;

/// An operation as listed and exported; the form in which catalogues travel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CatalogueEntry {
    /// Its name.
    pub name: crate::name::OperationName,
    /// How it answers.
    pub kind: Kind,
    /// One sentence.
    pub summary: String,
    /// The peer that offers it; local if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<PeerId>,
    /// More, in Markdown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Schema of the input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Schema>,
    /// Schema of the reply, of each item, or of the opening reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Schema>,
    /// Declared errors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ErrorSpec>,
    /// What a caller may assume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hints: Option<Hints>,
    /// How a subscription continues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Resume>,
    /// Whether a person must say yes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approve: bool,
    /// Whether the reply is a secret.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secret_output: bool,
    /// Inputs and what may come back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<Example>,
    /// What it needs, as grants are written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    /// Why it should not be used any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deprecated: Option<String>,
}

impl CatalogueEntry {
    /// The specification that an importer gives it: its own access rule, and
    /// no examples, which are the source's promise and not ours.
    #[must_use]
    pub fn into_spec(self, access: Access) -> OperationSpec {
        OperationSpec {
            hints: self
                .hints
                .filter(|hints| hints.fit(self.kind))
                .unwrap_or_else(|| Hints::of(self.kind)),
            name: self.name,
            kind: self.kind,
            visibility: Visibility::External,
            summary: self.summary,
            description: self.description,
            input: self.input.unwrap_or_else(Schema::any),
            output: self.output.unwrap_or_else(Schema::any),
            errors: self
                .errors
                .into_iter()
                .filter(ErrorSpec::is_valid)
                .collect(),
            access,
            // The peer itself asks for the approval.
            approve: false,
            resume: self.resume.filter(|_| self.kind == Kind::Subscription),
            secret_output: self.secret_output,
            examples: self.examples,
            limits: OperationLimits::default(),
            deprecated: self.deprecated,
        }
    }
}

/// The full description of an operation.
pub(crate) fn describe_spec(spec: &OperationSpec) -> CatalogueEntry {
    CatalogueEntry {
        name: spec.name.clone(),
        kind: spec.kind,
        summary: spec.summary.clone(),
        peer: None,
        description: spec.description.clone(),
        input: Some(spec.input.clone()),
        output: Some(spec.output.clone()),
        errors: spec.errors.clone(),
        hints: Some(spec.hints),
        resume: spec.resume.clone(),
        approve: spec.approve,
        secret_output: spec.secret_output,
        examples: spec.examples.clone(),
        needs: needs(&spec.access),
        deprecated: spec.deprecated.clone(),
    }
}

fn needs(access: &Access) -> Vec<String> {
    let Access::Rule(rule) = access else {
        return Vec::new();
    };
    let mut needs: Vec<String> = rule.scopes_all.iter().map(ToString::to_string).collect();
    if !rule.scopes_any.is_empty() {
        needs.push(
            rule.scopes_any
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("|"),
        );
    }
    needs.extend(
        rule.resources
            .iter()
            .map(|rule| format!("{}:{{{}}}={}", rule.kind, rule.at.as_str(), rule.action)),
    );
    needs
}

fn describe(entry: &Entry, schemas: bool) -> CatalogueEntry {
    let mut full = describe_spec(entry.spec());
    full.peer = entry.peer().cloned();
    if !schemas {
        full = CatalogueEntry {
            description: None,
            input: None,
            output: None,
            errors: Vec::new(),
            examples: Vec::new(),
            hints: None,
            resume: None,
            ..full
        };
    }
    full
}

/// Input of `services/list`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct ListInput {
    /// Only names that start with this, such as `fs/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    /// Only this kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<Kind>,
    /// The operations of this peer, as far as the caller may use them here.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    /// With schemas, examples and errors.
    schemas: bool,
    /// Where the last page ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
    /// Operations on a page: 200 if not given, at most 1,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
}

/// Input of `services/schema`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SchemaInput {
    /// The operation's name.
    name: String,
    /// The peer that offers it; local if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
}

/// Input of `services/search`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SearchInput {
    /// Words to look for, in any order.
    query: String,
    /// Only this kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<Kind>,
    /// Only this peer's operations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    /// Most results: 20 if not given, at most 200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NoInput {}

/// A change of what the caller may call.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct WatchItem {
    /// Names the catalogue as this caller sees it; equal text, equal catalogue.
    revision: String,
    /// Operations in it.
    operations: usize,
}

/// `services/list`, `services/schema`, `services/search`, `services/watch`,
/// `services/list-peers`.
#[must_use]
pub fn discovery_operations() -> Vec<Registration> {
    let listed = json!({ "operations": [{ "name": "services/list", "kind": "query", "summary": "Lists what the caller may call." }], "revision": "0f" });
    vec![
        Operation::query("services/list", "Lists what the caller may call.")
            .authenticated()
            .output_schema(list_schema())
            .example(json!({ "prefix": "services/" }), listed)
            .handler(|cx, input: ListInput| async move { list(&cx, &input) }),
        Operation::query("services/schema", "Describes one operation with its schemas.")
            .authenticated()
            .output_schema(entry_schema())
            .example(json!({ "name": "services/list" }), json!({ "name": "services/list", "kind": "query", "summary": "Lists what the caller may call." }))
            .handler(|cx, input: SchemaInput| async move { schema(&cx, &input) }),
        Operation::query("services/search", "Finds operations by words in their names, summaries and parameters.")
            .authenticated()
            .output_schema(search_schema())
            .example(json!({ "query": "list operations" }), json!({ "results": [{ "name": "services/list", "kind": "query", "summary": "Lists what the caller may call.", "score": 8.0 }] }))
            .handler(|cx, input: SearchInput| async move { search(&cx, &input) }),
        Operation::subscription("services/watch", "Tells when what the caller may call has changed.")
            .authenticated()
            .description("The first item comes at once. An item says that something changed: list again.")
            .example(json!({}), json!({ "revision": "0f", "operations": 12 }))
            .stream(|cx, _: NoInput| async move { Ok(watch(cx)) }),
        Operation::query("services/list-peers", "Lists connected peers and what each offers to the caller.")
            .requires("peers:list")
            .output_schema(peers_schema())
            .example(json!({}), json!({ "peers": [{ "peer": "nas", "operations": ["fs/list"] }] }))
            .handler(|cx, _: NoInput| async move { list_peers(&cx) }),
    ]
}

fn hand_written(value: Value) -> Schema {
    Schema::from_value(value).expect("a literal schema")
}

fn entry_properties() -> Value {
    json!({
        "name": { "type": "string" }, "kind": { "enum": ["query", "mutation", "subscription", "channel"] }, "summary": { "type": "string" },
        "peer": { "type": "string" }, "description": { "type": "string" }, "input": true, "output": true,
        "errors": { "type": "array", "items": { "type": "object" } }, "hints": { "type": "object" }, "resume": { "type": "object" },
        "approve": { "type": "boolean" }, "secret_output": { "type": "boolean" },
        "examples": { "type": "array", "items": { "type": "object" } }, "needs": { "type": "array", "items": { "type": "string" } },
        "deprecated": { "type": "string" }, "score": { "type": "number" },
    })
}

fn entry_schema() -> Schema {
    hand_written(
        json!({ "type": "object", "required": ["name", "kind", "summary"], "properties": entry_properties() }),
    )
}

fn list_schema() -> Schema {
    hand_written(json!({
        "type": "object", "required": ["operations", "revision"],
        "properties": {
            "operations": { "type": "array", "items": { "type": "object", "required": ["name", "kind", "summary"], "properties": entry_properties() } },
            "next_cursor": { "type": "string" }, "revision": { "type": "string" },
        },
    }))
}

fn search_schema() -> Schema {
    hand_written(json!({
        "type": "object", "required": ["results"],
        "properties": { "results": { "type": "array", "items": { "type": "object", "required": ["name", "kind", "summary", "score"], "properties": entry_properties() } } },
    }))
}

fn peers_schema() -> Schema {
    hand_written(json!({
        "type": "object", "required": ["peers"],
        "properties": { "peers": { "type": "array", "items": {
            "type": "object", "required": ["peer", "operations"],
            "properties": { "peer": { "type": "string" }, "operations": { "type": "array", "items": { "type": "string" } } },
        } } },
    }))
}

/// Entries that the caller may call: local ones, or those of one peer.
fn visible<'v>(
    door: &'v Dispatcher,
    view: &'v View,
    caller: &'v Caller,
    peer: Option<&'v str>,
) -> Box<dyn Iterator<Item = &'v Arc<Entry>> + 'v> {
    let all: Box<dyn Iterator<Item = &Arc<Entry>>> = match peer {
        Some(peer) => Box::new(view.peer(peer)),
        None => Box::new(view.local()),
    };
    Box::new(all.filter(move |entry| door.may_see(caller, entry)))
}

/// The caller as of now; a subscription outlives changes of its grants.
fn caller_now(cx: &Context) -> Result<Caller, CallError> {
    cx.principal()
        .refreshed(cx.door().identities())
        .ok_or_else(crate::gate::unauthenticated)
}

fn revision<'e>(entries: impl Iterator<Item = &'e Arc<Entry>>) -> (String, usize) {
    let mut hash = blake3::Hasher::new();
    let mut count = 0;
    for entry in entries {
        hash.update(entry.digest());
        count += 1;
    }
    (hash.finalize().to_hex()[..32].to_owned(), count)
}

fn list(cx: &Context, input: &ListInput) -> Result<Value, CallError> {
    let (door, caller) = (cx.door(), caller_now(cx)?);
    let view = door.registry().view();
    let limit = input.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX) as usize;
    let (revision, _) = revision(visible(door, &view, &caller, input.peer.as_deref()));
    let mut page: Vec<CatalogueEntry> = visible(door, &view, &caller, input.peer.as_deref())
        .filter(|entry| input.kind.is_none_or(|kind| entry.spec().kind == kind))
        .filter(|entry| {
            input
                .prefix
                .as_ref()
                .is_none_or(|prefix| entry.spec().name.as_str().starts_with(prefix))
        })
        .filter(|entry| {
            input
                .cursor
                .as_ref()
                .is_none_or(|cursor| entry.spec().name.as_str() > cursor.as_str())
        })
        .take(limit + 1)
        .map(|entry| describe(entry, input.schemas))
        .collect();
    let more = page.len() > limit;
    page.truncate(limit);
    let next = page
        .last()
        .filter(|_| more)
        .map(|last| last.name.to_string());
    let mut reply = json!({ "operations": page, "revision": revision });
    if let Some(next) = next {
        reply["next_cursor"] = json!(next);
    }
    Ok(reply)
}

fn schema(cx: &Context, input: &SchemaInput) -> Result<Value, CallError> {
    let (door, caller) = (cx.door(), caller_now(cx)?);
    let view = door.registry().view();
    let found = visible(door, &view, &caller, input.peer.as_deref())
        .find(|entry| entry.spec().name.as_str() == input.name);
    match found {
        Some(entry) => Output::of(&describe(entry, true))?.into_value(),
        None => {
            let peer = input
                .peer
                .as_deref()
                .and_then(|peer| PeerId::parse(peer).ok());
            let near = suggestions(door, &view, &caller, peer.as_ref(), &input.name);
            let details = json!({ "operation": input.name, "suggestions": near });
            Err(CallError::new(
                ErrorCode::NotFound,
                format!("no operation `{}`", input.name),
            )
            .with_details(details))
        }
    }
}

/// Ranks by words: in the name, in the summary, in the rest.
fn search(cx: &Context, input: &SearchInput) -> Result<Value, CallError> {
    let (door, caller) = (cx.door(), caller_now(cx)?);
    let view = door.registry().view();
    let words: Vec<String> = words(&input.query);
    if words.is_empty() {
        return Err(CallError::invalid_field("/query", "no word to look for"));
    }
    let sources: Vec<Option<&str>> = match &input.peer {
        Some(peer) => vec![Some(peer.as_str())],
        None => std::iter::once(None)
            .chain(view.peers().map(|peer| Some(peer.as_str())))
            .collect(),
    };
    let mut found: Vec<(f64, &Arc<Entry>)> = Vec::new();
    for source in sources {
        for entry in visible(door, &view, &caller, source)
            .filter(|entry| input.kind.is_none_or(|kind| entry.spec().kind == kind))
        {
            let score = score(entry.spec(), &words);
            if score > 0.0 {
                found.push((score, entry));
            }
        }
    }
    found.sort_by(|(a, x), (b, y)| {
        b.total_cmp(a)
            .then_with(|| x.spec().name.cmp(&y.spec().name))
            .then_with(|| x.peer().cmp(&y.peer()))
    });
    found.truncate(input.limit.unwrap_or(20).clamp(1, 200) as usize);
    let results: Result<Vec<Value>, CallError> = found
        .into_iter()
        .map(|(score, entry)| {
            let mut value = Output::of(&describe(entry, false))?.into_value()?;
            value["score"] = json!(score);
            Ok(value)
        })
        .collect();
    Ok(json!({ "results": results? }))
}

fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .take(16)
        .collect()
}

fn score(spec: &OperationSpec, query: &[String]) -> f64 {
    let parameters = spec
        .input
        .value()
        .get("properties")
        .and_then(Value::as_object);
    let parameters: Vec<String> = parameters
        .into_iter()
        .flat_map(|map| map.keys())
        .flat_map(|key| words(key))
        .collect();
    let fields = [
        (4.0, words(spec.name.as_str())),
        (2.0, words(&spec.summary)),
        (1.5, parameters),
        (1.0, words(spec.description.as_deref().unwrap_or_default())),
    ];
    let mut total = 0.0;
    for word in query {
        let mut best: f64 = 0.0;
        for (weight, field) in &fields {
            for held in field {
                let fit = if held == word {
                    1.0
                } else if held.starts_with(word.as_str())
                    || word.starts_with(held.as_str()) && held.len() > 3
                {
                    0.6
                } else {
                    0.0
                };
                best = best.max(weight * fit);
            }
        }
        total += best;
    }
    total
}

fn watch(
    cx: Context,
) -> impl futures::Stream<Item = Result<WatchItem, CallError>> + Send + 'static {
    struct State {
        cx: Context,
        registry: tokio::sync::watch::Receiver<u64>,
        identities: tokio::sync::watch::Receiver<u64>,
        last: Option<String>,
    }
    let registry = cx.door().registry().changes();
    let identities = cx.door().identities().changes();
    futures::stream::try_unfold(
        State {
            cx,
            registry,
            identities,
            last: None,
        },
        |mut state| async move {
            loop {
                state.registry.mark_unchanged();
                state.identities.mark_unchanged();
                let caller = caller_now(&state.cx)?;
                let view = state.cx.door().registry().view();
                let (revision, operations) =
                    revision(visible(state.cx.door(), &view, &caller, None));
                if state.last.as_ref() != Some(&revision) {
                    state.last = Some(revision.clone());
                    return Ok(Some((
                        WatchItem {
                            revision,
                            operations,
                        },
                        state,
                    )));
                }
                tokio::select! {
                    changed = state.registry.changed() => if changed.is_err() { return Ok(None) },
                    changed = state.identities.changed() => if changed.is_err() { return Ok(None) },
                }
            }
        },
    )
}

fn list_peers(cx: &Context) -> Result<Value, CallError> {
    let (door, caller) = (cx.door(), caller_now(cx)?);
    let view = door.registry().view();
    let mut peers = Vec::new();
    for peer in view.peers() {
        let names: Vec<&str> = visible(door, &view, &caller, Some(peer.as_str()))
            .map(|entry| entry.spec().name.as_str())
            .collect();
        if !names.is_empty()
            || caller
                .identity()
                .resources
                .might_hold(ResourceKind::Peer, "services/list")
        {
            peers.push(json!({ "peer": peer, "operations": names }));
        }
    }
    Ok(json!({ "peers": peers }))
}

/// Names near to `wanted` among those the caller may see; at most three.
pub(crate) fn suggestions(
    door: &Dispatcher,
    view: &View,
    caller: &Caller,
    peer: Option<&PeerId>,
    wanted: &str,
) -> Vec<String> {
    let most = (wanted.len() / 3).clamp(1, 4);
    let mut near: Vec<(usize, &str)> = visible(door, view, caller, peer.map(PeerId::as_str))
        .take(5000)
        .map(|entry| entry.spec().name.as_str())
        .filter_map(|name| {
            let last = |text: &str| text.rsplit('/').next().map(str::to_owned);
            let distance = crate::near::edit_distance(name, wanted);
            // `list` for `fs/list`: the right verb in another area.
            let verb = last(name) == last(wanted);
            (distance <= most || verb)
                .then_some((if verb { distance.min(most) } else { distance }, name))
        })
        .collect();
    near.sort();
    near.into_iter()
        .take(3)
        .map(|(_, name)| name.to_owned())
        .collect()
}
