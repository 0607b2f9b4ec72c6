//! Nothing outside a bucket is read, written or named, whatever is called and
//! however it is written.

use super::{
    canary::{Canary, SECRET},
    world::{World, holds, is_full, pipe},
};
use crate::program::Said;
use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::{fs::symlink, net::UnixListener},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

/// What is behind a link, or written in a way that might lead out.
const THROUGH: [&str; 23] = [
    "www/../outside/c",
    "www/%2e%2e/outside/c",
    "www/%2E%2e/outside/c",
    "www/..%2foutside%2fc",
    "www/%2e%2e%2foutside/c",
    "www/./../outside/c",
    "www/d/../../outside/c",
    "www//../outside/c",
    "/www/../outside/c",
    "../outside/c",
    "./../outside/c",
    "www/%00/c",
    "www/up/c%00",
    "www@../c",
    "www%2f../outside/c",
    "www/absolute/c",
    "www/up/c",
    "www/d/climbs/c",
    "www/chain/c",
    "www/process/cwd",
    "www/process/root/etc/passwd",
    "www/handles/0",
    "www/everything/etc/passwd",
];

/// What is a link itself, and leads out.
const LINKS: [&str; 4] = ["www/file", "www/up", "www/everything", "www/loop"];

/// A bucket with everything in it that leads out of it.
fn perforated() -> (World, Canary) {
    let world = World::start();
    let canary = Canary::plant(&world);
    let (hidden, name) = (canary.top(), canary.top().file_name().unwrap());
    fs::create_dir_all(world.www("d")).unwrap();
    fs::write(world.www("inside"), "inside").unwrap();
    let link = |to: &Path, name: &str| symlink(to, world.www(name)).unwrap();
    link(hidden, "absolute");
    link(&Path::new("..").join(name), "up");
    link(&Path::new("../..").join(name), "d/climbs");
    link(Path::new("d/climbs"), "chain");
    link(&hidden.join("c"), "file");
    link(Path::new("/proc/self"), "process");
    link(Path::new("/dev/fd"), "handles");
    link(Path::new("/"), "everything");
    link(Path::new("loop"), "loop");
    (world, canary)
}

/// Every query and mutation that looks at, or goes through, a path.
fn calls_at(path: &str, at: usize) -> Vec<(&'static str, Value)> {
    let stolen = |how: &str| format!("www/stolen-{how}-{at}");
    let below = format!("{path}/new");
    vec![
        ("fs/list", json!({"file": path})),
        ("fs/stat", json!({"file": path})),
        ("fs/usage", json!({"file": path})),
        ("fs/read-text", json!({"file": path})),
        ("fs/write-text", json!({"file": path, "text": "x"})),
        ("fs/digest", json!({"file": path, "algorithms": ["blake3"]})),
        ("fs/mkdir", json!({"file": below, "parents": true})),
        ("fs/set-attributes", json!({"file": path, "mode": 511})),
        ("fs/set-attributes", json!({"file": path, "bytes": 0})),
        (
            "fs/hard-link",
            json!({"file": path, "to": stolen("linked")}),
        ),
        ("fs/copy", json!({"file": path, "to": stolen("copied")})),
        (
            "fs/copy",
            json!({"file": path, "to": stolen("all"), "recursive": true}),
        ),
        ("fs/copy", json!({"file": "www/inside", "to": below})),
        ("fs/rename", json!({"file": "www/inside", "to": below})),
        ("fs/hard-link", json!({"file": "www/inside", "to": below})),
        ("fs/link", json!({"file": below, "target": "x"})),
        ("fs/gc", json!({"file": path})),
    ]
}

/// Those that act on the entry itself, which may be a link.
fn calls_through(path: &str, at: usize) -> Vec<(&'static str, Value)> {
    vec![
        ("fs/stat", json!({"file": path, "follow": false})),
        (
            "fs/set-attributes",
            json!({"file": path, "mode": 511, "follow": false}),
        ),
        (
            "fs/rename",
            json!({"file": path, "to": format!("www/stolen-renamed-{at}")}),
        ),
        (
            "fs/rename",
            json!({"file": "www/inside", "to": path, "replace": true}),
        ),
        ("fs/remove", json!({"file": path, "recursive": true})),
    ]
}

