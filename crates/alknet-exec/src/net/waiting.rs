//! Connections that came to a listener and were not taken yet.

use super::{Owner, carry::Breaking};
use alknet_core::Permit;
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{net::TcpStream, sync::OwnedSemaphorePermit};

/// One that waits; reset when it is dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    stream: Breaking,
    pub(super) from: SocketAddr,
    /// The right to listen there, and where: whoever loses it loses what came.
    pub(super) permit: Arc<Permit>,
    pub(super) bound: Arc<str>,
    /// Its place among those that wait for the same caller.
    _place: OwnedSemaphorePermit,
}

impl Waiting {
    pub(super) fn new(
        stream: TcpStream,
        from: SocketAddr,
        permit: Arc<Permit>,
        bound: Arc<str>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            stream: Breaking::new(stream),
            from,
            permit,
            bound,
            _place: place,
        }
    }

    pub(super) fn into_stream(self) -> Breaking {
        self.stream
    }
}

/// All that wait, by the secret that was told to the caller of the listener.
#[derive(Debug, Default)]
pub(super) struct WaitingRoom(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    listeners: HashMap<Owner, usize>,
    connections: HashMap<String, (Owner, u64, Waiting)>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WaitingRoom {
    /// A place for a listener, unless its caller has `most` already.
    pub(super) fn enter(&self, owner: Owner, most: usize) -> Option<Listener> {
        let mut state = self.0.lock();
        let held = state.listeners.entry(owner.clone()).or_default();
        if *held >= most {
            return None;
        }
        *held += 1;
        Some(Listener {
            room: self.0.clone(),
            id: self.0.next.fetch_add(1, Ordering::Relaxed),
            owner,
        })
    }

    /// Takes a connection, if it waits for this caller.
    pub(super) fn take(&self, owner: &Owner, connection: &str) -> Option<Waiting> {
        let mut state = self.0.lock();
        let (whose, _, _) = state.connections.get(connection)?;
        if whose != owner {
            return None;
        }
        state
            .connections
            .remove(connection)
            .map(|(_, _, waiting)| waiting)
    }

    pub(super) fn listeners(&self) -> usize {
        self.0.lock().listeners.values().sum()
    }
}

/// A listener's place. When it goes, what waits for it is reset.
#[derive(Debug)]
pub(super) struct Listener {
    room: Arc<Shared>,
    id: u64,
    owner: Owner,
}

impl Listener {
    /// Lets a connection wait; answers with its secret.
    pub(super) fn admit(&self, waiting: Waiting) -> String {
        let secret = format!("{:032x}", rand::random::<u128>());
        let entry = (self.owner.clone(), self.id, waiting);
        self.room.lock().connections.insert(secret.clone(), entry);
        secret
    }

    /// Resets one that was not taken.
    pub(super) fn expire(&self, connection: &str) {
        self.room.lock().connections.remove(connection);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut state = self.room.lock();
        state.connections.retain(|_, (_, id, _)| *id != self.id);
        if let Some(held) = state.listeners.get_mut(&self.owner) {
            *held -= 1;
            if *held == 0 {
                state.listeners.remove(&self.owner);
            }
        }
    }
}
