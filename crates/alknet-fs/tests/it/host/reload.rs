//! Buckets that come, change and go while they are used.

use super::world::{World, at, fails};
use alknet_core::files::{FileErrorCode::NoSuchBucket, FileService, OpenOptions, ReplaceOptions};
use alknet_fs::{BucketConfig, ByteSize, FilesConfig};
use std::fs;

fn configure(world: &World, buckets: &[BucketConfig]) {
    world
        .buckets
        .configure(&FilesConfig::default(), buckets)
        .unwrap();
}

#[tokio::test]
async fn what_is_open_in_a_bucket_that_went_is_of_no_use() {
    let world = World::new();
    world.put("www/f", "one");
    let file = world.open("www/f", OpenOptions::reading()).await;
    let mut listing = world
        .buckets
        .list(&world.all, &at("www"), None)
        .await
        .unwrap();
    let mut new = world
        .replace("www/g", ReplaceOptions::default())
        .await
        .unwrap();
    new.write(&world.all, "two".into()).await.unwrap();
    configure(&world, &[]);
    fails(file.read_at(&world.all, 0, 3).await, NoSuchBucket);
    fails(file.stat(&world.all).await, NoSuchBucket);
    fails(listing.next(&world.all, 10).await, NoSuchBucket);
    fails(new.write(&world.all, "x".into()).await, NoSuchBucket);
    fails(new.commit(&world.all).await, NoSuchBucket);
    fails(
        world.buckets.stat(&world.all, &at("www/f"), true).await,
        NoSuchBucket,
    );
    assert_eq!(super::world::names(&world.host("www")), ["f"]);
}

#[tokio::test]
async fn a_bucket_with_another_directory_is_another_one() {
    let world = World::new();
    world.put("www/f", "one");
    world.put("new/f", "another");
    let file = world.open("www/f", OpenOptions::reading()).await;
    configure(&world, &[BucketConfig::new("www", world.host("new"))]);
    fails(file.read_at(&world.all, 0, 3).await, NoSuchBucket);
    let file = world.open("www/f", OpenOptions::reading()).await;
    assert_eq!(file.read_at(&world.all, 0, 10).await.unwrap(), "another");
}

#[tokio::test]
async fn a_bucket_that_stays_keeps_what_is_open_and_has_its_new_quota() {
    let world = World::new();
    world.put("www/f", "one");
    let file = world.open("www/f", OpenOptions::reading()).await;
    let mut www = BucketConfig::new("www", world.host("www"));
    www.quota = Some(ByteSize::new(4));
    configure(
        &world,
        &[www.clone(), BucketConfig::new("more", world.host(""))],
    );
    assert_eq!(file.read_at(&world.all, 0, 3).await.unwrap(), "one");
    assert!(world.put_small("www/g", "12").await.is_err());
    www.quota = Some(ByteSize::new(5));
    configure(&world, &[www]);
    world.put_small("www/g", "12").await.unwrap();
}

#[tokio::test]
async fn a_wrong_configuration_changes_nothing() {
    let world = World::new();
    world.put("www/f", "one");
    let file = world.open("www/f", OpenOptions::reading()).await;
    let wrong = [
        BucketConfig::new("new", world.host("")),
        BucketConfig::new("Bad", "/"),
    ];
    assert!(
        world
            .buckets
            .configure(&FilesConfig::default(), &wrong)
            .is_err()
    );
    assert!(
        world
            .buckets
            .check(&FilesConfig::default(), &wrong)
            .is_err()
    );
    assert_eq!(file.read_at(&world.all, 0, 3).await.unwrap(), "one");
    let told = world.buckets.buckets(&world.all).await.unwrap();
    assert_eq!(told.len(), 1);
}

#[tokio::test]
async fn a_bucket_whose_directory_is_missing_comes_back_with_it() {
    let world = World::new();
    fs::remove_dir(world.host("www")).unwrap();
    let told = world.buckets.buckets(&world.all).await.unwrap();
    let want = "bucket `www` cannot be used now: its directory is not there";
    assert_eq!(told[0].unavailable.as_deref(), Some(want));
    assert_eq!(
        world.buckets.unavailable().await,
        [("www".to_owned(), want.to_owned())]
    );
    let told = fails(
        world.buckets.stat(&world.all, &at("www"), true).await,
        NoSuchBucket,
    );
    assert!(
        !told.contains(&*world.dir.path().to_string_lossy()),
        "{told}"
    );
    world.put("www/f", "back");
    assert_eq!(
        world
            .buckets
            .stat(&world.all, &at("www/f"), true)
            .await
            .unwrap()
            .bytes,
        4
    );
    assert!(world.buckets.unavailable().await.is_empty());
}

#[tokio::test]
async fn a_directory_that_is_put_in_the_place_of_a_bucket_is_served() {
    let world = World::new();
    world.put("www/f", "one");
    world.put("next/f", "another");
    let before = world.open("www/f", OpenOptions::reading()).await;
    fs::rename(world.host("www"), world.host("old")).unwrap();
    fs::rename(world.host("next"), world.host("www")).unwrap();
    let start = std::time::Instant::now();
    while world
        .buckets
        .stat(&world.all, &at("www/f"), true)
        .await
        .unwrap()
        .bytes
        != 7
    {
        assert!(start.elapsed() < std::time::Duration::from_secs(20));
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    // What is open stays what it is.
    assert_eq!(before.read_at(&world.all, 0, 10).await.unwrap(), "one");
}

#[tokio::test]
async fn the_data_of_the_node_is_in_no_bucket() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("home/data");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("secret"), "key").unwrap();
    fs::write(dir.path().join("home/f"), "file").unwrap();
    let home = BucketConfig::new("home", dir.path().join("home"));
    let mut world = World::over(dir, &[]);
    let config = FilesConfig::default();
    world.buckets = alknet_fs::Buckets::new(&config, &[home], Some(&data)).unwrap();
    for text in ["home/data", "home/data/secret", "home/data/inbox"] {
        let stat = world.buckets.stat(&world.all, &at(text), true).await;
        fails(stat, alknet_core::files::FileErrorCode::NoSuchFile);
    }
    let mut listing = world
        .buckets
        .list(&world.all, &at("home"), None)
        .await
        .unwrap();
    let page = listing.next(&world.all, 10).await.unwrap();
    assert_eq!(
        page.into_iter()
            .map(|entry| entry.name.to_string())
            .collect::<Vec<_>>(),
        ["f"]
    );
    world.put_small("inbox/letter", "hello").await.unwrap();
    assert_eq!(
        fs::read_to_string(data.join("inbox/letter")).unwrap(),
        "hello"
    );
    // A link that is put in its place later leads nowhere.
    fs::remove_dir_all(data.join("inbox")).unwrap();
    std::os::unix::fs::symlink(&data, data.join("inbox")).unwrap();
    fails(
        world
            .buckets
            .stat(&world.all, &at("inbox/secret"), true)
            .await,
        NoSuchBucket,
    );
}

#[tokio::test]
async fn branches_and_moments_are_not_of_this_kind_of_bucket() {
    let world = World::new();
    for text in ["www@dev/f", "www@@2026-11-20T10:00:00Z/f"] {
        let stat = world.buckets.stat(&world.all, &at(text), true).await;
        fails(stat, alknet_core::files::FileErrorCode::Unsupported);
    }
}
