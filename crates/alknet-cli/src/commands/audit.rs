//! `alknet audit`.

use crate::{
    app::App,
    failure::Failure,
    node_access::{CallOptions, ErrorCode, nearest},
    output::cell,
    table::{Table, one_line},
    when,
};
use clap::Args;
use futures::StreamExt;
use serde_json::{Value, json};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  alknet audit --outcome FORBIDDEN --since 1d
  alknet audit -f --caller bob")]
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
    /// The latest so many
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
    limit: u32,
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
        ];
        let mut input = json!({});
        for (name, value) in given {
            if let Some(value) = value {
                input[name] = json!(value);
            }
        }
        input
    }
}

pub(crate) async fn run(app: &App, args: &AuditArgs) -> Result<(), Failure> {
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
    let last = rows.last().and_then(|row| row.get("n")).cloned();
    match app.out.json {
        true => rows.iter().try_for_each(|row| app.out.json_line(row))?,
        false => app.out.text(&table(&rows).render(app.out.width()))?,
    }
    if args.follow {
        follow(app, args, last).await
    } else {
        Ok(())
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
    let caller = match text("originator") {
        from if from.is_empty() => text("caller"),
        from => format!("{} for {from}", text("caller")),
    };
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
async fn follow(app: &App, args: &AuditArgs, last: Option<Value>) -> Result<(), Failure> {
    let mut input = args.filters();
    if let Some(last) = last {
        input["after"] = last;
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
        match app.out.json {
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
