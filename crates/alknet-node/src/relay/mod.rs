//! Relays: how they are named, which are trusted, and the one that this node
//! may be.

mod access;
mod address;
mod certificate;
mod config;
mod health;
mod pins;
mod server;
mod vetting;

pub use address::{ParseRelayError, Qad, RelayAddress, SpkiPin, TEXT_BYTES_MAX};
pub use certificate::CertificateError;
pub use config::{Off, QadSetting, RelayServerConfig};
pub use health::{RelayUse, check_relays};
pub use server::{RelayServerStatus, RelayStartError, check_own_relay};
pub use vetting::{UnfitRelay, vet_relay};
pub(crate) use vetting::{is_loopback, is_never_contacted};

use crate::{config::RelaySetting, ticket::RELAYS_MAX};
pub(crate) use address::QAD_PORT;
use data_encoding::HEXLOWER;
pub(crate) use health::{Health, advise_owner, notes};
use iroh::{Endpoint, RelayMap, RelayMode, RelayUrl, dns::DnsResolver};
use iroh_relay::tls::CaTlsConfig;
pub(crate) use server::{RelayParts, RelayServer};

use pins::Pins;
use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};
use vetting::VettingResolver;

/// Relays of which peers told that are remembered with what they are named by.
const TOLD_MAX: usize = 1024;

/// What a newcomer shows a relay while its invite is open: says nothing of the
/// invite's secret, and is known to whoever knows the secret or its hash.
#[must_use]
pub fn relay_token(secret_hash: &[u8; 32]) -> String {
    let token = blake3::derive_key("alknet 2026 relay admission", secret_hash);
    HEXLOWER.encode(&token)
}

/// The relays that a node knows of: its own choice, and what peers told.
/// Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Relays(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pins: Pins,
    resolver: VettingResolver,
    /// Shared with the endpoint.
    map: RelayMap,
    /// Whether relays may be used at all.
    enabled: AtomicBool,
    /// How often an invite's token was shown.
    presented: AtomicU64,
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Chosen here.
    chosen: Vec<RelayAddress>,
    /// Named by peers, oldest first.
    told: Vec<RelayAddress>,
}

impl Relays {
    /// What a configuration chose. With an explicit `none` no relay is used,
    /// not even to reach a peer that is at one.
    pub(crate) fn new(settings: &[RelaySetting]) -> Self {
        let chosen = settings.iter().filter_map(|setting| match setting {
            RelaySetting::Url(address) => Some(address.clone()),
            RelaySetting::None | RelaySetting::N0 => None,
        });
        let chosen: Vec<RelayAddress> = chosen.collect();
        let pins = Pins::default();
        pins.configure(chosen.iter());
        // With relays of one's own, of n0 only the discovery is used.
        let map = match settings.contains(&RelaySetting::N0) && chosen.is_empty() {
            true => RelayMode::Default.relay_map(),
            false => RelayMap::from_iter(chosen.iter().map(RelayAddress::config)),
        };
        Self(Arc::new(Inner {
            resolver: VettingResolver::new(pins.clone()),
            pins,
            map,
            enabled: AtomicBool::new(!settings.contains(&RelaySetting::None)),
            presented: AtomicU64::new(0),
            known: RwLock::new(Known {
                chosen,
                told: Vec::new(),
            }),
        }))
    }

    /// The relays that the endpoint may be at home at.
    pub(crate) fn map(&self) -> RelayMap {
        self.0.map.clone()
    }

    /// How the endpoint checks certificates of relays.
    pub(crate) fn tls_config(&self) -> CaTlsConfig {
        self.0.pins.tls_config()
    }

    /// How the endpoint resolves names of relays.
    pub(crate) fn resolver(&self) -> DnsResolver {
        DnsResolver::custom(self.0.resolver.clone())
    }

    fn known(&self) -> std::sync::RwLockReadGuard<'_, Known> {
        self.0.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those chosen here, by configuration, adoption or by being one.
    pub(crate) fn chosen(&self) -> Vec<RelayAddress> {
        self.known().chosen.clone()
    }

    /// Whether no relay may be used, as was said explicitly.
    pub(crate) fn are_off(&self) -> bool {
        !self.0.enabled.load(Ordering::Relaxed)
    }

