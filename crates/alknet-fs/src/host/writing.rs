//! New contents while they are written, and what they take of a quota.

use super::{
    bucket::Bucket,
    gate::{self, Reached},
    handle::{POSITION_MAX, bytes_free},
    usage::{Amount, Claim, Freeing, check_room},
};
use crate::root::{Commit, Digester, File, FileId, Meta, Partial, PartialKey, RootError};
use alknet_core::files::{
    Algorithm, ByteRange, Digests, FileError, FileErrorCode, FilePath, FileStat, ReplaceOptions,
};
use std::{ops::ControlFlow, sync::Arc};

/// A new content, and all that goes with it.
#[derive(Debug)]
pub(crate) struct Writing {
    /// `None` once it is committed or given up.
    partial: Option<Partial>,
    claim: Option<Claim>,
    pub(super) bucket: Arc<Bucket>,
    named: FilePath,
    /// Length that the file had; the new content takes its place.
    credit: u64,
    /// The file that has that length.
    credited: Option<FileId>,
    digester: Option<Digester>,
    pub(super) is_resumable: bool,
    /// There was no room: what it holds is what is missing.
    is_without_room: bool,
}

impl Writing {
    /// Begins, or goes on. Blocks.
    pub(crate) fn begin(
        bucket: &Arc<Bucket>,
        reached: &Reached,
        found: Option<&Meta>,
        key: PartialKey<'_>,
    ) -> Result<Self, FileError> {
        let says = |error| reached.says(error);
        let name = reached.walked.name().map_err(says)?;
        if bucket.settings().has_quota() {
            // What is kept of it in the end is asked for without counting.
            bucket.usage.now(&bucket.root()?).map_err(says)?;
        }
        let partial = reached.walked.directory.partial(name, key).map_err(says)?;
        let kept = partial.bytes();
        // What was kept was counted as a file of its own.
        bucket.usage.begin_partial(partial.file().id(), kept);
        let credited = found.filter(|meta| meta.links < 2);
        let credited = credited.filter(|meta| bucket.usage.take_credit(meta.id));
        let mut writing = Self {
            partial: Some(partial),
            claim: Some(Claim::nothing(bucket)),
            bucket: Arc::clone(bucket),
            named: reached.named.clone(),
            credit: credited.map_or(0, |meta| meta.bytes),
            credited: credited.map(|meta| meta.id),
            digester: None,
            is_resumable: matches!(key, PartialKey::Resumable(_)),
            is_without_room: false,
        };
        let entries = u64::from(found.is_none());
        let bytes = kept.saturating_sub(writing.credit);
        writing.claim(Amount { bytes, entries })?;
        Ok(writing)
    }

    fn claim(&mut self, more: Amount) -> Result<(), FileError> {
        match &mut self.claim {
            Some(claim) => claim.add(&self.named, more),
            None => Ok(()),
        }
    }

    pub(crate) fn partial(&mut self) -> Result<&mut Partial, FileError> {
        let gone = || self_is_gone(&self.named);
        self.partial.as_mut().ok_or_else(gone)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.partial.as_ref().map_or(0, Partial::bytes)
    }

    /// Makes sure that `more` bytes may come, of which `on_disk` take room.
    pub(crate) fn grow(&mut self, more: u64, on_disk: u64) -> Result<(), FileError> {
        let grown = self.try_grow(more, on_disk);
        self.note(grown)
    }

    /// Takes note of an error that says that there is no room.
    fn note<T>(&mut self, done: Result<T, FileError>) -> Result<T, FileError> {
        let code = done.as_ref().err().and_then(FileError::code);
        let no_room = [FileErrorCode::NoSpace, FileErrorCode::QuotaExceeded];
        self.is_without_room |= code.is_some_and(|code| no_room.contains(&code));
        done
    }

    fn try_grow(&mut self, more: u64, on_disk: u64) -> Result<(), FileError> {
        let settings = self.bucket.writable()?;
        let end = self
            .bytes()
            .checked_add(more)
            .filter(|end| *end <= POSITION_MAX);
        let end = end.ok_or_else(|| {
            let message = format!("`{}`: it would be too large", self.named);
            FileError::new(FileErrorCode::FileTooLarge, message)
        })?;
        let has = self.claim.as_ref().map_or(0, |claim| claim.has.bytes);
        let bytes = end.saturating_sub(self.credit).saturating_sub(has);
        self.claim(Amount { bytes, entries: 0 })?;
        let named = self.named.clone();
        check_room(
            bytes_free(self.partial()?.file()),
            &named,
            on_disk,
            &settings,
        )
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.grow(bytes.len() as u64, bytes.len() as u64)?;
        let named = self.named.clone();
        let written = self.partial()?.write(bytes);
        self.note(written.map_err(|error| gate::says(&named, error)))?;
        if let Some(digester) = &mut self.digester {
            digester.update(bytes);
        }
        Ok(())
    }