#[test]
fn no_call_reads_writes_or_names_what_is_outside() {
    let (world, canary) = perforated();
    world.grant(&["fs:gc", "bucket:www/**=admin"]);
    let mut calls = Vec::new();
    for (at, path) in THROUGH.into_iter().enumerate() {
        calls.extend(calls_at(path, at));
        calls.extend(calls_through(path, at));
    }
    for (at, path) in LINKS.into_iter().enumerate() {
        calls.extend(calls_at(path, 100 + at));
    }
    for target in [
        "/etc",
        "../x",
        "d/../../x",
        "..",
        "%2e%2e/x",
        "..%2fx",
        "%2fetc",
        "d/up/../..",
    ] {
        calls.push(("fs/link", json!({"file": "www/made", "target": target})));
    }
    for ((operation, input), answer) in calls.iter().zip(world.calls(&calls)) {
        let code = answer["error"]["code"].as_str();
        let code = code.unwrap_or_else(|| panic!("{operation} {input}: {answer}"));
        let expected = [
            "LEADS_OUTSIDE",
            "INVALID_INPUT",
            "BAD_ARGUMENT",
            "NO_SUCH_FILE",
            "NOT_A_DIRECTORY",
            "NOT_A_FILE",
            "TOO_MANY_LINKS",
            "FORBIDDEN",
        ];
        assert!(expected.contains(&code), "{operation} {input}: {answer}");
        canary.assert_unnamed(answer.to_string().as_bytes());
    }
    canary.assert_untouched();
    assert_nothing_is_stolen(&world);
}

#[track_caller]
fn assert_nothing_is_stolen(world: &World) {
    let names = fs::read_dir(world.path("www")).unwrap();
    for name in names.map(|entry| entry.unwrap().file_name()) {
        let name = name.to_string_lossy().into_owned();
        assert!(!name.starts_with("stolen") && name != "made", "{name}");
    }
    assert_eq!(fs::read(world.www("inside")).unwrap(), b"inside");
}

