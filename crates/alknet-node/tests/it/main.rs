//! Whole nodes on loopback: how they meet, what they let through, how they
//! fail and come back.
#![allow(clippy::unwrap_used)]

mod admission;
mod backup;
mod bans;
mod catalogue;
mod files;
mod files_peers;
mod find;
mod forward;
mod isolation;
mod join;
mod lifecycle;
mod metrics;
mod overlay;
mod records;
mod relay;
mod reload;
mod remote;
mod secrets;
mod start;
mod support;
