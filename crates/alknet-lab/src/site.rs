//! A network with a router between it and the internet.

use crate::{
    Host, LabError, conntrack,
    host::Addresses,
    lab::{GATEWAY_V4, GATEWAY_V6, Shared},
    line::{Line, Rate, set_rate},
    netns::{Namespace, Role},
    rules::{self, Impairments},
    wire,
};
use std::{
    net::{Ipv4Addr, Ipv6Addr},
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// What stands between a site and the internet.
///
/// IPv6 is never translated: behind every kind but `Open` a firewall lets in
/// answers only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Nat {
    /// A public address, and everybody may send to it.
    Open,
    /// A public address, and only answers get in.
    Firewall,
    /// One mapping for a socket, whatever it sends to, and only answers get
    /// in: what most home routers do (RFC 4787: endpoint-independent mapping,
    /// address and port-dependent filtering).
    Cone,
    /// Another mapping for every destination (RFC 4787: address and
    /// port-dependent mapping and filtering).
    Symmetric,
    /// A cone behind a cone: the home router's public address is one of the
    /// carrier's own (RFC 6598).
    CarrierGrade,
}

impl Nat {
    /// All kinds.
    pub const ALL: [Self; 5] = [
        Self::Open,
        Self::Firewall,
        Self::Cone,
        Self::Symmetric,
        Self::CarrierGrade,
    ];

    /// Its name: lowercase, with hyphens.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Firewall => "firewall",
            Self::Cone => "cone",
            Self::Symmetric => "symmetric",
            Self::CarrierGrade => "carrier-grade",
        }
    }

    /// The kind of this name, if there is one.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|nat| nat.name() == name)
    }

    pub(crate) fn keeps_state(self) -> bool {
        self != Self::Open
    }

    pub(crate) fn translates(self) -> bool {
        matches!(self, Self::Cone | Self::Symmetric | Self::CarrierGrade)
    }
}

/// A site: a router and a host behind it, which a site dereferences to. It has
/// IPv4 only until [`Host::gain_ipv6`]. Clones are the same site.
///
/// What is done to its line is done between its router and the internet, each
/// way, and holds until it is changed.
#[derive(Clone, Debug)]
pub struct Site {
    host: Host,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    lab: Arc<Shared>,
    nat: Nat,
    /// The router of the site.
    router: Namespace,
    /// The carrier's own router.
    carrier: Option<Namespace>,
    line: Arc<Line>,
    /// Addresses on the LAN: the network's number, and how hosts are numbered.
    lan: Lan,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    public: Ipv4Addr,
    impairments: Impairments,
    rebound: usize,
    hosts: u8,
    machines: Vec<Host>,
}

/// The network behind a router.
#[derive(Clone, Copy, Debug)]
struct Lan {
    v4: Ipv4Addr,
    prefix: u8,
    index: u8,
}

impl Lan {
    /// The address of a machine; the router is the first.
    fn v4(self, machine: u8) -> Ipv4Addr {
        let [a, b, c, d] = self.v4.octets();
        Ipv4Addr::new(a, b, c, d + machine)
    }

    fn v6(self, machine: u8) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, self.index.into(), 0, 0, 0, 0, machine.into())
    }

    fn network(self) -> String {
        format!("{}/{}", self.v4, self.prefix)
    }

    fn addresses(self, machine: u8) -> Addresses {
        Addresses {
            v4: self.v4(machine),
            v4_prefix: self.prefix,
            v4_router: self.v4(1),
            v6: self.v6(machine),
            v6_prefix: 64,
            v6_router: self.v6(1),
        }
    }

    /// How many machines fit beside the router.
    fn machines_max(self) -> u8 {
        if self.prefix == 29 { 5 } else { 200 }
    }
}

/// The link-local address of a router towards the internet.
const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

