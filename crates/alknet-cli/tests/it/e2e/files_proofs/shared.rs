//! Several at one file, each a process of its own.

use super::world::{World, sizes_seen};
use crate::program::Said;
use serde_json::{Value, json};
use std::{
    fs,
    io::Read,
    os::unix::fs::{FileExt, MetadataExt},
    process::Stdio,
    thread,
};

const MIB: u64 = 1 << 20;

/// `fs/write` with this input and these bytes.
#[track_caller]
fn write(world: &World, input: &Value, bytes: &[u8]) -> Said {
    let words = ["call", "fs/write", &input.to_string(), "--on", "home"];
    world.pair.laptop.feed(&words, bytes)
}

/// Whoever writes last wins, and whoever reads sees one or the other.
#[test]
fn two_writers_and_readers_never_see_a_mixture() {
    let world = World::start();
    let contents = [vec![b'a'; 3 << 20], vec![b'b'; 5 << 20]];
    for (name, content) in ["a", "b"].into_iter().zip(&contents) {
        fs::write(world.path(name), content).unwrap();
    }
    fs::write(world.www("file"), &contents[0]).unwrap();
    let (a, b) = (world.text("a"), world.text("b"));
    let (sizes, ()) = sizes_seen(&world.www("file"), || {
        thread::scope(|scope| {
            let writers: Vec<_> = [&a, &b]
                .into_iter()
                .map(|from| {
                    let world = &world;
                    scope.spawn(move || {
                        for _ in 0..8 {
                            let words = ["put", "-I", from, "home:www/file"];
                            world.pair.laptop.cli(&words).exits(0);
                        }
                    })
                })
                .collect();
            let mut reads = 0;
            while reads < 6 || !writers.iter().all(|writer| writer.is_finished()) {
                let said = world.pair.laptop.cli(&["cat", "home:www/file"]).exits(0);
                let is_one = contents.iter().any(|one| one == said.stdout.as_bytes());
                assert!(is_one, "{} bytes mixed", said.stdout.len());
                reads += 1;
            }
            for writer in writers {
                writer.join().unwrap();
            }
        });
    });
    let whole = contents.each_ref().map(|one| one.len() as u64);
    assert!(sizes.iter().all(|size| whole.contains(size)), "{sizes:?}");
    let last = fs::read(world.www("file")).unwrap();
    assert!(contents.contains(&last));
}

/// Lines that several append at once are all there, and each is whole.
#[test]
fn what_several_append_is_all_there() {
    const EACH: usize = 12;
    let world = World::start();
    let line = |who: usize, at: usize| format!("{who} {at} {}\n", "x".repeat(100 + who));
    thread::scope(|scope| {
        for who in 0..4 {
            let world = &world;
            scope.spawn(move || {
                for at in 0..EACH {
                    let input = json!({"file": "www/log", "append": true});
                    write(world, &input, line(who, at).as_bytes()).exits(0);
                }
            });
        }
    });
    let log = fs::read_to_string(world.www("log")).unwrap();
    for who in 0..4 {
        let own = log
            .split_inclusive('\n')
            .filter(|line| line.starts_with(&format!("{who} ")));
        let expected = (0..EACH).map(|at| line(who, at));
        assert!(own.eq(expected), "in order, once each and whole:\n{log}");
    }
    assert_eq!(log.lines().count(), 4 * EACH);
}

/// A reader whose file becomes shorter is told, and is given no bytes that are
/// not there.
#[test]
fn a_file_that_is_cut_while_it_is_read_ends_in_an_error() {
    let world = World::start();
    fs::write(world.www("file"), vec![b'a'; 96 << 20]).unwrap();
    for words in [
        &["call", "fs/read", r#"{"file": "www/file"}"#, "--on", "home"][..],
        &["cat", "home:www/file"],
    ] {
        let file = fs::File::options()
            .write(true)
            .open(world.www("file"))
            .unwrap();
        file.set_len(96 * MIB).unwrap();
        file.write_all_at(&vec![b'a'; 96 << 20], 0).unwrap();
        let mut command = world.pair.laptop.command(words);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        // It has begun, and waits for its reader.
        out.read_exact(&mut [0; 4096]).unwrap();
        let call = [(
            "fs/set-attributes",
            json!({"file": "www/file", "bytes": 1000}),
        )];
        assert!(world.calls(&call)[0]["error"].is_null());
        let mut rest = Vec::new();
        out.read_to_end(&mut rest).unwrap();
        let said = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&said.stderr);
        assert_eq!(said.status.code(), Some(1), "{words:?}: {told}");
        assert!(told.contains("FILE_CHANGED"), "{words:?}: {told}");
        assert!(
            (rest.len() as u64) < 96 * MIB - 4096,
            "{} bytes",
            rest.len()
        );
        assert!(rest.iter().all(|byte| *byte == b'a'), "{words:?}");
    }
}

/// Writing behind the end leaves a hole, which reads as zeros and stays one.
#[test]
fn holes_are_zeros_and_take_no_room_wherever_they_are_copied() {
    let world = World::start();
    let laptop = &world.pair.laptop;
    let input = json!({"file": "www/file", "offset": 64 * MIB});
    write(&world, &input, b"end").exits(0);
    let input = json!({"file": "www/file", "offset": 0});
    write(&world, &input, b"start").exits(0);
    let whole = |path: std::path::PathBuf| {
        let meta = path.metadata().unwrap();
        assert_eq!(meta.len(), 64 * MIB + 3, "{path:?}");
        assert!(meta.blocks() * 512 < MIB, "{path:?}: {}", meta.blocks());
        let bytes = fs::read(path).unwrap();
        let (start, rest) = bytes.split_at(5);
        let (hole, end) = rest.split_at(rest.len() - 3);
        assert_eq!((start, end), (&b"start"[..], &b"end"[..]));
        assert!(hole.iter().all(|byte| *byte == 0));
    };
    whole(world.www("file"));
    let down = world.make("down");
    let get = ["get", "home:www/file", down.to_str().unwrap()];
    laptop.cli(&get).exits(0);
    whole(down.join("file"));
    laptop
        .cli(&["put", &world.text("down/file"), "home:www/up"])
        .exits(0);
    whole(world.www("up"));
    let said = laptop.cli(&["cat", "home:www/up"]).exits(0);
    assert_eq!(said.stdout.len() as u64, 64 * MIB + 3);
    // Made longer and shorter, between writes of others.
    let longer = json!({"file": "www/up", "bytes": 65 * MIB});
    let shorter = json!({"file": "www/file", "bytes": 3});
    let calls = [
        ("fs/set-attributes", longer),
        ("fs/set-attributes", shorter),
    ];
    for answer in world.calls(&calls) {
        assert!(answer["error"].is_null(), "{answer}");
    }
    assert_eq!(world.www("up").metadata().unwrap().len(), 65 * MIB);
    assert_eq!(fs::read(world.www("file")).unwrap(), b"sta");
}

/// Writers of different ranges of one file do not touch each other's.
#[test]
fn writers_of_different_ranges_keep_to_their_own() {
    let world = World::start();
    const RANGE: u64 = 512 * 1024;
    let bytes = |who: u64| vec![b'a' + u8::try_from(who).unwrap(); 512 * 1024];
    thread::scope(|scope| {
        for who in (0..6).rev() {
            let world = &world;
            scope.spawn(move || {
                let input = json!({"file": "www/file", "offset": who * RANGE});
                write(world, &input, &bytes(who)).exits(0);
            });
        }
    });
    let expected: Vec<u8> = (0..6).flat_map(bytes).collect();
    assert!(fs::read(world.www("file")).unwrap() == expected);
}
