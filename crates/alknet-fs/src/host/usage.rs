//! What is in a bucket, where that is limited.
//!
//! Counted are the lengths of regular files, each once however many names it
//! has, and entries of every kind, partial files among them. It is counted by a
//! walk when it is first asked for, then kept current by what the service does
//! itself, and counted again now and then, and before anybody is refused, since
//! programs of the host write there too.

use super::bucket::{Bucket, Settings, lock};
use crate::root::{Detail, Directory, FileId, Follow, Meta, Root, RootError};
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
/// or, when it may be less by now, after so many times as long as counting took:
/// nobody can keep the disk busy with it.
const COUNT_SHARE: u32 = 10;
/// Times that it is counted when directories move about meanwhile.
const COUNTS_MAX: usize = 3;
/// Levels between directories that are held open on the way down.
const HOLD_EVERY: usize = 64;
/// Directories below which nothing is counted any more, and nothing is allowed:
/// deeper than any path that a caller can name.
const DEPTH_MAX: usize = 16_384;
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
    /// It may be less: something of unknown size was removed, or something
    /// changed while it was counted.
    is_too_high: bool,
    /// How long counting took.
    took: Duration,
    /// Acts under way by which something may become less, and how many began.
    freeing: u32,
    freeings: u64,
    /// Files in whose place a new content is being written that has their room.
    credited: HashSet<FileId>,
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

    /// Begins an act by which something may become less: what that is, is to be
    /// looked at after this.
    pub(crate) fn freeing(&self) -> Freeing<'_> {
        let mut state = lock(&self.state);
        state.freeing += 1;
        state.freeings += 1;
        Freeing {
            usage: self,
            is_alone: state.freeing == 1,
            number: state.freeings,
        }
    }

    /// What is kept of a partial file is gone on with: a claim stands for it.
    pub(crate) fn begin_partial(&self, id: FileId, kept: u64) {
        let mut state = lock(&self.state);
        // It may have been counted as an entry just now.
        state.is_too_high |= state.is_counting;
        if state.live.insert(id) && kept > 0 {
            state.less(Amount {
                bytes: kept,
                entries: 1,
            });
        }
    }

    /// A partial file is one no more: it is gone, or counted as what it is.
    pub(crate) fn end_partial(&self, id: FileId, claim: Option<Claim>, really: Amount) {
        let claimed = claim.map_or(Amount::default(), |mut claim| {
            std::mem::take(&mut claim.has)
        });
        let mut state = lock(&self.state);
        state.live.remove(&id);
        state.settle(claimed, really);
    }

    /// Whether a new content may have the room of `id`: one at a time.
    pub(crate) fn take_credit(&self, id: FileId) -> bool {
        lock(&self.state).credited.insert(id)
    }

    pub(crate) fn end_credit(&self, id: FileId) {
        lock(&self.state).credited.remove(&id);
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
                true if state.is_too_high => state.took * COUNT_SHARE,
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
            state.is_too_high = false;
            state.is_counting = true;
        }
        let begun = Instant::now();
        let counted = self.count_all(root);
        let mut state = lock(&self.state);
        state.is_counting = false;
        let (mut used, added) = (counted?, state.added);
        used.put(added);
        state.used = used;
        state.is_too_high |= added != Amount::default();
        state.counted = Some(Instant::now());
        state.took = begun.elapsed();
        Ok(())
    }

    /// Counts again if directories moved away under the count.
    fn count_all(&self, root: &Root) -> Result<Amount, RootError> {
        let mut most = Amount::default();
        for _ in 0..COUNTS_MAX {
            let (mut amount, shared, is_all) = self.count(root, &[])?;
            amount.bytes = amount.bytes.saturating_add(shared);
            most.bytes = most.bytes.max(amount.bytes);
            most.entries = most.entries.max(amount.entries);
            if is_all {
                break;
            }
        }
        Ok(most)
    }

    /// What is below a directory; bytes of files with several names apart, each
    /// once; `false` if directories moved away meanwhile.
    fn count(&self, root: &Root, top: &[FileName]) -> Result<(Amount, u64, bool), RootError> {
        let (mut amount, mut bytes_shared) = (Amount::default(), 0_u64);
        let mut shared = HashSet::new();
        let is_all = each_directory(root, top, &mut |directory| {
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
                    FileKind::File if meta.links < 2 => {
                        amount.bytes = amount.bytes.saturating_add(meta.bytes);
                    }
                    FileKind::File if is_first(&mut shared, meta.id) => {
                        bytes_shared = bytes_shared.saturating_add(meta.bytes);
                    }
                    _ => {}
                }
            }
            Ok(below)
        })?;
        Ok((amount, bytes_shared, is_all))
    }

    /// Bytes that go with all below a directory, and whether that is sure.
    pub(crate) fn bytes_below(&self, root: &Root, top: &[FileName]) -> (u64, bool) {
        match self.count(root, top) {
            Ok((amount, shared, is_all)) => (amount.bytes, is_all && shared == 0),
            Err(_) => (0, false),
        }
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

    fn less(&mut self, less: Amount) {
        self.used.take(less);
        // It may have been counted before it went.
        self.is_too_high |= self.is_counting;
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
    depth: usize,
    /// Open, for those below that come to it.
    held: Mutex<Option<Directory>>,
}

impl Visit {
    fn below(above: Option<&Arc<Self>>, name: FileName) -> Arc<Self> {
        Arc::new(Self {
            above: above.cloned(),
            name,
            depth: above.map_or(1, |above| above.depth + 1),
            held: Mutex::default(),
        })
    }

    /// Comes to it from the closest directory above that is held.
    fn enter(&self, top: &Directory) -> Result<Directory, RootError> {
        let (mut names, mut at) = (vec![&self.name], self.above.as_ref());
        let mut directory = top.clone();
        while let Some(visit) = at {
            if let Some(held) = &*lock(&visit.held) {
                directory = held.clone();
                break;
            }
            names.push(&visit.name);
            at = visit.above.as_ref();
        }
        for name in names.into_iter().rev() {
            directory = directory.enter(name)?;
        }
        if self.depth.is_multiple_of(HOLD_EVERY) {
            *lock(&self.held) = Some(directory.clone());
        }
        Ok(directory)
    }
}

/// Visits the directory `top` and all below it; `visit` answers with the names
/// of those in it that are to be visited. What may not be entered is passed over.
/// `false` if a directory was not where it was seen.
///
/// # Errors
///
/// What `visit` says of `top`, and `ENAMETOOLONG` for a tree that is deeper than
/// any caller can make it by names.
pub(crate) fn each_directory(
    root: &Root,
    top: &[FileName],
    visit: &mut dyn FnMut(&Directory) -> Result<Vec<FileName>, RootError>,
) -> Result<bool, RootError> {
    let walked = root.walk(top, Follow::No);
    let top = walked.map_err(|failed| failed.error)?.enter()?;
    let mut is_all = true;
    let first = visit(&top)?.into_iter();
    let mut ahead: Vec<_> = first.map(|name| Visit::below(None, name)).collect();
    while let Some(at) = ahead.pop() {
        if at.depth > DEPTH_MAX {
            return Err(rustix::io::Errno::NAMETOOLONG.into());
        }
        match at.enter(&top).and_then(|directory| visit(&directory)) {
            Ok(below) => ahead.extend(below.into_iter().map(|name| Visit::below(Some(&at), name))),
            Err(RootError::Stopped) => return Err(RootError::Stopped),
            Err(error) => is_all &= !has_moved(&error),
        }
    }
    Ok(is_all)
}

/// Whether something else is where a directory was.
fn has_moved(error: &RootError) -> bool {
    use rustix::io::Errno;
    let errors = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP];
    let errno = error.errno();
    errors
        .iter()
        .any(|moved| Some(moved.raw_os_error()) == errno)
}

