//! A lab: the internet, and what is connected to it.

use crate::{
    Host, LabError, Nat, Site,
    dns::Dns,
    host::Addresses,
    line::{self, Line},
    netns::{self, Namespace, Role},
    owner, rules,
    skip::skip,
    wire,
};
use std::{
    error::Error,
    net::{Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The internet's own address on every line.
pub(crate) const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The same for IPv6.
pub(crate) const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The number of the DNS server: 203.0.113.53 and 2001:db8::35.
const DNS_NUMBER: u8 = 53;
/// The number of the first site or host.
const NUMBER_MIN: u8 = 60;
/// The number of the last.
const NUMBER_MAX: u8 = 250;
/// Networks of public addresses for sites, of eight addresses each.
const PUBLIC_NETWORKS: u8 = 32;
/// The longest name, with what the lab adds to it: `-router`, `-carrier`.
const NAME_BYTES_MAX: usize = 32;

/// An internet of its own on this machine, with no way out.
///
/// Public addresses are of RFC 5737 and RFC 3849: hosts have 203.0.113.x and
/// 2001:db8::x, sites with public addresses 198.51.100.x. What is sent
/// anywhere else is lost without a word until there is a [`Lab::sink`]; what is
/// sent to a private address always is, as providers have it.
///
/// Everything lies in network namespaces with names that no other process
/// uses. Dropping the lab kills what still runs in them and removes them.
#[derive(Debug)]
pub struct Lab {
    shared: Arc<Shared>,
    sink: Mutex<Option<Host>>,
    dns: Mutex<Option<(Host, Dns)>>,
}

/// What sites need to grow.
#[derive(Debug)]
pub(crate) struct Shared {
    prefix: String,
    internet: Arc<Namespace>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Full names of namespaces.
    names: Vec<String>,
    next: u8,
    networks: u8,
    lines: Vec<Arc<Line>>,
}

impl Lab {
    /// A lab, unless this machine cannot have one: then `test` is counted as
    /// skipped, with the reason.
    pub fn open(test: &str) -> Option<Self> {
        match Self::new() {
            Ok(lab) => Some(lab),
            Err(error) => {
                let cause = error.source().map(|cause| format!(": {cause}"));
                skip(test, &format!("{error}{}", cause.unwrap_or_default()));
                None
            }
        }
    }

    /// A lab with nothing but the internet.
    ///
    /// # Errors
    ///
    /// [`LabError::Command`] or [`LabError::Io`] if this machine cannot have
    /// one: it takes Linux, root, and the programs `ip`, `tc` and `nft`.
    pub fn new() -> Result<Self, LabError> {
        owner::clean();
        let prefix = owner::prefix();
        let name = format!("{prefix}internet");
        let internet = Namespace::create(name.clone(), &resolver().to_string(), Role::Router);
        let internet = match internet.and_then(start_internet) {
            Ok(internet) => Arc::new(internet),
            Err(error) => {
                netns::remove(&[name]);
                return Err(error);
            }
        };
        let state = State {
            names: vec![name],
            next: NUMBER_MIN,
            networks: 0,
            lines: Vec::new(),
        };
        Ok(Self {
            shared: Arc::new(Shared {
                prefix,
                internet,
                state: Mutex::new(state),
            }),
            sink: Mutex::new(None),
            dns: Mutex::new(None),
        })
    }

    /// Adds a machine with public addresses of both families.
    ///
    /// # Errors
    ///
    /// [`LabError::Name`] if the name is no name or taken, [`LabError::Full`]
    /// beyond 191 sites and hosts.
    pub fn host(&self, name: &str) -> Result<Host, LabError> {
        let (index, _) = self.shared.number()?;
        self.public_host(name, index)
    }

    /// Adds a site: a router and a host `name` behind it.
    ///
    /// # Errors
    ///
    /// [`LabError::Name`] if the name is no name or taken, [`LabError::Full`]
    /// beyond 191 sites and hosts, or beyond 32 with public addresses.
    pub fn site(&self, name: &str, nat: Nat) -> Result<Site, LabError> {
        Site::build(&self.shared, name, nat)
    }

    /// Moves a public host to other addresses; nobody answers at the old ones.
    ///
    /// # Errors
    ///
    /// [`LabError::Value`] if it is no public host of this lab.
    pub fn renumber(&self, host: &Host) -> Result<(), LabError> {
        let line = host.line().ok_or_else(|| LabError::Value {
            what: "host",
            value: host.name().to_owned(),
            reason: "has no public address of its own",
        })?;
        let (index, _) = self.shared.number()?;
        let old = destinations(host.v4(), host.v6());
        let addresses = public(index);
        line.route(&destinations(addresses.v4, addresses.v6))?;
        line.unroute(&old)?;
        host.readdress(addresses)
    }

    /// The machine that gets every packet to an address that is nobody's, and
    /// refuses TCP and UDP there. It is made when it is first asked for.
    ///
    /// # Errors
    ///
    /// [`LabError::Command`] if the lab cannot grow.
    pub fn sink(&self) -> Result<Host, LabError> {
        let mut sink = lock(&self.sink);
        if let Some(sink) = sink.as_ref() {
            return Ok(sink.clone());
        }
        let (index, _) = self.shared.number()?;
        let made = self.public_host("sink", index)?;
        let namespace = made.own_namespace();
        // It answers for all addresses: whoever tries learns at once that
        // nobody is there.
        namespace.nft(
            "table inet nat {\n chain everything {\n  \
             type nat hook prerouting priority dstnat; policy accept;\n  \
             iifname \"eth0\" redirect\n }\n}\n",
        )?;
        let (v4, v6) = (made.v4(), made.v6());
        self.shared.internet.ip(&format!(
            "route replace default via {v4} dev line{index}\n\
             route replace default via {v6} dev line{index}\n"
        ))?;
        *sink = Some(made.clone());
        Ok(made)
    }

    /// The DNS server that every machine of the lab is told to use, made when
    /// it is first asked for. It knows no name at all. Until then questions
    /// are lost.
    ///
    /// # Errors
    ///
    /// [`LabError::Command`] if the lab cannot grow.
    pub fn dns(&self) -> Result<Host, LabError> {
        let mut dns = lock(&self.dns);
        if let Some((host, _)) = dns.as_ref() {
            return Ok(host.clone());
        }
        let host = self.public_host("dns", DNS_NUMBER)?;
        let server = Dns::start(&host)?;
        *dns = Some((host.clone(), server));
        Ok(host)
    }

    /// The machine in the middle: everything between two sites passes it.
    pub fn internet(&self) -> &str {
        self.shared.internet.name()
    }

    fn public_host(&self, name: &str, index: u8) -> Result<Host, LabError> {
        let shared = &self.shared;
        let namespace = Arc::new(shared.namespace(name, Role::Host)?);
        let line = shared.line(index, &namespace, "eth0")?;
        let addresses = public(index);
        line.route(&destinations(addresses.v4, addresses.v6))?;
        Host::start(name, namespace, addresses, true, Some(line))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        lock(&self.dns).take();
        let state = lock(&self.shared.state);
        for line in &state.lines {
            line.cut();
        }
        netns::remove(&state.names);
    }
}

impl Shared {
    /// A number that nobody else has, and the public address of that number.
    pub(crate) fn number(&self) -> Result<(u8, Ipv4Addr), LabError> {
        let mut state = lock(&self.state);
        let number = state.next;
        if number > NUMBER_MAX {
            return Err(LabError::Full {
                what: "public addresses",
            });
        }
        state.next += 1;
        Ok((number, public(number).v4))
    }

    /// A public network of eight addresses.
    pub(crate) fn public_network(&self) -> Result<Ipv4Addr, LabError> {
        let mut state = lock(&self.state);
        if state.networks == PUBLIC_NETWORKS {
            return Err(LabError::Full {
                what: "public networks",
            });
        }
        state.networks += 1;
        Ok(Ipv4Addr::new(198, 51, 100, (state.networks - 1) * 8))
    }

    /// A namespace of this lab.
    pub(crate) fn namespace(&self, name: &str, role: Role) -> Result<Namespace, LabError> {
        check(name)?;
        let full = format!("{}{name}", self.prefix);
        {
            let mut state = lock(&self.state);
            if state.names.contains(&full) {
                return Err(LabError::Name {
                    name: name.to_owned(),
                    reason: "is taken",
                });
            }
            // Before it is made: half-made ones are removed too.
            state.names.push(full.clone());
        }
        Namespace::create(full, &resolver().to_string(), role)
    }

    /// A line to a device of a namespace.
    pub(crate) fn line(
        &self,
        index: u8,
        far: &Namespace,
        device: &str,
    ) -> Result<Arc<Line>, LabError> {
        let line = Arc::new(Line::lay(&self.internet, index, far, device)?);
        lock(&self.state).lines.push(Arc::clone(&line));
        Ok(line)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The DNS server of the lab.
fn resolver() -> Ipv4Addr {
    public(DNS_NUMBER).v4
}

/// The addresses of the public host of this number.
fn public(number: u8) -> Addresses {
    Addresses {
        v4: Ipv4Addr::new(203, 0, 113, number),
        v4_prefix: 32,
        v4_router: GATEWAY_V4,
        v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()),
        v6_prefix: 128,
        v6_router: GATEWAY_V6,
    }
}

fn destinations(v4: Ipv4Addr, v6: Ipv6Addr) -> [String; 2] {
    [format!("{v4}/32"), format!("{v6}/128")]
}

/// Makes a namespace the internet: it forwards, and loses what is for nobody.
fn start_internet(namespace: Namespace) -> Result<Namespace, LabError> {
    check_means(&namespace)?;
    // Sites that lie behind a router are reached through it alone.
    namespace.ip("route add blackhole default metric 4000\n")?;
    namespace.ip("route add blackhole ::/0 metric 4000\n")?;
    // Providers carry no packets to private addresses (RFC 1918, RFC 6598).
    namespace.ip(
        "route add blackhole 10.0.0.0/8\nroute add blackhole 172.16.0.0/12\n\
         route add blackhole 192.168.0.0/16\nroute add blackhole 100.64.0.0/10\n",
    )?;
    Ok(namespace)
}

/// Tries everything that a site may need of this machine, so that a lab is
/// either whole or not there.
fn check_means(namespace: &Namespace) -> Result<(), LabError> {
    let checked = namespace.feed(&["nft", "--check", "-f", "-"], &rules::everything());
    // Not with the whole script, which is of no use to who reads of a skip.
    checked.map_err(|error| match error {
        LabError::Command { said, .. } => LabError::Command {
            command: "nft --check".into(),
            said: format!("rules of a router are refused or cannot be tried {said}"),
        },
        other => other,
    })?;
    line::set_rate(namespace, "lo", Some(line::Rate::parse("1gbit")?))?;
    line::set_rate(namespace, "lo", None)?;
    wire::check_device(namespace)
}

fn check(name: &str) -> Result<(), LabError> {
    let wrong = |reason| {
        Err(LabError::Name {
            name: name.to_owned(),
            reason,
        })
    };
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return wrong("is not 1 to 32 bytes long");
    }
    if !name
        .bytes()
        .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    {
        return wrong("has other characters than a to z, 0 to 9 and -");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_32_bytes_at_most() {
        assert!(check(&"a".repeat(32)).is_ok());
        assert!(check(&"a".repeat(33)).is_err());
        assert!(check("").is_err());
    }

    #[test]
    fn a_name_leads_to_no_other_directory() {
        for name in ["..", "a/b", "a.b", "A", "a b", "ä"] {
            assert!(check(name).is_err(), "{name}");
        }
    }
}
