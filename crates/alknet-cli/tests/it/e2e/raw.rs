//! The other side of the protocol by hand: an endpoint that says what it
//! likes. Frames are written here from the document, not by the program's own
//! code.

use super::harness::Node;
use iroh::{
    Endpoint, EndpointAddr, RelayMode, TransportAddr,
    endpoint::{
        Connection, ConnectionError, QuicTransportConfig, RecvStream, SendStream, VarInt, presets,
    },
};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

pub(crate) const CALL: &[u8] = b"alknet/call/1";
pub(crate) const JOIN: &[u8] = b"alknet/join/1";

/// Codes with which a node closes a connection.
pub(crate) const NO_HELLO: u32 = 0x101;
pub(crate) const BAD_HELLO: u32 = 0x102;
pub(crate) const PROTOCOL_ERRORS: u32 = 0x105;
pub(crate) const UNAUTHENTICATED: u32 = 0x104;
pub(crate) const NOT_ADMITTED: u32 = 0x106;
pub(crate) const LIMIT: u32 = 0x107;

/// Kinds of an `Invoke`.
pub(crate) const UNARY: u8 = 0;
pub(crate) const SUBSCRIPTION: u8 = 1;
pub(crate) const CHANNEL: u8 = 2;

/// An endpoint with a new key.
pub(crate) async fn endpoint() -> Endpoint {
    endpoint_at("127.0.0.1".parse().unwrap()).await
}

/// An endpoint with a new key that comes from this address.
pub(crate) async fn endpoint_at(address: IpAddr) -> Endpoint {
    let loopback = SocketAddr::from((address, 0));
    // It takes little, so that a node that sends without asking has to keep it.
    let transport = QuicTransportConfig::builder()
        .receive_window(VarInt::from_u32(4 * 1024 * 1024))
        .stream_receive_window(VarInt::from_u32(64 * 1024))
        .build();
    let builder = Endpoint::builder(presets::Minimal).relay_mode(RelayMode::Disabled);
    let builder = builder
        .transport_config(transport)
        .clear_ip_transports()
        .bind_addr(loopback);
    builder.unwrap().bind().await.unwrap()
}

/// Where a node is.
pub(crate) fn address_of(node: &Node) -> EndpointAddr {
    let address: SocketAddr = node.address().parse().unwrap();
    EndpointAddr::from_parts(node.id().parse().unwrap(), [TransportAddr::Ip(address)])
}

/// A connection of a key that the node may or may not know.
pub(crate) async fn connect(endpoint: &Endpoint, node: &Node, alpn: &[u8]) -> Connection {
    endpoint.connect(address_of(node), alpn).await.unwrap()
}

/// A connection on which both have said hello.
pub(crate) async fn session(endpoint: &Endpoint, node: &Node) -> Connection {
    let connection = connect(endpoint, node, CALL).await;
    say(&connection, &hello()).await;
    let mut theirs = connection.accept_uni().await.unwrap();
    assert_eq!(
        theirs.read_to_end(64 * 1024).await.unwrap()[0],
        0x01,
        "a `Hello`"
    );
    connection
}

/// Sends bytes on a unidirectional stream, and ends it.
pub(crate) async fn say(connection: &Connection, bytes: &[u8]) {
    let mut send = connection.open_uni().await.unwrap();
    send.write_all(bytes).await.unwrap();
    send.finish().unwrap();
}

/// Opens a stream that begins so.
pub(crate) async fn open(connection: &Connection, bytes: &[u8]) -> (SendStream, RecvStream) {
    let (mut send, recv) = connection.open_bi().await.unwrap();
    // It may be stopped before all is written.
    let _ = send.write_all(bytes).await;
    (send, recv)
}

/// Why a node closed a connection: its code.
pub(crate) async fn closed_with(connection: &Connection, within: Duration) -> u32 {
    let closed = tokio::time::timeout(within, connection.closed()).await;
    match closed.expect("closed in time") {
        ConnectionError::ApplicationClosed(close) => {
            u32::try_from(close.error_code.into_inner()).unwrap()
        }
        other => panic!("{other}"),
    }
}

fn frame(kind: u8, header: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, 0];
    bytes.extend(u16::try_from(header.len()).unwrap().to_be_bytes());
    bytes.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    bytes.extend(header);
    bytes.extend(payload);
    bytes
}

/// An integer as postcard writes it.
fn varint(mut n: u32, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(u8::try_from(n & 0x7f).unwrap() | 0x80);
        n >>= 7;
    }
    out.push(u8::try_from(n).unwrap());
}

fn text(text: &str, out: &mut Vec<u8>) {
    varint(u32::try_from(text.len()).unwrap(), out);
    out.extend(text.as_bytes());
}

/// Version 1, and the default limits.
pub(crate) fn hello() -> Vec<u8> {
    hello_with(None)
}

/// The same with a credential.
pub(crate) fn hello_with(credential: Option<&str>) -> Vec<u8> {
    let mut header = vec![1, 1];
    text("by hand", &mut header);
    text("mallory", &mut header);
    for limit in [16 * 1024 * 1024, 256 * 1024, 256 * 1024, 1024 * 1024] {
        varint(limit, &mut header);
    }
    // No features.
    header.push(0);
    match credential {
        None => header.push(0),
        Some(credential) => {
            header.push(1);
            text(credential, &mut header);
        }
    }
    // No further fields.
    header.push(0);
    frame(0x01, &header, b"")
}

/// Calls an operation with an input in JSON.
pub(crate) fn invoke(operation: &str, kind: u8, input: &str) -> Vec<u8> {
    let mut header = vec![0; 16];
    text(operation, &mut header);
    header.push(kind);
    // No budget, route, via, originator, key, answers, progress, trace, more.
    header.extend([0; 9]);
    frame(0x10, &header, input.as_bytes())
}
