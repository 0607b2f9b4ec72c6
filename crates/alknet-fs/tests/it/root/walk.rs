//! Paths and symlinks.

use super::{Ground, assert_errno, name, names, real};
use alknet_fs::root::{Detail, Follow, LINKS_MAX, OpenHow, Root, RootError};
use rustix::io::Errno;
use std::{fs, path::Path};

#[track_caller]
fn leads_to(ground: &Ground, path: &str, want: &str) {
    assert_eq!(
        real(&ground.walk(path, Follow::Yes).unwrap()),
        want,
        "{path}"
    );
}

#[track_caller]
fn leads_out(ground: &Ground, path: &str) {
    let said = ground.walk(path, Follow::Yes);
    assert!(matches!(said, Err(RootError::LeadsOut)), "{path}: {said:?}");
    assert!(
        matches!(ground.read(path), Err(RootError::LeadsOut)),
        "{path}"
    );
    assert!(
        matches!(ground.write(path, "dead"), Err(RootError::LeadsOut)),
        "{path}"
    );
}

#[test]
fn a_walk_tells_the_way_after_all_symlinks() {
    let ground = Ground::new();
    ground.dirs("a/b/c").file("a/b/c/f", "text");
    ground
        .link("to-b", "a/b")
        .link("a/b/up", "..")
        .link("a/b/c/top", "../../..");
    ground
        .link("dot", ".")
        .link("to-f", "to-b/c/f")
        .link("slash", "a/b/")
        .link("new", "a/missing");
    leads_to(&ground, "a/b/c/f", "a/b/c/f");
    leads_to(&ground, "to-b/c/f", "a/b/c/f");
    leads_to(&ground, "to-f", "a/b/c/f");
    leads_to(&ground, "to-b/up/b", "a/b");
    leads_to(&ground, "to-b/up", "a");
    leads_to(&ground, "a/b/c/top", "");
    leads_to(&ground, "a/b/c/top/to-b", "a/b");
    leads_to(&ground, "dot/dot/a", "a");
    leads_to(&ground, "slash", "a/b");
    leads_to(&ground, "new", "a/missing");
    leads_to(&ground, "a/missing", "a/missing");
    assert_eq!(ground.read("to-f").unwrap(), "text");
    assert_eq!(ground.directory("to-b").id(), ground.directory("a/b").id());
    ground.write("new", "made").unwrap();
    assert_eq!(fs::read_to_string(ground.at("a/missing")).unwrap(), "made");
    // Not followed at the end, but on the way.
    let end = ground.walk("to-b/up", Follow::No).unwrap();
    assert_eq!(real(&end), "a/b/up");
}

#[test]
fn what_is_not_there_and_what_is_no_directory_is_told() {
    let ground = Ground::new();
    ground
        .file("f", "")
        .link("dangling", "nothing/there")
        .link("file-as-directory", "f/");
    assert_errno(ground.walk("missing/f", Follow::Yes), Errno::NOENT);
    assert_errno(ground.walk("f/g", Follow::Yes), Errno::NOTDIR);
    assert_errno(ground.walk("dangling", Follow::Yes), Errno::NOENT);
    assert_errno(ground.walk("file-as-directory", Follow::Yes), Errno::NOTDIR);
    assert_errno(
        ground.walk("f", Follow::Yes).unwrap().enter(),
        Errno::NOTDIR,
    );
    assert!(matches!(
        ground.walk("", Follow::Yes).unwrap().name(),
        Err(RootError::IsRoot)
    ));
}

#[test]
fn a_walk_that_fails_tells_how_far_it_came() {
    let ground = Ground::new();
    ground.dirs("a/b").file("a/f", "");
    ground
        .link("to-b", "a/b")
        .link("a/b/out", "../../..")
        .link("a/b/loop", "loop");
    let check = |path: &str, want: &str| {
        let ended = ground.root.walk(&names(path), Follow::Yes).unwrap_err();
        let names: Vec<_> = ended.real.iter().map(ToString::to_string).collect();
        assert_eq!(names.join("/"), want, "{path}");
    };
    check("to-b/missing/f", "a/b/missing");
    check("a/f/g", "a/f");
    check("to-b/loop/x", "a/b/loop");
    // Climbing, it came to the root.
    check("to-b/out/x", "");
    check("missing/f", "missing");
}

#[test]
fn no_symlink_leads_out() {
    let ground = Ground::new();
    let outside = ground.outside("canary");
    ground.dirs("a/b");
    ground
        .link("absolute", &outside)
        .link("root", "/")
        .link("directory", ground.outside(""));
    ground
        .link("up", "..")
        .link("a/b/up3", "../../..")
        .link("a/climb", "b/../../../outside");
    ground
        .link("a/to-up3", "b/up3")
        .link("inside-absolute", ground.at("a"));
    ground
        .link("proc", "/proc/self/root")
        .link("fd", "/proc/self/fd/0")
        .link("cwd", "/proc/self/cwd");
    ground.link(
        "back",
        format!(
            "../{}",
            ground.at("").file_name().unwrap().to_str().unwrap()
        ),
    );
    for path in [
        "absolute",
        "root",
        "root/etc/passwd",
        "directory/canary",
        "directory/new",
        "up",
        "up/outside/canary",
        "a/b/up3/outside/canary",
        "a/climb/canary",
        "a/to-up3",
        "inside-absolute/b",
        "proc/etc/passwd",
        "fd",
        "cwd",
        "back/a",
    ] {
        leads_out(&ground, path);
    }
    for link in ["absolute", "up", "proc"] {
        assert!(matches!(
            ground.root.directory().read_link(&name(link)),
            Err(RootError::LeadsOut)
        ));
    }
    ground.assert_untouched();
}

