//! Paths of files, and what a grant says of a whole tree of them.

use super::{MIB, Target, models, texts};
use crate::note;
use alknet_core::{
    ResourceGrant, ResourceKind, ResourcePattern, ResourceSet, canonical_resource,
    files::{FILE_NAME_BYTES_MAX, FileName, FilePath, PathError},
};

pub(super) const PATHS: Target = Target {
    name: "paths",
    about: "A path of a file is read as a grammar says that is written naively, and has one form.",
    run: paths,
    seeds: || {
        texts(&[
            "www/public//a.txt/",
            "www@dev/a/b",
            "www@@2026-11-20T10:00:00Z/a",
            "www/100%25/%ff%FE/%C3%A9",
            "www/%2e%2E/x",
            "www/a%2Fb",
            "www/%00",
            "www/%4",
            "www/*/%2A/?",
            "a-9/-/~/\u{e9}/e\u{301}/\u{202e}",
            "www/%ed%a0%80/%f0%9f%98%80/%f0%9f%98",
        ])
    },
    tokens: PATH_TOKENS,
    bytes_max: 600,
    held_max: MIB,
};

pub(super) const TREES: Target = Target {
    name: "trees",
    about: "What a pattern says of a whole tree is what it says of everything in it, one by one.",
    run: trees,
    seeds: || {
        texts(&[
            "www/**\nwww",
            "www/**\nwww/a/b",
            "www/*/**\nwww",
            "www/*/c\nwww/a",
            "www/a*c/x?/**\nwww/abc",
            "**\nwww",
            "*\nwww/a",
            "www/%2A/b\nwww/%2A",
            "www/100%25/**\nwww/100%25",
            "www/*5\nwww/100%25",
            "www@*/**\nwww@dev/a",
            "www/a\nwww/a/b/c",
        ])
    },
    tokens: PATH_TOKENS,
    bytes_max: 200,
    held_max: MIB,
};

const PATH_TOKENS: &[&[u8]] = &[
    b"www",
    b"@dev",
    b"@@",
    b"/",
    b"//",
    b"..",
    b".",
    b"**",
    b"/**",
    b"*",
    b"%25",
    b"%2A",
    b"%2a",
    b"%2F",
    b"%2e",
    b"%00",
    b"%FF",
    b"%c3%a9",
    b"%",
    b"\n",
    b"\xc3\xa9",
    b"-",
];

fn paths(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let wanted = models::file_path(&text);
    let found = FilePath::parse(&text);
    note(match &found {
        Ok(path) => (path.names().len().min(6), 0),
        Err(PathError::Bucket) => (0, 1),
        Err(PathError::Escape) => (0, 2),
        Err(PathError::Dots) => (0, 3),
        Err(PathError::Byte) => (0, 4),
        Err(_) => (0, 5),
    });
    let Ok(path) = found else {
        assert_eq!(wanted, None, "{text:?}: {found:?}");
        assert!(canonical_resource(ResourceKind::Bucket, &text).is_err());
        return;
    };
    let (root, names) = wanted.unwrap_or_else(|| panic!("{text:?} is no path, and is read"));
    assert_eq!(path.root().to_string(), root);
    let held: Vec<&[u8]> = path.names().iter().map(FileName::as_bytes).collect();
    assert_eq!(held, names, "{text:?}");
    let form = path.to_string();
    let parts: Vec<String> = names.iter().map(|name| models::escaped(name)).collect();
    let expected = [vec![root], parts].concat().join("/");
    assert_eq!(form, expected, "{text:?}");
    assert_eq!(FilePath::parse(&form).as_ref(), Ok(&path));
    // The door matches the same form.
    let canonical = canonical_resource(ResourceKind::Bucket, &text);
    assert_eq!(canonical.as_deref(), Ok(&*form));
    // Up, and down again.
    if let (Some(above), Some(name)) = (path.parent(), path.name()) {
        assert_eq!(above.join(name.clone()).as_ref(), Ok(&path));
        assert!(path.is_within(&above) && !above.is_within(&path));
        let again = FileName::parse(&name.to_string());
        assert_eq!(again.as_ref(), Ok(name));
    }
}

/// A pattern, a line feed, a file.
fn trees(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    let (pattern, file) = text.split_once('\n').unwrap_or((&text, &text));
    let kind = ResourceKind::Bucket;
    let (Ok(_), Ok(file)) = (
        ResourcePattern::parse(kind, pattern),
        canonical_resource(kind, file),
    ) else {
        return;
    };
    let grant = ResourceGrant::parse(kind, pattern, &["read"]).expect("a pattern with an action");
    let allow = ResourceSet {
        allow: vec![grant.clone()],
        deny: Vec::new(),
    };
    let deny = ResourceSet {
        allow: vec![ResourceGrant::parse(kind, "**", &["*"]).expect("a pattern")],
        deny: vec![grant],
    };
    // What might lie there: anything, and what the pattern itself asks for.
    let depth = pattern.split('/').count() + 1;
    let anything: Vec<String> = vec!["x".to_owned(); depth];
    let asked = models::names_of(pattern);
    let below = models::parts(&file, '/').len();
    let asked: Vec<String> = asked.into_iter().skip(below).collect();
    let way = |names: &[String]| {
        let ways: Vec<String> = (0..=names.len())
            .map(|n| {
                [std::slice::from_ref(&file), &names[..n]]
                    .concat()
                    .join("/")
            })
            .collect();
        ways
    };
    let covered = |path: &String| models::file_covers(pattern, path);
    let all = way(&anything).iter().all(covered);
    let some = way(&anything).iter().chain(&way(&asked)).any(covered);
    for path in way(&anything).iter().chain(&way(&asked)) {
        let covered = models::file_covers(pattern, path);
        assert_eq!(
            allow.holds(kind, "read", path),
            covered,
            "{pattern:?}, {path:?}"
        );
        assert_eq!(
            deny.holds(kind, "read", path),
            !covered,
            "{pattern:?}, {path:?}"
        );
    }
    assert_eq!(
        allow.holds_tree("read", &file),
        all,
        "{pattern:?} over all of {file:?}"
    );
    assert!(!allow.holds_tree("write", &file));
    // A name that no file can have is the only thing that is taken for one.
    if asked.iter().all(|name| name.len() <= FILE_NAME_BYTES_MAX) {
        assert_eq!(
            allow.might_hold_within("read", &file),
            some,
            "{pattern:?} within {file:?}"
        );
        assert_eq!(deny.denies_within("read", &file), some);
        assert_eq!(deny.holds_tree("read", &file), !some);
        assert!(deny.holds_tree("write", &file));
    }
    note((all, some, below.min(4), depth.min(6), pattern.contains('%')));
}
