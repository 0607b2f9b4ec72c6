//! One node per data directory.

use alknet_store::{InstanceLock, LockError};
use std::{fs, os::unix::fs::PermissionsExt};

#[test]
fn a_held_directory_is_refused_with_the_holders_process_id() {
    let dir = tempfile::tempdir().unwrap();
    let held = InstanceLock::acquire(dir.path()).unwrap();
    let error = InstanceLock::acquire(dir.path()).unwrap_err();
    let pid = std::process::id();
    assert!(
        matches!(error, LockError::Held { pid: Some(found), .. } if found == pid),
        "{error:?}"
    );
    let message = format!(
        "data directory `{}` is in use by process {pid}",
        dir.path().display()
    );
    assert_eq!(error.to_string(), message);
    drop(held);
    InstanceLock::acquire(dir.path()).unwrap();
}

#[test]
fn a_lock_file_left_by_a_dead_holder_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("lock"), "4194304\nand more").unwrap();
    let _held = InstanceLock::acquire(dir.path()).unwrap();
    let text = fs::read_to_string(dir.path().join("lock")).unwrap();
    assert_eq!(text, format!("{}\n", std::process::id()));
}

#[test]
fn the_lock_file_is_the_owners_alone() {
    let dir = tempfile::tempdir().unwrap();
    let _held = InstanceLock::acquire(dir.path()).unwrap();
    let mode = fs::metadata(dir.path().join("lock"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_missing_directory_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    assert!(
        matches!(InstanceLock::acquire(&missing), Err(LockError::Io { dir, .. }) if dir == missing)
    );
}
