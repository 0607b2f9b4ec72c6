//! Which addresses a name may lead to: what keeps a grant for one server from
//! being one for the network behind a node.

use super::{
    MIB, Target, models,
    resources::{net_covers, pattern_parts},
};
use crate::{note, source::Source};
use alknet_core::{
    AddressClass, Call, Caller, Credential, Dispatcher, ErrorCode, GrantTarget, Grants, Handler,
    Identity, Operation, OperationName, Output, PeerId, Registry, RoleSet, StaticIdentities,
};
use serde_json::{Value, json};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use tokio::runtime::Runtime;

pub(super) const ADDRESSES: Target = Target {
    name: "addresses",
    about: "Every form of an address is of the class of the place that it reaches.",
    run: addresses,
    seeds: || {
        let mut seeds: Vec<Vec<u8>> = Vec::new();
        for (range, ..) in CLASSES {
            let (ip, _) = range.split_once('/').unwrap_or((range, ""));
            seeds.push(match ip.parse::<IpAddr>() {
                Ok(IpAddr::V4(ip)) => [&[0], &ip.octets()[..]].concat(),
                Ok(IpAddr::V6(ip)) => [&[7], &ip.octets()[..]].concat(),
                Err(_) => Vec::new(),
            });
        }
        for form in 1..7 {
            seeds.push(vec![form, 169, 254, 169, 254]);
        }
        seeds
    },
    tokens: &[
        &[0xff, 0xff],
        &[0; 8],
        &[0x20, 0x02],
        &[0, 0x64, 0xff, 0x9b],
        &[169, 254],
        &[127],
        &[10],
    ],
    bytes_max: 40,
    held_max: MIB,
};

pub(super) const VETTING: Target = Target {
    name: "vetting",
    about: "An address that a name resolved to is dialled only if it, or the name for such an address, is held.",
    run: vetting,
    seeds: || {
        let mut seeds = vec![vec![], vec![255; 16]];
        for name in 0..8 {
            seeds.push(vec![0, name, 1, name, 0, 3, 2, 0, 1, 5, 0, 2, 8, 0, 1]);
            seeds.push(vec![
                3, name, 2, 3, 7, 1, 4, 2, 0, 1, 0, 10, 1, 2, 3, 1, 127, 0, 0, 1,
            ]);
        }
        seeds
    },
    tokens: &[
        &[0, 10, 1, 2, 3],
        &[1, 169, 254, 169, 254],
        &[2, 127, 0, 0, 1],
        &[1, 3],
        &[2, 0, 1],
    ],
    bytes_max: 100,
    held_max: 8 * MIB,
};

use AddressClass::{
    LinkLocal, Loopback, Metadata, Multicast, Private, Public, Reserved, Unspecified,
};

/// The registries of special purpose addresses, the first match counts.
const CLASSES: &[(&str, AddressClass)] = &[
    ("169.254.169.254/32", Metadata),
    ("169.254.170.2/32", Metadata),
    ("169.254.170.23/32", Metadata),
    ("168.63.129.16/32", Metadata),
    ("100.100.100.200/32", Metadata),
    ("192.0.0.192/32", Metadata),
    ("0.0.0.0/8", Unspecified),
    ("127.0.0.0/8", Loopback),
    ("10.0.0.0/8", Private),
    ("172.16.0.0/12", Private),
    ("192.168.0.0/16", Private),
    ("100.64.0.0/10", Private),
    ("169.254.0.0/16", LinkLocal),
    ("192.0.0.0/24", Reserved),
    ("192.0.2.0/24", Reserved),
    ("198.51.100.0/24", Reserved),
    ("203.0.113.0/24", Reserved),
    ("192.88.99.0/24", Reserved),
    ("198.18.0.0/15", Reserved),
    ("224.0.0.0/4", Multicast),
    ("240.0.0.0/4", Reserved),
    ("0.0.0.0/0", Public),
    ("::/128", Unspecified),
    ("::1/128", Loopback),
    ("fd00:ec2::/32", Metadata),
    ("fd20:ce::254/128", Metadata),
    ("fc00::/7", Private),
    ("fe80::/10", LinkLocal),
    ("ff00::/8", Multicast),
    ("2001::/23", Reserved),
    ("2001:db8::/32", Reserved),
    ("3fff::/20", Reserved),
    ("2000::/3", Public),
    ("::/0", Reserved),
];

