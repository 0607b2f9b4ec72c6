//! `alknet audit`.

use crate::{
    app::App,
    duration,
    failure::Failure,
    node_access::{CallOptions, ErrorCode, nearest},
    output::cell,
    table::{Table, one_line},
    when,
};
use clap::Args;
use futures::StreamExt;
use serde_json::{Value, json};
use std::time::Duration;

/// Rows of one page of an export: the most that a node lists at once.
const PAGE: usize = 1_000;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  alknet audit --outcome FORBIDDEN --since 1d
  alknet audit -f --caller bob
  alknet audit --key k3yk3yk3 --slower-than 1s
  alknet audit --export --since 30d > audit.jsonl")]
pub(crate) struct AuditArgs {
    /// Goes on with what happens next
    #[arg(short, long)]
    follow: bool,
    /// Only what this peer called
    #[arg(long, value_name = "PEER")]
    caller: Option<String>,
    /// Only calls of this operation
    #[arg(long, value_name = "NAME")]
    operation: Option<String>,
    /// Only calls that ended so: `ok`, `refused` for every error, or an error
    /// code; in any case of letters
    #[arg(long, value_name = "CODE", value_parser = parse_outcome)]
    outcome: Option<String>,
    /// Only what happened since: a time, or how long ago
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    since: Option<String>,
    /// Only what happened before: a time, or how long ago
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    until: Option<String>,
    /// Only this call, by its id, and the calls it made
    #[arg(long, value_name = "ID")]
    call: Option<String>,
    /// Only what this originator started: `NODE/LABEL`, or a beginning with `*`
    #[arg(long, value_name = "WHO")]
    originator: Option<String>,
    /// Only what arrived through this protocol: `call`, `local`, `join` and others
    #[arg(long, value_name = "NAME")]
    surface: Option<String>,
    /// Only what passed on to this peer, wherever on its way
    #[arg(long, value_name = "PEER")]
    route: Option<String>,
    /// Only what was about this resource, or a beginning with `*`
    #[arg(long, value_name = "RESOURCE")]
    resource: Option<String>,
    /// Only what was called with this API key, by its id
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// Only what came over this peer's connection with a key that made it somebody else's
    #[arg(long, value_name = "PEER")]
    transport: Option<String>,
    /// Only what took at least so long, such as `200ms`
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    slower_than: Option<Duration>,
    /// The latest so many
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
    limit: u32,
    /// Prints every row that matches and is kept, oldest first, as JSON lines
    #[arg(long, conflicts_with = "limit")]
    export: bool,
}

/// An outcome as it is written in the log. A code of an operation cannot be
/// known here, and is told by its form.
fn parse_outcome(text: &str) -> Result<String, String> {
    let known = || {
        let codes = ErrorCode::ALL.iter().map(|code| code.as_str());
        codes.chain(["ok", "refused"])
    };
    if let Some(found) = known().find(|known| known.eq_ignore_ascii_case(text)) {
        return Ok(found.to_owned());
    }
    let is_code = text.starts_with(|first: char| first.is_ascii_uppercase())
        && text
            .chars()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    if is_code {
        return Ok(text.to_owned());
    }
    let upper = text.to_ascii_uppercase();
    Err(match nearest(&upper, known()).first() {
        Some(near) => format!("no such outcome; did you mean `{near}`?"),
        None => {
            "no such outcome: write `ok`, `refused`, or an error code such as `FORBIDDEN`".into()
        }
    })
}

impl AuditArgs {
    fn filters(&self) -> Value {
        let given = [
            ("caller", &self.caller),
            ("operation", &self.operation),
            ("outcome", &self.outcome),
            ("since", &self.since),
            ("until", &self.until),
            ("call_id", &self.call),
            ("originator", &self.originator),
            ("surface", &self.surface),
            ("route", &self.route),
            ("resource", &self.resource),
            ("key", &self.key),
            ("transport", &self.transport),
        ];
        let mut input = json!({});
        for (name, value) in given {
            if let Some(value) = value {
                input[name] = json!(value);
            }
        }
        if let Some(least) = self.slower_than {
            input["took_ms_min"] = json!(u64::try_from(least.as_millis()).unwrap_or(u64::MAX));
        }
        input
    }
}

pub(crate) async fn run(app: &App, args: &AuditArgs) -> Result<(), Failure> {
    if args.export {
        return export(app, args).await;
    }
    let mut input = args.filters();
    input["limit"] = json!(args.limit);
    let reply = app.ask("audit/list", input).await?;
    let mut rows = reply
        .get("rows")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    if let (Some(caller), true) = (&args.caller, rows.is_empty()) {
        doubt_caller(app, caller).await;
    }
    // The node lists the newest first; at a terminal the newest is last.
    rows.reverse();
    let last = seen(&reply, rows.last());
    match app.out.json {
        true => rows.iter().try_for_each(|row| app.out.json_line(row))?,
        false => app.out.text(&table(&rows).render(app.out.width()))?,
    }
    if args.follow {
        follow(app, args, last, app.out.json).await
    } else {
        Ok(())
    }
}

/// Up to where a list has shown all that there is: its last row, or what was
/// the newest when it was begun. Following after it leaves no gap.
fn seen(reply: &Value, last: Option<&Value>) -> Option<u64> {
    let newest = reply.get("newest").and_then(Value::as_u64);
    let last = last.and_then(|row| row.get("n")?.as_u64());
    newest.max(last)
}

