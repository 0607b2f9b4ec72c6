//! Reads what `strace` wrote.

use std::{
    collections::HashMap,
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// A call that changes what a disk holds, when it had returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// When, in microseconds since 1970-01-01T00:00:00Z.
    pub at_us: u64,
    /// What it did.
    pub what: What,
}

/// What a call did. Paths are relative to the directory that is looked at; the
/// empty one is the directory itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A file was opened.
    Open {
        /// The descriptor.
        fd: u64,
        /// The file.
        path: PathBuf,
        /// It is made if it is missing.
        create: bool,
        /// It is emptied.
        truncate: bool,
        /// Writes go to its end.
        append: bool,
    },
    /// The place of the next write was chosen.
    Seek {
        /// The descriptor.
        fd: u64,
        /// Bytes from the beginning.
        to: u64,
    },
    /// Bytes were written.
    Write {
        /// The descriptor.
        fd: u64,
        /// The file.
        path: PathBuf,
        /// Where, or `None` for where the descriptor stands.
        offset: Option<u64>,
        /// What.
        data: Vec<u8>,
    },
    /// The length was set.
    Truncate {
        /// The file.
        path: PathBuf,
        /// Its length.
        len: u64,
    },
    /// A sync began: it is about what was written before.
    SyncBegins {
        /// Names the call.
        call: u64,
        /// The file, or the directory.
        path: PathBuf,
    },
    /// A sync returned.
    SyncEnds {
        /// Names the call.
        call: u64,
        /// Whether it worked; `None` if it claimed to and never ran.
        done: Option<bool>,
    },
    /// A name was given to another file.
    Rename {
        /// The former name.
        from: PathBuf,
        /// The name now.
        to: PathBuf,
    },
    /// A name was removed.
    Unlink {
        /// The name.
        path: PathBuf,
    },
    /// A line was written to the file of marks.
    Mark(String),
}

/// What could not be read in a trace.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// A line is not what strace writes with the arguments of
    /// [`super::command`].
    #[error("line {line} of the trace cannot be read: `{text}`")]
    Line {
        /// Which, from 1.
        line: usize,
        /// Its beginning.
        text: String,
    },
    /// A call changed the directory in a way that the model does not know.
    #[error("line {line} of the trace is a call that the model does not know: `{text}`")]
    Unknown {
        /// Which, from 1.
        line: usize,
        /// Its beginning.
        text: String,
    },
}

/// What a process asked of a directory, in order.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    steps: Vec<Step>,
}

impl Trace {
    /// Reads the calls that touch `root`, and the lines written to `marks`, a
    /// file outside. Both paths are absolute and free of symbolic links.
    ///
    /// # Errors
    ///
    /// [`ReadError`] for what cannot be read, and for calls that changed `root`
    /// and are not modelled.
    pub fn read(text: &str, root: &Path, marks: &Path) -> Result<Self, ReadError> {
        let mut reader = Reader {
            root,
            marks,
            steps: Vec::new(),
            unfinished: HashMap::new(),
            calls: 0,
        };
        for (index, line) in text.lines().enumerate() {
            reader.line(line).map_err(|problem| {
                let (line, text) = (index + 1, line.chars().take(200).collect());
                match problem {
                    Problem::Line => ReadError::Line { line, text },
                    Problem::Unknown => ReadError::Unknown { line, text },
                }
            })?;
        }
        Ok(Self {
            steps: reader.steps,
        })
    }

    /// All steps in the order in which the calls returned.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The marks, each with the number of steps up to and with it.
    pub fn marks(&self) -> impl Iterator<Item = (usize, &str)> {
        let numbered = self.steps.iter().enumerate();
        numbered.filter_map(|(index, step)| match &step.what {
            What::Mark(text) => Some((index + 1, text.as_str())),
            _ => None,
        })
    }

    /// How many steps had returned by a moment, given as in [`Step::at_us`].
    #[must_use]
    pub fn steps_by(&self, at_us: u64) -> usize {
        let later = self.steps.iter().position(|step| step.at_us > at_us);
        later.unwrap_or(self.steps.len())
    }
}

enum Problem {
    Line,
    Unknown,
}

/// A call whose end has not been seen.
struct Unfinished {
    text: String,
    /// Names the sync, if it is one that matters.
    sync: Option<u64>,
}

