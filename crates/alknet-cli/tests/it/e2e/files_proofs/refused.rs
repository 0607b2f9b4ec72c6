//! What may not be, or cannot be, is refused exactly, and leaves nothing half
//! under a name that somebody looks for.

use super::{
    super::harness::{Node, error_code, eventually, exec_config, toml},
    super::trees::{large_file, partials},
    world::{ALL, World, sizes_seen},
};
use crate::program::Place;
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

const MIB: usize = 1 << 20;

/// The code with which a command that is no copy was refused.
#[track_caller]
fn refusal(world: &World, words: &[&str], exit: i32) -> String {
    let words = [words, &["--json"]].concat();
    let said = world.pair.laptop.cli(&words).exits(exit);
    error_code(&said.stderr)
}

/// The codes of what a copy did not do, one of each file.
#[track_caller]
fn failures(world: &World, words: &[&str]) -> Vec<String> {
    let words = [words, &["--json"]].concat();
    let said = world.pair.laptop.cli(&words).exits(1);
    let lines = said.stdout.lines();
    let codes: Vec<String> = lines
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter_map(|line| Some(line["error"]["code"].as_str()?.to_owned()))
        .collect();
    match codes.is_empty() {
        // Nothing was begun, since its destination could not be looked at.
        true => vec![error_code(&said.stderr)],
        false => codes,
    }
}

#[test]
fn rights_are_those_of_each_path_and_taking_away_wins() {
    let world = World::start();
    let (home, laptop) = (&world.pair.home, &world.pair.laptop);
    for name in ["public/secret", "public/sub", "private"] {
        fs::create_dir_all(world.www(name)).unwrap();
    }
    for name in ["public/p", "public/secret/s", "public/sub/q", "private/v"] {
        fs::write(world.www(name), "kept").unwrap();
    }
    home.cli(&["revoke", "laptop", ALL[3]]).exits(0);
    world.grant(&[
        "bucket:www/public/**=list,read",
        "bucket:www/public/sub/**=write",
        "!bucket:www/public/secret/**=list,read,write",
    ]);
    let one = world.text("one");
    fs::write(&one, "x").unwrap();
    let down = world.make("down");
    let down_text = down.to_str().unwrap();
    let cat = laptop.cli(&["cat", "home:www/public/p"]).exits(0);
    assert_eq!(cat.stdout, "kept");
    laptop
        .cli(&["put", &one, "home:www/public/sub/new"])
        .exits(0);
    for words in [
        &["cat", "home:www/public/secret/s"][..],
        &["cat", "home:www/private/v"],
        // Whether it is there is not told.
        &["cat", "home:www/private/none"],
        &["stat", "home:www/private/v"],
        &["ls", "home:www"],
        &["ls", "home:www/private"],
        &["ls", "home:www/public/secret"],
        &["rm", "home:www/public/p"],
        &["rm", "-rf", "home:www/public/secret"],
        &["mkdir", "home:www/public/new"],
        &["mv", "home:www/public/p", "home:www/public/sub/p"],
        &["mv", "home:www/public/sub/q", "home:www/public/q"],
    ] {
        assert_eq!(refusal(&world, words, 4), "FORBIDDEN", "{words:?}");
    }
    for words in [
        &["put", &one, "home:www/public/new"][..],
        &["put", &one, "home:www/private/new"],
        &["put", &one, "home:www/public/secret/s"],
        &["get", "home:www/private/v", down_text],
        &["get", "-r", "home:www/public/secret", down_text],
        &["cp", "home:www/public/secret/s", "home:www/public/sub/s"],
        &["cp", "home:www/public/p", "home:www/public/p2"],
    ] {
        assert_eq!(failures(&world, words), ["FORBIDDEN"], "{words:?}");
    }
    // All that may be read comes, and nothing else is named.
    let get = ["get", "-r", "home:www/public", down_text, "-v"];
    let said = laptop.cli(&get).exits(0);
    assert!(!format!("{said:?}").contains("secret"), "{said:?}");
    assert!(down.join("public/sub/q").exists() && !down.join("public/secret").exists());
    let said = laptop.cli(&["ls", "-R", "home:www/public"]).exits(0);
    assert!(!said.stdout.contains("secret"), "{said:?}");
    // Who may not write all of it may not remove it.
    let words = ["rm", "-r", "--yes", "home:www/public"];
    assert_eq!(refusal(&world, &words, 4), "FORBIDDEN");
    for name in ["public/p", "public/secret/s", "public/sub/q", "private/v"] {
        assert_eq!(fs::read(world.www(name)).unwrap(), b"kept", "{name}");
    }
}