thread_local! {
    static RANGES: Vec<(IpAddr, usize, AddressClass)> = CLASSES
        .iter()
        .map(|(range, class)| {
            let (ip, length) = range.split_once('/').expect("a literal range");
            (ip.parse().expect("a literal"), length.parse().expect("a literal"), *class)
        })
        .collect();
}

fn class(ip: IpAddr) -> AddressClass {
    let judged = models::stands_for(ip);
    RANGES.with(|ranges| {
        let found = ranges
            .iter()
            .find(|(range, length, _)| models::in_range(*range, *length, judged));
        found.expect("the last ranges are everything").2
    })
}

fn fits(class: AddressClass, name: &str) -> bool {
    let labels = models::parts(name, '.');
    let ends = |suffix: &str| labels.ends_with(&models::parts(suffix, '.'));
    let private = [
        "lan",
        "local",
        "internal",
        "home.arpa",
        "home",
        "corp",
        "localdomain",
        "intranet",
        "private",
    ];
    match class {
        Public => true,
        Private => {
            name != "localhost" && (labels.len() == 1 || private.iter().any(|suffix| ends(suffix)))
        }
        Loopback => name == "localhost",
        _ => false,
    }
}

/// An address in one of the forms in which it can be written.
fn address(source: &mut Source<'_>) -> IpAddr {
    let form = source.below(8);
    if form == 7 {
        return IpAddr::from(source.array::<16>());
    }
    let [a, b, c, d]: [u8; 4] = source.array();
    match form {
        0 => IpAddr::from([a, b, c, d]),
        1 => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]),
        2 => IpAddr::from([0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]),
        3 => IpAddr::from([0x20, 0x02, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        4 => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]),
        5 => IpAddr::from([0xfd, a, b, c, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, d]),
        _ => IpAddr::from([0x26, 0x06, a, b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, c, d]),
    }
}

fn addresses(data: &[u8]) {
    let mut source = Source::new(data);
    let ip = address(&mut source);
    let found = AddressClass::of(ip);
    assert_eq!(found, class(ip), "{ip}");
    assert!(!found.in_words().is_empty());
    let name = source.word("abcdehiklmnoprtv.-", 24);
    for name in [
        name.as_str(),
        "localhost",
        "db.lan",
        "nas",
        "a.home.arpa",
        "x.example.com",
    ] {
        assert_eq!(
            found.fits_name(name),
            fits(found, name),
            "{found:?} {name:?}"
        );
    }
    note((found as u8, ip.is_ipv6(), models::stands_for(ip) != ip));
}

const NAMES: &[&str] = &[
    "db.lan:80",
    "example.com:80",
    "localhost:80",
    "nas:22",
    "a.b.internal:443",
    "10.1.2.3:80",
    "8.8.8.8:53",
    "[64:ff9b::a01:203]:80",
];
const PATTERNS: &[&str] = &[
    "*",
    "*:80",
    "db.lan:80",
    "*.lan",
    "example.com",
    "localhost",
    "nas:1-99",
    "10.0.0.0/8",
    "10.1.2.3:80",
    "127.0.0.0/8",
    "169.254.169.254",
    "64:ff9b::/96",
    "::ffff:10.0.0.0/104",
    "[fd00::/8]:80-443",
    "2002::/16",
    "0.0.0.0/0",
    "::/0",
    "*.internal:443",
    "8.8.8.8",
];

struct World {
    runtime: Runtime,
    identities: Arc<StaticIdentities>,
    door: Dispatcher,
}

thread_local! {
    static WORLD: World = World::new();
}

impl World {
    fn new() -> Self {
        let registry = Registry::new();
        let dial = Operation::query("demo/dial", "Says which addresses may be dialled.")
            .resource("net", "dial", "/address")
            .or_resolved()
            .raw(vetter());
        registry.register(vec![dial]).expect("a valid operation");
        let identities = Arc::new(StaticIdentities::default());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        Self {
            runtime: runtime.expect("a runtime without I/O needs nothing"),
            door: Dispatcher::builder(registry)
                .identities(identities.clone())
                .build(),
            identities,
        }
    }
}

/// As a dialler asks: for each address that the name resolved to.
fn vetter() -> Handler {
    Handler::Unary(Arc::new(|cx, input| {
        Box::pin(async move {
            let input = input.into_value()?;
            let asked = input["address"].as_str().unwrap_or_default();
            let to = input["to"].as_array().into_iter().flatten();
            let permit = cx.permit();
            let allowed = to.map(|to| {
                let to = to
                    .as_str()
                    .and_then(|to| to.parse().ok())
                    .expect("made below");
                permit.check_address("dial", asked, to).is_ok()
            });
            Ok(Output::Value(allowed.collect()))
        })
    }))
}

