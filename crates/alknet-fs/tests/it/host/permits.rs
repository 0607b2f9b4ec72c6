//! Grants at the level of paths, and what links make of them.

use super::world::{World, at, fails, refused, small};
use alknet_core::files::{
    CopyOptions, Create, FileErrorCode, FileService, OpenOptions, Removal, RenameOptions,
};
use std::os::unix::fs::symlink;

fn world() -> World {
    let world = World::new();
    world.put("www/public/a", "public");
    world.put("www/public/drafts/b", "draft");
    world.put("www/private/c", "private");
    world
}

#[tokio::test]
async fn what_is_granted_below_a_path_is_read_there_and_nowhere_else() {
    let world = world();
    world.grant("bob", &["fs:read", "bucket:www/public/**=read"]);
    let bob = world.permit("bob", "fs/read");
    let stat = async |text| world.buckets.stat(&bob, &at(text), true).await;
    assert_eq!(stat("www/public/a").await.unwrap().bytes, 6);
    assert_eq!(stat("www/public/drafts/b").await.unwrap().bytes, 5);
    for text in [
        "www",
        "www/private",
        "www/private/c",
        "www/private/none",
        "other/a",
    ] {
        refused(stat(text).await);
    }
    fails(stat("www/public/none").await, FileErrorCode::NoSuchFile);
}

#[tokio::test]
async fn what_is_denied_wins_over_what_is_allowed() {
    let world = world();
    let grants = [
        "fs:read",
        "bucket:www/**=read",
        "!bucket:www/public/drafts/**=read",
    ];
    world.grant("bob", &grants);
    let bob = world.permit("bob", "fs/read");
    let paths = [
        at("www/public/a"),
        at("www/public/drafts/b"),
        at("www/private/c"),
    ];
    let mut got = world.buckets.get_small(&bob, &paths).await;
    assert_eq!(got.remove(0).unwrap().1, "public");
    refused(got.remove(0));
    assert_eq!(got.remove(0).unwrap().1, "private");
}

#[tokio::test]
async fn a_link_opens_nothing_that_is_not_held_itself() {
    let world = world();
    symlink("../private/c", world.host("www/public/link")).unwrap();
    symlink("../private", world.host("www/public/way")).unwrap();
    symlink("drafts/b", world.host("www/public/draft")).unwrap();
    world.grant("bob", &["fs:read", "bucket:www/public/**=read"]);
    let bob = world.permit("bob", "fs/read");
    for text in ["www/public/link", "www/public/way", "www/public/way/c"] {
        let told = refused(world.buckets.stat(&bob, &at(text), true).await);
        assert!(!told.contains("private"), "{told}");
        refused(
            world
                .buckets
                .open(&bob, &at(text), OpenOptions::reading())
                .await,
        );
    }
    refused(
        world
            .buckets
            .get_small(&bob, &[at("www/public/link")])
            .await
            .remove(0),
    );
    let open = world
        .buckets
        .open(&bob, &at("www/public/draft"), OpenOptions::reading())
        .await;
    assert_eq!(*open.unwrap().path(), at("www/public/drafts/b"));
    world.grant(
        "bob",
        &[
            "fs:read",
            "bucket:www/public/**=read",
            "bucket:www/private/c=read",
        ],
    );
    assert_eq!(
        world
            .buckets
            .stat(&bob, &at("www/public/link"), true)
            .await
            .unwrap()
            .bytes,
        7
    );
}

#[tokio::test]
async fn links_do_not_tell_which_names_there_are_where_nobody_may_look() {
    let world = world();
    world.grant("bob", &["fs:read", "bucket:www/public/**=read"]);
    let bob = world.permit("bob", "fs/read");
    // Each leads elsewhere in the same way, whether there is something or not.
    for (name, target) in [
        ("is", "../private/c"),
        ("is-not", "../private/none"),
        ("below-file", "../private/c/x"),
        ("below-nothing", "../private/none/x"),
        ("deep", "../private/none/x/../y"),
    ] {
        symlink(target, world.host(&format!("www/public/{name}"))).unwrap();
        let told = refused(
            world
                .buckets
                .stat(&bob, &at(&format!("www/public/{name}")), true)
                .await,
        );
        assert_eq!(
            told,
            format!("FORBIDDEN: `bob` may not read what `www/public/{name}` leads to")
        );
    }
}

