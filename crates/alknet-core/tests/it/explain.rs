//! What is told of a call agrees with what happens to it: explanations, real
//! calls through the door, and a model written from the contract's text, over
//! generated operations and identities.

use crate::world::{echo, fails, name, peer, route};
use alknet_core::{
    Access, AccessControl, ApiKey, ApiKeyProof, AuditRow, Call, CallError, Caller, Change,
    Credential, Dispatcher, ErrorCode, Explanation, GrantTarget, Grants, GroupName,
    IdentityProvider, Input, JsonPointer, Operation, Question, Registration, Registry,
    ResourceKind, ResourceRule, Role, RoleName, RoleSet, RouteStep, Schema, Scope, Stage,
    StaticIdentities, Verdict,
    storage::{
        ApiKeyRecord, IdentityChange, IdentityIndex, MemoryIdentityStore, NodeKey,
        OwnershipProvider, PeerRecord, Standing, Timestamp,
    },
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc};

/// A kind of resource as far as the cases go: texts with what they name (and
/// whether a grant of the whole operation gives it), patterns with what they
/// cover. Read off the contract, not off the matcher.
struct Known {
    kind: ResourceKind,
    texts: &'static [(&'static str, Option<&'static str>, bool)],
    patterns: &'static [(&'static str, &'static [&'static str])],
}

const KINDS: &[Known] = &[
    Known {
        kind: ResourceKind::Bucket,
        texts: &[
            ("p/a", Some("p/a"), true),
            ("p//a/", Some("p/a"), true),
            ("p/a/b", Some("p/a/b"), true),
            ("q", Some("q"), true),
            ("p/../q", None, true),
            ("P", None, true),
        ],
        patterns: &[
            ("*", &["p/a", "p/a/b", "q"]),
            ("p/**", &["p/a", "p/a/b"]),
            ("p/*", &["p/a"]),
            ("q", &["q"]),
        ],
    },
    Known {
        kind: ResourceKind::Net,
        texts: &[
            ("db.lan:80", Some("db.lan:80"), true),
            ("DB.LAN:80", Some("db.lan:80"), true),
            ("10.0.0.1:22", Some("10.0.0.1:22"), false),
            ("9.9.9.9:53", Some("9.9.9.9:53"), true),
            ("10.0.0.1", None, true),
            ("0x7f.1:80", None, true),
        ],
        patterns: &[
            ("*", &["db.lan:80", "10.0.0.1:22", "9.9.9.9:53"]),
            ("*.lan:80-443", &["db.lan:80"]),
            ("10.0.0.0/8:22", &["10.0.0.1:22"]),
            ("9.9.9.9:53", &["9.9.9.9:53"]),
        ],
    },
    Known {
        kind: ResourceKind::Command,
        texts: &[
            ("git", Some("git"), true),
            ("git-log", Some("git-log"), true),
            ("/bin/rm", Some("/bin/rm"), true),
            ("./git", None, true),
            ("//bin/rm", None, true),
        ],
        patterns: &[
            ("*", &["git", "git-log", "/bin/rm"]),
            ("git", &["git"]),
            ("git-*", &["git-log"]),
            ("/bin/rm", &["/bin/rm"]),
        ],
    },
    Known {
        kind: ResourceKind::Topic,
        texts: &[
            ("news", Some("news"), true),
            ("news/eu", Some("news/eu"), true),
            ("a b", None, true),
        ],
        patterns: &[
            ("*", &["news", "news/eu"]),
            ("news", &["news"]),
            ("news/eu", &["news/eu"]),
        ],
    },
];
const REQUIRED: &[&str] = &["a:x", "a:y", "b:x"];
const ACTIONS: &[&str] = &["read", "write"];
/// What belongs to `laptop`, whatever it was given.
const OWNED: &str = "q";
/// Configured roles, opened as the model reads them.
const ROLES: &[(&str, &[&str])] = &[
    ("crew", &["a:*", "bucket:p/**=read", "command:git=*"]),
    (
        "guard",
        &["b:x", "!bucket:p/*=read,write", "!net:10.0.0.0/8:22=*"],
    ),
];
const GRANTS: &[&str] = &[
    "*",
    "a:*",
    "a:x",
    "b:x",
    "b:*",
    "demo/thing",
    "demo/other",
    "crew",
    "guard",
    "gone",
    "bucket:*=*",
    "bucket:p/**=read",
    "bucket:p/*=write",
    "bucket:q=read",
    "!bucket:p/*=read",
    "!bucket:*=write",
    "net:*=*",
    "net:*.lan:80-443=read",
    "net:10.0.0.0/8:22=*",
    "!net:9.9.9.9:53=read",
    "command:*=read",
    "command:git-*=*",
    "!command:/bin/rm=*",
    "topic:news=read,write",
    "topic:*=write",
    "peer:nas=demo/*",
    "peer:nas=demo/thing",
    "peer:*=demo/other",
    "!peer:nas=demo/thing",
];
const SMALL_INPUT: usize = 40;

