//! The loop finds what is there to be found, and the targets can fail.
#![allow(clippy::unwrap_used)]

mod corpus;
mod engine;
