//! The guides, typed from top to bottom. In their fences,
//!
//! * `sh NAME` is typed at the machine of that name, from its home directory;
//! * `sh NAME &` is typed there and goes on until the guide ends;
//! * `text` behind one of these is what comes out, `…` standing for anything
//!   within a line and, alone, for any lines; if it tells of an `error:` that
//!   no `||` catches, the last command fails;
//! * `toml NAME` is added to the machine's configuration, `toml` is checked as
//!   one of its own, and `toml Cargo.toml` against the workspace's;
//! * `ini` is a unit file, whose command is started and stopped;
//! * `rust` is quoted from a program that another test runs;
//! * `console` is typed by nobody: it takes root, or programs that are not here.
//!
//! A ticket that was printed takes the place of `alkinvite1...`, words that
//! were printed are in `words.txt`. For ports that a guide names there are free
//! ones, and on 8000 a web server says hello.

use super::{
    document::{Block, Document, repository, sh, shell},
    harness::exec_config,
};
use crate::program::{PATIENCE, Place, signal, wait};
use rustix::process::Signal;
use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::PathBuf,
    process::Child,
    thread,
    time::{Duration, Instant},
};

/// What the tests need and no reader does, behind what a guide configures.
const TESTS_NEED: &str = "\n# Of the test.\n[network]\nbind = \"127.0.0.1:0\"\nrelays = []\n";

/// Ten times the second within which links, listings and the audit log follow.
const FOLLOWS: Duration = Duration::from_secs(10);

/// Ports that guides name: a free one, and one where a web server listens.
const PORTS: [&str; 2] = ["8080", "8000"];

/// A machine of a guide, with its home directory.
struct Machine(Place);

impl Machine {
    fn new() -> Self {
        let machine = Self(Place::new());
        machine.configure("");
        machine
    }

    fn data(&self) -> PathBuf {
        self.0.path().join(".local/share/alknet")
    }

    /// What [`SRV`] is here.
    fn srv(&self) -> String {
        self.0.path().join("srv/www").display().to_string()
    }

    /// Adds to the configuration.
    fn configure(&self, block: &str) {
        let (dir, file) = (self.data(), self.data().join("alknet.toml"));
        fs::create_dir_all(&dir).unwrap();
        let text = fs::read_to_string(&file).unwrap_or_default();
        let text = text.split(TESTS_NEED).next().unwrap();
        let gap = if text.is_empty() { "" } else { "\n" };
        let block = with_account(block).replace(SRV, &self.srv());
        let mut text = format!("{text}{gap}{block}");
        let exec = match text.contains("[exec]") {
            true => "",
            false => exec_config(),
        };
        text.push_str(&format!("{TESTS_NEED}{exec}"));
        fs::write(file, text).unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Every node that was started here, wherever its data is.
        let dirs = [".local/share/alknet", "second"];
        for dir in dirs.map(|dir| self.0.path().join(dir)) {
            if dir.join("runtime.json").exists() {
                let down = format!("alknet down --drain 0s --data-dir '{}'", dir.display());
                sh(self.0.path(), &down);
            }
        }
    }
}

/// A directory that guides name; here each machine has one of its own.
const SRV: &str = "/srv/www";

/// A configuration that names who runs the tests where a guide names another.
fn with_account(block: &str) -> String {
    let said = sh(&repository(), "id -un").exits(0);
    block.replace("\"deploy\"", &format!("\"{}\"", said.stdout.trim()))
}

/// A web server that says one thing.
fn says_hello(listener: &TcpListener) {
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if !matches!(stream.read(&mut byte), Ok(1)) {
                break;
            }
            asked.extend(byte);
        }
        // Whoever only looked whether the port is open reads nothing.
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello\n");
    }
}