/// Only what `laptop` made.
struct Laptops;
impl OwnershipProvider for Laptops {
    fn owns(&self, owner: &alknet_core::PeerId, kind: ResourceKind, resource: &str) -> bool {
        owner.as_str() == "laptop" && kind == ResourceKind::Bucket && resource == OWNED
    }
}

#[derive(Clone, Debug)]
enum Asks {
    Public,
    Authenticated,
    Rule {
        all: Vec<&'static str>,
        any: Vec<&'static str>,
        /// Kind, action, which field, whether owners pass.
        rules: Vec<(usize, &'static str, &'static str, bool)>,
    },
}

#[derive(Clone, Debug)]
struct Case {
    asks: Asks,
    internal: bool,
    approve: bool,
    small: bool,
    /// `None`: here; else at this peer.
    at: Option<&'static str>,
    own: Vec<&'static str>,
    group: Option<Vec<&'static str>>,
    enabled: bool,
    access_over: bool,
    key: Option<KeyCase>,
    one: Value,
    many: Value,
    fits: bool,
}

#[derive(Clone, Debug)]
struct KeyCase {
    over: bool,
    grants: Option<Vec<&'static str>>,
}

fn grants(most: usize) -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(prop::sample::select(GRANTS), 0..most)
}

fn asks() -> impl Strategy<Value = Asks> {
    let some = || prop::collection::vec(prop::sample::select(REQUIRED), 0..=2);
    let rule = (
        0..KINDS.len(),
        prop::sample::select(ACTIONS),
        prop::sample::select(&["/one", "/many", "/none"][..]),
        any::<bool>(),
    );
    let rule = (some(), some(), prop::collection::vec(rule, 0..=2))
        .prop_filter("a rule that states nothing", |(all, any, rules)| {
            !(all.is_empty() && any.is_empty() && rules.is_empty())
        })
        .prop_map(|(all, any, mut rules)| {
            // A text is read as one kind.
            if let [(kind, _, at, _), (other, _, same, _)] = rules.as_mut_slice()
                && at == same
            {
                *other = *kind;
            }
            Asks::Rule { all, any, rules }
        });
    prop_oneof![1 => Just(Asks::Public), 1 => Just(Asks::Authenticated), 10 => rule]
}

/// A text of some kind: most often one that the rule in question reads.
fn text() -> impl Strategy<Value = Value> {
    (0..KINDS.len()).prop_flat_map(|kind| {
        let texts = KINDS[kind]
            .texts
            .iter()
            .map(|(text, ..)| Value::from(*text));
        prop::sample::select(texts.collect::<Vec<_>>())
    })
}

