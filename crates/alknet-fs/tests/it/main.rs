//! Directories of the host, and what would like to lead out of them.
#![allow(clippy::unwrap_used)]

mod conformance;
mod host;
mod ops;
mod root;
mod watch;
