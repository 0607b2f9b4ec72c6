//! What the gate says of its steps to whoever listens. Nothing is decided
//! here.

use super::{LetIn, SOME, way_resource};
use crate::{
    access::{AccessControl, ResourceRule},
    explain::{Stage, Step, Tell},
    identity::Identity,
    name::{OperationName, Scope},
    registry::Entry,
    resource::{ResourceGrant, ResourceKind},
    role::GrantTarget,
};

pub(super) fn visible(is_internal: bool) -> Step {
    let text = match is_internal {
        true => "is internal, and this node's own operation asks",
        false => "can be called from outside",
    };
    Step::passes(Stage::Visibility, text)
}

/// Whether the caller may use the peer, or the route to one behind it.
pub(super) fn tell_way(held: &Identity, way: &str, name: &OperationName) -> Step {
    let resource = way_resource(way, name);
    let by = deciding(held, ResourceKind::Peer, name.as_str(), way);
    decided(Stage::Route, &resource, by, Some(resource.clone()))
}

/// What decides about a resource: the grant that denies it, else the one that
/// covers it.
fn deciding(
    held: &Identity,
    kind: ResourceKind,
    action: &str,
    canonical: &str,
) -> Option<GrantTarget> {
    let resources = &held.resources;
    let denied = resources.barred_by(kind, action, canonical);
    let deny = denied.map(|grant: &ResourceGrant| GrantTarget::Deny(grant.clone()));
    deny.or_else(|| {
        let covers = resources.held_by(kind, action, canonical);
        covers.map(|grant| GrantTarget::Resource(grant.clone()))
    })
}

fn decided(stage: Stage, resource: &str, by: Option<GrantTarget>, grant: Option<String>) -> Step {
    match &by {
        Some(GrantTarget::Deny(_)) => {
            let text = format!("resource `{resource}` is denied, whatever else is held");
            Step::refuses(stage, text).by(by)
        }
        Some(_) => Step::passes(stage, format!("resource `{resource}` is held")).by(by),
        None => Step::refuses(stage, format!("resource `{resource}` is missing")).grant(grant),
    }
}

/// The rule as far as the input has no say: the operation granted whole, or
/// each scope.
pub(super) fn tell_rule<T: Tell>(
    held: &Identity,
    entry: &Entry,
    rule: &AccessControl,
    whole: bool,
    tell: &mut T,
) {
    if !T::ONLY_TELLS {
        return;
    }
    let name = &entry.spec().name;
    if whole {
        let text = "the operation was granted whole: its scopes count as held";
        let by = Some(GrantTarget::Operation(name.clone()));
        tell.tell(|| Step::passes(Stage::Whole, text).by(by));
        return;
    }
    // A grant of the whole operation would give every resource as well.
    let instead = entry.way().is_none() && rule.resources.is_empty();
    let grant = |scope: &Scope| match instead {
        true => name.to_string(),
        false => scope.to_string(),
    };
    for scope in &rule.scopes_all {
        tell.tell(|| match covering(held, scope) {
            Some(by) => Step::passes(Stage::Scope, format!("scope `{scope}` is held")).by(Some(by)),
            None => Step::refuses(Stage::Scope, format!("scope `{scope}` is missing"))
                .grant(Some(grant(scope))),
        });
    }
    if let Some(any) = rule.scopes_any.first() {
        tell.tell(|| tell_any(held, &rule.scopes_any, grant(any)));
    }
}

fn tell_any(held: &Identity, any: &[Scope], grant: String) -> Step {
    let found = any
        .iter()
        .find_map(|scope| Some((scope, covering(held, scope)?)));
    match found {
        Some((scope, by)) => {
            let text = format!("scope `{scope}` is held, one of {}", named(any));
            Step::passes(Stage::Scope, text).by(Some(by))
        }
        None => {
            let text = format!("none of the scopes {} is held", named(any));
            Step::refuses(Stage::Scope, text).grant(Some(grant))
        }
    }
}

fn named(scopes: &[Scope]) -> String {
    let all: Vec<String> = scopes.iter().map(|scope| format!("`{scope}`")).collect();
    all.join(", ")
}

/// The held scope that covers one.
fn covering(held: &Identity, scope: &Scope) -> Option<GrantTarget> {
    let by = held.scopes.held_by(scope)?;
    Some(GrantTarget::Scope(by.clone()))
}

/// The input names nothing where the rule looks.
pub(super) fn names_none(rule: &ResourceRule) -> Step {
    let text = format!("the input names no {} at `{}`", rule.kind, rule.at.as_str());
    Step::refuses(Stage::Resource, text).at(rule.at.as_str())
}

/// Which resource a call takes, if it has an input yet to come.
pub(super) fn tell_probe<T: Tell>(
    held: &Identity,
    rule: &AccessControl,
    whole: bool,
    may_own: bool,
    tell: &mut T,
) {
    for rule in &rule.resources {
        let (kind, action) = (rule.kind, rule.action.as_str());
        let might_own = may_own && rule.owner;
        let might = whole || might_own || held.resources.might_hold(kind, action);
        let step = || match might {
            true => Step::notes(
                Stage::Resource,
                format!("takes `{kind}:{SOME}={action}`, which the input names"),
            ),
            false => {
                let text = format!("no resource `{kind}:{SOME}={action}` is held");
                Step::refuses(Stage::Resource, text).open()
            }
        };
        tell.tell(|| step().at(rule.at.as_str()));
    }
}

pub(super) fn tell_resource(
    held: &Identity,
    rule: &ResourceRule,
    canonical: &str,
    named: &str,
    let_in: Option<LetIn>,
) -> Step {
    let by = deciding(held, rule.kind, &rule.action, canonical);
    let why = match let_in {
        Some(LetIn::Whole) => "is let in: the operation was granted whole",
        Some(LetIn::Owner) => "is let in: the caller made it",
        Some(LetIn::MayResolve) => {
            "is let in to be resolved: each address is then checked, and one that it might have is held"
        }
        _ => {
            let step = decided(Stage::Resource, named, by, Some(named.to_owned()));
            return step.at(rule.at.as_str());
        }
    };
    Step::passes(Stage::Resource, format!("resource `{named}` {why}")).at(rule.at.as_str())
}