#[test]
fn a_right_that_is_taken_away_ends_a_download_that_is_under_way() {
    let world = World::start();
    let (home, laptop) = (&world.pair.home, &world.pair.laptop);
    large_file(&world.www("large"), 160 * MIB);
    let down = world.make("down");
    let (sizes, ended) = sizes_seen(&down.join("large"), || {
        let words = ["get", "home:www/large", down.to_str().unwrap()];
        let mut getting = laptop.spawn(&words);
        eventually("it is under way", || {
            let partials = partials(&down);
            let bytes = 4 * MIB as u64;
            partials.iter().any(|(_, len)| *len > bytes).then_some(())
        });
        home.cli(&["revoke", "laptop", ALL[3]]).exits(0);
        getting.code()
    });
    let ended = ended.exits(1);
    assert!(ended.stderr.contains("FORBIDDEN"), "{ended:?}");
    assert!(sizes.is_empty(), "{sizes:?} had the name");
}

#[test]
fn a_quota_is_kept_and_what_was_there_stays() {
    let bucket = |dir: &Path| {
        fs::create_dir(dir.join("small")).unwrap();
        let path = toml(&dir.join("small"));
        format!(
            "[[bucket]]\nname = \"small\"\npath = {path}\nquota = \"4MiB\"\nquota_entries = 6\n"
        )
    };
    let world = World::with(bucket);
    world.grant(&["bucket:small/**=list,read,write"]);
    let laptop = &world.pair.laptop;
    let small = world.path("small");
    large_file(&world.path("five"), 5 * MIB);
    large_file(&world.path("three"), 3 * MIB);
    fs::write(world.path("one"), "one").unwrap();
    let (five, three, one) = (world.text("five"), world.text("three"), world.text("one"));
    laptop.cli(&["put", &one, "home:small/kept"]).exits(0);
    let (sizes, codes) = sizes_seen(&small.join("kept"), || {
        failures(&world, &["put", &five, "home:small/kept"])
    });
    assert_eq!(
        (&sizes[..], &codes[..]),
        (&[3][..], &["QUOTA_EXCEEDED".to_owned()][..])
    );
    // Its length is not known before.
    let (sizes, said) = sizes_seen(&small.join("fed"), || {
        let five = fs::read(world.path("five")).unwrap();
        laptop.feed(&["put", "-", "home:small/fed"], &five)
    });
    assert!(said.exits(1).stderr.contains("QUOTA_EXCEEDED"));
    assert!(sizes.is_empty(), "{sizes:?} had the name");
    laptop.cli(&["put", &three, "home:small/three"]).exits(0);
    let codes = failures(&world, &["put", &three, "home:small/again"]);
    assert_eq!(codes, ["QUOTA_EXCEEDED"]);
    // Of many files, none comes that does not fit.
    let tree = world.make("tree");
    for at in 0..9 {
        fs::write(tree.join(format!("f{at}")), "x").unwrap();
    }
    let codes = failures(&world, &["put", "-r", &world.text("tree"), "home:small/"]);
    // What is full for one is full for what follows.
    let all = codes.iter().all(|code| code == "QUOTA_EXCEEDED");
    assert!(all && codes.len() < 9, "{codes:?}");
    let there = fs::read_dir(small.join("tree")).unwrap().count();
    // Those that were on their way in other streams may be given up.
    assert!((1..=3).contains(&there), "{there} of three that fit");
    laptop.cli(&["rm", "home:small/three"]).exits(0);
    laptop.cli(&["put", &three, "home:small/again"]).exits(0);
    assert_eq!(fs::read(small.join("kept")).unwrap(), b"one");
    assert_eq!(partials(&small), []);
}

