//! Relays: how they are named, which are trusted, and the one that this node
//! may be.

mod address;

pub use address::{ParseRelayError, Qad, RelayAddress, SpkiPin, TEXT_BYTES_MAX};
