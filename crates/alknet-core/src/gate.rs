//! The one function that decides, used by every path: calls, listing,
//! description, search, export, permits. Who asks why is told on the way
//! ([`telling`]).

mod telling;

use self::telling::{names_none, tell_probe, tell_resource, tell_rule, tell_way, visible};
use crate::{
    access::{Access, AccessControl, ResourceRule},
    api_key::KeyId,
    error::{CallError, ErrorCode},
    explain::{First, OfKey, Silent, Stage, Step, Tell},
    identity::{Caller, CallerKind, Identity},
    name::{OperationName, Scope},
    registry::Entry,
    resource::{
        AddressClass, ResourceKind, canonical_resource, canonical_socket, is_covered_by_whole,
        judged_socket, name_in,
    },
    spec::Visibility,
    storage::{NoOwnership, OwnershipProvider},
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

impl Ask<'_> {
    /// The same, to be asked of somebody else too.
    fn again(&mut self) -> Ask<'_> {
        match self {
            Ask::Probe => Ask::Probe,
            Ask::Enter => Ask::Enter,
            Ask::Input(input) => Ask::Input(input),
        }
    }
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
    /// The key that was presented may not, whether or not its peer may.
    NotOfKey(Box<Decision>),
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
    gate_told(caller, entry, ask, owners, &mut Silent)
}

/// [`gate`], with somebody who listens. What does not hang on the input is
/// told when the call enters, and only then.
pub(crate) fn gate_told<T: Tell>(
    caller: &Caller,
    entry: &Entry,
    ask: Ask<'_>,
    owners: &dyn OwnershipProvider,
    tell: &mut T,
) -> Decision {
    match decide(caller, entry, ask, owners, tell) {
        Ok(resources) => Decision::Allow(resources),
        Err(refused) => refused,
    }
}

fn decide<T: Tell>(
    caller: &Caller,
    entry: &Entry,
    mut ask: Ask<'_>,
    owners: &dyn OwnershipProvider,
    tell: &mut T,
) -> Result<Vec<String>, Decision> {
    let spec = entry.spec();
    let enters = !matches!(ask, Ask::Input(_));
    let mut first = First::none();
    // First: whoever may not use a peer is told the same of all it may offer.
    if let Some(refused) = peer_route(caller, entry, enters, tell) {
        first.refuse::<T>(refused)?;
    }
    // Only this node's own operations act under an authority.
    let is_internal = spec.visibility == Visibility::Internal;
    if is_internal && caller.kind() != CallerKind::Authority {
        let text = "is internal: only operations of this node reach it";
        tell.tell(|| Step::refuses(Stage::Visibility, text));
        first.refuse::<T>(Decision::Hidden)?;
        return first.end(Vec::new());
    }
    if enters {
        tell.tell(|| visible(is_internal));
    }
    let rule = match &spec.access {
        Access::Public => {
            tell.tell(|| Step::passes(Stage::Access, "anyone may call it"));
            return first.end(Vec::new());
        }
        _ if !caller.is_authenticated() => {
            tell.tell(|| Step::refuses(Stage::Access, "only known callers may call it"));
            first.refuse::<T>(Decision::Unauthenticated)?;
            return first.end(Vec::new());
        }
        Access::Authenticated => {
            tell.tell(|| Step::passes(Stage::Access, "any known caller may call it"));
            return first.end(Vec::new());
        }
        // Defence in depth: the registry refuses such a rule.
        Access::Rule(_) if spec.access.is_empty_rule() => {
            tell.tell(|| Step::refuses(Stage::Access, "its rule states nothing"));
            return Err(Decision::MissingScope(vec![spec.name.default_scope()]));
        }
        Access::Rule(rule) => rule,
    };
    let mut resources = Vec::new();
    // What the caller holds must do, and so must what its key allows of that. A
    // key that narrows owns nothing: it reaches what it says, no matter who
    // made it.
    let mut refused = None;
    for (depth, held) in caller.identity().layers().enumerate() {
        let ask = ask.again();
        let judged = match depth {
            0 => judge(held, entry, rule, ask, Some(owners), tell),
            _ => judge(held, entry, rule, ask, None, &mut OfKey(&mut *tell))
                .map_err(|refused| Decision::NotOfKey(Box::new(refused))),
        };
        match judged {
            Ok(judged) => resources = judged,
            // If neither may, the key is told: to grant its peer more would
            // not help.
            Err(judged) => refused = Some(judged),
        }
    }
    if let Some(refused) = refused {
        first.refuse::<T>(refused)?;
    }
    first.end(resources)
}

