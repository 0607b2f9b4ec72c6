//! Which relays that a peer names may be contacted: none that would make this
//! node talk to itself, its neighbours or the machine it runs on.

use super::{
    RelayAddress,
    pins::{Pins, is_same_host},
};
use alknet_core::AddressClass;
use iroh::dns::{BoxIter, DnsError, DnsResolver, Resolver, TxtRecordData};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Time for one question to a name server.
const LOOKUP_MAX: Duration = Duration::from_secs(5);

/// Whether an address is this machine itself.
pub(crate) fn is_loopback(ip: IpAddr) -> bool {
    AddressClass::of(ip) == AddressClass::Loopback
}

/// Whether nobody's word makes this node send something to an address:
/// unspecified, multicast, broadcast, link-local and metadata addresses, and
/// what stands for one of them in IPv6.
pub(crate) fn is_never_contacted(ip: IpAddr) -> bool {
    match AddressClass::of(ip) {
        AddressClass::Public | AddressClass::Private | AddressClass::Loopback => false,
        // Networks for documentation and tests are used in laboratories; what
        // nobody was given (RFC 1112, 4), broadcast in it, leads nowhere.
        AddressClass::Reserved => {
            matches!(ip.to_canonical(), IpAddr::V4(ip) if ip.octets()[0] >= 240)
        }
        _ => true,
    }
}

/// Why a relay that a peer named is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnfitRelay {
    /// This machine, a neighbour, or nobody in particular.
    #[error("relay `{0}` is on this machine or its link")]
    Near(String),
    /// Who listens on the way would see who talks to whom.
    #[error("relay `{0}` is plain http")]
    Plain(String),
}

/// Whether a relay that a peer named may be contacted. A peer that came over
/// loopback may name loopback addresses.
///
/// # Errors
///
/// [`UnfitRelay`] that says why not.
pub fn vet_relay(relay: &RelayAddress, came_over_loopback: bool) -> Result<(), UnfitRelay> {
    let near = || Err(UnfitRelay::Near(relay.url().to_string()));
    if relay.is_plain() {
        return Err(UnfitRelay::Plain(relay.url().to_string()));
    }
    match relay.ip() {
        Some(ip) if is_never_contacted(ip) => near(),
        Some(ip) if is_loopback(ip) && !came_over_loopback => near(),
        Some(_) => Ok(()),
        // RFC 6761, 6.3: these names are this machine.
        None => {
            let name = relay.host().trim_end_matches('.').to_ascii_lowercase();
            match name == "localhost" || name.ends_with(".localhost") {
                true => near(),
                false => Ok(()),
            }
        }
    }
}

/// A name of this node's own relay, and where it listens.
#[derive(Clone, Debug)]
pub(crate) struct OwnName {
    pub(crate) host: String,
    pub(crate) ip: IpAddr,
}

/// Resolves names as the system does, without the addresses that a peer's
/// relay must not have.
#[derive(Clone, Debug)]
pub(crate) struct VettingResolver {
    system: DnsResolver,
    pins: Pins,
    own: Arc<Mutex<Option<OwnName>>>,
}

type Lookup<T> = futures::future::BoxFuture<'static, Result<T, DnsError>>;

impl VettingResolver {
    pub(crate) fn new(pins: Pins) -> Self {
        Self {
            system: DnsResolver::new(),
            pins,
            own: Arc::default(),
        }
    }

    /// From now on the node's own relay is found without asking anybody: its
    /// public address may be one that is not reached from the inside.
    pub(crate) fn set_own(&self, name: Option<OwnName>) {
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) = name;
    }

    /// Where the node's own relay is; `None` for other hosts.
    fn own(&self, host: &str) -> Option<IpAddr> {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let own = own.as_ref()?;
        is_same_host(&own.host, host).then_some(own.ip)
    }

    fn keep(&self, host: &str) -> impl Fn(&IpAddr) -> bool + Send + 'static {
        let is_configured = self.pins.is_configured(host);
        let host = host.to_owned();
        move |ip| {
            let fine = is_configured || !(is_loopback(*ip) || is_never_contacted(*ip));
            if !fine {
                tracing::debug!(%host, %ip, "a relay's name leads to this machine or its link; not used");
            }
            fine
        }
    }
}

impl Resolver for VettingResolver {
    fn lookup_ipv4(&self, host: String) -> Lookup<BoxIter<Ipv4Addr>> {
        let this = self.clone();
        Box::pin(async move {
            if let Some(own) = this.own(&host) {
                let own = match own {
                    IpAddr::V4(ip) => Some(ip),
                    IpAddr::V6(_) => None,
                };
                return Ok(Box::new(own.into_iter()) as BoxIter<Ipv4Addr>);
            }
            let found = this.system.lookup_ipv4(host.clone(), LOOKUP_MAX).await?;
            let kept: Vec<IpAddr> = found.filter(this.keep(&host)).collect();
            Ok(Box::new(kept.into_iter().filter_map(|ip| match ip {
                IpAddr::V4(ip) => Some(ip),
                IpAddr::V6(_) => None,
            })) as BoxIter<Ipv4Addr>)
        })
    }

