//! `peers/explain`: why a peer may call something, or may not.

use super::super::no_peer;
use crate::node::Shared;
use alknet_core::{
    CallError, ErrorCode, Explanation, GrantTarget, Input, KeyId, OperationName, Question, Step,
    Verdict, Visibility, nearest, parse_route, storage::Standing,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ExplainInput {
    /// The peer.
    peer: String,
    /// What it would call.
    operation: String,
    /// With what. If not given, and the operation takes something, which
    /// resources that names, and whether it fits, is not decided.
    #[serde(default)]
    input: Option<Value>,
    /// Through which peers: `PEER` or `PEER/PEER`; here if not given.
    #[serde(default)]
    on: Option<String>,
    /// The id of the API key that it would present.
    #[serde(default)]
    key: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct Explained {
    /// The peer.
    peer: String,
    /// The operation.
    operation: String,
    /// Through which peers.
    #[serde(skip_serializing_if = "Option::is_none")]
    on: Option<String>,
    /// Whether the call would be let in.
    allowed: bool,
    /// What the call would fail with.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    /// What the caller would be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// Whether the peer is let in at all.
    enabled: bool,
    /// Whether its access is over.
    access_ended: bool,
    /// What is looked at, in the order of a call.
    steps: Vec<StepView>,
    /// What would have to be granted, all of it; empty if that is nothing, or
    /// would not help.
    grants: Vec<String>,
    /// What the peer was given itself that denies it.
    revokes: Vec<String>,
    /// Operations of this node with a name that is near, if it has none of that
    /// name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    suggestions: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct StepView {
    /// `caller, resolve, route, visibility, access, whole, scope, resource,
    /// size, limits, input, approval` or `credentials`.
    stage: String,
    /// Whether the call passes; absent where nothing is decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    ok: Option<bool>,
    /// What was found.
    text: String,
    /// Where in the input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pointer: Option<String>,
    /// The grant that decides it; one that denies begins with `!`.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    /// Where that comes from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    from: Vec<String>,
    /// What would have to be granted to pass here.
    #[serde(skip_serializing_if = "Option::is_none")]
    grant: Option<String>,
    /// Whether this is what the presented key allows at most.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    of_key: bool,
}

/// A sample for the catalogue.
pub(super) fn sample() -> Value {
    json!({
        "peer": "laptop", "operation": "fs/read", "allowed": false, "code": "FORBIDDEN",
        "message": "`laptop` may not call `fs/read`: missing scope `fs:read`",
        "enabled": true, "access_ended": false,
        "steps": [
            { "stage": "caller", "ok": true, "text": "`laptop` is a peer here" },
            { "stage": "scope", "ok": false, "text": "scope `fs:read` is missing", "grant": "fs:read" },
        ],
        "grants": ["fs:read"], "revokes": [],
    })
}

pub(super) fn explain(shared: &Shared, input: ExplainInput) -> Result<Explained, CallError> {
    let ExplainInput {
        peer,
        operation,
        input,
        on,
        key,
    } = input;
    let bad = |field: &str, message: String| CallError::invalid_field(field, message);
    let is_here = on.as_deref().is_none_or(str::is_empty);
    let name =
        OperationName::parse(&operation).map_err(|error| bad("/operation", error.to_string()))?;
    let route = match on.as_deref().filter(|on| !on.is_empty()) {
        None => Vec::new(),
        Some(on) => parse_route(on).map_err(|error| bad("/on", error.to_string()))?,
    };
    let key = match &key {
        None => None,
        Some(id) => Some(KeyId::parse(id).map_err(|error| bad("/key", error.to_string()))?),
    };
    let identities = &shared.identities;
    let record = identities
        .peer(&peer)
        .ok_or_else(|| no_peer(identities, &peer))?;
    let standing = identities
        .standing(&peer, key.as_ref(), shared.door().identities())
        .ok_or_else(|| no_key(&peer, key.as_ref()))?;
    let near = match is_here {
        true => near_names(shared, &name),
        false => Vec::new(),
    };
    let told = shared.door().explain(Question {
        caller: &standing,
        operation: name,
        route,
        input: input.map(Input::Value),
    })?;
    Ok(Explained {
        enabled: record.enabled,
        access_ended: record.expires_at.is_some_and(|at| at <= identities.now()),
        allowed: told.is_allowed(),
        code: told.refused.as_ref().map(|error| error.code.to_string()),
        message: told.refused.as_ref().map(|error| error.message.clone()),
        grants: told.grants().into_iter().map(str::to_owned).collect(),
        revokes: own_denials(&told, &standing),
        suggestions: near,
        steps: told
            .steps
            .iter()
            .map(|step| step_view(step, &standing))
            .collect(),
        peer,
        operation,
        on,
    })
}

/// What may be meant by a name that this node does not have. Who asks why may
/// know them all.
fn near_names(shared: &Shared, name: &OperationName) -> Vec<String> {
    let view = shared.door().registry().view();
    let specs = view.local().map(|entry| entry.spec());
    let visible = specs.filter(|spec| spec.visibility != Visibility::Internal);
    let names: Vec<&str> = visible.map(|spec| spec.name.as_str()).collect();
    match names.contains(&name.as_str()) {
        true => Vec::new(),
        false => nearest(name.as_str(), names),
    }
}

fn no_key(peer: &str, key: Option<&KeyId>) -> CallError {
    let key = key.map(KeyId::as_str).unwrap_or_default();
    let message = format!("peer `{peer}` has no API key `{key}`");
    CallError::new(ErrorCode::NotFound, message).with_details(json!({ "key": key }))
}

fn step_view(step: &Step, standing: &Standing) -> StepView {
    StepView {
        stage: step.stage.to_string(),
        ok: match step.verdict {
            Verdict::Passes => Some(true),
            Verdict::Refuses => Some(false),
            Verdict::Notes => None,
        },
        text: step.text.clone(),
        pointer: step.pointer.clone(),
        by: step.by.as_ref().map(ToString::to_string),
        from: standing.sources(step).map(ToString::to_string).collect(),
        grant: step.grant.clone(),
        of_key: step.of_key,
    }
}

/// Denials that can be taken back from the peer itself: those of groups and
/// roles are others' too.
fn own_denials(told: &Explanation, standing: &Standing) -> Vec<String> {
    let denied = told.steps.iter().filter(|step| {
        let mut from = standing.sources(step);
        matches!(step.by, Some(GrantTarget::Deny(_)))
            && step.verdict == Verdict::Refuses
            && from.any(|source| source.is_own())
    });
    let mut targets: Vec<String> = denied
        .filter_map(|step| step.by.as_ref().map(ToString::to_string))
        .collect();
    targets.dedup();
    targets
}
