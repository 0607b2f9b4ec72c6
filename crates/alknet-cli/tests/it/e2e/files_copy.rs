//! `get`, `put` and `cp` between processes of their own.

use super::{
    harness::{Node, Pair, eventually, exec_config, toml},
    trees::{
        assert_same_bytes, assert_same_tree, large_file, many_files, odd_tree, partials, pattern,
    },
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};
use tempfile::TempDir;

const ALL: [&str; 4] = [
    "fs:list",
    "fs:read",
    "fs:write",
    "bucket:www/**=list,read,write",
];

/// `laptop`, which may do everything with the bucket `www` of `home`.
struct Copies {
    pair: Pair,
    dir: TempDir,
}

impl Copies {
    #[track_caller]
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["home", "laptop"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let config = |name: &str| {
            let path = toml(&dir.path().join(name));
            format!(
                "{}[[bucket]]\nname = \"www\"\npath = {path}\n",
                exec_config()
            )
        };
        let pair = Pair {
            home: Node::start("home", &config("home")),
            laptop: Node::start("laptop", &config("laptop")),
        };
        pair.join();
        pair.grant(&ALL);
        Self { pair, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A file in the bucket of `home`.
    fn www(&self, name: &str) -> PathBuf {
        self.path("home").join(name)
    }

    fn make(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }
}

/// The line with the sums.
#[track_caller]
fn summary(stdout: &str) -> Value {
    let last: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    last["summary"].clone()
}

#[test]
fn a_tree_comes_back_as_it_went_and_is_not_copied_twice() {
    let copies = Copies::start();
    let laptop = &copies.pair.laptop;
    let tree = copies.make("tree");
    odd_tree(&tree);
    let put = ["put", "-r", &copies.text("tree"), "home:www/", "--json"];
    let said = laptop.cli(&put).exits(0);
    assert_same_tree(&tree, &copies.www("tree"));
    let sums = summary(&said.stdout);
    let lines = said.stdout.lines().filter(|line| line.contains("\"file\""));
    assert_eq!(sums["files"], lines.count());
    assert_eq!(sums["failed"], 0);
    let blocks = |path: PathBuf| path.metadata().unwrap().blocks();
    assert!(blocks(copies.www("tree/sparse")) < 1000, "holes stay holes");

    let said = laptop.cli(&put).exits(0);
    let again = summary(&said.stdout);
    assert_eq!((&again["files"], &again["bytes"]), (&json!(0), &json!(0)));
    assert_eq!(again["skipped"], sums["files"]);

    let back = copies.make("back");
    laptop
        .cli(&["get", "-r", "home:www/tree", &copies.text("back")])
        .exits(0);
    assert_same_tree(&tree, &back.join("tree"));
    assert!(blocks(back.join("tree/sparse")) < 1000, "holes stay holes");

    laptop.cli(&["cp", "-r", "home:www/tree", ":www/"]).exits(0);
    assert_same_tree(&tree, &copies.path("laptop/tree"));
    laptop
        .cli(&["cp", "-r", "home:www/tree", "home:www/within"])
        .exits(0);
    assert_same_tree(&tree, &copies.www("within"));
}

#[test]
fn the_destination_is_a_directory_or_a_name_as_for_cp() {
    let copies = Copies::start();
    let laptop = &copies.pair.laptop;
    let (a, b) = (copies.text("a.txt"), copies.text("b.txt"));
    fs::write(&a, "a").unwrap();
    fs::write(&b, "bb").unwrap();
    let read = |name: &str| fs::read_to_string(copies.www(name)).unwrap();
    laptop.cli(&["put", &a, "home:www"]).exits(0);
    assert_eq!(read("a.txt"), "a");
    laptop.cli(&["put", &a, "home:www/named"]).exits(0);
    assert_eq!(read("named"), "a");
    laptop.cli(&["put", &a, "home:www/missing/"]).exits(2);
    laptop.cli(&["put", &a, &b, "home:www/missing"]).exits(2);
    laptop.cli(&["put", &a, &b, "home:www/a.txt"]).exits(2);
    laptop
        .cli(&["put", &a, &b, "home:www/made/deep", "--parents"])
        .exits(0);
    assert_eq!(
        (read("made/deep/a.txt"), read("made/deep/b.txt")),
        ("a".into(), "bb".into())
    );
    laptop.cli(&["put", &a, "home:www/more/new.txt"]).exits(1);
    laptop
        .cli(&["put", &a, "home:www/more/new.txt", "--parents"])
        .exits(0);
    assert_eq!(read("more/new.txt"), "a");
    // A directory takes -r, and the others are copied.
    let said = laptop
        .cli(&["put", &a, &copies.text("laptop"), "home:www/more/"])
        .exits(1);
    assert!(said.stderr.contains("IS_A_DIRECTORY"), "{said:?}");
    assert_eq!(read("more/a.txt"), "a");

    let down = copies.make("down");
    laptop
        .cli(&["get", "home:www/made/deep/*.txt", &copies.text("down")])
        .exits(0);
    assert_eq!(fs::read_dir(&down).unwrap().count(), 2);
    laptop
        .cli(&["get", "-r", "-T", "home:www/made", &copies.text("down")])
        .exits(0);
    assert!(down.join("deep/a.txt").exists());
    let said = laptop.cli(&["get", "home:www/a.txt", "-"]).exits(0);
    assert_eq!(said.stdout, "a");
    laptop
        .feed(&["put", "-", "home:www/input"], b"from standard input")
        .exits(0);
    assert_eq!(read("input"), "from standard input");
    laptop.cli(&["cp", &a, &b]).exits(2);
    laptop
        .cli(&["get", "home:www/none", &copies.text("down")])
        .exits(1);
    laptop
        .cli(&["get", "home:none/none", &copies.text("down")])
        .exits(1);
}

#[test]
fn what_is_there_is_kept_compared_or_replaced_as_asked() {
    let copies = Copies::start();
    let laptop = &copies.pair.laptop;
    let tree = copies.make("tree");
    many_files(&tree, 2, 20);
    let text = copies.text("tree");
    let put = |more: &[&str]| {
        let words = [&["put", "-r", &text, "home:www/", "--json"], more].concat();
        summary(&laptop.cli(&words).exits(0).stdout)
    };
    let trial = put(&["--dry-run"]);
    assert_eq!(trial["files"], 40);
    assert!(!copies.www("tree").exists());
    assert_eq!(put(&[])["files"], 40);
    // Same size and time, other bytes.
    let there = copies.www("tree/d0/f3");
    let time = there.metadata().unwrap().modified().unwrap();
    let bytes = fs::read(&there).unwrap();
    fs::write(&there, vec![b'x'; bytes.len()]).unwrap();
    fs::File::open(&there).unwrap().set_modified(time).unwrap();
    assert_eq!(put(&[])["files"], 0);
    let trial = put(&["--dry-run", "-c"]);
    assert_eq!(
        (&trial["files"], &trial["skipped"]),
        (&1.into(), &39.into())
    );
    assert_eq!(put(&["-c"])["files"], 1);
    assert_eq!(fs::read(&there).unwrap(), bytes);
    assert_eq!(put(&["-I"])["files"], 40);
    // Only permissions are others.
    fs::set_permissions(&there, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(put(&[])["files"], 0);
    assert_same_tree(&tree, &copies.www("tree"));
    fs::write(&there, "kept").unwrap();
    fs::remove_file(copies.www("tree/d1/f7")).unwrap();
    assert_eq!(put(&["-n"])["files"], 1);
    assert_eq!(fs::read(&there).unwrap(), b"kept");
    // Something of another kind is in the way.
    fs::remove_file(&there).unwrap();
    symlink("f1", &there).unwrap();
    assert_eq!(put(&[])["files"], 1);
    assert_same_tree(&tree, &copies.www("tree"));
}

#[test]
fn links_are_kept_or_followed_and_what_is_no_file_is_left_out() {
    let copies = Copies::start();
    let laptop = &copies.pair.laptop;
    let tree = copies.make("tree");
    fs::create_dir(tree.join("real")).unwrap();
    fs::write(tree.join("real/file"), "x").unwrap();
    symlink("real", tree.join("directory")).unwrap();
    symlink("real/file", tree.join("file")).unwrap();
    let fifo = std::process::Command::new("mkfifo")
        .arg(tree.join("pipe"))
        .status();
    assert!(fifo.unwrap().success());
    let text = copies.text("tree");
    let said = laptop.cli(&["put", "-r", &text, "home:www/"]).exits(0);
    assert!(said.stderr.contains("pipe"), "{said:?}");
    assert!(copies.www("tree/file").is_symlink() && copies.www("tree/directory").is_symlink());
    assert!(!copies.www("tree/pipe").exists());
    laptop
        .cli(&["put", "-rL", &text, "home:www/followed", "-T"])
        .exits(0);
    assert!(!copies.www("followed/file").is_symlink());
    assert_eq!(
        fs::read(copies.www("followed/directory/file")).unwrap(),
        b"x"
    );
    laptop
        .cli(&["get", "-rL", "home:www/tree", &copies.text("down"), "-T"])
        .exits(0);
    assert_eq!(fs::read(copies.path("down/directory/file")).unwrap(), b"x");
    assert!(!copies.path("down/file").is_symlink());
    // A link that is named is followed, unless it is to be kept.
    laptop
        .cli(&["put", &copies.text("tree/file"), "home:www/plain"])
        .exits(0);
    assert!(!copies.www("plain").is_symlink());
    // One that leads out is named, and the rest is copied.
    symlink("/etc/passwd", tree.join("out")).unwrap();
    fs::write(tree.join("new"), "y").unwrap();
    let said = laptop.cli(&["put", "-r", &text, "home:www/"]).exits(1);
    assert!(said.stderr.contains("LEADS_OUTSIDE"), "{said:?}");
    assert!(copies.www("tree/new").exists() && !copies.www("tree/out").is_symlink());
}

/// Waits until an upload, or a download, is some way.
fn under_way(directory: &Path, bytes: u64) {
    eventually("a large file is under way", || {
        partials(directory)
            .iter()
            .any(|(_, len)| *len >= bytes)
            .then_some(())
    });
}

const LARGE: usize = 160 << 20;

#[test]
fn a_killed_copy_goes_on_where_it_stopped() {
    let copies = Copies::start();
    let laptop = &copies.pair.laptop;
    large_file(&copies.path("large"), LARGE);
    let words = ["put", &copies.text("large"), "home:www/", "-v"];
    let mut putting = laptop.spawn(&words);
    under_way(&copies.path("home"), 8 << 20);
    putting.child.kill().unwrap();
    putting.child.wait().unwrap();
    assert!(
        !copies.www("large").exists(),
        "nothing partial has the name"
    );
    let said = laptop.cli(&words).exits(0);
    assert!(said.stderr.contains("goes on at byte"), "{said:?}");
    assert_same_bytes(&copies.path("large"), &copies.www("large"));
    assert_eq!(partials(&copies.path("home")), []);

    let down = copies.make("down");
    let words = ["get", "home:www/large", &copies.text("down"), "-v"];
    let mut getting = laptop.spawn(&words);
    under_way(&down, 8 << 20);
    getting.child.kill().unwrap();
    getting.child.wait().unwrap();
    assert!(!down.join("large").exists(), "nothing partial has the name");
    let said = laptop.cli(&words).exits(0);
    assert!(said.stderr.contains("goes on at byte"), "{said:?}");
    assert_same_bytes(&copies.path("large"), &down.join("large"));
    assert_eq!(partials(&down), []);
}

#[test]
fn what_was_kept_of_another_file_is_not_gone_on_with() {
    let copies = Copies::start();
    let laptop = &copies.pair.laptop;
    large_file(&copies.path("large"), LARGE);
    let words = ["put", &copies.text("large"), "home:www/", "-v"];
    let mut putting = laptop.spawn(&words);
    under_way(&copies.path("home"), 8 << 20);
    putting.child.kill().unwrap();
    putting.child.wait().unwrap();
    // The disk lost what it had.
    let (partial, bytes) = eventually("it is kept", || partials(&copies.path("home")).pop());
    fs::write(
        copies.www("").join(partial),
        vec![0; usize::try_from(bytes).unwrap()],
    )
    .unwrap();
    let said = laptop.cli(&words).exits(0);
    assert!(!said.stderr.contains("goes on"), "{said:?}");
    assert_same_bytes(&copies.path("large"), &copies.www("large"));
}

#[test]
fn a_copy_outlives_the_node_at_the_other_end() {
    let mut copies = Copies::start();
    let tree = copies.make("tree");
    many_files(&tree, 4, 100);
    large_file(&tree.join("large"), LARGE);
    let text = copies.text("tree");
    let mut putting = copies
        .pair
        .laptop
        .spawn(&["put", "-r", &text, "home:www/", "--json"]);
    let there = copies.www("tree");
    eventually("it has begun", || there.exists().then_some(()));
    under_way(&there, 8 << 20);
    copies.pair.home.kill();
    copies.pair.home.restart();
    let ended = putting.code().exits(0);
    assert_eq!(ended.stderr, "", "with --json it is for errors");
    assert_same_tree(&tree, &there);
    let lines = std::mem::replace(&mut putting.lines, no_lines()).rest();
    let sums: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    assert_eq!(sums["summary"]["files"], 401, "each counts once: {sums}");
    assert_eq!(sums["summary"]["skipped"], 0, "{sums}");
}

fn no_lines() -> crate::program::Lines {
    let mut child = std::process::Command::new("true")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = crate::program::Lines::of(child.stdout.take().unwrap());
    child.wait().unwrap();
    lines
}

#[test]
fn a_copy_outlives_the_node_that_it_goes_through() {
    let mut copies = Copies::start();
    large_file(&copies.path("large"), LARGE);
    let words = ["put", &copies.text("large"), "home:www/", "-v"];
    let mut putting = copies.pair.laptop.spawn(&words);
    under_way(&copies.path("home"), 8 << 20);
    copies.pair.laptop.kill();
    copies.pair.laptop.restart();
    let ended = putting.code().exits(0);
    assert!(ended.stderr.contains("trying again"), "{ended:?}");
    assert_same_bytes(&copies.path("large"), &copies.www("large"));
}

#[test]
fn a_right_that_is_taken_away_ends_the_copy_and_leaves_nothing_half() {
    let copies = Copies::start();
    large_file(&copies.path("large"), LARGE);
    let mut putting =
        copies
            .pair
            .laptop
            .spawn(&["put", &copies.text("large"), "home:www/", "--json"]);
    under_way(&copies.path("home"), 8 << 20);
    copies
        .pair
        .home
        .cli(&["revoke", "laptop", "bucket:www/**=list,read,write"])
        .exits(0);
    let ended = putting.code();
    assert!(matches!(ended.code, Some(1 | 4)), "{ended:?}");
    let lines = std::mem::replace(&mut putting.lines, no_lines()).rest();
    assert!(
        lines.iter().any(|line| line.contains("FORBIDDEN")),
        "{lines:?}"
    );
    assert!(
        !copies.www("large").exists(),
        "nothing partial has the name"
    );
}

#[test]
fn a_right_to_one_file_is_enough_to_copy_it() {
    let copies = Copies::start();
    let Pair { home, laptop } = &copies.pair;
    home.cli(&["revoke", "laptop", "bucket:www/**=list,read,write"])
        .exits(0);
    home.cli(&[
        "grant",
        "laptop",
        "bucket:www/public/**=read,list",
        "bucket:www/drop/a=write",
    ])
    .exits(0);
    fs::create_dir(copies.www("drop")).unwrap();
    fs::create_dir(copies.www("public")).unwrap();
    fs::write(copies.www("public/p"), "p").unwrap();
    fs::write(copies.path("a"), "a").unwrap();
    laptop
        .cli(&["put", &copies.text("a"), "home:www/drop/a"])
        .exits(0);
    assert_eq!(fs::read(copies.www("drop/a")).unwrap(), b"a");
    let said = laptop.cli(&["put", &copies.text("a"), "home:www/drop/b"]);
    let said = said.exits(1);
    assert!(said.stderr.contains("FORBIDDEN"), "{said:?}");
    copies.make("down");
    laptop
        .cli(&["get", "-r", "home:www/public", &copies.text("down")])
        .exits(0);
    assert_eq!(fs::read(copies.path("down/public/p")).unwrap(), b"p");
    laptop
        .cli(&["get", "-r", "home:www/drop", &copies.text("down")])
        .exits(1);
}

/// What a peer names may not lead out of where it is copied to, also if links
/// that it made are there already.
#[test]
fn links_at_the_destination_lead_nothing_away() {
    let copies = Copies::start();
    let laptop = &copies.pair.laptop;
    fs::create_dir_all(copies.www("tree/sub")).unwrap();
    fs::write(copies.www("tree/sub/file"), "evil").unwrap();
    fs::write(copies.www("tree/large"), pattern(3 << 20)).unwrap();
    let outside = copies.make("outside");
    fs::write(outside.join("file"), "mine").unwrap();
    let down = copies.make("down/tree");
    symlink(&outside, down.join("sub")).unwrap();
    symlink(outside.join("file"), down.join("large")).unwrap();
    let said = laptop
        .cli(&["get", "-r", "home:www/tree", &copies.text("down")])
        .exits(1);
    assert!(said.stderr.contains("NOT_A_DIRECTORY"), "{said:?}");
    assert_eq!(fs::read(outside.join("file")).unwrap(), b"mine");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    // A link of that name is replaced, and not followed.
    assert!(!down.join("large").is_symlink());
}

/// The last line that tells how far it is tells the truth.
#[test]
fn progress_ends_with_what_was_copied() {
    let copies = Copies::start();
    let laptop = &copies.pair.laptop;
    let tree = copies.make("tree");
    many_files(&tree, 4, 50);
    large_file(&tree.join("large"), LARGE);
    let words = [
        "put",
        "-r",
        &copies.text("tree"),
        "home:www/",
        "--json",
        "--progress",
    ];
    let said = laptop.cli(&words).exits(0);
    let lines = said
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let told: Vec<Value> = lines
        .filter_map(|line| line.get("progress").cloned())
        .collect();
    let sums = summary(&said.stdout);
    let last = told.last().unwrap();
    assert_eq!(last["bytes"], sums["bytes"], "{last} {sums}");
    assert_eq!(last["files"], 201);
    assert_eq!(
        (&last["files_total"], &last["bytes_total"]),
        (&last["files"], &last["bytes"])
    );
    let bytes: Vec<u64> = told
        .iter()
        .map(|told| told["bytes"].as_u64().unwrap())
        .collect();
    assert!(bytes.is_sorted(), "{bytes:?}");
}

/// As many as `./test` has time for, or a hundred thousand.
#[test]
fn slow_many_files_are_copied_in_flat_memory() {
    let is_full = std::env::var_os("ALKNET_TEST_FULL").is_some();
    let (directories, files) = if is_full { (1000, 100) } else { (20, 100) };
    let copies = Copies::start();
    let laptop = &copies.pair.laptop;
    let tree = copies.make("tree");
    many_files(&tree, directories, files);
    let text = copies.text("tree");
    let there = copies.www("tree");
    // Killed half-way.
    let mut putting = laptop.spawn(&["put", "-r", &text, "home:www/"]);
    eventually("a part of it is there", || {
        let of = |name: &str| fs::read_dir(there.join(name)).map_or(0, Iterator::count);
        let done: usize = (0..10).map(|at| of(&format!("d{at}"))).sum();
        (done >= 300).then_some(())
    });
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&putting.child),
        Signal::KILL,
    )
    .unwrap();
    putting.child.wait().unwrap();
    let mut putting = laptop.spawn(&["put", "-r", &text, "home:www/"]);
    let peak = peak_until_end(&mut putting.child);
    let ended = putting.code().exits(0);
    assert!(ended.stderr.contains("there already"), "{ended:?}");
    assert_same_tree(&tree, &there);
    let down = copies.make("down");
    let mut getting = laptop.spawn(&["get", "-r", "home:www/tree", &copies.text("down")]);
    let peak = peak.max(peak_until_end(&mut getting.child));
    getting.code().exits(0);
    assert_same_tree(&tree, &down.join("tree"));
    assert!(peak < 250 * 1024, "{peak} KiB");
}

/// The most memory that a process had, in KiB, as far as it was looked at.
fn peak_until_end(child: &mut std::process::Child) -> u64 {
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak = peak.max(kib.unwrap_or(0));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    peak
}

/// Three nodes: the laptop has `home` copy from `nas`.
#[test]
fn two_peers_copy_without_the_caller_where_they_know_each_other() {
    let copies = Copies::start();
    let Pair { home, laptop } = &copies.pair;
    let bucket = copies.make("nas");
    let path = toml(&bucket);
    let nas = Node::start(
        "nas",
        &format!(
            "{}[[bucket]]\nname = \"www\"\npath = {path}\n",
            exec_config()
        ),
    );
    let join = |host: &Node, guest: &Node| {
        let ticket = host.cli(&["invite", "-q"]).exits(0).stdout;
        guest.feed(&["join", "-"], ticket.as_bytes()).exits(0);
        guest.connected(&host.name);
    };
    join(&nas, laptop);
    nas.cli(&[&["grant", "laptop"], &ALL[..]].concat()).exits(0);
    odd_tree(&bucket.join("tree"));
    large_file(&bucket.join("tree/larger"), 30 << 20);
    let shared = bucket.join("tree/shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
    symlink("larger", bucket.join("tree/lead")).unwrap();
    let extras = |top: &Path| {
        let mode = top.join("shared").metadata().unwrap().permissions().mode();
        let time = top.join("lead").symlink_metadata().unwrap().modified();
        (mode & 0o7777, time.unwrap())
    };
    // They do not know each other: the bytes come by.
    let said = laptop
        .cli(&["cp", "-r", "-v", "nas:www/tree", "home:www/"])
        .exits(0);
    assert!(said.stderr.contains("pass through here"), "{said:?}");
    assert_same_tree(&bucket.join("tree"), &copies.www("tree"));
    assert_eq!(extras(&copies.www("tree")).0, 0o1777);
    join(&nas, home);
    let before = bytes_received(laptop, "nas");
    let words = ["cp", "-r", "-T", "-v", "nas:www/tree", "home:www/direct"];
    let said = laptop.cli(&words).exits(0);
    assert!(
        said.stderr.contains("from one peer to the other"),
        "{said:?}"
    );
    assert_same_tree(&bucket.join("tree"), &copies.www("direct"));
    assert_eq!(extras(&bucket.join("tree")), extras(&copies.www("direct")));
    let moved = bytes_received(laptop, "nas") - before;
    assert!(moved < 5_000_000, "{moved} bytes came by");
    laptop
        .cli(&["cp", "nas:www/tree/larger", "home:www/one"])
        .exits(0);
    assert_same_bytes(&bucket.join("tree/larger"), &copies.www("one"));
    // What is there is not copied again.
    let said = laptop.cli(&[
        "cp",
        "-r",
        "-T",
        "--json",
        "nas:www/tree",
        "home:www/direct",
    ]);
    assert_eq!(summary(&said.exits(0).stdout)["files"], 0);
}

fn bytes_received(node: &Node, peer: &str) -> u64 {
    node.peer(peer)["link"]["bytes_received"].as_u64().unwrap()
}
