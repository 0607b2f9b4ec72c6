//! `alknet bans`.

use crate::{
    app::App,
    cli::parse_duration,
    duration,
    failure::Failure,
    output::cell,
    table::{Table, one_line},
    when,
};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct BansArgs {
    #[command(subcommand)]
    command: BansCommand,
}

#[derive(Debug, Subcommand)]
enum BansCommand {
    /// Lists who is shut out, why, and until when
    List,
    /// Shuts out an address, a node key or a peer, and closes its connections
    #[command(after_help = "\
A TARGET is one of
  an address    192.0.2.7
  a prefix      192.0.2.0/24    2001:db8::/64 (what one subscriber has)
  a node key    its 64 hexadecimal digits
  a peer        laptop          with all its keys

Examples:
  alknet bans add 192.0.2.0/24 --for 1h --reason \"guessing tickets\"
  alknet bans add laptop")]
    Add {
        /// Whom to shut out
        target: String,
        /// For how long; until it is lifted if not given
        #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
        lasts: Option<Duration>,
        /// Why, for whoever reads the list
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Lets somebody in again
    Remove {
        /// Whom, as it is listed
        target: String,
    },
}

pub(crate) async fn run(app: &App, args: BansArgs) -> Result<(), Failure> {
    match args.command {
        BansCommand::List => list(app).await,
        BansCommand::Add {
            target,
            lasts,
            reason,
        } => {
            let mut input = json!({ "target": target });
            if let Some(lasts) = lasts {
                input["for_ms"] = json!(duration::millis(lasts));
            }
            if let Some(reason) = reason {
                input["reason"] = json!(reason);
            }
            let reply = app.ask("bans/add", input).await?;
            match app.out.json {
                true => app.out.json_line(&reply),
                false => app.out.text(&added(&reply)),
            }
        }
        BansCommand::Remove { target } => {
            let reply = app.ask("bans/remove", json!({ "target": target })).await?;
            match app.out.json {
                true => app.out.json_line(&reply),
                false => {
                    let text = format!("{} is let in again", cell(reply.get("removed")));
                    app.out.text(&one_line(&text))
                }
            }
        }
    }
}

/// `192.0.2.7 is shut out until 2026-01-01 01:00:00; 1 connection was closed`.
fn added(reply: &Value) -> String {
    let until = match reply.get("until").and_then(Value::as_str) {
        Some(until) => format!("until {}", when::stamp(until)),
        None => "until it is lifted".into(),
    };
    let closed = match reply.get("closed").and_then(Value::as_u64) {
        None | Some(0) => String::new(),
        Some(1) => "; 1 connection was closed".into(),
        Some(more) => format!("; {more} connections were closed"),
    };
    let target = cell(reply.get("target"));
    one_line(&format!("{target} is shut out {until}{closed}"))
}

async fn list(app: &App) -> Result<(), Failure> {
    let reply = app.ask("bans/list", json!({})).await?;
    if app.out.json {
        return app.out.json_line(&reply);
    }
    let bans = reply.get("bans").and_then(Value::as_array);
    if bans.is_none_or(Vec::is_empty) {
        app.out.say("nobody is shut out");
        return Ok(());
    }
    let mut table = Table::new(&["TARGET", "KIND", "SINCE", "UNTIL", "BY", "REASON"]);
    for ban in bans.into_iter().flatten() {
        let field = |name: &str| cell(ban.get(name));
        let until = match ban.get("until").and_then(Value::as_str) {
            Some(until) => when::stamp(until),
            None => "it is lifted".into(),
        };
        table.row([
            field("target"),
            field("kind"),
            when::stamp(&field("created_at")),
            until,
            field("banned_by"),
            field("reason"),
        ]);
    }
    app.out.text(&table.render(app.out.width()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ban_is_told_with_its_end_and_what_it_closed() {
        let reply = json!({ "target": "laptop", "until": null, "closed": 2 });
        assert_eq!(
            added(&reply),
            "laptop is shut out until it is lifted; 2 connections were closed"
        );
        let reply =
            json!({ "target": "192.0.2.7", "until": "2026-01-01T01:00:00.000Z", "closed": 0 });
        let text = added(&reply);
        assert!(
            text.starts_with("192.0.2.7 is shut out until 2026-01-01") && !text.contains(';'),
            "{text}"
        );
    }
}
