//! Directories and files swapped for symlinks while something is done in them.

use super::{Ground, name};
use alknet_core::files::{Attributes, Create, FileKind, FileName, FileTime, SetTime};
use alknet_fs::root::{
    Commit, Detail, Directory, Follow, OpenHow, PartialKey, Replace, RootError, Verdict,
};
use rustix::fs::{CWD, Mode, RenameFlags, mkfifoat, renameat_with};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

/// Swaps the entries of each pair, over and over, while `act` runs.
fn while_swapping(pairs: &[(PathBuf, PathBuf)], act: impl FnOnce()) {
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        // However it ends, the swapping does.
        let _end = End(&is_over);
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                for (one, other) in pairs {
                    // What an act removed or moved cannot be swapped just now.
                    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).ok();
                }
            }
        });
        act();
    });
}

/// Everything below a directory: content, mode, links, and when it last changed.
fn snapshot(at: &Path) -> BTreeMap<PathBuf, (Vec<u8>, u32, u64, i64, i64)> {
    let mut found = BTreeMap::new();
    let mut ahead = vec![at.to_owned()];
    while let Some(path) = ahead.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = match meta.is_dir() {
            true => Vec::new(),
            false => fs::read(&path).unwrap(),
        };
        let known = (
            content,
            meta.mode(),
            meta.nlink(),
            meta.ctime(),
            meta.ctime_nsec(),
        );
        if meta.is_dir() {
            ahead.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
        found.insert(path, known);
    }
    found
}

/// The same names inside and outside, so that whatever leads out finds something.
fn furnish(ground: &Ground) {
    for (place, content) in [(ground.at("d"), "inside"), (ground.outside(""), "outside")] {
        fs::create_dir_all(place.join("s/s")).unwrap();
        for file in ["f", "g", "s/f", "s/s/f"] {
            fs::write(place.join(file), content).unwrap();
        }
    }
    ground
        .link("link", "../outside")
        .link("d/flink", "../../outside/f")
        .link("d/slink", ground.outside("s"));
    mkfifoat(CWD, ground.at("d/pipe"), Mode::from_raw_mode(0o666)).unwrap();
}

/// One act of many; what it answers is looked at for what only the outside has.
fn act(ground: &Ground, at: usize) -> Result<(), RootError> {
    let path = ["d/f", "d/s/f", "d/s/s/f", "link/f", "d/flink", "d/slink/f"][at % 6];
    let end = ground.walk(
        path,
        if at.is_multiple_of(5) {
            Follow::No
        } else {
            Follow::Yes
        },
    )?;
    let (directory, entry) = (&end.directory, end.name()?.clone());
    let other = name("other");
    match at / 6 % 12 {
        0 | 1 => read(directory, &entry)?,
        2 => directory
            .open(&entry, &OpenHow::write(Create::IfMissing))?
            .write_at(b"inside", 0)?,
        3 => {
            let how = OpenHow {
                truncate: true,
                ..OpenHow::write(Create::Never)
            };
            directory.open(&entry, &how)?.write_at(b"inside", 0)?;
        }
        4 => list(directory)?,
        5 => {
            directory.rename(&entry, directory, &other, Replace::Yes)?;
            directory.rename(&other, directory, &entry, Replace::No)?;
        }
        6 => {
            directory.link(&entry, directory, &other)?;
            read(directory, &other)?;
            directory.remove_file(&other)?;
        }
        7 => {
            let mut partial = directory.partial(&entry, PartialKey::Resumable(b"race"))?;
            partial.rewind(0)?;
            partial.write(b"inside")?;
            partial.commit(&Commit::default())?;
        }
        8 => {
            let time = SetTime::To(FileTime {
                seconds: at as i64,
                nanoseconds: 0,
            });
            let attributes = Attributes {
                mode: Some(0o640),
                mtime: Some(time),
                ..Attributes::default()
            };
            directory.set_attributes_of(&entry, &attributes)?;
        }
        9 => {
            directory.make_directory(&other, 0o700)?;
            let made = directory.enter(&other)?;
            made.make_symlink(&name("l"), b"..")?;
            made.open(&name("x"), &OpenHow::write(Create::New))?;
            directory.remove_tree(&other, &mut |_, _| Verdict::Remove)?;
        }
        10 => {
            if let Ok(target) = directory.read_link(&entry) {
                assert!(
                    !target.starts_with(b"/") && !target.ends_with(b"outside/f"),
                    "{target:?}"
                );
            }
        }
        _ => {
            directory.remove_file(&entry)?;
            directory
                .open(&entry, &OpenHow::write(Create::New))?
                .write_at(b"inside", 0)?;
        }
    }
    Ok(())
}

fn read(directory: &Directory, entry: &FileName) -> Result<(), RootError> {
    let file = directory.open(entry, &OpenHow::read())?;
    assert_eq!(file.meta()?.kind, FileKind::File, "no pipe is given out");
    let mut content = [0; 100];
    let bytes = file.read_at(&mut content, 0)?;
    assert!(
        !content[..bytes].starts_with(b"out"),
        "the outside was read"
    );
    Ok(())
}

