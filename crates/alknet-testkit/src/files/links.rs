//! Symbolic links lead nowhere but into the bucket, and to what is held there;
//! hard links are names of one file.

use super::{
    Ground, Rule,
    ground::{Planted, at, fails, fails_as, path, read_write, refused},
    rules,
};
use alknet_core::files::{
    Attributes, CopyOptions, Create, DigestRequest, FileErrorCode as Code, FileKind, OpenOptions,
    Removal, RenameOptions, ReplaceOptions,
};

pub(super) const RULES: &[Rule] = rules![
    a_link_is_followed_or_described,
    forty_links_are_followed_and_no_more,
    circles_end,
    a_dangling_link_is_a_name_of_what_is_not_there,
    targets_stay_in_the_bucket,
    what_leads_out_is_not_followed,
    a_link_gives_no_right_to_where_it_leads,
    hard_links_are_names_of_one_file,
    hard_links_are_of_files_alone,
];

async fn a_link_is_followed_or_described(ground: Ground) {
    ground.mkdir("d").await;
    ground.mkdir("d/e").await;
    ground.put("d/f", "content").await;
    ground.symlink("l", "d/f").await;
    ground.symlink("d/e/up", "../../l").await;
    ground.symlink("to-e", "d/e").await;
    assert_eq!(ground.stat("l").await, ground.stat("d/f").await);
    let link = ground.lstat("l").await;
    assert_eq!((link.kind, link.bytes), (FileKind::Symlink, 3));
    assert_eq!(ground.get("to-e/up").await, b"content");
    let file = ground.open("to-e/up", OpenOptions::reading()).await;
    assert_eq!(file.unwrap().path(), &at("d/f"));
    let (files, all) = (&ground.files, &ground.all);
    assert_eq!(
        files.read_link(all, &at("to-e/up")).await.unwrap(),
        b"../../l"
    );
    // `..` is taken where the link lies, not where the path came from.
    ground.put("to-e/new", "in e").await;
    assert_eq!(ground.get("d/e/new").await, b"in e");
    // What is written through a link is written where it leads.
    ground.put("l", "new").await;
    assert_eq!(ground.get("d/f").await, b"new");
    assert_eq!(ground.lstat("l").await.kind, FileKind::Symlink);
    fails(files.read_link(all, &at("d/f")).await, Code::BadArgument);
    fails(files.read_link(all, &at("d")).await, Code::BadArgument);
    fails(files.read_link(all, &at("none")).await, Code::NoSuchFile);
    // Not followed, it is no file that could be opened.
    let options = OpenOptions {
        follow: false,
        ..OpenOptions::reading()
    };
    fails(ground.open("l", options).await, Code::TooManyLinks);
    // Only the last one is meant by that.
    ground.open("to-e/new", options).await.unwrap();
}

async fn forty_links_are_followed_and_no_more(ground: Ground) {
    ground.put("l0", "end").await;
    for n in 1..=41 {
        ground
            .symlink(&format!("l{n}"), &format!("l{}", n - 1))
            .await;
    }
    assert_eq!(ground.get("l40").await, b"end");
    fails(ground.get_at(&at("l41")).await, Code::TooManyLinks);
    let stat = ground.files.stat(&ground.all, &at("l41"), true).await;
    fails(stat, Code::TooManyLinks);
    assert_eq!(ground.lstat("l41").await.kind, FileKind::Symlink);
}

async fn circles_end(ground: Ground) {
    ground.symlink("self", "self").await;
    ground.symlink("a", "b/x").await;
    ground.symlink("b", "a/y").await;
    ground.mkdir("d").await;
    ground.symlink("d/back", "../d/back/x").await;
    for circle in ["self", "a", "b", "self/x", "a/b", "d/back/x"] {
        let at = at(circle);
        let (files, all) = (&ground.files, &ground.all);
        fails(files.stat(all, &at, true).await, Code::TooManyLinks);
        let opened = ground.open(circle, OpenOptions::reading()).await;
        fails(opened, Code::TooManyLinks);
        fails(ground.put_at(at.clone(), "x").await, Code::TooManyLinks);
        fails(files.list(all, &at, None).await, Code::TooManyLinks);
        let begun = ground.replace(circle, ReplaceOptions::default()).await;
        fails(begun, Code::TooManyLinks);
    }
    for link in ["self", "a", "b", "d/back"] {
        let removed = ground
            .files
            .remove(&ground.all, &at(link), Removal::File)
            .await;
        removed.unwrap();
    }
}

