//! `ls`, `cat`, `rm`, `mkdir`, `mv` and `stat`, on a bucket of another node.

use super::harness::{Ended, Node, Pair, eventually, exec_config, toml};
use crate::program::{Said, wait};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};
use tempfile::TempDir;

/// Everything with files in the bucket `www`.
const ALL: [&str; 4] = [
    "fs:list",
    "fs:read",
    "fs:write",
    "bucket:www/**=list,read,write",
];

/// `laptop`, and `home` with a bucket `www`.
struct Files {
    pair: Pair,
    dir: TempDir,
}

impl Files {
    #[track_caller]
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let www = dir.path().join("www");
        fs::create_dir(&www).unwrap();
        let config = format!(
            "{}[[bucket]]\nname = \"www\"\npath = {}\n",
            exec_config(),
            toml(&www)
        );
        let pair = Pair {
            home: Node::start("home", &config),
            laptop: Node::start("laptop", exec_config()),
        };
        pair.join();
        Self { pair, dir }
    }

    /// The same, where the laptop may do everything.
    #[track_caller]
    fn granted() -> Self {
        let files = Self::start();
        files.grant(&ALL);
        files
    }

    #[track_caller]
    fn grant(&self, targets: &[&str]) {
        let words = [&["grant", "laptop"], targets].concat();
        self.pair.home.cli(&words).exits(0);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("www").join(name)
    }

    /// Writes a file, and makes the directories above it.
    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    #[track_caller]
    fn cli(&self, words: &[&str]) -> Said {
        self.pair.laptop.cli(words)
    }

    /// Runs a command, which says nothing but its lines.
    #[track_caller]
    fn lines(&self, words: &[&str]) -> Vec<String> {
        let said = self.cli(words).exits(0);
        assert_eq!(said.stderr, "", "{words:?}");
        said.stdout.lines().map(str::to_owned).collect()
    }

    #[track_caller]
    fn json(&self, words: &[&str]) -> Vec<Value> {
        let lines = self.lines(&[words, &["--json"]].concat());
        let lines = lines.iter().map(|line| serde_json::from_str(line).unwrap());
        lines.collect()
    }
}

fn set_modified(path: &Path, seconds: u64) {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let file = fs::File::open(path).unwrap();
    file.set_modified(at).unwrap();
}

/// The lines of `ls` of coreutils, with single spaces.
#[track_caller]
fn coreutils(dir: &Path, words: &[&str]) -> Vec<String> {
    let mut command = Command::new("ls");
    command.env_clear().env("PATH", "/usr/bin:/bin");
    command.env("LC_ALL", "C").env("TZ", "UTC0");
    let said = command.args(words).current_dir(dir).output().unwrap();
    assert!(said.status.success(), "{said:?}");
    single_spaced(&String::from_utf8(said.stdout).unwrap())
}

fn single_spaced(text: &str) -> Vec<String> {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines().map(words).collect()
}