fn case() -> impl Strategy<Value = Case> {
    let at = prop_oneof![
        10 => Just(None),
        2 => Just(Some("nas")),
        1 => Just(Some("ghost")),
    ];
    let operation = (
        asks(),
        prop::bool::weighted(0.08),
        prop::bool::weighted(0.08),
        prop::bool::weighted(0.1),
        at,
    );
    let key = (prop::bool::weighted(0.15), prop::option::of(grants(5)))
        .prop_map(|(over, grants)| KeyCase { over, grants });
    let who = (
        grants(7),
        prop::option::of(grants(4)),
        prop::bool::weighted(0.93),
        prop::bool::weighted(0.07),
        prop::option::weighted(0.4, key),
    );
    let one = prop_oneof![9 => text(), 1 => Just(json!(7)), 1 => Just(Value::Null)];
    let many = prop_oneof![
        9 => prop::collection::vec(text(), 0..3).prop_map(Value::from),
        1 => Just(json!(["p/a", 7])),
    ];
    let input = (one, many, prop::bool::weighted(0.85));
    (operation, who, input).prop_map(
        |(
            (asks, internal, approve, small, at),
            (own, group, enabled, access_over, key),
            (one, many, fits),
        )| Case {
            internal: internal && !matches!(asks, Asks::Public),
            asks,
            approve,
            small,
            at,
            own,
            group,
            enabled,
            access_over,
            key,
            one,
            many,
            fits,
        },
    )
}

impl Case {
    fn input(&self) -> Value {
        let mut input = json!({ "one": self.one, "many": self.many });
        if !self.fits {
            input["stray"] = json!(true);
        }
        input
    }

    fn rule(&self) -> Access {
        let scopes = |texts: &[&str]| {
            let scopes = texts.iter().map(|text| Scope::parse(text).unwrap());
            scopes.collect()
        };
        match &self.asks {
            Asks::Public => Access::Public,
            Asks::Authenticated => Access::Authenticated,
            Asks::Rule { all, any, rules } => {
                let rules = rules.iter().map(|(kind, action, at, owner)| ResourceRule {
                    kind: KINDS[*kind].kind,
                    action: (*action).into(),
                    at: JsonPointer::parse(at).unwrap(),
                    owner: *owner,
                    absent: None,
                    resolves: false,
                });
                Access::Rule(AccessControl {
                    scopes_all: scopes(all),
                    scopes_any: scopes(any),
                    resources: rules.collect(),
                })
            }
        }
    }

    fn operation(&self) -> Registration {
        let operation = Operation::query("demo/thing", "Answers with its input.")
            .access(self.rule())
            .input_schema(schema());
        let operation = match self.internal {
            true => operation.internal(),
            false => operation,
        };
        let operation = match self.approve {
            true => operation.approve(),
            false => operation,
        };
        let operation = match self.small {
            true => operation.input_bytes_max(SMALL_INPUT),
            false => operation,
        };
        operation.raw(echo())
    }
}

fn schema() -> Schema {
    let schema = json!({
        "type": "object",
        "properties": { "one": {}, "many": {}, "none": {} },
        "additionalProperties": false,
    });
    Schema::from_value(schema).unwrap()
}

/// What the model says of a call: it runs, or one of these codes. Which of
/// several troubles of one input comes first is not the model's business.
#[derive(Debug, PartialEq)]
enum Told {
    Runs,
    Refused(Vec<ErrorCode>),
}

fn refused(code: ErrorCode) -> Told {
    Told::Refused(vec![code])
}

