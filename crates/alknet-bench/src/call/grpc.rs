//! gRPC: tonic over HTTP/2 over TLS over TCP. A message holds one text.

use super::{
    measure::Client,
    payload::{self, Payload},
    tls::{HOST, SelfSigned},
};
use crate::worker;
use anyhow::{Context, Result};
use bytes::Bytes;
use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::Poll,
};
use tonic::{
    Request, Response, Status,
    body::Body,
    client::Grpc,
    codegen::{BoxFuture, Service, http, http::uri::PathAndQuery},
    server::{NamedService, UnaryService},
    transport::{
        Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig,
        server::TcpIncoming,
    },
};
use tonic_prost::ProstCodec;

/// Protocol Buffers' `BytesValue`: a message with one field of bytes.
type Codec = ProstCodec<Bytes, Bytes>;

/// Bytes that may be under way; with HTTP/2's 64 KiB a connection would wait
/// for them at 16 calls of 4 KiB.
const WINDOW_BYTES: u32 = 16 << 20;

/// Serves.
pub(crate) async fn serve() -> Result<()> {
    let SelfSigned { certificate, key } = SelfSigned::new()?;
    let incoming = TcpIncoming::bind((HOST.parse::<std::net::IpAddr>()?, 0).into())?;
    let port = incoming.local_addr()?.port();
    let place = format!("{port}\n{certificate}");
    let tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key));
    let server = Server::builder()
        .tls_config(tls)?
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .add_service(Methods);
    let serving = tokio::spawn(server.serve_with_incoming(incoming.with_nodelay(Some(true))));
    let ended = worker::stay(&place).await;
    serving.abort();
    ended
}

/// What the generated code of a service does.
#[derive(Clone)]
struct Methods;

impl NamedService for Methods {
    const NAME: &'static str = "bench";
}

impl Service<http::Request<Body>> for Methods {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let path = request.uri().path();
            let method = path.rsplit_once('/').map_or(path, |(_, method)| method);
            let method = Method(method.to_owned());
            let mut grpc = tonic::server::Grpc::new(Codec::default());
            Ok(grpc.unary(method, request).await)
        })
    }
}

struct Method(String);

impl UnaryService<Bytes> for Method {
    type Response = Bytes;
    type Future = Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let answer = payload::answer(&self.0, request.into_inner());
        let unfit = |error: serde_json::Error| Status::invalid_argument(error.to_string());
        ready(answer.map(Response::new).map_err(unfit))
    }
}

/// The client.
pub(crate) struct Tonic {
    channel: Channel,
    reads_json: bool,
}

impl Tonic {
    /// Connects to [`serve`]; `reads_json` asks for the methods that read the
    /// document and write it again.
    pub(crate) async fn connect(place: &str, reads_json: bool) -> Result<Self> {
        let (port, certificate) = place
            .split_once('\n')
            .context("a place is PORT and certificate")?;
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(certificate))
            .domain_name(HOST);
        let endpoint = Endpoint::from_shared(format!("https://{HOST}:{port}"))?
            .tls_config(tls)?
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        Ok(Self {
            channel: endpoint.connect().await?,
            reads_json,
        })
    }
}

impl Client for Tonic {
    async fn echo(&self, payload: Payload, json: Bytes) -> Result<Bytes> {
        let path = match (self.reads_json, payload) {
            (false, _) => "/bench/echo",
            (true, Payload::Small) => "/bench/text",
            (true, Payload::Listing) => "/bench/listing",
            (true, Payload::Large) => "/bench/document",
        };
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await?;
        let path = PathAndQuery::from_static(path);
        let reply: Response<Bytes> = grpc
            .unary(Request::new(json), path, Codec::default())
            .await?;
        Ok(reply.into_inner())
    }
}
