//! Looks at a relay the way a node without UDP reaches it: TCP, TLS, HTTP.

use iroh::{RelayUrl, dns::DnsResolver};
use rustls::{CertificateError, ClientConfig, pki_types::ServerName};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;

/// Time for each step of a probe.
pub(super) const STEP_MAX: Duration = Duration::from_secs(3);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;
/// Bytes of an answer's head and body.
const HEAD_MAX: usize = 8 * 1024;

/// Why a relay cannot be used over HTTPS.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    #[error("the name `{0}` does not resolve")]
    Name(String),
    #[error("nobody listens at {0}")]
    Refused(SocketAddr),
    #[error("no answer from {0}")]
    Silent(SocketAddr),
    #[error("{address} is not reached: {cause}")]
    Unreached { address: SocketAddr, cause: String },
    #[error("its certificate has expired")]
    Expired,
    #[error("its certificate is not valid yet, or the clock here is wrong")]
    NotYet,
    #[error("its certificate is of nobody that is trusted here")]
    UnknownIssuer,
    #[error("its certificate is for another name")]
    WrongName,
    #[error("its certificate is refused: {0}")]
    Certificate(String),
    #[error("it does not speak TLS there: {0}")]
    NotTls(String),
    #[error("it is no relay: {0}")]
    NotARelay(String),
}

impl Problem {
    /// For programs.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Name(_) => "NAME",
            Self::Refused(_) => "REFUSED",
            Self::Silent(_) => "SILENT",
            Self::Unreached { .. } => "UNREACHED",
            Self::Expired => "CERTIFICATE_EXPIRED",
            Self::NotYet => "CERTIFICATE_NOT_YET_VALID",
            Self::UnknownIssuer => "CERTIFICATE_UNKNOWN",
            Self::WrongName => "CERTIFICATE_NAME",
            Self::Certificate(_) => "CERTIFICATE",
            Self::NotTls(_) => "NOT_TLS",
            Self::NotARelay(_) => "NOT_A_RELAY",
        }
    }

    /// What to do about it.
    pub(crate) fn advice(&self) -> &'static str {
        match self {
            Self::Name(_) => "check the spelling, and the DNS server of this machine",
            Self::Refused(_) => {
                "check the port, and whether the relay runs: `alknet status` on its machine"
            }
            Self::Silent(_) | Self::Unreached { .. } => {
                "check the address, and the firewalls on the way: a relay needs its TCP port open"
            }
            Self::Expired => "renew it on the relay's machine, and reload the relay",
            Self::NotYet => "compare the clocks of both machines",
            Self::UnknownIssuer => {
                "a self-signed certificate is trusted by its key: use the whole address that the relay prints, with `#sha256=`"
            }
            Self::WrongName => "use the name that the certificate is for",
            Self::Certificate(_) => {
                "ask whoever runs the relay for its present address, with `#sha256=`"
            }
            Self::NotTls(_) => "check the port; a relay without TLS has an address with `http://`",
            Self::NotARelay(_) => "check the address: something else answers there",
        }
    }
}

/// A relay that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reached {
    /// From a request to its answer.
    pub(crate) latency: Duration,
}

/// Asks a relay for its probe page, and whether it is one.
pub(crate) async fn probe(
    url: &RelayUrl,
    tls: &Arc<ClientConfig>,
    resolver: &DnsResolver,
) -> Result<Reached, Problem> {
    let host = url.host_str().unwrap_or_default().to_owned();
    let port = url.port_or_known_default().unwrap_or(443);
    let addresses = resolve(resolver, &host).await?;
    let (stream, address) = connect(&addresses, port).await?;
    if url.scheme() == "http" {
        return ask(stream, &host, address).await;
    }
    let name = ServerName::try_from(host.clone()).map_err(|_| Problem::WrongName)?;
    let connector = TlsConnector::from(tls.clone());
    let stream = timeout(STEP_MAX, connector.connect(name, stream))
        .await
        .map_err(|_| Problem::NotTls("no answer to a handshake".into()))?
        .map_err(|error| refused_tls(&error))?;
    ask(stream, &host, address).await
}

