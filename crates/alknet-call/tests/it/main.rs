//! The native call protocol over connections in memory.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod calls;
mod channels;
mod client;
mod frames;
mod hello;
mod interaction;
mod misuse;
mod subscriptions;
mod support;
