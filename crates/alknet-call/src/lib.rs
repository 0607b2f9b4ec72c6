//! The native call protocol: frames, client, server, links and the import of a
//! peer's operations.

mod asker;
mod call;
mod callee;
mod channel;
mod client;
mod codec;
mod credit;
mod frame;
mod import;
mod limits;
pub mod links;
pub mod quic;
mod request;
mod serve;
mod session;
mod wire;

pub use crate::{
    client::{Client, Items},
    codec::{Decoder, fuzz_frames},
    frame::{
        ApiKey, Ask, Credit, Frame, FrameError, FrameType, Hello, Invoke, PREAMBLE_BYTES,
        PeerLimits,
    },
    limits::{
        ASKS_OPEN_MAX, CONTROLS_IN_FLIGHT_MAX, CREDENTIAL_BYTES_MAX, EXTENSIONS_MAX,
        HEADER_BYTES_MAX, INPUT_RATE_MIN, ITEM_OVERHEAD_BYTES, LARGE_PAYLOAD_BYTES,
        MESSAGE_BYTES_MAX, NAME_BYTES_MAX, ROUTE_STEPS_MAX, SIDE_BYTES_MAX, TEXT_BYTES_MAX,
        VIA_NODES_MAX, WireLimits, connection_code, stream_code,
    },
    request::Request,
    session::{Session, SessionConfig, SessionError, VERSIONS},
};

/// The protocol's name in a TLS handshake (ALPN).
pub const ALPN: &[u8] = b"alknet/call/1";