/// The addresses of a host, which may be one itself.
pub(super) async fn resolve(resolver: &DnsResolver, host: &str) -> Result<Vec<IpAddr>, Problem> {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = literal.parse() {
        return Ok(vec![ip]);
    }
    let found = resolver.lookup_ipv4_ipv6(host, STEP_MAX).await;
    let found: Vec<IpAddr> = found
        .map(|found| found.take(ADDRESSES_MAX).collect())
        .unwrap_or_default();
    if found.is_empty() {
        return Err(Problem::Name(host.to_owned()));
    }
    Ok(found)
}

/// The first address that takes a connection; or else why the first does not.
async fn connect(addresses: &[IpAddr], port: u16) -> Result<(TcpStream, SocketAddr), Problem> {
    let mut first = None;
    for ip in addresses {
        let address = SocketAddr::new(*ip, port);
        let problem = match timeout(STEP_MAX, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // An answer is one packet; a delay here would be measured.
                let _ = stream.set_nodelay(true);
                return Ok((stream, address));
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                Problem::Refused(address)
            }
            Ok(Err(error)) => Problem::Unreached {
                address,
                cause: error.to_string(),
            },
            Err(_) => Problem::Silent(address),
        };
        first.get_or_insert(problem);
    }
    Err(first.unwrap_or_else(|| Problem::Name(String::new())))
}

/// Why a handshake failed.
fn refused_tls(error: &io::Error) -> Problem {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(rustls::Error::InvalidCertificate(cause)) => refused_certificate(cause),
        _ => Problem::NotTls(error.to_string()),
    }
}

/// Why a certificate is not taken.
pub(super) fn refused_certificate(cause: &CertificateError) -> Problem {
    match cause {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Problem::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            Problem::NotYet
        }
        CertificateError::UnknownIssuer => Problem::UnknownIssuer,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Problem::WrongName
        }
        // How webpki calls a self-signed one that may sign others too, which
        // is what `openssl req -x509` makes.
        CertificateError::Other(cause) if cause.0.to_string() == "CaUsedAsEndEntity" => {
            Problem::UnknownIssuer
        }
        CertificateError::Other(cause) => Problem::Certificate(cause.0.to_string()),
        other => Problem::Certificate(other.to_string()),
    }
}

/// A relay answers its probe page with 200, nothing in it, and for every
/// origin; and asks for an upgrade where it relays (400). Nothing else does.
async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    host: &str,
    address: SocketAddr,
) -> Result<Reached, Problem> {
    let began = Instant::now();
    let page = request(&mut stream, host, "/ping", "").await;
    let latency = began.elapsed();
    let page = page.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => Problem::Silent(address),
        _ => Problem::NotARelay(error.to_string()),
    })?;
    if page.status != 200 || page.field("access-control-allow-origin") != Some("*") {
        let cause = format!("it answers {} where relays answer 200", page.status);
        return Err(Problem::NotARelay(cause));
    }
    match request(&mut stream, host, "/relay", "").await {
        Ok(page) if page.status == 400 => Ok(Reached { latency }),
        Ok(page) => Err(Problem::NotARelay(format!(
            "it answers {} where relays relay",
            page.status
        ))),
        Err(error) => Err(Problem::NotARelay(error.to_string())),
    }
}

/// The head of an answer (RFC 9112); its body is read and dropped.
#[derive(Debug)]
struct Page {
    status: u16,
    fields: Vec<(String, String)>,
}

impl Page {
    fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str())
    }

    fn parse(head: &str) -> Option<Self> {
        let mut lines = head.split("\r\n");
        let status = lines.next()?.strip_prefix("HTTP/1.")?;
        let status = status.get(2..5)?.parse().ok()?;
        let fields = lines.filter_map(|line| line.split_once(':'));
        let fields = fields
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Some(Self { status, fields })
    }
}

