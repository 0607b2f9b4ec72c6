//! Whether the relays in use work, and if not, why and what helps.

use super::{RelayAddress, RelayServer, Relays, access::TWICE};
use crate::{
    config::RelaySetting,
    netcheck::https::{Problem, probe},
};
use iroh::{Endpoint, dns::DnsResolver, endpoint::RelayStatus};
use n0_watcher::Watcher;
use rustls::ClientConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// How long a relay may take before it is looked at.
const GRACE: Duration = Duration::from_secs(2);
/// How often a relay that does not work is looked at again.
const AGAIN: Duration = Duration::from_secs(30);

/// A relay in use, and whether it works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RelayUse {
    /// Its whole address.
    pub url: String,
    /// Whether this node is connected to it. One that works and is not the
    /// nearest is kept in reserve, without a connection.
    pub connected: bool,
    /// What is wrong, for programs; `null` if nothing is known to be.
    pub problem: Option<String>,
    /// What is wrong, in a sentence.
    pub message: Option<String>,
    /// What helps.
    pub hint: Option<String>,
}

impl RelayUse {
    fn of(relay: &RelayAddress, connected: bool, fault: Option<Fault>) -> Self {
        Self {
            url: relay.to_string(),
            connected,
            problem: fault.as_ref().map(|fault| fault.code.into()),
            message: fault.as_ref().map(|fault| fault.message.clone()),
            hint: fault.map(|fault| fault.hint),
        }
    }
}

/// What is wrong with a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) hint: String,
}

impl From<&Problem> for Fault {
    fn from(problem: &Problem) -> Self {
        Self {
            code: problem.code(),
            message: problem.to_string(),
            hint: problem.advice().into(),
        }
    }
}

impl Fault {
    /// A relay that turned this node away, with what it said.
    fn denied(reason: &str) -> Self {
        Self {
            code: "NOT_ACCEPTED",
            message: format!(
                "it does not let this node in: {}",
                alknet_core::clean_foreign_text(reason, 200)
            ),
            hint: "with an invite of its owner: alknet join TICKET; if its node is a peer here still, forget it before: alknet peers remove PEER".into(),
        }
    }
}

/// The relays in use, as they were last seen. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health(Arc<Mutex<Vec<Seen>>>);

#[derive(Clone, Debug)]
struct Seen {
    relay: RelayAddress,
    connected: bool,
    fault: Option<Fault>,
}

impl Health {
    /// The relays chosen here, in order.
    pub(crate) fn report(&self, relays: &Relays) -> Vec<RelayUse> {
        let seen = self.seen();
        let report = relays.chosen().into_iter().map(|relay| {
            let found = seen.iter().find(|seen| seen.relay.url() == relay.url());
            let fault = found.and_then(|seen| seen.fault.clone());
            RelayUse::of(&relay, found.is_some_and(|seen| seen.connected), fault)
        });
        report.collect()
    }

    fn seen(&self) -> Vec<Seen> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Keeps what was seen, and says in the log what changed.
    fn keep(&self, now: Vec<Seen>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for seen in &now {
            let before = kept.iter().find(|old| old.relay.url() == seen.relay.url());
            let url = seen.relay.url();
            match (&seen.fault, before.and_then(|old| old.fault.as_ref())) {
                // A relay that says the same in other words is no news.
                (Some(fault), old) if old.is_none_or(|old| old.code != fault.code) => {
                    tracing::warn!(%url, "the relay is not used: {} ({})", fault.message, fault.hint);
                }
                (None, Some(_)) => tracing::info!(%url, "the relay works again"),
                _ => {}
            }
        }
        *kept = now;
    }

    /// Follows the endpoint's relays until it is gone.
    pub(crate) async fn follow(self, endpoint: Endpoint, relays: Relays) {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let Ok(tls) = relays.tls_config().client_config(provider) else {
            return;
        };
        let (tls, resolver) = (Arc::new(tls), relays.resolver());
        let mut home = endpoint.home_relay_status();
        let started = Instant::now();
        let mut looked: Option<Instant> = None;
        loop {
            let status = home.get();
            let settled = started.elapsed() >= GRACE;
            let due = settled && looked.is_none_or(|looked| looked.elapsed() >= AGAIN);
            if due {
                looked = Some(Instant::now());
            }
            let mut now = Vec::new();
            for relay in relays.chosen() {
                now.push(self.look(relay, &status, due, &tls, &resolver).await);
            }
            let all_work = now.iter().all(|seen| seen.connected);
            self.keep(now);
            let next = match settled {
                false => GRACE.saturating_sub(started.elapsed()),
                true => AGAIN,
            };
            tokio::select! {
                changed = home.updated() => if changed.is_err() { return },
                () = tokio::time::sleep(next), if !all_work || !settled => {}
            }
        }
    }

