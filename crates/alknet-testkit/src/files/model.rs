//! Random sequences of calls, on a service and on a naive tree of files: every
//! reply is compared, and after every call everything that is there.
//!
//! What POSIX has and the model too: inodes with several names, which live on
//! while they are open; holes that read as zeros; appending; links of all
//! kinds. What the service adds: a content that is replaced as a whole. What is
//! not modelled, because others show it: permits, quotas, times that nobody
//! set, and a directory that moves while a file in it is being replaced.

mod drive;
mod step;
mod tree;

use super::Subject;
use futures::future::BoxFuture;
use proptest::{
    collection::vec,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};

/// How many sequences are run, and which.
#[derive(Clone, Copy, Debug)]
pub struct Sequences {
    /// How many.
    pub count: u32,
    /// Most calls of one.
    pub calls_max: usize,
    /// The same seed makes the same sequences; it is told if one fails.
    pub seed: u64,
    /// How often a sequence that fails is tried again without a part of it.
    pub shrinks_max: u32,
}

/// Runs sequences of calls, each on a service of its own, and compares each
/// with the model. Blocks the thread.
///
/// # Panics
///
/// If a service does something else than the model, with the shortest sequence
/// of calls that was found for it, and the seed.
pub fn follows_the_model(make: impl Fn() -> BoxFuture<'static, Subject>, sequences: Sequences) {
    if let Some(difference) = difference_to_the_model(make, sequences) {
        panic!("{difference}");
    }
}

/// What a service does else than the model, if anything was found. Blocks the
/// thread.
///
/// # Panics
///
/// If what a sequence is run in cannot be made.
pub fn difference_to_the_model(
    make: impl Fn() -> BoxFuture<'static, Subject>,
    sequences: Sequences,
) -> Option<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let config = Config {
        cases: sequences.count,
        failure_persistence: None,
        max_shrink_iters: sequences.shrinks_max,
        ..Config::default()
    };
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&sequences.seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let steps = vec(step::any_step(), 1..=sequences.calls_max);
    let outcome = runner.run(&steps, |steps| {
        let subject = runtime.block_on(make());
        runtime
            .block_on(drive::run(subject, &steps))
            .map_err(TestCaseError::fail)
    });
    let error = outcome.err()?;
    Some(format!("seed {}: {error}", sequences.seed))
}