#[test]
fn no_stream_reads_writes_or_names_what_is_outside() {
    let (world, canary) = perforated();
    let below = r#"{"path": "c"}
{"path": "../outside/c"}
{"path": "%2e%2e/outside/c"}
{"path": "c/../../c"}
{"path": "/etc/passwd"}
"#;
    let compared = r#"{"path": "c", "kind": "file", "bytes": 1, "mtime": "2026-01-01T00:00:00Z"}
"#;
    for path in [
        "www/../outside",
        "www/%2e%2e/outside",
        "www/up",
        "www/absolute",
        "www/chain",
        "www/everything",
        "www/process/root",
    ] {
        let file = format!("{path}/c");
        let call = |operation: &str, input: Value, fed: &str| {
            let words = ["call", operation, &input.to_string(), "--on", "home"];
            let said = world.pair.laptop.feed(&words, fed.as_bytes());
            assert_quiet(&canary, &format!("{operation} {input}"), &said);
            said
        };
        for (operation, input, fed) in [
            ("fs/read", json!({"file": file}), ""),
            ("fs/read", json!({"file": path}), ""),
            ("fs/write", json!({"file": file}), "x"),
            ("fs/write", json!({"file": file, "append": true}), "x"),
            ("fs/write", json!({"file": file, "offset": 0}), "x"),
            ("fs/write-many", json!({"file": path, "parents": true}), ""),
            ("fs/search", json!({"file": path}), ""),
            ("fs/watch", json!({"file": path, "recursive": true}), ""),
            (
                "fs/offer",
                json!({"file": file, "to_node": world.pair.laptop.id()}),
                "",
            ),
        ] {
            call(operation, input, fed).exits(1);
        }
        // These tell of each entry.
        call("fs/read-many", json!({"file": path}), below);
        call("fs/compare", json!({"file": path}), compared);
    }
    // From above: links are passed over, and not gone through.
    for operation in ["fs/search", "fs/usage"] {
        let words = ["call", operation, r#"{"file": "www"}"#, "--on", "home"];
        let said = world.pair.laptop.cli(&words).exits(0);
        assert_quiet(&canary, operation, &said);
    }
    let all = "up/c\nabsolute/c\nchain/c\nfile\neverything/etc/hostname\nup\n";
    let all: String = all
        .lines()
        .map(|path| format!("{}\n", json!({"path": path})))
        .collect();
    let words = ["call", "fs/read-many", r#"{"file": "www"}"#, "--on", "home"];
    let said = world.pair.laptop.feed(&words, all.as_bytes());
    assert_quiet(&canary, "fs/read-many", &said);
    canary.assert_untouched();
    assert_nothing_is_stolen(&world);
}

#[track_caller]
fn assert_quiet(canary: &Canary, what: &str, said: &Said) {
    for text in [&said.stdout, &said.stderr] {
        assert!(!holds(text.as_bytes(), SECRET), "{what}: {text}");
        canary.assert_unnamed(text.as_bytes());
    }
}

#[test]
fn slow_no_command_reads_writes_or_names_what_is_outside() {
    let (world, canary) = perforated();
    let laptop = &world.pair.laptop;
    let (down, one) = (world.make("down"), world.text("one"));
    fs::write(&one, "x").unwrap();
    fs::create_dir(world.path("tree")).unwrap();
    fs::write(world.path("tree/c"), "x").unwrap();
    let (down, tree) = (down.to_str().unwrap().to_owned(), world.text("tree"));
    for path in [
        "home:www/../outside",
        "home:www/%2e%2e/outside",
        "home:www/up",
        "home:www/absolute",
        "home:www/chain",
        "home:www/process/root",
    ] {
        let file = format!("{path}/c");
        let (below, stolen) = (format!("{path}/new"), "home:www/stolen");
        for words in [
            &["cat", &file][..],
            &["ls", &file],
            &["ls", "-lR", &below],
            &["ls", &format!("{path}/*")],
            &["ls", &format!("{path}/**")],
            &["stat", &file],
            &["get", &file, &down],
            &["get", "-r", &format!("{path}/"), &down],
            &["get", "-rL", path, &down],
            &["put", &one, &file],
            &["put", &one, &below],
            &["put", "-r", &tree, path],
            &["put", "-r", "-T", &tree, &below, "--parents"],
            &["mkdir", &below],
            &["mkdir", "-p", &below],
            &["mv", &file, stolen],
            &["mv", "home:www/inside", &below],
            &["cp", &file, stolen],
            &["cp", "-r", &format!("{path}/"), stolen],
            &["cp", "home:www/inside", &below],
            &["rm", &file],
            &["rm", "-rf", &below],
            &["rm", "-r", "-f", &format!("{path}/*")],
        ] {
            let said = laptop.cli(words);
            assert_quiet(&canary, &words.join(" "), &said);
            // `-f` says nothing of what is not there.
            if !words.contains(&"-f") && !words.contains(&"-rf") {
                assert!(!said.status.success(), "{words:?}: {said:?}");
            }
        }
    }
    // The whole bucket: what leads out is said by its own name, and the rest
    // is copied.
    let words = ["get", "-r", "home:www", &down];
    assert_quiet(&canary, "get -r", &laptop.cli(&words).exits(1));
    assert_eq!(fs::read(world.path("down/www/inside")).unwrap(), b"inside");
    assert_quiet(&canary, "ls -lR", &laptop.cli(&["ls", "-lR", "home:www"]));
    let words = ["cp", "-r", "home:www/d", "home:www/e"];
    assert_quiet(&canary, "cp -r", &laptop.cli(&words));
    // The link goes, and not what it leads to.
    for name in ["up", "d", "everything"] {
        let words = ["rm", "-r", "-f", &format!("home:www/{name}")];
        assert_quiet(&canary, "rm -r", &laptop.cli(&words).exits(0));
        assert!(fs::symlink_metadata(world.www(name)).is_err(), "{name}");
    }
    canary.assert_untouched();
    for entry in fs::read_dir(&down).unwrap() {
        let name = entry.unwrap().file_name();
        assert_eq!(name, "www");
    }
}

/// What is neither file nor directory is told, and never opened.
#[test]
fn pipes_devices_and_sockets_are_not_waited_for() {
    let world = World::start();
    pipe(&world.www("pipe"));
    let _listening = UnixListener::bind(world.www("socket")).unwrap();
    let mut names = vec!["pipe", "socket"];
    let device = rustix::fs::makedev(1, 5);
    let mode = Mode::from_raw_mode(0o666);
    // `/dev/zero`, which has no end; only root makes one.
    if mknodat(
        CWD,
        world.www("zero"),
        FileType::CharacterDevice,
        mode,
        device,
    )
    .is_ok()
    {
        names.push("zero");
    }
    let one = world.text("one");
    fs::write(&one, "x").unwrap();
    world.make("down");
    let laptop = &world.pair.laptop;
    for name in names {
        let path = format!("home:www/{name}");
        for words in [
            &["cat", &path][..],
            &["get", &path, &world.text("down")],
            &["cp", &path, "home:www/copy"],
            &["put", &one, &path],
        ] {
            let said = laptop.cli(words).exits(1);
            assert!(said.stderr.contains("NOT_A_FILE"), "{words:?}: {said:?}");
        }
        laptop.cli(&["ls", "-l", &path]).exits(0);
        laptop.cli(&["stat", &path]).exits(0);
        let file = format!("www/{name}");
        for (operation, fed) in [("fs/read", ""), ("fs/write", "x")] {
            for more in [json!({}), json!({"offset": 0})] {
                let mut input = more;
                input["file"] = json!(file);
                let words = ["call", operation, &input.to_string(), "--on", "home"];
                let said = laptop.feed(&words, fed.as_bytes()).exits(1);
                assert!(said.stderr.contains("NOT_A_FILE"), "{words:?}: {said:?}");
            }
        }
        let calls = [
            ("fs/read-text", json!({"file": file})),
            ("fs/write-text", json!({"file": file, "text": "x"})),
            ("fs/digest", json!({"file": file, "algorithms": ["md5"]})),
            ("fs/set-attributes", json!({"file": file, "bytes": 0})),
            ("fs/copy", json!({"file": file, "to": "www/copy"})),
        ];
        for (call, answer) in calls.iter().zip(world.calls(&calls)) {
            assert_eq!(answer["error"]["code"], "NOT_A_FILE", "{call:?}: {answer}");
        }
        laptop.cli(&["rm", &path]).exits(0);
        assert!(fs::symlink_metadata(world.www(name)).is_err());
    }
    assert!(fs::symlink_metadata(world.www("copy")).is_err());
}

/// A process of the host swaps directories and files for links that lead out,
/// while everything is called: ten thousand times in whole proofs.
#[test]
fn slow_swaps_amid_calls_lead_nothing_out() {
    let count = if is_full() { 10_000 } else { 1_200 };
    let world = World::start();
    let canary = Canary::plant(&world);
    let laptop = &world.pair.laptop;
    for name in ["d", "d/s"] {
        fs::create_dir(world.www(name)).unwrap();
        for file in ["c", "e", "f"] {
            fs::write(world.www(name).join(file), "inside").unwrap();
        }
    }
    let out = Path::new("..").join(canary.top().file_name().unwrap());
    symlink(&out, world.www("out")).unwrap();
    symlink(Path::new("..").join(&out).join("s"), world.www("d/out")).unwrap();
    symlink(canary.top().join("c"), world.www("d/link")).unwrap();
    let pairs = [
        ("d", "out"),
        ("d/s", "d/out"),
        ("d/c", "d/link"),
        ("d", "out"),
    ];
    let is_over = AtomicBool::new(false);
    let (refused, done) = thread::scope(|scope| {
        let _over = Over(&is_over);
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                for (one, other) in pairs {
                    let (one, other) = (world.www(one), world.www(other));
                    // What a call removed cannot be swapped just now.
                    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).ok();
                    thread::sleep(std::time::Duration::from_micros(50));
                }
            }
        });
        let calls: Vec<_> = (0..count).map(call_amid).collect();
        let answers = world.calls(&calls);
        for answer in &answers {
            canary.assert_unnamed(answer.to_string().as_bytes());
        }
        let paths = ["c", "s/c", "e", "s/e", "link", "out/c"];
        let lines: String = (0..count)
            .map(|at| format!("{}\n", json!({"path": paths[at % 6]})))
            .collect();
        let words = [
            "call",
            "fs/read-many",
            r#"{"file": "www/d"}"#,
            "--on",
            "home",
        ];
        for _ in 0..3 {
            let said = laptop.feed(&words, lines.as_bytes());
            assert_quiet(&canary, "fs/read-many", &said);
        }
        let (tree, down) = (world.make("tree/s"), world.text("down"));
        for name in ["c", "e", "f"] {
            fs::write(tree.join(name), "inside").unwrap();
            fs::write(world.path("tree").join(name), "inside").unwrap();
        }
        for _ in 0..count / 100 {
            for words in [
                &["get", "-rIT", "home:www/d", &down][..],
                &["put", "-rIT", &world.text("tree"), "home:www/d"],
                &["cat", "home:www/d/c"],
                &["ls", "-lR", "home:www/d"],
                &["rm", "-rf", "home:www/d/s"],
            ] {
                assert_quiet(&canary, &words.join(" "), &laptop.cli(words));
            }
        }
        let refused = answers
            .iter()
            .filter(|answer| answer["error"]["code"] == "LEADS_OUTSIDE");
        let done = answers.iter().filter(|answer| answer["error"].is_null());
        (refused.count(), done.count())
    });
    canary.assert_untouched();
    canary.assert_not_below(&world.path("down"));
    assert!(refused > 0 && done > 0, "{refused} refused, {done} done");
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One of many calls, of every kind, at what is swapped.
fn call_amid(at: usize) -> (&'static str, Value) {
    let path = [
        "www/d/c",
        "www/d/s/c",
        "www/d/s/e",
        "www/d/link",
        "www/out/c",
    ][at % 5];
    let directory = ["www/d", "www/d/s", "www/out"][at % 3];
    let other = format!("www/d/new{}", at % 7);
    match at / 5 % 13 {
        0 | 1 => ("fs/read-text", json!({"file": path})),
        2 => ("fs/write-text", json!({"file": path, "text": "inside"})),
        3 => ("fs/list", json!({"file": directory})),
        4 => ("fs/stat", json!({"file": path})),
        5 => ("fs/set-attributes", json!({"file": path, "mode": 0o640})),
        6 => ("fs/set-attributes", json!({"file": path, "bytes": 6})),
        7 => (
            "fs/rename",
            json!({"file": path, "to": other, "replace": true}),
        ),
        8 => (
            "fs/copy",
            json!({"file": directory, "to": other, "recursive": true}),
        ),
        9 => ("fs/hard-link", json!({"file": path, "to": other})),
        10 => (
            "fs/mkdir",
            json!({"file": format!("{directory}/m/m"), "parents": true}),
        ),
        11 => ("fs/remove", json!({"file": other, "recursive": true})),
        _ => ("fs/digest", json!({"file": path, "algorithms": ["sha256"]})),
    }
}

/// Nothing of what is refused here is refused for want of a right; and what only
/// looks like a way out is a name.
#[test]
fn what_only_looks_like_a_way_out_is_a_name() {
    let (world, canary) = perforated();
    let names = [
        "inside",
        "\\..\\outside\\c",
        "%c0%ae%c0%ae%c0%afoutside",
        "\u{ff0e}\u{ff0e}",
        "...",
        "..c",
        "c..",
        "~",
        "%5c..%5c",
    ];
    let file = |name: &str| json!({"file": format!("www/d/{name}"), "text": "x"});
    let calls = names.map(|name| ("fs/write-text", file(name)));
    for answer in world.calls(&calls) {
        assert!(answer["error"].is_null(), "{answer}");
    }
    // One link is there already.
    let there = fs::read_dir(world.www("d")).unwrap().count();
    assert_eq!(there, names.len() + 1);
    canary.assert_untouched();
}
