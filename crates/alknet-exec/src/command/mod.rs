//! Command operations: what an operator adds without writing Rust.

mod config;
mod input;
mod output;
mod run;
mod template;

pub use config::{
    CommandConfig, CommandConfigError, CommandExample, CommandOutput, CommandResource, ExitError,
    SchemaConfig,
};

use crate::{account::RunAs, exec::Exec, shell::Opened};
use alknet_core::{
    ErrorSpec, Hints, JsonPointer, Kind, Operation, OperationBuilder, OperationName, Registration,
    ResourceKind, Schema, Scope,
};
use config::Problems;
use input::Parsed;
use run::Command;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};
use template::Template;

/// Any exit with another code than 0 that the configuration does not name.
pub(crate) const COMMAND_FAILED: &str = "COMMAND_FAILED";
/// The program did not start.
pub(crate) const COMMAND_NOT_STARTED: &str = "COMMAND_NOT_STARTED";

/// Makes operations of what an operator configured. Files and relative paths
/// are looked for in `base_dir`, the directory of the configuration.
///
/// # Errors
///
/// Everything that is wrong with any of them, each with the operation, the
/// field, and what was probably meant.
pub fn command_operations(
    configs: &[CommandConfig],
    exec: &Exec,
    base_dir: &Path,
) -> Result<Vec<Registration>, Vec<CommandConfigError>> {
    let (mut registrations, mut errors) = (Vec::new(), Vec::new());
    let mut names = BTreeSet::new();
    for config in configs {
        let mut problems = Problems::of(&config.name);
        if !names.insert(&config.name) {
            problems.add("name", "is given to two operations");
        }
        registrations.extend(operation(config, exec, base_dir, &mut problems));
        errors.extend(problems.into_errors());
    }
    if errors.is_empty() {
        Ok(registrations)
    } else {
        Err(errors)
    }
}

fn operation(
    config: &CommandConfig,
    exec: &Exec,
    base_dir: &Path,
    problems: &mut Problems,
) -> Option<Registration> {
    let kind = kind(config, problems);
    let name = match OperationName::parse(&config.name) {
        Ok(name) => Some(name),
        Err(error) => {
            problems.add("name", error.to_string());
            None
        }
    };
    if config.summary.trim().is_empty() {
        problems.add("summary", "is empty: say in one sentence what it does");
    }
    let parsed = input::parse(config.input.as_ref(), base_dir, problems);
    let template = parsed
        .as_ref()
        .and_then(|parsed| template(config, parsed, base_dir, problems));
    let output = output_schema(config, base_dir, problems);
    let errors = exit_errors(config, problems);
    let run_as = run_as(config, exec, problems);
    check_env(config, problems);
    let cwd = cwd(config, base_dir, problems);
    check_access(config, kind, parsed.as_ref(), problems);
    check_limits(config, problems);
    if let (Some(parsed), Some(output)) = (&parsed, &output) {
        check_examples(config, kind, &parsed.schema, output, problems);
    }
    if !problems.is_empty() {
        return None;
    }
    let (name, parsed, output) = (name?, parsed?, output?);
    let command = Arc::new(Command {
        name: config.name.clone(),
        template: template?,
        fields: parsed.fields,
        env: config.env.clone(),
        cwd,
        run_as: run_as?,
        exits: errors
            .iter()
            .map(|(exit, spec)| (*exit, (spec.code.clone(), spec.description.clone())))
            .collect(),
        output: config.output,
        parse_lines: config.output_schema.is_some(),
        exec: exec.clone(),
    });
    let builder = describe(config, kind, &name, exec)
        .input_schema(parsed.schema)
        .output_schema(output);
    let builder = declare(builder, errors.into_values());
    Some(builder.raw(run::handler(command)))
}

fn check_limits(config: &CommandConfig, problems: &mut Problems) {
    let count = |limit: Option<u32>| limit.map(|limit| limit as usize);
    for (field, limit) in [
        ("calls_in_flight", config.calls_in_flight),
        ("calls_in_flight_all", config.calls_in_flight_all),
        ("rate_per_second", count(config.rate_per_second)),
        ("rate_burst", count(config.rate_burst)),
    ] {
        if limit == Some(0) {
            problems.add(field, "is 0, with which nobody could call it");
        }
    }
    if config.rate_burst.is_some() && config.rate_per_second.is_none() {
        problems.add("rate_burst", "means nothing without `rate_per_second`");
    }
}

fn kind(config: &CommandConfig, problems: &mut Problems) -> Kind {
    let kind = config.kind.unwrap_or(config.output.kind());
    let fits = match config.output {
        CommandOutput::Text | CommandOutput::Json => kind.is_unary(),
        CommandOutput::Lines => kind == Kind::Subscription,
        CommandOutput::Bytes => kind == Kind::Channel,
    };
    if !fits {
        let output = config.output.as_str();
        let meant = match kind {
            Kind::Subscription => "a subscription has output `lines`",
            Kind::Channel => "a channel has output `bytes`",
            _ => "a query or a mutation has output `text` or `json`",
        };
        problems.add(
            "kind",
            format!("is `{kind}`, but output is `{output}`: {meant}"),
        );
    }
    kind
}

