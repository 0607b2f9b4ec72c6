//! The gate against a model that is written without looking at it.

use crate::world::{World, echo, name};
use alknet_core::{
    Access, AccessControl, CallError, Caller, Change, ErrorCode, JsonPointer, Operation, PeerId,
    ResourceKind, ResourceRule, Scope, storage::OwnershipProvider,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

const SCOPES: &[&str] = &["a:x", "a:y", "b:x"];
const HELD: &[&str] = &["*", "a:*", "b:*", "a:x", "a:y", "b:x", "c:z"];
const PATTERNS: &[&str] = &[
    "*", "p", "p/**", "p/*", "p/a", "p/a/**", "p/*/b", "q/**", "q/a*", "q@v/**",
];
const ACTIONS: &[&str] = &["read", "write", "*"];
const TEXTS: &[&str] = &[
    "p", "p/a", "p//a/", "p/a/b", "p/b", "q", "q/ab", "q@v/a", "p/../q", ".", "q/./a", "P/a",
];
const OWNED: &str = "q/ab";

/// `bob` made one thing.
struct Bob;
impl OwnershipProvider for Bob {
    fn owns(&self, owner: &PeerId, kind: ResourceKind, resource: &str) -> bool {
        owner.as_str() == "bob" && kind == ResourceKind::Bucket && resource == OWNED
    }
}

#[derive(Clone, Debug)]
struct Case {
    all: Vec<&'static str>,
    any: Vec<&'static str>,
    rules: Vec<(&'static str, &'static str, bool)>,
    held: Vec<&'static str>,
    allow: Vec<(&'static str, &'static str)>,
    deny: Vec<(&'static str, &'static str)>,
    whole: bool,
    known: bool,
    one: Value,
    many: Value,
}

fn some_of(of: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(prop::sample::select(of), 0..=most)
}

fn grants() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    let grant = (
        prop::sample::select(PATTERNS),
        prop::sample::select(ACTIONS),
    );
    prop::collection::vec(grant, 0..3)
}

fn case() -> impl Strategy<Value = Case> {
    let text = || prop::sample::select(TEXTS).prop_map(Value::from);
    let one = prop_oneof![8 => text(), 1 => Just(json!(7)), 1 => Just(Value::Null)];
    let many = prop_oneof![
        8 => prop::collection::vec(text(), 0..4).prop_map(Value::from),
        1 => text(),
        1 => Just(json!(["p/a", 7])),
    ];
    let rule = (
        prop::sample::select(&["/one", "/many", "/none"][..]),
        prop::sample::select(&["read", "write"][..]),
        any::<bool>(),
    );
    (
        (
            some_of(SCOPES, 2),
            some_of(SCOPES, 2),
            prop::collection::vec(rule, 0..3),
        ),
        (
            some_of(HELD, 3),
            grants(),
            grants(),
            prop::bool::weighted(0.2),
            prop::bool::weighted(0.9),
        ),
        (one, many),
    )
        .prop_map(
            |((all, any, rules), (held, allow, deny, whole, known), (one, many))| Case {
                all,
                any,
                rules,
                held,
                allow,
                deny,
                whole,
                known,
                one,
                many,
            },
        )
}

#[derive(Debug, PartialEq)]
enum Told {
    Runs(Value),
    Nobody,
    No,
    /// Some text is no resource; which of several troubles is named first is
    /// not the model's business.
    NoOrInvalid,
}

/// The model.
fn model(case: &Case) -> Told {
    if !case.known {
        return Told::Nobody;
    }
    if case.all.is_empty() && case.any.is_empty() && case.rules.is_empty() {
        unreachable!("such a rule is not registered");
    }
    let holds = |scope: &&str| {
        case.held.iter().any(|held| match held.strip_suffix('*') {
            Some(start) => scope.starts_with(start),
            None => held == scope,
        })
    };
    let scopes = case.all.iter().all(holds) && (case.any.is_empty() || case.any.iter().any(holds));
    if !scopes && !case.whole {
        return Told::No;
    }
    let mut input = json!({ "one": case.one, "many": case.many });
    let (mut refused, mut bad) = (false, false);
    for (at, action, owner) in &case.rules {
        let field = at.trim_start_matches('/');
        let texts: Vec<Value> = match input.get(field) {
            Some(Value::Array(items)) if !items.is_empty() => items.clone(),
            Some(text @ Value::String(_)) => vec![text.clone()],
            _ => {
                refused = true;
                continue;
            }
        };
        let mut seen = Vec::new();
        for text in texts {
            let Value::String(text) = text else {
                refused = true;
                continue;
            };
            let Some(name) = canonical(&text) else {
                bad = true;
                continue;
            };
            let covered = |grants: &[(&str, &str)]| {
                grants.iter().any(|(pattern, held)| {
                    (*held == "*" || held == action) && matches(pattern, &name)
                })
            };
            let owned = *owner && name == OWNED;
            refused |= covered(&case.deny) || !(covered(&case.allow) || case.whole || owned);
            seen.push(Value::from(name));
        }
        if !refused && !bad {
            input[field] = if input[field].is_array() {
                Value::from(seen)
            } else {
                seen.remove(0)
            };
        }
    }
    match (refused, bad) {
        (_, true) => Told::NoOrInvalid,
        (true, false) => Told::No,
        (false, false) => Told::Runs(input),
    }
}

