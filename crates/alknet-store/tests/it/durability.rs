//! The disk has it before the caller hears of it. A kill keeps what the
//! system has cached, so only the system calls can tell.

use crate::support::skip;
use alknet_core::{
    AuditRow,
    storage::{AuditLog, Timestamp},
};
use alknet_store::{OpenOptions, Store};
use std::{
    env,
    fs::{self, File},
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

const CHILD: &str = "ALKNET_STORE_TEST_SYNC_CHILD";
const NAME: &str = "slow_the_log_is_synced_before_each_reply";
const REPLIES: usize = 5;

#[test]
fn slow_the_log_is_synced_before_each_reply() {
    if let Ok(order) = env::var(CHILD) {
        let (sync, dir) = order.split_once(':').unwrap();
        return append_and_acknowledge(Path::new(dir), sync == "off");
    }
    let Some(durable) = trace("full") else { return };
    let Some(careless) = trace("off") else { return };
    assert_eq!(synced_before_reply(&durable), [true; REPLIES], "{durable}");
    // The same program without waiting for the disk: the test can fail.
    assert_eq!(
        synced_before_reply(&careless),
        [false; REPLIES],
        "{careless}"
    );
}

fn append_and_acknowledge(dir: &Path, synchronous_off: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store =
            Store::open_with(&dir.join("alknet.db"), OpenOptions { synchronous_off }).unwrap();
        let mut replies = File::create(dir.join("replies")).unwrap();
        // Everything that opening wrote is behind this line.
        replies.write_all(b"opened\n").unwrap();
        for n in 0..REPLIES {
            store
                .append(vec![AuditRow::event(Timestamp(0), "owner", "a/b")])
                .await
                .unwrap();
            replies
                .write_all(format!("reply {n}\n").as_bytes())
                .unwrap();
        }
        store.close().await;
    });
}

/// The system calls of a child, or `None` where they cannot be traced.
fn trace(sync: &str) -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("trace");
    let child = Command::new("strace")
        .args(["-f", "-y", "-e", "trace=fsync,fdatasync,write", "-o"])
        .arg(&out)
        .arg(env::current_exe().unwrap())
        .args([&format!("durability::{NAME}"), "--exact", "--nocapture"])
        .env(CHILD, format!("{sync}:{}", dir.path().display()))
        .stdin(Stdio::null())
        .output();
    let child = match child {
        Ok(child) => child,
        Err(error) => return skip(NAME, &format!("strace cannot be run: {error}")),
    };
    let said = String::from_utf8_lossy(&child.stderr);
    if said.contains("PTRACE") && said.contains("not permitted") {
        return skip(NAME, "tracing is not permitted here");
    }
    assert!(child.status.success(), "{said}");
    Some(fs::read_to_string(out).unwrap())
}

/// For each reply, whether SQLite's log was synced since the one before.
fn synced_before_reply(trace: &str) -> Vec<bool> {
    let mut replies = Vec::new();
    let mut synced = false;
    // Threads whose sync has begun and not ended, by strace's first column.
    let mut syncing: Vec<&str> = Vec::new();
    for line in trace.lines() {
        let thread = line.split_whitespace().next().unwrap_or_default();
        let is_sync = line.contains("fsync(") || line.contains("fdatasync(");
        if is_sync && line.contains("alknet.db-wal") {
            if line.contains("<unfinished") {
                syncing.push(thread);
            } else {
                synced |= line.ends_with("= 0");
            }
        } else if line.contains("sync resumed>") && syncing.contains(&thread) {
            syncing.retain(|other| *other != thread);
            synced |= line.ends_with("= 0");
        } else if line.contains("write(") && line.contains("\"reply ") {
            replies.push(std::mem::take(&mut synced));
        } else if line.contains("write(") && line.contains("\"opened") {
            synced = false;
        }
    }
    replies
}
