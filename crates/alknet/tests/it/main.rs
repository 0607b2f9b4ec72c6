//! The examples, run as a reader would run them.

#![allow(clippy::unwrap_used)]

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
    let place = tempfile::tempdir().unwrap();
    let mut command = Command::new(example(name));
    command.args(words).current_dir(&place).env_clear();
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
fn protocol_is_served_beside_the_others() {
    let printed = run("protocol", &["./data", "--once"]);
    assert!(
        printed.starts_with("serving example/line/1 as "),
        "{printed}"
    );
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
    assert_eq!(names, ["client.rs", "embed.rs", "protocol.rs"]);
}