#[test]
fn a_bucket_that_is_read_only_is_read_and_nothing_else() {
    let world = World::with(|dir| {
        fs::create_dir(dir.join("ro")).unwrap();
        let path = toml(&dir.join("ro"));
        format!("[[bucket]]\nname = \"ro\"\npath = {path}\nread_only = true\n")
    });
    world.grant(&["bucket:ro/**=list,read,write,admin", "fs:gc"]);
    fs::write(world.path("ro/file"), "kept").unwrap();
    fs::create_dir(world.path("ro/sub")).unwrap();
    let before = fs::metadata(world.path("ro")).unwrap().modified().unwrap();
    let laptop = &world.pair.laptop;
    let one = world.text("one");
    fs::write(&one, "x").unwrap();
    let said = laptop.cli(&["cat", "home:ro/file"]).exits(0);
    assert_eq!(said.stdout, "kept");
    for words in [
        &["rm", "home:ro/file"][..],
        &["rm", "-rf", "home:ro/sub"],
        &["mkdir", "home:ro/new"],
        &["mv", "home:ro/file", "home:ro/new"],
    ] {
        assert_eq!(refusal(&world, words, 1), "READ_ONLY", "{words:?}");
    }
    for words in [
        &["put", &one, "home:ro/file"][..],
        &["put", &one, "home:ro/new"],
        &["cp", "home:ro/file", "home:ro/new"],
    ] {
        assert_eq!(failures(&world, words), ["READ_ONLY"], "{words:?}");
    }
    let calls = [
        ("fs/write-text", json!({"file": "ro/file", "text": "x"})),
        ("fs/mkdir", json!({"file": "ro/new"})),
        ("fs/set-attributes", json!({"file": "ro/file", "mode": 511})),
        ("fs/link", json!({"file": "ro/new", "target": "file"})),
        ("fs/hard-link", json!({"file": "ro/file", "to": "ro/new"})),
        ("fs/hard-link", json!({"file": "ro/file", "to": "www/new"})),
        ("fs/rename", json!({"file": "ro/file", "to": "www/new"})),
        ("fs/copy", json!({"file": "ro/file", "to": "ro/new"})),
        ("fs/remove", json!({"file": "ro/sub"})),
    ];
    for (call, answer) in calls.iter().zip(world.calls(&calls)) {
        let code = answer["error"]["code"].as_str().unwrap();
        let between = call.1["to"] == "www/new" && code == "OTHER_FILE_SYSTEM";
        assert!(code == "READ_ONLY" || between, "{call:?}: {answer}");
    }
    for more in [json!({}), json!({"append": true}), json!({"offset": 0})] {
        let mut input = more;
        input["file"] = json!("ro/file");
        let words = ["call", "fs/write", &input.to_string(), "--on", "home"];
        let said = laptop.feed(&words, b"x").exits(1);
        assert!(said.stderr.contains("READ_ONLY"), "{input}: {said:?}");
    }
    let now = fs::metadata(world.path("ro")).unwrap().modified().unwrap();
    assert_eq!(now, before, "nothing was made there, not even for a moment");
    assert_eq!(fs::read(world.path("ro/file")).unwrap(), b"kept");
}

