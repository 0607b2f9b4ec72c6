//! What the network of this machine lets through, and what to do about it.
//!
//! Nobody is contacted but the relays that were chosen, and the router if its
//! port mapping is asked for. Without relays, only what this machine knows by
//! itself is told.

mod advice;
pub(crate) mod https;
mod report;
mod udp;

pub use self::report::{AddressFamily, NetReport, PortMapping, ProbeReport, RelayReport};

use self::{
    https::{Problem, resolve},
    udp::{Nat, Seen, Socket, Unanswered},
};
use crate::{
    config::{Config, ConfigError, RelaySetting},
    data_dir::DataDir,
    relay::{RelayAddress, Relays},
    setup::{OpenKeysError, is_initialised, open_keys},
};
use iroh::{RelayConfig, RelayUrl, SecretKey, dns::DnsResolver};
use iroh_relay::{
    client::{ClientBuilder, ConnectError},
    protos::handshake,
};
use rustls::ClientConfig;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::time::timeout;

/// Relays that are looked at, at most.
pub const RELAYS_CHECKED_MAX: usize = 16;
/// Time for a relay to say whether it accepts this node.
const ACCEPT_MAX: Duration = Duration::from_secs(5);
/// Time for the router to answer.
const ROUTER_MAX: Duration = Duration::from_secs(5);