/// What the rule asks, of what somebody holds; without `owners`, of somebody
/// who owns nothing.
fn judge<T: Tell>(
    held: &Identity,
    entry: &Entry,
    rule: &AccessControl,
    ask: Ask<'_>,
    owners: Option<&dyn OwnershipProvider>,
    tell: &mut T,
) -> Result<Vec<String>, Decision> {
    let mut first = First::none();
    let whole = is_granted_whole(held, entry);
    if !matches!(ask, Ask::Input(_)) {
        tell_rule(held, entry, rule, whole, tell);
    }
    if !whole && let Some(missing) = missing_scopes(held, rule) {
        first.refuse::<T>(Decision::MissingScope(missing))?;
    }
    let resources = match ask {
        Ask::Probe => {
            let may_own = owners.is_some();
            tell_probe(held, rule, whole, may_own, tell);
            probe_resources(held, rule, whole, may_own)
        }
        Ask::Enter => Ok(Vec::new()),
        Ask::Input(input) => {
            let owners = owners.unwrap_or(&NoOwnership);
            check_resources(held, rule, whole, input, owners, tell)
        }
    };
    let resources = first.or::<_, T>(resources)?;
    first.end(resources.unwrap_or_default())
}

/// Whether the operation itself was granted, so that its own rule counts as
/// satisfied. Such grants name local operations; a peer's may have the same
/// name and is another one.
fn is_granted_whole(held: &Identity, entry: &Entry) -> bool {
    entry.peer().is_none() && held.operations.contains(&entry.spec().name)
}

/// An operation of a peer takes `peer:<id>` with an action that covers it; one
/// behind a peer takes the whole route, which `peer:<id>` alone does not cover.
fn peer_route<T: Tell>(
    caller: &Caller,
    entry: &Entry,
    enters: bool,
    tell: &mut T,
) -> Option<Decision> {
    let way = entry.way()?;
    let name = &entry.spec().name;
    let may_go = may_go(caller, way, name);
    for (depth, held) in caller.identity().layers().enumerate() {
        match depth {
            _ if !enters => {}
            0 => tell.tell(|| tell_way(held, way, name)),
            _ => OfKey(&mut *tell).tell(|| tell_way(held, way, name)),
        }
    }
    if may_go {
        return None;
    }
    // Whoever may not use a peer does not learn what it offers.
    let missing = Decision::MissingResource(way_resource(way, name));
    Some(match caller.is_authenticated() {
        true if lacks_of_key(caller, way, name) => Decision::NotOfKey(Box::new(missing)),
        true => missing,
        false => Decision::Unauthenticated,
    })
}

/// Whether `caller` may call `name` at the end of a route.
pub(crate) fn may_go(caller: &Caller, way: &str, name: &OperationName) -> bool {
    let (kind, action) = (ResourceKind::Peer, name.as_str());
    caller.identity().holds(kind, action, way)
}

/// Whether, of those who may not, it is the key that may not, whatever its peer
/// is given.
fn lacks_of_key(caller: &Caller, way: &str, name: &OperationName) -> bool {
    let action = name.as_str();
    let mut ceilings = caller.identity().layers().skip(1);
    let holds = |held: &Identity| held.resources.holds(ResourceKind::Peer, action, way);
    caller.key().is_some() && ceilings.any(|held| !holds(held))
}

/// What is told to whoever may not: the same whether the peers exist or not.
pub(crate) fn no_way(caller: &Caller, way: &str, name: &OperationName) -> CallError {
    let missing = way_resource(way, name);
    let key = caller.key().filter(|_| lacks_of_key(caller, way, name));
    let text = format!("resource `{missing}`");
    let details = json!({ "resource": missing });
    may_not(caller, key, name, &text, details, Some(&missing))
}

