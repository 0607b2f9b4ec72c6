//! Operations that come from the configuration, and those of the demo.

use crate::config::Config;
use alknet_core::{
    CallError, Context, ErrorSpec, Operation, OperationName, Registration, RegistrationErrors,
    Scope,
};
use alknet_exec::{CommandConfigError, Exec, command_operations};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{path::Path, time::Duration};

/// Why configured operations cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperationsError {
    /// Entries that make no sense, all of them.
    #[error("configuration: {}", all(.0))]
    Commands(Vec<CommandConfigError>),
    /// Operations that cannot be registered, all of them.
    #[error("{0}")]
    Registration(RegistrationErrors),
}

fn all(errors: &[CommandConfigError]) -> String {
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// The operations of `[[operation]]`, and the scopes they need, which
/// `operator` holds.
pub(crate) fn configured_operations(
    config: &Config,
    exec: &Exec,
    dir: &Path,
) -> Result<(Vec<Registration>, Vec<Scope>), OperationsError> {
    let operations =
        command_operations(&config.operations, exec, dir).map_err(OperationsError::Commands)?;
    let mut scopes = Vec::new();
    for operation in &operations {
        let Some(spec) = operation.spec() else {
            continue;
        };
        if let alknet_core::Access::Rule(rule) = &spec.access {
            scopes.extend(rule.scopes_all.iter().chain(&rule.scopes_any).cloned());
        }
    }
    Ok((operations, scopes))
}

/// Names that this node registered, to be replaced at a reload.
pub(crate) fn names(operations: &[Registration]) -> Vec<OperationName> {
    operations
        .iter()
        .filter_map(|operation| OperationName::parse(operation.name()).ok())
        .collect()
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GreetInput {
    /// Whom to greet.
    name: String,
    /// In which language.
    #[serde(default)]
    language: Language,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Language {
    #[default]
    English,
    German,
    Spanish,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CountInput {
    /// How far to count.
    #[schemars(range(min = 1, max = 1_000_000))]
    to: u32,
    /// Milliseconds between two numbers.
    #[serde(default)]
    every_ms: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DivideInput {
    /// What is divided.
    dividend: i64,
    /// By what.
    divisor: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AskInput {
    /// What to ask.
    question: String,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Echoing {
    /// Always true.
    echoing: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DemoNoInput {}

/// One operation of each kind, to try things out.
pub(crate) fn demo_operations() -> Vec<Registration> {
    vec![
        Operation::query("demo/greet", "Greets somebody.")
            .example(json!({ "name": "Ada" }), json!("Hello, Ada!"))
            .handler(|_cx: Context, input: GreetInput| async move {
                Ok(match input.language {
                    Language::English => format!("Hello, {}!", input.name),
                    Language::German => format!("Hallo, {}!", input.name),
                    Language::Spanish => format!("¡Hola, {}!", input.name),
                })
            }),
        Operation::query("demo/divide", "Divides two whole numbers.")
            .error(ErrorSpec::new("DIVISION_BY_ZERO", "The divisor is zero."))
            .example(json!({ "dividend": 7, "divisor": 2 }), json!(3))
            .handler(|_cx: Context, input: DivideInput| async move {
                let quotient = input.dividend.checked_div(input.divisor);
                quotient.ok_or_else(|| {
                    CallError::domain("DIVISION_BY_ZERO", "the divisor is zero")
                        .with_details(json!({ "dividend": input.dividend }))
                })
            }),
        Operation::query(
            "demo/ask",
            "Reports progress, asks its caller, and answers with the answer.",
        )
        .example(json!({ "question": "Which way?" }), json!("left"))
        .handler(|cx: Context, input: AskInput| async move {
            cx.progress(&json!({ "message": "a question comes" })).await;
            let answer = cx.ask(&json!({ "question": input.question })).await?;
            cx.progress(&json!({ "message": "it was answered" })).await;
            Ok(answer)
        }),
        Operation::subscription("demo/count", "Counts from one upwards.")
            .example(json!({ "to": 3, "every_ms": 100 }), json!(1))
            .stream(|_cx: Context, input: CountInput| async move {
                let wait = Duration::from_millis(input.every_ms);
                Ok(futures::stream::unfold(1, move |n| async move {
                    if n > 1 && !wait.is_zero() {
                        tokio::time::sleep(wait).await;
                    }
                    (n <= input.to).then_some((Ok(n), n + 1))
                }))
            }),
        Operation::channel("demo/echo", "Sends every byte back.")
            .example(json!({}), json!({ "bytes": 5 }))
            .channel::<DemoNoInput, Echoing, _, _, _>(
                |_cx: Context, _: DemoNoInput, opening| async move {
                    let mut channel = opening.accept(&Echoing { echoing: true })?;
                    let mut bytes = 0u64;
                    while let Ok(Some(chunk)) = channel.rx.recv().await {
                        bytes += chunk.bytes.len() as u64;
                        if channel.tx.send_chunk(chunk).await.is_err() {
                            break;
                        }
                    }
                    channel.tx.end();
                    Ok(json!({ "bytes": bytes }))
                },
            ),
    ]
}