    /// Takes relays that a peer, a ticket or a record named: those that may be
    /// contacted, at most [`RELAYS_MAX`], with their keys remembered. Plain
    /// `http` and loopback addresses are taken if chosen here too; loopback
    /// also from a peer that came over loopback.
    pub(crate) fn learn(&self, texts: &[String], came_over_loopback: bool) -> Vec<RelayAddress> {
        let mut taken: Vec<RelayAddress> = Vec::new();
        for text in texts {
            let Ok(named) = text.parse::<RelayAddress>() else {
                tracing::debug!("a peer names a relay by a text that names none");
                continue;
            };
            // Whatever a peer says of the key of one that was chosen here.
            let chosen = self.chosen_at(named.url());
            let (is_chosen, relay) = (chosen.is_some(), chosen.unwrap_or(named));
            if let Err(cause) = vet_relay(&relay, came_over_loopback)
                && !is_chosen
            {
                tracing::debug!(%cause, "a relay that a peer named is not used");
                continue;
            }
            if self.is_beside_chosen(&relay) {
                tracing::debug!(%relay, "a peer names another port of a chosen host; not used");
                continue;
            }
            if taken.iter().any(|other| other.url() == relay.url()) || taken.len() == RELAYS_MAX {
                continue;
            }
            if !is_chosen {
                self.remember(&relay);
            }
            taken.push(relay);
        }
        taken
    }

    /// The relays of a record, which were vetted when they came, or were given
    /// by this node's user; none if relays are off.
    pub(crate) fn usable(&self, texts: &[String]) -> Vec<RelayAddress> {
        if self.are_off() {
            return Vec::new();
        }
        let parsed = texts
            .iter()
            .filter_map(|text| text.parse::<RelayAddress>().ok());
        let usable: Vec<RelayAddress> = parsed
            .map(|relay| self.chosen_at(relay.url()).unwrap_or(relay))
            .filter(|relay| !relay.ip().is_some_and(vetting::is_never_contacted))
            .filter(|relay| !self.is_beside_chosen(relay))
            .take(RELAYS_MAX)
            .collect();
        for relay in &usable {
            if !self.is_chosen(relay.url()) {
                self.remember(relay);
            }
        }
        usable
    }

    fn is_chosen(&self, url: &RelayUrl) -> bool {
        self.chosen_at(url).is_some()
    }

    fn chosen_at(&self, url: &RelayUrl) -> Option<RelayAddress> {
        let known = self.known();
        known
            .chosen
            .iter()
            .find(|relay| relay.url() == url)
            .cloned()
    }

    /// Whether a relay's name is that of a chosen one, and its port is not. Such
    /// a name leads wherever the choice leads, this machine included, where a
    /// peer has no say in which port is contacted.
    fn is_beside_chosen(&self, relay: &RelayAddress) -> bool {
        if relay.ip().is_some() {
            return false;
        }
        let port = |relay: &RelayAddress| relay.url().port_or_known_default();
        let known = self.known();
        let mut same_host = known
            .chosen
            .iter()
            .filter(|chosen| pins::is_same_host(chosen.host(), relay.host()))
            .peekable();
        same_host.peek().is_some() && same_host.all(|chosen| port(chosen) != port(relay))
    }

    fn remember(&self, relay: &RelayAddress) {
        self.0.pins.supply(relay);
        let mut known = self.0.known.write().unwrap_or_else(PoisonError::into_inner);
        known.told.retain(|other| other.url() != relay.url());
        if known.told.len() == TOLD_MAX {
            known.told.remove(0);
        }
        known.told.push(relay.clone());
    }

    /// Whether a URL is only that of a place where a newcomer passes: a node
    /// is not at home there, whatever the library thinks.
    pub(crate) fn is_passed_by(&self, url: &RelayUrl) -> bool {
        url.query().is_some() && !self.is_chosen(self.address_of(url).url())
    }

    /// A relay's whole name: its URL alone does not say its key.
    pub(crate) fn address_of(&self, url: &RelayUrl) -> RelayAddress {
        let plain: Option<RelayUrl> = url
            .query()
            .and_then(|_| url.as_str().split('?').next()?.parse().ok());
        let url = plain.as_ref().unwrap_or(url);
        let known = self.known();
        let mut all = known.chosen.iter().chain(known.told.iter().rev());
        all.find(|relay| relay.url() == url)
            .cloned()
            .unwrap_or_else(|| RelayAddress::unpinned(url.clone()))
    }

