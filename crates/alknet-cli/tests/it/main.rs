//! The real program: spawned as a process, on data directories of its own,
//! bound to loopback.

#![allow(clippy::unwrap_used)]

mod calls;
mod e2e;
mod help;
mod lifecycle;
mod peers;
mod program;
mod refusals;
mod setup;
mod terminal;