/// A node in a place of its own, run by another program with these words; the
/// bucket `www` is in the directory that is returned.
#[track_caller]
fn home_under(under: &Command, more: &str) -> (Node, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let bucket = dir.path().join("www");
    fs::create_dir(&bucket).unwrap();
    let place = Place::new();
    place.configure(&format!(
        "name = \"home\"\n{}\n[[bucket]]\nname = \"www\"\npath = {}\n{more}",
        exec_config(),
        toml(&bucket)
    ));
    let words: Vec<_> = under.get_args().map(ToOwned::to_owned).collect();
    let mut whole = Command::new("env");
    whole
        .arg(format!("BUCKET={}", bucket.display()))
        .arg(under.get_program())
        .args(words);
    (Node::start_under(place, "home", &whole), dir)
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing_under_the_name() {
    const NAME: &str = "a_full_disk_is_told_and_leaves_nothing_under_the_name";
    if !rustix::process::geteuid().is_root() {
        return alknet_lab::skip(NAME, "only root mounts a file system of its own");
    }
    let probe = Command::new("unshare")
        .args(["--mount", "mount", "-t", "tmpfs", "none", "/mnt"])
        .output();
    if !probe.is_ok_and(|said| said.status.success()) {
        return alknet_lab::skip(NAME, "no file system of its own can be mounted here");
    }
    // The mount ends with the node, whose namespace it is in.
    let mut under = Command::new("unshare");
    under
        .args(["--mount", "--propagation", "private", "--", "sh", "-c"])
        .arg("mount -t tmpfs -o size=16m tmpfs \"$BUCKET\" && exec \"$@\"")
        .arg("sh");
    let (home, dir) = home_under(&under, "keep_free = \"1MiB\"\n");
    // The bucket as the node sees it.
    let bucket = PathBuf::from(format!("/proc/{}/root", home.pid()))
        .join(dir.path().strip_prefix("/").unwrap())
        .join("www");
    let world = World::of(home, dir);
    let laptop = &world.pair.laptop;
    large_file(&world.path("large"), 20 * MIB);
    large_file(&world.path("ten"), 10 * MIB);
    let (large, ten) = (world.text("large"), world.text("ten"));
    let (sizes, codes) = sizes_seen(&bucket.join("large"), || {
        failures(&world, &["put", &large, "home:www/large"])
    });
    assert_eq!((sizes, codes), (vec![], vec!["NO_SPACE".to_owned()]));
    laptop.cli(&["put", &ten, "home:www/ten"]).exits(0);
    let whole = 10 * MIB as u64;
    // How long it will be is not known before.
    let (sizes, said) = sizes_seen(&bucket.join("ten"), || {
        let bytes = fs::read(world.path("large")).unwrap();
        laptop.feed(&["put", "-", "home:www/ten"], &bytes)
    });
    assert!(said.exits(1).stderr.contains("NO_SPACE"));
    assert_eq!(sizes, [whole], "what was there stays whole");
    // Somebody else fills the disk beyond what the node leaves free.
    let filled = fs::write(bucket.join("others"), vec![1; 16 * MIB]);
    assert!(filled.is_err(), "the disk is small");
    fs::write(world.path("tiny"), "tiny").unwrap();
    let (sizes, codes) = sizes_seen(&bucket.join("tiny"), || {
        failures(&world, &["put", &world.text("tiny"), "home:www/tiny"])
    });
    assert_eq!((sizes, codes), (vec![], vec!["NO_SPACE".to_owned()]));
    let words = [
        "call",
        "fs/write-text",
        r#"{"file": "www/tiny", "text": "x"}"#,
        "--on",
        "home",
    ];
    assert_eq!(refusal(&world, &words, 1), "NO_SPACE");
    // What makes room is possible on a full disk.
    laptop.cli(&["rm", "home:www/others"]).exits(0);
    laptop
        .cli(&["put", &world.text("tiny"), "home:www/tiny"])
        .exits(0);
    let said = laptop.cli(&["cat", "home:www/tiny"]).exits(0);
    assert_eq!(said.stdout, "tiny");
    assert_eq!(partials(&bucket), []);
}

#[test]
fn what_the_host_refuses_is_told_and_the_rest_is_done() {
    const NAME: &str = "what_the_host_refuses_is_told_and_the_rest_is_done";
    let (home, dir) = if rustix::process::geteuid().is_root() {
        if !Command::new("setpriv")
            .arg("--help")
            .output()
            .is_ok_and(|said| said.status.success())
        {
            return alknet_lab::skip(NAME, "no setpriv");
        }
        // Root as others are: modes count.
        let mut under = Command::new("setpriv");
        under.args([
            "--inh-caps=-dac_override,-dac_read_search",
            "--bounding-set=-dac_override,-dac_read_search",
            "--",
        ]);
        home_under(&under, "")
    } else {
        home_under(Command::new("env").arg("-u").arg("X"), "")
    };
    let world = World::of(home, dir);
    for name in ["tree", "tree/closed", "tree/fixed"] {
        fs::create_dir(world.www(name)).unwrap();
    }
    for name in [
        "tree/open",
        "tree/unreadable",
        "tree/closed/in",
        "tree/fixed/in",
    ] {
        fs::write(world.www(name), "kept").unwrap();
    }
    let mode = |name: &str, mode: u32| {
        fs::set_permissions(world.www(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("tree/unreadable", 0);
    mode("tree/fixed", 0o555);
    mode("tree/closed", 0);
    let one = world.text("one");
    fs::write(&one, "x").unwrap();
    for words in [
        &["cat", "home:www/tree/unreadable"][..],
        &["cat", "home:www/tree/closed/in"],
        &["ls", "home:www/tree/closed"],
        &["rm", "home:www/tree/fixed/in"],
        &["mkdir", "home:www/tree/fixed/new"],
        &["mv", "home:www/tree/fixed/in", "home:www/tree/out"],
        &["mv", "home:www/tree/open", "home:www/tree/fixed/new"],
    ] {
        assert_eq!(refusal(&world, words, 1), "HOST_REFUSES", "{words:?}");
    }
    let down = world.make("down");
    let down_text = down.to_str().unwrap();
    for words in [
        &["get", "home:www/tree/unreadable", down_text][..],
        &["put", &one, "home:www/tree/fixed/new"],
        &["put", &one, "home:www/tree/fixed/in"],
        &["put", &one, "home:www/tree/closed/new"],
        &["cp", "home:www/tree/unreadable", "home:www/tree/new"],
    ] {
        assert_eq!(failures(&world, words), ["HOST_REFUSES"], "{words:?}");
    }
    let codes = failures(&world, &["get", "-r", "home:www/tree", down_text]);
    assert_eq!(codes, ["HOST_REFUSES", "HOST_REFUSES"]);
    for name in ["tree/open", "tree/fixed/in"] {
        assert_eq!(fs::read(down.join(name)).unwrap(), b"kept", "{name}");
    }
    assert!(!down.join("tree/unreadable").exists());
    for name in ["tree/closed", "tree/fixed"] {
        mode(name, 0o755);
        assert_eq!(fs::read_dir(world.www(name)).unwrap().count(), 1, "{name}");
    }
    mode("tree/unreadable", 0o600);
    for name in [
        "tree/unreadable",
        "tree/closed/in",
        "tree/fixed/in",
        "tree/open",
    ] {
        assert_eq!(fs::read(world.www(name)).unwrap(), b"kept", "{name}");
    }
}
