//! `alknet join`.

use crate::{
    app::App,
    commands::{call::read_stdin, invite::role_grants, settings},
    failure::Failure,
    hint::quote,
    node_access,
    output::cell,
    table::one_line,
    when,
};
use clap::Args;
use serde_json::{Value, json};

/// How long is waited for the link, so that the next command finds it.
const LINK_WAIT_MS: u64 = 10_000;

#[derive(Debug, Args)]
#[command(after_help = "\
Prints who may what, both ways:
  home may here: nothing; you may on home: editor

Examples:
  alknet join - < ticket.txt
  alknet join --role reader --use-relays alkinvite1...")]
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
    /// Uses the other side's relays as this node's own, from now on: others
    /// then reach it through them
    #[arg(long)]
    use_relays: bool,
}

pub(crate) async fn run(app: &App, args: JoinArgs) -> Result<(), Failure> {
    let ticket = match args.ticket.as_str() {
        "-" => match read_stdin().await? {
            nothing if nothing.trim().is_empty() => {
                return Err(Failure::usage(
                    "standard input is empty: a ticket was to be there",
                ));
            }
            read => read,
        },
        ticket => ticket.to_owned(),
    };
    let mut input = json!({
        "ticket": ticket.trim(),
        "grants": role_grants(&args.role),
        "use_relays": args.use_relays,
    });
    if let Some(name) = &args.name {
        input["name"] = json!(name);
    }
    let asked = app.ask("peers/join", input).await;
    let reply = asked.map_err(|failure| unreached(paired_before(failure)))?;
    if matches!(args.role.as_str(), "operator" | "admin") {
        let peer = cell(reply.get("peer"));
        app.out.warn(&format!(
            "`{peer}` may run any program here as the user of this node"
        ));
    }
    relays(app, args.use_relays, &reply)?;
    await_link(app, &reply).await;
    if app.out.json {
        return app.out.json_line(&reply);
    }
    app.out.text(&sentence(&reply))
}

/// Keeps the relays that were adopted, or says how to adopt them: a node
/// without a relay is not found behind a NAT.
fn relays(app: &App, adopt: bool, reply: &Value) -> Result<(), Failure> {
    let list = |name: &str| {
        let listed = reply.get(name).and_then(Value::as_array);
        let texts = listed.into_iter().flatten().filter_map(Value::as_str);
        texts.map(str::to_owned).collect::<Vec<String>>()
    };
    let (theirs, own) = (list("relays"), list("own_relays"));
    if adopt && theirs.is_empty() {
        app.out
            .warn("the other side has no relay that could be used");
    } else if adopt {
        let path = node_access::config_path(app.dir());
        let mut kept = settings::load(&path)?.network.relays.unwrap_or_default();
        kept.retain(|relay| relay != "none");
        kept.extend(
            theirs
                .into_iter()
                .filter(|relay| !kept.contains(relay))
                .collect::<Vec<_>>(),
        );
        settings::store_relays(&path, &kept)?;
        app.out.say(&format!("kept in `{}`", path.display()));
    } else if let (Some(first), true) = (theirs.first(), own.is_empty()) {
        app.out.say(&format!(
            "this node has no relay, the other side has: to use it too, `alknet up --relay {}`, or `relays` under [network]; --use-relays does so with a join",
            quote(first)
        ));
    }
    Ok(())
}

/// Waits until the new peer can be called. That it cannot yet is no failure:
/// the node goes on dialling.
async fn await_link(app: &App, reply: &Value) {
    let peer = cell(reply.get("peer"));
    let input = json!({ "peer": peer, "timeout_ms": LINK_WAIT_MS });
    if app.ask("peers/dial", input).await.is_err() {
        let line = format!("`{peer}` is not connected yet; alknet peers show {peer} says why");
        app.out.say(&line);
    }
}

/// The only conflict that names a peer: the inviting node is one already.
fn paired_before(failure: Failure) -> Failure {
    let details = failure.details.as_ref();
    let peer = details.and_then(|details| details.get("peer")?.as_str());
    match peer.filter(|_| failure.code == "CONFLICT") {
        Some(peer) => {
            let command = format!("alknet peers remove {} --yes", quote(peer));
            failure.hint(format!(
                "to pair anew, forget it first, and what it may do here: {command}"
            ))
        }
        None => failure,
    }
}

/// The inviting node is no peer yet: a list of peers does not help.
fn unreached(failure: Failure) -> Failure {
    match failure.code.as_ref() {
        "UNAVAILABLE" => failure.hint(
            "is it running, and can this machine reach one of its addresses or its relay? alknet netcheck, here and there",
        ),
        _ => failure,
    }
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
    use crate::node_access::{CallError, ErrorCode};

    #[test]
    fn whoever_was_paired_before_is_told_how_to_begin_anew() {
        let error = CallError::new(ErrorCode::Conflict, "a peer already")
            .with_details(json!({ "peer": "home" }));
        assert_eq!(
            paired_before(Failure::call(&error)).hint.as_deref(),
            Some(
                "to pair anew, forget it first, and what it may do here: alknet peers remove home --yes"
            )
        );
        let taken = CallError::new(ErrorCode::Conflict, "taken")
            .with_details(json!({ "name": "home", "suggestion": "home-2" }));
        assert_eq!(paired_before(Failure::call(&taken)).hint, None);
    }

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
