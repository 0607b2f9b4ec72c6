//! Host buckets do what every bucket must, and what the model says.

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
async fn host_buckets_do_what_every_bucket_must() {
    file_service(async || subject(tempfile::tempdir().unwrap())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_buckets_keep_what_is_promised_to_writers_and_readers() {
    writers_and_readers(async || subject(tempfile::tempdir().unwrap())).await;
}

#[test]
fn host_buckets_follow_the_model() {
    // A seed of its own each time finds more; one that is known does not fail
    // where nothing was changed.
    let is_full = std::env::var_os("ALKNET_TEST_FULL").is_some();
    let seed = match is_full {
        true => std::process::id().into(),
        false => 6,
    };
    let sequences = Sequences {
        count: if is_full { 20_000 } else { 300 },
        calls_max: 40,
        seed,
    };
    follows_the_model(|| async { subject(quick()) }.boxed(), sequences);
}
