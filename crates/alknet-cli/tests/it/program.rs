//! Runs `alknet` and looks at what it says.

use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Long enough for a slow machine under load; nothing waits so long when it
/// works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a finished command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{self:?}");
        self
    }

    /// Standard output as one JSON value.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// The program: the one built with the tests, unless `ALKNET_TEST_BIN` names
/// another, of a release build for long proofs.
pub(crate) fn program() -> PathBuf {
    let named = std::env::var_os("ALKNET_TEST_BIN");
    named.map_or_else(|| env!("CARGO_BIN_EXE_alknet").into(), PathBuf::from)
}

/// The program, free of the settings of whoever runs the tests.
pub(crate) fn alknet(dir: &Path) -> Command {
    let mut command = Command::new(program());
    command
        .env_clear()
        .env("HOME", dir)
        .env("ALKNET_DATA_DIR", dir.join("data"));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Feeds a command and waits for its end.
pub(crate) fn finish(mut command: Command, input: &[u8]) -> Said {
    command.stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeding = thread::spawn(move || {
        // It may not read all of it, or any.
        let _ = stdin.write_all(&input);
    });
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let told = thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).map(|_| text).unwrap()
    });
    let mut out = Vec::new();
    stdout.read_to_end(&mut out).unwrap();
    let status = wait(&mut child);
    feeding.join().unwrap();
    Said {
        status,
        stdout: String::from_utf8(out).unwrap(),
        stderr: told.join().unwrap(),
    }
}

/// Waits for the end of a process, but not for ever.
pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("the program did not end in time");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Standard output line by line, with a limit on how long a line may take.
pub(crate) struct Lines(mpsc::Receiver<String>);

impl Lines {
    pub(crate) fn of(stdout: ChildStdout) -> Self {
        let (tx, rx) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { break };
                if tx.send(line).is_err() {
                    break;
                }
            }
        });
        Self(rx)
    }

    #[track_caller]
    pub(crate) fn next(&self) -> String {
        self.0.recv_timeout(PATIENCE).expect("another line")
    }

    /// All that is left.
    pub(crate) fn rest(self) -> Vec<String> {
        self.0.iter().collect()
    }
}

/// A directory for a data directory and other files.
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// The same below an existing directory.
    pub(crate) fn within(parent: &Path) -> Self {
        Self {
            dir: tempfile::tempdir_in(parent).unwrap(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    pub(crate) fn run(&self, words: &[&str]) -> Said {
        self.feed(words, b"")
    }

    pub(crate) fn feed(&self, words: &[&str], input: &[u8]) -> Said {
        let mut command = alknet(self.path());
        command.args(words);
        finish(command, input)
    }

    /// Writes `alknet.toml`.
    pub(crate) fn configure(&self, text: &str) {
        std::fs::create_dir_all(self.data()).unwrap();
        std::fs::write(self.data().join("alknet.toml"), text).unwrap();
    }

    /// Lets it run programs, also where the tests run as root.
    pub(crate) fn configure_exec(&self) {
        if rustix::process::geteuid().is_root() {
            self.configure("[exec]\nuser = \"root\"\n");
        }
    }
}

/// A node in the foreground, killed when dropped.
pub(crate) struct Up {
    pub(crate) place: Place,
    child: Child,
    pub(crate) status: Value,
    stdout: Lines,
}

impl Up {
    /// Starts a node with example operations.
    pub(crate) fn start() -> Self {
        Self::start_in(Place::new())
    }

    pub(crate) fn start_in(place: Place) -> Self {
        let mut command = alknet(place.path());
        command.args([
            "up",
            "--json",
            "--demo",
            "--relay",
            "none",
            "--bind",
            "127.0.0.1:0",
        ]);
        let stderr = std::fs::File::create(place.path().join("up.stderr")).unwrap();
        let mut child = command.stderr(stderr).spawn().unwrap();
        let stdout = Lines::of(child.stdout.take().unwrap());
        let Ok(line) = stdout.0.recv_timeout(PATIENCE) else {
            let _ = child.kill();
            let told = std::fs::read_to_string(place.path().join("up.stderr")).unwrap();
            panic!("the node did not start: {told}");
        };
        Self {
            place,
            child,
            status: serde_json::from_str(&line).unwrap(),
            stdout,
        }
    }

    pub(crate) fn run(&self, words: &[&str]) -> Said {
        self.place.run(words)
    }

    /// What it said on standard error so far.
    pub(crate) fn told(&self) -> String {
        std::fs::read_to_string(self.place.path().join("up.stderr")).unwrap()
    }

    pub(crate) fn signal(&self, which: rustix::process::Signal) {
        signal(&self.child, which);
    }

    /// Waits for its end, and returns what is left of its output.
    pub(crate) fn ended(mut self) -> (ExitStatus, Vec<String>, Place) {
        let status = wait(&mut self.child);
        let stdout = std::mem::replace(&mut self.stdout, Lines(mpsc::channel().1));
        let place = std::mem::replace(&mut self.place, Place::new());
        (status, stdout.rest(), place)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
