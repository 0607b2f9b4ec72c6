//! Proof that the door allowed a data-plane action, checked at every step.

use crate::{
    dispatch::Dispatcher,
    error::{CallError, ErrorCode},
    files::FilePath,
    gate::{
        Ask, Refused, StepRefused, gate, is_own_action, might_step_within, refusal, step,
        step_resolved, step_tree, unauthenticated,
    },
    identity::Caller,
    registry::Entry,
    resource::{AddressClass, ResourceKind, canonical_resource, name_in},
};
use serde_json::json;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

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
    ///
    /// # What it covers
    ///
    /// A permit is for one operation, and stands for what that operation does:
    ///
    /// * An `action` that the operation's own rule names for this kind passes
    ///   as in a call: the resource is held; or the whole operation was
    ///   granted, or the rule lets owners through and the caller is one, and
    ///   nothing denies it.
    /// * Any other action on a kind that the rule names is `FORBIDDEN`, even
    ///   if the caller holds the resource with it: it may lack the scope of
    ///   the operation that does it. Ask for a permit of that operation.
    /// * Of a kind that the rule does not name, the resource must be held with
    ///   the action; a grant of the whole operation does not cover it.
    ///
    /// Steps leave no row in the audit log; the permit itself does.
    pub fn check(
        &self,
        action: &str,
        kind: ResourceKind,
        resource: &str,
    ) -> Result<String, CallError> {
        let caller = self.caller()?;
        self.check_action(&caller, kind, action)?;
        let canonical = canonical_resource(kind, resource)
            .map_err(|error| CallError::invalid_field("", error.to_string()))?;
        let owners = self.door.owners();
        let Err(refused) = step(&caller, &self.entry, kind, action, &canonical, owners) else {
            return Ok(canonical);
        };
        Err(may_not(
            &caller,
            action,
            &format!("`{canonical}`"),
            None,
            refused,
        ))
    }

    /// [`Permit::check`] of a file.
    ///
    /// # Errors
    ///
    /// As [`Permit::check`].
    pub fn check_file(&self, action: &str, file: &FilePath) -> Result<(), CallError> {
        let canonical = file.to_string();
        self.check_step(action, &canonical, |caller| {
            let owners = self.door.owners();
            step(
                caller,
                &self.entry,
                ResourceKind::Bucket,
                action,
                &canonical,
                owners,
            )
        })
    }

    /// Checks a step on a file and on whatever may lie below it: one grant
    /// covers all of it, and none denies any of it. What somebody created does
    /// not count.
    ///
    /// # Errors
    ///
    /// As [`Permit::check`].
    pub fn check_tree(&self, action: &str, file: &FilePath) -> Result<(), CallError> {
        let canonical = file.to_string();
        self.check_step(action, &canonical, |caller| {
            step_tree(caller, &self.entry, action, &canonical)
        })
    }

    /// Whether [`Permit::check_file`] passes: for listings, which leave out
    /// what it does not.
    #[must_use]
    pub fn allows_file(&self, action: &str, file: &FilePath) -> bool {
        let Ok(caller) = self.caller() else {
            return false;
        };
        let kind = ResourceKind::Bucket;
        let owners = self.door.owners();
        is_own_action(&self.entry, kind, action)
            && step(
                &caller,
                &self.entry,
                kind,
                action,
                &file.to_string(),
                owners,
            )
            .is_ok()
    }

    /// Whether [`Permit::check_tree`] passes.
    #[must_use]
    pub fn allows_tree(&self, action: &str, file: &FilePath) -> bool {
        self.check_tree(action, file).is_ok()
    }

    /// Whether [`Permit::check_file`] might pass for a file, or for something
    /// that may lie below it.
    #[must_use]
    pub fn may_allow_within(&self, action: &str, file: &FilePath) -> bool {
        let Ok(caller) = self.caller() else {
            return false;
        };
        is_own_action(&self.entry, ResourceKind::Bucket, action)
            && might_step_within(&caller, &self.entry, action, &file.to_string())
    }

    fn check_step(
        &self,
        action: &str,
        canonical: &str,
        step: impl Fn(&Caller) -> Result<(), StepRefused>,
    ) -> Result<(), CallError> {
        let caller = self.caller()?;
        self.check_action(&caller, ResourceKind::Bucket, action)?;
        step(&caller)
            .map_err(|refused| may_not(&caller, action, &format!("`{canonical}`"), None, refused))
    }

    /// Checks an address to which the caller's `asked`, `host:port` in
    /// canonical form, was resolved; only addresses that pass may be used.
    ///
    /// It passes if it is held itself, by address, range or `*`. Otherwise
    /// the name must be held and stand for such addresses
    /// ([`AddressClass::fits_name`]). What denies the address or the name
    /// wins.
    ///
    /// # Errors
    ///
    /// `FORBIDDEN` with what denies it, or what is missing; `UNAUTHENTICATED`
    /// if the caller is no longer known.
    pub fn check_address(
        &self,
        action: &str,
        asked: &str,
        address: SocketAddr,
    ) -> Result<(), CallError> {
        let caller = self.caller()?;
        self.check_action(&caller, ResourceKind::Net, action)?;
        let owners = self.door.owners();
        let decided = step_resolved(&caller, &self.entry, action, asked, address, owners);
        let Err(refused) = decided else {
            return Ok(());
        };
        let class = AddressClass::of(address.ip()).in_words();
        let what = match name_in(asked) {
            Some(_) => format!("`{asked}`, which is {class}, `{}`", address.ip()),
            None => format!("`{asked}`, {class}"),
        };
        Err(may_not(&caller, action, &what, Some(address), refused))
    }

    /// Refuses what another operation does.
    fn check_action(
        &self,
        caller: &Caller,
        kind: ResourceKind,
        action: &str,
    ) -> Result<(), CallError> {
        if is_own_action(&self.entry, kind, action) {
            return Ok(());
        }
        if !caller.is_authenticated() {
            return Err(unauthenticated());
        }
        let (id, name) = (caller.id(), &self.entry.spec().name);
        let message =
            format!("`{id}` may not {action} a {kind} with a permit for `{name}`, which does not");
        Err(CallError::new(ErrorCode::Forbidden, message)
            .with_details(json!({ "caller": id, "operation": name, "action": action })))
    }

    /// Checks now and at every change of grants; resolves with the first
    /// refusal.
    pub async fn lost(&self, check: impl Fn(&Self) -> Result<(), CallError>) -> CallError {
        let mut changes = self.door.identities().changes();
        loop {
            if let Err(refused) = check(self) {
                return refused;
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
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
        self.lost(|permit| permit.caller().map(drop)).await
    }
}

/// A known caller learns what is missing, and what would give it: to a key
/// that is narrower than its peer, nothing that the peer is given does.
fn may_not(
    caller: &Caller,
    action: &str,
    what: &str,
    address: Option<SocketAddr>,
    refused: StepRefused,
) -> CallError {
    if !caller.is_authenticated() {
        return unauthenticated();
    }
    let key = caller.key().filter(|_| refused.is_of_key);
    let id = caller.id();
    let who = match key {
        Some(key) => format!("key `{key}` of `{id}`"),
        None => format!("`{id}`"),
    };
    let mut details = json!({ "caller": id });
    if let Some(address) = address {
        details["address"] = json!(address.to_string());
    }
    if let Some(key) = key {
        details["key"] = json!(key);
    }
    let why = match refused.why {
        Refused::Denied(grant) => {
            let why = format!("denied by `{grant}`");
            details["denied"] = json!(grant);
            why
        }
        Refused::Missing(missing) => {
            let why = format!("missing resource `{missing}`");
            if key.is_none() {
                details["grant"] = json!(missing);
            }
            details["missing"] = json!({ "resource": missing });
            why
        }
    };
    let message = format!("{who} may not {action} {what}: {why}");
    CallError::new(ErrorCode::Forbidden, message).with_details(details)
}
