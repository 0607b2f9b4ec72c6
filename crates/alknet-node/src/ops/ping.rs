//! `node/ping`: that this node is there, and nothing more.

use super::NoInput;
use crate::node::Shared;
use alknet_core::{CallError, Context, Operation, Registration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Pong {
    /// The time here, by this node's clock.
    at: String,
}

/// Whoever was let in may ask: its connection tells it the same.
pub(super) fn operations(shared: &Arc<Shared>) -> Vec<Registration> {
    let shared = shared.clone();
    vec![
        Operation::query(
            "node/ping",
            "Says that this node is there, and what time it has.",
        )
        .authenticated()
        .example(json!({}), json!({ "at": "2026-01-01T00:00:00.000Z" }))
        .handler(move |_cx: Context, _: NoInput| {
            let at = shared.identities.now().to_string();
            async move { Ok::<Pong, CallError>(Pong { at }) }
        }),
    ]
}
