//! The node at the other end, as copies use it.

use super::{
    entry::{Entry, Origin, RelPath},
    options::CopyArgs,
    report::Report,
    trouble::{Problem, Trouble, of_all, of_entry},
};
use crate::node_access::{
    CallError, ChannelCall, ErrorCode, FileKind, FilePath, FileStat, FileTime, Opener, Route,
    Subscription,
};
use futures::StreamExt;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::sleep};

/// How often a call is made again that came too soon.
const TOO_SOON_TRIES: usize = 20;
/// How long is waited then, if the node does not say.
const TOO_SOON_WAIT: Duration = Duration::from_millis(500);
/// Links below one another that are followed.
const LINKS_DEEP_MAX: usize = 40;

/// A way to a node.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    pub(super) opener: Opener,
    pub(super) route: Route,
    /// What the node here calls itself.
    pub(super) home: Arc<str>,
}

/// What is known of a file there.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Known {
    #[serde(flatten)]
    pub(super) stat: FileStat,
    #[serde(default)]
    pub(super) target: Option<String>,
}

impl Remote {
    /// Calls about one entry.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        operation: &str,
        input: &Value,
    ) -> Result<T, Trouble> {
        let answered = self.patiently(operation, input).await;
        let value = answered.map_err(|error| self.of_entry(error))?;
        serde_json::from_value(value).map_err(|error| self.nonsense(&error.to_string()))
    }

    /// Makes a call again that came too soon.
    pub(super) async fn patiently(
        &self,
        operation: &str,
        input: &Value,
    ) -> Result<Value, CallError> {
        let mut tries = 1;
        loop {
            match self.opener.call(operation, input).await {
                Err(error) if error.is(ErrorCode::RateLimited) && tries < TOO_SOON_TRIES => {
                    tries += 1;
                    sleep(error.retry_after.unwrap_or(TOO_SOON_WAIT)).await;
                }
                answered => return answered,
            }
        }
    }

    pub(super) async fn open(
        &self,
        operation: &str,
        input: &Value,
    ) -> Result<ChannelCall, CallError> {
        let mut tries = 1;
        loop {
            match self.opener.open(operation, input).await {
                Err(error) if error.is(ErrorCode::RateLimited) && tries < TOO_SOON_TRIES => {
                    tries += 1;
                    sleep(error.retry_after.unwrap_or(TOO_SOON_WAIT)).await;
                }
                opened => return opened,
            }
        }
    }

    pub(super) fn of_entry(&self, error: CallError) -> Trouble {
        of_entry(error, &self.home, &self.route)
    }

    pub(super) fn of_all(&self, error: CallError) -> Trouble {
        of_all(error, &self.home, &self.route)
    }

    /// The peer answers what makes no sense.
    pub(super) fn nonsense(&self, what: &str) -> Trouble {
        self.of_all(crate::channel::unexpected(what))
    }

    pub(super) async fn stat(&self, file: &FilePath, follow: bool) -> Result<Known, Trouble> {
        self.call(
            "fs/stat",
            &json!({ "file": file.to_string(), "follow": follow }),
        )
        .await
    }

    /// BLAKE3 of the first bytes of a file.
    pub(super) async fn digest(
        &self,
        file: &FilePath,
        bytes: u64,
    ) -> Result<Option<String>, Trouble> {
        let input = json!({ "file": file.to_string(), "algorithms": ["blake3"], "offset": 0, "bytes": bytes });
        let answer: Value = self.call("fs/digest", &input).await?;
        Ok(answer
            .pointer("/digests/blake3")
            .and_then(Value::as_str)
            .map(str::to_owned))
    }
}

/// Where a walk in a bucket begins.
#[derive(Clone, Debug)]
pub(super) struct RemoteSource {
    pub(super) remote: Remote,
    pub(super) file: FilePath,
    pub(super) prefix: RelPath,
    pub(super) known: Known,
}

/// One item of a search.
#[derive(Debug, Deserialize)]
struct Found {
    entries: Vec<FoundEntry>,
    #[serde(default)]
    errors: Vec<FoundError>,
}

#[derive(Debug, Deserialize)]
struct FoundEntry {
    path: String,
    kind: FileKind,
    bytes: u64,
    mode: u32,
    mtime: FileTime,
    version: String,
    #[serde(default)]
    target: Option<String>,
}

#[derive(Debug, Deserialize)]
struct FoundError {
    path: String,
    code: String,
    message: String,
}

/// What is walked below one directory, and how many links led there.
struct Below {
    base: Arc<FilePath>,
    prefix: RelPath,
    links: usize,
}

/// Tells every entry, directories before what is in them.
pub(super) async fn walk(
    source: &RemoteSource,
    args: &CopyArgs,
    directories_only: bool,
    report: &Arc<Report>,
    entries: &mpsc::Sender<Entry>,
) -> Result<(), Trouble> {
    let walk = Walk {
        remote: &source.remote,
        args,
        directories_only,
        report,
        entries,
    };
    let base = Arc::new(source.file.clone());
    let is_directory = source.known.stat.kind == FileKind::Directory;
    let entry = walk.entry(
        &base,
        RelPath::top(),
        source.prefix.clone(),
        &source.known,
        !is_directory,
    );
    walk.tell(entry).await?;
    if !is_directory || !args.recursive {
        return Ok(());
    }
    let mut below = VecDeque::from([Below {
        base,
        prefix: source.prefix.clone(),
        links: 0,
    }]);
    while let Some(next) = below.pop_front() {
        walk.below(&next, &mut below).await?;
    }
    Ok(())
}

