//! Names, scopes and routes.

use super::{MIB, Target, models, texts};
use crate::{note, source::Source};
use alknet_core::{
    GroupName, OperationName, OperationPattern, PeerId, RoleName, RouteStep, Scope, ScopeSet,
    clean_foreign_text, edit_distance, nearest, parse_route,
};

pub(super) const NAMES: Target = Target {
    name: "names",
    about: "Names are exactly those of the grammar, and print as they were read.",
    run: names,
    seeds: || {
        texts(&[
            "fs/read",
            "a/b/c/d",
            "fs/branch-2/create",
            "fs/*",
            "fs/**",
            "*",
            "any",
            "nas/any/laptop",
            "My-Laptop.local",
            "a--b",
            "-a",
            "a-",
            "fs//read",
            "\u{202e}gpj",
            "é/ü",
            "a/",
            "A/b",
        ])
    },
    tokens: &[
        b"/",
        b"-",
        b"any",
        b"*",
        b"**",
        b"fs/read",
        b"aaaaaaaaaaaaaaaa",
    ],
    bytes_max: 160,
    held_max: MIB,
};

pub(super) const SCOPES: Target = Target {
    name: "scopes",
    about: "A set of scopes holds what one of them covers, and an intersection what both hold.",
    run: scopes,
    seeds: scope_seeds,
    tokens: &[b"a", b"a:*", b"a:b", b"a:b:*", b"*", b"b:x", b","],
    bytes_max: 200,
    held_max: MIB,
};

fn names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let text = &*text;
    let operation = OperationName::parse(text);
    assert_eq!(
        operation.is_ok(),
        models::is_operation_name(text),
        "{text:?}"
    );
    if let Ok(name) = &operation {
        assert_eq!(name.to_string(), text);
        assert!(text.starts_with(name.area()));
        let scope = name.default_scope();
        assert!(models::is_scope(scope.as_str()), "{scope}");
        assert_eq!(scope.as_str().matches(':').count(), 1, "{scope}");
    }
    let is_slug = models::is_slug(text);
    assert_eq!(PeerId::parse(text).is_ok(), is_slug, "{text:?}");
    assert_eq!(GroupName::parse(text).is_ok(), is_slug);
    assert_eq!(RoleName::parse(text).is_ok(), is_slug);
    assert_eq!(
        Scope::parse(text).is_ok(),
        models::is_scope(text),
        "{text:?}"
    );
    if let Some(slug) = PeerId::from_text(text) {
        assert!(models::is_slug(slug.as_str()), "{slug}");
        if is_slug {
            assert_eq!(slug.as_str(), text);
        }
    }
    route(text);
    patterns(text);
    foreign(text);
    note((
        operation.is_ok(),
        is_slug,
        models::parts(text, '/').len().min(6),
    ));
}

fn route(text: &str) {
    let parts = models::parts(text, '/');
    let route = parse_route(text);
    let any_before = parts.iter().rev().skip(1).any(|part| part == "any");
    let is_fine = parts.len() <= 4 && !any_before && parts.iter().all(|part| models::is_slug(part));
    assert_eq!(route.is_ok(), is_fine, "{text:?}");
    let Ok(route) = route else {
        return;
    };
    let printed: Vec<String> = route.iter().map(ToString::to_string).collect();
    assert_eq!(printed, parts);
    let anys = parts.iter().filter(|part| *part == "any").count();
    assert_eq!(
        route.iter().filter(|step| **step == RouteStep::Any).count(),
        anys
    );
}

fn patterns(text: &str) {
    let Ok(pattern) = OperationPattern::parse(text) else {
        return;
    };
    assert_eq!(pattern.to_string(), text);
    for name in ["fs/read", "fs/branch/create", "fsx/read", "a/b/c/d", text] {
        if models::is_operation_name(name) {
            let wanted = models::operation_covers(text, name);
            assert_eq!(pattern.covers(name), wanted, "{text} over {name}");
            note((text.len().min(8), wanted));
        }
    }
}

/// What comes from elsewhere cannot control a terminal.
fn foreign(text: &str) {
    let clean = clean_foreign_text(text, 40);
    assert!(clean.chars().all(|c| !c.is_control() || c == '\n'));
    assert!(clean.chars().count() <= 41, "{clean:?}");
    assert_eq!(clean_foreign_text(&clean, 41), clean);
    let (near, far) = text.split_at(text.floor_char_boundary(text.len() / 2));
    let distance = edit_distance(near, far);
    assert!(distance <= near.len().max(far.len()));
    assert_eq!(distance == 0, near == far);
    assert!(nearest(text, ["fs/read", "node/info", near]).len() <= 3);
}

/// Scopes joined by commas: what is held, `;`, what another holds, `;`, what
/// is asked for.
fn scopes(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let lists = models::parts(&text, ';');
    let list = |at: usize| -> Vec<String> {
        let parts = lists
            .get(at)
            .map(|list| models::parts(list, ','))
            .unwrap_or_default();
        parts
            .into_iter()
            .filter(|part| models::is_scope(part))
            .take(8)
            .collect()
    };
    let set = |texts: &[String]| -> ScopeSet {
        texts
            .iter()
            .map(|text| Scope::parse(text).expect("of the grammar"))
            .collect()
    };
    let (mine, theirs) = (list(0), list(1));
    let (held, other) = (set(&mine), set(&theirs));
    let both = held.intersect(&other);
    let asked = list(2)
        .into_iter()
        .chain(mine.iter().cloned())
        .chain(theirs.iter().cloned());
    for text in asked.filter(|text| !text.ends_with('*')) {
        let required = Scope::parse(&text).expect("of the grammar");
        let covered = |by: &[String]| by.iter().any(|held| models::scope_covers(held, &text));
        assert_eq!(
            held.holds(&required),
            covered(&mine),
            "{mine:?} over {text}"
        );
        assert_eq!(
            other.holds(&required),
            covered(&theirs),
            "{theirs:?} over {text}"
        );
        let wanted = covered(&mine) && covered(&theirs);
        assert_eq!(
            both.holds(&required),
            wanted,
            "{mine:?} and {theirs:?} over {text}"
        );
        note((covered(&mine), covered(&theirs), mine.len(), theirs.len()));
    }
    // Printed and read again it is the same set.
    let printed: ScopeSet = both
        .iter()
        .map(|scope| Scope::parse(scope.as_str()).expect("printed"))
        .collect();
    assert_eq!(printed, both);
}

fn scope_seeds() -> Vec<Vec<u8>> {
    let mut seeds = texts(&[
        "*;a:b;a:b,b:x",
        "a:*;a:b:*,b:*;a:b:c,a:c",
        "a,a:b;*;a",
        "a:*;b:*;a:b",
        ";;a:b",
        "fs:read;fs:*;fs:read",
    ]);
    let mut source = Source::new(&[9; 24]);
    seeds.push(source.word("ab:*,;", 24).into_bytes());
    seeds
}
