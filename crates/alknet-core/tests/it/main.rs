//! The door and all that it rests on, through the public interface.
#![allow(clippy::unwrap_used)]

mod access;
mod addresses;
mod audit;
mod composition;
mod credentials;
mod deadlines;
mod discovery;
mod docs;
mod explain;
mod gate_model;
mod idempotency;
mod identity;
mod isolation;
mod key_model;
mod keys;
mod limits;
mod one_gate;
mod originators;
mod overlays;
mod permits;
mod pipeline;
mod registration;
mod revocation;
mod routes;
mod world;
