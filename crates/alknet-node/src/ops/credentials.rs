//! `credentials/*`: secrets for the outside.

use super::{NoInput, change_row};
use crate::{
    node::Shared,
    secrets::{CredentialsError, Listed, SealError},
};
use alknet_core::{
    CallError, Context, CredentialName, CredentialNameError, ErrorCode, Operation, OperationName,
    Registration, SECRET_BYTES_MAX, Secret,
    storage::{SealedCredential, StoreError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PutInput {
    /// Whose door it opens: `github`.
    provider: String,
    /// Which of the accounts there: `ada`.
    account: String,
    /// The secret, of at most 65,536 bytes.
    secret: Secret,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NameInput {
    /// Whose door it opens.
    provider: String,
    /// Which of the accounts there.
    account: String,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Credential {
    /// Whose door it opens.
    provider: String,
    /// Which of the accounts there.
    account: String,
    /// When it was first put.
    created_at: String,
    /// When it was put last.
    updated_at: String,
    /// Under which version of the sealing key it lies in the store.
    key_version: u32,
    /// Operations that are given it.
    used_by: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct MissingCredential {
    /// Whose door it opens.
    provider: String,
    /// Which of the accounts there.
    account: String,
    /// Operations that cannot be called without it.
    used_by: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct CredentialList {
    /// Those that are stored, by provider and account.
    credentials: Vec<Credential>,
    /// Those that operations need and nobody stored.
    missing: Vec<MissingCredential>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Removed {
    /// Whose door it opened.
    provider: String,
    /// Which of the accounts there.
    account: String,
}

pub(super) fn operations(shared: &Arc<Shared>) -> Vec<Registration> {
    let (put_for, list_for, remove_for) = (shared.clone(), shared.clone(), shared.clone());
    let at = "2026-01-01T00:00:00.000Z";
    let ada = json!({ "provider": "github", "account": "ada" });
    let stored = json!({ "provider": "github", "account": "ada", "created_at": at, "updated_at": at, "key_version": 1, "used_by": ["issues/open"] });
    vec![
        Operation::mutation("credentials/put", "Stores a secret for the outside, sealed, in the place of the one before.")
            .description("The secret is in no log, audit row, event, error or listing, and no operation returns it. The operations that declared this credential have it when the call returns.")
            .secret_input()
            .idempotent()
            .example(json!({ "provider": "github", "account": "ada", "secret": "…" }), stored.clone())
            .handler(move |cx: Context, input: PutInput| {
                let shared = put_for.clone();
                async move { put(&shared, &cx, input).await }
            }),
        Operation::query("credentials/list", "Lists the secrets for the outside, and which operations use them; never the secrets.")
            .example(json!({}), json!({ "credentials": [stored], "missing": [] }))
            .handler(move |cx: Context, _: NoInput| {
                let shared = list_for.clone();
                async move { list(&shared, &cx).await }
            }),
        Operation::mutation("credentials/remove", "Removes a secret for the outside.")
            .destructive()
            .example(ada.clone(), ada)
            .handler(move |cx: Context, input: NameInput| {
                let shared = remove_for.clone();
                async move { remove(&shared, &cx, &input).await }
            }),
    ]
}

fn named(provider: &str, account: &str) -> Result<CredentialName, CallError> {
    CredentialName::new(provider, account).map_err(|error| {
        let field = match error {
            CredentialNameError::Account(_) => "/account",
            _ => "/provider",
        };
        CallError::invalid_field(field, error.to_string())
    })
}

async fn put(shared: &Shared, cx: &Context, input: PutInput) -> Result<Credential, CallError> {
    let name = named(&input.provider, &input.account)?;
    let PutInput { secret, .. } = input;
    if secret.is_empty() {
        return Err(CallError::invalid_field("/secret", "is empty"));
    }
    if secret.expose().len() > SECRET_BYTES_MAX {
        let message = format!("has more than {SECRET_BYTES_MAX} bytes");
        return Err(CallError::invalid_field("/secret", message));
    }
    let row = change_row(cx, &shared.identities, &name.to_string());
    let put = shared.credentials.put(&name, &secret, row).await;
    put.map_err(|error| failed(shared, cx, error))?;
    let (stored, _) = listed(shared, cx).await?;
    let found = stored.into_iter().find(|one| one.row.name == name);
    found.map(shown).ok_or_else(|| none(&name))
}

async fn list(shared: &Shared, cx: &Context) -> Result<CredentialList, CallError> {
    let (stored, missing) = listed(shared, cx).await?;
    let missing = missing
        .into_iter()
        .map(|(name, used_by)| MissingCredential {
            provider: name.provider().into(),
            account: name.account().into(),
            used_by: used_by.iter().map(ToString::to_string).collect(),
        });
    Ok(CredentialList {
        credentials: stored.into_iter().map(shown).collect(),
        missing: missing.collect(),
    })
}

async fn remove(shared: &Shared, cx: &Context, input: &NameInput) -> Result<Removed, CallError> {
    let name = named(&input.provider, &input.account)?;
    let row = change_row(cx, &shared.identities, &name.to_string());
    let removed = shared.credentials.remove(&name, row).await;
    removed.map_err(|error| failed(shared, cx, error))?;
    Ok(Removed {
        provider: name.provider().into(),
        account: name.account().into(),
    })
}

type All = (Vec<Listed>, Vec<(CredentialName, Vec<OperationName>)>);

async fn listed(shared: &Shared, cx: &Context) -> Result<All, CallError> {
    let listed = shared.credentials.list().await;
    listed.map_err(|error| CallError::storage(cx.call_id(), &error))
}

fn shown(listed: Listed) -> Credential {
    let SealedCredential {
        name,
        key_version,
        created_at,
        updated_at,
        ..
    } = listed.row;
    Credential {
        provider: name.provider().into(),
        account: name.account().into(),
        created_at: created_at.to_string(),
        updated_at: updated_at.to_string(),
        key_version,
        used_by: listed.used_by.iter().map(ToString::to_string).collect(),
    }
}

fn none(name: &CredentialName) -> CallError {
    CallError::new(ErrorCode::NotFound, format!("no credential `{name}`"))
        .with_details(json!({ "credential": name.to_string() }))
}

/// What a caller is told.
pub(super) fn failed(shared: &Shared, cx: &Context, error: CredentialsError) -> CallError {
    match error {
        CredentialsError::Seal(SealError::Locked) => CallError::new(
            ErrorCode::Unavailable,
            format!(
                "the vault of `{}` is locked; there: alknet vault unlock",
                shared.name()
            ),
        )
        .with_retryable(false)
        .with_details(json!({ "reason": "locked" })),
        CredentialsError::Store(StoreError::NoCredential(name)) => {
            CallError::new(ErrorCode::NotFound, format!("no credential `{name}`"))
                .with_details(json!({ "credential": name }))
        }
        CredentialsError::Store(error @ StoreError::TooManyCredentials) => {
            CallError::new(ErrorCode::Conflict, error.to_string())
        }
        CredentialsError::Store(error) => CallError::storage(cx.call_id(), &error),
        other => CallError::internal(cx.call_id(), &other),
    }
}
