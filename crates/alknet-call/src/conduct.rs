//! What the other side of a connection does that a well-behaved one does not:
//! told to whoever decides who is let in.

use alknet_core::transport::ConnectionInfo;
use std::{fmt, sync::Arc, time::Duration};

/// Told of what other sides do wrong. Every method is called while something
/// waits for it: it returns at once.
pub trait Watch: Send + Sync + 'static {
    /// Something that it said broke the protocol.
    fn malformed(&self, connection: &ConnectionInfo);

    /// Asked before a credential in its `Hello` is looked at: how long it has
    /// to wait for that, if it does.
    fn must_wait(&self, connection: &ConnectionInfo) -> Option<Duration>;

    /// The credential in its `Hello` resolved to nobody.
    fn presented_wrong(&self, connection: &ConnectionInfo);
}

/// Somebody who watches, or nobody. Clones share it.
#[derive(Clone, Default)]
pub struct Watched(Option<Arc<dyn Watch>>);

impl Watched {
    /// Watched by this.
    #[must_use]
    pub fn by(watch: Arc<dyn Watch>) -> Self {
        Self(Some(watch))
    }

    pub(crate) fn malformed(&self, connection: &ConnectionInfo) {
        if let Some(watch) = &self.0 {
            watch.malformed(connection);
        }
    }

    pub(crate) fn must_wait(&self, connection: &ConnectionInfo) -> Option<Duration> {
        self.0.as_ref()?.must_wait(connection)
    }

    pub(crate) fn presented_wrong(&self, connection: &ConnectionInfo) {
        if let Some(watch) = &self.0 {
            watch.presented_wrong(connection);
        }
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_watched = self.0.is_some();
        f.debug_tuple("Watched").field(&is_watched).finish()
    }
}
