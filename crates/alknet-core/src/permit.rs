//! Proof that the door allowed a data-plane action, checked at every step.

use crate::{
    dispatch::Dispatcher,
    error::{CallError, ErrorCode},
    gate::{Ask, gate, refusal, step, unauthenticated},
    identity::Caller,
    registry::Entry,
    resource::{ResourceKind, canonical_resource},
};
use std::sync::{Arc, Mutex, PoisonError};

/// What a data plane that cannot afford a call per step asks for once, with
/// [`Dispatcher::authorize`], and checks at each step.
///
/// A change of grants is seen by the next check; [`Permit::revoked`] resolves
/// when the operation itself is no longer allowed.
#[derive(Debug)]
pub struct Permit {
    pub(crate) door: Dispatcher,
    pub(crate) entry: Arc<Entry>,
    pub(crate) caller: Mutex<Caller>,
}

impl Permit {
    /// Checks one step; answers with the resource in canonical form, which
    /// alone may be used.
    ///
    /// # Errors
    ///
    /// `FORBIDDEN` with what is missing, `INVALID_INPUT` if the text is no
    /// resource, `UNAUTHENTICATED` if the caller is no longer known.
    pub fn check(
        &self,
        action: &str,
        kind: ResourceKind,
        resource: &str,
    ) -> Result<String, CallError> {
        let caller = self.caller()?;
        let canonical = canonical_resource(kind, resource)
            .map_err(|error| CallError::invalid_field("", error.to_string()))?;
        let owners = self.door.owners();
        if step(&caller, &self.entry, kind, action, &canonical, owners) {
            return Ok(canonical);
        }
        if !caller.is_authenticated() {
            return Err(unauthenticated());
        }
        let missing = format!("{kind}:{canonical}={action}");
        let message = format!(
            "`{}` may not {action} `{canonical}`: missing resource `{missing}`",
            caller.id()
        );
        Err(CallError::new(ErrorCode::Forbidden, message).with_details(serde_json::json!({ "caller": caller.id(), "missing": { "resource": missing }, "grant": missing })))
    }

    /// Who holds it, as of now.
    ///
    /// # Errors
    ///
    /// `UNAUTHENTICATED` if the caller is no longer known, `FORBIDDEN` if the
    /// operation is no longer allowed.
    pub fn caller(&self) -> Result<Caller, CallError> {
        let mut held = self.caller.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = held
            .refreshed(self.door.identities())
            .ok_or_else(unauthenticated)?;
        if held.is_stale(self.door.identities()) {
            let decision = gate(&fresh, &self.entry, Ask::Probe, self.door.owners());
            if let Some(refused) = refusal(decision, &fresh, &self.entry) {
                return Err(refused);
            }
            *held = fresh.clone();
        }
        Ok(fresh)
    }

    /// Resolves when the caller may no longer do this at all.
    pub async fn revoked(&self) -> CallError {
        let mut changes = self.door.identities().changes();
        loop {
            if let Err(refused) = self.caller() {
                return refused;
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}
