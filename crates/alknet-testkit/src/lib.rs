//! What the tests share: conformance suites, process harness, loopback relay.

pub mod canary;
pub mod files;
pub mod laws;
pub mod power;
pub mod relay;
pub mod storage;
pub mod transport;
