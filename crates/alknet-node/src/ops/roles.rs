//! `roles/list`: the bundles of grants that exist.

use super::{NoInput, grant_texts};
use crate::node::Shared;
use alknet_core::{Context, Operation, Registration, RoleSet};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct RoleView {
    /// Its name.
    name: String,
    /// What it gives, in a sentence.
    summary: String,
    /// What it gives.
    grants: Vec<String>,
    /// Whether every node has it.
    builtin: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct RoleList {
    /// The roles, by name.
    roles: Vec<RoleView>,
}

pub(super) fn operations(shared: &Arc<Shared>) -> Vec<Registration> {
    let shared = shared.clone();
    let none = json!({ "name": "none", "summary": "Nothing.", "grants": [], "builtin": true });
    vec![
        Operation::query("roles/list", "Lists the roles that can be granted.")
            .requires("node:read")
            .example(json!({}), json!({ "roles": [none] }))
            .handler(move |_cx: Context, _: NoInput| {
                let roles = shared.identities.roles();
                let show = |role: &alknet_core::Role| RoleView {
                    name: role.name.to_string(),
                    summary: role.summary.clone(),
                    grants: grant_texts(&role.grants),
                    builtin: RoleSet::is_builtin(role.name.as_str()),
                };
                async move {
                    Ok(RoleList {
                        roles: roles.iter().map(show).collect(),
                    })
                }
            }),
    ]
}