    fn lookup_ipv6(&self, host: String) -> Lookup<BoxIter<Ipv6Addr>> {
        let this = self.clone();
        Box::pin(async move {
            if let Some(own) = this.own(&host) {
                let own = match own {
                    IpAddr::V6(ip) => Some(ip),
                    IpAddr::V4(_) => None,
                };
                return Ok(Box::new(own.into_iter()) as BoxIter<Ipv6Addr>);
            }
            let found = this.system.lookup_ipv6(host.clone(), LOOKUP_MAX).await?;
            let kept: Vec<IpAddr> = found.filter(this.keep(&host)).collect();
            Ok(Box::new(kept.into_iter().filter_map(|ip| match ip {
                IpAddr::V6(ip) => Some(ip),
                IpAddr::V4(_) => None,
            })) as BoxIter<Ipv6Addr>)
        })
    }

    fn lookup_txt(&self, host: String) -> Lookup<BoxIter<TxtRecordData>> {
        let system = self.system.clone();
        Box::pin(async move {
            let found = system.lookup_txt(host, LOOKUP_MAX).await?;
            let found: Vec<TxtRecordData> = found.collect();
            Ok(Box::new(found.into_iter()) as BoxIter<TxtRecordData>)
        })
    }

    fn clear_cache(&self) {
        self.system.clear_cache();
    }

    fn reset(&self) -> Box<dyn Resolver> {
        self.system.reset();
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn vet(text: &str, over_loopback: bool) -> Result<(), UnfitRelay> {
        vet_relay(&text.parse().unwrap(), over_loopback)
    }

    #[test]
    fn a_peer_cannot_point_us_at_ourselves_or_our_neighbours() {
        for bad in [
            "https://0.0.0.0/",
            "https://0.1.2.3/",
            "https://[::]/",
            "https://169.254.169.254/",
            "https://2852039166/",
            "https://0xa9.0xfe.0xa9.0xfe/",
            "https://[::ffff:169.254.169.254]/",
            "https://[64:ff9b::169.254.169.254]/",
            "https://[2002:a9fe:a9fe::1]/",
            "https://[fd00:ec2::254]/",
            "https://[fd00:ec2::1]/",
            "https://[fd20:ce::254]/",
            "https://168.63.129.16/",
            "https://[64:ff9b::168.63.129.16]/",
            "https://240.0.0.1/",
            "https://100.100.100.200/",
            "https://[fe80::1]/",
            "https://224.0.0.1/",
            "https://[ff02::1]/",
            "https://255.255.255.255/",
            "https://localhost/",
            "https://LOCALHOST./",
            "https://x.localhost/",
        ] {
            assert!(matches!(vet(bad, true), Err(UnfitRelay::Near(_))), "{bad}");
            assert!(matches!(vet(bad, false), Err(UnfitRelay::Near(_))), "{bad}");
        }
        for loopback in [
            "https://127.0.0.1/",
            "https://127.1.2.3:7/",
            "https://0177.1/",
            "https://2130706433/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::127.0.0.1]/",
        ] {
            assert!(
                matches!(vet(loopback, false), Err(UnfitRelay::Near(_))),
                "{loopback}"
            );
            assert_eq!(vet(loopback, true), Ok(()), "{loopback}");
        }
        assert!(matches!(
            vet("http://10.0.0.1/", true),
            Err(UnfitRelay::Plain(_))
        ));
        for good in [
            "https://relay.example.org/",
            "https://localhost.example.org/",
            "https://203.0.113.1/",
            "https://10.0.0.1/",
            "https://100.64.0.1/",
            "https://[fd00:1::1]/",
            "https://[2001:db8::1]/",
        ] {
            assert_eq!(vet(good, false), Ok(()), "{good}");
        }
    }

    #[tokio::test]
    async fn a_name_of_this_machine_is_resolved_for_configured_hosts_only() {
        // In /etc/hosts everywhere; no name server is asked.
        let resolve = |pins: Pins| async move {
            let resolver = DnsResolver::custom(VettingResolver::new(pins));
            let found = resolver.lookup_ipv4("localhost", LOOKUP_MAX).await;
            found
                .map(|found| found.collect::<Vec<_>>())
                .unwrap_or_default()
        };
        assert_eq!(resolve(Pins::default()).await, Vec::<IpAddr>::new());
        let pins = Pins::default();
        pins.configure(["https://localhost/".parse().unwrap()].iter());
        assert_eq!(resolve(pins).await, [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    }

    #[tokio::test]
    async fn the_own_relay_is_found_without_asking_anybody() {
        let vetting = VettingResolver::new(Pins::default());
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let host = "relay.invalid".to_owned();
        vetting.set_own(Some(OwnName { host, ip }));
        let resolver = DnsResolver::custom(vetting);
        let found = resolver
            .lookup_ipv4("Relay.invalid.", LOOKUP_MAX)
            .await
            .unwrap();
        assert_eq!(found.collect::<Vec<_>>(), [ip]);
    }
}
