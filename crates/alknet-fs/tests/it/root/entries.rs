//! Entries made, moved and removed.

use super::{Ground, assert_errno, name};
use alknet_core::files::FileKind;
use alknet_fs::root::{Follow, Replace, Root, RootError};
use rustix::io::Errno;
use std::{fs, os::unix::fs::MetadataExt};

#[test]
fn renames_replace_only_if_asked() {
    let ground = Ground::new();
    ground
        .dirs("a/sub")
        .dirs("b/full")
        .file("a/f", "from a")
        .file("b/f", "from b")
        .file("b/full/x", "");
    let (a, b) = (ground.directory("a"), ground.directory("b"));
    let f = name("f");
    assert_errno(a.rename(&f, &b, &f, Replace::No), Errno::EXIST);
    assert_eq!(fs::read(ground.at("b/f")).unwrap(), b"from b");
    a.rename(&f, &b, &f, Replace::Yes).unwrap();
    assert_eq!(fs::read(ground.at("b/f")).unwrap(), b"from a");
    assert_errno(a.rename(&f, &b, &f, Replace::Yes), Errno::NOENT);
    let sub = name("sub");
    assert_errno(a.rename(&sub, &b, &name("full"), Replace::No), Errno::EXIST);
    assert_errno(
        a.rename(&sub, &b, &name("full"), Replace::Yes),
        Errno::NOTEMPTY,
    );
    assert_errno(a.rename(&sub, &b, &f, Replace::Yes), Errno::NOTDIR);
    assert_errno(b.rename(&f, &a, &sub, Replace::Yes), Errno::ISDIR);
    assert_errno(
        b.rename(
            &name("full"),
            &ground.directory("b/full"),
            &name("in"),
            Replace::Yes,
        ),
        Errno::INVAL,
    );
    a.rename(&sub, &b, &name("moved"), Replace::No).unwrap();
    assert!(ground.at("b/moved").is_dir());
}

#[test]
fn a_handle_of_another_root_is_refused() {
    let ground = Ground::new();
    ground.dirs("sub").file("f", "");
    let other = Root::open(&ground.at("sub")).unwrap().directory();
    let top = ground.root.directory();
    assert_errno(
        top.rename(&name("f"), &other, &name("f"), Replace::Yes),
        Errno::XDEV,
    );
    assert_errno(top.link(&name("f"), &other, &name("f")), Errno::XDEV);
}

#[test]
fn hard_links_are_of_files_and_follow_nothing() {
    let ground = Ground::new();
    ground
        .dirs("d")
        .file("f", "text")
        .link("l", "f")
        .link("out", ground.outside("canary"));
    let (top, d) = (ground.root.directory(), ground.directory("d"));
    top.link(&name("f"), &d, &name("again")).unwrap();
    assert_eq!(fs::metadata(ground.at("d/again")).unwrap().nlink(), 2);
    assert_eq!(
        top.meta_of(&name("f")).unwrap().id,
        d.meta_of(&name("again")).unwrap().id
    );
    assert_errno(top.link(&name("f"), &d, &name("again")), Errno::EXIST);
    assert_errno(top.link(&name("d"), &d, &name("x")), Errno::ISDIR);
    assert_errno(top.link(&name("l"), &d, &name("x")), Errno::LOOP);
    assert_errno(top.link(&name("out"), &d, &name("x")), Errno::LOOP);
    ground.assert_untouched();
    // Two names of one file: moving one onto the other does nothing.
    top.rename(&name("f"), &d, &name("again"), Replace::Yes)
        .unwrap();
    assert!(ground.at("f").exists());
}

