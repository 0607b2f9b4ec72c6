//! Names are bytes, and directories may be of any length.

use super::{
    super::trees::{assert_rsync_agrees, assert_same_tree},
    world::{World, assert_diff_agrees, is_full},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    os::unix::ffi::{OsStrExt, OsStringExt},
};

/// Names that something might stumble over.
fn hard_names() -> BTreeSet<Vec<u8>> {
    let mut names: BTreeSet<Vec<u8>> = BTreeSet::new();
    for byte in (1..=255).filter(|byte| *byte != b'/') {
        names.insert(vec![byte, byte, byte]);
        names.insert(vec![b'a', byte]);
        names.insert(vec![byte; 255]);
        if byte != b'.' {
            names.insert(vec![byte]);
        }
    }
    for name in [
        "\u{e9}",
        "e\u{301}",
        "-",
        "--",
        "-rf",
        "--help",
        "...",
        ".hidden",
        "%41",
        "%2e%2e",
        "%",
        "%%",
        "%zz",
        "a\nb",
        "\n",
        "\r\n",
        " ",
        "  a  ",
        "~",
        "$HOME",
        "`id`",
        "*",
        "?",
        "[a]",
        "**",
        "a:b",
        "home:www",
        "@",
        "a@main",
        "\\",
        "\"",
        "'",
        "\u{202e}txt",
        "\u{feff}",
        "CON",
        "\u{1b}[31m",
        "\u{65e5}\u{672c}",
    ] {
        names.insert(name.into());
    }
    names.insert("\u{e9}".repeat(127).into());
    names
}

#[test]
fn every_name_goes_there_is_told_and_comes_back() {
    let world = World::start();
    let laptop = &world.pair.laptop;
    let tree = world.make("names");
    let names = hard_names();
    for name in &names {
        let path = tree.join(OsString::from_vec(name.clone()));
        fs::write(path, data_encoding::HEXLOWER.encode(name)).unwrap();
    }
    let put = ["put", "-r", &world.text("names"), "home:www/"];
    laptop.cli(&put).exits(0);
    assert_same_tree(&tree, &world.www("names"));
    world.make("down");
    let get = ["get", "-r", "home:www/names", &world.text("down")];
    laptop.cli(&get).exits(0);
    assert_same_tree(&tree, &world.path("down/names"));
    assert_rsync_agrees(&tree, &world.path("down/names"));
    assert_diff_agrees(&tree, &world.path("down/names"));

    // As it is told, so it can be asked for.
    let told = pages(&world, "www/names", 100, usize::MAX);
    assert_eq!(told.len(), names.len());
    let calls: Vec<_> = told
        .iter()
        .map(|name| ("fs/read-text", json!({"file": format!("www/names/{name}")})))
        .collect();
    let contents: BTreeSet<Vec<u8>> = world
        .calls(&calls)
        .iter()
        .map(|answer| answer["output"]["text"].as_str().unwrap().as_bytes())
        .map(|text| data_encoding::HEXLOWER.decode(text).unwrap())
        .collect();
    assert!(contents == names, "each text is one name");

    // As `ls` prints it, so it can be typed.
    let listed = laptop.cli(&["ls", "home:www/names", "--json"]).exits(0);
    let paths: Vec<String> = listed
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|entry| entry["place"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(paths.len(), names.len(), "{:?}", paths.first());
    for some in paths.chunks(200) {
        let words: Vec<&str> = ["rm"]
            .into_iter()
            .chain(some.iter().map(String::as_str))
            .collect();
        laptop.cli(&words).exits(0);
    }
    assert_eq!(fs::read_dir(world.www("names")).unwrap().count(), 0);
}

/// The names on the pages of a directory, as they are told, from so many pages
/// at most.
#[track_caller]
fn pages(world: &World, directory: &str, limit: usize, most: usize) -> Vec<String> {
    let mut names = Vec::new();
    each_page(world, directory, limit, most, |name| {
        names.push(name.to_owned());
    });
    names
}

#[track_caller]
fn each_page(
    world: &World,
    directory: &str,
    limit: usize,
    most: usize,
    mut each: impl FnMut(&str),
) {
    let mut input = json!({"file": directory, "limit": limit});
    for _ in 0..most {
        let words = ["call", "fs/list", &input.to_string(), "--on", "home"];
        let page = world.pair.laptop.cli(&words).exits(0).json();
        let entries = page["entries"].as_array().unwrap();
        assert!(entries.len() <= limit, "{} entries", entries.len());
        for entry in entries {
            each(entry["name"].as_str().unwrap());
        }
        match page.get("next") {
            Some(next) => input["from"] = next.clone(),
            None => return,
        }
    }
}

/// A million in whole proofs. What `ls` needs for it is proved where `ls` is.
#[test]
fn slow_pages_of_a_directory_of_any_length_need_no_memory() {
    let (all, pages_most) = if is_full() {
        (1_000_000, usize::MAX)
    } else {
        (50_000, 60)
    };
    let world = World::start();
    fs::create_dir(world.www("many")).unwrap();
    fs::create_dir(world.www("few")).unwrap();
    fs::write(world.www("few/one"), "").unwrap();
    for at in 0..all {
        fs::File::create(world.www("many").join(format!("{at:07}"))).unwrap();
    }
    each_page(&world, "www/few", 1024, 1, |_| ());
    let before = world.pair.home.memory_peak_kib();
    // By number, since a million names are held by the test alone.
    let mut seen = vec![false; all];
    let mut told = 0;
    each_page(&world, "www/many", 1024, pages_most, |name| {
        let at: usize = name.parse().unwrap();
        assert!(!std::mem::replace(&mut seen[at], true), "{name} twice");
        told += 1;
    });
    assert_eq!(told, all);
    let grown = world.pair.home.memory_peak_kib() - before;
    assert!(grown < 24 * 1024, "{grown} KiB more for {all} entries");
}

/// Two spellings that look the same are two files, and neither is the other's.
#[test]
fn names_that_look_alike_are_different_files() {
    let world = World::start();
    let laptop = &world.pair.laptop;
    let alike: BTreeMap<&str, &str> = [
        ("\u{e9}", "composed"),
        ("e\u{301}", "decomposed"),
        ("A", "upper"),
        ("a", "lower"),
        ("a ", "with a space"),
        ("%61", "escaped"),
    ]
    .into();
    for (name, content) in &alike {
        let one = world.path("one");
        fs::write(&one, content).unwrap();
        // `%` begins an escape where a place is typed.
        let typed = format!("home:www/{}", name.replace('%', "%25"));
        laptop.cli(&["put", one.to_str().unwrap(), &typed]).exits(0);
    }
    for (name, content) in &alike {
        let path = world
            .path("www")
            .join(std::ffi::OsStr::from_bytes(name.as_bytes()));
        assert_eq!(fs::read_to_string(path).unwrap(), *content, "{name:?}");
    }
    laptop.cli(&["rm", "home:www/e\u{301}"]).exits(0);
    assert_eq!(fs::read(world.www("\u{e9}")).unwrap(), b"composed");
}
