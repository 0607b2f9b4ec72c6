//! `alknet ops`.

use crate::{
    app::App,
    commands::describe::describe,
    failure::Failure,
    hint::{Place, explain},
    node_access::{CallOptions, Kind, Route, parse_route},
    output::cell,
    table::Table,
};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct OpsArgs {
    #[command(subcommand)]
    command: Option<OpsCommand>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Subcommand)]
enum OpsCommand {
    /// Lists what may be called
    List(ListArgs),
    /// Finds operations by words in their names, summaries and fields
    Search(SearchArgs),
    /// Describes one operation: its input, its reply, examples
    Describe(DescribeArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// The operations of this peer, or of one behind it: `PEER/PEER`
    #[arg(long, value_name = "PEER")]
    on: Option<String>,
    /// Only this kind: query, mutation, subscription, channel
    #[arg(long, value_parser = parse_kind)]
    kind: Option<Kind>,
    /// Only names that begin so, such as `fs/`
    #[arg(long)]
    prefix: Option<String>,
}

#[derive(Debug, Args)]
struct SearchArgs {
    /// Words, in any order
    #[arg(required = true)]
    words: Vec<String>,
    /// Only the operations of this peer; otherwise of all
    #[arg(long, value_name = "PEER")]
    on: Option<String>,
    /// Only this kind: query, mutation, subscription, channel
    #[arg(long, value_parser = parse_kind)]
    kind: Option<Kind>,
}

#[derive(Debug, Args)]
struct DescribeArgs {
    /// The operation's name
    name: String,
    /// The peer that offers it
    #[arg(long, value_name = "PEER")]
    on: Option<String>,
}

fn parse_kind(text: &str) -> Result<Kind, String> {
    serde_json::from_value(json!(text))
        .map_err(|_| "want query, mutation, subscription or channel".to_owned())
}

pub(crate) async fn run(app: &App, args: OpsArgs) -> Result<(), Failure> {
    match args.command {
        None => list(app, &args.list).await,
        Some(OpsCommand::List(args)) => list(app, &args).await,
        Some(OpsCommand::Search(args)) => search(app, &args).await,
        Some(OpsCommand::Describe(args)) => {
            let entry = schema(app, &args.name, args.on.as_deref()).await?;
            match app.out.json {
                true => app.out.json_line(&entry),
                false => app.out.text(&describe(&entry)),
            }
        }
    }
}

/// Collects every page.
async fn list(app: &App, args: &ListArgs) -> Result<(), Failure> {
    let mut input = json!({});
    let (before, peer) = split(args.on.as_deref())?;
    put(&mut input, "peer", peer.map(|peer| json!(peer)));
    put(&mut input, "kind", args.kind.map(|kind| json!(kind)));
    put(
        &mut input,
        "prefix",
        args.prefix.as_ref().map(|prefix| json!(prefix)),
    );
    let mut operations = Vec::new();
    let revision = loop {
        let mut page = app
            .ask_at(before.clone(), "services/list", input.clone())
            .await?;
        match page.get_mut("operations").map(Value::take) {
            Some(Value::Array(some)) => operations.extend(some),
            _ => break page.get("revision").cloned(),
        }
        match page.get_mut("next_cursor").map(Value::take) {
            Some(Value::String(next)) => input["cursor"] = json!(next),
            _ => break page.get("revision").cloned(),
        }
    };
    if let Some(peer) = peer.filter(|_| operations.is_empty() && before.is_empty()) {
        // A peer that does not exist offers nothing either: that is an error.
        app.ask("peers/show", json!({ "peer": peer })).await?;
    }
    if app.out.json {
        return app
            .out
            .json_line(&json!({ "operations": operations, "revision": revision }));
    }
    if operations.is_empty() {
        app.out.say("nothing may be called there");
    }
    let mut table = Table::new(&["OPERATION", "KIND", "SUMMARY"]);
    for entry in &operations {
        table.row([
            cell(entry.get("name")),
            cell(entry.get("kind")),
            cell(entry.get("summary")),
        ]);
    }
    app.out.text(&table.render(app.out.width()))
}

async fn search(app: &App, args: &SearchArgs) -> Result<(), Failure> {
    let mut input = json!({ "query": args.words.join(" ") });
    let (before, peer) = split(args.on.as_deref())?;
    put(&mut input, "peer", peer.map(|peer| json!(peer)));
    put(&mut input, "kind", args.kind.map(|kind| json!(kind)));
    let reply = app.ask_at(before, "services/search", input).await?;
    if app.out.json {
        return app.out.json_line(&reply);
    }
    let mut table = Table::new(&["OPERATION", "ON", "KIND", "SUMMARY"]);
    for entry in reply
        .get("results")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        table.row([
            cell(entry.get("name")),
            entry
                .get("peer")
                .map_or_else(|| ":".into(), |peer| cell(Some(peer))),
            cell(entry.get("kind")),
            cell(entry.get("summary")),
        ]);
    }
    app.out.text(&table.render(app.out.width()))
}

/// The peer at the end of a route, and the way to the node that knows what it
/// offers.
fn split(on: Option<&str>) -> Result<(Route, Option<&str>), Failure> {
    let Some((before, peer)) = on.and_then(|on| on.rsplit_once('/')) else {
        return Ok((Route::new(), on));
    };
    let before = parse_route(before).map_err(|error| Failure::usage(error.to_string()))?;
    Ok((before, Some(peer)))
}

fn put(input: &mut Value, field: &str, value: Option<Value>) {
    if let Some(value) = value {
        input[field] = value;
    }
}

/// The full description of an operation, here or on a peer.
pub(crate) async fn schema(app: &App, name: &str, on: Option<&str>) -> Result<Value, Failure> {
    let home = app.home().await?;
    let mut input = json!({ "name": name });
    let (before, peer) = split(on)?;
    put(&mut input, "peer", peer.map(|peer| json!(peer)));
    let route = on.map_or_else(|| Ok(Route::new()), parse_route);
    let route = route.map_err(|error| Failure::usage(error.to_string()))?;
    let options = CallOptions {
        route: before,
        ..CallOptions::default()
    };
    let reply = home.call("services/schema", input, options).await;
    reply.map_err(|error| {
        explain(
            &error,
            &Place {
                home: home.name().to_owned(),
                route,
                operation: String::new(),
            },
        )
    })
}