struct Reader<'a> {
    root: &'a Path,
    marks: &'a Path,
    steps: Vec<Step>,
    /// By thread.
    unfinished: HashMap<String, Unfinished>,
    calls: u64,
}

impl Reader<'_> {
    fn line(&mut self, line: &str) -> Result<(), Problem> {
        let (thread, rest) = line.split_once(' ').ok_or(Problem::Line)?;
        let (time, rest) = rest.trim_start().split_once(' ').ok_or(Problem::Line)?;
        let at_us = micros(time).ok_or(Problem::Line)?;
        if rest.starts_with("+++") || rest.starts_with("---") {
            return Ok(());
        }
        if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
            let sync = self.sync_begins(begun, at_us);
            let text = begun.trim_end().to_owned();
            let thread = thread.to_owned();
            self.unfinished.insert(thread, Unfinished { text, sync });
            return Ok(());
        }
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let (_, end) = resumed.split_once("resumed>").ok_or(Problem::Line)?;
            // A call that was under way when the trace began.
            let Some(begun) = self.unfinished.remove(thread) else {
                return Ok(());
            };
            return self.call(&format!("{}{end}", begun.text), at_us, begun.sync);
        }
        let sync = self.sync_begins(rest, at_us);
        let took = duration(rest).unwrap_or(0);
        self.call(rest, at_us + took, sync)
    }

    /// Notes the begin of a sync of something in the directory.
    fn sync_begins(&mut self, text: &str, at_us: u64) -> Option<u64> {
        let (name, args) = text.split_once('(')?;
        if !matches!(name, "fsync" | "fdatasync") {
            return None;
        }
        let end = args.find('>')?;
        if args[end..].starts_with(">(deleted)") {
            return None;
        }
        let (_, path) = descriptor(&args[..=end])?;
        let path = self.inside(&path)?;
        self.calls += 1;
        let call = self.calls;
        self.push(at_us, What::SyncBegins { call, path });
        Some(call)
    }

    fn push(&mut self, at_us: u64, what: What) {
        self.steps.push(Step { at_us, what });
    }

    fn inside(&self, path: &Path) -> Option<PathBuf> {
        path.strip_prefix(self.root).ok().map(Path::to_owned)
    }

    fn call(&mut self, text: &str, at_us: u64, sync: Option<u64>) -> Result<(), Problem> {
        let (name, rest) = text.split_once('(').ok_or(Problem::Line)?;
        // The process ended in the middle of it.
        let Some(end) = rest.rfind(") = ").or_else(|| rest.rfind(")  = ")) else {
            return if text.contains("= ?") {
                Ok(())
            } else {
                padded(rest).ok_or(Problem::Line).map(drop)
            };
        };
        let (args, outcome) = (
            &rest[..end],
            rest[end..].trim_start_matches([')', ' ', '=']),
        );
        let failed = outcome.starts_with('-') || outcome.starts_with('?');
        if let Some(call) = sync {
            let pretended = !failed && outcome.contains("(INJECTED)");
            let done = (!pretended).then_some(!failed);
            self.push(at_us, What::SyncEnds { call, done });
            return Ok(());
        }
        if failed {
            return Ok(());
        }
        let args: Vec<&str> = args.split(", ").collect();
        if let Some(what) = self.what(name, &args, outcome)? {
            self.push(at_us, what);
        }
        Ok(())
    }

    fn what(&self, name: &str, args: &[&str], outcome: &str) -> Result<Option<What>, Problem> {
        let arg = |index: usize| args.get(index).copied().ok_or(Problem::Line);
        match name {
            "openat" | "open" | "creat" => {
                let Some((fd, path)) = descriptor(outcome) else {
                    return Ok(None);
                };
                let flags = args.iter().find(|arg| arg.contains("O_")).unwrap_or(&"");
                let has = |flag| flags.split('|').any(|given| given == flag);
                let open = |path| What::Open {
                    fd,
                    path,
                    create: has("O_CREAT") || name == "creat",
                    truncate: has("O_TRUNC") || name == "creat",
                    append: has("O_APPEND"),
                };
                Ok(self.inside(&path).map(open))
            }
            "lseek" | "write" | "pwrite64" | "ftruncate" => {
                let target = arg(0)?;
                // Its name is gone, and with it the file after a loss.
                if target.ends_with("(deleted)") {
                    return Ok(None);
                }
                let Some((fd, path)) = descriptor(target) else {
                    return Ok(None);
                };
                if name == "write" && path == self.marks {
                    let line = bytes(arg(1)?).ok_or(Problem::Line)?;
                    let line = String::from_utf8_lossy(&line);
                    return Ok(Some(What::Mark(line.trim_end().to_owned())));
                }
                let Some(path) = self.inside(&path) else {
                    return Ok(None);
                };
                let number = |text: &str| text.parse().map_err(|_| Problem::Line);
                Ok(Some(match name {
                    "lseek" => What::Seek {
                        fd,
                        to: leading(outcome).ok_or(Problem::Line)?,
                    },
                    "ftruncate" => What::Truncate {
                        path,
                        len: number(arg(1)?)?,
                    },
                    _ => {
                        let mut data = bytes(arg(1)?).ok_or(Problem::Line)?;
                        // It may have taken less than it was given.
                        data.truncate(leading(outcome).ok_or(Problem::Line)?);
                        let offset = match name {
                            "pwrite64" => Some(number(arg(3)?)?),
                            _ => None,
                        };
                        What::Write {
                            fd,
                            path,
                            offset,
                            data,
                        }
                    }
                }))
            }
            "rename" | "renameat" | "renameat2" => {
                let at = usize::from(name != "rename");
                let from = self.named(args, 0, at)?;
                let to = self.named(args, 1 + at, at)?;
                match (from, to) {
                    (Some(from), Some(to)) => Ok(Some(What::Rename { from, to })),
                    (None, None) => Ok(None),
                    _ => Err(Problem::Unknown),
                }
            }
            "unlink" | "unlinkat" => {
                let at = usize::from(name != "unlink");
                let path = self.named(args, 0, at)?;
                Ok(path.map(|path| What::Unlink { path }))
            }
            "fsync" | "fdatasync" => Ok(None),
            _ => {
                let touches = args.iter().any(|arg| {
                    let path = descriptor(arg).map(|(_, path)| path);
                    let path = path.or_else(|| Some(path_of(&bytes(arg)?)));
                    path.is_some_and(|path| self.inside(&path).is_some())
                });
                if touches {
                    Err(Problem::Unknown)
                } else {
                    Ok(None)
                }
            }
        }
    }

    /// The path at `index`, with the directory before it where `at` is 1.
    fn named(&self, args: &[&str], index: usize, at: usize) -> Result<Option<PathBuf>, Problem> {
        let text = args.get(index + at).ok_or(Problem::Line)?;
        let mut path = path_of(&bytes(text).ok_or(Problem::Line)?);
        if at == 1 && path.is_relative() {
            let start = args.get(index).and_then(|arg| descriptor_path(arg));
            path = start.ok_or(Problem::Line)?.join(path);
        }
        Ok(self.inside(&path))
    }
}