    pub(crate) fn skip(&mut self, bytes: u64) -> Result<(), FileError> {
        self.grow(bytes, 0)?;
        let named = self.named.clone();
        let skipped = self.partial()?.skip(bytes);
        self.note(skipped.map_err(|error| gate::says(&named, error)))?;
        if let Some(digester) = &mut self.digester {
            digester.update_zeros(bytes);
        }
        Ok(())
    }

    /// Copies from `offset` of `source` to the end, and returns how many bytes.
    pub(crate) fn copy_from(
        &mut self,
        source: &File,
        offset: u64,
        bytes: u64,
    ) -> Result<u64, FileError> {
        self.grow(bytes, bytes)?;
        let named = self.named.clone();
        let copied = self.partial()?.copy_from(source, offset, bytes);
        self.note(copied.map_err(|error| gate::says(&named, error)))
    }

    pub(super) fn rewind(&mut self, bytes: u64) -> Result<(), FileError> {
        let named = self.named.clone();
        if bytes > self.bytes() {
            let message = format!("`{named}`: there are only {} bytes", self.bytes());
            return Err(FileError::new(FileErrorCode::BadArgument, message));
        }
        let rewound = self.partial()?.rewind(bytes);
        rewound.map_err(|error| gate::says(&named, error))?;
        let kept = self.bytes().saturating_sub(self.credit);
        if let Some(claim) = &mut self.claim {
            claim.cut(kept);
        }
        Ok(())
    }

    /// Takes the name. Blocks.
    pub(crate) fn commit(&mut self, commit: &Commit) -> Result<FileStat, FileError> {
        self.bucket.writable()?;
        let (bucket, named) = (Arc::clone(&self.bucket), self.named.clone());
        let says = |error| gate::says(&named, error);
        if commit.durable {
            // The bytes, so that what follows does not take long.
            self.partial()?.sync().map_err(says)?;
        }
        let freeing = bucket.usage.freeing();
        let replaced = self.replaces()?;
        let meta = self.partial()?.commit(commit).map_err(says)?;
        self.committed(&meta, replaced.as_ref(), &freeing);
        Ok(meta.stat())
    }

    /// What has the name now; claims what its room does not suffice for.
    fn replaces(&mut self) -> Result<Option<Meta>, FileError> {
        let bytes = self.bytes();
        let partial = self.partial()?;
        let replaced = partial.directory().meta_of(partial.final_name()).ok();
        let is_credited = |meta: &&Meta| meta.links < 2 && Some(meta.id) == self.credited;
        let room = replaced.as_ref().filter(is_credited);
        let wanted = Amount {
            bytes: bytes.saturating_sub(room.map_or(0, |meta| meta.bytes)),
            entries: u64::from(replaced.is_none()),
        };
        let has = self.claim.as_ref().map_or(wanted, |claim| claim.has);
        self.claim(Amount {
            bytes: wanted.bytes.saturating_sub(has.bytes),
            entries: wanted.entries.saturating_sub(has.entries),
        })?;
        Ok(replaced)
    }

    /// Gives out what is to be committed together with others.
    pub(crate) fn into_batch(mut self) -> Result<(Partial, Committing), FileError> {
        let replaced = self.replaces()?;
        let gone = self_is_gone(&self.named);
        let partial = self.partial.take().ok_or(gone)?;
        let waits = Committing {
            id: partial.file().id(),
            writing: self,
            replaced,
        };
        Ok((partial, waits))
    }

    /// Counts what is there now instead of what was.
    fn committed(&mut self, meta: &Meta, replaced: Option<&Meta>, freeing: &Freeing<'_>) {
        self.partial = None;
        let really = Amount {
            bytes: meta.bytes,
            entries: 1,
        };
        let usage = &self.bucket.usage;
        usage.end_partial(meta.id, self.claim.take(), really);
        if let Some(replaced) = replaced {
            freeing.freed_name(replaced);
        }
    }