async fn a_dangling_link_is_a_name_of_what_is_not_there(ground: Ground) {
    ground.mkdir("d").await;
    ground.symlink("l", "d/new").await;
    let (files, all) = (&ground.files, &ground.all);
    fails(files.stat(all, &at("l"), true).await, Code::NoSuchFile);
    fails(ground.get_at(&at("l")).await, Code::NoSuchFile);
    // The link itself has the name.
    fails(
        ground.open("l", read_write(Create::New)).await,
        Code::FileExists,
    );
    let made = files.make_directory(all, &at("l"), None).await;
    fails(made, Code::FileExists);
    fails(files.symlink(all, &at("l"), b"x").await, Code::FileExists);
    // What is made through it is made where it leads.
    ground
        .open("l", read_write(Create::IfMissing))
        .await
        .unwrap();
    assert_eq!(ground.lstat("d/new").await.kind, FileKind::File);
    assert_eq!(ground.lstat("l").await.kind, FileKind::Symlink);
    ground.symlink("m", "d/newer").await;
    ground.put("m", "content").await;
    assert_eq!(ground.get("d/newer").await, b"content");
    assert_eq!(ground.lstat("m").await.kind, FileKind::Symlink);
    // Into a directory that is not there, nothing is.
    ground.symlink("n", "none/new").await;
    fails(ground.put_at(at("n"), "x").await, Code::NoSuchFile);
}

async fn targets_stay_in_the_bucket(ground: Ground) {
    ground.mkdir("d").await;
    ground.mkdir("d/e").await;
    let (files, all) = (&ground.files, &ground.all);
    for (link, target) in [
        ("l", "/etc/passwd"),
        ("l", "/"),
        ("l", "//x"),
        ("l", ".."),
        ("l", "../x"),
        ("l", "d/../../x"),
        // What is above a name that is a link, or becomes one, may be anywhere.
        ("l", "d/.."),
        ("d/e/l", "../x/../y"),
        ("d/l", "../.."),
        ("d/l", "../../main/d"),
        ("d/e/l", "../../../other"),
    ] {
        let made = files.symlink(all, &at(link), target.as_bytes()).await;
        fails(made, Code::LeadsOutside);
        assert!(!ground.is_there(link).await, "{link} -> {target}");
    }
    let code = Code::BadArgument;
    fails(files.symlink(all, &at("l"), b"").await, code);
    fails(files.symlink(all, &at("l"), b"a\0b").await, code);
    let long = files.symlink(all, &at("l"), &[b'a'; 5_000]).await;
    fails_as(long, &[Code::NameTooLong, code]);
    // Where a link lies counts, not the path that led there.
    ground.symlink("to-e", "d/e").await;
    let made = files.symlink(all, &at("to-e/l"), b"../../l").await;
    made.unwrap();
    // One that is moved is judged where it comes to lie.
    let options = RenameOptions::default();
    let moved = files.rename(all, &at("d/e/l"), &at("d/l"), options).await;
    fails(moved, Code::LeadsOutside);
    let moved = files.rename(all, &at("d/e/l"), &at("d/e/m"), options).await;
    moved.unwrap();
    for (link, target) in [("r", "."), ("d/r", ".."), ("d/e/r", "../../d/e")] {
        ground.symlink(link, target).await;
        assert_eq!(ground.stat(link).await.kind, FileKind::Directory);
    }
    fails(files.symlink(all, &at("d"), b"x").await, Code::FileExists);
    fails(
        files.symlink(all, &at("no/l"), b"x").await,
        Code::NoSuchFile,
    );
}