fn list(directory: &Directory) -> Result<(), RootError> {
    let page = directory.list(None)?.page(100, Detail::Meta)?;
    assert!(
        page.iter().all(|entry| entry.name.as_bytes() != b"canary"),
        "the outside was listed"
    );
    Ok(())
}

#[test]
fn ten_thousand_acts_amid_swaps_touch_nothing_outside() {
    let ground = Ground::new();
    furnish(&ground);
    let before = snapshot(&ground.outside(""));
    let pairs = [
        (ground.at("d"), ground.at("link")),
        (ground.at("d/f"), ground.at("d/flink")),
        (ground.at("d/s"), ground.at("d/slink")),
        (ground.at("d/g"), ground.at("d/pipe")),
        (ground.at("d/f"), ground.at("d/pipe")),
    ];
    let (mut done, mut refused, mut led_out) = (0, 0, 0);
    while_swapping(&pairs, || {
        for at in 0..10_000 {
            match act(&ground, at) {
                Ok(()) => done += 1,
                Err(RootError::LeadsOut) => led_out += 1,
                Err(_) => refused += 1,
            }
        }
    });
    assert_eq!(snapshot(&ground.outside("")), before);
    // Some of each: the swaps were met, and did not stop everything.
    assert!(
        done > 100 && led_out > 100 && refused > 0,
        "{done} {led_out} {refused}"
    );
}

#[test]
fn a_file_that_becomes_a_pipe_is_never_waited_for() {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let ground = Ground::new();
        ground.file("f", "inside").file("g", "inside too");
        let mode = Mode::from_raw_mode(0o666);
        mkfifoat(CWD, ground.at("pipe"), mode).unwrap();
        let pairs = [
            (ground.at("f"), ground.at("pipe")),
            (ground.at("f"), ground.at("g")),
        ];
        let top = ground.root.directory();
        let (mut opened, mut refused) = (0, 0);
        while_swapping(&pairs, || {
            for at in 0..60_000 {
                if top.link(&name("f"), &top, &name("again")).is_ok() {
                    let again = top.meta_of(&name("again")).unwrap();
                    assert_eq!(again.kind, FileKind::File);
                    top.remove_file(&name("again")).unwrap();
                }
                let how = match at % 2 {
                    0 => OpenHow::read(),
                    _ => OpenHow::write(Create::Never),
                };
                match top.open(&name("f"), &how) {
                    Ok(file) => {
                        assert_eq!(file.meta().unwrap().kind, FileKind::File);
                        assert_eq!(file.meta().unwrap().id, file.id());
                        opened += 1;
                    }
                    Err(RootError::NotAFile) => refused += 1,
                    Err(error) => panic!("{error:?}"),
                }
            }
        });
        tell.send((opened, refused)).unwrap();
    });
    // Gone without a word if an assertion failed, silent if it waits.
    let (opened, refused) = told.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(opened > 100 && refused > 100, "{opened} {refused}");
}

#[test]
fn trees_removed_amid_swaps_take_nothing_outside_along() {
    let ground = Ground::new();
    furnish(&ground);
    let before = snapshot(&ground.outside(""));
    let pairs = [
        (ground.at("t/a"), ground.at("t/link")),
        (ground.at("t/a/b"), ground.at("t/a/link")),
        (ground.at("t/f"), ground.at("t/link")),
    ];
    let top = ground.root.directory();
    let mut whole = 0;
    while_swapping(&pairs, || {
        for _ in 0..500 {
            // Fails where the swaps were faster; something is there at the end.
            plant(&top, &ground).ok();
            match top.remove_tree(&name("t"), &mut |_, _| Verdict::Remove) {
                Ok(removed) => whole += usize::from(removed.is_all),
                Err(error) => assert!(error.is_not_found(), "{error:?}"),
            }
        }
    });
    assert_eq!(snapshot(&ground.outside("")), before);
    assert!(whole > 0);
}

/// A tree with symlinks to what is outside, made by handles: by paths it would be
/// made outside, with the swaps.
fn plant(top: &Directory, ground: &Ground) -> Result<(), RootError> {
    let sub = |at: &Directory, entry: &str| {
        at.make_directory(&name(entry), 0o755)?;
        at.enter(&name(entry))
    };
    let t = sub(top, "t")?;
    rustix::fs::symlinkat(ground.outside(""), &t, "link")?;
    t.open(&name("f"), &OpenHow::write(Create::New))?;
    let a = sub(&t, "a")?;
    rustix::fs::symlinkat(ground.outside("s"), &a, "link")?;
    let b = sub(&a, "b")?;
    for at in [&a, &b, &sub(&sub(&b, "s")?, "s")?] {
        for file in ["f", "g"] {
            at.open(&name(file), &OpenHow::write(Create::New))?;
        }
    }
    Ok(())
}