struct Walk<'a> {
    remote: &'a Remote,
    args: &'a CopyArgs,
    directories_only: bool,
    report: &'a Arc<Report>,
    entries: &'a mpsc::Sender<Entry>,
}

impl Walk<'_> {
    fn entry(
        &self,
        base: &Arc<FilePath>,
        path: RelPath,
        goes_to: RelPath,
        known: &Known,
        is_direct: bool,
    ) -> Entry {
        let stat = &known.stat;
        Entry {
            path: goes_to,
            kind: stat.kind,
            bytes: if stat.kind == FileKind::File {
                stat.bytes
            } else {
                0
            },
            mode: stat.mode,
            mtime: stat.mtime,
            target: known.target.clone(),
            origin: Origin::Remote {
                remote: self.remote.clone(),
                base: base.clone(),
                path,
                version: stat.version.clone(),
                is_direct,
            },
        }
    }

    async fn tell(&self, entry: Entry) -> Result<(), Trouble> {
        if entry.kind == FileKind::Other {
            if !self.directories_only {
                self.report.left_out(&entry.path);
            }
            return Ok(());
        }
        if self.directories_only && entry.kind != FileKind::Directory {
            return Ok(());
        }
        self.entries.send(entry).await.map_err(|_| Trouble::Quiet)
    }

    async fn below(&self, below: &Below, led: &mut VecDeque<Below>) -> Result<(), Trouble> {
        let mut input = json!({ "file": below.base.to_string(), "glob": "**" });
        if self.directories_only && !self.args.dereference {
            input["kinds"] = json!(["directory"]);
        }
        let opened = self.remote.opener.subscribe("fs/search", &input).await;
        let mut items: Subscription = match opened {
            Ok(items) => items,
            Err(error) => {
                return match self.remote.of_entry(error) {
                    Trouble::Entry(problem) => {
                        self.failed(&below.prefix, &problem);
                        Ok(())
                    }
                    other => Err(other),
                };
            }
        };
        while let Some(item) = items.next().await {
            let item = item.and_then(|output| output.parse::<Found>());
            let found = item.map_err(|error| self.remote.of_all(error))?;
            for error in found.errors {
                let path = self.parsed(&error.path)?;
                let problem = Problem {
                    code: error.code,
                    message: error.message,
                };
                self.failed(&below.prefix.join(&path), &problem);
            }
            for entry in found.entries {
                self.found(below, entry, led).await?;
            }
        }
        Ok(())
    }

    async fn found(
        &self,
        below: &Below,
        found: FoundEntry,
        led: &mut VecDeque<Below>,
    ) -> Result<(), Trouble> {
        let path = self.parsed(&found.path)?;
        if path.is_top() {
            return Ok(());
        }
        let goes_to = below.prefix.join(&path);
        if found.kind == FileKind::Symlink && self.args.dereference {
            return self.follow(below, &path, goes_to, led).await;
        }
        self.tell(Entry {
            path: goes_to,
            kind: found.kind,
            bytes: if found.kind == FileKind::File {
                found.bytes
            } else {
                0
            },
            mode: found.mode,
            mtime: found.mtime,
            target: found.target,
            origin: Origin::Remote {
                remote: self.remote.clone(),
                base: below.base.clone(),
                path,
                version: found.version,
                is_direct: false,
            },
        })
        .await
    }

    /// What a link leads to, in its place.
    async fn follow(
        &self,
        below: &Below,
        path: &RelPath,
        goes_to: RelPath,
        led: &mut VecDeque<Below>,
    ) -> Result<(), Trouble> {
        let file = match path.below(&below.base) {
            Ok(file) => file,
            Err(error) => {
                self.failed(&goes_to, &Problem::of_path(&error));
                return Ok(());
            }
        };
        let known = match self.remote.stat(&file, true).await {
            Ok(known) => known,
            Err(Trouble::Entry(problem)) => {
                self.failed(&goes_to, &problem);
                return Ok(());
            }
            Err(other) => return Err(other),
        };
        let base = Arc::new(file);
        let is_directory = known.stat.kind == FileKind::Directory;
        self.tell(self.entry(
            &base,
            RelPath::top(),
            goes_to.clone(),
            &known,
            !is_directory,
        ))
        .await?;
        if is_directory {
            let links = below.links + 1;
            if links > LINKS_DEEP_MAX {
                self.failed(
                    &goes_to,
                    &Problem::new("TOO_MANY_LINKS", "links lead in a circle"),
                );
                return Ok(());
            }
            led.push_back(Below {
                base,
                prefix: goes_to,
                links,
            });
        }
        Ok(())
    }

    fn parsed(&self, path: &str) -> Result<RelPath, Trouble> {
        match path {
            "" => Ok(RelPath::top()),
            path => RelPath::parse(path).map_err(|error| {
                self.remote
                    .nonsense(&format!("a path that is none: {error}"))
            }),
        }
    }

    fn failed(&self, path: &RelPath, problem: &Problem) {
        if !self.directories_only {
            self.report.failed(path, problem, 0);
        }
    }
}

/// Counts files and bytes of a tree.
pub(super) async fn count(source: &RemoteSource, recursive: bool, report: &Report) -> bool {
    match source.known.stat.kind {
        FileKind::File => report.counted(1, source.known.stat.bytes),
        FileKind::Directory if recursive => {
            let input = json!({ "file": source.file.to_string() });
            let Ok(usage) = source.remote.opener.call("fs/usage", &input).await else {
                return false;
            };
            let field = |name: &str| usage.get(name).and_then(Value::as_u64).unwrap_or(0);
            report.counted(field("files"), field("bytes"));
        }
        _ => {}
    }
    true
}
