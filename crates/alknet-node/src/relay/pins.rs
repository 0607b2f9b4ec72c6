//! Which certificate a relay may show: the one with its pinned key, or one that
//! public roots vouch for.

use super::{RelayAddress, SpkiPin, address::host};
use iroh::{
    RelayMap,
    defaults::{prod, staging},
    dns::{N0_DNS_ENDPOINT_ORIGIN_PROD, N0_DNS_ENDPOINT_ORIGIN_STAGING},
};
use iroh_relay::tls::CaTlsConfig;
use rustls::{
    CertificateError, DigitallySignedStruct, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use sha2::{Digest, Sha256};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, LazyLock, PoisonError, RwLock},
};

/// Hosts of which peers told that are remembered.
pub(crate) const HOSTS_MAX: usize = 1024;
/// Keys of one host of which peers told that are remembered.
pub(crate) const PINS_PER_HOST_MAX: usize = 8;

/// The trusted keys of relays, shared by all that learn of relays.
///
/// What the configuration says of a host is all that counts for it: a peer can
/// neither add a key to such a host nor take the check of public roots from it.
/// A peer's word counts for hosts that only peers name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pins(Arc<RwLock<Hosts>>);

#[derive(Debug, Default)]
struct Hosts {
    configured: HashMap<String, Trust>,
    supplied: HashMap<String, Trust>,
    /// Supplied hosts, oldest first.
    order: VecDeque<String>,
}

/// What makes a host's certificate good.
#[derive(Clone, Debug, Default)]
struct Trust {
    pins: VecDeque<SpkiPin>,
    /// Named without a pin: public roots vouch for it.
    roots: bool,
}

impl Trust {
    fn add(&mut self, pin: Option<SpkiPin>) {
        match pin {
            None => self.roots = true,
            Some(pin) if self.pins.contains(&pin) => {}
            Some(pin) => {
                if self.pins.len() == PINS_PER_HOST_MAX {
                    self.pins.pop_front();
                }
                self.pins.push_back(pin);
            }
        }
    }
}

/// A certificate whose key is not the pinned one.
#[derive(Debug, thiserror::Error)]
#[error("the key of its certificate is not the pinned one but sha256={found}")]
pub(crate) struct WrongKey {
    found: SpkiPin,
}

impl Pins {
    /// Replaces what the configuration says.
    pub(crate) fn configure<'a>(&self, relays: impl Iterator<Item = &'a RelayAddress>) {
        let mut configured: HashMap<String, Trust> = HashMap::new();
        for relay in relays {
            let trust = configured.entry(key(relay.host())).or_default();
            trust.add(relay.pin());
        }
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .configured = configured;
    }

    /// Remembers what a peer said.
    pub(crate) fn supply(&self, relay: &RelayAddress) {
        let mut hosts = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let host = key(relay.host());
        if !hosts.supplied.contains_key(&host) {
            if hosts.order.len() == HOSTS_MAX
                && let Some(oldest) = hosts.order.pop_front()
            {
                hosts.supplied.remove(&oldest);
            }
            hosts.order.push_back(host.clone());
        }
        hosts.supplied.entry(host).or_default().add(relay.pin());
    }

    /// Whether the configuration names a host.
    pub(crate) fn is_configured(&self, host: &str) -> bool {
        let hosts = self.0.read().unwrap_or_else(PoisonError::into_inner);
        hosts.configured.contains_key(&key(host))
    }

    fn trust(&self, host: &str) -> Trust {
        let hosts = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let host = key(host);
        let supplied = || hosts.supplied.get(&host).filter(|_| !is_public(&host));
        let told = hosts.configured.get(&host).or_else(supplied);
        told.cloned()
            // Nobody named it, or none of those who may.
            .unwrap_or(Trust {
                pins: VecDeque::new(),
                roots: true,
            })
    }

    /// How the endpoint checks certificates.
    pub(crate) fn tls_config(&self) -> CaTlsConfig {
        let pins = self.clone();
        CaTlsConfig::custom_server_cert_verifier(Arc::new(move |provider| {
            let roots = CaTlsConfig::embedded().server_cert_verifier(provider.clone())?;
            Ok(Arc::new(Verifier {
                pins: pins.clone(),
                roots,
                provider,
            }))
        }))
    }
}

/// Whether two texts name the same host.
pub(super) fn is_same_host(one: &str, other: &str) -> bool {
    key(one) == key(other)
}

/// Hosts of n0, for which public roots vouch: who looks for peers there asks
/// them for more than relaying, and no peer decides with which key they answer.
fn is_public(key_of_host: &str) -> bool {
    static HOSTS: LazyLock<HashSet<String>> = LazyLock::new(|| {
        let relays = [prod::default_relay_map(), staging::default_relay_map()];
        let relays = relays.iter().flat_map(RelayMap::urls::<Vec<_>>);
        let mut hosts: HashSet<String> = relays.map(|url| key(host(&url))).collect();
        hosts.extend([N0_DNS_ENDPOINT_ORIGIN_PROD, N0_DNS_ENDPOINT_ORIGIN_STAGING].map(key));
        hosts
    });
    HOSTS.contains(key_of_host)
}