impl Site {
    pub(crate) fn build(lab: &Arc<Shared>, name: &str, nat: Nat) -> Result<Self, LabError> {
        let (index, public) = lab.number()?;
        let lan = match nat {
            Nat::Open | Nat::Firewall => Lan {
                v4: lab.public_network()?,
                prefix: 29,
                index,
            },
            _ => Lan {
                v4: Ipv4Addr::new(192, 168, index, 0),
                prefix: 24,
                index,
            },
        };
        let router = lab.namespace(&format!("{name}-router"), Role::Router)?;
        let carrier = match nat {
            Nat::CarrierGrade => Some(lab.namespace(&format!("{name}-carrier"), Role::Router)?),
            _ => None,
        };
        let edge = carrier.as_ref().unwrap_or(&router);
        let line = lab.line(index, edge, "wan")?;
        let mut inner = Inner {
            lab: Arc::clone(lab),
            nat,
            router,
            carrier,
            line,
            lan,
            state: Mutex::new(State {
                public,
                impairments: Impairments::default(),
                rebound: 0,
                hosts: 1,
                machines: Vec::new(),
            }),
        };
        inner.start_routers(public)?;
        let host = inner.add_host(name)?;
        Ok(Self {
            host,
            inner: Arc::new(inner),
        })
    }

    /// The host behind the router.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// What stands between it and the internet.
    pub fn nat(&self) -> Nat {
        self.inner.nat
    }

    /// The address that others see: of the NAT, or the host's own.
    pub fn public_v4(&self) -> Ipv4Addr {
        if self.inner.nat.translates() {
            self.inner.state().public
        } else {
            self.host.v4()
        }
    }

    /// Adds a machine to the network behind the router: 200 fit, behind a
    /// public address 5.
    ///
    /// # Errors
    ///
    /// [`LabError::Name`] if the name is no name or taken, [`LabError::Full`]
    /// if no more fit.
    pub fn add_host(&self, name: &str) -> Result<Host, LabError> {
        self.inner.add_host(name)
    }

    /// Drops all UDP, both ways.
    ///
    /// # Errors
    ///
    /// [`LabError::Command`] if the lab has been removed.
    pub fn block_udp(&self) -> Result<(), LabError> {
        self.impair(|now| now.udp_blocked = true)
    }

    /// Lets UDP pass again.
    ///
    /// # Errors
    ///
    /// [`LabError::Command`] if the lab has been removed.
    pub fn allow_udp(&self) -> Result<(), LabError> {
        self.impair(|now| now.udp_blocked = false)
    }

    /// Loses this many of a hundred packets by chance, each way; 0 is none.
    ///
    /// # Errors
    ///
    /// [`LabError::Value`] beyond 100.
    pub fn loss(&self, percent: u32) -> Result<(), LabError> {
        if percent > 100 {
            return Err(LabError::Value {
                what: "loss",
                value: percent.to_string(),
                reason: "is more than 100 percent",
            });
        }
        if percent > 0 {
            // The kernel hands on many packets of a sender as one: they would
            // all be lost at once.
            self.inner.line.segment()?;
            let machines = self.inner.state().machines.clone();
            machines.iter().try_for_each(segment)?;
        }
        self.impair(|now| now.loss_percent = percent)
    }

    /// Loses everything beyond the router, without a word: the host's own
    /// interface stays as it is.
    ///
    /// # Errors
    ///
    /// [`LabError::Command`] if the lab has been removed.
    pub fn outage(&self) -> Result<(), LabError> {
        self.impair(|now| now.outage = true)
    }

    /// Ends an outage.
    ///
    /// # Errors
    ///
    /// [`LabError::Command`] if the lab has been removed.
    pub fn restore(&self) -> Result<(), LabError> {
        self.impair(|now| now.outage = false)
    }

    /// Bounds the line to a rate, as `50mbit`, each way, with a queue of 50 ms
    /// before it.
    ///
    /// # Errors
    ///
    /// [`LabError::Value`] if the text is no rate from `8kbit` to `10gbit`.
    pub fn rate(&self, rate: &str) -> Result<(), LabError> {
        self.set_rate(Some(Rate::parse(rate)?))
    }

    /// Takes the bound away.
    ///
    /// # Errors
    ///
    /// [`LabError::Command`] if the lab has been removed.
    pub fn unlimit(&self) -> Result<(), LabError> {
        self.set_rate(None)
    }

    /// Delays every packet this long each way, so that a round trip takes twice
    /// as long more; zero is none.
    ///
    /// # Errors
    ///
    /// [`LabError::Value`] beyond 10 s.
    pub fn delay(&self, delay: Duration) -> Result<(), LabError> {
        self.delay_with_jitter(delay, Duration::ZERO)
    }

