//! The door against a model of it: a rule, a caller and an input made of the
//! bytes, decided by both.

use super::{MIB, Target, models};
use crate::{note, source::Source};
use alknet_core::{
    Access, AccessControl, Call, CallError, Caller, Change, Credential, Dispatcher, ErrorCode,
    GrantTarget, Grants, Handler, Identity, JsonPointer, Limits, Operation, OperationName, Output,
    PeerId, Registration, Registry, ResourceKind, ResourceRule, RoleSet, Scope, StaticIdentities,
    storage::OwnershipProvider,
};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::runtime::Runtime;

pub(super) const ACCESS: Target = Target {
    name: "access",
    about: "Who may call with what input is what the rule, the grants and the denials say.",
    run: access,
    seeds,
    tokens: &[
        &[0, 0],
        &[1, 1, 1],
        &[2, 0, 1],
        &[3, 4, 5],
        &[0xff],
        &[7, 7, 7, 7],
    ],
    bytes_max: 128,
    held_max: 8 * MIB,
};

const NAME: &str = "demo/thing";
const SCOPES: &[&str] = &["a:x", "a:y", "b:x", "demo:thing"];
const HELD: &[&str] = &["*", "a:*", "a:x", "a:y", "b:x", "c:z", "demo:*"];
const ACTIONS: &[&str] = &["read", "write"];
const GRANTED: &[&str] = &["read", "write", "*"];
const POINTERS: &[&str] = &["/one", "/many", "/in/side", "/none"];
const PLACES: &[(ResourceKind, &[&str], &[&str])] = &[
    (
        ResourceKind::Bucket,
        &["*", "p", "p/**", "p/*", "p/*/b", "q/**", "q/a*", "q@v/**"],
        &[
            "p", "p/a", "p//a/", "p/a/b", "q", "q/ab", "q@v/a", "p/../q", ".", "P/a", "p/\u{0}",
        ],
    ),
    (
        ResourceKind::Net,
        &[
            "*",
            "10.0.0.0/8",
            "10.1.2.3:80",
            "*:22",
            "[::ffff:10.0.0.0/104]:80",
            "[::1]:80",
            "127.0.0.0/8:1-90",
        ],
        &[
            "10.1.2.3:80",
            "[::ffff:10.1.2.3]:80",
            "11.0.0.1:22",
            "[::1]:80",
            "127.0.0.1:90",
            "127.1:80",
            "10.1.2.3",
        ],
    ),
    (
        ResourceKind::Command,
        &["*", "git", "git-*", "/usr/bin/*"],
        &[
            "git",
            "git-upload-pack",
            "/usr/bin/git",
            "/usr/../bin/x",
            "./git",
            "cat",
        ],
    ),
    (
        ResourceKind::Topic,
        &["*", "t", "t/*", "t/**"],
        &["t", "t/a", "t/a/b", "t//a", "u"],
    ),
];
const OWNED: &str = "q/ab";

struct Rule {
    kind: ResourceKind,
    action: &'static str,
    at: &'static str,
    owner: bool,
    /// Stands for an input that names nothing.
    absent: Option<&'static str>,
}

struct Held {
    kind: ResourceKind,
    pattern: &'static str,
    action: &'static str,
}

struct Case {
    caller: u8,
    internal: bool,
    public: u8,
    all: Vec<&'static str>,
    any: Vec<&'static str>,
    rules: Vec<Rule>,
    scopes: Vec<&'static str>,
    allow: Vec<Held>,
    deny: Vec<Held>,
    whole: bool,
    input: Value,
}

fn some(source: &mut Source<'_>, of: &[&'static str], most: usize) -> Vec<&'static str> {
    (0..source.below(most + 1))
        .map(|_| source.pick(of))
        .collect()
}

fn held(source: &mut Source<'_>, kinds: &[usize]) -> Vec<Held> {
    let count = source.below(3);
    let one = |_| {
        let (kind, patterns, _) = PLACES[source.pick(kinds)];
        Held {
            kind,
            pattern: source.pick(patterns),
            action: source.pick(GRANTED),
        }
    };
    (0..count).map(one).collect()
}

