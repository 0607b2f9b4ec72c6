//! A decision, told step by step: the same gate and the same way in as a
//! call's, listened to instead of followed.

use crate::{
    call::{Input, Route},
    error::CallError,
    name::OperationName,
    role::GrantTarget,
    storage::Standing,
};
use std::fmt;

/// What is looked at, in the order in which a call passes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Whether the caller is known, enabled, and its access not over.
    Caller,
    /// Whether there is such an operation, and where.
    Resolve,
    /// Whether the caller may use the peer, or the route to one behind it.
    Route,
    /// Whether calls from outside can reach the operation.
    Visibility,
    /// What the operation asks of its callers in general.
    Access,
    /// Whether the operation itself was granted whole.
    Whole,
    /// A scope.
    Scope,
    /// A resource that the input names.
    Resource,
    /// Bytes of the input.
    Size,
    /// Calls in flight and a second.
    Limits,
    /// The input's schema.
    Input,
    /// Whether a person must say yes first.
    Approval,
    /// Whether the secrets are there that its handler uses elsewhere.
    Credentials,
}

impl Stage {
    /// The stage as listed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Caller => "caller",
            Stage::Resolve => "resolve",
            Stage::Route => "route",
            Stage::Visibility => "visibility",
            Stage::Access => "access",
            Stage::Whole => "whole",
            Stage::Scope => "scope",
            Stage::Resource => "resource",
            Stage::Size => "size",
            Stage::Limits => "limits",
            Stage::Input => "input",
            Stage::Approval => "approval",
            Stage::Credentials => "credentials",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a step comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The call passes.
    Passes,
    /// The call is refused here.
    Refuses,
    /// Nothing is decided; what else is good to know.
    Notes,
}

/// One step of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Step {
    /// What is looked at.
    pub stage: Stage,
    /// What it comes to.
    pub verdict: Verdict,
    /// What was found, in a sentence without its dot.
    pub text: String,
    /// Where in the input, as a JSON pointer.
    pub pointer: Option<String>,
    /// What the caller was given that decides it; a [`GrantTarget::Deny`] if
    /// that is why it is refused.
    pub by: Option<GrantTarget>,
    /// The least that would let the call pass here, as it is granted on the
    /// command line.
    pub grant: Option<String>,
    /// Whether the presented key's own limits are looked at, not what its peer
    /// holds.
    pub of_key: bool,
    /// Whether a grant would help, and only an input would say which.
    is_open: bool,
}

impl Step {
    fn new(stage: Stage, verdict: Verdict, text: impl Into<String>) -> Self {
        Self {
            stage,
            verdict,
            text: text.into(),
            pointer: None,
            by: None,
            grant: None,
            of_key: false,
            is_open: false,
        }
    }

    pub(crate) fn passes(stage: Stage, text: impl Into<String>) -> Self {
        Self::new(stage, Verdict::Passes, text)
    }

    pub(crate) fn refuses(stage: Stage, text: impl Into<String>) -> Self {
        Self::new(stage, Verdict::Refuses, text)
    }

    pub(crate) fn notes(stage: Stage, text: impl Into<String>) -> Self {
        Self::new(stage, Verdict::Notes, text)
    }

    pub(crate) fn at(mut self, pointer: &str) -> Self {
        self.pointer = Some(pointer.into());
        self
    }

    pub(crate) fn by(mut self, by: Option<GrantTarget>) -> Self {
        self.by = by;
        self
    }

    pub(crate) fn grant(mut self, grant: Option<String>) -> Self {
        self.grant = grant;
        self
    }

    /// What would have to be granted is not known without an input.
    pub(crate) fn open(mut self) -> Self {
        self.is_open = true;
        self
    }

    /// No grant widens a key: it is made with what it may do at most.
    fn of_key(mut self) -> Self {
        self.of_key = true;
        self.is_open = false;
        self.grant = None;
        self
    }
}

