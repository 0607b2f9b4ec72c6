//! The real `alknet` program in a machine of the lab: started, asked and
//! stopped through its command line only.

use super::ScenarioError;
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Longest that a command which should just answer may take: a debug build on
/// a loaded machine takes a tenth of it.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks at something without events.
const LOOK: Duration = Duration::from_millis(20);

/// What a finished command said.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) code: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// How a program is put into a machine: makes the command that starts it
/// there.
pub(super) type Enter = Box<dyn Fn(&Path) -> Command + Send + Sync>;

/// An installation of `alknet` in one machine: a data directory, and the node
/// on it while it runs.
pub(super) struct Seat {
    pub(super) name: String,
    alknet: PathBuf,
    enter: Enter,
    dir: TempDir,
    /// Further variables of everything that is started.
    pub(super) env: Vec<(String, String)>,
    node: Option<Child>,
}

impl Seat {
    /// A seat without a data directory yet.
    ///
    /// # Errors
    ///
    /// [`ScenarioError::Io`] if there is no room for one.
    pub(super) fn new(name: &str, alknet: &Path, enter: Enter) -> Result<Self, ScenarioError> {
        let dir = tempfile::Builder::new()
            .prefix("alknet-scenario-")
            .tempdir()
            .map_err(|source| ScenarioError::io("make a directory", source))?;
        Ok(Self {
            name: name.to_owned(),
            alknet: alknet.to_owned(),
            enter,
            dir,
            env: Vec::new(),
            node: None,
        })
    }

    /// A file beside the data directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the configuration.
    pub(super) fn configure(&self, text: &str) -> Result<(), ScenarioError> {
        let data = self.path("data");
        fs::create_dir_all(&data)
            .and_then(|()| restrict(&data))
            .and_then(|()| fs::write(data.join("alknet.toml"), text))
            .map_err(|source| ScenarioError::io("write a configuration", source))
    }

    /// The program with these words, its streams captured.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = (self.enter)(&self.alknet);
        command
            .env_clear()
            .env("HOME", self.dir.path())
            .env("ALKNET_DATA_DIR", self.path("data"))
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end, whatever that is.
    pub(super) fn run(&self, words: &[&str], input: &[u8]) -> Result<Said, ScenarioError> {
        let mut command = self.command(words);
        command.stdin(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|source| ScenarioError::io("start a program", source))?;
        let stdin = child.stdin.take();
        let input = input.to_vec();
        let feeding = thread::spawn(move || {
            // It may not read all of it, or any.
            stdin.map(|mut stdin| stdin.write_all(&input))
        });
        let out = child.stdout.take().map(read_all);
        let err = child.stderr.take().map(read_all);
        let code = wait(&mut child, PATIENCE).ok_or_else(|| {
            let _ = child.kill();
            let _ = child.wait();
            ScenarioError::NotInTime {
                what: format!("`alknet {}` at `{}`", words.join(" "), self.name),
                seconds: PATIENCE.as_secs(),
            }
        })?;
        let _ = feeding.join();
        Ok(Said {
            code,
            stdout: joined(out),
            stderr: joined(err),
        })
    }

    /// Runs a command that must succeed; what it printed.
    pub(super) fn cli(&self, words: &[&str]) -> Result<String, ScenarioError> {
        self.feed(words, b"")
    }

    /// The same with this standard input.
    pub(super) fn feed(&self, words: &[&str], input: &[u8]) -> Result<String, ScenarioError> {
        let said = self.run(words, input)?;
        if said.code == Some(0) {
            return Ok(said.stdout);
        }
        Err(ScenarioError::Program {
            command: format!("alknet {}", words.join(" ")),
            at: self.name.clone(),
            said: format!("exit {:?}: {}", said.code, said.stderr.trim()),
        })
    }