    /// One relay: what the endpoint says of it, and else what a look at it
    /// shows.
    async fn look(
        &self,
        relay: RelayAddress,
        status: &[RelayStatus],
        due: bool,
        tls: &Arc<ClientConfig>,
        resolver: &DnsResolver,
    ) -> Seen {
        let told = status.iter().find(|status| status.url() == relay.url());
        if told.is_some_and(RelayStatus::is_connected) {
            return Seen {
                relay,
                connected: true,
                fault: None,
            };
        }
        // Whoever has just joined is let in again in a moment.
        let denied = told
            .and_then(RelayStatus::auth_denied_reason)
            .filter(|reason| *reason != TWICE);
        let fault = match denied {
            Some(reason) => Some(Fault::denied(reason)),
            None if due => check(&relay, tls, resolver).await.err(),
            None => {
                let before = self.seen();
                let before = before.iter().find(|seen| seen.relay.url() == relay.url());
                before.and_then(|seen| seen.fault.clone())
            }
        };
        Seen {
            relay,
            connected: false,
            fault,
        }
    }
}

/// Looks whether relays, as a configuration names them, are relays and can be
/// trusted, without a node. They are not told who asks; `none`, `n0` and texts
/// that name no relay are left out.
pub async fn check_relays(texts: &[String]) -> Vec<RelayUse> {
    let settings = texts
        .iter()
        .filter_map(|text| RelaySetting::parse(text).ok());
    let relays = Relays::new(&settings.collect::<Vec<_>>());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let Ok(tls) = relays.tls_config().client_config(provider) else {
        return Vec::new();
    };
    let (tls, resolver) = (Arc::new(tls), relays.resolver());
    let looked = relays.chosen().into_iter().map(|relay| {
        let (tls, resolver) = (tls.clone(), resolver.clone());
        async move {
            let fault = check(&relay, &tls, &resolver).await.err();
            RelayUse::of(&relay, false, fault)
        }
    });
    futures::future::join_all(looked).await
}

/// Gives the owner of a relay advice of its own: that for users is to ask the
/// owner.
pub(crate) fn advise_owner(used: &mut [RelayUse], own: &RelayServer) {
    let address = own.address().to_string();
    for relay in used.iter_mut().filter(|relay| relay.url == address) {
        let hint = relay
            .problem
            .as_deref()
            .and_then(|code| own_hint(code, own));
        relay.hint = hint.or(relay.hint.take());
    }
}

/// What the owner of a relay can do about what is wrong with it.
fn own_hint(code: &str, own: &RelayServer) -> Option<String> {
    Some(match code {
        "CERTIFICATE_UNKNOWN" | "CERTIFICATE" => format!(
            "no public authority vouches for its certificate: give others its key too, --url '{}'",
            own.pinned_address()
        ),
        "CERTIFICATE_NAME" => {
            "give the name that its certificate is for: --url https://NAME/".into()
        }
        "NAME" => "others do not find it by that name: add it to the DNS, or give another one with --url".into(),
        "REFUSED" | "SILENT" | "UNREACHED" => {
            "others are told that address: check --url, the firewall and the port that the router forwards; some routers let nobody inside reach it that way".into()
        }
        "NOT_TLS" | "NOT_A_RELAY" => {
            "something else answers at the address that others are told: check --url".into()
        }
        _ => return None,
    })
}

/// What is said of relays to whoever asks how the node can be reached.
pub(crate) fn notes(n0: bool, used: &[RelayUse], own: Option<&RelayServer>) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(own) = own {
        notes.push(format!(
            "this node is a relay for those that it knows: they use it with --relay '{}'",
            own.address()
        ));
    }
    for relay in used {
        let (Some(message), Some(hint)) = (&relay.message, &relay.hint) else {
            continue;
        };
        let is_own = own.is_some_and(|own| own.address().to_string() == relay.url);
        notes.push(match is_own {
            true => format!("this node cannot use its own relay by that address, and others hardly can: {message} ({hint})"),
            false => format!("relay {} is not used: {message} ({hint})", relay.url),
        });
    }
    if n0 && !used.is_empty() {
        notes.push(
            "n0's DNS discovery is used, and none of its relays: it sees node ids and addresses"
                .into(),
        );
    }
    if n0 && used.is_empty() {
        notes.push("n0's public relays and DNS discovery are used: they see node ids, addresses and sizes, and can read nothing".into());
    } else if used.is_empty() {
        notes.push("no relay is used: a machine behind a NAT reaches this one only if this one has an address it can dial (--relay n0, or a relay of your own: `alknet relay` where all can reach it, then --relay with the address that it prints)".into());
    } else if used.iter().any(|relay| relay.connected) {
        notes.push("your own relay is used when no direct path is found".into());
    } else if used.iter().all(|relay| relay.problem.is_none()) {
        notes.push("a relay is configured and not connected yet".into());
    }
    notes
}

/// Looks whether a relay is one and can be trusted. It is not told who asks.
pub(crate) async fn check(
    relay: &RelayAddress,
    tls: &Arc<ClientConfig>,
    resolver: &DnsResolver,
) -> Result<(), Fault> {
    match probe(relay.url(), tls, resolver).await {
        Ok(_) => Ok(()),
        Err(problem) => Err(Fault::from(&problem)),
    }
}
