//! One peer's link: its connections, and what is known of its path.

use super::{
    report::{LinkReport, LinkState, PATH_CHANGES_KEPT, Packets, PathChange, PathEnd, Traffic},
    tally::Tally,
};
use crate::{quic::QuicConnection, session::Session};
use alknet_core::{PeerId, storage::Timestamp};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub(super) struct Attached {
    pub(super) session: Arc<Session>,
    pub(super) quic: QuicConnection,
    pub(super) carries_channels: bool,
    pub(super) tally: Arc<Tally>,
}

pub(super) struct LinkInner {
    pub(super) sessions: Vec<Attached>,
    pub(super) state: LinkState,
    pub(super) since: Timestamp,
    pub(super) last_error: Option<String>,
    /// The path that calls took last.
    pub(super) path: Option<PathEnd>,
    pub(super) path_changes: u64,
    pub(super) changes: VecDeque<PathChange>,
    /// Of connections that have ended.
    pub(super) past: Traffic,
}

/// One peer's link.
pub(crate) struct Link {
    pub(crate) peer: PeerId,
    pub(super) inner: Mutex<LinkInner>,
    /// Counts changes of the set of sessions.
    pub(crate) sessions_changed: watch::Sender<u64>,
    pub(super) wake: Notify,
    pub(super) supervised: Mutex<bool>,
    pub(crate) gone: CancellationToken,
    /// Held while a connection for channels is dialled; when that last failed.
    pub(super) channels_failed: tokio::sync::Mutex<Option<Instant>>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LinkInner {
    /// The newest live connection, for calls or for channels.
    pub(super) fn live(&self, carries_channels: bool) -> Option<&Attached> {
        let mut newest_first = self.sessions.iter().rev();
        newest_first.find(|attached| {
            attached.carries_channels == carries_channels && !attached.session.is_closed()
        })
    }
}

impl Link {
    /// The newest live session for calls.
    pub(crate) fn session(&self) -> Option<Arc<Session>> {
        let inner = lock(&self.inner);
        inner.live(false).map(|attached| attached.session.clone())
    }

    pub(super) fn channel_session(&self) -> Option<Arc<Session>> {
        let inner = lock(&self.inner);
        inner.live(true).map(|attached| attached.session.clone())
    }

    pub(super) async fn wait_until_alone(&self) {
        let mut changes = self.sessions_changed.subscribe();
        while self.session().is_some() && changes.changed().await.is_ok() {}
    }

    /// Notes which path calls take; whether it is another than before.
    pub(super) fn note_path(&self, now: Timestamp) -> bool {
        let mut inner = lock(&self.inner);
        let Some(to) = inner.live(false).and_then(|live| live.quic.selected()) else {
            return false;
        };
        if inner.path.as_ref() == Some(&to) {
            return false;
        }
        let before = inner.path.replace(to.clone());
        if let Some(from) = before {
            inner.path_changes += 1;
            inner.changes.push_back(PathChange { at: now, from, to });
            if inner.changes.len() > PATH_CHANGES_KEPT {
                inner.changes.pop_front();
            }
        }
        true
    }

    pub(super) fn report(&self) -> LinkReport {
        let inner = lock(&self.inner);
        let live = inner.live(false);
        let (mut traffic, mut recent) = (inner.past, Packets::default());
        let mut paths = Vec::new();
        for attached in &inner.sessions {
            let total = attached.tally.total(&attached.quic);
            recent += attached.tally.recent(total.packets);
            traffic += total;
            let carries_channels = attached.carries_channels;
            paths.extend(attached.quic.paths().into_iter().map(|mut path| {
                path.carries_channels = carries_channels;
                path
            }));
        }
        LinkReport {
            state: if live.is_some() {
                LinkState::Connected
            } else {
                inner.state
            },
            since: inner.since,
            path: live.and_then(|attached| attached.quic.path()),
            last_error: inner.last_error.clone(),
            paths,
            connections: inner.sessions.len(),
            traffic,
            recent,
            path_changes: inner.path_changes,
            changes: inner.changes.iter().cloned().collect(),
        }
    }
}
