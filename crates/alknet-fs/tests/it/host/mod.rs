//! Buckets over directories of the host: what the conformance suite cannot know
//! of them.

mod account;
mod cancel;
mod config;
mod disk;
mod permits;
mod quota;
mod races;
mod read_only;
mod reload;
mod world;
