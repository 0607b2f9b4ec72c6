//! What was acknowledged is there after kills, loss of power, full disks and
//! failing ones: the real program, with clients that write and note each write
//! after its reply.

mod files;
mod inject;
mod kill;
mod ledger;
mod power;
mod space;
mod writers;

use alknet_testkit::power::Seeded;
use std::env;

/// How many rounds: a sample, or the whole proof; `ALKNET_TEST_ROUNDS` says
/// another number.
fn rounds(sample: u64, full: u64) -> u64 {
    match env::var("ALKNET_TEST_ROUNDS") {
        Ok(rounds) => rounds.parse().unwrap(),
        Err(_) if env::var_os("ALKNET_TEST_FULL").is_some() => full,
        Err(_) => sample,
    }
}

/// What decides moments and places: `ALKNET_TEST_SEED`, or 1. Failures tell it.
fn seed() -> u64 {
    env::var("ALKNET_TEST_SEED").map_or(1, |seed| seed.parse().unwrap())
}

/// A sequence for each use, so that one more number in a test changes no other.
fn random(what: &str) -> Seeded {
    let salt = what
        .bytes()
        .fold(0_u64, |salt, byte| salt.rotate_left(7) ^ u64::from(byte));
    Seeded::new(seed() ^ salt)
}