#[tokio::test]
async fn what_is_written_through_a_link_is_held_where_it_leads() {
    let world = world();
    symlink("../private/new", world.host("www/public/link")).unwrap();
    world.grant("bob", &["fs:write", "bucket:www/public/**=write"]);
    let bob = world.permit("bob", "fs/write");
    let path = at("www/public/link");
    let writing = OpenOptions::writing(Create::IfMissing);
    refused(world.buckets.open(&bob, &path, writing).await);
    refused(world.buckets.replace(&bob, &path, Default::default()).await);
    let put = vec![small("www/public/link", "x"), small("www/public/d", "d")];
    let mut put = world.buckets.put_small(&bob, put).await;
    refused(put.remove(0));
    put.remove(0).unwrap();
    assert!(!world.host("www/private/new").exists());
    assert_eq!(world.get("www/public/d"), "d");
}

#[tokio::test]
async fn an_open_handle_is_of_no_use_once_its_grant_is_gone() {
    let world = world();
    world.grant("bob", &["fs:read", "bucket:www/public/**=read"]);
    let bob = world.permit("bob", "fs/read");
    let (path, reading) = (at("www/public/a"), OpenOptions::reading());
    let open = world.buckets.open(&bob, &path, reading).await.unwrap();
    assert_eq!(open.read_at(&bob, 0, 3).await.unwrap(), "pub");
    world.grant("bob", &["fs:read", "bucket:www/public/drafts/**=read"]);
    refused(open.read_at(&bob, 3, 3).await);
    refused(open.stat(&bob).await);
    world.grant("bob", &["fs:read", "bucket:www/**=read"]);
    assert_eq!(open.read_at(&bob, 3, 3).await.unwrap(), "lic");
    world.forget("bob");
    assert!(open.read_at(&bob, 3, 3).await.is_err());
}

#[tokio::test]
async fn a_replacement_ends_with_the_grant_and_leaves_the_old_content() {
    let world = world();
    world.grant("bob", &["fs:write", "bucket:www/public/**=write"]);
    let bob = world.permit("bob", "fs/write");
    let mut new = world
        .buckets
        .replace(&bob, &at("www/public/a"), Default::default())
        .await
        .unwrap();
    new.write(&bob, "new".into()).await.unwrap();
    world.grant("bob", &["fs:write", "bucket:www/private/**=write"]);
    refused(new.write(&bob, "more".into()).await);
    refused(new.commit(&bob).await);
    assert_eq!(world.get("www/public/a"), "public");
    assert_eq!(
        super::world::names(&world.host("www/public")),
        ["a", "drafts", "drafts/b"]
    );
}

#[tokio::test]
async fn listings_leave_out_what_is_not_to_be_listed() {
    let world = world();
    let grants = [
        "fs:list",
        "bucket:www=list",
        "bucket:www/public/**=list",
        "!bucket:www/public/drafts=list",
    ];
    world.grant("bob", &grants);
    let bob = world.permit("bob", "fs/list");
    let list = async |text| {
        let mut listing = world.buckets.list(&bob, &at(text), None).await?;
        let page = listing.next(&bob, 100).await?;
        Ok::<_, alknet_core::files::FileError>(
            page.into_iter()
                .map(|entry| entry.name.to_string())
                .collect::<Vec<_>>(),
        )
    };
    let top = list("www").await.unwrap();
    assert!(top.iter().all(|name| name != "private"), "{top:?}");
    assert_eq!(list("www/public").await.unwrap(), ["a"]);
    refused(list("www/private").await);
}

