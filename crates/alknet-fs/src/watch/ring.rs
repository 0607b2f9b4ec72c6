//! The last changes of a bucket, numbered.

use super::{CHANGES_BYTES_MAX, CHANGES_KEPT};
use alknet_core::files::{FileErrorCode, FileKind, FileName};
use std::collections::VecDeque;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Created,
    Modified,
    Attributes,
    Removed,
    /// From there, or from where nobody watches.
    Renamed(Option<Vec<FileName>>),
    /// Anything below may have happened.
    Missed,
    /// It is watched no longer.
    Lost(FileErrorCode, String),
}

/// A change, to what is called `names` from the root on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) what: What,
    pub(super) names: Vec<FileName>,
    pub(super) entry: Option<FileKind>,
}

impl Item {
    fn bytes(&self) -> usize {
        let from = match &self.what {
            What::Renamed(Some(from)) => from.as_slice(),
            _ => &[],
        };
        let names = self.names.iter().chain(from);
        names.map(|name| name.as_bytes().len() + 16).sum::<usize>() + 96
    }
}

/// Changes have numbers from 1 on; a cursor is the number of the last one that
/// its holder knows, and which run of the node it is of.
#[derive(Debug)]
pub(super) struct Ring {
    run: String,
    items: VecDeque<Item>,
    /// The number of the first item.
    first: u64,
    bytes: usize,
}

impl Ring {
    pub(super) fn new() -> Self {
        Self {
            run: format!("{:016x}", rand::random::<u64>()),
            items: VecDeque::new(),
            first: 1,
            bytes: 0,
        }
    }

    /// The number of the last change; 0 if there is none.
    pub(super) fn head(&self) -> u64 {
        self.first + self.items.len() as u64 - 1
    }

    pub(super) fn push(&mut self, item: Item) -> u64 {
        self.bytes += item.bytes();
        self.items.push_back(item);
        while self.items.len() > CHANGES_KEPT || self.bytes > CHANGES_BYTES_MAX {
            let Some(oldest) = self.items.pop_front() else {
                break;
            };
            self.bytes -= oldest.bytes();
            self.first += 1;
        }
        self.head()
    }

    /// The changes after that number; `None` if some of them are not kept.
    pub(super) fn after(&self, number: u64) -> Option<impl Iterator<Item = (u64, &Item)>> {
        let skipped = usize::try_from((number + 1).checked_sub(self.first)?).ok()?;
        let numbers = number + 1..;
        Some(numbers.zip(self.items.iter().skip(skipped)))
    }

    pub(super) fn cursor(&self, number: u64) -> String {
        format!("{}-{number}", self.run)
    }

    /// The number in a cursor that this ring gave, if all that came after it is
    /// kept.
    pub(super) fn number(&self, cursor: &str) -> Option<u64> {
        let (run, number) = cursor.split_once('-')?;
        let number = number.parse().ok()?;
        let is_kept = run == self.run && number <= self.head() && number + 1 >= self.first;
        is_kept.then_some(number)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn item(name: &str) -> Item {
        Item {
            what: What::Created,
            names: vec![FileName::parse(name).unwrap()],
            entry: None,
        }
    }

    #[test]
    fn what_is_kept_is_told_after_any_number_and_the_rest_is_known_to_be_gone() {
        let mut ring = Ring::new();
        assert_eq!(ring.head(), 0);
        for at in 1..=CHANGES_KEPT as u64 + 2 {
            assert_eq!(ring.push(item(&at.to_string())), at);
        }
        assert!(ring.after(1).is_none(), "2 is gone");
        let told = ring.after(2).unwrap();
        let numbers: Vec<u64> = told.map(|(number, _)| number).collect();
        assert_eq!(numbers.len(), CHANGES_KEPT);
        assert_eq!((numbers[0], *numbers.last().unwrap()), (3, ring.head()));
        assert_eq!(ring.after(ring.head()).unwrap().count(), 0);
    }

    #[test]
    fn long_names_take_the_place_of_more_changes() {
        let mut ring = Ring::new();
        let long = Item {
            names: vec![FileName::parse(&"n".repeat(255)).unwrap(); 16],
            ..item("a")
        };
        for _ in 0..CHANGES_KEPT {
            ring.push(long.clone());
        }
        assert!(ring.bytes <= CHANGES_BYTES_MAX);
        assert!(ring.items.len() < CHANGES_KEPT / 3);
        assert_eq!(ring.head(), CHANGES_KEPT as u64);
    }

    #[test]
    fn a_cursor_is_good_for_the_run_and_the_changes_that_it_is_of() {
        let mut ring = Ring::new();
        ring.push(item("a"));
        let cursor = ring.cursor(1);
        assert_eq!(ring.number(&cursor), Some(1));
        assert_eq!(ring.number(&ring.cursor(0)), Some(0));
        assert_eq!(ring.number(&ring.cursor(2)), None, "ahead of everything");
        assert_eq!(Ring::new().number(&cursor), None, "of another run");
        assert_eq!(ring.number(&ring.cursor(u64::MAX)), None);
        for odd in ["", "-", "1", "x-1", &format!("{}-x", ring.run)] {
            assert_eq!(ring.number(odd), None, "{odd}");
        }
    }
}
