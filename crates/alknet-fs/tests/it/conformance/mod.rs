//! Host buckets do what every bucket must, and what the model says; and what
//! does not is found.

mod faults;

use alknet_fs::{BucketConfig, Buckets, ByteSize, FilesConfig};
use alknet_testkit::files::{
    Features, Planted, Subject, file_service,
    model::{Sequences, follows_the_model},
    races::writers_and_readers,
};
use futures::FutureExt;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::Path,
    sync::Arc,
};
use tempfile::TempDir;

/// Host buckets in a fresh directory.
fn subject(directory: TempDir) -> Subject {
    let of = |name: &str| {
        let path = directory.path().join(name);
        fs::create_dir(&path).unwrap();
        BucketConfig::new(name, path)
    };
    let (main, other) = (of("main"), of("other"));
    let mut small = of("small");
    small.quota = Some(ByteSize::new(Subject::SMALL_BYTES));
    small.quota_entries = Some(Subject::SMALL_ENTRIES);
    let mut fixed = of("fixed");
    fixed.read_only = true;
    fs::write(fixed.path.join("kept"), "kept").unwrap();
    fs::create_dir(fixed.path.join("empty")).unwrap();
    fs::create_dir(fixed.path.join("full")).unwrap();
    fs::write(fixed.path.join("full/in"), "in").unwrap();
    let root = main.path.clone();
    let buckets = [main, other, small, fixed];
    let service = Buckets::new(&FilesConfig::default(), &buckets, None).unwrap();
    Subject {
        service,
        features: Features::all(),
        plant: Some(Arc::new(move |path, what| plant(&root.join(path), what))),
        keep: Box::new(directory),
    }
}

fn plant(at: &Path, what: Planted<'_>) {
    match what {
        Planted::Symlink(target) => symlink(OsStr::from_bytes(target), at).unwrap(),
        Planted::Pipe => mknodat(CWD, at, FileType::Fifo, Mode::RUSR, 0).unwrap(),
    }
}

/// In memory where that is possible: thousands of sequences wait for no disk.
fn quick() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_host_buckets_do_what_every_bucket_must() {
    file_service(async || subject(tempfile::tempdir().unwrap())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_buckets_keep_what_is_promised_to_writers_and_readers() {
    writers_and_readers(async || subject(tempfile::tempdir().unwrap())).await;
}

fn follow_the_model(count: u32, seed: u64) {
    let sequences = Sequences {
        count,
        calls_max: 40,
        seed,
        shrinks_max: 5_000,
    };
    follows_the_model(|| async { subject(quick()) }.boxed(), sequences);
}

#[test]
fn slow_host_buckets_follow_the_model() {
    // The same ones each time: what fails was changed.
    follow_the_model(300, 6);
}

#[test]
fn slow_full_host_buckets_follow_the_model() {
    // Others each time; those that fail are known by their seed.
    follow_the_model(20_000, std::process::id().into());
}
