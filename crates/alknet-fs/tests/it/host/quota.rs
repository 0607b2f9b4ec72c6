//! Quotas: up to the limit, and not one past it.

use super::world::{World, at, fails, names};
use alknet_core::files::{
    Attributes, CopyOptions, Create, FileErrorCode::QuotaExceeded, FileService, OpenOptions,
    Removal, RenameOptions, ReplaceOptions,
};
use std::fs;

#[tokio::test]
async fn writes_in_place_end_at_the_limit() {
    let world = World::limited(Some(10), None);
    let file = world.open("www/a", OpenOptions::writing(Create::New)).await;
    file.write_at(&world.all, 0, "12345678".into())
        .await
        .unwrap();
    // What is there already is written anew for nothing.
    file.write_at(&world.all, 0, "abcdefgh".into())
        .await
        .unwrap();
    fails(
        file.write_at(&world.all, 8, "xyz".into()).await,
        QuotaExceeded,
    );
    fails(
        file.write_at(&world.all, 10, "x".into()).await,
        QuotaExceeded,
    );
    assert_eq!(world.get("www/a"), "abcdefgh");
    file.write_at(&world.all, 8, "ij".into()).await.unwrap();
    fails(
        file.write_at(&world.all, 10, "k".into()).await,
        QuotaExceeded,
    );
    assert_eq!(world.get("www/a"), "abcdefghij");
}

#[tokio::test]
async fn what_is_appended_ends_at_the_limit() {
    let world = World::limited(Some(10), None);
    let appending = OpenOptions {
        append: true,
        ..OpenOptions::writing(Create::New)
    };
    let file = world.open("www/a", appending).await;
    file.write_at(&world.all, 0, "123456789".into())
        .await
        .unwrap();
    fails(
        file.write_at(&world.all, 0, "xx".into()).await,
        QuotaExceeded,
    );
    file.write_at(&world.all, 0, "0".into()).await.unwrap();
    fails(
        file.write_at(&world.all, 0, "x".into()).await,
        QuotaExceeded,
    );
    assert_eq!(world.get("www/a"), "1234567890");
}

#[tokio::test]
async fn a_length_is_set_up_to_the_limit() {
    let world = World::limited(Some(10), None);
    let file = world.open("www/a", OpenOptions::writing(Create::New)).await;
    let length = |bytes| Attributes {
        bytes: Some(bytes),
        ..Attributes::default()
    };
    fails(
        file.set_attributes(&world.all, length(11)).await,
        QuotaExceeded,
    );
    file.set_attributes(&world.all, length(10)).await.unwrap();
    let set = async |bytes| {
        let path = at("www/a");
        world
            .buckets
            .set_attributes(&world.all, &path, true, length(bytes))
            .await
    };
    fails(set(11).await, QuotaExceeded);
    set(3).await.unwrap();
    // What was cut off is there for others.
    world.put_small("www/b", "1234567").await.unwrap();
    fails(set(4).await, QuotaExceeded);
}

#[tokio::test]
async fn a_new_content_has_the_room_of_the_old_one() {
    let world = World::limited(Some(10), None);
    world.put("www/a", "123456");
    let replace = async |bytes: &'static str| {
        let mut new = world.replace("www/a", ReplaceOptions::default()).await?;
        new.write(&world.all, bytes.into()).await?;
        new.commit(&world.all).await
    };
    fails(replace("12345678901").await, QuotaExceeded);
    assert_eq!(world.get("www/a"), "123456");
    replace("1234567890").await.unwrap();
    replace("123").await.unwrap();
    fails(world.put_small("www/b", "12345678").await, QuotaExceeded);
    world.put_small("www/b", "1234567").await.unwrap();
    fails(world.put_small("www/c", "1").await, QuotaExceeded);
    assert_eq!(names(&world.host("www")), ["a", "b"]);
}

#[tokio::test]
async fn what_is_announced_is_refused_at_once() {
    let world = World::limited(Some(10), None);
    let announced = |bytes| ReplaceOptions {
        bytes: Some(bytes),
        ..ReplaceOptions::default()
    };
    fails(world.replace("www/a", announced(11)).await, QuotaExceeded);
    let first = world.replace("www/a", announced(6)).await.unwrap();
    // What was announced is kept for who announced it.
    fails(world.replace("www/b", announced(5)).await, QuotaExceeded);
    first.discard().await;
    world
        .replace("www/b", announced(10))
        .await
        .unwrap()
        .discard()
        .await;
    assert!(names(&world.host("www")).is_empty());
}

