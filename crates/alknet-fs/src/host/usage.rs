//! What is in a bucket, where that is limited.
//!
//! Counted are the lengths of regular files, each once however many names it
//! has, and entries of every kind, partial files among them. It is counted by a
//! walk when it is first asked for, then kept current by what the service does
//! itself, and counted again now and then, and before anybody is refused, since
//! programs of the host write there too.

use super::bucket::{Bucket, Settings, lock};
use crate::root::{Detail, Directory, FileId, Follow, Root, RootError};
use alknet_core::files::{FileError, FileErrorCode, FileKind, FileName, FilePath};
use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// What is in a bucket is counted again when it was counted so long ago,
const COUNT_EVERY: Duration = Duration::from_secs(10 * 60);
/// and so long ago when a write would be refused.
const COUNT_BEFORE_REFUSAL: Duration = Duration::from_secs(10);
/// or so long ago when it may be less by now.
const COUNT_AGAIN: Duration = Duration::from_millis(500);
/// Files with several names that are counted once; more are counted by name.
const SHARED_MAX: usize = 1_000_000;

/// Bytes and entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
}

impl Amount {
    fn put(&mut self, more: Self) {
        self.bytes = self.bytes.saturating_add(more.bytes);
        self.entries = self.entries.saturating_add(more.entries);
    }

    fn take(&mut self, less: Self) {
        self.bytes = self.bytes.saturating_sub(less.bytes);
        self.entries = self.entries.saturating_sub(less.entries);
    }
}

#[derive(Debug, Default)]
struct State {
    used: Amount,
    /// What is claimed and not there yet, or in partial files that are live.
    claimed: Amount,
    /// When it was counted; never, or not of what is known now, if `None`.
    counted: Option<Instant>,
    /// Something of unknown size was removed.
    is_unknown: bool,
    /// It may be less: something changed while it was counted.
    is_too_high: bool,
    is_counting: bool,
    /// Added while a count was under way, which may have missed it.
    added: Amount,
    /// Partial files that are being written; claims stand for them.
    live: HashSet<FileId>,
}

/// What is in a bucket, as far as that is known.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    state: Mutex<State>,
    /// Held by who counts.
    counting: Mutex<()>,
}

impl Usage {
    /// Counts anew at the next occasion.
    pub(crate) fn forget(&self) {
        lock(&self.state).counted = None;
    }

    /// Something of unknown size is gone.
    pub(crate) fn shrank_somehow(&self, entries: u64) {
        let mut state = lock(&self.state);
        state.used.entries = state.used.entries.saturating_sub(entries);
        state.is_unknown = true;
    }

    pub(crate) fn shrink(&self, bytes: u64, entries: u64) {
        let mut state = lock(&self.state);
        state.used.take(Amount { bytes, entries });
        // It may have been counted before it went.
        state.is_too_high |= state.is_counting;
    }

    pub(crate) fn begin_partial(&self, id: FileId) {
        lock(&self.state).live.insert(id);
    }

    pub(crate) fn end_partial(&self, id: FileId) {
        lock(&self.state).live.remove(&id);
    }

    /// What is in the bucket, counted if it never was. Blocks.
    pub(crate) fn now(&self, root: &Root) -> Result<Amount, RootError> {
        self.count_if_older_than(COUNT_EVERY, root)?;
        let state = lock(&self.state);
        let mut all = state.used;
        all.put(state.claimed);
        Ok(all)
    }

    fn count_if_older_than(&self, age: Duration, root: &Root) -> Result<(), RootError> {
        let is_due = || {
            let state = lock(&self.state);
            let age = match age == COUNT_BEFORE_REFUSAL {
                true if state.is_unknown => Duration::ZERO,
                true if state.is_too_high => COUNT_AGAIN,
                _ => age,
            };
            state.counted.is_none_or(|at| at.elapsed() >= age)
        };
        if !is_due() {
            return Ok(());
        }
        let _one = lock(&self.counting);
        // Whoever waited is answered by what was counted meanwhile.
        if !is_due() {
            return Ok(());
        }
        {
            let mut state = lock(&self.state);
            state.added = Amount::default();
            state.is_unknown = false;
            state.is_too_high = false;
            state.is_counting = true;
        }
        let counted = self.count(root);
        let mut state = lock(&self.state);
        state.is_counting = false;
        let (mut used, added) = (counted?, state.added);
        used.put(added);
        state.used = used;
        state.is_too_high |= added != Amount::default();
        state.counted = Some(Instant::now());
        Ok(())
    }