fn vetting(data: &[u8]) {
    let mut source = Source::new(data);
    let whole = source.one_in(4);
    let asked = source.pick(NAMES);
    let mut patterns = |most: usize| -> Vec<&'static str> {
        (0..source.below(most + 1))
            .map(|_| source.pick(PATTERNS))
            .collect()
    };
    let (allow, deny) = (patterns(3), patterns(2));
    let port: u16 = asked
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok())
        .unwrap_or(0);
    let mut to = Vec::new();
    while !source.is_empty() && to.len() < 6 {
        to.push(SocketAddr::new(address(&mut source), port));
    }
    let (told, wanted) = (
        ask(whole, asked, &allow, &deny, &to),
        model(whole, asked, &allow, &deny, &to),
    );
    assert_eq!(
        told, wanted,
        "{asked} to {to:?}: {allow:?}, not {deny:?}, whole {whole}"
    );
    note((wanted, allow.len(), deny.len(), whole));
}

/// Which addresses the door lets through; none at all if not even the call.
fn ask(
    whole: bool,
    asked: &str,
    allow: &[&str],
    deny: &[&str],
    to: &[SocketAddr],
) -> Option<Vec<bool>> {
    let mut texts: Vec<String> = allow
        .iter()
        .map(|pattern| format!("net:{pattern}=dial"))
        .collect();
    texts.extend(deny.iter().map(|pattern| format!("!net:{pattern}=*")));
    texts.extend(whole.then(|| "demo/dial".to_owned()));
    let grants: Grants = texts
        .iter()
        .map(|text| GrantTarget::parse(text).expect("of literals"))
        .chain([GrantTarget::parse("demo:dial").expect("a scope")])
        .collect();
    let mut identity = Identity::empty(PeerId::parse("bob").expect("a slug"));
    RoleSet::default().add_to(&grants, &mut identity);
    let input =
        json!({ "address": asked, "to": to.iter().map(ToString::to_string).collect::<Vec<_>>() });
    WORLD.with(|world| {
        let key = Credential::NodeKey([1; 32]);
        world.identities.put(key.clone(), identity);
        let caller = Caller::resolve(&*world.identities, key).expect("put above");
        let name = OperationName::parse("demo/dial").expect("a literal");
        let call = Call::named(name, caller).input(&input);
        match world.runtime.block_on(world.door.call(call)) {
            Ok(reply) => {
                let allowed: Value = reply.parse().expect("a list");
                Some(
                    allowed
                        .as_array()
                        .into_iter()
                        .flatten()
                        .map(|one| *one == json!(true))
                        .collect(),
                )
            }
            Err(error) => {
                assert!(error.is(ErrorCode::Forbidden), "{error}");
                None
            }
        }
    })
}

/// The model.
fn model(
    whole: bool,
    asked: &str,
    allow: &[&str],
    deny: &[&str],
    to: &[SocketAddr],
) -> Option<Vec<bool>> {
    let covers = |pattern: &&str, what: &str| {
        *pattern == "*" || net_covers(pattern, what, models::stands_for)
    };
    let denies = |what: &str| {
        deny.iter()
            .any(|pattern| covers(pattern, what) || net_covers(pattern, what, |ip| ip))
    };
    let held = |what: &str| allow.iter().any(|pattern| covers(pattern, what));
    let literal = asked.parse::<SocketAddr>().ok();
    let by_whole = match literal {
        Some(literal) => class(literal.ip()) == Public,
        None => true,
    };
    let name = asked.rsplit_once(':').map_or("", |(name, _)| name);
    let port: u16 = asked
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok())
        .unwrap_or(0);
    let might = literal.is_none()
        && allow.iter().any(|pattern| {
            let (host, ports) = pattern_parts(pattern);
            let by_address = host == "*" || host.contains('/') || host.parse::<IpAddr>().is_ok();
            by_address && ports.contains(&port)
        });
    if denies(asked) || !(held(asked) || (whole && by_whole) || might) {
        return None;
    }
    let allowed = |to: &SocketAddr| {
        let plain = SocketAddr::new(to.ip().to_canonical(), to.port()).to_string();
        let class = class(to.ip());
        let own = held(&plain) || (whole && class == Public);
        let named = literal.is_none() && held(asked) && fits(class, name);
        !denies(&plain) && (own || named)
    };
    Some(to.iter().map(allowed).collect())
}
