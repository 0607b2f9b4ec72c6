//! The way in: resolve, visibility, access, limits, input schema. Resolving is
//! in [`route`](super::route).

use super::{
    Dispatcher, explain,
    outcome::{timeout, wrong_kind},
    record::Record,
};
use crate::{
    call::{Call, Input},
    context::{Context, ContextInner},
    error::{CallError, ErrorCode},
    explain::{First, Silent, Stage, Step, Tell},
    gate::{Ask, Decision, gate_told, refusal, unauthenticated},
    identity::{Caller, CallerKind},
    inflight::{Entering, Place},
    json::NESTING_MAX,
    registry::Entry,
    spec::{Kind, OperationSpec},
};
use serde_json::json;
use std::sync::Arc;
use tokio::time::Instant;

/// How the caller asks, which must fit the operation's kind.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    Unary,
    Subscription,
    Channel,
}

impl Expect {
    /// The kind to assume of an operation that is not known here.
    pub(super) fn kind(self) -> Kind {
        match self {
            Expect::Unary => Kind::Mutation,
            Expect::Subscription => Kind::Subscription,
            Expect::Channel => Kind::Channel,
        }
    }

    fn fits(self, kind: Kind) -> bool {
        match self {
            Expect::Unary => kind.is_unary(),
            Expect::Subscription => kind == Kind::Subscription,
            Expect::Channel => kind == Kind::Channel,
        }
    }
}

/// A call that may run.
pub(super) struct Admitted {
    pub(super) entry: Arc<Entry>,
    pub(super) caller: Caller,
    pub(super) input: Input,
    pub(super) deadline: Option<Instant>,
    /// Given back when the call has ended; a question takes none.
    pub(super) _place: Option<Place>,
}

impl Dispatcher {
    pub(super) fn admit(
        &self,
        call: &mut Call,
        expect: Expect,
        record: &mut Record,
    ) -> Result<Admitted, CallError> {
        self.pass(call, expect, record, &mut Silent)
    }

    /// [`Dispatcher::admit`], with somebody who listens: the one way in, of
    /// calls and of questions about them.
    pub(super) fn pass<T: Tell>(
        &self,
        call: &mut Call,
        expect: Expect,
        record: &mut Record,
        tell: &mut T,
    ) -> Result<Admitted, CallError> {
        // What runs may finish, and needs its own calls for that.
        if self.is_draining() && call.caller.kind() != CallerKind::Authority {
            return Err(shutting_down());
        }
        let mut first = First::none();
        // Resolve.
        let caller = call
            .caller
            .refreshed(self.identities())
            .ok_or_else(unauthenticated)?;
        let resolved = self.resolve(&self.0.registry.view(), call, &caller, expect);
        let entry = resolved.inspect_err(|refused| tell.tell(|| explain::not_found(refused)))?;
        let spec = entry.spec();
        tell.tell(|| explain::found(&entry));
        // Visibility, and access as far as it can be known without the input: a
        // caller without the right learns nothing from how its input is read.
        let has_input = tell.has_input() || self.takes_nothing(&entry);
        let ask = if has_input { Ask::Enter } else { Ask::Probe };
        let entered = self.allow_told(&caller, &entry, ask, tell);
        first.or::<_, T>(entered)?;
        if !T::ONLY_TELLS && !expect.fits(spec.kind) {
            return Err(wrong_kind(spec));
        }
        // Limits, before anything is parsed.
        let sized = self.check_size(call, spec, record);
        let sized = sized.inspect_err(|refused| tell.tell(|| explain::too_large(refused)));
        if first.or::<_, T>(sized)?.is_none() {
            return Err(first.end(()).err().unwrap_or_else(unauthenticated));
        }
        let entering = Entering {
            caller: &caller,
            is_own: self.is_own(&caller),
            originator: call.originator.as_ref(),
            operation: &spec.name,
            own: spec.limits,
            kind: spec.kind,
        };
        let place = match T::ONLY_TELLS {
            true => None,
            false => Some(self.0.in_flight.enter(&entering)?),
        };
        if let Some(meter) = place.as_ref().and_then(Place::meter) {
            record.meter(meter, call.input.json_len().unwrap_or_default() as u64);
        }
        tell.tell(|| explain::limits(&self.0.in_flight, &entering));
        let deadline = self.deadline(call, spec)?;
        // Access to what the input names, and input schema.
        let input = std::mem::take(&mut call.input);
        let is_keyed = call.idempotency_key.is_some();
        let input = match has_input {
            true => self.check_input(&caller, &entry, input, is_keyed, record, tell),
            false => {
                tell.tell(explain::no_input);
                Ok(input)
            }
        };
        let input = first.or::<_, T>(input)?;
        if spec.approve {
            let needed = needs_approval(call, spec);
            tell.tell(|| Step::refuses(Stage::Approval, needed.message.clone()));
            first.refuse::<T>(needed)?;
        }
        // Last: who may not call it, or calls it wrongly, is told that.
        if let Err(lacking) = entry.check_credentials(self.node_name()) {
            tell.tell(|| Step::refuses(Stage::Credentials, lacking.message.clone()));
            first.refuse::<T>(lacking)?;
        }
        first.end(Admitted {
            entry,
            caller,
            input: input.unwrap_or_default(),
            deadline,
            _place: place,
        })
    }