#[tokio::test]
async fn buckets_are_told_to_who_may_list_something_in_them() {
    let world = world();
    world.grant("bob", &["fs:list", "bucket:www/public/**=list"]);
    world.grant("eve", &["fs:list", "bucket:other/**=list"]);
    let told = async |who| {
        world
            .buckets
            .buckets(&world.permit(who, "fs/buckets"))
            .await
            .unwrap()
    };
    // A permit of an operation without a rule stands for nothing it names.
    let names: Vec<_> = told("bob")
        .await
        .into_iter()
        .map(|info| info.name)
        .collect();
    assert_eq!(names, ["www"]);
    assert!(told("eve").await.is_empty());
}

#[tokio::test]
async fn a_directory_is_moved_and_removed_by_who_may_do_so_to_all_of_it() {
    let world = world();
    let most = [
        "fs:write",
        "bucket:www/**=read,write",
        "!bucket:www/public/drafts/b=read",
    ];
    world.grant("bob", &most);
    let bob = world.permit("bob", "fs/rename");
    let (from, to) = (at("www/public"), at("www/moved"));
    refused(
        world
            .buckets
            .rename(&bob, &from, &to, RenameOptions::default())
            .await,
    );
    world.grant(
        "bob",
        &[
            "fs:write",
            "bucket:www/**=read,write",
            "!bucket:www/public/drafts/b=write",
        ],
    );
    let removing = world.permit("bob", "fs/write");
    refused(world.buckets.remove(&removing, &from, Removal::Tree).await);
    assert_eq!(world.get("www/public/drafts/b"), "draft");
    world.grant("bob", &["fs:write", "bucket:www/**=read,write"]);
    world
        .buckets
        .rename(&bob, &from, &to, RenameOptions::default())
        .await
        .unwrap();
    let removed = world
        .buckets
        .remove(&removing, &to, Removal::Tree)
        .await
        .unwrap();
    assert_eq!((removed.files, removed.directories), (2, 2));
}

#[tokio::test]
async fn a_copy_needs_reading_of_the_one_and_writing_of_the_other() {
    let world = world();
    let copy = async |grants: &[&str]| {
        world.grant("bob", grants);
        let bob = world.permit("bob", "fs/rename");
        let (from, to) = (at("www/private/c"), at("www/public/c"));
        world
            .buckets
            .copy(&bob, &from, &to, CopyOptions::default())
            .await
    };
    let read = ["fs:write", "bucket:www/**=read", "bucket:other/**=write"];
    refused(copy(&read).await);
    let write = ["fs:write", "bucket:www/**=write", "bucket:other/**=read"];
    refused(copy(&write).await);
    let both = [
        "fs:write",
        "bucket:www/private/**=read",
        "bucket:www/public/**=write",
    ];
    copy(&both).await.unwrap();
    assert_eq!(world.get("www/public/c"), "private");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_of_a_tree_ends_with_the_grant_in_the_middle() {
    let world = std::sync::Arc::new(World::new());
    for directory in 0..60 {
        for file in 0..200 {
            world.put(&format!("www/tree/{directory}/{file}"), "");
        }
    }
    let (before, all) = (super::world::names(&world.host("www")).len(), world.clone());
    world.grant("bob", &["fs:write", "bucket:www/**=write"]);
    let bob = world.permit("bob", "fs/write");
    let removal = tokio::spawn(async move {
        let path = at("www/tree");
        all.buckets.remove(&bob, &path, Removal::Tree).await
    });
    let begun = std::time::Instant::now();
    while super::world::names_so_far(&world.host("www")) >= before {
        assert!(begun.elapsed() < std::time::Duration::from_secs(20));
        std::thread::yield_now();
    }
    world.grant("bob", &["fs:write", "bucket:other/**=write"]);
    refused(removal.await.unwrap());
    // It has ended when that is told.
    let left = super::world::names(&world.host("www")).len();
    assert!(left > 0 && left < before, "{left} of {before}");
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert_eq!(super::world::names(&world.host("www")).len(), left);
}
