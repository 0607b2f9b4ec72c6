//! Writers and readers at once.
//!
//! What is promised, and no more:
//! * of writes to one part of a file, each is there as a whole or was written
//!   over: when all are done, a block has what one writer wrote;
//! * what is appended is there once and whole, whoever else appends;
//! * a byte that is read while somebody writes it is the old or the new one.
//!   That a read beside a write sees all or nothing of it is **not** promised:
//!   Linux does not lock a page while it is read;
//! * a content that is replaced is read old or new, never mixed;
//! * of several that must be the first, or replace one version, one is.

use super::{
    Rule, Subject,
    ground::{Ground, at, read_write, small},
    rules,
};
use alknet_core::files::{
    Create, FileErrorCode as Code, OpenOptions, RenameOptions, ReplaceOptions,
};
use bytes::Bytes;
use futures::future::join_all;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

const RULES: &[Rule] = rules![
    blocks_are_one_writers,
    what_is_appended_is_there_once_and_whole,
    a_replaced_file_is_old_or_new,
    put_and_moved_files_are_old_or_new,
    one_of_many_makes_it,
    one_of_many_replaces_a_version,
    one_of_many_makes_a_directory_and_moves_there,
];

/// Checks what is promised to writers and readers that meet. Needs a runtime
/// of several threads to mean something.
///
/// # Panics
///
/// If a promise is broken; the message names all that are.
pub async fn writers_and_readers(make: impl AsyncFn() -> Subject) {
    super::check_all(make, RULES).await;
}

const BLOCK: usize = 4_096;
const BLOCKS: usize = 32;
const ROUNDS: usize = 60;

/// The byte that fills a block: which block, in the upper five bits, and who
/// wrote it when, in the lower three.
fn fill(block: usize, writer: usize, round: usize) -> u8 {
    ((block % 32) << 3 | (writer & 1) << 2 | round & 3) as u8
}

async fn blocks_are_one_writers(ground: Ground) {
    let ground = Arc::new(ground);
    let first: Vec<u8> = (0..BLOCKS)
        .flat_map(|block| [fill(block, 0, 0); BLOCK])
        .collect();
    ground.put("f", first).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let writer = |writer: usize| {
        let ground = ground.clone();
        tokio::spawn(async move {
            let file = ground.edit("f").await;
            for round in 0..ROUNDS {
                for n in 0..BLOCKS {
                    // The two meet in the middle of the file.
                    let block = if writer == 0 { n } else { BLOCKS - 1 - n };
                    let bytes = Bytes::from(vec![fill(block, writer, round); BLOCK]);
                    let offset = (block * BLOCK) as u64;
                    file.write_at(&ground.all, offset, bytes).await.unwrap();
                }
            }
        })
    };
    let reader = |offset: usize| {
        let (ground, is_over) = (ground.clone(), is_over.clone());
        tokio::spawn(async move {
            let file = ground.open("f", OpenOptions::reading()).await.unwrap();
            let mut reads = 0_u64;
            while !is_over.load(Ordering::Acquire) || reads < 10 {
                let bytes = file.read_at(&ground.all, offset as u64, BLOCKS * BLOCK);
                let bytes = bytes.await.unwrap();
                assert_eq!(bytes.len(), BLOCKS * BLOCK - offset, "the length stays");
                for (n, byte) in bytes.iter().enumerate() {
                    let block = (offset + n) / BLOCK;
                    let of = usize::from(byte >> 3);
                    assert_eq!(of, block % 32, "a byte of another block at {n}");
                }
                reads += 1;
            }
        })
    };
    let readers = [reader(0), reader(777)];
    let writers = [writer(0), writer(1)];
    for writer in writers {
        writer.await.unwrap();
    }
    is_over.store(true, Ordering::Release);
    for reader in readers {
        reader.await.unwrap();
    }
    let content = ground.get("f").await;
    assert_eq!(content.len(), BLOCKS * BLOCK);
    for (block, bytes) in content.chunks(BLOCK).enumerate() {
        let last = [0, 1].map(|writer| fill(block, writer, ROUNDS - 1));
        assert!(
            last.contains(&bytes[0]),
            "block {block} is of no last round"
        );
        assert!(
            bytes.iter().all(|byte| *byte == bytes[0]),
            "block {block} is torn"
        );
    }
}

async fn what_is_appended_is_there_once_and_whole(ground: Ground) {
    const WRITERS: usize = 4;
    const LINES: usize = 100;
    ground.put("log", "").await;
    let line = |writer: usize, n: usize| {
        // Of lengths that cross pages everywhere.
        let filler = "x".repeat((n * 37 + writer * 101) % 700);
        format!("{writer} {n} {filler}\n")
    };
    let append = async |writer: usize| {
        let options = OpenOptions {
            append: true,
            ..read_write(Create::IfMissing)
        };
        let file = ground.open("log", options).await.unwrap();
        for n in 0..LINES {
            let bytes = Bytes::from(line(writer, n));
            file.write_at(&ground.all, 0, bytes).await.unwrap();
        }
    };
    join_all((0..WRITERS).map(append)).await;
    let log = String::from_utf8(ground.get("log").await).unwrap();
    let mut found: Vec<&str> = log.split_inclusive('\n').collect();
    found.sort_unstable();
    let all = (0..WRITERS).flat_map(|writer| (0..LINES).map(move |n| line(writer, n)));
    let mut wanted: Vec<String> = all.collect();
    wanted.sort_unstable();
    assert!(found == wanted, "lines are lost, doubled or torn");
}

/// A content of one byte, whose length says which.
fn whole(byte: u8) -> Vec<u8> {
    vec![byte; 10_000 + usize::from(byte) * 100]
}

