//! What every adapter of the storage traits must do, as tests over fresh
//! stores: run them from the crate that has the adapter.
//!
//! Each rule gets stores of its own from `make`; all rules run, and the ones
//! that fail are named at the end.
#![expect(clippy::unwrap_used, reason = "a broken rule fails with its line")]

mod audit;
mod calls;
mod credentials;
mod events;
mod identities;
mod imports;
mod keys;
mod ledger;

pub use self::{events::Outbox, ledger::outbox_faults};
use alknet_core::{
    AuditRow,
    storage::{
        AuditLog, CredentialStore, EventLog, IdempotencyStore, IdentityStore, ImportStore,
        Timestamp,
    },
};

use futures::future::BoxFuture;
use std::sync::Arc;

/// An identity store, and the log that its changes are recorded in.
#[derive(Clone)]
pub struct Identities {
    /// The store.
    pub store: Arc<dyn IdentityStore>,
    /// Its audit log.
    pub audit: Arc<dyn AuditLog>,
}

/// Checks every rule of [`IdentityStore`].
///
/// # Panics
///
/// If a rule is broken; the message names all that are.
pub async fn identity_store(make: impl AsyncFn() -> Identities) {
    check(&make, identities::RULES).await;
    check(&make, keys::RULES).await;
}

/// A store of credentials, and the logs that its changes are recorded in.
#[derive(Clone)]
pub struct Credentials {
    /// The store.
    pub store: Arc<dyn CredentialStore>,
    /// Its audit log.
    pub audit: Arc<dyn AuditLog>,
    /// Its events.
    pub events: Arc<dyn EventLog>,
}

/// Checks every rule of [`CredentialStore`].
///
/// # Panics
///
/// If a rule is broken; the message names all that are.
pub async fn credential_store(make: impl AsyncFn() -> Credentials) {
    check(make, credentials::RULES).await;
}

/// Checks every rule of [`AuditLog`].
///
/// # Panics
///
/// If a rule is broken; the message names all that are.
pub async fn audit_log<S: AuditLog>(make: impl AsyncFn() -> Arc<S>) {
    check(async || make().await as Arc<dyn AuditLog>, audit::RULES).await;
}

/// Checks every rule of [`EventLog`].
///
/// # Panics
///
/// If a rule is broken; the message names all that are.
pub async fn event_log<S: EventLog>(make: impl AsyncFn() -> Arc<S>) {
    check(async || make().await as Arc<dyn EventLog>, events::RULES).await;
}

/// Checks that each identity change and its events are one.
///
/// # Panics
///
/// If a rule is broken; the message names all that are.
pub async fn outbox(make: impl AsyncFn() -> Outbox) {
    check(make, events::OUTBOX_RULES).await;
}

/// Checks every rule of [`IdempotencyStore`].
///
/// # Panics
///
/// If a rule is broken; the message names all that are.
pub async fn idempotency_store<S: IdempotencyStore>(make: impl AsyncFn() -> Arc<S>) {
    check(
        async || make().await as Arc<dyn IdempotencyStore>,
        calls::RULES,
    )
    .await;
}

/// Checks every rule of [`ImportStore`].
///
/// # Panics
///
/// If a rule is broken; the message names all that are.
pub async fn import_store<S: ImportStore>(make: impl AsyncFn() -> Arc<S>) {
    check(
        async || make().await as Arc<dyn ImportStore>,
        imports::RULES,
    )
    .await;
}

/// A table of rules from functions, named as they are.
macro_rules! rules {
    ($store:ty: $($rule:ident),* $(,)?) => {
        &[$((stringify!($rule), |store: $store| Box::pin($rule(store)))),*]
    };
}
use rules;

type Rule<S> = (&'static str, fn(S) -> BoxFuture<'static, ()>);

async fn check<S>(make: impl AsyncFn() -> S, rules: &[Rule<S>]) {
    let mut broken = Vec::new();
    for (name, rule) in rules {
        // In a task, so that one broken rule does not hide the others.
        if tokio::spawn(rule(make().await)).await.is_err() {
            broken.push(*name);
        }
    }
    assert!(
        broken.is_empty(),
        "{} of {} rules are broken: {broken:?}",
        broken.len(),
        rules.len()
    );
}

fn row(operation: &str) -> AuditRow {
    AuditRow::event(Timestamp(1_000), "owner", operation)
}