    /// Uses this node's own relay.
    pub(crate) async fn be(&self, endpoint: &Endpoint, relay: &RelayServer) {
        self.0.resolver.set_own(relay.own_name());
        self.choose(endpoint, relay.address()).await;
    }

    /// Uses a relay from now on as if it had been configured. Of a host that
    /// was chosen already, what was said of its key then is all that counts.
    pub(crate) async fn adopt(&self, endpoint: &Endpoint, relay: &RelayAddress) {
        self.0.enabled.store(true, Ordering::Relaxed);
        if self.is_host_chosen(relay) {
            tracing::info!(%relay, "a relay of this host is used already; nothing is changed");
            return;
        }
        self.choose(endpoint, relay).await;
    }

    fn is_host_chosen(&self, relay: &RelayAddress) -> bool {
        let known = self.known();
        let mut chosen = known.chosen.iter();
        chosen.any(|chosen| pins::is_same_host(chosen.host(), relay.host()))
    }

    async fn choose(&self, endpoint: &Endpoint, relay: &RelayAddress) {
        {
            let mut known = self.0.known.write().unwrap_or_else(PoisonError::into_inner);
            known.chosen.retain(|other| other.url() != relay.url());
            known.chosen.push(relay.clone());
            self.0.pins.configure(known.chosen.iter());
        }
        let config = Arc::new(relay.config());
        endpoint.insert_relay(relay.url().clone(), config).await;
    }

    /// Shows a relay, which does not know this node yet, an invite's token
    /// while the returned guard lives: who dials [`Presented::url`] passes the
    /// relay with it.
    ///
    /// The URL differs from the relay's by a query, which relays ignore: iroh
    /// gives each URL a connection of its own, and one under the relay's own URL
    /// may be there already, refused and without the token.
    pub(crate) fn present(&self, relay: &RelayAddress, token: &str) -> Presented {
        // Each time another one: the library keeps the token, and the pause
        // after a refusal, of a URL for a minute after its last use.
        let number = self.0.presented.fetch_add(1, Ordering::Relaxed);
        let url: RelayUrl = format!("{}?{NEWCOMER}={number}", relay.url())
            .parse()
            .unwrap_or_else(|_| relay.url().clone());
        // Without address discovery: nothing else is asked of it.
        let config = iroh::RelayConfig::new(url.clone(), None).with_auth_token(token);
        // Not through the endpoint: it would take the relay for its home.
        self.0.map.insert(url.clone(), Arc::new(config));
        Presented {
            map: self.0.map.clone(),
            url,
        }
    }
}

/// Marks the URL under which a newcomer passes a relay.
const NEWCOMER: &str = "newcomer";

/// An invite's token is shown to a relay while this lives.
#[must_use = "the token is taken back when this is dropped"]
#[derive(Debug)]
pub(crate) struct Presented {
    map: RelayMap,
    url: RelayUrl,
}

impl Presented {
    /// The relay, as it is dialled meanwhile.
    pub(crate) fn url(&self) -> &RelayUrl {
        &self.url
    }
}

