//! Real programs through a real door.
#![allow(clippy::unwrap_used)]

mod commands;
mod config;
mod hygiene;
mod shell;
mod support;