    /// Runs a command that must succeed and prints one JSON value.
    pub(super) fn json(&self, words: &[&str]) -> Result<Value, ScenarioError> {
        let text = self.cli(&[words, &["--json"]].concat())?;
        serde_json::from_str(&text).map_err(|error| ScenarioError::Program {
            command: format!("alknet {}", words.join(" ")),
            at: self.name.clone(),
            said: format!("no JSON ({error}): {text}"),
        })
    }

    /// Makes the data directory, and says the key of the node.
    pub(super) fn init(&self) -> Result<String, ScenarioError> {
        let made = self.json(&["init"])?;
        text_of(&made, "node_id").ok_or_else(|| ScenarioError::Program {
            command: "alknet init".into(),
            at: self.name.clone(),
            said: format!("no `node_id`: {made}"),
        })
    }

    /// Starts the node with these words, `up` or `relay` the first of them, and
    /// waits until it is ready: what it then prints.
    pub(super) fn start(&mut self, words: &[&str]) -> Result<Value, ScenarioError> {
        let told = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("node.stderr"))
            .map_err(|source| ScenarioError::io("open a log", source))?;
        let mut command = self.command(&[words, &["--json"]].concat());
        let mut child = command
            .stderr(told)
            .spawn()
            .map_err(|source| ScenarioError::io("start a node", source))?;
        let lines = child.stdout.take().map(Lines::of);
        self.node = Some(child);
        let line = lines.as_ref().and_then(|lines| lines.next(PATIENCE));
        let ready = line.and_then(|line| serde_json::from_str(&line).ok());
        ready.ok_or_else(|| ScenarioError::Program {
            command: format!("alknet {}", words.join(" ")),
            at: self.name.clone(),
            said: self.told(),
        })
    }

    /// What its node said on standard error so far.
    pub(super) fn told(&self) -> String {
        fs::read_to_string(self.path("node.stderr")).unwrap_or_default()
    }

    /// Kills its node as a power cut would.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.node.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Only the owner may look into a data directory.
fn restrict(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

/// A text field of a JSON object.
pub(super) fn text_of(value: &Value, field: &str) -> Option<String> {
    value.get(field)?.as_str().map(str::to_owned)
}

/// The code of an error that was asked for as JSON.
pub(super) fn error_code(stderr: &str) -> Option<String> {
    let line = stderr.lines().rev().find(|line| line.starts_with('{'))?;
    let error: Value = serde_json::from_str(line).ok()?;
    text_of(error.get("error")?, "code")
}

/// Waits for the end of a process; its exit code, or `None` if it goes on.
pub(super) fn wait(child: &mut Child, most: Duration) -> Option<Option<i32>> {
    let started = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.code()),
            Ok(None) if started.elapsed() < most => thread::sleep(LOOK),
            _ => return None,
        }
    }
}

/// Looks until it finds.
pub(super) fn until<T>(
    what: &str,
    most: Duration,
    mut look: impl FnMut() -> Result<Option<T>, ScenarioError>,
) -> Result<T, ScenarioError> {
    let started = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if started.elapsed() > most {
            return Err(ScenarioError::NotInTime {
                what: what.to_owned(),
                seconds: most.as_secs(),
            });
        }
        thread::sleep(LOOK);
    }
}

type Reading = thread::JoinHandle<String>;

fn read_all(mut from: impl std::io::Read + Send + 'static) -> Reading {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came until then is what there is.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn joined(reading: Option<Reading>) -> String {
    reading
        .and_then(|reading| reading.join().ok())
        .unwrap_or_default()
}

/// Standard output line by line.
pub(super) struct Lines(Receiver<String>);

impl Lines {
    pub(super) fn of(stdout: ChildStdout) -> Self {
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

    /// The next line, if there is one in time.
    pub(super) fn next(&self, most: Duration) -> Option<String> {
        self.0.recv_timeout(most).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_read_from_the_last_object() {
        let said = "note\n{\"error\":{\"code\":\"LOST\",\"message\":\"m\"}}\n";
        assert_eq!(error_code(said).as_deref(), Some("LOST"));
        assert_eq!(error_code("error: nothing"), None);
    }
}
