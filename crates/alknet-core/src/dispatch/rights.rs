//! What a caller may do, asked apart from a call: permits, listings, and
//! whether what runs may go on.

use super::{
    Dispatcher,
    admit::{Admitted, needs_approval, shutting_down},
    record::record_permit,
};
use crate::{
    audit::Surface,
    call::{Call, Input, RouteStep, route_text},
    error::CallError,
    gate::{Ask, gate, may_go, no_way, unauthenticated},
    identity::Caller,
    name::OperationName,
    permit::Permit,
    registry::Entry,
};
use std::sync::{Arc, Mutex};

impl Dispatcher {
    /// Asks once for what a data plane then checks at every step.
    ///
    /// # Errors
    ///
    /// As the gate of a call to `operation` says, with no input looked at;
    /// `UNAVAILABLE` if the audit log is behind.
    pub fn authorize(&self, caller: &Caller, operation: &str) -> Result<Permit, CallError> {
        self.authorize_from(caller, operation, Surface::LOCAL)
    }

    /// [`Dispatcher::authorize`] for a caller that arrived through `surface`,
    /// as the audit log then says.
    ///
    /// # Errors
    ///
    /// As [`Dispatcher::authorize`].
    pub fn authorize_from(
        &self,
        caller: &Caller,
        operation: &str,
        surface: Surface,
    ) -> Result<Permit, CallError> {
        let asked = self.permit(caller, operation);
        record_permit(self, caller, operation, surface, asked.as_ref().err())?;
        asked
    }

    fn permit(&self, caller: &Caller, operation: &str) -> Result<Permit, CallError> {
        if self.is_draining() {
            return Err(shutting_down());
        }
        let (entry, caller) = self.allowed(caller, operation)?;
        if entry.spec().approve {
            // A data plane is no way around the person who must say yes.
            let call = Call::named(entry.spec().name.clone(), caller);
            return Err(needs_approval(&call, entry.spec()));
        }
        Ok(Permit {
            door: self.clone(),
            entry,
            caller: Mutex::new(caller),
        })
    }

    /// Whether `caller` may call a local operation with some input: what
    /// [`Dispatcher::authorize`] asks, with no permit and no audit row.
    ///
    /// # Errors
    ///
    /// As the gate of a call to `operation` says.
    pub fn may_call(&self, caller: &Caller, operation: &str) -> Result<(), CallError> {
        self.allowed(caller, operation).map(drop)
    }

    /// Whether `caller` may send a call on by `route`, as far as this node
    /// decides that without its input.
    ///
    /// # Errors
    ///
    /// `FORBIDDEN` or `UNAUTHENTICATED`, as a call would be refused.
    pub fn may_call_at(
        &self,
        caller: &Caller,
        operation: &OperationName,
        route: &[RouteStep],
    ) -> Result<(), CallError> {
        match route {
            [] => self.may_call(caller, operation.as_str()),
            // Whichever peer was picked is asked about with the next item.
            [RouteStep::Any] => Ok(()),
            _ => {
                let caller = caller
                    .refreshed(self.identities())
                    .ok_or_else(unauthenticated)?;
                let way = route_text(route);
                if may_go(&caller, &way, operation) {
                    return Ok(());
                }
                Err(no_way(&caller, &way, operation))
            }
        }
    }

    fn allowed(&self, caller: &Caller, operation: &str) -> Result<(Arc<Entry>, Caller), CallError> {
        let caller = caller
            .refreshed(self.identities())
            .ok_or_else(unauthenticated)?;
        let missing = || {
            if caller.is_authenticated() {
                CallError::not_found(operation)
            } else {
                unauthenticated()
            }
        };
        let name = OperationName::parse(operation).map_err(|_| missing())?;
        let entry = self
            .0
            .registry
            .view()
            .resolve(&name, &[], None)
            .ok_or_else(missing)?;
        self.allow(&caller, &entry, Ask::Probe)?;
        Ok((entry, caller))
    }

    /// Whether `caller` could call `entry` with some input: what every listing
    /// asks.
    #[must_use]
    pub fn may_see(&self, caller: &Caller, entry: &Entry) -> bool {
        if caller.is_stale(self.identities()) {
            let now = caller.refreshed(self.identities());
            return now.is_some_and(|now| gate(&now, entry, Ask::Probe, self.owners()).is_allow());
        }
        gate(caller, entry, Ask::Probe, self.owners()).is_allow()
    }

    /// Resolves when the caller may no longer make this call.
    pub(super) async fn revoked(
        &self,
        caller: &Caller,
        entry: &Arc<Entry>,
        input: &Input,
    ) -> CallError {
        let mut changes = self.identities().changes();
        loop {
            if let Err(refused) = self.recheck(caller, entry, input) {
                return refused;
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// The gate once more, with the rights of now and the input as it was.
    pub(super) fn recheck(
        &self,
        caller: &Caller,
        entry: &Arc<Entry>,
        input: &Input,
    ) -> Result<(), CallError> {
        let caller = caller
            .refreshed(self.identities())
            .ok_or_else(unauthenticated)?;
        match input {
            Input::Value(value) if entry.spec().access.names_resources() => {
                self.allow(&caller, entry, Ask::Input(&mut value.clone()))
            }
            _ => self.allow(&caller, entry, Ask::Probe),
        }
        .map(drop)
    }
}

impl Admitted {
    /// [`Dispatcher::recheck`] of this call.
    pub(super) fn recheck(&self, door: &Dispatcher) -> Result<(), CallError> {
        door.recheck(&self.caller, &self.entry, &self.input)
    }
}
