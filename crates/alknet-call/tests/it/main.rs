//! The native call protocol over connections in memory, and over QUIC on
//! loopback.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod calls;
mod channels;
mod client;
mod conduct;
mod frames;
mod hello;
mod interaction;
mod links;
mod misuse;
mod quic;
mod subscriptions;
mod support;
