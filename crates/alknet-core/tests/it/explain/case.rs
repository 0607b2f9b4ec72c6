//! The matrix: operations, identities and inputs.

use crate::world::echo;
use alknet_core::{
    Access, AccessControl, JsonPointer, Operation, Registration, ResourceKind, ResourceRule,
    Schema, Scope, storage::OwnershipProvider,
};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A kind of resource as far as the cases go: texts with what they name (and
/// whether a grant of the whole operation gives it), patterns with what they
/// cover. Read off the contract, not off the matcher.
pub(super) struct Known {
    pub(super) kind: ResourceKind,
    pub(super) texts: &'static [(&'static str, Option<&'static str>, bool)],
    pub(super) patterns: &'static [(&'static str, &'static [&'static str])],
}

pub(super) const KINDS: &[Known] = &[
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
pub(super) const REQUIRED: &[&str] = &["a:x", "a:y", "b:x"];
pub(super) const ACTIONS: &[&str] = &["read", "write"];
/// What belongs to `laptop`, whatever it was given.
pub(super) const OWNED: &str = "q";
/// Configured roles, opened as the model reads them.
pub(super) const ROLES: &[(&str, &[&str])] = &[
    ("crew", &["a:*", "bucket:p/**=read", "command:git=*"]),
    (
        "guard",
        &["b:x", "!bucket:p/*=read,write", "!net:10.0.0.0/8:22=*"],
    ),
];
pub(super) const GRANTS: &[&str] = &[
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
pub(super) const SMALL_INPUT: usize = 40;

/// Only what `laptop` made.
pub(super) struct Laptops;
impl OwnershipProvider for Laptops {
    fn owns(&self, owner: &alknet_core::PeerId, kind: ResourceKind, resource: &str) -> bool {
        owner.as_str() == "laptop" && kind == ResourceKind::Bucket && resource == OWNED
    }
}

#[derive(Clone, Debug)]
pub(super) enum Asks {
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
pub(super) struct Case {
    pub(super) asks: Asks,
    pub(super) internal: bool,
    pub(super) approve: bool,
    pub(super) small: bool,
    /// `None`: here; else at this peer.
    pub(super) at: Option<&'static str>,
    pub(super) own: Vec<&'static str>,
    pub(super) group: Option<Vec<&'static str>>,
    pub(super) enabled: bool,
    pub(super) access_over: bool,
    pub(super) key: Option<KeyCase>,
    pub(super) one: Value,
    pub(super) many: Value,
    pub(super) fits: bool,
}

#[derive(Clone, Debug)]
pub(super) struct KeyCase {
    pub(super) over: bool,
    pub(super) grants: Option<Vec<&'static str>>,
}

pub(super) fn grants(most: usize) -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(prop::sample::select(GRANTS), 0..most)
}

pub(super) fn asks() -> impl Strategy<Value = Asks> {
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
pub(super) fn text() -> impl Strategy<Value = Value> {
    (0..KINDS.len()).prop_flat_map(|kind| {
        let texts = KINDS[kind]
            .texts
            .iter()
            .map(|(text, ..)| Value::from(*text));
        prop::sample::select(texts.collect::<Vec<_>>())
    })
}

pub(super) fn case() -> impl Strategy<Value = Case> {
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
    pub(super) fn input(&self) -> Value {
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

    pub(super) fn operation(&self) -> Registration {
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

pub(super) fn schema() -> Schema {
    let schema = json!({
        "type": "object",
        "properties": { "one": {}, "many": {}, "none": {} },
        "additionalProperties": false,
    });
    Schema::from_value(schema).unwrap()
}