#[test]
fn symlinks_that_lead_to_each_other_end() {
    let ground = Ground::new();
    ground
        .file("f", "text")
        .link("loop", "loop")
        .link("ping", "pong/x")
        .link("pong", "ping/x");
    for path in ["loop", "loop/f", "ping", "pong/f"] {
        let said = ground.walk(path, Follow::Yes);
        assert!(
            matches!(said, Err(RootError::TooManyLinks)),
            "{path}: {said:?}"
        );
    }
    ground.link("link1", "f");
    for at in 2..=LINKS_MAX + 1 {
        ground.link(&format!("link{at}"), format!("link{}", at - 1));
    }
    assert_eq!(ground.read(&format!("link{LINKS_MAX}")).unwrap(), "text");
    let over = ground.walk(&format!("link{}", LINKS_MAX + 1), Follow::Yes);
    assert!(matches!(over, Err(RootError::TooManyLinks)));
}

#[test]
fn a_way_may_be_deeper_than_handles_are_held() {
    let ground = Ground::new();
    let deep = ["d"; 200].join("/");
    ground.dirs(&deep).file("f", "text");
    let up = ["..", ""].join("/").repeat(200) + "f";
    ground
        .link(&format!("{deep}/back"), up)
        .link(&format!("{deep}/some"), "../".repeat(150));
    assert_eq!(ground.read(&format!("{deep}/back")).unwrap(), "text");
    let end = ground.walk(&format!("{deep}/some"), Follow::Yes).unwrap();
    assert_eq!(end.real.len(), 50);
}

#[test]
fn the_process_table_does_not_exist_through_a_root() {
    let root = Root::open(Path::new("/")).unwrap();
    let listed = root
        .directory()
        .list(None)
        .unwrap()
        .page(1000, Detail::Kinds)
        .unwrap();
    assert!(!listed.is_empty());
    for path in [
        "proc/self/mem",
        "proc/self/environ",
        "proc/self/root/etc",
        "proc/1/cwd",
        "proc/self/fd/0",
    ] {
        assert_errno(
            root.walk(&names(path), Follow::Yes)
                .map_err(RootError::from),
            Errno::NOENT,
        );
    }
    assert!(matches!(
        Root::open(Path::new("/proc/self")),
        Err(RootError::LeadsOut)
    ));
    assert!(matches!(
        Root::open(Path::new("/proc")),
        Err(RootError::LeadsOut)
    ));
}

#[test]
fn a_hidden_directory_does_not_exist_and_its_place_is_not_taken() {
    let ground = Ground::new();
    ground
        .dirs("home/data/keys")
        .file("home/data/keys/node", "secret")
        .file("home/f", "")
        .link("to", "home/data");
    let root = Root::open(&ground.at(""))
        .unwrap()
        .hide(&ground.at("home/data"))
        .unwrap();
    for path in [
        "home/data/keys/node",
        "home/data/keys",
        "to/keys",
        "home/data/new",
    ] {
        assert_errno(
            root.walk(&names(path), Follow::Yes)
                .map_err(RootError::from),
            Errno::NOENT,
        );
    }
    let home = root
        .walk(&names("home"), Follow::Yes)
        .unwrap()
        .enter()
        .unwrap();
    let data = name("data");
    assert_errno(home.meta_of(&data), Errno::NOENT);
    assert_errno(home.enter(&data), Errno::NOENT);
    assert_errno(home.remove_directory(&data), Errno::NOENT);
    assert_errno(home.remove_file(&data), Errno::NOENT);
    assert_errno(home.open(&data, &OpenHow::read()), Errno::NOENT);
    let replace = alknet_fs::root::Replace::Yes;
    assert_errno(home.rename(&data, &home, &name("x"), replace), Errno::NOENT);
    assert!(matches!(
        home.make_directory(&data, 0o755),
        Err(RootError::NameReserved)
    ));
    assert!(matches!(
        home.rename(&name("f"), &home, &data, replace),
        Err(RootError::NameReserved)
    ));
    let top = root.directory();
    assert_errno(
        top.rename(&name("home"), &top, &name("x"), replace),
        Errno::BUSY,
    );
    let listed = home.list(None).unwrap().page(10, Detail::Kinds).unwrap();
    let listed: Vec<_> = listed.iter().map(|entry| entry.name.to_string()).collect();
    assert_eq!(listed, ["f"]);
    let removed = top
        .remove_tree(&name("home"), &mut |_, _| alknet_fs::root::Verdict::Remove)
        .unwrap();
    assert!(!removed.is_all);
    assert_errno(
        removed.failed.map_or(Ok(()), |(_, error)| Err(error)),
        Errno::BUSY,
    );
    assert_eq!(
        fs::read_to_string(ground.at("home/data/keys/node")).unwrap(),
        "secret"
    );
    assert!(!ground.at("home/f").exists());
    // One elsewhere, or above, changes nothing; the root itself would leave nothing.
    Root::open(&ground.at("home"))
        .unwrap()
        .hide(&ground.outside(""))
        .unwrap();
    Root::open(&ground.at("home"))
        .unwrap()
        .hide(&ground.at(""))
        .unwrap();
    let all = Root::open(&ground.at("home"))
        .unwrap()
        .hide(&ground.at("home"));
    assert!(matches!(all, Err(RootError::IsRoot)));
}
