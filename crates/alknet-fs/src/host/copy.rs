//! Files copied and digested on this machine.

use super::{
    bucket::{Bucket, needs},
    gate::{self, Gate, Reached},
    handle::{POSITION_MAX, check_both, follow_to, refuse_no_file},
    jobs::Jobs,
    replacement::DIGEST_TURN_BYTES,
    writing::Writing,
};
use crate::root::{Commit, Digester, File, Follow, Meta, OpenHow, PartialKey};
use alknet_core::{
    Permit,
    files::{
        Attributes, ByteRange, CopyOptions, Create, DigestRequest, Digests, FileError,
        FileErrorCode, FileKind, FilePath, FileStat, SetTime,
    },
};
use std::{ops::ControlFlow, sync::Arc};

/// Bytes copied in one turn of a thread that blocks; between turns, access is
/// checked again.
const COPY_TURN_BYTES: u64 = 64 * 1024 * 1024;

/// A copy under way.
struct Copying {
    source: File,
    meta: Meta,
    writing: Writing,
}

/// Where something is copied from, and where to.
struct Ends {
    from: (FilePath, FilePath),
    to: (FilePath, FilePath),
}

impl Ends {
    fn check(&self, permit: &Permit) -> Result<(), FileError> {
        check_both(permit, "read", &self.from.0, &self.from.1)?;
        check_both(permit, "write", &self.to.0, &self.to.1)
    }
}

/// Copies a file from one bucket to the same or another one.
pub(crate) async fn copy(
    permit: &Permit,
    (from_bucket, from): (&Arc<Bucket>, &FilePath),
    (to_bucket, to): (&Arc<Bucket>, &FilePath),
    options: CopyOptions,
) -> Result<FileStat, FileError> {
    let jobs = to_bucket.jobs.clone();
    let first = [needs(&["read"], from), needs(&["write"], to)].concat();
    let (source, target) = (Arc::clone(from_bucket), Arc::clone(to_bucket));
    let (from_named, to_named) = (from.clone(), to.clone());
    let begin = move |gate: &Gate| {
        target.writable()?;
        let from = gate.reach(&source.root()?, &["read"], &from_named, Follow::Yes)?;
        let to = gate.reach(
            &target.root()?,
            &["write"],
            &to_named,
            follow_to(options.create),
        )?;
        let copying = Copying::begin(&target, &from, &to, options)?;
        let ends = Ends {
            from: (from.named, from.real),
            to: (to.named, to.real),
        };
        Ok((copying, ends))
    };
    let (mut copying, ends) = gate::run(&jobs, permit, first, begin).await?;
    loop {
        ends.check(permit)?;
        from_bucket.alive()?;
        let named = from.clone();
        let turn = move || {
            let is_all = copying.turn(&named)?;
            Ok::<_, FileError>((is_all, copying))
        };
        let (is_all, back) = jobs.run(turn).await??;
        copying = back;
        if is_all {
            break;
        }
    }
    ends.check(permit)?;
    jobs.run(move || copying.end(options)).await?
}

impl Copying {
    fn begin(
        target: &Arc<Bucket>,
        from: &Reached,
        to: &Reached,
        options: CopyOptions,
    ) -> Result<Self, FileError> {
        let says = |error| from.says(error);
        let Some(name) = &from.walked.name else {
            return Err(from.fails(FileErrorCode::IsADirectory, "it is a directory"));
        };
        let source = from
            .walked
            .directory
            .open(name, &OpenHow::read())
            .map_err(says)?;
        let meta = source.meta().map_err(says)?;
        let found = match to.walked.meta() {
            Ok(found) if options.create == Create::New => {
                let _ = found;
                return Err(to.fails(FileErrorCode::FileExists, "it exists"));
            }
            Ok(found) if found.id == meta.id => {
                return Err(to.fails(FileErrorCode::BadArgument, "it is the same file"));
            }
            Ok(found) => {
                refuse_no_file(found.kind, to)?;
                Some(found)
            }
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(to.says(error)),
        };
        if found.is_none() && options.create == Create::Never {
            let what = "there is no such file or directory";
            return Err(to.fails(FileErrorCode::NoSuchFile, what));
        }
        let mut writing = Writing::begin(target, to, found.as_ref(), PartialKey::Once)?;
        // Holes take no room; blocks that are shared with the source are known to
        // be so only when they are copied.
        writing.grow(meta.bytes, 0)?;
        Ok(Self {
            source,
            meta,
            writing,
        })
    }

