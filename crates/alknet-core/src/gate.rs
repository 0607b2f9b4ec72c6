//! The one function that decides, used by every path: calls, listing,
//! description, search, export, permits.

use crate::{
    access::{Access, AccessControl, ResourceRule},
    error::{CallError, ErrorCode},
    identity::{Caller, CallerKind, Identity},
    name::{OperationName, Scope},
    registry::Entry,
    resource::{
        AddressClass, ResourceKind, canonical_resource, canonical_socket, is_covered_by_whole,
        judged_socket, name_in,
    },
    spec::Visibility,
    storage::OwnershipProvider,
};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// Stands for a resource that is not known yet.
const SOME: char = '…';

/// What the gate looks at beside the caller and the operation.
pub(crate) enum Ask<'a> {
    /// Could this caller call it with some input? For listings and permits.
    Probe,
    /// May it call it, as far as the input has no say? A call is asked about
    /// again with its input, and only then told which resource is missing.
    Enter,
    /// May it call it with this input? Resources in it become canonical.
    Input(&'a mut Value),
}

/// Why the gate refused, or that it did not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// The call may go on; the resources that were checked, in canonical form.
    Allow(Vec<String>),
    /// To this caller it does not exist.
    Hidden,
    /// Nobody known.
    Unauthenticated,
    /// One of these scopes is missing.
    MissingScope(Vec<Scope>),
    /// A resource is missing: `kind:resource=action`.
    MissingResource(String),
    /// The input names no resource where the rule looks for one.
    NoResource(String),
    /// What the input names is no resource.
    BadResource {
        /// Where.
        pointer: String,
        /// What is wrong with it.
        message: String,
    },
}

impl Decision {
    /// Whether the call may go on.
    #[must_use]
    pub fn is_allow(&self) -> bool {
        matches!(self, Decision::Allow(_))
    }
}

/// Decides whether `caller` may call `entry`.
pub(crate) fn gate(
    caller: &Caller,
    entry: &Entry,
    ask: Ask<'_>,
    owners: &dyn OwnershipProvider,
) -> Decision {
    let spec = entry.spec();
    // First: whoever may not use a peer is told the same of all it may offer.
    if let Some(refused) = peer_route(caller, entry) {
        return refused;
    }
    // Only this node's own operations act under an authority.
    if spec.visibility == Visibility::Internal && caller.kind() != CallerKind::Authority {
        return Decision::Hidden;
    }
    let rule = match &spec.access {
        Access::Public => return Decision::Allow(Vec::new()),
        _ if !caller.is_authenticated() => return Decision::Unauthenticated,
        Access::Authenticated => return Decision::Allow(Vec::new()),
        // Defence in depth: the registry refuses such a rule.
        Access::Rule(_) if spec.access.is_empty_rule() => {
            return Decision::MissingScope(vec![spec.name.default_scope()]);
        }
        Access::Rule(rule) => rule,
    };
    let whole = is_granted_whole(caller, entry);
    if !whole && let Some(missing) = missing_scopes(caller, rule) {
        return Decision::MissingScope(missing);
    }
    match ask {
        Ask::Probe => probe_resources(caller, rule, whole),
        Ask::Enter => Decision::Allow(Vec::new()),
        Ask::Input(input) => check_resources(caller, rule, whole, input, owners),
    }
}

/// Whether the operation itself was granted, so that its own rule counts as
/// satisfied. Such grants name local operations; a peer's may have the same
/// name and is another one.
fn is_granted_whole(caller: &Caller, entry: &Entry) -> bool {
    entry.peer().is_none() && caller.identity().operations.contains(&entry.spec().name)
}

/// An operation of a peer takes `peer:<id>` with an action that covers it; one
/// behind a peer takes the whole route, which `peer:<id>` alone does not cover.
fn peer_route(caller: &Caller, entry: &Entry) -> Option<Decision> {
    let way = entry.way()?;
    let name = &entry.spec().name;
    if may_go(caller, way, name) {
        return None;
    }
    // Whoever may not use a peer does not learn what it offers.
    Some(if caller.is_authenticated() {
        Decision::MissingResource(way_resource(way, name))
    } else {
        Decision::Unauthenticated
    })
}

/// Whether `caller` may call `name` at the end of a route.
pub(crate) fn may_go(caller: &Caller, way: &str, name: &OperationName) -> bool {
    let held = &caller.identity().resources;
    held.holds(ResourceKind::Peer, name.as_str(), way)
}

/// What is told to whoever may not: the same whether the peers exist or not.
pub(crate) fn no_way(caller: &Caller, way: &str, name: &OperationName) -> CallError {
    let missing = way_resource(way, name);
    let message = format!(
        "`{}` may not call `{name}`: missing resource `{missing}`",
        caller.id()
    );
    let details = json!({ "caller": caller.id(), "operation": name, "missing": { "resource": missing }, "grant": missing });
    CallError::new(ErrorCode::Forbidden, message).with_details(details)
}

