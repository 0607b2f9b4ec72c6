//! What moves, and onto what.

use super::{
    Ground, Rule,
    ground::{at, fails, fails_as, path, refused},
    rules,
};
use alknet_core::files::{FileError, FileErrorCode as Code, FileKind, RenameOptions};

pub(super) const RULES: &[Rule] = rules![
    a_file_moves_with_all_it_has,
    a_taken_name_is_kept_or_replaced,
    what_replaces_what_is_as_posix_has_it,
    a_directory_moves_with_what_is_in_it,
    nothing_moves_into_itself,
    a_link_moves_itself,
    nothing_moves_to_another_bucket,
    what_is_not_there_does_not_move,
    a_tree_moves_only_if_all_of_it_is_held,
    a_move_gives_no_right_that_was_not_held,
];

async fn rename(ground: &Ground, from: &str, to: &str, replace: bool) -> Result<(), FileError> {
    let options = RenameOptions { replace };
    let (files, all) = (&ground.files, &ground.all);
    files.rename(all, &at(from), &at(to), options).await
}

async fn a_file_moves_with_all_it_has(ground: Ground) {
    ground.mkdir("d").await;
    let before = ground.put("a", "content").await;
    rename(&ground, "a", "d/b", false).await.unwrap();
    let after = ground.stat("d/b").await;
    assert_eq!(
        (after.bytes, after.mode, after.mtime, after.links),
        (before.bytes, before.mode, before.mtime, before.links)
    );
    assert_eq!(ground.get("d/b").await, b"content");
    assert!(!ground.is_there("a").await);
    // Somebody who has it open still has it.
    let file = ground.edit("d/b").await;
    rename(&ground, "d/b", "c", false).await.unwrap();
    file.write_at(&ground.all, 0, "C".into()).await.unwrap();
    assert_eq!(ground.get("c").await, b"Content");
}

async fn a_taken_name_is_kept_or_replaced(ground: Ground) {
    ground.put("a", "a").await;
    ground.put("b", "b").await;
    fails(rename(&ground, "a", "b", false).await, Code::FileExists);
    assert_eq!(ground.get("a").await, b"a");
    assert_eq!(ground.get("b").await, b"b");
    rename(&ground, "a", "b", true).await.unwrap();
    assert_eq!(ground.get("b").await, b"a");
    assert!(!ground.is_there("a").await);
    // Onto itself it stays.
    rename(&ground, "b", "b", true).await.unwrap();
    fails(rename(&ground, "b", "b", false).await, Code::FileExists);
    assert_eq!(ground.get("b").await, b"a");
}

async fn what_replaces_what_is_as_posix_has_it(ground: Ground) {
    for directory in ["d", "empty", "full", "full/in"] {
        ground.mkdir(directory).await;
    }
    ground.put("f", "f").await;
    ground.put("d/inside", "x").await;
    fails(
        rename(&ground, "f", "empty", true).await,
        Code::IsADirectory,
    );
    fails(rename(&ground, "d", "f", true).await, Code::NotADirectory);
    let onto_full = rename(&ground, "d", "full", true).await;
    fails(onto_full, Code::DirectoryNotEmpty);
    fails(rename(&ground, "d", "empty", false).await, Code::FileExists);
    rename(&ground, "d", "empty", true).await.unwrap();
    assert_eq!(ground.get("empty/inside").await, b"x");
    assert!(!ground.is_there("d").await);
    ground.symlink("l", "full").await;
    rename(&ground, "f", "l", true).await.unwrap();
    assert_eq!(ground.lstat("l").await.kind, FileKind::File);
    assert!(ground.is_there("full/in").await);
}

async fn a_directory_moves_with_what_is_in_it(ground: Ground) {
    for directory in ["a", "a/b", "a/b/c", "d"] {
        ground.mkdir(directory).await;
    }
    ground.put("a/b/c/f", "deep").await;
    rename(&ground, "a/b", "d/e", false).await.unwrap();
    assert_eq!(ground.get("d/e/c/f").await, b"deep");
    assert!(ground.names(&at("a")).await.is_empty());
}

async fn nothing_moves_into_itself(ground: Ground) {
    ground.mkdir("d").await;
    ground.mkdir("d/e").await;
    let before = ground.tree(&path("main")).await;
    for to in ["d/x", "d/e/x", "d/e"] {
        let codes = [Code::BadArgument, Code::FileExists];
        fails_as(rename(&ground, "d", to, false).await, &codes);
    }
    fails(rename(&ground, "d", "d/e/x", true).await, Code::BadArgument);
    // Nor through a link.
    ground.symlink("l", "d/e").await;
    fails(rename(&ground, "d", "l/x", false).await, Code::BadArgument);
    // Onto what holds it.
    let onto = rename(&ground, "d/e", "d", true).await;
    fails_as(onto, &[Code::DirectoryNotEmpty, Code::BadArgument]);
    ground.put("f", "x").await;
    let options = RenameOptions { replace: true };
    let (files, all) = (&ground.files, &ground.all);
    let root = files.rename(all, &path("main"), &at("r"), options).await;
    let codes = [Code::BadArgument, Code::FileBusy, Code::HostRefuses];
    fails_as(root, &codes);
    let root = files.rename(all, &at("d/e"), &path("main"), options).await;
    let codes = [
        Code::BadArgument,
        Code::FileBusy,
        Code::FileExists,
        Code::DirectoryNotEmpty,
        Code::HostRefuses,
    ];
    fails_as(root, &codes);
    let after = ground.tree(&path("main")).await;
    assert!(
        before
            .iter()
            .all(|(path, shape)| after.get(path) == Some(shape))
    );
}

