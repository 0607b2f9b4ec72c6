//! `fs/write-many`, `fs/read-many`, `fs/compare`.

use super::world::{Received, World, aux, code, json_lines, main, noise, ok, soon};
use alknet_core::Chunk;
use alknet_fs::stream::{EntryPath, EntryRecord, Record, TreeDecoder, TreeEvent};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink},
};

fn file(path: &str, bytes: &[u8]) -> Vec<Chunk> {
    let path = EntryPath::parse(path).unwrap();
    let record = Record::file(path, bytes.len() as u64, Some(0o640), None);
    let mut chunks = vec![Chunk::aux(record.encode())];
    if !bytes.is_empty() {
        chunks.push(main(bytes));
    }
    chunks
}

fn record(text: &Value) -> Vec<Chunk> {
    vec![aux(text.to_string() + "\n")]
}

async fn put(world: &World, chunks: Vec<Vec<Chunk>>) -> Received {
    let opened = world
        .opened("fs/write-many", json!({ "file": "www" }))
        .await;
    opened.exchange(chunks.concat()).await.unwrap()
}

#[tokio::test]
async fn a_tree_is_written_in_one_stream() {
    let world = World::new();
    let large = noise(1024 * 1024 + 1);
    let most = noise(1024 * 1024);
    let time = "2020-01-02T03:04:05.000000006Z";
    let received = put(
        &world,
        vec![
            record(&json!({ "path": "d", "kind": "directory", "mode": 0o750 })),
            file("d/a", b"hello"),
            file("d/empty", b""),
            record(&json!({ "path": "d/b", "kind": "file", "bytes": 2, "mtime": time })),
            vec![main("x"), main("y")],
            file("large", &large),
            record(&json!({ "path": "d/l", "kind": "symlink", "target": "a" })),
            record(&json!({ "path": "d", "kind": "directory-times", "mtime": time })),
            file("most", &most),
            file("x/y/%FFz", b"its directories are made"),
        ],
    )
    .await;
    let answers = [
        "d", "d/a", "d/empty", "d/b", "large", "d/l", "d", "most", "x/y/%FFz",
    ];
    assert_eq!(received.lines(), answers.map(ok));
    let bytes = 5 + 2 + large.len() + most.len() + 24;
    assert_eq!(
        received.result,
        json!({ "files": 7, "bytes": bytes, "failed": 0 })
    );
    assert_eq!(world.get("www/d/a"), b"hello");
    assert_eq!(world.get("www/d/b"), b"xy");
    assert!(world.get("www/large") == large && world.get("www/most") == most);
    assert_eq!(
        fs::read_link(world.host("www/d/l")).unwrap().to_str(),
        Some("a")
    );
    for path in ["www/d", "www/d/b"] {
        let meta = fs::metadata(world.host(path)).unwrap();
        assert_eq!(
            (meta.mtime(), meta.mtime_nsec()),
            (1_577_934_245, 6),
            "{path}"
        );
    }
    let mode = |path: &str| fs::metadata(world.host(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("www/d"), mode("www/d/a")), (0o750, 0o640));
    assert_eq!(world.names("www"), ["d", "large", "most", "x"]);
}

