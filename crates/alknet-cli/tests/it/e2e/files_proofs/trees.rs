//! A tree of many small files and one that is very large and full of holes:
//! both ways, through kills, in flat memory, with progress that is right.

use super::{
    super::{
        harness::{Node, Running, eventually},
        trees::{assert_rsync_agrees, assert_same_bytes, assert_same_tree, partials, set_time},
    },
    world::{Dice, World, assert_diff_agrees, is_full, kill, summary, to_the_end},
};
use crate::terminal::OnTerminal;
use serde_json::Value;
use std::{
    ffi::OsString,
    fs,
    os::unix::{
        ffi::OsStringExt,
        fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

/// The most that a command, or a node, may need, in KiB: of which unoptimised
/// code alone is a third.
const MEMORY_MAX: u64 = 160 * 1024;
/// The most by which one needs more for ten times as many files.
const GROWS_MAX: u64 = 32 * 1024;

/// Small files, three directories deep, with odd names, modes, times and links.
fn small_files(top: &Path, count: u64) {
    let mut dice = Dice::new("small files");
    let mut directories = Vec::new();
    for at in 0..count.div_ceil(100) {
        let path = top.join(format!("d{}/e{}/f{at}", at % 10, at / 10 % 10));
        fs::create_dir_all(&path).unwrap();
        directories.push(path);
    }
    for at in 0..count {
        let odd = match dice.below(10) {
            0 => dice
                .bytes(40)
                .into_iter()
                .filter(|byte| !b"/\0".contains(byte))
                .collect(),
            1 => "\u{e9}e\u{301}\n".into(),
            _ => Vec::new(),
        };
        let name = [format!("{at}").into_bytes(), odd].concat();
        let directory = &directories[usize::try_from(at).unwrap() % directories.len()];
        let path = directory.join(OsString::from_vec(name));
        if dice.below(50) == 0 {
            symlink(format!("../f{}/{at}", dice.below(100)), &path).unwrap();
            continue;
        }
        let bytes = 10 + dice.below(3991);
        fs::write(&path, dice.bytes(bytes)).unwrap();
        set_time(&path, some_time(&mut dice));
        let mode =
            [0o644, 0o600, 0o755, 0o444, 0o640, 0o777][usize::try_from(dice.below(6)).unwrap()];
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    for directory in directories {
        for path in directory.ancestors().take(3) {
            set_time(path, some_time(&mut dice));
        }
    }
}

fn some_time(dice: &mut Dice) -> SystemTime {
    let since = Duration::new(dice.below(1_700_000_000), 1);
    SystemTime::UNIX_EPOCH + since + Duration::from_nanos(dice.below(999_999_999))
}

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// 20 GiB with data at the start, in the middle and at the end, and islands of
/// a MiB.
fn large_and_sparse(path: &Path, islands: u64) {
    let mut dice = Dice::new("islands");
    let file = fs::File::create(path).unwrap();
    file.set_len(20 * GIB).unwrap();
    let data = dice.bytes(MIB);
    // Enough at the start for a kill to come amid it.
    for at in 0..96 {
        file.write_all_at(&data, at * MIB).unwrap();
    }
    for at in 0..islands {
        let place = GIB + at * (18 * GIB / islands) + dice.below(4096);
        file.write_all_at(&data, place).unwrap();
    }
    file.write_all_at(b"middle", 10 * GIB - 3).unwrap();
    file.write_all_at(b"end", 20 * GIB - 3).unwrap();
}

/// How many entries a directory has, and those in it.
fn entries(top: &Path) -> u64 {
    let Ok(found) = fs::read_dir(top) else {
        return 0;
    };
    found
        .filter_map(Result::ok)
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => entries(&entry.path()),
            _ => 1,
        })
        .sum()
}

/// Waits until so many entries are there.
#[track_caller]
fn some_are_there(top: &Path, count: u64) {
    eventually("a part of it is there", || {
        (entries(top) >= count).then_some(())
    });
}

/// Waits until so much of a large file is there, under no name of its own.
#[track_caller]
fn part_is_there(directory: &Path, bytes: u64) {
    eventually("a part of it is there", || {
        let partials = partials(directory);
        partials.iter().any(|(_, len)| *len >= bytes).then_some(())
    });
}

#[track_caller]
fn assert_judges_agree(one: &Path, other: &Path) {
    if is_full() {
        assert_rsync_agrees(one, other);
    } else {
        assert_same_tree(one, other);
    }
    assert_diff_agrees(one, other);
}

/// What was needed at most, in KiB.
#[derive(Clone, Copy, Debug)]
struct Peaks {
    command: u64,
    home: u64,
    laptop: u64,
}

/// A copy to its end.
#[track_caller]
fn copied(world: &World, words: &[&str]) -> (Value, Peaks) {
    let mut running = world.pair.laptop.spawn(words);
    let (ended, command) = to_the_end(&mut running);
    ended.exits(0);
    let peaks = Peaks {
        command,
        home: world.pair.home.memory_peak_kib(),
        laptop: world.pair.laptop.memory_peak_kib(),
    };
    (sums(&mut running), peaks)
}

/// The sums that a command that has ended told.
#[track_caller]
fn sums(running: &mut Running) -> Value {
    loop {
        let line = running.lines.next();
        if line.starts_with("{\"summary\"") {
            return summary(&line);
        }
    }
}

#[track_caller]
fn assert_flat(few: Peaks, many: Peaks) {
    let pairs = [
        ("command", few.command, many.command),
        ("home", few.home, many.home),
        ("laptop", few.laptop, many.laptop),
    ];
    for (who, few, many) in pairs {
        assert!(many < MEMORY_MAX, "{who} needs {many} KiB");
        assert!(many < few + GROWS_MAX, "{who}: {few} KiB, then {many}");
    }
}

/// What proofs measure is worth telling.
#[allow(clippy::print_stdout)]
fn figures(told: &str) {
    println!("{told}");
}

#[test]
fn slow_many_small_files_go_both_ways_through_kills() {
    let count = if is_full() { 100_000 } else { 3_000 };
    let mut world = World::start();
    let tree = world.make("tree");
    small_files(&tree, count);
    small_files(&world.make("few"), count / 10);
    let (text, there) = (world.text("tree"), world.www("tree"));
    let (_, few) = copied(
        &world,
        &["put", "-r", &world.text("few"), "home:www/", "--json"],
    );

    let put = ["put", "-r", &text, "home:www/", "--json"];
    let putting = world.pair.laptop.spawn(&put);
    some_are_there(&there, count / 3);
    kill(putting);
    let (sums, many) = copied(&world, &put);
    figures(&format!("put again: {sums}, KiB at most: {many:?}"));
    assert!(sums["skipped"].as_u64().unwrap() >= count / 4, "{sums}");
    assert_eq!(sums["failed"], 0);
    assert_flat(few, many);
    assert_judges_agree(&tree, &there);

    let down = world.make("down");
    let get = ["get", "-r", "home:www/tree", &world.text("down"), "--json"];
    let getting = world.pair.laptop.spawn(&get);
    some_are_there(&down, count / 4);
    kill(getting);
    let mut getting = world.pair.laptop.spawn(&get);
    some_are_there(&down, count / 2);
    if is_full() {
        // Who serves is killed, which takes half a minute to be noticed, and the
        // command goes on by itself.
        world.pair.home.kill();
        world.pair.home.restart();
    }
    let (ended, peak) = to_the_end(&mut getting);
    ended.exits(0);
    assert!(peak < few.command + GROWS_MAX, "{few:?}, then {peak}");
    assert_judges_agree(&tree, &down.join("tree"));

    let (sums, again) = copied(&world, &get);
    figures(&format!("got again: {sums}, KiB at most: {again:?}"));
    assert_eq!(sums["files"], 0, "all is there: {sums}");
    assert!(again.command < MEMORY_MAX && again.home < MEMORY_MAX);
}

#[test]
fn slow_a_sparse_file_of_20_gib_goes_both_ways_through_kills() {
    let mut world = World::start();
    let large = world.path("large");
    large_and_sparse(&large, if is_full() { 600 } else { 30 });
    let put = ["put", &world.text("large"), "home:www/", "-v"];
    let putting = world.pair.laptop.spawn(&put);
    part_is_there(&world.path("www"), 16 * MIB);
    kill(putting);
    assert!(!world.www("large").exists(), "nothing partial has the name");
    let mut putting = world.pair.laptop.spawn(&put);
    let (ended, put_peak) = to_the_end(&mut putting);
    let told = ended.exits(0).stderr;
    figures(told.lines().last().unwrap());
    assert!(
        told.contains("goes on at byte") && told.contains("1 file"),
        "{told}"
    );
    assert_same_file(&large, &world.www("large"));

    let down = world.make("down");
    let get = ["get", "home:www/large", &world.text("down"), "-v"];
    let getting = world.pair.laptop.spawn(&get);
    part_is_there(&down, 16 * MIB);
    kill(getting);
    assert!(!down.join("large").exists(), "nothing partial has the name");
    let mut getting = world.pair.laptop.spawn(&get);
    eventually("it goes on", || {
        let is_on = getting.told().contains("goes on at byte");
        is_on.then_some(())
    });
    let home_peak = world.pair.home.memory_peak_kib();
    world.pair.home.kill();
    world.pair.home.restart();
    let (ended, peak) = to_the_end(&mut getting);
    let told = ended.exits(0).stderr;
    assert!(told.contains("goes on at byte"), "{told}");
    assert_same_file(&large, &down.join("large"));
    for (who, peak) in [
        ("put", put_peak),
        ("get", peak),
        ("home", home_peak),
        ("home, started again", world.pair.home.memory_peak_kib()),
        ("laptop", world.pair.laptop.memory_peak_kib()),
    ] {
        assert!(peak < MEMORY_MAX, "{who} needs {peak} KiB");
    }
    assert_eq!(partials(&world.path("www")), []);
    assert_eq!(partials(&down), []);
}

/// Byte by byte, with its time and mode, and holes as large as they were.
#[track_caller]
fn assert_same_file(one: &Path, other: &Path) {
    let (here, there) = (one.metadata().unwrap(), other.metadata().unwrap());
    let known = |meta: &fs::Metadata| (meta.len(), meta.mode(), meta.mtime(), meta.mtime_nsec());
    assert_eq!(known(&here), known(&there));
    let more = there.blocks().saturating_sub(here.blocks()) * 512;
    assert!(more < 16 * MIB, "{more} bytes more on the disk");
    assert_same_bytes(one, other);
    if is_full() {
        let said = Command::new("cmp").args([one, other]).output().unwrap();
        assert!(said.status.success(), "{said:?}");
    }
}

/// The percentages that were drawn, in order.
fn percents(screen: &str) -> Vec<u64> {
    let drawn = screen.split('\r').filter_map(|line| line.split_once('%'));
    drawn
        .filter_map(|(before, _)| before.trim_start_matches("\u{1b}[K").trim().parse().ok())
        .collect()
}

/// On a terminal, as a person sees it.
#[test]
fn progress_never_falls_and_is_whole_only_at_the_end() {
    let world = World::start();
    let tree = world.make("tree");
    small_files(&tree, 600);
    fs::write(tree.join("large"), Dice::new("large").bytes(60 * MIB)).unwrap();
    let copy = |node: &Node, words: &[&str]| {
        let mut command = OnTerminal::of_width(node.command(words), 120);
        assert_eq!(command.ended(), Some(0), "{}", command.seen);
        command.seen.clone()
    };
    let (up, down) = (world.text("tree"), world.text("down"));
    world.make("down");
    let all: PathBuf = world.www("tree");
    for words in [
        ["put", "-r", &up, "home:www/"],
        ["get", "-r", "home:www/tree", &down],
    ] {
        let screen = copy(&world.pair.laptop, &words);
        let percents = percents(&screen);
        assert!(percents.len() > 2, "{screen}");
        assert!(percents.is_sorted(), "{percents:?}");
        // 100 only with all files.
        let files = entries_of_kind_file(&all);
        for line in screen.split('\r').filter(|line| line.contains("100%")) {
            let whole = format!("{files} of {files} files");
            assert!(line.contains(&whole), "{line}");
        }
        assert!(
            screen.contains(&format!("copied {files} files")),
            "{screen}"
        );
    }
}

fn entries_of_kind_file(top: &Path) -> u64 {
    let found = fs::read_dir(top).unwrap().map(Result::unwrap);
    found
        .map(|entry| match entry.file_type().unwrap() {
            kind if kind.is_dir() => entries_of_kind_file(&entry.path()),
            kind => u64::from(kind.is_file()),
        })
        .sum()
}