impl Case {
    fn of(source: &mut Source<'_>) -> Self {
        let flags = source.byte();
        let main = source.below(PLACES.len());
        // Mostly of one kind, so that rules and grants meet.
        let kinds = [main, main, main, source.below(PLACES.len())];
        let mut rules = Vec::new();
        for _ in 0..source.below(3) {
            let (kind, _, texts) = PLACES[source.pick(&kinds)];
            rules.push(Rule {
                kind,
                action: source.pick(ACTIONS),
                at: source.pick(POINTERS),
                owner: source.flag(),
                // The first text of each kind is canonical.
                absent: source.one_in(4).then_some(texts[0]),
            });
        }
        let texts = PLACES[main].2;
        let one = |source: &mut Source<'_>| match source.below(12) {
            10 => json!(7),
            11 => Value::Null,
            _ => json!(source.pick(texts)),
        };
        let many = (0..source.below(4)).map(|_| one(source)).collect();
        let many = if source.one_in(8) {
            one(source)
        } else {
            Value::Array(many)
        };
        Self {
            caller: flags & 7,
            internal: flags & 0x38 == 0x38,
            public: flags >> 6,
            all: some(source, SCOPES, 2),
            any: some(source, SCOPES, 2),
            scopes: some(source, HELD, 3),
            allow: held(source, &kinds),
            deny: held(source, &kinds),
            whole: source.one_in(4),
            input: json!({ "one": one(source), "many": many, "in": { "side": one(source) } }),
            rules,
        }
    }

    /// A rule that states nothing cannot be registered; nor can one that is
    /// public and internal.
    fn is_empty(&self) -> bool {
        self.all.is_empty() && self.any.is_empty() && self.rules.is_empty()
    }

    fn access(&self) -> Access {
        let scopes = |texts: &[&str]| -> Vec<Scope> {
            texts
                .iter()
                .map(|text| Scope::parse(text).expect("a literal"))
                .collect()
        };
        match self.public {
            1 => Access::Public,
            2 => Access::Authenticated,
            _ => Access::Rule(AccessControl {
                scopes_all: scopes(&self.all),
                scopes_any: scopes(&self.any),
                resources: self
                    .rules
                    .iter()
                    .map(|rule| ResourceRule {
                        kind: rule.kind,
                        action: rule.action.into(),
                        at: JsonPointer::parse(rule.at).expect("a literal"),
                        owner: rule.owner,
                        absent: rule.absent.map(ToOwned::to_owned),
                        resolves: false,
                    })
                    .collect(),
            }),
        }
    }

    /// Whether one text would be two kinds of thing, which the registry refuses.
    fn reads_twice(&self) -> bool {
        let mut rules = self.rules.iter().enumerate();
        rules.any(|(at, rule)| {
            let mut others = self.rules.iter().skip(at + 1);
            others.any(|other| other.at == rule.at && other.kind != rule.kind)
        })
    }

    fn grants(&self) -> Grants {
        let resource = |held: &Held| format!("{}:{}={}", held.kind, held.pattern, held.action);
        let mut texts: Vec<String> = self.scopes.iter().map(ToString::to_string).collect();
        texts.extend(self.allow.iter().map(resource));
        texts.extend(self.deny.iter().map(|held| format!("!{}", resource(held))));
        texts.extend(self.whole.then(|| NAME.to_owned()));
        texts
            .iter()
            .map(|text| GrantTarget::parse(text).expect("of literals"))
            .collect()
    }
}

/// What becomes of a call.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Told {
    /// It runs, with this input.
    Runs(String),
    Nobody,
    Hidden,
    Forbidden,
    Invalid,
}

/// What a caller is.
#[derive(Clone, Copy, PartialEq)]
enum Who {
    Nobody,
    Peer,
    Authority,
}

impl Case {
    fn who(&self) -> Who {
        match self.caller {
            7 => Who::Nobody,
            6 => Who::Authority,
            _ => Who::Peer,
        }
    }

    /// The model.
    fn model(&self) -> Told {
        let who = self.who();
        if self.internal && who != Who::Authority {
            // To whom nobody knows, nothing is told.
            return if who == Who::Nobody {
                Told::Nobody
            } else {
                Told::Hidden
            };
        }
        if self.public == 1 {
            return Told::Runs(self.input.to_string());
        }
        if who == Who::Nobody {
            return Told::Nobody;
        }
        if self.public == 2 {
            return Told::Runs(self.input.to_string());
        }
        let holds = |required: &&str| {
            self.scopes
                .iter()
                .any(|held| models::scope_covers(held, required))
        };
        let scopes =
            self.all.iter().all(holds) && (self.any.is_empty() || self.any.iter().any(holds));
        if !scopes && !self.whole {
            return Told::Forbidden;
        }
        let mut input = self.input.clone();
        for rule in &self.rules {
            if let Err(told) = self.apply(rule, &mut input) {
                return told;
            }
        }
        Told::Runs(input.to_string())
    }

