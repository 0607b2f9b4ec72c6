//! Trees removed.

use super::{Ground, assert_errno, name};
use alknet_core::files::FileKind;
use alknet_fs::root::{PARTIAL_PREFIX, RootError, Verdict};
use rustix::io::Errno;
use std::{collections::BTreeSet, fs};

#[test]
fn a_tree_goes_with_all_that_is_in_it_and_nothing_that_it_points_to() {
    let ground = Ground::new();
    ground
        .dirs("t/a/b")
        .dirs("t/empty")
        .dirs("beside")
        .file("beside/f", "")
        .file("t/f", "")
        .file("t/a/b/g", "");
    ground
        .link("t/out", ground.outside(""))
        .link("t/a/in", "../../beside")
        .link("t/a/up", "..");
    ground.file(&format!("t/a/{PARTIAL_PREFIX}half"), "half");
    let mut told = BTreeSet::new();
    let removed = ground
        .root
        .directory()
        .remove_tree(&name("t"), &mut |path, kind| {
            let path: Vec<_> = path.iter().map(ToString::to_string).collect();
            told.insert((path.join("/"), kind == FileKind::Directory));
            Verdict::Remove
        });
    let removed = removed.unwrap();
    assert!(removed.is_all && removed.failed.is_none());
    assert_eq!(
        (removed.files, removed.directories, removed.left),
        (6, 4, 0)
    );
    let want = [
        ("", true),
        ("a", true),
        ("a/b", true),
        ("a/b/g", false),
        ("a/in", false),
        ("a/up", false),
        ("empty", true),
        ("f", false),
        ("out", false),
    ];
    assert_eq!(
        told,
        want.into_iter()
            .map(|(path, is)| (path.to_owned(), is))
            .collect()
    );
    assert!(!ground.at("t").exists() && ground.at("beside/f").exists());
    ground.assert_untouched();
}

#[test]
fn what_is_kept_stays_and_stopping_stops() {
    let ground = Ground::new();
    ground
        .dirs("t/a/b")
        .dirs("t/c")
        .file("t/a/b/keep", "")
        .file("t/a/b/f", "")
        .file("t/c/f", "");
    let top = ground.root.directory();
    let keep = name("keep");
    let removed = top.remove_tree(
        &name("t"),
        &mut |path, _| match path.last() == Some(&keep) {
            true => Verdict::Keep,
            false => Verdict::Remove,
        },
    );
    let removed = removed.unwrap();
    assert!(!removed.is_all && removed.failed.is_none());
    assert_eq!(
        (removed.files, removed.directories, removed.left),
        (2, 1, 1)
    );
    assert!(
        ground.at("t/a/b/keep").exists()
            && !ground.at("t/a/b/f").exists()
            && !ground.at("t/c").exists()
    );
    let stopped = top.remove_tree(&name("t"), &mut |path, _| match path.len() {
        2.. => Verdict::Stop,
        _ => Verdict::Remove,
    });
    let stopped = stopped.unwrap();
    assert!(matches!(stopped.failed, Some((_, RootError::Stopped))));
    assert!(ground.at("t/a/b").exists());
    assert_errno(
        top.remove_tree(&name("missing"), &mut |_, _| Verdict::Remove),
        Errno::NOENT,
    );
    ground.file("plain", "").link("l", "t");
    for entry in ["plain", "l"] {
        let removed = top
            .remove_tree(&name(entry), &mut |_, _| Verdict::Remove)
            .unwrap();
        assert!(removed.is_all);
        assert_eq!(removed.files, 1);
    }
    assert!(ground.at("t").exists());
}

/// Handles of this process.
fn handles() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_thousand_levels_go_with_few_handles() {
    let ground = Ground::new();
    // Each level has entries before and after the next one, in whatever order.
    let mut at = ground.root.directory();
    let top = at.clone();
    for level in 0..1000 {
        if level % 10 == 0 {
            for file in ["a", "z"] {
                let how = alknet_fs::root::OpenHow::write(alknet_core::files::Create::New);
                at.open(&name(file), &how).unwrap();
            }
        }
        at.make_directory(&name("deep"), 0o755).unwrap();
        at = at.enter(&name("deep")).unwrap();
    }
    drop(at);
    let (before, mut most) = (handles(), 0);
    let removed = top.remove_tree(&name("deep"), &mut |_, _| {
        most = most.max(handles());
        Verdict::Remove
    });
    let removed = removed.unwrap();
    assert!(removed.is_all, "{removed:?}");
    assert_eq!((removed.files, removed.directories), (198, 1000));
    // Other tests of this process have theirs, when they run in it.
    assert!(most < before + 100, "{before} {most}");
    assert!(!ground.at("deep").exists());
}

#[test]
fn a_tree_that_is_moved_away_while_it_goes_is_left_alone() {
    let ground = Ground::new();
    let deep = ["d"; 60].join("/");
    ground
        .dirs(&format!("t/{deep}"))
        .dirs("safe")
        .file(&format!("t/{deep}/f"), "")
        .file("t/d/d/g", "");
    let removed = ground
        .root
        .directory()
        .remove_tree(&name("t"), &mut |path, _| {
            if path.len() == 60 {
                // What is held no more is elsewhere by now; what is below it comes along.
                fs::rename(ground.at("t/d/d/d"), ground.at("safe/moved")).unwrap();
            }
            Verdict::Remove
        });
    let removed = removed.unwrap();
    assert!(!removed.is_all);
    assert!(
        matches!(removed.failed, Some((_, RootError::Changed))),
        "{removed:?}"
    );
    assert!(ground.at("safe").exists());
}