#[test]
fn symlinks_that_would_lead_out_are_not_made() {
    let ground = Ground::new();
    ground.dirs("a/b");
    let b = ground.directory("a/b");
    for target in [
        "/etc/passwd",
        "../../..",
        "../../../x",
        "x/../../../..",
        "//",
        "../../../inside/a",
        // With `s -> .`, and with `s -> ..`.
        "s/s/s/../../../etc/passwd",
        "s/..",
        "./../x/./..",
    ] {
        let said = b.make_symlink(&name("l"), target.as_bytes());
        assert!(
            matches!(said, Err(RootError::LeadsOut)),
            "{target}: {said:?}"
        );
    }
    let too_long = [b'x'; 4096];
    for target in [&b""[..], b"a\0b", &too_long] {
        let said = b.make_symlink(&name("l"), target);
        assert!(matches!(said, Err(RootError::NameInvalid)));
    }
    for (at, target) in [
        "../..",
        "../../a/b",
        "missing",
        ".",
        "./.././..//x",
        "../b/",
    ]
    .into_iter()
    .enumerate()
    {
        let link = name(format!("l{at}"));
        b.make_symlink(&link, target.as_bytes()).unwrap();
        assert_eq!(b.read_link(&link).unwrap(), target.as_bytes());
        assert_eq!(b.meta_of(&link).unwrap().kind, FileKind::Symlink);
    }
    assert_errno(b.make_symlink(&name("l0"), b"x"), Errno::EXIST);
    assert_errno(ground.root.directory().read_link(&name("a")), Errno::INVAL);
}

#[test]
fn a_symlink_is_not_moved_to_where_it_leads_out() {
    let ground = Ground::new();
    ground
        .dirs("a/b")
        .link("a/b/planted", "x/../..")
        .file("f", "");
    let (top, b) = (ground.root.directory(), ground.directory("a/b"));
    b.make_symlink(&name("l"), b"../../f").unwrap();
    for replace in [Replace::Yes, Replace::No] {
        for to in ["l", "f"] {
            let said = b.rename(&name("l"), &top, &name(to), replace);
            assert!(matches!(said, Err(RootError::LeadsOut)), "{to}: {said:?}");
        }
        let said = b.rename(&name("planted"), &b, &name("p"), replace);
        assert!(matches!(said, Err(RootError::LeadsOut)), "{said:?}");
    }
    assert_eq!(fs::metadata(ground.at("f")).unwrap().len(), 0);
    let deeper = ground.dirs("a/b/c").directory("a/b/c");
    b.rename(&name("l"), &deeper, &name("l"), Replace::No)
        .unwrap();
    deeper
        .rename(&name("l"), &b, &name("l"), Replace::No)
        .unwrap();
    // What the host made is told by its letters, and followed with care.
    assert_eq!(b.read_link(&name("planted")).unwrap(), b"x/../..");
    // A directory is moved with what is in it: such a link is neither told nor followed.
    let a = ground.directory("a");
    assert_eq!(b.read_link(&name("l")).unwrap(), b"../../f");
    a.rename(&name("b"), &top, &name("moved"), Replace::No)
        .unwrap();
    let moved = ground.directory("moved").read_link(&name("l"));
    assert!(matches!(moved, Err(RootError::LeadsOut)));
    assert!(matches!(
        ground.walk("moved/l", Follow::Yes),
        Err(RootError::LeadsOut)
    ));
}

#[test]
fn what_is_removed_is_the_entry_itself() {
    let ground = Ground::new();
    ground
        .dirs("d/sub")
        .file("d/f", "")
        .link("out", ground.outside(""))
        .link("l", "d");
    let top = ground.root.directory();
    assert_errno(top.remove_file(&name("d")), Errno::ISDIR);
    assert_errno(top.remove_directory(&name("d")), Errno::NOTEMPTY);
    assert_errno(top.remove_directory(&name("out")), Errno::NOTDIR);
    assert_errno(top.remove_directory(&name("l")), Errno::NOTDIR);
    top.remove_file(&name("out")).unwrap();
    top.remove_file(&name("l")).unwrap();
    ground.assert_untouched();
    let d = ground.directory("d");
    assert_errno(d.remove_directory(&name("f")), Errno::NOTDIR);
    d.remove_file(&name("f")).unwrap();
    d.remove_directory(&name("sub")).unwrap();
    top.remove_directory(&name("d")).unwrap();
    assert_errno(top.remove_file(&name("d")), Errno::NOENT);
    // The handle of what is gone makes nothing.
    assert_errno(d.make_directory(&name("x"), 0o755), Errno::NOENT);
}

#[test]
fn space_and_syncs_are_those_of_the_directory() {
    let ground = Ground::new();
    let top = ground.root.directory();
    let space = top.space().unwrap();
    assert!(space.bytes > 0 && space.bytes_free <= space.bytes && space.block_bytes > 0);
    assert!(!space.read_only);
    top.sync().unwrap();
}
