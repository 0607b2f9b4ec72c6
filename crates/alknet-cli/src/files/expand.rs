//! Finds what a pattern means, directory by directory: no more of a node's
//! listing is held than one page of each directory on the way.

use super::{
    place::{Meaning, RemotePlace, Segment},
    remote::{PAGE_ENTRIES, Page, Remote},
};
use crate::node_access::{CallError, ErrorCode, FileKind, FilePath, FileStat, ListEntry};
use std::{collections::BTreeSet, vec};

/// Deeper down pages are smaller, so that what is held stays small.
const DEEP: usize = 8;
const DEEP_PAGE_ENTRIES: usize = 64;

/// A file that is meant.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) file: FilePath,
    pub(crate) stat: FileStat,
    /// Where a link leads.
    pub(crate) target: Option<String>,
}

/// What a place means, one after the other.
#[derive(Debug)]
pub(crate) struct Expansion<'a> {
    remote: Remote<'a>,
    /// From the first pattern on.
    segments: Vec<Segment>,
    /// Only directories are meant.
    is_directory: bool,
    stack: Vec<Frame>,
}

/// A directory on the way.
#[derive(Debug)]
struct Frame {
    directory: FilePath,
    /// Which segments its entries may be.
    states: BTreeSet<usize>,
    /// A link led here, or may have: what cannot be listed is no match.
    is_guess: bool,
    /// A link is on the way that a pattern found: what may not be seen behind
    /// it is no match either, as with those that lead nowhere.
    is_behind: bool,
    entries: vec::IntoIter<ListEntry>,
    next: Option<String>,
    is_begun: bool,
}

/// What could not be looked into.
#[derive(Debug)]
pub(crate) struct NotFound {
    pub(crate) file: FilePath,
    pub(crate) error: CallError,
}

impl<'a> Expansion<'a> {
    /// Of a pattern; what is none means nothing here.
    pub(crate) fn of(remote: Remote<'a>, place: &RemotePlace) -> Self {
        let (before, segments) = match place.split() {
            Some((before, segments)) => (Some(before), segments.to_vec()),
            None => (None, Vec::new()),
        };
        let mut all = Self {
            remote,
            segments,
            is_directory: place.is_directory,
            stack: Vec::new(),
        };
        if let Some(before) = before.filter(|_| !all.segments.is_empty()) {
            let states = closure(&all.segments, [0]);
            all.stack.push(Frame::new(before, states, false, false));
        }
        all
    }

    /// The next one, in the order of the disk; an error concerns a directory,
    /// and others may follow.
    pub(crate) async fn next(&mut self) -> Option<Result<Found, NotFound>> {
        loop {
            let depth = self.stack.len();
            let frame = self.stack.last_mut()?;
            if let Some(entry) = frame.entries.next() {
                match self.step(entry) {
                    Some(found) => return Some(Ok(found)),
                    None => continue,
                }
            }
            if frame.is_begun && frame.next.is_none() {
                self.stack.pop();
                continue;
            }
            if let Some(name) = only_name(&self.segments, &frame.states) {
                let named = name.clone();
                match self.named(&named).await {
                    Some(found) => return Some(found),
                    None => continue,
                }
            }
            let limit = match depth {
                0..DEEP => PAGE_ENTRIES,
                _ => DEEP_PAGE_ENTRIES,
            };
            let frame = self.stack.last_mut()?;
            let listed = self
                .remote
                .page(&frame.directory, frame.next.as_deref(), limit);
            match listed.await {
                Ok(Page { entries, next }) => {
                    (frame.entries, frame.next, frame.is_begun) = (entries.into_iter(), next, true);
                }
                Err(error) => {
                    let is_silent = frame.is_silent(&error);
                    let file = self.stack.pop()?.directory;
                    if !is_silent {
                        return Some(Err(NotFound { file, error }));
                    }
                }
            }
        }
    }

    /// What an entry of the directory on top is.
    fn step(&mut self, entry: ListEntry) -> Option<Found> {
        let frame = self.stack.last()?;
        let (mut is_meant, mut next) = (false, BTreeSet::new());
        let mut is_linked = false;
        for state in &frame.states {
            let segment = self.segments.get(*state)?;
            let name = entry.name.as_bytes();
            let matches = match &segment.means {
                Meaning::Name => segment.name == entry.name,
                Meaning::Pattern(pattern) => pattern.matches(name),
                Meaning::AnyDepth => name.first() != Some(&b'.'),
            };
            if !matches {
                continue;
            }
            let is_last = state + 1 == self.segments.len();
            is_meant |= is_last;
            if segment.means == Meaning::AnyDepth {
                // It leads into directories, and through no links.
                if entry.stat.kind == FileKind::Directory {
                    next.insert(*state);
                }
            } else if !is_last {
                is_linked = true;
                next.insert(state + 1);
            }
        }
        let file = frame.directory.join(entry.name.clone()).ok()?;
        let leads_on = match entry.stat.kind {
            FileKind::Directory => true,
            FileKind::Symlink => is_linked,
            _ => false,
        };
        let is_link = entry.stat.kind == FileKind::Symlink;
        let is_behind = is_link || frame.is_behind;
        if leads_on && !next.is_empty() {
            let states = closure(&self.segments, next);
            self.stack
                .push(Frame::new(file.clone(), states, is_link, is_behind));
        }
        let is_wanted = !self.is_directory || entry.stat.kind == FileKind::Directory;
        (is_meant && is_wanted).then_some(Found {
            file,
            stat: entry.stat,
            target: entry.target,
        })
    }

