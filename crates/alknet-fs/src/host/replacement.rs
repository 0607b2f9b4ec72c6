//! New contents on their way.

use super::{
    bucket::{Bucket, lock, needs},
    gate::{self, Gate, Halt, Reached},
    handle::{POSITION_MAX, bytes_free, check_both, check_times, follow_to, refuse_no_file},
    usage::{Amount, Claim, check_room},
};
use crate::root::{Commit, Digester, File, Meta, Partial, PartialKey, Place, RootError};
use alknet_core::{
    Permit,
    files::{
        Algorithm, Attributes, ByteRange, Create, Digests, FileError, FileErrorCode, FilePath,
        FileStat, ReplaceOptions, Replacement, SetTime,
    },
};
use async_trait::async_trait;
use bytes::Bytes;
use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use tokio::{runtime::Handle, task::spawn_blocking};

/// Longest text with which somebody goes on.
const RESUME_BYTES_MAX: usize = 128;
/// Bytes hashed in one turn of a thread that blocks.
pub(crate) const DIGEST_TURN_BYTES: u64 = 64 * 1024 * 1024;
/// What is longer is removed by a thread that blocks.
const REMOVED_AT_ONCE_BYTES: u64 = 16 * 1024 * 1024;

/// Replacements that somebody may go on with, as they are: whoever goes on takes
/// them over, since a cut is often known to the caller first.
#[derive(Debug, Default)]
pub(crate) struct Uploads(Mutex<HashMap<Key, Weak<Upload>>>);

/// The file, and who goes on with what.
type Key = (FilePath, Vec<u8>);

impl Uploads {
    fn insert(&self, key: Key, upload: &Arc<Upload>) {
        let mut all = lock(&self.0);
        all.retain(|_, upload| upload.strong_count() > 0);
        all.insert(key, Arc::downgrade(upload));
    }

    /// Ends the one that is under way. Blocks while it writes.
    fn take_over(&self, key: &Key) {
        let found = lock(&self.0).get(key).and_then(Weak::upgrade);
        if let Some(upload) = found {
            drop(lock(&upload.state).take());
        }
    }
}

/// A new content, and all that goes with it.
#[derive(Debug)]
pub(crate) struct Writing {
    /// `None` once it is committed or given up.
    partial: Option<Partial>,
    claim: Option<Claim>,
    bucket: Arc<Bucket>,
    named: FilePath,
    /// Length that the file had; the new content takes its place.
    credit: u64,
    digester: Option<Digester>,
    is_resumable: bool,
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
        let partial = reached.walked.directory.partial(name, key).map_err(says)?;
        bucket.usage.begin_partial(partial.file().id());
        let kept = partial.bytes();
        let mut writing = Self {
            partial: Some(partial),
            claim: Some(Claim::nothing(bucket)),
            bucket: Arc::clone(bucket),
            named: reached.named.clone(),
            credit: found
                .filter(|meta| meta.links < 2)
                .map_or(0, |meta| meta.bytes),
            digester: None,
            is_resumable: matches!(key, PartialKey::Resumable(_)),
        };
        if kept > 0 {
            // What was kept was counted as a file of its own.
            bucket.usage.shrink(kept, 1);
        }
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
        written.map_err(|error| gate::says(&named, error))?;
        if let Some(digester) = &mut self.digester {
            digester.update(bytes);
        }
        Ok(())
    }

    pub(crate) fn skip(&mut self, bytes: u64) -> Result<(), FileError> {
        self.grow(bytes, 0)?;
        let named = self.named.clone();
        let skipped = self.partial()?.skip(bytes);
        skipped.map_err(|error| gate::says(&named, error))?;
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
        copied.map_err(|error| gate::says(&named, error))
    }

    fn rewind(&mut self, bytes: u64) -> Result<(), FileError> {
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
        let named = self.named.clone();
        let partial = self.partial()?;
        let replaced = partial.directory().meta_of(partial.final_name()).ok();
        let meta = partial
            .commit(commit)
            .map_err(|error| gate::says(&named, error))?;
        self.committed(&meta, replaced.as_ref());
        Ok(meta.stat())
    }

    /// Gives out what is to be committed together with others.
    pub(crate) fn into_batch(mut self) -> Option<(Partial, Committing)> {
        let partial = self.partial.take()?;
        let replaced = partial.directory().meta_of(partial.final_name()).ok();
        let id = partial.file().id();
        Some((
            partial,
            Committing {
                writing: self,
                replaced,
                id,
            },
        ))
    }

    /// Counts what is there now instead of what was.
    fn committed(&mut self, meta: &Meta, replaced: Option<&Meta>) {
        self.bucket.usage.end_partial(meta.id);
        self.partial = None;
        let Some(claim) = self.claim.take() else {
            return;
        };
        claim.settle(Amount {
            bytes: meta.bytes,
            entries: 1,
        });
        if let Some(replaced) = replaced {
            self.bucket.forget_name(replaced);
        }
    }

    fn discard(&mut self) {
        if let Some(partial) = self.partial.take() {
            self.bucket.usage.end_partial(partial.file().id());
            partial.discard();
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let Some(partial) = self.partial.take() else {
            return;
        };
        let (bytes, id) = (partial.bytes(), partial.file().id());
        if self.is_resumable && bytes > 0 {
            // It is a file of its own, until somebody goes on with it.
            if let Some(claim) = self.claim.take() {
                claim.settle(Amount { bytes, entries: 1 });
            }
        }
        self.bucket.usage.end_partial(id);
    }
}

