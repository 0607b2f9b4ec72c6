//! Connections for callers: `net/dial` opens one from this node, `net/listen`
//! waits for them here, and `net/accept` hands over one that came.
//!
//! Where a connection goes is vetted: a name is resolved once, by this node,
//! every address that it has is asked for at the door, and only an address
//! that passed is connected to. So a name that answers differently the second
//! time, or an IPv6 address that stands for an IPv4 one, gains nothing.

mod accept;
mod carry;
mod config;
mod connect;
mod dial;
mod errors;
mod listen;
mod waiting;

pub use self::{
    carry::{Carried, CarryError, carry},
    config::{NetConfig, NetConfigError},
    connect::{Connect, Resolve},
    listen::bind,
};
use self::{
    connect::{SystemConnector, SystemResolver},
    waiting::WaitingRoom,
};
use alknet_core::{CallerKind, Context, PeerId, Registration};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Opens connections and listens for callers, within the limits of one
/// [`NetConfig`]. Cheap to clone; all clones share the limits.
#[derive(Clone)]
pub struct Net(Arc<Inner>);

struct Inner {
    config: NetConfig,
    resolver: Box<dyn Resolve>,
    connector: Box<dyn Connect>,
    waiting: WaitingRoom,
    connections: Arc<AtomicUsize>,
}

/// Whose a listener is.
type Owner = (CallerKind, PeerId);

fn owner(cx: &Context) -> Owner {
    let caller = cx.principal();
    (caller.kind(), caller.id().clone())
}

impl Net {
    /// Resolves names and connects as the system does.
    ///
    /// # Errors
    ///
    /// [`NetConfigError`] names the field that is wrong.
    pub fn new(config: NetConfig) -> Result<Self, NetConfigError> {
        Self::with(config, SystemResolver::default(), SystemConnector)
    }

    /// Resolves names and connects in another way, behind the same vetting.
    ///
    /// # Errors
    ///
    /// As [`Net::new`].
    pub fn with(
        config: NetConfig,
        resolver: impl Resolve,
        connector: impl Connect,
    ) -> Result<Self, NetConfigError> {
        config.check()?;
        Ok(Self(Arc::new(Inner {
            config,
            resolver: Box::new(resolver),
            connector: Box::new(connector),
            waiting: WaitingRoom::default(),
            connections: Arc::default(),
        })))
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &NetConfig {
        &self.0.config
    }

    /// Connections that are carried now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.0.connections.load(Ordering::Relaxed)
    }

    /// Sockets that listen now.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.0.waiting.listeners()
    }

    /// Counts a connection until what it returns is dropped.
    fn count(&self) -> Counted {
        self.0.connections.fetch_add(1, Ordering::Relaxed);
        Counted(self.0.connections.clone())
    }
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Net")
            .field("connections", &self.connections())
            .field("listeners", &self.listeners())
            .finish_non_exhaustive()
    }
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The operations with which callers use the network of this node: `net/dial`,
/// `net/listen` and `net/accept`.
#[must_use]
pub fn net_operations(net: &Net) -> Vec<Registration> {
    vec![
        dial::operation(net),
        listen::operation(net),
        accept::operation(net),
    ]
}
