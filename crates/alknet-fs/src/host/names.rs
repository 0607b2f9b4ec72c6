//! Entries described, made, moved and removed.

use super::{
    bucket::{Bucket, lock, needs},
    gate::{self, Gate, Halt, Need, Reached},
    handle::{check_times, claim_length, settle_length},
    usage::{Claim, Freeing, each_directory},
};
use crate::root::{Detail, Directory, Follow, Meta, OpenHow, Replace, RootError, Verdict};
use alknet_core::{
    CallError, Permit,
    files::{
        Attributes, Collected, FileError, FileErrorCode, FileKind, FileName, FilePath, FileStat,
        Removal, Removed, RenameOptions, Space,
    },
};
use std::{
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

fn follows(follow: bool) -> Follow {
    if follow { Follow::Yes } else { Follow::No }
}

impl Bucket {
    /// Checks, walks and acts, on one path.
    async fn act<T: Send + 'static>(
        self: &Arc<Self>,
        permit: &Permit,
        action: &'static str,
        path: &FilePath,
        follow: Follow,
        act: impl Fn(&Arc<Self>, &Gate, &Reached) -> Result<T, Halt> + Send + Sync + 'static,
    ) -> Result<T, FileError> {
        let (bucket, named) = (Arc::clone(self), path.clone());
        let act = move |gate: &Gate| {
            if action == "write" {
                bucket.writable()?;
            }
            let reached = gate.reach(&bucket.root()?, &[action], &named, follow)?;
            act(&bucket, gate, &reached)
        };
        gate::run(&self.jobs, permit, needs(&[action], path), act).await
    }

    pub(crate) async fn stat(
        self: &Arc<Self>,
        permit: &Permit,
        path: &FilePath,
        follow: bool,
    ) -> Result<FileStat, FileError> {
        let act = |_: &Arc<Self>, _: &Gate, reached: &Reached| Ok(reached.meta()?.stat());
        self.act(permit, "read", path, follows(follow), act).await
    }

    pub(crate) async fn read_link(
        self: &Arc<Self>,
        permit: &Permit,
        path: &FilePath,
    ) -> Result<Vec<u8>, FileError> {
        let act = |_: &Arc<Self>, _: &Gate, reached: &Reached| {
            let says = |error| reached.says(error);
            let name = reached.walked.name().map_err(says)?;
            Ok(reached.walked.directory.read_link(name).map_err(says)?)
        };
        self.act(permit, "read", path, Follow::No, act).await
    }

    pub(crate) async fn space(
        self: &Arc<Self>,
        permit: &Permit,
        path: &FilePath,
    ) -> Result<Space, FileError> {
        let act = |bucket: &Arc<Self>, _: &Gate, reached: &Reached| {
            // Something must be there.
            reached.meta()?;
            Ok(bucket.space_at(reached)?)
        };
        self.act(permit, "read", path, Follow::Yes, act).await
    }

    /// What the disk has left, what is to be left of it, and what the quota
    /// leaves of that.
    fn space_at(&self, reached: &Reached) -> Result<Space, FileError> {
        let says = |error| reached.says(error);
        let (settings, disk) = (
            self.settings(),
            reached.walked.directory.space().map_err(says)?,
        );
        let mut space = Space {
            bytes: disk.bytes,
            bytes_free: disk.bytes_free.saturating_sub(settings.keep_free),
            entries: disk.entries,
            entries_free: disk.entries_free,
            block_bytes: disk.block_bytes,
            read_only: settings.read_only || disk.read_only,
        };
        if settings.has_quota() {
            let used = self.usage.now(&self.root()?).map_err(says)?;
            if let Some(quota) = settings.quota_bytes {
                space.bytes = quota;
                space.bytes_free = space.bytes_free.min(quota.saturating_sub(used.bytes));
            }
            if let Some(quota) = settings.quota_entries {
                let left = quota.saturating_sub(used.entries);
                let is_counted = space.entries > 0;
                space.entries_free = if is_counted {
                    space.entries_free.min(left)
                } else {
                    left
                };
                space.entries = quota;
            }
        }
        Ok(space)
    }

    pub(crate) async fn set_attributes(
        self: &Arc<Self>,
        permit: &Permit,
        path: &FilePath,
        follow: bool,
        attributes: Attributes,
    ) -> Result<FileStat, FileError> {
        check_times(path, &attributes)?;
        let act = move |bucket: &Arc<Self>, _: &Gate, reached: &Reached| {
            let says = |error| reached.says(error);
            let found = reached.meta()?;
            if attributes.is_empty() {
                return Ok(found.stat());
            }
            let settings = bucket.settings();
            let freeing = bucket.usage.freeing();
            let _alone = bucket.growing(&settings, found.id);
            let before = reached.meta()?;
            if before.id != found.id {
                return Err(says(RootError::Changed).into());
            }
            let claim = claim_length(bucket, &reached.named, before.bytes, &attributes)?;
            let directory = &reached.walked.directory;
            let meta = match &reached.walked.name {
                Some(name) => directory.set_attributes_of(name, &attributes),
                None => directory.set_attributes(&attributes),
            };
            let meta = meta.map_err(says)?;
            settle_length(claim, &freeing, before.bytes, &attributes);
            reached.make_last(&meta).map_err(says)?;
            Ok(meta.stat())
        };
        self.act(permit, "write", path, follows(follow), act).await
    }

    pub(crate) async fn make_directory(
        self: &Arc<Self>,
        permit: &Permit,
        path: &FilePath,
        mode: Option<u32>,
    ) -> Result<FileStat, FileError> {
        let act = move |bucket: &Arc<Self>, _: &Gate, reached: &Reached| {
            let says = |error| reached.says(error);
            let (directory, name) = (&reached.walked.directory, reached.new_name()?);
            let claim = Claim::of(bucket, &reached.named, 0, 1)?;
            directory
                .make_directory(name, mode.unwrap_or(0o777))
                .map_err(says)?;
            claim.keep();
            sync_names(directory).map_err(says)?;
            Ok(directory.meta_of(name).map_err(says)?.stat())
        };
        self.act(permit, "write", path, Follow::No, act).await
    }

    pub(crate) async fn symlink(
        self: &Arc<Self>,
        permit: &Permit,
        path: &FilePath,
        target: &[u8],
    ) -> Result<(), FileError> {
        let target = target.to_vec();
        let act = move |bucket: &Arc<Self>, _: &Gate, reached: &Reached| {
            let says = |error| reached.says(error);
            let (directory, name) = (&reached.walked.directory, reached.new_name()?);
            let claim = Claim::of(bucket, &reached.named, 0, 1)?;
            directory.make_symlink(name, &target).map_err(says)?;
            claim.keep();
            Ok(sync_names(directory).map_err(says)?)
        };
        self.act(permit, "write", path, Follow::No, act).await
    }

    pub(crate) async fn link(
        self: &Arc<Self>,
        permit: &Permit,
        existing: &FilePath,
        new: &FilePath,
    ) -> Result<(), FileError> {
        let first = [needs(&["read", "write"], existing), needs(&["write"], new)].concat();
        let (bucket, existing, new) = (Arc::clone(self), existing.clone(), new.clone());
        let act = move |gate: &Gate| {
            bucket.writable()?;
            let root = bucket.root()?;
            let from = gate.reach(&root, &["read", "write"], &existing, Follow::No)?;
            let to = gate.reach(&root, &["write"], &new, Follow::No)?;
            // Said of the one that it is true of.
            match from.meta()?.kind {
                FileKind::File => {}
                FileKind::Directory => {
                    return Err(from
                        .fails(FileErrorCode::IsADirectory, "it is a directory")
                        .into());
                }
                _ => {
                    let what = "only a file has several names";
                    return Err(from.fails(FileErrorCode::NotAFile, what).into());
                }
            }
            let from_name = from.walked.name().map_err(|error| from.says(error))?;
            let to_name = to.new_name()?;
            let claim = Claim::of(&bucket, &to.named, 0, 1)?;
            // Whoever removes the other name at the same time frees nothing.
            let _freeing = bucket.usage.freeing();
            let made = from
                .walked
                .directory
                .link(from_name, &to.walked.directory, to_name);
            made.map_err(|error| to.says(error))?;
            claim.keep();
            Ok(sync_names(&to.walked.directory).map_err(|error| to.says(error))?)
        };
        gate::run(&self.jobs, permit, first, act).await
    }

    pub(crate) async fn rename(
        self: &Arc<Self>,
        permit: &Permit,
        from: &FilePath,
        to: &FilePath,
        options: RenameOptions,
    ) -> Result<(), FileError> {
        let first = [needs(&["read", "write"], from), needs(&["write"], to)].concat();
        let (bucket, from, to) = (Arc::clone(self), from.clone(), to.clone());
        let replace = if options.replace {
            Replace::Yes
        } else {
            Replace::No
        };
        let act = move |gate: &Gate| {
            bucket.writable()?;
            let root = bucket.root()?;
            let from = gate.reach(&root, &["read", "write"], &from, Follow::No)?;
            let to = gate.reach(&root, &["write"], &to, Follow::No)?;
            let meta = from.meta()?;
            if meta.kind == FileKind::Directory {
                from.whole(gate, &["read", "write"])?;
                to.whole(gate, &["write"])?;
            }
            let freeing = bucket.usage.freeing();
            let replaced = to.walked.meta().ok();
            bucket.rename_reached(&from, &to, replace)?;
            let is_itself = replaced
                .as_ref()
                .is_some_and(|replaced| replaced.id == meta.id);
            if let (Some(replaced), false) = (&replaced, is_itself) {
                freeing.freed_name(replaced);
            }
            Ok(())
        };
        gate::run(&self.jobs, permit, first, act).await
    }

    fn rename_reached(
        &self,
        from: &Reached,
        to: &Reached,
        replace: Replace,
    ) -> Result<(), FileError> {
        let from_name = from.walked.name().map_err(|error| from.says(error))?;
        let to_name = to.walked.name().map_err(|error| to.says(error))?;
        let (old, new) = (&from.walked.directory, &to.walked.directory);
        // What exists, and what is no directory, is the target.
        old.rename(from_name, new, to_name, replace)
            .map_err(|error| to.says(error))?;
        sync_names(new).map_err(|error| to.says(error))?;
        if old.id() != new.id() {
            sync_names(old).map_err(|error| from.says(error))?;
        }
        Ok(())
    }

    pub(crate) async fn remove(
        self: &Arc<Self>,
        permit: &Permit,
        path: &FilePath,
        removal: Removal,
    ) -> Result<Removed, FileError> {
        let stop = Stop::default();
        let stopped = Arc::clone(&stop.0);
        let act = move |bucket: &Arc<Self>, gate: &Gate, reached: &Reached| {
            let freeing = bucket.usage.freeing();
            let meta = reached.meta()?;
            if removal == Removal::Tree && meta.kind == FileKind::Directory {
                reached.whole(gate, &["write"])?;
                stopped.goes_on_with(reached, "write");
                return Ok(bucket.remove_tree(reached, &stopped, &freeing)?);
            }
            let says = |error| reached.says(error);
            let (directory, name) = (
                &reached.walked.directory,
                reached.walked.name().map_err(says)?,
            );
            let removed = match removal {
                Removal::Directory => {
                    directory.remove_directory(name).map_err(says)?;
                    // Partial files in it, of which nobody knows how many.
                    freeing.freed_somehow();
                    Removed {
                        files: 0,
                        directories: 1,
                    }
                }
                Removal::File | Removal::Tree => {
                    directory.remove_file(name).map_err(says)?;
                    Removed {
                        files: 1,
                        directories: 0,
                    }
                }
            };
            freeing.freed_name(&meta);
            sync_names(directory).map_err(says)?;
            Ok(removed)
        };
        stop.when_lost(permit, self.act(permit, "write", path, Follow::No, act))
            .await
    }

    fn remove_tree(
        &self,
        reached: &Reached,
        stopped: &Stopping,
        freeing: &Freeing<'_>,
    ) -> Result<Removed, FileError> {
        let says = |error| reached.says(error);
        let (directory, name) = (
            &reached.walked.directory,
            reached.walked.name().map_err(says)?,
        );
        let bytes = self.settings().has_quota().then(|| {
            let root = self.root()?;
            Ok::<_, FileError>(self.usage.bytes_below(&root, reached.real.names()))
        });
        let bytes = bytes.transpose()?;
        let removed = directory.remove_tree(name, &mut |_, _| match stopped.is_so() {
            true => Verdict::Stop,
            false => Verdict::Remove,
        });
        let removed = removed.map_err(says)?;
        match bytes {
            Some((bytes, is_sure)) if removed.is_all => {
                freeing.freed(bytes, removed.files + removed.directories);
                if !is_sure {
                    freeing.freed_somehow();
                }
            }
            _ => freeing.freed_somehow(),
        }
        sync_names(directory).map_err(says)?;
        if let Some((below, error)) = removed.failed {
            // Where it is is known to who may remove all of it.
            let at = reached
                .named
                .join_all(below)
                .unwrap_or_else(|_| reached.named.clone());
            return Err(gate::says(&at, error));
        }
        Ok(Removed {
            files: removed.files,
            directories: removed.directories,
        })
    }

    pub(crate) async fn collect(
        self: &Arc<Self>,
        permit: &Permit,
        path: &FilePath,
    ) -> Result<Collected, FileError> {
        let stop = Stop::default();
        let stopped = Arc::clone(&stop.0);
        let act = move |bucket: &Arc<Self>, gate: &Gate, reached: &Reached| {
            bucket.writable()?;
            reached.whole(gate, &["admin"])?;
            stopped.goes_on_with(reached, "admin");
            let mut all = Collected::default();
            let freeing = bucket.usage.freeing();
            let mut sweep = |directory: &Directory| {
                if stopped.is_so() {
                    return Err(RootError::Stopped);
                }
                let swept = directory.sweep(SystemTime::now())?;
                all.partials += swept.partials;
                all.bytes += swept.bytes;
                freeing.freed(swept.bytes, swept.partials);
                subdirectories(directory)
            };
            let names = reached.real.names();
            each_directory(&bucket.root()?, names, &mut sweep)
                .map_err(|error| reached.says(error))?;
            Ok(all)
        };
        stop.when_lost(permit, self.act(permit, "admin", path, Follow::Yes, act))
            .await
    }
}

