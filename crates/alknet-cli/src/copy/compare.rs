//! What of the entries is there already.

use super::{
    between,
    entry::{Differs, Entry, Origin, RelPath},
    local_tree::{LocalTree, in_the_way},
    remote::Remote,
    stage::{Copy, Job, Target, WINDOW, blocking},
    trouble::{Problem, Trouble},
};
use crate::node_access::{
    ChannelCall, ErrorCode, FileKind, FilePath, SMALL_FILE_BYTES_MAX,
    stream::{Comparison, Difference, EntryPath, Lines, line},
};
use bytes::BytesMut;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Entries that wait for the answer of the node.
const ASKED_MAX: usize = 1024;

/// Bytes of questions that are sent together.
const LINES_BYTES: usize = 64 * 1024;

/// Where entries go that are to be copied.
#[derive(Debug)]
pub(super) struct Sorted {
    pub(super) small: mpsc::Sender<Entry>,
    pub(super) jobs: mpsc::Sender<Job>,
}

/// Compares everything, and hands on what is to be done.
pub(super) async fn run(
    copy: Arc<Copy>,
    entries: mpsc::Receiver<Entry>,
    sorted: Sorted,
) -> Result<(), Trouble> {
    let mut sort = Sort {
        tree: copy.target.tree(),
        copy: &copy,
        sorted,
    };
    match &copy.target {
        Target::Local { .. } => sort.here(entries).await,
        Target::Remote { .. } if copy.is_new => sort.nowhere(entries).await,
        Target::Remote { remote, directory } if copy.is_single => {
            sort.one(remote, directory, entries).await
        }
        Target::Remote { remote, directory } => sort.there(remote, directory, entries).await,
    }
}

struct Sort<'a> {
    copy: &'a Copy,
    sorted: Sorted,
    tree: Option<LocalTree>,
}

