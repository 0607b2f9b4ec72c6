use super::*;
use std::{collections::BTreeMap, fs};

const ROOT: &str = "/data";
const MARKS: &str = "/marks";

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("\\x{byte:02x}")).collect()
}

/// A line of strace: `@name@` stands for a name in the directory, `"text"` for
/// a text.
fn lines(script: &str) -> String {
    let mut out = String::new();
    for (index, line) in script.lines().enumerate() {
        let (thread, call) = line.trim().split_once(' ').unwrap();
        let mut text = String::new();
        for (part, piece) in call.split('"').enumerate() {
            match part % 2 {
                0 => {
                    for (part, piece) in piece.split('@').enumerate() {
                        match part % 2 {
                            0 => text.push_str(piece),
                            _ => text.push_str(&hex(&format!("{ROOT}/{piece}").replace("/.", ""))),
                        }
                    }
                }
                _ => text.push_str(&format!("\"{}\"", hex(piece))),
            }
        }
        out.push_str(&format!("{thread}  1000.{index:06} {text}\n"));
    }
    out
}

fn trace(script: &str) -> Trace {
    Trace::read(&lines(script), Path::new(ROOT), Path::new(MARKS)).unwrap()
}

fn disk(trace: &Trace) -> Disk {
    let mut disk = Disk::new(0);
    for step in trace.steps() {
        disk.play(step);
    }
    disk
}

/// Files with their contents.
fn after(disk: &Disk, unsynced: Unsynced) -> BTreeMap<String, String> {
    let dir = tempfile::tempdir().unwrap();
    disk.lay_out(unsynced, dir.path()).unwrap();
    files(dir.path())
}

fn files(dir: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read_to_string(entry.path()).unwrap())
        })
        .collect()
}

#[track_caller]
fn check(script: &str, unsynced: Unsynced, want: &[(&str, &str)]) {
    let want = want.iter().map(|(k, v)| ((*k).into(), (*v).into()));
    assert_eq!(after(&disk(&trace(script)), unsynced), want.collect());
}

const MADE: &str = r#"1 openat(AT_FDCWD<@.@>, "/data/a", O_RDWR|O_CREAT|O_CLOEXEC, 0600) = 3<@a@> <0.000001>
    1 pwrite64(3<@a@>, "hello", 5, 0) = 5 <0.000001>
    1 openat(AT_FDCWD<@.@>, "/data", O_RDONLY) = 4<@.@> <0.000001>"#;

#[test]
fn what_was_never_synced_is_lost() {
    check(MADE, Unsynced::Lost, &[]);
    check(MADE, Unsynced::Kept, &[("a", "hello")]);
}

#[test]
fn a_name_needs_a_sync_of_its_directory() {
    let script = format!("{MADE}\n1 fdatasync(3<@a@>) = 0 <0.000001>");
    check(&script, Unsynced::Lost, &[]);
    let script = format!("{script}\n1 fsync(4<@.@>) = 0 <0.000001>");
    check(&script, Unsynced::Lost, &[("a", "hello")]);
}

#[test]
fn the_directory_alone_keeps_an_empty_file() {
    let script = format!("{MADE}\n1 fsync(4<@.@>) = 0 <0.000001>");
    check(&script, Unsynced::Lost, &[("a", "")]);
}

/// A file `a` that holds `hello` and is durable.
fn durable() -> String {
    format!("{MADE}\n1 fsync(3<@a@>) = 0 <0.000001>\n1 fsync(4<@.@>) = 0 <0.000001>")
}

#[test]
fn a_sync_is_about_what_was_written_before_it_began() {
    let script = format!(
        "{}\n{}",
        durable(),
        r#"1 fdatasync(3<@a@> <unfinished ...>
        2 pwrite64(3<@a@>, "J", 1, 0) = 1 <0.000001>
        1 <... fdatasync resumed>) = 0 <0.000400>"#
    );
    check(&script, Unsynced::Lost, &[("a", "hello")]);
    let script = format!("{script}\n2 fdatasync(3<@a@>) = 0 <0.000001>");
    check(&script, Unsynced::Lost, &[("a", "Jello")]);
}

