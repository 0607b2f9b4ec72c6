//! Fuzzing: every decoder and every rule is thrown at with mutated input.
//!
//! A [`Target`] is a plain `fn(&[u8])` that panics when a promise is broken. It
//! is run by two drivers: [`fuzz`], a loop of this crate that needs nothing but
//! the stable toolchain and is part of `./test`, and `cargo fuzz` in the folder
//! `fuzz/`, which is guided by coverage and runs for hours. Both start from the
//! same seeds (written in code beside each target) and the same corpus.
//!
//! What a target may break, beside its own assertions: a panic anywhere on its
//! thread, caught or not; more memory held than [`Target::held_max`]; an
//! execution that does not end.
//!
//! Not here: unit tests of decoders, which stand beside them. Never published.
//!
//! ```
//! use alknet_fuzz::{Options, TARGETS, fuzz};
//!
//! let names = TARGETS.iter().find(|target| target.name == "names");
//! let options = Options { executions: Some(1_000), ..Options::default() };
//! let report = fuzz(names.expect("in the table"), &options).expect("a readable corpus");
//! assert!(report.finding.is_none());
//! ```

mod alloc;
mod engine;
mod mutate;
mod notes;
mod rng;
mod run;
mod source;
mod targets;

pub use crate::{
    engine::{Finding, FindingKind, Options, Report, fuzz},
    notes::{forget_notes, note},
    run::{CORPUS, REGRESSIONS, replay, save_input, starting_corpus},
    targets::{TARGETS, Target},
};