fn template(
    config: &CommandConfig,
    parsed: &Parsed,
    base_dir: &Path,
    problems: &mut Problems,
) -> Option<Template> {
    Template::parse(&config.command, &parsed.fields, base_dir, problems)
}

fn output_schema(
    config: &CommandConfig,
    base_dir: &Path,
    problems: &mut Problems,
) -> Option<Schema> {
    match (&config.output_schema, config.output) {
        (Some(_), CommandOutput::Text | CommandOutput::Bytes) => {
            problems.add(
                "output_schema",
                "is for output `json`, or for `lines` that are JSON each",
            );
            None
        }
        (Some(schema), _) => input::parse_output(schema, base_dir, problems),
        (None, CommandOutput::Text | CommandOutput::Lines) => Some(Schema::output_of::<String>()),
        (None, CommandOutput::Json) => Some(Schema::any()),
        (None, CommandOutput::Bytes) => Some(Schema::output_of::<Opened>()),
    }
}

fn exit_errors(config: &CommandConfig, problems: &mut Problems) -> BTreeMap<i32, ErrorSpec> {
    let mut specs = BTreeMap::new();
    for (exit, error) in &config.errors {
        let field = format!("errors.{exit}");
        let Some(code) = exit.parse().ok().filter(|code| (1..=255).contains(code)) else {
            problems.add(field, "is no exit code of a failure: write 1 to 255");
            continue;
        };
        let spec = ErrorSpec {
            code: error.code.clone(),
            description: error.description.clone(),
            details: Some(Schema::output_of::<run::Failure>()),
            http_status: error.http_status,
        };
        if [COMMAND_FAILED, COMMAND_NOT_STARTED].contains(&spec.code.as_str()) {
            problems.add(field, format!("`{}` is declared already", spec.code));
        } else if !spec.is_valid() {
            problems.add(
                field,
                format!(
                    "`{}` with HTTP status {} is no error: a code is UPPER_SNAKE and none of the protocol's, a status 400 to 599",
                    spec.code, spec.http_status
                ),
            );
        } else if spec.description.trim().is_empty() {
            problems.add(field, "has no description: say when it happens");
        }
        specs.insert(code, spec);
    }
    specs
}

fn run_as(config: &CommandConfig, exec: &Exec, problems: &mut Problems) -> Option<RunAs> {
    match exec.run_as(config.user.as_deref()) {
        Ok(run_as) => Some(run_as),
        Err(error) => {
            problems.add("user", error.to_string());
            None
        }
    }
}

fn check_env(config: &CommandConfig, problems: &mut Problems) {
    for (name, value) in &config.env {
        if !crate::shell::is_variable(name) {
            problems.add(
                format!("env.{name}"),
                "is no name of a variable: letters, digits and `_`, and no digit in front",
            );
        }
        if value.contains('\0') {
            problems.add(format!("env.{name}"), "contains NUL");
        }
    }
}

fn cwd(config: &CommandConfig, base_dir: &Path, problems: &mut Problems) -> PathBuf {
    let Some(cwd) = &config.cwd else {
        return PathBuf::from("/");
    };
    let cwd = base_dir.join(cwd);
    if !cwd.is_absolute() || cwd.to_string_lossy().contains('\0') {
        problems.add("cwd", "is no path");
    }
    cwd
}

fn check_access(
    config: &CommandConfig,
    kind: Kind,
    parsed: Option<&Parsed>,
    problems: &mut Problems,
) {
    if config.scopes.as_ref().is_some_and(Vec::is_empty) {
        problems.add(
            "scopes",
            "is empty: leave it out for the operation's own scope",
        );
    }
    for scope in config.scopes.iter().flatten() {
        match Scope::parse(scope) {
            Ok(parsed) if parsed.is_wildcard() => problems.add(
                "scopes",
                format!("`{scope}` ends in `*`, which only a held scope may"),
            ),
            Ok(_) => {}
            Err(error) => problems.add("scopes", error.to_string()),
        }
    }
    for (at, rule) in config.resources.iter().enumerate() {
        let field = format!("resources[{at}]");
        if ResourceKind::parse(&rule.kind).is_none() {
            problems.add(&field, format!("`{}` is no kind of resource", rule.kind));
        }
        if rule.action.trim().is_empty() {
            problems.add(&field, "has no action, such as `read`");
        }
        let stray = match JsonPointer::parse(&rule.at) {
            Ok(at) => parsed.and_then(|parsed| at.stray(&parsed.schema)),
            Err(error) => Some(error.to_string()),
        };
        if let Some(stray) = stray {
            problems.add(format!("{field}.at"), stray);
        }
    }
    if !hints(config, kind).fit(kind) {
        problems.add(
            "destructive",
            "a query destroys nothing: make it a mutation",
        );
    }
}

