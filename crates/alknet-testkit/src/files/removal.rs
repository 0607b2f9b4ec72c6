//! What is removed, and what is not.

use super::{
    Ground, Rule,
    ground::{Planted, at, fails, fails_as, path, refused},
    rules,
};
use alknet_core::files::{FileErrorCode as Code, Removal, Removed, ReplaceOptions};

pub(super) const RULES: &[Rule] = rules![
    each_kind_is_removed_as_what_it_is,
    a_tree_goes_with_all_of_it,
    a_link_goes_and_what_it_leads_to_stays,
    a_bucket_is_not_removed,
    a_tree_goes_only_if_all_of_it_is_held,
    what_is_begun_in_a_directory_goes_with_it,
    a_pipe_is_removed_and_never_opened,
];

async fn each_kind_is_removed_as_what_it_is(ground: Ground) {
    ground.mkdir("d").await;
    ground.put("d/f", "x").await;
    let (files, all) = (&ground.files, &ground.all);
    let remove = async |text: &str, how| files.remove(all, &at(text), how).await;
    fails(remove("d", Removal::File).await, Code::IsADirectory);
    fails(remove("d/f", Removal::Directory).await, Code::NotADirectory);
    let full = remove("d", Removal::Directory).await;
    fails(full, Code::DirectoryNotEmpty);
    for how in [Removal::File, Removal::Directory, Removal::Tree] {
        fails(remove("none", how).await, Code::NoSuchFile);
        fails(remove("d/f/x", how).await, Code::NotADirectory);
    }
    let file = Removed {
        files: 1,
        directories: 0,
    };
    assert_eq!(remove("d/f", Removal::File).await.unwrap(), file);
    let directory = Removed {
        files: 0,
        directories: 1,
    };
    assert_eq!(remove("d", Removal::Directory).await.unwrap(), directory);
    ground.put("f", "x").await;
    assert_eq!(remove("f", Removal::Tree).await.unwrap(), file);
    assert!(ground.names(&path("main")).await.is_empty());
}

async fn a_tree_goes_with_all_of_it(ground: Ground) {
    for directory in ["d", "d/a", "d/a/b", "d/c", "keep"] {
        ground.mkdir(directory).await;
    }
    for file in ["d/1", "d/a/2", "d/a/b/3", "d/c/4", "keep/5"] {
        ground.put(file, "x").await;
    }
    ground.symlink("d/a/keep", "../../keep").await;
    let (files, all) = (&ground.files, &ground.all);
    let removed = files.remove(all, &at("d"), Removal::Tree).await;
    let counted = Removed {
        files: 5,
        directories: 4,
    };
    assert_eq!(removed.unwrap(), counted);
    assert!(!ground.is_there("d").await);
    assert_eq!(ground.get("keep/5").await, b"x");
    // A hundred deep.
    let mut deep = path("main");
    for _ in 0..100 {
        deep = super::ground::in_(&deep, b"d");
        files.make_directory(all, &deep, None).await.unwrap();
    }
    let removed = files.remove(all, &at("d"), Removal::Tree).await.unwrap();
    assert_eq!(removed.directories, 100);
}

async fn a_link_goes_and_what_it_leads_to_stays(ground: Ground) {
    ground.mkdir("d").await;
    ground.put("d/f", "x").await;
    let (files, all) = (&ground.files, &ground.all);
    for (how, target) in [
        (Removal::File, "d/f"),
        (Removal::File, "d"),
        (Removal::Tree, "d"),
        (Removal::File, "none"),
    ] {
        ground.symlink("l", target).await;
        let as_directory = files.remove(all, &at("l"), Removal::Directory).await;
        fails(as_directory, Code::NotADirectory);
        let removed = files.remove(all, &at("l"), how).await.unwrap();
        assert_eq!((removed.files, removed.directories), (1, 0));
        assert_eq!(ground.get("d/f").await, b"x");
    }
}