async fn request<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    host: &str,
    path: &str,
    fields: &str,
) -> io::Result<Page> {
    let asked = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
    let exchange = async {
        stream.write_all(asked.as_bytes()).await?;
        stream.flush().await?;
        read_page(stream).await
    };
    match timeout(STEP_MAX, exchange).await {
        Ok(page) => page,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn read_page<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Page> {
    let odd = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut head = Vec::new();
    let mut byte = [0];
    // Byte by byte: what follows the head belongs to the body.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == HEAD_MAX {
            return Err(odd("an answer without an end"));
        }
        if stream.read(&mut byte).await? == 0 {
            return Err(odd("it hangs up without an answer"));
        }
        head.push(byte[0]);
        if head.len() == 5 && !head.starts_with(b"HTTP/") {
            return Err(odd("it does not speak HTTP"));
        }
    }
    let head = String::from_utf8_lossy(&head);
    let page = Page::parse(&head).ok_or_else(|| odd("it does not speak HTTP"))?;
    let length = page
        .field("content-length")
        .and_then(|text| text.parse().ok());
    let length: usize = length.unwrap_or(0);
    if length > HEAD_MAX {
        return Err(odd("an answer that is too long"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(page)
}

/// Whether somebody else answers in a relay's place over plain HTTP, as the
/// portals of hotels do; `None` if nobody answers. A relay that serves this
/// page repeats the challenge. A portal shows a page for whatever is asked, or
/// leads to it at another host; a web server at a wrong address does neither.
pub(super) async fn captive_portal(url: &RelayUrl, resolver: &DnsResolver) -> Option<bool> {
    let host = url.host_str()?;
    let addresses = resolve(resolver, host).await.ok()?;
    let (mut stream, _) = connect(&addresses, 80).await.ok()?;
    let challenge = format!("alknet-{:016x}", rand::random::<u64>());
    let field = format!("X-Iroh-Challenge: {challenge}\r\n");
    let page = request(&mut stream, host, "/generate_204", &field)
        .await
        .ok()?;
    let response = format!("response {challenge}");
    if page.field("x-iroh-response") == Some(&response) {
        return Some(false);
    }
    Some(is_portal(&page, host))
}

/// Whether an answer is what portals give (RFC 6585, section 6, has 511 for
/// them).
fn is_portal(page: &Page, host: &str) -> bool {
    match page.status {
        200 | 511 => true,
        301..=303 | 307 | 308 => page
            .field("location")
            .and_then(|to| to.split_once("://"))
            .is_some_and(|(_, to)| to.split(['/', ':', '?']).next() != Some(host)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    async fn asked(answers: &'static [u8]) -> Result<Reached, Problem> {
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        far.write_all(answers).await.unwrap();
        // The other side reads what was asked and says nothing more.
        let address = "203.0.113.1:443".parse().unwrap();
        let (asked, _) = tokio::join!(ask(near, "relay.example", address), async {
            let mut asked = Vec::new();
            far.shutdown().await.unwrap();
            far.read_to_end(&mut asked).await.unwrap();
            assert!(asked.starts_with(b"GET /ping HTTP/1.1\r\nHost: relay.example\r\n\r\n"));
        });
        asked
    }

    #[tokio::test]
    async fn a_relay_is_told_from_other_servers() {
        let relay =
            b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 0\r\n\r\n\
                      HTTP/1.1 400 Bad Request\r\n\r\n";
        assert!(asked(relay).await.is_ok());
        let web = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno";
        let not_a_relay = |cause: &str| Err(Problem::NotARelay(cause.to_owned()));
        assert_eq!(
            asked(web).await,
            not_a_relay("it answers 404 where relays answer 200")
        );
        // A server that has something for everybody.
        let eager =
            b"HTTP/1.1 200 OK\r\naccess-control-allow-origin: *\r\ncontent-length: 2\r\n\r\nok\
                      HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        assert_eq!(
            asked(eager).await,
            not_a_relay("it answers 200 where relays relay")
        );
        assert_eq!(
            asked(b"SSH-2.0-x\r\n").await,
            not_a_relay("it does not speak HTTP")
        );
        assert_eq!(
            asked(b"").await,
            not_a_relay("it hangs up without an answer")
        );
        assert_eq!(
            asked(b"HTTP/1.1 nonsense\r\n\r\n").await,
            not_a_relay("it does not speak HTTP")
        );
    }

    #[tokio::test]
    async fn an_answer_without_an_end_is_left() {
        let (mut near, mut far) = tokio::io::duplex(64 * 1024);
        far.write_all(b"HTTP/1.1 200 OK\r\nx: ").await.unwrap();
        far.write_all(&[b'x'; HEAD_MAX]).await.unwrap();
        let error = read_page(&mut near).await.unwrap_err();
        assert_eq!(error.to_string(), "an answer without an end");
        let (mut near, mut far) = tokio::io::duplex(64 * 1024);
        let long = b"HTTP/1.1 200 OK\r\ncontent-length: 999999999\r\n\r\n";
        far.write_all(long).await.unwrap();
        let error = read_page(&mut near).await.unwrap_err();
        assert_eq!(error.to_string(), "an answer that is too long");
    }

    #[test]
    fn a_portal_is_told_from_a_web_server() {
        let judged = |answer: &str| is_portal(&Page::parse(answer).unwrap(), "relay.example");
        for (answer, is) in [
            ("HTTP/1.1 200 OK", true),
            ("HTTP/1.1 511 Network Authentication Required", true),
            (
                "HTTP/1.1 302 Found\r\nLocation: http://login.hotel/?x",
                true,
            ),
            (
                "HTTP/1.1 301 Moved\r\nLocation: https://relay.example/generate_204",
                false,
            ),
            ("HTTP/1.1 301 Moved\r\nLocation: /elsewhere", false),
            ("HTTP/1.1 404 Not Found", false),
            ("HTTP/1.1 204 No Content", false),
        ] {
            assert_eq!(judged(answer), is, "{answer}");
        }
    }

    #[test]
    fn a_self_signed_certificate_of_any_kind_is_of_nobody_that_is_trusted() {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = crate::relay::Relays::new(&[]).tls_config();
        let verifier = tls.server_cert_verifier(provider).unwrap();
        let names = vec!["relay.example".to_owned()];
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        for is_ca in [
            rcgen::IsCa::NoCa,
            rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained),
        ] {
            params.is_ca = is_ca;
            let made = params.self_signed(&key).unwrap();
            let name = ServerName::try_from("relay.example").unwrap();
            let now = rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(1 << 30));
            let refused = verifier.verify_server_cert(made.der(), &[], &name, &[], now);
            let refused = io::Error::other(refused.unwrap_err());
            assert_eq!(refused_tls(&refused), Problem::UnknownIssuer);
        }
    }

    #[test]
    fn every_reason_of_a_certificate_has_its_sentence() {
        let told = |cause: CertificateError| {
            let error = io::Error::other(rustls::Error::InvalidCertificate(cause));
            refused_tls(&error).code()
        };
        assert_eq!(
            [
                CertificateError::Expired,
                CertificateError::NotValidYet,
                CertificateError::UnknownIssuer,
                CertificateError::NotValidForName,
                CertificateError::BadEncoding,
            ]
            .map(told),
            [
                "CERTIFICATE_EXPIRED",
                "CERTIFICATE_NOT_YET_VALID",
                "CERTIFICATE_UNKNOWN",
                "CERTIFICATE_NAME",
                "CERTIFICATE",
            ]
        );
        let other = io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof");
        assert_eq!(refused_tls(&other).code(), "NOT_TLS");
    }
}
