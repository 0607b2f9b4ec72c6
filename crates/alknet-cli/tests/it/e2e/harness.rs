//! Starts nodes, pairs them, and looks at their processes.

use crate::program::{Lines, PATIENCE, Place, Said, alknet, finish, signal, wait};
use rustix::process::Signal;
use serde_json::Value;
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How a running node is configured unless a test says more: programs may run
/// also where the tests run as root.
pub(crate) fn exec_config() -> &'static str {
    if rustix::process::geteuid().is_root() {
        "[exec]\nuser = \"root\"\n"
    } else {
        ""
    }
}

/// `test/query`, which answers.
pub(crate) const ANSWERS: &str = r#"
[[operation]]
name = "test/query"
summary = "Answers."
kind = "query"
command = ["echo", "answer"]
"#;

/// `test/count`, which has no end.
pub(crate) const COUNTS: &str = r#"
[[operation]]
name = "test/count"
summary = "Counts for ever."
output = "lines"
command = ["sh", "-c", "n=0; while n=$((n+1)); do echo $n; sleep 0.01; done"]
"#;

/// Looks until it finds; fails after a minute.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        thread::sleep(Duration::from_millis(10));
    }
}

/// A node in a process of its own, killed when dropped.
pub(crate) struct Node {
    pub(crate) name: String,
    place: Place,
    /// Further words of `alknet up`, or those of `alknet relay`.
    words: Vec<String>,
    netns: Option<String>,
    /// A program that starts it, with its own words, and looks at what it does.
    under: Vec<OsString>,
    child: Option<Child>,
    /// What it printed when it was ready.
    pub(crate) status: Value,
}

impl Node {
    /// A node on loopback without relays.
    #[track_caller]
    pub(crate) fn start(name: &str, config: &str) -> Self {
        Self::start_with(
            name,
            config,
            &["--relay", "none", "--bind", "127.0.0.1:0"],
            None,
        )
    }

    /// A node with these words of `alknet up`, in a network namespace if one is
    /// named.
    #[track_caller]
    pub(crate) fn start_with(
        name: &str,
        config: &str,
        words: &[&str],
        netns: Option<&str>,
    ) -> Self {
        Self::start_in(Place::new(), name, config, words, netns)
    }

    /// A node in a place that may hold a data directory.
    #[track_caller]
    pub(crate) fn start_in(
        place: Place,
        name: &str,
        config: &str,
        words: &[&str],
        netns: Option<&str>,
    ) -> Self {
        place.configure(&format!("name = \"{name}\"\n{config}"));
        let mut node = Self {
            name: name.to_owned(),
            place,
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            netns: netns.map(str::to_owned),
            under: Vec::new(),
            child: None,
            status: Value::Null,
        };
        node.restart();
        node
    }

    /// A node on loopback without relays, in a place that may hold a data
    /// directory and a configuration, started by another program.
    #[track_caller]
    pub(crate) fn start_under(place: Place, name: &str, under: &Command) -> Self {
        // What looks at it may not be root.
        let words = ["--relay", "none", "--bind", "127.0.0.1:0", "--debuggable"];
        let under = [under.get_program()].into_iter().chain(under.get_args());
        let mut node = Self {
            name: name.to_owned(),
            place,
            words: words.map(str::to_owned).to_vec(),
            netns: None,
            under: under.map(OsString::from).collect(),
            child: None,
            status: Value::Null,
        };
        node.restart();
        node
    }

