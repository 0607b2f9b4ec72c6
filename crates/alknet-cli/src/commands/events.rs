//! `alknet events`.

use crate::{
    app::App,
    failure::Failure,
    node_access::{CallError, CallOptions, ErrorCode, Home},
    output::cell,
    table::one_line,
    when,
};
use clap::Args;
use futures::StreamExt;
use serde_json::{Value, json};

/// Events of one page: what is held in memory.
const PAGE: usize = 500;

#[derive(Debug, Args)]
#[command(after_help = "\
Each event has a cursor, which --json prints. With --from, reading goes on right
after it: nothing is lost and nothing comes twice, whatever was stopped or
restarted meanwhile. A cursor of before what is kept is refused, and so is one
of before a restore.

Examples:
  alknet events --kind peer/
  alknet events --follow --from now
  alknet events --follow --json --from 9f86d081884c7d65-17")]
pub(crate) struct EventsArgs {
    /// Begins after this cursor, or with what comes next (`now`); with the oldest that is kept if
    /// not given
    #[arg(long, value_name = "CURSOR")]
    from: Option<String>,
    /// Goes on with what happens next
    #[arg(short, long)]
    follow: bool,
    /// Only kinds that begin so, such as `peer/` or `link/down`
    #[arg(long, value_name = "PREFIX")]
    kind: Option<String>,
}

pub(crate) async fn run(app: &App, args: &EventsArgs) -> Result<(), Failure> {
    let home = app.home().await?;
    let mut from = match args.from.as_deref() {
        Some("now") => Some(newest(app, home).await?),
        from => from.map(str::to_owned),
    };
    loop {
        let page = page(app, home, args, from.as_deref()).await?;
        let events = page.get("events").and_then(Value::as_array);
        let events = events.map(Vec::as_slice).unwrap_or_default();
        print(app, events)?;
        from = page.get("next").and_then(Value::as_str).map(str::to_owned);
        if events.len() < PAGE {
            break;
        }
    }
    match args.follow {
        true => follow(app, home, args, from).await,
        false => Ok(()),
    }
}

/// The cursor before what comes next.
async fn newest(app: &App, home: &Home) -> Result<String, Failure> {
    let asked = home.call("events/list", json!({ "limit": 0 }), CallOptions::default());
    let listed = asked.await.map_err(|error| app.explain(home, &error))?;
    Ok(cell(listed.get("newest")))
}

async fn page(
    app: &App,
    home: &Home,
    args: &EventsArgs,
    from: Option<&str>,
) -> Result<Value, Failure> {
    let mut input = input(args, from);
    input["limit"] = json!(PAGE);
    let asked = home.call("events/list", input, CallOptions::default());
    asked.await.map_err(|error| explain(app, home, &error))
}

fn input(args: &EventsArgs, from: Option<&str>) -> Value {
    let mut input = json!({});
    if let Some(from) = from {
        input["from"] = json!(from);
    }
    if let Some(kind) = &args.kind {
        input["kind"] = json!(kind);
    }
    input
}

async fn follow(
    app: &App,
    home: &Home,
    args: &EventsArgs,
    mut from: Option<String>,
) -> Result<(), Failure> {
    let input = input(args, from.as_deref());
    let items = home
        .subscribe("events/subscribe", input, CallOptions::default())
        .await;
    let mut items = items.map_err(|error| explain(app, home, &error))?;
    let mut ended = Ok(());
    while let Some(item) = items.next().await {
        match item.and_then(|item| item.into_value()) {
            Ok(event) => {
                print(app, std::slice::from_ref(&event))?;
                from = event
                    .get("cursor")
                    .and_then(Value::as_str)
                    .map(str::to_owned);
            }
            Err(error) => ended = Err(explain(app, home, &error)),
        }
    }
    if let Some(from) = from {
        app.out.say(&format!(
            "the events end here; go on with: alknet events --follow --from {from}"
        ));
    }
    ended
}

/// Who came too late is told where what is kept begins.
fn explain(app: &App, home: &Home, error: &CallError) -> Failure {
    let failure = app.explain(home, error);
    let details = error.details.as_deref();
    let oldest = details.and_then(|details| details.get("oldest")?.as_str());
    match oldest.filter(|_| error.is(ErrorCode::Gone)) {
        Some(oldest) => failure.hint(format!(
            "what is still kept begins here: alknet events --from {oldest}"
        )),
        None => failure,
    }
}

fn print(app: &App, events: &[Value]) -> Result<(), Failure> {
    let mut lines = String::new();
    for event in events {
        lines.push_str(&match app.out.json {
            true => event.to_string(),
            false => render(event),
        });
        lines.push('\n');
    }
    app.out.text(&lines)
}

/// `2026-01-31T12:00:00.000Z  peer/joined  laptop  by laptop  invite=5e884898`.
fn render(event: &Value) -> String {
    let text = |name: &str| cell(event.get(name));
    let mut rendered = format!(
        "{}  {}  {}",
        when::stamp(&text("at")),
        text("kind"),
        text("about")
    );
    match text("caller") {
        // The node itself noticed it.
        caller if caller == "host" => {}
        caller => rendered.push_str(&format!("  by {caller}")),
    }
    let details = event.get("details").and_then(Value::as_object);
    for (name, value) in details.into_iter().flatten() {
        rendered.push_str(&format!("  {name}={}", cell(Some(value))));
    }
    one_line(&rendered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event = json!({
            "cursor": "a-1", "at": "2026-01-31T12:00:00Z", "kind": "grants/changed",
            "about": "laptop", "caller": "owner", "call_id": "x",
            "details": { "added": ["reader", "fs:write"], "removed": [] },
        });
        assert_eq!(
            render(&event),
            "2026-01-31T12:00:00.000Z  grants/changed  laptop  by owner  added=reader, fs:write  removed="
        );
        let event = json!({ "at": "2026-01-31T12:00:00Z", "kind": "link/down", "about": "nas", "caller": "host", "details": { "error": "lost\nit" } });
        assert_eq!(
            render(&event),
            "2026-01-31T12:00:00.000Z  link/down  nas  error=lost it"
        );
    }
}