/// A reader, with the machines of a guide.
struct Reader {
    guide: Document,
    machines: BTreeMap<String, Machine>,
    ports: [(&'static str, String); 2],
    ticket: String,
    words: String,
    /// What goes on.
    running: Vec<Child>,
    typed: usize,
}

impl Drop for Reader {
    fn drop(&mut self) {
        for child in &mut self.running {
            // It may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Reader {
    fn of(path: &str) -> Self {
        let listeners = PORTS.map(|port| (port, TcpListener::bind("127.0.0.1:0").unwrap()));
        let ports = listeners.each_ref().map(|(port, listener)| {
            let address = listener.local_addr().unwrap();
            (*port, address.port().to_string())
        });
        let [_free, (_, web)] = listeners;
        // Ends with the test's process.
        thread::spawn(move || says_hello(&web));
        Self {
            guide: Document::open(path),
            machines: BTreeMap::new(),
            ports,
            ticket: String::new(),
            words: String::new(),
            running: Vec::new(),
            typed: 0,
        }
    }

    fn machine(&mut self, name: &str) -> &Machine {
        let machines = self.machines.entry(name.to_owned());
        machines.or_insert_with(Machine::new)
    }

    /// Reads the guide from top to bottom, and does what it says.
    #[track_caller]
    fn read(mut self) -> usize {
        let blocks = self.guide.blocks();
        for (at, block) in blocks.iter().enumerate() {
            let next = blocks.get(at + 1).filter(|next| next.fence == "text");
            let words: Vec<&str> = block.fence.split(' ').collect();
            match words[..] {
                ["sh", name] => self.types(name, block, next),
                ["sh", name, "&"] => self.starts(name, block, next),
                ["toml", "Cargo.toml"] => checks_dependencies(block),
                ["toml", name] => self.machine(name).configure(&block.text),
                ["toml"] => checks_configuration(block),
                ["ini"] => runs_as_a_service(block),
                ["rust"] => self.is_quoted(block),
                // Typed by nobody here: it takes root, or another program.
                ["console"] => {}
                ["text"] => {
                    let before = at.checked_sub(1).map(|at| &blocks[at].fence);
                    let typed = before.is_some_and(|fence| fence.starts_with("sh "));
                    assert!(typed, "{}: nobody says this", self.at(block));
                }
                _ => panic!("{}: what is `{}`?", self.at(block), block.fence),
            }
        }
        self.typed
    }

    fn at(&self, block: &Block) -> String {
        format!("{}:{}", self.guide.path, block.line)
    }

    /// A script as it is typed, and the directory to type it in.
    fn script(&mut self, name: &str, block: &Block) -> (PathBuf, String) {
        let mut script = block.text.replace("alkinvite1...", &self.ticket);
        for (port, free) in &self.ports {
            script = script.replace(port, free);
        }
        let words = self.words.clone();
        let script = script.replace(SRV, &self.machine(name).srv());
        let home = self.machine(name).0.path().to_owned();
        if script.contains("words.txt") {
            fs::write(home.join("words.txt"), words).unwrap();
        }
        self.typed += script.lines().count();
        // One stream, as on a terminal.
        (home, format!("exec 2>&1\n{script}"))
    }

    #[track_caller]
    fn types(&mut self, name: &str, block: &Block, next: Option<&Block>) {
        let (home, script) = self.script(name, block);
        let want = next.map(|next| next.text.as_str());
        let is_error = |line: &str| line.starts_with("error:") || line.starts_with("{\"error\":");
        let fails = want.is_some_and(|want| want.lines().any(is_error));
        let fails = fails && !block.text.contains("||");
        let looks = [
            "alknet audit",
            "alknet ops",
            "alknet peers list",
            "alknet peers show",
            "alknet status",
        ];
        let only_looks = block
            .text
            .lines()
            .all(|line| looks.iter().any(|look| line.starts_with(look)));
        let started = Instant::now();
        loop {
            let said = sh(&home, &script);
            let is_fine = said.status.success() != fails
                && want.is_none_or(|want| self.matches(want, &said.stdout));
            if is_fine {
                self.remember(&said.stdout);
                return;
            }
            assert!(
                only_looks && started.elapsed() < FOLLOWS,
                "{}: at `{name}`, {}:\n{}",
                self.at(block),
                said.status,
                said.stdout
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Starts what goes on, and waits until it has said what it should.
    #[track_caller]
    fn starts(&mut self, name: &str, block: &Block, next: Option<&Block>) {
        let (home, script) = self.script(name, block);
        let told = home.join(format!("running-{}", self.running.len()));
        let out = fs::File::create(&told).unwrap();
        let mut command = shell(
            &home,
            script
                .trim_end()
                .replace("alknet ", "exec alknet ")
                .as_str(),
        );
        self.running.push(command.stdout(out).spawn().unwrap());
        let want = &next.unwrap().text;
        let started = Instant::now();
        loop {
            let said = fs::read_to_string(&told).unwrap();
            if self.matches(want, &said) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{}:\n{said}", self.at(block));
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn remember(&mut self, said: &str) {
        let mut words = said.split_whitespace();
        if let Some(ticket) = words.find(|word| word.starts_with("alkinvite1")) {
            self.ticket = ticket.to_owned();
        }
        let words = said.lines().find_map(|line| line.strip_prefix("words:"));
        if let Some(words) = words {
            self.words = format!("{}\n", words.trim());
        }
    }

    fn matches(&self, want: &str, said: &str) -> bool {
        let mut want = want.to_owned();
        for (port, free) in &self.ports {
            want = want.replace(port, free);
        }
        let (want, said) = (plain_lines(&want), plain_lines(said));
        lines_match(&want, &said)
    }

    /// A program is quoted, not made up: its lines are in one that is run.
    #[track_caller]
    fn is_quoted(&self, block: &Block) {
        let folders = ["crates/alknet/examples", "crates/alknet/tests/it"];
        let files = folders
            .iter()
            .flat_map(|folder| fs::read_dir(repository().join(folder)).unwrap());
        let found = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
        let plain = |text: &str| -> Vec<String> {
            let lines = text.lines().map(|line| line.trim().to_owned());
            lines.filter(|line| !line.is_empty()).collect()
        };
        let wanted = plain(&block.text);
        let is_there = |text: String| {
            let lines = plain(&text);
            lines.windows(wanted.len()).any(|lines| lines == wanted)
        };
        assert!(
            found.into_iter().any(is_there),
            "{}: no program that is run has these lines",
            self.at(block)
        );
    }
}

/// Lines whose columns may be wider or narrower.
fn plain_lines(text: &str) -> Vec<String> {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines().map(words).collect()
}

fn lines_match(want: &[String], said: &[String]) -> bool {
    match (want, said) {
        ([], []) => true,
        ([any, rest @ ..], _) if any == "…" => {
            (0..=said.len()).any(|at| lines_match(rest, &said[at..]))
        }
        ([first, rest @ ..], [line, more @ ..]) => {
            line_matches(first, line) && lines_match(rest, more)
        }
        _ => false,
    }
}

fn line_matches(want: &str, said: &str) -> bool {
    let Some((first, rest)) = want.split_once('…') else {
        return want == said;
    };
    let Some(mut left) = said.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = rest.split('…').collect();
    let (last, middle) = parts.split_last().unwrap();
    for part in middle {
        match left.split_once(part) {
            Some((_, behind)) => left = behind,
            None => return false,
        }
    }
    left.ends_with(last)
}

#[test]
fn dots_stand_for_anything_and_nothing_else_does() {
    for (want, said, matches) in [
        ("a\n", "a\n", true),
        ("a\n", "a\nb\n", false),
        ("a…\n…\n", "ab\nc\nd\n", true),
        ("…\nb\n", "b\n", true),
        ("a…c…e", "abcde", true),
        ("a…c", "ab", false),
        ("a…", "ba", false),
    ] {
        let (want, said) = (plain_lines(want), plain_lines(said));
        assert_eq!(lines_match(&want, &said), matches, "{want:?} {said:?}");
    }
}

/// What a unit file starts is a node that takes its signals.
#[track_caller]
fn runs_as_a_service(unit: &Block) {
    let value = |name: &str| {
        let mut lines = unit.text.lines();
        let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("no {name}"))
    };
    let start = value("ExecStart").strip_prefix("%h/.cargo/bin/").unwrap();
    let machine = Machine::new();
    let home = machine.0.path();
    sh(home, "alknet init").exits(0);
    let mut child = shell(home, &format!("exec {start}")).spawn().unwrap();
    let started = Instant::now();
    while !sh(home, "alknet status").status.success() {
        assert!(started.elapsed() < PATIENCE, "it does not start");
    }
    let reload = value("ExecReload").replace("$MAINPID", &child.id().to_string());
    sh(home, &reload).exits(0);
    machine.configure("[[role]]\nname = \"guest\"");
    sh(home, &reload).exits(0);
    while !sh(home, "alknet roles").stdout.contains("guest") {
        assert!(started.elapsed() < PATIENCE, "it does not read its file");
    }
    signal(&child, Signal::TERM);
    assert!(wait(&mut child).success());
}

/// A part of a configuration that a guide shows.
#[track_caller]
pub(super) fn checks_configuration(block: &Block) {
    let place = Place::new();
    place.configure(&with_account(&block.text));
    let doctor = place.run(&["doctor", "--json"]).json();
    let checks = doctor["checks"].as_array().unwrap();
    let found = checks.iter().find(|check| check["name"] == "configuration");
    assert_eq!(found.unwrap()["status"], "ok", "{}\n{doctor}", block.text);
}

/// Dependencies that a guide tells people to take are those that its programs
/// are built with.
#[track_caller]
fn checks_dependencies(block: &Block) {
    let told: toml::Table = block.text.parse().unwrap();
    let ours = fs::read_to_string(repository().join("Cargo.toml")).unwrap();
    let ours: toml::Table = ours.parse().unwrap();
    let known = ours["workspace"]["dependencies"].as_table().unwrap();
    let version = |dependency: &toml::Value| {
        let version = dependency.get("version").unwrap_or(dependency);
        version.as_str().map(str::to_owned)
    };
    let mut checked = 0;
    for section in told.values() {
        for (name, dependency) in section.as_table().unwrap() {
            let known = known.get(name).unwrap_or_else(|| panic!("`{name}`"));
            if known.get("path").is_none() {
                assert_eq!(version(dependency), version(known), "`{name}`");
            }
            checked += 1;
        }
    }
    assert!(checked > 0);
}

#[test]
fn slow_running_a_node_works_as_written() {
    let typed = Reader::of("docs/guides/running-a-node.md").read();
    assert!(typed >= 30, "{typed} lines");
}

#[test]
fn a_relay_of_ones_own_works_as_written() {
    let typed = Reader::of("docs/guides/own-relay.md").read();
    assert!(typed >= 8, "{typed} lines");
}

#[test]
fn keeping_strangers_out_works_as_written() {
    let typed = Reader::of("docs/guides/keeping-strangers-out.md").read();
    assert!(typed >= 6, "{typed} lines");
}

#[test]
fn adding_an_operation_works_as_written() {
    let typed = Reader::of("docs/guides/adding-an-operation.md").read();
    assert!(typed >= 20, "{typed} lines");
}

#[test]
fn adding_a_protocol_quotes_what_is_run() {
    Reader::of("docs/guides/adding-a-protocol.md").read();
}

#[test]
fn embedding_quotes_what_is_run() {
    Reader::of("docs/guides/embedding.md").read();
}

#[test]
fn backup_and_restore_work_as_written() {
    let typed = Reader::of("docs/guides/backup-and-restore.md").read();
    assert!(typed >= 15, "{typed} lines");
}

#[test]
fn files_work_as_written() {
    let typed = Reader::of("docs/guides/files.md").read();
    assert!(typed >= 35, "{typed} lines");
}

#[test]
fn running_as_a_service_works_as_written() {
    let typed = Reader::of("docs/guides/running-as-a-service.md").read();
    assert!(typed >= 5, "{typed} lines");
}

#[test]
fn keeping_secrets_works_as_written() {
    let typed = Reader::of("docs/guides/keeping-secrets.md").read();
    assert!(typed >= 12, "{typed} lines");
}

#[test]
fn no_guide_is_left_out() {
    let guides = fs::read_dir(repository().join("docs/guides")).unwrap();
    let mut guides: Vec<_> = guides
        .map(|guide| guide.unwrap().file_name().into_string().unwrap())
        .filter(|guide| guide != "README.md")
        .collect();
    guides.sort();
    let read = [
        "adding-a-protocol.md",
        "adding-an-operation.md",
        "backup-and-restore.md",
        "embedding.md",
        "files.md",
        "keeping-secrets.md",
        "keeping-strangers-out.md",
        "own-relay.md",
        "running-a-node.md",
        "running-as-a-service.md",
    ];
    assert_eq!(guides, read);
    let index = fs::read_to_string(repository().join("docs/guides/README.md")).unwrap();
    for guide in guides {
        assert!(index.contains(&format!("]({guide})")), "{guide}");
    }
}
