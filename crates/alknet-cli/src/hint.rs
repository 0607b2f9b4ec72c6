//! Adds what helps to the error of a call.

use crate::{
    duration,
    failure::Failure,
    node_access::{CallError, ErrorCode, Route, RouteStep},
};
use serde_json::Value;

/// Where a call was sent from and to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    /// What the node of this machine calls itself.
    pub(crate) home: String,
    /// The peers the call was to pass through.
    pub(crate) route: Route,
    /// The operation that the person named; empty if a command chose it.
    pub(crate) operation: String,
}

impl Place {
    fn peer(&self) -> Option<&str> {
        self.route.iter().rev().find_map(|step| match step {
            RouteStep::Peer(peer) => Some(peer.as_str()),
            RouteStep::Any => None,
        })
    }

    /// ` --on PEER`, if there is a route.
    fn on(&self) -> String {
        if self.route.is_empty() {
            return String::new();
        }
        format!(" --on {}", self.way(0))
    }

    /// The route from a step on, as grants name it.
    fn way(&self, from: usize) -> String {
        let steps: Vec<String> = self
            .route
            .iter()
            .skip(from)
            .map(ToString::to_string)
            .collect();
        steps.join("/")
    }

    /// The node that decides about a step: the one before it.
    fn node_before(&self, step: usize) -> &str {
        match step
            .checked_sub(1)
            .and_then(|before| self.route.get(before))
        {
            Some(RouteStep::Peer(peer)) => peer.as_str(),
            _ => &self.home,
        }
    }

    /// The step at which the route goes to this peer.
    fn step_to(&self, peer: &str) -> Option<usize> {
        let is_it =
            |step: &RouteStep| matches!(step, RouteStep::Peer(named) if named.as_str() == peer);
        self.route.iter().position(is_it)
    }

    /// Whether an error speaks of a peer that another node knows, not this one.
    pub(crate) fn is_beyond(&self, error: &CallError) -> bool {
        text(error, "/peer").is_some_and(|peer| self.step_to(peer) > Some(0))
    }
}

/// Turns the error of a call into what a person is told.
pub(crate) fn explain(error: &CallError, place: &Place) -> Failure {
    let mut failure = Failure::call(error);
    if error.is(ErrorCode::Forbidden) {
        let refused_by = refused_by(error, place);
        failure.message = placed(&error.message, &refused_by);
        let hint = grant_hint(error, &refused_by).or_else(|| input_hint(error, place));
        return failure.hint_if(hint);
    }
    if place.operation.is_empty()
        && let Some((message, hint)) = of_flag(error)
    {
        failure.message = message;
        return failure.hint_if(hint);
    }
    if let Some(message) = violations(error).or_else(|| not_offered(error, place)) {
        failure.message = message;
    }
    failure.hint_if(hint(error, place))
}

/// The peer says `no operation`; here it matters whose.
fn not_offered(error: &CallError, place: &Place) -> Option<String> {
    let operation = text(error, "/operation").filter(|_| error.is(ErrorCode::NotFound))?;
    let is_plain = error.message == format!("no operation `{operation}`");
    let peer = place.peer().filter(|_| is_plain)?;
    Some(format!("peer `{peer}` does not offer `{operation}`"))
}

/// Violations that are told; the rest is counted.
const VIOLATIONS_TOLD: usize = 4;

/// Everything that is wrong with an input, in one sentence.
fn violations(error: &CallError) -> Option<String> {
    if !error.is(ErrorCode::InvalidInput) {
        return None;
    }
    let all = error.details.as_deref()?.as_array()?;
    let told: Option<Vec<String>> = all
        .iter()
        .take(VIOLATIONS_TOLD)
        .map(|one| {
            let message = one.get("message")?.as_str()?;
            Some(match one.get("pointer")?.as_str()? {
                "" => message.to_owned(),
                pointer => format!("`{pointer}`: {message}"),
            })
        })
        .collect();
    let mut told = told.filter(|told| !told.is_empty())?.join("; ");
    if all.len() > VIOLATIONS_TOLD {
        told.push_str(&format!(" (and {} more)", all.len() - VIOLATIONS_TOLD));
    }
    Some(format!("invalid input: {told}"))
}

