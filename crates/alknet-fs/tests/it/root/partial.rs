//! New contents that take their name as a whole.

use super::{Ground, assert_errno, name};
use alknet_core::files::{Attributes, ByteRange, Create, FileTime, SetTime};
use alknet_fs::root::{
    Batch, Commit, Digester, Directory, PARTIAL_PREFIX, Partial, PartialKey, Place, Replace,
    RootError,
};
use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
};
use std::{
    collections::BTreeSet,
    env, fs,
    mem::MaybeUninit,
    ops::ControlFlow,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

const KEY: PartialKey<'_> = PartialKey::Resumable(b"alice, upload 7");

fn begun(directory: &Directory, file: &str, key: PartialKey<'_>, content: &[u8]) -> Partial {
    let mut partial = directory.partial(&name(file), key).unwrap();
    partial.write(content).unwrap();
    partial
}

fn durable(place: Place) -> Commit {
    Commit {
        durable: true,
        place,
        ..Commit::default()
    }
}

/// Names in the root, as the host has them.
fn names(ground: &Ground) -> BTreeSet<String> {
    let entries = fs::read_dir(ground.at("")).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn a_file_changes_as_a_whole_when_it_is_committed() {
    let ground = Ground::new();
    ground.file("f", "old");
    let top = ground.root.directory();
    let mut partial = begun(&top, "f", PartialKey::Once, b"new ");
    partial.write(b"content").unwrap();
    assert_eq!(partial.bytes(), 11);
    assert_eq!(ground.read("f").unwrap(), "old");
    let hidden = names(&ground)
        .into_iter()
        .find(|name| name.starts_with(PARTIAL_PREFIX))
        .unwrap();
    let digits = &hidden[PARTIAL_PREFIX.len()..];
    assert!(digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
    let mode = fs::metadata(ground.at(&hidden)).unwrap().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let meta = partial.commit(&durable(Place::Replace)).unwrap();
    assert_eq!(meta, top.meta_of(&name("f")).unwrap());
    assert_eq!(ground.read("f").unwrap(), "new content");
    drop(partial);
    assert_eq!(names(&ground), BTreeSet::from(["f".into()]));
}

/// Who opened it before its mode was taken away would read all that comes.
#[test]
fn a_partial_file_is_nobody_elses_from_its_first_instant() {
    let ground = Ground::new();
    let top = ground.root.directory();
    let inotify = inotify::init(CreateFlags::NONBLOCK).unwrap();
    let flags = WatchFlags::CREATE | WatchFlags::ATTRIB;
    inotify::add_watch(&inotify, ground.at(""), flags).unwrap();
    for key in [PartialKey::Once, KEY] {
        let mut partial = begun(&top, "f", key, b"secret");
        let hidden = fs::metadata(ground.at(&part_of(&ground))).unwrap();
        assert_eq!(hidden.mode() & 0o777, 0o600);
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&inotify, &mut buffer);
        assert_eq!(events.next().unwrap().events(), ReadFlags::CREATE);
        // Nothing changed its mode since.
        assert_eq!(events.next().err(), Some(Errno::WOULDBLOCK));
        // What it has when it is complete is what any new file has here.
        fs::write(ground.at("usual"), "").unwrap();
        let usual = fs::metadata(ground.at("usual")).unwrap().mode();
        assert_eq!(
            partial.commit(&durable(Place::New)).unwrap().mode,
            usual & 0o7777
        );
        fs::remove_file(ground.at("usual")).unwrap();
        fs::remove_file(ground.at("f")).unwrap();
        while events.next().is_ok() {}
    }
}

#[test]
fn what_is_not_committed_is_kept_only_for_who_goes_on() {
    let ground = Ground::new();
    ground.file("f", "old");
    let top = ground.root.directory();
    drop(begun(&top, "f", PartialKey::Once, b"gone"));
    assert_eq!(names(&ground).len(), 1);
    drop(begun(&top, "f", KEY, b"kept"));
    assert_eq!(names(&ground).len(), 2);
    assert_eq!(ground.read("f").unwrap(), "old");
    // Another key or another name is another file.
    let other = top
        .partial(&name("f"), PartialKey::Resumable(b"mallory"))
        .unwrap();
    assert_eq!(other.bytes(), 0);
    assert_eq!(top.partial(&name("g"), KEY).unwrap().bytes(), 0);
    let mut again = top.partial(&name("f"), KEY).unwrap();
    assert_eq!(again.bytes(), 4);
    let mut digester = Digester::new(&[alknet_core::files::Algorithm::Blake3]);
    again
        .file()
        .digest(ByteRange::default(), &mut digester, |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(digester.finish().blake3.unwrap(), blake3_of(b"kept"));
    again.rewind(2).unwrap();
    again.write(b"pt").unwrap();
    again.commit(&durable(Place::Existing)).unwrap();
    assert_eq!(ground.read("f").unwrap(), "kept"[..2].to_owned() + "pt");
    drop((again, other));
    // The empty ones were not worth keeping.
    assert_eq!(names(&ground), BTreeSet::from(["f".into()]));
    begun(&top, "f", KEY, b"kept").discard();
    assert_eq!(names(&ground).len(), 1);
}

fn blake3_of(bytes: &[u8]) -> String {
    let mut digester = Digester::new(&[alknet_core::files::Algorithm::Blake3]);
    digester.update(bytes);
    digester.finish().blake3.unwrap()
}

#[test]
fn only_one_writes_at_a_time() {
    let ground = Ground::new();
    let top = ground.root.directory();
    let first = begun(&top, "f", KEY, b"first");
    let second = top.partial(&name("f"), KEY);
    assert!(matches!(second, Err(RootError::Busy)), "{second:?}");
    drop(first);
    assert_eq!(top.partial(&name("f"), KEY).unwrap().bytes(), 5);
    // Without a key everybody has his own.
    let _one = begun(&top, "f", PartialKey::Once, b"1");
    let _two = begun(&top, "f", PartialKey::Once, b"2");
}

#[test]
fn conditions_are_those_at_the_end() {
    let ground = Ground::new();
    ground.file("f", "old").dirs("d");
    let top = ground.root.directory();
    let version = top.meta_of(&name("f")).unwrap().version();
    let commit = |file: &str, place: Place| {
        begun(&top, file, PartialKey::Once, b"new").commit(&durable(place))
    };
    assert_errno(commit("f", Place::New), Errno::EXIST);
    assert_errno(commit("g", Place::Existing), Errno::NOENT);
    assert!(matches!(
        commit("g", Place::Version(version.clone())),
        Err(RootError::Changed)
    ));
    assert!(matches!(
        commit("f", Place::Version("other".into())),
        Err(RootError::Changed)
    ));
    for place in [
        Place::Replace,
        Place::Existing,
        Place::Version(version.clone()),
    ] {
        assert_errno(commit("d", place), Errno::ISDIR);
    }
    assert_errno(commit("d", Place::New), Errno::EXIST);
    assert_eq!(ground.read("f").unwrap(), "old");
    assert_eq!(names(&ground).len(), 2);
    // Of two that are bound to one version, one is refused.
    let mut one = begun(&top, "f", PartialKey::Once, b"one");
    let mut two = begun(&top, "f", PartialKey::Once, b"two");
    one.commit(&durable(Place::Version(version.clone())))
        .unwrap();
    assert!(matches!(
        two.commit(&durable(Place::Version(version))),
        Err(RootError::Changed)
    ));
    assert_eq!(ground.read("f").unwrap(), "one");
    commit("g", Place::New).unwrap();
    // Somebody came first.
    let mut late = begun(&top, "late", PartialKey::Once, b"late");
    ground.file("late", "early");
    assert_errno(late.commit(&durable(Place::New)), Errno::EXIST);
    assert_eq!(ground.read("late").unwrap(), "early");
    // A symlink is replaced, not written through.
    ground.link("out", ground.outside("canary"));
    commit("out", Place::Replace).unwrap();
    assert_eq!(ground.read("out").unwrap(), "new");
    ground.assert_untouched();
}

#[test]
fn attributes_are_given_or_kept() {
    let ground = Ground::new();
    ground.file("f", "old").file("plain", "");
    let plain = fs::metadata(ground.at("plain")).unwrap().mode() & 0o777;
    fs::set_permissions(ground.at("f"), fs::Permissions::from_mode(0o2751)).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(ground.at("f"), Some(65534), Some(65534)).unwrap();
    }
    let old = fs::metadata(ground.at("f")).unwrap();
    let top = ground.root.directory();
    let kept = begun(&top, "f", PartialKey::Once, b"new")
        .commit(&Commit::default())
        .unwrap();
    assert_eq!(
        (kept.mode, kept.uid, kept.gid),
        (0o751, old.uid(), old.gid())
    );
    let new = begun(&top, "new", PartialKey::Once, b"new")
        .commit(&Commit::default())
        .unwrap();
    assert_eq!(new.mode, plain);
    // One that is gone on with is as new as one that is not.
    drop(begun(&top, "resumed", KEY, b"new"));
    let resumed = begun(&top, "resumed", KEY, b"er")
        .commit(&Commit::default())
        .unwrap();
    assert_eq!((resumed.mode, resumed.bytes), (plain, 5));
    let time = FileTime {
        seconds: 1_600_000_000,
        nanoseconds: 5,
    };
    let attributes = Attributes {
        mode: Some(0o640),
        mtime: Some(SetTime::To(time)),
        ..Attributes::default()
    };
    let given = begun(&top, "f", PartialKey::Once, b"x").commit(&Commit {
        attributes,
        ..durable(Place::Replace)
    });
    let given = given.unwrap();
    assert_eq!((given.mode, given.modified), (0o640, time));
    let set_id = Attributes {
        mode: Some(0o4755),
        ..Attributes::default()
    };
    let refused = begun(&top, "f", PartialKey::Once, b"y").commit(&Commit {
        attributes: set_id,
        ..Commit::default()
    });
    assert!(matches!(refused, Err(RootError::SetId)));
    assert_eq!(ground.read("f").unwrap(), "x");
}

#[test]
fn what_others_planted_is_not_gone_on_with() {
    let ground = Ground::new();
    let top = ground.root.directory();
    drop(begun(&top, "f", KEY, b"mine"));
    let part = names(&ground).pop_first().unwrap();
    // A second name elsewhere would show what is written, and change it.
    fs::hard_link(ground.at(&part), ground.outside("spy")).unwrap();
    assert_eq!(top.partial(&name("f"), KEY).unwrap().bytes(), 0);
    fs::remove_file(ground.outside("spy")).unwrap();
    std::os::unix::fs::symlink(ground.outside("canary"), ground.at(&part)).unwrap();
    let mut partial = begun(&top, "f", KEY, b"new");
    partial.commit(&durable(Place::New)).unwrap();
    assert_eq!(ground.read("f").unwrap(), "new");
    ground.assert_untouched();
    // Taken away meanwhile, it does not put another file in place.
    let mut partial = begun(&top, "g", KEY, b"mine");
    fs::write(ground.at("theirs"), "theirs").unwrap();
    fs::rename(ground.at("theirs"), ground.at(&part_of(&ground))).unwrap();
    assert!(matches!(
        partial.commit(&durable(Place::New)),
        Err(RootError::Changed)
    ));
    assert!(!ground.at("g").exists());
}

fn part_of(ground: &Ground) -> String {
    names(ground)
        .into_iter()
        .find(|name| name.starts_with(PARTIAL_PREFIX))
        .unwrap()
}

#[test]
fn holes_stay_holes() {
    let ground = Ground::new();
    let mut partial = begun(&ground.root.directory(), "f", PartialKey::Once, &[1; 4096]);
    partial.skip(1 << 30).unwrap();
    partial.write(&[2; 4096]).unwrap();
    partial.skip(4096).unwrap();
    assert_errno(partial.skip(u64::MAX), Errno::FBIG);
    let meta = partial.commit(&durable(Place::New)).unwrap();
    assert_eq!(meta.bytes, (1 << 30) + 3 * 4096);
    assert!(meta.bytes_on_disk < 1 << 20);
}

#[test]
fn stale_ones_are_swept_and_those_in_use_are_not() {
    let ground = Ground::new();
    ground.file("f", "");
    let top = ground.root.directory();
    drop(begun(&top, "old", KEY, b"12345"));
    let held = begun(&top, "held", KEY, b"held");
    ground.link(&format!("{PARTIAL_PREFIX}link"), ground.outside("canary"));
    let past = SystemTime::now() - Duration::from_secs(60);
    assert_eq!(top.sweep(past).unwrap().partials, 0);
    let swept = top
        .sweep(SystemTime::now() + Duration::from_secs(60))
        .unwrap();
    assert_eq!((swept.partials, swept.bytes), (2, 5));
    assert_eq!(names(&ground).len(), 2);
    assert_eq!(held.bytes(), 4);
    ground.assert_untouched();
}

#[test]
fn partial_files_do_not_keep_a_directory() {
    let ground = Ground::new();
    ground.dirs("d").dirs("used");
    let top = ground.root.directory();
    drop(begun(&ground.directory("d"), "f", KEY, b"half"));
    top.remove_directory(&name("d")).unwrap();
    let _held = begun(&ground.directory("used"), "f", KEY, b"half");
    assert_errno(top.remove_directory(&name("used")), Errno::NOTEMPTY);
    // But with anything else, they stay as well.
    ground.dirs("full").file("full/f", "");
    drop(begun(&ground.directory("full"), "g", KEY, b"half"));
    assert_errno(top.remove_directory(&name("full")), Errno::NOTEMPTY);
    assert_eq!(fs::read_dir(ground.at("full")).unwrap().count(), 2);
}

#[test]
fn a_batch_tells_of_each_file() {
    let ground = Ground::new();
    ground.dirs("a").dirs("b").file("a/f3", "old");
    let mut batch = Batch::new();
    for at in 0..20 {
        let directory = ground.directory(if at % 2 == 0 { "b" } else { "a" });
        let partial = begun(
            &directory,
            &format!("f{at}"),
            PartialKey::Once,
            format!("{at}").as_bytes(),
        );
        batch.add(partial, durable(Place::New));
    }
    assert_eq!(batch.len(), 20);
    let said = batch.commit();
    for (at, said) in said.into_iter().enumerate() {
        let directory = if at % 2 == 0 { "b" } else { "a" };
        if at == 3 {
            assert_errno(said, Errno::EXIST);
            continue;
        }
        let meta = ground
            .directory(directory)
            .meta_of(&name(format!("f{at}")))
            .unwrap();
        assert_eq!(said.unwrap(), meta);
        let content = ground.read(&format!("{directory}/f{at}")).unwrap();
        assert_eq!(content, at.to_string());
    }
    assert_eq!(ground.read("a/f3").unwrap(), "old");
    assert_eq!(fs::read_dir(ground.at("a")).unwrap().count(), 10);
}

#[test]
fn versions_hold_against_writers_at_once() {
    let ground = Ground::new();
    ground.file("f", "0");
    let top = ground.root.directory();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut done = 0;
                while done < 50 {
                    let meta = top.meta_of(&name("f")).unwrap();
                    let Ok(now) = ground.read("f") else { continue };
                    let next: u64 = now.parse::<u64>().unwrap() + 1;
                    let mut partial =
                        begun(&top, "f", PartialKey::Once, next.to_string().as_bytes());
                    let place = Place::Version(meta.version());
                    match partial.commit(&Commit {
                        place,
                        ..Commit::default()
                    }) {
                        Ok(_) => done += 1,
                        Err(RootError::Changed) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    // Had one been lost, there would be fewer.
    assert_eq!(ground.read("f").unwrap(), "200");
    assert_eq!(names(&ground).len(), 1);
}

#[test]
fn what_was_committed_is_not_gone_on_with() {
    let ground = Ground::new();
    let content = [7; 100];
    ground.file("f", content);
    let top = ground.root.directory();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut done = 0;
                while done < 50 {
                    // One that was opened while another committed it would cut the file.
                    let mut partial = match top.partial(&name("f"), KEY) {
                        Ok(partial) => partial,
                        Err(RootError::Busy) => continue,
                        Err(error) => panic!("{error}"),
                    };
                    partial.rewind(0).unwrap();
                    partial.write(&content).unwrap();
                    partial.commit(&Commit::default()).unwrap();
                    assert_eq!(fs::read(ground.at("f")).unwrap(), content);
                    done += 1;
                }
            });
        }
    });
    assert_eq!(names(&ground).len(), 1);
}

