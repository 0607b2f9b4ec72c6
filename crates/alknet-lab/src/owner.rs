//! Whose a namespace is: every name carries the process that made it.

use crate::netns;
use std::{
    fs, process,
    sync::atomic::{AtomicU32, Ordering},
};

/// What all names start with.
const MARK: &str = "alklab";

/// The process that made a namespace: its id may be used again, but not with
/// the same time of start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner {
    pid: u32,
    /// Clock ticks after boot, as field 22 of `/proc/PID/stat` has it.
    started: u64,
}

impl Owner {
    fn this_process() -> Self {
        let pid = process::id();
        Self {
            pid,
            started: started(pid).unwrap_or_default(),
        }
    }

    /// The owner named in the name of a namespace.
    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('.');
        if parts.next() != Some(MARK) {
            return None;
        }
        let pid = parts.next()?.parse().ok()?;
        let started = parts.next()?.parse().ok()?;
        Some(Self { pid, started })
    }

    fn lives(self) -> bool {
        started(self.pid) == Some(self.started)
    }
}

/// When a process started, if there is one.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program, field 2, may hold spaces and parentheses.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19)?.parse().ok()
}

/// A prefix for the names of one lab, which no other lab has.
pub(crate) fn prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let Owner { pid, started } = Owner::this_process();
    let lab = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{MARK}.{pid}.{started}.{lab}.")
}

/// Removes the labs of processes that have ended, with what still runs in
/// them; returns the names of their namespaces.
///
/// A process that is killed cannot tidy up: every lab does it for those before
/// it, and `alknet-lab clean` by hand.
pub fn clean() -> Vec<String> {
    remove(|owner| !owner.lives())
}

/// Removes every lab of this process, as before an exit that drops nothing.
pub fn clean_own() -> Vec<String> {
    let own = Owner::this_process();
    remove(|owner| owner == own)
}

/// The namespaces of labs, those of running processes too.
pub fn namespaces() -> Vec<String> {
    let mut names = netns::names();
    names.retain(|name| Owner::parse(name).is_some());
    names.sort();
    names
}

fn remove(whose: impl Fn(Owner) -> bool) -> Vec<String> {
    let mut names = namespaces();
    names.retain(|name| Owner::parse(name).is_some_and(&whose));
    netns::remove(&names);
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_of_this_process_is_not_left_behind() {
        let name = format!("{}home", prefix());
        let owner = Owner::parse(&name).unwrap();
        assert_eq!(owner, Owner::this_process());
        assert!(owner.lives());
    }

    #[test]
    fn the_next_process_with_the_same_id_is_somebody_else() {
        let own = Owner::this_process();
        let other = Owner {
            started: own.started + 1,
            ..own
        };
        assert!(!other.lives());
    }

    #[test]
    fn two_labs_share_no_name() {
        assert_ne!(prefix(), prefix());
    }

    #[test]
    fn namespaces_of_others_are_left_alone() {
        for name in [
            "home",
            "alk42-home",
            "alklab",
            "alklab.1",
            "alklab.x.2.0.home",
            "my.1.2.0.home",
        ] {
            assert_eq!(Owner::parse(name), None, "{name}");
        }
    }
}
