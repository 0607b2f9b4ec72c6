//! Calls that nobody waits for any more.

use super::world::{World, at, names};
use alknet_core::files::{CopyOptions, Create, FileService, OpenOptions, ReplaceOptions};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

/// Polls a future so often at most, with the time between polls that blocking
/// work may take; whether it came to its end.
async fn only_so_far<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..polls {
        if let Poll::Ready(done) = future.as_mut().poll(&mut context) {
            return Some(done);
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    None
}

async fn settles(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_has_its_old_content_or_the_new_one() {
    let seed = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    let world = World::new();
    let (old, new) = (vec![b'o'; 300_000], vec![b'n'; 500_000]);
    let (mut cut, mut done) = (0, 0);
    for round in 0..150 {
        world.put("www/f", &old);
        let resume = (round % 3 == 0).then(|| "text".to_owned());
        let options = ReplaceOptions {
            resume,
            ..ReplaceOptions::default()
        };
        let is_resumable = options.resume.is_some();
        let replace = async {
            let mut replacement = world.replace("www/f", options).await.unwrap();
            replacement.rewind(&world.all, 0).await.unwrap();
            for part in new.chunks(100_000) {
                replacement
                    .write(&world.all, part.to_vec().into())
                    .await
                    .unwrap();
            }
            replacement.commit(&world.all).await.unwrap();
        };
        match only_so_far(random.random_range(1..60), replace).await {
            Some(()) => done += 1,
            None => cut += 1,
        }
        // What was begun comes to its end, and nothing else is left.
        settles(
            &format!("seed {seed}, round {round}: something is left"),
            || {
                let names = names(&world.host("www"));
                names == ["f"] || (is_resumable && names.len() == 2)
            },
        )
        .await;
        let found = std::fs::read(world.host("www/f")).unwrap();
        assert!(
            found == old || found == new,
            "seed {seed}, round {round}: mixed"
        );
        world.buckets.collect(&world.all, &at("www")).await.unwrap();
    }
    assert!(cut > 10 && done > 0, "{cut} cut, {done} done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_cut_leaves_nothing() {
    let world = World::new();
    world.put("www/from", vec![7; 3_000_000]);
    for polls in 1..30 {
        let (from, to) = (at("www/from"), at("www/to"));
        let options = CopyOptions::default();
        let copy = world.buckets.copy(&world.all, &from, &to, options);
        let copied = only_so_far(polls, copy).await;
        if copied.is_some() {
            assert_eq!(
                std::fs::read(world.host("www/to")).unwrap(),
                vec![7; 3_000_000]
            );
        }
        settles("something is left", || {
            names(&world.host("www"))
                .iter()
                .all(|name| !name.starts_with(".alknet"))
        })
        .await;
        std::fs::remove_file(world.host("www/to")).ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_that_is_cut_goes_on_where_it_was() {
    let world = World::new();
    for file in 0..2_000 {
        world.put(&format!("www/{file}"), "");
    }
    let mut listing = world
        .buckets
        .list(&world.all, &at("www"), None)
        .await
        .unwrap();
    let (mut told, mut cuts) = (Vec::new(), 0);
    for round in 0.. {
        // Every other page is given up on in the middle.
        if round % 2 == 0 {
            let lost = only_so_far(1, listing.next(&world.all, 50)).await;
            cuts += usize::from(lost.is_none());
            told.extend(lost.map(Result::unwrap).unwrap_or_default());
            continue;
        }
        let page = listing.next(&world.all, 50).await.unwrap();
        if page.is_empty() {
            break;
        }
        told.extend(page);
    }
    assert!(cuts > 5, "{cuts}");
    let mut names: Vec<_> = told.into_iter().map(|entry| entry.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 2_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_is_not_used_up_by_what_was_cut() {
    let world = World::limited(Some(1_000_000), Some(3));
    for polls in 1..40 {
        let put = async {
            let options = ReplaceOptions {
                bytes: Some(900_000),
                ..ReplaceOptions::default()
            };
            let mut new = world.replace("www/f", options).await.unwrap();
            new.write(&world.all, vec![1; 500_000].into())
                .await
                .unwrap();
        };
        only_so_far(polls, put).await;
        settles("something is left", || names(&world.host("www")).is_empty()).await;
    }
    // Claims are given back when the last step ends.
    let start = Instant::now();
    while let Err(error) = world.put_small("www/all", vec![0; 1_000_000]).await {
        assert!(start.elapsed() < Duration::from_secs(20), "{error}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let options = OpenOptions::writing(Create::Never);
    let file = world.open("www/all", options).await;
    assert!(
        file.write_at(&world.all, 1_000_000, "x".into())
            .await
            .is_err()
    );
}