#[test]
fn a_listing_is_that_of_coreutils() {
    let files = Files::granted();
    for (name, bytes, at) in [
        ("b.txt", 5_usize, 1_700_000_000),
        ("A.txt", 123_456, 1_600_000_000),
        ("c", 0, 1_800_000_000),
        (".hidden", 7, 1_500_000_000),
    ] {
        set_modified(&files.write(name, &vec![b'x'; bytes]), at);
    }
    let mode = |name: &str, mode| {
        fs::set_permissions(files.path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("c", 0o640);
    symlink("b.txt", files.path("link")).unwrap();
    files.write("dir/inner/x", b"");
    mode("dir", 0o1777);
    let www = files.path("");
    for (ours, theirs) in [
        (&["ls", "home:www"][..], &["-1"][..]),
        (&["ls", "-a", "home:www/"], &["-1A"]),
        (&["ls", "-t", "home:www"], &["-1t"]),
        (&["ls", "-S", "-r", "home:www"], &["-1Sr"]),
        (
            &["ls", "-l", "home:www"],
            &["-ln", "--time-style=+%Y-%m-%d %H:%M"],
        ),
        (
            &["ls", "-lah", "home:www"],
            &["-lnAh", "--time-style=+%Y-%m-%d %H:%M"],
        ),
    ] {
        let ours = files.cli(ours).exits(0).stdout;
        let mut theirs = coreutils(&www, theirs);
        theirs.retain(|line| !line.starts_with("total "));
        // Coreutils calls a link's bytes those of its target, as we do.
        assert_eq!(single_spaced(&ours), theirs);
    }
    let unsorted: BTreeSet<String> = files.lines(&["ls", "-U", "home:www"]).into_iter().collect();
    let sorted: BTreeSet<String> = files.lines(&["ls", "home:www"]).into_iter().collect();
    assert_eq!(unsorted, sorted);
}

#[test]
fn a_recursive_listing_is_that_of_coreutils() {
    let files = Files::granted();
    for name in ["a/1", "a/b/2", "a/b/c/3", "a/.h/4", "z/5", "top"] {
        files.write(name, b"");
    }
    symlink("a", files.path("link")).unwrap();
    let check = |ours: &[&str], theirs: &[&str]| {
        let ours = files.lines(ours);
        let theirs = coreutils(&files.path(""), theirs);
        let theirs: Vec<String> = theirs
            .iter()
            .map(|line| match line.strip_suffix(':') {
                Some(".") => "home:www:".to_owned(),
                Some(dir) => format!("home:www{}:", dir.trim_start_matches('.')),
                None => line.clone(),
            })
            .collect();
        assert_eq!(ours, theirs);
    };
    check(&["ls", "-R", "home:www"], &["-R1"]);
    check(&["ls", "-R", "-r", "home:www"], &["-R1r"]);
    // `.h` has a dot that the replacement above would take.
    let hidden = files.lines(&["ls", "-R", "-a", "home:www"]);
    assert!(hidden.contains(&"home:www/a/.h:".to_owned()), "{hidden:?}");
}

#[test]
fn directories_and_files_are_listed_by_name_and_by_pattern() {
    let files = Files::granted();
    for name in [
        "a.txt",
        "b.txt",
        "c.md",
        "d/e.txt",
        "d/f/g.txt",
        "d/f/.h.txt",
        "x[1].txt",
    ] {
        files.write(name, b"1");
    }
    symlink("d", files.path("to-d")).unwrap();
    let check =
        |place: &str, want: &[&str]| assert_eq!(files.lines(&["ls", place]), want, "{place}");
    check("home:www/d", &["e.txt", "f"]);
    check("home:www/to-d", &["e.txt", "f"]);
    check("home:www/a.txt", &["home:www/a.txt"]);
    check("home:www/[ab].txt", &["home:www/a.txt", "home:www/b.txt"]);
    check(
        "home:www/?.*",
        &["home:www/a.txt", "home:www/b.txt", "home:www/c.md"],
    );
    check(
        "home:www/*/*.txt",
        &["home:www/d/e.txt", "home:www/to-d/e.txt"],
    );
    check(
        "home:www/*/f/g.txt",
        &["home:www/d/f/g.txt", "home:www/to-d/f/g.txt"],
    );
    check(
        "home:www/**/*.txt",
        &[
            "home:www/a.txt",
            "home:www/b.txt",
            "home:www/d/e.txt",
            "home:www/d/f/g.txt",
            "home:www/x%5B1].txt",
        ],
    );
    check("home:www/**/f", &["home:www/d/f:", "g.txt"]);
    check("home:www/*/", &["home:www/d:", "e.txt", "f"]);
    // What matches nothing is a name, as in a shell.
    check("home:www/x[1].txt", &["home:www/x%5B1].txt"]);
    check("home:www/x%5B1].txt", &["home:www/x%5B1].txt"]);
    assert_eq!(files.lines(&["ls", "-d", "home:www/d"]), ["home:www/d"]);
    assert_eq!(
        files.lines(&["ls", "-d", "home:www/[dt]*"]),
        ["home:www/d", "home:www/to-d"]
    );
    let both = files.lines(&["ls", "home:www/d/f", "home:www/d"]);
    assert_eq!(
        both,
        ["home:www/d/f:", "g.txt", "", "home:www/d:", "e.txt", "f"]
    );
    let said = files.cli(&["ls", "home:www/*.jpg"]).exits(1);
    assert_eq!(said.stderr, "error: `home:www/*.jpg` matches nothing\n");
    // Some are there and one is not: the rest is listed.
    let said = files.cli(&["ls", "home:www/nope", "home:www/d"]).exits(1);
    assert_eq!(said.stdout, "home:www/d:\ne.txt\nf\n");
    assert_eq!(
        said.stderr,
        "error: NO_SUCH_FILE: `home:www/nope`: there is no such file or directory\n"
    );
}

#[test]
fn buckets_are_listed_here_and_there() {
    let files = Files::granted();
    assert_eq!(files.lines(&["ls", "home:"]), ["www"]);
    // Its own are `inbox`, made at the first start.
    assert_eq!(files.lines(&["ls"]), ["inbox"]);
    assert_eq!(files.lines(&["ls", ":inbox"]), [""; 0]);
    let long = files.lines(&["ls", "-l", ":"]);
    assert_eq!(
        long,
        [
            "BUCKET  KIND  ACCESS       QUOTA  STATE",
            "inbox   host  read, write         ok"
        ]
    );
    let told = files.json(&["ls", "home:"]);
    assert_eq!(
        told,
        [json!({ "name": "www", "kind": "host", "read_only": false, "place": "home:www" })]
    );
}

/// The fields are a promise; what they hold is the host's matter.
#[test]
fn entries_are_json_lines() {
    let files = Files::granted();
    let path = files.write("a*\n\u{1b}.txt", b"12345");
    set_modified(&path, 1_700_000_000);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    symlink("a%20b", files.path(".link")).unwrap();
    let mut told = files.json(&["ls", "home:www"]);
    let me = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    for entry in &mut told {
        let entry = entry.as_object_mut().unwrap();
        assert!(
            !entry
                .remove("version")
                .unwrap()
                .as_str()
                .unwrap()
                .is_empty()
        );
        entry.remove("atime");
    }
    assert!(told[0]["mtime"].is_string());
    told[0].as_object_mut().unwrap().remove("mtime");
    assert_eq!(
        told,
        [
            json!({
                "place": "home:www/.link", "file": "www/.link", "name": ".link",
                "kind": "symlink", "bytes": 5, "mode": 0o777, "uid": me, "gid": gid,
                "links": 1, "target": "a%2520b",
            }),
            json!({
                "place": "home:www/a%2A%0A%1B.txt", "file": "www/a*\n\u{1b}.txt",
                "name": "a*\n\u{1b}.txt", "kind": "file", "bytes": 5, "mode": 0o640,
                "uid": me, "gid": gid, "links": 1, "mtime": "2023-11-14T22:13:20Z",
            }),
        ]
    );
    let [stat] = &files.json(&["stat", "home:www/.link"])[..] else {
        panic!("one line");
    };
    assert_eq!(
        (&stat["kind"], &stat["target"]),
        (&json!("symlink"), &json!("a%2520b"))
    );
}

/// Every byte but two, 255 long, and what looks alike.
#[test]
fn names_are_bytes_and_can_be_typed_again() {
    let files = Files::granted();
    let mut names: BTreeSet<Vec<u8>> = (1..=u8::MAX)
        .filter(|byte| !b"/.".contains(byte))
        .map(|byte| vec![byte])
        .collect();
    names.extend([
        "e\u{301}".as_bytes().to_vec(),
        "é".as_bytes().to_vec(),
        b"-rf".to_vec(),
        b"100%25".to_vec(),
        b"new\nline".to_vec(),
        b"\x1b]0;title\x07".to_vec(),
        "\u{202e}txt.exe".as_bytes().to_vec(),
        vec![0xff; 255],
        vec![b'x'; 255],
    ]);
    fs::create_dir(files.path("d")).unwrap();
    for name in &names {
        fs::write(files.path("d").join(OsStr::from_bytes(name)), name).unwrap();
    }
    // Each is one line of nothing but what can be seen.
    let shown = files.lines(&["ls", "-a", "home:www/d"]);
    assert_eq!(shown.len(), names.len());
    let is_plain = |c: char| !c.is_control() && c != '\u{202e}';
    assert!(
        shown.iter().all(|line| line.chars().all(is_plain)),
        "{shown:?}"
    );
    // What is told is typed again, and means the same file: its content is its
    // name.
    let told = files.json(&["ls", "home:www/d"]);
    let places: Vec<&str> = told
        .iter()
        .map(|entry| entry["place"].as_str().unwrap())
        .collect();
    let mut cat = files.pair.laptop.command(&[&["cat"], &places[..]].concat());
    let said = cat.output().unwrap();
    assert!(said.status.success(), "{said:?}");
    let want: Vec<u8> = names.iter().flatten().copied().collect();
    assert!(said.stdout == want, "{} {}", said.stdout.len(), want.len());
    // Bytes of the shell are taken as they are.
    let mut cat = files.pair.laptop.command(&["cat"]);
    cat.arg(OsStr::from_bytes(
        &[b"home:www/d/", &[0xff; 255][..]].concat(),
    ));
    assert_eq!(cat.output().unwrap().stdout, [0xff; 255]);
    files.cli(&[&["rm"], &places[..]].concat()).exits(0);
    assert_eq!(fs::read_dir(files.path("d")).unwrap().count(), 0);
}

#[test]
fn files_are_printed() {
    let files = Files::granted();
    files.write("1.log", b"one\n");
    files.write("2.log", b"two\n");
    files.write("dir.log/x", b"");
    let check = |words: &[&str], want: &str| {
        let said = files.cli(&[&["cat"], words].concat()).exits(0);
        assert_eq!((&*said.stdout, &*said.stderr), (want, ""), "{words:?}");
    };
    check(&["home:www/2.log", "home:www/1.log"], "two\none\n");
    check(&["home:www/*.log"], "one\ntwo\n");
    check(&["home:www/1.log", "--offset", "1"], "ne\n");
    check(&["home:www/1.log", "--offset", "1", "--bytes", "1"], "n");
    check(&["home:www/1.log", "--bytes", "99"], "one\n");
    check(&["home:www/1.log", "--bytes", "0"], "");
    let said = files
        .cli(&["cat", "home:www/0.log", "home:www/1.log"])
        .exits(1);
    assert_eq!(said.stdout, "one\n");
    assert_eq!(
        said.stderr,
        "error: NO_SUCH_FILE: `home:www/0.log`: there is no such file or directory\n"
    );
    let said = files.cli(&["cat", "home:www/dir.log"]).exits(1);
    assert!(
        said.stderr.starts_with("error: IS_A_DIRECTORY: "),
        "{said:?}"
    );
    assert!(
        said.stderr.ends_with("hint: alknet ls home:www/dir.log\n"),
        "{said:?}"
    );
}

#[test]
fn a_large_file_is_printed_whole_and_ends_when_nobody_reads() {
    let files = Files::granted();
    let mut bytes = vec![0; 12 * 1024 * 1024 + 1];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    files.write("large", &bytes);
    let mut cat = files.pair.laptop.command(&["cat", "home:www/large"]);
    let said = cat.output().unwrap();
    assert!(
        said.stdout == bytes && said.status.success(),
        "{}",
        said.stdout.len()
    );

    let mut cat = files
        .pair
        .laptop
        .command(&["cat", "home:www/large"])
        .spawn()
        .unwrap();
    let mut stdout = cat.stdout.take().unwrap();
    let mut beginning = [0; 1000];
    stdout.read_exact(&mut beginning).unwrap();
    assert_eq!(beginning, bytes[..1000]);
    drop(stdout);
    assert_eq!(wait(&mut cat).code(), Some(141));
}

#[test]
fn files_are_removed_and_buckets_are_not() {
    let files = Files::granted();
    for name in ["a", "b1", "b2", "d/x", "d/e/y", "empty/z", "keep"] {
        files.write(name, b"");
    }
    fs::remove_file(files.path("empty/z")).unwrap();
    symlink("keep", files.path("link")).unwrap();
    let is_there = |name: &str| fs::symlink_metadata(files.path(name)).is_ok();

    // Nothing is removed by saying what would be.
    let said = files.lines(&["rm", "--dry-run", "-r", "home:www/b*", "home:www/d"]);
    let said: BTreeSet<&str> = said.iter().map(String::as_str).collect();
    let want = ["b1", "b2", "d", "d/x", "d/e", "d/e/y"].map(|name| format!("home:www/{name}"));
    assert_eq!(said, want.iter().map(String::as_str).collect());
    assert!(["a", "b1", "b2", "d/e/y"].into_iter().all(is_there));
    files.cli(&["rm", "--dry-run", "home:www/d"]).exits(1);

    let said = files.cli(&["rm", "home:www/d"]).exits(1);
    assert_eq!(
        said.stderr,
        "error: DIRECTORY_NOT_EMPTY: `home:www/d`: it is not empty\nhint: alknet rm -r home:www/d\n"
    );
    let said = files.cli(&["rm", "-r", "home:www/d"]).exits(2);
    assert!(
        said.stderr
            .ends_with("hint: use --yes: alknet rm -r --yes home:www/d\n"),
        "{said:?}"
    );
    assert!(is_there("d/e/y"));

    // It goes on after what fails.
    let said = files.cli(&["rm", "home:www/none", "home:www/a"]).exits(1);
    assert!(
        said.stderr.contains("NO_SUCH_FILE") && !is_there("a"),
        "{said:?}"
    );
    assert_eq!(
        files.lines(&["rm", "-f", "home:www/none", "home:www/none*"]),
        [""; 0]
    );
    assert_eq!(files.lines(&["rm", "home:www/b*"]), [""; 0]);
    assert!(!is_there("b1") && !is_there("b2"));
    files
        .cli(&["rm", "home:www/link", "home:www/empty"])
        .exits(0);
    assert!(!is_there("link") && !is_there("empty") && is_there("keep"));
    let told = files.json(&["rm", "-r", "--yes", "home:www/d"]);
    assert_eq!(
        told,
        [json!({ "place": "home:www/d", "file": "www/d", "files": 2, "directories": 2 })]
    );
    assert!(!is_there("d"));

    for bucket in ["home:www", "home:www/", "home:"] {
        let said = files.cli(&["rm", "-r", "--yes", bucket]).exits(2);
        assert!(
            said.stderr.contains("is a bucket, and is not removed"),
            "{said:?}"
        );
    }
    assert!(is_there("keep"));
    files.cli(&["rm", "-rf", "home:www/*"]).exits(0);
    assert_eq!(fs::read_dir(files.path("")).unwrap().count(), 0);
}

/// What is found goes with the directory that it is in, which is found too.
#[test]
fn a_tree_goes_by_a_pattern_that_means_all_of_it() {
    let files = Files::granted();
    for at in 0..300 {
        files.write(&format!("d{}/e{}/f{at}", at % 7, at % 3), b"");
    }
    let said = files.cli(&["rm", "-r", "--yes", "home:www/**"]).exits(0);
    assert_eq!((&*said.stdout, &*said.stderr), ("", ""));
    assert_eq!(fs::read_dir(files.path("")).unwrap().count(), 0);
}

#[test]
fn files_behind_a_hub_are_named_with_their_route() {
    let files = Files::start();
    files.write("a*.txt", b"behind");
    let phone = Node::start("phone", exec_config());
    let hub = &files.pair.laptop;
    let ticket = hub.cli(&["invite", "-q"]).exits(0).stdout;
    phone.feed(&["join", "-"], ticket.as_bytes()).exits(0);
    phone.connected("laptop");
    files.grant(&["fs:list", "fs:read", "bucket:www/**=list,read"]);
    hub.cli(&["grant", "phone", "peer:home=fs/*"]).exits(0);
    let listed = || phone.cli(&["ls", "-d", "laptop/home:www/*", "--json"]);
    // The hub follows what the other offers within a moment.
    let said = eventually("the hub knows what is offered behind it", || {
        let said = listed();
        said.status.success().then_some(said)
    });
    let place = said.json()["place"].as_str().unwrap().to_owned();
    assert_eq!(place, "laptop/home:www/a%2A.txt");
    assert_eq!(phone.cli(&["cat", &place]).exits(0).stdout, "behind");
    assert_eq!(phone.cli(&["ls", "laptop/home:"]).exits(0).stdout, "www\n");
    phone.cli(&["rm", &place]).exits(4);
}

#[test]
fn directories_are_made_and_names_changed() {
    let files = Files::granted();
    files.cli(&["mkdir", "home:www/a"]).exits(0);
    let said = files.cli(&["mkdir", "home:www/a"]).exits(1);
    assert!(said.stderr.contains("FILE_EXISTS"), "{said:?}");
    files.cli(&["mkdir", "home:www/b/c"]).exits(1);
    files
        .cli(&["mkdir", "-p", "-m", "750", "home:www/b/c", "home:www/a"])
        .exits(0);
    let mode = fs::metadata(files.path("b/c"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o750);

    let is_there = |name: &str| files.path(name).exists();
    files.write("1", b"one");
    files.write("2", b"two");
    files.cli(&["mv", "home:www/1", "home:www/3"]).exits(0);
    assert!(!is_there("1") && is_there("3"));
    let said = files
        .cli(&["mv", "-n", "home:www/2", "home:www/3"])
        .exits(1);
    assert!(
        said.stderr.contains("FILE_EXISTS: `home:www/3`"),
        "{said:?}"
    );
    files.cli(&["mv", "home:www/2", "home:www/3"]).exits(0);
    assert_eq!(fs::read(files.path("3")).unwrap(), b"two");
    // Into a directory, one or many.
    files.cli(&["mv", "home:www/3", "home:www/a"]).exits(0);
    assert!(is_there("a/3"));
    files.write("x1", b"");
    files.write("x2", b"");
    files.cli(&["mv", "home:www/x*", "home:www/b/"]).exits(0);
    assert!(is_there("b/x1") && is_there("b/x2") && !is_there("x1"));
    files
        .cli(&["mv", "-T", "home:www/b/c", "home:www/c"])
        .exits(0);
    assert!(is_there("c") && !is_there("b/c"));
    files
        .cli(&["mv", "home:www/b/x1", "home:www/b/x2", "home:www/none"])
        .exits(1);
    let said = files.cli(&["mv", "home:www/a", ":inbox/"]).exits(2);
    assert!(
        said.stderr
            .ends_with("hint: copy and remove: alknet cp -r home:www/a :inbox/\n"),
        "{said:?}"
    );
    files.cli(&["mv", "home:www", "home:www/a"]).exits(2);
}

#[test]
fn files_are_described_with_digests() {
    let files = Files::granted();
    let path = files.write("abc", b"abc");
    set_modified(&path, 1_700_000_000);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
    let page = files.lines(&[
        "stat",
        "home:www/abc",
        "--digest",
        "md5",
        "--digest",
        "sha256",
    ]);
    for line in [
        "place:     home:www/abc",
        "kind:      file",
        "bytes:     3",
        "mode:      0604 -rw----r--",
        "links:     1",
        "modified:  2023-11-14T22:13:20Z",
        // RFC 1321, appendix A.5, and FIPS 180-4 of the same text.
        "md5:       900150983cd24fb0d6963f7d28e17f72",
        "sha256:    ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    ] {
        assert!(page.iter().any(|told| told == line), "{line}: {page:#?}");
    }
    let [told] = &files.json(&["stat", "home:www/abc"])[..] else {
        panic!("one line");
    };
    assert_eq!(
        (&told["file"], &told["mode"], &told["kind"]),
        (&json!("www/abc"), &json!(0o604), &json!("file"))
    );
}

/// What is no file, and what leads out, is shown for what it is.
#[test]
fn pipes_and_links_that_lead_out_are_listed_and_not_read() {
    let files = Files::granted();
    symlink("/etc/hostname", files.path("out")).unwrap();
    symlink("nowhere", files.path("dangling")).unwrap();
    let pipe = files.path("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o644.into()).unwrap();
    let long = files.cli(&["ls", "-l", "home:www"]).exits(0).stdout;
    let [dangling, out, pipe] = &long.lines().collect::<Vec<_>>()[..] else {
        panic!("{long}");
    };
    assert!(dangling.starts_with("l") && dangling.ends_with(" dangling -> nowhere"));
    assert!(out.starts_with("l") && out.ends_with(" out -> ?"), "{out}");
    assert!(
        pipe.starts_with("?rw-") && pipe.ends_with(" pipe"),
        "{pipe}"
    );
    for (name, code) in [
        ("out", "LEADS_OUTSIDE"),
        ("pipe", "NOT_A_FILE"),
        ("dangling", "NO_SUCH_FILE"),
    ] {
        let said = files.cli(&["cat", &format!("home:www/{name}")]).exits(1);
        assert!(
            said.stderr.starts_with(&format!("error: {code}: ")),
            "{said:?}"
        );
    }
    files.cli(&["rm", "home:www/out", "home:www/pipe"]).exits(0);
    assert!(Path::new("/etc/hostname").exists() && !files.path("out").is_symlink());
}

#[test]
fn a_refusal_says_what_helps() {
    let files = Files::start();
    files.write("pub/a", b"a");
    files.write("secret/b", b"b");
    // Nothing is granted: who made the bucket hears which command helps.
    let said = files.cli(&["ls", "home:www/pub"]).exits(4);
    assert!(
        said.stderr
            .contains("hint: on `home`: alknet grant laptop "),
        "{said:?}"
    );
    files.grant(&["fs:list", "bucket:www/pub/**=list", "fs:read"]);
    assert_eq!(files.lines(&["ls", "home:www/pub"]), ["a"]);
    // A file is found by its name also where it may only be listed.
    assert_eq!(files.lines(&["ls", "home:www/pub/a"]), ["home:www/pub/a"]);
    assert_eq!(files.lines(&["ls", "home:www/pub/*"]), ["home:www/pub/a"]);
    let said = files.cli(&["ls", "home:www/*/a"]).exits(4);
    assert_eq!(said.stderr.matches("error:").count(), 1, "{said:?}");
    let said = files.cli(&["cat", "home:www/pub/a"]).exits(4);
    let grant = said
        .stderr
        .rsplit("hint: on `home`: alknet ")
        .next()
        .unwrap()
        .trim();
    let words: Vec<&str> = grant
        .split(' ')
        .map(|word| word.trim_matches('\''))
        .collect();
    files.pair.home.cli(&words).exits(0);
    assert_eq!(files.cli(&["cat", "home:www/pub/a"]).exits(0).stdout, "a");
    files.cli(&["cat", "home:www/secret/b"]).exits(4);
    files.cli(&["rm", "home:www/pub/a"]).exits(4);
    assert!(files.path("pub/a").exists());
}

#[test]
fn what_is_written_wrongly_is_told_how_it_is_written() {
    let files = Files::granted();
    let check = |words: &[&str], code: i32, want: &str| {
        let said = files.cli(words).exits(code);
        assert_eq!((&*said.stderr, &*said.stdout), (want, ""), "{words:?}");
    };
    check(
        &["ls", "/tmp"],
        2,
        "error: `/tmp` is a local path\n\
         hint: remote files have a colon: `nas:bucket/path`, or `:bucket/path` of this node\n",
    );
    check(
        &["ls", "home:ww"],
        4,
        "error: `laptop` may not call `fs/list` on `home`: missing resource `bucket:ww=list`\n\
         hint: did you mean `home:www`?\n",
    );
    check(
        &["ls", "hom:www"],
        1,
        "error: no peer `hom`\nhint: did you mean `home`?\n",
    );
    check(
        &["cat", "home:www/*.txt"],
        1,
        "error: NO_SUCH_FILE: `home:www/%2A.txt`: there is no such file or directory\n",
    );
    // Who may do everything hears more.
    let said = files.cli(&["ls", ":inbo"]).exits(1);
    assert!(
        said.stderr.starts_with("error: NO_SUCH_BUCKET: ")
            && said.stderr.ends_with("hint: did you mean `:inbox`?\n"),
        "{said:?}"
    );
    let said = files.cli(&["ls", ":nothing-near", "--json"]).exits(1);
    let error: Value = serde_json::from_str(&said.stderr).unwrap();
    assert_eq!(error["error"]["code"], "NO_SUCH_BUCKET");
    assert_eq!(error["error"]["hint"], "alknet ls :");
}

#[test]
fn a_peer_that_is_gone_cannot_be_reached() {
    let mut files = Files::granted();
    files.pair.home.stop();
    let said = files.cli(&["ls", "home:www"]).exits(3);
    assert_eq!(said.stdout, "");
}

/// Listings of many directories with a key, which may call 50 times a second.
#[test]
fn what_comes_too_fast_waits() {
    let files = Files::granted();
    for at in 0..150 {
        files.write(&format!("d{at:03}/x"), b"");
    }
    let key = files.pair.home.path("key");
    let words = ["keys", "create", "--name", "lister", "--scope", "fs:list"];
    let words = [&words[..], &["--output", key.to_str().unwrap()]].concat();
    files.pair.home.cli(&words).exits(0);
    files
        .pair
        .home
        .cli(&["grant", "lister", "fs:list", "bucket:www/**=list"])
        .exits(0);
    let said = files
        .pair
        .home
        .cli(&["ls", "-R", ":www", "--key-file", key.to_str().unwrap()]);
    let said = said.exits(0);
    assert_eq!(said.stdout.lines().filter(|line| *line == "x").count(), 150);
}

/// Reads lines slowly; how many there were, and the most memory that the
/// command had until shortly before its end, in KiB.
#[track_caller]
fn counted(node: &Node, words: &[&str]) -> (usize, u64, Ended) {
    let told = node.path("counted.stderr");
    let mut command = node.command(words);
    command
        .stderr(fs::File::create(&told).unwrap())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut count, mut peak) = (0, 0);
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        line.unwrap();
        if count % 500 == 0 {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id()));
            let status = status.unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
            peak = peak.max(kib.unwrap_or(0));
        }
        count += 1;
    }
    let code = wait(&mut child).code();
    let stderr = fs::read_to_string(told).unwrap();
    (count, peak, Ended { code, stderr })
}