async fn what_leads_out_is_not_followed(ground: Ground) {
    let targets: &[&[u8]] = &[
        b"/",
        b"/etc",
        b"/etc/passwd",
        b"..",
        b"../..",
        b"../other",
        b"../main",
        b"d/../../other",
        b"/proc/self/root",
        b"/proc/self/cwd",
        b"/dev/zero",
        b"//",
    ];
    ground.mkdir("d").await;
    for (n, target) in targets.iter().enumerate() {
        let link = format!("out{n}");
        if !ground.plant(&link, Planted::Symlink(target)) {
            return;
        }
        let (files, all, at) = (&ground.files, &ground.all, at(&link));
        let code = Code::LeadsOutside;
        fails(files.stat(all, &at, true).await, code);
        fails(files.list(all, &at, None).await, code);
        fails(ground.open(&link, OpenOptions::reading()).await, code);
        let created = ground.open(&link, read_write(Create::IfMissing));
        fails(created.await, code);
        fails(ground.get_at(&at).await, code);
        fails(ground.put_at(at.clone(), "x").await, code);
        let begun = ground.replace(&link, ReplaceOptions::default()).await;
        fails(begun, code);
        let set = Attributes {
            mode: Some(0o600),
            ..Attributes::default()
        };
        let set = files.set_attributes(all, &at, true, set).await;
        fails(set, code);
        let copied = files
            .copy(all, &at, &super::ground::at("copy"), CopyOptions::default())
            .await;
        fails(copied, code);
        fails(files.space(all, &at).await, code);
        fails(files.read_link(all, &at).await, code);
        let below = super::ground::at(&format!("{link}/x"));
        fails(files.stat(all, &below, false).await, code);
        fails(ground.put_at(below.clone(), "x").await, code);
        let made = files.make_directory(all, &below, None).await;
        fails(made, code);
        fails(files.remove(all, &below, Removal::Tree).await, code);
        // The link itself is there, and says nothing of where it leads.
        assert_eq!(ground.lstat(&link).await.kind, FileKind::Symlink);
        let listed = ground.entries(&path("main")).await;
        let listed = listed.iter().find(|entry| entry.name.to_string() == link);
        assert_eq!(listed.unwrap().target, None);
        let moved = super::ground::at("moved");
        let options = RenameOptions::default();
        fails(files.rename(all, &at, &moved, options).await, code);
        files.remove(all, &at, Removal::File).await.unwrap();
    }
    assert!(!ground.is_there("copy").await);
}