fn way_resource(way: &str, name: &OperationName) -> String {
    format!("peer:{way}={name}")
}

fn missing_scopes(caller: &Caller, rule: &AccessControl) -> Option<Vec<Scope>> {
    let held = &caller.identity().scopes;
    if let Some(missing) = rule.scopes_all.iter().find(|scope| !held.holds(scope)) {
        return Some(vec![missing.clone()]);
    }
    let any = &rule.scopes_any;
    (!any.is_empty() && !any.iter().any(|scope| held.holds(scope))).then(|| any.clone())
}

fn probe_resources(caller: &Caller, rule: &AccessControl, whole: bool) -> Decision {
    let resources = &caller.identity().resources;
    let missing = rule
        .resources
        .iter()
        .find(|rule| !whole && !rule.owner && !resources.might_hold(rule.kind, &rule.action));
    match missing {
        Some(rule) => Decision::MissingResource(format!("{}:{SOME}={}", rule.kind, rule.action)),
        None => Decision::Allow(Vec::new()),
    }
}

fn check_resources(
    caller: &Caller,
    rule: &AccessControl,
    whole: bool,
    input: &mut Value,
    owners: &dyn OwnershipProvider,
) -> Decision {
    let mut checked = Vec::new();
    for rule in &rule.resources {
        let mut absent = rule.absent.clone().map(Value::String);
        let texts: Vec<&mut Value> = match rule.at.find(input) {
            Some(text @ Value::String(_)) => vec![text],
            Some(Value::Array(items)) if !items.is_empty() => items.iter_mut().collect(),
            // Nothing there, which the operation says the meaning of.
            None if absent.is_some() => absent.iter_mut().collect(),
            _ => return Decision::NoResource(rule.at.as_str().into()),
        };
        for text in texts {
            match check_one(caller, rule, whole, text, owners) {
                Ok(canonical) => checked.push(canonical),
                Err(refused) => return refused,
            }
        }
    }
    Decision::Allow(checked)
}

fn check_one(
    caller: &Caller,
    rule: &ResourceRule,
    whole: bool,
    text: &mut Value,
    owners: &dyn OwnershipProvider,
) -> Result<String, Decision> {
    let Value::String(text) = text else {
        return Err(Decision::NoResource(rule.at.as_str().into()));
    };
    let canonical = canonical_resource(rule.kind, text).map_err(|error| Decision::BadResource {
        pointer: rule.at.as_str().into(),
        message: error.to_string(),
    })?;
    let named = format!("{}:{canonical}={}", rule.kind, rule.action);
    let is_let_in = is_held(caller, rule, whole, &canonical, owners)
        || (rule.resolves && might_resolve(caller, rule, &canonical));
    if !is_let_in {
        return Err(Decision::MissingResource(named));
    }
    // The handler reads what was checked, not what was sent.
    *text = canonical;
    Ok(named)
}

/// Deny wins over everything, a grant of the whole operation and ownership
/// included.
fn is_held(
    caller: &Caller,
    rule: &ResourceRule,
    whole: bool,
    canonical: &str,
    owners: &dyn OwnershipProvider,
) -> bool {
    let Identity { id, resources, .. } = &**caller.identity();
    let (kind, action) = (rule.kind, rule.action.as_str());
    let whole = whole && (kind != ResourceKind::Net || is_covered_by_whole(action, canonical));
    resources.holds(kind, action, canonical)
        || (whole || (rule.owner && owners.owns(id, kind, canonical)))
            && !resources.denies(kind, action, canonical)
}

/// Whether a name is let through to be resolved: the handler asks again for
/// each address, with [`step_resolved`].
fn might_resolve(caller: &Caller, rule: &ResourceRule, canonical: &str) -> bool {
    let resources = &caller.identity().resources;
    name_in(canonical).is_some()
        && resources.might_hold_resolved(&rule.action, canonical)
        && !resources.denies(rule.kind, &rule.action, canonical)
}

/// Why an address is refused that a caller named, or that a name resolved to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RefusedAddress {
    /// By this grant, whatever else is held.
    Denied(String),
    /// This is not held: `net:host:port=action`.
    Missing(String),
}

