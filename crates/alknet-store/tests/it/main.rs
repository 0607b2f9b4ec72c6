//! The store on a real file system.
#![allow(clippy::unwrap_used)]

mod backup;
mod bans;
mod burst;
mod conformance;
mod crash;
mod credentials;
mod durability;
mod format;
mod format_2;
mod lock;
mod open;
mod places;
mod power;
mod support;
mod writer;

use alknet_store::Store;
use tempfile::TempDir;

/// A new store in a directory of its own.
fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("alknet.db")).unwrap();
    (dir, store)
}

/// A random number, different in every run.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}