#[tokio::test]
async fn one_that_fails_does_not_stop_the_others() {
    let world = World::new();
    fs::create_dir_all(world.host("www/taken/x")).unwrap();
    fs::create_dir_all(world.host("www/large/x")).unwrap();
    world.put("www/file", "x");
    let mut chunks = Vec::new();
    for n in 0..1000 {
        chunks.push(file(&format!("{n}"), n.to_string().as_bytes()));
        if n == 300 {
            chunks.push(file("taken", b"a directory has the name"));
            chunks.push(file("large", &noise(3 * 1024 * 1024)));
            chunks.push(file("file/x", b"no directory"));
            chunks.push(record(&json!({ "path": "file", "kind": "directory" })));
            chunks.push(record(
                &json!({ "path": "out", "kind": "symlink", "target": "/etc" }),
            ));
            chunks.push(record(&json!({ "path": "b", "kind": "file", "bytes": 9 })));
            chunks.push(vec![main("half")]);
            chunks.push(record(
                &json!({ "broken": { "code": "IO_ERROR", "message": "bad" } }),
            ));
            let big = 5 * 1024 * 1024;
            chunks.push(record(
                &json!({ "path": "c", "kind": "file", "bytes": big }),
            ));
            chunks.push(vec![main(noise(2 * 1024 * 1024))]);
            chunks.push(record(
                &json!({ "broken": { "code": "IO_ERROR", "message": "bad" } }),
            ));
        }
    }
    let received = put(&world, chunks).await;
    let answers = received.lines();
    assert_eq!(answers.len(), 1007);
    let failed: Vec<_> = answers
        .iter()
        .filter(|answer| answer.get("ok").is_none())
        .map(|answer| (answer["path"].as_str().unwrap(), code(answer)))
        .collect();
    let want = [
        ("taken", "IS_A_DIRECTORY"),
        ("large", "IS_A_DIRECTORY"),
        ("file/x", "NOT_A_DIRECTORY"),
        ("file", "FILE_EXISTS"),
        ("out", "LEADS_OUTSIDE"),
        ("b", "IO_ERROR"),
        ("c", "IO_ERROR"),
    ];
    assert_eq!(failed, want);
    assert_eq!(&received.result["files"], 1000);
    assert_eq!(&received.result["failed"], 7);
    for n in 0..1000 {
        assert_eq!(world.get(&format!("www/{n}")), n.to_string().as_bytes());
    }
    assert_eq!(world.names("www").len(), 1003);
}

#[tokio::test]
async fn the_later_of_two_of_one_name_stays() {
    let world = World::new();
    let received = put(
        &world,
        vec![
            file("a", b"first"),
            file("a", b"second"),
            record(&json!({ "path": "l", "kind": "symlink", "target": "b" })),
            record(&json!({ "path": "l", "kind": "symlink", "target": "a" })),
            file("f", b"x"),
            record(&json!({ "path": "f", "kind": "symlink", "target": "a" })),
        ],
    )
    .await;
    assert_eq!(received.result["failed"], 0, "{:?}", received.lines());
    assert_eq!(world.get("www/a"), b"second");
    assert_eq!(
        fs::read_link(world.host("www/l")).unwrap().to_str(),
        Some("a")
    );
    assert_eq!(
        fs::read_link(world.host("www/f")).unwrap().to_str(),
        Some("a")
    );
}

#[tokio::test]
async fn holes_in_a_tree_stay_holes() {
    let world = World::new();
    let hole = 1_u64 << 34;
    let received = put(
        &world,
        vec![
            record(&json!({ "path": "a", "kind": "file", "bytes": hole + 4 })),
            vec![main("ab")],
            record(&json!({ "hole": hole })),
            vec![main("cd")],
            record(&json!({ "path": "b", "kind": "file", "bytes": 7 })),
            vec![main("ab")],
            record(&json!({ "hole": 3 })),
            vec![main("cd")],
        ],
    )
    .await;
    assert_eq!(received.lines(), [ok("a"), ok("b")]);
    let meta = fs::metadata(world.host("www/a")).unwrap();
    assert_eq!(meta.len(), hole + 4);
    assert!(meta.blocks() * 512 < 1024 * 1024);
    assert_eq!(world.get("www/b"), b"ab\0\0\0cd");
    // And back again.
    let read = read_many(&world, &["a", "b"]).await;
    let holes: u64 = events(&read)
        .iter()
        .map(|event| match event {
            TreeEvent::Hole(bytes) => *bytes,
            _ => 0,
        })
        .sum();
    assert!(holes > hole - 1024 * 1024, "{holes}");
    assert!(read.main().len() < 1024 * 1024);
}

#[tokio::test]
async fn files_that_are_idle_are_written_without_waiting_for_more() {
    let world = World::new();
    let mut opened = world
        .opened("fs/write-many", json!({ "file": "www" }))
        .await;
    for chunk in file("a", b"hello") {
        opened.call.channel.tx.send_chunk(chunk).await.unwrap();
    }
    let answer = soon(opened.call.channel.rx.recv()).await.unwrap().unwrap();
    assert_eq!(json_lines(&answer.bytes), [ok("a")]);
    assert_eq!(world.get("www/a"), b"hello");
    // Half a file does not hold up the one before it.
    let mut chunks = file("b", b"there");
    chunks.extend(record(&json!({ "path": "c", "kind": "file", "bytes": 2 })));
    chunks.push(main("x"));
    for chunk in chunks {
        opened.call.channel.tx.send_chunk(chunk).await.unwrap();
    }
    let answer = soon(opened.call.channel.rx.recv()).await.unwrap().unwrap();
    assert_eq!(json_lines(&answer.bytes), [ok("b")]);
    opened.cut(vec![]).await;
    assert_eq!(world.names("www"), ["a", "b"]);
}