#[track_caller]
fn is_whole(content: &[u8]) {
    let byte = content[0];
    assert_eq!(content.len(), whole(byte).len(), "the length of another");
    assert!(content.iter().all(|other| *other == byte), "mixed");
}

async fn a_replaced_file_is_old_or_new(ground: Ground) {
    ground.put("f", whole(0)).await;
    let is_over = AtomicBool::new(false);
    let write = async {
        for byte in 1..=60 {
            let mut begun = ground
                .replace("f", ReplaceOptions::default())
                .await
                .unwrap();
            for part in whole(byte).chunks(3_000) {
                begun
                    .write(&ground.all, part.to_vec().into())
                    .await
                    .unwrap();
            }
            begun.commit(&ground.all).await.unwrap();
        }
        is_over.store(true, Ordering::Release);
    };
    let read = async {
        let mut reads = 0;
        while !is_over.load(Ordering::Acquire) || reads < 5 {
            is_whole(&ground.get("f").await);
            // One that is open stays what it is.
            let file = ground.open("f", OpenOptions::reading()).await.unwrap();
            let half = file.read_at(&ground.all, 0, 5_000).await.unwrap();
            let rest = file.read_at(&ground.all, 5_000, 1 << 20).await.unwrap();
            is_whole(&[half, rest].concat());
            reads += 1;
        }
    };
    futures::join!(write, read);
    is_whole(&ground.get("f").await);
    assert_eq!(ground.names(&super::ground::path("main")).await.len(), 1);
}

async fn put_and_moved_files_are_old_or_new(ground: Ground) {
    ground.put("f", whole(0)).await;
    let is_over = AtomicBool::new(false);
    let write = async {
        for byte in 1..=60 {
            if byte % 2 == 0 {
                ground.put("f", whole(byte)).await;
                continue;
            }
            ground.put("beside", whole(byte)).await;
            let options = RenameOptions { replace: true };
            let (from, to) = (at("beside"), at("f"));
            let (files, all) = (&ground.files, &ground.all);
            files.rename(all, &from, &to, options).await.unwrap();
        }
        is_over.store(true, Ordering::Release);
    };
    let read = async {
        let mut reads = 0;
        while !is_over.load(Ordering::Acquire) || reads < 5 {
            is_whole(&ground.get("f").await);
            reads += 1;
        }
    };
    futures::join!(write, read);
}

async fn one_of_many_makes_it(ground: Ground) {
    let (files, all) = (&ground.files, &ground.all);
    let make = async |n: usize| {
        let file = at("new");
        match n % 3 {
            0 => {
                let options = OpenOptions {
                    ..read_write(Create::New)
                };
                files.open(all, &file, options).await.map(drop)
            }
            1 => {
                let options = ReplaceOptions {
                    create: Create::New,
                    ..ReplaceOptions::default()
                };
                match files.replace(all, &file, options).await {
                    Ok(begun) => begun.commit(all).await.map(drop),
                    Err(error) => Err(error),
                }
            }
            _ => {
                let mut put = small(file, "x");
                put.create = Create::New;
                files.put_small(all, vec![put]).await.remove(0).map(drop)
            }
        }
    };
    for _ in 0..20 {
        let outcomes = join_all((0..12).map(make)).await;
        let (made, failed): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
        assert_eq!(made.len(), 1, "one makes it");
        for error in failed.into_iter().filter_map(Result::err) {
            assert_eq!(error.code(), Some(Code::FileExists), "{error}");
        }
        let how = alknet_core::files::Removal::File;
        files.remove(all, &at("new"), how).await.unwrap();
    }
}

async fn one_of_many_replaces_a_version(ground: Ground) {
    let (files, all) = (&ground.files, &ground.all);
    ground.put("f", "0").await;
    for round in 1..=10 {
        let version = ground.stat("f").await.version;
        let replace = async |n: usize| {
            let options = ReplaceOptions {
                if_version: Some(version.clone()),
                ..ReplaceOptions::default()
            };
            let mut begun = files.replace(all, &at("f"), options).await?;
            begun.write(all, format!("{round} {n}").into()).await?;
            begun.commit(all).await.map(|_| n)
        };
        let outcomes = join_all((0..12).map(replace)).await;
        let (made, failed): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
        let [Ok(winner)] = &made[..] else {
            panic!("{} of them replaced one version", made.len());
        };
        assert_eq!(
            ground.get("f").await,
            format!("{round} {winner}").as_bytes()
        );
        for error in failed.into_iter().filter_map(Result::err) {
            assert_eq!(error.code(), Some(Code::FileChanged), "{error}");
        }
    }
}

async fn one_of_many_makes_a_directory_and_moves_there(ground: Ground) {
    let (files, all) = (&ground.files, &ground.all);
    let make = async |_| files.make_directory(all, &at("d"), None).await;
    let outcomes = join_all((0..12).map(make)).await;
    let made = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(made, 1);
    for n in 0..12 {
        ground.put(&format!("f{n}"), format!("{n}")).await;
    }
    let move_there = async |n: usize| {
        let options = RenameOptions::default();
        let (from, to) = (at(&format!("f{n}")), at("d/f"));
        files.rename(all, &from, &to, options).await.map(|()| n)
    };
    let outcomes = join_all((0..12).map(move_there)).await;
    let moved: Vec<_> = outcomes.into_iter().filter_map(Result::ok).collect();
    let [winner] = moved[..] else {
        panic!("{} moved to one name", moved.len());
    };
    assert_eq!(ground.get("d/f").await, winner.to_string().as_bytes());
    for n in (0..12).filter(|n| *n != winner) {
        assert_eq!(ground.get(&format!("f{n}")).await, n.to_string().as_bytes());
    }
}
