//! A machine in the lab.

use crate::{
    LabError,
    capture::Capture,
    lab::GATEWAY_V4,
    line::Line,
    netns::{Namespace, program},
};
use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};

/// Where a machine is: its addresses and the router that it sends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) v4: Ipv4Addr,
    pub(crate) v4_prefix: u8,
    pub(crate) v4_router: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
    pub(crate) v6_prefix: u8,
    pub(crate) v6_router: Ipv6Addr,
}

/// What its network offers it.
#[derive(Clone, Copy, Debug)]
struct Network {
    addresses: Addresses,
    has_v4: bool,
    has_v6: bool,
}

/// A command that runs in a network namespace of this name: see
/// [`Host::command`].
pub fn command_in(namespace: &str, program_name: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = program("ip");
    command.args(["netns", "exec", namespace]).arg(program_name);
    command
}

/// A machine with one interface, `eth0`. Clones are the same machine.
#[derive(Clone, Debug)]
pub struct Host {
    name: Arc<str>,
    namespace: Arc<Namespace>,
    network: Arc<Mutex<Network>>,
    /// Of a public host.
    line: Option<Arc<Line>>,
}

impl Host {
    /// Configures `eth0`, which is there already, and brings it up.
    pub(crate) fn start(
        name: &str,
        namespace: Arc<Namespace>,
        addresses: Addresses,
        has_v6: bool,
        line: Option<Arc<Line>>,
    ) -> Result<Self, LabError> {
        let host = Self {
            name: name.into(),
            namespace,
            network: Arc::new(Mutex::new(Network {
                addresses,
                has_v4: true,
                has_v6,
            })),
            line,
        };
        host.link_up()?;
        Ok(host)
    }

    /// The name that it was made with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of its network namespace, as `ip netns exec` takes it.
    pub fn namespace(&self) -> &str {
        self.namespace.name()
    }

    /// Its own IPv4 address, also while it has lost it: of a site behind a NAT
    /// a private one.
    pub fn v4(&self) -> Ipv4Addr {
        self.network().addresses.v4
    }

    /// Its own global IPv6 address, also while it has none.
    pub fn v6(&self) -> Ipv6Addr {
        self.network().addresses.v6
    }

    /// The router that it sends everything to, by IPv4 and by IPv6.
    pub fn routers(&self) -> [IpAddr; 2] {
        let Addresses {
            v4_router,
            v6_router,
            ..
        } = self.network().addresses;
        [v4_router.into(), v6_router.into()]
    }

    /// A command that runs in it, and resolves names with the lab's DNS server
    /// alone.
    ///
    /// `ip netns exec` becomes the program: the id and the signals of the
    /// process are the program's. What still runs when the lab is dropped is
    /// killed.
    pub fn command(&self, program_name: impl AsRef<std::ffi::OsStr>) -> Command {
        command_in(self.namespace(), program_name)
    }

    /// Runs `act` in a thread of this process that has stepped into it.
    ///
    /// Sockets that are made there stay there, and so do threads: a runtime
    /// that is built there works there to its end.
    ///
    /// # Errors
    ///
    /// [`LabError::Io`] if the lab has been removed.
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        self.namespace.enter(act)
    }

    /// Begins to note every packet that arrives at or leaves its interfaces,
    /// loopback too.
    ///
    /// # Errors
    ///
    /// [`LabError::Io`] if the kernel does not allow it.
    pub fn capture(&self) -> Result<Capture, LabError> {
        Capture::start(Arc::clone(&self.namespace))
    }

    /// Takes its interface down, as if somebody turned it off.
    ///
    /// # Errors
    ///
    /// [`LabError::Command`] if the lab has been removed.
    pub fn link_down(&self) -> Result<(), LabError> {
        self.namespace.ip("link set eth0 down\n")
    }

    /// Brings its interface up, with the addresses and routes that its network
    /// offers, and waits until its router answers.
    ///
    /// # Errors
    ///
    /// [`LabError::Command`] if the lab has been removed, [`LabError::Io`] if
    /// the router does not answer within 20 s.
    pub fn link_up(&self) -> Result<(), LabError> {
        let network = *self.network();
        self.namespace.ip("link set eth0 up\n")?;
        self.configure_v4(network)?;
        self.configure_v6(network)?;
        if network.has_v4 {
            self.namespace.reaches(network.addresses.v4_router)?;
        }
        Ok(())
    }

    /// Takes IPv4 away: its address and routes are gone.
    ///
    /// # Errors
    ///
    /// [`LabError::Command`] if the lab has been removed.
    pub fn lose_ipv4(&self) -> Result<(), LabError> {
        self.change(|network| network.has_v4 = false, Self::configure_v4)
    }

    /// Gives IPv4 back.
    ///
    /// # Errors
    ///
    /// [`LabError::Command`] if the lab has been removed.
    pub fn gain_ipv4(&self) -> Result<(), LabError> {
        self.change(|network| network.has_v4 = true, Self::configure_v4)
    }

    /// Takes IPv6 away.
    ///
    /// # Errors
    ///
    /// [`LabError::Io`] if the lab has been removed.
    pub fn lose_ipv6(&self) -> Result<(), LabError> {
        self.change(|network| network.has_v6 = false, Self::configure_v6)
    }

    /// Gives it a global IPv6 address, and a route to everywhere.
    ///
    /// # Errors
    ///
    /// [`LabError::Io`] if the lab has been removed.
    pub fn gain_ipv6(&self) -> Result<(), LabError> {
        self.change(|network| network.has_v6 = true, Self::configure_v6)
    }

    pub(crate) fn line(&self) -> Option<&Line> {
        self.line.as_deref()
    }

    pub(crate) fn own_namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Gives it other addresses.
    pub(crate) fn readdress(&self, addresses: Addresses) -> Result<(), LabError> {
        self.namespace.ip("addr flush dev eth0\n")?;
        self.network().addresses = addresses;
        self.link_up()
    }

    fn network(&self) -> std::sync::MutexGuard<'_, Network> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(
        &self,
        change: impl FnOnce(&mut Network),
        configure: impl FnOnce(&Self, Network) -> Result<(), LabError>,
    ) -> Result<(), LabError> {
        let network = {
            let mut network = self.network();
            change(&mut network);
            *network
        };
        configure(self, network)
    }

    fn configure_v4(&self, network: Network) -> Result<(), LabError> {
        if !network.has_v4 {
            // `-4` keeps what IPv6 has.
            return self
                .namespace
                .feed(&["ip", "-4", "-batch", "-"], "addr flush dev eth0\n");
        }
        let Addresses {
            v4,
            v4_prefix,
            v4_router,
            ..
        } = network.addresses;
        let mut lines = format!("addr replace {v4}/{v4_prefix} dev eth0\n");
        if v4_router == GATEWAY_V4 {
            let _ = writeln!(lines, "route replace {v4_router} dev eth0");
        }
        let _ = writeln!(lines, "route replace default via {v4_router} dev eth0");
        self.namespace.ip(&lines)
    }

    fn configure_v6(&self, network: Network) -> Result<(), LabError> {
        let disabled = if network.has_v6 { "0" } else { "1" };
        self.namespace
            .sysctls(&[("net/ipv6/conf/eth0/disable_ipv6", disabled)])?;
        if !network.has_v6 {
            return Ok(());
        }
        let Addresses {
            v6,
            v6_prefix,
            v6_router,
            ..
        } = network.addresses;
        self.namespace.ip(&format!(
            "addr replace {v6}/{v6_prefix} dev eth0 nodad\n\
             route replace default via {v6_router} dev eth0\n"
        ))
    }
}
