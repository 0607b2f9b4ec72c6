//! Offers of files from this node to another one: what a caller of both hands
//! from one to the other, so that the bytes go between the two alone.
//!
//! An offer lives in memory, is known by a secret of 256 random bits, is for
//! the key of one node, and stands for what its maker may read: that is asked
//! again at every step.

use alknet_core::{
    CallError, ChannelCall, Context, ErrorCode, ErrorSpec, PeerId, Permit,
    files::{FileErrorCode, FilePath},
    storage::Timestamp,
};
use async_trait::async_trait;
use data_encoding::HEXLOWER;
use serde_json::Value;
use std::{
    collections::HashMap,
    fmt::{self, Debug},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

/// Most offers of a node.
pub const OFFERS_MAX: usize = 256;
/// Most offers of one caller.
pub const OFFERS_PER_CALLER_MAX: usize = 64;
/// How long an offer may be taken at most.
pub const OFFER_EXPIRES_MAX: Duration = Duration::from_secs(3600);
/// How long an offer that nobody uses may be taken.
pub const OFFER_IDLE_MAX: Duration = Duration::from_secs(600);

/// No such offer, or not for who asks, or not any more: nobody learns which.
pub(super) const NO_SUCH_OFFER: &str = "NO_SUCH_OFFER";
/// The two nodes do not reach each other.
pub(super) const NOT_CONNECTED: &str = "NOT_CONNECTED";

/// What copies from node to node need of the node.
#[async_trait]
pub trait PeerFiles: Send + Sync + Debug + 'static {
    /// This node's public key.
    fn node_id(&self) -> [u8; 32];

    /// The wall time.
    fn now(&self) -> Timestamp;

    /// Opens a channel of an operation of another node over the link to it, as
    /// this node, on behalf of the call of `cx`; answers with the name that
    /// the other one has here. Does not wait for a link that is down.
    ///
    /// # Errors
    ///
    /// [`not_connected`] if the node is no peer, or not connected now; else
    /// what the other node says.
    async fn open(
        &self,
        cx: &Context,
        node: &[u8; 32],
        operation: &str,
        input: Value,
    ) -> Result<(PeerId, ChannelCall), CallError>;
}

/// The error of copies between nodes that do not reach each other.
#[must_use]
pub fn not_connected(node: &[u8; 32]) -> CallError {
    let short = HEXLOWER.encode(&node[..4]);
    let message = format!("this node is not connected to node `{short}…`, or it is no peer");
    CallError::domain(NOT_CONNECTED, message)
}

pub(super) fn not_connected_spec() -> ErrorSpec {
    ErrorSpec {
        http_status: 503,
        ..ErrorSpec::new(
            NOT_CONNECTED,
            "The node that offers is no peer of this one, or not connected now.",
        )
    }
}

pub(super) fn no_such_offer_spec() -> ErrorSpec {
    ErrorSpec {
        http_status: 404,
        ..ErrorSpec::new(
            NO_SUCH_OFFER,
            "There is no such offer: it is for another node, has expired, or was taken.",
        )
    }
}

pub(super) fn no_such_offer() -> CallError {
    CallError::domain(
        NO_SUCH_OFFER,
        "no such offer: it is for another node, has expired, or was taken",
    )
}

/// A file or a tree that one node may fetch.
pub(super) struct Offer {
    /// What is offered.
    pub(super) file: FilePath,
    /// What its maker may read.
    pub(super) read: Permit,
    /// What its maker may list, if a tree is offered.
    pub(super) list: Option<Permit>,
    /// The key of the node that may fetch it.
    pub(super) to: [u8; 32],
    /// Who made it.
    pub(super) maker: PeerId,
    /// From when on it cannot be taken, used or not.
    pub(super) until: Timestamp,
    used_at: AtomicI64,
    in_use: AtomicBool,
}