/// Everything that matches, page by page: what is held in memory is one page.
async fn export(app: &App, args: &AuditArgs) -> Result<(), Failure> {
    let mut input = args.filters();
    input["limit"] = json!(PAGE);
    input["oldest_first"] = json!(true);
    loop {
        let reply = app.ask("audit/list", input.clone()).await?;
        let rows = reply.get("rows").and_then(Value::as_array);
        let rows = rows.map(Vec::as_slice).unwrap_or_default();
        let lines: Vec<String> = rows.iter().map(|row| format!("{row}\n")).collect();
        app.out.text(&lines.concat())?;
        if rows.len() < PAGE {
            let last = seen(&reply, rows.last());
            return match args.follow {
                true => follow(app, args, last, true).await,
                false => Ok(()),
            };
        }
        input["after"] = json!(rows.last().and_then(|row| row.get("n")));
    }
}

/// Says that nobody is called so, unless somebody is, and has done nothing.
async fn doubt_caller(app: &App, caller: &str) {
    let shown = app.ask("peers/show", json!({ "peer": caller })).await;
    // Whoever may not list peers is told nothing of them.
    if let Err(failure) = shown
        && failure.code == ErrorCode::NotFound.as_str()
    {
        app.out.warn(&one_line(&format!(
            "nobody called `{caller}` is a peer here, or has called anything that is kept"
        )));
    }
}

fn table(rows: &[Value]) -> Table {
    let mut table = Table::new(&["TIME", "CALLER", "OPERATION", "OUTCOME", "TOOK", "ABOUT"]);
    rows.iter().for_each(|row| table.row(cells(row)));
    table
}

fn cells(row: &Value) -> [String; 6] {
    let text = |name: &str| cell(row.get(name));
    let operation = match text("route") {
        route if route.is_empty() => text("operation"),
        route => format!("{} on {route}", text("operation")),
    };
    let mut caller = match text("originator") {
        from if from.is_empty() => text("caller"),
        from => format!("{} for {from}", text("caller")),
    };
    match (text("key"), text("transport")) {
        (key, _) if key.is_empty() => {}
        (key, over) if over.is_empty() => caller.push_str(&format!(" with key {key}")),
        (key, over) => caller.push_str(&format!(" with key {key} over {over}")),
    }
    let about = [text("resource"), text("detail")];
    let about: Vec<&str> = about
        .iter()
        .map(String::as_str)
        .filter(|text| !text.is_empty())
        .collect();
    let micros = row
        .get("duration_us")
        .and_then(Value::as_u64)
        .unwrap_or_default();
    [
        when::stamp(&text("at")),
        caller,
        operation,
        text("outcome"),
        took(micros),
        about.join("; "),
    ]
}

/// Three digits are enough for people.
fn took(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100),
        _ => format!("{}.{} s", micros / 1_000_000, micros % 1_000_000 / 100_000),
    }
}

/// Rows as they are written: columns cannot be aligned with what is not known
/// yet, so one line each.
async fn follow(app: &App, args: &AuditArgs, last: Option<u64>, json: bool) -> Result<(), Failure> {
    let mut input = args.filters();
    if let Some(last) = last {
        input["after"] = json!(last);
    }
    let home = app.home().await?;
    let rows = home
        .subscribe("audit/watch", input, CallOptions::default())
        .await;
    let mut rows = rows.map_err(|error| app.explain(home, &error))?;
    while let Some(row) = rows.next().await {
        let row = row
            .and_then(|row| row.into_value())
            .map_err(|error| app.explain(home, &error))?;
        match json {
            true => app.out.json_line(&row)?,
            false => app.out.text(&one_line(cells(&row).join("  ").trim_end()))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_line_up() {
        let row = json!({
            "n": 4, "at": "2026-01-31T12:00:00Z", "call_id": "x", "caller": "bob", "surface": "call",
            "operation": "fs/read", "route": "nas", "originator": "home/alice", "resource": "bucket:www=read",
            "outcome": "FORBIDDEN", "detail": "missing", "duration_us": 1234, "bytes_in": 2, "bytes_out": 0,
        });
        assert_eq!(
            table(&[row]).render(None),
            "TIME                      CALLER              OPERATION       OUTCOME    TOOK    ABOUT\n\
             2026-01-31T12:00:00.000Z  bob for home/alice  fs/read on nas  FORBIDDEN  1.2 ms  bucket:www=read; missing\n"
        );
    }

    #[test]
    fn outcomes_are_known_in_any_case_or_have_the_form_of_a_code() {
        for (text, want) in [
            ("ok", "ok"),
            ("OK", "ok"),
            ("forbidden", "FORBIDDEN"),
            ("Not_Found", "NOT_FOUND"),
            ("POT_EMPTY", "POT_EMPTY"),
        ] {
            assert_eq!(parse_outcome(text).as_deref(), Ok(want));
        }
        assert_eq!(
            parse_outcome("forbiden"),
            Err("no such outcome; did you mean `FORBIDDEN`?".into())
        );
        assert!(parse_outcome("pot-empty").is_err());
    }

    #[test]
    fn times_have_units() {
        assert_eq!(
            [took(999), took(1_000), took(61_250_000)],
            ["999 µs", "1.0 ms", "61.2 s"]
        );
    }
}