    /// Delays every packet by `delay` and up to `jitter` more by chance, each
    /// way; packets overtake each other.
    ///
    /// # Errors
    ///
    /// [`LabError::Value`] beyond 10 s.
    pub fn delay_with_jitter(&self, delay: Duration, jitter: Duration) -> Result<(), LabError> {
        wire::check(delay)?;
        wire::check(jitter)?;
        let line = &self.inner.line;
        let slow = !(delay.is_zero() && jitter.is_zero());
        if line.slow(slow)? {
            self.inner.edge().reaches(GATEWAY_V4)?;
        }
        line.delay(delay, jitter);
        Ok(())
    }

    /// Bounds the size of packets on the line, in bytes with the IP header.
    ///
    /// Both ends say so to the sender of what is too large and must not be cut
    /// (RFC 1191, RFC 8201). 1500 is where it was.
    ///
    /// # Errors
    ///
    /// [`LabError::Value`] if it is not from 1280, below which there is no
    /// IPv6, to 1500.
    pub fn mtu(&self, mtu: u32) -> Result<(), LabError> {
        if !(1280..=1500).contains(&mtu) {
            return Err(LabError::Value {
                what: "mtu",
                value: mtu.to_string(),
                reason: "is not from 1280 to 1500",
            });
        }
        self.inner.line.mtu(mtu)?;
        self.inner.edge().ip(&format!("link set wan mtu {mtu}\n"))
    }

    /// Makes the NAT forget every mapping and choose other ports for the next.
    ///
    /// # Errors
    ///
    /// [`LabError::NoNat`] if the site has none.
    pub fn rebind(&self) -> Result<(), LabError> {
        let inner = &self.inner;
        self.translates()?;
        let rebound = {
            let mut state = inner.state();
            state.rebound += 1;
            state.rebound
        };
        let script = rules::mappings(inner.nat, &inner.behind_edge(), rebound);
        inner.edge().nft(&script)?;
        conntrack::flush(inner.edge())
    }

    /// Gives the NAT another public address; its mappings are gone with the
    /// old one, at which nobody answers any more.
    ///
    /// # Errors
    ///
    /// [`LabError::NoNat`] if the site has none, [`LabError::Full`] if there
    /// are no more addresses.
    pub fn renumber(&self) -> Result<(), LabError> {
        let inner = &self.inner;
        self.translates()?;
        let (_, next) = inner.lab.number()?;
        let old = std::mem::replace(&mut inner.state().public, next);
        inner.edge().ip(&format!(
            "addr add {next}/32 dev wan\naddr del {old}/32 dev wan\n\
             route replace {GATEWAY_V4} dev wan\nroute replace default via {GATEWAY_V4} dev wan\n"
        ))?;
        inner.line.route(&[format!("{next}/32")])?;
        inner.line.unroute(&[format!("{old}/32")])?;
        conntrack::flush(inner.edge())
    }

    /// Makes the router forget a UDP conversation after this many seconds of
    /// silence; the kernel's own times are 30 and, once both sides have spoken,
    /// 120.
    ///
    /// # Errors
    ///
    /// [`LabError::Value`] if it is zero.
    pub fn udp_timeout(&self, seconds: u32) -> Result<(), LabError> {
        if seconds == 0 {
            return Err(LabError::Value {
                what: "timeout",
                value: "0".into(),
                reason: "is no time",
            });
        }
        let seconds = seconds.to_string();
        let timeouts = [
            ("net/netfilter/nf_conntrack_udp_timeout", seconds.as_str()),
            ("net/netfilter/nf_conntrack_udp_timeout_stream", &seconds),
        ];
        let routers = [Some(&self.inner.router), self.inner.carrier.as_ref()];
        routers
            .into_iter()
            .flatten()
            .try_for_each(|router| router.sysctls(&timeouts))
    }

    fn translates(&self) -> Result<(), LabError> {
        if self.inner.nat.translates() {
            return Ok(());
        }
        Err(LabError::NoNat {
            site: self.host.name().to_owned(),
        })
    }

    fn set_rate(&self, rate: Option<Rate>) -> Result<(), LabError> {
        self.inner.line.rate(rate)?;
        set_rate(self.inner.edge(), "wan", rate)
    }

    fn impair(&self, change: impl FnOnce(&mut Impairments)) -> Result<(), LabError> {
        let mut state = self.inner.state();
        let mut impairments = state.impairments;
        change(&mut impairments);
        self.inner.edge().nft(&rules::impair(impairments))?;
        state.impairments = impairments;
        Ok(())
    }
}

