//! What makes a registration valid.

use super::{Entry, view::Entries};
use crate::{
    access::{Access, ResourceRule},
    name::PeerId,
    operation::Registration,
    spec::{Kind, OperationSpec, Visibility},
};
use std::{fmt, sync::Arc};

/// What is wrong with one registration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("operation `{name}` {problem}")]
pub struct RegistrationError {
    /// The operation.
    pub name: String,
    /// What is wrong with it.
    pub problem: String,
}

impl RegistrationError {
    pub(super) fn new(name: &str, problem: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            problem: problem.into(),
        }
    }
}

/// Everything that is wrong with a set of registrations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistrationErrors(pub Vec<RegistrationError>);

impl fmt::Display for RegistrationErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&all.join("; "))
    }
}

impl std::error::Error for RegistrationErrors {}

/// Turns registrations into entries; collects all that is wrong.
pub(super) fn check(
    registrations: Vec<Registration>,
    peer: Option<&PeerId>,
    errors: &mut Vec<RegistrationError>,
) -> Entries {
    let mut entries = Entries::new();
    for mut registration in registrations {
        let name = registration.name.clone();
        let mut problem = |text: String| errors.push(RegistrationError::new(&name, text));
        registration.problems.drain(..).for_each(&mut problem);
        let Some(spec) = registration.spec.take() else {
            continue;
        };
        let source = match (peer, registration.imported) {
            (Some(_), _) => Source::Peer,
            (None, true) => Source::Import,
            (None, false) => Source::Own,
        };
        check_spec(&spec, source, &mut problem);
        if !registration.handler.fits(spec.kind) && registration.imported {
            problem(format!(
                "is a {}, which its handler cannot answer",
                spec.kind
            ));
        }
        let key = spec.name.clone();
        if entries
            .insert(key, Arc::new(Entry::new(registration, spec, peer.cloned())))
            .is_some()
        {
            errors.push(RegistrationError::new(&name, "is given twice"));
        }
    }
    entries
}

/// Where an operation comes from, which says when its schemas are compiled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// Now, and kept.
    Own,
    /// Now, to see whether that works; again when needed.
    Import,
    /// Never: the peer that enforces them does.
    Peer,
}

fn check_spec(spec: &OperationSpec, source: Source, problem: &mut impl FnMut(String)) {
    if spec.summary.trim().is_empty() {
        problem("has no summary".into());
    }
    if spec.access.is_empty_rule() {
        problem("has an access rule that states nothing".into());
    }
    if let Access::Rule(rule) = &spec.access {
        let mut asked = rule.scopes_all.iter().chain(&rule.scopes_any);
        if let Some(scope) = asked.find(|scope| scope.is_wildcard()) {
            problem(format!(
                "asks for scope `{scope}`, which ends in `*` and can only be held"
            ));
        }
    }
    if let Access::Rule(rule) = &spec.access
        && let Some((a, b)) = read_twice(&rule.resources)
    {
        let at = a.at.as_str();
        problem(format!(
            "asks for a {} and a {} at `{at}`: a text is one or the other",
            a.kind, b.kind
        ));
    }
    if let (Access::Rule(rule), Source::Own) = (&spec.access, source) {
        for rule in &rule.resources {
            if let Some(stray) = rule.at.stray(&spec.input) {
                problem(format!("asks for a {} at a pointer: {stray}", rule.kind));
            }
        }
    }
    if !spec.hints.fit(spec.kind) {
        problem(format!("has hints that do not fit a {}", spec.kind));
    }
    if spec.resume.is_some() && spec.kind != Kind::Subscription {
        problem("says how to resume, and is no subscription".into());
    }
    for error in spec.errors.iter().filter(|error| !error.is_valid()) {
        problem(format!(
            "declares `{}`, which is no domain code or has no error status",
            error.code
        ));
    }
    for (what, schema) in [("input", &spec.input), ("output", &spec.output)] {
        let outcome = match source {
            Source::Own => schema.compile(),
            Source::Import => schema.check_compiles(),
            Source::Peer => Ok(()),
        };
        if let Err(error) = outcome {
            problem(format!("has an {what} {error}"));
        }
    }
    if source != Source::Own {
        return;
    }
    for (at, example) in spec.examples.iter().enumerate() {
        if let Err(violations) = spec.input.check(&example.input) {
            problem(format!(
                "has example {} whose input breaks the schema: {}",
                at + 1,
                violations[0].message
            ));
        }
        let output = if spec.kind == Kind::Channel {
            Ok(())
        } else {
            spec.output.check(&example.output)
        };
        if let Err(violations) = output {
            problem(format!(
                "has example {} whose output breaks the schema: {}",
                at + 1,
                violations[0].message
            ));
        }
    }
    if spec.visibility == Visibility::Internal && matches!(spec.access, Access::Public) {
        problem("is internal and public at once".into());
    }
}

/// Two rules that read the same text as different kinds. Each kind rewrites
/// what it reads into its canonical form, so the one that is asked first would
/// have judged another text than the handler gets.
fn read_twice(rules: &[ResourceRule]) -> Option<(&ResourceRule, &ResourceRule)> {
    rules.iter().enumerate().find_map(|(at, rule)| {
        let mut others = rules.iter().skip(at + 1);
        let other = others.find(|other| other.at == rule.at && other.kind != rule.kind)?;
        Some((rule, other))
    })
}