/// A known caller learns what is missing, and what would give it: to a key
/// that is narrower than its peer, nothing that the peer is given does.
fn may_not(
    caller: &Caller,
    key: Option<&KeyId>,
    name: &OperationName,
    missing: &str,
    details: Value,
    grant: Option<&String>,
) -> CallError {
    let id = caller.id();
    let who = match key {
        Some(key) => format!("key `{key}` of `{id}`"),
        None => format!("`{id}`"),
    };
    let message = format!("{who} may not call `{name}`: missing {missing}");
    let mut full = json!({ "caller": id, "operation": name, "missing": details });
    match (key, grant) {
        (Some(key), _) => full["key"] = json!(key),
        (None, Some(grant)) => full["grant"] = json!(grant),
        (None, None) => {}
    }
    CallError::new(ErrorCode::Forbidden, message).with_details(full)
}

fn way_resource(way: &str, name: &OperationName) -> String {
    format!("peer:{way}={name}")
}

fn missing_scopes(held: &Identity, rule: &AccessControl) -> Option<Vec<Scope>> {
    let scopes = &held.scopes;
    if let Some(missing) = rule.scopes_all.iter().find(|scope| !scopes.holds(scope)) {
        return Some(vec![missing.clone()]);
    }
    let any = &rule.scopes_any;
    (!any.is_empty() && !any.iter().any(|scope| scopes.holds(scope))).then(|| any.clone())
}

fn probe_resources(
    held: &Identity,
    rule: &AccessControl,
    whole: bool,
    may_own: bool,
) -> Result<Vec<String>, Decision> {
    let resources = &held.resources;
    let missing = rule.resources.iter().find(|rule| {
        let might_own = may_own && rule.owner;
        !whole && !might_own && !resources.might_hold(rule.kind, &rule.action)
    });
    match missing {
        Some(rule) => {
            let missing = format!("{}:{SOME}={}", rule.kind, rule.action);
            Err(Decision::MissingResource(missing))
        }
        None => Ok(Vec::new()),
    }
}

fn check_resources<T: Tell>(
    held: &Identity,
    rule: &AccessControl,
    whole: bool,
    input: &mut Value,
    owners: &dyn OwnershipProvider,
    tell: &mut T,
) -> Result<Vec<String>, Decision> {
    let mut first = First::none();
    let mut checked = Vec::new();
    for rule in &rule.resources {
        let mut absent = rule.absent.clone().map(Value::String);
        let texts: Vec<&mut Value> = match rule.at.find(input) {
            Some(text @ Value::String(_)) => vec![text],
            Some(Value::Array(items)) if !items.is_empty() => items.iter_mut().collect(),
            // Nothing there, which the operation says the meaning of.
            None if absent.is_some() => absent.iter_mut().collect(),
            _ => {
                tell.tell(|| names_none(rule));
                first.refuse::<T>(Decision::NoResource(rule.at.as_str().into()))?;
                continue;
            }
        };
        for text in texts {
            let one = check_one(held, rule, whole, text, owners, tell);
            checked.extend(first.or::<_, T>(one)?);
        }
    }
    first.end(checked)
}

fn check_one<T: Tell>(
    held: &Identity,
    rule: &ResourceRule,
    whole: bool,
    text: &mut Value,
    owners: &dyn OwnershipProvider,
    tell: &mut T,
) -> Result<String, Decision> {
    let Value::String(text) = text else {
        tell.tell(|| names_none(rule));
        return Err(Decision::NoResource(rule.at.as_str().into()));
    };
    let canonical = canonical_resource(rule.kind, text).map_err(|error| {
        tell.tell(|| Step::refuses(Stage::Resource, error.to_string()).at(rule.at.as_str()));
        Decision::BadResource {
            pointer: rule.at.as_str().into(),
            message: error.to_string(),
        }
    })?;
    let named = format!("{}:{canonical}={}", rule.kind, rule.action);
    let let_in = let_in(held, rule, whole, &canonical, owners).or_else(|| {
        (rule.resolves && might_resolve(held, rule, &canonical)).then_some(LetIn::MayResolve)
    });
    tell.tell(|| tell_resource(held, rule, &canonical, &named, let_in));
    if let_in.is_none() {
        return Err(Decision::MissingResource(named));
    }
    // The handler reads what was checked, not what was sent.
    *text = canonical;
    Ok(named)
}

