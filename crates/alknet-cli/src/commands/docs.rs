//! `alknet __docs`: the reference pages, from the same definitions that parse.

use crate::{app::App, cli::definition, failure::Failure, node_access::Config};
use clap::{Args, ValueEnum};
use serde_json::Value;
use std::collections::BTreeSet;

#[derive(Debug, Args)]
pub(crate) struct DocsArgs {
    /// Which page
    page: Page,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Page {
    Cli,
    Config,
}

pub(crate) fn run(app: &App, args: &DocsArgs) -> Result<(), Failure> {
    app.out.text(&match args.page {
        Page::Cli => cli_page(),
        Page::Config => config_page(),
    })
}

/// Columns of the help in the page.
const WIDTH: usize = 100;

/// The help of every command, the hidden ones left out.
fn cli_page() -> String {
    let mut page = "# Command line\n\nWritten by `cargo xtask docs` from the program itself.\n\n\
        Exit codes: 0 fine, 1 the call failed, 2 wrong usage, 3 could not reach, 4 not allowed, 130 \
        interrupted. `exec` returns the remote status, 128+n for signal n, and 255 for failures of \
        its own. Data goes to standard output, everything said about it to standard error; with \
        `--json` errors are one object there: `{\"error\": {\"code\", \"message\", \"details\", \"hint\"}}`, \
        without `details` or `hint` where there are none.\n"
        .to_owned();
    for (words, help) in help_pages() {
        page.push_str(&format!(
            "\n## `{words}`\n\n```text\n{}\n```\n",
            help.trim_end()
        ));
    }
    page
}

/// Each command with its help, in the order of the definition.
pub fn help_pages() -> Vec<(String, String)> {
    // Shown values come from the environment of whoever runs this.
    let mut root = definition().term_width(WIDTH);
    root.build();
    let mut pages = Vec::new();
    collect("", &root, &mut pages);
    pages
}

fn collect(before: &str, command: &clap::Command, pages: &mut Vec<(String, String)>) {
    let words = format!("{before} {}", command.get_name()).trim().to_owned();
    let help = command.clone().term_width(WIDTH).render_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    pages.push((words.clone(), format!("{}\n", help.join("\n").trim_end())));
    for inner in command
        .get_subcommands()
        .filter(|inner| !inner.is_hide_set())
    {
        collect(&words, inner, pages);
    }
}

/// Every field of `alknet.toml`.
fn config_page() -> String {
    let schema = Value::from(schemars::schema_for!(Config));
    let mut page = "# Configuration\n\nWritten by `cargo xtask docs` from the program itself.\n\n\
        `alknet.toml` in the data directory, or the file given with `alknet up --config`. Every field \
        has a default; a field that is not listed here is refused.\n"
        .to_owned();
    let mut tables = Vec::new();
    section(&schema, &schema, "", false, &mut page, &mut tables);
    let mut seen = BTreeSet::new();
    // Tables may hold tables: the list grows while it is walked.
    let mut at = 0;
    while let Some((name, field, is_list)) = tables.get(at).cloned() {
        at += 1;
        if seen.insert(name.clone()) {
            section(&schema, &field, &name, is_list, &mut page, &mut tables);
        }
    }
    page
}

type Table = (String, Value, bool);

/// One table of the file, and which tables it holds.
fn section(
    document: &Value,
    schema: &Value,
    name: &str,
    is_list: bool,
    page: &mut String,
    tables: &mut Vec<Table>,
) {
    let header = match (name.is_empty(), is_list) {
        (true, _) => "The file itself".to_owned(),
        (false, false) => format!("`[{name}]`"),
        (false, true) => format!("`[[{name}]]`"),
    };
    page.push_str(&format!("\n## {header}\n"));
    let inner = resolve(document, schema);
    if let Some(text) = description(schema).or_else(|| description(inner)) {
        page.push_str(&format!("\n{text}\n"));
    }
    let mut rows = String::new();
    for (key, field) in inner
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let target = resolve(document, field);
        let items = target.get("items").map(|items| resolve(document, items));
        let path = if name.is_empty() {
            key.clone()
        } else {
            format!("{name}.{key}")
        };
        if target.get("properties").is_some() {
            tables.push((path, field.clone(), false));
        } else if let Some(items) = items.filter(|items| items.get("properties").is_some()) {
            tables.push((path, items.clone(), true));
        } else {
            rows.push_str(&row(document, key, field, target));
        }
    }
    if !rows.is_empty() {
        page.push_str("\n| field | type | default | |\n| --- | --- | --- | --- |\n");
        page.push_str(&rows);
    }
}