/// One of a batch that is being committed.
pub(crate) struct Committing {
    writing: Writing,
    replaced: Option<Meta>,
    id: crate::root::FileId,
}

impl Committing {
    pub(crate) fn done(mut self, said: Result<Meta, RootError>) -> Result<FileStat, FileError> {
        match said {
            Ok(meta) => {
                self.writing.committed(&meta, self.replaced.as_ref());
                Ok(meta.stat())
            }
            Err(error) => {
                self.writing.bucket.usage.end_partial(self.id);
                Err(gate::says(&self.writing.named, error))
            }
        }
    }
}

/// What is shared with a thread that blocks, and with who takes it over.
#[derive(Debug)]
struct Upload {
    state: Mutex<Option<Writing>>,
    bytes: AtomicU64,
    is_done: AtomicBool,
}

/// A new content on its way to a file of the host.
#[derive(Debug)]
struct HostReplacement {
    bucket: Arc<Bucket>,
    named: FilePath,
    real: FilePath,
    upload: Arc<Upload>,
    options: Arc<ReplaceOptions>,
}

impl Bucket {
    pub(crate) async fn replace_file(
        self: &Arc<Self>,
        permit: &Permit,
        path: &FilePath,
        options: ReplaceOptions,
    ) -> Result<Box<dyn Replacement>, FileError> {
        check_options(path, &options)?;
        let resume = options.resume.as_ref().map(|text| {
            let caller = permit.caller()?;
            // The name of a caller has no NUL.
            Ok::<_, FileError>(
                [caller.id().to_string().as_bytes(), b"\0", text.as_bytes()].concat(),
            )
        });
        let resume = resume.transpose()?;
        let (bucket, named, options) = (Arc::clone(self), path.clone(), Arc::new(options));
        let wanted = Arc::clone(&options);
        let act = move |gate: &Gate| {
            bucket.writable()?;
            let reached = gate.reach(
                &bucket.root()?,
                &["write"],
                &named,
                follow_to(wanted.create),
            )?;
            let found = refuse_place(&reached, &wanted)?;
            let key = resume.clone().map(|resume| (reached.real.clone(), resume));
            if let Some(key) = &key {
                bucket.uploads.take_over(key);
            }
            let partial_key = match &key {
                Some((_, key)) => PartialKey::Resumable(key),
                None => PartialKey::Once,
            };
            let mut writing = Writing::begin(&bucket, &reached, found.as_ref(), partial_key)?;
            writing.announce(&wanted)?;
            writing.start_digests(&wanted)?;
            let upload = Arc::new(Upload {
                bytes: AtomicU64::new(writing.bytes()),
                is_done: AtomicBool::new(false),
                state: Mutex::new(Some(writing)),
            });
            if let Some(key) = key {
                bucket.uploads.insert(key, &upload);
            }
            Ok((upload, reached.real.clone()))
        };
        let (upload, real) = gate::run(&self.jobs, permit, needs(&["write"], path), act).await?;
        Ok(Box::new(HostReplacement {
            bucket: Arc::clone(self),
            named: path.clone(),
            real,
            upload,
            options,
        }))
    }
}

