//! Limits of the door. Every one has a name; a node's configuration sets them.

use std::time::Duration;

/// What callers may ask of the door.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of a call's input, unless the operation raises it.
    pub input_bytes_max: usize,
    /// Bytes to which an operation may raise it.
    pub input_bytes_ceiling: usize,
    /// Calls in flight of one peer: queries, mutations and subscriptions.
    pub calls_per_peer_max: usize,
    /// Open channels of one peer, which its calls in flight do not include.
    pub channels_per_peer_max: usize,
    /// Calls in flight of one originator behind a peer.
    pub calls_per_originator_max: usize,
    /// Open channels of one originator behind a peer.
    pub channels_per_originator_max: usize,
    /// Originators behind one peer that are told apart; the others share.
    pub originators_per_peer_max: usize,
    /// Calls in flight of the node, channels included.
    pub calls_per_node_max: usize,
    /// Open subscriptions of one peer.
    pub subscriptions_per_peer_max: usize,
    /// Open subscriptions of one originator behind a peer.
    pub subscriptions_per_originator_max: usize,
    /// Budget of a query or mutation that states none.
    pub deadline_default: Duration,
    /// Largest budget of a query or mutation.
    pub deadline_max: Duration,
    /// Calls that a key or an anonymous caller may make at once.
    pub rate_burst: u32,
    /// Calls a second that a key or an anonymous caller may go on making.
    pub rate_per_second: u32,
    /// Calls that a peer, or each originator behind it, may make at once.
    pub peer_rate_burst: u32,
    /// Calls a second that a peer, or each originator behind it, may go on
    /// making; 0 for no such limit.
    pub peer_rate_per_second: u32,
    /// Bytes that a peer, or each originator behind it, may have carried at
    /// once.
    pub bytes_burst: u64,
    /// Bytes a second that a peer, or each originator behind it, may go on
    /// having carried: inputs, replies, items and channels; 0 for no such
    /// limit. What is too much is made up for before the next call.
    pub bytes_per_second: u64,
    /// Calls below one another in a tree of composed calls.
    pub composition_depth_max: u16,
    /// Tasks that outlive their call.
    pub detached_max: usize,
    /// Calls of one batch.
    pub batch_calls_max: usize,
    /// Calls of one batch at a time.
    pub batch_in_flight_max: usize,
    /// How long an idempotency key is remembered.
    pub idempotency_kept: Duration,
    /// Bytes of an idempotency key.
    pub idempotency_key_bytes_max: usize,
    /// Idempotency keys of one caller that are remembered at once.
    pub idempotency_keys_per_caller_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            input_bytes_max: 1024 * 1024,
            input_bytes_ceiling: 16 * 1024 * 1024,
            calls_per_peer_max: 256,
            channels_per_peer_max: 1024,
            calls_per_originator_max: 128,
            channels_per_originator_max: 512,
            originators_per_peer_max: 256,
            calls_per_node_max: 4096,
            subscriptions_per_peer_max: 64,
            subscriptions_per_originator_max: 32,
            deadline_default: Duration::from_secs(30),
            deadline_max: Duration::from_secs(600),
            rate_burst: 100,
            rate_per_second: 50,
            peer_rate_burst: 0,
            peer_rate_per_second: 0,
            bytes_burst: 0,
            bytes_per_second: 0,
            composition_depth_max: 32,
            detached_max: 256,
            batch_calls_max: 1024,
            batch_in_flight_max: 16,
            idempotency_kept: Duration::from_secs(24 * 3600),
            idempotency_key_bytes_max: 128,
            idempotency_keys_per_caller_max: 100_000,
        }
    }
}
