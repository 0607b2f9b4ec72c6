//! What a look at the network found.

use super::{Look, ms};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// What the network lets through.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NetReport {
    /// Whether packets over UDP came back; `null` if nobody could be asked, or
    /// whoever was asked is not reached over TCP either.
    pub udp: Option<bool>,
    /// IPv4.
    pub ipv4: AddressFamily,
    /// IPv6.
    pub ipv6: AddressFamily,
    /// What translates addresses on the way: `none`, `endpoint-independent`
    /// ("cone": the same public address for everybody), `address-dependent`
    /// ("symmetric": another one for everybody) or `unknown`.
    pub nat: String,
    /// Why the kind is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nat_note: Option<String>,
    /// Addresses at which relays saw this machine.
    pub public_addresses: Vec<String>,
    /// Each relay that was looked at.
    pub relays: Vec<RelayReport>,
    /// What the router offers; `null` if it was not asked, or did not answer.
    pub port_mapping: Option<PortMapping>,
    /// Whether somebody else answers in the place of relays; `null` if that
    /// could not be found out.
    pub captive_portal: Option<bool>,
    /// Whether others can reach this node by any means that was found.
    pub reachable: bool,
    /// What to do, and what to expect, in sentences.
    pub advice: Vec<String>,
}

impl NetReport {
    /// Adds what a relay said to the node that uses it.
    pub(crate) fn note_acceptance(
        &mut self,
        url: &str,
        accepts: Option<bool>,
        refusal: Option<String>,
    ) {
        let Some(relay) = self.relays.iter_mut().find(|relay| relay.url == url) else {
            return;
        };
        relay.accepts = accepts;
        if let (true, Some(reason)) = (relay.works, refusal) {
            relay.works = false;
            relay.problem = Some("NOT_ACCEPTED".into());
            self.advice.insert(0, super::advice::refused(url, &reason));
            relay.refusal = Some(reason);
            // What else is a way in does not depend on this relay.
            let others = self.relays.iter().any(|relay| relay.works);
            self.reachable = others || self.has_open_udp();
        }
    }

    /// Whether packets come back, and nothing on the way keeps others from
    /// sending some too.
    pub(super) fn has_open_udp(&self) -> bool {
        self.udp == Some(true) && self.nat == "none"
    }

    /// Adds what connections show, whatever relays say.
    pub(crate) fn note_direct(&mut self, peers: usize) {
        if peers == 0 {
            return;
        }
        self.reachable = true;
        if self.udp != Some(true) {
            self.udp = Some(true);
            let peers = match peers {
                1 => "1 peer is".to_owned(),
                peers => format!("{peers} peers are"),
            };
            self.advice
                .insert(0, format!("{peers} connected directly: UDP gets out"));
        }
    }
}

/// One address family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AddressFamily {
    /// Whether this machine has an address and a route out.
    pub route: bool,
    /// The address from which packets leave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Whether a relay answered over UDP.
    pub udp: bool,
}

impl AddressFamily {
    pub(super) fn new(local: Option<IpAddr>, udp: bool) -> Self {
        Self {
            route: local.is_some(),
            address: local.map(|ip| ip.to_string()),
            udp,
        }
    }
}

/// What a router offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PortMapping {
    /// UPnP IGD.
    pub upnp: bool,
    /// NAT-PMP (RFC 6886).
    pub nat_pmp: bool,
    /// PCP (RFC 6887).
    pub pcp: bool,
}

impl PortMapping {
    /// Whether it opens ports at all.
    #[must_use]
    pub fn any(self) -> bool {
        self.upnp || self.nat_pmp || self.pcp
    }
}

/// One relay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RelayReport {
    /// Its address, with the pin of its key if it has one.
    pub url: String,
    /// Whether connections can go through it.
    pub works: bool,
    /// The quicker of the round trips, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    /// `quic` or `https`: over which it answered more quickly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// Over UDP, which finds public addresses.
    pub quic: ProbeReport,
    /// Over TCP, which carries what is relayed.
    pub https: ProbeReport,
    /// Whether it lets this node in; `null` if that was not asked.
    pub accepts: Option<bool>,
    /// What it said when it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// Why it does not work: `NAME`, `REFUSED`, `SILENT`, `UNREACHED`,
    /// `CERTIFICATE_EXPIRED`, `CERTIFICATE_NOT_YET_VALID`,
    /// `CERTIFICATE_UNKNOWN`, `CERTIFICATE_NAME`, `CERTIFICATE`, `NOT_TLS`,
    /// `NOT_A_RELAY` or `NOT_ACCEPTED`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// One way to a relay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProbeReport {
    /// Whether it answered.
    pub answered: bool,
    /// Round trip in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    /// Why it did not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl RelayReport {
    pub(super) fn new(look: &Look) -> Self {
        let quic = look
            .seen
            .iter()
            .map(|seen| ms(seen.latency))
            .reduce(f64::min);
        let https = look.https.as_ref().ok().map(|reached| ms(reached.latency));
        let quicker = match (quic, https) {
            (Some(quic), Some(https)) if https < quic => Some((https, "https")),
            (Some(quic), _) => Some((quic, "quic")),
            (None, https) => https.map(|https| (https, "https")),
        };
        let refusal = look.accepts.as_ref().and_then(|asked| asked.as_ref().err());
        let problem = match (&look.https, refusal) {
            (Err(problem), _) => Some(problem.code()),
            (Ok(_), Some(_)) => Some("NOT_ACCEPTED"),
            (Ok(_), None) => None,
        };
        Self {
            url: look.address.to_string(),
            works: problem.is_none(),
            latency_ms: quicker.map(|(latency, _)| latency),
            via: quicker.map(|(_, via)| via.to_owned()),
            quic: ProbeReport {
                answered: quic.is_some(),
                latency_ms: quic,
                error: look
                    .udp_error
                    .as_ref()
                    .filter(|_| quic.is_none())
                    .map(|error| error.cause.clone()),
            },
            https: ProbeReport {
                answered: https.is_some(),
                latency_ms: https,
                error: look.https.as_ref().err().map(ToString::to_string),
            },
            accepts: look.accepts.as_ref().map(Result::is_ok),
            refusal: refusal.cloned(),
            problem: problem.map(str::to_owned),
        }
    }
}