/// Ends what blocks for long when nobody waits for it any more, or when the caller
/// may do it no more.
#[derive(Debug, Default)]
struct Stop(Arc<Stopping>);

#[derive(Debug, Default)]
struct Stopping {
    is_so: AtomicBool,
    /// What is needed all the time.
    needs: Mutex<Vec<Need>>,
}

impl Stopping {
    fn is_so(&self) -> bool {
        self.is_so.load(Ordering::Relaxed)
    }

    /// From now on, all below what was reached is acted on.
    fn goes_on_with(&self, reached: &Reached, action: &'static str) {
        let needs = [&reached.named, &reached.real];
        *lock(&self.needs) = needs.map(|path| Need::tree(action, path)).to_vec();
    }

    fn check(&self, permit: &Permit) -> Result<(), CallError> {
        let needs = lock(&self.needs).clone();
        let mut checks = needs.iter().map(|need| need.check(permit));
        checks
            .try_for_each(|checked| checked)
            .map_err(CallError::from)?;
        permit.caller().map(drop)
    }
}

impl Stop {
    /// Waits for `act`, but no longer than the caller may do it; it has ended
    /// when this answers.
    async fn when_lost<T>(
        self,
        permit: &Permit,
        act: impl Future<Output = Result<T, FileError>>,
    ) -> Result<T, FileError> {
        let mut act = pin!(act);
        let lost = permit.lost(|permit| self.0.check(permit));
        tokio::select! {
            biased;
            done = &mut act => done,
            refused = lost => {
                self.0.is_so.store(true, Ordering::Relaxed);
                act.await.ok();
                Err(refused.into())
            }
        }
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.is_so.store(true, Ordering::Relaxed);
    }
}