    /// Goes on where only one name can be meant, without a listing.
    async fn named(&mut self, name: &Segment) -> Option<Result<Found, NotFound>> {
        let frame = self.stack.pop()?;
        let (state, is_behind) = (*frame.states.first()?, frame.is_behind);
        let file = frame.directory.join(name.name.clone()).ok()?;
        if state + 1 < self.segments.len() {
            let states = closure(&self.segments, [state + 1]);
            self.stack.push(Frame::new(file, states, true, is_behind));
            return None;
        }
        let described = match self.remote.stat(&file, false).await {
            Err(error) if is_behind && frame.is_silent(&error) => None,
            Err(error) if error.is(ErrorCode::Forbidden) => match self.remote.entry(&file).await {
                Ok(entry) => entry.map(|entry| (entry.stat, entry.target)),
                Err(error) if leads_nowhere(&error) => None,
                Err(error) => return Some(Err(NotFound { file, error })),
            },
            Ok(stat) => Some((stat.stat, stat.target)),
            Err(error) if leads_nowhere(&error) => None,
            Err(error) => return Some(Err(NotFound { file, error })),
        };
        let (stat, target) = described?;
        let is_wanted = !self.is_directory || stat.kind == FileKind::Directory;
        is_wanted.then_some(Ok(Found { file, stat, target }))
    }
}

impl Frame {
    fn new(directory: FilePath, states: BTreeSet<usize>, is_guess: bool, is_behind: bool) -> Self {
        Self {
            directory,
            states,
            is_guess,
            is_behind,
            entries: Vec::new().into_iter(),
            next: None,
            is_begun: false,
        }
    }

    /// Whether an error means that nothing is meant here.
    fn is_silent(&self, error: &CallError) -> bool {
        (self.is_guess && leads_nowhere(error))
            || (self.is_behind && error.is(ErrorCode::Forbidden))
    }
}

/// The one name that can be meant, if it is one.
fn only_name<'s>(segments: &'s [Segment], states: &BTreeSet<usize>) -> Option<&'s Segment> {
    let mut states = states.iter();
    let only = states.next().filter(|_| states.len() == 0)?;
    let segment = segments.get(*only)?;
    (segment.means == Meaning::Name).then_some(segment)
}

/// `**` may mean no directory at all: what follows it may be meant too.
fn closure(segments: &[Segment], states: impl IntoIterator<Item = usize>) -> BTreeSet<usize> {
    let mut all = BTreeSet::new();
    for mut state in states {
        all.insert(state);
        let is_any = |state: usize| {
            segments
                .get(state)
                .is_some_and(|segment| segment.means == Meaning::AnyDepth)
        };
        while is_any(state) && state + 1 < segments.len() {
            state += 1;
            all.insert(state);
        }
    }
    all
}

/// Whether nothing is there, or nothing that the bucket holds.
fn leads_nowhere(error: &CallError) -> bool {
    matches!(
        &*error.code,
        "NO_SUCH_FILE" | "NOT_A_DIRECTORY" | "LEADS_OUTSIDE" | "TOO_MANY_LINKS" | "NOT_A_FILE"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::files::FilePlace;
    use std::ffi::OsStr;

    fn states(given: &str, from: usize) -> Vec<usize> {
        let place = FilePlace::parse_remote(OsStr::new(given)).unwrap();
        let (_, segments) = place.split().unwrap();
        closure(segments, [from]).into_iter().collect()
    }

    #[test]
    fn what_is_behind_a_link_may_be_out_of_sight() {
        let file = FilePath::parse("www/public/link").unwrap();
        let silent = |is_guess, is_behind, code: ErrorCode| {
            let frame = Frame::new(file.clone(), BTreeSet::new(), is_guess, is_behind);
            frame.is_silent(&CallError::new(code, "x"))
        };
        assert!(silent(true, true, ErrorCode::Forbidden));
        assert!(!silent(false, false, ErrorCode::Forbidden));
        assert!(!silent(true, false, ErrorCode::Forbidden));
        assert!(!silent(true, true, ErrorCode::Timeout));
        let frame = Frame::new(file.clone(), BTreeSet::new(), true, false);
        assert!(frame.is_silent(&CallError::domain("NOT_A_DIRECTORY", "x")));
    }

    #[test]
    fn any_number_of_directories_may_be_none() {
        assert_eq!(states(":b/**/**/x", 0), [0, 1, 2]);
        assert_eq!(states(":b/*/**", 0), [0]);
        assert_eq!(states(":b/*/**", 1), [1]);
        assert_eq!(states(":b/**/*", 0), [0, 1]);
    }
}
