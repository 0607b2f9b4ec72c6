//! Buckets that are not written to.

use super::world::{World, at, fails, names, refused, small};
use alknet_core::files::{
    Attributes, CopyOptions, Create, FileError, FileErrorCode, FileErrorCode::ReadOnly,
    FileService, OpenOptions, Removal, RenameOptions, ReplaceOptions, SetTime,
};
use alknet_fs::{BucketConfig, FilesConfig};
use futures::future::BoxFuture;
use std::{fs, time::SystemTime};

fn world() -> World {
    let world = World::with(|www| www.read_only = true);
    world.put("www/f", "kept");
    world.put("www/d/in", "kept");
    fs::create_dir(world.host("www/empty")).unwrap();
    world
}

type Try = for<'a> fn(&'a World) -> BoxFuture<'a, Result<(), FileError>>;

/// Everything that would change something.
const CHANGES: &[(&str, Try)] = &[
    ("open to write", |world| {
        Box::pin(open(world, OpenOptions::writing(Create::Never)))
    }),
    ("open to make", |world| {
        Box::pin(open(world, OpenOptions::writing(Create::IfMissing)))
    }),
    ("open to append", |world| {
        let options = OpenOptions {
            append: true,
            ..OpenOptions::writing(Create::Never)
        };
        Box::pin(open(world, options))
    }),
    ("open to empty", |world| {
        let options = OpenOptions {
            truncate: true,
            ..OpenOptions::writing(Create::Never)
        };
        Box::pin(open(world, options))
    }),
    ("replace", |world| {
        Box::pin(async {
            world
                .replace("www/f", ReplaceOptions::default())
                .await
                .map(drop)
        })
    }),
    ("put", |world| {
        Box::pin(async { world.put_small("www/new", "x").await.map(drop) })
    }),
    ("set attributes", |world| {
        Box::pin(async {
            let attributes = Attributes {
                mtime: Some(SetTime::Now),
                ..Attributes::default()
            };
            world
                .buckets
                .set_attributes(&world.all, &at("www/f"), true, attributes)
                .await
                .map(drop)
        })
    }),
    ("make a directory", |world| {
        Box::pin(async {
            world
                .buckets
                .make_directory(&world.all, &at("www/new"), None)
                .await
                .map(drop)
        })
    }),
    ("rename", |world| {
        Box::pin(async {
            let options = RenameOptions { replace: true };
            world
                .buckets
                .rename(&world.all, &at("www/f"), &at("www/new"), options)
                .await
        })
    }),
    ("link", |world| {
        Box::pin(async {
            world
                .buckets
                .link(&world.all, &at("www/f"), &at("www/new"))
                .await
        })
    }),
    ("symlink", |world| {
        Box::pin(async {
            world
                .buckets
                .symlink(&world.all, &at("www/new"), b"f")
                .await
        })
    }),
    ("remove a file", |world| {
        Box::pin(async {
            world
                .buckets
                .remove(&world.all, &at("www/f"), Removal::File)
                .await
                .map(drop)
        })
    }),
    ("remove a directory", |world| {
        Box::pin(async {
            world
                .buckets
                .remove(&world.all, &at("www/empty"), Removal::Directory)
                .await
                .map(drop)
        })
    }),
    ("remove a tree", |world| {
        Box::pin(async {
            world
                .buckets
                .remove(&world.all, &at("www/d"), Removal::Tree)
                .await
                .map(drop)
        })
    }),
    ("copy", |world| {
        Box::pin(async {
            let options = CopyOptions::default();
            world
                .buckets
                .copy(&world.all, &at("www/f"), &at("www/new"), options)
                .await
                .map(drop)
        })
    }),
    ("collect", |world| {
        Box::pin(async {
            world
                .buckets
                .collect(&world.all, &at("www"))
                .await
                .map(drop)
        })
    }),
];

async fn open(world: &World, options: OpenOptions) -> Result<(), FileError> {
    world
        .buckets
        .open(&world.all, &at("www/f"), options)
        .await
        .map(drop)
}

