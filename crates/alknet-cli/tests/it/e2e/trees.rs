//! Trees of files to be copied, and judges of whether two are the same.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    io::Write,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    },
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

/// What is known of one entry.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    kind: &'static str,
    mode: u32,
    /// Not of links, which have none that all hosts can set.
    mtime: Option<(i64, i64)>,
    bytes: u64,
    target: Option<OsString>,
}

fn seen(path: &Path) -> Seen {
    let meta = path.symlink_metadata().unwrap();
    let is_link = meta.is_symlink();
    let kind = match meta.file_type() {
        kind if kind.is_dir() => "directory",
        kind if kind.is_file() => "file",
        kind if kind.is_symlink() => "link",
        _ => "other",
    };
    Seen {
        kind,
        mode: if is_link { 0 } else { meta.mode() & 0o777 },
        mtime: (!is_link).then(|| (meta.mtime(), meta.mtime_nsec())),
        bytes: if meta.is_file() { meta.len() } else { 0 },
        target: is_link.then(|| fs::read_link(path).unwrap().into_os_string()),
    }
}

/// Names of everything below a directory, with what is known of it.
fn tree(top: &Path) -> BTreeMap<OsString, Seen> {
    let mut all = BTreeMap::new();
    let mut ahead = vec![OsString::new()];
    while let Some(below) = ahead.pop() {
        let path = top.join(&below);
        let entry = seen(&path);
        if entry.kind == "directory" {
            for child in fs::read_dir(&path).unwrap() {
                let name = child.unwrap().file_name();
                // Of a process that was killed: nobody else sees them, and they
                // are swept.
                if name.as_bytes().starts_with(b".alknet-part-") {
                    continue;
                }
                let mut child = below.clone();
                if !child.is_empty() {
                    child.push("/");
                }
                child.push(name);
                ahead.push(child);
            }
        }
        all.insert(below, entry);
    }
    all
}

/// Compares names, kinds, attributes, targets and every byte.
#[track_caller]
pub(crate) fn assert_same_tree(one: &Path, other: &Path) {
    let (here, there) = (tree(one), tree(other));
    for (name, entry) in &here {
        assert_eq!(there.get(name), Some(entry), "{name:?}");
    }
    for name in there.keys() {
        assert!(here.contains_key(name), "{name:?} is too much");
    }
    for (name, entry) in &here {
        if entry.kind == "file" {
            assert_same_bytes(&one.join(name), &other.join(name));
        }
    }
    assert_rsync_agrees(one, other);
}

/// Compares data only where one of the two has some: holes of both are the
/// same.
#[track_caller]
pub(crate) fn assert_same_bytes(one: &Path, other: &Path) {
    let open = |path: &Path| fs::File::open(path).unwrap();
    let bytes = open(one).metadata().unwrap().len();
    assert_eq!(open(other).metadata().unwrap().len(), bytes, "{one:?}");
    assert_data_is_in(&open(one), &open(other), bytes, one);
    assert_data_is_in(&open(other), &open(one), bytes, one);
}

/// Whether what is no hole in one is the same in the other.
#[track_caller]
fn assert_data_is_in(one: &fs::File, other: &fs::File, bytes: u64, name: &Path) {
    let mut at = 0;
    while at < bytes {
        let Ok(start) = rustix::fs::seek(one, rustix::fs::SeekFrom::Data(at)) else {
            break;
        };
        let end = rustix::fs::seek(one, rustix::fs::SeekFrom::Hole(start)).unwrap();
        let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        at = start;
        while at < end {
            let len = usize::try_from(end - at).unwrap_or(1 << 20).min(1 << 20);
            one.read_exact_at(&mut left[..len], at).unwrap();
            other.read_exact_at(&mut right[..len], at).unwrap();
            assert!(
                left[..len] == right[..len],
                "{name:?} differs near byte {at}"
            );
            at += len as u64;
        }
    }
}

/// An outside judge: rsync would change nothing.
#[track_caller]
pub(crate) fn assert_rsync_agrees(one: &Path, other: &Path) {
    let slashed = |path: &Path| {
        let mut text = path.as_os_str().to_owned();
        text.push("/");
        text
    };
    let mut rsync = Command::new("rsync");
    rsync.args([
        "-n",
        "--itemize-changes",
        "-rlpt",
        "-c",
        "-O",
        "--omit-link-times",
        "--exclude=.alknet-part-*",
        "--delete",
    ]);
    let said = rsync.args([slashed(one), slashed(other)]).output();
    let Ok(said) = said else { return };
    assert!(said.status.success(), "{said:?}");
    assert!(
        said.stdout.is_empty(),
        "{}",
        String::from_utf8_lossy(&said.stdout)
    );
}