/// Why a resource is let through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LetIn {
    /// It is held.
    Held,
    /// The whole operation was granted.
    Whole,
    /// The caller made it.
    Owner,
    /// It is a name, and an address is held that it might resolve to.
    MayResolve,
}

/// Deny wins over everything, a grant of the whole operation and ownership
/// included.
fn let_in(
    held: &Identity,
    rule: &ResourceRule,
    whole: bool,
    canonical: &str,
    owners: &dyn OwnershipProvider,
) -> Option<LetIn> {
    let Identity { id, resources, .. } = held;
    let (kind, action) = (rule.kind, rule.action.as_str());
    if resources.holds(kind, action, canonical) {
        return Some(LetIn::Held);
    }
    let whole = whole && (kind != ResourceKind::Net || is_covered_by_whole(action, canonical));
    let instead = if whole {
        Some(LetIn::Whole)
    } else {
        (rule.owner && owners.owns(id, kind, canonical)).then_some(LetIn::Owner)
    };
    instead.filter(|_| !resources.denies(kind, action, canonical))
}

fn is_held(
    held: &Identity,
    rule: &ResourceRule,
    whole: bool,
    canonical: &str,
    owners: &dyn OwnershipProvider,
) -> bool {
    let_in(held, rule, whole, canonical, owners).is_some()
}

/// Whether a name is let through to be resolved: the handler asks again for
/// each address, with [`step_resolved`].
fn might_resolve(held: &Identity, rule: &ResourceRule, canonical: &str) -> bool {
    let resources = &held.resources;
    name_in(canonical).is_some()
        && resources.might_hold_resolved(&rule.action, canonical)
        && !resources.denies(rule.kind, &rule.action, canonical)
}

/// Why a step is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
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
) -> Result<(), StepRefused> {
    refused_last(caller, |depth, held| {
        let owners = owners_of(depth, owners);
        resolved_of(held, entry, action, asked, address, owners).err()
    })
}

/// [`step_resolved`], of what somebody holds.
fn resolved_of(
    held: &Identity,
    entry: &Entry,
    action: &str,
    asked: &str,
    address: SocketAddr,
    owners: &dyn OwnershipProvider,
) -> Result<(), Refused> {
    let kind = ResourceKind::Net;
    let resources = &held.resources;
    let resolved = canonical_socket(address);
    for text in [asked, resolved.as_str()] {
        if let Some(grant) = resources.barred_by(kind, action, text) {
            return Err(Refused::Denied(format!("!{grant}")));
        }
    }
    let name = name_in(asked);
    let fits = |name: &String| AddressClass::of(address.ip()).fits_name(name);
    let name_fits = name.as_ref().is_some_and(fits);
    if step_of(held, entry, kind, action, &resolved, owners)
        || (name_fits && resources.holds(kind, action, asked))
    {
        return Ok(());
    }
    let missing = if name_fits {
        asked
    } else {
        &judged_socket(address)
    };
    Err(Refused::Missing(format!("{kind}:{missing}={action}")))
}

/// Whose things count: a key that narrows its peer owns nothing.
fn owners_of(depth: usize, owners: &dyn OwnershipProvider) -> &dyn OwnershipProvider {
    match depth {
        0 => owners,
        _ => &NoOwnership,
    }
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
) -> Result<(), StepRefused> {
    refused_last(caller, |depth, held| {
        let owners = owners_of(depth, owners);
        let passes = step_of(held, entry, kind, action, canonical, owners);
        (!passes).then(|| Refused::Missing(format!("{kind}:{canonical}={action}")))
    })
}

/// The last refusal of a step, by what somebody holds or by what their key
/// allows of it. If neither lets it through the key is told: to grant its peer
/// more would not help.
fn refused_last(
    caller: &Caller,
    refuses: impl Fn(usize, &Identity) -> Option<Refused>,
) -> Result<(), StepRefused> {
    let layers = caller.identity().layers().enumerate();
    let refused = layers.filter_map(|(depth, held)| {
        let why = refuses(depth, held)?;
        let is_of_key = depth > 0;
        Some(StepRefused { is_of_key, why })
    });
    match refused.last() {
        Some(refused) => Err(refused),
        None => Ok(()),
    }
}

