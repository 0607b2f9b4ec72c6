//! Open files.

use super::{
    bucket::{Bucket, lock, needs},
    gate::{self, Gate, Halt, Reached},
    names::sync_names,
    usage::{Amount, Claim, Freeing, check_room},
};
use crate::root::{Directory, File, Follow, OpenHow, RootError};
use alknet_core::{
    Permit,
    files::{
        Attributes, Create, Extent, FileError, FileErrorCode, FileKind, FilePath, FileStat,
        OpenFile, OpenOptions, READ_BYTES_MAX, SetTime,
    },
};
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::{Arc, Mutex};

/// The last position that a file can have.
pub(crate) const POSITION_MAX: u64 = i64::MAX.unsigned_abs();

impl Bucket {
    pub(crate) async fn open_file(
        self: &Arc<Self>,
        permit: &Permit,
        path: &FilePath,
        options: OpenOptions,
    ) -> Result<Arc<dyn OpenFile>, FileError> {
        let writes = options.write || options.append || options.truncate;
        let action = if writes { "write" } else { "read" };
        let (bucket, named) = (Arc::clone(self), path.clone());
        let act = move |gate: &Gate| {
            let follow = match options.follow {
                true => follow_to(options.create),
                false => Follow::No,
            };
            let root = bucket.root()?;
            let reached = gate.reach(&root, &[action], &named, follow)?;
            bucket.open_reached(reached, &options, writes)
        };
        let file = gate::run(&self.jobs, permit, needs(&[action], path), act).await?;
        Ok(Arc::new(file))
    }

    fn open_reached(
        self: &Arc<Self>,
        reached: Reached,
        options: &OpenOptions,
        writes: bool,
    ) -> Result<HostFile, Halt> {
        let how = OpenHow {
            read: options.read,
            write: options.write && !options.append,
            append: options.append,
            create: options.create,
            // Emptied below, where nobody else changes its length.
            truncate: false,
            mode: options.mode,
        };
        let is_known = match reached.walked.meta() {
            Ok(meta) => Some(meta),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(reached.says(error).into()),
        };
        let name = match &reached.walked.name {
            Some(name) => name,
            None => {
                return Err(reached
                    .fails(FileErrorCode::IsADirectory, "it is a directory")
                    .into());
            }
        };
        if writes {
            // A file that is there is said to be none before it is said to be
            // one that is not written to.
            self.writable()?;
        }
        let is_new = is_known.is_none() && options.create != Create::Never;
        let claim = Claim::of(self, &reached.named, 0, u64::from(is_new))?;
        let file = reached.walked.directory.open(name, &how);
        let file = file.map_err(|error| reached.says(error))?;
        claim.keep();
        if options.truncate {
            let says = |error| reached.says(error);
            let freeing = self.usage.freeing();
            let _alone = self.growing(&self.settings(), file.id());
            let before = file.meta().map_err(says)?;
            file.set_len(0).map_err(says)?;
            freeing.freed(before.bytes, 0);
        }
        let made = is_new.then(|| reached.walked.directory.clone());
        Ok(HostFile {
            made: Arc::new(Mutex::new(made)),
            bucket: Arc::clone(self),
            named: reached.named,
            real: reached.real,
            file: Arc::new(file),
            reads: options.read,
            writes: options.write || options.append,
            appends: options.append,
        })
    }
}

/// An open file of the host.
#[derive(Debug)]
pub(crate) struct HostFile {
    bucket: Arc<Bucket>,
    named: FilePath,
    real: FilePath,
    file: Arc<File>,
    reads: bool,
    writes: bool,
    appends: bool,
    /// Where it was made, until its name lasts.
    made: Arc<Mutex<Option<Directory>>>,
}

impl HostFile {
    fn check(&self, permit: &Permit, action: &'static str) -> Result<(), FileError> {
        check_both(permit, action, &self.named, &self.real)
    }

    /// # Errors
    ///
    /// `BAD_ARGUMENT` if it was not opened for that.
    fn opened_to(&self, is_so: bool) -> Result<(), FileError> {
        self.bucket.alive()?;
        match is_so {
            true => Ok(()),
            false => {
                let message = format!("`{}`: it was not opened for that", self.named);
                Err(FileError::new(FileErrorCode::BadArgument, message))
            }
        }
    }