async fn a_link_moves_itself(ground: Ground) {
    ground.mkdir("d").await;
    ground.put("f", "content").await;
    ground.symlink("l", "f").await;
    rename(&ground, "l", "d/l", false).await.unwrap();
    assert_eq!(ground.lstat("d/l").await.kind, FileKind::Symlink);
    assert_eq!(ground.get("f").await, b"content");
    // Now it says another place.
    let stat = ground.files.stat(&ground.all, &at("d/l"), true).await;
    fails(stat, Code::NoSuchFile);
    // Through one on the way it is as if it was not there.
    ground.symlink("to-d", "d").await;
    rename(&ground, "f", "to-d/f", false).await.unwrap();
    assert_eq!(ground.get("d/l").await, b"content");
}

async fn nothing_moves_to_another_bucket(ground: Ground) {
    ground.put("a", "a").await;
    let options = RenameOptions::default();
    let to = path("other/a");
    let moved = ground
        .files
        .rename(&ground.all, &at("a"), &to, options)
        .await;
    fails(moved, Code::OtherFileSystem);
    assert_eq!(ground.get("a").await, b"a");
    assert!(ground.names(&path("other")).await.is_empty());
}

async fn what_is_not_there_does_not_move(ground: Ground) {
    ground.put("f", "x").await;
    fails(rename(&ground, "none", "b", false).await, Code::NoSuchFile);
    fails(
        rename(&ground, "f", "none/b", false).await,
        Code::NoSuchFile,
    );
    fails(
        rename(&ground, "f/x", "b", false).await,
        Code::NotADirectory,
    );
    ground.put("g", "x").await;
    fails(
        rename(&ground, "f", "g/b", false).await,
        Code::NotADirectory,
    );
}

async fn a_tree_moves_only_if_all_of_it_is_held(ground: Ground) {
    for directory in ["d", "d/e", "d/e/secret"] {
        ground.mkdir(directory).await;
    }
    ground.put("d/e/secret/f", "x").await;
    let whole = "bucket:main/**=read,write";
    let grants = ["fs:*", whole, "!bucket:main/d/e/secret/**=read"];
    ground.access.grant("ada", &grants);
    let permit = ground.access.permit("ada", "fs/rename");
    let before = ground.tree(&path("main")).await;
    let options = RenameOptions::default();
    let moved = ground
        .files
        .rename(&permit, &at("d"), &at("m"), options)
        .await;
    refused(moved);
    let moved = ground
        .files
        .rename(&permit, &at("d/e"), &at("m"), options)
        .await;
    refused(moved);
    assert_eq!(ground.tree(&path("main")).await, before);
    ground.access.grant("ada", &["fs:*", whole]);
    let moved = ground
        .files
        .rename(&permit, &at("d"), &at("m"), options)
        .await;
    moved.unwrap();
    assert_eq!(ground.get("m/e/secret/f").await, b"x");
}

async fn a_move_gives_no_right_that_was_not_held(ground: Ground) {
    for directory in ["drop", "mine"] {
        ground.mkdir(directory).await;
    }
    ground.put("drop/f", "of another").await;
    ground.put("mine/f", "mine").await;
    // Who may only write somewhere cannot read by moving away what is there.
    let grants = ["fs:*", "bucket:main/drop/**=write", "bucket:main/mine/**=*"];
    ground.access.grant("ada", &grants);
    let permit = ground.access.permit("ada", "fs/rename");
    let options = RenameOptions { replace: true };
    let (files, away) = (&ground.files, at("mine/away"));
    refused(files.rename(&permit, &at("drop/f"), &away, options).await);
    if ground.features.hard_links {
        refused(files.link(&permit, &at("drop/f"), &away).await);
    }
    let there = at("drop/there");
    files
        .rename(&permit, &at("mine/f"), &there, options)
        .await
        .unwrap();
    // And who may only read does not move at all.
    ground.access.grant("ada", &["fs:*", "bucket:main/**=read"]);
    refused(files.rename(&permit, &there, &away, options).await);
    assert_eq!(ground.get("drop/f").await, b"of another");
    assert_eq!(ground.get("drop/there").await, b"mine");
}