#[tokio::test]
async fn a_stream_that_makes_no_sense_ends_the_call() {
    let world = World::new();
    fs::create_dir(world.host("www/in")).unwrap();
    let long = "x".repeat(64 * 1024);
    let cases: Vec<Vec<Chunk>> = vec![
        record(&json!({ "path": "../x", "kind": "directory" })),
        record(&json!({ "path": "/etc/x", "kind": "file", "bytes": 1 })),
        record(&json!({ "path": "a%2Fb", "kind": "file", "bytes": 1 })),
        record(&json!({ "path": "a", "kind": "file", "bytes": -1 })),
        record(&json!({ "path": "a", "kind": "device" })),
        record(&json!({ "path": "a", "error": { "code": "X", "message": "" } })),
        vec![aux(long)],
        vec![aux("{\"path\":")],
        vec![main("x")],
        [file("a", b"xy"), vec![main("z")]].concat(),
        [
            record(&json!({ "path": "a", "kind": "file", "bytes": 2 })),
            vec![main("x")],
        ]
        .concat(),
        [
            record(&json!({ "path": "a", "kind": "file", "bytes": 2 })),
            vec![main("x")],
            file("b", b""),
        ]
        .concat(),
        [
            record(&json!({ "path": "a", "kind": "file", "bytes": 2 })),
            record(&json!({ "hole": u64::MAX })),
        ]
        .concat(),
        [
            record(&json!({ "path": "a", "kind": "file", "bytes": 9_000_000 })),
            vec![main(noise(2_000_000))],
            record(&json!({ "path": "b", "kind": "directory" })),
        ]
        .concat(),
    ];
    for chunks in cases {
        let told = format!("{:?}", chunks.first());
        let opened = world
            .opened("fs/write-many", json!({ "file": "www/in" }))
            .await;
        let error = opened.exchange(chunks).await.unwrap_err();
        assert_eq!(error.code, "BAD_ARGUMENT", "{told}");
    }
    assert_eq!(world.names("www"), ["in"]);
}

#[tokio::test]
async fn the_directory_itself_is_there_or_made() {
    let world = World::new();
    world.put("www/f", "x");
    let missing = json!({ "file": "www/a/b" });
    world
        .refuses("fs/write-many", missing, "NO_SUCH_FILE")
        .await;
    world
        .refuses(
            "fs/write-many",
            json!({ "file": "www/f" }),
            "NOT_A_DIRECTORY",
        )
        .await;
    let made = json!({ "file": "www/a/b", "parents": true, "create": "new" });
    let opened = world.opened("fs/write-many", made.clone()).await;
    let time = "2020-01-02T03:04:05Z";
    let chunks = [
        record(&json!({ "path": "", "kind": "directory", "mode": 0o700 })),
        file("x", b"1"),
        record(&json!({ "path": "", "kind": "directory-times", "mtime": time, "mode": 0o755 })),
    ];
    let received = opened.exchange(chunks.concat()).await.unwrap();
    assert_eq!(received.lines(), [ok(""), ok("x"), ok("")]);
    let meta = fs::metadata(world.host("www/a/b")).unwrap();
    assert_eq!(
        (meta.mtime(), meta.permissions().mode() & 0o777),
        (1_577_934_245, 0o755)
    );
    let opened = world.opened("fs/write-many", made).await;
    let received = opened.exchange(file("x", b"2")).await.unwrap();
    assert_eq!(code(&received.lines()[0]), "FILE_EXISTS");
    assert_eq!(world.get("www/a/b/x"), b"1");
}

