//! `alknet/find/1`: two peers bring each other to the newest records of the
//! nodes that they both know.
//!
//! One stream. The side that opened it asks; the other asks in turn and
//! offers what was asked for; the first offers, ends its half, and waits until
//! the other has stored what it took. An ask names nodes by tags that only
//! members of a network who know the node can make, each with the newest
//! record known of it, so that nothing is sent twice, and nobody is told of
//! nodes that it does not know.

use super::{
    Finder,
    network::{NetworkId, NodeTag},
    record::{RECORD_BYTES_MAX, RecordError},
};
use crate::admission::QuicHandler;
use alknet_call::{connection_code, quic::QuicConnection};
use alknet_core::{
    Caller, PeerId,
    transport::{BiStream, Connection},
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};

/// The protocol's name on the wire.
pub(crate) const ALPN: &[u8] = b"alknet/find/1";
/// Time for a whole exchange.
pub(crate) const EXCHANGE_MAX: Duration = Duration::from_secs(15);
/// Nodes that an ask names at most, over all its networks.
pub(crate) const WANTS_MAX: usize = 4096;
/// Records in an offer; what is left over comes with the next exchange.
pub(crate) const OFFER_RECORDS_MAX: usize = 64;
/// Most bytes of an ask.
const ASK_BYTES_MAX: usize = WANTS_MAX * 32;
/// Most bytes of an offer.
const OFFER_BYTES_MAX: usize = OFFER_RECORDS_MAX * (RECORD_BYTES_MAX + 32);
/// Exchanges that a peer may open at once, and then one a second.
const EXCHANGES_BURST: u32 = 20;
/// Peers whose rates are remembered.
const RATES_KEPT: usize = 4096;

/// What one side wants to know (postcard, after its length).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ask {
    pub(crate) networks: Vec<Wanted>,
    /// Fields of later releases: an unknown even id refuses the ask, an
    /// unknown odd one is ignored.
    ext: Vec<(u16, Vec<u8>)>,
}

/// What one side wants to know in one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wanted {
    pub(crate) network: NetworkId,
    /// Nodes, each with the sequence of the newest record known of it.
    pub(crate) newer_than: Vec<(NodeTag, u64)>,
}

/// What the other side wanted to know (postcard, after its length).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Offer {
    /// Sealed records, each of one network.
    pub(crate) records: Vec<(NetworkId, Vec<u8>)>,
    ext: Vec<(u16, Vec<u8>)>,
}

impl Ask {
    pub(crate) fn new(networks: Vec<Wanted>) -> Self {
        Self {
            networks,
            ext: Vec::new(),
        }
    }

    /// Reads what another node sent.
    pub(crate) fn parse(bytes: &[u8]) -> io::Result<Self> {
        let ask: Self = decode(bytes)?;
        let wants: usize = ask.networks.iter().map(|one| one.newer_than.len()).sum();
        if wants > WANTS_MAX || ask.networks.len() > super::network::NETWORKS_MAX {
            return Err(io::Error::other("it asks for too much"));
        }
        known_fields(&ask.ext)?;
        Ok(ask)
    }
}

impl Offer {
    pub(crate) fn new(records: Vec<(NetworkId, Vec<u8>)>) -> Self {
        Self {
            records,
            ext: Vec::new(),
        }
    }

    /// Reads what another node sent.
    pub(crate) fn parse(bytes: &[u8]) -> io::Result<Self> {
        let offer: Self = decode(bytes)?;
        if offer.records.len() > OFFER_RECORDS_MAX {
            return Err(io::Error::other("it offers too much"));
        }
        known_fields(&offer.ext)?;
        Ok(offer)
    }
}