#[tokio::test]
async fn what_is_announced_stays_claimed_when_the_bucket_is_counted_again() {
    let world = World::limited(Some(10), Some(3));
    let announced = |bytes| ReplaceOptions {
        bytes: Some(bytes),
        ..ReplaceOptions::default()
    };
    let mut first = world.replace("www/a", announced(6)).await.unwrap();
    first.write(&world.all, "123".into()).await.unwrap();
    let mut www = alknet_fs::BucketConfig::new("www", world.host("www"));
    www.quota = Some(alknet_fs::ByteSize::new(11));
    let config = Default::default();
    world.buckets.configure(&config, &[www]).unwrap();
    fails(world.replace("www/b", announced(6)).await, QuotaExceeded);
    world.put_small("www/b", "12345").await.unwrap();
    first.write(&world.all, "456".into()).await.unwrap();
    first.commit(&world.all).await.unwrap();
    fails(world.put_small("www/c", "1").await, QuotaExceeded);
    world
        .buckets
        .remove(&world.all, &at("www/b"), Removal::File)
        .await
        .unwrap();
    world.put_small("www/c", "12345").await.unwrap();
    fails(world.put_small("www/c", "123456").await, QuotaExceeded);
}

#[tokio::test]
async fn holes_count_as_bytes() {
    let world = World::limited(Some(1000), None);
    let mut new = world
        .replace("www/a", ReplaceOptions::default())
        .await
        .unwrap();
    fails(new.skip(&world.all, 1001).await, QuotaExceeded);
    new.skip(&world.all, 1000).await.unwrap();
    fails(new.write(&world.all, "x".into()).await, QuotaExceeded);
    assert_eq!(new.commit(&world.all).await.unwrap().bytes, 1000);
}

#[tokio::test]
async fn a_copy_ends_at_the_limit() {
    let world = World::limited(Some(10), None);
    world.put("www/a", "12345");
    world.put("www/long", "");
    let copy = async |from, to| {
        let options = CopyOptions::default();
        world
            .buckets
            .copy(&world.all, &at(from), &at(to), options)
            .await
    };
    copy("www/a", "www/b").await.unwrap();
    fails(copy("www/a", "www/c").await, QuotaExceeded);
    assert_eq!(names(&world.host("www")), ["a", "b", "long"]);
}

#[tokio::test]
async fn entries_of_every_kind_end_at_the_limit() {
    let world = World::limited(None, Some(5));
    let (all, www) = (&world.all, &world.buckets);
    www.make_directory(all, &at("www/d"), None).await.unwrap();
    world.put_small("www/f", "x").await.unwrap();
    www.symlink(all, &at("www/s"), b"f").await.unwrap();
    www.link(all, &at("www/f"), &at("www/l")).await.unwrap();
    world.open("www/o", OpenOptions::writing(Create::New)).await;
    fails(
        www.make_directory(all, &at("www/x"), None).await,
        QuotaExceeded,
    );
    fails(world.put_small("www/x", "x").await, QuotaExceeded);
    fails(www.symlink(all, &at("www/x"), b"f").await, QuotaExceeded);
    fails(
        www.link(all, &at("www/f"), &at("www/x")).await,
        QuotaExceeded,
    );
    let writing = OpenOptions::writing(Create::IfMissing);
    fails(www.open(all, &at("www/x"), writing).await, QuotaExceeded);
    fails(
        world.replace("www/x", ReplaceOptions::default()).await,
        QuotaExceeded,
    );
    let copied = www
        .copy(all, &at("www/f"), &at("www/x"), CopyOptions::default())
        .await;
    fails(copied, QuotaExceeded);
    assert_eq!(names(&world.host("www")), ["d", "f", "l", "o", "s"]);
    // What is there already makes no new one.
    world.put_small("www/f", "y").await.unwrap();
    www.open(all, &at("www/o"), writing).await.unwrap();
    www.rename(all, &at("www/s"), &at("www/t"), RenameOptions::default())
        .await
        .unwrap();
    fails(world.put_small("www/x", "x").await, QuotaExceeded);
    // A rename that replaces frees one.
    let replacing = RenameOptions { replace: true };
    www.rename(all, &at("www/t"), &at("www/o"), replacing)
        .await
        .unwrap();
    world.put_small("www/x", "x").await.unwrap();
    fails(world.put_small("www/y", "x").await, QuotaExceeded);
    www.remove(all, &at("www/d"), Removal::Directory)
        .await
        .unwrap();
    world.put_small("www/y", "x").await.unwrap();
    fails(world.put_small("www/z", "x").await, QuotaExceeded);
}