const CHILD: &str = "ALKNET_FS_TEST_SPACE_CHILD";
const FULL: &str = "a_full_disk_leaves_the_file_as_it_was";

/// In a mount namespace of its own, whose end takes the file system with it.
#[test]
fn a_full_disk_leaves_the_file_as_it_was() {
    if let Ok(dir) = env::var(CHILD) {
        return on_a_small_disk(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let root = rustix::process::geteuid().is_root();
    // Who is not root is root in a namespace of users.
    let own = if root { "--mount" } else { "-rm" };
    let said = Command::new("unshare")
        .args([own, "--propagation", "private", "--", "sh", "-c"])
        .arg("mount -t tmpfs -o size=1m,mode=700 tmpfs \"$1\" || exit 77; shift; exec \"$@\"")
        .arg("sh")
        .arg(dir.path())
        .arg(env::current_exe().unwrap())
        .args([&format!("root::partial::{FULL}"), "--exact", "--nocapture"])
        .env(CHILD, dir.path())
        .stdin(Stdio::null())
        .output();
    let said = match said {
        Ok(said) => said,
        Err(error) => return alknet_lab::skip(FULL, &format!("unshare cannot be run: {error}")),
    };
    let text = String::from_utf8_lossy(&said.stderr);
    if said.status.code() == Some(77) || text.contains("unshare failed") {
        return alknet_lab::skip(FULL, "no file system of its own can be mounted here");
    }
    let out = String::from_utf8_lossy(&said.stdout);
    assert!(
        said.status.success() && out.contains("1 passed"),
        "{out}{text}"
    );
}

fn on_a_small_disk(disk: &Path) {
    let root = alknet_fs::root::Root::open(disk).unwrap();
    let top = root.directory();
    fs::write(disk.join("f"), "old").unwrap();
    let piece = [7; 64 * 1024];
    let mut partial = top.partial(&name("f"), KEY).unwrap();
    let error = loop {
        if let Err(error) = partial.write(&piece) {
            break error;
        }
    };
    assert_errno(Err::<(), _>(error), Errno::NOSPC);
    // Whole pieces only, and the room that the last one took is free again.
    assert_eq!(partial.bytes() % piece.len() as u64, 0);
    assert_eq!(partial.file().meta().unwrap().bytes, partial.bytes());
    assert_eq!(fs::read(disk.join("f")).unwrap(), b"old");
    let how = alknet_fs::root::OpenHow::write(Create::New);
    let file = top.open(&name("g"), &how).unwrap();
    let filled = (0..100).try_for_each(|at| file.write_at(&piece, at * piece.len() as u64));
    assert_errno(filled, Errno::NOSPC);
    drop(file);
    let bytes = partial.bytes();
    drop(partial);
    top.remove_file(&name("g")).unwrap();
    let mut partial = top.partial(&name("f"), KEY).unwrap();
    assert_eq!(partial.bytes(), bytes);
    partial.rewind(10).unwrap();
    partial.commit(&durable(Place::Existing)).unwrap();
    assert_eq!(fs::read(disk.join("f")).unwrap(), [7; 10]);
    top.rename(&name("f"), &top, &name("h"), Replace::No)
        .unwrap();
}