fn canonical(text: &str) -> Option<String> {
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
    let climbs = parts.iter().any(|part| *part == "." || *part == "..");
    let head_is_lowercase = parts
        .first()?
        .chars()
        .all(|c| c.is_ascii_lowercase() || c == '@');
    (!climbs && head_is_lowercase).then(|| parts.join("/"))
}

fn matches(pattern: &str, name: &str) -> bool {
    fn segments(pattern: &[&str], name: &[&str]) -> bool {
        match pattern {
            [] => name.is_empty(),
            ["**"] => true,
            [first, rest @ ..] => {
                name.first().is_some_and(|head| letters(first, head)) && segments(rest, &name[1..])
            }
        }
    }
    fn letters(pattern: &str, text: &str) -> bool {
        match pattern.split_once('*') {
            None => pattern == text,
            Some((start, "")) => text.starts_with(start),
            Some(_) => unreachable!("no such pattern above"),
        }
    }
    pattern == "*"
        || segments(
            &pattern.split('/').collect::<Vec<_>>(),
            &name.split('/').collect::<Vec<_>>(),
        )
}

fn access(case: &Case) -> Access {
    let scopes = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| Scope::parse(text).unwrap())
            .collect()
    };
    let rules = case.rules.iter().map(|(at, action, owner)| ResourceRule {
        kind: ResourceKind::Bucket,
        action: (*action).into(),
        at: JsonPointer::parse(at).unwrap(),
        owner: *owner,
        absent: None,
        resolves: false,
    });
    Access::Rule(AccessControl {
        scopes_all: scopes(&case.all),
        scopes_any: scopes(&case.any),
        resources: rules.collect(),
    })
}

thread_local! {
    /// One node for all cases: only its operation and its caller change.
    static WORLD: World = World::with(vec![operation(Access::Public)], |door| door.owners(Arc::new(Bob)));
}

fn operation(access: Access) -> alknet_core::Registration {
    Operation::query("demo/thing", "Answers with its input.")
        .access(access)
        .raw(echo())
}

fn told(case: &Case) -> (Result<Value, CallError>, bool) {
    WORLD.with(|world| told_by(world, case))
}

fn told_by(world: &World, case: &Case) -> (Result<Value, CallError>, bool) {
    let replace = Change::ReplaceLocal {
        remove: vec![name("demo/thing")],
        add: vec![operation(access(case))],
    };
    world.registry.apply(replace).unwrap();
    let mut grants: Vec<String> = case.held.iter().map(ToString::to_string).collect();
    grants.extend(
        case.allow
            .iter()
            .map(|(pattern, action)| format!("bucket:{pattern}={action}")),
    );
    grants.extend(
        case.deny
            .iter()
            .map(|(pattern, action)| format!("!bucket:{pattern}={action}")),
    );
    grants.extend(case.whole.then(|| "demo/thing".to_owned()));
    let grants: Vec<&str> = grants.iter().map(String::as_str).collect();
    let caller = if case.known {
        world.caller("bob", &grants)
    } else {
        Caller::anonymous()
    };
    let view = world.registry.view();
    let mut entries = view
        .local()
        .filter(|entry| entry.spec().name == name("demo/thing"));
    let listed = world.door.may_see(&caller, entries.next().unwrap());
    let input = json!({ "one": case.one, "many": case.many });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    (
        runtime.block_on(world.call(&caller, "demo/thing", input)),
        listed,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn the_gate_decides_as_the_model(case in case().prop_filter("a rule that states nothing", |case| {
        !(case.all.is_empty() && case.any.is_empty() && case.rules.is_empty())
    })) {
        let (outcome, listed) = told(&case);
        match (model(&case), outcome) {
            (Told::Runs(want), Ok(got)) => {
                prop_assert_eq!(want, got);
                prop_assert!(listed, "what can be called is listed");
            }
            (Told::Nobody, Err(error)) => prop_assert!(error.is(ErrorCode::Unauthenticated), "{}", error),
            (Told::No, Err(error)) => prop_assert!(error.is(ErrorCode::Forbidden), "{}", error),
            (Told::NoOrInvalid, Err(error)) => {
                prop_assert!(error.is(ErrorCode::Forbidden) || error.is(ErrorCode::InvalidInput), "{}", error);
            }
            (want, got) => prop_assert!(false, "model {:?}, door {:?}", want, got),
        }
    }
}

#[test]
fn the_model_has_seen_every_outcome() {
    // A generator that only ever makes refusals would prove nothing.
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut runs, mut refused, mut invalid) = (0, 0, 0);
    for _ in 0..2_000 {
        let case = proptest::strategy::ValueTree::current(&case().new_tree(&mut runner).unwrap());
        if case.all.is_empty() && case.any.is_empty() && case.rules.is_empty() {
            continue;
        }
        match model(&case) {
            Told::Runs(_) => runs += usize::from(!case.rules.is_empty()),
            Told::No | Told::Nobody => refused += 1,
            Told::NoOrInvalid => invalid += 1,
        }
    }
    assert!(
        runs > 50 && refused > 200 && invalid > 50,
        "{runs} {refused} {invalid}"
    );
}
