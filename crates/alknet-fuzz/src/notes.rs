//! What a target says of an execution: the stable toolchain has no coverage,
//! so the loop keeps the inputs that made a target note something new.

use std::{
    cell::RefCell,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash},
};

/// Notes of one execution that are kept.
const NOTES_MAX: usize = 64;

thread_local! {
    static NOTES: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Notes what the input led to: an outcome, a state that was reached. Inputs
/// with notes never made before are mutated further.
pub fn note(what: impl Hash) {
    // Keyed with nothing, so that a run can be repeated.
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(what);
    NOTES.with_borrow_mut(|notes| {
        if notes.len() < NOTES_MAX {
            notes.push(hash);
        }
    });
}

/// Forgets the notes of the last execution: for a driver that has coverage.
pub fn forget_notes() {
    take(drop);
}

/// Takes the notes of the last execution.
pub(crate) fn take(mut with: impl FnMut(u64)) {
    NOTES.with_borrow_mut(|notes| notes.drain(..).for_each(&mut with));
}
