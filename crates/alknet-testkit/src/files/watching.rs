//! Changes are told to those who may list them.

use super::{
    Ground, Rule,
    ground::{at, refused},
    rules,
};
use alknet_core::{
    Permit,
    files::{ChangeKind, FileChange, Removal, RenameOptions, Watch, WatchOptions},
};
use std::time::Duration;

pub(super) const RULES: &[Rule] = rules![
    changes_are_told_as_they_happen,
    what_lies_deeper_is_told_if_asked,
    what_may_not_be_listed_is_not_told,
    a_watch_ends_with_its_right,
];

/// Ten times what a change takes to be told, and more.
const SOON: Duration = Duration::from_secs(30);

/// Changes up to the first that is wanted.
async fn until(
    watch: &mut dyn Watch,
    permit: &Permit,
    wanted: impl Fn(&FileChange) -> bool,
) -> Vec<FileChange> {
    let mut told = Vec::new();
    let telling = async {
        loop {
            let changes = watch.next(permit).await.unwrap();
            assert!(!changes.is_empty(), "it ended: {told:?}");
            for change in changes {
                assert_ne!(change.kind, ChangeKind::Missed);
                let is_last = wanted(&change);
                told.push(change);
                if is_last {
                    return;
                }
            }
        }
    };
    let in_time = tokio::time::timeout(SOON, telling).await;
    assert!(in_time.is_ok(), "not told within {SOON:?}");
    told
}

async fn watch(ground: &Ground, text: &str, recursive: bool) -> Box<dyn Watch> {
    let options = WatchOptions {
        recursive,
        after: None,
    };
    let watch = ground.files.watch(&ground.all, &at(text), options).await;
    watch.unwrap()
}

async fn changes_are_told_as_they_happen(ground: Ground) {
    if !ground.features.watch {
        return;
    }
    ground.mkdir("d").await;
    let mut watch = watch(&ground, "d", false).await;
    let all = &ground.all;
    let mut see = async |text: &str, kinds: &[ChangeKind]| {
        let wanted = |change: &FileChange| change.file == at(text) && kinds.contains(&change.kind);
        until(&mut *watch, all, wanted).await
    };
    use ChangeKind::{Attributes, Created, Modified, Removed, Renamed};
    ground.put("d/f", "one").await;
    // A file that is put comes as a whole: it is created, or moved in.
    see("d/f", &[Created, Renamed, Modified]).await;
    let file = ground.edit("d/f").await;
    file.write_at(all, 0, "two".into()).await.unwrap();
    see("d/f", &[Modified]).await;
    drop(file);
    let mode = alknet_core::files::Attributes {
        mode: Some(0o600),
        ..Default::default()
    };
    let set = ground
        .files
        .set_attributes(all, &at("d/f"), true, mode)
        .await;
    set.unwrap();
    see("d/f", &[Attributes]).await;
    let options = RenameOptions::default();
    let moved = ground
        .files
        .rename(all, &at("d/f"), &at("d/g"), options)
        .await;
    moved.unwrap();
    let told = see("d/g", &[Renamed, Created]).await;
    let told = told.last().unwrap();
    if told.kind == Renamed {
        assert_eq!(told.from, Some(at("d/f")));
    }
    let removed = ground.files.remove(all, &at("d/g"), Removal::File).await;
    removed.unwrap();
    see("d/g", &[Removed]).await;
}

async fn what_lies_deeper_is_told_if_asked(ground: Ground) {
    if !ground.features.watch {
        return;
    }
    ground.mkdir("d").await;
    ground.mkdir("d/e").await;
    let mut flat = watch(&ground, "d", false).await;
    let mut deep = watch(&ground, "d", true).await;
    let all = &ground.all;
    ground.put("d/e/f", "x").await;
    until(&mut *deep, all, |change| change.file == at("d/e/f")).await;
    // So is what lies in a directory that came later.
    ground.mkdir("d/e/new").await;
    until(&mut *deep, all, |change| change.file == at("d/e/new")).await;
    ground.put("d/e/new/g", "x").await;
    until(&mut *deep, all, |change| change.file == at("d/e/new/g")).await;
    ground.put("d/end", "x").await;
    let told = until(&mut *flat, all, |change| change.file == at("d/end")).await;
    let deeper = |change: &FileChange| change.file.names().len() > 2;
    assert!(!told.iter().any(deeper), "{told:?}");
}

async fn what_may_not_be_listed_is_not_told(ground: Ground) {
    if !ground.features.watch {
        return;
    }
    for directory in ["d", "d/open", "d/secret"] {
        ground.mkdir(directory).await;
    }
    let grants = [
        "fs:*",
        "bucket:main/d/**=list",
        "!bucket:main/d/secret/**=*",
    ];
    ground.access.grant("ada", &grants);
    let permit = ground.access.permit("ada", "fs/watch");
    let options = || WatchOptions {
        recursive: true,
        after: None,
    };
    let files = &ground.files;
    refused(files.watch(&permit, &at("d/secret"), options()).await);
    refused(files.watch(&permit, &at("x"), options()).await);
    let mut watch = files.watch(&permit, &at("d"), options()).await.unwrap();
    ground.put("d/secret/f", "x").await;
    ground.put("d/open/f", "x").await;
    let is_open = |change: &FileChange| change.file == at("d/open/f");
    let told = until(&mut *watch, &permit, is_open).await;
    let is_secret = |change: &FileChange| change.file.is_within(&at("d/secret"));
    assert!(!told.iter().any(is_secret), "{told:?}");
    // Moved out of there, it appears, and nothing says from where.
    let options = RenameOptions::default();
    let (from, to) = (at("d/secret/f"), at("d/open/g"));
    files
        .rename(&ground.all, &from, &to, options)
        .await
        .unwrap();
    let told = until(&mut *watch, &permit, |change| change.file == to).await;
    assert!(!told.iter().any(is_secret), "{told:?}");
    assert!(
        told.iter()
            .all(|change| change.from.as_ref() != Some(&from))
    );
}

async fn a_watch_ends_with_its_right(ground: Ground) {
    if !ground.features.watch {
        return;
    }
    ground.mkdir("d").await;
    ground.access.grant("ada", &["fs:*", "bucket:main/**=list"]);
    let permit = ground.access.permit("ada", "fs/watch");
    let options = WatchOptions::default();
    let watch = ground.files.watch(&permit, &at("d"), options).await;
    let mut watch = watch.unwrap();
    ground
        .access
        .grant("ada", &["fs:*", "bucket:other/**=list"]);
    ground.put("d/f", "x").await;
    let next = tokio::time::timeout(SOON, watch.next(&permit)).await;
    refused(next.unwrap());
}
