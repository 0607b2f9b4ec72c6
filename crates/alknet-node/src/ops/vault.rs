//! `vault/*`: what opens the secrets that are stored.

use super::{NoInput, change_row, credentials::failed};
use crate::{node::Shared, secrets::CredentialsError};
use alknet_core::{CallError, Context, ErrorSpec, Operation, Registration, Secret};
use alknet_vault::{UnlockVaultError, Vault};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{sync::Arc, time::Duration};

/// How long a wrong passphrase keeps everybody from the next try: with one try
/// at a time, nobody guesses faster.
const WRONG_WAIT: Duration = Duration::from_secs(1);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct UnlockInput {
    /// What protects the vault; not needed if a key file does.
    #[serde(default)]
    passphrase: Option<Secret>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct VaultStatus {
    /// What protects the vault at rest: `key-file` or `passphrase`.
    protection: String,
    /// Whether the keys that open what is stored are locked away.
    locked: bool,
    /// The version of the sealing key under which new secrets are sealed.
    key_version: u32,
    /// How many credentials are stored.
    credentials: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Rotated {
    /// The version of the sealing key, from now on.
    key_version: u32,
    /// Secrets that were sealed anew, those of networks among them.
    resealed: u64,
    /// Secrets that do not open, and are as they were.
    left: u64,
}

pub(super) fn operations(shared: &Arc<Shared>) -> Vec<Registration> {
    let (status_for, lock_for, unlock_for, rotate_for) = (
        shared.clone(),
        shared.clone(),
        shared.clone(),
        shared.clone(),
    );
    let status = |locked: bool| json!({ "protection": "passphrase", "locked": locked, "key_version": 1, "credentials": 2 });
    vec![
        Operation::query("vault/status", "Says what protects the vault, and whether it is locked.")
            .example(json!({}), status(false))
            .handler(move |cx: Context, _: NoInput| {
                let shared = status_for.clone();
                async move { tell(&shared, &cx).await }
            }),
        Operation::mutation("vault/lock", "Wipes the keys that open stored secrets from memory.")
            .description("The node goes on serving. Operations that need a credential answer `UNAVAILABLE` until the vault is unlocked.")
            .idempotent()
            .example(json!({}), status(true))
            .handler(move |cx: Context, _: NoInput| {
                let shared = lock_for.clone();
                async move {
                    shared.credentials.lock().await;
                    tell(&shared, &cx).await
                }
            }),
        Operation::mutation("vault/unlock", "Opens the vault again.")
            .secret_input()
            .idempotent()
            // Each try costs 64 MiB of memory, and is a guess perhaps.
            .in_flight_all_max(1)
            .error(ErrorSpec {
                http_status: 403,
                ..ErrorSpec::new("WRONG_PASSPHRASE", "It is not the passphrase of this vault.")
            })
            .error(ErrorSpec::new("PASSPHRASE_NEEDED", "A passphrase protects this vault, and none was given."))
            .example(json!({ "passphrase": "…" }), status(false))
            .handler(move |cx: Context, input: UnlockInput| {
                let shared = unlock_for.clone();
                async move {
                    let unlocked = shared.credentials.unlock(input.passphrase).await;
                    if is_wrong(&unlocked) {
                        tracing::warn!(call = %cx.call_id(), "a wrong passphrase of the vault");
                        tokio::time::sleep(WRONG_WAIT).await;
                    }
                    unlocked.map_err(|error| not_unlocked(&shared, &cx, error))?;
                    tell(&shared, &cx).await
                }
            }),
        Operation::mutation("vault/rotate", "Seals everything stored under a new version of the sealing key.")
            .example(json!({}), json!({ "key_version": 2, "resealed": 3, "left": 0 }))
            .handler(move |cx: Context, _: NoInput| {
                let shared = rotate_for.clone();
                async move {
                    let row = change_row(&cx, &shared.identities, "vault");
                    let rotated = shared.credentials.rotate(row).await;
                    let (key_version, done) = rotated.map_err(|error| failed(&shared, &cx, error))?;
                    Ok(Rotated {
                        key_version,
                        resealed: done.rows,
                        left: done.left,
                    })
                }
            }),
    ]
}

fn is_wrong(unlocked: &Result<(), CredentialsError>) -> bool {
    matches!(
        unlocked,
        Err(CredentialsError::Unlock(UnlockVaultError::WrongPassphrase))
    )
}

fn not_unlocked(shared: &Shared, cx: &Context, error: CredentialsError) -> CallError {
    match error {
        CredentialsError::Unlock(UnlockVaultError::WrongPassphrase) => {
            CallError::domain("WRONG_PASSPHRASE", "the passphrase is wrong")
        }
        CredentialsError::PassphraseNeeded => CallError::domain(
            "PASSPHRASE_NEEDED",
            "the vault is protected by a passphrase",
        ),
        other => failed(shared, cx, other),
    }
}

async fn tell(shared: &Arc<Shared>, cx: &Context) -> Result<VaultStatus, CallError> {
    let internal = |error: &dyn std::error::Error| CallError::internal(cx.call_id(), error);
    let credentials = shared.credentials.count().await;
    let credentials = credentials.map_err(|error| CallError::storage(cx.call_id(), &error))?;
    let directory = shared.data.path().to_owned();
    let peeked = tokio::task::spawn_blocking(move || Vault::peek(&directory)).await;
    let wrap = peeked.map_err(|error| internal(&error))?;
    let wrap = wrap.map_err(|error| internal(&error))?;
    let seals = shared.credentials.seals();
    Ok(VaultStatus {
        protection: wrap.name().into(),
        locked: seals.is_locked(),
        key_version: seals.version(),
        credentials,
    })
}