/// The one thing that is wrong with the input of an operation that a command
/// chose: the person wrote a flag, and knows no pointer.
fn of_flag(error: &CallError) -> Option<(String, Option<String>)> {
    if !error.is(ErrorCode::InvalidInput) {
        return None;
    }
    let [only] = error.details.as_deref()?.as_array()?.as_slice() else {
        return None;
    };
    let (message, pointer) = (
        only.get("message")?.as_str()?,
        only.get("pointer")?.as_str()?,
    );
    let field = pointer.split('/').nth(1).unwrap_or_default();
    let field = field
        .trim_end_matches("_ms")
        .trim_end_matches("_in")
        .replace('_', "-");
    let names_itself = field.is_empty() || message.contains('`');
    let message = match names_itself {
        true => message.to_owned(),
        false => format!("{field}: {message}"),
    };
    let hint = match message.contains("did you mean") {
        true => None,
        false if message.starts_with("no role") => Some("alknet roles".to_owned()),
        false if message.starts_with("no operation") => Some("alknet ops list".to_owned()),
        false => None,
    };
    Some((message, hint))
}

/// Who refused. A missing right to go on to a peer is refused by the node
/// before it; everything else by the last one on the route.
fn refused_by(error: &CallError, place: &Place) -> String {
    let named = ["/missing/resource", "/grant"].map(|at| text(error, at).unwrap_or_default());
    if let Some(way) = named.iter().find_map(|text| text.strip_prefix("peer:")) {
        let way = way.split_once('=').map_or(way, |(way, _)| way);
        let steps = 0..place.route.len();
        let step = steps.into_iter().find(|step| place.way(*step) == way);
        return place.node_before(step.unwrap_or_default()).to_owned();
    }
    place.peer().unwrap_or(&place.home).to_owned()
}

/// Inserts ` on NODE` before what is missing, unless the sentence says where.
fn placed(message: &str, node: &str) -> String {
    match message.split_once(": missing ") {
        Some((who, missing)) if !who.contains("` on `") && !node.is_empty() => {
            format!("{who} on `{node}`: missing {missing}")
        }
        _ => message.to_owned(),
    }
}

fn grant_hint(error: &CallError, node: &str) -> Option<String> {
    let caller = text(error, "/caller")?;
    if let Some(key) = text(error, "/key") {
        // No grant helps, another key does.
        return Some(format!(
            "key `{key}` may not, whatever `{caller}` is granted: alknet keys create makes another"
        ));
    }
    // A resource that is missing is less than the whole operation, and enough.
    // One that is not known yet is nothing to grant.
    let resource = text(error, "/missing/resource").filter(|text| !text.contains('…'));
    let grant = resource.or_else(|| text(error, "/grant"))?;
    let command = format!("alknet grant {} {}", quote(caller), quote(grant));
    Some(match node {
        "" => command,
        node => format!("on `{node}`: {command}"),
    })
}

/// The input names no resource where the rule looks for one: no grant helps.
fn input_hint(error: &CallError, place: &Place) -> Option<String> {
    text(error, "/missing/pointer").and_then(|_| describe_hint(place))
}

fn describe_hint(place: &Place) -> Option<String> {
    let name = Some(&place.operation).filter(|name| !name.is_empty())?;
    Some(format!("alknet ops describe {}{}", quote(name), place.on()))
}

