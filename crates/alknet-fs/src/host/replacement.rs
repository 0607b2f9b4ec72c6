//! New contents on their way.

use super::{
    bucket::{Bucket, lock, needs},
    gate::{self, Gate, Halt, Reached},
    handle::{check_both, check_times, follow_to, refuse_no_file},
    writing::{Writing, self_is_gone},
};
use crate::root::{Commit, Digester, Meta, PartialKey, Place};
use alknet_core::{
    Permit,
    files::{
        Algorithm, Attributes, ByteRange, Create, FileError, FileErrorCode, FilePath, FileStat,
        ReplaceOptions, Replacement, SetTime,
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
            // Here too, for directories that nobody lists.
            bucket.sweep_now_and_then(&reached.walked.directory);
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