#[tokio::test]
async fn what_is_removed_makes_room() {
    let world = World::limited(Some(10), Some(4));
    world.put_small("www/a", "1234567890").await.unwrap();
    fails(world.put_small("www/b", "1").await, QuotaExceeded);
    world
        .buckets
        .remove(&world.all, &at("www/a"), Removal::File)
        .await
        .unwrap();
    world
        .buckets
        .make_directory(&world.all, &at("www/d"), None)
        .await
        .unwrap();
    world.put_small("www/d/b", "12345").await.unwrap();
    world.put_small("www/d/c", "12345").await.unwrap();
    fails(world.put_small("www/e", "1").await, QuotaExceeded);
    world
        .buckets
        .remove(&world.all, &at("www/d"), Removal::Tree)
        .await
        .unwrap();
    world.put_small("www/e", "1234567890").await.unwrap();
    fails(world.put_small("www/f", "1").await, QuotaExceeded);
}

#[tokio::test]
async fn a_file_with_two_names_counts_once() {
    let world = World::limited(Some(10), None);
    world.put("www/a", "123456");
    fs::hard_link(world.host("www/a"), world.host("www/b")).unwrap();
    world.put_small("www/c", "1234").await.unwrap();
    world
        .buckets
        .remove(&world.all, &at("www/b"), Removal::File)
        .await
        .unwrap();
    fails(world.put_small("www/d", "1").await, QuotaExceeded);
    world
        .buckets
        .remove(&world.all, &at("www/a"), Removal::File)
        .await
        .unwrap();
    world.put_small("www/d", "123456").await.unwrap();
}

#[tokio::test]
async fn what_is_kept_of_a_cut_upload_counts_until_it_is_collected() {
    let world = World::limited(Some(10), None);
    let resumable = || ReplaceOptions {
        resume: Some("again".into()),
        ..ReplaceOptions::default()
    };
    let mut new = world.replace("www/a", resumable()).await.unwrap();
    new.write(&world.all, "123456".into()).await.unwrap();
    drop(new);
    fails(world.put_small("www/b", "12345").await, QuotaExceeded);
    // Who goes on with it does not need the room twice.
    let mut new = world.replace("www/a", resumable()).await.unwrap();
    assert_eq!(new.bytes(), 6);
    new.write(&world.all, "7890".into()).await.unwrap();
    drop(new);
    let collected = world.buckets.collect(&world.all, &at("www")).await.unwrap();
    assert_eq!((collected.partials, collected.bytes), (1, 10));
    world.put_small("www/b", "1234567890").await.unwrap();
    assert_eq!(names(&world.host("www")), ["b"]);
}

#[tokio::test]
async fn many_at_once_do_not_pass_the_limit() {
    let world = std::sync::Arc::new(World::limited(Some(1000), None));
    let tasks = (0..32).map(|task| {
        let world = world.clone();
        tokio::spawn(async move {
            let file = world
                .open("www/shared", OpenOptions::writing(Create::IfMissing))
                .await;
            let mut kept = 0;
            for step in 0..20_u64 {
                let offset = step * 50;
                let own = format!("www/{task}-{step}");
                let shared = file.write_at(&world.all, offset, vec![1; 30].into()).await;
                let _ = shared.is_ok();
                kept += u64::from(world.put_small(&own, vec![2; 17]).await.is_ok()) * 17;
            }
            kept
        })
    });
    let kept: Vec<u64> = futures::future::join_all(tasks)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let shared = fs::metadata(world.host("www/shared")).unwrap().len();
    let kept = kept.iter().sum::<u64>() + shared;
    let found: u64 = names(&world.host("www"))
        .iter()
        .map(|name| fs::metadata(world.host("www").join(name)).unwrap().len())
        .sum();
    assert_eq!(found, kept);
    assert!((970..=1000).contains(&found), "{found}");
}

