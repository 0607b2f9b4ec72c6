//! The directories that are open on a walk. What the other node told of them
//! waits here, and is bounded, however deep and wide it says its tree is: of
//! the upper ones only the place is kept, and they are listed again on the way
//! back.

use alknet_core::files::{FileKind, FileName, FileTime, ListEntry};
use std::collections::VecDeque;

/// Longest text of a target: 4095 bytes, all of them escaped.
const TARGET_BYTES_MAX: usize = 3 * 4095;
/// Bytes of entries that wait. One page has fewer in any case.
const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A page of a directory, and where the next one begins.
pub(super) type Page = (VecDeque<Waiting>, Option<String>);

/// An entry that waits: what is needed of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) name: FileName,
    pub(super) kind: FileKind,
    pub(super) bytes: u64,
    pub(super) mode: u32,
    pub(super) mtime: FileTime,
    pub(super) target: Option<Box<str>>,
}

impl Waiting {
    fn cost(&self) -> usize {
        let target = self.target.as_ref().map_or(0, |target| target.len());
        size_of::<Self>() + self.name.as_bytes().len() + target
    }
}

impl From<ListEntry> for Waiting {
    /// A target that no host takes is none.
    fn from(entry: ListEntry) -> Self {
        let target = entry.target.filter(|text| text.len() <= TARGET_BYTES_MAX);
        Self {
            name: entry.name,
            kind: entry.stat.kind,
            bytes: entry.stat.bytes,
            mode: entry.stat.mode,
            mtime: entry.stat.mtime,
            target: target.map(Into::into),
        }
    }
}

/// A directory of the walk.
#[derive(Debug)]
struct Level {
    /// None for the root.
    name: Option<FileName>,
    mode: u32,
    mtime: FileTime,
    entries: VecDeque<Waiting>,
    cost: usize,
    /// Where the page began that these entries are of, and how many of it were
    /// taken.
    page: Option<String>,
    taken: usize,
    more: More,
}

/// What is still to be listed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum More {
    /// A page, from here.
    From(Option<String>),
    /// The page that was let go.
    Again,
    Nothing,
}

/// What comes next on the walk.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// An entry of the innermost directory.
    Entry(Waiting),
    /// A page of it is needed, from here.
    List(Option<String>),
    /// It is complete; these are its attributes.
    Leave(u32, FileTime),
}

/// The directories from the root to where the walk is.
#[derive(Debug, Default)]
pub(super) struct Levels {
    levels: Vec<Level>,
    cost: usize,
}

impl Levels {
    /// Goes into a directory.
    pub(super) fn enter(&mut self, name: Option<FileName>, mode: u32, mtime: FileTime) {
        self.levels.push(Level {
            name,
            mode,
            mtime,
            entries: VecDeque::new(),
            cost: 0,
            page: None,
            taken: 0,
            more: More::From(None),
        });
    }

    /// The names from the root to the innermost directory.
    pub(super) fn names(&self) -> Vec<FileName> {
        let names = self.levels.iter();
        names.filter_map(|level| level.name.clone()).collect()
    }

    /// What comes next; nothing outside of all directories. After
    /// [`Step::Leave`], [`Levels::left`] goes out.
    pub(super) fn next(&mut self) -> Option<Step> {
        let level = self.levels.last_mut()?;
        if let Some(entry) = level.entries.pop_front() {
            level.taken += 1;
            level.cost -= entry.cost();
            self.cost -= entry.cost();
            return Some(Step::Entry(entry));
        }
        Some(match &level.more {
            More::From(place) => Step::List(place.clone()),
            More::Again => Step::List(level.page.clone()),
            More::Nothing => Step::Leave(level.mode, level.mtime),
        })
    }

    /// Goes out of the innermost directory.
    pub(super) fn left(&mut self) {
        if let Some(level) = self.levels.pop() {
            self.cost -= level.cost;
        }
    }

    /// Takes the page that [`Levels::next`] asked for; none if there is none.
    pub(super) fn listed(&mut self, page: Option<Page>) {
        let Some(level) = self.levels.last_mut() else {
            return;
        };
        let Some((mut entries, next)) = page else {
            level.more = More::Nothing;
            return;
        };
        match std::mem::replace(&mut level.more, More::Nothing) {
            // If it has changed since, some come twice, or not at all, as in
            // any walk of what changes.
            More::Again => drop(entries.drain(..level.taken.min(entries.len()))),
            More::From(place) => (level.page, level.taken) = (place, 0),
            More::Nothing => {}
        }
        if next.is_some() {
            level.more = More::From(next);
        }
        level.cost = entries.iter().map(Waiting::cost).sum();
        level.entries = entries;
        self.cost += level.cost;
        self.let_go();
    }