    /// Starts it again on its data directory; it must not be running.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        assert!(self.child.is_none(), "`{}` runs", self.name);
        let is_relay = self.words.first().is_some_and(|word| word == "relay");
        let words = ["up", "--json"][usize::from(is_relay)..].iter().copied();
        let (first, rest) = self.words.split_at(usize::from(is_relay));
        let words = first
            .iter()
            .map(String::as_str)
            .chain(words)
            .chain(rest.iter().map(String::as_str));
        let mut command = self.command(&words.collect::<Vec<_>>());
        if let Some((program, words)) = self.under.split_first() {
            let plain = command;
            command = Command::new(program);
            command.args(words).arg(plain.get_program());
            command.args(plain.get_args()).env_clear();
            command.stdin(Stdio::null()).stdout(Stdio::piped());
            // To find the programs that it starts.
            command.env("PATH", "/usr/local/bin:/usr/bin:/bin");
            for (name, value) in plain.get_envs() {
                command.env(name, value.unwrap_or_default());
            }
        }
        let told = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("up.stderr"))
            .unwrap();
        let mut child = command.stderr(told).spawn().unwrap();
        let lines = Lines::of(child.stdout.take().unwrap());
        self.child = Some(child);
        // If it fails, what it said is told when it is dropped.
        self.status = serde_json::from_str(&lines.next()).unwrap();
    }

    /// The same with other words of `alknet up`.
    #[track_caller]
    pub(crate) fn restart_with(&mut self, words: &[&str]) {
        self.words = words.iter().map(|word| (*word).to_owned()).collect();
        self.restart();
    }

    /// A file in this node's place.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.place.data()
    }

    /// Replaces the configuration, and makes the node read it.
    #[track_caller]
    pub(crate) fn reconfigure(&self, config: &str) {
        self.place
            .configure(&format!("name = \"{}\"\n{config}", self.name));
        self.cli(&["call", "node/reload"]).exits(0);
    }

    /// What it said on standard error so far.
    pub(crate) fn told(&self) -> String {
        fs::read_to_string(self.path("up.stderr")).unwrap()
    }

    pub(crate) fn id(&self) -> &str {
        self.status["node_id"].as_str().unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        u32::try_from(self.status["pid"].as_u64().unwrap()).unwrap()
    }

    /// An address at which it listens.
    pub(crate) fn address(&self) -> &str {
        self.status["addresses"][0].as_str().unwrap()
    }

    /// The command line of this node.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let plain = alknet(self.place.path());
        let mut command = match &self.netns {
            None => plain,
            Some(netns) => {
                let mut inside = alknet_lab::command_in(netns, plain.get_program());
                inside.env_clear().stdin(Stdio::null());
                inside.stdout(Stdio::piped()).stderr(Stdio::piped());
                for (name, value) in plain.get_envs() {
                    inside.env(name, value.unwrap_or_default());
                }
                inside
            }
        };
        command.args(words.iter().map(OsString::from));
        command
    }

    /// Runs a command to its end.
    #[track_caller]
    pub(crate) fn cli(&self, words: &[&str]) -> Said {
        self.feed(words, b"")
    }

    /// Runs a command to its end with this standard input.
    #[track_caller]
    pub(crate) fn feed(&self, words: &[&str], input: &[u8]) -> Said {
        finish(self.command(words), input)
    }

    /// Starts a command that goes on.
    pub(crate) fn spawn(&self, words: &[&str]) -> Running {
        let told = self.path(&format!("{}.stderr", unique()));
        let mut command = self.command(words);
        command
            .stdin(Stdio::piped())
            .stderr(fs::File::create(&told).unwrap());
        let mut child = command.spawn().unwrap();
        let lines = Lines::of(child.stdout.take().unwrap());
        Running { child, lines, told }
    }

    /// `peers show` of a peer.
    #[track_caller]
    pub(crate) fn peer(&self, name: &str) -> Value {
        self.cli(&["peers", "show", name, "--json"]).exits(0).json()
    }

    /// Waits until a peer is connected, and returns it.
    #[track_caller]
    pub(crate) fn connected(&self, name: &str) -> Value {
        eventually(&format!("`{}` is connected to `{name}`", self.name), || {
            let peer = self.peer(name);
            (peer["connected"] == true).then_some(peer)
        })
    }

    /// Rows of the audit log of calls that are no housekeeping of links,
    /// oldest first.
    #[track_caller]
    pub(crate) fn audit(&self, filters: &[&str]) -> Vec<Value> {
        let words = [&["audit", "--json", "-n", "1000"], filters].concat();
        let rows = self.cli(&words).exits(0).stdout;
        let rows = rows.lines().map(|row| serde_json::from_str(row).unwrap());
        rows.filter(|row: &Value| !row["operation"].as_str().unwrap().starts_with("services/"))
            .collect()
    }

    /// The most memory that it ever had, in KiB.
    pub(crate) fn memory_peak_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Command lines of the processes that it started, with their ids.
    pub(crate) fn children(&self) -> Vec<(u32, String)> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let lists =
            tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
        let ids: Vec<u32> = lists
            .flat_map(|list| {
                list.split_whitespace()
                    .map(|id| id.parse().unwrap())
                    .collect::<Vec<_>>()
            })
            .collect();
        ids.into_iter()
            .map(|id| {
                (
                    id,
                    fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default(),
                )
            })
            .map(|(id, line)| (id, line.replace('\0', " ").trim_end().to_owned()))
            .collect()
    }

    /// Whether a program with this command line runs for a caller.
    pub(crate) fn runs(&self, line: &str) -> bool {
        self.children().iter().any(|(_, found)| found == line)
    }

    pub(crate) fn signal(&self, which: Signal) {
        signal(self.child.as_ref().unwrap(), which);
    }

    /// Kills it as a crash would.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Stops it in order.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        self.ended();
    }

    /// Waits until it has ended, in order.
    #[track_caller]
    pub(crate) fn ended(&mut self) {
        let status = wait(&mut self.child.take().unwrap());
        assert!(status.success(), "{status:?}: {}", self.told());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            let told = fs::read_to_string(self.path("up.stderr")).unwrap_or_default();
            let told = if told.is_empty() {
                "nothing"
            } else {
                told.trim_end()
            };
            // Only a failing test says something.
            #[allow(clippy::print_stderr)]
            {
                eprintln!("`{}` said: {told}", self.name);
            }
        }
    }
}