#[tokio::test]
async fn each_entry_is_checked_by_its_own_path() {
    let grants = [
        "fs:write",
        "fs:read",
        "bucket:www/**=read,write",
        "!bucket:www/no/**=*",
    ];
    let world = World::new().granted(&grants);
    world.put("www/no/secret", "secret");
    symlink("no/secret", world.host("www/way")).unwrap();
    let received = put(&world, vec![
        file("yes", b"x"),
        file("no/x", b"x"),
        file("way", b"x"),
        file("no/large", &noise(2_000_000)),
        record(&json!({ "path": "no/d", "kind": "directory" })),
        record(&json!({ "path": "no", "kind": "directory-times", "mtime": "2020-01-02T03:04:05Z" })),
    ])
    .await;
    let answers = received.lines();
    assert_eq!(answers[0], ok("yes"));
    assert!(
        answers[1..]
            .iter()
            .all(|answer| code(answer) == "FORBIDDEN"),
        "{answers:?}"
    );
    assert_eq!(
        (world.names("www/no"), world.get("www/no/secret")),
        (vec!["secret".into()], b"secret".to_vec())
    );
    let read = read_many(&world, &["yes", "no/secret", "no", "way/x"]).await;
    let told: Vec<_> = json_lines_of_records(&read);
    assert_eq!(told[0]["kind"], "file");
    assert!(
        told[1..].iter().all(|record| code(record) == "FORBIDDEN"),
        "{told:?}"
    );
    assert_eq!(read.main(), b"x");
}

fn json_lines_of_records(received: &Received) -> Vec<Value> {
    json_lines(&received.aux())
}

fn requests(paths: &[&str]) -> Vec<Chunk> {
    let lines = paths
        .iter()
        .map(|path| json!({ "path": path }).to_string() + "\n");
    vec![main(lines.collect::<String>())]
}

async fn read_many(world: &World, paths: &[&str]) -> Received {
    let opened = world.opened("fs/read-many", json!({ "file": "www" })).await;
    opened.exchange(requests(paths)).await.unwrap()
}

fn events(received: &Received) -> Vec<TreeEvent> {
    let (mut decoder, mut events) = (TreeDecoder::new(), Vec::new());
    for chunk in received.chunks.clone() {
        decoder.push(chunk).unwrap();
        while let Some(event) = decoder.next_event().unwrap() {
            events.push(event);
        }
    }
    decoder.finish().unwrap();
    events
}

/// Files by their paths, other entries and failures as text.
fn contents(received: &Received) -> Vec<(String, Vec<u8>)> {
    let mut contents: Vec<(String, Vec<u8>)> = Vec::new();
    for event in events(received) {
        match event {
            TreeEvent::File(file) => contents.push((file.path.to_string(), Vec::new())),
            TreeEvent::Bytes(bytes) => contents.last_mut().unwrap().1.extend_from_slice(&bytes),
            TreeEvent::Hole(bytes) => {
                let content = &mut contents.last_mut().unwrap().1;
                content.resize(content.len() + bytes as usize, 0);
            }
            TreeEvent::FileEnd => {}
            TreeEvent::FileBroken(failure) => panic!("{failure:?}"),
            TreeEvent::Entry(EntryRecord::Symlink { path, target }) => {
                contents.push((format!("{path} -> {target}"), Vec::new()));
            }
            TreeEvent::Entry(entry) => contents.push((format!("{}/", entry.path()), Vec::new())),
            TreeEvent::Failed { path, error } => {
                contents.push((format!("{path}: {}", error.code), Vec::new()));
            }
        }
    }
    contents
}

#[tokio::test]
async fn what_is_asked_for_comes_in_order() {
    let world = World::new();
    let (large, most) = (noise(3 * 1024 * 1024 + 1), noise(1024 * 1024));
    world.put("www/a", "hello");
    world.put("www/d/large", &large);
    for n in 0..6 {
        world.put(&format!("www/most{n}"), &most);
    }
    world.put("www/empty", "");
    symlink("a", world.host("www/link")).unwrap();
    symlink("/etc/passwd", world.host("www/out")).unwrap();
    let paths = [
        "a", "none", "d/large", "link", "d", "out", "most0", "most1", "most2", "most3", "most4",
        "most5", "empty", "a", "", "a/x",
    ];
    let read = read_many(&world, &paths).await;
    let none = Vec::new;
    let want: Vec<(&str, Vec<u8>)> = vec![
        ("a", b"hello".to_vec()),
        ("none: NO_SUCH_FILE", none()),
        ("d/large", large),
        ("link -> a", none()),
        ("d/", none()),
        ("out: LEADS_OUTSIDE", none()),
        ("most0", most.clone()),
        ("most1", most.clone()),
        ("most2", most.clone()),
        ("most3", most.clone()),
        ("most4", most.clone()),
        ("most5", most),
        ("empty", none()),
        ("a", b"hello".to_vec()),
        ("/", none()),
        ("a/x: NOT_A_DIRECTORY", none()),
    ];
    let got = contents(&read);
    assert_eq!(got.len(), want.len());
    for ((got, content), (want, wanted)) in got.iter().zip(&want) {
        assert_eq!(got, want);
        assert!(content == wanted, "{got}");
    }
    assert_eq!(read.result["files"], 10);
    assert_eq!(read.result["failed"], 3);
    let records = json_lines_of_records(&read);
    let meta = fs::metadata(world.host("www/a")).unwrap();
    assert_eq!(records[0]["mode"], meta.permissions().mode() & 0o7777);
}

