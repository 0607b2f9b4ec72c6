//! Names are bytes.

use super::{Ground, name};
use alknet_core::files::{Create, FileName};
use alknet_fs::root::{Detail, Follow, OpenHow, PARTIAL_PREFIX, PartialKey, Replace, RootError};
use std::{collections::BTreeSet, ffi::OsStr, fs, os::unix::ffi::OsStrExt};

/// Names that are hard to get right somewhere.
fn hard() -> Vec<Vec<u8>> {
    let mut hard: Vec<Vec<u8>> = (1..=u8::MAX)
        .filter(|byte| *byte != b'/')
        .map(|byte| vec![byte, b'x', byte])
        .collect();
    hard.push(vec![b'n'; 255]);
    hard.push([0xff; 255].to_vec());
    // NFC beside NFD, upper case beside lower case.
    for text in [
        "\u{e9}",
        "e\u{301}",
        "A",
        "a",
        "...",
        "....",
        "-rf",
        "--help",
        " ",
        "  ",
        "\n",
        "a\nb",
        "*",
        "~",
        "$HOME",
        "`id`",
        ";id",
        "a\\b",
        "\u{202e}gpj",
        "CON",
        "nul.txt",
        "trailing.",
        "trailing ",
        "%41",
        ".hidden",
        ".alknet-par",
        ".alknet-part",
    ] {
        hard.push(text.into());
    }
    hard
}

#[test]
fn every_name_goes_there_and_back() {
    let ground = Ground::new();
    ground.dirs("d");
    let directory = ground.directory("d");
    let names: BTreeSet<FileName> = hard().into_iter().map(name).collect();
    for name in &names {
        let file = directory.open(name, &OpenHow::write(Create::New)).unwrap();
        file.write_at(name.as_bytes(), 0).unwrap();
    }
    for name in &names {
        let path = ground.at("d").join(OsStr::from_bytes(name.as_bytes()));
        assert_eq!(fs::read(path).unwrap(), name.as_bytes(), "{name:?}");
        let end = ground.root.walk(
            &["d".into(), name.to_string()].map(|n| FileName::parse(&n).unwrap()),
            Follow::Yes,
        );
        assert_eq!(end.unwrap().real.last(), Some(name));
    }
    let mut listing = directory.list(None).unwrap();
    let listed = listing.page(10_000, Detail::Meta).unwrap();
    assert_eq!(listed.len(), names.len());
    for entry in &listed {
        assert!(names.contains(&entry.name));
        assert_eq!(
            entry.meta.as_ref().unwrap().bytes,
            entry.name.as_bytes().len() as u64
        );
    }
    ground.dirs("e");
    let other = ground.directory("e");
    for name in &names {
        directory.rename(name, &other, name, Replace::No).unwrap();
        let mut partial = other.partial(name, PartialKey::Once).unwrap();
        partial.write(b"new").unwrap();
        partial.commit(&alknet_fs::root::Commit::default()).unwrap();
        other.remove_file(name).unwrap();
    }
    assert_eq!(fs::read_dir(ground.at("e")).unwrap().count(), 0);
}

#[test]
fn a_name_of_256_bytes_is_none() {
    assert!(FileName::new(vec![b'n'; 256]).is_err());
    // Nor does one get in through a symlink.
    let ground = Ground::new();
    ground
        .link("long", "n".repeat(256))
        .link("full", "n".repeat(255))
        .file(&"n".repeat(255), "text");
    assert_eq!(ground.read("full").unwrap(), "text");
    super::assert_errno(
        ground.walk("long", Follow::Yes),
        rustix::io::Errno::NAMETOOLONG,
    );
}

#[test]
fn names_of_partial_files_are_nobody_elses() {
    let ground = Ground::new();
    let reserved = format!("{PARTIAL_PREFIX}00112233445566778899aabbccddeeff");
    ground
        .file(&reserved, "half")
        .file("f", "")
        .link("to-it", &reserved);
    ground.dirs(".alknet-part-dir/sub");
    let top = ground.root.directory();
    let (part, f) = (name(&reserved), name("f"));
    let is_reserved = |said: Result<(), RootError>| matches!(said, Err(RootError::NameReserved));
    assert!(is_reserved(top.meta_of(&part).map(drop)));
    assert!(is_reserved(top.open(&part, &OpenHow::read()).map(drop)));
    assert!(is_reserved(
        top.open(&part, &OpenHow::write(Create::IfMissing))
            .map(drop)
    ));
    assert!(is_reserved(top.make_directory(&part, 0o755)));
    assert!(is_reserved(top.rename(&f, &top, &part, Replace::Yes)));
    assert!(is_reserved(top.rename(&part, &top, &f, Replace::Yes)));
    assert!(is_reserved(top.link(&f, &top, &part)));
    assert!(is_reserved(top.link(&part, &top, &name("g"))));
    assert!(is_reserved(top.make_symlink(&part, b"f")));
    assert!(is_reserved(top.read_link(&part).map(drop)));
    assert!(is_reserved(top.remove_file(&part)));
    assert!(is_reserved(top.remove_directory(&part)));
    assert!(is_reserved(top.partial(&part, PartialKey::Once).map(drop)));
    assert!(is_reserved(
        top.set_attributes_of(&part, &Default::default()).map(drop)
    ));
    for path in [reserved.as_str(), "to-it", ".alknet-part-dir/sub"] {
        for follow in [Follow::Yes, Follow::No] {
            let said = ground.walk(path, follow);
            let is_the_link = path == "to-it" && follow == Follow::No;
            assert_eq!(is_reserved(said.map(drop)), !is_the_link, "{path}");
        }
    }
    let listed = top.list(None).unwrap().page(10, Detail::Kinds).unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(fs::read(ground.at(&reserved)).unwrap(), b"half");
}