/// Lines are padded to a column when results follow short calls.
fn padded(rest: &str) -> Option<()> {
    let (_, outcome) = rest.rsplit_once(')')?;
    outcome.trim_start().starts_with('=').then_some(())
}

fn micros(text: &str) -> Option<u64> {
    let (seconds, fraction) = text.split_once('.')?;
    let seconds: u64 = seconds.parse().ok()?;
    let fraction: u64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    Some(seconds * 1_000_000 + fraction)
}

/// `... <0.000123>` at the end.
fn duration(text: &str) -> Option<u64> {
    micros(text.strip_suffix('>')?.rsplit_once('<')?.1)
}

fn leading<N: std::str::FromStr>(text: &str) -> Option<N> {
    let end = text.find(|c: char| !c.is_ascii_digit());
    text[..end.unwrap_or(text.len())].parse().ok()
}

/// `5<\x2f...>`.
fn descriptor(text: &str) -> Option<(u64, PathBuf)> {
    Some((leading(text)?, descriptor_path(text)?))
}

fn descriptor_path(text: &str) -> Option<PathBuf> {
    let (_, rest) = text.split_once('<')?;
    let (path, _) = rest.split_once('>')?;
    Some(path_of(&unescaped(path)?))
}

fn path_of(bytes: &[u8]) -> PathBuf {
    Path::new(OsStr::from_bytes(bytes)).to_owned()
}

/// `"\x61\x62"`.
fn bytes(text: &str) -> Option<Vec<u8>> {
    unescaped(text.strip_prefix('"')?.strip_suffix('"')?)
}

fn unescaped(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let codes = text.as_bytes().chunks(4);
    codes
        .map(|code| match code {
            [b'\\', b'x', high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}