/// The model.
fn model(case: &Case) -> Told {
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
fn opened(grants: &[&str]) -> Vec<String> {
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

fn covers_scope(grant: &str, scope: &str) -> bool {
    match grant {
        "*" => true,
        "a:*" => scope.starts_with("a:"),
        "b:*" => scope.starts_with("b:"),
        exact => exact == scope,
    }
}

fn check_resources(
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
fn read(known: &Known, text: &str) -> Option<(String, bool)> {
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
fn covers(known: &Known, grant: &str, action: &str, canonical: &str) -> bool {
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

/// A node with one peer, one group, one key.
struct House {
    index: Arc<IdentityIndex>,
    registry: Registry,
    door: Dispatcher,
    key: ApiKey,
}

fn parsed(texts: &[&str]) -> Grants {
    let parse = |text: &&str| GrantTarget::parse(text).unwrap();
    texts.iter().map(parse).collect()
}

fn row() -> AuditRow {
    AuditRow::event(Timestamp(0), "owner", "peers/update")
}

const NOW: i64 = 1_000_000;
const OVER: Timestamp = Timestamp(NOW - 1);
const NODE_KEY: [u8; 32] = [7; 32];

impl House {
    async fn of(case: &Case) -> Self {
        let roles = ROLES.iter().map(|(role, given)| Role {
            name: RoleName::parse(role).unwrap(),
            summary: "Some.".into(),
            grants: parsed(given),
        });
        let store = Arc::new(MemoryIdentityStore::default());
        let clock = Arc::new(|| Timestamp(NOW));
        let roles = RoleSet::new(roles, []);
        let index = Arc::new(IdentityIndex::load(store, roles, clock).await.unwrap());
        let registry = Registry::new();
        let door = Dispatcher::builder(registry.clone())
            .identities(index.clone())
            .owners(Arc::new(Laptops))
            .known_peers(|| vec![peer("nas")])
            .build();
        let other = Operation::query("demo/other", "Is another one.").raw(echo());
        registry.register(vec![other]).unwrap();
        let change = match case.at {
            None => Change::AddLocal(vec![case.operation()]),
            Some(_) => Change::SetPeer(peer("nas"), vec![case.operation()]),
        };
        registry.apply(change).unwrap();
        let house = Self {
            index,
            registry,
            door,
            key: ApiKey::of_random([3; 5], &[9; 32]),
        };
        house.admit(case).await;
        house
    }

    async fn admit(&self, case: &Case) {
        let group = GroupName::parse("crews").unwrap();
        let mut laptop = PeerRecord {
            grants: parsed(&case.own),
            enabled: case.enabled,
            expires_at: case.access_over.then_some(OVER),
            node_keys: vec![NodeKey {
                key: NODE_KEY,
                until: None,
            }],
            ..PeerRecord::new(peer("laptop"), Timestamp(0))
        };
        if case.group.is_some() {
            laptop.groups = BTreeSet::from([group.clone()]);
        }
        self.apply(IdentityChange::AddPeer(laptop)).await;
        // The others' group gives nothing to this peer.
        let others = GroupName::parse("others").unwrap();
        self.apply(IdentityChange::PutGroup {
            group: others,
            grants: parsed(&["*", "bucket:*=*", "demo/thing", "peer:*=*"]),
        })
        .await;
        if let Some(grants) = &case.group {
            let grants = parsed(grants);
            self.apply(IdentityChange::PutGroup { group, grants }).await;
        }
        if let Some(key) = &case.key {
            let proof = ApiKeyProof::parse(self.key.expose()).unwrap();
            let key = ApiKeyRecord {
                id: *proof.id(),
                peer: peer("laptop"),
                name: "agent".into(),
                secret_hash: *proof.secret_hash(),
                grants: key.grants.as_deref().map(parsed),
                created_at: Timestamp(0),
                expires_at: key.over.then_some(OVER),
                last_used_at: None,
            };
            self.apply(IdentityChange::AddKey {
                key,
                newcomer: None,
            })
            .await;
        }
    }

    async fn apply(&self, change: IdentityChange) {
        self.index.apply(change, row()).await.unwrap();
    }

    fn standing(&self, case: &Case) -> Standing {
        let proof = ApiKeyProof::parse(self.key.expose()).unwrap();
        let key = case.key.is_some().then(|| proof.id());
        self.index.standing("laptop", key, &*self.index).unwrap()
    }

    fn explain(&self, case: &Case) -> Explanation {
        let standing = self.standing(case);
        let question = Question {
            caller: &standing,
            operation: name("demo/thing"),
            route: case.at.map(route).unwrap_or_default(),
            input: Input::Value(case.input()),
        };
        self.door.explain(question).unwrap()
    }

    /// A real call, as a surface makes it.
    async fn call(&self, case: &Case) -> Result<Value, CallError> {
        let credential = match &case.key {
            None => Credential::NodeKey(NODE_KEY),
            Some(_) => Credential::ApiKey(ApiKeyProof::parse(self.key.expose()).unwrap()),
        };
        // A surface closes what does not resolve, as the door does.
        let Some(caller) = Caller::resolve(&*self.index, credential) else {
            return Err(CallError::new(ErrorCode::Unauthenticated, "not known"));
        };
        let call = Call::named(name("demo/thing"), caller)
            .on(case.at.map(route).unwrap_or_default())
            .input(&case.input());
        self.door.call(call).await?.into_output().into_value()
    }
}

fn blocking<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(future)
}

/// Explanation, call and model of one case.
async fn agree(case: &Case) -> Result<(), TestCaseError> {
    let house = House::of(case).await;
    let told = house.explain(case);
    let code = |error: &CallError| error.protocol_code();
    let called = house.call(case).await;
    prop_assert_eq!(
        told.refused.as_ref().and_then(code),
        called.as_ref().err().and_then(code),
        "explained {:#?}, called {:?}",
        &told,
        &called
    );
    match (model(case), &called) {
        (Told::Runs, Ok(_)) => {}
        (Told::Refused(codes), Err(error)) => {
            let code = error.protocol_code().unwrap();
            prop_assert!(codes.contains(&code), "model {:?}, call {}", codes, error);
        }
        (want, got) => prop_assert!(false, "model {:?}, call {:?}", want, got),
    }
    let refusing = |told: &Explanation| {
        let mut steps = told.steps.iter();
        steps.any(|step| step.verdict == Verdict::Refuses)
    };
    prop_assert_eq!(told.is_allowed(), !refusing(&told), "{:#?}", &told);
    prop_assert_eq!(house.door.in_flight(), 0, "asking takes no place");
    // What it says would grant it, does.
    let grants = told.grants();
    prop_assert!(told.refused.is_some() || grants.is_empty());
    if !grants.is_empty() {
        let add = parsed(&grants);
        house
            .apply(IdentityChange::ChangeGrants {
                peer: peer("laptop"),
                add,
                remove: Grants::default(),
            })
            .await;
        let after = house.explain(case);
        prop_assert!(after.is_allowed(), "after {:?}: {:#?}", grants, after);
        let called = house.call(case).await;
        prop_assert!(called.is_ok(), "after {:?}: {:?}", grants, called);
    }
    // Where a right comes from is told of each that decides.
    let standing = house.standing(case);
    for step in told.steps.iter().filter(|step| step.by.is_some()) {
        let from = standing.sources(step).count();
        prop_assert!(from > 0, "{:?} comes from nowhere", step);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]
    #[test]
    fn explanations_calls_and_the_model_agree(case in case()) {
        blocking(agree(&case))?;
    }
}

/// The whole matrix where the long proofs run, a sample elsewhere.
fn cases() -> u32 {
    match std::env::var_os("ALKNET_TEST_FULL") {
        Some(_) => 20_000,
        None => 800,
    }
}

#[test]
fn the_matrix_has_every_outcome() {
    // A generator that only ever makes refusals would prove nothing.
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut runs, mut granted) = (0, 0);
    let mut codes = std::collections::BTreeMap::<&str, usize>::new();
    for _ in 0..800 {
        let case = proptest::strategy::ValueTree::current(&case().new_tree(&mut runner).unwrap());
        match model(&case) {
            Told::Runs => runs += usize::from(matches!(case.asks, Asks::Rule { .. })),
            Told::Refused(told) => *codes.entry(told[0].as_str()).or_default() += 1,
        }
        let grants = blocking(async { House::of(&case).await.explain(&case).grants().len() });
        granted += usize::from(grants > 0);
    }
    for code in [
        "UNAUTHENTICATED",
        "NOT_FOUND",
        "FORBIDDEN",
        "TOO_LARGE",
        "INVALID_INPUT",
        "APPROVAL_REQUIRED",
    ] {
        assert!(
            codes.get(code).is_some_and(|n| *n >= 3),
            "{code}: {codes:?}"
        );
    }
    assert!(runs > 25 && granted > 50, "{runs} {granted} {codes:?}");
}

/// A case that is refused nowhere.
fn plain() -> Case {
    Case {
        asks: Asks::Rule {
            all: vec!["a:x"],
            any: vec![],
            rules: vec![(0, "read", "/one", false)],
        },
        internal: false,
        approve: false,
        small: false,
        at: None,
        own: vec!["crew"],
        group: None,
        enabled: true,
        access_over: false,
        key: None,
        one: json!("p//a"),
        many: json!([]),
        fits: true,
    }
}

fn steps(told: &Explanation) -> Vec<String> {
    let line = |step: &alknet_core::Step| {
        let sign = match step.verdict {
            Verdict::Passes => "+",
            Verdict::Refuses => "-",
            Verdict::Notes => " ",
        };
        format!("{sign} {}: {}", step.stage, step.text)
    };
    told.steps.iter().map(line).collect()
}

#[tokio::test]
async fn every_step_is_told_in_the_order_of_a_call() {
    let house = House::of(&plain()).await;
    let told = house.explain(&plain());
    assert_eq!(
        steps(&told),
        [
            "+ caller: `laptop` is a peer here",
            "+ caller: known by node key `07070707…`",
            "+ resolve: `demo/thing` is a query of this node",
            "+ visibility: can be called from outside",
            "+ scope: scope `a:x` is held",
            "  limits: at most 4096 calls in flight of the node; 256 of one caller",
            "+ resource: resource `bucket:p/a=read` is held",
            "+ input: the input fits its schema",
        ]
    );
    let standing = house.standing(&plain());
    let scope = &told.steps[4];
    assert_eq!(scope.by, Some(GrantTarget::parse("a:*").unwrap()));
    let sources: Vec<String> = standing.sources(scope).map(ToString::to_string).collect();
    assert_eq!(sources, ["role `crew`"]);
}

#[tokio::test]
async fn everything_that_is_missing_is_told_at_once() {
    let mut case = plain();
    case.own = vec![];
    case.fits = false;
    let house = House::of(&case).await;
    let told = house.explain(&case);
    let refused: Vec<String> = steps(&told)
        .into_iter()
        .filter(|line| line.starts_with('-'))
        .collect();
    assert_eq!(refused.len(), 3, "{refused:?}");
    assert_eq!(refused[0], "- scope: scope `a:x` is missing");
    assert_eq!(
        refused[1],
        "- resource: resource `bucket:p/a=read` is missing"
    );
    assert!(refused[2].starts_with("- input: "), "{refused:?}");
    // The first decides what a call is told.
    let error = fails(house.call(&case).await, ErrorCode::Forbidden);
    assert_eq!(told.refused, Some(error));
    // No grant mends an input.
    assert!(told.grants().is_empty());
    case.fits = true;
    assert_eq!(
        house.explain(&case).grants(),
        ["a:x", "bucket:p/a=read"],
        "both are needed"
    );
}

#[tokio::test]
async fn a_denial_names_the_grant_that_denies_and_suggests_none() {
    let mut case = plain();
    case.group = Some(vec!["guard"]);
    let house = House::of(&case).await;
    let told = house.explain(&case);
    let step = told.steps.iter();
    let step = step
        .clone()
        .find(|step| step.verdict == Verdict::Refuses)
        .unwrap();
    assert_eq!(
        step.by,
        Some(GrantTarget::parse("!bucket:p/*=read,write").unwrap())
    );
    let standing = house.standing(&case);
    let sources: Vec<String> = standing.sources(step).map(ToString::to_string).collect();
    assert_eq!(sources, ["role `guard` of group `crews`"]);
    assert!(told.grants().is_empty());
}

#[tokio::test]
async fn a_key_is_asked_after_its_peer() {
    let mut case = plain();
    case.key = Some(KeyCase {
        over: false,
        grants: Some(vec!["a:x", "bucket:q=read"]),
    });
    let house = House::of(&case).await;
    let told = house.explain(&case);
    let of_key: Vec<_> = told.steps.iter().filter(|step| step.of_key).collect();
    assert_eq!(
        of_key
            .iter()
            .map(|step| (step.stage, step.verdict))
            .collect::<Vec<_>>(),
        [
            (Stage::Scope, Verdict::Passes),
            (Stage::Resource, Verdict::Refuses)
        ]
    );
    let standing = house.standing(&case);
    let sources: Vec<String> = standing
        .sources(of_key[0])
        .map(ToString::to_string)
        .collect();
    assert_eq!(sources, ["grant of the key"]);
    assert!(told.grants().is_empty(), "no grant widens a key");
}

#[tokio::test]
async fn a_peer_that_is_kept_out_is_told_what_it_would_hold() {
    let mut case = plain();
    case.enabled = false;
    let house = House::of(&case).await;
    let told = house.explain(&case);
    assert!(
        told.refused
            .as_ref()
            .unwrap()
            .is(ErrorCode::Unauthenticated)
    );
    let lines = steps(&told);
    assert_eq!(lines[0], "- caller: `laptop` is disabled");
    assert!(
        lines.contains(&"+ scope: scope `a:x` is held".to_owned()),
        "{lines:?}"
    );
}

#[tokio::test]
async fn a_peer_without_a_key_cannot_be_known() {
    let house = House::of(&plain()).await;
    let nobody = PeerRecord::new(peer("paper"), Timestamp(0));
    house.apply(IdentityChange::AddPeer(nobody)).await;
    let standing = house.index.standing("paper", None, &*house.index).unwrap();
    let question = Question {
        caller: &standing,
        operation: name("demo/thing"),
        route: vec![],
        input: Input::Value(json!({})),
    };
    let told = house.door.explain(question).unwrap();
    assert!(
        told.refused
            .as_ref()
            .unwrap()
            .is(ErrorCode::Unauthenticated)
    );
    let nobody = house.index.standing("nobody", None, &*house.index);
    assert!(nobody.is_none());
}

#[tokio::test]
async fn whoever_is_barred_elsewhere_is_told_so() {
    let house = House::of(&plain()).await;
    let nobody = StaticIdentities::default();
    let standing = house.index.standing("laptop", None, &nobody).unwrap();
    let question = Question {
        caller: &standing,
        operation: name("demo/thing"),
        route: vec![],
        input: Input::Value(plain().input()),
    };
    let told = house.door.explain(question).unwrap();
    assert!(
        told.refused
            .as_ref()
            .unwrap()
            .is(ErrorCode::Unauthenticated)
    );
    let lines = steps(&told);
    assert_eq!(
        lines[1..3],
        [
            "  caller: not by node key `07070707…`: banned",
            "- caller: is banned"
        ]
    );
}

#[tokio::test]
async fn any_peer_is_no_question() {
    let house = House::of(&plain()).await;
    let standing = house.index.standing("laptop", None, &*house.index).unwrap();
    let question = Question {
        caller: &standing,
        operation: name("demo/thing"),
        route: vec![RouteStep::Any],
        input: Input::default(),
    };
    let error = house.door.explain(question).unwrap_err();
    assert!(error.is(ErrorCode::InvalidInput), "{error}");
    assert!(house.index.epoch() > 0 && house.registry.view().revision() > 0);
}
