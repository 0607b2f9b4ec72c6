//! What a caller may call: `services/*`, projections of one caller's view.

mod catalogue;
mod list;
mod search;
mod watch;

pub use self::catalogue::CatalogueEntry;
pub(crate) use self::{catalogue::describe_spec, list::suggestions, search::WordIndex};
use crate::{
    context::Context,
    dispatch::Dispatcher,
    error::CallError,
    identity::Caller,
    operation::{Operation, Registration},
    registry::{Entry, View},
    schema::Schema,
    spec::Kind,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

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
            .handler(|cx, input: ListInput| async move { list::list(&cx, &input) }),
        Operation::query("services/schema", "Describes one operation with its schemas.")
            .authenticated()
            .output_schema(entry_schema())
            .example(json!({ "name": "services/list" }), json!({ "name": "services/list", "kind": "query", "summary": "Lists what the caller may call." }))
            .handler(|cx, input: SchemaInput| async move { list::schema(&cx, &input) }),
        Operation::query("services/search", "Finds operations by words in their names, summaries and parameters.")
            .authenticated()
            .output_schema(search_schema())
            .example(json!({ "query": "list operations" }), json!({ "results": [{ "name": "services/list", "kind": "query", "summary": "Lists what the caller may call.", "score": 8.0 }] }))
            .handler(|cx, input: SearchInput| async move { search::search(&cx, &input) }),
        Operation::subscription("services/watch", "Tells when what the caller may call has changed.")
            .authenticated()
            .description("The first item comes at once. An item says that something changed: list again.")
            .example(json!({}), json!({ "revision": "0f", "operations": 12, "peers": "a0" }))
            .stream(|cx, _: NoInput| async move { Ok(watch::watch(cx)) }),
        Operation::query("services/list-peers", "Lists connected peers and what each offers to the caller.")
            .requires("peers:list")
            .output_schema(peers_schema())
            .example(json!({}), json!({ "peers": [{ "peer": "nas", "operations": ["fs/list"] }] }))
            .handler(|cx, _: NoInput| async move { list::list_peers(&cx) }),
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