/// A step that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StepRefused {
    /// Whether it is the presented key that may not, whatever its peer may.
    pub(crate) is_of_key: bool,
    pub(crate) why: Refused,
}

/// [`step`], of what somebody holds.
fn step_of(
    held: &Identity,
    entry: &Entry,
    kind: ResourceKind,
    action: &str,
    canonical: &str,
    owners: &dyn OwnershipProvider,
) -> bool {
    let whole = is_granted_whole(held, entry);
    let own = match &entry.spec().access {
        Access::Rule(rule) => rule.resources.as_slice(),
        _ => &[],
    };
    // What the operation's own rule says of this kind and action lets through
    // here too; any other step takes the resource itself.
    let mut rules = own
        .iter()
        .filter(|rule| rule.kind == kind && rule.action == action);
    rules.any(|rule| is_held(held, rule, whole, canonical, owners))
        || held.resources.holds(kind, action, canonical)
}

/// [`step`] on a file and on whatever may lie below it.
pub(crate) fn step_tree(
    caller: &Caller,
    entry: &Entry,
    action: &str,
    file: &str,
) -> Result<(), StepRefused> {
    refused_last(caller, |_, held| {
        if let Some(grant) = held.resources.barred_within(action, file) {
            return Some(Refused::Denied(format!("!{grant}")));
        }
        let whole = is_granted_whole(held, entry) && names_action(entry, action);
        let passes = whole || held.resources.holds_tree(action, file);
        (!passes).then(|| Refused::Missing(format!("bucket:{file}/**={action}")))
    })
}

/// Whether a step on a file, or on something that may lie below it, might pass.
pub(crate) fn might_step_within(caller: &Caller, entry: &Entry, action: &str, file: &str) -> bool {
    caller.identity().layers().all(|held| {
        (is_granted_whole(held, entry) && names_action(entry, action))
            || held.resources.might_hold_within(action, file)
    })
}

/// Whether the rule of `entry` names this action on buckets.
fn names_action(entry: &Entry, action: &str) -> bool {
    let Access::Rule(rule) = &entry.spec().access else {
        return false;
    };
    let mut rules = rule.resources.iter();
    rules.any(|rule| rule.kind == ResourceKind::Bucket && rule.action == action)
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
    let (decision, key) = match decision {
        Decision::NotOfKey(refused) => (*refused, caller.key()),
        refused => (refused, None),
    };
    let grant = grant_for(&decision, entry);
    let forbidden = |missing: String, details: Value| {
        let name = &entry.spec().name;
        may_not(caller, key, name, &missing, details, grant.as_ref())
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
        Decision::MissingResource(resource) => match denial(caller, &resource) {
            Some(denied) => is_denied(caller, key, name, &denied),
            None => forbidden(
                format!("resource `{resource}`"),
                json!({ "resource": resource }),
            ),
        },
        Decision::NoResource(pointer) => forbidden(
            format!("resource: the input has no text at `{pointer}`"),
            json!({ "pointer": pointer }),
        ),
        Decision::BadResource { pointer, message } => CallError::invalid_field(pointer, message),
        // Unwrapped above.
        Decision::NotOfKey(_) => unauthenticated(),
    })
}

/// The denial that keeps `kind:resource=action` from a caller, whatever else it
/// is given, as it is written on the command line.
fn denial(caller: &Caller, resource: &str) -> Option<String> {
    let (kind, rest) = resource.split_once(':')?;
    let (canonical, action) = rest.rsplit_once('=')?;
    let kind = ResourceKind::parse(kind)?;
    let mut layers = caller.identity().layers();
    layers.find_map(|held| {
        let grant = held.resources.barred_by(kind, action, canonical)?;
        Some(format!("!{grant}"))
    })
}

/// No grant helps: the denial has to go.
fn is_denied(caller: &Caller, key: Option<&KeyId>, name: &str, denied: &str) -> CallError {
    let id = caller.id();
    let mut details = json!({ "caller": id, "operation": name, "denied": denied });
    let who = match key {
        Some(key) => {
            details["key"] = json!(key);
            format!("key `{key}` of `{id}`")
        }
        None => format!("`{id}`"),
    };
    let message = format!("{who} may not call `{name}`: denied by `{denied}`");
    CallError::new(ErrorCode::Forbidden, message).with_details(details)
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