    fn apply(&self, rule: &Rule, input: &mut Value) -> Result<(), Told> {
        let found = rule
            .at
            .split('/')
            .skip(1)
            .try_fold(input, |value, key| value.get_mut(key));
        let mut absent = rule.absent.map(Value::from);
        let texts: Vec<&mut Value> = match found {
            None => absent.iter_mut().collect(),
            Some(Value::Array(items)) if !items.is_empty() => items.iter_mut().collect(),
            Some(text) if text.is_string() => vec![text],
            _ => return Err(Told::Forbidden),
        };
        if texts.is_empty() {
            return Err(Told::Forbidden);
        }
        for text in texts {
            let Value::String(text) = text else {
                return Err(Told::Forbidden);
            };
            let name = canonical(rule.kind, text).ok_or(Told::Invalid)?;
            let hits = |held: &Held| {
                held.kind == rule.kind
                    && (held.action == "*" || held.action == rule.action)
                    && covers(held, &name)
            };
            let owned = rule.owner
                && rule.kind == ResourceKind::Bucket
                && name == OWNED
                && self.who() == Who::Peer;
            // Granted whole, it reaches the internet and not the network here.
            let whole = self.whole && (rule.kind != ResourceKind::Net || name == "11.0.0.1:22");
            let allowed = self.allow.iter().any(hits) || whole || owned;
            if !allowed || self.deny.iter().any(hits) {
                return Err(Told::Forbidden);
            }
            *text = name;
        }
        Ok(())
    }
}

/// The texts above, as they are meant.
fn canonical(kind: ResourceKind, text: &str) -> Option<String> {
    let known = match (kind, text) {
        (ResourceKind::Net, "10.1.2.3:80" | "[::ffff:10.1.2.3]:80") => "10.1.2.3:80",
        (ResourceKind::Net, "11.0.0.1:22" | "[::1]:80" | "127.0.0.1:90") => text,
        (ResourceKind::Net, _) => return None,
        (ResourceKind::Command, "/usr/bin/git") => text,
        (ResourceKind::Command, _) if text.contains(['/', '\0']) || text == "." => return None,
        (ResourceKind::Command, _) => text,
        (ResourceKind::Topic, _) => {
            let word = |part: &String| {
                !matches!(part.as_str(), "" | "." | "..")
                    && part
                        .chars()
                        .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            };
            return models::parts(text, '/')
                .iter()
                .all(word)
                .then(|| text.to_owned());
        }
        _ => return bucket(text),
    };
    Some(known.to_owned())
}

fn bucket(text: &str) -> Option<String> {
    let parts: Vec<String> = models::parts(text, '/');
    let head = parts.first()?;
    let word = |text: &str| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-'))
    };
    let fine = match head.split_once('@') {
        Some((bucket, branch)) => word(bucket) && word(branch),
        None => word(head),
    };
    let kept: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let climbs = kept.iter().any(|part| part == "." || part == "..");
    (fine && !climbs && !text.contains('\0')).then(|| kept.join("/"))
}

fn covers(held: &Held, name: &str) -> bool {
    match held.kind {
        _ if held.pattern == "*" => true,
        ResourceKind::Net => matches!(
            (held.pattern, name),
            (
                "10.0.0.0/8" | "10.1.2.3:80" | "[::ffff:10.0.0.0/104]:80",
                "10.1.2.3:80"
            ) | ("*:22", "11.0.0.1:22")
                | ("[::1]:80", "[::1]:80")
                | ("127.0.0.0/8:1-90", "127.0.0.1:90")
        ),
        ResourceKind::Command => match held.pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == held.pattern,
        },
        _ => models::path_covers(held.pattern, name),
    }
}

/// `bob` made one thing.
struct Bob;

impl OwnershipProvider for Bob {
    fn owns(&self, owner: &PeerId, kind: ResourceKind, resource: &str) -> bool {
        owner.as_str() == "bob" && kind == ResourceKind::Bucket && resource == OWNED
    }
}

struct World {
    runtime: Runtime,
    registry: Registry,
    identities: Arc<StaticIdentities>,
    door: Dispatcher,
}

thread_local! {
    static WORLD: World = World::new();
}

