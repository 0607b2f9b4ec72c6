//! `fs/copy`: copies within the node.

use super::{
    BUCKET, CreateInput, LONG, bad_argument, described, make_directories,
    walk::{Step, Walk},
    with_errors, yes,
};
use crate::stream::{EntryPath, Failure};
use alknet_core::{
    CallError, Context, Operation, Permit, Registration,
    files::{
        Attributes, CopyOptions, Create, FileError, FileErrorCode, FileKind, FilePath, FileService,
        FileStat, ListEntry, SetTime,
    },
};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Files that are copied at once.
const COPIES_MAX: usize = 8;
/// Failures that are told one by one.
const ERRORS_MAX: usize = 16;
/// How often progress is reported.
const REPORTS_EVERY: Duration = Duration::from_millis(500);
/// Permissions of a directory: the low bits, and the sticky one.
const DIRECTORY_MODE: u32 = 0o1777;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CopyInput {
    /// What to copy: `bucket[@branch]/path`.
    file: FilePath,
    /// Where the copy lies, in any bucket of the node.
    to: FilePath,
    /// What is done if a file is not there, or is.
    #[serde(default)]
    create: CreateInput,
    /// Whether permissions and the time of the last change go along.
    #[serde(default = "yes")]
    attributes: bool,
    /// Copies a directory with all that is in it.
    #[serde(default)]
    recursive: bool,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
struct Copied {
    /// Files that were copied.
    files: u64,
    /// Bytes of these files, holes included.
    bytes: u64,
    /// Directories that were copied.
    directories: u64,
    /// Symbolic links that were copied.
    links: u64,
    /// Pipes, devices, sockets, and links that would lead out of the bucket.
    skipped: u64,
    /// Entries that failed.
    failed: u64,
    /// The first 16 of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<CopyError>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct CopyError {
    /// Which entry, below the directory.
    path: EntryPath,
    /// The code.
    code: String,
    /// One sentence.
    message: String,
}

const DESCRIPTION: &str = "\
The bytes do not leave the node; where the file system can, they are shared (reflink). Holes \
stay holes. `to` is the copy itself, not a directory that it goes into. A link that is named is \
followed.\n\n\
With `recursive`, a directory is copied with what the caller may list in it (as `fs/list`, which \
it must be allowed), into one that is there, or is made; links are copied as links, pipes and \
devices are skipped. An entry that fails is told in `errors`, and the others go on. Reports \
progress.";

pub(super) fn copy(files: Arc<dyn FileService>) -> Registration {
    with_errors(Operation::mutation(
        "fs/copy",
        "Copies a file or a directory within the node.",
    ))
    .description(DESCRIPTION)
    .requires("fs:write")
    .resource(BUCKET, "read", "/file")
    .resource(BUCKET, "write", "/to")
    .destructive()
    .timeout(LONG)
    .example(
        json!({ "file": "inbox/notes.txt", "to": "inbox/notes.bak" }),
        json!({
            "files": 1, "bytes": 5, "directories": 0, "links": 0, "skipped": 0, "failed": 0,
        }),
    )
    .handler(move |cx, input: CopyInput| {
        let files = files.clone();
        async move { run(files, &cx, input).await }
    })
}

async fn run(
    files: Arc<dyn FileService>,
    cx: &Context,
    input: CopyInput,
) -> Result<Copied, CallError> {
    let permit = cx.permit();
    let options = CopyOptions {
        create: input.create.into(),
        attributes: input.attributes,
    };
    let stat = match input.recursive {
        true => files.stat(&permit, &input.file, true).await.map(Some)?,
        false => None,
    };
    let Some(stat) = stat.filter(|stat| stat.kind == FileKind::Directory) else {
        let stat = files.copy(&permit, &input.file, &input.to, options).await?;
        return Ok(Copied {
            files: 1,
            bytes: stat.bytes,
            ..Copied::default()
        });
    };
    let list = cx.permit_for("fs/list")?;
    let copying = Copying {
        files: &*files,
        permit: &permit,
        from: &input.file,
        to: &input.to,
        options,
        copied: Copied::default(),
        under_way: FuturesUnordered::new(),
    };
    let walk = Walk::begin(files.clone(), &list, input.file.clone()).await?;
    copying.copy_all(cx, &list, walk, &stat).await
}

type CopyFuture<'a> = BoxFuture<'a, (EntryPath, Result<FileStat, FileError>)>;

struct Copying<'a> {
    files: &'a dyn FileService,
    permit: &'a Permit,
    from: &'a FilePath,
    to: &'a FilePath,
    options: CopyOptions,
    copied: Copied,
    under_way: FuturesUnordered<CopyFuture<'a>>,
}