/// An act by which something may become less. If another one is under way at the
/// same time, both may have looked at the same file: then nothing is subtracted,
/// and what there is is counted before anybody is refused.
#[derive(Debug)]
pub(crate) struct Freeing<'a> {
    usage: &'a Usage,
    is_alone: bool,
    number: u64,
}

impl Freeing<'_> {
    /// So much is gone.
    pub(crate) fn freed(&self, bytes: u64, entries: u64) {
        let mut state = lock(&self.usage.state);
        match self.is_alone && state.freeings == self.number {
            true => state.less(Amount { bytes, entries }),
            false => state.is_too_high = true,
        }
    }

    /// Something is gone, nobody knows how much.
    pub(crate) fn freed_somehow(&self) {
        lock(&self.usage.state).is_too_high = true;
    }

    /// One name of what `meta` describes is gone.
    pub(crate) fn freed_name(&self, meta: &Meta) {
        let is_last = meta.kind == FileKind::File && meta.links < 2;
        self.freed(if is_last { meta.bytes } else { 0 }, 1);
    }
}

impl Drop for Freeing<'_> {
    fn drop(&mut self) {
        lock(&self.usage.state).freeing -= 1;
    }
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

    /// Claims up to `amount`, if there is room as far as that is known.
    pub(crate) fn reaches(&mut self, amount: Amount) -> bool {
        let settings = self.bucket.settings();
        let more = Amount {
            bytes: amount.bytes.saturating_sub(self.has.bytes),
            entries: amount.entries.saturating_sub(self.has.entries),
        };
        if !settings.has_quota() {
            return true;
        }
        let fits = self.bucket.usage.try_claim(more, &settings);
        if fits {
            self.has.put(more);
        }
        fits
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
        let fits = state.counted.is_some() && state.fits(more, settings);
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
