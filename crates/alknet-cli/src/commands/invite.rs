//! `alknet invite`.

use crate::{
    app::App,
    cli::parse_duration,
    duration,
    failure::{Exit, Failure},
    node_access::CallOptions,
    output::cell,
    table::{Table, one_line},
    when,
};
use clap::{Args, Subcommand};
use futures::StreamExt;
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};
use serde_json::{Value, json};
use std::time::Duration;

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
The ticket alone goes to standard output. It works once. Whoever has it can use
it, so hand it over in private: on the other machine, `alknet join -` reads it
from standard input, where other users do not see it."
)]
pub(crate) struct InviteArgs {
    #[command(subcommand)]
    command: Option<InviteCommand>,
    #[command(flatten)]
    create: CreateArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// What the other side is called here; its own name if not given
    #[arg(long)]
    name: Option<String>,
    /// What the other side may do here
    #[arg(long, default_value = "none")]
    role: String,
    /// How long the ticket works
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = parse_duration)]
    expires: Duration,
    /// How long the access lasts; for ever if not given
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    access_for: Option<Duration>,
    /// Waits until someone joined, and says who
    #[arg(long)]
    wait: bool,
    /// Shows the ticket as a QR code too
    #[arg(long)]
    qr: bool,
}

#[derive(Debug, Subcommand)]
enum InviteCommand {
    /// Lists invites
    List,
    /// Makes a ticket useless
    Revoke {
        /// The invite's id, as listed
        id: String,
    },
}

pub(crate) async fn run(app: &App, args: InviteArgs) -> Result<Exit, Failure> {
    match args.command {
        None => return create(app, &args.create).await,
        Some(InviteCommand::List) => list(app).await?,
        Some(InviteCommand::Revoke { id }) => revoke(app, &id).await?,
    }
    Ok(Exit::FINE)
}

async fn create(app: &App, args: &CreateArgs) -> Result<Exit, Failure> {
    let mut input = json!({
        "grants": role_grants(&args.role),
        "expires_ms": duration::millis(args.expires),
    });
    if let Some(name) = &args.name {
        input["name"] = json!(name);
    }
    if let Some(access) = args.access_for {
        input["access_for_ms"] = json!(duration::millis(access));
    }
    let invite = app.ask("invites/create", input).await?;
    let ticket = cell(invite.get("ticket"));
    for warning in invite
        .get("warnings")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        app.out.warn(&one_line(&cell(Some(warning))));
    }
    app.out.say(&sentence(args));
    if args.qr {
        app.out.say(&qr(&ticket)?);
    }
    match app.out.json {
        true => app.out.json_line(&invite)?,
        false => app.out.text(&ticket)?,
    }
    if args.wait {
        return wait(app, &cell(invite.get("id"))).await;
    }
    Ok(Exit::FINE)
}

/// `none` is what a peer without grants has.
pub(crate) fn role_grants(role: &str) -> Vec<&str> {
    if role == "none" {
        Vec::new()
    } else {
        vec![role]
    }
}

/// What the invite means.
fn sentence(args: &CreateArgs) -> String {
    let who = match &args.name {
        Some(name) => format!("`{name}`"),
        None => "the other side".to_owned(),
    };
    let may = if args.role == "none" {
        "nothing"
    } else {
        &args.role
    };
    let access = match args.access_for {
        Some(access) => format!(", for {}", duration::in_words(access)),
        None => String::new(),
    };
    format!(
        "the ticket works once, for {}; {who} may here: {may}{access}",
        duration::in_words(args.expires)
    )
}

fn qr(ticket: &str) -> Result<String, Failure> {
    let code = QrCode::with_error_correction_level(ticket, EcLevel::L)
        .map_err(|error| Failure::local(format!("the ticket does not fit a QR code: {error}")))?;
    // Light on dark, as terminals mostly are: the quiet zone must be light.
    let mut image = code.render::<Dense1x2>();
    Ok(image
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .build())
}

/// Waits until the invite is no longer open.
async fn wait(app: &App, id: &str) -> Result<Exit, Failure> {
    app.out
        .say("waiting until someone joins; Ctrl-C stops waiting, the ticket keeps working");
    let home = app.home().await?;
    let items = home
        .subscribe("invites/watch", json!({ "id": id }), CallOptions::default())
        .await;
    let mut items = items.map_err(|error| app.explain(home, &error))?;
    let mut state = String::new();
    while let Some(item) = items.next().await {
        let item = item
            .and_then(|item| item.into_value())
            .map_err(|error| app.explain(home, &error))?;
        state = cell(item.get("state"));
        if state == "used" {
            let peer = cell(item.get("peer"));
            match app.out.json {
                true => app.out.json_line(&item)?,
                false => app.out.say(&one_line(&format!("`{peer}` joined"))),
            }
            return Ok(Exit::FINE);
        }
    }
    let message = format!(
        "nobody joined: the invite is {}",
        if state.is_empty() { "gone" } else { &state }
    );
    Err(Failure::new(Exit::FAILED, "NOT_USED", message))
}

async fn list(app: &App) -> Result<(), Failure> {
    let reply = app.ask("invites/list", json!({})).await?;
    if app.out.json {
        return app.out.json_line(&reply);
    }
    let mut table = Table::new(&["ID", "STATE", "NAME", "MAY", "MADE", "EXPIRES", "USED BY"]);
    for invite in reply
        .get("invites")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        table.row([
            cell(invite.get("id")),
            cell(invite.get("state")),
            cell(invite.get("name")),
            cell(invite.get("grants")),
            when::relative(&cell(invite.get("created_at"))),
            when::relative(&cell(invite.get("expires_at"))),
            cell(invite.get("used_by")),
        ]);
    }
    app.out.text(&table.render(app.out.width()))
}

async fn revoke(app: &App, id: &str) -> Result<(), Failure> {
    let reply = app.ask("invites/revoke", json!({ "id": id })).await?;
    if app.out.json {
        return app.out.json_line(&reply);
    }
    app.out.say(&one_line(&format!(
        "invite {id} is {}",
        cell(reply.get("state"))
    )));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(name: Option<&str>, role: &str, access: Option<u64>) -> CreateArgs {
        CreateArgs {
            name: name.map(Into::into),
            role: role.into(),
            expires: Duration::from_secs(900),
            access_for: access.map(Duration::from_secs),
            wait: false,
            qr: false,
        }
    }

    #[test]
    fn the_sentence_says_who_may_what_for_how_long() {
        assert_eq!(
            sentence(&args(None, "none", None)),
            "the ticket works once, for 15 minutes; the other side may here: nothing"
        );
        assert_eq!(
            sentence(&args(Some("laptop"), "editor", Some(604_800))),
            "the ticket works once, for 15 minutes; `laptop` may here: editor, for 1 week"
        );
    }

    #[test]
    fn a_long_ticket_fits_a_qr_code() {
        let code = qr(&format!("alkinvite1{}", "ab2c3d4e".repeat(50))).expect("fits");
        let lines: Vec<&str> = code.lines().collect();
        assert!(
            lines.len() > 20
                && lines
                    .iter()
                    .all(|line| line.chars().count() == lines[0].chars().count())
        );
    }
}
