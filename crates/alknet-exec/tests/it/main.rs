//! Real programs through a real door.
#![allow(clippy::unwrap_used)]

mod commands;
mod config;
mod hygiene;
mod net;
mod net_listen;
mod net_support;
mod net_vetting;
mod shell;
mod support;
mod terminal;
mod terminal_access;
mod terminal_end;
mod terminal_support;
