//! A disk that is full, and has space again.

use super::{
    ledger::Ledger,
    writers::{Owner, Writers},
};
use crate::{
    e2e::harness::{Node, eventually},
    program::Place,
};
use serde_json::json;
use std::{
    env,
    fs::{self, File},
    io::Write,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

const CHILD: &str = "ALKNET_CLI_TEST_SPACE_CHILD";
const NAME: &str = "slow_a_full_disk_refuses_writes_and_recovers";

/// In a mount namespace of its own, whose end takes the file system with it.
#[test]
fn slow_a_full_disk_refuses_writes_and_recovers() {
    if let Ok(dir) = env::var(CHILD) {
        return on_a_small_disk(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let root = rustix::process::geteuid().is_root();
    // Who is not root is root in a namespace of users.
    let own = if root { "--mount" } else { "-rm" };
    let mut inside = Command::new("unshare");
    inside
        .args([own, "--propagation", "private", "--", "sh", "-c"])
        .arg("mount -t tmpfs -o size=64m,mode=700 tmpfs \"$1\" || exit 77; shift; exec \"$@\"")
        .arg("sh")
        .arg(dir.path())
        .arg(env::current_exe().unwrap())
        .args([
            &format!("e2e::faults::space::{NAME}"),
            "--exact",
            "--nocapture",
        ])
        .env(CHILD, dir.path())
        .stdin(Stdio::null())
        // Ended with this process, whatever ends it.
        .process_group(0);
    let said = match inside.output() {
        Ok(said) => said,
        Err(error) => return alknet_lab::skip(NAME, &format!("unshare cannot be run: {error}")),
    };
    let text = String::from_utf8_lossy(&said.stderr);
    if said.status.code() == Some(77) || text.contains("unshare failed") {
        return alknet_lab::skip(NAME, "no file system of its own can be mounted here");
    }
    let out = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success(), "{out}{text}");
}

/// A file that takes all the space there is.
struct Filler<'a>(&'a Path);

impl<'a> Filler<'a> {
    fn fill(path: &'a Path) -> Self {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(path)
            .unwrap();
        let piece = vec![0; 1 << 16];
        for piece in [&piece[..], &piece[..512]] {
            while file.write_all(piece).is_ok() {}
        }
        Self(path)
    }
}

impl Drop for Filler<'_> {
    fn drop(&mut self) {
        fs::remove_file(self.0).unwrap();
    }
}

fn on_a_small_disk(disk: &Path) {
    let mut node = Node::start_in(
        Place::within(disk),
        "home",
        "",
        &["--relay", "none", "--bind", "127.0.0.1:0"],
        None,
    );
    let filler = disk.join("filler");
    let mut ledger = Ledger::default();
    for round in 0..3 {
        let owner = Owner::of(&node);
        let writers = Writers::start(&owner, &format!("s{round}"), false);
        eventually("writes are acknowledged", || {
            (writers.noted.acknowledged() > 20).then_some(())
        });
        let filled = Filler::fill(&filler);
        eventually("a write is refused", || {
            let refused = writers.noted.refused();
            let full = |(code, message): &(String, String)| {
                code == "UNAVAILABLE" && message.contains("full")
            };
            refused.iter().any(full).then_some(())
        });
        // What changes nothing goes on: its row of the log waits in memory.
        for _ in 0..50 {
            owner.call("peers/list", json!({})).unwrap();
        }
        thread::sleep(Duration::from_millis(300));
        drop(filled);
        let before = writers.noted.acknowledged();
        eventually("writes are acknowledged again", || {
            (writers.noted.acknowledged() > before + 20).then_some(())
        });
        // The rows that waited are there, all of them.
        let query = json!({ "operation": "peers/list", "outcome": "ok", "limit": 1000 });
        eventually("the audit rows of the queries are written", || {
            let rows = owner.call("audit/list", query.clone()).unwrap();
            let rows = rows["rows"].as_array().unwrap().len();
            (rows >= 50 * (round + 1)).then_some(())
        });
        // Full once more, and killed in it.
        let filled = Filler::fill(&filler);
        thread::sleep(Duration::from_millis(100));
        node.signal(rustix::process::Signal::KILL);
        let noted = writers.end(&owner);
        node.kill();
        assert!(!node.told().contains("panicked"), "{}", node.told());
        noted.add_to(&mut ledger);
        let missing = ledger.missing_from(&node.data());
        assert!(missing.is_empty(), "round {round}: {missing:#?}");
        drop(filled);
        node.restart();
    }
    node.stop();
}