fn row(document: &Value, key: &str, field: &Value, target: &Value) -> String {
    let default = match field.get("default").or_else(|| target.get("default")) {
        None | Some(Value::Null) => String::new(),
        Some(value) => format!("`{value}`"),
    };
    let text = description(field)
        .or_else(|| description(target))
        .unwrap_or_default();
    let cell = |text: &str| text.replace('\n', " ").replace('|', "\\|");
    format!(
        "| `{key}` | {} | {} | {} |\n",
        cell(&type_name(document, target)),
        cell(&default),
        cell(&text)
    )
}

fn type_name(document: &Value, schema: &Value) -> String {
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return values
            .iter()
            .map(|value| format!("`{value}`"))
            .collect::<Vec<_>>()
            .join(" or ");
    }
    if let Some(value) = schema.get("const") {
        return format!("`{value}`");
    }
    let name = |name: &str| match name {
        "string" => "text".to_owned(),
        "array" => match schema.get("items") {
            Some(items) => format!("list of {}", type_name(document, resolve(document, items))),
            None => "list".into(),
        },
        "object" => "table".into(),
        other => other.to_owned(),
    };
    match schema.get("type") {
        Some(Value::String(one)) => name(one),
        Some(Value::Array(several)) => {
            let names = several
                .iter()
                .filter_map(Value::as_str)
                .filter(|one| *one != "null");
            names.map(name).collect::<Vec<_>>().join(" or ")
        }
        _ => {
            let parts = schema
                .get("anyOf")
                .or_else(|| schema.get("oneOf"))
                .and_then(Value::as_array);
            let parts = parts
                .into_iter()
                .flatten()
                .map(|part| type_name(document, resolve(document, part)));
            let names: Vec<String> = parts.filter(|part| part != "null").collect();
            if names.is_empty() {
                "any".into()
            } else {
                names.join(" or ")
            }
        }
    }
}

fn description(schema: &Value) -> Option<String> {
    schema
        .get("description")
        .and_then(Value::as_str)
        .map(str::to_owned)
}

/// Follows references, and an `Option` to what it holds.
fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let mut schema = schema;
    for _ in 0..16 {
        let target = schema
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|at| at.strip_prefix('#'));
        if let Some(target) = target.and_then(|at| document.pointer(at)) {
            schema = target;
            continue;
        }
        let parts = schema.get("anyOf").and_then(Value::as_array);
        let is_null = |part: &&Value| part.get("type").and_then(Value::as_str) == Some("null");
        match parts
            .map(|parts| {
                parts
                    .iter()
                    .filter(|part| !is_null(part))
                    .collect::<Vec<_>>()
            })
            .as_deref()
        {
            Some([only]) => schema = only,
            _ => break,
        }
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_page_has_every_command_and_no_hidden_one() {
        let page = cli_page();
        for command in [
            "alknet",
            "alknet up",
            "alknet peers rotate",
            "alknet invite revoke",
            "alknet ops search",
        ] {
            assert!(page.contains(&format!("\n## `{command}`\n")), "{command}");
        }
        assert!(!page.contains("__docs") && !page.contains("--detached"));
    }

    #[test]
    fn the_configuration_page_has_every_table() {
        let page = config_page();
        for text in [
            "## `[network]`",
            "## `[limits]`",
            "## `[exec]`",
            "## `[[operation]]`",
            "## `[[role]]`",
            "| `relays` | list of text |",
        ] {
            assert!(page.contains(text), "{text} is not in\n{page}");
        }
    }
}