impl World {
    fn new() -> Self {
        let (registry, identities) = (Registry::new(), Arc::new(StaticIdentities::default()));
        let first = Operation::query(NAME, "Answers with its input.")
            .public()
            .raw(echo());
        registry.register(vec![first]).expect("a valid operation");
        // Many calls a second are the point.
        let mut limits = Limits::default();
        (limits.rate_burst, limits.rate_per_second) = (u32::MAX, u32::MAX);
        let door = Dispatcher::builder(registry.clone())
            .limits(limits)
            .identities(identities.clone())
            .owners(Arc::new(Bob))
            .build();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        Self {
            runtime: runtime.expect("a runtime without I/O needs nothing"),
            registry,
            identities,
            door,
        }
    }

    fn caller(&self, case: &Case) -> Caller {
        let who = case.who();
        if who == Who::Nobody {
            return Caller::anonymous();
        }
        let id = if who == Who::Authority {
            "worker"
        } else {
            "bob"
        };
        let mut identity = Identity::empty(PeerId::parse(id).expect("a literal"));
        RoleSet::default().add_to(&case.grants(), &mut identity);
        if who == Who::Authority {
            return Caller::authority(Arc::new(identity));
        }
        let key = Credential::NodeKey([1; 32]);
        self.identities.put(key.clone(), identity);
        Caller::resolve(&*self.identities, key).expect("put above")
    }

    fn ask(&self, case: &Case) -> (Result<Value, CallError>, bool) {
        let name = OperationName::parse(NAME).expect("a literal");
        let mut operation = Operation::query(NAME, "Answers with its input.").access(case.access());
        if case.internal {
            operation = operation.internal();
        }
        let add: Vec<Registration> = vec![operation.raw(echo())];
        let replace = Change::ReplaceLocal {
            remove: vec![name.clone()],
            add,
        };
        self.registry.apply(replace).expect("a valid operation");
        let caller = self.caller(case);
        let view = self.registry.view();
        let entry = view.local().find(|entry| entry.spec().name == name);
        let listed = self.door.may_see(&caller, entry.expect("registered above"));
        let call = Call::named(name, caller).input(&case.input);
        let reply = self.runtime.block_on(self.door.call(call));
        (
            reply.and_then(|reply| reply.into_output().into_value()),
            listed,
        )
    }
}

fn echo() -> Handler {
    Handler::Unary(Arc::new(|_cx, input| {
        Box::pin(async move { Ok(Output::Value(input.into_value()?)) })
    }))
}

fn access(data: &[u8]) {
    let case = Case::of(&mut Source::new(data));
    let is_refused = match case.public {
        1 => case.internal,
        2 => false,
        _ => case.is_empty() || case.reads_twice(),
    };
    if is_refused {
        return;
    }
    let (outcome, listed) = WORLD.with(|world| world.ask(&case));
    let told = match &outcome {
        Ok(input) => Told::Runs(input.to_string()),
        Err(error) if error.is(ErrorCode::Unauthenticated) => Told::Nobody,
        Err(error) if error.is(ErrorCode::NotFound) => Told::Hidden,
        Err(error) if error.is(ErrorCode::Forbidden) => Told::Forbidden,
        Err(error) if error.is(ErrorCode::InvalidInput) => Told::Invalid,
        Err(error) => panic!("an outcome without a reason: {error}"),
    };
    let wanted = case.model();
    assert_eq!(
        told,
        wanted,
        "rule {:?}, grants {:?}, input {}",
        case.access(),
        case.grants(),
        case.input
    );
    // What can be called is listed; what does not exist is not.
    match wanted {
        Told::Runs(_) => assert!(listed, "can be called, and is not listed"),
        Told::Nobody | Told::Hidden => assert!(!listed, "is listed to whom it is hidden from"),
        Told::Forbidden | Told::Invalid => {}
    }
    note((
        std::mem::discriminant(&wanted),
        listed,
        case.rules.len(),
        case.whole,
        case.deny.len(),
        case.public,
    ));
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![], vec![0x40], vec![0x80], vec![0x38], vec![7], vec![6]];
    // A rule of each kind with a grant that covers what the input names.
    for kind in 0..4 {
        for pattern in 0..4 {
            seeds.push(vec![
                0, kind, kind, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, pattern, 2, 0, 0, 1,
            ]);
            seeds.push(vec![
                0, kind, kind, 2, 0, 0, 1, 0, 0, 1, 1, 0, 2, 0, 1, 0, 2, 0, 1, 0, 1, 0, 1, 0, 1, 0,
                pattern, 0, 1, 0, pattern, 1, 0, 1,
            ]);
        }
    }
    seeds
}