/// A million in whole proofs; else just more than are held to be sorted.
#[test]
fn slow_a_directory_of_any_length_is_listed_in_flat_memory() {
    let all = match std::env::var_os("ALKNET_TEST_FULL") {
        Some(_) => 1_000_000,
        None => 22_000,
    };
    let files = Files::granted();
    fs::create_dir(files.path("many")).unwrap();
    for at in 0..all {
        fs::File::create(files.path("many").join(format!("{at:07}"))).unwrap();
    }
    files.write("few/x", b"");
    let (laptop, home) = (&files.pair.laptop, &files.pair.home);
    let (few, small, ended) = counted(laptop, &["ls", "-l", "home:www/few"]);
    assert_eq!((few, ended.exits(0).stderr.as_str()), (1, ""));
    let before = home.memory_peak_kib();
    let (many, large, ended) = counted(laptop, &["ls", "-l", "home:www/many"]);
    assert_eq!(many, all);
    assert_eq!(
        ended.exits(0).stderr,
        "`home:www/many` has more than 20000 entries: they are shown as they come\n"
    );
    let there = home.memory_peak_kib() - before;
    assert!(
        large - small < 32 * 1024,
        "here: {small} KiB for one, {large} for many"
    );
    assert!(there < 32 * 1024, "there: {there} KiB more");
}