#[tokio::test]
async fn the_room_that_is_told_is_what_the_quota_leaves() {
    let world = World::limited(Some(1000), Some(10));
    world.put("www/a", vec![0; 300]);
    let space = world.buckets.space(&world.all, &at("www")).await.unwrap();
    assert_eq!((space.bytes, space.bytes_free), (1000, 700));
    assert_eq!((space.entries, space.entries_free), (10, 9));
    assert!(!space.read_only);
}

#[tokio::test]
async fn room_that_is_to_be_left_on_the_disk_is_left() {
    let world = World::with(|www| www.keep_free = alknet_fs::ByteSize::MAX);
    let told = fails(
        world.put_small("www/a", "x").await,
        alknet_core::files::FileErrorCode::NoSpace,
    );
    assert_eq!(told, "`www/a`: the disk would be fuller than allowed");
    let file = world.open("www/b", OpenOptions::writing(Create::New)).await;
    let written = file.write_at(&world.all, 0, "x".into()).await;
    fails(written, alknet_core::files::FileErrorCode::NoSpace);
    let mut new = world
        .replace("www/c", ReplaceOptions::default())
        .await
        .unwrap();
    fails(
        new.write(&world.all, "x".into()).await,
        alknet_core::files::FileErrorCode::NoSpace,
    );
    // Holes take no room.
    new.skip(&world.all, 1 << 40).await.unwrap();
    drop(new);
    let announced = ReplaceOptions {
        bytes: Some(1),
        ..ReplaceOptions::default()
    };
    fails(
        world.replace("www/c", announced.clone()).await,
        alknet_core::files::FileErrorCode::NoSpace,
    );
    let sparse = ReplaceOptions {
        sparse: true,
        ..announced
    };
    world.replace("www/c", sparse).await.unwrap();
    assert_eq!(
        world
            .buckets
            .space(&world.all, &at("www"))
            .await
            .unwrap()
            .bytes_free,
        0
    );
}

fn resumable(text: usize) -> ReplaceOptions {
    ReplaceOptions {
        resume: Some(text.to_string()),
        ..ReplaceOptions::default()
    }
}

#[tokio::test]
async fn cut_uploads_over_one_file_have_its_room_once_at_most() {
    let world = World::limited(Some(2_000), Some(3));
    world.put("www/f", vec![0; 1_500]);
    let mut refused = 0;
    for text in 0..10 {
        let mut new = world.replace("www/f", resumable(text)).await.unwrap();
        refused += usize::from(new.write(&world.all, vec![1; 1_400].into()).await.is_err());
        drop(new);
        let found = names(&world.host("www")).into_iter();
        let bytes = found.map(|name| fs::metadata(world.host("www").join(name)).unwrap().len());
        assert!(bytes.sum::<u64>() <= 2_000);
    }
    // Each had the room of the file, one after the other, and none was kept.
    assert_eq!((refused, names(&world.host("www")).len()), (0, 1));
    // At the same time, only one of them has it.
    let mut first = world.replace("www/f", resumable(0)).await.unwrap();
    let mut second = world.replace("www/f", resumable(1)).await.unwrap();
    first
        .write(&world.all, vec![1; 2_000].into())
        .await
        .unwrap();
    fails(
        second.write(&world.all, vec![1; 1].into()).await,
        QuotaExceeded,
    );
    first.commit(&world.all).await.unwrap();
}