impl Deref for Site {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

impl Inner {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The router at the internet's end.
    fn edge(&self) -> &Namespace {
        self.carrier.as_ref().unwrap_or(&self.router)
    }

    /// What the router at the internet's end translates.
    fn behind_edge(&self) -> String {
        match self.nat {
            Nat::CarrierGrade => format!("100.64.{}.0/24", self.lan.index),
            _ => self.lan.network(),
        }
    }

    fn start_routers(&mut self, public: Ipv4Addr) -> Result<(), LabError> {
        let Lan { index, prefix, .. } = self.lan;
        let (inside, inside_v6) = (self.lan.v4(1), self.lan.v6(1));
        // A router asks for the neighbour of a packet that it forwards from its
        // link-local address; without one it does not ask at all.
        self.router.ip(&format!(
            "link add lan type bridge mcast_snooping 0\n\
             link set lan address 02:00:5e:00:01:{index:02x} addrgenmode none\n\
             addr add {inside}/{prefix} dev lan\n\
             addr add {inside_v6}/64 dev lan nodad\n\
             addr add fe80::1/64 dev lan nodad\n\
             link set lan up\n"
        ))?;
        if let Some(carrier) = &self.carrier {
            let router = self.router.name();
            carrier.ip(&format!(
                "link add lan type veth peer name wan netns {router}\n\
                 link set lan addrgenmode none\n\
                 addr add 100.64.{index}.1/24 dev lan\n\
                 addr add fe80::1/64 dev lan nodad\n\
                 link set lan up\n\
                 route add 2001:db8:{index:x}::/64 via {ROUTER_V6} dev lan\n"
            ))?;
            let shared = Ipv4Addr::new(100, 64, index, 2);
            let gateway = Ipv4Addr::new(100, 64, index, 1);
            connect(&self.router, shared, 24, gateway)?;
            self.router.reaches(gateway)?;
            self.router
                .nft(&rules::router(self.nat, &self.lan.network()))?;
        }
        connect(self.edge(), public, 32, GATEWAY_V4)?;
        self.edge()
            .nft(&rules::router(self.nat, &self.behind_edge()))?;
        let mut destinations = vec![
            format!("{public}/32"),
            format!("2001:db8:{index:x}::/64 via {ROUTER_V6}"),
        ];
        if !self.nat.translates() {
            destinations.push(format!("{} via {public}", self.lan.network()));
        }
        // A gateway must be reachable when a route names it.
        self.line.route(&destinations)?;
        self.edge().reaches(GATEWAY_V4)
    }

    fn add_host(&self, name: &str) -> Result<Host, LabError> {
        let mut state = self.state();
        if state.hosts > self.lan.machines_max() {
            return Err(LabError::Full {
                what: "addresses in this site",
            });
        }
        let machine = state.hosts + 1;
        let namespace = Arc::new(self.lab.namespace(name, Role::Host)?);
        self.router.ip(&format!(
            "link add lan{machine} type veth peer name eth0 netns {}\n\
             link set lan{machine} master lan addrgenmode none\n\
             link set lan{machine} up\n",
            namespace.name()
        ))?;
        let host = Host::start(name, namespace, self.lan.addresses(machine), false, None)?;
        if state.impairments.loss_percent > 0 {
            segment(&host)?;
        }
        state.hosts = machine;
        state.machines.push(host.clone());
        Ok(host)
    }
}

/// Makes a host send large writes packet by packet.
fn segment(host: &Host) -> Result<(), LabError> {
    host.own_namespace().ip("link set eth0 gso_max_segs 1\n")
}

/// Gives a router its way to the internet through `wan`.
fn connect(
    router: &Namespace,
    address: Ipv4Addr,
    prefix: u8,
    gateway: Ipv4Addr,
) -> Result<(), LabError> {
    router.ip(&format!(
        "link set wan addrgenmode none\n\
         addr add {address}/{prefix} dev wan\n\
         addr add {ROUTER_V6}/64 dev wan nodad\n\
         link set wan up\n\
         route replace {gateway} dev wan\n\
         route add default via {gateway} dev wan\n\
         route add default via {GATEWAY_V6} dev wan\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nat_is_found_by_its_name() {
        for nat in Nat::ALL {
            assert_eq!(Nat::parse(nat.name()), Some(nat));
        }
        assert_eq!(Nat::parse("full-cone"), None);
    }
}