fn times(world: &World) -> Vec<(String, SystemTime)> {
    let told = names(&world.host("www")).into_iter();
    told.map(|name| {
        let meta = fs::metadata(world.host("www").join(&name)).unwrap();
        (name, meta.modified().unwrap())
    })
    .collect()
}

#[tokio::test]
async fn nothing_changes_in_a_read_only_bucket() {
    let world = world();
    let before = times(&world);
    for (name, change) in CHANGES {
        let told = change(&world).await;
        match told {
            Err(error) if error.code() == Some(ReadOnly) => {}
            told => panic!("{name}: {told:?}"),
        }
    }
    assert_eq!(times(&world), before);
    assert_eq!(world.get("www/f"), "kept");
    assert!(
        world
            .buckets
            .space(&world.all, &at("www"))
            .await
            .unwrap()
            .read_only
    );
}

#[tokio::test]
async fn each_of_these_is_done_where_it_may_be() {
    for (name, change) in CHANGES {
        let world = World::new();
        world.put("www/f", "kept");
        world.put("www/d/in", "kept");
        fs::create_dir(world.host("www/empty")).unwrap();
        if let Err(error) = change(&world).await {
            panic!("{name}: {error}");
        }
    }
}

#[tokio::test]
async fn a_read_only_bucket_is_read_and_copied_from() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["www", "other"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("www/f"), "kept").unwrap();
    let mut www = BucketConfig::new("www", dir.path().join("www"));
    www.read_only = true;
    let other = BucketConfig::new("other", dir.path().join("other"));
    let world = World::over(dir, &[www, other]);
    let file = world.open("www/f", OpenOptions::reading()).await;
    assert_eq!(file.read_at(&world.all, 0, 10).await.unwrap(), "kept");
    fails(file.write_at(&world.all, 0, "x".into()).await, ReadOnly);
    let (from, to) = (at("www/f"), at("other/f"));
    world
        .buckets
        .copy(&world.all, &from, &to, CopyOptions::default())
        .await
        .unwrap();
    assert_eq!(world.get("other/f"), "kept");
    let renamed = world
        .buckets
        .rename(&world.all, &to, &from, RenameOptions::default())
        .await;
    fails(renamed, FileErrorCode::OtherFileSystem);
}

#[tokio::test]
async fn a_handle_is_not_written_to_once_its_bucket_is_read_only() {
    let world = World::new();
    let mut www = BucketConfig::new("www", world.host("www"));
    let file = world.open("www/f", OpenOptions::writing(Create::New)).await;
    let mut new = world
        .replace("www/g", ReplaceOptions::default())
        .await
        .unwrap();
    file.write_at(&world.all, 0, "one".into()).await.unwrap();
    new.write(&world.all, "one".into()).await.unwrap();
    www.read_only = true;
    world
        .buckets
        .configure(&FilesConfig::default(), &[www.clone()])
        .unwrap();
    fails(file.write_at(&world.all, 3, "two".into()).await, ReadOnly);
    fails(new.write(&world.all, "two".into()).await, ReadOnly);
    fails(new.commit(&world.all).await, ReadOnly);
    assert_eq!(world.get("www/f"), "one");
    assert_eq!(names(&world.host("www")), ["f"]);
    www.read_only = false;
    world
        .buckets
        .configure(&FilesConfig::default(), &[www])
        .unwrap();
    file.write_at(&world.all, 3, "two".into()).await.unwrap();
}

#[tokio::test]
async fn who_may_not_write_hears_that_first() {
    let world = world();
    world.grant("bob", &["fs:write", "bucket:www/d/**=write"]);
    let bob = world.permit("bob", "fs/write");
    refused(
        world
            .buckets
            .put_small(&bob, vec![small("www/f", "x")])
            .await
            .remove(0),
    );
    fails(
        world
            .buckets
            .put_small(&bob, vec![small("www/d/in", "x")])
            .await
            .remove(0),
        ReadOnly,
    );
}