    pub(super) fn discard(&mut self) {
        if let Some(partial) = self.partial.take() {
            let id = partial.file().id();
            partial.discard();
            let nothing = Amount::default();
            self.bucket
                .usage
                .end_partial(id, self.claim.take(), nothing);
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if let Some(credited) = self.credited {
            self.bucket.usage.end_credit(credited);
        }
        let Some(partial) = self.partial.take() else {
            return;
        };
        let (bytes, id) = (partial.bytes(), partial.file().id());
        let mut claim = self.claim.take();
        let mut kept = Amount::default();
        if self.is_resumable && bytes > 0 {
            // It is a file of its own, until somebody goes on with it: without
            // the room of the file that it was to replace.
            kept = Amount { bytes, entries: 1 };
        }
        if self.is_without_room {
            kept = Amount::default();
            partial.discard();
        } else if claim.as_mut().is_none_or(|claim| claim.reaches(kept)) {
            drop(partial);
        } else {
            kept = Amount::default();
            partial.discard();
        }
        self.bucket.usage.end_partial(id, claim, kept);
    }
}

/// One of a batch that is being committed.
pub(crate) struct Committing {
    writing: Writing,
    replaced: Option<Meta>,
    id: FileId,
}

impl Committing {
    pub(crate) fn done(
        mut self,
        said: Result<Meta, RootError>,
        freeing: &Freeing<'_>,
    ) -> Result<FileStat, FileError> {
        match said {
            Ok(meta) => {
                self.writing
                    .committed(&meta, self.replaced.as_ref(), freeing);
                Ok(meta.stat())
            }
            Err(error) => {
                let (claim, nothing) = (self.writing.claim.take(), Amount::default());
                self.writing
                    .bucket
                    .usage
                    .end_partial(self.id, claim, nothing);
                Err(gate::says(&self.writing.named, error))
            }
        }
    }
}
impl Writing {
    /// Refuses what will not have room.
    pub(super) fn announce(&mut self, options: &ReplaceOptions) -> Result<(), FileError> {
        let Some(bytes) = options.bytes else {
            return Ok(());
        };
        let more = bytes.saturating_sub(self.bytes());
        self.grow(more, if options.sparse { 0 } else { more })
    }

    pub(super) fn start_digests(&mut self, options: &ReplaceOptions) -> Result<(), FileError> {
        let algorithms = options.digests.as_ref().map(algorithms).unwrap_or_default();
        self.digester = (!algorithms.is_empty()).then(|| Digester::new(&algorithms));
        let (bytes, named) = (self.bytes(), self.named.clone());
        if let (Some(mut digester), true) = (self.digester.take(), bytes > 0) {
            let range = ByteRange {
                offset: 0,
                bytes: Some(bytes),
            };
            let file = self.partial()?.file();
            let digested = file.digest(range, &mut digester, |_| ControlFlow::Continue(()));
            digested.map_err(|error| gate::says(&named, error))?;
            self.digester = Some(digester);
        } else if !algorithms.is_empty() {
            self.digester = Some(Digester::new(&algorithms));
        }
        Ok(())
    }

    /// Refuses what is not what was announced.
    pub(super) fn check(&mut self, options: &ReplaceOptions) -> Result<(), FileError> {
        let bytes = self.bytes();
        if let Some(announced) = options.bytes.filter(|announced| *announced != bytes) {
            let message = format!(
                "`{}`: {announced} bytes were announced, {bytes} came",
                self.named
            );
            return Err(FileError::new(FileErrorCode::BadArgument, message));
        }
        let (Some(wanted), Some(digester)) = (&options.digests, self.digester.take()) else {
            return Ok(());
        };
        if digester.finish() != lower(wanted) {
            // Nobody goes on with what is wrong.
            self.discard();
            let message = format!(
                "`{}`: the bytes do not have the digest that was expected",
                self.named
            );
            return Err(FileError::new(FileErrorCode::HashMismatch, message));
        }
        Ok(())
    }
}

fn algorithms(digests: &Digests) -> Vec<Algorithm> {
    let all = [
        (digests.blake3.is_some(), Algorithm::Blake3),
        (digests.sha256.is_some(), Algorithm::Sha256),
        (digests.md5.is_some(), Algorithm::Md5),
    ];
    let asked = all.into_iter().filter(|(is_asked, _)| *is_asked);
    asked.map(|(_, algorithm)| algorithm).collect()
}

fn lower(digests: &Digests) -> Digests {
    let lower = |digest: &Option<String>| digest.as_ref().map(|digest| digest.to_ascii_lowercase());
    Digests {
        blake3: lower(&digests.blake3),
        sha256: lower(&digests.sha256),
        md5: lower(&digests.md5),
    }
}

pub(super) fn self_is_gone(named: &FilePath) -> FileError {
    let message = format!("`{named}`: somebody goes on with it elsewhere");
    FileError::new(FileErrorCode::FileBusy, message)
}