    fn count(&self, root: &Root) -> Result<Amount, RootError> {
        let (mut amount, mut shared) = (Amount::default(), HashSet::new());
        each_directory(root, &[], &mut |directory| {
            let mut listing = directory.list_all()?;
            let mut below = Vec::new();
            while let Some(entry) = listing.next(Detail::Meta)? {
                let Some(meta) = entry.meta else { continue };
                if lock(&self.state).live.contains(&meta.id) {
                    continue;
                }
                amount.entries += 1;
                match meta.kind {
                    FileKind::Directory => below.push(entry.name),
                    FileKind::File if meta.links < 2 || is_first(&mut shared, meta.id) => {
                        amount.bytes = amount.bytes.saturating_add(meta.bytes);
                    }
                    _ => {}
                }
            }
            Ok(below)
        })?;
        Ok(amount)
    }
}

fn is_first(shared: &mut HashSet<FileId>, id: FileId) -> bool {
    shared.len() >= SHARED_MAX || shared.insert(id)
}

impl State {
    /// What was claimed is there, as much as it is.
    fn settle(&mut self, claimed: Amount, really: Amount) {
        self.claimed.take(claimed);
        self.used.put(really);
        if self.is_counting {
            self.added.put(really);
        }
    }

    fn fits(&self, more: Amount, settings: &Settings) -> bool {
        let fits = |used: u64, more: u64, most: Option<u64>| {
            more == 0 || most.is_none_or(|most| used.saturating_add(more) <= most)
        };
        let mut all = self.used;
        all.put(self.claimed);
        fits(all.bytes, more.bytes, settings.quota_bytes)
            && fits(all.entries, more.entries, settings.quota_entries)
    }
}

/// A directory and how to come back to it.
struct Visit {
    above: Option<Arc<Visit>>,
    name: FileName,
}

impl Visit {
    fn names(self: &Arc<Self>, top: &[FileName]) -> Vec<FileName> {
        let mut names = Vec::new();
        let mut at = Some(self);
        while let Some(visit) = at {
            names.push(visit.name.clone());
            at = visit.above.as_ref();
        }
        names.extend(top.iter().rev().cloned());
        names.reverse();
        names
    }
}

/// Visits the directory `top` and all below it; `visit` answers with the names
/// of those in it that are to be visited. What goes away meanwhile, and what may
/// not be entered, is passed over. One directory is open at a time.
///
/// # Errors
///
/// What `visit` says of `top`, and whatever else is no matter of one directory.
pub(crate) fn each_directory(
    root: &Root,
    top: &[FileName],
    visit: &mut dyn FnMut(&Directory) -> Result<Vec<FileName>, RootError>,
) -> Result<(), RootError> {
    let mut ahead: Vec<Arc<Visit>> = Vec::new();
    let first = visit(&enter(root, top)?)?;
    let here = |above: Option<&Arc<Visit>>, name| {
        Arc::new(Visit {
            above: above.cloned(),
            name,
        })
    };
    ahead.extend(first.into_iter().map(|name| here(None, name)));
    while let Some(at) = ahead.pop() {
        let entered = enter(root, &at.names(top));
        match entered.and_then(|directory| visit(&directory)) {
            Ok(below) => ahead.extend(below.into_iter().map(|name| here(Some(&at), name))),
            Err(RootError::Stopped) => return Err(RootError::Stopped),
            Err(_) => {}
        }
    }
    Ok(())
}

