//! `alknet join`.

use crate::{
    app::App,
    commands::{call::read_stdin, invite::role_grants},
    failure::Failure,
    output::cell,
    table::one_line,
    when,
};
use clap::Args;
use serde_json::{Value, json};

#[derive(Debug, Args)]
#[command(after_help = "\
Prints who may what, both ways:
  home may here: nothing; you may on home: editor")]
pub(crate) struct JoinArgs {
    /// The ticket that `alknet invite` printed there, or `-` to read it from
    /// standard input, where other users of this machine do not see it
    ticket: String,
    /// What the other side is called here; its own name if not given
    #[arg(long)]
    name: Option<String>,
    /// What the other side may do here
    #[arg(long, default_value = "none")]
    role: String,
}

pub(crate) async fn run(app: &App, args: JoinArgs) -> Result<(), Failure> {
    let ticket = match args.ticket.as_str() {
        "-" => read_stdin().await?,
        ticket => ticket.to_owned(),
    };
    let mut input = json!({ "ticket": ticket.trim(), "grants": role_grants(&args.role) });
    if let Some(name) = &args.name {
        input["name"] = json!(name);
    }
    let reply = app.ask("peers/join", input).await?;
    if matches!(args.role.as_str(), "operator" | "admin") {
        let peer = cell(reply.get("peer"));
        app.out.warn(&format!(
            "`{peer}` may run any program here as the user of this node"
        ));
    }
    if app.out.json {
        return app.out.json_line(&reply);
    }
    app.out.text(&sentence(&reply))
}

/// `home may here: nothing; you may on home: editor`.
fn sentence(reply: &Value) -> String {
    let peer = cell(reply.get("peer"));
    let list = |name: &str| {
        Some(cell(reply.get(name)))
            .filter(|text| !text.is_empty())
            .unwrap_or("nothing".into())
    };
    let until = match reply.get("expires_at").and_then(Value::as_str) {
        Some(at) => format!(" (until {})", when::stamp(at)),
        None => String::new(),
    };
    one_line(&format!(
        "{peer} may here: {}; you may on {peer}: {}{until}",
        list("you_gave"),
        list("they_gave")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_are_said_plainly() {
        assert_eq!(
            sentence(&json!({ "peer": "home", "you_gave": [], "they_gave": ["editor"] })),
            "home may here: nothing; you may on home: editor"
        );
        assert_eq!(
            sentence(
                &json!({ "peer": "home", "you_gave": ["reader"], "they_gave": [], "expires_at": "2026-01-31T12:00:00Z" })
            ),
            "home may here: reader; you may on home: nothing (until 2026-01-31T12:00:00.000Z)"
        );
    }
}