fn hint(error: &CallError, place: &Place) -> Option<String> {
    if let Some(near) = suggestions(error) {
        return Some(near);
    }
    match error.protocol_code()? {
        ErrorCode::NotFound if text(error, "/operation").is_none() => {
            text(error, "/peer").map(|peer| peers_of(place, peer))
        }
        ErrorCode::NotFound => Some(format!("alknet ops list{}", place.on())),
        // This node itself, which says why.
        ErrorCode::Unavailable if place.route.is_empty() && text(error, "/peer").is_none() => None,
        ErrorCode::Unavailable => {
            let peer = text(error, "/peer").unwrap_or_default();
            Some(peers_of(place, peer))
        }
        ErrorCode::InvalidInput => describe_hint(place),
        ErrorCode::Timeout if !place.operation.is_empty() => {
            Some("`--timeout 5m` gives it longer".into())
        }
        ErrorCode::RateLimited => error
            .retry_after
            .map(|wait| format!("try again in {}", duration::in_words(wait))),
        ErrorCode::Internal => {
            let node = place.peer().unwrap_or(&place.home);
            let call = text(error, "/call_id");
            call.map(|_| format!("the cause is in the log; on `{node}`: alknet logs --level error"))
        }
        _ => None,
    }
}

/// Lists the peers among which this one is, or is missing.
fn peers_of(place: &Place, peer: &str) -> String {
    match place.step_to(peer) {
        Some(step) if step > 0 => {
            format!("on `{}`: alknet peers list", place.node_before(step))
        }
        _ => "alknet peers list".into(),
    }
}

/// `did you mean ...?` of what the node suggests.
fn suggestions(error: &CallError) -> Option<String> {
    let details = error.details.as_deref()?;
    if let Some(free) = details.get("suggestion").and_then(Value::as_str) {
        return Some(format!("`--name {}` is free", quote(free)));
    }
    near(details.get("suggestions"))
}

/// `did you mean ...?` of a list of names.
pub(crate) fn near(names: Option<&Value>) -> Option<String> {
    let near: Vec<String> = names?
        .as_array()?
        .iter()
        .filter_map(Value::as_str)
        .map(|name| format!("`{name}`"))
        .collect();
    match near.split_last()? {
        (only, []) => Some(format!("did you mean {only}?")),
        (last, others) => Some(format!("did you mean {} or {last}?", others.join(", "))),
    }
}

fn text<'a>(error: &'a CallError, pointer: &str) -> Option<&'a str> {
    error.details.as_deref()?.pointer(pointer)?.as_str()
}