impl Writing {
    /// Refuses what will not have room.
    fn announce(&mut self, options: &ReplaceOptions) -> Result<(), FileError> {
        let Some(bytes) = options.bytes else {
            return Ok(());
        };
        let more = bytes.saturating_sub(self.bytes());
        self.grow(more, if options.sparse { 0 } else { more })
    }

    fn start_digests(&mut self, options: &ReplaceOptions) -> Result<(), FileError> {
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
    fn check(&mut self, options: &ReplaceOptions) -> Result<(), FileError> {
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

/// Refuses options that make no sense.
fn check_options(path: &FilePath, options: &ReplaceOptions) -> Result<(), FileError> {
    let refuse = |what: &str| {
        let message = format!("`{path}`: {what}");
        Err(FileError::new(FileErrorCode::BadArgument, message))
    };
    if options.mode.is_some_and(|mode| mode & !0o777 != 0) {
        return refuse("permissions of a file are at most 0777");
    }
    if options
        .resume
        .as_ref()
        .is_some_and(|text| text.len() > RESUME_BYTES_MAX)
    {
        return refuse("a text to go on with has at most 128 bytes");
    }
    check_times(path, &commit_of(options).attributes)?;
    if options.create == Create::New && options.if_version.is_some() {
        return refuse("what must be new has no version");
    }
    Ok(())
}

/// What is there; refuses at once what would be refused in the end.
fn refuse_place(reached: &Reached, options: &ReplaceOptions) -> Result<Option<Meta>, Halt> {
    let found = match reached.walked.meta() {
        Ok(meta) => Some(meta),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(reached.says(error).into()),
    };
    if reached.walked.name.is_none() {
        return Err(reached
            .fails(FileErrorCode::IsADirectory, "it is a directory")
            .into());
    }
    let refuse = |code, what| Err(Halt::Failed(reached.fails(code, what)));
    match (&found, options.create, &options.if_version) {
        (Some(_), Create::New, _) => return refuse(FileErrorCode::FileExists, "it exists"),
        (None, Create::Never, _) => {
            return refuse(
                FileErrorCode::NoSuchFile,
                "there is no such file or directory",
            );
        }
        (found, _, Some(version))
            if found.as_ref().map(Meta::version).as_ref() != Some(version) =>
        {
            return refuse(FileErrorCode::FileChanged, "it has changed");
        }
        _ => {}
    }
    if let Some(meta) = &found {
        refuse_no_file(meta.kind, reached)?;
    }
    Ok(found)
}

/// Under what condition a file takes its name, and with which attributes.
pub(crate) fn commit_of(options: &ReplaceOptions) -> Commit {
    Commit {
        durable: true,
        attributes: Attributes {
            mode: options.mode,
            mtime: options.mtime.map(SetTime::To),
            ..Attributes::default()
        },
        place: match &options.if_version {
            Some(version) => Place::Version(version.clone()),
            None => options.create.into(),
        },
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

fn self_is_gone(named: &FilePath) -> FileError {
    let message = format!("`{named}`: somebody goes on with it elsewhere");
    FileError::new(FileErrorCode::FileBusy, message)
}

impl HostReplacement {
    fn check(&self, permit: &Permit) -> Result<(), FileError> {
        check_both(permit, "write", &self.named, &self.real)?;
        self.bucket.alive()
    }

    /// Runs what blocks, with the new content; to its end, even if nobody waits.
    async fn step<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Writing) -> Result<T, FileError> + Send + 'static,
    ) -> Result<T, FileError> {
        let (upload, named) = (Arc::clone(&self.upload), self.named.clone());
        let step = move || {
            let mut state = lock(&upload.state);
            let writing = state.as_mut().ok_or_else(|| self_is_gone(&named))?;
            let done = act(writing);
            upload.bytes.store(writing.bytes(), Ordering::Release);
            done
        };
        self.bucket.jobs.run(step).await?
    }
}

#[async_trait]
impl Replacement for HostReplacement {
    fn path(&self) -> &FilePath {
        &self.real
    }

    fn bytes(&self) -> u64 {
        self.upload.bytes.load(Ordering::Acquire)
    }

    async fn digest(&mut self, permit: &Permit) -> Result<String, FileError> {
        let mut digester = Digester::new(&[Algorithm::Blake3]);
        let mut offset = 0;
        loop {
            self.check(permit)?;
            let named = self.named.clone();
            let turn = move |writing: &mut Writing| {
                let bytes = writing
                    .bytes()
                    .saturating_sub(offset)
                    .min(DIGEST_TURN_BYTES);
                let range = ByteRange {
                    offset,
                    bytes: Some(bytes),
                };
                let file = writing.partial()?.file();
                let read = file.digest(range, &mut digester, |_| ControlFlow::Continue(()));
                let read = read.map_err(|error| gate::says(&named, error))?;
                Ok((
                    digester,
                    offset + read,
                    read == 0 || offset + read >= writing.bytes(),
                ))
            };
            let (back, end, is_all) = self.step(turn).await?;
            if is_all {
                return Ok(back.finish().blake3.unwrap_or_default());
            }
            (digester, offset) = (back, end);
        }
    }

    async fn rewind(&mut self, permit: &Permit, bytes: u64) -> Result<(), FileError> {
        self.check(permit)?;
        let options = Arc::clone(&self.options);
        let rewind = move |writing: &mut Writing| {
            writing.bucket.writable()?;
            writing.rewind(bytes)?;
            writing.start_digests(&options)
        };
        self.step(rewind).await
    }

    async fn write(&mut self, permit: &Permit, bytes: Bytes) -> Result<(), FileError> {
        self.check(permit)?;
        self.step(move |writing| writing.write(&bytes)).await
    }

    async fn skip(&mut self, permit: &Permit, bytes: u64) -> Result<(), FileError> {
        self.check(permit)?;
        self.step(move |writing| writing.skip(bytes)).await
    }

    async fn commit(self: Box<Self>, permit: &Permit) -> Result<FileStat, FileError> {
        self.check(permit)?;
        let options = Arc::clone(&self.options);
        let upload = Arc::clone(&self.upload);
        let commit = move |writing: &mut Writing| {
            writing.check(&options)?;
            let stat = writing.commit(&commit_of(&options))?;
            upload.is_done.store(true, Ordering::Release);
            Ok(stat)
        };
        self.step(commit).await
    }

    async fn discard(self: Box<Self>) {
        let discard = |writing: &mut Writing| {
            writing.discard();
            Ok(())
        };
        // Nothing is kept either way: who took it over has it.
        self.step(discard).await.ok();
    }
}

impl Drop for HostReplacement {
    fn drop(&mut self) {
        if self.upload.is_done.load(Ordering::Acquire) {
            return;
        }
        // A step that nobody waits for any more ends it when it is done.
        let Ok(mut state) = self.upload.state.try_lock() else {
            return;
        };
        let Some(writing) = state.take() else { return };
        let is_removed = !writing.is_resumable && writing.bytes() > REMOVED_AT_ONCE_BYTES;
        if is_removed && Handle::try_current().is_ok() {
            spawn_blocking(move || drop(writing));
        }
    }
}
