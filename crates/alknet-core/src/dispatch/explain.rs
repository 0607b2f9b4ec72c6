//! Why a call would be let in, or not: the way in, listened to.

use super::{Dispatcher, admit::Expect, record::Record};
use crate::{
    call::{Call, Input, RouteStep},
    error::CallError,
    explain::{Explanation, Question, Stage, Step, Steps, Tell},
    inflight::{Entering, InFlight},
    registry::Entry,
};
use serde_json::{Value, json};

impl Dispatcher {
    /// Tells why a call would be let in or refused, step by step, by the very
    /// code that decides about calls. Nothing runs, no place among the calls
    /// in flight is taken, and nothing is written to the audit log.
    ///
    /// What is sent on to a peer is decided there too, of which nothing is
    /// known here.
    ///
    /// # Errors
    ///
    /// `INVALID_INPUT` for a route that no call can take, or that leaves the
    /// peer open.
    pub fn explain(&self, question: Question<'_>) -> Result<Explanation, CallError> {
        let Question {
            caller: standing,
            operation,
            route,
            input,
        } = question;
        if route.contains(&RouteStep::Any) {
            let message = "which peer a call to `any` would reach is not known before it is made";
            return Err(CallError::invalid_field("", message));
        }
        let mut steps = Steps {
            told: standing.steps().to_vec(),
            has_input: input.is_some(),
        };
        let mut call = Call::named(operation, standing.caller().clone()).on(route);
        call.input = input.unwrap_or_else(|| Input::Value(json!({})));
        let mut record = Record::none();
        let passed = self.pass(&mut call, Expect::Unary, &mut record, &mut steps);
        if passed.is_err() {
            self.tell_stranger(&call.route, &mut steps);
        }
        // What somebody may do who is kept out is told all the same: it shows
        // what letting it in again would mean.
        let refused = standing.refused().or(passed.err());
        Ok(Explanation {
            steps: steps.told,
            refused,
        })
    }

    /// Callers without the right are told the same of peers that do not exist;
    /// who asks why, is told that no grant makes one.
    fn tell_stranger(&self, route: &[RouteStep], steps: &mut Steps) {
        let Some(RouteStep::Peer(peer)) = route.first() else {
            return;
        };
        let known = self.0.known_peers.as_ref().map(|known| known());
        let is_known = known.is_none_or(|known| known.contains(peer));
        if !is_known && steps.told.iter().all(|step| step.stage != Stage::Resolve) {
            steps.tell(|| Step::refuses(Stage::Resolve, format!("no peer `{peer}`")));
        }
    }
}

/// What is told of an operation that was found.
pub(super) fn found(entry: &Entry) -> Step {
    let spec = entry.spec();
    let name = &spec.name;
    match entry.way() {
        None => Step::passes(
            Stage::Resolve,
            format!("`{name}` is a {} of this node", spec.kind),
        ),
        Some(way) if entry.is_listed() => Step::passes(
            Stage::Resolve,
            format!(
                "`{name}` is a {} of `{way}`, which decides about it once more",
                spec.kind
            ),
        ),
        Some(way) => Step::passes(
            Stage::Resolve,
            format!(
                "`{way}` is asked: what it offers to its callers is not known here, and it decides"
            ),
        ),
    }
}

/// What is told of one that was not.
pub(super) fn not_found(refused: &CallError) -> Step {
    let missing = detail(refused, "grant");
    match missing {
        Some(_) => Step::refuses(Stage::Route, refused.message.clone()).grant(missing),
        None => Step::refuses(Stage::Resolve, refused.message.clone()),
    }
}

fn detail(refused: &CallError, field: &str) -> Option<String> {
    let details = refused.details.as_deref()?;
    details.get(field)?.as_str().map(str::to_owned)
}

pub(super) fn too_large(refused: &CallError) -> Step {
    Step::refuses(Stage::Size, refused.message.clone())
}

/// What is told of the limits that hold for a call; none is asked.
pub(super) fn limits(in_flight: &InFlight, entering: &Entering<'_>) -> Step {
    Step::notes(Stage::Limits, in_flight.told(entering))
}

/// What is told if no input is given, and the operation needs one.
pub(super) fn no_input() -> Step {
    Step::notes(
        Stage::Input,
        "no input is given: what it names, and whether it fits, is not decided",
    )
}

/// What is told of an input that does not fit, one step for each trouble.
pub(super) fn violations(refused: &CallError, tell: &mut impl Tell) {
    let details = refused.details.as_deref().and_then(Value::as_array);
    for violation in details.into_iter().flatten() {
        tell.tell(|| {
            let field = |name: &str| violation.get(name).and_then(Value::as_str);
            let step = Step::refuses(Stage::Input, field("message").unwrap_or_default());
            step.at(field("pointer").unwrap_or_default())
        });
    }
}