/// Whether `action` on `address` is allowed, to which the caller's `asked`
/// (`host:port` in canonical form) was resolved. The address may be held
/// itself; or the name is, and stands for addresses of that class.
pub(crate) fn step_resolved(
    caller: &Caller,
    entry: &Entry,
    action: &str,
    asked: &str,
    address: SocketAddr,
    owners: &dyn OwnershipProvider,
) -> Result<(), RefusedAddress> {
    let kind = ResourceKind::Net;
    let resources = &caller.identity().resources;
    let resolved = canonical_socket(address);
    for text in [asked, resolved.as_str()] {
        if let Some(grant) = resources.barred_by(kind, action, text) {
            return Err(RefusedAddress::Denied(format!("!{grant}")));
        }
    }
    let name = name_in(asked);
    let fits = |name: &String| AddressClass::of(address.ip()).fits_name(name);
    let name_fits = name.as_ref().is_some_and(fits);
    if step(caller, entry, kind, action, &resolved, owners)
        || (name_fits && resources.holds(kind, action, asked))
    {
        return Ok(());
    }
    let missing = if name_fits {
        asked
    } else {
        &judged_socket(address)
    };
    Err(RefusedAddress::Missing(format!(
        "{kind}:{missing}={action}"
    )))
}

/// One step of a data plane that was let in for `entry`: `action` on a
/// resource in canonical form.
pub(crate) fn step(
    caller: &Caller,
    entry: &Entry,
    kind: ResourceKind,
    action: &str,
    canonical: &str,
    owners: &dyn OwnershipProvider,
) -> bool {
    let whole = is_granted_whole(caller, entry);
    let own = match &entry.spec().access {
        Access::Rule(rule) => rule.resources.as_slice(),
        _ => &[],
    };
    // What the operation's own rule says of this kind and action lets through
    // here too; any other step takes the resource itself.
    let mut rules = own
        .iter()
        .filter(|rule| rule.kind == kind && rule.action == action);
    rules.any(|rule| is_held(caller, rule, whole, canonical, owners))
        || caller.identity().resources.holds(kind, action, canonical)
}

/// Whether a permit for `entry` may stand for this action on resources of this
/// kind: one that its own rule names, or any if the rule says nothing of the
/// kind.
pub(crate) fn is_own_action(entry: &Entry, kind: ResourceKind, action: &str) -> bool {
    let Access::Rule(rule) = &entry.spec().access else {
        return true;
    };
    let mut of_kind = rule.resources.iter().filter(|rule| rule.kind == kind);
    of_kind.clone().next().is_none() || of_kind.any(|rule| rule.action == action)
}

/// What the caller is told. Internal operations do not exist; an anonymous
/// caller learns nothing; a known one learns what is missing.
pub(crate) fn refusal(decision: Decision, caller: &Caller, entry: &Entry) -> Option<CallError> {
    let name = entry.spec().name.as_str();
    if !caller.is_authenticated() && !decision.is_allow() {
        return Some(unauthenticated());
    }
    let grant = grant_for(&decision, entry);
    let forbidden = |missing: String, details: Value| {
        let message = format!("`{}` may not call `{name}`: missing {missing}", caller.id());
        let mut full = json!({ "caller": caller.id(), "operation": name, "missing": details });
        if let Some(grant) = &grant {
            full["grant"] = json!(grant);
        }
        CallError::new(ErrorCode::Forbidden, message).with_details(full)
    };
    Some(match decision {
        Decision::Allow(_) => return None,
        Decision::Hidden => CallError::not_found(name),
        Decision::Unauthenticated => unauthenticated(),
        Decision::MissingScope(scopes) => {
            let all: Vec<String> = scopes.iter().map(|scope| format!("`{scope}`")).collect();
            forbidden(
                format!("scope {}", all.join(" or ")),
                json!({ "scopes": scopes }),
            )
        }
        Decision::MissingResource(resource) => forbidden(
            format!("resource `{resource}`"),
            json!({ "resource": resource }),
        ),
        Decision::NoResource(pointer) => forbidden(
            format!("resource: the input has no text at `{pointer}`"),
            json!({ "pointer": pointer }),
        ),
        Decision::BadResource { pointer, message } => CallError::invalid_field(pointer, message),
    })
}

/// The least that helps, as it is written on the command line; `None` if no
/// grant does, or if nobody knows yet which.
fn grant_for(decision: &Decision, entry: &Entry) -> Option<String> {
    let spec = entry.spec();
    match decision {
        Decision::MissingResource(resource) if !resource.contains(SOME) => Some(resource.clone()),
        // A grant of the whole operation would give every resource as well.
        Decision::MissingScope(scopes)
            if entry.way().is_some() || spec.access.names_resources() =>
        {
            scopes.first().map(ToString::to_string)
        }
        Decision::MissingScope(_) => Some(spec.name.to_string()),
        _ => None,
    }
}

/// Said to anonymous callers, whether or not the operation exists.
pub(crate) fn unauthenticated() -> CallError {
    CallError::new(ErrorCode::Unauthenticated, "this caller is not known here")
}
