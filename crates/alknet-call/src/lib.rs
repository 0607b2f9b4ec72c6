//! The native call protocol: frames, client, server, links and the import of a
//! peer's operations.
//!
//! A [`Session`] is one connection on which both sides may call: it exchanges
//! `Hello`s, serves the other side's calls at its door, and makes calls of its
//! own. A [`Client`] calls through a session, or in process without
//! serialising anything, with the same results. What is on the wire is
//! described in `docs/architecture/call-protocol.md`; [`Decoder`] and
//! [`Frame`] read and write it without I/O.
//!
//! Not here: who is let in (the node asks before it starts a session), and what
//! may be called (the door of `alknet-core` decides). Sessions run on any
//! [`Connection`](alknet_core::transport::Connection); only `quic` knows iroh.
//!
//! ```
//! use alknet_call::{Client, Session, SessionConfig};
//! use alknet_core::{Caller, Dispatcher, Operation, Registry};
//! use alknet_testkit::transport::connection_pair;
//! use futures::TryStreamExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let registry = Registry::new();
//! registry.register(vec![
//!     Operation::query("demo/double", "Doubles a number.")
//!         .handler(|_cx, n: u32| async move { Ok(n * 2) }),
//!     Operation::subscription("demo/upto", "Counts up to a number.").stream(
//!         |_cx, n: u32| async move { Ok(futures::stream::iter((0..n).map(Ok))) },
//!     ),
//! ])?;
//! let door = Dispatcher::builder(registry).build();
//!
//! // In a program, both ends come from a QUIC endpoint.
//! let (here, there) = connection_pair(Default::default());
//! let (session, _served) = tokio::try_join!(
//!     Session::start(here, None, Caller::anonymous(), SessionConfig::default()),
//!     Session::start(there, Some(door.clone()), Caller::host(), SessionConfig::default()),
//! )?;
//! for client in [Client::over(session), Client::local(door, Caller::host())] {
//!     assert_eq!(client.call::<_, u32>("demo/double", &21).await?, 42);
//!     let items = client.subscribe::<_, u32>("demo/upto", &3).await?;
//!     assert_eq!(items.try_collect::<Vec<_>>().await?, [0, 1, 2]);
//! }
//! # Ok(())
//! # }
//! ```

mod asker;
mod call;
mod callee;
mod channel;
mod client;
mod codec;
pub mod conduct;
mod credit;
mod frame;
mod header;
mod import;
mod limits;
pub mod links;
pub mod quic;
mod request;
mod serve;
mod session;
mod silence;
mod wire;

pub use crate::{
    client::{Client, Items},
    codec::{Decoder, fuzz_frames},
    frame::{
        Bearer, CallKind, Credit, Frame, FrameError, FrameType, Hello, Invoke, PREAMBLE_BYTES,
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