fn known_fields(ext: &[(u16, Vec<u8>)]) -> io::Result<()> {
    match ext.iter().any(|(id, _)| id % 2 == 0) {
        true => Err(io::Error::other("it has a field that must be known")),
        false => Ok(()),
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok(_) => Err(io::Error::other("bytes are left over")),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// What an exchange brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exchanged {
    /// Records that were new here.
    pub(crate) taken: u64,
    /// More than fits into one exchange was wanted.
    pub(crate) unfinished: bool,
}

/// Opens an exchange over a connection to a peer.
pub(crate) async fn open(finder: &Finder, connection: &QuicConnection) -> io::Result<Exchanged> {
    let exchange = async {
        let opened = connection.open_bi().await;
        let mut stream = opened.map_err(io::Error::other)?;
        write(&mut stream, &finder.ask()).await?;
        let ask = Ask::parse(&read(&mut stream.recv, ASK_BYTES_MAX).await?)?;
        let offer = Offer::parse(&read(&mut stream.recv, OFFER_BYTES_MAX).await?)?;
        let (answer, unfinished) = finder.offer(&ask);
        write(&mut stream, &answer).await?;
        stream.send.finish();
        let taken = take(finder, offer).await?;
        // Its end says that the other side has stored what it took.
        let left = stream.recv.read_to_end(&mut Vec::new()).await?;
        match left {
            0 => Ok(Exchanged { taken, unfinished }),
            _ => Err(io::Error::other("bytes follow the offer")),
        }
    };
    let exchanged = timeout(EXCHANGE_MAX, exchange).await;
    // However it ended: a peer that does not answer is left.
    connection.close(connection_code::DONE, "done");
    exchanged?
}

async fn answer(finder: &Finder, stream: &mut BiStream) -> io::Result<Exchanged> {
    let ask = Ask::parse(&read(&mut stream.recv, ASK_BYTES_MAX).await?)?;
    let (offer, unfinished) = finder.offer(&ask);
    write(stream, &finder.ask()).await?;
    write(stream, &offer).await?;
    let offer = Offer::parse(&read(&mut stream.recv, OFFER_BYTES_MAX).await?)?;
    let taken = take(finder, offer).await?;
    stream.send.finish();
    Ok(Exchanged { taken, unfinished })
}

/// Takes what counts; what does not is named in the log and harms nothing.
async fn take(finder: &Finder, offer: Offer) -> io::Result<u64> {
    let mut taken = 0;
    // One of each node: whoever offers many has made them up.
    let mut nodes = HashSet::new();
    for (network, sealed) in offer.records {
        match finder.accept(&network, &sealed, &mut nodes).await {
            Ok(()) => taken += 1,
            // Somebody else was faster.
            Err(RecordError::Old) => {}
            Err(RecordError::NotKept) => return Err(io::Error::other(RecordError::NotKept)),
            Err(cause) => tracing::debug!(%cause, "an address record was refused"),
        }
    }
    Ok(taken)
}

async fn write<T: Serialize>(stream: &mut BiStream, message: &T) -> io::Result<()> {
    let bytes = postcard::to_stdvec(message).map_err(io::Error::other)?;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.send.write_all(&length.to_be_bytes()).await?;
    stream.send.write_all(&bytes).await
}

async fn read(recv: &mut (impl AsyncRead + Unpin), most: usize) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    recv.read_exact(&mut length).await?;
    let length = u32::from_be_bytes(length) as usize;
    if length > most {
        return Err(io::Error::other(format!("longer than {most} bytes")));
    }
    let mut bytes = Vec::new();
    // Grows with what arrives, not with what was announced.
    recv.take(length as u64).read_to_end(&mut bytes).await?;
    match bytes.len() == length {
        true => Ok(bytes),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// How often each peer opens exchanges.
#[derive(Default)]
struct Rates(Mutex<HashMap<PeerId, (u32, Instant)>>);

impl Rates {
    /// Whether one more is within the rate.
    fn take(&self, peer: &PeerId) -> bool {
        let now = Instant::now();
        let mut rates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if rates.len() >= RATES_KEPT {
            let full = Duration::from_secs(EXCHANGES_BURST.into());
            rates.retain(|_, (_, since)| now.duration_since(*since) < full);
        }
        let (left, since) = rates.entry(peer.clone()).or_insert((EXCHANGES_BURST, now));
        let earned = u32::try_from(now.duration_since(*since).as_secs()).unwrap_or(u32::MAX);
        if earned > 0 {
            *left = left.saturating_add(earned).min(EXCHANGES_BURST);
            *since = now;
        }
        match left.checked_sub(1) {
            Some(fewer) => {
                *left = fewer;
                true
            }
            None => false,
        }
    }
}

/// The side that is asked.
pub(crate) struct FindHandler {
    pub(crate) finder: Arc<Finder>,
    rates: Rates,
}

impl FindHandler {
    pub(crate) fn new(finder: Arc<Finder>) -> Self {
        Self {
            finder,
            rates: Rates::default(),
        }
    }
}

#[async_trait]
impl QuicHandler for FindHandler {
    async fn serve(&self, connection: QuicConnection, caller: Caller) {
        if !self.rates.take(caller.id()) {
            return connection.close(connection_code::LIMIT, "too many exchanges");
        }
        let told_until = self.finder.generation();
        let exchange = async {
            let accepted = connection.accept_bi().await;
            let mut stream = accepted.map_err(io::Error::other)?;
            let exchanged = answer(&self.finder, &mut stream).await?;
            // The side that opened it closes, once it has read everything.
            connection.closed().await;
            Ok::<_, io::Error>(exchanged)
        };
        match timeout(EXCHANGE_MAX, exchange).await {
            Ok(Ok(exchanged)) => self.finder.told(caller.id(), told_until, exchanged),
            Ok(Err(cause)) => {
                tracing::debug!(peer = %caller.id(), %cause, "an exchange of records ended early");
                connection.close(connection_code::LIMIT, "not an exchange of records");
            }
            Err(_) => connection.close(connection_code::LIMIT, "too slow"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_ask_is_within_its_limits() {
        let wants = |count: usize, networks: usize| {
            let one = |n: usize| Wanted {
                network: [0; 16],
                newer_than: vec![([7; 16], u64::MAX); if n == 0 { count } else { 0 }],
            };
            let ask = Ask::new((0..networks).map(one).collect());
            postcard::to_stdvec(&ask).unwrap()
        };
        let largest = wants(WANTS_MAX, 8);
        assert!(largest.len() <= ASK_BYTES_MAX, "{}", largest.len());
        assert!(Ask::parse(&largest).is_ok());
        assert!(Ask::parse(&wants(WANTS_MAX + 1, 8)).is_err());
        assert!(Ask::parse(&wants(1, 9)).is_err());
        assert!(Ask::parse(&[&wants(1, 1)[..], &[0]].concat()).is_err());
    }

    #[test]
    fn an_offer_is_within_its_limits() {
        let offer = |count: usize| {
            let records = vec![([0; 16], vec![7; RECORD_BYTES_MAX]); count];
            postcard::to_stdvec(&Offer::new(records)).unwrap()
        };
        let largest = offer(OFFER_RECORDS_MAX);
        assert!(largest.len() <= OFFER_BYTES_MAX, "{}", largest.len());
        assert!(Offer::parse(&largest).is_ok());
        assert!(Offer::parse(&offer(OFFER_RECORDS_MAX + 1)).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_opens_twenty_exchanges_and_then_one_a_second() {
        let (rates, peer) = (Rates::default(), PeerId::parse("laptop").unwrap());
        for _ in 0..EXCHANGES_BURST {
            assert!(rates.take(&peer));
        }
        assert!(!rates.take(&peer));
        assert!(rates.take(&PeerId::parse("phone").unwrap()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(rates.take(&peer));
        assert!(!rates.take(&peer));
    }
}