fn hints(config: &CommandConfig, kind: Kind) -> Hints {
    let defaults = Hints::of(kind);
    Hints {
        idempotent: config.idempotent.unwrap_or(defaults.idempotent),
        destructive: config.destructive,
        // A subscription that destroys something does not only read.
        read_only: defaults.read_only && (kind == Kind::Query || !config.destructive),
        ..defaults
    }
}

fn check_examples(
    config: &CommandConfig,
    kind: Kind,
    input: &Schema,
    output: &Schema,
    problems: &mut Problems,
) {
    for (at, example) in config.examples.iter().enumerate() {
        let mut check = |part: &str, schema: &Schema, value| {
            if let Err(violations) = schema.check(value)
                && let Some(first) = violations.first()
            {
                let place = match first.pointer.as_str() {
                    "" => String::new(),
                    pointer => format!(" at `{pointer}`"),
                };
                problems.add(
                    format!("examples[{at}].{part}"),
                    format!("breaks the schema{place}: {}", first.message),
                );
            }
        };
        check("input", input, &example.input);
        if kind != Kind::Channel {
            check("output", output, &example.output);
        }
    }
}

fn describe(
    config: &CommandConfig,
    kind: Kind,
    name: &OperationName,
    exec: &Exec,
) -> OperationBuilder {
    let start = match kind {
        Kind::Query => Operation::query,
        Kind::Mutation => Operation::mutation,
        Kind::Subscription => Operation::subscription,
        Kind::Channel => Operation::channel,
    };
    let mut builder = start(&config.name, &config.summary).hints(hints(config, kind));
    if let Some(description) = &config.description {
        builder = builder.description(description.clone());
    }
    // A rule with resources needs scope and resource, so the operation's own
    // scope is stated rather than left to the absence of a rule.
    let own = [name.default_scope().to_string()];
    for scope in config.scopes.as_deref().unwrap_or(&own) {
        builder = builder.requires(scope);
    }
    for rule in &config.resources {
        builder = builder.resource(&rule.kind, &rule.action, &rule.at);
    }
    let timeout = match config.timeout {
        None if kind.is_unary() => Some(exec.config().timeout),
        stated => stated,
    };
    if let Some(timeout) = timeout {
        builder = builder.timeout(timeout.duration());
    }
    if let Some(most) = config.calls_in_flight {
        builder = builder.in_flight_max(most);
    }
    if let Some(most) = config.calls_in_flight_all {
        builder = builder.in_flight_all_max(most);
    }
    if let Some(per_second) = config.rate_per_second {
        builder = builder.rate(config.rate_burst.unwrap_or(per_second), per_second);
    }
    if config.approve {
        builder = builder.approve();
    }
    for example in &config.examples {
        builder = builder.example(example.input.clone(), example.output.clone());
    }
    builder
}

fn declare(
    mut builder: OperationBuilder,
    errors: impl Iterator<Item = ErrorSpec>,
) -> OperationBuilder {
    let mut declared = BTreeSet::new();
    // Several exit codes may mean the same error.
    for spec in errors {
        if declared.insert(spec.code.clone()) {
            builder = builder.error(spec);
        }
    }
    let failed = ErrorSpec {
        details: Some(Schema::output_of::<run::Failure>()),
        http_status: 502,
        ..ErrorSpec::new(
            COMMAND_FAILED,
            "The command exited with another code than 0, or was ended by a signal.",
        )
    };
    let not_started = ErrorSpec {
        http_status: 500,
        ..ErrorSpec::new(COMMAND_NOT_STARTED, "The command could not be started.")
    };
    builder.error(failed).error(not_started)
}

/// What the fuzzer calls: the arguments that a configured command gets for an
/// input, or which part was refused.
#[doc(hidden)]
pub fn fuzz_arguments(
    config: &CommandConfig,
    input: &serde_json::Value,
    base_dir: &Path,
) -> Result<Vec<String>, &'static str> {
    let mut problems = Problems::of(&config.name);
    let parsed = input::parse(config.input.as_ref(), base_dir, &mut problems);
    let template = parsed
        .as_ref()
        .and_then(|parsed| template(config, parsed, base_dir, &mut problems));
    let (Some(parsed), Some(template), true) = (parsed, template, problems.is_empty()) else {
        return Err("configuration");
    };
    match input {
        serde_json::Value::Object(fields) if parsed.schema.check(input).is_ok() => {
            template.fill(fields).map_err(|_| "argument")
        }
        _ => Err("input"),
    }
}