    /// Runs what blocks, with the file.
    async fn run<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Arc<Bucket>, &File) -> Result<T, FileError> + Send + 'static,
    ) -> Result<T, FileError> {
        self.bucket.alive()?;
        let (bucket, file) = (Arc::clone(&self.bucket), Arc::clone(&self.file));
        self.bucket.jobs.run(move || act(&bucket, &file)).await?
    }

    /// An error, as callers hear it.
    fn says(&self) -> impl Fn(RootError) -> FileError + Send + use<> {
        let named = self.named.clone();
        move |error| gate::says(&named, error)
    }
}

#[async_trait]
impl OpenFile for HostFile {
    fn path(&self) -> &FilePath {
        &self.real
    }

    async fn stat(&self, permit: &Permit) -> Result<FileStat, FileError> {
        if let Err(refused) = self.check(permit, "read") {
            // A permit to write is one to know what was written.
            self.check(permit, "write").map_err(|_| refused)?;
        }
        let says = self.says();
        self.run(move |_, file| Ok(file.meta().map_err(says)?.stat()))
            .await
    }

    async fn read_at(
        &self,
        permit: &Permit,
        offset: u64,
        bytes: usize,
    ) -> Result<Bytes, FileError> {
        self.check(permit, "read")?;
        self.opened_to(self.reads)?;
        if offset > POSITION_MAX || bytes == 0 {
            self.bucket.alive()?;
            return Ok(Bytes::new());
        }
        let says = self.says();
        let read = move |_: &Arc<Bucket>, file: &File| {
            let left = POSITION_MAX - offset;
            let most = bytes
                .min(READ_BYTES_MAX)
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let mut buffer = vec![0; most];
            let read = file.read_at(&mut buffer, offset).map_err(says)?;
            buffer.truncate(read);
            // What is kept for long is no larger than what it holds.
            if read < most / 2 {
                buffer.shrink_to_fit();
            }
            Ok(Bytes::from(buffer))
        };
        self.run(read).await
    }

    async fn write_at(&self, permit: &Permit, offset: u64, bytes: Bytes) -> Result<(), FileError> {
        self.check(permit, "write")?;
        self.bucket.writable()?;
        self.opened_to(self.writes)?;
        let (says, named, appends) = (self.says(), self.named.clone(), self.appends);
        let write = move |bucket: &Arc<Bucket>, file: &File| {
            let settings = bucket.writable()?;
            let _alone = bucket.growing(&settings, file.id());
            let before = file.meta().map_err(&says)?;
            let start = if appends { before.bytes } else { offset };
            let end = start.checked_add(bytes.len() as u64);
            let end = end.filter(|end| *end <= POSITION_MAX).ok_or_else(|| {
                let message = format!("`{named}`: it would be too large");
                FileError::new(FileErrorCode::FileTooLarge, message)
            })?;
            if bytes.is_empty() {
                return Ok(());
            }
            let growth = end.saturating_sub(before.bytes);
            let claim = Claim::of(bucket, &named, growth, 0)?;
            // Into a hole, all of it takes room that was not taken before.
            let has_holes = before.bytes_on_disk < before.bytes;
            let taken = if has_holes {
                bytes.len() as u64
            } else {
                growth.min(bytes.len() as u64)
            };
            check_room(bytes_free(file), &named, taken, &settings)?;
            let written = match appends {
                true => file.append(&bytes),
                false => file.write_at(&bytes, offset),
            };
            match written {
                Ok(()) => claim.keep(),
                Err(error) => {
                    let now = file.meta().map(|meta| meta.bytes).unwrap_or(before.bytes);
                    let bytes = now.saturating_sub(before.bytes);
                    claim.settle(Amount { bytes, entries: 0 });
                    return Err(says(error));
                }
            }
            Ok(())
        };
        self.run(write).await
    }

    async fn set_attributes(
        &self,
        permit: &Permit,
        attributes: Attributes,
    ) -> Result<FileStat, FileError> {
        self.check(permit, "write")?;
        check_times(&self.named, &attributes)?;
        let (says, named) = (self.says(), self.named.clone());
        let set = move |bucket: &Arc<Bucket>, file: &File| {
            let settings = bucket.writable()?;
            let freeing = bucket.usage.freeing();
            let _alone = bucket.growing(&settings, file.id());
            let before = file.meta().map_err(&says)?;
            let claim = claim_length(bucket, &named, before.bytes, &attributes)?;
            let meta = file.set_attributes(&attributes).map_err(says)?;
            settle_length(claim, &freeing, before.bytes, &attributes);
            Ok(meta.stat())
        };
        self.run(set).await
    }