/// A host as it is compared: names without the root's dot, in lower case.
fn key(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// The pin of a certificate's key.
pub(crate) fn pin_of(certificate: &CertificateDer<'_>) -> Result<SpkiPin, rustls::Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    let spki = parsed.subject_public_key_info();
    Ok(SpkiPin::new(Sha256::digest(spki.as_ref()).into()))
}

#[derive(Debug)]
struct Verifier {
    pins: Pins,
    roots: Arc<dyn ServerCertVerifier>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let trust = self.pins.trust(&server_name.to_str());
        if !trust.pins.is_empty() {
            let found = pin_of(end_entity)?;
            if trust.pins.contains(&found) {
                return Ok(ServerCertVerified::assertion());
            }
            if !trust.roots {
                let wrong = OtherError(Arc::new(WrongKey { found }));
                return Err(CertificateError::Other(wrong).into());
            }
        }
        self.roots
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rcgen::CertifiedKey;

    struct Made {
        certificate: CertificateDer<'static>,
        pin: SpkiPin,
    }

    fn made() -> Made {
        let CertifiedKey { cert, .. } =
            rcgen::generate_simple_self_signed(vec!["another.example.org".into()]).unwrap();
        let certificate = cert.der().clone();
        let pin = pin_of(&certificate).unwrap();
        Made { certificate, pin }
    }

    fn relay(text: &str) -> RelayAddress {
        text.parse().unwrap()
    }

    fn accepts(pins: &Pins, host: &str, made: &Made) -> bool {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = pins.tls_config().server_cert_verifier(provider).unwrap();
        let name = ServerName::try_from(host.to_owned()).unwrap();
        // Long after any certificate made here has expired.
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1 << 40));
        verifier
            .verify_server_cert(&made.certificate, &[], &name, &[], now)
            .is_ok()
    }

    #[test]
    fn a_pinned_host_is_known_by_its_key_alone() {
        let (own, other) = (made(), made());
        let pins = Pins::default();
        assert!(!accepts(&pins, "203.0.113.1", &own));
        let address = relay(&format!("https://203.0.113.1/#sha256={}", own.pin));
        pins.configure([address].iter());
        assert!(accepts(&pins, "203.0.113.1", &own));
        assert!(!accepts(&pins, "203.0.113.1", &other));
        assert!(!accepts(&pins, "203.0.113.2", &own));
        let named = relay(&format!("https://Relay.Example.org./#sha256={}", own.pin));
        pins.supply(&named);
        assert!(accepts(&pins, "relay.example.org", &own));
    }

    #[test]
    fn a_peer_changes_nothing_about_a_configured_host() {
        let (own, other) = (made(), made());
        let supplied = |host: &str| relay(&format!("https://{host}:99/#sha256={}", other.pin));
        let pins = Pins::default();
        pins.configure(
            [
                relay("https://public.example.org/"),
                relay(&format!("https://pinned.example.org/#sha256={}", own.pin)),
            ]
            .iter(),
        );
        for host in ["public.example.org", "pinned.example.org"] {
            pins.supply(&supplied(host));
            pins.supply(&relay(&format!("https://{host}:98/")));
            assert!(!accepts(&pins, host, &other), "{host}");
        }
        assert!(accepts(&pins, "pinned.example.org", &own));
        // The same key counts where the configuration says nothing.
        pins.supply(&supplied("peers.example.org"));
        assert!(accepts(&pins, "peers.example.org", &other));
    }

    #[test]
    fn a_peer_says_nothing_of_the_hosts_of_n0() {
        let own = made();
        let pins = Pins::default();
        for host in [prod::EU_RELAY_HOSTNAME, "dns.iroh.link", "DNS.iroh.link."] {
            let trust = |host: &str| pins.trust(host).pins.len();
            pins.supply(&relay(&format!("https://{host}/#sha256={}", own.pin)));
            assert!(!accepts(&pins, host.trim_end_matches('.'), &own), "{host}");
            assert!(pins.trust(host).roots, "{host}");
            assert_eq!(trust(host), 0, "{host}");
        }
        // Whoever configures it knows what it is.
        let pinned = format!("https://dns.iroh.link/#sha256={}", own.pin);
        pins.configure([relay(&pinned)].iter());
        assert!(accepts(&pins, "dns.iroh.link", &own));
    }

    #[test]
    fn what_peers_say_is_bounded() {
        let pins = Pins::default();
        let first = made();
        pins.supply(&relay(&format!(
            "https://203.0.113.1/#sha256={}",
            first.pin
        )));
        let other = |n: u8| SpkiPin::new([n; 32]);
        for n in 1..PINS_PER_HOST_MAX {
            pins.supply(&relay(&format!(
                "https://203.0.113.1/#sha256={}",
                other(n as u8)
            )));
        }
        assert!(accepts(&pins, "203.0.113.1", &first));
        pins.supply(&relay(&format!(
            "https://203.0.113.1/#sha256={}",
            other(99)
        )));
        assert!(!accepts(&pins, "203.0.113.1", &first));

        let pins = Pins::default();
        pins.supply(&relay(&format!(
            "https://203.0.113.1/#sha256={}",
            first.pin
        )));
        for n in 1..HOSTS_MAX {
            pins.supply(&relay(&format!("https://h{n}.example.org/")));
        }
        assert!(accepts(&pins, "203.0.113.1", &first));
        pins.supply(&relay("https://one-more.example.org/"));
        assert!(!accepts(&pins, "203.0.113.1", &first));
    }
}