async fn a_link_gives_no_right_to_where_it_leads(ground: Ground) {
    for directory in ["public", "private"] {
        ground.mkdir(directory).await;
    }
    ground.put("private/f", "secret").await;
    ground.symlink("public/f", "../private/f").await;
    ground.symlink("public/d", "../private").await;
    ground.symlink("public/new", "../private/new").await;
    let grants = ["fs:*", "bucket:main/public/**=list,read,write"];
    ground.access.grant("ada", &grants);
    let permit = |operation| ground.access.permit("ada", operation);
    let (files, read) = (&ground.files, permit("fs/read"));
    for leads in ["public/f", "public/d/f"] {
        let at = at(leads);
        refused(files.stat(&read, &at, true).await);
        refused(files.open(&read, &at, OpenOptions::reading()).await);
        let got = files.get_small(&read, std::slice::from_ref(&at)).await;
        got.into_iter().for_each(refused);
        let request = DigestRequest {
            algorithms: vec![alknet_core::files::Algorithm::Blake3],
            ..DigestRequest::default()
        };
        refused(files.digest(&read, &at, request).await);
        let to = super::ground::at("public/copy");
        let copied = files
            .copy(&permit("fs/copy"), &at, &to, CopyOptions::default())
            .await;
        refused(copied);
    }
    let list = permit("fs/list");
    refused(files.list(&list, &at("public/d"), None).await);
    let write = permit("fs/write");
    let before = ground.tree(&path("main")).await;
    for leads in ["public/f", "public/d/f", "public/d/new", "public/new"] {
        let at = at(leads);
        let options = OpenOptions::writing(Create::IfMissing);
        refused(files.open(&write, &at, options).await);
        let begun = files.replace(&write, &at, ReplaceOptions::default());
        refused(begun.await);
        let files_put = vec![super::ground::small(at.clone(), "x")];
        let put = files.put_small(&write, files_put).await;
        put.into_iter().for_each(refused);
    }
    let below = at("public/d/f");
    refused(files.remove(&write, &below, Removal::File).await);
    let made = at("public/d/new");
    refused(files.make_directory(&write, &made, None).await);
    refused(files.symlink(&write, &made, b"f").await);
    let rename = permit("fs/rename");
    let (away, options) = (at("public/away"), RenameOptions::default());
    refused(files.rename(&rename, &below, &away, options).await);
    refused(files.rename(&rename, &at("public/f"), &made, options).await);
    if ground.features.hard_links {
        refused(files.link(&rename, &below, &away).await);
    }
    assert_eq!(ground.tree(&path("main")).await, before);
    // Without following, the link is only what it says.
    let link = files.stat(&read, &at("public/f"), false).await;
    assert_eq!(link.unwrap().kind, FileKind::Symlink);
    let target = files.read_link(&read, &at("public/f")).await;
    assert_eq!(target.unwrap(), b"../private/f");
    files
        .remove(&write, &at("public/f"), Removal::File)
        .await
        .unwrap();
    // Whoever holds both goes through.
    let both = [
        grants[0],
        grants[1],
        "bucket:main/private/**=list,read,write",
    ];
    ground.access.grant("ada", &both);
    files.stat(&read, &at("public/d/f"), true).await.unwrap();
    files.list(&list, &at("public/d"), None).await.unwrap();
}

async fn hard_links_are_names_of_one_file(ground: Ground) {
    if !ground.features.hard_links {
        return;
    }
    ground.mkdir("d").await;
    ground.put("a", "content").await;
    let (files, all) = (&ground.files, &ground.all);
    files.link(all, &at("a"), &at("d/b")).await.unwrap();
    assert_eq!(ground.stat("a").await, ground.stat("d/b").await);
    assert_eq!(ground.stat("a").await.links, 2);
    let file = ground.edit("d/b").await;
    file.write_at(all, 0, "CON".into()).await.unwrap();
    assert_eq!(ground.get("a").await, b"CONtent");
    // A file that is replaced is another one.
    ground.put("a", "new").await;
    assert_eq!(ground.get("d/b").await, b"CONtent");
    assert_eq!(ground.stat("d/b").await.links, 1);
    files.link(all, &at("a"), &at("c")).await.unwrap();
    files.remove(all, &at("a"), Removal::File).await.unwrap();
    assert_eq!(ground.get("c").await, b"new");
    fails(
        files.link(all, &at("c"), &at("d/b")).await,
        Code::FileExists,
    );
    fails(
        files.link(all, &at("none"), &at("e")).await,
        Code::NoSuchFile,
    );
    let elsewhere = files.link(all, &at("c"), &path("other/c")).await;
    fails(elsewhere, Code::OtherFileSystem);
}

async fn hard_links_are_of_files_alone(ground: Ground) {
    if !ground.features.hard_links {
        return;
    }
    ground.mkdir("d").await;
    let (files, all) = (&ground.files, &ground.all);
    let linked = files.link(all, &at("d"), &at("e")).await;
    fails_as(linked, &[Code::IsADirectory, Code::HostRefuses]);
    assert!(!ground.is_there("e").await);
    if ground.plant("pipe", Planted::Pipe) {
        fails(files.link(all, &at("pipe"), &at("e")).await, Code::NotAFile);
        assert!(!ground.is_there("e").await);
    }
}
