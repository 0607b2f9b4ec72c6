//! What the contract says of a case, written without looking at the code.

use super::case::{Asks, Case, KINDS, KeyCase, Known, OWNED, ROLES, SMALL_INPUT};
use alknet_core::{ErrorCode, ResourceKind};
use serde_json::Value;

/// What the model says of a call: it runs, or one of these codes. Which of
/// several troubles of one input comes first is not the model's business.
#[derive(Debug, PartialEq)]
pub(super) enum Told {
    Runs,
    Refused(Vec<ErrorCode>),
}

pub(super) fn refused(code: ErrorCode) -> Told {
    Told::Refused(vec![code])
}

/// The model.
pub(super) fn model(case: &Case) -> Told {
    use ErrorCode::{
        ApprovalRequired, Forbidden, InvalidInput, NotFound, TooLarge, Unauthenticated,
    };
    let key_over = case.key.as_ref().is_some_and(|key| key.over);
    if !case.enabled || case.access_over || key_over {
        return refused(Unauthenticated);
    }
    let mut own: Vec<&str> = case.own.clone();
    own.extend(case.group.iter().flatten());
    let mut layers = vec![opened(&own)];
    if let Some(KeyCase {
        grants: Some(grants),
        ..
    }) = &case.key
    {
        layers.push(opened(grants));
    }
    // Whoever may not use a peer is told the same of all it may offer.
    if let Some(at) = case.at {
        let may_go = |held: &Vec<String>| {
            let lets = ["peer:nas=demo/*", "peer:nas=demo/thing"];
            at == "nas"
                && held.iter().any(|grant| lets.contains(&grant.as_str()))
                && !held.iter().any(|grant| grant == "!peer:nas=demo/thing")
        };
        // `peer:*=demo/other` reaches every peer, and not this operation.
        if !layers.iter().all(may_go) {
            return refused(Forbidden);
        }
    }
    if case.internal {
        return refused(NotFound);
    }
    let checks_input = case.at.is_none();
    let mut codes = Vec::new();
    if let Asks::Rule { all, any, rules } = &case.asks {
        for held in &layers {
            let whole = checks_input && held.iter().any(|grant| grant == "demo/thing");
            let holds = |scope: &&str| held.iter().any(|grant| covers_scope(grant, scope));
            let scopes = all.iter().all(holds) && (any.is_empty() || any.iter().any(holds));
            if !scopes && !whole {
                return refused(Forbidden);
            }
        }
        for (depth, held) in layers.iter().enumerate() {
            let whole = checks_input && held.iter().any(|grant| grant == "demo/thing");
            for (kind, action, at, owner) in rules {
                // A key that narrows owns nothing.
                let owner = *owner && depth == 0;
                let known = &KINDS[*kind];
                codes.extend(check_resources(case, held, whole, known, action, at, owner));
            }
        }
    }
    if case.small && case.input().to_string().len() > SMALL_INPUT {
        return refused(TooLarge);
    }
    if !codes.is_empty() {
        return Told::Refused(codes);
    }
    if checks_input && !case.fits {
        return refused(InvalidInput);
    }
    if case.approve {
        return refused(ApprovalRequired);
    }
    Told::Runs
}

/// Grants with roles opened; a role that does not exist gives nothing.
pub(super) fn opened(grants: &[&str]) -> Vec<String> {
    let mut all = Vec::new();
    for grant in grants {
        match ROLES.iter().find(|(role, _)| role == grant) {
            Some((_, given)) => all.extend(given.iter().map(ToString::to_string)),
            None if *grant == "gone" => {}
            None => all.push((*grant).to_owned()),
        }
    }
    all
}

pub(super) fn covers_scope(grant: &str, scope: &str) -> bool {
    match grant {
        "*" => true,
        "a:*" => scope.starts_with("a:"),
        "b:*" => scope.starts_with("b:"),
        exact => exact == scope,
    }
}

pub(super) fn check_resources(
    case: &Case,
    held: &[String],
    whole: bool,
    known: &Known,
    action: &str,
    at: &str,
    owner: bool,
) -> Vec<ErrorCode> {
    let texts = match (at, &case.one, &case.many) {
        ("/one", Value::String(text), _) => vec![Value::from(text.as_str())],
        ("/many", _, Value::Array(items)) if !items.is_empty() => items.clone(),
        _ => return vec![ErrorCode::Forbidden],
    };
    let mut codes = Vec::new();
    for text in texts {
        let Value::String(text) = text else {
            codes.push(ErrorCode::Forbidden);
            continue;
        };
        let Some((canonical, by_whole)) = read(known, &text) else {
            codes.push(ErrorCode::InvalidInput);
            continue;
        };
        let hit = |grant: &str| covers(known, grant, action, &canonical);
        let denied = held
            .iter()
            .any(|grant| grant.strip_prefix('!').is_some_and(&hit));
        let allowed = held.iter().any(|grant| hit(grant));
        let owned = owner && known.kind == ResourceKind::Bucket && canonical == OWNED;
        if denied || !(allowed || (whole && by_whole) || owned) {
            codes.push(ErrorCode::Forbidden);
        }
    }
    codes
}

/// What a text names: as the table says; of another kind's texts, what those
/// are to this kind.
pub(super) fn read(known: &Known, text: &str) -> Option<(String, bool)> {
    if let Some((_, canonical, by_whole)) = known.texts.iter().find(|(own, ..)| *own == text) {
        return canonical.map(|canonical| (canonical.to_owned(), *by_whole));
    }
    let slash = text.contains('/');
    let is_word = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let canonical = match known.kind {
        ResourceKind::Bucket => {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            let bucket = text.split('/').next().unwrap_or_default();
            let fine = !bucket.is_empty()
                && bucket.chars().all(plain)
                && text.split('/').all(|part| !matches!(part, "." | ".."));
            fine.then(|| text.to_owned())
        }
        // A host and a port, which no other kind's texts have.
        ResourceKind::Net => None,
        // A name, or a path from the root.
        ResourceKind::Command => (!slash).then(|| text.to_owned()),
        ResourceKind::Topic => {
            let part = |part: &str| {
                !part.is_empty() && !matches!(part, "." | "..") && part.chars().all(is_word)
            };
            text.split('/').all(part).then(|| text.to_owned())
        }
        other => unreachable!("{other} is not among the cases"),
    };
    canonical.map(|canonical| (canonical, true))
}

/// Whether a grant as written carries the action on what is named.
pub(super) fn covers(known: &Known, grant: &str, action: &str, canonical: &str) -> bool {
    let Some((kind, rest)) = grant.split_once(':') else {
        return false;
    };
    let Some((pattern, actions)) = rest.split_once('=') else {
        return false;
    };
    let carries = actions == "*" || actions.split(',').any(|held| held == action);
    if kind != known.kind.as_str() || !carries {
        return false;
    }
    if pattern == "*" {
        return true;
    }
    let (_, covered) = known
        .patterns
        .iter()
        .find(|(listed, _)| *listed == pattern)
        .unwrap_or_else(|| panic!("{pattern} is in no table"));
    // What other kinds' texts are to this kind, patterns cover by their letters.
    covered.contains(&canonical) || (pattern == "p/**" && canonical == "p")
}
