//! Directories are told page by page, each entry once.

use super::{
    Ground, Rule,
    ground::{at, fails, in_, path, refused, small},
    rules,
};
use alknet_core::files::{FileErrorCode as Code, FileKind, LISTING_ENTRIES_MAX, Removal};
use std::collections::BTreeMap;

pub(super) const RULES: &[Rule] = rules![
    pages_are_as_small_as_asked,
    a_place_is_gone_on_from_later,
    what_is_there_all_the_time_is_told_once,
    entries_say_what_they_are,
    what_is_no_directory_has_no_entries,
    what_may_not_be_listed_is_left_out,
    buckets_are_listed_to_those_who_may_list_in_them,
];

async fn fill(ground: &Ground, prefix: &str, entries: usize) {
    let files = (0..entries).map(|n| small(at(&format!("d/{prefix}{n}")), ""));
    let files: Vec<_> = files.collect();
    for part in files.chunks(256) {
        for done in ground.files.put_small(&ground.all, part.to_vec()).await {
            done.unwrap();
        }
    }
}

async fn pages_are_as_small_as_asked(ground: Ground) {
    ground.mkdir("d").await;
    fill(&ground, "e", 1_300).await;
    for (asked, most) in [(1, 1), (7, 7), (1024, 1024), (5_000, LISTING_ENTRIES_MAX)] {
        let listing = ground.files.list(&ground.all, &at("d"), None).await;
        let mut listing = listing.unwrap();
        let mut told = BTreeMap::new();
        // Entry by entry is slow, and shown by the first hundred.
        let enough = if asked == 1 { 100 } else { 1_300 };
        while told.len() < enough {
            let page = listing.next(&ground.all, asked).await.unwrap();
            assert!(
                (1..=most).contains(&page.len()),
                "{} of {asked}",
                page.len()
            );
            for entry in page {
                assert_eq!((entry.stat.kind, entry.stat.bytes), (FileKind::File, 0));
                assert!(told.insert(entry.name, ()).is_none());
            }
        }
        if enough == 1_300 {
            // The end stays the end.
            for _ in 0..3 {
                assert!(listing.next(&ground.all, asked).await.unwrap().is_empty());
            }
        }
    }
}

async fn a_place_is_gone_on_from_later(ground: Ground) {
    ground.mkdir("d").await;
    fill(&ground, "e", 700).await;
    let (mut told, mut place) = (BTreeMap::new(), None::<String>);
    loop {
        let listing = ground
            .files
            .list(&ground.all, &at("d"), place.as_deref())
            .await;
        let mut listing = listing.unwrap();
        let page = listing.next(&ground.all, 90).await.unwrap();
        if page.is_empty() {
            break;
        }
        for entry in page {
            *told.entry(entry.name).or_insert(0) += 1;
        }
        let next = listing.place();
        assert!(next.len() <= 64 && next.is_ascii(), "{next:?}");
        place = Some(next);
    }
    assert_eq!(told.len(), 700);
    assert!(told.values().all(|times| *times == 1));
    let bad = ground
        .files
        .list(&ground.all, &at("d"), Some("no place"))
        .await;
    fails(bad, Code::BadArgument);
}

async fn what_is_there_all_the_time_is_told_once(ground: Ground) {
    ground.mkdir("d").await;
    fill(&ground, "stays", 400).await;
    fill(&ground, "goes", 400).await;
    let mut listing = ground
        .files
        .list(&ground.all, &at("d"), None)
        .await
        .unwrap();
    let (mut told, mut round) = (BTreeMap::<Vec<u8>, usize>::new(), 0);
    loop {
        let page = listing.next(&ground.all, 50).await.unwrap();
        if page.is_empty() {
            break;
        }
        for entry in page {
            *told.entry(entry.name.as_bytes().to_vec()).or_default() += 1;
        }
        for n in 0..40 {
            let gone = at(&format!("d/goes{}", (round * 40 + n) % 400));
            let _ = ground.files.remove(&ground.all, &gone, Removal::File).await;
        }
        if round < 10 {
            fill(&ground, &format!("comes{round}-"), 40).await;
        }
        round += 1;
    }
    for n in 0..400 {
        let name = format!("stays{n}").into_bytes();
        assert_eq!(told.get(&name), Some(&1), "stays{n}");
    }
    // What came or went is told at most once, too: no name was there twice.
    assert!(told.values().all(|times| *times == 1));
}