impl Sort<'_> {
    /// With a directory of this machine.
    async fn here(&mut self, mut entries: mpsc::Receiver<Entry>) -> Result<(), Trouble> {
        let trusts_times = self.copy.args.trusts_times();
        loop {
            let mut batch = Vec::new();
            if entries.recv_many(&mut batch, WINDOW).await == 0 {
                return Ok(());
            }
            let Some(mut tree) = self.tree.take() else {
                return Ok(());
            };
            let compared = blocking(move || {
                let compared: Vec<_> = batch
                    .into_iter()
                    .map(|entry| (tree.differs(&entry, trusts_times), entry))
                    .collect();
                (compared, tree)
            });
            let (compared, tree) = compared.await?;
            self.tree = Some(tree);
            for (differs, entry) in compared {
                match differs {
                    Ok(differs) => self.sort(entry, differs).await?,
                    Err(error) => {
                        self.copy.report.failed(
                            &entry.path,
                            &Problem::of_root(&error),
                            entry.bytes,
                        );
                    }
                }
            }
        }
    }

    /// With a directory that is not there.
    async fn nowhere(&mut self, mut entries: mpsc::Receiver<Entry>) -> Result<(), Trouble> {
        while let Some(entry) = entries.recv().await {
            self.sort(entry, Some(Differs::Missing)).await?;
        }
        Ok(())
    }

    /// With one file of a bucket: nothing is asked about its directory.
    async fn one(
        &mut self,
        remote: &Remote,
        directory: &FilePath,
        mut entries: mpsc::Receiver<Entry>,
    ) -> Result<(), Trouble> {
        while let Some(entry) = entries.recv().await {
            let file = entry
                .path
                .below(directory)
                .map_err(|error| Problem::of_path(&error));
            let known = match file {
                Ok(file) => remote.stat(&file, true).await,
                Err(problem) => Err(problem.into()),
            };
            let differs = match known {
                Ok(known) => {
                    let stat = &known.stat;
                    let is_same = stat.bytes == entry.bytes && stat.mtime == entry.mtime;
                    match stat.kind {
                        FileKind::File if is_same && self.copy.args.trusts_times() => {
                            let has_mode = stat.mode & 0o777 == entry.copied_mode();
                            (!has_mode).then_some(Differs::Attributes)
                        }
                        FileKind::File => Some(Differs::Content),
                        // The writing says what is wrong with it.
                        _ => Some(Differs::Missing),
                    }
                }
                // Who may write, and not read, writes.
                Err(Trouble::Entry(_)) => Some(Differs::Missing),
                Err(other) => return Err(other),
            };
            self.sort(entry, differs).await?;
        }
        Ok(())
    }

    /// With a directory of a bucket.
    async fn there(
        &mut self,
        remote: &Remote,
        directory: &FilePath,
        entries: mpsc::Receiver<Entry>,
    ) -> Result<(), Trouble> {
        let input = json!({ "file": directory.to_string() });
        let call = match remote.open("fs/compare", &input).await {
            Ok(call) => call,
            Err(error) if error.is(ErrorCode::Forbidden) => {
                let text = "what is there may not be read, so everything is copied";
                self.copy.report.detail(text);
                return self.nowhere(entries).await;
            }
            Err(error) => return Err(remote.of_all(error)),
        };
        let ChannelCall { channel, done, .. } = call;
        let trusts_times = self.copy.args.trusts_times();
        let preserve = !self.copy.args.no_preserve;
        let (asked, waiting) = mpsc::channel(ASKED_MAX);
        let asking = ask(channel.tx, entries, asked, trusts_times, preserve);
        let answering = self.answers(remote, channel.rx, waiting);
        match tokio::try_join!(asking, answering) {
            // The channel ended, and its result says why.
            Err(Trouble::Quiet) => match done.await {
                Err(error) => Err(remote.of_all(error)),
                Ok(_) => Err(Trouble::Quiet),
            },
            ended => ended.map(drop),
        }
    }

    async fn answers(
        &mut self,
        remote: &Remote,
        mut answers: crate::node_access::ByteReceiver,
        mut waiting: mpsc::Receiver<Entry>,
    ) -> Result<(), Trouble> {
        let mut lines = Lines::new();
        let mut seen = 0;
        while let Some(chunk) = answers.recv().await.map_err(|_| Trouble::Quiet)? {
            if chunk.aux {
                continue;
            }
            lines.push(chunk.bytes);
            loop {
                let next: Option<Difference> = lines
                    .next_value()
                    .map_err(|error| remote.nonsense(&error.to_string()))?;
                match next {
                    None => break,
                    Some(Difference::Seen { seen: now }) => {
                        // All before that were told, or are the same.
                        while seen < now {
                            let Some(entry) = waiting.recv().await else {
                                return Err(remote.nonsense("more than was asked"));
                            };
                            seen += 1;
                            self.sort(entry, None).await?;
                        }
                    }
                    Some(Difference::Entry { path, differs }) => {
                        let entry = self.up_to(remote, &path, &mut waiting, &mut seen).await?;
                        self.sort(entry, Some(differs.into())).await?;
                    }
                    Some(Difference::Failed { path, error }) => {
                        let entry = self.up_to(remote, &path, &mut waiting, &mut seen).await?;
                        let problem = Problem::new(&error.code, error.message);
                        self.copy.report.failed(&entry.path, &problem, entry.bytes);
                    }
                }
            }
        }
        while let Some(entry) = waiting.recv().await {
            self.sort(entry, None).await?;
        }
        Ok(())
    }

    /// The entry that an answer is about; those before it are the same.
    async fn up_to(
        &mut self,
        remote: &Remote,
        path: &EntryPath,
        waiting: &mut mpsc::Receiver<Entry>,
        seen: &mut u64,
    ) -> Result<Entry, Trouble> {
        let path = path.to_string();
        loop {
            let Some(entry) = waiting.recv().await else {
                return Err(remote.nonsense("about what was not asked"));
            };
            *seen += 1;
            if entry.path.as_str() == path {
                return Ok(entry);
            }
            self.sort(entry, None).await?;
        }
    }

    /// Hands on what is to be done with an entry.
    async fn sort(&mut self, entry: Entry, differs: Option<Differs>) -> Result<(), Trouble> {
        let copy = self.copy;
        let args = &copy.args;
        let is_file = entry.kind == FileKind::File;
        if args.checksum
            && is_file
            && differs != Some(Differs::Missing)
            && differs != Some(Differs::Kind)
        {
            return self.job(Job::Compare(entry)).await;
        }
        let differs = match differs {
            // Times are not looked at.
            None | Some(Differs::Attributes) if is_file && !args.trusts_times() => {
                Some(Differs::Content)
            }
            differs => differs,
        };
        let Some(differs) = differs else {
            copy.report.skipped(&entry);
            return Ok(());
        };
        if args.no_clobber && differs != Differs::Missing {
            copy.report.skipped(&entry);
            return Ok(());
        }
        let is_there = matches!(differs, Differs::Attributes) && !is_file;
        if is_there {
            // Directories get their attributes when everything is in them.
            return Ok(());
        }
        if args.dry_run {
            match differs {
                // As of the copy itself: no bytes of it are copied.
                Differs::Attributes => copy.report.skipped(&entry),
                _ => copy.report.copied(&entry, false),
            }
            return Ok(());
        }
        if differs == Differs::Attributes {
            return self.job(Job::Attributes(entry)).await;
        }
        if differs == Differs::Kind && !self.make_way(&entry).await? {
            return Ok(());
        }
        if is_file
            && (is_by_itself(&entry, copy.is_single)
                || between::is_job(&entry, differs, &copy.target))
        {
            return self.job(Job::Copy(entry)).await;
        }
        self.sorted
            .small
            .send(entry)
            .await
            .map_err(|_| Trouble::Quiet)
    }

    async fn job(&self, job: Job) -> Result<(), Trouble> {
        self.sorted.jobs.send(job).await.map_err(|_| Trouble::Quiet)
    }

    /// Removes what is of another kind, but no directory.
    async fn make_way(&mut self, entry: &Entry) -> Result<bool, Trouble> {
        let made = match (entry.kind, &self.copy.target) {
            (FileKind::Directory, _) => Err(Problem::new(
                "NOT_A_DIRECTORY",
                "there is something of that name that is no directory",
            )
            .into()),
            (_, Target::Remote { remote, directory }) => match entry.path.below(directory) {
                Ok(file) => make_way_there(remote, &file).await,
                Err(error) => Err(Problem::of_path(&error).into()),
            },
            (_, Target::Local { .. }) => match self.tree.take() {
                Some(mut tree) => {
                    let path: RelPath = entry.path.clone();
                    let (made, tree) = blocking(move || (tree.make_way(&path), tree)).await?;
                    self.tree = Some(tree);
                    made
                }
                None => Ok(()),
            },
        };
        match made {
            Ok(()) => Ok(true),
            Err(Trouble::Entry(problem)) => {
                self.copy.report.failed(&entry.path, &problem, entry.bytes);
                Ok(false)
            }
            Err(other) => Err(other),
        }
    }
}

