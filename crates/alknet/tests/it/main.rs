//! The examples, run as a reader would run them.

#![allow(clippy::unwrap_used)]

mod credential;
mod operations;
mod protocol;
mod serve;

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Long enough for a slow machine under load.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where cargo puts the examples of the package under test.
fn example(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let built = own.parent().and_then(Path::parent).unwrap();
    let program = built.join("examples").join(name);
    assert!(
        program.exists(),
        "`{}` is not built: cargo test -p alknet --no-run",
        program.display()
    );
    program
}

/// A program that is killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs an example to its end in an empty directory, and returns what it
/// printed.
#[track_caller]
fn run(name: &str, words: &[&str]) -> String {
    run_in(tempfile::tempdir().unwrap().path(), name, words)
}

#[track_caller]
fn run_in(place: &Path, name: &str, words: &[&str]) -> String {
    let mut command = Command::new(example(name));
    command.args(words).current_dir(place).env_clear();
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running(command.spawn().unwrap());
    let mut stdout = running.0.stdout.take().unwrap();
    let mut stderr = running.0.stderr.take().unwrap();
    let printed = thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text).unwrap()
    });
    let told = thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).map(|_| text).unwrap()
    });
    let started = Instant::now();
    let status = loop {
        if let Some(status) = running.0.try_wait().unwrap() {
            break status;
        }
        assert!(started.elapsed() < PATIENCE, "`{name}` did not end");
        thread::sleep(Duration::from_millis(10));
    };
    let told = told.join().unwrap();
    assert!(status.success(), "`{name}`: {status}: {told}");
    // Libraries print nothing: what is said on the way would be theirs.
    assert_eq!(told, "", "`{name}`");
    printed.join().unwrap()
}

#[test]
fn embed_calls_its_own_operation() {
    let printed = run("embed", &["./data"]);
    assert!(printed.ends_with(" is at 4 degrees\n"), "{printed}");
}

#[test]
fn client_calls_another_node_and_follows_it() {
    let printed = run("client", &["./a", "./b"]);
    assert_eq!(printed, "doubled: 42\ncounted: 1\ncounted: 2\ncounted: 3\n");
}

#[test]
fn files_are_written_and_read_by_another_node() {
    let printed = run("files", &["./a", "./b", "./shared"]);
    let want =
        "refused: shared/notes.txt\nwritten: 16 bytes\nlisted: \"notes.txt\"\nread: 16 of 16, 16\n";
    assert_eq!(printed, want);
}

#[test]
fn protocol_is_served_beside_the_others() {
    let printed = run("protocol", &["./a", "./b"]);
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines[..2], ["ok \"all is well\"", "ok all is well"]);
    assert!(lines[2].starts_with("error FORBIDDEN: "), "{printed}");
    assert!(lines[3].starts_with("error FORBIDDEN: "), "{printed}");
    assert_eq!(lines.len(), 4);
}

#[test]
fn operations_call_each_other() {
    let printed = run("operations", &["./data"]);
    assert_eq!(printed, "added: 1 water the roses\nnotes: 1\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn remote_comes_back_with_what_it_kept() {
    let place = tempfile::tempdir().unwrap();
    let home = alknet::Node::builder()
        .name("home")
        .data_dir(place.path().join("home"))
        .bind("127.0.0.1:0".parse().unwrap())
        .relays(["none"])
        .demo(true)
        .spawn()
        .await
        .unwrap();
    let ticket = home.invite(&["demo/greet"]).await.unwrap();
    let want = "Hello, Ada!\nrefused: `reporter` may not call `node/shutdown`: ";
    for words in [&["./kept", &ticket][..], &["./kept"]] {
        let (dir, words): (_, Vec<String>) = (
            place.path().to_owned(),
            words.iter().map(ToString::to_string).collect(),
        );
        let running = tokio::task::spawn_blocking(move || {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            run_in(&dir, "remote", &words)
        });
        let printed = running.await.unwrap();
        assert!(printed.starts_with(want), "{printed}");
    }
    let peer: serde_json::Value = home
        .client()
        .call("peers/show", &serde_json::json!({ "peer": "reporter" }))
        .await
        .unwrap();
    assert_eq!(peer["grants"], serde_json::json!(["demo/greet"]));
    home.shutdown(Duration::from_secs(1)).await;
}

/// Each example is run here: a new one has a test too.
#[test]
fn no_example_is_left_out() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "client.rs",
            "credential.rs",
            "embed.rs",
            "files.rs",
            "operations.rs",
            "protocol.rs",
            "remote.rs",
            "serve.rs"
        ]
    );
}