    /// Whether a call without any input is one that says all.
    fn takes_nothing(&self, entry: &Arc<Entry>) -> bool {
        let spec = entry.spec();
        let fits = || self.0.registry.check(entry, &spec.input, &json!({}));
        !spec.access.names_resources() && (entry.peer().is_some() || fits().is_ok())
    }

    /// The gate, with its refusal as the caller is told.
    pub(super) fn allow(
        &self,
        caller: &Caller,
        entry: &Entry,
        ask: Ask<'_>,
    ) -> Result<Vec<String>, CallError> {
        self.allow_told(caller, entry, ask, &mut Silent)
    }

    fn allow_told<T: Tell>(
        &self,
        caller: &Caller,
        entry: &Entry,
        ask: Ask<'_>,
        tell: &mut T,
    ) -> Result<Vec<String>, CallError> {
        match gate_told(caller, entry, ask, self.owners(), tell) {
            Decision::Allow(resources) => Ok(resources),
            refused => Err(refusal(refused, caller, entry).unwrap_or_else(unauthenticated)),
        }
    }

    fn check_size(
        &self,
        call: &Call,
        spec: &OperationSpec,
        record: &mut Record,
    ) -> Result<(), CallError> {
        let most = spec
            .limits
            .input_bytes_max
            .unwrap_or(self.0.limits.input_bytes_max)
            .min(self.0.limits.input_bytes_ceiling);
        let Some(bytes) = call.input.json_len() else {
            let message = format!("nests deeper than {NESTING_MAX} levels");
            return Err(CallError::invalid_field("", message));
        };
        record.bytes_in(bytes);
        if bytes > most {
            let message = format!("the input has {bytes} bytes, at most {most} are allowed");
            return Err(CallError::new(ErrorCode::TooLarge, message));
        }
        Ok(())
    }

    /// A peer checks the input of its own operation; here it passes unread,
    /// unless the importer's rule looks into it.
    fn check_input<T: Tell>(
        &self,
        caller: &Caller,
        entry: &Arc<Entry>,
        input: Input,
        is_keyed: bool,
        record: &mut Record,
        tell: &mut T,
    ) -> Result<Input, CallError> {
        let (spec, is_own) = (entry.spec(), entry.peer().is_none());
        let names_resources = spec.access.names_resources();
        if !is_own && !names_resources {
            return Ok(input);
        }
        // A key is kept with a hash of the value.
        if !T::ONLY_TELLS
            && !names_resources
            && !is_keyed
            && let Input::Json(text) = &input
            && spec.input.accepts_text(text)
        {
            return Ok(input);
        }
        let mut first = First::none();
        let mut value = input
            .into_value()
            .inspect_err(|refused| explain::violations(refused, tell))?;
        if names_resources {
            let allowed = self.allow_told(caller, entry, Ask::Input(&mut value), tell);
            if let Some(resources) = first.or::<_, T>(allowed)? {
                record.resources(&resources);
            }
        }
        if is_own {
            let checked = self.0.registry.check(entry, &spec.input, &value);
            let checked = checked.map_err(CallError::invalid_input);
            match &checked {
                Ok(()) => tell.tell(|| Step::passes(Stage::Input, "the input fits its schema")),
                Err(refused) => explain::violations(refused, tell),
            }
            first.or::<_, T>(checked)?;
        }
        first.end(Input::Value(value))
    }

    /// One budget for the whole tree: what the caller has left, what the
    /// operation allows, what the node allows, whichever is least.
    fn deadline(&self, call: &Call, spec: &OperationSpec) -> Result<Option<Instant>, CallError> {
        let now = Instant::now();
        let limits = &self.0.limits;
        let own = if !spec.kind.is_unary() {
            spec.limits.timeout
        } else if call.deadline.is_some() {
            Some(spec.limits.timeout.unwrap_or(limits.deadline_max))
        } else {
            Some(spec.limits.timeout.unwrap_or(limits.deadline_default))
        };
        let most = if spec.kind.is_unary() {
            own.map(|own| own.min(limits.deadline_max))
        } else {
            own
        };
        let deadline = [most.map(|most| now + most), call.deadline]
            .into_iter()
            .flatten()
            .min();
        if deadline.is_some_and(|at| at <= now) {
            return Err(timeout(spec));
        }
        Ok(deadline)
    }

    pub(super) fn context(&self, call: &mut Call, admitted: &Admitted) -> Context {
        Context(Arc::new(ContextInner {
            call_id: call.id,
            parent_id: call.parent,
            principal: admitted.caller.clone(),
            originator: call.originator.clone(),
            deadline: admitted.deadline,
            interaction: std::mem::take(&mut call.interaction),
            trace: call.trace.take(),
            route: std::mem::take(&mut call.route),
            via: std::mem::take(&mut call.via),
            idempotency_key: call.idempotency_key.clone(),
            surface: call.surface.clone(),
            entry: admitted.entry.clone(),
            door: self.clone(),
        }))
    }
}

pub(super) fn shutting_down() -> CallError {
    CallError::new(ErrorCode::Unavailable, "the node is shutting down")
}

pub(super) fn needs_approval(call: &Call, spec: &OperationSpec) -> CallError {
    let message = format!("`{}` needs a person's approval", spec.name);
    CallError::new(ErrorCode::ApprovalRequired, message)
        .with_details(json!({ "request_id": call.id.to_string() }))
}