/// Why nothing could be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetcheckError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The node's key cannot be read.
    #[error(transparent)]
    Keys(#[from] OpenKeysError),
    /// A relay makes no sense.
    #[error("{0}")]
    Relay(String),
    /// TLS cannot be set up.
    #[error("failed to set up TLS")]
    Tls(#[source] std::io::Error),
    /// The task that reads the disk was lost.
    #[error("the runtime is shutting down")]
    Runtime,
}

/// What to look at.
#[derive(Debug, Default)]
pub struct NetcheckOptions {
    /// These relays, instead of those configured: in the text form of
    /// [`RelayAddress`], or `n0`.
    pub relays: Vec<String>,
    /// Asks the router whether it opens ports, although it is not configured.
    pub port_mapping: bool,
    /// A node runs with this data directory: its key is in use, and a relay
    /// would end the connection of whoever used it before.
    pub is_running: bool,
}

/// Looks at the network as the node of a data directory would use it. The node
/// need not run, nor exist.
///
/// # Errors
///
/// [`NetcheckError`] if the configuration, the keys or an option cannot be
/// used. What does not work in the network is no error: it is reported.
pub async fn check_network(
    dir: &Path,
    options: NetcheckOptions,
) -> Result<NetReport, NetcheckError> {
    let data = DataDir::new(dir);
    let config = match data.config() {
        path if path.exists() => Config::load(&path)?,
        _ => Config::default(),
    };
    let texts = match options.relays.is_empty() {
        true => config.network.relays.clone().unwrap_or_default(),
        false => options.relays,
    };
    let settings: Result<Vec<RelaySetting>, String> =
        texts.iter().map(|text| RelaySetting::parse(text)).collect();
    let relays = Relays::new(&settings.map_err(NetcheckError::Relay)?);
    let key = match options.is_running || !is_initialised(data.path()) {
        true => None,
        false => node_key(data).await?,
    };
    let subject = Subject {
        key,
        bind: config.network.bind,
        router: options.port_mapping || config.network.port_mapping,
    };
    check(&relays, subject).await
}

/// None if a passphrase protects it: whether a relay accepts this node stays
/// open then.
async fn node_key(data: DataDir) -> Result<Option<SecretKey>, NetcheckError> {
    let opened = tokio::task::spawn_blocking(move || open_keys(&data, None)).await;
    match opened.map_err(|_| NetcheckError::Runtime)? {
        Ok(keys) => Ok(Some(keys.node)),
        Err(OpenKeysError::PassphraseNeeded) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// For whom the network is looked at.
#[derive(Default)]
pub(crate) struct Subject {
    /// With which key a relay is asked whether it accepts this node; none if
    /// the key is in use.
    pub(crate) key: Option<SecretKey>,
    /// Where the node listens, if that is configured.
    pub(crate) bind: Option<SocketAddr>,
    /// Whether the router is asked for its port mapping.
    pub(crate) router: bool,
}

/// Looks at everything at once; takes a few seconds at most.
pub(crate) async fn check(relays: &Relays, subject: Subject) -> Result<NetReport, NetcheckError> {
    let probes = Probes::new(relays).map_err(NetcheckError::Tls)?;
    let (v4, v6) = (
        Socket::open(true, &probes.tls),
        Socket::open(false, &probes.tls),
    );
    let map: Vec<Arc<RelayConfig>> = relays.map().relays();
    let looks = map.iter().take(RELAYS_CHECKED_MAX).map(|relay| async {
        let address = relays.address_of(&relay.url);
        probes
            .look(
                &address,
                relay,
                v4.as_ref(),
                v6.as_ref(),
                subject.key.as_ref(),
            )
            .await
    });
    let looks = futures::future::join_all(looks);
    let router = async {
        match subject.router {
            true => ask_router().await,
            false => None,
        }
    };
    let (looks, port_mapping) = tokio::join!(looks, router);
    for socket in [v4, v6].into_iter().flatten() {
        socket.close().await;
    }
    let captive_portal = probes.captive_portal(&looks).await;
    Ok(put_together(
        looks,
        subject.bind,
        port_mapping,
        captive_portal,
    ))
}

/// What a relay answered, each way.
pub(super) struct Look {
    address: RelayAddress,
    https: Result<https::Reached, Problem>,
    seen: Vec<Seen>,
    /// Why it was not asked, or did not answer, over UDP.
    udp_error: Option<Unanswered>,
    accepts: Option<Result<(), String>>,
}

struct Probes {
    tls: Arc<ClientConfig>,
    resolver: DnsResolver,
}

/// Asks a relay, with an invite's token, whether this node may use it; why not
/// otherwise. Ends the connection that this key had there with the token.
pub(crate) async fn ask_relay(
    relays: &Relays,
    relay: &RelayAddress,
    key: &SecretKey,
    token: &str,
) -> Result<(), String> {
    let Ok(probes) = Probes::new(relays) else {
        return Ok(());
    };
    let probed = https::probe(relay.url(), &probes.tls, &probes.resolver).await;
    probed.map_err(|problem| format!("{problem} ({})", problem.advice()))?;
    match probes.accepts(relay.url(), Some(token), key).await {
        Some(Err(reason)) => Err(format!("it does not let this node in: {reason}")),
        _ => Ok(()),
    }
}

impl Probes {
    fn new(relays: &Relays) -> std::io::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Ok(Self {
            tls: Arc::new(relays.tls_config().client_config(provider)?),
            resolver: relays.resolver(),
        })
    }

    async fn look(
        &self,
        address: &RelayAddress,
        relay: &RelayConfig,
        v4: Option<&Socket>,
        v6: Option<&Socket>,
        key: Option<&SecretKey>,
    ) -> Look {
        let (https, (seen, udp_error)) = tokio::join!(
            https::probe(&relay.url, &self.tls, &self.resolver),
            self.discover(relay, v4, v6),
        );
        let accepts = match (&https, key) {
            (Ok(_), Some(key)) => {
                let token = relay.auth_token.as_deref();
                self.accepts(&relay.url, token, key).await
            }
            _ => None,
        };
        Look {
            address: address.clone(),
            https,
            seen,
            udp_error,
            accepts,
        }
    }

    /// Asks over each address family that this machine and the relay have.
    async fn discover(
        &self,
        relay: &RelayConfig,
        v4: Option<&Socket>,
        v6: Option<&Socket>,
    ) -> (Vec<Seen>, Option<Unanswered>) {
        let unasked = |cause: String| Unanswered {
            is_heard: false,
            cause,
        };
        let Some(quic) = &relay.quic else {
            let why = "it offers no address discovery, by its address";
            return (Vec::new(), Some(unasked(why.into())));
        };
        let host = relay.url.host_str().unwrap_or_default();
        let addresses = match resolve(&self.resolver, host).await {
            Ok(addresses) => addresses,
            Err(problem) => return (Vec::new(), Some(unasked(problem.to_string()))),
        };
        let first = |is_v4: bool| addresses.iter().find(|ip| ip.is_ipv4() == is_v4);
        let asked = tokio::join!(
            ask(v4, first(true), quic.port, host),
            ask(v6, first(false), quic.port, host),
        );
        let (mut seen, mut failed) = (Vec::new(), None);
        for answer in [asked.0, asked.1].into_iter().flatten() {
            match answer {
                Ok(answer) => seen.push(answer),
                Err(cause) => failed = Some(cause),
            }
        }
        (seen, failed)
    }

    /// Whether the relay lets this node in; `None` if that was not found out.
    async fn accepts(
        &self,
        url: &RelayUrl,
        token: Option<&str>,
        key: &SecretKey,
    ) -> Option<Result<(), String>> {
        let mut client = ClientBuilder::new(url.clone(), key.clone(), self.resolver.clone())
            .tls_client_config((*self.tls).clone());
        if let Some(token) = token {
            client = client.auth_token(token);
        }
        match timeout(ACCEPT_MAX, client.connect()).await.ok()? {
            Ok(_) => Some(Ok(())),
            Err(ConnectError::Handshake {
                source: handshake::Error::ServerDeniedAuth { reason, .. },
                ..
            }) => Some(Err(alknet_core::clean_foreign_text(&reason, 200))),
            Err(_) => None,
        }
    }

    /// Asked only where no relay is reached: one that is, and a server that is
    /// no relay and has a trusted certificate, prove that nobody stands in
    /// between.
    async fn captive_portal(&self, looks: &[Look]) -> Option<bool> {
        let is_itself = |look: &Look| match &look.https {
            Ok(_) => true,
            Err(problem) => {
                let is_checked = look.address.url().scheme() == "https";
                is_checked && matches!(problem, Problem::NotARelay(_))
            }
        };
        if looks.iter().any(is_itself) {
            return Some(false);
        }
        let asked = looks
            .iter()
            .map(|look| https::captive_portal(look.address.url(), &self.resolver));
        let answers = futures::future::join_all(asked).await;
        answers
            .into_iter()
            .flatten()
            .reduce(|one, other| one && other)
    }
}

/// Asks one address, if this machine has a socket for it.
async fn ask(
    socket: Option<&Socket>,
    ip: Option<&IpAddr>,
    port: u16,
    name: &str,
) -> Option<Result<Seen, Unanswered>> {
    let (socket, ip) = socket.zip(ip)?;
    Some(socket.ask(SocketAddr::new(*ip, port), name).await)
}

/// Asks the router for UPnP, NAT-PMP (RFC 6886) and PCP (RFC 6887); no port is
/// opened.
async fn ask_router() -> Option<PortMapping> {
    let client = portmapper::Client::default();
    let answer = timeout(ROUTER_MAX, client.probe()).await.ok()?.ok()?;
    // A probe that failed found nothing.
    let (upnp, nat_pmp, pcp) = answer.map_or((false, false, false), |found| {
        (found.upnp, found.nat_pmp, found.pcp)
    });
    Some(PortMapping { upnp, nat_pmp, pcp })
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Whether UDP gets out. That one relay alone is silent says nothing if it is
/// silent over TCP too: it may be elsewhere.
fn gets_out(looks: &[Look]) -> Option<bool> {
    let is_heard = |look: &Look| {
        let error = look.udp_error.as_ref();
        !look.seen.is_empty() || error.is_some_and(|error| error.is_heard)
    };
    let is_silent = |look: &Look| look.https.is_ok() && look.address.config().quic.is_some();
    match looks.iter().any(is_heard) {
        true => Some(true),
        false => looks.iter().any(is_silent).then_some(false),
    }
}

fn put_together(
    looks: Vec<Look>,
    bind: Option<SocketAddr>,
    port_mapping: Option<PortMapping>,
    captive_portal: Option<bool>,
) -> NetReport {
    let seen: Vec<Seen> = looks.iter().flat_map(|look| look.seen.clone()).collect();
    let family = |is_v4: bool| -> Vec<Seen> {
        let of_it = seen.iter().filter(|seen| seen.server.is_ipv4() == is_v4);
        of_it.copied().collect()
    };
    let (v4, v6) = (family(true), family(false));
    let nat = match udp::judge(&v4) {
        Nat::Unknown => udp::judge(&v6),
        nat => nat,
    };
    // Documentation addresses (RFC 5737, RFC 3849): nothing is sent there, the
    // routing table is asked.
    let local_v4 = udp::source(Ipv4Addr::new(192, 0, 2, 1).into());
    let local_v6 = udp::source(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into());
    let mut public_addresses: Vec<String> = Vec::new();
    for public in seen.iter().map(|seen| seen.public.to_string()) {
        if !public_addresses.contains(&public) {
            public_addresses.push(public);
        }
    }
    let mut report = NetReport {
        udp: gets_out(&looks),
        ipv4: AddressFamily::new(local_v4, !v4.is_empty()),
        ipv6: AddressFamily::new(local_v6, !v6.is_empty()),
        nat: nat.as_str().into(),
        nat_note: advice::nat_note(nat, looks.len()),
        public_addresses,
        relays: looks.iter().map(RelayReport::new).collect(),
        port_mapping,
        captive_portal,
        reachable: false,
        advice: Vec::new(),
    };
    report.reachable = advice::is_reachable(&report, bind, local_v4, local_v6);
    report.advice = advice::advice(&report, nat, bind, &looks);
    report
}
