//! What an operation is: its specification, as listed, exported and enforced.

use crate::{access::Access, error::is_domain_code, name::OperationName, schema::Schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

/// How an operation answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Reads; safe to repeat.
    Query,
    /// Has effects.
    Mutation,
    /// Answers with any number of items, then ends.
    Subscription,
    /// A duplex byte stream after a JSON opening, ended by a JSON result.
    Channel,
}

impl Kind {
    /// The kind as listed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Query => "query",
            Kind::Mutation => "mutation",
            Kind::Subscription => "subscription",
            Kind::Channel => "channel",
        }
    }

    /// One reply, no stream.
    #[must_use]
    pub fn is_unary(self) -> bool {
        matches!(self, Kind::Query | Kind::Mutation)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether an operation can be reached from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// Through any surface, if access allows.
    External,
    /// Only by other operations of this node; outside it does not exist.
    Internal,
}

/// What a caller may assume of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hints {
    /// Changes nothing.
    pub read_only: bool,
    /// Repeating it changes nothing more.
    pub idempotent: bool,
    /// May destroy something.
    pub destructive: bool,
    /// Touches things outside this node.
    pub open_world: bool,
}

impl Hints {
    /// The defaults of a kind.
    #[must_use]
    pub fn of(kind: Kind) -> Self {
        let reads = matches!(kind, Kind::Query | Kind::Subscription);
        Self {
            read_only: reads,
            idempotent: reads,
            destructive: false,
            open_world: false,
        }
    }

    /// Whether they contradict the kind: a query that claims to write.
    #[must_use]
    pub fn fit(&self, kind: Kind) -> bool {
        (kind != Kind::Query || self.read_only) && !(self.read_only && self.destructive)
    }
}

/// A domain error that an operation declares.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorSpec {
    /// `UPPER_SNAKE`, not one of the protocol's codes.
    pub code: String,
    /// When it happens.
    pub description: String,
    /// Schema of the details, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Schema>,
    /// Status in the HTTP gateway.
    #[serde(default = "default_status")]
    pub http_status: u16,
}

fn default_status() -> u16 {
    422
}

impl ErrorSpec {
    /// A declared error that HTTP callers see as 422.
    #[must_use]
    pub fn new(code: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            description: description.into(),
            details: None,
            http_status: default_status(),
        }
    }

    /// Whether the code may be declared.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        is_domain_code(&self.code) && (400..=599).contains(&self.http_status)
    }
}

/// An input with its output: documentation, and run as a test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// What is sent.
    pub input: Value,
    /// What may come back.
    pub output: Value,
}

/// How a subscription continues after a cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// Field of an item that is the cursor.
    pub item_field: String,
    /// Field of the input that takes it.
    pub input_field: String,
}

/// Limits of one operation; `None` means the node's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationLimits {
    /// Most time a call may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Most bytes of input, up to 16 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_bytes_max: Option<usize>,
    /// Most calls of one caller at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight_max: Option<usize>,
    /// Most calls of all callers at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight_all_max: Option<usize>,
    /// How often one caller may call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<CallRate>,
}

/// A burst of calls, then so many a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRate {
    /// Calls at once; at least 1.
    pub burst: u32,
    /// Calls a second that may go on; at least 1.
    pub per_second: u32,
}

/// Everything that is known of an operation but its code.
#[derive(Clone, Debug)]
pub struct OperationSpec {
    /// Its name.
    pub name: OperationName,
    /// How it answers.
    pub kind: Kind,
    /// Whether it exists outside.
    pub visibility: Visibility,
    /// One sentence.
    pub summary: String,
    /// More, in Markdown.
    pub description: Option<String>,
    /// Schema of the input.
    pub input: Schema,
    /// Schema of the reply; of each item of a subscription; of the opening
    /// reply of a channel.
    pub output: Schema,
    /// Declared domain errors.
    pub errors: Vec<ErrorSpec>,
    /// Who may call it.
    pub access: Access,
    /// Needs a person's yes first.
    pub approve: bool,
    /// What a caller may assume.
    pub hints: Hints,
    /// How a subscription continues.
    pub resume: Option<Resume>,
    /// The reply is never stored, logged or replayed.
    pub secret_output: bool,
    /// Documentation and tests.
    pub examples: Vec<Example>,
    /// Its own limits.
    pub limits: OperationLimits,
    /// Why it should not be used any more.
    pub deprecated: Option<String>,
}