impl Drop for Presented {
    fn drop(&mut self) {
        self.map.remove(&self.url);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PIN: &str = "ab12cd34ab12cd34ab12cd34ab12cd34ab12cd34ab12cd34ab12cd34ab12cd34";

    fn texts(relays: &[RelayAddress]) -> Vec<String> {
        relays.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_peers_relays_are_vetted_bounded_and_remembered_with_their_keys() {
        let chosen = "http://10.0.0.1:3340/";
        let relays = Relays::new(&[RelaySetting::parse(chosen).unwrap()]);
        let pinned = format!("https://203.0.113.1/#sha256={PIN}");
        let mut said: Vec<String> = ["x", "https://127.0.0.1/", "http://10.0.0.2:3340/", chosen]
            .map(Into::into)
            .into();
        said.extend([pinned.clone(), pinned.clone()]);
        let taken = relays.learn(&said, false);
        assert_eq!(texts(&taken), [chosen, &pinned]);
        assert_eq!(relays.address_of(taken[1].url()).to_string(), pinned);
        let many: Vec<String> = (1..9).map(|n| format!("https://203.0.113.{n}/")).collect();
        assert_eq!(relays.learn(&many, false).len(), RELAYS_MAX);
        assert_eq!(
            texts(&relays.learn(&["https://127.0.0.1/".into()], true)),
            ["https://127.0.0.1/"]
        );
    }

    #[tokio::test]
    async fn what_a_peer_says_of_a_chosen_relay_changes_nothing() {
        let other = PIN.replace("ab12", "ab13");
        let chosen = format!("https://203.0.113.1/#sha256={PIN}");
        let relays = Relays::new(&[RelaySetting::parse(&chosen).unwrap()]);
        let said = [format!("https://203.0.113.1/#sha256={other}")];
        assert_eq!(texts(&relays.learn(&said, false)), [chosen.as_str()]);
        assert_eq!(texts(&relays.usable(&said)), [chosen.as_str()]);
        let endpoint = Endpoint::builder(iroh::endpoint::presets::Minimal)
            .relay_mode(RelayMode::Custom(relays.map()))
            .bind_addr("127.0.0.1:0")
            .unwrap();
        let endpoint = endpoint.bind().await.unwrap();
        for port in ["", ":8443"] {
            let named = format!("https://203.0.113.1{port}/#sha256={other}");
            relays.adopt(&endpoint, &named.parse().unwrap()).await;
        }
        assert_eq!(texts(&relays.chosen()), [chosen]);
        let new = format!("https://203.0.113.2/#sha256={other}");
        relays.adopt(&endpoint, &new.parse().unwrap()).await;
        assert_eq!(texts(&relays.chosen())[1..], [new]);
        endpoint.close().await;
    }

    #[test]
    fn a_peer_names_no_other_port_of_a_chosen_name() {
        let chosen = "https://relay.example.org:8443/";
        let relays = Relays::new(&[RelaySetting::parse(chosen).unwrap()]);
        let other = [
            "https://relay.example.org:5432/",
            "https://Relay.example.org./",
        ];
        let other = other.map(str::to_owned);
        assert_eq!(texts(&relays.learn(&other, true)), Vec::<String>::new());
        assert_eq!(texts(&relays.usable(&other)), Vec::<String>::new());
        let same = [
            chosen.to_owned(),
            "https://another.example.org:5432/".into(),
        ];
        assert_eq!(texts(&relays.learn(&same, false)), same);
        assert_eq!(texts(&relays.usable(&same)), same);
    }

    #[test]
    fn with_an_explicit_none_no_relay_of_a_peer_is_used() {
        let told = ["https://203.0.113.1/".to_owned()];
        assert_eq!(Relays::new(&[]).usable(&told).len(), 1);
        assert_eq!(Relays::new(&[RelaySetting::None]).usable(&told).len(), 0);
    }

    #[test]
    fn a_token_is_shown_beside_what_is_configured_while_it_is_wanted() {
        let chosen = "https://203.0.113.1/";
        let relays = Relays::new(&[RelaySetting::parse(chosen).unwrap()]);
        let relay: RelayAddress = chosen.parse().unwrap();
        let shown = relays.present(&relay, "t");
        assert_eq!(shown.url().host_str(), relay.url().host_str());
        let token_of = |url| {
            relays
                .map()
                .get(url)
                .map(|config| config.auth_token.clone())
        };
        assert_eq!(token_of(shown.url()), Some(Some("t".into())));
        assert_eq!(token_of(relay.url()), Some(None));
        // Whoever is told of it hears the relay's own name.
        assert_eq!(relays.address_of(shown.url()), relay);
        assert!(!relays.is_passed_by(shown.url()));
        let stranger = relays.present(&"https://203.0.113.9/".parse().unwrap(), "t");
        assert!(relays.is_passed_by(stranger.url()));
        // A refusal of one token does not hold up the next one.
        let other = relays.present(&relay, "u");
        assert_ne!(other.url(), shown.url());
        drop((shown, other, stranger));
        assert_eq!(relays.map().urls::<Vec<_>>(), [relay.url().clone()]);
    }

    #[test]
    fn a_token_says_nothing_of_the_secret_and_is_the_same_everywhere() {
        let token = relay_token(&[7; 32]);
        assert_eq!(token.len(), 64);
        assert_ne!(token, HEXLOWER.encode(&[7; 32]));
        assert_eq!(token, relay_token(&[7; 32]));
        assert_ne!(token, relay_token(&[8; 32]));
    }
}