impl Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl Offer {
    pub(super) fn new(
        file: FilePath,
        (read, list): (Permit, Option<Permit>),
        (maker, to): (PeerId, [u8; 32]),
        (now, until): (Timestamp, Timestamp),
    ) -> Self {
        Self {
            file,
            read,
            list,
            to,
            maker,
            until,
            used_at: AtomicI64::new(now.0),
            in_use: AtomicBool::new(false),
        }
    }

    /// Whether it can still be taken, or is being used.
    fn is_alive(&self, now: Timestamp) -> bool {
        let idle_until = Timestamp(self.used_at.load(Ordering::Acquire)).plus(OFFER_IDLE_MAX);
        self.in_use.load(Ordering::Acquire) || (now < self.until && now < idle_until)
    }
}

/// The offers of a node.
#[derive(Debug, Default)]
pub(super) struct Offers(Mutex<HashMap<[u8; 32], Arc<Offer>>>);

impl Offers {
    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Arc<Offer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an offer; answers with its secret.
    ///
    /// # Errors
    ///
    /// `RATE_LIMITED` if there are too many.
    pub(super) fn put(&self, offer: Offer, now: Timestamp) -> Result<String, CallError> {
        let mut offers = self.lock();
        // What may not be read any more is no offer, whoever forgot it.
        offers.retain(|_, kept| kept.is_alive(now) && kept.read.caller().is_ok());
        let own = offers.values().filter(|kept| kept.maker == offer.maker);
        if offers.len() >= OFFERS_MAX || own.count() >= OFFERS_PER_CALLER_MAX {
            let message = "too many files are offered and were not fetched yet";
            return Err(CallError::new(ErrorCode::RateLimited, message)
                .with_retry_after(Duration::from_secs(10)));
        }
        let secret = HEXLOWER.encode(&rand::random::<[u8; 32]>());
        offers.insert(key_of(&secret), Arc::new(offer));
        Ok(secret)
    }

    /// Takes an offer for one use.
    ///
    /// # Errors
    ///
    /// `NO_SUCH_OFFER` also if it is for somebody else; `FILE_BUSY` if it is
    /// being used.
    pub(super) fn take(
        self: &Arc<Self>,
        secret: &str,
        by: &[u8; 32],
        peers: &Arc<dyn PeerFiles>,
    ) -> Result<Use, CallError> {
        let now = peers.now();
        let key = key_of(secret);
        let mut offers = self.lock();
        let found = offers.get(&key).filter(|offer| offer.to == *by).cloned();
        let offer = found.ok_or_else(no_such_offer)?;
        if !offer.is_alive(now) {
            offers.remove(&key);
            return Err(no_such_offer());
        }
        if offer.in_use.swap(true, Ordering::AcqRel) {
            let busy = FileErrorCode::FileBusy;
            return Err(
                CallError::domain(busy.as_str(), "the offer is being used at this moment")
                    .with_retryable(true),
            );
        }
        Ok(Use {
            offers: self.clone(),
            peers: peers.clone(),
            key,
            offer,
        })
    }
}

/// The map's key is no secret: whoever reads the memory of a dump finds what
/// offers are known by, and not what takes them.
fn key_of(secret: &str) -> [u8; 32] {
    *blake3::hash(secret.as_bytes()).as_bytes()
}

/// An offer that is being used.
#[derive(Debug)]
pub(super) struct Use {
    offers: Arc<Offers>,
    peers: Arc<dyn PeerFiles>,
    key: [u8; 32],
    offer: Arc<Offer>,
}

impl Use {
    pub(super) fn offer(&self) -> &Arc<Offer> {
        &self.offer
    }

    /// It was fetched whole: nobody takes it again.
    pub(super) fn fetched(&self) {
        self.offers.lock().remove(&self.key);
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let now = self.peers.now();
        self.offer.used_at.store(now.0, Ordering::Release);
        self.offer.in_use.store(false, Ordering::Release);
    }
}
