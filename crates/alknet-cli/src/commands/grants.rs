//! `alknet grant`, `revoke`, `grants` and `roles`.

use crate::{
    app::App,
    failure::Failure,
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
and `!` before a resource takes it away whatever else gives it.")]
pub(crate) struct GrantArgs {
    /// The peer
    peer: String,
    /// Roles, operations, scopes, resources
    #[arg(required = true, value_name = "TARGET", value_parser = parse_target)]
    targets: Vec<GrantTarget>,
}

#[derive(Debug, Args)]
pub(crate) struct GrantsArgs {
    /// The peer
    peer: String,
}

fn parse_target(text: &str) -> Result<GrantTarget, String> {
    GrantTarget::parse(text).map_err(|error| error.to_string())
}

/// Grants or revokes, and prints what the peer has now.
pub(crate) async fn change(app: &App, args: &GrantArgs, operation: &str) -> Result<(), Failure> {
    let targets: Vec<String> = args.targets.iter().map(ToString::to_string).collect();
    let reply = app
        .ask(operation, json!({ "peer": args.peer, "targets": targets }))
        .await?;
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
    let peer = app.ask("peers/show", json!({ "peer": args.peer })).await?;
    let none = json!([]);
    let grants = peer.get("grants").unwrap_or(&none);
    if app.out.json {
        return app
            .out
            .json_line(&json!({ "peer": args.peer, "grants": grants }));
    }
    for grant in grants.as_array().into_iter().flatten() {
        app.out.text(&one_line(&cell(Some(grant))))?;
    }
    Ok(())
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