#[tokio::test]
async fn a_new_content_whose_room_went_meanwhile_is_refused() {
    let world = World::limited(Some(10), None);
    world.put("www/f", "123456");
    let mut new = world
        .replace("www/f", ReplaceOptions::default())
        .await
        .unwrap();
    new.write(&world.all, "1234567890".into()).await.unwrap();
    let empty = Attributes {
        bytes: Some(0),
        ..Attributes::default()
    };
    let path = at("www/f");
    world
        .buckets
        .set_attributes(&world.all, &path, true, empty)
        .await
        .unwrap();
    world.put_small("www/g", "123456").await.unwrap();
    fails(new.commit(&world.all).await, QuotaExceeded);
    assert_eq!(
        (world.get("www/f"), world.get("www/g")),
        (String::new(), "123456".into())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_many_free_at_once_is_freed_once() {
    let world = std::sync::Arc::new(World::limited(Some(1_000), None));
    for round in 0..20 {
        world.put_small("www/f", vec![0; 500]).await.unwrap();
        world.put_small("www/kept", vec![0; 400]).await.unwrap();
        let start = std::sync::Arc::new(tokio::sync::Barrier::new(16));
        let tasks = (0..16).map(|task| {
            let (world, start) = (world.clone(), start.clone());
            tokio::spawn(async move {
                start.wait().await;
                let (all, path) = (&world.all, at("www/f"));
                let empty = Attributes {
                    bytes: Some(0),
                    ..Attributes::default()
                };
                let truncating = OpenOptions {
                    truncate: true,
                    ..OpenOptions::writing(Create::Never)
                };
                match task % 4 {
                    0 => drop(world.buckets.set_attributes(all, &path, true, empty).await),
                    1 => drop(world.buckets.open(all, &path, truncating).await),
                    2 => drop(world.buckets.remove(all, &path, Removal::File).await),
                    _ => drop(world.put_small("www/f", "").await),
                }
            })
        });
        futures::future::join_all(tasks).await;
        let left = 600;
        let over = world.put_small("www/more", vec![0; left + 1]).await;
        assert!(over.is_err(), "round {round}: more than the quota");
        // Whoever is refused wrongly is not for long: it is counted again.
        let begun = std::time::Instant::now();
        while let Err(error) = world.put_small("www/more", vec![0; left]).await {
            assert!(
                begun.elapsed() < std::time::Duration::from_secs(20),
                "{error}"
            );
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let removal = Removal::File;
        world
            .buckets
            .remove(&world.all, &at("www/more"), removal)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn what_is_deeper_than_any_path_is_counted() {
    let world = World::limited(Some(1_000), None);
    let www = world.host("www");
    // Chains are made apart, and put into one another from below.
    let mut names = Vec::new();
    for chain in 0..6 {
        let top = www.join(format!("{chain}"));
        fs::create_dir_all(top.join("d/".repeat(1_000))).unwrap();
        names.push(top);
    }
    fs::write(names[5].join("d/".repeat(1_000)).join("f"), vec![0; 900]).unwrap();
    for chain in (1..6).rev() {
        let below = names[chain - 1].join("d/".repeat(1_000)).join("more");
        fs::rename(&names[chain], below).unwrap();
    }
    fails(world.put_small("www/x", vec![0; 101]).await, QuotaExceeded);
    world.put_small("www/x", vec![0; 100]).await.unwrap();
    world
        .buckets
        .remove(&world.all, &at("www/0"), Removal::Tree)
        .await
        .unwrap();
    world.put_small("www/x", vec![0; 1_000]).await.unwrap();
}

#[tokio::test]
async fn an_upload_that_found_no_room_is_not_kept() {
    let world = World::limited(Some(1_000), None);
    let mut new = world.replace("www/f", resumable(0)).await.unwrap();
    new.write(&world.all, vec![1; 900].into()).await.unwrap();
    fails(
        new.write(&world.all, vec![1; 101].into()).await,
        QuotaExceeded,
    );
    drop(new);
    assert!(names(&world.host("www")).is_empty());
    world.put_small("www/g", vec![1; 1_000]).await.unwrap();
}

#[tokio::test]
async fn what_nobody_goes_on_with_goes_where_nobody_lists() {
    let world = World::new();
    let mut old = world.replace("www/f", resumable(0)).await.unwrap();
    old.write(&world.all, "old".into()).await.unwrap();
    drop(old);
    let partial = world.host("www").join(&names(&world.host("www"))[0]);
    let file = fs::File::options().write(true).open(&partial).unwrap();
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(8 * 86_400);
    file.set_modified(long_ago).unwrap();
    drop(file);
    // As after a start: when directories were looked through is not known.
    let world = World::over(
        world.dir,
        &[alknet_fs::BucketConfig::new(
            "www",
            partial.parent().unwrap(),
        )],
    );
    let new = world
        .replace("www/g", ReplaceOptions::default())
        .await
        .unwrap();
    assert!(!partial.exists());
    new.discard().await;
}