    /// Copies some more; whether that was all.
    fn turn(&mut self, named: &FilePath) -> Result<bool, FileError> {
        let says = |error| gate::says(named, error);
        let mut left = COPY_TURN_BYTES;
        while left > 0 {
            let at = self.writing.bytes();
            if at >= self.meta.bytes {
                return Ok(true);
            }
            let data = self.source.next_data(at).map_err(says)?;
            // What the source has lost since is a hole.
            let data = data.filter(|data| data.start < self.meta.bytes);
            let Some(data) = data else {
                self.writing.skip(self.meta.bytes - at)?;
                return Ok(true);
            };
            if data.start > at {
                self.writing.skip(data.start - at)?;
            }
            let end = data
                .end
                .min(self.meta.bytes)
                .min(data.start.saturating_add(left));
            let copied = self
                .writing
                .copy_from(&self.source, data.start, end - data.start)?;
            if copied == 0 {
                self.writing.skip(self.meta.bytes - data.start)?;
                return Ok(true);
            }
            left = left.saturating_sub(copied);
        }
        Ok(self.writing.bytes() >= self.meta.bytes)
    }

    fn end(mut self, options: CopyOptions) -> Result<FileStat, FileError> {
        let attributes = match options.attributes {
            true => Attributes {
                mode: Some(self.meta.mode & 0o777),
                mtime: Some(SetTime::To(self.meta.modified)),
                ..Attributes::default()
            },
            false => Attributes::default(),
        };
        self.writing.commit(&Commit {
            durable: true,
            attributes,
            place: options.create.into(),
        })
    }
}

/// A digest under way.
struct Digesting {
    file: File,
    before: Meta,
    digester: Digester,
    at: ByteRange,
}

impl Bucket {
    pub(crate) async fn digest(
        self: &Arc<Self>,
        permit: &Permit,
        path: &FilePath,
        request: DigestRequest,
    ) -> Result<(Digests, FileStat), FileError> {
        if request.algorithms.is_empty() {
            let message = format!("`{path}`: no algorithm is asked for");
            return Err(FileError::new(FileErrorCode::BadArgument, message));
        }
        let (bucket, named) = (Arc::clone(self), path.clone());
        let begin = move |gate: &Gate| {
            let reached = gate.reach(&bucket.root()?, &["read"], &named, Follow::Yes)?;
            let says = |error| reached.says(error);
            let Some(name) = &reached.walked.name else {
                return Err(reached
                    .fails(FileErrorCode::IsADirectory, "it is a directory")
                    .into());
            };
            let file = reached
                .walked
                .directory
                .open(name, &OpenHow::read())
                .map_err(says)?;
            let digesting = Digesting {
                before: file.meta().map_err(says)?,
                file,
                digester: Digester::new(&request.algorithms),
                at: request.range,
            };
            Ok((digesting, reached.real.clone()))
        };
        let (digesting, real) =
            gate::run(&self.jobs, permit, needs(&["read"], path), begin).await?;
        self.digest_on(permit, (path, &real), digesting).await
    }

    async fn digest_on(
        &self,
        permit: &Permit,
        (named, real): (&FilePath, &FilePath),
        mut digesting: Digesting,
    ) -> Result<(Digests, FileStat), FileError> {
        let jobs: &Jobs = &self.jobs;
        loop {
            check_both(permit, "read", named, real)?;
            self.alive()?;
            let path = named.clone();
            let turn = move || {
                let is_all = digesting.turn(&path)?;
                Ok::<_, FileError>((is_all, digesting))
            };
            let (is_all, back) = jobs.run(turn).await??;
            digesting = back;
            if is_all {
                break;
            }
        }
        let path = named.clone();
        jobs.run(move || digesting.end(&path)).await?
    }
}

impl Digesting {
    /// Reads some more; whether that was all.
    fn turn(&mut self, named: &FilePath) -> Result<bool, FileError> {
        if self.at.offset > POSITION_MAX {
            return Ok(true);
        }
        let bytes = self.at.bytes.unwrap_or(u64::MAX).min(DIGEST_TURN_BYTES);
        let range = ByteRange {
            offset: self.at.offset,
            bytes: Some(bytes),
        };
        let read = self
            .file
            .digest(range, &mut self.digester, |_| ControlFlow::Continue(()));
        let read = read.map_err(|error| gate::says(named, error))?;
        self.at.offset = self.at.offset.saturating_add(read);
        self.at.bytes = self.at.bytes.map(|left| left - read.min(left));
        Ok(read < bytes || self.at.bytes == Some(0))
    }

    /// A digest of what changed meanwhile is one of nothing that ever was.
    fn end(self, named: &FilePath) -> Result<(Digests, FileStat), FileError> {
        let after = self.file.meta().map_err(|error| gate::says(named, error))?;
        if after.version() != self.before.version() && after.kind == FileKind::File {
            let message = format!("`{named}`: it changed while it was read");
            return Err(FileError::new(FileErrorCode::FileChanged, message));
        }
        Ok((self.digester.finish(), after.stat()))
    }
}