/// A command that goes on, killed when dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) lines: Lines,
    told: PathBuf,
}

impl Running {
    /// Waits for its end; its exit code, what it still printed, and what it
    /// said.
    #[track_caller]
    pub(crate) fn ended(mut self) -> Ended {
        // Programs that read to the end of their input end with it.
        drop(self.child.stdin.take());
        self.code()
    }

    /// What it said so far.
    pub(crate) fn told(&self) -> String {
        fs::read_to_string(&self.told).unwrap()
    }

    /// The same while its standard input stays open.
    #[track_caller]
    pub(crate) fn code(&mut self) -> Ended {
        let status = wait(&mut self.child);
        Ended {
            code: status.code(),
            stderr: fs::read_to_string(&self.told).unwrap(),
        }
    }

    pub(crate) fn interrupt(&self) {
        signal(&self.child, Signal::INT);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if thread::panicking() {
            // Only a failing test says something.
            #[allow(clippy::print_stderr)]
            {
                eprintln!("a command said: {}", self.told());
            }
        }
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stderr: String,
}

impl Ended {
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// The code in an error that was asked for as JSON.
    #[track_caller]
    pub(crate) fn error_code(&self) -> String {
        error_code(&self.stderr)
    }
}

/// The code in an error that was asked for as JSON.
#[track_caller]
pub(crate) fn error_code(stderr: &str) -> String {
    let line = stderr.lines().last().unwrap_or_default();
    let error: Value =
        serde_json::from_str(line).unwrap_or_else(|cause| panic!("{cause}: {stderr}"));
    error["error"]["code"].as_str().unwrap().to_owned()
}

/// A text that no other call in this process returns.
fn unique() -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
        .to_string()
}

/// Two nodes that know each other and gave each other nothing.
pub(crate) struct Pair {
    pub(crate) home: Node,
    pub(crate) laptop: Node,
}

impl Pair {
    /// Both with this configuration.
    #[track_caller]
    pub(crate) fn start(config: &str) -> Self {
        let pair = Self {
            home: Node::start("home", config),
            laptop: Node::start("laptop", config),
        };
        pair.join();
        pair
    }

    /// Pairs them with an invite, and waits until they are connected.
    #[track_caller]
    pub(crate) fn join(&self) {
        let ticket = self.home.cli(&["invite", "-q"]).exits(0).stdout;
        let said = self.laptop.feed(&["join", "-"], ticket.as_bytes()).exits(0);
        assert_eq!(
            said.stdout,
            "home may here: nothing; you may on home: nothing\n"
        );
        self.laptop.connected("home");
        self.home.connected("laptop");
    }

    /// Gives the same to both.
    #[track_caller]
    pub(crate) fn grant(&self, targets: &[&str]) {
        self.home
            .cli(&[&["grant", "laptop"], targets].concat())
            .exits(0);
        self.laptop
            .cli(&[&["grant", "home"], targets].concat())
            .exits(0);
    }

    /// Each way: who calls, and who is called.
    pub(crate) fn ways(&self) -> [(&Node, &Node); 2] {
        [(&self.laptop, &self.home), (&self.home, &self.laptop)]
    }
}

/// Writes a TOML string.
pub(crate) fn toml(path: &Path) -> String {
    serde_json::to_string(path.to_str().unwrap()).unwrap()
}