async fn entries_say_what_they_are(ground: Ground) {
    ground.mkdir("d").await;
    ground.mkdir("d/sub").await;
    ground.put("d/file", "12345").await;
    ground.symlink("d/link", "file").await;
    ground.symlink("d/dangling", "sub/nothing").await;
    ground.symlink("d/up", "../d").await;
    let entries = ground.entries(&at("d")).await;
    let told: Vec<_> = entries
        .iter()
        .map(|entry| {
            (
                entry.name.to_string(),
                entry.stat.kind,
                entry.target.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("dangling".into(), FileKind::Symlink, Some("sub/nothing")),
            ("file".into(), FileKind::File, None),
            ("link".into(), FileKind::Symlink, Some("file")),
            ("sub".into(), FileKind::Directory, None),
            ("up".into(), FileKind::Symlink, Some("../d")),
        ]
    );
    for entry in entries {
        let mut stat = ground.lstat(&format!("d/{}", entry.name)).await;
        // A link was read to tell where it leads.
        stat.atime = entry.stat.atime;
        assert_eq!(entry.stat, stat, "a listing tells what `stat` tells");
    }
    // Through a link, the entries lie in the directory itself.
    ground.symlink("to-d", "d").await;
    let listing = ground
        .files
        .list(&ground.all, &at("to-d"), None)
        .await
        .unwrap();
    assert_eq!(listing.path(), &at("d"));
    assert_eq!(ground.names(&at("to-d")).await.len(), 5);
    assert_eq!(ground.names(&at("d/sub")).await.len(), 0);
}

async fn what_is_no_directory_has_no_entries(ground: Ground) {
    ground.put("file", "x").await;
    ground.symlink("to-file", "file").await;
    ground.symlink("dangling", "nothing").await;
    let list = async |text: &str| ground.files.list(&ground.all, &at(text), None).await;
    fails(list("file").await, Code::NotADirectory);
    fails(list("to-file").await, Code::NotADirectory);
    fails(list("nothing").await, Code::NoSuchFile);
    fails(list("dangling").await, Code::NoSuchFile);
    fails(list("file/x").await, Code::NotADirectory);
}

async fn what_may_not_be_listed_is_left_out(ground: Ground) {
    for directory in ["d", "d/open", "d/secret"] {
        ground.mkdir(directory).await;
    }
    for file in ["d/a.txt", "d/b.key", "d/open/in", "d/secret/in"] {
        ground.put(file, "x").await;
    }
    let grants = [
        "fs:list",
        "bucket:main/d/**=list",
        "!bucket:main/d/secret/**=*",
        "!bucket:main/d/*.key=list",
    ];
    ground.access.grant("ada", &grants);
    let permit = ground.access.permit("ada", "fs/list");
    let mut listing = ground.files.list(&permit, &at("d"), None).await.unwrap();
    let page = listing.next(&permit, 100).await.unwrap();
    let mut names: Vec<_> = page.iter().map(|entry| entry.name.to_string()).collect();
    names.sort();
    assert_eq!(names, ["a.txt", "open"]);
    refused(ground.files.list(&permit, &at("d/secret"), None).await);
    refused(ground.files.list(&permit, &path("main"), None).await);
    refused(ground.files.list(&permit, &path("other"), None).await);
    // A link there is no way around.
    ground.symlink("d/to-secret", "secret").await;
    refused(ground.files.list(&permit, &at("d/to-secret"), None).await);
    // Nor is a listing that was begun when it was allowed.
    let mut listing = ground.files.list(&permit, &at("d"), None).await.unwrap();
    let first = listing.next(&permit, 1).await.unwrap();
    assert!(first.len() <= 1);
    ground
        .access
        .grant("ada", &["fs:list", "bucket:main/x=list"]);
    refused(listing.next(&permit, 1).await);
    let secret = in_(&at("d"), b"secret");
    refused(ground.files.list(&permit, &secret, None).await);
}

async fn buckets_are_listed_to_those_who_may_list_in_them(ground: Ground) {
    let seen = async |grants: &[&str]| {
        ground.access.grant("ada", grants);
        let permit = ground.access.permit("ada", "fs/buckets");
        let buckets = ground.files.buckets(&permit).await.unwrap();
        let mut names: Vec<_> = buckets.into_iter().map(|bucket| bucket.name).collect();
        names.sort();
        names
    };
    assert_eq!(seen(&["fs:list"]).await, [""; 0]);
    let deep = ["fs:list", "bucket:main/a/b/c/**=list"];
    assert_eq!(seen(&deep).await, ["main"]);
    let reads = ["fs:list", "bucket:main/**=read"];
    assert_eq!(seen(&reads).await, [""; 0]);
    let all = ["fs:list", "bucket:**=list"];
    let names = seen(&all).await;
    assert!(names.len() >= 4, "{names:?}");
}
