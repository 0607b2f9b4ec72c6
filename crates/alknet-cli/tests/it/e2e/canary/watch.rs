//! Everything that was said, written and shown, kept to be searched.

use crate::program::{PATIENCE, Place, Said, alknet};
use alknet_testkit::canary::{Found, Scanner};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A directory with a node, and what commands in it said.
pub(super) struct Home {
    pub(super) name: &'static str,
    pub(super) place: Place,
}

impl Home {
    pub(super) fn new(name: &'static str, config: &str) -> Self {
        let place = Place::new();
        place.configure(&format!("name = \"{name}\"\n{config}"));
        Self { name, place }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// A file that others may not read; its path, as a word of a command.
    pub(super) fn private(&self, name: &str, text: &[u8]) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// Where secrets were looked for, and which are known.
pub(super) struct Watch {
    pub(super) scanner: Scanner,
    /// What was said where: searched at the end, when all secrets are known.
    texts: Vec<(String, Vec<u8>)>,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self {
            scanner: Scanner::new(),
            texts: Vec::new(),
        }
    }

    pub(super) fn keep(&mut self, place: impl Into<String>, text: impl Into<Vec<u8>>) {
        self.texts.push((place.into(), text.into()));
    }

    /// Runs a command of the program. What it is called, and what its process
    /// shows to others while it runs, is kept as well as what it says.
    #[track_caller]
    pub(super) fn run(&mut self, home: &Home, words: &[&str], input: &[u8]) -> Said {
        let (said, shown) = self.finish(home, words, input);
        let told = format!("{}: {}", home.name, words.join(" "));
        for text in shown {
            self.keep(format!("{told}: process"), text);
        }
        said
    }

    /// The same where somebody wrote a secret into the command, which others
    /// see there, whatever the program does.
    #[track_caller]
    pub(super) fn misuse(&mut self, home: &Home, words: &[&str], input: &[u8]) -> Said {
        self.finish(home, words, input).0
    }

    #[track_caller]
    fn finish(&mut self, home: &Home, words: &[&str], input: &[u8]) -> (Said, BTreeSet<Vec<u8>>) {
        let mut command = alknet(home.place.path());
        command.args(words).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let feeding = thread::spawn(move || {
            // It may not read all of it, or any.
            let _ = stdin.write_all(&input);
        });
        fn reading(mut from: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
            thread::spawn(move || {
                let mut text = Vec::new();
                from.read_to_end(&mut text).map(|_| text).unwrap()
            })
        }
        let out = reading(child.stdout.take().unwrap());
        let err = reading(child.stderr.take().unwrap());
        let mut shown = BTreeSet::new();
        let started = Instant::now();
        let status = loop {
            shown.extend(shown_by(&child));
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            assert!(started.elapsed() < PATIENCE, "{words:?} does not end");
            thread::sleep(Duration::from_millis(5));
        };
        feeding.join().unwrap();
        let (stdout, stderr) = (out.join().unwrap(), err.join().unwrap());
        let told = format!("{}: {}", home.name, words.join(" "));
        self.keep(format!("{told}: stdout"), stdout.clone());
        self.keep(format!("{told}: stderr"), stderr.clone());
        let said = Said {
            status,
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        };
        (said, shown)
    }

    /// Keeps every file below a directory as it is on the disk now.
    pub(super) fn files(&mut self, name: &str, below: &Path) {
        let mut files = BTreeMap::new();
        read_all(below, Path::new(name), &mut files);
        for (place, bytes) in files {
            self.keep(place, bytes);
        }
    }

    /// What was found, as `SECRET in PLACE`, without where it may be; and what
    /// should have been found there and was not. A place ends with `*` for all
    /// that begin so.
    pub(super) fn judge(&self, allowed: &[(&str, &str)]) -> (BTreeSet<String>, Vec<String>) {
        let is = |place: &str, rule: &str| match rule.strip_suffix('*') {
            Some(start) => place.starts_with(start),
            None => place == rule,
        };
        let mut used = BTreeSet::new();
        let mut leaks = BTreeSet::new();
        for (place, text) in &self.texts {
            for found in self.scanner.find(text) {
                let mut rules = allowed.iter().enumerate();
                let rule =
                    rules.find(|(_, (secret, rule))| found.secret == *secret && is(place, rule));
                match rule {
                    Some((at, _)) => drop(used.insert(at)),
                    None => drop(leaks.insert(told(&found, place, text))),
                }
            }
        }
        let unused = allowed.iter().enumerate();
        let unused = unused.filter(|(at, _)| !used.contains(at));
        let unused = unused.map(|(_, (secret, place))| format!("{secret} in {place}"));
        (leaks, unused.collect())
    }
}

fn told(found: &Found, place: &str, text: &[u8]) -> String {
    let start = found.at.saturating_sub(160);
    let end = text.len().min(found.at + 80);
    let around = String::from_utf8_lossy(&text[start..end]);
    let around: String = around
        .chars()
        .map(|c| if c.is_control() { '·' } else { c })
        .collect();
    let place: String = place.chars().take(160).collect();
    format!("{} ({:?}) in {place}: …{around}…", found.secret, found.form)
}

/// What others see of a process: its words and its environment.
pub(super) fn shown_by(child: &Child) -> Vec<Vec<u8>> {
    let of = |name: &str| fs::read(format!("/proc/{}/{name}", child.id()));
    // Who may not read them sees nothing.
    let shown = [of("cmdline"), of("environ")].into_iter().flatten();
    shown.filter(|text| !text.is_empty()).collect()
}

fn read_all(below: &Path, name: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(below).unwrap() {
        let entry = entry.unwrap();
        let name = name.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            read_all(&entry.path(), &name, files);
        } else if let Ok(bytes) = fs::read(entry.path()) {
            files.insert(name.display().to_string(), bytes);
        }
    }
}

/// The memory of a process that it can write to; `None` where that cannot be
/// read.
pub(super) fn memory(pid: u32) -> Option<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let memory = fs::File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut all = Vec::new();
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ')?;
        if !rest.starts_with("rw") {
            continue;
        }
        let (start, end) = range.split_once('-')?;
        let [start, end] = [start, end].map(|at| u64::from_str_radix(at, 16).unwrap());
        let at = all.len();
        all.resize(at + usize::try_from(end - start).ok()?, 0);
        // Some pages of devices cannot be read.
        if memory.read_exact_at(&mut all[at..], start).is_err() {
            all.truncate(at);
        }
    }
    (!all.is_empty()).then_some(all)
}