fn enter(root: &Root, names: &[FileName]) -> Result<Directory, RootError> {
    let walked = root.walk(names, Follow::No);
    walked.map_err(|failed| failed.error)?.enter()
}

/// Bytes and entries that were counted before they are there; given back when it
/// is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    bucket: Arc<Bucket>,
    pub(crate) has: Amount,
}

impl Claim {
    pub(crate) fn nothing(bucket: &Arc<Bucket>) -> Self {
        Self {
            bucket: Arc::clone(bucket),
            has: Amount::default(),
        }
    }

    /// Claims so much. Blocks while it is counted.
    ///
    /// # Errors
    ///
    /// `QUOTA_EXCEEDED`, and what happens when the bucket is counted.
    pub(crate) fn of(
        bucket: &Arc<Bucket>,
        path: &FilePath,
        bytes: u64,
        entries: u64,
    ) -> Result<Self, FileError> {
        let mut claim = Self::nothing(bucket);
        claim.add(path, Amount { bytes, entries })?;
        Ok(claim)
    }

    /// Claims more.
    ///
    /// # Errors
    ///
    /// As [`Claim::of`].
    pub(crate) fn add(&mut self, path: &FilePath, more: Amount) -> Result<(), FileError> {
        let settings = self.bucket.settings();
        if settings.has_quota() && more != Amount::default() {
            self.bucket.claim(path, more, &settings)?;
            self.has.bytes += more.bytes;
            self.has.entries += more.entries;
        }
        Ok(())
    }

    /// Counts on as `really` what was claimed.
    pub(crate) fn settle(mut self, really: Amount) {
        let claimed = std::mem::take(&mut self.has);
        lock(&self.bucket.usage.state).settle(claimed, really);
    }

    /// All of it is there now.
    pub(crate) fn keep(self) {
        let has = self.has;
        self.settle(has);
    }

    /// Gives back what is over `bytes`.
    pub(crate) fn cut(&mut self, bytes: u64) {
        if self.has.bytes > bytes {
            let over = self.has.bytes - bytes;
            let entries = 0;
            self.bucket.usage.unclaim(Amount {
                bytes: over,
                entries,
            });
            self.has.bytes = bytes;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.bucket.usage.unclaim(self.has);
    }
}

impl Bucket {
    fn claim(&self, path: &FilePath, more: Amount, settings: &Settings) -> Result<(), FileError> {
        let root = self.root()?;
        let says = |error| super::gate::says(path, error);
        self.usage.now(&root).map_err(says)?;
        if self.usage.try_claim(more, settings) {
            return Ok(());
        }
        let recount = self.usage.count_if_older_than(COUNT_BEFORE_REFUSAL, &root);
        recount.map_err(says)?;
        match self.usage.try_claim(more, settings) {
            true => Ok(()),
            false => {
                let message = format!("`{path}`: the quota of bucket `{}` is used up", self.name());
                Err(FileError::new(FileErrorCode::QuotaExceeded, message))
            }
        }
    }
}

impl Usage {
    fn try_claim(&self, more: Amount, settings: &Settings) -> bool {
        let mut state = lock(&self.state);
        let fits = state.fits(more, settings);
        if fits {
            state.claimed.put(more);
        }
        fits
    }

    fn unclaim(&self, less: Amount) {
        lock(&self.state).claimed.take(less);
    }
}

/// Refuses what would take more room than is to be left on the disk.
///
/// # Errors
///
/// `NO_SPACE`.
pub(crate) fn check_room(
    bytes_free: Result<u64, RootError>,
    path: &FilePath,
    bytes: u64,
    settings: &Settings,
) -> Result<(), FileError> {
    let needed = bytes.saturating_add(settings.keep_free);
    // Who cannot tell does not refuse: the write does.
    match bytes_free {
        Ok(free) if bytes > 0 && free < needed => {
            let message = format!("`{path}`: the disk would be fuller than allowed");
            Err(FileError::new(FileErrorCode::NoSpace, message))
        }
        _ => Ok(()),
    }
}