/// Whoever does not read what it asked for costs a window and two batches, not
/// all that it asked for.
#[tokio::test]
async fn ten_thousand_requests_are_not_read_ahead_of_their_reader() {
    const BYTES: usize = 10_000;
    let world = World::new();
    for n in 0..100 {
        world.put(&format!("www/{n}"), [b'o'; BYTES]);
    }
    let input = json!({ "file": "www" });
    let mut opened = world.opened("fs/read-many", input).await;
    let counter = opened.call.channel.rx.counter();
    let lines = (0..10_000).map(|n| json!({ "path": (n % 100).to_string() }).to_string() + "\n");
    let lines = lines.collect::<String>().into();
    opened.call.channel.tx.send(lines).await.unwrap();
    soon(async {
        while counter.bytes() < (alknet_core::PIPE_WINDOW_BYTES / 2) as u64 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for n in 0..100 {
        world.put("www/new", [b'n'; BYTES]);
        fs::rename(world.host("www/new"), world.host(&format!("www/{n}"))).unwrap();
    }
    let read = opened.receive().await.unwrap();
    assert_eq!(read.result["files"], 10_000);
    assert_eq!(read.result["bytes"], 10_000 * BYTES);
    let old = contents(&read)
        .iter()
        .filter(|(_, content)| content[0] == b'o')
        .count();
    let most = alknet_core::PIPE_WINDOW_BYTES / BYTES + 4 * 256;
    assert!(old <= most, "{old}");
}

#[tokio::test]
async fn odd_requests_end_the_call() {
    let world = World::new();
    let cases = [
        main("{\"path\":\"../x\"}\n"),
        main("{\"path\":\"/x\"}\n"),
        main("{\"file\":\"x\"}\n"),
        main("{\"path\":\"x\"}"),
        main("[]\n"),
        main("x".repeat(64 * 1024)),
        aux("{\"path\":\"x\"}\n"),
    ];
    for chunk in cases {
        for operation in ["fs/read-many", "fs/compare"] {
            let opened = world.opened(operation, json!({ "file": "www" })).await;
            let error = opened.exchange(vec![chunk.clone()]).await.unwrap_err();
            assert_eq!(error.code, "BAD_ARGUMENT", "{operation} {chunk:?}");
        }
    }
    world.put("www/f", "x");
    world
        .refuses(
            "fs/read-many",
            json!({ "file": "www/f" }),
            "NOT_A_DIRECTORY",
        )
        .await;
    world
        .refuses(
            "fs/read-many",
            json!({ "file": "www/none" }),
            "NO_SUCH_FILE",
        )
        .await;
}

#[tokio::test]
async fn a_file_that_becomes_shorter_is_given_up_and_the_next_comes() {
    let world = World::new();
    world.put("www/a", noise(16 * 1024 * 1024));
    world.put("www/b", "next");
    let mut opened = world.opened("fs/read-many", json!({ "file": "www" })).await;
    for chunk in requests(&["a", "b"]) {
        opened.call.channel.tx.send_chunk(chunk).await.unwrap();
    }
    let first = soon(opened.call.channel.rx.recv()).await.unwrap().unwrap();
    assert!(first.aux);
    File::options()
        .write(true)
        .open(world.host("www/a"))
        .unwrap()
        .set_len(5)
        .unwrap();
    let mut read = opened.receive().await.unwrap();
    read.chunks.insert(0, first);
    let events = events(&read);
    let broken =
        |event: &TreeEvent| matches!(event, TreeEvent::FileBroken(f) if f.code == "FILE_CHANGED");
    assert!(events.iter().any(broken));
    assert_eq!(events.last(), Some(&TreeEvent::FileEnd));
    assert!(read.main().ends_with(b"next"));
    assert_eq!(
        (&read.result["files"], &read.result["failed"]),
        (&json!(1), &json!(1))
    );
}

#[tokio::test]
async fn only_what_differs_is_told() {
    let world = World::new();
    world.put("www/t/a", "hello");
    world.put("www/t/d/b", "there");
    symlink("a", world.host("www/t/link")).unwrap();
    let of = async |path: &str| {
        let input = json!({ "file": format!("www/t/{path}"), "follow": false });
        let stat = world.did("fs/stat", input).await;
        json!({
            "path": path, "kind": stat["kind"], "bytes": stat["bytes"], "mtime": stat["mtime"],
            "mode": stat["mode"],
        })
    };
    let with = |mut told: Value, field: &str, value: Value| {
        told[field] = value;
        told
    };
    let (a, d, b) = (of("a").await, of("d").await, of("d/b").await);
    let link = with(of("link").await, "target", json!("a"));
    let other = "2020-01-02T03:04:05Z";
    let told = [
        (a.clone(), None),
        (with(a.clone(), "bytes", json!(4)), Some("content")),
        (with(a.clone(), "mtime", json!(other)), Some("content")),
        (with(a.clone(), "mode", json!(0)), Some("attributes")),
        (with(a.clone(), "kind", json!("directory")), Some("kind")),
        (with(a, "path", json!("none")), Some("missing")),
        (
            json!({ "path": "a/x", "kind": "file", "bytes": 1 }),
            Some("missing"),
        ),
        (json!({ "path": "a", "kind": "file", "bytes": 5 }), None),
        (d.clone(), None),
        (with(d, "mtime", json!(other)), Some("attributes")),
        (b, None),
        (link.clone(), None),
        (with(link, "target", json!("b")), Some("content")),
        (json!({ "path": "", "kind": "directory" }), None),
    ];
    let lines: String = told
        .iter()
        .map(|(line, _)| line.to_string() + "\n")
        .collect();
    let opened = world.opened("fs/compare", json!({ "file": "www/t" })).await;
    let compared = opened.exchange(vec![main(lines)]).await.unwrap();
    let want: Vec<Value> = told
        .iter()
        .filter_map(|(line, differs)| Some(json!({ "path": line["path"], "differs": (*differs)? })))
        .chain([json!({ "seen": told.len() })])
        .collect();
    assert_eq!(compared.lines(), want);
    assert_eq!(
        compared.result,
        json!({ "seen": told.len(), "differing": want.len() - 1 })
    );
    // Nothing is there at all.
    let opened = world
        .opened("fs/compare", json!({ "file": "www/none" }))
        .await;
    let lines = |count: usize| {
        let line = |n| json!({ "path": format!("{n}"), "kind": "file" }).to_string() + "\n";
        main((0..count).map(line).collect::<String>())
    };
    let compared = opened.exchange(vec![lines(1000)]).await.unwrap();
    let seen: Vec<u64> = compared
        .lines()
        .iter()
        .filter_map(|line| line["seen"].as_u64())
        .collect();
    assert_eq!(seen, [256, 512, 768, 1000]);
    assert_eq!(compared.result["differing"], 1000);
}

/// Without the right to read there, nothing is said of what is.
#[tokio::test]
async fn what_may_not_be_read_is_not_compared() {
    let grants = ["fs:read", "bucket:www/**=read", "!bucket:www/no/**=*"];
    let world = World::new().granted(&grants);
    world.put("www/no/secret", "x");
    let lines = ["no/secret", "no/none"].map(|path| json!({ "path": path, "kind": "file" }));
    let lines = lines.map(|line| line.to_string() + "\n").concat();
    let opened = world.opened("fs/compare", json!({ "file": "www" })).await;
    let compared = opened.exchange(vec![main(lines)]).await.unwrap();
    let told = compared.lines();
    assert_eq!((code(&told[0]), code(&told[1])), ("FORBIDDEN", "FORBIDDEN"));
}

#[tokio::test]
async fn sparse_and_small_stay_equal() {
    let world = World::new();
    let sparse = File::create(world.host("www/s")).unwrap();
    sparse.set_len(4 * 1024 * 1024).unwrap();
    sparse.write_all_at(b"x", 2 * 1024 * 1024).unwrap();
    let read = read_many(&world, &["s"]).await;
    assert!(contents(&read)[0].1 == world.get("www/s"));
    assert!(read.main().len() < 1024 * 1024);
}
