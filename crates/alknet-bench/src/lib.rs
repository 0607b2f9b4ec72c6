//! Measures alknet against its peers.
