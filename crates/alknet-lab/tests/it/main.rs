//! The lab keeps what it says: every impairment is measured.
#![allow(clippy::unwrap_used)]

mod by_hand;
mod impairments;
mod topology;
