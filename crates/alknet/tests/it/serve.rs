//! The example that serves until it is told to stop.

use super::{PATIENCE, Running, example};
use alknet::{Client, ProgramKey, Remote, storage::PeerAddresses};
use futures::StreamExt;
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::DirBuilderExt,
    path::Path,
    process::{ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A data directory on loopback.
fn data(place: &Path) -> std::path::PathBuf {
    let dir = place.join("data");
    fs::DirBuilder::new().mode(0o700).create(&dir).unwrap();
    let config = "[network]\nbind = \"127.0.0.1:0\"\nrelays = []\n";
    fs::write(dir.join("alknet.toml"), config).unwrap();
    dir
}

fn start(dir: &Path) -> Running {
    let mut command = Command::new(example("serve"));
    command.arg(dir).env_clear().stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Running(command.spawn().unwrap())
}

/// Starts it, and waits until it says that it runs.
fn started(dir: &Path) -> (Running, BufReader<ChildStdout>) {
    let mut running = start(dir);
    let mut told = BufReader::new(running.0.stdout.take().unwrap());
    let mut line = String::new();
    told.read_line(&mut line).unwrap();
    assert!(line.ends_with(" is running\n"), "{line:?}");
    (running, told)
}

fn ends(running: &mut Running) -> bool {
    let started = Instant::now();
    loop {
        if let Some(status) = running.0.try_wait().unwrap() {
            return status.success();
        }
        assert!(started.elapsed() < PATIENCE, "it does not end");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The node's owner, as the command line is.
async fn owner(dir: &Path) -> Remote {
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
    let key = bytes(read("owner.key").trim());
    let runtime: Value = serde_json::from_str(&read("runtime.json")).unwrap();
    let addresses = PeerAddresses {
        direct: serde_json::from_value(runtime["sockets"].clone()).unwrap(),
        relays: Vec::new(),
    };
    let node_id = bytes(runtime["node_id"].as_str().unwrap());
    let key = ProgramKey::from_bytes(&key);
    Remote::connect(&key, &node_id, &addresses).await.unwrap()
}

fn bytes(hexadecimal: &str) -> [u8; 32] {
    let byte = |at: usize| u8::from_str_radix(&hexadecimal[2 * at..2 * at + 2], 16).unwrap();
    std::array::from_fn(byte)
}

async fn log(client: &Client) -> Vec<Value> {
    let input = json!({ "follow": false });
    let lines = client.subscribe::<_, Value>("node/logs", &input).await;
    lines.unwrap().map(Result::unwrap).collect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_has_a_log_and_stops_when_its_owner_says_so() {
    let place = tempfile::tempdir().unwrap();
    let dir = data(place.path());
    let (mut running, _told) = started(&dir);
    let owner = owner(&dir).await;
    assert!(!log(owner.client()).await.is_empty());
    let stopping: Value = owner
        .client()
        .call("node/shutdown", &json!({}))
        .await
        .unwrap();
    assert_eq!(stopping, json!({ "stopping": true }));
    assert!(ends(&mut running));
    assert!(!dir.join("runtime.json").exists());
}

#[test]
fn serve_stops_in_order_on_signals() {
    let place = tempfile::tempdir().unwrap();
    let dir = data(place.path());
    for signal in ["INT", "TERM"] {
        let (mut running, _told) = started(&dir);
        let kill = format!("kill -{signal} {}", running.0.id());
        let sent = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(sent.success());
        assert!(ends(&mut running), "{signal}");
        assert!(!dir.join("runtime.json").exists(), "{signal}");
    }
}

#[test]
fn serve_says_why_it_does_not_start_and_what_helps() {
    let place = tempfile::tempdir().unwrap();
    let dir = data(place.path());
    let (_first, _told) = started(&dir);
    let mut second = start(&dir);
    assert!(!ends(&mut second));
    let mut said = String::new();
    let mut stderr = second.0.stderr.take().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("error: "), "{said}");
    assert_eq!(
        lines[1..],
        ["hint: stop it with `alknet down`, or use another --data-dir"],
        "{said}"
    );
}
