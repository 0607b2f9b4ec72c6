//! What is told about a link.

use crate::quic::PathReport;
use alknet_core::{PeerId, storage::Timestamp};

/// Changes of the path that a link remembers.
pub const PATH_CHANGES_KEPT: usize = 8;

/// What a link is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Calls go through.
    Connected,
    /// Being dialled.
    Connecting,
    /// Dialled again after a delay.
    Waiting,
    /// Nobody dials: the other side may.
    Idle,
}

impl LinkState {
    /// As listed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            LinkState::Connected => "connected",
            LinkState::Connecting => "connecting",
            LinkState::Waiting => "waiting",
            LinkState::Idle => "idle",
        }
    }
}

/// Packets that this node sent, and how many of them the other side did not
/// acknowledge in time (RFC 9002, section 6). Probes for a larger packet size
/// are not counted: most are meant to be lost. What the other side sends and
/// this one does not get is known to the other side only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packets {
    /// Sent.
    pub sent: u64,
    /// Declared lost.
    pub lost: u64,
}

impl Packets {
    /// Share of the packets that were lost, 0 to 1; `None` if none was sent.
    #[must_use]
    pub fn loss(self) -> Option<f64> {
        (self.sent > 0).then(|| self.lost as f64 / self.sent as f64)
    }

    /// What came on top since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            sent: self.sent.saturating_sub(before.sent),
            lost: self.lost.saturating_sub(before.lost),
        }
    }
}

impl std::ops::AddAssign for Packets {
    fn add_assign(&mut self, more: Self) {
        self.sent += more.sent;
        self.lost += more.lost;
    }
}

/// What travelled: bytes of UDP payloads or of what a relay carried instead,
/// encryption and acknowledgements included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Of the bytes sent and received, those that went through a relay.
    pub bytes_relayed: u64,
    /// Packets sent and lost.
    pub packets: Packets,
}

impl Traffic {
    /// Share of the bytes that went through a relay, 0 to 1; `None` before
    /// the first byte.
    #[must_use]
    pub fn relay_share(&self) -> Option<f64> {
        let all = self.bytes_sent + self.bytes_received;
        // The two are read one after the other, while packets go on.
        (all > 0).then(|| (self.bytes_relayed as f64 / all as f64).min(1.0))
    }
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, more: Self) {
        self.bytes_sent += more.bytes_sent;
        self.bytes_received += more.bytes_received;
        self.bytes_relayed += more.bytes_relayed;
        self.packets += more.packets;
    }
}

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathEnd {
    /// Straight to the peer, not through a relay.
    pub is_direct: bool,
    /// A socket address, or a relay's URL.
    pub address: String,
}

/// A link's calls went over to another path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathChange {
    /// When.
    pub at: Timestamp,
    /// The path before. It may have ended some time before.
    pub from: PathEnd,
    /// The path since.
    pub to: PathEnd,
}

/// A link as shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkReport {
    /// What it is doing.
    pub state: LinkState,
    /// Since when.
    pub since: Timestamp,
    /// How calls reach the peer.
    pub path: Option<PathReport>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// Every open path of every connection of the link.
    pub paths: Vec<PathReport>,
    /// Open connections: one for calls, one for channels; for a while after
    /// both sides dialled at once, one more.
    pub connections: usize,
    /// What went over all connections of the link, ended ones too, since this
    /// node started.
    pub traffic: Traffic,
    /// Packets of about the last minute, on the connections that are open.
    pub recent: Packets,
    /// How often calls went over to another path since this node started. The
    /// first path is no change; a path after a loss of the connection is one
    /// if it is another than before.
    pub path_changes: u64,
    /// The last of them, oldest first, [`PATH_CHANGES_KEPT`] at most.
    pub changes: Vec<PathChange>,
}

/// Something happened to a link: another state, another reason, another path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkEvent {
    /// Whose link.
    pub peer: PeerId,
    /// How it is now.
    pub report: LinkReport,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_nothing_are_not_told() {
        assert_eq!(Packets::default().loss(), None);
        assert_eq!(Traffic::default().relay_share(), None);
    }

    #[test]
    fn shares_are_of_what_was_counted() {
        assert_eq!(Packets { sent: 8, lost: 2 }.loss(), Some(0.25));
        let mut traffic = Traffic {
            bytes_sent: 60,
            bytes_received: 20,
            bytes_relayed: 20,
            packets: Packets::default(),
        };
        assert_eq!(traffic.relay_share(), Some(0.25));
        traffic += traffic;
        assert_eq!((traffic.bytes_sent, traffic.bytes_relayed), (120, 40));
        // More may have been relayed by the time it is read.
        traffic.bytes_relayed = 1000;
        assert_eq!(traffic.relay_share(), Some(1.0));
    }

    #[test]
    fn packets_since_a_later_count_are_none() {
        let (few, many) = (Packets { sent: 1, lost: 0 }, Packets { sent: 5, lost: 2 });
        assert_eq!(many.since(few), Packets { sent: 4, lost: 2 });
        assert_eq!(few.since(many), Packets::default());
    }
}