#[test]
fn a_sync_that_has_not_returned_keeps_nothing() {
    let script = format!(
        "{}\n{}",
        durable(),
        r#"1 pwrite64(3<@a@>, "J", 1, 0) = 1 <0.000001>
        1 fdatasync(3<@a@> <unfinished ...>
        2 write(9<@../marks@>, "x", 1) = 1 <0.000001>"#
    );
    check(&script, Unsynced::Lost, &[("a", "hello")]);
}

#[test]
fn after_a_failed_sync_a_later_one_writes_nothing_of_it() {
    let script = format!(
        "{}\n{}",
        durable(),
        r#"1 pwrite64(3<@a@>, "J", 1, 0) = 1 <0.000001>
        1 fdatasync(3<@a@>) = -1 EIO (Input/output error) (INJECTED) <0.000001>
        1 pwrite64(3<@a@>, "p", 1, 3) = 1 <0.000001>
        1 fdatasync(3<@a@>) = 0 <0.000001>"#
    );
    let trace = trace(&script);
    let held: std::collections::BTreeSet<String> = (0..20)
        .map(|seed| {
            let mut disk = Disk::new(seed);
            trace.steps().iter().for_each(|step| disk.play(step));
            after(&disk, Unsynced::Lost)["a"].clone()
        })
        .collect();
    assert_eq!(held, ["Jelpo".into(), "helpo".into()].into());
}

#[test]
fn a_sync_that_only_claims_to_have_run_keeps_nothing() {
    let script = format!(
        "{MADE}\n1 fsync(3<@a@>) = 0 (INJECTED) <0.000001>\n1 fsync(4<@.@>) = 0 <0.000001>"
    );
    check(&script, Unsynced::Lost, &[("a", "")]);
}

#[test]
fn a_rename_is_whole_or_not_there() {
    let script = format!(
        "{}\n{}",
        durable(),
        r#"1 openat(AT_FDCWD<@.@>, "/data/b", O_WRONLY|O_CREAT|O_TRUNC, 0600) = 5<@b@> <0.000001>
        1 write(5<@b@>, "new", 3) = 3 <0.000001>
        1 fsync(5<@b@>) = 0 <0.000001>
        1 rename("/data/b", "/data/a") = 0 <0.000001>"#
    );
    check(&script, Unsynced::Lost, &[("a", "hello")]);
    check(&script, Unsynced::Kept, &[("a", "new")]);
    let disk = disk(&trace(&script));
    for seed in 0..20 {
        let found = after(&disk, Unsynced::Part(seed));
        assert!(found["a"] == "hello" || found["a"] == "new", "{found:?}");
    }
    let script = format!("{script}\n1 fsync(4<@.@>) = 0 <0.000001>");
    check(&script, Unsynced::Lost, &[("a", "new")]);
}

#[test]
fn a_removed_name_is_back_until_the_directory_was_synced() {
    let script = format!("{}\n{}", durable(), "1 unlink(\"/data/a\") = 0 <0.000001>");
    check(&script, Unsynced::Lost, &[("a", "hello")]);
    let script = format!("{script}\n1 fsync(4<@.@>) = 0 <0.000001>");
    check(&script, Unsynced::Lost, &[]);
}

#[test]
fn sectors_survive_one_by_one_and_their_neighbours_stay() {
    let long = "x".repeat(1_024);
    let script = format!(
        "{}\n1 pwrite64(3<@a@>, \"{long}\", 1024, 256) = 1024 <0.000001>",
        durable()
    );
    let disk = disk(&trace(&script));
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..64 {
        let found = after(&disk, Unsynced::Part(seed))["a"].clone();
        assert!(found.starts_with("hello"), "{found}");
        // Whatever lies within one sector is of one piece.
        for piece in found.as_bytes()[256.min(found.len())..].chunks(512) {
            assert!(
                piece.len() < 2
                    || piece
                        .windows(2)
                        .all(|pair| pair[0] == pair[1] || pair[0] == b'x' || pair[1] == b'x')
            );
        }
        lengths.insert(found.len());
    }
    assert_eq!(lengths, [5, 512, 1_024, 1_280].into());
}

#[test]
fn descriptors_keep_their_place() {
    let script = r#"1 openat(AT_FDCWD<@.@>, "/data/a", O_WRONLY|O_CREAT, 0600) = 3<@a@> <0.000001>
        1 write(3<@a@>, "ab", 2) = 2 <0.000001>
        1 write(3<@a@>, "cd", 2) = 1 <0.000001>
        1 lseek(3<@a@>, 1, SEEK_SET) = 1 <0.000001>
        1 write(3<@a@>, "X", 1) = 1 <0.000001>
        1 ftruncate(3<@a@>, 2) = 0 <0.000001>
        1 openat(AT_FDCWD<@.@>, "/data/a", O_WRONLY|O_APPEND) = 3<@a@> <0.000001>
        1 write(3<@a@>, "end", 3) = 3 <0.000001>"#;
    check(script, Unsynced::Kept, &[("a", "aXend")]);
}

#[test]
fn marks_and_moments_say_how_far_it_had_come() {
    let script = r#"1 openat(AT_FDCWD<@.@>, "/data/a", O_WRONLY|O_CREAT, 0600) = 3<@a@> <0.000001>
        1 write(9</MARKS>, "one", 3) = 3 <0.000001>
        1 write(3<@a@>, "ab", 2) = 2 <0.000001>
        1 write(9</MARKS>, "two", 3) = 3 <0.000001>"#;
    let text = lines(script).replace("/MARKS", &hex(MARKS));
    let trace = Trace::read(&text, Path::new(ROOT), Path::new(MARKS)).unwrap();
    assert_eq!(trace.marks().collect::<Vec<_>>(), [(2, "one"), (4, "two")]);
    // The third call began at 2 µs and took 1.
    assert_eq!(trace.steps_by(1_000_000_002), 2);
    assert_eq!(trace.steps_by(1_000_000_003), 3);
}

#[test]
fn a_call_that_the_model_does_not_know_is_refused() {
    let read = |script: &str| Trace::read(&lines(script), Path::new(ROOT), Path::new(MARKS));
    let inside = "1 fallocate(3<@a@>, 0, 0, 4096) = 0 <0.000001>";
    assert!(matches!(
        read(inside),
        Err(ReadError::Unknown { line: 1, .. })
    ));
    let outside = "1 fallocate(3<\\x2f\\x62>, 0, 0, 4096) = 0 <0.000001>";
    assert!(read(outside).is_ok());
    assert!(matches!(
        read("1 what is this"),
        Err(ReadError::Line { line: 1, .. })
    ));
}

#[test]
fn a_sync_of_one_directory_says_nothing_of_another() {
    let script = r#"1 openat(AT_FDCWD<@.@>, "/data/stage/a", O_WRONLY|O_CREAT, 0600) = 3<@stage/a@> <0.000001>
        1 write(3<@stage/a@>, "hello", 5) = 5 <0.000001>
        1 fsync(3<@stage/a@>) = 0 <0.000001>
        1 fsync(4<@.@>) = 0 <0.000001>"#;
    check(script, Unsynced::Lost, &[]);
    let disk = |script: &str| {
        let dir = tempfile::tempdir().unwrap();
        let disk = disk(&trace(script));
        disk.lay_out(Unsynced::Lost, dir.path()).unwrap();
        let stage = dir.path().join("stage");
        let staged = if stage.exists() {
            files(&stage).len()
        } else {
            0
        };
        (files(dir.path()).len(), staged)
    };
    let script = format!("{script}\n1 fsync(5<@stage@>) = 0 <0.000001>");
    assert_eq!(disk(&script), (0, 1));
    let script = format!("{script}\n1 rename(\"/data/stage/a\", \"/data/a\") = 0 <0.000001>");
    assert_eq!(disk(&script), (0, 1));
    // Until the other one is synced, too, it has both names.
    let script = format!("{script}\n1 fsync(4<@.@>) = 0 <0.000001>");
    assert_eq!(disk(&script), (1, 1));
    let script = format!("{script}\n1 fsync(5<@stage@>) = 0 <0.000001>");
    assert_eq!(disk(&script), (1, 0));
}
