//! `alknet peers explain`.

use crate::{
    app::App,
    commands::call::{described, parse_on, typed},
    failure::{Exit, Failure},
    hint::{near, quote},
    input,
    node_access::{Route, RouteStep},
    output::cell,
    table::one_line,
};
use clap::Args;
use serde_json::{Value, json};

#[derive(Debug, Args)]
#[command(after_help = "\
Nothing is called. What decides about calls is asked, and tells each step: who
the peer is, whether there is such an operation, what it asks of its callers
and by which grant, role or group the peer holds that, the limits, and whether
the input fits. After a refusal it goes on, so that all that is missing is told.

ARGS, the input, are those of `alknet call`. Without any, resources that an input
would name, and whether it would fit, are not decided: `{}` gives an empty one.
`--on PEER` asks whether this node would send the
call on; PEER decides for itself again, which is not known here.

Exits with 0 if the call would be let in, and with 4 if not.

Examples:
  alknet peers explain laptop deploy/restart service=web
  alknet peers explain laptop fs/read file=www/motd --json
  alknet peers explain laptop shell/exec --on nas
  alknet peers explain agent node/info --key 7k3h2vqa")]
pub(crate) struct ExplainArgs {
    /// The peer that would call
    peer: String,
    /// What it would call, such as `fs/stat`
    operation: String,
    /// With which input
    #[arg(value_name = "ARGS")]
    words: Vec<String>,
    /// Where: a peer of this node, or a route `PEER/PEER`
    #[arg(long, value_name = "PEER", value_parser = parse_on)]
    on: Option<Route>,
    /// The API key that it would present: its id, as `alknet keys list` prints it
    #[arg(long, value_name = "KEYID")]
    key: Option<String>,
}

pub(crate) async fn run(app: &App, args: ExplainArgs) -> Result<(), Failure> {
    let words = input::read(&args.words).map_err(|error| Failure::usage(error.to_string()))?;
    let route = args.on.unwrap_or_default();
    let home = app.home().await?;
    let mut before = route.clone();
    let peer = before.pop().map(|step: RouteStep| step.to_string());
    let entry = described(home, &args.operation, before, peer).await;
    let mut input = json!({ "peer": args.peer, "operation": args.operation });
    if !args.words.is_empty() {
        input["input"] = typed(words, entry.as_ref()).await?;
    }
    if !route.is_empty() {
        let steps: Vec<String> = route.iter().map(ToString::to_string).collect();
        input["on"] = json!(steps.join("/"));
    }
    if let Some(key) = &args.key {
        input["key"] = json!(key);
    }
    let told = app.ask("peers/explain", input).await?;
    match app.out.json {
        true => app.out.json_line(&told)?,
        false => app.out.text(&render(&told))?,
    }
    let more = args.words.is_empty();
    refusal(&told, more).map_or(Ok(()), Err)
}

/// A line for each step, and what it comes to.
fn render(told: &Value) -> String {
    let steps = told.get("steps").and_then(Value::as_array);
    let mut text = String::new();
    for step in steps.into_iter().flatten() {
        text.push_str(&line(step));
        text.push('\n');
    }
    let verdict = match told.get("code").and_then(Value::as_str) {
        None => "allowed".to_owned(),
        Some(code) => format!("not allowed: {code}"),
    };
    text.push_str(&one_line(&verdict));
    text
}

/// `ok  scope       scope `fs:read` is held: `fs:*` (role `crew`)`.
fn line(step: &Value) -> String {
    let field = |name: &str| step.get(name).and_then(Value::as_str);
    let mark = match step.get("ok").and_then(Value::as_bool) {
        Some(true) => "ok",
        Some(false) => "no",
        None => "--",
    };
    let stage = field("stage").unwrap_or_default();
    let mut line = format!("{mark}  {stage:<12}");
    if let Some(pointer) = field("pointer").filter(|pointer| !pointer.is_empty()) {
        line.push_str(&format!("`{pointer}`: "));
    }
    line.push_str(field("text").unwrap_or_default());
    if let Some(by) = field("by") {
        line.push_str(&format!(": `{by}`"));
    }
    let from = step.get("from").and_then(Value::as_array);
    let from: Vec<String> = from
        .into_iter()
        .flatten()
        .map(|source| cell(Some(source)))
        .collect();
    if !from.is_empty() {
        line.push_str(&format!(" ({})", from.join(", ")));
    }
    if step.get("of_key") == Some(&Value::Bool(true)) {
        line.push_str(", which the key allows at most");
    }
    one_line(&line)
}

/// What the caller would be told, with the command that helps: if no input was
/// given, that may be to give one.
fn refusal(told: &Value, without_input: bool) -> Option<Failure> {
    let field = |name: &str| told.get(name).and_then(Value::as_str);
    let code = field("code")?;
    let message = field("message").unwrap_or_default();
    let mut failure = Failure::new(Exit::NOT_ALLOWED, "FORBIDDEN", one_line(message));
    failure.code = code.to_owned().into();
    let ask_with = || without_input.then(|| names_none(told)).flatten();
    Some(failure.hint_if(helps(told).or_else(ask_with)))
}