/// Everything that a tree may hold and that can be copied: odd names, modes,
/// times, links, holes, and files of all sizes.
pub(crate) fn odd_tree(top: &Path) {
    fs::create_dir_all(top.join("sub/deeper/deepest")).unwrap();
    fs::create_dir(top.join("empty")).unwrap();
    let every_byte = (1..=255).filter(|byte| *byte != b'/').collect();
    let names: [Vec<u8>; 8] = [
        every_byte,
        b"-rf".to_vec(),
        b"two\nlines".to_vec(),
        b" %41 %zz ".to_vec(),
        "\u{e9}".into(),
        "e\u{301}".into(),
        vec![b'n'; 255],
        b"\xff\xfe".to_vec(),
    ];
    for (at, name) in names.into_iter().enumerate() {
        let path = top.join("sub").join(OsString::from_vec(name));
        fs::write(&path, vec![b'a' + at as u8; at * 100]).unwrap();
    }
    for (name, mode) in [
        ("none", 0o000),
        ("all", 0o777),
        ("own", 0o600),
        ("run", 0o755),
    ] {
        let path = top.join("sub/deeper").join(name);
        fs::write(&path, name).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    for (name, bytes) in [
        ("zero", 0),
        ("one", 1),
        ("block", 4096),
        ("small", 1 << 20),
        ("past-small", (1 << 20) + 1),
        ("large", 5_000_000),
    ] {
        fs::write(top.join(name), pattern(bytes)).unwrap();
    }
    let sparse = fs::File::create(top.join("sparse")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    for at in [0_u64, 10_000_001, (40 << 20) - 5] {
        sparse.write_all_at(b"here.", at).unwrap();
    }
    let only_hole = fs::File::create(top.join("only-hole")).unwrap();
    only_hole.set_len(3 << 20).unwrap();
    symlink("sub/deeper", top.join("to-directory")).unwrap();
    symlink("../large", top.join("sub/to-file")).unwrap();
    symlink("nowhere", top.join("to-nothing")).unwrap();
    symlink(OsStr::from_bytes(b"sub/\xff\xfe"), top.join("to-odd")).unwrap();
    fs::hard_link(top.join("one"), top.join("one-too")).unwrap();
    set_time(&top.join("zero"), SystemTime::UNIX_EPOCH);
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    set_time(&top.join("sub/deeper/own"), old);
    let before = SystemTime::UNIX_EPOCH - Duration::new(1_000_000, 5);
    set_time(&top.join("block"), before);
    let closed = top.join("sub/deeper/deepest");
    fs::write(closed.join("within"), "x").unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o500)).unwrap();
    for name in ["sub/deeper/deepest", "sub/deeper", "sub", "empty"] {
        set_time(&top.join(name), old);
    }
}

pub(crate) fn set_time(path: &Path, time: SystemTime) {
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

/// Bytes that no part of which is like another.
pub(crate) fn pattern(bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new().finalize_xof().fill(&mut out);
    out
}

/// A file of so many bytes.
pub(crate) fn large_file(path: &Path, bytes: usize) {
    fs::File::create(path)
        .unwrap()
        .write_all(&pattern(bytes))
        .unwrap();
}

/// `directories` with `files` each, small and of different sizes.
pub(crate) fn many_files(top: &Path, directories: usize, files: usize) {
    for directory in 0..directories {
        let path = top.join(format!("d{directory}"));
        fs::create_dir_all(&path).unwrap();
        for file in 0..files {
            let text = format!("{directory} {file}\n").repeat(file % 60);
            fs::write(path.join(format!("f{file}")), text).unwrap();
        }
    }
}

/// Names of uploads that somebody may go on with.
pub(crate) fn partials(directory: &Path) -> Vec<(OsString, u64)> {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    let partials =
        entries.filter(|entry| entry.file_name().as_bytes().starts_with(b".alknet-part-"));
    partials
        // It may just have got its name.
        .filter_map(|entry| Some((entry.file_name(), entry.metadata().ok()?.len())))
        .collect()
}
