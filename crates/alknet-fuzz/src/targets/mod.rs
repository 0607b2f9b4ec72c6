//! What is fuzzed: one function for each decoder or rule, with its seeds.

mod access;
mod addresses;
mod backups;
mod catalogue;
mod commands;
mod config;
mod cursors;
mod events;
mod finding;
mod frames;
mod json;
mod judging;
mod models;
mod names;
mod paths;
mod resources;
mod schemas;
mod streams;
mod tickets;
mod vault;
mod walks;
mod words;

/// A megabyte.
const MIB: usize = 1024 * 1024;

/// A decoder or a rule, and how to reach it.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// What it promises, in one sentence.
    pub about: &'static str,
    /// Panics if the promise is broken.
    pub run: fn(&[u8]),
    /// Inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Parts that inputs are made of.
    pub tokens: &'static [&'static [u8]],
    /// Bytes of an input.
    pub bytes_max: usize,
    /// Bytes of memory that one execution may hold at once.
    pub held_max: usize,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    frames::FRAMES,
    frames::HEADERS,
    events::HELLO,
    events::CALLEE,
    events::CALLER,
    names::NAMES,
    names::SCOPES,
    resources::GRANTS,
    resources::RESOURCES,
    resources::PATTERNS,
    paths::PATHS,
    paths::TREES,
    streams::STREAMS,
    streams::HOLES,
    access::ACCESS,
    addresses::ADDRESSES,
    addresses::VETTING,
    json::JSON,
    judging::JUDGING,
    schemas::SCHEMAS,
    tickets::TICKETS,
    finding::RECORDS,
    finding::EXCHANGES,
    finding::JOINS,
    commands::COMMANDS,
    commands::DURATIONS,
    words::WORDS,
    words::ESCAPES,
    config::CONFIG,
    config::RELAYS,
    catalogue::CATALOGUE,
    cursors::LISTING,
    cursors::AUDIT,
    backups::BACKUPS,
    vault::VAULT,
    vault::MNEMONIC,
    walks::WALKS,
];

/// Seeds that are texts.
fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