/// What is asked: would this call be let in?
#[derive(Debug)]
pub struct Question<'a> {
    /// Whose call.
    pub caller: &'a Standing,
    /// What is called.
    pub operation: OperationName,
    /// Through which peers; not through [`RouteStep::Any`](crate::RouteStep).
    pub route: Route,
    /// With what; `None` asks about any input: resources that it names, and
    /// whether it fits, are then not decided. An operation that takes no input
    /// gets that.
    pub input: Option<Input>,
}

/// A decision and the steps to it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Explanation {
    /// The steps, in their order. After the first that refuses they go on as
    /// far as they make sense, so that everything that is missing is told.
    pub steps: Vec<Step>,
    /// What the caller would be told; `None` if the call would be let in, and
    /// its handler run.
    pub refused: Option<CallError>,
}

impl Explanation {
    /// Whether the call would be let in.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.refused.is_none()
    }

    /// Everything that would have to be granted, each once; empty if the call
    /// is let in, or if no grant alone lets it in. Without an input, resources
    /// are not among it.
    #[must_use]
    pub fn grants(&self) -> Vec<&str> {
        let refusing = self.steps.iter();
        let refusing = refusing.filter(|step| step.verdict == Verdict::Refuses);
        let mut grants = Vec::new();
        for step in refusing {
            match step.grant.as_deref() {
                Some(grant) if grants.contains(&grant) => {}
                Some(grant) => grants.push(grant),
                None if step.is_open => {}
                // What grants cannot mend is not told as if they could.
                None => return Vec::new(),
            }
        }
        grants
    }
}

/// Listens to a decision while it is made.
pub(crate) trait Tell {
    /// Whether nothing happens but that it is told: no place is taken, and
    /// what comes after a refusal is looked at too.
    const ONLY_TELLS: bool;

    /// Whether what is decided about has an input: a call has one always.
    fn has_input(&self) -> bool {
        true
    }

    /// Takes a step; made only if somebody listens.
    fn tell(&mut self, step: impl FnOnce() -> Step);
}

/// Nobody listens: the decision of a call, at no cost.
pub(crate) struct Silent;

impl Tell for Silent {
    const ONLY_TELLS: bool = false;

    fn tell(&mut self, _step: impl FnOnce() -> Step) {}
}

/// Writes the steps down.
pub(crate) struct Steps {
    pub(crate) told: Vec<Step>,
    pub(crate) has_input: bool,
}

impl Tell for Steps {
    const ONLY_TELLS: bool = true;

    fn has_input(&self) -> bool {
        self.has_input
    }

    fn tell(&mut self, step: impl FnOnce() -> Step) {
        self.told.push(step());
    }
}

/// Marks the steps that look at what the presented key may do at most.
pub(crate) struct OfKey<'t, T>(pub(crate) &'t mut T);

impl<T: Tell> Tell for OfKey<'_, T> {
    const ONLY_TELLS: bool = T::ONLY_TELLS;

    fn tell(&mut self, step: impl FnOnce() -> Step) {
        self.0.tell(|| step().of_key());
    }
}

/// The first refusal. Who decides stops there; who only tells goes on.
pub(crate) struct First<R>(Option<R>);

impl<R> First<R> {
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// Ends the decision with this refusal, or keeps it if it is the first.
    pub(crate) fn refuse<T: Tell>(&mut self, refused: R) -> Result<(), R> {
        if !T::ONLY_TELLS {
            return Err(refused);
        }
        self.0.get_or_insert(refused);
        Ok(())
    }

    /// The outcome, or `None` and the refusal kept.
    pub(crate) fn or<V, T: Tell>(&mut self, outcome: Result<V, R>) -> Result<Option<V>, R> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(refused) => self.refuse::<T>(refused).map(|()| None),
        }
    }

    pub(crate) fn end<V>(self, value: V) -> Result<V, R> {
        match self.0 {
            None => Ok(value),
            Some(refused) => Err(refused),
        }
    }
}