/// A resource is missing, and which it is only an input says.
fn names_none(told: &Value) -> Option<String> {
    let mut steps = told.get("steps")?.as_array()?.iter();
    let is_open = |step: &&Value| step["stage"] == "resource" && step["ok"] == false;
    let pointer = steps.find(is_open)?.get("pointer")?.as_str()?;
    let operation = quote(told.get("operation")?.as_str()?);
    Some(format!(
        "which one a call takes, its input says at `{pointer}`: ask with it; alknet ops describe {operation}"
    ))
}

fn helps(told: &Value) -> Option<String> {
    let peer = quote(told.get("peer")?.as_str()?);
    let is = |name: &str| told.get(name).and_then(Value::as_bool) == Some(true);
    if told.get("enabled") == Some(&Value::Bool(false)) {
        return Some(format!("alknet peers update {peer} --enable"));
    }
    if is("access_ended") {
        return Some(format!("alknet peers update {peer} --access-for 30d"));
    }
    let targets = |name: &str| {
        let targets = told.get(name).and_then(Value::as_array)?;
        let targets = targets.iter().filter_map(Value::as_str).map(quote);
        let targets: Vec<String> = targets.collect();
        (!targets.is_empty()).then(|| targets.join(" "))
    };
    if let Some(targets) = targets("grants") {
        return Some(format!("alknet grant {peer} {targets}"));
    }
    if let Some(denied) = targets("revokes") {
        return Some(format!("alknet revoke {peer} {denied}"));
    }
    if let Some(near) = near(told.get("suggestions")) {
        return Some(near);
    }
    // The peer may, or could be given it; the key never.
    let steps = told.get("steps")?.as_array()?;
    let of_key = |step: &Value| step["of_key"] == true && step["ok"] == false;
    steps.iter().any(of_key).then(|| {
        format!("the key was made narrower: alknet keys create --peer {peer} makes another")
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn told() -> Value {
        json!({
            "peer": "laptop", "operation": "fs/read", "allowed": false, "code": "FORBIDDEN",
            "message": "`laptop` may not call `fs/read`: missing scope `fs:read`",
            "enabled": true, "access_ended": false,
            "steps": [
                { "stage": "caller", "ok": true, "text": "`laptop` is a peer here" },
                { "stage": "scope", "ok": true, "text": "scope `a:x` is held", "by": "a:*", "from": ["role `crew`", "own grant"] },
                { "stage": "limits", "text": "at most 4096 calls" },
                { "stage": "resource", "ok": false, "text": "resource `bucket:p=read` is missing", "pointer": "/file", "grant": "bucket:p=read" },
            ],
            "grants": ["fs:read", "bucket:p p=read"], "revokes": [],
        })
    }

    #[test]
    fn each_step_is_a_line_and_the_last_one_is_the_verdict() {
        assert_eq!(
            render(&told()),
            "ok  caller      `laptop` is a peer here\n\
             ok  scope       scope `a:x` is held: `a:*` (role `crew`, own grant)\n\
             --  limits      at most 4096 calls\n\
             no  resource    `/file`: resource `bucket:p=read` is missing\n\
             not allowed: FORBIDDEN"
        );
    }

    #[test]
    fn what_helps_is_one_command() {
        let failure = refusal(&told(), false).unwrap();
        assert_eq!(failure.exit, Exit::NOT_ALLOWED);
        assert_eq!(
            failure.hint.as_deref(),
            Some("alknet grant laptop fs:read 'bucket:p p=read'")
        );
        let mut denied = told();
        denied["grants"] = json!([]);
        denied["revokes"] = json!(["!bucket:p=read"]);
        assert_eq!(
            helps(&denied).as_deref(),
            Some("alknet revoke laptop '!bucket:p=read'")
        );
        let mut disabled = told();
        disabled["enabled"] = json!(false);
        assert_eq!(
            helps(&disabled).as_deref(),
            Some("alknet peers update laptop --enable")
        );
        let mut ended = told();
        ended["access_ended"] = json!(true);
        assert_eq!(
            helps(&ended).as_deref(),
            Some("alknet peers update laptop --access-for 30d")
        );
    }

    #[test]
    fn what_grants_do_not_mend_has_other_help() {
        let mut told = told();
        told["grants"] = json!([]);
        let hint = |told: &Value, without| refusal(told, without).unwrap().hint;
        assert_eq!(hint(&told, false), None);
        assert_eq!(
            hint(&told, true).as_deref(),
            Some(
                "which one a call takes, its input says at `/file`: ask with it; alknet ops describe fs/read"
            )
        );
        told["steps"][3]["of_key"] = json!(true);
        assert_eq!(
            hint(&told, false).as_deref(),
            Some("the key was made narrower: alknet keys create --peer laptop makes another")
        );
        told["suggestions"] = json!(["fs/read"]);
        assert_eq!(
            hint(&told, false).as_deref(),
            Some("did you mean `fs/read`?")
        );
    }

    #[test]
    fn what_is_allowed_is_no_failure() {
        let mut told = told();
        told.as_object_mut().unwrap().remove("code");
        assert!(refusal(&told, true).is_none());
        assert!(render(&told).ends_with("\nallowed"));
    }

    #[test]
    fn a_step_shows_no_control_characters() {
        let step = json!({ "stage": "input", "ok": false, "text": "a\u{1b}[31mb" });
        assert!(!line(&step).contains('\u{1b}'));
    }
}