    async fn sync(&self, permit: &Permit) -> Result<(), FileError> {
        self.check(permit, "write")?;
        let (says, made) = (self.says(), Arc::clone(&self.made));
        let sync = move |_: &Arc<Bucket>, file: &File| {
            file.sync().map_err(&says)?;
            let mut made = lock(&made);
            if let Some(directory) = &*made {
                sync_names(directory).map_err(says)?;
            }
            *made = None;
            Ok(())
        };
        self.run(sync).await
    }

    async fn extent(&self, permit: &Permit, offset: u64) -> Result<Extent, FileError> {
        self.check(permit, "read")?;
        let says = self.says();
        let look = move |_: &Arc<Bucket>, file: &File| {
            let bytes = file.meta().map_err(&says)?.bytes;
            if offset >= bytes {
                return Ok(Extent::End);
            }
            Ok(match file.next_data(offset).map_err(says)? {
                Some(data) if data.start <= offset => Extent::Data(data.end),
                Some(data) => Extent::Hole(data.start),
                None => Extent::Hole(bytes),
            })
        };
        self.run(look).await
    }
}

/// How a path is walked to what is made or written there: a name that must be
/// new is taken by a link, too, wherever that leads (`O_EXCL`).
pub(crate) fn follow_to(create: Create) -> Follow {
    match create {
        Create::New => Follow::No,
        Create::Never | Create::IfMissing => Follow::Yes,
    }
}

/// # Errors
///
/// `BAD_ARGUMENT` for a second that has more nanoseconds than it has; the host
/// takes such numbers for words.
pub(crate) fn check_times(path: &FilePath, attributes: &Attributes) -> Result<(), FileError> {
    let is_time = |time: Option<SetTime>| match time {
        Some(SetTime::To(time)) => time.nanoseconds < 1_000_000_000,
        Some(SetTime::Now) | None => true,
    };
    match is_time(attributes.mtime) && is_time(attributes.atime) {
        true => Ok(()),
        false => {
            let message = format!("`{path}`: a second has 1,000,000,000 nanoseconds");
            Err(FileError::new(FileErrorCode::BadArgument, message))
        }
    }
}

/// Claims what a file grows by when its length is set. Blocks.
///
/// # Errors
///
/// As [`Claim::of`]; `FILE_TOO_LARGE`.
pub(crate) fn claim_length(
    bucket: &Arc<Bucket>,
    named: &FilePath,
    before: u64,
    attributes: &Attributes,
) -> Result<Claim, FileError> {
    let bytes = attributes.bytes.unwrap_or(before);
    if bytes > POSITION_MAX {
        let message = format!("`{named}`: it would be too large");
        return Err(FileError::new(FileErrorCode::FileTooLarge, message));
    }
    Claim::of(bucket, named, bytes.saturating_sub(before), 0)
}

/// Counts what a file grew by, or shrank, when its length was set.
pub(crate) fn settle_length(
    claim: Claim,
    freeing: &Freeing<'_>,
    before: u64,
    attributes: &Attributes,
) {
    claim.keep();
    if let Some(bytes) = attributes.bytes {
        freeing.freed(before.saturating_sub(bytes), 0);
    }
}

/// Checks the path that the caller named, and what it leads to.
///
/// # Errors
///
/// What the door says.
pub(crate) fn check_both(
    permit: &Permit,
    action: &'static str,
    named: &FilePath,
    real: &FilePath,
) -> Result<(), FileError> {
    permit.check_file(action, named)?;
    match named == real {
        true => Ok(()),
        false => gate::behind(action, real, named).check(permit),
    }
}

/// Bytes that may still be written where a file lies.
pub(crate) fn bytes_free(file: &File) -> Result<u64, RootError> {
    let said = rustix::fs::fstatvfs(file)?;
    Ok(said.f_bavail.saturating_mul(said.f_frsize))
}

/// Whether something can have a new content: a file, or nothing.
pub(crate) fn refuse_no_file(kind: FileKind, reached: &Reached) -> Result<(), FileError> {
    let (code, what) = match kind {
        FileKind::File => return Ok(()),
        FileKind::Directory => (FileErrorCode::IsADirectory, "it is a directory"),
        FileKind::Symlink => (FileErrorCode::TooManyLinks, "it is a symbolic link"),
        FileKind::Other => (
            FileErrorCode::NotAFile,
            "it is a pipe, a device or a socket",
        ),
    };
    Err(reached.fails(code, what))
}