impl<'a> Copying<'a> {
    async fn copy_all(
        mut self,
        cx: &Context,
        list: &Permit,
        mut walk: Walk,
        top: &FileStat,
    ) -> Result<Copied, CallError> {
        if self.to.is_within(self.from) {
            return Err(self.refused_within());
        }
        self.make_top(top).await?;
        let real_from = walk.real_top().clone();
        if leads_into(self.files, list, self.to, &real_from).await {
            return Err(self.refused_within());
        }
        let mut reported = Instant::now();
        while let Some(step) = walk.next(list).await {
            match step {
                Step::Entry(path, entry) => {
                    if !self.entry(path, &entry).await {
                        walk.skip();
                    }
                }
                Step::Left(path, stat) => self.leave(&path, &stat).await,
                Step::Failed(path, error) => {
                    list.caller()?;
                    self.failed(path, error);
                }
            }
            // A right that is lost ends it, however many entries are left.
            self.permit.caller()?;
            if reported.elapsed() >= REPORTS_EVERY {
                reported = Instant::now();
                cx.progress(&self.copied).await;
            }
        }
        self.leave(&EntryPath::default(), top).await;
        Ok(self.copied)
    }

    fn refused_within(&self) -> CallError {
        let (from, to) = (self.from, self.to);
        bad_argument(format!("`{from}` cannot be copied into itself, to `{to}`"))
    }

    async fn make_top(&mut self, top: &FileStat) -> Result<(), CallError> {
        let create = self.options.create;
        if self.to.names().is_empty() || create == Create::Never {
            described(self.files, self.permit, self.to, true).await?;
            return Ok(());
        }
        let mode = self.making_mode(top);
        match self.files.make_directory(self.permit, self.to, mode).await {
            Ok(_) => self.copied.directories += 1,
            Err(error)
                if create == Create::IfMissing
                    && error.code() == Some(FileErrorCode::FileExists) =>
            {
                let stat = described(self.files, self.permit, self.to, true).await?;
                if stat.kind != FileKind::Directory {
                    return Err(error.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Permissions while things are put into it: its own come last.
    fn making_mode(&self, stat: &FileStat) -> Option<u32> {
        let attributes = self.options.attributes;
        attributes.then_some(stat.mode & DIRECTORY_MODE | 0o700)
    }

    /// Starts to copy an entry; whether what is in it is copied too.
    async fn entry(&mut self, path: EntryPath, entry: &ListEntry) -> bool {
        while self.under_way.len() >= COPIES_MAX {
            self.one_done().await;
        }
        let (from, to) = match (path.below(self.from), path.below(self.to)) {
            (Ok(from), Ok(to)) => (from, to),
            (Err(error), _) | (_, Err(error)) => {
                let error = FileError::new(FileErrorCode::NameTooLong, error.to_string());
                self.failed(path, error);
                return false;
            }
        };
        match entry.stat.kind {
            FileKind::File => {
                let (files, permit, options) = (self.files, self.permit, self.options);
                self.under_way.push(Box::pin(async move {
                    let copied = files.copy(permit, &from, &to, options).await;
                    (path, copied)
                }));
            }
            FileKind::Directory => {
                let mode = self.making_mode(&entry.stat);
                match make_directories(self.files, self.permit, &to, mode).await {
                    Ok(_) => self.copied.directories += 1,
                    Err(error) => {
                        self.failed(path, error);
                        return false;
                    }
                }
            }
            FileKind::Symlink => self.link(path, &from, &to).await,
            FileKind::Other => self.copied.skipped += 1,
        }
        true
    }

    async fn link(&mut self, path: EntryPath, from: &FilePath, to: &FilePath) {
        let linked = async {
            let target = self.files.read_link(self.permit, from).await?;
            self.files.symlink(self.permit, to, &target).await
        };
        match linked.await {
            Ok(()) => self.copied.links += 1,
            Err(error) if error.code() == Some(FileErrorCode::LeadsOutside) => {
                self.copied.skipped += 1;
            }
            Err(error) => self.failed(path, error),
        }
    }

    async fn one_done(&mut self) {
        match self.under_way.next().await {
            Some((_, Ok(stat))) => {
                self.copied.files += 1;
                self.copied.bytes = self.copied.bytes.saturating_add(stat.bytes);
            }
            Some((path, Err(error))) => self.failed(path, error),
            None => {}
        }
    }

    /// A directory is complete: its own attributes.
    async fn leave(&mut self, path: &EntryPath, stat: &FileStat) {
        while !self.under_way.is_empty() {
            self.one_done().await;
        }
        if !self.options.attributes {
            return;
        }
        let Ok(to) = path.below(self.to) else {
            return;
        };
        let attributes = Attributes {
            mode: Some(stat.mode & DIRECTORY_MODE),
            mtime: Some(SetTime::To(stat.mtime)),
            ..Attributes::default()
        };
        let set = self
            .files
            .set_attributes(self.permit, &to, true, attributes);
        if let Err(error) = set.await {
            self.failed(path.clone(), error);
        }
    }

    fn failed(&mut self, path: EntryPath, error: FileError) {
        self.copied.failed += 1;
        if self.copied.errors.len() < ERRORS_MAX {
            let Failure { code, message } = Failure::from(&CallError::from(error));
            let error = CopyError {
                path,
                code,
                message,
            };
            self.copied.errors.push(error);
        }
    }
}

/// Whether a directory lies in another through links, although its name does
/// not say so. Where it may not be listed, the length of paths is the bound.
async fn leads_into(
    files: &dyn FileService,
    list: &Permit,
    to: &FilePath,
    real_from: &FilePath,
) -> bool {
    let listing = files.list(list, to, None).await;
    listing.is_ok_and(|listing| listing.path().is_within(real_from))
}
