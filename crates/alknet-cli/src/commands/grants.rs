//! `alknet grant`, `revoke`, `grants` and `roles`.

use crate::{
    app::App,
    failure::{Exit, Failure},
    node_access::GrantTarget,
    output::cell,
    table::{Table, one_line},
};
use clap::Args;
use serde_json::{Value, json};

#[derive(Debug, Args)]
#[command(after_help = "\
A TARGET is one of
  a role        editor                         see `alknet roles`
  an operation  deploy/restart                 its whole access rule, for it alone
  a scope       deploy:write
  a resource    bucket:www/public/**=read      net:db.lan:5432=dial
                command:git=exec               peer:nas=fs/*
and `!` before a resource takes it away whatever else gives it.

Examples:
  alknet grant laptop reader deploy/restart
  alknet grant group:family 'bucket:photos/**=read'")]
pub(crate) struct GrantArgs {
    /// The peer, or `group:NAME` for all members of a group
    #[arg(value_name = "PEER")]
    peer: String,
    /// Roles, operations, scopes, resources
    #[arg(required = true, value_name = "TARGET", value_parser = parse_target)]
    targets: Vec<GrantTarget>,
}

#[derive(Debug, Args)]
pub(crate) struct GrantsArgs {
    /// The peer, or `group:NAME`
    peer: String,
}

pub(crate) fn parse_target(text: &str) -> Result<GrantTarget, String> {
    GrantTarget::parse(text).map_err(|error| error.to_string())
}

/// Grants or revokes, and prints what the peer has now.
pub(crate) async fn change(app: &App, args: &GrantArgs, give: bool) -> Result<(), Failure> {
    let targets: Vec<String> = args.targets.iter().map(ToString::to_string).collect();
    let (operation, input) = match (group(&args.peer), give) {
        (Some(group), true) => (
            "groups/grant",
            json!({ "group": group, "targets": targets }),
        ),
        (Some(group), false) => (
            "groups/revoke",
            json!({ "group": group, "targets": targets }),
        ),
        (None, true) => (
            "peers/grant",
            json!({ "peer": args.peer, "targets": targets }),
        ),
        (None, false) => (
            "peers/revoke",
            json!({ "peer": args.peer, "targets": targets }),
        ),
    };
    let reply = app.ask(operation, input).await?;
    if app.out.json {
        return app.out.json_line(&reply);
    }
    for note in reply
        .get("notes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        app.out.warn(&one_line(&cell(Some(note))));
    }
    if reply
        .get("changed")
        .and_then(Value::as_array)
        .is_some_and(Vec::is_empty)
    {
        app.out.say("nothing changed");
    }
    app.out.text(&held(&args.peer, reply.get("grants")))
}

/// The group that is named instead of a peer.
fn group(text: &str) -> Option<&str> {
    text.strip_prefix("group:")
}

/// `bob may: editor, deploy/restart`.
pub(crate) fn held(peer: &str, grants: Option<&Value>) -> String {
    let grants = cell(grants);
    let grants = if grants.is_empty() {
        "nothing"
    } else {
        &grants
    };
    one_line(&format!("{peer} may: {grants}"))
}

pub(crate) async fn list(app: &App, args: &GrantsArgs) -> Result<(), Failure> {
    let shown = match group(&args.peer) {
        Some(name) => listed_group(app, name).await?,
        None => app.ask("peers/show", json!({ "peer": args.peer })).await?,
    };
    let none = json!([]);
    let grants = shown.get("grants").unwrap_or(&none);
    if app.out.json {
        return match group(&args.peer) {
            Some(_) => app.out.json_line(&shown),
            None => app
                .out
                .json_line(&json!({ "peer": args.peer, "grants": grants })),
        };
    }
    for grant in grants.as_array().into_iter().flatten() {
        app.out.text(&one_line(&cell(Some(grant))))?;
    }
    if grants.as_array().is_none_or(Vec::is_empty) {
        let said = format!("`{}` was given nothing itself", args.peer);
        app.out.say(&one_line(&said));
    }
    through_groups(app, &shown).await;
    Ok(())
}

/// Said beside the own ones: they are the groups'.
async fn through_groups(app: &App, peer: &Value) {
    let named = peer.get("groups").and_then(Value::as_array);
    for name in named.into_iter().flatten().filter_map(Value::as_str) {
        // One that was given nothing is not listed; and not all may list them.
        let Ok(given) = listed_group(app, name).await else {
            continue;
        };
        let given = cell(given.get("grants"));
        if !given.is_empty() {
            app.out
                .say(&one_line(&format!("through group `{name}`: {given}")));
        }
    }
}

async fn listed_group(app: &App, name: &str) -> Result<Value, Failure> {
    let reply = app.ask("groups/list", json!({})).await?;
    let groups = reply.get("groups").and_then(Value::as_array);
    let mut groups = groups.into_iter().flatten();
    let found = groups.find(|group| group.get("group").is_some_and(|held| held == name));
    found.cloned().ok_or_else(|| {
        let message = format!("no group `{}`", one_line(name));
        Failure::new(Exit::FAILED, "NOT_FOUND", message)
            .hint("a group is made by what it is given: alknet grant group:NAME TARGET")
    })
}

pub(crate) async fn roles(app: &App) -> Result<(), Failure> {
    let reply = app.ask("roles/list", json!({})).await?;
    if app.out.json {
        return app.out.json_line(&reply);
    }
    let mut table = Table::new(&["ROLE", "FROM", "SUMMARY", "GRANTS"]);
    for role in reply
        .get("roles")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let builtin = role
            .get("builtin")
            .and_then(Value::as_bool)
            .unwrap_or_default();
        let from = if builtin { "built-in" } else { "configuration" };
        table.row([
            cell(role.get("name")),
            from.into(),
            cell(role.get("summary")),
            cell(role.get("grants")),
        ]);
    }
    app.out.text(&table.render(app.out.width()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_said_in_words() {
        assert_eq!(held("bob", Some(&json!([]))), "bob may: nothing");
        assert_eq!(
            held("bob", Some(&json!(["editor", "fs:read"]))),
            "bob may: editor, fs:read"
        );
    }

    #[test]
    fn a_target_that_is_none_is_refused_before_anybody_is_asked() {
        assert!(parse_target("Editor").is_err());
        assert!(parse_target("deploy/restart").is_ok());
    }
}
