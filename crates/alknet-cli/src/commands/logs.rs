//! `alknet logs`.

use crate::{
    app::App, failure::Failure, node_access::CallOptions, output::cell, table::one_line, when,
};
use clap::{Args, ValueEnum};
use futures::StreamExt;
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Goes on with what happens next
    #[arg(short, long)]
    follow: bool,
    /// Lines of the past
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    lines: u32,
    /// Only lines at least so severe
    #[arg(long, value_enum)]
    level: Option<Level>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

pub(crate) async fn run(app: &App, args: &LogsArgs) -> Result<(), Failure> {
    let mut input = json!({ "lines": args.lines, "follow": args.follow });
    if let Some(level) = args.level {
        let name = level.to_possible_value();
        input["level"] = json!(name.as_ref().map(clap::builder::PossibleValue::get_name));
    }
    let home = app.home().await?;
    let lines = home
        .subscribe("node/logs", input, CallOptions::default())
        .await;
    let mut lines = lines.map_err(|error| app.explain(home, &error))?;
    while let Some(line) = lines.next().await {
        let line = line
            .and_then(|line| line.into_value())
            .map_err(|error| app.explain(home, &error))?;
        match app.out.json {
            true => app.out.json_line(&line)?,
            false => app.out.text(&render(&line))?,
        }
    }
    Ok(())
}

/// `2026-01-31T12:00:00.000Z INFO alknet_node: ready peers=2`.
fn render(line: &Value) -> String {
    let text = |name: &str| cell(line.get(name));
    let mut rendered = format!(
        "{} {:5} {}: {}",
        when::stamp(&text("at")),
        text("level").to_uppercase(),
        text("target"),
        text("message")
    );
    for (name, value) in line
        .get("fields")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        rendered.push_str(&format!(" {name}={}", cell(Some(value))));
    }
    one_line(&rendered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line() {
        let line = json!({
            "at": "2026-01-31T12:00:00Z", "level": "info", "target": "alknet_node",
            "message": "ready\nor not", "fields": { "peers": 2 },
        });
        assert_eq!(
            render(&line),
            "2026-01-31T12:00:00.000Z INFO  alknet_node: ready or not peers=2"
        );
    }
}