async fn make_way_there(remote: &Remote, file: &FilePath) -> Result<(), Trouble> {
    if remote.stat(file, false).await?.stat.kind == FileKind::Directory {
        return Err(in_the_way().into());
    }
    let input = json!({ "file": file.to_string() });
    remote.call::<Value>("fs/remove", &input).await.map(drop)
}

/// Whether a file does not go with others in one stream.
fn is_by_itself(entry: &Entry, is_single: bool) -> bool {
    let is_special = match &entry.origin {
        Origin::Local { has_holes, .. } => *has_holes && entry.bytes > 64 * 1024,
        Origin::Remote { is_direct, .. } => *is_direct,
    };
    is_single || is_special || entry.bytes > SMALL_FILE_BYTES_MAX as u64
}

/// Tells the node what there is to compare.
async fn ask(
    mut tx: crate::node_access::ByteSender,
    mut entries: mpsc::Receiver<Entry>,
    asked: mpsc::Sender<Entry>,
    trusts_times: bool,
    preserve: bool,
) -> Result<(), Trouble> {
    let mut batch = Vec::new();
    while entries.recv_many(&mut batch, WINDOW).await > 0 {
        let mut lines = BytesMut::new();
        for entry in batch.drain(..) {
            lines.extend_from_slice(&line(&comparison(&entry, trusts_times, preserve)?));
            asked.send(entry).await.map_err(|_| Trouble::Quiet)?;
            if lines.len() >= LINES_BYTES {
                tx.send(lines.split().freeze())
                    .await
                    .map_err(|_| Trouble::Quiet)?;
            }
        }
        // What is looked at together is sent together.
        tx.send(lines.freeze()).await.map_err(|_| Trouble::Quiet)?;
    }
    tx.end();
    Ok(())
}

pub(super) fn comparison(
    entry: &Entry,
    trusts_times: bool,
    preserve: bool,
) -> Result<Comparison, Trouble> {
    let path = EntryPath::parse(entry.path.as_str()).map_err(|error| Problem::of_path(&error))?;
    let is_link = entry.kind == FileKind::Symlink;
    let has_time = preserve && !is_link && (trusts_times || entry.kind == FileKind::Directory);
    Ok(Comparison {
        path,
        kind: entry.kind,
        bytes: entry.bytes,
        mtime: has_time.then_some(entry.mtime),
        mode: (preserve && !is_link).then_some(entry.copied_mode()),
        target: entry.target.clone().filter(|_| is_link),
    })
}

impl From<crate::node_access::stream::Differs> for Differs {
    fn from(differs: crate::node_access::stream::Differs) -> Self {
        use crate::node_access::stream::Differs as Told;
        match differs {
            Told::Missing => Self::Missing,
            Told::Kind => Self::Kind,
            Told::Content => Self::Content,
            Told::Attributes => Self::Attributes,
        }
    }
}
