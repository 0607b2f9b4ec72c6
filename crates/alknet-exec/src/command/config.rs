//! One `[[operation]]` of the configuration, and what may be wrong with it.

use alknet_core::{Kind, TimeSpan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeMap, fmt, path::PathBuf};

/// A command that callers may run by a name, with checked arguments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandConfig {
    /// Name of the operation, such as `deploy/restart`.
    pub name: String,
    /// What it does, in one sentence.
    pub summary: String,
    /// More, in Markdown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `query` (changes nothing), `mutation`, `subscription` (output `lines`)
    /// or `channel` (output `bytes`). Default: as the output says, else
    /// `mutation`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// Program and arguments; never a shell. The program is a name, looked for
    /// in `[exec] path`, or a path, relative to the configuration. `{field}`
    /// takes a field of the input: as a whole argument, or behind `=`. An array
    /// becomes several arguments; a field that is absent drops its argument.
    pub command: Vec<String>,
    /// Fields of the input, such as `{ service = { enum = ["web"] } }` or
    /// `{ city = "string" }`: all required but those with a `default` or
    /// `optional = true`, and no others. Or a whole JSON Schema (with `type =
    /// "object"` and `properties`, or with `$schema`), or `{ file =
    /// "input.schema.json" }`. A field with `dash = true` may begin with `-`.
    /// Default: no fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<SchemaConfig>,
    /// What is made of standard output. Default `text`.
    #[serde(default)]
    pub output: CommandOutput,
    /// Shape of the reply of output `json`, in the forms of `input`, or `true`
    /// for any. With output `lines`, each line is read as JSON of this shape;
    /// without it, lines are text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<SchemaConfig>,
    /// Scopes that a caller must hold, every one. Default: the operation's own
    /// (`deploy:restart`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
    /// Resources that a caller must hold beside the scopes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<CommandResource>,
    /// Most time it may take. Default: `[exec] timeout`; none for
    /// subscriptions and channels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<TimeSpan>,
    /// Most calls of one caller at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls_in_flight: Option<usize>,
    /// Most calls of all callers at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls_in_flight_all: Option<usize>,
    /// Calls a second that one caller may go on making.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_per_second: Option<u32>,
    /// Calls that one caller may make at once. Default: as `rate_per_second`,
    /// without which it means nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_burst: Option<u32>,
    /// Working directory, relative to the configuration. Default `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<PathBuf>,
    /// Variables to set beside `PATH`; nothing is inherited.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Account that it runs as. Default: `[exec] user`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What exit codes mean: `{ "3" = { code = "NOT_HEALTHY", description =
    /// "The service did not come up." } }`. Others are `COMMAND_FAILED`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, ExitError>,
    /// Needs a person's yes before it runs.
    #[serde(default)]
    pub approve: bool,
    /// Repeating it changes nothing more. Default: `true` for queries and
    /// subscriptions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotent: Option<bool>,
    /// May destroy something.
    #[serde(default)]
    pub destructive: bool,
    /// Inputs with what may come back, checked against the schemas.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<CommandExample>,
}

/// A schema as it is written in a configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct SchemaConfig(pub Value);

/// What is made of a command's standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CommandOutput {
    /// One string; must be UTF-8.
    #[default]
    Text,
    /// One JSON value.
    Json,
    /// A subscription with an item for each line.
    Lines,
    /// A channel: standard input and output as bytes.
    Bytes,
}

impl CommandOutput {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
            Self::Lines => "lines",
            Self::Bytes => "bytes",
        }
    }

    /// The kind of an operation that states none.
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Text | Self::Json => Kind::Mutation,
            Self::Lines => Kind::Subscription,
            Self::Bytes => Kind::Channel,
        }
    }
}

/// A resource that the input names and the caller must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandResource {
    /// `bucket`, `net`, `command`, `peer` or `topic`.
    pub kind: String,
    /// What is done to it, such as `read`.
    pub action: String,
    /// JSON pointer to the field that names it, such as `/file`.
    pub at: String,
}

/// What an exit code means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExitError {
    /// `UPPER_SNAKE`, none of the protocol's codes.
    pub code: String,
    /// When it happens: one sentence, which callers are told.
    pub description: String,
    /// Status in the HTTP gateway. Default 422.
    #[serde(default = "default_http_status")]
    pub http_status: u16,
}

fn default_http_status() -> u16 {
    422
}

/// An input and what may come back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandExample {
    /// What is sent.
    #[serde(default = "empty_input")]
    pub input: Value,
    /// What may come back.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub output: Value,
}

fn empty_input() -> Value {
    Value::Object(serde_json::Map::new())
}

/// One thing that is wrong with a configured operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandConfigError {
    /// The operation, as it is named.
    pub operation: String,
    /// The field, such as `command[2]`.
    pub field: String,
    /// What is wrong, and what was probably meant.
    pub problem: String,
}

impl fmt::Display for CommandConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            operation,
            field,
            problem,
        } = self;
        write!(f, "operation `{operation}`: `{field}`: {problem}")
    }
}

impl std::error::Error for CommandConfigError {}

/// Collects what is wrong with one operation.
pub(crate) struct Problems {
    operation: String,
    errors: Vec<CommandConfigError>,
}

impl Problems {
    pub(crate) fn of(operation: &str) -> Self {
        Self {
            operation: operation.into(),
            errors: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.errors.push(CommandConfigError {
            operation: self.operation.clone(),
            field: field.into(),
            problem: problem.into(),
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    pub(crate) fn into_errors(self) -> Vec<CommandConfigError> {
        self.errors
    }
}
