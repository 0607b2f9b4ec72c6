//! How a link reaches its peer, and why it did not.

use crate::{limits::connection_code, quic::QuicConnection, session::SessionError};
use alknet_core::{
    Caller, PeerId, clean_foreign_text,
    storage::Timestamp,
    transport::{Connection, ConnectionClosed},
};
use async_trait::async_trait;

/// Characters of a foreign reason that are shown.
const REASON_CHARS_MAX: usize = 200;

/// Reaches a peer over the network.
#[async_trait]
pub trait Dialer: Send + Sync + 'static {
    /// Opens a connection for the call protocol, and says who the other side
    /// is when it calls back over it.
    async fn dial(&self, peer: &PeerId) -> Result<(QuicConnection, Caller), DialError>;

    /// Wall time, for display.
    fn now(&self) -> Timestamp;
}

/// Why a peer was not reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// Nothing is known of where it is.
    #[error("no address of peer `{0}` is known")]
    NoAddress(PeerId),
    /// It is no peer, or has no node key.
    #[error("peer `{0}` has no node key")]
    NoKey(PeerId),
    /// Its access is switched off or has ended.
    #[error("peer `{0}` is disabled, or its access has ended")]
    NotAllowed(PeerId),
    /// It is there, and does not speak this protocol.
    #[error("peer `{peer}` does not serve the protocol `{alpn}`")]
    NotServed {
        /// Whom.
        peer: PeerId,
        /// The ALPN that was asked for.
        alpn: String,
    },
    /// It is there, and does not let this node in.
    #[error("peer `{peer}` does not let this node in: {reason} (NOT_ADMITTED)")]
    NotAdmitted {
        /// Whom.
        peer: PeerId,
        /// What it said.
        reason: String,
    },
    /// The network did not get there.
    #[error("peer `{peer}` was not reached: {reason}")]
    Unreached {
        /// Whom.
        peer: PeerId,
        /// What the network said.
        reason: String,
    },
}

/// A connection that was dialled and is not used yet. Given up before it is,
/// it is closed: the other side would take it for a link.
pub(super) struct Unused(Option<QuicConnection>);

impl Unused {
    pub(super) fn new(connection: &QuicConnection) -> Self {
        Self(Some(connection.clone()))
    }

    /// It is used from here on.
    pub(super) fn used(mut self) {
        self.0 = None;
    }
}

impl Drop for Unused {
    fn drop(&mut self) {
        if let Some(connection) = &self.0 {
            connection.close(connection_code::DONE, "given up");
        }
    }
}

/// Why the other side ended a connection, if it does not want this node.
pub(super) fn refusal(closed: &ConnectionClosed) -> Option<String> {
    let name = match closed.code? {
        connection_code::NOT_ADMITTED => "NOT_ADMITTED",
        connection_code::UNAUTHENTICATED => "UNAUTHENTICATED",
        connection_code::LIMIT => "LIMIT",
        _ => return None,
    };
    let reason = clean_foreign_text(&closed.reason, REASON_CHARS_MAX);
    Some(format!("it does not let this node in: {reason} ({name})"))
}

/// Why two sides that met do not speak.
pub(super) fn not_begun(error: &SessionError) -> String {
    match error {
        SessionError::Closed(closed) => refusal(closed).unwrap_or_else(|| {
            let reason = clean_foreign_text(&closed.reason, REASON_CHARS_MAX);
            format!("{error}: {reason}")
        }),
        SessionError::Unauthenticated => "the credential is not known (UNAUTHENTICATED)".to_owned(),
        other => other.to_string(),
    }
}