async fn a_bucket_is_not_removed(ground: Ground) {
    ground.put("f", "x").await;
    let (files, all) = (&ground.files, &ground.all);
    for how in [Removal::File, Removal::Directory, Removal::Tree] {
        let removed = files.remove(all, &path("main"), how).await;
        let codes = [
            Code::BadArgument,
            Code::FileBusy,
            Code::IsADirectory,
            Code::DirectoryNotEmpty,
            Code::HostRefuses,
        ];
        fails_as(removed, &codes);
        assert_eq!(ground.get("f").await, b"x");
    }
    let removed = files.remove(all, &path("other"), Removal::Directory).await;
    assert!(removed.is_err(), "an empty bucket stays, too");
    assert!(ground.names(&path("other")).await.is_empty());
}

async fn a_tree_goes_only_if_all_of_it_is_held(ground: Ground) {
    for directory in ["d", "d/e", "d/keep"] {
        ground.mkdir(directory).await;
    }
    ground.put("d/e/f", "x").await;
    ground.put("d/keep/f", "x").await;
    let before = ground.tree(&path("main")).await;
    let whole = "bucket:main/**=write";
    let grants = ["fs:*", whole, "!bucket:main/d/keep/**=write"];
    ground.access.grant("ada", &grants);
    let permit = ground.access.permit("ada", "fs/write");
    let files = &ground.files;
    refused(files.remove(&permit, &at("d"), Removal::Tree).await);
    assert_eq!(ground.tree(&path("main")).await, before);
    files
        .remove(&permit, &at("d/e"), Removal::Tree)
        .await
        .unwrap();
    // Held are its entries, and not what is in them.
    ground.access.grant("ada", &["fs:*", "bucket:main/*=write"]);
    refused(files.remove(&permit, &at("d"), Removal::Tree).await);
    assert_eq!(ground.get("d/keep/f").await, b"x");
    ground.access.grant("ada", &["fs:*", whole]);
    files
        .remove(&permit, &at("d"), Removal::Tree)
        .await
        .unwrap();
}

async fn what_is_begun_in_a_directory_goes_with_it(ground: Ground) {
    ground.mkdir("d").await;
    let options = ReplaceOptions {
        resume: Some("again".into()),
        ..ReplaceOptions::default()
    };
    let mut begun = ground.replace("d/f", options.clone()).await.unwrap();
    begun.write(&ground.all, "half".into()).await.unwrap();
    drop(begun);
    // To everybody it is empty, so it is removed as that.
    assert!(ground.names(&at("d")).await.is_empty());
    let (files, all) = (&ground.files, &ground.all);
    files
        .remove(all, &at("d"), Removal::Directory)
        .await
        .unwrap();
    ground.mkdir("d").await;
    let begun = ground.replace("d/f", options).await.unwrap();
    assert_eq!(begun.bytes(), 0);
}

async fn a_pipe_is_removed_and_never_opened(ground: Ground) {
    if !ground.plant("pipe", Planted::Pipe) {
        return;
    }
    use alknet_core::files::{Create, FileKind, OpenOptions};
    assert_eq!(ground.stat("pipe").await.kind, FileKind::Other);
    let code = Code::NotAFile;
    fails(ground.open("pipe", OpenOptions::reading()).await, code);
    let options = OpenOptions::writing(Create::IfMissing);
    fails(ground.open("pipe", options).await, code);
    fails(ground.get_at(&at("pipe")).await, code);
    fails(ground.put_at(at("pipe"), "x").await, code);
    fails(
        ground.replace("pipe", ReplaceOptions::default()).await,
        code,
    );
    let (files, all) = (&ground.files, &ground.all);
    let copied = files
        .copy(all, &at("pipe"), &at("copy"), Default::default())
        .await;
    fails(copied, code);
    ground.put("f", "x").await;
    let copied = files
        .copy(all, &at("f"), &at("pipe"), Default::default())
        .await;
    fails(copied, code);
    files.remove(all, &at("pipe"), Removal::File).await.unwrap();
    assert_eq!(ground.names(&path("main")).await.len(), 1);
}