    /// Keeps of the upper directories only where they were.
    fn let_go(&mut self) {
        let Some((_, above)) = self.levels.split_last_mut() else {
            return;
        };
        for level in above {
            if self.cost <= WAITING_BYTES_MAX {
                return;
            }
            if level.entries.is_empty() {
                continue;
            }
            self.cost -= level.cost;
            level.cost = 0;
            level.entries = VecDeque::new();
            level.more = More::Again;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeSet;

    fn entry(name: &str, kind: FileKind, target: usize) -> Waiting {
        Waiting {
            name: FileName::parse(name).unwrap(),
            kind,
            bytes: 0,
            mode: 0o644,
            mtime: FileTime::default(),
            target: (target > 0).then(|| "t".repeat(target).into()),
        }
    }

    /// A tree in which each directory has `wide` links in two pages, and one
    /// directory between them, down to `deep`.
    fn page(depth: usize, deep: usize, wide: usize, from: Option<&str>) -> Page {
        let half = |range: std::ops::Range<usize>| {
            let names =
                range.map(|n| entry(&format!("l{n:04}"), FileKind::Symlink, TARGET_BYTES_MAX));
            names.collect::<VecDeque<_>>()
        };
        match from {
            None => {
                let mut first = half(0..wide / 2);
                if depth < deep {
                    first.insert(wide / 4, entry("d", FileKind::Directory, 0));
                }
                (first, Some("second".into()))
            }
            Some("second") => (half(wide / 2..wide), None),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_tree_is_walked_whole_in_little_memory_however_deep_and_wide_it_is() {
        let (deep, wide) = (200, 64);
        let mut levels = Levels::default();
        levels.enter(None, 0o755, FileTime::default());
        let (mut seen, mut most) = (BTreeSet::new(), 0);
        let (mut lists, mut left) = (0, 0);
        while let Some(step) = levels.next() {
            let depth = levels.names().len();
            match step {
                Step::Entry(entry) => {
                    assert!(seen.insert((depth, entry.name.clone())), "{entry:?} again");
                    if entry.kind == FileKind::Directory {
                        levels.enter(Some(entry.name), entry.mode, entry.mtime);
                    }
                }
                Step::List(from) => {
                    lists += 1;
                    levels.listed(Some(page(depth, deep, wide, from.as_deref())));
                    most = most.max(levels.cost);
                }
                Step::Leave(..) => {
                    left += 1;
                    levels.left();
                }
            }
        }
        assert_eq!(seen.len(), (deep + 1) * wide + deep);
        assert_eq!((left, levels.cost), (deep + 1, 0));
        assert!(most <= WAITING_BYTES_MAX, "{most}");
        // Some were listed again, and none more than once more.
        let once = 2 * (deep + 1);
        assert!(
            (once + 1..=once + deep).contains(&lists),
            "{lists} of {once}"
        );
    }

    #[test]
    fn a_directory_that_cannot_be_listed_is_left() {
        let mut levels = Levels::default();
        levels.enter(None, 0o755, FileTime::default());
        assert_eq!(levels.next(), Some(Step::List(None)));
        levels.listed(None);
        assert_eq!(levels.next(), Some(Step::Leave(0o755, FileTime::default())));
        levels.left();
        assert_eq!(levels.next(), None);
    }

    #[test]
    fn a_target_is_as_long_as_a_host_takes_and_not_one_longer() {
        let told = |len: usize| {
            let text = format!(
                r#"{{"name":"l","kind":"symlink","bytes":1,"mode":511,"uid":0,"gid":0,"links":1,"mtime":"1970-01-01T00:00:00Z","version":"","target":"{}"}}"#,
                "t".repeat(len)
            );
            Waiting::from(serde_json::from_str::<ListEntry>(&text).unwrap()).target
        };
        assert!(told(TARGET_BYTES_MAX).is_some());
        assert!(told(TARGET_BYTES_MAX + 1).is_none());
    }
}