fn subdirectories(directory: &Directory) -> Result<Vec<FileName>, RootError> {
    let (mut names, mut listing) = (Vec::new(), directory.list(None)?);
    while let Some(entry) = listing.next(Detail::Kinds)? {
        if entry.kind == FileKind::Directory {
            names.push(entry.name);
        }
    }
    Ok(names)
}

impl Reached {
    /// What is there.
    ///
    /// # Errors
    ///
    /// `NO_SUCH_FILE` and others.
    pub(crate) fn meta(&self) -> Result<Meta, FileError> {
        self.walked.meta().map_err(|error| self.says(error))
    }

    /// The name of something that is to be made.
    ///
    /// # Errors
    ///
    /// `FILE_EXISTS` for the bucket as such.
    fn new_name(&self) -> Result<&FileName, FileError> {
        let exists = || self.fails(FileErrorCode::FileExists, "it exists");
        self.walked.name.as_ref().ok_or_else(exists)
    }

    /// Makes attributes last through a power cut: by a sync of the file, or of
    /// its file system where it may not be opened.
    fn make_last(&self, meta: &Meta) -> Result<(), RootError> {
        let directory = &self.walked.directory;
        match (&self.walked.name, meta.kind) {
            (None, _) => directory.sync(),
            (Some(name), FileKind::Directory) => directory.enter(name)?.sync(),
            (Some(name), FileKind::File) => match directory.open(name, &OpenHow::read()) {
                Ok(file) => file.sync(),
                Err(_) => directory.sync_file_system(),
            },
            _ => directory.sync(),
        }
    }
}

/// Makes names in a directory last through a power cut; by a sync of the file
/// system where it may be written and not be read.
pub(crate) fn sync_names(directory: &Directory) -> Result<(), RootError> {
    match directory.sync() {
        Err(error) if error.errno() == Some(rustix::io::Errno::ACCESS.raw_os_error()) => {
            directory.sync_file_system()
        }
        said => said,
    }
}