/// Text as a POSIX shell takes it for one word. It may come from a peer, and
/// people paste hints.
pub(crate) fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::node_access::{Violation, parse_route};
    use serde_json::json;
    use std::time::Duration;

    fn place(route: &str) -> Place {
        let route = if route.is_empty() {
            Vec::new()
        } else {
            parse_route(route).unwrap()
        };
        Place {
            home: "home".into(),
            route,
            operation: "deploy/restart".into(),
        }
    }

    #[track_caller]
    fn check(error: CallError, route: &str, want: &str) {
        assert_eq!(explain(&error, &place(route)).to_string(), want);
    }

    fn forbidden(grant: &str, missing: Value) -> CallError {
        let what = match missing.get("resource").and_then(Value::as_str) {
            Some(resource) => format!("resource `{resource}`"),
            None => "scope `deploy:write`".into(),
        };
        CallError::new(
            ErrorCode::Forbidden,
            format!("`bob` may not call `deploy/restart`: missing {what}"),
        )
        .with_details(json!({ "caller": "bob", "operation": "deploy/restart", "grant": grant, "missing": missing }))
    }

    #[test]
    fn a_refusal_says_where_and_how_to_lift_it() {
        let scopes = json!({ "scopes": ["deploy:write"] });
        check(
            forbidden("deploy/restart", scopes.clone()),
            "",
            "error: `bob` may not call `deploy/restart` on `home`: missing scope `deploy:write`\n\
             hint: on `home`: alknet grant bob deploy/restart",
        );
        // The least that helps, where the rule names resources too.
        check(
            forbidden("deploy:write", scopes.clone()),
            "",
            "error: `bob` may not call `deploy/restart` on `home`: missing scope `deploy:write`\n\
             hint: on `home`: alknet grant bob deploy:write",
        );
        check(
            forbidden("deploy/restart", scopes),
            "nas",
            "error: `bob` may not call `deploy/restart` on `nas`: missing scope `deploy:write`\n\
             hint: on `nas`: alknet grant bob deploy/restart",
        );
    }

    #[test]
    fn an_input_that_names_nothing_is_no_matter_of_grants() {
        let error = CallError::new(
            ErrorCode::Forbidden,
            "`bob` may not call `fs/x`: missing resource: the input has no text at `/file`",
        )
        .with_details(json!({ "caller": "bob", "missing": { "pointer": "/file" } }));
        check(
            error,
            "",
            "error: `bob` may not call `fs/x` on `home`: missing resource: the input has no text at `/file`\n\
             hint: alknet ops describe deploy/restart",
        );
    }

    #[test]
    fn a_missing_right_to_use_a_peer_is_refused_at_home() {
        let error = CallError::new(
            ErrorCode::Forbidden,
            "`bob` may not call `fs/x` on `nas`: missing resource `peer:nas=fs/x`",
        )
        .with_details(
            json!({ "caller": "bob", "grant": "fs/x", "missing": { "resource": "peer:nas=fs/*" } }),
        );
        check(
            error,
            "nas",
            "error: `bob` may not call `fs/x` on `nas`: missing resource `peer:nas=fs/x`\n\
             hint: on `home`: alknet grant bob 'peer:nas=fs/*'",
        );
    }

    #[test]
    fn a_missing_right_to_go_on_is_refused_by_the_node_before() {
        let missing = |way: &str| {
            let resource = format!("peer:{way}=deploy/restart");
            forbidden(&resource, json!({ "resource": resource }))
        };
        for (way, who) in [("hub/nas/pi", "home"), ("nas/pi", "hub"), ("pi", "nas")] {
            check(
                missing(way),
                "hub/nas/pi",
                &format!(
                    "error: `bob` may not call `deploy/restart` on `{who}`: missing resource `peer:{way}=deploy/restart`\n\
                     hint: on `{who}`: alknet grant bob peer:{way}=deploy/restart"
                ),
            );
        }
        // What the last one misses is its own matter.
        check(
            forbidden("deploy/restart", json!({ "scopes": ["deploy:write"] })),
            "hub/nas",
            "error: `bob` may not call `deploy/restart` on `nas`: missing scope `deploy:write`\n\
             hint: on `nas`: alknet grant bob deploy/restart",
        );
    }

    #[test]
    fn a_peer_behind_a_hub_is_looked_for_at_the_hub() {
        let gone = |peer: &str| {
            CallError::new(ErrorCode::Unavailable, "x").with_details(json!({ "peer": peer }))
        };
        check(
            gone("nas"),
            "hub/nas",
            "error: x\nhint: on `hub`: alknet peers list",
        );
        check(gone("hub"), "hub/nas", "error: x\nhint: alknet peers list");
        assert!(place("hub/nas").is_beyond(&gone("nas")));
        assert!(!place("hub/nas").is_beyond(&gone("hub")));
        assert!(!place("hub/nas").is_beyond(&gone("tv")));
    }

    #[test]
    fn near_names_are_offered() {
        let near = |names: Value| {
            CallError::new(
                ErrorCode::NotFound,
                "peer `laptop` does not offer `fs/raed`",
            )
            .with_details(json!({ "operation": "fs/raed", "suggestions": names }))
        };
        check(
            near(json!(["fs/read"])),
            "laptop",
            "error: peer `laptop` does not offer `fs/raed`\nhint: did you mean `fs/read`?",
        );
        check(
            near(json!(["fs/read", "fs/rename", "fs/list"])),
            "laptop",
            "error: peer `laptop` does not offer `fs/raed`\nhint: did you mean `fs/read`, `fs/rename` or `fs/list`?",
        );
        check(
            near(json!([])),
            "laptop",
            "error: peer `laptop` does not offer `fs/raed`\nhint: alknet ops list --on laptop",
        );
    }

    #[test]
    fn what_is_not_found_is_said_to_be_missing_there() {
        let error = CallError::not_found("fs/raed");
        check(
            error.clone(),
            "laptop",
            "error: peer `laptop` does not offer `fs/raed`\nhint: alknet ops list --on laptop",
        );
        check(
            error,
            "",
            "error: no operation `fs/raed`\nhint: alknet ops list",
        );
    }

    #[test]
    fn other_codes_have_their_own_hints() {
        let error = |code| CallError::new(code, "x");
        check(
            error(ErrorCode::Unavailable),
            "nas",
            "error: x\nhint: alknet peers list",
        );
        check(
            error(ErrorCode::NotFound).with_details(json!({ "peer": "nsa" })),
            "",
            "error: x\nhint: alknet peers list",
        );
        check(
            error(ErrorCode::InvalidInput),
            "nas",
            "error: x\nhint: alknet ops describe deploy/restart --on nas",
        );
        check(
            error(ErrorCode::RateLimited).with_retry_after(Duration::from_secs(2)),
            "",
            "error: x\nhint: try again in 2 seconds",
        );
        check(
            error(ErrorCode::Conflict).with_details(json!({ "suggestion": "laptop-2" })),
            "",
            "error: x\nhint: `--name laptop-2` is free",
        );
        check(error(ErrorCode::Conflict), "", "error: x");
        check(CallError::domain("TICKET_USED", "x"), "", "error: x");
    }

    #[test]
    fn every_violation_is_told_up_to_four() {
        let violation = |pointer: &str, message: &str| Violation {
            pointer: pointer.into(),
            message: message.into(),
        };
        let two = vec![
            violation("", "\"a\" is missing"),
            violation("/b", "no number"),
        ];
        check(
            CallError::invalid_input(two),
            "",
            "error: invalid input: \"a\" is missing; `/b`: no number\nhint: alknet ops describe deploy/restart",
        );
        let five = vec![violation("/b", "x"); VIOLATIONS_TOLD + 1];
        let failure = explain(&CallError::invalid_input(five), &Place::default());
        assert_eq!(
            failure.message,
            "invalid input: `/b`: x; `/b`: x; `/b`: x; `/b`: x (and 1 more)"
        );
    }

    #[test]
    fn what_a_command_asked_for_wrongly_is_said_without_pointers() {
        let told = |pointer: &str, message: &str| {
            let error = CallError::invalid_field(pointer, message);
            explain(&error, &Place::default()).to_string()
        };
        assert_eq!(
            told("/grants/0", "no role `nonesuch`"),
            "error: no role `nonesuch`\nhint: alknet roles"
        );
        assert_eq!(
            told("/targets/0", "no role `watchr`; did you mean `watcher`?"),
            "error: no role `watchr`; did you mean `watcher`?"
        );
        assert_eq!(
            told("/expires_in_ms", "at most 100 years"),
            "error: expires: at most 100 years"
        );
    }

    #[test]
    fn what_this_node_itself_does_not_have_is_no_matter_of_peers() {
        let locked = CallError::new(ErrorCode::Unavailable, "the vault is locked");
        let told = explain(&locked, &Place::default());
        assert_eq!(told.to_string(), "error: the vault is locked");
    }

    #[test]
    fn a_pasted_hint_is_one_word() {
        assert_eq!(quote("bob"), "bob");
        assert_eq!(quote("bucket:www/**=read"), "'bucket:www/**=read'");
        assert_eq!(quote("x; rm -rf ~"), "'x; rm -rf ~'");
        assert_eq!(quote("it's"), r"'it'\''s'");
        assert_eq!(quote(""), "''");
    }
}
