//! An operation as it is listed, described and carried to other nodes.

use crate::{
    access::Access,
    import::clean_foreign_text,
    name::PeerId,
    registry::Entry,
    schema::Schema,
    spec::{ErrorSpec, Example, Hints, Kind, OperationLimits, OperationSpec, Resume, Visibility},
};
use serde::{Deserialize, Serialize};

/// Longest summary taken from another node.
const SUMMARY_CHARS_MAX: usize = 500;
/// Longest description taken from another node.
const DESCRIPTION_CHARS_MAX: usize = 16 * 1024;

/// An operation as listed and exported; the form in which catalogues travel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CatalogueEntry {
    /// Its name.
    pub name: crate::name::OperationName,
    /// How it answers.
    pub kind: Kind,
    /// One sentence.
    pub summary: String,
    /// The peer that offers it; local if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<PeerId>,
    /// More, in Markdown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Schema of the input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Schema>,
    /// Schema of the reply, of each item, or of the opening reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Schema>,
    /// Declared errors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ErrorSpec>,
    /// What a caller may assume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hints: Option<Hints>,
    /// How a subscription continues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Resume>,
    /// Whether a person must say yes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approve: bool,
    /// Whether the reply is a secret.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secret_output: bool,
    /// Inputs and what may come back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<Example>,
    /// What it needs, as grants are written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    /// Why it should not be used any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deprecated: Option<String>,
}

impl CatalogueEntry {
    /// The specification that an importer gives it: its own access rule, and
    /// texts that are safe to print. Examples stay: they say what the source
    /// promises, and nobody runs them here.
    #[must_use]
    pub fn into_spec(self, access: Access) -> OperationSpec {
        OperationSpec {
            hints: self
                .hints
                .filter(|hints| hints.fit(self.kind))
                .unwrap_or_else(|| Hints::of(self.kind)),
            name: self.name,
            kind: self.kind,
            visibility: Visibility::External,
            summary: clean_foreign_text(&self.summary, SUMMARY_CHARS_MAX),
            description: long_text(self.description),
            input: self.input.unwrap_or_else(Schema::any),
            output: self.output.unwrap_or_else(Schema::any),
            errors: self
                .errors
                .into_iter()
                .filter(ErrorSpec::is_valid)
                .collect(),
            access,
            // The peer itself asks for the approval.
            approve: false,
            resume: self.resume.filter(|_| self.kind == Kind::Subscription),
            secret_output: self.secret_output,
            examples: self.examples,
            limits: OperationLimits::default(),
            deprecated: long_text(self.deprecated),
        }
    }
}

fn long_text(text: Option<String>) -> Option<String> {
    text.map(|text| clean_foreign_text(&text, DESCRIPTION_CHARS_MAX))
}

/// The full description of an operation.
pub(crate) fn describe_spec(spec: &OperationSpec) -> CatalogueEntry {
    CatalogueEntry {
        name: spec.name.clone(),
        kind: spec.kind,
        summary: spec.summary.clone(),
        peer: None,
        description: spec.description.clone(),
        input: Some(spec.input.clone()),
        output: Some(spec.output.clone()),
        errors: spec.errors.clone(),
        hints: Some(spec.hints),
        resume: spec.resume.clone(),
        approve: spec.approve,
        secret_output: spec.secret_output,
        examples: spec.examples.clone(),
        needs: needs(&spec.access),
        deprecated: spec.deprecated.clone(),
    }
}

fn needs(access: &Access) -> Vec<String> {
    let Access::Rule(rule) = access else {
        return Vec::new();
    };
    let mut needs: Vec<String> = rule.scopes_all.iter().map(ToString::to_string).collect();
    if !rule.scopes_any.is_empty() {
        needs.push(
            rule.scopes_any
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("|"),
        );
    }
    needs.extend(
        rule.resources
            .iter()
            .map(|rule| format!("{}:{{{}}}={}", rule.kind, rule.at.as_str(), rule.action)),
    );
    needs
}

pub(super) fn describe(entry: &Entry, schemas: bool) -> CatalogueEntry {
    let mut full = describe_spec(entry.spec());
    full.peer = entry.peer().cloned();
    if !schemas {
        full = CatalogueEntry {
            description: None,
            input: None,
            output: None,
            errors: Vec::new(),
            examples: Vec::new(),
            hints: None,
            resume: None,
            ..full
        };
    }
    full
}
